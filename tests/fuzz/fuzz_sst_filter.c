/*
 * fuzz_sst_filter.c - the filter block of a table, and the making of one.
 *
 *   input   [mode:1][filter block]             even mode: opened and asked
 *           [mode:1][rate:1][hash:8]...        odd mode: built from these hashes, and asked for each
 *
 * What holds for any bytes: asking reads nothing outside of the block, and a filter that was built has no
 * false negative. Bound: no allocation is larger than the block.
 */
#include "engine/sst/sst_impl.h"
#include "tests/fuzz/fuzz.h"

static void open_and_ask(vv_slice bytes) {
    vv_sst_filter f;
    uint8_t *block = fuzz_copy(bytes);
    fuzz_allocation_max(VV_MAX(bytes.bytes, (size_t)1));
    vv_status st = vv_sst_filter_open(&f, vv_slice_make(block, bytes.bytes));
    fuzz_allocation_max(0);
    free(block); /* the filter has a copy of its own */
    uint64_t yes = 0;
    for (uint64_t i = 0; vv_ok(st) && i < 64; i++) {
        yes += vv_sst_filter_may_contain(&f, i << 58);
        yes += vv_sst_filter_may_contain(&f, ~(i << 58));
        yes += vv_sst_filter_may_contain(&f, vv_hash_key(&i, sizeof i));
    }
    FUZZ_CHECK(yes <= 192);
    if (vv_ok(st))
        vv_sst_filter_close(&f);
}

static void build_and_ask(vv_reader r) {
    double rate = (vv_read_u8(&r) + 1) / 257.0;
    uint64_t hashes[512];
    size_t count = 0;
    while (count < VV_ARRAY_COUNT(hashes) && r.left_bytes >= 8)
        hashes[count++] = vv_read_be64(&r);
    if (count == 0)
        return;
    vv_sst_buffer built = {0};
    vv_sst_filter f;
    vv_status st = vv_sst_filter_build(hashes, count, rate, &built);
    FUZZ_CHECK(vv_ok(st));
    st = vv_sst_filter_open(&f, vv_slice_make(built.data, built.bytes));
    FUZZ_CHECK(vv_ok(st));
    for (size_t i = 0; i < count; i++)
        FUZZ_CHECK(vv_sst_filter_may_contain(&f, hashes[i]));
    vv_sst_filter_close(&f);
    vv_sst_buffer_deinit(&built);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    if (vv_read_u8(&r) & 1)
        build_and_ask(r);
    else
        open_and_ask(fuzz_rest(&r));
    return 0;
}
