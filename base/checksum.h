/*
 * checksum.h - the one checksum of every file of Varve: XXH3, 64 bits, from the xxHash library.
 *
 * 64 bits rather than CRC32C's 32, because a recycled log segment offers the reader millions of stale frames
 * to mistake for live ones; the seed binds a checksum to where the bytes belong.
 */
#ifndef VV_BASE_CHECKSUM_H
#define VV_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

uint64_t vv_checksum(const void *data, size_t bytes, uint64_t seed);

/* The same of bytes that come piece by piece, with seed 0. No deinit. */
typedef struct vv_checksum_stream {
    _Alignas(64) uint8_t state[576]; /* the library's */
} vv_checksum_stream;

void vv_checksum_stream_init(vv_checksum_stream *s);
void vv_checksum_stream_add(vv_checksum_stream *s, const void *data, size_t bytes);
/* Of all that was added so far; more may follow. */
uint64_t vv_checksum_stream_get(const vv_checksum_stream *s) VV_CHECKED;

/* The hash of a key for filters, shards and hash tables. Part of the SSTable format: never changes. */
uint64_t vv_hash_key(const void *data, size_t bytes);

#endif
