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
 * inline_only false; any other thread in the writer role passes true, and its frames are written in
 * vv_wal_sync() by a blocking write with RWF_DSYNC, the fastest way for a lone record.
 */
void vv_wal_commit(vv_wal *w, bool inline_only);

/*
 * Wait until everything committed is durable. OK means: survives power loss. Any failed write or sync latches
 * the log for good: WAL_FAILED now and from every later call; no sync is ever tried again on that segment.
 */
vv_status vv_wal_sync(vv_wal *w) VV_CHECKED;

/* Could a thread that is not the ring's append one record of this size and commit it inline: nothing is in
 * flight or half-filled, and the segment and the slot have room. Writer role. */
bool vv_wal_inline_fits(const vv_wal *w, uint64_t record_bytes);

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
    uint64_t memory_bytes; /* buffers of frames, and of zeros */
    bool failed;
} vv_wal_stats;

/* Thread-safe. */
void vv_wal_stats_get(vv_wal *w, vv_wal_stats *out);

#endif
