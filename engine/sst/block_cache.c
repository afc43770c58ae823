/*
 * block_cache.c - a sharded LRU cache of data blocks.
 *
 * Invariants
 *   C1  The blocks that a shard can find take at most its share of the capacity, frames included.
 *   C2  A block is in its shard's LRU list exactly when it can be found there and nobody has it pinned.
 *   C3  A block that can not be found (it never fitted, or its file was erased) is freed when its last pin
 *       goes.
 *
 * Locking: shard->mu.lock guards that shard's table, list and the pins of its blocks. It is a leaf: nothing
 * is called while holding it but the heap.
 */
#include "engine/sst/block_cache.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/sst/sst_impl.h"

#define SHARD_COUNT_MAX 16
#define SHARD_BYTES_MIN (UINT64_C(1) << 20) /* fewer shards rather than smaller ones */

typedef struct frame {
    vv_block block; /* first: a vv_block * is a frame * */
    struct frame *hash_next;
    struct frame *older; /* LRU list */
    struct frame *newer;
    uint32_t pins;
    bool cached; /* can be found */
} frame;

typedef struct shard {
    VV_CACHE_ALIGNED struct {
        vv_mutex lock;
        frame **buckets;
        uint64_t bucket_count; /* a power of two */
        uint64_t bytes;
        uint64_t hits;
        uint64_t misses;
        frame lru; /* its `newer` is the oldest unpinned block, its `older` the newest */
    } mu;
    uint64_t capacity_bytes;
} shard;

struct vv_block_cache {
    uint32_t shard_count; /* a power of two */
    shard shards[];
};

/* ---- shards ---- */

static uint64_t hash_of(uint64_t file_number, uint64_t offset) {
    uint64_t h = (file_number * UINT64_C(0x9E3779B97F4A7C15)) ^ (offset / VV_SST_BLOCK_BYTES_MIN);
    h *= UINT64_C(0xD6E8FEB86659FD93);
    return h ^ (h >> 32);
}

static shard *shard_of(vv_block_cache *c, uint64_t hash) {
    return &c->shards[(hash >> 48) & (c->shard_count - 1)];
}

static shard *shard_of_block(vv_block_cache *c, const vv_block *b) {
    return shard_of(c, hash_of(b->file_number, b->offset));
}

static frame **bucket_of(shard *s, uint64_t hash) {
    return &s->mu.buckets[hash & (s->mu.bucket_count - 1)];
}

/* What a block takes of the capacity. */
static uint64_t frame_bytes(const frame *f) {
    return sizeof *f + f->block.bytes;
}

static void frame_free(frame *f) {
    vv_free(f->block.data);
    vv_free(f);
}

static void lru_remove(frame *f) {
    f->older->newer = f->newer;
    f->newer->older = f->older;
    f->older = f->newer = NULL;
}

static void lru_add_newest(shard *s, frame *f) {
    frame *head = &s->mu.lru;
    f->newer = head;
    f->older = head->older;
    head->older->newer = f;
    head->older = f;
}

static frame *find(shard *s, uint64_t hash, uint64_t file_number, uint64_t offset) {
    for (frame *f = *bucket_of(s, hash); f; f = f->hash_next) {
        if (f->block.file_number == file_number && f->block.offset == offset)
            return f;
    }
    return NULL;
}

static void pin(frame *f) {
    if (f->pins++ == 0 && f->cached && f->older)
        lru_remove(f);
}

/* Take a block out of the table; the caller frees it if nobody has it pinned. */
static void forget(shard *s, frame *f) {
    frame **at = bucket_of(s, hash_of(f->block.file_number, f->block.offset));
    while (*at != f)
        at = &(*at)->hash_next;
    *at = f->hash_next;
    if (f->older)
        lru_remove(f);
    f->cached = false;
    s->mu.bytes -= frame_bytes(f);
}

/* Evict until `bytes` more fit; false: too much is pinned. Evicted blocks are chained to *freed. */
static bool make_room(shard *s, uint64_t bytes, frame **freed) {
    if (bytes > s->capacity_bytes)
        return false;
    while (s->mu.bytes > s->capacity_bytes - bytes) {
        frame *oldest = s->mu.lru.newer;
        if (oldest == &s->mu.lru)
            return false;
        forget(s, oldest);
        oldest->hash_next = *freed;
        *freed = oldest;
    }
    return true;
}

static void free_chain(frame *f) {
    while (f) {
        frame *next = f->hash_next;
        frame_free(f);
        f = next;
    }
}

/* ---- the cache ---- */

vv_status vv_block_cache_create(uint64_t capacity_bytes, vv_block_cache **out) {
    *out = NULL;
    uint32_t count = 1;
    while (count < SHARD_COUNT_MAX && capacity_bytes / (count * 2) >= SHARD_BYTES_MIN)
        count *= 2;
    size_t bytes = sizeof(vv_block_cache) + count * sizeof(shard);
    vv_block_cache *c = vv_alloc_aligned(VV_CACHE_LINE_BYTES, vv_align_up(bytes, VV_CACHE_LINE_BYTES));
    if (!c)
        goto fail;
    memset(c, 0, bytes);
    for (; c->shard_count < count; c->shard_count++) {
        shard *s = &c->shards[c->shard_count];
        s->capacity_bytes = capacity_bytes / count;
        s->mu.bucket_count = 16;
        while (s->mu.bucket_count < s->capacity_bytes / VV_SST_BLOCK_BYTES_MIN)
            s->mu.bucket_count *= 2;
        s->mu.buckets = vv_alloc_zeroed(s->mu.bucket_count * sizeof(frame *));
        if (!s->mu.buckets)
            goto fail;
        vv_mutex_init(&s->mu.lock);
        s->mu.lru.newer = s->mu.lru.older = &s->mu.lru;
    }
    *out = c;
    return VV_STATUS_OK;

fail:
    vv_block_cache_destroy(c);
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

void vv_block_cache_destroy(vv_block_cache *c) {
    if (!c)
        return;
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        while (s->mu.lru.newer != &s->mu.lru) {
            frame *f = s->mu.lru.newer;
            forget(s, f);
            frame_free(f);
        }
        VV_ASSERT(s->mu.bytes == 0); /* else a block is still pinned */
        vv_free(s->mu.buckets);
        vv_mutex_deinit(&s->mu.lock);
    }
    vv_free(c);
}

vv_block *vv_block_cache_lookup(vv_block_cache *c, uint64_t file_number, uint64_t offset) {
    uint64_t hash = hash_of(file_number, offset);
    shard *s = shard_of(c, hash);
    vv_mutex_lock(&s->mu.lock);
    frame *f = find(s, hash, file_number, offset);
    if (f) {
        pin(f);
        s->mu.hits++;
    } else {
        s->mu.misses++;
    }
    vv_mutex_unlock(&s->mu.lock);
    return f ? &f->block : NULL;
}

vv_block *vv_block_cache_allocate(vv_block_cache *c, uint64_t file_number, vv_block_handle h) {
    (void)c;
    frame *f = vv_alloc_zeroed(sizeof *f);
    if (!f)
        return NULL;
    f->block.file_number = file_number;
    f->block.offset = h.offset;
    f->block.bytes = h.bytes;
    f->block.data = vv_alloc_aligned(VV_IO_ALIGN_BYTES, h.bytes);
    if (!f->block.data) {
        vv_free(f);
        return NULL;
    }
    return &f->block;
}

void vv_block_cache_discard(vv_block_cache *c, vv_block *b) {
    (void)c;
    frame *f = (frame *)b;
    VV_ASSERT(!f->cached && f->pins == 0);
    frame_free(f);
}

vv_block *vv_block_cache_insert(vv_block_cache *c, vv_block *b) {
    frame *f = (frame *)b;
    VV_ASSERT(!f->cached && f->pins == 0);
    uint64_t hash = hash_of(b->file_number, b->offset);
    shard *s = shard_of(c, hash);
    frame *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    frame *first = find(s, hash, b->file_number, b->offset);
    if (first) {
        f->hash_next = NULL;
        freed = f;
        f = first;
    } else if (make_room(s, frame_bytes(f), &freed)) {
        frame **bucket = bucket_of(s, hash);
        f->hash_next = *bucket;
        *bucket = f;
        f->cached = true;
        s->mu.bytes += frame_bytes(f);
    }
    pin(f);
    vv_mutex_unlock(&s->mu.lock);
    free_chain(freed);
    return &f->block;
}

void vv_block_cache_release(vv_block_cache *c, vv_block *b) {
    frame *f = (frame *)b;
    shard *s = shard_of_block(c, b);
    vv_mutex_lock(&s->mu.lock);
    VV_ASSERT(f->pins > 0);
    bool last = --f->pins == 0;
    if (last && f->cached)
        lru_add_newest(s, f);
    bool drop = last && !f->cached;
    vv_mutex_unlock(&s->mu.lock);
    if (drop)
        frame_free(f);
}

void vv_block_cache_erase_file(vv_block_cache *c, uint64_t file_number) {
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        frame *freed = NULL;
        vv_mutex_lock(&s->mu.lock);
        for (uint64_t n = 0; n < s->mu.bucket_count; n++) {
            for (frame *f = s->mu.buckets[n], *next; f; f = next) {
                next = f->hash_next;
                if (f->block.file_number != file_number)
                    continue;
                forget(s, f);
                if (f->pins == 0) {
                    f->hash_next = freed;
                    freed = f;
                }
            }
        }
        vv_mutex_unlock(&s->mu.lock);
        free_chain(freed);
    }
}

static vv_status fail_block(const vv_sst_reader *r, vv_block_handle h, vv_status st, vv_error *err) {
    return vv_fail(err, st, "%s: data block at %" PRIu64 ": %s", vv_sst_reader_path(r), h.offset,
                   st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

vv_status vv_block_cache_read(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                              vv_error *err) {
    *out = vv_block_cache_lookup(c, vv_sst_reader_file_number(r), h.offset);
    if (*out)
        return VV_STATUS_OK;
    vv_block *b = vv_block_cache_allocate(c, vv_sst_reader_file_number(r), h);
    if (!b)
        return fail_block(r, h, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), err);
    size_t got;
    vv_status st = vv_file_read(vv_sst_reader_file(r), b->data, h.bytes, h.offset, &got);
    if (vv_ok(st) && got < h.bytes)
        st = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    if (vv_ok(st))
        st = vv_sst_block_verify(r, h, b->data);
    if (!vv_ok(st)) {
        vv_block_cache_discard(c, b);
        return fail_block(r, h, st, err);
    }
    *out = vv_block_cache_insert(c, b);
    return VV_STATUS_OK;
}

void vv_block_cache_stats_get(vv_block_cache *c, vv_block_cache_stats *out) {
    *out = (vv_block_cache_stats){0};
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        vv_mutex_lock(&s->mu.lock);
        out->bytes += s->mu.bytes;
        out->hits += s->mu.hits;
        out->misses += s->mu.misses;
        vv_mutex_unlock(&s->mu.lock);
    }
}
