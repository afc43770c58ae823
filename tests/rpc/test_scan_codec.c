/* Chunks and page tokens, without a server. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "rpc/page_token.h"
#include "rpc/scan_chunk.h"
#include "tests/support/tempdir.h"
#include "varve/v1/kv.pb-c.h"

Test(scan_chunk, is_the_message_that_protobuf_c_makes) {
    static const size_t sizes[] = {0, 1, 100, 127, 128, 16383, 16384, 70000};
    static const uint64_t lsns[] = {0, 1, 127, 128, UINT64_MAX};
    static uint8_t bytes[70000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7);
    enum { COUNT = 40 };
    static Varve__V1__Entry entries[COUNT], *list[COUNT];
    Varve__V1__ScanResponse response = VARVE__V1__SCAN_RESPONSE__INIT;
    vv_scan_chunk chunk = {0};
    for (size_t i = 0; i < COUNT; i++) {
        varve__v1__entry__init(list[i] = &entries[i]);
        size_t value_bytes = sizes[i % VV_ARRAY_COUNT(sizes)];
        entries[i].key = (ProtobufCBinaryData){1 + sizes[(i / 8) % 7], bytes};
        entries[i].value = (ProtobufCBinaryData){value_bytes, value_bytes ? bytes : NULL};
        entries[i].lsn = lsns[i % VV_ARRAY_COUNT(lsns)];
        cr_assert(vv_ok(vv_scan_chunk_add(&chunk, vv_slice_make(bytes, entries[i].key.len),
                                          vv_slice_make(bytes, value_bytes), entries[i].lsn)));
        cr_assert_eq(vv_scan_chunk_last_key(&chunk).bytes, entries[i].key.len);
        cr_assert_eq(memcmp(vv_scan_chunk_last_key(&chunk).data, bytes, entries[i].key.len), 0);
        response.entries = list;
        response.n_entries = i + 1;
        cr_assert_eq(chunk.bytes, varve__v1__scan_response__get_packed_size(&response), "entry %zu", i);
    }
    uint8_t *token;
    cr_assert(vv_ok(vv_scan_chunk_add_token(&chunk, 200, 32, &token)));
    memcpy(token, bytes, 200);
    response.page_token = (ProtobufCBinaryData){200, bytes};
    uint8_t *packed = malloc(chunk.bytes);
    cr_assert_eq(varve__v1__scan_response__pack(&response, packed), chunk.bytes);
    cr_assert_eq(memcmp(packed, chunk.data, chunk.bytes), 0);
    free(packed);
    vv_free(chunk.data);
}

Test(scan_chunk, has_room_for_64_KiB_or_one_entry) {
    static uint8_t bytes[100000];
    vv_scan_chunk chunk = {0};
    vv_slice key = vv_slice_make("key", 3);
    cr_assert(vv_scan_chunk_has_room(&chunk, key, vv_slice_make(bytes, sizeof bytes)));
    while (vv_scan_chunk_has_room(&chunk, key, vv_slice_make(bytes, 100)))
        cr_assert(vv_ok(vv_scan_chunk_add(&chunk, key, vv_slice_make(bytes, 100), 1)));
    cr_assert(chunk.bytes <= VV_SCAN_CHUNK_BYTES && chunk.bytes > VV_SCAN_CHUNK_BYTES - 200);
    cr_assert(!vv_scan_chunk_has_room(&chunk, key, vv_slice_make(bytes, sizeof bytes)));
    vv_free(chunk.data);
}

/* ---- tokens ---- */

static const uint8_t secret[VV_PAGE_TOKEN_SECRET_BYTES] = {1, 2, 3};

static vv_page_scan scan_of(void) {
    return (vv_page_scan){.start = vv_slice_str("a"), .end = vv_slice_str("z"), .prefix = vv_slice_str("p")};
}

static vv_page_binding bind(vv_page_scan scan) {
    vv_page_binding binding;
    cr_assert(vv_ok(vv_page_binding_make(&scan, &binding)));
    return binding;
}

static vv_slice make_token(vv_slice key, uint8_t *to) {
    vv_page_token token = {.kind = VV_LEASE_PAGES, .lease_id = 0x123456789abcdef0, .key = key};
    vv_page_binding binding = bind(scan_of());
    cr_assert(vv_ok(vv_page_token_write(secret, &binding, &token, to)));
    return vv_slice_make(to, vv_page_token_bytes(&token));
}

static bool is_good(vv_page_scan scan, vv_slice bytes) {
    vv_page_token token;
    vv_page_binding binding = bind(scan);
    vv_status st = vv_page_token_read(secret, &binding, bytes, &token);
    cr_assert(vv_ok(st) || vv_is(st, VV_INVALID_ARGUMENT));
    return vv_ok(st);
}

Test(page_token, says_what_was_put_into_it) {
    static uint8_t key[VARVE_KEY_BYTES_MAX], buf[VARVE_KEY_BYTES_MAX + 100];
    memset(key, 'k', sizeof key);
    static const size_t sizes[] = {1, 5, 1000, VARVE_KEY_BYTES_MAX};
    for (size_t i = 0; i < VV_ARRAY_COUNT(sizes); i++) {
        vv_slice bytes = make_token(vv_slice_make(key, sizes[i]), buf);
        vv_page_token token;
        vv_page_binding binding = bind(scan_of());
        cr_assert(vv_ok(vv_page_token_read(secret, &binding, bytes, &token)));
        cr_assert_eq(token.kind, VV_LEASE_PAGES);
        cr_assert_eq(token.lease_id, 0x123456789abcdef0);
        cr_assert(vv_slice_equal(token.key, vv_slice_make(key, sizes[i])));
    }
}

Test(page_token, is_bound_to_its_scan) {
    uint8_t buf[200];
    vv_slice bytes = make_token(vv_slice_str("key"), buf);
    cr_assert(is_good(scan_of(), bytes));
    vv_page_scan other = scan_of();
    other.reverse = true;
    cr_assert(!is_good(other, bytes));
    other = scan_of();
    other.user = (const struct vv_user *)(const void *)buf;
    cr_assert(!is_good(other, bytes));
    other = scan_of();
    other.start = vv_slice_str("b");
    cr_assert(!is_good(other, bytes));
    other = scan_of();
    other.end = vv_slice_str("zz");
    cr_assert(!is_good(other, bytes));
    other = scan_of();
    other.prefix = vv_slice_str("");
    cr_assert(!is_good(other, bytes));
    /* The same bytes, cut elsewhere. */
    other = (vv_page_scan){.start = vv_slice_str("az"), .end = vv_slice_str(""), .prefix = vv_slice_str("p")};
    cr_assert(!is_good(other, bytes));
    vv_page_token token;
    vv_page_binding binding = bind(scan_of());
    uint8_t other_secret[sizeof secret] = {1, 2, 4};
    cr_assert(vv_is(vv_page_token_read(other_secret, &binding, bytes, &token), VV_INVALID_ARGUMENT));
}

Test(page_token, that_is_changed_cut_or_made_up_is_refused) {
    uint8_t buf[200];
    vv_slice bytes = make_token(vv_slice_str("key"), buf);
    for (size_t i = 0; i < bytes.bytes * 8; i++) {
        buf[i / 8] ^= (uint8_t)(1 << i % 8);
        cr_assert(!is_good(scan_of(), bytes), "bit %zu", i);
        buf[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t i = 0; i < bytes.bytes; i++)
        cr_assert(!is_good(scan_of(), vv_slice_make(buf, i)), "%zu bytes", i);
    buf[bytes.bytes] = 0;
    cr_assert(!is_good(scan_of(), vv_slice_make(buf, bytes.bytes + 1)));
    static uint8_t large[VARVE_KEY_BYTES_MAX + 100];
    cr_assert(!is_good(scan_of(), vv_slice_make(large, sizeof large)));
    cr_assert(is_good(scan_of(), bytes));
}
