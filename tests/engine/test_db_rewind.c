/*
 * Cutting the log's end: what stays, what is kept of the rest, and that it is all or nothing whenever it is
 * cut short.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "engine/db/archive_file.h"
#include "engine/db/db_impl.h"
#include "tests/engine/dir_fixture.h"
#include "tests/support/fault_io.h"

TestSuite(db_rewind, .init = fx_dirs, .fini = vv_tempdir_cleanup, .timeout = 250);

static varve_options *options(void) {
    return fx_options("WAL_SEGMENT_SIZE", "256KiB", NULL);
}

static void open_db(void) {
    fx_open_with(options());
}

static varve_status rewind_to(uint64_t lsn, uint64_t *cut_out) {
    varve_options *o = options();
    varve_status st = varve_rewind(fx_dir, o, lsn, "tail", cut_out, &fx_err);
    varve_options_destroy(o);
    return st;
}

/* Writes n has the key n and the value n. */
static void put_numbers(uint64_t from, uint64_t to) {
    char key[32];
    for (uint64_t n = from; n <= to; n++) {
        snprintf(key, sizeof key, "%05" PRIu64, n);
        cr_assert_eq(fx_put(key, key), n);
    }
}

static void expect_numbers(uint64_t to, uint64_t not_to) {
    char key[32];
    cr_assert_eq(fx_stats().last_lsn, to);
    for (uint64_t n = 1; n <= not_to; n++) {
        snprintf(key, sizeof key, "%05" PRIu64, n);
        fx_expect(key, n <= to ? key : NULL);
    }
}

/* The tail's file has these, each under the LSN that it had. */
static void expect_tail(uint64_t first, uint64_t last) {
    char path[700], key[32];
    vv_io_backend *io;
    vv_archive_reader *r;
    vv_archive_frame frame;
    vv_error err;
    uint64_t n = first;
    snprintf(path, sizeof path, "%s/tail", fx_dir);
    cr_assert(vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, &err)));
    cr_assert(vv_ok(vv_archive_reader_open(io, path, &r, &err)), "%s", err.text);
    cr_assert_eq(vv_archive_reader_head(r)->first_lsn, first);
    cr_assert_eq(vv_archive_reader_head(r)->number, 0);
    vv_status st;
    while (vv_ok(st = vv_archive_reader_next(r, &frame, &err))) {
        vv_reader reader = vv_reader_make(frame.records);
        cr_assert_neq(frame.epoch.id, 0);
        for (uint32_t i = 0; i < frame.record_count; i++, n++) {
            vv_record rec;
            vv_entry e;
            cr_assert(vv_ok(vv_record_decode(&reader, &rec)));
            cr_assert_eq(rec.first_lsn, n);
            vv_reader ops = vv_reader_make(rec.ops);
            cr_assert(vv_ok(vv_op_decode(&ops, &e)));
            snprintf(key, sizeof key, "%05" PRIu64, n);
            cr_assert(e.key.bytes == 5 && memcmp(e.key.data, key, 5) == 0);
        }
    }
    cr_assert(vv_is(st, VV_END), "%s", err.text);
    cr_assert_eq(vv_archive_reader_torn_bytes(r), 0);
    cr_assert_eq(n, last + 1);
    vv_archive_reader_close(r);
    vv_io_backend_destroy(io);
}

Test(db_rewind, keeps_what_is_up_to_the_lsn_and_puts_the_rest_into_a_file) {
    uint64_t cut;
    open_db();
    put_numbers(1, 20);
    cr_assert(varve_ok(varve_flush(fx_db)));
    put_numbers(21, 50);
    fx_close();
    cr_assert(varve_ok(rewind_to(35, &cut)), "%s", fx_err.text);
    cr_assert_str_eq(fx_err.text, "");
    cr_assert_eq(cut, 15);
    expect_tail(36, 50);
    cr_assert(!fx_there("CUT") && !fx_there("tail.tmp"));
    open_db();
    expect_numbers(35, 50);
    /* Other records take the place of those that were cut, also after a crash: the old log is gone. */
    for (uint64_t n = 36; n <= 45; n++)
        cr_assert_eq(fx_put("other", "record"), n);
    fx_shell("rm -rf '%s' && cp -a '%s' '%s' && rm -rf '%s' && cp -a '%s' '%s'", fx_pristine, fx_dir,
             fx_pristine, vv_tempdir_path("second"), fx_dir, vv_tempdir_path("second"));
    fx_close();
    fx_shell("rm -rf '%s' && cp -a '%s' '%s'", fx_dir, fx_pristine, fx_dir);
    open_db();
    expect_numbers(45, 0);
    fx_expect("00036", NULL);
    fx_expect("other", "record");
    fx_close();
}

Test(db_rewind, to_the_end_of_the_tables_or_of_the_log) {
    uint64_t cut;
    open_db();
    put_numbers(1, 20);
    cr_assert(varve_ok(varve_flush(fx_db)));
    put_numbers(21, 30);
    fx_close();
    cr_assert(varve_ok(rewind_to(30, &cut)), "%s", fx_err.text);
    cr_assert_eq(cut, 0);
    cr_assert(!fx_there("tail"), "nothing was cut");
    open_db();
    expect_numbers(30, 30);
    fx_close();
    fx_shell("rm -rf '%s'", fx_dir);

    open_db();
    put_numbers(1, 20);
    cr_assert(varve_ok(varve_flush(fx_db)));
    put_numbers(21, 30);
    fx_close();
    cr_assert(varve_ok(rewind_to(20, &cut)), "%s", fx_err.text);
    cr_assert_eq(cut, 10);
    expect_tail(21, 30);
    open_db();
    expect_numbers(20, 30);
    fx_close();
    fx_shell("rm -rf '%s'", fx_dir);

    /* Everything. */
    open_db();
    put_numbers(1, 10);
    fx_close();
    cr_assert(varve_ok(rewind_to(0, &cut)), "%s", fx_err.text);
    cr_assert_eq(cut, 10);
    expect_tail(1, 10);
    open_db();
    expect_numbers(0, 10);
    cr_assert_eq(fx_put("first", "again"), 1);
    fx_close();
}

/* More than a memtable, and many segments, on both sides of the cut. */
Test(db_rewind, flushes_what_stays_bit_by_bit) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    uint64_t cut;
    char key[32], value[1001];
    varve_value v;
    memset(value, 'v', sizeof value);
    open_db();
    for (int i = 1; i <= 4000; i++) {
        snprintf(key, sizeof key, "%05d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, 5, value, 1000, &async, NULL)));
    }
    fx_close();
    varve_options *o =
        fx_options("MEMTABLE_SIZE", "256KiB", "MAX_IMMUTABLE_COUNT", "1", "WAL_SEGMENT_SIZE", "256KiB", NULL);
    varve_status st = varve_rewind(fx_dir, o, 2500, "tail", &cut, &fx_err);
    varve_options_destroy(o);
    cr_assert(varve_ok(st), "%s", fx_err.text);
    cr_assert_eq(cut, 1500);
    expect_tail(2501, 4000);
    open_db();
    cr_assert_gt(fx_stats().sstable_count, 3);
    cr_assert_eq(fx_stats().last_lsn, 2500);
    for (int i = 1; i <= 4000; i++) {
        snprintf(key, sizeof key, "%05d", i);
        cr_assert_eq(varve_get(fx_db, key, 5, &v).code, i <= 2500 ? VARVE_OK : VARVE_NOT_FOUND, "%s", key);
        varve_value_release(&v);
    }
    fx_close();
}

Test(db_rewind, refuses_without_changing_anything) {
    char path[700];
    varve_batch *b = varve_batch_create();
    open_db();
    put_numbers(1, 20);
    cr_assert(varve_ok(varve_flush(fx_db)));
    put_numbers(21, 30);
    for (int i = 0; i < 5; i++)
        cr_assert(varve_ok(varve_batch_put(b, "batch", 5, "", 0)));
    cr_assert(varve_ok(varve_write(fx_db, b, NULL, NULL))); /* 31 to 35 */
    varve_batch_destroy(b);
    cr_assert_eq(rewind_to(25, NULL).code, VARVE_LOCKED);
    fx_close();
    cr_assert_eq(rewind_to(19, NULL).code, VARVE_TRIMMED);
    cr_assert_eq(rewind_to(0, NULL).code, VARVE_TRIMMED);
    cr_assert_eq(rewind_to(36, NULL).code, VARVE_INVALID_ARGUMENT);
    for (uint64_t lsn = 31; lsn < 35; lsn++) {
        cr_assert_eq(rewind_to(lsn, NULL).code, VARVE_INVALID_ARGUMENT);
        cr_assert_not_null(strstr(fx_err.text, "within the batch"), "%s", fx_err.text);
    }
    static const char *const bad[] = {"", "..", "../tail", "a/tail", "MANIFEST", "/tail", "LOCK"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++)
        cr_assert_eq(varve_rewind(fx_dir, NULL, 25, bad[i], NULL, &fx_err).code, VARVE_INVALID_ARGUMENT);
    fx_shell("echo mine >'%s/tail'", fx_dir);
    cr_assert_eq(rewind_to(25, NULL).code, VARVE_EXISTS);
    fx_shell("grep -q mine '%s/tail' && rm '%s/tail'", fx_dir, fx_dir);
    cr_assert_eq(varve_rewind(vv_tempdir_path("none"), NULL, 0, "tail", NULL, &fx_err).code, VARVE_NOT_FOUND);
    cr_assert_eq(access(vv_tempdir_path("none"), F_OK), -1);
    cr_assert(!fx_there("CUT") && !fx_there("tail") && !fx_there("tail.tmp"));
    open_db();
    cr_assert_eq(fx_stats().last_lsn, 35);
    cr_assert_eq(fx_stats().flushed_lsn, 20);
    fx_close();
    snprintf(path, sizeof path, "%s/tail", fx_dir);
    uint64_t cut;
    varve_status st = varve_rewind(fx_dir, NULL, 30, path, &cut, &fx_err);
    cr_assert(varve_ok(st), "%s", fx_err.text);
    cr_assert_eq(cut, 5);
    open_db();
    expect_numbers(30, 30);
    fx_expect("batch", NULL);
    fx_close();
}

/* A write that was cut was not done: its name is free again. One that stays is still known. */
Test(db_rewind, forgets_the_names_of_writes_that_are_cut) {
    uint64_t lsn;
    open_db();
    for (uint64_t n = 1; n <= 10; n++) {
        varve_write_options o = {.client_id = 7, .sequence = n};
        cr_assert(varve_ok(varve_put(fx_db, "named", 5, "1", 1, &o, &lsn)));
        cr_assert_eq(lsn, n);
    }
    fx_close();
    cr_assert(varve_ok(rewind_to(6, NULL)), "%s", fx_err.text);
    open_db();
    for (uint64_t n = 1; n <= 10; n++) {
        varve_write_options o = {.client_id = 7, .sequence = n};
        cr_assert(varve_ok(varve_put(fx_db, "named", 5, "2", 1, &o, &lsn)));
        cr_assert_eq(lsn, n);
    }
    cr_assert_eq(fx_stats().retried_writes, 6);
    fx_expect("named", "2");
    fx_close();
}

Test(db_rewind, forgets_epochs_that_began_behind) {
    varve_epoch before[VARVE_EPOCHS_MAX], after[VARVE_EPOCHS_MAX];
    open_db();
    put_numbers(1, 10);
    cr_assert(varve_ok(varve_begin_epoch(fx_db, 2, &fx_err)), "%s", fx_err.text);
    put_numbers(11, 20);
    cr_assert(varve_ok(varve_begin_epoch(fx_db, 3, &fx_err)));
    put_numbers(21, 30);
    cr_assert(varve_ok(varve_begin_epoch(fx_db, 4, &fx_err)));
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 9, &fx_err)));
    cr_assert(varve_ok(varve_set_safe_compaction_lsn(fx_db, 25, &fx_err)));
    cr_assert_eq(varve_epochs_get(fx_db, before), 4);
    cr_assert(varve_ok(varve_slot_create(fx_db, "ahead", 28, &fx_err)), "%s", fx_err.text);
    cr_assert(varve_ok(varve_slot_create(fx_db, "behind", 15, &fx_err)), "%s", fx_err.text);
    fx_close();
    fx_shell("cp -a '%s' '%s'", fx_dir, fx_pristine);

    cr_assert(varve_ok(rewind_to(30, NULL)), "%s", fx_err.text); /* nothing but an epoch without records */
    open_db();
    cr_assert_eq(varve_epochs_get(fx_db, after), 3);
    fx_close();
    fx_shell("rm -rf '%s' && cp -a '%s' '%s'", fx_dir, fx_pristine, fx_dir);
    cr_assert(varve_ok(rewind_to(20, NULL)), "%s", fx_err.text); /* the end of 2: 3 goes */
    open_db();
    cr_assert_eq(varve_epochs_get(fx_db, after), 2);
    cr_assert_eq(memcmp(before, after, 2 * sizeof *before), 0);
    cr_assert_eq(fx_stats().promised_epoch, 9, "a promise is never taken back");
    varve_slot_info slots[VARVE_SLOTS_MAX];
    cr_assert_eq(varve_slots_get(fx_db, slots), 2);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(slots[i].confirmed_lsn, strcmp(slots[i].name, "ahead") == 0 ? 20 : 15);
    expect_numbers(20, 30);
    fx_close();
    fx_shell("mv '%s/tail' '%s/older'", fx_dir, fx_dir);
    cr_assert_eq(rewind_to(15, NULL).code, VARVE_TRIMMED, "what stayed has gone into tables");
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
    if (strcmp(op, "read") != 0 && strcmp(op, "open") != 0 && strcmp(op, "write") != 0) {
        pthread_mutex_lock(&steps_lock);
        size_t used = strlen(steps);
        snprintf(steps + used, sizeof steps - used, "%s %s, ", op, strstr(name, "wal-") ? "segment" : name);
        pthread_mutex_unlock(&steps_lock);
    }
    return VV_STATUS_OK;
}

/* 1 to 12 in tables, up to 60 in several segments, of which some stay. */
static void prepare(void) {
    open_db();
    put_numbers(1, 12);
    cr_assert(varve_ok(varve_flush(fx_db)));
    put_numbers(13, 30);
    fx_close();
    open_db();
    put_numbers(31, 50);
    fx_close();
    open_db();
    put_numbers(51, 60);
    fx_close();
    fx_shell("cp -a '%s' '%s'", fx_dir, fx_pristine);
}

static void restore(void) {
    fx_shell("rm -rf '%s' && cp -a '%s' '%s'", fx_dir, fx_pristine, fx_dir);
}

static vv_status rewind_until(int n) {
    varve_options *o = options();
    uint64_t cut;
    step_count = 0;
    dies_at = n;
    steps[0] = '\0';
    vv_status st =
        vv_db_rewind_on(vv_fault_io_create(on_step, NULL), fx_dir, o, 40, "tail", &cut, (vv_error *)&fx_err);
    varve_options_destroy(o);
    return st;
}

static bool open_until(int n) {
    varve_options *o = options();
    step_count = 0;
    dies_at = n;
    vv_status st = vv_db_open_on(vv_fault_io_create(on_step, NULL), fx_dir, o, &fx_db, (vv_error *)&fx_err);
    bool reached = step_count >= n;
    varve_options_destroy(o);
    if (vv_ok(st))
        vv_status_ignore(vv_status_make((vv_code)varve_close(fx_db).code, VV_SUB_NONE, 0),
                         "it may die on the way");
    return reached;
}

/* Open, and say whether it was cut; either way it is whole. */
static bool open_either(void) {
    open_db();
    bool was_cut = fx_stats().last_lsn == 40;
    expect_numbers(was_cut ? 40 : 60, 60);
    fx_close();
    cr_assert(!fx_there("CUT") && !fx_there("CUT.tmp"));
    cr_assert_eq(fx_there("tail"), was_cut);
    if (was_cut)
        expect_tail(41, 60);
    return was_cut;
}

Test(db_rewind, cut_short_anywhere_is_all_or_nothing) {
    int cuts = 0, others = 0;
    prepare();
    for (int n = 1;; n++) {
        restore();
        vv_status st = rewind_until(n);
        bool reached = step_count >= n;
        dies_at = 0;
        cr_assert(reached || vv_ok(st), "%s", fx_err.text);
        bool marked = fx_there("CUT");
        if (!marked && !vv_ok(st) && !fx_there("tail")) {
            /* Not begun: it may be tried again at once. */
            uint64_t cut;
            cr_assert(varve_ok(rewind_to(40, &cut)), "step %d: %s", n, fx_err.text);
            cr_assert_eq(cut, 20);
            cr_assert(open_either());
            restore();
            vv_status_ignore(rewind_until(n), "as before");
            dies_at = 0;
        }
        bool was_cut = open_either();
        cr_assert(was_cut || !marked, "step %d: what was begun was completed", n);
        cr_assert(was_cut || !vv_ok(st));
        cuts += was_cut;
        others += !was_cut;
        if (!reached)
            break;
    }
    cr_assert_gt(others, 10);
    cr_assert_gt(cuts, 15);
}

/* And so does the opening that completes it. */
Test(db_rewind, cut_short_again_while_it_is_completed) {
    uint64_t seed = vv_test_seed();
    prepare();
    restore();
    cr_assert(vv_ok(rewind_until(0)));
    int all = step_count;
    for (int n = 1; n <= all; n += 1 + (int)(vv_test_random(&seed) % 4)) {
        for (int m = 1;; m += 1 + (int)(vv_test_random(&seed) % 12)) {
            restore();
            vv_status_ignore(rewind_until(n), "it dies");
            if (!fx_there("CUT"))
                break; /* nothing to complete, as above */
            bool reached = open_until(m);
            if (m % 2 == 0)
                (void)open_until(m + 3);
            dies_at = 0;
            cr_assert(open_either(), "steps %d, %d", n, m);
            if (!reached)
                break;
        }
    }
}

Test(db_rewind, is_synced_in_the_order_of_its_steps) {
    prepare();
    cr_assert(vv_ok(rewind_until(0)), "%s", fx_err.text);
    static const char *const order[] = {
        "datasync tail.tmp, ", "dirsync db, ",      "sync CUT.tmp, ", "rename CUT, ",     "dirsync db, ",
        "rename tail, ",       "dirsync db, ",      ".sst, ",         "dirsync db, ",     "rename MANIFEST, ",
        "dirsync db, ",        "rename MANIFEST, ", "dirsync db, ",   "unlink segment, ", "dirsync db, ",
        "unlink CUT, ",        "dirsync db, "};
    const char *at = steps;
    for (size_t i = 0; i < VV_ARRAY_COUNT(order); i++) {
        at = strstr(at, order[i]);
        cr_assert_not_null(at, "%s is missing, or too early, in %s", order[i], steps);
        at += strlen(order[i]);
    }
    cr_assert_str_eq(at, "", "%s", at);
}

Test(db_rewind, a_segment_that_comes_back_is_not_read) {
    prepare();
    restore();
    /* Up to where all segments are gone, and the marker is not. */
    for (int n = 1;; n++) {
        restore();
        vv_status_ignore(rewind_until(n), "it dies");
        dies_at = 0;
        if (strstr(steps, "unlink segment, ") && fx_there("CUT"))
            break;
    }
    fx_shell("cp '%s'/wal-*.log '%s'", fx_pristine, fx_dir);
    cr_assert(open_either());
}

Test(db_rewind, a_cut_that_is_begun_goes_along_with_an_install) {
    char next[600];
    prepare();
    for (int n = 1; !fx_there("CUT"); n++) {
        restore();
        vv_status_ignore(rewind_until(n), "it dies");
        dies_at = 0;
    }
    varve_db *other;
    snprintf(next, sizeof next, "%s/next", fx_dir);
    cr_assert(varve_ok(varve_open(next, NULL, &other, &fx_err)));
    cr_assert(varve_ok(varve_put(other, "who", 3, "next", 4, NULL, NULL)));
    cr_assert(varve_ok(varve_close(other)));
    cr_assert(varve_ok(varve_install(fx_dir, "next", "old", NULL, &fx_err)), "%s", fx_err.text);
    open_db();
    fx_expect("who", "next");
    cr_assert_eq(fx_stats().last_lsn, 1);
    fx_close();
    /* The old one, where it is now, is cut when it is opened. */
    snprintf(next, sizeof next, "%s/old", fx_dir);
    cr_assert(varve_ok(varve_open(next, NULL, &fx_db, &fx_err)), "%s", fx_err.text);
    expect_numbers(40, 60);
    fx_close();
}

Test(db_rewind, fails_whatever_allocation_does) {
    int failures = 0;
    prepare();
    for (uint64_t n = 1;; n++) {
        restore();
        varve_options *o = options();
        vv_alloc_fail_at(n);
        varve_status st = varve_rewind(fx_dir, o, 40, "tail", NULL, NULL);
        vv_alloc_fail_at(0);
        varve_options_destroy(o);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY, "allocation %" PRIu64 ": %s", n, varve_code_name(st.code));
        (void)open_either();
        failures++;
    }
    cr_assert_gt(failures, 20);
    cr_assert(open_either());
}
