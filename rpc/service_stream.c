/*
 * service_stream.c - Replication.StreamWal: the log as it becomes durable, as bytes that varve_apply() takes.
 *
 * A stream is a log cursor and up to two frames; log_streams.h has its life. Its worker also does what a
 * stream begins with, which may have to be made durable. One frame is in the network and one more is packed
 * meanwhile, so that packing costs no throughput: the call's thread sends a stream on as soon as a frame is
 * given to the network. Who is due owes a heartbeat.
 *
 * What a slow follower costs: two frames of FRAME_BYTES, or of one batch if that is larger, and the log that
 * its slot keeps. It delays nobody else.
 *
 * Invariants
 *   S1  Frames have whole batches, in order and without a gap, and only what is durable.
 *   S2  The slot holds the log behind after_lsn before the cursor is opened there, so what the cursor needs
 *       is not trimmed between.
 *   S3  Who holds the stream alone touches it (log_streams.h, L1). `writing` is the call's thread's own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "rpc/access.h"
#include "rpc/node.h"
#include "rpc/replication_impl.h"
#include "rpc/status_map.h"
#include "rpc/wal_frame.h"

/* A frame is sent from this size on; batches are not cut. */
#define FRAME_BYTES ((size_t)512 << 10)

/* From here on a frame is handed over to the network instead of copied. */
#define HAND_OVER_BYTES ((size_t)64 << 10)

/* A stream keeps a buffer of this size while it is idle. */
#define IDLE_BYTES ((size_t)64 << 10)

/* Of the heartbeat: how early one may be. */
#define TICKS_PER_HEARTBEAT 4

/* A server that drains waits for writes, and they for followers: no record for so long, and none is left. */
#define DRAIN_NS (100 * VV_NS_PER_MS)

#define RETRY_MS 1000

typedef struct vv_wal_stream {
    vv_replicas *service;
    vv_rpc_call *call;
    vv_log_stream turn;
    bool draining, writing; /* the call's thread's */
    uint64_t drain_ns;      /* nothing was written since, or since the server began to drain; the same */

    vv_codec_arena arena;
    const Varve__V1__StreamWalRequest *request; /* in the arena */
    char slot[VARVE_SLOT_NAME_BYTES_MAX + 1];   /* "": none */
    char peer[VV_ADDRESS_BYTES_MAX + 1];
    varve_wal_cursor *cursor;
    uint64_t session; /* 0: none */
    uint64_t end_lsn; /* UINT64_MAX: none */
    uint64_t epoch;   /* the newest of the history that was told */
    bool hand_over;   /* to the candidate that this superseded primary has promised to */

    /* What the worker brings back. */
    vv_wal_frame frame;
    vv_wal_frame_info info;
    varve_epoch *history; /* of the first frame; NULL once that is sent */
    bool begun;
    bool packed; /* a frame, with records or not, waits to be sent */
    bool done;   /* nothing comes behind it */
    bool failed; /* the same, and why */
    vv_rpc_status failure;
    bool at_end; /* of the log, when it was looked at last */

    uint64_t told_committed_lsn;
} vv_wal_stream;

typedef struct call_state {
    vv_wal_stream *stream;
} call_state;

static vv_wal_stream *stream_of(vv_rpc_call *call) {
    return ((call_state *)(void *)call->state)->stream;
}

static uint64_t unix_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void vv_replicas_wake(vv_replicas *s) {
    vv_log_streams_wake(&s->streams);
}

/* ---- the worker: how it begins ---- */

static void say_trimmed(vv_wal_stream *w, uint64_t oldest_lsn) {
    char oldest[24];
    vv_rpc_detail detail = {"oldest_lsn", oldest};
    snprintf(oldest, sizeof oldest, "%" PRIu64, oldest_lsn);
    uint64_t next_lsn = (w->cursor ? varve_wal_cursor_lsn(w->cursor) : w->request->after_lsn) + 1;
    vv_rpc_status_set_details(&w->failure, VV_RPC_OUT_OF_RANGE, "LSN_TRIMMED", 0, &detail, 1,
                              "LSN %" PRIu64 " is no longer in the log; the oldest that is there is %s",
                              next_lsn, oldest);
}

static void say_diverged(vv_wal_stream *w, bool known, uint64_t common_lsn) {
    char common[24];
    vv_rpc_detail detail = {"common_lsn", common};
    snprintf(common, sizeof common, "%" PRIu64, common_lsn);
    vv_rpc_status_set_details(&w->failure, VV_RPC_FAILED_PRECONDITION, "DIVERGED", 0, &detail, known ? 1 : 0,
                              "the follower's log, which ends at LSN %" PRIu64
                              ", has parted from this one's; up to there they are the same: %s",
                              w->request->after_lsn, known ? common : "not known");
}

/* False: the two logs are not one and the other's beginning. */
static bool check_history(vv_wal_stream *w, const varve_epoch *own, size_t own_count) {
    const Varve__V1__StreamWalRequest *r = w->request;
    if (r->n_history == 0)
        return true;
    varve_epoch theirs[VARVE_EPOCHS_MAX];
    size_t count = VV_MIN(r->n_history, (size_t)VARVE_EPOCHS_MAX);
    for (size_t i = 0; i < count; i++) { /* the newest, if it has more than are kept here */
        const Varve__V1__Epoch *e = r->history[r->n_history - count + i];
        theirs[i] = (varve_epoch){.epoch = e->epoch, .first_lsn = e->first_lsn, .id = e->id};
    }
    uint64_t common_lsn = 0;
    bool known = varve_epochs_common_lsn(theirs, count, r->after_lsn, own, own_count,
                                         varve_durable_lsn(w->service->options.db), &common_lsn);
    if (known && common_lsn >= r->after_lsn)
        return true;
    say_diverged(w, known, common_lsn);
    return false;
}

/* Somebody follows a newer primary than this one: that has to be known here after a restart, too. */
static bool check_promise(vv_wal_stream *w) {
    vv_replication *r = w->service->options.replication;
    uint64_t promised_epoch = w->request->promised_epoch;
    if (promised_epoch <= vv_replication_epoch(r))
        return true;
    varve_error words = {""};
    vv_replication_heard_of(r, promised_epoch, NULL);
    varve_status st = vv_replication_promise(r, promised_epoch, &words);
    if (!varve_ok(st) && st.reason != VV_SUB_EPOCH_TOO_OLD)
        vv_log(w->service->options.log, VV_LOG_WARN, "promise epoch %" PRIu64 ": %s", promised_epoch,
               words.text);
    vv_replicas_say_epoch_too_old(&w->failure, promised_epoch);
    return false;
}

/*
 * The rest of the log for the candidate that takes over (promote.c). With its promise of that epoch this
 * server has stopped, and what it had acknowledged before is durable: the end is as far as the candidate
 * needs it. Others ask with a lower promise, or a higher one, and are told that this is no primary.
 */
static bool is_hand_over(const vv_wal_stream *w) {
    const vv_replicas_options *o = &w->service->options;
    const Varve__V1__StreamWalRequest *r = w->request;
    varve_stats stats;
    if (!r->until_end || w->slot[0] || vv_replication_role(o->replication) != VV_ROLE_SUPERSEDED)
        return false;
    varve_stats_get(o->db, &stats);
    return r->promised_epoch > stats.epoch && r->promised_epoch == stats.promised_epoch;
}

static bool may_begin(vv_wal_stream *w) {
    const Varve__V1__StreamWalRequest *r = w->request;
    w->hand_over = is_hand_over(w);
    return (w->hand_over || vv_replication_may_write(w->service->options.replication, &w->failure)) &&
           vv_replicas_check_database(w->service, vv_slice_make(r->database_id.data, r->database_id.len),
                                      &w->failure) &&
           (w->hand_over || check_promise(w));
}

static bool fails(vv_wal_stream *w, varve_status st, const varve_error *words) {
    if (varve_ok(st))
        return false;
    vv_rpc_status_from_engine_words(&w->failure, st, words ? words->text : "");
    return true;
}

static bool check_future(vv_wal_stream *w) {
    uint64_t after_lsn = w->request->after_lsn, durable_lsn = varve_durable_lsn(w->service->options.db);
    if (after_lsn <= durable_lsn)
        return true;
    vv_rpc_status_set(&w->failure, VV_RPC_INVALID_ARGUMENT, "LSN_IN_FUTURE", 0,
                      "after_lsn is %" PRIu64 ", but the newest LSN that is durable is %" PRIu64, after_lsn,
                      durable_lsn);
    return false;
}

static bool open_cursor(vv_wal_stream *w) {
    uint64_t oldest_lsn = 0;
    varve_status st =
        varve_wal_cursor_open(w->service->options.db, w->request->after_lsn, &w->cursor, &oldest_lsn);
    if (st.code != VARVE_TRIMMED)
        return !fails(w, st, NULL);
    say_trimmed(w, oldest_lsn);
    return false;
}

/* S2. */
static bool hold_log(vv_wal_stream *w) {
    varve_error words = {""};
    if (!w->slot[0])
        return true;
    varve_status st = varve_slot_create(w->service->options.db, w->slot, w->request->after_lsn, &words);
    if (st.code == VARVE_BUSY) {
        vv_replicas_say_too_many(&w->failure);
        return false;
    }
    if (st.code != VARVE_TRIMMED)
        return !fails(w, st, &words);
    /* The words of TRIMMED are the cursor's. Should it find what the slot did not, the next try will too. */
    if (open_cursor(w))
        say_trimmed(w, varve_wal_cursor_lsn(w->cursor) + 1);
    return false;
}

static bool begin_session(vv_wal_stream *w, const varve_epoch *own, size_t own_count) {
    vv_replicas *s = w->service;
    const Varve__V1__StreamWalRequest *r = w->request;
    if (!w->slot[0])
        return true;
    w->session = vv_replication_session_begin(s->options.replication, w->slot, w->peer);
    if (w->session == 0) {
        vv_replicas_say_too_many(&w->failure);
        return false;
    }
    vv_replicas_wake(s); /* the stream that had the slot until now ends */
    vv_log(s->options.log, VV_LOG_INFO, "replication: %s (%s) follows from LSN %" PRIu64, w->slot, w->peer,
           r->after_lsn);
    /* With this primary's epoch in its history it counts as one that has all that it says (replication.h). */
    const Varve__V1__Epoch *last = r->n_history > 0 ? r->history[r->n_history - 1] : NULL;
    if (last && last->epoch == own[own_count - 1].epoch && last->id == own[own_count - 1].id)
        (void)vv_replication_confirm(s->options.replication, w->session, r->after_lsn);
    return true;
}

static void fill_info(vv_wal_stream *w) {
    vv_replication *r = w->service->options.replication;
    w->info = (vv_wal_frame_info){.epoch = w->epoch,
                                  .committed_lsn = vv_replication_committed_lsn(r),
                                  .durable_lsn = varve_durable_lsn(w->service->options.db),
                                  .behind_bytes = varve_wal_cursor_behind_bytes(w->cursor),
                                  .unix_us = unix_us()};
}

/* The checks in the order of what they say, and the first frame. False: it fails. */
static bool begin(vv_wal_stream *w) {
    vv_replicas *s = w->service;
    const Varve__V1__StreamWalRequest *r = w->request;
    w->begun = true;
    w->history = vv_alloc(VARVE_EPOCHS_MAX * sizeof *w->history);
    if (!w->history)
        return !fails(w, (varve_status){.code = VARVE_NO_MEMORY}, NULL);
    size_t count = varve_epochs_get(s->options.db, w->history);
    if (!may_begin(w) || !check_history(w, w->history, count) || !check_future(w) || !hold_log(w) ||
        !open_cursor(w) || !begin_session(w, w->history, count))
        return false;
    w->epoch = w->history[count - 1].epoch;
    w->end_lsn = r->until_end ? varve_durable_lsn(s->options.db) : UINT64_MAX;
    fill_info(w);
    w->info.session = w->session;
    w->info.history = w->history;
    w->info.history_count = count;
    w->packed = true;
    return true;
}

/* ---- the worker: read and pack ---- */

static bool still_ours(vv_wal_stream *w) {
    vv_replication *r = w->service->options.replication;
    if (!w->hand_over && !vv_replication_may_write(r, &w->failure))
        return false;
    if (w->session == 0 || vv_replication_session_is_current(r, w->session))
        return true;
    vv_rpc_status_set(&w->failure, VV_RPC_FAILED_PRECONDITION, "SESSION_UNKNOWN", 0,
                      "the session is over: a newer stream has the slot, or the slot was lost");
    return false;
}

/* Until the frame is full or nothing is left. False: it fails. */
static bool gather(vv_wal_stream *w) {
    w->at_end = false;
    while (w->frame.bytes < FRAME_BYTES && !vv_log_stream_end_wanted(&w->turn)) {
        varve_wal_batch batch;
        if (varve_wal_cursor_lsn(w->cursor) >= w->end_lsn) {
            w->done = true;
            return true;
        }
        vv_log_stream_look(&w->turn);
        varve_status st = varve_wal_cursor_next(w->cursor, &batch);
        if (st.code == VARVE_END) {
            w->at_end = true;
            return true;
        }
        if (st.code == VARVE_TRIMMED) {
            say_trimmed(w, batch.first_lsn);
            return false;
        }
        if (varve_ok(st) && batch.epoch > w->epoch) {
            /* A database that came from elsewhere begins an epoch with its first write. */
            vv_rpc_status_set(&w->failure, VV_RPC_FAILED_PRECONDITION, "SESSION_UNKNOWN", 0,
                              "epoch %" PRIu64 " has begun, which the history of this stream has not",
                              batch.epoch);
            return false;
        }
        if (varve_ok(st))
            st = vv_wal_frame_add(&w->frame, &batch);
        if (fails(w, st, NULL))
            return false;
    }
    return true;
}

/* Is there something to say beside records? What is visible moves without them when followers confirm. */
static bool has_news(const vv_wal_stream *w) {
    return vv_log_stream_is_due(&w->turn) ||
           vv_replication_committed_lsn(w->service->options.replication) != w->told_committed_lsn;
}

static void turn(vv_wal_stream *w) {
    bool limited = vv_replication_quorum(w->service->options.replication) > 0;
    vv_free(w->history);
    w->history = NULL;
    if (!still_ours(w)) {
        w->failed = true;
        return;
    }
    w->failed = !gather(w);
    /* Before it is looked at: whatever becomes visible afterwards is announced. */
    if (w->at_end && limited)
        varve_want_notice(w->service->options.db);
    /* Whatever ended the reading, what was read before is told first. */
    w->packed = w->frame.bytes > 0 || (!w->failed && !w->done && has_news(w));
    if (w->packed)
        fill_info(w);
    varve_wal_cursor_rest(w->cursor);
}

static void work(vv_job *job) {
    vv_wal_stream *w = VV_CONTAINER_OF(job, vv_wal_stream, turn.job);
    for (;;) {
        if (!vv_log_stream_end_wanted(&w->turn)) {
            if (!w->begun)
                w->failed = !begin(w);
            else
                turn(w);
        }
        if (w->packed || w->failed || w->done || vv_log_stream_end_wanted(&w->turn)) {
            vv_rpc_post_and_wake(w->call);
            return;
        }
        if (w->at_end && vv_log_stream_settle(&w->turn))
            return; /* w may be gone by now */
    }
}

/* ---- the call's thread ---- */

static void destroy(vv_wal_stream *w) {
    vv_replicas *s = w->service;
    if (w->session != 0)
        vv_log(s->options.log, VV_LOG_INFO, "replication: the stream to %s (%s) has ended", w->slot, w->peer);
    vv_replication_session_end(s->options.replication, w->session);
    varve_wal_cursor_close(w->cursor);
    vv_wal_frame_clear(&w->frame, 0);
    vv_free(w->history);
    vv_codec_arena_deinit(&w->arena);
    vv_free(w);
    vv_log_streams_remove(&s->streams);
}

static void release_records(void *data) {
    VV_TAKE_OVER(data);
    vv_free(data);
}

static void send_frame(vv_wal_stream *w) {
    uint8_t head[VV_WAL_FRAME_HEAD_BYTES_MAX];
    size_t head_bytes = vv_wal_frame_head(&w->frame, &w->info, head);
    vv_rpc_body body = {.head = vv_slice_make(head, head_bytes),
                        .tail = vv_slice_make(w->frame.records, w->frame.bytes)};
    w->turn.told_ns = vv_clock_mono_ns();
    if (w->frame.bytes > 0)
        w->drain_ns = w->turn.told_ns;
    w->told_committed_lsn = w->info.committed_lsn;
    w->packed = false;
    w->writing = true;
    if (w->frame.bytes >= HAND_OVER_BYTES) {
        body.release = release_records;
        body.release_arg = w->frame.records;
        VV_HAND_OVER(w->frame.records);
        w->frame = (vv_wal_frame){0};
        vv_rpc_stream_write(w->call, body);
    } else {
        vv_rpc_stream_write(w->call, body);
        vv_wal_frame_clear(&w->frame, IDLE_BYTES);
    }
}

/* The server drains, and no write needs this stream any more: with QUORUM those in flight are answered when
 * followers have confirmed them. */
static bool drained(const vv_wal_stream *w) {
    if (!w->draining || vv_replication_quorum(w->service->options.replication) == 0)
        return w->draining;
    varve_db *db = w->service->options.db;
    return vv_clock_mono_ns() - w->drain_ns >= DRAIN_NS && varve_visible_lsn(db) >= varve_durable_lsn(db);
}

/* Is there a reason to end it, and may it be ended? What was packed before a failure is sent first. */
static bool ended(vv_wal_stream *w) {
    vv_rpc_call *call = w->call;
    vv_rpc_status status;
    bool over = false;
    if (call->cancelled)
        vv_rpc_status_set(&status, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled by the client");
    else if (drained(w))
        vv_rpc_status_set(&status, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", RETRY_MS, "shutting down");
    else if (w->failed && !w->packed)
        status = w->failure;
    else if (w->done && !w->packed)
        over = true;
    else if (vv_access_check(call, VV_RPC_REPLICA, &status)) /* still: a stream may last for days */
        return false;
    if (w->writing)
        return true; /* in on_written() */
    destroy(w);
    if (over)
        vv_rpc_finish(call);
    else
        vv_rpc_fail(call, &status);
    return true;
}

/* The call's thread holds the stream: go on with it. */
static void step(vv_wal_stream *w) {
    if (ended(w))
        return;
    if (w->packed && !w->writing)
        send_frame(w);
    if (w->packed || w->failed || w->done)
        return; /* until the one before is through */
    if (w->at_end && vv_log_stream_settle(&w->turn))
        return;
    vv_log_stream_work(&w->turn);
}

void vv_stream_wal_on_posted(vv_rpc_call *call) {
    vv_wal_stream *w = stream_of(call);
    vv_log_stream_hold(&w->turn);
    step(w);
}

void vv_stream_wal_on_written(vv_rpc_call *call) {
    vv_wal_stream *w = stream_of(call);
    w->writing = false;
    if (vv_log_stream_take_back(&w->turn, false))
        step(w);
}

void vv_stream_wal_on_cancelled(vv_rpc_call *call) {
    vv_wal_stream *w = stream_of(call);
    w->writing = false; /* nothing is under way any more */
    if (vv_log_stream_take_back(&w->turn, true))
        step(w);
}

void vv_stream_wal_on_drain(vv_rpc_call *call) {
    vv_wal_stream *w = stream_of(call);
    w->draining = true;
    w->drain_ns = vv_clock_mono_ns();
    /* With QUORUM it goes on, and ends with a heartbeat. */
    if (vv_log_stream_take_back(&w->turn, drained(w)))
        step(w);
}

void vv_stream_wal_on_call(vv_rpc_call *call, vv_slice bytes) {
    vv_replicas *s = call->service;
    vv_wal_stream *w = vv_alloc_zeroed(sizeof *w);
    if (!w) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", RETRY_MS, "out of memory");
        return;
    }
    vv_codec_arena_init(&w->arena);
    w->request = (void *)vv_codec_request(call, &w->arena, &varve__v1__stream_wal_request__descriptor, bytes);
    if (!w->request || !vv_replicas_slot_name(call, w->request->slot, w->slot)) {
        vv_codec_arena_deinit(&w->arena);
        vv_free(w);
        return;
    }
    w->service = s;
    w->call = call;
    vv_rpc_peer(call, w->peer, sizeof w->peer);
    ((call_state *)(void *)call->state)->stream = w;
    vv_log_streams_add(&s->streams, &w->turn, work);
}

/* ---- life ---- */

void vv_streams_start(vv_replicas *s) {
    uint64_t tick_ns = s->options.heartbeat_us * VV_NS_PER_US / TICKS_PER_HEARTBEAT;
    vv_log_streams_options o = {.workers = s->workers,
                                .timers = s->options.timers,
                                .patience_ns = (TICKS_PER_HEARTBEAT - 1) * tick_ns,
                                .tick_ns = tick_ns};
    vv_log_streams_start(&s->streams, &o);
}
