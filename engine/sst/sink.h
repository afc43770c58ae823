/*
 * sink.h - a file that is written front to back: tables by their writer, and files that come from elsewhere.
 */
#ifndef VV_ENGINE_SST_SINK_H
#define VV_ENGINE_SST_SINK_H

#include "base/checksum.h"
#include "io/io.h"

#define VV_SST_SINK_SLOTS 2

typedef struct vv_sst_sink_slot {
    vv_io_req req;
    uint8_t *buffer;
    bool in_flight;
} vv_sst_sink_slot;

/* A file being written front to back in large aligned pieces. One thread, the queue's. */
typedef struct vv_sst_sink {
    vv_io_queue *queue;
    vv_file *file; /* borrowed */
    vv_sst_sink_slot slots[VV_SST_SINK_SLOTS];
    uint32_t current;            /* the slot that is filled */
    uint32_t buffer_bytes;       /* of each slot */
    uint32_t used_bytes;         /* of the current slot's buffer */
    uint64_t offset;             /* in the file, of the current buffer */
    vv_status status;            /* the first failure; final */
    vv_checksum_stream checksum; /* of all before the current buffer */
} vv_sst_sink;

/* The sink must stay where it is. BUSY: the queue's pool has not enough buffers left. */
vv_status vv_sst_sink_init(vv_sst_sink *s, vv_io_queue *queue, vv_file *file) VV_CHECKED;
/* Before the first append: go on behind `offset` bytes, a multiple of VV_IO_ALIGN_BYTES, that are in the file
 * already and were added to *checksum. */
void vv_sst_sink_resume(vv_sst_sink *s, uint64_t offset, const vv_checksum_stream *checksum);
vv_status vv_sst_sink_append(vv_sst_sink *s, const void *data, size_t bytes) VV_CHECKED;
/* Write the rest, cut the file to its length and sync it. OK: all that was appended survives power loss, once
 * the file's name does. */
vv_status vv_sst_sink_finish(vv_sst_sink *s) VV_CHECKED;
/* Instead of finish: write the whole blocks of what was appended, cut the file behind them and sync it, for
 * another sink to go on. */
vv_status vv_sst_sink_pause(vv_sst_sink *s) VV_CHECKED;
/* The checksum of the whole file, after finish. */
uint64_t vv_sst_sink_checksum(const vv_sst_sink *s);
/* Waits for what is in flight. */
void vv_sst_sink_deinit(vv_sst_sink *s);

#endif
