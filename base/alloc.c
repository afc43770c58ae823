/*
 * alloc.c - the heap, by jemalloc's own interface.
 *
 * Why an arena for bulk: jemalloc spreads a process over several arenas, each of which keeps free pages for
 * later; those of a thread that has gone idle it may keep for good, since they are only looked at when their
 * arena is used. So what large buffers, come and gone on some thread, leave behind could be neither counted
 * nor bounded. In an arena of its own it is both, and all threads use the same free pages.
 *
 * Bulk is asked of the system in huge pages, where it has them: what lies spread over hundreds of MiB, as
 * cached blocks do, costs a walk through the page table at nearly each access otherwise. Gets from a cache of
 * 256 MiB took a fifth less time with them, scans a sixth. A huge page is there as a whole once a part of it
 * is touched; jemalloc takes the lowest free pages first, so that at most the last one has a part that nobody
 * wanted.
 */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#if VV_ALLOC_IS_MALLOC
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>
#else
#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/types.h>
#endif

/* Counting costs an uncontended relaxed increment only while a test has armed it. */
static _Atomic bool armed;
static _Atomic uint64_t count;
static _Atomic uint64_t fail_at;
static _Atomic uint64_t pages_bytes;

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

uint64_t vv_alloc_pages_bytes(void) {
    return atomic_load_explicit(&pages_bytes, memory_order_relaxed);
}

/* Whole pages, or NULL. */
static void *take_pages(size_t bytes);
static void give_pages(void *ptr, size_t bytes);

void *vv_alloc_pages(size_t bytes) {
    void *ptr = vv_alloc_must_fail() ? NULL : take_pages(bytes);
    if (ptr)
        atomic_fetch_add_explicit(&pages_bytes, bytes, memory_order_relaxed);
    return ptr;
}

void vv_free_pages(void *ptr, size_t bytes) {
    if (!ptr)
        return;
    give_pages(ptr, bytes);
    atomic_fetch_sub_explicit(&pages_bytes, bytes, memory_order_relaxed);
}

char *vv_strdup(const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = vv_alloc(bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

#if VV_ALLOC_IS_MALLOC

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

void *vv_alloc_bulk(size_t alignment, size_t bytes) {
    return vv_alloc_aligned(alignment, bytes);
}

static void *take_pages(size_t bytes) {
    void *ptr = NULL;
    return posix_memalign(&ptr, (size_t)sysconf(_SC_PAGESIZE), bytes) == 0 ? ptr : NULL;
}

static void give_pages(void *ptr, size_t bytes) {
    (void)bytes;
    free(ptr);
}

void vv_free(void *ptr) {
    free(ptr);
}

void vv_free_bulk(void *ptr) {
    free(ptr);
}

size_t vv_alloc_usable_bytes(void *ptr) {
    return malloc_usable_size(ptr);
}

void vv_alloc_trim(void) {}

uint64_t vv_alloc_overhead_bytes(void) {
    return 0;
}

uint64_t vv_alloc_arena_overhead_bytes(unsigned index) {
    (void)index;
    return 0;
}

void vv_alloc_overhead_refresh(void) {}

#else

/* ---- the arena of bulk ---- */

/* Free pages of bulk that nobody has wanted for so long go back to the system. */
#define BULK_DECAY_MS 1000

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static pthread_once_t bulk_once = PTHREAD_ONCE_INIT;
static unsigned bulk_arena; /* set once; valid if bulk_flags is not 0 */
static int bulk_flags;      /* for mallocx(); 0: no arena could be made, and bulk is as the rest */

static extent_hooks_t bulk_hooks;      /* jemalloc's, but for `alloc` */
static extent_alloc_t *default_extent; /* theirs */

static void *allocate_extent(extent_hooks_t *hooks, void *at, size_t bytes, size_t alignment, bool *zero,
                             bool *commit, unsigned arena) {
    bool huge = bytes >= HUGE_PAGE_BYTES;
    if (huge && !at && alignment < HUGE_PAGE_BYTES)
        alignment = HUGE_PAGE_BYTES;
    void *extent = default_extent(hooks, at, bytes, alignment, zero, commit, arena);
    if (extent && huge)
        (void)madvise(extent, bytes, MADV_HUGEPAGE); /* advice: without it there are small ones */
    return extent;
}

/* On failure the arena stays as it was. */
static void want_huge_pages(void) {
    extent_hooks_t *hooks = NULL;
    size_t bytes = sizeof hooks;
    char name[48];
    snprintf(name, sizeof name, "arena.%u.extent_hooks", bulk_arena);
    if (mallctl(name, &hooks, &bytes, NULL, 0) != 0)
        return;
    bulk_hooks = *hooks;
    default_extent = hooks->alloc;
    bulk_hooks.alloc = allocate_extent;
    hooks = &bulk_hooks;
    (void)mallctl(name, NULL, NULL, &hooks, sizeof hooks);
}

static void make_bulk_arena(void) {
    size_t bytes = sizeof bulk_arena;
    if (mallctl("arenas.create", &bulk_arena, &bytes, NULL, 0) != 0)
        return;
    want_huge_pages();
    char name[48];
    ssize_t decay_ms = BULK_DECAY_MS;
    snprintf(name, sizeof name, "arena.%u.dirty_decay_ms", bulk_arena);
    (void)mallctl(name, NULL, NULL, &decay_ms, sizeof decay_ms); /* else it is jemalloc's default */
    bulk_flags = (int)MALLOCX_ARENA(bulk_arena) | (int)MALLOCX_TCACHE_NONE;
}

static int flags_of_bulk(void) {
    (void)pthread_once(&bulk_once, make_bulk_arena);
    return bulk_flags;
}

static int flags_for(size_t bytes) {
    return VV_LIKELY(bytes <= VV_ALLOC_SMALL_BYTES_MAX) ? 0 : flags_of_bulk();
}

/* ---- allocating ---- */

static void *allocate(size_t bytes, int flags) {
    return vv_alloc_must_fail() ? NULL : mallocx(bytes ? bytes : 1, flags);
}

void *vv_alloc(size_t bytes) {
    return allocate(bytes, flags_for(bytes));
}

void *vv_alloc_zeroed(size_t bytes) {
    return allocate(bytes, flags_for(bytes) | MALLOCX_ZERO);
}

void *vv_realloc(void *old, size_t bytes) {
    if (!old)
        return vv_alloc(bytes);
    return vv_alloc_must_fail() ? NULL : rallocx(old, bytes ? bytes : 1, flags_for(bytes));
}

void *vv_alloc_aligned(size_t alignment, size_t bytes) {
    return allocate(bytes, flags_for(bytes) | (int)MALLOCX_ALIGN(alignment));
}

void *vv_alloc_bulk(size_t alignment, size_t bytes) {
    return allocate(bytes, flags_of_bulk() | (int)MALLOCX_ALIGN(alignment));
}

static void *take_pages(size_t bytes) {
    void *ptr = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ptr == MAP_FAILED)
        return NULL;
    (void)madvise(ptr, bytes, MADV_NOHUGEPAGE); /* fails where there are none */
    return ptr;
}

static void give_pages(void *ptr, size_t bytes) {
    (void)munmap(ptr, bytes);
}

void vv_free(void *ptr) {
    if (ptr)
        dallocx(ptr, 0);
}

void vv_free_bulk(void *ptr) {
    /* Past the thread's cache, which would hand it to whoever asks next, in the engine or not. */
    if (ptr)
        dallocx(ptr, MALLOCX_TCACHE_NONE);
}

size_t vv_alloc_usable_bytes(void *ptr) {
    return ptr ? sallocx(ptr, 0) : 0;
}

/* ---- what it takes ---- */

void vv_alloc_trim(void) {
    if (flags_of_bulk() == 0)
        return;
    char name[48];
    snprintf(name, sizeof name, "arena.%u.purge", bulk_arena);
    (void)mallctl(name, NULL, NULL, NULL, 0);
}

static uint64_t arena_figure(unsigned index, const char *figure) {
    char name[64];
    size_t value = 0, bytes = sizeof value;
    snprintf(name, sizeof name, "stats.arenas.%u.%s", index, figure);
    return mallctl(name, &value, &bytes, NULL, 0) == 0 ? value : 0;
}

void vv_alloc_overhead_refresh(void) {
    uint64_t epoch = 1; /* any value: writing it is what makes jemalloc count */
    (void)mallctl("epoch", NULL, NULL, &epoch, sizeof epoch);
}

uint64_t vv_alloc_arena_overhead_bytes(unsigned index) {
    uint64_t resident = arena_figure(index, "resident");
    uint64_t allocated = arena_figure(index, "small.allocated") + arena_figure(index, "large.allocated");
    return resident > allocated ? resident - allocated : 0;
}

uint64_t vv_alloc_overhead_bytes(void) {
    return flags_of_bulk() == 0 ? 0 : vv_alloc_arena_overhead_bytes(bulk_arena);
}

#endif
