/*
 * fuzz_sst_footer.c - the last 56 bytes of a table.
 *
 *   input   [file_bytes:8][footer:56]
 *
 * What holds for any bytes: in a footer that is accepted the parts lie one behind the other up to the
 * footer, all within the file, and encoding it again gives the same bytes. It allocates nothing.
 */
#include "engine/sst/sst_impl.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    uint64_t file_bytes = vv_read_be64(&r);
    vv_slice at = vv_read_bytes(&r, VV_SST_FOOTER_BYTES);
    if (r.bad || file_bytes < VV_SST_FOOTER_BYTES)
        return 0;
    uint8_t *footer = fuzz_copy(at), again[VV_SST_FOOTER_BYTES];
    vv_sst_footer f;
    fuzz_allocation_max(1);
    vv_status st = vv_sst_footer_decode(footer, file_bytes, &f);
    fuzz_allocation_max(0);
    if (vv_ok(st)) {
        uint64_t end = file_bytes - VV_SST_FOOTER_BYTES;
        FUZZ_CHECK(f.index_offset <= end && f.index_bytes <= end - f.index_offset);
        FUZZ_CHECK(f.index_bytes >= VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES);
        FUZZ_CHECK(f.filter_offset == f.index_offset + f.index_bytes);
        FUZZ_CHECK(f.filter_bytes == end - f.filter_offset);
        vv_sst_footer_encode(&f, again);
        FUZZ_CHECK(memcmp(footer, again, sizeof again) == 0);
    }
    free(footer);
    return 0;
}
