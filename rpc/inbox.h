/*
 * inbox.h - what has come from a primary and is not applied yet: between the thread that receives and the one
 * that applies.
 *
 * The records of all frames that have come since the last take() lie behind each other in one buffer, and are
 * applied as one: the longer a commit takes, the more come with the next. Two buffers change places, so
 * receiving goes on meanwhile. A full inbox holds the receiver back, and with him, through the network, the
 * primary's stream.
 */
#ifndef VV_RPC_INBOX_H
#define VV_RPC_INBOX_H

#include "base/status.h"
#include "base/sync.h"
#include "rpc/follow_frame.h"

/* Of records that wait; one frame may be larger. */
#define VV_INBOX_BYTES_MAX ((size_t)4 << 20)

typedef struct vv_inbox_buffer {
    uint8_t *data;
    size_t bytes, room;
} vv_inbox_buffer;

typedef struct vv_inbox {
    struct {
        vv_mutex lock;
        vv_cond changed; /* something came, or the inbox was closed */
        vv_cond emptied; /* there is room, or the inbox was closed */
        vv_inbox_buffer filling;
        uint64_t last_lsn;      /* of the records in it */
        uint64_t committed_lsn; /* newest */
        bool news;
        bool closed, dropped;
    } mu;
    vv_inbox_buffer taken; /* the applier's */
} vv_inbox;

typedef struct vv_inbox_news {
    vv_slice records;  /* whole ones, contiguous; may be none */
    uint64_t last_lsn; /* of them */
    uint64_t committed_lsn;
} vv_inbox_news;

void vv_inbox_init(vv_inbox *i);
void vv_inbox_deinit(vv_inbox *i);

/* Copies the frame's records. Waits while there is no room. SHUTTING_DOWN: closed. NO_MEMORY. */
vv_status vv_inbox_put(vv_inbox *i, const vv_follow_frame *frame) VV_CHECKED;

/* Waits until there is something; the records are the caller's until the next take. False: closed, and
 * nothing is left. */
bool vv_inbox_take(vv_inbox *i, vv_inbox_news *out);

/* No more comes. What is there is still given out, unless it is to be dropped. Any thread, also twice. */
void vv_inbox_close(vv_inbox *i, bool drop);

#endif
