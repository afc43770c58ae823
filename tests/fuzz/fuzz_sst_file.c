/*
 * fuzz_sst_file.c - a whole table: opened, verified, scanned in three ways, each key looked up.
 *
 *   input   [flags:1][file]     flags   bit 0: checksums are made right    bit 1: and the sizes in the footer
 *
 * What holds for any bytes: every way of reading ends with a status. In a table that verify finds nothing
 * wrong with, scan and cursor give the same entries, as many as the table says, in strict order; and a
 * lookup of each gives it back.
 *
 * Bound: no allocation is larger than a scan's buffers of 1.5 MiB, or the file's longest block unpacked.
 * To keep the fuzzer fast, tables with packed blocks of more than 1 MiB are left out.
 */
#include "engine/sst/block_cache.h"
#include "engine/sst/scan.h"
#include "engine/sst/sst_impl.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mem_io.h"

#define PATH           "/d/table.sst"
#define CACHE_BYTES    ((uint64_t)4 << 20)
#define ALLOCATION_MAX ((size_t)2 << 20)
#define RAW_BYTES_MAX  ((uint32_t)1 << 20)
#define FILE_BYTES_MAX ((size_t)1 << 20)

enum { FIX_CHECKSUMS = 1, FIX_SIZES = 2 };

typedef struct table {
    vv_io_backend *disk;
    vv_io_queue *queue;
    vv_sst_reader *reader;
    vv_block_cache *cache;
    bool sound; /* as verify has it */
} table;

static void damaged(void *arg, const vv_sst_damage *d) {
    table *t = arg;
    FUZZ_CHECK(d->bytes > 0 && d->first_key.bytes > 0 && d->last_key.bytes > 0 && !vv_ok(d->status));
    t->sound = false;
}

static bool pace(void *arg, uint64_t bytes) {
    (void)arg;
    (void)bytes;
    return true;
}

/* Does each block ask for as little memory as this fuzzer has? */
static bool is_small(const table *t, const uint8_t *file) {
    for (uint64_t i = 0; i < vv_sst_reader_block_count(t->reader); i++) {
        vv_block_handle h = vv_sst_reader_block(t->reader, i);
        if (h.bytes >= VV_SST_BLOCK_HEAD_BYTES && vv_get_be32(file + h.offset + 12) > RAW_BYTES_MAX)
            return false;
    }
    return true;
}

static void look_up(table *t, const vv_entry *want) {
    vv_block_handle h;
    vv_block *block;
    vv_entry e;
    FUZZ_CHECK(vv_sst_reader_may_contain(t->reader, vv_hash_key(want->key.data, want->key.bytes)));
    FUZZ_CHECK(vv_sst_reader_find_key(t->reader, want->key, want->lsn, &h));
    vv_status st = vv_block_cache_read(t->cache, t->reader, h, &block, NULL);
    FUZZ_CHECK(vv_ok(st));
    FUZZ_CHECK(vv_sst_block_seek_key(h, block->data, want->key, want->lsn, &e));
    FUZZ_CHECK(e.lsn == want->lsn && e.kind == want->kind && vv_slice_equal(e.value, want->value));
    vv_block_cache_release(t->cache, block);
}

/* Forwards; returns the digest of what was seen. */
static uint64_t walk(table *t, vv_iter *it, bool look) {
    uint64_t count = 0, digest = 0;
    uint8_t *key = NULL;
    size_t key_bytes = 0;
    uint64_t lsn = 0;
    vv_iter_seek_first(it);
    for (; it->valid; vv_iter_next(it), count++) {
        const vv_entry *e = &it->entry;
        if (count > 0 && t->sound)
            FUZZ_CHECK(vv_entry_compare(vv_slice_make(key, key_bytes), lsn, e->key, e->lsn) < 0);
        free(key);
        key = fuzz_copy(e->key);
        key_bytes = e->key.bytes;
        lsn = e->lsn;
        digest = vv_checksum(key, key_bytes, digest ^ lsn);
        digest = e->value.bytes ? vv_checksum(e->value.data, e->value.bytes, digest) : digest;
        if (look && t->sound)
            look_up(t, e);
    }
    free(key);
    if (t->sound)
        FUZZ_CHECK(vv_ok(it->status) && count == vv_sst_reader_item_count(t->reader));
    vv_iter_destroy(it);
    return digest;
}

static void walk_back(vv_iter *it) {
    for (vv_iter_seek_last(it); it->valid;)
        vv_iter_prev(it);
    vv_iter_seek(it, vv_slice_str("key7"), 5);
    vv_iter_seek_back(it, vv_slice_str("key7"), 5);
    vv_iter_destroy(it);
}

static vv_iter *cursor_of(table *t) {
    vv_iter *it;
    vv_status st = vv_sst_iter_create(t->reader, t->cache, NULL, &it);
    FUZZ_CHECK(vv_ok(st));
    return it;
}

static void read_all(table *t) {
    vv_iter *scan;
    uint64_t block_count;
    vv_sst_verify_options v = {.damaged = damaged, .pace = pace, .arg = t};
    t->sound = true;
    vv_status st = vv_sst_verify_blocks(t->reader, &v, &block_count);
    FUZZ_CHECK(vv_ok(st) && block_count == vv_sst_reader_block_count(t->reader));
    vv_sst_scan_options o = {.queue = t->queue, .window_bytes = VV_SST_SCAN_BYTES_MAX};
    st = vv_sst_scan_create(t->reader, &o, &scan);
    FUZZ_CHECK(vv_ok(st));
    uint64_t scanned = walk(t, scan, false);
    uint64_t seen = walk(t, cursor_of(t), true);
    FUZZ_CHECK(!t->sound || scanned == seen);
    walk_back(cursor_of(t));
}

static void open_table(table *t, const uint8_t *file) {
    uint64_t offset;
    vv_error err;
    vv_status st = vv_sst_reader_open_at(t->disk, PATH, 1, &t->reader, &offset, &err);
    if (!vv_ok(st))
        return;
    st = vv_block_cache_create(CACHE_BYTES, &t->cache);
    FUZZ_CHECK(vv_ok(st));
    if (is_small(t, file))
        read_all(t);
    vv_block_cache_destroy(t->cache);
    vv_sst_reader_close(t->reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    uint8_t flags = vv_read_u8(&r);
    vv_slice rest = fuzz_rest(&r);
    if (rest.bytes > FILE_BYTES_MAX)
        return 0;
    uint8_t *file = fuzz_copy(rest);
    if (flags & FIX_CHECKSUMS)
        fuzz_fix_table(file, rest.bytes, flags & FIX_SIZES);
    table t = {.disk = fuzz_disk_create()};
    vv_io_queue_options o = {.depth = 4};
    vv_status st = vv_io_queue_create(t.disk, &o, &t.queue, NULL);
    FUZZ_CHECK(vv_ok(st));
    fuzz_disk_put(t.disk, PATH, vv_slice_make(file, rest.bytes));
    fuzz_allocation_max(ALLOCATION_MAX);
    open_table(&t, file);
    fuzz_allocation_max(0);
    vv_io_queue_destroy(t.queue);
    vv_io_backend_destroy(t.disk);
    free(file);
    return 0;
}
