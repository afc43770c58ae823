#include "io/buffer_pool.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "io/io.h"

vv_status vv_buffer_pool_init(vv_buffer_pool *p, uint32_t count, uint32_t buffer_bytes) {
    *p = (vv_buffer_pool){0};
    if (count == 0 || buffer_bytes == 0)
        return VV_STATUS_OK;
    size_t stride = ((size_t)buffer_bytes + VV_IO_ALIGN_BYTES - 1) & ~(size_t)(VV_IO_ALIGN_BYTES - 1);
    if (count > SIZE_MAX / stride)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    p->slab_bytes = count * stride;
    p->slab = vv_alloc_pages(p->slab_bytes);
    p->free = vv_alloc(count * sizeof *p->free);
    if (!p->slab || !p->free) {
        vv_buffer_pool_deinit(p);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    p->stride_bytes = stride;
    p->count = count;
    /* The lowest address is taken first. */
    for (uint32_t i = count; i-- > 0;)
        p->free[p->free_count++] = p->slab + i * stride;
    return VV_STATUS_OK;
}

void vv_buffer_pool_deinit(vv_buffer_pool *p) {
    vv_free_pages(p->slab, p->slab_bytes);
    vv_free(p->free);
    *p = (vv_buffer_pool){0};
}

void *vv_buffer_pool_take(vv_buffer_pool *p) {
    return p->free_count > 0 ? p->free[--p->free_count] : NULL;
}

void vv_buffer_pool_give(vv_buffer_pool *p, void *buffer) {
    VV_ASSERT(vv_buffer_pool_holds(p, buffer, p->stride_bytes));
    VV_ASSERT((size_t)((char *)buffer - p->slab) % p->stride_bytes == 0);
    VV_ASSERT(p->free_count < p->count);
#ifdef VV_DEBUG
    for (uint32_t i = 0; i < p->free_count; i++)
        VV_ASSERT(p->free[i] != buffer);
    memset(buffer, 0xdb, p->stride_bytes); /* who still reads it shall notice */
#endif
    p->free[p->free_count++] = buffer;
}
