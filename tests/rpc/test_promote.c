/*
 * Promotions: which log is the newest, and servers of one group in one process, where the second one's
 * database is a backup of the first one's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <stdatomic.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sync.h"
#include "rpc/promote.h"
#include "tests/rpc/engine_tap.h"
#include "tests/rpc/fake_primary.h"
#include "tests/rpc/server_fixture.h"
#include "tests/rpc/tcp_proxy.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"
#include "varve/v1/replication.pb-c.h"

#define NOBODY "127.0.0.1:1"

/* The second server. */
static struct {
    vv_server_config config;
    varve_options *engine;
    vv_server *server;
    client *client;
} b;

static void init(void) {
    fixture_init();
    strcpy(fx.config.backup_dir, vv_tempdir_path("backups"));
    mkdir(fx.config.backup_dir, 0755);
    b.engine = varve_options_create();
}

static void fini(void) {
    if (b.client)
        client_destroy(b.client);
    if (b.server) {
        vv_server_drain(b.server);
        VV_ASSERT(vv_ok(vv_server_stop(b.server)));
    }
    varve_options_destroy(b.engine);
    fixture_fini();
}

TestSuite(promote, .init = init, .fini = fini, .timeout = 120);

static void put(const char *key) {
    expect_end(call_put(key, "v"), GRPC_STATUS_OK, NULL);
}

static client_call *admin(client *c, const char *method, vv_slice request) {
    char path[64];
    snprintf(path, sizeof path, "/varve.v1.Admin/%s", method);
    client_call *call = client_start_unary(c, path, request, CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

static void backup_as_b(void) {
    Varve__V1__BackupRequest request = VARVE__V1__BACKUP_REQUEST__INIT;
    request.name = BYTES("b");
    expect_end(admin(fx.client, "Backup", client_pack(&request)), GRPC_STATUS_OK, NULL);
    b.config = fx.config;
    strcpy(b.config.data, vv_tempdir_path("backups/b"));
}

static void add_peer(const char *address) {
    strcpy(b.config.peers[b.config.peer_count++], address);
}

static void start_b(const char *follow) {
    vv_error err = {""};
    strcpy(b.config.follow, follow);
    vv_status st = vv_server_start(&b.config, b.engine, NULL, &b.server, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    b.client = client_create(vv_server_address(b.server, 0));
}

static client_call *promote_at(client *c, bool force) {
    Varve__V1__PromoteRequest request = VARVE__V1__PROMOTE_REQUEST__INIT;
    request.force = force;
    return admin(c, "Promote", client_pack(&request));
}

static client_call *promote(bool force) {
    return promote_at(b.client, force);
}

/* As a candidate does, of which nothing is heard again. */
static void ask_for_promise(uint64_t epoch) {
    Varve__V1__HelloRequest request = VARVE__V1__HELLO_REQUEST__INIT;
    request.promise_epoch = epoch;
    expect_end(client_start_unary(fx.client, "/varve.v1.Replication/Hello", client_pack(&request),
                                  CLIENT_DEADLINE_MS),
               GRPC_STATUS_OK, NULL);
}

/* The epoch. */
static uint64_t promoted(client_call *call) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__PromoteResponse *r = varve__v1__promote_response__unpack(NULL, bytes.bytes, bytes.data);
    uint64_t epoch = r->epoch;
    varve__v1__promote_response__free_unpacked(r, NULL);
    client_call_destroy(call);
    return epoch;
}

/* The caller frees it. */
static Varve__V1__StatusResponse *status(client *c) {
    Varve__V1__StatusRequest request = VARVE__V1__STATUS_REQUEST__INIT;
    client_call *call = admin(c, "Status", client_pack(&request));
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__StatusResponse *r = varve__v1__status_response__unpack(NULL, bytes.bytes, bytes.data);
    client_call_destroy(call);
    return r;
}

static uint64_t last_lsn(client *c) {
    Varve__V1__StatusResponse *r = status(c);
    uint64_t lsn = r->last_lsn;
    varve__v1__status_response__free_unpacked(r, NULL);
    return lsn;
}

static void expect_role(client *c, const char *role) {
    Varve__V1__StatusResponse *r = status(c);
    cr_assert_str_eq(r->role, role);
    varve__v1__status_response__free_unpacked(r, NULL);
}

static void put_at(client *c, grpc_status_code code, const char *reason) {
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    request.key = BYTES("at");
    client_call *call = client_start_unary(c, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS);
    expect_end(call, code, reason);
}

static void await_lsn_at_b(uint64_t lsn) {
    uint64_t end_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (last_lsn(b.client) < lsn)
        cr_assert_lt(vv_clock_mono_ns(), end_ns, "the follower does not catch up");
}

static bool is_connected_b(void) {
    Varve__V1__StatusResponse *r = status(b.client);
    bool connected = r->connected;
    varve__v1__status_response__free_unpacked(r, NULL);
    return connected;
}

static void await_connected_b(void) {
    uint64_t end_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (!is_connected_b())
        cr_assert_lt(vv_clock_mono_ns(), end_ns, "it does not follow");
}

static bool is_role(client *c, const char *role) {
    Varve__V1__StatusResponse *r = status(c);
    bool same = strcmp(r->role, role) == 0;
    varve__v1__status_response__free_unpacked(r, NULL);
    return same;
}

/* ---- a load: many writes at a time, of both durabilities, until one is refused ---- */

#define LOAD_WINDOW 64
#define LOAD_MAX    1000000

static struct {
    pthread_t thread;
    _Atomic size_t acked; /* so far */
    size_t tried;
    bool ok[LOAD_MAX];
} load;

static void load_key(size_t number, char out[24]) {
    snprintf(out, 24, "load %zu", number);
}

static client_call *start_load_put(client *c, size_t number) {
    char key[24];
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    load_key(number, key);
    request.key = request.value = BYTES(key);
    if (number % 2 == 0)
        request.durability = VARVE__V1__DURABILITY__DURABILITY_ASYNC;
    /* Not by client_pack(), which is the test's thread's. */
    uint8_t packed[128];
    vv_slice bytes = vv_slice_make(packed, varve__v1__put_request__pack(&request, packed));
    return client_start_unary(c, "/varve.v1.KV/Put", bytes, CLIENT_DEADLINE_MS);
}

static void run_load(void *arg) {
    (void)arg;
    client *c = client_create(vv_server_address(fx.server, 0));
    client_call *calls[LOAD_WINDOW];
    bool refused = false;
    size_t answered = 0;
    for (; load.tried < LOAD_MAX && !refused; load.tried++) {
        if (load.tried >= LOAD_WINDOW) {
            client_call *oldest = calls[answered % LOAD_WINDOW];
            refused = client_wait(oldest) != GRPC_STATUS_OK;
            load.ok[answered++] = !refused;
            atomic_fetch_add(&load.acked, !refused);
            client_call_destroy(oldest);
        }
        calls[load.tried % LOAD_WINDOW] = start_load_put(c, load.tried);
    }
    for (; answered < load.tried; answered++) {
        load.ok[answered] = client_wait(calls[answered % LOAD_WINDOW]) == GRPC_STATUS_OK;
        client_call_destroy(calls[answered % LOAD_WINDOW]);
    }
    client_destroy(c);
}

static void await_load(size_t acked) {
    uint64_t end_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (atomic_load(&load.acked) < acked)
        cr_assert_lt(vv_clock_mono_ns(), end_ns, "the load does not go on");
}

static bool found_at_b(const char *key) {
    Varve__V1__GetRequest request = VARVE__V1__GET_REQUEST__INIT;
    request.key = BYTES(key);
    client_call *call =
        client_start_unary(b.client, "/varve.v1.KV/Get", client_pack(&request), CLIENT_DEADLINE_MS);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    bool found = client_response(call).bytes > 0;
    client_call_destroy(call);
    return found;
}

/* ---- tests ---- */

Test(promote, logs_are_compared_by_the_newest_epoch_that_they_have_reached) {
    const varve_epoch history[] = {{1, 1, 7}, {2, 60, 8}, {5, 81, 9}};
    const struct {
        uint64_t durable_lsn, epoch;
    } cases[] = {{0, 1}, {1, 1}, {58, 1}, {59, 2}, {60, 2}, {79, 2}, {80, 5}, {81, 5}, {500, 5}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        vv_log_end end = vv_log_end_of(history, 3, cases[i].durable_lsn);
        cr_assert_eq(end.epoch, cases[i].epoch, "%" PRIu64, cases[i].durable_lsn);
        cr_assert_eq(end.lsn, cases[i].durable_lsn);
    }
    vv_log_end a = {.epoch = 2, .lsn = 9}, c = {.epoch = 3, .lsn = 1};
    cr_assert_lt(vv_log_end_compare(a, c), 0);
    cr_assert_gt(vv_log_end_compare(c, a), 0);
    c.epoch = 2;
    cr_assert_gt(vv_log_end_compare(a, c), 0);
    cr_assert_eq(vv_log_end_compare(a, a), 0);
}

Test(promote, a_follower_that_has_everything_takes_over) {
    fixture_start();
    put("a");
    backup_as_b();
    put("b");
    add_peer(vv_server_address(fx.server, 0));
    start_b(vv_server_address(fx.server, 0));
    put_at(b.client, GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    await_lsn_at_b(2);
    uint64_t epoch = promoted(promote(false));
    cr_assert_gt(epoch, 1);
    expect_role(b.client, "primary");
    expect_role(fx.client, "superseded");
    put_at(b.client, GRPC_STATUS_OK, NULL);
    put_at(fx.client, GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    expect_end(promote(false), GRPC_STATUS_FAILED_PRECONDITION, "ALREADY_PRIMARY");
    Varve__V1__StatusResponse *r = status(b.client);
    cr_assert_eq(r->epoch, epoch);
    varve__v1__status_response__free_unpacked(r, NULL);
}

/* Others have all slots of the first server, so that the second one is told what it has, and gets none of it.
 */
static void take_all_slots(void) {
    for (int i = 0; i < VARVE_SLOTS_MAX; i++) {
        char slot[16];
        vv_slice first;
        snprintf(slot, sizeof slot, "other-%d", i);
        Varve__V1__StreamWalRequest request = VARVE__V1__STREAM_WAL_REQUEST__INIT;
        request.slot = BYTES(slot);
        client_call *call = client_start(fx.client, "/varve.v1.Replication/StreamWal", CLIENT_DEADLINE_MS);
        client_send(call, client_pack(&request));
        client_half_close(call);
        cr_assert(client_read(call, &first));
        client_cancel(call);
        while (client_read(call, &first))
            continue;
        client_call_destroy(call);
    }
}

Test(promote, who_has_less_than_another_is_refused_and_leaves_it_alone) {
    fixture_start();
    put("a");
    backup_as_b();
    put("b");
    take_all_slots();
    add_peer(vv_server_address(fx.server, 0));
    start_b(NOBODY);
    client_call *call = promote(false);
    client_wait(call);
    cr_assert_str_eq(client_detail(call, "peer"), vv_server_address(fx.server, 0));
    cr_assert_str_eq(client_detail(call, "lsn"), "2");
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "NOT_NEWEST");
    expect_role(b.client, "follower");
    expect_role(fx.client, "primary");
    put("c");
    promoted(promote(true));
    expect_role(b.client, "primary");
    expect_role(fx.client, "superseded");
}

Test(promote, with_a_quorum_enough_of_the_group_must_promise) {
    fixture_start();
    put("a");
    backup_as_b();
    b.config.quorum = 1;
    add_peer(NOBODY);
    add_peer("127.0.0.1:2");
    start_b(NOBODY);
    expect_end(promote(false), GRPC_STATUS_FAILED_PRECONDITION, "TOO_FEW_PEERS");
    expect_role(b.client, "follower");
}

Test(promote, with_a_quorum_and_no_peers_nobody_knows) {
    fixture_start();
    put("a");
    backup_as_b();
    b.config.quorum = 1;
    start_b(NOBODY);
    expect_end(promote(false), GRPC_STATUS_FAILED_PRECONDITION, "TOO_FEW_PEERS");
    expect_role(b.client, "follower");
}

Test(promote, a_server_of_another_database_is_no_peer) {
    fixture_start();
    put("a");
    b.config = fx.config;
    strcpy(b.config.data, vv_tempdir_path("other"));
    add_peer(vv_server_address(fx.server, 0));
    varve_db *db;
    varve_error words = {""};
    cr_assert(varve_ok(varve_open(b.config.data, NULL, &db, &words)), "%s", words.text);
    cr_assert(varve_ok(varve_close(db)));
    start_b(NOBODY);
    promoted(promote(false)); /* nobody in its group has more */
    expect_role(fx.client, "primary");
}

Test(promote, a_primary_under_load_hands_over_without_loss) {
    fixture_start();
    put("a");
    backup_as_b();
    put("b");
    add_peer(vv_server_address(fx.server, 0));
    start_b(vv_server_address(fx.server, 0));
    await_lsn_at_b(2);
    cr_assert(vv_ok(vv_thread_start(&load.thread, "load", run_load, NULL)));
    await_load(2000);
    client_call *call = promote(false);
    /* On a slow machine the follower may be too far behind just then; then nothing has happened. */
    for (int i = 0; i < 50 && client_wait(call) != GRPC_STATUS_OK && is_role(fx.client, "primary"); i++) {
        client_call_destroy(call);
        call = promote(false);
    }
    promoted(call);
    vv_thread_join(load.thread);
    expect_role(b.client, "primary");
    expect_role(fx.client, "superseded");
    size_t acked = 0;
    for (size_t i = 0; i < load.tried; i++) {
        char key[24];
        load_key(i, key);
        acked += load.ok[i];
        cr_assert(!load.ok[i] || found_at_b(key), "%s was acknowledged", key);
    }
    cr_assert_geq(acked, 2000);
    put_at(b.client, GRPC_STATUS_OK, NULL);
}

/* The other follower was faster: what it has is of the epoch that the primary writes, and comes from there.
 */
Test(promote, a_primary_hands_over_to_one_that_has_less_than_another_follower) {
    fixture_start();
    put("a");
    backup_as_b();
    fake_primary_start();
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    b.config.replication_timeout_us = 60 * 1000000;
    add_peer(vv_server_address(fx.server, 0));
    add_peer(fake_primary_address());
    start_b(tcp_proxy_address(link));
    await_lsn_at_b(1);
    await_connected_b();
    tcp_proxy_freeze(link, true);
    put("b");
    fake_words other = {.role = "follower", .durable_lsn = 2};
    varve_epoch history[VARVE_EPOCHS_MAX];
    other.history_count = varve_epochs_get(engine_tap_db(), history);
    memcpy(other.history, history, sizeof other.history);
    varve_database_id(engine_tap_db(), other.database_id);
    fake_primary_say(&other);
    promoted(promote(false));
    cr_assert(found_at_b("b"));
    expect_role(fx.client, "superseded");

    tcp_proxy_destroy(link);
    fake_primary_stop();
}

/* Of an epoch that the primary has not written: it has not got that. */
Test(promote, a_follower_that_has_reached_another_epoch_is_a_reason_to_refuse) {
    fixture_start();
    put("a");
    backup_as_b();
    fake_primary_start();
    add_peer(vv_server_address(fx.server, 0));
    add_peer(fake_primary_address());
    start_b(vv_server_address(fx.server, 0));
    await_lsn_at_b(1);
    await_connected_b();
    fake_words other = {.role = "follower", .durable_lsn = 2};
    varve_epoch history[VARVE_EPOCHS_MAX];
    size_t count = varve_epochs_get(engine_tap_db(), history);
    memcpy(other.history, history, sizeof other.history);
    other.history[count] = (varve_epoch){.epoch = history[count - 1].epoch + 1, .first_lsn = 2, .id = 99};
    other.history_count = count + 1;
    varve_database_id(engine_tap_db(), other.database_id);
    fake_primary_say(&other);
    expect_end(promote(false), GRPC_STATUS_FAILED_PRECONDITION, "NOT_NEWEST");
    expect_role(fx.client, "primary");
    fake_primary_stop();
}

Test(promote, what_is_acknowledged_before_it_is_durable_is_handed_over_too) {
    cr_assert(varve_ok(varve_options_set(fx.engine, "WAL_SYNC_INTERVAL", "60s", NULL)));
    fixture_start();
    put("a");
    backup_as_b();
    add_peer(vv_server_address(fx.server, 0));
    start_b(vv_server_address(fx.server, 0));
    await_lsn_at_b(1);
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    request.key = BYTES("soon");
    request.durability = VARVE__V1__DURABILITY__DURABILITY_ASYNC;
    expect_end(client_start_unary(fx.client, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS),
               GRPC_STATUS_OK, NULL);
    promoted(promote(false));
    cr_assert(found_at_b("soon"));
}

Test(promote, a_write_that_comes_behind_the_promise_is_not_acknowledged) {
    fixture_start();
    put("a");
    backup_as_b();
    add_peer(vv_server_address(fx.server, 0));
    start_b(vv_server_address(fx.server, 0));
    await_lsn_at_b(1);
    engine_tap_hold(true);
    client_call *late = start_put("late", "v", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(1);
    promoted(promote(false));
    engine_tap_hold(false);
    expect_end(late, GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    cr_assert(!found_at_b("late"));
}

Test(promote, what_a_superseded_primary_has_is_fetched_when_the_promotion_is_repeated) {
    fixture_start();
    put("a");
    backup_as_b();
    put("b");
    add_peer(vv_server_address(fx.server, 0));
    start_b(NOBODY);
    ask_for_promise(7);
    expect_role(fx.client, "superseded");
    engine_tap_fail_applies((varve_status){.code = VARVE_NO_SPACE});
    client_call *call = promote(false);
    client_wait(call);
    cr_assert(strstr(client_message(call), "promote again, here or there"), "%s", client_message(call));
    cr_assert_str_eq(client_detail(call, "lsn"), "2");
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "NOT_NEWEST");
    expect_role(b.client, "follower");
    engine_tap_fail_applies((varve_status){0});
    cr_assert_gt(promoted(promote(false)), 8);
    cr_assert(found_at_b("b"));
    put_at(b.client, GRPC_STATUS_OK, NULL);
}

Test(promote, a_superseded_primary_that_nobody_follows_is_promoted_again) {
    fixture_start();
    put("a");
    ask_for_promise(7);
    expect_end(call_put("b", "v"), GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    cr_assert_eq(promoted(promote_at(fx.client, false)), 8);
    expect_role(fx.client, "primary");
    put("b");
    cr_assert_str_eq(get("a"), "v");
}
