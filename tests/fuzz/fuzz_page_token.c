/*
 * fuzz_page_token.c - where a scan goes on, as a client brings it back.
 *
 *   input   [flags:1][token]        flags   bit 0: the token's MAC is made right
 *                                           bit 1: it is made for a scan the other way round
 *
 * What holds for any bytes: nothing is taken without its MAC, nor for another scan. A token that is taken
 * was made from what it is said to hold, and one that is made is taken. Bound: no allocation is larger
 * than the token and 64 bytes.
 */
#include "engine/varve.h"
#include "rpc/page_token.h"
#include "tests/fuzz/fuzz.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

static const uint8_t secret[VV_PAGE_TOKEN_SECRET_BYTES] = "not a secret";

static vv_page_binding binding_of(bool reverse) {
    vv_page_scan scan = {.start = vv_slice_str("a"), .prefix = vv_slice_str("a"), .reverse = reverse};
    vv_page_binding b;
    vv_status st = vv_page_binding_make(&scan, &b);
    FUZZ_CHECK(vv_ok(st));
    return b;
}

static void fix_mac(uint8_t *token, size_t bytes, const vv_page_binding *b) {
    if (bytes < VV_PAGE_TOKEN_MAC_BYTES)
        return;
    size_t covered = bytes - VV_PAGE_TOKEN_MAC_BYTES;
    uint8_t full[EVP_MAX_MD_SIZE], *copy = malloc(covered + sizeof b->digest);
    unsigned length;
    FUZZ_CHECK(copy);
    memcpy(copy, token, covered);
    memcpy(copy + covered, b->digest, sizeof b->digest);
    FUZZ_CHECK(HMAC(EVP_sha256(), secret, sizeof secret, copy, covered + sizeof b->digest, full, &length));
    memcpy(token + covered, full, VV_PAGE_TOKEN_MAC_BYTES);
    free(copy);
}

static void check_taken(const vv_page_binding *b, const vv_page_token *t, vv_slice bytes) {
    FUZZ_CHECK(t->key.bytes >= 1 && t->key.bytes <= VARVE_KEY_BYTES_MAX);
    size_t count = vv_page_token_bytes(t);
    uint8_t *again = malloc(count + sizeof *b);
    FUZZ_CHECK(again && count == bytes.bytes);
    vv_status st = vv_page_token_write(secret, b, t, again);
    FUZZ_CHECK(vv_ok(st) && vv_slice_equal(vv_slice_make(again, count), bytes));
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    uint8_t flags = vv_read_u8(&r);
    vv_slice rest = fuzz_rest(&r);
    uint8_t *copy = fuzz_copy(rest);
    vv_slice token = vv_slice_make(copy, rest.bytes);
    vv_page_binding b = binding_of(false), other = binding_of(true);
    if (flags & 1)
        fix_mac(copy, rest.bytes, flags & 2 ? &other : &b);
    vv_page_token t;
    fuzz_allocation_max(rest.bytes + 64);
    vv_status st = vv_page_token_read(secret, &b, token, &t);
    fuzz_allocation_max(0);
    FUZZ_CHECK(vv_ok(st) || vv_is(st, VV_INVALID_ARGUMENT));
    if (vv_ok(st)) {
        FUZZ_CHECK((flags & 1) && !(flags & 2));
        check_taken(&b, &t, token);
        st = vv_page_token_read(secret, &other, token, &t);
        FUZZ_CHECK(vv_is(st, VV_INVALID_ARGUMENT));
    }
    free(copy);
    return 0;
}
