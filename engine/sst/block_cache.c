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
 *   C1  mu.bytes is what all frames of the shard take with their blocks, outsized ones aside: in queues,
 *       pinned, on their way. With the idle frames' bytes, but for mu.spare_bytes of them, it is at most
 *       mu.capacity_bytes, or nothing is left to evict.
 *   C2  A frame is in a queue and in the table exactly when its state says FINDABLE. One that isn't
 * (outsized, or its file was erased) is given up when its last pin goes. C3  Who has made a frame neither
 * FINDABLE nor pinned owns it: nobody else reads or writes it, but for `name`, `hash_next` and `state`.
 *
 * A hit takes no lock. The reader walks a bucket's chain, and pins the frame that has the block's name by a
 * compare-and-swap on its state, which succeeds only while the frame is FINDABLE. That the walk may meet
 * frames which are just leaving or changing hands costs nothing but a look under the lock:
 *   - A frame is never freed while the cache lives. It lies idle until it is taken for another block, so that
 *     what the reader looks at is a frame, whosever it is.
 *   - What it walks by, `name` and `hash_next`, are atomics, and only hints: the walk is bounded, and one
 * that finds nothing, or a frame that isn't FINDABLE, is repeated under the lock. So a miss is always exact.
 *   - What it reads once it has the pin is the block's. acquire: the swap that set the pin has seen the state
 *     that insert() has released, and all that was written before it; from then on C3 keeps the frame as it
 *     is. Only then file and offset are compared.
 *   - Who takes a frame away swaps FINDABLE off, with the state it has seen, no pins in it: one of the two
 *     swaps fails. acquire: it sees all that readers did before they released their pins.
 *   - Of the one that unpins last and the one that erases, exactly one leaves the state 0: it gives it up.
 *
 * A reader remembers in which frame each of its blocks was found (find()). That is a hint as well: the frame
 * is still one of this cache's, and what it has is looked at with the pin. For its blocks' way from index to
 * data that saves the bucket, which is in a cache line of its own.
 *
 * When the bound is passed and all is pinned, `crowded` says so, and who unpins goes on evicting. seq_cst:
 * vv_cache_evict_surplus() sets it and then looks at the states once more, a reader unpins and then looks at
 * it; one of them sees the other.
 *
 * Locking: shard->mu.lock guards that shard's table and queues against all but the walks above. It is a leaf:
 * nothing is called while holding it, not even the heap.
 */
#include "engine/sst/block_cache.h"

#include <sched.h>
#include <stddef.h>

#include "base/alloc.h"
#include "engine/sst/block_cache_impl.h"

#define SHARD_COUNT_MAX VV_CACHE_SHARDS_MAX
#define SHARD_BYTES_MIN (UINT64_C(1) << 20) /* fewer shards rather than smaller ones */
#define SMALL_SHARE     10                  /* one of so many parts of a shard is the small queue's */
#define USES_MAX        VV_CACHE_USES_MAX
#define USES_TO_STAY    2 /* in the small queue, after the read that brought it */

#define WALK_MAX    32 /* frames that a lookup passes before it takes the lock */
#define HIT_STRIPES VV_CACHE_HIT_STRIPES

/* A frame's state, in one word: how many have it pinned, its hits since it entered its queue up to USES_MAX,
 * and whether it can be found. */
#define STATE_PINS     ((UINT32_C(1) << 28) - 1)
#define STATE_USE      (UINT32_C(1) << 28)
#define STATE_USES     (USES_MAX * STATE_USE)
#define STATE_FINDABLE (UINT32_C(1) << 31)

enum {
    QUEUE_NONE = VV_CACHE_QUEUE_NONE,
    QUEUE_SMALL = VV_CACHE_QUEUE_SMALL,
    QUEUE_MAIN = VV_CACHE_QUEUE_MAIN
};

typedef vv_cache_frame frame;
typedef vv_cache_scrap scrap;
typedef vv_cache_queue queue;
typedef vv_cache_shard shard;

/* ---- finding ---- */

static uint64_t hash_of(uint64_t file_number, uint64_t offset) {
    return vv_cache_hash(file_number, offset);
}

static shard *shard_of(vv_block_cache *c, uint64_t hash) {
    return &c->shards[(hash >> 48) & (c->shard_count - 1)];
}

static shard *shard_of_block(vv_block_cache *c, const vv_block *b) {
    return shard_of(c, hash_of(b->file_number, b->offset));
}

static uint32_t name_of(uint64_t hash) {
    return (uint32_t)(hash >> 32);
}

static vv_cache_bucket_head *bucket_of(shard *s, uint64_t hash) {
    /* acquire: pairs with the release of a larger table's, so that its buckets are initialised. */
    return vv_cache_bucket(atomic_load_explicit(&s->table, memory_order_acquire), hash);
}

static frame *next_of(frame *f) {
    /* acquire, as for the buckets: a frame that is met is initialised. */
    return atomic_load_explicit(&f->hash_next, memory_order_acquire);
}

static bool is_block(const frame *f, uint64_t file_number, uint64_t offset) {
    return f->block.file_number == file_number && f->block.offset == offset;
}

/* Under the lock. */
static frame *find(shard *s, uint64_t hash, uint64_t file_number, uint64_t offset) {
    frame *f = atomic_load_explicit(bucket_of(s, hash), memory_order_relaxed);
    while (f && !is_block(f, file_number, offset))
        f = next_of(f);
    return f;
}

/* ---- pins ---- */

/* Count a use and a pin. False: it can't be found any more. */
static bool use(frame *f) {
    uint32_t state = atomic_load_explicit(&f->state, memory_order_relaxed);
    uint32_t next;
    do {
        if (!(state & STATE_FINDABLE))
            return false;
        next = state + 1 + ((state & STATE_USES) == STATE_USES ? 0 : STATE_USE);
    } while (!atomic_compare_exchange_weak_explicit(&f->state, &state, next, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

/* The same of a frame that can be found, as the lock guarantees. */
static void use_findable(frame *f) {
    bool used = use(f);
    VV_ASSERT(used);
}

/* Take a pin back. True: it was the last one of a frame that can't be found, which is the caller's now. Else
 * the caller no longer knows whose it is. */
static bool unpin(frame *f) {
    uint32_t state = atomic_fetch_sub_explicit(&f->state, 1, memory_order_seq_cst);
    VV_ASSERT((state & STATE_PINS) > 0);
    return (state & ~STATE_USES) == 1;
}

/* To go on from the small queue to the main one. */
static bool used_enough(uint32_t state) {
    return (state & STATE_USES) >= USES_TO_STAY * STATE_USE;
}

/* Make a frame the caller's: under the lock, one that can be found. False: somebody has it pinned. */
static bool claim(frame *f, uint32_t state) {
    return (state & STATE_PINS) == 0 && atomic_compare_exchange_strong_explicit(
                                            &f->state, &state, 0, memory_order_acq_rel, memory_order_relaxed);
}

/* ---- queues ---- */

static void queue_add(shard *s, uint8_t to, frame *f) {
    queue *q = &s->mu.queues[to];
    f->newer = &q->ends;
    f->older = q->ends.older;
    q->ends.older->newer = f;
    q->ends.older = f;
    f->queue = to;
    q->bytes += f->charged_bytes;
    q->count++;
}

static void queue_remove(shard *s, frame *f) {
    queue *q = &s->mu.queues[f->queue];
    f->older->newer = f->newer;
    f->newer->older = f->older;
    f->queue = QUEUE_NONE;
    q->bytes -= f->charged_bytes;
    q->count--;
}

/* Another round. */
static void queue_again(shard *s, uint8_t to, frame *f) {
    queue_remove(s, f);
    queue_add(s, to, f);
}

/* ---- ghosts ---- */

static uint32_t *ghost_of(shard *s, uint64_t hash) {
    return &s->mu.ghosts[hash & (s->mu.ghost_count - 1)];
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

/* Take a frame, which is the caller's or erased, out of table and queue. Who stands on it still comes on to
 * what was behind it. */
static void forget(shard *s, frame *f) {
    vv_cache_bucket_head *at = bucket_of(s, hash_of(f->block.file_number, f->block.offset));
    for (frame *other; (other = atomic_load_explicit(at, memory_order_relaxed)) != f;)
        at = &other->hash_next;
    atomic_store_explicit(at, next_of(f), memory_order_release);
    queue_remove(s, f);
}

static void scrap_add(scrap **freed, void *memory) {
    scrap *added = memory;
    added->next = *freed;
    *freed = added;
}

/* Give up the caller's frame: it is idle from now on, its memory chained to *freed. */
static void drop(shard *s, frame *f, scrap **freed) {
    *(f->outsized ? &s->mu.outsized_bytes : &s->mu.bytes) -= f->charged_bytes;
    if (f->block.data)
        scrap_add(freed, f->block.data);
    if (f->block.hints && f->block.hints != f->hints)
        scrap_add(freed, f->block.hints);
    f->block.data = f->block.hints = NULL;
    f->newer = s->mu.idle;
    s->mu.idle = f;
    s->mu.idle_bytes += vv_alloc_usable_bytes(f);
}

/* Take the oldest frame of the small queue where it belongs. False: it is pinned, and has another round. */
static bool turn_small(shard *s, scrap **freed) {
    frame *f = s->mu.queues[QUEUE_SMALL].ends.newer;
    /* seq_cst: see `crowded` above. */
    uint32_t state = atomic_load_explicit(&f->state, memory_order_seq_cst);
    if ((state & STATE_PINS) == 0 && used_enough(state)) {
        atomic_fetch_and_explicit(&f->state, ~STATE_USES, memory_order_relaxed);
        queue_again(s, QUEUE_MAIN, f);
        return true;
    }
    if (!claim(f, state)) {
        queue_again(s, QUEUE_SMALL, f);
        return false;
    }
    uint64_t hash = hash_of(f->block.file_number, f->block.offset);
    *ghost_of(s, hash) = ghost_name(hash);
    forget(s, f);
    drop(s, f, freed);
    return true;
}

/* The same of the main queue. Uses count for nothing any more if there were too many turns already. */
static bool turn_main(shard *s, bool uses_count, scrap **freed) {
    frame *f = s->mu.queues[QUEUE_MAIN].ends.newer;
    uint32_t state = atomic_load_explicit(&f->state, memory_order_seq_cst);
    if (uses_count && (state & STATE_PINS) == 0 && (state & STATE_USES) != 0) {
        atomic_fetch_sub_explicit(&f->state, STATE_USE, memory_order_relaxed);
        queue_again(s, QUEUE_MAIN, f);
        return true;
    }
    if (!claim(f, state)) {
        queue_again(s, QUEUE_MAIN, f);
        return false;
    }
    forget(s, f);
    drop(s, f, freed);
    return true;
}

uint64_t vv_cache_used_bytes(const shard *s) {
    uint64_t idle_bytes = s->mu.idle_bytes > s->mu.spare_bytes ? s->mu.idle_bytes - s->mu.spare_bytes : 0;
    return s->mu.bytes + idle_bytes;
}

static bool over(const shard *s) {
    return vv_cache_used_bytes(s) > s->mu.capacity_bytes;
}

bool vv_cache_evict(shard *s, uint64_t bound_bytes, uint64_t *rounds, uint64_t turns, scrap **freed) {
    uint64_t small_pinned = 0, main_pinned = 0; /* in a row, among those that are there */
    for (; vv_cache_used_bytes(s) > bound_bytes; turns--) {
        if (turns == 0)
            return false;
        bool small_is_large = s->mu.queues[QUEUE_SMALL].bytes > s->mu.capacity_bytes / SMALL_SHARE;
        bool main_has = main_pinned < s->mu.queues[QUEUE_MAIN].count;
        if (small_pinned < s->mu.queues[QUEUE_SMALL].count && (small_is_large || !main_has)) {
            small_pinned = turn_small(s, freed) ? 0 : small_pinned + 1;
        } else if (main_has) {
            main_pinned = turn_main(s, *rounds > 0, freed) ? 0 : main_pinned + 1;
            *rounds -= *rounds > 0;
        } else {
            return true;
        }
    }
    return true;
}

uint64_t vv_cache_rounds(const shard *s) {
    return s->mu.queues[QUEUE_MAIN].count * (USES_MAX + 1);
}

/* Evict until the bound is kept, or all that is left is pinned. */
static void evict(shard *s, scrap **freed) {
    uint64_t rounds = vv_cache_rounds(s);
    (void)vv_cache_evict(s, s->mu.capacity_bytes, &rounds, UINT64_MAX, freed);
}

void vv_cache_evict_surplus(shard *s, scrap **freed) {
    evict(s, freed);
    bool crowded = atomic_load_explicit(&s->crowded, memory_order_relaxed);
    if (over(s) && !crowded) {
        atomic_store_explicit(&s->crowded, true, memory_order_seq_cst);
        evict(s, freed); /* what was unpinned by those who did not see it */
        crowded = true;
    }
    if (crowded && !over(s))
        atomic_store_explicit(&s->crowded, false, memory_order_relaxed);
}

void vv_cache_free_scraps(scrap *freed) {
    while (freed) {
        scrap *next = freed->next;
        vv_free_bulk(freed);
        freed = next;
    }
}

/* ---- what a frame takes ---- */

/* Count `bytes` for f instead of what was counted before, and make room for them: what is evicted for that is
 * the caller's to free. */
static scrap *recharge(shard *s, frame *f, uint64_t bytes) {
    scrap *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    *(f->outsized ? &s->mu.outsized_bytes : &s->mu.bytes) -= f->charged_bytes;
    f->outsized = bytes > s->mu.capacity_bytes / 2;
    f->charged_bytes = (uint32_t)bytes; /* no value is longer than 1 GiB */
    *(f->outsized ? &s->mu.outsized_bytes : &s->mu.bytes) += bytes;
    vv_cache_evict_surplus(s, &freed);
    vv_mutex_unlock(&s->mu.lock);
    return freed;
}

/* Count what the frame and its block really take. */
static void charge_exactly(shard *s, frame *f) {
    uint64_t bytes = vv_alloc_usable_bytes(f) + vv_alloc_usable_bytes(f->block.data);
    if (f->block.hints != f->hints)
        bytes += vv_alloc_usable_bytes(f->block.hints);
    if (bytes != f->charged_bytes)
        vv_cache_free_scraps(recharge(s, f, bytes));
}

/* Give up a frame that was never found. */
static void free_uncached(shard *s, frame *f) {
    scrap *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    drop(s, f, &freed);
    vv_mutex_unlock(&s->mu.lock);
    vv_cache_free_scraps(freed);
}

/* Memory for `bytes`. In a cache that is full a block goes for each that comes, mostly of the same size: its
 * memory becomes the new one's without a way through the heap. */
static void *data_memory(scrap **freed, size_t bytes) {
    for (scrap **at = freed; *at; at = &(*at)->next) {
        scrap *data = *at;
        size_t usable = vv_alloc_usable_bytes(data);
        /* What held an unpacked block need not be aligned for reads. */
        if (usable < bytes || usable - bytes > bytes / 4 || (uintptr_t)data % VV_IO_ALIGN_BYTES != 0)
            continue;
        *at = data->next;
        return data;
    }
    return vv_alloc_bulk(VV_IO_ALIGN_BYTES, bytes);
}

/* A frame for a block, the caller's; NULL: no memory. */
static frame *take_frame(shard *s) {
    vv_mutex_lock(&s->mu.lock);
    frame *f = s->mu.idle;
    if (f) {
        s->mu.idle = f->newer;
        s->mu.idle_bytes -= vv_alloc_usable_bytes(f);
        s->mu.spare_bytes = VV_MIN(s->mu.spare_bytes, s->mu.idle_bytes);
    }
    vv_mutex_unlock(&s->mu.lock);
    if (f)
        return f;
    f = vv_alloc_bulk(_Alignof(frame), sizeof *f);
    if (f)
        memset(f, 0, sizeof *f);
    return f;
}

/* ---- the cache ---- */

vv_status vv_block_cache_create(uint64_t capacity_bytes, vv_block_cache **out) {
    *out = NULL;
    uint32_t count = 1;
    while (count < SHARD_COUNT_MAX && capacity_bytes / (count * 2) >= SHARD_BYTES_MIN)
        count *= 2;
    size_t bytes = sizeof(vv_block_cache) + count * sizeof(shard);
    vv_block_cache *c =
        vv_alloc_aligned(_Alignof(vv_block_cache), vv_align_up(bytes, _Alignof(vv_block_cache)));
    if (!c)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memset(c, 0, bytes);
    static _Atomic uint64_t last_id;
    c->id = 1 + atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed);
    for (; c->shard_count < count; c->shard_count++) {
        vv_status st = vv_cache_shard_init(&c->shards[c->shard_count], capacity_bytes / count);
        if (!vv_ok(st)) {
            vv_block_cache_destroy(c);
            return st;
        }
    }
    *out = c;
    return VV_STATUS_OK;
}

static void free_queue(shard *s, queue *q) {
    scrap *freed = NULL;
    while (q->count > 0) {
        frame *f = q->ends.newer;
        bool claimed = claim(f, atomic_load_explicit(&f->state, memory_order_relaxed));
        VV_ASSERT(claimed); /* else it is still pinned */
        forget(s, f);
        drop(s, f, &freed);
    }
    vv_cache_free_scraps(freed);
}

static void free_idle(shard *s) {
    for (frame *f = s->mu.idle, *next; f; f = next) {
        next = f->newer;
        vv_free_bulk(f);
    }
}

void vv_block_cache_destroy(vv_block_cache *c) {
    if (!c)
        return;
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        free_queue(s, &s->mu.queues[QUEUE_SMALL]);
        free_queue(s, &s->mu.queues[QUEUE_MAIN]);
        VV_ASSERT(s->mu.bytes + s->mu.outsized_bytes == 0); /* else a block is still pinned or on its way */
        free_idle(s);
        vv_sst_unpacker_deinit(&s->unpacker);
        vv_cache_shard_deinit(s);
    }
    vv_free(c);
}

static void release(shard *s, frame *f) {
    bool given_up = unpin(f);
    if (VV_LIKELY(!given_up && !atomic_load_explicit(&s->crowded, memory_order_seq_cst)))
        return;
    scrap *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    if (given_up)
        drop(s, f, &freed);
    vv_cache_evict_surplus(s, &freed);
    vv_mutex_unlock(&s->mu.lock);
    vv_cache_free_scraps(freed);
}

static bool has_name(frame *f, uint64_t hash) {
    return atomic_load_explicit(&f->name, memory_order_relaxed) == name_of(hash);
}

/* For a get, which looks there first. */
static void prefetch_hints(const frame *f) {
    __builtin_prefetch((const uint8_t *)f + VV_CACHE_LINE_BYTES);
    __builtin_prefetch((const uint8_t *)f + (size_t)2 * VV_CACHE_LINE_BYTES);
}

/* Pin f if it has this block. NULL: another one of this name, or the frame has changed hands since. */
static frame *use_block(shard *s, frame *f, uint64_t file_number, uint64_t offset) {
    if (!use(f))
        return NULL;
    if (VV_LIKELY(is_block(f, file_number, offset)))
        return f;
    release(s, f);
    return NULL;
}

/* The block's frame, pinned; NULL: not there, or it takes the lock to know. */
static frame *find_unlocked(shard *s, uint64_t hash, uint64_t file_number, uint64_t offset) {
    frame *f = atomic_load_explicit(bucket_of(s, hash), memory_order_acquire);
    for (int n = 0; f && n < WALK_MAX; f = next_of(f), n++) {
        if (!has_name(f, hash))
            continue;
        prefetch_hints(f);
        return use_block(s, f, file_number, offset);
    }
    return NULL;
}

static frame *find_locked(shard *s, uint64_t hash, uint64_t file_number, uint64_t offset) {
    vv_mutex_lock(&s->mu.lock);
    frame *f = find(s, hash, file_number, offset);
    if (f)
        use_findable(f);
    else
        s->mu.misses++;
    vv_mutex_unlock(&s->mu.lock);
    return f;
}

/* What two threads that share a stripe count at the same moment may count once: it is a statistic, and a sum
 * without a lost one would be a good part of a hit. */
static void count_hit(vv_block_cache *c) {
    _Atomic uint64_t *count = &c->hits[(unsigned)sched_getcpu() & (HIT_STRIPES - 1)].count;
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
}

vv_block *vv_block_cache_lookup(vv_block_cache *c, uint64_t file_number, uint64_t offset) {
    uint64_t hash = hash_of(file_number, offset);
    shard *s = shard_of(c, hash);
    frame *f = find_unlocked(s, hash, file_number, offset);
    if (!f)
        f = find_locked(s, hash, file_number, offset);
    if (!f)
        return NULL;
    count_hit(c);
    return &f->block;
}

/* Where r remembers the frame of its block; NULL: it does so for another cache. */
static _Atomic(void *) *memo_of(const vv_block_cache *c, const vv_sst_reader *r, uint32_t index) {
    /* relaxed: it is set once, and the frames below are then this cache's. */
    uint64_t id = atomic_load_explicit(&r->memo->cache_id, memory_order_relaxed);
    if (VV_UNLIKELY(id == 0) &&
        atomic_compare_exchange_strong_explicit(&r->memo->cache_id, &id, c->id, memory_order_relaxed,
                                                memory_order_relaxed))
        id = c->id;
    return VV_LIKELY(id == c->id) ? &r->memo->frames[index] : NULL;
}

/* memo: NULL, or r's for this block. */
static vv_block *find_again(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h,
                            _Atomic(void *) *memo) {
    /* acquire: pairs with the release below, so that the frame is initialised. */
    frame *f = memo ? atomic_load_explicit(memo, memory_order_acquire) : NULL;
    if (VV_UNLIKELY(!f))
        return NULL;
    prefetch_hints(f);
    uint64_t hash = hash_of(r->file_number, h.offset);
    if (!has_name(f, hash) || !use_block(shard_of(c, hash), f, r->file_number, h.offset))
        return NULL;
    count_hit(c);
    return &f->block;
}

void vv_block_cache_expect(const vv_block_cache *c, const vv_sst_reader *r, uint32_t index) {
    _Atomic(void *) *memo = memo_of(c, r, index);
    if (memo)
        __builtin_prefetch(atomic_load_explicit(memo, memory_order_relaxed));
}

vv_block *vv_block_cache_find_again(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h) {
    return find_again(c, r, h, memo_of(c, r, h.index));
}

vv_block *vv_block_cache_find(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h) {
    _Atomic(void *) *memo = memo_of(c, r, h.index);
    vv_block *b = find_again(c, r, h, memo);
    if (VV_LIKELY(b))
        return b;
    b = vv_block_cache_lookup(c, r->file_number, h.offset);
    if (b && memo)
        atomic_store_explicit(memo, b, memory_order_release);
    return b;
}

vv_block *vv_block_cache_allocate(vv_block_cache *c, uint64_t file_number, vv_block_handle h) {
    shard *s = shard_of(c, hash_of(file_number, h.offset));
    frame *f = take_frame(s);
    if (!f)
        return NULL;
    f->block = (vv_block){.file_number = file_number, .offset = h.offset, .bytes = h.bytes};
    f->charged_bytes = 0;
    f->outsized = false;
    scrap *freed = recharge(s, f, vv_alloc_usable_bytes(f) + h.bytes);
    f->block.data = data_memory(&freed, h.bytes);
    vv_cache_free_scraps(freed);
    if (!f->block.data) {
        free_uncached(s, f);
        return NULL;
    }
    charge_exactly(s, f);
    return &f->block;
}

void vv_block_cache_discard(vv_block_cache *c, vv_block *b) {
    frame *f = (frame *)b;
    VV_ASSERT(atomic_load_explicit(&f->state, memory_order_relaxed) == 0);
    free_uncached(shard_of_block(c, b), f);
}

/* Let the caller's frame be found, pinned once. */
static void publish(shard *s, frame *f, uint64_t hash, vv_heat heat) {
    vv_cache_bucket_head *bucket = bucket_of(s, hash);
    atomic_store_explicit(&f->name, name_of(hash), memory_order_relaxed);
    atomic_store_explicit(&f->hash_next, atomic_load_explicit(bucket, memory_order_relaxed),
                          memory_order_release);
    queue_add(s, ghost_take(s, hash) || heat == VV_HEAT_HOT ? QUEUE_MAIN : QUEUE_SMALL, f);
    /* release: pairs with the acquire of whoever pins it, also of those who came here by an old way. */
    atomic_store_explicit(&f->state, STATE_FINDABLE | 1, memory_order_release);
    atomic_store_explicit(bucket, f, memory_order_release);
}

static vv_block *insert(vv_block_cache *c, vv_block *b, vv_heat heat) {
    frame *f = (frame *)b;
    VV_ASSERT(atomic_load_explicit(&f->state, memory_order_relaxed) == 0);
    uint64_t hash = hash_of(b->file_number, b->offset);
    shard *s = shard_of(c, hash);
    scrap *freed = NULL;
    vv_mutex_lock(&s->mu.lock);
    frame *first = find(s, hash, b->file_number, b->offset);
    if (first) {
        use_findable(first);
        drop(s, f, &freed);
        f = first;
    } else if (f->outsized) {
        atomic_store_explicit(&f->state, 1, memory_order_relaxed);
    } else {
        publish(s, f, hash, heat);
    }
    vv_mutex_unlock(&s->mu.lock);
    vv_cache_free_scraps(freed);
    return &f->block;
}

vv_block *vv_block_cache_insert(vv_block_cache *c, vv_block *b) {
    return insert(c, b, VV_HEAT_WARM);
}

void vv_block_cache_release(vv_block_cache *c, vv_block *b) {
    release(shard_of_block(c, b), (frame *)b);
}

/* Under the lock: nobody finds the frame any more, and it is given up, if need be with its last pin. */
static void erase(shard *s, frame *f, scrap **freed) {
    forget(s, f);
    /* acquire: as for claim(). release: who unpins last sees that it is in no queue. */
    uint32_t state = atomic_fetch_and_explicit(&f->state, STATE_PINS, memory_order_acq_rel);
    if ((state & STATE_PINS) == 0)
        drop(s, f, freed);
}

void vv_block_cache_erase_file(vv_block_cache *c, uint64_t file_number) {
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        scrap *freed = NULL;
        vv_mutex_lock(&s->mu.lock);
        uintptr_t table = atomic_load_explicit(&s->table, memory_order_relaxed);
        for (uint64_t n = 0; n < vv_cache_bucket_count(table); n++) {
            frame *f = atomic_load_explicit(vv_cache_bucket(table, n), memory_order_relaxed);
            for (frame *next; f; f = next) {
                next = next_of(f);
                if (f->block.file_number == file_number)
                    erase(s, f, &freed);
            }
        }
        vv_mutex_unlock(&s->mu.lock);
        vv_cache_free_scraps(freed);
    }
}

void vv_block_cache_stats_get(vv_block_cache *c, vv_block_cache_stats *out) {
    *out = (vv_block_cache_stats){.memory_bytes = vv_alloc_usable_bytes(c)};
    for (size_t i = 0; i < HIT_STRIPES; i++)
        out->hits += atomic_load_explicit(&c->hits[i].count, memory_order_relaxed);
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        vv_mutex_lock(&s->mu.lock);
        out->bytes += s->mu.bytes + s->mu.outsized_bytes;
        out->misses += s->mu.misses;
        out->memory_bytes += s->mu.idle_bytes + vv_cache_tables_bytes(s);
        vv_mutex_unlock(&s->mu.lock);
        out->memory_bytes += vv_sst_unpacker_memory_bytes(&s->unpacker);
    }
    out->memory_bytes += out->bytes;
}

vv_heat vv_block_cache_heat(vv_block_cache *c, uint64_t file_number, uint64_t offset) {
    uint64_t hash = hash_of(file_number, offset);
    shard *s = shard_of(c, hash);
    vv_mutex_lock(&s->mu.lock);
    frame *f = find(s, hash, file_number, offset);
    uint32_t state = f ? atomic_load_explicit(&f->state, memory_order_relaxed) : 0;
    vv_heat heat = VV_HEAT_COLD;
    if (f && (f->queue == QUEUE_MAIN || used_enough(state)))
        heat = VV_HEAT_HOT;
    else if (state & STATE_USES)
        heat = VV_HEAT_WARM;
    vv_mutex_unlock(&s->mu.lock);
    return heat;
}

/* ---- ready blocks ---- */

/* Exchange the stored bytes of f for the ready block of image_bytes that is packed in them. */
static vv_status unpack(shard *s, frame *f, uint32_t image_bytes) {
    vv_cache_free_scraps(recharge(s, f, (uint64_t)f->charged_bytes + image_bytes));
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
    charge_exactly(s, f);
    return VV_STATUS_OK;
}

static vv_status add_hints(shard *s, frame *f) {
    size_t bytes = vv_sst_hints_bytes(f->block.data);
    if (bytes == 0)
        return VV_STATUS_OK;
    f->block.hints = bytes <= sizeof f->hints ? f->hints : vv_alloc_bulk(_Alignof(scrap), bytes);
    if (!f->block.hints)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    f->block.hint_count = vv_sst_block_count(f->block.data);
    vv_sst_hints_build(f->block.data, f->block.hints);
    charge_exactly(s, f);
    return VV_STATUS_OK;
}

vv_status vv_block_cache_prepare(vv_block_cache *c, vv_block *b, uint32_t image_bytes) {
    shard *s = shard_of_block(c, b);
    if (image_bytes > 0)
        VV_TRY(unpack(s, (frame *)b, image_bytes));
    return add_hints(s, (frame *)b);
}

void vv_block_cache_add(vv_block_cache *c, uint64_t file_number, vv_block_handle h, const void *stored,
                        vv_heat heat) {
    vv_block *b = vv_block_cache_allocate(c, file_number, h);
    if (!b)
        return;
    memcpy(b->data, stored, h.bytes);
    vv_status st = vv_block_cache_prepare(c, b, vv_sst_block_image_bytes(stored));
    if (vv_ok(st))
        vv_block_cache_release(c, insert(c, b, heat));
    else
        vv_block_cache_discard(c, b);
}
