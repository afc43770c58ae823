/*
 * bytes.c - growing byte strings, hexadecimal, base64, whole files.
 */
#include "cli/bytes.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define BYTES_MIN        16
#define READ_CHUNK_BYTES ((size_t)64 << 10)

uint8_t *vv_bytes_reserve(vv_bytes *b, size_t more) {
    if (!b->data || b->capacity_bytes - b->bytes < more) {
        size_t grown_bytes = VV_MAX(b->capacity_bytes * 2, VV_MAX(b->bytes + more, (size_t)BYTES_MIN));
        uint8_t *grown = vv_realloc(b->data, grown_bytes);
        if (!grown) {
            fprintf(stderr, "varve: out of memory\n");
            exit(3);
        }
        b->data = grown;
        b->capacity_bytes = grown_bytes;
    }
    return b->data + b->bytes;
}

void vv_bytes_append(vv_bytes *b, const void *data, size_t bytes) {
    if (bytes == 0)
        return;
    memcpy(vv_bytes_reserve(b, bytes), data, bytes);
    b->bytes += bytes;
}

void vv_bytes_push(vv_bytes *b, uint8_t byte) {
    *vv_bytes_reserve(b, 1) = byte;
    b->bytes++;
}

void vv_bytes_deinit(vv_bytes *b) {
    vv_free(b->data);
    *b = (vv_bytes){0};
}

int vv_hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool vv_bytes_from_hex(vv_bytes *b, vv_slice digits) {
    const uint8_t *at = digits.data;
    if (digits.bytes % 2 != 0)
        return false;
    for (size_t i = 0; i < digits.bytes; i++) {
        if (vv_hex_digit(at[i]) < 0)
            return false;
    }
    for (size_t i = 0; i < digits.bytes; i += 2)
        vv_bytes_push(b, (uint8_t)(vv_hex_digit(at[i]) << 4 | vv_hex_digit(at[i + 1])));
    return true;
}

bool vv_bytes_from_base64(vv_bytes *b, vv_slice text) {
    const uint8_t *at = text.data;
    size_t padding = 0;
    while (padding < 2 && padding < text.bytes && at[text.bytes - 1 - padding] == '=')
        padding++;
    if (text.bytes == 0)
        return true;
    /* It takes spaces around and newlines, which are none of ours. */
    if (text.bytes % 4 != 0 || text.bytes > INT_MAX || memchr(at, '=', text.bytes - padding) ||
        isspace(at[0]) || isspace(at[text.bytes - 1]))
        return false;
    int bytes = EVP_DecodeBlock(vv_bytes_reserve(b, text.bytes / 4 * 3), at, (int)text.bytes);
    if (bytes != (int)(text.bytes / 4 * 3))
        return false;
    b->bytes += (size_t)bytes - padding;
    return true;
}

void vv_bytes_to_hex(vv_bytes *b, vv_slice raw) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = raw.data;
    vv_bytes_reserve(b, raw.bytes * 2);
    for (size_t i = 0; i < raw.bytes; i++) {
        vv_bytes_push(b, (uint8_t)digits[at[i] >> 4]);
        vv_bytes_push(b, (uint8_t)digits[at[i] & 15]);
    }
}

void vv_bytes_to_base64(vv_bytes *b, vv_slice raw) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *at = raw.data;
    vv_bytes_reserve(b, (raw.bytes + 2) / 3 * 4);
    for (size_t i = 0; i < raw.bytes; i += 3) {
        size_t left = raw.bytes - i;
        uint32_t group = (uint32_t)at[i] << 16;
        group |= left > 1 ? (uint32_t)at[i + 1] << 8 : 0;
        group |= left > 2 ? (uint32_t)at[i + 2] : 0;
        vv_bytes_push(b, (uint8_t)alphabet[group >> 18]);
        vv_bytes_push(b, (uint8_t)alphabet[group >> 12 & 63]);
        vv_bytes_push(b, left > 1 ? (uint8_t)alphabet[group >> 6 & 63] : (uint8_t)'=');
        vv_bytes_push(b, left > 2 ? (uint8_t)alphabet[group & 63] : (uint8_t)'=');
    }
}

void vv_bytes_to_word(vv_bytes *b, vv_slice raw) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *at = raw.data;
    if (raw.bytes == 0)
        vv_bytes_append(b, "\"\"", 2);
    for (size_t i = 0; i < raw.bytes; i++) {
        uint8_t c = at[i];
        if (c == '\\' || c == '"' || c == '\'' || c == '#') {
            vv_bytes_push(b, '\\');
            vv_bytes_push(b, c);
        } else if (c > ' ' && c < 0x7f) {
            vv_bytes_push(b, c);
        } else {
            const uint8_t escape[4] = {'\\', 'x', (uint8_t)digits[c >> 4], (uint8_t)digits[c & 15]};
            vv_bytes_append(b, escape, sizeof escape);
        }
    }
}

int vv_bytes_read(vv_bytes *b, FILE *file, size_t limit_bytes) {
    size_t start = b->bytes;
    while (true) {
        errno = 0;
        size_t got = fread(vv_bytes_reserve(b, READ_CHUNK_BYTES), 1, READ_CHUNK_BYTES, file);
        b->bytes += got;
        if (b->bytes - start > limit_bytes)
            return EFBIG;
        if (got < READ_CHUNK_BYTES)
            return ferror(file) ? (errno ? errno : EIO) : 0;
    }
}
