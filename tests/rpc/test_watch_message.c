/*
 * WatchResponse packed by hand, read back by protobuf-c.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "engine/kv/record.h"
#include "rpc/watch_message.h"
#include "tests/support/tempdir.h"
#include "varve/v1/watch.pb-c.h"

/* A batch as the log has it. */
typedef struct batch {
    uint8_t *bytes;
    size_t used;
    varve_wal_batch wal;
} batch;

static void add(batch *b, vv_kind kind, vv_slice key, vv_slice value, uint64_t expires_unix_ms) {
    vv_entry e = {.kind = (uint8_t)kind, .key = key, .value = value, .expires_unix_ms = expires_unix_ms};
    b->bytes = realloc(b->bytes, b->used + VV_OP_HEAD_BYTES + key.bytes + value.bytes + 1);
    vv_op_head_encode(b->bytes + b->used, &e);
    b->used += VV_OP_HEAD_BYTES;
    if (key.bytes)
        memcpy(b->bytes + b->used, key.data, key.bytes);
    b->used += key.bytes;
    if (value.bytes)
        memcpy(b->bytes + b->used, value.data, value.bytes);
    b->used += value.bytes;
    b->wal.op_count++;
    b->wal.last_lsn = b->wal.first_lsn + b->wal.op_count - 1;
    b->wal.ops = b->bytes;
    b->wal.ops_bytes = b->used;
}

static Varve__V1__WatchResponse *read_back(const vv_watch_message *m, uint64_t lsn) {
    uint8_t rest[VV_WATCH_REST_BYTES_MAX];
    size_t rest_bytes = vv_watch_message_rest(rest, lsn);
    cr_assert_leq(rest_bytes, sizeof rest);
    uint8_t *all = malloc(rest_bytes + m->bytes + 1);
    memcpy(all, rest, rest_bytes);
    if (m->bytes)
        memcpy(all + rest_bytes, m->data, m->bytes);
    Varve__V1__WatchResponse *r = varve__v1__watch_response__unpack(NULL, rest_bytes + m->bytes, all);
    free(all);
    cr_assert_not_null(r);
    cr_assert_eq(r->lsn, lsn);
    return r;
}

static bool same(ProtobufCBinaryData a, vv_slice b) {
    return a.len == b.bytes && (b.bytes == 0 || memcmp(a.data, b.data, b.bytes) == 0);
}

static const vv_watch_range everything;

Test(watch_message, batches_of_any_shape_come_back) {
    uint64_t seed = vv_test_seed();
    uint8_t *pool = malloc(1 << 20);
    for (size_t i = 0; i < 1 << 20; i++)
        pool[i] = (uint8_t)vv_test_random(&seed);
    static const size_t key_sizes[] = {1, 2, 100, 127, 128, 65535};
    static const size_t value_sizes[] = {0, 1, 127, 128, 16383, 16384, 300000};
    vv_watch_message m = {0};
    for (int round = 0; round < 50; round++) {
        batch b = {.wal.first_lsn = round % 5 ? 1 + vv_test_random(&seed) % 100000 : UINT64_MAX - 100};
        vv_entry written[8];
        uint32_t count = 1 + (uint32_t)(vv_test_random(&seed) % 8);
        for (uint32_t i = 0; i < count; i++) {
            bool put = vv_test_random(&seed) % 3 != 0;
            written[i] = (vv_entry){
                .kind = put ? VV_KIND_PUT : VV_KIND_DELETE,
                .key =
                    vv_slice_make(pool + vv_test_random(&seed) % 1000, key_sizes[vv_test_random(&seed) % 6]),
                .value = vv_slice_make(pool + 5, put ? value_sizes[vv_test_random(&seed) % 7] : 0),
                .expires_unix_ms = put && vv_test_random(&seed) % 2 ? 5000 + vv_test_random(&seed) : 0};
            add(&b, (vv_kind)written[i].kind, written[i].key, written[i].value, written[i].expires_unix_ms);
        }
        cr_assert(varve_ok(vv_watch_message_add(&m, &b.wal, &everything, 4000)));
        Varve__V1__WatchResponse *r = read_back(&m, round ? b.wal.last_lsn : 0);
        cr_assert_eq(r->n_events, count);
        for (uint32_t i = 0; i < count; i++) {
            const Varve__V1__Event *e = r->events[i];
            cr_assert_eq(e->lsn, b.wal.first_lsn + i);
            cr_assert_eq(e->type == VARVE__V1__EVENT_TYPE__EVENT_TYPE_DELETE,
                         written[i].kind == VV_KIND_DELETE);
            cr_assert(same(e->key, written[i].key) && same(e->value, written[i].value));
            cr_assert_eq(e->expires_unix_ms, written[i].expires_unix_ms);
        }
        varve__v1__watch_response__free_unpacked(r, NULL);
        vv_watch_message_clear(&m, round % 2 ? 0 : 1 << 16);
        cr_assert_eq(m.bytes, 0);
        cr_assert_leq(m.capacity, 1 << 16);
        free(b.bytes);
    }
    vv_watch_message_clear(&m, 0);
    cr_assert_null(m.data);
    free(pool);
}

/* The keys of a, b, ba, bb, c, ca that a range has. */
static void expect_range(const char *start, const char *end, const char *prefix, const char *expected) {
    static const char *const keys[] = {"a", "b", "ba", "bb", "c", "ca"};
    vv_watch_range range = {vv_slice_str(start), vv_slice_str(end), vv_slice_str(prefix)};
    batch b = {.wal.first_lsn = 1};
    vv_watch_message m = {0};
    char got[64] = "";
    for (size_t i = 0; i < 6; i++)
        add(&b, VV_KIND_PUT, vv_slice_str(keys[i]), vv_slice_str("v"), 0);
    cr_assert(varve_ok(vv_watch_message_add(&m, &b.wal, &range, 0)));
    Varve__V1__WatchResponse *r = read_back(&m, 6);
    for (size_t i = 0; i < r->n_events; i++) {
        strncat(got, (const char *)r->events[i]->key.data, r->events[i]->key.len);
        strcat(got, " ");
    }
    cr_assert_str_eq(got, expected, "[%s, %s) under '%s'", start, end, prefix);
    varve__v1__watch_response__free_unpacked(r, NULL);
    vv_watch_message_clear(&m, 0);
    free(b.bytes);
}

Test(watch_message, only_what_is_in_the_range_is_told) {
    expect_range("", "", "", "a b ba bb c ca ");
    expect_range("b", "", "", "b ba bb c ca ");
    expect_range("", "b", "", "a ");
    expect_range("b", "c", "", "b ba bb ");
    expect_range("", "", "b", "b ba bb ");
    expect_range("ba", "bb", "b", "ba ");
    expect_range("c", "", "b", "");
    expect_range("b", "b", "", "");
    expect_range("", "", "bbb", "");
}

Test(watch_message, an_entry_that_has_expired_is_told_as_deleted) {
    batch b = {.wal.first_lsn = 7};
    vv_watch_message m = {0};
    add(&b, VV_KIND_PUT, vv_slice_str("past"), vv_slice_str("secret"), 1000);
    add(&b, VV_KIND_PUT, vv_slice_str("future"), vv_slice_str("v"), 1001);
    cr_assert(varve_ok(vv_watch_message_add(&m, &b.wal, &everything, 1000)));
    Varve__V1__WatchResponse *r = read_back(&m, 8);
    cr_assert_eq(r->n_events, 2);
    cr_assert_eq(r->events[0]->type, VARVE__V1__EVENT_TYPE__EVENT_TYPE_DELETE);
    cr_assert_eq(r->events[0]->value.len, 0);
    cr_assert_eq(r->events[0]->expires_unix_ms, 0);
    cr_assert_eq(r->events[1]->type, VARVE__V1__EVENT_TYPE__EVENT_TYPE_PUT);
    cr_assert_eq(r->events[1]->expires_unix_ms, 1001);
    varve__v1__watch_response__free_unpacked(r, NULL);
    vv_watch_message_clear(&m, 0);
    free(b.bytes);
}

Test(watch_message, a_batch_that_can_not_be_added_leaves_the_message_as_it_was) {
    static uint8_t value[5000];
    vv_watch_message m = {0};
    batch small = {.wal.first_lsn = 1}, large = {.wal.first_lsn = 2}, broken = {.wal.first_lsn = 2};
    add(&small, VV_KIND_PUT, vv_slice_str("k"), vv_slice_str("v"), 0);
    for (int i = 0; i < 3; i++)
        add(&large, VV_KIND_PUT, vv_slice_str("k"), vv_slice_make(value, sizeof value), 0);
    add(&broken, VV_KIND_PUT, vv_slice_str("k"), vv_slice_str("v"), 0);
    broken.wal.op_count = 2;
    cr_assert(varve_ok(vv_watch_message_add(&m, &small.wal, &everything, 0)));
    size_t bytes = m.bytes;
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_status st = vv_watch_message_add(&m, &large.wal, &everything, 0);
        vv_alloc_fail_at(0);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY);
        cr_assert_eq(m.bytes, bytes);
    }
    bytes = m.bytes;
    cr_assert_eq(vv_watch_message_add(&m, &broken.wal, &everything, 0).code, VARVE_CORRUPTION);
    cr_assert_eq(m.bytes, bytes);
    Varve__V1__WatchResponse *r = read_back(&m, 4);
    cr_assert_eq(r->n_events, 4);
    varve__v1__watch_response__free_unpacked(r, NULL);
    vv_watch_message_clear(&m, 0);
    free(small.bytes);
    free(large.bytes);
    free(broken.bytes);
}
