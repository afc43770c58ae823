/*
 * Reading the log back while it is written: from memory, from segments, across restarts, and never wrongly.
 */
#include <errno.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "engine/wal/wal_impl.h"
#include "tests/engine/wal_fault_io.h"

TestSuite(wal_cursor, .init = fx_setup, .fini = fx_teardown, .timeout = 120);
TestSuite(wal_cursor_faults, .init = fault_setup, .fini = fx_teardown, .timeout = 120);

#define eventually(condition)                                                                                \
    do {                                                                                                     \
        uint64_t until_ = vv_clock_mono_ns() + 20 * VV_NS_PER_S;                                             \
        while (!(condition)) {                                                                               \
            cr_assert(vv_clock_mono_ns() < until_, "still not: %s", #condition);                             \
            usleep(200);                                                                                     \
        }                                                                                                    \
    } while (0)

static vv_wal_cursor *cursor_at(uint64_t after_lsn) {
    vv_wal_cursor *c;
    uint64_t oldest_lsn;
    must(vv_wal_cursor_open(fx_wal, after_lsn, &c, &oldest_lsn));
    return c;
}

static vv_status next(vv_wal_cursor *c, vv_record *rec) {
    uint64_t oldest_lsn;
    return vv_wal_cursor_next(c, UINT64_MAX, rec, &oldest_lsn);
}

static void expect(vv_wal_cursor *c, uint64_t lsn) {
    vv_record rec;
    vv_status st = next(c, &rec);
    cr_assert(vv_ok(st), "record %" PRIu64 ": %s", lsn, vv_code_name(st.code));
    cr_assert_eq(rec.first_lsn, lsn, "record %" PRIu64 " where %" PRIu64 " comes", rec.first_lsn, lsn);
    cr_assert_eq(vv_wal_cursor_lsn(c), lsn);
    fx_replay_count = 0;
    must(fx_replay(NULL, &rec)); /* every byte is what was written */
}

static void expect_up_to(vv_wal_cursor *c, uint64_t first, uint64_t last) {
    for (uint64_t lsn = first; lsn <= last; lsn++)
        expect(c, lsn);
}

static void expect_code(vv_wal_cursor *c, vv_code code) {
    vv_record rec;
    vv_status st = next(c, &rec);
    cr_assert_eq(st.code, code, "%s, not %s", vv_code_name(st.code), vv_code_name((uint16_t)code));
}

static vv_wal_stats stats(void) {
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    return s;
}

Test(wal_cursor, the_end_of_an_empty_log_is_its_beginning) {
    fx_open(0);
    vv_wal_cursor *c = cursor_at(0);
    expect_code(c, VV_END);
    fx_put(3);
    expect_up_to(c, 1, 3);
    expect_code(c, VV_END);
    expect_code(c, VV_END);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor_faults, followers_share_what_was_written_last_and_read_no_file) {
    must(fault_open(0));
    vv_wal_cursor *c[5];
    for (int i = 0; i < 5; i++)
        c[i] = cursor_at(0);
    fault_arm(F_READ, 1, EIO, true); /* whoever reads fails */
    for (uint64_t lsn = 1; lsn <= 100; lsn++) {
        fx_put(1);
        for (int i = 0; i < 5; i++)
            if (lsn % (uint64_t)(i + 1) == 0)
                expect_up_to(c[i], lsn - (uint64_t)i, lsn);
    }
    uint64_t shared = stats().memory_bytes;
    for (int i = 0; i < 5; i++)
        vv_wal_cursor_close(c[i]);
    cr_assert_lt(stats().memory_bytes + 100 * 100, shared, "what was kept for them is let go");
    must(fault_close());
}

Test(wal_cursor, older_records_come_from_segments) {
    fx_open(0);
    fx_put(3000);
    cr_assert_gt(stats().segment_count, 10);
    vv_wal_cursor *c = cursor_at(0);
    expect_up_to(c, 1, 3000);
    expect_code(c, VV_END);
    vv_wal_cursor_close(c);
    for (uint64_t after = 1; after < 3000; after += 611) {
        c = cursor_at(after);
        expect_up_to(c, after + 1, 3000);
        vv_wal_cursor_close(c);
    }
    fx_close();
}

Test(wal_cursor, reading_catches_up_with_writing_and_falls_behind_again) {
    fx_open(0);
    fx_put(500);
    vv_wal_cursor *c = cursor_at(0);
    uint64_t lsn = 0, written = 500;
    for (int round = 0; round < 6; round++) {
        for (uint64_t i = 0; i < 400; i++)
            expect(c, ++lsn);
        uint32_t sizes = round % 2 ? 300 : 5; /* records; the tail holds some thousand frames */
        fx_put(sizes);
        written += sizes;
        while (round % 2 && lsn < written)
            expect(c, ++lsn);
        if (lsn == written)
            expect_code(c, VV_END);
        fx_put(400);
        written += 400;
    }
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor, records_from_before_a_restart_are_there) {
    fx_open(0);
    fx_put(700);
    fx_close();
    fx_open(0);
    vv_wal_cursor *c = cursor_at(0);
    fx_put(10);
    expect_up_to(c, 1, 710);
    expect_code(c, VV_END);
    vv_wal_cursor_close(c);
    fx_close();
    for (uint64_t round = 0; round < 5; round++) { /* with close frames and empty segments between */
        fx_open(0);
        if (round % 2)
            fx_put(3);
        fx_close();
    }
    fx_open(0);
    c = cursor_at(600);
    expect_up_to(c, 601, 716);
    expect_code(c, VV_END);
    vv_wal_cursor_close(c);
    fx_close();
}

/* Segments that hold nothing above lsn are gone. */
static void trim(uint64_t lsn) {
    fx_release(lsn);
    uint64_t first_needed = vv_wal_first_needed(fx_wal, lsn);
    eventually(!fx_exists(first_needed - 1));
}

Test(wal_cursor, what_was_trimmed_is_refused_with_what_is_there) {
    fx_open(0);
    fx_put(2000);
    trim(1000);
    vv_wal_cursor *c;
    uint64_t oldest_lsn;
    vv_status st = vv_wal_cursor_open(fx_wal, 0, &c, &oldest_lsn);
    cr_assert(vv_is(st, VV_TRIMMED));
    cr_assert_null(c);
    cr_assert(oldest_lsn > 1 && oldest_lsn <= 1001, "%" PRIu64, oldest_lsn);
    cr_assert(vv_is(vv_wal_cursor_open(fx_wal, oldest_lsn - 2, &c, &oldest_lsn), VV_TRIMMED));
    c = cursor_at(oldest_lsn - 1);
    expect_up_to(c, oldest_lsn, 2000);
    vv_wal_cursor_close(c);
    fx_close();

    fx_open(2000); /* everything is in tables, and goes */
    fx_release(2000);
    eventually(stats().segment_count == 1);
    cr_assert(vv_is(vv_wal_cursor_open(fx_wal, 1999, &c, &oldest_lsn), VV_TRIMMED));
    cr_assert_eq(oldest_lsn, 2001, "the next record to come");
    c = cursor_at(2000);
    fx_put(1);
    expect(c, 2001);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor, a_cursor_that_is_overtaken_is_told_so_and_nothing_is_skipped) {
    fx_open(0);
    fx_put(2000);
    vv_wal_cursor *c = cursor_at(0);
    expect_up_to(c, 1, 10);
    trim(1500);
    vv_record rec;
    uint64_t oldest_lsn = 0, lsn = 10;
    vv_status st;
    while (vv_ok(st = vv_wal_cursor_next(c, UINT64_MAX, &rec, &oldest_lsn)))
        cr_assert_eq(rec.first_lsn, ++lsn); /* what it had read already */
    cr_assert(vv_is(st, VV_TRIMMED), "%s", vv_code_name(st.code));
    cr_assert(oldest_lsn > lsn + 1 && oldest_lsn <= 1501, "%" PRIu64, oldest_lsn);
    expect_code(c, VV_TRIMMED);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor, nothing_above_the_limit_is_shown) {
    fx_open(0);
    for (uint64_t lsn = 1; lsn <= 10; lsn++) /* in one frame */
        must(fx_append(fx_wal, lsn));
    vv_wal_commit(fx_wal, true);
    must(vv_wal_sync(fx_wal));
    vv_wal_cursor *c = cursor_at(0);
    vv_record rec;
    uint64_t oldest_lsn;
    for (uint64_t lsn = 1; lsn <= 7; lsn++)
        must(vv_wal_cursor_next(c, 7, &rec, &oldest_lsn));
    cr_assert(vv_is(vv_wal_cursor_next(c, 7, &rec, &oldest_lsn), VV_END));
    must(vv_wal_cursor_next(c, 8, &rec, &oldest_lsn));
    cr_assert_eq(rec.first_lsn, 8);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor, what_is_not_synced_is_not_shown) {
    fx_open(0);
    vv_wal_cursor *c = cursor_at(0);
    must(fx_append(fx_wal, 1));
    expect_code(c, VV_END);
    vv_wal_commit(fx_wal, true); /* sealed, and written by the sync */
    expect_code(c, VV_END);
    must(vv_wal_sync(fx_wal));
    expect(c, 1);
    expect_code(c, VV_END);
    vv_wal_cursor_close(c);
    fx_close();
}

static void a_failed_sync(bool torn) {
    fault.tear = torn;
    must(fault_open(0));
    fx_put(5);
    vv_wal_cursor *kept_up = cursor_at(5), *behind = cursor_at(0);
    fault_arm(F_WRITE_SYNC, 1, EIO, true);
    must(fx_append(fx_wal, 6));
    vv_wal_commit(fx_wal, true);
    cr_assert(vv_is(vv_wal_sync(fx_wal), VV_WAL_FAILED));
    expect_code(kept_up, VV_WAL_FAILED);
    expect_up_to(behind, 1, 5);
    expect_code(behind, VV_WAL_FAILED);
    vv_wal_cursor_close(kept_up);
    vv_wal_cursor_close(behind);
    cr_assert(vv_is(fault_close(), VV_WAL_FAILED));
}

Test(wal_cursor_faults, nothing_is_shown_of_a_failed_sync) {
    a_failed_sync(false);
}

Test(wal_cursor_faults, nothing_is_shown_of_a_torn_frame) {
    a_failed_sync(true);
}

Test(wal_cursor_faults, frames_that_finish_out_of_order_come_in_order) { /* the queue does the newest first */
    must(fault_open(0));
    vv_wal_cursor *c = cursor_at(0);
    uint64_t lsn = 0;
    for (int round = 0; round < 50; round++) {
        for (int frame = 0; frame < 3; frame++) {
            must(fx_append(fx_wal, ++lsn));
            vv_wal_commit(fx_wal, false);
            vv_record rec;
            while (vv_ok(next(c, &rec)))
                cr_assert_leq(rec.first_lsn, fault.synced_prefix);
        }
        must(vv_wal_sync(fx_wal));
        while (vv_wal_cursor_lsn(c) < lsn)
            expect(c, vv_wal_cursor_lsn(c) + 1);
    }
    vv_wal_cursor_close(c);
    must(fault_close());
}

Test(wal_cursor, damage_is_reported_and_not_passed_over) {
    fx_open(0);
    fx_put(400);
    uint64_t second = vv_wal_first_needed(fx_wal, 300);
    cr_assert_gt(second, 1);
    vv_wal_cursor *c = cursor_at(0);
    vv_wal_segment_head head;
    size_t bytes;
    uint8_t *file = fx_file_read(fx_path(second), &bytes);
    must(vv_wal_segment_head_decode(file, &head));
    free(file);
    /* A byte of the key in the segment's first record: nothing but the checksum tells. */
    uint8_t bad = 0x55;
    fx_file_patch(fx_path(second), &bad, 1,
                  head.block_bytes + VV_WAL_FRAME_HEAD_BYTES + VV_RECORD_HEAD_BYTES + VV_OP_HEAD_BYTES + 1);
    vv_record rec;
    uint64_t lsn = 0;
    vv_status st;
    while (vv_ok(st = next(c, &rec)))
        cr_assert_eq(rec.first_lsn, ++lsn);
    cr_assert(vv_is(st, VV_CORRUPTION), "%s behind record %" PRIu64, vv_code_name(st.code), lsn);
    expect_code(c, VV_CORRUPTION);
    vv_wal_cursor_close(c);
    c = cursor_at(390); /* the rest is readable */
    expect_up_to(c, 391, 400);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor_faults, a_failed_read_may_be_repeated) {
    must(fault_open(0));
    fx_put(300);
    vv_wal_cursor *c = cursor_at(0);
    uint64_t lsn = 0;
    for (int nth = 1; nth <= 2; nth++)
        for (int kind = 0; kind < 2; kind++) {
            fault_arm(kind ? F_OPEN : F_READ, nth, EIO, false);
            vv_record rec;
            vv_status st;
            while (vv_ok(st = next(c, &rec)) && lsn < 280)
                cr_assert_eq(rec.first_lsn, ++lsn);
            cr_assert(vv_ok(st) || vv_is(st, VV_IO), "%s", vv_code_name(st.code));
        }
    fault_arm(F_NONE, 0, 0, false);
    lsn = vv_wal_cursor_lsn(c);
    expect_up_to(c, lsn + 1, 300);
    vv_wal_cursor_close(c);
    must(fault_close());
}

/*
 * An opening may cut a frame, and go on with another record of the same LSN in the next segment; then the cut
 * frame arrives: the process that was killed had left its write with the kernel. It fits its place in every
 * byte, and must not be shown.
 */
Test(wal_cursor, a_frame_that_recovery_cut_and_that_arrives_later_is_not_shown) {
    fx_image image;
    fx_open(0);
    fx_put(8);
    fx_image_take(&image);
    fx_close();
    fx_image_restore(&image);
    fx_image_free(&image);
    size_t bytes;
    uint8_t *file = fx_file_read(fx_path(1), &bytes);
    vv_wal_segment_head head;
    must(vv_wal_segment_head_decode(file, &head));
    uint64_t seed = vv_wal_segment_seed(&head), at = head.block_bytes;
    vv_wal_frame_head frame;
    while (vv_wal_frame_head_decode(file + at, seed, &frame) && frame.first_lsn < 8)
        at += vv_wal_frame_bytes(frame.payload_bytes, head.block_bytes);
    cr_assert_eq(frame.first_lsn, 8);
    uint64_t frame_bytes = vv_wal_frame_bytes(frame.payload_bytes, head.block_bytes);
    uint8_t *zeros = calloc(1, frame_bytes);
    fx_file_patch(fx_path(1), zeros, frame_bytes, at);
    free(zeros);

    fx_open(0);
    cr_assert_eq(vv_wal_last_lsn(fx_wal), 7);
    fx_big_lsn = 8;
    fx_big_bytes = fx_value_bytes(8) + 1000;
    must(fx_append_sized(fx_wal, 8, fx_big_bytes));
    vv_wal_commit(fx_wal, true);
    must(vv_wal_sync(fx_wal));
    fx_file_patch(fx_path(1), file + at, frame_bytes, at);
    free(file);
    vv_wal_cursor *c = cursor_at(0);
    expect_up_to(c, 1, 8); /* fx_replay() knows the new one's size */
    expect_code(c, VV_END);
    vv_wal_cursor_close(c);
    fx_close();
}

/* As if there was no memory for what cursors share: all is read from files. */
static vv_wal_cursor *lone_cursor_at(uint64_t after_lsn) {
    vv_wal_cursor *c = cursor_at(after_lsn);
    vv_wal_tail_leave(fx_wal);
    return c;
}

static void lone_cursor_close(vv_wal_cursor *c) {
    must(vv_wal_tail_enter(fx_wal));
    vv_wal_cursor_close(c);
}

Test(wal_cursor, a_record_too_large_to_share_is_read_from_its_file) {
    fx_options.segment_bytes = UINT64_C(1) << 20;
    fx_open(0);
    vv_wal_cursor *c = cursor_at(0);
    uint64_t before = stats().memory_bytes;
    fx_put(3);
    fx_big_lsn = 4;
    fx_big_bytes = VV_WAL_TAIL_BYTES + 12345;
    must(fx_append_sized(fx_wal, 4, fx_big_bytes));
    vv_wal_commit(fx_wal, true);
    must(vv_wal_sync(fx_wal));
    fx_put(3);
    expect_up_to(c, 1, 7);
    expect_code(c, VV_END);
    cr_assert_lt(stats().memory_bytes - before, UINT64_C(1) << 20, "the large buffer is gone");
    vv_wal_cursor_close(c);
    c = lone_cursor_at(0);
    expect_up_to(c, 1, 7);
    expect_code(c, VV_END);
    cr_assert_lt(stats().memory_bytes - before, UINT64_C(1) << 20, "the large buffer is gone");
    lone_cursor_close(c);
    fx_close();
}

Test(wal_cursor, a_file_is_read_again_where_it_has_grown) {
    fx_open(0);
    vv_wal_cursor *c = lone_cursor_at(0);
    for (uint64_t lsn = 0; lsn < 60; lsn += 3) {
        fx_put(3);
        expect_up_to(c, lsn + 1, lsn + 3);
        expect_code(c, VV_END);
    }
    lone_cursor_close(c);
    fx_close();
}

/* What happens between a cursor's search for a segment and its read. */
static struct {
    const struct vv_io_ops *real;
    struct vv_io_ops ops;
    void (*before_read)(void);
} hook;

static vv_status hooked_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out,
                             vv_error *err) {
    vv_status st = hook.real->file_open(b, path, flags, out, err);
    if (vv_ok(st))
        (*out)->ops = &hook.ops;
    return st;
}

static vv_status hooked_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    void (*before)(void) = hook.before_read;
    hook.before_read = NULL;
    if (before)
        before();
    return hook.real->file_read(f, buf, bytes, offset, read_out);
}

static void write_over_the_oldest(void) {
    trim(1000);
    fx_put(2500);
}

Test(wal_cursor, a_segment_that_is_written_over_under_its_reader_is_trimmed_and_not_damaged) {
    static uint32_t sizes[4001];
    for (size_t i = 0; i < 4001; i++)
        sizes[i] = 2000;
    fx_sizes = sizes;
    fx_options.segment_bytes = UINT64_C(1) << 20; /* more than a cursor reads at once */
    hook.real = fx_io->ops;
    hook.ops = *fx_io->ops;
    hook.ops.file_open = hooked_open;
    hook.ops.file_read = hooked_read;
    fx_io->ops = &hook.ops;
    fx_open(0);
    vv_wal_cursor *c = lone_cursor_at(0);
    fx_put(1500);
    expect_up_to(c, 1, 5);
    hook.before_read = write_over_the_oldest;
    vv_record rec;
    uint64_t oldest_lsn = 0, lsn = 5;
    vv_status st;
    while (vv_ok(st = vv_wal_cursor_next(c, UINT64_MAX, &rec, &oldest_lsn))) {
        fx_replay_count = 0;
        cr_assert_eq(rec.first_lsn, ++lsn);
        must(fx_replay(NULL, &rec));
    }
    cr_assert_null(hook.before_read);
    cr_assert(lsn > 50 && lsn < 400, "what it had read, and no more: %" PRIu64, lsn);
    cr_assert(vv_is(st, VV_TRIMMED), "%s", vv_code_name(st.code));
    cr_assert_gt(oldest_lsn, lsn + 1);
    lone_cursor_close(c);
    fx_close();
}

Test(wal_cursor, the_shared_memory_is_bounded) {
    fx_options.segment_bytes = UINT64_C(8) << 20;
    fx_open(0);
    uint64_t before = stats().memory_bytes;
    vv_wal_cursor *behind = cursor_at(0), *kept_up = cursor_at(0);
    fx_put(1);
    expect(behind, 1);
    static uint32_t sizes[200];
    for (size_t i = 0; i < 200; i++)
        sizes[i] = 200000;
    fx_sizes = sizes;
    fx_put(100); /* 20 MB */
    uint64_t most = VV_WAL_TAIL_BYTES + VV_WAL_TAIL_FRAMES * sizeof(void *) + 200 * 1024;
    cr_assert_leq(stats().memory_bytes - before, most);
    sizes[1] = 37; /* as it was */
    expect_up_to(kept_up, 1, 101);
    expect_up_to(behind, 2, 101);
    vv_wal_cursor_close(behind);
    vv_wal_cursor_close(kept_up);
    cr_assert_leq(stats().memory_bytes - before, VV_WAL_TAIL_FRAMES * sizeof(void *));
    fx_close();
}

Test(wal_cursor, resting_cursors_give_their_memory_back_and_go_on) {
    fx_open(0);
    fx_put(1500);
    static vv_wal_cursor *c[100];
    uint64_t before = stats().memory_bytes;
    for (int i = 0; i < 100; i++) {
        c[i] = cursor_at((uint64_t)i);
        expect_up_to(c[i], (uint64_t)i + 1, (uint64_t)i + 3);
        vv_wal_cursor_rest(c[i]);
    }
    cr_assert_lt(stats().memory_bytes - before, UINT64_C(17) << 20);
    for (int i = 0; i < 100; i += 9) {
        expect_up_to(c[i], (uint64_t)i + 4, 1500);
        expect_code(c[i], VV_END);
    }
    for (int i = 0; i < 100; i++)
        vv_wal_cursor_close(c[i]);
    fx_close();
}

Test(wal_cursor, a_hold_keeps_segments_until_the_reader_is_past_them) {
    fx_open(0);
    vv_wal_cursor *c = cursor_at(0);
    vv_wal_cursor_hold(c, UINT64_C(64) << 20);
    fx_put(1500);
    uint64_t segments = stats().segment_count;
    cr_assert_gt(segments, 6);
    fx_release(1500);
    expect_up_to(c, 1, 700);
    cr_assert(fx_exists(vv_wal_first_needed(fx_wal, 690)));
    eventually(!fx_exists(2)); /* behind the reader they go */
    expect_up_to(c, 701, 1500);
    cr_assert(vv_wal_cursor_holds(c));
    expect_code(c, VV_END);
    eventually(stats().segment_count == 1);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor, a_hold_that_costs_too_much_is_lost_and_logged) {
    fx_open(0);
    vv_wal_cursor *c = cursor_at(0), *thrifty = cursor_at(0);
    vv_wal_cursor_hold(c, 5 * fx_options.segment_bytes);
    vv_wal_cursor_hold(thrifty, UINT64_C(64) << 20);
    fx_put(VV_WAL_TAIL_FRAMES + 1000); /* the first ones are in no memory */
    cr_assert_gt(stats().segment_count, 10);
    fx_release(vv_wal_last_lsn(fx_wal));
    eventually(!vv_wal_cursor_holds(c));
    cr_assert(vv_wal_cursor_holds(thrifty));
    eventually(strstr(fx_log, "loses its hold"));
    cr_assert(fx_exists(1), "another one still holds it");
    vv_wal_cursor_close(thrifty);
    eventually(!fx_exists(1));
    expect_code(c, VV_TRIMMED);
    vv_wal_cursor_close(c);
    fx_close();
}

Test(wal_cursor, opening_survives_each_failed_allocation) {
    fx_open(0);
    fx_put(400);
    for (uint64_t n = 1;; n++) {
        vv_wal_cursor *c;
        uint64_t oldest_lsn;
        vv_alloc_fail_at(n);
        vv_status st = vv_wal_cursor_open(fx_wal, 0, &c, &oldest_lsn);
        vv_record rec;
        if (vv_ok(st))
            st = next(c, &rec);
        vv_alloc_fail_at(0);
        if (!vv_ok(st))
            cr_assert(vv_is(st, VV_NO_MEMORY), "%s", vv_code_name(st.code));
        if (c && !vv_ok(st))
            expect(c, 1); /* it goes on where it was */
        vv_wal_cursor_close(c);
        if (vv_ok(st))
            break;
    }
    fx_close();
}

/* ---- a writer, readers of every pace, and segments that are recycled under them ---- */

typedef struct reader {
    uint64_t seed;
    uint64_t records;
    uint64_t trimmed;
    const char *failure;
    uint64_t failure_lsn;
} reader;

static _Atomic bool stop;

/* As fx_replay() checks it, for any thread. */
static bool is_right(const vv_record *rec) {
    vv_reader r = vv_reader_make(rec->ops);
    vv_entry e;
    if (rec->op_count != 1 || !vv_ok(vv_op_decode(&r, &e)) || rec->sequence != rec->first_lsn)
        return false;
    const uint8_t *value = e.value.data;
    for (uint64_t i = 0; i < e.value.bytes; i++)
        if (value[i] != (uint8_t)(rec->first_lsn * 131 + i * 7))
            return false;
    return e.value.bytes == fx_value_bytes(rec->first_lsn);
}

static void *read_on(void *arg) {
    reader *r = arg;
    vv_wal_cursor *c = NULL;
    uint64_t lsn = 0, oldest_lsn;
    bool last_round = false;
    while (!r->failure) {
        last_round = atomic_load(&stop);
        if (!c) {
            vv_status st = vv_wal_cursor_open(fx_wal, lsn, &c, &oldest_lsn);
            if (vv_is(st, VV_TRIMMED)) {
                r->trimmed++;
                if (oldest_lsn <= lsn + 1)
                    r->failure = "trimmed, but it is there";
                lsn = oldest_lsn - 1;
                continue;
            }
            if (!vv_ok(st)) {
                r->failure = "open failed";
                break;
            }
        }
        uint64_t want = vv_test_random(&r->seed) % 300;
        vv_record rec;
        vv_status st = VV_STATUS_OK;
        for (uint64_t i = 0; i < want && !r->failure; i++) {
            st = vv_wal_cursor_next(c, UINT64_MAX, &rec, &oldest_lsn);
            if (!vv_ok(st))
                break;
            if (rec.first_lsn != lsn + 1)
                r->failure = "not the next record";
            else if (!is_right(&rec))
                r->failure = "not what was written";
            lsn = rec.first_lsn;
            r->records++;
        }
        r->failure_lsn = lsn;
        bool ended = vv_is(st, VV_END);
        if (vv_is(st, VV_TRIMMED)) {
            r->trimmed++;
            if (oldest_lsn <= lsn + 1)
                r->failure = "trimmed, but it is there";
            lsn = oldest_lsn - 1;
        } else if (!vv_ok(st) && !ended) {
            r->failure = vv_code_name(st.code);
        }
        if (vv_is(st, VV_TRIMMED) || vv_test_random(&r->seed) % 8 == 0) {
            vv_wal_cursor_close(c);
            c = NULL;
        }
        if (ended && last_round)
            break;
        /* Now and then fall behind, so as to be overtaken. */
        uint64_t wait_for_lsn = vv_test_random(&r->seed) % 4 ? 0 : lsn + vv_test_random(&r->seed) % 4000;
        while (stats().durable_lsn < wait_for_lsn && !atomic_load(&stop))
            usleep(100);
    }
    vv_wal_cursor_close(c);
    return NULL;
}

Test(wal_cursor, readers_of_any_pace_see_every_record_or_hear_that_it_is_gone) {
    enum { READERS = 4, RECORDS = 9000 };
    static uint32_t sizes[RECORDS + 1];
    uint64_t seed = vv_test_seed();
    for (size_t i = 0; i <= RECORDS; i++) /* three times what is kept in memory */
        sizes[i] = (uint32_t)(vv_test_random(&seed) % 3000);
    fx_sizes = sizes;
    reader readers[READERS] = {0};
    pthread_t threads[READERS];
    fx_open(0);
    for (int i = 0; i < READERS; i++) {
        readers[i].seed = seed * 7 + (uint64_t)i + 1;
        pthread_create(&threads[i], NULL, read_on, &readers[i]);
    }
    for (uint64_t lsn = 1; lsn <= RECORDS;) {
        uint64_t group = 1 + vv_test_random(&seed) % 20;
        for (uint64_t i = 0; i < group && lsn <= RECORDS; i++)
            must(fx_append(fx_wal, lsn++));
        vv_wal_commit(fx_wal, false);
        must(vv_wal_sync(fx_wal));
        if (vv_test_random(&seed) % 50 == 0)
            fx_release(lsn - vv_test_random(&seed) % VV_MIN(lsn, 2000));
    }
    atomic_store(&stop, true);
    uint64_t trimmed = 0;
    for (int i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_null(readers[i].failure, "reader %d at %" PRIu64 ": %s", i, readers[i].failure_lsn,
                       readers[i].failure);
        trimmed += readers[i].trimmed;
    }
    cr_assert_gt(trimmed, 0);
    printf("trimmed %" PRIu64 " times\n", trimmed);
    fx_close();
}
