/*
 * fuzz_sst_block.c - one data block of a table: verified, unpacked, searched.
 *
 *   input   [flags:1][block]      flags   bit 0: its checksum is made right
 *
 * What holds for any bytes: a block that passes has entries in strict internal order, each found again by
 * a search for it, none found between them.
 *
 * Bound: a block of n bytes asks for no more memory than its compression can express
 * (vv_sst_raw_bytes_plausible(): 255 n with LZ4, 32,768 n with Zstd, which a value of many equal bytes
 * does reach). To keep the fuzzer itself fast, those that pass their checksum and say more than 1 MiB are
 * left out.
 */
#include "engine/sst/sst_impl.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/fuzz.h"

#define TABLE_ID      7
#define OFFSET        4096
#define IMAGE_MAX     ((size_t)1 << 20)
#define BLOCK_MAX     ((size_t)64 << 10)
#define ENTRIES_ASKED 64

static bool same(const vv_entry *a, const vv_entry *b) {
    return a->lsn == b->lsn && a->kind == b->kind && a->expires_unix_ms == b->expires_unix_ms &&
           vv_slice_equal(a->key, b->key) && vv_slice_equal(a->value, b->value);
}

static void search(const void *block, uint32_t i) {
    vv_entry e, found;
    vv_sst_block_entry(block, i, &e);
    FUZZ_CHECK(vv_sst_block_lower_bound(block, e.key, e.lsn) == i);
    FUZZ_CHECK(vv_sst_block_seek(block, e.key, e.lsn, &found) && same(&e, &found));
    /* With the place that a dense index knows, and without. */
    for (int k = 0; k < 2; k++) {
        vv_block_handle h = {.position = k ? i : VV_SST_POSITION_UNKNOWN};
        FUZZ_CHECK(vv_sst_block_seek_key(h, block, e.key, e.lsn, &found) && same(&e, &found));
    }
    FUZZ_CHECK(vv_sst_block_lower_bound(block, e.key, VV_LSN_MAX) <= i);
}

static void walk(const void *block) {
    uint32_t count = vv_sst_block_count(block);
    vv_entry before = {0}, e;
    FUZZ_CHECK(count > 0);
    for (uint32_t i = 0; i < count; i++) {
        vv_sst_block_entry(block, i, &e);
        FUZZ_CHECK(e.key.bytes > 0 &&
                   (e.kind == VV_KIND_PUT || (e.kind == VV_KIND_DELETE && e.value.bytes == 0)));
        FUZZ_CHECK(i == 0 || vv_entry_compare(before.key, before.lsn, e.key, e.lsn) < 0);
        /* Every byte can be read. */
        FUZZ_CHECK(e.value.bytes == 0 || vv_checksum(e.value.data, e.value.bytes, 0) != 1);
        before = e;
    }
    for (uint32_t i = 0; i < VV_MIN(count, ENTRIES_ASKED); i++)
        search(block, i);
    search(block, count - 1);
}

static void unpack_and_walk(const uint8_t *block, uint32_t image_bytes) {
    vv_sst_unpacker unpacker = {0};
    uint8_t *image = fuzz_copy(vv_slice_make(NULL, 0));
    if (image_bytes <= IMAGE_MAX) {
        free(image);
        FUZZ_CHECK(posix_memalign((void **)&image, 64, image_bytes) == 0);
        vv_status st = vv_sst_block_unpack(&unpacker, block, image);
        if (vv_ok(st))
            walk(image);
    }
    free(image);
    vv_sst_unpacker_deinit(&unpacker);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    bool fix = vv_read_u8(&r) & 1;
    vv_slice rest = fuzz_rest(&r);
    if (rest.bytes < VV_SST_BLOCK_HEAD_BYTES || rest.bytes > BLOCK_MAX)
        return 0;
    uint8_t *block = fuzz_copy(rest);
    if (fix)
        fuzz_fix_block(block, rest.bytes, TABLE_ID, OFFSET);
    vv_sst_reader reader = {.index.head.table_id = TABLE_ID};
    vv_block_handle h = {.offset = OFFSET, .bytes = (uint32_t)rest.bytes};
    uint32_t image_bytes;
    vv_status st = vv_sst_block_verify(&reader, h, block, &image_bytes);
    if (vv_ok(st) && image_bytes == 0)
        walk(block);
    else if (vv_ok(st))
        unpack_and_walk(block, image_bytes);
    free(block);
    return 0;
}
