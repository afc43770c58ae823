/*
 * block_read.c - how a block comes from its file into the cache (block_cache.h): it is read, verified, made
 * ready, inserted.
 */
#include <inttypes.h>

#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"

static vv_status fail_block(const vv_sst_reader *r, uint64_t offset, vv_status st, vv_error *err) {
    return vv_fail(err, st, "%s: data block at %" PRIu64 ": %s", vv_sst_reader_path(r), offset,
                   st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

vv_status vv_block_cache_complete(vv_block_cache *c, const vv_sst_reader *r, vv_block *b, size_t read_bytes,
                                  vv_block **out, vv_error *err) {
    *out = NULL;
    uint64_t offset = b->offset;
    uint32_t image_bytes = 0;
    vv_status st = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    if (read_bytes >= b->bytes) {
        vv_block_handle h = {.offset = offset, .bytes = b->bytes};
        st = vv_sst_block_verify(r, h, b->data, &image_bytes);
    }
    if (vv_ok(st))
        st = vv_block_cache_prepare(c, b, image_bytes);
    if (!vv_ok(st)) {
        vv_block_cache_discard(c, b);
        return fail_block(r, offset, st, err);
    }
    *out = vv_block_cache_insert(c, b);
    return VV_STATUS_OK;
}

vv_status vv_block_cache_read(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                              vv_error *err) {
    *out = vv_block_cache_find(c, r, h);
    return *out ? VV_STATUS_OK : vv_block_cache_fetch(c, r, h, out, err);
}

vv_status vv_block_cache_fetch(vv_block_cache *c, const vv_sst_reader *r, vv_block_handle h, vv_block **out,
                               vv_error *err) {
    *out = NULL;
    vv_block *b = vv_block_cache_allocate(c, vv_sst_reader_file_number(r), h);
    if (!b)
        return fail_block(r, h.offset, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), err);
    size_t read_bytes;
    vv_status st = vv_file_read(vv_sst_reader_file(r), b->data, h.bytes, h.offset, &read_bytes);
    if (!vv_ok(st)) {
        vv_block_cache_discard(c, b);
        return fail_block(r, h.offset, st, err);
    }
    return vv_block_cache_complete(c, r, b, read_bytes, out, err);
}
