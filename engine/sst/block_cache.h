/*
 * block_cache.h - ready data blocks in memory (verified, decompressed), shared by all readers, bounded in
 * bytes.
 *
 * A block is pinned while somebody holds it. Unpinned blocks are evicted when the bound is passed: those
 * first that were read once, so that a scan of everything does not push out what gets use all the time.
 * A hit takes no lock and writes to no other word than its own block's pins; what brings or evicts a block
 * takes that of its shard, held for a few pointer moves only.
 *
 * A block that isn't there is brought in three steps, of which the caller does the middle one, with blocking
 * or asynchronous I/O; vv_block_cache_read() is all of it for those that may block:
 *
 *     b = vv_block_cache_allocate(cache, file_number, handle);
 *     ... read b->bytes bytes at b->offset of vv_sst_reader_file(reader) into b->data ...
 *     st = vv_block_cache_complete(cache, reader, b, bytes_read, &block, err);      (block is pinned)
 *
 * or vv_block_cache_discard(cache, b) instead of the last one, if the read failed.
 */
#ifndef VV_ENGINE_SST_BLOCK_CACHE_H
#define VV_ENGINE_SST_BLOCK_CACHE_H

#include "engine/sst/readahead.h"
#include "engine/sst/sst.h"

typedef struct vv_block_cache vv_block_cache;

typedef struct vv_block {
    uint64_t file_number;
    uint64_t offset;
    uint32_t bytes; /* of data; of a block that was compressed, more than on disk */
    uint32_t hint_count;
    void *data;     /* for vv_sst_block_seek() and its like; read-only once completed */
    uint8_t *hints; /* for vv_block_seek_key(), of hint_count entries; NULL: none */
} vv_block;

/*
 * capacity_bytes bounds what the blocks take of the heap, their frames and the cache's own tables included,
 * and whether they are cached, pinned or on their way from disk. A new one evicts others before its memory is
 * allocated. The bound is passed only by what is pinned or on its way, when there is nothing left to evict,
 * and by single blocks larger than half a shard (1/16 of the capacity, or all of one under 2 MiB): those
 * evict nothing, are not cached, and are freed on release. NO_MEMORY.
 */
vv_status vv_block_cache_create(uint64_t capacity_bytes, vv_block_cache **out) VV_CHECKED;
/*
 * From now on, beside readers: a larger one is there at once, a smaller one when this returns, but for what
 * is pinned, which goes when it is released. One at a time. NO_MEMORY: it is as it was.
 */
vv_status vv_block_cache_set_capacity(vv_block_cache *c, uint64_t capacity_bytes) VV_CHECKED;
/* No block may be pinned or on its way. NULL is fine. */
void vv_block_cache_destroy(vv_block_cache *c);

/* Pinned, or NULL. Counts a hit or a miss. */
vv_block *vv_block_cache_lookup(vv_block_cache *c, uint64_t file_number, uint64_t offset);
/* The same of a block of r's, which remembers where it was found. */
vv_block *vv_block_cache_find(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h);
/* The same, only if it is still where it was found last: else NULL, and nothing is counted. */
vv_block *vv_block_cache_find_again(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h);
/* That is soon to be called for the reader's block `index`. */
void vv_block_cache_expect(const vv_block_cache *c, const vv_sst_reader *r, uint32_t index);

/* A block on its way: its data is memory for the bytes as stored, aligned to VV_IO_ALIGN_BYTES. The caller's,
 * until it is completed, inserted or discarded. NULL: no memory. Thread-safe, as all that follow. */
vv_block *vv_block_cache_allocate(vv_block_cache *c, uint64_t file_number, vv_block_handle h);
void vv_block_cache_discard(vv_block_cache *c, vv_block *b);

/* Make what was read of reader's file into b, b->bytes at b->offset unless the file ends before, a ready
 * block: verify, decompress, publish. Takes b over, whatever the outcome; *out is pinned, and may be another
 * one, if somebody else was first. CORRUPTION, UNSUPPORTED, NO_MEMORY, with words that name file and offset.
 */
vv_status vv_block_cache_complete(vv_block_cache *c, const vv_sst_reader *r, vv_block *b, size_t read_bytes,
                                  vv_block **out, vv_error *err) VV_CHECKED;

/* The step before: a block on its way that is whole is unpacked, if image_bytes, as vv_sst_block_verify()
 * says them, is not 0, and gets its hints. It is on its way still, also on failure. CORRUPTION, UNSUPPORTED,
 * NO_MEMORY. */
vv_status vv_block_cache_prepare(vv_block_cache *c, vv_block *b, uint32_t image_bytes) VV_CHECKED;

/* The last step of completing, for a block that is ready: publish it, pinned for the caller. If another
 * thread was first, `b` is discarded and that one's block returned. */
vv_block *vv_block_cache_insert(vv_block_cache *c, vv_block *b);

/* Keep a block that was just written: `stored` as it is on disk, VV_HEAT_HOT or VV_HEAT_WARM. Best effort. A
 * file that does not come to be has to be erased. */
void vv_block_cache_add(vv_block_cache *c, uint64_t file_number, vv_block_handle h, const void *stored,
                        vv_heat heat);
/* How warm a block is: cold also one that nobody has used since it came. Counts nothing. */
vv_heat vv_block_cache_heat(vv_block_cache *c, uint64_t file_number, uint64_t offset);

/* What vv_sst_block_seek_key() does, with fewer looks at the block. key_hash: vv_hash_key() of key. */
bool vv_block_seek_key(const vv_block *b, vv_block_handle h, vv_slice key, uint64_t key_hash, uint64_t lsn,
                       vv_entry *out);

/* What vv_sst_block_lower_bound(), count() and entry() do, in the same way. */
uint32_t vv_block_lower_bound(const vv_block *b, vv_slice key, uint64_t lsn);
uint32_t vv_block_count(const vv_block *b);
void vv_block_entry(const vv_block *b, uint32_t index, vv_entry *out);

/* Unpin. From any thread. */
void vv_block_cache_release(vv_block_cache *c, vv_block *b);

/* Drop the blocks of a file that is gone; pinned ones when they are released. */
void vv_block_cache_erase_file(vv_block_cache *c, uint64_t file_number);

/* Blocking: lookup, else read and complete. *out is pinned. CORRUPTION, UNSUPPORTED, IO, NO_MEMORY. */
vv_status vv_block_cache_read(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                              vv_error *err) VV_CHECKED;

/* As read, for a block that a lookup has just missed, and counted: read and complete. */
vv_status vv_block_cache_fetch(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                               vv_error *err) VV_CHECKED;

typedef struct vv_block_cache_stats {
    uint64_t bytes;        /* of all blocks: cached, pinned, on their way */
    uint64_t memory_bytes; /* the same, the frames kept for others, and the cache's own tables */
    uint64_t hits;
    uint64_t misses;
} vv_block_cache_stats;
void vv_block_cache_stats_get(vv_block_cache *c, vv_block_cache_stats *out);

/* A cursor over a table, through the cache. Borrows all; holds one block pinned, or two. Once it has gone
 * forward through several blocks, what the cache does not have is read ahead through the fetcher (NULL:
 * never). */
vv_status vv_sst_iter_create(vv_sst_reader *r, vv_block_cache *c, const vv_sst_fetcher *f,
                             vv_iter **out) VV_CHECKED;
/* From its next step on this one shows its entries in *at, which is its owner's, instead of its head: an
 * owner that shows what it shows copies nothing. */
void vv_sst_iter_show_at(vv_iter *it, vv_entry *at);

#endif
