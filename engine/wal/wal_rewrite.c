/*
 * wal_rewrite.c - the end of a log that was not closed, written anew.
 *
 *   wal-N.log --each frame read and checked--> wal-N.tmp --sync--> rename to wal-N.log --directory sync
 *
 * After a failed sync the kernel may go on showing bytes that are not on the medium, and hold them for clean:
 * a further sync writes nothing, and succeeds (A. Rebello et al., "Can Applications Recover from fsync
 * Failures?", USENIX ATC 2020). So what a recovery finds at the end of the log, and no later frame calls
 * durable, may be such; to sync it proves nothing. It was not acknowledged, but readers and retries are about
 * to rely on it. Written anew and synced it is durable, or the failure is seen.
 *
 * Into another file, because some of it may have been acknowledged: in its place, the power going once more
 * could destroy what was safe before. Until the rename is durable the old file is the segment; afterwards the
 * new one, which has the same header and the same frames in the same places.
 */
#include <string.h>

#include "base/checksum.h"
#include "engine/wal/wal_impl.h"

/* Bytes on their way to a file, from front to back, through w->zero_buffer. */
typedef struct copy {
    vv_wal *w;
    vv_file *to;
    uint64_t offset; /* of the buffer's first byte */
    uint64_t used;
} copy;

static vv_status write_out(copy *c) {
    vv_status st = vv_file_write(c->to, c->w->zero_buffer, c->used, c->offset);
    c->offset += c->used;
    c->used = 0;
    return st;
}

/* `bytes` of `data`, NULL: zeros. */
static vv_status append(copy *c, const void *data, uint64_t bytes) {
    uint64_t done = 0;
    while (done < bytes) {
        uint64_t n = VV_MIN(bytes - done, VV_WAL_ZERO_BYTES - c->used);
        if (data)
            memcpy(c->w->zero_buffer + c->used, (const uint8_t *)data + done, n);
        else
            memset(c->w->zero_buffer + c->used, 0, n);
        c->used += n;
        done += n;
        if (c->used == VV_WAL_ZERO_BYTES)
            VV_TRY(write_out(c));
    }
    return VV_STATUS_OK;
}

/* What is read now need not be what was replayed: it is checked again. */
static vv_status copy_frames(copy *c, const vv_wal_segment *s, vv_wal_window *from) {
    vv_status damaged = vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    vv_slice bytes;
    VV_TRY(vv_wal_window_get(from, 0, s->head.block_bytes, &bytes));
    vv_wal_segment_head head;
    if (bytes.bytes == 0 || !vv_ok(vv_wal_segment_head_decode(bytes.data, &head)))
        return damaged;
    VV_TRY(append(c, bytes.data, bytes.bytes));
    for (uint64_t at = s->head.block_bytes; at < s->end;) {
        vv_wal_frame_head frame;
        VV_TRY(vv_wal_window_get(from, at, VV_WAL_FRAME_HEAD_BYTES, &bytes));
        if (bytes.bytes == 0 || !vv_wal_frame_head_decode(bytes.data, s->seed, &frame) ||
            frame.payload_bytes > s->end - at)
            return damaged;
        uint64_t used = VV_WAL_FRAME_HEAD_BYTES + frame.payload_bytes;
        VV_TRY(vv_wal_window_get(from, at, used, &bytes));
        if (bytes.bytes == 0 || vv_checksum((const uint8_t *)bytes.data + VV_WAL_FRAME_HEAD_BYTES,
                                            frame.payload_bytes, s->seed) != frame.payload_checksum)
            return damaged;
        uint64_t frame_bytes = vv_wal_frame_bytes(frame.payload_bytes, s->head.block_bytes);
        VV_TRY(append(c, bytes.data, used));
        VV_TRY(append(c, NULL, frame_bytes - used));
        at += frame_bytes;
    }
    /* The files may have come to a device with larger blocks than they were made for. */
    VV_TRY(append(c, NULL, vv_align_up(c->used, c->to->align_bytes) - c->used));
    return c->used > 0 ? write_out(c) : VV_STATUS_OK;
}

/* The whole file but its name. S2: it may be a segment again some day, so that all of its size is reserved.
 */
static vv_status fill(vv_wal *w, const vv_wal_segment *s, vv_wal_window *from, vv_file *to) {
    copy c = {.w = w, .to = to};
    VV_TRY(vv_file_allocate(to, s->head.segment_bytes));
    vv_status st = copy_frames(&c, s, from);
    memset(w->zero_buffer, 0, VV_WAL_ZERO_BYTES);
    return vv_ok(st) ? vv_file_sync(to, VV_SYNC_FULL) : st;
}

static vv_status make_file(vv_wal *w, const vv_wal_segment *s, vv_wal_window *window, const char *old_path,
                           const char *new_path, vv_error *err) {
    vv_file *from = NULL, *to = NULL;
    vv_status st = vv_file_open(w->backend, old_path, VV_OPEN_READ | VV_OPEN_DIRECT, &from, err);
    if (vv_ok(st))
        st = vv_file_open(w->backend, new_path,
                          VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_TRUNCATE | VV_OPEN_DIRECT, &to, err);
    if (vv_ok(st)) {
        vv_wal_window_start(window, from, s->end);
        st = fill(w, s, window, to);
        if (!vv_ok(st))
            st = vv_fail(err, st, "%s: writing the end of the log anew", new_path);
        vv_wal_window_stop(window);
    }
    vv_file_close(to);
    vv_file_close(from);
    return st;
}

vv_status vv_wal_rewrite(vv_wal *w, const vv_wal_segment *s, vv_wal_window *window, vv_error *err) {
    char old_path[VV_WAL_PATH_BYTES], new_path[VV_WAL_PATH_BYTES];
    vv_wal_path(w, s->head.seq, ".log", old_path);
    vv_wal_path(w, s->head.seq, ".tmp", new_path);
    vv_status st = make_file(w, s, window, old_path, new_path, err);
    if (vv_ok(st))
        st = vv_path_rename(w->backend, new_path, old_path, err);
    if (!vv_ok(st)) {
        vv_status_ignore(vv_path_unlink(w->backend, new_path, NULL),
                         "a .tmp file that stays is removed at open");
        return st;
    }
    return vv_dir_sync(w->backend, w->dir, err);
}
