#include "rpc/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "rpc/access.h"
#include "tests/rpc/certificates.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"

enum { DAY_S = 86400 };

static test_ca *servers, *clients;
static char *cert, *key;

static void tls_init(void) {
    fixture_init();
    servers = test_ca_create("servers");
    clients = test_ca_create("clients");
    test_ca_issue(servers, "varved", DAY_S, &cert, &key);
    test_write_file(vv_tempdir_path("cert"), cert);
    test_write_file(vv_tempdir_path("key"), key);
    test_write_file(vv_tempdir_path("ca"), test_ca_pem(clients));
    strcpy(fx.config.tls_cert, vv_tempdir_path("cert"));
    strcpy(fx.config.tls_key, vv_tempdir_path("key"));
}

static void tls_fini(void) {
    fixture_fini();
    test_ca_destroy(servers);
    test_ca_destroy(clients);
    free(cert);
    free(key);
}

TestSuite(tls, .init = tls_init, .fini = tls_fini, .timeout = 180);

static void ask_for_certificates(void) {
    strcpy(fx.config.tls_client_ca, vv_tempdir_path("ca"));
}

/* Put a client that trusts `ca` in the place of the fixture's, with a certificate of this name from `issuer`
 * (NULL: none). */
static void be(const test_ca *ca, test_ca *issuer, const char *name) {
    char *own = NULL, *own_key = NULL;
    if (fx.client)
        client_destroy(fx.client);
    if (issuer)
        test_ca_issue(issuer, name, DAY_S, &own, &own_key);
    fx.client = client_create_tls(vv_server_address(fx.server, 0), test_ca_pem(ca), own, own_key);
    free(own);
    free(own_key);
}

static void expect_put(grpc_status_code code, const char *reason) {
    expect_end(call_put("key", "value"), code, reason);
}

/* A Get with a token. */
static client_call *get_as(const char *token) {
    char header[64];
    snprintf(header, sizeof header, "Bearer %s", token);
    client_call *call =
        client_start_with(fx.client, "/varve.v1.KV/Get", CLIENT_DEADLINE_MS, "authorization", header);
    client_send(call, vv_slice_make("\x0a\x01k", 3));
    client_half_close(call);
    vv_slice message;
    while (client_read(call, &message))
        continue;
    return call;
}

/* ---- the server's certificate ---- */

Test(tls, clients_that_trust_it_get_in_and_others_do_not) {
    fixture_start();
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL); /* without TLS */
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_OK, NULL);
    be(clients, NULL, NULL);
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
    be(servers, clients, "somebody"); /* not asked for, and no harm */
    expect_put(GRPC_STATUS_OK, NULL);
}

static void renew(test_ca *by) {
    free(cert);
    free(key);
    test_ca_issue(by, "varved", DAY_S, &cert, &key);
    test_write_file(vv_tempdir_path("cert"), cert);
    test_write_file(vv_tempdir_path("key"), key);
}

Test(tls, renewed_files_serve_new_connections_and_old_ones_live_on) {
    fixture_start();
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_OK, NULL);
    client *old = fx.client;
    fx.client = NULL;
    test_ca *next = test_ca_create("next");
    renew(next);
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_OK, NULL); /* nobody has said so yet */
    vv_error err = {""};
    cr_assert(vv_ok(vv_server_reload(fx.server, "test", NULL, &err)), "%s", err.text);
    be(next, NULL, NULL);
    expect_put(GRPC_STATUS_OK, NULL);
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
    client *new = fx.client;
    fx.client = old;
    expect_put(GRPC_STATUS_OK, NULL);
    fx.client = new;
    client_destroy(old);
    test_ca_destroy(next);
}

Test(tls, broken_files_change_nothing) {
    fixture_start();
    test_ca *next = test_ca_create("next");
    char *other_cert, *other_key;
    test_ca_issue(next, "varved", DAY_S, &other_cert, &other_key);
    const struct {
        const char *file, *text, *words;
    } bad[] = {{"cert", "garbage", "TLS_CERT"},
               {"cert", "", "TLS_CERT"},
               {"cert", other_cert, "not the key of the certificate"}, /* renewed by half */
               {"cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "TLS_CERT"},
               {"key", "garbage", "TLS_KEY"},
               {"key", other_key, "not the key of the certificate"}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        test_write_file(vv_tempdir_path(bad[i].file), bad[i].text);
        vv_error err = {""};
        cr_expect_not(vv_ok(vv_server_reload(fx.server, "test", NULL, &err)));
        cr_expect_not_null(strstr(err.text, bad[i].words), "%s: %s", bad[i].words, err.text);
        be(servers, NULL, NULL);
        expect_put(GRPC_STATUS_OK, NULL);
        test_write_file(vv_tempdir_path("cert"), cert);
        test_write_file(vv_tempdir_path("key"), key);
    }
    cr_assert_eq(remove(vv_tempdir_path("key")), 0);
    vv_error err = {""};
    cr_expect_not(vv_ok(vv_server_reload(fx.server, "test", NULL, &err)));
    cr_expect_not_null(strstr(err.text, "TLS_KEY"), "%s", err.text);
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_OK, NULL);
    free(other_cert);
    free(other_key);
    test_ca_destroy(next);
}

static int seen;

static void see(void *arg, const vv_tls_pem *pem) {
    (void)arg;
    cr_assert_not_null(pem->roots);
    seen++;
}

static _Atomic int complaints;

static void count_complaints(void *arg, vv_log_level level, const char *line) {
    (void)arg;
    if (level == VV_LOG_ERROR && strstr(line, "old files stay"))
        atomic_fetch_add(&complaints, 1);
}

Test(tls, a_change_is_noticed_once) {
    vv_tls *tls;
    vv_error err = {""};
    vv_logger log = {.write = count_complaints};
    vv_tls_options options = {
        .certificate = fx.config.tls_cert, .key = fx.config.tls_key, .client_ca = "", .log = &log};
    cr_assert(vv_ok(vv_tls_create(&options, &tls, &err)), "%s", err.text);
    uint64_t generation = 0;
    cr_assert(vv_tls_if_newer(tls, &generation, see, NULL));
    cr_assert_not(vv_tls_if_newer(tls, &generation, see, NULL));
    vv_tls_reload_if_changed(tls);
    cr_assert_not(vv_tls_if_newer(tls, &generation, see, NULL));

    test_write_file(vv_tempdir_path("cert"), "half a renewal");
    vv_tls_reload_if_changed(tls);
    vv_tls_reload_if_changed(tls);
    cr_assert_eq(complaints, 1, "once, not every time");
    cr_assert_not(vv_tls_if_newer(tls, &generation, see, NULL));

    renew(servers);
    vv_tls_reload_if_changed(tls);
    cr_assert(vv_tls_if_newer(tls, &generation, see, NULL));
    cr_assert_eq(seen, 2);
    vv_tls_destroy(tls);
}

Test(tls, a_start_with_files_that_do_not_fit_is_refused) {
    test_write_file(vv_tempdir_path("key"), "garbage");
    vv_error err = {""};
    vv_server *server;
    vv_status st = vv_server_start(&fx.config, fx.engine, NULL, &server, &err);
    cr_assert_eq(st.sub, VV_SUB_BAD_OPTION);
    cr_assert_not_null(strstr(err.text, "TLS_KEY = "), "%s", err.text);
}

/* ---- clients' certificates ---- */

Test(tls, a_required_certificate_keeps_others_out) {
    ask_for_certificates();
    strcpy(fx.config.certificate_roles, "read,write");
    fixture_start();
    be(servers, clients, "alice");
    expect_put(GRPC_STATUS_OK, NULL);
    be(servers, servers, "alice"); /* signed by somebody else */
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
}

Test(tls, a_certificate_alone_grants_nothing_by_default) {
    ask_for_certificates();
    fixture_start();
    be(servers, clients, "alice");
    expect_put(GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
}

static const char hex_of_secret[] =
    "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; /* secret */

Test(tls, names_in_the_file_have_their_roles_and_a_token_goes_before_a_certificate) {
    ask_for_certificates();
    char text[512];
    snprintf(text, sizeof text,
             "alice certificate read,write\n\"Bob B\" certificate read\ncarol sha256:%s write\n",
             hex_of_secret);
    test_write_file(vv_tempdir_path("tokens"), text);
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fixture_start();
    be(servers, clients, "alice");
    expect_put(GRPC_STATUS_OK, NULL);
    expect_end(call_get("key"), GRPC_STATUS_OK, NULL);
    be(servers, clients, "Bob B");
    expect_put(GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
    expect_end(call_get("key"), GRPC_STATUS_OK, NULL);
    be(servers, clients, "dave");
    expect_end(call_get("key"), GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");

    be(servers, clients, "alice");
    expect_end(get_as("secret"), GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING"); /* carol may only write */
    expect_end(get_as("guess"), GRPC_STATUS_UNAUTHENTICATED, "TOKEN_INVALID");
}

Test(tls, a_name_that_is_no_name_is_nobody) {
    ask_for_certificates();
    strcpy(fx.config.certificate_roles, "read,write,admin");
    fixture_start();
    be(servers, clients, "new\nline");
    expect_put(GRPC_STATUS_UNAUTHENTICATED, "CERTIFICATE_NAME_INVALID");
    be(servers, clients, NULL); /* no common name: the first alternative name */
    expect_put(GRPC_STATUS_OK, NULL);
}

Test(tls, an_optional_certificate_leaves_room_for_tokens) {
    ask_for_certificates();
    fx.config.tls_client_auth = 1;
    char text[256];
    snprintf(text, sizeof text, "carol sha256:%s read,write\n", hex_of_secret);
    test_write_file(vv_tempdir_path("tokens"), text);
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fixture_start();
    be(servers, NULL, NULL);
    expect_put(GRPC_STATUS_UNAUTHENTICATED, "CREDENTIALS_MISSING");
    expect_end(get_as("secret"), GRPC_STATUS_OK, NULL);
    be(servers, servers, "alice"); /* one that is shown must be good */
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
}

Test(tls, a_new_ca_for_clients_holds_for_new_connections) {
    ask_for_certificates();
    strcpy(fx.config.certificate_roles, "read,write");
    fixture_start();
    test_ca *next = test_ca_create("next");
    be(servers, next, "alice");
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
    test_write_file(vv_tempdir_path("ca"), test_ca_pem(next));
    vv_error err = {""};
    cr_assert(vv_ok(vv_server_reload(fx.server, "test", NULL, &err)), "%s", err.text);
    be(servers, next, "alice");
    expect_put(GRPC_STATUS_OK, NULL);
    be(servers, clients, "alice");
    expect_put(GRPC_STATUS_UNAVAILABLE, NULL);
    test_ca_destroy(next);
}

/* ---- unix sockets ---- */

Test(tls, a_unix_socket_speaks_plainly_has_its_mode_and_asks_for_tokens) {
    char text[256];
    snprintf(text, sizeof text, "carol sha256:%s read,write\n", hex_of_secret);
    test_write_file(vv_tempdir_path("tokens"), text);
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fx.config.listen_count = 2;
    fx.config.unix_mode = 1;
    snprintf(fx.config.listen[1], sizeof fx.config.listen[1], "unix:%s", vv_tempdir_path("socket"));
    fixture_start();
    struct stat file;
    cr_assert_eq(stat(vv_tempdir_path("socket"), &file), 0);
    cr_assert_eq(file.st_mode & 0777, 0660);
    client_destroy(fx.client);
    fx.client = client_create(vv_server_address(fx.server, 1));
    expect_put(GRPC_STATUS_UNAUTHENTICATED, "CREDENTIALS_MISSING");
    expect_end(get_as("secret"), GRPC_STATUS_OK, NULL);
}
