#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/swap.h"
#include "rpc/access.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"

TestSuite(access, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

/* ---- files ---- */

static void write_file(const char *name, const char *text) {
    FILE *f = fopen(vv_tempdir_path(name), "w");
    cr_assert_not_null(f);
    fputs(text, f);
    cr_assert_eq(fclose(f), 0);
}

/* "USER sha256:... ROLES\n" of a token. */
static const char *token_line(const char *user, const char *token, const char *roles) {
    static char lines[8][512];
    static size_t next;
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[65] = "";
    cr_assert_eq(EVP_Digest(token, strlen(token), digest, NULL, EVP_sha256(), NULL), 1);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    char *line = lines[next++ % 8];
    snprintf(line, sizeof lines[0], "%s sha256:%s %s\n", user, hex, roles);
    return line;
}

static void use_tokens(const char *text) {
    write_file("tokens", text);
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
}

/* reader, writer, both, root, node: each with a token "token-<name>". */
static void use_five(void) {
    char text[2048];
    snprintf(text, sizeof text, "# five\n\n%s%s%s%s%s", token_line("reader", "token-reader", "read"),
             token_line("writer", "token-writer", "write"), token_line("both", "token-both", "read,write"),
             token_line("root", "token-root", "admin"), token_line("node", "token-node", "replica"));
    use_tokens(text);
}

/* ---- calls ---- */

static const char *bearer(const char *token) {
    static char header[256];
    snprintf(header, sizeof header, "Bearer %s", token);
    return header;
}

/* A call of any kind with one empty message, so far. token NULL: none. */
static client_call *start_as(const char *path, const char *token, int64_t deadline_ms) {
    client_call *call = client_start_with(fx.client, path, deadline_ms, token ? "authorization" : NULL,
                                          token ? bearer(token) : NULL);
    client_send(call, vv_slice_make("", 0));
    client_half_close(call);
    return call;
}

static void drain_messages(client_call *call) {
    vv_slice message;
    while (client_read(call, &message))
        continue;
}

static client_call *get_as(const char *token) {
    client_call *call = client_start_with(fx.client, "/varve.v1.KV/Get", CLIENT_DEADLINE_MS,
                                          token ? "authorization" : NULL, token ? bearer(token) : NULL);
    client_send(call, vv_slice_make("\x0a\x01k", 3));
    client_half_close(call);
    drain_messages(call);
    return call;
}

/* ---- the walk: every method, every caller ---- */

/* What each method is to need, once more and on purpose: a new one fails the walk until it stands here. */
static const struct {
    const char *path;
    vv_rpc_access needs;
} policy[] = {
    {"/varve.v1.KV/Get", VV_RPC_READ},
    {"/varve.v1.KV/MultiGet", VV_RPC_READ},
    {"/varve.v1.KV/Scan", VV_RPC_READ},
    {"/varve.v1.KV/Pipeline", VV_RPC_READ},
    {"/varve.v1.KV/Put", VV_RPC_WRITE},
    {"/varve.v1.KV/Delete", VV_RPC_WRITE},
    {"/varve.v1.KV/Write", VV_RPC_WRITE},
    {"/varve.v1.Watch/Watch", VV_RPC_READ},
    {"/varve.v1.Snapshots/Open", VV_RPC_READ},
    {"/varve.v1.Snapshots/Renew", VV_RPC_READ},
    {"/varve.v1.Snapshots/Release", VV_RPC_READ},
    {"/varve.v1.Admin/Status", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Stats", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Dashboard", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Flush", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Compact", VV_RPC_ADMIN},
    {"/varve.v1.Admin/SetSafeCompactionLsn", VV_RPC_ADMIN},
    {"/varve.v1.Admin/SetRateLimit", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Reload", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Backup", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Verify", VV_RPC_ADMIN},
    {"/varve.v1.Admin/Promote", VV_RPC_ADMIN},
    {"/varve.v1.Replication/StreamWal", VV_RPC_REPLICA},
    {"/varve.v1.Replication/Confirm", VV_RPC_REPLICA},
    {"/varve.v1.Replication/Hello", VV_RPC_REPLICA},
    {"/varve.v1.Replication/TakeSnapshot", VV_RPC_REPLICA},
    {"/varve.v1.Replication/FetchFile", VV_RPC_REPLICA},
    {"/varve.v1.Replication/ReleaseSnapshot", VV_RPC_REPLICA},
    {"/grpc.health.v1.Health/Check", VV_RPC_OPEN},
    {"/grpc.health.v1.Health/Watch", VV_RPC_OPEN},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VV_RPC_OPEN},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", VV_RPC_OPEN},
};

static vv_rpc_access needed_by(const char *path) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(policy); i++)
        if (strcmp(policy[i].path, path) == 0)
            return policy[i].needs;
    cr_assert_fail("%s: say in this test what it needs", path);
    return VV_RPC_ADMIN;
}

static const struct {
    const char *token;
    uint8_t rights;
    bool known;
} callers[] = {
    {NULL, 0, false},
    {"token-nobody", 0, false},
    {"", 0, false},
    {"token-reader", VV_RIGHT_READ, true},
    {"token-writer", VV_RIGHT_WRITE, true},
    {"token-both", VV_RIGHT_READ | VV_RIGHT_WRITE, true},
    {"token-root", VV_RIGHT_ADMIN, true},
    {"token-node", VV_RIGHT_REPLICA, true},
};

static uint8_t bit_of(vv_rpc_access needs) {
    switch (needs) {
    case VV_RPC_READ: return VV_RIGHT_READ;
    case VV_RPC_WRITE: return VV_RIGHT_WRITE;
    case VV_RPC_REPLICA: return VV_RIGHT_REPLICA;
    default: return VV_RIGHT_ADMIN;
    }
}

static void walk_one(const vv_rpc_method *method, size_t caller) {
    vv_rpc_access needs = needed_by(method->path);
    bool allowed = needs == VV_RPC_OPEN || (callers[caller].rights & bit_of(needs));
    /* A stream that is let in may stay open: its deadline ends it. One that is refused is so at once. */
    bool stays = allowed && method->kind != VV_RPC_UNARY;
    client_call *call = start_as(method->path, callers[caller].token, stays ? 500 : CLIENT_DEADLINE_MS);
    drain_messages(call);
    grpc_status_code code = client_wait(call);
    const char *who = callers[caller].token ? callers[caller].token : "no token";
    if (allowed) {
        cr_expect_neq(code, GRPC_STATUS_UNAUTHENTICATED, "%s as %s", method->path, who);
        cr_expect_neq(code, GRPC_STATUS_PERMISSION_DENIED, "%s as %s", method->path, who);
    } else if (!callers[caller].known) {
        cr_expect_eq(code, GRPC_STATUS_UNAUTHENTICATED, "%s as %s: %d", method->path, who, code);
        cr_expect_str_eq(client_reason(call),
                         callers[caller].token ? "TOKEN_INVALID" : "CREDENTIALS_MISSING");
    } else {
        cr_expect_eq(code, GRPC_STATUS_PERMISSION_DENIED, "%s as %s: %d", method->path, who, code);
        cr_expect_str_eq(client_reason(call), "ROLE_MISSING");
    }
    client_call_destroy(call);
}

Test(access, every_method_is_decided_for_every_kind_of_caller) {
    use_five();
    fixture_start();
    size_t service_count, methods = 0;
    const vv_rpc_service *services = vv_server_services(fx.server, &service_count);
    for (size_t s = 0; s < service_count; s++)
        for (size_t m = 0; m < services[s].method_count; m++, methods++)
            for (size_t c = 0; c < VV_ARRAY_COUNT(callers); c++)
                walk_one(&services[s].methods[m], c);
    cr_assert_geq(methods, 8);
}

/* ---- who is let in ---- */

Test(access, without_tokens_everybody_may_everything) {
    fixture_start();
    expect_end(get_as(NULL), GRPC_STATUS_OK, NULL);
    expect_end(get_as("whatever"), GRPC_STATUS_OK, NULL);
    client_call_destroy(call_put("key", "value"));
}

Test(access, the_scheme_is_bearer_in_any_case_and_nothing_else) {
    use_five();
    fixture_start();
    static const struct {
        const char *header;
        bool good;
    } cases[] = {{"Bearer token-reader", true},
                 {"bearer token-reader", true},
                 {"BEARER   token-reader", true},
                 {"Basic token-reader", false},
                 {"token-reader", false},
                 {"Bearer", false},
                 {"Bearer ", false},
                 {"Bearer token-reade", false},
                 {"Bearer token-reader2", false}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        client_call *call = client_start_with(fx.client, "/varve.v1.KV/Get", CLIENT_DEADLINE_MS,
                                              "authorization", cases[i].header);
        client_send(call, vv_slice_make("\x0a\x01k", 3));
        client_half_close(call);
        drain_messages(call);
        grpc_status_code code = client_wait(call);
        cr_expect_eq(code, cases[i].good ? GRPC_STATUS_OK : GRPC_STATUS_UNAUTHENTICATED, "%s",
                     cases[i].header);
        cr_expect_null(strstr(client_message(call), "token-reade"), "a token is told back");
        client_call_destroy(call);
    }
}

Test(access, an_anonymous_line_lets_callers_without_a_token_in) {
    char text[1024];
    snprintf(text, sizeof text, "default anonymous read # all may look\n%s",
             token_line("writer", "token-writer", "write"));
    use_tokens(text);
    fixture_start();
    expect_end(get_as(NULL), GRPC_STATUS_OK, NULL);
    expect_end(call_put("key", "value"), GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
    expect_end(get_as("token-writer"), GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
    expect_end(get_as("token-other"), GRPC_STATUS_UNAUTHENTICATED, "TOKEN_INVALID");
}

Test(access, reflection_can_be_turned_off) {
    fx.config.reflection = false;
    fixture_start();
    client_call *call =
        start_as("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", NULL, CLIENT_DEADLINE_MS);
    drain_messages(call);
    expect_end(call, GRPC_STATUS_UNIMPLEMENTED, "UNKNOWN_METHOD");
    expect_end(get_as(NULL), GRPC_STATUS_OK, NULL);
}

/* ---- reload ---- */

static void reload(bool good) {
    vv_error err = {""};
    vv_status st = vv_server_reload(fx.server, "test", NULL, &err);
    cr_assert_eq(vv_ok(st), good, "%s", err.text);
    if (!good)
        cr_assert_not_null(strstr(err.text, "tokens"), "%s", err.text);
}

Test(access, a_reload_replaces_all_tokens_or_none) {
    use_tokens(token_line("a", "first", "read"));
    fixture_start();
    expect_end(get_as("first"), GRPC_STATUS_OK, NULL);
    expect_end(get_as("second"), GRPC_STATUS_UNAUTHENTICATED, "TOKEN_INVALID");

    char broken[1024];
    snprintf(broken, sizeof broken, "%sb sha256:12 read\n", token_line("b", "second", "read"));
    write_file("tokens", broken);
    reload(false);
    expect_end(get_as("first"), GRPC_STATUS_OK, NULL);
    expect_end(get_as("second"), GRPC_STATUS_UNAUTHENTICATED, "TOKEN_INVALID");

    write_file("tokens", token_line("b", "second", "read"));
    reload(true);
    expect_end(get_as("first"), GRPC_STATUS_UNAUTHENTICATED, "TOKEN_INVALID");
    expect_end(get_as("second"), GRPC_STATUS_OK, NULL);

    cr_assert_eq(remove(vv_tempdir_path("tokens")), 0);
    reload(false);
    expect_end(get_as("second"), GRPC_STATUS_OK, NULL);
}

static void reload_often(void *arg) {
    _Atomic bool *over = arg;
    while (!atomic_load(over))
        reload(true);
}

Test(access, reloads_beside_calls_hurt_none_of_them) {
    use_five();
    fixture_start();
    _Atomic bool over = false;
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "reload", reload_often, &over)));
    for (int i = 0; i < 500; i++) {
        expect_end(get_as("token-reader"), GRPC_STATUS_OK, NULL);
        expect_end(get_as("token-root"), GRPC_STATUS_PERMISSION_DENIED, NULL);
    }
    atomic_store(&over, true);
    vv_thread_join(thread);
}

/* A call as the transport would hand it to the gate. */
static vv_slice header_of_call;

static vv_slice fake_metadata(vv_rpc_call *call, const char *key) {
    (void)call;
    return strcmp(key, "authorization") == 0 ? header_of_call : vv_slice_make(NULL, 0);
}

Test(access, a_right_that_is_taken_away_is_gone_in_the_middle_of_a_call) {
    vv_access access;
    vv_error err = {""};
    use_tokens(token_line("a", "first", "read,write"));
    vv_access_options options = {.tokens_file = fx.config.tokens_file, .limits_file = ""};
    cr_assert(vv_ok(vv_access_init(&access, &options, &err)), "%s", err.text);
    static const vv_rpc_call_ops ops = {.metadata = fake_metadata};
    static const vv_rpc_method method = {.access = VV_RPC_READ};
    vv_rpc_call call = {.ops = &ops, .method = &method};
    header_of_call = vv_slice_str("Bearer first");
    vv_rpc_status why;
    cr_assert(vv_access_admit(&access, &call, &why));
    cr_assert_str_eq(call.user->name, "a");
    cr_assert(vv_access_allows(&call, VV_RPC_WRITE));
    cr_assert_not(vv_access_allows(&call, VV_RPC_ADMIN));
    cr_assert(vv_access_allows(&call, VV_RPC_OPEN));

    write_file("tokens", token_line("a", "first", "read"));
    cr_assert(vv_ok(vv_access_reload(&access, &err)));
    cr_assert(vv_access_allows(&call, VV_RPC_READ));
    cr_assert_not(vv_access_check(&call, VV_RPC_WRITE, &why));
    cr_assert_eq(why.code, VV_RPC_PERMISSION_DENIED);

    write_file("tokens", token_line("a", "second", "read"));
    cr_assert(vv_ok(vv_access_reload(&access, &err)));
    cr_assert_not(vv_access_allows(&call, VV_RPC_READ));
    cr_assert_str_eq(call.user->name, "a", "the call keeps its user");
    vv_access_deinit(&access);
}

/* Send one operation and read the code of its answer; -1: it went well. */
static int pipeline_op(client_call *stream, Varve__V1__Op *op) {
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    request.id = 1;
    request.op = op;
    client_send(stream, client_pack(&request));
    vv_slice bytes;
    cr_assert(client_read(stream, &bytes));
    Varve__V1__PipelineResponse *r = varve__v1__pipeline_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(r);
    bool failed = r->result->result_case == VARVE__V1__PIPELINE_RESULT__RESULT_ERROR;
    int code = failed ? r->result->error->code : -1;
    varve__v1__pipeline_response__free_unpacked(r, NULL);
    return code;
}

Test(access, each_operation_of_a_pipeline_needs_its_right_at_its_time) {
    use_tokens(token_line("a", "first", "read"));
    fixture_start();
    client_call *stream = client_start_with(fx.client, "/varve.v1.KV/Pipeline", CLIENT_DEADLINE_MS,
                                            "authorization", "Bearer first");
    Varve__V1__Op put = VARVE__V1__OP__INIT, get = VARVE__V1__OP__INIT;
    Varve__V1__PutOp put_op = VARVE__V1__PUT_OP__INIT;
    Varve__V1__GetOp get_op = VARVE__V1__GET_OP__INIT;
    put_op.key = get_op.key = BYTES("key");
    put.op_case = VARVE__V1__OP__OP_PUT;
    put.put = &put_op;
    get.op_case = VARVE__V1__OP__OP_GET;
    get.get = &get_op;
    cr_assert_eq(pipeline_op(stream, &get), -1);
    cr_assert_eq(pipeline_op(stream, &put), VV_RPC_PERMISSION_DENIED);
    write_file("tokens", token_line("a", "first", "read,write"));
    reload(true);
    cr_assert_eq(pipeline_op(stream, &put), -1);
    write_file("tokens", token_line("a", "second", "read,write"));
    reload(true);
    cr_assert_eq(pipeline_op(stream, &put), VV_RPC_PERMISSION_DENIED);
    cr_assert_eq(pipeline_op(stream, &get), VV_RPC_PERMISSION_DENIED);
    client_half_close(stream);
    expect_end(stream, GRPC_STATUS_OK, NULL);
}

Test(access, a_scan_ends_when_its_token_is_taken_away) {
    char both[512];
    snprintf(both, sizeof both, "%s%s", token_line("a", "first", "read"),
             token_line("b", "second", "read,write"));
    use_tokens(both);
    fixture_start();
    enum { COUNT = 64, VALUE_BYTES = 256 << 10 };
    for (int i = 0; i < COUNT; i++) {
        Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
        char key[8];
        snprintf(key, sizeof key, "k%02d", i);
        put.key = BYTES(key);
        put.value = (ProtobufCBinaryData){.data = calloc(1, VALUE_BYTES), .len = VALUE_BYTES};
        put.durability = VARVE__V1__DURABILITY__DURABILITY_ASYNC;
        client_call *call = client_start_with(fx.client, "/varve.v1.KV/Put", CLIENT_DEADLINE_MS,
                                              "authorization", "Bearer second");
        client_send(call, client_pack(&put));
        free(put.value.data);
        client_half_close(call);
        drain_messages(call);
        expect_end(call, GRPC_STATUS_OK, NULL);
    }
    client_call *scan = start_as("/varve.v1.KV/Scan", "first", CLIENT_DEADLINE_MS);
    vv_slice message;
    cr_assert(client_read(scan, &message));
    write_file("tokens", token_line("b", "second", "read,write"));
    reload(true);
    drain_messages(scan); /* what was on its way */
    expect_end(scan, GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
}

Test(access, a_watch_ends_when_its_token_is_taken_away) {
    fx.config.watch_progress_interval_us = 20000;
    char both[512];
    snprintf(both, sizeof both, "%s%s", token_line("a", "first", "read"),
             token_line("b", "second", "read,write"));
    use_tokens(both);
    fixture_start();
    client_call *watch = start_as("/varve.v1.Watch/Watch", "first", CLIENT_DEADLINE_MS);
    vv_slice message;
    cr_assert(client_read(watch, &message));
    write_file("tokens", token_line("b", "second", "read,write"));
    reload(true);
    drain_messages(watch); /* at the latest with the next mark */
    expect_end(watch, GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
}

Test(access, a_condition_of_a_write_needs_the_right_to_read) {
    use_five();
    fixture_start();
    static const char with_condition[] = "\x0a\x06\x0a\x04\x0a\x02kk\x12\x06\x0a\x02kk\x10\x01";
    client_call *call = client_start_with(fx.client, "/varve.v1.KV/Write", CLIENT_DEADLINE_MS,
                                          "authorization", "Bearer token-writer");
    client_send(call, vv_slice_make(with_condition, sizeof with_condition - 1));
    client_half_close(call);
    expect_end(call, GRPC_STATUS_PERMISSION_DENIED, "ROLE_MISSING");
    call = client_start_with(fx.client, "/varve.v1.KV/Write", CLIENT_DEADLINE_MS, "authorization",
                             "Bearer token-both");
    client_send(call, vv_slice_make(with_condition, sizeof with_condition - 1));
    client_half_close(call);
    drain_messages(call);
    expect_end(call, GRPC_STATUS_OK, NULL);
}

/* ---- what is refused in a file ---- */

/* The LSN of a put that says it is sequence 1 of client 5. */
static uint64_t put_named(const char *token) {
    Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
    put.key = BYTES("key");
    put.value = BYTES("value");
    put.client_id = 5;
    put.sequence = 1;
    client_call *call =
        client_start_with(fx.client, "/varve.v1.KV/Put", CLIENT_DEADLINE_MS, "authorization", bearer(token));
    client_send(call, client_pack(&put));
    client_half_close(call);
    vv_slice bytes;
    cr_assert(client_read(call, &bytes));
    Varve__V1__WriteResponse *response = varve__v1__write_response__unpack(NULL, bytes.bytes, bytes.data);
    uint64_t lsn = response->lsn;
    varve__v1__write_response__free_unpacked(response, NULL);
    expect_end(call, GRPC_STATUS_OK, NULL);
    return lsn;
}

Test(access, nobody_can_pass_for_the_client_of_another_user) {
    use_five();
    fixture_start();
    cr_assert_eq(put_named("token-writer"), 1);
    cr_assert_eq(put_named("token-both"), 2, "not taken for the write of another");
    cr_assert_eq(put_named("token-writer"), 1);
    cr_assert_eq(put_named("token-both"), 2);
}

Test(access, a_file_with_a_mistake_stops_the_start_and_names_the_line) {
    static const char hash[] = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";
    static const struct {
        const char *format;
        const char *words;
    } bad[] = {
        {"\n# fine\nalice %s", "tokens:3: allowed is USER"},
        {"alice %s read more\n", "tokens:1: allowed is USER"},
        {"alice %s reed\n", "roles"},
        {"alice %s read,\n", "roles"},
        {"alice %s ,\n", "roles"},
        {"alice %s0 read\n", "64 hexadecimal"},
        {"alice my-secret read # %s\n", "64 hexadecimal"},
        {"alice anonymous read # %s\n", "only the user default"},
        {"default anonymous read\ndefault anonymous read # %s\n", "second anonymous"},
        {"alice certificate read\nalice certificate write # %s\n", "two certificate lines"},
        {"alice %1$s read\nbob %1$s write\n", "the same token"},
        {"\"alice %s read\n", "quote"},
        {"al\\ice %s read\n", "printable"},
        {"\"\" %s read\n", "printable"},
        {"a b c d e f g h i # %s\n", "too many words"},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        char text[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, bad[i].format, hash);
#pragma GCC diagnostic pop
        use_tokens(text);
        vv_error err = {""};
        vv_server *server;
        cr_expect_not(vv_ok(vv_server_start(&fx.config, fx.engine, NULL, &server, &err)), "%s", text);
        cr_expect_not_null(strstr(err.text, bad[i].words), "%s: %s", text, err.text);
        cr_expect_not_null(strstr(err.text, "TOKENS_FILE"), "%s", err.text);
        cr_expect_null(strstr(err.text, "my-secret"), "a token that was put there by mistake is not told");
    }
}

Test(access, names_with_spaces_stand_in_quotes) {
    char text[512];
    snprintf(text, sizeof text, "\t\"Jane Doe\" certificate read,write,admin,replica\r\n%s",
             token_line("\"Jane Doe\"", "jane", "read"));
    write_file("tokens", text);
    vv_users users;
    vv_grants *grants;
    vv_error err = {""};
    vv_user_limits none = {0};
    cr_assert(vv_ok(vv_users_init(&users, &none, NULL)));
    cr_assert(vv_ok(vv_grants_load(vv_tempdir_path("tokens"), &users, &grants, &err)), "%s", err.text);
    const vv_grant *grant = vv_grants_certificate(grants, "Jane Doe");
    cr_assert_not_null(grant);
    cr_assert_eq(grant->rights, VV_RIGHT_ALL);
    cr_assert_eq(grant->user, grants->tokens[0].user, "one user, known in two ways");
    cr_assert_null(vv_grants_certificate(grants, "Jane"));
    vv_grants_destroy(grants);
    vv_users_deinit(&users);
}

Test(access, many_tokens_are_each_found) {
    enum { COUNT = 2000 };
    FILE *f = fopen(vv_tempdir_path("tokens"), "w");
    for (int i = 0; i < COUNT; i++) {
        char user[32], token[32];
        snprintf(user, sizeof user, "user%d", i % 700);
        snprintf(token, sizeof token, "token%d", i);
        fputs(token_line(user, token, i % 2 ? "read" : "write"), f);
    }
    fclose(f);
    vv_users users;
    vv_grants *grants;
    vv_error err = {""};
    vv_user_limits none = {0};
    cr_assert(vv_ok(vv_users_init(&users, &none, NULL)));
    cr_assert(vv_ok(vv_grants_load(vv_tempdir_path("tokens"), &users, &grants, &err)), "%s", err.text);
    for (int i = 0; i < COUNT; i++) {
        char token[32], user[32];
        unsigned char digest[EVP_MAX_MD_SIZE];
        snprintf(token, sizeof token, "token%d", i);
        snprintf(user, sizeof user, "user%d", i % 700);
        EVP_Digest(token, strlen(token), digest, NULL, EVP_sha256(), NULL);
        const vv_grant *grant = vv_grants_token(grants, digest);
        cr_assert_not_null(grant);
        cr_assert_str_eq(grant->user->name, user);
        digest[31] ^= 1; /* the same place, another token */
        cr_assert_null(vv_grants_token(grants, digest));
    }
    vv_grants_destroy(grants);
    vv_users_deinit(&users);
}

/* ---- users ---- */

Test(access, users_beyond_the_bound_share_one) {
    vv_users users;
    vv_user_limits none = {0};
    cr_assert(vv_ok(vv_users_init(&users, &none, NULL)));
    char name[32];
    for (int i = 0; i < VV_USERS_MAX + 100; i++) {
        snprintf(name, sizeof name, "user%d", i);
        vv_user *user = vv_users_get(&users, vv_slice_str(name));
        if (i < VV_USERS_MAX - 1) { /* "default" is one */
            cr_assert_str_eq(user->name, name);
            cr_assert_eq(vv_users_get(&users, vv_slice_str(name)), user);
        } else {
            cr_assert_eq(user, users.others);
        }
    }
    cr_assert(vv_is(vv_rate_limit_set(&users, vv_slice_str("one more"), &none), VV_NO_SPACE));
    vv_users_deinit(&users);
}

/* ---- base/swap.h ---- */

typedef struct swap_test {
    vv_swap swap;
    _Atomic bool over;
} swap_test;

enum { ALIVE = 77 };

static void swap_read(void *arg) {
    swap_test *t = arg;
    while (!atomic_load(&t->over)) {
        vv_swap_place *place;
        int *object = vv_swap_enter(&t->swap, &place);
        cr_assert_eq(*object, ALIVE);
        vv_swap_leave(place);
    }
}

Test(access, what_is_swapped_out_has_no_readers) {
    swap_test t = {.over = false};
    int *object = malloc(sizeof *object);
    *object = ALIVE;
    vv_swap_init(&t.swap, object);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "reader", swap_read, &t)));
    for (int i = 0; i < 3000; i++) {
        int *next = malloc(sizeof *next);
        *next = ALIVE;
        int *old = vv_swap_replace(&t.swap, next);
        *old = 0;
        free(old);
    }
    atomic_store(&t.over, true);
    for (int i = 0; i < 3; i++)
        vv_thread_join(threads[i]);
    free(vv_swap_replace(&t.swap, NULL));
}
