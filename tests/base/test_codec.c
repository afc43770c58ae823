#include <criterion/criterion.h>

#include "base/codec.h"
#include "base/compiler.h"
#include "tests/support/tempdir.h"

Test(codec, integers_are_big_endian) {
    uint8_t b[8];
    vv_put_be16(b, 0x0102);
    cr_assert_arr_eq(b, ((uint8_t[]){1, 2}), 2);
    vv_put_be32(b, 0x01020304);
    cr_assert_arr_eq(b, ((uint8_t[]){1, 2, 3, 4}), 4);
    vv_put_be64(b, UINT64_C(0x0102030405060708));
    cr_assert_arr_eq(b, ((uint8_t[]){1, 2, 3, 4, 5, 6, 7, 8}), 8);
}

Test(codec, what_is_put_is_got_at_any_alignment) {
    static const uint64_t values[] = {0, 1, 0x80, 0xff, 0x7fff, 0xffff, 0x80000000, UINT32_MAX, UINT64_MAX};
    uint64_t seed = vv_test_seed();
    for (size_t i = 0; i < 1000; i++) {
        uint64_t v = i < VV_ARRAY_COUNT(values) ? values[i] : vv_test_random(&seed);
        uint8_t buf[24];
        uint8_t *at = buf + i % 8;
        vv_put_be16(at, (uint16_t)v);
        cr_assert_eq(vv_get_be16(at), (uint16_t)v);
        vv_put_be32(at, (uint32_t)v);
        cr_assert_eq(vv_get_be32(at), (uint32_t)v);
        vv_put_be64(at, v);
        cr_assert_eq(vv_get_be64(at), v);
    }
}

Test(codec, encoded_keys_order_as_their_numbers) {
    uint8_t a[8], b[8];
    uint64_t seed = vv_test_seed();
    for (size_t i = 0; i < 1000; i++) {
        uint64_t x = vv_test_random(&seed), y = vv_test_random(&seed) >> (i % 64);
        vv_put_be64(a, x);
        vv_put_be64(b, y);
        int order = vv_slice_compare(vv_slice_make(a, 8), vv_slice_make(b, 8));
        cr_assert_eq((order > 0) - (order < 0), (x > y) - (x < y));
    }
}

Test(codec, a_reader_takes_fields_in_order) {
    static const uint8_t bytes[] = {1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 'x', 'y'};
    vv_reader r = vv_reader_make(vv_slice_make(bytes, sizeof bytes));
    cr_assert_eq(vv_read_u8(&r), 1);
    cr_assert_eq(vv_read_be16(&r), 2);
    cr_assert_eq(vv_read_be32(&r), 3);
    cr_assert_eq(vv_read_be64(&r), 4);
    cr_assert(vv_slice_equal(vv_read_bytes(&r, 2), vv_slice_str("xy")));
    cr_assert_eq(r.left_bytes, 0);
    cr_assert_not(r.bad, "the end itself is not past the end");
    cr_assert_eq(vv_read_bytes(&r, 0).bytes, 0);
    cr_assert_not(r.bad);
}

Test(codec, a_read_past_the_end_is_remembered_and_yields_zeros) {
    static const uint8_t bytes[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    for (size_t n = 0; n < 8; n++) {
        vv_reader r = vv_reader_make(vv_slice_make(bytes, n));
        cr_assert_eq(vv_read_be64(&r), 0);
        cr_assert(r.bad);
        cr_assert_eq(vv_read_u8(&r), 0, "a later read that would fit yields zeros too");
        cr_assert_eq(vv_read_be16(&r), 0);
        cr_assert_eq(vv_read_be32(&r), 0);
        cr_assert_null(vv_read_bytes(&r, 0).data);
        cr_assert_eq(r.left_bytes, n, "and nothing was taken");
    }
    vv_reader r = vv_reader_make(vv_slice_make(bytes, sizeof bytes));
    vv_slice s = vv_read_bytes(&r, SIZE_MAX);
    cr_assert(r.bad && s.bytes == 0);
}

Test(codec, alignment_rounds_up_to_powers_of_two) {
    cr_assert_eq(vv_align_up(0, 4096), 0);
    cr_assert_eq(vv_align_up(1, 4096), 4096);
    cr_assert_eq(vv_align_up(4096, 4096), 4096);
    cr_assert_eq(vv_align_up(4097, 4096), 8192);
    cr_assert(vv_is_power_of_two(1) && vv_is_power_of_two(UINT64_C(1) << 63));
    cr_assert_not(vv_is_power_of_two(0) || vv_is_power_of_two(3) || vv_is_power_of_two(UINT64_MAX));
}

Test(codec, slices_order_bytewise_and_unsigned) {
    /* In their order. */
    static const vv_slice sorted[] = {{"", 0},    {"\0", 1}, {"\0\0", 2}, {"a", 1},
                                      {"a\0", 2}, {"b", 1},  {"\xff", 1}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(sorted); i++)
        for (size_t j = 0; j < VV_ARRAY_COUNT(sorted); j++) {
            int order = vv_slice_compare(sorted[i], sorted[j]);
            cr_assert_eq((order > 0) - (order < 0), (i > j) - (i < j), "%zu and %zu", i, j);
            cr_assert_eq(vv_slice_equal(sorted[i], sorted[j]), i == j);
        }
    cr_assert(vv_slice_equal(vv_slice_make(NULL, 0), vv_slice_str("")));
}
