#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "varve/v1/snapshots.pb-c.h"

TestSuite(scan, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

#define KEY_FORMAT "key%06zu"

typedef struct request {
    const char *start, *end, *prefix;
    bool reverse, keys_only;
    uint64_t limit, snapshot_id;
    ProtobufCBinaryData page_token;
} request;

static client_call *start_scan_with(client *c, request r, int64_t deadline_ms) {
    Varve__V1__ScanRequest scan = VARVE__V1__SCAN_REQUEST__INIT;
    scan.start = BYTES(r.start ? r.start : "");
    scan.end = BYTES(r.end ? r.end : "");
    scan.prefix = BYTES(r.prefix ? r.prefix : "");
    scan.reverse = r.reverse;
    scan.keys_only = r.keys_only;
    scan.limit = r.limit;
    scan.snapshot_id = r.snapshot_id;
    scan.page_token = r.page_token;
    client_call *call = client_start(c, "/varve.v1.KV/Scan", deadline_ms);
    client_send(call, client_pack(&scan));
    client_half_close(call);
    return call;
}

static client_call *start_scan(request r) {
    return start_scan_with(fx.client, r, CLIENT_DEADLINE_MS);
}

/* ---- what a scan gave ---- */

static struct {
    size_t entries, messages, bytes_max;
    char *keys; /* of up to 15 bytes, one behind the other with a zero each */
    size_t keys_bytes, value_bytes;
    ProtobufCBinaryData token; /* of the last message; freed with the next scan */
} seen;

static void see_nothing(void) {
    free(seen.keys);
    free(seen.token.data);
    memset(&seen, 0, sizeof seen);
}

static void see(vv_slice bytes) {
    Varve__V1__ScanResponse *response = varve__v1__scan_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(response);
    cr_assert_gt(response->n_entries, 0);
    for (size_t i = 0; i < response->n_entries; i++) {
        const Varve__V1__Entry *e = response->entries[i];
        cr_assert_leq(e->key.len, 15);
        cr_assert_gt(e->lsn, 0);
        seen.keys = realloc(seen.keys, seen.keys_bytes + 16);
        memcpy(seen.keys + seen.keys_bytes, e->key.data, e->key.len);
        seen.keys[seen.keys_bytes + e->key.len] = '\0';
        seen.keys_bytes += e->key.len + 1;
        seen.value_bytes += e->value.len;
    }
    seen.entries += response->n_entries;
    seen.messages++;
    seen.bytes_max = bytes.bytes > seen.bytes_max ? bytes.bytes : seen.bytes_max;
    free(seen.token.data);
    seen.token = (ProtobufCBinaryData){response->page_token.len, malloc(response->page_token.len + 1)};
    if (response->page_token.len > 0)
        memcpy(seen.token.data, response->page_token.data, response->page_token.len);
    varve__v1__scan_response__free_unpacked(response, NULL);
}

static bool read_one(client_call *call) {
    vv_slice bytes;
    if (!client_read(call, &bytes))
        return false;
    see(bytes);
    return true;
}

static void read_all(client_call *call, grpc_status_code code, const char *reason) {
    see_nothing();
    while (read_one(call))
        ;
    expect_end(call, code, reason);
}

static void scan_all(request r) {
    read_all(start_scan(r), GRPC_STATUS_OK, NULL);
}

/* Exactly the keys of numbers from `first` to `last`, in that order (which may be downward). */
static void expect_keys(size_t first, size_t last) {
    size_t count = (first < last ? last - first : first - last) + 1;
    cr_assert_eq(seen.entries, count);
    const char *key = seen.keys;
    for (size_t i = 0; i < count; i++) {
        char expected[32];
        snprintf(expected, sizeof expected, KEY_FORMAT, first < last ? first + i : first - i);
        cr_assert_str_eq(key, expected);
        key += strlen(key) + 1;
    }
}

/* ---- filling ---- */

enum { BATCH = 1000 };

static void write_batch(size_t first, size_t count, size_t value_bytes, bool delete) {
    static Varve__V1__Op ops[BATCH], *list[BATCH];
    static Varve__V1__PutOp puts[BATCH];
    static Varve__V1__DeleteOp deletes[BATCH];
    static char keys[BATCH][32];
    uint8_t *value = malloc(value_bytes + 1);
    memset(value, 'v', value_bytes);
    for (size_t i = 0; i < count; i++) {
        snprintf(keys[i], sizeof keys[i], KEY_FORMAT, first + i);
        varve__v1__op__init(list[i] = &ops[i]);
        varve__v1__put_op__init(&puts[i]);
        varve__v1__delete_op__init(&deletes[i]);
        deletes[i].key = puts[i].key = BYTES(keys[i]);
        puts[i].value = (ProtobufCBinaryData){value_bytes, value};
        ops[i].op_case = delete ? VARVE__V1__OP__OP_DELETE : VARVE__V1__OP__OP_PUT;
        if (delete)
            ops[i].delete_ = &deletes[i];
        else
            ops[i].put = &puts[i];
    }
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    write.ops = list;
    write.n_ops = count;
    write.durability = VARVE__V1__DURABILITY__DURABILITY_ASYNC;
    size_t bytes = varve__v1__write_request__get_packed_size(&write);
    uint8_t *packed = malloc(bytes);
    varve__v1__write_request__pack(&write, packed);
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/Write", vv_slice_make(packed, bytes), CLIENT_DEADLINE_MS);
    expect_end(call, GRPC_STATUS_OK, NULL);
    free(packed);
    free(value);
}

static void fill(size_t count, size_t value_bytes) {
    for (size_t i = 0; i < count; i += BATCH)
        write_batch(i, count - i < BATCH ? count - i : BATCH, value_bytes, false);
}

/* ---- ranges ---- */

Test(scan, shows_the_range_in_either_direction) {
    fixture_start();
    scan_all((request){0});
    cr_assert_eq(seen.messages, 0, "nothing is no message");
    fill(5000, 100);
    scan_all((request){0});
    expect_keys(0, 4999);
    cr_assert_gt(seen.messages, 5);
    cr_assert_leq(seen.bytes_max, 65536 + 100);
    cr_assert_eq(seen.value_bytes, 500000);
    cr_assert_eq(seen.token.len, 0, "there is nothing more");
    scan_all((request){.reverse = true});
    expect_keys(4999, 0);
    scan_all((request){.start = "key000100", .end = "key004200"});
    expect_keys(100, 4199);
    scan_all((request){.start = "key000100", .end = "key004200", .reverse = true});
    expect_keys(4199, 100);
    scan_all((request){.prefix = "key0023"});
    expect_keys(2300, 2399);
    scan_all((request){.prefix = "key0023", .start = "key002350", .reverse = true});
    expect_keys(2399, 2350);
    scan_all((request){.start = "key000100", .end = "key000100"});
    cr_assert_eq(seen.entries, 0);
    scan_all((request){.keys_only = true});
    expect_keys(0, 4999);
    cr_assert_eq(seen.value_bytes, 0);
    read_all(start_scan((request){.start = "b", .end = "a"}), GRPC_STATUS_INVALID_ARGUMENT, "BAD_RANGE");
    static char long_key[65537];
    memset(long_key, 'k', 65536);
    read_all(start_scan((request){.start = long_key}), GRPC_STATUS_INVALID_ARGUMENT, "KEY_TOO_LONG");
}

Test(scan, an_entry_larger_than_a_chunk_comes_alone) {
    fixture_start();
    write_batch(0, 1, 100, false);
    write_batch(1, 1, 2000000, false);
    write_batch(2, 1, 100, false);
    write_batch(3, 1, 3000000, false);
    scan_all((request){0});
    expect_keys(0, 3);
    cr_assert_eq(seen.messages, 4);
    scan_all((request){.keys_only = true});
    cr_assert_eq(seen.messages, 1);
}

Test(scan, shows_one_state) {
    fixture_start();
    fill(20000, 100);
    client_call *call = start_scan((request){0});
    see_nothing();
    cr_assert(read_one(call));
    write_batch(19000, BATCH, 0, true);
    while (read_one(call))
        ;
    expect_end(call, GRPC_STATUS_OK, NULL);
    expect_keys(0, 19999);
    scan_all((request){0});
    expect_keys(0, 18999);
}

/* ---- pages ---- */

static void expect_pages(request r, size_t first, size_t last, uint64_t limit) {
    size_t sign = first < last ? 1 : (size_t)-1, at = first;
    r.limit = limit;
    for (;;) {
        scan_all(r);
        size_t count = seen.entries;
        cr_assert(count > 0 && count <= limit);
        expect_keys(at, at + sign * (count - 1));
        at += sign * count;
        if (seen.token.len == 0)
            break;
        cr_assert_eq(count, limit);
        free(r.page_token.data);
        r.page_token = (ProtobufCBinaryData){seen.token.len, malloc(seen.token.len)};
        memcpy(r.page_token.data, seen.token.data, seen.token.len);
    }
    cr_assert_eq(at, last + sign);
    free(r.page_token.data);
}

Test(scan, goes_on_by_its_token) {
    fixture_start();
    fill(3000, 100);
    expect_pages((request){0}, 0, 2999, 1000); /* the last page is full, and has no token */
    expect_pages((request){0}, 0, 2999, 999);
    expect_pages((request){.reverse = true}, 2999, 0, 700);
    expect_pages((request){.prefix = "key0012"}, 1200, 1299, 1);
    expect_pages((request){.start = "key000010", .end = "key000013", .keys_only = true}, 10, 12, 2);
}

Test(scan, a_token_pins_the_state) {
    fixture_start();
    fill(1000, 10);
    scan_all((request){.limit = 100});
    request next = {.page_token = seen.token};
    seen.token = (ProtobufCBinaryData){0};
    write_batch(500, 500, 0, true);
    scan_all(next);
    expect_keys(100, 999);
    scan_all(next); /* again: the client has not heard the first time */
    expect_keys(100, 999);
    next.reverse = true;
    read_all(start_scan(next), GRPC_STATUS_INVALID_ARGUMENT, "BAD_PAGE_TOKEN");
    next.reverse = false;
    next.start = "key";
    read_all(start_scan(next), GRPC_STATUS_INVALID_ARGUMENT, "BAD_PAGE_TOKEN");
    next.start = NULL;
    next.snapshot_id = 7;
    read_all(start_scan(next), GRPC_STATUS_INVALID_ARGUMENT, "BAD_PAGE_TOKEN");
    next.snapshot_id = 0;
    next.page_token.data[3] ^= 1;
    read_all(start_scan(next), GRPC_STATUS_INVALID_ARGUMENT, "BAD_PAGE_TOKEN");
    next.page_token.data[3] ^= 1;
    next.page_token.len--;
    read_all(start_scan(next), GRPC_STATUS_INVALID_ARGUMENT, "BAD_PAGE_TOKEN");
    next.page_token.len++;
    scan_all(next);
    free(next.page_token.data);
}

Test(scan, a_broken_scan_goes_on_from_any_message) {
    fixture_start();
    fill(20000, 1000); /* more than goes into the network while nobody reads */
    client_call *call = start_scan((request){0});
    see_nothing();
    for (int i = 0; i < 3; i++)
        cr_assert(read_one(call));
    client_cancel(call);
    expect_end(call, GRPC_STATUS_CANCELLED, NULL);
    size_t before = seen.entries;
    request next = {.page_token = seen.token};
    seen.token = (ProtobufCBinaryData){0};
    scan_all(next);
    expect_keys(before, 19999);
    free(next.page_token.data);
}

Test(scan, a_token_whose_lease_is_over_says_so) {
    fx.config.page_token_lease_us = 1000;
    fixture_start();
    fill(1000, 10);
    scan_all((request){.limit = 100});
    request next = {.page_token = seen.token};
    seen.token = (ProtobufCBinaryData){0};
    client_call *call;
    for (;;) {
        call = start_scan(next);
        while (client_read(call, &(vv_slice){0}))
            ;
        if (client_wait(call) != GRPC_STATUS_OK)
            break;
        client_call_destroy(call);
    }
    expect_end(call, GRPC_STATUS_NOT_FOUND, "PAGE_TOKEN_EXPIRED");
    free(next.page_token.data);
}

Test(scan, the_lease_ends_with_a_scan_that_came_to_its_end) {
    fixture_start();
    fill(3000, 100);
    client_call *call = start_scan((request){0});
    see_nothing();
    cr_assert(read_one(call));
    request next = {.page_token = seen.token};
    seen.token = (ProtobufCBinaryData){0};
    cr_assert_gt(next.page_token.len, 0);
    while (read_one(call))
        ;
    expect_end(call, GRPC_STATUS_OK, NULL);
    expect_keys(0, 2999);
    read_all(start_scan(next), GRPC_STATUS_NOT_FOUND, "PAGE_TOKEN_EXPIRED");
    free(next.page_token.data);
}

Test(scan, without_room_for_a_lease_there_are_no_pages) {
    fx.config.snapshots_per_user_max = 1;
    fixture_start();
    fill(3000, 100);
    for (int i = 0; i < 5; i++) {
        scan_all((request){0});
        expect_keys(0, 2999);
        cr_assert_eq(seen.token.len, 0);
    }
    Varve__V1__OpenRequest open = VARVE__V1__OPEN_REQUEST__INIT;
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.Snapshots/Open", client_pack(&open), CLIENT_DEADLINE_MS);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__OpenResponse *opened = varve__v1__open_response__unpack(NULL, bytes.bytes, bytes.data);
    uint64_t id = opened->id;
    varve__v1__open_response__free_unpacked(opened, NULL);
    client_call_destroy(call);

    /* No room for another lease: the stream goes through, but it cannot be cut into pages. */
    scan_all((request){0});
    expect_keys(0, 2999);
    read_all(start_scan((request){.limit = 10}), GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS");
    expect_keys(0, 9);

    /* A scan of the client's own snapshot needs none. */
    write_batch(0, 100, 0, true);
    expect_pages((request){.snapshot_id = id}, 0, 2999, 1100);
    read_all(start_scan((request){.snapshot_id = id + 1}), GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
}

/* ---- fairness, cancellation, deadlines ---- */

Test(scan, slow_readers_hold_up_nobody) {
    fx.config.worker_threads = fx.config.rpc_threads = 1;
    fixture_start();
    fill(20000, 1000);
    enum { SLOW = 30 };
    client *others = client_create(vv_server_address(fx.server, 0));
    client_call *slow[SLOW];
    for (int i = 0; i < SLOW; i++) {
        slow[i] = start_scan_with(others, (request){0}, 100000);
        cr_assert(client_read(slow[i], &(vv_slice){0}));
    }
    for (int i = 0; i < 3; i++) {
        scan_all((request){0});
        expect_keys(0, 19999);
    }
    expect_end(call_put("other", "value"), GRPC_STATUS_OK, NULL);
    for (int i = 0; i < SLOW; i++) {
        if (i % 2)
            client_cancel(slow[i]);
        size_t messages = 1;
        while (client_read(slow[i], &(vv_slice){0}))
            messages++;
        cr_assert(i % 2 || messages > 300);
        expect_end(slow[i], i % 2 ? GRPC_STATUS_CANCELLED : GRPC_STATUS_OK, NULL);
    }
    client_destroy(others);
}

Test(scan, a_run_of_tombstones_is_passed_in_turns) {
    fx.config.worker_threads = 1;
    fixture_start();
    fill(60000, 10);
    for (size_t i = 1000; i < 60000; i += BATCH)
        write_batch(i, BATCH - (i == 59000), 0, true);
    scan_all((request){.start = "key001000"});
    expect_keys(59999, 59999);
    scan_all((request){.end = "key059999", .reverse = true});
    expect_keys(999, 0);
}

Test(scan, a_deadline_ends_a_scan_between_its_chunks) {
    fixture_start();
    fill(20000, 1000);
    client_call *call =
        start_scan_with(fx.client, (request){0}, 3000); /* for a busy machine, too, to begin */
    cr_assert(client_read(call, &(vv_slice){0}));
    expect_end(call, GRPC_STATUS_DEADLINE_EXCEEDED, NULL); /* nothing more is read meanwhile */
    scan_all((request){.limit = 10});
    expect_keys(0, 9);
}

Test(scan, a_client_that_takes_nothing_is_given_up) {
    fx.config.scan_idle_us = 100000;
    fx.config.snapshots_per_user_max = 1;
    fixture_start();
    fill(20000, 1000); /* more than the windows of HTTP/2 take */
    client_call *call = start_scan_with(fx.client, (request){0}, 100000);
    see_nothing();
    cr_assert(read_one(call));
    /* The server has ended the call when its lease may be pushed out by another. */
    Varve__V1__OpenRequest open = VARVE__V1__OPEN_REQUEST__INIT;
    client_call *opened;
    while (client_wait(opened = client_start_unary(fx.client, "/varve.v1.Snapshots/Open", client_pack(&open),
                                                   CLIENT_DEADLINE_MS)) != GRPC_STATUS_OK)
        client_call_destroy(opened);
    client_call_destroy(opened);
    while (read_one(call))
        ;
    cr_assert_lt(seen.entries, 20000);
    expect_end(call, GRPC_STATUS_ABORTED, "SCAN_IDLE");
}

Test(scan, many_scans_come_and_go) {
    fixture_start();
    fill(5000, 200);
    enum { ROUNDS = 20, COUNT = 20 };
    for (int round = 0; round < ROUNDS; round++) {
        client_call *calls[COUNT];
        for (int i = 0; i < COUNT; i++)
            calls[i] = start_scan_with(fx.client, (request){.reverse = i % 3 == 0}, 100000);
        for (int i = 0; i < COUNT; i++)
            for (int m = 0; m < i % 5; m++)
                cr_assert(client_read(calls[i], &(vv_slice){0}));
        for (int i = 0; i < COUNT; i++)
            client_cancel(calls[i]);
        for (int i = 0; i < COUNT; i++)
            expect_end(calls[i], GRPC_STATUS_CANCELLED, NULL);
    }
    scan_all((request){0});
    expect_keys(0, 4999);
}

Test(scan, a_drain_lets_scans_end) {
    fixture_start();
    fill(20000, 1000);
    client_call *call = start_scan((request){0});
    see_nothing();
    cr_assert(read_one(call));
    fixture_drain_begin();
    while (read_one(call))
        ;
    expect_end(call, GRPC_STATUS_OK, NULL);
    expect_keys(0, 19999);
    fixture_drain_end();
}
