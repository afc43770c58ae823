/*
 * arena.c - a bump allocator over chunks of one jemalloc arena.
 *
 * Chunks double from 16 KiB to 1 MiB, so that a small arena is small and a large one makes few calls. A
 * reservation is always met by one chunk: allocating within it only moves a pointer. One that would waste
 * much of the current chunk gets a chunk of its own, and the current one goes on after it.
 *
 * What is destroyed gives its pages back and waits, with its jemalloc arena, for the next that is created.
 * Were the jemalloc arena destroyed, its first block, of 2 MiB, would stay mapped for good: after some
 * hundred thousand memtables the process would have no mappings left to make (vm.max_map_count).
 */
#include "base/arena.h"

#include <jemalloc/jemalloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/sync.h"

#define CHUNK_BYTES_FIRST ((size_t)16 << 10)
#define CHUNK_BYTES_MAX   ((size_t)1 << 20)

typedef struct chunk {
    struct chunk *next;
    uint8_t data[];
} chunk;

/* Where pieces are cut from: [at, end) of one chunk. */
typedef struct span {
    uint8_t *at;
    uint8_t *end;
} span;

struct vv_arena {
    span current;
    span own; /* of the last reservation that got a chunk of its own; empty when it is used up */
    chunk *chunks;
    size_t next_chunk_bytes;
    _Atomic uint64_t bytes;
    unsigned index;  /* of the jemalloc arena */
    vv_arena *newer; /* in the list of all; or the next spare one */
    vv_arena *older;
};

/* All arenas of the process, so that what they take can be told. */
static struct {
    vv_mutex lock;
    vv_arena ends;   /* its `newer` is the oldest one */
    vv_arena *spare; /* destroyed; as many as there were at once */
} all = {.lock = {PTHREAD_MUTEX_INITIALIZER}, .ends = {.newer = &all.ends, .older = &all.ends}};

static void list_add(vv_arena *a) {
    vv_mutex_lock(&all.lock);
    a->newer = &all.ends;
    a->older = all.ends.older;
    a->older->newer = a;
    all.ends.older = a;
    vv_mutex_unlock(&all.lock);
}

static void list_remove(vv_arena *a) {
    vv_mutex_lock(&all.lock);
    a->older->newer = a->newer;
    a->newer->older = a->older;
    vv_mutex_unlock(&all.lock);
}

static size_t span_left(const span *s) {
    return (size_t)(s->end - s->at);
}

/* What a piece takes; at least one unit, so that every piece has an address. */
static size_t round_up(size_t bytes) {
    if (bytes == 0)
        bytes = 1;
    return (bytes + VV_ARENA_ALIGN_BYTES - 1) / VV_ARENA_ALIGN_BYTES * VV_ARENA_ALIGN_BYTES;
}

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static vv_arena *take_spare(void) {
    vv_mutex_lock(&all.lock);
    vv_arena *a = all.spare;
    if (a)
        all.spare = a->newer;
    vv_mutex_unlock(&all.lock);
    return a;
}

static void give_spare(vv_arena *a) {
    unsigned index = a->index;
    memset(a, 0, sizeof *a);
    a->index = index;
    vv_mutex_lock(&all.lock);
    a->newer = all.spare;
    all.spare = a;
    vv_mutex_unlock(&all.lock);
}

static vv_arena *make(void) {
    vv_arena *a = vv_alloc_zeroed(sizeof *a);
    size_t index_bytes = sizeof a->index;
    if (!a || VV_ALLOC_IS_MALLOC || mallctl("arenas.create", &a->index, &index_bytes, NULL, 0) == 0)
        return a;
    vv_free(a);
    return NULL;
}

vv_status vv_arena_create(vv_arena **out) {
    *out = NULL;
    if (vv_alloc_must_fail()) /* whether there is a spare one or not */
        return no_memory();
    vv_arena *a = take_spare();
    if (!a)
        a = make();
    if (!a)
        return no_memory();
    a->next_chunk_bytes = CHUNK_BYTES_FIRST;
    list_add(a);
    *out = a;
    return VV_STATUS_OK;
}

static void tell(const vv_arena *a, const char *what) {
    char name[32];
    snprintf(name, sizeof name, "arena.%u.%s", a->index, what);
    VV_ASSERT(mallctl(name, NULL, NULL, NULL, 0) == 0);
}

void vv_arena_destroy(vv_arena *a) {
    if (!a)
        return;
    list_remove(a);
    if (VV_ALLOC_IS_MALLOC) {
        while (a->chunks) {
            chunk *next = a->chunks->next;
            vv_free(a->chunks);
            a->chunks = next;
        }
        vv_free(a);
        return;
    }
    tell(a, "reset"); /* all chunks at once */
    tell(a, "purge");
    give_spare(a);
}

/* A chunk with room for `bytes` pieces' bytes; false: no memory. */
static bool add_chunk(vv_arena *a, size_t bytes, span *out) {
    size_t total = bytes + sizeof(chunk);
    size_t usable;
    chunk *c;
    if (VV_ALLOC_IS_MALLOC) {
        c = vv_alloc(total);
        if (!c)
            return false;
        usable = total;
    } else {
        int flags = (int)MALLOCX_ARENA(a->index) | (int)MALLOCX_TCACHE_NONE;
        c = vv_alloc_must_fail() ? NULL : mallocx(total, flags);
        if (!c)
            return false;
        usable = sallocx(c, flags);
    }
    c->next = a->chunks;
    a->chunks = c;
    *out = (span){.at = c->data, .end = (uint8_t *)c + usable / VV_ARENA_ALIGN_BYTES * VV_ARENA_ALIGN_BYTES};
    /* relaxed: a gauge; one writer, so that no increment is lost. */
    uint64_t before = atomic_load_explicit(&a->bytes, memory_order_relaxed);
    atomic_store_explicit(&a->bytes, before + usable, memory_order_relaxed);
    return true;
}

vv_status vv_arena_reserve(vv_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2)
        return no_memory();
    bytes = round_up(bytes);
    if (span_left(&a->own) >= bytes || span_left(&a->current) >= bytes) {
        /* Pieces are cut from `own` first: it must hold the whole reservation or be out of the way. */
        if (span_left(&a->own) < bytes)
            a->own = (span){0};
        return VV_STATUS_OK;
    }
    bool own = bytes > CHUNK_BYTES_MAX / 4;
    span fresh;
    if (!add_chunk(a, own ? bytes : VV_MAX(bytes, a->next_chunk_bytes - sizeof(chunk)), &fresh))
        return no_memory();
    if (own) {
        a->own = fresh;
    } else {
        a->own = (span){0};
        a->current = fresh;
        a->next_chunk_bytes = VV_MIN(a->next_chunk_bytes * 2, CHUNK_BYTES_MAX);
    }
    return VV_STATUS_OK;
}

void *vv_arena_alloc(vv_arena *a, size_t bytes) {
    bytes = round_up(bytes);
    span *s = span_left(&a->own) >= bytes ? &a->own : &a->current;
    if (VV_UNLIKELY(span_left(s) < bytes)) {
        VV_ASSERT(vv_ok(vv_arena_reserve(a, bytes)));
        s = span_left(&a->own) >= bytes ? &a->own : &a->current;
    }
    uint8_t *piece = s->at;
    s->at += bytes;
    return piece;
}

uint64_t vv_arena_bytes(const vv_arena *a) {
    return atomic_load_explicit(&a->bytes, memory_order_relaxed);
}

uint64_t vv_arena_overhead_bytes(void) {
    uint64_t bytes = 0;
    vv_mutex_lock(&all.lock);
    for (const vv_arena *a = all.ends.newer; a != &all.ends && !VV_ALLOC_IS_MALLOC; a = a->newer)
        bytes += vv_alloc_arena_overhead_bytes(a->index);
    for (const vv_arena *a = all.spare; a; a = a->newer)
        bytes += vv_alloc_arena_overhead_bytes(a->index);
    vv_mutex_unlock(&all.lock);
    return bytes;
}
