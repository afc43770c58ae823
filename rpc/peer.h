/*
 * peer.h - calls to another varved: a small blocking client on the gRPC C core.
 *
 * For threads of their own (a follower's, a fetch's), never for a completion queue's. A peer may be used by
 * many threads at once; each stream by one. Whatever is under way ends early when somebody interrupts the
 * peer.
 *
 * Calls are not repeated, and fail at once with UNAVAILABLE when there is no connection: whoever calls tries
 * again, after a pause of 100 ms or so; a peer that is there again is found within half a second. The
 * connection to one that is silent for 5 s is given up.
 *
 * Timeouts are nanoseconds; UINT64_MAX: none.
 */
#ifndef VV_RPC_PEER_H
#define VV_RPC_PEER_H

#include "base/slice.h"
#include "base/status.h"
#include "rpc/transport.h"

typedef struct vv_peer vv_peer;
typedef struct vv_peer_stream vv_peer_stream;

/* Texts are copied; "" or NULL: none. */
typedef struct vv_peer_options {
    const char *address;    /* HOST:PORT or unix:PATH */
    const char *token;      /* for the bearer of it; or */
    const char *token_file; /* read again for each call: the file's first word */
    const char *tls_ca; /* files, PEM, read once; with it, or with a certificate, the peer has to speak TLS */
    const char *tls_cert;
    const char *tls_key;
    uint64_t message_bytes_max; /* received; 0: no limit */
    bool patient;               /* one that is silent is waited for: for calls that may be long, to servers
                                   that may bear no probes */
} vv_peer_options;

/* How a call failed: the words of the peer, or why it can't be reached (UNAVAILABLE), or why the token file
 * can't be read (UNAUTHENTICATED, TOKEN_UNREADABLE). Longer texts are cut. */
typedef struct vv_peer_error {
    vv_rpc_code code;
    char reason[64]; /* of the ErrorInfo; "" if there is none */
    char message[512];
    size_t detail_count; /* ErrorInfo.metadata */
    struct {
        char key[32];
        char value[288];
    } details[4];
} vv_peer_error;

/* NULL: none of this key. */
const char *vv_peer_detail(const vv_peer_error *err, const char *key);

/* Does not connect yet. INVALID_ARGUMENT, IO and others: a file can't be used. */
vv_status vv_peer_create(const vv_peer_options *options, vv_peer **out, vv_error *err) VV_CHECKED;
/* No call or stream is left. NULL is fine. */
void vv_peer_destroy(vv_peer *p);

/* Ends what is under way, and what comes later, with CANCELLED. Any thread. Streams are still to be closed.
 */
void vv_peer_interrupt(vv_peer *p);
bool vv_peer_interrupted(vv_peer *p);

/* A unary call: path as "/varve.v1.Replication/Hello". True: *reply_out is the caller's to vv_free(). */
bool vv_peer_call(vv_peer *p, const char *path, vv_slice request, uint64_t timeout_ns, uint8_t **reply_out,
                  size_t *reply_bytes_out, vv_peer_error *err) VV_CHECKED;

/* A call that is answered by many messages. Does not wait for the peer. NULL: no memory, or interrupted, or
 * no token. */
vv_peer_stream *vv_peer_stream_open(vv_peer *p, const char *path, vv_slice request, vv_peer_error *err);

typedef enum vv_peer_next { VV_PEER_MESSAGE, VV_PEER_END, VV_PEER_FAILED } vv_peer_next;

/* Wait for the next message, at most so long (then FAILED with DEADLINE_EXCEEDED).
 * *message_out is borrowed until the next call on the stream. END: the peer has ended it well. The stream is
 * over after END and FAILED, and is only to be closed. */
vv_peer_next vv_peer_stream_next(vv_peer_stream *s, uint64_t timeout_ns, vv_slice *message_out,
                                 vv_peer_error *err);
/* It fails with CANCELLED, soon. Any thread, as long as the stream is not closed. */
void vv_peer_stream_cancel(vv_peer_stream *s);
/* Cancels it if it goes on. NULL is fine. */
void vv_peer_stream_close(vv_peer_stream *s);

#endif
