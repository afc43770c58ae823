/*
 * index.c - the index block: what a table is, and which block holds which keys.
 *
 * A sparse index: per data block its place and its last internal key. In memory the block is kept as it is on
 * disk, beside two arrays: where each slot is, and eight bytes of each last key as an integer, taken behind
 * the bytes that all keys of the table share. The search runs over those integers and reads keys only where
 * they are equal.
 */
#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/sst/sst_impl.h"

_Static_assert(VV_SST_INDEX_SLOT_BYTES == 8 + 4 + 8 + 2, "index slot layout");
_Static_assert(VV_SST_INDEX_HEAD_BYTES == 8 + 11 * 8, "index head layout");
_Static_assert(VV_SST_FOOTER_BYTES == 6 * 8 + VV_SST_MAGIC_BYTES + 1, "footer layout");

static vv_status bad_layout(void) {
    return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
}

static vv_status newer(void) {
    return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
}

/* ---- footer ---- */

void vv_sst_footer_encode(const vv_sst_footer *f, uint8_t at[VV_SST_FOOTER_BYTES]) {
    vv_put_be64(at, f->index_offset);
    vv_put_be64(at + 8, f->index_bytes);
    vv_put_be64(at + 16, f->filter_offset);
    vv_put_be64(at + 24, f->filter_bytes);
    vv_put_be64(at + 32, f->item_count);
    vv_put_be64(at + 40, f->max_lsn);
    memcpy(at + 48, VV_SST_MAGIC, VV_SST_MAGIC_BYTES);
    at[55] = VV_SST_FORMAT_VERSION;
}

vv_status vv_sst_footer_decode(const uint8_t at[VV_SST_FOOTER_BYTES], uint64_t file_bytes,
                               vv_sst_footer *out) {
    if (memcmp(at + 48, VV_SST_MAGIC, VV_SST_MAGIC_BYTES) != 0 || at[55] == 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_MAGIC, 0);
    if (at[55] > VV_SST_FORMAT_VERSION)
        return newer();
    *out = (vv_sst_footer){
        .index_offset = vv_get_be64(at),
        .index_bytes = vv_get_be64(at + 8),
        .filter_offset = vv_get_be64(at + 16),
        .filter_bytes = vv_get_be64(at + 24),
        .item_count = vv_get_be64(at + 32),
        .max_lsn = vv_get_be64(at + 40),
    };
    uint64_t end = file_bytes - VV_SST_FOOTER_BYTES;
    if (out->index_offset > end || out->index_offset % VV_SST_BLOCK_BYTES_MIN != 0 ||
        out->index_bytes < VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES ||
        out->index_bytes > end - out->index_offset ||
        out->filter_offset != out->index_offset + out->index_bytes ||
        out->filter_bytes != end - out->filter_offset)
        return bad_layout();
    return VV_STATUS_OK;
}

/* ---- writing ---- */

vv_status vv_sst_index_slot_append(vv_sst_buffer *slots, const vv_sst_index_slot *slot) {
    uint8_t *at = vv_sst_buffer_extend(slots, VV_SST_INDEX_SLOT_BYTES + slot->last_key.bytes);
    if (!at)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_put_be64(at, slot->handle.offset);
    vv_put_be32(at + 8, slot->handle.bytes);
    vv_put_be64(at + 12, slot->last_lsn);
    vv_put_be16(at + 20, (uint16_t)slot->last_key.bytes);
    memcpy(at + VV_SST_INDEX_SLOT_BYTES, slot->last_key.data, slot->last_key.bytes);
    return VV_STATUS_OK;
}

uint64_t vv_sst_index_block_bytes(const vv_sst_index_head *h, size_t slots_bytes) {
    return VV_SST_INDEX_HEAD_BYTES + (uint64_t)h->first_key.bytes + slots_bytes + VV_SST_CHECKSUM_BYTES;
}

void vv_sst_index_encode(const vv_sst_index_head *h, const vv_sst_buffer *slots, uint64_t index_offset,
                         uint8_t *at) {
    at[0] = VV_INDEX_SPARSE;
    at[1] = VV_COMPRESSION_NONE;
    at[2] = VV_SST_FORMAT_VERSION;
    at[3] = 0;
    vv_put_be32(at + 4, h->block_bytes);
    vv_put_be64(at + 8, h->table_id);
    vv_put_be64(at + 16, h->created_unix_ms);
    vv_put_be64(at + 24, h->item_count);
    vv_put_be64(at + 32, h->min_lsn);
    vv_put_be64(at + 40, h->max_lsn);
    vv_put_be64(at + 48, h->data_bytes);
    vv_put_be64(at + 56, h->block_count);
    vv_put_be64(at + 64, h->filter_checksum);
    vv_put_be64(at + 72, h->footer_checksum);
    vv_put_be64(at + 80, 0);
    vv_put_be16(at + 88, (uint16_t)h->first_key.bytes);
    memset(at + 90, 0, 6);
    uint8_t *to = at + VV_SST_INDEX_HEAD_BYTES;
    memcpy(to, h->first_key.data, h->first_key.bytes);
    to += h->first_key.bytes;
    memcpy(to, slots->data, slots->bytes);
    to += slots->bytes;
    vv_put_be64(to, vv_checksum(at, (size_t)(to - at), vv_sst_seed(h->table_id, index_offset)));
}

/* ---- reading ---- */

static vv_status decode_head(vv_reader *r, vv_sst_index_head *h) {
    uint8_t type = vv_read_u8(r);
    uint8_t compression = vv_read_u8(r);
    uint8_t version = vv_read_u8(r);
    uint8_t flags = vv_read_u8(r);
    h->block_bytes = vv_read_be32(r);
    h->table_id = vv_read_be64(r);
    h->created_unix_ms = vv_read_be64(r);
    h->item_count = vv_read_be64(r);
    h->min_lsn = vv_read_be64(r);
    h->max_lsn = vv_read_be64(r);
    h->data_bytes = vv_read_be64(r);
    h->block_count = vv_read_be64(r);
    h->filter_checksum = vv_read_be64(r);
    h->footer_checksum = vv_read_be64(r);
    uint64_t reserved = vv_read_be64(r);
    uint16_t first_key_bytes = vv_read_be16(r);
    uint16_t reserved_2 = vv_read_be16(r);
    uint32_t reserved_4 = vv_read_be32(r);
    h->first_key = vv_read_bytes(r, first_key_bytes);
    if (r->bad || first_key_bytes == 0)
        return bad_layout();
    if (type != VV_INDEX_SPARSE || compression != VV_COMPRESSION_NONE || version != VV_SST_FORMAT_VERSION ||
        flags != 0 || reserved != 0 || reserved_2 != 0 || reserved_4 != 0)
        return newer();
    if (!vv_is_power_of_two(h->block_bytes) || h->block_bytes < VV_SST_BLOCK_BYTES_MIN ||
        h->block_bytes > VV_SST_BLOCK_BYTES_MAX || h->min_lsn > h->max_lsn ||
        h->block_count > r->left_bytes / VV_SST_INDEX_SLOT_BYTES || h->block_count == 0 ||
        h->item_count < h->block_count)
        return bad_layout();
    return VV_STATUS_OK;
}

static void decode_slot(vv_reader *r, vv_sst_index_slot *s) {
    s->handle.offset = vv_read_be64(r);
    s->handle.bytes = vv_read_be32(r);
    s->last_lsn = vv_read_be64(r);
    uint16_t key_bytes = vv_read_be16(r);
    s->last_key = vv_read_bytes(r, key_bytes);
    if (key_bytes == 0)
        r->bad = true;
}

static vv_sst_index_slot slot_at(const vv_sst_index *x, uint64_t i) {
    vv_reader r = vv_reader_make(
        vv_slice_make(x->bytes + x->slots_at[i], x->bytes_count - x->slots_at[i] - VV_SST_CHECKSUM_BYTES));
    vv_sst_index_slot s;
    decode_slot(&r, &s);
    return s;
}

/* Blocks follow each other from 0 to the end of the data, and their last keys ascend. */
static vv_status decode_slots(vv_sst_index *x, vv_reader *r) {
    const uint8_t *begin = x->bytes;
    vv_sst_index_slot before = {.last_key = x->head.first_key, .last_lsn = VV_LSN_MAX};
    uint64_t offset = 0;
    for (uint64_t i = 0; i < x->head.block_count; i++) {
        x->slots_at[i] = (uint64_t)(r->at - begin);
        vv_sst_index_slot s;
        decode_slot(r, &s);
        if (r->bad || s.handle.offset != offset || s.handle.bytes == 0 ||
            s.handle.bytes % x->head.block_bytes != 0 ||
            vv_entry_compare(before.last_key, before.last_lsn, s.last_key, s.last_lsn) >= 0)
            return bad_layout();
        offset += s.handle.bytes;
        before = s;
    }
    if (r->left_bytes != 0 || offset != x->head.data_bytes)
        return bad_layout();
    return VV_STATUS_OK;
}

/* The 8 bytes behind the shared ones as an integer, padded with zeros. */
static uint64_t prefix_behind(vv_slice key, size_t shared_bytes) {
    uint8_t padded[8] = {0};
    if (key.bytes > shared_bytes)
        memcpy(padded, (const uint8_t *)key.data + shared_bytes, VV_MIN(key.bytes - shared_bytes, (size_t)8));
    return vv_get_be64(padded);
}

/* All keys lie between the first and the last, so they share what those two share. */
static void find_prefixes(vv_sst_index *x) {
    vv_slice first = x->head.first_key;
    vv_slice last = slot_at(x, x->head.block_count - 1).last_key;
    const uint8_t *a = first.data, *b = last.data;
    size_t limit = VV_MIN(first.bytes, last.bytes);
    while (x->shared_bytes < limit && a[x->shared_bytes] == b[x->shared_bytes])
        x->shared_bytes++;
    for (uint64_t i = 0; i < x->head.block_count; i++)
        x->prefixes[i] = prefix_behind(slot_at(x, i).last_key, x->shared_bytes);
}

vv_status vv_sst_index_open(vv_sst_index *x, vv_slice block, uint64_t index_offset) {
    *x = (vv_sst_index){0};
    VV_ASSERT(block.bytes >= VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES);
    const uint8_t *bytes = block.data;
    size_t covered = block.bytes - VV_SST_CHECKSUM_BYTES;
    /* The seed stands in the bytes that it helps to check: a damaged one fails as any other byte does. */
    uint64_t seed = vv_sst_seed(vv_get_be64(bytes + 8), index_offset);
    if (vv_get_be64(bytes + covered) != vv_checksum(bytes, covered, seed))
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);

    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    x->bytes = vv_alloc(block.bytes);
    if (!x->bytes)
        goto fail;
    x->bytes_count = block.bytes;
    memcpy(x->bytes, bytes, block.bytes);
    vv_reader r = vv_reader_make(vv_slice_make(x->bytes, covered));
    st = decode_head(&r, &x->head);
    if (!vv_ok(st))
        goto fail;
    st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    x->slots_at = vv_alloc(x->head.block_count * sizeof *x->slots_at);
    x->prefixes = x->slots_at ? vv_alloc(x->head.block_count * sizeof *x->prefixes) : NULL;
    if (!x->prefixes)
        goto fail;
    st = decode_slots(x, &r);
    if (!vv_ok(st))
        goto fail;
    if (x->head.data_bytes != index_offset) {
        st = bad_layout();
        goto fail;
    }
    find_prefixes(x);
    return VV_STATUS_OK;

fail:
    vv_sst_index_close(x);
    return st;
}

void vv_sst_index_close(vv_sst_index *x) {
    vv_free(x->prefixes);
    vv_free(x->slots_at);
    vv_free(x->bytes);
    *x = (vv_sst_index){0};
}

uint64_t vv_sst_index_find(const vv_sst_index *x, vv_slice key, uint64_t lsn) {
    /* A key that leaves the shared bytes is before or behind all keys of the table. */
    size_t common = VV_MIN(key.bytes, x->shared_bytes);
    int order = common ? memcmp(key.data, x->head.first_key.data, common) : 0;
    if (order > 0)
        return x->head.block_count;
    if (order < 0 || key.bytes < x->shared_bytes)
        return 0;
    uint64_t prefix = prefix_behind(key, x->shared_bytes);
    uint64_t low = 0, high = x->head.block_count;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        bool before = x->prefixes[mid] < prefix;
        if (x->prefixes[mid] == prefix) {
            vv_sst_index_slot s = slot_at(x, mid);
            before = vv_entry_compare(s.last_key, s.last_lsn, key, lsn) < 0;
        }
        if (before)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

vv_block_handle vv_sst_index_handle(const vv_sst_index *x, uint64_t i) {
    VV_ASSERT(i < x->head.block_count);
    return slot_at(x, i).handle;
}

uint64_t vv_sst_index_memory_bytes(const vv_sst_index *x) {
    return x->bytes_count + x->head.block_count * (sizeof *x->slots_at + sizeof *x->prefixes);
}
