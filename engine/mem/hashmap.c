/*
 * hashmap.c - the memtable as a hash map: one writer, readers without locks, and a get that costs the same at
 * any size.
 *
 * Split-ordered lists: O. Shalev and N. Shavit, "Split-Ordered Lists: Lock-Free Extensible Hash Tables",
 * JACM 53(3), 2006. All keys are in one list, ordered by the reversed bits of their hashes; buckets are
 * cells in it, where searches start. The table grows without moving anything, one cell at a time (linear
 * hashing), so that no single add pays for the growth:
 *
 *   bucket 0 --> key --> key --> bucket 2 --> key --> bucket 1 --> key --> key --> bucket 3 --> ...
 *                 |
 *                 v older                      The list holds each key's newest version; older ones hang
 *                key --> key (older versions)  off it, newest first.
 *
 * Invariants
 *   H1  A node is filled in completely before a link to it is stored with release; links are loaded with
 *       acquire. Nodes never move.
 *   H2  A new version takes the place of the one before in the list. A reader that stands on the old one
 *       still gets everywhere: its link stays, and leads past only what was added after the reader came.
 *   H3  bucket_count is stored with release after the cell's link: a reader starts only at cells that are in
 *       the list. It never falls.
 *   H4  added_before links all versions in the order of their LSNs, beginning at `newest`.
 *
 * An old version among many is found by jump pointers (E. Myers, "An applicative random-access stack", IPL
 * 17(5), 1983) in a logarithmic number of steps.
 *
 * A scan needs order. The first iterator sorts all entries; the next one shares that array, after merging
 * what was added in between. Iterators made at the same time wait for one of them to sort: sort_lock, which
 * neither the writer nor a get ever takes.
 */
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/checksum.h"
#include "base/sync.h"
#include "engine/mem/mem_impl.h"
#include "engine/mem/mem_sorted.h"

#define FIRST_BITS    8 /* segment 0 has 256 cells; each further one doubles their number */
#define FIRST_BUCKETS (UINT64_C(1) << FIRST_BITS)
#define SEGMENTS_MAX  32
#define BUCKETS_MAX   (FIRST_BUCKETS << (SEGMENTS_MAX - 1))

/* A place in the list: a bucket, or the head of a version. */
typedef struct cell cell;
struct cell {
    _Atomic(cell *) next;
    uint64_t order; /* reversed hash with bit 0 set, or reversed bucket number, where it is clear */
};

/* One version of a key. A version with an older one is preceded by its `jump`. */
typedef struct version version;
struct version {
    cell head;
    version *older; /* NULL: the oldest */
    version *added_before;
    vv_mem_record record;
};

typedef struct jump {
    version *to;    /* some older version */
    uint64_t depth; /* how many versions are older */
} jump;

typedef struct hashmap {
    vv_memtable base;
    vv_arena *arena;
    _Atomic uint64_t bucket_count;
    uint64_t key_count;    /* writer's */
    uint64_t bucket_limit; /* cells that there are segments for */
    cell *segments[SEGMENTS_MAX];
    _Atomic(version *) newest; /* by LSN */
    _Atomic uint64_t sorted_bytes;
    vv_mutex sort_lock;
    vv_mem_sorted *sorted; /* of the last iterator; under sort_lock */
} hashmap;

/* ---- cells ---- */

static uint64_t reverse_bits(uint64_t x) {
    x = (x >> 1 & UINT64_C(0x5555555555555555)) | (x & UINT64_C(0x5555555555555555)) << 1;
    x = (x >> 2 & UINT64_C(0x3333333333333333)) | (x & UINT64_C(0x3333333333333333)) << 2;
    x = (x >> 4 & UINT64_C(0x0F0F0F0F0F0F0F0F)) | (x & UINT64_C(0x0F0F0F0F0F0F0F0F)) << 4;
    return __builtin_bswap64(x);
}

static uint64_t segment_cells(uint32_t segment) {
    return segment == 0 ? FIRST_BUCKETS : FIRST_BUCKETS << (segment - 1);
}

static cell *cell_at(hashmap *h, uint64_t bucket) {
    if (bucket < FIRST_BUCKETS)
        return &h->segments[0][bucket];
    uint32_t top = 63 - (uint32_t)__builtin_clzll(bucket);
    return &h->segments[top - FIRST_BITS + 1][bucket - (UINT64_C(1) << top)];
}

/* acquire: pairs with the release in link_behind(). */
static cell *next_of(const cell *c) {
    return atomic_load_explicit(&c->next, memory_order_acquire);
}

/* release: publishes c and all that it leads to. */
static void link_behind(cell *before, cell *c, cell *next) {
    atomic_store_explicit(&c->next, next, memory_order_relaxed);
    atomic_store_explicit(&before->next, c, memory_order_release);
}

static version *version_of(cell *c) {
    return VV_CONTAINER_OF(c, version, head);
}

/* Where the search for a hash starts: of 2^n <= buckets < 2^(n+1), the bucket of the last n+1 bits if there
 * is one, else of the last n. */
static cell *start_of(hashmap *h, uint64_t hash) {
    uint64_t count = atomic_load_explicit(&h->bucket_count, memory_order_acquire);
    uint64_t half = UINT64_C(1) << (63 - (uint32_t)__builtin_clzll(count));
    uint64_t bucket = hash & (2 * half - 1);
    return cell_at(h, bucket < count ? bucket : hash & (half - 1));
}

/* The newest version of a key, or NULL; *before: what it is linked from, or would be. */
static version *find(hashmap *h, const vv_mem_target *t, uint64_t hash, cell **before) {
    uint64_t order = reverse_bits(hash) | 1;
    cell *c = start_of(h, hash);
    for (;;) {
        cell *next = next_of(c);
        if (!next || next->order > order) {
            *before = c;
            return NULL;
        }
        if (next->order == order && vv_mem_key_is(&version_of(next)->record, t)) {
            *before = c;
            return version_of(next);
        }
        c = next;
    }
}

/* Put one more bucket into the list; a few steps, as the one it splits holds a few keys. */
static void add_bucket(hashmap *h) {
    uint64_t bucket = atomic_load_explicit(&h->bucket_count, memory_order_relaxed);
    cell *fresh = cell_at(h, bucket);
    fresh->order = reverse_bits(bucket);
    cell *before = cell_at(h, bucket & ~(UINT64_C(1) << (63 - (uint32_t)__builtin_clzll(bucket))));
    cell *next = next_of(before);
    while (next && next->order < fresh->order) {
        before = next;
        next = next_of(before);
    }
    link_behind(before, fresh, next);
    /* release: H3. */
    atomic_store_explicit(&h->bucket_count, bucket + 1, memory_order_release);
}

/* ---- versions ---- */

static jump *jump_of(version *v) {
    return (jump *)(void *)v - 1;
}

static uint64_t depth_of(version *v) {
    return v->older ? jump_of(v)->depth : 0;
}

static version *jump_from(version *v) {
    return v->older ? jump_of(v)->to : v;
}

/* Two jumps of one length in a row make the next one as long as both and one step. */
static jump jump_over(version *older) {
    version *to = jump_from(older), *to_to = jump_from(to);
    bool doubles = depth_of(older) - depth_of(to) == depth_of(to) - depth_of(to_to);
    return (jump){.to = doubles ? to_to : older, .depth = depth_of(older) + 1};
}

/* The newest from v on with an LSN at or below `lsn`, or NULL. */
static version *version_at(version *v, uint64_t lsn) {
    while (v && v->record.lsn > lsn) {
        if (!v->older)
            return NULL;
        version *to = jump_of(v)->to;
        v = to->record.lsn > lsn ? to : v->older;
    }
    return v;
}

/* ---- memtable ---- */

static uint64_t version_bytes_max(uint64_t data_bytes) {
    return sizeof(jump) + sizeof(version) + data_bytes;
}

static vv_status reserve_cells(hashmap *h, uint64_t bucket_count) {
    while (h->bucket_limit < bucket_count) {
        /* The segments so far have 256, 512, 1024, ... cells together. */
        uint32_t segment =
            h->bucket_limit == 0 ? 0 : 64 - (uint32_t)__builtin_clzll(h->bucket_limit) - FIRST_BITS;
        size_t bytes = segment_cells(segment) * sizeof(cell);
        VV_TRY(vv_arena_reserve(h->arena, bytes));
        h->segments[segment] = vv_arena_alloc(h->arena, bytes);
        h->bucket_limit += segment_cells(segment);
    }
    return VV_STATUS_OK;
}

static vv_status hashmap_reserve(vv_memtable *m, uint64_t entry_count, uint64_t data_bytes) {
    hashmap *h = (hashmap *)m;
    uint64_t buckets = atomic_load_explicit(&h->bucket_count, memory_order_relaxed);
    VV_TRY(reserve_cells(h, VV_MIN(buckets + entry_count, BUCKETS_MAX)));
    uint64_t per_entry = version_bytes_max(0) + VV_ARENA_ALIGN_BYTES - 1;
    if (entry_count > (SIZE_MAX / 2 - data_bytes) / per_entry)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    return vv_arena_reserve(h->arena, entry_count * per_entry + data_bytes);
}

static version *version_alloc(hashmap *h, version *older, uint64_t data_bytes) {
    size_t bytes = sizeof(version) + data_bytes;
    if (!older)
        return vv_arena_alloc(h->arena, bytes);
    jump *j = vv_arena_alloc(h->arena, sizeof(jump) + bytes);
    *j = jump_over(older);
    return (version *)(void *)(j + 1);
}

static void hashmap_add(vv_memtable *m, const vv_entry *e) {
    hashmap *h = (hashmap *)m;
    vv_mem_target t = vv_mem_target_make(e->key, e->lsn);
    uint64_t hash = vv_hash_key(e->key.data, e->key.bytes);
    cell *before;
    version *older = find(h, &t, hash, &before);

    version *v = version_alloc(h, older, e->key.bytes + e->value.bytes);
    v->head.order = reverse_bits(hash) | 1;
    v->older = older;
    v->added_before = atomic_load_explicit(&h->newest, memory_order_relaxed);
    vv_mem_record_fill(&v->record, e);
    link_behind(before, &v->head, next_of(older ? &older->head : before));
    /* release: publishes v to those who sort. */
    atomic_store_explicit(&h->newest, v, memory_order_release);
    if (older)
        return;
    h->key_count++;
    uint64_t buckets = atomic_load_explicit(&h->bucket_count, memory_order_relaxed);
    if (h->key_count > buckets && buckets < h->bucket_limit)
        add_bucket(h);
}

static bool hashmap_get(vv_memtable *m, vv_slice key, uint64_t lsn, vv_entry *out) {
    hashmap *h = (hashmap *)m;
    vv_mem_target t = vv_mem_target_make(key, lsn);
    cell *before;
    version *v = version_at(find(h, &t, vv_hash_key(key.data, key.bytes), &before), lsn);
    if (!v)
        return false;
    vv_mem_record_entry(&v->record, out);
    return true;
}

/* Replace h->sorted by one that holds everything up to `newest`. sort_lock held. NO_MEMORY. */
static vv_status sort_up_to(hashmap *h, version *newest) {
    uint64_t sorted_lsn = h->sorted ? h->sorted->last_lsn : 0;
    size_t count = 0;
    for (version *v = newest; v && v->record.lsn > sorted_lsn; v = v->added_before)
        count++;
    vv_mem_item *fresh = vv_alloc(VV_MAX(count, (size_t)1) * sizeof *fresh);
    if (!fresh)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    version *v = newest;
    for (size_t i = 0; i < count; i++, v = v->added_before)
        fresh[i] = (vv_mem_item){.prefix = v->record.prefix, .record = &v->record};
    vv_mem_sorted *sorted;
    uint64_t last_lsn = newest ? newest->record.lsn : 0;
    vv_status st = vv_mem_sorted_create(h->sorted, fresh, count, last_lsn, &h->sorted_bytes, &sorted);
    vv_free(fresh);
    VV_TRY(st);
    vv_mem_sorted_unref(h->sorted);
    h->sorted = sorted;
    return VV_STATUS_OK;
}

static vv_status hashmap_iter_create(vv_memtable *m, vv_iter **out) {
    hashmap *h = (hashmap *)m;
    /* acquire: what the caller may see, and all that it leads to. */
    version *newest = atomic_load_explicit(&h->newest, memory_order_acquire);
    vv_mutex_lock(&h->sort_lock);
    vv_status st = VV_STATUS_OK;
    if (!h->sorted || (newest && newest->record.lsn > h->sorted->last_lsn))
        st = sort_up_to(h, newest);
    vv_mem_sorted *sorted = h->sorted;
    if (vv_ok(st))
        vv_mem_sorted_ref(sorted);
    vv_mutex_unlock(&h->sort_lock);
    VV_TRY(st);
    return vv_mem_sorted_iter_create(sorted, out);
}

static uint64_t hashmap_bytes(const vv_memtable *m) {
    const hashmap *h = (const hashmap *)m;
    return vv_arena_bytes(h->arena) + atomic_load_explicit(&h->sorted_bytes, memory_order_relaxed);
}

static void hashmap_destroy(vv_memtable *m) {
    hashmap *h = (hashmap *)m;
    vv_mem_sorted_unref(h->sorted);
    vv_mutex_deinit(&h->sort_lock);
    vv_arena_destroy(h->arena);
    vv_free(h);
}

static const vv_memtable_ops hashmap_ops = {
    .name = "hashmap",
    .destroy = hashmap_destroy,
    .reserve = hashmap_reserve,
    .add = hashmap_add,
    .get = hashmap_get,
    .iter_create = hashmap_iter_create,
    .bytes = hashmap_bytes,
};

vv_status vv_hashmap_create(uint64_t seed, vv_memtable **out) {
    (void)seed; /* nothing here is left to chance */
    vv_status st;
    hashmap *h = vv_alloc_zeroed(sizeof *h);
    if (!h)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    h->base.ops = &hashmap_ops;
    vv_mutex_init(&h->sort_lock);
    st = vv_arena_create(&h->arena);
    if (!vv_ok(st))
        goto fail;
    st = reserve_cells(h, 1);
    if (!vv_ok(st))
        goto fail;
    cell *first = cell_at(h, 0);
    first->order = 0;
    atomic_init(&first->next, NULL);
    atomic_init(&h->bucket_count, 1);
    *out = &h->base;
    return VV_STATUS_OK;

fail:
    hashmap_destroy(&h->base);
    return st;
}
