/*
 * codec.h - protobuf-c with a bound: a message of a client may cost so much memory and no more.
 *
 * A message of 4 MB can be made of two million fields, each of which protobuf-c allocates something for: a
 * hundred bytes of memory for two on the wire. So everything that decoding allocates comes from an arena with
 * a cap, which is dropped whole.
 */
#ifndef VV_RPC_CODEC_H
#define VV_RPC_CODEC_H

#include <protobuf-c/protobuf-c.h>

#include "base/slice.h"
#include "base/status.h"
#include "rpc/transport.h"

/* What decoding may take beyond the bytes of the message itself: structures of some 100,000 operations. */
#define VV_CODEC_EXTRA_BYTES_MAX ((size_t)16 << 20)

typedef struct vv_arena_chunk vv_arena_chunk;

/* Not thread-safe. Fits on the stack: small messages allocate nothing. */
typedef struct vv_codec_arena {
    ProtobufCAllocator allocator;
    uint8_t *at, *end; /* what is left of the newest chunk */
    size_t used_bytes;
    size_t cap_bytes; /* of all that is allocated together */
    bool exhausted;   /* the cap was hit, or there is no memory */
    vv_arena_chunk *chunks;
    _Alignas(16) uint8_t first[2048];
} vv_codec_arena;

void vv_codec_arena_init(vv_codec_arena *arena);
void vv_codec_arena_deinit(vv_codec_arena *arena);

/*
 * Decode bytes into *message_out, which lives as long as the arena (do not free it otherwise); it points into
 * the arena alone, not into bytes. The arena must be fresh; its cap is set to what this message may take.
 *
 * INVALID_ARGUMENT/MALFORMED   bytes are no such message
 * NO_MEMORY                    it would take more than VV_CODEC_EXTRA_BYTES_MAX, or there is no memory
 */
vv_status vv_codec_decode(vv_codec_arena *arena, const ProtobufCMessageDescriptor *type, vv_slice bytes,
                          ProtobufCMessage **message_out) VV_CHECKED;

/* As vv_codec_decode, and ends the call itself with an error when that fails: NULL. */
ProtobufCMessage *vv_codec_request(vv_rpc_call *call, vv_codec_arena *arena,
                                   const ProtobufCMessageDescriptor *type, vv_slice bytes);

/* Answer a unary call with a message of any size; with RESOURCE_EXHAUSTED when there is no memory. */
void vv_codec_reply(vv_rpc_call *call, const ProtobufCMessage *message);

/* Pack a small message: at most VV_CODEC_SMALL_BYTES. */
#define VV_CODEC_SMALL_BYTES 512
typedef struct vv_codec_small {
    size_t bytes;
    uint8_t data[VV_CODEC_SMALL_BYTES];
} vv_codec_small;
void vv_codec_pack_small(const ProtobufCMessage *message, vv_codec_small *out);

/* Pieces of a message written by hand. Each returns the end of what it wrote. */
#define VV_CODEC_VARINT_BYTES_MAX 10
uint8_t *vv_codec_put_varint(uint8_t *to, uint64_t value);
/* Tag and value of a varint field; nothing for 0, as proto3 has it. */
uint8_t *vv_codec_put_uint(uint8_t *to, uint32_t field, uint64_t value);
/* Tag and length of a bytes field, whose bytes are to follow. */
uint8_t *vv_codec_put_bytes_header(uint8_t *to, uint32_t field, size_t bytes);

#endif
