#include "tests/fuzz/fuzz.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

void fuzz_fail(const char *file, int line, const char *condition, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s:%d: FUZZ_CHECK(%s) ", file, line, condition);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

/* ---- every allocation of base, io, engine and rpc passes through here (-Wl,--wrap) ---- */

static _Atomic size_t allocation_max;

void fuzz_allocation_max(size_t bytes) {
    atomic_store_explicit(&allocation_max, bytes, memory_order_relaxed);
}

static void check(size_t bytes) {
    size_t max = atomic_load_explicit(&allocation_max, memory_order_relaxed);
    FUZZ_CHECK(max == 0 || bytes <= max, "allocation of %zu bytes, allowed are %zu", bytes, max);
}

/*
 * Under AddressSanitizer each large allocation is mapped, its shadow filled, and both unmapped when it is
 * freed: milliseconds for the buffers of a recovery, most of a run. Here freed ones are kept, poisoned,
 * for whoever asks for the same size next.
 */
#ifdef VV_ASAN
#include <pthread.h>
#include <sanitizer/asan_interface.h>

#define KEPT_BYTES_MIN ((size_t)256 << 10)
#define KEPT_MAX       32
#define KEPT_ALIGNMENT 4096

typedef struct kept {
    void *data;
    size_t bytes;
    bool used;
} kept;

static kept pool[KEPT_MAX];
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;

/* NULL: there is none of this size, nor room for one more. */
static void *pool_take(size_t bytes) {
    void *data = NULL;
    if (bytes < KEPT_BYTES_MIN)
        return NULL;
    pthread_mutex_lock(&pool_lock);
    for (size_t i = 0; i < KEPT_MAX && !data; i++) {
        kept *k = &pool[i];
        if (k->used || (k->data && k->bytes != bytes))
            continue;
        if (!k->data && posix_memalign(&k->data, KEPT_ALIGNMENT, bytes) != 0)
            continue;
        *k = (kept){.data = k->data, .bytes = bytes, .used = true};
        __asan_unpoison_memory_region(k->data, bytes);
        data = k->data;
    }
    pthread_mutex_unlock(&pool_lock);
    return data;
}

static bool may_be_kept(const void *data) {
    return data && (uintptr_t)data % KEPT_ALIGNMENT == 0;
}

/* The size of what came from here; 0: it did not. */
static size_t pool_bytes(const void *data) {
    size_t bytes = 0;
    if (!may_be_kept(data))
        return 0;
    pthread_mutex_lock(&pool_lock);
    for (size_t i = 0; i < KEPT_MAX && bytes == 0; i++)
        if (pool[i].used && pool[i].data == data)
            bytes = pool[i].bytes;
    pthread_mutex_unlock(&pool_lock);
    return bytes;
}

/* False: it is not from here. */
static bool pool_give(const void *data) {
    bool mine = false;
    if (!may_be_kept(data))
        return false;
    pthread_mutex_lock(&pool_lock);
    for (size_t i = 0; i < KEPT_MAX && !mine; i++) {
        kept *k = &pool[i];
        mine = k->used && k->data == data;
        if (!mine)
            continue;
        k->used = false;
        __asan_poison_memory_region(k->data, k->bytes);
    }
    pthread_mutex_unlock(&pool_lock);
    return mine;
}
#else
#define KEPT_ALIGNMENT 4096

static void *pool_take(size_t bytes) {
    (void)bytes;
    return NULL;
}

static size_t pool_bytes(const void *data) {
    (void)data;
    return 0;
}

static bool pool_give(const void *data) {
    (void)data;
    return false;
}
#endif

void *__real_vv_alloc(size_t bytes);
void *__real_vv_alloc_zeroed(size_t bytes);
void *__real_vv_realloc(void *old, size_t bytes);
void *__real_vv_alloc_aligned(size_t alignment, size_t bytes);
void *__real_vv_alloc_bulk(size_t alignment, size_t bytes);
void __real_vv_free(void *ptr);
void *__wrap_vv_alloc(size_t bytes);
void *__wrap_vv_alloc_zeroed(size_t bytes);
void *__wrap_vv_realloc(void *old, size_t bytes);
void *__wrap_vv_alloc_aligned(size_t alignment, size_t bytes);
void *__wrap_vv_alloc_bulk(size_t alignment, size_t bytes);
void __wrap_vv_free(void *ptr);

void *__wrap_vv_alloc(size_t bytes) {
    check(bytes);
    void *kept_one = pool_take(bytes);
    return kept_one ? kept_one : __real_vv_alloc(bytes);
}

void *__wrap_vv_alloc_zeroed(size_t bytes) {
    check(bytes);
    void *kept_one = pool_take(bytes);
    if (kept_one)
        memset(kept_one, 0, bytes);
    return kept_one ? kept_one : __real_vv_alloc_zeroed(bytes);
}

void *__wrap_vv_realloc(void *old, size_t bytes) {
    check(bytes);
    size_t old_bytes = pool_bytes(old);
    if (old_bytes == 0)
        return __real_vv_realloc(old, bytes);
    void *grown = __wrap_vv_alloc(bytes);
    if (grown) {
        memcpy(grown, old, VV_MIN(old_bytes, bytes));
        (void)pool_give(old);
    }
    return grown;
}

void *__wrap_vv_alloc_aligned(size_t alignment, size_t bytes) {
    check(bytes);
    void *kept_one = alignment <= KEPT_ALIGNMENT ? pool_take(bytes) : NULL;
    return kept_one ? kept_one : __real_vv_alloc_aligned(alignment, bytes);
}

void *__wrap_vv_alloc_bulk(size_t alignment, size_t bytes) {
    check(bytes);
    return __real_vv_alloc_bulk(alignment, bytes);
}

void __wrap_vv_free(void *ptr) {
    if (!pool_give(ptr))
        __real_vv_free(ptr);
}
