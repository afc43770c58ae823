/*
 * pipeline_codec.h - PipelineRequest as a list of operations, and answers as bytes.
 */
#ifndef VV_RPC_PIPELINE_CODEC_H
#define VV_RPC_PIPELINE_CODEC_H

#include "engine/varve.h"
#include "rpc/codec.h"
#include "rpc/transport.h"

/* In one message. */
#define VV_PIPELINE_MESSAGE_OPS_MAX 65536

typedef enum vv_pipeline_kind {
    VV_PIPELINE_NONE, /* neither of them was set */
    VV_PIPELINE_GET,
    VV_PIPELINE_PUT,
    VV_PIPELINE_DELETE
} vv_pipeline_kind;

typedef struct vv_pipeline_op {
    uint64_t id;
    uint64_t sequence;
    uint64_t ttl_ms;
    vv_slice key, value; /* in the message, or in the decoder's arena */
    vv_pipeline_kind kind;
} vv_pipeline_op;

/* A message's operations. Storage is kept from message to message. */
typedef struct vv_pipeline_message {
    vv_pipeline_op *ops;
    size_t count, capacity;
    uint64_t client_id;
    uint64_t durability;   /* as it came */
    bool packed;           /* `more` was used */
    vv_codec_arena *arena; /* of an odd message; NULL else */
} vv_pipeline_message;

/*
 * Read one message into *m, zeroed or read into before. bytes must live as long as the operations are used.
 *
 * INVALID_ARGUMENT/MALFORMED
 * NO_MEMORY
 * BUSY   more than VV_PIPELINE_MESSAGE_OPS_MAX operations.
 */
vv_status vv_pipeline_read(vv_slice bytes, vv_pipeline_message *m) VV_CHECKED;
void vv_pipeline_message_deinit(vv_pipeline_message *m);

/* Bytes that an answer takes at most, beside its value or error details. */
#define VV_PIPELINE_ANSWER_BYTES 96

/*
 * Write one answer (the fields of PipelineAnswer, which are those of PipelineResponse too) and return its
 * end. `to` has VV_PIPELINE_ANSWER_BYTES and the value's or details' bytes.
 */
uint8_t *vv_pipeline_put_found(uint8_t *to, uint64_t id, const varve_value *value);
uint8_t *vv_pipeline_put_missing(uint8_t *to, uint64_t id);
uint8_t *vv_pipeline_put_written(uint8_t *to, uint64_t id, uint64_t lsn);
/* status: a packed google.rpc.Status. */
uint8_t *vv_pipeline_put_error(uint8_t *to, uint64_t id, vv_slice status);

#endif
