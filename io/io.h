/*
 * io.h - the one way from the engine to files and directories.
 *
 * Three kinds of object:
 *
 *   vv_io_backend   a way to do I/O (io_uring, posix; a simulated disk can stand beside them): opens files,
 *                   changes directories, makes queues. Thread-safe.
 *   vv_file         an open file. Blocking calls on it are thread-safe.
 *   vv_io_queue     asynchronous I/O of one thread: submit many requests, run() their completions. Owned by
 *                   the thread that created it; no other thread may touch it.
 *
 * Why blocking calls exist beside the queue: at a depth of one, pread and pwritev2(RWF_DSYNC) cost what a
 * ring costs or less (measured, idle: a lone durable commit 29.6 us against 35 us for write -> link ->
 * fsync; 4 KiB reads 55k against 57k IOPS). Rings win from two requests on, and that is where the engine uses
 * them.
 *
 * Semantics that every backend shares (tests/io runs one conformance suite over all of them)
 *   - EINTR, EAGAIN and short transfers are handled inside: a write either transferred every byte or failed.
 *     A read is short only at the end of the file.
 *   - Nothing is durable before a sync of the file, and a name is not durable before a sync of its directory.
 *     close() syncs nothing.
 *   - A failed sync is reported once and never retried inside: the kernel may have marked the pages clean.
 *     Whoever gets the failure must treat everything since the last good sync of that file as lost.
 *   - WRITE_SYNC is a write followed by a data sync of the file. It is OK only if both were, in that order.
 *   - Requests in one queue are unordered among each other.
 *   - The status code says ENOSPC and EDQUOT as NO_SPACE, a missing file as NOT_FOUND, all else as
 *     vv_status_errno() does.
 *
 * Direct files (VV_OPEN_DIRECT) bypass the page cache: buffer address, offset and length must be multiples of
 * vv_file.align_bytes. Where a file system has no direct I/O, open falls back to buffered, with align_bytes
 * 1, and semantics are the same.
 */
#ifndef VV_IO_IO_H
#define VV_IO_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/slice.h"
#include "base/status.h"

typedef struct vv_io_backend vv_io_backend;
typedef struct vv_file vv_file;
typedef struct vv_io_queue vv_io_queue;
typedef struct vv_io_req vv_io_req;

/* The largest alignment that direct I/O asks for anywhere Varve runs; buffers aligned to it fit every file.
 */
#define VV_IO_ALIGN_BYTES 4096

typedef enum vv_open_flags {
    VV_OPEN_READ = 1 << 0,
    VV_OPEN_WRITE = 1 << 1,
    VV_OPEN_CREATE = 1 << 2,    /* create if missing, mode 0640 */
    VV_OPEN_EXCLUSIVE = 1 << 3, /* with CREATE: EXISTS if it is there */
    VV_OPEN_TRUNCATE = 1 << 4,
    VV_OPEN_DIRECT = 1 << 5,
    VV_OPEN_RANDOM = 1 << 6, /* reads will be random: no read-ahead */
} vv_open_flags;

typedef enum vv_sync_kind {
    VV_SYNC_DATA, /* data, and the metadata needed to read it back (size): fdatasync */
    VV_SYNC_FULL, /* fsync */
} vv_sync_kind;

/* The common head of every backend's file. Read-only for callers. */
struct vv_file {
    const struct vv_io_ops *ops;
    vv_io_backend *backend;
    uint32_t align_bytes;        /* of buffer, offset and length; 1 for buffered files */
    uint32_t atomic_block_bytes; /* the device's physical block: a write that shares a block of this size with
                                    older bytes may tear them on power loss; 512 to 65536, 4096 if unknown */
};

typedef enum vv_io_op { VV_IO_READ, VV_IO_WRITE, VV_IO_WRITE_SYNC, VV_IO_SYNC } vv_io_op;

/* Called from vv_io_run() on the queue's thread, never recursively, never from submit. It may submit more
 * requests, this one included, but not run the queue. */
typedef void (*vv_io_done_fn)(vv_io_req *req);

/*
 * A request is embedded in its caller's object. From submit until `done` is called it belongs to the backend:
 * neither it nor its buffer may be touched.
 */
struct vv_io_req {
    /* set by the caller */
    vv_io_op op;
    vv_file *file;
    void *buf;
    uint64_t offset;
    uint32_t bytes;
    vv_io_done_fn done;
    void *arg;
    /* set by the backend before `done` */
    vv_status status;
    uint32_t transferred_bytes; /* < bytes only for a read that met the end of the file */
    /* the backend's own */
    vv_io_req *next;
    uint32_t progress_bytes;
    uint32_t state;
    uint64_t scratch[2];
};

typedef struct vv_io_queue_options {
    uint32_t depth;             /* requests in flight at most, 1 to 4096; more are held back, not refused */
    uint32_t pool_buffer_count; /* buffers of the queue's own pool, registered with the kernel where that */
    uint32_t pool_buffer_bytes; /*   pays (1 MiB: half the CPU); 0 for no pool */
} vv_io_queue_options;

typedef enum vv_entry_kind { VV_ENTRY_FILE, VV_ENTRY_DIRECTORY, VV_ENTRY_OTHER } vv_entry_kind;

/* Called for each entry of a directory except "." and ".."; a failure ends the listing and is returned. */
typedef vv_status (*vv_list_fn)(void *arg, const char *name, vv_entry_kind kind);

/* What a backend implements. Callers use the wrappers below. */
struct vv_io_ops {
    const char *name; /* "uring", "posix", "sim" */
    void (*backend_destroy)(vv_io_backend *b);

    vv_status (*file_open)(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err);
    void (*file_close)(vv_file *f);
    vv_status (*file_read)(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out);
    vv_status (*file_write)(vv_file *f, const void *buf, size_t bytes, uint64_t offset);
    vv_status (*file_write_sync)(vv_file *f, const void *buf, size_t bytes, uint64_t offset);
    vv_status (*file_sync)(vv_file *f, vv_sync_kind kind);
    vv_status (*file_allocate)(vv_file *f, uint64_t bytes);
    vv_status (*file_truncate)(vv_file *f, uint64_t bytes);
    vv_status (*file_size)(vv_file *f, uint64_t *bytes_out);

    vv_status (*path_rename)(vv_io_backend *b, const char *from, const char *to, vv_error *err);
    vv_status (*path_unlink)(vv_io_backend *b, const char *path, vv_error *err);
    vv_status (*path_exists)(vv_io_backend *b, const char *path, bool *exists_out, vv_error *err);
    vv_status (*path_link)(vv_io_backend *b, const char *from, const char *to, vv_error *err);
    vv_status (*dir_create)(vv_io_backend *b, const char *path, vv_error *err);
    vv_status (*dir_remove)(vv_io_backend *b, const char *path, vv_error *err);
    vv_status (*dir_sync)(vv_io_backend *b, const char *path, vv_error *err);
    /* NULL where dir_sync() never lacks anything. */
    vv_status (*dir_hold)(vv_io_backend *b, const char *path, vv_error *err);
    vv_status (*dir_list)(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err);
    vv_status (*dir_free_bytes)(vv_io_backend *b, const char *path, uint64_t *bytes_out, vv_error *err);
    vv_status (*lock_acquire)(vv_io_backend *b, const char *path, vv_file **lock_out, vv_error *err);

    vv_status (*queue_create)(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                              vv_error *err);
    void (*queue_destroy)(vv_io_queue *q);
    void (*queue_submit)(vv_io_queue *q, vv_io_req *req);
    vv_status (*queue_run)(vv_io_queue *q, uint32_t min_done, uint32_t *done_out);
    void *(*queue_buffer_take)(vv_io_queue *q);
    void (*queue_buffer_give)(vv_io_queue *q, void *buffer);
};

/* The common head of every backend and queue. */
struct vv_io_backend {
    const struct vv_io_ops *ops;
};

struct vv_io_queue {
    const struct vv_io_ops *ops;
    vv_io_queue_options options;
    uint32_t in_flight; /* submitted and not yet done */
};

/* ---- backends ---- */

typedef enum vv_io_choice { VV_IO_CHOICE_AUTO, VV_IO_CHOICE_URING, VV_IO_CHOICE_POSIX } vv_io_choice;

/*
 * Make a backend. AUTO probes io_uring (a ring, the operations that Varve needs, a round trip) and takes
 * posix where the kernel refuses, with one warning in the log that says why (seccomp, the sysctl, an old
 * kernel, the memlock limit). URING fails with UNSUPPORTED and the same words instead. The choice is logged
 * either way. lg is borrowed until the backend is destroyed.
 */
vv_status vv_io_backend_create(vv_io_choice choice, const vv_logger *lg, vv_io_backend **out,
                               vv_error *err) VV_CHECKED;

static inline void vv_io_backend_destroy(vv_io_backend *b) {
    if (b)
        b->ops->backend_destroy(b);
}

static inline const char *vv_io_backend_name(const vv_io_backend *b) {
    return b->ops->name;
}

/* ---- files ---- */

/* The words in err begin with the path. NOT_FOUND, EXISTS, PERMISSION, NO_SPACE, IO. */
static inline VV_CHECKED
vv_status vv_file_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err) {
    VV_ASSERT(flags & (VV_OPEN_READ | VV_OPEN_WRITE));
    *out = NULL;
    return b->ops->file_open(b, path, flags, out, err);
}

/* Syncs nothing; no request on the file may be in flight. NULL is fine. */
static inline void vv_file_close(vv_file *f) {
    if (f)
        f->ops->file_close(f);
}

static inline bool vv_file_aligned(const vv_file *f, const void *buf, uint64_t bytes, uint64_t offset) {
    return (((uintptr_t)buf | bytes | offset) & (f->align_bytes - 1)) == 0;
}

/* Blocking. *read_out < bytes only at the end of the file. */
static inline VV_CHECKED
vv_status vv_file_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    VV_ASSERT(vv_file_aligned(f, buf, bytes, offset));
    *read_out = 0;
    return f->ops->file_read(f, buf, bytes, offset, read_out);
}

/* Blocking; not durable before a sync. */
static inline VV_CHECKED
vv_status vv_file_write(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    VV_ASSERT(vv_file_aligned(f, buf, bytes, offset));
    return f->ops->file_write(f, buf, bytes, offset);
}

/* Blocking; OK means that these bytes survive power loss (if the file's name and size were synced before, or
 * the size is part of what a data sync covers). */
static inline VV_CHECKED
vv_status vv_file_write_sync(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    VV_ASSERT(vv_file_aligned(f, buf, bytes, offset));
    return f->ops->file_write_sync(f, buf, bytes, offset);
}

static inline VV_CHECKED
vv_status vv_file_sync(vv_file *f, vv_sync_kind kind) {
    return f->ops->file_sync(f, kind);
}

/* Reserve disk space for [0, bytes) without changing what is read back; the size grows to at least `bytes`.
 * NO_SPACE leaves the file usable. OK also where the file system can't reserve. */
static inline VV_CHECKED
vv_status vv_file_allocate(vv_file *f, uint64_t bytes) {
    return f->ops->file_allocate(f, bytes);
}

static inline VV_CHECKED
vv_status vv_file_truncate(vv_file *f, uint64_t bytes) {
    return f->ops->file_truncate(f, bytes);
}

static inline VV_CHECKED
vv_status vv_file_size(vv_file *f, uint64_t *bytes_out) {
    *bytes_out = 0;
    return f->ops->file_size(f, bytes_out);
}

/* ---- directories and names ---- */

/* Replaces `to` atomically. Durable after a sync of the directory (of both, if they differ). */
static inline VV_CHECKED
vv_status vv_path_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    return b->ops->path_rename(b, from, to, err);
}

static inline VV_CHECKED
vv_status vv_path_unlink(vv_io_backend *b, const char *path, vv_error *err) {
    return b->ops->path_unlink(b, path, err);
}

static inline VV_CHECKED
vv_status vv_path_exists(vv_io_backend *b, const char *path, bool *exists_out, vv_error *err) {
    *exists_out = false;
    return b->ops->path_exists(b, path, exists_out, err);
}

/* Give the file `from` a second name. EXISTS: there is something at `to`. UNSUPPORTED: the two are on
 * different file systems, or this one, or this file, takes no second name. Durable after a sync of the
 * directory of `to`. */
static inline VV_CHECKED
vv_status vv_path_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    return b->ops->path_link(b, from, to, err);
}

/* One level, mode 0750; EXISTS if a directory is there already, INVALID_ARGUMENT/NOT_DIRECTORY if something
 * else has the name. */
static inline VV_CHECKED
vv_status vv_dir_create(vv_io_backend *b, const char *path, vv_error *err) {
    return b->ops->dir_create(b, path, err);
}

/* An empty one. */
static inline VV_CHECKED
vv_status vv_dir_remove(vv_io_backend *b, const char *path, vv_error *err) {
    return b->ops->dir_remove(b, path, err);
}

/* From here on, until the backend is destroyed, a vv_dir_sync() by this path needs no further descriptor: it
 * fails only if the sync itself does. For a directory whose failing sync is final for its owner. Once a
 * directory. */
static inline VV_CHECKED
vv_status vv_dir_hold(vv_io_backend *b, const char *path, vv_error *err) {
    return b->ops->dir_hold ? b->ops->dir_hold(b, path, err) : VV_STATUS_OK;
}

/* Make the directory's names durable. */
static inline VV_CHECKED
vv_status vv_dir_sync(vv_io_backend *b, const char *path, vv_error *err) {
    return b->ops->dir_sync(b, path, err);
}

static inline VV_CHECKED
vv_status vv_dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err) {
    return b->ops->dir_list(b, path, fn, arg, err);
}

/* Space that an unprivileged writer could still use. */
static inline VV_CHECKED
vv_status vv_dir_free_bytes(vv_io_backend *b, const char *path, uint64_t *bytes_out, vv_error *err) {
    *bytes_out = 0;
    return b->ops->dir_free_bytes(b, path, bytes_out, err);
}

/* Take the exclusive lock file at `path`, which is created if missing and released by vv_file_close() or the
 * end of the process. LOCKED if another process, or another handle of this one, holds it; the words name the
 * holder's pid where it can be read. */
static inline VV_CHECKED
vv_status vv_lock_acquire(vv_io_backend *b, const char *path, vv_file **lock_out, vv_error *err) {
    *lock_out = NULL;
    return b->ops->lock_acquire(b, path, lock_out, err);
}

/* ---- queues: one thread each ---- */

static inline VV_CHECKED
vv_status vv_io_queue_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                             vv_error *err) {
    VV_ASSERT(o->depth >= 1 && o->depth <= 4096);
    *out = NULL;
    return b->ops->queue_create(b, o, out, err);
}

/* Nothing may be in flight. NULL is fine. */
static inline void vv_io_queue_destroy(vv_io_queue *q) {
    if (q)
        q->ops->queue_destroy(q);
}

/* Hand over a request. Never fails and never calls back: failures arrive at `done` from vv_io_run(). The
 * kernel may not see it before the next vv_io_run(). */
static inline void vv_io_submit(vv_io_queue *q, vv_io_req *req) {
    VV_ASSERT(req->done && req->file);
    VV_ASSERT(req->op == VV_IO_SYNC || vv_file_aligned(req->file, req->buf, req->bytes, req->offset));
    q->ops->queue_submit(q, req);
}

/* Give everything submitted to the kernel, wait until at least min_done requests are done (at most what is in
 * flight), and call their `done`s. min_done 0 only submits and collects what is there. *done_out (may be
 * NULL): the number of `done`s called. Fails only when the queue itself is broken; its requests then fail. */
static inline VV_CHECKED
vv_status vv_io_run(vv_io_queue *q, uint32_t min_done, uint32_t *done_out) {
    uint32_t ignored;
    return q->ops->queue_run(q, min_done, done_out ? done_out : &ignored);
}

/* A buffer of the pool (pool_buffer_bytes, aligned to VV_IO_ALIGN_BYTES), or NULL when all are out. */
static inline void *vv_io_buffer_take(vv_io_queue *q) {
    return q->ops->queue_buffer_take(q);
}

static inline void vv_io_buffer_give(vv_io_queue *q, void *buffer) {
    if (buffer)
        q->ops->queue_buffer_give(q, buffer);
}

#endif
