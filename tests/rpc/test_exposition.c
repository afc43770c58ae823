/*
 * test_exposition.c - the text that Prometheus reads.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "rpc/exposition.h"

Test(exposition, a_family_has_help_type_and_samples) {
    vv_exposition e = {0};
    vv_exposition_family(&e, "varve_things_total", "counter", "Things.");
    vv_exposition_number(&e, NULL, 0, 12);
    const vv_label labels[] = {{"kind", "a"}, {"user", "b"}};
    vv_exposition_number(&e, labels, 2, UINT64_MAX);
    vv_exposition_real(&e, labels, 1, 0.25);
    cr_assert_str_eq(e.text, "# HELP varve_things_total Things.\n"
                             "# TYPE varve_things_total counter\n"
                             "varve_things_total 12\n"
                             "varve_things_total{kind=\"a\",user=\"b\"} 18446744073709551615\n"
                             "varve_things_total{kind=\"a\"} 0.25\n");
    cr_assert_eq(e.bytes, strlen(e.text));
    cr_assert_not(e.failed);
    vv_exposition_deinit(&e);
}

Test(exposition, label_values_are_escaped) {
    vv_exposition e = {0};
    vv_exposition_family(&e, "x", "gauge", "X.");
    const vv_label label = {"v", "a\\b\"c\nd"};
    vv_exposition_number(&e, &label, 1, 1);
    cr_assert_not_null(strstr(e.text, "x{v=\"a\\\\b\\\"c\\nd\"} 1\n"), "%s", e.text);
    vv_exposition_deinit(&e);
}

Test(exposition, buckets_are_cumulative_and_end_with_all) {
    vv_exposition e = {0};
    vv_spread s = {0};
    vv_spread_copy c = {0};
    const uint64_t values[] = {1, 2, 3, 4, 5, 1000000000};
    for (size_t i = 0; i < VV_ARRAY_COUNT(values); i++)
        vv_spread_record(&s, values[i]);
    vv_spread_collect(&s, &c);
    vv_exposition_family(&e, "t_seconds", "histogram", "T.");
    vv_exposition_spread(&e, NULL, 0, &c, 0, 3, 1e-6);
    cr_assert_str_eq(e.text, "# HELP t_seconds T.\n# TYPE t_seconds histogram\n"
                             "t_seconds_bucket{le=\"1e-06\"} 1\n"
                             "t_seconds_bucket{le=\"2e-06\"} 2\n"
                             "t_seconds_bucket{le=\"4e-06\"} 4\n"
                             "t_seconds_bucket{le=\"8e-06\"} 5\n"
                             "t_seconds_bucket{le=\"+Inf\"} 6\n"
                             "t_seconds_sum 1000.00001\n"
                             "t_seconds_count 6\n");
    vv_exposition_deinit(&e);
}

Test(exposition, it_grows_as_far_as_it_must) {
    vv_exposition e = {0};
    for (int i = 0; i < 100000; i++)
        vv_exposition_add(&e, "%d,", i % 10);
    cr_assert_eq(e.bytes, 200000);
    cr_assert_eq(strlen(e.text), 200000);
    vv_exposition_deinit(&e);
}

Test(exposition, json_text_is_escaped) {
    vv_exposition e = {0};
    vv_exposition_json_text(&e, "a\"b\\c\n");
    cr_assert_str_eq(e.text, "\"a\\\"b\\\\c\\u000a\"");
    vv_exposition_deinit(&e);
}
