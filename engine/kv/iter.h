/*
 * iter.h - a cursor over entries in internal order (entry.h). Memtables, SSTables and merges of them
 * implement it; the merged and filtered view that users see is built from it.
 *
 * Not thread-safe; each thread makes its own. An iterator sees a state at least as new as when it was made,
 * and never a half-made entry.
 */
#ifndef VV_ENGINE_KV_ITER_H
#define VV_ENGINE_KV_ITER_H

#include "base/assert.h"
#include "base/status.h"
#include "engine/kv/entry.h"

typedef struct vv_iter vv_iter;

typedef struct vv_iter_ops {
    void (*destroy)(vv_iter *it);
    void (*seek_first)(vv_iter *it);
    void (*seek_last)(vv_iter *it);
    void (*seek)(vv_iter *it, vv_slice key, uint64_t lsn);
    void (*seek_back)(vv_iter *it, vv_slice key, uint64_t lsn);
    void (*next)(vv_iter *it);
    void (*prev)(vv_iter *it);
    bool (*damage)(const vv_iter *it, vv_slice *first_out, vv_slice *last_out); /* may be NULL */
} vv_iter_ops;

/* The common head of every implementation. */
struct vv_iter {
    const vv_iter_ops *ops;
    bool valid; /* `entry` is the current entry */
    /* Why the iterator is not valid: OK at the end, else the failure. Seeking begins anew, and may do better
     * elsewhere; but a scan of a merge (sst/scan.h) stays failed. */
    vv_status status;
    vv_entry entry; /* borrowed until the next call on the iterator */
};

static inline void vv_iter_destroy(vv_iter *it) {
    if (it)
        it->ops->destroy(it);
}

static inline void vv_iter_seek_first(vv_iter *it) {
    it->ops->seek_first(it);
}

static inline void vv_iter_seek_last(vv_iter *it) {
    it->ops->seek_last(it);
}

/* To the first entry at or behind (key, lsn) in internal order: lsn VV_LSN_MAX for the newest version. */
static inline void vv_iter_seek(vv_iter *it, vv_slice key, uint64_t lsn) {
    it->ops->seek(it, key, lsn);
}

/* To the last entry at or before (key, lsn) in internal order: lsn 0 for the oldest version. */
static inline void vv_iter_seek_back(vv_iter *it, vv_slice key, uint64_t lsn) {
    it->ops->seek_back(it, key, lsn);
}

static inline void vv_iter_next(vv_iter *it) {
    VV_ASSERT(it->valid);
    it->ops->next(it);
}

static inline void vv_iter_prev(vv_iter *it) {
    VV_ASSERT(it->valid);
    it->ops->prev(it);
}

/* After a failure: the keys that what could not be read may hold, both included; borrowed until the next call
 * on the iterator. False: not known. */
static inline bool vv_iter_damage(const vv_iter *it, vv_slice *first_out, vv_slice *last_out) {
    return !it->valid && !vv_ok(it->status) && it->ops->damage && it->ops->damage(it, first_out, last_out);
}

#endif
