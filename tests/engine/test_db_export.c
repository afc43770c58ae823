/*
 * Exports: what is in them, that their files stay, and what happens beside writers.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checksum.h"
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

TestSuite(db_export, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static varve_options *small(void) {
    return fx_options("MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB", "COMPACTION_THRESHOLD", "2", NULL);
}

static uint8_t *read_file(const char *dir, const char *name, size_t *bytes_out) {
    char path[600];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fstat(fileno(f), &st), 0);
    uint8_t *data = malloc((size_t)st.st_size + 1);
    *bytes_out = fread(data, 1, (size_t)st.st_size, f);
    cr_assert_eq(*bytes_out, (size_t)st.st_size);
    fclose(f);
    return data;
}

static void write_file(const char *dir, const char *name, const void *data, size_t bytes) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    cr_assert_eq(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

/* Copy an export as a replica would, checking sizes and checksums on the way. */
static void copy_export(const varve_export *e, const char *path) {
    char to[512], from[512];
    snprintf(to, sizeof to, "%s", path);
    snprintf(from, sizeof from, "%s", vv_tempdir_path("db"));
    cr_assert_eq(mkdir(to, 0750), 0);
    for (size_t i = 0; i < e->file_count; i++) {
        size_t bytes;
        uint8_t *data = read_file(from, e->files[i].name, &bytes);
        cr_assert_eq(bytes, e->files[i].size, "%s", e->files[i].name);
        cr_assert_neq(e->files[i].checksum, 0);
        cr_assert_eq(vv_checksum(data, bytes, 0), e->files[i].checksum, "%s", e->files[i].name);
        write_file(to, e->files[i].name, data, bytes);
        free(data);
    }
    write_file(to, "MANIFEST", e->manifest, e->manifest_bytes);
}

static varve_db *open_at(const char *path) {
    varve_db *db;
    varve_options *o = small();
    cr_assert(varve_ok(varve_open(path, o, &db, &fx_err)), "%s", fx_err.text);
    varve_options_destroy(o);
    return db;
}

static void expect_in(varve_db *db, const char *key, const char *value) {
    varve_db *saved = fx_db;
    fx_db = db;
    fx_expect(key, value);
    fx_db = saved;
}

static void fill(uint64_t from, uint64_t to, const char *value) {
    char key[32], text[200];
    memset(text, 'x', sizeof text);
    for (uint64_t i = from; i < to; i++) {
        snprintf(key, sizeof key, "key%06" PRIu64, i);
        snprintf(text, sizeof text, "%s-%0150d", value, (int)i);
        static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), text, strlen(text), &async, NULL)));
    }
}

static uint64_t take(varve_export *e) {
    cr_assert(varve_ok(varve_take_snapshot(fx_db, e, &fx_err)), "%s", fx_err.text);
    return e->lsn;
}

static bool file_exists(const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), name);
    return access(path, F_OK) == 0;
}

Test(db_export, of_a_database_with_limited_commits_hides_what_is_not_confirmed) {
    varve_export e;
    varve_stats s;
    varve_batch *batch = varve_batch_create();
    varve_write_options soon = {.confirm_deadline_ns = 1};
    fx_open_with(small());
    fx_put("key", "confirmed");
    cr_assert(varve_ok(varve_limit_commits(fx_db, true, &fx_err)));
    cr_assert(varve_ok(varve_batch_put(batch, "key", 3, "not", 3)));
    cr_assert_eq(varve_write(fx_db, batch, &soon, NULL).code, VARVE_NOT_CONFIRMED);
    varve_batch_destroy(batch);
    cr_assert_eq(take(&e), 2, "it is in the files");
    copy_export(&e, vv_tempdir_path("copy"));
    varve_export_release(fx_db, &e);
    varve_db *copy = open_at(vv_tempdir_path("copy"));
    varve_stats_get(copy, &s);
    cr_assert_eq(s.commit_limit, 1);
    expect_in(copy, "key", "confirmed");
    varve_set_commit_limit(copy, 2);
    for (uint64_t end = vv_clock_mono_ns() + 60 * VV_NS_PER_S; varve_visible_lsn(copy) < 2;)
        cr_assert_lt(vv_clock_mono_ns(), end);
    expect_in(copy, "key", "not");
    cr_assert(varve_ok(varve_close(copy)));

    cr_assert(varve_ok(varve_backup(fx_db, vv_tempdir_path("backup"), NULL, NULL, &fx_err)), "%s",
              fx_err.text);
    copy = open_at(vv_tempdir_path("backup"));
    varve_stats_get(copy, &s);
    cr_assert_eq(s.commit_limit, UINT64_MAX, "a backup is a database of its own");
    cr_assert(varve_ok(varve_close(copy)));
    fx_close();
}

Test(db_export, is_the_state_of_one_lsn_whatever_comes_later) {
    varve_export e;
    fx_open_with(small());
    fill(0, 2000, "old");
    fx_put("a", "1");
    uint64_t last = fx_put("b", "1");
    cr_assert_eq(take(&e), last, "everything before the call, and nothing else");
    cr_assert_gt(e.file_count, 1);

    fx_put("a", "2");
    fx_delete("b");
    fx_put("c", "2");
    fill(0, 2000, "new");
    cr_assert(varve_ok(varve_compact(fx_db)));
    copy_export(&e, vv_tempdir_path("copy"));
    varve_db *copy = open_at(vv_tempdir_path("copy"));
    varve_stats s;
    varve_stats_get(copy, &s);
    cr_assert_eq(s.last_lsn, last);
    expect_in(copy, "a", "1");
    expect_in(copy, "b", "1");
    expect_in(copy, "c", NULL);
    uint64_t lsn;
    cr_assert(varve_ok(varve_put(copy, "d", 1, "3", 1, NULL, &lsn)));
    cr_assert_eq(lsn, last + 1, "LSNs go on");
    cr_assert(varve_ok(varve_close(copy)));
    copy = open_at(vv_tempdir_path("copy"));
    expect_in(copy, "d", "3");
    cr_assert(varve_ok(varve_close(copy)));

    varve_export_release(fx_db, &e);
    cr_assert_eq(e.file_count, 0);
    varve_export_release(fx_db, &e); /* a zeroed one is fine */
    fx_close();
}

Test(db_export, files_stay_until_it_is_released) {
    varve_export e;
    char(*names)[64];
    fx_open_with(small());
    fill(0, 1000, "old");
    take(&e);
    size_t count = e.file_count;
    names = malloc(count * sizeof *names);
    for (size_t i = 0; i < count; i++)
        snprintf(names[i], sizeof names[i], "%s", e.files[i].name);
    fill(0, 1000, "new");
    cr_assert(varve_ok(varve_compact(fx_db)));
    for (size_t i = 0; i < count; i++)
        cr_assert(file_exists(names[i]), "%s is held", names[i]);
    varve_export_release(fx_db, &e);
    for (size_t i = 0; i < count; i++)
        cr_assert_not(file_exists(names[i]), "%s was merged, and nobody holds it", names[i]);
    free(names);
    fx_close();
}

Test(db_export, an_empty_database_has_no_files) {
    varve_export e;
    fx_open_with(small());
    cr_assert_eq(take(&e), 0);
    cr_assert_eq(e.file_count, 0);
    copy_export(&e, vv_tempdir_path("copy"));
    varve_export_release(fx_db, &e);
    varve_db *copy = open_at(vv_tempdir_path("copy"));
    uint64_t lsn;
    cr_assert(varve_ok(varve_put(copy, "a", 1, "1", 1, NULL, &lsn)));
    cr_assert_eq(lsn, 1);
    cr_assert(varve_ok(varve_close(copy)));
    fx_close();
}

/* ---- beside writers ---- */

Test(db_export, beside_a_writer_it_has_all_that_was_acknowledged_before) {
    pthread_t writer;
    fx_open_with(small());
    cr_assert(vv_ok(vv_thread_start(&writer, "writer", write_in_order, NULL)));
    for (int round = 0; round < 6; round++) {
        varve_export e;
        char name[16];
        uint64_t before = atomic_load(&acknowledged);
        uint64_t lsn = take(&e);
        snprintf(name, sizeof name, "copy%d", round);
        copy_export(&e, vv_tempdir_path(name));
        varve_export_release(fx_db, &e);
        varve_db *copy = open_at(vv_tempdir_path(name));
        uint64_t found = count_without_gaps(copy);
        cr_assert_geq(found, before);
        cr_assert_eq(found, lsn, "an LSN a key: the state of the LSN that it says");
        cr_assert(varve_ok(varve_close(copy)));
        while (atomic_load(&acknowledged) < found + 500)
            sched_yield(); /* writers go on */
    }
    atomic_store(&stop_writing, true);
    vv_thread_join(writer);
    fx_close();
}

/* ---- failures ---- */

static _Atomic bool tables_fail;

static vv_status fail_tables(void *arg, const char *op, const char *name) {
    (void)arg;
    bool is_table = strcmp(op, "sync") == 0 && strstr(name, ".sst");
    return is_table && atomic_load(&tables_fail) ? vv_status_errno(EIO) : VV_STATUS_OK;
}

Test(db_export, a_flush_that_fails_is_reported) {
    varve_options *o = small();
    vv_error err;
    varve_export e;
    cr_assert(
        vv_ok(vv_db_open_on(vv_fault_io_create(fail_tables, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    fx_put("a", "1");
    atomic_store(&tables_fail, true);
    cr_assert_eq(varve_take_snapshot(fx_db, &e, &fx_err).code, VARVE_IO);
    cr_assert_not_null(strstr(fx_err.text, "snapshot: flush"), "%s", fx_err.text);
    cr_assert_null(e.files);
    varve_export_release(fx_db, &e);
    atomic_store(&tables_fail, false);
    while (!varve_ok(varve_take_snapshot(fx_db, &e, NULL)))
        sched_yield(); /* until the flusher has tried again */
    cr_assert_eq(e.lsn, 1);
    varve_export_release(fx_db, &e);
    fx_close();
}

Test(db_export, each_failed_allocation_is_reported) {
    fx_open_with(small());
    fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    uint64_t failures = 0;
    for (uint64_t n = 1;; n++) {
        varve_export e;
        vv_alloc_fail_at(n);
        varve_status st = varve_take_snapshot(fx_db, &e, &fx_err);
        vv_alloc_fail_at(0);
        varve_export_release(fx_db, &e);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY);
        failures++;
    }
    cr_assert_geq(failures, 4);
    fx_close();
}

/* ---- reading through the engine ---- */

Test(db_export, a_reader_gives_any_piece_of_a_file) {
    varve_export e;
    varve_export_reader *r;
    size_t bytes, got;
    fx_open_with(fx_options(NULL));
    fill(0, 10000, "old"); /* one table of more than a MiB */
    take(&e);
    const varve_export_file *f = &e.files[0];
    uint8_t *expected = read_file(vv_tempdir_path("db"), f->name, &bytes);
    uint8_t *buffer = aligned_alloc(4096, vv_align_up(bytes, 4096) + 8192);
    cr_assert_gt(bytes, 1200000);
    cr_assert(varve_ok(varve_export_open(fx_db, &e, f->name, &r, &fx_err)), "%s", fx_err.text);

    uint64_t seed = vv_test_seed();
    for (int i = 0; i < 200; i++) {
        bool aligned = i % 2;
        uint64_t offset = vv_test_random(&seed) % (bytes + 5000);
        size_t wanted = vv_test_random(&seed) % (i % 10 == 0 ? bytes + 5000 : 9000);
        size_t shift = aligned ? 0 : vv_test_random(&seed) % 4096;
        if (aligned) {
            offset = offset / 4096 * 4096;
            wanted = VV_MIN(vv_align_up(wanted, 4096), vv_align_up(bytes, 4096));
        }
        wanted = VV_MIN(wanted, vv_align_up(bytes, 4096));
        memset(buffer, 0xa5, vv_align_up(bytes, 4096) + 8192);
        cr_assert(varve_ok(varve_export_read(r, offset, buffer + shift, wanted, &got, &fx_err)), "%s",
                  fx_err.text);
        size_t there = offset >= bytes ? 0 : VV_MIN(wanted, bytes - offset);
        cr_assert_eq(got, there);
        cr_assert(there == 0 || memcmp(buffer + shift, expected + offset, there) == 0);
        cr_assert_eq(buffer[shift + wanted], 0xa5, "nothing behind the buffer is touched");
    }
    varve_export_close(r);
    varve_export_close(NULL);
    cr_assert_eq(varve_export_open(fx_db, &e, "0000000000000fff.sst", &r, &fx_err).code, VARVE_NOT_FOUND);
    cr_assert_null(r);
    cr_assert_eq(varve_export_open(fx_db, &e, "MANIFEST", &r, NULL).code, VARVE_NOT_FOUND);
    varve_export_release(fx_db, &e);
    free(buffer);
    free(expected);
    fx_close();
}

Test(db_export, a_reader_says_what_is_wrong_with_a_file) {
    varve_export e;
    varve_export_reader *r;
    uint8_t buffer[512];
    size_t got;
    char path[700];
    fx_open_with(fx_options(NULL));
    fill(0, 1000, "old");
    take(&e);
    cr_assert(varve_ok(varve_export_open(fx_db, &e, e.files[0].name, &r, &fx_err)));
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_export_reader *other = NULL;
        varve_status st = varve_export_open(fx_db, &e, e.files[0].name, &other, NULL);
        if (varve_ok(st))
            st = varve_export_read(other, 1, buffer, sizeof buffer, &got, NULL);
        vv_alloc_fail_at(0);
        varve_export_close(other);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY);
    }
    snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), e.files[0].name);
    cr_assert_eq(truncate(path, 8192), 0);
    varve_status st = varve_export_read(r, 8000, buffer, sizeof buffer, &got, &fx_err);
    cr_assert_eq(st.code, VARVE_CORRUPTION);
    cr_assert_eq(got, 0);
    cr_assert_not_null(strstr(fx_err.text, e.files[0].name), "%s", fx_err.text);
    varve_export_close(r);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(varve_export_open(fx_db, &e, e.files[0].name, &r, &fx_err).code, VARVE_CORRUPTION);
    varve_export_release(fx_db, &e);
    fx_close();
}
