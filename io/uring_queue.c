/*
 * uring_queue.c - the io_uring backend: files as posix has them, and a ring for each queue.
 *
 *   submit() --> [waiting] --feed--> ring --CQEs--> settle --+--> [done] --> callbacks
 *                    ^                                       |
 *                    +------------- the rest of a request ---+
 *
 * A request goes through one or more rounds. A round is one entry of the ring, or for WRITE_SYNC with bytes
 * left to write two: write -> IOSQE_IO_LINK -> fsync(DATASYNC). It is settled when all of its completions
 * have arrived; what a short transfer, EINTR or EAGAIN left over goes to the front of [waiting] as a new
 * round.
 *
 * Why acknowledged bytes survive: WRITE_SYNC is OK only if in its last round the write transferred all that
 * was left and the fsync, which the link let start no earlier than that, returned 0. So:
 *   U1  The two entries of a chain go into the ring together (its space is checked first), and should the
 *       kernel still take the write alone, its fsync is made a no-op and a sync of its own follows later:
 *       mend_split().
 *   U2  A short write breaks the link: its fsync gets ECANCELED, which is never a success. The rest is
 *       written and synced by a new chain. IOSQE_IO_HARDLINK would run the fsync after a short write, and is
 *       never used.
 *   U3  A sync that ran and failed is final, also when its write was short: the request fails, no further
 *       sync is tried.
 *
 * The ring has room for two entries of every request in flight, and twice that for completions, which
 * therefore never overflow.
 *
 * Locking: none. A queue and its ring belong to the thread that made them.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "base/alloc.h"
#include "io/buffer_pool.h"
#include "io/uring_impl.h"

/* The kernel takes no larger registered buffer. */
#define REGISTERED_BYTES_MAX ((size_t)1 << 30)

/* In user_data, beside the request's address: this is the fsync of a chain. */
#define TAG_CHAIN_SYNC UINT64_C(1)

/* The state of a request's current round, kept in its scratch. */
typedef struct uring_round {
    int32_t transfer_result; /* of the read, the write or the lone sync */
    int32_t sync_result;     /* of a chain's fsync */
    uint32_t retries;        /* EINTR and EAGAIN in a row */
    uint8_t awaited;         /* completions still to come */
    bool chained;
    bool split; /* the kernel took the chain's write alone: the fsync has become a no-op */
} uring_round;

_Static_assert(sizeof(uring_round) <= sizeof((vv_io_req){0}.scratch), "fits the request");
_Static_assert(_Alignof(vv_io_req) > TAG_CHAIN_SYNC, "the tag has a bit of its own");

typedef struct req_list {
    vv_io_req *first;
    vv_io_req **last; /* where the next request's address goes */
} req_list;

typedef struct uring_queue {
    vv_io_queue head;
    vv_posix_backend *backend;
    struct io_uring ring;
    vv_buffer_pool pool;
    bool registered; /* the pool's slab is registered buffer 0 */
    bool running;
    vv_status broken; /* OK, or why the ring is of no use any more */
    req_list waiting;
    req_list done;
    vv_io_req **slots;     /* the first `active`: requests with a round in the ring or the kernel */
    uint32_t depth;        /* of the ring: the caller's, or what the memlock limit left of it */
    uint32_t active;       /* <= depth */
    uint32_t cqes_awaited; /* their completions still to come */
} uring_queue;

static int ring_enter(struct io_uring *ring, unsigned wait_nr) {
    return wait_nr > 0 ? io_uring_submit_and_wait(ring, wait_nr) : io_uring_submit_and_get_events(ring);
}

vv_uring_syscalls vv_uring_sys = {.enter = ring_enter};

static uring_round *round_of(vv_io_req *req) {
    return (uring_round *)req->scratch;
}

static void list_init(req_list *l) {
    l->first = NULL;
    l->last = &l->first;
}

static void list_append(req_list *l, vv_io_req *req) {
    req->next = NULL;
    *l->last = req;
    l->last = &req->next;
}

static void list_prepend(req_list *l, vv_io_req *req) {
    req->next = l->first;
    if (!l->first)
        l->last = &req->next;
    l->first = req;
}

static vv_io_req *list_pop(req_list *l) {
    vv_io_req *req = l->first;
    if (req) {
        l->first = req->next;
        if (!l->first)
            l->last = &l->first;
    }
    return req;
}

/* req->state is the index of the slot that a request has while it is active. */
static void slot_take(uring_queue *q, vv_io_req *req) {
    VV_ASSERT(q->active < q->depth);
    req->state = q->active;
    q->slots[q->active++] = req;
}

static void slot_give(uring_queue *q, vv_io_req *req) {
    vv_io_req *moved = q->slots[--q->active];
    q->slots[req->state] = moved;
    moved->state = req->state;
}

/* ---- making and unmaking ---- */

/*
 * Without registration everything works the same, only dearer: not worth more than a line for debugging.
 * Registered bytes count against the memlock limit of the user, as rings do on kernels of today, so pools
 * leave half of it to the rings.
 */
static void register_pool(uring_queue *q, vv_posix_backend *b) {
    const vv_logger *lg = b->logger;
    size_t bytes = q->pool.slab_bytes;
    if (bytes == 0)
        return;
    uint64_t before = atomic_fetch_add_explicit(&b->registered_bytes, bytes, memory_order_relaxed);
    if (bytes > REGISTERED_BYTES_MAX || before + bytes > b->registered_bytes_max) {
        atomic_fetch_sub_explicit(&b->registered_bytes, bytes, memory_order_relaxed);
        vv_log(lg, VV_LOG_DEBUG, "io: buffers of %zu bytes are not registered: more than the %s", bytes,
               bytes > REGISTERED_BYTES_MAX ? "kernel takes" : "memlock limit has to spare");
        return;
    }
    struct iovec iov = {.iov_base = q->pool.slab, .iov_len = bytes};
    int rc = io_uring_register_buffers(&q->ring, &iov, 1);
    q->registered = rc == 0;
    if (rc == 0)
        return;
    atomic_fetch_sub_explicit(&b->registered_bytes, bytes, memory_order_relaxed);
    vv_log(lg, VV_LOG_DEBUG, "io: buffers of %zu bytes are not registered: %s%s", bytes, strerrordesc_np(-rc),
           rc == -ENOMEM ? " (the memlock limit)" : "");
}

static void release(uring_queue *q) {
    vv_buffer_pool_deinit(&q->pool);
    vv_free(q->slots);
    vv_free(q);
}

/* A smaller ring where the memlock limit allows no larger one: the queue holds back what doesn't fit. */
static vv_status make_ring(uring_queue *q, const vv_posix_backend *b, vv_error *err) {
    uint32_t wanted = q->head.options.depth;
    q->depth = wanted;
    int rc = vv_uring_ring_init(&q->ring, 2 * q->depth, b->ring_flags);
    while (rc == -ENOMEM && q->depth > 1) {
        q->depth /= 2;
        rc = vv_uring_ring_init(&q->ring, 2 * q->depth, b->ring_flags);
    }
    if (rc < 0)
        return vv_fail(err, vv_status_errno(-rc), "I/O queue: a ring for %u requests", q->depth);
    if (q->depth < wanted)
        vv_log(b->logger, VV_LOG_WARN, "io: a ring for %u requests instead of %u: the memlock limit is low",
               q->depth, wanted);
    return VV_STATUS_OK;
}

static vv_status queue_create(vv_io_backend *head, const vv_io_queue_options *o, vv_io_queue **out,
                              vv_error *err) {
    vv_posix_backend *b = (vv_posix_backend *)head;
    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    uring_queue *q = vv_alloc_zeroed(sizeof *q);
    if (!q)
        return vv_fail(err, st, "I/O queue: out of memory");
    q->head = (vv_io_queue){.ops = head->ops, .options = *o};
    q->backend = b;
    list_init(&q->waiting);
    list_init(&q->done);
    q->slots = vv_alloc(o->depth * sizeof *q->slots);
    if (!q->slots || !vv_ok(vv_buffer_pool_init(&q->pool, o->pool_buffer_count, o->pool_buffer_bytes))) {
        release(q);
        return vv_fail(err, st, "I/O queue: out of memory");
    }
    st = make_ring(q, b, err);
    if (!vv_ok(st)) {
        release(q);
        return st;
    }
    register_pool(q, b);
    *out = &q->head;
    return VV_STATUS_OK;
}

static void queue_destroy(vv_io_queue *head) {
    uring_queue *q = (uring_queue *)head;
    VV_ASSERT(head->in_flight == 0 && !q->running);
    if (vv_ok(q->broken))
        vv_uring_ring_exit(&q->ring);
    if (q->registered)
        atomic_fetch_sub_explicit(&q->backend->registered_bytes, q->pool.slab_bytes, memory_order_relaxed);
    release(q);
}

static void queue_submit(vv_io_queue *head, vv_io_req *req) {
    uring_queue *q = (uring_queue *)head;
    req->progress_bytes = 0;
    *round_of(req) = (uring_round){0};
    list_append(&q->waiting, req);
    head->in_flight++;
}

/* ---- into the ring ---- */

static void put_transfer(uring_queue *q, vv_io_req *req, bool link) {
    struct io_uring_sqe *sqe = vv_uring_next_sqe(&q->ring);
    int fd = vv_posix_fd(req->file);
    char *buf = (char *)req->buf + req->progress_bytes;
    uint32_t bytes = req->bytes - req->progress_bytes;
    uint64_t offset = req->offset + req->progress_bytes;
    bool fixed = q->registered && vv_buffer_pool_holds(&q->pool, buf, bytes);
    if (req->op == VV_IO_READ) {
        if (fixed)
            io_uring_prep_read_fixed(sqe, fd, buf, bytes, offset, 0);
        else
            io_uring_prep_read(sqe, fd, buf, bytes, offset);
    } else {
        if (fixed)
            io_uring_prep_write_fixed(sqe, fd, buf, bytes, offset, 0);
        else
            io_uring_prep_write(sqe, fd, buf, bytes, offset);
    }
    if (link)
        io_uring_sqe_set_flags(sqe, IOSQE_IO_LINK);
    io_uring_sqe_set_data64(sqe, (uintptr_t)req);
}

static void put_sync(uring_queue *q, vv_io_req *req, uint64_t tag) {
    struct io_uring_sqe *sqe = vv_uring_next_sqe(&q->ring);
    io_uring_prep_fsync(sqe, vv_posix_fd(req->file), IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(sqe, (uintptr_t)req | tag);
}

/* Put the waiting requests' next rounds into the ring, as far as the depth and the ring's space reach. */
static void feed(uring_queue *q) {
    while (q->waiting.first && q->active < q->depth) {
        vv_io_req *req = q->waiting.first;
        bool chained = req->op == VV_IO_WRITE_SYNC && req->progress_bytes < req->bytes;
        bool sync_only = req->op == VV_IO_SYNC || (req->op == VV_IO_WRITE_SYNC && !chained);
        if (io_uring_sq_space_left(&q->ring) < (chained ? 2u : 1u))
            return;
        (void)list_pop(&q->waiting);
        uring_round *round = round_of(req);
        *round = (uring_round){.retries = round->retries, .awaited = chained ? 2 : 1, .chained = chained};
        if (!sync_only)
            put_transfer(q, req, chained);
        if (sync_only || chained)
            put_sync(q, req, chained ? TAG_CHAIN_SYNC : 0);
        slot_take(q, req);
        q->cqes_awaited += round->awaited;
    }
}

/*
 * The kernel may take fewer entries than it was given, when it is out of memory. If it stopped inside a
 * chain, the write has gone without its fsync, which would later start on its own, with nothing to order it
 * behind the write. It becomes a no-op instead, and settle() has a sync follow the write (U1).
 */
static void mend_split(uring_queue *q) {
    unsigned head = *q->ring.sq.khead; /* the kernel moves it only inside our own io_uring_enter */
    if (head == q->ring.sq.sqe_tail)
        return;
    struct io_uring_sqe *sqe = &q->ring.sq.sqes[head & q->ring.sq.ring_mask];
    if (!(sqe->user_data & TAG_CHAIN_SYNC))
        return;
    uint64_t data = sqe->user_data;
    round_of((vv_io_req *)(uintptr_t)(data & ~TAG_CHAIN_SYNC))->split = true;
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, data);
}

/* ---- out of the ring ---- */

static void finish(uring_queue *q, vv_io_req *req, vv_status st) {
    req->status = st;
    if (req->op == VV_IO_READ || (vv_ok(st) && req->op != VV_IO_SYNC))
        req->transferred_bytes = req->progress_bytes;
    else
        req->transferred_bytes = 0;
    list_append(&q->done, req);
}

/* A transfer that failed with -sys: another round if that is worth it. */
static void retry_or_fail(uring_queue *q, vv_io_req *req, int sys) {
    if ((sys == EINTR || sys == EAGAIN) && ++round_of(req)->retries <= VV_IO_RETRIES_MAX)
        list_prepend(&q->waiting, req);
    else
        finish(q, req, vv_status_errno(sys));
}

/* A round of `req` is complete: done, or another round. */
static void settle(uring_queue *q, vv_io_req *req) {
    uring_round *round = round_of(req);
    int result = round->transfer_result;
    uint32_t wanted = req->bytes - req->progress_bytes;
    slot_give(q, req);

    if (req->op == VV_IO_SYNC || (req->op == VV_IO_WRITE_SYNC && !round->chained)) {
        finish(q, req, result == 0 ? VV_STATUS_OK : vv_status_errno(-result));
        return;
    }
    bool synced = round->chained && !round->split;
    if (synced && round->sync_result != 0 && round->sync_result != -ECANCELED) { /* it ran, and failed: U3 */
        finish(q, req, vv_status_errno(-round->sync_result));
        return;
    }
    if (result < 0) {
        retry_or_fail(q, req, -result);
        return;
    }
    VV_ASSERT((uint32_t)result <= wanted);
    round->retries = 0;
    req->progress_bytes += (uint32_t)result;
    if (req->op == VV_IO_READ) {
        if (req->progress_bytes == req->bytes || vv_posix_read_ended(req->file, (size_t)result))
            finish(q, req, VV_STATUS_OK);
        else
            list_prepend(&q->waiting, req);
    } else if ((uint32_t)result < wanted) {
        if (result == 0) /* nothing taken and no reason given: going on could last forever */
            finish(q, req, vv_status_make(VV_IO, VV_SUB_SHORT_TRANSFER, 0));
        else
            list_prepend(&q->waiting, req); /* U2 */
    } else if (round->split) {
        list_prepend(&q->waiting, req); /* all is written: a lone sync is the next round */
    } else if (synced && round->sync_result != 0) {
        finish(q, req, vv_status_errno(ECANCELED)); /* cancelled though its write was whole: not durable */
    } else {
        finish(q, req, VV_STATUS_OK);
    }
}

/* Settle what has arrived. Calls nobody back. */
static void reap(uring_queue *q) {
    unsigned head, count = 0;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(&q->ring, head, cqe) {
        vv_io_req *req = (vv_io_req *)(uintptr_t)(cqe->user_data & ~TAG_CHAIN_SYNC);
        uring_round *round = round_of(req);
        if (cqe->user_data & TAG_CHAIN_SYNC)
            round->sync_result = cqe->res;
        else
            round->transfer_result = cqe->res;
        count++;
        VV_ASSERT(round->awaited > 0);
        if (--round->awaited == 0)
            settle(q, req);
    }
    io_uring_cq_advance(&q->ring, count);
    VV_ASSERT(q->cqes_awaited >= count);
    q->cqes_awaited -= count;
}

/* ---- running ---- */

/*
 * How many completions to wait for, so that `missing` more requests can be done without a wake-up for each:
 * all that are under way if all are needed and none is held back, else few enough to keep the ring fed.
 */
static unsigned wait_count(const uring_queue *q, uint32_t missing) {
    if (missing == 0 || q->done.first)
        return 0;
    if (q->waiting.first)
        return (q->active + 3) / 4 < missing ? (q->active + 3) / 4 : missing;
    return missing >= q->active ? q->cqes_awaited : missing;
}

/* Give the kernel all that the ring holds and wait. Fails when the ring is of no use any more. */
static vv_status enter(uring_queue *q, uint32_t missing) {
    uint32_t retries = 0;
    for (;;) {
        int rc = vv_uring_sys.enter(&q->ring, wait_count(q, missing));
        mend_split(q);
        bool all_taken = io_uring_sq_ready(&q->ring) == 0;
        if (rc >= 0 && all_taken)
            return VV_STATUS_OK;
        if (rc > 0) { /* a part; it has waited for nothing */
            retries = 0;
            continue;
        }
        bool passing = rc == 0 || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY || rc == -ENOMEM;
        if (!passing || ++retries > VV_IO_RETRIES_MAX)
            return vv_status_errno(-rc);
        /* Out of resources, or a signal: completions that are there may be all that is needed. */
        if (io_uring_cq_ready(&q->ring) > 0)
            return VV_STATUS_OK;
        if (rc != -EINTR)
            sched_yield();
    }
}

/*
 * The ring is of no use any more (a filter put in place after the start, a closed descriptor). Closing it has
 * the kernel cancel what it still holds, but not at once: until the process ends it may go on with transfers
 * that have failed here, so that their buffers and ranges of files are not to be trusted.
 */
static void break_ring(uring_queue *q, vv_status why) {
    q->broken = why;
    vv_uring_ring_exit(&q->ring);
    while (q->active > 0) {
        vv_io_req *req = q->slots[q->active - 1];
        slot_give(q, req);
        finish(q, req, why);
    }
    q->cqes_awaited = 0;
}

static uint32_t call_back(uring_queue *q) {
    vv_io_req *due = q->done.first;
    list_init(&q->done);
    return vv_io_call_back(&q->head, due);
}

static vv_status queue_run(vv_io_queue *head, uint32_t min_done, uint32_t *done_out) {
    uring_queue *q = (uring_queue *)head;
    VV_ASSERT(!q->running); /* a callback may submit, but not run */
    q->running = true;
    uint32_t target = min_done < head->in_flight ? min_done : head->in_flight;
    uint32_t called = 0;
    do {
        if (vv_ok(q->broken)) {
            feed(q);
            vv_status st = q->cqes_awaited > 0 ? enter(q, target - called) : VV_STATUS_OK;
            reap(q);
            if (!vv_ok(st))
                break_ring(q, st);
        }
        if (!vv_ok(q->broken))
            for (vv_io_req *req; (req = list_pop(&q->waiting)) != NULL;)
                finish(q, req, q->broken);
        called += call_back(q);
    } while (called < target);
    q->running = false;
    *done_out = called;
    return q->broken;
}

static void *queue_buffer_take(vv_io_queue *head) {
    return vv_buffer_pool_take(&((uring_queue *)head)->pool);
}

static void queue_buffer_give(vv_io_queue *head, void *buffer) {
    vv_buffer_pool_give(&((uring_queue *)head)->pool, buffer);
}

static const struct vv_io_ops uring_ops = {
    .name = "uring",
    VV_POSIX_FILE_OPS,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_submit = queue_submit,
    .queue_run = queue_run,
    .queue_buffer_take = queue_buffer_take,
    .queue_buffer_give = queue_buffer_give,
};

vv_status vv_uring_backend_create(const vv_logger *lg, vv_io_backend **out, const char **flags_out,
                                  vv_error *err) {
    unsigned flags = 0;
    VV_TRY(vv_uring_probe(&flags, flags_out, err));
    vv_posix_backend *b = NULL;
    VV_TRY(vv_posix_backend_make(&uring_ops, lg, &b, err));
    b->ring_flags = flags;
    b->registered_bytes_max = vv_uring_lockable_bytes() / 2;
    *out = &b->head;
    return VV_STATUS_OK;
}
