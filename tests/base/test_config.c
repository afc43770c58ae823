#include <criterion/criterion.h>

#include "base/config.h"

typedef struct settings {
    uint64_t block_bytes;
    uint64_t threads;
    uint64_t timeout_us;
    double rate;
    double share;
    uint32_t backend;
    bool on;
    char path[9];
    uint64_t cache;
} settings;

static const char *const backends[] = {"auto", "uring", "posix", NULL};

static const vv_option options[] = {
    {"BLOCK_SIZE", VV_OPTION_BYTES, offsetof(settings, block_bytes), "4KiB", 4096, 65536, true, NULL, ""},
    {"THREADS", VV_OPTION_COUNT, offsetof(settings, threads), "2", 1, 64, false, NULL, ""},
    {"TIMEOUT", VV_OPTION_DURATION, offsetof(settings, timeout_us), "10s", 0, 3600000000, false, NULL, ""},
    {"RATE", VV_OPTION_RATE, offsetof(settings, rate), "0.01", 0, 0, false, NULL, ""},
    {"SHARE", VV_OPTION_RATE, offsetof(settings, share), "0", 0, 1, false, NULL, ""},
    {"BACKEND", VV_OPTION_CHOICE, offsetof(settings, backend), "auto", 0, 0, false, backends, ""},
    {"SWITCH", VV_OPTION_BOOL, offsetof(settings, on), "off", 0, 0, false, NULL, ""},
    {"CACHE", VV_OPTION_BYTES_OR_COUNT, offsetof(settings, cache), "8MiB", 0, UINT64_C(1) << 40, false, NULL,
     ""},
    {"FILE", VV_OPTION_TEXT, offsetof(settings, path), "", 0, 8, false, NULL, ""},
};
static const vv_option_table table = {options, VV_ARRAY_COUNT(options)};

static bool accepts(const char *key, const char *value) {
    settings s;
    vv_config_defaults(table, &s);
    return vv_ok(vv_config_set(table, &s, key, value, NULL));
}

Test(config, defaults_are_applied) {
    settings s;
    memset(&s, 0xff, sizeof s);
    vv_config_defaults(table, &s);
    cr_assert_eq(s.block_bytes, 4096);
    cr_assert_eq(s.threads, 2);
    cr_assert_eq(s.timeout_us, 10000000);
    cr_assert_float_eq(s.rate, 0.01, 1e-12);
    cr_assert_eq(s.backend, 0);
    cr_assert_not(s.on);
    cr_assert_str_empty(s.path);
}

Test(config, keys_match_in_any_case_and_with_dashes) {
    settings s;
    vv_config_defaults(table, &s);
    cr_assert(vv_ok(vv_config_set(table, &s, "block-size", "8KiB", NULL)));
    cr_assert_eq(s.block_bytes, 8192);
    cr_assert(vv_ok(vv_config_set(table, &s, "Block_Size", "16384", NULL)));
    cr_assert_eq(s.block_bytes, 16384);
    cr_assert_not(accepts("BLOCK_SIZ", "8KiB"));
    cr_assert_not(accepts("BLOCK_SIZES", "8KiB"));
}

Test(config, numbers_out_of_range_or_malformed_are_refused) {
    static const char *const bad[] = {"",
                                      "-1",
                                      "4095",
                                      "2KiB",
                                      "128KiB",
                                      "5000",
                                      "8 KB!",
                                      "0x1000",
                                      "8Ki",
                                      "1e4",
                                      " 4096",
                                      "99999999999999999999",
                                      "18446744073709551615GiB"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++)
        cr_assert_not(accepts("BLOCK_SIZE", bad[i]), "accepted '%s'", bad[i]);
    cr_assert(accepts("BLOCK_SIZE", "64 kib"));
    cr_assert_not(accepts("THREADS", "0"));
    cr_assert_not(accepts("THREADS", "2MiB"));
    cr_assert_not(accepts("TIMEOUT", "10"), "a duration needs a unit");
    cr_assert(accepts("TIMEOUT", "250ms"));
    cr_assert_not(accepts("RATE", "1"));
    cr_assert_not(accepts("RATE", "nan"));
    cr_assert(accepts("RATE", "0"));
    cr_assert(accepts("SHARE", "1") && accepts("SHARE", "1.0") && accepts("SHARE", "0.5"));
    cr_assert_not(accepts("SHARE", "1.001"));
    cr_assert_not(accepts("SHARE", "nan"));
    cr_assert_not(accepts("SWITCH", "maybe"));
    cr_assert_not(accepts("FILE", "123456789"));
}

Test(config, a_refusal_names_key_value_and_what_is_allowed) {
    settings s;
    vv_error err;
    vv_config_defaults(table, &s);
    vv_status st = vv_config_set(table, &s, "block_size", "5000", &err);
    cr_assert_eq(st.sub, VV_SUB_BAD_OPTION);
    cr_assert_str_eq(err.text, "BLOCK_SIZE = 5000: allowed is a power of two from 4KiB to 64KiB");
    st = vv_config_set(table, &s, "BACKEND", "spdk", &err);
    cr_assert_str_eq(err.text, "BACKEND = spdk: allowed is one of auto, uring, posix");
    st = vv_config_set(table, &s, "NOPE", "1", &err);
    cr_assert_eq(st.sub, VV_SUB_UNKNOWN_OPTION);
    cr_assert_str_eq(err.text, "NOPE: unknown configuration key");
    cr_assert_eq(s.block_bytes, 4096, "a refusal changes nothing");
}

Test(config, a_formatted_value_can_be_set_again) {
    static const char *const values[][2] = {
        {"BLOCK_SIZE", "32KiB"}, {"THREADS", "7"},   {"TIMEOUT", "1500us"}, {"RATE", "0.001"},
        {"BACKEND", "posix"},    {"SWITCH", "true"}, {"FILE", "a b"}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(values); i++) {
        settings s;
        char text[VV_OPTION_TEXT_BYTES];
        vv_config_defaults(table, &s);
        cr_assert(vv_ok(vv_config_set(table, &s, values[i][0], values[i][1], NULL)));
        vv_config_format(vv_config_find(table, values[i][0]), &s, text, sizeof text);
        cr_assert_str_eq(text, values[i][1]);
    }
}

Test(config, a_size_without_a_unit_may_be_a_count) {
    settings s;
    char text[VV_OPTION_TEXT_BYTES];
    vv_config_defaults(table, &s);
    cr_assert_eq(s.cache, UINT64_C(8) << 20);
    cr_assert(vv_ok(vv_config_set(table, &s, "CACHE", "4096", NULL)));
    cr_assert_eq(s.cache, 4096 | VV_OPTION_IS_COUNT);
    vv_config_format(vv_config_find(table, "CACHE"), &s, text, sizeof text);
    cr_assert_str_eq(text, "4096");
    cr_assert(vv_ok(vv_config_set(table, &s, "CACHE", "4096B", NULL)));
    vv_config_format(vv_config_find(table, "CACHE"), &s, text, sizeof text);
    cr_assert_str_eq(text, "4KiB");
}
