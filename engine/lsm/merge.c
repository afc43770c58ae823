/*
 * merge.c - a k-way merge over a binary heap of cursors.
 *
 * The heap holds the children that have a current entry, the smallest on top while moving forward, the
 * largest while moving backward. A step moves the top child and sifts it down: about log2(k) comparisons, and
 * only one while the same child stays on top. (D. E. Knuth, TAOCP volume 3, 5.4.1; a loser tree saves
 * comparisons only for random interleavings, while neighbours in a level-structured tree mostly come from one
 * child.) One child alone needs none of this: it is the merge.
 */
#include "engine/lsm/merge.h"

#include "base/alloc.h"

typedef struct merge_iter {
    vv_iter base;
    bool backward;
    uint32_t child_count;
    uint32_t heap_count;
    vv_iter **heap; /* into the same allocation */
    vv_iter *children[];
} merge_iter;

/* a is to be shown before b. */
static bool comes_first(const merge_iter *m, const vv_iter *a, const vv_iter *b) {
    int order = vv_entry_compare(a->entry.key, a->entry.lsn, b->entry.key, b->entry.lsn);
    return m->backward ? order > 0 : order < 0;
}

static void sift_down(merge_iter *m, uint32_t at) {
    vv_iter *moving = m->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= m->heap_count)
            break;
        if (child + 1 < m->heap_count && comes_first(m, m->heap[child + 1], m->heap[child]))
            child++;
        if (!comes_first(m, m->heap[child], moving))
            break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = moving;
}

/* Show the top, or the end, or the first child's failure. */
static void show(merge_iter *m) {
    m->base.valid = m->heap_count > 0 && vv_ok(m->base.status);
    if (m->base.valid)
        m->base.entry = m->heap[0]->entry;
}

/* All children have been placed anew: those with an entry make the heap. What one of them met before, at
 * another place, does not count any more. */
static void build(merge_iter *m) {
    m->heap_count = 0;
    m->base.status = VV_STATUS_OK;
    for (uint32_t i = 0; i < m->child_count; i++) {
        vv_iter *child = m->children[i];
        if (child->valid)
            m->heap[m->heap_count++] = child;
        else
            vv_status_keep(&m->base.status, child->status);
    }
    for (uint32_t i = m->heap_count / 2; i-- > 0;)
        sift_down(m, i);
    show(m);
}

static void destroy(vv_iter *it) {
    merge_iter *m = (merge_iter *)it;
    for (uint32_t i = 0; i < m->child_count; i++)
        vv_iter_destroy(m->children[i]);
    vv_free(m);
}

static void seek_first(vv_iter *it) {
    merge_iter *m = (merge_iter *)it;
    m->backward = false;
    for (uint32_t i = 0; i < m->child_count; i++)
        vv_iter_seek_first(m->children[i]);
    build(m);
}

static void seek_last(vv_iter *it) {
    merge_iter *m = (merge_iter *)it;
    m->backward = true;
    for (uint32_t i = 0; i < m->child_count; i++)
        vv_iter_seek_last(m->children[i]);
    build(m);
}

static void seek(vv_iter *it, vv_slice key, uint64_t lsn) {
    merge_iter *m = (merge_iter *)it;
    m->backward = false;
    for (uint32_t i = 0; i < m->child_count; i++)
        vv_iter_seek(m->children[i], key, lsn);
    build(m);
}

static void seek_back(vv_iter *it, vv_slice key, uint64_t lsn) {
    merge_iter *m = (merge_iter *)it;
    m->backward = true;
    for (uint32_t i = 0; i < m->child_count; i++)
        vv_iter_seek_back(m->children[i], key, lsn);
    build(m);
}

/* Place every child but the current one on the other side of the current entry, which none of them has. */
static void turn(merge_iter *m) {
    const vv_iter *current = m->heap[0];
    vv_slice key = current->entry.key;
    uint64_t lsn = current->entry.lsn;
    for (uint32_t i = 0; i < m->child_count; i++) {
        vv_iter *child = m->children[i];
        if (child == current)
            continue;
        if (m->backward)
            vv_iter_seek(child, key, lsn);
        else
            vv_iter_seek_back(child, key, lsn);
    }
    m->backward = !m->backward;
    build(m);
}

static void step(merge_iter *m) {
    vv_iter *top = m->heap[0];
    if (m->backward)
        vv_iter_prev(top);
    else
        vv_iter_next(top);
    if (!top->valid) {
        vv_status_keep(&m->base.status, top->status);
        m->heap[0] = m->heap[--m->heap_count];
    }
    if (m->heap_count > 0)
        sift_down(m, 0);
    show(m);
}

static void next(vv_iter *it) {
    merge_iter *m = (merge_iter *)it;
    if (m->backward)
        turn(m);
    if (m->base.valid)
        step(m);
}

static void prev(vv_iter *it) {
    merge_iter *m = (merge_iter *)it;
    if (!m->backward)
        turn(m);
    if (m->base.valid)
        step(m);
}

/* Of a child that has failed as the whole has. */
static bool damage(const vv_iter *it, vv_slice *first_out, vv_slice *last_out) {
    const merge_iter *m = (const merge_iter *)it;
    for (uint32_t i = 0; i < m->child_count; i++)
        if (m->children[i]->status.code == it->status.code &&
            vv_iter_damage(m->children[i], first_out, last_out))
            return true;
    return false;
}

static const vv_iter_ops ops = {.destroy = destroy,
                                .seek_first = seek_first,
                                .seek_last = seek_last,
                                .seek = seek,
                                .seek_back = seek_back,
                                .next = next,
                                .prev = prev,
                                .damage = damage};

vv_status vv_merge_create(vv_iter *const *children_take, uint32_t count, vv_iter **out) {
    *out = NULL;
    if (count == 1) {
        *out = children_take[0];
        return VV_STATUS_OK;
    }
    merge_iter *m = vv_alloc_zeroed(sizeof *m + 2 * (size_t)count * sizeof m->children[0]);
    if (!m) {
        for (uint32_t i = 0; i < count; i++)
            vv_iter_destroy(children_take[i]);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    m->base.ops = &ops;
    m->child_count = count;
    m->heap = m->children + count;
    for (uint32_t i = 0; i < count; i++)
        m->children[i] = children_take[i];
    *out = &m->base;
    return VV_STATUS_OK;
}
