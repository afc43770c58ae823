/*
 * wal_tail.c - the newest frames of the log, in memory, for cursors.
 *
 *   [ oldest | ... | newest ]  <-- vv_wal_tail_put(), when a frame's sync is done
 *      '--> dropped when there is too much, or nobody is left to read
 *
 * Whoever follows the log wants what was just committed, and many may follow: they share one copy, of records
 * that were in memory anyway, and nobody reads the disk. A frame has a count of references, so that the lock
 * is held for a search or a pointer move, never for a copy.
 *
 * Invariants
 *   T1  Frames are put in LSN order by the writer role, each after its sync has succeeded and before
 *       durable_lsn covers it. What was not synced never gets here.
 *   T2  Frames may be missing between two of it: one was too large, there was no memory for it, or nobody was
 *       reading. They are read from their file.
 */
#include "base/alloc.h"
#include "engine/wal/wal_impl.h"

static vv_wal_tail_frame **at(vv_wal *w, uint64_t n) {
    return &w->tail.frames[n % VV_WAL_TAIL_FRAMES];
}

static uint64_t frame_memory(const vv_wal_tail_frame *f) {
    return sizeof *f + f->bytes;
}

void vv_wal_tail_unref(vv_wal *w, vv_wal_tail_frame *f) {
    /* Release and acquire: what the others did with it is done before it is freed. */
    if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    atomic_fetch_sub_explicit(&w->cursor_bytes, frame_memory(f), memory_order_relaxed);
    vv_free(f);
}

/* With the lock. */
static void drop_oldest(vv_wal *w) {
    vv_wal_tail_frame *f = *at(w, w->tail.first++);
    w->tail.bytes -= f->bytes;
    vv_wal_tail_unref(w, f);
}

/* With the lock. */
static void drop_all(vv_wal *w) {
    while (w->tail.first < w->tail.end)
        drop_oldest(w);
}

void vv_wal_tail_init(vv_wal *w) {
    vv_mutex_init(&w->tail.lock);
}

void vv_wal_tail_deinit(vv_wal *w) {
    drop_all(w);
    vv_free(w->tail.frames);
    vv_mutex_deinit(&w->tail.lock);
}

vv_status vv_wal_tail_enter(vv_wal *w) {
    vv_status st = VV_STATUS_OK;
    vv_mutex_lock(&w->tail.lock);
    if (!w->tail.frames) {
        uint64_t bytes = VV_WAL_TAIL_FRAMES * sizeof *w->tail.frames;
        w->tail.frames = vv_alloc(bytes);
        if (w->tail.frames)
            atomic_fetch_add_explicit(&w->cursor_bytes, bytes, memory_order_relaxed);
        else
            st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    if (vv_ok(st))
        atomic_fetch_add_explicit(&w->cursors, 1, memory_order_relaxed);
    vv_mutex_unlock(&w->tail.lock);
    return st;
}

void vv_wal_tail_leave(vv_wal *w) {
    vv_mutex_lock(&w->tail.lock);
    if (atomic_fetch_sub_explicit(&w->cursors, 1, memory_order_relaxed) == 1)
        drop_all(w);
    vv_mutex_unlock(&w->tail.lock);
}

static vv_wal_tail_frame *frame_create(vv_wal *w, const vv_wal_slot *slot) {
    vv_wal_tail_frame *f = vv_alloc(sizeof *f + slot->payload_bytes);
    if (!f)
        return NULL;
    atomic_init(&f->refs, 1);
    f->first_lsn = slot->first_lsn;
    f->last_lsn = slot->last_lsn;
    f->segment_seq = w->current->head.seq; /* W3: whatever is in flight is in the current segment */
    f->offset = slot->req.offset;
    f->end_place = vv_wal_end_place(w->current, slot);
    f->bytes = slot->payload_bytes;
    memcpy(f->payload, slot->buf + VV_WAL_FRAME_HEAD_BYTES, slot->payload_bytes);
    atomic_fetch_add_explicit(&w->cursor_bytes, frame_memory(f), memory_order_relaxed);
    return f;
}

void vv_wal_tail_put(vv_wal *w, const vv_wal_slot *slot) {
    if (slot->record_count == 0 || slot->payload_bytes > VV_WAL_TAIL_BYTES)
        return;
    vv_wal_tail_frame *f = frame_create(w, slot);
    vv_mutex_lock(&w->tail.lock);
    /* The last cursor may have gone meanwhile, and emptied it. */
    if (f && atomic_load_explicit(&w->cursors, memory_order_relaxed) > 0) {
        while (w->tail.end - w->tail.first == VV_WAL_TAIL_FRAMES ||
               (w->tail.first < w->tail.end && w->tail.bytes + f->bytes > VV_WAL_TAIL_BYTES))
            drop_oldest(w);
        *at(w, w->tail.end++) = f;
        w->tail.bytes += f->bytes;
        f = NULL;
    }
    vv_mutex_unlock(&w->tail.lock);
    vv_wal_tail_unref(w, f);
}

vv_wal_tail_frame *vv_wal_tail_find(vv_wal *w, uint64_t lsn) {
    vv_wal_tail_frame *found = NULL;
    vv_mutex_lock(&w->tail.lock);
    uint64_t low = w->tail.first, high = w->tail.end;
    while (low < high) { /* the first frame that does not end before lsn */
        uint64_t middle = low + (high - low) / 2;
        if ((*at(w, middle))->last_lsn < lsn)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < w->tail.end && (*at(w, low))->first_lsn <= lsn) {
        found = *at(w, low);
        atomic_fetch_add_explicit(&found->refs, 1, memory_order_relaxed);
    }
    vv_mutex_unlock(&w->tail.lock);
    return found;
}
