/*
 * block_cache_impl.h - what the files of the block cache share.
 *
 *   block_cache.c        blocks: found, brought, evicted; the invariants of all this
 *   block_cache_size.c   its capacity and the tables by which they are found
 */
#ifndef VV_ENGINE_SST_BLOCK_CACHE_IMPL_H
#define VV_ENGINE_SST_BLOCK_CACHE_IMPL_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/sync.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"

#define VV_CACHE_SHARDS_MAX  16
#define VV_CACHE_HIT_STRIPES 16 /* a power of two */
#define VV_CACHE_USES_MAX    3
/* A table is at least twice as large as the one before. */
#define VV_CACHE_TABLES_MAX 48

enum { VV_CACHE_QUEUE_NONE, VV_CACHE_QUEUE_SMALL, VV_CACHE_QUEUE_MAIN, VV_CACHE_QUEUE_COUNT };

typedef struct vv_cache_frame {
    /* All that a lookup needs, in one cache line. */
    VV_CACHE_ALIGNED vv_block block; /* first: a vv_block * is a frame * */
    _Atomic(struct vv_cache_frame *) hash_next;
    _Atomic uint32_t state;
    _Atomic uint32_t name; /* of the block: the upper half of its hash */
    /* The shard's lock guards the rest, or whoever owns the frame. */
    uint32_t charged_bytes;
    uint8_t queue; /* VV_CACHE_QUEUE_NONE and its like */
    bool outsized;
    struct vv_cache_frame *older;
    struct vv_cache_frame *newer; /* or the next idle one */
    /* The block's hints, if they fit: of 37 entries at most, which is a block of 4 KiB with 80 bytes each. */
    uint8_t hints[112];
} vv_cache_frame;

_Static_assert(offsetof(vv_cache_frame, older) == VV_CACHE_LINE_BYTES, "what a lookup needs");
_Static_assert(sizeof(vv_cache_frame) == 3 * VV_CACHE_LINE_BYTES, "no bytes are wasted");

/* Memory of a block that is gone, chained through itself until it is freed or used again. */
typedef struct vv_cache_scrap {
    struct vv_cache_scrap *next;
} vv_cache_scrap;

typedef struct vv_cache_queue {
    vv_cache_frame ends; /* its `newer` is the oldest frame, its `older` the newest */
    uint64_t bytes;
    uint64_t count;
} vv_cache_queue;

typedef _Atomic(vv_cache_frame *) vv_cache_bucket_head;

typedef struct vv_cache_shard {
    /* Read by every lookup: where the buckets are, and in the low bits log2 of how many. Written under the
     * lock, when the cache is made or gets more of them. */
    VV_CACHE_ALIGNED _Atomic uintptr_t table;
    _Atomic bool crowded; /* over the bound, with all frames pinned */
    VV_CACHE_ALIGNED struct {
        vv_mutex lock;
        uint64_t capacity_bytes;
        uint32_t *ghosts; /* a part of the hash, where another part of it points */
        uint64_t ghost_count;
        uint64_t bytes;
        uint64_t outsized_bytes;
        uint64_t misses;
        vv_cache_frame *idle; /* chained by `newer` */
        uint64_t idle_bytes;
        uint64_t spare_bytes;                        /* of them, what a shrinking has left beside the bound */
        vv_cache_queue queues[VV_CACHE_QUEUE_COUNT]; /* that of VV_CACHE_QUEUE_NONE stays empty */
        /* The memory of the table, and of smaller ones before it that somebody may still walk. */
        void *tables[VV_CACHE_TABLES_MAX];
        size_t table_count;
    } mu;
    vv_sst_unpacker unpacker;
} vv_cache_shard;

struct vv_block_cache {
    uint64_t id;          /* of all caches that the process ever had */
    uint32_t shard_count; /* a power of two */
    struct {
        /* Two cache lines: processors fetch them in pairs. */
        _Alignas(2 * VV_CACHE_LINE_BYTES) _Atomic uint64_t count;
    } hits[VV_CACHE_HIT_STRIPES]; /* each counted by the cores that share it */
    vv_cache_shard shards[];
};

static inline uint64_t vv_cache_hash(uint64_t file_number, uint64_t offset) {
    uint64_t h = (file_number * UINT64_C(0x9E3779B97F4A7C15)) ^ (offset / VV_SST_BLOCK_BYTES_MIN);
    h *= UINT64_C(0xD6E8FEB86659FD93);
    return h ^ (h >> 32);
}

static inline uint64_t vv_cache_bucket_count(uintptr_t table) {
    return UINT64_C(1) << (table & (VV_CACHE_LINE_BYTES - 1));
}

static inline vv_cache_bucket_head *vv_cache_bucket(uintptr_t table, uint64_t hash) {
    vv_cache_bucket_head *buckets =
        (vv_cache_bucket_head *)(table & ~(uintptr_t)(VV_CACHE_LINE_BYTES - 1)); // NOLINT(*-int-to-ptr)
    return &buckets[hash & (vv_cache_bucket_count(table) - 1)];
}

/* ---- block_cache.c; under the shard's lock ---- */

/* The turns of the main queue after which every block had the rounds that its uses are worth. */
uint64_t vv_cache_rounds(const vv_cache_shard *s);

/*
 * Evict until no more than bound_bytes are used or all that is left is pinned, but take no more than so many
 * turns: false, there was more to do. *rounds: uses count until this is 0. What was freed is chained to
 * *freed.
 */
bool vv_cache_evict(vv_cache_shard *s, uint64_t bound_bytes, uint64_t *rounds, uint64_t turns,
                    vv_cache_scrap **freed);
/* The same down to the capacity; notes whether that was possible. */
void vv_cache_evict_surplus(vv_cache_shard *s, vv_cache_scrap **freed);
/* Without the lock. */
void vv_cache_free_scraps(vv_cache_scrap *freed);
/* What counts against the capacity. */
uint64_t vv_cache_used_bytes(const vv_cache_shard *s);

/* ---- block_cache_size.c ---- */

/* *s is zeroed. NO_MEMORY: nothing is left behind. */
vv_status vv_cache_shard_init(vv_cache_shard *s, uint64_t share_bytes) VV_CHECKED;
void vv_cache_shard_deinit(vv_cache_shard *s);
/* Of the heap; under the lock. */
uint64_t vv_cache_tables_bytes(const vv_cache_shard *s);

#endif
