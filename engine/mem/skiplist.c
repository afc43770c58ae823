/*
 * skiplist.c - the memtable as a skip list: one writer, readers without locks.
 *
 * W. Pugh, "Skip Lists: A Probabilistic Alternative to Balanced Trees", CACM 33(6), 1990; without deletion a
 * single writer needs no more than ordered stores.
 *
 * A node is one piece of the arena, with its tower growing downwards from it, so that the links of the low
 * levels share a cache line with the prefix that decides nearly every comparison:
 *
 *   [next of level h-1] ... [next of level 1] | [next of level 0][prefix][lsn][expiry][sizes] [key][value]
 *                                             ^ node
 *
 * prefix: the first 8 bytes of the key as a big-endian integer, padded with zeros. Two prefixes that differ
 * order their keys; equal ones leave it to the rest of the keys and their lengths.
 *
 * Invariants
 *   S1  Level 0 links all entries in internal order; each level is a subsequence of the one below.
 *   S2  A node is filled in completely before any link to it is stored with release; every link is loaded
 *       with acquire. A reader that can reach a node can read all of it.
 *   S3  Links are stored from level 0 upwards, nodes are never moved or unlinked: wherever a reader stands,
 *       it can go on.
 */
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/codec.h"
#include "engine/mem/mem_impl.h"

#define HEIGHT_MAX 16 /* with one node in four going up a level: 4^16 entries */

typedef struct node node;
typedef _Atomic(node *) link;

struct node {
    link next0;
    uint64_t prefix;
    uint64_t lsn;
    uint64_t expires_unix_ms;
    uint32_t value_bytes;
    uint16_t key_bytes;
    uint8_t kind;
    uint8_t flags;
    uint8_t data[]; /* key, value */
};

_Static_assert(sizeof(node) == 40, "node head");
_Static_assert(sizeof(link) == 8, "tower slot");

typedef struct skiplist {
    vv_memtable base;
    vv_arena *arena;
    node *head;              /* no entry; HEIGHT_MAX levels */
    _Atomic uint32_t height; /* of the tallest tower */
    uint64_t random;
} skiplist;

typedef struct target {
    vv_slice key;
    uint64_t prefix;
    uint64_t lsn;
} target;

/* ---- nodes ---- */

static link *link_at(node *n, uint32_t level) {
    return &n->next0 - level;
}

/* acquire: pairs with the release in skiplist_add(). */
static node *next_at(node *n, uint32_t level) {
    return atomic_load_explicit(link_at(n, level), memory_order_acquire);
}

static uint64_t prefix_of(vv_slice key) {
    if (VV_LIKELY(key.bytes >= 8))
        return vv_get_be64(key.data);
    uint8_t padded[8] = {0};
    if (key.bytes) /* a seek may start at the empty key */
        memcpy(padded, key.data, key.bytes);
    return vv_get_be64(padded);
}

static target target_make(vv_slice key, uint64_t lsn) {
    return (target){.key = key, .prefix = prefix_of(key), .lsn = lsn};
}

/* The order of the keys of n and t, whose prefixes are equal. If one has at most 8 bytes, zeros padded it to
 * the other's beginning: then it is the other's prefix, and the lengths decide. */
static int compare_tails(const node *n, const target *t) {
    size_t shorter = VV_MIN((size_t)n->key_bytes, t->key.bytes);
    if (shorter > 8) {
        int order = memcmp(n->data + 8, (const uint8_t *)t->key.data + 8, shorter - 8);
        if (order != 0)
            return order;
    }
    return (n->key_bytes > t->key.bytes) - (n->key_bytes < t->key.bytes);
}

/* n comes before t in internal order. */
static bool is_before(const node *n, const target *t) {
    if (n->prefix != t->prefix)
        return n->prefix < t->prefix;
    int order = compare_tails(n, t);
    return order != 0 ? order < 0 : n->lsn > t->lsn;
}

static void node_entry(const node *n, vv_entry *out) {
    *out = (vv_entry){
        .key = vv_slice_make(n->data, n->key_bytes),
        .value = vv_slice_make(n->data + n->key_bytes, n->value_bytes),
        .lsn = n->lsn,
        .expires_unix_ms = n->expires_unix_ms,
        .kind = n->kind,
        .flags = n->flags,
    };
}

/* What follows n on a level. If that is too far, the search goes on a level below: start loading what is
 * there while the comparison waits for its own cache line. */
static node *step(node *n, uint32_t level) {
    if (level > 0)
        __builtin_prefetch(atomic_load_explicit(link_at(n, level - 1), memory_order_relaxed));
    return next_at(n, level);
}

/* The first node at or behind t, or NULL. before: the last node before t on each level, or NULL. */
static node *find(skiplist *s, const target *t, node **before) {
    node *n = s->head;
    node *known = NULL; /* is at or behind t: found on the level above, not compared again */
    /* relaxed: a level missed or empty costs time only. */
    for (uint32_t level = atomic_load_explicit(&s->height, memory_order_relaxed); level-- > 0;) {
        node *next = step(n, level);
        while (next != known && next && is_before(next, t)) {
            n = next;
            next = step(n, level);
        }
        known = next;
        if (before)
            before[level] = n;
    }
    return known;
}

/* ---- memtable ---- */

/* xorshift64*; 1 with 3 in 4, 2 with 3 in 16, and so on. */
static uint32_t random_height(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    uint64_t bits = (x * UINT64_C(0x2545F4914F6CDD1D)) >> (64 - 2 * (HEIGHT_MAX - 1));
    uint32_t height = 1;
    while (height < HEIGHT_MAX && (bits & 3) == 0) {
        height++;
        bits >>= 2;
    }
    return height;
}

static size_t node_bytes(uint32_t height, size_t data_bytes) {
    return (height - 1) * sizeof(link) + sizeof(node) + data_bytes;
}

static node *node_alloc(skiplist *s, uint32_t height, size_t data_bytes) {
    uint8_t *piece = vv_arena_alloc(s->arena, node_bytes(height, data_bytes));
    return (node *)(void *)(piece + (height - 1) * sizeof(link));
}

static vv_status skiplist_reserve(vv_memtable *m, uint64_t entry_count, uint64_t data_bytes) {
    skiplist *s = (skiplist *)m;
    /* The towers to come are known: their heights follow from the generator's state. */
    uint64_t random = s->random;
    uint64_t bytes = data_bytes;
    for (uint64_t i = 0; i < entry_count; i++)
        bytes += node_bytes(random_height(&random), 0) + VV_ARENA_ALIGN_BYTES - 1;
    return vv_arena_reserve(s->arena, bytes);
}

static void skiplist_add(vv_memtable *m, const vv_entry *e) {
    skiplist *s = (skiplist *)m;
    target t = target_make(e->key, e->lsn);
    node *before[HEIGHT_MAX];
    node *behind = find(s, &t, before);
    VV_ASSERT(!behind || behind->lsn != t.lsn);

    uint32_t height = random_height(&s->random);
    uint32_t old_height = atomic_load_explicit(&s->height, memory_order_relaxed);
    for (uint32_t level = old_height; level < height; level++)
        before[level] = s->head;
    /* relaxed: a reader that sees it early finds NULL links of the head on the new levels. */
    if (height > old_height)
        atomic_store_explicit(&s->height, height, memory_order_relaxed);

    node *n = node_alloc(s, height, e->key.bytes + e->value.bytes);
    n->prefix = t.prefix;
    n->lsn = e->lsn;
    n->expires_unix_ms = e->expires_unix_ms;
    n->value_bytes = (uint32_t)e->value.bytes;
    n->key_bytes = (uint16_t)e->key.bytes;
    n->kind = e->kind;
    n->flags = e->flags;
    memcpy(n->data, e->key.data, e->key.bytes);
    if (e->value.bytes)
        memcpy(n->data + e->key.bytes, e->value.data, e->value.bytes);

    for (uint32_t level = 0; level < height; level++) {
        link *from = link_at(before[level], level);
        atomic_store_explicit(link_at(n, level), atomic_load_explicit(from, memory_order_relaxed),
                              memory_order_relaxed);
        /* release: publishes the whole node; pairs with the acquire in next_at(). */
        atomic_store_explicit(from, n, memory_order_release);
    }
}

static bool skiplist_get(vv_memtable *m, vv_slice key, uint64_t lsn, vv_entry *out) {
    target t = target_make(key, lsn);
    node *n = find((skiplist *)m, &t, NULL);
    if (!n || n->prefix != t.prefix || compare_tails(n, &t) != 0)
        return false;
    node_entry(n, out);
    return true;
}

static uint64_t skiplist_bytes(const vv_memtable *m) {
    return vv_arena_bytes(((const skiplist *)m)->arena);
}

static void skiplist_destroy(vv_memtable *m) {
    skiplist *s = (skiplist *)m;
    vv_arena_destroy(s->arena);
    vv_free(s);
}

/* ---- iterator ---- */

typedef struct skiplist_iter {
    vv_iter base;
    skiplist *list;
    node *at;
} skiplist_iter;

static void iter_settle(skiplist_iter *it, node *n) {
    it->at = n;
    it->base.valid = n != NULL;
    if (n)
        node_entry(n, &it->base.entry);
}

static void iter_destroy(vv_iter *base) {
    vv_free(base);
}

static void iter_seek_first(vv_iter *base) {
    skiplist_iter *it = (skiplist_iter *)base;
    iter_settle(it, next_at(it->list->head, 0));
}

static void iter_seek(vv_iter *base, vv_slice key, uint64_t lsn) {
    skiplist_iter *it = (skiplist_iter *)base;
    target t = target_make(key, lsn);
    iter_settle(it, find(it->list, &t, NULL));
}

static void iter_next(vv_iter *base) {
    skiplist_iter *it = (skiplist_iter *)base;
    iter_settle(it, next_at(it->at, 0));
}

static const vv_iter_ops iter_ops = {
    .destroy = iter_destroy, .seek_first = iter_seek_first, .seek = iter_seek, .next = iter_next};

static vv_status skiplist_iter_create(vv_memtable *m, vv_iter **out) {
    skiplist_iter *it = vv_alloc_zeroed(sizeof *it);
    if (!it)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    it->base.ops = &iter_ops;
    it->list = (skiplist *)m;
    *out = &it->base;
    return VV_STATUS_OK;
}

static const vv_memtable_ops skiplist_ops = {
    .name = "skiplist",
    .destroy = skiplist_destroy,
    .reserve = skiplist_reserve,
    .add = skiplist_add,
    .get = skiplist_get,
    .iter_create = skiplist_iter_create,
    .bytes = skiplist_bytes,
};

vv_status vv_skiplist_create(uint64_t seed, vv_memtable **out) {
    vv_status st;
    skiplist *s = vv_alloc_zeroed(sizeof *s);
    if (!s)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    s->base.ops = &skiplist_ops;
    s->random = seed ? seed : 1;
    atomic_init(&s->height, 1);
    st = vv_arena_create(&s->arena);
    if (!vv_ok(st))
        goto fail;
    st = vv_arena_reserve(s->arena, node_bytes(HEIGHT_MAX, 0));
    if (!vv_ok(st))
        goto fail;
    s->head = node_alloc(s, HEIGHT_MAX, 0);
    memset(s->head, 0, sizeof *s->head);
    for (uint32_t level = 0; level < HEIGHT_MAX; level++)
        atomic_init(link_at(s->head, level), NULL);
    *out = &s->base;
    return VV_STATUS_OK;

fail:
    vv_arena_destroy(s->arena);
    vv_free(s);
    return st;
}
