/*
 * wal_format.h - bytes of a log segment. The picture is in engine/FORMAT.md section 1.
 *
 * A segment is a header block and then frames, each beginning on a block boundary. A frame's checksums are
 * seeded with the identity of the segment it belongs to (log id, sequence number, and a salt that is drawn
 * anew whenever a file becomes a segment), so that what an earlier life of a recycled file left behind never
 * passes for a frame of this one.
 *
 * The head of a frame has a checksum of its own. That lets a reader trust a length before it reads that far,
 * and lets it trust the durable_lsn of a frame whose payload is torn: the evidence that tells damage from a
 * torn tail.
 */
#ifndef VV_ENGINE_WAL_FORMAT_H
#define VV_ENGINE_WAL_FORMAT_H

#include "base/codec.h"
#include "base/status.h"

#define VV_WAL_FORMAT_VERSION     1
#define VV_WAL_SEGMENT_HEAD_BYTES 64
#define VV_WAL_FRAME_HEAD_BYTES   64
#define VV_WAL_LOG_ID_BYTES       16
#define VV_WAL_FRAME_MAGIC        UINT32_C(0x5657464d) /* "VWFM" */
#define VV_WAL_BLOCK_BYTES_MIN    512
#define VV_WAL_BLOCK_BYTES_MAX    65536

typedef struct vv_wal_segment_head {
    uint64_t seq;           /* the number in the file's name */
    uint64_t segment_bytes; /* size of the file */
    uint32_t block_bytes;   /* frames begin at multiples of it */
    uint8_t log_id[VV_WAL_LOG_ID_BYTES];
    uint64_t salt;
} vv_wal_segment_head;

void vv_wal_segment_head_encode(uint8_t bytes[VV_WAL_SEGMENT_HEAD_BYTES], const vv_wal_segment_head *head);

/* CORRUPTION BAD_MAGIC, CHECKSUM or BAD_LAYOUT; UNSUPPORTED FORMAT_NEWER for a version behind ours. */
vv_status vv_wal_segment_head_decode(const uint8_t bytes[VV_WAL_SEGMENT_HEAD_BYTES],
                                     vv_wal_segment_head *out) VV_CHECKED;

/* What seeds the checksums of the segment's frames. */
uint64_t vv_wal_segment_seed(const vv_wal_segment_head *head);

typedef struct vv_wal_frame_head {
    uint64_t payload_bytes;
    uint32_t record_count; /* 0: written by a clean close */
    uint64_t frame_seq;    /* contiguous over the whole log */
    uint64_t first_lsn;
    uint64_t last_lsn;    /* first_lsn - 1 in a frame without records */
    uint64_t durable_lsn; /* what was known to be durable when the frame was sealed */
    uint64_t payload_checksum;
} vv_wal_frame_head;

void vv_wal_frame_head_encode(uint8_t bytes[VV_WAL_FRAME_HEAD_BYTES], const vv_wal_frame_head *head,
                              uint64_t seed);

/* False: these bytes are not the head of a frame of the segment that `seed` stands for. */
bool vv_wal_frame_head_decode(const uint8_t bytes[VV_WAL_FRAME_HEAD_BYTES], uint64_t seed,
                              vv_wal_frame_head *out) VV_CHECKED;

/* Bytes that a frame with this payload takes in a segment. */
static inline uint64_t vv_wal_frame_bytes(uint64_t payload_bytes, uint32_t block_bytes) {
    return vv_align_up(VV_WAL_FRAME_HEAD_BYTES + payload_bytes, block_bytes);
}

#endif
