#include "engine/lsm/version.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"

vv_table *vv_table_create(uint32_t level, uint64_t run, uint64_t file_number, vv_sst_summary *summary_take,
                          vv_table_drop_fn drop, void *drop_arg) {
    vv_table *t = vv_alloc_zeroed(sizeof *t);
    if (!t) {
        vv_sst_summary_deinit(summary_take);
        return NULL;
    }
    atomic_init(&t->refs, 1);
    atomic_init(&t->obsolete, false);
    t->drop = drop;
    t->drop_arg = drop_arg;
    t->level = level;
    t->run = run;
    t->file_number = file_number;
    t->summary = *summary_take;
    *summary_take = (vv_sst_summary){0};
    return t;
}

static uint8_t *copy_key(const uint8_t *key, uint32_t bytes) {
    uint8_t *copy = vv_alloc(bytes);
    if (copy)
        memcpy(copy, key, bytes);
    return copy;
}

vv_table *vv_table_move(vv_table *from, uint32_t level, uint64_t run) {
    vv_sst_summary s = from->summary;
    s.first_key = copy_key(s.first_key, s.first_key_bytes);
    s.last_key = copy_key(s.last_key, s.last_key_bytes);
    if (!s.first_key || !s.last_key) {
        vv_sst_summary_deinit(&s);
        return NULL;
    }
    vv_table *t = vv_table_create(level, run, from->file_number, &s, from->drop, from->drop_arg);
    if (!t)
        return NULL;
    vv_table_ref(from);
    t->moved_from = from;
    return t;
}

void vv_table_ref(vv_table *t) {
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
}

void vv_table_unref(vv_table *t) {
    /* acq_rel: whoever drops the last reference sees all that the others did with the table. */
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    bool obsolete = atomic_load_explicit(&t->obsolete, memory_order_relaxed);
    if (t->moved_from) {
        /* Readers of older versions may still have the file at its place before: the last of them drops it.
         */
        if (obsolete)
            atomic_store_explicit(&t->moved_from->obsolete, true, memory_order_relaxed);
        vv_table_unref(t->moved_from);
    } else if (obsolete) {
        t->drop(t->drop_arg, t->file_number);
    }
    vv_sst_summary_deinit(&t->summary);
    vv_free(t);
}

void vv_table_note_failure(vv_table *t, vv_status st) {
    /* relaxed: advice to the picker. */
    if (vv_is(st, VV_CORRUPTION) || vv_is(st, VV_IO))
        atomic_fetch_add_explicit(&t->read_failures, 1, memory_order_relaxed);
}

/* Run order, then key order. */
static int compare_tables(const void *a, const void *b) {
    const vv_table *x = *(vv_table *const *)a, *y = *(vv_table *const *)b;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->run != y->run)
        return x->run > y->run ? -1 : 1;
    return vv_slice_compare(vv_table_first_key(x), vv_table_first_key(y));
}

static void build_runs(vv_version *v) {
    for (size_t i = 0; i < v->table_count; i++) {
        vv_table *t = v->tables[i];
        vv_run *last = v->run_count ? &v->runs[v->run_count - 1] : NULL;
        if (last && last->level == t->level && last->number == t->run)
            last->table_count++;
        else
            v->runs[v->run_count++] =
                (vv_run){.level = t->level, .number = t->run, .tables = &v->tables[i], .table_count = 1};
    }
}

vv_version *vv_version_create(vv_table *const *tables, size_t count) {
    vv_version *v = vv_alloc_zeroed(sizeof *v);
    if (!v)
        return NULL;
    v->tables = vv_alloc((count + 1) * sizeof(vv_table *));
    v->runs = vv_alloc((count + 1) * sizeof(vv_run));
    if (!v->tables || !v->runs) {
        vv_free(v->tables);
        vv_free(v->runs);
        vv_free(v);
        return NULL;
    }
    atomic_init(&v->refs, 1);
    v->table_count = count;
    for (size_t i = 0; i < count; i++) {
        v->tables[i] = tables[i];
        vv_table_ref(tables[i]);
    }
    qsort(v->tables, count, sizeof(vv_table *), compare_tables);
    build_runs(v);
    return v;
}

void vv_version_ref(vv_version *v) {
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
}

void vv_version_unref(vv_version *v) {
    if (!v || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < v->table_count; i++)
        vv_table_unref(v->tables[i]);
    vv_free(v->tables);
    vv_free(v->runs);
    vv_free(v);
}

vv_table *vv_run_find(const vv_run *run, vv_slice key) {
    /* The first table whose last key is not before `key`. */
    size_t low = 0, high = run->table_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (vv_slice_compare(vv_table_last_key(run->tables[middle]), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == run->table_count || vv_slice_compare(key, vv_table_first_key(run->tables[low])) < 0)
        return NULL;
    return run->tables[low];
}
