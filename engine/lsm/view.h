/*
 * view.h - what a reader reads: the active memtable, the sealed ones that wait for their flush, and the
 * tables, as of one moment. Immutable, counted references. A reader takes the newest LSN that is visible
 * first and a view second; the view then holds everything up to that LSN.
 */
#ifndef VV_ENGINE_LSM_VIEW_H
#define VV_ENGINE_LSM_VIEW_H

#include "engine/lsm/version.h"
#include "engine/mem/memtable.h"

typedef struct vv_view {
    _Atomic uint32_t refs;
    vv_memtable *active;
    vv_version *version;
    uint32_t sealed_count;
    vv_memtable *sealed[]; /* newest first */
} vv_view;

/* Takes references of its own. sealed: newest first. NULL: no memory. */
vv_view *vv_view_create(vv_memtable *active, vv_memtable *const *sealed, uint32_t sealed_count,
                        vv_version *version) VV_CHECKED;
void vv_view_ref(vv_view *v);
void vv_view_unref(vv_view *v);

#endif
