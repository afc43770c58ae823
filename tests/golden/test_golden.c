/*
 * test_golden.c - what older versions wrote is read, kept and carried on; what newer ones wrote is left
 * alone.
 *
 * Every directory v<version>-<name>/ beside this file is a database that a version of Varve once wrote (see
 * README.md). Each is unpacked, compared with its text down to the LSN of every key, and then used: writes,
 * flushes and merges over tables and logs of old.
 */
#include "base/codec.h"
#include "engine/db/marker.h"
#include "io/io.h"
#include "tests/golden/golden_fixture.h"

TestSuite(golden, .fini = vv_tempdir_cleanup, .timeout = 120);

/* Calls fn for each golden database of a kind, and says so if there is none. */
static void each(const char *kind, void (*fn)(golden *g)) {
    char names[GOLDEN_MAX][64];
    size_t count = gd_list(names), met = 0;
    for (size_t i = 0; i < count; i++) {
        golden *g = gd_load(names[i]);
        if (strcmp(g->kind, kind) == 0) {
            fn(g);
            met++;
        }
        free(g);
    }
    cr_assert_gt(met, 0, "no golden database of kind %s", kind);
}

/* ---- writes to it, and what is expected then ---- */

static golden_entry *entry_of(golden *g, const char *key) {
    for (size_t i = 0; i < g->entry_count; i++)
        if (strcmp(g->entries[i].key, key) == 0)
            return &g->entries[i];
    golden_entry *e = &g->entries[g->entry_count++]; /* new ones come in order, behind all others */
    cr_assert_lt(g->entry_count, GOLDEN_ENTRIES_MAX);
    strcpy(e->key, key);
    return e;
}

static void put(golden *g, varve_db *db, const char *key, unsigned bytes) {
    static char value[GOLDEN_VALUE_BYTES_MAX];
    golden_entry *e = entry_of(g, key);
    golden_value(key, ++e->version, value, bytes);
    GD_OK(g, varve_put(db, key, strlen(key), value, bytes, NULL, &e->lsn));
    cr_assert_eq(e->lsn, ++g->last_lsn, "%s: the next write gets LSN %" PRIu64, g->name, e->lsn);
    e->there = true;
    e->value_bytes = bytes;
    e->expires_unix_ms = 0;
}

static void delete (golden *g, varve_db *db, const char *key) {
    uint64_t lsn;
    entry_of(g, key)->there = false;
    GD_OK(g, varve_delete(db, key, strlen(key), NULL, &lsn));
    cr_assert_eq(lsn, ++g->last_lsn);
}

static void write_some(golden *g, varve_db *db, unsigned round) {
    char key[32];
    for (unsigned i = round; i < 140; i += 13) {
        snprintf(key, sizeof key, "key-%04u", i);
        i % 2 ? put(g, db, key, i) : delete (g, db, key);
    }
    for (unsigned i = 0; i < 5; i++) {
        snprintf(key, sizeof key, "new-%u-%u", round, i);
        put(g, db, key, 100 + i);
    }
}

/* A write whose name an earlier version remembered is not applied again. */
static void repeat_named(golden *g, varve_db *db) {
    for (size_t i = 0; i < g->named_count; i++) {
        uint64_t lsn;
        varve_write_options o = {.client_id = g->named[i].client_id, .sequence = g->named[i].sequence};
        GD_OK(g, varve_put(db, "key-0007", 8, "again", 5, &o, &lsn));
        cr_assert_eq(lsn, g->named[i].lsn, "%s: a write that came again got LSN %" PRIu64, g->name, lsn);
    }
}

/* All that one does with a database, over what is there. */
static void use(golden *g, const char *dir) {
    varve_db *db = gd_open(g, dir);
    gd_check_lsns(g, db);
    gd_check_entries(g, db);
    gd_verify(g, db);
    repeat_named(g, db);
    gd_check_lsns(g, db);

    write_some(g, db, 1);
    gd_check_entries(g, db);
    GD_OK(g, varve_flush(db));
    gd_check_entries(g, db);
    write_some(g, db, 2);
    GD_OK(g, varve_close(db));

    db = gd_open(g, dir); /* from here on it is ours */
    gd_check_lsns(g, db);
    gd_check_entries(g, db);
    GD_OK(g, varve_flush(db));
    GD_OK(g, varve_compact(db));
    gd_check_entries(g, db);
    gd_verify(g, db);
    repeat_named(g, db);
    write_some(g, db, 3);
    GD_OK(g, varve_close(db));

    db = gd_open(g, dir);
    gd_check_lsns(g, db);
    gd_check_entries(g, db);
    GD_OK(g, varve_close(db));
}

/* A backup by this version, of what an older one wrote, is restored and used. */
static void back_up_and_restore(golden *g, const char *dir) {
    varve_backup_info info;
    varve_restore_info restored;
    varve_db *db = gd_open(g, dir);
    GD_OK(g, varve_backup(db, gd_path(g, "own-backup"), NULL, &info, &gd_err));
    GD_OK(g, varve_close(db));
    cr_assert_eq(info.lsn, g->last_lsn);
    GD_OK(g, varve_restore(gd_path(g, "own-backup"), gd_path(g, "restored"), &(varve_restore_options){0},
                           &restored, &gd_err));
    db = gd_open(g, gd_path(g, "restored"));
    gd_check_lsns(g, db);
    gd_check_entries(g, db);
    gd_verify(g, db);
    GD_OK(g, varve_close(db));
}

static void check_replication(const golden *g, varve_db *db) {
    varve_stats stats;
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    varve_slot_info slots[VARVE_SLOTS_MAX];
    varve_stats_get(db, &stats);
    if (g->version >= 4) {
        cr_assert_eq(varve_epochs_get(db, epochs), g->epoch_count);
        for (size_t i = 0; i < g->epoch_count; i++)
            cr_assert(epochs[i].epoch == g->epochs[i].epoch &&
                          epochs[i].first_lsn == g->epochs[i].first_lsn && epochs[i].id == g->epochs[i].id,
                      "%s: epoch %zu", g->name, i);
    }
    if (g->promised_epoch)
        cr_assert_eq(stats.promised_epoch, g->promised_epoch, "%s", g->name);
    size_t count = varve_slots_get(db, slots);
    cr_assert_eq(count, g->slot_count, "%s", g->name);
    for (size_t i = 0; i < g->slot_count; i++) {
        size_t at = 0;
        while (at < count && strcmp(slots[at].name, g->slots[i].name) != 0)
            at++;
        cr_assert(at < count && !slots[at].lost && slots[at].confirmed_lsn == g->slots[i].lsn, "%s: slot %s",
                  g->name, g->slots[i].name);
        /* What it holds is there, up to the end. */
        varve_wal_cursor *cursor;
        varve_wal_batch batch;
        uint64_t lsn = g->slots[i].lsn;
        GD_OK(g, varve_wal_cursor_open(db, lsn, &cursor, NULL));
        while (varve_ok(varve_wal_cursor_next(cursor, &batch))) {
            cr_assert_eq(batch.first_lsn, lsn + 1);
            lsn = batch.last_lsn;
        }
        cr_assert_eq(lsn, g->last_lsn, "%s: the log behind slot %s ends at %" PRIu64, g->name,
                     g->slots[i].name, lsn);
        varve_wal_cursor_close(cursor);
    }
}

static void try_database(golden *g) {
    char dir[PATH_MAX + 8];
    snprintf(dir, sizeof dir, "%s/db", g->dir);
    varve_db *db = gd_open(g, dir);
    check_replication(g, db);
    GD_OK(g, varve_close(db));
    back_up_and_restore(g, dir);
    use(g, dir);
}

Test(golden, a_database_of_any_version_is_what_it_was_and_goes_on) {
    each("database", try_database);
}

static void try_backup(golden *g) {
    char dir[PATH_MAX + 16], dest[PATH_MAX + 16];
    varve_restore_info info;
    snprintf(dir, sizeof dir, "%s/backup", g->dir);
    snprintf(dest, sizeof dest, "%s/restored", g->dir);
    uint64_t print = gd_print(dir);
    GD_OK(g, varve_restore(dir, dest, &(varve_restore_options){0}, &info, &gd_err));
    cr_assert_eq(gd_print(dir), print, "%s: a restore has changed the backup", g->name);
    cr_assert_eq(info.lsn, g->last_lsn);
    golden *twice = malloc(sizeof *twice);
    *twice = *g;
    use(g, dest);
    use(twice, dir); /* a backup may be opened as it is, too */
    free(twice);
}

Test(golden, a_backup_of_any_version_is_restored) {
    each("backup", try_backup);
}

static void try_archive(golden *g) {
    char backup[PATH_MAX + 16], archive[PATH_MAX + 16], dest[PATH_MAX + 16];
    varve_restore_info info;
    varve_archive *to;
    varve_db *db;
    snprintf(backup, sizeof backup, "%s/backup", g->dir);
    snprintf(archive, sizeof archive, "%s/archive", g->dir);
    snprintf(dest, sizeof dest, "%s/restored", g->dir);
    GD_OK(g, varve_restore(backup, dest, &(varve_restore_options){.archive_dir = archive}, &info, &gd_err));
    cr_assert_eq(info.lsn, g->last_lsn, "%s: restored up to %" PRIu64, g->name, info.lsn);
    cr_assert_lt(info.backup_lsn, info.lsn);
    db = gd_open(g, dest);
    gd_check_lsns(g, db);
    gd_check_entries(g, db);
    GD_OK(g, varve_close(db));

    /* The archive goes on where it ended, and all of it is one. */
    db = gd_open(g, gd_path(g, "db"));
    GD_OK(g, varve_archive_start(db, archive, NULL, &to, &gd_err));
    write_some(g, db, 1);
    varve_archive_stop(to);
    gd_check_entries(g, db);
    GD_OK(g, varve_close(db));
    GD_OK(g, varve_restore(backup, gd_path(g, "again"), &(varve_restore_options){.archive_dir = archive},
                           &info, &gd_err));
    cr_assert_eq(info.lsn, g->last_lsn, "%s: restored up to %" PRIu64, g->name, info.lsn);
    use(g, gd_path(g, "again"));
}

Test(golden, an_archive_of_any_version_is_restored_and_goes_on) {
    each("archive", try_archive);
}

static void try_limited(golden *g) {
    char dir[PATH_MAX + 8];
    varve_stats stats;
    snprintf(dir, sizeof dir, "%s/db", g->dir);
    varve_db *db = gd_open(g, dir);
    varve_stats_get(db, &stats);
    cr_assert_leq(stats.last_lsn, g->visible_lsn, "%s: what nobody confirmed is visible", g->name);
    cr_assert_eq(stats.durable_lsn, g->last_lsn);
    GD_OK(g, varve_limit_commits(db, false, &gd_err));
    gd_check_entries(g, db);
    GD_OK(g, varve_close(db));
    use(g, dir);
}

Test(golden, what_was_not_confirmed_stays_hidden) {
    each("limited", try_limited);
}

static void try_interrupted(golden *g) {
    char dir[PATH_MAX + 8];
    snprintf(dir, sizeof dir, "%s/db", g->dir);
    use(g, dir);
}

Test(golden, an_install_or_a_rewind_that_was_begun_is_completed) {
    each("interrupted", try_interrupted);
}

/* ---- newer versions ---- */

/* How the files of one kind name their version. */
typedef struct file_kind {
    const char *name;
    const char *suffix;
    bool at_end; /* version_at counts from the end of the file */
    size_t version_at;
    size_t version_bytes;
    size_t checksum_at;   /* of a checksum (seed 0) of all bytes before it; 0: none, or see checksum_at_end */
    bool checksum_at_end; /* the last 8 bytes are such a checksum */
} file_kind;

static const file_kind file_kinds[] = {
    {.name = "manifest", .suffix = "MANIFEST", .version_at = 7, .version_bytes = 1, .checksum_at_end = true},
    {.name = "log", .suffix = ".log", .version_at = 8, .version_bytes = 4, .checksum_at = 56},
    {.name = "table", .suffix = ".sst", .at_end = true, .version_at = 1, .version_bytes = 1},
    {.name = "archive", .suffix = ".archive", .version_at = 7, .version_bytes = 1, .checksum_at = 56},
    {.name = "marker", .suffix = "INSTALL", .version_at = 7, .version_bytes = 1, .checksum_at_end = true},
    {.name = "marker", .suffix = "CUT", .version_at = 7, .version_bytes = 1, .checksum_at_end = true},
};

#define FILE_KINDS (sizeof file_kinds / sizeof *file_kinds)

static bool is_of_kind(const file_kind *kind, const char *name) {
    size_t bytes = strlen(name), suffix_bytes = strlen(kind->suffix);
    return bytes >= suffix_bytes && strcmp(name + bytes - suffix_bytes, kind->suffix) == 0;
}

static uint8_t *version_in(const file_kind *kind, uint8_t *content, size_t bytes) {
    /* The lowest byte of it: all integers are big-endian. */
    return kind->at_end ? content + bytes - kind->version_at
                        : content + kind->version_at + kind->version_bytes - 1;
}

static const file_kind *kind_of(const char *suffix) {
    for (size_t i = 0; i < FILE_KINDS; i++)
        if (strcmp(file_kinds[i].suffix, suffix) == 0)
            return &file_kinds[i];
    cr_assert_fail("no kind %s", suffix);
    return NULL;
}

/* A file of the next version, sound in all that a version can't change. */
static void make_newer(void *arg, const char *dir, const char *name) {
    const file_kind *kind = *(const file_kind **)arg;
    char path[PATH_MAX];
    size_t bytes;
    if (!is_of_kind(kind, name))
        return;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    uint8_t *content = gd_read_file(path, &bytes);
    ++*version_in(kind, content, bytes);
    if (kind->checksum_at)
        vv_put_be64(content + kind->checksum_at, vv_checksum(content, kind->checksum_at, 0));
    if (kind->checksum_at_end)
        vv_put_be64(content + bytes - 8, vv_checksum(content, bytes - 8, 0));
    gd_write_file(path, content, bytes);
    free(content);
}

/* The newest golden database NAME, with all its files of one kind made newer. */
static golden *newer(const char *name, const char *suffix) {
    char names[GOLDEN_MAX][64];
    size_t count = gd_list(names), found = count;
    unsigned newest = 0, version;
    for (size_t i = 0; i < count; i++)
        if (strcmp(strchr(names[i], '-') + 1, name) == 0 && sscanf(names[i], "v%u", &version) == 1 &&
            version > newest) {
            newest = version;
            found = i;
        }
    cr_assert_lt(found, count);
    golden *g = gd_load(names[found]);
    uint64_t print = gd_print(g->dir);
    const file_kind *kind = kind_of(suffix);
    gd_each_file(g->dir, make_newer, &kind);
    cr_assert_neq(gd_print(g->dir), print, "%s has no file %s", name, suffix);
    return g;
}

static void expect_newer(const golden *g, varve_status st) {
    cr_assert_eq(st.code, VARVE_UNSUPPORTED, "%s: %s: %s", g->name, varve_code_name(st.code), gd_err.text);
    cr_assert_str_eq(varve_reason_name(st.reason), "FORMAT_NEWER");
    cr_assert(strstr(gd_err.text, "newer"), "'%s' does not say that it is newer", gd_err.text);
}

/* varve_open() of tree/db, tree/backup. */
static void refuses_to_open(const char *name, const char *suffix, const char *dir) {
    golden *g = newer(name, suffix);
    uint64_t print = gd_print(g->dir);
    varve_db *db;
    expect_newer(g, gd_try_open(g, gd_path(g, dir), &db));
    cr_assert_eq(gd_print(g->dir), print, "%s: refused, but changed", name);
    free(g);
}

Test(golden, a_newer_manifest_is_refused_and_nothing_changes) {
    refuses_to_open("tiered", "MANIFEST", "db");
    refuses_to_open("log", "MANIFEST", "db");
    refuses_to_open("replicated", "MANIFEST", "db");
    refuses_to_open("backup", "MANIFEST", "backup");
}

Test(golden, a_newer_log_is_refused_and_nothing_changes) {
    refuses_to_open("log", ".log", "db");
    refuses_to_open("leveled", ".log", "db");
    refuses_to_open("replicated", ".log", "db");
}

Test(golden, a_newer_marker_is_refused_and_nothing_changes) {
    refuses_to_open("install", "INSTALL", "db");
    refuses_to_open("cut", "CUT", "db");
}

Test(golden, a_newer_backup_or_archive_is_not_restored) {
    static const char *const suffixes[] = {"MANIFEST", ".archive"};
    for (size_t i = 0; i < 2; i++) {
        golden *g = newer("archive", suffixes[i]);
        uint64_t print = gd_print(g->dir);
        varve_restore_info info;
        expect_newer(g, varve_restore(gd_path(g, "backup"), gd_path(g, "restored"),
                                      &(varve_restore_options){.archive_dir = gd_path(g, "archive")}, &info,
                                      &gd_err));
        cr_assert_eq(gd_print(g->dir), print, "refused, but changed");
        free(g);
    }
    golden *g = newer("archive", ".archive");
    varve_archive *to;
    varve_db *db = gd_open(g, gd_path(g, "db"));
    uint64_t print = gd_print(gd_path(g, "archive"));
    expect_newer(g, varve_archive_start(db, gd_path(g, "archive"), NULL, &to, &gd_err));
    cr_assert_eq(gd_print(gd_path(g, "archive")), print, "refused, but changed");
    GD_OK(g, varve_close(db));
    free(g);
}

static void print_tables(void *arg, const char *dir, const char *name) {
    if (is_of_kind(kind_of(".sst"), name))
        gd_add_to_print(arg, dir, name);
}

Test(golden, newer_tables_are_refused_and_stay) {
    golden *g = newer("nofilter", ".sst");
    uint64_t before = 0, after = 0;
    varve_db *db;
    gd_each_file(g->dir, print_tables, &before);
    varve_status st = gd_try_open(g, gd_path(g, "db"), &db);
    if (varve_ok(st)) { /* tables are opened when something is read */
        varve_value value;
        st = varve_get(db, "key-0101", 8, &value);
        cr_assert_eq(st.code, VARVE_UNSUPPORTED, "%s", varve_code_name(st.code));
        cr_assert_str_eq(varve_reason_name(st.reason), "FORMAT_NEWER");
        st = varve_compact(db);
        cr_assert_eq(st.code, VARVE_UNSUPPORTED, "%s", varve_code_name(st.code));
        GD_OK(g, varve_close(db));
    } else
        expect_newer(g, st);
    gd_each_file(g->dir, print_tables, &after);
    cr_assert_eq(before, after, "tables have changed");
    free(g);
}

/* ---- no version is forgotten ---- */

typedef struct versions {
    unsigned newest[FILE_KINDS]; /* 0: no such file */
} versions;

static void note_version(void *arg, const char *dir, const char *name) {
    versions *v = arg;
    char path[PATH_MAX];
    size_t bytes;
    for (size_t i = 0; i < FILE_KINDS; i++)
        if (is_of_kind(&file_kinds[i], name)) {
            snprintf(path, sizeof path, "%s/%s", dir, name);
            uint8_t *content = gd_read_file(path, &bytes);
            unsigned version = *version_in(&file_kinds[i], content, bytes);
            v->newest[i] = version > v->newest[i] ? version : v->newest[i];
            free(content);
        }
}

Test(golden, every_format_that_is_written_now_has_a_golden_file) {
    versions of_golden = {0}, of_now = {0};
    char names[GOLDEN_MAX][64];
    size_t count = gd_list(names);
    for (size_t i = 0; i < count; i++) {
        golden *g = gd_load(names[i]);
        versions v = {0};
        gd_each_file(g->dir, note_version, &v);
        cr_assert_eq(v.newest[0], g->version, "%s: its manifest has version %u", names[i], v.newest[0]);
        gd_each_file(g->dir, note_version, &of_golden);
        free(g);
    }

    golden now = {.name = "now"};
    varve_archive *to;
    vv_io_backend *io;
    snprintf(now.dir, sizeof now.dir, "%s", vv_tempdir());
    varve_db *db = gd_open(&now, gd_path(&now, "db"));
    GD_OK(&now, varve_archive_start(db, gd_path(&now, "archive"), NULL, &to, &gd_err));
    GD_OK(&now, varve_put(db, "key", 3, "value", 5, NULL, NULL));
    GD_OK(&now, varve_flush(db));
    varve_archive_stop(to);
    GD_OK(&now, varve_close(db));
    cr_assert(vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, NULL)));
    vv_marker marker = {.step = 1, .names = {"a", "b"}};
    cr_assert(vv_ok(vv_marker_write(io, now.dir, VV_INSTALL_NAME, &marker, NULL)));
    cr_assert(vv_ok(vv_marker_write(io, now.dir, VV_CUT_NAME, &marker, NULL)));
    vv_io_backend_destroy(io);
    gd_each_file(now.dir, note_version, &of_now);

    for (size_t i = 0; i < FILE_KINDS; i++) {
        cr_assert_gt(of_now.newest[i], 0, "no %s (%s) was written", file_kinds[i].name, file_kinds[i].suffix);
        cr_assert_eq(of_now.newest[i], of_golden.newest[i],
                     "version %u of the %s is written, and the newest golden one (%s) is of version %u: "
                     "see tests/golden/README.md",
                     of_now.newest[i], file_kinds[i].name, file_kinds[i].suffix, of_golden.newest[i]);
    }
    /* And none that was ever read is gone. */
    for (unsigned version = 1; version <= of_now.newest[0]; version++) {
        size_t met = 0;
        for (size_t i = 0; i < count; i++) {
            unsigned of_name;
            met += sscanf(names[i], "v%u-", &of_name) == 1 && of_name == version;
        }
        cr_assert_geq(met, 4, "version %u of the manifest has %zu golden databases", version, met);
    }
}
