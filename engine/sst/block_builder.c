/*
 * block_builder.c - collects the entries of one data block and seals it.
 */
#include "base/checksum.h"
#include "engine/sst/sst_impl.h"

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static uint64_t entry_bytes(const vv_entry *e) {
    return VV_SST_ENTRY_HEAD_BYTES + (uint64_t)e->key.bytes + e->value.bytes;
}

uint64_t vv_sst_block_builder_bytes(const vv_sst_block_builder *b, const vv_entry *e) {
    uint64_t bytes = b->count ? b->block.bytes : VV_SST_BLOCK_HEAD_BYTES;
    bytes += b->offsets.bytes;
    return e ? bytes + entry_bytes(e) + sizeof(uint32_t) : bytes;
}

vv_status vv_sst_block_builder_add(vv_sst_block_builder *b, const vv_entry *e) {
    /* The head is filled in when the block is finished. */
    if (b->block.bytes == 0 && !vv_sst_buffer_extend(&b->block, VV_SST_BLOCK_HEAD_BYTES))
        return no_memory();
    uint32_t offset = (uint32_t)(b->block.bytes - VV_SST_BLOCK_HEAD_BYTES);
    uint8_t *slot = vv_sst_buffer_extend(&b->offsets, sizeof offset);
    if (!slot)
        return no_memory();
    uint8_t *at = vv_sst_buffer_extend(&b->block, entry_bytes(e));
    if (!at)
        return no_memory();
    vv_put_be32(slot, offset);
    at[0] = e->kind;
    at[1] = e->flags;
    vv_put_be16(at + 2, (uint16_t)e->key.bytes);
    vv_put_be32(at + 4, (uint32_t)e->value.bytes);
    vv_put_be64(at + 8, e->lsn);
    vv_put_be64(at + 16, e->expires_unix_ms);
    memcpy(at + VV_SST_ENTRY_HEAD_BYTES, e->key.data, e->key.bytes);
    if (e->value.bytes)
        memcpy(at + VV_SST_ENTRY_HEAD_BYTES + e->key.bytes, e->value.data, e->value.bytes);
    b->count++;
    return VV_STATUS_OK;
}

vv_status vv_sst_block_builder_finish(vv_sst_block_builder *b, uint32_t block_bytes, uint64_t seed,
                                      vv_slice *out) {
    if (!vv_sst_buffer_append(&b->block, b->offsets.data, b->offsets.bytes))
        return no_memory();
    uint32_t raw_bytes = (uint32_t)(b->block.bytes - VV_SST_BLOCK_HEAD_BYTES);
    size_t padding = vv_align_up(b->block.bytes, block_bytes) - b->block.bytes;
    void *pad = vv_sst_buffer_extend(&b->block, padding);
    if (!pad)
        return no_memory();
    memset(pad, 0, padding);

    uint8_t *head = b->block.data;
    vv_put_be32(head + 8, raw_bytes); /* stored */
    vv_put_be32(head + 12, raw_bytes);
    vv_put_be32(head + 16, b->count);
    head[20] = VV_SST_COMPRESSION_NONE;
    head[21] = 0;
    vv_put_be16(head + 22, 0);
    vv_put_be64(head,
                vv_checksum(head + VV_SST_CHECKSUM_BYTES, b->block.bytes - VV_SST_CHECKSUM_BYTES, seed));
    *out = vv_slice_make(head, b->block.bytes);
    return VV_STATUS_OK;
}

void vv_sst_block_builder_reset(vv_sst_block_builder *b) {
    b->block.bytes = 0;
    b->offsets.bytes = 0;
    b->count = 0;
}

void vv_sst_block_builder_deinit(vv_sst_block_builder *b) {
    vv_sst_buffer_deinit(&b->block);
    vv_sst_buffer_deinit(&b->offsets);
    b->count = 0;
}
