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
    void *bulk = vv_alloc_bulk(4096, 4096);
    cr_assert(bulk && (uintptr_t)bulk % 4096 == 0 && vv_alloc_usable_bytes(bulk) >= 4096);
    vv_free_bulk(bulk);
    vv_free_bulk(NULL);
    void *empty = vv_alloc(0);
    cr_assert_not_null(empty);
    vv_free(empty);
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
    case 5: return vv_alloc_bulk(64, 10);
    default: return vv_realloc(old, 20);
    }
}

Test(alloc, the_nth_allocation_fails_once_whatever_its_kind) {
    for (int kind = 0; kind < 6; kind++)
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

#if !VV_ALLOC_IS_MALLOC
#define PIECES      4096
#define PIECE_BYTES ((size_t)8192)

static uint64_t overhead(void) {
    vv_alloc_overhead_refresh();
    return vv_alloc_overhead_bytes();
}

Test(alloc, what_bulk_keeps_beyond_what_is_allocated_is_told_and_given_back) {
    static void *pieces[PIECES];
    void *large = vv_alloc(VV_ALLOC_SMALL_BYTES_MAX + 1); /* bulk by its size */
    memset(large, 1, VV_ALLOC_SMALL_BYTES_MAX + 1);
    for (size_t i = 0; i < PIECES; i++) {
        pieces[i] = vv_alloc_bulk(4096, PIECE_BYTES);
        cr_assert_not_null(pieces[i]);
        memset(pieces[i], 1, PIECE_BYTES);
    }
    uint64_t in_use = overhead();
    cr_assert_gt(in_use, 0, "it has tables of its own");
    cr_assert_lt(in_use, PIECES * PIECE_BYTES / 10);
    for (size_t i = 0; i < PIECES; i++)
        vv_free_bulk(pieces[i]);
    cr_assert_gt(overhead(), PIECES * PIECE_BYTES / 2, "free pages are kept for a while");
    vv_alloc_trim();
    cr_assert_leq(overhead(), in_use + (64 << 10));
    vv_free(large);
}

Test(alloc, small_allocations_leave_bulk_alone) {
    vv_free_bulk(vv_alloc_bulk(4096, PIECE_BYTES));
    vv_alloc_trim();
    uint64_t before = overhead();
    for (int i = 0; i < 1000; i++)
        vv_free(vv_alloc(VV_ALLOC_SMALL_BYTES_MAX));
    cr_assert_eq(overhead(), before);
    vv_free(vv_realloc(vv_alloc(10), VV_ALLOC_SMALL_BYTES_MAX + 1));
    cr_assert_gt(overhead(), before, "what has grown large is bulk");
}
#endif
