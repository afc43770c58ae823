/*
 * mem_sorted.c - records in a sorted array, and the iterator over it.
 */
#include "engine/mem/mem_sorted.h"

#include "base/alloc.h"

vv_status vv_mem_sorted_create(const vv_mem_sorted *old, vv_mem_item *fresh, size_t fresh_count,
                               uint64_t last_lsn, _Atomic uint64_t *gauge, vv_mem_sorted **out) {
    *out = NULL;
    size_t old_count = old ? old->count : 0;
    size_t count = old_count + fresh_count;
    size_t bytes = sizeof(vv_mem_sorted) + count * sizeof(vv_mem_item);
    vv_mem_sorted *s = vv_alloc(bytes);
    vv_mem_item *spare = vv_alloc(VV_MAX(fresh_count, (size_t)1) * sizeof *spare);
    if (!s || !spare) {
        vv_free(spare);
        vv_free(s);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    vv_mem_sort(fresh, spare, fresh_count);
    vv_mem_merge(old ? old->items : NULL, old_count, fresh, fresh_count, s->items);
    vv_free(spare);

    atomic_init(&s->refs, 1);
    s->gauge = gauge;
    s->bytes = bytes;
    s->last_lsn = last_lsn;
    s->count = count;
    /* relaxed: a gauge. */
    atomic_fetch_add_explicit(gauge, bytes, memory_order_relaxed);
    *out = s;
    return VV_STATUS_OK;
}

void vv_mem_sorted_ref(vv_mem_sorted *s) {
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void vv_mem_sorted_unref(vv_mem_sorted *s) {
    /* acq_rel: what other holders read happens before it is freed. */
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    atomic_fetch_sub_explicit(s->gauge, s->bytes, memory_order_relaxed);
    vv_free(s);
}

/* ---- iterator ---- */

typedef struct sorted_iter {
    vv_iter base;
    vv_mem_sorted *sorted;
    size_t at; /* of the current entry, while valid */
} sorted_iter;

/* Past either end (before the first is SIZE_MAX) the iterator is not valid. */
static void iter_settle(sorted_iter *it, size_t at) {
    it->at = at;
    vv_mem_iter_settle(&it->base, at < it->sorted->count ? it->sorted->items[at].record : NULL);
}

/* The index of the first item at or behind t. */
static size_t lower_bound(const vv_mem_sorted *s, const vv_mem_target *t) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const vv_mem_item *item = &s->items[mid];
        bool before =
            item->prefix != t->prefix ? item->prefix < t->prefix : vv_mem_is_before(item->record, t);
        if (before)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void iter_destroy(vv_iter *base) {
    sorted_iter *it = (sorted_iter *)base;
    vv_mem_sorted_unref(it->sorted);
    vv_free(it);
}

static void iter_seek_first(vv_iter *base) {
    iter_settle((sorted_iter *)base, 0);
}

static void iter_seek_last(vv_iter *base) {
    sorted_iter *it = (sorted_iter *)base;
    iter_settle(it, it->sorted->count - 1);
}

static void iter_seek(vv_iter *base, vv_slice key, uint64_t lsn) {
    sorted_iter *it = (sorted_iter *)base;
    vv_mem_target t = vv_mem_target_make(key, lsn);
    iter_settle(it, lower_bound(it->sorted, &t));
}

static void iter_seek_back(vv_iter *base, vv_slice key, uint64_t lsn) {
    sorted_iter *it = (sorted_iter *)base;
    vv_mem_target t = vv_mem_target_behind(key, lsn);
    iter_settle(it, lower_bound(it->sorted, &t) - 1);
}

static void iter_next(vv_iter *base) {
    sorted_iter *it = (sorted_iter *)base;
    iter_settle(it, it->at + 1);
}

static void iter_prev(vv_iter *base) {
    sorted_iter *it = (sorted_iter *)base;
    iter_settle(it, it->at - 1);
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

vv_status vv_mem_sorted_iter_create(vv_mem_sorted *s, vv_iter **out) {
    *out = NULL;
    sorted_iter *it = vv_alloc_zeroed(sizeof *it);
    if (!it) {
        vv_mem_sorted_unref(s);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    it->base.ops = &iter_ops;
    it->sorted = s;
    *out = &it->base;
    return VV_STATUS_OK;
}
