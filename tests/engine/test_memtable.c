/*
 * One conformance suite for every memtable type: each test runs over all of them.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/mem/memtable.h"
#include "tests/support/tempdir.h"

static const vv_memtable_type types[] = {VV_MEMTABLE_HASHMAP, VV_MEMTABLE_SKIPLIST, VV_MEMTABLE_BTREE};

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
        vv_iter_seek_last(it);
        cr_assert_not(it->valid);
        vv_iter_seek_back(it, vv_slice_str("zz"), 0);
        cr_assert_not(it->valid);
        cr_assert(vv_ok(it->status));
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
        put(m, "v", "shortest", 3);
        vv_entry e;
        cr_assert(vv_memtable_get(m, vv_slice_make(bytes, VV_KEY_BYTES_MAX), VV_LSN_MAX, &e));
        cr_assert(vv_slice_equal(e.value, vv_slice_make(bytes, value_bytes)));
        cr_assert(vv_memtable_get(m, vv_slice_make(bytes, VV_KEY_BYTES_MAX - 1), VV_LSN_MAX, &e));
        cr_assert_eq(e.lsn, 2);
        cr_assert(vv_memtable_get(m, vv_slice_str("v"), VV_LSN_MAX, &e));
        cr_assert_eq(e.lsn, 3);
        vv_iter *it = iterate(m);
        vv_iter_seek_last(it);
        cr_assert(it->valid && it->entry.lsn == 1);
        vv_iter_prev(it);
        cr_assert(it->valid && it->entry.lsn == 2);
        vv_iter_prev(it);
        cr_assert(it->valid && it->entry.lsn == 3);
        vv_iter_prev(it);
        cr_assert_not(it->valid);
        vv_iter_destroy(it);
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

/* What the seeks of an iterator should find: `at` is where `want` is or would be. */
static void check_seek(vv_iter *it, const pair *pairs, size_t count, size_t at) {
    cr_assert_eq(it->valid, at < count);
    if (at < count)
        cr_assert(is_pair(&it->entry, &pairs[at]), "entry %zu of %zu", at, count);
}

/* Random steps, with changes of direction; SIZE_MAX stands for the place before the first. */
static void check_walk(vv_iter *it, const pair *pairs, size_t count, size_t steps, uint64_t *seed) {
    size_t at = count;
    for (size_t i = 0; i < steps; i++) {
        pair want;
        random_key(seed, &want);
        want.lsn = vv_test_random(seed) % (3 * count);
        vv_slice key = vv_slice_make(want.key, want.key_bytes);
        uint64_t what = vv_test_random(seed) % 16;
        bool exact;
        switch (at < count ? what : what % 4) {
        case 0:
            vv_iter_seek_first(it);
            at = 0;
            break;
        case 1:
            vv_iter_seek_last(it);
            at = count - 1;
            break;
        case 2:
            if (what & 4 && count > 0) /* exactly there */
                want = pairs[vv_test_random(seed) % count];
            key = vv_slice_make(want.key, want.key_bytes);
            at = lower_bound(pairs, count, &want);
            vv_iter_seek(it, key, want.lsn);
            break;
        case 3:
            if (what & 4 && count > 0)
                want = pairs[vv_test_random(seed) % count];
            key = vv_slice_make(want.key, want.key_bytes);
            at = lower_bound(pairs, count, &want);
            exact = at < count && compare_pairs(&pairs[at], &want) == 0;
            at -= !exact;
            vv_iter_seek_back(it, key, want.lsn);
            break;
        default:
            if (what % 2) {
                vv_iter_next(it);
                at++;
            } else {
                vv_iter_prev(it);
                at--;
            }
        }
        check_seek(it, pairs, count, at);
    }
}

static void check_gets(vv_memtable *m, const pair *pairs, size_t count, size_t gets, uint64_t *seed) {
    for (size_t i = 0; i < gets; i++) {
        pair want;
        random_key(seed, &want);
        want.lsn = vv_test_random(seed) % (3 * count + 2);
        if (i % 2)
            memcpy(&want.key, pairs[vv_test_random(seed) % count].key, sizeof want.key);
        size_t at = lower_bound(pairs, count, &want);
        vv_slice key = vv_slice_make(want.key, want.key_bytes);
        vv_entry e;
        bool found = vv_memtable_get(m, key, want.lsn, &e);
        cr_assert_eq(found,
                     at < count && vv_slice_equal(key, vv_slice_make(pairs[at].key, pairs[at].key_bytes)));
        if (found)
            cr_assert(is_pair(&e, &pairs[at]));
    }
}

static void check_scan(vv_memtable *m, const pair *pairs, size_t count) {
    vv_iter *it = iterate(m);
    vv_iter_seek_first(it);
    for (size_t i = 0; i < count; i++, vv_iter_next(it))
        cr_assert(it->valid && is_pair(&it->entry, &pairs[i]), "entry %zu", i);
    cr_assert_not(it->valid);
    vv_iter_seek_last(it);
    for (size_t i = count; i-- > 0; vv_iter_prev(it))
        cr_assert(it->valid && is_pair(&it->entry, &pairs[i]), "entry %zu", i);
    cr_assert_not(it->valid);
    vv_iter_destroy(it);
}

typedef enum key_shape { SHAPE_RANDOM, SHAPE_ASCENDING, SHAPE_DESCENDING, SHAPE_ONE_KEY, SHAPES } key_shape;

static void shaped_key(key_shape shape, uint64_t *seed, size_t i, size_t count, pair *p) {
    if (shape == SHAPE_RANDOM) {
        random_key(seed, p);
        return;
    }
    uint32_t n = shape == SHAPE_ASCENDING    ? (uint32_t)i
                 : shape == SHAPE_DESCENDING ? (uint32_t)(count - i)
                                             : 7;
    n = __builtin_bswap32(n);
    memcpy(p->key, &n, 4);
    p->key_bytes = 4;
}

Test(memtable, agrees_with_a_sorted_array) {
    enum { count = 5000 };
    uint64_t seed = vv_test_seed();
    pair *pairs = malloc(count * sizeof *pairs);
    FOR_EACH_TYPE(type) {
        for (key_shape shape = 0; shape < SHAPES; shape++) {
            vv_memtable *m = make(*type);
            uint64_t lsn = 0;
            for (size_t i = 0; i < count; i++) {
                shaped_key(shape, &seed, i, count, &pairs[i]);
                lsn += 1 + vv_test_random(&seed) % 3;
                pairs[i].lsn = lsn;
                add(m, vv_slice_make(pairs[i].key, pairs[i].key_bytes), vv_slice_make(&lsn, 8), lsn,
                    VV_KIND_PUT);
            }
            qsort(pairs, count, sizeof *pairs, compare_pairs);
            check_scan(m, pairs, count);
            check_gets(m, pairs, count, count, &seed);
            vv_iter *it = iterate(m);
            check_walk(it, pairs, count, 4 * count, &seed);
            vv_iter_destroy(it);
            vv_memtable_unref(m);
        }
    }
    free(pairs);
}

Test(memtable, an_iterator_made_at_any_size_sees_all_there_is) {
    enum { count = 700 };
    uint64_t seed = vv_test_seed();
    pair pairs[count];
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        for (size_t i = 0; i < count; i++) {
            random_key(&seed, &pairs[i]);
            pairs[i].lsn = i + 1;
            add(m, vv_slice_make(pairs[i].key, pairs[i].key_bytes), vv_slice_make(&pairs[i].lsn, 8), i + 1,
                VV_KIND_PUT);
            qsort(pairs, i + 1, sizeof *pairs, compare_pairs);
            check_scan(m, pairs, i + 1);
        }
        vv_memtable_unref(m);
    }
}

Test(memtable, an_old_version_among_many_is_found) {
    enum { count = 3000 };
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        for (uint64_t lsn = 2; lsn <= 2 * count; lsn += 2) {
            add(m, vv_slice_str("before"), vv_slice_make(&lsn, 8), 2 * lsn, VV_KIND_PUT);
            add(m, vv_slice_str("counter"), vv_slice_make(&lsn, 8), 2 * lsn + 1, VV_KIND_PUT);
        }
        for (uint64_t lsn = 0; lsn <= 4 * count + 4; lsn++) {
            vv_entry e;
            bool found = vv_memtable_get(m, vv_slice_str("counter"), lsn, &e);
            cr_assert_eq(found, lsn >= 5);
            if (found)
                cr_assert_eq(e.lsn, VV_MIN((lsn - 1) / 4 * 4 + 1, (uint64_t)4 * count + 1));
        }
        vv_memtable_unref(m);
    }
}

/* ---- memory ---- */

static void put_reserved(vv_memtable *m, const char *key, uint64_t lsn) {
    vv_entry e = {.key = vv_slice_str(key), .lsn = lsn, .kind = VV_KIND_PUT};
    vv_memtable_add(m, &e);
}

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

Test(memtable, bytes_are_real_and_grow_with_what_is_added) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        static const char value[100];
        uint64_t before = vv_memtable_bytes(m), data = 0;
        cr_assert_leq(before, 256 << 10);
        for (uint64_t lsn = 1; lsn <= 30000; lsn++) {
            uint64_t key = lsn * UINT64_C(0x9E3779B97F4A7C15);
            add(m, vv_slice_make(&key, 8), vv_slice_make(value, sizeof value), lsn, VV_KIND_PUT);
            data += 8 + sizeof value;
            uint64_t bytes = vv_memtable_bytes(m);
            cr_assert_geq(bytes, before);
            cr_assert_geq(bytes, data);
            before = bytes;
        }
        cr_assert_leq(before, 3 * data);
        vv_iter *it = iterate(m);
        cr_assert_geq(vv_memtable_bytes(m), before);
        vv_iter *second = iterate(m);
        uint64_t bytes = vv_memtable_bytes(m);
        vv_iter_destroy(it);
        vv_iter_destroy(second);
        cr_assert_eq(vv_memtable_bytes(m), bytes, "the order is kept for the next iterator");
        vv_memtable_unref(m);
    }
}

Test(memtable, a_failed_reservation_leaves_all_as_it_was) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        uint64_t lsn = 0, failures = 0;
        for (uint64_t i = 0; i < 3000; i++) {
            uint64_t key = i * UINT64_C(0x9E3779B97F4A7C15);
            vv_entry e = {.key = vv_slice_make(&key, 8), .value = vv_slice_make(&i, 8), .kind = VV_KIND_PUT};
            for (uint64_t n = 1; n <= 3; n++) {
                vv_alloc_fail_at(n);
                vv_status st = vv_memtable_reserve(m, 1 + i % 50, (1 + i % 50) * 16);
                vv_alloc_fail_at(0);
                failures += !vv_ok(st);
                if (n == 1 && !vv_ok(st))
                    cr_assert(vv_ok(vv_memtable_reserve(m, 1, 16)));
            }
            e.lsn = ++lsn;
            vv_memtable_add(m, &e);
        }
        cr_assert_gt(failures, 0);
        vv_iter *it = iterate(m);
        uint64_t seen = 0;
        for (vv_iter_seek_first(it); it->valid; vv_iter_next(it))
            seen++;
        cr_assert_eq(seen, lsn);
        vv_iter_destroy(it);
        vv_memtable_unref(m);
    }
}

/* Or made do without: a skip list's index is no more than an index. */
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
                put_reserved(m, "k", 1);
            if (vv_ok(st))
                st = vv_memtable_iter_create(m, &it);
            done = vv_alloc_count() < last;
            vv_alloc_fail_at(0);
            bool spared = *type == VV_MEMTABLE_SKIPLIST && vv_ok(st);
            cr_assert(done ? vv_ok(st) : spared || vv_is(st, VV_NO_MEMORY));
            vv_entry e;
            cr_assert(!vv_ok(st) || vv_memtable_get(m, vv_slice_str("k"), VV_LSN_MAX, &e));
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

enum { RACE_ENTRIES = 20000, RACE_GROUP_MAX = 37, RACE_READERS = 3 };

typedef struct race {
    vv_memtable *m;
    uint64_t keys;              /* the version with LSN n is of key n modulo this */
    _Atomic uint64_t published; /* release by the writer, acquire by the readers */
    _Atomic uint64_t failures;
} race;

static uint64_t race_key(const race *r, uint64_t lsn) {
    return lsn % r->keys * UINT64_C(0x9E3779B97F4A7C15);
}

/* All entries up to `lsn` are seen once, in order. The number of failures. */
static uint64_t race_scan(vv_iter *it, uint64_t lsn, bool backwards) {
    uint64_t failures = 0, seen = 0, newer = 0;
    if (backwards)
        vv_iter_seek_last(it);
    else
        vv_iter_seek_first(it);
    vv_entry before = it->entry;
    while (it->valid) {
        int order =
            seen + newer == 0 ? -1 : vv_entry_compare(before.key, before.lsn, it->entry.key, it->entry.lsn);
        failures += seen + newer > 0 && (backwards ? order <= 0 : order >= 0);
        failures += memcmp(it->entry.value.data, &it->entry.lsn, 8) != 0;
        before = it->entry;
        *(before.lsn <= lsn ? &seen : &newer) += 1;
        if (backwards)
            vv_iter_prev(it);
        else
            vv_iter_next(it);
    }
    return failures + (seen != lsn);
}

static void race_read(void *arg) {
    race *r = arg;
    uint64_t failures = 0;
    uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;
    uint64_t lsn = 0;
    while (lsn < RACE_ENTRIES) {
        lsn = atomic_load_explicit(&r->published, memory_order_acquire);
        if (lsn == 0)
            continue;
        for (int i = 0; i < 50; i++) {
            uint64_t want = 1 + vv_test_random(&seed) % lsn;
            uint64_t at = want + vv_test_random(&seed) % VV_MIN(r->keys, lsn - want + 1);
            uint64_t key = race_key(r, want);
            vv_entry e;
            bool found = vv_memtable_get(r->m, vv_slice_make(&key, 8), at, &e);
            failures += !found || e.lsn != want || memcmp(e.value.data, &want, 8) != 0;
        }
        vv_iter *it;
        if (!vv_ok(vv_memtable_iter_create(r->m, &it)))
            abort();
        failures += race_scan(it, lsn, false) + race_scan(it, lsn, true);
        vv_iter_destroy(it);
    }
    atomic_fetch_add(&r->failures, failures);
}

/* Entries behind LSN `last`, one or some together. The last one's LSN. */
static uint64_t race_add(race *r, uint64_t last) {
    uint64_t keys[RACE_GROUP_MAX], values[RACE_GROUP_MAX];
    uint64_t count = VV_MIN(1 + last % RACE_GROUP_MAX, RACE_ENTRIES - last);
    vv_memtable_adder adder;
    vv_memtable_adder_init(&adder, r->m);
    cr_assert(vv_ok(vv_memtable_reserve(r->m, count, count * 16)));
    for (uint64_t i = 0; i < count; i++) {
        values[i] = last + 1 + i;
        keys[i] = race_key(r, values[i]);
        vv_entry e = {.key = vv_slice_make(&keys[i], 8),
                      .value = vv_slice_make(&values[i], 8),
                      .lsn = values[i],
                      .kind = VV_KIND_PUT};
        vv_memtable_adder_add(&adder, &e);
    }
    vv_memtable_adder_flush(&adder);
    return last + count;
}

static void run_race(vv_memtable_type type, uint64_t keys) {
    race r = {.m = make(type), .keys = keys};
    pthread_t readers[RACE_READERS];
    for (int i = 0; i < RACE_READERS; i++)
        cr_assert(vv_ok(vv_thread_start(&readers[i], "reader", race_read, &r)));
    for (uint64_t lsn = 0; lsn < RACE_ENTRIES;) {
        lsn = race_add(&r, lsn);
        atomic_store_explicit(&r.published, lsn, memory_order_release);
    }
    for (int i = 0; i < RACE_READERS; i++)
        vv_thread_join(readers[i]);
    cr_assert_eq(atomic_load(&r.failures), 0);
    vv_memtable_unref(r.m);
}

Test(memtable, readers_beside_the_writer_see_whole_entries_in_order) {
    FOR_EACH_TYPE(type) {
        run_race(*type, 1);
        run_race(*type, 500);
        run_race(*type, RACE_ENTRIES);
    }
}

/*
 * Where readers and the writer meet most: in small tables, whose few nodes and buckets split all the time, at
 * the keys that came last; descending ones come into the leaf that is about to split.
 */
enum { MEET_TABLES = 60, MEET_ENTRIES = 1500, MEET_READERS = 2 };

typedef struct meeting {
    vv_memtable *m;
    _Atomic uint32_t readers;
    _Atomic uint64_t published;
    _Atomic uint64_t failures;
} meeting;

static uint64_t meet_key(uint64_t lsn) {
    return __builtin_bswap64(UINT64_MAX - lsn);
}

static void meet_read(void *arg) {
    meeting *r = arg;
    uint64_t failures = 0, lsn = 0;
    uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;
    atomic_fetch_add(&r->readers, 1);
    while (lsn < MEET_ENTRIES) {
        lsn = atomic_load_explicit(&r->published, memory_order_acquire);
        if (lsn == 0)
            continue;
        uint64_t random = vv_test_random(&seed);
        uint64_t want = lsn - (random >> 8) % (random % 2 ? VV_MIN(lsn, (uint64_t)16) : lsn);
        uint64_t key = meet_key(want);
        vv_entry e;
        failures += !vv_memtable_get(r->m, vv_slice_make(&key, 8), VV_LSN_MAX, &e) || e.lsn != want;
    }
    atomic_fetch_add(&r->failures, failures);
}

Test(memtable, what_was_published_is_found_while_nodes_and_buckets_split) {
    FOR_EACH_TYPE(type) {
        for (int table = 0; table < MEET_TABLES; table++) {
            meeting r = {.m = make(*type)};
            pthread_t readers[MEET_READERS];
            for (int i = 0; i < MEET_READERS; i++)
                cr_assert(vv_ok(vv_thread_start(&readers[i], "reader", meet_read, &r)));
            while (atomic_load(&r.readers) < MEET_READERS)
                sched_yield();
            for (uint64_t lsn = 1; lsn <= MEET_ENTRIES; lsn++) {
                uint64_t key = meet_key(lsn);
                add(r.m, vv_slice_make(&key, 8), vv_slice_make(NULL, 0), lsn, VV_KIND_PUT);
                atomic_store_explicit(&r.published, lsn, memory_order_release);
            }
            for (int i = 0; i < MEET_READERS; i++)
                vv_thread_join(readers[i]);
            cr_assert_eq(atomic_load(&r.failures), 0);
            vv_memtable_unref(r.m);
        }
    }
}

/* ---- big reservations ---- */

Test(memtable, a_reservation_covers_the_worst_order_of_keys) {
    uint64_t seed = vv_test_seed();
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        uint64_t lsn = 0;
        for (uint64_t round = 0; round < 300; round++) {
            uint64_t count = 1 + vv_test_random(&seed) % 400;
            cr_assert(vv_ok(vv_memtable_reserve(m, count, count * 8)));
            vv_alloc_fail_at(1);
            uint64_t allocations = vv_alloc_count();
            uint64_t stride = UINT64_MAX / count;
            uint64_t dense = vv_test_random(&seed) % 3;
            for (uint64_t i = 0; i < count; i++) {
                /* Spread evenly, so that every node takes its share; in one place; or ascending. */
                uint64_t key = dense == 0   ? i * stride + round
                               : dense == 1 ? round << 40 | i << 8
                                            : ++lsn << 1;
                key = __builtin_bswap64(key);
                vv_entry e = {.key = vv_slice_make(&key, 8), .lsn = ++lsn, .kind = VV_KIND_PUT};
                vv_memtable_add(m, &e);
            }
            cr_assert_eq(vv_alloc_count(), allocations);
            vv_alloc_fail_at(0);
        }
        vv_memtable_unref(m);
    }
}
