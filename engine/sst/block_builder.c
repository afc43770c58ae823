/*
 * block_builder.c - collects entries and seals data blocks made of them.
 *
 * A block of several entries takes exactly one unit of block_bytes. Without compression the writer stops in
 * time. With it, more entries are collected than fit raw, as many as the blocks before suggest; if they then
 * don't shrink enough, the block takes fewer of them and the rest begins the next one. Only an entry that
 * does not fit in a unit alone takes more, with no other entry beside it.
 *
 * Of entries that are not much smaller than a unit few fit, and much of it stays empty: a quarter where
 * values have 1 KiB. A writer whose table will soon be merged again may say that a block should rather take
 * some units more. (Not with compression, where it is not known before.)
 */
#include "base/checksum.h"
#include "engine/sst/sst_impl.h"

#define EMPTY_SHARE       16   /* one of so many parts of a block may stay empty */
#define COLLECT_UNITS_MAX 4    /* what a get decompresses at most, in units */
#define SAFETY            0.94 /* better a little room than a second attempt */
#define SAMPLE_EVERY      16   /* blocks that fit raw are packed this often, to see whether it pays by now */

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static uint64_t entry_bytes(const vv_entry *e) {
    return VV_SST_ENTRY_HEAD_BYTES + (uint64_t)e->key.bytes + e->value.bytes;
}

/* ---- collecting ---- */

uint64_t vv_sst_block_builder_bytes(const vv_sst_block_builder *b, const vv_entry *e) {
    uint64_t bytes = VV_SST_BLOCK_HEAD_BYTES + b->entries.bytes + b->offsets.bytes;
    return e ? bytes + entry_bytes(e) + sizeof(uint32_t) : bytes;
}

/* With compression: the most bytes that are worth collecting. */
static uint64_t collect_goal(const vv_sst_block_builder *b) {
    double goal = b->block_bytes * SAFETY / VV_MAX(b->ratio, SAFETY / COLLECT_UNITS_MAX);
    return VV_MAX((uint64_t)goal, (uint64_t)b->block_bytes);
}

bool vv_sst_block_builder_is_full(const vv_sst_block_builder *b, const vv_entry *e) {
    uint64_t with = vv_sst_block_builder_bytes(b, e);
    if (b->packer.compression != VV_COMPRESSION_NONE)
        return with > collect_goal(b);
    uint64_t used = vv_sst_block_builder_bytes(b, NULL);
    uint64_t taken = vv_align_up(used, b->block_bytes);
    uint64_t most = (uint64_t)b->units_max * b->block_bytes;
    if (with <= taken)
        return taken > most; /* of one large entry */
    return with > most || taken - used <= taken / EMPTY_SHARE;
}

vv_status vv_sst_block_builder_add(vv_sst_block_builder *b, const vv_entry *e) {
    uint32_t offset = (uint32_t)b->entries.bytes;
    uint8_t *slot = vv_sst_buffer_extend(&b->offsets, sizeof offset);
    if (!slot)
        return no_memory();
    uint8_t *at = vv_sst_buffer_extend(&b->entries, entry_bytes(e));
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
    b->warm_count += e->heat == VV_HEAT_WARM;
    b->hot_count += e->heat == VV_HEAT_HOT;
    return VV_STATUS_OK;
}

vv_heat vv_sst_block_builder_heat(const vv_sst_block_builder *b) {
    uint32_t enough = (b->count + 2) / 3;
    if (b->hot_count >= enough)
        return VV_HEAT_HOT;
    return b->hot_count + b->warm_count >= enough ? VV_HEAT_WARM : VV_HEAT_COLD;
}

/* Where entry i begins; of i == count: where the last one ends. */
static uint32_t offset_of(const vv_sst_block_builder *b, uint32_t i) {
    return i < b->count ? vv_get_be32(b->offsets.data + i * sizeof(uint32_t)) : (uint32_t)b->entries.bytes;
}

void vv_sst_block_builder_key(const vv_sst_block_builder *b, uint32_t i, vv_slice *key, uint64_t *lsn) {
    const uint8_t *at = b->entries.data + offset_of(b, i);
    *key = vv_slice_make(at + VV_SST_ENTRY_HEAD_BYTES, vv_get_be16(at + 2));
    *lsn = vv_get_be64(at + 8);
}

void vv_sst_block_builder_drop(vv_sst_block_builder *b, uint32_t count) {
    uint32_t begin = offset_of(b, count);
    memmove(b->entries.data, b->entries.data + begin, b->entries.bytes - begin);
    for (uint32_t i = count; i < b->count; i++)
        vv_put_be32(b->offsets.data + (i - count) * sizeof(uint32_t), offset_of(b, i) - begin);
    b->entries.bytes -= begin;
    /* Those that stay are taken for as warm as those that go. */
    b->warm_count = (uint32_t)((uint64_t)b->warm_count * (b->count - count) / b->count);
    b->hot_count = (uint32_t)((uint64_t)b->hot_count * (b->count - count) / b->count);
    b->count -= count;
    b->offsets.bytes = b->count * sizeof(uint32_t);
}

/* ---- sealing ---- */

/* A head's room, then the first `count` entries and their offsets. */
static vv_status lay_out_raw(vv_sst_block_builder *b, uint32_t count) {
    b->sealed.bytes = 0;
    if (!vv_sst_buffer_extend(&b->sealed, VV_SST_BLOCK_HEAD_BYTES) ||
        !vv_sst_buffer_append(&b->sealed, b->entries.data, offset_of(b, count)) ||
        !vv_sst_buffer_append(&b->sealed, b->offsets.data, count * sizeof(uint32_t)))
        return no_memory();
    return VV_STATUS_OK;
}

static uint64_t units_of(const vv_sst_block_builder *b, uint64_t payload_bytes) {
    return (VV_SST_BLOCK_HEAD_BYTES + payload_bytes + b->block_bytes - 1) / b->block_bytes;
}

/* Fill in the head, and pad. */
static vv_status complete(vv_sst_block_builder *b, uint32_t raw_bytes, uint32_t count, uint8_t compression,
                          uint64_t seed) {
    uint32_t stored_bytes = (uint32_t)(b->sealed.bytes - VV_SST_BLOCK_HEAD_BYTES);
    size_t padding = vv_align_up(b->sealed.bytes, b->block_bytes) - b->sealed.bytes;
    void *pad = vv_sst_buffer_extend(&b->sealed, padding);
    if (!pad)
        return no_memory();
    memset(pad, 0, padding);
    uint8_t *head = b->sealed.data;
    vv_put_be32(head + 8, stored_bytes);
    vv_put_be32(head + 12, raw_bytes);
    vv_put_be32(head + 16, count);
    head[20] = compression;
    head[21] = 0;
    vv_put_be16(head + 22, 0);
    vv_put_be64(head,
                vv_checksum(head + VV_SST_CHECKSUM_BYTES, b->sealed.bytes - VV_SST_CHECKSUM_BYTES, seed));
    return VV_STATUS_OK;
}

/* As many of `count` entries as should fit in one unit, when packed_bytes for all of them did not. */
static uint32_t fewer(const vv_sst_block_builder *b, uint32_t count, size_t packed_bytes) {
    double share = b->block_bytes * SAFETY / (double)(packed_bytes + VV_SST_BLOCK_HEAD_BYTES);
    uint32_t less = (uint32_t)(count * share);
    return VV_MAX(VV_MIN(less, count - 1), 1U);
}

vv_status vv_sst_block_builder_seal(vv_sst_block_builder *b, uint64_t seed, vv_slice *out,
                                    uint32_t *count_out) {
    uint8_t compression = VV_COMPRESSION_NONE;
    uint32_t count = b->count;
    size_t raw_bytes, packed;
    for (;;) {
        VV_TRY(lay_out_raw(b, count));
        raw_bytes = b->sealed.bytes - VV_SST_BLOCK_HEAD_BYTES;
        uint64_t raw_units = units_of(b, raw_bytes);
        if (raw_units == 1 && b->sealed_count++ % SAMPLE_EVERY != 0)
            break; /* nothing to win */
        VV_TRY(vv_sst_pack(&b->packer, b->sealed.data + VV_SST_BLOCK_HEAD_BYTES, raw_bytes, &packed));
        if (packed == 0)
            break; /* no compression, or more than it can take */
        b->ratio += (VV_MIN((double)packed / (double)raw_bytes, 1.0) - b->ratio) / 8;
        uint64_t packed_units = units_of(b, packed);
        if (packed_units < raw_units && (packed_units == 1 || count == 1)) {
            compression = (uint8_t)b->packer.compression;
            break;
        }
        if (raw_units == 1 || count == 1)
            break;
        count = fewer(b, count, packed);
    }
    if (compression != VV_COMPRESSION_NONE) {
        b->sealed.bytes = VV_SST_BLOCK_HEAD_BYTES;
        if (!vv_sst_buffer_append(&b->sealed, b->packer.packed.data, packed))
            return no_memory();
    }
    VV_TRY(complete(b, (uint32_t)raw_bytes, count, compression, seed));
    *out = vv_slice_make(b->sealed.data, b->sealed.bytes);
    *count_out = count;
    return VV_STATUS_OK;
}

void vv_sst_block_builder_init(vv_sst_block_builder *b, uint32_t block_bytes, uint32_t units_max,
                               vv_compression compression) {
    *b = (vv_sst_block_builder){.block_bytes = block_bytes,
                                .units_max = VV_MAX(units_max, 1u),
                                .packer = {.compression = compression},
                                .ratio = 0.5};
}

void vv_sst_block_builder_deinit(vv_sst_block_builder *b) {
    vv_sst_buffer_deinit(&b->entries);
    vv_sst_buffer_deinit(&b->offsets);
    vv_sst_buffer_deinit(&b->sealed);
    vv_sst_packer_deinit(&b->packer);
}
