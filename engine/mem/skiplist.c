/*
 * skiplist.c - the memtable as a skip list: one writer, readers without locks.
 *
 * W. Pugh, "Skip Lists: A Probabilistic Alternative to Balanced Trees", CACM 33(6), 1990; without deletion a
 * single writer needs no more than ordered stores.
 *
 * A node is one piece of the arena, with its tower growing downwards from it, so that the links of the low
 * levels share a cache line with the prefix that decides most comparisons of a reader:
 *
 *   [link of level h-1] ... [link of level 1] | [next of level 0][record: prefix, lsn, ...] [key][value]
 *                                             ^ node
 *
 * Gets go by an index of the keys' hashes (mem_index.h), as long as that knows the key. Iterators search.
 *
 * The writer's search
 *   A link of level 1 and above has a hint, for the writer alone: how many bytes the keys on both of its ends
 *   share, and the six bytes of the further one that follow those. The search knows how many bytes its key
 *   shares with the node that it stands on; so it can nearly always tell from the hint alone on which side
 *   the next node is, however much the keys have in common, and touches that node only if it goes there.
 *   (R. Grossi, G. Italiano, "Efficient Techniques for Maintaining Multidimensional Keys in Linked Data
 *   Structures", ICALP 1999, keep such numbers in the nodes of trees.) Keys count as continued by zeros
 *   without end here; two that are the same then share ALL, and are told apart by a look at them.
 *
 *   What is left of its time is waiting for memory. So the searches for the entries of one commit take turns
 *   (O. Kocberber et al., "Asynchronous Memory Access Chaining", VLDB 2015), and each entry is linked where
 * its search ended, or behind those of its group that have come in between: nodes never go away, so that a
 * place once found is at most too far ahead.
 *
 * Invariants
 *   S1  Level 0 links all entries in internal order; each level is a subsequence of the one below.
 *   S2  A node is filled in completely before any link to it is stored with release; every link is loaded
 *       with acquire. A reader that can reach a node can read all of it.
 *   S3  Links are stored from level 0 upwards, nodes are never moved or unlinked: wherever a reader stands,
 *       it can go on.
 *
 * Loading (at open, before anybody reads) makes nodes without links, sorts them all at the end, and then
 * links each behind the last: no search at all, where adding would miss the processor's cache on each level.
 */
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/checksum.h"
#include "engine/mem/mem_index.h"
#include "engine/mem/mem_sorted.h"

#define HEIGHT_MAX       24 /* with one node in two going up a level: 2^24 entries, and slower beyond */
#define LOAD_ITEMS_FIRST 1024
#define LINK_AHEAD       8  /* nodes that are on their way into the cache while one is linked */
#define OLDER_MAX        8  /* versions that a get walks over before it searches */
#define TOGETHER_HEIGHT  13 /* lists that are less tall are in the cache: taking turns would only cost */

typedef struct node node;
typedef _Atomic(node *) next_node;

/* Bits 48 and up: the number of bytes shared, ALL if there is no difference. The others: the six that follow,
 * big-endian. */
typedef uint64_t hint;

#define ALL UINT16_MAX

typedef struct link {
    next_node next;
    hint hint; /* writer's; of no meaning without a next */
} link;

struct node {
    next_node next0;
    vv_mem_record record;
};

/* Entries on their way in by loading. */
typedef struct skiplist_load {
    vv_mem_item *items; /* of nodes whose next0 holds the height of the tower, for want of a better place */
    size_t count;
    size_t capacity;
} skiplist_load;

typedef struct skiplist {
    vv_memtable base;
    vv_arena *arena;
    node *head;              /* no entry; HEIGHT_MAX levels */
    _Atomic uint32_t height; /* of the tallest tower */
    uint64_t random;
    vv_mem_index index;
    skiplist_load load; /* empty but while loading */
} skiplist;

/* ---- nodes ---- */

static link *link_at(node *n, uint32_t level) {
    return (link *)(void *)n - level;
}

static next_node *next_of(node *n, uint32_t level) {
    return level == 0 ? &n->next0 : &link_at(n, level)->next;
}

static node *node_of(const vv_mem_record *r) {
    return (node *)((uintptr_t)r - offsetof(node, record));
}

/* acquire: pairs with the release in skiplist_add(). */
static node *next_at(node *n, uint32_t level) {
    return atomic_load_explicit(next_of(n, level), memory_order_acquire);
}

/* What follows n on a level. If that is too far, the search goes on a level below: start loading what is
 * there while the comparison waits for its own cache line. */
static node *step(node *n, uint32_t level) {
    if (level > 0)
        __builtin_prefetch(atomic_load_explicit(next_of(n, level - 1), memory_order_relaxed));
    return next_at(n, level);
}

/* The first node at or behind t, or NULL. before: the last node before t on each level, or NULL. */
static node *find(skiplist *s, const vv_mem_target *t, node **before) {
    node *n = s->head;
    node *known = NULL; /* is at or behind t: found on the level above, not compared again */
    /* relaxed: a level missed or empty costs time only. */
    for (uint32_t level = atomic_load_explicit(&s->height, memory_order_relaxed); level-- > 0;) {
        node *next = step(n, level);
        while (next != known && next && vv_mem_is_before(&next->record, t)) {
            n = next;
            next = step(n, level);
        }
        known = next;
        if (before)
            before[level] = n;
    }
    return known;
}

/* ---- the writer's search ---- */

static uint32_t hint_shared(hint h) {
    return (uint32_t)(h >> 48);
}

static uint64_t hint_bytes(hint h) {
    return h << 16;
}

/* The six bytes from `at` on, in the upper 48 bits. */
static VV_ALWAYS_INLINE uint64_t bytes_from(vv_slice key, size_t at) {
    uint8_t bytes[8] = {0};
    if (key.bytes >= at + 8) {
        memcpy(bytes, (const uint8_t *)key.data + at, 8);
    } else if (key.bytes > at) {
        memcpy(bytes, (const uint8_t *)key.data + at, key.bytes - at);
    }
    return vv_get_be64(bytes) & ~UINT64_C(0xFFFF);
}

static hint hint_make(vv_slice key, uint32_t shared) {
    return (uint64_t)shared << 48 | (shared == ALL ? 0 : bytes_from(key, shared) >> 16);
}

/* How many bytes two keys share that share `from` at least. */
static uint32_t shared_bytes(vv_slice a, vv_slice b, uint32_t from) {
    size_t longer = VV_MAX(a.bytes, b.bytes);
    for (size_t at = from; at < longer; at += 6) {
        uint64_t difference = bytes_from(a, at) ^ bytes_from(b, at);
        if (difference)
            return (uint32_t)at + (uint32_t)__builtin_clzll(difference) / 8;
    }
    return ALL;
}

/* A search for the place of an entry, and where it came through on each level: the last node before the
 * place, and how many bytes of the key that shares. */
typedef struct search {
    vv_mem_target t;
    uint64_t hash;
    node *before[HEIGHT_MAX];
    uint32_t shared[HEIGHT_MAX];
    uint32_t height; /* of the list when it began */

    /* Where it is. */
    uint32_t level;
    uint32_t shared_here;
    node *at;
    node *fetched; /* on its way into the cache to be looked at, or NULL */
} search;

/* Is `next` before t, by a look at it? Then *shared, which it shares with t at least, becomes all that it
 * does. */
static bool node_is_before(const node *next, const vv_mem_target *t, uint32_t *shared) {
    if (!vv_mem_is_before(&next->record, t))
        return false;
    *shared = shared_bytes(vv_mem_record_key(&next->record), t->key, *shared);
    return true;
}

typedef enum order {
    BEFORE,
    BEHIND,
    UNKNOWN, /* only a look at the node tells */
} order;

/*
 * Where the node behind a link is, by the link's hint: it leads there from a node before t, which shares
 * *shared bytes with t. If the next one shares more with that node than t does, then it differs from t where
 * the node does, and in the same way; if less, it is what t is before. BEFORE: *shared is of the next one.
 */
static VV_ALWAYS_INLINE order link_order(const link *l, const vv_mem_target *t, uint32_t *shared) {
    uint32_t next_shared = hint_shared(l->hint);
    if (next_shared != *shared)
        return next_shared > *shared ? BEFORE : BEHIND;
    uint64_t bytes = *shared == ALL ? 0 : bytes_from(t->key, *shared);
    uint64_t next_bytes = hint_bytes(l->hint);
    if (next_bytes >= bytes)
        return next_bytes == bytes ? UNKNOWN : BEHIND;
    *shared += (uint32_t)__builtin_clzll(bytes ^ next_bytes) / 8;
    return BEFORE;
}

static uint32_t head_shared(vv_slice key) {
    return shared_bytes(vv_slice_make(NULL, 0), key, 0);
}

static void search_begin(search *f, skiplist *s, const vv_entry *e) {
    f->t = vv_mem_target_make(e->key, e->lsn);
    f->hash = vv_hash_key(e->key.data, e->key.bytes);
    vv_mem_index_prefetch(&s->index, f->hash); /* comes while the search goes on */
    f->height = atomic_load_explicit(&s->height, memory_order_relaxed);
    f->level = f->height - 1;
    f->shared_here = head_shared(e->key);
    f->at = s->head;
    f->fetched = NULL;
}

/* Go on until the place is found (true) or, if it is not the only search, until something is needed that is
 * probably not in the processor's cache; it is on its way then. */
static VV_ALWAYS_INLINE bool search_on(search *f, bool alone) {
    node *n = f->at;
    for (; f->level > 0; f->level--) {
        for (;;) {
            const link *l = link_at(n, f->level);
            node *next = atomic_load_explicit(&l->next, memory_order_relaxed);
            order o = next ? link_order(l, &f->t, &f->shared_here) : BEHIND;
            if (!alone && o == UNKNOWN && next != f->fetched) {
                __builtin_prefetch(next);
                __builtin_prefetch(vv_mem_record_data(&next->record));
                f->fetched = next;
                f->at = n;
                return false;
            }
            if (o == BEHIND || (o == UNKNOWN && !node_is_before(next, &f->t, &f->shared_here)))
                break;
            n = next;
            if (!alone) {
                __builtin_prefetch(link_at(n, f->level));
                f->at = n;
                return false;
            }
        }
        f->before[f->level] = n;
        f->shared[f->level] = f->shared_here;
    }
    for (;;) {
        node *next = next_at(n, 0);
        if (!alone && next && next != f->fetched) {
            __builtin_prefetch(next);
            f->fetched = next;
            f->at = n;
            return false;
        }
        if (!next || !vv_mem_is_before(&next->record, &f->t))
            break;
        n = next;
    }
    f->before[0] = n;
    return true;
}

/* Other entries may have been added since the search was there. */
static void search_catch_up(search *f, uint32_t level) {
    node **before = &f->before[level], *next;
    if (level == 0) {
        while ((next = next_at(*before, 0)) != NULL && vv_mem_is_before(&next->record, &f->t))
            *before = next;
        return;
    }
    for (;;) {
        const link *l = link_at(*before, level);
        next = atomic_load_explicit(&l->next, memory_order_relaxed);
        order o = next ? link_order(l, &f->t, &f->shared[level]) : BEHIND;
        if (o == BEHIND || (o == UNKNOWN && !node_is_before(next, &f->t, &f->shared[level])))
            break;
        *before = next;
    }
}

/* ---- memtable ---- */

/* xorshift64*; 1 with 1 in 2, 2 with 1 in 4, and so on. As hints spare the looks at nodes that are too far,
 * what is left are the steps to nodes: 1 on each level with this share, 3 with one in four. */
static uint32_t random_height(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    uint64_t bits = (x * UINT64_C(0x2545F4914F6CDD1D)) >> (64 - (HEIGHT_MAX - 1));
    /* The bit beyond ends the tallest tower. */
    return 1 + (uint32_t)__builtin_ctzll(bits | UINT64_C(1) << (HEIGHT_MAX - 1));
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
    vv_mem_index_reserve(&s->index, entry_count);
    /* The towers to come are known: their heights follow from the generator's state. */
    uint64_t random = s->random;
    uint64_t bytes = data_bytes;
    for (uint64_t i = 0; i < entry_count; i++)
        bytes += node_bytes(random_height(&random), 0) + VV_ARENA_ALIGN_BYTES - 1;
    return vv_arena_reserve(s->arena, bytes);
}

static void set_hint(link *l, vv_slice key, const node *next) {
    vv_slice next_key = vv_mem_record_key(&next->record);
    l->hint = hint_make(next_key, shared_bytes(key, next_key, 0));
}

/* Put a new node for the entry where its search has ended. */
static void link_in(skiplist *s, search *f, const vv_entry *e, bool alone) {
    uint32_t height = random_height(&s->random);
    for (uint32_t level = f->height; level < height; level++) {
        f->before[level] = s->head;
        f->shared[level] = head_shared(e->key);
    }
    /* relaxed: a reader that sees it early finds NULL links of the head on the new levels. */
    if (height > atomic_load_explicit(&s->height, memory_order_relaxed))
        atomic_store_explicit(&s->height, height, memory_order_relaxed);

    node *n = node_alloc(s, height, e->key.bytes + e->value.bytes);
    vv_mem_record_fill(&n->record, e);
    for (uint32_t level = 0; level < height; level++) {
        if (!alone)
            search_catch_up(f, level);
        node *before = f->before[level];
        node *behind = atomic_load_explicit(next_of(before, level), memory_order_relaxed);
        atomic_store_explicit(next_of(n, level), behind, memory_order_relaxed);
        if (level > 0) {
            if (behind)
                set_hint(link_at(n, level), e->key, behind);
            link_at(before, level)->hint = hint_make(e->key, f->shared[level]);
        }
        /* release: publishes the whole node; pairs with the acquire in next_at(). */
        atomic_store_explicit(next_of(before, level), n, memory_order_release);
    }
    vv_mem_index_put(&s->index, f->hash, &n->record);
}

static void skiplist_add(vv_memtable *m, const vv_entry *e) {
    skiplist *s = (skiplist *)m;
    VV_ASSERT(s->load.count == 0);
    search f;
    search_begin(&f, s, e);
    bool found = search_on(&f, true);
    VV_ASSERT(found);
    link_in(s, &f, e, true);
}

/* The searches take turns: each waits for its next node while the others look at theirs. */
static void skiplist_add_together(vv_memtable *m, const vv_entry *entries, size_t count) {
    skiplist *s = (skiplist *)m;
    VV_ASSERT(s->load.count == 0 && count <= VV_MEMTABLE_TOGETHER);
    if (atomic_load_explicit(&s->height, memory_order_relaxed) < TOGETHER_HEIGHT) {
        for (size_t i = 0; i < count; i++)
            skiplist_add(m, &entries[i]);
        return;
    }
    search searches[VV_MEMTABLE_TOGETHER];
    uint32_t under_way = (UINT32_C(1) << count) - 1;
    for (size_t i = 0; i < count; i++)
        search_begin(&searches[i], s, &entries[i]);
    while (under_way)
        for (uint32_t rest = under_way; rest; rest &= rest - 1) {
            uint32_t i = (uint32_t)__builtin_ctz(rest);
            if (search_on(&searches[i], false))
                under_way &= ~(UINT32_C(1) << i);
        }
    for (size_t i = 0; i < count; i++)
        link_in(s, &searches[i], &entries[i], false);
}

/* ---- loading ---- */

static vv_status load_grow(skiplist_load *l) {
    size_t capacity = l->capacity ? 2 * l->capacity : LOAD_ITEMS_FIRST;
    vv_mem_item *items = vv_realloc(l->items, capacity * sizeof *items);
    if (!items)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    l->items = items;
    l->capacity = capacity;
    return VV_STATUS_OK;
}

static vv_status skiplist_load_entry(vv_memtable *m, const vv_entry *e) {
    skiplist *s = (skiplist *)m;
    skiplist_load *l = &s->load;
    VV_ASSERT(l->count > 0 || m->last_lsn == 0);
    if (l->count == l->capacity)
        VV_TRY(load_grow(l));
    uint32_t height = random_height(&s->random);
    size_t data_bytes = e->key.bytes + e->value.bytes;
    VV_TRY(vv_arena_reserve(s->arena, node_bytes(height, data_bytes)));
    node *n = node_alloc(s, height, data_bytes);
    vv_mem_record_fill(&n->record, e);
    atomic_init(&n->next0, (node *)(uintptr_t)height);
    l->items[l->count++] = (vv_mem_item){.prefix = n->record.prefix, .record = &n->record};
    return VV_STATUS_OK;
}

/* No version before it has its key. */
static bool is_newest(const skiplist_load *l, size_t i) {
    vv_mem_target t = vv_mem_target_of(l->items[i].record);
    return i == 0 || !vv_mem_key_is(l->items[i - 1].record, &t);
}

/* Each key's newest version into the index, a few steps behind the one whose bucket is on its way. */
static void index_sorted(skiplist *s, const skiplist_load *l) {
    uint64_t hashes[LINK_AHEAD];
    vv_mem_index_load_begin(&s->index, l->count);
    for (size_t i = 0; i < l->count + LINK_AHEAD; i++) {
        size_t put = i - LINK_AHEAD;
        if (i >= LINK_AHEAD && is_newest(l, put))
            vv_mem_index_put(&s->index, hashes[put % LINK_AHEAD], l->items[put].record);
        if (i + LINK_AHEAD < l->count)
            __builtin_prefetch(l->items[i + LINK_AHEAD].record);
        if (i >= l->count)
            continue;
        vv_slice key = vv_mem_record_key(l->items[i].record);
        hashes[i % LINK_AHEAD] = vv_hash_key(key.data, key.bytes);
        vv_mem_index_prefetch(&s->index, hashes[i % LINK_AHEAD]);
    }
}

/* S1, from sorted nodes. relaxed everywhere: nobody else knows the memtable, and whoever makes it known
 * publishes all of it. */
static void link_sorted(skiplist *s, const skiplist_load *l) {
    node *last[HEIGHT_MAX];
    for (uint32_t level = 0; level < HEIGHT_MAX; level++)
        last[level] = s->head;
    uint32_t tallest = 1;
    for (size_t i = 0; i < l->count; i++) {
        if (i + LINK_AHEAD < l->count)
            __builtin_prefetch(node_of(l->items[i + LINK_AHEAD].record), 1);
        node *n = node_of(l->items[i].record);
        uint32_t height = (uint32_t)(uintptr_t)atomic_load_explicit(&n->next0, memory_order_relaxed);
        for (uint32_t level = 0; level < height; level++) {
            atomic_store_explicit(next_of(last[level], level), n, memory_order_relaxed);
            if (level > 0)
                set_hint(link_at(last[level], level), vv_mem_record_key(&last[level]->record), n);
            last[level] = n;
        }
        tallest = VV_MAX(tallest, height);
    }
    for (uint32_t level = 0; level < HEIGHT_MAX; level++)
        atomic_store_explicit(next_of(last[level], level), NULL, memory_order_relaxed);
    atomic_store_explicit(&s->height, tallest, memory_order_relaxed);
}

static void load_drop(skiplist *s) {
    vv_free(s->load.items);
    s->load = (skiplist_load){0};
}

static vv_status skiplist_load_end(vv_memtable *m) {
    skiplist *s = (skiplist *)m;
    skiplist_load *l = &s->load;
    if (l->count == 0)
        return VV_STATUS_OK;
    vv_mem_item *spare = vv_alloc(l->count * sizeof *spare);
    if (!spare)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    /* Newest first is how versions of a key are sorted most easily. */
    for (size_t i = 0, j = l->count - 1; i < j; i++, j--) {
        vv_mem_item item = l->items[i];
        l->items[i] = l->items[j];
        l->items[j] = item;
    }
    vv_mem_sort(l->items, spare, l->count);
    vv_free(spare);
    link_sorted(s, l);
    index_sorted(s, l);
    load_drop(s);
    return VV_STATUS_OK;
}

/* From the newest version of t's key to the one at or behind t, which follows it (S1). */
static node *older_version(skiplist *s, node *n, const vv_mem_target *t) {
    for (int steps = 0; n && n->record.lsn > t->lsn; steps++) {
        if (steps == OLDER_MAX)
            return find(s, t, NULL);
        n = next_at(n, 0);
        if (n && !vv_mem_key_is(&n->record, t))
            return NULL;
    }
    return n;
}

static bool skiplist_get(vv_memtable *m, vv_slice key, uint64_t lsn, vv_entry *out) {
    skiplist *s = (skiplist *)m;
    vv_mem_target t = vv_mem_target_make(key, lsn);
    const vv_mem_record *newest;
    node *n = NULL;
    switch (vv_mem_index_find(&s->index, vv_hash_key(key.data, key.bytes), &t, &newest)) {
    case VV_MEM_INDEX_FOUND: n = older_version(s, node_of(newest), &t); break;
    case VV_MEM_INDEX_ABSENT: return false;
    case VV_MEM_INDEX_UNKNOWN: n = find(s, &t, NULL); break;
    }
    if (!n || !vv_mem_key_is(&n->record, &t))
        return false;
    vv_mem_record_entry(&n->record, out);
    return true;
}

static uint64_t skiplist_bytes(const vv_memtable *m) {
    return vv_arena_bytes(((const skiplist *)m)->arena);
}

static void skiplist_destroy(vv_memtable *m) {
    skiplist *s = (skiplist *)m;
    load_drop(s);
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
    vv_mem_iter_settle(&it->base, n ? &n->record : NULL);
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
    vv_mem_target t = vv_mem_target_make(key, lsn);
    iter_settle(it, find(it->list, &t, NULL));
}

static void iter_next(vv_iter *base) {
    skiplist_iter *it = (skiplist_iter *)base;
    iter_settle(it, next_at(it->at, 0));
}

/* Links lead forwards only: what is before a node is found from the head, as the writer finds it. */
static void iter_settle_before(skiplist_iter *it, const vv_mem_target *t) {
    node *before[HEIGHT_MAX];
    find(it->list, t, before);
    iter_settle(it, before[0] == it->list->head ? NULL : before[0]);
}

static void iter_seek_last(vv_iter *base) {
    skiplist_iter *it = (skiplist_iter *)base;
    node *n = it->list->head;
    for (uint32_t level = HEIGHT_MAX; level-- > 0;)
        for (node *next = next_at(n, level); next; next = next_at(n, level))
            n = next;
    iter_settle(it, n == it->list->head ? NULL : n);
}

static void iter_seek_back(vv_iter *base, vv_slice key, uint64_t lsn) {
    vv_mem_target t = vv_mem_target_behind(key, lsn);
    iter_settle_before((skiplist_iter *)base, &t);
}

static void iter_prev(vv_iter *base) {
    skiplist_iter *it = (skiplist_iter *)base;
    vv_mem_target t = vv_mem_target_of(&it->at->record);
    iter_settle_before(it, &t);
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

static vv_status skiplist_iter_create(vv_memtable *m, vv_iter **out) {
    skiplist_iter *it = vv_alloc_zeroed(sizeof *it);
    if (!it)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    it->base.ops = &iter_ops;
    it->list = (skiplist *)m;
    *out = &it->base;
    return VV_STATUS_OK;
}

bool vv_skiplist_is_sound(vv_memtable *m) {
    skiplist *s = (skiplist *)m;
    for (uint32_t level = 0; level < HEIGHT_MAX; level++) {
        node *n = s->head;
        for (node *next = next_at(n, level); next; n = next, next = next_at(n, level)) {
            vv_slice key = vv_mem_record_key(&n->record), next_key = vv_mem_record_key(&next->record);
            vv_mem_target t = vv_mem_target_of(&next->record);
            if (n != s->head && !vv_mem_is_before(&n->record, &t))
                return false;
            if (level > 0 && link_at(n, level)->hint != hint_make(next_key, shared_bytes(key, next_key, 0)))
                return false;
        }
    }
    return true;
}

static const vv_memtable_ops skiplist_ops = {
    .name = "skiplist",
    .destroy = skiplist_destroy,
    .reserve = skiplist_reserve,
    .add = skiplist_add,
    .add_together = skiplist_add_together,
    .load = skiplist_load_entry,
    .load_end = skiplist_load_end,
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
        atomic_init(next_of(s->head, level), NULL);
    vv_mem_index_init(&s->index, s->arena);
    *out = &s->base;
    return VV_STATUS_OK;

fail:
    vv_arena_destroy(s->arena);
    vv_free(s);
    return st;
}
