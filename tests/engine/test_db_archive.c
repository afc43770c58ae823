/*
 * Archives: that everything durable gets there, that going on after whatever happened loses nothing, and
 * that what is lost all the same is said.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "tests/engine/archive_fixture.h"

TestSuite(db_archive, .init = ax_setup, .fini = vv_tempdir_cleanup, .timeout = 120);

/* ---- a database on a disk that fails ---- */

static const char *_Atomic fail_op;
static const char *_Atomic fail_name; /* a part of it; NULL: all */
static _Atomic int fail_code;
static _Atomic int failed_count;

static vv_status fault(void *arg, const char *op, const char *name) {
    (void)arg;
    const char *wanted = fail_op, *part = fail_name;
    if (!wanted || strcmp(op, wanted) != 0 || (part && !strstr(name, part)))
        return VV_STATUS_OK;
    failed_count++;
    return vv_status_make((vv_code)fail_code, VV_SUB_NONE, 0);
}

static char log_text[65536];
static vv_mutex log_lock;

static void take_line(void *arg, varve_log_level level, const char *line) {
    (void)arg, (void)level;
    vv_mutex_lock(&log_lock);
    size_t used = strlen(log_text);
    snprintf(log_text + used, sizeof log_text - used, "%s\n", line);
    vv_mutex_unlock(&log_lock);
}

static bool log_has(const char *text) {
    vv_mutex_lock(&log_lock);
    bool has = strstr(log_text, text) != NULL;
    vv_mutex_unlock(&log_lock);
    return has;
}

static void open_logged(vv_io_backend *io, varve_options *o) {
    vv_mutex_init(&log_lock);
    varve_options_set_log(o, take_line, NULL, VARVE_LOG_INFO);
    vv_error err;
    if (!io) {
        fx_open_with(o);
        return;
    }
    vv_status st = vv_db_open_on(io, vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
}

static void wait_for_failures(int count) {
    uint64_t until_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (failed_count < count) {
        cr_assert(vv_clock_mono_ns() < until_ns);
        sched_yield();
    }
}

/* ---- the usual ---- */

Test(db_archive, has_what_is_written_and_goes_on_where_it_was) {
    fx_open();
    ax_puts(10);
    ax_start();
    ax_puts(10);
    ax_wait(20);
    ax_stop();
    ax_puts(5); /* without it: the log has them */
    ax_start();
    ax_puts(5);
    ax_stop(); /* takes what is durable */
    ax_expect_files("1-30");
    fx_close();
    fx_open();
    ax_start();
    ax_puts(1);
    ax_stop();
    fx_close();
    ax_expect_files("1-31");
}

Test(db_archive, syncs_within_the_interval_without_being_stopped) {
    ax_options.sync_interval_us = 20 * 1000;
    fx_open();
    ax_start();
    for (int i = 0; i < 5; i++)
        ax_wait(ax_puts(3));
    ax_stop();
    fx_close();
}

Test(db_archive, ends_files_at_their_size) {
    char value[8193] = {0};
    memset(value, 'v', sizeof value - 1);
    ax_options.file_bytes = 256 << 10;
    fx_open();
    ax_start();
    for (int i = 0; i < 200; i++)
        fx_put("key", value);
    ax_stop();
    ax_start(); /* also of a run before */
    for (int i = 0; i < 200; i++)
        fx_put("key", value);
    ax_wait(400);
    varve_archive_info info = ax_info();
    cr_assert(info.file_count > 4 && info.bytes > 200 * 8192 && info.gaps == 0, "%" PRIu64 " files",
              info.file_count);
    ax_stop();
    fx_close();
    vv_archive_dir dir;
    vv_io_backend *io = ax_io();
    vv_error err;
    uint64_t next = 1;
    cr_assert(vv_ok(vv_archive_dir_read(io, ax_dir, &dir, &err)));
    cr_assert(dir.count > 10);
    for (size_t i = 0; i < dir.count; i++) {
        struct stat s;
        char path[VV_ARCHIVE_PATH_BYTES + 64];
        vv_archive_dir_file(&dir, dir.files[i].number, path);
        cr_assert_eq(stat(path, &s), 0);
        cr_assert(s.st_size < (256 << 10) + (1 << 20), "%lld bytes", (long long)s.st_size);
        cr_assert(dir.files[i].first_lsn >= next && dir.files[i].limit_lsn > dir.files[i].first_lsn);
        next = dir.files[i].first_lsn + 1;
    }
    vv_archive_dir_deinit(&dir);
    vv_io_backend_destroy(io);
}

Test(db_archive, is_of_one_database_and_one_process) {
    varve_archive *second;
    fx_open();
    ax_start();
    varve_status st = varve_archive_start(fx_db, ax_dir, NULL, &second, &fx_err);
    cr_assert(st.code == VARVE_LOCKED && !second, "%s", varve_code_name(st.code));
    ax_puts(1);
    ax_stop();
    fx_close();
    varve_options *o = fx_options(NULL);
    cr_assert(varve_ok(varve_open(vv_tempdir_path("other"), o, &fx_db, &fx_err)));
    varve_options_destroy(o);
    st = varve_archive_start(fx_db, ax_dir, NULL, &second, &fx_err);
    cr_assert(st.code == VARVE_INVALID_ARGUMENT && strstr(fx_err.text, "another database"), "%s",
              fx_err.text);
    st = varve_archive_start(fx_db, "/nowhere/at/all", NULL, &second, &fx_err);
    cr_assert(st.code == VARVE_NOT_FOUND, "%s", varve_code_name(st.code));
    fx_close();
}

Test(db_archive, holds_the_log_until_it_has_it) {
    char value[60001] = {0};
    memset(value, 'v', sizeof value - 1);
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", NULL));
    ax_start();
    ax_stop();                    /* the slot stays */
    for (int i = 0; i < 100; i++) /* six segments, and flushes of all */
        fx_put("key", value);
    cr_assert(varve_ok(varve_flush(fx_db)));
    ax_start();
    cr_assert_eq(ax_info().gaps, 0);
    ax_wait(100);
    ax_stop();
    ax_expect_files("1-100");
    fx_close();
}

/* ---- a log that is gone ---- */

Test(db_archive, says_where_records_are_missing) {
    char value[60001] = {0};
    memset(value, 'v', sizeof value - 1);
    open_logged(NULL, fx_options("MEMTABLE_SIZE", "256KiB", NULL));
    ax_start();
    ax_puts(3);
    ax_stop();
    cr_assert(varve_ok(varve_slot_drop(fx_db, VARVE_ARCHIVE_SLOT, &fx_err)), "%s", fx_err.text);
    for (int i = 0; i < 100; i++)
        fx_put("key", value);
    cr_assert(varve_ok(varve_flush(fx_db)));
    /* Segments are recycled by a thread of the log. */
    varve_wal_cursor *c;
    uint64_t oldest = 0, until_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (varve_ok(varve_wal_cursor_open(fx_db, 3, &c, &oldest))) {
        varve_wal_cursor_close(c);
        cr_assert(vv_clock_mono_ns() < until_ns);
        sched_yield();
    }
    ax_start();
    cr_assert_eq(ax_info().gaps, 1);
    cr_assert(log_has("LSN 4 to "), "%s", log_text);
    ax_puts(1);
    ax_wait(104);
    ax_stop();
    fx_close();
    uint64_t first, last;
    cr_assert_eq(sscanf(ax_files(), "1-3 %" SCNu64 "-%" SCNu64, &first, &last), 2, "%s", ax_files());
    cr_assert(first > 4 && last == 104);
}

/* ---- disks that fail ---- */

Test(db_archive, a_full_disk_is_waited_for) {
    open_logged(vv_fault_io_create(fault, NULL), fx_options(NULL));
    ax_options.sync_interval_us = 1000;
    ax_start();
    ax_puts(5);
    ax_wait(5);
    fail_code = VV_NO_SPACE;
    fail_name = "archive";
    fail_op = "write";
    ax_puts(5);
    wait_for_failures(2); /* also the second time */
    cr_assert_eq(ax_info().status.code, VARVE_NO_SPACE);
    cr_assert_eq(ax_info().last_lsn, 5);
    cr_assert(log_has("nothing behind LSN 5 is archived"), "%s", log_text);
    fail_op = NULL;
    ax_wait(ax_puts(1));
    ax_stop();
    cr_assert(log_has("goes on"), "%s", log_text);
    fx_close();
    ax_expect_files("1-11");
}

Test(db_archive, what_a_failed_sync_may_have_lost_is_archived_again) {
    open_logged(vv_fault_io_create(fault, NULL), fx_options(NULL));
    ax_options.sync_interval_us = 1000;
    ax_start();
    ax_wait(ax_puts(5));
    fail_code = VV_IO;
    fail_name = "0000000000000001.archive";
    fail_op = "datasync";
    ax_puts(5);
    wait_for_failures(1);
    ax_wait(10);
    cr_assert_eq(failed_count, 1, "synced again after a failure");
    fail_op = NULL;
    ax_wait(ax_puts(2));
    ax_stop();
    fx_close();
    ax_expect_files("1-5 6-12");
}

Test(db_archive, no_file_is_begun_before_there_is_room) {
    static const char *const ops[] = {"open", "write", "sync", "rename", "dirsync"};
    open_logged(vv_fault_io_create(fault, NULL), fx_options(NULL));
    ax_options.sync_interval_us = 1000;
    uint64_t lsn = 0;
    for (size_t i = 0; i < VV_ARRAY_COUNT(ops); i++) {
        snprintf(ax_dir, sizeof ax_dir, "%s", vv_tempdir_path(ops[i]));
        ax_start();
        failed_count = 0;
        fail_code = VV_NO_SPACE;
        fail_name = strcmp(ops[i], "dirsync") == 0 ? ops[i] : ".archive";
        fail_op = ops[i];
        lsn = ax_puts(1);
        wait_for_failures(1);
        fail_op = NULL;
        ax_wait(lsn);
        ax_stop();
        uint64_t first, last;
        const char *files = strrchr(ax_files(), ' ') ? strrchr(ax_files(), ' ') + 1 : ax_files();
        cr_assert_eq(sscanf(files, "%" SCNu64 "-%" SCNu64, &first, &last), 2);
        cr_assert(first == 1 && last == lsn, "%s: %s", ops[i], ax_files());
    }
    fx_close();
}

Test(db_archive, ends_although_the_disk_is_full) {
    open_logged(vv_fault_io_create(fault, NULL), fx_options(NULL));
    ax_start();
    fail_code = VV_NO_SPACE;
    fail_name = "archive";
    fail_op = "write";
    ax_puts(5);
    ax_stop();
    fail_op = NULL;
    cr_assert(log_has("not at the end"), "%s", log_text);
    ax_start();
    ax_stop();
    fx_close();
    ax_expect_files("1-5");
}

/* ---- what a crash leaves, and damage ---- */

static void append(const char *name, size_t bytes, int with) {
    int fd = open(ax_path(name), O_WRONLY | O_APPEND);
    cr_assert(fd >= 0);
    char *fill = malloc(bytes);
    memset(fill, with, bytes);
    cr_assert_eq(write(fd, fill, bytes), (ssize_t)bytes);
    free(fill);
    close(fd);
}

static void flip(const char *name, off_t at) {
    int fd = open(ax_path(name), O_RDWR);
    uint8_t byte;
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

Test(db_archive, a_torn_end_is_cut_and_gone_on_from) {
    open_logged(NULL, fx_options(NULL));
    ax_start();
    ax_puts(5);
    ax_stop();
    append("0000000000000001.archive", 5000, 'x');
    int fd = open(ax_path("0000000000000002.archive.tmp"), O_WRONLY | O_CREAT, 0600);
    close(fd);
    ax_start();
    cr_assert(log_has("cut by 5000 bytes"), "%s", log_text);
    ax_puts(5);
    ax_stop();
    cr_assert(access(ax_path("0000000000000002.archive.tmp"), F_OK) != 0);
    ax_expect_files("1-10");
    /* A whole write is lost that was archived: the log has it. */
    struct stat s;
    cr_assert_eq(stat(ax_path("0000000000000001.archive"), &s), 0);
    cr_assert_eq(truncate(ax_path("0000000000000001.archive"), s.st_size - 4096), 0);
    ax_start();
    ax_stop();
    ax_expect_files("1-10");
    fx_close();
}

Test(db_archive, goes_on_behind_damage_from_the_log) {
    open_logged(NULL, fx_options(NULL));
    ax_options.sync_interval_us = 1;
    ax_start();
    for (int i = 0; i < 5; i++)
        ax_wait(ax_puts(1));
    ax_stop();
    flip("0000000000000001.archive", 3 * 4096 + 100); /* LSN 3 */
    ax_start();
    cr_assert(log_has("damaged behind LSN 2"), "%s", log_text);
    ax_puts(1);
    ax_stop();
    ax_expect_files("1-2 3-6");
    flip("0000000000000002.archive", 40); /* the header */
    ax_start();
    ax_puts(1);
    ax_stop();
    fx_close();
}

/* ---- a database that went back ---- */

/* The state of now, to be gone back to. */
static void remember(void) {
    char command[1400];
    fx_close();
    snprintf(command, sizeof command, "rm -rf '%s.then' && cp -r '%s' '%s.then'", vv_tempdir_path("db"),
             vv_tempdir_path("db"), vv_tempdir_path("db"));
    cr_assert_eq(system(command), 0);
    fx_open();
}

static void go_back(void) {
    char command[1400];
    fx_close();
    snprintf(command, sizeof command, "rm -rf '%s' && mv '%s.then' '%s'", vv_tempdir_path("db"),
             vv_tempdir_path("db"), vv_tempdir_path("db"));
    cr_assert_eq(system(command), 0);
    fx_open();
}

static uint64_t epoch(void) {
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    return epochs[varve_epochs_get(fx_db, epochs) - 1].epoch;
}

Test(db_archive, follows_a_database_that_went_back) {
    fx_open();
    ax_start();
    ax_puts(10);
    ax_stop();
    remember();
    ax_start();
    ax_puts(10);
    ax_stop();
    ax_expect_files("1-20");
    go_back();
    ax_start();
    ax_stop();
    ax_expect_files("1-10 11-10"); /* without a record: what was behind is no longer this database's */
    ax_start();
    ax_puts(3);
    ax_stop();
    ax_expect_files("1-10 11-13");
    fx_close();
}

Test(db_archive, finds_another_history_also_when_that_is_longer) {
    fx_open();
    ax_start();
    ax_puts(10);
    ax_stop();
    remember();
    cr_assert(varve_ok(varve_begin_epoch(fx_db, epoch() + 1, &fx_err)), "%s", fx_err.text);
    ax_start();
    ax_puts(10);
    ax_stop();
    cr_assert(varve_ok(varve_begin_epoch(fx_db, epoch() + 1, &fx_err)));
    ax_start();
    ax_puts(1);
    ax_stop();
    ax_expect_files("1-21");
    go_back();
    /* The same number of an epoch, and another primary. */
    cr_assert(varve_ok(varve_begin_epoch(fx_db, epoch() + 1, &fx_err)));
    ax_puts(30);
    ax_start();
    ax_stop();
    fx_close();
    ax_expect_files("1-10 11-40");
}

Test(db_archive, a_gap_behind_where_the_histories_part_hides_nothing_of_the_other_one) {
    char value[60001] = {0};
    memset(value, 'v', sizeof value - 1);
    fx_open();
    ax_start();
    ax_puts(10);
    ax_stop();
    remember();
    ax_start();
    ax_puts(90); /* of a history that nobody else has */
    ax_stop();
    go_back();
    cr_assert(varve_ok(varve_begin_epoch(fx_db, epoch() + 1, &fx_err)), "%s", fx_err.text);
    cr_assert(varve_ok(varve_slot_drop(fx_db, VARVE_ARCHIVE_SLOT, &fx_err)), "%s", fx_err.text);
    for (int i = 0; i < 60; i++)
        fx_put("key", value);
    cr_assert(varve_ok(varve_flush(fx_db)));
    varve_wal_cursor *c;
    uint64_t oldest = 0, until_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (varve_ok(varve_wal_cursor_open(fx_db, 10, &c, &oldest))) {
        varve_wal_cursor_close(c);
        cr_assert(vv_clock_mono_ns() < until_ns);
        sched_yield();
    }
    ax_start();
    cr_assert_eq(ax_info().gaps, 1);
    ax_puts(1);
    ax_stop();
    fx_close();
    /* LSN 11 and on is nobody's: not what the first file has there, though it has some of it. */
    uint64_t first, last;
    cr_assert_eq(sscanf(ax_files(), "1-10 11-10 %" SCNu64 "-%" SCNu64, &first, &last), 2, "%s", ax_files());
    cr_assert(first > 12 && first < 72 && last == 71, "%s", ax_files());
}

/* ---- without memory ---- */

Test(db_archive, starts_only_with_memory) {
    fx_open();
    ax_start();
    ax_puts(10);
    ax_stop();
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_status st = varve_archive_start(fx_db, ax_dir, NULL, &ax_archive, &fx_err);
        vv_alloc_fail_at(0);
        if (varve_ok(st)) {
            cr_assert(n > 5);
            break;
        }
        cr_assert(st.code == VARVE_NO_MEMORY && !ax_archive, "%s", varve_code_name(st.code));
    }
    ax_puts(1);
    ax_stop();
    fx_close();
    ax_expect_files("1-11");
}
