/*
 * follower.h - keeps a server in its place among others: follows the primary, finds out who that is, and
 * notices when there is a newer one.
 *
 *     role         what its thread does
 *     PRIMARY      asks PEERS and FOLLOW once a second whether somebody knows of a newer epoch
 *     SUPERSEDED   looks for the primary among PEERS, FOLLOW, and whom those name; becomes a FOLLOWER
 *     FOLLOWER     follows it (follow_link.h); when it is lost, looks for it anew
 *
 * What can't be done while the database is open, or while there may be writes of its own under way, is put
 * into a plan, and the server asked to stop for it (cycle.h): to cut a divergent tail, to install a whole
 * copy that was fetched beside, or to come back as a follower after having been a primary.
 */
#ifndef VV_RPC_FOLLOWER_H
#define VV_RPC_FOLLOWER_H

#include "base/log.h"
#include "base/status.h"
#include "engine/varve.h"
#include "rpc/config.h"
#include "rpc/replication.h"

/* Below the data directory: a copy while it is fetched. */
#define VV_BOOTSTRAP_DIR "bootstrap"

typedef enum vv_plan_kind {
    VV_PLAN_NONE,
    VV_PLAN_RESTART, /* nothing else */
    VV_PLAN_REWIND,  /* cut what is behind lsn, into a side file */
    VV_PLAN_INSTALL  /* put DATA/bootstrap in the database's place */
} vv_plan_kind;

/* What is to be done between two runs of a server. */
typedef struct vv_plan {
    vv_plan_kind kind;
    uint64_t lsn;   /* up to here this log is the primary's too; 0 where that is not known */
    uint64_t epoch; /* of this log, for names */
    bool keep;      /* INSTALL: there are writes here that the primary doesn't have */
} vv_plan;

typedef struct vv_follower_options {
    const vv_server_config *config; /* all pointers are borrowed until the end */
    varve_db *db;
    const varve_options *engine;
    vv_replication *replication;
    const vv_logger *log;
    bool no_rewind;             /* it was tried, and the tables have too much: fetch a copy instead */
    void (*planned)(void *arg); /* stop for the plan; called once. NULL: nobody does */
    void *arg;
} vv_follower_options;

typedef struct vv_follower vv_follower;

/* Starts its thread, and sets the replication's hooks for promotions. */
vv_status vv_follower_start(const vv_follower_options *options, vv_follower **out, vv_error *err) VV_CHECKED;

/* The role has changed. Any thread; does not block. */
void vv_follower_look(vv_follower *f);

/* Nothing is applied any more when this returns. Twice is fine, NULL too. */
void vv_follower_stop(vv_follower *f);
/* After the stop, and when no call may come to a hook any more. */
vv_plan vv_follower_plan(const vv_follower *f);
void vv_follower_destroy(vv_follower *f);

#endif
