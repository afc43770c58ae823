#include <unistd.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/table_cache.h"
#include "tests/engine/io_spy.h"
#include "tests/engine/sst_fixture.h"

typedef struct tables {
    fixture f;
    const char *dir;
    vv_table_cache *cache;
} tables;

static void table_add(tables *t, uint64_t file_number) {
    generator g = {.count = 20, .value_bytes = 10, .block_bytes = 4096, .fp_rate = 0.01};
    model m = model_make(&g);
    char path[512];
    vv_table_cache_path(t->dir, file_number, path, sizeof path);
    vv_sst_summary s = table_write(&t->f, path, &m, g.block_bytes, g.fp_rate);
    vv_sst_summary_deinit(&s);
    model_free(&m);
}

/* Tables 1 to count in a directory, and a cache over them whose opens are counted. */
static tables tables_make(uint64_t count, uint32_t capacity) {
    tables t = {.f = fixture_make(), .dir = vv_tempdir()};
    for (uint64_t i = 1; i <= count; i++)
        table_add(&t, i);
    spy_on(t.f.backend, 0, 0);
    cr_assert(vv_ok(vv_table_cache_create(t.f.backend, t.dir, capacity, UINT64_MAX, &t.cache)));
    return t;
}

static void tables_free(tables *t) {
    vv_table_cache_destroy(t->cache);
    fixture_free(&t->f);
}

static vv_sst_reader *get(tables *t, uint64_t file_number) {
    vv_sst_reader *r;
    vv_error err = {{0}};
    vv_status st = vv_table_cache_get(t->cache, file_number, &r, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    cr_assert_eq(vv_sst_reader_file_number(r), file_number);
    return r;
}

static bool is_open(tables *t, uint64_t file_number) {
    vv_table_pin pin;
    vv_sst_reader *r = vv_table_cache_peek(t->cache, file_number, &pin);
    if (r)
        vv_table_cache_release(t->cache, r, pin);
    return r != NULL;
}

Test(table_cache, names_files_by_sixteen_hex_digits) {
    char path[64];
    vv_table_cache_path("dir", 0xabc, path, sizeof path);
    cr_assert_str_eq(path, "dir/0000000000000abc.sst");
}

Test(table_cache, opens_a_table_once) {
    tables t = tables_make(1, 10);
    cr_assert_not(is_open(&t, 1));
    vv_sst_reader *r = get(&t, 1);
    cr_assert_eq(get(&t, 1), r);
    vv_table_pin pin;
    cr_assert_eq(vv_table_cache_peek(t.cache, 1, &pin), r);
    vv_table_cache_release(t.cache, r, pin);
    for (int i = 0; i < 2; i++)
        vv_table_cache_release(t.cache, r, VV_TABLE_PIN_SHARED);
    cr_assert_eq(get(&t, 1), r, "it stays open");
    vv_table_cache_release(t.cache, r, VV_TABLE_PIN_SHARED);
    cr_assert_eq(atomic_load(&spy.opens), 1);
    cr_assert_eq(vv_table_cache_memory_bytes(t.cache), vv_sst_reader_memory_bytes(r));
    tables_free(&t);
}

Test(table_cache, keeps_its_bound_and_closes_the_least_recently_used) {
    tables t = tables_make(10, 3);
    for (uint64_t i = 1; i <= 10; i++) {
        vv_table_cache_release(t.cache, get(&t, i), VV_TABLE_PIN_SHARED);
        vv_table_cache_release(t.cache, get(&t, 1), VV_TABLE_PIN_SHARED);
        cr_assert_leq(vv_table_cache_open_count(t.cache), 3);
    }
    cr_assert(is_open(&t, 1));
    cr_assert_not(is_open(&t, 8));
    cr_assert_eq(atomic_load(&spy.opens), 10);
    tables_free(&t);
}

Test(table_cache, keeps_its_bound_of_memory) {
    tables t = tables_make(10, 100);
    vv_sst_reader *r = get(&t, 1);
    uint64_t one = vv_sst_reader_memory_bytes(r);
    vv_table_cache_release(t.cache, r, VV_TABLE_PIN_SHARED);
    vv_table_cache_destroy(t.cache);
    cr_assert(vv_ok(vv_table_cache_create(t.f.backend, t.dir, 100, 4 * one + one / 2, &t.cache)));
    for (uint64_t i = 1; i <= 10; i++) {
        vv_table_cache_release(t.cache, get(&t, i), VV_TABLE_PIN_SHARED);
        cr_assert_leq(vv_table_cache_memory_bytes(t.cache), 4 * one + one / 2);
    }
    cr_assert_eq(vv_table_cache_open_count(t.cache), 4);
    cr_assert_not(is_open(&t, 6), "the least recently used");
    tables_free(&t);
}

Test(table_cache, pinned_readers_may_exceed_the_bound_and_stay_open) {
    tables t = tables_make(6, 2);
    vv_sst_reader *readers[6];
    for (uint64_t i = 0; i < 6; i++)
        readers[i] = get(&t, i + 1);
    cr_assert_eq(vv_table_cache_open_count(t.cache), 6);
    for (uint64_t i = 0; i < 6; i++) {
        cr_assert_eq(vv_sst_reader_item_count(readers[i]), 20);
        vv_table_cache_release(t.cache, readers[i], VV_TABLE_PIN_SHARED);
    }
    cr_assert_eq(vv_table_cache_open_count(t.cache), 2);
    tables_free(&t);
}

Test(table_cache, an_erased_table_is_closed_with_its_last_pin) {
    tables t = tables_make(2, 10);
    vv_sst_reader *r = get(&t, 1);
    vv_table_cache_release(t.cache, get(&t, 2), VV_TABLE_PIN_SHARED);
    vv_table_cache_erase(t.cache, 1);
    vv_table_cache_erase(t.cache, 2);
    vv_table_cache_erase(t.cache, 3);
    cr_assert_not(is_open(&t, 1));
    cr_assert_eq(vv_table_cache_open_count(t.cache), 1);
    cr_assert_eq(vv_sst_reader_item_count(r), 20);
    vv_table_cache_release(t.cache, r, VV_TABLE_PIN_SHARED);
    cr_assert_eq(vv_table_cache_open_count(t.cache), 0);
    cr_assert_eq(vv_table_cache_memory_bytes(t.cache), 0);
    tables_free(&t);
}

Test(table_cache, what_a_peek_has_pinned_stays_open) {
    tables t = tables_make(3, 1);
    vv_table_cache_release(t.cache, get(&t, 1), VV_TABLE_PIN_SHARED);
    vv_table_pin pin, second_pin;
    vv_sst_reader *r = vv_table_cache_peek(t.cache, 1, &pin);
    vv_table_cache_release(t.cache, get(&t, 2), VV_TABLE_PIN_SHARED);
    cr_assert(is_open(&t, 1), "it would be one too many otherwise");
    cr_assert_eq(vv_table_cache_peek(t.cache, 1, &second_pin), r);
    vv_table_cache_erase(t.cache, 1);
    cr_assert_not(is_open(&t, 1));
    vv_table_cache_release(t.cache, r, pin);
    cr_assert_eq(vv_sst_reader_item_count(r), 20);
    cr_assert_eq(vv_table_cache_open_count(t.cache), 1);
    vv_table_cache_release(t.cache, r, second_pin);
    cr_assert_eq(vv_table_cache_open_count(t.cache), 0, "closed with the last pin");
    vv_table_cache_release(t.cache, get(&t, 3), VV_TABLE_PIN_SHARED);
    cr_assert(is_open(&t, 3));
    tables_free(&t);
}

Test(table_cache, a_failed_open_is_reported_and_can_be_tried_again) {
    tables t = tables_make(0, 10);
    vv_sst_reader *r;
    vv_error err = {{0}};
    cr_assert(vv_is(vv_table_cache_get(t.cache, 7, &r, &err), VV_NOT_FOUND));
    cr_assert_null(r);
    cr_assert(strstr(err.text, "0000000000000007.sst"), "%s", err.text);
    cr_assert_eq(vv_table_cache_open_count(t.cache), 0);
    table_add(&t, 7);
    vv_table_cache_release(t.cache, get(&t, 7), VV_TABLE_PIN_SHARED);
    tables_free(&t);
}

Test(table_cache, every_failed_allocation_is_reported) {
    tables t = tables_make(1, 10);
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        cr_assert_lt(n, 100);
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        vv_table_cache *c;
        vv_sst_reader *r = NULL;
        vv_status st = vv_table_cache_create(t.f.backend, t.dir, 3, UINT64_MAX, &c);
        if (vv_ok(st))
            st = vv_table_cache_get(c, 1, &r, NULL);
        done = vv_alloc_count() < last;
        cr_assert(done ? vv_ok(st) : vv_is(st, VV_NO_MEMORY));
        vv_alloc_fail_at(0);
        if (r)
            vv_table_cache_release(c, r, VV_TABLE_PIN_SHARED);
        vv_table_cache_destroy(c);
    }
    tables_free(&t);
}

/* ---- many threads ---- */

enum { TABLES = 8, THREADS = 4 };

typedef struct hammer {
    tables *t;
    pthread_barrier_t start;
    _Atomic uint64_t turn;
    _Atomic uint64_t failures;
} hammer;

static void open_same(void *arg) {
    hammer *h = arg;
    for (uint64_t i = 1; i <= TABLES; i++) {
        pthread_barrier_wait(&h->start);
        vv_sst_reader *r;
        if (!vv_ok(vv_table_cache_get(h->t->cache, i, &r, NULL)))
            atomic_fetch_add(&h->failures, 1);
        else
            vv_table_cache_release(h->t->cache, r, VV_TABLE_PIN_SHARED);
    }
}

static void open_any(void *arg) {
    hammer *h = arg;
    uint64_t seed = atomic_fetch_add(&h->turn, 1) + 1;
    uint64_t failures = 0;
    for (int n = 0; n < 300; n++) {
        uint64_t file_number = 1 + vv_test_random(&seed) % (TABLES + 1);
        vv_sst_reader *r;
        vv_status st = vv_table_cache_get(h->t->cache, file_number, &r, NULL);
        failures += vv_ok(st) != (file_number <= TABLES);
        if (vv_ok(st)) {
            failures += vv_sst_reader_file_number(r) != file_number || vv_sst_reader_item_count(r) != 20;
            vv_table_cache_release(h->t->cache, r, VV_TABLE_PIN_SHARED);
        }
        if (n % 10 == 0)
            vv_table_cache_erase(h->t->cache, file_number);
        failures += vv_table_cache_open_count(h->t->cache) > 3 + THREADS;
    }
    atomic_fetch_add(&h->failures, failures);
}

/* Readers that are open are pinned without the lock, and held for a while, on other threads, too. */
static void peek_any(void *arg) {
    hammer *h = arg;
    uint64_t seed = atomic_fetch_add(&h->turn, 1) + 1;
    uint64_t failures = 0;
    vv_sst_reader *held[4] = {0};
    vv_table_pin pins[4];
    uint64_t numbers[4];
    for (int n = 0; n < 3000; n++) {
        int at = n % 4;
        if (held[at]) {
            failures += vv_sst_reader_file_number(held[at]) != numbers[at] ||
                        vv_sst_reader_item_count(held[at]) != 20;
            vv_table_cache_release(h->t->cache, held[at], pins[at]);
        }
        numbers[at] = 1 + vv_test_random(&seed) % TABLES;
        held[at] = vv_table_cache_peek(h->t->cache, numbers[at], &pins[at]);
        if (!held[at] && n % 8 == 0) {
            pins[at] = VV_TABLE_PIN_SHARED;
            failures += !vv_ok(vv_table_cache_get(h->t->cache, numbers[at], &held[at], NULL));
        }
        if (n % 50 == 0)
            vv_table_cache_erase(h->t->cache, numbers[at]);
    }
    for (int i = 0; i < 4; i++)
        if (held[i])
            vv_table_cache_release(h->t->cache, held[i], pins[i]);
    atomic_fetch_add(&h->failures, failures);
}

static void run_threads(hammer *h, void (*fn)(void *)) {
    pthread_t threads[THREADS];
    cr_assert_eq(pthread_barrier_init(&h->start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "hammer", fn, h)));
    for (int i = 0; i < THREADS; i++)
        vv_thread_join(threads[i]);
    pthread_barrier_destroy(&h->start);
    cr_assert_eq(atomic_load(&h->failures), 0);
}

Test(table_cache, threads_that_want_one_table_open_it_once) {
    tables t = tables_make(TABLES, TABLES);
    hammer h = {.t = &t};
    run_threads(&h, open_same);
    cr_assert_eq(atomic_load(&spy.opens), TABLES);
    tables_free(&t);
}

Test(table_cache, threads_get_evict_and_erase_beside_each_other) {
    tables t = tables_make(TABLES, 3);
    hammer h = {.t = &t};
    run_threads(&h, open_any);
    cr_assert_leq(vv_table_cache_open_count(t.cache), 3);
    tables_free(&t);
}

Test(table_cache, threads_peek_beside_evictions_and_erasures) {
    tables t = tables_make(TABLES, 3);
    hammer h = {.t = &t};
    run_threads(&h, peek_any);
    cr_assert_leq(vv_table_cache_open_count(t.cache), 3);
    tables_free(&t);
}
