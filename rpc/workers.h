/*
 * workers.h - a few threads for what blocks: reads that go to the disk, flushes, merges, backups.
 *
 * A callback of the transport must not block (transport.h, T4), so a call that needs the disk hands itself to
 * a worker and comes back by a post:
 *
 *     on_call() --vv_workers_submit()--> [worker] job->run() --vv_rpc_post()--> on_posted()
 *
 * A job is a node inside its caller's state: submitting allocates nothing. What takes minutes (a backup) and
 * what takes microseconds (a page of a scan) want pools of their own: a pool's threads can all be busy with
 * the former.
 */
#ifndef VV_RPC_WORKERS_H
#define VV_RPC_WORKERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct vv_workers vv_workers;

#define VV_WORKERS_THREADS_MAX 64

/* Embedded in whatever it works for, and the pool's from submit until run() is called: run() may submit it
 * again, or release it. */
typedef struct vv_job {
    struct vv_job *next;
    void (*run)(struct vv_job *job);
} vv_job;

typedef struct vv_workers_options {
    const char *name;      /* of the threads, at most 15 characters */
    uint32_t thread_count; /* 1 to VV_WORKERS_THREADS_MAX */
    uint32_t queue_max;    /* jobs that may wait for a thread; more are refused */
    bool background;       /* behind all other threads of the machine (vv_thread_be_background()) */
} vv_workers_options;

vv_status vv_workers_create(const vv_workers_options *options, vv_workers **out) VV_CHECKED;

/*
 * Have job->run(job) called on one of the threads, in the order of arrival. Any thread, also a worker.
 *
 * True: it will be called exactly once, whatever happens; and may have been, when this returns. False: the
 * queue is full or the pool is stopping, and job is the caller's.
 */
bool vv_workers_submit(vv_workers *w, vv_job *job) VV_CHECKED;

/* From now on nothing is accepted, and what runs is asked to come to an end. Any thread; twice is fine. */
void vv_workers_stop(vv_workers *w);

/* For jobs that take long: look at it now and then, and give up when it is true. */
bool vv_workers_stopping(const vv_workers *w);

/* Stop, call whatever is queued, wait for the end of all, release. NULL is fine. Not from a worker. */
void vv_workers_destroy(vv_workers *w);

#endif
