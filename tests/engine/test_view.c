#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine/lsm/view.h"

static vv_view *make_view(uint64_t number) {
    vv_memtable *m;
    cr_assert(vv_ok(vv_memtable_create(VV_MEMTABLE_SKIPLIST, number, &m)));
    vv_version *version = vv_version_create(NULL, 0);
    vv_view *v = vv_view_create(m, NULL, 0, version);
    vv_memtable_unref(m);
    vv_version_unref(version);
    return v;
}

Test(view, a_view_lives_as_long_as_somebody_holds_it) {
    vv_view_cell cell;
    vv_view *first = make_view(1);
    vv_memtable *m = first->active;
    vv_memtable_ref(m); /* to watch */
    vv_view_cell_init(&cell, first);
    vv_view *a = vv_view_cell_acquire(&cell), *b = vv_view_cell_acquire(&cell);
    cr_assert(a == first && b == first);
    vv_view_unref(a); /* returned before it was moved to the view's own count */
    cr_assert(vv_view_cell_holds(&cell, first));
    vv_view *old = vv_view_cell_replace(&cell, make_view(2));
    cr_assert_eq(old, first);
    cr_assert_not(vv_view_cell_holds(&cell, first));
    vv_view_unref(old);
    cr_assert_eq(atomic_load(&m->refs), 2, "b still holds it");
    vv_view_unref(b);
    cr_assert_eq(atomic_load(&m->refs), 1, "nobody does");
    vv_memtable_unref(m);
    vv_view_unref(vv_view_cell_replace(&cell, NULL));
}

Test(view, references_beyond_the_word_are_moved_in_time) {
    vv_view_cell cell;
    vv_view *v = make_view(1);
    vv_memtable *m = v->active;
    vv_memtable_ref(m);
    vv_view_cell_init(&cell, v);
    enum { MANY = 300000 };
    for (int i = 0; i < MANY; i++)
        cr_assert_eq(vv_view_cell_acquire(&cell), v);
    vv_view_unref(vv_view_cell_replace(&cell, make_view(2)));
    for (int i = 0; i < MANY; i++) {
        cr_assert_eq(atomic_load(&m->refs), 2);
        vv_view_unref(v);
    }
    cr_assert_eq(atomic_load(&m->refs), 1);
    vv_memtable_unref(m);
    vv_view_unref(vv_view_cell_replace(&cell, NULL));
}

static vv_view_cell shared;
static _Atomic bool stop;

static void *read_views(void *arg) {
    (void)arg;
    while (!atomic_load(&stop)) {
        vv_view *v = vv_view_cell_acquire(&shared);
        cr_assert_eq(v->sealed_count, 0);
        cr_assert_eq(vv_memtable_count(v->active), 0); /* reads freed memory if the count is wrong */
        vv_view_unref(v);
    }
    return NULL;
}

Test(view, readers_and_a_replacer_agree) {
    pthread_t readers[3];
    vv_view_cell_init(&shared, make_view(1));
    for (int i = 0; i < 3; i++)
        pthread_create(&readers[i], NULL, read_views, NULL);
    for (uint64_t n = 2; n < 3000; n++)
        vv_view_unref(vv_view_cell_replace(&shared, make_view(n)));
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(readers[i], NULL);
    vv_view_unref(vv_view_cell_replace(&shared, NULL));
}
