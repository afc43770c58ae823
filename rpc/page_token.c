#include "rpc/page_token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/alloc.h"
#include "base/codec.h"

#define VERSION    1
#define HEAD_BYTES 10

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

/* A length before each part, so that no two scans make the same bytes. */
static bool digest_part(EVP_MD_CTX *context, vv_slice part) {
    uint8_t length[8];
    vv_put_be64(length, part.bytes);
    return EVP_DigestUpdate(context, length, sizeof length) == 1 &&
           (part.bytes == 0 || EVP_DigestUpdate(context, part.data, part.bytes) == 1);
}

vv_status vv_page_binding_make(const vv_page_scan *scan, vv_page_binding *out) {
    /* A user stays where it is until the server ends, and so do the secret and all tokens. */
    uint64_t user = (uint64_t)(uintptr_t)scan->user;
    uint8_t reverse = scan->reverse;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool fine = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 &&
                digest_part(context, vv_slice_make(&user, sizeof user)) &&
                digest_part(context, vv_slice_make(&reverse, 1)) && digest_part(context, scan->start) &&
                digest_part(context, scan->end) && digest_part(context, scan->prefix) &&
                EVP_DigestFinal_ex(context, out->digest, NULL) == 1;
    EVP_MD_CTX_free(context);
    return fine ? VV_STATUS_OK : no_memory();
}

size_t vv_page_token_bytes(const vv_page_token *token) {
    return HEAD_BYTES + token->key.bytes + VV_PAGE_TOKEN_MAC_BYTES;
}

/* Of the first `bytes` of a token, behind which the binding is put. */
static bool mac(const uint8_t *secret, const vv_page_binding *binding, uint8_t *token, size_t bytes,
                uint8_t *out) {
    unsigned length;
    memcpy(token + bytes, binding->digest, sizeof binding->digest);
    return HMAC(EVP_sha256(), secret, VV_PAGE_TOKEN_SECRET_BYTES, token, bytes + sizeof binding->digest, out,
                &length) != NULL;
}

vv_status vv_page_token_write(const uint8_t *secret, const vv_page_binding *binding,
                              const vv_page_token *token, uint8_t *to) {
    uint8_t full[EVP_MAX_MD_SIZE];
    to[0] = VERSION;
    to[1] = (uint8_t)token->kind;
    vv_put_be64(to + 2, token->lease_id);
    memcpy(to + HEAD_BYTES, token->key.data, token->key.bytes);
    size_t bytes = HEAD_BYTES + token->key.bytes;
    if (!mac(secret, binding, to, bytes, full))
        return no_memory();
    memcpy(to + bytes, full, VV_PAGE_TOKEN_MAC_BYTES);
    return VV_STATUS_OK;
}

vv_status vv_page_token_read(const uint8_t *secret, const vv_page_binding *binding, vv_slice bytes,
                             vv_page_token *out) {
    const vv_status bad = vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0);
    const uint8_t *from = bytes.data;
    if (bytes.bytes <= HEAD_BYTES + VV_PAGE_TOKEN_MAC_BYTES ||
        bytes.bytes > HEAD_BYTES + VARVE_KEY_BYTES_MAX + VV_PAGE_TOKEN_MAC_BYTES)
        return bad;
    size_t covered = bytes.bytes - VV_PAGE_TOKEN_MAC_BYTES;
    uint8_t *copy = vv_alloc(covered + sizeof binding->digest), full[EVP_MAX_MD_SIZE];
    if (!copy)
        return no_memory();
    memcpy(copy, from, covered);
    bool made = mac(secret, binding, copy, covered, full);
    vv_free(copy);
    if (!made)
        return no_memory();
    /* In constant time: how much of a guess was right must not be seen. */
    if (CRYPTO_memcmp(full, from + covered, VV_PAGE_TOKEN_MAC_BYTES) != 0 || from[0] != VERSION)
        return bad;
    *out = (vv_page_token){.kind = (vv_lease_kind)from[1],
                           .lease_id = vv_get_be64(from + 2),
                           .key = vv_slice_make(from + HEAD_BYTES, covered - HEAD_BYTES)};
    return VV_STATUS_OK;
}
