/*
 * Cursors that read ahead: what they show, what they read, and what they leave alone.
 */
#include <errno.h>
#include <pthread.h>

#include "engine/db/db_impl.h"
#include "engine/sst/block_cache.h"
#include "tests/engine/db_fixture.h"
#include "tests/engine/sst_fixture.h"

TestSuite(readahead, .timeout = 60);

/* Reads at once, on the caller's thread: what is asked for shows in order. */
typedef struct spy {
    vv_sst_fetcher fetcher;
    vv_budget budget;
    uint64_t fetches;
    uint64_t bytes;
    uint64_t largest;
    uint64_t end_offset; /* of the newest */
    uint64_t fail_at;    /* the number of the fetch that fails; 0: none */
    bool shorten;        /* it reads too little instead */
} spy;

static void spy_fetch(void *arg, vv_sst_fetch *f) {
    spy *s = arg;
    vv_io_req *req = &f->req;
    size_t read_bytes;
    req->status = vv_file_read(req->file, req->buf, req->bytes, req->offset, &read_bytes);
    req->transferred_bytes = (uint32_t)read_bytes;
    if (++s->fetches == s->fail_at) {
        if (s->shorten)
            req->transferred_bytes--;
        else
            req->status = vv_status_errno(EIO);
    }
    s->bytes += req->bytes;
    s->largest = s->largest > req->bytes ? s->largest : req->bytes;
    s->end_offset = req->offset + req->bytes;
    req->done(req);
}

typedef struct table {
    fixture f;
    model m;
    vv_sst_reader *r;
    vv_block_cache *c;
    vv_iter *it;
    spy s;
} table;

static void table_make(table *t, const generator *g, vv_compression compression, uint64_t cache_bytes) {
    *t = (table){.f = fixture_make()};
    t->f.compression = compression;
    t->m = model_make(g);
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary sum = table_write(&t->f, path, &t->m, g->block_bytes, 0);
    vv_sst_summary_deinit(&sum);
    t->r = table_open(&t->f, path, 1);
    cr_assert(vv_ok(vv_block_cache_create(cache_bytes, &t->c)));
    t->s.fetcher = (vv_sst_fetcher){.fetch = spy_fetch, .arg = &t->s, .budget = &t->s.budget};
    vv_budget_init(&t->s.budget, VV_SST_READAHEAD_BYTES_MAX);
    cr_assert(vv_ok(vv_sst_iter_create(t->r, t->c, &t->s.fetcher, &t->it)));
}

static void table_free(table *t) {
    vv_iter_destroy(t->it);
    cr_assert_eq(vv_budget_used(&t->s.budget), 0);
    vv_block_cache_destroy(t->c);
    vv_sst_reader_close(t->r);
    model_free(&t->m);
    fixture_free(&t->f);
}

static void scan_from(table *t, uint64_t i, uint64_t count) {
    vv_iter_seek(t->it, t->m.entries[i].key, t->m.entries[i].lsn);
    for (; count > 0 && i < t->m.count; i++, count--, vv_iter_next(t->it))
        cr_assert(t->it->valid && entry_equal(&t->it->entry, &t->m.entries[i]), "entry %" PRIu64, i);
    cr_assert(vv_ok(t->it->status));
}

Test(readahead, a_scan_sees_all_and_reads_each_byte_once) {
    static const generator generators[] = {
        {.count = 20000, .value_bytes = 100, .versions = 3, .block_bytes = 4096},
        {.count = 3000, .value_bytes = 3000, .block_bytes = 16384},
        {.count = 20, .value_bytes = 700000, .block_bytes = 4096}, /* blocks larger than what is read ahead */
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(generators); i++)
        for (int compression = VV_COMPRESSION_NONE; compression <= VV_COMPRESSION_LZ4; compression++) {
            table t;
            table_make(&t, &generators[i], (vv_compression)compression, 1 << 20);
            scan_from(&t, 0, t.m.count);
            cr_assert_not(t.it->valid);
            uint64_t last = vv_sst_reader_block_count(t.r) - 1;
            vv_block_handle h = vv_sst_reader_block(t.r, last);
            vv_block_handle first_ahead = vv_sst_reader_block(t.r, 2);
            cr_assert_eq(t.s.end_offset, h.offset + h.bytes);
            cr_assert_eq(t.s.bytes, h.offset + h.bytes - first_ahead.offset);
            cr_assert_leq(t.s.largest, 256 << 10);
            table_free(&t);
        }
}

Test(readahead, short_scans_and_scans_backward_ask_for_nothing) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    table t;
    table_make(&t, &g, VV_COMPRESSION_NONE, 1 << 20);
    for (uint64_t i = 0; i < t.m.count; i += 1000)
        scan_from(&t, i, 30);
    vv_iter_seek_last(t.it);
    for (uint64_t i = t.m.count; i-- > 0; vv_iter_prev(t.it))
        cr_assert(t.it->valid && entry_equal(&t.it->entry, &t.m.entries[i]));
    cr_assert_eq(t.s.fetches, 0);
    table_free(&t);
}

Test(readahead, it_begins_small) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    table t;
    table_make(&t, &g, VV_COMPRESSION_NONE, 1 << 20);
    scan_from(&t, 0, 110);
    cr_assert_eq(t.s.fetches, 2);
    cr_assert_leq(t.s.bytes, 48 << 10);
    table_free(&t);
}

Test(readahead, what_the_cache_has_is_not_read_again) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    table t;
    table_make(&t, &g, VV_COMPRESSION_NONE, 64 << 20);
    scan_from(&t, 0, t.m.count);
    uint64_t fetches = t.s.fetches;
    scan_from(&t, 0, t.m.count);
    cr_assert_eq(t.s.fetches, fetches);
    table_free(&t);
}

Test(readahead, scans_over_a_cache_that_has_some_of_it_see_all) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    uint64_t seed = vv_test_seed();
    table t;
    table_make(&t, &g, VV_COMPRESSION_LZ4, 256 << 10);
    for (int i = 0; i < 300; i++)
        scan_from(&t, vv_test_random(&seed) % t.m.count, vv_test_random(&seed) % 2000);
    table_free(&t);
}

/* A piece has many blocks: one that is bad takes none of the others with it. */
Test(readahead, a_failed_or_short_read_is_made_good_block_by_block) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    for (int shorten = 0; shorten <= 1; shorten++)
        for (uint64_t n = 1; n <= 4; n++) {
            table t;
            table_make(&t, &g, VV_COMPRESSION_NONE, 1 << 20);
            t.s.fail_at = n;
            t.s.shorten = shorten;
            uint64_t seen = 0;
            for (vv_iter_seek_first(t.it); t.it->valid; vv_iter_next(t.it), seen++)
                cr_assert(entry_equal(&t.it->entry, &t.m.entries[seen]));
            cr_assert_eq(seen, t.m.count);
            cr_assert(vv_ok(t.it->status));
            cr_assert_geq(t.s.fetches, n);
            table_free(&t);
        }
}

Test(readahead, without_budget_the_cursor_goes_on_without) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    table t;
    table_make(&t, &g, VV_COMPRESSION_NONE, 1 << 20);
    vv_budget_init(&t.s.budget, VV_SST_READAHEAD_BYTES_MIN);
    cr_assert(vv_budget_take(&t.s.budget, 1)); /* somebody else */
    scan_from(&t, 0, 10000);
    cr_assert_eq(t.s.fetches, 0);
    vv_budget_give(&t.s.budget, 1);
    for (uint64_t i = 10000; i < t.m.count; i++, vv_iter_next(t.it))
        cr_assert(t.it->valid && entry_equal(&t.it->entry, &t.m.entries[i]));
    cr_assert_gt(t.s.fetches, 10, "as soon as there is some, it reads ahead");
    cr_assert_eq(t.s.largest, VV_SST_READAHEAD_BYTES_MIN / 2, "but no more than there is");
    cr_assert_eq(vv_budget_used(&t.s.budget), VV_SST_READAHEAD_BYTES_MIN);
    table_free(&t);
}

Test(readahead, it_grows_as_far_as_the_budget_goes) {
    static const generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    static const struct {
        uint64_t budget_bytes, largest;
    } cases[] = {{VV_SST_READAHEAD_BYTES_MAX, 256 << 10},
                 {VV_SST_READAHEAD_BYTES_MAX - 1, 256 << 10},
                 {128 << 10, 64 << 10},
                 {100 << 10, 64 << 10},
                 {40 << 10, 16 << 10}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        table t;
        table_make(&t, &g, VV_COMPRESSION_NONE, 1 << 20);
        vv_budget_init(&t.s.budget, cases[i].budget_bytes);
        scan_from(&t, 0, t.m.count);
        cr_assert_eq(t.s.largest, cases[i].largest, "%" PRIu64, t.s.largest);
        table_free(&t);
    }
}

/* ---- through the database's reader thread ---- */

#define KEYS 60000

static void *scan_db(void *arg) {
    for (int i = 0; i < 6; i++) {
        varve_iter *it;
        int seen = 0,
            stop_at = i % 2 ? KEYS : KEYS / 3; /* every other one leaves while something is on its way */
        char key[32];
        cr_assert(varve_ok(varve_iter_create(fx_db, NULL, &it)));
        for (varve_iter_first(it); varve_iter_valid(it) && seen < stop_at; varve_iter_next(it), seen++) {
            varve_entry e;
            varve_iter_entry(it, &e);
            snprintf(key, sizeof key, "key-%08d", seen);
            cr_assert(e.key_bytes == strlen(key) && memcmp(e.key, key, e.key_bytes) == 0);
        }
        cr_assert(varve_ok(varve_iter_status(it)));
        cr_assert_eq(seen, stop_at);
        varve_iter_destroy(it);
    }
    return arg;
}

static void scan_on(const char *backend) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[32], value[100] = "";
    pthread_t threads[3];
    fx_open_with(fx_options("IO_BACKEND", backend, "CACHE_CAPACITY", "256KiB", "COMPRESSION", "none", NULL));
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "key-%08d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), value, sizeof value, &async, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
    for (size_t i = 0; i < VV_ARRAY_COUNT(threads); i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, scan_db, NULL), 0);
    for (size_t i = 0; i < VV_ARRAY_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    fx_close();
    vv_tempdir_cleanup();
}

/* Open cursors hold what they have read ahead: more of them than the budget can serve. */
Test(readahead, all_cursors_together_stay_within_their_budget) {
    enum { cursors = 80, values = 600 };
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    static char value[65536];
    static varve_iter *its[cursors];
    char key[32];
    fx_open_with(fx_options("CACHE_CAPACITY", "256KiB", "COMPRESSION", "none", NULL));
    for (int i = 0; i < values; i++) {
        snprintf(key, sizeof key, "key-%08d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), value, sizeof value, &async, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
    uint64_t most = 0;
    for (int c = 0; c < cursors; c++) {
        int n = 0;
        cr_assert(varve_ok(varve_iter_create(fx_db, NULL, &its[c])));
        for (varve_iter_first(its[c]); n < values / 2; varve_iter_next(its[c]), n++)
            cr_assert(varve_iter_valid(its[c]));
        uint64_t now = fx_stats().cursor_memory_bytes;
        most = VV_MAX(most, now);
    }
    cr_assert_leq(most, VV_DB_CURSOR_READ_BYTES_MAX);
    cr_assert_gt(most, VV_DB_CURSOR_READ_BYTES_MAX - (64 << 10));
    for (int c = 0; c < cursors; c++) {
        int n = values / 2;
        for (; varve_iter_valid(its[c]); varve_iter_next(its[c]))
            n++;
        cr_assert_eq(n, values);
        varve_iter_destroy(its[c]);
    }
    cr_assert_eq(fx_stats().cursor_memory_bytes, 0);
    fx_close();
    vv_tempdir_cleanup();
}

Test(readahead, threads_scan_through_a_cache_that_holds_nothing) {
    scan_on("auto");
}

Test(readahead, threads_scan_on_posix) {
    scan_on("posix");
}
