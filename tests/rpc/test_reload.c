/*
 * The configuration of a running server, read again: what applies, what does not, and what is refused.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "rpc/reload.h"
#include "tests/rpc/certificates.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"

#define RELOAD "/varve.v1.Admin/Reload"
#define ALICE                                                                                                \
    "alice sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b read,write,admin\n"
#define DAY_S 86400

static vv_reload *again;
static vv_server_run run;
static vv_reload_report report;
static vv_error err;
static char data_flag[512], file_flag[512];
static const char *argv[8];
static const char *const environment[] = {"VARVE_SLOW_CALL_THRESHOLD=2s", NULL};
static _Atomic uint32_t applied_level;
static _Atomic int applied_count;

static void end(void) {
    fixture_fini();
    vv_reload_destroy(again);
}

TestSuite(reload, .init = fixture_init, .fini = end, .timeout = 120);

static void configure(const char *text) {
    test_write_file(vv_tempdir_path("varved.conf"), text);
}

static void note_applied(void *arg, const vv_server_config *config) {
    (void)arg;
    atomic_store(&applied_level, config->log_level);
    atomic_fetch_add(&applied_count, 1);
}

/* A server with this file, and one flag more, if it is not NULL. */
static void start(const char *text, const char *flag) {
    vv_server_action action;
    snprintf(data_flag, sizeof data_flag, "--data=%s", vv_tempdir_path("data"));
    snprintf(file_flag, sizeof file_flag, "--config=%s", vv_tempdir_path("varved.conf"));
    const char *const all[] = {
        data_flag, file_flag, "--listen=127.0.0.1:0", "--rpc-threads=2", "--worker-threads=2", flag, NULL};
    memcpy(argv, all, sizeof all);
    configure(text);
    cr_assert(vv_ok(vv_server_config_load(argv, environment, &fx.config, fx.engine, &action, &err)), "%s",
              err.text);
    vv_reload_options options = {.argv = argv,
                                 .environment = environment,
                                 .config = &fx.config,
                                 .engine = fx.engine,
                                 .applied = note_applied};
    cr_assert(vv_ok(vv_reload_create(&options, &again)));
    run = (vv_server_run){.reload = again};
    vv_status st = vv_server_start_run(&fx.config, fx.engine, fx.log, &run, &fx.server, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    fx.client = client_create(vv_server_address(fx.server, 0));
}

static bool reload(void) {
    err.text[0] = '\0';
    return vv_ok(vv_server_reload(fx.server, "test", &report, &err));
}

static void expect_keys(const char *changed, const char *restart_needed) {
    char text[800];
    vv_reload_list(report.changed, report.changed_count, text, sizeof text);
    cr_assert_str_eq(text, changed);
    vv_reload_list(report.restart_needed, report.restart_count, text, sizeof text);
    cr_assert_str_eq(text, restart_needed);
}

static void expect_reload(const char *text, const char *changed, const char *restart_needed) {
    configure(text);
    cr_assert(reload(), "%s", err.text);
    expect_keys(changed, restart_needed);
}

/* What is wrong is named, and nothing changes. */
static void expect_refusal(const char *text, const char *words) {
    int before = atomic_load(&applied_count);
    configure(text);
    cr_assert_not(reload(), "%s", text);
    cr_assert_not_null(strstr(err.text, words), "'%s' is not in '%s'", words, err.text);
    cr_assert_eq(report.changed_count + report.restart_count, 0);
    cr_assert_eq(atomic_load(&applied_count), before);
    cr_assert_not(vv_reload_state_get(again).ok);
}

static void expect_put(grpc_status_code code) {
    expect_end(call_put("key", "value"), code, NULL);
}

/* ---- what applies ---- */

Test(reload, nothing_new_changes_nothing) {
    start("LOG_LEVEL = warn\n", NULL);
    uint64_t started_ms = vv_reload_state_get(again).ok_unix_ms;
    cr_assert(vv_reload_state_get(again).ok, "the start counts");
    cr_assert_gt(started_ms, 0);
    cr_assert(reload());
    expect_keys("", "");
    cr_assert_geq(vv_reload_state_get(again).ok_unix_ms, started_ms);
    cr_assert_eq(applied_level, VV_LOG_WARN);
}

Test(reload, rates_hold_at_once_and_what_was_set_for_users_meanwhile_is_forgotten) {
    start("", NULL);
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_OK);
    expect_reload("RATE_LIMIT_WRITES = 1\nRATE_LIMIT_WRITE_BURST = 1\n",
                  "RATE_LIMIT_WRITES, RATE_LIMIT_WRITE_BURST", "");
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_RESOURCE_EXHAUSTED);
    expect_reload("", "RATE_LIMIT_WRITES, RATE_LIMIT_WRITE_BURST", "");
    expect_put(GRPC_STATUS_OK);

    Varve__V1__SetRateLimitRequest set = VARVE__V1__SET_RATE_LIMIT_REQUEST__INIT;
    set.user = BYTES("default");
    set.writes_per_second = set.write_burst = 1;
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/SetRateLimit", client_pack(&set), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
    expect_put(GRPC_STATUS_RESOURCE_EXHAUSTED); /* the put above has taken the one */
    cr_assert(reload());
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_OK);
}

Test(reload, the_file_of_limits_may_be_another_or_have_something_else_in_it) {
    char text[600];
    start("", NULL);
    snprintf(text, sizeof text, "RATE_LIMITS_FILE = %s\n", vv_tempdir_path("limits"));
    test_write_file(vv_tempdir_path("limits"), "default writes=1:1\n");
    expect_reload(text, "RATE_LIMITS_FILE", "");
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_RESOURCE_EXHAUSTED);
    test_write_file(vv_tempdir_path("limits"), "default writes=100000\n");
    expect_reload(text, "RATE_LIMITS_FILE", "");
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_OK);
    cr_assert(reload());
    expect_keys("", "");
}

static varve_options *engine_now(void) {
    varve_options *o = varve_options_create();
    vv_reload_catch_up(again, &fx.config, o);
    return o;
}

Test(reload, a_next_run_of_the_server_has_what_was_applied_and_no_more) {
    char text[64];
    start("", NULL);
    expect_reload("CACHE_CAPACITY = 8MiB\nCOMPACTION_RATE = 1MiB\nBACKUP_RATE = 1KiB\nLOG_LEVEL = debug\n"
                  "MEMTABLE_SIZE = 1MiB\nDRAIN_TIMEOUT = 1s\n",
                  "BACKUP_RATE, LOG_LEVEL, COMPACTION_RATE, CACHE_CAPACITY", "DRAIN_TIMEOUT, MEMTABLE_SIZE");
    cr_assert_eq(applied_level, VV_LOG_DEBUG);
    varve_options *engine = engine_now();
    cr_assert(varve_options_get(engine, "CACHE_CAPACITY", text, sizeof text));
    cr_assert_str_eq(text, "8MiB");
    cr_assert(varve_options_get(engine, "COMPACTION_RATE", text, sizeof text));
    cr_assert_str_eq(text, "1MiB");
    cr_assert(varve_options_get(engine, "MEMTABLE_SIZE", text, sizeof text));
    cr_assert_str_eq(text, "64MiB");
    cr_assert_eq(fx.config.backup_rate, 1024);
    cr_assert_eq(fx.config.drain_timeout_us, 10000000);
    varve_options_destroy(engine);
    /* What needs a restart is said again until it is had, or taken back. */
    cr_assert(reload());
    expect_keys("", "DRAIN_TIMEOUT, MEMTABLE_SIZE");
    expect_reload("", "BACKUP_RATE, LOG_LEVEL, COMPACTION_RATE, CACHE_CAPACITY", "");
}

static _Atomic int logged_calls, debug_lines;

static void count_event(void *arg, vv_log_level level, const char *name, const vv_log_field *fields,
                        size_t count) {
    (void)arg, (void)level, (void)fields, (void)count;
    if (strcmp(name, "call") == 0)
        atomic_fetch_add(&logged_calls, 1);
}

static void count_line(void *arg, vv_log_level level, const char *line) {
    (void)arg, (void)line;
    if (level == VV_LOG_DEBUG)
        atomic_fetch_add(&debug_lines, 1);
}

Test(reload, calls_are_logged_as_it_says_then) {
    static vv_logger logger = {.event = count_event, .write = count_line, .least = VV_LOG_INFO};
    fx.log = &logger;
    start("", NULL);
    expect_put(GRPC_STATUS_OK);
    cr_assert_eq(logged_calls, 0);
    expect_reload("ACCESS_LOG_SAMPLE = 1\n", "ACCESS_LOG_SAMPLE", "");
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_OK);
    while (atomic_load(&logged_calls) < 2) /* a line is written behind the answer */
        expect_put(GRPC_STATUS_OK);
    atomic_store(&logger.least, VV_LOG_DEBUG); /* the engine's lines, too */
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/Flush", vv_slice_make("", 0), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
    cr_assert_gt(debug_lines, 0);
}

/* ---- precedence ---- */

Test(reload, a_flag_and_the_environment_go_before_the_file) {
    start("", "--rate-limit-writes=1");
    expect_reload("RATE_LIMIT_WRITES = 100000\nSLOW_CALL_THRESHOLD = 7s\nRATE_LIMIT_READS = 5\n",
                  "RATE_LIMIT_READS", "");
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_RESOURCE_EXHAUSTED);
}

/* ---- what is refused ---- */

Test(reload, one_thing_that_is_wrong_changes_nothing_of_the_rest) {
    static const char good[] = "RATE_LIMIT_WRITES = 1\nRATE_LIMIT_WRITE_BURST = 1\nLOG_LEVEL = debug\n";
    static const struct {
        const char *line, *words;
    } bad[] = {
        {"LOG_LEVEL = loud\n", "varved.conf:4: LOG_LEVEL = loud: allowed is one of debug, info, warn, error"},
        {"CACHE_CAPACITY = much\n", "varved.conf:4: CACHE_CAPACITY = much: allowed is"},
        {"MEMTABLE_SIZE = 1KB\n", "varved.conf:4: MEMTABLE_SIZE = 1KB: allowed is a size from 64KiB"},
        {"NO_SUCH_KEY = 1\n", "varved.conf:4: NO_SUCH_KEY: unknown configuration key"},
        {"nonsense\n", "varved.conf:4: allowed is KEY = VALUE"},
        {"TOKENS_FILE = /nowhere/tokens\n", "TOKENS_FILE: /nowhere/tokens: "},
        {"RATE_LIMITS_FILE = /nowhere/limits\n", "RATE_LIMITS_FILE: /nowhere/limits: "},
        {"TLS_CERT = /nowhere/cert\nTLS_KEY = /nowhere/key\n", "TLS_CERT: /nowhere/cert: "},
        {"TLS_CERT = /nowhere/cert\n", "each needs the other"},
        {"BACKUP_DIR = /nowhere\n", "BACKUP_DIR = /nowhere: "},
    };
    start("LOG_LEVEL = warn\n", NULL);
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        char text[800];
        snprintf(text, sizeof text, "%s%s", good, bad[i].line);
        expect_refusal(text, bad[i].words);
        expect_put(GRPC_STATUS_OK);
        expect_put(GRPC_STATUS_OK);
    }
    cr_assert_eq(remove(vv_tempdir_path("varved.conf")), 0);
    cr_assert_not(reload());
    cr_assert_not_null(strstr(err.text, "varved.conf"), "%s", err.text);
    expect_reload(good, "LOG_LEVEL, RATE_LIMIT_WRITES, RATE_LIMIT_WRITE_BURST", "");
    expect_put(GRPC_STATUS_OK);
    expect_put(GRPC_STATUS_RESOURCE_EXHAUSTED);
    cr_assert(vv_reload_state_get(again).ok);
}

Test(reload, whatever_there_is_no_memory_for_nothing_changes) {
    char text[600];
    bool done = false;
    test_write_file(vv_tempdir_path("tokens"), ALICE);
    test_write_file(vv_tempdir_path("limits"), "alice writes=1:1\n");
    start("CACHE_CAPACITY = 1MiB\n", NULL);
    int at =
        snprintf(text, sizeof text, "CACHE_CAPACITY = 64MiB\nTOKENS_FILE = %s\n", vv_tempdir_path("tokens"));
    snprintf(text + at, sizeof text - (size_t)at, "RATE_LIMITS_FILE = %s\n", vv_tempdir_path("limits"));
    configure(text);
    for (uint64_t n = 1; !done; n++) {
        cr_assert_lt(n, 500);
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        bool applied = reload();
        done = vv_alloc_count() < last;
        vv_alloc_fail_at(0);
        if (applied)
            break; /* what failed was somebody else's, or for the sake of speed */
        expect_put(GRPC_STATUS_OK);
    }
    expect_keys("TOKENS_FILE, RATE_LIMITS_FILE, CACHE_CAPACITY", "");
    expect_put(GRPC_STATUS_UNAUTHENTICATED);
}

/* ---- who may ---- */

static client_call *put_as(const char *token) {
    client_call *call =
        client_start_with(fx.client, "/varve.v1.KV/Put", CLIENT_DEADLINE_MS, "authorization", token);
    vv_slice message;
    client_send(call, vv_slice_make("\x0a\x01k", 3));
    client_half_close(call);
    while (client_read(call, &message))
        continue;
    return call;
}

Test(reload, an_open_door_is_closed_at_once_and_not_opened_again) {
    char text[600];
    vv_slice message;
    start("", NULL);
    client_call *stream =
        client_start_with(fx.client, "/varve.v1.KV/Pipeline", CLIENT_DEADLINE_MS, NULL, NULL);
    expect_put(GRPC_STATUS_OK);
    snprintf(text, sizeof text, "TOKENS_FILE = %s\n", vv_tempdir_path("tokens"));
    test_write_file(vv_tempdir_path("tokens"), ALICE);
    expect_reload(text, "TOKENS_FILE", "");
    expect_put(GRPC_STATUS_UNAUTHENTICATED);
    expect_end(put_as("Bearer secret"), GRPC_STATUS_OK, NULL);

    /* Nor does whoever was in already get anything more. */
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__Op op = VARVE__V1__OP__INIT;
    Varve__V1__GetOp get_op = VARVE__V1__GET_OP__INIT;
    get_op.key = BYTES("key");
    op.op_case = VARVE__V1__OP__OP_GET;
    op.get = &get_op;
    request.id = 1;
    request.op = &op;
    client_send(stream, client_pack(&request));
    cr_assert(client_read(stream, &message));
    Varve__V1__PipelineResponse *r = varve__v1__pipeline_response__unpack(NULL, message.bytes, message.data);
    cr_assert_not_null(r);
    cr_assert_eq(r->result->result_case, VARVE__V1__PIPELINE_RESULT__RESULT_ERROR);
    cr_assert_eq(r->result->error->code, GRPC_STATUS_PERMISSION_DENIED);
    varve__v1__pipeline_response__free_unpacked(r, NULL);
    client_half_close(stream);
    expect_end(stream, GRPC_STATUS_OK, NULL);

    expect_reload("RATE_LIMIT_READS = 9\n", "RATE_LIMIT_READS", "TOKENS_FILE");
    expect_put(GRPC_STATUS_UNAUTHENTICATED);
    expect_end(put_as("Bearer secret"), GRPC_STATUS_OK, NULL);
}

Test(reload, tls_is_not_turned_on_by_a_reload_and_its_files_have_to_be_right_all_the_same) {
    char *cert, *key, text[1200];
    test_ca *ca = test_ca_create("servers");
    test_ca_issue(ca, "varved", DAY_S, &cert, &key);
    test_write_file(vv_tempdir_path("cert"), cert);
    test_write_file(vv_tempdir_path("key"), "not a key");
    start("", NULL);
    int at = snprintf(text, sizeof text, "TLS_CERT = %s\n", vv_tempdir_path("cert"));
    snprintf(text + at, sizeof text - (size_t)at, "TLS_KEY = %s\n", vv_tempdir_path("key"));
    expect_refusal(text, "TLS_KEY");
    test_write_file(vv_tempdir_path("key"), key);
    expect_reload(text, "", "TLS_CERT, TLS_KEY");
    expect_put(GRPC_STATUS_OK);
    free(cert);
    free(key);
    test_ca_destroy(ca);
}

/* ---- the call ---- */

static Varve__V1__ReloadResponse *reload_by_call(void) {
    client_call *call = client_start_unary(fx.client, RELOAD, vv_slice_make("", 0), CLIENT_DEADLINE_MS);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__ReloadResponse *r = varve__v1__reload_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(r);
    client_call_destroy(call);
    return r;
}

Test(reload, the_call_does_the_same_and_says_so) {
    start("", NULL);
    configure("LOG_LEVEL = error\nRPC_THREADS = 1\nLSM_LEVELS = 5\nMAX_CONNECTIONS = 7\n");
    Varve__V1__ReloadResponse *r = reload_by_call();
    cr_assert_eq(r->n_changed, 1);
    cr_assert_str_eq(r->changed[0], "LOG_LEVEL");
    cr_assert_eq(r->n_restart_needed, 2); /* RPC_THREADS is a flag's */
    cr_assert_str_eq(r->restart_needed[0], "MAX_CONNECTIONS");
    cr_assert_str_eq(r->restart_needed[1], "LSM_LEVELS");
    varve__v1__reload_response__free_unpacked(r, NULL);
    cr_assert_eq(applied_level, VV_LOG_ERROR);

    configure("LOG_LEVEL = debug\nCOMPACTION_RATE = fast\n");
    client_call *call = client_start_unary(fx.client, RELOAD, vv_slice_make("", 0), CLIENT_DEADLINE_MS);
    cr_assert_eq(client_wait(call), GRPC_STATUS_FAILED_PRECONDITION);
    cr_assert_not_null(
        strstr(client_message(call), "varved.conf:2: COMPACTION_RATE = fast: allowed is a size"), "%s",
        client_message(call));
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "BAD_CONFIGURATION");
    cr_assert_eq(applied_level, VV_LOG_ERROR);
}

/* ---- beside calls ---- */

static void reload_often(void *arg) {
    _Atomic bool *over = arg;
    vv_error words;
    vv_reload_report own;
    while (!atomic_load(over))
        cr_assert(vv_ok(vv_server_reload(fx.server, "test", &own, &words)), "%s", words.text);
}

Test(reload, reloads_at_once_beside_calls_hurt_none_of_them) {
    static const char *const texts[] = {
        "CACHE_CAPACITY = 1MiB\nLOG_FORMAT = json\nRATE_LIMIT_READS = 1000000\n",
        "CACHE_CAPACITY = 64MiB\nCOMPACTION_RATE = 1MiB\nACCESS_LOG_SAMPLE = 0.5\nSLOW_CALL_THRESHOLD = 5s\n",
        "BACKUP_RATE = 1MiB\nRATE_LIMIT_WRITES = 1000000\nLOG_LINES_PER_SECOND = 7\n"};
    char text[600];
    static vv_logger logger = {.event = count_event, .write = count_line, .least = VV_LOG_INFO};
    fx.log = &logger;
    start(texts[0], NULL);
    _Atomic bool over = false;
    pthread_t threads[2];
    for (int t = 0; t < 2; t++)
        cr_assert(vv_ok(vv_thread_start(&threads[t], "reload", reload_often, &over)));
    for (int i = 0; i < 300; i++) {
        /* In one step, so that nobody reads half a file. */
        snprintf(text, sizeof text, "%s.new", vv_tempdir_path("varved.conf"));
        test_write_file(text, texts[i % 3]);
        cr_assert_eq(rename(text, vv_tempdir_path("varved.conf")), 0);
        expect_put(GRPC_STATUS_OK);
        expect_end(call_get("key"), GRPC_STATUS_OK, NULL);
        if (i % 50 == 0)
            varve__v1__reload_response__free_unpacked(reload_by_call(), NULL);
    }
    atomic_store(&over, true);
    for (int t = 0; t < 2; t++)
        vv_thread_join(threads[t]);
    cr_assert(vv_reload_state_get(again).ok);
}
