/*
 * Tables that are whole: what was written is what is read.
 */
#include <signal.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/codec.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"
#include "tests/engine/sst_fixture.h"

static vv_block_cache *cache_make(uint64_t bytes) {
    vv_block_cache *c;
    cr_assert(vv_ok(vv_block_cache_create(bytes, &c)));
    return c;
}

/* To the last entry at or before (key, lsn), then a step either way. */
static void check_seek_back(vv_iter *it, const model *m, vv_slice key, uint64_t lsn) {
    uint64_t at = model_lower_bound(m, key, lsn);
    bool exact = at < m->count && vv_slice_equal(m->entries[at].key, key) && m->entries[at].lsn == lsn;
    uint64_t before = exact ? at + 1 : at; /* one more than the index wanted */
    vv_iter_seek_back(it, key, lsn);
    cr_assert_eq(it->valid, before > 0);
    if (!it->valid)
        return;
    cr_assert(entry_equal(&it->entry, &m->entries[before - 1]));
    if (before < m->count) {
        vv_iter_next(it);
        cr_assert(it->valid && entry_equal(&it->entry, &m->entries[before]));
        vv_iter_prev(it);
        cr_assert(it->valid && entry_equal(&it->entry, &m->entries[before - 1]));
    }
    vv_iter_prev(it);
    cr_assert_eq(it->valid, before > 1);
    if (it->valid)
        cr_assert(entry_equal(&it->entry, &m->entries[before - 2]));
}

/* A get of a key of which `wanted` is the answer; NULL: there is none. */
static void check_find_key(vv_sst_reader *r, vv_block_cache *c, vv_slice key, uint64_t lsn,
                           const vv_entry *wanted) {
    vv_block_handle h;
    vv_block *b;
    vv_entry e;
    bool maybe = vv_sst_reader_find_key(r, key, lsn, &h);
    if (!wanted && (r->index.head.type == VV_INDEX_DENSE))
        cr_assert_not(maybe);
    if (!maybe) {
        cr_assert_null(wanted);
        return;
    }
    uint32_t position = h.position;
    cr_assert(vv_ok(vv_block_cache_read(c, r, h, &b, NULL)));
    bool found = vv_sst_block_seek_key(h, b->data, key, lsn, &e);
    cr_assert_eq(found, wanted != NULL);
    if (found)
        cr_assert(entry_equal(&e, wanted));
    /* The same by the cached block's hints. */
    found = vv_block_seek_key(b, h, key, vv_hash_key(key.data, key.bytes), lsn, &e);
    cr_assert_eq(found, wanted != NULL);
    if (found)
        cr_assert(entry_equal(&e, wanted));
    h.position = UINT32_MAX; /* and without a dense index */
    cr_assert_eq(vv_block_seek_key(b, h, key, vv_hash_key(key.data, key.bytes), lsn, &e), found);
    if (r->index.head.type == VV_INDEX_DENSE) {
        vv_sst_block_entry(b->data, position, &e);
        cr_assert(entry_equal(&e, wanted), "the position is right");
    }
    vv_block_cache_release(c, b);
}

/* Point reads, whole scans both ways and seeks, all against the model. */
static void check_table(fixture *f, const char *path, const model *m, uint64_t *seed) {
    vv_sst_reader *r = table_open(f, path, 1);
    vv_block_cache *c = cache_make(1 << 20);
    cr_assert_eq(vv_sst_reader_item_count(r), m->count);

    vv_iter *it;
    cr_assert(vv_ok(vv_sst_iter_create(r, c, NULL, &it)));
    vv_iter_seek_first(it);
    for (uint64_t i = 0; i < m->count; i++, vv_iter_next(it))
        cr_assert(it->valid && entry_equal(&it->entry, &m->entries[i]), "entry %lu", (unsigned long)i);
    cr_assert_not(it->valid);
    cr_assert(vv_ok(it->status));
    vv_iter_seek_last(it);
    for (uint64_t i = m->count; i-- > 0; vv_iter_prev(it))
        cr_assert(it->valid && entry_equal(&it->entry, &m->entries[i]), "entry %lu", (unsigned long)i);
    cr_assert_not(it->valid);
    cr_assert(vv_ok(it->status));

    uint64_t tries = m->count < 2000 ? m->count * 2 + 10 : 2000;
    for (uint64_t n = 0; n < tries; n++) {
        const vv_entry *near = &m->entries[vv_test_random(seed) % m->count];
        static char key[VV_KEY_BYTES_MAX];
        memcpy(key, near->key.data, near->key.bytes);
        vv_slice want = vv_slice_make(key, near->key.bytes);
        switch (vv_test_random(seed) % 4) {
        case 0: key[want.bytes - 1]++; break;
        case 1: want.bytes -= want.bytes > 1; break;
        default: break;
        }
        uint64_t lsn = vv_test_random(seed) % 3 ? VV_LSN_MAX : vv_test_random(seed) % (m->count + 2);
        uint64_t at = model_lower_bound(m, want, lsn);

        vv_iter_seek(it, want, lsn);
        cr_assert_eq(it->valid, at < m->count);
        if (it->valid)
            cr_assert(entry_equal(&it->entry, &m->entries[at]));
        check_seek_back(it, m, want, lsn);

        vv_block_handle h;
        cr_assert_eq(vv_sst_reader_find(r, want, lsn, &h), at < m->count);
        if (at == m->count)
            continue;
        vv_block *b;
        vv_entry e;
        cr_assert(vv_ok(vv_block_cache_read(c, r, h, &b, NULL)));
        cr_assert(vv_sst_block_seek(b->data, want, lsn, &e));
        cr_assert(entry_equal(&e, &m->entries[at]));
        bool there = vv_slice_equal(e.key, want);
        cr_assert_eq(vv_sst_block_seek_key(h, b->data, want, lsn, &e), there);
        vv_block_cache_release(c, b);
        check_find_key(r, c, want, lsn, there ? &m->entries[at] : NULL);
        cr_assert(vv_sst_reader_may_contain(r, vv_hash_key(near->key.data, near->key.bytes)));
    }
    vv_iter_destroy(it);
    vv_block_cache_destroy(c);
    vv_sst_reader_close(r);
}

static void round_trip_on(fixture *f, const generator *g) {
    uint64_t seed = vv_test_seed();
    const char *path = vv_tempdir_path("t.sst");
    model m = model_make(g);
    vv_sst_summary s = table_write(f, path, &m, g->block_bytes, g->fp_rate);
    cr_assert_eq(s.item_count, m.count);
    cr_assert_eq(s.min_lsn, 1);
    cr_assert_eq(s.max_lsn, m.count);
    cr_assert(vv_slice_equal(vv_slice_make(s.first_key, s.first_key_bytes), m.entries[0].key));
    cr_assert(vv_slice_equal(vv_slice_make(s.last_key, s.last_key_bytes), m.entries[m.count - 1].key));
    check_table(f, path, &m, &seed);
    vv_sst_summary_deinit(&s);
    model_free(&m);
    fixture_free(f);
}

static void round_trip(const generator *g) {
    static const vv_io_choice choices[] = {VV_IO_CHOICE_POSIX, VV_IO_CHOICE_URING};
    static const vv_compression compressions[] = {VV_COMPRESSION_NONE, VV_COMPRESSION_LZ4,
                                                  VV_COMPRESSION_ZSTD};
    for (size_t i = 0; i < 6; i++) {
        fixture f;
        if (!fixture_make_on(choices[i % 2], &f))
            continue;
        f.compression = compressions[i / 2];
        f.index_type = i % 2 ? VV_INDEX_DENSE : VV_INDEX_SPARSE;
        round_trip_on(&f, g);
    }
}

Test(sst, holds_a_single_entry) {
    round_trip(&(generator){.count = 1, .value_bytes = 10, .block_bytes = 4096, .fp_rate = 0.01});
}

Test(sst, holds_every_small_number_of_entries) {
    for (uint64_t count = 2; count < 200; count += 13)
        round_trip(&(generator){.count = count, .value_bytes = 100, .block_bytes = 4096, .fp_rate = 0.01});
}

Test(sst, holds_a_hundred_thousand_entries) {
    round_trip(&(generator){.count = 100000, .value_bytes = 64, .block_bytes = 4096, .fp_rate = 0.01});
}

Test(sst, keeps_all_versions_of_a_key_across_blocks) {
    round_trip(&(generator){
        .count = 20000, .value_bytes = 40, .versions = 1000, .block_bytes = 4096, .fp_rate = 0.01});
}

Test(sst, works_with_large_blocks_and_without_a_filter) {
    round_trip(&(generator){.count = 5000, .value_bytes = 500, .block_bytes = 65536, .fp_rate = 0});
}

Test(sst, values_around_the_size_of_a_block_fit) {
    for (uint32_t bytes = 3960; bytes < 4100; bytes += 6)
        round_trip(&(generator){.count = 7, .value_bytes = bytes, .block_bytes = 4096, .fp_rate = 0.1});
}

Test(sst, holds_huge_values_and_extreme_keys) {
    fixture f = fixture_make();
    uint64_t seed = vv_test_seed();
    size_t huge = (size_t)5 << 20;
    char *value = malloc(huge);
    char *key = malloc(VV_KEY_BYTES_MAX);
    memset(value, 'h', huge);
    memset(key, 'k', VV_KEY_BYTES_MAX);
    vv_entry entries[] = {
        {.key = vv_slice_make("", 1), .value = vv_slice_make("small", 5), .lsn = 3, .kind = VV_KIND_PUT},
        {.key = vv_slice_make(key, 1), .value = vv_slice_make(value, huge), .lsn = 7, .kind = VV_KIND_PUT},
        {.key = vv_slice_make(key, 1), .value = vv_slice_make(value, 0), .lsn = 2, .kind = VV_KIND_PUT},
        {.key = vv_slice_make(key, 65534), .value = vv_slice_make("a", 1), .lsn = 5, .kind = VV_KIND_PUT},
        {.key = vv_slice_make(key, 65535), .value = vv_slice_make("b", 1), .lsn = 4, .kind = VV_KIND_PUT},
        {.key = vv_slice_make(key, 65535), .lsn = 1, .kind = VV_KIND_DELETE},
        {.key = vv_slice_make("\xff", 1), .value = vv_slice_make(value, huge), .lsn = 6, .kind = VV_KIND_PUT},
    };
    model m = {.entries = entries, .count = VV_ARRAY_COUNT(entries)};
    const char *path = vv_tempdir_path("t.sst");
    vv_sst_summary s = table_write(&f, path, &m, 4096, 0.01);
    check_table(&f, path, &m, &seed);
    vv_sst_summary_deinit(&s);
    free(value);
    free(key);
    fixture_free(&f);
}

/* ---- the filter ---- */

static double measured_rate(fixture *f, uint64_t keys, double fp_rate) {
    const char *path = vv_tempdir_path("f.sst");
    generator g = {.count = keys, .value_bytes = 1, .block_bytes = 65536, .fp_rate = fp_rate};
    model m = model_make(&g);
    vv_sst_summary s = table_write(f, path, &m, g.block_bytes, g.fp_rate);
    vv_sst_summary_deinit(&s);
    vv_sst_reader *r = table_open(f, path, 1);
    for (uint64_t i = 0; i < m.count; i++)
        cr_assert(vv_sst_reader_may_contain(r, vv_hash_key(m.entries[i].key.data, m.entries[i].key.bytes)));
    enum { probes = 400000 };
    uint64_t hits = 0;
    for (uint64_t i = 0; i < probes; i++) {
        char key[32];
        int bytes = snprintf(key, sizeof key, "other%llu", (unsigned long long)i);
        hits += vv_sst_reader_may_contain(r, vv_hash_key(key, (size_t)bytes));
    }
    double rate = (double)hits / probes;
    fprintf(stderr, "%llu keys, target %g: measured %g, %.2f bits a key\n", (unsigned long long)keys, fp_rate,
            rate, (double)vv_sst_reader_memory_bytes(r) * 8 / (double)keys);
    vv_sst_reader_close(r);
    model_free(&m);
    unlink(path);
    return rate;
}

Test(sst, the_filter_meets_its_rate) {
    static const double targets[] = {0.1, 0.01, 0.001};
    fixture f = fixture_make();
    for (size_t i = 0; i < VV_ARRAY_COUNT(targets); i++) {
        double rate = measured_rate(&f, 200000, targets[i]);
        cr_assert_geq(rate, targets[i] * 0.8);
        cr_assert_leq(rate, targets[i] * 1.2);
    }
    fixture_free(&f);
}

/* ---- reading no more than is needed ---- */

static vv_status (*real_file_read)(vv_file *, void *, size_t, uint64_t, size_t *);
static uint64_t bytes_read;

static vv_status counting_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    bytes_read += bytes;
    return real_file_read(f, buf, bytes, offset, read_out);
}

Test(sst, a_small_value_beside_huge_ones_is_read_without_them) {
    static const vv_compression compressions[] = {VV_COMPRESSION_NONE, VV_COMPRESSION_LZ4,
                                                  VV_COMPRESSION_ZSTD};
    enum { huge = 8 << 20, keys = 9 };
    uint64_t seed = vv_test_seed();
    char *value = malloc(huge);
    for (size_t i = 0; i < huge; i++)
        value[i] = (char)vv_test_random(&seed);
    char names[keys][2];
    vv_entry entries[keys];
    for (uint32_t i = 0; i < keys; i++) {
        memcpy(names[i], (char[2]){'k', (char)('0' + i)}, 2);
        entries[i] = (vv_entry){.key = vv_slice_make(names[i], 2),
                                .value = vv_slice_make(value, i % 2 ? huge : 10),
                                .lsn = i + 1,
                                .kind = VV_KIND_PUT};
    }
    model m = {.entries = entries, .count = keys};
    for (size_t n = 0; n < 6; n++) {
        fixture f = fixture_make();
        f.compression = compressions[n / 2];
        f.index_type = n % 2 ? VV_INDEX_DENSE : VV_INDEX_SPARSE;
        const char *path = vv_tempdir_path("t.sst");
        vv_sst_summary s = table_write(&f, path, &m, 4096, 0.01);
        vv_sst_summary_deinit(&s);
        vv_sst_reader *r = table_open(&f, path, 1);
        vv_block_cache *c = cache_make(16 << 20);
        struct vv_io_ops ops = *r->file->ops;
        real_file_read = ops.file_read;
        ops.file_read = counting_read;
        r->file->ops = &ops;
        for (uint32_t i = 0; i < keys; i++) {
            bytes_read = 0;
            check_find_key(r, c, entries[i].key, VV_LSN_MAX, &entries[i]);
            cr_assert_leq(bytes_read, entries[i].value.bytes + 2 * 4096, "key %u", i);
        }
        vv_block_cache_destroy(c);
        vv_sst_reader_close(r);
        fixture_free(&f);
    }
    free(value);
}
