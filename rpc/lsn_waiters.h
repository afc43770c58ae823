/*
 * lsn_waiters.h - what every read passes: may this server answer it, and does it have what the caller wants
 * to see?
 *
 *     on_call() --> let in? --no--> UNAVAILABLE NOT_CAUGHT_UP, or NOT_PRIMARY
 *                       |
 *                      yes --> everything up to min_lsn is visible --yes--> the read
 *                                            no: the call waits, and on_call() is called again
 *
 * Whoever writes to the primary and reads from a follower gives the LSN of the write as min_lsn, and sees it.
 * A call that waits costs its request and no thread. It ends with its deadline, with its client, and with the
 * server's drain.
 *
 * The methods of such calls leave the last word of the call's state to this module.
 */
#ifndef VV_RPC_LSN_WAITERS_H
#define VV_RPC_LSN_WAITERS_H

#include "base/sync.h"
#include "engine/varve.h"
#include "rpc/replication.h"
#include "rpc/transport.h"

/* What a method may use of a call's state. */
#define VV_LSN_WAITERS_STATE_BYTES (VV_RPC_CALL_STATE_BYTES - sizeof(void *))

typedef struct vv_lsn_wait vv_lsn_wait;

typedef struct vv_lsn_waiters_options {
    varve_db *db;
    vv_replication *replication; /* NULL: all reads are let in */
    uint64_t count_max;          /* calls that wait; more are refused */
    /* Wakes the threads of posted calls (vv_rpc_post()). */
    void (*flush)(void *arg);
    void *flush_arg;
} vv_lsn_waiters_options;

typedef struct vv_lsn_waiters {
    vv_lsn_waiters_options options;
    struct {
        vv_mutex lock;
        vv_lsn_wait *first, *last; /* by LSN, ascending */
        uint64_t count;
        bool draining;
    } mu;
} vv_lsn_waiters;

/* Before the database is opened: vv_lsn_waiters_wake() belongs to its durable callback. */
void vv_lsn_waiters_init(vv_lsn_waiters *w);
/* Before the first call. What options point to must outlive the calls. */
void vv_lsn_waiters_start(vv_lsn_waiters *w, const vv_lsn_waiters_options *options);
/* More is visible. Any thread; does not block. */
void vv_lsn_waiters_wake(vv_lsn_waiters *w);
/* The server drains: who waits is refused. Any thread. */
void vv_lsn_waiters_drain(vv_lsn_waiters *w);
/* No call is left, and the database is closed. */
void vv_lsn_waiters_deinit(vv_lsn_waiters *w);

/*
 * In a read's on_call(), with its request: go on? False: the call has been failed, or it waits until
 * everything up to min_lsn (0: nothing in particular) is visible, and then its on_call() is called again with
 * the same request. names_state: the request says itself which state it reads, which excludes min_lsn.
 */
bool vv_lsn_waiters_let_in(vv_lsn_waiters *w, vv_rpc_call *call, vv_slice request, uint64_t min_lsn,
                           bool names_state);

/* The on_cancelled() of such a method, if it has none of its own; else that asks vv_lsn_waiters_left() first,
 * and does nothing when it is true: the call was waiting. */
void vv_lsn_waiters_on_cancelled(vv_rpc_call *call);
bool vv_lsn_waiters_left(vv_rpc_call *call);

/* How many wait. */
uint64_t vv_lsn_waiters_count(vv_lsn_waiters *w);

#endif
