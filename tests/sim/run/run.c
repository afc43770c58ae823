/*
 * run.c - the life of a simulated database: opened, checked, used by several clients, cut off, opened again.
 *
 *   open --> recovered? --> clients at work --> close --> judge what was seen --> the disk after the cut
 *     |                          |                                                     |
 *     '---- the power may go, and operations may fail, at any of these ----------------+--> next generation
 *
 * When the power goes, the disk's image is taken between two I/Os; from then on all I/O fails, so that
 * clients and the database come to an end by themselves, as under a dying disk, and what they free is freed.
 *
 * What is judged
 *   - A status other than OK needs a reason: a fault that was injected, a full disk, the power.
 *   - After a crash the database is as it was after some LSN, at or above the floor (history.h); each write
 * that nobody knows the outcome of is tried again under its name, and was applied once, or not at all.
 *   - LSNs are contiguous; batches are whole; everything that was read is of one state.
 *   - Slots, cursors of the log and verify agree. At the end the directory has nothing that is not needed.
 *
 * All that is static here is touched by the thread that has the scheduler's token.
 */
#include "tests/sim/run/run.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sync.h"
#include "engine/db/db_impl.h"
#include "tests/sim/run/history.h"

#define DIR           "/db"
#define ASYNC_MAX     8
#define OTHERS        4 /* images of each crash that are only looked at */
#define FAR_FUTURE_MS UINT64_C(4000000000000)

typedef enum slot_state { SLOT_NONE, SLOT_THERE, SLOT_UNSURE } slot_state;

typedef struct sim_client {
    uint32_t number;
    pthread_t thread;
    varve_snapshot *snapshot;
    slot_state slot;
    uint64_t slot_lsn;          /* at most, if it is there */
    _Atomic uint32_t under_way; /* asynchronous calls */
} sim_client;

static struct {
    const sim_plan *plan;
    sim_figures *figures;
    bool verbose;
    sim_history *history;
    vv_sim_disk *disk;
    varve_db *db;
    sim_client clients[SIM_CLIENTS_MAX];
    uint32_t generation;
    bool recovering; /* until the recovered database was checked */
    bool ending;     /* clients stop */
    uint64_t epoch;  /* the highest that was begun for certain */
    bool slots_lose; /* one of them has lost the log that it held, or may have */
    /* What goes wrong. */
    vv_sim_plan faults;
    bool faults_on;
    bool flips_on;
    uint64_t flips, lies; /* on disks that are gone */
    sim_crash crash;
    bool crash_armed;
    uint32_t events_left;
    bool off;
    vv_sim_disk *image;
    vv_sim_disk *others[OTHERS]; /* what could have been left just as well */
    uint32_t other_count;
} sim;

/* ---- words ---- */

#define NOTES      200
#define NOTE_BYTES 240
static char notes[NOTES][NOTE_BYTES];
static uint64_t note_count;

void sim_note(const char *format, ...) {
    char *to = notes[note_count++ % NOTES];
    va_list args;
    va_start(args, format);
    vsnprintf(to, NOTE_BYTES, format, args);
    va_end(args);
    if (sim.verbose)
        fprintf(stderr, "%s\n", to);
}

void sim_fail(const char *format, ...) {
    va_list args;
    if (!sim.verbose)
        for (uint64_t i = note_count > 40 ? note_count - 40 : 0; i < note_count; i++)
            fprintf(stderr, "  %s\n", notes[i % NOTES]);
    fprintf(stderr, "FAILED in generation %u: ", sim.generation);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    fflush(NULL);
    _exit(3);
}

static void log_line(void *arg, varve_log_level level, const char *line) {
    (void)arg;
    (void)level;
    sim_note("      varve: %s", line);
    sim.slots_lose |= strstr(line, "loses its hold") || strstr(line, "old segments are not whole");
}

/* ---- the disk ---- */

static bool is_harmful(vv_sim_fault f) {
    return f != VV_SIM_FAULT_NONE && f != VV_SIM_FAULT_SHORT && f != VV_SIM_FAULT_EINTR &&
           f != VV_SIM_FAULT_LATENCY;
}

static vv_sim_fault on_event(void *arg, const vv_sim_event *e) {
    (void)arg;
    vv_sim_fault f = vv_sim_plan_fault(&sim.faults, e);
    bool lies = f == VV_SIM_FAULT_MISDIRECTED || f == VV_SIM_FAULT_LOST_WRITE;
    if (is_harmful(f) && (!sim.faults_on || ((lies || f == VV_SIM_FAULT_BIT_FLIP) && !sim.flips_on) ||
                          (lies && sim.generation + 1 != sim.plan->generations)))
        return VV_SIM_FAULT_NONE;
    if (is_harmful(f))
        sim_note("      %s: %s of %s at %" PRIu64, vv_sim_fault_name(f), vv_sim_op_name(e->op), e->path,
                 e->offset);
    return f;
}

/* What a crash now leaves, and what it could leave by other draws. */
static vv_sim_disk *take_images(const vv_sim_crash *how) {
    vv_sim_crash other = *how;
    for (sim.other_count = 0; sim.other_count < OTHERS; sim.other_count++) {
        other.survival = VV_SIM_SURVIVES_SOME;
        other.seed++;
        sim.others[sim.other_count] = vv_sim_disk_crash(sim.disk, &other);
    }
    return vv_sim_disk_crash(sim.disk, how);
}

static void after_event(void *arg, const vv_sim_event *e) {
    (void)arg;
    sim.figures->events++;
    if (!sim.crash_armed || sim.off || (sim.crash.ops && !(sim.crash.ops >> e->op & 1)) ||
        --sim.events_left > 0)
        return;
    sim_note("      the power goes behind event %" PRIu64 ", %s of %s; survives %d%s%s, sectors of %u",
             e->number, vv_sim_op_name(e->op), e->path, (int)sim.crash.how.survival,
             sim.crash.how.destroys ? ", destroys" : "", sim.crash.how.shows_stale ? ", shows stale" : "",
             sim.crash.how.sector_bytes);
    sim.image = take_images(&sim.crash.how);
    vv_sim_disk_power_off(sim.disk);
    sim.off = sim.ending = true;
    sim.figures->crashes++;
    sim.figures->crashes_in_open += sim.recovering;
}

static void set_hooks(void) {
    const vv_sim_hooks hooks = {
        .fault = on_event, .after = after_event, .point = vv_sched_point, .sleep_ns = vv_sched_sleep_ns};
    vv_sim_disk_set_hooks(sim.disk, &hooks);
    sim.faults = (vv_sim_plan){.seed = sim_mix(sim.plan->seed, sim.generation, 77 + sim.plan->salt)};
    for (uint32_t f = 1; f < VV_SIM_FAULT_COUNT; f++)
        if (sim.plan->faults >> f & 1)
            sim.faults.per_million[f] = sim.plan->per_million[f];
}

/* The disk is done with; `next` takes its place. */
static void replace_disk(vv_sim_disk *next_take) {
    for (uint32_t f = 0; f < VV_SIM_FAULT_COUNT; f++)
        sim.figures->faults[f] += vv_sim_disk_faults(sim.disk, (vv_sim_fault)f);
    sim.flips += vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_BIT_FLIP);
    sim.lies += vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_MISDIRECTED) +
                vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_LOST_WRITE);
    vv_sim_disk_destroy(sim.disk); /* aborts if a file is open */
    sim.disk = next_take;
}

/* ---- is there a reason? ---- */

static uint64_t has_lied(void) {
    return sim.lies + vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_MISDIRECTED) +
           vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_LOST_WRITE);
}

static bool excused(varve_status st) {
    uint64_t flips = sim.flips + vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_BIT_FLIP) + has_lied();
    uint64_t full = vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_ENOSPC);
    uint64_t broken =
        vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_EIO) + vv_sim_disk_faults(sim.disk, VV_SIM_FAULT_PARTIAL);
    switch (st.code) {
    case VARVE_CORRUPTION: return flips > 0;
    case VARVE_NO_SPACE: return full > 0 || sim.plan->capacity_bytes > 0;
    case VARVE_IO:
    case VARVE_WAL_FAILED: return sim.off || broken > 0 || full > 0 || sim.plan->capacity_bytes > 0;
    default: return false;
    }
}

/* True if it is OK; a status without a reason ends the run. */
static bool judge(varve_status st, const char *what, uint32_t number) {
    if (varve_ok(st))
        return true;
    if (!excused(st))
        sim_fail("%s of %u: %s, and nothing was wrong", what, number, varve_code_name(st.code));
    return false;
}

/* ---- writing ---- */

static bool is_single(const sim_write *w) {
    return w->op.kind == SIM_PUT || w->op.kind == SIM_DELETE;
}

static varve_write_options write_options(const sim_write *w) {
    varve_write_options o = {.durability = w->op.sync ? VARVE_DURABILITY_SYNC : VARVE_DURABILITY_ASYNC};
    if (w->op.named) {
        o.client_id = w->op.client + 1;
        o.sequence = w->op.number + 1;
    }
    return o;
}

static void set_expiries(sim_write *w) {
    uint64_t now_ms = vv_clock_unix_ms();
    for (uint32_t i = 0; i < w->op.part_count && !w->tried; i++) {
        uint64_t moment = 0;
        switch (w->op.parts[i].expiry) {
        case SIM_NEVER: break;
        case SIM_LONG_AGO: moment = 1; break;
        case SIM_FAR_AWAY: moment = FAR_FUTURE_MS; break;
        case SIM_SOON: moment = now_ms + 1 + w->op.random % 30; break;
        }
        w->expires_low[i] = w->expires_high[i] = moment;
    }
}

static varve_batch *make_batch(const sim_write *w) {
    static uint8_t value[SIM_VALUE_BYTES_MAX];
    char key[SIM_KEY_BYTES_MAX];
    varve_batch *b = varve_batch_create();
    varve_status st = {0};
    for (uint32_t i = 0; i < w->op.part_count && varve_ok(st); i++) {
        const sim_part *part = &w->op.parts[i];
        uint32_t key_bytes = sim_key_text(part->key, key);
        if (!part->deleted)
            sim_value_fill(value, part->value_bytes, w->op.number, i);
        st = part->deleted
                 ? varve_batch_delete(b, key, key_bytes)
                 : varve_batch_put_expiring(b, key, key_bytes, value, part->value_bytes, w->expires_low[i]);
    }
    uint32_t key_bytes = sim_key_text(w->required_key, key);
    if (varve_ok(st) && w->requirement == SIM_ABSENT)
        st = varve_batch_require_absent(b, key, key_bytes);
    if (varve_ok(st) && w->requirement == SIM_LSN)
        st = varve_batch_require_lsn(b, key, key_bytes, w->required_lsn);
    if (varve_ok(st) && w->requirement == SIM_VALUE) {
        sim_value_fill(value, w->required_value_bytes, w->required_op, w->required_part);
        st = varve_batch_require_value(b, key, key_bytes, value, w->required_value_bytes);
    }
    if (!varve_ok(st))
        sim_fail("batch %u: %s", w->op.number, varve_code_name(st.code));
    return b;
}

static void fail_condition(const sim_write *w, const varve_batch *b, uint64_t low_lsn, uint64_t low_ms) {
    bool held;
    sim_sight s = {.key = w->required_key, .op = SIM_VALUE_UNSEEN};
    if (w->requirement == SIM_ANYTHING || !varve_batch_condition(b, 0, &held, &s.lsn) || held)
        sim_fail("write %u: CONDITION_FAILED, and no condition did", w->op.number);
    sim_look *l = sim_history_look(sim.history, w->op.number);
    l->low_lsn = low_lsn;
    l->low_ms = low_ms;
    l->high_lsn = varve_visible_lsn(sim.db);
    l->high_ms = vv_clock_unix_ms();
    sim_look_add(l, &s);
}

/* What an answer means for the history. */
static void answered(sim_write *w, varve_status st, uint64_t last_lsn, bool durable) {
    sim_note("    %u %s %s: %s, LSN %" PRIu64, w->op.number, sim_kind_name(w->op.kind),
             durable ? "sync" : "async", varve_code_name(st.code), last_lsn);
    if (varve_ok(st)) {
        sim_history_done(sim.history, w, last_lsn, durable);
    } else if (st.code == VARVE_CONDITION_FAILED) {
        w->fate = SIM_REFUSED;
    } else if (!judge(st, sim_kind_name(w->op.kind), w->op.number)) {
        if (st.code == VARVE_WAL_FAILED)
            sim.ending = true; /* it stays under way */
        else
            w->fate = SIM_REFUSED;
    }
}

/* Do it, as durable as asked, on this thread. */
static void write_now(sim_write *w, bool sync) {
    static const varve_status ok = {0};
    char key[SIM_KEY_BYTES_MAX];
    uint64_t lsn = 0, low_lsn = varve_visible_lsn(sim.db), low_ms = vv_clock_unix_ms();
    varve_write_options o = write_options(w);
    varve_status st = ok;
    varve_batch *b = NULL;
    if (sync)
        o.durability = VARVE_DURABILITY_SYNC;
    set_expiries(w);
    if (is_single(w)) {
        const sim_part *part = &w->op.parts[0];
        uint32_t key_bytes = sim_key_text(part->key, key);
        if (part->deleted) {
            st = varve_delete(sim.db, key, key_bytes, &o, &lsn);
        } else {
            uint8_t *value = malloc(part->value_bytes);
            sim_value_fill(value, part->value_bytes, w->op.number, 0);
            /* The moment is the engine's: some time in this call, or in an earlier try. */
            if (w->expires_high[0] != 0) {
                o.ttl_ms = 1 + w->op.random % 30;
                if (!w->tried)
                    w->expires_low[0] = low_ms + o.ttl_ms;
                w->expires_high[0] = UINT64_MAX;
            }
            w->tried = true;
            st = varve_put(sim.db, key, key_bytes, value, part->value_bytes, &o, &lsn);
            if (o.ttl_ms != 0)
                w->expires_high[0] = vv_clock_unix_ms() + o.ttl_ms;
            free(value);
        }
    } else {
        b = make_batch(w);
        w->tried = true;
        st = varve_write(sim.db, b, &o, &lsn);
    }
    w->tried = true;
    if (st.code == VARVE_CONDITION_FAILED)
        fail_condition(w, b, low_lsn, low_ms);
    varve_batch_destroy(b);
    answered(w, st, lsn, o.durability == VARVE_DURABILITY_SYNC);
}

typedef struct async_call {
    sim_client *client;
    sim_write *write;
} async_call;

static void async_done(void *arg, varve_status st, uint64_t lsn) {
    async_call *call = arg;
    sim_client *c = call->client;
    answered(call->write, st, lsn, call->write->op.sync);
    free(call);
    atomic_fetch_sub(&c->under_way, 1);
    vv_futex_wake(&c->under_way, 1);
}

static void await(sim_client *c, uint32_t at_most) {
    for (;;) {
        uint32_t n = atomic_load(&c->under_way);
        if (n <= at_most)
            return;
        vv_futex_wait(&c->under_way, n);
    }
}

static void write_async(sim_client *c, sim_write *w) {
    async_call *call = malloc(sizeof *call);
    *call = (async_call){.client = c, .write = w};
    varve_write_options o = write_options(w);
    await(c, ASYNC_MAX - 1);
    set_expiries(w);
    w->batch = make_batch(w);
    w->tried = true;
    atomic_fetch_add(&c->under_way, 1);
    varve_write_async(sim.db, w->batch, &o, async_done, call);
}

/* ---- reading ---- */

static sim_look *begin_look(uint32_t number, const varve_snapshot *snapshot) {
    sim_look *l = sim_history_look(sim.history, number);
    l->low_lsn = snapshot ? varve_snapshot_lsn(snapshot) : varve_visible_lsn(sim.db);
    l->low_ms = vv_clock_unix_ms();
    return l;
}

static void end_look(sim_look *l, const varve_snapshot *snapshot) {
    if (l->high_lsn == 0)
        l->high_lsn = snapshot ? l->low_lsn : varve_visible_lsn(sim.db);
    l->high_ms = vv_clock_unix_ms();
}

static void see_value(sim_look *l, uint32_t key, const varve_value *v) {
    sim_sight s = {.key = key, .lsn = v->lsn, .expires_unix_ms = v->expires_unix_ms};
    sim_history_identify(sim.history, key, v->data, v->bytes, &s);
    sim_look_add(l, &s);
}

static void see_nothing(sim_look *l, uint32_t key) {
    sim_sight s = {.key = key};
    sim_look_add(l, &s);
}

/* False: it failed, with a reason. */
static bool see_answer(sim_look *l, uint32_t key, varve_status st, varve_value *v) {
    bool seen = true;
    if (varve_ok(st))
        see_value(l, key, v);
    else if (st.code == VARVE_NOT_FOUND)
        see_nothing(l, key);
    else
        seen = judge(st, "get of key", key);
    varve_value_release(v);
    return seen;
}

static uint32_t all_keys(void) {
    return sim.plan->keys + sim.plan->clients * SIM_PRIVATE_KEYS;
}

static bool get(uint32_t number, uint32_t key, const varve_snapshot *snapshot, sim_sight *out) {
    char text[SIM_KEY_BYTES_MAX];
    uint32_t bytes = sim_key_text(key, text);
    varve_value v;
    sim_look *l = begin_look(number, snapshot);
    varve_status st =
        snapshot ? varve_get_at(sim.db, snapshot, text, bytes, &v) : varve_get(sim.db, text, bytes, &v);
    end_look(l, snapshot);
    if (!see_answer(l, key, st, &v)) {
        sim_look_drop(sim.history, l);
        return false;
    }
    if (out)
        *out = l->sights[0];
    return true;
}

static void multi_get(uint32_t number, uint64_t random, const varve_snapshot *snapshot) {
    char texts[12][SIM_KEY_BYTES_MAX];
    uint32_t keys[12];
    varve_lookup lookups[12] = {0};
    size_t count = 2 + random % 11;
    for (size_t i = 0; i < count; i++) {
        keys[i] = (uint32_t)(sim_mix(random, i, 0) % all_keys());
        lookups[i].key = texts[i];
        lookups[i].key_bytes = sim_key_text(keys[i], texts[i]);
    }
    sim_look *l = begin_look(number, snapshot);
    bool whole = judge(varve_multi_get(sim.db, snapshot, lookups, count), "multi-get", number);
    end_look(l, snapshot);
    bool called = whole;
    for (size_t i = 0; i < count && called; i++)
        whole &= see_answer(l, keys[i], lookups[i].status, &lookups[i].value);
    if (!whole)
        sim_look_drop(sim.history, l);
}

/* From one key to another, both ways, all of it or the first few; what is not shown in between is not there.
 * False: it failed, with a reason. */
static bool scan(uint32_t number, uint32_t low, uint32_t high, bool backwards, uint32_t limit,
                 const varve_snapshot *snapshot) {
    char start[SIM_KEY_BYTES_MAX], end[SIM_KEY_BYTES_MAX];
    varve_iter_options o = {.snapshot = snapshot, .start = start, .end = end};
    varve_iter *it;
    o.start_bytes = sim_key_text(low, start);
    o.end_bytes = sim_key_text(high, end);
    sim_look *l = begin_look(number, snapshot);
    varve_status st = varve_iter_create(sim.db, &o, &it);
    bool good = judge(st, "iterator", number);
    l->high_lsn = snapshot ? l->low_lsn : varve_visible_lsn(sim.db);
    uint32_t next = backwards ? high : low; /* keys on the other side of it were seen */
    if (good && backwards)
        varve_iter_last(it);
    else if (good)
        varve_iter_first(it);
    while (good && limit-- > 0 && varve_iter_valid(it)) {
        varve_entry e;
        uint32_t key;
        varve_iter_entry(it, &e);
        if (!sim_key_parse(e.key, e.key_bytes, &key) || key < low || key >= high ||
            (backwards ? key >= next : key < next))
            sim_fail("scan %u of %u to %u came to '%.*s'", number, low, high, (int)e.key_bytes,
                     (const char *)e.key);
        while (!backwards && next < key)
            see_nothing(l, next++);
        while (backwards && next > key + 1)
            see_nothing(l, --next);
        sim_sight s = {.key = key, .lsn = e.lsn, .expires_unix_ms = e.expires_unix_ms};
        sim_history_identify(sim.history, key, e.value, e.value_bytes, &s);
        sim_look_add(l, &s);
        next = backwards ? key : key + 1;
        if (backwards)
            varve_iter_prev(it);
        else
            varve_iter_next(it);
    }
    if (good && !varve_iter_valid(it)) {
        good = judge(varve_iter_status(it), "scan", number);
        while (good && !backwards && next < high)
            see_nothing(l, next++);
        while (good && backwards && next > low)
            see_nothing(l, --next);
    }
    if (good || varve_ok(st))
        varve_iter_destroy(it);
    end_look(l, snapshot);
    if (!good)
        sim_look_drop(sim.history, l);
    return good;
}

/* ---- the log ---- */

static void see_batch(const varve_wal_batch *b) {
    sim_batch_seen seen = {.first_lsn = b->first_lsn,
                           .last_lsn = b->last_lsn,
                           .client_id = b->client_id,
                           .sequence = b->sequence};
    varve_wal_ops ops;
    varve_wal_op op;
    varve_wal_ops_init(&ops, b);
    while (varve_ok(varve_wal_ops_next(&ops, &op))) {
        sim_sight s = {0};
        uint32_t key;
        if (!sim_key_parse(op.key, op.key_bytes, &key))
            sim_fail("a log cursor gave the key '%.*s'", (int)op.key_bytes, (const char *)op.key);
        if (!op.is_delete)
            sim_history_identify(sim.history, key, op.value, op.value_bytes, &s);
        seen.digest = sim_ops_digest(seen.digest, key, op.is_delete, s.op, s.part);
    }
    sim_history_batch_seen(sim.history, &seen);
    sim_history_must_survive(sim.history, b->last_lsn, "a log cursor gave it out");
}

static void read_log(uint32_t number, uint64_t after_lsn, uint32_t limit) {
    varve_wal_cursor *c;
    varve_wal_batch b;
    varve_status st = varve_wal_cursor_open(sim.db, after_lsn, &c, NULL);
    if (st.code == VARVE_TRIMMED || !judge(st, "cursor", number))
        return;
    uint64_t last_lsn = after_lsn;
    for (uint32_t i = 0; i < limit; i++) {
        st = varve_wal_cursor_next(c, &b);
        if (!varve_ok(st))
            break;
        if (i == 0 ? b.first_lsn > after_lsn + 1 || b.last_lsn <= after_lsn : b.first_lsn != last_lsn + 1)
            sim_fail("log cursor %u behind LSN %" PRIu64 ": a batch of %" PRIu64 " to %" PRIu64, number,
                     last_lsn, b.first_lsn, b.last_lsn);
        see_batch(&b);
        last_lsn = b.last_lsn;
    }
    varve_wal_cursor_close(c);
    if (st.code != VARVE_END && st.code != VARVE_TRIMMED)
        (void)judge(st, "cursor", number);
}

/* ---- slots: one for each client ---- */

static void slot_name(const sim_client *c, char name[16]) {
    snprintf(name, 16, "slot%u", c->number);
}

static void use_slot(sim_client *c, uint32_t number, uint64_t random) {
    char name[16];
    slot_name(c, name);
    uint64_t durable_lsn = varve_durable_lsn(sim.db);
    varve_error err;
    varve_status st;
    if (c->slot == SLOT_THERE && random % 4 < 2) {
        c->slot_lsn = durable_lsn > c->slot_lsn ? durable_lsn : c->slot_lsn;
        st = varve_slot_confirm(sim.db, name, durable_lsn);
        sim_note("    %u slot %s confirms %" PRIu64 ": %s", number, name, durable_lsn,
                 varve_code_name(st.code));
        if (st.code == VARVE_NOT_FOUND) /* lost, for want of room */
            c->slot = SLOT_UNSURE;
        else
            (void)judge(st, "slot-confirm", number);
    } else if (c->slot == SLOT_THERE && random % 4 == 2) {
        c->slot = SLOT_UNSURE;
        st = varve_slot_drop(sim.db, name, &err);
        sim_note("    %u slot %s dropped: %s", number, name, varve_code_name(st.code));
        if (judge(st, "slot-drop", number))
            c->slot = SLOT_NONE;
    } else {
        uint64_t back = random >> 8 & 63, lsn = durable_lsn > back ? durable_lsn - back : 0;
        c->slot = SLOT_UNSURE;
        st = varve_slot_create(sim.db, name, lsn, &err);
        sim_note("    %u slot %s made at %" PRIu64 ": %s", number, name, lsn, varve_code_name(st.code));
        if (st.code != VARVE_TRIMMED && judge(st, "slot-create", number)) {
            c->slot = SLOT_THERE;
            c->slot_lsn = lsn;
        }
    }
}

static void check_slots(void) {
    varve_slot_info infos[VARVE_SLOTS_MAX];
    size_t count = varve_slots_get(sim.db, infos);
    for (uint32_t i = 0; i < sim.plan->clients; i++) {
        sim_client *c = &sim.clients[i];
        const varve_slot_info *found = NULL;
        char name[16];
        slot_name(c, name);
        for (size_t k = 0; k < count; k++)
            if (strcmp(infos[k].name, name) == 0)
                found = &infos[k];
        if (c->slot == SLOT_THERE && !found)
            sim_fail("%s was made, and is not there", name);
        if (c->slot == SLOT_NONE && found)
            sim_fail("%s was dropped, or never made, and is there", name);
        if (c->slot == SLOT_THERE && found->confirmed_lsn > c->slot_lsn)
            sim_fail("%s is at LSN %" PRIu64 ", but was never confirmed beyond %" PRIu64, name,
                     found->confirmed_lsn, c->slot_lsn);
        /* The slot may stand lower than its reader confirmed. What the reader needs is there. */
        if (c->slot == SLOT_THERE && !sim.slots_lose) {
            varve_wal_cursor *cursor;
            if (found->lost)
                sim_fail("%s is lost, and nothing was in its way", name);
            varve_status st = varve_wal_cursor_open(sim.db, c->slot_lsn, &cursor, NULL);
            if (st.code == VARVE_TRIMMED)
                sim_fail("%s confirmed LSN %" PRIu64 ", and the log does not go back so far", name,
                         c->slot_lsn);
            if (judge(st, "cursor of slot", i))
                varve_wal_cursor_close(cursor);
        }
    }
}

/* ---- what clients do ---- */

static void swap(sim_client *c, const sim_op *op) {
    uint32_t key = (uint32_t)(op->random >> 8) % sim.plan->keys;
    sim_sight seen;
    if (!get(op->number, key, NULL, &seen))
        return;
    sim_write *w = sim_history_write(sim.history, op);
    bool wrong = (op->random >> 40) % 4 == 0;
    w->required_key = key;
    if (seen.lsn == 0 || wrong) {
        w->requirement = seen.lsn == 0 && wrong ? SIM_LSN : SIM_ABSENT;
        w->required_lsn = 1;
    } else if (op->random >> 44 & 1) {
        w->requirement = SIM_LSN;
        w->required_lsn = seen.lsn;
    } else {
        sim_op was;
        sim_plan_op(sim.plan, seen.op, &was);
        w->requirement = SIM_VALUE;
        w->required_op = seen.op;
        w->required_part = seen.part;
        w->required_value_bytes = was.parts[seen.part].value_bytes;
    }
    (void)c;
    write_now(w, false);
}

static void verify(uint32_t number) {
    varve_verify_result result;
    varve_error err;
    varve_status st = varve_verify(sim.db, NULL, &result, &err);
    static const varve_status damaged = {.code = VARVE_CORRUPTION}, unreadable = {.code = VARVE_IO};
    if (judge(st, "verify", number) && result.damage_count > 0 && !excused(damaged) && !excused(unreadable))
        sim_fail("verify %u found %" PRIu64 " damages, and nothing was wrong", number, result.damage_count);
}

static void take_export(uint32_t number) {
    uint64_t visible_lsn = varve_visible_lsn(sim.db);
    varve_export e;
    varve_error err;
    varve_status st = varve_take_snapshot(sim.db, &e, &err);
    sim_note("    %u export: %s", number, varve_code_name(st.code));
    if (!judge(st, "export", number))
        return;
    if (e.lsn < visible_lsn)
        sim_fail("export %u has LSN %" PRIu64 ", and %" PRIu64 " was visible before", number, e.lsn,
                 visible_lsn);
    sim_history_must_survive(sim.history, e.lsn, "an export was taken");
    varve_export_release(sim.db, &e);
}

/* Another client may be first, with the same number. */
static void begin_epoch(uint32_t number) {
    varve_stats stats;
    varve_error err;
    varve_stats_get(sim.db, &stats);
    varve_status st = varve_begin_epoch(sim.db, stats.epoch + 1, &err);
    sim_note("    %u epoch %" PRIu64 ": %s", number, stats.epoch + 1, varve_code_name(st.code));
    if (st.code != VARVE_INVALID_ARGUMENT && judge(st, "epoch", number) && stats.epoch + 1 > sim.epoch)
        sim.epoch = stats.epoch + 1;
}

static void operate(sim_client *c, const sim_op *op) {
    uint64_t x = op->random;
    const varve_snapshot *snapshot = x % 3 == 0 ? c->snapshot : NULL;
    uint64_t visible_lsn = varve_visible_lsn(sim.db);
    varve_error err;
    varve_status st;
    switch (op->kind) {
    case SIM_PUT:
    case SIM_DELETE:
    case SIM_BATCH: {
        sim_write *w = sim_history_write(sim.history, op);
        if (op->async_call)
            write_async(c, w);
        else
            write_now(w, false);
        break;
    }
    case SIM_SWAP: swap(c, op); break;
    case SIM_GET: (void)get(op->number, (uint32_t)(x >> 8) % all_keys(), snapshot, NULL); break;
    case SIM_MULTI_GET: multi_get(op->number, x, snapshot); break;
    case SIM_SCAN: {
        uint32_t low = (uint32_t)(x >> 8) % all_keys(),
                 high = low + 1 + (uint32_t)(x >> 24) % (all_keys() - low);
        (void)scan(op->number, low, high, x >> 40 & 1, x >> 41 & 1 ? 5 : UINT32_MAX, snapshot);
        break;
    }
    case SIM_SNAPSHOT:
        if (c->snapshot)
            varve_snapshot_release(sim.db, c->snapshot);
        c->snapshot = c->snapshot ? NULL : varve_snapshot_create(sim.db);
        break;
    case SIM_FLUSH:
        st = varve_flush(sim.db);
        sim_note("    %u flush: %s", op->number, varve_code_name(st.code));
        if (judge(st, "flush", op->number))
            sim_history_must_survive(sim.history, visible_lsn, "a flush was acknowledged");
        break;
    case SIM_COMPACT:
        st = varve_compact(sim.db);
        sim_note("    %u compact: %s", op->number, varve_code_name(st.code));
        (void)judge(st, "compact", op->number);
        break;
    case SIM_CURSOR: {
        uint64_t durable_lsn = varve_durable_lsn(sim.db);
        read_log(op->number, x & 1 ? 0 : durable_lsn - x % (durable_lsn + 1), 1 + (uint32_t)(x >> 32) % 60);
        break;
    }
    case SIM_SLOT: use_slot(c, op->number, x); break;
    case SIM_SAFE_LSN:
        st = varve_set_safe_compaction_lsn(sim.db, x & 1 ? 0 : visible_lsn / 2, &err);
        (void)judge(st, "safe-lsn", op->number);
        break;
    case SIM_VERIFY: verify(op->number); break;
    case SIM_EXPORT: take_export(op->number); break;
    case SIM_EPOCH: begin_epoch(op->number); break;
    case SIM_KIND_COUNT: break;
    }
}

static void work(void *arg) {
    sim_client *c = arg;
    uint32_t first = sim.generation * SIM_OPS_MAX;
    for (uint32_t n = first; n < first + sim.plan->ops && !sim.ending; n++) {
        sim_op op;
        if (!sim_plan_has(sim.plan, n))
            continue;
        sim_plan_op(sim.plan, n, &op);
        if (op.client != c->number)
            continue;
        if (sim.crash.planned && !sim.crash.in_open && n >= sim.crash.op)
            sim.crash_armed = true;
        sim_note("    %u %s by client %u begins", n, sim_kind_name(op.kind), c->number);
        operate(c, &op);
        sim.figures->operations++;
    }
    await(c, 0);
    varve_snapshot_release(sim.db, c->snapshot);
    c->snapshot = NULL;
}

/* ---- recovery ---- */

typedef struct settling {
    varve_snapshot *snapshot;
} settling;

/* Was it done? One that has a name is tried again; of the others, the first part tells: nobody else writes
 * its key, and its client has waited for the answer ever since. */
static bool settle(void *arg, sim_write *w) {
    settling *s = arg;
    sim_sight seen = {0};
    sim.figures->settled++;
    if (w->op.named) {
        write_now(w, true);
    } else if (get(w->op.number, w->op.parts[0].key, s->snapshot, &seen)) {
        bool done = seen.lsn != 0 && seen.op == w->op.number;
        if (done)
            sim_history_done(sim.history, w, seen.lsn + w->op.part_count - 1, false);
        else
            w->fate = SIM_REFUSED;
        sim_note("    %u %s", w->op.number, done ? "was done" : "was not done");
    }
    return !sim.off;
}

/* The recovered database is what it should be. False: the power went meanwhile. */
static bool check_recovered(void) {
    uint64_t lsn = varve_visible_lsn(sim.db), durable_lsn = varve_durable_lsn(sim.db);
    sim_note("  recovered up to LSN %" PRIu64, lsn);
    if (durable_lsn != lsn)
        sim_fail("recovered up to LSN %" PRIu64 ", of which %" PRIu64 " are durable", lsn, durable_lsn);
    varve_stats stats;
    varve_stats_get(sim.db, &stats);
    if (stats.epoch < sim.epoch)
        sim_fail("epoch %" PRIu64 " was begun, and the database is in %" PRIu64, sim.epoch, stats.epoch);
    sim_history_recovered(sim.history, lsn);
    sim_history_must_survive(sim.history, lsn, "it was recovered before");
    settling s = {.snapshot = varve_snapshot_create(sim.db)};
    if (varve_snapshot_lsn(s.snapshot) != lsn)
        sim_fail("a snapshot of LSN %" PRIu64 ", and %" PRIu64 " is visible", varve_snapshot_lsn(s.snapshot),
                 lsn);
    bool settled = sim_history_each_under_way(sim.history, settle, &s) && !sim.ending;
    if (settled) {
        uint32_t me = sim.generation * SIM_OPS_MAX;
        sim_history_check_contiguous(sim.history, lsn);
        settled = scan(me, 0, all_keys(), sim.generation & 1, UINT32_MAX, s.snapshot);
        for (uint32_t key = 0; key < all_keys() && settled && !sim.off; key++)
            settled = get(me, key, s.snapshot, NULL);
        sim.figures->looks += sim_history_check_seen(sim.history);
        check_slots();
    }
    varve_snapshot_release(sim.db, s.snapshot);
    return settled && !sim.off;
}

/* ---- a generation ---- */

static varve_status open_once(void) {
    varve_options *o = varve_options_create();
    const char *key, *value;
    vv_error err = {.text = ""};
    for (uint32_t i = 0; sim_plan_setting(sim.plan, i, &key, &value); i++)
        if (!varve_ok(varve_options_set(o, key, value, (varve_error *)&err)))
            sim_fail("%s", err.text);
    varve_options_set_log(o, log_line, NULL, VARVE_LOG_DEBUG);
    vv_status st = vv_db_open_on(vv_sim_backend_create(sim.disk), DIR, o, &sim.db, &err);
    varve_options_destroy(o);
    sim_note("  open: %s %s", vv_code_name(st.code), vv_ok(st) ? "" : err.text);
    return vv_public(st);
}

/* False: the power went. */
static bool open_database(void) {
    sim.faults_on = true;
    sim.flips_on = false; /* a flipped bit in the log's last frame looks like a torn write */
    varve_status st = open_once();
    sim.faults_on = false;
    if (!varve_ok(st) && !sim.off) {
        (void)judge(st, "open", sim.generation);
        st = open_once();
    }
    if (!varve_ok(st) && !sim.off)
        sim_fail("the database does not open any more: %s", varve_code_name(st.code));
    return varve_ok(st);
}

static void let_clients_work(void) {
    sim.faults_on = sim.flips_on = true;
    for (uint32_t i = 0; i < sim.plan->clients; i++) {
        char name[16];
        snprintf(name, sizeof name, "client%u", i);
        if (!vv_ok(vv_thread_start(&sim.clients[i].thread, name, work, &sim.clients[i])))
            sim_fail("no thread");
    }
    for (uint32_t i = 0; i < sim.plan->clients; i++)
        vv_thread_join(sim.clients[i].thread);
}

static void close_database(void) {
    varve_stats stats;
    varve_stats_get(sim.db, &stats);
    sim.figures->flushes += stats.flushes;
    sim.figures->compactions += stats.compactions;
    varve_status st = varve_close(sim.db);
    sim.db = NULL;
    sim_note("  close: %s", varve_code_name(st.code));
    sim_history_free_batches(sim.history);
    if (judge(st, "close", sim.generation))
        sim_history_all_durable(sim.history, "the database was closed");
}

/* What the next generation finds. */
static void next_disk(void) {
    vv_sim_crash how;
    if (sim.off) {
        replace_disk(sim.image);
        sim.image = NULL;
    } else if (sim_plan_cut_when_closed(sim.plan, sim.generation, &how)) {
        sim_note("  the power goes while it is closed; survives %d", (int)how.survival);
        sim.figures->crashes++;
        replace_disk(take_images(&how));
    } else {
        sim_note("  only the process ends");
        sim.figures->restarts++;
    }
}

static bool any_under_way(void *arg, sim_write *w) {
    (void)arg;
    (void)w;
    return false;
}

/* An image that nobody goes on with: it opens, has all that was durable, and what it shows is the state of
 * its LSN, or, as long as the outcome of some write is unknown, at least made of what was written. */
static void look_at_image(vv_sim_disk *image_take) {
    vv_sim_disk *disk = sim.disk;
    sim.disk = image_take;
    sim.figures->images++;
    sim_note("  an image of the same crash");
    varve_status st = open_once();
    if (!varve_ok(st))
        sim_fail("an image of the crash does not open: %s", varve_code_name(st.code));
    sim_history_check_floor(sim.history, varve_visible_lsn(sim.db));
    varve_snapshot *snapshot = varve_snapshot_create(sim.db);
    if (!scan(sim.generation * SIM_OPS_MAX, 0, all_keys(), false, UINT32_MAX, snapshot))
        sim_fail("an image of the crash can't be read");
    varve_snapshot_release(sim.db, snapshot);
    if (sim_history_each_under_way(sim.history, any_under_way, NULL))
        (void)sim_history_check_seen(sim.history);
    else
        sim_history_forget_seen(sim.history);
    st = varve_close(sim.db);
    sim.db = NULL;
    if (!varve_ok(st))
        sim_fail("an image of the crash can't be closed: %s", varve_code_name(st.code));
    vv_sim_disk_destroy(sim.disk);
    sim.disk = disk;
}

static void live_once(uint32_t generation) {
    sim.generation = sim.figures->generation = generation;
    sim.figures->generations++;
    sim_note("generation %u", generation);
    sim.off = sim.ending = false;
    sim.crash = sim_plan_crash(sim.plan, generation);
    sim.events_left = sim.crash.after;
    sim.crash_armed = sim.crash.planned && sim.crash.in_open;
    sim.recovering = true;
    while (sim.other_count > 0)
        look_at_image(sim.others[--sim.other_count]);
    set_hooks();
    if (open_database()) {
        bool whole = check_recovered();
        sim.recovering = false;
        if (sim.crash.in_open)
            sim.crash_armed = false;
        if (whole)
            let_clients_work();
        close_database();
    }
    sim.figures->looks += sim_history_check_seen(sim.history);
    next_disk();
}

/* ---- the end ---- */

typedef struct listing {
    uint64_t tables, segments, others;
} listing;

static vv_status list_entry(void *arg, const char *name, vv_entry_kind kind) {
    listing *l = arg;
    size_t bytes = strlen(name);
    (void)kind;
    if (bytes > 4 && strcmp(name + bytes - 4, ".sst") == 0)
        l->tables++;
    else if (bytes > 4 && strcmp(name + bytes - 4, ".log") == 0)
        l->segments++;
    else if (strcmp(name, "MANIFEST") != 0 && strcmp(name, "LOCK") != 0 && !strstr(name, ".tmp"))
        l->others++;
    return VV_STATUS_OK;
}

/* The disk has lied: nobody can say what is there, or that it opens. But what it shows was written so. */
static void finish_after_lies(void) {
    uint32_t me = sim.plan->generations;
    sim.generation = me;
    sim.off = sim.ending = sim.crash_armed = false;
    while (sim.other_count > 0)
        vv_sim_disk_destroy(sim.others[--sim.other_count]);
    set_hooks();
    memset(sim.faults.per_million, 0, sizeof sim.faults.per_million);
    sim_note("the end, behind lies");
    varve_status st = open_once();
    if (!judge(st, "open behind lies", me))
        return;
    (void)scan(me, 0, all_keys(), false, UINT32_MAX, NULL);
    for (uint32_t key = 0; key < all_keys(); key++)
        (void)get(me, key, NULL, NULL);
    sim_history_forget_seen(sim.history);
    (void)judge(varve_close(sim.db), "close behind lies", me);
    sim.db = NULL;
}

/* With no more crashes and faults: everything is still there, and nothing else. */
static void finish(void) {
    varve_stats stats;
    listing l = {0};
    uint32_t me = sim.plan->generations;
    sim.generation = me;
    sim.off = sim.ending = false;
    sim.crash_armed = false;
    while (sim.other_count > 0)
        look_at_image(sim.others[--sim.other_count]);
    set_hooks();
    memset(sim.faults.per_million, 0, sizeof sim.faults.per_million);
    sim_note("the end");
    if (!open_database() || !check_recovered())
        sim_fail("no power");
    verify(me);
    if (judge(varve_compact(sim.db), "last compact", me)) {
        varve_snapshot *snapshot = varve_snapshot_create(sim.db);
        (void)scan(me, 0, all_keys(), false, UINT32_MAX, snapshot);
        varve_snapshot_release(sim.db, snapshot);
        sim.figures->looks += sim_history_check_seen(sim.history);
    }
    close_database();
    vv_io_backend *b = vv_sim_backend_create(sim.disk);
    if (!vv_ok(vv_dir_list(b, DIR, list_entry, &l, NULL)))
        sim_fail("the directory can't be listed");
    vv_io_backend_destroy(b);
    const vv_sim_crash how = {.survival = VV_SIM_SURVIVES_SYNCED};
    replace_disk(vv_sim_disk_crash(sim.disk, &how));
    set_hooks();
    memset(sim.faults.per_million, 0, sizeof sim.faults.per_million);
    if (!open_database() || !check_recovered())
        sim_fail("no power");
    varve_stats_get(sim.db, &stats);
    if (l.others > 0 || l.tables != stats.sstable_count)
        sim_fail("left behind: %" PRIu64 " tables, %" PRIu64 " unknown files, and there are %" PRIu64
                 " tables",
                 l.tables, l.others, stats.sstable_count);
    close_database();
}

static void live(void *arg) {
    (void)arg;
    for (uint32_t g = 0; g < sim.plan->generations; g++)
        live_once(g);
    if (has_lied())
        finish_after_lies();
    else
        finish();
}

void sim_run(const sim_plan *p, sim_figures *out, bool verbose) {
    memset(&sim, 0, sizeof sim);
    note_count = 0;
    sim.plan = p;
    sim.figures = out;
    sim.verbose = verbose;
    sim.history = sim_history_create(p);
    for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++)
        sim.clients[i].number = i;
    vv_sim_options o = {.seed = p->seed,
                        .capacity_bytes = p->capacity_bytes,
                        .align_bytes = p->align_bytes,
                        .atomic_block_bytes = p->atomic_block_bytes};
    sim.disk = vv_sim_disk_create(&o);
    vv_sched_options sched = p->sched;
    sched.seed = sim_mix(p->seed, p->salt, 78);
    vv_sched_run(&sched, live, NULL);
    replace_disk(NULL);
    sim_history_destroy(sim.history);
    out->runs++;
    out->steps += vv_sched_steps();
    out->trace_hash = vv_sched_trace_hash();
}
