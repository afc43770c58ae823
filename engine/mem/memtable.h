/*
 * memtable.h - the sorted set of recent entries, in memory: one interface, chosen by MEMTABLE_TYPE.
 *
 * Ordering     internal order (engine/kv/entry.h).
 * Duplicates   no two entries share an LSN, so every entry is distinct; older versions of a key stay.
 * Concurrency  one writer at a time adds; any number of readers get and iterate without locks, beside it. A
 *              reader sees an entry whole or not at all, and sees it for certain when it learnt of the
 *              entry's LSN after add() returned (the database publishes LSNs with release order). Only making
 *              an iterator over the hash map may wait for another reader that sorts; nothing waits for the
 *              writer, and the writer waits for nobody.
 * Life time    counted references; keys and values live in the memtable's own arena until the last reference
 *              goes, and then all at once. What get() and iterators return stays valid as long as the
 *              caller's reference.
 * Memory       reserve() and iter_create(), and loading, which happens at open, are the only calls that can
 *              run out of memory, so that a write which the log has taken can always be applied.
 */
#ifndef VV_ENGINE_MEM_MEMTABLE_H
#define VV_ENGINE_MEM_MEMTABLE_H

#include <stdatomic.h>

#include "engine/kv/entry.h"
#include "engine/kv/iter.h"

typedef struct vv_memtable vv_memtable;

/* In the order of MEMTABLE_TYPE's choices. */
typedef enum vv_memtable_type {
    VV_MEMTABLE_HASHMAP,  /* the fastest get; an iterator sorts first */
    VV_MEMTABLE_SKIPLIST, /* the least memory */
    VV_MEMTABLE_BTREE,    /* ordered, with few cache misses */
} vv_memtable_type;

typedef struct vv_memtable_ops {
    const char *name;
    void (*destroy)(vv_memtable *m);
    vv_status (*reserve)(vv_memtable *m, uint64_t entry_count, uint64_t data_bytes);
    void (*add)(vv_memtable *m, const vv_entry *e);
    /* Up to VV_MEMTABLE_TOGETHER. NULL where nothing is faster than adding one after the other. */
    void (*add_together)(vv_memtable *m, const vv_entry *entries, size_t count);
    /* NULL where nothing is faster than adding. */
    vv_status (*load)(vv_memtable *m, const vv_entry *e);
    vv_status (*load_end)(vv_memtable *m);
    bool (*get)(vv_memtable *m, vv_slice key, uint64_t lsn, vv_entry *out);
    vv_status (*iter_create)(vv_memtable *m, vv_iter **out);
    uint64_t (*bytes)(const vv_memtable *m);
} vv_memtable_ops;

/* The common head of every implementation. */
struct vv_memtable {
    const vv_memtable_ops *ops;
    _Atomic uint32_t refs;
    _Atomic uint64_t entry_count;
    uint64_t first_lsn; /* of the first entry, 0 while empty; writer's, or anyone's once sealed */
    uint64_t last_lsn;
};

/* One reference for the caller. seed: of the skip list's tower heights, so that tests can repeat a run.
 * NO_MEMORY. */
vv_status vv_memtable_create(vv_memtable_type type, uint64_t seed, vv_memtable **out) VV_CHECKED;

static inline void vv_memtable_ref(vv_memtable *m) {
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
}

/* Drops everything with the last reference. NULL is fine. */
void vv_memtable_unref(vv_memtable *m);

/* Make sure that adding entry_count entries with data_bytes of keys and values can't fail. A later call
 * replaces the promise of an earlier one: reserve once for all that one group adds. Writer only. */
static inline VV_CHECKED
vv_status vv_memtable_reserve(vv_memtable *m, uint64_t entry_count, uint64_t data_bytes) {
    return m->ops->reserve(m, entry_count, data_bytes);
}

/* Copy an entry in. LSNs ascend from call to call. Writer only, within what was reserved. */
void vv_memtable_add(vv_memtable *m, const vv_entry *e);

/*
 * Adds many entries: faster than one by one where a type can search for several places at once. The entries
 * are collected, borrowed until they are added: when so many are there, or by flush(). None is visible for
 * certain before that. Writer only.
 */
#define VV_MEMTABLE_TOGETHER 16

typedef struct vv_memtable_adder {
    vv_memtable *m;
    size_t count;
    vv_entry entries[VV_MEMTABLE_TOGETHER];
} vv_memtable_adder;

static inline void vv_memtable_adder_init(vv_memtable_adder *a, vv_memtable *m) {
    a->m = m;
    a->count = 0;
}

void vv_memtable_adder_flush(vv_memtable_adder *a);

/* As vv_memtable_add(), in time. */
static inline void vv_memtable_adder_add(vv_memtable_adder *a, const vv_entry *e) {
    a->entries[a->count++] = *e;
    if (a->count == VV_MEMTABLE_TOGETHER)
        vv_memtable_adder_flush(a);
}

/*
 * Fill an empty memtable that nobody else knows, faster than by adding: LSNs ascend from call to call, and
 * nothing else may be done with it but vv_memtable_bytes() and unref, until load_end() has put all into
 * order. What that takes, for a while, is not counted: for a skip list up to 48 bytes an entry. After a
 * NO_MEMORY the memtable can only be dropped. load_end() of an empty memtable is fine. Writer only.
 */
vv_status vv_memtable_load(vv_memtable *m, const vv_entry *e) VV_CHECKED;

static inline VV_CHECKED
vv_status vv_memtable_load_end(vv_memtable *m) {
    return m->ops->load_end ? m->ops->load_end(m) : VV_STATUS_OK;
}

/* The newest version of `key` with an LSN at or below `lsn`, a tombstone included. */
static inline bool vv_memtable_get(vv_memtable *m, vv_slice key, uint64_t lsn, vv_entry *out) {
    return m->ops->get(m, key, lsn, out);
}

/* Borrows the caller's reference: destroy the iterator first. The hash map's costs a sort of what was added
 * since the last one, and shows the state of its making; the others also show entries added later. NO_MEMORY.
 */
static inline VV_CHECKED
vv_status vv_memtable_iter_create(vv_memtable *m, vv_iter **out) {
    *out = NULL;
    return m->ops->iter_create(m, out);
}

/* Real memory behind the memtable, what its iterators share included. Any thread. */
static inline uint64_t vv_memtable_bytes(const vv_memtable *m) {
    return m->ops->bytes(m);
}

static inline uint64_t vv_memtable_count(vv_memtable *m) {
    return atomic_load_explicit(&m->entry_count, memory_order_relaxed);
}

#endif
