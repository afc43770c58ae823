/*
 * wal_recover.c - reading the log back at open.
 *
 *   list --> check headers, peek at first frames --> pick the segment to start in --> replay frames
 *        --> look for evidence of loss behind the end --> sync what was replayed --> cut off what the next
 *            segment gets anew (wal_carry.c) --> clear the rest away
 *
 * What may be missing, and what may not. A frame that was being written when the power went was not
 * acknowledged: it may be torn, and is cut, with all behind it. But every frame carries the LSN that was
 * durable when it was sealed. If any frame behind the end of the readable log, torn or not, says that the
 * first missing record was durable once, then acknowledged data is damaged, and the log is refused rather
 * than cut. The same holds if segments are missing, by their numbers or by their LSNs. (The last frame of a
 * log that was not closed cleanly has no such witness.)
 *
 * Nothing on disk changes before everything has been read and found good.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/wal/wal_impl.h"
#include "engine/wal/wal_search.h"

/* Enough for the header of a segment and the head of its first frame. */
#define HEADS_BYTES ((uint64_t)VV_WAL_BLOCK_BYTES_MAX + VV_WAL_FRAME_HEAD_BYTES)

typedef struct found_segment {
    uint64_t seq;
    vv_wal_segment *segment; /* NULL once the log owns it */
    bool has_frame;
    vv_wal_frame_head first; /* if has_frame */
} found_segment;

typedef struct seq_array {
    uint64_t *items;
    size_t count;
    size_t capacity;
} seq_array;

typedef struct recovery {
    vv_wal *w;
    vv_wal_replay_fn replay;
    void *arg;
    vv_error *err;
    seq_array logs; /* numbers of .log files, sorted; once their heads are read, only of those that stay */
    seq_array unneeded;  /* the others: old segments that only holds kept, and that are not whole */
    size_t first_needed; /* in logs: those before are there for holds alone */
    seq_array raws;      /* numbers of .tmp files */
    found_segment *found;
    size_t first;                 /* where replaying starts; == end if there is no frame */
    size_t end;                   /* behind the last segment with frames */
    uint64_t next_lsn;            /* expected of the next frame */
    bool clean;                   /* the last frame was a close frame */
    uint64_t end_offset;          /* of the frames in the segment that was replayed last */
    char path[VV_WAL_PATH_BYTES]; /* of the segment at hand */
    vv_file *file;                /* the segment at hand, and the window onto it */
    vv_wal_window *window;
    vv_io_req sync; /* of the segment at hand */
    bool syncing;
    vv_wal_trace *traces; /* of found[end] and those behind it */
    vv_wal_search *search;
} recovery;

static vv_status gap(recovery *r, const char *fmt, uint64_t lsn, uint64_t offset) {
    char words[256];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(words, sizeof words, fmt, lsn);
#pragma GCC diagnostic pop
    return vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0), "%s: offset %" PRIu64 ": %s",
                   r->path, offset, words);
}

/* ---- the segment at hand ---- */

/* Bytes [at, at + bytes) of it, borrowed until the next call; an empty slice in *out if the file ends
 * before. */
static vv_status window(recovery *r, uint64_t at, uint64_t bytes, vv_slice *out) {
    vv_status st = vv_wal_window_get(r->window, at, bytes, out);
    return vv_ok(st) ? st : vv_fail(r->err, st, "%s: read at %" PRIu64, r->path, at);
}

static vv_status open_file(recovery *r, uint64_t seq, uint64_t wanted_bytes) {
    VV_ASSERT(!r->file);
    vv_wal_path(r->w, seq, ".log", r->path);
    uint32_t flags = VV_OPEN_READ | VV_OPEN_DIRECT | (r->w->look_only ? 0 : VV_OPEN_WRITE);
    VV_TRY(vv_file_open(r->w->backend, r->path, flags, &r->file, r->err));
    vv_wal_window_start(r->window, r->file, wanted_bytes);
    return VV_STATUS_OK;
}

static void sync_done(vv_io_req *req) {
    VV_CONTAINER_OF(req, recovery, sync)->syncing = false;
}

/* Make what was read of the segment at hand stay; close_file() says whether it does. */
static void start_sync(recovery *r) {
    r->sync = (vv_io_req){.op = VV_IO_SYNC, .file = r->file, .done = sync_done};
    r->syncing = true;
    vv_io_submit(vv_wal_window_queue(r->window), &r->sync);
}

/* Behind everything that was started on it. Nothing open is fine. */
static vv_status close_file(recovery *r) {
    if (!r->file)
        return VV_STATUS_OK;
    vv_wal_window_stop(r->window);
    while (r->syncing)
        vv_wal_window_run(r->window);
    vv_file_close(r->file);
    r->file = NULL;
    vv_status st = r->sync.status;
    r->sync.status = VV_STATUS_OK;
    return vv_ok(st) ? st : vv_fail(r->err, st, "%s: sync", r->path);
}

/* ---- what is there ---- */

static vv_status seq_push(seq_array *a, uint64_t seq) {
    if (a->count == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 16;
        uint64_t *items = vv_realloc(a->items, capacity * sizeof *items);
        if (!items)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        a->items = items;
        a->capacity = capacity;
    }
    a->items[a->count++] = seq;
    return VV_STATUS_OK;
}

static vv_status list_entry(void *arg, const char *name, vv_entry_kind kind) {
    recovery *r = arg;
    uint64_t seq;
    (void)kind;
    if (vv_wal_name_parse(name, ".log", &seq))
        return seq_push(&r->logs, seq);
    if (vv_wal_name_parse(name, ".tmp", &seq))
        return seq_push(&r->raws, seq);
    return VV_STATUS_OK;
}

static int compare_seq(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static vv_status list_files(recovery *r) {
    VV_TRY(vv_dir_list(r->w->backend, r->w->dir, list_entry, r, r->err));
    if (r->logs.count > 0)
        qsort(r->logs.items, r->logs.count, sizeof *r->logs.items, compare_seq);
    uint64_t oldest = r->w->first_segment;
    while (r->first_needed < r->logs.count && r->logs.items[r->first_needed] < oldest)
        r->first_needed++;
    if (oldest != 0 && (r->first_needed == r->logs.count || r->logs.items[r->first_needed] != oldest)) {
        vv_wal_path(r->w, oldest, ".log", r->path);
        return vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0),
                       "%s: this log segment is missing", r->path);
    }
    if (r->logs.count == 0)
        return VV_STATUS_OK;
    for (size_t i = r->first_needed + 1; i < r->logs.count; i++) {
        vv_wal_path(r->w, r->logs.items[i - 1] + 1, ".log", r->path);
        if (r->logs.items[i] != r->logs.items[i - 1] + 1)
            return vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0),
                           "%s: this log segment is missing", r->path);
    }
    r->found = vv_alloc_zeroed(r->logs.count * sizeof *r->found);
    return r->found ? VV_STATUS_OK : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

/* The header of the segment at hand. By S1 in wal_segment.c it is whole, unless the file was damaged. */
static vv_status check_header(recovery *r, uint64_t seq, bool first, vv_wal_segment_head *head) {
    vv_slice bytes;
    VV_TRY(window(r, 0, VV_WAL_SEGMENT_HEAD_BYTES, &bytes));
    vv_status truncated = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    if (bytes.bytes == 0)
        return vv_fail(r->err, truncated, "%s: file is too short for a segment header", r->path);
    vv_status st = vv_wal_segment_head_decode(bytes.data, head);
    if (!vv_ok(st))
        return vv_fail(r->err, st, "%s: segment header: %s", r->path, vv_sub_text(st.sub));
    if (head->seq != seq)
        return vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                       "%s: the header says segment %" PRIx64, r->path, head->seq);
    if (first)
        memcpy(r->w->log_id, head->log_id, sizeof head->log_id);
    else if (memcmp(r->w->log_id, head->log_id, sizeof head->log_id) != 0)
        return vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                       "%s: segment of another log", r->path);
    uint64_t file_bytes;
    st = vv_file_size(r->file, &file_bytes);
    if (!vv_ok(st))
        return vv_fail(r->err, st, "%s: size", r->path);
    if (file_bytes < head->segment_bytes)
        return vv_fail(r->err, truncated, "%s: %" PRIu64 " bytes, but the segment has %" PRIu64, r->path,
                       file_bytes, head->segment_bytes);
    return VV_STATUS_OK;
}

/*
 * Read the same bytes again, before what was read passes for the end of the log: what went wrong on the way
 * from the medium, and not on it, would else cut acknowledged records away. IO: the two differ. Opening fails
 * then with nothing changed, and the next one will find what is there.
 */
static vv_status read_again(recovery *r, uint64_t at, vv_slice seen) {
    if (seen.bytes == 0)
        return VV_STATUS_OK;
    uint64_t align = r->file->align_bytes, from = at / align * align;
    uint64_t bytes = (at + seen.bytes - from + align - 1) / align * align;
    uint8_t *again = vv_alloc_aligned(VV_IO_ALIGN_BYTES, bytes);
    if (!again)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    size_t got = 0;
    vv_status st = vv_file_read(r->file, again, bytes, from, &got);
    if (vv_ok(st) &&
        (got < at - from + seen.bytes || memcmp(again + (at - from), seen.data, seen.bytes) != 0))
        st = vv_status_make(VV_IO, VV_SUB_NONE, 0);
    vv_free(again);
    return vv_ok(st) ? st : vv_fail(r->err, st, "%s: read twice at %" PRIu64 ", not the same", r->path, at);
}

/* The head of a frame at this offset, if there is one. */
static vv_status frame_at(recovery *r, const vv_wal_segment *s, uint64_t at, bool *valid_out,
                          vv_wal_frame_head *out) {
    *valid_out = false;
    if (at > s->head.segment_bytes - s->head.block_bytes)
        return VV_STATUS_OK;
    vv_slice bytes;
    VV_TRY(window(r, at, VV_WAL_FRAME_HEAD_BYTES, &bytes));
    *valid_out = bytes.bytes != 0 && vv_wal_frame_head_decode(bytes.data, s->seed, out);
    return VV_STATUS_OK;
}

/* There is no frame at this offset, and there is none when one looks again. */
static vv_status head_again(recovery *r, uint64_t at) {
    vv_slice bytes;
    VV_TRY(window(r, at, VV_WAL_FRAME_HEAD_BYTES, &bytes));
    return read_again(r, at, bytes);
}

static vv_status read_head(recovery *r, size_t i) {
    found_segment *f = &r->found[i];
    f->seq = r->logs.items[i];
    f->segment = vv_alloc_zeroed(sizeof *f->segment);
    if (!f->segment)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    VV_TRY(open_file(r, f->seq, HEADS_BYTES));
    VV_TRY(check_header(r, f->seq, i == r->first_needed, &f->segment->head));
    f->segment->seed = vv_wal_segment_seed(&f->segment->head);
    VV_TRY(frame_at(r, f->segment, f->segment->head.block_bytes, &f->has_frame, &f->first));
    if (!f->has_frame)
        VV_TRY(head_again(r, f->segment->head.block_bytes));
    return close_file(r);
}

/* The first `count` segments are as if they were not there. */
static vv_status pass_over(recovery *r, size_t count) {
    for (size_t i = 0; i < count; i++) {
        VV_TRY(seq_push(&r->unneeded, r->logs.items[i]));
        vv_wal_segment_destroy(r->found[i].segment);
    }
    r->logs.count -= count;
    r->first_needed -= count;
    memmove(r->logs.items, r->logs.items + count, r->logs.count * sizeof *r->logs.items);
    memmove(r->found, r->found + count, r->logs.count * sizeof *r->found);
    memset(r->found + r->logs.count, 0, count * sizeof *r->found);
    return VV_STATUS_OK;
}

/* Of what is there for holds alone, from the newest to the oldest: SSTables have all of it, so that damage
 * costs a reader who is behind his place, and not the database its opening. */
static vv_status read_old_heads(recovery *r) {
    for (size_t i = r->first_needed; i > 0; i--) {
        vv_status st = VV_STATUS_OK;
        if (r->logs.items[i] != r->logs.items[i - 1] + 1)
            st = vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0),
                         "the log segment behind %016" PRIx64 " is missing", r->logs.items[i - 1]);
        else
            st = read_head(r, i - 1);
        if (vv_ok(st))
            continue;
        vv_status_ignore(close_file(r), "of one that can't be read");
        if (!vv_is(st, VV_CORRUPTION) && !vv_is(st, VV_IO))
            return st;
        vv_log(r->w->logger, VV_LOG_WARN, "wal: %zu old segments are not whole, and nobody needs them: %s", i,
               r->err ? r->err->text : "");
        if (r->err)
            r->err->text[0] = '\0';
        return pass_over(r, i);
    }
    return VV_STATUS_OK;
}

static vv_status read_heads(recovery *r) {
    for (size_t i = r->first_needed; i < r->logs.count; i++)
        VV_TRY(read_head(r, i));
    return read_old_heads(r);
}

/* Start in the newest segment that begins at or before the first record to replay: older ones are not needed,
 * whatever state they are in. */
static vv_status pick_start(recovery *r) {
    r->next_lsn = r->w->replay_after_lsn + 1;
    r->w->next_frame_seq = 1;
    for (size_t i = 0; i < r->logs.count; i++) {
        const found_segment *f = &r->found[i];
        if (!f->has_frame)
            continue;
        if (f->first.first_lsn - 1 <= r->w->replay_after_lsn) {
            r->first = i;
            r->next_lsn = f->first.first_lsn;
            r->w->next_frame_seq = f->first.frame_seq;
        } else if (r->end == 0) {
            vv_wal_path(r->w, f->seq, ".log", r->path);
            return gap(r, "the log starts behind record %" PRIu64, r->next_lsn, f->segment->head.block_bytes);
        }
        r->end = i + 1;
    }
    return VV_STATUS_OK;
}

/* ---- replay ---- */

static vv_status bad_frame(recovery *r, uint64_t at, const char *what) {
    return vv_fail(r->err, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0), "%s: offset %" PRIu64 ": %s",
                   r->path, at, what);
}

/* The checksum is right, so that these are the bytes that were written: what makes no sense is refused. */
static vv_status replay_payload(recovery *r, uint64_t at, const vv_wal_frame_head *head, vv_slice payload) {
    vv_reader reader = vv_reader_make(payload);
    uint64_t lsn = head->first_lsn;
    for (uint32_t i = 0; i < head->record_count; i++) {
        vv_record rec;
        if (!vv_ok(vv_record_decode(&reader, &rec)) || rec.first_lsn != lsn ||
            !vv_ok(vv_record_ops_check(&rec)))
            return bad_frame(r, at, "a record makes no sense");
        lsn += rec.op_count;
        if (lsn - 1 > r->w->replay_after_lsn && r->replay)
            VV_TRY(r->replay(r->arg, &rec));
    }
    if (reader.left_bytes != 0 || lsn - 1 != head->last_lsn)
        return bad_frame(r, at, "the records are not what the frame says");
    return VV_STATUS_OK;
}

/* A frame that is whole but not the next one: nothing writes that, so records are missing. */
static vv_status check_order(recovery *r, const vv_wal_segment *s, const vv_wal_frame_head *head,
                             uint64_t at) {
    bool begins_segment = at == s->head.block_bytes;
    bool follows = head->first_lsn == r->next_lsn;
    /* After a crash SSTables may reach further than the log did; the log then goes on behind them. */
    bool skips =
        begins_segment && head->first_lsn > r->next_lsn && head->first_lsn - 1 <= r->w->replay_after_lsn;
    if (!follows && !skips && begins_segment) { /* the fault is where the segment before ended */
        vv_wal_path(r->w, s->head.seq - 1, ".log", r->path);
        at = r->end_offset;
    }
    if (!follows && !skips)
        return gap(r, "the log does not go on with record %" PRIu64, r->next_lsn, at);
    /* Behind a close frame its number comes again, and in older logs the next one. */
    if (head->frame_seq != r->w->next_frame_seq && !(r->clean && head->frame_seq == r->w->next_frame_seq + 1))
        return bad_frame(r, at, "frames are missing");
    return VV_STATUS_OK;
}

/* Replay the frames of the segment at hand up to the first block that does not hold the next one. frame_end:
 * the number that the log goes on with in a later segment. A frame from there on was cut by an earlier
 * opening and arrived after it: a process that was killed may have left a write with the kernel. */
static vv_status replay_segment(recovery *r, vv_wal_segment *s, uint64_t frame_end) {
    uint64_t at = s->head.block_bytes;
    vv_wal_carry_begin(&r->w->carry, s);
    for (;;) {
        vv_wal_frame_head head;
        bool valid;
        VV_TRY(frame_at(r, s, at, &valid, &head));
        if (!valid && at <= s->head.segment_bytes - s->head.block_bytes)
            VV_TRY(head_again(r, at));
        if (!valid || head.frame_seq >= frame_end ||
            head.payload_bytes > s->head.segment_bytes - at - VV_WAL_FRAME_HEAD_BYTES)
            break;
        vv_slice frame;
        VV_TRY(window(r, at, VV_WAL_FRAME_HEAD_BYTES + head.payload_bytes, &frame));
        if (frame.bytes == 0)
            break;
        vv_slice payload =
            vv_slice_make((const uint8_t *)frame.data + VV_WAL_FRAME_HEAD_BYTES, head.payload_bytes);
        if (vv_checksum(payload.data, payload.bytes, s->seed) != head.payload_checksum) {
            VV_TRY(read_again(r, at, frame));
            break;
        }
        VV_TRY(check_order(r, s, &head, at));
        VV_TRY(replay_payload(r, at, &head, payload));
        r->next_lsn = head.last_lsn + 1;
        r->clean = head.record_count == 0;
        if (!r->clean)
            VV_TRY(vv_wal_carry_add(&r->w->carry, at, &head));
        vv_wal_carry_prove(&r->w->carry, head.durable_lsn);
        /* Nobody depends on a close frame, and its sync may have failed: should it not be there the next
         * time, nothing is missing. */
        r->w->next_frame_seq = head.frame_seq + (r->clean ? 0 : 1);
        at += vv_wal_frame_bytes(head.payload_bytes, s->head.block_bytes);
    }
    s->end = at;
    s->frame_bytes = at - s->head.block_bytes;
    r->end_offset = at;
    return VV_STATUS_OK;
}

/* One that knows the first missing record to be durable is evidence of a loss; other frames are cut. at:
 * where the frames of the segment at hand end, or would begin. */
static vv_status check_evidence(recovery *r, uint64_t durable_lsn, uint64_t at) {
    uint64_t missing_lsn = VV_MAX(r->next_lsn, r->w->replay_after_lsn + 1);
    vv_wal_carry_prove(&r->w->carry, durable_lsn);
    if (durable_lsn >= missing_lsn)
        return gap(r, "record %" PRIu64 " was durable once, and is damaged", missing_lsn, at);
    return VV_STATUS_OK;
}

/* Look at every block from `at` on for the head of a frame of the segment at hand. */
static vv_status seek_evidence(recovery *r, const vv_wal_segment *s, uint64_t at, bool *torn) {
    for (uint64_t block = at; block < s->head.segment_bytes; block += s->head.block_bytes) {
        vv_wal_frame_head head;
        bool valid;
        VV_TRY(frame_at(r, s, block, &valid, &head));
        if (!valid)
            continue;
        *torn = true;
        VV_TRY(check_evidence(r, head.durable_lsn, at));
    }
    return VV_STATUS_OK;
}

/* The number of the first frame behind found[i]. */
static uint64_t next_segment_frame(const recovery *r, size_t i) {
    while (++i < r->end)
        if (r->found[i].has_frame)
            return r->found[i].first.frame_seq;
    return UINT64_MAX;
}

/* Begin to search the segments behind the last frame. */
static vv_status start_search(recovery *r) {
    size_t count = r->logs.count - r->end;
    if (count == 0)
        return VV_STATUS_OK;
    r->traces = vv_alloc_zeroed(count * sizeof *r->traces);
    if (!r->traces)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    for (size_t i = 0; i < count; i++)
        r->traces[i].segment = r->found[r->end + i].segment;
    return vv_wal_search_create(r->w, r->window, r->traces, count, &r->search);
}

/* The last segment stays open. */
static vv_status replay_frames(recovery *r) {
    for (size_t i = r->first; i < r->end; i++) {
        vv_wal_segment *s = r->found[i].segment;
        VV_TRY(close_file(r));
        VV_TRY(open_file(r, r->found[i].seq, s->head.segment_bytes));
        VV_TRY(replay_segment(r, s, next_segment_frame(r, i)));
        s->last_lsn = r->next_lsn - 1;
        /* After a kill these frames may be in the device's cache, or in the kernel's, and nowhere else.
         * Readers are about to see them: make them stay. All of them have been read by now, so that the sync
         * covers what was read, and recovery does not succeed before it has. */
        if (!r->w->look_only)
            start_sync(r);
    }
    return VV_STATUS_OK;
}

/* In the last segment that holds frames and in those behind it. What is damaged in an older one was noticed
 * by check_order(), because the next segment does not go on with the record that is missing. */
static vv_status check_tail(recovery *r) {
    if (r->logs.count == 0)
        return VV_STATUS_OK;
    bool torn = false;
    size_t last = r->end > 0 ? r->end - 1 : 0;
    uint64_t tail_at = r->end > 0 ? r->end_offset : r->found[0].segment->head.block_bytes;
    if (r->end > 0) {
        VV_TRY(seek_evidence(r, r->found[last].segment, tail_at, &torn));
        VV_TRY(close_file(r));
    }
    if (r->search)
        VV_TRY(vv_wal_search_finish(r->search, r->err));
    for (size_t i = r->end; i < r->logs.count; i++) {
        const vv_wal_trace *trace = &r->traces[i - r->end];
        vv_wal_path(r->w, r->found[i].seq, ".log", r->path);
        torn |= trace->any;
        VV_TRY(check_evidence(r, trace->durable_lsn, trace->segment->head.block_bytes));
    }
    if (!r->clean && (r->end > 0 || torn)) {
        vv_wal_path(r->w, r->found[last].seq, ".log", r->path);
        vv_log(r->w->logger, torn ? VV_LOG_WARN : VV_LOG_INFO,
               "wal: %s: not closed cleanly; %s at offset %" PRIu64 ", behind record %" PRIu64, r->path,
               torn ? "torn tail cut" : "ends", tail_at, r->next_lsn - 1);
    }
    return VV_STATUS_OK;
}

/* ---- handing over ---- */

/* How many of the segments stay: those up to the last frame, and always the one whose absence would be damage
 * (vv_wal_options.first_segment), or the oldest if none is named. */
static size_t kept_count(const recovery *r) {
    return r->logs.count > 0 ? VV_MAX(r->end, r->first_needed + 1) : 0;
}

/* Readers are about to rely on all that was replayed, and a sync makes durable only what the kernel knows to
 * be not. What no frame calls durable is in the last segment (W3), and leaves it for the next one. */
static void cut_unproven(recovery *r) {
    vv_wal_carry *c = &r->w->carry;
    if (r->next_lsn - 1 <= r->w->replay_after_lsn)
        vv_wal_carry_prove(c, r->next_lsn - 1); /* SSTables have them */
    if (vv_wal_carry_is_empty(c))
        return;
    vv_wal_segment *s = r->found[r->end - 1].segment;
    const vv_wal_place *first = &c->frames[c->first];
    s->end = first->offset;
    s->frame_bytes = first->offset - s->head.block_bytes;
    s->last_lsn = first->head.first_lsn - 1;
}

/* Segments behind the last frame hold nothing: make them raw, the newest first so that numbers stay
 * contiguous. Nothing of them may be mistaken for live later: they get a new salt when they come back. */
static vv_status clear_tail(recovery *r) {
    vv_wal *w = r->w;
    for (size_t i = r->logs.count; i > kept_count(r); i--) {
        const vv_wal_segment *s = r->found[i - 1].segment;
        VV_TRY(vv_wal_segment_retire(w, r->found[i - 1].seq, s->head.segment_bytes, r->err));
    }
    return VV_STATUS_OK;
}

/* Old segments that were passed over, the oldest first (S3). */
static vv_status clear_unneeded(recovery *r) {
    for (size_t i = 0; i < r->unneeded.count; i++)
        VV_TRY(vv_wal_segment_retire(r->w, r->unneeded.items[i], 0, r->err));
    return VV_STATUS_OK;
}

/* Raw files: one of the right size is kept, the rest goes. Among those that were listed may be one whose name
 * a segment that was retired since then has taken. */
static vv_status clear_raws(recovery *r) {
    vv_wal *w = r->w;
    for (size_t i = 0; i < r->raws.count; i++) {
        if (r->raws.items[i] == w->raw_seq)
            continue;
        vv_wal_path(w, r->raws.items[i], ".tmp", r->path);
        uint64_t bytes = 0;
        if (w->raw_seq == 0) {
            vv_file *file;
            VV_TRY(vv_file_open(w->backend, r->path, VV_OPEN_READ, &file, r->err));
            vv_status st = vv_file_size(file, &bytes);
            vv_file_close(file);
            VV_TRY(st);
        }
        if (w->raw_seq == 0 && bytes == w->segment_bytes)
            w->raw_seq = r->raws.items[i];
        else
            VV_TRY(vv_path_unlink(w->backend, r->path, r->err));
    }
    return VV_STATUS_OK;
}

static void hand_over(recovery *r) {
    vv_wal *w = r->w;
    uint64_t last_lsn = VV_MAX(r->next_lsn - 1, w->replay_after_lsn);
    atomic_store_explicit(&w->last_lsn, last_lsn, memory_order_relaxed);
    atomic_store_explicit(&w->durable_lsn, last_lsn, memory_order_release);
    size_t kept = kept_count(r);
    uint64_t place = 0;
    w->next_segment_seq = kept > 0 ? r->found[kept - 1].seq + 1 : 1;
    for (size_t i = 0; i < kept; i++) {
        vv_wal_segment *s = r->found[i].segment;
        r->found[i].segment = NULL;
        bool all_cut = i >= r->first && i < r->end && s->frame_bytes == 0;
        if (r->found[i].has_frame && !all_cut)
            atomic_store_explicit(&s->first_lsn, r->found[i].first.first_lsn, memory_order_relaxed);
        if (i < r->first || i >= r->end)
            s->last_lsn = w->replay_after_lsn;
        if (i < r->first) /* not replayed: it ends where the next begins */
            for (size_t k = i + 1; k <= r->first; k++)
                if (r->found[k].has_frame) {
                    s->last_lsn = VV_MIN(s->last_lsn, r->found[k].first.first_lsn - 1);
                    break;
                }
        s->place = place;
        place += i >= r->first || !r->found[i].has_frame ? s->frame_bytes
                                                         : s->head.segment_bytes - s->head.block_bytes;
        vv_wal_list_push(&w->mu.list, s);
        atomic_fetch_add_explicit(&w->live_bytes, s->frame_bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&w->segment_count, 1, memory_order_relaxed);
    }
    atomic_store_explicit(&w->durable_place, place, memory_order_relaxed);
}

vv_status vv_wal_recover(vv_wal *w, vv_wal_replay_fn replay, void *arg, vv_error *err) {
    recovery *r = vv_alloc_zeroed(sizeof *r);
    if (!r)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s: out of memory", w->dir);
    *r = (recovery){.w = w, .replay = replay, .arg = arg, .err = err};
    if (err)
        err->text[0] = '\0';
    vv_status st = list_files(r);
    if (vv_ok(st))
        st = vv_wal_window_create(w->backend, &r->window, err);
    if (vv_ok(st))
        st = read_heads(r);
    if (vv_ok(st))
        st = pick_start(r);
    if (vv_ok(st))
        st = start_search(r);
    if (vv_ok(st))
        st = replay_frames(r);
    if (vv_ok(st))
        st = check_tail(r);
    if (vv_ok(st) && r->logs.count == 0 &&
        getrandom(w->log_id, sizeof w->log_id, 0) != (ssize_t)sizeof w->log_id)
        st = vv_status_make(VV_INTERNAL, VV_SUB_NONE, 0);
    if (vv_ok(st) && w->look_only) {
        atomic_store_explicit(&w->last_lsn, VV_MAX(r->next_lsn - 1, w->replay_after_lsn),
                              memory_order_relaxed);
        goto out;
    }
    if (vv_ok(st)) {
        cut_unproven(r);
        st = clear_unneeded(r);
    }
    if (vv_ok(st))
        st = clear_tail(r);
    if (vv_ok(st))
        st = clear_raws(r);
    if (vv_ok(st))
        hand_over(r);
    else
        st = vv_wrap(err, st, "recover the log");

out:
    r->err = NULL; /* has the words of the first failure */
    vv_status_ignore(close_file(r), "open after a failure only, which is the one to report");
    vv_wal_search_destroy(r->search); /* before the segments that it looks for */
    vv_wal_window_destroy(r->window);
    vv_free(r->traces);
    for (size_t i = 0; r->found && i < r->logs.count; i++)
        vv_wal_segment_destroy(r->found[i].segment);
    vv_free(r->found);
    vv_free(r->logs.items);
    vv_free(r->unneeded.items);
    vv_free(r->raws.items);
    vv_free(r);
    return st;
}
