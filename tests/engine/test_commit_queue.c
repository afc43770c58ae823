/*
 * The hand-off to the single writer: who is counted, and who wakes a writer that gathers.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "engine/db/commit_queue.h"

#define WRITES 8
#define LONG   (UINT64_C(60) * VV_NS_PER_S)

static vv_commit_queue q;
static vv_write writes[WRITES];

static void push(int i) {
    memset(&writes[i], 0, sizeof writes[i]);
    (void)vv_commit_queue_push(&q, &writes[i]);
}

static void must_start(pthread_t *t, void (*fn)(void *)) {
    vv_status st = vv_thread_start(t, "pusher", fn, NULL);
    cr_assert(vv_ok(st));
}

Test(commit_queue, counts_what_is_queued_up_to_a_limit) {
    uint32_t group;
    vv_commit_queue_init(&q);
    cr_assert_eq(vv_commit_queue_count(&q, 9), 0);
    for (int i = 0; i < 5; i++)
        push(i);
    cr_assert_eq(vv_commit_queue_count(&q, 9), 5);
    cr_assert_eq(vv_commit_queue_count(&q, 3), 3);
    cr_assert_eq(vv_commit_queue_take(&q, &group), &writes[0]);
    cr_assert_eq(vv_commit_queue_count(&q, 9), 0);
}

Test(commit_queue, who_has_enough_does_not_gather) {
    vv_commit_queue_init(&q);
    push(0);
    push(1);
    vv_commit_queue_gather(&q, 2, LONG); /* returns, or the test takes too long */
    vv_commit_queue_gather(&q, 1, LONG);
    cr_assert_eq(vv_commit_queue_count(&q, 9), 2);
}

Test(commit_queue, gathering_ends_with_its_time) {
    vv_commit_queue_init(&q);
    push(0);
    uint64_t begin_ns = vv_clock_mono_ns();
    vv_commit_queue_gather(&q, 2, VV_NS_PER_MS);
    cr_assert_geq(vv_clock_mono_ns() - begin_ns, VV_NS_PER_MS);
    cr_assert_eq(vv_commit_queue_count(&q, 9), 1);
}

static bool sleeps(void) {
    return atomic_load_explicit(&q.writer_sleeps, memory_order_seq_cst) != 0;
}

static void push_to_a_sleeper(void *arg) {
    (void)arg;
    for (int i = 1; i < WRITES; i++) {
        while (!sleeps())
            sched_yield();
        push(i);
    }
}

Test(commit_queue, the_last_one_awaited_wakes_the_writer) {
    pthread_t t;
    uint32_t group;
    int calls = 0, i = 0;
    vv_commit_queue_init(&q);
    push(0);
    must_start(&t, push_to_a_sleeper);
    for (; vv_commit_queue_count(&q, WRITES) < WRITES; calls++)
        vv_commit_queue_gather(&q, WRITES, LONG);
    vv_thread_join(t);
    cr_assert_leq(calls, 3, "a push while it falls asleep may wake it too soon, others don't");
    for (const vv_write *w = vv_commit_queue_take(&q, &group); w; w = w->next)
        cr_assert_eq(w, &writes[i++], "in the order of the pushes");
    cr_assert_eq(i, WRITES);
}

static void nudge(void *arg) {
    (void)arg;
    vv_commit_queue_nudge(&q);
}

Test(commit_queue, a_nudge_ends_gathering) {
    pthread_t t;
    vv_commit_queue_init(&q);
    must_start(&t, nudge);
    vv_commit_queue_gather(&q, 2, LONG);
    vv_thread_join(t);
    vv_commit_queue_nudged(&q);
}

static void push_all(void *arg) {
    (void)arg;
    for (int i = 0; i < WRITES; i++)
        push(i);
}

/* Whatever the pusher met, no push is waited for in vain: a writer that sleeps without a limit is woken. */
Test(commit_queue, after_gathering_each_push_wakes_again) {
    for (int round = 0; round < 2000; round++) {
        pthread_t t;
        uint32_t group, taken = 0;
        vv_commit_queue_init(&q);
        must_start(&t, push_all);
        while (taken < WRITES) {
            vv_commit_queue_gather(&q, 1 + (uint32_t)round % WRITES, 1000);
            for (const vv_write *w = vv_commit_queue_take(&q, &group); w; w = w->next)
                taken++;
            if (taken < WRITES)
                vv_commit_queue_sleep(&q, UINT64_MAX);
        }
        vv_thread_join(t);
    }
}
