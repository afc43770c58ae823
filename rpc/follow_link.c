/*
 * follow_link.c - three threads for one stream.
 *
 *     primary --WalFrame--> [receiver] --inbox--> [applier] --newest LSN--> [confirmer] --Confirm--> primary
 *
 * The receiver (the caller's thread) checks each frame: its epoch is the one that the stream began with, it
 * goes on where the one before it ended, its bytes are what was sent. The applier writes all that has come
 * meanwhile as one, and waits for the disk. The confirmer tells the primary how far that is, one call at a
 * time, always the newest; so nobody waits for a round trip but the primary's clients who asked for it.
 *
 * What may be confirmed: the first frame's history is taken over (varve_follow_epochs()) before anything is
 * applied or confirmed, and only LSNs that varve_apply() has made durable are. Each application happens
 * between vv_replication_apply_begin() and _end(), so none slips in behind a promise of a higher epoch.
 *
 * A candidate's link is the same without the confirmer: nothing that it has counts as confirmed. It takes
 * over no history, since it has it; and it applies in the name of the epoch that it is a candidate for.
 *
 * How it ends: the receiver's wait fails, since the stream ended or somebody interrupted the peer. The
 * applier, who can't go on, interrupts it too, and its reason is the one that counts.
 */
#include "rpc/follow_link.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/codec.h"
#include "rpc/inbox.h"
#include "rpc/lag_clock.h"
#include "rpc/wire.h"
#include "varve/v1/replication.pb-c.h"

#define STREAM_PATH      "/varve.v1.Replication/StreamWal"
#define CONFIRM_PATH     "/varve.v1.Replication/Confirm"
#define CONFIRM_RETRY_NS (100 * VV_NS_PER_MS)

typedef struct follow_link {
    const vv_follow_link_options *o;
    vv_link_result *result; /* the receiver's until the end, when the others have ended */
    vv_peer_stream *stream;
    vv_inbox inbox;
    vv_follow_frame frame; /* the receiver's: the newest */
    uint64_t epoch, session;
    uint64_t received_lsn; /* the receiver's */
    vv_link_end trouble;   /* the applier's: LOST: none */
    vv_error trouble_words;
    bool applied;
    _Atomic uint64_t committed_lsn;
    struct {
        vv_mutex lock;
        vv_lag_clock clock;
        uint64_t heard_lsn, behind_bytes;
        bool caught_up; /* it was said */
    } lag;
    struct {
        vv_mutex lock;
        vv_cond changed;
        uint64_t durable_lsn;
        bool due, over;
    } confirm;
} follow_link;

/* ---- how it ends ---- */

static bool reason_is(const vv_peer_error *err, const char *reason) {
    return strcmp(err->reason, reason) == 0;
}

static vv_link_end end_of(const vv_peer_error *err) {
    if (reason_is(err, "NOT_PRIMARY"))
        return VV_LINK_NOT_PRIMARY;
    if (reason_is(err, "EPOCH_TOO_OLD"))
        return VV_LINK_STALE;
    if (reason_is(err, "WRONG_DATABASE"))
        return VV_LINK_FOREIGN;
    if (reason_is(err, "DIVERGED"))
        return VV_LINK_DIVERGED;
    if (reason_is(err, "LSN_TRIMMED"))
        return VV_LINK_TRIMMED;
    if (err->code == VV_RPC_UNAUTHENTICATED || err->code == VV_RPC_PERMISSION_DENIED)
        return VV_LINK_DENIED;
    return err->code == VV_RPC_CANCELLED ? VV_LINK_INTERRUPTED : VV_LINK_LOST;
}

static void end_by_peer(follow_link *l, const vv_peer_error *err) {
    vv_link_result *r = l->result;
    r->end = end_of(err);
    snprintf(r->words.text, sizeof r->words.text, "%s", err->message);
    const char *primary = vv_peer_detail(err, "primary");
    const char *common = vv_peer_detail(err, "common_lsn");
    snprintf(r->primary, sizeof r->primary, "%s", primary ? primary : "");
    r->has_common = common != NULL;
    r->common_lsn = common ? strtoull(common, NULL, 10) : 0;
}

static void end_with(follow_link *l, vv_link_end end, const char *words) {
    l->result->end = end;
    if (words != l->result->words.text)
        snprintf(l->result->words.text, sizeof l->result->words.text, "%s", words);
}

/* ---- lag ---- */

/* What has become of it, to Status. lsn: heard of, or applied. */
static void note_lag(follow_link *l, const vv_follow_frame *heard, uint64_t applied_lsn) {
    vv_mutex_lock(&l->lag.lock);
    if (heard) {
        l->lag.heard_lsn = heard->durable_lsn;
        l->lag.behind_bytes = heard->behind_bytes;
        vv_lag_clock_heard(&l->lag.clock, heard->durable_lsn, vv_clock_mono_ns());
    }
    if (applied_lsn > 0)
        vv_lag_clock_applied(&l->lag.clock, applied_lsn);
    vv_lag lag = {.connected = true,
                  .applied_lsn = l->lag.clock.applied_lsn,
                  .primary_lsn = l->lag.heard_lsn,
                  .behind_bytes = l->lag.behind_bytes,
                  .behind_since_ns = vv_lag_clock_behind_since(&l->lag.clock)};
    vv_replication_set_lag(l->o->replication, &lag);
    bool caught_up = lag.behind_since_ns == 0 && !l->lag.caught_up;
    l->lag.caught_up |= caught_up;
    vv_mutex_unlock(&l->lag.lock);
    if (caught_up && !l->o->quiet)
        vv_log(l->o->log, VV_LOG_INFO, "caught up with %s at LSN %" PRIu64, l->o->address, lag.applied_lsn);
}

/* Who hears nothing may be behind from now on, whatever he has. */
static void note_disconnected(follow_link *l) {
    vv_lag lag;
    vv_replication_get_lag(l->o->replication, &lag);
    lag.connected = false;
    if (lag.behind_since_ns == 0)
        lag.behind_since_ns = vv_clock_mono_ns();
    vv_replication_set_lag(l->o->replication, &lag);
}

/* ---- the confirmer ---- */

static void confirm_up_to(follow_link *l, uint64_t durable_lsn) {
    vv_mutex_lock(&l->confirm.lock);
    l->confirm.durable_lsn = durable_lsn;
    l->confirm.due = true;
    vv_cond_signal(&l->confirm.changed);
    vv_mutex_unlock(&l->confirm.lock);
}

/* ConfirmResponse.committed_lsn. What the primary makes known by frames comes later than this. */
static void read_committed(follow_link *l, vv_slice reply) {
    vv_wire w = vv_wire_make(reply);
    vv_wire_field field = {0};
    while (w.at < w.end && vv_wire_next(&w, &field))
        if (field.number == 1 && field.type == VV_WIRE_VARINT && field.value != VV_COMMITS_UNLIMITED)
            varve_set_commit_limit(l->o->db, field.value);
}

static bool confirm(follow_link *l, uint64_t lsn) {
    Varve__V1__ConfirmRequest request = VARVE__V1__CONFIRM_REQUEST__INIT;
    uint64_t committed = atomic_load_explicit(&l->committed_lsn, memory_order_relaxed);
    request.session = l->session;
    request.durable_lsn = lsn;
    request.applied_lsn = VV_MIN(lsn, committed);
    vv_codec_small packed;
    vv_codec_pack_small(&request.base, &packed);
    uint8_t *reply;
    size_t reply_bytes;
    vv_peer_error failure;
    if (!vv_peer_call(l->o->peer, CONFIRM_PATH, vv_slice_make(packed.data, packed.bytes), l->o->timeout_ns,
                      &reply, &reply_bytes, &failure))
        return false; /* of a stream that is over, or soon will be; else it is tried again */
    read_committed(l, vv_slice_make(reply, reply_bytes));
    vv_free(reply);
    return true;
}

static void confirm_all(void *arg) {
    follow_link *l = arg;
    vv_mutex_lock(&l->confirm.lock);
    while (!l->confirm.over) {
        if (!l->confirm.due) {
            vv_cond_wait(&l->confirm.changed, &l->confirm.lock);
            continue;
        }
        uint64_t lsn = l->confirm.durable_lsn;
        l->confirm.due = false;
        vv_mutex_unlock(&l->confirm.lock);
        bool confirmed = confirm(l, lsn);
        vv_mutex_lock(&l->confirm.lock);
        if (!confirmed) {
            l->confirm.due = true;
            uint64_t again_ns = vv_clock_mono_ns() + CONFIRM_RETRY_NS;
            while (!l->confirm.over && vv_cond_wait_until(&l->confirm.changed, &l->confirm.lock, again_ns))
                continue;
        }
    }
    vv_mutex_unlock(&l->confirm.lock);
}

/* ---- the applier ---- */

/* False: it can't go on. */
static bool fail_apply(follow_link *l, vv_link_end end, varve_status st, const varve_error *words) {
    l->trouble = end;
    snprintf(l->trouble_words.text, sizeof l->trouble_words.text, "%s",
             words->text[0] ? words->text : varve_code_text(st.code));
    return false;
}

static bool apply(follow_link *l, const vv_inbox_news *news) {
    varve_error words = {""};
    varve_status st = vv_replication_follow_commits(l->o->replication, news->committed_lsn, &words);
    if (!varve_ok(st))
        return fail_apply(l, VV_LINK_TROUBLE, st, &words);
    atomic_store_explicit(&l->committed_lsn, news->committed_lsn, memory_order_relaxed);
    if (news->records.bytes == 0)
        return true;
    uint64_t epoch = VV_MAX(l->epoch, l->o->candidate_epoch);
    if (!vv_replication_apply_begin(l->o->replication, epoch)) {
        snprintf(words.text, sizeof words.text, "an epoch above %" PRIu64 " was promised", epoch);
        return fail_apply(l, VV_LINK_STALE, st, &words);
    }
    uint64_t applied_lsn = 0;
    st = varve_apply(l->o->db, news->records.data, news->records.bytes, &applied_lsn, &words);
    vv_replication_apply_end(l->o->replication);
    if (!varve_ok(st)) /* what of it was applied is confirmed by the next link */
        return fail_apply(l, VV_LINK_TROUBLE, st, &words);
    if (l->o->quiet && !l->applied)
        vv_log(l->o->log, VV_LOG_INFO, "what comes from %s can be applied again", l->o->address);
    l->applied = true;
    confirm_up_to(l, applied_lsn);
    note_lag(l, NULL, applied_lsn);
    return true;
}

static void apply_all(void *arg) {
    follow_link *l = arg;
    vv_inbox_news news;
    while (vv_inbox_take(&l->inbox, &news))
        if (!apply(l, &news)) {
            vv_inbox_close(&l->inbox, true);
            vv_peer_interrupt(l->o->peer);
            return;
        }
}

/* ---- the receiver ---- */

static bool receive(follow_link *l, vv_slice *message) {
    vv_peer_error failure;
    switch (vv_peer_stream_next(l->stream, l->o->timeout_ns, message, &failure)) {
    case VV_PEER_MESSAGE: break;
    case VV_PEER_END:
        end_with(l, l->o->candidate_epoch ? VV_LINK_END : VV_LINK_LOST, "it has ended the stream");
        return false;
    case VV_PEER_FAILED: end_by_peer(l, &failure); return false;
    }
    if (vv_ok(vv_follow_frame_read(*message, &l->frame, &l->result->words)))
        return true;
    end_with(l, VV_LINK_LOST, l->result->words.text);
    return false;
}

static bool check_frame(follow_link *l) {
    const vv_follow_frame *frame = &l->frame;
    vv_error *words = &l->result->words;
    if (frame->epoch != l->epoch)
        snprintf(words->text, sizeof words->text, "its epoch is %" PRIu64 " now, and was %" PRIu64,
                 frame->epoch, l->epoch);
    else if (frame->records.bytes > 0 && frame->first_lsn != l->received_lsn + 1)
        snprintf(words->text, sizeof words->text,
                 "it goes on with LSN %" PRIu64 ", where %" PRIu64 " is the next", frame->first_lsn,
                 l->received_lsn + 1);
    else
        return true;
    end_with(l, VV_LINK_LOST, words->text);
    return false;
}

static bool take_frame(follow_link *l) {
    if (l->frame.records.bytes > 0)
        l->received_lsn = l->frame.last_lsn;
    note_lag(l, &l->frame, 0);
    vv_status st = vv_inbox_put(&l->inbox, &l->frame);
    if (!vv_ok(st))
        end_with(l, VV_LINK_TROUBLE, vv_code_text(st.code));
    return vv_ok(st);
}

static void receive_all(follow_link *l) {
    vv_slice message;
    bool going = take_frame(l); /* the first */
    while (going)
        going = receive(l, &message) && check_frame(l) && take_frame(l);
}

/* ---- its beginning ---- */

static vv_peer_stream *open_stream(follow_link *l, const varve_epoch *epochs, size_t epoch_count,
                                   vv_peer_error *failure) {
    const vv_follow_link_options *o = l->o;
    uint8_t database_id[VARVE_DATABASE_ID_BYTES];
    varve_stats stats;
    varve_stats_get(o->db, &stats);
    varve_database_id(o->db, database_id);
    const char *node = vv_replication_node(o->replication);
    Varve__V1__Epoch messages[VARVE_EPOCHS_MAX], *history[VARVE_EPOCHS_MAX];
    for (size_t i = 0; i < epoch_count; i++) {
        history[i] = &messages[i];
        varve__v1__epoch__init(history[i]);
        messages[i].epoch = epochs[i].epoch;
        messages[i].first_lsn = epochs[i].first_lsn;
        messages[i].id = epochs[i].id;
    }
    Varve__V1__StreamWalRequest request = VARVE__V1__STREAM_WAL_REQUEST__INIT;
    request.after_lsn = l->received_lsn;
    if (o->candidate_epoch)
        request.until_end = true;
    else
        request.slot = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)node, .len = strlen(node)};
    request.history = history;
    request.n_history = epoch_count;
    request.promised_epoch = VV_MAX(stats.promised_epoch, stats.epoch);
    request.database_id = (ProtobufCBinaryData){.data = database_id, .len = sizeof database_id};
    size_t bytes = varve__v1__stream_wal_request__get_packed_size(&request);
    uint8_t *packed = vv_alloc(bytes);
    if (!packed) {
        *failure = (vv_peer_error){.code = VV_RPC_RESOURCE_EXHAUSTED, .message = "out of memory"};
        return NULL;
    }
    varve__v1__stream_wal_request__pack(&request, packed);
    vv_peer_stream *stream = vv_peer_stream_open(o->peer, STREAM_PATH, vv_slice_make(packed, bytes), failure);
    vv_free(packed);
    return stream;
}

/* The first frame's history, in the place of ours, which is a part of it. */
static bool take_history(follow_link *l) {
    const vv_follow_link_options *o = l->o;
    varve_error words = {""};
    varve_status st = {0};
    if (!vv_ok(o->begin(o->arg, &l->result->words))) {
        end_with(l, VV_LINK_TROUBLE, l->result->words.text);
        return false;
    }
    bool allowed = vv_replication_apply_begin(o->replication, l->epoch);
    if (allowed) {
        st = varve_follow_epochs(o->db, l->frame.history, l->frame.history_count, &words);
        vv_replication_apply_end(o->replication);
    }
    if (allowed && varve_ok(st)) {
        vv_replication_forget_followers(o->replication);
        return true;
    }
    bool stale = !allowed || st.reason == VV_SUB_EPOCH_TOO_OLD;
    end_with(l, stale ? VV_LINK_STALE : VV_LINK_TROUBLE,
             words.text[0] ? words.text : "a higher epoch was promised");
    return false;
}

/* Whose log a candidate fetches the rest of had its history taken over when it was followed. */
static bool has_history(const follow_link *l, const varve_epoch *own, size_t own_count) {
    const varve_epoch *theirs = &l->frame.history[l->frame.history_count - 1];
    return own_count > 0 && own[own_count - 1].epoch == theirs->epoch && own[own_count - 1].id == theirs->id;
}

static bool begin(follow_link *l) {
    varve_epoch own[VARVE_EPOCHS_MAX];
    size_t own_count = varve_epochs_get(l->o->db, own);
    varve_stats stats;
    vv_peer_error failure;
    vv_slice message;
    varve_stats_get(l->o->db, &stats);
    l->received_lsn = stats.durable_lsn;
    vv_lag_clock_init(&l->lag.clock, stats.durable_lsn);
    l->stream = open_stream(l, own, own_count, &failure);
    if (!l->stream) {
        end_by_peer(l, &failure);
        return false;
    }
    if (!receive(l, &message))
        return false;
    const vv_follow_frame *first = &l->frame;
    uint64_t common_lsn = 0;
    bool candidate = l->o->candidate_epoch != 0;
    bool sound = first->history_count > 0 && (candidate || first->session != 0) &&
                 first->history[first->history_count - 1].epoch == first->epoch &&
                 varve_epochs_common_lsn(own, own_count, l->received_lsn, first->history,
                                         first->history_count, first->durable_lsn, &common_lsn) &&
                 common_lsn == l->received_lsn && (!candidate || has_history(l, own, own_count));
    if (!sound) {
        end_with(l, VV_LINK_LOST, "its first frame makes no sense");
        return false;
    }
    l->epoch = first->epoch;
    l->session = first->session;
    return check_frame(l) && (candidate || take_history(l));
}

static void note_followed(follow_link *l) {
    const vv_follow_link_options *o = l->o;
    l->result->followed = true;
    vv_replication_set_primary(o->replication, o->address);
    vv_replication_set_role(o->replication, VV_ROLE_FOLLOWER);
    if (!o->quiet)
        vv_log(o->log, VV_LOG_INFO, "following %s, primary of epoch %" PRIu64 ", from LSN %" PRIu64,
               o->address, l->epoch, l->received_lsn);
    confirm_up_to(l, l->received_lsn); /* by which it counts */
}

/* A candidate's confirmations would count for nobody. */
static void follow(follow_link *l) {
    pthread_t applier, confirmer;
    const vv_follow_link_options *o = l->o;
    vv_status st = VV_STATUS_OK;
    bool confirming = false;
    if (!o->candidate_epoch) {
        note_followed(l);
        st = vv_thread_start(&confirmer, "varve-confirm", confirm_all, l);
        confirming = vv_ok(st);
    }
    if (vv_ok(st))
        st = vv_thread_start(&applier, "varve-apply", apply_all, l);
    bool applying = vv_ok(st);
    if (applying)
        receive_all(l);
    else
        end_with(l, VV_LINK_TROUBLE, "no thread is to be had");
    vv_inbox_close(&l->inbox, false);
    if (applying)
        vv_thread_join(applier);
    vv_mutex_lock(&l->confirm.lock);
    l->confirm.over = true;
    vv_cond_signal(&l->confirm.changed);
    vv_mutex_unlock(&l->confirm.lock);
    vv_peer_interrupt(o->peer);
    if (confirming)
        vv_thread_join(confirmer);
    l->result->applied = l->applied;
    if (l->trouble != VV_LINK_LOST)
        end_with(l, l->trouble, l->trouble_words.text);
    note_disconnected(l);
}

void vv_follow_link_run(const vv_follow_link_options *options, vv_link_result *out) {
    memset(out, 0, sizeof *out);
    follow_link *l = vv_alloc_zeroed(sizeof *l);
    if (!l) {
        *out = (vv_link_result){.end = VV_LINK_TROUBLE, .words = {"out of memory"}};
        return;
    }
    l->o = options;
    l->result = out;
    l->trouble = VV_LINK_LOST;
    vv_inbox_init(&l->inbox);
    vv_mutex_init(&l->lag.lock);
    vv_mutex_init(&l->confirm.lock);
    vv_cond_init(&l->confirm.changed);
    if (begin(l))
        follow(l);
    vv_peer_stream_close(l->stream);
    vv_cond_deinit(&l->confirm.changed);
    vv_mutex_deinit(&l->confirm.lock);
    vv_mutex_deinit(&l->lag.lock);
    vv_inbox_deinit(&l->inbox);
    vv_free(l);
}
