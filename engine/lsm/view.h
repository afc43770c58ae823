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
    _Atomic int64_t refs;
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

/*
 * The current view, for readers without locks: a thread that is preempted while it replaces the view, or
 * holds any lock, never holds up a reader.
 *
 * Split reference counts: one 64-bit word holds the pointer and the number of references that were handed out
 * through it. A reader takes pointer and reference with one atomic addition; whoever replaces the view moves
 * the number to the view's own count. While a view is in the cell its own count carries a bias, because
 * references may be returned there before they were moved there. (The scheme of atomic_shared_ptr in A.
 * Williams, "C++ Concurrency in Action", 7.2.4.)
 *
 * Compared with userspace RCU (liburcu 0.13, bench/bench_view.c): acquire and unref take 11 ns for a thread
 * alone, a read-side section of urcu-memb 7, or 13 with a reference taken in it, which whoever keeps the view
 * needs. Two threads that really run at once, and do nothing else, take 40 to 190 ns for the cell, whose word
 * and count both of them write to, 7 for the section, and 40 with the reference. Whole gets from a memtable
 * took 370 to 420 ns on one thread, and 440 to 510 on each of two: sharing the word costs 5 to 25 % of a get
 * as soon as two cores read at once.
 */
typedef struct vv_view_cell {
    VV_CACHE_ALIGNED _Atomic uint64_t word; /* pointer << 16 | references handed out */
} vv_view_cell;

/* Takes over the caller's reference. */
void vv_view_cell_init(vv_view_cell *c, vv_view *view_take);

/* A reference to the current view. Any thread; one atomic addition. */
vv_view *vv_view_cell_acquire(vv_view_cell *c);

/* Is this still the current view? `v` is referenced by the caller. */
bool vv_view_cell_holds(vv_view_cell *c, const vv_view *v);

/* Put another view in, taking over the caller's reference to it; the reference to the old one becomes the
 * caller's. NULL empties it for good, when no reader comes any more. One thread at a time. */
vv_view *vv_view_cell_replace(vv_view_cell *c, vv_view *next_take);

#endif
