/*
 * replication.c - the role, the sessions of followers, and the commit limit that they make.
 *
 * Whether reads and writes are let in is asked for each of them, so it is one word each, written with the
 * lock held and read without. All else is asked or changed some thousand times a second at most.
 *
 * Locks: `apply_lock` is held while records are applied or an epoch is promised, both of which block;
 * `mu.lock` for pointer moves. Neither is held while `changed` is called, nor the one while the other is
 * taken. The engine is told of confirmations without a lock: of two limits that cross it keeps the higher.
 */
#include "rpc/replication.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/sync.h"
#include "rpc/status_map.h"

#define CATCH_UP_RETRY_MS 200

/* What is known of a follower since the start, by its slot. */
typedef struct replica {
    char slot[VARVE_SLOT_NAME_BYTES_MAX + 1];
    char peer[VV_ADDRESS_BYTES_MAX + 1];
    uint64_t session; /* 0: not connected */
    uint64_t confirmed_lsn;
} replica;

struct vv_replication {
    vv_replication_options options;
    vv_promotion_hooks hooks;
    char node[VARVE_SLOT_NAME_BYTES_MAX + 1];
    _Atomic uint32_t role;    /* a vv_role; written with the lock */
    _Atomic bool reads;       /* let in; the same */
    vv_mutex apply_lock;      /* see the head */
    uint64_t promised_epoch;  /* under apply_lock: to a candidate, or before the start */
    uint64_t followed_commit; /* the follower's thread: what it has told last */
    struct {
        vv_mutex lock;
        char primary[VV_ADDRESS_BYTES_MAX + 1];
        uint64_t catch_up_lsn; /* reads are let in once they see this */
        uint64_t epoch_lsn;    /* the last before this primary's epoch: see quorum_lsn() */
        uint64_t next_session;
        replica replicas[VARVE_SLOTS_MAX];
        size_t replica_count;
        vv_lag lag;
    } mu;
};

static vv_role role_now(const vv_replication *r) {
    return (vv_role)atomic_load_explicit(&r->role, memory_order_acquire);
}

static void tell_changed(const vv_replication *r) {
    if (r->options.changed)
        r->options.changed(r->options.arg);
}

static vv_status from_engine(varve_status st, const varve_error *words, vv_error *err) {
    if (varve_ok(st))
        return VV_STATUS_OK;
    return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "limit commits: %s",
                   words->text[0] ? words->text : varve_code_text(st.code));
}

/* ---- life ---- */

/* With QUORUM commits wait for followers, without it for nobody. What is limited already is left alone: the
 * limit that the database remembers is the one that its last run reached. */
static vv_status limit_to_suit(vv_replication *r, vv_error *err) {
    varve_stats stats;
    varve_error words = {""};
    varve_stats_get(r->options.db, &stats);
    bool limited = stats.commit_limit != UINT64_MAX, wanted = r->options.quorum > 0;
    if (limited == wanted)
        return VV_STATUS_OK;
    return from_engine(varve_limit_commits(r->options.db, wanted, &words), &words, err);
}

static uint64_t last_lsn_before_epoch(varve_db *db) {
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    size_t count = varve_epochs_get(db, epochs);
    return count > 0 ? epochs[count - 1].first_lsn - 1 : 0;
}

/* Reads wait until they see all that is in the log now; and of it only the whole counts as confirmed. */
static void begin_catch_up(vv_replication *r) {
    uint64_t visible_lsn = varve_visible_lsn(r->options.db);
    r->mu.catch_up_lsn = varve_durable_lsn(r->options.db);
    atomic_store_explicit(&r->reads, visible_lsn >= r->mu.catch_up_lsn, memory_order_release);
}

vv_status vv_replication_create(const vv_replication_options *options, vv_replication **out, vv_error *err) {
    *out = NULL;
    vv_replication *r = vv_alloc_zeroed(sizeof *r);
    if (!r)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "start replication");
    varve_stats stats;
    varve_stats_get(options->db, &stats);
    r->options = *options;
    snprintf(r->node, sizeof r->node, "%s", options->node);
    r->promised_epoch = stats.promised_epoch;
    vv_mutex_init(&r->apply_lock);
    vv_mutex_init(&r->mu.lock);
    vv_status st = VV_STATUS_OK;
    vv_role role = options->role;
    if (role == VV_ROLE_PRIMARY && stats.promised_epoch > stats.epoch) {
        vv_log(options->log, VV_LOG_WARN,
               "superseded: epoch %" PRIu64 " was promised to another server, the last one here is %" PRIu64,
               stats.promised_epoch, stats.epoch);
        role = VV_ROLE_SUPERSEDED;
    } else if (role == VV_ROLE_PRIMARY) {
        st = limit_to_suit(r, err);
    }
    atomic_init(&r->role, role);
    begin_catch_up(r);
    if (role == VV_ROLE_SUPERSEDED)
        atomic_store(&r->reads, false);
    /* Random, so that a session of an earlier run is not taken for one of this. */
    if (vv_ok(st) &&
        getrandom(&r->mu.next_session, sizeof r->mu.next_session, 0) != (ssize_t)sizeof r->mu.next_session)
        st = vv_fail(err, vv_status_make(VV_IO, VV_SUB_NONE, 0), "start replication: no random bytes");
    if (!vv_ok(st)) {
        vv_replication_destroy(r);
        return st;
    }
    *out = r;
    return st;
}

void vv_replication_destroy(vv_replication *r) {
    if (!r)
        return;
    vv_mutex_deinit(&r->apply_lock);
    vv_mutex_deinit(&r->mu.lock);
    vv_free(r);
}

/* ---- what the services ask ---- */

vv_role vv_replication_role(const vv_replication *r) {
    return role_now(r);
}

const char *vv_role_name(vv_role role) {
    switch (role) {
    case VV_ROLE_PRIMARY: return "primary";
    case VV_ROLE_FOLLOWER: return "follower";
    case VV_ROLE_SUPERSEDED: break;
    }
    return "superseded";
}

const char *vv_replication_node(const vv_replication *r) {
    return r->node;
}

uint64_t vv_replication_epoch(const vv_replication *r) {
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    size_t count = varve_epochs_get(r->options.db, epochs);
    return count > 0 ? epochs[count - 1].epoch : 0;
}

uint64_t vv_replication_committed_lsn(const vv_replication *r) {
    return r->options.quorum > 0 ? varve_visible_lsn(r->options.db) : UINT64_MAX;
}

uint32_t vv_replication_quorum(const vv_replication *r) {
    return r->options.quorum;
}

static void say_not_primary(vv_replication *r, vv_rpc_status *why) {
    char primary[VV_ADDRESS_BYTES_MAX + 1];
    vv_replication_get_primary(r, primary);
    vv_rpc_detail detail = {"primary", primary};
    const char *what =
        role_now(r) == VV_ROLE_FOLLOWER ? "this server is a follower" : "this primary was superseded";
    if (primary[0])
        vv_rpc_status_set_details(why, VV_RPC_FAILED_PRECONDITION, "NOT_PRIMARY", 0, &detail, 1,
                                  "%s; the primary is %.160s", what, primary);
    else
        vv_rpc_status_set(why, VV_RPC_FAILED_PRECONDITION, "NOT_PRIMARY", 0,
                          "%s; who is the primary is not known", what);
}

bool vv_replication_may_write(vv_replication *r, vv_rpc_status *why) {
    if (role_now(r) == VV_ROLE_PRIMARY)
        return true;
    say_not_primary(r, why);
    return false;
}

/* Let reads in if they see by now what they have to. */
static bool look_again(vv_replication *r) {
    uint64_t visible_lsn = varve_visible_lsn(r->options.db);
    vv_mutex_lock(&r->mu.lock);
    bool let_in = role_now(r) != VV_ROLE_SUPERSEDED && visible_lsn >= r->mu.catch_up_lsn;
    bool changed = let_in && !atomic_load_explicit(&r->reads, memory_order_relaxed);
    if (changed)
        atomic_store_explicit(&r->reads, true, memory_order_release);
    vv_mutex_unlock(&r->mu.lock);
    if (changed)
        tell_changed(r);
    return let_in;
}

bool vv_replication_may_read(vv_replication *r, vv_rpc_status *why) {
    if (atomic_load_explicit(&r->reads, memory_order_acquire) || look_again(r))
        return true;
    if (role_now(r) == VV_ROLE_SUPERSEDED)
        say_not_primary(r, why);
    else
        vv_rpc_status_set(
            why, VV_RPC_UNAVAILABLE, "NOT_CAUGHT_UP", CATCH_UP_RETRY_MS,
            "there are writes in the log of which it is not known yet that enough replicas have "
            "them");
    return false;
}

/* ---- sessions of followers; with the lock ---- */

static replica *find_slot(vv_replication *r, const char *slot) {
    for (size_t i = 0; i < r->mu.replica_count; i++)
        if (strcmp(r->mu.replicas[i].slot, slot) == 0)
            return &r->mu.replicas[i];
    return NULL;
}

static replica *find_session(vv_replication *r, uint64_t session) {
    for (size_t i = 0; i < r->mu.replica_count && session != 0; i++)
        if (r->mu.replicas[i].session == session)
            return &r->mu.replicas[i];
    return NULL;
}

/* A place for a slot that has none: a new one, or that of the farthest behind of those that are gone. */
static replica *place_for(vv_replication *r) {
    if (r->mu.replica_count < VARVE_SLOTS_MAX)
        return &r->mu.replicas[r->mu.replica_count++];
    replica *oldest = NULL;
    for (size_t i = 0; i < r->mu.replica_count; i++) {
        replica *at = &r->mu.replicas[i];
        if (at->session == 0 && (!oldest || at->confirmed_lsn < oldest->confirmed_lsn))
            oldest = at;
    }
    return oldest;
}

/*
 * The highest LSN that `quorum` followers have; 0: none that counts.
 *
 * What an earlier primary wrote counts only once `quorum` followers have all of it. Until then their logs
 * could still lose against that of a server which was a primary in between and wrote something else there
 * (promote.c compares logs by the newest epoch whose beginning they have reached). The same rule as for a
 * leader's commits in Raft: D. Ongaro, J. Ousterhout, "In Search of an Understandable Consensus Algorithm",
 * 2014, 5.4.2.
 */
static uint64_t quorum_lsn(const vv_replication *r) {
    uint64_t best = 0;
    for (size_t i = 0; i < r->mu.replica_count; i++) {
        uint64_t lsn = r->mu.replicas[i].confirmed_lsn;
        size_t have = 0;
        for (size_t j = 0; j < r->mu.replica_count; j++)
            have += r->mu.replicas[j].confirmed_lsn >= lsn;
        if (have >= r->options.quorum && lsn > best)
            best = lsn;
    }
    return best >= r->mu.epoch_lsn ? best : 0;
}

/* ---- sessions of followers ---- */

uint64_t vv_replication_session_begin(vv_replication *r, const char *slot, const char *peer) {
    uint64_t session = 0, epoch_lsn = last_lsn_before_epoch(r->options.db);
    vv_mutex_lock(&r->mu.lock);
    r->mu.epoch_lsn = epoch_lsn; /* an epoch that begins later ends all sessions */
    replica *at = find_slot(r, slot);
    if (!at)
        at = place_for(r);
    if (at) {
        session = ++r->mu.next_session ? r->mu.next_session : ++r->mu.next_session;
        *at = (replica){.session = session};
        snprintf(at->slot, sizeof at->slot, "%s", slot);
        snprintf(at->peer, sizeof at->peer, "%s", peer);
    }
    vv_mutex_unlock(&r->mu.lock);
    return session;
}

void vv_replication_session_end(vv_replication *r, uint64_t session) {
    vv_mutex_lock(&r->mu.lock);
    replica *at = find_session(r, session);
    if (at)
        at->session = 0;
    vv_mutex_unlock(&r->mu.lock);
}

bool vv_replication_session_is_current(vv_replication *r, uint64_t session) {
    vv_mutex_lock(&r->mu.lock);
    bool current = find_session(r, session) != NULL;
    vv_mutex_unlock(&r->mu.lock);
    return current;
}

bool vv_replication_confirm(vv_replication *r, uint64_t session, uint64_t lsn) {
    char slot[VARVE_SLOT_NAME_BYTES_MAX + 1];
    uint64_t limit = 0;
    vv_mutex_lock(&r->mu.lock);
    replica *at = find_session(r, session);
    /* Of a primary that was superseded nothing may become visible any more that was not before. */
    bool known = at && role_now(r) == VV_ROLE_PRIMARY;
    if (known) {
        at->confirmed_lsn = lsn > at->confirmed_lsn ? lsn : at->confirmed_lsn;
        memcpy(slot, at->slot, sizeof slot);
        if (r->options.quorum > 0)
            limit = quorum_lsn(r);
    }
    vv_mutex_unlock(&r->mu.lock);
    if (!known)
        return false;
    if (limit > 0)
        varve_set_commit_limit(r->options.db, limit);
    if (!atomic_load_explicit(&r->reads, memory_order_acquire))
        (void)look_again(r);
    varve_status st = varve_slot_confirm(r->options.db, slot, lsn);
    if (st.code == VARVE_NOT_FOUND)
        vv_replication_session_end(r, session);
    return st.code != VARVE_NOT_FOUND;
}

size_t vv_replication_replicas(vv_replication *r, vv_replica_info out[VARVE_SLOTS_MAX]) {
    varve_slot_info slots[VARVE_SLOTS_MAX];
    size_t slot_count = varve_slots_get(r->options.db, slots), count = 0;
    vv_mutex_lock(&r->mu.lock);
    for (size_t i = 0; i < slot_count; i++) {
        if (strcmp(slots[i].name, VARVE_ARCHIVE_SLOT) == 0)
            continue;
        vv_replica_info *info = &out[count++];
        *info = (vv_replica_info){.slot = slots[i]};
        const replica *at = find_slot(r, slots[i].name);
        info->connected = at && at->session != 0;
        if (info->connected)
            memcpy(info->peer, at->peer, sizeof info->peer);
    }
    vv_mutex_unlock(&r->mu.lock);
    return count;
}

void vv_replication_forget_followers(vv_replication *r) {
    varve_slot_info slots[VARVE_SLOTS_MAX];
    size_t count = varve_slots_get(r->options.db, slots);
    for (size_t i = 0; i < count; i++) {
        varve_error words = {""};
        if (strcmp(slots[i].name, VARVE_ARCHIVE_SLOT) == 0)
            continue;
        varve_status st = varve_slot_drop(r->options.db, slots[i].name, &words);
        if (varve_ok(st))
            vv_log(r->options.log, VV_LOG_INFO, "replication: nothing is kept for %s any more",
                   slots[i].name);
        else
            vv_log(r->options.log, VV_LOG_WARN, "replication: %s: %s", slots[i].name, words.text);
    }
}

/* ---- the role ---- */

void vv_replication_set_role(vv_replication *r, vv_role role) {
    vv_mutex_lock(&r->mu.lock);
    bool changed = role_now(r) != role;
    atomic_store_explicit(&r->role, role, memory_order_release);
    if (changed && role == VV_ROLE_SUPERSEDED)
        atomic_store_explicit(&r->reads, false, memory_order_release);
    vv_mutex_unlock(&r->mu.lock);
    if (changed) {
        vv_log(r->options.log, VV_LOG_INFO, "this server is %s now", vv_role_name(role));
        (void)look_again(r);
        tell_changed(r);
    }
}

void vv_replication_heard_of(vv_replication *r, uint64_t epoch, const char *primary) {
    if (role_now(r) != VV_ROLE_PRIMARY)
        return;
    uint64_t own_epoch = vv_replication_epoch(r);
    vv_mutex_lock(&r->mu.lock);
    bool superseded = epoch > own_epoch && role_now(r) == VV_ROLE_PRIMARY;
    if (superseded) {
        atomic_store_explicit(&r->role, VV_ROLE_SUPERSEDED, memory_order_release);
        atomic_store_explicit(&r->reads, false, memory_order_release);
        snprintf(r->mu.primary, sizeof r->mu.primary, "%s", primary ? primary : "");
    }
    vv_mutex_unlock(&r->mu.lock);
    if (superseded) {
        vv_log(r->options.log, VV_LOG_WARN,
               "superseded: there is an epoch %" PRIu64 ", and this server was the primary of %" PRIu64,
               epoch, own_epoch);
        tell_changed(r);
    }
}

void vv_replication_set_primary(vv_replication *r, const char *address) {
    vv_mutex_lock(&r->mu.lock);
    snprintf(r->mu.primary, sizeof r->mu.primary, "%s", address);
    vv_mutex_unlock(&r->mu.lock);
}

void vv_replication_get_primary(vv_replication *r, char out[VV_ADDRESS_BYTES_MAX + 1]) {
    vv_mutex_lock(&r->mu.lock);
    memcpy(out, r->mu.primary, VV_ADDRESS_BYTES_MAX + 1);
    vv_mutex_unlock(&r->mu.lock);
}

void vv_replication_set_hooks(vv_replication *r, const vv_promotion_hooks *hooks) {
    r->hooks = *hooks;
}

const vv_promotion_hooks *vv_replication_hooks(const vv_replication *r) {
    return &r->hooks;
}

vv_status vv_replication_become_primary(vv_replication *r, vv_error *err) {
    VV_TRY(limit_to_suit(r, err));
    vv_mutex_lock(&r->mu.lock);
    r->mu.replica_count = 0; /* what they had confirmed to an earlier primary does not count */
    r->mu.primary[0] = '\0';
    begin_catch_up(r);
    atomic_store_explicit(&r->role, VV_ROLE_PRIMARY, memory_order_release);
    vv_mutex_unlock(&r->mu.lock);
    vv_log(r->options.log, VV_LOG_INFO, "this server is primary now");
    tell_changed(r);
    return VV_STATUS_OK;
}

/* ---- promises ---- */

varve_status vv_replication_promise(vv_replication *r, uint64_t epoch, varve_error *err) {
    varve_status st = {.code = VARVE_INVALID_ARGUMENT, .reason = VV_SUB_EPOCH_TOO_OLD};
    varve_stats stats;
    /* Before it is durable: what is written from now on may be lost, and is not to be acknowledged. */
    vv_replication_heard_of(r, epoch, NULL);
    vv_mutex_lock(&r->apply_lock);
    varve_stats_get(r->options.db, &stats);
    if (epoch > stats.promised_epoch && epoch > stats.epoch) {
        st = varve_promise_epoch(r->options.db, epoch, err);
        if (varve_ok(st))
            r->promised_epoch = epoch;
    }
    vv_mutex_unlock(&r->apply_lock);
    return st;
}

bool vv_replication_apply_begin(vv_replication *r, uint64_t epoch) {
    vv_mutex_lock(&r->apply_lock);
    if (epoch >= r->promised_epoch)
        return true;
    vv_mutex_unlock(&r->apply_lock);
    return false;
}

void vv_replication_apply_end(vv_replication *r) {
    vv_mutex_unlock(&r->apply_lock);
}

/* ---- what the follower says ---- */

varve_status vv_replication_follow_commits(vv_replication *r, uint64_t committed_lsn, varve_error *err) {
    varve_status st = {0};
    bool limited = committed_lsn != UINT64_MAX;
    bool was_limited = r->followed_commit != UINT64_MAX;
    if (r->followed_commit == 0 || limited != was_limited) {
        varve_stats stats;
        varve_stats_get(r->options.db, &stats);
        if ((stats.commit_limit != UINT64_MAX) != limited)
            st = varve_limit_commits(r->options.db, limited, err);
        if (!varve_ok(st))
            return st;
    }
    if (limited && committed_lsn != r->followed_commit)
        varve_set_commit_limit(r->options.db, committed_lsn);
    r->followed_commit = committed_lsn;
    if (!atomic_load_explicit(&r->reads, memory_order_acquire))
        (void)look_again(r);
    return st;
}

void vv_replication_set_lag(vv_replication *r, const vv_lag *lag) {
    vv_mutex_lock(&r->mu.lock);
    r->mu.lag = *lag;
    vv_mutex_unlock(&r->mu.lock);
}

vv_lag_now vv_replication_lag_now(vv_replication *r) {
    vv_lag lag;
    if (vv_replication_role(r) != VV_ROLE_FOLLOWER)
        return (vv_lag_now){.connected = false};
    vv_replication_get_lag(r, &lag);
    uint64_t now_ns = vv_clock_mono_ns(), since_ns = lag.behind_since_ns;
    return (vv_lag_now){.connected = lag.connected,
                        .applied_lsn = lag.applied_lsn,
                        .lsn = lag.primary_lsn > lag.applied_lsn ? lag.primary_lsn - lag.applied_lsn : 0,
                        .bytes = lag.behind_bytes,
                        .ms = since_ns != 0 && now_ns > since_ns ? (now_ns - since_ns) / VV_NS_PER_MS : 0};
}

void vv_replication_get_lag(vv_replication *r, vv_lag *out) {
    vv_mutex_lock(&r->mu.lock);
    *out = r->mu.lag;
    vv_mutex_unlock(&r->mu.lock);
}
