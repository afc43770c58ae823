/*
 * Reading whole tables for compaction.
 */
#include <errno.h>

#include "base/alloc.h"
#include "engine/sst/scan.h"
#include "engine/sst/sst_impl.h"
#include "tests/engine/io_spy.h"
#include "tests/engine/sst_fixture.h"

static vv_iter *scan_make(vv_sst_reader *r, vv_io_queue *q) {
    vv_iter *it;
    vv_sst_scan_options o = {.queue = q, .window_bytes = VV_SST_SCAN_BYTES_MAX};
    cr_assert(vv_ok(vv_sst_scan_create(r, &o, &it)));
    return it;
}

static void check_rest(vv_iter *it, const model *m, uint64_t at) {
    for (; at < m->count; at++, vv_iter_next(it))
        cr_assert(it->valid && entry_equal(&it->entry, &m->entries[at]), "entry %lu", (unsigned long)at);
    cr_assert_not(it->valid);
    cr_assert(vv_ok(it->status));
}

static void check_scan_on(fixture *f, const model *m, uint32_t block_bytes, uint64_t *seed) {
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary s = table_write(f, path, m, block_bytes, 0.01);
    vv_sst_summary_deinit(&s);
    vv_sst_reader *r = table_open(f, path, 1);
    vv_iter *it = scan_make(r, f->queue);
    vv_iter_seek_first(it);
    check_rest(it, m, 0);
    for (int n = 0; n < 20; n++) {
        const vv_entry *near = &m->entries[vv_test_random(seed) % m->count];
        uint64_t lsn = vv_test_random(seed) % 2 ? VV_LSN_MAX : near->lsn;
        uint64_t at = model_lower_bound(m, near->key, lsn);
        vv_iter_seek(it, near->key, lsn);
        uint64_t steps = n % 4 == 0 ? m->count : vv_test_random(seed) % 100;
        uint64_t end = VV_MIN(at + steps, m->count);
        for (; at < end; at++, vv_iter_next(it))
            cr_assert(it->valid && entry_equal(&it->entry, &m->entries[at]));
    }
    vv_iter_seek(it, vv_slice_make("zzz", 3), VV_LSN_MAX);
    cr_assert(!it->valid && vv_ok(it->status));
    vv_iter_seek_first(it);
    check_rest(it, m, 0);
    vv_iter_seek_first(it); /* destroyed with reads in flight */
    vv_iter_destroy(it);
    vv_sst_reader_close(r);
}

static void check_scan(const model *m, uint32_t block_bytes) {
    static const vv_io_choice choices[] = {VV_IO_CHOICE_POSIX, VV_IO_CHOICE_URING};
    uint64_t seed = vv_test_seed();
    static const vv_compression compressions[] = {VV_COMPRESSION_NONE, VV_COMPRESSION_LZ4,
                                                  VV_COMPRESSION_ZSTD};
    for (size_t i = 0; i < 2 * VV_ARRAY_COUNT(compressions); i++) {
        fixture f;
        if (!fixture_make_on(choices[i % 2], &f))
            continue;
        f.compression = compressions[i / 2];
        check_scan_on(&f, m, block_bytes, &seed);
        fixture_free(&f);
    }
}

static void check_generated(const generator *g) {
    model m = model_make(g);
    check_scan(&m, g->block_bytes);
    model_free(&m);
}

Test(sst_scan, shows_every_entry_of_small_tables) {
    for (uint64_t count = 1; count < 300; count += 43)
        check_generated(&(generator){.count = count, .value_bytes = 100, .block_bytes = 4096});
}

Test(sst_scan, shows_every_entry_of_many_chunks) {
    check_generated(&(generator){.count = 40000, .value_bytes = 100, .versions = 40, .block_bytes = 4096});
    check_generated(&(generator){.count = 10000, .value_bytes = 500, .block_bytes = 65536});
}

Test(sst_scan, puts_blocks_together_that_lie_in_several_chunks) {
    /* Blocks of 80 to 84 KiB and of more than three chunks. */
    check_generated(&(generator){.count = 60, .value_bytes = 80000, .block_bytes = 4096});
    check_generated(&(generator){.count = 5, .value_bytes = 1700000, .block_bytes = 16384});
}

Test(sst_scan, with_any_window_it_shows_all_and_takes_no_more_than_that) {
    fixture f = fixture_make();
    static const generator generators[] = {
        {.count = 30000, .value_bytes = 100, .block_bytes = 4096},
        {.count = 60, .value_bytes = 80000, .block_bytes = 4096}, /* blocks in two chunks and more */
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(generators); i++) {
        model m = model_make(&generators[i]);
        const char *path = vv_tempdir_path(i == 0 ? "0.sst" : "1.sst");
        vv_sst_summary s = table_write(&f, path, &m, generators[i].block_bytes, 0);
        vv_sst_summary_deinit(&s);
        vv_sst_reader *r = table_open(&f, path, 1);
        for (uint64_t window = 0; window <= VV_SST_SCAN_BYTES_MAX + 10000; window += 50000) {
            _Atomic uint64_t taken = 7;
            vv_sst_scan_options o = {.queue = f.queue, .window_bytes = window, .memory_bytes = &taken};
            vv_iter *it;
            cr_assert(vv_ok(vv_sst_scan_create(r, &o, &it)));
            uint64_t bound = VV_MIN(VV_MAX(window, VV_SST_SCAN_BYTES_MIN), VV_SST_SCAN_BYTES_MAX) +
                             i * (100 << 10); /* a block */
            uint64_t n = 0;
            for (vv_iter_seek_first(it); it->valid; vv_iter_next(it), n++) {
                cr_assert(entry_equal(&it->entry, &m.entries[n]));
                cr_assert_leq(taken, 7 + bound, "window %lu", (unsigned long)window);
            }
            cr_assert(vv_ok(it->status));
            cr_assert_eq(n, m.count);
            cr_assert_geq(taken, 7 + VV_SST_SCAN_BYTES_MIN);
            vv_iter_destroy(it);
            cr_assert_eq(taken, 7);
        }
        vv_sst_reader_close(r);
        model_free(&m);
    }
    fixture_free(&f);
}

Test(sst_scan, many_scans_share_one_queue) {
    fixture f;
    if (!fixture_make_on(VV_IO_CHOICE_URING, &f))
        f = fixture_make();
    enum { tables = 6 };
    generator g = {.count = 30000, .value_bytes = 100, .block_bytes = 4096};
    model m = model_make(&g);
    vv_sst_reader *readers[tables];
    vv_iter *its[tables];
    for (uint64_t i = 0; i < tables; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.sst", (int)i);
        const char *path = vv_tempdir_path(name);
        vv_sst_summary s = table_write(&f, path, &m, 4096, 0);
        vv_sst_summary_deinit(&s);
        readers[i] = table_open(&f, path, i);
        its[i] = scan_make(readers[i], f.queue);
        vv_iter_seek_first(its[i]);
    }
    for (uint64_t n = 0; n < m.count; n++) {
        for (int i = 0; i < tables; i++) {
            cr_assert(its[i]->valid && entry_equal(&its[i]->entry, &m.entries[n]));
            vv_iter_next(its[i]);
        }
    }
    for (int i = 0; i < tables; i++) {
        cr_assert(!its[i]->valid && vv_ok(its[i]->status));
        vv_iter_destroy(its[i]);
        vv_sst_reader_close(readers[i]);
    }
    model_free(&m);
    fixture_free(&f);
}

Test(sst_scan, a_damaged_block_or_a_lost_end_ends_it_with_a_failure) {
    fixture f = fixture_make();
    generator g = {.count = 20000, .value_bytes = 100, .block_bytes = 4096};
    model m = model_make(&g);
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary s = table_write(&f, path, &m, g.block_bytes, 0);
    vv_sst_summary_deinit(&s);
    vv_sst_reader *r = table_open(&f, path, 1);
    size_t bytes;
    uint8_t *whole = file_read_all(path, &bytes);
    for (int cut = 0; cut < 2; cut++) {
        whole[1000 * 1000] ^= 1;
        file_write_all(path, whole, cut ? 1000 * 1000 : bytes); /* the same file: the reader has it open */
        vv_iter *it = scan_make(r, f.queue);
        uint64_t shown = 0;
        for (vv_iter_seek_first(it); it->valid; vv_iter_next(it), shown++)
            cr_assert(entry_equal(&it->entry, &m.entries[shown]));
        cr_assert(vv_is(it->status, VV_CORRUPTION));
        cr_assert(shown > 1000 && shown < m.count);
        vv_iter_seek_first(it);
        cr_assert(!it->valid && vv_is(it->status, VV_CORRUPTION), "a failure is final");
        vv_iter_destroy(it);
    }
    free(whole);
    vv_sst_reader_close(r);
    model_free(&m);
    fixture_free(&f);
}

Test(sst_scan, a_failed_read_or_allocation_ends_it_with_a_failure) {
    fixture f = fixture_make();
    generator g = {.count = 40, .value_bytes = 80000, .block_bytes = 4096};
    model m = model_make(&g);
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary s = table_write(&f, path, &m, g.block_bytes, 0);
    vv_sst_summary_deinit(&s);
    bool done = false;
    for (uint32_t n = 1; !done; n++) {
        cr_assert_lt(n, 20);
        vv_sst_reader *r = table_open(&f, path, 1);
        spy_on(f.backend, n, EIO);
        const struct vv_io_ops *real = f.queue->ops;
        f.queue->ops = &spy.ops;
        vv_iter *it = scan_make(r, f.queue);
        uint64_t shown = 0;
        for (vv_iter_seek_first(it); it->valid; vv_iter_next(it), shown++)
            cr_assert(entry_equal(&it->entry, &m.entries[shown]));
        done = spy.calls < n;
        cr_assert_eq(vv_ok(it->status), done);
        cr_assert_eq(vv_is(it->status, VV_IO), !done);
        cr_assert_eq(shown == m.count, done);
        vv_iter_destroy(it);
        f.queue->ops = real;
        f.backend->ops = spy.real;
        vv_sst_reader_close(r);
    }
    vv_sst_reader *r = table_open(&f, path, 1);
    done = false;
    for (uint64_t n = 1; !done; n++) {
        cr_assert_lt(n, 100);
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        vv_iter *it;
        vv_sst_scan_options o = {.queue = f.queue, .window_bytes = VV_SST_SCAN_BYTES_MAX};
        vv_status st = vv_sst_scan_create(r, &o, &it);
        if (vv_ok(st)) {
            for (vv_iter_seek_first(it); it->valid;)
                vv_iter_next(it);
            st = it->status;
            vv_iter_destroy(it);
        }
        done = vv_alloc_count() < last;
        cr_assert_eq(vv_is(st, VV_NO_MEMORY), !done);
        vv_alloc_fail_at(0);
    }
    vv_sst_reader_close(r);
    model_free(&m);
    fixture_free(&f);
}
