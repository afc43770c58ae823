/*
 * Backups: that they open with the right state, cost what they should, and that nothing is left of one that
 * fails.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "engine/db/db_impl.h"
#include "tests/engine/counting_writer.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_backup, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static varve_backup_info info;

static varve_options *small(void) {
    return fx_options("MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB", "COMPACTION_THRESHOLD", "4", NULL);
}

/* Where backups go: one of the fixture's own buffers each, which stay. */
static char path_a[512], path_b[512];

static void set_paths(void) {
    snprintf(path_a, sizeof path_a, "%s", vv_tempdir_path("a"));
    snprintf(path_b, sizeof path_b, "%s", vv_tempdir_path("b"));
}

static void fill(int from, int to, const char *value) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[32], text[200];
    for (int i = from; i < to; i++) {
        snprintf(key, sizeof key, "key%06d", i);
        snprintf(text, sizeof text, "%s-%0150d", value, i);
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), text, strlen(text), &async, NULL)));
    }
}

static void expect_fill(int from, int to, const char *value) {
    char key[32], text[200];
    for (int i = from; i < to; i++) {
        snprintf(key, sizeof key, "key%06d", i);
        snprintf(text, sizeof text, "%s-%0150d", value, i);
        fx_expect(key, text);
    }
}

static void open_small(void) {
    set_paths();
    fx_open_with(small());
    fill(0, 2000, "old");
    cr_assert(varve_ok(varve_compact(fx_db))); /* several tables, which nothing merges meanwhile */
}

static void backup(const char *dest, const varve_backup_options *o) {
    cr_assert(varve_ok(varve_backup(fx_db, dest, o, &info, &fx_err)), "%s", fx_err.text);
    cr_assert_str_eq(fx_err.text, "");
}

/* Make the database in `path` the fixture's; the one before is returned. */
static varve_db *turn_to(const char *path) {
    varve_db *before = fx_db;
    varve_options *o = small();
    cr_assert(varve_ok(varve_open(path, o, &fx_db, &fx_err)), "%s", fx_err.text);
    varve_options_destroy(o);
    return before;
}

static void turn_back(varve_db *before) {
    fx_close();
    fx_db = before;
}

static int entries_in(const char *path) {
    int count = 0;
    DIR *d = opendir(path);
    if (!d)
        return -1;
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        count += e->d_name[0] != '.';
    closedir(d);
    return count;
}

/* The name of the first table there, and how many names its file has. */
static nlink_t first_table(const char *path, char name[64]) {
    char file[700];
    struct stat st;
    name[0] = '\0';
    DIR *d = opendir(path);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".sst") && (!name[0] || strcmp(e->d_name, name) < 0))
            snprintf(name, 64, "%s", e->d_name);
    closedir(d);
    snprintf(file, sizeof file, "%s/%s", path, name);
    cr_assert_eq(stat(file, &st), 0, "%s", file);
    return st.st_nlink;
}

static void flip(const char *dir, const char *name, off_t offset) {
    char path[700];
    uint8_t byte;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, offset), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, offset), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

Test(db_backup, opens_with_the_state_of_its_lsn) {
    char name[64];
    open_small();
    fx_put("a", "1");
    uint64_t last = fx_put("b", "1");
    backup(path_a, NULL);
    cr_assert_eq(info.lsn, last);
    cr_assert_gt(info.file_count, 3);
    cr_assert_gt(info.copied_bytes, 200000);
    cr_assert_eq(first_table(path_a, name), 1, "a copy has bytes of its own");
    fx_put("a", "2");
    fx_delete("b");
    fill(0, 2000, "new");
    cr_assert(varve_ok(varve_compact(fx_db)));

    varve_db *before = turn_to(path_a);
    cr_assert_eq(fx_stats().last_lsn, last);
    fx_expect("a", "1");
    fx_expect("b", "1");
    expect_fill(0, 2000, "old");
    cr_assert_eq(fx_put("c", "1"), last + 1);
    turn_back(before);
    fx_expect("c", NULL);
    expect_fill(0, 2000, "new");
    fx_close();
}

Test(db_backup, linked_files_cost_nothing_and_outlive_the_database) {
    char name[64];
    open_small();
    varve_backup_options o = {.mode = VARVE_BACKUP_LINK};
    backup(path_a, &o);
    cr_assert_eq(info.copied_bytes, 0);
    cr_assert_eq(first_table(path_a, name), 2);
    fill(0, 2000, "new");
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(first_table(path_a, name), 1, "the database has merged it away");
    varve_db *before = turn_to(path_a);
    expect_fill(0, 2000, "old");
    fill(0, 1000, "other");
    cr_assert(varve_ok(varve_compact(fx_db)));
    turn_back(before);
    expect_fill(0, 2000, "new");
    fx_close();
}

Test(db_backup, incremental_takes_what_is_the_same_from_the_earlier_one) {
    char name[64];
    open_small();
    backup(path_a, NULL);
    uint64_t whole = info.copied_bytes;
    fx_put("zzz", "1");
    varve_backup_options o = {.base_dir = path_a};
    backup(path_b, &o);
    cr_assert_lt(info.copied_bytes, whole / 4, "only the new table");
    cr_assert_gt(info.copied_bytes, 0);
    cr_assert_gt(info.bytes, whole);
    cr_assert_eq(first_table(path_b, name), 2, "shared with the earlier backup, not with the database");

    /* Each stands alone: the earlier one may go. */
    char command[600];
    snprintf(command, sizeof command, "rm -r '%s'", path_a);
    cr_assert_eq(system(command), 0);
    varve_db *before = turn_to(path_b);
    expect_fill(0, 2000, "old");
    fx_expect("zzz", "1");
    turn_back(before);
    fx_close();
}

Test(db_backup, what_is_damaged_in_the_earlier_one_is_copied_anew) {
    char name[64];
    open_small();
    backup(path_a, NULL);
    first_table(path_a, name);
    flip(path_a, name, 5000);
    varve_backup_options o = {.base_dir = path_a};
    backup(path_b, &o);
    cr_assert_gt(info.copied_bytes, 0);
    cr_assert_lt(info.copied_bytes, info.bytes / 2);
    varve_db *before = turn_to(path_b);
    expect_fill(0, 2000, "old");
    turn_back(before);
    fx_close();
}

Test(db_backup, builds_only_on_backups_of_the_same_database) {
    open_small();
    varve_backup_options o = {.base_dir = path_b};
    varve_status st = varve_backup(fx_db, path_a, &o, &info, &fx_err);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(fx_err.text, "no backup to build on"), "%s", fx_err.text);
    cr_assert_eq(entries_in(path_a), -1);

    varve_db *other;
    cr_assert(varve_ok(varve_open(path_b, NULL, &other, &fx_err)));
    cr_assert(varve_ok(varve_close(other)));
    st = varve_backup(fx_db, path_a, &o, &info, &fx_err);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(fx_err.text, "another database"), "%s", fx_err.text);
    cr_assert_eq(entries_in(path_a), -1);
    fx_close();
}

/* Restored, and gone another way: the numbers of its tables come again with other bytes. */
Test(db_backup, a_table_is_the_same_by_its_checksum_not_by_its_number) {
    open_small();
    backup(path_a, NULL);
    varve_db *before = turn_to(path_a);
    fill(0, 2000, "other");
    cr_assert(varve_ok(varve_flush(fx_db)));
    turn_back(before);
    fill(0, 2000, "new");
    varve_backup_options o = {.base_dir = path_a};
    backup(path_b, &o);
    before = turn_to(path_b);
    expect_fill(0, 2000, "new");
    turn_back(before);
    fx_close();
}

Test(db_backup, refuses_what_is_not_empty_and_leaves_it_alone) {
    char file[600];
    open_small();
    cr_assert_eq(mkdir(path_a, 0750), 0);
    snprintf(file, sizeof file, "%s/precious", path_a);
    fclose(fopen(file, "w"));
    varve_status st = varve_backup(fx_db, path_a, NULL, &info, &fx_err);
    cr_assert_eq(st.code, VARVE_EXISTS);
    cr_assert_not_null(strstr(fx_err.text, "precious"), "%s", fx_err.text);
    cr_assert_eq(entries_in(path_a), 1);
    cr_assert_eq(access(file, F_OK), 0);
    cr_assert_eq(unlink(file), 0);
    backup(path_a, NULL);
    int entries = entries_in(path_a);

    /* A backup, the database itself, a file, nothing there to put it. */
    cr_assert_eq(varve_backup(fx_db, path_a, NULL, &info, NULL).code, VARVE_EXISTS);
    cr_assert_eq(entries_in(path_a), entries);
    cr_assert_eq(varve_backup(fx_db, vv_tempdir_path("db"), NULL, &info, NULL).code, VARVE_EXISTS);
    fclose(fopen(path_b, "w"));
    st = varve_backup(fx_db, path_b, NULL, &info, NULL);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_backup(fx_db, vv_tempdir_path("no/b"), NULL, &info, NULL).code, VARVE_NOT_FOUND);
    cr_assert_eq(varve_backup(fx_db, "", NULL, &info, NULL).code, VARVE_INVALID_ARGUMENT);
    fill(0, 100, "new");
    fx_close();
}

Test(db_backup, a_damaged_table_is_not_backed_up) {
    for (int mode = VARVE_BACKUP_COPY; mode <= VARVE_BACKUP_LINK; mode++) {
        char name[64];
        open_small();
        cr_assert(varve_ok(varve_flush(fx_db)));
        first_table(vv_tempdir_path("db"), name);
        flip(vv_tempdir_path("db"), name, 5000);
        varve_backup_options o = {.mode = (varve_backup_mode)mode};
        varve_status st = varve_backup(fx_db, path_a, &o, &info, &fx_err);
        cr_assert_eq(st.code, VARVE_CORRUPTION);
        cr_assert_not_null(strstr(fx_err.text, name), "%s", fx_err.text);
        cr_assert_not_null(strstr(fx_err.text, "checksum mismatch"), "%s", fx_err.text);
        cr_assert_eq(entries_in(path_a), -1, "nothing is left");
        cr_assert_eq(info.file_count, 0);
        fx_close();
        vv_tempdir_cleanup();
        vv_tempdir();
    }
}

/* ---- what fails on the way ---- */

static _Atomic int step_count, fail_at;

/* Counts and fails only what concerns the backup: names of its directory can't be told from the database's,
 * so the database is idle meanwhile. */
static vv_status count_step(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)op;
    (void)name;
    int at = atomic_load(&fail_at);
    return at != 0 && atomic_fetch_add(&step_count, 1) + 1 == at ? vv_status_errno(EIO) : VV_STATUS_OK;
}

static void open_counted(void) {
    vv_error err;
    varve_options *o = small();
    set_paths();
    cr_assert(
        vv_ok(vv_db_open_on(vv_fault_io_create(count_step, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    fill(0, 2000, "old");
    cr_assert(varve_ok(varve_compact(fx_db)));
}

Test(db_backup, nothing_is_left_whatever_fails) {
    for (int mode = VARVE_BACKUP_COPY; mode <= VARVE_BACKUP_LINK; mode++) {
        open_counted();
        varve_backup_options o = {.mode = (varve_backup_mode)mode};
        int failures = 0;
        for (int n = 1;; n++) {
            atomic_store(&step_count, 0);
            atomic_store(&fail_at, n);
            varve_status st = varve_backup(fx_db, path_a, &o, &info, &fx_err);
            bool reached = atomic_load(&step_count) >= n;
            atomic_store(&fail_at, 0);
            if (varve_ok(st)) {
                /* A link that fails is made up for by a copy. */
                varve_db *before = turn_to(path_a);
                expect_fill(0, 2000, "old");
                turn_back(before);
                char command[600];
                snprintf(command, sizeof command, "rm -r '%s'", path_a);
                cr_assert_eq(system(command), 0);
                if (!reached)
                    break;
                cr_assert_eq(mode, VARVE_BACKUP_LINK);
                continue;
            }
            failures++;
            cr_assert_eq(st.code, VARVE_IO, "step %d: %s", n, fx_err.text);
            cr_assert_eq(entries_in(path_a), -1, "step %d: %s", n, fx_err.text);
        }
        cr_assert_gt(failures, mode == VARVE_BACKUP_COPY ? 30 : 12);
        fx_close();
        vv_tempdir_cleanup();
        vv_tempdir();
    }
}

Test(db_backup, nothing_is_left_whatever_allocation_fails) {
    open_small();
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_status st = varve_backup(fx_db, path_a, NULL, &info, NULL);
        vv_alloc_fail_at(0);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY, "allocation %" PRIu64 ": %s", n, varve_code_name(st.code));
        cr_assert_eq(entries_in(path_a), -1);
        failures++;
    }
    cr_assert_gt(failures, 5);
    fx_close();
}

/* Content is synced before its directory, that before the manifest, and the parent is last. */
static char steps[8192];
static _Atomic bool recording;

static vv_status record_step(void *arg, const char *op, const char *name) {
    (void)arg;
    size_t used = strlen(steps);
    if (atomic_load(&recording) && strcmp(op, "read") != 0 && strcmp(op, "write") != 0)
        snprintf(steps + used, sizeof steps - used, "%s %s, ", op, strstr(name, ".sst") ? "table" : name);
    return VV_STATUS_OK;
}

Test(db_backup, is_synced_from_the_inside_out) {
    vv_error err;
    varve_options *o = fx_options(NULL);
    set_paths();
    cr_assert(
        vv_ok(vv_db_open_on(vv_fault_io_create(record_step, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    atomic_store(&recording, true);
    backup(path_a, NULL);
    atomic_store(&recording, false);
    const char *at = strstr(steps, "mkdir a, ");
    static const char *const order[] = {"mkdir a, ",         "open table, ", "truncate table, ",
                                        "sync table, ",      "dirsync a, ",  "sync MANIFEST.tmp, ",
                                        "rename MANIFEST, ", "dirsync a, ",  "dirsync varve-test"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(order); i++) {
        at = at ? strstr(at, order[i]) : NULL;
        cr_assert_not_null(at, "%s is missing, or too early, in %s", order[i], steps);
        at += strlen(order[i]);
    }
    cr_assert_null(strstr(at, "sync "), "nothing behind the parent: %s", at);
    fx_close();
}

/* ---- beside writers; cancelling; the rate ---- */

Test(db_backup, beside_a_writer_each_is_a_state_that_there_was) {
    pthread_t writer;
    set_paths();
    fx_open_with(small());
    cr_assert(vv_ok(vv_thread_start(&writer, "writer", write_in_order, NULL)));
    char previous[512] = "";
    for (int round = 0; round < 5; round++) {
        char path[512];
        uint64_t before = atomic_load(&acknowledged);
        snprintf(path, sizeof path, "%s-%d", path_a, round);
        varve_backup_options o = {.mode = round % 2 ? VARVE_BACKUP_LINK : VARVE_BACKUP_COPY,
                                  .base_dir = round > 2 ? previous : NULL};
        backup(path, &o);
        snprintf(previous, sizeof previous, "%s", path);
        varve_db *copy;
        cr_assert(varve_ok(varve_open(path, NULL, &copy, &fx_err)), "%s", fx_err.text);
        uint64_t n = count_without_gaps(copy);
        cr_assert(varve_ok(varve_close(copy)));
        cr_assert_eq(n, info.lsn, "an LSN a key, none missing");
        cr_assert_geq(n, before);
        while (atomic_load(&acknowledged) < n + 500)
            sched_yield();
    }
    atomic_store(&stop_writing, true);
    vv_thread_join(writer);
    fx_close();
}

typedef struct progress {
    uint64_t last_done, total, stop_at;
} progress;

static bool on_progress(void *arg, uint64_t done, uint64_t total) {
    progress *p = arg;
    cr_assert_geq(done, p->last_done);
    p->last_done = done;
    p->total = total;
    return p->stop_at == 0 || done < p->stop_at;
}

Test(db_backup, tells_its_progress_and_stops_when_told) {
    open_small();
    progress p = {0};
    varve_backup_options o = {.progress = on_progress, .arg = &p};
    backup(path_a, &o);
    cr_assert_gt(p.last_done, info.copied_bytes * 3 / 2, "copied, and read back");
    cr_assert_leq(p.last_done, p.total);
    uint64_t half = p.last_done / 2;
    p = (progress){.stop_at = half};
    varve_status st = varve_backup(fx_db, path_b, &o, &info, &fx_err);
    cr_assert_eq(st.code, VARVE_BUSY);
    cr_assert_str_eq(varve_reason_name(st.reason), "CANCELED");
    cr_assert_eq(entries_in(path_b), -1);
    fx_close();
}

Test(db_backup, keeps_to_its_rate) {
    open_small();
    backup(path_a, NULL);
    varve_backup_options o = {.bytes_per_second = 10 * info.copied_bytes};
    uint64_t start_ns = vv_clock_mono_ns();
    backup(path_b, &o);
    uint64_t took_ms = (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS;
    cr_assert_geq(took_ms, 190, "read, and read back, in a tenth of a second each: %" PRIu64, took_ms);
    fx_close();
}
