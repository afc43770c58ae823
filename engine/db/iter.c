/*
 * iter.c - the cursor that users see: the newest visible version of each live key, both ways.
 *
 * Below it lies a merge of all memtables and runs of one view, in internal order: key ascending, then LSN
 * descending.
 *
 *   forward    the first version at or below the iterator's LSN decides about its key; the rest of the key is
 * passed over. The entry is shown where it lies. backward   versions come oldest first, so that the key's
 * last one at or below the LSN decides; by then the merge has left it, and it is shown from a copy.
 *
 * Between steps the merge stands on the shown entry (forward) or before all versions of its key (backward).
 */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "engine/lsm/merge.h"
#include "engine/lsm/run_iter.h"

typedef struct buffer {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
} buffer;

struct varve_iter {
    varve_db *db;
    vv_view *view;
    uint64_t lsn;
    uint64_t skip_limit;
    vv_iter *merged;
    buffer lower; /* inclusive; empty: none */
    buffer upper; /* exclusive */
    bool has_upper;

    bool valid;
    bool backward;
    vv_status status;
    const vv_entry *shown; /* forward: the merge's; backward: `copied` */
    vv_entry copied;
    buffer key;      /* of the entry at hand, or of the one that is passed over */
    buffer value;    /* of a copied entry */
    bool pass_key;   /* forward: versions of `key` are still to be passed over */
    bool within_key; /* backward: the merge stands among the versions of `key`, some of them are passed */
    bool key_live;   /* backward: the newest version passed of `key` is to be shown */
};

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static vv_slice slice_of(const buffer *b) {
    return vv_slice_make(b->data, b->bytes);
}

static vv_status buffer_grow(buffer *b, size_t bytes) {
    uint8_t *data = vv_realloc(b->data, bytes);
    if (!data)
        return no_memory();
    b->data = data;
    b->capacity = bytes;
    return VV_STATUS_OK;
}

static inline vv_status buffer_set(buffer *b, vv_slice s) {
    if (VV_UNLIKELY(s.bytes > b->capacity))
        VV_TRY(buffer_grow(b, s.bytes));
    if (s.bytes)
        memcpy(b->data, s.data, s.bytes);
    b->bytes = s.bytes;
    return VV_STATUS_OK;
}

/* ---- making one ---- */

/* None for an empty memtable, as after a flush: the entries that the iterator may show were counted before
 * their LSN became visible. */
static vv_status add_memtable(vv_memtable *m, vv_iter **children, uint32_t *count) {
    if (vv_memtable_count(m) == 0)
        return VV_STATUS_OK;
    VV_TRY(vv_memtable_iter_create(m, &children[*count]));
    ++*count;
    return VV_STATUS_OK;
}

static vv_status make_children(varve_db *db, vv_view *view, vv_iter **children, uint32_t *count) {
    VV_TRY(add_memtable(view->active, children, count));
    for (uint32_t i = 0; i < view->sealed_count; i++)
        VV_TRY(add_memtable(view->sealed[i], children, count));
    for (size_t i = 0; i < view->version->run_count; i++, ++*count)
        VV_TRY(vv_run_iter_create(&view->version->runs[i], db->tables, db->blocks, &db->reader.fetcher,
                                  &children[*count]));
    return VV_STATUS_OK;
}

static vv_status make_merge(varve_db *db, varve_iter *it) {
    uint32_t count = 0;
    vv_iter **children =
        vv_alloc((1 + it->view->sealed_count + it->view->version->run_count) * sizeof(vv_iter *));
    if (!children)
        return no_memory();
    vv_status st = make_children(db, it->view, children, &count);
    if (vv_ok(st))
        st = vv_merge_create(children, count, &it->merged);
    else
        while (count > 0)
            vv_iter_destroy(children[--count]);
    vv_free(children);
    return st;
}

/* The first key that no key with this prefix reaches; none for a prefix of 0xff bytes alone. */
static vv_status prefix_end(vv_slice prefix, buffer *out, bool *has_out) {
    VV_TRY(buffer_set(out, prefix));
    while (out->bytes > 0 && out->data[out->bytes - 1] == 0xff)
        out->bytes--;
    *has_out = out->bytes > 0;
    if (*has_out)
        out->data[out->bytes - 1]++;
    return VV_STATUS_OK;
}

static vv_status set_bounds(varve_iter *it, const varve_iter_options *o) {
    vv_slice start = vv_slice_make(o->start, o->start ? o->start_bytes : 0);
    vv_slice end = vv_slice_make(o->end, o->end ? o->end_bytes : 0);
    vv_slice prefix = vv_slice_make(o->prefix, o->prefix ? o->prefix_bytes : 0);
    if (o->end && vv_slice_compare(start, end) > 0)
        return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_RANGE, 0);
    VV_TRY(buffer_set(&it->lower, vv_slice_compare(start, prefix) > 0 ? start : prefix));
    if (prefix.bytes > 0)
        VV_TRY(prefix_end(prefix, &it->upper, &it->has_upper));
    if (o->end && (!it->has_upper || vv_slice_compare(end, slice_of(&it->upper)) < 0)) {
        VV_TRY(buffer_set(&it->upper, end));
        it->has_upper = true;
    }
    return VV_STATUS_OK;
}

varve_status varve_iter_create(varve_db *db, const varve_iter_options *options, varve_iter **out) {
    static const varve_iter_options defaults;
    const varve_iter_options *o = options ? options : &defaults;
    *out = NULL;
    varve_iter *it = vv_alloc_zeroed(sizeof *it);
    if (!it)
        return vv_public(no_memory());
    it->db = db;
    vv_status st = set_bounds(it, o);
    if (vv_ok(st)) {
        it->view = vv_db_view(db, &it->lsn);
        if (o->snapshot)
            it->lsn = o->snapshot->lsn;
        it->skip_limit = o->skip_limit ? o->skip_limit : UINT64_MAX;
        st = make_merge(db, it);
    }
    if (!vv_ok(st)) {
        varve_iter_destroy(it);
        return vv_public(st);
    }
    *out = it;
    return vv_public(st);
}

void varve_iter_destroy(varve_iter *it) {
    if (!it)
        return;
    vv_iter_destroy(it->merged);
    vv_db_view_release(it->db, it->view);
    vv_free(it->lower.data);
    vv_free(it->upper.data);
    vv_free(it->key.data);
    vv_free(it->value.data);
    vv_free(it);
}

/* ---- moving ---- */

/* The clock is asked for entries that expire, not once: a cursor may live long, and never shows what is over.
 */
static bool is_live(const vv_entry *e) {
    return e->kind == VV_KIND_PUT && (e->expires_unix_ms == 0 || !vv_entry_expired(e, vv_clock_unix_ms()));
}

static void fail(varve_iter *it, vv_status st) {
    it->valid = false;
    it->status = st;
}

static bool below_upper(const varve_iter *it, vv_slice key) {
    return !it->has_upper || vv_slice_compare(key, slice_of(&it->upper)) < 0;
}

static bool above_lower(const varve_iter *it, vv_slice key) {
    return it->lower.bytes == 0 || vv_slice_compare(key, slice_of(&it->lower)) >= 0;
}

/* Is it the key that is passed over? Neighbours mostly differ in their last bytes: a look at those spares the
 * comparison of all. */
static inline bool is_passed(const varve_iter *it, vv_slice key) {
    if (!it->pass_key || key.bytes != it->key.bytes)
        return false;
    uint64_t a, b;
    if (key.bytes >= sizeof a) {
        memcpy(&a, (const uint8_t *)key.data + key.bytes - sizeof a, sizeof a);
        memcpy(&b, it->key.data + key.bytes - sizeof b, sizeof b);
        if (a != b)
            return false;
    }
    return vv_slice_equal(key, slice_of(&it->key));
}

/* From where the merge stands to the next live entry. */
static void find_forward(varve_iter *it) {
    uint64_t skipped = 0;
    it->backward = false;
    it->valid = false;
    for (; it->merged->valid && below_upper(it, it->merged->entry.key); vv_iter_next(it->merged)) {
        const vv_entry *e = &it->merged->entry;
        if (e->lsn <= it->lsn && !is_passed(it, e->key)) {
            vv_status st = buffer_set(&it->key, e->key);
            if (!vv_ok(st)) {
                fail(it, st);
                return;
            }
            it->pass_key = true; /* this version decides: older ones are hidden */
            if (is_live(e)) {
                it->shown = e;
                it->valid = true;
                return;
            }
        }
        if (++skipped == it->skip_limit) {
            vv_iter_next(it->merged);
            fail(it, vv_status_make(VV_BUSY, VV_SUB_NONE, 0));
            return;
        }
    }
    if (!it->merged->valid)
        it->status = it->merged->status;
}

/* Pass over the versions of `key`, oldest first, until the merge stands before all of them: the last one that
 * is passed at or below the iterator's LSN decides. False: not all were passed, for the reason that `status`
 * says; BUSY goes on here. *skipped counts. */
static bool pass_key_backward(varve_iter *it, uint64_t *skipped) {
    for (; it->merged->valid && vv_slice_equal(it->merged->entry.key, slice_of(&it->key));
         vv_iter_prev(it->merged)) {
        const vv_entry *e = &it->merged->entry;
        if (*skipped == it->skip_limit) {
            fail(it, vv_status_make(VV_BUSY, VV_SUB_NONE, 0));
            return false;
        }
        ++*skipped;
        if (e->lsn > it->lsn)
            continue;
        it->key_live = is_live(e);
        it->copied = *e;
        vv_status st = it->key_live ? buffer_set(&it->value, e->value) : VV_STATUS_OK;
        if (!vv_ok(st)) {
            fail(it, st);
            return false;
        }
    }
    it->within_key = false;
    it->copied.key = slice_of(&it->key);
    it->copied.value = slice_of(&it->value);
    it->shown = &it->copied;
    return true;
}

static void find_backward(varve_iter *it) {
    uint64_t skipped = 0;
    it->backward = true;
    it->valid = false;
    while (it->within_key || (it->merged->valid && above_lower(it, it->merged->entry.key))) {
        if (!it->within_key) {
            vv_status st = buffer_set(&it->key, it->merged->entry.key);
            if (!vv_ok(st)) {
                fail(it, st);
                return;
            }
            it->within_key = true;
            it->key_live = false;
        }
        if (!pass_key_backward(it, &skipped))
            return;
        if (it->key_live && vv_ok(it->merged->status)) {
            it->valid = true;
            return;
        }
    }
    if (!it->merged->valid)
        it->status = it->merged->status;
}

static void start_step(varve_iter *it) {
    it->status = VV_STATUS_OK;
    it->pass_key = false;
    it->within_key = false;
}

void varve_iter_first(varve_iter *it) {
    start_step(it);
    if (it->lower.bytes > 0)
        vv_iter_seek(it->merged, slice_of(&it->lower), VV_LSN_MAX);
    else
        vv_iter_seek_first(it->merged);
    find_forward(it);
}

void varve_iter_last(varve_iter *it) {
    start_step(it);
    if (it->has_upper)
        vv_iter_seek_back(it->merged, slice_of(&it->upper), VV_LSN_MAX);
    else
        vv_iter_seek_last(it->merged);
    find_backward(it);
}

void varve_iter_seek(varve_iter *it, const void *key, size_t key_bytes) {
    vv_slice to = vv_slice_make(key, key_bytes);
    if (!above_lower(it, to)) {
        varve_iter_first(it);
        return;
    }
    start_step(it);
    vv_iter_seek(it->merged, to, VV_LSN_MAX);
    find_forward(it);
}

void varve_iter_seek_back(varve_iter *it, const void *key, size_t key_bytes) {
    vv_slice to = vv_slice_make(key, key_bytes);
    if (!below_upper(it, to)) {
        varve_iter_last(it);
        return;
    }
    start_step(it);
    vv_iter_seek_back(it->merged, to, 0);
    find_backward(it);
}

static bool may_step(const varve_iter *it) {
    return it->valid || vv_is(it->status, VV_BUSY);
}

void varve_iter_next(varve_iter *it) {
    VV_ASSERT(may_step(it));
    it->status = VV_STATUS_OK;
    if (it->backward) {
        /* Behind all versions of the key at hand; but one that a busy step has not decided about was not
         * shown. */
        it->pass_key = false;
        vv_iter_seek(it->merged, slice_of(&it->key), it->within_key ? VV_LSN_MAX : 0);
        it->within_key = false;
    } else if (it->valid) {
        vv_iter_next(it->merged); /* the entry at hand is not a hidden one */
    }
    find_forward(it);
}

void varve_iter_prev(varve_iter *it) {
    VV_ASSERT(may_step(it));
    it->status = VV_STATUS_OK;
    if (!it->backward)
        vv_iter_seek_back(it->merged, slice_of(&it->key), VV_LSN_MAX);
    find_backward(it);
}

bool varve_iter_valid(const varve_iter *it) {
    return it->valid;
}

varve_status varve_iter_status(const varve_iter *it) {
    return vv_public(it->status);
}

bool varve_iter_damage(const varve_iter *it, varve_key_range *out) {
    vv_slice first, last;
    *out = (varve_key_range){0};
    if (it->valid || !vv_is(it->status, VV_CORRUPTION) || !vv_iter_damage(it->merged, &first, &last))
        return false;
    *out = (varve_key_range){.first_key = first.data,
                             .first_key_bytes = first.bytes,
                             .last_key = last.data,
                             .last_key_bytes = last.bytes};
    return true;
}

void varve_iter_entry(const varve_iter *it, varve_entry *out) {
    VV_ASSERT(it->valid);
    const vv_entry *e = it->shown;
    *out = (varve_entry){.key = e->key.data,
                         .key_bytes = e->key.bytes,
                         .value = e->value.data,
                         .value_bytes = e->value.bytes,
                         .lsn = e->lsn,
                         .expires_unix_ms = e->expires_unix_ms};
}
