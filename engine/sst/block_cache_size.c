/*
 * block_cache_size.c - how much a block cache may take, when it is made and when that changes.
 *
 * Growing: a shard gets a table for so many blocks, if the one it has is too small. Readers walk tables
 * without a lock, so the old one stays until the cache is destroyed; all of them together take no more than
 * twice what the last one does. While the frames are moved from chain to chain, a walk may miss one that is
 * there: then it is repeated under the lock, as always, behind the move.
 *
 * Shrinking: blocks are evicted a few turns at a time, and the lock is let go in between, so that whoever
 * misses a block waits for microseconds and not for gigabytes; a hit takes no lock anyway. The capacity
 * follows what is there, so that nobody who brings a block has to evict more than its room.
 *
 * What stays after that: frames, which are never freed, of 192 bytes for each block that there was at most,
 * and the table. They don't count against the new capacity: it is to hold as many blocks as if the cache had
 * been made with it. Frames that are used again do count. How many shards there are was settled when the
 * cache was made, too: one that was made small, and grew, has its few locks for all misses.
 */
#include <string.h>

#include "base/alloc.h"
#include "engine/sst/block_cache_impl.h"

/* Queue turns under one hold of the lock. */
#define SHRINK_TURNS 128

static uint64_t bucket_count_for(uint64_t share_bytes) {
    uint64_t count = 16;
    while (count < share_bytes / VV_SST_BLOCK_BYTES_MIN)
        count *= 2;
    return count;
}

/* What is left for blocks beside the tables. */
static uint64_t capacity_for(uint64_t share_bytes) {
    uint64_t tables_bytes = bucket_count_for(share_bytes) * (sizeof(vv_cache_bucket_head) + sizeof(uint32_t));
    return share_bytes > tables_bytes ? share_bytes - tables_bytes : 0;
}

/* ---- tables ---- */

/* Buckets and ghosts that are not a shard's yet. */
typedef struct fresh_table {
    void *memory; /* of the buckets; NULL: there is none */
    uintptr_t table;
    uint32_t *ghosts;
    uint64_t count;
} fresh_table;

static void fresh_free(fresh_table *t) {
    vv_free(t->memory);
    vv_free(t->ghosts);
    *t = (fresh_table){0};
}

static bool fresh_make(fresh_table *t, uint64_t count) {
    uintptr_t log2 = (uintptr_t)__builtin_ctzll(count);
    *t = (fresh_table){.count = count};
    t->memory = vv_alloc_zeroed(count * sizeof(vv_cache_bucket_head) + VV_CACHE_LINE_BYTES);
    t->ghosts = vv_alloc_zeroed(count * sizeof *t->ghosts);
    if (!t->memory || !t->ghosts) {
        fresh_free(t);
        return false;
    }
    t->table = vv_align_up((uintptr_t)t->memory, VV_CACHE_LINE_BYTES) | log2;
    return true;
}

/* Under the lock: all frames of a queue into the chains of a table that nobody walks yet. */
static void rehash(const vv_cache_queue *q, uintptr_t table) {
    for (vv_cache_frame *f = q->ends.newer; f != &q->ends; f = f->newer) {
        vv_cache_bucket_head *head =
            vv_cache_bucket(table, vv_cache_hash(f->block.file_number, f->block.offset));
        /* release: who comes to f by its old chain goes on to what is initialised. */
        atomic_store_explicit(&f->hash_next, atomic_load_explicit(head, memory_order_relaxed),
                              memory_order_release);
        atomic_store_explicit(head, f, memory_order_relaxed);
    }
}

/* The table becomes the shard's; what was remembered of blocks that are gone is forgotten. */
static void use_table(vv_cache_shard *s, fresh_table *t) {
    vv_mutex_lock(&s->mu.lock);
    rehash(&s->mu.queues[VV_CACHE_QUEUE_SMALL], t->table);
    rehash(&s->mu.queues[VV_CACHE_QUEUE_MAIN], t->table);
    uint32_t *old = s->mu.ghosts;
    s->mu.ghosts = t->ghosts;
    s->mu.ghost_count = t->count;
    s->mu.tables[s->mu.table_count++] = t->memory;
    /* release: pairs with the acquire of those who look for a bucket. */
    atomic_store_explicit(&s->table, t->table, memory_order_release);
    vv_mutex_unlock(&s->mu.lock);
    vv_free(old);
    *t = (fresh_table){0};
}

uint64_t vv_cache_tables_bytes(const vv_cache_shard *s) {
    uint64_t bytes = vv_alloc_usable_bytes(s->mu.ghosts);
    for (size_t i = 0; i < s->mu.table_count; i++)
        bytes += vv_alloc_usable_bytes(s->mu.tables[i]);
    return bytes;
}

vv_status vv_cache_shard_init(vv_cache_shard *s, uint64_t share_bytes) {
    fresh_table t;
    if (!fresh_make(&t, bucket_count_for(share_bytes)))
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_mutex_init(&s->mu.lock);
    for (size_t i = 0; i < VV_CACHE_QUEUE_COUNT; i++)
        s->mu.queues[i].ends.newer = s->mu.queues[i].ends.older = &s->mu.queues[i].ends;
    s->mu.capacity_bytes = capacity_for(share_bytes);
    use_table(s, &t);
    return VV_STATUS_OK;
}

void vv_cache_shard_deinit(vv_cache_shard *s) {
    for (size_t i = 0; i < s->mu.table_count; i++)
        vv_free(s->mu.tables[i]);
    vv_free(s->mu.ghosts);
    vv_mutex_deinit(&s->mu.lock);
}

/* ---- a new capacity ---- */

/* A few turns towards it. False: it is reached, or all that is left is pinned and goes when it is released.
 */
static bool shrink_step(vv_cache_shard *s, uint64_t capacity_bytes, uint64_t *rounds, bool last) {
    vv_cache_scrap *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    s->mu.spare_bytes = UINT64_MAX; /* the frames of what goes now */
    bool more = !last && !vv_cache_evict(s, capacity_bytes, rounds, SHRINK_TURNS, &freed);
    if (more) {
        uint64_t used = vv_cache_used_bytes(s);
        s->mu.capacity_bytes = VV_MIN(s->mu.capacity_bytes, VV_MAX(capacity_bytes, used));
    } else {
        s->mu.capacity_bytes = capacity_bytes;
        vv_cache_evict_surplus(s, &freed);
        s->mu.spare_bytes = s->mu.idle_bytes;
    }
    vv_mutex_unlock(&s->mu.lock);
    vv_cache_free_scraps(freed);
    return more;
}

static void set_capacity(vv_cache_shard *s, uint64_t capacity_bytes) {
    vv_cache_scrap *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    bool shrinks = capacity_bytes < s->mu.capacity_bytes;
    uint64_t rounds = vv_cache_rounds(s);
    /* Readers may use blocks as fast as they get their turns: at some point it has to end. */
    uint64_t steps =
        (rounds + s->mu.queues[VV_CACHE_QUEUE_SMALL].count * VV_CACHE_USES_MAX) / SHRINK_TURNS + 2;
    if (!shrinks) {
        s->mu.capacity_bytes = capacity_bytes;
        vv_cache_evict_surplus(s, &freed); /* it may be crowded no more */
    }
    vv_mutex_unlock(&s->mu.lock);
    vv_cache_free_scraps(freed);
    while (shrinks && shrink_step(s, capacity_bytes, &rounds, steps == 0))
        steps -= steps > 0;
}

vv_status vv_block_cache_set_capacity(vv_block_cache *c, uint64_t capacity_bytes) {
    uint64_t share_bytes = capacity_bytes / c->shard_count;
    uint64_t count = bucket_count_for(share_bytes);
    fresh_table tables[VV_CACHE_SHARDS_MAX] = {{0}};
    bool grows =
        count > vv_cache_bucket_count(atomic_load_explicit(&c->shards[0].table, memory_order_relaxed));
    for (uint32_t i = 0; grows && i < c->shard_count; i++) {
        if (fresh_make(&tables[i], count))
            continue;
        while (i > 0)
            fresh_free(&tables[--i]);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    for (uint32_t i = 0; i < c->shard_count; i++) {
        if (grows)
            use_table(&c->shards[i], &tables[i]);
        set_capacity(&c->shards[i], capacity_for(share_bytes));
    }
    return VV_STATUS_OK;
}
