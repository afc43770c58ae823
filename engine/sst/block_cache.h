/*
 * block_cache.h - verified data blocks in memory, shared by all readers, bounded in bytes.
 *
 * A block is one aligned frame that I/O reads into directly. It is pinned while somebody holds it; unpinned
 * blocks are evicted in LRU order when the bound is passed. Sharded by hash; each shard has its own lock,
 * held for a few pointer moves only.
 */
#ifndef VV_ENGINE_SST_BLOCK_CACHE_H
#define VV_ENGINE_SST_BLOCK_CACHE_H

#include "engine/sst/sst.h"

typedef struct vv_block_cache vv_block_cache;

typedef struct vv_block {
    uint64_t file_number;
    uint64_t offset;
    uint32_t bytes;
    void *data; /* aligned to VV_IO_ALIGN_BYTES; read-only once inserted */
} vv_block;

/* capacity_bytes counts frames, pinned ones included; when everything is pinned, blocks beyond it are still
 * handed out but dropped on release. NO_MEMORY. */
vv_status vv_block_cache_create(uint64_t capacity_bytes, vv_block_cache **out) VV_CHECKED;
/* No block may be pinned. NULL is fine. */
void vv_block_cache_destroy(vv_block_cache *c);

/* Pinned, or NULL. Counts a hit or a miss. */
vv_block *vv_block_cache_lookup(vv_block_cache *c, uint64_t file_number, uint64_t offset);

/* A new block, not yet in the cache: fill data, then insert or discard. NULL: no memory. */
vv_block *vv_block_cache_allocate(vv_block_cache *c, uint64_t file_number, vv_block_handle h);
void vv_block_cache_discard(vv_block_cache *c, vv_block *b);

/* Publish a filled and verified block, pinned for the caller. If another thread was first, `b` is discarded
 * and that one's block returned. */
vv_block *vv_block_cache_insert(vv_block_cache *c, vv_block *b);

/* Unpin. Thread-safe, from any thread. */
void vv_block_cache_release(vv_block_cache *c, vv_block *b);

/* Drop all unpinned blocks of a file that is gone. */
void vv_block_cache_erase_file(vv_block_cache *c, uint64_t file_number);

/* Blocking: lookup, else read, verify and insert. *out is pinned. CORRUPTION, IO, NO_MEMORY. */
vv_status vv_block_cache_read(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                              vv_error *err) VV_CHECKED;

typedef struct vv_block_cache_stats {
    uint64_t bytes;
    uint64_t hits;
    uint64_t misses;
} vv_block_cache_stats;
void vv_block_cache_stats_get(vv_block_cache *c, vv_block_cache_stats *out);

/* A cursor over a table, through the cache. Borrows both; holds one block pinned. */
vv_status vv_sst_iter_create(vv_sst_reader *r, vv_block_cache *c, vv_iter **out) VV_CHECKED;

#endif
