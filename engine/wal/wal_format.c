#include "engine/wal/wal_format.h"

#include "base/checksum.h"

static const uint8_t segment_magic[8] = {'V', 'A', 'R', 'V', 'W', 'A', 'L', 0};

/* Offsets in a segment header. magic, version and checksum stay where they are in every version. */
enum {
    SEGMENT_VERSION_AT = 8,
    SEGMENT_BLOCK_BYTES_AT = 12,
    SEGMENT_SEQ_AT = 16,
    SEGMENT_BYTES_AT = 24,
    SEGMENT_LOG_ID_AT = 32,
    SEGMENT_SALT_AT = 48,
    SEGMENT_CHECKSUM_AT = 56,
};
_Static_assert(SEGMENT_LOG_ID_AT + VV_WAL_LOG_ID_BYTES == SEGMENT_SALT_AT, "segment header layout");
_Static_assert(SEGMENT_CHECKSUM_AT + 8 == VV_WAL_SEGMENT_HEAD_BYTES, "segment header layout");

/* Offsets in a frame head. */
enum {
    FRAME_RECORD_COUNT_AT = 4,
    FRAME_PAYLOAD_BYTES_AT = 8,
    FRAME_SEQ_AT = 16,
    FRAME_FIRST_LSN_AT = 24,
    FRAME_LAST_LSN_AT = 32,
    FRAME_DURABLE_LSN_AT = 40,
    FRAME_PAYLOAD_CHECKSUM_AT = 48,
    FRAME_CHECKSUM_AT = 56,
};
_Static_assert(FRAME_CHECKSUM_AT + 8 == VV_WAL_FRAME_HEAD_BYTES, "frame head layout");
_Static_assert(VV_WAL_BLOCK_BYTES_MIN >= VV_WAL_SEGMENT_HEAD_BYTES, "a header fits its block");
_Static_assert(VV_WAL_BLOCK_BYTES_MIN >= VV_WAL_FRAME_HEAD_BYTES, "a frame head is in one block");

void vv_wal_segment_head_encode(uint8_t bytes[VV_WAL_SEGMENT_HEAD_BYTES], const vv_wal_segment_head *head) {
    memcpy(bytes, segment_magic, sizeof segment_magic);
    vv_put_be32(bytes + SEGMENT_VERSION_AT, VV_WAL_FORMAT_VERSION);
    vv_put_be32(bytes + SEGMENT_BLOCK_BYTES_AT, head->block_bytes);
    vv_put_be64(bytes + SEGMENT_SEQ_AT, head->seq);
    vv_put_be64(bytes + SEGMENT_BYTES_AT, head->segment_bytes);
    memcpy(bytes + SEGMENT_LOG_ID_AT, head->log_id, VV_WAL_LOG_ID_BYTES);
    vv_put_be64(bytes + SEGMENT_SALT_AT, head->salt);
    vv_put_be64(bytes + SEGMENT_CHECKSUM_AT, vv_checksum(bytes, SEGMENT_CHECKSUM_AT, 0));
}

vv_status vv_wal_segment_head_decode(const uint8_t bytes[VV_WAL_SEGMENT_HEAD_BYTES],
                                     vv_wal_segment_head *out) {
    if (memcmp(bytes, segment_magic, sizeof segment_magic) != 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_MAGIC, 0);
    /* Before the checksum: a newer version may count it differently. */
    if (vv_get_be32(bytes + SEGMENT_VERSION_AT) > VV_WAL_FORMAT_VERSION)
        return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
    if (vv_get_be64(bytes + SEGMENT_CHECKSUM_AT) != vv_checksum(bytes, SEGMENT_CHECKSUM_AT, 0))
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    out->block_bytes = vv_get_be32(bytes + SEGMENT_BLOCK_BYTES_AT);
    out->seq = vv_get_be64(bytes + SEGMENT_SEQ_AT);
    out->segment_bytes = vv_get_be64(bytes + SEGMENT_BYTES_AT);
    memcpy(out->log_id, bytes + SEGMENT_LOG_ID_AT, VV_WAL_LOG_ID_BYTES);
    out->salt = vv_get_be64(bytes + SEGMENT_SALT_AT);
    if (vv_get_be32(bytes + SEGMENT_VERSION_AT) != VV_WAL_FORMAT_VERSION ||
        !vv_is_power_of_two(out->block_bytes) || out->block_bytes < VV_WAL_BLOCK_BYTES_MIN ||
        out->block_bytes > VV_WAL_BLOCK_BYTES_MAX || out->segment_bytes < 2 * (uint64_t)out->block_bytes ||
        out->segment_bytes % out->block_bytes != 0 || out->segment_bytes > INT64_MAX || out->seq == 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    return VV_STATUS_OK;
}

uint64_t vv_wal_segment_seed(const vv_wal_segment_head *head) {
    uint8_t identity[VV_WAL_LOG_ID_BYTES + 8 + 8];
    memcpy(identity, head->log_id, VV_WAL_LOG_ID_BYTES);
    vv_put_be64(identity + VV_WAL_LOG_ID_BYTES, head->seq);
    vv_put_be64(identity + VV_WAL_LOG_ID_BYTES + 8, head->salt);
    return vv_checksum(identity, sizeof identity, 0);
}

void vv_wal_frame_head_encode(uint8_t bytes[VV_WAL_FRAME_HEAD_BYTES], const vv_wal_frame_head *head,
                              uint64_t seed) {
    vv_put_be32(bytes, VV_WAL_FRAME_MAGIC);
    vv_put_be32(bytes + FRAME_RECORD_COUNT_AT, head->record_count);
    vv_put_be64(bytes + FRAME_PAYLOAD_BYTES_AT, head->payload_bytes);
    vv_put_be64(bytes + FRAME_SEQ_AT, head->frame_seq);
    vv_put_be64(bytes + FRAME_FIRST_LSN_AT, head->first_lsn);
    vv_put_be64(bytes + FRAME_LAST_LSN_AT, head->last_lsn);
    vv_put_be64(bytes + FRAME_DURABLE_LSN_AT, head->durable_lsn);
    vv_put_be64(bytes + FRAME_PAYLOAD_CHECKSUM_AT, head->payload_checksum);
    vv_put_be64(bytes + FRAME_CHECKSUM_AT, vv_checksum(bytes, FRAME_CHECKSUM_AT, seed));
}

bool vv_wal_frame_head_decode(const uint8_t bytes[VV_WAL_FRAME_HEAD_BYTES], uint64_t seed,
                              vv_wal_frame_head *out) {
    if (vv_get_be32(bytes) != VV_WAL_FRAME_MAGIC)
        return false;
    if (vv_get_be64(bytes + FRAME_CHECKSUM_AT) != vv_checksum(bytes, FRAME_CHECKSUM_AT, seed))
        return false;
    out->record_count = vv_get_be32(bytes + FRAME_RECORD_COUNT_AT);
    out->payload_bytes = vv_get_be64(bytes + FRAME_PAYLOAD_BYTES_AT);
    out->frame_seq = vv_get_be64(bytes + FRAME_SEQ_AT);
    out->first_lsn = vv_get_be64(bytes + FRAME_FIRST_LSN_AT);
    out->last_lsn = vv_get_be64(bytes + FRAME_LAST_LSN_AT);
    out->durable_lsn = vv_get_be64(bytes + FRAME_DURABLE_LSN_AT);
    out->payload_checksum = vv_get_be64(bytes + FRAME_PAYLOAD_CHECKSUM_AT);
    /* Sums of these must not wrap in the reader, whoever wrote them. */
    return out->first_lsn != 0 && out->payload_bytes <= INT64_MAX && out->durable_lsn < out->first_lsn &&
           (out->record_count != 0 ? out->last_lsn >= out->first_lsn
                                   : out->last_lsn == out->first_lsn - 1 && out->payload_bytes == 0);
}
