#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "tests/support/tempdir.h"

static vv_arena *make(void) {
    vv_arena *a;
    cr_assert(vv_ok(vv_arena_create(&a)));
    return a;
}

Test(arena, pieces_are_aligned_and_apart) {
    enum { count = 20000 };
    static uint8_t *pieces[count];
    static size_t sizes[count];
    uint64_t seed = vv_test_seed();
    vv_arena *a = make();
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        sizes[i] = 1 + vv_test_random(&seed) % (i % 1000 == 0 ? 600000 : 300);
        cr_assert(vv_ok(vv_arena_reserve(a, sizes[i])));
        pieces[i] = vv_arena_alloc(a, sizes[i]);
        cr_assert_eq((uintptr_t)pieces[i] % VV_ARENA_ALIGN_BYTES, 0);
        memset(pieces[i], (int)(i % 251), sizes[i]);
        total += sizes[i];
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < sizes[i]; j++)
            cr_assert_eq(pieces[i][j], i % 251);
    cr_assert_geq(vv_arena_bytes(a), total);
    cr_assert_leq(vv_arena_bytes(a), total + total / 4 + (4 << 20));
    vv_arena_destroy(a);
}

Test(arena, reserved_bytes_need_no_allocation) {
    vv_arena *a = make();
    static const size_t reservations[] = {1, 1000, 70000, 1 << 20, 3, 5 << 20, 100, 1 << 18, 1 << 19, 9};
    for (size_t i = 0; i < VV_ARRAY_COUNT(reservations); i++) {
        cr_assert(vv_ok(vv_arena_reserve(a, reservations[i])));
        vv_alloc_fail_at(1);
        uint64_t allocations = vv_alloc_count();
        for (size_t left = reservations[i]; left > 0;) {
            size_t piece = left < 48 ? left : 48;
            memset(vv_arena_alloc(a, piece), 1, piece);
            left -= piece;
        }
        cr_assert_eq(vv_alloc_count(), allocations);
        vv_alloc_fail_at(0);
    }
    vv_arena_destroy(a);
}

Test(arena, a_failed_reservation_leaves_the_arena_usable) {
    vv_arena *a = make();
    cr_assert(vv_ok(vv_arena_reserve(a, 100)));
    uint64_t before = vv_arena_bytes(a);
    vv_alloc_fail_at(1);
    cr_assert(vv_is(vv_arena_reserve(a, 10 << 20), VV_NO_MEMORY));
    vv_alloc_fail_at(0);
    cr_assert(vv_is(vv_arena_reserve(a, SIZE_MAX), VV_NO_MEMORY));
    cr_assert_eq(vv_arena_bytes(a), before);
    memset(vv_arena_alloc(a, 100), 1, 100);
    vv_arena_destroy(a);
}

Test(arena, creation_fails_without_memory) {
    vv_arena *a;
    vv_alloc_fail_at(1);
    cr_assert(vv_is(vv_arena_create(&a), VV_NO_MEMORY));
    cr_assert_null(a);
    vv_alloc_fail_at(0);
}

Test(arena, many_come_and_go) {
    for (int i = 0; i < 5000; i++) {
        vv_arena *a = make();
        cr_assert(vv_ok(vv_arena_reserve(a, 100)));
        memset(vv_arena_alloc(a, 100), 1, 100);
        vv_arena_destroy(a);
    }
}

#if !VV_ALLOC_IS_MALLOC
static uint64_t overhead(void) {
    vv_alloc_overhead_refresh();
    return vv_arena_overhead_bytes();
}

Test(arena, the_overhead_is_that_of_all_arenas_that_are_there_or_wait) {
    cr_assert_eq(overhead(), 0);
    vv_arena *a = make(), *b = make();
    uint64_t two = overhead();
    cr_assert_gt(two, 0);
    vv_arena_destroy(a);
    vv_arena *c = make();
    cr_assert_eq(overhead(), two, "there was one that waited");
    cr_assert(vv_ok(vv_arena_reserve(c, 64 << 20)));
    memset(vv_arena_alloc(c, 64 << 20), 1, 64 << 20);
    vv_arena_destroy(b);
    vv_arena_destroy(c);
    cr_assert_lt(overhead(), two + (1 << 20), "pages are given back, once nobody needs them");
}

/* In bytes of addresses, whether there is memory behind them or not. */
static uint64_t mapped_bytes(void) {
    uint64_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    cr_assert_not_null(f);
    cr_assert_eq(fscanf(f, "%" SCNu64, &pages), 1);
    fclose(f);
    return pages * 4096;
}

Test(arena, those_that_have_gone_leave_no_mapping_behind) {
    uint64_t before = mapped_bytes();
    for (int i = 0; i < 500; i++) {
        vv_arena *a = make();
        cr_assert(vv_ok(vv_arena_reserve(a, 1 << 20)));
        memset(vv_arena_alloc(a, 1 << 20), 1, 1 << 20);
        vv_arena_destroy(a);
    }
    cr_assert_lt(mapped_bytes() - before, UINT64_C(64) << 20);
}
#endif
