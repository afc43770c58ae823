#include "base/assert.h"
#include "tests/engine/wal_fault_io.h"

#include <sys/mount.h>

#include "base/clock.h"

static void teardown(void) {
    VV_ASSERT(!fault.promised_too_much);
    fx_teardown();
}

TestSuite(wal_faults, .init = fault_setup, .fini = teardown);

static uint64_t durable(void) {
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    return s.durable_lsn;
}

static bool latched(void) {
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    return s.failed;
}

/* A frame of one record on the ring, in flight when this returns. */
static void fly(void) {
    must(fx_append(fx_wal, vv_wal_last_lsn(fx_wal) + 1));
    vv_wal_commit(fx_wal, false);
}

/* ---- order ---- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

typedef struct file_state {
    char path[64];
    bool raw_pending;   /* renamed to raw, but that is not durable */
    bool header_synced; /* header and all that was written before */
    bool name_synced;
} file_state;

static file_state *state_of(file_state *states, int *count, const char *path) {
    for (int i = 0; i < *count; i++)
        if (strcmp(states[i].path, path) == 0)
            return &states[i];
    file_state *s = &states[(*count)++];
    *s = (file_state){0};
    snprintf(s->path, sizeof s->path, "%s", path);
    return s;
}

Test(wal_faults, a_segment_is_durable_before_its_first_frame) {
    must(fault_open(0));
    for (int i = 0; i < 60; i++) { /* released one by one, so that no other change syncs the directory */
        fx_put(1);
        fx_release(vv_wal_last_lsn(fx_wal));
    }
    must(fault_close());
    static file_state states[400];
    int count = 0, frames = 0, recycled = 0;
    for (int i = 0; i < fault.event_count; i++) {
        const fault_event *e = &fault.events[i];
        file_state *s = state_of(states, &count, e->path);
        switch (e->kind) {
        case F_WRITE:
            cr_assert(ends_with(e->path, ".tmp"), "only frames are written to a segment");
            cr_assert_not(s->raw_pending, "%s: header written before the old name is gone for good", e->path);
            s->header_synced = false;
            break;
        case F_SYNC: s->header_synced = true; break;
        case F_RENAME: {
            file_state old = *s;
            s->path[0] = '\0';
            s = state_of(states, &count, e->to);
            s->name_synced = false;
            s->raw_pending = ends_with(e->to, ".tmp");
            s->header_synced = old.header_synced;
            recycled += s->raw_pending;
            cr_assert(s->raw_pending || old.header_synced, "%s: named before its header is durable", e->to);
            break;
        }
        case F_DIR_SYNC:
            for (int k = 0; k < count; k++) {
                states[k].name_synced = true;
                states[k].raw_pending = false;
            }
            break;
        case F_WRITE_SYNC:
            frames++;
            cr_assert(ends_with(e->path, ".log"));
            cr_assert(s->header_synced, "%s: a frame before the header is durable", e->path);
            cr_assert(s->name_synced, "%s: a frame before the name is durable", e->path);
            break;
        default: break;
        }
    }
    cr_assert_eq(frames, 61, "60 and the close frame");
    cr_assert_gt(recycled, 0);
}

Test(wal_faults, frames_count_as_durable_in_lsn_order_only) {
    fx_options.segment_bytes = 128 * 1024;
    must(fault_open(0));
    for (int i = 0; i < 3; i++)
        fly();
    cr_assert_eq(durable(), 0, "nothing is done yet");
    must(vv_wal_sync(fx_wal)); /* the backend does 3, 2, 1, and compares after each */
    cr_assert_eq(durable(), 3);
    uint64_t offsets[3];
    int n = 0;
    int count = fault_event_count();
    for (int i = 0; i < count; i++)
        if (fault.events[i].kind == F_WRITE_SYNC)
            offsets[n++] = fault.events[i].offset;
    cr_assert_eq(n, 3);
    cr_assert(offsets[0] > offsets[1] && offsets[1] > offsets[2], "the test's backend reorders");
    must(fault_close());
    must(fault_open(0));
    cr_assert_eq(fx_replay_count, 3);
    must(fault_close());
}

Test(wal_faults, what_was_awaited_counts_when_it_is_collected) {
    fx_options.segment_bytes = 128 * 1024;
    must(fault_open(0));
    for (int i = 0; i < 3; i++)
        fly();
    cr_assert(vv_wal_commit_apart(fx_wal));
    cr_assert_eq(durable(), 0, "nothing is done yet");
    cr_assert(vv_wal_append_fits(fx_wal, 100) && !vv_wal_inline_fits(fx_wal, 100));
    must(fx_append(fx_wal, 4));
    vv_wal_await(fx_wal);
    cr_assert_eq(durable(), 0, "who has the writer role sees nothing of it");
    must(fx_append(fx_wal, 5));
    must(vv_wal_collect(fx_wal));
    cr_assert_eq(durable(), 3, "the open frame is not written yet");
    vv_wal_commit(fx_wal, false);
    must(vv_wal_sync(fx_wal));
    cr_assert_eq(durable(), 5);
    must(fault_close());
    must(fault_open(0));
    cr_assert_eq(fx_replay_count, 5);
    must(fault_close());
}

Test(wal_faults, more_frames_than_slots_wait_for_room) {
    fx_options.segment_bytes = 128 * 1024;
    must(fault_open(0));
    for (int i = 0; i < 50; i++)
        fly();
    must(vv_wal_sync(fx_wal));
    cr_assert_eq(durable(), 50);
    must(fault_close());
    must(fault_open(0));
    cr_assert_eq(fx_replay_count, 50);
    must(fault_close());
}

Test(wal_faults, what_is_replayed_is_synced_before_open_returns) {
    must(fault_open(0));
    fx_put(8);
    must(fault_close());
    fault.event_count = 0;
    must(fault_open(0));
    bool first = false, second = false;
    int count = fault_event_count();
    for (int i = 0; i < count; i++) {
        first |=
            fault.events[i].kind == F_SYNC && strcmp(fault.events[i].path, "wal-0000000000000001.log") == 0;
        second |=
            fault.events[i].kind == F_SYNC && strcmp(fault.events[i].path, "wal-0000000000000002.log") == 0;
    }
    cr_assert(first && second);
    must(fault_close());
}

static void opening_fails_once(fault_kind kind, int nth) {
    fault_arm(kind, nth, EIO, false);
    vv_status st = fault_open(0);
    cr_assert(vv_is(st, VV_IO), "%s", vv_code_name(st.code));
    cr_assert_eq(fault.fired, 1);
    cr_assert(strstr(fx_err.text, "wal-0000000000000"), "%s", fx_err.text);
    fault_arm(F_NONE, 0, 0, false);
}

Test(wal_faults, what_can_not_be_read_or_synced_is_not_replayed) {
    must(fault_open(0));
    fx_put(200); /* several segments */
    must(fault_close());
    int before = fault_event_count();
    must(fault_open(0));
    int reads = 0, segments = 0;
    for (int i = before; i < fault_event_count(); i++) {
        reads += fault.events[i].kind == F_READ;
        segments += fault.events[i].kind == F_SYNC && strstr(fault.events[i].path, ".log");
    }
    cr_assert_gt(segments, 3);
    cr_assert_gt(reads, 2 * segments);
    must(fault_close());
    for (int n = 1; n <= reads; n++)
        opening_fails_once(F_READ, n);
    for (int n = 1; n <= segments; n++)
        opening_fails_once(F_SYNC, n);
    must(fault_open(0));
    cr_assert_eq(fx_replay_count, 200);
    must(fault_close());
}

/* ---- a failed write or sync ---- */

static void is_latched_for_good(uint64_t durable_lsn) {
    int before = fault_event_count();
    cr_assert(latched());
    cr_assert_eq(durable(), durable_lsn, "%" PRIu64 " != %" PRIu64, durable(), durable_lsn);
    uint64_t last = vv_wal_last_lsn(fx_wal);
    for (int i = 0; i < 3; i++) {
        cr_assert(vv_is(fx_append(fx_wal, last + 1), VV_WAL_FAILED));
        vv_wal_commit(fx_wal, i % 2);
        cr_assert(vv_is(vv_wal_sync(fx_wal), VV_WAL_FAILED));
        cr_assert_not(vv_wal_inline_fits(fx_wal, 10));
    }
    cr_assert_eq(vv_wal_last_lsn(fx_wal), last);
    cr_assert(vv_is(fault_close(), VV_WAL_FAILED));
    for (int i = before; i < fault.event_count; i++) /* the log's thread is gone */
        cr_assert(!ends_with(fault.events[i].path, ".log") || fault.events[i].kind == F_OPEN,
                  "event %d on %s after the failure", fault.events[i].kind, fault.events[i].path);
    cr_assert(strstr(fx_log, "the log has failed"), "%s", fx_log);
}

Test(wal_faults, a_failed_inline_write_latches) {
    must(fault_open(0));
    fx_put(3);
    fault_arm(F_WRITE_SYNC, 1, EIO, false);
    must(fx_append(fx_wal, 4));
    vv_wal_commit(fx_wal, true);
    cr_assert(vv_is(vv_wal_sync(fx_wal), VV_WAL_FAILED));
    is_latched_for_good(3);
    must(fault_open(0));
    cr_assert_eq(fx_replay_count, 3);
    must(fault_close());
}

Test(wal_faults, a_full_disk_under_a_frame_latches_too) {
    must(fault_open(0));
    fx_put(1);
    fault_arm(F_WRITE_SYNC, 1, ENOSPC, false);
    fly();
    cr_assert(vv_is(vv_wal_sync(fx_wal), VV_WAL_FAILED));
    is_latched_for_good(1);
}

Test(wal_faults, a_failed_frame_in_flight_latches_and_later_ones_do_not_count) {
    fx_options.segment_bytes = 128 * 1024; /* all in one */
    for (int nth = 1; nth <= 3; nth++) {   /* done as 4, 3, 2: one of them fails */
        fx_wipe();
        must(fault_open(0));
        fx_put(1);
        for (int i = 0; i < 3; i++)
            fly();
        fault_arm(F_WRITE_SYNC, nth, EIO, false);
        cr_assert(vv_is(vv_wal_sync(fx_wal), VV_WAL_FAILED));
        is_latched_for_good(1);
        must(fault_open(0));
        cr_assert_geq(fx_replay_count, 1);
        must(fault_close());
    }
}

Test(wal_faults, a_failure_that_was_awaited_latches) {
    fx_options.segment_bytes = 128 * 1024;
    for (int nth = 1; nth <= 3; nth++) { /* done as 4, 3, 2: one of them fails */
        fx_wipe();
        must(fault_open(0));
        fx_put(1);
        for (int i = 0; i < 3; i++)
            fly();
        cr_assert(vv_wal_commit_apart(fx_wal));
        fault_arm(F_WRITE_SYNC, nth, EIO, false);
        vv_wal_await(fx_wal);
        cr_assert(latched());
        cr_assert(vv_is(vv_wal_collect(fx_wal), VV_WAL_FAILED));
        is_latched_for_good(1);
    }
}

Test(wal_faults, a_directory_that_can_not_be_synced_latches) {
    must(fault_open(0));
    fault_arm(F_DIR_SYNC, 1, EIO, false);
    vv_status st = VV_STATUS_OK;
    for (uint64_t lsn = 1; lsn < 200 && vv_ok(st); lsn++) {
        st = fx_append(fx_wal, lsn);
        vv_wal_commit(fx_wal, true);
        vv_status synced = vv_wal_sync(fx_wal);
        vv_status_keep(&st, synced);
    }
    cr_assert(vv_is(st, VV_WAL_FAILED), "%s", vv_code_name(st.code));
    cr_assert_eq(fault.fired, 1);
    is_latched_for_good(durable());
}

Test(wal_faults, a_frame_that_waits_is_not_written_after_the_log_has_failed) {
    must(fault_open(0));
    vv_wal_stats s;
    do {
        fx_put(1);
        vv_wal_stats_get(fx_wal, &s);
    } while (s.segment_count < 2);
    uint64_t last = vv_wal_last_lsn(fx_wal);
    must(fx_append(fx_wal, last + 1));
    vv_wal_commit(fx_wal, true); /* sealed, to be written by vv_wal_sync() */
    fault_arm(F_DIR_SYNC, 1, EIO, false);
    fx_release(last - 1);
    uint64_t until = vv_clock_mono_ns() + 10 * VV_NS_PER_S;
    while (!latched() && vv_clock_mono_ns() < until)
        usleep(200);
    int before = fault_event_count();
    cr_assert(vv_is(vv_wal_sync(fx_wal), VV_WAL_FAILED));
    cr_assert_eq(fault_event_count(), before);
    is_latched_for_good(last);
}

/* ---- no space, and other trouble with the next segment ---- */

static void next_segment_fails(fault_kind kind, int sys, vv_code code) {
    must(fault_open(0));
    fault_arm(kind, 1, sys, true);
    vv_status st = VV_STATUS_OK;
    uint64_t lsn = 0;
    while (vv_ok(st)) {
        cr_assert_lt(lsn, 1000);
        st = fx_append(fx_wal, lsn + 1);
        if (vv_ok(st)) {
            lsn++;
            vv_wal_commit(fx_wal, lsn % 2);
            must(vv_wal_sync(fx_wal));
        }
    }
    cr_assert(vv_is(st, code), "%s", vv_code_name(st.code));
    cr_assert_not(latched());
    cr_assert_eq(vv_wal_last_lsn(fx_wal), lsn, "nothing was appended");
    cr_assert_eq(durable(), lsn);
    cr_assert(vv_is(fx_append(fx_wal, lsn + 1), code), "and again");
    must(vv_wal_sync(fx_wal));
    fault_arm(F_NONE, 0, 0, false); /* there is space */
    fx_put(30);
    must(fault_close());
    must(fault_open(0));
    cr_assert_eq(fx_replay_count, lsn + 30);
    must(fault_close());
}

Test(wal_faults, no_space_for_a_segment_appends_nothing_and_passes) {
    next_segment_fails(F_ALLOCATE, ENOSPC, VV_NO_SPACE);
}

Test(wal_faults, no_space_while_writing_zeros_appends_nothing_and_passes) {
    next_segment_fails(F_WRITE, ENOSPC, VV_NO_SPACE);
}

Test(wal_faults, a_segment_that_can_not_be_prepared_appends_nothing_and_passes) {
    next_segment_fails(F_SYNC, EIO, VV_IO);
}

Test(wal_faults, a_real_file_system_that_is_full) {
    char point[300];
    snprintf(point, sizeof point, "%s/full", fx_dir);
    cr_assert_eq(mkdir(point, 0700), 0);
    if (mount("tmpfs", point, "tmpfs", 0, "size=160k") != 0) {
        fprintf(stderr, "SKIPPED: mount of a small tmpfs: %s\n", strerror(errno));
        cr_skip_test("can't mount a small tmpfs");
    }
    snprintf(fx_dir, sizeof fx_dir, "%s", point);
    fx_options.segment_bytes = 32 * 1024;
    must(fault_open(0));
    vv_status st = VV_STATUS_OK;
    uint64_t lsn = 0;
    while (vv_ok(st) && lsn < 5000) {
        st = fx_append(fx_wal, lsn + 1);
        lsn += vv_ok(st);
        vv_wal_commit(fx_wal, true);
        must(vv_wal_sync(fx_wal));
    }
    cr_assert(vv_is(st, VV_NO_SPACE), "%s", vv_code_name(st.code));
    fx_release(lsn); /* as a flush would: space comes from the log itself */
    uint64_t until = vv_clock_mono_ns() + 10 * VV_NS_PER_S;
    do
        st = fx_append(fx_wal, lsn + 1);
    while (vv_is(st, VV_NO_SPACE) && vv_clock_mono_ns() < until);
    must(st);
    must(fault_close());
    must(fault_open(lsn));
    cr_assert_eq(fx_replay_count, 1);
    must(fault_close());
    umount(point);
}

/* ---- every operation fails in turn ---- */

static uint64_t acknowledged, appended, released;

/* Append, commit and sync `count` records; returns false when the log has had enough. */
static bool put_group(uint64_t count, bool inline_only) {
    for (uint64_t i = 0; i < count; i++) {
        vv_status st = fx_append(fx_wal, vv_wal_last_lsn(fx_wal) + 1);
        if (vv_ok(st))
            appended = vv_wal_last_lsn(fx_wal);
        else if (vv_is(st, VV_WAL_FAILED))
            return false;
    }
    vv_wal_commit(fx_wal, inline_only);
    if (!vv_ok(vv_wal_sync(fx_wal)))
        return false;
    acknowledged = vv_wal_last_lsn(fx_wal);
    return true;
}

static void workload(void) {
    for (int round = 0; round < 2; round++) {
        if (!vv_ok(fault_open(released)))
            return;
        bool on = true;
        for (int i = 0; on && i < 8; i++) {
            on = put_group(1, true) && put_group(5, false);
            if (on && i % 3 == 2) {
                released = acknowledged - 4;
                fx_release(released);
            }
        }
        if (on) {
            fx_big_lsn = vv_wal_last_lsn(fx_wal) + 1;
            fx_big_bytes = 20000;
            vv_status st = fx_append_sized(fx_wal, fx_big_lsn, fx_big_bytes);
            if (vv_ok(st))
                appended = fx_big_lsn;
            else
                fx_big_lsn = 0;
            on = put_group(2, false);
        }
        if (vv_ok(fault_close()))
            acknowledged = appended;
    }
}

static void fail_each(bool sticky) {
    bool fired = true;
    int n;
    fx_in_memory();
    for (n = 1; fired; n++) {
        cr_assert_lt(n, 2000);
        fx_wipe();
        pthread_mutex_lock(&fault.lock);
        fault.event_count = 0;
        fault.tear = n % 2;
        pthread_mutex_unlock(&fault.lock);
        acknowledged = appended = released = fx_big_lsn = 0;
        fault_arm(F_ANY, n, EIO, sticky);
        workload();
        fired = fault.fired > 0;
        fault_arm(F_NONE, 0, 0, false);
        vv_status st = fault_open(released);
        cr_assert(vv_ok(st), "operation %d failed, and then: %s", n, fx_err.text);
        cr_assert_geq(vv_wal_last_lsn(fx_wal), acknowledged, "operation %d", n);
        cr_assert_leq(vv_wal_last_lsn(fx_wal), appended, "operation %d", n);
        cr_assert(fx_replay_count == 0 || fx_replayed == vv_wal_last_lsn(fx_wal));
        if (acknowledged > released)
            cr_assert_geq(fx_replay_count, acknowledged - released, "operation %d", n);
        must(fault_close());
    }
    cr_assert_gt(n, 100);
}

Test(wal_faults, any_one_failing_operation_loses_nothing) {
    fail_each(false);
}

Test(wal_faults, a_crash_before_any_operation_loses_nothing) {
    fail_each(true);
}
