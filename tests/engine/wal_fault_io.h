/*
 * wal_fault_io.h - a backend for tests that writes down every change, fails what it is told to, and completes
 * queued requests newest first. It delegates to the posix backend; the log does not notice.
 */
#ifndef VV_TESTS_ENGINE_WAL_FAULT_IO_H
#define VV_TESTS_ENGINE_WAL_FAULT_IO_H

#include "tests/engine/wal_fixture.h"

#include <errno.h>
#include <pthread.h>

typedef enum fault_kind {
    F_NONE,
    F_OPEN,
    F_READ,
    F_WRITE,
    F_WRITE_SYNC,
    F_SYNC,
    F_ALLOCATE,
    F_SIZE,
    F_RENAME,
    F_UNLINK,
    F_DIR_SYNC,
    F_LIST,
    F_ANY,
} fault_kind;

typedef struct fault_event {
    fault_kind kind;
    bool failed;
    uint64_t offset;
    char path[64]; /* the name in the directory */
    char to[64];   /* of a rename */
} fault_event;

typedef struct fault_file {
    vv_file head;
    vv_file *real;
    char path[600];
    struct fault_file *next;
} fault_file;

typedef struct fault_queue {
    vv_io_queue head;
    vv_io_req *newest;
} fault_queue;

#define FAULT_EVENTS_MAX 20000
#define FAULT_LSN_MAX    20000

static struct {
    vv_io_backend head;
    vv_io_backend *real;
    pthread_mutex_t lock;
    fault_file *files;
    fault_event events[FAULT_EVENTS_MAX];
    int event_count;
    /* what fails: operations of `kind`, from the nth on; once, or for ever (`sticky`) */
    fault_kind kind;
    int nth;
    int sys;
    bool sticky;
    bool tear; /* a failing write gets half through */
    int fired;
    /* the model that the log's promises are held against */
    vv_wal *watched;
    bool synced[FAULT_LSN_MAX];
    uint64_t synced_prefix;
    bool promised_too_much;
} fault = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void fault_arm(fault_kind kind, int nth, int sys, bool sticky) {
    pthread_mutex_lock(&fault.lock);
    fault.kind = kind;
    fault.nth = nth;
    fault.sys = sys;
    fault.sticky = sticky;
    fault.fired = 0;
    pthread_mutex_unlock(&fault.lock);
}

static inline int fault_event_count(void) {
    pthread_mutex_lock(&fault.lock);
    int count = fault.event_count;
    pthread_mutex_unlock(&fault.lock);
    return count;
}

static inline const char *fault_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Note the operation; the errno that it is to fail with, or 0. */
static inline int fault_begin(fault_kind kind, const char *path, const char *to, uint64_t offset) {
    int sys = 0;
    pthread_mutex_lock(&fault.lock);
    if (fault.kind == kind || fault.kind == F_ANY) {
        if (fault.nth > 0 && --fault.nth == 0) {
            sys = fault.sys;
            fault.fired++;
            if (fault.sticky)
                fault.nth = 1;
        }
    }
    if (fault.event_count < FAULT_EVENTS_MAX) {
        fault_event *e = &fault.events[fault.event_count++];
        *e = (fault_event){.kind = kind, .failed = sys != 0, .offset = offset};
        snprintf(e->path, sizeof e->path, "%s", fault_name(path));
        snprintf(e->to, sizeof e->to, "%s", to ? fault_name(to) : "");
    }
    if (fault.watched) {
        vv_wal_stats s;
        vv_wal_stats_get(fault.watched, &s);
        fault.promised_too_much |= s.durable_lsn > fault.synced_prefix;
    }
    pthread_mutex_unlock(&fault.lock);
    return sys;
}

/* As fx_open_status(). From here on durable_lsn must not pass what the model saw synced; what recovery found
 * and synced is known to be durable. */
static inline vv_status fault_open(uint64_t replay_after_lsn) {
    vv_status st = fx_open_status(replay_after_lsn);
    pthread_mutex_lock(&fault.lock);
    if (vv_ok(st)) {
        fault.watched = fx_wal;
        for (uint64_t lsn = 1; lsn <= vv_wal_last_lsn(fx_wal); lsn++)
            fault.synced[lsn] = true;
        fault.synced_prefix = vv_wal_last_lsn(fx_wal);
    }
    pthread_mutex_unlock(&fault.lock);
    return st;
}

static inline vv_status fault_close(void) {
    pthread_mutex_lock(&fault.lock);
    bool promised_too_much = fault.promised_too_much;
    vv_wal *w = fault.watched;
    fault.watched = NULL;
    memset(fault.synced, 0, sizeof fault.synced);
    pthread_mutex_unlock(&fault.lock);
    cr_assert_not(promised_too_much, "durable_lsn ran ahead of what was synced");
    fx_wal = NULL;
    return vv_wal_close(w);
}

static inline vv_status fault_status(int sys, vv_error *err) {
    return vv_fail(err, vv_status_errno(sys), "injected");
}

static inline void fault_frame_synced(const uint8_t *frame) {
    pthread_mutex_lock(&fault.lock);
    uint64_t first = vv_get_be64(frame + 24), last = vv_get_be64(frame + 32);
    for (uint64_t lsn = first; lsn <= last && lsn < FAULT_LSN_MAX; lsn++)
        fault.synced[lsn] = true;
    while (fault.synced_prefix + 1 < FAULT_LSN_MAX && fault.synced[fault.synced_prefix + 1])
        fault.synced_prefix++;
    pthread_mutex_unlock(&fault.lock);
}

/* ---- files ---- */

static fault_file *of(vv_file *f) {
    return (fault_file *)f;
}

static vv_status ff_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err) {
    int sys = fault_begin(F_OPEN, path, NULL, 0);
    if (sys)
        return fault_status(sys, err);
    fault_file *f = calloc(1, sizeof *f);
    vv_status st = vv_file_open(fault.real, path, flags, &f->real, err);
    if (!vv_ok(st)) {
        free(f);
        return st;
    }
    f->head = *f->real;
    f->head.ops = b->ops;
    f->head.backend = b;
    snprintf(f->path, sizeof f->path, "%s", path);
    pthread_mutex_lock(&fault.lock);
    f->next = fault.files;
    fault.files = f;
    pthread_mutex_unlock(&fault.lock);
    *out = &f->head;
    return st;
}

static void ff_close(vv_file *f) {
    pthread_mutex_lock(&fault.lock);
    fault_file **at = &fault.files;
    while (*at != of(f))
        at = &(*at)->next;
    *at = of(f)->next;
    pthread_mutex_unlock(&fault.lock);
    vv_file_close(of(f)->real);
    free(f);
}

static vv_status ff_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *out) {
    int sys = fault_begin(F_READ, of(f)->path, NULL, offset);
    return sys ? fault_status(sys, NULL) : vv_file_read(of(f)->real, buf, bytes, offset, out);
}

static void tear(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    size_t half = bytes / 2 & ~(size_t)(f->align_bytes - 1);
    if (fault.tear && half)
        vv_status_ignore(vv_file_write(of(f)->real, buf, half, offset), "torn on purpose");
}

static vv_status ff_write(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    int sys = fault_begin(F_WRITE, of(f)->path, NULL, offset);
    if (!sys)
        return vv_file_write(of(f)->real, buf, bytes, offset);
    tear(f, buf, bytes, offset);
    return fault_status(sys, NULL);
}

static vv_status ff_write_sync(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    int sys = fault_begin(F_WRITE_SYNC, of(f)->path, NULL, offset);
    if (sys) {
        tear(f, buf, bytes, offset);
        return fault_status(sys, NULL);
    }
    vv_status st = vv_file_write_sync(of(f)->real, buf, bytes, offset);
    if (vv_ok(st))
        fault_frame_synced(buf);
    return st;
}

static vv_status ff_sync(vv_file *f, vv_sync_kind kind) {
    int sys = fault_begin(F_SYNC, of(f)->path, NULL, 0);
    return sys ? fault_status(sys, NULL) : vv_file_sync(of(f)->real, kind);
}

static vv_status ff_allocate(vv_file *f, uint64_t bytes) {
    int sys = fault_begin(F_ALLOCATE, of(f)->path, NULL, 0);
    return sys ? fault_status(sys, NULL) : vv_file_allocate(of(f)->real, bytes);
}

static vv_status ff_truncate(vv_file *f, uint64_t bytes) {
    return vv_file_truncate(of(f)->real, bytes);
}

static vv_status ff_size(vv_file *f, uint64_t *out) {
    int sys = fault_begin(F_SIZE, of(f)->path, NULL, 0);
    return sys ? fault_status(sys, NULL) : vv_file_size(of(f)->real, out);
}

/* ---- names ---- */

static vv_status ff_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    (void)b;
    int sys = fault_begin(F_RENAME, from, to, 0);
    if (sys)
        return fault_status(sys, err);
    vv_status st = vv_path_rename(fault.real, from, to, err);
    pthread_mutex_lock(&fault.lock);
    for (fault_file *f = fault.files; f; f = f->next)
        if (vv_ok(st) && strcmp(f->path, from) == 0)
            snprintf(f->path, sizeof f->path, "%s", to);
    pthread_mutex_unlock(&fault.lock);
    return st;
}

static vv_status ff_unlink(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    int sys = fault_begin(F_UNLINK, path, NULL, 0);
    return sys ? fault_status(sys, err) : vv_path_unlink(fault.real, path, err);
}

static vv_status ff_exists(vv_io_backend *b, const char *path, bool *out, vv_error *err) {
    (void)b;
    return vv_path_exists(fault.real, path, out, err);
}

static vv_status ff_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    (void)b;
    return vv_path_link(fault.real, from, to, err);
}

static vv_status ff_dir_remove(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    return vv_dir_remove(fault.real, path, err);
}

static vv_status ff_dir_create(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    return vv_dir_create(fault.real, path, err);
}

static vv_status ff_dir_sync(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    int sys = fault_begin(F_DIR_SYNC, path, NULL, 0);
    return sys ? fault_status(sys, err) : vv_dir_sync(fault.real, path, err);
}

static vv_status ff_dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err) {
    (void)b;
    int sys = fault_begin(F_LIST, path, NULL, 0);
    return sys ? fault_status(sys, err) : vv_dir_list(fault.real, path, fn, arg, err);
}

static vv_status ff_free_bytes(vv_io_backend *b, const char *path, uint64_t *out, vv_error *err) {
    (void)b;
    return vv_dir_free_bytes(fault.real, path, out, err);
}

static vv_status ff_lock(vv_io_backend *b, const char *path, vv_file **out, vv_error *err) {
    (void)b;
    return vv_lock_acquire(fault.real, path, out, err);
}

/* ---- the queue: what was submitted last is done first ---- */

static vv_status fq_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out, vv_error *err) {
    (void)err;
    fault_queue *q = calloc(1, sizeof *q);
    q->head = (vv_io_queue){.ops = b->ops, .options = *o};
    *out = &q->head;
    return VV_STATUS_OK;
}

static void fq_destroy(vv_io_queue *q) {
    cr_assert_eq(q->in_flight, 0);
    free(q);
}

static void fq_submit(vv_io_queue *q, vv_io_req *req) {
    req->next = ((fault_queue *)q)->newest;
    ((fault_queue *)q)->newest = req;
    q->in_flight++;
}

static vv_status fq_run(vv_io_queue *q, uint32_t min_done, uint32_t *done_out) {
    for (*done_out = 0; *done_out < min_done && q->in_flight > 0; ++*done_out) {
        vv_io_req *req = ((fault_queue *)q)->newest;
        ((fault_queue *)q)->newest = req->next;
        size_t got = req->bytes;
        switch (req->op) {
        case VV_IO_READ: req->status = ff_read(req->file, req->buf, req->bytes, req->offset, &got); break;
        case VV_IO_WRITE: cr_assert_fail("the log writes and syncs in one");
        case VV_IO_WRITE_SYNC:
            req->status = ff_write_sync(req->file, req->buf, req->bytes, req->offset);
            break;
        case VV_IO_SYNC: req->status = ff_sync(req->file, VV_SYNC_DATA); break;
        }
        req->transferred_bytes = (uint32_t)got;
        q->in_flight--;
        req->done(req);
    }
    return VV_STATUS_OK;
}

static void *fq_take(vv_io_queue *q) {
    (void)q;
    return NULL;
}

static void fq_give(vv_io_queue *q, void *buffer) {
    (void)q;
    (void)buffer;
}

static void ff_destroy(vv_io_backend *b) {
    (void)b;
    VV_ASSERT(!fault.files); /* in a .fini, where Criterion does not count its own assertions */
    vv_io_backend_destroy(fault.real);
}

static const struct vv_io_ops fault_ops = {
    .name = "fault",
    .backend_destroy = ff_destroy,
    .file_open = ff_open,
    .file_close = ff_close,
    .file_read = ff_read,
    .file_write = ff_write,
    .file_write_sync = ff_write_sync,
    .file_sync = ff_sync,
    .file_allocate = ff_allocate,
    .file_truncate = ff_truncate,
    .file_size = ff_size,
    .path_rename = ff_rename,
    .path_unlink = ff_unlink,
    .path_exists = ff_exists,
    .path_link = ff_link,
    .dir_create = ff_dir_create,
    .dir_remove = ff_dir_remove,
    .dir_sync = ff_dir_sync,
    .dir_list = ff_dir_list,
    .dir_free_bytes = ff_free_bytes,
    .lock_acquire = ff_lock,
    .queue_create = fq_create,
    .queue_destroy = fq_destroy,
    .queue_submit = fq_submit,
    .queue_run = fq_run,
    .queue_buffer_take = fq_take,
    .queue_buffer_give = fq_give,
};

/* Put the faulty backend in front of the fixture's. */
static inline void fault_setup(void) {
    fx_setup();
    fault.real = fx_io;
    fault.head.ops = &fault_ops;
    fx_io = &fault.head;
    fx_options.segment_bytes = 16 * 1024;
}

#endif
