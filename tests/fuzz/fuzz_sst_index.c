/*
 * fuzz_sst_index.c - the index block of a table, dense and sparse: opened and searched.
 *
 *   input   [flags:1][blocks:1][index block]      flags   bit 0: its checksum is made right
 *
 * The index is told that it stands where `blocks` blocks of 4 KiB end. What holds for any bytes: in an
 * index that opens, blocks follow each other; a search for a block's last key names that block; a key that
 * a dense index has is found at its place.
 *
 * Bound: no allocation is larger than three times the block: 32 bytes of tables for a slot of 23 or more,
 * and 16 for the keys of a block.
 */
#include "engine/sst/sst_impl.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/fuzz.h"

static void search(const vv_sst_index *x) {
    uint64_t count = x->head.block_count, offset = 0;
    for (uint64_t i = 0; i < count; i++) {
        vv_sst_index_slot slot = vv_sst_index_slot_at(x, i);
        FUZZ_CHECK(slot.handle.offset == offset && slot.handle.bytes > 0 && slot.last_key.bytes > 0);
        offset += slot.handle.bytes;
        FUZZ_CHECK(vv_sst_index_find(x, slot.last_key, slot.last_lsn) == i);
        uint64_t newest = vv_sst_index_find(x, slot.last_key, VV_LSN_MAX);
        FUZZ_CHECK(newest <= i);
        uint32_t position = 0;
        if (x->head.type == VV_INDEX_DENSE) {
            FUZZ_CHECK(vv_sst_index_find_position(x, i, slot.last_key, slot.last_lsn, &position));
            FUZZ_CHECK(position == x->keys[i].count - 1);
        }
    }
    FUZZ_CHECK(offset == x->head.data_bytes);
    FUZZ_CHECK(vv_sst_index_find(x, x->head.first_key, VV_LSN_MAX) == 0);
}

/* Keys that need not be there. */
static void ask(const vv_sst_index *x, vv_slice key) {
    uint32_t position;
    uint64_t i = vv_sst_index_find(x, key, 5);
    if (i < x->head.block_count && x->head.type == VV_INDEX_DENSE)
        (void)vv_sst_index_find_position(x, i, key, 5, &position);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    bool fix = vv_read_u8(&r) & 1;
    uint64_t offset = (uint64_t)vv_read_u8(&r) * VV_SST_BLOCK_BYTES_MIN;
    vv_slice rest = fuzz_rest(&r);
    if (rest.bytes < VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES)
        return 0;
    uint8_t *block = fuzz_copy(rest);
    if (fix)
        fuzz_fix_index(block, rest.bytes, offset);
    vv_sst_index x;
    fuzz_allocation_max(3 * rest.bytes);
    vv_status st = vv_sst_index_open(&x, vv_slice_make(block, rest.bytes), offset);
    fuzz_allocation_max(0);
    free(block); /* the index has a copy of its own */
    if (vv_ok(st)) {
        search(&x);
        ask(&x, vv_slice_make(data, VV_MIN(bytes, (size_t)9)));
        ask(&x, vv_slice_make(data + bytes / 2, bytes - bytes / 2));
        ask(&x, vv_slice_make(x.head.first_key.data, 1));
        vv_sst_index_close(&x);
    }
    return 0;
}
