/*
 * stream.c - a file read front to back through a queue, and written to another one on the way.
 *
 *   slot:  free --read--> READING --> there --checksum--> WRITING --> free
 *
 * Piece n goes through slot n % SLOT_COUNT; the pieces are summed up in order, while reads before and writes
 * behind are under way.
 */
#include <string.h>

#include "base/checksum.h"
#include "engine/db/db_impl.h"

#define SLOT_COUNT 4

typedef enum slot_state { SLOT_FREE, SLOT_READING, SLOT_THERE, SLOT_WRITING } slot_state;

typedef struct stream_slot {
    vv_io_req req;
    uint8_t *buffer;
    slot_state state;
} stream_slot;

typedef struct stream {
    vv_io_queue *queue;
    vv_file *from;
    vv_file *to;
    uint64_t bytes;
    uint64_t piece_bytes;
    uint64_t asked;   /* from here on nothing was asked for yet */
    uint64_t used;    /* up to here it was summed up */
    vv_status status; /* the first failure */
    bool broken;      /* the queue: it gives nothing back */
    vv_checksum_stream *sum;
    stream_slot slots[SLOT_COUNT];
} stream;

static stream_slot *slot_of(stream *s, uint64_t offset) {
    return &s->slots[offset / s->piece_bytes % SLOT_COUNT];
}

static uint64_t piece_at(const stream *s, uint64_t offset) {
    return VV_MIN(s->piece_bytes, s->bytes - offset);
}

static void done(vv_io_req *req) {
    stream *s = req->arg;
    stream_slot *slot = VV_CONTAINER_OF(req, stream_slot, req);
    vv_status_keep(&s->status, req->status);
    slot->state = slot->state == SLOT_READING ? SLOT_THERE : SLOT_FREE;
}

static void submit(stream *s, stream_slot *slot, vv_io_op op, vv_file *file, uint64_t offset) {
    slot->req = (vv_io_req){.op = op,
                            .file = file,
                            .buf = slot->buffer,
                            .offset = offset,
                            .bytes = (uint32_t)vv_align_up(piece_at(s, offset), VV_IO_ALIGN_BYTES),
                            .done = done,
                            .arg = s};
    slot->state = op == VV_IO_READ ? SLOT_READING : SLOT_WRITING;
    vv_io_submit(s->queue, &slot->req);
}

static void run(stream *s, uint32_t min_done) {
    uint32_t count;
    vv_status st = vv_io_run(s->queue, min_done, &count);
    vv_status_keep(&s->status, st);
    s->broken |= !vv_ok(st) && count == 0;
}

static void read_ahead(stream *s) {
    while (s->asked < s->bytes && slot_of(s, s->asked)->state == SLOT_FREE) {
        submit(s, slot_of(s, s->asked), VV_IO_READ, s->from, s->asked);
        s->asked += piece_at(s, s->asked);
    }
}

/* The piece at `used` is there. */
static void use(stream *s, vv_throttle *t) {
    stream_slot *slot = slot_of(s, s->used);
    uint64_t bytes = piece_at(s, s->used);
    if (slot->req.transferred_bytes < bytes) {
        s->status = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
        return;
    }
    vv_checksum_stream_add(s->sum, slot->buffer, bytes);
    slot->state = SLOT_FREE;
    if (s->to) {
        memset(slot->buffer + bytes, 0, vv_align_up(bytes, VV_IO_ALIGN_BYTES) - bytes);
        submit(s, slot, VV_IO_WRITE, s->to, s->used);
    }
    s->used += bytes;
    /* Give it to the kernel now: the rate may ask for a pause. */
    run(s, 0);
    if (!vv_throttle_pass(t, bytes))
        vv_status_keep(&s->status, vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0));
}

static bool in_flight(const stream *s) {
    for (uint32_t i = 0; i < SLOT_COUNT; i++)
        if (s->slots[i].state == SLOT_READING || s->slots[i].state == SLOT_WRITING)
            return true;
    return false;
}

vv_status vv_db_stream(vv_io_queue *queue, vv_file *from, vv_file *to, uint64_t bytes, vv_throttle *t,
                       vv_checksum_stream *sum) {
    stream s = {.queue = queue, .from = from, .to = to, .bytes = bytes, .sum = sum};
    s.piece_bytes = queue->options.pool_buffer_bytes / VV_IO_ALIGN_BYTES * VV_IO_ALIGN_BYTES;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        s.slots[i].buffer = vv_io_buffer_take(queue);
        if (!s.slots[i].buffer)
            s.status = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    while (s.used < bytes && vv_ok(s.status)) {
        read_ahead(&s);
        if (slot_of(&s, s.used)->state == SLOT_THERE)
            use(&s, t);
        else
            run(&s, 1);
    }
    while (!s.broken && in_flight(&s))
        run(&s, 1);
    for (uint32_t i = 0; i < SLOT_COUNT && !s.broken; i++)
        vv_io_buffer_give(queue, s.slots[i].buffer);
    return s.status;
}
