/*
 * test_db_look.c - what a database says of itself agrees with what was done to it.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "tests/engine/db_fixture.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_look, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static void fill(int keys) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char name[32], value[200];
    memset(value, 'v', sizeof value);
    for (int k = 0; k < keys; k++) {
        int bytes = snprintf(name, sizeof name, "key%06d", k);
        cr_assert(varve_ok(varve_put(fx_db, name, (size_t)bytes, value, sizeof value, &async, NULL)));
    }
}

static uint64_t count_of(varve_spread_kind kind, uint64_t *sum_out) {
    varve_spread s;
    uint64_t count = 0;
    varve_spread_get(fx_db, kind, &s);
    for (size_t i = 0; i < VARVE_SPREAD_BUCKETS; i++)
        count += s.counts[i];
    *sum_out = s.sum;
    return count;
}

Test(db_look, spreads_have_each_commit_flush_and_merge) {
    uint64_t sum;
    fx_open_with(fx_options("COMPACTION_THRESHOLD", "2", NULL));
    for (int i = 0; i < 20; i++)
        fx_put("a", "b");
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_put("a", "c");
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert(varve_ok(varve_compact(fx_db)));
    varve_stats s = fx_stats();
    cr_assert_geq(s.wal_commits, 21);
    cr_assert_eq(count_of(VARVE_SPREAD_WAL_COMMIT_RECORDS, &sum), s.wal_commits);
    cr_assert_eq(sum, s.wal_records);
    cr_assert_eq(count_of(VARVE_SPREAD_WAL_COMMIT_US, &sum), s.wal_commits);
    cr_assert_gt(sum, 0);
    cr_assert_lt(sum, 120 * UINT64_C(1000000), "%" PRIu64 " us are more than the test had", sum);
    cr_assert_eq(count_of(VARVE_SPREAD_FLUSH_US, &sum), s.flushes);
    cr_assert_eq(count_of(VARVE_SPREAD_COMPACTION_US, &sum), s.compactions);
    cr_assert_geq(s.compactions, 1);
    fx_close();
}

Test(db_look, bounds_rise_to_the_end) {
    for (size_t i = 1; i < VARVE_SPREAD_BUCKETS; i++)
        cr_assert_gt(varve_spread_bound(i), varve_spread_bound(i - 1));
    cr_assert_eq(varve_spread_bound(VARVE_SPREAD_BUCKETS - 1), UINT64_MAX);
    cr_assert_eq(varve_spread_bound(SIZE_MAX), UINT64_MAX);
}

Test(db_look, runs_are_those_that_reads_look_into) {
    varve_run_info runs[8];
    fx_open_with(fx_options("COMPACTION_THRESHOLD", "8", NULL));
    cr_assert_eq(varve_runs_get(fx_db, runs, 8), 0);
    for (int i = 0; i < 3; i++) {
        fill(100 * (i + 1));
        if (i == 2)
            fx_delete("key000001");
        cr_assert(varve_ok(varve_flush(fx_db)));
    }
    varve_stats s = fx_stats();
    cr_assert_eq(varve_runs_get(fx_db, runs, 8), s.sorted_run_count);
    cr_assert_eq(s.sorted_run_count, 3);
    uint64_t bytes = 0, tables = 0;
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(runs[i].level, 0);
        bytes += runs[i].bytes;
        tables += runs[i].table_count;
    }
    cr_assert_eq(bytes, s.sstable_bytes);
    cr_assert_eq(tables, s.sstable_count);
    cr_assert_eq(runs[0].entry_count, 301, "the newest is first");
    cr_assert_eq(runs[0].tombstone_count, 1);
    cr_assert_eq(runs[2].entry_count, 100);
    memset(runs, 0, sizeof runs);
    cr_assert_eq(varve_runs_get(fx_db, runs, 1), 3, "how many there are, whatever there is room for");
    cr_assert_eq(runs[1].table_count, 0);
    fx_close();
}

static _Atomic bool seen;

static void *merge_until_seen(void *arg) {
    (void)arg;
    while (!atomic_load(&seen)) {
        fill(3000);
        cr_assert(varve_ok(varve_compact(fx_db)));
    }
    return NULL;
}

Test(db_look, a_merge_is_seen_while_it_runs_and_not_after) {
    pthread_t merger;
    varve_compaction_info c;
    fx_open_with(fx_options("MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB", NULL));
    varve_compaction_get(fx_db, &c);
    cr_assert_not(c.running);
    cr_assert_eq(pthread_create(&merger, NULL, merge_until_seen, NULL), 0);
    do {
        sched_yield();
        varve_compaction_get(fx_db, &c);
    } while (!c.running);
    cr_assert_gt(c.input_tables, 0);
    cr_assert_gt(c.input_bytes, 0);
    cr_assert_leq(c.input_level, c.output_level);
    cr_assert_gt(c.started_ns, 0);
    atomic_store(&seen, true);
    pthread_join(merger, NULL);
    /* One that nobody asked for may follow the last that was. */
    do {
        sched_yield();
        varve_compaction_get(fx_db, &c);
    } while (c.running);
    cr_assert_eq(c.input_bytes, 0);
    cr_assert_eq(c.started_ns, 0);
    fx_close();
}
