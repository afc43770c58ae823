/*
 * The index beside an ordered memtable: what it finds, what it may leave out, and its growth beside readers.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/sync.h"
#include "engine/mem/mem_index.h"

enum { KEYS = 20000, VERSIONS = 3 };

static vv_arena *arena, *records;
static vv_mem_index idx;

static void init(void) {
    cr_assert(vv_ok(vv_arena_create(&arena)));
    cr_assert(vv_ok(vv_arena_create(&records)));
    vv_mem_index_init(&idx, arena);
}

static void fini(void) {
    vv_arena_destroy(arena);
    vv_arena_destroy(records);
}

TestSuite(mem_index, .init = init, .fini = fini, .timeout = 120);

static const vv_mem_record *make_record(uint64_t key, uint64_t lsn) {
    vv_entry e = {.key = vv_slice_make(&key, sizeof key), .lsn = lsn};
    vv_mem_record *r;
    cr_assert(vv_ok(vv_arena_reserve(records, sizeof *r + sizeof key)));
    r = vv_arena_alloc(records, sizeof *r + sizeof key);
    vv_mem_record_fill(r, &e);
    return r;
}

static uint64_t hash_of(uint64_t key) {
    return vv_hash_key(&key, sizeof key);
}

static vv_mem_index_answer find(uint64_t key, uint64_t hash, const vv_mem_record **out) {
    vv_mem_target t = vv_mem_target_make(vv_slice_make(&key, sizeof key), VV_LSN_MAX);
    return vv_mem_index_find(&idx, hash, &t, out);
}

static void put(uint64_t key, uint64_t hash, const vv_mem_record *r) {
    vv_mem_index_reserve(&idx, 1);
    vv_mem_index_put(&idx, hash, r);
    const vv_mem_record *found;
    cr_assert_eq(find(key, hash, &found), VV_MEM_INDEX_FOUND);
    cr_assert_eq(found, r);
}

Test(mem_index, finds_the_newest_version_of_each_key_and_no_other) {
    const vv_mem_record **newest = calloc(KEYS, sizeof *newest), *found;
    uint64_t lsn = 1;
    for (int version = 0; version < VERSIONS; version++) {
        for (uint64_t key = 0; key < KEYS; key++) {
            const vv_mem_record *r = make_record(key, lsn++);
            put(key, hash_of(key), r);
            newest[key] = r;
            cr_assert_eq(find(key + KEYS, hash_of(key + KEYS), &found), VV_MEM_INDEX_ABSENT);
        }
        for (uint64_t key = 0; key < KEYS; key++) {
            cr_assert_eq(find(key, hash_of(key), &found), VV_MEM_INDEX_FOUND);
            cr_assert_eq(found, newest[key]);
        }
    }
    free(newest);
    /* A line for four to eight keys, and a fifth of them again behind others. */
    uint64_t chunk_bytes = 1 << 20; /* the arena's last, which may be empty */
    cr_assert_leq(vv_arena_bytes(arena), (uint64_t)KEYS * 24 + chunk_bytes);
}

Test(mem_index, tells_keys_with_one_hash_apart) {
    enum { COUNT = 300 };
    const vv_mem_record *same[COUNT], *found;
    for (uint64_t key = 0; key < COUNT; key++)
        put(key, 4711, same[key] = make_record(key, key + 1));
    /* The bucket is split around it all the same. */
    for (uint64_t key = COUNT; key < KEYS; key++)
        put(key, hash_of(key), make_record(key, key + 1));
    for (uint64_t key = 0; key < COUNT; key++) {
        cr_assert_eq(find(key, 4711, &found), VV_MEM_INDEX_FOUND);
        cr_assert_eq(found, same[key]);
    }
    cr_assert_eq(find(COUNT, 4711, &found), VV_MEM_INDEX_ABSENT);
}

Test(mem_index, is_as_good_when_it_is_loaded) {
    const vv_mem_record *found;
    vv_mem_index_load_begin(&idx, KEYS);
    for (uint64_t key = 0; key < KEYS; key++)
        vv_mem_index_put(&idx, hash_of(key), make_record(key, key + 1));
    for (uint64_t key = 0; key < KEYS; key++) {
        cr_assert_eq(find(key, hash_of(key), &found), VV_MEM_INDEX_FOUND);
        cr_assert_eq(found->lsn, key + 1);
        cr_assert_eq(find(key + KEYS, hash_of(key + KEYS), &found), VV_MEM_INDEX_ABSENT);
    }
}

/* No memory from some moment on: what it knows stays right, and of what it does not know it says so. */
Test(mem_index, without_memory_it_says_that_it_does_not_know) {
    const vv_mem_record *found;
    uint64_t unknown = 0;
    for (uint64_t key = 0; key < KEYS; key++) {
        if (key < 1000)
            vv_mem_index_reserve(&idx, 1);
        vv_mem_index_put(&idx, hash_of(key), make_record(key, key + 1));
    }
    for (uint64_t key = 0; key < KEYS; key++) {
        vv_mem_index_answer answer = find(key, hash_of(key), &found);
        cr_assert(answer == VV_MEM_INDEX_UNKNOWN || (answer == VV_MEM_INDEX_FOUND && found->lsn == key + 1));
        unknown += answer == VV_MEM_INDEX_UNKNOWN;
    }
    cr_assert_gt(unknown, (uint64_t)KEYS / 2);
    /* A newer version of either kind. */
    for (uint64_t key = 0; key < KEYS; key++) {
        vv_mem_index_put(&idx, hash_of(key), make_record(key, KEYS + key + 1));
        vv_mem_index_answer answer = find(key, hash_of(key), &found);
        cr_assert(answer == VV_MEM_INDEX_UNKNOWN ||
                  (answer == VV_MEM_INDEX_FOUND && found->lsn == KEYS + key + 1));
    }
}

Test(mem_index, that_never_got_memory_knows_nothing) {
    const vv_mem_record *found;
    vv_alloc_fail_at(1);
    vv_mem_index_init(&idx, arena);
    vv_alloc_fail_at(0);
    vv_mem_index_reserve(&idx, 10);
    vv_mem_index_prefetch(&idx, 1);
    vv_mem_index_put(&idx, 1, make_record(1, 1));
    cr_assert_eq(find(1, 1, &found), VV_MEM_INDEX_UNKNOWN);
}

/* ---- beside readers ---- */

static const vv_mem_record *raced[KEYS];
static _Atomic uint64_t published, failures;

static void race_reader(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (uint64_t count = 0; count < KEYS;) {
        count = atomic_load_explicit(&published, memory_order_acquire);
        for (int i = 0; i < 20 && count > 0; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
            /* The newest ones most often: their buckets are the fullest. */
            uint64_t key = count - 1 - (seed >> 33) % (i % 2 ? count : VV_MIN(count, (uint64_t)64));
            const vv_mem_record *found;
            if (find(key, hash_of(key), &found) != VV_MEM_INDEX_FOUND || found != raced[key])
                atomic_fetch_add(&failures, 1);
        }
    }
}

Test(mem_index, readers_miss_nothing_while_it_grows) {
    pthread_t threads[2];
    for (size_t i = 0; i < VV_ARRAY_COUNT(threads); i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "reader", race_reader, (void *)(i + 1))));
    for (uint64_t key = 0; key < KEYS; key++) {
        raced[key] = make_record(key, key + 1);
        vv_mem_index_reserve(&idx, 1);
        vv_mem_index_put(&idx, hash_of(key), raced[key]);
        atomic_store_explicit(&published, key + 1, memory_order_release);
    }
    for (size_t i = 0; i < VV_ARRAY_COUNT(threads); i++)
        vv_thread_join(threads[i]);
    cr_assert_eq(failures, 0);
}
