/*
 * Imports: that what comes out opens as what went in, that an import goes on where one before it ended, and
 * that only an import's own directory is touched.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static char to[512];

static void setup(void) {
    vv_tempdir();
    snprintf(to, sizeof to, "%s", vv_tempdir_path("to"));
}

TestSuite(db_import, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static varve_options *small(void) {
    return fx_options("MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB", "COMPACTION_THRESHOLD", "4", NULL);
}

static void fill(int from, int up_to, const char *value) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[32], text[200];
    for (int i = from; i < up_to; i++) {
        snprintf(key, sizeof key, "key%06d", i);
        snprintf(text, sizeof text, "%s-%0150d", value, i);
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), text, strlen(text), &async, NULL)));
    }
}

static void expect_fill(int from, int up_to, const char *value) {
    char key[32], text[200];
    for (int i = from; i < up_to; i++) {
        snprintf(key, sizeof key, "key%06d", i);
        snprintf(text, sizeof text, "%s-%0150d", value, i);
        fx_expect(key, text);
    }
}

/* A source with several tables, and an export of it. */
static varve_export exported;

static void take(void) {
    cr_assert(varve_ok(varve_take_snapshot(fx_db, &exported, &fx_err)), "%s", fx_err.text);
}

static void open_source(void) {
    fx_open_with(small());
    fill(0, 2000, "old");
    cr_assert(varve_ok(varve_compact(fx_db)));
    take();
    cr_assert_gt(exported.file_count, 3);
}

static void close_source(void) {
    varve_export_release(fx_db, &exported);
    fx_close();
}

static varve_import *begin(void) {
    varve_import *m;
    cr_assert(varve_ok(varve_import_begin(to, NULL, exported.files, exported.file_count, &m, &fx_err)), "%s",
              fx_err.text);
    return m;
}

/* The bytes of file i from `offset` to `end`, in pieces of odd sizes. */
static varve_status write_range(varve_import_file *f, size_t i, uint64_t offset, uint64_t end,
                                varve_error *err) {
    static const size_t sizes[] = {1, 4096, 70000, 13, 1 << 20};
    varve_export_reader *r;
    varve_status st = varve_export_open(fx_db, &exported, exported.files[i].name, &r, err);
    uint8_t *buffer = malloc(1 << 20);
    for (unsigned n = 0; varve_ok(st) && offset < end; n++) {
        size_t got, wanted = VV_MIN(sizes[n % VV_ARRAY_COUNT(sizes)], (size_t)(end - offset));
        st = varve_export_read(r, offset, buffer, wanted, &got, err);
        if (varve_ok(st))
            st = varve_import_write(f, buffer, got, err);
        offset += got;
    }
    free(buffer);
    varve_export_close(r);
    return st;
}

/* Bring file i; *came_out: how many bytes came for it. */
static varve_status bring(varve_import *m, size_t i, uint64_t *came_out, varve_error *err) {
    varve_import_file *f;
    uint64_t offset;
    *came_out = 0;
    varve_status st = varve_import_open(m, i, &f, &offset, err);
    if (!varve_ok(st) || !f) {
        cr_assert(!varve_ok(st) || offset == exported.files[i].size);
        return st;
    }
    *came_out = exported.files[i].size - offset;
    st = write_range(f, i, offset, exported.files[i].size, err);
    if (varve_ok(st))
        return varve_import_close(f, err);
    varve_import_abandon(f);
    return st;
}

static uint64_t bring_all(varve_import *m) {
    uint64_t came, sum = 0;
    for (size_t i = 0; i < exported.file_count; i++) {
        cr_assert(varve_ok(bring(m, i, &came, &fx_err)), "%s", fx_err.text);
        sum += came;
    }
    return sum;
}

static void finish(varve_import *m) {
    cr_assert(varve_ok(varve_import_finish(m, exported.manifest, exported.manifest_bytes, &fx_err)), "%s",
              fx_err.text);
}

static void expect_imported(uint64_t lsn, const char *value) {
    varve_db *before = fx_db;
    varve_options *o = small();
    cr_assert(varve_ok(varve_open(to, o, &fx_db, &fx_err)), "%s", fx_err.text);
    varve_options_destroy(o);
    cr_assert_eq(fx_stats().last_lsn, lsn);
    expect_fill(0, 2000, value);
    varve_verify_result result;
    cr_assert(varve_ok(varve_verify(fx_db, NULL, &result, NULL)));
    cr_assert_eq(result.damage_count, 0);
    cr_assert_eq(fx_put("next", "1"), lsn + 1);
    fx_close();
    fx_db = before;
}

static bool there(const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", to, name);
    return access(path, F_OK) == 0;
}

static void flip(const char *name, off_t offset) {
    char path[700];
    uint8_t byte;
    snprintf(path, sizeof path, "%s/%s", to, name);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, offset), 1, "%s", path);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, offset), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

static const char *part_of(size_t i) {
    static char name[64];
    snprintf(name, sizeof name, "%s.part", exported.files[i].name);
    return name;
}

static void remove_to(void) {
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", to);
    cr_assert_eq(system(command), 0);
}

Test(db_import, makes_a_database_of_what_an_export_has) {
    uint64_t all = 0;
    open_source();
    uint64_t lsn = exported.lsn;
    for (size_t i = 0; i < exported.file_count; i++)
        all += exported.files[i].size;
    varve_import *m = begin();
    cr_assert_eq(bring_all(m), all);
    cr_assert(!there("MANIFEST"));
    finish(m);
    cr_assert(there("IMPORT"));
    cr_assert_str_eq(fx_err.text, "");
    expect_imported(lsn, "old");
    cr_assert(!there("IMPORT"), "it is a database, and no import may empty it");
    cr_assert_eq(varve_import_begin(to, NULL, NULL, 0, &m, &fx_err).code, VARVE_EXISTS);
    cr_assert_null(m);
    expect_imported(lsn + 1, "old");
    close_source();
}

Test(db_import, of_an_empty_database_has_no_files) {
    fx_open_with(small());
    take();
    cr_assert_eq(exported.file_count, 0);
    varve_import *m = begin();
    finish(m);
    close_source();
    varve_options *o = small();
    cr_assert(varve_ok(varve_open(to, o, &fx_db, &fx_err)), "%s", fx_err.text);
    varve_options_destroy(o);
    fx_close();
}

/* ---- going on ---- */

Test(db_import, goes_on_with_what_is_there) {
    varve_import_file *f;
    uint64_t offset;
    open_source();
    varve_import *m = begin();
    cr_assert(varve_ok(varve_import_open(m, 0, &f, &offset, &fx_err)), "%s", fx_err.text);
    cr_assert_eq(offset, 0);
    cr_assert_eq(varve_import_open(m, 0, &(varve_import_file *){NULL}, &offset, &fx_err).code, VARVE_BUSY);
    cr_assert(varve_ok(write_range(f, 0, 0, 30000, &fx_err)));
    varve_import_abandon(f);
    varve_import_abandon(NULL);
    cr_assert(there(part_of(0)));

    /* The same import. */
    cr_assert(varve_ok(varve_import_open(m, 0, &f, &offset, &fx_err)));
    cr_assert_eq(offset, 30000 / 4096 * 4096, "whole blocks: %" PRIu64, offset);
    cr_assert(varve_ok(write_range(f, 0, offset, 40000, &fx_err)));
    varve_import_abandon(f);
    uint64_t came;
    cr_assert(varve_ok(bring(m, 1, &came, &fx_err)));
    cr_assert(there(exported.files[1].name));
    varve_import_end(m);
    varve_import_end(NULL);

    /* And another one. */
    m = begin();
    cr_assert(varve_ok(varve_import_open(m, 0, &f, &offset, &fx_err)));
    cr_assert_eq(offset, 40000 / 4096 * 4096);
    cr_assert(varve_ok(write_range(f, 0, offset, exported.files[0].size, &fx_err)));
    cr_assert(varve_ok(varve_import_close(f, &fx_err)), "%s", fx_err.text);
    cr_assert(!there(part_of(0)));
    cr_assert(varve_ok(bring(m, 1, &came, &fx_err)));
    cr_assert_eq(came, 0, "it was done");
    bring_all(m);
    finish(m);
    expect_imported(exported.lsn, "old");
    close_source();
}

Test(db_import, takes_from_an_older_export_what_is_the_same) {
    open_source();
    varve_import *m = begin();
    uint64_t all = bring_all(m);
    varve_import_end(m);
    char gone[64];
    /* The tables in the middle are merged anew, others stay. */
    varve_export_release(fx_db, &exported);
    fill(900, 1000, "new");
    cr_assert(varve_ok(varve_flush(fx_db)));
    take();
    m = begin();
    uint64_t came = bring_all(m);
    cr_assert_gt(came, 0);
    cr_assert_lt(came, all / 2, "%" PRIu64 " of %" PRIu64, came, all);
    finish(m);
    close_source();
    snprintf(gone, sizeof gone, "%s", "ffffffffffffff00.sst");

    /* Also from one that was finished; what it had more is removed. */
    fx_open_with(small());
    take();
    char path[700];
    snprintf(path, sizeof path, "%s/%s", to, gone);
    fclose(fopen(path, "w"));
    m = begin();
    cr_assert(!there("MANIFEST"), "no database while it is filled");
    cr_assert(!there(gone));
    cr_assert_eq(bring_all(m), 0);
    finish(m);
    varve_db *before = fx_db;
    cr_assert(varve_ok(varve_open(to, NULL, &fx_db, &fx_err)), "%s", fx_err.text);
    expect_fill(0, 900, "old");
    expect_fill(900, 1000, "new");
    expect_fill(1000, 2000, "old");
    fx_close();
    fx_db = before;
    close_source();
}

/* Whatever it had written by then, and however little of it is there. */
Test(db_import, goes_on_after_a_process_that_was_killed) {
    uint64_t seed = vv_test_seed(), came;
    open_source();
    for (int round = 0; round < 6; round++) {
        int pipe_fds[2];
        char byte;
        cr_assert_eq(pipe(pipe_fds), 0);
        uint64_t end = vv_test_random(&seed) % exported.files[1].size;
        pid_t pid = fork();
        if (pid == 0) {
            varve_import *m;
            varve_import_file *f;
            uint64_t offset;
            if (!varve_ok(varve_import_begin(to, NULL, exported.files, exported.file_count, &m, &fx_err)) ||
                !varve_ok(bring(m, 0, &came, &fx_err)) ||
                !varve_ok(varve_import_open(m, 1, &f, &offset, &fx_err)) ||
                (offset < end && !varve_ok(write_range(f, 1, offset, end, &fx_err))))
                _exit(3);
            if (write(pipe_fds[1], "x", 1) != 1)
                _exit(4);
            pause();
        }
        cr_assert_eq(read(pipe_fds[0], &byte, 1), 1);
        cr_assert_eq(kill(pid, SIGKILL), 0);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        varve_import *m = begin();
        cr_assert(varve_ok(bring(m, 0, &came, &fx_err)));
        cr_assert_eq(came, 0, "it was closed");
        if (round % 2) {
            bring_all(m);
            finish(m);
            expect_imported(exported.lsn, "old");
            remove_to();
        } else {
            varve_import_end(m);
        }
    }
    close_source();
}

/* ---- damage ---- */

Test(db_import, a_file_with_other_bytes_is_not_taken) {
    varve_import_file *f;
    uint64_t offset, came;
    uint8_t wrong[100] = {1};
    open_source();
    varve_import *m = begin();
    cr_assert(varve_ok(varve_import_open(m, 0, &f, &offset, &fx_err)));
    cr_assert(varve_ok(varve_import_write(f, wrong, sizeof wrong, &fx_err)));
    cr_assert(varve_ok(write_range(f, 0, sizeof wrong, exported.files[0].size, &fx_err)));
    cr_assert_eq(varve_import_write(f, wrong, 1, &fx_err).code, VARVE_INVALID_ARGUMENT, "more than it has");
    varve_status st = varve_import_close(f, &fx_err);
    cr_assert_eq(st.code, VARVE_CORRUPTION);
    cr_assert_not_null(strstr(fx_err.text, exported.files[0].name), "%s", fx_err.text);
    cr_assert(!there(part_of(0)) && !there(exported.files[0].name));
    cr_assert(varve_ok(bring(m, 0, &came, &fx_err)));
    cr_assert_eq(came, exported.files[0].size);
    bring_all(m);
    finish(m);
    expect_imported(exported.lsn, "old");
    close_source();
}

Test(db_import, what_has_rotted_meanwhile_is_fetched_again) {
    varve_import_file *f;
    uint64_t offset, came;
    open_source();
    varve_import *m = begin();
    cr_assert(varve_ok(bring(m, 0, &came, &fx_err)));
    cr_assert(varve_ok(varve_import_open(m, 1, &f, &offset, &fx_err)));
    cr_assert(varve_ok(write_range(f, 1, 0, 30000, &fx_err)));
    varve_import_abandon(f);
    varve_import_end(m);
    flip(exported.files[0].name, 5000);
    flip(part_of(1), 5000);

    m = begin();
    cr_assert(varve_ok(bring(m, 0, &came, &fx_err)), "%s", fx_err.text);
    cr_assert_eq(came, exported.files[0].size);
    cr_assert_eq(bring(m, 1, &came, &fx_err).code, VARVE_CORRUPTION, "noticed in the end");
    cr_assert(varve_ok(bring(m, 1, &came, &fx_err)), "and then anew");
    cr_assert_eq(came, exported.files[1].size);
    bring_all(m);
    finish(m);
    expect_imported(exported.lsn, "old");
    close_source();
}

/* As a process that was killed between two steps may leave it. */
Test(db_import, a_file_that_lacks_only_its_name_is_checked_and_named) {
    uint64_t came;
    char from[700], part[700];
    open_source();
    for (int damaged = 0; damaged <= 1; damaged++) {
        varve_import *m = begin();
        bring_all(m);
        varve_import_end(m);
        snprintf(from, sizeof from, "%s/%s", to, exported.files[0].name);
        snprintf(part, sizeof part, "%s/%s", to, part_of(0));
        cr_assert_eq(rename(from, part), 0);
        if (damaged)
            flip(part_of(0), 5000);
        m = begin();
        cr_assert(varve_ok(bring(m, 0, &came, &fx_err)), "%s", fx_err.text);
        uint64_t tail = exported.files[0].size % 4096;
        if (!damaged)
            cr_assert_eq(came, tail);
        else
            cr_assert_eq(came, exported.files[0].size);
        finish((bring_all(m), m));
        expect_imported(exported.lsn, "old");
        remove_to();
        if (tail != 0)
            break; /* then the checksum decides at the end, as above */
    }
    close_source();
}

/* Tables of version 1 have no checksum of the whole file. */
Test(db_import, a_file_without_checksum_is_checked_block_by_block) {
    varve_import_file *f;
    uint64_t offset;
    open_source();
    varve_export_file files[64];
    cr_assert_lt(exported.file_count, VV_ARRAY_COUNT(files));
    memcpy(files, exported.files, exported.file_count * sizeof *files);
    files[0].checksum = 0;
    for (int damaged = 0; damaged <= 1; damaged++) {
        varve_import *m;
        cr_assert(varve_ok(varve_import_begin(to, NULL, files, exported.file_count, &m, &fx_err)));
        cr_assert(varve_ok(varve_import_open(m, 0, &f, &offset, &fx_err)));
        cr_assert_eq(offset, 0, "nothing tells whether what is there is the same");
        if (damaged)
            cr_assert(varve_ok(varve_import_write(f, "x", 1, &fx_err)));
        cr_assert(varve_ok(write_range(f, 0, damaged, files[0].size, &fx_err)));
        varve_status st = varve_import_close(f, &fx_err);
        cr_assert_eq(st.code, damaged ? VARVE_CORRUPTION : VARVE_OK, "%s", fx_err.text);
        varve_import_end(m);
    }
    close_source();
}

Test(db_import, is_finished_only_with_all_files_and_their_manifest) {
    uint64_t came;
    open_source();
    varve_import *m = begin();
    for (size_t i = 1; i < exported.file_count; i++)
        cr_assert(varve_ok(bring(m, i, &came, &fx_err)));
    varve_status st = varve_import_finish(m, exported.manifest, exported.manifest_bytes, &fx_err);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(fx_err.text, exported.files[0].name), "%s", fx_err.text);
    varve_import_file *f;
    uint64_t offset;
    cr_assert(varve_ok(varve_import_open(m, 0, &f, &offset, &fx_err)));
    cr_assert(varve_ok(write_range(f, 0, 0, 10000, &fx_err)));
    cr_assert_eq(varve_import_close(f, &fx_err).code, VARVE_INVALID_ARGUMENT, "some is missing");
    cr_assert(varve_ok(bring(m, 0, &came, &fx_err)));
    cr_assert_eq(came, exported.files[0].size - 8192, "and what was there was kept");

    uint8_t *bytes = malloc(exported.manifest_bytes);
    memcpy(bytes, exported.manifest, exported.manifest_bytes);
    bytes[100] ^= 1;
    cr_assert_eq(varve_import_finish(m, bytes, exported.manifest_bytes, &fx_err).code, VARVE_CORRUPTION);
    free(bytes);
    cr_assert_eq(varve_import_finish(m, "", 0, &fx_err).code, VARVE_CORRUPTION);
    cr_assert(!there("MANIFEST"));
    cr_assert_neq(varve_open(to, NULL, &(varve_db *){NULL}, &fx_err).code, VARVE_OK);

    /* One of another state. */
    varve_export old = exported;
    fill(0, 2000, "new");
    cr_assert(varve_ok(varve_compact(fx_db)));
    take();
    varve_status other = varve_import_finish(m, exported.manifest, exported.manifest_bytes, &fx_err);
    cr_assert_eq(other.code, VARVE_CORRUPTION);
    cr_assert(!there("MANIFEST"));
    varve_export_release(fx_db, &exported);
    exported = old;
    finish(m);
    expect_imported(exported.lsn, "old");
    close_source();
}

/* ---- whose directory it is ---- */

Test(db_import, touches_nothing_but_imports) {
    char path[700];
    varve_import *m;
    open_source();
    varve_backup_info info;
    cr_assert(varve_ok(varve_backup(fx_db, to, NULL, &info, &fx_err)));
    cr_assert_eq(varve_import_begin(to, NULL, NULL, 0, &m, &fx_err).code, VARVE_EXISTS);
    cr_assert_not_null(strstr(fx_err.text, "is no import"), "%s", fx_err.text);
    cr_assert(there("MANIFEST") && there(exported.files[0].name), "a backup");
    remove_to();
    varve_status st = varve_import_begin(vv_tempdir_path("db"), NULL, NULL, 0, &m, &fx_err);
    cr_assert_eq(st.code, VARVE_EXISTS, "an open database");

    cr_assert_eq(mkdir(to, 0750), 0);
    snprintf(path, sizeof path, "%s/precious", to);
    fclose(fopen(path, "w"));
    cr_assert_eq(varve_import_begin(to, NULL, NULL, 0, &m, &fx_err).code, VARVE_EXISTS);
    cr_assert(there("precious") && !there("LOCK"));
    /* Nor does a file of ours make it one. */
    snprintf(path, sizeof path, "%s/IMPORT", to);
    fclose(fopen(path, "w"));
    cr_assert_eq(varve_import_begin(to, NULL, NULL, 0, &m, &fx_err).code, VARVE_EXISTS);
    cr_assert(there("precious"));
    remove_to();
    fclose(fopen(to, "w"));
    cr_assert_eq(varve_import_begin(to, NULL, NULL, 0, &m, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(unlink(to), 0);
    cr_assert_eq(varve_import_begin(vv_tempdir_path("no/to"), NULL, NULL, 0, &m, NULL).code, VARVE_NOT_FOUND);

    m = begin();
    varve_import *second;
    st = varve_import_begin(to, NULL, exported.files, exported.file_count, &second, &fx_err);
    cr_assert_eq(st.code, VARVE_LOCKED);
    cr_assert_null(second);
    cr_assert_eq(varve_open(to, NULL, &(varve_db *){NULL}, &fx_err).code, VARVE_LOCKED);
    varve_import_end(m);
    st = varve_open(to, NULL, &(varve_db *){NULL}, &fx_err);
    cr_assert_eq(st.code, VARVE_CORRUPTION, "not a database before it is finished");
    cr_assert_not_null(strstr(fx_err.text, "import"), "%s", fx_err.text);
    close_source();
}

Test(db_import, takes_no_names_but_those_of_tables) {
    static const char *const bad[] = {"../0000000000000001.sst",
                                      "MANIFEST",
                                      "",
                                      "000000000000001.sst",
                                      "0000000000000001.sst/",
                                      "/tmp/0000000000000001.sst",
                                      "000000000000000A.sst",
                                      "0000000000000001.sst.part"};
    varve_import *m;
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        varve_export_file file = {.name = bad[i], .size = 5000};
        cr_assert_eq(varve_import_begin(to, NULL, &file, 1, &m, &fx_err).code, VARVE_INVALID_ARGUMENT, "%s",
                     bad[i]);
        cr_assert_eq(access(to, F_OK), -1);
    }
    varve_export_file twice[] = {{.name = "0000000000000001.sst", .size = 5000},
                                 {.name = "0000000000000002.sst", .size = 5000},
                                 {.name = "0000000000000001.sst", .size = 5000}};
    cr_assert_eq(varve_import_begin(to, NULL, twice, 3, &m, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert(varve_ok(varve_import_begin(to, NULL, twice, 2, &m, &fx_err)));
    varve_import_file *f;
    uint64_t offset;
    cr_assert_eq(varve_import_open(m, 2, &f, &offset, &fx_err).code, VARVE_INVALID_ARGUMENT);
    varve_import_end(m);
}

/* ---- several at once ---- */

static _Atomic size_t next_file;

static void bring_some(void *arg) {
    uint64_t came;
    varve_error err;
    for (size_t i; (i = atomic_fetch_add(&next_file, 1)) < exported.file_count;)
        cr_assert(varve_ok(bring(arg, i, &came, &err)), "%s", err.text);
}

Test(db_import, takes_files_from_several_threads) {
    pthread_t threads[3];
    open_source();
    varve_import *m = begin();
    for (size_t i = 0; i < VV_ARRAY_COUNT(threads); i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "bring", bring_some, m)));
    for (size_t i = 0; i < VV_ARRAY_COUNT(threads); i++)
        vv_thread_join(threads[i]);
    cr_assert_eq(bring_all(m), 0);
    finish(m);
    expect_imported(exported.lsn, "old");
    close_source();
}

/* ---- what fails on the way ---- */

static _Atomic int step_count, fail_at;
static char steps[1 << 16];

static vv_status on_step(void *arg, const char *op, const char *name) {
    (void)arg;
    size_t used = strlen(steps);
    if (strcmp(op, "read") != 0 && strcmp(op, "write") != 0)
        snprintf(steps + used, sizeof steps - used, "%s %s, ", op,
                 strstr(name, ".part")  ? "part"
                 : strstr(name, ".sst") ? "table"
                                        : name);
    return atomic_fetch_add(&step_count, 1) + 1 == atomic_load(&fail_at) ? vv_status_errno(EIO)
                                                                         : VV_STATUS_OK;
}

/* The whole way, until something fails. */
static varve_status import_once(uint64_t *came_out) {
    varve_import *m;
    vv_status begun = vv_db_import_begin_on(vv_fault_io_create(on_step, NULL), to, NULL, exported.files,
                                            exported.file_count, &m, (vv_error *)&fx_err);
    *came_out = 0;
    if (!vv_ok(begun))
        return vv_public(begun);
    varve_status st = vv_public(VV_STATUS_OK);
    for (size_t i = 0; i < exported.file_count && varve_ok(st); i++) {
        uint64_t came;
        st = bring(m, i, &came, &fx_err);
        *came_out += came;
    }
    if (varve_ok(st))
        st = varve_import_finish(m, exported.manifest, exported.manifest_bytes, &fx_err);
    if (!varve_ok(st))
        varve_import_end(m);
    return st;
}

Test(db_import, whatever_fails_the_next_one_goes_on) {
    uint64_t came;
    int failures = 0;
    open_source();
    for (int n = 1;; n++) {
        atomic_store(&step_count, 0);
        atomic_store(&fail_at, n);
        varve_status st = import_once(&came);
        bool reached = atomic_load(&step_count) >= n;
        atomic_store(&fail_at, 0);
        if (!varve_ok(st)) {
            failures++;
            cr_assert_eq(st.code, VARVE_IO, "step %d: %s", n, fx_err.text);
        }
        varve_import *m = begin();
        bring_all(m);
        finish(m);
        expect_imported(exported.lsn, "old");
        remove_to();
        steps[0] = '\0';
        if (!reached)
            break;
    }
    cr_assert_gt(failures, 30);
    close_source();
}

/* A failure that is tried again in the same place, once more each time: in the end all is there. */
Test(db_import, goes_on_from_failure_to_failure) {
    uint64_t came;
    open_source();
    int tries = 1;
    atomic_store(&fail_at, 10);
    for (;; tries++) {
        atomic_store(&step_count, 0);
        if (varve_ok(import_once(&came)))
            break;
        cr_assert_lt(tries, 100);
        atomic_store(&fail_at, 10 + tries);
    }
    atomic_store(&fail_at, 0);
    cr_assert_gt(tries, 3);
    expect_imported(exported.lsn, "old");
    close_source();
}

Test(db_import, is_synced_from_the_inside_out) {
    uint64_t came;
    open_source();
    steps[0] = '\0';
    cr_assert(varve_ok(import_once(&came)), "%s", fx_err.text);
    static const char *const order[] = {"mkdir to, ",        "open IMPORT, ", "sync IMPORT, ",
                                        "dirsync to, ",      "open part, ",   "sync part, ",
                                        "rename table, ",    "dirsync to, ",  "sync MANIFEST.tmp, ",
                                        "rename MANIFEST, ", "dirsync to, ",  "dirsync varve-test"};
    const char *at = steps;
    for (size_t i = 0; i < VV_ARRAY_COUNT(order); i++) {
        at = strstr(at, order[i]);
        cr_assert_not_null(at, "%s is missing, or too early, in %s", order[i], steps);
        at += strlen(order[i]);
    }
    /* No name before the sync of its file. */
    for (at = steps; (at = strstr(at, "rename table, ")) != NULL; at++)
        cr_assert(at - steps > 11 && memcmp(at - 11, "sync part, ", 11) == 0, "%s", steps);
    close_source();
}

Test(db_import, fails_whatever_allocation_does_and_goes_on) {
    int failures = 0;
    open_source();
    for (uint64_t n = 1;; n++) {
        varve_import *m = NULL;
        uint64_t came;
        vv_alloc_fail_at(n);
        varve_status st = varve_import_begin(to, NULL, exported.files, exported.file_count, &m, NULL);
        for (size_t i = 0; i < exported.file_count && varve_ok(st); i++)
            st = bring(m, i, &came, NULL);
        if (varve_ok(st))
            st = varve_import_finish(m, exported.manifest, exported.manifest_bytes, NULL);
        vv_alloc_fail_at(0);
        if (varve_ok(st))
            break;
        varve_import_end(m);
        cr_assert_eq(st.code, VARVE_NO_MEMORY, "allocation %" PRIu64 ": %s", n, varve_code_name(st.code));
        if (n % 2)
            remove_to();
        failures++;
    }
    cr_assert_gt(failures, 20);
    expect_imported(exported.lsn, "old");
    close_source();
}
