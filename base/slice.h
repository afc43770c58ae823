/*
 * slice.h - borrowed bytes. A function that takes or gives a slice says until when it stays valid.
 */
#ifndef VV_BASE_SLICE_H
#define VV_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct vv_slice {
    const void *data;
    size_t bytes;
} vv_slice;

static inline vv_slice vv_slice_make(const void *data, size_t bytes) {
    return (vv_slice){.data = data, .bytes = bytes};
}

static inline vv_slice vv_slice_str(const char *text) {
    return vv_slice_make(text, strlen(text));
}

/* Bytewise (unsigned) order; a prefix sorts before what it is a prefix of. <0, 0, >0 as memcmp. */
static inline int vv_slice_compare(vv_slice a, vv_slice b) {
    size_t common = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    if (order != 0)
        return order;
    return (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static inline bool vv_slice_equal(vv_slice a, vv_slice b) {
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

#endif
