/*
 * memtable.c - what all memtable types share: references, and the book-keeping of LSNs and counts.
 */
#include "engine/mem/memtable.h"

#include "engine/mem/mem_impl.h"

vv_status vv_memtable_create(vv_memtable_type type, uint64_t seed, vv_memtable **out) {
    *out = NULL;
    vv_memtable *m = NULL;
    switch (type) {
    case VV_MEMTABLE_HASHMAP: VV_TRY(vv_hashmap_create(seed, &m)); break;
    case VV_MEMTABLE_SKIPLIST: VV_TRY(vv_skiplist_create(seed, &m)); break;
    case VV_MEMTABLE_BTREE: VV_TRY(vv_btree_create(seed, &m)); break;
    }
    VV_ASSERT(m);
    atomic_init(&m->refs, 1);
    atomic_init(&m->entry_count, 0);
    m->first_lsn = 0;
    m->last_lsn = 0;
    *out = m;
    return VV_STATUS_OK;
}

void vv_memtable_unref(vv_memtable *m) {
    if (!m)
        return;
    /* acq_rel: what other holders did before they let go happens before the destruction. */
    if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) == 1)
        m->ops->destroy(m);
}

static void check(const vv_entry *e, uint64_t last_lsn) {
    VV_ASSERT(e->key.bytes >= 1 && e->key.bytes <= VV_KEY_BYTES_MAX && e->value.bytes <= UINT32_MAX);
    VV_ASSERT(e->lsn > last_lsn);
}

static void count(vv_memtable *m, const vv_entry *entries, size_t more) {
    if (m->first_lsn == 0)
        m->first_lsn = entries[0].lsn;
    m->last_lsn = entries[more - 1].lsn;
    /* relaxed: a gauge; only the writer changes it. */
    uint64_t before = atomic_load_explicit(&m->entry_count, memory_order_relaxed);
    atomic_store_explicit(&m->entry_count, before + more, memory_order_relaxed);
}

void vv_memtable_add(vv_memtable *m, const vv_entry *e) {
    check(e, m->last_lsn);
    m->ops->add(m, e);
    count(m, e, 1);
}

void vv_memtable_adder_flush(vv_memtable_adder *a) {
    vv_memtable *m = a->m;
    if (a->count == 1 || !m->ops->add_together) {
        for (size_t i = 0; i < a->count; i++)
            vv_memtable_add(m, &a->entries[i]);
    } else if (a->count > 0) {
        for (size_t i = 0; i < a->count; i++)
            check(&a->entries[i], i == 0 ? m->last_lsn : a->entries[i - 1].lsn);
        m->ops->add_together(m, a->entries, a->count);
        count(m, a->entries, a->count);
    }
    a->count = 0;
}

vv_status vv_memtable_load(vv_memtable *m, const vv_entry *e) {
    check(e, m->last_lsn);
    if (m->ops->load) {
        VV_TRY(m->ops->load(m, e));
    } else {
        VV_TRY(vv_memtable_reserve(m, 1, e->key.bytes + e->value.bytes));
        m->ops->add(m, e);
    }
    count(m, e, 1);
    return VV_STATUS_OK;
}
