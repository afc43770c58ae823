#include "base/sync.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

void vv_mutex_init(vv_mutex *m) {
    VV_ASSERT(pthread_mutex_init(&m->os, NULL) == 0);
}

void vv_mutex_deinit(vv_mutex *m) {
    VV_ASSERT(pthread_mutex_destroy(&m->os) == 0);
}

void vv_mutex_lock(vv_mutex *m) {
    VV_ASSERT(pthread_mutex_lock(&m->os) == 0);
}

bool vv_mutex_trylock(vv_mutex *m) {
    int rc = pthread_mutex_trylock(&m->os);
    VV_ASSERT(rc == 0 || rc == EBUSY);
    return rc == 0;
}

void vv_mutex_unlock(vv_mutex *m) {
    VV_ASSERT(pthread_mutex_unlock(&m->os) == 0);
}

void vv_cond_init(vv_cond *c) {
    pthread_condattr_t attr;
    VV_ASSERT(pthread_condattr_init(&attr) == 0);
    VV_ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    VV_ASSERT(pthread_cond_init(&c->os, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

void vv_cond_deinit(vv_cond *c) {
    VV_ASSERT(pthread_cond_destroy(&c->os) == 0);
}

void vv_cond_wait(vv_cond *c, vv_mutex *m) {
    VV_ASSERT(pthread_cond_wait(&c->os, &m->os) == 0);
}

bool vv_cond_wait_until(vv_cond *c, vv_mutex *m, uint64_t deadline_ns) {
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / VV_NS_PER_S),
                          .tv_nsec = (long)(deadline_ns % VV_NS_PER_S)};
    int rc = pthread_cond_timedwait(&c->os, &m->os, &ts);
    VV_ASSERT(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

void vv_cond_signal(vv_cond *c) {
    VV_ASSERT(pthread_cond_signal(&c->os) == 0);
}

void vv_cond_broadcast(vv_cond *c) {
    VV_ASSERT(pthread_cond_broadcast(&c->os) == 0);
}

typedef struct thread_start {
    void (*fn)(void *);
    void *arg;
} thread_start;

static void *thread_main(void *arg) {
    thread_start start = *(thread_start *)arg;
    vv_free(arg);
    start.fn(start.arg);
    return NULL;
}

vv_status vv_thread_start(pthread_t *thread_out, const char *name, void (*fn)(void *), void *arg) {
    thread_start *start = vv_alloc(sizeof *start);
    if (!start)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    *start = (thread_start){.fn = fn, .arg = arg};

    /* Signals belong to the program's own threads: an engine inside a host must not take them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread_out, NULL, thread_main, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        vv_free(start);
        return vv_status_errno(rc);
    }
    pthread_setname_np(*thread_out, name);
    return VV_STATUS_OK;
}

void vv_thread_join(pthread_t thread) {
    VV_ASSERT(pthread_join(thread, NULL) == 0);
}

void vv_thread_be_background(void) {
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
}

void vv_futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

void vv_futex_wait_for(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / VV_NS_PER_S),
                          .tv_nsec = (long)(timeout_ns % VV_NS_PER_S)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &ts, NULL, 0);
}

void vv_futex_wake(_Atomic uint32_t *word, uint32_t count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count > INT_MAX ? INT_MAX : count, NULL, NULL, 0);
}
