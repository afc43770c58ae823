#include "tests/support/fault_io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fault_backend {
    vv_io_backend head;
    vv_io_backend *inner;
    vv_fault_fn fn;
    void *arg;
    vv_fault_space_fn space; /* NULL: the disk's own */
    void *space_arg;
} fault_backend;

typedef struct fault_file {
    vv_file head;
    vv_file *inner;
    char name[256];
} fault_file;

typedef struct fault_queue {
    vv_io_queue head;
    vv_io_req *first;
    vv_io_req **last;
    void *buffers[64];
    uint32_t buffer_count;
} fault_queue;

static const struct vv_io_ops ops;

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static vv_status tell(vv_io_backend *b, const char *op, const char *path) {
    fault_backend *f = (fault_backend *)b;
    return f->fn(f->arg, op, base_name(path));
}

static vv_status tell_file(vv_file *file, const char *op) {
    return tell(file->backend, op, ((fault_file *)file)->name);
}

static vv_file *inner(vv_file *file) {
    return ((fault_file *)file)->inner;
}

static vv_io_backend *inner_backend(vv_io_backend *b) {
    return ((fault_backend *)b)->inner;
}

static void *must_alloc(size_t bytes) {
    void *p = calloc(1, bytes);
    if (!p)
        abort();
    return p;
}

static void backend_destroy(vv_io_backend *b) {
    vv_io_backend_destroy(inner_backend(b));
    free(b);
}

static vv_file *wrap(vv_io_backend *b, vv_file *file, const char *path) {
    fault_file *f = must_alloc(sizeof *f);
    f->head = *file;
    f->head.ops = &ops;
    f->head.backend = b;
    f->inner = file;
    snprintf(f->name, sizeof f->name, "%s", base_name(path));
    return &f->head;
}

static vv_status file_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err) {
    vv_status st = tell(b, "open", path);
    if (!vv_ok(st))
        return vv_fail(err, st, "%s", path);
    VV_TRY(vv_file_open(inner_backend(b), path, flags, out, err));
    *out = wrap(b, *out, path);
    return st;
}

static void file_close(vv_file *f) {
    vv_file_close(inner(f));
    free(f);
}

static vv_status file_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    VV_TRY(tell_file(f, "read"));
    return vv_file_read(inner(f), buf, bytes, offset, read_out);
}

static vv_status file_write(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    VV_TRY(tell_file(f, "write"));
    return vv_file_write(inner(f), buf, bytes, offset);
}

static vv_status file_sync(vv_file *f, vv_sync_kind kind) {
    VV_TRY(tell_file(f, kind == VV_SYNC_DATA ? "datasync" : "sync"));
    return vv_file_sync(inner(f), kind);
}

static vv_status file_write_sync(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    VV_TRY(file_write(f, buf, bytes, offset));
    return file_sync(f, VV_SYNC_DATA);
}

static vv_status file_allocate(vv_file *f, uint64_t bytes) {
    VV_TRY(tell_file(f, "allocate"));
    return vv_file_allocate(inner(f), bytes);
}

static vv_status file_truncate(vv_file *f, uint64_t bytes) {
    VV_TRY(tell_file(f, "truncate"));
    return vv_file_truncate(inner(f), bytes);
}

static vv_status file_size(vv_file *f, uint64_t *bytes_out) {
    return vv_file_size(inner(f), bytes_out);
}

static vv_status path_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    VV_TRY(tell(b, "rename", to));
    return vv_path_rename(inner_backend(b), from, to, err);
}

static vv_status path_unlink(vv_io_backend *b, const char *path, vv_error *err) {
    VV_TRY(tell(b, "unlink", path));
    return vv_path_unlink(inner_backend(b), path, err);
}

static vv_status path_exists(vv_io_backend *b, const char *path, bool *exists_out, vv_error *err) {
    return vv_path_exists(inner_backend(b), path, exists_out, err);
}

static vv_status path_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    VV_TRY(tell(b, "link", to));
    return vv_path_link(inner_backend(b), from, to, err);
}

static vv_status dir_remove(vv_io_backend *b, const char *path, vv_error *err) {
    VV_TRY(tell(b, "rmdir", path));
    return vv_dir_remove(inner_backend(b), path, err);
}

static vv_status dir_create(vv_io_backend *b, const char *path, vv_error *err) {
    VV_TRY(tell(b, "mkdir", path));
    return vv_dir_create(inner_backend(b), path, err);
}

static vv_status dir_sync(vv_io_backend *b, const char *path, vv_error *err) {
    VV_TRY(tell(b, "dirsync", path));
    return vv_dir_sync(inner_backend(b), path, err);
}

static vv_status dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err) {
    return vv_dir_list(inner_backend(b), path, fn, arg, err);
}

static vv_status dir_free_bytes(vv_io_backend *b, const char *path, uint64_t *bytes_out, vv_error *err) {
    fault_backend *f = (fault_backend *)b;
    if (f->space) {
        *bytes_out = f->space(f->space_arg);
        return VV_STATUS_OK;
    }
    return vv_dir_free_bytes(inner_backend(b), path, bytes_out, err);
}

static vv_status lock_acquire(vv_io_backend *b, const char *path, vv_file **lock_out, vv_error *err) {
    VV_TRY(vv_lock_acquire(inner_backend(b), path, lock_out, err));
    *lock_out = wrap(b, *lock_out, path);
    return VV_STATUS_OK;
}

/* ---- queues ---- */

static vv_status queue_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                              vv_error *err) {
    (void)b;
    (void)err;
    fault_queue *q = must_alloc(sizeof *q);
    q->head.ops = &ops;
    q->head.options = *o;
    q->last = &q->first;
    for (uint32_t i = 0; i < o->pool_buffer_count; i++)
        if (posix_memalign(&q->buffers[q->buffer_count++], VV_IO_ALIGN_BYTES, o->pool_buffer_bytes) != 0)
            abort();
    *out = &q->head;
    return VV_STATUS_OK;
}

static void queue_destroy(vv_io_queue *head) {
    fault_queue *q = (fault_queue *)head;
    while (q->buffer_count > 0)
        free(q->buffers[--q->buffer_count]);
    free(q);
}

static void queue_submit(vv_io_queue *head, vv_io_req *req) {
    fault_queue *q = (fault_queue *)head;
    req->next = NULL;
    *q->last = req;
    q->last = &req->next;
    q->head.in_flight++;
}

static vv_status execute(vv_io_req *req) {
    size_t done = req->bytes;
    vv_status st = VV_STATUS_OK;
    switch (req->op) {
    case VV_IO_READ: st = file_read(req->file, req->buf, req->bytes, req->offset, &done); break;
    case VV_IO_WRITE: st = file_write(req->file, req->buf, req->bytes, req->offset); break;
    case VV_IO_WRITE_SYNC: st = file_write_sync(req->file, req->buf, req->bytes, req->offset); break;
    case VV_IO_SYNC: st = file_sync(req->file, VV_SYNC_DATA); break;
    }
    req->transferred_bytes = (uint32_t)done;
    return st;
}

static vv_status queue_run(vv_io_queue *head, uint32_t min_done, uint32_t *done_out) {
    fault_queue *q = (fault_queue *)head;
    (void)min_done;
    *done_out = 0;
    while (q->first) {
        vv_io_req *req = q->first;
        q->first = req->next;
        if (!q->first)
            q->last = &q->first;
        q->head.in_flight--;
        req->status = execute(req);
        (*done_out)++;
        req->done(req);
    }
    return VV_STATUS_OK;
}

static void *queue_buffer_take(vv_io_queue *head) {
    fault_queue *q = (fault_queue *)head;
    return q->buffer_count ? q->buffers[--q->buffer_count] : NULL;
}

static void queue_buffer_give(vv_io_queue *head, void *buffer) {
    fault_queue *q = (fault_queue *)head;
    q->buffers[q->buffer_count++] = buffer;
}

static const struct vv_io_ops ops = {
    .name = "fault",
    .backend_destroy = backend_destroy,
    .file_open = file_open,
    .file_close = file_close,
    .file_read = file_read,
    .file_write = file_write,
    .file_write_sync = file_write_sync,
    .file_sync = file_sync,
    .file_allocate = file_allocate,
    .file_truncate = file_truncate,
    .file_size = file_size,
    .path_rename = path_rename,
    .path_unlink = path_unlink,
    .path_exists = path_exists,
    .path_link = path_link,
    .dir_create = dir_create,
    .dir_remove = dir_remove,
    .dir_sync = dir_sync,
    .dir_list = dir_list,
    .dir_free_bytes = dir_free_bytes,
    .lock_acquire = lock_acquire,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_submit = queue_submit,
    .queue_run = queue_run,
    .queue_buffer_take = queue_buffer_take,
    .queue_buffer_give = queue_buffer_give,
};

vv_io_backend *vv_fault_io_create(vv_fault_fn fn, void *arg) {
    fault_backend *b = must_alloc(sizeof *b);
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &b->inner, NULL);
    if (!vv_ok(st))
        abort();
    b->head.ops = &ops;
    b->fn = fn;
    b->arg = arg;
    return &b->head;
}

void vv_fault_io_set_space(vv_io_backend *b, vv_fault_space_fn fn, void *arg) {
    fault_backend *f = (fault_backend *)b;
    f->space = fn;
    f->space_arg = arg;
}
