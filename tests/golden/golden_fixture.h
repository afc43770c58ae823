/*
 * golden_fixture.h - a golden database, unpacked into a directory of the test's own, and what is to be in it.
 *
 * README.md tells what the lines of expected.txt mean.
 */
#ifndef VV_TESTS_GOLDEN_FIXTURE_H
#define VV_TESTS_GOLDEN_FIXTURE_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <zstd.h>

#include "base/checksum.h"
#include "engine/varve.h"
#include "tests/golden/golden_value.h"
#include "tests/support/tempdir.h"

#define GOLDEN_ENTRIES_MAX 256
#define GOLDEN_MAX         64 /* databases */
#define GOLDEN_LINES_MAX   16 /* of a kind, but for entries */

typedef struct golden_entry {
    char key[32];
    bool there;
    uint64_t lsn;
    uint64_t expires_unix_ms;
    unsigned value_bytes;
    unsigned version;
} golden_entry;

typedef struct golden {
    char name[64];
    char dir[PATH_MAX]; /* where its tree was unpacked */
    char kind[16];
    unsigned version; /* of the manifest, by its name */
    char options[GOLDEN_LINES_MAX][2][64];
    size_t option_count;
    golden_entry entries[GOLDEN_ENTRIES_MAX]; /* by key */
    size_t entry_count;
    uint64_t last_lsn, visible_lsn, safe_compaction_lsn, promised_epoch;
    varve_epoch epochs[GOLDEN_LINES_MAX];
    size_t epoch_count;
    struct {
        uint64_t client_id, sequence, lsn;
    } named[GOLDEN_LINES_MAX];
    size_t named_count;
    struct {
        char name[VARVE_SLOT_NAME_BYTES_MAX + 1];
        uint64_t lsn;
    } slots[GOLDEN_LINES_MAX];
    size_t slot_count;
} golden;

static varve_error gd_err;

#define GD_OK(g, call)                                                                                       \
    do {                                                                                                     \
        varve_status gd_st = (call);                                                                         \
        cr_assert(varve_ok(gd_st), "%s: %s: %s %s", (g)->name, #call, varve_code_name(gd_st.code),           \
                  gd_err.text);                                                                              \
    } while (0)

/* ---- files ---- */

static inline void *gd_read_file(const char *path, size_t *bytes_out) {
    FILE *in = fopen(path, "rb");
    cr_assert(in, "%s: %s", path, strerror(errno));
    struct stat info;
    cr_assert_eq(fstat(fileno(in), &info), 0);
    char *bytes = malloc((size_t)info.st_size + 1);
    *bytes_out = fread(bytes, 1, (size_t)info.st_size, in);
    cr_assert_eq(*bytes_out, (size_t)info.st_size);
    bytes[*bytes_out] = '\0';
    fclose(in);
    return bytes;
}

static inline void gd_write_file(const char *path, const void *bytes, size_t count) {
    FILE *out = fopen(path, "wb");
    cr_assert(out, "%s: %s", path, strerror(errno));
    cr_assert_eq(fwrite(bytes, 1, count, out), count);
    cr_assert_eq(fclose(out), 0);
}

/* The fields of a ustar header that matter here. */
#define TAR_BLOCK_BYTES 512
#define TAR_SIZE_AT     124
#define TAR_TYPE_AT     156

static inline void gd_unpack(const char *packed_path, const char *to) {
    size_t packed_bytes;
    void *packed = gd_read_file(packed_path, &packed_bytes);
    unsigned long long said = ZSTD_getFrameContentSize(packed, packed_bytes);
    cr_assert(said < (64u << 20), "%s: not a Zstd frame of a known and small size", packed_path);
    char *tar = malloc(said);
    size_t tar_bytes = ZSTD_decompress(tar, said, packed, packed_bytes);
    cr_assert_eq(tar_bytes, said, "%s: does not unpack", packed_path);
    for (size_t at = 0; at + TAR_BLOCK_BYTES <= tar_bytes && tar[at];) {
        const char *head = tar + at;
        char path[PATH_MAX], octal[13] = {0};
        memcpy(octal, head + TAR_SIZE_AT, 12);
        size_t bytes = strtoull(octal, NULL, 8);
        snprintf(path, sizeof path, "%s/%.100s", to, head);
        at += TAR_BLOCK_BYTES;
        cr_assert(at + bytes <= tar_bytes);
        if (head[TAR_TYPE_AT] == '5')
            cr_assert(mkdir(path, 0750) == 0 || errno == EEXIST, "%s: %s", path, strerror(errno));
        else
            gd_write_file(path, tar + at, bytes);
        at += (bytes + TAR_BLOCK_BYTES - 1) / TAR_BLOCK_BYTES * TAR_BLOCK_BYTES;
    }
    free(tar);
    free(packed);
}

/* Called for every file below `dir`, in no order. */
typedef void (*gd_file_fn)(void *arg, const char *dir, const char *name);

static inline void gd_each_file(const char *dir, gd_file_fn fn, void *arg) {
    DIR *d = opendir(dir);
    cr_assert(d, "%s: %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        char path[PATH_MAX];
        struct stat info;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        cr_assert_eq(lstat(path, &info), 0);
        if (S_ISDIR(info.st_mode))
            gd_each_file(path, fn, arg);
        else
            fn(arg, dir, e->d_name);
    }
    closedir(d);
}

static inline void gd_add_to_print(void *arg, const char *dir, const char *name) {
    char path[PATH_MAX];
    size_t bytes;
    if (strcmp(name, "LOCK") == 0)
        return; /* says who has it open, or had */
    snprintf(path, sizeof path, "%s/%s", dir, name);
    void *content = gd_read_file(path, &bytes);
    *(uint64_t *)arg += vv_checksum(content, bytes, vv_checksum(path, strlen(path), bytes));
    free(content);
}

/* Of the names and bytes of all files below `dir`. */
static inline uint64_t gd_print(const char *dir) {
    uint64_t print = 0;
    gd_each_file(dir, gd_add_to_print, &print);
    return print;
}

/* ---- what is there, and what is to be in it ---- */

static inline int gd_compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Their names, sorted; how many. */
static inline size_t gd_list(char names[GOLDEN_MAX][64]) {
    size_t count = 0;
    DIR *d = opendir(GOLDEN_DIR);
    cr_assert(d);
    for (struct dirent *e; (e = readdir(d));) {
        unsigned version;
        if (sscanf(e->d_name, "v%u-", &version) != 1)
            continue;
        cr_assert(count < GOLDEN_MAX && strlen(e->d_name) < 64);
        strcpy(names[count++], e->d_name);
    }
    closedir(d);
    qsort(names, count, 64, gd_compare_names);
    cr_assert_gt(count, 0);
    return count;
}

static inline void gd_parse_line(golden *g, const char *line) {
    golden_entry *e = &g->entries[g->entry_count];
    varve_epoch *epoch = &g->epochs[g->epoch_count];
    char commit[64];
    cr_assert(g->entry_count < GOLDEN_ENTRIES_MAX && g->epoch_count < GOLDEN_LINES_MAX &&
              g->option_count < GOLDEN_LINES_MAX && g->named_count < GOLDEN_LINES_MAX &&
              g->slot_count < GOLDEN_LINES_MAX);
    if (sscanf(line, "commit %63s", commit) == 1 || sscanf(line, "kind %15s", g->kind) == 1 ||
        sscanf(line, "last_lsn %" SCNu64, &g->last_lsn) == 1 ||
        sscanf(line, "visible_lsn %" SCNu64, &g->visible_lsn) == 1 ||
        sscanf(line, "safe_compaction_lsn %" SCNu64, &g->safe_compaction_lsn) == 1 ||
        sscanf(line, "promised_epoch %" SCNu64, &g->promised_epoch) == 1)
        return;
    if (sscanf(line, "option %63s %63s", g->options[g->option_count][0], g->options[g->option_count][1]) == 2)
        g->option_count++;
    else if (sscanf(line, "epoch %" SCNu64 " %" SCNu64 " %" SCNu64, &epoch->epoch, &epoch->first_lsn,
                    &epoch->id) == 3)
        g->epoch_count++;
    else if (sscanf(line, "named %" SCNu64 " %" SCNu64 " %" SCNu64, &g->named[g->named_count].client_id,
                    &g->named[g->named_count].sequence, &g->named[g->named_count].lsn) == 3)
        g->named_count++;
    else if (sscanf(line, "slot %64s %" SCNu64, g->slots[g->slot_count].name, &g->slots[g->slot_count].lsn) ==
             2)
        g->slot_count++;
    else if (sscanf(line, "entry %31s %" SCNu64 " %" SCNu64 " %u %u", e->key, &e->lsn, &e->expires_unix_ms,
                    &e->value_bytes, &e->version) == 5) {
        e->there = true;
        g->entry_count++;
    } else if (sscanf(line, "absent %31s", e->key) == 1)
        g->entry_count++;
    else
        cr_assert_fail("%s: what is '%s'?", g->name, line);
}

/* Unpack it into a directory of its own. The result is the caller's to free. */
static inline golden *gd_load(const char *name) {
    golden *g = calloc(1, sizeof *g);
    char path[PATH_MAX];
    size_t bytes;
    strcpy(g->name, name);
    cr_assert_eq(sscanf(name, "v%u-", &g->version), 1);
    snprintf(path, sizeof path, "%s/%s/expected.txt", GOLDEN_DIR, name);
    char *text = gd_read_file(path, &bytes), *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line)
            gd_parse_line(g, line);
    free(text);
    cr_assert(g->entry_count > 0 && g->last_lsn > 0 && g->kind[0], "%s: expected.txt says too little", name);
    static unsigned loads;
    snprintf(path, sizeof path, "%s-%u", name, loads++);
    snprintf(g->dir, sizeof g->dir, "%s", vv_tempdir_path(path));
    cr_assert_eq(mkdir(g->dir, 0750), 0);
    snprintf(path, sizeof path, "%s/%s/tree.tar.zst", GOLDEN_DIR, name);
    gd_unpack(path, g->dir);
    return g;
}

static inline const char *gd_path(const golden *g, const char *name) {
    static char paths[4][PATH_MAX + 256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof *paths, "%s/%s", g->dir, name);
    return path;
}

/* ---- comparing ---- */

static inline varve_options *gd_options(const golden *g) {
    varve_options *o = varve_options_create();
    cr_assert(o);
    GD_OK(g, varve_options_set(o, "WAL_SEGMENT_SIZE", "256KiB", &gd_err));
    for (size_t i = 0; i < g->option_count; i++)
        GD_OK(g, varve_options_set(o, g->options[i][0], g->options[i][1], &gd_err));
    return o;
}

static inline varve_status gd_try_open(const golden *g, const char *dir, varve_db **out) {
    varve_options *o = gd_options(g);
    varve_status st = varve_open(dir, o, out, &gd_err);
    varve_options_destroy(o);
    return st;
}

static inline varve_db *gd_open(const golden *g, const char *dir) {
    varve_db *db;
    GD_OK(g, gd_try_open(g, dir, &db));
    return db;
}

static inline void gd_is_value(const golden *g, const golden_entry *e, const void *value, size_t bytes,
                               uint64_t lsn, uint64_t expires_unix_ms) {
    static char expected[GOLDEN_VALUE_BYTES_MAX];
    golden_value(e->key, e->version, expected, e->value_bytes);
    cr_assert(bytes == e->value_bytes && memcmp(value, expected, bytes) == 0, "%s: %s: another value",
              g->name, e->key);
    cr_assert_eq(lsn, e->lsn, "%s: %s: LSN %" PRIu64 ", not %" PRIu64, g->name, e->key, lsn, e->lsn);
    cr_assert_eq(expires_unix_ms, e->expires_unix_ms, "%s: %s: another expiry", g->name, e->key);
}

/* Entry by entry, in order: nothing more, nothing less. */
static inline void gd_scan(const golden *g, varve_db *db, bool forward) {
    varve_iter *it;
    size_t seen = 0;
    GD_OK(g, varve_iter_create(db, NULL, &it));
    forward ? varve_iter_first(it) : varve_iter_last(it);
    for (size_t i = 0; i < g->entry_count; i++) {
        const golden_entry *e = &g->entries[forward ? i : g->entry_count - 1 - i];
        varve_entry got;
        if (!e->there)
            continue;
        cr_assert(varve_iter_valid(it), "%s: a scan ends before %s", g->name, e->key);
        varve_iter_entry(it, &got);
        cr_assert(got.key_bytes == strlen(e->key) && memcmp(got.key, e->key, got.key_bytes) == 0,
                  "%s: a scan has %.*s where %s is due", g->name, (int)got.key_bytes, (const char *)got.key,
                  e->key);
        gd_is_value(g, e, got.value, got.value_bytes, got.lsn, got.expires_unix_ms);
        forward ? varve_iter_next(it) : varve_iter_prev(it);
        seen++;
    }
    cr_assert(!varve_iter_valid(it), "%s: a scan goes on behind the last entry", g->name);
    GD_OK(g, varve_iter_status(it));
    cr_assert_gt(seen, 0);
    varve_iter_destroy(it);
}

/* Every key, read on its own and by scans both ways. */
static inline void gd_check_entries(const golden *g, varve_db *db) {
    for (size_t i = 0; i < g->entry_count; i++) {
        const golden_entry *e = &g->entries[i];
        varve_value value;
        varve_status st = varve_get(db, e->key, strlen(e->key), &value);
        if (!e->there) {
            cr_assert_eq(st.code, VARVE_NOT_FOUND, "%s: %s: %s", g->name, e->key, varve_code_name(st.code));
            continue;
        }
        cr_assert(varve_ok(st), "%s: get %s: %s", g->name, e->key, varve_code_name(st.code));
        gd_is_value(g, e, value.data, value.bytes, value.lsn, value.expires_unix_ms);
        varve_value_release(&value);
    }
    gd_scan(g, db, true);
    gd_scan(g, db, false);
}

static inline void gd_check_lsns(const golden *g, varve_db *db) {
    varve_stats stats;
    varve_stats_get(db, &stats);
    cr_assert_eq(stats.last_lsn, g->last_lsn, "%s: last LSN %" PRIu64, g->name, stats.last_lsn);
    cr_assert_eq(stats.durable_lsn, g->last_lsn);
}

/* Nothing is damaged. */
static inline void gd_verify(const golden *g, varve_db *db) {
    varve_verify_result result;
    GD_OK(g, varve_verify(db, &(varve_verify_options){0}, &result, &gd_err));
    cr_assert_eq(result.damage_count, 0, "%s", g->name);
}

#endif
