/*
 * The power is cut after every I/O of what changes whole directories: installs, imports, rewinds, backups,
 * restores, archives; and again after every I/O of what completes them.
 *
 *     prepare --> all of that lasts --> act, an image after each event --> check each image
 *                                                                            '-- now and then: of that, too
 *
 * Each has one moment at which it has happened. An image must be from before it or from behind it, whole in
 * either case; what was answered must have happened, and what a first look has found a second one finds, too.
 *
 *     VARVE_TEST_SEED      replays a run
 *     VARVE_SIM_STRIDE     the completion of every n-th image is cut, too; 1: of each (the long mode)
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/db/archive_dir.h"
#include "engine/db/archive_file.h"
#include "engine/db/db_impl.h"
#include "tests/sim/sched.h"
#include "tests/sim/world.h"
#include "tests/support/tempdir.h"

TestSuite(crash_dirs, .timeout = 3600);

/* Of each event: nothing that was not synced, everything, and random parts; more of them where names change,
 * most of which come to matter within an event or two. */
#define CUTS       6
#define CUTS_NAMES 24
#define STRIDE     401

typedef struct dirs_run dirs_run;

typedef struct dirs_case {
    const char *name;
    void (*prepare)(dirs_run *r);
    void (*act)(dirs_run *r);
    /* NULL, or words. *happened_out: is it from behind the moment? `told`: what was answered. */
    const char *(*check)(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out);
} dirs_case;

typedef struct dirs_image {
    vv_sim_disk *disk;
    uint64_t event;
    char what[80];
    uint64_t told;
} dirs_image;

typedef struct dirs_images {
    dirs_image *list;
    size_t count, capacity;
    dirs_run *run;
    vv_sim_disk *disk;
    uint64_t told; /* of a completion; a run counts its own */
} dirs_images;

struct dirs_run {
    const dirs_case *what;
    uint64_t seed;
    uint32_t stride;
    uint64_t image_count, checks;
    sim_world old, new; /* their models, and how to write to them */
    vv_sim_disk *disk;  /* of the run */
    vv_sim_disk *source;
    varve_export exported;
    uint64_t lsn, lsn2;
    _Atomic uint64_t told; /* 1, or an LSN: what was answered. 0: nothing yet */
};

static void end_source(dirs_run *r);

static char words[1400];

__attribute__((format(printf, 1, 2))) static const char *wrong(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return words;
}

/* ---- images ---- */

static pthread_mutex_t images_lock = PTHREAD_MUTEX_INITIALIZER;

static void take_images(void *arg, const vv_sim_event *e) {
    dirs_images *all = arg;
    uint64_t told = all->told ? all->told : atomic_load(&all->run->told);
    pthread_mutex_lock(&images_lock);
    bool names = e->op == VV_SIM_RENAME || e->op == VV_SIM_LINK || e->op == VV_SIM_UNLINK;
    if (all->count + CUTS_NAMES > all->capacity) {
        all->capacity = all->capacity ? all->capacity * 2 : 1024;
        all->list = realloc(all->list, all->capacity * sizeof *all->list);
        if (!all->list)
            abort();
    }
    for (uint32_t k = 0; k < (names ? CUTS_NAMES : CUTS); k++) {
        vv_sim_crash how = {.survival = k == 0   ? VV_SIM_SURVIVES_SYNCED
                                        : k == 1 ? VV_SIM_SURVIVES_ALL
                                                 : VV_SIM_SURVIVES_SOME,
                            .seed = all->run->seed + e->number * CUTS_NAMES + k,
                            .sector_bytes = k % 2 ? 4096 : 512,
                            .destroys = k % 3 == 0};
        dirs_image *i = &all->list[all->count++];
        *i = (dirs_image){.disk = vv_sim_disk_crash(all->disk, &how), .event = e->number, .told = told};
        snprintf(i->what, sizeof i->what, "%s %s", vv_sim_op_name(e->op), e->path);
    }
    pthread_mutex_unlock(&images_lock);
}

static void images_begin(dirs_images *all, vv_sim_disk *disk) {
    all->disk = disk;
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){.arg = all, .after = take_images, .point = vv_sched_point});
}

static void images_end(dirs_images *all) {
    for (size_t i = 0; i < all->count; i++)
        vv_sim_disk_destroy(all->list[i].disk);
    free(all->list);
}

static vv_sim_disk *lasting(vv_sim_disk *disk) {
    return vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
}

static void fail_at(const dirs_run *r, const dirs_image *first, const dirs_image *second, const char *why) {
    cr_assert_fail("%s: power cut after event %" PRIu64 " (%s)%s%s: %s; VARVE_TEST_SEED=%" PRIu64
                   " build/debug/bin/test_sim_crash_dirs --filter '*/%s'",
                   r->what->name, first->event, first->what, second ? ", and of its completion after " : "",
                   second ? second->what : "", why, r->seed, r->what->name);
}

/* The completion of image i, cut after each of its events. */
static void check_completions(dirs_run *r, dirs_image *i) {
    bool happened = false;
    dirs_images second = {.run = r, .told = i->told};
    vv_sim_disk *copy = lasting(i->disk);
    images_begin(&second, copy);
    const char *found = r->what->check(r, copy, i->told, &happened);
    vv_sim_disk_set_hooks(copy, &(vv_sim_hooks){0});
    if (found)
        fail_at(r, i, NULL, found);
    for (size_t k = 0; k < second.count; k++) {
        bool again = false;
        found = r->what->check(r, second.list[k].disk, i->told, &again);
        if (!found && happened && !again)
            found = "what a first look found has not happened for the second";
        if (found)
            fail_at(r, i, &second.list[k], found);
    }
    r->image_count += second.count;
    images_end(&second);
    vv_sim_disk_destroy(copy);
}

static void run_all(void *arg) {
    dirs_run *r = arg;
    dirs_images all = {.run = r};
    size_t before = 0, behind = 0;
    r->old.rng = r->new.rng = r->seed;
    sim_model_init(&r->old.models[0]);
    sim_model_init(&r->new.models[0]);
    atomic_store(&r->old.model_count, 1);
    atomic_store(&r->new.model_count, 1);
    vv_sim_disk *made = vv_sim_disk_create(&(vv_sim_options){.seed = r->seed});
    vv_sim_disk_set_hooks(made, &(vv_sim_hooks){.point = vv_sched_point});
    r->disk = made;
    r->what->prepare(r);
    r->disk = lasting(made);
    images_begin(&all, r->disk);
    r->what->act(r);
    vv_sim_disk_set_hooks(r->disk, &(vv_sim_hooks){0});
    cr_assert_gt(all.count, 10u * CUTS);
    for (size_t i = r->seed % SIM_IMAGE_STEP; i < all.count; i += SIM_IMAGE_STEP) {
        bool happened = false;
        if (r->stride && i % r->stride == r->seed % r->stride)
            check_completions(r, &all.list[i]);
        const char *found = r->what->check(r, all.list[i].disk, all.list[i].told, &happened);
        if (found)
            fail_at(r, &all.list[i], NULL, found);
        before += !happened;
        behind += happened;
    }
    /* The end, with the answer. */
    dirs_image last = {.disk =
                           vv_sim_disk_crash(r->disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED}),
                       .told = atomic_load(&r->told),
                       .what = "the last"};
    bool happened = false;
    const char *found = r->what->check(r, last.disk, last.told, &happened);
    if (found)
        fail_at(r, &last, NULL, found);
    cr_assert(happened && last.told);
    cr_assert_gt(before, 0u);
    r->image_count += all.count;
    fprintf(stderr, "%s: %zu images, %zu from before and %zu from behind; in completions %" PRIu64 "\n",
            r->what->name, all.count, before, behind, r->image_count - all.count);
    images_end(&all);
    end_source(r);
    vv_sim_disk_destroy(last.disk);
    vv_sim_disk_destroy(r->disk);
    vv_sim_disk_destroy(made);
    sim_model_deinit(&r->old.models[0]);
    sim_model_deinit(&r->new.models[0]);
}

/* ---- databases ---- */

static varve_options *options(void) {
    varve_options *o = varve_options_create();
    varve_error err = {0};
    cr_assert(varve_ok(varve_options_set(o, "MEMTABLE_SIZE", "64KiB", &err)), "%s", err.text);
    cr_assert(varve_ok(varve_options_set(o, "WAL_SEGMENT_SIZE", "256KiB", &err)), "%s", err.text);
    cr_assert(varve_ok(varve_options_set(o, "CACHE_CAPACITY", "256KiB", &err)), "%s", err.text);
    cr_assert(varve_ok(varve_options_set(o, "WAL_BUFFER_SIZE", "2", &err)), "%s", err.text);
    return o;
}

static vv_status open_on(vv_sim_disk *disk, const char *path, varve_db **out, vv_error *err) {
    varve_options *o = options();
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), path, o, out, err);
    varve_options_destroy(o);
    return st;
}

static void open_world(sim_world *w, vv_sim_disk *disk, const char *path) {
    vv_error err = {0};
    w->disk = disk;
    cr_assert(vv_ok(open_on(disk, path, &w->db, &err)), "%s", err.text);
}

static void close_world(sim_world *w) {
    cr_assert(varve_ok(varve_close(w->db)));
    w->db = NULL;
}

static void put_many(sim_world *w, int count) {
    for (int i = 0; i < count; i++)
        sim_put(w, (uint32_t)sim_random(w, SIM_KEYS), 500, true);
}

static bool there(vv_sim_disk *disk, const char *path) {
    bool exists = false;
    vv_io_backend *io = vv_sim_backend_create(disk);
    cr_assert(vv_ok(vv_path_exists(io, path, &exists, NULL)));
    vv_io_backend_destroy(io);
    return exists;
}

/* The LSN at which the database is that of the model; *lsn_out. */
static const char *look(const sim_model *m, vv_sim_disk *disk, const char *path, uint64_t *lsn_out) {
    varve_db *db;
    vv_error err = {0};
    *lsn_out = 0;
    vv_status st = open_on(disk, path, &db, &err);
    if (!vv_ok(st))
        return wrong("%s: %s", path, err.text);
    *lsn_out = varve_visible_lsn(db);
    const char *found = sim_model_compare(m, db, 0, atomic_load(&m->told));
    varve_verify_result verified;
    if (!found && (!varve_ok(varve_verify(db, NULL, &verified, NULL)) || verified.damage_count > 0))
        found = "verify finds damage";
    if (!varve_ok(varve_close(db)) && !found)
        found = "close";
    if (!found)
        return NULL;
    char copy[600]; /* the words may be ours */
    snprintf(copy, sizeof copy, "%s", found);
    return wrong("%s: %s", path, copy);
}

static const char *look_at(const sim_model *m, vv_sim_disk *disk, const char *path, uint64_t wanted) {
    uint64_t lsn;
    const char *found = look(m, disk, path, &lsn);
    return found           ? found
           : lsn == wanted ? NULL
                           : wrong("%s: LSN %" PRIu64 ", not %" PRIu64, path, lsn, wanted);
}

/* ---- a new database in the place of the old one ---- */

static void make_two(dirs_run *r, const char *new_path) {
    open_world(&r->old, r->disk, "/db");
    put_many(&r->old, 20);
    sim_flush(&r->old);
    put_many(&r->old, 10);
    close_world(&r->old);
    r->new.rng = r->seed + 1;
    open_world(&r->new, r->disk, new_path);
    put_many(&r->new, 7);
    sim_flush(&r->new);
    put_many(&r->new, 5);
    close_world(&r->new);
}

static void prepare_install(dirs_run *r) {
    make_two(r, "/db/next");
}

static void act_install(dirs_run *r) {
    vv_error err = {0};
    vv_status st = vv_db_install_on(vv_sim_backend_create(r->disk), "/db", "next", "old", NULL, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    atomic_store(&r->told, 1);
}

static const char *check_installed(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    uint64_t lsn;
    const char *found = look(&r->new.models[0], disk, "/db", &lsn);
    *happened_out = !found && lsn == atomic_load(&r->new.models[0].told);
    if (*happened_out)
        return look_at(&r->old.models[0], disk, "/db/old", atomic_load(&r->old.models[0].told));
    if (told)
        return found ? found : "the new database has lost writes";
    return look_at(&r->old.models[0], disk, "/db", atomic_load(&r->old.models[0].told));
}

static const char *check_install(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    const char *found = check_installed(r, disk, told, happened_out);
    return found || *happened_out
               ? found
               : look_at(&r->new.models[0], disk, "/db/next", atomic_load(&r->new.models[0].told));
}

/* Whoever has made the new one has synced its files, and no names. */
static void prepare_loose_install(dirs_run *r) {
    make_two(r, "/made");
}

typedef struct mover {
    vv_io_backend *io;
} mover;

static vv_status move_file(void *arg, const char *name, vv_entry_kind kind) {
    char from[128], to[128];
    (void)kind;
    snprintf(from, sizeof from, "/made/%s", name);
    snprintf(to, sizeof to, "/db/next/%s", name);
    return vv_path_rename(((mover *)arg)->io, from, to, NULL);
}

static void act_loose_install(dirs_run *r) {
    mover m = {.io = vv_sim_backend_create(r->disk)};
    cr_assert(vv_ok(vv_dir_create(m.io, "/db/next", NULL)));
    cr_assert(vv_ok(vv_dir_list(m.io, "/made", move_file, &m, NULL)));
    vv_io_backend_destroy(m.io);
    act_install(r);
}

/* ---- imports ---- */

static void begin_source(dirs_run *r) {
    r->source = vv_sim_disk_create(&(vv_sim_options){.seed = r->seed + 7});
    open_world(&r->new, r->source, "/src");
    put_many(&r->new, 10);
    sim_flush(&r->new);
    put_many(&r->new, 10);
    varve_error err = {0};
    cr_assert(varve_ok(varve_take_snapshot(r->new.db, &r->exported, &err)), "%s", err.text);
    r->lsn = r->exported.lsn;
}

static varve_status bring(dirs_run *r, varve_import *m, size_t i, varve_error *err) {
    static uint8_t buffer[8192];
    varve_import_file *f;
    varve_export_reader *from;
    uint64_t offset;
    varve_status st = varve_import_open(m, i, &f, &offset, err);
    if (!varve_ok(st) || !f)
        return st;
    st = varve_export_open(r->new.db, &r->exported, r->exported.files[i].name, &from, err);
    while (varve_ok(st) && offset < r->exported.files[i].size) {
        size_t got;
        st = varve_export_read(from, offset, buffer, sizeof buffer, &got, err);
        if (varve_ok(st))
            st = varve_import_write(f, buffer, got, err);
        offset += got;
    }
    varve_export_close(from);
    if (varve_ok(st))
        return varve_import_close(f, err);
    varve_import_abandon(f);
    return st;
}

static const char *import_into(dirs_run *r, vv_sim_disk *disk) {
    varve_import *m;
    varve_error err = {0};
    vv_status begun = vv_db_import_begin_on(vv_sim_backend_create(disk), "/imp", NULL, r->exported.files,
                                            r->exported.file_count, &m, (vv_error *)&err);
    if (!vv_ok(begun))
        return wrong("import: %s", err.text);
    varve_status st = {0};
    for (size_t i = 0; i < r->exported.file_count && varve_ok(st); i++) {
        st = bring(r, m, i, &err);
        if (st.code == VARVE_CORRUPTION) /* it went on from what did not survive, and begins anew now */
            st = bring(r, m, i, &err);
    }
    if (varve_ok(st))
        st = varve_import_finish(m, r->exported.manifest, r->exported.manifest_bytes, &err);
    if (varve_ok(st))
        return NULL;
    varve_import_end(m);
    return wrong("import: %s", err.text);
}

static void act_import(dirs_run *r) {
    const char *found = import_into(r, r->disk);
    cr_assert_null(found, "%s", found);
    atomic_store(&r->told, 1);
}

/* A directory with a manifest is whole; else the import goes on with what is there. */
static const char *check_import(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    uint64_t lsn;
    const char *found = NULL;
    *happened_out = there(disk, "/imp/MANIFEST");
    if (told && !*happened_out)
        return "the import is lost";
    if (!*happened_out)
        found = import_into(r, disk);
    if (!found)
        found = look(&r->new.models[0], disk, "/imp", &lsn);
    if (found || lsn == r->exported.lsn)
        return found;
    *happened_out = false;
    return told || lsn != r->lsn ? "it is another state" : NULL;
}

static void prepare_second_import(dirs_run *r) {
    varve_error err = {0};
    begin_source(r);
    const char *found = import_into(r, r->disk);
    cr_assert_null(found, "%s", found);
    varve_export_release(r->new.db, &r->exported);
    put_many(&r->new, 5);
    sim_compact(&r->new);
    cr_assert(varve_ok(varve_take_snapshot(r->new.db, &r->exported, &err)), "%s", err.text);
}

/* ---- the end of a log is cut off ---- */

static void prepare_rewind(dirs_run *r) {
    open_world(&r->old, r->disk, "/db");
    put_many(&r->old, 12);
    sim_flush(&r->old);
    put_many(&r->old, 14);
    close_world(&r->old);
    r->lsn = 18;
}

static void act_rewind(dirs_run *r) {
    vv_error err = {0};
    uint64_t cut;
    varve_options *o = options();
    vv_status st = vv_db_rewind_on(vv_sim_backend_create(r->disk), "/db", o, r->lsn, "tail", &cut, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
    cr_assert_eq(cut, 8u);
    atomic_store(&r->told, 1);
}

/* The records of a file of an archive: from `first` to *last_out. */
static const char *look_into_archive(vv_io_backend *io, const char *path, uint64_t first,
                                     uint64_t *last_out) {
    vv_archive_reader *reader;
    vv_archive_frame f;
    vv_error err = {0};
    *last_out = first - 1;
    if (!vv_ok(vv_archive_reader_open(io, path, &reader, &err)))
        return wrong("%s", err.text);
    vv_status st = {0};
    const char *found = NULL;
    while (!found && vv_ok(st = vv_archive_reader_next(reader, &f, &err))) {
        if (f.first_lsn != *last_out + 1)
            found = wrong("%s: LSN %" PRIu64 " behind %" PRIu64, path, f.first_lsn, *last_out);
        *last_out = f.last_lsn;
    }
    vv_archive_reader_close(reader);
    if (!found && !vv_is(st, VV_END))
        found = wrong("%s", err.text);
    return found;
}

static const char *check_rewind(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    uint64_t lsn, last;
    const char *found = look(&r->old.models[0], disk, "/db", &lsn);
    *happened_out = !found && lsn == r->lsn;
    if (found)
        return found;
    if (!*happened_out)
        return told || lsn != atomic_load(&r->old.models[0].told) ? wrong("LSN %" PRIu64, lsn) : NULL;
    vv_io_backend *io = vv_sim_backend_create(disk);
    found = look_into_archive(io, "/db/tail", r->lsn + 1, &last);
    vv_io_backend_destroy(io);
    if (!found && last != atomic_load(&r->old.models[0].told))
        found = wrong("what was cut is kept only up to LSN %" PRIu64, last);
    return found;
}

/* ---- backups and restores ---- */

static void prepare_backup(dirs_run *r) {
    open_world(&r->old, r->disk, "/db");
    put_many(&r->old, 12);
    sim_flush(&r->old);
    put_many(&r->old, 5);
    sim_flush(&r->old);
    close_world(&r->old);
}

static void back_up(dirs_run *r, varve_backup_mode mode) {
    varve_error err = {0};
    varve_backup_options o = {.mode = mode};
    open_world(&r->old, r->disk, "/db");
    cr_assert(varve_ok(varve_backup(r->old.db, "/backup", &o, NULL, &err)), "%s", err.text);
    atomic_store(&r->told, 1);
    close_world(&r->old);
}

static void act_backup(dirs_run *r) {
    back_up(r, VARVE_BACKUP_COPY);
}

static void act_linked_backup(dirs_run *r) {
    back_up(r, VARVE_BACKUP_LINK);
}

static const char *check_backup(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    uint64_t lsn = atomic_load(&r->old.models[0].told);
    *happened_out = there(disk, "/backup/MANIFEST");
    if (told && !*happened_out)
        return "the backup is lost";
    const char *found = *happened_out ? look_at(&r->old.models[0], disk, "/backup", lsn) : NULL;
    return found ? found : look_at(&r->old.models[0], disk, "/db", lsn);
}

static void await_archived(varve_archive *archive, uint64_t lsn) {
    varve_archive_info info;
    for (int i = 0; i < 100000; i++) {
        varve_archive_get(archive, &info);
        if (info.last_lsn >= lsn)
            return;
        vv_sched_sleep_ns(VV_NS_PER_MS);
    }
    cr_assert_fail("LSN %" PRIu64 " is not archived", lsn);
}

static const varve_archive_options often = {.file_bytes = 16384, .sync_interval_us = 1000};

static void prepare_restore(dirs_run *r) {
    varve_error err = {0};
    varve_archive *archive;
    open_world(&r->old, r->disk, "/db");
    put_many(&r->old, 12);
    cr_assert(varve_ok(varve_backup(r->old.db, "/backup", NULL, NULL, &err)), "%s", err.text);
    cr_assert(varve_ok(varve_archive_start(r->old.db, "/archive", &often, &archive, &err)), "%s", err.text);
    put_many(&r->old, 12);
    await_archived(archive, 24);
    varve_archive_stop(archive);
    close_world(&r->old);
}

static vv_status make_io(void *arg, vv_io_backend **out, vv_error *err) {
    (void)err;
    *out = vv_sim_backend_create(arg);
    return VV_STATUS_OK;
}

static const char *restore(vv_sim_disk *disk) {
    varve_error err = {0};
    varve_restore_options o = {.archive_dir = "/archive"};
    varve_status st = vv_db_restore_on(make_io, disk, "/backup", "/dest", &o, NULL, &err);
    return varve_ok(st) ? NULL : wrong("restore: %s", err.text);
}

static void act_restore(dirs_run *r) {
    const char *found = restore(r->disk);
    cr_assert_null(found, "%s", found);
    atomic_store(&r->told, 1);
}

static const char *check_restore(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    const char *found = NULL;
    *happened_out = there(disk, "/dest/MANIFEST");
    if (told && !*happened_out)
        return "what was restored is lost";
    if (!*happened_out && r->checks++ % 4 != 0) /* to restore again takes long: each fourth time */
        return NULL;
    if (!*happened_out)
        found = restore(disk);
    return found ? found : look_at(&r->old.models[0], disk, "/dest", atomic_load(&r->old.models[0].told));
}

/* ---- archives ---- */

static void prepare_archive(dirs_run *r) {
    open_world(&r->old, r->disk, "/db");
    put_many(&r->old, 3);
    close_world(&r->old);
}

static void act_archive(dirs_run *r) {
    varve_error err = {0};
    varve_archive *archive;
    open_world(&r->old, r->disk, "/db");
    cr_assert(varve_ok(varve_archive_start(r->old.db, "/archive", &often, &archive, &err)), "%s", err.text);
    for (int i = 0; i < 8; i++) {
        sim_put(&r->old, 1, 5000, true);
        uint64_t lsn = atomic_load(&r->old.models[0].told);
        await_archived(archive, lsn);
        atomic_store(&r->told, lsn);
        if (i == 3)
            sim_flush(&r->old);
    }
    varve_archive_stop(archive);
    close_world(&r->old);
}

/* All that was told, and all that the slot lets the log forget, is in the archive. */
static const char *check_archive(dirs_run *r, vv_sim_disk *disk, uint64_t told, bool *happened_out) {
    varve_db *db;
    vv_error err = {0};
    varve_slot_info slots[VARVE_SLOTS_MAX];
    vv_archive_dir dir = {0};
    uint64_t least = told, last = 0;
    (void)r;
    *happened_out = told > 0;
    if (!vv_ok(open_on(disk, "/db", &db, &err)))
        return wrong("/db: %s", err.text);
    if (varve_slots_get(db, slots) == 1)
        least = VV_MAX(least, slots[0].confirmed_lsn);
    if (!varve_ok(varve_close(db)))
        return "close";
    if (least == 0)
        return NULL;
    vv_io_backend *io = vv_sim_backend_create(disk);
    const char *found = vv_ok(vv_archive_dir_read(io, "/archive", &dir, &err)) ? NULL : wrong("%s", err.text);
    for (size_t i = 0; i < dir.count && !found; i++) {
        char path[VV_ARCHIVE_PATH_BYTES + 64];
        uint64_t end;
        vv_archive_dir_file(&dir, dir.files[i].number, path);
        if (dir.files[i].first_lsn > last + 1)
            found = wrong("the archive has no LSN %" PRIu64, last + 1);
        else
            found = look_into_archive(io, path, dir.files[i].first_lsn, &end);
        if (!found)
            last = end;
    }
    if (!found && last < least)
        found = wrong("archived up to LSN %" PRIu64 ", but %" PRIu64 " was told", last, least);
    vv_archive_dir_deinit(&dir);
    vv_io_backend_destroy(io);
    return found;
}

/* ---- all of them ---- */

static void end_source(dirs_run *r) {
    if (!r->source)
        return;
    varve_export_release(r->new.db, &r->exported);
    close_world(&r->new);
    vv_sim_disk_destroy(r->source);
}

static void check_case(const dirs_case *what) {
    const char *stride = getenv("VARVE_SIM_STRIDE");
    dirs_run *r = calloc(1, sizeof *r);
    r->what = what;
    r->seed = vv_test_seed();
    r->stride = stride ? (uint32_t)atoi(stride) : STRIDE;
    vv_sched_options o;
    sim_schedule(r->seed, &o);
    vv_sched_run(&o, run_all, r);
    free(r);
}

#define CASE(case_name, prepare_fn, act_fn, check_fn)                                                        \
    Test(crash_dirs, case_name) {                                                                            \
        check_case(                                                                                          \
            &(dirs_case){.name = #case_name, .prepare = prepare_fn, .act = act_fn, .check = check_fn});      \
    }

CASE(an_install, prepare_install, act_install, check_install)
CASE(an_install_of_loose_names, prepare_loose_install, act_loose_install, check_installed)
CASE(an_import, begin_source, act_import, check_import)
CASE(an_import_over_another, prepare_second_import, act_import, check_import)
CASE(a_rewind, prepare_rewind, act_rewind, check_rewind)
CASE(a_backup, prepare_backup, act_backup, check_backup)
CASE(a_linked_backup, prepare_backup, act_linked_backup, check_backup)
CASE(a_restore, prepare_restore, act_restore, check_restore)
CASE(an_archive, prepare_archive, act_archive, check_archive)
