/*
 * wal_impl.h - what the files of this folder share.
 *
 *   wal_recover.c    open: read what is there             (before the thread starts)
 *   wal_writer.c     append, commit, sync, close          (writer role)
 *   wal_maintain.c   the log's own thread                 (prepares, recycles)
 *   wal_hold.c       who keeps segments from being recycled
 *   wal_cursor.c     reading back                         (a thread a cursor)
 *   wal_tail.c       the newest frames in memory          (writer role puts, cursors take)
 *   wal_segment.c    the steps on files that they share   (no locks, no threads)
 *
 * Locking: `mu.lock` guards what is in `mu` and is never held during I/O. What is atomic is published by the
 * writer role for the getters. All else belongs to the writer role, or does not change after open.
 */
#ifndef VV_ENGINE_WAL_IMPL_H
#define VV_ENGINE_WAL_IMPL_H

#include <stdatomic.h>

#include "base/sync.h"
#include "engine/wal/wal.h"
#include "engine/wal/wal_format.h"
#include "engine/wal/wal_window.h"

#define VV_WAL_PATH_BYTES 4096
#define VV_WAL_NAME_BYTES 32

typedef struct vv_wal_segment {
    struct vv_wal_segment *next;
    vv_wal_segment_head head;
    uint64_t seed;
    vv_file *file; /* open while frames may be written to it, else NULL */
    uint64_t end;  /* offset behind the last frame */
    /* Of the first record, 0: there is none. Stored before that record is durable: who acquires a durable_lsn
     * that covers it finds it here. */
    _Atomic uint64_t first_lsn;
    uint64_t last_lsn;    /* nothing in it is newer; set when it is closed */
    uint64_t frame_bytes; /* for the stats */
    uint64_t place;       /* of its first frame, see vv_wal.durable_place */
    bool retiring;        /* its name is about to go; under mu.lock */
} vv_wal_segment;

/* Closed segments, oldest first. */
typedef struct vv_wal_segment_list {
    vv_wal_segment *first;
    vv_wal_segment *last;
} vv_wal_segment_list;

typedef enum vv_wal_slot_state { VV_WAL_SLOT_FREE, VV_WAL_SLOT_SEALED, VV_WAL_SLOT_FLYING } vv_wal_slot_state;

/* A frame in a file. */
typedef struct vv_wal_place {
    uint64_t offset;
    vv_wal_frame_head head;
} vv_wal_place;

/* Frames of the segment that was replayed last which no frame calls durable: frames[first] to frames[end -
 * 1]. Recovery finds them, and the first segment of this opening gets them (wal_carry.c). */
typedef struct vv_wal_carry {
    vv_wal_segment_head from;
    uint64_t seed; /* of `from` */
    uint64_t proven_lsn;
    vv_wal_place *frames;
    size_t first, end, capacity;
} vv_wal_carry;

/* A frame on its way, with its buffer. */
typedef struct vv_wal_slot {
    vv_io_req req;
    vv_wal_slot_state state;
    bool done;         /* durable, but maybe a frame before it is not */
    uint8_t *buf;      /* base_buf, or a buffer of this frame's own if it is larger */
    uint8_t *base_buf; /* slot_bytes */
    uint64_t capacity;
    uint64_t payload_bytes;
    uint32_t record_count;
    uint64_t first_lsn;
    uint64_t last_lsn;
    uint64_t begun_ns; /* when it was given to the disk */
} vv_wal_slot;

/* A frame's records, kept for cursors. */
typedef struct vv_wal_tail_frame {
    _Atomic uint32_t refs;
    uint64_t first_lsn;
    uint64_t last_lsn;
    uint64_t segment_seq; /* where it lies on disk */
    uint64_t offset;
    uint64_t end_place; /* where it ends, see vv_wal.durable_place */
    uint64_t bytes;     /* of the payload */
    uint8_t payload[];
} vv_wal_tail_frame;

/* Somebody's wish that segments stay. Under mu.lock. */
struct vv_wal_hold {
    vv_wal_hold *next;
    char *name;         /* NULL: a cursor's */
    uint64_t lsn;       /* up to here nothing is needed */
    uint64_t max_bytes; /* 0: lost, or never had */
};

/* Frames of late, at most. They come to VV_WAL_TAIL_BYTES, those beside that cursors still read not counted.
 */
#define VV_WAL_TAIL_FRAMES 4096
#define VV_WAL_TAIL_BYTES  (UINT64_C(4) << 20)

struct vv_wal {
    vv_io_backend *backend;
    const vv_logger *logger;
    char *dir;
    uint64_t segment_bytes;
    uint64_t replay_after_lsn;
    uint64_t first_segment;
    bool look_only;
    uint32_t block_bytes; /* of the segments that are prepared since open */
    void (*hold_lost)(void *arg);
    void *hold_lost_arg;
    uint8_t log_id[VV_WAL_LOG_ID_BYTES];

    /* Writer role. Frames number `retired` to `opened` - 1 are sealed or in flight, `opened` is being filled;
     * frame n is in slots[n % slot_count]. */
    vv_wal_segment *current;
    vv_wal_slot *slots;
    uint32_t slot_count;
    uint64_t slot_bytes;
    uint64_t opened;
    uint64_t retired;
    uint64_t next_frame_seq;
    bool clean; /* the newest frame is a close frame, or there is nothing to protect */
    vv_io_queue *queue;
    bool ring_tried;
    pthread_t ring_thread;
    bool awaiting; /* from vv_wal_commit_apart() to vv_wal_collect(): what is done is not to be retired yet */

    /* Written by the writer role (the segment counts by the thread too), read by anyone. durable_lsn is
     * stored with release order: who acquires it sees what was done before the record was durable. */
    _Atomic uint64_t last_lsn;
    _Atomic uint64_t durable_lsn;
    _Atomic uint64_t segment_count;
    _Atomic uint64_t live_bytes;
    _Atomic uint64_t written_bytes;
    _Atomic uint64_t commits;
    _Atomic uint64_t records;
    vv_spread commit_us, commit_records; /* of each frame: write and sync, and what was in it */
    /* Bytes of frames from the oldest segment that was there at open to the end of what is durable: how far
     * it is from one place in the log to another. Of segments that were not replayed their size stands for
     * the frames. Stored after durable_lsn, with release: who acquires it finds at least its records durable.
     */
    _Atomic uint64_t durable_place;
    _Atomic uint64_t outsized_bytes; /* buffers of frames that are larger than a slot */
    _Atomic uint64_t cursor_bytes;   /* frames in memory for cursors, and their buffers */
    _Atomic uint32_t cursors;        /* how many are open: without any, no frame is kept for them */
    _Atomic bool failed;

    /* The thread's, or open's before it starts. */
    uint64_t next_segment_seq;
    vv_wal_carry carry;   /* between recovery and the first segment */
    uint64_t raw_seq;     /* number in the name of the raw file that waits for its next life, 0: none */
    uint8_t *zero_buffer; /* VV_WAL_ZERO_BYTES zeros; the first block also serves for headers */

    struct {
        vv_mutex lock;
        vv_cond work;             /* for the thread */
        vv_cond answer;           /* for the writer role */
        vv_wal_segment_list list; /* closed segments */
        vv_wal_segment *current;  /* the writer's; its head and first_lsn may be looked at */
        vv_wal_hold *holds;
        bool hold_lost;        /* nobody was told yet */
        vv_wal_segment *ready; /* the next segment: header, name and all durable */
        uint64_t first_needed; /* segments before this one were released; 0: none */
        uint64_t ask_bytes;    /* the writer waits for a segment of this size; 0: it does not */
        vv_wal_segment *asked;
        vv_wal_segment *skipped; /* the ready segment that was passed over for a larger one */
        vv_status ask_status;
        bool prepare_failed; /* not tried again before someone asks or a segment goes */
        bool retire_failed;  /* not tried again before the next release */
        bool stop;
    } mu;
    pthread_t thread;
    bool thread_started;

    /* The newest frames, durable: n is in frames[n % VV_WAL_TAIL_FRAMES]. */
    struct {
        vv_mutex lock;
        vv_wal_tail_frame **frames; /* NULL: nobody has asked yet */
        uint64_t first;
        uint64_t end;
        uint64_t bytes;
    } tail;
};

#define VV_WAL_ZERO_BYTES (UINT32_C(1) << 20)

/* ---- wal_segment.c ---- */

/* "wal-<seq, 16 hex digits>.log" or, for a raw file, ".tmp"; with the directory before it. */
void vv_wal_path(const vv_wal *w, uint64_t seq, const char *suffix, char path[VV_WAL_PATH_BYTES]);

/*
 * Make w->next_segment_seq a segment of `bytes`, from the raw file if there is one that fits, and open it.
 * When this returns OK, header, size, name and every block of the file are durable. Uses w->raw_seq,
 * w->next_segment_seq, w->zero_buffer and, for the first segment, sets w->block_bytes.
 *
 * carry: frames that it begins with, durable with it; NULL: none. It is made large enough for them.
 *
 * NO_SPACE, NO_MEMORY, IO and others: there is no such segment. If a directory could not be synced, the log
 * is latched.
 */
vv_status vv_wal_segment_prepare(vv_wal *w, uint64_t bytes, const vv_wal_carry *carry, vv_wal_segment **out,
                                 vv_error *err) VV_CHECKED;

/* Take the file of a segment that is needed no more out of the log, as the raw file or for good, durably. */
vv_status vv_wal_segment_retire(vv_wal *w, uint64_t seq, uint64_t bytes, vv_error *err) VV_CHECKED;

/* Closes the file. NULL is fine. */
void vv_wal_segment_destroy(vv_wal_segment *s);

void vv_wal_list_push(vv_wal_segment_list *list, vv_wal_segment *s);
vv_wal_segment *vv_wal_list_pop(vv_wal_segment_list *list);

/* ---- wal_recover.c ---- */

/*
 * Replay, and fill in what the log goes on from: log id, closed segments, counters, raw file, and what the
 * next segment has to begin with (w->carry). Changes nothing on disk unless it succeeds.
 */
vv_status vv_wal_recover(vv_wal *w, vv_wal_replay_fn replay, void *arg, vv_error *err) VV_CHECKED;

/* ---- wal_carry.c ---- */

/* The segment `from` is replayed: all before it is proven, by its being there (W3). */
void vv_wal_carry_begin(vv_wal_carry *c, const vv_wal_segment *from);

/* Its next frame with records. NO_MEMORY. */
vv_status vv_wal_carry_add(vv_wal_carry *c, uint64_t offset, const vv_wal_frame_head *head) VV_CHECKED;

/* A frame calls everything up to `lsn` durable: what is behind it stays. */
void vv_wal_carry_prove(vv_wal_carry *c, uint64_t lsn);

static inline bool vv_wal_carry_is_empty(const vv_wal_carry *c) {
    return c->first == c->end;
}

/* Empty again, without its memory. */
void vv_wal_carry_deinit(vv_wal_carry *c);

/* What the frames, and the proof behind them, take in a segment with such blocks. */
uint64_t vv_wal_carry_bytes(const vv_wal_carry *c, uint32_t block_bytes);

/*
 * Write them, and the proof, to the front of `to`, a segment that has no name yet and room for them; its sync
 * is the caller's. Sets to->end, frame_bytes and first_lsn. CORRUPTION: they are not what was replayed.
 */
vv_status vv_wal_carry_write(vv_wal *w, const vv_wal_carry *c, vv_wal_segment *to) VV_CHECKED;

/* ---- wal_maintain.c ---- */

vv_status vv_wal_maintain_start(vv_wal *w) VV_CHECKED;
void vv_wal_maintain_stop(vv_wal *w);

/* Take the next segment, of at least `bytes`, and retire w->current to the closed ones. Nothing may be in
 * flight. Waits for the thread if none is ready. On failure w->current stays. */
vv_status vv_wal_segment_next(vv_wal *w, uint64_t bytes) VV_CHECKED;

/* ---- wal_hold.c ---- */

/* With mu.lock. Does anybody hold this segment, the oldest? Who holds too much loses it here. */
bool vv_wal_is_held(vv_wal *w, const vv_wal_segment *oldest);

/* A hold in its owner's storage, begun and ended. Take mu.lock. */
void vv_wal_hold_enter(vv_wal *w, vv_wal_hold *h);
void vv_wal_hold_leave(vv_wal *w, vv_wal_hold *h);

/* ---- wal_tail.c ---- */

void vv_wal_tail_init(vv_wal *w);
void vv_wal_tail_deinit(vv_wal *w);

/* A cursor opens. NO_MEMORY. */
vv_status vv_wal_tail_enter(vv_wal *w) VV_CHECKED;
/* And closes: the last one empties the tail. */
void vv_wal_tail_leave(vv_wal *w);

/* The frame in `slot`, at `offset` of the current segment, is written and synced, and follows the one before.
 * Writer role, before the frame counts as durable. Best effort: what isn't here is read from the file. */
void vv_wal_tail_put(vv_wal *w, const vv_wal_slot *slot);

/* The frame that holds this LSN, with a reference for the caller; NULL if it is not here. */
vv_wal_tail_frame *vv_wal_tail_find(vv_wal *w, uint64_t lsn);
/* NULL is fine. */
void vv_wal_tail_unref(vv_wal *w, vv_wal_tail_frame *f);

/* ---- wal_writer.c ---- */

/* For good: no write, no sync from here on. Any thread. */
void vv_wal_latch(vv_wal *w, vv_status why, const char *what);

/* Where a frame on its way ends: W3, it is in the current segment. */
static inline uint64_t vv_wal_end_place(const vv_wal_segment *current, const vv_wal_slot *slot) {
    return current->place + slot->req.offset - current->head.block_bytes + slot->req.bytes;
}

static inline bool vv_wal_failed(const vv_wal *w) {
    return atomic_load_explicit(&w->failed, memory_order_acquire);
}

#endif
