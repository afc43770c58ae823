/*
 * mem_index.h - where the newest version of a key is, by the key's hash: beside a memtable that keeps order,
 * so that a get costs two cache misses at any size, and one if the key is not there.
 *
 * It may leave entries out, when there is no memory for them, and then says so for the keys that it can't
 * know of: the order decides. What it says of all others is certain. So nothing here can fail.
 *
 * One writer, readers beside it without locks or waits. Everything lives in the arena and goes with it.
 */
#ifndef VV_ENGINE_MEM_MEM_INDEX_H
#define VV_ENGINE_MEM_MEM_INDEX_H

#include "base/arena.h"
#include "engine/mem/mem_impl.h"

typedef struct vv_mem_bucket vv_mem_bucket;

typedef struct vv_mem_index {
    vv_arena *arena;
    _Atomic(vv_mem_bucket **) pages; /* NULL: there are no buckets at all */
    _Atomic uint64_t bucket_count;
    /* The writer's. */
    uint64_t key_count;
    uint64_t page_count;
    uint64_t page_limit;  /* what the array of pages has room for */
    vv_mem_bucket *spare; /* further lines, chained */
    uint64_t spare_count;
} vv_mem_index;

void vv_mem_index_init(vv_mem_index *x, vv_arena *arena);

/* Get memory for so many more keys, if there is some. Writer only; before the caller reserves for itself. */
void vv_mem_index_reserve(vv_mem_index *x, uint64_t more_keys);

/* As reserve, for an empty index that nobody else knows, and all growth at once. */
void vv_mem_index_load_begin(vv_mem_index *x, uint64_t keys);

/* r, which readers can reach already, is the newest version of its key. hash: vv_hash_key(). Writer only. */
void vv_mem_index_put(vv_mem_index *x, uint64_t hash, const vv_mem_record *r);

/* Start loading what a put or find of this hash needs. */
void vv_mem_index_prefetch(const vv_mem_index *x, uint64_t hash);

typedef enum vv_mem_index_answer {
    VV_MEM_INDEX_FOUND,
    VV_MEM_INDEX_ABSENT,
    VV_MEM_INDEX_UNKNOWN, /* it was left out, or is not there */
} vv_mem_index_answer;

/* The newest version of t's key, whatever t's LSN. Any thread. */
vv_mem_index_answer vv_mem_index_find(const vv_mem_index *x, uint64_t hash, const vv_mem_target *t,
                                      const vv_mem_record **out);

#endif
