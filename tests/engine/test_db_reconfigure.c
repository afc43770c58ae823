/*
 * What changes in an open database: the cache beside readers, the rate of a merge that is under way.
 */
#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/sync.h"
#include "tests/engine/db_fixture.h"

TestSuite(db_reconfigure, .init = NULL, .fini = vv_tempdir_cleanup, .timeout = 120);

#define KEYS        4000
#define VALUE_BYTES 400

/* The options of the fixture with one key of another value. */
static void reconfigure(const char *key, const char *value) {
    varve_options *o = fx_options(key, value, NULL);
    cr_assert(varve_ok(varve_reconfigure(fx_db, o, &fx_err)), "%s", fx_err.text);
    varve_options_destroy(o);
}

static void name_of(char name[32], int key) {
    snprintf(name, 32, "key%06d", key);
}

static void put_all(int first, int count) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char name[32], value[VALUE_BYTES];
    for (int k = first; k < first + count; k++) {
        memset(value, 'a' + k % 26, sizeof value);
        name_of(name, k);
        cr_assert(varve_ok(varve_put(fx_db, name, strlen(name), value, sizeof value, &async, NULL)));
    }
}

static bool is_there(int key) {
    char name[32];
    varve_value v;
    name_of(name, key);
    if (!varve_ok(varve_get(fx_db, name, strlen(name), &v)))
        return false;
    const char *bytes = v.data;
    bool right = v.bytes == VALUE_BYTES && bytes[0] == 'a' + key % 26 && bytes[VALUE_BYTES - 1] == bytes[0];
    varve_value_release(&v);
    return right;
}

static void read_all(void) {
    for (int k = 0; k < KEYS; k++)
        cr_assert(is_there(k), "key %d", k);
}

/* ---- which keys ---- */

Test(db_reconfigure, the_keys_that_may_change_are_told) {
    varve_option_info info;
    int live = 0;
    for (size_t i = 0; varve_options_describe(i, &info); i++) {
        bool expected = strcmp(info.key, "CACHE_CAPACITY") == 0 || strcmp(info.key, "COMPACTION_RATE") == 0;
        cr_assert_eq(info.live, expected, "%s", info.key);
        live += info.live;
    }
    cr_assert_eq(live, 2);
}

/* ---- the cache ---- */

typedef struct reader {
    _Atomic bool over;
    _Atomic uint64_t reads, failures;
} reader;

static void read_often(void *arg) {
    reader *r = arg;
    for (uint64_t n = 0; !atomic_load(&r->over); n++) {
        if (!is_there((int)(n * 7919 % KEYS)))
            atomic_fetch_add(&r->failures, 1);
        atomic_fetch_add(&r->reads, 1);
    }
}

Test(db_reconfigure, the_cache_shrinks_and_grows_while_readers_run) {
    static const struct {
        const char *capacity;
        uint64_t bytes;
    } steps[] = {{"64KiB", 64 << 10}, {"4MiB", 4 << 20}, {"100", 100 * 4096}, {"0", 0}, {"1MiB", 1 << 20}};
    fx_open_with(fx_options("CACHE_CAPACITY", "8MiB", NULL));
    put_all(0, KEYS);
    cr_assert(varve_ok(varve_flush(fx_db)));
    read_all();
    cr_assert_gt(fx_stats().cache_bytes, 1 << 20);
    reader r = {.over = false};
    pthread_t threads[3];
    for (int t = 0; t < 3; t++)
        cr_assert(vv_ok(vv_thread_start(&threads[t], "reader", read_often, &r)));
    for (int round = 0; round < 6; round++)
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            reconfigure("CACHE_CAPACITY", steps[i].capacity);
            /* Beside the bound: what each reader has pinned or on its way, of 16 KiB at most. */
            cr_assert_leq(fx_stats().cache_bytes, steps[i].bytes + 3 * 3 * (16 << 10), "%s",
                          steps[i].capacity);
            uint64_t seen = atomic_load(&r.reads);
            while (atomic_load(&r.reads) < seen + 100)
                sched_yield();
        }
    atomic_store(&r.over, true);
    for (int t = 0; t < 3; t++)
        vv_thread_join(threads[t]);
    cr_assert_eq(atomic_load(&r.failures), 0);

    reconfigure("CACHE_CAPACITY", "8MiB");
    read_all();
    uint64_t misses = fx_stats().cache_misses;
    read_all();
    cr_assert_eq(fx_stats().cache_misses, misses, "everything is in the larger one");
    reconfigure("CACHE_CAPACITY", "0");
    cr_assert_eq(fx_stats().cache_bytes, 0);
    fx_close();
}

/* ---- the rate of merges ---- */

static varve_compaction_info merge_now(void) {
    varve_compaction_info now;
    varve_compaction_get(fx_db, &now);
    return now;
}

static void compact(void *arg) {
    *(varve_status *)arg = varve_compact(fx_db);
}

Test(db_reconfigure, a_new_rate_holds_for_the_merge_under_way_and_flushes_wait_for_none) {
    varve_status st = {.code = VARVE_INTERNAL};
    pthread_t thread;
    fx_open_with(fx_options("COMPACTION_RATE", "1", "COMPACTION_THRESHOLD", "64", NULL));
    for (int i = 0; i < 4; i++) {
        put_all(i * KEYS / 4, KEYS / 4);
        cr_assert(varve_ok(varve_flush(fx_db)));
    }
    cr_assert(vv_ok(vv_thread_start(&thread, "compact", compact, &st)));
    while (!merge_now().running || merge_now().done_bytes == 0)
        sched_yield();
    uint64_t flushes = fx_stats().flushes;
    put_all(KEYS, 1000);
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert_eq(fx_stats().flushes, flushes + 1);
    cr_assert(merge_now().running, "a byte a second");
    cr_assert_eq(fx_stats().compactions, 0);

    reconfigure("COMPACTION_RATE", "1KiB");
    cr_assert(merge_now().running, "still slower than the test");
    uint64_t start_ns = vv_clock_mono_ns();
    reconfigure("COMPACTION_RATE", "0");
    vv_thread_join(thread);
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
    cr_assert_lt(vv_clock_mono_ns() - start_ns, 60 * VV_NS_PER_S);
    cr_assert_geq(fx_stats().compactions, 1);
    read_all();
    fx_close();
}

Test(db_reconfigure, a_merge_takes_the_time_that_its_rate_gives_it) {
    /* 1.6 MB in pieces of which the first comes at once. */
    fx_open_with(fx_options("COMPACTION_RATE", "4MiB", "COMPACTION_THRESHOLD", "64", NULL));
    for (int i = 0; i < 4; i++) {
        put_all(i * KEYS / 4, KEYS / 4);
        cr_assert(varve_ok(varve_flush(fx_db)));
    }
    uint64_t start_ns = vv_clock_mono_ns();
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_gt(vv_clock_mono_ns() - start_ns, 150 * VV_NS_PER_MS);
    fx_close();
}

Test(db_reconfigure, merges_are_let_go_before_writes_would_wait_for_them) {
    fx_open_with(
        fx_options("COMPACTION_RATE", "1", "COMPACTION_THRESHOLD", "2", "MEMTABLE_SIZE", "64KiB", NULL));
    put_all(0, KEYS);
    cr_assert(varve_ok(varve_flush(fx_db)));
    while (fx_stats().compactions == 0)
        sched_yield();
    read_all();
    fx_close(); /* which waits for no rate */
}
