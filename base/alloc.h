/*
 * alloc.h - every heap allocation of base, io and engine goes through these, so that tests can fail each of
 * them in turn. They return NULL when there is no memory; callers answer with VV_NO_MEMORY.
 */
#ifndef VV_BASE_ALLOC_H
#define VV_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

void *vv_alloc(size_t bytes) VV_CHECKED;
void *vv_alloc_zeroed(size_t bytes) VV_CHECKED;

/* As realloc: on failure NULL, and `old` stays valid. */
void *vv_realloc(void *old, size_t bytes) VV_CHECKED;

/* alignment: a power of two, at least sizeof(void *). Freed by vv_free as all others. */
void *vv_alloc_aligned(size_t alignment, size_t bytes) VV_CHECKED;

char *vv_strdup(const char *text) VV_CHECKED;

/* NULL is fine. */
void vv_free(void *ptr);

/* What an allocation really takes of the heap, its rounding included. */
size_t vv_alloc_usable_bytes(void *ptr);

/*
 * For tests: the n-th allocation from now on (1 = the next) fails, once; 0 turns it off. vv_alloc_count() is
 * the number of allocations so far. Process-wide, thread-safe.
 */
void vv_alloc_fail_at(uint64_t n);
uint64_t vv_alloc_count(void);

/* For allocators beside malloc (arena.h): counts one allocation, and says whether it is the one to fail. */
bool vv_alloc_must_fail(void) VV_CHECKED;

#endif
