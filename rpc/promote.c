#include "rpc/promote.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/sync.h"
#include "rpc/codec.h"
#include "rpc/discovery.h"
#include "rpc/follow_link.h"
#include "rpc/replication_impl.h"
#include "rpc/status_map.h"

#define HELLO_PATH "/" VV_REPLICATION_SERVICE_NAME "/Hello"

/* A primary is asked to stop only if what this server lacks is here soon: nobody takes writes until then. */
#define BEHIND_BYTES_MAX (UINT64_C(64) << 20)
#define BEHIND_NS_MAX    (5 * VV_NS_PER_S)

/* One of PEERS: a thread asks it, and join() has the answer. */
typedef struct member {
    const vv_promote_options *options;
    const char *address;
    uint64_t promise_epoch;
    pthread_t thread;
    bool started;
    /* the answer */
    bool answered;
    vv_role role;
    uint64_t known_epoch;   /* promised or begun */
    varve_epoch newest;     /* of its history */
    bool hands_over;        /* once it has promised, the rest of its log can be had: see hands_over() */
    uint64_t refused_epoch; /* it has promised that to somebody else; 0: it has not refused */
    vv_log_end end;
} member;

typedef struct group {
    const vv_promote_options *options;
    member members[VV_SERVER_PEERS_MAX];
    size_t count;
} group;

/* ---- how new a log is ---- */

vv_log_end vv_log_end_of(const varve_epoch *history, size_t count, uint64_t durable_lsn) {
    vv_log_end end = {.lsn = durable_lsn};
    for (size_t i = 0; i < count; i++)
        if (history[i].first_lsn <= durable_lsn + 1)
            end.epoch = history[i].epoch;
    return end;
}

int vv_log_end_compare(vv_log_end a, vv_log_end b) {
    if (a.epoch != b.epoch)
        return a.epoch < b.epoch ? -1 : 1;
    return (a.lsn > b.lsn) - (a.lsn < b.lsn);
}

static vv_log_end own_end(varve_db *db) {
    varve_epoch history[VARVE_EPOCHS_MAX];
    size_t count = varve_epochs_get(db, history);
    return vv_log_end_of(history, count, varve_durable_lsn(db));
}

/* ---- asking ---- */

static vv_peer *connect(const vv_promote_options *o, const char *address) {
    vv_peer *peer;
    vv_error err = {""};
    if (vv_ok(vv_discovery_connect(o->config, address, &peer, &err)))
        return peer;
    vv_log(o->log, VV_LOG_WARN, "promote: %s: %s", address, err.text);
    return NULL;
}

static void take_answer(member *m, vv_slice bytes) {
    vv_codec_arena arena;
    ProtobufCMessage *message;
    vv_codec_arena_init(&arena);
    if (vv_ok(vv_codec_decode(&arena, &varve__v1__hello_response__descriptor, bytes, &message))) {
        const Varve__V1__HelloResponse *r = (const void *)message;
        varve_epoch history[VARVE_EPOCHS_MAX];
        size_t count = VV_MIN(r->n_history, (size_t)VARVE_EPOCHS_MAX);
        for (size_t i = 0; i < count; i++) { /* the newest */
            const Varve__V1__Epoch *e = r->history[r->n_history - count + i];
            history[i] = (varve_epoch){.epoch = e->epoch, .first_lsn = e->first_lsn, .id = e->id};
        }
        m->answered = true;
        m->role = VV_ROLE_SUPERSEDED;
        if (strcmp(r->role, vv_role_name(VV_ROLE_PRIMARY)) == 0)
            m->role = VV_ROLE_PRIMARY;
        else if (strcmp(r->role, vv_role_name(VV_ROLE_FOLLOWER)) == 0)
            m->role = VV_ROLE_FOLLOWER;
        m->newest = count > 0 ? history[count - 1] : (varve_epoch){0};
        m->known_epoch = VV_MAX(r->promised_epoch, m->newest.epoch);
        m->end = vv_log_end_of(history, count, r->durable_lsn);
    }
    vv_codec_arena_deinit(&arena);
}

static void hear(member *m, vv_peer *peer) {
    uint8_t id[VARVE_DATABASE_ID_BYTES], request[64], *reply;
    size_t reply_bytes;
    vv_peer_error failure;
    Varve__V1__HelloRequest hello = VARVE__V1__HELLO_REQUEST__INIT;
    varve_database_id(m->options->db, id);
    hello.database_id = (ProtobufCBinaryData){.data = id, .len = sizeof id};
    hello.promise_epoch = m->promise_epoch;
    vv_slice packed = vv_slice_make(request, protobuf_c_message_pack(&hello.base, request));
    if (vv_peer_call(peer, HELLO_PATH, packed, m->options->timeout_ns, &reply, &reply_bytes, &failure)) {
        take_answer(m, vv_slice_make(reply, reply_bytes));
        vv_free(reply);
        return;
    }
    const char *epoch = vv_peer_detail(&failure, "epoch");
    if (strcmp(failure.reason, "EPOCH_TOO_OLD") == 0 && epoch)
        m->refused_epoch = strtoull(epoch, NULL, 10);
    vv_log(m->options->log, VV_LOG_WARN, "promote: %s: %s%s%s", m->address, failure.reason,
           failure.reason[0] ? ": " : "", failure.message);
}

static void ask_one(void *arg) {
    member *m = arg;
    vv_peer *peer = connect(m->options, m->address);
    if (!peer)
        return;
    hear(m, peer);
    vv_peer_destroy(peer);
}

/* All of PEERS at once, so that one that is silent costs one timeout; and only one, since who has not
 * answered `before` is not asked for a promise. NULL: nobody was asked before. */
static void ask(const vv_promote_options *o, uint64_t promise_epoch, const group *before, group *g) {
    *g = (group){.options = o, .count = o->config->peer_count};
    for (size_t i = 0; i < g->count; i++) {
        member *m = &g->members[i];
        *m = (member){.options = o, .address = o->config->peers[i], .promise_epoch = promise_epoch};
        if (before && !before->members[i].answered)
            continue;
        m->started = vv_ok(vv_thread_start(&m->thread, "varve-promote", ask_one, m));
    }
    for (size_t i = 0; i < g->count; i++)
        if (g->members[i].started)
            vv_thread_join(g->members[i].thread);
}

/* ---- the rest of a primary's log ---- */

/*
 * Is it a primary, or was it one, whose log this server's is the beginning of? That it is if both have the
 * same newest epoch and this server follows: an epoch has one writer. One that still writes is left alone
 * unless it is followed right now, with little that is not here yet.
 */
static bool hands_over(const vv_promote_options *o, const member *m) {
    varve_epoch own[VARVE_EPOCHS_MAX];
    size_t count = varve_epochs_get(o->db, own);
    if (!m->answered || m->role == VV_ROLE_FOLLOWER || count == 0 ||
        vv_replication_role(o->replication) != VV_ROLE_FOLLOWER || m->newest.epoch != own[count - 1].epoch ||
        m->newest.id != own[count - 1].id)
        return false;
    if (m->role == VV_ROLE_SUPERSEDED || m->end.lsn <= varve_durable_lsn(o->db))
        return true;
    vv_lag lag;
    vv_replication_get_lag(o->replication, &lag);
    return lag.connected && lag.behind_bytes <= BEHIND_BYTES_MAX &&
           (lag.behind_since_ns == 0 || vv_clock_mono_ns() - lag.behind_since_ns <= BEHIND_NS_MAX);
}

/* It has promised the epoch, as this server has, and so its log has an end. If it can't be had, the ends say
 * so when they are compared. */
static void fetch_rest(const vv_promote_options *o, const char *address, uint64_t epoch) {
    vv_link_result link;
    uint64_t begun_ns = vv_clock_mono_ns(), before_lsn = varve_durable_lsn(o->db);
    vv_peer *peer = connect(o, address);
    if (!peer)
        return;
    vv_follow_link_options options = {.db = o->db,
                                      .replication = o->replication,
                                      .log = o->log,
                                      .peer = peer,
                                      .address = address,
                                      .timeout_ns = o->timeout_ns,
                                      .quiet = true,
                                      .candidate_epoch = epoch};
    vv_follow_link_run(&options, &link);
    vv_peer_destroy(peer);
    uint64_t lsn = varve_durable_lsn(o->db);
    if (link.end == VV_LINK_END)
        vv_log(o->log, VV_LOG_INFO,
               "promote: the rest of the log of %s is here: %" PRIu64 " LSNs, up to %" PRIu64 ", in %" PRIu64
               " ms",
               address, lsn - before_lsn, lsn, (vv_clock_mono_ns() - begun_ns) / VV_NS_PER_MS);
    else
        vv_log(o->log, VV_LOG_WARN,
               "promote: the rest of the log of %s can't be had, behind LSN %" PRIu64 ": %s", address, lsn,
               link.words.text);
}

/* ---- judging ---- */

/* Another follower was faster. What it has is of the same epoch as the log of one that hands over, who wrote
 * that: it is in the rest. Behind the promise nobody hands over any more, so that all ends are compared. */
static bool comes_with_rest(const group *g, const member *m) {
    for (size_t i = 0; i < g->count; i++)
        if (g->members[i].hands_over && g->members[i].newest.epoch == m->newest.epoch &&
            g->members[i].newest.id == m->newest.id)
            return true;
    return false;
}

static bool nobody_is_newer(const group *g, vv_log_end own, vv_rpc_status *why) {
    for (size_t i = 0; i < g->count; i++) {
        const member *m = &g->members[i];
        if (!m->answered || comes_with_rest(g, m) || vv_log_end_compare(m->end, own) <= 0)
            continue;
        char lsn[24];
        vv_rpc_detail details[2] = {{"peer", m->address}, {"lsn", lsn}};
        snprintf(lsn, sizeof lsn, "%" PRIu64, m->end.lsn);
        vv_rpc_status_set_details(why, VV_RPC_FAILED_PRECONDITION, "NOT_NEWEST", 0, details, 2,
                                  "%.100s has LSN %s of epoch %" PRIu64 ", this server only %" PRIu64
                                  " of epoch %" PRIu64,
                                  m->address, lsn, m->end.epoch, own.lsn, own.epoch);
        return false;
    }
    return true;
}

/* The primary of the newest epoch that anybody has heard of: it has everything. before: what the members were
 * before they promised. */
static bool has_primary(const group *g, const group *before, uint64_t own_epoch) {
    uint64_t newest = own_epoch;
    for (size_t i = 0; i < before->count; i++)
        newest = VV_MAX(newest, before->members[i].newest.epoch);
    for (size_t i = 0; i < g->count; i++)
        if (g->members[i].answered && before->members[i].answered &&
            before->members[i].role == VV_ROLE_PRIMARY && before->members[i].newest.epoch == newest)
            return true;
    return false;
}

static bool enough_answer(const group *g, const group *before, vv_rpc_status *why) {
    vv_replication *r = g->options->replication;
    size_t quorum = vv_replication_quorum(r), have = 1; /* this server is one */
    if (quorum == 0)
        return true;
    /* Without PEERS, or with too few, it is not known how many others confirm writes. */
    size_t followers = VV_MAX(g->count, quorum);
    size_t need = followers - quorum + 1;
    for (size_t i = 0; i < g->count; i++)
        have += g->members[i].answered;
    if (g->count > 0 && (have >= need || has_primary(g, before, vv_replication_epoch(r))))
        return true;
    vv_rpc_status_set(
        why, VV_RPC_FAILED_PRECONDITION, "TOO_FEW_PEERS", 0,
        "of %zu servers (this one and PEERS) %zu can be asked, but with QUORUM = %zu it takes %zu, or the "
        "primary, to be certain that no acknowledged write is lost",
        g->count + 1, have, quorum, g->count > 0 ? need : 1);
    return false;
}

static bool good(const group *g, const group *before, bool force, vv_rpc_status *why) {
    if (nobody_is_newer(g, own_end(g->options->db), why) && enough_answer(g, before, why))
        return true;
    if (force)
        vv_log(g->options->log, VV_LOG_WARN, "promote: forced, in spite of: %s", why->message);
    return force;
}

static uint64_t next_epoch(const group *g) {
    varve_stats stats;
    varve_stats_get(g->options->db, &stats);
    uint64_t known = VV_MAX(stats.promised_epoch, vv_replication_epoch(g->options->replication));
    for (size_t i = 0; i < g->count; i++)
        known = VV_MAX(known, g->members[i].known_epoch);
    return known + 1;
}

/* ---- doing ---- */

static bool engine_agrees(varve_status st, const varve_error *words, vv_replication *r, vv_rpc_status *why) {
    if (varve_ok(st))
        return true;
    if (st.reason == VV_SUB_EPOCH_TOO_OLD)
        vv_replicas_say_epoch_too_old(why, vv_replication_epoch(r));
    else
        vv_rpc_status_from_engine_words(why, st, words->text);
    return false;
}

static bool agrees(vv_status st, const vv_error *words, vv_rpc_status *why) {
    if (!vv_ok(st))
        vv_rpc_status_from_engine_words(why, (varve_status){.code = st.code, .reason = st.sub, .sys = st.sys},
                                        words->text);
    return vv_ok(st);
}

/* Who takes no writes any more, and for nothing? */
static void say_who_has_stopped(const group *g, const group *before, vv_rpc_status *why) {
    for (size_t i = 0; i < g->count; i++)
        if (g->members[i].started && before->members[i].role != VV_ROLE_FOLLOWER) {
            vv_rpc_status_precede(
                why, "%.100s %s no primary any more, and none is there: promote again, here or there. ",
                g->members[i].address, g->members[i].answered ? "is" : "may be");
            return;
        }
}

static bool begin_epoch(const vv_promote_options *o, uint64_t epoch, vv_rpc_status *why) {
    const vv_promotion_hooks *hooks = vv_replication_hooks(o->replication);
    varve_error words = {""};
    vv_error err = {""};
    /* Should the server die between the two, it has not become a primary: the note names an epoch that the
     * database has not (role_file.h). */
    return (!hooks->promoted || agrees(hooks->promoted(hooks->arg, epoch, &err), &err, why)) &&
           engine_agrees(varve_begin_epoch(o->db, epoch, &words), &words, o->replication, why) &&
           agrees(vv_replication_become_primary(o->replication, &err), &err, why);
}

static bool promised_by_all(const group *g, uint64_t epoch, vv_rpc_status *why) {
    for (size_t i = 0; i < g->count; i++)
        if (g->members[i].refused_epoch >= epoch) {
            vv_replicas_say_epoch_too_old(why, g->members[i].refused_epoch);
            return false;
        }
    return true;
}

/* Nobody is followed any more. */
static bool take_over(const vv_promote_options *o, const group *before, uint64_t epoch, bool force,
                      vv_rpc_status *why) {
    varve_error words = {""};
    group g;
    if (!engine_agrees(vv_replication_promise(o->replication, epoch, &words), &words, o->replication, why))
        return false;
    ask(o, epoch, before, &g);
    bool done = promised_by_all(&g, epoch, why);
    for (size_t i = 0; done && i < g.count; i++)
        if (before->members[i].hands_over && g.members[i].answered)
            fetch_rest(o, g.members[i].address, epoch);
    done = done && good(&g, before, force, why) && begin_epoch(o, epoch, why);
    if (!done)
        say_who_has_stopped(&g, before, why);
    return done;
}

bool vv_promote(const vv_promote_options *o, bool force, uint64_t *epoch_out, vv_rpc_status *why) {
    const vv_promotion_hooks *hooks = vv_replication_hooks(o->replication);
    group g;
    if (vv_replication_role(o->replication) == VV_ROLE_PRIMARY) {
        vv_rpc_status_set(why, VV_RPC_FAILED_PRECONDITION, "ALREADY_PRIMARY", 0,
                          "this server is the primary");
        return false;
    }
    ask(o, 0, NULL, &g);
    for (size_t i = 0; i < g.count; i++)
        g.members[i].hands_over = hands_over(o, &g.members[i]);
    if (!good(&g, &g, force, why))
        return false;
    uint64_t epoch = next_epoch(&g);
    if (hooks->stop)
        hooks->stop(hooks->arg);
    bool done = take_over(o, &g, epoch, force, why);
    if (hooks->resume)
        hooks->resume(hooks->arg);
    if (!done)
        return false;
    *epoch_out = epoch;
    vv_log(o->log, VV_LOG_INFO, "promote: this server is the primary of epoch %" PRIu64, epoch);
    return true;
}
