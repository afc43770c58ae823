/*
 * workers.c - threads that share one queue.
 *
 * Locking: w->mu.lock guards what is in `mu`, and is not held while a job runs.
 */
#include "rpc/workers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/sync.h"

struct vv_workers {
    vv_workers_options options;
    uint32_t started; /* threads */
    pthread_t threads[VV_WORKERS_THREADS_MAX];
    _Atomic bool stopping; /* written with the lock held */
    struct {
        vv_mutex lock;
        vv_cond wanted; /* a job has come, or the end */
        vv_job *first, **last;
        uint32_t count;
    } mu;
};

static vv_job *take(vv_workers *w) {
    vv_job *job = w->mu.first;
    w->mu.first = job->next;
    if (!w->mu.first)
        w->mu.last = &w->mu.first;
    w->mu.count--;
    job->next = NULL;
    return job;
}

static void work(void *arg) {
    vv_workers *w = arg;
    if (w->options.background)
        vv_thread_be_background();
    vv_mutex_lock(&w->mu.lock);
    for (;;) {
        while (!w->mu.first && !atomic_load_explicit(&w->stopping, memory_order_relaxed))
            vv_cond_wait(&w->mu.wanted, &w->mu.lock);
        if (!w->mu.first)
            break;
        vv_job *job = take(w);
        vv_mutex_unlock(&w->mu.lock);
        job->run(job);
        vv_mutex_lock(&w->mu.lock);
    }
    vv_mutex_unlock(&w->mu.lock);
}

vv_status vv_workers_create(const vv_workers_options *options, vv_workers **out) {
    *out = NULL;
    VV_ASSERT(options->thread_count >= 1 && options->thread_count <= VV_WORKERS_THREADS_MAX);
    vv_workers *w = vv_alloc_zeroed(sizeof *w);
    if (!w)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    w->options = *options;
    w->mu.last = &w->mu.first;
    vv_mutex_init(&w->mu.lock);
    vv_cond_init(&w->mu.wanted);
    for (uint32_t i = 0; i < options->thread_count; i++) {
        vv_status st = vv_thread_start(&w->threads[i], options->name, work, w);
        if (!vv_ok(st)) {
            vv_workers_destroy(w);
            return st;
        }
        w->started++;
    }
    *out = w;
    return VV_STATUS_OK;
}

bool vv_workers_submit(vv_workers *w, vv_job *job) {
    vv_mutex_lock(&w->mu.lock);
    bool accepted = !vv_workers_stopping(w) && w->mu.count < w->options.queue_max;
    if (accepted) {
        job->next = NULL;
        *w->mu.last = job;
        w->mu.last = &job->next;
        w->mu.count++;
        vv_cond_signal(&w->mu.wanted);
    }
    vv_mutex_unlock(&w->mu.lock);
    return accepted;
}

void vv_workers_stop(vv_workers *w) {
    vv_mutex_lock(&w->mu.lock);
    atomic_store_explicit(&w->stopping, true, memory_order_relaxed);
    vv_cond_broadcast(&w->mu.wanted);
    vv_mutex_unlock(&w->mu.lock);
}

bool vv_workers_stopping(const vv_workers *w) {
    return atomic_load_explicit(&w->stopping, memory_order_relaxed);
}

void vv_workers_destroy(vv_workers *w) {
    if (!w)
        return;
    vv_workers_stop(w);
    for (uint32_t i = 0; i < w->started; i++)
        vv_thread_join(w->threads[i]);
    VV_ASSERT(!w->mu.first);
    vv_cond_deinit(&w->mu.wanted);
    vv_mutex_deinit(&w->mu.lock);
    vv_free(w);
}
