/*
 * replication.h - what this server is among others: its role, who has confirmed what, and what that makes
 * visible.
 *
 *                         a higher epoch is heard of
 *     .---------. ----------------------------------> .------------.
 *     | PRIMARY |                                     | SUPERSEDED |  refuses writes and reads
 *     '---------' <--- Promote --- .----------. <---- '------------'
 *                                  | FOLLOWER |  a newer primary is found (PEERS)
 *                                  '----------'  refuses writes; serves reads
 *
 * Quorum: with QUORUM = N commits are limited (varve_limit_commits()); the limit is the N-th highest of what
 * the followers that stream from here have confirmed. A follower counts once, by its slot, and only once it
 * has a session: then its log was compared with this one's, and what it confirms is ours. What it has
 * confirmed still counts when the session ends: it has promised nothing away. When it comes back it is
 * believed what it says then.
 *
 * A follower must have taken over this primary's history (varve_follow_epochs()) before it confirms anything:
 * once it has reached the beginning of this primary's epoch, too, its log counts as newer than that of any
 * primary before, whoever is promoted next (promote.h). Until N followers have, nothing is confirmed.
 *
 * Reads: a server whose commits are limited may know, after a restart or a promotion, of writes that it can't
 * show yet and that may have been seen before. Until they are confirmed reads are refused (UNAVAILABLE,
 * NOT_CAUGHT_UP): they never go back in time. A superseded primary refuses reads too (NOT_PRIMARY): the end
 * of its log may be one that nobody else has, and that is about to be cut.
 *
 * Promises: a follower never applies records of a primary while it promises another not to; see
 * vv_replication_apply_begin(). So what it says of its log together with a promise is all that a primary of a
 * lower epoch will ever have confirmed by it.
 *
 * All functions are thread-safe.
 */
#ifndef VV_RPC_REPLICATION_H
#define VV_RPC_REPLICATION_H

#include "base/log.h"
#include "base/status.h"
#include "engine/varve.h"
#include "rpc/transport.h"

#define VV_ADDRESS_BYTES_MAX 255

typedef enum vv_role { VV_ROLE_PRIMARY, VV_ROLE_FOLLOWER, VV_ROLE_SUPERSEDED } vv_role;

typedef struct vv_replication vv_replication;

typedef struct vv_replication_options {
    varve_db *db;
    const char *node; /* this server's name among replicas */
    vv_role role;     /* to begin with */
    uint32_t quorum;  /* 0: none. Commits of a primary's database are limited, or not, to suit */
    const vv_logger *log;
    void (*changed)(
        void *arg); /* the role or the serving of reads has changed; may be NULL. Any thread, no lock held */
    void *arg;
} vv_replication_options;

/* role PRIMARY: becomes SUPERSEDED if the database has promised a higher epoch than its own. Blocks. */
vv_status vv_replication_create(const vv_replication_options *options, vv_replication **out,
                                vv_error *err) VV_CHECKED;
/* NULL is fine. */
void vv_replication_destroy(vv_replication *r);

/* ---- what the services ask ---- */

vv_role vv_replication_role(const vv_replication *r); /* one atomic load */
const char *vv_role_name(vv_role role);
const char *vv_replication_node(const vv_replication *r);
uint32_t vv_replication_quorum(const vv_replication *r);
/* The newest that the database has: of a primary, its own. */
uint64_t vv_replication_epoch(const vv_replication *r);
/* Of a primary: WalFrame.committed_lsn. One atomic load. */
uint64_t vv_replication_committed_lsn(const vv_replication *r);

/* False: *why says NOT_PRIMARY with the primary's address. One atomic load when it is true. */
bool vv_replication_may_write(vv_replication *r, vv_rpc_status *why);
/* False: *why says NOT_CAUGHT_UP, or NOT_PRIMARY. One atomic load when it is true. */
bool vv_replication_may_read(vv_replication *r, vv_rpc_status *why);

/* ---- what the primary hears: sessions of followers ---- */

/* A stream to `slot` begins. The session before it, if there is one, is over: its id is not known any more.
 * The follower counts from its first confirmation on. 0: there are VARVE_SLOTS_MAX sessions. */
uint64_t vv_replication_session_begin(vv_replication *r, const char *slot, const char *peer);
void vv_replication_session_end(vv_replication *r, uint64_t session);
/* A stream asks now and then. */
bool vv_replication_session_is_current(vv_replication *r, uint64_t session);
/* The follower is durable up to lsn, and has this primary's history: its slot moves, and with it perhaps the
 * commit limit. False: no such session, or its slot was lost, which ends it. Does not block. */
bool vv_replication_confirm(vv_replication *r, uint64_t session, uint64_t lsn);

typedef struct vv_replica_info {
    varve_slot_info slot;
    bool connected;
    char peer[VV_ADDRESS_BYTES_MAX + 1];
} vv_replica_info;

/* All slots but that of the archive. Returns how many. */
size_t vv_replication_replicas(vv_replication *r, vv_replica_info out[VARVE_SLOTS_MAX]);

/* This server follows another: what it had kept for followers of its own, log and tombstones, nobody asks for
 * any more. Blocks. */
void vv_replication_forget_followers(vv_replication *r);

/* Somebody knows of this epoch. A primary of a lower one is superseded by that. primary: its address, or
 * NULL. Does not block; whoever may block makes it last with vv_replication_promise(). */
void vv_replication_heard_of(vv_replication *r, uint64_t epoch, const char *primary);

/* ---- promises ---- */

/*
 * Promise never to follow a primary of a lower epoch. OK: survives power loss; nothing of a lower epoch is
 * applied any more, and a primary of one is superseded. INVALID_ARGUMENT/EPOCH_TOO_OLD: this epoch or a
 * higher one was promised before, so that of two candidates only one gets a promise. Blocks.
 */
varve_status vv_replication_promise(vv_replication *r, uint64_t epoch, varve_error *err) VARVE_CHECKED;

/* ---- what the follower says ---- */

/* Who is followed; "": nobody yet. */
void vv_replication_set_primary(vv_replication *r, const char *address);
void vv_replication_get_primary(vv_replication *r, char out[VV_ADDRESS_BYTES_MAX + 1]);
void vv_replication_set_role(vv_replication *r, vv_role role);

/* Around each varve_apply() and varve_follow_epochs() of what a primary of this epoch has sent. False: a
 * higher epoch was promised; nothing may be applied, and nothing is to be ended. */
bool vv_replication_apply_begin(vv_replication *r, uint64_t epoch) VV_CHECKED;
void vv_replication_apply_end(vv_replication *r);

/* WalFrame.committed_lsn of the primary, before the frame's records are applied: limits the database's
 * commits as the primary's are, and shows what is confirmed. Blocks when that changes. */
varve_status vv_replication_follow_commits(vv_replication *r, uint64_t committed_lsn,
                                           varve_error *err) VARVE_CHECKED;

/* How far behind, for Status; noted with each frame. */
typedef struct vv_lag {
    bool connected;
    uint64_t applied_lsn;
    uint64_t primary_lsn; /* durable there, as last heard of */
    uint64_t behind_bytes;
    uint64_t behind_since_ns; /* vv_clock_mono_ns(); 0: everything that was heard of is applied */
} vv_lag;
void vv_replication_set_lag(vv_replication *r, const vv_lag *lag);
void vv_replication_get_lag(vv_replication *r, vv_lag *out);

/* The same as of now, of a follower; all 0 of others. */
typedef struct vv_lag_now {
    bool connected;
    uint64_t applied_lsn, lsn, bytes, ms;
} vv_lag_now;
vv_lag_now vv_replication_lag_now(vv_replication *r);

/* ---- a promotion ---- */

/* What whoever follows a primary does for one; see promote.h. */
typedef struct vv_promotion_hooks {
    void *arg;
    void (*stop)(void *arg);   /* follow nobody; when it returns, nothing is applied any more. Blocks */
    void (*resume)(void *arg); /* it is over: go on, as whatever this server is now */
    /* Remember for the next start that this server was promoted, durably. */
    vv_status (*promoted)(void *arg, uint64_t epoch, vv_error *err);
} vv_promotion_hooks;

/* Before the first call; each of them may be NULL. */
void vv_replication_set_hooks(vv_replication *r, const vv_promotion_hooks *hooks);
const vv_promotion_hooks *vv_replication_hooks(const vv_replication *r);

/* The database has begun an epoch of its own: limit its commits to suit, and take writes. Blocks. */
vv_status vv_replication_become_primary(vv_replication *r, vv_error *err) VV_CHECKED;

#endif
