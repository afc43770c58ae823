#include "rpc/inbox.h"

#include <string.h>

#include "base/alloc.h"
#include "base/compiler.h"

#define ROOM_MIN ((size_t)64 << 10)

void vv_inbox_init(vv_inbox *i) {
    memset(i, 0, sizeof *i);
    vv_mutex_init(&i->mu.lock);
    vv_cond_init(&i->mu.changed);
    vv_cond_init(&i->mu.emptied);
}

void vv_inbox_deinit(vv_inbox *i) {
    vv_free(i->mu.filling.data);
    vv_free(i->taken.data);
    vv_cond_deinit(&i->mu.emptied);
    vv_cond_deinit(&i->mu.changed);
    vv_mutex_deinit(&i->mu.lock);
}

static bool reserve(vv_inbox_buffer *b, size_t more_bytes) {
    size_t need = b->bytes + more_bytes;
    if (need <= b->room)
        return true;
    size_t room = VV_MAX(VV_MAX(need, VV_MIN(2 * b->room, VV_INBOX_BYTES_MAX)), ROOM_MIN);
    uint8_t *data = vv_realloc(b->data, room);
    if (!data)
        return false;
    b->data = data;
    b->room = room;
    return true;
}

vv_status vv_inbox_put(vv_inbox *i, const vv_follow_frame *frame) {
    vv_status st = VV_STATUS_OK;
    vv_mutex_lock(&i->mu.lock);
    vv_inbox_buffer *b = &i->mu.filling;
    while (!i->mu.closed && b->bytes > 0 && b->bytes + frame->records.bytes > VV_INBOX_BYTES_MAX)
        vv_cond_wait(&i->mu.emptied, &i->mu.lock);
    if (i->mu.closed) {
        st = vv_status_make(VV_SHUTTING_DOWN, VV_SUB_NONE, 0);
    } else if (!reserve(b, frame->records.bytes)) {
        st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    } else {
        if (frame->records.bytes > 0) {
            memcpy(b->data + b->bytes, frame->records.data, frame->records.bytes);
            b->bytes += frame->records.bytes;
            i->mu.last_lsn = frame->last_lsn;
        }
        i->mu.committed_lsn = frame->committed_lsn;
        i->mu.news = true;
        vv_cond_signal(&i->mu.changed);
    }
    vv_mutex_unlock(&i->mu.lock);
    return st;
}

bool vv_inbox_take(vv_inbox *i, vv_inbox_news *out) {
    i->taken.bytes = 0;
    if (i->taken.room > 2 * VV_INBOX_BYTES_MAX) { /* a frame of unusual size has been here */
        vv_free(i->taken.data);
        i->taken = (vv_inbox_buffer){0};
    }
    vv_mutex_lock(&i->mu.lock);
    while (!i->mu.news && !i->mu.closed)
        vv_cond_wait(&i->mu.changed, &i->mu.lock);
    bool some = i->mu.news && !i->mu.dropped;
    if (some) {
        vv_inbox_buffer full = i->mu.filling;
        i->mu.filling = i->taken;
        i->taken = full;
        *out = (vv_inbox_news){.records = vv_slice_make(full.data, full.bytes),
                               .last_lsn = i->mu.last_lsn,
                               .committed_lsn = i->mu.committed_lsn};
        i->mu.news = false;
        vv_cond_signal(&i->mu.emptied);
    }
    vv_mutex_unlock(&i->mu.lock);
    return some;
}

void vv_inbox_close(vv_inbox *i, bool drop) {
    vv_mutex_lock(&i->mu.lock);
    i->mu.closed = true;
    i->mu.dropped |= drop;
    vv_cond_broadcast(&i->mu.changed);
    vv_cond_broadcast(&i->mu.emptied);
    vv_mutex_unlock(&i->mu.lock);
}
