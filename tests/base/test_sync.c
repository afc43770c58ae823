#include <criterion/criterion.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/sync.h"

static struct {
    vv_mutex lock;
    vv_cond changed;
    uint32_t value;
} mu;
static _Atomic uint32_t word;

static void init(void) {
    vv_mutex_init(&mu.lock);
    vv_cond_init(&mu.changed);
}

static void deinit(void) {
    vv_cond_deinit(&mu.changed);
    vv_mutex_deinit(&mu.lock);
}

static void start(pthread_t *thread, void (*fn)(void *), void *arg) {
    cr_assert(vv_ok(vv_thread_start(thread, "test", fn, arg)));
}

static void add_many(void *arg) {
    (void)arg;
    for (int i = 0; i < 10000; i++) {
        vv_mutex_lock(&mu.lock);
        mu.value++;
        vv_mutex_unlock(&mu.lock);
    }
}

Test(sync, a_mutex_lets_one_in_at_a_time, .init = init, .fini = deinit) {
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        start(&threads[i], add_many, NULL);
    for (size_t i = 0; i < 4; i++)
        vv_thread_join(threads[i]);
    cr_assert_eq(mu.value, 40000);
}

static void trylock_fails(void *arg) {
    *(bool *)arg = vv_mutex_trylock(&mu.lock);
}

Test(sync, trylock_says_whether_it_got_the_lock, .init = init, .fini = deinit) {
    pthread_t thread;
    bool got = true;
    cr_assert(vv_mutex_trylock(&mu.lock));
    start(&thread, trylock_fails, &got);
    vv_thread_join(thread);
    cr_assert_not(got);
    vv_mutex_unlock(&mu.lock);
}

static void count_up_to_five(void *arg) {
    (void)arg;
    for (int i = 0; i < 5; i++) {
        vv_mutex_lock(&mu.lock);
        mu.value++;
        vv_cond_broadcast(&mu.changed);
        vv_mutex_unlock(&mu.lock);
    }
}

Test(sync, a_condition_wakes_its_waiter, .init = init, .fini = deinit, .timeout = 60) {
    pthread_t thread;
    start(&thread, count_up_to_five, NULL);
    vv_mutex_lock(&mu.lock);
    while (mu.value < 5)
        vv_cond_wait(&mu.changed, &mu.lock);
    vv_mutex_unlock(&mu.lock);
    vv_thread_join(thread);
}

Test(sync, a_timed_wait_ends_at_its_deadline_and_not_before, .init = init, .fini = deinit, .timeout = 60) {
    uint64_t deadline = vv_clock_mono_ns() + 5 * VV_NS_PER_MS;
    vv_mutex_lock(&mu.lock);
    while (vv_cond_wait_until(&mu.changed, &mu.lock, deadline))
        ; /* woken for nothing */
    cr_assert_geq(vv_clock_mono_ns(), deadline);
    cr_assert_not(vv_cond_wait_until(&mu.changed, &mu.lock, 0), "a deadline long past");

    pthread_t thread;
    start(&thread, count_up_to_five, NULL);
    deadline = vv_clock_mono_ns() + 50 * VV_NS_PER_S;
    while (mu.value < 5)
        cr_assert(vv_cond_wait_until(&mu.changed, &mu.lock, deadline), "woken in time");
    vv_mutex_unlock(&mu.lock);
    vv_thread_join(thread);
}

static void wake_by_word(void *arg) {
    (void)arg;
    atomic_store_explicit(&word, 1, memory_order_release);
    vv_futex_wake(&word, UINT32_MAX);
}

static void sleep_on_word(void *arg) {
    (void)arg;
    while (atomic_load_explicit(&word, memory_order_acquire) == 0)
        vv_futex_wait(&word, 0);
}

Test(sync, a_futex_wakes_all_its_sleepers, .timeout = 60) {
    pthread_t sleepers[3], waker;
    for (size_t i = 0; i < 3; i++)
        start(&sleepers[i], sleep_on_word, NULL);
    start(&waker, wake_by_word, NULL);
    for (size_t i = 0; i < 3; i++)
        vv_thread_join(sleepers[i]);
    vv_thread_join(waker);
}

Test(sync, a_futex_does_not_sleep_on_a_changed_word, .timeout = 60) {
    atomic_store(&word, 2);
    vv_futex_wait(&word, 1); /* would hang */
    vv_futex_wait_for(&word, 1, 3600 * VV_NS_PER_S);
}

Test(sync, a_timed_futex_wait_ends, .timeout = 60) {
    uint64_t before = vv_clock_mono_ns(), waited;
    do /* as often as it is woken for nothing */
        vv_futex_wait_for(&word, 0, 2 * VV_NS_PER_MS);
    while ((waited = vv_clock_mono_ns() - before) < 2 * VV_NS_PER_MS);
    cr_assert_lt(waited, 50 * VV_NS_PER_S);
}

typedef struct seen {
    bool blocks_term;
    int nice;
} seen;

static void look_around(void *arg) {
    seen *s = arg;
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    s->blocks_term = sigismember(&blocked, SIGTERM);
    vv_thread_be_background();
    s->nice = getpriority(PRIO_PROCESS, (id_t)gettid());
    sleep_on_word(NULL);
}

Test(sync, a_thread_has_its_name_takes_no_signals_and_may_step_back) {
    seen s = {0};
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "vv-flush", look_around, &s)));
    char name[16];
    cr_assert_eq(pthread_getname_np(thread, name, sizeof name), 0);
    cr_assert_str_eq(name, "vv-flush");
    wake_by_word(NULL);
    vv_thread_join(thread);
    cr_assert(s.blocks_term);
    cr_assert_eq(s.nice, 19);
    cr_assert_lt(getpriority(PRIO_PROCESS, (id_t)gettid()), 19, "the others stay where they are");
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    cr_assert_not(sigismember(&blocked, SIGTERM), "the starter's own signals are as before");
}

Test(sync, a_thread_that_cannot_start_is_a_status) {
    pthread_t thread;
    vv_alloc_fail_at(1);
    cr_assert_eq(vv_thread_start(&thread, "x", look_around, NULL).code, VV_NO_MEMORY);
}

#ifndef VV_TSAN /* which reports the misuse that is the point here */
Test(sync, misuse_aborts, .signal = SIGABRT) {
    vv_cond_init(&mu.changed);
    pthread_mutexattr_t checked;
    pthread_mutexattr_init(&checked);
    pthread_mutexattr_settype(&checked, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&mu.lock.os, &checked);
    vv_mutex_unlock(&mu.lock);
}
#endif
