/*
 * One conformance suite for every memtable type: each test runs over all of them.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/mem/memtable.h"
#include "tests/support/tempdir.h"

static const vv_memtable_type types[] = {VV_MEMTABLE_SKIPLIST};

#define FOR_EACH_TYPE(type)                                                                                  \
    for (const vv_memtable_type *type = types; type < types + VV_ARRAY_COUNT(types); type++)

static vv_memtable *make(vv_memtable_type type) {
    vv_memtable *m;
    cr_assert(vv_ok(vv_memtable_create(type, 42, &m)));
    return m;
}

static void add(vv_memtable *m, vv_slice key, vv_slice value, uint64_t lsn, uint8_t kind) {
    cr_assert(vv_ok(vv_memtable_reserve(m, 1, key.bytes + value.bytes)));
    vv_entry e = {.key = key, .value = value, .lsn = lsn, .kind = kind, .expires_unix_ms = lsn * 3};
    vv_memtable_add(m, &e);
}

static void put(vv_memtable *m, const char *key, const char *value, uint64_t lsn) {
    add(m, vv_slice_str(key), vv_slice_str(value), lsn, VV_KIND_PUT);
}

static vv_iter *iterate(vv_memtable *m) {
    vv_iter *it;
    cr_assert(vv_ok(vv_memtable_iter_create(m, &it)));
    return it;
}

Test(memtable, is_empty_at_first) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        vv_entry e;
        cr_assert_not(vv_memtable_get(m, vv_slice_str("a"), VV_LSN_MAX, &e));
        vv_iter *it = iterate(m);
        vv_iter_seek_first(it);
        cr_assert_not(it->valid);
        cr_assert(vv_ok(it->status));
        vv_iter_seek(it, vv_slice_str(""), VV_LSN_MAX);
        cr_assert_not(it->valid);
        vv_iter_destroy(it);
        cr_assert_eq(vv_memtable_count(m), 0);
        cr_assert_eq(m->first_lsn, 0);
        vv_memtable_unref(m);
    }
}

Test(memtable, get_finds_the_newest_version_at_an_lsn) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        put(m, "k", "one", 10);
        put(m, "other", "x", 15);
        put(m, "k", "two", 20);
        add(m, vv_slice_str("k"), vv_slice_make(NULL, 0), 30, VV_KIND_DELETE);
        put(m, "k", "", 40);

        vv_entry e;
        cr_assert_not(vv_memtable_get(m, vv_slice_str("k"), 9, &e));
        cr_assert(vv_memtable_get(m, vv_slice_str("k"), 10, &e));
        cr_assert(vv_slice_equal(e.value, vv_slice_str("one")));
        cr_assert_eq(e.expires_unix_ms, 30);
        cr_assert(vv_memtable_get(m, vv_slice_str("k"), 29, &e));
        cr_assert(vv_slice_equal(e.value, vv_slice_str("two")));
        cr_assert_eq(e.lsn, 20);
        cr_assert(vv_memtable_get(m, vv_slice_str("k"), 39, &e));
        cr_assert_eq(e.kind, VV_KIND_DELETE);
        cr_assert(vv_memtable_get(m, vv_slice_str("k"), VV_LSN_MAX, &e));
        cr_assert_eq(e.kind, VV_KIND_PUT);
        cr_assert_eq(e.value.bytes, 0);
        cr_assert_not(vv_memtable_get(m, vv_slice_str("kk"), VV_LSN_MAX, &e));
        cr_assert_not(vv_memtable_get(m, vv_slice_str("othe"), VV_LSN_MAX, &e));
        cr_assert_eq(vv_memtable_count(m), 5);
        cr_assert_eq(m->first_lsn, 10);
        cr_assert_eq(m->last_lsn, 40);
        vv_memtable_unref(m);
    }
}

Test(memtable, holds_the_longest_key_and_a_large_value) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        size_t value_bytes = (size_t)5 << 20;
        char *bytes = malloc(value_bytes);
        memset(bytes, 'v', value_bytes);
        add(m, vv_slice_make(bytes, VV_KEY_BYTES_MAX), vv_slice_make(bytes, value_bytes), 1, VV_KIND_PUT);
        add(m, vv_slice_make(bytes, VV_KEY_BYTES_MAX - 1), vv_slice_make("s", 1), 2, VV_KIND_PUT);
        vv_entry e;
        cr_assert(vv_memtable_get(m, vv_slice_make(bytes, VV_KEY_BYTES_MAX), VV_LSN_MAX, &e));
        cr_assert(vv_slice_equal(e.value, vv_slice_make(bytes, value_bytes)));
        cr_assert(vv_memtable_get(m, vv_slice_make(bytes, VV_KEY_BYTES_MAX - 1), VV_LSN_MAX, &e));
        cr_assert_eq(e.lsn, 2);
        cr_assert_geq(vv_memtable_bytes(m), value_bytes);
        free(bytes);
        vv_memtable_unref(m);
    }
}

/* ---- against a sorted array ---- */

typedef struct pair {
    uint8_t key[24];
    size_t key_bytes;
    uint64_t lsn;
} pair;

static int compare_pairs(const void *a, const void *b) {
    const pair *x = a, *y = b;
    return vv_entry_compare(vv_slice_make(x->key, x->key_bytes), x->lsn, vv_slice_make(y->key, y->key_bytes),
                            y->lsn);
}

/* Few different bytes, zeros among them, around the length of the stored prefix: what a shortcut in the
 * comparison of keys gets wrong. */
static void random_key(uint64_t *seed, pair *p) {
    static const uint8_t alphabet[] = {0, 0, 1, 255};
    p->key_bytes = 1 + vv_test_random(seed) % 12;
    for (size_t i = 0; i < p->key_bytes; i++)
        p->key[i] = i < 6 ? 7 : alphabet[vv_test_random(seed) % 4];
}

static size_t lower_bound(const pair *pairs, size_t count, const pair *want) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (compare_pairs(&pairs[mid], want) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool is_pair(const vv_entry *e, const pair *p) {
    return e->lsn == p->lsn && vv_slice_equal(e->key, vv_slice_make(p->key, p->key_bytes)) &&
           e->value.bytes == 8 && memcmp(e->value.data, &p->lsn, 8) == 0;
}

Test(memtable, agrees_with_a_sorted_array) {
    enum { count = 5000 };
    uint64_t seed = vv_test_seed();
    pair *pairs = malloc(count * sizeof *pairs);
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        uint64_t lsn = 0;
        for (size_t i = 0; i < count; i++) {
            random_key(&seed, &pairs[i]);
            lsn += 1 + vv_test_random(&seed) % 3;
            pairs[i].lsn = lsn;
            add(m, vv_slice_make(pairs[i].key, pairs[i].key_bytes), vv_slice_make(&lsn, 8), lsn, VV_KIND_PUT);
        }
        qsort(pairs, count, sizeof *pairs, compare_pairs);

        vv_iter *it = iterate(m);
        vv_iter_seek_first(it);
        for (size_t i = 0; i < count; i++, vv_iter_next(it))
            cr_assert(it->valid && is_pair(&it->entry, &pairs[i]), "entry %zu", i);
        cr_assert_not(it->valid);

        for (size_t i = 0; i < count; i++) {
            pair want;
            random_key(&seed, &want);
            want.lsn = vv_test_random(&seed) % (lsn + 2);
            size_t at = lower_bound(pairs, count, &want);
            vv_slice key = vv_slice_make(want.key, want.key_bytes);
            vv_iter_seek(it, key, want.lsn);
            cr_assert_eq(it->valid, at < count);
            if (at < count)
                cr_assert(is_pair(&it->entry, &pairs[at]));
            vv_entry e;
            bool found = vv_memtable_get(m, key, want.lsn, &e);
            cr_assert_eq(found, at < count &&
                                    vv_slice_equal(key, vv_slice_make(pairs[at].key, pairs[at].key_bytes)));
            if (found)
                cr_assert(is_pair(&e, &pairs[at]));
        }
        vv_iter_destroy(it);
        vv_memtable_unref(m);
    }
    free(pairs);
}

/* ---- memory ---- */

Test(memtable, adding_what_was_reserved_allocates_nothing) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        uint64_t lsn = 0;
        for (uint64_t batch = 1; batch <= 4096; batch *= 4) {
            char value[100] = {0};
            cr_assert(vv_ok(vv_memtable_reserve(m, batch, batch * (8 + sizeof value))));
            vv_alloc_fail_at(1);
            uint64_t allocations = vv_alloc_count();
            for (uint64_t i = 0; i < batch; i++) {
                uint64_t key = ++lsn * UINT64_C(0x9E3779B97F4A7C15);
                vv_entry e = {.key = vv_slice_make(&key, 8),
                              .value = vv_slice_make(value, sizeof value),
                              .lsn = lsn,
                              .kind = VV_KIND_PUT};
                vv_memtable_add(m, &e);
            }
            cr_assert_eq(vv_alloc_count(), allocations);
            vv_alloc_fail_at(0);
        }
        vv_memtable_unref(m);
    }
}

Test(memtable, every_failed_allocation_is_reported) {
    FOR_EACH_TYPE(type) {
        bool done = false;
        for (uint64_t n = 1; !done; n++) {
            cr_assert_lt(n, 100);
            vv_alloc_fail_at(n);
            uint64_t last = vv_alloc_count() + n;
            vv_memtable *m;
            vv_iter *it = NULL;
            vv_status st = vv_memtable_create(*type, 1, &m);
            if (vv_ok(st))
                st = vv_memtable_reserve(m, 1000, 1 << 20);
            if (vv_ok(st))
                st = vv_memtable_iter_create(m, &it);
            done = vv_alloc_count() < last;
            cr_assert(done ? vv_ok(st) : vv_is(st, VV_NO_MEMORY));
            vv_alloc_fail_at(0);
            vv_iter_destroy(it);
            vv_memtable_unref(m);
        }
    }
}

Test(memtable, lsns_must_ascend, .signal = SIGABRT) {
    vv_memtable *m = make(types[0]);
    put(m, "a", "", 5);
    put(m, "b", "", 5);
}

/* ---- one writer, many readers ---- */

enum { RACE_KEYS = 500, RACE_ENTRIES = 20000, RACE_READERS = 3 };

typedef struct race {
    vv_memtable *m;
    _Atomic uint64_t published; /* release by the writer, acquire by the readers */
    _Atomic uint64_t failures;
} race;

static uint64_t race_key(uint64_t lsn) {
    return lsn % RACE_KEYS * UINT64_C(0x9E3779B97F4A7C15);
}

static void race_read(void *arg) {
    race *r = arg;
    uint64_t failures = 0;
    uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;
    vv_iter *it;
    if (!vv_ok(vv_memtable_iter_create(r->m, &it)))
        abort();
    uint64_t lsn = 0;
    while (lsn < RACE_ENTRIES) {
        lsn = atomic_load_explicit(&r->published, memory_order_acquire);
        if (lsn < RACE_KEYS)
            continue;
        for (int i = 0; i < 50; i++) {
            /* The version of a key at an LSN is the last multiple below it. */
            uint64_t at = RACE_KEYS + vv_test_random(&seed) % (lsn - RACE_KEYS + 1);
            uint64_t index = vv_test_random(&seed) % RACE_KEYS;
            uint64_t want = at - (at - index) % RACE_KEYS;
            if (want == 0)
                continue;
            uint64_t key = race_key(want);
            vv_entry e;
            bool found = vv_memtable_get(r->m, vv_slice_make(&key, 8), at, &e);
            failures += !found || e.lsn != want || memcmp(e.value.data, &want, 8) != 0;
        }
        vv_iter_seek_first(it);
        uint64_t seen = 0;
        vv_entry before = it->entry;
        for (; it->valid; vv_iter_next(it), seen++) {
            failures +=
                seen > 0 && vv_entry_compare(before.key, before.lsn, it->entry.key, it->entry.lsn) >= 0;
            failures += memcmp(it->entry.value.data, &it->entry.lsn, 8) != 0;
            before = it->entry;
        }
        failures += seen < lsn;
    }
    vv_iter_destroy(it);
    atomic_fetch_add(&r->failures, failures);
}

Test(memtable, readers_beside_the_writer_see_whole_entries_in_order) {
    FOR_EACH_TYPE(type) {
        race r = {.m = make(*type)};
        pthread_t readers[RACE_READERS];
        for (int i = 0; i < RACE_READERS; i++)
            cr_assert(vv_ok(vv_thread_start(&readers[i], "reader", race_read, &r)));
        for (uint64_t lsn = 1; lsn <= RACE_ENTRIES; lsn++) {
            uint64_t key = race_key(lsn);
            add(r.m, vv_slice_make(&key, 8), vv_slice_make(&lsn, 8), lsn, VV_KIND_PUT);
            atomic_store_explicit(&r.published, lsn, memory_order_release);
        }
        for (int i = 0; i < RACE_READERS; i++)
            vv_thread_join(readers[i]);
        cr_assert_eq(atomic_load(&r.failures), 0);
        vv_memtable_unref(r.m);
    }
}
