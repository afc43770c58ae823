/*
 * service_watch.c - varve.v1.Watch: what is written, as soon as it is durable.
 *
 * A watch is a log cursor and a message; log_streams.h has its life. The call's thread keeps it until the
 * message is written. Who is due is told how far the watch is, by a message without events: a mark.
 *
 * What a slow consumer costs: one message of MESSAGE_BYTES, or of one batch if that is larger, and its
 * cursor; what the cursors have read is bounded for all together (varve_wal_cursor_rest()). It delays nobody
 * else.
 *
 * Invariants
 *   W1  `lsn` of a message is durable, and every operation up to it that the watch is about was in this
 *       message or one before. Messages hold whole batches.
 *   W2  Who holds the watch alone touches it (log_streams.h, L1). `writing` is the call's thread's own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
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

typedef struct vv_watch {
    vv_watches *service;
    vv_rpc_call *call;
    vv_log_stream turn;
    bool draining, writing; /* the call's thread's */

    vv_watch_range range; /* bytes behind the struct */
    uint64_t from_lsn;    /* as asked for */
    uint64_t skip_lsn;    /* batches up to here are not told */
    varve_wal_cursor *cursor;

    /* What the worker brings back. */
    vv_watch_message events;
    uint64_t lsn; /* W1, with these events */
    bool begun;   /* the first mark is sent */
    bool tell;    /* send events, or a mark */
    bool at_end;  /* of the log, when it was looked at last */
    varve_status status;
    uint64_t oldest_lsn; /* of TRIMMED */

    uint8_t bytes[];
} vv_watch;

typedef struct call_state {
    vv_watch *watch;
} call_state;

static vv_watch *watch_of(vv_rpc_call *call) {
    return ((call_state *)(void *)call->state)->watch;
}

void vv_watches_wake(void *watches) {
    vv_watches *s = watches;
    vv_log_streams_wake(&s->streams);
}

/* At the end of the log: wait for more. False: there is more. */
static bool settle(vv_watch *w) {
    vv_watch_message_clear(&w->events, IDLE_BYTES);
    return vv_log_stream_settle(&w->turn);
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
           !vv_log_stream_end_wanted(&w->turn)) {
        varve_wal_batch batch;
        vv_log_stream_look(&w->turn);
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

static void work(vv_job *job) {
    vv_watch *w = VV_CONTAINER_OF(job, vv_watch, turn.job);
    if (!w->cursor)
        begin(w); /* and say so, before anything is read */
    else
        gather(w);
    /* Whatever ended the reading, what was read before is told first. */
    w->tell = w->events.bytes > 0 || (varve_ok(w->status) && (!w->begun || vv_log_stream_is_due(&w->turn)));
    if (w->cursor)
        varve_wal_cursor_rest(w->cursor);
    bool wanted_back = w->tell || !varve_ok(w->status) || vv_log_stream_end_wanted(&w->turn);
    if (!wanted_back && w->at_end && settle(w))
        return;
    if (!wanted_back && !vv_log_stream_end_wanted(&w->turn))
        vv_log_stream_work(&w->turn); /* behind those who wait for their turn */
    else
        vv_rpc_post_and_wake(w->call);
}

/* ---- the call's thread ---- */

static void destroy(vv_watch *w) {
    vv_watches *s = w->service;
    varve_wal_cursor_close(w->cursor);
    vv_watch_message_clear(&w->events, 0);
    vv_free(w);
    vv_log_streams_remove(&s->streams);
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

/* The call's thread holds the watch: is there a reason to end it, and may it be ended? */
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
    if (w->writing)
        return true; /* in on_written() */
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
    w->turn.told_ns = vv_clock_mono_ns();
    w->writing = true;
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
    vv_log_stream_hold(&w->turn);
    if (!ended(w))
        tell(w);
}

static void on_written(vv_rpc_call *call) {
    vv_watch *w = watch_of(call);
    w->tell = w->writing = false;
    if (ended(w) || (w->at_end && settle(w)))
        return;
    vv_log_stream_work(&w->turn);
}

static void on_cancelled(vv_rpc_call *call) {
    vv_watch *w = watch_of(call);
    w->writing = false; /* nothing is under way any more */
    if (vv_log_stream_take_back(&w->turn, true))
        (void)ended(w);
}

static void on_drain(vv_rpc_call *call) {
    vv_watch *w = watch_of(call);
    w->draining = true;
    if (vv_log_stream_take_back(&w->turn, true))
        (void)ended(w);
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
            vv_log_streams_add(&s->streams, &w->turn, work);
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
    *s = (vv_watches){.workers = NULL};
    vv_log_streams_init(&s->streams);
}

vv_status vv_watches_start(vv_watches *s, varve_db *db, vv_timers *timers, uint64_t progress_interval_us) {
    uint64_t interval_ns = progress_interval_us * VV_NS_PER_US;
    vv_workers_options o = {.name = "varve-watch", .thread_count = WORKER_COUNT, .queue_max = UINT32_MAX};
    vv_status st = vv_workers_create(&o, &s->workers);
    if (!vv_ok(st))
        return st;
    s->db = db;
    vv_log_streams_start(&s->streams, &(vv_log_streams_options){.workers = s->workers,
                                                                .timers = timers,
                                                                .patience_ns = interval_ns,
                                                                .tick_ns = interval_ns / TICKS_PER_INTERVAL});
    return st;
}

void vv_watches_stop(vv_watches *s) {
    vv_log_streams_stop(&s->streams);
    vv_workers_destroy(s->workers);
    s->workers = NULL;
}

void vv_watches_deinit(vv_watches *s) {
    vv_log_streams_deinit(&s->streams);
}

vv_rpc_service vv_watch_service(vv_watches *s) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = s};
}
