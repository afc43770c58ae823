/*
 * wal_hold.c - segments that stay although SSTables have what is in them: for readers that are behind.
 *
 *   [held][held][held] | [needed][needed][current]         | first_needed: from here on for recovery
 *    ^ oldest: taken away as soon as no hold wants it
 *
 * A hold is a wish, never more: it has a limit, in bytes of the segments that only holds keep, and it gives
 * way to a disk that gets full. Whoever lags furthest wants the most, and loses first. A reader that has lost
 * its hold finds TRIMMED where its records were.
 *
 * Holds are looked at by the log's thread when it might take the oldest segment away, so that a move of a
 * hold that frees nothing wakes nobody. Their list, and what is in them, is under mu.lock.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "engine/wal/wal_impl.h"

/* With the lock. */
static uint64_t held_bytes(const vv_wal *w, uint64_t lsn) {
    uint64_t bytes = 0;
    for (const vv_wal_segment *s = w->mu.list.first; s && s->head.seq < w->mu.first_needed; s = s->next)
        if (s->last_lsn > lsn)
            bytes += s->head.segment_bytes;
    return bytes;
}

/* With the lock. */
static void lose(vv_wal *w, vv_wal_hold *h, const char *why, uint64_t bytes) {
    vv_log(w->logger, VV_LOG_WARN,
           "wal: %s%s at LSN %" PRIu64 " is too far behind, and loses its hold on %" PRIu64
           " bytes of log that nothing else needs: %s",
           h->name ? "slot " : "a reader", h->name ? h->name : "", h->lsn, bytes, why);
    h->max_bytes = 0;
    w->mu.hold_lost = true;
}

bool vv_wal_is_held(vv_wal *w, const vv_wal_segment *oldest) {
    bool held = false;
    for (vv_wal_hold *h = w->mu.holds; h; h = h->next) {
        if (h->max_bytes == 0 || h->lsn >= oldest->last_lsn)
            continue;
        uint64_t bytes = held_bytes(w, h->lsn);
        if (bytes <= h->max_bytes) {
            held = true;
            continue;
        }
        char why[64];
        snprintf(why, sizeof why, "it may keep %" PRIu64, h->max_bytes);
        lose(w, h, why, bytes);
    }
    return held;
}

uint64_t vv_wal_held_bytes(vv_wal *w, uint64_t lsn) {
    vv_mutex_lock(&w->mu.lock);
    uint64_t bytes = held_bytes(w, lsn);
    vv_mutex_unlock(&w->mu.lock);
    return bytes;
}

uint64_t vv_wal_give_way(vv_wal *w, uint64_t bytes) {
    uint64_t freed = 0, lsn = 0;
    vv_mutex_lock(&w->mu.lock);
    const vv_wal_segment *s = w->mu.list.first;
    if (vv_wal_failed(w) || w->mu.retire_failed)
        s = NULL; /* nothing is taken away any more */
    for (; s && s->head.seq < w->mu.first_needed && freed < bytes; s = s->next) {
        freed += s->head.segment_bytes;
        lsn = VV_MAX(lsn, s->last_lsn);
    }
    for (vv_wal_hold *h = w->mu.holds; h; h = h->next)
        if (h->max_bytes != 0 && h->lsn < lsn)
            lose(w, h, "the disk is getting full", held_bytes(w, h->lsn));
    if (w->mu.hold_lost)
        vv_cond_signal(&w->mu.work);
    vv_mutex_unlock(&w->mu.lock);
    return freed;
}

/* ---- life ---- */

/* With the lock. */
static void enter(vv_wal *w, vv_wal_hold *h) {
    h->next = w->mu.holds;
    w->mu.holds = h;
}

void vv_wal_hold_enter(vv_wal *w, vv_wal_hold *h) {
    vv_mutex_lock(&w->mu.lock);
    enter(w, h);
    vv_mutex_unlock(&w->mu.lock);
}

void vv_wal_hold_leave(vv_wal *w, vv_wal_hold *h) {
    vv_mutex_lock(&w->mu.lock);
    for (vv_wal_hold **at = &w->mu.holds; *at; at = &(*at)->next)
        if (*at == h) {
            *at = h->next;
            vv_cond_signal(&w->mu.work);
            break;
        }
    vv_mutex_unlock(&w->mu.lock);
}

/* With the lock. Is the record of this LSN, which is durable, in a segment that is not on its way out? */
static bool is_there(const vv_wal *w, uint64_t lsn) {
    uint64_t first_lsn = atomic_load_explicit(&w->mu.current->first_lsn, memory_order_relaxed);
    if (first_lsn != 0 && first_lsn <= lsn)
        return true;
    for (const vv_wal_segment *s = w->mu.list.first; s; s = s->next) {
        first_lsn = atomic_load_explicit(&s->first_lsn, memory_order_relaxed);
        if (!s->retiring && first_lsn != 0 && first_lsn <= lsn && lsn <= s->last_lsn)
            return true;
    }
    return false;
}

vv_status vv_wal_hold_create(vv_wal *w, const char *name, uint64_t lsn, uint64_t max_bytes, bool there_only,
                             vv_wal_hold **out) {
    *out = NULL;
    vv_status st = VV_STATUS_OK;
    vv_wal_hold *h = vv_alloc_zeroed(sizeof *h);
    char *copy = vv_strdup(name);
    if (!h || !copy) {
        vv_free(copy);
        vv_free(h);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    *h = (vv_wal_hold){.name = copy, .lsn = lsn, .max_bytes = VV_MAX(max_bytes, 1)};
    vv_mutex_lock(&w->mu.lock);
    if (there_only && lsn < atomic_load_explicit(&w->durable_lsn, memory_order_acquire) &&
        !is_there(w, lsn + 1))
        st = vv_status_make(VV_TRIMMED, VV_SUB_NONE, 0);
    else
        enter(w, h);
    vv_mutex_unlock(&w->mu.lock);
    if (vv_ok(st)) {
        *out = h;
        return st;
    }
    vv_free(copy);
    vv_free(h);
    return st;
}

void vv_wal_hold_destroy(vv_wal *w, vv_wal_hold *h) {
    if (!h)
        return;
    vv_wal_hold_leave(w, h);
    vv_free(h->name);
    vv_free(h);
}

void vv_wal_hold_move(vv_wal *w, vv_wal_hold *h, uint64_t lsn) {
    vv_mutex_lock(&w->mu.lock);
    h->lsn = lsn;
    const vv_wal_segment *oldest = w->mu.list.first;
    if (oldest && oldest->head.seq < w->mu.first_needed && oldest->last_lsn <= lsn)
        vv_cond_signal(&w->mu.work);
    vv_mutex_unlock(&w->mu.lock);
}

bool vv_wal_hold_is_lost(vv_wal *w, const vv_wal_hold *h) {
    vv_mutex_lock(&w->mu.lock);
    bool lost = h->max_bytes == 0;
    vv_mutex_unlock(&w->mu.lock);
    return lost;
}
