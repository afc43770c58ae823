#include "rpc/codec.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "base/codec.h"
#include "rpc/status_map.h"

#define CHUNK_BYTES ((size_t)64 << 10)
#define ALIGNMENT   16
#define RETRY_MS    1000

struct vv_arena_chunk {
    vv_arena_chunk *next;
    _Alignas(ALIGNMENT) uint8_t data[];
};

static void *arena_alloc(void *arg, size_t bytes) {
    vv_codec_arena *a = arg;
    /* Before it is rounded up: a length of nearly 2^64 must not wrap. */
    if (bytes > a->cap_bytes - a->used_bytes) {
        a->exhausted = true;
        return NULL;
    }
    size_t rounded = vv_align_up(bytes, ALIGNMENT);
    if (rounded > (size_t)(a->end - a->at)) {
        size_t chunk_bytes = VV_MAX(rounded, CHUNK_BYTES);
        vv_arena_chunk *chunk = vv_alloc(sizeof *chunk + chunk_bytes);
        if (!chunk) {
            a->exhausted = true;
            return NULL;
        }
        chunk->next = a->chunks;
        a->chunks = chunk;
        a->at = chunk->data;
        a->end = chunk->data + chunk_bytes;
    }
    void *result = a->at;
    a->at += rounded;
    a->used_bytes = VV_MIN(a->used_bytes + rounded, a->cap_bytes);
    return result;
}

static void arena_free(void *arg, void *pointer) {
    (void)arg;
    (void)pointer; /* all at once, with the arena */
}

void vv_codec_arena_init(vv_codec_arena *a) {
    a->allocator = (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = a};
    a->at = a->first;
    a->end = a->first + sizeof a->first;
    a->used_bytes = 0;
    a->cap_bytes = 0;
    a->exhausted = false;
    a->chunks = NULL;
}

void vv_codec_arena_deinit(vv_codec_arena *a) {
    while (a->chunks) {
        vv_arena_chunk *next = a->chunks->next;
        vv_free(a->chunks);
        a->chunks = next;
    }
}

vv_status vv_codec_decode(vv_codec_arena *arena, const ProtobufCMessageDescriptor *type, vv_slice bytes,
                          ProtobufCMessage **message_out) {
    arena->cap_bytes = bytes.bytes + VV_CODEC_EXTRA_BYTES_MAX;
    *message_out = protobuf_c_message_unpack(type, &arena->allocator, bytes.bytes, bytes.data);
    if (*message_out)
        return VV_STATUS_OK;
    if (arena->exhausted)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_MALFORMED, 0);
}

ProtobufCMessage *vv_codec_request(vv_rpc_call *call, vv_codec_arena *arena,
                                   const ProtobufCMessageDescriptor *type, vv_slice bytes) {
    ProtobufCMessage *message;
    vv_status st = vv_codec_decode(arena, type, bytes, &message);
    if (vv_ok(st))
        return message;
    if (vv_is(st, VV_NO_MEMORY))
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "REQUEST_TOO_COMPLEX", 0,
                         "request has too many parts: it cannot be decoded within %zu MiB beyond its size",
                         VV_CODEC_EXTRA_BYTES_MAX >> 20);
    else
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, vv_sub_name(VV_SUB_MALFORMED), 0,
                         "request is not a valid %s", type->name);
    return NULL;
}

void vv_codec_reply(vv_rpc_call *call, const ProtobufCMessage *message) {
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = vv_alloc(bytes + 1);
    if (!packed) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", RETRY_MS, "out of memory");
        return;
    }
    protobuf_c_message_pack(message, packed);
    vv_rpc_reply(call, vv_rpc_body_copy(packed, bytes));
    vv_free(packed);
}

void vv_codec_pack_small(const ProtobufCMessage *message, vv_codec_small *out) {
    VV_ASSERT(protobuf_c_message_get_packed_size(message) <= sizeof out->data);
    out->bytes = protobuf_c_message_pack(message, out->data);
}

uint8_t *vv_codec_put_varint(uint8_t *to, uint64_t value) {
    for (; value >= 0x80; value >>= 7)
        *to++ = (uint8_t)(value | 0x80);
    *to++ = (uint8_t)value;
    return to;
}

uint8_t *vv_codec_put_uint(uint8_t *to, uint32_t field, uint64_t value) {
    if (value == 0)
        return to;
    return vv_codec_put_varint(vv_codec_put_varint(to, (uint64_t)field << 3), value);
}

uint8_t *vv_codec_put_bytes_header(uint8_t *to, uint32_t field, size_t bytes) {
    return vv_codec_put_varint(vv_codec_put_varint(to, (uint64_t)field << 3 | 2), bytes);
}
