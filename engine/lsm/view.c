#include "engine/lsm/view.h"

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
/* References are moved out of the word long before their number could run into the pointer: each thread moves
 * them at the latest when it sees this many, so that it would take as many threads at once as are left to
 * overflow it. */
#define COUNT_MOVE (UINT64_C(1) << 14)
#define BIAS       (INT64_C(1) << 40)

static vv_view *pointer_of(uint64_t word) {
    return (vv_view *)(uintptr_t)(word >> COUNT_BITS);
}

static uint64_t word_of(vv_view *v) {
    uint64_t word = (uint64_t)(uintptr_t)v << COUNT_BITS;
    VV_ASSERT(pointer_of(word) == v);
    return word;
}

/* The caller's reference becomes the cell's. */
static void attach(vv_view *v) {
    atomic_fetch_add_explicit(&v->refs, BIAS - 1, memory_order_relaxed);
}

void vv_view_cell_init(vv_view_cell *c, vv_view *view_take) {
    attach(view_take);
    atomic_init(&c->word, word_of(view_take));
}

/* Move what the word counts to the view's own count. The view is referenced by the caller, so that its count
 * can't fall to zero in between. */
static void move_count(vv_view_cell *c, vv_view *v) {
    uint64_t word = atomic_load_explicit(&c->word, memory_order_relaxed);
    while (pointer_of(word) == v && (word & COUNT_MASK) >= COUNT_MOVE) {
        int64_t count = (int64_t)(word & COUNT_MASK);
        /* First there, then away from here: never is a reference counted nowhere. */
        atomic_fetch_add_explicit(&v->refs, count, memory_order_relaxed);
        if (atomic_compare_exchange_strong_explicit(&c->word, &word, word_of(v), memory_order_acq_rel,
                                                    memory_order_relaxed))
            return;
        atomic_fetch_sub_explicit(&v->refs, count, memory_order_acq_rel);
    }
}

vv_view *vv_view_cell_acquire(vv_view_cell *c) {
    /* acquire: pairs with the exchange in replace(), which publishes the view. */
    uint64_t word = atomic_fetch_add_explicit(&c->word, 1, memory_order_acquire);
    vv_view *v = pointer_of(word);
    if (VV_UNLIKELY((word & COUNT_MASK) >= COUNT_MOVE))
        move_count(c, v);
    return v;
}

bool vv_view_cell_holds(vv_view_cell *c, const vv_view *v) {
    return pointer_of(atomic_load_explicit(&c->word, memory_order_acquire)) == v;
}

vv_view *vv_view_cell_replace(vv_view_cell *c, vv_view *next_take) {
    if (next_take)
        attach(next_take);
    uint64_t word = atomic_exchange_explicit(&c->word, word_of(next_take), memory_order_acq_rel);
    vv_view *old = pointer_of(word);
    atomic_fetch_add_explicit(&old->refs, (int64_t)(word & COUNT_MASK) - BIAS + 1, memory_order_acq_rel);
    return old;
}
