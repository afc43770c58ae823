/*
 * Restores: that what comes out is the state of the very LSN or time, that what is missing or damaged is
 * found, and that nothing is left of one that fails.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "tests/engine/archive_fixture.h"

TestSuite(db_restore, .init = ax_setup, .fini = vv_tempdir_cleanup, .timeout = 240);

static varve_restore_info info;

static varve_status restore_to(uint64_t to_lsn, uint64_t to_unix_ms) {
    varve_restore_options o = {.archive_dir = ax_dir, .to_lsn = to_lsn, .to_unix_ms = to_unix_ms};
    return varve_restore(ax_backup, ax_dest, &o, &info, &fx_err);
}

static void must(varve_status st) {
    cr_assert(varve_ok(st), "%s: %s", varve_code_name(st.code), fx_err.text);
}

static void remove_dest(void) {
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", ax_dest);
    cr_assert_eq(system(command), 0);
}

static void open_dest(void) {
    varve_options *o = fx_options(NULL);
    must(varve_open(ax_dest, o, &fx_db, &fx_err));
    varve_options_destroy(o);
}

static int entries(const char *dir) {
    DIR *d = opendir(dir);
    int count = 0;
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        count += e->d_name[0] != '.';
    closedir(d);
    return count;
}

static void refused(varve_status st, varve_code code, const char *words) {
    cr_assert(st.code == code && strstr(fx_err.text, words), "%s: %s", varve_code_name(st.code), fx_err.text);
    cr_assert_eq(entries(ax_dest), -1, "something is left of the destination");
}

/* ---- without an archive ---- */

Test(db_restore, brings_a_backup_back) {
    fx_open();
    ax_puts(20);
    ax_back_up();
    ax_puts(5);
    fx_close();
    for (int link = 0; link < 2; link++) {
        varve_restore_options o = {.mode = link ? VARVE_BACKUP_LINK : VARVE_BACKUP_COPY};
        must(varve_restore(ax_backup, ax_dest, &o, &info, &fx_err));
        cr_assert(info.lsn == 20 && info.backup_lsn == 20 && info.records == 0 && info.unix_ms == 0);
        open_dest();
        cr_assert_eq(fx_stats().last_lsn, 20);
        fx_expect("k000019", "value");
        fx_expect("k000020", NULL);
        cr_assert_eq(fx_put("k", "v"), 21);
        cr_assert(varve_ok(varve_compact(fx_db)));
        fx_close();
        remove_dest();
    }
    /* The backup is as it was. */
    must(varve_restore(ax_backup, ax_dest, NULL, &info, &fx_err));
}

Test(db_restore, brings_back_an_empty_backup) {
    fx_open();
    ax_back_up();
    fx_close();
    cr_assert_eq(mkdir(ax_dest, 0700), 0);
    must(varve_restore(ax_backup, ax_dest, NULL, &info, &fx_err));
    open_dest();
    cr_assert_eq(fx_put("k", "v"), 1);
    fx_close();
}

Test(db_restore, refuses_what_is_no_backup_and_what_is_no_place) {
    varve_restore_options past = {.to_lsn = 21}, time = {.to_unix_ms = 1};
    fx_open();
    ax_puts(20);
    ax_back_up();
    refused(varve_restore(ax_dir, ax_dest, NULL, &info, &fx_err), VARVE_INVALID_ARGUMENT, "is no backup");
    refused(varve_restore(vv_tempdir_path("db"), ax_dest, NULL, &info, &fx_err), VARVE_INVALID_ARGUMENT,
            "opened as a database");
    refused(varve_restore(ax_backup, ax_dest, &past, &info, &fx_err), VARVE_INVALID_ARGUMENT, "an archive");
    refused(varve_restore(ax_backup, ax_dest, &time, &info, &fx_err), VARVE_INVALID_ARGUMENT, "an archive");
    varve_status st = varve_restore(ax_backup, vv_tempdir_path("db"), NULL, &info, &fx_err);
    cr_assert_eq(st.code, VARVE_EXISTS, "%s", varve_code_name(st.code));
    st = varve_restore(ax_backup, vv_tempdir_path("a/b"), NULL, &info, &fx_err);
    cr_assert_eq(st.code, VARVE_NOT_FOUND, "%s", varve_code_name(st.code));
    fx_expect("k000019", "value");
    fx_close();
}

Test(db_restore, finds_damage_in_the_backup) {
    fx_open();
    ax_puts(20);
    ax_back_up();
    fx_close();
    DIR *d = opendir(ax_backup);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".sst")) {
            char path[1024];
            snprintf(path, sizeof path, "%s/%s", ax_backup, e->d_name);
            int fd = open(path, O_WRONLY);
            cr_assert_eq(pwrite(fd, "x", 1, 100), 1);
            close(fd);
        }
    closedir(d);
    varve_restore_options link = {.mode = VARVE_BACKUP_LINK};
    refused(varve_restore(ax_backup, ax_dest, NULL, &info, &fx_err), VARVE_CORRUPTION, "checksum");
    refused(varve_restore(ax_backup, ax_dest, &link, &info, &fx_err), VARVE_CORRUPTION, "checksum");
}

/* ---- to an LSN and to a time ---- */

#define KEYS      16
#define STEPS_MAX 400

/* What a random history has been at each of its batches. */
typedef struct model {
    int count;
    uint64_t lsn[STEPS_MAX];
    uint64_t unix_ms[STEPS_MAX]; /* when the batch was archived at the latest; 0: not looked at */
    int values[STEPS_MAX][KEYS]; /* 0: none */
} model;

static model *history;

/* A batch of random operations: the next state. */
static uint64_t step(uint64_t *seed) {
    varve_batch *b = varve_batch_create();
    int *now = history->values[history->count], n = 1 + (int)(vv_test_random(seed) % 4);
    if (history->count > 0)
        memcpy(now, history->values[history->count - 1], sizeof history->values[0]);
    for (int i = 0; i < n; i++) {
        char key[16], value[32];
        int k = (int)(vv_test_random(seed) % KEYS);
        snprintf(key, sizeof key, "key%d", k);
        now[k] = vv_test_random(seed) % 3 == 0 ? 0 : 1 + (int)(vv_test_random(seed) % 1000000);
        snprintf(value, sizeof value, "%d", now[k]);
        cr_assert(varve_ok(now[k] ? varve_batch_put(b, key, strlen(key), value, strlen(value))
                                  : varve_batch_delete(b, key, strlen(key))));
    }
    must(varve_write(fx_db, b, NULL, &history->lsn[history->count]));
    varve_batch_destroy(b);
    return history->lsn[history->count++];
}

/* What is restored is the state behind batch i (-1: nothing). */
static void expect_state(int i) {
    static const int none[KEYS];
    const int *values = i < 0 ? none : history->values[i];
    cr_assert_eq(info.lsn, i < 0 ? 0 : history->lsn[i], "LSN %" PRIu64 ", not that of step %d", info.lsn, i);
    open_dest();
    cr_assert_eq(fx_stats().last_lsn, info.lsn);
    for (int k = 0; k < KEYS; k++) {
        char key[16], value[32];
        snprintf(key, sizeof key, "key%d", k);
        snprintf(value, sizeof value, "%d", values[k]);
        fx_expect(key, values[k] ? value : NULL);
    }
    fx_close();
    remove_dest();
}

/* The last step up to an LSN. */
static int step_of_lsn(uint64_t lsn) {
    int i = -1;
    while (i + 1 < history->count && history->lsn[i + 1] <= lsn)
        i++;
    return i;
}

Test(db_restore, to_each_lsn_and_time_of_a_random_history) {
    enum { BEFORE = 20, BEHIND = 24 }; /* batches, of the backup */
    uint64_t seed = vv_test_seed();
    history = calloc(1, sizeof *history);
    ax_options = (varve_archive_options){.file_bytes = 24 << 10, .sync_interval_us = 500};
    fx_open();
    ax_start();
    for (int i = 0; i < BEFORE; i++)
        step(&seed);
    ax_back_up();
    uint64_t backup_lsn = history->lsn[BEFORE - 1];
    int marks[8], mark_count = 0;
    for (int i = BEFORE; i < BEFORE + BEHIND; i++) {
        step(&seed);
        uint64_t dice = vv_test_random(&seed) % 10;
        if (dice < 2 && mark_count < 8) {
            /* A moment that is certainly behind this batch, and before the next. */
            ax_wait(history->lsn[i]);
            uint64_t now = vv_clock_unix_ms();
            while (vv_clock_unix_ms() < now + 2)
                sched_yield();
            history->unix_ms[i] = now + 1;
            marks[mark_count++] = i;
        } else if (dice == 2) {
            ax_stop();
            ax_start();
        } else if (dice == 3) {
            ax_stop();
            fx_close();
            fx_open();
            ax_start();
        }
    }
    ax_stop();
    fx_close();
    uint64_t last_lsn = history->lsn[BEFORE + BEHIND - 1];
    for (uint64_t lsn = backup_lsn; lsn <= last_lsn; lsn++) {
        must(restore_to(lsn, 0));
        cr_assert(info.backup_lsn == backup_lsn && (info.unix_ms != 0) == (info.records != 0));
        expect_state(step_of_lsn(lsn));
    }
    for (int i = 0; i < mark_count; i++) {
        must(restore_to(0, history->unix_ms[marks[i]]));
        cr_assert(info.unix_ms <= history->unix_ms[marks[i]]);
        expect_state(marks[i]);
    }
    must(restore_to(0, 0));
    cr_assert_eq(info.records, BEHIND);
    expect_state(BEFORE + BEHIND - 1);
    must(restore_to(0, vv_clock_unix_ms() + 1000000));
    expect_state(BEFORE + BEHIND - 1);
    refused(restore_to(backup_lsn - 1, 0), VARVE_INVALID_ARGUMENT, "before the backup's");
    refused(restore_to(last_lsn + 1, 0), VARVE_INVALID_ARGUMENT, "behind the end");
    refused(restore_to(0, 1000), VARVE_INVALID_ARGUMENT, "later time");
    free(history);
}

/* Whether the archive's files and frames end where the backup does depends on when its thread ran. */
Test(db_restore, a_time_before_the_backup_is_refused_wherever_files_and_frames_end) {
    uint64_t before = vv_clock_unix_ms() - 1000;
    fx_open();
    ax_options.file_bytes = 1; /* a file for each batch: one of them begins just behind the backup */
    ax_start();
    ax_puts(10);
    ax_back_up();
    ax_puts(5);
    ax_stop();
    fx_close();
    refused(restore_to(0, before), VARVE_INVALID_ARGUMENT, "later time: its LSN 10 was");
    refused(restore_to(0, 1000), VARVE_INVALID_ARGUMENT, "later time: its LSN 10 was");
    must(restore_to(0, vv_clock_unix_ms() + 1000));
    cr_assert_eq(info.lsn, 15);
}

Test(db_restore, a_time_before_the_backup_is_refused_in_the_middle_of_a_frame) {
    fx_open();
    ax_puts(10);
    ax_back_up();
    ax_puts(5);
    ax_start(); /* all that there is in a frame or two */
    ax_wait(15);
    ax_stop();
    fx_close();
    refused(restore_to(0, 1000), VARVE_INVALID_ARGUMENT, "later time");
}

Test(db_restore, without_anything_older_in_the_archive_the_backup_is_what_there_was) {
    fx_open();
    ax_options.file_bytes = 1;
    ax_start();
    ax_puts(10);
    ax_back_up();
    ax_puts(5);
    ax_stop();
    fx_close();
    for (int n = 1; n <= 10; n++) {
        char name[40];
        snprintf(name, sizeof name, "%016x.archive", n);
        cr_assert_eq(unlink(ax_path(name)), 0);
    }
    must(restore_to(0, 1000));
    cr_assert_eq(info.lsn, 10);
}

/* ---- archives that are not whole ---- */

static void flip(const char *name, off_t at) {
    int fd = open(ax_path(name), O_RDWR);
    uint8_t byte;
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* A backup of LSN 10, and an archive with a file for LSN 1-20, 21-40 and so on. */
static void make_files(int count) {
    fx_open();
    ax_start();
    ax_puts(10);
    ax_back_up();
    ax_puts(10);
    ax_stop();
    for (int i = 1; i < count; i++) {
        ax_options.file_bytes = 1; /* the next begins one */
        ax_start();
        ax_options.file_bytes = 0;
        ax_stop();
        ax_start();
        ax_puts(20);
        ax_stop();
    }
    fx_close();
}

Test(db_restore, a_gap_is_named_and_can_be_stopped_before) {
    make_files(1);
    /* Files of a later time, and none between. */
    fx_open();
    ax_puts(10);
    ax_options.file_bytes = 1;
    ax_start(); /* 21-30 in a file for each batch */
    ax_puts(5);
    ax_stop();
    fx_close();
    for (int n = 5; n <= 9; n++) { /* 24 to 28 */
        char name[40];
        snprintf(name, sizeof name, "%016x.archive", n);
        cr_assert_eq(unlink(ax_path(name)), 0);
    }
    ax_expect_files("1-20 21-21 22-22 23-23 29-29 30-30 31-31 32-32 33-33 34-34 35-35");
    refused(restore_to(0, 0), VARVE_CORRUPTION, "LSN 24 to 28 are missing");
    refused(restore_to(24, 0), VARVE_CORRUPTION, "LSN 24 to 28 are missing");
    cr_assert_eq(restore_to(24, 0).reason, VV_SUB_LOG_GAP);
    must(restore_to(23, 0));
    cr_assert_eq(info.lsn, 23);
}

Test(db_restore, an_archive_that_begins_too_late_is_a_gap) {
    fx_open();
    ax_puts(10);
    ax_back_up();
    ax_options.file_bytes = 1;
    ax_start();
    ax_puts(10);
    ax_stop();
    fx_close();
    for (int n = 1; n <= 12; n++) {
        char name[40];
        snprintf(name, sizeof name, "%016x.archive", n);
        cr_assert_eq(unlink(ax_path(name)), 0);
    }
    refused(restore_to(0, 0), VARVE_CORRUPTION, "LSN 11 to 12 are missing");
}

Test(db_restore, damage_and_a_torn_end_are_told_apart) {
    ax_options.sync_interval_us = 1;
    fx_open();
    ax_start();
    ax_wait(ax_puts(1));
    ax_back_up();
    for (int i = 0; i < 5; i++)
        ax_wait(ax_puts(1));
    ax_stop();
    fx_close();
    struct stat s;
    cr_assert_eq(stat(ax_path("0000000000000001.archive"), &s), 0);
    flip("0000000000000001.archive", s.st_size - 4096 + 10); /* LSN 6 */
    must(restore_to(0, 0));
    cr_assert_eq(info.lsn, 5);
    remove_dest();
    refused(restore_to(6, 0), VARVE_INVALID_ARGUMENT, "behind the end of the archive, 5");
    flip("0000000000000001.archive", s.st_size - 3 * 4096 + 10); /* LSN 4 */
    flip("0000000000000001.archive", s.st_size - 4096 + 10);
    refused(restore_to(0, 0), VARVE_CORRUPTION, "0000000000000001.archive: at ");
    refused(restore_to(5, 0), VARVE_CORRUPTION, "0000000000000001.archive: at ");
    must(restore_to(3, 0));
    cr_assert_eq(info.lsn, 3);
}

Test(db_restore, an_archive_of_another_database_is_refused) {
    make_files(1);
    char command[600];
    snprintf(command, sizeof command, "rm -r '%s'", ax_backup);
    cr_assert_eq(system(command), 0);
    varve_options *o = fx_options(NULL);
    must(varve_open(vv_tempdir_path("other"), o, &fx_db, &fx_err));
    varve_options_destroy(o);
    ax_back_up();
    fx_close();
    refused(restore_to(0, 0), VARVE_INVALID_ARGUMENT, "another database");
}

/* ---- a history that was cut and went on otherwise ---- */

static void shell(const char *command) {
    char all[2048];
    snprintf(all, sizeof all, "db='%s'; %s", vv_tempdir_path("db"), command);
    cr_assert_eq(system(all), 0, "%s", all);
}

Test(db_restore, what_a_later_history_replaced_does_not_come_back) {
    uint64_t seed = vv_test_seed();
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    history = calloc(1, sizeof *history);
    fx_open();
    ax_start();
    step(&seed);
    ax_back_up();
    for (int i = 1; i < 10; i++)
        step(&seed);
    ax_stop();
    fx_close();
    shell("cp -r \"$db\" \"$db.then\"");
    /* An old primary writes what nobody else has. */
    fx_open();
    ax_start();
    ax_puts(30);
    char late[512];
    snprintf(late, sizeof late, "%s", vv_tempdir_path("late"));
    must(varve_backup(fx_db, late, NULL, NULL, &fx_err));
    ax_stop();
    fx_close();
    shell("rm -r \"$db\" && mv \"$db.then\" \"$db\"");
    fx_open();
    must(varve_begin_epoch(fx_db, varve_epochs_get(fx_db, epochs) + 5, &fx_err));
    for (int i = 10; i < 40; i++)
        step(&seed);
    must(varve_begin_epoch(fx_db, 50, &fx_err));
    for (int i = 40; i < 60; i++)
        step(&seed);
    ax_start();
    ax_stop();
    size_t count = varve_epochs_get(fx_db, epochs);
    fx_close();
    for (int i = 8; i < 60; i += i == 9 ? 1 : 7) {
        must(restore_to(history->lsn[i], 0));
        expect_state(i);
    }
    must(restore_to(0, 0));
    /* It knows who wrote what, as the original does. */
    varve_epoch found[VARVE_EPOCHS_MAX];
    open_dest();
    cr_assert_eq(varve_epochs_get(fx_db, found), count);
    cr_assert_eq(memcmp(found, epochs, count * sizeof *epochs), 0, "the history of epochs is another one");
    fx_close();
    remove_dest();
    /* A backup of what was replaced does not go with what replaced it. */
    snprintf(ax_backup, sizeof ax_backup, "%s", late);
    refused(restore_to(0, 0), VARVE_INVALID_ARGUMENT, "");
    free(history);
}

Test(db_restore, an_archive_that_begins_right_behind_a_backup_of_another_history_is_refused) {
    fx_open();
    ax_puts(10);
    fx_close();
    shell("cp -r \"$db\" \"$db.then\"");
    fx_open();
    ax_puts(10);
    ax_back_up(); /* LSN 20 of the one */
    fx_close();
    shell("rm -r \"$db\" && mv \"$db.then\" \"$db\"");
    fx_open();
    must(varve_begin_epoch(fx_db, 7, &fx_err));
    ax_options.file_bytes = 1;
    ax_start();
    ax_puts(20); /* LSN 11 to 30 of the other, in a file each */
    ax_stop();
    fx_close();
    refused(restore_to(0, 0), VARVE_INVALID_ARGUMENT, "another history than the backup");
}

Test(db_restore, an_archive_goes_on_with_what_was_restored) {
    fx_open();
    ax_start();
    ax_puts(10);
    ax_back_up();
    ax_puts(20);
    ax_stop();
    fx_close();
    must(restore_to(15, 0));
    open_dest();
    fx_put("other", "history");
    ax_start();
    ax_stop();
    fx_close();
    ax_expect_files("1-15 16-16");
    remove_dest();
    must(restore_to(0, 0));
    cr_assert_eq(info.lsn, 16);
    open_dest();
    fx_expect("other", "history");
    fx_expect("k000014", "value");
    fx_expect("k000015", NULL);
    fx_close();
}

/* ---- that fail or die half-way ---- */

static int calls_left;

static bool stop_later(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    (void)arg, (void)done_bytes, (void)total_bytes;
    return calls_left-- > 0;
}

static bool die_later(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    if (!stop_later(arg, done_bytes, total_bytes))
        (void)raise(SIGKILL);
    return true;
}

Test(db_restore, nothing_is_left_of_one_that_is_cancelled) {
    make_files(3);
    varve_restore_options o = {.archive_dir = ax_dir, .progress = stop_later};
    for (int i = 0;; i++) {
        calls_left = i;
        varve_status st = varve_restore(ax_backup, ax_dest, &o, &info, &fx_err);
        if (varve_ok(st)) {
            cr_assert(i > 3);
            break;
        }
        refused(st, VARVE_BUSY, "cancel");
    }
    cr_assert_eq(info.lsn, 60);
}

Test(db_restore, one_that_was_killed_is_no_database_and_can_be_done_again) {
    make_files(3);
    varve_restore_options o = {.archive_dir = ax_dir, .progress = stop_later};
    calls_left = INT_MAX;
    must(varve_restore(ax_backup, ax_dest, &o, &info, &fx_err));
    int calls = INT_MAX - calls_left;
    cr_assert(calls > 3, "%d", calls);
    remove_dest();
    /*
     * No child gets to the end: a test's process has more threads than the test's own, and ThreadSanitizer
     * ends the child of such a one ("dup thread with used id") when it opens a database for a second time.
     */
    o.progress = die_later;
    for (int i = 0; i < calls; i++) {
        pid_t child = fork();
        cr_assert_geq(child, 0);
        if (child == 0) {
            calls_left = i;
            _exit(varve_ok(varve_restore(ax_backup, ax_dest, &o, &info, &fx_err)) ? 0 : 1);
        }
        int status;
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "call %d of %d: %x", i, calls,
                  (unsigned)status);
        varve_options *options = fx_options(NULL);
        varve_status st = varve_open(ax_dest, options, &fx_db, &fx_err);
        varve_options_destroy(options);
        cr_assert_eq(st.code, VARVE_CORRUPTION, "what was left behind is opened: %s",
                     varve_code_name(st.code));
    }
    /* The last one goes through on what the others have left. */
    must(restore_to(0, 0));
    open_dest();
    cr_assert_eq(fx_stats().last_lsn, 60);
    fx_close();
    cr_assert_eq(restore_to(0, 0).code, VARVE_EXISTS);
}

Test(db_restore, without_memory_it_fails_and_leaves_nothing) {
    make_files(2);
    vv_alloc_fail_at(0); /* from here on it counts */
    uint64_t before = vv_alloc_count();
    must(restore_to(0, 0));
    uint64_t count = vv_alloc_count() - before;
    cr_assert(count > 100, "%" PRIu64, count);
    remove_dest();
    for (uint64_t n = 1; n <= count; n += 1 + n / 16) {
        vv_alloc_fail_at(n);
        varve_status st = restore_to(0, 0);
        vv_alloc_fail_at(0);
        if (varve_ok(st)) /* what failed could be done without */
            remove_dest();
        else
            refused(st, VARVE_NO_MEMORY, "");
    }
}

/* ---- every operation fails once ---- */

static _Atomic int ops_left; /* until one fails; below 0: none does */

static vv_status fail_once(void *arg, const char *op, const char *name) {
    (void)arg, (void)op, (void)name;
    return atomic_fetch_sub(&ops_left, 1) == 0 ? vv_status_make(VV_NO_SPACE, VV_SUB_NONE, 0) : VV_STATUS_OK;
}

static vv_status make_faulty(void *arg, vv_io_backend **out, vv_error *err) {
    (void)arg, (void)err;
    *out = vv_fault_io_create(fail_once, NULL);
    return VV_STATUS_OK;
}

Test(db_restore, whatever_fails_leaves_nothing) {
    make_files(2);
    for (int link = 0; link < 2; link++) {
        varve_restore_options o = {.archive_dir = ax_dir,
                                   .mode = link ? VARVE_BACKUP_LINK : VARVE_BACKUP_COPY};
        int failed = 0, n = 0;
        for (bool reached = true; reached; n++) {
            ops_left = n;
            varve_status st = vv_db_restore_on(make_faulty, NULL, ax_backup, ax_dest, &o, &info, &fx_err);
            reached = ops_left < 0;
            ops_left = -1;
            if (varve_ok(st)) { /* done in another way, or tried again */
                cr_assert_eq(info.lsn, 40);
                open_dest();
                cr_assert_eq(fx_stats().last_lsn, 40);
                fx_close();
                remove_dest();
            } else {
                cr_assert_neq(fx_err.text[0], '\0');
                cr_assert_eq(entries(ax_dest), -1, "operation %d failed (%s), and something is left", n,
                             fx_err.text);
                failed++;
            }
        }
        cr_assert(failed > 40, "%d of %d", failed, n);
    }
}
