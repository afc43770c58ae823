/*
 * wal_cursor.c - reading the log back while it is written.
 *
 *   next() --> record of the frame at hand
 *                 |  used up
 *                 v
 *   in the tail? --yes--> share it            (wal_tail.c: whoever keeps up reads from memory)
 *       |  no
 *       v
 *   segment that covers the LSN --> walk its frames from where the cursor stands --> check, keep in a buffer
 *
 * A cursor stands on nothing that could be pulled away: its segment may be recycled under it at any time, the
 * file be renamed, its blocks be written over. So nothing counts before its checksum does.
 *
 * Invariants
 *   R1  A frame is looked at only if durable_lsn covers it, and only in bytes that were read after that was
 *       known: what is still being written is never taken for damage, and never shown.
 *   R2  A frame's checksums are seeded with the segment's number, salt and log (wal_format.h), which the
 * cursor has from the log's own memory, not from the file: no frame of another life of the file passes. R3  A
 * frame is taken only at its place: the one before it ended there, and its first LSN is the next one. In a
 * closed segment nothing behind the last LSN that the log knows of is taken, though a frame may lie there
 * that an earlier opening has cut (wal_recover.c, replay_segment()). R4  What can't be read although it is
 * durable is TRIMMED if its segment has left the log, and else CORRUPTION: never passed over.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/wal/wal_impl.h"

/* What a reading cursor asks the disk for at once. */
#define WINDOW_BYTES (UINT64_C(256) << 10)

/* A buffer that a large frame needed is given back behind it. */
#define BUFFER_KEPT_BYTES (UINT64_C(2) << 20)

/* All cursors together may hold that much while they rest. */
#define REST_BYTES (UINT64_C(16) << 20)

struct vv_wal_cursor {
    vv_wal *w;
    uint64_t next_lsn;    /* given out next; at the start it may lie within a record */
    uint64_t durable_lsn; /* as last looked at */

    /* The frame at hand: the records of it that are left, and the LSN that those begin with. */
    vv_reader left;
    uint64_t left_lsn;
    uint64_t frame_last_lsn;
    vv_wal_tail_frame *shared; /* it is in memory for all; NULL: in buf, or there is none */

    /* Its place, or that of an older one: a frame that begins with `offset_lsn` is at `offset` of segment
     * `seq`. 0: not known. */
    uint64_t seq;
    uint64_t offset;
    uint64_t offset_lsn;

    vv_file *file; /* segment `seq`; NULL: not open */
    uint8_t *buf;
    uint64_t buf_bytes;
    uint64_t
        window_at; /* what of the file is in buf, and which records were durable before it was read (R1) */
    uint64_t window_bytes;
    uint64_t window_durable_lsn;

    /* How far it is, see vv_wal.durable_place: the end of the newest frame that was taken. Any thread reads
     * it. end_place: of all that is durable, as last looked at. */
    _Atomic uint64_t place;
    uint64_t end_place;

    bool from_disk; /* nothing is shared */
    vv_wal_hold hold;
    bool hold_asked; /* it may be lost */
};

/* What a cursor has to know of a segment. */
typedef struct segment_info {
    uint64_t seq;
    uint64_t seed;
    uint64_t segment_bytes;
    uint32_t block_bytes;
    uint64_t first_lsn;
    uint64_t last_lsn; /* UINT64_MAX: it may still grow */
    uint64_t place;    /* of its first frame */
} segment_info;

/* ---- segments ---- */

static segment_info info_of(const vv_wal_segment *s, uint64_t last_lsn) {
    return (segment_info){.seq = s->head.seq,
                          .seed = s->seed,
                          .segment_bytes = s->head.segment_bytes,
                          .block_bytes = s->head.block_bytes,
                          .first_lsn = atomic_load_explicit(&s->first_lsn, memory_order_relaxed),
                          .last_lsn = last_lsn,
                          .place = s->place};
}

static bool covers(const segment_info *s, uint64_t lsn) {
    return s->first_lsn != 0 && s->first_lsn <= lsn && lsn <= s->last_lsn;
}

/* The segment with the record of this LSN, which is durable. TRIMMED if it has left the log. */
static vv_status find_segment(vv_wal *w, uint64_t lsn, segment_info *out, uint64_t *oldest_lsn_out) {
    uint64_t oldest_lsn = atomic_load_explicit(&w->durable_lsn, memory_order_acquire) + 1;
    vv_mutex_lock(&w->mu.lock);
    *out = info_of(w->mu.current, UINT64_MAX);
    bool found = covers(out, lsn);
    if (!found && out->first_lsn > lsn)
        oldest_lsn = VV_MIN(oldest_lsn, out->first_lsn);
    for (const vv_wal_segment *s = w->mu.list.first; s && !found; s = s->next) {
        if (s->retiring)
            continue;
        *out = info_of(s, s->last_lsn);
        found = covers(out, lsn);
        if (!found && out->first_lsn > lsn && out->first_lsn <= out->last_lsn)
            oldest_lsn = VV_MIN(oldest_lsn, out->first_lsn);
    }
    vv_mutex_unlock(&w->mu.lock);
    if (found)
        return VV_STATUS_OK;
    *oldest_lsn_out = oldest_lsn;
    return vv_status_make(VV_TRIMMED, VV_SUB_NONE, 0);
}

static bool is_in_log(vv_wal *w, uint64_t seq) {
    vv_mutex_lock(&w->mu.lock);
    bool there = w->mu.current->head.seq == seq;
    for (const vv_wal_segment *s = w->mu.list.first; s && !there; s = s->next)
        there = s->head.seq == seq && !s->retiring;
    vv_mutex_unlock(&w->mu.lock);
    return there;
}

static void move_to(vv_wal_cursor *c, uint64_t place) {
    atomic_store_explicit(&c->place, place, memory_order_relaxed);
}

/* ---- what a cursor holds ---- */

static void drop_frame(vv_wal_cursor *c) {
    vv_wal_tail_unref(c->w, c->shared);
    c->shared = NULL;
    c->left = vv_reader_make(vv_slice_make(NULL, 0));
}

static void drop_buffer(vv_wal_cursor *c) {
    atomic_fetch_sub_explicit(&c->w->cursor_bytes, c->buf_bytes, memory_order_relaxed);
    vv_free(c->buf);
    c->buf = NULL;
    c->buf_bytes = 0;
    c->window_bytes = 0;
}

static void close_file(vv_wal_cursor *c) {
    vv_file_close(c->file);
    c->file = NULL;
    c->window_bytes = 0;
}

/* ---- reading a segment ---- */

/* Bytes [at, at + bytes) of the file, borrowed until the next call; an empty slice if it ends before. */
static vv_status window(vv_wal_cursor *c, uint64_t at, uint64_t bytes, vv_slice *out) {
    *out = vv_slice_make(NULL, 0);
    if (at < c->window_at || at + bytes > c->window_at + c->window_bytes) {
        uint64_t from = at & ~(uint64_t)(VV_IO_ALIGN_BYTES - 1);
        uint64_t want = VV_MAX(vv_align_up(at - from + bytes, VV_IO_ALIGN_BYTES), WINDOW_BYTES);
        if (want > c->buf_bytes) {
            drop_buffer(c);
            c->buf = vv_alloc_aligned(VV_IO_ALIGN_BYTES, want);
            if (!c->buf)
                return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
            c->buf_bytes = want;
            atomic_fetch_add_explicit(&c->w->cursor_bytes, want, memory_order_relaxed);
        }
        size_t got;
        c->window_bytes = 0;
        uint64_t durable_lsn = atomic_load_explicit(&c->w->durable_lsn, memory_order_acquire);
        VV_TRY(vv_file_read(c->file, c->buf, want, from, &got));
        c->window_at = from;
        c->window_bytes = got;
        c->window_durable_lsn = durable_lsn;
    }
    if (at + bytes <= c->window_at + c->window_bytes)
        *out = vv_slice_make(c->buf + (at - c->window_at), bytes);
    return VV_STATUS_OK;
}

/* Stand at the segment's beginning, unless the cursor stands in it already, and have its file open. */
static vv_status enter_segment(vv_wal_cursor *c, const segment_info *s) {
    if (c->seq != s->seq) {
        close_file(c);
        c->seq = s->seq;
        c->offset = s->block_bytes;
        c->offset_lsn = s->first_lsn;
    }
    if (c->file)
        return VV_STATUS_OK;
    char path[VV_WAL_PATH_BYTES];
    vv_wal_path(c->w, s->seq, ".log", path);
    return vv_file_open(c->w->backend, path, VV_OPEN_READ | VV_OPEN_DIRECT, &c->file, NULL);
}

/* From where the cursor stands to the frame with the next record, which becomes the one at hand. False in
 * *found_out: what is there is not what has to be (R2, R3). */
static vv_status walk(vv_wal_cursor *c, const segment_info *s, bool *found_out) {
    *found_out = false;
    if (c->window_durable_lsn < c->next_lsn)
        c->window_bytes = 0; /* R1 */
    while (c->offset <= s->segment_bytes - s->block_bytes) {
        vv_slice bytes;
        vv_wal_frame_head head;
        VV_TRY(window(c, c->offset, VV_WAL_FRAME_HEAD_BYTES, &bytes));
        if (bytes.bytes == 0 || !vv_wal_frame_head_decode(bytes.data, s->seed, &head) ||
            head.first_lsn != c->offset_lsn ||
            head.payload_bytes > s->segment_bytes - c->offset - VV_WAL_FRAME_HEAD_BYTES)
            return VV_STATUS_OK;
        if (head.last_lsn >= c->next_lsn) {
            VV_TRY(window(c, c->offset, VV_WAL_FRAME_HEAD_BYTES + head.payload_bytes, &bytes));
            if (bytes.bytes == 0)
                return VV_STATUS_OK;
            vv_slice payload =
                vv_slice_make((const uint8_t *)bytes.data + VV_WAL_FRAME_HEAD_BYTES, head.payload_bytes);
            *found_out = vv_checksum(payload.data, payload.bytes, s->seed) == head.payload_checksum;
            c->left = vv_reader_make(*found_out ? payload : vv_slice_make(NULL, 0));
            c->left_lsn = head.first_lsn;
            c->frame_last_lsn = head.last_lsn;
            move_to(c, s->place + c->offset - s->block_bytes +
                           vv_wal_frame_bytes(head.payload_bytes, s->block_bytes));
            return VV_STATUS_OK;
        }
        c->offset += vv_wal_frame_bytes(head.payload_bytes, s->block_bytes);
        c->offset_lsn = head.last_lsn + 1;
    }
    return VV_STATUS_OK;
}

static vv_status damaged(vv_wal_cursor *c) {
    vv_log(c->w->logger, VV_LOG_ERROR,
           "wal: segment %016" PRIx64 ", offset %" PRIu64 ": record %" PRIu64
           " is durable, but can't be read",
           c->seq, c->offset, c->next_lsn);
    return vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0);
}

static vv_status read_frame(vv_wal_cursor *c, uint64_t *oldest_lsn_out) {
    for (;;) {
        segment_info s;
        VV_TRY(find_segment(c->w, c->next_lsn, &s, oldest_lsn_out));
        bool found = false;
        vv_status st = enter_segment(c, &s);
        if (vv_ok(st))
            st = walk(c, &s, &found);
        if (found)
            return VV_STATUS_OK;
        /* Did it fail, or find something else, because the segment was taken away meanwhile? Then the search
         * says so (R4). */
        if (!is_in_log(c->w, s.seq))
            continue;
        return vv_ok(st) ? damaged(c) : st;
    }
}

/* ---- the frame at hand ---- */

static bool find_shared(vv_wal_cursor *c) {
    vv_wal_tail_frame *f = vv_wal_tail_find(c->w, c->next_lsn);
    if (!f)
        return false;
    if (c->file)
        close_file(c);
    if (c->buf)
        drop_buffer(c);
    c->shared = f;
    c->left = vv_reader_make(vv_slice_make(f->payload, f->bytes));
    c->left_lsn = f->first_lsn;
    c->frame_last_lsn = f->last_lsn;
    c->seq = f->segment_seq;
    c->offset = f->offset;
    c->offset_lsn = f->first_lsn;
    move_to(c, f->end_place);
    return true;
}

/* Take the next record of the frame. Its checksum was right: what makes no sense was written so. */
static vv_status take_record(vv_wal_cursor *c, vv_reader *from, vv_record *rec) {
    vv_status st = vv_record_decode(from, rec);
    if (!vv_ok(st) || rec->first_lsn != c->left_lsn)
        return damaged(c);
    uint64_t last_lsn = rec->first_lsn + rec->op_count - 1;
    if (last_lsn > c->frame_last_lsn || (last_lsn == c->frame_last_lsn) != (from->left_bytes == 0))
        return damaged(c);
    return VV_STATUS_OK;
}

/* Everything before the next record is done with. */
static void move_hold(vv_wal_cursor *c) {
    if (c->hold_asked && c->hold.lsn != c->next_lsn - 1)
        vv_wal_hold_move(c->w, &c->hold, c->next_lsn - 1);
}

static bool is_durable(vv_wal_cursor *c) {
    if (c->next_lsn > c->durable_lsn) {
        c->end_place = atomic_load_explicit(&c->w->durable_place, memory_order_acquire); /* before the LSN */
        c->durable_lsn = atomic_load_explicit(&c->w->durable_lsn, memory_order_acquire);
    }
    return c->next_lsn <= c->durable_lsn;
}

static vv_status nothing_yet(vv_wal_cursor *c) {
    move_hold(c);
    if (c->next_lsn > c->durable_lsn)
        move_to(c, c->end_place);
    return vv_status_make(vv_wal_failed(c->w) ? VV_WAL_FAILED : VV_END, VV_SUB_NONE, 0);
}

vv_status vv_wal_cursor_next(vv_wal_cursor *c, uint64_t limit_lsn, vv_record *rec, uint64_t *oldest_lsn_out) {
    *oldest_lsn_out = 0;
    for (;;) {
        while (c->left.left_bytes > 0) {
            vv_reader behind = c->left;
            VV_TRY(take_record(c, &behind, rec));
            uint64_t last_lsn = rec->first_lsn + rec->op_count - 1;
            if (last_lsn > limit_lsn)
                return nothing_yet(c);
            c->left = behind;
            c->left_lsn = last_lsn + 1;
            if (last_lsn < c->next_lsn)
                continue; /* before the start */
            c->next_lsn = last_lsn + 1;
            return VV_STATUS_OK;
        }
        drop_frame(c);
        if (c->buf_bytes > BUFFER_KEPT_BYTES)
            drop_buffer(c);
        if (c->next_lsn > limit_lsn || !is_durable(c))
            return nothing_yet(c);
        if (c->from_disk || !find_shared(c))
            VV_TRY(read_frame(c, oldest_lsn_out));
        move_hold(c);
    }
}

/* ---- life ---- */

vv_status vv_wal_cursor_open(vv_wal *w, uint64_t after_lsn, vv_wal_cursor **out, uint64_t *oldest_lsn_out) {
    *out = NULL;
    *oldest_lsn_out = 0;
    uint64_t place = atomic_load_explicit(&w->durable_place, memory_order_acquire); /* before the LSN */
    uint64_t durable_lsn = atomic_load_explicit(&w->durable_lsn, memory_order_acquire);
    VV_ASSERT(after_lsn <= durable_lsn);
    segment_info s = {.place = place};
    if (after_lsn < durable_lsn)
        VV_TRY(find_segment(w, after_lsn + 1, &s, oldest_lsn_out));
    vv_wal_cursor *c = vv_alloc_zeroed(sizeof *c);
    if (!c)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    *c = (vv_wal_cursor){.w = w, .next_lsn = after_lsn + 1, .durable_lsn = durable_lsn, .end_place = place};
    move_to(c, s.place);
    vv_status st = vv_wal_tail_enter(w);
    if (!vv_ok(st)) {
        vv_free(c);
        return st;
    }
    *out = c;
    return VV_STATUS_OK;
}

uint64_t vv_wal_cursor_behind_bytes(const vv_wal_cursor *c) {
    uint64_t place = atomic_load_explicit(&c->place, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&c->w->durable_place, memory_order_relaxed);
    return end > place ? end - place : 0;
}

void vv_wal_cursor_from_disk(vv_wal_cursor *c) {
    c->from_disk = true;
}

void vv_wal_cursor_place(const vv_wal_cursor *c, char *path, size_t path_bytes, uint64_t *offset_out) {
    char full[VV_WAL_PATH_BYTES];
    vv_wal_path(c->w, c->seq, ".log", full);
    snprintf(path, path_bytes, "%s", full);
    *offset_out = c->offset;
}

void vv_wal_cursor_close(vv_wal_cursor *c) {
    if (!c)
        return;
    vv_wal_hold_leave(c->w, &c->hold);
    drop_frame(c);
    close_file(c);
    drop_buffer(c);
    vv_wal_tail_leave(c->w);
    vv_free(c);
}

uint64_t vv_wal_cursor_lsn(const vv_wal_cursor *c) {
    return c->next_lsn - 1;
}

void vv_wal_cursor_rest(vv_wal_cursor *c) {
    if (atomic_load_explicit(&c->w->cursor_bytes, memory_order_relaxed) <= REST_BYTES)
        return;
    drop_frame(c); /* found again by its place, or by its LSN */
    close_file(c);
    drop_buffer(c);
}

void vv_wal_cursor_hold(vv_wal_cursor *c, uint64_t max_bytes) {
    vv_wal_hold_leave(c->w, &c->hold);
    c->hold_asked = true;
    c->hold = (vv_wal_hold){.lsn = c->next_lsn - 1, .max_bytes = max_bytes};
    vv_wal_hold_enter(c->w, &c->hold);
}

bool vv_wal_cursor_holds(vv_wal_cursor *c) {
    return !vv_wal_hold_is_lost(c->w, &c->hold);
}
