/*
 * Installing one database in the place of another: whenever it is cut short, who opens the directory finds
 * the old one or the new one, whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "engine/db/db_impl.h"
#include "tests/engine/dir_fixture.h"
#include "tests/support/fault_io.h"

TestSuite(db_install, .init = fx_dirs, .fini = vv_tempdir_cleanup, .timeout = 250);

static varve_options *options(void) {
    return fx_options("WAL_SEGMENT_SIZE", "256KiB", "COMPACTION_THRESHOLD", "16", NULL);
}

static void open_dir(const char *path) {
    varve_options *o = options();
    varve_status st = varve_open(path, o, &fx_db, &fx_err);
    varve_options_destroy(o);
    cr_assert(varve_ok(st), "%s", fx_err.text);
}

/* Two tables, and more in the log; table numbers and LSNs of the two are the same in part. */
static void fill(const char *who, int count) {
    char key[32], value[32];
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "%s%d", who, i);
        snprintf(value, sizeof value, "%s%d", who, i);
        fx_put(key, value);
        fx_put("who", who);
        if (i == count / 3 || i == 2 * count / 3)
            cr_assert(varve_ok(varve_flush(fx_db)));
    }
}

#define OLD_COUNT 12
#define NEW_COUNT 9

/* db: the old one, a file of somebody else's, and the new one in db/next. */
static void prepare(void) {
    open_dir(vv_tempdir_path("source"));
    fill("new", NEW_COUNT);
    fx_close();
    char next[600];
    open_dir(fx_dir);
    fill("old", OLD_COUNT);
    fx_close();
    snprintf(next, sizeof next, "%s/next", fx_dir);
    open_dir(vv_tempdir_path("source"));
    varve_backup_info info;
    cr_assert(varve_ok(varve_backup(fx_db, next, NULL, &info, &fx_err)), "%s", fx_err.text);
    fx_close();
    fx_shell("echo mine >'%s/precious' && echo mine >'%s/cafe.sst' && cp -a '%s' '%s'", fx_dir, fx_dir,
             fx_dir, fx_pristine);
}

static void restore(void) {
    fx_shell("rm -rf '%s' && cp -a '%s' '%s'", fx_dir, fx_pristine, fx_dir);
}

static void expect_who(const char *who, const char *not_who) {
    int count = strcmp(who, "old") == 0 ? OLD_COUNT : NEW_COUNT;
    char key[32];
    fx_expect("who", who);
    cr_assert_eq(fx_stats().last_lsn, 2 * (uint64_t)count);
    for (int i = 0; i < VV_MAX(OLD_COUNT, NEW_COUNT); i++) {
        snprintf(key, sizeof key, "%s%d", who, i);
        fx_expect(key, i < count ? key : NULL);
        snprintf(key, sizeof key, "%s%d", not_who, i);
        fx_expect(key, NULL);
    }
}

static varve_status install(const char *aside) {
    varve_options *o = options();
    varve_status st = varve_install(fx_dir, "next", aside, o, &fx_err);
    varve_options_destroy(o);
    return st;
}

/* Open db and say whether it is the new one; whichever it is, it is that alone. */
static bool open_either(void) {
    varve_value v;
    open_dir(fx_dir);
    cr_assert(varve_ok(varve_get(fx_db, "who", 3, &v)));
    bool is_new = memcmp(v.data, "new", 3) == 0;
    varve_value_release(&v);
    expect_who(is_new ? "new" : "old", is_new ? "old" : "new");
    varve_verify_result result;
    cr_assert(varve_ok(varve_verify(fx_db, NULL, &result, NULL)));
    cr_assert_eq(result.damage_count, 0);
    fx_close();
    cr_assert(!fx_there("INSTALL") && !fx_there("INSTALL.tmp"));
    cr_assert_eq(fx_there("next"), !is_new);
    cr_assert(fx_there("precious") && fx_there("cafe.sst"));
    return is_new;
}

static void expect_aside(void) {
    char path[600];
    snprintf(path, sizeof path, "%s/old", fx_dir);
    open_dir(path);
    expect_who("old", "new");
    fx_close();
}

Test(db_install, puts_the_new_database_in_the_place_of_the_old_one) {
    prepare();
    cr_assert(varve_ok(install(NULL)), "%s", fx_err.text);
    cr_assert_str_eq(fx_err.text, "");
    cr_assert(!fx_there("next"), "gone at once, not with the next opening");
    cr_assert(open_either());
    open_dir(fx_dir);
    fx_put("who", "goes on");
    fx_close();
    open_dir(fx_dir);
    fx_expect("who", "goes on");
    fx_close();
}

Test(db_install, keeps_the_old_one_aside_if_asked) {
    char next[600], old[600];
    prepare();
    snprintf(next, sizeof next, "%s//next/", fx_dir);
    snprintf(old, sizeof old, "%s/old", fx_dir);
    varve_status st = varve_install(fx_dir, next, old, NULL, &fx_err); /* as paths */
    cr_assert(varve_ok(st), "%s", fx_err.text);
    cr_assert(open_either());
    expect_aside();
    cr_assert(fx_there("precious") && !fx_there("old/precious"));
}

Test(db_install, where_there_was_none) {
    bool exists;
    prepare();
    fx_shell("cd '%s' && rm -f MANIFEST *.sst wal-* LOCK && touch cafe.sst", fx_dir);
    cr_assert(varve_ok(varve_exists(fx_dir, &exists, &fx_err)) && !exists);
    cr_assert(varve_ok(install(NULL)), "%s", fx_err.text);
    cr_assert(varve_ok(varve_exists(fx_dir, &exists, &fx_err)) && exists);
    cr_assert(open_either());
}

Test(db_install, what_was_imported) {
    varve_export e;
    varve_import *m;
    char next[600];
    prepare();
    fx_shell("rm -r '%s/next'", fx_dir);
    snprintf(next, sizeof next, "%s/next", fx_dir);
    open_dir(vv_tempdir_path("source"));
    cr_assert(varve_ok(varve_take_snapshot(fx_db, &e, &fx_err)));
    cr_assert(varve_ok(varve_import_begin(next, NULL, e.files, e.file_count, &m, &fx_err)), "%s",
              fx_err.text);
    cr_assert_eq(install(NULL).code, VARVE_LOCKED, "is being imported");
    uint8_t *buffer = malloc(1 << 20);
    for (size_t i = 0; i < e.file_count; i++) {
        varve_export_reader *r;
        varve_import_file *f;
        uint64_t offset;
        size_t got;
        cr_assert(varve_ok(varve_export_open(fx_db, &e, e.files[i].name, &r, &fx_err)));
        cr_assert(varve_ok(varve_export_read(r, 0, buffer, 1 << 20, &got, &fx_err)));
        varve_export_close(r);
        cr_assert_eq(got, e.files[i].size);
        cr_assert(varve_ok(varve_import_open(m, i, &f, &offset, &fx_err)));
        cr_assert(varve_ok(varve_import_write(f, buffer, got, &fx_err)));
        cr_assert(varve_ok(varve_import_close(f, &fx_err)));
    }
    free(buffer);
    varve_import_end(m);
    cr_assert_eq(install(NULL).code, VARVE_NOT_FOUND, "has no manifest");
    cr_assert(varve_ok(varve_import_begin(next, NULL, e.files, e.file_count, &m, &fx_err)), "%s",
              fx_err.text);
    for (size_t i = 0; i < e.file_count; i++) {
        varve_import_file *f;
        uint64_t offset;
        cr_assert(varve_ok(varve_import_open(m, i, &f, &offset, &fx_err)) && !f);
    }
    cr_assert(varve_ok(varve_import_finish(m, e.manifest, e.manifest_bytes, &fx_err)));
    varve_export_release(fx_db, &e);
    fx_close();
    cr_assert(varve_ok(install(NULL)), "%s", fx_err.text);
    cr_assert(!fx_there("IMPORT"));
    cr_assert(open_either());
}

Test(db_install, refuses_without_changing_anything) {
    char path[700], name[64];
    prepare();
    cr_assert_eq(varve_install(fx_dir, "nothing", NULL, NULL, &fx_err).code, VARVE_NOT_FOUND);
    static const char *const bad[] = {"",   ".",      "..",       "../next", "a/b",
                                      "/x", "./next", "MANIFEST", "INSTALL", "0000000000000001.sst"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        cr_assert_eq(varve_install(fx_dir, bad[i], NULL, NULL, &fx_err).code, VARVE_INVALID_ARGUMENT, "%s",
                     bad[i]);
        cr_assert_eq(install(bad[i]).code, VARVE_INVALID_ARGUMENT, "%s", bad[i]);
    }
    cr_assert_eq(install("precious").code, VARVE_EXISTS);
    cr_assert_eq(install("next").code, VARVE_EXISTS);

    open_dir(fx_dir);
    cr_assert_eq(install(NULL).code, VARVE_LOCKED);
    fx_close();
    snprintf(path, sizeof path, "%s/next", fx_dir);
    fx_shell("cp -a '%s' '%s/used'", path, fx_dir);
    snprintf(path, sizeof path, "%s/used", fx_dir);
    open_dir(path);
    varve_status st = varve_install(fx_dir, "used", NULL, NULL, &fx_err);
    cr_assert_eq(st.code, VARVE_LOCKED);
    fx_close();

    fx_shell("touch '%s/next/foreign'", fx_dir);
    cr_assert_eq(install(NULL).code, VARVE_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(fx_err.text, "foreign"), "%s", fx_err.text);
    fx_shell("cd '%s/next' && rm foreign && ls *.sst | head -1 >'%s/name'", fx_dir, fx_dir);
    snprintf(path, sizeof path, "%s/name", fx_dir);
    FILE *f = fopen(path, "r");
    cr_assert_eq(fscanf(f, "%63s", name), 1);
    fclose(f);
    fx_shell("cd '%s/next' && mv %s ../saved", fx_dir, name);
    cr_assert_eq(install(NULL).code, VARVE_CORRUPTION, "a table is missing");
    cr_assert_not_null(strstr(fx_err.text, name), "%s", fx_err.text);
    fx_shell("cd '%s/next' && cp ../saved %s && truncate -s 100 %s", fx_dir, name, name);
    cr_assert_eq(install(NULL).code, VARVE_CORRUPTION, "a table is too short");
    fx_shell("cd '%s/next' && mv ../saved %s && cp MANIFEST ../saved && truncate -s 50 MANIFEST", fx_dir,
             name);
    cr_assert_eq(install(NULL).code, VARVE_CORRUPTION);
    cr_assert(!fx_there("INSTALL"));
    fx_shell("cd '%s/next' && mv ../saved MANIFEST", fx_dir);
    cr_assert(!open_either(), "the old one all the while");
    cr_assert(varve_ok(install(NULL)), "%s", fx_err.text);
    cr_assert(open_either());
}

Test(db_install, what_was_promised_holds) {
    prepare();
    open_dir(fx_dir);
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 7, &fx_err)), "%s", fx_err.text);
    fx_close();
    cr_assert(varve_ok(install(NULL)), "%s", fx_err.text);
    open_dir(fx_dir);
    cr_assert_eq(fx_stats().promised_epoch, 7);
    expect_who("new", "old");
    fx_close();
}

/* ---- cut short ---- */

/* From the n-th operation on everything fails: as if the process had died there. */
static _Atomic int step_count, dies_at;
static pthread_mutex_t steps_lock = PTHREAD_MUTEX_INITIALIZER; /* the log's own thread has steps too */
static char steps[1 << 16];

static vv_status on_step(void *arg, const char *op, const char *name) {
    (void)arg;
    int step = atomic_fetch_add(&step_count, 1) + 1;
    if (dies_at != 0 && step >= dies_at)
        return vv_status_errno(EIO);
    if (strcmp(op, "read") != 0 && strcmp(op, "open") != 0) {
        pthread_mutex_lock(&steps_lock);
        size_t used = strlen(steps);
        snprintf(steps + used, sizeof steps - used, "%s %s, ", op, name);
        pthread_mutex_unlock(&steps_lock);
    }
    return VV_STATUS_OK;
}

static vv_status install_until(int n, const char *aside) {
    step_count = 0;
    dies_at = n;
    steps[0] = '\0';
    return vv_db_install_on(vv_fault_io_create(on_step, NULL), fx_dir, "next", aside, NULL,
                            (vv_error *)&fx_err);
}

/* How many steps it took; less than n: it was not cut short. */
static int open_until(int n) {
    varve_options *o = options();
    step_count = 0;
    dies_at = n;
    vv_status st = vv_db_open_on(vv_fault_io_create(on_step, NULL), fx_dir, o, &fx_db, (vv_error *)&fx_err);
    int count = step_count;
    varve_options_destroy(o);
    if (vv_ok(st))
        vv_status_ignore(vv_status_make((vv_code)varve_close(fx_db).code, VV_SUB_NONE, 0),
                         "it may die on the way");
    return count;
}

static void cut_short_everywhere(const char *aside) {
    int news = 0, olds = 0;
    prepare();
    for (int n = 1;; n++) {
        restore();
        vv_status st = install_until(n, aside);
        bool reached = step_count >= n;
        dies_at = 0;
        cr_assert(reached || vv_ok(st), "%s", fx_err.text);
        bool marked = fx_there("INSTALL");
        bool is_new = open_either();
        cr_assert(is_new || !marked, "step %d: what was begun was completed", n);
        cr_assert(is_new || !vv_ok(st));
        news += is_new;
        olds += !is_new;
        if (aside && is_new)
            expect_aside();
        if (!is_new) {
            cr_assert(varve_ok(install(aside)), "step %d, tried again: %s", n, fx_err.text);
            cr_assert(open_either());
        }
        if (!reached)
            break;
    }
    cr_assert_gt(olds, 5);
    cr_assert_gt(news, 15);
}

Test(db_install, cut_short_anywhere_leaves_one_of_both) {
    cut_short_everywhere(NULL);
}

Test(db_install, cut_short_anywhere_keeps_the_old_one_whole_aside) {
    cut_short_everywhere("old");
}

/* And so does the opening that completes it. */
Test(db_install, cut_short_again_while_it_is_completed) {
    uint64_t seed = vv_test_seed();
    prepare();
    restore();
    cr_assert(vv_ok(install_until(0, "old")));
    int all = step_count;
    for (int n = 1; n <= all; n++) {
        for (int m = 1;; m += 1 + (int)(vv_test_random(&seed) % 7)) {
            restore();
            vv_status_ignore(install_until(n, "old"), "it dies");
            bool marked = fx_there("INSTALL");
            if (!marked)
                break; /* nothing to complete, as above */
            bool reached = open_until(m) >= m;
            bool again = m % 2 && open_until(m + 1) >= m;
            (void)again;
            dies_at = 0;
            cr_assert(open_either(), "steps %d, %d", n, m);
            expect_aside();
            if (!reached)
                break;
        }
    }
}

/* The old files are gone for good before the second marker, and the new ones are there before it goes. */
Test(db_install, is_synced_in_the_order_of_its_steps) {
    prepare();
    cr_assert(vv_ok(install_until(0, "old")));
    static const char *const order[] = {
        "dirsync next, ",     "sync INSTALL.tmp, ", "rename INSTALL, ", "dirsync db, ",      "mkdir old, ",
        "dirsync db, ",       "link MANIFEST, ",    "dirsync old, ",    "unlink MANIFEST, ", "dirsync db, ",
        "sync INSTALL.tmp, ", "rename INSTALL, ",   "dirsync db, ",     "link MANIFEST, ",   "dirsync db, ",
        "unlink MANIFEST, ",  "rmdir next, ",       "dirsync db, ",     "unlink INSTALL, ",  "dirsync db, "};
    const char *at = steps;
    for (size_t i = 0; i < VV_ARRAY_COUNT(order); i++) {
        at = strstr(at, order[i]);
        cr_assert_not_null(at, "%s is missing, or too early, in %s", order[i], steps);
        at += strlen(order[i]);
    }
    cr_assert_str_eq(at, "");
    /* Between the two markers nothing comes, and before the first nothing goes. */
    cr_assert_null(memmem(steps, (size_t)(strstr(steps, "rename INSTALL") - steps), "unlink ", 7));
    const char *last_old = NULL;
    for (at = strstr(steps, "mkdir old, "); (at = strstr(at, "link wal-")) != NULL; at++)
        last_old = at;
    cr_assert_not_null(last_old);
    cr_assert_not_null(strstr(last_old, "sync INSTALL.tmp"), "a log segment goes after the second marker");
}

Test(db_install, a_damaged_marker_is_not_guessed_around) {
    char path[700];
    uint8_t byte;
    prepare();
    for (int n = 1; !fx_there("INSTALL"); n++) {
        restore();
        vv_status_ignore(install_until(n, NULL), "it dies");
    }
    dies_at = 0;
    snprintf(path, sizeof path, "%s/INSTALL", fx_dir);
    for (off_t at = 0; at < 40; at += 3) {
        int fd = open(path, O_RDWR);
        cr_assert_eq(pread(fd, &byte, 1, at), 1);
        byte ^= 0x40;
        cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
        varve_status st = varve_open(fx_dir, NULL, &fx_db, &fx_err);
        cr_assert(st.code == VARVE_CORRUPTION || st.code == VARVE_UNSUPPORTED, "%s", fx_err.text);
        cr_assert_not_null(strstr(fx_err.text, "INSTALL"), "%s", fx_err.text);
        byte ^= 0x40;
        cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
        close(fd);
    }
    bool exists;
    cr_assert(varve_ok(varve_exists(fx_dir, &exists, NULL)) && exists, "nobody makes a new one here");
    snprintf(path, sizeof path, "%s/next", fx_dir);
    varve_import *m;
    cr_assert_eq(varve_import_begin(path, NULL, NULL, 0, &m, &fx_err).code, VARVE_BUSY);
    /* What the marker names is gone: the old one is not removed for it. */
    fx_shell("mv '%s/next' '%s-away'", fx_dir, fx_dir);
    cr_assert_eq(varve_open(fx_dir, NULL, &fx_db, &fx_err).code, VARVE_CORRUPTION);
    fx_shell("mv '%s-away' '%s/next'", fx_dir, fx_dir);
    cr_assert(open_either());
}

Test(db_install, fails_whatever_allocation_does) {
    int failures = 0;
    prepare();
    for (uint64_t n = 1;; n++) {
        restore();
        vv_alloc_fail_at(n);
        varve_status st = varve_install(fx_dir, "next", "old", NULL, NULL);
        vv_alloc_fail_at(0);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY, "allocation %" PRIu64 ": %s", n, varve_code_name(st.code));
        (void)open_either();
        failures++;
    }
    cr_assert_gt(failures, 3);
    cr_assert(open_either());
}
