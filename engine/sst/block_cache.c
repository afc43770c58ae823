/*
 * block_cache.c - a sharded cache of data blocks that scans don't empty.
 *
 * Each shard is an S3-FIFO: J. Yang, Y. Zhang, Z. Qiu, Y. Yue, K. V. Rashmi, "FIFO Queues are All You Need
 * for Cache Eviction", SOSP 2023. New blocks enter a small queue, a tenth of the shard. Who was used more
 * than once when its turn comes moves on to the main queue; all others, a scan's above all, are evicted, and
 * remembered for a while as ghosts: a block that comes back soon enters the main queue at once. The main
 * queue gives a block as many further rounds as it was used, three at most. A hit only counts, it moves
 * nothing.
 *
 *   on its way --insert--> small --used more than once--> main --its rounds are over--> freed
 *                            |  `--> ghost --comes back--^
 *                            `--> freed
 *
 * Invariants
 *   C1  mu.bytes is what all frames of the shard take, outsized ones aside: in queues, pinned, on their way.
 *       It is at most capacity_bytes, or nothing is left to evict.
 *   C2  A frame is in a queue exactly when it can be found. One that can't (outsized, or its file was erased)
 *       is freed when its last pin goes.
 *   C3  A queue's `evictable` counts its frames that nobody has pinned.
 *
 * Locking: shard->mu.lock guards that shard's table, queues and the pins of its blocks. It is a leaf: nothing
 * is called while holding it, not even the heap.
 */
#include "engine/sst/block_cache.h"

#include <inttypes.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/sst/sst_impl.h"

#define SHARD_COUNT_MAX 16
#define SHARD_BYTES_MIN (UINT64_C(1) << 20) /* fewer shards rather than smaller ones */
#define SMALL_SHARE     10                  /* one of so many parts of a shard is the small queue's */
#define USES_MAX        3
#define USES_TO_STAY    2 /* in the small queue, after the read that brought it */

typedef struct queue queue;

typedef struct frame {
    vv_block block; /* first: a vv_block * is a frame * */
    struct frame *hash_next;
    struct frame *older;
    struct frame *newer;
    queue *queue; /* NULL: can't be found */
    uint64_t charged_bytes;
    uint32_t pins;
    uint8_t uses; /* hits since it entered its queue, up to USES_MAX */
    bool outsized;
    bool unpacked; /* the block's data are not aligned for reads */
} frame;

struct queue {
    frame ends; /* its `newer` is the oldest frame, its `older` the newest */
    uint64_t bytes;
    uint64_t evictable;
};

typedef struct shard {
    VV_CACHE_ALIGNED struct {
        vv_mutex lock;
        frame **buckets;
        uint64_t bucket_count; /* a power of two; also of ghosts */
        uint32_t *ghosts;      /* a part of the hash, where another part of it points */
        uint64_t bytes;
        uint64_t outsized_bytes;
        uint64_t hits;
        uint64_t misses;
        queue small;
        queue main;
    } mu;
    uint64_t capacity_bytes;
    vv_sst_unpacker unpacker;
} shard;

struct vv_block_cache {
    uint32_t shard_count; /* a power of two */
    shard shards[];
};

/* ---- finding ---- */

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

static frame *find(shard *s, uint64_t hash, uint64_t file_number, uint64_t offset) {
    for (frame *f = *bucket_of(s, hash); f; f = f->hash_next) {
        if (f->block.file_number == file_number && f->block.offset == offset)
            return f;
    }
    return NULL;
}

/* ---- queues ---- */

static void queue_add(queue *q, frame *f) {
    f->newer = &q->ends;
    f->older = q->ends.older;
    q->ends.older->newer = f;
    q->ends.older = f;
    f->queue = q;
    f->uses = 0;
    q->bytes += f->charged_bytes;
    q->evictable += f->pins == 0;
}

static void queue_remove(frame *f) {
    queue *q = f->queue;
    f->older->newer = f->newer;
    f->newer->older = f->older;
    f->queue = NULL;
    q->bytes -= f->charged_bytes;
    q->evictable -= f->pins == 0;
}

/* Another round, with fewer uses left. */
static void queue_again(frame *f, uint8_t uses) {
    queue *q = f->queue;
    queue_remove(f);
    queue_add(q, f);
    f->uses = uses;
}

static void pin(frame *f) {
    if (f->pins++ == 0 && f->queue)
        f->queue->evictable--;
}

/* ---- ghosts ---- */

static uint32_t *ghost_of(shard *s, uint64_t hash) {
    return &s->mu.ghosts[hash & (s->mu.bucket_count - 1)];
}

/* Never 0, which is nobody's. */
static uint32_t ghost_name(uint64_t hash) {
    return (uint32_t)(hash >> 32) | 1;
}

static bool ghost_take(shard *s, uint64_t hash) {
    uint32_t *ghost = ghost_of(s, hash);
    if (*ghost != ghost_name(hash))
        return false;
    *ghost = 0;
    return true;
}

/* ---- room ---- */

/* Take a frame out, so that it can't be found; the caller drops it if nobody has it pinned. */
static void forget(shard *s, frame *f) {
    frame **at = bucket_of(s, hash_of(f->block.file_number, f->block.offset));
    while (*at != f)
        at = &(*at)->hash_next;
    *at = f->hash_next;
    queue_remove(f);
}

/* Give up a frame that nobody has and nobody finds: chained to *freed. */
static void drop(shard *s, frame *f, frame **freed) {
    *(f->outsized ? &s->mu.outsized_bytes : &s->mu.bytes) -= f->charged_bytes;
    f->hash_next = *freed;
    *freed = f;
}

/* Take the oldest frame of the small queue, which has an evictable one, where it belongs. */
static void turn_small(shard *s, frame **freed) {
    frame *f = s->mu.small.ends.newer;
    if (f->pins > 0) {
        queue_again(f, f->uses);
    } else if (f->uses >= USES_TO_STAY) {
        queue_remove(f);
        queue_add(&s->mu.main, f);
    } else {
        uint64_t hash = hash_of(f->block.file_number, f->block.offset);
        *ghost_of(s, hash) = ghost_name(hash);
        forget(s, f);
        drop(s, f, freed);
    }
}

static void turn_main(shard *s, frame **freed) {
    frame *f = s->mu.main.ends.newer;
    if (f->pins > 0) {
        queue_again(f, f->uses);
    } else if (f->uses > 0) {
        queue_again(f, (uint8_t)(f->uses - 1));
    } else {
        forget(s, f);
        drop(s, f, freed);
    }
}

static void evict_surplus(shard *s, frame **freed) {
    while (s->mu.bytes > s->capacity_bytes) {
        bool small_is_large = s->mu.small.bytes > s->capacity_bytes / SMALL_SHARE;
        if (s->mu.small.evictable > 0 && (small_is_large || s->mu.main.evictable == 0))
            turn_small(s, freed);
        else if (s->mu.main.evictable > 0)
            turn_main(s, freed);
        else
            return;
    }
}

static void free_chain(frame *f) {
    while (f) {
        frame *next = f->hash_next;
        vv_free_bulk(f->block.data);
        vv_free_bulk(f);
        f = next;
    }
}

/* ---- what a frame takes ---- */

/* Count `bytes` for f instead of what was counted before, and make room for them: what is evicted for that is
 * the caller's to free. */
static frame *recharge(shard *s, frame *f, uint64_t bytes) {
    frame *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    *(f->outsized ? &s->mu.outsized_bytes : &s->mu.bytes) -= f->charged_bytes;
    f->outsized = bytes > s->capacity_bytes / 2;
    f->charged_bytes = bytes;
    *(f->outsized ? &s->mu.outsized_bytes : &s->mu.bytes) += bytes;
    evict_surplus(s, &freed);
    vv_mutex_unlock(&s->mu.lock);
    return freed;
}

static void free_uncached(shard *s, frame *f) {
    free_chain(recharge(s, f, 0));
    vv_free_bulk(f->block.data);
    vv_free_bulk(f);
}

/* Memory for `bytes`. In a cache that is full a block goes for each that comes, mostly of the same size: its
 * memory becomes the new one's without a way through the heap. */
static void *data_memory(frame *freed, size_t bytes) {
    for (frame *f = freed; f; f = f->hash_next) {
        void *data = f->block.data;
        size_t usable = vv_alloc_usable_bytes(data);
        if (usable < bytes || usable - bytes > bytes / 4 || f->unpacked)
            continue;
        f->block.data = NULL;
        return data;
    }
    return vv_alloc_bulk(VV_IO_ALIGN_BYTES, bytes);
}

/* ---- the cache ---- */

static vv_status shard_init(shard *s, uint64_t share_bytes) {
    uint64_t count = 16;
    while (count < share_bytes / VV_SST_BLOCK_BYTES_MIN)
        count *= 2;
    s->mu.bucket_count = count;
    s->mu.buckets = vv_alloc_zeroed(count * sizeof *s->mu.buckets);
    s->mu.ghosts = vv_alloc_zeroed(count * sizeof *s->mu.ghosts);
    if (!s->mu.buckets || !s->mu.ghosts) {
        vv_free(s->mu.ghosts);
        vv_free(s->mu.buckets);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    uint64_t tables_bytes = count * (sizeof *s->mu.buckets + sizeof *s->mu.ghosts);
    s->capacity_bytes = share_bytes > tables_bytes ? share_bytes - tables_bytes : 0;
    vv_mutex_init(&s->mu.lock);
    queue *queues[] = {&s->mu.small, &s->mu.main};
    for (size_t i = 0; i < VV_ARRAY_COUNT(queues); i++)
        queues[i]->ends.newer = queues[i]->ends.older = &queues[i]->ends;
    return VV_STATUS_OK;
}

vv_status vv_block_cache_create(uint64_t capacity_bytes, vv_block_cache **out) {
    *out = NULL;
    uint32_t count = 1;
    while (count < SHARD_COUNT_MAX && capacity_bytes / (count * 2) >= SHARD_BYTES_MIN)
        count *= 2;
    size_t bytes = sizeof(vv_block_cache) + count * sizeof(shard);
    vv_block_cache *c = vv_alloc_aligned(VV_CACHE_LINE_BYTES, vv_align_up(bytes, VV_CACHE_LINE_BYTES));
    if (!c)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memset(c, 0, bytes);
    for (; c->shard_count < count; c->shard_count++) {
        vv_status st = shard_init(&c->shards[c->shard_count], capacity_bytes / count);
        if (!vv_ok(st)) {
            vv_block_cache_destroy(c);
            return st;
        }
    }
    *out = c;
    return VV_STATUS_OK;
}

static void free_queue(shard *s, queue *q) {
    frame *freed = NULL;
    while (q->ends.newer != &q->ends) {
        frame *f = q->ends.newer;
        VV_ASSERT(f->pins == 0);
        forget(s, f);
        drop(s, f, &freed);
    }
    free_chain(freed);
}

void vv_block_cache_destroy(vv_block_cache *c) {
    if (!c)
        return;
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        free_queue(s, &s->mu.small);
        free_queue(s, &s->mu.main);
        VV_ASSERT(s->mu.bytes + s->mu.outsized_bytes == 0); /* else a block is still pinned or on its way */
        vv_sst_unpacker_deinit(&s->unpacker);
        vv_free(s->mu.ghosts);
        vv_free(s->mu.buckets);
        vv_mutex_deinit(&s->mu.lock);
    }
    vv_free(c);
}

static void use(frame *f) {
    pin(f);
    if (f->uses < USES_MAX)
        f->uses++;
}

vv_block *vv_block_cache_lookup(vv_block_cache *c, uint64_t file_number, uint64_t offset) {
    uint64_t hash = hash_of(file_number, offset);
    shard *s = shard_of(c, hash);
    vv_mutex_lock(&s->mu.lock);
    frame *f = find(s, hash, file_number, offset);
    if (f) {
        use(f);
        s->mu.hits++;
    } else {
        s->mu.misses++;
    }
    vv_mutex_unlock(&s->mu.lock);
    return f ? &f->block : NULL;
}

vv_block *vv_block_cache_allocate(vv_block_cache *c, uint64_t file_number, vv_block_handle h) {
    frame *f = vv_alloc_bulk(_Alignof(frame), sizeof *f);
    if (!f)
        return NULL;
    memset(f, 0, sizeof *f);
    f->block.file_number = file_number;
    f->block.offset = h.offset;
    f->block.bytes = h.bytes;
    shard *s = shard_of_block(c, &f->block);
    frame *freed = recharge(s, f, vv_alloc_usable_bytes(f) + h.bytes);
    f->block.data = data_memory(freed, h.bytes);
    free_chain(freed);
    if (!f->block.data) {
        free_uncached(s, f);
        return NULL;
    }
    uint64_t bytes = vv_alloc_usable_bytes(f) + vv_alloc_usable_bytes(f->block.data);
    if (bytes != f->charged_bytes)
        free_chain(recharge(s, f, bytes));
    return &f->block;
}

void vv_block_cache_discard(vv_block_cache *c, vv_block *b) {
    frame *f = (frame *)b;
    VV_ASSERT(!f->queue && f->pins == 0);
    free_uncached(shard_of_block(c, b), f);
}

vv_block *vv_block_cache_insert(vv_block_cache *c, vv_block *b) {
    frame *f = (frame *)b;
    VV_ASSERT(!f->queue && f->pins == 0);
    uint64_t hash = hash_of(b->file_number, b->offset);
    shard *s = shard_of(c, hash);
    frame *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    frame *first = find(s, hash, b->file_number, b->offset);
    if (first) {
        use(first);
        drop(s, f, &freed);
        f = first;
    } else {
        pin(f);
        if (!f->outsized) {
            frame **bucket = bucket_of(s, hash);
            f->hash_next = *bucket;
            *bucket = f;
            queue_add(ghost_take(s, hash) ? &s->mu.main : &s->mu.small, f);
        }
    }
    vv_mutex_unlock(&s->mu.lock);
    free_chain(freed);
    return &f->block;
}

void vv_block_cache_release(vv_block_cache *c, vv_block *b) {
    frame *f = (frame *)b;
    shard *s = shard_of_block(c, b);
    frame *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    VV_ASSERT(f->pins > 0);
    if (--f->pins == 0) {
        if (f->queue) {
            f->queue->evictable++;
            evict_surplus(s, &freed);
        } else {
            drop(s, f, &freed);
        }
    }
    vv_mutex_unlock(&s->mu.lock);
    free_chain(freed);
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
                if (f->pins == 0)
                    drop(s, f, &freed);
            }
        }
        vv_mutex_unlock(&s->mu.lock);
        free_chain(freed);
    }
}

void vv_block_cache_stats_get(vv_block_cache *c, vv_block_cache_stats *out) {
    *out = (vv_block_cache_stats){.memory_bytes = vv_alloc_usable_bytes(c)};
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        vv_mutex_lock(&s->mu.lock);
        out->bytes += s->mu.bytes + s->mu.outsized_bytes;
        out->hits += s->mu.hits;
        out->misses += s->mu.misses;
        vv_mutex_unlock(&s->mu.lock);
        out->memory_bytes += vv_alloc_usable_bytes(s->mu.buckets) + vv_alloc_usable_bytes(s->mu.ghosts) +
                             vv_sst_unpacker_memory_bytes(&s->unpacker);
    }
    out->memory_bytes += out->bytes;
}

/* ---- from disk ---- */

static vv_status fail_block(const vv_sst_reader *r, uint64_t offset, vv_status st, vv_error *err) {
    return vv_fail(err, st, "%s: data block at %" PRIu64 ": %s", vv_sst_reader_path(r), offset,
                   st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

/* Exchange the stored bytes of f for the ready block of image_bytes that is packed in them. */
static vv_status unpack(shard *s, frame *f, uint32_t image_bytes) {
    free_chain(recharge(s, f, f->charged_bytes + image_bytes));
    void *image = vv_alloc_bulk(_Alignof(max_align_t), image_bytes);
    if (!image)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_status st = vv_sst_block_unpack(&s->unpacker, f->block.data, image);
    if (!vv_ok(st)) {
        vv_free_bulk(image);
        return st;
    }
    vv_free_bulk(f->block.data);
    f->block.data = image;
    f->block.bytes = image_bytes;
    f->unpacked = true;
    free_chain(recharge(s, f, vv_alloc_usable_bytes(f) + vv_alloc_usable_bytes(image)));
    return VV_STATUS_OK;
}

vv_status vv_block_cache_complete(vv_block_cache *c, const vv_sst_reader *r, vv_block *b, size_t read_bytes,
                                  vv_block **out, vv_error *err) {
    *out = NULL;
    uint64_t offset = b->offset;
    uint32_t image_bytes = 0;
    vv_status st = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    if (read_bytes >= b->bytes) {
        vv_block_handle h = {.offset = offset, .bytes = b->bytes};
        st = vv_sst_block_verify(r, h, b->data, &image_bytes);
    }
    if (vv_ok(st) && image_bytes > 0)
        st = unpack(shard_of_block(c, b), (frame *)b, image_bytes);
    if (!vv_ok(st)) {
        vv_block_cache_discard(c, b);
        return fail_block(r, offset, st, err);
    }
    *out = vv_block_cache_insert(c, b);
    return VV_STATUS_OK;
}

vv_status vv_block_cache_read(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                              vv_error *err) {
    *out = vv_block_cache_lookup(c, vv_sst_reader_file_number(r), h.offset);
    return *out ? VV_STATUS_OK : vv_block_cache_fetch(c, r, h, out, err);
}

vv_status vv_block_cache_fetch(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                               vv_error *err) {
    *out = NULL;
    vv_block *b = vv_block_cache_allocate(c, vv_sst_reader_file_number(r), h);
    if (!b)
        return fail_block(r, h.offset, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), err);
    size_t read_bytes;
    vv_status st = vv_file_read(vv_sst_reader_file(r), b->data, h.bytes, h.offset, &read_bytes);
    if (!vv_ok(st)) {
        vv_block_cache_discard(c, b);
        return fail_block(r, h.offset, st, err);
    }
    return vv_block_cache_complete(c, r, b, read_bytes, out, err);
}
