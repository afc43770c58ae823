/*
 * wal_fixture.h - a log in a directory of the test's own, with records whose bytes follow from their LSN.
 */
#ifndef VV_TESTS_ENGINE_WAL_FIXTURE_H
#define VV_TESTS_ENGINE_WAL_FIXTURE_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/wal/wal.h"
#include "engine/wal/wal_format.h"
#include "tests/support/tempdir.h"

#define must(expr)                                                                                           \
    do {                                                                                                     \
        vv_status must_st_ = (expr);                                                                         \
        cr_assert(vv_ok(must_st_), "%s: %s %s (%d) %s", #expr, vv_code_name(must_st_.code),                  \
                  vv_sub_name(must_st_.sub), must_st_.sys, fx_err.text);                                     \
    } while (0)

static vv_io_backend *fx_io;
static vv_wal *fx_wal;
static vv_error fx_err;
static char fx_dir[256];
static char fx_log[8192]; /* what was logged, line by line */

static inline void fx_log_write(void *arg, vv_log_level level, const char *line) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    (void)arg;
    (void)level;
    pthread_mutex_lock(&lock);
    size_t used = strlen(fx_log);
    snprintf(fx_log + used, sizeof fx_log - used, "%s\n", line);
    pthread_mutex_unlock(&lock);
}
static vv_logger fx_logger = {.write = fx_log_write, .least = VV_LOG_INFO};

static inline void fx_setup(void) {
    snprintf(fx_dir, sizeof fx_dir, "%s", vv_tempdir());
    must(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &fx_io, &fx_err));
}

/* Go on in memory, if there is such a place: for tests that open the log a thousand times. */
static inline void fx_in_memory(void) {
    if (access("/dev/shm", W_OK) != 0)
        return;
    setenv("TMPDIR", "/dev/shm", 1);
    snprintf(fx_dir, sizeof fx_dir, "%s", vv_tempdir());
}

static inline void fx_teardown(void) {
    vv_io_backend_destroy(fx_io);
    vv_tempdir_cleanup();
}

/* ---- records: one put each, key and value from the LSN ---- */

static const uint32_t *fx_sizes; /* by LSN, if the test wants its own */

static uint64_t fx_value_bytes(uint64_t lsn) {
    if (fx_sizes)
        return fx_sizes[lsn];
    return lsn % 7 == 0 ? 0 : lsn * 37 % 300;
}

static inline vv_status fx_append_sized(vv_wal *w, uint64_t lsn, uint64_t value_bytes) {
    char key[32];
    int key_bytes = snprintf(key, sizeof key, "key-%" PRIu64, lsn);
    uint8_t *value = malloc(value_bytes + 1);
    for (uint64_t i = 0; i < value_bytes; i++)
        value[i] = (uint8_t)(lsn * 131 + i * 7);
    uint8_t head[VV_OP_HEAD_BYTES];
    vv_entry e = {.key = vv_slice_make(key, (size_t)key_bytes),
                  .value = vv_slice_make(value, value_bytes),
                  .kind = VV_KIND_PUT,
                  .expires_unix_ms = lsn};
    vv_op_head_encode(head, &e);
    vv_slice parts[3] = {vv_slice_make(head, sizeof head), e.key, e.value};
    vv_record rec = {.first_lsn = lsn, .op_count = 1, .epoch = 1, .client_id = 2, .sequence = lsn};
    rec.ops.bytes = sizeof head + e.key.bytes + e.value.bytes;
    vv_status st = vv_wal_append(w, &rec, parts, 3);
    free(value);
    return st;
}

static inline vv_status fx_append(vv_wal *w, uint64_t lsn) {
    return fx_append_sized(w, lsn, fx_value_bytes(lsn));
}

static uint64_t fx_replayed; /* LSN of the last record that was replayed */
static uint64_t fx_replay_count;
static uint64_t fx_big_lsn, fx_big_bytes; /* the one record of unusual size */

static vv_status fx_replay(void *arg, const vv_record *rec) {
    (void)arg;
    vv_reader r = vv_reader_make(rec->ops);
    vv_entry e;
    must(vv_op_decode(&r, &e));
    char key[32];
    int key_bytes = snprintf(key, sizeof key, "key-%" PRIu64, rec->first_lsn);
    cr_assert(vv_slice_equal(e.key, vv_slice_make(key, (size_t)key_bytes)));
    uint64_t lsn = rec->first_lsn;
    cr_assert_eq(e.value.bytes, lsn == fx_big_lsn ? fx_big_bytes : fx_value_bytes(lsn));
    const uint8_t *value = e.value.data;
    for (uint64_t i = 0; i < e.value.bytes; i++)
        if (value[i] != (uint8_t)(lsn * 131 + i * 7))
            cr_assert_fail("record %" PRIu64 ": byte %" PRIu64 " is wrong", lsn, i);
    cr_assert_eq(rec->sequence, lsn);
    cr_assert_eq(e.expires_unix_ms, lsn);
    if (fx_replay_count > 0)
        cr_assert_eq(lsn, fx_replayed + 1);
    fx_replayed = lsn;
    fx_replay_count++;
    return VV_STATUS_OK;
}

static vv_wal_options fx_options = {.segment_bytes = 64 * 1024, .slot_count = 4};

static inline vv_status fx_open_status(uint64_t replay_after_lsn) {
    fx_options.backend = fx_io;
    fx_options.dir = fx_dir;
    fx_options.logger = &fx_logger;
    fx_options.replay_after_lsn = replay_after_lsn;
    fx_replayed = fx_replay_count = 0;
    fx_log[0] = '\0';
    return vv_wal_open(&fx_options, fx_replay, NULL, &fx_wal, &fx_err);
}

static inline void fx_open(uint64_t replay_after_lsn) {
    must(fx_open_status(replay_after_lsn));
}

static inline void fx_close(void) {
    vv_wal *w = fx_wal;
    fx_wal = NULL;
    must(vv_wal_close(w));
}

/* Append the next `count` records, each in a frame of its own, durable. */
static inline void fx_put(uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        must(fx_append(fx_wal, vv_wal_last_lsn(fx_wal) + 1));
        vv_wal_commit(fx_wal, true);
        must(vv_wal_sync(fx_wal));
    }
}

/* As the database does when everything up to lsn is in SSTables. */
static inline void fx_release(uint64_t lsn) {
    vv_wal_release(fx_wal, vv_wal_first_needed(fx_wal, lsn));
}

/* ---- the directory ---- */

static char *fx_path(uint64_t seq) {
    static char path[512];
    snprintf(path, sizeof path, "%s/wal-%016" PRIx64 ".log", fx_dir, seq);
    return path;
}

static inline int fx_file_count(void) {
    DIR *d = opendir(fx_dir);
    int count = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        count += e->d_name[0] == 'w';
    closedir(d);
    return count;
}

static inline bool fx_exists(uint64_t seq) {
    return access(fx_path(seq), F_OK) == 0;
}

/* NULL if there is no such file. */
static inline uint8_t *fx_file_read(const char *path, size_t *bytes_out) {
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return NULL;
    struct stat st;
    fstat(fd, &st);
    uint8_t *bytes = malloc((size_t)st.st_size + 1);
    ssize_t got = pread(fd, bytes, (size_t)st.st_size, 0);
    close(fd);
    *bytes_out = got < 0 ? 0 : (size_t)got;
    return bytes;
}

static inline void fx_file_patch(const char *path, const void *bytes, size_t count, uint64_t at) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    cr_assert(fd >= 0, "%s", path);
    cr_assert_eq(pwrite(fd, bytes, count, (off_t)at), (ssize_t)count);
    close(fd);
}

/* A picture of the whole directory, to come back to. */
typedef struct fx_image {
    struct {
        char name[64];
        uint8_t *data;
        size_t bytes;
    } files[64];
    int count;
} fx_image;

static inline void fx_image_free(fx_image *image) {
    for (int i = 0; i < image->count; i++)
        free(image->files[i].data);
    image->count = 0;
}

/* False: the log's thread changed a name meanwhile. */
static inline bool fx_image_try(fx_image *image) {
    image->count = 0;
    bool still = true;
    DIR *d = opendir(fx_dir);
    for (struct dirent *e; still && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != 'w')
            continue;
        char path[600];
        snprintf(path, sizeof path, "%s/%s", fx_dir, e->d_name);
        still = access(path, F_OK) == 0;
        if (!still)
            break;
        snprintf(image->files[image->count].name, 64, "%s", e->d_name);
        image->files[image->count].data = fx_file_read(path, &image->files[image->count].bytes);
        still = image->files[image->count].data != NULL;
        image->count += still;
    }
    closedir(d);
    for (int i = 0; still && i < image->count; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", fx_dir, image->files[i].name);
        still = access(path, F_OK) == 0;
    }
    if (!still || image->count != fx_file_count()) {
        fx_image_free(image);
        return false;
    }
    return true;
}

static inline void fx_image_take(fx_image *image) {
    int tries = 0;
    while (!fx_image_try(image))
        cr_assert_lt(++tries, 1000);
}

static inline void fx_wipe(void) {
    DIR *d = opendir(fx_dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != 'w')
            continue;
        char path[600];
        snprintf(path, sizeof path, "%s/%s", fx_dir, e->d_name);
        unlink(path);
    }
    closedir(d);
}

static inline void fx_image_restore(const fx_image *image) {
    fx_wipe();
    for (int i = 0; i < image->count; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", fx_dir, image->files[i].name);
        fx_file_patch(path, image->files[i].data, image->files[i].bytes, 0);
    }
}

static inline bool fx_image_same(const fx_image *image) {
    fx_image now;
    fx_image_take(&now);
    bool same = now.count == image->count;
    for (int i = 0; i < now.count; i++) {
        bool found = false;
        for (int k = 0; k < image->count; k++)
            found |= strcmp(now.files[i].name, image->files[k].name) == 0 &&
                     now.files[i].bytes == image->files[k].bytes &&
                     memcmp(now.files[i].data, image->files[k].data, now.files[i].bytes) == 0;
        same &= found;
        free(now.files[i].data);
    }
    return same;
}

#endif
