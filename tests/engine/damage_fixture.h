/*
 * damage_fixture.h - a small database on a simulated disk, and each kind of damage to each of its files, one
 * at a time.
 *
 * What is done is spread evenly over the files, by a seed; VARVE_TEST_FLIPS=all does everything, each bit of
 * each byte.
 */
#ifndef VV_TESTS_ENGINE_DAMAGE_FIXTURE_H
#define VV_TESTS_ENGINE_DAMAGE_FIXTURE_H

#include <sched.h>
#include <stdlib.h>

#include "engine/db/db_impl.h"
#include "engine/wal/wal_format.h"
#include "io/sim/io_sim.h"
#include "tests/engine/db_fixture.h"

#define DIR      "/db"
#define KEYS     60
#define FILES    16
#define HISTORY  400
#define IO_BLOCK 512

/* ---- what was written ---- */

typedef struct write {
    int key;
    char value[200]; /* "": deleted */
} write;

/* history[n] has LSN n + 1. */
static write history[HISTORY];
static uint64_t history_count;

static inline const char *key_of(int i) {
    static char names[8][16];
    static int turn;
    char *name = names[turn++ % 8];
    snprintf(name, 16, "key%05d", i * 3);
    return name;
}

/* The newest version of a key up to an LSN; NULL: none, or deleted. */
static inline const write *newest(int key, uint64_t lsn) {
    for (uint64_t n = lsn; n > 0; n--)
        if (history[n - 1].key == key)
            return history[n - 1].value[0] ? &history[n - 1] : NULL;
    return NULL;
}

/* ---- the disk ---- */

typedef struct file {
    char name[64];
    uint8_t *bytes;
    size_t count;
    size_t used; /* of a segment: up to the end of its frames */
} file;

typedef struct image {
    vv_sim_disk *disk;
    file files[FILES];
    size_t file_count;
    uint64_t silent_lsn;   /* from here on the history may be cut without an error */
    size_t silent_offset;  /* by damage to this part of the newest segment */
    size_t newest_segment; /* of files */
} image;

static const char *compression, *index_type, *style;

static inline varve_db *open_on(vv_sim_disk *disk, vv_status *st_out) {
    varve_db *db;
    varve_options *o = fx_options("WAL_SEGMENT_SIZE", "256KiB", "MEMTABLE_SIZE", "64KiB", "COMPRESSION",
                                  compression, "INDEX_TYPE", index_type, "COMPACTION_STYLE", style, NULL);
    *st_out = vv_db_open_on(vv_sim_backend_create(disk), DIR, o, &db, (vv_error *)&fx_err);
    varve_options_destroy(o);
    return db;
}

static inline void put(varve_db *db, int key, const char *value) {
    write *w = &history[history_count++];
    *w = (write){.key = key};
    snprintf(w->value, sizeof w->value, "%s", value);
    uint64_t lsn;
    const char *name = key_of(key);
    varve_status st = value[0] ? varve_put(db, name, strlen(name), value, strlen(value), NULL, &lsn)
                               : varve_delete(db, name, strlen(name), NULL, &lsn);
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
    cr_assert_eq(lsn, history_count);
}

static inline void put_range(varve_db *db, int from, int to, int step, const char *what) {
    char value[200];
    for (int i = from; i < to; i += step) {
        snprintf(value, sizeof value, "%s of %d: %0*d", what, i, 60 + i % 40, i * i);
        put(db, i, value);
    }
}

static inline vv_status note_file(void *arg, const char *name, vv_entry_kind kind) {
    image *im = arg;
    char path[300];
    vv_error err;
    vv_file *f;
    uint64_t size;
    size_t got;
    if (kind != VV_ENTRY_FILE)
        return VV_STATUS_OK;
    cr_assert_lt(im->file_count, (size_t)FILES);
    file *to = &im->files[im->file_count++];
    vv_io_backend *io = vv_sim_backend_create(im->disk);
    snprintf(to->name, sizeof to->name, "%s", name);
    snprintf(path, sizeof path, DIR "/%s", name);
    cr_assert(vv_ok(vv_file_open(io, path, VV_OPEN_READ, &f, &err)));
    cr_assert(vv_ok(vv_file_size(f, &size)));
    to->bytes = malloc(size + 1);
    cr_assert(vv_ok(vv_file_read(f, to->bytes, size, 0, &got)) && got == size);
    to->used = to->count = size;
    vv_file_close(f);
    vv_io_backend_destroy(io);
    return VV_STATUS_OK;
}

static inline bool is_segment(const file *f) {
    return strncmp(f->name, "wal-", 4) == 0 && strstr(f->name, ".log");
}

/* Where the frames of a segment end, and where the one begins that holds an LSN (0: not here). */
static inline void measure_segment(file *f, uint64_t lsn, size_t *at_out) {
    vv_wal_segment_head head;
    vv_wal_frame_head frame;
    cr_assert(vv_ok(vv_wal_segment_head_decode(f->bytes, &head)));
    uint64_t seed = vv_wal_segment_seed(&head);
    for (f->used = head.block_bytes; vv_wal_frame_head_decode(f->bytes + f->used, seed, &frame);
         f->used += vv_wal_frame_bytes(frame.payload_bytes, head.block_bytes))
        if (frame.record_count > 0 && frame.first_lsn <= lsn && lsn <= frame.last_lsn)
            *at_out = f->used;
}

/* The log prepares its next segment on a thread of its own. */
static inline void await_next_segment(vv_sim_disk *disk) {
    vv_io_backend *io = vv_sim_backend_create(disk);
    bool there = false;
    while (!there) {
        sched_yield();
        cr_assert(vv_ok(vv_path_exists(io, DIR "/wal-0000000000000003.log", &there, NULL)));
    }
    vv_io_backend_destroy(io);
}

static inline int by_name(const void *a, const void *b) {
    return strcmp(((const file *)a)->name, ((const file *)b)->name);
}

/* A database of every kind of file, with tables in two levels and something in the log. clean: it was closed.
 */
static inline image make_image(bool clean) {
    image im = {0};
    vv_status st;
    history_count = 0;
    im.disk = vv_sim_disk_create(
        &(vv_sim_options){.seed = 1, .align_bytes = IO_BLOCK, .atomic_block_bytes = IO_BLOCK});
    varve_db *db = open_on(im.disk, &st);
    cr_assert(vv_ok(st), "%s", fx_err.text);
    put_range(db, 0, KEYS, 1, "first");
    cr_assert(varve_ok(varve_compact(db)));
    put_range(db, 0, KEYS, 3, "second");
    for (int i = 5; i < KEYS; i += 10)
        put(db, i, "");
    cr_assert(varve_ok(varve_flush(db)));
    put_range(db, 1, KEYS, 7, "third");
    cr_assert(varve_ok(varve_flush(db)));
    put_range(db, 2, KEYS, 11, "fourth");
    put(db, 4, "");
    cr_assert(varve_ok(varve_close(db))); /* a second segment */
    db = open_on(im.disk, &st);
    cr_assert(vv_ok(st), "%s", fx_err.text);
    put_range(db, 3, KEYS, 9, "fifth");
    await_next_segment(im.disk);
    if (!clean) {
        vv_sim_disk *cut = vv_sim_disk_crash(im.disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
        cr_assert(varve_ok(varve_close(db)));
        vv_sim_disk_destroy(im.disk);
        im.disk = cut;
    } else {
        cr_assert(varve_ok(varve_close(db)));
    }
    vv_io_backend *io = vv_sim_backend_create(im.disk);
    cr_assert(vv_ok(vv_dir_list(io, DIR, note_file, &im, NULL)));
    vv_io_backend_destroy(io);
    qsort(im.files, im.file_count, sizeof *im.files, by_name);
    im.silent_offset = SIZE_MAX;
    for (size_t i = 0; i < im.file_count; i++) {
        size_t at = 0;
        if (!is_segment(&im.files[i]))
            continue;
        measure_segment(&im.files[i], history_count, &at);
        if (at == 0)
            continue;
        im.newest_segment = i;
        if (!clean)
            im.silent_offset = at;
    }
    return im;
}

static inline void free_image(image *im) {
    vv_sim_disk_destroy(im->disk);
    for (size_t i = 0; i < im->file_count; i++)
        free(im->files[i].bytes);
}

/* ---- what was done ---- */

typedef struct harm {
    const file *file;
    const char *kind;
    size_t offset; /* the damage is in [offset, end) */
    size_t end;
} harm;

/* A copy of the disk on which the file has other bytes, or is gone (bytes NULL). */
static inline vv_sim_disk *damaged_disk(const image *im, const file *f, const uint8_t *bytes, size_t count) {
    char path[100];
    vv_error err;
    vv_file *to;
    vv_sim_disk *disk = vv_sim_disk_crash(im->disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    vv_io_backend *io = vv_sim_backend_create(disk);
    snprintf(path, sizeof path, DIR "/%s", f->name);
    if (bytes) {
        cr_assert(vv_ok(vv_file_open(io, path, VV_OPEN_WRITE, &to, &err)));
        cr_assert(vv_ok(vv_file_truncate(to, count)));
        size_t from = 0, end = VV_MIN(count, f->count);
        while (from < end && bytes[from] == f->bytes[from])
            from++;
        while (end > from && bytes[end - 1] == f->bytes[end - 1])
            end--;
        if (end > from)
            cr_assert(vv_ok(vv_file_write(to, bytes + from, end - from, from)));
        cr_assert(vv_ok(vv_file_sync(to, VV_SYNC_FULL)));
        vv_file_close(to);
    } else {
        cr_assert(vv_ok(vv_path_unlink(io, path, NULL)));
        cr_assert(vv_ok(vv_dir_sync(io, DIR, NULL)));
    }
    vv_io_backend_destroy(io);
    return disk;
}

static const harm *now; /* for the words of a failure */

#define CHECK(condition, ...)                                                                                \
    cr_assert(condition, "%s: %s at %zu: " __VA_OPT__(VV_FIRST(__VA_ARGS__)), now->file->name, now->kind,    \
              now->offset __VA_OPT__(VV_REST(__VA_ARGS__)))
#define VV_FIRST(x, ...) x
#define VV_REST(x, ...)  __VA_OPT__(, ) __VA_ARGS__

static inline bool is_refusal(int code) {
    return code == VARVE_CORRUPTION || code == VARVE_UNSUPPORTED;
}

static inline bool value_is(const write *want, const void *data, size_t bytes, uint64_t lsn) {
    return strlen(want->value) == bytes && memcmp(want->value, data, bytes) == 0 &&
           lsn == (uint64_t)(want - history) + 1;
}

/* May this damage cut the history short? */
static inline bool may_be_silent(const image *im, const harm *h) {
    return h->file == &im->files[im->newest_segment] && h->end > im->silent_offset && h->end > h->offset;
}

/* ---- what is tried ---- */

static inline bool all_flips(void) {
    const char *text = getenv("VARVE_TEST_FLIPS");
    return text && strcmp(text, "all") == 0;
}

/* How far apart the places are, so that so many of `count` are tried. */
static inline size_t stride_of(size_t count, size_t wanted) {
    return all_flips() || count <= wanted ? 1 : (count + wanted - 1) / wanted;
}

/* What a test does with each damage: to the file of the image, which has other bytes then, or is gone (NULL).
 */
typedef void (*damage_fn)(const image *im, const harm *h, const uint8_t *bytes, size_t count);

static inline void flip_bytes(damage_fn try, const image *im, const file *f, size_t wanted, uint64_t *seed) {
    uint8_t *bytes = malloc(f->count + 1);
    memcpy(bytes, f->bytes, f->count);
    size_t stride = stride_of(f->used, wanted);
    for (size_t at = vv_test_random(seed) % stride; at < f->used; at += stride)
        for (unsigned bit = 0; bit < (all_flips() ? 8 : 1); bit++) {
            harm h = {.file = f, .kind = "flip", .offset = at, .end = at + 1};
            bytes[at] ^= (uint8_t)(1U << (all_flips() ? bit : vv_test_random(seed) % 8));
            try(im, &h, bytes, f->count);
            bytes[at] = f->bytes[at];
        }
    /* What is behind the frames of a segment. */
    for (size_t n = 0; n < 8 && f->used < f->count; n++) {
        size_t at = f->used + vv_test_random(seed) % (f->count - f->used);
        harm h = {.file = f, .kind = "flip", .offset = at, .end = at + 1};
        bytes[at] ^= 0x40;
        try(im, &h, bytes, f->count);
        bytes[at] = f->bytes[at];
    }
    free(bytes);
}

static inline void cut(damage_fn try, const image *im, const file *f, size_t wanted, uint64_t *seed) {
    size_t stride = stride_of(f->count, wanted);
    for (size_t at = vv_test_random(seed) % stride; at < f->count; at += stride) {
        harm h = {.file = f, .kind = "cut", .offset = at, .end = f->count};
        try(im, &h, f->bytes, at);
    }
}

/* Each block zeroed, and each in the place of the one before. */
static inline void replace_blocks(damage_fn try, const image *im, const file *f) {
    size_t block = is_segment(f) ? IO_BLOCK : 4096;
    uint8_t *bytes = malloc(f->count + 1);
    memcpy(bytes, f->bytes, f->count);
    for (size_t at = 0; at < f->used; at += block) {
        size_t count = VV_MIN(block, f->count - at);
        harm h = {.file = f, .kind = "zeros", .offset = at, .end = at + count};
        memset(bytes + at, 0, count);
        try(im, &h, bytes, f->count);
        memcpy(bytes + at, f->bytes + at, count);
        if (at < block)
            continue;
        h.kind = "a copy of the block before";
        memcpy(bytes + at, f->bytes + at - block, count);
        try(im, &h, bytes, f->count);
        memcpy(bytes + at, f->bytes + at, count);
    }
    free(bytes);
}

/* Each kind of damage to every file; `wanted`: about so many flips in each of them. */
static inline void damage_each_file(damage_fn try, const image *im, size_t wanted, uint64_t *seed) {
    for (size_t i = 0; i < im->file_count; i++) {
        const file *f = &im->files[i];
        flip_bytes(try, im, f, wanted, seed);
        cut(try, im, f, wanted / 8, seed);
        replace_blocks(try, im, f);
        harm h = {.file = f, .kind = "removed"};
        try(im, &h, NULL, 0);
    }
}

#endif
