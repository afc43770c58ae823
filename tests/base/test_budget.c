#include <criterion/criterion.h>

#include "base/budget.h"
#include "base/sync.h"
#include "tests/support/tempdir.h"

Test(budget, no_more_is_given_than_there_is) {
    vv_budget b;
    vv_budget_init(&b, 100);
    cr_assert(vv_budget_take(&b, 60));
    cr_assert_not(vv_budget_take(&b, 41));
    cr_assert_not(vv_budget_take(&b, UINT64_MAX));
    cr_assert_eq(vv_budget_used(&b), 60, "who gets nothing takes nothing");
    cr_assert(vv_budget_take(&b, 40));
    cr_assert_not(vv_budget_take(&b, 1));
    cr_assert(vv_budget_take(&b, 0));
    vv_budget_give(&b, 60);
    cr_assert(vv_budget_take(&b, 59));
    cr_assert_eq(vv_budget_used(&b), 99);
}

#define SHARED_BYTES 1000

static vv_budget shared;
static _Atomic uint64_t held;
static _Atomic bool beyond;

static void take_and_give(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 100000; i++) {
        uint64_t bytes = 1 + vv_test_random(&seed) % 600;
        if (!vv_budget_take(&shared, bytes))
            continue;
        if (atomic_fetch_add(&held, bytes) + bytes > SHARED_BYTES)
            atomic_store(&beyond, true);
        atomic_fetch_sub(&held, bytes);
        vv_budget_give(&shared, bytes);
    }
}

Test(budget, threads_together_never_hold_more) {
    pthread_t threads[4];
    uint64_t seed = vv_test_seed();
    vv_budget_init(&shared, SHARED_BYTES);
    for (uintptr_t i = 0; i < 4; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "taker", take_and_give, (void *)(uintptr_t)(seed + i))));
    for (size_t i = 0; i < 4; i++)
        vv_thread_join(threads[i]);
    cr_assert_not(atomic_load(&beyond));
    cr_assert_eq(vv_budget_used(&shared), 0);
}
