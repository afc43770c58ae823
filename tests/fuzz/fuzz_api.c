/*
 * fuzz_api.c - sequences of calls of the whole API against a model, on a simulated disk that loses power.
 *
 *   input   [options:1] then steps: [kind:1][what the kind needs]
 *
 * The model is the history of all operations by LSN: what the database holds as of an LSN is what the
 * history up to there says. What holds for any sequence: each read, in any way, as of now or of a
 * snapshot, gives what the history says; conditions hold or don't as it says; a write that was named
 * before is not done again; a log cursor gives the history itself. After a power cut the history ends
 * somewhere at or behind the newest write that was answered as durable, between two batches, and all of
 * this holds again.
 *
 * Keys are of 1 to 5 bytes, values of 0 to 20,000, so that memtables of 64 KiB are sealed, flushed and
 * merged.
 */
#include "engine/db/db_impl.h"
#include "io/sim/io_sim.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/small_db.h"

#define KEYS           25
#define KEY_BYTES_MAX  5
#define STEPS_MAX      128
#define BATCH_MAX      6
#define OPS_MAX        (STEPS_MAX * BATCH_MAX)
#define SNAPSHOTS      3
#define NAMES          8
#define CLIENT         77
#define VALUE_MAX      20000
#define ALLOCATION_MAX ((size_t)13 << 20) /* a recovery's window */

/* One operation; its LSN is its index in the history and one more. */
typedef struct op {
    uint8_t key;
    bool deleted;
    bool expired; /* put with a time that has passed */
    bool ends_batch;
    uint8_t name; /* sequence, 0: none */
    uint32_t value_bytes;
    uint8_t value_seed;
} op;

typedef struct world {
    vv_sim_disk *disk;
    varve_options *options;
    varve_db *db;
    op history[OPS_MAX];
    uint64_t lsn;         /* of the newest operation */
    uint64_t durable_lsn; /* everything up to here was answered as durable */
    varve_snapshot *snapshots[SNAPSHOTS];
    vv_reader input;
    bool sync; /* of the step at hand */
} world;

static const uint32_t value_sizes[] = {0, 1, 3, 20, 100, 1000, 4090, VALUE_MAX};

static void must(varve_status st) {
    FUZZ_CHECK(varve_ok(st), "%s %s", varve_code_name(st.code), varve_reason_name(st.reason));
}

/* ---- keys and values ---- */

static vv_slice key_of(uint8_t key, char buf[KEY_BYTES_MAX]) {
    size_t bytes = 1 + key / 5 % KEY_BYTES_MAX;
    memset(buf, 'a' + key % 5, bytes);
    return vv_slice_make(buf, bytes);
}

static uint8_t *value_of(const op *o) {
    static uint8_t buf[VALUE_MAX];
    memset(buf, o->value_seed, o->value_bytes);
    if (o->value_bytes)
        buf[o->value_bytes - 1] = (uint8_t)~o->value_seed;
    return buf;
}

static bool is_value(const op *o, const void *data, size_t bytes) {
    return bytes == o->value_bytes && (bytes == 0 || memcmp(data, value_of(o), bytes) == 0);
}

/* ---- the model ---- */

/* The newest operation on a key up to an LSN, 0: none. */
static uint64_t newest(const world *w, uint8_t key, uint64_t lsn) {
    for (; lsn > 0; lsn--)
        if (w->history[lsn - 1].key == key)
            break;
    return lsn;
}

/* The LSN of what a reader sees of a key, 0: nothing. */
static uint64_t visible(const world *w, uint8_t key, uint64_t lsn) {
    uint64_t at = newest(w, key, lsn);
    return at > 0 && !w->history[at - 1].deleted && !w->history[at - 1].expired ? at : 0;
}

static uint64_t named(const world *w, uint8_t name) {
    uint64_t lsn = w->lsn;
    while (lsn > 0 && w->history[lsn - 1].name != name)
        lsn--;
    return lsn;
}

/* ---- writing ---- */

static op read_op(world *w) {
    uint8_t key = vv_read_u8(&w->input), how = vv_read_u8(&w->input);
    return (op){.key = key % KEYS,
                .deleted = how % 4 == 3,
                .expired = how % 16 == 4,
                .value_bytes = value_sizes[how / 16 % VV_ARRAY_COUNT(value_sizes)],
                .value_seed = (uint8_t)(w->lsn * 7 + how)};
}

static void add_to_batch(varve_batch *b, const op *o) {
    char buf[KEY_BYTES_MAX];
    vv_slice key = key_of(o->key, buf);
    if (o->deleted)
        must(varve_batch_delete(b, key.data, key.bytes));
    else if (o->expired)
        must(varve_batch_put_expiring(b, key.data, key.bytes, value_of(o), o->value_bytes, 1));
    else
        must(varve_batch_put(b, key.data, key.bytes, value_of(o), o->value_bytes));
}

/* Adds a condition; does it hold? */
static bool add_condition(world *w, varve_batch *b) {
    uint8_t key_number = vv_read_u8(&w->input) % KEYS, how = vv_read_u8(&w->input);
    char buf[KEY_BYTES_MAX];
    vv_slice key = key_of(key_number, buf);
    uint64_t there = visible(w, key_number, w->lsn);
    if (how % 3 == 0) {
        must(varve_batch_require_absent(b, key.data, key.bytes));
        return there == 0;
    }
    if (how % 3 == 1) {
        uint64_t lsn = how & 8 ? there : how / 3 + 1U;
        must(varve_batch_require_lsn(b, key.data, key.bytes, lsn));
        return there == lsn; /* 0: what is absent */
    }
    op other = {.value_bytes = 3, .value_seed = how};
    const op *want = there && how & 8 ? &w->history[there - 1] : &other;
    must(varve_batch_require_value(b, key.data, key.bytes, value_of(want), want->value_bytes));
    return there && w->history[there - 1].value_bytes == want->value_bytes &&
           (want->value_bytes == 0 || w->history[there - 1].value_seed == want->value_seed);
}

static void write_batch(world *w, unsigned conditions, uint8_t name) {
    varve_batch *b = varve_batch_create();
    op ops[BATCH_MAX];
    unsigned count = 1 + vv_read_u8(&w->input) % BATCH_MAX;
    bool holds = true;
    FUZZ_CHECK(b);
    for (unsigned i = 0; i < count; i++) {
        ops[i] = read_op(w);
        ops[i].name = name;
        add_to_batch(b, &ops[i]);
    }
    ops[count - 1].ends_batch = true;
    for (unsigned i = 0; i < conditions; i++)
        holds &= add_condition(w, b);
    varve_write_options o = {.durability = w->sync ? VARVE_DURABILITY_SYNC : VARVE_DURABILITY_ASYNC,
                             .client_id = name ? CLIENT : 0,
                             .sequence = name};
    uint64_t lsn = 0, done = name ? named(w, name) : 0;
    varve_status st = varve_write(w->db, b, &o, &lsn);
    varve_batch_destroy(b);
    if (done > 0) { /* it was done before: the same answer, as durable as is asked now */
        must(st);
        FUZZ_CHECK(lsn == done, "%llu, not %llu", (unsigned long long)lsn, (unsigned long long)done);
        w->durable_lsn = w->sync ? VV_MAX(w->durable_lsn, lsn) : w->durable_lsn;
        return;
    }
    if (!holds) {
        FUZZ_CHECK(st.code == VARVE_CONDITION_FAILED, "%s", varve_code_name(st.code));
        return;
    }
    must(st);
    memcpy(w->history + w->lsn, ops, count * sizeof *ops);
    w->lsn += count;
    FUZZ_CHECK(lsn == w->lsn);
    if (w->sync)
        w->durable_lsn = lsn;
}

/* ---- reading ---- */

static void check_value(const world *w, uint8_t key, uint64_t lsn, varve_status st, varve_value *v) {
    uint64_t there = visible(w, key, lsn);
    if (there == 0) {
        FUZZ_CHECK(st.code == VARVE_NOT_FOUND, "%s", varve_code_name(st.code));
        return;
    }
    must(st);
    FUZZ_CHECK(v->lsn == there && is_value(&w->history[there - 1], v->data, v->bytes));
    varve_value_release(v);
}

static void get(world *w) {
    uint8_t key = vv_read_u8(&w->input) % KEYS;
    char buf[KEY_BYTES_MAX];
    vv_slice s = key_of(key, buf);
    varve_value v;
    varve_status st = varve_get(w->db, s.data, s.bytes, &v);
    check_value(w, key, w->lsn, st, &v);
}

static void get_all(world *w, const varve_snapshot *snapshot) {
    char bufs[KEYS][KEY_BYTES_MAX];
    varve_lookup lookups[KEYS] = {0};
    for (uint8_t key = 0; key < KEYS; key++) {
        vv_slice s = key_of(key, bufs[key]);
        lookups[key].key = s.data;
        lookups[key].key_bytes = s.bytes;
    }
    must(varve_multi_get(w->db, snapshot, lookups, KEYS));
    uint64_t lsn = snapshot ? varve_snapshot_lsn(snapshot) : w->lsn;
    for (uint8_t key = 0; key < KEYS; key++)
        check_value(w, key, lsn, lookups[key].status, &lookups[key].value);
}

static uint8_t key_number(const void *key, size_t bytes) {
    char buf[KEY_BYTES_MAX];
    for (uint8_t i = 0; i < KEYS; i++)
        if (vv_slice_equal(key_of(i, buf), vv_slice_make(key, bytes)))
            return i;
    fuzz_fail(__FILE__, __LINE__, "a key of ours", "%zu bytes", bytes);
}

/* All keys from `start` on that are visible, one after the other in order: none is left out. */
static void scan(world *w, const varve_snapshot *snapshot, bool backwards) {
    char buf[KEY_BYTES_MAX];
    varve_iter_options o = {.snapshot = snapshot};
    vv_slice start = key_of(vv_read_u8(&w->input) % KEYS, buf);
    if (!backwards) {
        o.start = start.data;
        o.start_bytes = start.bytes;
    }
    uint64_t lsn = snapshot ? varve_snapshot_lsn(snapshot) : w->lsn;
    uint32_t want = 0, have = 0;
    for (uint8_t key = 0; key < KEYS; key++) {
        char key_buf[KEY_BYTES_MAX];
        bool inside = backwards || vv_slice_compare(key_of(key, key_buf), start) >= 0;
        want += inside && visible(w, key, lsn) > 0;
    }
    varve_iter *it;
    must(varve_iter_create(w->db, &o, &it));
    char before_buf[KEY_BYTES_MAX];
    vv_slice before = {0};
    for (backwards ? varve_iter_last(it) : varve_iter_first(it); varve_iter_valid(it);
         backwards ? varve_iter_prev(it) : varve_iter_next(it), have++) {
        varve_entry e;
        varve_iter_entry(it, &e);
        uint8_t number = key_number(e.key, e.key_bytes);
        vv_slice key = vv_slice_make(e.key, e.key_bytes);
        FUZZ_CHECK(have == 0 || (vv_slice_compare(before, key) < 0) != backwards);
        FUZZ_CHECK(e.lsn == visible(w, number, lsn) && e.lsn > 0);
        FUZZ_CHECK(is_value(&w->history[e.lsn - 1], e.value, e.value_bytes));
        before = key_of(number, before_buf);
    }
    must(varve_iter_status(it));
    FUZZ_CHECK(have == want, "%u entries, not %u", have, want);
    varve_iter_destroy(it);
}

static void read_log(world *w) {
    varve_wal_cursor *c;
    varve_wal_batch batch;
    uint64_t after = vv_read_u8(&w->input) % (w->durable_lsn + 1), next = 0;
    varve_status st = varve_wal_cursor_open(w->db, after, &c, NULL);
    if (st.code == VARVE_TRIMMED)
        return;
    must(st);
    while (varve_ok(st = varve_wal_cursor_next(c, &batch))) {
        varve_wal_ops ops;
        varve_wal_op have;
        FUZZ_CHECK(batch.last_lsn > after && (next == 0 || batch.first_lsn == next));
        varve_wal_ops_init(&ops, &batch);
        while (varve_ok(st = varve_wal_ops_next(&ops, &have))) {
            const op *want = &w->history[have.lsn - 1];
            FUZZ_CHECK(have.lsn <= w->lsn && have.is_delete == want->deleted);
            FUZZ_CHECK(key_number(have.key, have.key_bytes) == want->key);
            FUZZ_CHECK(want->deleted || is_value(want, have.value, have.value_bytes));
        }
        FUZZ_CHECK(st.code == VARVE_END && w->history[batch.last_lsn - 1].ends_batch);
        next = batch.last_lsn + 1;
    }
    FUZZ_CHECK(st.code == VARVE_END || st.code == VARVE_TRIMMED, "%s", varve_code_name(st.code));
    varve_wal_cursor_close(c);
}

/* ---- its life ---- */

static void open_db(world *w) {
    vv_error err;
    vv_status st = vv_db_open_on(vv_sim_backend_create(w->disk), "/db", w->options, &w->db, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
}

static void release_snapshots(world *w) {
    for (size_t i = 0; i < SNAPSHOTS; i++) {
        varve_snapshot_release(w->db, w->snapshots[i]);
        w->snapshots[i] = NULL;
    }
}

static void reopen(world *w) {
    release_snapshots(w);
    must(varve_close(w->db));
    open_db(w);
    FUZZ_CHECK(varve_visible_lsn(w->db) == w->lsn);
    w->durable_lsn = w->lsn;
}

static void lose_power(world *w) {
    uint8_t how = vv_read_u8(&w->input);
    vv_sim_crash crash = {.survival = how % 3, .seed = how, .destroys = how & 64, .shows_stale = how & 128};
    vv_sim_disk *image = vv_sim_disk_crash(w->disk, &crash);
    vv_sim_disk_power_off(w->disk);
    release_snapshots(w);
    varve_status st = varve_close(w->db);
    (void)st; /* of a disk without power */
    vv_sim_disk_destroy(w->disk);
    w->disk = image;
    open_db(w);
    uint64_t lsn = varve_visible_lsn(w->db);
    FUZZ_CHECK(lsn >= w->durable_lsn && lsn <= w->lsn, "%llu is there, %llu was durable",
               (unsigned long long)lsn, (unsigned long long)w->durable_lsn);
    FUZZ_CHECK(lsn == 0 || w->history[lsn - 1].ends_batch);
    w->lsn = w->durable_lsn = lsn;
    get_all(w, NULL);
}

static void take_snapshot(world *w, size_t i) {
    varve_snapshot_release(w->db, w->snapshots[i]);
    w->snapshots[i] = varve_snapshot_create(w->db);
    FUZZ_CHECK(w->snapshots[i] && varve_snapshot_lsn(w->snapshots[i]) == w->lsn);
}

static void step(world *w) {
    uint8_t kind = vv_read_u8(&w->input);
    const varve_snapshot *snapshot = w->snapshots[kind / 32 % SNAPSHOTS];
    w->sync = kind & 16;
    switch (kind % 16) {
    case 0:
    case 1:
    case 2: write_batch(w, 0, 0); break;
    case 3: write_batch(w, 1 + kind / 128, 0); break;
    case 4: write_batch(w, 0, 1 + kind / 32 % NAMES); break;
    case 5: get(w); break;
    case 6: get_all(w, snapshot); break;
    case 7: scan(w, snapshot, w->sync); break;
    case 8: scan(w, NULL, w->sync); break;
    case 9: take_snapshot(w, kind / 32 % SNAPSHOTS); break;
    case 10:
        must(varve_flush(w->db));
        w->durable_lsn = w->lsn;
        break;
    case 11:
        must(varve_compact(w->db));
        w->durable_lsn = w->lsn;
        break;
    case 12: reopen(w); break;
    case 13: lose_power(w); break;
    case 14: read_log(w); break;
    default: must(varve_set_safe_compaction_lsn(w->db, vv_read_u8(&w->input), NULL)); break;
    }
}

static varve_options *choose_options(uint8_t how) {
    static const char *const memtables[] = {"skiplist", "hashmap", "btree"};
    static const char *const compressions[] = {"none", "lz4", "zstd"};
    const char *more[] = {"MEMTABLE_TYPE",
                          memtables[how % 3],
                          "COMPACTION_STYLE",
                          how & 32 ? "tiered" : "leveled",
                          "INDEX_TYPE",
                          how & 64 ? "dense" : "sparse",
                          "COMPRESSION",
                          compressions[how / 3 % 3],
                          NULL};
    return fuzz_db_options(more);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    world *w = calloc(1, sizeof *w);
    FUZZ_CHECK(w);
    w->input = vv_reader_make(vv_slice_make(data, bytes));
    w->options = choose_options(vv_read_u8(&w->input));
    vv_sim_options disk = {.seed = 1, .align_bytes = 512, .atomic_block_bytes = 512};
    w->disk = vv_sim_disk_create(&disk);
    fuzz_allocation_max(ALLOCATION_MAX);
    open_db(w);
    for (int i = 0; i < STEPS_MAX && w->input.left_bytes > 0; i++)
        step(w);
    get_all(w, NULL);
    reopen(w);
    get_all(w, NULL);
    must(varve_close(w->db));
    fuzz_allocation_max(0);
    vv_sim_disk_destroy(w->disk);
    varve_options_destroy(w->options);
    free(w);
    return 0;
}
