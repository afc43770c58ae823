/*
 * hints.c - where in a block a key may be, without a search.
 *
 * A binary search in a block of 4 KiB looks at some six entries and at their places in the offset table,
 * nearly each of them in a cache line of its own that is in no cache. So a block gets hints when it enters
 * the block cache: of each entry one byte of the key's hash, its tag, and the place in the block.
 *
 *   tag: 1 byte, of each entry | place: 2 bytes, of each entry
 *
 * A get compares sixteen tags at once with that of its key, and looks at the entries whose tag is equal: the
 * one that it wants, and one in 256 of the others. It takes them in order, so that of a key's versions the
 * newest comes first; a key without an equal tag is not in the block.
 *
 * A cursor looks for a place in the order, so that it must search; but it finds the places here, and asks for
 * the cache lines of several entries at once: two rounds of waiting for memory in such a block instead of
 * eight.
 *
 * Blocks with entries that begin beyond 64 KiB have no hints.
 */
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define TAGS_AT_ONCE 16
#define PIVOTS       8

/* Bits of the hash that are independent of which filter's line the key has. */
static uint8_t tag_of(uint64_t key_hash) {
    return (uint8_t)key_hash;
}

size_t vv_sst_hints_bytes(const void *block) {
    uint32_t count = vv_sst_block_count(block);
    uint32_t last = vv_get_be32(vv_sst_block_places(block) + (count - 1) * sizeof(uint32_t));
    if (last > UINT16_MAX)
        return 0;
    /* The last comparison reads on into the places; those of few entries are fewer than it reads. */
    return VV_MAX((size_t)count * (sizeof(uint8_t) + sizeof(uint16_t)), (size_t)TAGS_AT_ONCE);
}

void vv_sst_hints_build(const void *block, uint8_t *hints) {
    uint32_t count = vv_sst_block_count(block);
    const uint8_t *places = vv_sst_block_places(block);
    for (uint32_t i = 0; i < count; i++) {
        uint16_t place = (uint16_t)vv_get_be32(places + i * sizeof(uint32_t));
        vv_entry e;
        vv_sst_block_entry_at(block, place, &e);
        hints[i] = tag_of(vv_hash_key(e.key.data, e.key.bytes));
        memcpy(hints + count + (size_t)i * sizeof place, &place, sizeof place);
    }
}

/* A bit for each of the next sixteen tags: is it equal? */
static uint32_t compare_tags(const uint8_t *tags, uint8_t tag) {
#ifdef __SSE2__
    __m128i at_once = _mm_loadu_si128((const __m128i *)(const void *)tags);
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(at_once, _mm_set1_epi8((char)tag)));
#else
    uint32_t equal = 0;
    for (uint32_t i = 0; i < TAGS_AT_ONCE; i++)
        equal |= (uint32_t)(tags[i] == tag) << i;
    return equal;
#endif
}

bool vv_sst_hints_seek_key(const uint8_t *hints, uint32_t count, const void *block, vv_slice key,
                           uint64_t key_hash, uint64_t lsn, vv_entry *out) {
    uint8_t tag = tag_of(key_hash);
    for (uint32_t i = 0; i < count; i += TAGS_AT_ONCE) {
        uint32_t equal = compare_tags(hints + i, tag);
        if (count - i < TAGS_AT_ONCE)
            equal &= (UINT32_C(1) << (count - i)) - 1; /* what is compared behind the tags are places */
        for (; equal; equal &= equal - 1) {
            uint32_t index = i + (uint32_t)__builtin_ctz(equal);
            vv_sst_block_entry_at(block, vv_sst_hints_place(hints, count, index), out);
            if (vv_slice_equal(out->key, key) && out->lsn <= lsn)
                return true;
        }
    }
    return false;
}

/* Is entry `index` before (key, lsn)? */
static bool is_before(const uint8_t *hints, uint32_t count, const void *block, uint32_t index, vv_slice key,
                      uint64_t lsn) {
    vv_entry e;
    vv_sst_block_entry_at(block, vv_sst_hints_place(hints, count, index), &e);
    return vv_entry_compare(e.key, e.lsn, key, lsn) < 0;
}

uint32_t vv_sst_hints_lower_bound(const uint8_t *hints, uint32_t count, const void *block, vv_slice key,
                                  uint64_t lsn) {
    const uint8_t *entries = (const uint8_t *)block + VV_SST_BLOCK_HEAD_BYTES;
    uint32_t from = 0, left = count;
    while (left > 0) {
        /* The last one of each of some groups of `stride`; the rest is a group without one. */
        uint32_t stride = (left + PIVOTS - 1) / PIVOTS, low = 0, high = left / stride, pivots = high;
        for (uint32_t i = 1; i <= pivots; i++)
            __builtin_prefetch(entries + vv_sst_hints_place(hints, count, from + i * stride - 1));
        while (low < high) {
            uint32_t mid = (low + high) / 2;
            if (is_before(hints, count, block, from + (mid + 1) * stride - 1, key, lsn))
                low = mid + 1;
            else
                high = mid;
        }
        from += low * stride;
        left = low == pivots ? left - pivots * stride : stride - 1;
    }
    return from;
}

/* ---- of a cached block, with hints or without ---- */

bool vv_block_seek_key(const vv_block *b, vv_block_handle h, vv_slice key, uint64_t key_hash, uint64_t lsn,
                       vv_entry *out) {
    if (h.position != VV_SST_POSITION_UNKNOWN || !b->hints)
        return vv_sst_block_seek_key(h, b->data, key, lsn, out);
    return vv_sst_hints_seek_key(b->hints, b->hint_count, b->data, key, key_hash, lsn, out);
}

uint32_t vv_block_lower_bound(const vv_block *b, vv_slice key, uint64_t lsn) {
    return b->hints ? vv_sst_hints_lower_bound(b->hints, b->hint_count, b->data, key, lsn)
                    : vv_sst_block_lower_bound(b->data, key, lsn);
}

uint32_t vv_block_count(const vv_block *b) {
    return b->hints ? b->hint_count : vv_sst_block_count(b->data);
}

void vv_block_entry(const vv_block *b, uint32_t index, vv_entry *out) {
    if (index == 0) /* without a look at where the entries are */
        vv_sst_block_entry_at(b->data, 0, out);
    else if (b->hints)
        vv_sst_block_entry_at(b->data, vv_sst_hints_place(b->hints, b->hint_count, index), out);
    else
        vv_sst_block_entry(b->data, index, out);
}
