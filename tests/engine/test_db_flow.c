/*
 * A database that is written faster than it can flush and merge.
 */
#include <pthread.h>

#include "base/clock.h"
#include "tests/engine/db_fixture.h"

TestSuite(db_flow, .init = NULL, .fini = vv_tempdir_cleanup, .timeout = 60);

#define THREADS 4
#define WRITES  1500

static void *write_async(void *arg) {
    char key[32], value[400];
    memset(value, 'v', sizeof value);
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    for (int i = 0; i < WRITES; i++) {
        snprintf(key, sizeof key, "%d-%05d", *(int *)arg, (i * 7919) % WRITES);
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), value, sizeof value, &async, NULL)));
    }
    return NULL;
}

static void overload(void) {
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, write_async, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

Test(db_flow, writers_are_slowed_before_they_stall_and_nothing_is_lost) {
    const char *styles[] = {"leveled", "tiered"};
    for (int s = 0; s < 2; s++) {
        fx_open_with(fx_options("MEMTABLE_SIZE", "64KiB", "MAX_IMMUTABLE_COUNT", "2", "COMPACTION_THRESHOLD",
                                "2", "COMPACTION_STYLE", styles[s], NULL));
        overload();
        varve_stats stats = fx_stats();
        cr_assert_gt(stats.write_delays, 0);
        cr_assert_gt(stats.write_delay_us, 0);
        cr_assert_leq(stats.immutable_count, 2);
        fx_close();
        fx_open();
        char key[32];
        for (int t = 0; t < THREADS; t++)
            for (int i = 0; i < WRITES; i++) {
                varve_value v;
                snprintf(key, sizeof key, "%d-%05d", t, i);
                cr_assert(varve_ok(varve_get(fx_db, key, strlen(key), &v)), "%s", key);
                varve_value_release(&v);
            }
        fx_close();
    }
}

Test(db_flow, asynchronous_writes_become_durable_while_writers_are_delayed) {
    fx_open_with(
        fx_options("MEMTABLE_SIZE", "64KiB", "MAX_IMMUTABLE_COUNT", "1", "WAL_SYNC_INTERVAL", "1ms", NULL));
    char value[8000];
    memset(value, 'v', sizeof value);
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    uint64_t worst_ns = 0;
    for (int i = 0; i < 300; i++) {
        uint64_t lsn, start_ns = vv_clock_mono_ns();
        cr_assert(varve_ok(varve_put(fx_db, "k", 1, value, sizeof value, &async, &lsn)));
        while (i % 10 == 0 && fx_stats().durable_lsn < lsn)
            cr_assert_lt(vv_clock_mono_ns() - start_ns, 5 * VV_NS_PER_S, "%" PRIu64 " is never durable", lsn);
        worst_ns = vv_clock_mono_ns() - start_ns > worst_ns ? vv_clock_mono_ns() - start_ns : worst_ns;
    }
    cr_log_info("worst put, durable: %" PRIu64 " us", worst_ns / VV_NS_PER_US);
    cr_assert_gt(fx_stats().write_delays, 0);
    fx_close();
}
