/*
 * replication.h - what this server is among others: its role, who has confirmed what, and what that makes
 * visible.
 *
 *                         a higher epoch is heard of
 *     .---------. ----------------------------------> .------------.
 *     | PRIMARY |                                     | SUPERSEDED |  refuses writes; looks for the newer
 * primary
 *     '---------' <---- Promote ---- .----------. <---- '------------'  (PEERS) and becomes its follower
 *                                    | FOLLOWER |
 *                                    '----------'  refuses writes with NOT_PRIMARY; serves reads
 *
 * Quorum: with QUORUM = N commits are limited (varve_limit_commits()); the limit is the N-th highest of what
 * the followers that stream from here have confirmed. A follower counts once, by its slot, and only while it
 * has a session: then its log was compared with this one's, and what it confirms is ours. What it has
 * confirmed still counts when the session ends: it has promised nothing away.
 *
 * Reads: a server whose commits are limited may know, after a restart, of writes that it can't show yet and
 * that may have been seen before. Until they are confirmed reads are refused (UNAVAILABLE, NOT_CAUGHT_UP):
 * they never go back in time.
 *
 * All functions are thread-safe.
 */
#ifndef VV_RPC_REPLICATION_H
#define VV_RPC_REPLICATION_H

#include <stdatomic.h>

#include "base/log.h"
#include "base/status.h"
#include "base/sync.h"
#include "engine/varve.h"
#include "rpc/timer.h"
#include "rpc/transport.h"

#define VV_ADDRESS_BYTES_MAX 255

typedef enum vv_role { VV_ROLE_PRIMARY, VV_ROLE_FOLLOWER, VV_ROLE_SUPERSEDED } vv_role;

typedef struct vv_replication vv_replication;

typedef struct vv_replication_options {
    varve_db *db;
    const char *node; /* this server's name among replicas */
    vv_role role;     /* to begin with */
    uint32_t quorum;  /* 0: none. Commits of the database are limited, or not, to suit */
    const vv_logger *log;
    void (*changed)(
        void *arg); /* the role or the serving of reads has changed; may be NULL. Any thread, no lock held */
    void *arg;
} vv_replication_options;

vv_status vv_replication_create(const vv_replication_options *options, vv_replication **out,
                                vv_error *err) VV_CHECKED;
/* NULL is fine. */
void vv_replication_destroy(vv_replication *r);

/* ---- what the services ask ---- */

vv_role vv_replication_role(const vv_replication *r); /* one atomic load */
const char *vv_role_name(vv_role role);
const char *vv_replication_node(const vv_replication *r);
uint32_t vv_replication_quorum(const vv_replication *r);

/* False: *why says NOT_PRIMARY with the primary's address. One atomic load when it is true. */
bool vv_replication_may_write(vv_replication *r, vv_rpc_status *why);
/* False: *why says NOT_CAUGHT_UP. One atomic load when it is true. */
bool vv_replication_may_read(vv_replication *r, vv_rpc_status *why);

/* ---- what the primary hears: sessions of followers ---- */

/* A stream to `slot` begins. The session before it, if there is one, is over: its id is not known any more.
 */
uint64_t vv_replication_session_begin(vv_replication *r, const char *slot, const char *peer);
void vv_replication_session_end(vv_replication *r, uint64_t session);
/* A stream asks now and then. */
bool vv_replication_session_is_current(vv_replication *r, uint64_t session);
/* The follower is durable up to lsn: its slot moves, and with it perhaps the commit limit. False: no such
 * session. Does not block. */
bool vv_replication_confirm(vv_replication *r, uint64_t session, uint64_t lsn);

typedef struct vv_replica_info {
    varve_slot_info slot;
    bool connected;
    char peer[VV_ADDRESS_BYTES_MAX + 1];
} vv_replica_info;

/* All slots. Returns how many. */
size_t vv_replication_replicas(vv_replication *r, vv_replica_info out[VARVE_SLOTS_MAX]);

/* Somebody knows of this epoch. A primary of a lower one is superseded by that. */
void vv_replication_heard_of(vv_replication *r, uint64_t epoch, const char *primary);

/* ---- what the follower says ---- */

/* Who is followed; "": nobody yet. */
void vv_replication_set_primary(vv_replication *r, const char *address);
void vv_replication_get_primary(vv_replication *r, char out[VV_ADDRESS_BYTES_MAX + 1]);
void vv_replication_set_role(vv_replication *r, vv_role role);

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

#endif
