/*
 * block.c - reading the bytes of one data block.
 *
 * Nothing is trusted before vv_sst_block_verify(), and vv_sst_block_unpack() if it is packed, have passed;
 * afterwards search and access read without further checks, since the block is what the check walked over.
 */
#include "base/checksum.h"
#include "engine/sst/sst_impl.h"

static vv_status bad_layout(void) {
    return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
}

static const uint8_t *payload_of(const void *bytes) {
    return (const uint8_t *)bytes + VV_SST_BLOCK_HEAD_BYTES;
}

uint32_t vv_sst_block_count(const void *bytes) {
    return vv_get_be32((const uint8_t *)bytes + 16);
}

static void entry_at(const void *bytes, const uint8_t *places, uint32_t index, vv_entry *out) {
    vv_sst_block_entry_at(bytes, vv_get_be32(places + index * sizeof(uint32_t)), out);
}

void vv_sst_block_entry(const void *bytes, uint32_t index, vv_entry *out) {
    VV_ASSERT(index < vv_sst_block_count(bytes));
    entry_at(bytes, vv_sst_block_places(bytes), index, out);
}

uint32_t vv_sst_block_lower_bound(const void *bytes, vv_slice key, uint64_t lsn) {
    const uint8_t *table = vv_sst_block_places(bytes);
    uint32_t low = 0, high = vv_sst_block_count(bytes);
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        vv_entry e;
        entry_at(bytes, table, mid, &e);
        if (vv_entry_compare(e.key, e.lsn, key, lsn) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool vv_sst_block_seek(const void *bytes, vv_slice key, uint64_t lsn, vv_entry *out) {
    uint32_t index = vv_sst_block_lower_bound(bytes, key, lsn);
    if (index == vv_sst_block_count(bytes))
        return false;
    entry_at(bytes, vv_sst_block_places(bytes), index, out);
    return true;
}

bool vv_sst_block_seek_key(vv_block_handle h, const void *bytes, vv_slice key, uint64_t lsn, vv_entry *out) {
    /* Whatever the position says, the entry there must be the one: else the search decides. */
    if (h.position < vv_sst_block_count(bytes)) {
        entry_at(bytes, vv_sst_block_places(bytes), h.position, out);
        if (vv_slice_equal(out->key, key) && out->lsn <= lsn)
            return true;
    }
    return vv_sst_block_seek(bytes, key, lsn, out) && vv_slice_equal(out->key, key);
}

/* The entries lie one behind the other in order, each is where the offset table says, and the last one ends
 * where the table begins. */
static vv_status check_entries(const uint8_t *payload, uint32_t raw_bytes, uint32_t count) {
    size_t table_bytes = (size_t)count * sizeof(uint32_t);
    size_t entries_bytes = raw_bytes - table_bytes;
    const uint8_t *table = payload + entries_bytes;
    vv_reader r = vv_reader_make(vv_slice_make(payload, entries_bytes));
    vv_entry before = {0};
    for (uint32_t i = 0; i < count; i++) {
        if (vv_get_be32(table + i * sizeof(uint32_t)) != entries_bytes - r.left_bytes)
            return bad_layout();
        vv_entry e = {.kind = vv_read_u8(&r), .flags = vv_read_u8(&r)};
        uint16_t key_bytes = vv_read_be16(&r);
        uint32_t value_bytes = vv_read_be32(&r);
        e.lsn = vv_read_be64(&r);
        e.expires_unix_ms = vv_read_be64(&r);
        e.key = vv_read_bytes(&r, key_bytes);
        e.value = vv_read_bytes(&r, value_bytes);
        if (r.bad || key_bytes == 0)
            return bad_layout();
        if (e.flags != 0 || (e.kind != VV_KIND_PUT && e.kind != VV_KIND_DELETE))
            return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
        if (e.kind == VV_KIND_DELETE && value_bytes != 0)
            return bad_layout();
        if (i > 0 && vv_entry_compare(before.key, before.lsn, e.key, e.lsn) >= 0)
            return bad_layout();
        before = e;
    }
    return r.left_bytes == 0 ? VV_STATUS_OK : bad_layout();
}

/* The head of a block of `size` bytes whose checksum is right. */
static vv_status check_head(const uint8_t *head, uint32_t size) {
    uint32_t stored_bytes = vv_get_be32(head + 8);
    uint32_t raw_bytes = vv_get_be32(head + 12);
    uint32_t count = vv_get_be32(head + 16);
    uint8_t compression = head[20];
    if (compression > VV_COMPRESSION_ZSTD || head[21] != 0 || vv_get_be16(head + 22) != 0)
        return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
    if (stored_bytes > size - VV_SST_BLOCK_HEAD_BYTES || count == 0 ||
        count > raw_bytes / (VV_SST_ENTRY_HEAD_BYTES + 1 + sizeof(uint32_t)))
        return bad_layout();
    if (compression == VV_COMPRESSION_NONE
            ? raw_bytes != stored_bytes
            : !vv_sst_raw_bytes_plausible(compression, stored_bytes, raw_bytes))
        return bad_layout();
    return VV_STATUS_OK;
}

vv_status vv_sst_block_verify(const vv_sst_reader *r, vv_block_handle h, const void *bytes,
                              uint32_t *image_bytes_out) {
    const uint8_t *head = bytes;
    *image_bytes_out = 0;
    uint64_t seed = vv_sst_seed(r->index.head.table_id, h.offset);
    if (vv_get_be64(head) != vv_checksum(head + VV_SST_CHECKSUM_BYTES, h.bytes - VV_SST_CHECKSUM_BYTES, seed))
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    VV_TRY(check_head(head, h.bytes));
    *image_bytes_out = vv_sst_block_image_bytes(bytes);
    return *image_bytes_out > 0
               ? VV_STATUS_OK
               : check_entries(payload_of(bytes), vv_get_be32(head + 12), vv_get_be32(head + 16));
}

uint32_t vv_sst_block_image_bytes(const void *stored) {
    const uint8_t *head = stored;
    return head[20] == VV_COMPRESSION_NONE ? 0 : VV_SST_BLOCK_HEAD_BYTES + vv_get_be32(head + 12);
}

vv_status vv_sst_block_unpack(vv_sst_unpacker *u, const void *stored, void *image) {
    const uint8_t *from = stored;
    uint8_t *head = image;
    uint32_t raw_bytes = vv_get_be32(from + 12);
    memcpy(head, from, VV_SST_BLOCK_HEAD_BYTES);
    vv_put_be32(head + 8, raw_bytes);
    head[20] = VV_COMPRESSION_NONE;
    vv_slice packed = vv_slice_make(payload_of(stored), vv_get_be32(from + 8));
    VV_TRY(vv_sst_unpack(u, from[20], packed, head + VV_SST_BLOCK_HEAD_BYTES, raw_bytes));
    return check_entries(payload_of(image), raw_bytes, vv_get_be32(head + 16));
}
