/*
 * wal_writer.c - group commit for the write-ahead log.
 *
 * A device flush costs far more than copying a record, so records gather in a frame while the frames before
 * it are on their way, and one write and one sync carry all of them.
 *
 *   append() --> [open slot] --seal--> [in flight] --write and sync done--> durable, in LSN order
 *
 * Invariants
 *   W1  durable_lsn only covers a prefix of frames each of which was written and then synced, by one
 *       WRITE_SYNC each. Two of them in flight are unordered: the sync of a later frame says nothing about an
 *       earlier one, so that a frame counts only when all before it are done.
 *   W2  No block is ever written twice in one life of a segment: frames begin on block boundaries behind all
 *       older ones. So no write, torn or not, can hurt a frame that was acknowledged.
 *   W3  A frame goes into a segment only when every frame in older segments is durable. So any frame in a
 *       segment proves that all older segments were whole, and recovery can tell a loss from a torn tail.
 *   W4  After a failed write or sync nothing is written, synced or acknowledged any more: the kernel may have
 *       dropped the pages and marked them clean, and a sync that succeeds later would be a lie.
 *
 * Why an acknowledged byte survives: the segment's blocks, size, header and name were durable before its
 * first frame (S2 in wal_segment.c), so that the frame's own data sync is all that is missing.
 */
#include <inttypes.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "engine/wal/wal_impl.h"

#define SLOT_BYTES (UINT64_C(1) << 20)

/* Of the segment that opening makes do with on a full disk. */
#define SCANT_SEGMENT_BYTES (UINT64_C(1) << 20)

void vv_wal_latch(vv_wal *w, vv_status why, const char *what) {
    if (!atomic_exchange_explicit(&w->failed, true, memory_order_acq_rel))
        vv_log(
            w->logger, VV_LOG_ERROR,
            "wal: the log has failed: %s: %s; no more writes until the database is opened again, reads go on",
            what, why.sys ? strerrordesc_np(why.sys) : vv_code_text(why.code));
}

static vv_status latched(void) {
    return vv_status_make(VV_WAL_FAILED, VV_SUB_NONE, 0);
}

static vv_wal_slot *open_slot(const vv_wal *w) {
    return &w->slots[w->opened % w->slot_count];
}

static uint32_t in_flight(const vv_wal *w) {
    return (uint32_t)(w->opened - w->retired);
}

/* Does the open frame hold records? While every slot is in flight there is no open one. */
static bool filling(const vv_wal *w) {
    return in_flight(w) < w->slot_count && open_slot(w)->record_count != 0;
}

static bool on_ring_thread(const vv_wal *w) {
    return w->queue && pthread_equal(w->ring_thread, pthread_self());
}

/* ---- completion ---- */

static void slot_reset(vv_wal *w, vv_wal_slot *slot) {
    if (slot->buf && slot->buf != slot->base_buf) {
        vv_free(slot->buf);
        atomic_fetch_sub_explicit(&w->outsized_bytes, slot->capacity, memory_order_relaxed);
    }
    slot->buf = NULL;
    slot->state = VV_WAL_SLOT_FREE;
    slot->done = false;
    slot->payload_bytes = 0;
    slot->record_count = 0;
}

/* Count what is done as durable, in LSN order, and free its slots. */
static void retire(vv_wal *w) {
    while (w->retired < w->opened) {
        vv_wal_slot *oldest = &w->slots[w->retired % w->slot_count];
        if (!oldest->done)
            break;
        if (!vv_wal_failed(w)) { /* W1, W4 */
            atomic_fetch_add_explicit(&w->commits, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&w->records, oldest->record_count, memory_order_relaxed);
            vv_spread_record(&w->commit_records, oldest->record_count);
            /* Before it counts as durable: a cursor that learns of it finds it in memory. */
            if (atomic_load_explicit(&w->cursors, memory_order_relaxed) > 0)
                vv_wal_tail_put(w, oldest);
            atomic_store_explicit(&w->durable_lsn, oldest->last_lsn, memory_order_release);
            atomic_store_explicit(&w->durable_place, vv_wal_end_place(w->current, oldest),
                                  memory_order_release);
        }
        slot_reset(w, oldest);
        w->retired++;
    }
}

/* The frame in `slot` was written and synced, or that failed. */
static void slot_finish(vv_wal *w, vv_wal_slot *slot, vv_status st) {
    slot->done = true;
    if (!vv_ok(st))
        vv_wal_latch(w, st, "write and sync of a frame");
    else
        vv_spread_record(&w->commit_us, vv_spread_us(vv_clock_mono_ns() - slot->begun_ns));
    if (!w->awaiting)
        retire(w);
}

static void write_done(vv_io_req *req) {
    slot_finish(req->arg, VV_CONTAINER_OF(req, vv_wal_slot, req), req->status);
}

/* ---- sealing and starting ---- */

/* Give the open slot its place in the segment and its checksums; the next slot is the open one from here. */
static void seal(vv_wal *w) {
    vv_wal_slot *slot = open_slot(w);
    vv_wal_segment *s = w->current;
    uint64_t frame_bytes = vv_wal_frame_bytes(slot->payload_bytes, s->head.block_bytes);
    uint64_t used = VV_WAL_FRAME_HEAD_BYTES + slot->payload_bytes;
    memset(slot->buf + used, 0, frame_bytes - used);
    vv_wal_frame_head head = {
        .payload_bytes = slot->payload_bytes,
        .record_count = slot->record_count,
        .frame_seq = w->next_frame_seq++,
        .first_lsn = slot->first_lsn,
        .last_lsn = slot->last_lsn,
        .durable_lsn = atomic_load_explicit(&w->durable_lsn, memory_order_relaxed),
        .payload_checksum = vv_checksum(slot->buf + VV_WAL_FRAME_HEAD_BYTES, slot->payload_bytes, s->seed),
    };
    vv_wal_frame_head_encode(slot->buf, &head, s->seed);
    slot->req = (vv_io_req){.op = VV_IO_WRITE_SYNC,
                            .file = s->file,
                            .buf = slot->buf,
                            .offset = s->end,
                            .bytes = (uint32_t)frame_bytes,
                            .done = write_done,
                            .arg = w};
    slot->state = VV_WAL_SLOT_SEALED;
    if (slot->record_count > 0 && atomic_load_explicit(&s->first_lsn, memory_order_relaxed) == 0)
        atomic_store_explicit(&s->first_lsn, slot->first_lsn, memory_order_relaxed);
    s->end += frame_bytes;
    s->frame_bytes += frame_bytes;
    atomic_fetch_add_explicit(&w->live_bytes, frame_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->written_bytes, frame_bytes, memory_order_relaxed);
    w->opened++;
}

static void write_inline(vv_wal *w, vv_wal_slot *slot) {
    vv_io_req *req = &slot->req;
    slot->begun_ns = vv_clock_mono_ns();
    vv_status st = vv_wal_failed(w) ? latched() /* W4 */
                                    : vv_file_write_sync(req->file, req->buf, req->bytes, req->offset);
    slot_finish(w, slot, st);
}

/* The newest sealed frame, if it waits for vv_wal_sync() to write it. */
static vv_wal_slot *waiting_slot(const vv_wal *w) {
    if (in_flight(w) == 0)
        return NULL;
    vv_wal_slot *slot = &w->slots[(w->opened - 1) % w->slot_count];
    return slot->state == VV_WAL_SLOT_SEALED ? slot : NULL;
}

/* Get a sealed frame on its way: on the ring if this is its thread, else by a blocking write. */
static void start(vv_wal *w, vv_wal_slot *slot) {
    if (vv_wal_failed(w) || !on_ring_thread(w)) {
        write_inline(w, slot);
        return;
    }
    slot->state = VV_WAL_SLOT_FLYING;
    slot->begun_ns = vv_clock_mono_ns();
    vv_io_submit(w->queue, &slot->req);
    vv_status st = vv_io_run(w->queue, 0, NULL);
    if (!vv_ok(st))
        vv_wal_latch(w, st, "the log's ring");
}

/* Drop what was appended but not sealed: the log has failed, it can go nowhere. */
static void drop_open(vv_wal *w) {
    if (filling(w))
        slot_reset(w, open_slot(w));
}

static void seal_and_start(vv_wal *w) {
    if (vv_wal_failed(w)) {
        drop_open(w);
        return;
    }
    vv_wal_slot *waiting = waiting_slot(w);
    if (waiting)
        start(w, waiting);
    seal(w);
    start(w, waiting_slot(w));
}

/* Wait for one frame of those on the ring. False: it broke, and their buffers are the kernel's for ever. */
static bool run_ring(vv_wal *w) {
    uint32_t done;
    vv_status st = vv_io_run(w->queue, 1, &done);
    if (!vv_ok(st))
        vv_wal_latch(w, st, "the log's ring");
    return vv_ok(st) || done > 0;
}

/* Wait until at most `left` frames are on their way. */
static void wait_for_flight(vv_wal *w, uint32_t left) {
    vv_wal_slot *waiting = waiting_slot(w);
    if (waiting && in_flight(w) > left)
        write_inline(w, waiting);
    VV_ASSERT(in_flight(w) <= left || on_ring_thread(w));
    while (in_flight(w) > left && run_ring(w))
        ;
}

/* ---- append ---- */

/* A free slot, ready to be filled; NULL if the ring broke and kept them all. */
static vv_wal_slot *begin_frame(vv_wal *w) {
    wait_for_flight(w, w->slot_count - 1);
    if (in_flight(w) == w->slot_count)
        return NULL;
    vv_wal_slot *slot = open_slot(w);
    slot->buf = slot->base_buf;
    slot->capacity = w->slot_bytes;
    return slot;
}

/* Room for a frame with this payload in the current segment, or in the next. */
static vv_status make_room(vv_wal *w, uint64_t payload_bytes) {
    const vv_wal_segment *s = w->current;
    if (vv_wal_frame_bytes(payload_bytes, s->head.block_bytes) <= s->head.segment_bytes - s->end)
        return VV_STATUS_OK;
    wait_for_flight(w, 0); /* W3 */
    if (vv_wal_failed(w))
        return latched();
    uint64_t bytes = w->block_bytes + vv_wal_frame_bytes(payload_bytes, w->block_bytes);
    vv_status st = vv_wal_segment_next(w, bytes);
    return vv_wal_failed(w) ? latched() : st;
}

static bool fits_open(const vv_wal *w, const vv_wal_slot *slot, uint64_t more_bytes) {
    uint64_t payload = slot->payload_bytes + more_bytes;
    const vv_wal_segment *s = w->current;
    return VV_WAL_FRAME_HEAD_BYTES + payload <= slot->capacity &&
           vv_wal_frame_bytes(payload, s->head.block_bytes) <= s->head.segment_bytes - s->end;
}

/* Find a place for a record of `bytes` behind what was appended before. */
static vv_status reserve(vv_wal *w, uint64_t bytes, vv_wal_slot **out) {
    vv_wal_slot *slot = open_slot(w);
    if (filling(w) && fits_open(w, slot, bytes)) {
        *out = slot;
        return VV_STATUS_OK;
    }
    if (filling(w))
        seal_and_start(w);
    slot = begin_frame(w);
    if (!slot)
        return latched();
    VV_TRY(make_room(w, bytes));
    uint64_t frame_bytes = vv_wal_frame_bytes(bytes, w->current->head.block_bytes);
    if (frame_bytes > slot->capacity) {
        uint8_t *big = vv_alloc_aligned(VV_IO_ALIGN_BYTES, frame_bytes);
        if (!big)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        slot->buf = big;
        slot->capacity = frame_bytes;
        atomic_fetch_add_explicit(&w->outsized_bytes, frame_bytes, memory_order_relaxed);
    }
    *out = slot;
    return VV_STATUS_OK;
}

vv_status vv_wal_append(vv_wal *w, const vv_record *rec, const vv_slice *parts, uint32_t part_count) {
    uint64_t last_lsn = vv_wal_last_lsn(w);
    VV_ASSERT(rec->first_lsn == last_lsn + 1 && rec->op_count > 0);
    VV_ASSERT(rec->ops.bytes <= VV_RECORD_OPS_BYTES_MAX);
    if (vv_wal_failed(w))
        return latched();
    vv_wal_slot *slot;
    VV_TRY(reserve(w, VV_RECORD_HEAD_BYTES + rec->ops.bytes, &slot));
    if (vv_wal_failed(w)) {
        slot_reset(w, slot);
        return latched();
    }
    if (slot->record_count == 0)
        slot->first_lsn = rec->first_lsn;
    uint8_t *at = slot->buf + VV_WAL_FRAME_HEAD_BYTES + slot->payload_bytes;
    vv_record_head_encode(at, rec);
    at += VV_RECORD_HEAD_BYTES;
    uint64_t copied = 0;
    for (uint32_t i = 0; i < part_count; i++) {
        VV_ASSERT(parts[i].bytes <= rec->ops.bytes - copied);
        if (parts[i].bytes)
            memcpy(at + copied, parts[i].data, parts[i].bytes);
        copied += parts[i].bytes;
    }
    VV_ASSERT(copied == rec->ops.bytes);
    slot->payload_bytes += VV_RECORD_HEAD_BYTES + rec->ops.bytes;
    slot->record_count++;
    slot->last_lsn = rec->first_lsn + rec->op_count - 1;
    w->clean = false;
    atomic_store_explicit(&w->last_lsn, slot->last_lsn, memory_order_relaxed);
    return VV_STATUS_OK;
}

bool vv_wal_inline_fits(const vv_wal *w, uint64_t record_bytes) {
    const vv_wal_segment *s = w->current;
    uint64_t payload = VV_RECORD_HEAD_BYTES + record_bytes; /* whether or not the caller counted the head */
    return in_flight(w) == 0 && !filling(w) && !vv_wal_failed(w) && record_bytes <= w->slot_bytes &&
           VV_WAL_FRAME_HEAD_BYTES + payload <= w->slot_bytes &&
           vv_wal_frame_bytes(payload, s->head.block_bytes) <= s->head.segment_bytes - s->end;
}

bool vv_wal_append_fits(const vv_wal *w, uint64_t record_bytes) {
    const vv_wal_slot *slot = open_slot(w);
    uint64_t payload = record_bytes + (filling(w) ? slot->payload_bytes : 0);
    const vv_wal_segment *s = w->current;
    return in_flight(w) < w->slot_count && !vv_wal_failed(w) && record_bytes <= w->slot_bytes &&
           VV_WAL_FRAME_HEAD_BYTES + payload <= w->slot_bytes &&
           vv_wal_frame_bytes(payload, s->head.block_bytes) <= s->head.segment_bytes - s->end;
}

/* ---- commit ---- */

/* The first thread that commits without inline_only gets the ring. */
static void make_ring(vv_wal *w) {
    w->ring_tried = true;
    vv_error err = {0};
    vv_io_queue_options o = {.depth = w->slot_count};
    vv_status st = vv_io_queue_create(w->backend, &o, &w->queue, &err);
    if (!vv_ok(st))
        vv_log(w->logger, VV_LOG_WARN, "wal: no ring, so that every commit blocks: %s", err.text);
    w->ring_thread = pthread_self();
}

void vv_wal_commit(vv_wal *w, bool inline_only) {
    if (!inline_only && !w->ring_tried)
        make_ring(w);
    if (!filling(w))
        return;
    if (inline_only && in_flight(w) == 0 && !vv_wal_failed(w))
        seal(w); /* vv_wal_sync() writes it */
    else
        seal_and_start(w);
}

vv_status vv_wal_sync(vv_wal *w) {
    wait_for_flight(w, 0);
    return vv_wal_failed(w) ? latched() : VV_STATUS_OK;
}

bool vv_wal_commit_apart(vv_wal *w) {
    VV_ASSERT(!w->awaiting);
    vv_wal_commit(w, false);
    /* Then nothing fits inline for others, whose frames would have to be retired before these. */
    w->awaiting = in_flight(w) > 0 && w->queue;
    return w->awaiting;
}

/* Without the role: `done` of the frames on the ring is all that is touched. */
void vv_wal_await(vv_wal *w) {
    VV_ASSERT(on_ring_thread(w));
    while (w->queue->in_flight > 0 && run_ring(w))
        ;
}

vv_status vv_wal_collect(vv_wal *w) {
    w->awaiting = false;
    retire(w);
    return vv_wal_failed(w) ? latched() : VV_STATUS_OK;
}

/* ---- open and close ---- */

static void destroy(vv_wal *w) {
    for (uint32_t i = 0; w->slots && i < w->slot_count; i++) {
        if (w->slots[i].state == VV_WAL_SLOT_FLYING)
            continue; /* a broken ring took it along */
        slot_reset(w, &w->slots[i]);
        vv_free(w->slots[i].base_buf);
    }
    vv_free(w->slots);
    while (w->mu.holds) {
        vv_wal_hold *h = w->mu.holds;
        w->mu.holds = h->next;
        VV_ASSERT(h->name); /* all cursors are closed */
        vv_free(h->name);
        vv_free(h);
    }
    for (vv_wal_segment *s; (s = vv_wal_list_pop(&w->mu.list)) != NULL;)
        vv_wal_segment_destroy(s);
    vv_wal_segment_destroy(w->mu.ready);
    vv_wal_segment_destroy(w->current);
    vv_wal_carry_deinit(&w->carry);
    vv_wal_tail_deinit(w);
    vv_cond_deinit(&w->mu.answer);
    vv_cond_deinit(&w->mu.work);
    vv_mutex_deinit(&w->mu.lock);
    vv_free(w->zero_buffer);
    vv_free(w->dir);
    vv_free(w);
}

static vv_status make_slots(vv_wal *w) {
    /* No larger than a segment, so that a full slot always finds a place in one. */
    w->slot_bytes = VV_MIN(SLOT_BYTES, w->segment_bytes - w->block_bytes);
    w->slots = vv_alloc_zeroed(w->slot_count * sizeof *w->slots);
    if (!w->slots)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    for (uint32_t i = 0; i < w->slot_count; i++) {
        w->slots[i].base_buf = vv_alloc_aligned(VV_IO_ALIGN_BYTES, w->slot_bytes);
        if (!w->slots[i].base_buf)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    return VV_STATUS_OK;
}

/* The segment that this opening begins, with what it has to carry over. On a full disk a small one will do:
 * what there is can be read then, and deletes can make room. */
static vv_status first_segment(vv_wal *w, vv_error *err) {
    const vv_wal_carry *carry = vv_wal_carry_is_empty(&w->carry) ? NULL : &w->carry;
    vv_status st = vv_wal_segment_prepare(w, w->segment_bytes, carry, &w->current, err);
    if (vv_is(st, VV_NO_SPACE) && w->segment_bytes > SCANT_SEGMENT_BYTES) {
        st = vv_wal_segment_prepare(w, SCANT_SEGMENT_BYTES, carry, &w->current, err);
        if (vv_ok(st)) {
            vv_log(w->logger, VV_LOG_WARN,
                   "wal: the disk is full: no room for a log segment of %" PRIu64
                   " bytes, began one of %" PRIu64,
                   w->segment_bytes, w->current->head.segment_bytes);
            if (err)
                err->text[0] = '\0';
        }
    }
    vv_wal_carry_deinit(&w->carry);
    return st;
}

static vv_status open_log(vv_wal *w, vv_wal_replay_fn replay, void *arg, vv_error *err) {
    VV_TRY(vv_wal_recover(w, replay, arg, err));
    VV_TRY(first_segment(w, err));
    w->mu.current = w->current;
    w->current->place = atomic_load_explicit(&w->durable_place, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->durable_place, w->current->frame_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->live_bytes, w->current->frame_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->segment_count, 1, memory_order_relaxed);
    vv_status st = make_slots(w);
    if (vv_ok(st))
        st = vv_wal_maintain_start(w);
    return vv_ok(st) ? st : vv_fail(err, st, "%s: can't start the log", w->dir);
}

/* With nothing read and nothing started. */
static vv_status create(const vv_wal_options *o, vv_wal **out, vv_error *err) {
    *out = NULL;
    VV_ASSERT(o->slot_count >= 2 && o->slot_count <= 64);
    vv_status no_memory = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (strlen(o->dir) + VV_WAL_NAME_BYTES > VV_WAL_PATH_BYTES)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "path is too long");
    vv_wal *w = vv_alloc_zeroed(sizeof *w);
    if (!w)
        return vv_fail(err, no_memory, "%s: out of memory", o->dir);
    vv_mutex_init(&w->mu.lock);
    vv_cond_init(&w->mu.work);
    vv_cond_init(&w->mu.answer);
    vv_wal_tail_init(w);
    w->backend = o->backend;
    w->logger = o->logger;
    w->segment_bytes = vv_align_up(VV_MAX(o->segment_bytes, 4 * VV_IO_ALIGN_BYTES), VV_IO_ALIGN_BYTES);
    w->slot_count = o->slot_count;
    w->replay_after_lsn = o->replay_after_lsn;
    w->first_segment = o->first_segment;
    w->look_only = o->look_only;
    w->hold_lost = o->hold_lost;
    w->hold_lost_arg = o->hold_lost_arg;
    w->clean = true;
    w->dir = vv_strdup(o->dir);
    w->zero_buffer = vv_alloc_aligned(VV_IO_ALIGN_BYTES, VV_WAL_ZERO_BYTES);
    if (!w->dir || !w->zero_buffer) {
        destroy(w);
        return vv_fail(err, no_memory, "%s: out of memory", o->dir);
    }
    memset(w->zero_buffer, 0, VV_WAL_ZERO_BYTES);
    *out = w;
    return VV_STATUS_OK;
}

vv_status vv_wal_open(const vv_wal_options *o, vv_wal_replay_fn replay, void *arg, vv_wal **out,
                      vv_error *err) {
    vv_wal *w;
    *out = NULL; /* until it is open: whoever replays into tables asks whether there is a log yet */
    VV_TRY(create(o, &w, err));
    vv_status st = open_log(w, replay, arg, err);
    if (vv_ok(st))
        *out = w;
    else
        destroy(w);
    return st;
}

vv_status vv_wal_replay(const vv_wal_options *o, vv_wal_replay_fn replay, void *arg, uint64_t *last_lsn_out,
                        vv_error *err) {
    vv_wal *w;
    *last_lsn_out = 0;
    VV_TRY(create(o, &w, err));
    vv_status st = vv_wal_recover(w, replay, arg, err);
    if (vv_ok(st))
        *last_lsn_out = vv_wal_last_lsn(w);
    destroy(w);
    return st;
}

/* A frame without records, whose durable_lsn proves that all before it is durable: from here on, damage to
 * the last record is seen as damage and not taken for a torn tail. Best effort: nothing depends on it. */
static void write_close_frame(vv_wal *w) {
    if (w->clean || !vv_ok(make_room(w, 0)))
        return;
    vv_wal_slot *slot = begin_frame(w);
    if (!slot)
        return;
    slot->last_lsn = vv_wal_last_lsn(w);
    slot->first_lsn = slot->last_lsn + 1;
    seal(w);
    write_inline(w, slot);
}

vv_status vv_wal_close(vv_wal *w) {
    if (!w)
        return VV_STATUS_OK;
    vv_wal_commit(w, true);
    vv_status st = vv_wal_sync(w);
    if (vv_ok(st))
        write_close_frame(w);
    vv_wal_maintain_stop(w);
    if (w->queue && w->queue->in_flight == 0)
        vv_io_queue_destroy(w->queue);
    destroy(w);
    return st;
}

uint64_t vv_wal_last_lsn(const vv_wal *w) {
    return atomic_load_explicit(&w->last_lsn, memory_order_relaxed);
}

void vv_wal_spreads_get(vv_wal *w, vv_spread_copy *us, vv_spread_copy *records) {
    if (us)
        vv_spread_collect(&w->commit_us, us);
    if (records)
        vv_spread_collect(&w->commit_records, records);
}

void vv_wal_stats_get(vv_wal *w, vv_wal_stats *out) {
    *out = (vv_wal_stats){
        .durable_lsn = atomic_load_explicit(&w->durable_lsn, memory_order_acquire),
        .segment_count = atomic_load_explicit(&w->segment_count, memory_order_relaxed),
        .live_bytes = atomic_load_explicit(&w->live_bytes, memory_order_relaxed),
        .written_bytes = atomic_load_explicit(&w->written_bytes, memory_order_relaxed),
        .commits = atomic_load_explicit(&w->commits, memory_order_relaxed),
        .records = atomic_load_explicit(&w->records, memory_order_relaxed),
        .memory_bytes = w->slot_count * w->slot_bytes + VV_WAL_ZERO_BYTES +
                        atomic_load_explicit(&w->outsized_bytes, memory_order_relaxed) +
                        atomic_load_explicit(&w->cursor_bytes, memory_order_relaxed),
        .failed = vv_wal_failed(w),
    };
}
