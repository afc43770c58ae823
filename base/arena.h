/*
 * arena.h - memory that is handed out piece by piece and given back all at once.
 *
 * Pieces are cut from chunks, and the chunks come from a jemalloc arena that is this arena's alone: dropping
 * it gives whole extents back to the system, however the rest of the heap is fragmented. Under ASan and TSan
 * the chunks come from malloc, so that the sanitizers see them.
 *
 * One thread at a time reserves and allocates; vv_arena_bytes() is for any thread.
 */
#ifndef VV_BASE_ARENA_H
#define VV_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Every piece is aligned to, and takes a multiple of, this. */
#define VV_ARENA_ALIGN_BYTES 8

typedef struct vv_arena vv_arena;

/* NO_MEMORY. */
vv_status vv_arena_create(vv_arena **out) VV_CHECKED;
/* Frees everything that was ever allocated from it. NULL is fine. */
void vv_arena_destroy(vv_arena *a);

/*
 * Make sure that the next allocations, up to `bytes` together (each rounded up to VV_ARENA_ALIGN_BYTES),
 * can't fail. A later call replaces the promise of an earlier one. NO_MEMORY: as if it was never called.
 */
vv_status vv_arena_reserve(vv_arena *a, size_t bytes) VV_CHECKED;

/* Never NULL: allocating beyond what was reserved is a bug unless there happens to be memory (asserted).
 * Not zeroed. */
void *vv_arena_alloc(vv_arena *a, size_t bytes) VV_CHECKED;

/* The usable size of all chunks: what the arena really takes. */
uint64_t vv_arena_bytes(const vv_arena *a);

/* What all arenas of the process take of the system beyond that, as of vv_alloc_overhead_refresh(). */
uint64_t vv_arena_overhead_bytes(void);

#endif
