/*
 * service_watch.c - varve.v1.Watch: what is written, as soon as it is durable.
 *
 * A watch is a log cursor and a message. It has no thread; it is always in one of three hands:
 *
 *                  .--------- more to read: submit <----------.
 *                  v                                          |
 *     on_call() -> WORKING --post--> on_posted() -> WRITING -> on_written()
 *                  a worker reads    the call's    the        |
 *                  and packs         thread        network    |
 *                  ^   |                                      |
 *   commit or tick |   '--at the end--> IDLE <-- at the end --'
 *                  '---------------------'
 *
 * Reading happens on a worker since it may go to the disk. What is written next is announced by the engine on
 * the committing thread (vv_watches_wake()), which puts one job on the workers' queue for all idle watches
 * together, and none when nobody is idle. One timer sends those on that are due to say how far they are.
 *
 * What a slow consumer costs: one message of MESSAGE_BYTES, or of one batch if that is larger, and its
 * cursor; what the cursors have read is bounded for all together (varve_wal_cursor_rest()). It delays nobody
 * else.
 *
 * Invariants
 *   W1  `lsn` of a message is durable, and every operation up to it that the watch is about was in this
 *       message or one before. Messages hold whole batches.
 *   W2  Who holds the watch alone touches it. `place` says who, under the lock; a watch that a worker has is
 *       asked to come back by `end_wanted`.
 *   W3  No wake-up is lost: a worker that finds the end compares the generation with that from before it
 *       looked, under the lock under which vv_watches_wake() moves it on and takes those who are idle.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "rpc/access.h"
#include "rpc/codec.h"
#include "rpc/service.h"
#include "rpc/status_map.h"
#include "rpc/watch_message.h"
#include "varve/v1/watch.pb-c.h"

#define WORKER_COUNT 2

/* A message is sent from this size on; batches are not cut. */
#define MESSAGE_BYTES ((size_t)64 << 10)

/* From here on a message is handed over to the network instead of copied. */
#define HAND_OVER_BYTES ((size_t)256 << 10)

/* A watch keeps a buffer of this size while it is idle. */
#define IDLE_BYTES ((size_t)4 << 10)

/* A worker turns to another watch after reading that much, however little of it was asked for. */
#define TURN_BYTES ((uint64_t)4 << 20)

/* Of the interval: how late a mark may be. */
#define TICKS_PER_INTERVAL 4

typedef enum place { WORKING, IDLE, WRITING } place;

struct vv_watch {
    vv_watches *service;
    vv_rpc_call *call;
    vv_job job;
    place place;            /* under the service's lock */
    vv_watch *next, **link; /* while idle, under the lock too */
    _Atomic bool end_wanted;
    bool draining; /* the call's thread */

    vv_watch_range range; /* bytes behind the struct */
    uint64_t from_lsn;    /* as asked for */
    uint64_t skip_lsn;    /* batches up to here are not told */
    varve_wal_cursor *cursor;

    /* What the worker brings back. */
    vv_watch_message events;
    uint64_t lsn; /* W1, with these events */
    bool begun;   /* the first mark is sent */
    bool tell;    /* send events, or a mark */
    bool at_end;  /* of the log, as of `generation` */
    uint64_t generation;
    varve_status status;
    uint64_t oldest_lsn; /* of TRIMMED */
    uint64_t told_ns;    /* when the last message was sent */

    uint8_t bytes[];
};

typedef struct call_state {
    vv_watch *watch;
} call_state;

static vv_watch *watch_of(vv_rpc_call *call) {
    return ((call_state *)(void *)call->state)->watch;
}

/* ---- handing on: W2 ---- */

/* With or without the lock; who calls holds the watch, and place is WORKING. */
static void submit(vv_watch *w) {
    bool accepted = vv_workers_submit(w->service->workers, &w->job);
    VV_ASSERT(accepted); /* the queue has no bound, and the pool outlives the calls */
}

/* With the lock. */
static void unlink_idle(vv_watch *w) {
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    w->link = NULL;
    w->place = WORKING;
}

/* At the end of the log: wait for more, unless there is more (W3), or somebody wants it back. */
static bool settle(vv_watch *w) {
    vv_watches *s = w->service;
    vv_watch_message_clear(&w->events, IDLE_BYTES);
    vv_mutex_lock(&s->mu.lock);
    bool idle = atomic_load_explicit(&s->generation, memory_order_relaxed) == w->generation &&
                !atomic_load_explicit(&w->end_wanted, memory_order_relaxed);
    if (idle) {
        w->place = IDLE;
        w->next = s->mu.idle;
        w->link = &s->mu.idle;
        if (w->next)
            w->next->link = &w->next;
        s->mu.idle = w;
    } else {
        w->place = WORKING;
    }
    vv_mutex_unlock(&s->mu.lock);
    return idle;
}

/* Take those who are idle and were told of something before `before_ns`; a list by `next`. With the lock. */
static vv_watch *take_idle(vv_watches *s, uint64_t before_ns) {
    vv_watch *taken = NULL;
    for (vv_watch *w = s->mu.idle, *next; w; w = next) {
        next = w->next;
        if (w->told_ns > before_ns)
            continue;
        unlink_idle(w);
        w->next = taken;
        taken = w;
    }
    return taken;
}

static void submit_all(vv_watch *list) {
    for (vv_watch *w = list, *next; w; w = next) {
        next = w->next; /* once submitted it may be gone */
        submit(w);
    }
}

/* ---- what sends them on ---- */

void vv_watches_wake(void *watches) {
    vv_watches *s = watches;
    vv_mutex_lock(&s->mu.lock);
    atomic_fetch_add_explicit(&s->generation, 1, memory_order_release);
    if (s->mu.idle && !s->mu.wake_queued)
        s->mu.wake_queued = vv_workers_submit(s->workers, &s->wake_job);
    vv_mutex_unlock(&s->mu.lock);
}

static void wake_all(vv_job *job) {
    vv_watches *s = VV_CONTAINER_OF(job, vv_watches, wake_job);
    vv_mutex_lock(&s->mu.lock);
    s->mu.wake_queued = false;
    vv_watch *list = take_idle(s, UINT64_MAX);
    vv_mutex_unlock(&s->mu.lock);
    submit_all(list);
}

/* With the lock. */
static void set_tick(vv_watches *s) {
    uint64_t at_ns = vv_clock_mono_ns() + s->progress_interval_ns / TICKS_PER_INTERVAL;
    s->mu.ticking = s->mu.count > 0 && vv_ok(vv_timers_set(s->timers, &s->tick, at_ns));
}

static void tick(vv_timer *timer) {
    vv_watches *s = VV_CONTAINER_OF(timer, vv_watches, tick);
    uint64_t now_ns = vv_clock_mono_ns();
    uint64_t before_ns = now_ns > s->progress_interval_ns ? now_ns - s->progress_interval_ns : 0;
    vv_mutex_lock(&s->mu.lock);
    vv_watch *list = take_idle(s, before_ns);
    set_tick(s);
    vv_mutex_unlock(&s->mu.lock);
    submit_all(list);
}

/* ---- the worker: read and pack ---- */

/*
 * Never behind what is durable: of the rest a crash leaves nothing, and gives its LSNs to other writes. What
 * is asked for from the future that reads see already is skipped instead.
 */
static void begin(vv_watch *w) {
    varve_stats stats;
    varve_stats_get(w->service->db, &stats);
    uint64_t after_lsn = w->from_lsn == 0 ? stats.durable_lsn : w->from_lsn - 1;
    if (after_lsn > VV_MAX(stats.last_lsn, stats.durable_lsn)) {
        w->status = (varve_status){.code = VARVE_INVALID_ARGUMENT};
        w->oldest_lsn = VV_MAX(stats.last_lsn, stats.durable_lsn);
        return;
    }
    w->skip_lsn = after_lsn;
    w->status = varve_wal_cursor_open(w->service->db, VV_MIN(after_lsn, stats.durable_lsn), &w->cursor,
                                      &w->oldest_lsn);
    if (!w->cursor)
        return;
    varve_wal_cursor_visible_only(w->cursor);
    w->lsn = varve_wal_cursor_lsn(w->cursor);
}

/* Until the message is full, nothing is left, or it was enough for one turn. */
static void gather(vv_watch *w) {
    uint64_t read_bytes = 0, now_unix_ms = vv_clock_unix_ms();
    w->at_end = false;
    while (w->events.bytes < MESSAGE_BYTES && read_bytes < TURN_BYTES &&
           !atomic_load_explicit(&w->end_wanted, memory_order_relaxed)) {
        varve_wal_batch batch;
        w->generation = atomic_load_explicit(&w->service->generation, memory_order_acquire);
        w->status = varve_wal_cursor_next(w->cursor, &batch);
        if (w->status.code == VARVE_END) {
            w->status = (varve_status){0};
            w->at_end = true;
            return;
        }
        if (w->status.code == VARVE_TRIMMED)
            w->oldest_lsn = batch.first_lsn;
        if (!varve_ok(w->status))
            return;
        read_bytes += batch.ops_bytes;
        if (batch.last_lsn > w->skip_lsn)
            w->status = vv_watch_message_add(&w->events, &batch, &w->range, now_unix_ms);
        if (!varve_ok(w->status))
            return;
        w->lsn = batch.last_lsn;
    }
}

static bool mark_is_due(const vv_watch *w) {
    return !w->begun || vv_clock_mono_ns() - w->told_ns >= w->service->progress_interval_ns;
}

static void work(vv_job *job) {
    vv_watch *w = VV_CONTAINER_OF(job, vv_watch, job);
    if (!w->cursor)
        begin(w); /* and say so, before anything is read */
    else
        gather(w);
    /* Whatever ended the reading, what was read before is told first. */
    w->tell = w->events.bytes > 0 || (varve_ok(w->status) && mark_is_due(w));
    if (w->cursor)
        varve_wal_cursor_rest(w->cursor);
    bool wanted_back = w->tell || !varve_ok(w->status) || atomic_load(&w->end_wanted);
    if (!wanted_back && w->at_end && settle(w))
        return;
    if (!wanted_back && !atomic_load(&w->end_wanted))
        submit(w); /* behind those who wait for their turn */
    else
        vv_rpc_post_and_wake(w->call);
}

/* ---- the call's thread ---- */

static void destroy(vv_watch *w) {
    vv_watches *s = w->service;
    varve_wal_cursor_close(w->cursor);
    vv_watch_message_clear(&w->events, 0);
    vv_free(w);
    vv_mutex_lock(&s->mu.lock);
    s->mu.count--;
    vv_mutex_unlock(&s->mu.lock);
}

static void fail_status(vv_rpc_status *out, const vv_watch *w) {
    uint64_t resume_lsn = w->cursor ? w->lsn + 1 : w->from_lsn;
    char resume[24], oldest[24];
    vv_rpc_detail details[2] = {{"resume_lsn", resume}, {"oldest_lsn", oldest}};
    switch (w->status.code) {
    case VARVE_TRIMMED:
        snprintf(resume, sizeof resume, "%" PRIu64, resume_lsn);
        snprintf(oldest, sizeof oldest, "%" PRIu64, w->oldest_lsn);
        vv_rpc_status_set_details(out, VV_RPC_OUT_OF_RANGE, "LSN_TRIMMED", 0, details, 2,
                                  "LSN %s is no longer in the log; the oldest that is there is %s", resume,
                                  oldest);
        break;
    case VARVE_INVALID_ARGUMENT:
        if (w->cursor)
            vv_rpc_status_set(out, VV_RPC_RESOURCE_EXHAUSTED, "BATCH_TOO_LARGE", 0,
                              "the batch at LSN %" PRIu64 " does not fit into one message", resume_lsn);
        else
            vv_rpc_status_set(out, VV_RPC_INVALID_ARGUMENT, "LSN_IN_FUTURE", 0,
                              "from_lsn is %" PRIu64 ", but the newest LSN is %" PRIu64, w->from_lsn,
                              w->oldest_lsn);
        break;
    default: vv_rpc_status_from_engine(out, w->status); break;
    }
}

/* The watch is in the hands of its call's thread: end it, if there is a reason. */
static bool ended(vv_watch *w) {
    vv_rpc_call *call = w->call;
    vv_rpc_status status;
    if (call->cancelled)
        vv_rpc_status_set(&status, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled by the client");
    else if (w->draining)
        vv_rpc_status_set(&status, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", 1000, "shutting down");
    else if (!w->tell && !varve_ok(w->status))
        fail_status(&status, w);
    else if (vv_access_check(call, VV_RPC_READ, &status)) /* still: a watch may last for days */
        return false;
    destroy(w);
    vv_rpc_fail(call, &status);
    return true;
}

static void release_events(void *data) {
    VV_TAKE_OVER(data);
    vv_free(data);
}

static void tell(vv_watch *w) {
    uint8_t rest_bytes[VV_WATCH_REST_BYTES_MAX];
    size_t bytes = vv_watch_message_rest(rest_bytes, w->lsn);
    vv_rpc_body body = {.head = vv_slice_make(rest_bytes, bytes),
                        .tail = vv_slice_make(w->events.data, w->events.bytes)};
    w->begun = true;
    w->told_ns = vv_clock_mono_ns();
    vv_mutex_lock(&w->service->mu.lock);
    w->place = WRITING;
    vv_mutex_unlock(&w->service->mu.lock);
    if (w->events.bytes >= HAND_OVER_BYTES) {
        body.release = release_events;
        body.release_arg = w->events.data;
        VV_HAND_OVER(w->events.data);
        w->events = (vv_watch_message){0};
        vv_rpc_stream_write(w->call, body);
    } else {
        vv_rpc_stream_write(w->call, body);
        w->events.bytes = 0;
    }
}

static void on_posted(vv_rpc_call *call) {
    vv_watch *w = watch_of(call);
    if (!ended(w))
        tell(w);
}

static void on_written(vv_rpc_call *call) {
    vv_watch *w = watch_of(call);
    w->tell = false;
    if (ended(w) || (w->at_end && settle(w)))
        return;
    vv_mutex_lock(&w->service->mu.lock);
    w->place = WORKING;
    vv_mutex_unlock(&w->service->mu.lock);
    submit(w);
}

/* Get the watch back from wherever it is, to be ended: at once if it is idle or, if that is said, in the
 * network's hands; else when a worker has posted it, or the message is written. */
static void want_end(vv_rpc_call *call, bool also_writing) {
    vv_watch *w = watch_of(call);
    vv_mutex_lock(&w->service->mu.lock);
    atomic_store_explicit(&w->end_wanted, true, memory_order_relaxed);
    bool ours = w->place == IDLE || (w->place == WRITING && also_writing);
    if (w->place == IDLE)
        unlink_idle(w);
    vv_mutex_unlock(&w->service->mu.lock);
    if (ours)
        (void)ended(w);
}

static void on_cancelled(vv_rpc_call *call) {
    want_end(call, true); /* nothing is being written any more */
}

static void on_drain(vv_rpc_call *call) {
    watch_of(call)->draining = true;
    want_end(call, false);
}

static vv_slice keep(uint8_t **to, ProtobufCBinaryData bytes) {
    vv_slice kept = vv_slice_make(*to, bytes.len);
    if (bytes.len > 0)
        memcpy(*to, bytes.data, bytes.len);
    *to += bytes.len;
    return kept;
}

static vv_watch *create(vv_watches *s, vv_rpc_call *call, const Varve__V1__WatchRequest *request) {
    vv_watch *w = vv_alloc_zeroed(sizeof *w + request->start.len + request->end.len + request->prefix.len);
    if (!w)
        return NULL;
    uint8_t *to = w->bytes;
    w->service = s;
    w->call = call;
    w->job.run = work;
    w->from_lsn = request->from_lsn;
    w->range.start = keep(&to, request->start);
    w->range.end = keep(&to, request->end);
    w->range.prefix = keep(&to, request->prefix);
    return w;
}

static bool range_is_bad(const Varve__V1__WatchRequest *r) {
    return r->start.len > 0 && r->end.len > 0 &&
           vv_slice_compare(vv_slice_make(r->start.data, r->start.len),
                            vv_slice_make(r->end.data, r->end.len)) > 0;
}

static void on_watch(vv_rpc_call *call, vv_slice bytes) {
    vv_watches *s = call->service;
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__WatchRequest *request =
        (void *)vv_codec_request(call, &arena, &varve__v1__watch_request__descriptor, bytes);
    if (request &&
        VV_MAX(VV_MAX(request->start.len, request->end.len), request->prefix.len) > VARVE_KEY_BYTES_MAX) {
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "KEY_TOO_LONG", 0,
                         "start, end and prefix have at most %d bytes", VARVE_KEY_BYTES_MAX);
    } else if (request && range_is_bad(request)) {
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "BAD_RANGE", 0, "start is behind end");
    } else if (request) {
        vv_watch *w = create(s, call, request);
        if (w) {
            ((call_state *)(void *)call->state)->watch = w;
            vv_mutex_lock(&s->mu.lock);
            s->mu.count++;
            if (!s->mu.ticking)
                set_tick(s);
            vv_mutex_unlock(&s->mu.lock);
            submit(w);
        } else {
            vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", 1000, "out of memory");
        }
    }
    vv_codec_arena_deinit(&arena);
}

static const vv_rpc_method methods[] = {
    {.path = "/varve.v1.Watch/Watch",
     .kind = VV_RPC_SERVER_STREAM,
     .access = VV_RPC_READ,
     .on_call = on_watch,
     .on_written = on_written,
     .on_posted = on_posted,
     .on_cancelled = on_cancelled,
     .on_drain = on_drain},
};

/* ---- life ---- */

void vv_watches_init(vv_watches *s) {
    *s = (vv_watches){.wake_job = {.run = wake_all}};
    vv_timer_init(&s->tick, tick);
    vv_mutex_init(&s->mu.lock);
}

vv_status vv_watches_start(vv_watches *s, varve_db *db, vv_timers *timers, uint64_t progress_interval_us) {
    s->db = db;
    s->timers = timers;
    s->progress_interval_ns = progress_interval_us * VV_NS_PER_US;
    vv_workers_options o = {.name = "varve-watch", .thread_count = WORKER_COUNT, .queue_max = UINT32_MAX};
    return vv_workers_create(&o, &s->workers);
}

void vv_watches_stop(vv_watches *s) {
    VV_ASSERT(s->mu.count == 0);
    if (s->timers)
        vv_timers_unset(s->timers, &s->tick);
    vv_workers_destroy(s->workers);
    s->workers = NULL;
}

void vv_watches_deinit(vv_watches *s) {
    vv_mutex_deinit(&s->mu.lock);
}

vv_rpc_service vv_watch_service(vv_watches *s) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = s};
}
