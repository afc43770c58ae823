/*
 * A device that fails: what the database says, what it keeps, what it never does again.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"
#include "io/uring_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

/* Operations whose op and name start with these fail with `sys` while it is not 0. */
static struct {
    _Atomic(const char *) op;
    _Atomic(const char *) name;
    _Atomic int sys;
    _Atomic int failed;
    _Atomic int syncs_after_failure;
    _Atomic bool hold; /* the operation that is to fail waits while this is set */
} fault;

static bool starts(const char *text, const char *prefix) {
    return prefix && strncmp(text, prefix, strlen(prefix)) == 0;
}

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    if (atomic_load(&fault.failed) && starts(name, "wal-") && strcmp(op, "datasync") == 0)
        atomic_fetch_add(&fault.syncs_after_failure, 1);
    int sys = atomic_load(&fault.sys);
    if (sys && starts(op, atomic_load(&fault.op)) && starts(name, atomic_load(&fault.name))) {
        atomic_fetch_add(&fault.failed, 1);
        while (atomic_load(&fault.hold))
            sched_yield();
        return vv_status_errno(sys);
    }
    return VV_STATUS_OK;
}

static void break_io(const char *op, const char *name, int sys) {
    atomic_store(&fault.op, op);
    atomic_store(&fault.name, name);
    atomic_store(&fault.sys, sys);
}

static void mend_io(void) {
    atomic_store(&fault.sys, 0);
}

static void open_faulty(varve_options *o) {
    vv_error err;
    vv_status st = vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
}

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_faults, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static _Atomic int failures_logged;

static void count_failures(void *arg, varve_log_level level, const char *line) {
    (void)arg;
    (void)line;
    if (level == VARVE_LOG_ERROR)
        atomic_fetch_add(&failures_logged, 1);
}

static void latches_on(const char *op) {
    varve_options *o = fx_options(NULL);
    varve_options_set_log(o, count_failures, NULL, VARVE_LOG_INFO);
    open_faulty(o);
    fx_put("before", "1");
    break_io(op, "wal-", EIO);
    varve_status st = varve_put(fx_db, "lost", 4, "1", 1, NULL, NULL);
    cr_assert_eq(st.code, VARVE_WAL_FAILED, "%s", varve_code_name(st.code));
    mend_io();
    /* The device works again, but what the kernel dropped is unknown: no more writes, and no more syncs. */
    for (int i = 0; i < 3; i++)
        cr_assert_eq(varve_put(fx_db, "after", 5, "1", 1, NULL, NULL).code, VARVE_WAL_FAILED);
    cr_assert_eq(varve_flush(fx_db).code, VARVE_WAL_FAILED);
    cr_assert(fx_stats().wal_failed);
    fx_expect("before", "1");
    fx_expect("lost", NULL);
    fx_expect("after", NULL);
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED, "closing does not pretend that all is well");
    cr_assert_eq(atomic_load(&fault.syncs_after_failure), 0);
    cr_assert_eq(atomic_load(&failures_logged), 1, "one failure, one line");
    fx_open();
    fx_expect("before", "1");
    fx_expect("after", NULL);
    fx_put("again", "1");
    fx_close();
}

Test(db_faults, a_failed_log_sync_latches) {
    latches_on("datasync");
}

Test(db_faults, a_failed_log_write_latches) {
    latches_on("write");
}

typedef struct answer {
    _Atomic bool given;
    varve_status status;
} answer;

static void take_answer(void *arg, varve_status status, uint64_t lsn) {
    answer *a = arg;
    (void)lsn;
    a->status = status;
    atomic_store(&a->given, true);
}

Test(db_faults, a_write_queued_behind_a_failed_sync_does_not_seal_what_is_not_durable) {
    static char value[300 * 1024];
    answer answers[2] = {0};
    varve_batch *batch = varve_batch_create();
    open_faulty(fx_options("MEMTABLE_SIZE", "256KiB", NULL));
    cr_assert(varve_ok(varve_batch_put(batch, "key", 3, value, sizeof value)));
    atomic_store(&fault.hold, true);
    break_io("datasync", "wal-", EIO);
    varve_write_async(fx_db, batch, NULL, take_answer, &answers[0]);
    while (atomic_load(&fault.failed) == 0)
        sched_yield();
    varve_write_async(fx_db, batch, NULL, take_answer, &answers[1]); /* nothing is latched yet */
    atomic_store(&fault.hold, false);
    for (int i = 0; i < 2; i++) {
        while (!atomic_load(&answers[i].given))
            sched_yield();
        cr_assert_eq(answers[i].status.code, VARVE_WAL_FAILED);
    }
    varve_stats stats = fx_stats();
    cr_assert_eq(stats.immutable_count + stats.sstable_count, 0, "what the log lost went to a table");
    mend_io();
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED);
    varve_batch_destroy(batch);
}

static void *put_forever(void *arg) {
    int *acked = arg;
    char key[32];
    for (;;) {
        int n = snprintf(key, sizeof key, "%p-%d", arg, *acked);
        if (!varve_ok(varve_put(fx_db, key, (size_t)n, "x", 1, NULL, NULL)))
            return NULL;
        ++*acked;
    }
}

Test(db_faults, every_waiter_of_a_failed_group_is_told_and_every_acknowledged_write_survives) {
    enum { THREADS = 8 };
    static int acked[THREADS];
    pthread_t threads[THREADS];
    open_faulty(fx_options(NULL));
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, put_forever, &acked[i]);
    while (fx_stats().last_lsn < 2000)
        sched_yield();
    break_io("datasync", "wal-", EIO);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    mend_io();
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED);
    fx_open();
    for (int i = 0; i < THREADS; i++)
        for (int k = 0; k < acked[i]; k++) {
            char key[32];
            snprintf(key, sizeof key, "%p-%d", (void *)&acked[i], k);
            fx_expect(key, "x");
        }
    fx_close();
}

Test(db_faults, a_failed_flush_is_tried_again_and_loses_nothing) {
    static const struct {
        const char *op, *name;
    } points[] = {{"open", "000"},  {"write", "000"}, {"sync", "000"},       {"dirsync", "db"},
                  {"write", "MAN"}, {"sync", "MAN"},  {"rename", "MANIFEST"}};
    open_faulty(fx_options(NULL));
    char key[16];
    for (size_t i = 0; i < VV_ARRAY_COUNT(points); i++) {
        snprintf(key, sizeof key, "key%zu", i);
        fx_put(key, "1");
        break_io(points[i].op, points[i].name, EIO);
        varve_status st = varve_flush(fx_db);
        mend_io();
        cr_assert_eq(st.code, VARVE_IO, "%s %s: %s", points[i].op, points[i].name, varve_code_name(st.code));
        fx_expect(key, "1");
        cr_assert(varve_ok(varve_flush(fx_db)), "once the device works, so does the flush");
        cr_assert_eq(fx_stats().flushed_lsn, i + 1);
        fx_expect(key, "1");
    }
    fx_close();
    fx_open();
    for (size_t i = 0; i < VV_ARRAY_COUNT(points); i++) {
        snprintf(key, sizeof key, "key%zu", i);
        fx_expect(key, "1");
    }
    fx_close();
}

Test(db_faults, an_opening_that_fails_at_the_manifest_lets_go_of_no_log) {
    vv_error err;
    varve_db *none;
    fx_open();
    fx_put("key", "value");
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();
    break_io("write", "MANIFEST", EIO);
    varve_options *o = fx_options(NULL);
    vv_status st = vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &none, &err);
    varve_options_destroy(o);
    cr_assert_eq(st.code, VV_IO, "%s", vv_code_name((vv_code)st.code));
    mend_io();
    fx_open();
    fx_expect("key", "value");
    fx_close();
}

Test(db_faults, a_flush_that_fails_at_the_manifest_lets_go_of_no_log) {
    static char value[60000];
    char key[16];
    open_faulty(fx_options("MEMTABLE_SIZE", "4MiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "key%02d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, 5, value, sizeof value, NULL, NULL)));
    }
    cr_assert_gt(fx_stats().wal_segment_count, 3);
    break_io("write", "MANIFEST", EIO);
    cr_assert(!varve_ok(varve_flush(fx_db)));
    vv_status_ignore((vv_status){(uint16_t)varve_close(fx_db).code, 0, 0}, "the disk is broken");
    mend_io();
    fx_open();
    for (int i = 0; i < 20; i++) {
        varve_value v;
        snprintf(key, sizeof key, "key%02d", i);
        cr_assert(varve_ok(varve_get(fx_db, key, 5, &v)));
        varve_value_release(&v);
    }
    fx_close();
}

Test(db_faults, a_flush_that_fails_at_the_manifest_leaves_no_table_behind) {
    open_faulty(fx_options(NULL));
    fx_put("key", "1");
    break_io("write", "MAN", ENOSPC);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(varve_flush(fx_db).code, VARVE_NO_SPACE);
    mend_io();
    cr_assert(varve_ok(varve_flush(fx_db)));
    int tables = 0;
    DIR *dir = opendir(vv_tempdir_path("db"));
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        tables += strstr(e->d_name, ".sst") != NULL;
    closedir(dir);
    cr_assert_eq(tables, 1, "%d", tables);
    fx_close();
}

static _Atomic bool ring_broken;
static int (*real_enter)(struct io_uring *ring, unsigned wait_nr);

static int enter_or_fail(struct io_uring *ring, unsigned wait_nr) {
    return atomic_load(&ring_broken) ? -EINVAL : real_enter(ring, wait_nr);
}

Test(db_faults, a_ring_that_broke_under_a_flush_is_replaced) {
    real_enter = vv_uring_sys.enter;
    vv_uring_sys.enter = enter_or_fail;
    fx_open();
    if (strcmp(fx_stats().io_backend, "uring") == 0) {
        fx_put("key", "1");
        atomic_store(&ring_broken, true);
        cr_assert_eq(varve_flush(fx_db).code, VARVE_IO);
        atomic_store(&ring_broken, false);
        cr_assert(varve_ok(varve_flush(fx_db)));
        fx_expect("key", "1");
    }
    fx_close();
    vv_uring_sys.enter = real_enter;
}

static void take_code(void *arg, varve_status status, varve_value *value) {
    varve_value_release(value);
    atomic_store((_Atomic int *)arg, (int)status.code);
}

static int get_async_code(const char *key) {
    _Atomic int code = -1;
    varve_get_async(fx_db, NULL, key, strlen(key), take_code, &code);
    while (atomic_load(&code) < 0)
        sched_yield();
    return atomic_load(&code);
}

Test(db_faults, a_ring_that_broke_under_a_read_or_a_merge_is_replaced) {
    real_enter = vv_uring_sys.enter;
    vv_uring_sys.enter = enter_or_fail;
    fx_open_with(fx_options("CACHE_CAPACITY", "0", NULL));
    if (strcmp(fx_stats().io_backend, "uring") == 0) {
        fx_put("key", "1");
        cr_assert(varve_ok(varve_flush(fx_db)));
        atomic_store(&ring_broken, true);
        cr_assert_eq(get_async_code("key"), VARVE_IO);
        cr_assert_eq(varve_compact(fx_db).code, VARVE_IO);
        atomic_store(&ring_broken, false);
        cr_assert_eq(get_async_code("key"), VARVE_OK);
        cr_assert(varve_ok(varve_compact(fx_db)));
        fx_expect("key", "1");
    }
    fx_close();
    vv_uring_sys.enter = real_enter;
}

Test(db_faults, writes_fail_with_no_space_when_nothing_can_be_flushed_and_work_again_after) {
    open_faulty(fx_options("MEMTABLE_SIZE", "256KiB", "MAX_IMMUTABLE_COUNT", "1", NULL));
    char value[4096] = {0};
    break_io("write", "000", ENOSPC);
    varve_status st = {0};
    uint64_t written = 0;
    for (; written < 10000 && st.code == VARVE_OK; written++)
        st = varve_put(fx_db, &written, sizeof written, value, sizeof value, NULL, NULL);
    written--;
    cr_assert_eq(st.code, VARVE_NO_SPACE, "%s", varve_code_name(st.code));
    varve_value v;
    cr_assert(varve_ok(varve_get(fx_db, "\0\0\0\0\0\0\0", 8, &v)), "reads go on");
    varve_value_release(&v);
    mend_io();
    do
        st = varve_put(fx_db, "after", 5, "1", 1, NULL, NULL);
    while (st.code == VARVE_NO_SPACE); /* until the flusher has tried again; bounded by the test's time-out */
    cr_assert(varve_ok(st));
    for (uint64_t i = 0; i < written; i++) {
        cr_assert(varve_ok(varve_get(fx_db, &i, sizeof i, &v)), "key %" PRIu64, i);
        varve_value_release(&v);
    }
    fx_close();
}

Test(db_faults, a_new_database_syncs_the_name_of_a_directory_that_was_there_already) {
    /* Somebody made it, or an opening that was killed before its sync. */
    char parent[256];
    snprintf(parent, sizeof parent, "%s", vv_tempdir_path(""));
    while (parent[strlen(parent) - 1] == '/')
        parent[strlen(parent) - 1] = '\0';
    cr_assert_eq(mkdir(vv_tempdir_path("db"), 0750), 0);
    break_io("dirsync", strrchr(parent, '/') + 1, EIO);
    varve_options *o = fx_options(NULL);
    vv_error err;
    vv_status st = vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_is(st, VV_IO), "%s", vv_code_name(st.code));
    mend_io();
    fx_open();
    fx_close();
}

Test(db_faults, a_write_never_fails_with_the_name_of_a_missing_file) {
    /* To a caller NOT_FOUND is about its key, and EXISTS too. */
    static const int sys[] = {ENOENT, EEXIST, EACCES};
    char value[4096] = {0};
    open_faulty(fx_options("MEMTABLE_SIZE", "64KiB", "MAX_IMMUTABLE_COUNT", "1", NULL));
    for (size_t i = 0; i < VV_ARRAY_COUNT(sys); i++) {
        break_io("open", "000", sys[i]);
        varve_status st = {0};
        for (int k = 0; k < 10000 && st.code == VARVE_OK; k++)
            st = varve_put(fx_db, "key", 3, value, sizeof value, NULL, NULL);
        cr_assert_eq(st.code, VARVE_IO, "%s", varve_code_name(st.code));
        cr_assert_eq(st.sys, sys[i]);
        cr_assert_eq(varve_flush(fx_db).code, VARVE_IO);
        mend_io();
        while (!varve_ok(varve_flush(fx_db))) /* until the flusher has tried again */
            sched_yield();
    }
    fx_close();
}

Test(db_faults, opening_fails_cleanly_at_every_failed_allocation) {
    fx_open();
    fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_put("b", "2");
    fx_close();
    for (uint64_t n = 1;; n++) {
        varve_options *o = fx_options("IO_BACKEND", "posix", NULL);
        vv_alloc_fail_at(n);
        varve_status st = varve_open(vv_tempdir_path("db"), o, &fx_db, &fx_err);
        vv_alloc_fail_at(0);
        varve_options_destroy(o);
        if (varve_ok(st)) {
            fx_expect("a", "1");
            fx_expect("b", "2");
            fx_close();
            if (n > 20)
                break; /* failing threads of the background may leave the opening whole */
        } else {
            cr_assert_eq(st.code, VARVE_NO_MEMORY, "allocation %" PRIu64 ": %s", n, fx_err.text);
        }
    }
}

Test(db_faults, a_raw_file_left_beside_a_log_segment_of_its_number_does_no_harm) {
    /* A segment whose file was made and could not be opened, and was then made of another file. */
    fx_open();
    fx_put("a", "1");
    fx_close();
    unsigned made = 0;
    for (unsigned seq = 1; seq < 8; seq++) {
        char log[64], raw[64];
        snprintf(log, sizeof log, "db/wal-%016x.log", seq);
        snprintf(raw, sizeof raw, "db/wal-%016x.tmp", seq);
        if (access(vv_tempdir_path(log), F_OK) != 0)
            continue;
        FILE *out = fopen(vv_tempdir_path(raw), "w");
        cr_assert(out);
        fclose(out);
        made++;
    }
    cr_assert_geq(made, 2); /* the one in use, and the next */
    for (unsigned i = 0; i < 3; i++) {
        fx_open();
        fx_expect("a", "1");
        fx_close();
    }
}
