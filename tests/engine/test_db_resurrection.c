/*
 * What the safe compaction LSN is for. A replica that lags has keys that were deleted meanwhile. If it
 * catches up from the primary's tables (what it wants has left the log), it learns of a deletion by its
 * tombstone alone: were that merged away, the key would come back from the dead.
 *
 *   primary   put k   | delete k, flush, merge to the last level: is the tombstone there?
 *   replica   put k   | ..................................... takes what is newer than this from the tables
 *                     L
 *
 * With the gate off such keys come back; with the gate at L, set by hand or by a slot, they never do. In
 * VARVE_TEST_HISTORIES random histories, or a dozen.
 */
#include <stdlib.h>

#include "engine/db/db_impl.h"
#include "engine/lsm/run_iter.h"
#include "tests/engine/db_fixture.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_resurrection, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 240);

typedef enum gate { GATE_OFF, GATE_BY_HAND, GATE_BY_SLOT } gate;

static varve_db *primary, *replica;
static varve_wal_cursor *cursor; /* of the primary's log, from its beginning */

static void open_both(const char *style, int number) {
    char name[32];
    for (int i = 0; i < 2; i++) {
        varve_options *o =
            fx_options("COMPACTION_STYLE", style, "MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB",
                       "LSM_LEVELS", "3", "COMPACTION_THRESHOLD", "2", "WAL_SEGMENT_SIZE", "256KiB", NULL);
        snprintf(name, sizeof name, "%s%d", i == 0 ? "primary" : "replica", number);
        cr_assert(varve_ok(varve_open(vv_tempdir_path(name), o, i == 0 ? &primary : &replica, &fx_err)), "%s",
                  fx_err.text);
        varve_options_destroy(o);
    }
    cr_assert(varve_ok(varve_wal_cursor_open(primary, 0, &cursor, NULL)));
    varve_wal_cursor_hold(cursor, UINT64_C(1) << 30);
}

static void close_both(void) {
    cr_assert(varve_ok(varve_close(primary)));
    cr_assert(varve_ok(varve_close(replica)));
}

static uint64_t last_lsn(varve_db *db) {
    varve_stats s;
    varve_stats_get(db, &s);
    return s.last_lsn;
}

/* ---- the two ways of catching up ---- */

static void from_the_log(void) {
    static uint8_t record[1 << 20];
    varve_wal_batch b;
    cr_assert(varve_ok(varve_flush(primary)), "which also makes all of it durable");
    while (last_lsn(replica) < last_lsn(primary)) {
        cr_assert(varve_ok(varve_wal_cursor_next(cursor, &b)));
        size_t bytes = varve_wal_batch_encode(&b, record, sizeof record);
        cr_assert_leq(bytes, sizeof record);
        cr_assert(varve_ok(varve_apply(replica, record, bytes, NULL, &fx_err)), "%s", fx_err.text);
    }
    varve_wal_cursor_close(cursor);
}

#define KEYS 64

/* What tables say of a key: its newest entry, tombstones included. lsn 0: nothing newer than the replica. */
typedef struct found {
    uint64_t lsn;
    uint64_t expires_unix_ms;
    bool deleted;
    char value[32];
} found;

static void key_of(uint64_t n, char key[8]) {
    snprintf(key, 8, "k%03" PRIu64, n);
}

static void look(const vv_entry *e, uint64_t after_lsn, found all[KEYS]) {
    char key[8] = "";
    memcpy(key, e->key.data, e->key.bytes);
    found *f = &all[strtoull(key + 1, NULL, 10)];
    if (e->lsn <= after_lsn || e->lsn < f->lsn)
        return;
    *f = (found){.lsn = e->lsn, .expires_unix_ms = e->expires_unix_ms, .deleted = e->kind == VV_KIND_DELETE};
    memcpy(f->value, e->value.data ? e->value.data : "", e->value.bytes);
}

static void read_tables(const varve_export *exported, uint64_t after_lsn, found all[KEYS]) {
    const vv_version *v = vv_db_export_version(exported);
    for (size_t i = 0; i < v->run_count; i++) {
        vv_iter *it;
        cr_assert(vv_ok(vv_run_iter_create(&v->runs[i], primary->tables, primary->blocks, NULL, &it)));
        for (vv_iter_seek_first(it); it->valid; vv_iter_next(it))
            look(&it->entry, after_lsn, all);
        cr_assert(vv_ok(it->status));
        vv_iter_destroy(it);
    }
}

/* Everything newer than after_lsn. Returns the LSN that the replica is at then. */
static uint64_t from_tables(uint64_t after_lsn) {
    static found all[KEYS];
    varve_export exported;
    char key[8];
    cr_assert(varve_ok(varve_take_snapshot(primary, &exported, &fx_err)), "%s", fx_err.text);
    uint64_t lsn = exported.lsn;
    memset(all, 0, sizeof all);
    read_tables(&exported, after_lsn, all);
    varve_export_release(primary, &exported);
    varve_batch *b = varve_batch_create();
    for (uint64_t n = 0; n < KEYS; n++) {
        const found *f = &all[n];
        key_of(n, key);
        if (f->lsn != 0)
            cr_assert(varve_ok(f->deleted ? varve_batch_delete(b, key, 4)
                                          : varve_batch_put_expiring(b, key, 4, f->value, strlen(f->value),
                                                                     f->expires_unix_ms)));
    }
    if (varve_batch_count(b) > 0)
        cr_assert(varve_ok(varve_write(replica, b, NULL, NULL)));
    varve_batch_destroy(b);
    return lsn;
}

/* ---- what is alive ---- */

static bool get(varve_db *db, uint64_t n, char value[32]) {
    char key[8];
    varve_value v;
    key_of(n, key);
    varve_status st = varve_get(db, key, 4, &v);
    memset(value, 0, 32);
    if (varve_ok(st))
        memcpy(value, v.data, v.bytes);
    else
        cr_assert_eq(st.code, VARVE_NOT_FOUND);
    varve_value_release(&v);
    return varve_ok(st);
}

/* How many keys the replica has that the primary hasn't. All else must be the same. */
static int count_resurrected(void) {
    char here[32], there[32];
    int count = 0;
    for (uint64_t n = 0; n < KEYS; n++) {
        bool alive = get(primary, n, here), also = get(replica, n, there);
        cr_assert(!alive || (also && strcmp(here, there) == 0), "key %" PRIu64 ": '%s' and '%s'", n, here,
                  there);
        count += also && !alive;
    }
    return count;
}

static void set_gate(gate g, uint64_t lsn) {
    if (g == GATE_BY_HAND)
        cr_assert(varve_ok(varve_set_safe_compaction_lsn(primary, lsn, &fx_err)), "%s", fx_err.text);
    else if (g == GATE_BY_SLOT && varve_ok(varve_slot_confirm(primary, "replica", lsn)))
        return;
    else if (g == GATE_BY_SLOT)
        cr_assert(varve_ok(varve_slot_create(primary, "replica", lsn, &fx_err)), "%s", fx_err.text);
}

/* ---- one key ---- */

static int one_key(gate g) {
    open_both("leveled", 0);
    cr_assert(varve_ok(varve_put(primary, "k007", 4, "alive", 5, NULL, NULL)));
    from_the_log();
    set_gate(g, 1);
    cr_assert(varve_ok(varve_delete(primary, "k007", 4, NULL, NULL)));
    cr_assert(varve_ok(varve_compact(primary)));
    (void)from_tables(1);
    int count = count_resurrected();
    close_both();
    return count;
}

Test(db_resurrection, without_the_gate_a_deleted_key_comes_back) {
    cr_assert_eq(one_key(GATE_OFF), 1);
}

Test(db_resurrection, with_the_gate_it_does_not) {
    cr_assert_eq(one_key(GATE_BY_HAND), 0);
}

Test(db_resurrection, nor_with_a_slot) {
    cr_assert_eq(one_key(GATE_BY_SLOT), 0);
}

/* ---- many histories ---- */

static void write_one(uint64_t *seed) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    static uint64_t number;
    char key[8], value[32];
    uint64_t dice = vv_test_random(seed) % 100;
    key_of(vv_test_random(seed) % KEYS, key);
    int value_bytes = snprintf(value, sizeof value, "%" PRIu64, ++number);
    if (dice < 45) {
        cr_assert(varve_ok(varve_delete(primary, key, 4, &async, NULL)));
    } else if (dice < 55) { /* one that has expired long ago deletes as well */
        varve_batch *b = varve_batch_create();
        cr_assert(varve_ok(varve_batch_put_expiring(b, key, 4, value, (size_t)value_bytes, 1)));
        cr_assert(varve_ok(varve_write(primary, b, &async, NULL)));
        varve_batch_destroy(b);
    } else {
        cr_assert(varve_ok(varve_put(primary, key, 4, value, (size_t)value_bytes, &async, NULL)));
    }
    if (vv_test_random(seed) % 15 == 0)
        cr_assert(varve_ok(varve_flush(primary))); /* and whatever merges come of it */
    if (vv_test_random(seed) % 40 == 0)
        cr_assert(varve_ok(varve_compact(primary)));
}

static uint64_t dropped_tombstones;

/* The replica follows the log for a while and then tables, again and again. Returns how often a key was alive
 * on the replica alone. */
static int one_history(gate g, const char *style, uint64_t *seed, int number) {
    int count = 0;
    open_both(style, number);
    for (uint64_t i = vv_test_random(seed) % 150; i > 0; i--)
        write_one(seed);
    from_the_log();
    uint64_t lsn = last_lsn(replica);
    cr_assert_eq(count_resurrected(), 0);
    for (int round = 0; round < 4; round++) {
        set_gate(g, lsn);
        if (vv_test_random(seed) % 2) /* what is confirmed goes */
            cr_assert(varve_ok(varve_compact(primary)));
        for (uint64_t i = vv_test_random(seed) % 100; i > 0; i--)
            write_one(seed);
        if (vv_test_random(seed) % 2)
            cr_assert(varve_ok(varve_compact(primary)));
        lsn = from_tables(lsn);
        count += count_resurrected();
    }
    varve_stats s;
    varve_stats_get(primary, &s);
    dropped_tombstones += s.dropped_tombstones;
    close_both();
    return count;
}

static int histories(gate g) {
    const char *given = getenv("VARVE_TEST_HISTORIES");
    uint64_t seed = vv_test_seed();
    int count = 0, wanted = given ? atoi(given) : 12;
    for (int i = 0; i < wanted; i++)
        count += one_history(g, i % 2 ? "tiered" : "leveled", &seed, i);
    cr_log_info("%d keys were resurrected in %d histories, %" PRIu64 " tombstones dropped", count, wanted,
                dropped_tombstones);
    cr_assert_gt(dropped_tombstones, 0, "a gate opens, too");
    return count;
}

Test(db_resurrection, without_the_gate_keys_come_back_in_random_histories) {
    cr_assert_gt(histories(GATE_OFF), 0);
}

Test(db_resurrection, with_the_gate_they_never_do) {
    cr_assert_eq(histories(GATE_BY_HAND), 0);
}

Test(db_resurrection, nor_do_they_with_a_slot) {
    cr_assert_eq(histories(GATE_BY_SLOT), 0);
}
