#include "base/alloc.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Counting costs an uncontended relaxed increment only while a test has armed it. */
static _Atomic bool armed;
static _Atomic uint64_t count;
static _Atomic uint64_t fail_at;

bool vv_alloc_must_fail(void) {
    if (VV_LIKELY(!atomic_load_explicit(&armed, memory_order_relaxed)))
        return false;
    uint64_t n = atomic_fetch_add_explicit(&count, 1, memory_order_relaxed) + 1;
    return n == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

void vv_alloc_fail_at(uint64_t n) {
    uint64_t base = atomic_load_explicit(&count, memory_order_relaxed);
    atomic_store_explicit(&fail_at, n ? base + n : 0, memory_order_relaxed);
    atomic_store_explicit(&armed, true, memory_order_relaxed);
}

uint64_t vv_alloc_count(void) {
    return atomic_load_explicit(&count, memory_order_relaxed);
}

void *vv_alloc(size_t bytes) {
    return vv_alloc_must_fail() ? NULL : malloc(bytes);
}

void *vv_alloc_zeroed(size_t bytes) {
    return vv_alloc_must_fail() ? NULL : calloc(1, bytes);
}

void *vv_realloc(void *old, size_t bytes) {
    return vv_alloc_must_fail() ? NULL : realloc(old, bytes);
}

void *vv_alloc_aligned(size_t alignment, size_t bytes) {
    if (vv_alloc_must_fail())
        return NULL;
    void *ptr = NULL;
    return posix_memalign(&ptr, alignment, bytes) == 0 ? ptr : NULL;
}

char *vv_strdup(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = vv_alloc(bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

void vv_free(void *ptr) {
    free(ptr);
}

size_t vv_alloc_usable_bytes(void *ptr) {
    return malloc_usable_size(ptr);
}
