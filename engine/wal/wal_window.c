/*
 * wal_window.c - reading a segment ahead: chunks of it are on their way while the ones before are replayed.
 *
 *   used up | at hand (the view) | chunk | chunk | chunk, all three on their way | not asked for
 *
 * What is wanted lies in one piece. If it begins in one chunk and ends in the next, its beginning is copied
 * to the room before the next one's bytes:
 *
 *   [        room | bytes of chunk n     ]
 *                               '--copied--.
 *                               [      room | bytes of chunk n + 1 ]
 *
 * What is larger than the room, a frame of one huge record, is put together in a buffer of its own.
 */
#include "engine/wal/wal_window.h"

#include "base/alloc.h"
#include "engine/wal/wal_format.h"

#define CHUNKS      4
#define CHUNK_BYTES (UINT64_C(2) << 20)
/* A frame of the log's own buffers, which have 1 MiB, always fits. */
#define ROOM_BYTES ((UINT64_C(1) << 20) + VV_WAL_BLOCK_BYTES_MAX)

_Static_assert(ROOM_BYTES % VV_IO_ALIGN_BYTES == 0, "chunks are aligned");
_Static_assert(ROOM_BYTES <= CHUNK_BYTES, "what begins in one chunk ends in the next");

typedef struct chunk {
    vv_io_req req;
    vv_wal_window *window;
    uint8_t *data; /* CHUNK_BYTES, and ROOM_BYTES before them */
    uint64_t offset;
    bool asked; /* for bytes from `offset` on */
    bool arrived;
} chunk;

struct vv_wal_window {
    vv_io_queue *queue;
    vv_file *file;
    uint64_t end;
    uint8_t *buffer;
    chunk chunks[CHUNKS];
    uint32_t first;       /* of the chunks that were asked for, oldest first: the one at hand */
    uint64_t next_offset; /* not asked for from here on */
    uint32_t in_flight;   /* of the chunks */
    bool streaming;
    bool broken; /* the queue is */
    /* the view */
    const uint8_t *view;
    uint64_t view_at;
    uint64_t view_bytes;
    uint8_t *big; /* for what is larger than the room */
    uint64_t big_bytes;
};

vv_status vv_wal_window_create(vv_io_backend *b, vv_wal_window **out, vv_error *err) {
    *out = NULL;
    vv_status no_memory = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_wal_window *w = vv_alloc_zeroed(sizeof *w);
    if (!w)
        return vv_fail(err, no_memory, "out of memory");
    vv_io_queue_options o = {.depth = 2 * CHUNKS};
    vv_status st = vv_io_queue_create(b, &o, &w->queue, err);
    if (!vv_ok(st)) {
        vv_free(w);
        return st;
    }
    w->buffer = vv_alloc_aligned(VV_IO_ALIGN_BYTES, CHUNKS * (ROOM_BYTES + CHUNK_BYTES));
    if (!w->buffer) {
        vv_wal_window_destroy(w);
        return vv_fail(err, no_memory, "out of memory");
    }
    for (uint32_t i = 0; i < CHUNKS; i++) {
        w->chunks[i].window = w;
        w->chunks[i].data = w->buffer + i * (ROOM_BYTES + CHUNK_BYTES) + ROOM_BYTES;
    }
    *out = w;
    return VV_STATUS_OK;
}

void vv_wal_window_destroy(vv_wal_window *w) {
    if (!w)
        return;
    vv_wal_window_stop(w);
    vv_io_queue_destroy(w->queue);
    if (!w->broken)
        vv_free(w->buffer);
    vv_free(w->big);
    vv_free(w);
}

vv_io_queue *vv_wal_window_queue(vv_wal_window *w) {
    return w->queue;
}

static void run(vv_wal_window *w, uint32_t min_done) {
    if (!vv_ok(vv_io_run(w->queue, min_done, NULL)))
        w->broken = true; /* the requests fail with the reason */
}

void vv_wal_window_run(vv_wal_window *w) {
    run(w, 1);
}

bool vv_wal_window_broken(const vv_wal_window *w) {
    return w->broken;
}

/* ---- chunks ---- */

static void chunk_done(vv_io_req *req) {
    chunk *c = VV_CONTAINER_OF(req, chunk, req);
    c->arrived = true;
    c->window->in_flight--;
}

/* Ask for the next bytes, unless all are asked for. */
static void ask(vv_wal_window *w, chunk *c) {
    c->asked = w->next_offset < w->end;
    c->arrived = false;
    if (!c->asked)
        return;
    c->offset = w->next_offset;
    uint64_t bytes = VV_MIN(vv_align_up(w->end - c->offset, VV_IO_ALIGN_BYTES), CHUNK_BYTES);
    c->req = (vv_io_req){.op = VV_IO_READ,
                         .file = w->file,
                         .buf = c->data,
                         .offset = c->offset,
                         .bytes = (uint32_t)bytes,
                         .done = chunk_done};
    w->next_offset += bytes;
    w->in_flight++;
    vv_io_submit(w->queue, &c->req);
}

/* Make what has arrived of the chunk at hand the view, with `kept` bytes in the room before it. */
static vv_status view_first(vv_wal_window *w, uint64_t kept) {
    chunk *c = &w->chunks[w->first];
    while (!c->arrived)
        run(w, 1);
    w->view = c->data - kept;
    w->view_at = c->offset - kept;
    w->view_bytes = kept;
    VV_TRY(c->req.status);
    w->view_bytes += c->req.transferred_bytes;
    return VV_STATUS_OK;
}

/* Begin anew at `at`. */
static vv_status stream_from(vv_wal_window *w, uint64_t at) {
    vv_wal_window_stop(w);
    w->streaming = true;
    w->first = 0;
    w->next_offset = at & ~(uint64_t)(VV_IO_ALIGN_BYTES - 1);
    for (uint32_t i = 0; i < CHUNKS; i++)
        ask(w, &w->chunks[i]);
    return w->chunks[0].asked ? view_first(w, 0) : VV_STATUS_OK;
}

/* From the chunk at hand to the next one, keeping what the view has from `at` on. */
static vv_status advance(vv_wal_window *w, uint64_t at) {
    chunk *used = &w->chunks[w->first];
    uint32_t next = (w->first + 1) % CHUNKS;
    uint64_t view_end = w->view_at + w->view_bytes;
    uint64_t kept = at < view_end ? view_end - at : 0;
    VV_ASSERT(kept <= ROOM_BYTES);
    if (kept > 0)
        memcpy(w->chunks[next].data - kept, w->view + (at - w->view_at), kept);
    ask(w, used);
    run(w, 0); /* start it */
    w->first = next;
    return view_first(w, kept);
}

/* ---- the window ---- */

void vv_wal_window_start(vv_wal_window *w, vv_file *file, uint64_t end) {
    vv_wal_window_stop(w);
    w->file = file;
    w->end = end;
}

void vv_wal_window_stop(vv_wal_window *w) {
    while (w->in_flight > 0)
        run(w, 1);
    for (uint32_t i = 0; i < CHUNKS; i++)
        w->chunks[i].asked = false;
    w->streaming = false;
    w->view_bytes = 0;
}

/* Is there more behind the view? A chunk that came short ends the file. */
static bool has_next(const vv_wal_window *w) {
    const chunk *next = &w->chunks[(w->first + 1) % CHUNKS];
    return next->asked && next->offset == w->view_at + w->view_bytes;
}

static bool in_view(const vv_wal_window *w, uint64_t at, uint64_t bytes) {
    return at >= w->view_at && at + bytes <= w->view_at + w->view_bytes;
}

/* What is larger than the room is put together in a buffer of its own; the view ends up where that ends. */
static vv_status gather(vv_wal_window *w, uint64_t at, uint64_t bytes, vv_slice *out) {
    if (bytes > w->big_bytes) {
        vv_free(w->big);
        w->big_bytes = 0;
        w->big = vv_alloc(bytes);
        if (!w->big)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        w->big_bytes = bytes;
    }
    uint64_t copied = 0;
    for (;;) {
        VV_ASSERT(in_view(w, at + copied, 0));
        uint64_t more = VV_MIN(bytes - copied, w->view_at + w->view_bytes - (at + copied));
        memcpy(w->big + copied, w->view + (at + copied - w->view_at), more);
        copied += more;
        if (copied == bytes) {
            *out = vv_slice_make(w->big, bytes);
            return VV_STATUS_OK;
        }
        if (!has_next(w))
            return VV_STATUS_OK;
        VV_TRY(advance(w, at + copied));
    }
}

vv_status vv_wal_window_get(vv_wal_window *w, uint64_t at, uint64_t bytes, vv_slice *out) {
    *out = vv_slice_make(NULL, 0);
    if (at + bytes > w->end)
        return VV_STATUS_OK;
    if (!w->streaming || at < w->view_at)
        VV_TRY(stream_from(w, at));
    bool large = bytes > ROOM_BYTES;
    while (!in_view(w, at, large ? 1 : bytes)) {
        if (!has_next(w))
            return VV_STATUS_OK;
        VV_TRY(advance(w, at));
    }
    if (large && !in_view(w, at, bytes))
        return gather(w, at, bytes, out);
    *out = vv_slice_make(w->view + (at - w->view_at), bytes);
    return VV_STATUS_OK;
}
