/*
 * codec.c - LZ4 and Zstd over the bytes of one data block.
 *
 * Zstd's contexts are large (about 100 KiB to read, more to write) and worth keeping: a writer keeps one of
 * its own; readers share slots that hold one each, taken and given back by one atomic exchange. Whoever finds
 * the slot empty makes a context of its own, so that nobody ever waits.
 */
#include <lz4.h>
#include <zstd.h>

#include "base/alloc.h"
#include "engine/sst/sst_impl.h"

/* Blocks are small and written once, but by every compaction again: the fast end of Zstd. */
#define ZSTD_LEVEL 1

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

/* ---- packing ---- */

static vv_status pack_lz4(vv_sst_packer *p, const void *data, size_t bytes, size_t *packed_out) {
    int bound = LZ4_compressBound((int)bytes);
    p->packed.bytes = 0;
    char *to = vv_sst_buffer_extend(&p->packed, (size_t)bound);
    if (!to)
        return no_memory();
    *packed_out = (size_t)LZ4_compress_default(data, to, (int)bytes, bound);
    return VV_STATUS_OK;
}

static vv_status pack_zstd(vv_sst_packer *p, const void *data, size_t bytes, size_t *packed_out) {
    if (!p->zstd)
        p->zstd = vv_alloc_must_fail() ? NULL : ZSTD_createCCtx();
    size_t bound = ZSTD_compressBound(bytes);
    p->packed.bytes = 0;
    void *to = p->zstd ? vv_sst_buffer_extend(&p->packed, bound) : NULL;
    if (!to)
        return no_memory();
    size_t packed = ZSTD_compressCCtx(p->zstd, to, bound, data, bytes, ZSTD_LEVEL);
    if (ZSTD_isError(packed))
        return no_memory(); /* nothing else can fail with room for the bound */
    *packed_out = packed;
    return VV_STATUS_OK;
}

vv_status vv_sst_pack(vv_sst_packer *p, const void *data, size_t bytes, size_t *packed_out) {
    *packed_out = 0;
    if (bytes > LZ4_MAX_INPUT_SIZE)
        return VV_STATUS_OK;
    switch (p->compression) {
    case VV_COMPRESSION_LZ4: return pack_lz4(p, data, bytes, packed_out);
    case VV_COMPRESSION_ZSTD: return pack_zstd(p, data, bytes, packed_out);
    default: return VV_STATUS_OK;
    }
}

void vv_sst_packer_deinit(vv_sst_packer *p) {
    ZSTD_freeCCtx(p->zstd);
    vv_sst_buffer_deinit(&p->packed);
}

/* ---- unpacking ---- */

bool vv_sst_raw_bytes_plausible(uint8_t compression, uint32_t stored_bytes, uint32_t raw_bytes) {
    /* What the formats can express at best: LZ4 a byte for 255, Zstd 4 bytes for a block of 128 KiB. */
    uint64_t most = compression == VV_COMPRESSION_LZ4 ? 255 : (UINT64_C(128) << 10) / 4;
    return raw_bytes <= stored_bytes * most && raw_bytes <= LZ4_MAX_INPUT_SIZE;
}

static void give_back(vv_sst_unpacker *u, ZSTD_DCtx *ctx) {
    void *empty = NULL;
    if (!atomic_compare_exchange_strong_explicit(&u->zstd, &empty, ctx, memory_order_release,
                                                 memory_order_relaxed))
        ZSTD_freeDCtx(ctx);
}

static vv_status unpack_zstd(vv_sst_unpacker *u, const void *stored, size_t stored_bytes, void *raw,
                             size_t raw_bytes, bool *fits_out) {
    ZSTD_DCtx *ctx = atomic_exchange_explicit(&u->zstd, NULL, memory_order_acquire);
    if (!ctx)
        ctx = vv_alloc_must_fail() ? NULL : ZSTD_createDCtx();
    if (!ctx)
        return no_memory();
    *fits_out = ZSTD_decompressDCtx(ctx, raw, raw_bytes, stored, stored_bytes) == raw_bytes;
    give_back(u, ctx);
    return VV_STATUS_OK;
}

vv_status vv_sst_unpack(vv_sst_unpacker *u, uint8_t compression, vv_slice stored, void *raw,
                        size_t raw_bytes) {
    bool fits = false;
    if (compression == VV_COMPRESSION_LZ4)
        fits = LZ4_decompress_safe(stored.data, raw, (int)stored.bytes, (int)raw_bytes) == (int)raw_bytes;
    else
        VV_TRY(unpack_zstd(u, stored.data, stored.bytes, raw, raw_bytes, &fits));
    return fits ? VV_STATUS_OK : vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
}

uint64_t vv_sst_unpacker_memory_bytes(vv_sst_unpacker *u) {
    ZSTD_DCtx *ctx = atomic_exchange_explicit(&u->zstd, NULL, memory_order_acquire);
    uint64_t bytes = ctx ? ZSTD_sizeof_DCtx(ctx) : 0;
    give_back(u, ctx);
    return bytes;
}

void vv_sst_unpacker_deinit(vv_sst_unpacker *u) {
    ZSTD_freeDCtx(atomic_load_explicit(&u->zstd, memory_order_relaxed));
}
