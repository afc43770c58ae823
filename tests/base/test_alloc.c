#include <criterion/criterion.h>

#include "base/alloc.h"
#include "base/sync.h"

Test(alloc, every_kind_gives_what_it_promises) {
    uint8_t *zeroed = vv_alloc_zeroed(1000);
    for (size_t i = 0; i < 1000; i++)
        cr_assert_eq(zeroed[i], 0);
    memset(zeroed, 7, 1000);
    zeroed = vv_realloc(zeroed, 100000);
    cr_assert(zeroed && zeroed[0] == 7 && zeroed[999] == 7);
    void *aligned = vv_alloc_aligned(4096, 10);
    cr_assert(aligned && (uintptr_t)aligned % 4096 == 0);
    char *copy = vv_strdup("varve");
    cr_assert_str_eq(copy, "varve");
    vv_free(zeroed);
    vv_free(aligned);
    vv_free(copy);
    vv_free(NULL);
}

static void *alloc_kind(int kind, void *old) {
    switch (kind) {
    case 0: return vv_alloc(10);
    case 1: return vv_alloc_zeroed(10);
    case 2: return vv_alloc_aligned(64, 10);
    case 3: return vv_strdup("x");
    default: return vv_realloc(old, 20);
    }
}

Test(alloc, the_nth_allocation_fails_once_whatever_its_kind) {
    for (int kind = 0; kind < 5; kind++)
        for (uint64_t n = 1; n <= 4; n++) {
            void *old = vv_alloc(10);
            vv_alloc_fail_at(n);
            for (uint64_t i = 1; i <= 4; i++) {
                void *p = alloc_kind(kind, old);
                cr_assert_eq(p == NULL, i == n, "kind %d, failing at %lu, allocation %lu", kind, n, i);
                if (kind == 4 && p)
                    old = p; /* and after a failure the old one is still there */
                else
                    vv_free(p);
            }
            vv_alloc_fail_at(0);
            vv_free(old);
        }
}

Test(alloc, counting_starts_when_armed_and_zero_fails_nothing) {
    vv_alloc_fail_at(0);
    uint64_t before = vv_alloc_count();
    for (int i = 0; i < 10; i++) {
        void *p = vv_alloc(1);
        cr_assert_not_null(p);
        vv_free(p);
    }
    cr_assert_eq(vv_alloc_count() - before, 10);
}

static _Atomic uint32_t failures;
static pthread_barrier_t start;

static void allocate_a_hundred(void *arg) {
    (void)arg;
    pthread_barrier_wait(&start);
    for (int i = 0; i < 100; i++) {
        void *p = vv_alloc(1);
        if (!p)
            atomic_fetch_add(&failures, 1);
        vv_free(p);
    }
}

Test(alloc, exactly_one_allocation_fails_among_threads) {
    pthread_t threads[4];
    pthread_barrier_init(&start, NULL, 5);
    for (size_t i = 0; i < 4; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "allocator", allocate_a_hundred, NULL)));
    vv_alloc_fail_at(250);
    uint64_t before = vv_alloc_count();
    pthread_barrier_wait(&start);
    for (size_t i = 0; i < 4; i++)
        vv_thread_join(threads[i]);
    cr_assert_eq(atomic_load(&failures), 1);
    cr_assert_eq(vv_alloc_count() - before, 400);
}
