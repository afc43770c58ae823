#include "base/alloc.h"
#include "engine/sst/sst_impl.h"

void *vv_sst_buffer_extend(vv_sst_buffer *b, size_t bytes) {
    if (bytes > b->capacity_bytes - b->bytes) {
        size_t capacity = VV_MAX(b->bytes + bytes, b->capacity_bytes * 2);
        capacity = VV_MAX(capacity, (size_t)4096);
        uint8_t *data = vv_realloc(b->data, capacity);
        if (!data)
            return NULL;
        b->data = data;
        b->capacity_bytes = capacity;
    }
    uint8_t *at = b->data + b->bytes;
    b->bytes += bytes;
    return at;
}

bool vv_sst_buffer_append(vv_sst_buffer *b, const void *data, size_t bytes) {
    void *at = vv_sst_buffer_extend(b, bytes);
    if (!at)
        return false;
    if (bytes)
        memcpy(at, data, bytes);
    return true;
}

void vv_sst_buffer_deinit(vv_sst_buffer *b) {
    vv_free(b->data);
    *b = (vv_sst_buffer){0};
}
