/*
 * The k-way merge against a sorted array of the same entries.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/lsm/merge.h"
#include "tests/support/tempdir.h"

/* ---- a child over an array, which can be made to fail ---- */

typedef struct array_iter {
    vv_iter base;
    const vv_entry **entries;
    size_t count;
    size_t at;
    size_t fails_at; /* reaching this entry fails; SIZE_MAX: none */
    int *destroyed;
} array_iter;

static void array_show(array_iter *a, size_t at) {
    a->at = at;
    a->base.valid = false;
    if (at == a->fails_at)
        a->base.status = vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    if (!vv_ok(a->base.status) || at >= a->count)
        return;
    a->base.valid = true;
    a->base.entry = *a->entries[at];
}

static void array_destroy(vv_iter *it) {
    array_iter *a = (array_iter *)it;
    ++*a->destroyed;
    free(a->entries);
    free(a);
}

static void array_first(vv_iter *it) {
    array_show((array_iter *)it, 0);
}

/* SIZE_MAX is before the first. */
static void array_last(vv_iter *it) {
    array_iter *a = (array_iter *)it;
    array_show(a, a->count - 1);
}

static void array_seek(vv_iter *it, vv_slice key, uint64_t lsn) {
    array_iter *a = (array_iter *)it;
    size_t at = 0;
    while (at < a->count && vv_entry_compare(a->entries[at]->key, a->entries[at]->lsn, key, lsn) < 0)
        at++;
    array_show(a, at);
}

static void array_seek_back(vv_iter *it, vv_slice key, uint64_t lsn) {
    array_iter *a = (array_iter *)it;
    size_t at = a->count;
    while (at > 0 && vv_entry_compare(a->entries[at - 1]->key, a->entries[at - 1]->lsn, key, lsn) > 0)
        at--;
    array_show(a, at - 1);
}

static void array_next(vv_iter *it) {
    array_show((array_iter *)it, ((array_iter *)it)->at + 1);
}

static void array_prev(vv_iter *it) {
    array_show((array_iter *)it, ((array_iter *)it)->at - 1);
}

static const vv_iter_ops array_ops = {.destroy = array_destroy,
                                      .seek_first = array_first,
                                      .seek_last = array_last,
                                      .seek = array_seek,
                                      .seek_back = array_seek_back,
                                      .next = array_next,
                                      .prev = array_prev};

/* ---- entries, dealt out to children ---- */

#define CHILDREN_MAX 64

typedef struct deal {
    vv_entry *all; /* in internal order */
    char (*keys)[8];
    size_t count;
    vv_iter *children[CHILDREN_MAX];
    uint32_t child_count;
    int destroyed;
    vv_iter *merged;
} deal;

static int compare(const void *a, const void *b) {
    const vv_entry *x = a, *y = b;
    return vv_entry_compare(x->key, x->lsn, y->key, y->lsn);
}

/* `count` entries of about count / 3 keys, each in a child chosen at random; some children stay empty. */
static void deal_children(deal *d, size_t count, uint32_t child_count, uint64_t *rng) {
    *d = (deal){.count = count, .child_count = child_count};
    d->all = calloc(count + 1, sizeof *d->all);
    d->keys = calloc(count + 1, sizeof *d->keys);
    for (size_t i = 0; i < count; i++) {
        int n = snprintf(d->keys[i], sizeof d->keys[i], "k%03u",
                         (unsigned)(vv_test_random(rng) % (count / 3 + 1)));
        d->all[i] =
            (vv_entry){.key = vv_slice_make(d->keys[i], (size_t)n), .lsn = i + 1, .kind = VV_KIND_PUT};
    }
    qsort(d->all, count, sizeof *d->all, compare);
    for (uint32_t c = 0; c < child_count; c++) {
        array_iter *a = calloc(1, sizeof *a);
        a->base.ops = &array_ops;
        a->entries = calloc(count + 1, sizeof(vv_entry *));
        a->fails_at = SIZE_MAX - 1;
        a->destroyed = &d->destroyed;
        d->children[c] = &a->base;
    }
    for (size_t i = 0; i < count && child_count > 0; i++) {
        array_iter *a = (array_iter *)d->children[vv_test_random(rng) % child_count];
        a->entries[a->count++] = &d->all[i];
    }
}

static void merge(deal *d) {
    cr_assert(vv_ok(vv_merge_create(d->children, d->child_count, &d->merged)));
}

static void deal_free(deal *d) {
    vv_iter_destroy(d->merged);
    cr_assert_eq((uint32_t)d->destroyed, d->child_count, "each child is destroyed once");
    free(d->all);
    free(d->keys);
}

/* at SIZE_MAX or count: behind an end. */
static void expect_at(const deal *d, size_t at) {
    cr_assert(vv_ok(d->merged->status));
    if (at >= d->count) {
        cr_assert(!d->merged->valid);
        return;
    }
    cr_assert(d->merged->valid, "nothing at %zu of %zu", at, d->count);
    cr_assert_eq(d->merged->entry.lsn, d->all[at].lsn, "at %zu", at);
}

Test(merge, shows_everything_in_order_both_ways_from_any_number_of_children) {
    static const uint32_t child_counts[] = {0, 1, 2, 3, 7, 64};
    uint64_t rng = vv_test_seed();
    for (size_t c = 0; c < VV_ARRAY_COUNT(child_counts); c++)
        for (size_t count = 0; count <= (child_counts[c] ? 300u : 0u); count = count * 2 + 1) {
            deal d;
            deal_children(&d, count, child_counts[c], &rng);
            merge(&d);
            size_t at = 0;
            for (vv_iter_seek_first(d.merged); d.merged->valid; vv_iter_next(d.merged))
                expect_at(&d, at++);
            cr_assert_eq(at, count);
            expect_at(&d, count);
            for (vv_iter_seek_last(d.merged); d.merged->valid; vv_iter_prev(d.merged))
                expect_at(&d, --at);
            cr_assert_eq(at, 0);
            deal_free(&d);
        }
}

Test(merge, turns_at_every_position) {
    uint64_t rng = vv_test_seed();
    deal d;
    deal_children(&d, 120, 5, &rng);
    merge(&d);
    for (size_t from = 0; from < d.count; from++)
        for (size_t steps = 1; steps <= 3; steps++) {
            size_t at = from;
            vv_iter_seek(d.merged, d.all[from].key, d.all[from].lsn);
            expect_at(&d, at);
            /* steps forward, twice as many back, then forward again */
            for (size_t i = 0; i < steps && d.merged->valid; i++) {
                vv_iter_next(d.merged);
                expect_at(&d, ++at);
            }
            for (size_t i = 0; i < 2 * steps && d.merged->valid; i++) {
                vv_iter_prev(d.merged);
                expect_at(&d, --at);
            }
            for (size_t i = 0; i < steps && d.merged->valid; i++) {
                vv_iter_next(d.merged);
                expect_at(&d, ++at);
            }
        }
    deal_free(&d);
}

Test(merge, a_random_walk_is_that_of_the_array) {
    uint64_t rng = vv_test_seed();
    for (int round = 0; round < 20; round++) {
        deal d;
        deal_children(&d, 1 + vv_test_random(&rng) % 100, 1 + (uint32_t)(vv_test_random(&rng) % 9), &rng);
        merge(&d);
        size_t at = d.count;
        for (int i = 0; i < 2000; i++) {
            size_t to = vv_test_random(&rng) % d.count;
            uint64_t lsn = d.all[to].lsn + vv_test_random(&rng) % 3 - 1;
            vv_slice key = d.all[to].key;
            switch (at >= d.count ? 4 + vv_test_random(&rng) % 4 : vv_test_random(&rng) % 8) {
            case 0:
            case 1: vv_iter_next(d.merged), at++; break;
            case 2:
            case 3: vv_iter_prev(d.merged), at--; break;
            case 4: vv_iter_seek_first(d.merged), at = 0; break;
            case 5: vv_iter_seek_last(d.merged), at = d.count - 1; break;
            case 6:
                vv_iter_seek(d.merged, key, lsn);
                for (at = 0; at < d.count && vv_entry_compare(d.all[at].key, d.all[at].lsn, key, lsn) < 0;)
                    at++;
                break;
            default:
                vv_iter_seek_back(d.merged, key, lsn);
                for (at = d.count;
                     at > 0 && vv_entry_compare(d.all[at - 1].key, d.all[at - 1].lsn, key, lsn) > 0;)
                    at--;
                at--;
            }
            expect_at(&d, at);
        }
        deal_free(&d);
    }
}

Test(merge, a_child_that_fails_ends_it_and_nothing_behind_the_hole_is_shown) {
    uint64_t rng = vv_test_seed();
    for (int backward = 0; backward < 2; backward++)
        for (size_t fails_at = 0; fails_at < 10; fails_at++) {
            deal d;
            deal_children(&d, 90, 4, &rng);
            array_iter *bad = (array_iter *)d.children[fails_at % 4];
            cr_assert_gt(bad->count, 0);
            bad->fails_at = fails_at % bad->count;
            size_t hole = (size_t)(bad->entries[bad->fails_at] - d.all);
            merge(&d);
            size_t shown = 0;
            if (backward) {
                for (vv_iter_seek_last(d.merged); d.merged->valid; vv_iter_prev(d.merged))
                    cr_assert_eq(d.merged->entry.lsn, d.all[d.count - ++shown].lsn);
                cr_assert_leq(shown, d.count - 1 - hole);
            } else {
                for (vv_iter_seek_first(d.merged); d.merged->valid; vv_iter_next(d.merged))
                    cr_assert_eq(d.merged->entry.lsn, d.all[shown++].lsn);
                cr_assert_leq(shown, hole);
            }
            cr_assert(vv_is(d.merged->status, VV_CORRUPTION));
            vv_iter_seek_first(d.merged);
            cr_assert(!d.merged->valid, "a failure is final");
            deal_free(&d);
        }
}

Test(merge, a_child_that_fails_while_turning_is_noticed) {
    uint64_t rng = vv_test_seed();
    deal d;
    deal_children(&d, 90, 4, &rng);
    merge(&d);
    vv_iter_seek(d.merged, d.all[45].key, d.all[45].lsn);
    for (uint32_t i = 0; i < d.child_count; i++) {
        array_iter *a = (array_iter *)d.children[i];
        for (size_t k = 0; k < a->count; k++)
            if (a->entries[k] == &d.all[44])
                a->fails_at = k;
    }
    vv_iter_prev(d.merged);
    cr_assert(!d.merged->valid);
    cr_assert(vv_is(d.merged->status, VV_CORRUPTION));
    deal_free(&d);
}

Test(merge, without_memory_the_children_are_destroyed) {
    uint64_t rng = vv_test_seed();
    deal d;
    deal_children(&d, 20, 5, &rng);
    vv_alloc_fail_at(1);
    vv_status st = vv_merge_create(d.children, d.child_count, &d.merged);
    vv_alloc_fail_at(0);
    cr_assert(vv_is(st, VV_NO_MEMORY));
    cr_assert_null(d.merged);
    deal_free(&d);
}
