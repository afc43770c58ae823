/*
 * archive_file.c - writing and reading one file of an archive.
 *
 *   add --> [open frame][closed frames]  buffer  --write, at a block boundary--> file --sync--> durable
 *
 * What is not written yet stays in the buffer, so that a write that finds no space is repeated whole, at the
 * same place. After a failed sync nobody knows what of the file is on the disk: the writer is at its end.
 */
#include "engine/db/archive_file.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/checksum.h"

#define PATH_BYTES   4096
#define WRITE_BYTES  ((size_t)1 << 20) /* of buffer that are written without waiting for a sync */
#define WINDOW_BYTES ((size_t)1 << 20) /* read at once */

static const uint8_t file_magic[7] = {'V', 'A', 'R', 'V', 'A', 'R', 'C'};
#define FRAME_MAGIC UINT32_C(0x5641464d) /* "VAFM" */

/* Offsets in a header. magic, version and checksum stay where they are in every version. */
enum {
    HEAD_VERSION_AT = 7,
    HEAD_DB_ID_AT = 8,
    HEAD_NUMBER_AT = 24,
    HEAD_FIRST_LSN_AT = 32,
    HEAD_CREATED_AT = 40,
    HEAD_BLOCK_BYTES_AT = 48,
    HEAD_SALT_AT = 52,
    HEAD_CHECKSUM_AT = 56,
};
_Static_assert(HEAD_DB_ID_AT + VV_ARCHIVE_DB_ID_BYTES == HEAD_NUMBER_AT, "header layout");
_Static_assert(HEAD_CHECKSUM_AT + 8 == VV_ARCHIVE_HEAD_BYTES, "header layout");

/* Offsets in a frame head. */
enum {
    FRAME_RECORD_COUNT_AT = 4,
    FRAME_PAYLOAD_BYTES_AT = 8,
    FRAME_FIRST_LSN_AT = 16,
    FRAME_LAST_LSN_AT = 24,
    FRAME_EPOCH_AT = 32,
    FRAME_EPOCH_ID_AT = 40,
    FRAME_EPOCH_FIRST_LSN_AT = 48,
    FRAME_UNIX_MS_AT = 56,
    FRAME_SYNCED_BYTES_AT = 64,
    FRAME_PAYLOAD_CHECKSUM_AT = 72,
    FRAME_CHECKSUM_AT = 80,
};
_Static_assert(FRAME_CHECKSUM_AT + 8 == VV_ARCHIVE_FRAME_HEAD_BYTES, "frame head layout");
_Static_assert(VV_ARCHIVE_BLOCK_BYTES_MIN >= VV_ARCHIVE_HEAD_BYTES, "a header fits its block");

typedef struct frame_head {
    uint32_t record_count;
    uint64_t payload_bytes;
    uint64_t first_lsn;
    uint64_t last_lsn;
    vv_epoch epoch;
    uint64_t unix_ms;
    uint64_t synced_bytes; /* of the file, when this was written */
    uint64_t payload_checksum;
} frame_head;

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

/* ---- bytes ---- */

static void head_encode(uint8_t bytes[VV_ARCHIVE_HEAD_BYTES], const vv_archive_head *h) {
    memcpy(bytes, file_magic, sizeof file_magic);
    bytes[HEAD_VERSION_AT] = VV_ARCHIVE_FORMAT_VERSION;
    memcpy(bytes + HEAD_DB_ID_AT, h->db_id, VV_ARCHIVE_DB_ID_BYTES);
    vv_put_be64(bytes + HEAD_NUMBER_AT, h->number);
    vv_put_be64(bytes + HEAD_FIRST_LSN_AT, h->first_lsn);
    vv_put_be64(bytes + HEAD_CREATED_AT, h->created_unix_ms);
    vv_put_be32(bytes + HEAD_BLOCK_BYTES_AT, h->block_bytes);
    vv_put_be32(bytes + HEAD_SALT_AT, h->salt);
    vv_put_be64(bytes + HEAD_CHECKSUM_AT, vv_checksum(bytes, HEAD_CHECKSUM_AT, 0));
}

static vv_status head_decode(const uint8_t bytes[VV_ARCHIVE_HEAD_BYTES], vv_archive_head *h) {
    if (memcmp(bytes, file_magic, sizeof file_magic) != 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_MAGIC, 0);
    /* Before the checksum: a newer version may count it differently. */
    if (bytes[HEAD_VERSION_AT] > VV_ARCHIVE_FORMAT_VERSION)
        return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
    if (vv_get_be64(bytes + HEAD_CHECKSUM_AT) != vv_checksum(bytes, HEAD_CHECKSUM_AT, 0))
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    memcpy(h->db_id, bytes + HEAD_DB_ID_AT, VV_ARCHIVE_DB_ID_BYTES);
    h->number = vv_get_be64(bytes + HEAD_NUMBER_AT);
    h->first_lsn = vv_get_be64(bytes + HEAD_FIRST_LSN_AT);
    h->created_unix_ms = vv_get_be64(bytes + HEAD_CREATED_AT);
    h->block_bytes = vv_get_be32(bytes + HEAD_BLOCK_BYTES_AT);
    h->salt = vv_get_be32(bytes + HEAD_SALT_AT);
    if (bytes[HEAD_VERSION_AT] != VV_ARCHIVE_FORMAT_VERSION || h->first_lsn == 0 ||
        !vv_is_power_of_two(h->block_bytes) || h->block_bytes < VV_ARCHIVE_BLOCK_BYTES_MIN ||
        h->block_bytes > VV_ARCHIVE_BLOCK_BYTES_MAX)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    return VV_STATUS_OK;
}

/* What seeds the checksums of the file's frames: the header's. */
static uint64_t seed_of(const vv_archive_head *h) {
    uint8_t bytes[VV_ARCHIVE_HEAD_BYTES];
    head_encode(bytes, h);
    return vv_get_be64(bytes + HEAD_CHECKSUM_AT);
}

static void frame_encode(uint8_t bytes[VV_ARCHIVE_FRAME_HEAD_BYTES], const frame_head *f, uint64_t seed) {
    vv_put_be32(bytes, FRAME_MAGIC);
    vv_put_be32(bytes + FRAME_RECORD_COUNT_AT, f->record_count);
    vv_put_be64(bytes + FRAME_PAYLOAD_BYTES_AT, f->payload_bytes);
    vv_put_be64(bytes + FRAME_FIRST_LSN_AT, f->first_lsn);
    vv_put_be64(bytes + FRAME_LAST_LSN_AT, f->last_lsn);
    vv_put_be64(bytes + FRAME_EPOCH_AT, f->epoch.epoch);
    vv_put_be64(bytes + FRAME_EPOCH_ID_AT, f->epoch.id);
    vv_put_be64(bytes + FRAME_EPOCH_FIRST_LSN_AT, f->epoch.first_lsn);
    vv_put_be64(bytes + FRAME_UNIX_MS_AT, f->unix_ms);
    vv_put_be64(bytes + FRAME_SYNCED_BYTES_AT, f->synced_bytes);
    vv_put_be64(bytes + FRAME_PAYLOAD_CHECKSUM_AT, f->payload_checksum);
    vv_put_be64(bytes + FRAME_CHECKSUM_AT, vv_checksum(bytes, FRAME_CHECKSUM_AT, seed));
}

static bool frame_decode(const uint8_t bytes[VV_ARCHIVE_FRAME_HEAD_BYTES], uint64_t seed, frame_head *f) {
    if (vv_get_be32(bytes) != FRAME_MAGIC ||
        vv_get_be64(bytes + FRAME_CHECKSUM_AT) != vv_checksum(bytes, FRAME_CHECKSUM_AT, seed))
        return false;
    f->record_count = vv_get_be32(bytes + FRAME_RECORD_COUNT_AT);
    f->payload_bytes = vv_get_be64(bytes + FRAME_PAYLOAD_BYTES_AT);
    f->first_lsn = vv_get_be64(bytes + FRAME_FIRST_LSN_AT);
    f->last_lsn = vv_get_be64(bytes + FRAME_LAST_LSN_AT);
    f->epoch = (vv_epoch){.epoch = vv_get_be64(bytes + FRAME_EPOCH_AT),
                          .first_lsn = vv_get_be64(bytes + FRAME_EPOCH_FIRST_LSN_AT),
                          .id = vv_get_be64(bytes + FRAME_EPOCH_ID_AT)};
    f->unix_ms = vv_get_be64(bytes + FRAME_UNIX_MS_AT);
    f->synced_bytes = vv_get_be64(bytes + FRAME_SYNCED_BYTES_AT);
    f->payload_checksum = vv_get_be64(bytes + FRAME_PAYLOAD_CHECKSUM_AT);
    /* Sums of these must not wrap in the reader, whoever wrote them. */
    return f->record_count != 0 && f->first_lsn != 0 && f->last_lsn >= f->first_lsn &&
           f->last_lsn < UINT64_MAX && f->payload_bytes <= INT64_MAX && f->synced_bytes <= INT64_MAX;
}

/* ---- writing ---- */

struct vv_archive_writer {
    vv_file *file;
    vv_archive_head head;
    uint64_t seed;
    uint64_t offset;       /* the buffer's place in the file */
    uint64_t synced_bytes; /* of the file */
    uint64_t last_lsn;
    uint64_t synced_lsn;
    uint64_t unix_ms; /* of the newest frame */
    bool failed;      /* a sync did */

    uint8_t *buffer;
    size_t used_bytes;
    size_t capacity_bytes;

    bool open; /* a frame, at open_at in the buffer */
    size_t open_at;
    uint64_t open_since_ms; /* time of its first record */
    frame_head frame;
};

static vv_status writer_alloc(vv_archive_writer **out) {
    *out = vv_alloc_zeroed(sizeof **out);
    return *out ? VV_STATUS_OK : no_memory();
}

void vv_archive_writer_close(vv_archive_writer *w) {
    if (!w)
        return;
    vv_file_close(w->file);
    vv_free(w->buffer);
    vv_free(w);
}

static vv_status write_head(vv_archive_writer *w) {
    uint8_t *block = vv_alloc_zeroed(w->head.block_bytes);
    if (!block)
        return no_memory();
    head_encode(block, &w->head);
    vv_status st = vv_file_write(w->file, block, w->head.block_bytes, 0);
    if (vv_ok(st))
        st = vv_file_sync(w->file, VV_SYNC_FULL);
    vv_free(block);
    return st;
}

vv_status vv_archive_writer_create(vv_io_backend *io, const char *path, const vv_archive_head *head,
                                   vv_archive_writer **out, vv_error *err) {
    vv_archive_writer *w;
    *out = NULL;
    vv_status st = writer_alloc(&w);
    if (!vv_ok(st))
        return vv_fail(err, st, "%s: %s", path, vv_code_text(st.code));
    st = vv_file_open(io, path, VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_EXCLUSIVE, &w->file, err);
    if (!vv_ok(st)) {
        vv_archive_writer_close(w);
        return st;
    }
    w->head = *head;
    w->head.block_bytes = VV_MAX(VV_ARCHIVE_BLOCK_BYTES_MIN, w->file->atomic_block_bytes);
    if (getrandom(&w->head.salt, sizeof w->head.salt, 0) != (ssize_t)sizeof w->head.salt)
        st = vv_status_make(VV_INTERNAL, VV_SUB_NONE, 0);
    if (vv_ok(st))
        st = write_head(w);
    if (!vv_ok(st)) {
        vv_archive_writer_close(w);
        vv_status_ignore(vv_path_unlink(io, path, NULL), "the failure before is what counts");
        return vv_fail(err, st, "%s: %s", path, vv_code_text(st.code));
    }
    w->seed = seed_of(&w->head);
    w->offset = w->synced_bytes = w->head.block_bytes;
    w->last_lsn = w->synced_lsn = w->head.first_lsn - 1;
    *out = w;
    return st;
}

/* Room for `bytes` behind what is used; both in the end on a block boundary. */
static vv_status reserve(vv_archive_writer *w, size_t bytes) {
    size_t wanted = vv_align_up(w->used_bytes + bytes, w->head.block_bytes);
    if (wanted <= w->capacity_bytes)
        return VV_STATUS_OK;
    wanted = VV_MAX(wanted, WRITE_BYTES + 2 * VV_ARCHIVE_FRAME_BYTES);
    uint8_t *grown = vv_realloc(w->buffer, wanted);
    if (!grown)
        return no_memory();
    w->buffer = grown;
    w->capacity_bytes = wanted;
    return VV_STATUS_OK;
}

static void end_frame(vv_archive_writer *w) {
    if (!w->open)
        return;
    uint8_t *head = w->buffer + w->open_at;
    w->frame.synced_bytes = w->synced_bytes;
    w->frame.payload_checksum =
        vv_checksum(head + VV_ARCHIVE_FRAME_HEAD_BYTES, w->frame.payload_bytes, w->seed);
    frame_encode(head, &w->frame, w->seed);
    w->open = false;
}

/* The buffer to the file. Its end is made up to a block with zeros, so that the next write begins a new one.
 */
static vv_status write_out(vv_archive_writer *w) {
    if (w->failed)
        return vv_status_make(VV_IO, VV_SUB_NONE, 0);
    end_frame(w);
    if (w->used_bytes == 0)
        return VV_STATUS_OK;
    size_t bytes = vv_align_up(w->used_bytes, w->head.block_bytes);
    memset(w->buffer + w->used_bytes, 0, bytes - w->used_bytes);
    VV_TRY(vv_file_write(w->file, w->buffer, bytes, w->offset));
    w->offset += bytes;
    w->used_bytes = 0;
    if (w->capacity_bytes > 4 * WRITE_BYTES) { /* of one large record */
        vv_free(w->buffer);
        w->buffer = NULL;
        w->capacity_bytes = 0;
    }
    return VV_STATUS_OK;
}

static bool joins_open_frame(const vv_archive_writer *w, const vv_epoch *epoch, uint64_t unix_ms) {
    return w->open && w->frame.payload_bytes < VV_ARCHIVE_FRAME_BYTES &&
           w->frame.epoch.epoch == epoch->epoch && w->frame.epoch.id == epoch->id &&
           w->frame.epoch.first_lsn == epoch->first_lsn && unix_ms < w->open_since_ms + VV_ARCHIVE_FRAME_MS;
}

vv_status vv_archive_writer_add(vv_archive_writer *w, const vv_record *rec, const vv_epoch *epoch,
                                uint64_t unix_ms) {
    VV_ASSERT(rec->first_lsn == w->last_lsn + 1 && rec->op_count > 0 && rec->epoch == epoch->epoch);
    if (w->used_bytes >= WRITE_BYTES)
        VV_TRY(write_out(w));
    size_t bytes = VV_RECORD_HEAD_BYTES + rec->ops.bytes;
    VV_TRY(reserve(w, VV_ARCHIVE_FRAME_HEAD_BYTES + bytes));
    unix_ms = VV_MAX(unix_ms, w->unix_ms); /* a clock that is set back does not change the order of things */
    if (!joins_open_frame(w, epoch, unix_ms)) {
        end_frame(w);
        w->open = true;
        w->open_at = w->used_bytes;
        w->open_since_ms = unix_ms;
        w->frame = (frame_head){.first_lsn = rec->first_lsn, .epoch = *epoch};
        w->used_bytes += VV_ARCHIVE_FRAME_HEAD_BYTES;
    }
    vv_record_head_encode(w->buffer + w->used_bytes, rec);
    memcpy(w->buffer + w->used_bytes + VV_RECORD_HEAD_BYTES, rec->ops.data, rec->ops.bytes);
    w->used_bytes += bytes;
    w->frame.payload_bytes += bytes;
    w->frame.record_count++;
    w->frame.last_lsn = w->last_lsn = rec->first_lsn + rec->op_count - 1;
    w->frame.unix_ms = w->unix_ms = unix_ms;
    return VV_STATUS_OK;
}

vv_status vv_archive_writer_sync(vv_archive_writer *w) {
    VV_TRY(write_out(w));
    if (w->synced_bytes == w->offset)
        return VV_STATUS_OK;
    vv_status st = vv_file_sync(w->file, VV_SYNC_DATA);
    if (!vv_ok(st)) {
        w->failed = true; /* the kernel may hold lost pages for clean ones */
        return st;
    }
    w->synced_bytes = w->offset;
    w->synced_lsn = w->last_lsn;
    return st;
}

bool vv_archive_writer_failed(const vv_archive_writer *w) {
    return w->failed;
}

const vv_archive_head *vv_archive_writer_head(const vv_archive_writer *w) {
    return &w->head;
}

uint64_t vv_archive_writer_last_lsn(const vv_archive_writer *w) {
    return w->last_lsn;
}

uint64_t vv_archive_writer_synced_lsn(const vv_archive_writer *w) {
    return w->synced_lsn;
}

uint64_t vv_archive_writer_unix_ms(const vv_archive_writer *w) {
    return w->unix_ms;
}

uint64_t vv_archive_writer_bytes(const vv_archive_writer *w) {
    return w->offset + vv_align_up(w->used_bytes, w->head.block_bytes);
}

/* ---- reading ---- */

struct vv_archive_reader {
    vv_file *file;
    vv_archive_head head;
    uint64_t seed;
    uint64_t file_bytes;
    uint64_t offset; /* behind the last frame */
    uint64_t next_lsn;
    uint64_t torn_bytes;
    uint8_t *window; /* bytes of the file from window_at on */
    uint64_t window_at;
    size_t window_bytes;
    size_t capacity_bytes;
    char path[PATH_BYTES];
};

static vv_status fail_at(const vv_archive_reader *r, uint64_t offset, vv_status st, vv_error *err) {
    return vv_fail(err, st, "%s: at %llu: %s", r->path, (unsigned long long)offset,
                   st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

/* *out: `bytes` bytes of the file from `at` on, good until the next call; NULL: it ends before that. */
static vv_status look(vv_archive_reader *r, uint64_t at, uint64_t bytes, const uint8_t **out) {
    *out = NULL;
    if (at > r->file_bytes || bytes > r->file_bytes - at)
        return VV_STATUS_OK;
    if (at >= r->window_at && at + bytes <= r->window_at + r->window_bytes) {
        *out = r->window + (at - r->window_at);
        return VV_STATUS_OK;
    }
    size_t wanted = VV_MAX(bytes, WINDOW_BYTES);
    if (wanted > r->capacity_bytes || (r->capacity_bytes > 4 * WINDOW_BYTES && wanted == WINDOW_BYTES)) {
        vv_free(r->window);
        r->window_bytes = r->capacity_bytes = 0;
        r->window = vv_alloc(wanted);
        if (!r->window)
            return no_memory();
        r->capacity_bytes = wanted;
    }
    r->window_bytes = 0;
    VV_TRY(vv_file_read(r->file, r->window, wanted, at, &r->window_bytes));
    r->window_at = at;
    if (r->window_bytes >= bytes)
        *out = r->window;
    return VV_STATUS_OK;
}

static vv_status open_steps(vv_io_backend *io, vv_archive_reader *r, vv_error *err) {
    const uint8_t *head;
    VV_TRY(vv_file_open(io, r->path, VV_OPEN_READ, &r->file, err));
    vv_status st = vv_file_size(r->file, &r->file_bytes);
    if (vv_ok(st))
        st = look(r, 0, VV_ARCHIVE_HEAD_BYTES, &head);
    if (vv_ok(st))
        st = head ? head_decode(head, &r->head) : vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    return vv_ok(st) ? st : fail_at(r, 0, st, err);
}

vv_status vv_archive_reader_open(vv_io_backend *io, const char *path, vv_archive_reader **out,
                                 vv_error *err) {
    *out = NULL;
    vv_archive_reader *r = vv_alloc_zeroed(sizeof *r);
    if (!r)
        return vv_fail(err, no_memory(), "%s: out of memory", path);
    snprintf(r->path, sizeof r->path, "%s", path);
    vv_status st = open_steps(io, r, err);
    if (!vv_ok(st)) {
        vv_archive_reader_close(r);
        return st;
    }
    r->seed = seed_of(&r->head);
    r->offset = r->head.block_bytes;
    r->next_lsn = r->head.first_lsn;
    *out = r;
    return st;
}

void vv_archive_reader_close(vv_archive_reader *r) {
    if (!r)
        return;
    vv_file_close(r->file);
    vv_free(r->window);
    vv_free(r);
}

const vv_archive_head *vv_archive_reader_head(const vv_archive_reader *r) {
    return &r->head;
}

uint64_t vv_archive_reader_offset(const vv_archive_reader *r) {
    return r->offset;
}

uint64_t vv_archive_reader_torn_bytes(const vv_archive_reader *r) {
    return r->torn_bytes;
}

/* Is the frame at `at` whole and the next? *records_out: its records. */
static vv_status look_frame(vv_archive_reader *r, uint64_t at, frame_head *f, bool *whole_out,
                            const uint8_t **records_out) {
    const uint8_t *bytes;
    *whole_out = false;
    VV_TRY(look(r, at, VV_ARCHIVE_FRAME_HEAD_BYTES, &bytes));
    if (!bytes || !frame_decode(bytes, r->seed, f) || f->first_lsn != r->next_lsn)
        return VV_STATUS_OK;
    VV_TRY(look(r, at, VV_ARCHIVE_FRAME_HEAD_BYTES + f->payload_bytes, &bytes));
    if (!bytes)
        return VV_STATUS_OK;
    *records_out = bytes + VV_ARCHIVE_FRAME_HEAD_BYTES;
    *whole_out = vv_checksum(*records_out, f->payload_bytes, r->seed) == f->payload_checksum;
    return VV_STATUS_OK;
}

/* Nothing but zeros from `at` to `end`, or to the end of the file? */
static vv_status look_zeros(vv_archive_reader *r, uint64_t at, uint64_t end, bool *zeros_out) {
    const uint8_t *bytes;
    end = VV_MIN(end, r->file_bytes);
    VV_TRY(look(r, at, end - at, &bytes));
    *zeros_out = bytes != NULL;
    for (uint64_t i = 0; bytes && i < end - at; i++)
        *zeros_out &= bytes[i] == 0;
    return VV_STATUS_OK;
}

/* Was what stands at `at` synced once? A write that came later would say so, with the frame that begins it.
 */
static vv_status look_for_witness(vv_archive_reader *r, uint64_t at, bool *found_out) {
    const uint8_t *bytes;
    frame_head f;
    *found_out = false;
    for (uint64_t i = vv_align_up(at + 1, r->head.block_bytes); !*found_out; i += r->head.block_bytes) {
        VV_TRY(look(r, i, VV_ARCHIVE_FRAME_HEAD_BYTES, &bytes));
        if (!bytes)
            return VV_STATUS_OK;
        *found_out = frame_decode(bytes, r->seed, &f) && f.synced_bytes > at;
    }
    return VV_STATUS_OK;
}

static vv_status next(vv_archive_reader *r, uint64_t *at, vv_archive_frame *out) {
    frame_head f;
    const uint8_t *records = NULL;
    bool whole = false, zeros = false, witness;
    VV_TRY(look_frame(r, *at, &f, &whole, &records));
    uint64_t boundary = vv_align_up(*at, r->head.block_bytes);
    if (!whole && *at < boundary) {
        VV_TRY(look_zeros(r, *at, boundary, &zeros));
        if (zeros) { /* the end of a write */
            *at = boundary;
            VV_TRY(look_frame(r, *at, &f, &whole, &records));
        }
    }
    if (!whole) {
        if (*at >= r->file_bytes)
            return vv_status_make(VV_END, VV_SUB_NONE, 0);
        VV_TRY(look_for_witness(r, *at, &witness));
        if (witness)
            return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
        r->torn_bytes = r->file_bytes - *at;
        return vv_status_make(VV_END, VV_SUB_NONE, 0);
    }
    *out = (vv_archive_frame){.first_lsn = f.first_lsn,
                              .last_lsn = f.last_lsn,
                              .epoch = f.epoch,
                              .unix_ms = f.unix_ms,
                              .record_count = f.record_count,
                              .records = vv_slice_make(records, f.payload_bytes)};
    r->offset = *at + VV_ARCHIVE_FRAME_HEAD_BYTES + f.payload_bytes;
    r->next_lsn = f.last_lsn + 1;
    return VV_STATUS_OK;
}

vv_status vv_archive_reader_next(vv_archive_reader *r, vv_archive_frame *out, vv_error *err) {
    uint64_t at = r->offset;
    *out = (vv_archive_frame){0};
    vv_status st = next(r, &at, out);
    return vv_ok(st) || vv_is(st, VV_END) ? st : fail_at(r, at, st, err);
}

/* ---- going on with a file ---- */

vv_status vv_archive_writer_resume(vv_io_backend *io, const char *path, vv_archive_writer **out,
                                   uint64_t *torn_bytes_out, vv_error *err) {
    vv_archive_reader *r = NULL;
    vv_archive_writer *w = NULL;
    vv_archive_frame frame;
    *out = NULL;
    *torn_bytes_out = 0;
    VV_TRY(vv_archive_reader_open(io, path, &r, err));
    vv_status st = writer_alloc(&w);
    if (!vv_ok(st)) {
        st = vv_fail(err, st, "%s: %s", path, vv_code_text(st.code));
        goto out;
    }
    w->head = *vv_archive_reader_head(r);
    w->last_lsn = w->head.first_lsn - 1;
    while (vv_ok(st = vv_archive_reader_next(r, &frame, err))) {
        w->last_lsn = frame.last_lsn;
        w->unix_ms = frame.unix_ms;
    }
    if (!vv_is(st, VV_END))
        goto out;
    st = vv_file_open(io, path, VV_OPEN_WRITE, &w->file, err);
    if (!vv_ok(st))
        goto out;
    /* A write that was torn was never synced, and no block of it holds anything else: to cut through one is
     * no danger to what counts. What was read may be in the kernel's memory alone: it is synced now. */
    uint64_t end = r->file_bytes - r->torn_bytes;
    *torn_bytes_out = r->torn_bytes;
    if (r->torn_bytes)
        st = vv_file_truncate(w->file, end);
    if (vv_ok(st))
        st = vv_file_sync(w->file, VV_SYNC_FULL);
    if (!vv_ok(st))
        st = vv_fail(err, st, "%s: %s", path, vv_code_text(st.code));
    w->seed = seed_of(&w->head);
    w->offset = w->synced_bytes = VV_MAX(w->head.block_bytes, vv_align_up(end, w->head.block_bytes));
    w->synced_lsn = w->last_lsn;
out:
    vv_archive_reader_close(r);
    if (vv_ok(st))
        *out = w;
    else
        vv_archive_writer_close(w);
    return st;
}
