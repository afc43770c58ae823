/*
 * wal.h - the write-ahead log: segments of frames of records. Layout: engine/FORMAT.md section 1.
 *
 * Callers: one thread at a time holds the writer role (the database's commit lock says which) and calls
 * append, commit and sync. release() and the getters are thread-safe. The log keeps a thread of its own that
 * prepares and recycles segments, so that no commit ever waits for zeroing or for a directory.
 *
 * A frame is one log write: the records that were appended since the last one, padded to the device's atomic
 * block, never sharing a block with an older frame, so that no write can tear what was acknowledged before.
 */
#ifndef VV_ENGINE_WAL_WAL_H
#define VV_ENGINE_WAL_WAL_H

#include "base/log.h"
#include "base/spread.h"
#include "engine/kv/record.h"
#include "io/io.h"

typedef struct vv_wal vv_wal;

typedef struct vv_wal_options {
    vv_io_backend *backend;
    const char *dir;         /* holds wal-*.log; synced by the log when names in it change */
    const vv_logger *logger; /* may be NULL */
    uint64_t segment_bytes;  /* WAL_SEGMENT_SIZE */
    uint32_t slot_count; /* WAL_BUFFER_SIZE: frames that may be in flight while the next is filled, 2 to 64 */
    uint64_t first_segment;    /* this segment, or an older one, must be there; 0: there may be no log yet */
    uint64_t replay_after_lsn; /* records up to here are in SSTables: not replayed, their segments recycled */
    bool look_only;            /* for vv_wal_replay(): nothing on disk changes, and nothing is synced */
    /* Holds were lost, see vv_wal_hold_is_lost(). On the log's own thread; may take locks, must not wait for
     * the log. NULL: nobody wants to know. */
    void (*hold_lost)(void *arg);
    void *hold_lost_arg;
} vv_wal_options;

/* Called in LSN order for each record above replay_after_lsn. rec and its ops are borrowed until return; the
 * ops are checked. A failure ends the opening and is returned. */
typedef vv_status (*vv_wal_replay_fn)(void *arg, const vv_record *rec);

/*
 * Open the log in `dir`, replaying what it holds. A torn tail is cut, with one line in the log; stale frames
 * of a recycled segment are never replayed. Everything replayed is synced before this returns, so that what
 * readers see can't vanish. Appending goes on in a fresh segment.
 *
 * CORRUPTION/LOG_GAP     records that were durable once are missing or damaged; nothing was changed.
 * UNSUPPORTED/FORMAT_NEWER   a segment of a newer version; nothing was changed.
 */
vv_status vv_wal_open(const vv_wal_options *o, vv_wal_replay_fn replay, void *arg, vv_wal **out,
                      vv_error *err) VV_CHECKED;

/*
 * Only replay, for who is not going to append: as vv_wal_open() up to there. *last_lsn_out: as
 * vv_wal_last_lsn() would say. Segments behind the last record may be removed; nothing else changes.
 */
vv_status vv_wal_replay(const vv_wal_options *o, vv_wal_replay_fn replay, void *arg, uint64_t *last_lsn_out,
                        vv_error *err) VV_CHECKED;

/* A part of a damaged log that is lost. */
typedef struct vv_wal_loss {
    const char *path; /* of the segment, and where in it the damage begins, as far as that is known */
    uint64_t offset;
    uint64_t first_lsn; /* of the records that are lost; 0: not known which, or none */
    uint64_t last_lsn;  /* UINT64_MAX: all from there on, whatever there was */
    const char *text;
} vv_wal_loss;

typedef struct vv_wal_salvage_options {
    bool keep_later; /* take also what is whole behind a damaged part */
    bool any_start;  /* the log may begin with any record: nobody knows what tables hold of what is before */
    void (*lost)(void *arg, const vv_wal_loss *loss);
    vv_wal_replay_fn replay; /* NULL: only look */
    void *arg;               /* of both */
} vv_wal_salvage_options;

/*
 * Replay what is whole of a log that vv_wal_replay() refuses, changing nothing: all up to the first record
 * that is missing, and with keep_later also what is behind. A batch is replayed as a whole or not at all.
 * *last_lsn_out: of the last record, or replay_after_lsn if that is higher. o->first_segment is not asked. OK
 * also if nothing was whole.
 */
vv_status vv_wal_salvage(const vv_wal_options *o, const vv_wal_salvage_options *s, uint64_t *last_lsn_out,
                         vv_error *err) VV_CHECKED;

/* Commit what is appended, stop the thread, close. The status says whether all that was appended is durable.
 * Writer role: the ring's thread, or any other once that one has synced and ended. NULL is fine. */
vv_status vv_wal_close(vv_wal *w) VV_CHECKED;

/* LSN of the last record replayed or replay_after_lsn if that is newer: the next append's first_lsn is one
 * more. */
uint64_t vv_wal_last_lsn(const vv_wal *w);

/*
 * Copy a record into the open frame. `parts` are the bytes of rec->ops in up to `part_count` pieces
 * (rec->ops.data is ignored, rec->ops.bytes is their sum). rec->first_lsn follows the record before it
 * without a gap. A frame that is full goes on its way by itself (writer thread only: see vv_wal_commit()).
 *
 * OK
 * NO_SPACE, NO_MEMORY, IO   there was no next segment to be had: nothing was appended, and the log goes on.
 * WAL_FAILED                the log is latched; nothing was appended.
 */
vv_status vv_wal_append(vv_wal *w, const vv_record *rec, const vv_slice *parts,
                        uint32_t part_count) VV_CHECKED;

/*
 * Start writing what was appended. The log's ring belongs to one thread, the one that first calls this with
 * inline_only false. Any other thread in the writer role passes true, and so may that one: if nothing else is
 * in flight the frame is written in vv_wal_sync() by a blocking write with RWF_DSYNC, the fastest way for
 * a few records, but nothing else happens meanwhile.
 */
void vv_wal_commit(vv_wal *w, bool inline_only);

/*
 * Wait until everything committed is durable. OK means: survives power loss. Any failed write or sync latches
 * the log for good: WAL_FAILED now and from every later call; no sync is ever tried again on that segment.
 */
vv_status vv_wal_sync(vv_wal *w) VV_CHECKED;

/*
 * Commit and sync in three steps, for the ring's thread, so that others may append while the device works: if
 * the first returns true, give up the writer role, await, take the role again, and collect. Until then others
 * may append what vv_wal_append_fits(), and nothing else. OK of the last: what was committed survives power
 * loss; what was appended meanwhile is as before. False of the first: nothing is on its way, and
 * vv_wal_sync() says what became of it.
 */
bool vv_wal_commit_apart(vv_wal *w) VV_CHECKED;
void vv_wal_await(vv_wal *w);
vv_status vv_wal_collect(vv_wal *w) VV_CHECKED;

/* Could a thread that is not the ring's append one record of this size and commit it inline: nothing is in
 * flight or half-filled, and the segment and the slot have room. Writer role. */
bool vv_wal_inline_fits(const vv_wal *w, uint64_t record_bytes);

/* Could it append one without committing it: there is room in the open frame, so that nothing has to be
 * written, waited for or prepared. Writer role. */
bool vv_wal_append_fits(const vv_wal *w, uint64_t record_bytes);

/* The number of the oldest segment that would still be needed if everything up to lsn were in SSTables: what
 * to remember as vv_wal_options.first_segment before releasing that much. Thread-safe. */
uint64_t vv_wal_first_needed(vv_wal *w, uint64_t lsn);

/* Segments before this one may be recycled: vv_wal_first_needed() named it, and the caller remembers it
 * durably. By number and not by LSN: the segment in use may end without anything newer, and must then still
 * be there. Thread-safe. */
void vv_wal_release(vv_wal *w, uint64_t first_needed);

typedef struct vv_wal_stats {
    uint64_t durable_lsn;
    uint64_t segment_count; /* with live records, the current one included */
    uint64_t live_bytes;    /* frame bytes in them: what a recovery would read */
    uint64_t written_bytes; /* frames since open, padding included */
    uint64_t commits;       /* frames synced since open */
    uint64_t records;
    uint64_t memory_bytes; /* buffers of frames, of zeros, and of cursors */
    bool failed;
} vv_wal_stats;

/* Thread-safe. */
void vv_wal_stats_get(vv_wal *w, vv_wal_stats *out);

/* Of the frames synced since open: what write and sync took in microseconds, and how many records they had.
 * Added to the copies; NULL: not asked for. Thread-safe. */
void vv_wal_spreads_get(vv_wal *w, vv_spread_copy *us, vv_spread_copy *records);

/* Is `name` that of a segment (suffix ".log") or of raw material for one (".tmp"), exactly as the log writes
 * it? */
bool vv_wal_name_parse(const char *name, const char *suffix, uint64_t *seq_out);

/* ---- cursors: the log read back while it is written ---- */

/*
 * A cursor gives the records behind an LSN, in order and without a gap, as far as they are durable. Those of
 * late come from memory that all cursors share; older ones are read from the segments. It keeps no segment
 * from being recycled, unless it has a hold. Each cursor is used by one thread at a time; different ones, and
 * the writer role, don't wait for each other but for a few pointer moves.
 */
typedef struct vv_wal_cursor vv_wal_cursor;

/*
 * Behind after_lsn, which is at most the durable LSN. Does no I/O.
 *
 * TRIMMED    what comes next is no longer in the log; *oldest_lsn_out, the first LSN that is, or will be.
 * NO_MEMORY
 */
vv_status vv_wal_cursor_open(vv_wal *w, uint64_t after_lsn, vv_wal_cursor **out,
                             uint64_t *oldest_lsn_out) VV_CHECKED;

/* NULL is fine. */
void vv_wal_cursor_close(vv_wal_cursor *c);

/*
 * The next record if its last LSN is at most limit_lsn and durable; borrowed until the next call on the
 * cursor. If after_lsn lies within a record, that record comes whole. May read a file, and block for it.
 *
 * END           there is none yet.
 * WAL_FAILED    there is none, and there will be none: the log is latched.
 * TRIMMED       it was recycled; *oldest_lsn_out as above.
 * CORRUPTION    it is damaged on disk, or records are missing before it. The cursor stays where it is.
 * IO, NO_MEMORY and others: the call may be repeated.
 */
vv_status vv_wal_cursor_next(vv_wal_cursor *c, uint64_t limit_lsn, vv_record *rec,
                             uint64_t *oldest_lsn_out) VV_CHECKED;

/* For who wants to know what stands on the disk: from here on nothing is taken from memory. Before the first
 * vv_wal_cursor_next(). */
void vv_wal_cursor_from_disk(vv_wal_cursor *c);

/* Of the frame that was read last or, after CORRUPTION, could not be: its segment's file, and where in it. */
void vv_wal_cursor_place(const vv_wal_cursor *c, char *path, size_t path_bytes, uint64_t *offset_out);

/* Everything up to here was given out, or lies before the start. */
uint64_t vv_wal_cursor_lsn(const vv_wal_cursor *c);

/* For a cursor that will not be asked for a while: if all cursors together hold much memory, let go of this
 * one's, and of its file. The record given out last is gone. */
void vv_wal_cursor_rest(vv_wal_cursor *c);

/* About how many bytes of frames are durable behind what was given out. Any thread. */
uint64_t vv_wal_cursor_behind_bytes(const vv_wal_cursor *c);

/*
 * From here on segments with records that were not given out yet, or are not older than the one given out
 * last, stay; but if such segments, which nothing else needs, come to more than max_bytes, the hold is lost,
 * with a line in the log. Once.
 */
void vv_wal_cursor_hold(vv_wal_cursor *c, uint64_t max_bytes);
bool vv_wal_cursor_holds(vv_wal_cursor *c);

/* ---- holds without a cursor ---- */

/* The wish that what is above an LSN stays: up to a limit in bytes, and unless the disk gets full. All of
 * these functions are thread-safe. */
typedef struct vv_wal_hold vv_wal_hold;

/*
 * name: in the line that is logged when it is lost; copied. It begins even if what it wants has left the log
 * already, unless there_only: then TRIMMED. lsn is at most the durable one. NO_MEMORY.
 */
vv_status vv_wal_hold_create(vv_wal *w, const char *name, uint64_t lsn, uint64_t max_bytes, bool there_only,
                             vv_wal_hold **out) VV_CHECKED;
/* NULL is fine. vv_wal_close() destroys those that are left: what they hold is not released by that. */
void vv_wal_hold_destroy(vv_wal *w, vv_wal_hold *h);
/* Up to lsn nothing is needed any more. */
void vv_wal_hold_move(vv_wal *w, vv_wal_hold *h, uint64_t lsn);
bool vv_wal_hold_is_lost(vv_wal *w, const vv_wal_hold *h);

/* Bytes of the segments with anything above lsn that nothing but holds needs. */
uint64_t vv_wal_held_bytes(vv_wal *w, uint64_t lsn);

/*
 * The disk is getting full: of the segments that only holds keep, let the oldest go until `bytes` are free,
 * and whoever holds these loses his hold. Returns how many bytes are on their way.
 */
uint64_t vv_wal_give_way(vv_wal *w, uint64_t bytes);

#endif
