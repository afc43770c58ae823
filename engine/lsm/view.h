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
 * holds any lock, never holds up a reader, and the one that replaces it never waits for readers.
 *
 * Split reference counts: one 64-bit word holds the pointer and the number of references that were handed out
 * through it. A reader takes pointer and reference with one atomic addition; whoever replaces the view moves
 * the number to the view's own count. (The scheme of atomic_shared_ptr in A. Williams, "C++ Concurrency in
 * Action", 7.2.4.) There are as many such words as stripes, each on cache lines of its own, and readers use
 * the one of the core that they run on, so that two cores don't share what they write to. (Like the sloppy
 * counters of S. Boyd-Wickizer et al., "An Analysis of Linux Scalability to Many Cores", OSDI 2010: nobody
 * asks whether the count is zero while the view is current, so it may lie about in parts.)
 *
 * Invariants
 *   C1  The references to a view that exist are its own count, without the bias, and the counts of the
 *       stripes that name it. Which stripe a reference came from doesn't matter: it may be returned to any
 *       that names the view and counts at least one, and else to the view's own count, on any thread.
 *   C2  While any stripe names the view its own count carries a bias larger than all the references there can
 *       be, because references may be returned there that a stripe still counts. replace() takes the bias
 * away together with adding the counts that it has taken from the stripes, each of them once: only then can
 *       the count reach zero.
 *   C3  No view is put in twice, and whoever compares a stripe with a view holds a reference to it. So a
 *       stripe that names it has named it, and never another, since the view was put in.
 *   C4  When replace() has returned no stripe names the old view. While it runs one core may get the new view
 *       and another the old one: what is only in the new view must not be promised to readers before it has
 *       returned.
 *
 * Measured (bench/README.md): acquire, holds and release take 13 ns for a thread alone and 14 on each of two
 * that really run at once, where one word for all cores took 11 and 180. A read-side section of userspace RCU
 * takes 7, or 13 and 40 with the reference that whoever keeps the view needs. Whole gets from a memtable on
 * each of two cores went from 495 to 353 ns, on one they stayed at 370 to 380.
 */
#define VV_VIEW_STRIPES 16 /* a power of two; more cores than that share them */

typedef struct vv_view_cell {
    struct vv_view_stripe {
        /* Two cache lines: processors fetch them in pairs. */
        _Alignas(2 * VV_CACHE_LINE_BYTES) _Atomic uint64_t word; /* pointer << 16 | references handed out */
    } stripes[VV_VIEW_STRIPES];
} vv_view_cell;

/* Takes over the caller's reference. */
void vv_view_cell_init(vv_view_cell *c, vv_view *view_take);

/* A reference to the current view. Any thread; one atomic addition. */
vv_view *vv_view_cell_acquire(vv_view_cell *c);

/*
 * Give a reference back, on any thread: what vv_view_unref() does, but without a word that other cores write
 * to as long as the view is the current one. Lock-free. NULL: nothing.
 */
void vv_view_cell_release(vv_view_cell *c, vv_view *v);

/* Is this still the current view? `v` is referenced by the caller. True: no replacement had returned when
 * this was called. */
bool vv_view_cell_holds(vv_view_cell *c, const vv_view *v);

/* Put another view in, taking over the caller's reference to it; the reference to the old one becomes the
 * caller's. NULL empties it for good, when no reader comes any more. One thread at a time; never waits. */
vv_view *vv_view_cell_replace(vv_view_cell *c, vv_view *next_take);

#endif
