/*
 * sync.h - mutex, condition, thread and futex with the error handling that a bug in their use deserves:
 * abort.
 */
#ifndef VV_BASE_SYNC_H
#define VV_BASE_SYNC_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct vv_mutex {
    pthread_mutex_t os;
} vv_mutex;

/* Waits by CLOCK_MONOTONIC. */
typedef struct vv_cond {
    pthread_cond_t os;
} vv_cond;

void vv_mutex_init(vv_mutex *m);
void vv_mutex_deinit(vv_mutex *m);
void vv_mutex_lock(vv_mutex *m);
bool vv_mutex_trylock(vv_mutex *m) VV_CHECKED;
/* Lock it if it becomes free within a microsecond or two, which are spent asking: for a thread that must not
 * sleep, and a mutex whose holders mostly let go of it sooner. */
bool vv_mutex_lock_soon(vv_mutex *m) VV_CHECKED;
void vv_mutex_unlock(vv_mutex *m);

void vv_cond_init(vv_cond *c);
void vv_cond_deinit(vv_cond *c);
void vv_cond_wait(vv_cond *c, vv_mutex *m);
/* Until vv_clock_mono_ns() reaches deadline_ns. False: the time is over. */
bool vv_cond_wait_until(vv_cond *c, vv_mutex *m, uint64_t deadline_ns);
void vv_cond_signal(vv_cond *c);
void vv_cond_broadcast(vv_cond *c);

/* Start `fn(arg)` on a thread that blocks all signals; name: at most 15 characters. */
vv_status vv_thread_start(pthread_t *thread_out, const char *name, void (*fn)(void *), void *arg) VV_CHECKED;
void vv_thread_join(pthread_t thread);

/* Put the calling thread behind the others (nice 19): for flush and compaction, which would otherwise cost a
 * commit beside them milliseconds. Not SCHED_IDLE: under full load it would never get a turn, and writers
 * that wait for a flush would wait for ever. Best effort. */
void vv_thread_be_background(void);

/* Sleep while *word == expected, or until woken; returns on spurious wake-ups too. */
void vv_futex_wait(_Atomic uint32_t *word, uint32_t expected);
/* The same for at most timeout_ns nanoseconds. */
void vv_futex_wait_for(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
/* Wake at most `count` waiters. */
void vv_futex_wake(_Atomic uint32_t *word, uint32_t count);

#endif
