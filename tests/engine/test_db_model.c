/*
 * The database against a model of it in memory: random operations, over every combination of options.
 *
 *     VARVE_TEST_SEED   replays a run
 *     VARVE_TEST_OPS    operations for each of the 72 combinations: 14000 make a million, the long mode
 */
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "tests/engine/db_fixture.h"

#define KEYS          300
#define SNAPSHOTS     4
#define FAR_FUTURE_MS UINT64_C(4000000000000)

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_model, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 3500);

/* ---- the model: every version of every key ---- */

typedef struct version {
    uint64_t lsn;
    uint64_t expires_unix_ms;
    uint32_t value_seed; /* the value follows from it */
    bool deleted;
} version;

typedef struct history {
    version *versions; /* ascending */
    size_t count;
    size_t capacity;
} history;

static history model[KEYS];
static uint64_t model_lsn;
static uint64_t rng;

static uint64_t random_below(uint64_t n) {
    return vv_test_random(&rng) % n;
}

static void model_add(int key, version v) {
    history *h = &model[key];
    if (h->count == h->capacity) {
        h->capacity = h->capacity ? h->capacity * 2 : 8;
        h->versions = realloc(h->versions, h->capacity * sizeof *h->versions);
    }
    h->versions[h->count++] = v;
}

/* The live version at an LSN, or NULL. */
static const version *model_get(int key, uint64_t lsn) {
    const history *h = &model[key];
    for (size_t i = h->count; i-- > 0;)
        if (h->versions[i].lsn <= lsn) {
            const version *v = &h->versions[i];
            bool expired = v->expires_unix_ms != 0 && v->expires_unix_ms < FAR_FUTURE_MS;
            return v->deleted || expired ? NULL : v;
        }
    return NULL;
}

/* Keys of several lengths whose order is that of their numbers. */
static size_t key_text(int key, char *out) {
    return (size_t)sprintf(out, "%04d%.*s", key, key % 23, "abcdefghijklmnopqrstuvwxyz");
}

/* Mostly small, sometimes some blocks long. */
static size_t value_of(uint32_t seed, char *out) {
    size_t bytes = seed % 50 == 0 ? 3000 + seed % 20000 : seed % 200;
    uint32_t x = seed | 1;
    for (size_t i = 0; i < bytes; i++) {
        x = x * 1664525 + 1013904223;
        out[i] = (char)(x >> 24) & (seed % 3 ? 0x0f : 0x7f); /* some compress well */
    }
    return bytes;
}

static char value_buffer[32768];

/* ---- steps ---- */

static varve_snapshot *snapshots[SNAPSHOTS];

static void check_value(const version *expected, const void *data, size_t bytes, uint64_t lsn, int key) {
    size_t want = value_of(expected->value_seed, value_buffer);
    cr_assert_eq(lsn, expected->lsn, "key %d: LSN %" PRIu64 ", not %" PRIu64, key, lsn, expected->lsn);
    cr_assert(bytes == want && memcmp(data, value_buffer, want) == 0, "key %d: wrong value", key);
}

static void check_get(int key, const varve_snapshot *snapshot) {
    char text[64];
    varve_value v;
    size_t bytes = key_text(key, text);
    varve_status st =
        snapshot ? varve_get_at(fx_db, snapshot, text, bytes, &v) : varve_get(fx_db, text, bytes, &v);
    const version *expected = model_get(key, snapshot ? varve_snapshot_lsn(snapshot) : model_lsn);
    if (!expected) {
        cr_assert_eq(st.code, VARVE_NOT_FOUND, "key %d: %s", key, varve_code_name(st.code));
        return;
    }
    cr_assert(varve_ok(st), "key %d: %s", key, varve_code_name(st.code));
    check_value(expected, v.data, v.bytes, v.lsn, key);
    varve_value_release(&v);
}

static uint64_t random_expiry(void) {
    switch (random_below(12)) {
    case 0: return 1; /* long over */
    case 1: return FAR_FUTURE_MS;
    default: return 0;
    }
}

/* Named writes: client and sequence follow from the number; a window each of what was done. */
#define NAMED_CLIENTS 3
static uint64_t named_count[NAMED_CLIENTS];
static uint64_t named_lsn[NAMED_CLIENTS][64]; /* by sequence modulo 64 */

static void name_write(varve_write_options *o) {
    uint64_t client = random_below(NAMED_CLIENTS);
    o->client_id = client + 1;
    o->sequence = ++named_count[client];
    named_lsn[client][o->sequence % 64] = 0;
}

static void named_done(const varve_write_options *o, uint64_t lsn) {
    if (o->client_id)
        named_lsn[o->client_id - 1][o->sequence % 64] = lsn;
}

/* A write that was done comes again: with its LSN, and without a change. */
static void repeat_write(void) {
    uint64_t client = random_below(NAMED_CLIENTS);
    if (named_count[client] == 0)
        return;
    uint64_t sequence =
        named_count[client] - random_below(named_count[client] < 64 ? named_count[client] : 64);
    uint64_t expected = named_lsn[client][sequence % 64], lsn;
    if (expected == 0)
        return; /* its condition failed */
    varve_write_options o = {
        .durability = (varve_durability)random_below(2), .client_id = client + 1, .sequence = sequence};
    varve_status st = varve_put(fx_db, "0000", 4, "not to be seen", 14, &o, &lsn);
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
    cr_assert_eq(lsn, expected, "client %" PRIu64 ", sequence %" PRIu64 ": LSN %" PRIu64 ", not %" PRIu64,
                 client + 1, sequence, lsn, expected);
}

static void write_batch(void) {
    varve_batch *b = varve_batch_create();
    size_t count = 1 + random_below(8);
    for (size_t i = 0; i < count; i++) {
        char text[64];
        int key = (int)random_below(KEYS);
        size_t key_bytes = key_text(key, text);
        version v = {.lsn = model_lsn + i + 1, .value_seed = (uint32_t)vv_test_random(&rng)};
        if (random_below(4) == 0) {
            v.deleted = true;
            cr_assert(varve_ok(varve_batch_delete(b, text, key_bytes)));
        } else {
            size_t value_bytes = value_of(v.value_seed, value_buffer);
            v.expires_unix_ms = random_expiry();
            cr_assert(varve_ok(
                varve_batch_put_expiring(b, text, key_bytes, value_buffer, value_bytes, v.expires_unix_ms)));
        }
        model_add(key, v);
    }
    varve_write_options o = {.durability = random_below(8) ? VARVE_DURABILITY_ASYNC : VARVE_DURABILITY_SYNC};
    if (random_below(4) == 0)
        name_write(&o);
    uint64_t lsn;
    cr_assert(varve_ok(varve_write(fx_db, b, &o, &lsn)));
    named_done(&o, lsn);
    model_lsn += count;
    cr_assert_eq(lsn, model_lsn);
    varve_batch_destroy(b);
}

/* A put of a key that is required to be as it is, or as it is not. */
static void write_conditional(void) {
    char text[64];
    int key = (int)random_below(KEYS);
    size_t key_bytes = key_text(key, text);
    const version *now = model_get(key, model_lsn);
    varve_batch *b = varve_batch_create();
    bool holds;
    switch (random_below(3)) {
    case 0:
        holds = !now;
        cr_assert(varve_ok(varve_batch_require_absent(b, text, key_bytes)));
        break;
    case 1: {
        uint64_t lsn = now && random_below(2) ? now->lsn
                       : random_below(4)      ? 1 + random_below(model_lsn + 1)
                                              : 0;
        holds = lsn == (now ? now->lsn : 0);
        cr_assert(varve_ok(varve_batch_require_lsn(b, text, key_bytes, lsn)));
        break;
    }
    default: {
        size_t bytes = value_of(now ? now->value_seed : 7, value_buffer);
        holds = now != NULL;
        cr_assert(varve_ok(varve_batch_require_value(b, text, key_bytes, value_buffer, bytes)));
    }
    }
    version v = {.lsn = model_lsn + 1, .value_seed = (uint32_t)vv_test_random(&rng)};
    size_t value_bytes = value_of(v.value_seed, value_buffer);
    cr_assert(varve_ok(varve_batch_put(b, text, key_bytes, value_buffer, value_bytes)));
    varve_write_options o = {0};
    uint64_t lsn;
    if (random_below(4) == 0)
        name_write(&o);
    varve_status st = varve_write(fx_db, b, &o, &lsn);
    named_done(&o, lsn);
    cr_assert_eq(st.code, holds ? VARVE_OK : VARVE_CONDITION_FAILED, "key %d: %s", key,
                 varve_code_name(st.code));
    if (holds) {
        model_add(key, v);
        model_lsn++;
    } else {
        bool held;
        uint64_t current;
        cr_assert(varve_batch_condition(b, 0, &held, &current));
        cr_assert_not(held);
        cr_assert_eq(current, now ? now->lsn : 0);
    }
    varve_batch_destroy(b);
}

/* The first live key from `key` on in a direction, or -1. */
static int model_next(int key, int direction, int low, int high, uint64_t lsn) {
    for (; key >= low && key < high; key += direction)
        if (model_get(key, lsn))
            return key;
    return -1;
}

static void check_at(varve_iter *it, int expected, uint64_t lsn) {
    if (expected < 0) {
        cr_assert_not(varve_iter_valid(it), "an entry too many");
        cr_assert(varve_ok(varve_iter_status(it)), "%s", varve_code_name(varve_iter_status(it).code));
        return;
    }
    char text[64];
    varve_entry e;
    cr_assert(varve_iter_valid(it), "key %d is missing: %s", expected,
              varve_code_name(varve_iter_status(it).code));
    varve_iter_entry(it, &e);
    size_t bytes = key_text(expected, text);
    cr_assert(e.key_bytes == bytes && memcmp(e.key, text, bytes) == 0, "'%.*s' instead of key %d",
              (int)e.key_bytes, (const char *)e.key, expected);
    check_value(model_get(expected, lsn), e.value, e.value_bytes, e.lsn, expected);
}

/* A walk of random steps both ways within random bounds. */
static void check_iterator(const varve_snapshot *snapshot) {
    char start[64], end[64], text[64];
    int low = (int)random_below(KEYS), high = low + (int)random_below((uint64_t)(KEYS - low)) + 1;
    bool bounded = random_below(2);
    varve_iter_options o = {.snapshot = snapshot};
    if (bounded) {
        o.start = start;
        o.start_bytes = key_text(low, start);
        o.end = end;
        o.end_bytes = key_text(high, end);
    } else {
        low = 0;
        high = KEYS;
    }
    varve_iter *it;
    uint64_t lsn = snapshot ? varve_snapshot_lsn(snapshot) : model_lsn;
    cr_assert(varve_ok(varve_iter_create(fx_db, &o, &it)));
    if (random_below(2))
        write_batch(); /* not seen */
    int at = -1;
    for (uint64_t steps = 5 + random_below(60); steps > 0; steps--) {
        uint64_t what = random_below(at < 0 ? 4 : 16);
        int key = (int)random_below(KEYS);
        size_t bytes = key_text(key, text);
        switch (what) {
        case 0:
            varve_iter_first(it);
            at = model_next(low, 1, low, high, lsn);
            break;
        case 1:
            varve_iter_last(it);
            at = model_next(high - 1, -1, low, high, lsn);
            break;
        case 2:
            varve_iter_seek(it, text, bytes);
            at = model_next(key < low ? low : key, 1, low, high, lsn);
            break;
        case 3:
            varve_iter_seek_back(it, text, bytes);
            at = model_next(key >= high ? high - 1 : key, -1, low, high, lsn);
            break;
        default:
            if (what % 2) {
                varve_iter_next(it);
                at = model_next(at + 1, 1, low, high, lsn);
            } else {
                varve_iter_prev(it);
                at = model_next(at - 1, -1, low, high, lsn);
            }
        }
        check_at(it, at, lsn);
    }
    varve_iter_destroy(it);
}

static void change_snapshot(void) {
    varve_snapshot **s = &snapshots[random_below(SNAPSHOTS)];
    if (*s) {
        varve_snapshot_release(fx_db, *s);
        *s = NULL;
    } else {
        *s = varve_snapshot_create(fx_db);
        cr_assert_eq(varve_snapshot_lsn(*s), model_lsn);
    }
}

static void release_snapshots(void) {
    for (int i = 0; i < SNAPSHOTS; i++) {
        varve_snapshot_release(fx_db, snapshots[i]);
        snapshots[i] = NULL;
    }
}

typedef struct combination {
    const char *memtable, *style, *index, *compression, *backend;
} combination;

static void open_combination(const combination *c) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "128KiB", "MAX_TABLE_SIZE", "64KiB", "COMPACTION_THRESHOLD", "2",
                            "WAL_SEGMENT_SIZE", "256KiB", "CACHE_CAPACITY", "512KiB", "TABLE_CACHE_SIZE", "8",
                            "MEMTABLE_TYPE", c->memtable, "COMPACTION_STYLE", c->style, "INDEX_TYPE",
                            c->index, "COMPRESSION", c->compression, "IO_BACKEND", c->backend, NULL));
}

static void step(const combination *c) {
    const varve_snapshot *snapshot = snapshots[random_below(SNAPSHOTS)];
    uint64_t what = random_below(1000);
    if (what < 530)
        write_batch();
    else if (what < 550)
        repeat_write();
    else if (what < 600)
        write_conditional();
    else if (what < 900)
        check_get((int)random_below(KEYS), random_below(2) ? snapshot : NULL);
    else if (what < 960)
        check_iterator(random_below(2) ? snapshot : NULL);
    else if (what < 990)
        change_snapshot();
    else if (what < 996)
        cr_assert(varve_ok(varve_flush(fx_db)));
    else if (what < 998)
        cr_assert(varve_ok(varve_compact(fx_db)));
    else {
        release_snapshots();
        fx_close();
        open_combination(c);
    }
}

static void run_combination(const combination *c, uint64_t ops) {
    fprintf(stderr, "%s, %s, %s, %s, %s\n", c->memtable, c->style, c->index, c->compression, c->backend);
    vv_tempdir(); /* a database of its own */
    model_lsn = 0;
    memset(named_count, 0, sizeof named_count);
    open_combination(c);
    for (uint64_t i = 0; i < ops; i++)
        step(c);
    release_snapshots();
    cr_assert(varve_ok(varve_compact(fx_db)));
    for (int key = 0; key < KEYS; key++)
        check_get(key, NULL);
    fx_close();
    for (int key = 0; key < KEYS; key++)
        model[key].count = 0;
    vv_tempdir_cleanup();
}

static void run_all(const char *style) {
    static const char *const memtables[] = {"skiplist", "hashmap", "btree"};
    static const char *const indexes[] = {"sparse", "dense"};
    static const char *const compressions[] = {"none", "lz4", "zstd"};
    static const char *const backends[] = {"auto", "posix"};
    const char *text = getenv("VARVE_TEST_OPS");
    uint64_t ops = text ? strtoull(text, NULL, 10) : 1500;
    rng = vv_test_seed();
    for (size_t m = 0; m < 3; m++)
        for (size_t i = 0; i < 2; i++)
            for (size_t z = 0; z < 3; z++)
                for (size_t b = 0; b < 2; b++)
                    run_combination(
                        &(combination){memtables[m], style, indexes[i], compressions[z], backends[b]}, ops);
    for (int key = 0; key < KEYS; key++)
        free(model[key].versions);
}

Test(db_model, tiered) {
    run_all("tiered");
}

Test(db_model, leveled) {
    run_all("leveled");
}
