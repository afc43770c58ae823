#include "engine/lsm/view.h"

#include "base/alloc.h"

vv_view *vv_view_create(vv_memtable *active, vv_memtable *const *sealed, uint32_t sealed_count,
                        vv_version *version) {
    vv_view *v = vv_alloc(sizeof *v + sealed_count * sizeof v->sealed[0]);
    if (!v)
        return NULL;
    atomic_init(&v->refs, 1);
    v->active = active;
    vv_memtable_ref(active);
    v->version = version;
    vv_version_ref(version);
    v->sealed_count = sealed_count;
    for (uint32_t i = 0; i < sealed_count; i++) {
        v->sealed[i] = sealed[i];
        vv_memtable_ref(sealed[i]);
    }
    return v;
}

void vv_view_ref(vv_view *v) {
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
}

void vv_view_unref(vv_view *v) {
    /* acq_rel: the last one sees every use of the view before it takes it apart. */
    if (!v || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < v->sealed_count; i++)
        vv_memtable_unref(v->sealed[i]);
    vv_memtable_unref(v->active);
    vv_version_unref(v->version);
    vv_free(v);
}
