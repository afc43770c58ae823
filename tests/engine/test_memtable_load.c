/*
 * Loading, and the sort behind it and behind the hash map's iterator: each test runs over all memtable types.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/mem/mem_impl.h"
#include "tests/support/tempdir.h"

static const vv_memtable_type types[] = {VV_MEMTABLE_HASHMAP, VV_MEMTABLE_SKIPLIST, VV_MEMTABLE_BTREE};

#define FOR_EACH_TYPE(type)                                                                                  \
    for (const vv_memtable_type *type = types; type < types + VV_ARRAY_COUNT(types); type++)

#define KEY_BYTES 160
#define COUNT     16000

typedef struct item {
    uint8_t key[KEY_BYTES];
    size_t key_bytes;
    uint64_t lsn;
} item;

static item items[COUNT];

static int compare_items(const void *a, const void *b) {
    const item *x = a, *y = b;
    return vv_entry_compare(vv_slice_make(x->key, x->key_bytes), x->lsn, vv_slice_make(y->key, y->key_bytes),
                            y->lsn);
}

/* ---- keys that sorting by eight bytes at a time may get wrong ---- */

typedef void (*shape_fn)(uint64_t *seed, size_t i, item *out);

/* As they come, of all lengths. */
static void shape_random(uint64_t *seed, size_t i, item *out) {
    (void)i;
    out->key_bytes = 1 + vv_test_random(seed) % 24;
    for (size_t at = 0; at < out->key_bytes; at++)
        out->key[at] = (uint8_t)vv_test_random(seed);
}

/* Ends among zeros, which look like the padding of a shorter key. */
static void shape_padded(uint64_t *seed, size_t i, item *out) {
    (void)i;
    memset(out->key, 0, KEY_BYTES);
    out->key_bytes = 1 + vv_test_random(seed) % 40;
    if (vv_test_random(seed) % 2)
        out->key[vv_test_random(seed) % out->key_bytes] = (uint8_t)(vv_test_random(seed) % 3);
}

/* All begin alike, and the difference may be in any later byte. */
static void shape_alike(uint64_t *seed, size_t i, item *out) {
    (void)i;
    memset(out->key, 'a', KEY_BYTES);
    out->key_bytes = 21 + vv_test_random(seed) % (KEY_BYTES - 20);
    out->key[20 + vv_test_random(seed) % (out->key_bytes - 20)] = (uint8_t)vv_test_random(seed);
}

/* Each word of eight bytes splits off a few only: deeper than radix goes. */
static void shape_deep(uint64_t *seed, size_t i, item *out) {
    (void)i;
    out->key_bytes = KEY_BYTES;
    for (size_t at = 0; at < KEY_BYTES; at++)
        out->key[at] = at % 8 == 7 && vv_test_random(seed) % 16 == 0 ? 'x' : 'w';
}

/* Few keys with many versions each. */
static void shape_versions(uint64_t *seed, size_t i, item *out) {
    (void)i;
    out->key_bytes =
        (size_t)snprintf((char *)out->key, KEY_BYTES, "the same key %d", (int)(vv_test_random(seed) % 5));
}

static void shape_ascending(uint64_t *seed, size_t i, item *out) {
    (void)seed;
    out->key_bytes = (size_t)snprintf((char *)out->key, KEY_BYTES, "key %08zu", i);
}

static void shape_descending(uint64_t *seed, size_t i, item *out) {
    shape_ascending(seed, COUNT - i, out);
}

static const shape_fn shapes[] = {shape_random,   shape_padded,    shape_alike,     shape_deep,
                                  shape_versions, shape_ascending, shape_descending};

/* ---- loading ---- */

static vv_memtable *make(vv_memtable_type type) {
    vv_memtable *m;
    cr_assert(vv_ok(vv_memtable_create(type, 42, &m)));
    return m;
}

static vv_entry entry_of(const item *it) {
    return (vv_entry){.key = vv_slice_make(it->key, it->key_bytes),
                      .value = vv_slice_make(&it->lsn, 8),
                      .lsn = it->lsn,
                      .expires_unix_ms = it->lsn * 3,
                      .kind = VV_KIND_PUT};
}

static void make_items(shape_fn shape, size_t count, uint64_t *seed) {
    uint64_t lsn = 0;
    for (size_t i = 0; i < count; i++) {
        lsn += 1 + vv_test_random(seed) % 3;
        items[i].lsn = lsn;
        shape(seed, i, &items[i]);
    }
}

/* `loaded` of them by loading, the others in groups of up to group_max. */
static void fill(vv_memtable *m, shape_fn shape, size_t count, size_t loaded, size_t group_max,
                 uint64_t *seed) {
    make_items(shape, count, seed);
    for (size_t i = 0; i < loaded; i++) {
        vv_entry e = entry_of(&items[i]);
        cr_assert(vv_ok(vv_memtable_load(m, &e)));
    }
    cr_assert(vv_ok(vv_memtable_load_end(m)));
    for (size_t i = loaded; i < count;) {
        size_t most = 1 + vv_test_random(seed) % group_max, group = VV_MIN(most, count - i);
        cr_assert(vv_ok(vv_memtable_reserve(m, group, group * (KEY_BYTES + 8))));
        vv_memtable_adder adder;
        vv_memtable_adder_init(&adder, m);
        for (size_t end = i + group; i < end; i++) {
            vv_entry e = entry_of(&items[i]);
            vv_memtable_adder_add(&adder, &e);
        }
        vv_memtable_adder_flush(&adder);
    }
}

static void check(vv_memtable *m, size_t count) {
    vv_iter *it;
    qsort(items, count, sizeof *items, compare_items);
    cr_assert_eq(vv_memtable_count(m), count);
    cr_assert(strcmp(m->ops->name, "skiplist") != 0 || vv_skiplist_is_sound(m));
    cr_assert(vv_ok(vv_memtable_iter_create(m, &it)));
    vv_iter_seek_first(it);
    for (size_t i = 0; i < count; i++, vv_iter_next(it)) {
        vv_entry want = entry_of(&items[i]);
        cr_assert(it->valid);
        cr_assert(vv_slice_equal(it->entry.key, want.key) && it->entry.lsn == want.lsn, "%s: entry %zu",
                  m->ops->name, i);
        cr_assert(vv_slice_equal(it->entry.value, want.value));
        cr_assert_eq(it->entry.expires_unix_ms, want.expires_unix_ms);
        vv_entry e;
        cr_assert(vv_memtable_get(m, want.key, want.lsn, &e), "%s: entry %zu", m->ops->name, i);
        cr_assert_eq(e.lsn, want.lsn);
    }
    cr_assert_not(it->valid);
    for (size_t i = 0; i < count; i += 7) {
        vv_iter_seek(it, vv_slice_make(items[i].key, items[i].key_bytes), items[i].lsn);
        cr_assert(it->valid && it->entry.lsn == items[i].lsn, "%s: entry %zu", m->ops->name, i);
    }
    vv_iter_destroy(it);
}

Test(memtable_load, what_is_loaded_is_in_order_and_can_be_added_to) {
    static const size_t counts[] = {1, 2, 17, 255, 256, 257, COUNT};
    uint64_t seed = vv_test_seed();
    FOR_EACH_TYPE(type) {
        for (size_t s = 0; s < VV_ARRAY_COUNT(shapes); s++) {
            for (size_t c = 0; c < VV_ARRAY_COUNT(counts); c++) {
                size_t loaded[] = {counts[c], counts[c] / 2};
                for (size_t l = 0; l < VV_ARRAY_COUNT(loaded); l++) {
                    vv_memtable *m = make(*type);
                    fill(m, shapes[s], counts[c], loaded[l], 1, &seed);
                    check(m, counts[c]);
                    vv_memtable_unref(m);
                }
            }
        }
    }
}

Test(memtable_load, groups_are_in_order_as_single_entries_are) {
    static const size_t group_max[] = {2, 2 * VV_MEMTABLE_TOGETHER + 1, 200};
    uint64_t seed = vv_test_seed();
    FOR_EACH_TYPE(type) {
        for (size_t s = 0; s < VV_ARRAY_COUNT(shapes); s++) {
            for (size_t g = 0; g < VV_ARRAY_COUNT(group_max); g++) {
                vv_memtable *m = make(*type);
                fill(m, shapes[s], COUNT, 0, group_max[g], &seed);
                check(m, COUNT);
                vv_memtable_unref(m);
            }
        }
    }
}

Test(memtable_load, of_nothing_is_an_empty_memtable) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        cr_assert(vv_ok(vv_memtable_load_end(m)));
        uint64_t seed = 1;
        fill(m, shape_random, 10, 0, 1, &seed);
        check(m, 10);
        vv_memtable_unref(m);
    }
}

Test(memtable_load, bytes_grow_with_what_is_loaded) {
    FOR_EACH_TYPE(type) {
        vv_memtable *m = make(*type);
        static const uint8_t value[1000];
        for (uint64_t lsn = 1; lsn <= 1000; lsn++) {
            vv_entry e = {.key = vv_slice_make(&lsn, 8),
                          .value = vv_slice_make(value, sizeof value),
                          .lsn = lsn,
                          .kind = VV_KIND_PUT};
            cr_assert(vv_ok(vv_memtable_load(m, &e)));
            cr_assert_geq(vv_memtable_bytes(m), lsn * sizeof value);
        }
        vv_memtable_unref(m); /* in the midst of it */
    }
}

Test(memtable_load, every_failed_allocation_is_reported) {
    FOR_EACH_TYPE(type) {
        bool done = false;
        for (uint64_t n = 1; !done; n++) {
            cr_assert_lt(n, 300);
            vv_memtable *m = make(*type);
            vv_status st = VV_STATUS_OK;
            vv_alloc_fail_at(n);
            uint64_t last = vv_alloc_count() + n;
            for (uint64_t lsn = 1; lsn <= 5000 && vv_ok(st); lsn++) {
                vv_entry e = {.key = vv_slice_make(&lsn, 8), .lsn = lsn, .kind = VV_KIND_PUT};
                st = vv_memtable_load(m, &e);
            }
            if (vv_ok(st))
                st = vv_memtable_load_end(m);
            done = vv_alloc_count() < last;
            cr_assert(done ? vv_ok(st) : vv_is(st, VV_NO_MEMORY));
            vv_alloc_fail_at(0);
            vv_memtable_unref(m);
        }
    }
}

Test(memtable_load, lsns_must_ascend, .signal = SIGABRT) {
    vv_memtable *m = make(VV_MEMTABLE_SKIPLIST);
    vv_entry e = {.key = vv_slice_str("a"), .lsn = 5, .kind = VV_KIND_PUT};
    cr_assert(vv_ok(vv_memtable_load(m, &e)));
    vv_status_ignore(vv_memtable_load(m, &e), "aborts");
}
