/*
 * Damage of every kind to every file of a small database, one at a time: each byte flipped, each file cut at
 * each length, each block zeroed or in another's place, each file removed. Whatever is done, opening refuses,
 * or a read fails, or nothing has happened: no read ever answers anything but what was written, and nothing
 * that was acknowledged is missing without an error.
 *
 * One exception, which FORMAT.md section 1 states: in a log that was not closed, no other byte tells of the
 * frames of the newest commit group. So damage to these leaves a shorter history, whole up to its end. The
 * test knows which bytes these are, and lets no others pass.
 *
 * The disk is simulated, in memory. What is done is spread evenly over the files, by a seed;
 * VARVE_TEST_FLIPS=all does everything, each bit of each byte, in some hours.
 */
#include <sched.h>
#include <stdlib.h>

#include "engine/db/db_impl.h"
#include "engine/wal/wal_format.h"
#include "io/sim/io_sim.h"
#include "tests/engine/db_fixture.h"

#define DIR      "/db"
#define KEYS     60
#define FILES    16
#define DAMAGES  64
#define HISTORY  400
#define IO_BLOCK 512

static void setup(void) {
    vv_tempdir(); /* none of it is used; the fixture's clean-up wants it */
}

TestSuite(db_flip, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 36000);

/* ---- what was written ---- */

typedef struct write {
    int key;
    char value[200]; /* "": deleted */
} write;

/* history[n] has LSN n + 1. */
static write history[HISTORY];
static uint64_t history_count;

static const char *key_of(int i) {
    static char names[8][16];
    static int turn;
    char *name = names[turn++ % 8];
    snprintf(name, 16, "key%05d", i * 3);
    return name;
}

/* The newest version of a key up to an LSN; NULL: none, or deleted. */
static const write *newest(int key, uint64_t lsn) {
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

static varve_db *open_on(vv_sim_disk *disk, vv_status *st_out) {
    varve_db *db;
    varve_options *o = fx_options("WAL_SEGMENT_SIZE", "256KiB", "MEMTABLE_SIZE", "64KiB", "COMPRESSION",
                                  compression, "INDEX_TYPE", index_type, "COMPACTION_STYLE", style, NULL);
    *st_out = vv_db_open_on(vv_sim_backend_create(disk), DIR, o, &db, (vv_error *)&fx_err);
    varve_options_destroy(o);
    return db;
}

static void put(varve_db *db, int key, const char *value) {
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

static void put_range(varve_db *db, int from, int to, int step, const char *what) {
    char value[200];
    for (int i = from; i < to; i += step) {
        snprintf(value, sizeof value, "%s of %d: %0*d", what, i, 60 + i % 40, i * i);
        put(db, i, value);
    }
}

static vv_status note_file(void *arg, const char *name, vv_entry_kind kind) {
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

static bool is_segment(const file *f) {
    return strncmp(f->name, "wal-", 4) == 0 && strstr(f->name, ".log");
}

/* Where the frames of a segment end, and where the one begins that holds an LSN (0: not here). */
static void measure_segment(file *f, uint64_t lsn, size_t *at_out) {
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
static void await_next_segment(vv_sim_disk *disk) {
    vv_io_backend *io = vv_sim_backend_create(disk);
    bool there = false;
    while (!there) {
        sched_yield();
        cr_assert(vv_ok(vv_path_exists(io, DIR "/wal-0000000000000003.log", &there, NULL)));
    }
    vv_io_backend_destroy(io);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const file *)a)->name, ((const file *)b)->name);
}

/* A database of every kind of file, with tables in two levels and something in the log. clean: it was closed.
 */
static image make_image(bool clean) {
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

static void free_image(image *im) {
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

static uint64_t refused, detected, harmless, shorter;

/* A copy of the disk on which the file has other bytes, or is gone (bytes NULL). */
static vv_sim_disk *damaged_disk(const image *im, const file *f, const uint8_t *bytes, size_t count) {
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
        vv_file_close(to);
    } else {
        cr_assert(vv_ok(vv_path_unlink(io, path, NULL)));
    }
    vv_io_backend_destroy(io);
    return disk;
}

/* ---- what is read ---- */

typedef struct findings {
    size_t count;
    bool in_range[KEYS]; /* some damage says that the key may be lost */
    bool of_file;        /* some damage names the file that was damaged */
    int first_block_at;  /* the first block of a table is damaged, which begins with this key; -1: none is */
    uint64_t unreadable; /* keys that could not be read */
} findings;

static const harm *now; /* for the words of a failure */

#define CHECK(condition, ...)                                                                                \
    cr_assert(condition, "%s: %s at %zu: " __VA_OPT__(VV_FIRST(__VA_ARGS__)), now->file->name, now->kind,    \
              now->offset __VA_OPT__(VV_REST(__VA_ARGS__)))
#define VV_FIRST(x, ...) x
#define VV_REST(x, ...)  __VA_OPT__(, ) __VA_ARGS__

static bool is_refusal(int code) {
    return code == VARVE_CORRUPTION || code == VARVE_UNSUPPORTED;
}

static void note_damage(void *arg, const varve_damage *d) {
    findings *f = arg;
    f->count++;
    f->of_file |= strstr(d->file, now->file->name) != NULL;
    CHECK(strstr(d->text, d->file), "words without the file: %s", d->text);
    for (int i = KEYS - 1; i >= 0 && d->first_key; i--) {
        vv_slice key = vv_slice_str(key_of(i));
        if (vv_slice_equal(vv_slice_make(d->first_key, d->first_key_bytes), key) && strstr(d->file, ".sst") &&
            (d->offset == 0 || d->offset + d->bytes == now->file->count))
            f->first_block_at = i;
        f->in_range[i] |= vv_slice_compare(vv_slice_make(d->first_key, d->first_key_bytes), key) <= 0 &&
                          vv_slice_compare(key, vv_slice_make(d->last_key, d->last_key_bytes)) <= 0;
    }
}

static bool value_is(const write *want, const void *data, size_t bytes, uint64_t lsn) {
    return strlen(want->value) == bytes && memcmp(want->value, data, bytes) == 0 &&
           lsn == (uint64_t)(want - history) + 1;
}

static void check_answer(int key, uint64_t lsn, varve_status st, const varve_value *v, bool *bad) {
    const write *want = newest(key, lsn);
    if (is_refusal(st.code)) {
        *bad = true;
        return;
    }
    CHECK(st.code == (want ? VARVE_OK : VARVE_NOT_FOUND), "key %d: %s", key, varve_code_name(st.code));
    if (want)
        CHECK(value_is(want, v->data, v->bytes, v->lsn), "key %d: a wrong value", key);
}

static void read_keys(varve_db *db, uint64_t lsn, bool bad[KEYS]) {
    varve_lookup lookups[KEYS];
    for (int i = 0; i < KEYS; i++) {
        varve_value v;
        const char *name = key_of(i);
        varve_status st = varve_get(db, name, strlen(name), &v);
        bad[i] = false;
        check_answer(i, lsn, st, &v, &bad[i]);
        varve_value_release(&v);
    }
    char names[KEYS][16];
    for (int i = 0; i < KEYS; i++) {
        strcpy(names[i], key_of(i));
        lookups[i] = (varve_lookup){.key = names[i], .key_bytes = strlen(names[i])};
    }
    CHECK(varve_ok(varve_multi_get(db, NULL, lookups, KEYS)), "multi-get");
    for (int i = 0; i < KEYS; i++) {
        bool bad_too = false;
        check_answer(i, lsn, lookups[i].status, &lookups[i].value, &bad_too);
        CHECK(bad_too == bad[i], "key %d: one by one and all together differ", i);
        varve_value_release(&lookups[i].value);
    }
}

/* Scan from key `at` on, one way. Every entry is the next one that has to be there. Returns the key at which
 * it failed, or the one behind the last. */
static int scan_from(varve_iter *it, uint64_t lsn, int at, int step) {
    const char *name = key_of(at);
    if (step > 0)
        varve_iter_seek(it, name, strlen(name));
    else
        varve_iter_seek_back(it, name, strlen(name));
    for (; at >= 0 && at < KEYS; at += step) {
        const write *want = newest(at, lsn);
        varve_entry e;
        if (!want)
            continue;
        if (!varve_iter_valid(it)) {
            CHECK(is_refusal(varve_iter_status(it).code), "scan: key %d is missing, %s", at,
                  varve_code_name(varve_iter_status(it).code));
            return at;
        }
        varve_iter_entry(it, &e);
        CHECK(e.key_bytes == strlen(key_of(at)) && memcmp(e.key, key_of(at), e.key_bytes) == 0,
              "scan: '%.*s' instead of key %d", (int)e.key_bytes, (const char *)e.key, at);
        CHECK(value_is(want, e.value, e.value_bytes, e.lsn), "scan: a wrong value of key %d", at);
        if (step > 0)
            varve_iter_next(it);
        else
            varve_iter_prev(it);
    }
    CHECK(!varve_iter_valid(it), "scan: more than there is");
    return at;
}

/* Both ways, over every key that can be read: a bad block stops a cursor, and seeking gets it past. */
static bool scan_all(varve_db *db, uint64_t lsn) {
    varve_iter *it;
    bool failed = false;
    CHECK(varve_ok(varve_iter_create(db, NULL, &it)), "a cursor");
    for (int step = 1; step >= -1; step -= 2) {
        int at = step > 0 ? 0 : KEYS - 1;
        while (at >= 0 && at < KEYS) {
            at = scan_from(it, lsn, at, step);
            bool more = at >= 0 && at < KEYS;
            failed |= more || is_refusal(varve_iter_status(it).code);
            if (!more)
                break;
            at += step;
        }
    }
    varve_iter_destroy(it);
    return failed;
}

/* A cursor that has met the damage shows all that lies outside of the ranges that may be lost: but not what
 * comes before a run that begins with damage, since it needs the next entry of each run. (On the way back,
 * the same goes for every damage.) */
static void seek_around(varve_db *db, uint64_t lsn, const findings *f) {
    varve_iter *it;
    CHECK(varve_ok(varve_iter_create(db, NULL, &it)), "a cursor");
    for (int i = 0; i < KEYS; i++) {
        const write *want = newest(i, lsn);
        const char *name = key_of(i);
        varve_entry e;
        varve_iter_seek(it, name, strlen(name));
        if (f->in_range[i] || !want || i < f->first_block_at)
            continue;
        CHECK(varve_iter_valid(it), "seek: key %d is outside of the damage: %s", i,
              varve_code_name(varve_iter_status(it).code));
        varve_iter_entry(it, &e);
        CHECK(value_is(want, e.value, e.value_bytes, e.lsn), "seek: key %d", i);
    }
    varve_iter_destroy(it);
}

/* Everything that can be read of an open database. lsn: of its end. */
static bool read_all(varve_db *db, uint64_t lsn, findings *f) {
    bool bad[KEYS];
    varve_verify_result result;
    varve_error words;
    varve_verify_options o = {.damaged = note_damage, .arg = f};
    read_keys(db, lsn, bad);
    bool failed = scan_all(db, lsn);
    varve_status st = varve_verify(db, &o, &result, &words);
    CHECK(varve_ok(st), "verify: %s", words.text);
    CHECK(result.damage_count == f->count, "verify: counts");
    for (int i = 0; i < KEYS; i++)
        if (bad[i]) {
            f->unreadable++;
            CHECK(f->in_range[i], "key %d can't be read, and verify does not say so", i);
        }
    CHECK(f->count == 0 || f->of_file, "verify names another file");
    seek_around(db, lsn, f);
    CHECK(f->unreadable == 0 || failed, "a scan passed over what can't be read");
    return failed || f->count > 0;
}

/* May this damage cut the history short? */
static bool may_be_silent(const image *im, const harm *h) {
    return h->file == &im->files[im->newest_segment] && h->end > im->silent_offset && h->end > h->offset;
}

static void try(const image *im, const harm *h, const uint8_t *bytes, size_t count) {
    vv_status st;
    findings f = {.first_block_at = -1};
    now = h;
    vv_sim_disk *disk = damaged_disk(im, h->file, bytes, count);
    varve_db *db = open_on(disk, &st);
    if (!db) {
        CHECK(is_refusal(st.code), "open: %s: %s", vv_code_name(st.code), fx_err.text);
        CHECK(strstr(fx_err.text, DIR), "open: words without a path: %s", fx_err.text);
        refused++;
    } else {
        varve_stats s;
        varve_stats_get(db, &s);
        uint64_t lsn = s.last_lsn;
        CHECK(lsn == history_count || (may_be_silent(im, h) && lsn == history_count - 1),
              "LSN %" PRIu64 " of %" PRIu64, lsn, history_count);
        bool found = read_all(db, lsn, &f);
        if (found)
            detected++;
        else if (lsn < history_count)
            shorter++;
        else
            harmless++;
        vv_status_ignore(vv_db_unload(db), "of a database that is damaged");
    }
    vv_sim_disk_destroy(disk);
}

/* ---- what is tried ---- */

static bool all_flips(void) {
    const char *text = getenv("VARVE_TEST_FLIPS");
    return text && strcmp(text, "all") == 0;
}

/* How far apart the places are, so that so many of `count` are tried. */
static size_t stride_of(size_t count, size_t wanted) {
    return all_flips() || count <= wanted ? 1 : (count + wanted - 1) / wanted;
}

static void flip_bytes(const image *im, const file *f, size_t wanted, uint64_t *seed) {
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

static void cut(const image *im, const file *f, size_t wanted, uint64_t *seed) {
    size_t stride = stride_of(f->count, wanted);
    for (size_t at = vv_test_random(seed) % stride; at < f->count; at += stride) {
        harm h = {.file = f, .kind = "cut", .offset = at, .end = f->count};
        try(im, &h, f->bytes, at);
    }
}

/* Each block zeroed, and each in the place of the one before. */
static void replace_blocks(const image *im, const file *f) {
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

static void damage_everything(bool clean, size_t wanted) {
    uint64_t seed = vv_test_seed();
    image im = make_image(clean);
    size_t tables = 0, segments = 0;
    for (size_t i = 0; i < im.file_count; i++) {
        const file *f = &im.files[i];
        tables += strstr(f->name, ".sst") != NULL;
        segments += is_segment(f);
        flip_bytes(&im, f, wanted, &seed);
        cut(&im, f, wanted / 8, &seed);
        replace_blocks(&im, f);
        harm h = {.file = f, .kind = "removed"};
        try(&im, &h, NULL, 0);
    }
    cr_assert_eq(tables, 3);
    cr_assert_geq(segments, 2);
    cr_log_info("refused %" PRIu64 ", detected %" PRIu64 ", harmless %" PRIu64 ", shorter %" PRIu64 "\n",
                refused, detected, harmless, shorter);
    cr_assert(refused > 0 && detected > 0 && harmless > 0);
    cr_assert_eq(shorter > 0, !clean);
    free_image(&im);
}

Test(db_flip, a_closed_database_never_lies) {
    compression = "none", index_type = "sparse", style = "tiered";
    damage_everything(true, 300);
}

Test(db_flip, a_database_that_was_killed_never_lies) {
    compression = "lz4", index_type = "dense", style = "leveled";
    damage_everything(false, 300);
}
