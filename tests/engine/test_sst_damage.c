/*
 * Tables that are not whole: damage is found, or does not matter; it never yields a wrong value.
 */
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/codec.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"
#include "tests/engine/sst_fixture.h"

enum { FOOTER_BYTES = 56 };

typedef struct footer {
    uint64_t index_offset, index_bytes, filter_offset, filter_bytes, item_count, max_lsn;
} footer;

/* By hand, as somebody would who has only the contract. */
static footer parse_footer(const uint8_t *file, size_t bytes) {
    const uint8_t *at = file + bytes - FOOTER_BYTES;
    uint64_t fields[6];
    for (size_t i = 0; i < 6; i++) {
        fields[i] = 0;
        for (size_t j = 0; j < 8; j++)
            fields[i] = fields[i] << 8 | at[i * 8 + j];
    }
    return (footer){fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]};
}

static const generator small = {
    .count = 40, .value_bytes = 150, .versions = 3, .block_bytes = 4096, .fp_rate = 0.01};

typedef struct table {
    fixture f;
    model m;
    const char *path;
    uint8_t *bytes;
    size_t count;
    vv_block_cache *cache;
} table;

/* In memory where that is possible: thousands of files are written and read back past the page cache. */
static table table_make_as(const generator *g, vv_compression compression, vv_index_type index_type) {
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 1);
    table t = {.f = fixture_make(), .m = model_make(g), .path = vv_tempdir_path("t.sst")};
    t.f.compression = compression;
    t.f.index_type = index_type;
    vv_sst_summary s = table_write(&t.f, t.path, &t.m, g->block_bytes, g->fp_rate);
    t.bytes = file_read_all(t.path, &t.count);
    cr_assert_eq(s.file_bytes, t.count);
    vv_sst_summary_deinit(&s);
    return t;
}

static table table_make(const generator *g) {
    return table_make_as(g, VV_COMPRESSION_NONE, VV_INDEX_SPARSE);
}

static void table_free(table *t) {
    free(t->bytes);
    model_free(&t->m);
    fixture_free(&t->f);
}

static bool is_refusal(vv_status st) {
    return vv_is(st, VV_CORRUPTION) || vv_is(st, VV_UNSUPPORTED);
}

/* Open the file and read every key. False: damage was reported somewhere. A wrong answer fails the test. */
static bool reads_right(table *t) {
    vv_sst_reader *r;
    vv_error err = {{0}};
    vv_status st = vv_sst_reader_open(t->f.backend, t->path, 1, &r, &err);
    if (!vv_ok(st)) {
        cr_assert(is_refusal(st), "%s: %s", vv_code_name(st.code), err.text);
        cr_assert(strstr(err.text, t->path), "words without the path: %s", err.text);
        return false;
    }
    vv_block_cache *c;
    cr_assert(vv_ok(vv_block_cache_create(1 << 20, &c)));
    bool right = true;
    for (uint64_t i = 0; i < t->m.count; i++) {
        const vv_entry *want = &t->m.entries[i];
        cr_assert(vv_sst_reader_may_contain(r, vv_hash_key(want->key.data, want->key.bytes)));
        vv_block_handle h;
        vv_block *b;
        cr_assert(vv_sst_reader_find(r, want->key, want->lsn, &h));
        st = vv_block_cache_read(c, r, h, &b, &err);
        if (!vv_ok(st)) {
            cr_assert(is_refusal(st));
            cr_assert(strstr(err.text, t->path));
            cr_assert_null(b);
            right = false;
            continue;
        }
        vv_entry got;
        cr_assert(vv_sst_block_seek(b->data, want->key, want->lsn, &got));
        cr_assert(entry_equal(&got, want), "a wrong value");
        vv_block_cache_release(c, b);
    }
    vv_block_cache_destroy(c);
    vv_sst_reader_close(r);
    return right;
}

Test(sst_damage, the_footer_is_what_the_contract_says) {
    table t = table_make(&small);
    footer f = parse_footer(t.bytes, t.count);
    cr_assert_eq(f.index_offset % 4096, 0);
    cr_assert_gt(f.index_offset, 0);
    cr_assert_eq(f.index_offset + f.index_bytes, f.filter_offset);
    cr_assert_eq(f.filter_offset + f.filter_bytes + FOOTER_BYTES, t.count);
    cr_assert_gt(f.filter_bytes, 0);
    cr_assert_eq(f.item_count, t.m.count);
    cr_assert_eq(f.max_lsn, t.m.count);
    cr_assert_eq(memcmp(t.bytes + t.count - 8, "VARVSST\x01", 8), 0);
    table_free(&t);

    generator bare = small;
    bare.fp_rate = 0;
    t = table_make(&bare);
    cr_assert_eq(parse_footer(t.bytes, t.count).filter_bytes, 0);
    cr_assert(reads_right(&t));
    table_free(&t);
}

static void check_every_flip(const generator *g, vv_compression compression, vv_index_type index_type) {
    table t = table_make_as(g, compression, index_type);
    cr_assert(reads_right(&t));
    for (size_t i = 0; i < t.count; i++) {
        uint8_t before = t.bytes[i];
        t.bytes[i] ^= (uint8_t)(1U << i % 8);
        file_write_all(t.path, t.bytes, t.count);
        t.bytes[i] = before;
        cr_assert_not(reads_right(&t), "byte %zu of %zu is not covered", i, t.count);
    }
    table_free(&t);
}

Test(sst_damage, every_flipped_byte_is_found, .timeout = 120) {
    check_every_flip(&small, VV_COMPRESSION_NONE, VV_INDEX_SPARSE);
}

Test(sst_damage, every_flipped_byte_of_a_compressed_table_is_found, .timeout = 120) {
    check_every_flip(&small, VV_COMPRESSION_LZ4, VV_INDEX_SPARSE);
    check_every_flip(&small, VV_COMPRESSION_ZSTD, VV_INDEX_DENSE);
}

Test(sst_damage, every_truncation_is_found, .timeout = 120) {
    table t = table_make(&small);
    for (size_t bytes = t.count; bytes-- > 0;) {
        cr_assert_eq(truncate(t.path, (off_t)bytes), 0);
        cr_assert_not(reads_right(&t), "cut at %zu", bytes);
    }
    table_free(&t);
}

Test(sst_damage, random_damage_of_the_tail_is_found) {
    table t = table_make(&small);
    uint64_t seed = vv_test_seed();
    size_t tail = (size_t)parse_footer(t.bytes, t.count).index_offset;
    uint8_t *bytes = malloc(t.count);
    for (int n = 0; n < 2000; n++) {
        memcpy(bytes, t.bytes, t.count);
        for (uint64_t left = 1 + vv_test_random(&seed) % 8; left > 0; left--) {
            uint64_t from = vv_test_random(&seed) % 2 ? tail : t.count - FOOTER_BYTES;
            bytes[from + vv_test_random(&seed) % (t.count - from)] = (uint8_t)vv_test_random(&seed);
        }
        file_write_all(t.path, bytes, t.count);
        cr_assert_eq(reads_right(&t), memcmp(bytes, t.bytes, t.count) == 0);
    }
    free(bytes);
    table_free(&t);
}

Test(sst_damage, garbage_behind_the_end_is_found) {
    table t = table_make(&small);
    uint8_t *longer = calloc(1, t.count + 4096);
    memcpy(longer, t.bytes, t.count);
    for (size_t more = 1; more <= 4096; more += 45) {
        file_write_all(t.path, longer, t.count + more);
        cr_assert_not(reads_right(&t));
    }
    free(longer);
    table_free(&t);
}

static vv_status open_status(table *t, vv_error *err) {
    vv_sst_reader *r;
    vv_status st = vv_sst_reader_open(t->f.backend, t->path, 1, &r, err);
    vv_sst_reader_close(r);
    return st;
}

Test(sst_damage, a_newer_version_is_refused_as_such) {
    table t = table_make(&small);
    vv_error err = {{0}};
    t.bytes[t.count - 1]++;
    file_write_all(t.path, t.bytes, t.count);
    vv_status st = open_status(&t, &err);
    cr_assert(vv_is(st, VV_UNSUPPORTED));
    cr_assert_eq(st.sub, VV_SUB_FORMAT_NEWER);
    cr_assert(strstr(err.text, "newer version"), "%s", err.text);
    table_free(&t);
}

Test(sst_damage, what_is_no_table_is_refused_as_such) {
    table t = table_make(&small);
    vv_error err = {{0}};
    memset(t.bytes, 'x', t.count);
    file_write_all(t.path, t.bytes, t.count);
    vv_status st = open_status(&t, &err);
    cr_assert(vv_is(st, VV_CORRUPTION) && st.sub == VV_SUB_BAD_MAGIC);
    file_write_all(t.path, "", 0);
    st = open_status(&t, &err);
    cr_assert(vv_is(st, VV_CORRUPTION) && st.sub == VV_SUB_TRUNCATED);
    unlink(t.path);
    cr_assert(vv_is(open_status(&t, &err), VV_NOT_FOUND));
    table_free(&t);
}

/* Valid blocks in the wrong place: what a checksum without a seed would take. */
Test(sst_damage, a_block_of_another_place_or_table_is_found) {
    generator g = {.count = 400, .value_bytes = 100, .block_bytes = 4096, .fp_rate = 0};
    table t = table_make(&g);
    uint8_t *swapped = malloc(t.count);
    memcpy(swapped, t.bytes, t.count);
    memcpy(swapped, t.bytes + 4096, 4096);
    memcpy(swapped + 4096, t.bytes, 4096);
    file_write_all(t.path, swapped, t.count);
    cr_assert_not(reads_right(&t));

    const char *other = vv_tempdir_path("other.sst");
    vv_sst_summary s = table_write(&t.f, other, &t.m, g.block_bytes, g.fp_rate);
    vv_sst_summary_deinit(&s);
    size_t other_count;
    uint8_t *other_bytes = file_read_all(other, &other_count);
    cr_assert_eq(other_count, t.count);
    memcpy(swapped, t.bytes, t.count);
    memcpy(swapped, other_bytes, 4096);
    file_write_all(t.path, swapped, t.count);
    cr_assert_not(reads_right(&t));
    free(other_bytes);
    free(swapped);
    table_free(&t);
}

Test(sst_damage, a_corrupt_block_is_not_cached) {
    table t = table_make(&small);
    vv_sst_reader *r = table_open(&t.f, t.path, 1);
    vv_block_cache *c;
    cr_assert(vv_ok(vv_block_cache_create(1 << 20, &c)));
    t.bytes[100] ^= 1;
    file_write_all(t.path, t.bytes, t.count);
    vv_block *b;
    for (int i = 0; i < 2; i++) {
        vv_status st = vv_block_cache_read(c, r, vv_sst_reader_block(r, 0), &b, NULL);
        cr_assert(vv_is(st, VV_CORRUPTION) && st.sub == VV_SUB_CHECKSUM);
        cr_assert_null(vv_block_cache_lookup(c, 1, 0));
    }
    vv_iter *it;
    cr_assert(vv_ok(vv_sst_iter_create(r, c, NULL, &it)));
    vv_iter_seek_first(it);
    cr_assert_not(it->valid);
    cr_assert(vv_is(it->status, VV_CORRUPTION));
    vv_iter_seek(it, t.m.entries[t.m.count - 1].key, VV_LSN_MAX); /* a good block */
    cr_assert(it->valid && vv_ok(it->status));
    vv_iter_seek_first(it);
    cr_assert(!it->valid && vv_is(it->status, VV_CORRUPTION));
    vv_iter_destroy(it);
    vv_block_cache_destroy(c);
    vv_sst_reader_close(r);
    table_free(&t);
}

/* Damage that comes with a right checksum, as from a bug in a writer: the layout is checked as well. */
static void reseal(uint8_t *block, uint32_t bytes, uint64_t table_id, uint64_t offset) {
    uint64_t seed = table_id + (offset + 1) * UINT64_C(0x9E3779B97F4A7C15);
    vv_put_be64(block, vv_checksum(block + 8, bytes - 8, seed));
}

/* Verify, and unpack into `image` if need be; *out: the ready block. */
static vv_status make_ready(const vv_sst_reader *r, vv_block_handle h, const uint8_t *stored, uint8_t **image,
                            const uint8_t **out, uint64_t *end) {
    vv_sst_unpacker u = {0};
    uint32_t image_bytes;
    VV_TRY(vv_sst_block_verify(r, h, stored, &image_bytes));
    *out = stored;
    *end = h.bytes;
    if (image_bytes == 0)
        return VV_STATUS_OK;
    *image = realloc(*image, image_bytes); /* exactly: a sanitizer sees what goes beyond */
    *out = *image;
    *end = image_bytes;
    vv_status st = vv_sst_block_unpack(&u, stored, *image);
    vv_sst_unpacker_deinit(&u);
    return st;
}

static void check_impossible_blocks(vv_compression compression) {
    table t = table_make_as(&small, compression, VV_INDEX_SPARSE);
    uint64_t seed = vv_test_seed();
    vv_sst_reader *r = table_open(&t.f, t.path, 1);
    footer f = parse_footer(t.bytes, t.count);
    uint64_t table_id = vv_get_be64(t.bytes + f.index_offset + 8);
    vv_block_handle h = vv_sst_reader_block(r, 0);
    uint8_t *block = malloc(4096), *image = NULL;
    const uint8_t *ready;
    uint64_t end;
    memcpy(block, t.bytes, 4096);
    cr_assert_eq(block[20], compression);
    cr_assert(vv_ok(make_ready(r, h, block, &image, &ready, &end)));
    uint64_t stored = vv_get_be32(block + 8), refused = 0;
    for (int n = 0; n < 20000; n++) {
        memcpy(block, t.bytes, 4096);
        for (uint64_t left = 1 + vv_test_random(&seed) % 4; left > 0; left--)
            block[8 + vv_test_random(&seed) % (n % 2 ? 60 : stored)] = (uint8_t)vv_test_random(&seed);
        reseal(block, 4096, table_id, 0);
        if (vv_get_be32(block + 12) > 1 << 20)
            continue; /* a plausible size or not: too large for a test */
        vv_status st = make_ready(r, h, block, &image, &ready, &end);
        if (!vv_ok(st)) {
            cr_assert(is_refusal(st));
            refused++;
            continue;
        }
        /* Accepted: then every access stays inside the block. */
        for (uint32_t i = 0; i < vv_sst_block_count(ready); i++) {
            vv_entry e;
            vv_sst_block_entry(ready, i, &e);
            cr_assert((const uint8_t *)e.value.data + e.value.bytes <= ready + end);
            cr_assert(vv_sst_block_seek(ready, e.key, e.lsn, &e));
        }
    }
    cr_assert_gt(refused, 100);
    memcpy(block, t.bytes, 4096);
    block[20] = 9; /* a compression of the future */
    reseal(block, 4096, table_id, 0);
    cr_assert(vv_is(make_ready(r, h, block, &image, &ready, &end), VV_UNSUPPORTED));
    if (compression != VV_COMPRESSION_NONE) {
        memcpy(block, t.bytes, 4096);
        vv_put_be32(block + 12, UINT32_MAX); /* nobody allocates this */
        reseal(block, 4096, table_id, 0);
        cr_assert(vv_is(make_ready(r, h, block, &image, &ready, &end), VV_CORRUPTION));
    }
    free(image);
    free(block);
    vv_sst_reader_close(r);
    table_free(&t);
}

Test(sst_damage, impossible_blocks_are_refused_whatever_their_checksum) {
    check_impossible_blocks(VV_COMPRESSION_NONE);
    check_impossible_blocks(VV_COMPRESSION_LZ4);
    check_impossible_blocks(VV_COMPRESSION_ZSTD);
}

static void check_impossible_indexes(vv_index_type index_type) {
    table t = table_make_as(&small, VV_COMPRESSION_NONE, index_type);
    uint64_t seed = vv_test_seed();
    footer f = parse_footer(t.bytes, t.count);
    uint8_t *bytes = malloc(t.count);
    for (int n = 0; n < 5000; n++) {
        memcpy(bytes, t.bytes, t.count);
        uint8_t *index = bytes + f.index_offset;
        for (uint64_t left = 1 + vv_test_random(&seed) % 3; left > 0; left--)
            index[vv_test_random(&seed) % (f.index_bytes - 8)] = (uint8_t)vv_test_random(&seed);
        uint64_t table_id = vv_get_be64(index + 8);
        uint64_t index_seed = table_id + (f.index_offset + 1) * UINT64_C(0x9E3779B97F4A7C15);
        vv_put_be64(index + f.index_bytes - 8, vv_checksum(index, f.index_bytes - 8, index_seed));
        file_write_all(t.path, bytes, t.count);
        vv_sst_reader *r;
        if (!vv_ok(vv_sst_reader_open(t.f.backend, t.path, 1, &r, NULL)))
            continue;
        /* Accepted: then every block that it names is in the data. */
        for (uint64_t i = 0; i < vv_sst_reader_block_count(r); i++) {
            vv_block_handle h = vv_sst_reader_block(r, i);
            cr_assert(h.offset + h.bytes <= f.index_offset);
        }
        for (uint64_t i = 0; i < t.m.count; i++) {
            vv_block_handle h;
            (void)vv_sst_reader_find(r, t.m.entries[i].key, t.m.entries[i].lsn, &h);
            (void)vv_sst_reader_find_key(r, t.m.entries[i].key, t.m.entries[i].lsn, &h);
        }
        vv_sst_reader_close(r);
    }
    free(bytes);
    table_free(&t);
}

Test(sst_damage, impossible_indexes_are_refused_whatever_their_checksum) {
    check_impossible_indexes(VV_INDEX_SPARSE);
    check_impossible_indexes(VV_INDEX_DENSE);
}

/* ---- no memory ---- */

static void check_allocations(vv_compression compression, vv_index_type index_type) {
    fixture f = fixture_make();
    generator g = {.count = 300, .value_bytes = 100, .block_bytes = 4096, .fp_rate = 0.01};
    model m = model_make(&g);
    const char *path = vv_tempdir_path("t.sst");
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        cr_assert_lt(n, 1000);
        unlink(path);
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        vv_sst_writer_options o = {.queue = f.queue,
                                   .backend = f.backend,
                                   .path = path,
                                   .block_bytes = g.block_bytes,
                                   .filter_fp_rate = g.fp_rate,
                                   .compression = compression,
                                   .index_type = index_type};
        vv_sst_writer *w;
        vv_sst_reader *r = NULL;
        vv_block_cache *c = NULL;
        vv_iter *it = NULL;
        vv_sst_summary s = {0};
        vv_status st = vv_sst_writer_create(&o, &w, NULL);
        for (uint64_t i = 0; vv_ok(st) && i < m.count; i++)
            st = vv_sst_writer_add(w, &m.entries[i]);
        if (vv_ok(st))
            st = vv_sst_writer_finish(w, &s, NULL);
        if (vv_ok(st))
            st = vv_sst_reader_open(f.backend, path, 1, &r, NULL);
        if (vv_ok(st))
            st = vv_block_cache_create(1 << 20, &c);
        if (vv_ok(st))
            st = vv_sst_iter_create(r, c, NULL, &it);
        if (vv_ok(st)) {
            vv_iter_seek_first(it);
            st = it->status;
        }
        done = vv_alloc_count() < last;
        cr_assert(done ? vv_ok(st) : vv_is(st, VV_NO_MEMORY), "site %lu: %s", (unsigned long)n,
                  vv_code_name(st.code));
        vv_alloc_fail_at(0);
        vv_iter_destroy(it);
        vv_block_cache_destroy(c);
        vv_sst_reader_close(r);
        vv_sst_summary_deinit(&s);
        vv_sst_writer_destroy(w);
    }
    model_free(&m);
    fixture_free(&f);
}

Test(sst_damage, every_failed_allocation_is_reported, .timeout = 60) {
    check_allocations(VV_COMPRESSION_NONE, VV_INDEX_SPARSE);
    check_allocations(VV_COMPRESSION_LZ4, VV_INDEX_DENSE);
    check_allocations(VV_COMPRESSION_ZSTD, VV_INDEX_DENSE);
}
