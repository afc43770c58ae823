/*
 * test_spread.c - the buckets have every value exactly once, and their bounds are what they say.
 */
#include <criterion/criterion.h>
#include <pthread.h>

#include "base/spread.h"

static uint32_t bucket_with(uint64_t value) {
    vv_spread s = {0};
    vv_spread_copy c = {0};
    vv_spread_record(&s, value);
    vv_spread_collect(&s, &c);
    cr_assert_eq(vv_spread_count(&c), 1);
    cr_assert_eq(c.sum, value);
    for (uint32_t i = 0; i < VV_SPREAD_BUCKETS; i++)
        if (c.counts[i])
            return i;
    return VV_SPREAD_BUCKETS;
}

Test(spread, a_bound_is_the_last_value_of_its_bucket) {
    for (uint32_t i = 0; i + 1 < VV_SPREAD_BUCKETS; i++) {
        uint64_t bound = vv_spread_bound(i);
        cr_assert_eq(bucket_with(bound), i, "bound %lu", (unsigned long)bound);
        cr_assert_eq(bucket_with(bound + 1), i + 1, "behind bound %lu", (unsigned long)bound);
    }
    cr_assert_eq(bucket_with(0), 0);
    cr_assert_eq(bucket_with(UINT64_MAX), VV_SPREAD_BUCKETS - 1);
    cr_assert_eq(vv_spread_bound(VV_SPREAD_BUCKETS - 2), UINT64_C(1) << 26);
}

Test(spread, a_bucket_is_at_most_a_quarter_wide) {
    for (uint32_t i = 4; i + 1 < VV_SPREAD_BUCKETS; i++)
        cr_assert_leq(vv_spread_bound(i) - vv_spread_bound(i - 1), (vv_spread_bound(i - 1) + 3) / 4);
}

Test(spread, every_power_of_two_is_a_bound) {
    for (uint32_t e = 0; e <= 26; e++) {
        vv_spread s = {0};
        vv_spread_copy c = {0};
        uint64_t limit = UINT64_C(1) << e;
        vv_spread_record(&s, limit);
        vv_spread_record(&s, limit + 1);
        vv_spread_record(&s, UINT64_MAX / 2);
        vv_spread_collect(&s, &c);
        cr_assert_eq(vv_spread_count_to(&c, e), 1, "2^%u", e);
    }
}

Test(spread, microseconds_are_rounded_up) {
    cr_assert_eq(vv_spread_us(0), 0);
    cr_assert_eq(vv_spread_us(1), 1);
    cr_assert_eq(vv_spread_us(1000), 1);
    cr_assert_eq(vv_spread_us(1001), 2);
}

static void *add_many(void *spread) {
    for (uint64_t i = 0; i < 20000; i++)
        vv_spread_add(spread, i % 100);
    return NULL;
}

Test(spread, several_recorders_lose_nothing) {
    static vv_spread s;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, add_many, &s), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    vv_spread_copy c = {0};
    vv_spread_collect(&s, &c);
    vv_spread_collect(&s, &c); /* copies add up */
    cr_assert_eq(vv_spread_count(&c), 2 * 80000);
    cr_assert_eq(c.sum, 2 * 4 * 200 * 4950);
}
