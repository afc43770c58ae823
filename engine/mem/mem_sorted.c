/*
 * mem_sorted.c - records in an array, sorted by merging, and the iterator over it.
 */
#include "engine/mem/mem_sorted.h"

#include "base/alloc.h"

#define RUN_ITEMS 16 /* sorted by insertion before runs are merged */

static bool item_is_before(const vv_mem_item *a, const vv_mem_item *b) {
    if (a->prefix != b->prefix)
        return a->prefix < b->prefix;
    vv_mem_target t = vv_mem_target_of(b->record);
    return vv_mem_is_before(a->record, &t);
}

static void sort_run(vv_mem_item *items, size_t count) {
    for (size_t i = 1; i < count; i++) {
        vv_mem_item item = items[i];
        size_t at = i;
        for (; at > 0 && item_is_before(&item, &items[at - 1]); at--)
            items[at] = items[at - 1];
        items[at] = item;
    }
}

static void merge(const vv_mem_item *a, size_t a_count, const vv_mem_item *b, size_t b_count,
                  vv_mem_item *out) {
    const vv_mem_item *a_end = a + a_count, *b_end = b + b_count;
    while (a < a_end && b < b_end)
        *out++ = item_is_before(b, a) ? *b++ : *a++;
    while (a < a_end)
        *out++ = *a++;
    while (b < b_end)
        *out++ = *b++;
}

/* Sort `items`, with as much room at `spare`; the result is in the one or the other. */
static vv_mem_item *sort(vv_mem_item *items, vv_mem_item *spare, size_t count) {
    for (size_t at = 0; at < count; at += RUN_ITEMS)
        sort_run(items + at, VV_MIN(RUN_ITEMS, count - at));
    for (size_t width = RUN_ITEMS; width < count; width *= 2) {
        for (size_t at = 0; at < count; at += 2 * width) {
            size_t left = VV_MIN(width, count - at);
            size_t right = VV_MIN(width, count - at - left);
            merge(items + at, left, items + at + left, right, spare + at);
        }
        vv_mem_item *sorted = spare;
        spare = items;
        items = sorted;
    }
    return items;
}

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
    const vv_mem_item *sorted = sort(fresh, spare, fresh_count);
    merge(old ? old->items : NULL, old_count, sorted, fresh_count, s->items);
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
