/*
 * mem_index.c - linear hashing over buckets of one cache line.
 *
 * W. Litwin, "Linear Hashing: A New Tool for File and Table Addressing", VLDB 1980: the table grows by one
 * bucket at a time, which takes about half the keys of one other, so that no single add pays for the growth.
 * Buckets lie in pages that never move; a table of the pages is replaced by one of twice the size when it is
 * full, and the old one stays in the arena for those who read it.
 *
 *   bucket  [slot 0] ... [slot 6] [more]     more: a further line, or INCOMPLETE, or 0
 *   slot    20 bits of the hash, 44 of the record's address; 0: free
 *
 * The bits of the hash in a slot begin where a page's do: they say which half of a bucket's keys goes when it
 * is split, and leave what is above them to tell keys apart. A record is looked at when its bits are those of
 * the key.
 *
 * Invariants
 *   I1  A slot is stored with release after its record was filled in, and loaded with acquire. Records stay.
 *   I2  A key has one slot at most in the buckets below bucket_count, but while its bucket is split. It is
 *       never moved within a bucket: what was there once is found where it was, or the bucket was split.
 *   I3  A split fills in the new bucket, stores bucket_count with release, and clears the old slots with
 *       release after that. A reader that misses a key in the old bucket because it was moved has seen a slot
 *       that was cleared, or filled again, and so sees the new bucket_count when it looks again: it starts
 *       anew if the key's bucket is another one now.
 *   I4  A key that has no slot is in a bucket whose last line says INCOMPLETE. Splits leave such buckets as
 *       they are, and those that would come behind them: the table does not grow any more.
 */
#include "engine/mem/mem_index.h"

#include <stdatomic.h>
#include <string.h>

#define SLOTS           7
#define KEYS_PER_BUCKET 4 /* on average; those that wait to be split have up to twice as many */
#define PAGE_BITS       8
#define PAGE_BUCKETS    (UINT64_C(1) << PAGE_BITS) /* 16 KiB; so many are there from the beginning */
#define PAGES_FIRST     64
#define TAG_SHIFT       44
#define TAG_MASK        ((UINT64_C(1) << (64 - TAG_SHIFT)) - 1)
#define BUCKETS_MAX     (UINT64_C(1) << (PAGE_BITS + 64 - TAG_SHIFT)) /* the bits of a slot say no more */
#define INCOMPLETE      ((vv_mem_bucket *)1)
#define SPARE_LOW       8
#define SPARE_MORE      56
#define KEYS_PER_LINE   16 /* one further line for so many keys is more than random ones need */

struct vv_mem_bucket {
    _Atomic uint64_t slots[SLOTS];
    _Atomic(vv_mem_bucket *) more;
};

_Static_assert(sizeof(vv_mem_bucket) == VV_CACHE_LINE_BYTES, "a bucket is a cache line");

/* ---- slots ---- */

static uint64_t tag_of(uint64_t hash) {
    return (hash >> PAGE_BITS) & TAG_MASK;
}

static uint64_t slot_of(uint64_t hash, const vv_mem_record *r) {
    uint64_t address = (uint64_t)(uintptr_t)r >> 3;
    VV_ASSERT(address >> TAG_SHIFT == 0 && ((uintptr_t)r & 7) == 0);
    return tag_of(hash) << TAG_SHIFT | address;
}

static const vv_mem_record *slot_record(uint64_t slot) {
    return (const vv_mem_record *)(uintptr_t)((slot & ((UINT64_C(1) << TAG_SHIFT) - 1)) << 3);
}

/* ---- buckets ---- */

static uint64_t count_of(const vv_mem_index *x) {
    return atomic_load_explicit(&x->bucket_count, memory_order_acquire);
}

/* Of 2^n <= count < 2^(n+1), the bucket of the last n+1 bits if there is one, else of the last n. */
static uint64_t bucket_number(uint64_t hash, uint64_t count) {
    uint64_t half = UINT64_C(1) << (63 - (uint32_t)__builtin_clzll(count));
    uint64_t bucket = hash & (2 * half - 1);
    return bucket < count ? bucket : hash & (half - 1);
}

static vv_mem_bucket *bucket_at(const vv_mem_index *x, uint64_t number) {
    vv_mem_bucket **pages = atomic_load_explicit(&x->pages, memory_order_acquire);
    return &pages[number >> PAGE_BITS][number & (PAGE_BUCKETS - 1)];
}

static vv_mem_bucket *more_of(vv_mem_bucket *line) {
    return atomic_load_explicit(&line->more, memory_order_acquire);
}

static void line_clear(vv_mem_bucket *line) {
    for (uint32_t i = 0; i < SLOTS; i++)
        atomic_init(&line->slots[i], 0);
    atomic_init(&line->more, NULL);
}

/* A further line behind the last one; without memory for it the bucket is incomplete from now on. */
static vv_mem_bucket *line_add(vv_mem_index *x, vv_mem_bucket *last) {
    vv_mem_bucket *line = x->spare;
    if (!line) {
        atomic_store_explicit(&last->more, INCOMPLETE, memory_order_release);
        return NULL;
    }
    x->spare = atomic_load_explicit(&line->more, memory_order_relaxed);
    x->spare_count--;
    line_clear(line);
    atomic_store_explicit(&last->more, line, memory_order_release);
    return line;
}

/* Put a slot into a bucket where there is room. */
static void slot_add(vv_mem_index *x, vv_mem_bucket *line, uint64_t slot) {
    for (;;) {
        for (uint32_t i = 0; i < SLOTS; i++) {
            if (atomic_load_explicit(&line->slots[i], memory_order_relaxed) == 0) {
                atomic_store_explicit(&line->slots[i], slot, memory_order_release); /* I1 */
                return;
            }
        }
        vv_mem_bucket *more = atomic_load_explicit(&line->more, memory_order_relaxed);
        if (more == INCOMPLETE)
            return;
        line = more ? more : line_add(x, line);
        if (!line)
            return;
    }
}

/* ---- memory ---- */

/* NULL: no memory. */
static vv_mem_bucket *lines_alloc(vv_mem_index *x, uint64_t count) {
    size_t bytes = count * sizeof(vv_mem_bucket) + VV_CACHE_LINE_BYTES - VV_ARENA_ALIGN_BYTES;
    if (!vv_ok(vv_arena_reserve(x->arena, bytes)))
        return NULL;
    uintptr_t at = (uintptr_t)vv_arena_alloc(x->arena, bytes);
    return (vv_mem_bucket *)((at + VV_CACHE_LINE_BYTES - 1) & ~(uintptr_t)(VV_CACHE_LINE_BYTES - 1));
}

static bool pages_grow(vv_mem_index *x) {
    uint64_t limit = x->page_limit ? 2 * x->page_limit : PAGES_FIRST;
    if (!vv_ok(vv_arena_reserve(x->arena, limit * sizeof(vv_mem_bucket *))))
        return false;
    vv_mem_bucket **fresh = vv_arena_alloc(x->arena, limit * sizeof *fresh);
    vv_mem_bucket **old = atomic_load_explicit(&x->pages, memory_order_relaxed);
    if (x->page_count)
        memcpy(fresh, old, x->page_count * sizeof *fresh);
    x->page_limit = limit;
    atomic_store_explicit(&x->pages, fresh, memory_order_release);
    return true;
}

static bool page_add(vv_mem_index *x) {
    if (x->page_count == x->page_limit && !pages_grow(x))
        return false;
    vv_mem_bucket *page = lines_alloc(x, PAGE_BUCKETS);
    if (!page)
        return false;
    /* Nobody looks at a page before bucket_count says that there is one. */
    atomic_load_explicit(&x->pages, memory_order_relaxed)[x->page_count++] = page;
    return true;
}

static void spare_add(vv_mem_index *x, uint64_t count) {
    vv_mem_bucket *lines = lines_alloc(x, count);
    for (uint64_t i = 0; lines && i < count; i++) {
        atomic_init(&lines[i].more, x->spare);
        x->spare = &lines[i];
        x->spare_count++;
    }
}

/* All buckets that there are pages for, while there are no keys. */
static void use_all_pages(vv_mem_index *x) {
    uint64_t count = VV_MIN(x->page_count * PAGE_BUCKETS, BUCKETS_MAX);
    for (uint64_t i = 0; i < count; i++)
        line_clear(bucket_at(x, i));
    atomic_store_explicit(&x->bucket_count, count, memory_order_release);
}

void vv_mem_index_init(vv_mem_index *x, vv_arena *arena) {
    *x = (vv_mem_index){.arena = arena};
    (void)page_add(x);
    use_all_pages(x);
}

void vv_mem_index_reserve(vv_mem_index *x, uint64_t more_keys) {
    if (x->page_count == 0)
        return;
    uint64_t buckets = VV_MIN((x->key_count + more_keys) / KEYS_PER_BUCKET + 1, BUCKETS_MAX);
    while (x->page_count * PAGE_BUCKETS < buckets)
        if (!page_add(x))
            return;
    uint64_t lines = more_keys / KEYS_PER_LINE + SPARE_LOW;
    if (x->spare_count < lines)
        spare_add(x, lines - x->spare_count + SPARE_MORE);
}

void vv_mem_index_load_begin(vv_mem_index *x, uint64_t keys) {
    VV_ASSERT(x->key_count == 0);
    vv_mem_index_reserve(x, keys);
    use_all_pages(x);
}

/* ---- growth ---- */

/* The slot is of the half that goes when the bit is what tells two buckets apart. */
static bool slot_goes(uint64_t slot, uint32_t bit) {
    return slot >> (TAG_SHIFT + bit - PAGE_BITS) & 1;
}

/* Put each slot that goes into `to`, or, if that is NULL, take it away. */
static void split_slots(vv_mem_index *x, vv_mem_bucket *from, uint32_t bit, vv_mem_bucket *to) {
    for (vv_mem_bucket *line = from; line; line = more_of(line)) {
        for (uint32_t i = 0; i < SLOTS; i++) {
            uint64_t slot = atomic_load_explicit(&line->slots[i], memory_order_relaxed);
            if (slot == 0 || !slot_goes(slot, bit))
                continue;
            if (to)
                slot_add(x, to, slot);
            else
                atomic_store_explicit(&line->slots[i], 0, memory_order_release); /* I3 */
        }
    }
}

/* One more bucket: it takes over from the one whose number is the same but for the first bit. Not if it can't
 * be complete (I4), or for now if memory is short. */
static void bucket_add(vv_mem_index *x) {
    uint64_t number = atomic_load_explicit(&x->bucket_count, memory_order_relaxed);
    uint32_t bit = 63 - (uint32_t)__builtin_clzll(number);
    vv_mem_bucket *from = bucket_at(x, number & ~(UINT64_C(1) << bit)), *to = bucket_at(x, number);
    uint64_t lines = 0;
    for (vv_mem_bucket *line = from; line; line = more_of(line)) {
        if (line == INCOMPLETE)
            return;
        lines++;
    }
    if (lines > x->spare_count)
        return;
    line_clear(to);
    split_slots(x, from, bit, to);
    atomic_store_explicit(&x->bucket_count, number + 1, memory_order_release); /* I3 */
    split_slots(x, from, bit, NULL);
}

/* ---- asking ---- */

/* The key's slot in a bucket, and what it holds; NULL: none. *complete: it would be there. */
static _Atomic uint64_t *slot_find(vv_mem_bucket *line, uint64_t hash, const vv_mem_target *t,
                                   const vv_mem_record **out, bool *complete) {
    uint64_t tag = tag_of(hash);
    for (; line && line != INCOMPLETE; line = more_of(line)) {
        for (uint32_t i = 0; i < SLOTS; i++) {
            uint64_t slot = atomic_load_explicit(&line->slots[i], memory_order_acquire);
            if (slot >> TAG_SHIFT != tag || slot == 0)
                continue;
            *out = slot_record(slot);
            if (vv_mem_key_is(*out, t))
                return &line->slots[i];
        }
    }
    *complete = !line;
    return NULL;
}

void vv_mem_index_put(vv_mem_index *x, uint64_t hash, const vv_mem_record *r) {
    uint64_t count = atomic_load_explicit(&x->bucket_count, memory_order_relaxed);
    if (count == 0)
        return;
    vv_mem_bucket *bucket = bucket_at(x, bucket_number(hash, count));
    vv_mem_target t = vv_mem_target_of(r);
    const vv_mem_record *older;
    bool complete;
    _Atomic uint64_t *slot = slot_find(bucket, hash, &t, &older, &complete);
    if (slot) {
        atomic_store_explicit(slot, slot_of(hash, r), memory_order_release); /* I1 */
        return;
    }
    slot_add(x, bucket, slot_of(hash, r));
    x->key_count++;
    if (x->key_count > count * KEYS_PER_BUCKET && count < VV_MIN(x->page_count * PAGE_BUCKETS, BUCKETS_MAX))
        bucket_add(x);
}

void vv_mem_index_prefetch(const vv_mem_index *x, uint64_t hash) {
    uint64_t count = count_of(x);
    if (count)
        __builtin_prefetch(bucket_at(x, bucket_number(hash, count)));
}

vv_mem_index_answer vv_mem_index_find(const vv_mem_index *x, uint64_t hash, const vv_mem_target *t,
                                      const vv_mem_record **out) {
    uint64_t count = count_of(x);
    if (count == 0)
        return VV_MEM_INDEX_UNKNOWN;
    uint64_t number = bucket_number(hash, count);
    for (;;) {
        bool complete;
        if (slot_find(bucket_at(x, number), hash, t, out, &complete))
            return VV_MEM_INDEX_FOUND;
        uint64_t now = bucket_number(hash, count_of(x)); /* I3 */
        if (now == number)
            return complete ? VV_MEM_INDEX_ABSENT : VV_MEM_INDEX_UNKNOWN;
        number = now;
    }
}
