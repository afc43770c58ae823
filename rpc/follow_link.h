/*
 * follow_link.h - following one primary over one stream, until that ends; or fetching what is left of the log
 * of one that has stopped, for a server that is to take over (promote.h).
 */
#ifndef VV_RPC_FOLLOW_LINK_H
#define VV_RPC_FOLLOW_LINK_H

#include "base/log.h"
#include "engine/varve.h"
#include "rpc/discovery.h"
#include "rpc/peer.h"
#include "rpc/replication.h"

typedef struct vv_follow_link_options {
    varve_db *db;
    vv_replication *replication;
    const vv_logger *log;
    vv_peer *peer;       /* interrupted, it ends the link */
    const char *address; /* for words */
    uint64_t timeout_ns; /* of silence */
    bool quiet;          /* don't say again that it begins */
    /* 0: follow a primary. Else this server has promised the epoch to itself, and so has the superseded
     * primary at the other side, which it has followed until now: fetch the rest of its log (END). */
    uint64_t candidate_epoch;
    /* The primary has let us in, and its history is about to be taken over. Not OK: it is not. Not asked by a
     * candidate. */
    vv_status (*begin)(void *arg, vv_error *err);
    void *arg;
} vv_follow_link_options;

typedef enum vv_link_end {
    VV_LINK_LOST, /* or never reached, or it said something that makes no sense */
    VV_LINK_END,  /* a candidate has all that there was */
    VV_LINK_INTERRUPTED,
    VV_LINK_NOT_PRIMARY, /* primary: whom it names */
    VV_LINK_STALE,       /* its epoch is lower than what was promised here */
    VV_LINK_FOREIGN,     /* another database */
    VV_LINK_DENIED,      /* no right to */
    VV_LINK_DIVERGED,    /* has_common, common_lsn */
    VV_LINK_TRIMMED,
    VV_LINK_TROUBLE /* of our own: with the disk, say */
} vv_link_end;

typedef struct vv_link_result {
    vv_link_end end;
    vv_error words;
    bool followed; /* it had begun */
    bool applied;  /* something came, and is durable here */
    vv_address primary;
    bool has_common;
    uint64_t common_lsn;
} vv_link_result;

/* Blocks until it ends. Nobody else writes to the database meanwhile. */
void vv_follow_link_run(const vv_follow_link_options *options, vv_link_result *out);

#endif
