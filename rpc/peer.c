/*
 * peer.c - the client on the gRPC C core.
 *
 *   vv_peer --> channel (reconnects by itself)
 *      |
 *      '-- calls under way: vv_peer_stream, each with a pluck queue of its own, on which its one thread waits
 *
 * A unary call is a stream that has one message. What arrives is read from the socket by whichever thread
 * waits, for its own call or another's.
 *
 * Connections: one for a peer, shared by its calls and by no other peer. A peer that can't be reached, or
 * whose connection is lost, fails calls at once with UNAVAILABLE, and is tried again after 100 ms, then more
 * slowly, at least twice a second. Calls are never repeated here. A connection on which nothing has come for
 * KEEPALIVE_TIME_MS is probed, and dropped when no answer comes in KEEPALIVE_TIMEOUT_MS: a stopped process or
 * a network that is cut without a word would otherwise hold every later call, too. The server has to bear
 * such probes (KEEPALIVE_MIN_CLIENT_TIME).
 *
 * Locking: mu guards the list of calls, so that an interruption finds every one of them or the call finds
 * `interrupted`. The C core takes no lock of ours.
 */
#include "rpc/peer.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "google/protobuf/any.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/lines.h"

#define ERROR_INFO_URL       "type.googleapis.com/google.rpc.ErrorInfo"
#define TEXT_FILE_BYTES_MAX  ((size_t)1 << 20)
#define RECONNECT_MS_MIN     100
#define RECONNECT_MS_MAX     500
#define CONNECT_MS_MAX       5000 /* of one attempt, TLS included */
#define KEEPALIVE_TIME_MS    2000
#define KEEPALIVE_TIMEOUT_MS 3000
#define WINDOW_BYTES         (4 << 20) /* so much of a stream may be on its way */
#define FRAME_BYTES          (1 << 20)

struct vv_peer {
    grpc_channel *channel;
    char *token; /* "": none of the two */
    char *token_file;
    _Atomic uint64_t hurried_ns;
    struct {
        vv_mutex lock;
        vv_peer_stream *calls;
        bool interrupted;
    } mu;
};

struct vv_peer_stream {
    vv_peer *peer;
    vv_peer_stream *next, *previous; /* under mu */
    grpc_completion_queue *queue;
    grpc_call *core;
    grpc_slice authorization; /* lent to the core, as the arrays and what follows, until the call is over */
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *message;
    grpc_status_code status;
    grpc_slice words;
    bool started;     /* the first batch is under way, or done */
    bool over;        /* the status is here */
    grpc_slice piece; /* what the caller has borrowed: this one, or */
    uint8_t *joined;  /* several made one */
    size_t joined_room;
};

/* ---- failures ---- */

const char *vv_peer_detail(const vv_peer_error *err, const char *key) {
    for (size_t i = 0; i < err->detail_count; i++)
        if (strcmp(err->details[i].key, key) == 0)
            return err->details[i].value;
    return NULL;
}

/* Returns false, so that a function can end with it. */
static bool fail(vv_peer_error *err, vv_rpc_code code, const char *message) {
    *err = (vv_peer_error){.code = code};
    snprintf(err->message, sizeof err->message, "%s", message);
    return false;
}

static void read_error_info(const ProtobufCBinaryData *packed, vv_peer_error *err) {
    Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, packed->len, packed->data);
    if (!info)
        return;
    snprintf(err->reason, sizeof err->reason, "%s", info->reason);
    err->detail_count = VV_MIN(info->n_metadata, VV_ARRAY_COUNT(err->details));
    for (size_t i = 0; i < err->detail_count; i++) {
        snprintf(err->details[i].key, sizeof err->details[i].key, "%s", info->metadata[i]->key);
        snprintf(err->details[i].value, sizeof err->details[i].value, "%s", info->metadata[i]->value);
    }
    google__rpc__error_info__free_unpacked(info, NULL);
}

/* The status that a call has ended with, and what came with it. */
static void read_status(const vv_peer_stream *s, vv_peer_error *err) {
    char *words = grpc_slice_to_c_string(s->words);
    fail(err, (vv_rpc_code)s->status, words);
    gpr_free(words);
    for (size_t i = 0; i < s->trailing.count; i++) {
        const grpc_metadata *md = &s->trailing.metadata[i];
        if (grpc_slice_str_cmp(md->key, "grpc-status-details-bin") != 0)
            continue;
        Google__Rpc__Status *status =
            google__rpc__status__unpack(NULL, GRPC_SLICE_LENGTH(md->value), GRPC_SLICE_START_PTR(md->value));
        if (!status)
            continue;
        for (size_t d = 0; d < status->n_details; d++)
            if (strcmp(status->details[d]->type_url, ERROR_INFO_URL) == 0)
                read_error_info(&status->details[d]->value, err);
        google__rpc__status__free_unpacked(status, NULL);
    }
}

/* ---- life ---- */

/* NULL: err. */
static grpc_channel_credentials *make_credentials(const vv_peer_options *o, vv_status *st, vv_error *err) {
    const char *paths[3] = {o->tls_ca, o->tls_cert, o->tls_key};
    char *texts[3] = {NULL};
    size_t bytes;
    grpc_channel_credentials *credentials = NULL;
    *st = VV_STATUS_OK;
    if (!(o->tls_ca && *o->tls_ca) && !(o->tls_cert && *o->tls_cert))
        return grpc_insecure_credentials_create();
    for (size_t i = 0; i < VV_ARRAY_COUNT(paths) && vv_ok(*st); i++)
        if (paths[i] && *paths[i])
            *st = vv_file_read(paths[i], TEXT_FILE_BYTES_MAX, &texts[i], &bytes, err);
    if (vv_ok(*st) && !texts[1] != !texts[2])
        *st = vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0),
                      "a certificate and its key go together");
    if (vv_ok(*st)) {
        grpc_ssl_pem_key_cert_pair own = {.private_key = texts[2], .cert_chain = texts[1]};
        credentials = grpc_ssl_credentials_create(texts[0], texts[1] ? &own : NULL, NULL, NULL);
        if (!credentials)
            *st = vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0),
                          "CA, certificate or key is not usable");
    }
    for (size_t i = 0; i < VV_ARRAY_COUNT(texts); i++)
        vv_free(texts[i]);
    return credentials;
}

static grpc_channel *create_channel(const vv_peer_options *o, grpc_channel_credentials *credentials) {
    uint64_t bytes_max = o->message_bytes_max;
    const struct {
        const char *key;
        int value;
    } settings[] = {
        {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
         bytes_max == 0 ? -1 : (int)VV_MIN(bytes_max, (uint64_t)INT_MAX)},
        {GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1}, /* the peer knows what it takes */
        {GRPC_ARG_ENABLE_RETRIES, 0},
        {GRPC_ARG_ENABLE_HTTP_PROXY, 0}, /* a database is no web page */
        {GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1},
        {GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1},
        {GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_MS_MIN},
        {GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MS_MAX},
        /* Not what its name says: the least time that an attempt is given. */
        {GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS_MAX},
        {GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, RECONNECT_MS_MAX},
        {GRPC_ARG_KEEPALIVE_TIME_MS, o->patient ? INT_MAX : KEEPALIVE_TIME_MS},
        {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS},
        {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0}, /* no bound: a stream only receives */
        {GRPC_ARG_HTTP2_BDP_PROBE, 0},              /* it would find the window that is set here */
        {GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, WINDOW_BYTES},
        {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, FRAME_BYTES},
    };
    grpc_arg args[VV_ARRAY_COUNT(settings)];
    for (size_t i = 0; i < VV_ARRAY_COUNT(settings); i++)
        args[i] = (grpc_arg){.type = GRPC_ARG_INTEGER,
                             .key = (char *)(uintptr_t)settings[i].key,
                             .value.integer = settings[i].value};
    grpc_channel_args set = {.num_args = VV_ARRAY_COUNT(args), .args = args};
    return grpc_channel_create(o->address, credentials, &set);
}

vv_status vv_peer_create(const vv_peer_options *options, vv_peer **out, vv_error *err) {
    *out = NULL;
    vv_peer *p = vv_alloc_zeroed(sizeof *p);
    if (!p)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "peer %s", options->address);
    grpc_init();
    vv_mutex_init(&p->mu.lock);
    p->token = vv_strdup(options->token ? options->token : "");
    p->token_file = vv_strdup(options->token_file ? options->token_file : "");
    vv_status st = VV_STATUS_OK;
    if (!p->token || !p->token_file)
        st = vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "peer %s", options->address);
    grpc_channel_credentials *credentials = vv_ok(st) ? make_credentials(options, &st, err) : NULL;
    if (!credentials) {
        vv_peer_destroy(p);
        return st;
    }
    p->channel = create_channel(options, credentials);
    grpc_channel_credentials_release(credentials);
    *out = p;
    return VV_STATUS_OK;
}

void vv_peer_destroy(vv_peer *p) {
    if (!p)
        return;
    VV_ASSERT(!p->mu.calls);
    if (p->channel)
        grpc_channel_destroy(p->channel);
    vv_mutex_deinit(&p->mu.lock);
    vv_free(p->token);
    vv_free(p->token_file);
    vv_free(p);
    grpc_shutdown_blocking();
}

void vv_peer_interrupt(vv_peer *p) {
    vv_mutex_lock(&p->mu.lock);
    p->mu.interrupted = true;
    for (vv_peer_stream *s = p->mu.calls; s; s = s->next)
        grpc_call_cancel(s->core, NULL);
    vv_mutex_unlock(&p->mu.lock);
}

bool vv_peer_interrupted(vv_peer *p) {
    vv_mutex_lock(&p->mu.lock);
    bool interrupted = p->mu.interrupted;
    vv_mutex_unlock(&p->mu.lock);
    return interrupted;
}

/* A name that can't be resolved is asked for again by the core after a second, then ever more seldom, and
 * nothing sets that but this. */
static void hurry(vv_peer *p) {
    uint64_t now = vv_clock_mono_ns(), last = atomic_load_explicit(&p->hurried_ns, memory_order_relaxed);
    if (now - last >= RECONNECT_MS_MAX * VV_NS_PER_MS &&
        atomic_compare_exchange_strong_explicit(&p->hurried_ns, &last, now, memory_order_relaxed,
                                                memory_order_relaxed))
        grpc_channel_reset_connect_backoff(p->channel);
}

/* ---- a call from its start ---- */

static gpr_timespec after(uint64_t timeout_ns) {
    if (timeout_ns > INT64_MAX)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos((int64_t)timeout_ns, GPR_TIMESPAN));
}

static bool fail_token(vv_peer_error *err, const char *message) {
    fail(err, VV_RPC_UNAUTHENTICATED, message);
    snprintf(err->reason, sizeof err->reason, "TOKEN_UNREADABLE");
    return false;
}

/* The header's value into s; empty without a token. */
static bool read_token(vv_peer_stream *s, vv_peer_error *err) {
    const vv_peer *p = s->peer;
    char *file = NULL;
    size_t file_bytes;
    vv_error why = {""};
    if (*p->token_file &&
        !vv_ok(vv_file_read(p->token_file, TEXT_FILE_BYTES_MAX, &file, &file_bytes, &why))) {
        fail(err, VV_RPC_UNAUTHENTICATED, why.text);
        snprintf(err->reason, sizeof err->reason, "TOKEN_UNREADABLE");
        return false;
    }
    const char *token = file ? file : p->token;
    token += strspn(token, " \t\r\n");
    size_t bytes = strcspn(token, " \t\r\n");
    bool fine = true;
    for (size_t i = 0; i < bytes; i++) /* the core would write what it refuses into the log */
        fine = fine && token[i] > ' ' && token[i] <= '~';
    if (fine && bytes > 0) {
        s->authorization = grpc_slice_malloc(strlen("Bearer ") + bytes);
        memcpy(GRPC_SLICE_START_PTR(s->authorization), "Bearer ", strlen("Bearer "));
        memcpy(GRPC_SLICE_START_PTR(s->authorization) + strlen("Bearer "), token, bytes);
    }
    vv_free(file);
    return fine || fail_token(err, "the token is not of printable characters");
}

/* The core's call, on the list; false: interrupted. */
static bool create_call(vv_peer_stream *s, const char *path, uint64_t timeout_ns) {
    vv_peer *p = s->peer;
    grpc_slice method = grpc_slice_from_copied_string(path);
    vv_mutex_lock(&p->mu.lock);
    bool wanted = !p->mu.interrupted;
    if (wanted) {
        s->core = grpc_channel_create_call(p->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->queue, method, NULL,
                                           after(timeout_ns), NULL);
        s->next = p->mu.calls;
        if (s->next)
            s->next->previous = s;
        p->mu.calls = s;
    }
    vv_mutex_unlock(&p->mu.lock);
    grpc_slice_unref(method);
    return wanted;
}

/* Send everything that there is to send. The core keeps references of its own to the bytes. */
static void start_call(vv_peer_stream *s, vv_slice request) {
    grpc_slice bytes = grpc_slice_from_copied_buffer(request.data, request.bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&bytes, 1);
    grpc_slice_unref(bytes);
    grpc_metadata header = {.key = grpc_slice_from_static_string("authorization"), .value = s->authorization};
    size_t header_count = GRPC_SLICE_LENGTH(s->authorization) > 0 ? 1 : 0;
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = header_count, .metadata = &header}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA,
         .data.recv_initial_metadata.recv_initial_metadata = &s->initial},
    };
    VV_ASSERT(grpc_call_start_batch(s->core, ops, VV_ARRAY_COUNT(ops), &s->started, NULL) == GRPC_CALL_OK);
    s->started = true;
    grpc_byte_buffer_destroy(buffer);
}

static vv_peer_stream *open_stream(vv_peer *p, const char *path, vv_slice request, uint64_t timeout_ns,
                                   vv_peer_error *err) {
    vv_peer_stream *s = vv_alloc_zeroed(sizeof *s);
    if (!s) {
        fail(err, VV_RPC_RESOURCE_EXHAUSTED, "out of memory");
        return NULL;
    }
    s->peer = p;
    s->status = GRPC_STATUS_UNKNOWN;
    s->authorization = s->words = s->piece = grpc_empty_slice();
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->queue = grpc_completion_queue_create_for_pluck(NULL);
    bool fine = read_token(s, err);
    if (fine && !create_call(s, path, timeout_ns))
        fine = fail(err, VV_RPC_CANCELLED, "interrupted");
    if (!fine) {
        vv_peer_stream_close(s);
        return NULL;
    }
    start_call(s, request);
    return s;
}

vv_peer_stream *vv_peer_stream_open(vv_peer *p, const char *path, vv_slice request, vv_peer_error *err) {
    return open_stream(p, path, request, UINT64_MAX, err);
}

/* ---- and to its end ---- */

static void wait_for(vv_peer_stream *s, void *tag) {
    (void)grpc_completion_queue_pluck(s->queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
}

/* Nothing of the call is under way afterwards. A batch that receives the status always completes: by an
 * answer, by the deadline, by a cancellation, or by a connection that is lost. */
static void finish(vv_peer_stream *s) {
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                  .data.recv_status_on_client = {
                      .trailing_metadata = &s->trailing, .status = &s->status, .status_details = &s->words}};
    VV_ASSERT(grpc_call_start_batch(s->core, &op, 1, &s->over, NULL) == GRPC_CALL_OK);
    wait_for(s, &s->over);
    wait_for(s, &s->started);
    s->over = true;
    if (s->status == GRPC_STATUS_UNAVAILABLE)
        hurry(s->peer);
}

static void drop_message(vv_peer_stream *s) {
    grpc_slice_unref(s->piece);
    s->piece = grpc_empty_slice();
    grpc_byte_buffer_destroy(s->message);
    s->message = NULL;
}

/* The message where it lies if that is one place, else copied into one. False: no memory. */
static bool give_message(vv_peer_stream *s, vv_slice *out) {
    grpc_byte_buffer_reader reader;
    size_t bytes = grpc_byte_buffer_length(s->message), used = 0;
    grpc_byte_buffer_reader_init(&reader, s->message); /* fails with compression alone, which is not spoken */
    if (grpc_byte_buffer_reader_next(&reader, &s->piece) && GRPC_SLICE_LENGTH(s->piece) < bytes) {
        if (s->joined_room < bytes) {
            vv_free(s->joined);
            s->joined = vv_alloc(bytes);
            s->joined_room = s->joined ? bytes : 0;
        }
        do {
            if (s->joined)
                memcpy(s->joined + used, GRPC_SLICE_START_PTR(s->piece), GRPC_SLICE_LENGTH(s->piece));
            used += GRPC_SLICE_LENGTH(s->piece);
            grpc_slice_unref(s->piece);
            s->piece = grpc_empty_slice();
        } while (grpc_byte_buffer_reader_next(&reader, &s->piece));
    }
    grpc_byte_buffer_reader_destroy(&reader);
    *out = used > 0 ? vv_slice_make(s->joined, used)
                    : vv_slice_make(GRPC_SLICE_START_PTR(s->piece), GRPC_SLICE_LENGTH(s->piece));
    return used == 0 || s->joined;
}

vv_peer_next vv_peer_stream_next(vv_peer_stream *s, uint64_t timeout_ns, vv_slice *message_out,
                                 vv_peer_error *err) {
    VV_ASSERT(!s->over);
    *message_out = vv_slice_make(NULL, 0);
    drop_message(s);
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->message};
    VV_ASSERT(grpc_call_start_batch(s->core, &op, 1, &s->message, NULL) == GRPC_CALL_OK);
    grpc_event event = grpc_completion_queue_pluck(s->queue, &s->message, after(timeout_ns), NULL);
    bool late = event.type == GRPC_QUEUE_TIMEOUT;
    if (late) {
        grpc_call_cancel(s->core, NULL);
        wait_for(s, &s->message);
    } else if (s->message && give_message(s, message_out)) {
        return VV_PEER_MESSAGE;
    }
    bool no_memory = !late && s->message;
    if (no_memory)
        grpc_call_cancel(s->core, NULL);
    finish(s);
    if (late)
        fail(err, VV_RPC_DEADLINE_EXCEEDED, "nothing came in time");
    else if (no_memory)
        fail(err, VV_RPC_RESOURCE_EXHAUSTED, "out of memory");
    else if (s->status == GRPC_STATUS_OK)
        return VV_PEER_END;
    else
        read_status(s, err);
    return VV_PEER_FAILED;
}

void vv_peer_stream_cancel(vv_peer_stream *s) {
    grpc_call_cancel(s->core, NULL);
}

static void leave_list(vv_peer_stream *s) {
    vv_mutex_lock(&s->peer->mu.lock);
    if (s->previous)
        s->previous->next = s->next;
    else
        s->peer->mu.calls = s->next;
    if (s->next)
        s->next->previous = s->previous;
    vv_mutex_unlock(&s->peer->mu.lock);
}

void vv_peer_stream_close(vv_peer_stream *s) {
    if (!s)
        return;
    if (s->started && !s->over) {
        grpc_call_cancel(s->core, NULL);
        finish(s);
    }
    drop_message(s);
    if (s->core) {
        leave_list(s);
        grpc_call_unref(s->core);
    }
    grpc_completion_queue_shutdown(s->queue);
    grpc_completion_queue_destroy(s->queue);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->authorization);
    grpc_slice_unref(s->words);
    vv_free(s->joined);
    vv_free(s);
}

/* ---- unary calls ---- */

bool vv_peer_call(vv_peer *p, const char *path, vv_slice request, uint64_t timeout_ns, uint8_t **reply_out,
                  size_t *reply_bytes_out, vv_peer_error *err) {
    *reply_out = NULL;
    *reply_bytes_out = 0;
    vv_peer_stream *s = open_stream(p, path, request, timeout_ns, err);
    if (!s)
        return false;
    vv_slice message;
    vv_peer_next next = vv_peer_stream_next(s, UINT64_MAX, &message, err); /* the call has its deadline */
    bool kept = next == VV_PEER_MESSAGE;
    if (kept) {
        *reply_out = vv_alloc(VV_MAX(message.bytes, 1));
        *reply_bytes_out = message.bytes;
        if (*reply_out && message.bytes > 0)
            memcpy(*reply_out, message.data, message.bytes);
        next = vv_peer_stream_next(s, UINT64_MAX, &message, err);
    }
    vv_peer_stream_close(s);
    bool fine = next == VV_PEER_END;
    if (next == VV_PEER_MESSAGE || (fine && !kept))
        fine = fail(err, VV_RPC_INTERNAL, "the answer is not one message");
    else if (fine && !*reply_out)
        fine = fail(err, VV_RPC_RESOURCE_EXHAUSTED, "out of memory");
    if (!fine) {
        vv_free(*reply_out);
        *reply_out = NULL;
        *reply_bytes_out = 0;
    }
    return fine;
}
