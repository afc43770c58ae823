/*
 * service_scan.c - KV.Scan: the entries of a range as a stream of chunks (chunk_stream.h).
 *
 * A cursor waits for the disk, so it is moved on the workers. One turn makes one chunk and takes TURN_NS at
 * most: so many scans share the workers, and a run of a million tombstones holds nobody up.
 *
 * All chunks are of one state: of the client's snapshot, or of one that the scan makes. The first chunk that
 * is not the last one puts that into a lease of pages (leases.h), which its page token names. The lease ends
 * with a scan that came to its end, unless somebody has come back to it; after one that broke off it lasts
 * for PAGE_TOKEN_LEASE, so that a client whose connection broke can go on. Cursor, tables and buffers go at
 * once.
 *
 * A cursor keeps the memtables and tables that it reads. It is replaced when it is VIEW_NS old, which keeps
 * slow scans from pinning files that merges have replaced; and a client that has not taken a message for
 * SCAN_IDLE_TIMEOUT is given up.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "rpc/chunk_stream.h"
#include "rpc/codec.h"
#include "rpc/kv_impl.h"
#include "rpc/page_token.h"
#include "rpc/scan_chunk.h"
#include "rpc/status_map.h"

#define TURN_NS        (5 * VV_NS_PER_MS)
#define TURN_ENTRIES   32   /* between two looks at the clock */
#define SKIP_LIMIT     1024 /* the same for entries that are not shown */
#define VIEW_NS        (10 * VV_NS_PER_S)
#define LEASE_RETRY_MS 1000

typedef struct scan {
    vv_chunk_stream stream;
    vv_rpc_call *call;
    vv_kv *kv;
    const Varve__V1__ScanRequest *request; /* in the arena */
    vv_page_binding binding;

    /* The state that it reads: the client's or the pages' lease, or a snapshot that nobody has leased. */
    vv_lease *lease;
    vv_lease_kind lease_kind;
    varve_snapshot *own;
    const varve_snapshot *snapshot;

    /* The worker's: */
    varve_iter *iter;
    uint64_t iter_made_ns;
    bool resuming;    /* the cursor may stand on `last`, which has been sent */
    bool amid_hidden; /* it stands among entries that are not shown */
    uint8_t *last;    /* key */
    size_t last_bytes, last_capacity;
    uint64_t sent; /* entries */
    vv_scan_chunk chunk;
    bool token_out; /* its last message has one */

    vv_codec_arena arena;
} scan;

static scan *scan_of(vv_chunk_stream *stream) {
    return VV_CONTAINER_OF(stream, scan, stream);
}

static vv_slice bytes_of(ProtobufCBinaryData data) {
    return vv_slice_make(data.data, data.len);
}

static void destroy(scan *s) {
    varve_iter_destroy(s->iter);
    varve_snapshot_release(s->kv->db, s->own);
    vv_leases *leases = s->kv->options.leases;
    bool through = s->stream.outlook == VV_CHUNK_END && s->stream.given_up == VV_CHUNK_NOT_GIVEN_UP;
    if (s->lease && through && !s->token_out)
        vv_lease_unref_done(leases, s->lease);
    else
        vv_lease_unref(leases, s->lease);
    vv_free(s->chunk.data);
    vv_free(s->last);
    vv_codec_arena_deinit(&s->arena);
    vv_free(s);
}

/* ---- a turn, on a worker ---- */

static vv_chunk_outlook fail_turn(scan *s, varve_status st) {
    varve_key_range keys;
    if (s->iter && varve_iter_damage(s->iter, &keys))
        vv_rpc_status_from_damage(&s->stream.failure, st, &keys);
    else
        vv_rpc_status_from_engine(&s->stream.failure, st);
    return VV_CHUNK_FAILED;
}

static bool fails(scan *s, vv_status st) {
    if (vv_ok(st))
        return false;
    fail_turn(s, (varve_status){.code = st.code});
    return true;
}

static void step(scan *s) {
    if (s->request->reverse)
        varve_iter_prev(s->iter);
    else
        varve_iter_next(s->iter);
}

/* A cursor at the first entry that has not been sent, or on the last one that has. */
static varve_status open_cursor(scan *s) {
    const Varve__V1__ScanRequest *r = s->request;
    varve_iter_options options = {.snapshot = s->snapshot,
                                  .start = r->start.len ? r->start.data : NULL,
                                  .start_bytes = r->start.len,
                                  .end = r->end.len ? r->end.data : NULL,
                                  .end_bytes = r->end.len,
                                  .prefix = r->prefix.len ? r->prefix.data : NULL,
                                  .prefix_bytes = r->prefix.len,
                                  .skip_limit = SKIP_LIMIT};
    varve_status st = varve_iter_create(s->kv->db, &options, &s->iter);
    if (!varve_ok(st))
        return st;
    s->iter_made_ns = vv_clock_mono_ns();
    s->resuming = s->last_bytes > 0;
    if (s->resuming && r->reverse)
        varve_iter_seek_back(s->iter, s->last, s->last_bytes);
    else if (s->resuming)
        varve_iter_seek(s->iter, s->last, s->last_bytes);
    else if (r->reverse)
        varve_iter_last(s->iter);
    else
        varve_iter_first(s->iter);
    return st;
}

static varve_status refresh_cursor(scan *s) {
    /* Amid hidden entries its place is not known by a key that has been sent: it would not get through a long
     * run of them. */
    bool stale =
        s->iter && !s->amid_hidden && s->last_bytes > 0 && vv_clock_mono_ns() - s->iter_made_ns > VIEW_NS;
    if (stale) {
        varve_iter_destroy(s->iter);
        s->iter = NULL;
    }
    return s->iter ? (varve_status){0} : open_cursor(s);
}

static bool turn_over(scan *s, uint64_t end_ns) {
    return vv_chunk_stream_stopped(&s->stream) || vv_clock_mono_ns() >= end_ns;
}

static bool at_limit(const scan *s) {
    return s->request->limit > 0 && s->sent == s->request->limit;
}

/* The entry at hand into the chunk, and on. False: the turn is over before it. */
static bool take_entry(scan *s, uint64_t end_ns, vv_status *st) {
    varve_entry e;
    varve_iter_entry(s->iter, &e);
    vv_slice key = vv_slice_make(e.key, e.key_bytes);
    bool sent = s->resuming && vv_slice_equal(key, vv_slice_make(s->last, s->last_bytes));
    s->resuming = false;
    if (!sent) {
        vv_slice value = vv_slice_make(e.value, s->request->keys_only ? 0 : e.value_bytes);
        bool look = s->chunk.entries > 0 && s->chunk.entries % TURN_ENTRIES == 0;
        if (at_limit(s) || !vv_scan_chunk_has_room(&s->chunk, key, value) || (look && turn_over(s, end_ns)))
            return false;
        *st = vv_scan_chunk_add(&s->chunk, key, value, e.lsn);
        if (!vv_ok(*st))
            return false;
        s->sent++;
    }
    step(s);
    return true;
}

/* Entries until the chunk is full, the time is over or there is no more. */
static vv_chunk_outlook fill(scan *s) {
    uint64_t end_ns = vv_clock_mono_ns() + TURN_NS;
    for (;;) {
        while (varve_iter_valid(s->iter)) {
            vv_status st = VV_STATUS_OK;
            s->amid_hidden = false;
            if (!take_entry(s, end_ns, &st))
                return fails(s, st) ? VV_CHUNK_FAILED : VV_CHUNK_MORE;
        }
        varve_status st = varve_iter_status(s->iter);
        if (varve_ok(st))
            return VV_CHUNK_END;
        if (st.code != VARVE_BUSY)
            return fail_turn(s, st);
        s->amid_hidden = true;
        if (turn_over(s, end_ns))
            return VV_CHUNK_MORE;
        step(s);
    }
}

/* Remember the chunk's last key: its memory goes with the message. */
static vv_status keep_last_key(scan *s) {
    vv_slice key = vv_scan_chunk_last_key(&s->chunk);
    if (key.bytes > s->last_capacity) {
        uint8_t *last = vv_realloc(s->last, key.bytes);
        if (!last)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        s->last = last;
        s->last_capacity = key.bytes;
    }
    memcpy(s->last, key.data, key.bytes);
    s->last_bytes = key.bytes;
    return VV_STATUS_OK;
}

static vv_status add_token(scan *s) {
    if (!s->lease) {
        s->lease = vv_leases_add_pages(s->kv->options.leases, s->call->user, &s->own);
        s->lease_kind = VV_LEASE_PAGES;
    }
    if (!s->lease) /* too many: the stream goes on, but can't be gone on with in another */
        return VV_STATUS_OK;
    vv_page_token token = {.kind = s->lease_kind,
                           .lease_id = vv_lease_id(s->lease),
                           .key = vv_slice_make(s->last, s->last_bytes)};
    uint8_t *at;
    VV_TRY(vv_scan_chunk_add_token(&s->chunk, vv_page_token_bytes(&token), sizeof s->binding, &at));
    return vv_page_token_write(s->kv->token_secret, &s->binding, &token, at);
}

/* What fill() left behind as a message: its token; and the end, if the client wanted no more. */
static vv_chunk_outlook complete(scan *s, vv_chunk_outlook ahead) {
    if (s->chunk.entries == 0 || ahead != VV_CHUNK_MORE)
        return ahead;
    if (fails(s, keep_last_key(s)) || fails(s, add_token(s)))
        return VV_CHUNK_FAILED;
    if (!at_limit(s))
        return VV_CHUNK_MORE;
    s->token_out = s->lease != NULL;
    if (s->token_out)
        return VV_CHUNK_END;
    vv_rpc_status_set(&s->stream.failure, VV_RPC_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS", LEASE_RETRY_MS,
                      "there is more, but no room for the lease of another page token");
    return VV_CHUNK_FAILED;
}

static vv_chunk_outlook make_chunk(vv_chunk_stream *stream) {
    scan *s = scan_of(stream);
    varve_status st = refresh_cursor(s);
    if (!varve_ok(st))
        return fail_turn(s, st);
    vv_chunk_outlook outlook = complete(s, fill(s));
    if (s->chunk.entries > 0) {
        stream->body = vv_kv_body_take(s->chunk.data, s->chunk.bytes);
        s->chunk = (vv_scan_chunk){0};
    }
    return outlook;
}

/* ---- arrival ---- */

static bool fail_token(scan *s) {
    vv_rpc_fail_with(
        s->call, VV_RPC_INVALID_ARGUMENT, "BAD_PAGE_TOKEN", 0,
        "page_token is none that this server gave to this user for this range and direction since "
        "its start");
    return false;
}

/* What the token pins, and where it goes on. False: the call has failed. */
static bool take_token(scan *s) {
    vv_page_token token;
    vv_status st =
        vv_page_token_read(s->kv->token_secret, &s->binding, bytes_of(s->request->page_token), &token);
    if (vv_is(st, VV_NO_MEMORY)) {
        vv_kv_fail(s->call, (varve_status){.code = VARVE_NO_MEMORY});
        return false;
    }
    bool same = s->request->snapshot_id == 0 ||
                (token.kind == VV_LEASE_SNAPSHOT && s->request->snapshot_id == token.lease_id);
    if (!vv_ok(st) || !same)
        return fail_token(s);
    s->lease = vv_leases_ref(s->kv->options.leases, s->call->user, token.kind, token.lease_id);
    s->lease_kind = token.kind;
    if (!s->lease && token.kind == VV_LEASE_SNAPSHOT)
        vv_snapshots_fail_unknown(s->call);
    else if (!s->lease)
        vv_rpc_fail_with(s->call, VV_RPC_NOT_FOUND, "PAGE_TOKEN_EXPIRED", 0,
                         "the state that page_token goes on in is no longer held: begin a new scan");
    if (!s->lease)
        return false;
    s->last = vv_alloc(token.key.bytes);
    if (!s->last) {
        vv_kv_fail(s->call, (varve_status){.code = VARVE_NO_MEMORY});
        return false;
    }
    memcpy(s->last, token.key.data, token.key.bytes);
    s->last_bytes = s->last_capacity = token.key.bytes;
    return true;
}

/* The state that it reads. False: the call has failed. */
static bool take_snapshot(scan *s) {
    uint64_t id = s->request->snapshot_id;
    if (s->request->page_token.len > 0) {
        if (!take_token(s))
            return false;
    } else if (id != 0) {
        s->lease = vv_leases_ref(s->kv->options.leases, s->call->user, VV_LEASE_SNAPSHOT, id);
        if (!s->lease) {
            vv_snapshots_fail_unknown(s->call);
            return false;
        }
    }
    s->own = s->lease ? NULL : varve_snapshot_create(s->kv->db);
    s->snapshot = s->lease ? vv_lease_snapshot(s->lease) : s->own;
    if (!s->snapshot)
        vv_kv_fail(s->call, (varve_status){.code = VARVE_NO_MEMORY});
    return s->snapshot != NULL;
}

static bool prepare(scan *s) {
    const Varve__V1__ScanRequest *r = s->request;
    if (VV_MAX(VV_MAX(r->start.len, r->end.len), r->prefix.len) > VARVE_KEY_BYTES_MAX) {
        vv_rpc_fail_with(s->call, VV_RPC_INVALID_ARGUMENT, "KEY_TOO_LONG", 0,
                         "start, end and prefix have at most %d bytes", VARVE_KEY_BYTES_MAX);
        return false;
    }
    vv_page_scan bound = {.user = s->call->user,
                          .start = bytes_of(r->start),
                          .end = bytes_of(r->end),
                          .prefix = bytes_of(r->prefix),
                          .reverse = r->reverse};
    if (!vv_ok(vv_page_binding_make(&bound, &s->binding))) {
        vv_kv_fail(s->call, (varve_status){.code = VARVE_NO_MEMORY});
        return false;
    }
    return take_snapshot(s);
}

static void destroy_stream(vv_chunk_stream *stream) {
    destroy(scan_of(stream));
}

static void start(scan *s) {
    vv_chunk_options options = {.workers = s->kv->options.workers,
                                .timers = s->kv->options.timers,
                                .idle_ns = s->kv->options.scan_idle_us * VV_NS_PER_US,
                                .make = make_chunk,
                                .destroy = destroy_stream,
                                .idle_reason = "SCAN_IDLE",
                                .idle_words = "no message was taken for too long; the page token of the last "
                                              "one goes on from there"};
    vv_chunk_stream_start(&s->stream, s->call, &options);
}

void vv_scan_on_cancelled(vv_rpc_call *call) {
    if (!vv_lsn_waiters_left(call))
        vv_chunk_stream_on_cancelled(call);
}

void vv_scan_on_call(vv_rpc_call *call, vv_slice request) {
    scan *s = vv_alloc_zeroed(sizeof *s);
    if (!s) {
        vv_kv_fail(call, (varve_status){.code = VARVE_NO_MEMORY});
        return;
    }
    s->call = call;
    s->kv = call->service;
    vv_codec_arena_init(&s->arena);
    s->request = (void *)vv_codec_request(call, &s->arena, &varve__v1__scan_request__descriptor, request);
    const Varve__V1__ScanRequest *r = s->request;
    if (r &&
        vv_lsn_waiters_let_in(s->kv->options.waiters, call, request, r->min_lsn,
                              r->snapshot_id != 0 || r->page_token.len > 0) &&
        prepare(s))
        start(s);
    else
        destroy(s);
}
