/*
 * What is logged of calls: which of them, and what is said.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/sync.h"
#include "rpc/call_log.h"
#include "tests/rpc/server_fixture.h"

TestSuite(call_log, .init = fixture_init, .fini = fixture_fini, .timeout = 60);

/* ---- what was logged ---- */

typedef struct event {
    char name[32];
    vv_log_level level;
    char text[1024]; /* " key=value key=value " */
} event;

static event events[4096];
static _Atomic size_t event_count;
static pthread_mutex_t events_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep(void *arg, vv_log_level level, const char *name, const vv_log_field *fields, size_t count) {
    (void)arg;
    pthread_mutex_lock(&events_lock);
    size_t n = atomic_load(&event_count);
    cr_assert_lt(n, VV_ARRAY_COUNT(events));
    event *e = &events[n];
    e->level = level;
    snprintf(e->name, sizeof e->name, "%s", name);
    size_t used = 0;
    for (size_t i = 0; i < count; i++)
        used += (size_t)(fields[i].is_number
                             ? snprintf(e->text + used, sizeof e->text - used, " %s=%llu ", fields[i].key,
                                        (unsigned long long)fields[i].number)
                             : snprintf(e->text + used, sizeof e->text - used, " %s=%.*s ", fields[i].key,
                                        (int)fields[i].text.bytes, (const char *)fields[i].text.data));
    atomic_store(&event_count, n + 1);
    pthread_mutex_unlock(&events_lock);
}

static const vv_logger logger = {.event = keep, .least = VV_LOG_INFO};

static bool says(const event *e, const char *what) {
    char padded[256];
    snprintf(padded, sizeof padded, " %s ", what);
    return strstr(e->text, padded) != NULL;
}

static uint64_t number(const event *e, const char *key) {
    char padded[64];
    snprintf(padded, sizeof padded, " %s=", key);
    const char *at = strstr(e->text, padded);
    cr_assert_not_null(at, "no %s in '%s'", key, e->text);
    return strtoull(at + strlen(padded), NULL, 10);
}

/* A call's line comes when the last of the call is over, which may be after its client has the answer. */
static const event *wait_event(size_t index) {
    while (atomic_load(&event_count) <= index)
        sched_yield();
    return &events[index];
}

static void start_logged(double sample, uint64_t slow_us) {
    fx.log = &logger;
    fx.config.access_log_sample = sample;
    fx.config.slow_call_us = slow_us;
    fixture_start();
}

/* ---- calls ---- */

Test(call_log, a_call_says_what_who_how_long_and_how_much) {
    start_logged(1, 0);
    client_call_destroy(call_put("key", "value"));
    const event *e = wait_event(0);
    cr_assert_str_eq(e->name, "call");
    cr_assert_eq(e->level, VV_LOG_INFO);
    cr_assert(says(e, "method=/varve.v1.KV/Put") && says(e, "code=OK") && says(e, "user=default"), "%s",
              e->text);
    cr_assert(says(e, "bytes_in=12"), "%s", e->text);
    cr_assert(says(e, "bytes_out=4"), "%s", e->text);
    cr_assert_not_null(strstr(e->text, " peer=ipv4:127.0.0.1:"), "%s", e->text);
    cr_assert_gt(number(e, "us"), 0);
    cr_assert_null(strstr(e->text, "request_id"));
    cr_assert_null(strstr(e->text, "queue_us"), "phases are for slow ones");
}

Test(call_log, failures_and_unknown_methods_have_lines_too) {
    start_logged(1, 0);
    expect_end(call_get(""), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    cr_assert(says(wait_event(0), "code=INVALID_ARGUMENT"), "%s", events[0].text);
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/No", vv_slice_make(NULL, 0), CLIENT_DEADLINE_MS);
    expect_end(call, GRPC_STATUS_UNIMPLEMENTED, NULL);
    const event *e = wait_event(1);
    cr_assert(says(e, "method=unknown") && says(e, "code=UNIMPLEMENTED"), "%s", e->text);
}

static void expect_silence(uint64_t slow_us) {
    start_logged(0, slow_us);
    for (int i = 0; i < 100; i++)
        client_call_destroy(call_put("key", "value"));
    fixture_drain_begin();
    fixture_drain_end();
    cr_assert_eq(atomic_load(&event_count), 0);
}

Test(call_log, nothing_is_logged_when_nothing_is_asked_for) {
    expect_silence(0);
}

Test(call_log, nothing_is_slow_below_the_threshold) {
    expect_silence(UINT64_C(3600000000));
}

Test(call_log, a_sample_is_a_share_of_the_calls) {
    start_logged(0.25, 0);
    fx.config.log_lines_per_second = 1000000;
    for (int i = 0; i < 2000; i++)
        client_call_destroy(call_get("key"));
    fixture_drain_begin();
    fixture_drain_end();
    /* Of 2000, 500 with a standard deviation of 20; those that a limit dropped are counted. */
    size_t logged = 0;
    for (size_t i = 0; i < atomic_load(&event_count); i++)
        logged += strcmp(events[i].name, "call") == 0 ? 1 : number(&events[i], "count");
    cr_assert(logged > 350 && logged < 650, "%zu", logged);
}

Test(call_log, a_flood_is_cut_and_what_is_cut_is_counted) {
    fx.config.log_lines_per_second = 1;
    start_logged(1, 0);
    enum { CALLS = 500 };
    uint64_t begun_ns = vv_clock_mono_ns();
    for (int i = 0; i < CALLS; i++)
        client_call_destroy(call_get("key"));
    fixture_drain_begin();
    fixture_drain_end();
    uint64_t seconds = (vv_clock_mono_ns() - begun_ns) / VV_NS_PER_S + 2;
    uint64_t lines = 0, dropped = 0;
    for (size_t i = 0; i < atomic_load(&event_count); i++) {
        if (strcmp(events[i].name, "call") == 0) {
            lines++;
        } else {
            cr_assert_str_eq(events[i].name, "lines_dropped");
            cr_assert(says(&events[i], "what=calls"));
            dropped += number(&events[i], "count");
        }
    }
    cr_assert_leq(lines, seconds);
    cr_assert_eq(lines + dropped, CALLS, "%d and %d", (int)lines, (int)dropped);
}

/* ---- slow calls ---- */

Test(call_log, a_slow_write_says_where_its_time_went) {
    start_logged(0, 20000);
    engine_tap_hold(true);
    client_call *call = start_put("key", "value", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(1);
    uint64_t held_ns = vv_clock_mono_ns();
    while (vv_clock_mono_ns() - held_ns < 30 * VV_NS_PER_MS)
        sched_yield();
    engine_tap_hold(false);
    expect_end(call, GRPC_STATUS_OK, NULL);
    const event *e = wait_event(0);
    cr_assert_str_eq(e->name, "slow_call");
    cr_assert_eq(e->level, VV_LOG_WARN);
    cr_assert(says(e, "method=/varve.v1.KV/Put"));
    cr_assert_geq(number(e, "us"), 30000);
    cr_assert_gt(number(e, "wal_us"), 0, "%s", e->text);
    cr_assert_leq(number(e, "queue_us") + number(e, "wal_us") + number(e, "memtable_us"), number(e, "us"));
    cr_assert_eq(number(e, "block_reads"), 0);
}

Test(call_log, every_unary_call_is_slow_at_a_threshold_of_a_microsecond_and_streams_never_are) {
    start_logged(0, 1);
    client_call_destroy(call_get("key"));
    const event *e = wait_event(0);
    cr_assert_str_eq(e->name, "slow_call");
    cr_assert(says(e, "method=/varve.v1.KV/Get"), "%s", e->text);
    client_call *stream = client_start(fx.client, "/varve.v1.KV/Pipeline", CLIENT_DEADLINE_MS);
    client_half_close(stream);
    cr_assert_eq(client_wait(stream), GRPC_STATUS_OK);
    client_call_destroy(stream);
    client_call_destroy(call_get("key"));
    cr_assert(says(wait_event(1), "method=/varve.v1.KV/Get"), "%s", events[1].text);
}

/* ---- request ids, on a call of the test's own ---- */

static const char *given_id;

static vv_slice fake_metadata(vv_rpc_call *call, const char *key) {
    (void)call;
    cr_assert_str_eq(key, "x-request-id");
    return given_id ? vv_slice_str(given_id) : vv_slice_make(NULL, 0);
}

static void fake_peer(vv_rpc_call *call, char *buf, size_t buf_bytes) {
    (void)call;
    snprintf(buf, buf_bytes, "unix:");
}

static void end_call(vv_call_log *log, const char *id) {
    static const vv_rpc_call_ops ops = {.metadata = fake_metadata, .peer = fake_peer};
    static const vv_rpc_method method = {.path = "/a/B", .kind = VV_RPC_UNARY};
    vv_rpc_call call = {.ops = &ops, .method = &method, .arrived_ns = vv_clock_mono_ns()};
    given_id = id;
    vv_call_log_ended(log, &call);
}

static const event *log_with_id(const char *id) {
    vv_call_log log;
    vv_call_log_options o = {.log = &logger, .sample = 1, .lines_per_second = 1000};
    size_t before = atomic_load(&event_count);
    vv_call_log_init(&log, &o);
    end_call(&log, id);
    vv_call_log_deinit(&log);
    cr_assert_eq(atomic_load(&event_count), before + 1);
    return &events[before];
}

Test(call_log, a_request_id_is_shown_if_it_is_harmless_and_short) {
    char longest[VV_REQUEST_ID_BYTES_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[VV_REQUEST_ID_BYTES_MAX] = '\0';
    cr_assert_not_null(strstr(log_with_id(longest)->text, " request_id=aaaa"));
    longest[VV_REQUEST_ID_BYTES_MAX] = 'a';
    longest[VV_REQUEST_ID_BYTES_MAX + 1] = '\0';
    cr_assert_null(strstr(log_with_id(longest)->text, "request_id"));
    cr_assert(says(log_with_id("3f2A-9._:/+=@"), "request_id=3f2A-9._:/+=@"));
    static const char *const bad[] = {NULL, "", "a b", "a\nlevel=ERROR", "a\"", "\xc3\xbc", "a;b", "a\x7f"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++)
        cr_assert_null(strstr(log_with_id(bad[i])->text, "request_id"), "%zu", i);
}

Test(call_log, what_was_dropped_is_said_before_the_next_line) {
    vv_call_log log;
    vv_call_log_options o = {.log = &logger, .sample = 1, .lines_per_second = 1};
    vv_call_log_init(&log, &o);
    while (atomic_load(&log.limit.dropped) < 3) /* within one second or another */
        end_call(&log, NULL);
    size_t before = atomic_load(&event_count);
    uint64_t dropped = atomic_load(&log.limit.dropped);
    for (; atomic_load(&event_count) == before; dropped++)
        end_call(&log, NULL);
    cr_assert_str_eq(events[before].name, "lines_dropped");
    cr_assert_eq(number(&events[before], "count"), dropped - 1);
    cr_assert_str_eq(wait_event(before + 1)->name, "call");
    vv_call_log_deinit(&log);
}

Test(call_log, every_code_has_its_name) {
    cr_assert_str_eq(vv_rpc_code_name(VV_RPC_OK), "OK");
    cr_assert_str_eq(vv_rpc_code_name(VV_RPC_RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
    cr_assert_str_eq(vv_rpc_code_name(VV_RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    cr_assert_str_eq(vv_rpc_code_name((vv_rpc_code)99), "UNKNOWN");
}
