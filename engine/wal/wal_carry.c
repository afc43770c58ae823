/*
 * wal_carry.c - the end of a log that was not closed, carried over into the next segment.
 *
 *   wal-N.log   [proven][proven][proven][A][B][C]
 *                                        |  |  |  each read and checked
 *                                        v  v  v
 *   wal-N+1.tmp                 [header][A][B][C][proof] --sync--> rename to wal-N+1.log --directory sync
 *
 * After a failed sync the kernel may go on showing bytes that are not on the medium, and hold them for clean:
 * a further sync writes nothing, and succeeds (A. Rebello et al., "Can Applications Recover from fsync
 * Failures?", USENIX ATC 2020). So what a recovery finds at the end of the log, and no later frame calls
 * durable, may be such; to sync it proves nothing. It was not acknowledged, but readers and retries are about
 * to rely on it. Written anew and synced it is durable, or the failure is seen. These are the frames that
 * were in flight at the end, a few buffers of the log, however much there is to replay.
 *
 * Into another file, because some of it may have been acknowledged: in its place, the power going once more
 * could destroy what was safe before. And all of it before that file has its name: a segment that had A and
 * no B would end the log there. So until the rename is durable segment N has them; afterwards N+1, with the
 * numbers that they had, and what N still has of them is passed over, as frames that were cut are
 * (wal_recover.c, replay_segment()).
 *
 * The proof is a frame without records, as a clean close writes: it calls durable what is before it, which
 * the sync of the whole file makes true before anybody can read it. Who opens the log again with nothing
 * written meanwhile has nothing to carry over.
 */
#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/wal/wal_impl.h"

/* ---- which frames ---- */

void vv_wal_carry_begin(vv_wal_carry *c, const vv_wal_segment *from) {
    c->from = from->head;
    c->seed = from->seed;
    c->first = c->end = 0;
}

vv_status vv_wal_carry_add(vv_wal_carry *c, uint64_t offset, const vv_wal_frame_head *head) {
    if (c->end == c->capacity && c->first > 0) {
        memmove(c->frames, c->frames + c->first, (c->end - c->first) * sizeof *c->frames);
        c->end -= c->first;
        c->first = 0;
    }
    if (c->end == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 64;
        vv_wal_place *frames = vv_realloc(c->frames, capacity * sizeof *frames);
        if (!frames)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        c->frames = frames;
        c->capacity = capacity;
    }
    c->frames[c->end++] = (vv_wal_place){.offset = offset, .head = *head};
    return VV_STATUS_OK;
}

void vv_wal_carry_prove(vv_wal_carry *c, uint64_t lsn) {
    c->proven_lsn = VV_MAX(c->proven_lsn, lsn);
    while (c->first < c->end && c->frames[c->first].head.last_lsn <= c->proven_lsn)
        c->first++;
    if (c->first == c->end)
        c->first = c->end = 0;
}

void vv_wal_carry_deinit(vv_wal_carry *c) {
    vv_free(c->frames);
    *c = (vv_wal_carry){0};
}

uint64_t vv_wal_carry_bytes(const vv_wal_carry *c, uint32_t block_bytes) {
    uint64_t bytes = vv_wal_frame_bytes(0, block_bytes); /* the proof */
    for (size_t i = c->first; i < c->end; i++)
        bytes += vv_wal_frame_bytes(c->frames[i].head.payload_bytes, block_bytes);
    return bytes;
}

/* ---- writing them ---- */

typedef struct carrier {
    const vv_wal_carry *c;
    vv_file *from;
    vv_wal_segment *to;
    uint8_t *buf;
} carrier;

static uint64_t buffer_bytes(const vv_wal_carry *c, const vv_wal_segment *to) {
    uint64_t bytes = 0;
    for (size_t i = c->first; i < c->end; i++)
        bytes = VV_MAX(bytes, c->frames[i].head.payload_bytes);
    /* Where a frame begins inside a block of the device, that block is read from its beginning. */
    return vv_align_up(vv_wal_frame_bytes(bytes, to->head.block_bytes), VV_IO_ALIGN_BYTES) +
           2 * VV_WAL_BLOCK_BYTES_MAX;
}

/* What is read now need not be what was replayed: it is checked again. To the beginning of the buffer. */
static vv_status read_frame(carrier *j, const vv_wal_place *f) {
    uint64_t align = j->from->align_bytes, at = f->offset / align * align, before = f->offset - at;
    uint64_t used = VV_WAL_FRAME_HEAD_BYTES + f->head.payload_bytes;
    size_t got;
    vv_wal_frame_head head;
    VV_TRY(vv_file_read(j->from, j->buf, vv_align_up(before + used, align), at, &got));
    if (before > 0)
        memmove(j->buf, j->buf + before, used);
    if (got < before + used || !vv_wal_frame_head_decode(j->buf, j->c->seed, &head) ||
        head.frame_seq != f->head.frame_seq || head.payload_bytes != f->head.payload_bytes ||
        head.payload_checksum != f->head.payload_checksum ||
        vv_checksum(j->buf + VV_WAL_FRAME_HEAD_BYTES, head.payload_bytes, j->c->seed) !=
            head.payload_checksum)
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    return VV_STATUS_OK;
}

/* The payload is in the buffer. */
static vv_status write_frame(carrier *j, const vv_wal_frame_head *frame) {
    vv_wal_segment *s = j->to;
    vv_wal_frame_head head = *frame;
    uint64_t used = VV_WAL_FRAME_HEAD_BYTES + head.payload_bytes;
    uint64_t bytes = vv_wal_frame_bytes(head.payload_bytes, s->head.block_bytes);
    VV_ASSERT(bytes <= s->head.segment_bytes - s->end);
    head.payload_checksum = vv_checksum(j->buf + VV_WAL_FRAME_HEAD_BYTES, head.payload_bytes, s->seed);
    vv_wal_frame_head_encode(j->buf, &head, s->seed);
    memset(j->buf + used, 0, bytes - used);
    VV_TRY(vv_file_write(s->file, j->buf, bytes, s->end));
    s->end += bytes;
    s->frame_bytes += bytes;
    return VV_STATUS_OK;
}

static vv_status write_frames(carrier *j, uint64_t next_frame_seq) {
    const vv_wal_carry *c = j->c;
    for (size_t i = c->first; i < c->end; i++) {
        vv_wal_frame_head head = c->frames[i].head;
        VV_TRY(read_frame(j, &c->frames[i]));
        /* All that is known by now: as in any segment, the frames of those before it are durable (W3). */
        head.durable_lsn = VV_MIN(c->proven_lsn, head.first_lsn - 1);
        VV_TRY(write_frame(j, &head));
    }
    uint64_t last_lsn = c->frames[c->end - 1].head.last_lsn;
    const vv_wal_frame_head proof = {.frame_seq = next_frame_seq,
                                     .first_lsn = last_lsn + 1,
                                     .last_lsn = last_lsn,
                                     .durable_lsn = last_lsn};
    VV_TRY(write_frame(j, &proof));
    atomic_store_explicit(&j->to->first_lsn, c->frames[c->first].head.first_lsn, memory_order_relaxed);
    return VV_STATUS_OK;
}

vv_status vv_wal_carry_write(vv_wal *w, const vv_wal_carry *c, vv_wal_segment *to) {
    char path[VV_WAL_PATH_BYTES];
    carrier j = {.c = c, .to = to};
    vv_wal_path(w, c->from.seq, ".log", path);
    VV_TRY(vv_file_open(w->backend, path, VV_OPEN_READ | VV_OPEN_DIRECT, &j.from, NULL));
    j.buf = vv_alloc_aligned(VV_IO_ALIGN_BYTES, buffer_bytes(c, to));
    vv_status st = j.buf ? write_frames(&j, w->next_frame_seq) : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_free(j.buf);
    vv_file_close(j.from);
    return st;
}
