/*
 * mem_impl.h - what the memtable types share: the form of an entry in the arena, its order, and the types'
 * constructors. Included inside engine/mem only.
 *
 * prefix: the first 8 bytes of a key as a big-endian integer, padded with zeros. Two prefixes that differ
 * order their keys; equal ones leave it to the rest of the keys and their lengths.
 */
#ifndef VV_ENGINE_MEM_MEM_IMPL_H
#define VV_ENGINE_MEM_MEM_IMPL_H

#include "base/codec.h"
#include "engine/mem/memtable.h"

/* Fill in everything but the common head's counters and references. NO_MEMORY. */
vv_status vv_hashmap_create(uint64_t seed, vv_memtable **out) VV_CHECKED;
vv_status vv_skiplist_create(uint64_t seed, vv_memtable **out) VV_CHECKED;
vv_status vv_btree_create(uint64_t seed, vv_memtable **out) VV_CHECKED;

/* For tests: are all levels of a skip list in order, and do all hints tell the truth? Writer only. */
bool vv_skiplist_is_sound(vv_memtable *m) VV_CHECKED;

/* An entry as it lies in the arena; its key and its value follow it. Never changes once it is reachable. */
typedef struct vv_mem_record {
    uint64_t prefix;
    uint64_t lsn;
    uint64_t expires_unix_ms;
    uint32_t value_bytes;
    uint16_t key_bytes;
    uint8_t kind;
    uint8_t flags;
} vv_mem_record;

_Static_assert(sizeof(vv_mem_record) == 32, "the key follows without padding");

/* What is looked for: a place in internal order. The key is borrowed. */
typedef struct vv_mem_target {
    vv_slice key;
    uint64_t prefix;
    uint64_t lsn;
} vv_mem_target;

static inline uint64_t vv_mem_prefix(vv_slice key) {
    if (VV_LIKELY(key.bytes >= 8))
        return vv_get_be64(key.data);
    uint8_t padded[8] = {0};
    if (key.bytes) /* a seek may start at the empty key */
        memcpy(padded, key.data, key.bytes);
    return vv_get_be64(padded);
}

static inline vv_mem_target vv_mem_target_make(vv_slice key, uint64_t lsn) {
    return (vv_mem_target){.key = key, .prefix = vv_mem_prefix(key), .lsn = lsn};
}

/* The place such that the last entry before it is the last at or before (key, lsn): no entry lies between the
 * LSNs lsn and lsn - 1, and none has the LSN 0. */
static inline vv_mem_target vv_mem_target_behind(vv_slice key, uint64_t lsn) {
    return vv_mem_target_make(key, lsn > 0 ? lsn - 1 : 0);
}

static inline const uint8_t *vv_mem_record_data(const vv_mem_record *r) {
    return (const uint8_t *)(r + 1);
}

static inline vv_slice vv_mem_record_key(const vv_mem_record *r) {
    return vv_slice_make(vv_mem_record_data(r), r->key_bytes);
}

/* Where a record is in internal order. */
static inline vv_mem_target vv_mem_target_of(const vv_mem_record *r) {
    return (vv_mem_target){.key = vv_mem_record_key(r), .prefix = r->prefix, .lsn = r->lsn};
}

/* The order of the keys of r and t, whose prefixes are equal. If one has at most 8 bytes, zeros padded it to
 * the other's beginning: then it is the other's prefix, and the lengths decide. */
static inline int vv_mem_compare_tails(const vv_mem_record *r, const vv_mem_target *t) {
    size_t shorter = VV_MIN((size_t)r->key_bytes, t->key.bytes);
    if (shorter > 8) {
        int order = memcmp(vv_mem_record_data(r) + 8, (const uint8_t *)t->key.data + 8, shorter - 8);
        if (order != 0)
            return order;
    }
    return (r->key_bytes > t->key.bytes) - (r->key_bytes < t->key.bytes);
}

static inline bool vv_mem_key_is(const vv_mem_record *r, const vv_mem_target *t) {
    return r->prefix == t->prefix && vv_mem_compare_tails(r, t) == 0;
}

/* r comes before t in internal order. */
static inline bool vv_mem_is_before(const vv_mem_record *r, const vv_mem_target *t) {
    if (r->prefix != t->prefix)
        return r->prefix < t->prefix;
    int order = vv_mem_compare_tails(r, t);
    return order != 0 ? order < 0 : r->lsn > t->lsn;
}

/* Fill in a piece of sizeof(vv_mem_record) and the entry's key and value. */
static inline void vv_mem_record_fill(vv_mem_record *r, const vv_entry *e) {
    r->prefix = vv_mem_prefix(e->key);
    r->lsn = e->lsn;
    r->expires_unix_ms = e->expires_unix_ms;
    r->value_bytes = (uint32_t)e->value.bytes;
    r->key_bytes = (uint16_t)e->key.bytes;
    r->kind = e->kind;
    r->flags = e->flags;
    uint8_t *data = (uint8_t *)(r + 1);
    memcpy(data, e->key.data, e->key.bytes);
    if (e->value.bytes)
        memcpy(data + e->key.bytes, e->value.data, e->value.bytes);
}

static inline void vv_mem_record_entry(const vv_mem_record *r, vv_entry *out) {
    *out = (vv_entry){
        .key = vv_mem_record_key(r),
        .value = vv_slice_make(vv_mem_record_data(r) + r->key_bytes, r->value_bytes),
        .lsn = r->lsn,
        .expires_unix_ms = r->expires_unix_ms,
        .kind = r->kind,
        .flags = r->flags,
    };
}

/* Put an iterator onto a record; NULL: at the end. */
static inline void vv_mem_iter_settle(vv_iter *it, const vv_mem_record *r) {
    it->valid = r != NULL;
    if (r)
        vv_mem_record_entry(r, &it->entry);
}

#endif
