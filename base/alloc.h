/*
 * alloc.h - every heap allocation of base, io and engine goes through these, so that tests can fail each of
 * them in turn. They return NULL when there is no memory; callers answer with VV_NO_MEMORY.
 *
 * They are jemalloc's, whatever malloc() is in the process that the library lives in. Bulk, which is all that
 * is larger than VV_ALLOC_SMALL_BYTES_MAX and what asks for it by name, comes from a jemalloc arena that
 * nobody else uses: what it takes beyond what is allocated can be told, and given back, whatever the rest of
 * the process does. (Under ASan and TSan all come from malloc(), so that the sanitizers see them.)
 */
#ifndef VV_BASE_ALLOC_H
#define VV_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#if defined(VV_ASAN) || defined(VV_TSAN)
#define VV_ALLOC_IS_MALLOC 1
#else
#define VV_ALLOC_IS_MALLOC 0
#endif

/* Up to here jemalloc keeps a cache for each thread, as it is configured by default; the arena has none. */
#define VV_ALLOC_SMALL_BYTES_MAX ((size_t)32 << 10)

void *vv_alloc(size_t bytes) VV_CHECKED;
void *vv_alloc_zeroed(size_t bytes) VV_CHECKED;

/* As realloc: on failure NULL, and `old` stays valid. */
void *vv_realloc(void *old, size_t bytes) VV_CHECKED;

/* alignment: a power of two, at least sizeof(void *). Freed by vv_free as all others. */
void *vv_alloc_aligned(size_t alignment, size_t bytes) VV_CHECKED;

/* As aligned; bulk whatever its size. For what is allocated by the thousands and lives long. */
void *vv_alloc_bulk(size_t alignment, size_t bytes) VV_CHECKED;

/* Pages of the system's own, none of them huge: for what is registered with the kernel, which counts the
 * whole of a huge page against the memlock limit, however little of it is registered. Aligned to a page. */
void *vv_alloc_pages(size_t bytes) VV_CHECKED;
/* NULL is fine. bytes: as they were asked for. */
void vv_free_pages(void *ptr, size_t bytes);
/* All that is there. */
uint64_t vv_alloc_pages_bytes(void);

char *vv_strdup(const char *text) VV_CHECKED;

/* NULL is fine. */
void vv_free(void *ptr);
/* What vv_alloc_bulk() gave. */
void vv_free_bulk(void *ptr);

/* What an allocation really takes of the heap, its rounding included. */
size_t vv_alloc_usable_bytes(void *ptr);

/* The free memory that bulk keeps for later goes back to the system. For whoever has just freed much of it
 * and may take a millisecond; what is freed bit by bit goes by itself. */
void vv_alloc_trim(void);

/* What the process's bulk takes of the system beyond what is allocated from it: jemalloc's tables for it, and
 * free pages. 0 where that is not known. */
uint64_t vv_alloc_overhead_bytes(void);
/* The same of jemalloc's arena `index`. */
uint64_t vv_alloc_arena_overhead_bytes(unsigned index);
/* Bring these figures up to date. Takes all locks of the heap in turn: for statistics. */
void vv_alloc_overhead_refresh(void);

/*
 * For tests: the n-th allocation from now on (1 = the next) fails, once; 0 turns it off. vv_alloc_count() is
 * the number of allocations so far. Process-wide, thread-safe.
 */
void vv_alloc_fail_at(uint64_t n);
uint64_t vv_alloc_count(void);

/* For allocators beside malloc (arena.h): counts one allocation, and says whether it is the one to fail. */
bool vv_alloc_must_fail(void) VV_CHECKED;

#endif
