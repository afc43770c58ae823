#define XXH_INLINE_ALL
#ifdef VV_DEBUG
/* Without optimisation gcc can't inline, as the library insists, what its streams call by pointer. */
#define XXH_NO_INLINE_HINTS 1
#endif
#include "base/checksum.h"

#include <xxhash.h>

uint64_t vv_checksum(const void *data, size_t bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}

_Static_assert(sizeof(XXH3_state_t) == sizeof(((vv_checksum_stream *)0)->state),
               "room for the library's state");
_Static_assert(_Alignof(XXH3_state_t) <= _Alignof(vv_checksum_stream), "and its alignment");

static XXH3_state_t *state_of(vv_checksum_stream *s) {
    return (XXH3_state_t *)(void *)s->state;
}

void vv_checksum_stream_init(vv_checksum_stream *s) {
    (void)XXH3_64bits_reset(state_of(s)); /* fails for NULL only, as what follows */
}

void vv_checksum_stream_add(vv_checksum_stream *s, const void *data, size_t bytes) {
    (void)XXH3_64bits_update(state_of(s), data, bytes);
}

uint64_t vv_checksum_stream_get(const vv_checksum_stream *s) {
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)s->state);
}

uint64_t vv_hash_key(const void *data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}
