#include "engine/lsm/view.h"

#include <sched.h>

#include "base/alloc.h"
#include "base/assert.h"

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

/* ---- the cell ---- */

#define COUNT_BITS 16
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
/* References are moved out of a word long before their number could run into the pointer: each thread moves
 * them at the latest when it sees this many, so that it would take as many threads at once as are left to
 * overflow it. */
#define COUNT_MOVE (UINT64_C(1) << 14)
#define BIAS       (INT64_C(1) << 40)

_Static_assert((VV_VIEW_STRIPES & (VV_VIEW_STRIPES - 1)) == 0, "picked by the core's lowest bits");

static vv_view *pointer_of(uint64_t word) {
    return (vv_view *)(uintptr_t)(word >> COUNT_BITS);
}

static uint64_t word_of(vv_view *v) {
    uint64_t word = (uint64_t)(uintptr_t)v << COUNT_BITS;
    VV_ASSERT(pointer_of(word) == v);
    return word;
}

/* This core's. The thread may be moved to another core at any time, which costs time and nothing else. (1.5
 * ns: the C library reads what the kernel keeps up to date in the thread's rseq area. An error is -1: a
 * stripe too.) */
static _Atomic uint64_t *own_word(vv_view_cell *c) {
    return &c->stripes[(unsigned)sched_getcpu() & (VV_VIEW_STRIPES - 1)].word;
}

/* The caller's reference becomes the cell's. */
static void attach(vv_view *v) {
    atomic_fetch_add_explicit(&v->refs, BIAS - 1, memory_order_relaxed);
}

void vv_view_cell_init(vv_view_cell *c, vv_view *view_take) {
    attach(view_take);
    for (int i = 0; i < VV_VIEW_STRIPES; i++)
        atomic_init(&c->stripes[i].word, word_of(view_take));
}

/* Move what the word counts to the view's own count. The view is referenced by the caller, so that its count
 * can't fall to zero in between. */
static void move_count(_Atomic uint64_t *at, vv_view *v) {
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    while (pointer_of(word) == v && (word & COUNT_MASK) >= COUNT_MOVE) {
        int64_t count = (int64_t)(word & COUNT_MASK);
        /* First there, then away from here: never is a reference counted nowhere. */
        atomic_fetch_add_explicit(&v->refs, count, memory_order_relaxed);
        if (atomic_compare_exchange_strong_explicit(at, &word, word_of(v), memory_order_acq_rel,
                                                    memory_order_relaxed))
            return;
        atomic_fetch_sub_explicit(&v->refs, count, memory_order_acq_rel);
    }
}

vv_view *vv_view_cell_acquire(vv_view_cell *c) {
    _Atomic uint64_t *at = own_word(c);
    /* acquire: pairs with the exchange in replace(), which publishes the view. */
    uint64_t word = atomic_fetch_add_explicit(at, 1, memory_order_acquire);
    vv_view *v = pointer_of(word);
    if (VV_UNLIKELY((word & COUNT_MASK) >= COUNT_MOVE))
        move_count(at, v);
    return v;
}

void vv_view_cell_release(vv_view_cell *c, vv_view *v) {
    if (!v)
        return;
    _Atomic uint64_t *at = own_word(c);
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    /* Can't take the last reference: the cell has one as long as it names the view. */
    while (pointer_of(word) == v && (word & COUNT_MASK) > 0)
        /* release: pairs with the exchange in replace(), or in move_count(), and by way of the view's own
         * count with whoever takes the view apart. Other readers' additions in between don't break the
         * chain. */
        if (atomic_compare_exchange_weak_explicit(at, &word, word - 1, memory_order_release,
                                                  memory_order_relaxed))
            return;
    vv_view_unref(v);
}

bool vv_view_cell_holds(vv_view_cell *c, const vv_view *v) {
    return pointer_of(atomic_load_explicit(own_word(c), memory_order_acquire)) == v;
}

vv_view *vv_view_cell_replace(vv_view_cell *c, vv_view *next_take) {
    if (next_take)
        attach(next_take);
    vv_view *old = NULL;
    int64_t count = 0;
    for (int i = 0; i < VV_VIEW_STRIPES; i++) {
        uint64_t word =
            atomic_exchange_explicit(&c->stripes[i].word, word_of(next_take), memory_order_acq_rel);
        VV_ASSERT(i == 0 || pointer_of(word) == old);
        old = pointer_of(word);
        count += (int64_t)(word & COUNT_MASK);
    }
    /* What `count` holds is counted nowhere for the moment: the bias keeps the view (C2). */
    atomic_fetch_add_explicit(&old->refs, count - BIAS + 1, memory_order_acq_rel);
    return old;
}
