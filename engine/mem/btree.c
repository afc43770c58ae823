/*
 * btree.c - the memtable as a B+-tree: one writer, readers without locks, waits or restarts from the root.
 *
 * A node's slots are filled one after the other and never again, and one word says how many there are and in
 * which order they go (after Y. Mao, E. Kohler and R. Morris, "Cache Craftiness for Fast Multicore Key-Value
 * Storage", EuroSys 2012): one store of it adds an entry. A full node is not changed any more but replaced by
 * two, each with half of its slots. The old one stays in the arena, for those who read it.
 *
 *   leaf   [order][prefixes ...][records ...]                 entries from its lower bound to its upper
 *   inner  [order][prefixes ...][separators ...][children ...]  child i: from separator i to separator i + 1
 *
 * A separator is a place in internal order: of a record, or, if the tree can choose, before all versions of
 * its key, so that a get goes to the right child at once.
 *
 * Invariants
 *   B1  A slot is filled in before the order that names it is stored with release, and then only the child
 *       pointer in it changes. Orders are loaded with acquire.
 *   B2  To replace child A by A1 and A2: first A2 is added behind A, then A's pointer becomes A1. Before the
 *       second step A serves for A1. So a child that was loaded from a node has the bounds that the node's
 *       order says if the order has not changed since; it changes at most SLOTS times in a node's life, which
 *       bounds the attempts of a reader.
 *   B3  A replaced node has all entries between its bounds up to its end, and no later ones are a concern of
 *       the readers that came to it before.
 *   B4  Separators never go away, and only the root of the empty tree is a leaf without entries: the leaf
 *       that begins at a bound holds the next entry, the leaf that ends there the one before.
 *   B5  At the right edge, where ascending keys go, a full node keeps its slots and gets an empty neighbour:
 *       there was nothing behind it that a reader could miss.
 */
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "engine/mem/mem_impl.h"

#define SLOTS      15
#define HALF       ((SLOTS + 1) / 2)
#define LEVELS_MAX 16 /* with nodes at least half full: 8^16 */

/* Bits 0 to 3: how many slots are in use. Bits 4i + 4 and up: which slot comes i-th. */
typedef uint64_t order_word;

typedef struct leaf {
    _Atomic order_word order;
    uint64_t prefixes[SLOTS];
    const vv_mem_record *records[SLOTS];
} leaf;

/* The address of a record, plus 1: before all versions of its key. 0: beyond all keys. */
typedef uintptr_t bound;

typedef struct inner {
    _Atomic order_word order;
    uint64_t prefixes[SLOTS];
    bound separators[SLOTS]; /* the first in order is not looked at */
    _Atomic(void *) children[SLOTS];
} inner;

/* Nodes to come: a run of them, with this in its first. */
typedef struct run {
    struct run *next;
    uint64_t count;
} run;

typedef struct node_pool {
    size_t node_bytes;
    run *runs;
    uint64_t count; /* in all runs */
} node_pool;

/* The root and what is below it are published together. */
typedef struct root {
    uint32_t inner_levels;
    void *node;
} root;

typedef struct btree {
    vv_memtable base;
    vv_arena *arena;
    _Atomic(const root *) root;
    root roots[LEVELS_MAX]; /* one for each height; writer's until published */
    node_pool leaves;
    node_pool inners;
    uint64_t node_counts[LEVELS_MAX]; /* at each level, 0: leaves; writer's */
} btree;

/* ---- order words ---- */

static uint32_t order_count(order_word o) {
    return (uint32_t)(o & 15);
}

static uint32_t order_slot(order_word o, uint32_t at) {
    return (uint32_t)(o >> (4 * at + 4)) & 15;
}

/* The next free slot, put in at position `at`. */
static order_word order_insert(order_word o, uint32_t at) {
    order_word count = o & 15;
    order_word low = o & ((UINT64_C(1) << (4 * at + 4)) - 1);
    order_word high = at + 1 < SLOTS ? (o - low) << 4 : 0;
    return (high | low | count << (4 * at + 4)) + 1;
}

/* Slots 0 to count - 1 in this order. */
static order_word order_first(uint32_t count) {
    const order_word all = UINT64_C(0xEDCBA9876543210) << 4;
    order_word mask = count < SLOTS ? (UINT64_C(1) << (4 * count + 4)) - 1 : UINT64_MAX;
    return (all & mask) | count;
}

static order_word order_of(_Atomic order_word *o) {
    return atomic_load_explicit(o, memory_order_acquire); /* B1 */
}

/* ---- bounds ---- */

static const vv_mem_record *bound_record(bound b) {
    return (const vv_mem_record *)(b & ~(uintptr_t)1);
}

static vv_mem_target bound_target(bound b) {
    vv_mem_target t = vv_mem_target_of(bound_record(b));
    if (b & 1)
        t.lsn = VV_LSN_MAX;
    return t;
}

/* Between `left` and `right`, two neighbours; as far left as a change of key allows. */
static bound bound_between(const vv_mem_record *left, const vv_mem_record *right) {
    vv_mem_target t = vv_mem_target_of(left);
    return (uintptr_t)right | !vv_mem_key_is(right, &t);
}

/* The bound, whose prefix is known, is before t or (unless `strictly`) at it. */
static bool bound_reaches(uint64_t prefix, bound b, const vv_mem_target *t, bool strictly) {
    if (prefix != t->prefix)
        return prefix < t->prefix;
    int order = vv_mem_compare_tails(bound_record(b), t);
    if (order != 0)
        return order < 0;
    uint64_t lsn = b & 1 ? VV_LSN_MAX : bound_record(b)->lsn;
    return strictly ? lsn > t->lsn : lsn >= t->lsn;
}

/* ---- searches ---- */

/* The position of the last child that begins before t, or (unless `strictly`) at it. */
static uint32_t inner_search(const inner *n, order_word o, const vv_mem_target *t, bool strictly) {
    uint32_t low = 0, high = order_count(o); /* the answer is in [low, high) */
    while (high - low > 1) {
        uint32_t mid = (low + high) / 2, slot = order_slot(o, mid);
        if (bound_reaches(n->prefixes[slot], n->separators[slot], t, strictly))
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* The position of the first entry at or behind t. */
static uint32_t leaf_search(const leaf *n, order_word o, const vv_mem_target *t) {
    uint32_t low = 0, high = order_count(o);
    while (low < high) {
        uint32_t mid = (low + high) / 2, slot = order_slot(o, mid);
        bool before = n->prefixes[slot] != t->prefix ? n->prefixes[slot] < t->prefix
                                                     : vv_mem_is_before(n->records[slot], t);
        if (before)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* A leaf as it was at one moment, and a position in it. */
typedef struct place {
    leaf *leaf;
    order_word order;
    uint32_t at;
    bound lower; /* 0: none */
    bound upper;
} place;

static const vv_mem_record *place_record(const place *p) {
    return p->leaf->records[order_slot(p->order, p->at)];
}

/* Where the writer came through. */
typedef struct path {
    inner *nodes[LEVELS_MAX]; /* [i]: at level i, from 1 on */
    uint32_t at[LEVELS_MAX];
    uint32_t levels; /* of inner nodes */
} path;

/* The child for t, by one order of the node (B2), and its bounds as far as this node knows them. */
static void *descend_inner(inner *n, const vv_mem_target *t, bool strictly, place *p, uint32_t *at_out) {
    order_word o = order_of(&n->order);
    for (;;) {
        uint32_t at = t ? inner_search(n, o, t, strictly) : order_count(o) - 1;
        uint32_t slot = order_slot(o, at);
        /* acquire: the child is complete, and the order below no older than what led to it. */
        void *child = atomic_load_explicit(&n->children[slot], memory_order_acquire);
        order_word now = order_of(&n->order);
        if (VV_LIKELY(now == o)) {
            if (at > 0)
                p->lower = n->separators[slot];
            if (at + 1 < order_count(o))
                p->upper = n->separators[order_slot(o, at + 1)];
            *at_out = at;
            return child;
        }
        o = now;
    }
}

/* To the leaf for t: the one that begins before t or (unless `strictly`) at it; p->at: of the first entry at
 * or behind t. t NULL: to the end of the last one. way: filled in if not NULL. */
static void descend(btree *b, const vv_mem_target *t, bool strictly, place *p, path *way) {
    const root *r = atomic_load_explicit(&b->root, memory_order_acquire);
    void *node = r->node;
    p->lower = p->upper = 0;
    if (way)
        way->levels = r->inner_levels;
    for (uint32_t level = r->inner_levels; level > 0; level--) {
        inner *n = node;
        uint32_t at;
        node = descend_inner(n, t, strictly, p, &at);
        if (way) {
            way->nodes[level] = n;
            way->at[level] = at;
        }
    }
    leaf *l = node;
    p->leaf = l;
    p->order = order_of(&l->order);
    p->at = t ? leaf_search(l, p->order, t) : order_count(p->order);
}

/*
 * A descent for a cursor, which goes on from the place and so needs it to end at its bound. Between the two
 * steps of B2 a leaf that is being replaced still holds what its new neighbour holds too: that is left off.
 * (A get needs no such care: what it looks for is before the bound.)
 */
static void descend_bounded(btree *b, const vv_mem_target *t, bool strictly, place *p) {
    descend(b, t, strictly, p, NULL);
    uint32_t count = order_count(p->order);
    if (!p->upper || count == 0)
        return;
    vv_mem_target end = bound_target(p->upper);
    if (vv_mem_is_before(p->leaf->records[order_slot(p->order, count - 1)], &end))
        return;
    uint32_t kept = leaf_search(p->leaf, p->order, &end);
    p->order = (p->order & ~(order_word)15) | kept;
    p->at = VV_MIN(p->at, kept);
}

/* To the first entry at or behind t; false: there is none. Two descents at most (B4). */
static bool place_at_or_behind(btree *b, const vv_mem_target *t, place *p) {
    descend_bounded(b, t, false, p);
    if (p->at == order_count(p->order) && p->upper) {
        vv_mem_target next = bound_target(p->upper);
        descend_bounded(b, &next, false, p);
    }
    return p->at < order_count(p->order);
}

/* To the last entry before t, of all if t is NULL; false: there is none. */
static bool place_before(btree *b, const vv_mem_target *t, place *p) {
    descend_bounded(b, t, true, p);
    if (p->at == 0 && p->lower) {
        vv_mem_target end = bound_target(p->lower);
        descend_bounded(b, &end, true, p);
    }
    if (p->at == 0)
        return false;
    p->at--;
    return true;
}

/* ---- nodes ---- */

/* Have `count` nodes ready. */
static vv_status pool_fill(btree *b, node_pool *pool, uint64_t count) {
    if (pool->count >= count)
        return VV_STATUS_OK;
    uint64_t missing = count - pool->count;
    if (missing > SIZE_MAX / 2 / pool->node_bytes)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    VV_TRY(vv_arena_reserve(b->arena, missing * pool->node_bytes));
    run *r = vv_arena_alloc(b->arena, missing * pool->node_bytes);
    *r = (run){.next = pool->runs, .count = missing};
    pool->runs = r;
    pool->count = count;
    return VV_STATUS_OK;
}

static void *pool_take(node_pool *pool) {
    run *r = pool->runs;
    VV_ASSERT(r);
    pool->count--;
    r->count--;
    if (r->count == 0)
        pool->runs = r->next;
    return (uint8_t *)r + r->count * pool->node_bytes; /* the last: the first one is the run */
}

typedef struct child_item {
    uint64_t prefix;
    bound separator;
    void *child;
} child_item;

static void *make_leaf(btree *b, const vv_mem_record *const *records, uint32_t count) {
    leaf *n = pool_take(&b->leaves);
    for (uint32_t i = 0; i < count; i++) {
        n->prefixes[i] = records[i]->prefix;
        n->records[i] = records[i];
    }
    atomic_init(&n->order, order_first(count));
    return n;
}

static void *make_inner(btree *b, const child_item *items, uint32_t count) {
    inner *n = pool_take(&b->inners);
    for (uint32_t i = 0; i < count; i++) {
        n->prefixes[i] = items[i].prefix;
        n->separators[i] = items[i].separator;
        atomic_init(&n->children[i], items[i].child);
    }
    atomic_init(&n->order, order_first(count));
    return n;
}

/* ---- splits ---- */

static child_item item_make(bound separator, void *child) {
    uint64_t prefix = separator ? bound_record(separator)->prefix : 0;
    return (child_item){.prefix = prefix, .separator = separator, .child = child};
}

/* The old root is full: it or its replacement becomes the first of two children. */
static void grow_root(btree *b, void *left, child_item right) {
    const root *old = atomic_load_explicit(&b->root, memory_order_relaxed);
    uint32_t levels = old->inner_levels + 1;
    VV_ASSERT(levels < LEVELS_MAX);
    child_item items[2] = {item_make(0, left), right};
    b->roots[levels] = (root){.inner_levels = levels, .node = make_inner(b, items, 2)};
    b->node_counts[levels] = 1;
    /* release: publishes the new root and its children. */
    atomic_store_explicit(&b->root, &b->roots[levels], memory_order_release);
}

static void inner_insert(inner *n, uint32_t at, child_item item) {
    order_word o = atomic_load_explicit(&n->order, memory_order_relaxed);
    uint32_t slot = order_count(o);
    n->prefixes[slot] = item.prefix;
    n->separators[slot] = item.separator;
    atomic_store_explicit(&n->children[slot], item.child, memory_order_relaxed);
    atomic_store_explicit(&n->order, order_insert(o, at), memory_order_release); /* B1 */
}

/* All children of a full node and the new one behind position `at`, whose own child is now `left`. */
static void inner_items(inner *n, uint32_t at, void *left, child_item right, child_item out[SLOTS + 1]) {
    order_word o = atomic_load_explicit(&n->order, memory_order_relaxed);
    for (uint32_t i = 0, to = 0; i < SLOTS; i++) {
        uint32_t slot = order_slot(o, i);
        void *child = atomic_load_explicit(&n->children[slot], memory_order_relaxed);
        out[to++] = (child_item){n->prefixes[slot], n->separators[slot], i == at ? left : child};
        if (i == at)
            out[to++] = right;
    }
}

/*
 * The node that `way` leads through below `level` becomes `left` (which may be the node itself, unchanged)
 * and, behind it, `right`; from the level up to where there is room, or to a new root. at_edge: the node
 * has no neighbour on the right.
 */
static void replace_child(btree *b, const path *way, void *old, void *left, child_item right, bool at_edge) {
    for (uint32_t level = 1;; level++) {
        b->node_counts[level - 1]++;
        if (level > way->levels) {
            grow_root(b, left, right);
            return;
        }
        inner *n = way->nodes[level];
        uint32_t at = way->at[level];
        order_word o = atomic_load_explicit(&n->order, memory_order_relaxed);
        if (order_count(o) < SLOTS) {
            inner_insert(n, at + 1, right);
            /* release: B2's second step; the order above goes before it. */
            if (left != old)
                atomic_store_explicit(&n->children[order_slot(o, at)], left, memory_order_release);
            return;
        }
        if (at_edge && left == old) { /* B5 */
            child_item first = right;
            right = item_make(first.separator, make_inner(b, &first, 1));
            old = left = n;
            continue;
        }
        child_item items[SLOTS + 1];
        inner_items(n, at, left, right, items);
        old = n;
        left = make_inner(b, items, HALF);
        right = item_make(items[HALF].separator, make_inner(b, items + HALF, HALF));
    }
}

/* ---- memtable ---- */

static void leaf_insert(const place *p, const vv_mem_record *r) {
    leaf *n = p->leaf;
    uint32_t slot = order_count(p->order);
    n->prefixes[slot] = r->prefix;
    n->records[slot] = r;
    atomic_store_explicit(&n->order, order_insert(p->order, p->at), memory_order_release); /* B1 */
}

static void leaf_split(btree *b, const path *way, const place *p, const vv_mem_record *r) {
    leaf *n = p->leaf;
    const vv_mem_record *records[SLOTS + 1];
    for (uint32_t i = 0; i < SLOTS; i++)
        records[i < p->at ? i : i + 1] = n->records[order_slot(p->order, i)];
    records[p->at] = r;
    bool at_edge = p->upper == 0;
    uint32_t left_count = at_edge && p->at == SLOTS ? SLOTS : HALF;
    bound separator = bound_between(records[left_count - 1], records[left_count]);
    void *left = left_count == SLOTS ? n : make_leaf(b, records, left_count); /* B5 */
    void *right = make_leaf(b, records + left_count, SLOTS + 1 - left_count);
    replace_child(b, way, n, left, item_make(separator, right), at_edge);
}

static void btree_add(vv_memtable *m, const vv_entry *e) {
    btree *b = (btree *)m;
    vv_mem_record *r = vv_arena_alloc(b->arena, sizeof *r + e->key.bytes + e->value.bytes);
    vv_mem_record_fill(r, e);
    vv_mem_target t = vv_mem_target_of(r);
    path way;
    place p;
    descend(b, &t, false, &p, &way);
    if (order_count(p.order) < SLOTS)
        leaf_insert(&p, r);
    else
        leaf_split(b, &way, &p, r);
}

/*
 * How many nodes n insertions into a level with `nodes` nodes can take, and how many of its nodes can split
 * (*splits). A node that splits into halves needs SLOTS + 1 - HALF = 8 more insertions to split again, so
 * that at most nodes + n/8 do; at the right edge at most 1 + n/8 times a neighbour is added, since that, too,
 * takes 8 insertions to fill up.
 */
static uint64_t nodes_taken(uint64_t n, uint64_t nodes, uint64_t *splits) {
    *splits = VV_MIN(n, nodes + n / 4 + 1);
    return VV_MIN(2 * n, 2 * nodes + 3 * n / 8 + 2);
}

static vv_status btree_reserve(vv_memtable *m, uint64_t entry_count, uint64_t data_bytes) {
    btree *b = (btree *)m;
    uint64_t per_entry = sizeof(vv_mem_record) + VV_ARENA_ALIGN_BYTES - 1;
    if (entry_count > (SIZE_MAX / 2 - data_bytes) / per_entry)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    uint64_t splits;
    VV_TRY(pool_fill(b, &b->leaves, nodes_taken(entry_count, b->node_counts[0], &splits)));
    uint64_t inners = 0;
    for (uint32_t level = 1; level < LEVELS_MAX && splits > 0; level++) {
        uint64_t nodes = b->node_counts[level];
        if (nodes == 0) { /* a new root, with room for SLOTS - 2 further children */
            inners++;
            if (splits < SLOTS)
                break;
            nodes = 1;
        }
        inners += nodes_taken(splits, nodes, &splits);
    }
    VV_TRY(pool_fill(b, &b->inners, inners));
    return vv_arena_reserve(b->arena, entry_count * per_entry + data_bytes);
}

static bool btree_get(vv_memtable *m, vv_slice key, uint64_t lsn, vv_entry *out) {
    btree *b = (btree *)m;
    vv_mem_target t = vv_mem_target_make(key, lsn);
    place p;
    descend(b, &t, false, &p, NULL);
    if (p.at == order_count(p.order)) {
        /* Only versions of the key itself may go on behind the bound. */
        if (!p.upper || !vv_mem_key_is(bound_record(p.upper), &t))
            return false;
        vv_mem_target next = bound_target(p.upper);
        descend(b, &next, false, &p, NULL);
        VV_ASSERT(p.at < order_count(p.order)); /* B4 */
    }
    const vv_mem_record *r = place_record(&p);
    if (!vv_mem_key_is(r, &t))
        return false;
    vv_mem_record_entry(r, out);
    return true;
}

static uint64_t btree_bytes(const vv_memtable *m) {
    return vv_arena_bytes(((const btree *)m)->arena);
}

static void btree_destroy(vv_memtable *m) {
    btree *b = (btree *)m;
    vv_arena_destroy(b->arena);
    vv_free(b);
}

/* ---- iterator ---- */

/* Stands in a leaf as it was when it came there; behind its ends it looks for the neighbour afresh. */
typedef struct btree_iter {
    vv_iter base;
    btree *tree;
    place place;
} btree_iter;

static void iter_settle(btree_iter *it, bool found) {
    vv_mem_iter_settle(&it->base, found ? place_record(&it->place) : NULL);
}

static void iter_destroy(vv_iter *base) {
    vv_free(base);
}

static void iter_seek(vv_iter *base, vv_slice key, uint64_t lsn) {
    btree_iter *it = (btree_iter *)base;
    vv_mem_target t = vv_mem_target_make(key, lsn);
    iter_settle(it, place_at_or_behind(it->tree, &t, &it->place));
}

static void iter_seek_first(vv_iter *base) {
    iter_seek(base, vv_slice_make(NULL, 0), VV_LSN_MAX);
}

static void iter_seek_back(vv_iter *base, vv_slice key, uint64_t lsn) {
    btree_iter *it = (btree_iter *)base;
    vv_mem_target t = vv_mem_target_behind(key, lsn);
    iter_settle(it, place_before(it->tree, &t, &it->place));
}

static void iter_seek_last(vv_iter *base) {
    btree_iter *it = (btree_iter *)base;
    iter_settle(it, place_before(it->tree, NULL, &it->place));
}

static void iter_next(vv_iter *base) {
    btree_iter *it = (btree_iter *)base;
    place *p = &it->place;
    p->at++;
    bool found = p->at < order_count(p->order);
    if (!found && p->upper) {
        vv_mem_target t = bound_target(p->upper);
        found = place_at_or_behind(it->tree, &t, p);
    }
    iter_settle(it, found);
}

static void iter_prev(vv_iter *base) {
    btree_iter *it = (btree_iter *)base;
    place *p = &it->place;
    bool found = p->at > 0;
    if (found) {
        p->at--;
    } else if (p->lower) {
        vv_mem_target t = bound_target(p->lower);
        found = place_before(it->tree, &t, p);
    }
    iter_settle(it, found);
}

static const vv_iter_ops iter_ops = {
    .destroy = iter_destroy,
    .seek_first = iter_seek_first,
    .seek_last = iter_seek_last,
    .seek = iter_seek,
    .seek_back = iter_seek_back,
    .next = iter_next,
    .prev = iter_prev,
};

static vv_status btree_iter_create(vv_memtable *m, vv_iter **out) {
    btree_iter *it = vv_alloc_zeroed(sizeof *it);
    if (!it)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    it->base.ops = &iter_ops;
    it->tree = (btree *)m;
    *out = &it->base;
    return VV_STATUS_OK;
}

static const vv_memtable_ops btree_ops = {
    .name = "btree",
    .destroy = btree_destroy,
    .reserve = btree_reserve,
    .add = btree_add,
    .get = btree_get,
    .iter_create = btree_iter_create,
    .bytes = btree_bytes,
};

vv_status vv_btree_create(uint64_t seed, vv_memtable **out) {
    (void)seed; /* nothing here is left to chance */
    vv_status st;
    btree *b = vv_alloc_zeroed(sizeof *b);
    if (!b)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    b->base.ops = &btree_ops;
    b->leaves.node_bytes = sizeof(leaf);
    b->inners.node_bytes = sizeof(inner);
    st = vv_arena_create(&b->arena);
    if (!vv_ok(st))
        goto fail;
    st = pool_fill(b, &b->leaves, 1);
    if (!vv_ok(st))
        goto fail;
    b->roots[0] = (root){.inner_levels = 0, .node = make_leaf(b, NULL, 0)};
    b->node_counts[0] = 1;
    atomic_init(&b->root, &b->roots[0]);
    *out = &b->base;
    return VV_STATUS_OK;

fail:
    btree_destroy(&b->base);
    return st;
}
