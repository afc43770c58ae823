#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/compiler.h"
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
        vv_view_cell_release(&shared, v);
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

/* ---- stripes ---- */

/* True: this thread runs on that core from now on. */
static bool run_on_core(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

Test(view, a_reference_is_returned_on_any_core) {
    vv_view_cell cell;
    vv_view *first = make_view(1);
    vv_memtable *m = first->active;
    vv_memtable_ref(m);
    vv_view_cell_init(&cell, first);
    enum { HELD = 64 };
    int cores = 0;
    for (int from = 0; from < 2; from++)
        for (int to = 0; to < 2; to++) {
            if (!run_on_core(from))
                continue;
            for (int i = 0; i < HELD; i++)
                cr_assert_eq(vv_view_cell_acquire(&cell), first);
            /* Of another core: to its stripe as long as that counts some, then to the view itself. */
            if (run_on_core(to))
                cores++;
            for (int i = 0; i < HELD; i++)
                vv_view_cell_release(&cell, first);
        }
    cr_assert(cores >= 1);
    vv_view *late = vv_view_cell_acquire(&cell);
    vv_view_unref(vv_view_cell_replace(&cell, make_view(2)));
    cr_assert_eq(atomic_load(&m->refs), 2, "the last one still holds it");
    vv_view_cell_release(&cell, late); /* when no stripe names it any more */
    cr_assert_eq(atomic_load(&m->refs), 1);
    vv_memtable_unref(m);
    vv_view_unref(vv_view_cell_replace(&cell, NULL));
}

#if defined(VV_ASAN) || defined(VV_TSAN)
enum { VIEWS = 4000 };
#else
enum { VIEWS = 40000 };
#endif
enum { READERS = 4, KEPT = 64 };

static vv_memtable *only_memtable;
/* Each view has one of its own, which says its number. The test holds them too, and so sees who else does. */
static vv_version *numbered[VIEWS];
static _Atomic uint32_t replaced; /* the newest number whose replacement has returned */
static _Atomic(vv_view *) handed_over[KEPT];
static _Atomic uint64_t taken;

static vv_view *make_numbered(uint32_t n) {
    numbered[n] = vv_version_create(NULL, 0);
    numbered[n]->table_count = n; /* nobody looks at tables here; reset before the version goes */
    vv_view *v = vv_view_create(only_memtable, NULL, 0, numbered[n]);
    cr_assert_not_null(v);
    return v;
}

/* Even threads are pinned to a core each, so that stripes differ; odd ones go where they like. Every other
 * reference is left to whoever comes next, who gives it back in another thread, later. */
static void *stress(void *arg) {
    int self = (int)(intptr_t)arg;
    uint32_t x = 2463534242u + (uint32_t)self;
    if (self % 2 == 0)
        (void)run_on_core(self / 2);
    while (!atomic_load(&stop)) {
        uint32_t floor = atomic_load(&replaced);
        vv_view *v = vv_view_cell_acquire(&shared);
        cr_assert(v->version->table_count >= floor, "a view older than one that was in place before");
        cr_assert_eq(v->active, only_memtable);
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        if (x & 1)
            v = atomic_exchange(&handed_over[(x >> 1) % KEPT], v);
        if (v)
            cr_assert_eq(v->active, only_memtable, "a view that is kept is gone");
        if (x & 256)
            vv_view_cell_release(&shared, v);
        else
            vv_view_unref(v);
        atomic_fetch_add_explicit(&taken, 1, memory_order_relaxed);
    }
    return NULL;
}

Test(view, every_count_comes_to_zero, .timeout = 120) {
    pthread_t readers[READERS];
    cr_assert(vv_ok(vv_memtable_create(VV_MEMTABLE_SKIPLIST, 1, &only_memtable)));
    vv_view_cell_init(&shared, make_numbered(0));
    for (int i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, stress, (void *)(intptr_t)i);
    for (uint32_t n = 1; n < VIEWS; n++) {
        vv_view_unref(vv_view_cell_replace(&shared, make_numbered(n)));
        atomic_store(&replaced, n);
        if (n % 64 == 0) /* on one core readers would hardly meet a replacement */
            sched_yield();
    }
    /* And each reader has been at it, however few cores there are. */
    while (atomic_load(&taken) < (uint64_t)READERS * 1000)
        sched_yield();
    atomic_store(&stop, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    for (int i = 0; i < KEPT; i++)
        vv_view_cell_release(&shared, atomic_load(&handed_over[i]));
    vv_view_unref(vv_view_cell_replace(&shared, NULL));
    for (uint32_t n = 0; n < VIEWS; n++) {
        cr_assert_eq(atomic_load(&numbered[n]->refs), 1, "view %u: %u holders", n,
                     atomic_load(&numbered[n]->refs) - 1);
        numbered[n]->table_count = 0;
        vv_version_unref(numbered[n]);
    }
    cr_assert_eq(atomic_load(&only_memtable->refs), 1);
    vv_memtable_unref(only_memtable);
}
