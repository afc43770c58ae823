/*
 * archive_fixture.h - a database with an archive beside it, for the tests of archives and restores.
 */
#ifndef VV_TESTS_ENGINE_ARCHIVE_FIXTURE_H
#define VV_TESTS_ENGINE_ARCHIVE_FIXTURE_H

#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "engine/db/archive_dir.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static varve_archive *ax_archive;
static varve_archive_options ax_options;
/* One of the fixture's own buffers each, which stay. */
static char ax_dir[512], ax_backup[512], ax_dest[512];

static inline void ax_setup(void) {
    vv_tempdir();
    snprintf(ax_dir, sizeof ax_dir, "%s", vv_tempdir_path("archive"));
    snprintf(ax_backup, sizeof ax_backup, "%s", vv_tempdir_path("backup"));
    snprintf(ax_dest, sizeof ax_dest, "%s", vv_tempdir_path("dest"));
}

static inline void ax_start(void) {
    varve_status st = varve_archive_start(fx_db, ax_dir, &ax_options, &ax_archive, &fx_err);
    cr_assert(varve_ok(st), "%s", fx_err.text);
}

static inline void ax_stop(void) {
    varve_archive_stop(ax_archive);
    ax_archive = NULL;
}

static inline varve_archive_info ax_info(void) {
    varve_archive_info info;
    varve_archive_get(ax_archive, &info);
    return info;
}

/* Until everything up to lsn is archived. */
static inline void ax_wait(uint64_t lsn) {
    uint64_t until_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (ax_info().last_lsn < lsn) {
        cr_assert(vv_clock_mono_ns() < until_ns, "archived only up to %" PRIu64 ": %s", ax_info().last_lsn,
                  varve_code_name(ax_info().status.code));
        sched_yield();
    }
}

static inline vv_io_backend *ax_io(void) {
    vv_io_backend *io;
    vv_error err;
    cr_assert(vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, &err)));
    return io;
}

/* The files of the archive as "first-last first-last ...", what does not count left out. */
static inline const char *ax_files(void) {
    static char text[4096];
    vv_io_backend *io = ax_io();
    vv_archive_dir dir;
    vv_archive_reader *r;
    vv_archive_frame f;
    vv_error err;
    text[0] = '\0';
    cr_assert(vv_ok(vv_archive_dir_read(io, ax_dir, &dir, &err)), "%s", err.text);
    for (size_t i = 0; i < dir.count; i++) {
        char path[VV_ARCHIVE_PATH_BYTES + 64];
        size_t used = strlen(text);
        uint64_t last = dir.files[i].first_lsn - 1, unix_ms = 0;
        vv_archive_dir_file(&dir, dir.files[i].number, path);
        cr_assert(vv_ok(vv_archive_reader_open(io, path, &r, &err)), "%s", err.text);
        while (vv_ok(vv_archive_reader_next(r, &f, &err))) {
            cr_assert(f.unix_ms >= unix_ms);
            unix_ms = f.unix_ms;
            last = VV_MIN(f.last_lsn, dir.files[i].limit_lsn - 1);
        }
        vv_archive_reader_close(r);
        snprintf(text + used, sizeof text - used, "%s%" PRIu64 "-%" PRIu64, i ? " " : "",
                 dir.files[i].first_lsn, last);
    }
    vv_archive_dir_deinit(&dir);
    vv_io_backend_destroy(io);
    return text;
}

static inline void ax_expect_files(const char *expected) {
    const char *found = ax_files();
    cr_assert(strcmp(found, expected) == 0, "the archive has '%s', not '%s'", found, expected);
}

static inline void ax_back_up(void) {
    varve_status st = varve_backup(fx_db, ax_backup, NULL, NULL, &fx_err);
    cr_assert(varve_ok(st), "%s", fx_err.text);
}

/* So many puts of a key each of its own. */
static inline uint64_t ax_puts(int count) {
    uint64_t lsn = 0;
    static int n;
    for (int i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof key, "k%06d", n++);
        lsn = fx_put(key, "value");
    }
    return lsn;
}

static inline char *ax_path(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", ax_dir, name);
    return path;
}

#endif
