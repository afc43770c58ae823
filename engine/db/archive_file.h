/*
 * archive_file.h - one file of an archive: records of the log as they were written, in frames that say when
 * and by which primary. Also what varve_rewind() keeps of a tail that it cuts. Layout: engine/FORMAT.md,
 * section 4.
 *
 *   file    [header block][write]...[write]       a write begins on a block boundary
 *   write   [frame]...[frame][zeros]
 *   frame   [head: 88][record]...[record]         engine/kv/record.h
 *
 * A file is written front to back, and a block once: so a write that power loss tears harms nothing that was
 * synced before. Each frame says how much of the file was synced when it was written. That tells damage from
 * a torn end: whatever is missing before such a mark was there once; what is missing behind all marks may
 * never have been.
 *
 * The checksums of frames are seeded with that of the header, which has random bytes in it, so that nothing
 * that another file has left on the disk passes for a frame of this one.
 *
 * Writer and reader are used by one thread each at a time.
 */
#ifndef VV_ENGINE_DB_ARCHIVE_FILE_H
#define VV_ENGINE_DB_ARCHIVE_FILE_H

#include "engine/kv/record.h"
#include "engine/lsm/manifest.h"
#include "io/io.h"

#define VV_ARCHIVE_FORMAT_VERSION   1
#define VV_ARCHIVE_HEAD_BYTES       64
#define VV_ARCHIVE_FRAME_HEAD_BYTES 88
#define VV_ARCHIVE_DB_ID_BYTES      16
#define VV_ARCHIVE_BLOCK_BYTES_MIN  4096
#define VV_ARCHIVE_BLOCK_BYTES_MAX  65536

/* A frame ends when its records take so much, or when so much time has passed since its first: the grain of
 * a restore to a time. */
#define VV_ARCHIVE_FRAME_BYTES ((size_t)256 << 10)
#define VV_ARCHIVE_FRAME_MS    10

typedef struct vv_archive_head {
    uint8_t db_id[VV_ARCHIVE_DB_ID_BYTES];
    uint64_t number;    /* in the archive, as in its name; 0: a file that stands for itself */
    uint64_t first_lsn; /* of the first record that is in the file, or was to be */
    uint64_t created_unix_ms;
    uint32_t block_bytes; /* set by the writer, as the next */
    uint32_t salt;
} vv_archive_head;

/* ---- writing ---- */

typedef struct vv_archive_writer vv_archive_writer;

/*
 * Make the file, with its header, which is synced; the name is the caller's to make durable. head is copied.
 * EXISTS, NO_SPACE and others: there is no file.
 */
vv_status vv_archive_writer_create(vv_io_backend *io, const char *path, const vv_archive_head *head,
                                   vv_archive_writer **out, vv_error *err) VV_CHECKED;

/*
 * Go on with a file behind its last whole frame: what stands behind that is cut, and what stands before it is
 * synced. *torn_bytes_out: so much was cut. CORRUPTION: as for vv_archive_reader_next(); nothing changed.
 */
vv_status vv_archive_writer_resume(vv_io_backend *io, const char *path, vv_archive_writer **out,
                                   uint64_t *torn_bytes_out, vv_error *err) VV_CHECKED;

/*
 * Add a record: the one that follows the last (or begins at first_lsn). It is copied, and written with others
 * later. epoch: of rec->epoch in the history; what is not known of it is 0. unix_ms: the record has been
 * durable for at least as long.
 *
 * Any failure: it was not added, and may be added again. NO_SPACE, IO: what was added before can't be
 * written; see vv_archive_writer_sync().
 */
vv_status vv_archive_writer_add(vv_archive_writer *w, const vv_record *rec, const vv_epoch *epoch,
                                uint64_t unix_ms) VV_CHECKED;

/*
 * Write all that was added, and make it durable.
 *
 * OK         all of it survives power loss.
 * NO_SPACE   and whatever else a write fails with: nothing is lost, the call may be repeated.
 *            vv_archive_writer_failed() tells it from a failed sync, after which the writer is of no use, and
 *            what was added since the last OK belongs into another file.
 */
vv_status vv_archive_writer_sync(vv_archive_writer *w) VV_CHECKED;
bool vv_archive_writer_failed(const vv_archive_writer *w);

const vv_archive_head *vv_archive_writer_head(const vv_archive_writer *w);
/* The last LSN that was added, or that survives power loss; first_lsn - 1 if there is none. */
uint64_t vv_archive_writer_last_lsn(const vv_archive_writer *w);
uint64_t vv_archive_writer_synced_lsn(const vv_archive_writer *w);
/* Of the last frame; 0 if there is none. */
uint64_t vv_archive_writer_unix_ms(const vv_archive_writer *w);
/* Of the file, what is added and not yet written included. */
uint64_t vv_archive_writer_bytes(const vv_archive_writer *w);

/* Syncs nothing, and writes nothing. NULL is fine. */
void vv_archive_writer_close(vv_archive_writer *w);

/* ---- reading ---- */

typedef struct vv_archive_reader vv_archive_reader;

/* Records of one primary that were durable by one time. */
typedef struct vv_archive_frame {
    uint64_t first_lsn;
    uint64_t last_lsn;
    vv_epoch epoch;
    uint64_t unix_ms;
    uint32_t record_count;
    vv_slice records; /* as vv_record_decode() reads them; borrowed until the next call on the reader */
} vv_archive_frame;

/* CORRUPTION: the header is damaged, or this is no such file. UNSUPPORTED/FORMAT_NEWER. */
vv_status vv_archive_reader_open(vv_io_backend *io, const char *path, vv_archive_reader **out,
                                 vv_error *err) VV_CHECKED;
/* NULL is fine. */
void vv_archive_reader_close(vv_archive_reader *r);
const vv_archive_head *vv_archive_reader_head(const vv_archive_reader *r);

/*
 * The next frame, its checksum verified; LSNs follow each other without a gap.
 *
 * END          there is no more, as far as was synced for certain; see vv_archive_reader_torn_bytes().
 * CORRUPTION   bytes that were synced once are damaged; the words say where.
 * IO, NO_MEMORY
 */
vv_status vv_archive_reader_next(vv_archive_reader *r, vv_archive_frame *out, vv_error *err) VV_CHECKED;

/* Behind the last frame that was given. */
uint64_t vv_archive_reader_offset(const vv_archive_reader *r);
/* After END: so much behind that is no whole frame. */
uint64_t vv_archive_reader_torn_bytes(const vv_archive_reader *r);

#endif
