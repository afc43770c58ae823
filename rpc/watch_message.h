/*
 * watch_message.h - WatchResponse from the log's batches, field by field.
 *
 * Events are copied once, from where the log has them to the message. What a range leaves out is not copied.
 */
#ifndef VV_RPC_WATCH_MESSAGE_H
#define VV_RPC_WATCH_MESSAGE_H

#include "base/slice.h"
#include "engine/varve.h"

/* Keys that are watched: all three hold. */
typedef struct vv_watch_range {
    vv_slice start; /* inclusive; empty: from the first */
    vv_slice end;   /* exclusive; empty: to the last */
    vv_slice prefix;
} vv_watch_range;

/* The `events` of a WatchResponse, packed. Zeroed: empty. */
typedef struct vv_watch_message {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
} vv_watch_message;

/* A message is never longer: protobuf's limit, with room for what stands around the events. */
#define VV_WATCH_EVENTS_BYTES_MAX (((size_t)1 << 31) - 4096)

/*
 * Add the operations of a batch that lie in the range. An entry that has expired is gone, so that its put is
 * told as what it comes to by now: a delete.
 *
 * NO_MEMORY                            there is no memory for the batch
 * INVALID_ARGUMENT, BATCH_TOO_LARGE    it would not fit into a message of protobuf's
 * CORRUPTION                           the batch makes no sense
 * In all these cases the message is as before.
 */
varve_status vv_watch_message_add(vv_watch_message *m, const varve_wal_batch *batch,
                                  const vv_watch_range *range, uint64_t now_unix_ms) VARVE_CHECKED;

/* The rest of a WatchResponse. Returns its bytes. */
#define VV_WATCH_REST_BYTES_MAX 16
size_t vv_watch_message_rest(uint8_t rest[VV_WATCH_REST_BYTES_MAX], uint64_t lsn);

/* Empty it; what it holds for the next is not more than `keep_bytes`. */
void vv_watch_message_clear(vv_watch_message *m, size_t keep_bytes);

#endif
