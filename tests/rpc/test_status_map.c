#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "base/status.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/status_map.h"

/* The details as a client reads them. */
typedef struct read_back {
    int32_t code;
    char message[256];
    char reason[64];
    char domain[32];
    int64_t retry_ms; /* -1: none */
} read_back;

static read_back read_details(const vv_rpc_status *status) {
    read_back r = {.retry_ms = -1};
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, status->details_bytes, status->details);
    cr_assert_not_null(s);
    r.code = s->code;
    snprintf(r.message, sizeof r.message, "%s", s->message);
    cr_assert_geq(s->n_details, 1);
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, s->details[0]->value.len, s->details[0]->value.data);
    snprintf(r.reason, sizeof r.reason, "%s", info->reason);
    snprintf(r.domain, sizeof r.domain, "%s", info->domain);
    google__rpc__error_info__free_unpacked(info, NULL);
    if (s->n_details == 2) {
        cr_assert_str_eq(s->details[1]->type_url, "type.googleapis.com/google.rpc.RetryInfo");
        Google__Rpc__RetryInfo *retry =
            google__rpc__retry_info__unpack(NULL, s->details[1]->value.len, s->details[1]->value.data);
        r.retry_ms = retry->retry_delay->seconds * 1000 + retry->retry_delay->nanos / 1000000;
        google__rpc__retry_info__free_unpacked(retry, NULL);
    }
    google__rpc__status__free_unpacked(s, NULL);
    return r;
}

static const char *detail(const vv_rpc_status *status, const char *key) {
    static char value[256];
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, status->details_bytes, status->details);
    cr_assert_not_null(s);
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, s->details[0]->value.len, s->details[0]->value.data);
    cr_assert_not_null(info);
    value[0] = '\0';
    for (size_t i = 0; i < info->n_metadata; i++)
        if (strcmp(info->metadata[i]->key, key) == 0)
            snprintf(value, sizeof value, "%s", info->metadata[i]->value);
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__status__free_unpacked(s, NULL);
    return value;
}

static const varve_status bad_checksum = {.code = VARVE_CORRUPTION, .reason = VV_SUB_CHECKSUM};

Test(status_map, damage_names_keys_of_any_bytes) {
    vv_rpc_status status;
    varve_key_range keys = {"a b#\0", 5, "\xff~\\\"'", 5};
    vv_rpc_status_from_damage(&status, bad_checksum, &keys);
    cr_assert_eq(status.code, VV_RPC_DATA_LOSS);
    cr_assert_str_eq(status.message, "corrupted data: checksum mismatch; affected are the keys from "
                                     "a\\x20b\\x23\\x00 to \\xff~\\x5c\\x22\\x27");
    cr_assert_str_eq(detail(&status, "first_key"), "a\\x20b\\x23\\x00");
    cr_assert_str_eq(detail(&status, "last_key"), "\\xff~\\x5c\\x22\\x27");
    cr_assert_str_eq(read_details(&status).reason, "CHECKSUM");
}

Test(status_map, damage_cuts_keys_that_are_too_long_between_two_of_their_bytes) {
    static char zeros[65535], letters[65535];
    memset(letters, 'x', sizeof letters);
    /* With the longest reason that there is: the details still fit. */
    varve_status st = {.code = VARVE_CORRUPTION, .reason = VV_SUB_BAD_SEQUENCE};
    for (size_t bytes = 1; bytes < sizeof zeros; bytes += bytes < 400 ? 1 : 13027) {
        vv_rpc_status status;
        varve_key_range keys = {zeros, bytes, letters, bytes};
        vv_rpc_status_from_damage(&status, st, &keys);
        size_t zeros_shown = 4 * bytes <= VV_RPC_KEY_TEXT_MAX ? bytes : (VV_RPC_KEY_TEXT_MAX - 3) / 4;
        const char *first = detail(&status, "first_key");
        cr_assert_eq(strlen(first), 4 * zeros_shown + (zeros_shown < bytes ? 3 : 0), "%zu: %s", bytes, first);
        cr_assert_str_eq(first + strlen(first) - 3, zeros_shown < bytes ? "..." : "x00");
        size_t letters_shown = bytes <= VV_RPC_KEY_TEXT_MAX ? bytes : VV_RPC_KEY_TEXT_MAX - 3;
        const char *last = detail(&status, "last_key");
        cr_assert_eq(strspn(last, "x"), letters_shown);
        cr_assert_str_eq(last + letters_shown, letters_shown < bytes ? "..." : "");
        cr_assert_lt(strlen(status.message), 255u, "nothing of it was cut");
    }
}

Test(status_map, engine_statuses_become_the_contracts_codes_and_reasons) {
    static const struct {
        vv_code code;
        vv_sub sub;
        vv_rpc_code rpc;
        const char *reason;
        int64_t retry_ms;
    } rows[] = {
        {VV_INVALID_ARGUMENT, VV_SUB_KEY_EMPTY, VV_RPC_INVALID_ARGUMENT, "KEY_EMPTY", -1},
        {VV_INVALID_ARGUMENT, VV_SUB_KEY_TOO_LONG, VV_RPC_INVALID_ARGUMENT, "KEY_TOO_LONG", -1},
        {VV_INVALID_ARGUMENT, VV_SUB_VALUE_TOO_LARGE, VV_RPC_INVALID_ARGUMENT, "VALUE_TOO_LARGE", -1},
        {VV_INVALID_ARGUMENT, VV_SUB_BATCH_EMPTY, VV_RPC_INVALID_ARGUMENT, "BATCH_EMPTY", -1},
        {VV_INVALID_ARGUMENT, VV_SUB_NONE, VV_RPC_INVALID_ARGUMENT, "INVALID_ARGUMENT", -1},
        {VV_NO_SPACE, VV_SUB_NONE, VV_RPC_RESOURCE_EXHAUSTED, "NO_SPACE", 10000},
        {VV_BUSY, VV_SUB_NONE, VV_RPC_RESOURCE_EXHAUSTED, "WRITE_STALL", 100},
        {VV_WAL_FAILED, VV_SUB_NONE, VV_RPC_UNAVAILABLE, "WAL_FAILED", -1},
        {VV_SHUTTING_DOWN, VV_SUB_NONE, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", 1000},
        {VV_CORRUPTION, VV_SUB_CHECKSUM, VV_RPC_DATA_LOSS, "CHECKSUM", -1},
        {VV_TRIMMED, VV_SUB_NONE, VV_RPC_OUT_OF_RANGE, "LSN_TRIMMED", -1},
        {VV_IO, VV_SUB_NONE, VV_RPC_INTERNAL, "IO", -1},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(rows); i++) {
        vv_rpc_status status;
        vv_rpc_status_from_engine(&status, (varve_status){(uint16_t)rows[i].code, (uint16_t)rows[i].sub, 0});
        read_back r = read_details(&status);
        cr_expect_eq(status.code, rows[i].rpc, "%s", rows[i].reason);
        cr_expect_eq(r.code, (int32_t)rows[i].rpc);
        cr_expect_str_eq(r.reason, rows[i].reason);
        cr_expect_str_eq(r.domain, "varve");
        cr_expect_eq(r.retry_ms, rows[i].retry_ms, "%s: %ld", rows[i].reason, (long)r.retry_ms);
        cr_expect_str_eq(r.message, status.message);
        cr_expect_str_not_empty(status.message);
    }
}

Test(status_map, every_code_of_the_engine_is_mapped) {
    for (int code = 1; code <= VARVE_NOT_CONFIRMED; code++) {
        vv_rpc_status status;
        vv_rpc_status_from_engine(&status, (varve_status){.code = (uint16_t)code});
        cr_expect_neq(status.code, VV_RPC_OK, "%s", varve_code_name((uint16_t)code));
        if (code != VARVE_INTERNAL && code != VARVE_IO && code != VARVE_PERMISSION)
            cr_expect_neq(status.code, VV_RPC_INTERNAL, "%s", varve_code_name((uint16_t)code));
    }
}

Test(status_map, a_code_of_a_newer_engine_is_internal) {
    vv_rpc_status status;
    vv_rpc_status_from_engine(&status, (varve_status){.code = 4711});
    cr_assert_eq(status.code, VV_RPC_INTERNAL);
    vv_rpc_status_from_engine(&status, (varve_status){.code = VARVE_OK});
    cr_assert_eq(status.code, VV_RPC_INTERNAL, "OK is no failure");
}

Test(status_map, the_errno_is_told) {
    vv_rpc_status status;
    vv_rpc_status_from_engine(&status, (varve_status){VARVE_IO, 0, 5});
    cr_assert_not_null(strstr(status.message, "Input/output error"), "%s", status.message);
}

Test(status_map, the_longest_words_fit_with_their_details) {
    char text[400], reason[64];
    memset(text, 'x', sizeof text - 1);
    memset(reason, 'R', sizeof reason - 1);
    text[sizeof text - 1] = reason[sizeof reason - 1] = '\0';
    vv_rpc_status status;
    vv_rpc_status_set(&status, VV_RPC_UNAVAILABLE, reason, 4000000000u, "%s", text);
    cr_assert_eq(strlen(status.message), sizeof status.message - 1);
    read_back r = read_details(&status);
    cr_assert_str_eq(r.reason, reason);
    cr_assert_eq(r.retry_ms, 4000000000);
}

Test(status_map, details_fit_with_the_longest_words) {
    char text[400], reason[64], word[32];
    memset(text, 'x', sizeof text - 1);
    memset(reason, 'R', sizeof reason - 1);
    memset(word, 'w', sizeof word - 1);
    text[sizeof text - 1] = reason[sizeof reason - 1] = word[sizeof word - 1] = '\0';
    vv_rpc_detail details[VV_RPC_DETAILS_MAX] = {{word, word}, {word, word}};
    vv_rpc_status status;
    vv_rpc_status_set_details(&status, VV_RPC_OUT_OF_RANGE, reason, 4000000000u, details, VV_RPC_DETAILS_MAX,
                              "%s", text);
    cr_assert_gt(status.details_bytes, 0);
    read_back r = read_details(&status);
    cr_assert_str_eq(r.reason, reason);
    cr_assert_eq(r.retry_ms, 4000000000);
}

Test(status_map, bytes_of_a_client_do_not_break_the_message) {
    vv_rpc_status status;
    vv_rpc_status_set(&status, VV_RPC_NOT_FOUND, "X", 0, "service '%s'", "a\xff\n\x1b[1m");
    cr_assert_str_eq(status.message, "service 'a???[1m'");
}
