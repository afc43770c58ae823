/*
 * wal_search.c - looking for frames where none should be.
 *
 * The segments behind the last frame, as a rule the one that was ready to be the next, are read to their
 * ends: a frame in them may know that what is missing before it was durable once. They are as large as the
 * log itself, so that reading them one after the other would double the time of recovery. Here it happens
 * beside the replay, two chunks at a time, whenever that runs their common queue.
 *
 *   next segment --> open --> [chunk][chunk] on their way --> heads of blocks --> next chunk ... --> close
 *        ^                                                                                             |
 *        '---------------------------------------------------------------------------------------------'
 */
#include "engine/wal/wal_search.h"

#include <inttypes.h>

#include "base/alloc.h"

#define CHUNKS      2
#define CHUNK_BYTES (UINT64_C(2) << 20)

_Static_assert(CHUNK_BYTES % VV_WAL_BLOCK_BYTES_MAX == 0, "a block is in one chunk");

typedef struct chunk {
    vv_io_req req;
    vv_wal_search *search;
    uint8_t *data;
} chunk;

struct vv_wal_search {
    const vv_wal *w;
    vv_wal_window *window; /* whose queue is used */
    vv_wal_trace *traces;
    size_t count;
    size_t at; /* the segment that is being searched */
    vv_file *file;
    uint64_t next_offset;
    uint32_t in_flight;
    chunk chunks[CHUNKS];
    uint8_t *buffer;
    bool stopped;
    vv_status status; /* the first failure: nothing is read after it */
    vv_error err;
};

static void chunk_done(vv_io_req *req);

static void fail(vv_wal_search *t, const vv_io_req *req) {
    char path[VV_WAL_PATH_BYTES];
    if (!vv_ok(t->status))
        return;
    vv_wal_path(t->w, t->traces[t->at].segment->head.seq, ".log", path);
    t->status = vv_fail(&t->err, req->status, "%s: read at %" PRIu64, path, req->offset);
}

/* Multiples of CHUNK_BYTES, so that blocks, which begin at multiples of their size, are whole. */
static void ask(vv_wal_search *t, chunk *c) {
    uint64_t end = t->traces[t->at].segment->head.segment_bytes;
    if (t->stopped || !vv_ok(t->status) || t->next_offset >= end)
        return;
    uint64_t bytes = VV_MIN(vv_align_up(end - t->next_offset, VV_IO_ALIGN_BYTES), CHUNK_BYTES);
    c->req = (vv_io_req){.op = VV_IO_READ,
                         .file = t->file,
                         .buf = c->data,
                         .offset = t->next_offset,
                         .bytes = (uint32_t)bytes,
                         .done = chunk_done};
    t->next_offset += bytes;
    t->in_flight++;
    vv_io_submit(vv_wal_window_queue(t->window), &c->req);
}

/* Open the segment at hand, if there is one left, and start reading. */
static void begin(vv_wal_search *t) {
    if (t->stopped || !vv_ok(t->status) || t->at == t->count)
        return;
    char path[VV_WAL_PATH_BYTES];
    vv_wal_path(t->w, t->traces[t->at].segment->head.seq, ".log", path);
    t->status = vv_file_open(t->w->backend, path, VV_OPEN_READ | VV_OPEN_DIRECT, &t->file, &t->err);
    t->next_offset = 0;
    for (uint32_t i = 0; i < CHUNKS; i++)
        ask(t, &t->chunks[i]);
}

static void search(vv_wal_trace *trace, const uint8_t *data, uint64_t bytes, uint64_t offset) {
    const vv_wal_segment *s = trace->segment;
    uint64_t block_bytes = s->head.block_bytes;
    for (uint64_t at = offset == 0 ? block_bytes : 0; at + VV_WAL_FRAME_HEAD_BYTES <= bytes;
         at += block_bytes) {
        vv_wal_frame_head head;
        if (!vv_wal_frame_head_decode(data + at, s->seed, &head))
            continue;
        trace->any = true;
        trace->durable_lsn = VV_MAX(trace->durable_lsn, head.durable_lsn);
    }
}

static void chunk_done(vv_io_req *req) {
    chunk *c = VV_CONTAINER_OF(req, chunk, req);
    vv_wal_search *t = c->search;
    t->in_flight--;
    if (vv_ok(req->status))
        search(&t->traces[t->at], c->data, req->transferred_bytes, req->offset);
    else
        fail(t, req);
    ask(t, c);
    if (t->in_flight > 0)
        return;
    vv_file_close(t->file);
    t->file = NULL;
    t->at++;
    begin(t);
}

vv_status vv_wal_search_create(const vv_wal *w, vv_wal_window *window, vv_wal_trace *traces, size_t count,
                               vv_wal_search **out) {
    *out = NULL;
    vv_wal_search *t = vv_alloc_zeroed(sizeof *t);
    uint8_t *buffer = vv_alloc_aligned(VV_IO_ALIGN_BYTES, CHUNKS * CHUNK_BYTES);
    if (!t || !buffer) {
        vv_free(buffer);
        vv_free(t);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    t->w = w;
    t->window = window;
    t->traces = traces;
    t->count = count;
    t->buffer = buffer;
    for (uint32_t i = 0; i < CHUNKS; i++) {
        t->chunks[i].search = t;
        t->chunks[i].data = buffer + i * CHUNK_BYTES;
    }
    begin(t);
    *out = t;
    return VV_STATUS_OK;
}

vv_status vv_wal_search_finish(vv_wal_search *t, vv_error *err) {
    while (t->in_flight > 0)
        vv_wal_window_run(t->window);
    return vv_ok(t->status) ? t->status : vv_fail(err, t->status, "%s", t->err.text);
}

void vv_wal_search_destroy(vv_wal_search *t) {
    if (!t)
        return;
    t->stopped = true;
    while (t->in_flight > 0)
        vv_wal_window_run(t->window);
    vv_file_close(t->file);
    if (!vv_wal_window_broken(t->window))
        vv_free(t->buffer);
    vv_free(t);
}
