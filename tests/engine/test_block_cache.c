#include <inttypes.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/sync.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"
#include "tests/engine/sst_fixture.h"

enum { BLOCK = 4096 };

static vv_block_cache *make(uint64_t bytes) {
    vv_block_cache *c;
    cr_assert(vv_ok(vv_block_cache_create(bytes, &c)));
    return c;
}

/* Every word of a block says whose it is. */
static uint64_t word_of(uint64_t file_number, uint64_t offset) {
    return file_number * 1000003 + offset;
}

static bool is_right(const vv_block *b, uint64_t file_number, uint64_t offset) {
    const uint64_t *words = b->data;
    return b->file_number == file_number && b->offset == offset && words[0] == word_of(file_number, offset) &&
           words[b->bytes / 8 - 1] == words[0];
}

static vv_block *fill(vv_block_cache *c, uint64_t file_number, uint64_t offset, uint32_t bytes) {
    vv_block *b =
        vv_block_cache_allocate(c, file_number, (vv_block_handle){.offset = offset, .bytes = bytes});
    if (!b)
        abort();
    uint64_t *words = b->data;
    for (uint32_t i = 0; i < bytes / 8; i++)
        words[i] = word_of(file_number, offset);
    return b;
}

static void insert(vv_block_cache *c, uint64_t file_number, uint64_t offset, uint32_t bytes) {
    vv_block_cache_release(c, vv_block_cache_insert(c, fill(c, file_number, offset, bytes)));
}

static bool holds(vv_block_cache *c, uint64_t file_number, uint64_t offset) {
    vv_block *b = vv_block_cache_lookup(c, file_number, offset);
    if (!b)
        return false;
    cr_assert(is_right(b, file_number, offset));
    vv_block_cache_release(c, b);
    return true;
}

static uint64_t bytes_of(vv_block_cache *c) {
    vv_block_cache_stats s;
    vv_block_cache_stats_get(c, &s);
    return s.bytes;
}

Test(block_cache, finds_what_was_inserted) {
    vv_block_cache *c = make(1 << 20);
    cr_assert_null(vv_block_cache_lookup(c, 1, 0));
    vv_block *b = vv_block_cache_insert(c, fill(c, 1, 0, BLOCK));
    cr_assert_eq((uintptr_t)b->data % VV_IO_ALIGN_BYTES, 0);
    cr_assert_eq(vv_block_cache_lookup(c, 1, 0), b);
    vv_block_cache_release(c, b);
    vv_block_cache_release(c, b);
    cr_assert(holds(c, 1, 0));
    cr_assert_not(holds(c, 2, 0));
    cr_assert_not(holds(c, 1, BLOCK));
    vv_block_cache_stats s;
    vv_block_cache_stats_get(c, &s);
    cr_assert_eq(s.hits, 2);
    cr_assert_eq(s.misses, 3);
    cr_assert_gt(s.bytes, BLOCK, "its frame counts");
    vv_block_cache_destroy(c);
}

Test(block_cache, the_first_of_two_inserts_wins) {
    vv_block_cache *c = make(1 << 20);
    vv_block *mine = fill(c, 1, 0, BLOCK);
    vv_block *theirs = vv_block_cache_insert(c, fill(c, 1, 0, BLOCK));
    cr_assert_eq(vv_block_cache_insert(c, mine), theirs);
    vv_block_cache_release(c, theirs);
    vv_block_cache_release(c, theirs);
    vv_block_cache_destroy(c);
}

Test(block_cache, never_passes_its_bound) {
    uint64_t seed = vv_test_seed();
    static const uint64_t capacities[] = {0, 10000, 100000, 1 << 20, 20 << 20};
    for (size_t i = 0; i < VV_ARRAY_COUNT(capacities); i++) {
        vv_block_cache *c = make(capacities[i]);
        for (int n = 0; n < 8000; n++) {
            uint64_t offset = vv_test_random(&seed) % 10000 * BLOCK;
            uint32_t bytes = BLOCK * (uint32_t)(1 + vv_test_random(&seed) % (n % 50 == 0 ? 30 : 2));
            if (!holds(c, 1, offset))
                insert(c, 1, offset, bytes);
            cr_assert_leq(bytes_of(c), capacities[i]);
        }
        if (capacities[i] >= 100000)
            cr_assert_geq(bytes_of(c), capacities[i] / 2, "it is used");
        vv_block_cache_destroy(c);
    }
}

Test(block_cache, evicts_first_what_was_read_once) {
    vv_block_cache *c = make(20 * 4400); /* some twenty blocks, one shard */
    for (uint64_t i = 0; i < 5; i++) {
        insert(c, 1, i * BLOCK, BLOCK);
        for (int n = 0; n < 2; n++)
            cr_assert(holds(c, 1, i * BLOCK));
    }
    for (uint64_t i = 5; i < 300; i++)
        insert(c, 1, i * BLOCK, BLOCK);
    for (uint64_t i = 0; i < 5; i++)
        cr_assert(holds(c, 1, i * BLOCK), "used thrice");
    cr_assert_not(holds(c, 1, 100 * BLOCK));
    cr_assert(holds(c, 1, 299 * BLOCK));
    vv_block_cache_destroy(c);
}

Test(block_cache, what_is_used_no_more_makes_room_in_the_end) {
    vv_block_cache *c = make(100 * 4400);
    for (uint64_t n = 0; n < 20000; n++) {
        uint64_t offset = (n / 4000 * 80 + n % 80) * BLOCK; /* five times another hot set */
        if (!holds(c, 1, offset))
            insert(c, 1, offset, BLOCK);
    }
    for (uint64_t i = 0; i < 80; i++)
        cr_assert(holds(c, 1, (4 * 80 + i) * BLOCK));
    vv_block_cache_destroy(c);
}

/* The hit rate of `reads` random reads of the hot set, each a quarter of a table; what misses is brought. */
static double hit_rate(vv_block_cache *c, uint64_t hot, int reads, uint64_t *seed) {
    int hits = 0;
    for (int n = 0; n < reads; n++) {
        /* The sum of two: some blocks are hotter than others. */
        uint64_t offset = (vv_test_random(seed) % hot + vv_test_random(seed) % hot) / 2 * BLOCK;
        if (holds(c, 1, offset))
            hits++;
        else
            insert(c, 1, offset, BLOCK);
    }
    return (double)hits / reads;
}

Test(block_cache, a_scan_of_everything_leaves_the_hot_set_in) {
    uint64_t seed = vv_test_seed();
    vv_block_cache *c = make(8 << 20); /* about 1900 blocks */
    static const uint64_t hot_sets[] = {500, 1500, 2500};
    for (size_t i = 0; i < VV_ARRAY_COUNT(hot_sets); i++) {
        uint64_t hot = hot_sets[i];
        hit_rate(c, hot, 30000, &seed);
        double before = hit_rate(c, hot, 20000, &seed);
        for (uint64_t n = 0; n < 20000; n++) { /* ten times the cache, the hot set's table included */
            if (!holds(c, 1 + n % 2, n / 2 * BLOCK))
                insert(c, 1 + n % 2, n / 2 * BLOCK, BLOCK);
        }
        double after = hit_rate(c, hot, 2000, &seed);
        fprintf(stderr, "%d hot blocks: %.3f of reads hit, after a scan %.3f\n", (int)hot, before, after);
        cr_assert_gt(after, 0.9 * before);
    }
    vv_block_cache_destroy(c);
}

Test(block_cache, only_what_is_held_passes_the_bound) {
    enum { capacity = 100000, count = 40 };
    vv_block_cache *c = make(capacity);
    vv_block *blocks[count];
    for (uint64_t i = 0; i < 100; i++)
        insert(c, 2, i * BLOCK, BLOCK);
    for (uint64_t i = 0; i < count; i++) {
        blocks[i] = fill(c, 1, i * BLOCK, BLOCK);
        if (i < 20)
            cr_assert_leq(bytes_of(c), capacity, "others went first");
        if (i % 2)
            blocks[i] = vv_block_cache_insert(c, blocks[i]); /* half pinned, half on their way */
    }
    cr_assert_geq(bytes_of(c), (uint64_t)count * BLOCK, "what is held counts");
    cr_assert_lt(bytes_of(c), (uint64_t)count * (BLOCK + 512), "and nothing else is there");
    for (uint64_t i = 0; i < count; i++) {
        cr_assert(is_right(blocks[i], 1, i * BLOCK));
        if (i % 2)
            vv_block_cache_release(c, blocks[i]);
        else if (i % 4)
            vv_block_cache_discard(c, blocks[i]);
        else
            vv_block_cache_release(c, vv_block_cache_insert(c, blocks[i]));
    }
    cr_assert_leq(bytes_of(c), capacity);
    cr_assert_geq(bytes_of(c), capacity / 2);
    vv_block_cache_destroy(c);
}

Test(block_cache, one_huge_block_does_not_empty_a_shard) {
    vv_block_cache *c = make(1 << 20);
    for (uint64_t i = 0; i < 200; i++)
        insert(c, 1, i * BLOCK, BLOCK);
    uint64_t before = bytes_of(c);
    vv_block *b = vv_block_cache_insert(c, fill(c, 2, 0, 4 << 20));
    cr_assert_geq(bytes_of(c), before + (4 << 20), "it counts");
    cr_assert_eq(vv_block_cache_lookup(c, 2, 0), NULL);
    vv_block_cache_release(c, b);
    cr_assert_eq(bytes_of(c), before);
    for (uint64_t i = 0; i < 200; i++)
        cr_assert(holds(c, 1, i * BLOCK));
    vv_block_cache_destroy(c);
}

Test(block_cache, erasing_a_file_spares_the_others_and_what_is_pinned) {
    vv_block_cache *c = make(20 << 20);
    for (uint64_t i = 0; i < 500; i++) {
        insert(c, 1, i * BLOCK, BLOCK);
        insert(c, 2, i * BLOCK, BLOCK);
    }
    vv_block *b = vv_block_cache_lookup(c, 1, 0);
    uint64_t before = bytes_of(c);
    vv_block_cache_erase_file(c, 1);
    cr_assert_eq(bytes_of(c), before / 2 + before / 1000, "the pinned one still counts");
    for (uint64_t i = 0; i < 500; i++) {
        cr_assert_not(holds(c, 1, i * BLOCK));
        cr_assert(holds(c, 2, i * BLOCK));
    }
    cr_assert(is_right(b, 1, 0));
    vv_block_cache_release(c, b);
    cr_assert_eq(bytes_of(c), before / 2);
    vv_block_cache_destroy(c);
}

Test(block_cache, every_failed_allocation_is_reported) {
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        cr_assert_lt(n, 100);
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        vv_block_cache *c;
        vv_status st = vv_block_cache_create(64 << 20, &c);
        vv_block *b = NULL;
        if (vv_ok(st))
            b = vv_block_cache_allocate(c, 1, (vv_block_handle){.offset = 0, .bytes = BLOCK});
        done = vv_alloc_count() < last;
        cr_assert_eq(b != NULL, done);
        vv_alloc_fail_at(0);
        if (b)
            vv_block_cache_discard(c, b);
        vv_block_cache_destroy(c);
    }
}

/* ---- another capacity ---- */

/* Bring blocks of file 1, without those that are there already, and say how many are there at the end. */
static uint64_t bring(vv_block_cache *c, uint64_t count) {
    uint64_t there = 0;
    for (uint64_t i = 0; i < count; i++)
        if (!holds(c, 1, i * BLOCK))
            insert(c, 1, i * BLOCK, BLOCK);
    for (uint64_t i = 0; i < count; i++)
        there += holds(c, 1, i * BLOCK);
    return there;
}

Test(block_cache, another_capacity_holds_as_much_as_if_it_had_been_the_first) {
    static const uint64_t capacities[] = {8 << 20, 1 << 20, 32 << 20, 0, 300000, 16 << 20};
    vv_block_cache *c = make(4 << 20);
    for (size_t i = 0; i < VV_ARRAY_COUNT(capacities); i++) {
        vv_block_cache *other = make(capacities[i]);
        cr_assert(vv_ok(vv_block_cache_set_capacity(c, capacities[i])));
        cr_assert_leq(bytes_of(c), capacities[i], "at once");
        uint64_t there = bring(c, 6000), wanted = bring(other, 6000);
        cr_assert_leq(bytes_of(c), capacities[i]);
        cr_assert_geq(there, wanted - wanted / 20, "%" PRIu64 " of %" PRIu64 " blocks", there, wanted);
        vv_block_cache_destroy(other);
    }
    vv_block_cache_destroy(c);
}

Test(block_cache, what_is_held_while_it_shrinks_goes_when_it_is_released) {
    enum { HELD = 100 };
    vv_block_cache *c = make(4 << 20);
    vv_block *held[HELD];
    for (uint64_t i = 0; i < HELD; i++)
        held[i] = vv_block_cache_insert(c, fill(c, 2, i * BLOCK, BLOCK));
    bring(c, 600);
    cr_assert(vv_ok(vv_block_cache_set_capacity(c, 100000)));
    cr_assert_eq(holds(c, 1, 599 * BLOCK), false);
    for (uint64_t i = 0; i < HELD; i++)
        cr_assert(is_right(held[i], 2, i * BLOCK));
    cr_assert_gt(bytes_of(c), HELD * BLOCK);
    for (uint64_t i = 0; i < HELD; i++)
        vv_block_cache_release(c, held[i]);
    cr_assert_leq(bytes_of(c), 100000);
    vv_block_cache_destroy(c);
}

Test(block_cache, a_capacity_that_there_is_no_memory_for_changes_nothing) {
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        vv_block_cache *c = make(4 << 20);
        uint64_t there = bring(c, 2000);
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        vv_status st = vv_block_cache_set_capacity(c, 64 << 20);
        done = vv_alloc_count() < last;
        vv_alloc_fail_at(0);
        cr_assert(done ? vv_ok(st) : vv_is(st, VV_NO_MEMORY));
        cr_assert_eq(bring(c, 2000) > there + there / 10, done);
        vv_block_cache_destroy(c);
    }
}

/* ---- many threads ---- */

typedef struct hammer {
    vv_block_cache *cache;
    uint64_t capacity_bytes;
    uint64_t held_bytes; /* by all threads at most: pinned or on its way */
    _Atomic uint64_t turn;
    _Atomic uint64_t failures;
} hammer;

static void hammer_run(void *arg) {
    hammer *h = arg;
    uint64_t seed = atomic_fetch_add(&h->turn, 1) + 1;
    uint64_t failures = 0;
    vv_block *held[8] = {0};
    for (int n = 0; n < 6000; n++) {
        uint64_t file_number = 1 + vv_test_random(&seed) % 3;
        uint64_t offset = vv_test_random(&seed) % 100 * BLOCK;
        vv_block *b = vv_block_cache_lookup(h->cache, file_number, offset);
        if (!b)
            b = vv_block_cache_insert(h->cache, fill(h->cache, file_number, offset, BLOCK));
        failures += !is_right(b, file_number, offset);
        vv_block **slot = &held[n % 8];
        if (*slot) {
            failures += !is_right(*slot, (*slot)->file_number, (*slot)->offset);
            vv_block_cache_release(h->cache, *slot);
        }
        *slot = b;
        if (n % 500 == 0)
            vv_block_cache_erase_file(h->cache, file_number);
        if (n % 100 == 0)
            failures += bytes_of(h->cache) > h->capacity_bytes + h->held_bytes;
    }
    for (int i = 0; i < 8; i++)
        vv_block_cache_release(h->cache, held[i]);
    atomic_fetch_add(&h->failures, failures);
}

Test(block_cache, threads_see_whole_blocks_within_the_bound) {
    static const uint64_t capacities[] = {100000, 4 << 20};
    for (size_t i = 0; i < VV_ARRAY_COUNT(capacities); i++) {
        hammer h = {.cache = make(capacities[i]),
                    .capacity_bytes = capacities[i],
                    .held_bytes = 4 * 10 * (BLOCK + 512)};
        pthread_t threads[4];
        for (int t = 0; t < 4; t++)
            cr_assert(vv_ok(vv_thread_start(&threads[t], "hammer", hammer_run, &h)));
        for (int t = 0; t < 4; t++)
            vv_thread_join(threads[t]);
        cr_assert_eq(atomic_load(&h.failures), 0);
        vv_block_cache_destroy(h.cache);
    }
}

Test(block_cache, threads_see_whole_blocks_while_it_grows_and_shrinks) {
    static const uint64_t capacities[] = {2 << 20, 100000, 500000, 0, 4 << 20, 1 << 20};
    hammer h = {.cache = make(16 * 4400), .capacity_bytes = 4 << 20, .held_bytes = 4 * 10 * (BLOCK + 512)};
    pthread_t threads[4];
    for (int t = 0; t < 4; t++)
        cr_assert(vv_ok(vv_thread_start(&threads[t], "hammer", hammer_run, &h)));
    for (size_t i = 0; i < 40 * VV_ARRAY_COUNT(capacities); i++)
        cr_assert(vv_ok(vv_block_cache_set_capacity(h.cache, capacities[i % VV_ARRAY_COUNT(capacities)])));
    for (int t = 0; t < 4; t++)
        vv_thread_join(threads[t]);
    cr_assert_eq(atomic_load(&h.failures), 0);
    cr_assert(vv_ok(vv_block_cache_set_capacity(h.cache, 500000)));
    cr_assert_leq(bytes_of(h.cache), 500000);
    vv_block_cache_destroy(h.cache);
}

typedef struct readers {
    vv_block_cache *cache;
    vv_sst_reader *reader;
    const model *model;
    _Atomic uint64_t turn;
    _Atomic uint64_t failures;
} readers;

static void readers_run(void *arg) {
    readers *rs = arg;
    uint64_t seed = atomic_fetch_add(&rs->turn, 1) + 1;
    for (int n = 0; n < 1500; n++) {
        const vv_entry *want = &rs->model->entries[vv_test_random(&seed) % rs->model->count];
        vv_block_handle h;
        vv_block *b;
        vv_entry e;
        bool right = vv_sst_reader_find_key(rs->reader, want->key, want->lsn, &h) &&
                     vv_ok(vv_block_cache_read(rs->cache, rs->reader, h, &b, NULL));
        if (right) {
            uint64_t hash = vv_hash_key(want->key.data, want->key.bytes);
            right = vv_block_seek_key(b, h, want->key, hash, want->lsn, &e) && entry_equal(&e, want);
            vv_block_cache_release(rs->cache, b);
        }
        atomic_fetch_add(&rs->failures, !right);
    }
}

Test(block_cache, threads_read_compressed_blocks_at_once) {
    generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096, .fp_rate = 0.01};
    model m = model_make(&g);
    fixture f = fixture_make();
    f.compression = VV_COMPRESSION_ZSTD;
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary s = table_write(&f, path, &m, g.block_bytes, g.fp_rate);
    vv_sst_summary_deinit(&s);
    readers rs = {.cache = make(500000), .reader = table_open(&f, path, 1), .model = &m};
    pthread_t threads[4];
    for (int t = 0; t < 4; t++)
        cr_assert(vv_ok(vv_thread_start(&threads[t], "reader", readers_run, &rs)));
    for (int t = 0; t < 4; t++)
        vv_thread_join(threads[t]);
    cr_assert_eq(atomic_load(&rs.failures), 0);
    cr_assert_leq(bytes_of(rs.cache), 500000);
    vv_block_cache_stats stats;
    vv_block_cache_stats_get(rs.cache, &stats);
    cr_assert_gt(stats.memory_bytes, stats.bytes);
    vv_block_cache_destroy(rs.cache);
    vv_sst_reader_close(rs.reader);
    model_free(&m);
    fixture_free(&f);
}

typedef struct table {
    fixture f;
    model m;
    vv_sst_reader *reader;
} table;

static table table_make(uint32_t count, uint32_t value_bytes) {
    generator g = {
        .count = count, .value_bytes = value_bytes, .versions = 3, .block_bytes = BLOCK, .fp_rate = 0.01};
    table t = {.f = fixture_make(), .m = model_make(&g)};
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary s = table_write(&t.f, path, &t.m, g.block_bytes, g.fp_rate);
    vv_sst_summary_deinit(&s);
    t.reader = table_open(&t.f, path, 1);
    return t;
}

static void table_free(table *t) {
    vv_sst_reader_close(t->reader);
    model_free(&t->m);
    fixture_free(&t->f);
}

/* Read block i; *hit_out: the cache had it. */
static void read_block(vv_block_cache *c, const table *t, uint64_t i, bool *hit_out) {
    vv_block_cache_stats before, after;
    vv_block *b;
    vv_block_handle h = vv_sst_reader_block(t->reader, i);
    cr_assert_eq(h.index, i);
    vv_block_cache_stats_get(c, &before);
    cr_assert(vv_ok(vv_block_cache_read(c, t->reader, h, &b, NULL)));
    cr_assert_eq(b->file_number, 1);
    cr_assert_eq(b->offset, h.offset);
    uint32_t image_bytes;
    cr_assert(vv_ok(vv_sst_block_verify(t->reader, h, b->data, &image_bytes)));
    vv_block_cache_release(c, b);
    vv_block_cache_stats_get(c, &after);
    cr_assert_eq(after.hits + after.misses, before.hits + before.misses + 1);
    *hit_out = after.hits > before.hits;
}

/* A reader remembers in which frames it found its blocks; by now they may have others' blocks. */
Test(block_cache, what_a_reader_remembers_is_only_a_hint) {
    table t = table_make(20000, 100);
    vv_block_cache *c = make(600000);
    uint64_t seed = vv_test_seed(), count = vv_sst_reader_block_count(t.reader), hits = 0;
    cr_assert_gt(count, 300);
    for (int n = 0; n < 20000; n++) {
        bool hit;
        uint64_t among = n % 2 ? count : 100;
        read_block(c, &t, vv_test_random(&seed) % among, &hit);
        hits += hit;
        if (n == 10000)
            vv_block_cache_erase_file(c, 1);
    }
    cr_assert_gt(hits, 5000);
    /* Nothing is found again that is pinned but erased, and nothing is counted for it. */
    vv_block *b;
    vv_block_handle h = vv_sst_reader_block(t.reader, 0);
    for (int i = 0; i < 2; i++) {
        cr_assert(vv_ok(vv_block_cache_read(c, t.reader, h, &b, NULL)));
        if (i == 0)
            vv_block_cache_release(c, b);
    }
    cr_assert_eq(vv_block_cache_find_again(c, t.reader, h), b);
    vv_block_cache_release(c, b);
    vv_block_cache_erase_file(c, 1);
    vv_block_cache_stats before, after;
    vv_block_cache_stats_get(c, &before);
    cr_assert_null(vv_block_cache_find_again(c, t.reader, h));
    vv_block_cache_stats_get(c, &after);
    cr_assert_eq(before.hits + before.misses, after.hits + after.misses);
    vv_block_cache_release(c, b);
    vv_block_cache_destroy(c);
    table_free(&t);
}

Test(block_cache, two_caches_of_one_reader_have_their_own_blocks) {
    table t = table_make(2000, 100);
    vv_block_cache *caches[] = {make(8 << 20), make(8 << 20)};
    bool hit;
    for (int n = 0; n < 3; n++) {
        for (int i = 0; i < 2; i++) {
            read_block(caches[i], &t, 3, &hit);
            cr_assert_eq(hit, n > 0);
        }
    }
    vv_block *blocks[2];
    for (int i = 0; i < 2; i++)
        cr_assert(vv_ok(
            vv_block_cache_read(caches[i], t.reader, vv_sst_reader_block(t.reader, 3), &blocks[i], NULL)));
    cr_assert_neq(blocks[0], blocks[1]);
    for (int i = 0; i < 2; i++)
        vv_block_cache_release(caches[i], blocks[i]);
    /* The first one's frames are gone with it, whatever stands there now. */
    vv_block_cache_destroy(caches[0]);
    caches[0] = make(8 << 20);
    for (int n = 0; n < 3; n++) {
        read_block(caches[0], &t, 3, &hit);
        cr_assert_eq(hit, n > 0);
    }
    vv_block_cache_destroy(caches[0]);
    vv_block_cache_destroy(caches[1]);
    table_free(&t);
}

Test(block_cache, a_search_by_hints_finds_the_place_of_a_search_without) {
    static const uint32_t value_bytes[] = {0, 1, 100, 1000, 3000};
    for (size_t i = 0; i < sizeof value_bytes / sizeof value_bytes[0]; i++) {
        table t = table_make(3000, value_bytes[i]);
        vv_block_cache *c = make(64 << 20);
        for (uint64_t n = 0; n < vv_sst_reader_block_count(t.reader); n += 3) {
            vv_block *b;
            cr_assert(vv_ok(vv_block_cache_read(c, t.reader, vv_sst_reader_block(t.reader, n), &b, NULL)));
            cr_assert_not_null(b->hints);
            for (uint32_t e = 0; e < vv_sst_block_count(b->data); e++) {
                vv_entry entry;
                vv_sst_block_entry(b->data, e, &entry);
                cr_assert_eq(vv_block_lower_bound(b, entry.key, entry.lsn), e);
                cr_assert_eq(vv_block_lower_bound(b, entry.key, entry.lsn - 1), e + 1);
                vv_slice shorter = vv_slice_make(entry.key.data, entry.key.bytes - 1);
                cr_assert_eq(vv_block_lower_bound(b, shorter, VV_LSN_MAX),
                             vv_sst_block_lower_bound(b->data, shorter, VV_LSN_MAX));
            }
            cr_assert_eq(vv_block_lower_bound(b, vv_slice_make("\xff\xff", 2), 0),
                         vv_sst_block_count(b->data));
            vv_block_cache_release(c, b);
        }
        vv_block_cache_destroy(c);
        table_free(&t);
    }
}
