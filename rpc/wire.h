/*
 * wire.h - protobuf's wire format, field by field, for messages that are too frequent for an object each.
 *
 * protobuf-c makes an object of every message and a copy of every `bytes` field. Reading the fields where
 * they lie costs a tenth of that. What a reader by hand does not expect is left to protobuf-c (codec.h), so
 * that odd but valid messages mean what they mean everywhere.
 */
#ifndef VV_RPC_WIRE_H
#define VV_RPC_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

typedef enum vv_wire_type {
    VV_WIRE_VARINT = 0,
    VV_WIRE_FIXED64 = 1,
    VV_WIRE_BYTES = 2,
    VV_WIRE_FIXED32 = 5,
} vv_wire_type;

typedef struct vv_wire {
    const uint8_t *at, *end;
} vv_wire;

typedef struct vv_wire_field {
    uint32_t number;
    vv_wire_type type;
    uint64_t value; /* of VARINT and FIXED64 */
    vv_slice bytes; /* of BYTES, where they lie */
} vv_wire_field;

static inline vv_wire vv_wire_make(vv_slice bytes) {
    const uint8_t *at = bytes.data;
    return (vv_wire){at, bytes.bytes ? at + bytes.bytes : at};
}

static inline bool vv_wire_varint(vv_wire *w, uint64_t *out) {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static inline bool vv_wire_skip(vv_wire *w, uint64_t bytes) {
    if (bytes > (uint64_t)(w->end - w->at))
        return false;
    w->at += bytes;
    return true;
}

/* A tag has 32 bits, and so has a length. Longer ones, of superfluous zeros, are not taken by all decoders.
 */
#define VV_WIRE_SHORT_BYTES_MAX 5

static inline bool vv_wire_short_varint(vv_wire *w, uint64_t *out) {
    const uint8_t *start = w->at;
    return vv_wire_varint(w, out) && w->at - start <= VV_WIRE_SHORT_BYTES_MAX;
}

/* The next field. False: malformed, or something that a reader by hand leaves to others (groups, long tags
 * and lengths). Only while w->at < w->end. */
static inline bool vv_wire_next(vv_wire *w, vv_wire_field *out) {
    uint64_t tag, length;
    if (!vv_wire_short_varint(w, &tag) || tag >> 3 == 0 || tag >> 32 != 0)
        return false;
    out->number = (uint32_t)(tag >> 3);
    out->type = (vv_wire_type)(tag & 7);
    switch (out->type) {
    case VV_WIRE_VARINT: return vv_wire_varint(w, &out->value);
    case VV_WIRE_BYTES:
        if (!vv_wire_short_varint(w, &length))
            return false;
        out->bytes = vv_slice_make(w->at, length);
        return vv_wire_skip(w, length);
    case VV_WIRE_FIXED64:
        if (w->end - w->at < 8)
            return false;
        out->value = 0;
        for (int i = 7; i >= 0; i--)
            out->value = out->value << 8 | w->at[i];
        return vv_wire_skip(w, 8);
    case VV_WIRE_FIXED32: return vv_wire_skip(w, 4);
    }
    return false;
}

#endif
