/*
 * store_device.c - the device without a store: what a durable put or a cold read costs at the least.
 *
 *   put        one block after the other into a recycled file, O_DIRECT and RWF_DSYNC: the fastest way to
 * make one record durable that was found here get        a random 4 KiB block of a file as large as the data,
 * O_DIRECT get_async  the same through a ring, `depth` under way
 *
 * It knows no keys: whatever is asked for is found.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/engine/kinds.h"
#include "bench/report.h"

#define BLOCK_BYTES  4096
#define CHUNK_BYTES  (1u << 20)
#define COMMIT_BYTES (UINT64_C(64) << 20) /* the recycled file */

typedef struct device {
    store base; /* first */
    int fd;
    uint64_t bytes;
    _Atomic uint64_t next; /* byte to write at */
} device;

typedef struct session {
    store_session base; /* first */
    char *block;        /* one, or one for each read under way */
    uint64_t random;
    vv_histogram *latency_ns;
    size_t depth;
    size_t busy;
    size_t *free; /* indexes of blocks; depth - busy */
    uint64_t *start_ns;
    struct io_uring ring;
} session;

static const char *version(void) {
    return "4 KiB blocks, O_DIRECT";
}

/* Overwriting written extents is what the log of a store does that recycles its segments. */
static void fill(device *d) {
    void *chunk;
    if (posix_memalign(&chunk, BLOCK_BYTES, CHUNK_BYTES) != 0)
        report_die("out of memory");
    workload_fill(chunk, CHUNK_BYTES, 1);
    for (uint64_t at = 0; at < d->bytes; at += CHUNK_BYTES)
        if (pwrite(d->fd, chunk, CHUNK_BYTES, (off_t)at) != CHUNK_BYTES)
            report_die("device: write failed");
    free(chunk);
    fsync(d->fd);
}

static store *device_open(const store_config *c) {
    device *d = calloc(1, sizeof *d);
    char path[600];
    if (!d)
        report_die("out of memory");
    d->base.kind = &store_device;
    d->bytes = c->durable ? COMMIT_BYTES : (c->data_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES * CHUNK_BYTES;
    snprintf(path, sizeof path, "%s/raw", c->dir);
    d->fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (d->fd < 0)
        report_die("%s: direct I/O is needed", path);
    if ((uint64_t)lseek(d->fd, 0, SEEK_END) != d->bytes)
        fill(d);
    return &d->base;
}

static void device_close(store *s) {
    device *d = (device *)s;
    close(d->fd);
    free(d);
}

static store_session *session_open(store *s, size_t depth, vv_histogram *latency_ns) {
    static _Atomic uint64_t seed;
    session *x = calloc(1, sizeof *x);
    size_t blocks = depth > 0 ? depth : 1;
    void *block;
    if (!x || posix_memalign(&block, BLOCK_BYTES, blocks * BLOCK_BYTES) != 0)
        report_die("out of memory");
    memset(block, 0x5a, blocks * BLOCK_BYTES);
    x->base.owner = s;
    x->block = block;
    x->random = atomic_fetch_add(&seed, 1) << 32;
    x->latency_ns = latency_ns;
    x->depth = depth;
    x->free = calloc(blocks, sizeof *x->free);
    x->start_ns = calloc(blocks, sizeof *x->start_ns);
    if (!x->free || !x->start_ns)
        report_die("out of memory");
    for (size_t i = 0; i < depth; i++)
        x->free[i] = i;
    if (depth > 0 && io_uring_queue_init((unsigned)depth, &x->ring, 0) != 0)
        report_die("device: io_uring is needed");
    return &x->base;
}

static void reap(session *x) {
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    int rc = io_uring_submit_and_wait(&x->ring, 1);
    uint64_t now = vv_clock_mono_ns();
    if (rc < 0)
        report_die("device: %s", strerror(-rc));
    io_uring_for_each_cqe(&x->ring, head, cqe) {
        if (cqe->res != BLOCK_BYTES)
            report_die("device: read failed");
        size_t i = (size_t)cqe->user_data;
        if (x->latency_ns)
            vv_histogram_record(x->latency_ns, now - x->start_ns[i]);
        x->busy--;
        x->free[x->depth - x->busy - 1] = i;
        count++;
    }
    io_uring_cq_advance(&x->ring, count);
}

static void drain(store_session *base) {
    session *x = (session *)base;
    while (x->busy > 0)
        reap(x);
}

static void session_close(store_session *base) {
    session *x = (session *)base;
    drain(base);
    if (x->depth > 0)
        io_uring_queue_exit(&x->ring);
    free(x->block);
    free(x->free);
    free(x->start_ns);
    free(x);
}

static void put(store_session *base, const char *key, const void *value, size_t value_bytes) {
    device *d = (device *)base->owner;
    session *x = (session *)base;
    struct iovec iov = {x->block, BLOCK_BYTES};
    uint64_t at = atomic_fetch_add_explicit(&d->next, BLOCK_BYTES, memory_order_relaxed) % d->bytes;
    (void)key;
    memcpy(x->block, value, value_bytes < BLOCK_BYTES ? value_bytes : BLOCK_BYTES);
    if (pwritev2(d->fd, &iov, 1, (off_t)at, RWF_DSYNC) != BLOCK_BYTES)
        report_die("device: write failed");
}

static off_t somewhere(session *x) {
    device *d = (device *)x->base.owner;
    return (off_t)(workload_below(&x->random, d->bytes / BLOCK_BYTES) * BLOCK_BYTES);
}

static bool get(store_session *base, const char *key, uint64_t *number_out) {
    session *x = (session *)base;
    (void)key;
    (void)number_out; /* the caller's own stays */
    if (pread(((device *)base->owner)->fd, x->block, BLOCK_BYTES, somewhere(x)) != BLOCK_BYTES)
        report_die("device: read failed");
    return true;
}

/* Submitted with the wait for the next free block, so that a few go together. */
static void get_async(store_session *base, const char *key, uint64_t number) {
    session *x = (session *)base;
    (void)key;
    (void)number;
    while (x->busy == x->depth)
        reap(x);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&x->ring);
    if (!sqe)
        report_die("device: the ring is full");
    size_t i = x->free[x->depth - x->busy - 1];
    x->busy++;
    x->start_ns[i] = vv_clock_mono_ns();
    io_uring_prep_read(sqe, ((device *)base->owner)->fd, x->block + i * BLOCK_BYTES, BLOCK_BYTES,
                       (uint64_t)somewhere(x));
    sqe->user_data = i;
}

const store_kind store_device = {
    .name = "device",
    .abilities = STORE_READS_COLD | STORE_COMMITS_RAW | STORE_HAS_CALLBACKS,
    .version = version,
    .open = device_open,
    .close = device_close,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .get = get,
    .get_async = get_async,
    .drain = drain,
};
