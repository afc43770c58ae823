/*
 * install.c - one database in the place of another.
 *
 *   check `from` --> INSTALL(1) --> take the old one away --> INSTALL(2) --> move the new one in --> no
 * INSTALL
 *
 * The marker INSTALL (marker.h) names `from` and where the old files go. Until it is there nothing of the old
 * database was touched; from then on all that is left to do follows from the marker and from what is there:
 * each step may be done twice. So whoever opens the directory completes it, under the same lock, before he
 * looks at the manifest; and a crash at any place leaves the old database or, once it is opened, the new one.
 *
 * Why neither gets files of the other: the old files are gone, and that is synced, before the second marker
 * is written; only then new ones come. A log segment of the old database that came back would be replayed
 * into the new one.
 *
 * What is a database's in a directory is told by names, exactly as they are written (vv_db_owns()); all else
 * stays where it is. The lock file stays too, and its lock is held all the while.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"
#include "engine/db/marker.h"

#define LOCK_NAME "LOCK"

#define STEP_CLEAR 1 /* the old files go */
#define STEP_MOVE  2 /* the new ones come */

typedef struct install_job {
    vv_io_backend *io;
    const vv_logger *logger;
    vv_error *err;
    const char *source; /* what a listing goes through */
    const char *target;
    size_t found; /* what a listing has changed */
    vv_file *from_lock;
    char dir[VV_DB_PATH_BYTES];
    char from[VV_DB_PATH_BYTES];
    char aside[VV_DB_PATH_BYTES]; /* "": none */
    vv_marker marker;
} install_job;

bool vv_db_owns(const char *name) {
    uint64_t number;
    return vv_db_table_name_parse(name, &number) || vv_wal_name_parse(name, ".log", &number) ||
           vv_wal_name_parse(name, ".tmp", &number) || strcmp(name, VV_MANIFEST_NAME) == 0 ||
           strcmp(name, VV_MANIFEST_TEMP_NAME) == 0 || strcmp(name, VV_CUT_NAME) == 0 ||
           strcmp(name, VV_CUT_NAME VV_MARKER_TEMP_SUFFIX) == 0 || strcmp(name, VV_IMPORT_NAME) == 0;
}

static void path_in(const char *dir, const char *name, char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s", dir, name);
}

vv_status vv_db_name_in(const char *dir, const char *path, char name[VV_MARKER_NAME_BYTES_MAX + 1],
                        vv_error *err) {
    size_t prefix = strlen(dir);
    const char *bare = path;
    if (strncmp(path, dir, prefix) == 0 && path[prefix] == '/')
        bare = path + prefix + strspn(path + prefix, "/");
    size_t bytes = strlen(bare);
    while (bytes > 0 && bare[bytes - 1] == '/')
        bytes--;
    /* Room for a suffix, too. */
    if (bytes == 0 || bytes + 8 > VV_MARKER_NAME_BYTES_MAX || memchr(bare, '/', bytes) || bare[0] == '.')
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "'%.200s': no name of something in %.200s", path, dir);
    memcpy(name, bare, bytes);
    name[bytes] = '\0';
    if (vv_db_owns(name) || strcmp(name, LOCK_NAME) == 0 ||
        strncmp(name, VV_INSTALL_NAME, strlen(VV_INSTALL_NAME)) == 0)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "'%s': is the name of a file of ours", name);
    return VV_STATUS_OK;
}

static void set_paths(install_job *j) {
    path_in(j->dir, j->marker.names[0], j->from);
    if (j->marker.names[1][0])
        path_in(j->dir, j->marker.names[1], j->aside);
}

/* ---- the steps ---- */

static vv_status take_away(void *arg, const char *name, vv_entry_kind kind) {
    install_job *j = arg;
    char path[VV_DB_PATH_BYTES];
    if (kind == VV_ENTRY_DIRECTORY || !vv_db_owns(name))
        return VV_STATUS_OK;
    j->found++;
    path_in(j->source, name, path);
    return vv_path_unlink(j->io, path, j->err);
}

/* All that is a database's in `source`: until nothing is found, since a listing that others change may miss
 * something. */
static vv_status take_all_away(install_job *j, const char *source) {
    j->source = source;
    do {
        j->found = 0;
        VV_TRY(vv_dir_list(j->io, source, take_away, j, j->err));
    } while (j->found > 0);
    return VV_STATUS_OK;
}

static vv_status give_name(void *arg, const char *name, vv_entry_kind kind) {
    install_job *j = arg;
    char from[VV_DB_PATH_BYTES], to[VV_DB_PATH_BYTES];
    if (kind == VV_ENTRY_DIRECTORY || !vv_db_owns(name))
        return VV_STATUS_OK;
    path_in(j->source, name, from);
    path_in(j->target, name, to);
    vv_status st = vv_path_link(j->io, from, to, NULL);
    if (vv_ok(st) || vv_is(st, VV_EXISTS)) /* there: by a try that was cut short */
        return VV_STATUS_OK;
    if (!vv_is(st, VV_UNSUPPORTED))
        return vv_fail(j->err, st, "%s: link to %s", from, to);
    j->found++;
    return vv_path_rename(j->io, from, to, j->err);
}

/*
 * All that is a database's in `source` gets its place in `target`. A rename from one directory to another is
 * a change of each, and on power loss the one may survive without the other: the file would be nowhere. So
 * each file gets a second name, these are synced, and only then the first ones go. (Where a file system has
 * no second names there are renames after all: those that we know journal them whole.)
 */
static vv_status move_all(install_job *j, const char *source, const char *target) {
    j->source = source;
    j->target = target;
    do { /* as above, where renames change the listing */
        j->found = 0;
        VV_TRY(vv_dir_list(j->io, source, give_name, j, j->err));
    } while (j->found > 0);
    VV_TRY(vv_dir_sync(j->io, target, j->err));
    return take_all_away(j, source);
}

static vv_status clear(install_job *j) {
    if (j->aside[0]) {
        vv_status st = vv_dir_create(j->io, j->aside, j->err);
        if (!vv_ok(st) && !vv_is(st, VV_EXISTS))
            return st;
        VV_TRY(vv_dir_sync(j->io, j->dir, j->err)); /* its name, before anything is in it */
        VV_TRY(move_all(j, j->dir, j->aside));
    } else {
        VV_TRY(take_all_away(j, j->dir));
    }
    VV_TRY(vv_dir_sync(j->io, j->dir, j->err));
    j->marker.step = STEP_MOVE;
    return vv_marker_write(j->io, j->dir, VV_INSTALL_NAME, &j->marker, j->err);
}

static vv_status unlink_if_there(install_job *j, const char *dir, const char *name) {
    char path[VV_DB_PATH_BYTES];
    bool exists;
    path_in(dir, name, path);
    VV_TRY(vv_path_exists(j->io, path, &exists, j->err));
    return exists ? vv_path_unlink(j->io, path, j->err) : VV_STATUS_OK;
}

/* `from` is empty but for its lock, and goes. */
static void remove_from(install_job *j) {
    vv_status st = unlink_if_there(j, j->from, LOCK_NAME);
    if (vv_ok(st))
        st = vv_dir_remove(j->io, j->from, j->err);
    if (!vv_ok(st)) /* somebody has put a file there meanwhile: no reason to be without a database */
        vv_log(j->logger, VV_LOG_WARN, "%s: was installed, but can't be removed: %s", j->from,
               j->err ? j->err->text : "");
}

static vv_status move(install_job *j, bool from_exists) {
    if (from_exists) {
        VV_TRY(unlink_if_there(j, j->from, VV_IMPORT_NAME)); /* it is none any more */
        VV_TRY(move_all(j, j->from, j->dir));
        remove_from(j);
    }
    return vv_marker_remove(j->io, j->dir, VV_INSTALL_NAME, j->err);
}

/* The new database, or what is left of it, must be somewhere. */
static vv_status check_manifest_there(install_job *j, bool from_exists) {
    char path[VV_DB_PATH_BYTES];
    bool there = false;
    if (from_exists) {
        path_in(j->from, VV_MANIFEST_NAME, path);
        VV_TRY(vv_path_exists(j->io, path, &there, j->err));
    }
    if (!there && j->marker.step == STEP_MOVE) {
        path_in(j->dir, VV_MANIFEST_NAME, path);
        VV_TRY(vv_path_exists(j->io, path, &there, j->err));
    }
    return there ? VV_STATUS_OK
                 : vv_fail(j->err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                           "%s: was to be installed, and is not there", j->from);
}

/* From the marker on. */
static vv_status complete(install_job *j) {
    char path[VV_DB_PATH_BYTES];
    bool exists;
    VV_TRY(vv_path_exists(j->io, j->from, &exists, j->err));
    if (exists && !j->from_lock) {
        path_in(j->from, LOCK_NAME, path);
        VV_TRY(vv_lock_acquire(j->io, path, &j->from_lock, j->err));
    }
    VV_TRY(check_manifest_there(j, exists));
    if (j->marker.step == STEP_CLEAR)
        VV_TRY(clear(j));
    VV_TRY(move(j, exists));
    if (j->err)
        j->err->text[0] = '\0';
    vv_log(j->logger, VV_LOG_INFO, "%s: installed from %s%s%s", j->dir, j->from,
           j->aside[0] ? ", what was there is in " : "", j->aside);
    return VV_STATUS_OK;
}

static vv_status complete_if_begun(install_job *j) {
    bool begun;
    VV_TRY(vv_marker_read(j->io, j->dir, VV_INSTALL_NAME, &j->marker, &begun, j->err));
    if (!begun)
        return VV_STATUS_OK;
    if ((j->marker.step != STEP_CLEAR && j->marker.step != STEP_MOVE) || !j->marker.names[0][0])
        return vv_fail(j->err, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                       "%s/" VV_INSTALL_NAME ": makes no sense", j->dir);
    set_paths(j);
    return complete(j);
}

vv_status vv_db_install_complete(vv_io_backend *io, const vv_logger *lg, const char *dir, vv_error *err) {
    install_job j = {.io = io, .logger = lg, .err = err};
    snprintf(j.dir, sizeof j.dir, "%s", dir);
    vv_status st = complete_if_begun(&j);
    vv_file_close(j.from_lock);
    return vv_ok(st) ? st : vv_wrap(err, st, "complete what " VV_INSTALL_NAME " began");
}

/* ---- before the marker ---- */

static vv_status refuse_foreign(void *arg, const char *name, vv_entry_kind kind) {
    install_job *j = arg;
    if (kind == VV_ENTRY_FILE && (vv_db_owns(name) || strcmp(name, LOCK_NAME) == 0))
        return VV_STATUS_OK;
    return vv_fail(j->err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                   "%s: is no database's directory: there is %s", j->from, name);
}

static vv_status check_table(install_job *j, const vv_table *t) {
    char path[VV_DB_PATH_BYTES];
    vv_file *file;
    uint64_t bytes;
    vv_table_cache_path(j->from, t->file_number, path, sizeof path);
    vv_status st = vv_file_open(j->io, path, VV_OPEN_READ, &file, j->err);
    if (vv_is(st, VV_NOT_FOUND))
        return vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0);
    if (!vv_ok(st))
        return st;
    st = vv_file_size(file, &bytes);
    vv_file_close(file);
    if (vv_ok(st) && bytes != t->summary.file_bytes)
        st = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    return vv_ok(st) ? st : vv_fail(j->err, st, "%s: %s", path, vv_code_text(st.code));
}

static void keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* none of these tables is ever obsolete */
}

static void unref_all(vv_table **tables_take, size_t count) {
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables_take[i]);
    vv_free(tables_take);
}

/* What this directory has promised holds whatever it contains. 0: nothing, or nobody can tell. */
static uint64_t promise_of_old(install_job *j) {
    vv_manifest old;
    vv_table **tables;
    size_t count;
    vv_error words = {""};
    vv_status st = vv_manifest_read(j->io, j->dir, &old, &tables, &count, keep_file, NULL, &words);
    if (!vv_ok(st)) {
        if (!vv_is(st, VV_NOT_FOUND))
            vv_log(j->logger, VV_LOG_WARN, "install: what the old database has promised is not known: %s",
                   words.text);
        return 0;
    }
    unref_all(tables, count);
    vv_manifest_deinit(&old);
    return old.promised_epoch;
}

static vv_status carry_promise(install_job *j, vv_manifest *m, vv_table *const *tables, size_t count) {
    uint64_t promised = promise_of_old(j);
    if (promised <= m->promised_epoch)
        return VV_STATUS_OK;
    m->promised_epoch = promised;
    m->generation++;
    vv_version *version = vv_version_create(tables, count);
    if (!version)
        return vv_fail(j->err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
    vv_status st = vv_manifest_write(j->io, j->from, m, version, NULL, j->err);
    vv_version_unref(version);
    return st;
}

/* Is there a whole database in `from`, and nothing else? */
static vv_status check_from(install_job *j) {
    char path[VV_DB_PATH_BYTES];
    vv_manifest m;
    vv_table **tables;
    size_t count;
    VV_TRY(vv_dir_list(j->io, j->from, refuse_foreign, j, j->err));
    path_in(j->from, LOCK_NAME, path);
    VV_TRY(vv_lock_acquire(j->io, path, &j->from_lock, j->err));
    VV_TRY(vv_manifest_read(j->io, j->from, &m, &tables, &count, keep_file, NULL, j->err));
    vv_status st = VV_STATUS_OK;
    for (size_t i = 0; i < count && vv_ok(st); i++)
        st = check_table(j, tables[i]);
    if (vv_ok(st))
        st = carry_promise(j, &m, tables, count);
    unref_all(tables, count);
    vv_manifest_deinit(&m);
    /* Whoever made it, its names last before the old ones go. */
    if (vv_ok(st))
        st = vv_dir_sync(j->io, j->from, j->err);
    return vv_ok(st) ? vv_dir_sync(j->io, j->dir, j->err) : st;
}

static vv_status check_aside(install_job *j) {
    bool exists;
    if (!j->aside[0])
        return VV_STATUS_OK;
    VV_TRY(vv_path_exists(j->io, j->aside, &exists, j->err));
    return exists ? vv_fail(j->err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "%s: is there", j->aside)
                  : VV_STATUS_OK;
}

/* The lock of j->dir is held, and nothing that was begun is left to do. */
static vv_status install_locked(install_job *j, const char *from, const char *aside) {
    VV_TRY(vv_db_name_in(j->dir, from, j->marker.names[0], j->err));
    if (aside)
        VV_TRY(vv_db_name_in(j->dir, aside, j->marker.names[1], j->err));
    set_paths(j);
    VV_TRY(check_aside(j));
    VV_TRY(check_from(j));
    j->marker.step = STEP_CLEAR;
    VV_TRY(vv_marker_write(j->io, j->dir, VV_INSTALL_NAME, &j->marker, j->err));
    return complete(j);
}

static vv_status install(install_job *j, const char *dir, const char *from, const char *aside,
                         vv_file **lock_out) {
    char path[VV_DB_PATH_BYTES];
    VV_TRY(vv_db_dir_path(j->dir, dir, j->err));
    path_in(j->dir, LOCK_NAME, path);
    VV_TRY(vv_lock_acquire(j->io, path, lock_out, j->err));
    VV_TRY(vv_db_install_complete(j->io, j->logger, j->dir, j->err));
    return install_locked(j, from, aside);
}

vv_status vv_db_install_locked(vv_io_backend *io, const vv_logger *lg, const char *dir, const char *from,
                               const char *aside, vv_error *err) {
    install_job *j = vv_alloc_zeroed(sizeof *j);
    if (!j)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
    *j = (install_job){.io = io, .logger = lg, .err = err};
    snprintf(j->dir, sizeof j->dir, "%s", dir);
    vv_status st = install_locked(j, from, aside);
    vv_file_close(j->from_lock);
    vv_free(j);
    return vv_ok(st) ? st : vv_wrap(err, st, "install %s", from);
}

vv_status vv_db_install_on(vv_io_backend *io_take, const char *dir, const char *from, const char *aside,
                           const varve_options *options, vv_error *err) {
    vv_logger logger = options ? options->logger : (vv_logger){0};
    install_job *j = vv_alloc_zeroed(sizeof *j);
    vv_file *lock = NULL;
    vv_status st = VV_STATUS_OK;
    if (!j) {
        vv_io_backend_destroy(io_take);
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
    }
    *j = (install_job){.io = io_take, .logger = &logger, .err = err};
    if (!j->io)
        st = vv_db_io_create(options, &logger, &j->io, err);
    if (vv_ok(st))
        st = install(j, dir, from, aside, &lock);
    vv_file_close(j->from_lock);
    vv_file_close(lock);
    vv_io_backend_destroy(j->io);
    vv_free(j);
    return vv_ok(st) ? st : vv_wrap(err, st, "install %s", from);
}

varve_status varve_install(const char *dir, const char *from, const char *aside, const varve_options *options,
                           varve_error *err) {
    return vv_public(vv_db_install_on(NULL, dir, from, aside, options, vv_private_error(err)));
}
