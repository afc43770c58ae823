/*
 * Compaction in a whole database: both styles, readers beside it, devices that fail, processes that die.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_compaction, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 1200);

static const char *const styles[] = {"tiered", "leveled"};

static varve_options *small(const char *style) {
    return fx_options("COMPACTION_STYLE", style, "MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB",
                      "COMPACTION_THRESHOLD", "2", NULL);
}

static uint64_t tables_on_disk(void) {
    uint64_t count = 0;
    DIR *d = opendir(vv_tempdir_path("db"));
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        count += strstr(e->d_name, ".sst") != NULL;
    closedir(d);
    return count;
}

/* Key number `key` with a value that tells of it and of `round`. */
static varve_status put_round(uint64_t key, uint64_t round) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char name[32], value[128];
    int name_bytes = snprintf(name, sizeof name, "key%06" PRIu64, key);
    int value_bytes = snprintf(value, sizeof value, "%06" PRIu64 "-%06" PRIu64 "-%080d", key, round, 0);
    return varve_put(fx_db, name, (size_t)name_bytes, value, (size_t)value_bytes, &async, NULL);
}

static void fill(uint64_t keys, uint64_t round) {
    for (uint64_t k = 0; k < keys; k++)
        cr_assert(varve_ok(put_round(k, round)));
}

/* UINT64_MAX: not there. */
static uint64_t round_of(uint64_t key, const varve_snapshot *snapshot) {
    char name[32], value[32] = "";
    varve_value v;
    int name_bytes = snprintf(name, sizeof name, "key%06" PRIu64, key);
    varve_status st = snapshot ? varve_get_at(fx_db, snapshot, name, (size_t)name_bytes, &v)
                               : varve_get(fx_db, name, (size_t)name_bytes, &v);
    if (st.code == VARVE_NOT_FOUND)
        return UINT64_MAX;
    cr_assert(varve_ok(st), "%s: %s", name, varve_code_name(st.code));
    memcpy(value, v.data, 13);
    varve_value_release(&v);
    cr_assert_eq(strtoull(value, NULL, 10), key);
    return strtoull(value + 7, NULL, 10);
}

static void expect_round(uint64_t keys, uint64_t round) {
    for (uint64_t k = 0; k < keys; k++)
        cr_assert_eq(round_of(k, NULL), round, "key %" PRIu64 " is of round %" PRIu64, k, round_of(k, NULL));
}

/* ---- the call ---- */

Test(db_compaction, compact_leaves_one_run_of_the_newest_entries) {
    for (size_t s = 0; s < VV_ARRAY_COUNT(styles); s++) {
        fx_open_with(small(styles[s]));
        for (uint64_t round = 0; round < 6; round++)
            fill(1500, round);
        for (uint64_t k = 1000; k < 1500; k++) {
            char name[32];
            snprintf(name, sizeof name, "key%06" PRIu64, k);
            fx_delete(name);
        }
        cr_assert(varve_ok(varve_compact(fx_db)));
        varve_stats stats = fx_stats();
        cr_assert_eq(stats.sorted_run_count, 1);
        cr_assert_gt(stats.sstable_count, 1, "split by size");
        cr_assert_lt(stats.sstable_bytes, 400000, "%" PRIu64, stats.sstable_bytes);
        cr_assert_gt(stats.dropped_versions, 0);
        cr_assert_geq(stats.dropped_tombstones, 500);
        cr_assert_eq(tables_on_disk(), stats.sstable_count, "the inputs' files are gone");
        expect_round(1000, 5);
        for (uint64_t k = 1000; k < 1500; k++)
            cr_assert_eq(round_of(k, NULL), UINT64_MAX);
        fx_close();
        fx_open_with(small(styles[s]));
        expect_round(1000, 5);
        cr_assert_eq(round_of(1200, NULL), UINT64_MAX);
        cr_assert(varve_ok(varve_compact(fx_db)), "again, of what is compact already");
        fx_close();
    }
}

static void wait_until_settled(void) {
    while (fx_stats().immutable_count > 0 || fx_stats().compaction_debt_bytes > 0)
        sched_yield();
}

Test(db_compaction, what_overlaps_nothing_moves_down_without_being_written_again) {
    enum { KEYS = 8000 };
    varve_iter *it;
    fx_open_with(small("leveled"));
    for (uint64_t k = 0; k < KEYS / 2; k++)
        cr_assert(varve_ok(put_round(k, 1)));
    cr_assert(varve_ok(varve_iter_create(fx_db, NULL, &it))); /* of tables where they are now */
    for (uint64_t k = KEYS / 2; k < KEYS; k++)
        cr_assert(varve_ok(put_round(k, 1)));
    cr_assert(varve_ok(varve_flush(fx_db)));
    wait_until_settled();
    varve_stats s = fx_stats();
    cr_assert_gt(s.sorted_run_count, 1, "into level 2");
    /* Each byte once, from level 0 to 1. Twice or more, were it not for the moves. */
    cr_assert_lt(s.compaction_written_bytes, s.flush_bytes + s.flush_bytes / 8,
                 "%" PRIu64 " bytes for %" PRIu64, s.compaction_written_bytes, s.flush_bytes);
    uint64_t count = 0;
    for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it))
        count++;
    cr_assert_eq(count, KEYS / 2);
    varve_iter_destroy(it);
    while (tables_on_disk() != fx_stats().sstable_count) /* files go behind the change that lets them go */
        sched_yield();
    expect_round(KEYS, 1);
    fx_close();
    fx_open_with(small("leveled"));
    expect_round(KEYS, 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(tables_on_disk(), fx_stats().sstable_count, "what has moved goes in the end");
    expect_round(KEYS, 1);
    fx_close();
}

Test(db_compaction, an_empty_database_is_compact) {
    fx_open();
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().sstable_count, 0);
    fx_put("a", "1");
    fx_delete("a");
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().sstable_count, 0, "nothing but a tombstone: nothing");
    fx_expect("a", NULL);
    fx_close();
    fx_open();
    fx_expect("a", NULL);
    fx_close();
}

Test(db_compaction, the_style_may_change_between_openings) {
    for (uint64_t round = 0; round < 8; round++) {
        fx_open_with(small(styles[round / 2 % 2]));
        if (round > 0)
            expect_round(800, round - 1);
        fill(800, round);
        if (round % 3 == 2)
            cr_assert(varve_ok(varve_compact(fx_db)));
        else
            cr_assert(varve_ok(varve_flush(fx_db)));
        expect_round(800, round);
        fx_close();
    }
}

/* ---- snapshots and readers ---- */

Test(db_compaction, a_snapshot_sees_its_state_across_compactions) {
    varve_snapshot *snapshots[4];
    for (size_t s = 0; s < VV_ARRAY_COUNT(styles); s++) {
        fx_open_with(small(styles[s]));
        for (uint64_t round = 0; round < 4; round++) {
            fill(700, 10 * s + round);
            snapshots[round] = varve_snapshot_create(fx_db);
        }
        fill(700, 10 * s + 4);
        cr_assert(varve_ok(varve_compact(fx_db)));
        for (uint64_t round = 0; round < 4; round++)
            for (uint64_t k = 0; k < 700; k++)
                cr_assert_eq(round_of(k, snapshots[round]), 10 * s + round);
        expect_round(700, 10 * s + 4);
        uint64_t held = fx_stats().sstable_bytes;
        for (uint64_t round = 0; round < 4; round++)
            varve_snapshot_release(fx_db, snapshots[round]);
        cr_assert(varve_ok(varve_compact(fx_db)));
        cr_assert_lt(fx_stats().sstable_bytes, held / 3, "what only snapshots needed is gone");
        expect_round(700, 10 * s + 4);
        fx_close();
    }
}

Test(db_compaction, files_go_with_their_last_reader) {
    varve_iter *it;
    fx_open_with(fx_options(NULL));
    fill(100, 0);
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert(varve_ok(varve_iter_create(fx_db, NULL, &it)));
    fill(100, 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().sstable_count, 1);
    cr_assert_geq(tables_on_disk(), 2, "the iterator's table still has its file");
    uint64_t count = 0;
    for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it)) {
        varve_entry e;
        varve_iter_entry(it, &e);
        cr_assert_eq(strtoull((const char *)e.value + 7, NULL, 10), 0);
        count++;
    }
    cr_assert(varve_ok(varve_iter_status(it)));
    cr_assert_eq(count, 100);
    varve_iter_destroy(it);
    cr_assert_eq(tables_on_disk(), 1);
    fx_close();
}

static _Atomic bool stop_readers;
static _Atomic uint64_t least_round; /* every key has at least this one */

#define READER_KEYS 600

static void *read_on(void *arg) {
    uint64_t rng = (uint64_t)(uintptr_t)arg + 77, reads = 0;
    while (!atomic_load(&stop_readers)) {
        uint64_t least = atomic_load(&least_round);
        uint64_t round = round_of(vv_test_random(&rng) % READER_KEYS, NULL);
        cr_assert(round != UINT64_MAX && round >= least, "%" PRIu64 " after %" PRIu64, round, least);
        reads++;
    }
    return (void *)(uintptr_t)reads;
}

static void *iterate_on(void *arg) {
    (void)arg;
    while (!atomic_load(&stop_readers)) {
        varve_snapshot *snapshot = varve_snapshot_create(fx_db);
        uint64_t before = 0;
        for (int pass = 0; pass < 2; pass++) {
            varve_iter *it;
            uint64_t count = 0, sum = 0;
            varve_iter_options o = {.snapshot = snapshot};
            cr_assert(varve_ok(varve_iter_create(fx_db, &o, &it)));
            for (pass ? varve_iter_last(it) : varve_iter_first(it); varve_iter_valid(it);
                 pass ? varve_iter_prev(it) : varve_iter_next(it)) {
                varve_entry e;
                varve_iter_entry(it, &e);
                sum += e.lsn;
                count++;
            }
            cr_assert(varve_ok(varve_iter_status(it)));
            cr_assert_eq(count, READER_KEYS);
            cr_assert(pass == 0 || sum == before, "a snapshot that changed");
            before = sum;
            varve_iter_destroy(it);
        }
        varve_snapshot_release(fx_db, snapshot);
    }
    return NULL;
}

Test(db_compaction, readers_and_iterators_never_notice) {
    for (size_t s = 0; s < VV_ARRAY_COUNT(styles); s++) {
        pthread_t threads[3];
        fx_open_with(small(styles[s]));
        fill(READER_KEYS, 100 * s);
        atomic_store(&least_round, 100 * s);
        atomic_store(&stop_readers, false);
        for (uintptr_t i = 0; i < 2; i++)
            pthread_create(&threads[i], NULL, read_on, (void *)i);
        pthread_create(&threads[2], NULL, iterate_on, NULL);
        for (uint64_t round = 1; round <= 6; round++) {
            fill(READER_KEYS, 100 * s + round);
            atomic_store(&least_round, 100 * s + round);
            if (round % 2 == 0)
                cr_assert(varve_ok(varve_compact(fx_db)));
        }
        atomic_store(&stop_readers, true);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        cr_assert_gt(fx_stats().compactions, 2);
        fx_close();
    }
}

/* ---- a device that fails ---- */

static struct {
    _Atomic bool armed;
    _Atomic uint64_t count;
    _Atomic uint64_t fail_at;
    _Atomic bool failed;
} fault;

/* Segments are made ready on a thread of the log's, which also syncs the directory; if that fails it latches.
 */
static bool on_log_thread(void) {
    char name[16] = "";
    return pthread_getname_np(pthread_self(), name, sizeof name) == 0 && strcmp(name, "varve-wal") == 0;
}

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)op;
    /* The log has tests of its own; a write that it loses is not acknowledged. */
    if (!atomic_load(&fault.armed) || strncmp(name, "wal-", 4) == 0 || on_log_thread())
        return VV_STATUS_OK;
    if (atomic_fetch_add(&fault.count, 1) + 1 != atomic_load(&fault.fail_at))
        return VV_STATUS_OK;
    atomic_store(&fault.failed, true);
    return vv_status_errno(EIO);
}

Test(db_compaction, whatever_operation_fails_nothing_is_lost_and_no_file_stays) {
    bool all_passed = false;
    uint64_t n = 1;
    for (; !all_passed; n++) {
        varve_options *o = fx_options("MAX_TABLE_SIZE", "64KiB", NULL);
        vv_error err;
        atomic_store(&fault.armed, false);
        vv_status st = vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err);
        varve_options_destroy(o);
        cr_assert(vv_ok(st), "%s", err.text);
        fill(400, 2 * n);
        cr_assert(varve_ok(varve_flush(fx_db)));
        fill(900, 2 * n + 1);
        atomic_store(&fault.failed, false);
        atomic_store(&fault.count, 0);
        atomic_store(&fault.fail_at, n);
        atomic_store(&fault.armed, true);
        varve_status compacted = varve_compact(fx_db);
        atomic_store(&fault.armed, false);
        all_passed = !atomic_load(&fault.failed);
        if (all_passed)
            cr_assert(varve_ok(compacted));
        else
            cr_assert(varve_ok(compacted) || compacted.code == VARVE_IO, "operation %" PRIu64 ": %s", n,
                      varve_code_name(compacted.code));
        expect_round(900, 2 * n + 1);
        if (n % 2) { /* once with, once without another try before the end */
            cr_assert(varve_ok(varve_compact(fx_db)), "operation %" PRIu64, n);
            expect_round(900, 2 * n + 1);
        }
        fx_close();
        fx_open();
        cr_assert_eq(tables_on_disk(), fx_stats().sstable_count, "orphans after operation %" PRIu64, n);
        expect_round(900, 2 * n + 1);
        fx_close();
    }
    cr_assert_gt(n, 15, "%" PRIu64 " operations", n);
}

/* Syncs of the directory that follow a rename fail, for as long as `armed`: the manifest is there, or not. */
static _Atomic bool renamed;

static vv_status fail_after_rename(void *arg, const char *op, const char *name) {
    (void)arg;
    if (strncmp(name, "wal-", 4) == 0)
        return VV_STATUS_OK;
    if (strcmp(op, "rename") == 0)
        atomic_store(&renamed, true);
    else if (strcmp(op, "dirsync") == 0 && atomic_exchange(&renamed, false) && atomic_load(&fault.armed))
        return vv_status_errno(EIO);
    return VV_STATUS_OK;
}

Test(db_compaction, tries_whose_outcome_is_unknown_leave_one_set_of_files) {
    varve_options *o = fx_options("MAX_TABLE_SIZE", "64KiB", "COMPACTION_THRESHOLD", "64", NULL);
    vv_error err;
    atomic_store(&fault.armed, false);
    vv_status st =
        vv_db_open_on(vv_fault_io_create(fail_after_rename, NULL), vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
    fill(900, 1);
    cr_assert(varve_ok(varve_flush(fx_db)));
    fill(900, 2);
    cr_assert(varve_ok(varve_flush(fx_db)));
    uint64_t before = tables_on_disk(), once = 0;
    atomic_store(&fault.armed, true);
    for (int i = 0; i < 6; i++) {
        cr_assert_eq(varve_compact(fx_db).code, VARVE_IO);
        if (i == 0)
            once = tables_on_disk();
        cr_assert_gt(once, before, "the manifest on disk may name the outputs");
        cr_assert_leq(tables_on_disk(), once, "after try %d", i + 1);
        expect_round(900, 2);
    }
    atomic_store(&fault.armed, false);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(tables_on_disk(), fx_stats().sstable_count);
    expect_round(900, 2);
    /* And the same for a flush, whose tries are the flusher's own. */
    atomic_store(&fault.armed, true);
    before = tables_on_disk();
    cr_assert(varve_ok(put_round(0, 3)));
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(varve_flush(fx_db).code, VARVE_IO);
        cr_assert_leq(tables_on_disk(), before + 1, "after flush %d", i + 1);
    }
    atomic_store(&fault.armed, false);
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert_eq(tables_on_disk(), fx_stats().sstable_count);
    fx_close();
    fx_open();
    cr_assert_eq(round_of(0, NULL), 3);
    cr_assert_eq(tables_on_disk(), fx_stats().sstable_count);
    fx_close();
}

/* ---- a process that is killed ---- */

#define CRASH_KEYS 400

/* Round after round over all keys, merges running all the time; tell each acknowledged put. */
static void write_for_ever(int fd, const char *style, uint64_t start) {
    fx_open_with(fx_options("COMPACTION_STYLE", style, "MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB",
                            "COMPACTION_THRESHOLD", "2", "WAL_SEGMENT_SIZE", "256KiB", NULL));
    for (uint64_t n = start;; n++) {
        if (!varve_ok(put_round(n % CRASH_KEYS, n / CRASH_KEYS)))
            _exit(3);
        /* Asynchronous up to here: every 64th put makes all durable, and is told. */
        if (n % 64 == 0) {
            if (!varve_ok(varve_put(fx_db, "sync", 4, &n, sizeof n, NULL, NULL)))
                _exit(4);
            if (write(fd, &n, sizeof n) != sizeof n)
                _exit(5);
        }
    }
}

Test(db_compaction, a_kill_amid_merges_loses_nothing) {
    uint64_t seed = vv_test_seed();
    uint64_t acked = 0; /* puts 0 to acked are durable */
    for (int round = 0; round < 6; round++) {
        const char *style = styles[round % 2];
        int fds[2];
        cr_assert_eq(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(fds[0]);
            write_for_ever(fds[1], style, acked);
        }
        close(fds[1]);
        uint64_t n, quota = 30 + vv_test_random(&seed) % 200;
        for (uint64_t i = 0; i < quota && read(fds[0], &n, sizeof n) == sizeof n; i++)
            acked = n;
        kill(pid, SIGKILL);
        while (read(fds[0], &n, sizeof n) == sizeof n)
            acked = n;
        int status;
        waitpid(pid, &status, 0);
        close(fds[0]);
        cr_assert(WIFSIGNALED(status), "the writer ended by itself: %d", WEXITSTATUS(status));
        fx_open_with(
            fx_options("COMPACTION_STYLE", "tiered", "COMPACTION_THRESHOLD", "64", NULL)); /* no merges */
        cr_assert_eq(tables_on_disk(), fx_stats().sstable_count, "orphans");
        for (uint64_t k = 0; k < CRASH_KEYS && k <= acked; k++) {
            uint64_t least = (acked - k) / CRASH_KEYS;
            uint64_t found = round_of(k, NULL);
            cr_assert(found != UINT64_MAX && found >= least, "key %" PRIu64 " of round %" PRIu64, k, found);
        }
        fx_close();
    }
}

/* ---- the safe compaction LSN ---- */

static uint64_t dropped_by_compact(void) {
    uint64_t before = fx_stats().dropped_tombstones;
    cr_assert(varve_ok(varve_compact(fx_db)));
    return fx_stats().dropped_tombstones - before;
}

static void set_safe_lsn(uint64_t lsn) {
    cr_assert(varve_ok(varve_set_safe_compaction_lsn(fx_db, lsn, &fx_err)), "%s", fx_err.text);
    cr_assert_eq(fx_stats().safe_compaction_lsn, lsn);
}

Test(db_compaction, the_safe_lsn_holds_tombstones_also_across_a_restart) {
    for (size_t s = 0; s < VV_ARRAY_COUNT(styles); s++) {
        fx_open_with(small(styles[s]));
        cr_assert_eq(fx_stats().safe_compaction_lsn, 0, "no gate");
        fx_put("a", "1");
        uint64_t before = fx_put("b", "1");
        uint64_t deleted = fx_delete("a");
        set_safe_lsn(before);
        cr_assert_eq(dropped_by_compact(), 0, "%s", styles[s]);
        fx_expect("a", NULL);
        fx_close();

        fx_open_with(small(styles[s]));
        cr_assert_eq(fx_stats().safe_compaction_lsn, before, "kept");
        cr_assert_eq(dropped_by_compact(), 0);
        uint64_t newer = fx_put("c", "1");
        set_safe_lsn(deleted);
        cr_assert_eq(dropped_by_compact(), 0, "the merge reaches beyond it, though the tombstone does not");
        set_safe_lsn(newer);
        cr_assert_eq(dropped_by_compact(), 1, "all of the merge is confirmed");

        fx_delete("b");
        set_safe_lsn(1);
        cr_assert_eq(dropped_by_compact(), 0, "it may be lowered");
        set_safe_lsn(0);
        cr_assert_eq(dropped_by_compact(), 1, "no gate");
        fx_expect("a", NULL);
        fx_expect("b", NULL);
        fx_expect("c", "1");
        fx_close();
        vv_tempdir_cleanup();
        vv_tempdir();
    }
}

static _Atomic bool manifest_fails;

static vv_status fail_manifest(void *arg, const char *op, const char *name) {
    (void)arg;
    bool is_manifest = strcmp(op, "sync") == 0 && strncmp(name, "MANIFEST", 8) == 0;
    return is_manifest && atomic_load(&manifest_fails) ? vv_status_errno(EIO) : VV_STATUS_OK;
}

Test(db_compaction, a_safe_lsn_that_is_not_on_disk_does_not_hold) {
    varve_options *o = small("leveled");
    vv_error err;
    cr_assert(vv_ok(
        vv_db_open_on(vv_fault_io_create(fail_manifest, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    set_safe_lsn(7);
    atomic_store(&manifest_fails, true);
    varve_status st = varve_set_safe_compaction_lsn(fx_db, 9, &fx_err);
    cr_assert_eq(st.code, VARVE_IO);
    cr_assert_not_null(strstr(fx_err.text, "safe compaction LSN"), "%s", fx_err.text);
    cr_assert_eq(fx_stats().safe_compaction_lsn, 7);
    cr_assert_eq(varve_set_safe_compaction_lsn(fx_db, 9, NULL).code, VARVE_IO);
    atomic_store(&manifest_fails, false);
    fx_close();
    fx_open_with(small("leveled"));
    cr_assert_eq(fx_stats().safe_compaction_lsn, 7);
    fx_close();
}
