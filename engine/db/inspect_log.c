/*
 * inspect_log.c - what is in a segment of a log, and in a file of an archive or a tail that was cut.
 *
 * A segment is gone through block by block to its end, also behind the first block that holds no frame, where
 * recovery would end: a frame that is still found there (`behind_end`) was cut by an earlier recovery, or
 * shows that one before it is damaged. It is no damage in itself, as a crash leaves such ones, too; whether
 * something is missing only the log as a whole can say, and varve_verify() does.
 */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/db/archive_file.h"
#include "engine/db/inspect_impl.h"
#include "engine/wal/wal_format.h"

#define WINDOW_BYTES (UINT64_C(1) << 20)

/* ---- records ---- */

static vv_status tell_operations(vv_inspection *j, const vv_record *rec, vv_entry_counts *counts) {
    vv_reader r = vv_reader_make(rec->ops);
    for (uint32_t n = 0; n < rec->op_count; n++) {
        vv_entry e = {.lsn = rec->first_lsn + n};
        VV_TRY(vv_op_decode(&r, &e));
        vv_entry_counts_add(counts, &e);
        if (!j->o->entries)
            continue;
        vv_item i;
        vv_item_begin(&i, "operation");
        vv_item_entry(&i, &e);
        vv_item_number(&i, "batch_lsn", rec->first_lsn);
        vv_item_number(&i, "epoch", rec->epoch);
        if (rec->client_id != 0) {
            vv_item_id_number(&i, "client_id", rec->client_id);
            vv_item_number(&i, "sequence", rec->sequence);
        }
        VV_TRY(vv_item_tell(&i, j));
    }
    return VV_STATUS_OK;
}

/* The records of a frame whose checksum is right. CORRUPTION: they make no sense all the same. */
static vv_status tell_records(vv_inspection *j, vv_slice payload, uint32_t count, vv_entry_counts *counts) {
    vv_reader r = vv_reader_make(payload);
    for (uint32_t n = 0; n < count; n++) {
        vv_record rec;
        VV_TRY(vv_record_decode(&r, &rec));
        VV_TRY(vv_record_ops_check(&rec));
        VV_TRY(tell_operations(j, &rec, counts));
    }
    return VV_STATUS_OK;
}

/* ---- a segment ---- */

typedef struct segment_walk {
    vv_inspection *j;
    vv_wal_segment_head head;
    uint64_t seed;
    uint8_t *window; /* bytes [window_at, window_at + window_bytes) of the file */
    uint64_t window_at, window_bytes, window_capacity;
    uint64_t end; /* of the frames that follow each other from the header on */
    bool ended;
    uint64_t frames, records, payload_bytes, padding_bytes, behind_end;
    uint64_t first_lsn, last_lsn;
    bool closed; /* the last frame is that of a clean close */
    vv_entry_counts counts;
} segment_walk;

/* Bytes [at, at + bytes), borrowed until the next call; fewer if the file ends. */
static vv_status window(segment_walk *w, uint64_t at, uint64_t bytes, vv_slice *out) {
    if (at < w->window_at || at + bytes > w->window_at + w->window_bytes) {
        uint64_t want = VV_MAX(bytes, WINDOW_BYTES);
        size_t got;
        if (want > w->window_capacity) {
            uint8_t *grown = vv_realloc(w->window, want);
            if (!grown)
                return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
            w->window = grown;
            w->window_capacity = want;
        }
        w->window_bytes = 0;
        VV_TRY(vv_file_read(w->j->file, w->window, want, at, &got));
        w->window_at = at;
        w->window_bytes = got;
    }
    *out = vv_slice_make(w->window + (at - w->window_at), VV_MIN(bytes, w->window_at + w->window_bytes - at));
    return VV_STATUS_OK;
}

static vv_status tell_segment(segment_walk *w) {
    vv_item i;
    vv_item_begin(&i, "segment");
    vv_item_number(&i, "format_version", VV_WAL_FORMAT_VERSION);
    vv_item_number(&i, "file_bytes", w->j->file_bytes);
    vv_item_number(&i, "segment", w->head.seq);
    vv_item_number(&i, "segment_bytes", w->head.segment_bytes);
    vv_item_number(&i, "block_bytes", w->head.block_bytes);
    vv_item_id(&i, "log_id", w->head.log_id, sizeof w->head.log_id);
    vv_item_id_number(&i, "salt", w->head.salt);
    return vv_item_tell(&i, w->j);
}

static vv_status tell_frame(segment_walk *w, uint64_t at, const vv_wal_frame_head *f, bool whole) {
    vv_item i;
    vv_item_begin(&i, "frame");
    vv_item_number(&i, "offset", at);
    vv_item_number(&i, "bytes", vv_wal_frame_bytes(f->payload_bytes, w->head.block_bytes));
    vv_item_number(&i, "frame_seq", f->frame_seq);
    vv_item_number(&i, "records", f->record_count);
    vv_item_number(&i, "payload_bytes", f->payload_bytes);
    vv_item_number(&i, "first_lsn", f->first_lsn);
    vv_item_number(&i, "last_lsn", f->last_lsn);
    vv_item_number(&i, "durable_lsn", f->durable_lsn);
    vv_item_flag(&i, "clean_close", f->record_count == 0);
    vv_item_flag(&i, "whole", whole);
    vv_item_flag(&i, "behind_end", w->ended);
    return vv_item_tell(&i, w->j);
}

static void count_frame(segment_walk *w, const vv_wal_frame_head *f) {
    w->frames++;
    w->records += f->record_count;
    w->payload_bytes += f->payload_bytes;
    w->padding_bytes += vv_wal_frame_bytes(f->payload_bytes, w->head.block_bytes) - f->payload_bytes;
    w->closed = f->record_count == 0;
    if (f->record_count == 0)
        return;
    if (w->first_lsn == 0)
        w->first_lsn = f->first_lsn;
    w->last_lsn = f->last_lsn;
}

/* The block at `at` begins a frame with this head: tell it. *next_out: where to go on. */
static vv_status frame(segment_walk *w, uint64_t at, const vv_wal_frame_head *f, uint64_t *next_out) {
    vv_entry_counts ignored = {0};
    vv_slice payload = {0};
    *next_out = at + w->head.block_bytes;
    bool fits = f->payload_bytes <= w->j->file_bytes - at - VV_WAL_FRAME_HEAD_BYTES;
    if (fits)
        VV_TRY(window(w, at + VV_WAL_FRAME_HEAD_BYTES, f->payload_bytes, &payload));
    bool whole = fits && payload.bytes == f->payload_bytes &&
                 vv_checksum(payload.data, payload.bytes, w->seed) == f->payload_checksum;
    w->ended |= !whole;
    VV_TRY(tell_frame(w, at, f, whole));
    if (!whole) {
        w->behind_end++;
        return VV_STATUS_OK;
    }
    vv_status st = tell_records(w->j, payload, f->record_count, w->ended ? &ignored : &w->counts);
    if (vv_is(st, VV_CORRUPTION)) {
        vv_inspect_damage(w->j, at, f->payload_bytes, st,
                          "records that make no sense under a right checksum");
        st = VV_STATUS_OK;
    }
    VV_TRY(st);
    *next_out = at + vv_wal_frame_bytes(f->payload_bytes, w->head.block_bytes);
    if (w->ended) {
        w->behind_end++;
    } else {
        count_frame(w, f);
        w->end = *next_out;
    }
    return VV_STATUS_OK;
}

static vv_status tell_segment_summary(segment_walk *w) {
    vv_item i;
    vv_item_begin(&i, "summary");
    vv_item_number(&i, "frames", w->frames);
    vv_item_number(&i, "records", w->records);
    vv_item_number(&i, "first_lsn", w->first_lsn);
    vv_item_number(&i, "last_lsn", w->last_lsn);
    vv_item_number(&i, "payload_bytes", w->payload_bytes);
    vv_item_number(&i, "padding_bytes", w->padding_bytes);
    vv_item_number(&i, "end_offset", w->end);
    vv_item_flag(&i, "clean_close", w->closed);
    vv_item_number(&i, "frames_behind_end", w->behind_end);
    vv_item_counts(&i, &w->counts);
    return vv_item_tell(&i, w->j);
}

static vv_status walk_segment(segment_walk *w) {
    vv_slice bytes;
    VV_TRY(window(w, 0, VV_WAL_SEGMENT_HEAD_BYTES, &bytes));
    vv_status st = bytes.bytes < VV_WAL_SEGMENT_HEAD_BYTES
                       ? vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0)
                       : vv_wal_segment_head_decode(bytes.data, &w->head);
    if (vv_is(st, VV_CORRUPTION)) {
        vv_inspect_damage(w->j, 0, w->j->file_bytes, st,
                          "the segment's header is damaged: without it no frame can be told from garbage");
        return VV_STATUS_OK;
    }
    VV_TRY(st);
    w->seed = vv_wal_segment_seed(&w->head);
    w->end = w->head.block_bytes;
    VV_TRY(tell_segment(w));
    for (uint64_t at = w->head.block_bytes, next; at + w->head.block_bytes <= w->j->file_bytes; at = next) {
        vv_wal_frame_head f;
        next = at + w->head.block_bytes;
        VV_TRY(window(w, at, VV_WAL_FRAME_HEAD_BYTES, &bytes));
        if (bytes.bytes == VV_WAL_FRAME_HEAD_BYTES && vv_wal_frame_head_decode(bytes.data, w->seed, &f))
            VV_TRY(frame(w, at, &f, &next));
        else
            w->ended = true;
    }
    return tell_segment_summary(w);
}

vv_status vv_inspect_segment(vv_inspection *j) {
    segment_walk w = {.j = j};
    vv_status st = walk_segment(&w);
    vv_free(w.window);
    return st;
}

/* ---- a file of an archive ---- */

static vv_status tell_archive(vv_inspection *j, const vv_archive_head *h) {
    vv_item i;
    vv_item_begin(&i, h->number == 0 ? "cut_tail" : "archive");
    vv_item_number(&i, "format_version", VV_ARCHIVE_FORMAT_VERSION);
    vv_item_number(&i, "file_bytes", j->file_bytes);
    vv_item_id(&i, "db_id", h->db_id, sizeof h->db_id);
    vv_item_number(&i, "number", h->number);
    vv_item_number(&i, "first_lsn", h->first_lsn);
    vv_item_number(&i, "created_unix_ms", h->created_unix_ms);
    vv_item_number(&i, "block_bytes", h->block_bytes);
    return vv_item_tell(&i, j);
}

static vv_status tell_archive_frame(vv_inspection *j, const vv_archive_frame *f, uint64_t end) {
    vv_item i;
    vv_item_begin(&i, "frame");
    vv_item_number(&i, "end_offset", end);
    vv_item_number(&i, "records", f->record_count);
    vv_item_number(&i, "payload_bytes", f->records.bytes);
    vv_item_number(&i, "first_lsn", f->first_lsn);
    vv_item_number(&i, "last_lsn", f->last_lsn);
    vv_item_number(&i, "unix_ms", f->unix_ms);
    vv_item_number(&i, "epoch", f->epoch.epoch);
    vv_item_id_number(&i, "epoch_id", f->epoch.id);
    vv_item_number(&i, "epoch_first_lsn", f->epoch.first_lsn);
    return vv_item_tell(&i, j);
}

static vv_status walk_archive(vv_inspection *j, vv_archive_reader *r) {
    vv_entry_counts counts = {0};
    vv_archive_frame f;
    uint64_t frames = 0, records = 0, last_lsn = 0, last_ms = 0;
    vv_error words = {""};
    vv_status st;
    VV_TRY(tell_archive(j, vv_archive_reader_head(r)));
    while (vv_ok(st = vv_archive_reader_next(r, &f, &words))) {
        frames++;
        records += f.record_count;
        last_lsn = f.last_lsn;
        last_ms = f.unix_ms;
        VV_TRY(tell_archive_frame(j, &f, vv_archive_reader_offset(r)));
        VV_TRY(tell_records(j, f.records, f.record_count, &counts));
    }
    if (vv_is(st, VV_CORRUPTION))
        vv_inspect_damage(j, vv_archive_reader_offset(r), j->file_bytes - vv_archive_reader_offset(r), st,
                          words.text);
    else if (!vv_is(st, VV_END))
        return st;
    vv_item i;
    vv_item_begin(&i, "summary");
    vv_item_number(&i, "frames", frames);
    vv_item_number(&i, "records", records);
    vv_item_number(&i, "last_lsn", last_lsn);
    vv_item_number(&i, "last_unix_ms", last_ms);
    vv_item_number(&i, "torn_bytes", vv_is(st, VV_END) ? vv_archive_reader_torn_bytes(r) : 0);
    vv_item_counts(&i, &counts);
    return vv_item_tell(&i, j);
}

vv_status vv_inspect_archive(vv_inspection *j) {
    vv_archive_reader *r;
    vv_error words = {""};
    vv_status st = vv_archive_reader_open(j->io, j->path, &r, &words);
    if (vv_is(st, VV_CORRUPTION)) {
        vv_inspect_damage(j, 0, j->file_bytes, st, vv_sub_text(st.sub));
        return VV_STATUS_OK;
    }
    if (!vv_ok(st)) {
        *j->err = words;
        return st;
    }
    st = walk_archive(j, r);
    vv_archive_reader_close(r);
    return st;
}
