/*
 * log_streams.h - calls that follow the log: whose turn it is, and who waits for more.
 *
 * Watch and Replication.StreamWal both are a log cursor and what was packed from it. Such a stream has no
 * thread; it is always in one of three hands:
 *
 *                         .--- on_posted() ---> HELD --- given to the network, next turn ---.
 *                         |                      |                                          |
 *     add() -> WORKING --post, when something    '-- at the end of the log --> IDLE         |
 *               ^  ^  |    is to be said                                        |           |
 *               |  |  '-- at the end of the log, nothing to be said --> IDLE    |           |
 *               |  '-------------------- more of the log, or a tick ------'-----'           |
 *               '---------------------------------------------------------------------------'
 *
 * Reading happens on a worker since it may go to the disk. What is written next is announced by the engine on
 * the committing thread (vv_log_streams_wake()), which puts one job on the workers' queue for all idle
 * streams together, and none when nobody is idle; that job works for one of them itself, which saves the way
 * through the queue when there is one. One timer sends those on that have told nothing for long.
 *
 * What is read, packed and told, and which errors end a stream, is its service's.
 *
 * Invariants
 *   L1  Who holds the stream alone touches it. `place` says who, under the lock: a worker, nobody (only
 *       whoever takes it from the idle), or the call's thread. A stream that a worker has is asked to come
 *       back by `end_wanted`.
 *   L2  No wake-up is lost: a worker that finds the end compares the generation with that from before it
 *       looked, under the lock under which vv_log_streams_wake() moves it on and takes those who are idle.
 *
 * Locking: `mu` guards the list and the places; the queue of the workers and the timers are called with it.
 */
#ifndef VV_RPC_LOG_STREAMS_H
#define VV_RPC_LOG_STREAMS_H

#include <stdatomic.h>

#include "base/sync.h"
#include "rpc/timer.h"
#include "rpc/workers.h"

typedef enum vv_log_stream_place {
    VV_LOG_STREAM_WORKING,
    VV_LOG_STREAM_IDLE,
    VV_LOG_STREAM_HELD,
} vv_log_stream_place;

typedef struct vv_log_stream vv_log_stream;
typedef struct vv_log_streams vv_log_streams;

/* Embedded in what its service keeps of the call. */
struct vv_log_stream {
    vv_log_streams *all;
    vv_job job;
    vv_log_stream_place place;   /* under the lock */
    vv_log_stream *next, **link; /* while idle, under the lock too */
    _Atomic bool end_wanted;     /* set with the lock held */
    uint64_t generation;         /* from before the worker looked */
    uint64_t told_ns;            /* when its service last told something: that sets it; 0: never */
};

typedef struct vv_log_streams_options {
    vv_workers *workers; /* its queue has no bound, and it outlives the streams */
    vv_timers *timers;
    uint64_t patience_ns; /* who has told nothing for so long is sent on */
    uint64_t tick_ns;     /* and at most so much later */
} vv_log_streams_options;

struct vv_log_streams {
    vv_log_streams_options options;
    vv_job wake_job;             /* sends all that are idle to look for more */
    vv_timer tick;               /* sends those on that are due */
    _Atomic uint64_t generation; /* counts vv_log_streams_wake(); moved on with the lock held */
    struct {
        vv_mutex lock;
        vv_log_stream *idle; /* have told all there is */
        uint64_t count;
        bool wake_queued;
        bool ticking;
    } mu;
};

/* ---- all streams of a service ---- */

/* Before the database is opened: its callbacks lead to vv_log_streams_wake(). */
void vv_log_streams_init(vv_log_streams *s);
/* Before the first stream. */
void vv_log_streams_start(vv_log_streams *s, const vv_log_streams_options *options);
/* Have all streams look whether there is more, or a reason to end. Any thread; does not block. */
void vv_log_streams_wake(vv_log_streams *s);
/* No stream is left. The workers are stopped afterwards: a wake-up may still be in their queue. */
void vv_log_streams_stop(vv_log_streams *s);
/* The database is closed. */
void vv_log_streams_deinit(vv_log_streams *s);

/* ---- one ---- */

/* A worker calls run() with w->job; all of w is zero before. w belongs to the worker from here on. */
void vv_log_streams_add(vv_log_streams *s, vv_log_stream *w, void (*run)(vv_job *job));

/* Who holds it sends it to a worker, behind those who wait for their turn. */
void vv_log_stream_work(vv_log_stream *w);

/* In on_posted(): the call's thread holds it. */
void vv_log_stream_hold(vv_log_stream *w);

/* Before each look at the log: what comes afterwards is announced (L2). */
void vv_log_stream_look(vv_log_stream *w);

/* Who holds it found the end of the log. True: it is idle, and may be gone by now. False: there is more since
 * vv_log_stream_look(), or the call's thread wants it back; it stays where it is. */
bool vv_log_stream_settle(vv_log_stream *w);

/* The call's thread wants it back. */
bool vv_log_stream_end_wanted(const vv_log_stream *w);

/* Has it told nothing for so long that at the next tick it would be late? */
bool vv_log_stream_is_due(const vv_log_stream *w);

/* The call's thread alone: ask for it, if it is to be ended, and take it if it is idle then. True: the call's
 * thread holds it. False: it comes by on_posted(), or goes on as before. */
bool vv_log_stream_take_back(vv_log_stream *w, bool to_end);

/* After the last use of what its service keeps, which may be released already. */
void vv_log_streams_remove(vv_log_streams *s);

#endif
