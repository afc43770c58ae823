/*
 * What the log brings back at open, gathered and sorted on its way.
 */
#include <stdlib.h>

#include "tests/engine/db_fixture.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_replay, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

#define KEYS   2000
#define WRITES 20000

static const char *key_at(uint64_t n) {
    static char key[64];
    snprintf(key, sizeof key, n % 2 ? "the first bytes of all are the same %04" PRIu64 : "%04" PRIu64, n);
    return key;
}

/* last[n]: the write that key n holds, 0: deleted or never written. */
static void write_all(uint64_t seed, uint64_t *last) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    for (uint64_t i = 1; i <= WRITES; i++) {
        uint64_t n = vv_test_random(&seed) % KEYS;
        char value[32];
        int bytes = snprintf(value, sizeof value, "%" PRIu64, i);
        const char *key = key_at(n);
        last[n] = vv_test_random(&seed) % 8 ? i : 0;
        varve_status st = last[n] ? varve_put(fx_db, key, strlen(key), value, (size_t)bytes, &async, NULL)
                                  : varve_delete(fx_db, key, strlen(key), &async, NULL);
        cr_assert(varve_ok(st));
    }
}

static void check_all(const uint64_t *last) {
    for (uint64_t n = 0; n < KEYS; n++) {
        char value[32];
        snprintf(value, sizeof value, "%" PRIu64, last[n]);
        fx_expect(key_at(n), last[n] ? value : NULL);
    }
}

static void replay_with(const char *type, const char *memtable_bytes, bool flushes) {
    static uint64_t last[KEYS];
    memset(last, 0, sizeof last);
    fx_open_with(fx_options("MEMTABLE_TYPE", type, NULL));
    write_all(vv_test_seed(), last);
    fx_close();
    fx_open_with(fx_options("MEMTABLE_TYPE", type, "MEMTABLE_SIZE", memtable_bytes, NULL));
    varve_stats s = fx_stats();
    cr_assert_eq(s.last_lsn, WRITES);
    cr_assert_eq(s.flushed_lsn > 0, flushes, "flushed up to %" PRIu64, s.flushed_lsn);
    check_all(last);
    fx_put("and", "it goes on");
    fx_close();
    fx_open_with(fx_options("MEMTABLE_TYPE", type, NULL));
    check_all(last);
    fx_expect("and", "it goes on");
    fx_close();
}

Test(db_replay, the_newest_of_each_key_comes_back_into_a_skip_list) {
    replay_with("skiplist", "64MiB", false);
}

Test(db_replay, the_newest_of_each_key_comes_back_into_a_hash_map) {
    replay_with("hashmap", "64MiB", false);
}

Test(db_replay, a_log_that_is_larger_than_a_memtable_is_flushed_on_its_way) {
    replay_with("skiplist", "256KiB", true);
}

Test(db_replay, records_too_large_to_be_gathered_keep_their_place) {
    fx_open();
    varve_batch *b = varve_batch_create();
    char *big = calloc(1, 300000);
    fx_put("k", "old");
    cr_assert(varve_ok(varve_batch_put(b, "k", 1, big, 300000)));
    cr_assert(varve_ok(varve_write(fx_db, b, NULL, NULL)));
    fx_put("other", "1");
    fx_close();
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", NULL));
    varve_value v;
    cr_assert(varve_ok(varve_get(fx_db, "k", 1, &v)));
    cr_assert_eq(v.bytes, 300000);
    varve_value_release(&v);
    fx_expect("other", "1");
    cr_assert_eq(fx_stats().last_lsn, 3);
    fx_close();
    varve_batch_destroy(b);
    free(big);
}
