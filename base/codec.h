/*
 * codec.h - big-endian integers in byte arrays, and a bounded reader for bytes that nobody vouches for.
 *
 * All integers on disk are big-endian (engine/FORMAT.md).
 */
#ifndef VV_BASE_CODEC_H
#define VV_BASE_CODEC_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/slice.h"

static inline void vv_put_be16(void *at, uint16_t v) {
    v = __builtin_bswap16(v);
    memcpy(at, &v, sizeof v);
}

static inline void vv_put_be32(void *at, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(at, &v, sizeof v);
}

static inline void vv_put_be64(void *at, uint64_t v) {
    v = __builtin_bswap64(v);
    memcpy(at, &v, sizeof v);
}

static inline uint16_t vv_get_be16(const void *at) {
    uint16_t v;
    memcpy(&v, at, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t vv_get_be32(const void *at) {
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t vv_get_be64(const void *at) {
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return __builtin_bswap64(v);
}

static inline uint64_t vv_align_up(uint64_t n, uint64_t power_of_two) {
    return (n + power_of_two - 1) & ~(power_of_two - 1);
}

static inline bool vv_is_power_of_two(uint64_t n) {
    return n != 0 && (n & (n - 1)) == 0;
}

/*
 * A cursor over untrusted bytes. A read past the end sets `bad` and yields zeros; every later read does so
 * too, so that a decoder checks once at its end (or before it trusts a length).
 */
typedef struct vv_reader {
    const uint8_t *at;
    size_t left_bytes;
    bool bad;
} vv_reader;

static inline vv_reader vv_reader_make(vv_slice bytes) {
    return (vv_reader){.at = bytes.data, .left_bytes = bytes.bytes};
}

/* The next n bytes, borrowed as long as the source; an empty slice when there are fewer. */
static inline vv_slice vv_read_bytes(vv_reader *r, size_t n) {
    if (r->bad || n > r->left_bytes) {
        r->bad = true;
        return vv_slice_make(NULL, 0);
    }
    vv_slice s = vv_slice_make(r->at, n);
    r->at += n;
    r->left_bytes -= n;
    return s;
}

static inline uint8_t vv_read_u8(vv_reader *r) {
    vv_slice s = vv_read_bytes(r, 1);
    return s.bytes ? *(const uint8_t *)s.data : 0;
}

static inline uint16_t vv_read_be16(vv_reader *r) {
    vv_slice s = vv_read_bytes(r, 2);
    return s.bytes ? vv_get_be16(s.data) : 0;
}

static inline uint32_t vv_read_be32(vv_reader *r) {
    vv_slice s = vv_read_bytes(r, 4);
    return s.bytes ? vv_get_be32(s.data) : 0;
}

static inline uint64_t vv_read_be64(vv_reader *r) {
    vv_slice s = vv_read_bytes(r, 8);
    return s.bytes ? vv_get_be64(s.data) : 0;
}

#endif
