/*
 * wal_maintain.c - the log's own thread: keeps the next segment ready, takes released ones away.
 *
 * A commit must not wait for 64 MiB of zeros or for a directory, so that both happen here, ahead of time. The
 * writer role takes the ready segment under the lock; when it is faster than the thread, or needs a segment
 * of unusual size, it asks and waits.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "engine/wal/wal_impl.h"

/* With the lock. Is the oldest closed segment needed no more? */
static bool can_retire(vv_wal *w) {
    const vv_wal_segment *oldest = w->mu.list.first;
    return oldest && oldest->head.seq < w->mu.first_needed && !w->mu.retire_failed && !vv_wal_failed(w) &&
           !vv_wal_is_held(w, oldest);
}

/* With the lock, which it leaves for the I/O. Only this thread takes from the list, so that the oldest stays
 * the oldest meanwhile. */
static void retire_oldest(vv_wal *w) {
    vv_wal_segment *s = w->mu.list.first;
    vv_error err = {0};
    s->retiring = true;
    vv_mutex_unlock(&w->mu.lock);
    vv_status st = vv_wal_segment_retire(w, s->head.seq, s->head.segment_bytes, &err);
    if (!vv_ok(st))
        vv_log(w->logger, VV_LOG_WARN, "wal: can't remove a segment: %s", err.text);
    vv_mutex_lock(&w->mu.lock);
    if (!vv_ok(st)) {
        /* It stays, and so do the newer ones: numbers have no gaps (S3). The next release tries again. */
        w->mu.retire_failed = true;
        s->retiring = false;
        return;
    }
    vv_wal_list_pop(&w->mu.list);
    w->mu.prepare_failed = false; /* there may be space again */
    atomic_fetch_sub_explicit(&w->live_bytes, s->frame_bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&w->segment_count, 1, memory_order_relaxed);
    vv_wal_segment_destroy(s);
}

static vv_status prepare(vv_wal *w, uint64_t bytes, vv_wal_segment **out) {
    vv_error err = {0};
    vv_status st = vv_wal_segment_prepare(w, bytes, NULL, out, &err);
    if (!vv_ok(st))
        vv_log(w->logger, VV_LOG_WARN, "wal: %s", err.text);
    return st;
}

/* With the lock, which it leaves for the I/O. The writer waits in vv_wal_segment_next(). */
static void answer(vv_wal *w) {
    uint64_t bytes = w->mu.ask_bytes;
    vv_wal_segment *s = NULL;
    vv_status st = VV_STATUS_OK;
    if (bytes <= w->segment_bytes && w->mu.ready) {
        s = w->mu.ready;
        w->mu.ready = NULL;
    } else {
        vv_mutex_unlock(&w->mu.lock);
        st = prepare(w, VV_MAX(bytes, w->segment_bytes), &s);
        vv_mutex_lock(&w->mu.lock);
    }
    if (s && w->mu.ready) {
        w->mu.skipped = w->mu.ready; /* its number is below the new one's */
        w->mu.ready = NULL;
    }
    w->mu.asked = s;
    w->mu.ask_status = st;
    w->mu.ask_bytes = 0;
    w->mu.prepare_failed = !vv_ok(st);
    vv_cond_signal(&w->mu.answer);
}

static void maintain(void *arg) {
    vv_wal *w = arg;
    vv_mutex_lock(&w->mu.lock);
    for (;;) {
        if (w->mu.hold_lost) {
            w->mu.hold_lost = false;
            vv_mutex_unlock(&w->mu.lock);
            if (w->hold_lost)
                w->hold_lost(w->hold_lost_arg);
            vv_mutex_lock(&w->mu.lock);
        } else if (can_retire(w)) {
            retire_oldest(w); /* also before stopping: what is released does not wait for the next open */
        } else if (w->mu.stop) {
            break;
        } else if (w->mu.ask_bytes != 0) {
            answer(w);
        } else if (!w->mu.ready && !w->mu.prepare_failed && !vv_wal_failed(w)) {
            vv_mutex_unlock(&w->mu.lock);
            vv_wal_segment *s;
            vv_status st = prepare(w, w->segment_bytes, &s);
            vv_mutex_lock(&w->mu.lock);
            w->mu.ready = s;
            w->mu.prepare_failed = !vv_ok(st);
        } else {
            vv_cond_wait(&w->mu.work, &w->mu.lock);
        }
    }
    vv_mutex_unlock(&w->mu.lock);
}

vv_status vv_wal_maintain_start(vv_wal *w) {
    vv_status st = vv_thread_start(&w->thread, "varve-wal", maintain, w);
    w->thread_started = vv_ok(st);
    return st;
}

void vv_wal_maintain_stop(vv_wal *w) {
    if (!w->thread_started)
        return;
    vv_mutex_lock(&w->mu.lock);
    w->mu.stop = true;
    vv_cond_signal(&w->mu.work);
    vv_mutex_unlock(&w->mu.lock);
    vv_thread_join(w->thread);
    w->thread_started = false;
}

/* Wait for the thread to prepare a segment of `bytes`. */
static vv_status ask(vv_wal *w, uint64_t bytes, vv_wal_segment **next_out, vv_wal_segment **skipped_out) {
    w->mu.ask_bytes = bytes;
    vv_cond_signal(&w->mu.work);
    while (w->mu.ask_bytes != 0)
        vv_cond_wait(&w->mu.answer, &w->mu.lock);
    *next_out = w->mu.asked;
    *skipped_out = w->mu.skipped;
    w->mu.asked = w->mu.skipped = NULL;
    return w->mu.ask_status;
}

/* s gets no more frames. All that it has are durable: nothing is in flight, no sync is due. */
static void finish_segment(vv_wal *w, vv_wal_segment *s) {
    vv_file_close(s->file);
    s->file = NULL;
    s->last_lsn = atomic_load_explicit(&w->last_lsn, memory_order_relaxed);
}

vv_status vv_wal_segment_next(vv_wal *w, uint64_t bytes) {
    VV_ASSERT(w->opened == w->retired);
    vv_wal_segment *next = NULL;
    vv_wal_segment *skipped = NULL;
    vv_status st = VV_STATUS_OK;
    vv_mutex_lock(&w->mu.lock);
    if (bytes <= w->segment_bytes && w->mu.ready) {
        next = w->mu.ready;
        w->mu.ready = NULL;
    } else {
        st = ask(w, bytes, &next, &skipped);
    }
    vv_mutex_unlock(&w->mu.lock);
    if (!next)
        return st;

    finish_segment(w, w->current);
    if (skipped)
        finish_segment(w, skipped);
    vv_mutex_lock(&w->mu.lock);
    vv_wal_list_push(&w->mu.list, w->current);
    if (skipped)
        vv_wal_list_push(&w->mu.list, skipped);
    w->mu.current = next;
    next->place = w->current->place + w->current->frame_bytes;
    vv_cond_signal(&w->mu.work); /* nothing is ready now, and what was just closed may have been released */
    vv_mutex_unlock(&w->mu.lock);
    atomic_fetch_add_explicit(&w->segment_count, skipped ? 2 : 1, memory_order_relaxed);
    w->current = next;
    return VV_STATUS_OK;
}

static bool has_records(const vv_wal_segment *s) {
    return atomic_load_explicit(&s->first_lsn, memory_order_relaxed) != 0;
}

uint64_t vv_wal_first_needed(vv_wal *w, uint64_t lsn) {
    vv_mutex_lock(&w->mu.lock);
    const vv_wal_segment *s = w->mu.list.first, *empty = NULL;
    for (; s && s->last_lsn <= lsn; s = s->next)
        if (has_records(s))
            empty = NULL;
        else if (!empty)
            empty = s;
    uint64_t seq = s ? s->head.seq : w->mu.current->head.seq;
    /* Behind segments that are held, what is empty before the current one goes on being the first: else each
     * opening without a write would leave one more there. */
    if (!s && empty && empty != w->mu.list.first && !has_records(w->mu.current))
        seq = empty->head.seq;
    seq = VV_MAX(seq, w->mu.first_needed);
    vv_mutex_unlock(&w->mu.lock);
    return seq;
}

void vv_wal_release(vv_wal *w, uint64_t first_needed) {
    vv_mutex_lock(&w->mu.lock);
    w->mu.first_needed = VV_MAX(w->mu.first_needed, first_needed);
    w->mu.retire_failed = false;
    vv_cond_signal(&w->mu.work);
    vv_mutex_unlock(&w->mu.lock);
}
