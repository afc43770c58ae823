#include <criterion/criterion.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/timer.h"
#include "tests/support/tempdir.h"

#define COUNT 1000

typedef struct shot {
    vv_timer timer;
    uint64_t at_ns;
    bool fired;
} shot;

static vv_timers *timers;
static shot shots[COUNT];
static vv_mutex lock;
static vv_cond changed;
static size_t fired_count, expected_count;
static uint64_t last_at_ns;
static bool in_order = true, early;

static void fire(vv_timer *timer) {
    shot *s = VV_CONTAINER_OF(timer, shot, timer);
    vv_mutex_lock(&lock);
    early |= vv_clock_mono_ns() < s->at_ns;
    in_order &= s->at_ns >= last_at_ns;
    last_at_ns = s->at_ns;
    s->fired = true;
    fired_count++;
    vv_cond_broadcast(&changed);
    vv_mutex_unlock(&lock);
}

static void setup(void) {
    vv_mutex_init(&lock);
    vv_cond_init(&changed);
    cr_assert(vv_ok(vv_timers_create(&timers)));
    for (size_t i = 0; i < COUNT; i++)
        vv_timer_init(&shots[i].timer, fire);
}

static void teardown(void) {
    vv_timers_destroy(timers);
    vv_cond_deinit(&changed);
    vv_mutex_deinit(&lock);
}

TestSuite(timer, .init = setup, .fini = teardown, .timeout = 60);

static void set(shot *s, uint64_t at_ns) {
    s->at_ns = at_ns;
    cr_assert(vv_ok(vv_timers_set(timers, &s->timer, at_ns)));
}

static void wait_fired(size_t count) {
    vv_mutex_lock(&lock);
    while (fired_count < count)
        vv_cond_wait(&changed, &lock);
    vv_mutex_unlock(&lock);
}

Test(timer, many_fire_once_in_the_order_of_their_times_and_never_early) {
    uint64_t random = vv_test_seed() | 1;
    uint64_t start_ns = vv_clock_mono_ns() + 100 * VV_NS_PER_MS;
    for (size_t i = 0; i < COUNT; i++)
        set(&shots[i], start_ns + 2 * VV_NS_PER_S + vv_test_random(&random) % VV_NS_PER_S);
    for (size_t i = 0; i < COUNT; i++) /* and all of them once more, to another time */
        set(&shots[i], start_ns + vv_test_random(&random) % (100 * VV_NS_PER_MS));
    for (size_t i = 0; i < COUNT; i += 3) {
        vv_timers_unset(timers, &shots[i].timer);
        expected_count++;
    }
    expected_count = COUNT - expected_count;
    wait_fired(expected_count);
    cr_assert(in_order);
    cr_assert_not(early);
    for (size_t i = 0; i < COUNT; i++)
        cr_assert_eq(shots[i].fired, i % 3 != 0, "%zu", i);
    cr_assert_eq(fired_count, expected_count);
}

Test(timer, an_earlier_one_wakes_the_sleeping_thread) {
    set(&shots[0], vv_clock_mono_ns() + 3600 * VV_NS_PER_S);
    set(&shots[1], vv_clock_mono_ns() + VV_NS_PER_MS);
    wait_fired(1);
    cr_assert(shots[1].fired);
    cr_assert_not(shots[0].fired);
    vv_timers_unset(timers, &shots[0].timer);
}

static _Atomic bool entered, released, left;

static void linger(vv_timer *timer) {
    cr_assert_not_null(timer);
    atomic_store(&entered, true);
    while (!atomic_load(&released))
        sched_yield();
    atomic_store(&left, true);
}

static void release_it(void *arg) {
    (void)arg;
    atomic_store(&released, true);
}

Test(timer, unset_waits_for_a_function_that_runs) {
    vv_timer timer;
    vv_timer_init(&timer, linger);
    cr_assert(vv_ok(vv_timers_set(timers, &timer, 0)));
    while (!atomic_load(&entered))
        sched_yield();
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "release", release_it, NULL)));
    vv_timers_unset(timers, &timer);
    cr_assert(atomic_load(&left));
    vv_thread_join(thread);
}

static _Atomic uint32_t again_count;

static void again(vv_timer *timer) {
    if (atomic_fetch_add(&again_count, 1) < 9)
        cr_assert(vv_ok(vv_timers_set(timers, timer, vv_clock_mono_ns())));
    else
        fire(&shots[0].timer);
}

Test(timer, a_function_may_set_its_own_timer_again) {
    vv_timer timer;
    vv_timer_init(&timer, again);
    cr_assert(vv_ok(vv_timers_set(timers, &timer, 0)));
    wait_fired(1);
    cr_assert_eq(atomic_load(&again_count), 10);
}
