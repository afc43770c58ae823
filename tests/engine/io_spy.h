/*
 * io_spy.h - a backend's calls seen and, where a test wants it, failed. It stands in front of the backend of
 * the test by exchanging the tables of functions; one at a time.
 */
#ifndef VV_TESTS_IO_SPY_H
#define VV_TESTS_IO_SPY_H

#include <stdatomic.h>
#include <string.h>

#include "io/io.h"

typedef struct spy_state {
    const struct vv_io_ops *real;
    struct vv_io_ops ops;
    char
        log[4096]; /* a letter for each call: o open, w write submitted, d done, t truncate, s sync, S full */
    size_t log_count;
    _Atomic uint32_t opens;
    uint32_t calls;   /* that can fail, so far */
    uint32_t fail_at; /* the n-th of them; 0 none */
    int fail_errno;
    vv_io_done_fn done[8]; /* of the requests in flight, each with its request */
    vv_io_req *req[8];
} spy_state;

static spy_state spy;

static void spy_note(char what) {
    if (spy.log_count + 1 < sizeof spy.log)
        spy.log[spy.log_count++] = what;
    spy.log[spy.log_count] = '\0';
}

static bool spy_fails(void) {
    return ++spy.calls == spy.fail_at;
}

static vv_status spy_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err) {
    atomic_fetch_add(&spy.opens, 1);
    vv_status st = spy.real->file_open(b, path, flags, out, err);
    if (vv_ok(st))
        (*out)->ops = &spy.ops;
    return st;
}

static vv_status spy_sync(vv_file *f, vv_sync_kind kind) {
    spy_note(kind == VV_SYNC_FULL ? 'S' : 's');
    return spy_fails() ? vv_status_errno(spy.fail_errno) : spy.real->file_sync(f, kind);
}

static vv_status spy_truncate(vv_file *f, uint64_t bytes) {
    spy_note('t');
    return spy_fails() ? vv_status_errno(spy.fail_errno) : spy.real->file_truncate(f, bytes);
}

static vv_status spy_queue_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                                  vv_error *err) {
    vv_status st = spy.real->queue_create(b, o, out, err);
    if (vv_ok(st))
        (*out)->ops = &spy.ops;
    return st;
}

static void spy_done(vv_io_req *req) {
    size_t i = 0;
    while (spy.req[i] != req)
        i++;
    spy.req[i] = NULL;
    spy_note('d');
    if (spy_fails())
        req->status = vv_status_errno(spy.fail_errno);
    spy.done[i](req);
}

static void spy_submit(vv_io_queue *q, vv_io_req *req) {
    size_t i = 0;
    while (spy.req[i])
        i++;
    spy.req[i] = req;
    spy.done[i] = req->done;
    req->done = spy_done;
    spy_note('w');
    spy.real->queue_submit(q, req);
}

/* Stand in front of b. The n-th call that can fail (a completed write, a truncate, a sync) fails with
 * fail_errno; fail_at 0: none. */
static inline void spy_on(vv_io_backend *b, uint32_t fail_at, int fail_errno) {
    const struct vv_io_ops *real = b->ops == &spy.ops ? spy.real : b->ops;
    memset(&spy, 0, sizeof spy);
    spy.real = real;
    spy.ops = *real;
    spy.ops.file_open = spy_open;
    spy.ops.file_sync = spy_sync;
    spy.ops.file_truncate = spy_truncate;
    spy.ops.queue_create = spy_queue_create;
    spy.ops.queue_submit = spy_submit;
    spy.fail_at = fail_at;
    spy.fail_errno = fail_errno;
    b->ops = &spy.ops;
}

#endif
