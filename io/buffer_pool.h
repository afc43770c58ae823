/*
 * buffer_pool.h - a queue's own aligned buffers: one slab, handed out whole buffers at a time. One thread.
 */
#ifndef VV_IO_BUFFER_POOL_H
#define VV_IO_BUFFER_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct vv_buffer_pool {
    char *slab; /* NULL: no pool */
    size_t slab_bytes;
    size_t stride_bytes; /* of one buffer: its size rounded up to VV_IO_ALIGN_BYTES */
    void **free;         /* a stack of those not handed out */
    uint32_t count;
    uint32_t free_count;
} vv_buffer_pool;

/* count or buffer_bytes 0: a pool that never has a buffer. */
vv_status vv_buffer_pool_init(vv_buffer_pool *p, uint32_t count, uint32_t buffer_bytes) VV_CHECKED;
void vv_buffer_pool_deinit(vv_buffer_pool *p);

/* NULL when all are out. */
void *vv_buffer_pool_take(vv_buffer_pool *p);
void vv_buffer_pool_give(vv_buffer_pool *p, void *buffer);

static inline bool vv_buffer_pool_holds(const vv_buffer_pool *p, const void *buf, size_t bytes) {
    uintptr_t from = (uintptr_t)p->slab, at = (uintptr_t)buf;
    return p->slab && at >= from && bytes <= p->slab_bytes && at - from <= p->slab_bytes - bytes;
}

#endif
