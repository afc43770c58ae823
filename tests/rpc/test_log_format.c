/*
 * Lines of the log: whatever is in a value, a line is one line, and JSON is JSON (read back by jansson).
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "rpc/line_limit.h"
#include "rpc/log_format.h"
#include "tests/support/tempdir.h"

static char line[VV_LOG_LINE_BYTES];

/* Without its newline, which must be its only one. */
static const char *format(vv_log_format f, const vv_log_field *fields, size_t count) {
    size_t bytes = vv_log_format_line(line, f, UINT64_C(1763820187123), VV_LOG_INFO, "call", fields, count);
    cr_assert(bytes > 0 && bytes <= sizeof line);
    cr_assert_eq(memchr(line, '\n', bytes), line + bytes - 1);
    line[bytes - 1] = '\0';
    cr_assert_eq(strlen(line), bytes - 1, "a zero byte");
    return line;
}

Test(log_format, text_has_time_level_event_and_fields) {
    vv_log_field fields[] = {vv_log_text("method", vv_slice_str("/varve.v1.KV/Put")),
                             vv_log_number("us", 812), vv_log_text("peer", vv_slice_str("ipv4:127.0.0.1:5"))};
    cr_assert_str_eq(
        format(VV_LOG_FORMAT_TEXT, fields, 3),
        "2025-11-22T14:03:07.123Z INFO  call method=/varve.v1.KV/Put us=812 peer=ipv4:127.0.0.1:5");
}

Test(log_format, json_has_the_same) {
    vv_log_field fields[] = {vv_log_text("method", vv_slice_str("/varve.v1.KV/Put")),
                             vv_log_number("us", UINT64_MAX)};
    cr_assert_str_eq(format(VV_LOG_FORMAT_JSON, fields, 2),
                     "{\"ts\":\"2025-11-22T14:03:07.123Z\",\"level\":\"INFO\",\"event\":\"call\","
                     "\"method\":\"/varve.v1.KV/Put\",\"us\":18446744073709551615}");
}

Test(log_format, text_values_that_could_pass_for_something_else_are_quoted) {
    static const struct {
        const char *value, *shown;
    } cases[] = {{"", "\"\""},
                 {"a b", "\"a b\""},
                 {"a=b", "\"a=b\""},
                 {"\"", "\"\\\"\""},
                 {"\\", "\"\\\\\""},
                 {"x\ny\r\t", "\"x\\ny\\r\\t\""},
                 {"\x1b[31m", "\"\\x1b[31m\""},
                 {"\xc3\xbc", "\"\\xc3\\xbc\""}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        vv_log_field field = vv_log_text("k", vv_slice_str(cases[i].value));
        char expected[128];
        snprintf(expected, sizeof expected, "2025-11-22T14:03:07.123Z INFO  call k=%s", cases[i].shown);
        cr_assert_str_eq(format(VV_LOG_FORMAT_TEXT, &field, 1), expected);
    }
}

static void expect_json(const char *value, size_t bytes, const char *read_back) {
    vv_log_field field = vv_log_text("k", vv_slice_make(value, bytes));
    json_error_t error;
    json_t *root = json_loads(format(VV_LOG_FORMAT_JSON, &field, 1), JSON_ALLOW_NUL, &error);
    cr_assert_not_null(root, "%s: %s", error.text, line);
    cr_assert_str_eq(json_string_value(json_object_get(root, "k")), read_back);
    json_decref(root);
}

Test(log_format, json_values_are_characters_or_replaced) {
    static const struct {
        const char *value, *read_back;
    } cases[] = {{"\"\\/\n\r\t\x01\x7f", "\"\\/\n\r\t\x01\x7f"},
                 {"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80"},
                 {"a\x80z", "a\xef\xbf\xbdz"},
                 {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* too long a form */
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* a surrogate */
                 {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"}, /* cut */
                 {"\xff", "\xef\xbf\xbd"}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++)
        expect_json(cases[i].value, strlen(cases[i].value), cases[i].read_back);
}

Test(log_format, random_bytes_make_one_line_that_json_readers_read) {
    uint64_t seed = vv_test_seed();
    for (int round = 0; round < 20000; round++) {
        char value[64];
        size_t bytes = vv_test_random(&seed) % sizeof value;
        for (size_t i = 0; i < bytes; i++)
            value[i] = (char)vv_test_random(&seed);
        vv_log_field fields[] = {vv_log_text("k", vv_slice_make(value, bytes)), vv_log_number("n", 7)};
        (void)format(VV_LOG_FORMAT_TEXT, fields, 2);
        for (const char *c = line; *c; c++)
            cr_assert(*c >= ' ' && *c <= '~');
        cr_assert_str_eq(line + strlen(line) - 4, " n=7");
        json_error_t error;
        json_t *root = json_loads(format(VV_LOG_FORMAT_JSON, fields, 2), JSON_ALLOW_NUL, &error);
        cr_assert_not_null(root, "%s: %s", error.text, line);
        cr_assert_eq(json_integer_value(json_object_get(root, "n")), 7);
        json_decref(root);
    }
}

Test(log_format, fields_that_do_not_fit_are_left_out_whole) {
    static char big[VV_LOG_LINE_BYTES];
    memset(big, 1, sizeof big); /* six bytes each in JSON */
    size_t beside = strlen(format(VV_LOG_FORMAT_JSON, NULL, 0)) + strlen(",\"first\":1,\"k\":\"\"\n");
    for (size_t bytes = 1200; bytes < 1500; bytes++) {
        vv_log_field fields[] = {vv_log_number("first", 1), vv_log_text("k", vv_slice_make(big, bytes)),
                                 vv_log_number("last", 2)};
        json_t *root = json_loads(format(VV_LOG_FORMAT_JSON, fields, 3), JSON_ALLOW_NUL, NULL);
        cr_assert_not_null(root, "%zu bytes", bytes);
        cr_assert_eq(json_integer_value(json_object_get(root, "first")), 1);
        json_t *k = json_object_get(root, "k");
        cr_assert(!k || json_string_length(k) == bytes);
        cr_assert_eq(k != NULL, beside + 6 * bytes <= VV_LOG_LINE_BYTES, "%zu bytes", bytes);
        json_decref(root);
    }
}

Test(log_format, a_limit_counts_what_is_beyond_it_in_each_second) {
    vv_line_limit limit;
    vv_line_limit_init(&limit, 3);
    for (uint64_t second = 5; second < 8; second++) {
        int taken = 0;
        for (int i = 0; i < 10; i++)
            taken += vv_line_limit_take(&limit, second * VV_NS_PER_S + (uint64_t)i);
        cr_assert_eq(taken, 3);
        cr_assert_eq(vv_line_limit_dropped(&limit), 7);
        cr_assert_eq(vv_line_limit_dropped(&limit), 0);
    }
}
