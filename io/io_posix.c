/*
 * io_posix.c - the backend for where io_uring isn't: a queue that carries its requests out inside
 * vv_io_run(), on the thread that calls it.
 *
 *   submit() --> [waiting] --run()--> system calls --> [done] --> callbacks
 *
 * The same semantics as a ring, without its overlap: a run carries out at most `depth` requests in the order
 * of their submission, then calls their callbacks, until min_done of them were called.
 *
 * WRITE_SYNC is pwrite and then fdatasync of the whole file, not RWF_DSYNC, which would cover the bytes of
 * this write alone: a queue promises a sync of the file, as the ring's linked fsync gives it.
 */
#include <string.h>

#include "base/alloc.h"
#include "io/buffer_pool.h"
#include "io/io_impl.h"

typedef struct posix_queue {
    vv_io_queue head;
    vv_buffer_pool pool;
    vv_io_req *first;
    vv_io_req **last; /* where the next request's address goes */
    bool running;
} posix_queue;

static vv_status queue_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                              vv_error *err) {
    posix_queue *q = vv_alloc_zeroed(sizeof *q);
    vv_status st = q ? vv_buffer_pool_init(&q->pool, o->pool_buffer_count, o->pool_buffer_bytes)
                     : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (!vv_ok(st)) {
        vv_free(q);
        return vv_fail(err, st, "I/O queue: out of memory");
    }
    q->head = (vv_io_queue){.ops = b->ops, .options = *o};
    q->last = &q->first;
    *out = &q->head;
    return VV_STATUS_OK;
}

static void queue_destroy(vv_io_queue *head) {
    posix_queue *q = (posix_queue *)head;
    VV_ASSERT(head->in_flight == 0 && !q->running);
    vv_buffer_pool_deinit(&q->pool);
    vv_free(q);
}

static void queue_submit(vv_io_queue *head, vv_io_req *req) {
    posix_queue *q = (posix_queue *)head;
    req->next = NULL;
    *q->last = req;
    q->last = &req->next;
    head->in_flight++;
}

static void carry_out(vv_io_req *req) {
    size_t got = 0;
    switch (req->op) {
    case VV_IO_READ:
        req->status = vv_posix_file_read(req->file, req->buf, req->bytes, req->offset, &got);
        req->transferred_bytes = (uint32_t)got;
        return;
    case VV_IO_WRITE:
    case VV_IO_WRITE_SYNC:
        req->status = vv_posix_file_write(req->file, req->buf, req->bytes, req->offset);
        break;
    case VV_IO_SYNC: req->status = VV_STATUS_OK; break;
    }
    if (vv_ok(req->status) && req->op != VV_IO_WRITE)
        req->status = vv_posix_file_sync(req->file, VV_SYNC_DATA);
    req->transferred_bytes = vv_ok(req->status) && req->op != VV_IO_SYNC ? req->bytes : 0;
}

/* Carry out at most `depth` of the waiting requests, then call them back. The number of callbacks. */
static uint32_t run_batch(posix_queue *q) {
    vv_io_req *batch = q->first;
    vv_io_req **end = &q->first;
    for (uint32_t n = 0; *end && n < q->head.options.depth; n++) {
        carry_out(*end);
        end = &(*end)->next;
    }
    q->first = *end;
    *end = NULL;
    if (!q->first)
        q->last = &q->first;

    return vv_io_call_back(&q->head, batch);
}

static vv_status queue_run(vv_io_queue *head, uint32_t min_done, uint32_t *done_out) {
    posix_queue *q = (posix_queue *)head;
    VV_ASSERT(!q->running); /* a callback may submit, but not run */
    q->running = true;
    uint32_t target = min_done < head->in_flight ? min_done : head->in_flight;
    uint32_t called = 0;
    do {
        called += run_batch(q);
    } while (called < target);
    q->running = false;
    *done_out = called;
    return VV_STATUS_OK;
}

static void *queue_buffer_take(vv_io_queue *head) {
    return vv_buffer_pool_take(&((posix_queue *)head)->pool);
}

static void queue_buffer_give(vv_io_queue *head, void *buffer) {
    vv_buffer_pool_give(&((posix_queue *)head)->pool, buffer);
}

static const struct vv_io_ops posix_ops = {
    .name = "posix",
    VV_POSIX_FILE_OPS,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_submit = queue_submit,
    .queue_run = queue_run,
    .queue_buffer_take = queue_buffer_take,
    .queue_buffer_give = queue_buffer_give,
};

vv_status vv_posix_backend_make(const struct vv_io_ops *ops, const vv_logger *lg, vv_posix_backend **out,
                                vv_error *err) {
    vv_posix_backend *b = vv_alloc_zeroed(sizeof *b);
    if (!b)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "I/O backend: out of memory");
    b->head.ops = ops;
    b->logger = lg;
    vv_mutex_init(&b->mu.lock);
    *out = b;
    return VV_STATUS_OK;
}

vv_status vv_posix_backend_create(const vv_logger *lg, vv_io_backend **out, vv_error *err) {
    vv_posix_backend *b = NULL;
    VV_TRY(vv_posix_backend_make(&posix_ops, lg, &b, err));
    *out = &b->head;
    return VV_STATUS_OK;
}

void vv_posix_backend_destroy(vv_io_backend *b) {
    vv_posix_dirs_release((vv_posix_backend *)b);
    vv_mutex_deinit(&((vv_posix_backend *)b)->mu.lock);
    vv_free(b);
}
