#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/histogram.h"
#include "base/sync.h"
#include "tests/support/tempdir.h"

static vv_histogram h;

Test(histogram, an_empty_one_is_all_zeros) {
    vv_histogram_init(&h);
    cr_assert_eq(vv_histogram_count(&h), 0);
    cr_assert_eq(vv_histogram_min(&h), 0);
    cr_assert_eq(vv_histogram_max(&h), 0);
    cr_assert_eq(vv_histogram_mean(&h), 0);
    cr_assert_eq(vv_histogram_percentile(&h, 0), 0);
    cr_assert_eq(vv_histogram_percentile(&h, 99), 0);
}

/* Every power of two and both its neighbours, 0 and the largest included. */
Test(histogram, every_value_is_known_to_one_64th) {
    for (uint32_t bit = 0; bit < 64; bit++)
        for (int step = -1; step <= 1; step++) {
            uint64_t value = (UINT64_C(1) << bit) + (uint64_t)step;
            vv_histogram_init(&h);
            vv_histogram_record(&h, value);
            vv_histogram_record(&h, UINT64_MAX); /* so that the maximum hides nothing */
            uint64_t found = vv_histogram_percentile(&h, 50);
            cr_assert_geq(found, value);
            cr_assert_leq(found - value, value / 64, "%lu as %lu", value, found);
        }
}

Test(histogram, small_values_are_exact) {
    vv_histogram_init(&h);
    for (uint64_t v = 1; v <= 100; v++)
        vv_histogram_record(&h, v);
    for (uint32_t p = 1; p <= 100; p++)
        cr_assert_eq(vv_histogram_percentile(&h, p), p);
    cr_assert_eq(vv_histogram_percentile(&h, 0), 1);
    cr_assert_eq(vv_histogram_percentile(&h, 0.5), 1);
    cr_assert_eq(vv_histogram_percentile(&h, 50.5), 51);
    cr_assert_float_eq(vv_histogram_mean(&h), 50.5, 1e-9);
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

Test(histogram, percentiles_agree_with_a_sorted_list) {
    enum { COUNT = 10000 };
    static uint64_t values[COUNT];
    uint64_t seed = vv_test_seed();
    vv_histogram_init(&h);
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t r = vv_test_random(&seed);
        values[i] = r >> (r % 60); /* all magnitudes */
        vv_histogram_record(&h, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], by_value);
    for (uint32_t i = 1; i <= COUNT; i++) {
        uint64_t found = vv_histogram_percentile(&h, i * 100.0 / COUNT);
        uint64_t rank = (uint64_t)i; /* rounding may take the next one */
        cr_assert_geq(found, values[rank - 1]);
        cr_assert(found - values[rank - 1] <= values[rank - 1] / 64 ||
                      (rank < COUNT && found - values[rank] <= values[rank] / 64),
                  "rank %lu: %lu for %lu", rank, found, values[rank - 1]);
    }
    cr_assert_eq(vv_histogram_min(&h), values[0]);
    cr_assert_eq(vv_histogram_max(&h), values[COUNT - 1]);
    cr_assert_eq(vv_histogram_percentile(&h, 100), values[COUNT - 1]);
    cr_assert_eq(vv_histogram_count(&h), COUNT);
}

Test(histogram, a_merge_is_as_if_all_were_recorded_in_one) {
    static vv_histogram a, b, both;
    vv_histogram_init(&a);
    vv_histogram_init(&b);
    vv_histogram_init(&both);
    for (uint64_t v = 1; v < 5000; v += 3) {
        vv_histogram_record(v % 2 ? &a : &b, v * v);
        vv_histogram_record(&both, v * v);
    }
    vv_histogram_init(&h);
    vv_histogram_merge(&h, &a);
    vv_histogram_merge(&h, &b);
    cr_assert_arr_eq(&h, &both, sizeof h);
}

enum { RECORDS = 200000 };

static void record_many(void *arg) {
    for (uint64_t v = 0; v < RECORDS; v++)
        vv_histogram_record(arg, v);
}

Test(histogram, may_be_merged_while_one_thread_records) {
    static vv_histogram busy;
    vv_histogram_init(&busy);
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "recorder", record_many, &busy)));
    uint64_t before = 0, count;
    do {
        vv_histogram_init(&h);
        vv_histogram_merge(&h, &busy);
        count = vv_histogram_count(&h);
        cr_assert_geq(count, before);
        cr_assert_leq(vv_histogram_percentile(&h, 50), vv_histogram_percentile(&h, 99));
        before = count;
    } while (count < RECORDS);
    vv_thread_join(thread);
}

Test(histogram, what_came_since_is_the_difference) {
    static vv_histogram before, since;
    vv_histogram_init(&h);
    for (uint64_t v = 1; v <= 1000; v++)
        vv_histogram_record(&h, v);
    vv_histogram_init(&before);
    vv_histogram_merge(&before, &h);
    vv_histogram_since(&since, &h, &before);
    cr_expect_eq(vv_histogram_count(&since), 0);
    cr_expect_eq(vv_histogram_max(&since), 0);
    for (uint64_t i = 0; i < 100; i++)
        vv_histogram_record(&h, 50);
    vv_histogram_record(&h, 20);
    vv_histogram_since(&since, &h, &before);
    cr_expect_eq(vv_histogram_count(&since), 101);
    cr_expect_eq(vv_histogram_min(&since), 20);
    cr_expect_eq(vv_histogram_max(&since), 50);
    cr_expect_eq(vv_histogram_percentile(&since, 99.9), 50);
    cr_expect_float_eq(vv_histogram_mean(&since), 5020.0 / 101, 0.001);
}
