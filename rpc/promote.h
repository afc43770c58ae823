/*
 * promote.h - a follower becomes the primary.
 *
 *     ask the others what they have --> stop following --> have them promise a new epoch --> begin it
 *           |                                                    |
 *           '--> somebody is newer, or too few: refused <--------'
 *
 * Asking first costs a round, and leaves a group alone when the promotion would be refused: a promise makes
 * an end of a primary, also when the promotion comes to nothing afterwards. Then it has to be promoted
 * itself, or this one again.
 *
 * A primary that is well has more than its followers at any moment. One that this server follows, with little
 * that is not here yet, hands over: when it has promised it takes no writes any more, and the rest of its log
 * is fetched (follow_link.h) before the ends are compared. It acknowledges nothing behind its promise
 * (vv_kv_outcome()), and what it acknowledged before is durable with it (varve_promise_epoch()); so that is
 * all there is, also without QUORUM, and none of it is lost. This server's own promise is of the same epoch,
 * and durable before: should another candidate get a promise of a higher one here meanwhile, nothing more is
 * applied.
 *
 * Why no acknowledged write is lost: with QUORUM = N and F servers in PEERS, a write is acknowledged when its
 * primary and N others have it. Any F - N + 1 of the F + 1 servers, this one included, that have promised not
 * to confirm anything any more to an earlier primary, whatever they are at the moment, include one that has
 * the write; and the promotion is refused unless this server's log is as new as those of all of them. If the
 * primary itself promises, it has everything, and is enough.
 *
 * Logs are compared by their newest epoch whose beginning they have reached, then by their end: as Raft
 * compares the last entries of logs. That epoch's primary had all that was acknowledged before it.
 *
 * Without QUORUM a write is acknowledged by the primary alone: what it has not sent is lost with it, and all
 * that can be found out is whether somebody who can be reached has more.
 */
#ifndef VV_RPC_PROMOTE_H
#define VV_RPC_PROMOTE_H

#include "base/log.h"
#include "engine/varve.h"
#include "rpc/config.h"
#include "rpc/peer.h"
#include "rpc/replication.h"

typedef struct vv_promote_options {
    varve_db *db;
    vv_replication *replication;
    const vv_server_config *config; /* for PEERS, and what it takes to call them */
    uint64_t timeout_ns;            /* for one peer to answer */
    const vv_logger *log;
} vv_promote_options;

/*
 * Blocks. One at a time. False: *why says ALREADY_PRIMARY, NOT_NEWEST (metadata `peer` and `lsn`),
 * TOO_FEW_PEERS, EPOCH_TOO_OLD (metadata `epoch`: another one is promoted at the same time), or what the
 * engine had against it.
 *
 * force: in spite of NOT_NEWEST and TOO_FEW_PEERS.
 */
bool vv_promote(const vv_promote_options *options, bool force, uint64_t *epoch_out,
                vv_rpc_status *why) VV_CHECKED;

/* How new a log is. */
typedef struct vv_log_end {
    uint64_t epoch; /* the newest whose beginning it has reached */
    uint64_t lsn;
} vv_log_end;

vv_log_end vv_log_end_of(const varve_epoch *history, size_t count, uint64_t durable_lsn);
/* <0, 0, >0: a is older than, as new as, or newer than b. */
int vv_log_end_compare(vv_log_end a, vv_log_end b);

#endif
