#define XXH_INLINE_ALL
#include "base/checksum.h"

#include <xxhash.h>

uint64_t vv_checksum(const void *data, size_t bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}

uint64_t vv_hash_key(const void *data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}
