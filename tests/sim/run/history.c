/*
 * history.c - the history of all keys, and looks compared with it.
 */
#include "tests/sim/run/history.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct version {
    uint64_t lsn;
    const sim_write *write;
    uint32_t part;
} version;

typedef struct history {
    version *versions; /* ascending */
    uint32_t count, capacity;
} history;

struct sim_history {
    const sim_plan *plan;
    sim_write **writes; /* in the order in which they were first tried */
    uint32_t write_count, write_capacity;
    uint32_t *by_number; /* index + 1 */
    uint64_t floor_lsn;
    const char *floor_why;
    sim_look **looks;
    uint32_t look_count, look_capacity;
    sim_batch_seen *batches;
    uint32_t batch_count, batch_capacity;
    /* Made by index_writes(). */
    sim_write **sorted; /* the DONE ones by LSN */
    uint32_t sorted_count;
    history histories[SIM_KEYS_MAX];
};

#define NUMBERS (SIM_GENERATIONS_MAX * SIM_OPS_MAX)

static void *grow(void *items, uint32_t count, uint32_t *capacity, size_t item_bytes) {
    if (count < *capacity)
        return items;
    *capacity = *capacity ? 2 * *capacity : 16;
    items = realloc(items, *capacity * item_bytes);
    if (!items)
        abort();
    return items;
}

static void *must_calloc(size_t count, size_t bytes) {
    void *p = calloc(count, bytes);
    if (!p)
        abort();
    return p;
}

sim_history *sim_history_create(const sim_plan *p) {
    sim_history *m = must_calloc(1, sizeof *m);
    m->plan = p;
    m->by_number = must_calloc(NUMBERS, sizeof *m->by_number);
    return m;
}

static void look_free(sim_look *l) {
    free(l->sights);
    free(l);
}

void sim_history_forget_seen(sim_history *m) {
    while (m->look_count > 0)
        look_free(m->looks[--m->look_count]);
    m->batch_count = 0;
}

void sim_history_destroy(sim_history *m) {
    sim_history_forget_seen(m);
    for (uint32_t i = 0; i < m->write_count; i++)
        free(m->writes[i]);
    for (uint32_t i = 0; i < SIM_KEYS_MAX; i++)
        free(m->histories[i].versions);
    free(m->writes);
    free(m->by_number);
    free(m->looks);
    free(m->batches);
    free(m->sorted);
    free(m);
}

/* ---- writes ---- */

static sim_write *find_write(const sim_history *m, uint32_t number) {
    uint32_t at = number < NUMBERS ? m->by_number[number] : 0;
    return at ? m->writes[at - 1] : NULL;
}

sim_write *sim_history_write(sim_history *m, const sim_op *op) {
    sim_write *w = find_write(m, op->number);
    if (w)
        return w;
    w = must_calloc(1, sizeof *w);
    w->op = *op;
    w->fate = SIM_UNDER_WAY;
    m->writes = grow(m->writes, m->write_count, &m->write_capacity, sizeof *m->writes);
    m->writes[m->write_count++] = w;
    m->by_number[op->number] = m->write_count;
    return w;
}

void sim_history_must_survive(sim_history *m, uint64_t lsn, const char *why) {
    if (lsn > m->floor_lsn) {
        m->floor_lsn = lsn;
        m->floor_why = why;
    }
}

void sim_history_done(sim_history *m, sim_write *w, uint64_t last_lsn, bool durable) {
    if (last_lsn < w->op.part_count)
        sim_fail("write %u was answered with LSN %" PRIu64, w->op.number, last_lsn);
    w->fate = SIM_DONE;
    w->first_lsn = last_lsn - w->op.part_count + 1;
    if (durable)
        sim_history_must_survive(m, last_lsn, "a synchronous write was acknowledged");
}

static uint64_t last_lsn_of(const sim_write *w) {
    return w->first_lsn + w->op.part_count - 1;
}

void sim_history_all_durable(sim_history *m, const char *why) {
    for (uint32_t i = 0; i < m->write_count; i++)
        if (m->writes[i]->fate == SIM_DONE)
            sim_history_must_survive(m, last_lsn_of(m->writes[i]), why);
}

bool sim_history_each_under_way(sim_history *m, bool (*fn)(void *arg, sim_write *w), void *arg) {
    for (uint32_t i = 0; i < m->write_count; i++)
        if (m->writes[i]->fate == SIM_UNDER_WAY && !fn(arg, m->writes[i]))
            return false;
    return true;
}

void sim_history_free_batches(sim_history *m) {
    for (uint32_t i = 0; i < m->write_count; i++) {
        varve_batch_destroy(m->writes[i]->batch);
        m->writes[i]->batch = NULL;
    }
}

void sim_history_check_floor(const sim_history *m, uint64_t lsn) {
    if (lsn < m->floor_lsn)
        sim_fail("lost: the database goes up to LSN %" PRIu64 ", but %" PRIu64 " was durable: %s", lsn,
                 m->floor_lsn, m->floor_why);
}

void sim_history_recovered(sim_history *m, uint64_t lsn) {
    sim_history_check_floor(m, lsn);
    for (uint32_t i = 0; i < m->write_count; i++) {
        sim_write *w = m->writes[i];
        if (w->fate != SIM_DONE || last_lsn_of(w) <= lsn)
            continue;
        if (w->first_lsn <= lsn)
            sim_fail("batch %u has the LSNs %" PRIu64 " to %" PRIu64 ", and the database ends at %" PRIu64,
                     w->op.number, w->first_lsn, last_lsn_of(w), lsn);
        w->fate = SIM_LOST;
    }
}

/* ---- the history ---- */

static int by_lsn(const void *a, const void *b) {
    uint64_t x = (*(sim_write *const *)a)->first_lsn, y = (*(sim_write *const *)b)->first_lsn;
    return (x > y) - (x < y);
}

/* All that is done, by LSN and by key. */
static void index_writes(sim_history *m) {
    free(m->sorted);
    m->sorted = must_calloc(m->write_count + 1, sizeof(sim_write *));
    m->sorted_count = 0;
    for (uint32_t i = 0; i < m->write_count; i++)
        if (m->writes[i]->fate == SIM_DONE)
            m->sorted[m->sorted_count++] = m->writes[i];
    qsort(m->sorted, m->sorted_count, sizeof *m->sorted, by_lsn);
    for (uint32_t i = 0; i < SIM_KEYS_MAX; i++)
        m->histories[i].count = 0;
    for (uint32_t i = 0; i < m->sorted_count; i++) {
        const sim_write *w = m->sorted[i];
        if (i > 0 && last_lsn_of(m->sorted[i - 1]) >= w->first_lsn)
            sim_fail("writes %u and %u were both answered with LSN %" PRIu64, m->sorted[i - 1]->op.number,
                     w->op.number, w->first_lsn);
        for (uint32_t k = 0; k < w->op.part_count; k++) {
            history *h = &m->histories[w->op.parts[k].key];
            h->versions = grow(h->versions, h->count, &h->capacity, sizeof *h->versions);
            h->versions[h->count++] = (version){.lsn = w->first_lsn + k, .write = w, .part = k};
        }
    }
}

void sim_history_check_contiguous(sim_history *m, uint64_t lsn) {
    uint64_t next = 1;
    index_writes(m);
    for (uint32_t i = 0; i < m->sorted_count && m->sorted[i]->first_lsn <= lsn; i++) {
        if (m->sorted[i]->first_lsn != next)
            sim_fail("nobody wrote LSN %" PRIu64 ": the next write that was answered is %u with %" PRIu64,
                     next, m->sorted[i]->op.number, m->sorted[i]->first_lsn);
        next = last_lsn_of(m->sorted[i]) + 1;
    }
    if (next <= lsn)
        sim_fail("nobody wrote LSN %" PRIu64 " and those up to %" PRIu64, next, lsn);
}

static const version *version_at(const sim_history *m, uint32_t key, uint64_t lsn) {
    const history *h = &m->histories[key];
    uint32_t low = 0, high = h->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (h->versions[middle].lsn <= lsn)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &h->versions[low - 1] : NULL;
}

typedef enum presence { ABSENT, PRESENT, EITHER } presence;

static presence presence_of(const version *v, uint64_t low_ms, uint64_t high_ms) {
    if (!v || v->write->op.parts[v->part].deleted)
        return ABSENT;
    uint64_t low = v->write->expires_low[v->part], high = v->write->expires_high[v->part];
    if (high == 0 || low > high_ms)
        return PRESENT;
    return high <= low_ms ? ABSENT : EITHER;
}

/* ---- looks ---- */

sim_look *sim_history_look(sim_history *m, uint32_t op_number) {
    sim_look *l = must_calloc(1, sizeof *l);
    l->op = op_number;
    m->looks = grow(m->looks, m->look_count, &m->look_capacity, sizeof *m->looks);
    m->looks[m->look_count++] = l;
    return l;
}

void sim_look_add(sim_look *l, const sim_sight *s) {
    l->sights = grow(l->sights, l->count, &l->capacity, sizeof *l->sights);
    l->sights[l->count++] = *s;
}

void sim_look_drop(sim_history *m, sim_look *l) {
    uint32_t i = 0;
    while (m->looks[i] != l)
        i++;
    m->looks[i] = m->looks[--m->look_count];
    look_free(l);
}

void sim_history_batch_seen(sim_history *m, const sim_batch_seen *b) {
    m->batches = grow(m->batches, m->batch_count, &m->batch_capacity, sizeof *m->batches);
    m->batches[m->batch_count++] = *b;
}

void sim_history_identify(const sim_history *m, uint32_t key, const void *value, size_t bytes,
                          sim_sight *out) {
    static uint8_t expected[SIM_VALUE_BYTES_MAX];
    if (bytes < SIM_VALUE_BYTES_MIN)
        sim_fail("key %u has a value of %zu bytes: nobody wrote that", key, bytes);
    memcpy(&out->op, value, 4);
    memcpy(&out->part, (const uint8_t *)value + 4, 4);
    const sim_write *w = find_write(m, out->op);
    if (!w || out->part >= w->op.part_count || w->op.parts[out->part].key != key ||
        w->op.parts[out->part].deleted)
        sim_fail("key %u has a value that says it is of write %u, part %u: nobody wrote that", key, out->op,
                 out->part);
    sim_value_fill(expected, w->op.parts[out->part].value_bytes, out->op, out->part);
    if (bytes != w->op.parts[out->part].value_bytes || memcmp(value, expected, bytes) != 0)
        sim_fail("key %u has another value than write %u, part %u gave it", key, out->op, out->part);
}

static bool fits_version(const sim_sight *s, const version *v, uint64_t low_ms, uint64_t high_ms) {
    presence p = presence_of(v, low_ms, high_ms);
    if (s->lsn == 0)
        return p != PRESENT;
    if (p == ABSENT || v->lsn != s->lsn)
        return false;
    return s->op == SIM_VALUE_UNSEEN || (v->write->op.number == s->op && v->part == s->part &&
                                         s->expires_unix_ms >= v->write->expires_low[v->part] &&
                                         s->expires_unix_ms <= v->write->expires_high[v->part]);
}

/* The first sight that is not of the state at lsn; NULL: all are. */
static const sim_sight *misfit(const sim_history *m, const sim_look *l, uint64_t lsn) {
    for (uint32_t i = 0; i < l->count; i++)
        if (!fits_version(&l->sights[i], version_at(m, l->sights[i].key, lsn), l->low_ms, l->high_ms))
            return &l->sights[i];
    return NULL;
}

static void fail_look(const sim_history *m, const sim_look *l, const sim_sight *s) {
    for (uint32_t i = 0; i < m->histories[s->key].count; i++) {
        const version *v = &m->histories[s->key].versions[i];
        if (v->lsn + 40 < l->low_lsn)
            continue;
        const sim_part *part = &v->write->op.parts[v->part];
        sim_note("  key %u at LSN %" PRIu64 ": %s by write %u, part %u, expires %" PRIu64 " to %" PRIu64,
                 s->key, v->lsn, part->deleted ? "deleted" : "put", v->write->op.number, v->part,
                 v->write->expires_low[v->part], v->write->expires_high[v->part]);
    }
    if (s->lsn == 0)
        sim_fail("operation %u did not see key %u; LSNs %" PRIu64 " to %" PRIu64 ", %" PRIu64 " to %" PRIu64
                 " ms",
                 l->op, s->key, l->low_lsn, l->high_lsn, l->low_ms, l->high_ms);
    sim_fail("operation %u saw key %u at LSN %" PRIu64 " as write %u, part %u left it, expiring %" PRIu64
             "; LSNs %" PRIu64 " to %" PRIu64 ", %" PRIu64 " to %" PRIu64 " ms",
             l->op, s->key, s->lsn, s->op, s->part, s->expires_unix_ms, l->low_lsn, l->high_lsn, l->low_ms,
             l->high_ms);
}

static void check_look(const sim_history *m, const sim_look *l) {
    const sim_sight *first = NULL;
    for (uint64_t lsn = l->low_lsn; lsn <= l->high_lsn; lsn++) {
        const sim_sight *s = misfit(m, l, lsn);
        if (!s)
            return;
        if (!first)
            first = s;
    }
    fail_look(m, l, first);
}

/* ---- batches of a log cursor ---- */

uint64_t sim_ops_digest(uint64_t digest, uint32_t key, bool deleted, uint32_t op, uint32_t part) {
    return sim_mix(digest, key * 2 + deleted, deleted ? 0 : (uint64_t)op << 8 | part);
}

static uint64_t digest_of(const sim_write *w) {
    uint64_t digest = 0;
    for (uint32_t i = 0; i < w->op.part_count; i++)
        digest = sim_ops_digest(digest, w->op.parts[i].key, w->op.parts[i].deleted, w->op.number, i);
    return digest;
}

static void check_batch(const sim_history *m, const sim_batch_seen *b) {
    uint32_t low = 0, high = m->sorted_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (m->sorted[middle]->first_lsn < b->first_lsn)
            low = middle + 1;
        else
            high = middle;
    }
    const sim_write *w = low < m->sorted_count ? m->sorted[low] : NULL;
    if (!w || w->first_lsn != b->first_lsn || last_lsn_of(w) != b->last_lsn)
        sim_fail("a log cursor gave a batch with the LSNs %" PRIu64 " to %" PRIu64 ": nobody wrote that",
                 b->first_lsn, b->last_lsn);
    uint64_t client_id = w->op.named ? w->op.client + 1 : 0;
    if (digest_of(w) != b->digest || b->client_id != client_id ||
        b->sequence != (client_id ? w->op.number + 1 : 0))
        sim_fail("a log cursor gave the batch of LSN %" PRIu64 " otherwise than write %u had it",
                 b->first_lsn, w->op.number);
}

/* ---- requirements ---- */

static void check_requirement(const sim_history *m, const sim_write *w) {
    const version *v = version_at(m, w->required_key, w->first_lsn - 1);
    bool deleted = !v || v->write->op.parts[v->part].deleted;
    bool expires = v && v->write->expires_high[v->part] != 0;
    bool held = true;
    switch (w->requirement) {
    case SIM_ANYTHING: return;
    case SIM_ABSENT: held = deleted || expires; break;
    case SIM_LSN: held = !deleted && v->lsn == w->required_lsn; break;
    case SIM_VALUE:
        held = !deleted && v->write->op.number == w->required_op && v->part == w->required_part;
        break;
    }
    if (!held)
        sim_fail("write %u was applied at LSN %" PRIu64 ", although its condition on key %u did not hold",
                 w->op.number, w->first_lsn, w->required_key);
}

uint64_t sim_history_check_seen(sim_history *m) {
    index_writes(m);
    for (uint32_t i = 0; i < m->look_count; i++)
        check_look(m, m->looks[i]);
    for (uint32_t i = 0; i < m->batch_count; i++)
        check_batch(m, &m->batches[i]);
    for (uint32_t i = 0; i < m->sorted_count; i++)
        check_requirement(m, m->sorted[i]);
    uint64_t count = m->look_count + m->batch_count;
    sim_history_forget_seen(m);
    return count;
}
