#include "tests/engine/wal_fixture.h"

#include <stdatomic.h>

#include "base/clock.h"

TestSuite(wal, .init = fx_setup, .fini = fx_teardown);

/* Wait, with a bound, until the log's thread has brought something about. */
#define eventually(condition)                                                                                \
    do {                                                                                                     \
        uint64_t until_ = vv_clock_mono_ns() + 20 * VV_NS_PER_S;                                             \
        while (!(condition)) {                                                                               \
            cr_assert(vv_clock_mono_ns() < until_, "still not: %s", #condition);                             \
            usleep(200);                                                                                     \
        }                                                                                                    \
    } while (0)

Test(wal, an_empty_log_opens_and_closes) {
    fx_open(0);
    cr_assert_eq(vv_wal_last_lsn(fx_wal), 0);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 0);
    fx_close();
}

Test(wal, what_was_synced_is_replayed) {
    fx_open(0);
    fx_put(50);
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    cr_assert_eq(s.durable_lsn, 50);
    cr_assert_eq(s.commits, 50);
    cr_assert_eq(s.records, 50);
    cr_assert_gt(s.written_bytes, 0);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 50);
    cr_assert_eq(vv_wal_last_lsn(fx_wal), 50);
    cr_assert_eq(fx_log[0], '\0', "a clean log says nothing: %s", fx_log);
    fx_close();
}

static void groups_on_the_ring(void) {
    fx_open(0);
    uint64_t lsn = 0;
    for (int group = 0; group < 100; group++) {
        for (int i = 0; i < group % 40 + 1; i++)
            must(fx_append(fx_wal, ++lsn));
        vv_wal_commit(fx_wal, false);
        if (group % 3 == 0)
            must(vv_wal_sync(fx_wal));
    }
    must(vv_wal_sync(fx_wal));
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    cr_assert_eq(s.durable_lsn, lsn);
    cr_assert_gt(s.segment_count, 3);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replayed, lsn);
    cr_assert_eq(fx_replay_count, lsn);
    fx_close();
}

Test(wal, groups_on_the_ring_span_segments) {
    groups_on_the_ring();
}

Test(wal, groups_on_the_ring_of_the_best_backend_here) {
    vv_io_backend_destroy(fx_io);
    must(vv_io_backend_create(VV_IO_CHOICE_AUTO, NULL, &fx_io, &fx_err));
    groups_on_the_ring();
}

Test(wal, full_frames_go_on_their_way_by_themselves) {
    fx_open(0);
    for (uint64_t lsn = 1; lsn <= 3000; lsn++)
        must(fx_append(fx_wal, lsn));
    vv_wal_commit(fx_wal, false);
    must(vv_wal_sync(fx_wal));
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 3000);
    fx_close();
}

Test(wal, uncommitted_records_are_committed_by_close) {
    fx_open(0);
    must(fx_append(fx_wal, 1));
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 1);
    fx_close();
}

Test(wal, replay_skips_what_is_in_tables) {
    fx_open(0);
    fx_put(40);
    fx_close();
    fx_open(25);
    cr_assert_eq(fx_replay_count, 15);
    cr_assert_eq(fx_replayed, 40);
    fx_close();
    fx_open(60); /* tables reach further than the log: it goes on behind them */
    cr_assert_eq(fx_replay_count, 0);
    cr_assert_eq(vv_wal_last_lsn(fx_wal), 60);
    fx_put(5);
    fx_close();
    fx_open(60);
    cr_assert_eq(fx_replay_count, 5);
    fx_close();
}

Test(wal, many_reopenings_lose_nothing) {
    for (uint64_t round = 0; round < 30; round++) {
        fx_open(0);
        cr_assert_eq(fx_replay_count, round * 3);
        if (round % 4 == 0) { /* and openings without writes change nothing */
            fx_close();
            fx_open(0);
            cr_assert_eq(fx_replay_count, round * 3);
        }
        fx_put(3);
        fx_close();
    }
    cr_assert_leq(fx_file_count(), 30 + 2);
}

Test(wal, release_recycles_and_bounds_the_files) {
    fx_open(0);
    vv_wal_stats s;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 30; i++)
            fx_put(2);
        fx_release(vv_wal_last_lsn(fx_wal));
        eventually((vv_wal_stats_get(fx_wal, &s), s.segment_count == 1));
    }
    cr_assert_leq(fx_file_count(), 3); /* current, ready, raw */
    cr_assert_gt(s.written_bytes, 20 * 64 * 1024);
    uint64_t last = vv_wal_last_lsn(fx_wal);
    uint64_t in_current = s.live_bytes;
    cr_assert_lt(in_current, 64 * 1024);
    fx_close();
    fx_open(last);
    cr_assert_eq(fx_replay_count, 0);
    fx_close();
}

Test(wal, a_segment_is_kept_while_one_record_of_it_is_needed) {
    fx_open(0);
    fx_put(200);
    fx_release(150);
    eventually(!fx_exists(1));
    fx_close();
    fx_open(150);
    cr_assert_eq(fx_replay_count, 50);
    fx_close();
}

Test(wal, a_record_larger_than_a_segment_is_kept) {
    fx_open(0);
    fx_put(3);
    fx_big_lsn = 4;
    fx_big_bytes = 300000;
    cr_assert_not(vv_wal_inline_fits(fx_wal, fx_big_bytes));
    must(fx_append_sized(fx_wal, 4, fx_big_bytes));
    must(fx_append(fx_wal, 5));
    vv_wal_commit(fx_wal, false);
    must(vv_wal_sync(fx_wal));
    fx_put(3);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 8);
    fx_put(1);
    fx_release(9);
    vv_wal_stats s;
    eventually((vv_wal_stats_get(fx_wal, &s), s.segment_count == 1));
    cr_assert_leq(fx_file_count(), 3);
    fx_close();
}

Test(wal, a_record_larger_than_a_slot_shares_a_segment) {
    fx_options.segment_bytes = 8 << 20;
    fx_open(0);
    fx_put(1);
    fx_big_lsn = 2;
    fx_big_bytes = 3 << 20;
    must(fx_append_sized(fx_wal, 2, fx_big_bytes));
    must(fx_append(fx_wal, 3));
    vv_wal_commit(fx_wal, true);
    must(vv_wal_sync(fx_wal));
    cr_assert(fx_exists(1));
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    cr_assert_eq(s.segment_count, 1);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 3);
    fx_close();
}

Test(wal, inline_fits_says_when_a_lone_record_can_go) {
    fx_open(0);
    cr_assert(vv_wal_inline_fits(fx_wal, 100));
    cr_assert_not(vv_wal_inline_fits(fx_wal, 64 * 1024));
    cr_assert_not(vv_wal_inline_fits(fx_wal, UINT64_MAX));
    must(fx_append(fx_wal, 1));
    cr_assert_not(vv_wal_inline_fits(fx_wal, 100), "a frame is half filled");
    vv_wal_commit(fx_wal, true);
    must(vv_wal_sync(fx_wal));
    cr_assert(vv_wal_inline_fits(fx_wal, 100));
    fx_close();
}

Test(wal, append_fits_says_when_nothing_has_to_be_written_first) {
    fx_open(0);
    cr_assert(vv_wal_append_fits(fx_wal, 100));
    cr_assert_not(vv_wal_append_fits(fx_wal, 64 * 1024));
    cr_assert_not(vv_wal_append_fits(fx_wal, UINT64_MAX));
    fx_big_bytes = 1000;
    uint64_t lsn = 0;
    vv_wal_stats s;
    while (vv_wal_append_fits(fx_wal, VV_RECORD_HEAD_BYTES + fx_big_bytes)) {
        fx_big_lsn = ++lsn;
        must(fx_append_sized(fx_wal, lsn, fx_big_bytes));
        vv_wal_stats_get(fx_wal, &s);
        cr_assert_eq(s.written_bytes, 0);
    }
    cr_assert_gt(lsn, 1);
    fx_big_lsn = ++lsn;
    must(fx_append_sized(fx_wal, lsn, fx_big_bytes));
    vv_wal_stats_get(fx_wal, &s);
    cr_assert_gt(s.written_bytes, 0, "the frame was full");
    fx_close();
}

Test(wal, running_out_of_memory_at_any_point_of_opening_leaves_the_log_whole) {
    fx_open(0);
    fx_put(100);
    fx_close();
    bool opened = false;
    for (uint64_t n = 1; !opened; n++) {
        cr_assert_lt(n, 200);
        vv_alloc_fail_at(n);
        vv_status st = fx_open_status(0);
        vv_alloc_fail_at(0);
        opened = vv_ok(st);
        cr_assert(opened || vv_is(st, VV_NO_MEMORY), "%s", fx_err.text);
    }
    cr_assert_eq(fx_replay_count, 100);
    fx_close();
}

Test(wal, running_out_of_memory_in_append_appends_nothing) {
    enum { COUNT = 36 };
    static uint32_t sizes[COUNT + 3];
    for (int i = 1; i <= COUNT; i++)
        sizes[i] = 100000; /* a segment and a buffer of its own each */
    fx_sizes = sizes;
    fx_open(0);
    int failures = 0;
    for (uint64_t lsn = 1; lsn <= COUNT; lsn++) {
        vv_alloc_fail_at(1 + lsn % 6); /* the log's thread allocates too: some miss the append */
        vv_status st = fx_append(fx_wal, lsn);
        vv_alloc_fail_at(0);
        if (vv_ok(st))
            continue;
        cr_assert(vv_is(st, VV_NO_MEMORY), "%s", vv_code_name(st.code));
        cr_assert_eq(vv_wal_last_lsn(fx_wal), lsn - 1);
        failures++;
        must(fx_append(fx_wal, lsn));
    }
    cr_assert_gt(failures, 0);
    fx_put(2);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, COUNT + 2);
    fx_close();
}

Test(wal, records_of_any_size_come_back) {
    enum { COUNT = 400 };
    static uint32_t sizes[COUNT + 1];
    uint64_t seed = vv_test_seed();
    static const uint32_t edges[] = {0, 512, 4096, 8192, 16384, 32768, 57344, 61440, 65536, 131072};
    for (int i = 1; i <= COUNT; i++) {
        uint32_t edge = edges[vv_test_random(&seed) % VV_ARRAY_COUNT(edges)];
        uint32_t off = (uint32_t)(vv_test_random(&seed) % 260);
        sizes[i] = edge > off ? edge - off : edge; /* heads take 120 bytes and some */
        if (i % 2)
            sizes[i] = off;
    }
    fx_sizes = sizes;
    fx_open(0);
    for (uint64_t lsn = 1; lsn <= COUNT; lsn++) {
        must(fx_append(fx_wal, lsn));
        uint64_t dice = vv_test_random(&seed) % 8;
        if (dice < 3)
            vv_wal_commit(fx_wal, false);
        if (dice < 2)
            must(vv_wal_sync(fx_wal));
    }
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, COUNT);
    fx_close();
}

/* ---- threads ---- */

static _Atomic bool watch_stop;

static void *watch(void *arg) {
    uint64_t last = 0;
    while (!atomic_load(&watch_stop)) {
        vv_wal_stats s;
        vv_wal_stats_get(fx_wal, &s);
        if (s.durable_lsn < last)
            *(bool *)arg = true;
        last = s.durable_lsn;
        if (s.durable_lsn > vv_wal_last_lsn(fx_wal))
            *(bool *)arg = true;
        fx_release(last > 50 ? last - 50 : 0);
        usleep(100);
    }
    return NULL;
}

Test(wal, release_and_getters_work_beside_the_writer) {
    fx_open(0);
    pthread_t threads[2];
    bool wrong[2] = {false, false};
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, watch, &wrong[i]), 0);
    for (int i = 0; i < 300; i++) {
        for (int k = 0; k < i % 30; k++)
            must(fx_append(fx_wal, vv_wal_last_lsn(fx_wal) + 1));
        vv_wal_commit(fx_wal, i % 5 == 0);
        must(vv_wal_sync(fx_wal));
    }
    atomic_store(&watch_stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_assert_not(wrong[0] || wrong[1]);
    uint64_t last = vv_wal_last_lsn(fx_wal);
    fx_close();
    fx_open(last - 50); /* never released further than that */
    cr_assert_eq(fx_replay_count, 50);
    fx_close();
}
