/*
 * The client of other servers, against a server, and over links that fail.
 */
#include "rpc/peer.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/sync.h"
#include "tests/rpc/certificates.h"
#include "tests/rpc/server_fixture.h"
#include "tests/rpc/tcp_proxy.h"
#include "tests/support/tempdir.h"
#include "varve/v1/watch.pb-c.h"

TestSuite(peer, .init = fixture_init, .fini = fixture_fini, .timeout = 180);

#define PATIENCE_NS    (60 * VV_NS_PER_S)
#define HASH_OF_SECRET "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b" /* secret */

static vv_peer *create(vv_peer_options options) {
    vv_peer *p;
    vv_error err = {""};
    cr_assert(vv_ok(vv_peer_create(&options, &p, &err)), "%s", err.text);
    return p;
}

static vv_peer *peer(void) {
    return create((vv_peer_options){.address = vv_server_address(fx.server, 0)});
}

/* One Put or Get; its code. */
static vv_rpc_code call(vv_peer *p, const char *path, vv_slice request, uint64_t timeout_ns,
                        vv_peer_error *err) {
    uint8_t *reply;
    size_t bytes;
    *err = (vv_peer_error){.code = VV_RPC_OK};
    bool fine = vv_peer_call(p, path, request, timeout_ns, &reply, &bytes, err);
    cr_assert_eq(fine, err->code == VV_RPC_OK);
    cr_assert_eq(fine, reply != NULL);
    vv_free(reply);
    return err->code;
}

static vv_slice put_request(const char *key, const char *value) {
    Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
    put.key = BYTES(key);
    put.value = BYTES(value);
    return client_pack(&put);
}

static vv_rpc_code put(vv_peer *p, const char *key, uint64_t timeout_ns, vv_peer_error *err) {
    return call(p, "/varve.v1.KV/Put", put_request(key, "value"), timeout_ns, err);
}

static vv_slice get_request(const char *key) {
    Varve__V1__GetRequest request = VARVE__V1__GET_REQUEST__INIT;
    request.key = BYTES(key);
    return client_pack(&request);
}

/* A watch of everything, whose first mark has come. */
static vv_peer_stream *watch(vv_peer *p) {
    vv_peer_error err;
    vv_peer_stream *s = vv_peer_stream_open(p, "/varve.v1.Watch/Watch", vv_slice_make("", 0), &err);
    cr_assert_not_null(s);
    vv_slice message;
    cr_assert_eq(vv_peer_stream_next(s, PATIENCE_NS, &message, &err), VV_PEER_MESSAGE);
    return s;
}

static void fill(size_t count, size_t value_bytes) {
    char *value = malloc(value_bytes + 1);
    memset(value, 'v', value_bytes);
    value[value_bytes] = '\0';
    for (size_t i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof key, "key%06zu", i);
        client_call_destroy(call_put(key, value));
    }
    free(value);
}

/* ---- what is said ---- */

Test(peer, a_unary_call_has_its_answer) {
    fixture_start();
    vv_peer *p = peer();
    vv_peer_error err;
    cr_assert_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_OK, "%s", err.message);
    uint8_t *reply;
    size_t bytes;
    cr_assert(vv_peer_call(p, "/varve.v1.KV/Get", get_request("key"), UINT64_MAX, &reply, &bytes, &err));
    Varve__V1__GetResponse *response = varve__v1__get_response__unpack(NULL, bytes, reply);
    cr_assert_not_null(response);
    cr_expect(response->value.len == 5 && memcmp(response->value.data, "value", 5) == 0);
    varve__v1__get_response__free_unpacked(response, NULL);
    vv_free(reply);
    vv_peer_destroy(p);
}

Test(peer, a_failure_has_code_reason_and_words) {
    fixture_start();
    vv_peer *p = peer();
    vv_peer_error err;
    cr_expect_eq(put(p, "", PATIENCE_NS, &err), VV_RPC_INVALID_ARGUMENT);
    cr_expect_str_eq(err.reason, "KEY_EMPTY");
    cr_expect_str_neq(err.message, "");
    cr_expect_eq(err.detail_count, 0);
    cr_expect_null(vv_peer_detail(&err, "key"));
    cr_expect_eq(call(p, "/varve.v1.KV/None", vv_slice_make("", 0), PATIENCE_NS, &err), VV_RPC_UNIMPLEMENTED);
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_OK, "the connection lives on");
    vv_peer_destroy(p);
}

Test(peer, a_failure_has_its_details) {
    varve_error words;
    cr_assert(varve_ok(varve_options_set(fx.engine, "MEMTABLE_SIZE", "64KiB", &words)));
    cr_assert(varve_ok(varve_options_set(fx.engine, "WAL_SEGMENT_SIZE", "256KiB", &words)));
    fixture_start();
    vv_peer *p = peer();
    vv_peer_error err;
    vv_slice message;
    vv_peer_next next;
    uint64_t until_ns = vv_clock_mono_ns() + PATIENCE_NS;
    do { /* until the log has forgotten its first record */
        fill(10, 100000);
        Varve__V1__WatchRequest request = VARVE__V1__WATCH_REQUEST__INIT;
        request.from_lsn = 1;
        vv_peer_stream *s = vv_peer_stream_open(p, "/varve.v1.Watch/Watch", client_pack(&request), &err);
        next = vv_peer_stream_next(s, PATIENCE_NS, &message, &err);
        vv_peer_stream_close(s);
    } while (next == VV_PEER_MESSAGE && vv_clock_mono_ns() < until_ns);
    cr_assert_eq(next, VV_PEER_FAILED);
    cr_expect_eq(err.code, VV_RPC_OUT_OF_RANGE);
    cr_expect_str_eq(err.reason, "LSN_TRIMMED");
    cr_expect_eq(err.detail_count, 2);
    cr_expect_str_eq(vv_peer_detail(&err, "resume_lsn"), "1");
    cr_expect_gt(strtoull(vv_peer_detail(&err, "oldest_lsn"), NULL, 10), 1);
    cr_expect_null(vv_peer_detail(&err, "lsn"));
    vv_peer_destroy(p);
}

Test(peer, a_stream_gives_all_messages_and_ends) {
    fixture_start();
    fill(300, 5000); /* many messages */
    client_call_destroy(call_put("key999999", ""));
    vv_peer *p = peer();
    vv_peer_error err;
    Varve__V1__ScanRequest scan = VARVE__V1__SCAN_REQUEST__INIT;
    vv_peer_stream *s = vv_peer_stream_open(p, "/varve.v1.KV/Scan", client_pack(&scan), &err);
    cr_assert_not_null(s);
    vv_slice message;
    vv_peer_next next;
    size_t entries = 0, messages = 0;
    while ((next = vv_peer_stream_next(s, PATIENCE_NS, &message, &err)) == VV_PEER_MESSAGE) {
        Varve__V1__ScanResponse *r = varve__v1__scan_response__unpack(NULL, message.bytes, message.data);
        cr_assert_not_null(r);
        for (size_t i = 0; i < r->n_entries; i++, entries++)
            for (size_t b = 0; b < r->entries[i]->value.len; b++)
                cr_assert_eq(r->entries[i]->value.data[b], 'v');
        messages++;
        varve__v1__scan_response__free_unpacked(r, NULL);
    }
    cr_expect_eq(next, VV_PEER_END);
    cr_expect_eq(entries, 301);
    cr_expect_gt(messages, 5);
    vv_peer_stream_close(s);
    vv_peer_destroy(p);
}

Test(peer, a_long_message_comes_whole_unless_it_is_too_long) {
    fixture_start();
    fill(1, 9 << 20);
    vv_peer *p = peer();
    vv_peer_error err;
    uint8_t *reply;
    size_t bytes;
    cr_assert(
        vv_peer_call(p, "/varve.v1.KV/Get", get_request("key000000"), PATIENCE_NS, &reply, &bytes, &err),
        "%s", err.message);
    Varve__V1__GetResponse *response = varve__v1__get_response__unpack(NULL, bytes, reply);
    cr_assert_not_null(response);
    cr_assert_eq(response->value.len, 9 << 20);
    for (size_t i = 0; i < response->value.len; i++)
        cr_assert_eq(response->value.data[i], 'v');
    varve__v1__get_response__free_unpacked(response, NULL);
    vv_free(reply);
    vv_peer_destroy(p);

    p = create((vv_peer_options){.address = vv_server_address(fx.server, 0), .message_bytes_max = 1 << 20});
    cr_expect_eq(call(p, "/varve.v1.KV/Get", get_request("key000000"), PATIENCE_NS, &err),
                 VV_RPC_RESOURCE_EXHAUSTED);
    vv_peer_destroy(p);
}

/* ---- time ---- */

Test(peer, a_call_ends_at_its_deadline) {
    fixture_start();
    engine_tap_hold(true);
    vv_peer *p = peer();
    vv_peer_error err;
    cr_expect_eq(put(p, "key", 100 * VV_NS_PER_MS, &err), VV_RPC_DEADLINE_EXCEEDED);
    engine_tap_hold(false);
    vv_peer_destroy(p);
}

Test(peer, a_stream_on_which_nothing_comes_is_given_up) {
    fx.config.watch_progress_interval_us = UINT64_C(3600000000); /* no mark but the first */
    fixture_start();
    vv_peer *p = peer();
    vv_peer_stream *s = watch(p);
    vv_peer_error err;
    vv_slice message;
    cr_expect_eq(vv_peer_stream_next(s, 20 * VV_NS_PER_MS, &message, &err), VV_PEER_FAILED);
    cr_expect_eq(err.code, VV_RPC_DEADLINE_EXCEEDED);
    vv_peer_stream_close(s);
    s = watch(p);
    vv_peer_stream_close(s); /* under way: cancelled */
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_OK);
    vv_peer_destroy(p);
}

/* ---- interruption ---- */

typedef struct waiter {
    vv_peer *peer;
    pthread_t thread;
    _Atomic bool ready;
    vv_rpc_code code;
} waiter;

static void wait_on_stream(void *arg) {
    waiter *w = arg;
    vv_peer_stream *s = watch(w->peer);
    atomic_store(&w->ready, true);
    vv_slice message;
    vv_peer_error err = {.code = VV_RPC_OK};
    while (vv_peer_stream_next(s, PATIENCE_NS, &message, &err) == VV_PEER_MESSAGE)
        ;
    w->code = err.code;
    vv_peer_stream_close(s);
}

static void wait_on_call(void *arg) {
    waiter *w = arg;
    static uint8_t request[] = {0x0a, 1, 'k'};
    vv_peer_error err;
    w->code = call(w->peer, "/varve.v1.KV/Put", vv_slice_make(request, sizeof request), PATIENCE_NS, &err);
}

Test(peer, an_interruption_ends_what_is_under_way_and_what_comes_later) {
    fixture_start();
    engine_tap_hold(true);
    vv_peer *p = peer();
    waiter stream = {.peer = p}, unary = {.peer = p};
    cr_assert(vv_ok(vv_thread_start(&stream.thread, "stream", wait_on_stream, &stream)));
    cr_assert(vv_ok(vv_thread_start(&unary.thread, "unary", wait_on_call, &unary)));
    engine_tap_wait_queued(1);
    while (!atomic_load(&stream.ready))
        sched_yield();
    vv_peer_interrupt(p);
    vv_thread_join(stream.thread);
    vv_thread_join(unary.thread);
    cr_expect_eq(stream.code, VV_RPC_CANCELLED);
    cr_expect_eq(unary.code, VV_RPC_CANCELLED);
    engine_tap_hold(false);

    vv_peer_error err;
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_CANCELLED);
    cr_expect_null(vv_peer_stream_open(p, "/varve.v1.Watch/Watch", vv_slice_make("", 0), &err));
    cr_expect_eq(err.code, VV_RPC_CANCELLED);
    vv_peer_destroy(p);
}

static void call_until_it_fails(void *arg) {
    waiter *w = arg;
    vv_peer_error err;
    do
        w->code = call(w->peer, "/varve.v1.KV/Get", vv_slice_make("\x0a\x01k", 3), PATIENCE_NS, &err);
    while (w->code == VV_RPC_OK);
}

Test(peer, many_threads_share_a_peer) {
    fixture_start();
    vv_peer *p = peer();
    waiter waiters[6];
    for (size_t i = 0; i < VV_ARRAY_COUNT(waiters); i++) {
        waiters[i] = (waiter){.peer = p};
        cr_assert(vv_ok(vv_thread_start(&waiters[i].thread, "caller",
                                        i % 2 ? wait_on_stream : call_until_it_fails, &waiters[i])));
    }
    vv_peer_error err;
    for (size_t i = 0; i < 200; i++)
        cr_assert_eq(put(p, "k", PATIENCE_NS, &err), VV_RPC_OK, "%s", err.message);
    for (size_t i = 1; i < VV_ARRAY_COUNT(waiters); i += 2)
        while (!atomic_load(&waiters[i].ready))
            sched_yield();
    vv_peer_interrupt(p);
    for (size_t i = 0; i < VV_ARRAY_COUNT(waiters); i++) {
        vv_thread_join(waiters[i].thread);
        cr_expect_eq(waiters[i].code, VV_RPC_CANCELLED);
    }
    vv_peer_destroy(p);
}

/* ---- peers that are not there ---- */

Test(peer, one_that_is_started_again_is_found_soon) {
    fixture_start();
    vv_peer *p = peer();
    vv_peer_error err;
    cr_assert_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_OK);
    strcpy(fx.config.listen[0], vv_server_address(fx.server, 0));
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fx.client = NULL;
    for (size_t i = 0; i < 20; i++)
        cr_assert_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_UNAVAILABLE, "%s", err.message);
    fixture_start();
    uint64_t started_ns = vv_clock_mono_ns();
    while (put(p, "key", PATIENCE_NS, &err) != VV_RPC_OK) {
        cr_assert_eq(err.code, VV_RPC_UNAVAILABLE, "%s", err.message);
        cr_assert_lt(vv_clock_mono_ns() - started_ns, 30 * VV_NS_PER_S, "%s", err.message);
    }
    vv_peer_destroy(p);
}

Test(peer, one_that_never_says_a_word_is_unavailable) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t own_bytes = sizeof own;
    cr_assert_eq(bind(fd, (struct sockaddr *)&own, sizeof own), 0);
    cr_assert_eq(listen(fd, 16), 0); /* the kernel accepts, and nobody reads */
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&own, &own_bytes), 0);
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(own.sin_port));
    vv_peer *p = create((vv_peer_options){.address = address});
    vv_peer_error err;
    cr_expect_eq(put(p, "key", 100 * VV_NS_PER_MS, &err), VV_RPC_DEADLINE_EXCEEDED);
    cr_expect_eq(put(p, "key", UINT64_MAX, &err), VV_RPC_UNAVAILABLE);
    vv_peer_destroy(p);
    close(fd);
}

Test(peer, one_that_falls_silent_is_noticed_and_found_again) {
    fixture_start();
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    vv_peer *p = create((vv_peer_options){.address = tcp_proxy_address(link)});
    vv_peer_stream *s = watch(p);
    tcp_proxy_freeze(link, true);
    vv_slice message;
    vv_peer_error err;
    uint64_t frozen_ns = vv_clock_mono_ns();
    cr_expect_eq(vv_peer_stream_next(s, UINT64_MAX, &message, &err), VV_PEER_FAILED);
    cr_expect_eq(err.code, VV_RPC_UNAVAILABLE, "%s", err.message);
    cr_expect_lt(vv_clock_mono_ns() - frozen_ns, 30 * VV_NS_PER_S);
    vv_peer_stream_close(s);
    tcp_proxy_freeze(link, false);
    uint64_t thawed_ns = vv_clock_mono_ns();
    while (put(p, "key", PATIENCE_NS, &err) != VV_RPC_OK)
        cr_assert_lt(vv_clock_mono_ns() - thawed_ns, 30 * VV_NS_PER_S, "%s", err.message);
    vv_peer_destroy(p);
    tcp_proxy_destroy(link);
}

Test(peer, a_silent_unary_call_does_not_wear_out_the_server) {
    fixture_start();
    engine_tap_hold(true);
    vv_peer *p = peer();
    vv_peer_error err;
    /* Longer than it takes a server to send away a client that pings too often: three times. */
    cr_expect_eq(put(p, "key", 10 * VV_NS_PER_S, &err), VV_RPC_DEADLINE_EXCEEDED, "%s", err.message);
    engine_tap_hold(false);
    vv_peer_destroy(p);
}

Test(peer, a_lost_connection_ends_calls_and_the_next_has_a_new_one) {
    fixture_start();
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    vv_peer *p = create((vv_peer_options){.address = tcp_proxy_address(link)});
    vv_peer_stream *s = watch(p);
    tcp_proxy_cut_after(link, 1);
    client_call_destroy(call_put("key", "value")); /* told over the link */
    vv_slice message;
    vv_peer_error err;
    vv_peer_next next;
    while ((next = vv_peer_stream_next(s, PATIENCE_NS, &message, &err)) == VV_PEER_MESSAGE)
        ;
    cr_expect_eq(next, VV_PEER_FAILED);
    cr_expect_eq(err.code, VV_RPC_UNAVAILABLE, "%s", err.message);
    cr_expect_eq(tcp_proxy_cuts(link), 1);
    vv_peer_stream_close(s);
    uint64_t cut_ns = vv_clock_mono_ns(); /* one more may still go over the old one */
    while (put(p, "key", PATIENCE_NS, &err) != VV_RPC_OK)
        cr_assert_lt(vv_clock_mono_ns() - cut_ns, 30 * VV_NS_PER_S, "%s", err.message);
    vv_peer_stream_close(watch(p));
    vv_peer_destroy(p);
    tcp_proxy_destroy(link);
}

/* ---- who calls whom ---- */

Test(peer, a_token_file_is_read_for_each_call) {
    test_write_file(vv_tempdir_path("tokens"), "carol sha256:" HASH_OF_SECRET " read,write\n");
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fixture_start();
    const char *address = vv_server_address(fx.server, 0);
    vv_peer_error err;
    vv_peer *p = create((vv_peer_options){.address = address});
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_UNAUTHENTICATED);
    cr_expect_str_eq(err.reason, "CREDENTIALS_MISSING");
    vv_peer_destroy(p);

    p = create((vv_peer_options){.address = address, .token = "secret"});
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_OK, "%s", err.message);
    vv_peer_destroy(p);

    p = create((vv_peer_options){.address = address, .token_file = vv_tempdir_path("token")});
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_UNAUTHENTICATED);
    cr_expect_str_eq(err.reason, "TOKEN_UNREADABLE");
    cr_expect_not_null(strstr(err.message, "token"), "%s", err.message);
    test_write_file(vv_tempdir_path("token"), "  secret \r\n");
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_OK, "%s", err.message);
    test_write_file(vv_tempdir_path("token"), "guess");
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_UNAUTHENTICATED);
    cr_expect_str_eq(err.reason, "TOKEN_INVALID");
    test_write_file(vv_tempdir_path("token"), "\x01");
    cr_expect_eq(put(p, "key", PATIENCE_NS, &err), VV_RPC_UNAUTHENTICATED);
    vv_peer_destroy(p);
}

Test(peer, tls_with_certificates_of_both) {
    test_ca *servers = test_ca_create("servers"), *clients = test_ca_create("clients");
    char *texts[4];
    test_ca_issue(servers, "varved", 86400, &texts[0], &texts[1]);
    test_ca_issue(clients, "replica", 86400, &texts[2], &texts[3]);
    const char *const names[] = {"cert", "key", "own-cert", "own-key"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(texts); i++) {
        test_write_file(vv_tempdir_path(names[i]), texts[i]);
        free(texts[i]);
    }
    test_write_file(vv_tempdir_path("clients"), test_ca_pem(clients));
    test_write_file(vv_tempdir_path("servers"), test_ca_pem(servers));
    strcpy(fx.config.tls_cert, vv_tempdir_path("cert"));
    strcpy(fx.config.tls_key, vv_tempdir_path("key"));
    strcpy(fx.config.tls_client_ca, vv_tempdir_path("clients"));
    strcpy(fx.config.certificate_roles, "read,write");
    fixture_start();
    const char *address = vv_server_address(fx.server, 0);
    const vv_peer_options right = {.address = address,
                                   .tls_ca = vv_tempdir_path("servers"),
                                   .tls_cert = vv_tempdir_path("own-cert"),
                                   .tls_key = vv_tempdir_path("own-key")};
    const struct {
        vv_peer_options options;
        vv_rpc_code code;
    } cases[] = {
        {right, VV_RPC_OK},
        {{.address = address}, VV_RPC_UNAVAILABLE},                                       /* no TLS */
        {{.address = address, .tls_ca = right.tls_ca}, VV_RPC_UNAVAILABLE},               /* no certificate */
        {{.address = address, .tls_ca = vv_tempdir_path("clients")}, VV_RPC_UNAVAILABLE}, /* another CA */
    };
    vv_peer_error why;
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        vv_peer *p = create(cases[i].options);
        cr_expect_eq(put(p, "key", PATIENCE_NS, &why), cases[i].code, "%zu: %s", i, why.message);
        vv_peer_destroy(p);
    }

    vv_peer *none;
    vv_error err = {""};
    vv_peer_options wrong = right;
    wrong.tls_key = "";
    cr_expect_eq(vv_peer_create(&wrong, &none, &err).code, VV_INVALID_ARGUMENT);
    cr_expect_null(none);
    wrong.tls_key = vv_tempdir_path("absent");
    cr_expect_eq(vv_peer_create(&wrong, &none, &err).code, VV_NOT_FOUND);
    cr_expect_not_null(strstr(err.text, "absent"), "%s", err.text);
    test_ca_destroy(servers);
    test_ca_destroy(clients);
}
