#include "tests/fuzz/fixup.h"

#include "base/checksum.h"
#include "base/codec.h"
#include "engine/db/archive_file.h"
#include "engine/sst/sst_impl.h"
#include "engine/wal/wal_format.h"

/* ---- the log, FORMAT.md section 1 ---- */

static void fix_wal_frame(uint8_t *at, size_t left_bytes, uint64_t seed) {
    uint64_t payload_bytes = vv_get_be64(at + 8);
    if (payload_bytes <= left_bytes - VV_WAL_FRAME_HEAD_BYTES)
        vv_put_be64(at + 48, vv_checksum(at + VV_WAL_FRAME_HEAD_BYTES, payload_bytes, seed));
    vv_put_be64(at + 56, vv_checksum(at, 56, seed));
}

void fuzz_fix_segment(uint8_t *file, size_t bytes, bool sizes) {
    vv_wal_segment_head head;
    if (bytes < VV_WAL_SEGMENT_HEAD_BYTES)
        return;
    uint32_t block_bytes = vv_get_be32(file + 12);
    if (sizes && block_bytes)
        vv_put_be64(file + 24, bytes / block_bytes * block_bytes);
    vv_put_be64(file + 56, vv_checksum(file, 56, 0));
    vv_status st = vv_wal_segment_head_decode(file, &head);
    if (!vv_ok(st))
        return;
    uint64_t seed = vv_wal_segment_seed(&head);
    for (size_t at = block_bytes; at + VV_WAL_FRAME_HEAD_BYTES <= bytes; at += block_bytes)
        if (memcmp(file + at, "VWFM", 4) == 0)
            fix_wal_frame(file + at, bytes - at, seed);
}

/* ---- tables, section 2 ---- */

void fuzz_fix_block(uint8_t *block, size_t bytes, uint64_t table_id, uint64_t offset) {
    if (bytes >= VV_SST_CHECKSUM_BYTES)
        vv_put_be64(block, vv_checksum(block + VV_SST_CHECKSUM_BYTES, bytes - VV_SST_CHECKSUM_BYTES,
                                       vv_sst_seed(table_id, offset)));
}

void fuzz_fix_index(uint8_t *block, size_t bytes, uint64_t offset) {
    if (bytes < VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES)
        return;
    size_t covered = bytes - VV_SST_CHECKSUM_BYTES;
    vv_put_be64(block + covered, vv_checksum(block, covered, vv_sst_seed(vv_get_be64(block + 8), offset)));
}

/* The blocks that the index names. */
static void fix_blocks(uint8_t *file, uint64_t index_offset, uint64_t index_bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(file + index_offset, index_bytes));
    vv_slice head = vv_read_bytes(&r, VV_SST_INDEX_HEAD_BYTES);
    if (r.bad)
        return;
    uint64_t table_id = vv_get_be64((const uint8_t *)head.data + 8);
    (void)vv_read_bytes(&r, vv_get_be16((const uint8_t *)head.data + 88));
    while (!r.bad) {
        uint64_t offset = vv_read_be64(&r);
        uint32_t bytes = vv_read_be32(&r);
        (void)vv_read_be64(&r);
        (void)vv_read_bytes(&r, vv_read_be16(&r));
        if (r.bad || offset > index_offset || bytes > index_offset - offset)
            return;
        fuzz_fix_block(file + offset, bytes, table_id, offset);
    }
}

void fuzz_fix_table(uint8_t *file, size_t bytes, bool sizes) {
    if (bytes < VV_SST_FOOTER_BYTES)
        return;
    uint64_t end = bytes - VV_SST_FOOTER_BYTES;
    uint8_t *footer = file + end;
    uint64_t index_offset = vv_get_be64(footer), index_bytes = vv_get_be64(footer + 8);
    if (index_offset > end || index_bytes > end - index_offset ||
        index_bytes < VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES)
        return;
    if (sizes) {
        vv_put_be64(footer + 16, index_offset + index_bytes);
        vv_put_be64(footer + 24, end - index_offset - index_bytes);
    }
    uint8_t *index = file + index_offset;
    uint64_t table_id = vv_get_be64(index + 8);
    fix_blocks(file, index_offset, index_bytes);
    uint64_t filter_offset = vv_get_be64(footer + 16), filter_bytes = vv_get_be64(footer + 24);
    if (filter_offset <= end && filter_bytes <= end - filter_offset && filter_bytes > 0)
        vv_put_be64(index + 64,
                    vv_checksum(file + filter_offset, filter_bytes, vv_sst_seed(table_id, filter_offset)));
    vv_put_be64(index + 72, vv_checksum(footer, VV_SST_FOOTER_BYTES, vv_sst_seed(table_id, end)));
    fuzz_fix_index(index, index_bytes, index_offset);
}

/* ---- manifest, section 3; markers, section 6 ---- */

void fuzz_fix_end(uint8_t *file, size_t bytes) {
    if (bytes >= 8)
        vv_put_be64(file + bytes - 8, vv_checksum(file, bytes - 8, 0));
}

void fuzz_fix_manifest(uint8_t *file, size_t bytes) {
    if (bytes >= 24)
        vv_put_be64(file + 8, bytes);
    fuzz_fix_end(file, bytes);
}

/* ---- archive files, section 4 ---- */

static void fix_archive_frame(uint8_t *at, size_t left_bytes, uint64_t seed) {
    uint64_t payload_bytes = vv_get_be64(at + 8);
    if (payload_bytes <= left_bytes - VV_ARCHIVE_FRAME_HEAD_BYTES)
        vv_put_be64(at + 72, vv_checksum(at + VV_ARCHIVE_FRAME_HEAD_BYTES, payload_bytes, seed));
    vv_put_be64(at + 80, vv_checksum(at, 80, seed));
}

void fuzz_fix_archive(uint8_t *file, size_t bytes) {
    if (bytes < VV_ARCHIVE_HEAD_BYTES)
        return;
    vv_put_be64(file + 56, vv_checksum(file, 56, 0));
    uint64_t seed = vv_get_be64(file + 56);
    /* A frame may begin anywhere in a block, behind another. */
    for (size_t at = VV_ARCHIVE_HEAD_BYTES; at + VV_ARCHIVE_FRAME_HEAD_BYTES <= bytes; at++)
        if (memcmp(file + at, "VAFM", 4) == 0)
            fix_archive_frame(file + at, bytes - at, seed);
}
