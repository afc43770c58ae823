/*
 * varve.v1.Replication over the network, on the real engine: Hello, StreamWal and Confirm, with a database
 * beside the server's that applies what comes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/sync.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"
#include "varve/v1/replication.pb-c.h"

typedef Varve__V1__WalFrame frame;

static varve_db *replica; /* NULL: none */

static void fini(void) {
    if (replica)
        VV_ASSERT(varve_ok(varve_close(replica)));
    fixture_fini();
}

TestSuite(replication_service, .init = fixture_init, .fini = fini, .timeout = 120);

static void set(const char *key, const char *value) {
    varve_error words;
    cr_assert(varve_ok(varve_options_set(fx.engine, key, value, &words)), "%s", words.text);
}

/* ---- Hello ---- */

static client_call *hello_call(uint64_t promise_epoch, const char *id) {
    Varve__V1__HelloRequest request = VARVE__V1__HELLO_REQUEST__INIT;
    request.promise_epoch = promise_epoch;
    request.database_id = BYTES(id);
    client_call *call = client_start_unary(fx.client, "/varve.v1.Replication/Hello", client_pack(&request),
                                           CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

/* The caller frees it. */
static Varve__V1__HelloResponse *hello(uint64_t promise_epoch) {
    client_call *call = hello_call(promise_epoch, "");
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__HelloResponse *r = varve__v1__hello_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(r);
    client_call_destroy(call);
    return r;
}

static uint64_t own_epoch(void) {
    Varve__V1__HelloResponse *r = hello(0);
    uint64_t epoch = r->history[r->n_history - 1]->epoch;
    varve__v1__hello_response__free_unpacked(r, NULL);
    return epoch;
}

/* ---- StreamWal ---- */

static Varve__V1__StreamWalRequest after(uint64_t lsn) {
    Varve__V1__StreamWalRequest request = VARVE__V1__STREAM_WAL_REQUEST__INIT;
    request.after_lsn = lsn;
    return request;
}

static client_call *stream_on(client *c, const Varve__V1__StreamWalRequest *request) {
    client_call *call = client_start(c, "/varve.v1.Replication/StreamWal", 60000);
    client_send(call, client_pack(request));
    client_half_close(call);
    return call;
}

static client_call *stream(const Varve__V1__StreamWalRequest *request) {
    return stream_on(fx.client, request);
}

/* The next frame, its checksum compared; the caller frees it. NULL: the end. */
static frame *next(client_call *call) {
    vv_slice bytes;
    if (!client_read(call, &bytes))
        return NULL;
    frame *f = varve__v1__wal_frame__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(f);
    cr_assert_eq(f->records.len > 0, f->first_lsn > 0);
    if (f->records.len > 0) {
        cr_assert_eq(f->checksum, vv_checksum(f->records.data, f->records.len, 0));
        cr_assert_leq(f->first_lsn, f->last_lsn);
        cr_assert_leq(f->last_lsn, f->durable_lsn);
    }
    cr_assert_gt(f->unix_us, 0);
    return f;
}

static void drop(frame *f) {
    varve__v1__wal_frame__free_unpacked(f, NULL);
}

/* The first frame, which says what follows; returns the session. */
static uint64_t expect_first(client_call *call) {
    frame *f = next(call);
    cr_assert_not_null(f, "%d %s", client_wait(call), client_message(call));
    uint64_t session = f->session;
    cr_assert_eq(f->records.len, 0);
    cr_assert_geq(f->n_history, 1);
    cr_assert_eq(f->history[f->n_history - 1]->epoch, f->epoch);
    drop(f);
    return session;
}

/* Frames up to `lsn`, without a gap behind `told`, applied to the replica if there is one. */
static void receive(client_call *call, uint64_t told, uint64_t lsn) {
    while (told < lsn) {
        frame *f = next(call);
        cr_assert_not_null(f, "the stream has ended behind %" PRIu64 ": %d %s", told, client_wait(call),
                           client_message(call));
        if (f->records.len > 0) {
            cr_assert_eq(f->first_lsn, told + 1, "%" PRIu64 " behind %" PRIu64, f->first_lsn, told);
            told = f->last_lsn;
        }
        if (replica && f->records.len > 0) {
            uint64_t applied = 0;
            varve_error words = {""};
            varve_status st = varve_apply(replica, f->records.data, f->records.len, &applied, &words);
            cr_assert(varve_ok(st), "%s", words.text);
            cr_assert_eq(applied, told);
        }
        drop(f);
    }
    cr_assert_eq(told, lsn);
}

static void open_replica(void) {
    varve_error words = {""};
    cr_assert(varve_ok(varve_open(vv_tempdir_path("replica"), NULL, &replica, &words)), "%s", words.text);
}

static void expect_value(const char *key, const char *value) {
    varve_value v;
    cr_assert(varve_ok(varve_get(replica, key, strlen(key), &v)), "%s", key);
    cr_assert(vv_slice_equal(vv_slice_make(v.data, v.bytes), vv_slice_str(value)), "%s", key);
    varve_value_release(&v);
}

static void end(client_call *call) {
    client_cancel(call);
    frame *f;
    while ((f = next(call)) != NULL)
        drop(f);
    expect_end(call, GRPC_STATUS_CANCELLED, NULL);
}

Test(replication_service, hello_says_what_a_server_is) {
    fixture_start();
    uint64_t lsn = fixture_put("a", "1");
    Varve__V1__HelloResponse *r = hello(0);
    cr_assert_str_eq(r->role, "primary");
    cr_assert_eq(r->database_id.len, VARVE_DATABASE_ID_BYTES);
    cr_assert_eq(r->n_history, 1);
    cr_assert_eq(r->durable_lsn, lsn);
    cr_assert_eq(r->node.len, strlen("node-0123456789abcdef"));
    cr_assert_eq(r->primary.len, 0);
    varve__v1__hello_response__free_unpacked(r, NULL);
    expect_end(hello_call(0, "0123456789abcdef"), GRPC_STATUS_FAILED_PRECONDITION, "WRONG_DATABASE");
}

Test(replication_service, what_is_there_comes_in_order_and_can_be_applied) {
    fixture_start();
    open_replica();
    fixture_put("a", "1");
    fixture_write_batch("b", 100, 20);
    uint64_t lsn = fixture_put("a", "2");
    Varve__V1__StreamWalRequest request = after(0);
    request.until_end = true;
    client_call *call = stream(&request);
    cr_assert_eq(expect_first(call), 0, "without a slot there is no session");
    receive(call, 0, lsn);
    cr_assert_null(next(call));
    expect_end(call, GRPC_STATUS_OK, NULL);
    expect_value("a", "2");
    expect_value("b99", "vvvvvvvvvvvvvvvvvvvv");
}

Test(replication_service, what_is_written_is_sent_at_once) {
    fx.config.replication_heartbeat_us = UINT64_C(3600000000); /* not what brings it */
    fixture_start();
    open_replica();
    Varve__V1__StreamWalRequest request = after(0);
    client_call *call = stream(&request);
    expect_first(call);
    for (uint64_t i = 1; i <= 200; i++) {
        char value[16];
        snprintf(value, sizeof value, "%" PRIu64, i);
        cr_assert_eq(fixture_put("key", value), i);
        receive(call, i - 1, i);
    }
    expect_value("key", "200");
    end(call);
}

Test(replication_service, what_is_written_while_a_stream_comes_to_the_end_is_not_missed) {
    fx.config.replication_heartbeat_us = UINT64_C(3600000000);
    fixture_start();
    Varve__V1__StreamWalRequest request = after(0);
    client_call *call = stream(&request);
    expect_first(call);
    for (uint64_t lsn = 1; lsn <= 40; lsn += 2) {
        engine_tap_write_at_end("late");
        fixture_put("early", "1");
        receive(call, lsn - 1, lsn + 1);
    }
    end(call);
}

Test(replication_service, a_stream_can_begin_behind_every_lsn) {
    fixture_start();
    for (uint64_t i = 1; i <= 10; i++)
        fixture_put("single", "x");
    uint64_t first = 11, last = fixture_write_batch("batch", 5, 8);
    cr_assert_eq(last, 15);
    for (uint64_t i = 16; i <= 20; i++)
        fixture_put("single", "x");
    for (uint64_t k = 0; k <= 20; k++) {
        Varve__V1__StreamWalRequest request = after(k);
        request.until_end = true;
        client_call *call = stream(&request);
        expect_first(call);
        /* Whole, also if it begins before. */
        uint64_t told = k >= first && k < last ? first - 1 : k;
        receive(call, told, 20);
        cr_assert_null(next(call));
        expect_end(call, GRPC_STATUS_OK, NULL);
    }
    Varve__V1__StreamWalRequest request = after(21);
    client_call *call = stream(&request);
    cr_assert_null(next(call));
    expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "LSN_IN_FUTURE");
}

Test(replication_service, an_idle_stream_sends_heartbeats) {
    fx.config.replication_heartbeat_us = 20000;
    fixture_start();
    uint64_t lsn = fixture_put("a", "1");
    Varve__V1__StreamWalRequest request = after(lsn);
    client_call *call = stream(&request);
    expect_first(call);
    for (int i = 0; i < 5; i++) {
        frame *f = next(call);
        cr_assert_not_null(f);
        cr_assert_eq(f->first_lsn, 0);
        cr_assert_eq(f->durable_lsn, lsn);
        cr_assert_eq(f->committed_lsn, UINT64_MAX, "commits are not limited");
        cr_assert_eq(f->behind_bytes, 0);
        cr_assert_eq(f->n_history, 0);
        drop(f);
    }
    end(call);
}

Test(replication_service, a_slow_reader_gets_everything) {
    set("MEMTABLE_SIZE", "512MiB"); /* so that the log keeps it all */
    fixture_start();
    Varve__V1__StreamWalRequest request = after(0);
    client *other = client_create(vv_server_address(fx.server, 0));
    client_call *call = stream_on(other, &request);
    expect_first(call);
    uint64_t lsn = 0;
    for (int i = 0; i < 60; i++)
        lsn = fixture_write_batch("large", 1, 1 << 20);
    for (int i = 0; i < 2000; i++)
        lsn = fixture_put("small", "v");
    receive(call, 0, lsn);
    end(call);
    client_destroy(other);
}

Test(replication_service, many_streams_are_woken_together) {
    enum { STREAMS = 20, PUTS = 50 };
    fx.config.replication_heartbeat_us = UINT64_C(3600000000);
    fixture_start();
    client_call *calls[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        Varve__V1__StreamWalRequest request = after(0);
        calls[i] = stream(&request);
        expect_first(calls[i]);
    }
    for (uint64_t lsn = 1; lsn <= PUTS; lsn++) {
        fixture_put("a", "1");
        for (int i = 0; i < STREAMS; i++)
            receive(calls[i], lsn - 1, lsn);
    }
    for (int i = 0; i < STREAMS; i++)
        end(calls[i]);
}

/* A stream of what is no longer there; the log's own thread takes it away, soon after the flush. */
static client_call *until_trimmed(const Varve__V1__StreamWalRequest *request) {
    client_call *call;
    frame *first;
    while ((first = next(call = stream(request))) != NULL) {
        drop(first);
        end(call);
    }
    return call;
}

Test(replication_service, what_is_trimmed_says_so) {
    set("WAL_SEGMENT_SIZE", "1MiB");
    set("MEMTABLE_SIZE", "1MiB");
    fixture_start();
    for (int i = 0; i < 20; i++)
        fixture_write_batch("b", 1, 256 << 10);
    Varve__V1__FlushRequest flush = VARVE__V1__FLUSH_REQUEST__INIT;
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/Flush", client_pack(&flush), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
    Varve__V1__StreamWalRequest request = after(0);
    client_call *call = until_trimmed(&request);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OUT_OF_RANGE, "%s", client_message(call));
    uint64_t oldest = strtoull(client_detail(call, "oldest_lsn"), NULL, 10);
    cr_assert_gt(oldest, 1);
    expect_end(call, GRPC_STATUS_OUT_OF_RANGE, "LSN_TRIMMED");
    request = after(oldest - 1);
    call = stream(&request);
    expect_first(call);
    end(call);
}

Test(replication_service, another_database_is_refused) {
    fixture_start();
    Varve__V1__StreamWalRequest request = after(0);
    request.database_id = BYTES("0123456789abcdef");
    client_call *call = stream(&request);
    cr_assert_null(next(call));
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "WRONG_DATABASE");
}

Test(replication_service, a_log_that_has_parted_hears_where) {
    fixture_start();
    fixture_put("a", "1");
    fixture_put("a", "2");
    Varve__V1__HelloResponse *us = hello(0);
    Varve__V1__Epoch other = VARVE__V1__EPOCH__INIT;
    Varve__V1__Epoch *history[2] = {us->history[0], &other};
    other.epoch = us->history[0]->epoch + 1;
    other.first_lsn = 2; /* written by another primary from LSN 2 on */
    other.id = 4711;
    Varve__V1__StreamWalRequest request = after(2);
    request.history = history;
    request.n_history = 2;
    client_call *call = stream(&request);
    cr_assert_null(next(call));
    client_wait(call);
    cr_assert_str_eq(client_detail(call, "common_lsn"), "1");
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "DIVERGED");

    /* Up to where it is the same it is fine. */
    request.n_history = 1;
    call = stream(&request);
    expect_first(call);
    end(call);

    /* More than this server has. */
    request.after_lsn = 3;
    call = stream(&request);
    cr_assert_null(next(call));
    client_wait(call);
    cr_assert_str_eq(client_detail(call, "common_lsn"), "2");
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "DIVERGED");

    /* Nothing in common. */
    history[0] = &other;
    other.epoch = us->history[0]->epoch;
    other.first_lsn = 1;
    request.after_lsn = 2;
    call = stream(&request);
    cr_assert_null(next(call));
    client_wait(call);
    cr_assert_str_eq(client_detail(call, "common_lsn"), "");
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "DIVERGED");
    varve__v1__hello_response__free_unpacked(us, NULL);
}

Test(replication_service, a_primary_that_hears_of_a_higher_epoch_is_superseded) {
    fixture_start();
    fixture_put("a", "1");
    uint64_t epoch = own_epoch();
    Varve__V1__StreamWalRequest request = after(0);
    client_call *other = stream(&request);
    expect_first(other);
    request.promised_epoch = epoch + 2;
    client_call *call = stream(&request);
    cr_assert_null(next(call));
    client_wait(call);
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, epoch + 2);
    cr_assert_str_eq(client_detail(call, "epoch"), text);
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "EPOCH_TOO_OLD");
    frame *f;
    while ((f = next(other)) != NULL)
        drop(f);
    expect_end(other, GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    Varve__V1__HelloResponse *r = hello(0);
    cr_assert_str_eq(r->role, "superseded");
    cr_assert_eq(r->promised_epoch, epoch + 2);
    varve__v1__hello_response__free_unpacked(r, NULL);
    /* Also after a restart. */
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fixture_start();
    r = hello(0);
    cr_assert_str_eq(r->role, "superseded");
    varve__v1__hello_response__free_unpacked(r, NULL);
}

Test(replication_service, an_epoch_is_promised_once) {
    fixture_start();
    uint64_t epoch = own_epoch();
    expect_end(hello_call(epoch, ""), GRPC_STATUS_FAILED_PRECONDITION, "EPOCH_TOO_OLD");
    cr_assert_eq(own_epoch(), epoch);
    Varve__V1__HelloResponse *r = hello(epoch + 3);
    cr_assert_eq(r->promised_epoch, epoch + 3);
    cr_assert_str_eq(r->role, "superseded");
    varve__v1__hello_response__free_unpacked(r, NULL);
    client_call *call = hello_call(epoch + 3, "");
    client_wait(call);
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, epoch + 3);
    cr_assert_str_eq(client_detail(call, "epoch"), text);
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "EPOCH_TOO_OLD");
    r = hello(epoch + 4);
    cr_assert_eq(r->promised_epoch, epoch + 4);
    varve__v1__hello_response__free_unpacked(r, NULL);
}

Test(replication_service, slots_have_names) {
    fixture_start();
    const char *const bad[] = {"a b", "archive", "x/y", "\xc3\xa4"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        Varve__V1__StreamWalRequest request = after(0);
        request.slot = BYTES(bad[i]);
        client_call *call = stream(&request);
        cr_assert_null(next(call));
        expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "BAD_SLOT");
    }
}

Test(replication_service, a_drain_ends_streams) {
    fixture_start();
    Varve__V1__StreamWalRequest request = after(0);
    client_call *idle = stream(&request);
    expect_first(idle);
    fixture_drain_begin();
    frame *f;
    while ((f = next(idle)) != NULL)
        drop(f);
    expect_end(idle, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
}

Test(replication_service, a_confirmation_needs_a_session) {
    fixture_start();
    Varve__V1__ConfirmRequest request = VARVE__V1__CONFIRM_REQUEST__INIT;
    request.session = 5;
    request.durable_lsn = 1;
    expect_end(client_start_unary(fx.client, "/varve.v1.Replication/Confirm", client_pack(&request),
                                  CLIENT_DEADLINE_MS),
               GRPC_STATUS_FAILED_PRECONDITION, "SESSION_UNKNOWN");
}

/* ---- slots and sessions ---- */

static client_call *confirm_call(uint64_t session, uint64_t lsn) {
    Varve__V1__ConfirmRequest request = VARVE__V1__CONFIRM_REQUEST__INIT;
    request.session = session;
    request.durable_lsn = lsn;
    client_call *call = client_start_unary(fx.client, "/varve.v1.Replication/Confirm", client_pack(&request),
                                           CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

static void confirm(uint64_t session, uint64_t lsn) {
    expect_end(confirm_call(session, lsn), GRPC_STATUS_OK, NULL);
}

static client_call *follow(const char *slot, uint64_t after_lsn, uint64_t *session_out) {
    Varve__V1__StreamWalRequest request = after(after_lsn);
    request.slot = BYTES(slot);
    client_call *call = stream(&request);
    *session_out = expect_first(call);
    cr_assert_neq(*session_out, 0);
    return call;
}

/* The caller frees it. */
static Varve__V1__StatusResponse *status(void) {
    Varve__V1__StatusRequest request = VARVE__V1__STATUS_REQUEST__INIT;
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.Admin/Status", client_pack(&request), CLIENT_DEADLINE_MS);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__StatusResponse *r = varve__v1__status_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(r);
    client_call_destroy(call);
    return r;
}

static void expect_replica(bool connected, uint64_t confirmed_lsn) {
    Varve__V1__StatusResponse *r = status();
    cr_assert_eq(r->n_replicas, 1);
    cr_assert_eq(r->replicas[0]->connected, connected);
    cr_assert_eq(r->replicas[0]->confirmed_lsn, confirmed_lsn);
    cr_assert_eq(r->replicas[0]->lag_lsn, r->durable_lsn - confirmed_lsn);
    cr_assert_eq(r->replicas[0]->peer[0] != '\0', connected);
    varve__v1__status_response__free_unpacked(r, NULL);
}

Test(replication_service, a_slot_holds_the_log_and_moves_with_confirmations) {
    set("WAL_SEGMENT_SIZE", "1MiB");
    set("MEMTABLE_SIZE", "1MiB");
    fixture_start();
    uint64_t session, lsn = 0;
    client_call *call = follow("f1", 0, &session);
    for (int i = 0; i < 20; i++)
        lsn = fixture_write_batch("b", 1, 256 << 10);
    receive(call, 0, 3);
    confirm(session, 3);
    expect_replica(true, 3);
    end(call);
    Varve__V1__FlushRequest flush = VARVE__V1__FLUSH_REQUEST__INIT;
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/Flush", client_pack(&flush), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
    call = follow("f1", 3, &session);
    receive(call, 3, lsn);
    confirm(session, lsn);
    expect_replica(true, lsn);
    end(call);
}

Test(replication_service, a_newer_stream_takes_the_slot) {
    fixture_start();
    uint64_t first, second;
    client_call *older = follow("f1", 0, &first);
    client_call *newer = follow("f1", 0, &second);
    cr_assert_neq(first, second);
    frame *f;
    while ((f = next(older)) != NULL)
        drop(f);
    expect_end(older, GRPC_STATUS_FAILED_PRECONDITION, "SESSION_UNKNOWN");
    uint64_t lsn = fixture_put("a", "1");
    receive(newer, 0, lsn);
    expect_end(confirm_call(first, lsn), GRPC_STATUS_FAILED_PRECONDITION, "SESSION_UNKNOWN");
    confirm(second, lsn);
    expect_replica(true, lsn);
    end(newer);
    expect_end(confirm_call(second, lsn), GRPC_STATUS_FAILED_PRECONDITION, "SESSION_UNKNOWN");
    expect_replica(false, lsn);
}

Test(replication_service, a_slot_that_was_lost_ends_the_session) {
    set("WAL_SEGMENT_SIZE", "1MiB");
    set("MEMTABLE_SIZE", "1MiB");
    set("WAL_RETENTION_MAX", "2MiB");
    fixture_start();
    uint64_t session;
    client_call *call = follow("f1", 0, &session);
    for (int i = 0; i < 40; i++)
        fixture_write_batch("b", 1, 256 << 10);
    Varve__V1__FlushRequest flush = VARVE__V1__FLUSH_REQUEST__INIT;
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/Flush", client_pack(&flush), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
    bool lost = false;
    while (!lost) { /* soon: the log's own thread sees it */
        Varve__V1__StatusResponse *r = status();
        cr_assert_eq(r->n_replicas, 1);
        lost = r->replicas[0]->lost;
        varve__v1__status_response__free_unpacked(r, NULL);
    }
    expect_end(confirm_call(session, 1), GRPC_STATUS_FAILED_PRECONDITION, "SESSION_UNKNOWN");
    frame *f;
    while ((f = next(call)) != NULL)
        drop(f);
    grpc_status_code code = client_wait(call);
    cr_assert(code == GRPC_STATUS_FAILED_PRECONDITION || code == GRPC_STATUS_OUT_OF_RANGE);
    client_call_destroy(call);
    /* Back again, it hears that it has to begin anew. */
    Varve__V1__StreamWalRequest request = after(1);
    expect_end(until_trimmed(&request), GRPC_STATUS_OUT_OF_RANGE, "LSN_TRIMMED");
    request.slot = BYTES("f1");
    call = stream(&request);
    cr_assert_null(next(call));
    client_wait(call);
    cr_assert_gt(strtoull(client_detail(call, "oldest_lsn"), NULL, 10), 2);
    expect_end(call, GRPC_STATUS_OUT_OF_RANGE, "LSN_TRIMMED");
}

/* ---- quorum ---- */

static uint64_t committed_by(uint64_t session, uint64_t lsn) {
    client_call *call = confirm_call(session, lsn);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__ConfirmResponse *r = varve__v1__confirm_response__unpack(NULL, bytes.bytes, bytes.data);
    uint64_t committed = r->committed_lsn;
    varve__v1__confirm_response__free_unpacked(r, NULL);
    client_call_destroy(call);
    return committed;
}

/* Until a frame says that so much is visible at the primary. */
static void await_committed(client_call *call, uint64_t lsn) {
    uint64_t committed = 0;
    while (committed < lsn) {
        frame *f = next(call);
        cr_assert_not_null(f, "%d %s", client_wait(call), client_message(call));
        cr_assert_geq(f->committed_lsn, committed);
        committed = f->committed_lsn;
        drop(f);
    }
}

/* A write is seen and answered when `quorum` of three followers have it, and not before. */
static void check_quorum(uint64_t quorum) {
    enum { FOLLOWERS = 3 };
    fx.config.quorum = quorum;
    fx.config.replication_heartbeat_us = UINT64_C(3600000000); /* what is visible is told at once */
    fixture_start();
    client_call *calls[FOLLOWERS];
    uint64_t sessions[FOLLOWERS];
    static const char *const slots[] = {"f0", "f1", "f2"};
    for (int i = 0; i < FOLLOWERS; i++)
        calls[i] = follow(slots[i], 0, &sessions[i]);
    client *writer = client_create(vv_server_address(fx.server, 0));
    for (uint64_t lsn = 1; lsn <= 20; lsn++) {
        char key[16];
        snprintf(key, sizeof key, "k%" PRIu64, lsn);
        Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
        request.key = BYTES(key);
        request.value = BYTES("v");
        client_call *write =
            client_start_unary(writer, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS);
        for (int i = 0; i < FOLLOWERS; i++)
            receive(calls[i], lsn - 1, lsn);
        for (uint64_t n = 0; n < quorum; n++) {
            cr_assert_null(get(key), "%s is seen with %" PRIu64 " of %" PRIu64, key, n, quorum);
            uint64_t session = sessions[(lsn + n) % FOLLOWERS];
            uint64_t committed = committed_by(session, lsn);
            if (n + 1 < quorum)
                cr_assert_lt(committed, lsn);
        }
        cr_assert_eq(fixture_lsn_of(write), lsn);
        cr_assert_str_eq(get(key), "v");
        for (int i = 0; i < FOLLOWERS; i++)
            await_committed(calls[i], lsn);
        for (int i = 0; i < FOLLOWERS; i++)
            confirm(sessions[i], lsn);
    }
    for (int i = 0; i < FOLLOWERS; i++)
        end(calls[i]);
    client_destroy(writer);
}

Test(replication_service, one_of_three_followers_makes_a_quorum) {
    check_quorum(1);
}

Test(replication_service, two_of_three_followers_make_a_quorum) {
    check_quorum(2);
}

Test(replication_service, all_of_three_followers_make_a_quorum) {
    check_quorum(3);
}

Test(replication_service, a_follower_counts_once) {
    fx.config.quorum = 2;
    fixture_start();
    uint64_t session;
    client_call *write = start_put("a", "1", CLIENT_DEADLINE_MS);
    for (int i = 0; i < 3; i++) {
        client_call *call = follow("f1", 0, &session);
        receive(call, 0, 1);
        cr_assert_lt(committed_by(session, 1), 1);
        end(call);
    }
    cr_assert_null(get("a"));
    client_call *call = follow("f2", 0, &session); /* the first one's confirmation counts still */
    confirm(session, 1);
    cr_assert_eq(fixture_lsn_of(write), 1);
    end(call);
}

Test(replication_service, a_write_that_nobody_confirms_is_unknown_and_stays) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 50000;
    fixture_start();
    expect_end(call_put("a", "1"), GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    cr_assert_null(get("a"));
    uint64_t session;
    client_call *call = follow("f1", 0, &session);
    receive(call, 0, 1);
    confirm(session, 1);
    await_committed(call, 1);
    cr_assert_str_eq(get("a"), "1");
    end(call);
}

static const char *health(void) {
    client_call *call = client_start_unary(fx.client, "/grpc.health.v1.Health/Check", vv_slice_make("", 0),
                                           CLIENT_DEADLINE_MS);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    bool serving = vv_slice_equal(bytes, vv_slice_make("\x08\x01", 2));
    client_call_destroy(call);
    return serving ? "SERVING" : "NOT_SERVING";
}

Test(replication_service, reads_after_a_restart_wait_until_they_see_what_was_there) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 50000;
    fixture_start();
    expect_end(call_put("a", "1"), GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fixture_start();
    expect_end(call_get("a"), GRPC_STATUS_UNAVAILABLE, "NOT_CAUGHT_UP");
    cr_assert_str_eq(health(), "NOT_SERVING");
    uint64_t session;
    client_call *call = follow("f1", 0, &session);
    receive(call, 0, 1);
    confirm(session, 1);
    await_committed(call, 1);
    cr_assert_str_eq(get("a"), "1");
    while (strcmp(health(), "SERVING") != 0) /* told behind the first read that is let in */
        continue;
    end(call);
}

Test(replication_service, a_superseded_primary_confirms_nothing_any_more) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 500000;
    fixture_start();
    uint64_t session;
    client_call *call = follow("f1", 0, &session);
    client *writer = client_create(vv_server_address(fx.server, 0));
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    request.key = BYTES("a");
    client_call *write =
        client_start_unary(writer, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS);
    receive(call, 0, 1);
    Varve__V1__HelloResponse *r = hello(own_epoch() + 1);
    cr_assert_eq(r->durable_lsn, 1);
    varve__v1__hello_response__free_unpacked(r, NULL);
    expect_end(confirm_call(session, 1), GRPC_STATUS_FAILED_PRECONDITION, "SESSION_UNKNOWN");
    expect_end(write, GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    expect_end(call_put("b", "1"), GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    frame *f;
    while ((f = next(call)) != NULL)
        drop(f);
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    client_destroy(writer);
}

Test(replication_service, a_drain_lets_followers_confirm_what_is_in_flight) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 10000000;
    fixture_start();
    uint64_t session;
    client_call *call = follow("f1", 0, &session);
    client *writer = client_create(vv_server_address(fx.server, 0));
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    request.key = BYTES("a");
    client_call *write =
        client_start_unary(writer, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS);
    receive(call, 0, 1);
    fixture_drain_begin();
    while (strcmp(health(), "SERVING") == 0)
        continue;
    confirm(session, 1);
    cr_assert_eq(fixture_lsn_of(write), 1);
    frame *f;
    while ((f = next(call)) != NULL)
        drop(f);
    expect_end(call, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
    client_destroy(writer);
}

/* ---- at random ---- */

/* Streams that break off and go on where they were, while small writes, large ones and batches come: none has
 * a gap, and what was applied of one of them is the same database. */
Test(replication_service, streams_that_break_off_at_random_miss_nothing) {
    enum { STREAMS = 3, STEPS = 600 };
    struct drand48_data random;
    long r;
    srand48_r((long)vv_test_seed(), &random);
    fixture_start();
    open_replica();
    client_call *calls[STREAMS] = {NULL};
    uint64_t told[STREAMS] = {0}, lsn = 0;
    varve_db *applies = replica;
    for (int step = 0; step < STEPS; step++) {
        lrand48_r(&random, &r);
        int i = (int)(r >> 8) % STREAMS;
        if (!calls[i]) {
            Varve__V1__StreamWalRequest request = after(told[i]);
            calls[i] = stream(&request);
            expect_first(calls[i]);
        }
        switch (r % 8) {
        case 0:
            lsn = fixture_write_batch("batch", 1 + (size_t)(r >> 12) % 200, (size_t)(r >> 20) % 300);
            break;
        case 1: lsn = fixture_write_batch("large", 1, (size_t)(r >> 8) % (200 << 10)); break;
        case 2:
            end(calls[i]);
            calls[i] = NULL;
            break;
        case 3:
            replica = i == 0 ? applies : NULL; /* the first one's */
            receive(calls[i], told[i], lsn);
            replica = applies;
            told[i] = lsn;
            break;
        default: lsn = fixture_put("single", "x"); break;
        }
    }
    for (int i = 0; i < STREAMS; i++) {
        if (!calls[i]) {
            Varve__V1__StreamWalRequest request = after(told[i]);
            calls[i] = stream(&request);
            expect_first(calls[i]);
        }
        replica = i == 0 ? applies : NULL;
        receive(calls[i], told[i], lsn);
        replica = applies;
        end(calls[i]);
    }
    cr_assert_eq(varve_durable_lsn(replica), lsn);
    expect_value("single", "x");
}
