/*
 * wal_salvage.c - what is left of a damaged log, for repair.
 *
 *   each segment: header --> every frame in it, whole or not --> which of them count --> records replayed
 *
 * Recovery (wal_recover.c) refuses a log of which acknowledged records are missing. Here all segments are
 * looked through, block by block, and each frame whose checksums are right is one that was written. Which of
 * them count: a frame that an earlier recovery had cut may still be there; it has a number that a later
 * segment has used again, or a higher one, and is left out. The rest is in order of segments and places,
 * which is the order of LSNs; where the next LSN is not the next, records are missing.
 *
 * A header that is damaged in one byte is put right: its checksum of 64 bits says which of the 16,320 it is.
 * Without its header a segment is lost, since the salt is there that its frames' checksums begin with.
 *
 * Nothing is written. One thread; memory for the heads of all frames.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/wal/wal_impl.h"

#define WINDOW_BYTES (UINT64_C(1) << 20)

typedef struct old_segment {
    uint64_t seq;
    uint64_t file_bytes;
    bool readable;
    bool has_magic; /* not readable, and there may be frames in it */
    vv_wal_segment_head head;
    uint64_t seed;
} old_segment;

typedef struct old_frame {
    size_t segment; /* index */
    uint64_t offset;
    vv_wal_frame_head head;
    bool whole; /* the payload's checksum is right, too */
    bool stale;
    bool used;
} old_frame;

typedef struct salvage {
    const vv_wal_options *o;
    const vv_wal_salvage_options *s;
    vv_error *err;
    old_segment *segments;
    size_t segment_count;
    old_frame *frames;
    size_t frame_count, frame_capacity;
    uint64_t durable_lsn; /* the newest that any frame knows of */
    uint64_t next_lsn;
    char path[VV_WAL_PATH_BYTES];
    vv_file *file; /* open, of segment open_index */
    size_t open_index;
    uint8_t *buf; /* what of it is in memory */
    uint64_t buf_bytes, window_at, window_bytes;
} salvage;

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static void set_path(salvage *v, uint64_t seq) {
    snprintf(v->path, sizeof v->path, "%s/wal-%016" PRIx64 ".log", v->o->dir, seq);
}

static void report(salvage *v, uint64_t offset, uint64_t first_lsn, uint64_t last_lsn, const char *what) {
    char text[VV_WAL_PATH_BYTES + 256];
    if (first_lsn && last_lsn == UINT64_MAX)
        snprintf(text, sizeof text,
                 "%s: offset %" PRIu64 ": %s: all that was written from LSN %" PRIu64 " on is lost", v->path,
                 offset, what, first_lsn);
    else if (first_lsn)
        snprintf(text, sizeof text, "%s: offset %" PRIu64 ": %s: LSNs %" PRIu64 " to %" PRIu64 " are lost",
                 v->path, offset, what, first_lsn, last_lsn);
    else
        snprintf(text, sizeof text, "%s: offset %" PRIu64 ": %s", v->path, offset, what);
    vv_wal_loss loss = {
        .path = v->path, .offset = offset, .first_lsn = first_lsn, .last_lsn = last_lsn, .text = text};
    v->s->lost(v->s->arg, &loss);
}

/* ---- bytes ---- */

static void close_file(salvage *v) {
    vv_file_close(v->file);
    v->file = NULL;
    v->window_bytes = 0;
}

static vv_status open_segment(salvage *v, size_t i) {
    if (v->file && v->open_index == i)
        return VV_STATUS_OK;
    close_file(v);
    set_path(v, v->segments[i].seq);
    v->open_index = i;
    return vv_file_open(v->o->backend, v->path, VV_OPEN_READ, &v->file, v->err);
}

/* Bytes [at, at + bytes) of the open segment, borrowed until the next call; fewer in *out if the file ends,
 * or if they can't be read. */
static vv_status window(salvage *v, uint64_t at, uint64_t bytes, vv_slice *out) {
    *out = vv_slice_make(NULL, 0);
    if (at < v->window_at || at + bytes > v->window_at + v->window_bytes) {
        uint64_t want = VV_MAX(bytes, WINDOW_BYTES);
        size_t got = 0;
        if (want > v->buf_bytes) {
            vv_free(v->buf);
            v->buf_bytes = 0;
            v->buf = vv_alloc(want);
            if (!v->buf)
                return no_memory();
            v->buf_bytes = want;
        }
        v->window_bytes = 0;
        vv_status st = vv_file_read(v->file, v->buf, want, at, &got);
        if (!vv_ok(st) && want > bytes) /* a bad sector somewhere behind: only what is needed */
            st = vv_file_read(v->file, v->buf, bytes, at, &got);
        if (!vv_ok(st))
            got = 0;
        v->window_at = at;
        v->window_bytes = got;
    }
    uint64_t there = v->window_at + v->window_bytes;
    if (at < there)
        *out = vv_slice_make(v->buf + (at - v->window_at), VV_MIN(bytes, there - at));
    return VV_STATUS_OK;
}

/* ---- what is there ---- */

static vv_status add_segment(void *arg, const char *name, vv_entry_kind kind) {
    salvage *v = arg;
    uint64_t seq;
    if (kind == VV_ENTRY_DIRECTORY || !vv_wal_name_parse(name, ".log", &seq))
        return VV_STATUS_OK;
    old_segment *grown = vv_realloc(v->segments, (v->segment_count + 1) * sizeof *grown);
    if (!grown)
        return no_memory();
    v->segments = grown;
    v->segments[v->segment_count++] = (old_segment){.seq = seq};
    return VV_STATUS_OK;
}

static int by_seq(const void *a, const void *b) {
    uint64_t x = ((const old_segment *)a)->seq, y = ((const old_segment *)b)->seq;
    return (x > y) - (x < y);
}

static bool mend_head(const uint8_t *bytes, vv_wal_segment_head *out) {
    uint8_t copy[VV_WAL_SEGMENT_HEAD_BYTES];
    memcpy(copy, bytes, sizeof copy);
    for (size_t i = 0; i < sizeof copy; i++) {
        for (unsigned change = 1; change < 256; change++) {
            copy[i] = bytes[i] ^ (uint8_t)change;
            if (vv_ok(vv_wal_segment_head_decode(copy, out)))
                return true;
        }
        copy[i] = bytes[i];
    }
    return false;
}

/* Whole, and of a version behind ours: these places are the same in all. */
static bool is_newer(const uint8_t *bytes) {
    size_t covered = VV_WAL_SEGMENT_HEAD_BYTES - 8;
    return vv_get_be32(bytes + 8) > VV_WAL_FORMAT_VERSION &&
           vv_get_be64(bytes + covered) == vv_checksum(bytes, covered, 0);
}

static vv_status read_header(salvage *v, old_segment *s) {
    vv_slice bytes;
    const char *what = NULL;
    VV_TRY(vv_file_size(v->file, &s->file_bytes));
    VV_TRY(window(v, 0, VV_WAL_SEGMENT_HEAD_BYTES, &bytes));
    if (bytes.bytes < VV_WAL_SEGMENT_HEAD_BYTES)
        what = "the segment's header is missing";
    else if (!vv_ok(vv_wal_segment_head_decode(bytes.data, &s->head)) && !mend_head(bytes.data, &s->head))
        what = "the segment's header is damaged: nothing in it can be read";
    else if (s->head.seq != s->seq)
        what = "this is another segment";
    for (const old_segment *first = v->segments; !what && first < s; first++) {
        if (!first->readable)
            continue;
        if (memcmp(first->head.log_id, s->head.log_id, sizeof s->head.log_id) != 0)
            what = "this is a segment of another log";
        break;
    }
    if (what && bytes.bytes == VV_WAL_SEGMENT_HEAD_BYTES && is_newer(bytes.data))
        return vv_fail(v->err, vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0),
                       "%s: written by a newer Varve", v->path);
    s->readable = what == NULL;
    if (s->readable)
        s->seed = vv_wal_segment_seed(&s->head);
    else
        report(v, 0, 0, 0, what);
    return VV_STATUS_OK;
}

static vv_status add_frame(salvage *v, const old_frame *f) {
    if (v->frame_count == v->frame_capacity) {
        size_t capacity = v->frame_capacity ? 2 * v->frame_capacity : 256;
        old_frame *grown = vv_realloc(v->frames, capacity * sizeof *grown);
        if (!grown)
            return no_memory();
        v->frames = grown;
        v->frame_capacity = capacity;
    }
    v->frames[v->frame_count++] = *f;
    v->durable_lsn = VV_MAX(v->durable_lsn, f->head.durable_lsn);
    return VV_STATUS_OK;
}

static vv_status read_payload(salvage *v, const old_frame *f, vv_slice *out) {
    VV_TRY(window(v, f->offset, VV_WAL_FRAME_HEAD_BYTES + f->head.payload_bytes, out));
    if (out->bytes == VV_WAL_FRAME_HEAD_BYTES + f->head.payload_bytes)
        *out = vv_slice_make((const uint8_t *)out->data + VV_WAL_FRAME_HEAD_BYTES, f->head.payload_bytes);
    else
        *out = vv_slice_make(NULL, 0);
    return VV_STATUS_OK;
}

static vv_status read_frames(salvage *v, size_t i) {
    const old_segment *s = &v->segments[i];
    uint64_t end = VV_MIN(s->file_bytes, s->head.segment_bytes);
    for (uint64_t at = s->head.block_bytes; at + VV_WAL_FRAME_HEAD_BYTES <= end;) {
        old_frame f = {.segment = i, .offset = at};
        vv_slice bytes;
        VV_TRY(window(v, at, VV_WAL_FRAME_HEAD_BYTES, &bytes));
        if (bytes.bytes < VV_WAL_FRAME_HEAD_BYTES ||
            !vv_wal_frame_head_decode(bytes.data, s->seed, &f.head)) {
            at += s->head.block_bytes;
            continue;
        }
        bool fits = f.head.payload_bytes <= end - at - VV_WAL_FRAME_HEAD_BYTES;
        if (fits) {
            VV_TRY(read_payload(v, &f, &bytes));
            f.whole = bytes.bytes == f.head.payload_bytes &&
                      vv_checksum(bytes.data, bytes.bytes, s->seed) == f.head.payload_checksum;
        }
        VV_TRY(add_frame(v, &f));
        at += fits ? vv_wal_frame_bytes(f.head.payload_bytes, s->head.block_bytes) : s->head.block_bytes;
    }
    return VV_STATUS_OK;
}

/* In a segment without header: anything that looks like the head of a frame, of this life of the file or an
 * earlier. */
static vv_status look_for_magic(salvage *v, old_segment *s) {
    for (uint64_t at = VV_WAL_BLOCK_BYTES_MIN; at < s->file_bytes && !s->has_magic;
         at += VV_WAL_BLOCK_BYTES_MIN) {
        vv_slice bytes;
        VV_TRY(window(v, at, sizeof(uint32_t), &bytes));
        s->has_magic = bytes.bytes == sizeof(uint32_t) && vv_get_be32(bytes.data) == VV_WAL_FRAME_MAGIC;
    }
    return VV_STATUS_OK;
}

static vv_status read_segments(salvage *v) {
    VV_TRY(vv_dir_list(v->o->backend, v->o->dir, add_segment, v, v->err));
    if (v->segment_count > 0)
        qsort(v->segments, v->segment_count, sizeof *v->segments, by_seq);
    for (size_t i = 0; i < v->segment_count; i++) {
        VV_TRY(open_segment(v, i));
        VV_TRY(read_header(v, &v->segments[i]));
        VV_TRY(v->segments[i].readable ? read_frames(v, i) : look_for_magic(v, &v->segments[i]));
    }
    return VV_STATUS_OK;
}

/* ---- which of it counts ---- */

static void mark_stale(salvage *v) {
    uint64_t later = UINT64_MAX, here = UINT64_MAX;
    for (size_t n = v->frame_count; n > 0; n--) {
        old_frame *f = &v->frames[n - 1];
        if (n < v->frame_count && f->segment != v->frames[n].segment)
            later = VV_MIN(later, here);
        f->stale = f->head.frame_seq >= later;
        if (!f->stale)
            here = VV_MIN(here, f->head.frame_seq);
    }
}

/* Where the damage before frame n begins (or behind the last one): at the first frame that is not whole, or
 * where the frames before end. */
static uint64_t place_of_damage(salvage *v, size_t n) {
    const old_frame *torn = NULL, *before = NULL;
    for (; n > 0 && !before; n--) {
        const old_frame *f = &v->frames[n - 1];
        if (f->used || (f->whole && !f->stale && f->head.last_lsn < v->next_lsn))
            before = f;
        else if (!f->whole && !f->stale)
            torn = f;
    }
    const old_frame *at = torn ? torn : before;
    snprintf(v->path, sizeof v->path, "%s", v->o->dir);
    if (v->segment_count > 0)
        set_path(v, v->segments[at ? at->segment : 0].seq);
    if (!at)
        return 0;
    uint64_t bytes = vv_wal_frame_bytes(at->head.payload_bytes, v->segments[at->segment].head.block_bytes);
    return at->offset + (at == before ? bytes : 0);
}

/* Behind the last frame segments are missing, cut short, or can't be read: who knows what was in them. */
static bool end_is_unknown(const salvage *v) {
    uint64_t expected = v->o->first_segment;
    size_t i = 0;
    for (size_t n = v->frame_count; n > 0; n--)
        if (!v->frames[n - 1].stale) {
            i = v->frames[n - 1].segment;
            expected = v->segments[i].seq;
            break;
        }
    if (expected == 0 && v->segment_count > 0)
        expected = v->segments[0].seq;
    for (; i < v->segment_count; i++) {
        const old_segment *s = &v->segments[i];
        if (s->seq < expected)
            continue; /* there for readers that are behind */
        bool is_short = s->readable && s->file_bytes < s->head.segment_bytes;
        if (s->seq > expected || is_short || (!s->readable && s->has_magic))
            return true;
        expected = s->seq + 1;
    }
    return v->segment_count == 0 && expected != 0;
}

static void choose(salvage *v) {
    uint64_t newest = v->durable_lsn; /* there was such a record */
    bool begun = false, ended = false;
    size_t end = v->frame_count;
    for (size_t n = 0; n < v->frame_count; n++) {
        old_frame *f = &v->frames[n];
        if (f->stale || f->head.record_count == 0)
            continue;
        newest = VV_MAX(newest, f->head.last_lsn);
        if (!f->whole || f->head.last_lsn < v->next_lsn || ended)
            continue;
        if (f->head.first_lsn > v->next_lsn && (begun || !v->s->any_start)) {
            if (!v->s->keep_later) {
                ended = true;
                end = n;
                continue;
            }
            report(v, place_of_damage(v, n), v->next_lsn, f->head.first_lsn - 1, "damaged");
        }
        f->used = begun = true;
        v->next_lsn = f->head.last_lsn + 1;
    }
    if (end_is_unknown(v))
        newest = UINT64_MAX;
    if (newest >= v->next_lsn) {
        uint64_t offset = place_of_damage(v, end);
        report(v, offset, v->next_lsn, newest,
               ended ? "damaged, and what is whole behind it is left out" : "damaged");
    }
}

/* ---- records ---- */

static vv_status replay_frame(salvage *v, const old_frame *f) {
    vv_slice payload;
    VV_TRY(open_segment(v, f->segment));
    VV_TRY(read_payload(v, f, &payload));
    vv_reader reader = vv_reader_make(payload);
    for (uint32_t i = 0; i < f->head.record_count; i++) {
        vv_record rec;
        vv_status st = vv_record_decode(&reader, &rec);
        if (vv_ok(st))
            st = vv_record_ops_check(&rec);
        if (!vv_ok(
                st)) /* its checksum was right: it was written so, or has changed since it was read before */
            return vv_fail(v->err, st, "%s: offset %" PRIu64 ": a record makes no sense", v->path, f->offset);
        if (rec.first_lsn + rec.op_count - 1 > v->o->replay_after_lsn)
            VV_TRY(v->s->replay(v->s->arg, &rec));
    }
    return VV_STATUS_OK;
}

vv_status vv_wal_salvage(const vv_wal_options *o, const vv_wal_salvage_options *s, uint64_t *last_lsn_out,
                         vv_error *err) {
    *last_lsn_out = 0;
    salvage *v = vv_alloc_zeroed(sizeof *v);
    if (!v)
        return vv_fail(err, no_memory(), "%s: out of memory", o->dir);
    *v = (salvage){.o = o, .s = s, .err = err, .next_lsn = o->replay_after_lsn + 1};
    vv_status st = read_segments(v);
    if (vv_ok(st)) {
        mark_stale(v);
        choose(v);
    }
    for (size_t n = 0; n < v->frame_count && s->replay && vv_ok(st); n++)
        if (v->frames[n].used)
            st = replay_frame(v, &v->frames[n]);
    *last_lsn_out = v->next_lsn - 1;
    close_file(v);
    vv_free(v->buf);
    vv_free(v->frames);
    vv_free(v->segments);
    vv_free(v);
    return st;
}
