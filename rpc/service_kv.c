/*
 * service_kv.c - varve.v1.KV: reads and writes of the store.
 *
 * A Get of what is in memory is answered on the thread that it arrived on, before its on_call() is over. For
 * what is on disk the engine's reader thread keeps the read in flight, and no thread waits for it:
 *
 *     on_get() --varve_get_async()--> get_done()                                          in memory
 *                                 --> [reader thread] get_done() --vv_rpc_post()--> get_answer()
 *
 * A write is handed to the engine with a callback and answered when that has come: the acknowledgement that a
 * client gets for DURABILITY_SYNC is built from the engine's OK, which it gives only when the write's log
 * record survives power loss, and from nothing else.
 *
 *     on_put() --varve_write_async()--> [commit thread] write_done() --vv_rpc_post()--> write_answer()
 *
 * With DURABILITY_ASYNC the engine mostly commits it at once: then write_done() runs on the call's own
 * thread.
 *
 * A write whose client leaves meanwhile is completed: its answer goes nowhere.
 */
#include <errno.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/codec.h"
#include "rpc/access.h"
#include "rpc/chunk_stream.h"
#include "rpc/codec.h"
#include "rpc/kv_impl.h"
#include "rpc/status_map.h"
#include "rpc/users.h"

/* From here on a value is sent from the engine's memory instead of from a copy. Below, a copy costs less than
 * what pinning and releasing cost, and a slow client does not hold a whole block for it. */
#define PIN_BYTES_MIN ((size_t)16 << 10)

/* A ConditionResult with its tag and length: both of its fields, and the two around it. */
#define CONDITION_RESULT_BYTES_MAX (2 * VV_CODEC_VARINT_BYTES_MAX + 4)

/* Kept of what a call has left, so that the client is told that a write is not confirmed before it gives up:
 * a part for the way, which is at least and at most so much, and by how much the engine may be late. */
#define MARGIN_PART   20
#define MARGIN_NS_MIN (2 * VV_NS_PER_MS)
#define MARGIN_NS_MAX (50 * VV_NS_PER_MS)
#define LATE_NS       (10 * VV_NS_PER_MS)

/* What a write keeps in its call. */
typedef struct write_state {
    varve_batch *batch;
    varve_status status;
    uint64_t lsn;
} write_state;

/* What a Get that waits for the disk keeps in its call. */
typedef struct get_state {
    varve_value value;
    varve_status status;
    vv_lease *lease; /* of the client's snapshot, NULL: none */
} get_state;

_Static_assert(sizeof(get_state) <= VV_LSN_WAITERS_STATE_BYTES, "get_state lives in the call");
_Static_assert(sizeof(write_state) <= VV_RPC_CALL_STATE_BYTES, "write_state lives in the call");

static write_state *state_of(vv_rpc_call *call) {
    return (write_state *)(void *)call->state;
}

static get_state *get_state_of(vv_rpc_call *call) {
    return (get_state *)(void *)call->state;
}

void vv_kv_fail(vv_rpc_call *call, varve_status st) {
    vv_rpc_status status;
    vv_rpc_status_from_engine(&status, st);
    vv_rpc_fail(call, &status);
}

void vv_kv_read_status(vv_rpc_status *out, varve_status st, varve_value *value) {
    varve_key_range keys;
    if (varve_value_damage(value, &keys))
        vv_rpc_status_from_damage(out, st, &keys);
    else
        vv_rpc_status_from_engine(out, st);
    varve_value_release(value);
}

void vv_kv_fail_read(vv_rpc_call *call, varve_status st, varve_value *value) {
    vv_rpc_status status;
    vv_kv_read_status(&status, st, value);
    vv_rpc_fail(call, &status);
}

static void release_buffer(void *buffer) {
    VV_TAKE_OVER(buffer);
    vv_free(buffer);
}

vv_rpc_body vv_kv_body_take(uint8_t *buffer_take, size_t bytes) {
    VV_HAND_OVER(buffer_take);
    return (vv_rpc_body){
        .tail = vv_slice_make(buffer_take, bytes), .release = release_buffer, .release_arg = buffer_take};
}

/* ---- Get ---- */

typedef struct pin {
    vv_kv *kv;
    varve_value value;
} pin;

static void unpin(void *arg) {
    VV_TAKE_OVER(arg); /* on whatever thread of the transport's sent the last byte */
    pin *p = arg;
    vv_kv *kv = p->kv;
    varve_value_release(&p->value);
    vv_free(p);
    /* Under the lock, so that vv_kv_deinit() can't be over before the last word here. */
    vv_mutex_lock(&kv->mu.lock);
    if (atomic_fetch_sub(&kv->pinned, 1) == 1)
        vv_cond_signal(&kv->mu.unpinned);
    vv_mutex_unlock(&kv->mu.lock);
}

/* GetResponse by hand: the value is its last field, so that it can be sent from where it lies. */
static void reply_found(vv_rpc_call *call, varve_value *value) {
    vv_kv *kv = call->service;
    uint8_t head[8 * VV_CODEC_VARINT_BYTES_MAX];
    uint8_t *at = vv_codec_put_uint(head, 1, true);
    at = vv_codec_put_uint(at, 3, value->lsn);
    at = vv_codec_put_uint(at, 4, value->expires_unix_ms);
    if (value->bytes > 0)
        at = vv_codec_put_bytes_header(at, 2, value->bytes);
    vv_rpc_body body = {.head = vv_slice_make(head, (size_t)(at - head)),
                        .tail = vv_slice_make(value->data, value->bytes)};
    pin *p = value->bytes >= PIN_BYTES_MIN ? vv_alloc(sizeof *p) : NULL;
    if (p) {
        *p = (pin){.kv = kv, .value = *value};
        atomic_fetch_add(&kv->pinned, 1);
        body.release = unpin;
        body.release_arg = p;
        VV_HAND_OVER(p);
        vv_rpc_reply(call, body);
    } else {
        vv_rpc_reply(call, body);
        varve_value_release(value);
    }
}

static void get_answer(vv_rpc_call *call, varve_status st, varve_value *value) {
    if (varve_ok(st))
        reply_found(call, value);
    else if (st.code == VARVE_NOT_FOUND)
        vv_rpc_reply(call, vv_rpc_body_copy(NULL, 0)); /* found = false */
    else
        vv_kv_fail_read(call, st, value);
}

/* The call that this thread is handing to varve_get_async(): if its answer comes meanwhile, it came on this
 * thread, and this becomes NULL. A flag in the call could not tell, since the reader thread may be done
 * before the call returns. */
static _Thread_local vv_rpc_call *getting;

static void get_done(void *arg, varve_status st, varve_value *value) {
    vv_rpc_call *call = arg;
    if (getting == call) {
        getting = NULL;
        get_answer(call, st, value);
        return;
    }
    get_state *g = get_state_of(call);
    g->status = st;
    g->value = *value;
    vv_rpc_post_and_wake(call);
}

/* A value that came from the disk, back on the call's thread. */
static void get_posted(vv_rpc_call *call) {
    get_state g = *get_state_of(call);
    vv_kv *kv = call->service;
    get_answer(call, g.status, &g.value);
    vv_lease_unref(kv->options.leases, g.lease);
}

static void on_get(vv_rpc_call *call, vv_slice request) {
    vv_kv *kv = call->service;
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__GetRequest *get =
        (void *)vv_codec_request(call, &arena, &varve__v1__get_request__descriptor, request);
    if (!get ||
        !vv_lsn_waiters_let_in(kv->options.waiters, call, request, get->min_lsn, get->snapshot_id != 0))
        goto out;
    vv_lease *lease = NULL;
    if (get->snapshot_id != 0) {
        lease = vv_leases_ref(kv->options.leases, call->user, VV_LEASE_SNAPSHOT, get->snapshot_id);
        if (!lease) {
            vv_snapshots_fail_unknown(call);
            goto out;
        }
    }
    get_state_of(call)->lease = lease;
    getting = call;
    varve_get_async_traced(kv->db, lease ? vv_lease_snapshot(lease) : NULL, get->key.data, get->key.len,
                           vv_kv_trace(call), get_done, call);
    if (!getting) /* it has been answered; else it is get_posted() that has done with the lease */
        vv_lease_unref(kv->options.leases, lease);
    getting = NULL;
out:
    vv_codec_arena_deinit(&arena);
}

/* ---- writes ---- */

/* On the committing thread, or within varve_write_async() when the write is refused or done at once. */
static void write_done(void *arg, varve_status st, uint64_t lsn) {
    vv_rpc_call *call = arg;
    write_state *w = state_of(call);
    w->status = st;
    w->lsn = lsn;
    vv_rpc_post(call);
}

void vv_kv_note_write(vv_kv *kv, varve_status st) {
    if (st.code != VARVE_WAL_FAILED || !atomic_load(&kv->health->serving))
        return;
    vv_log(kv->log, VV_LOG_ERROR, "the write-ahead log has failed: no more writes until a restart");
    vv_health_set(kv->health, false);
}

varve_status vv_kv_outcome(const vv_kv *kv, varve_status st) {
    /* A condition that failed was judged by writes that may be cut, too. */
    bool decided = varve_ok(st) || st.code == VARVE_CONDITION_FAILED;
    bool lost_role = decided && vv_replication_role(kv->options.replication) != VV_ROLE_PRIMARY;
    return lost_role ? (varve_status){.code = VARVE_NOT_CONFIRMED} : st;
}

bool vv_kv_may_write(vv_rpc_call *call) {
    const vv_kv *kv = call->service;
    vv_rpc_status why;
    if (vv_replication_may_write(kv->options.replication, &why))
        return true;
    vv_rpc_fail(call, &why);
    return false;
}

uint64_t vv_kv_confirm_deadline(const vv_kv *kv, uint64_t call_deadline_ns) {
    if (vv_replication_quorum(kv->options.replication) == 0)
        return 0;
    uint64_t now_ns = vv_clock_mono_ns();
    uint64_t end_ns = now_ns + kv->options.quorum_timeout_us * VV_NS_PER_US;
    uint64_t left_ns = call_deadline_ns - VV_MIN(now_ns, call_deadline_ns);
    uint64_t margin_ns = VV_MIN(VV_MAX(left_ns / MARGIN_PART, MARGIN_NS_MIN), MARGIN_NS_MAX) + LATE_NS;
    return VV_MIN(end_ns, now_ns + left_ns - VV_MIN(margin_ns, left_ns / 2));
}

uint64_t vv_kv_client_id(const vv_rpc_call *call, uint64_t client_id) {
    if (client_id == 0 || !call->user)
        return client_id;
    uint8_t text[sizeof client_id + VV_USER_NAME_BYTES_MAX], digest[SHA256_DIGEST_LENGTH];
    size_t name_bytes = strlen(call->user->name);
    VV_ASSERT(name_bytes <= VV_USER_NAME_BYTES_MAX);
    vv_put_be64(text, client_id);
    memcpy(text + sizeof client_id, call->user->name, name_bytes);
    SHA256(text, sizeof client_id + name_bytes, digest);
    uint64_t id = vv_get_be64(digest);
    return id ? id : 1;
}

uint64_t vv_kv_expiry(uint64_t ttl_ms) {
    uint64_t now_ms = vv_clock_unix_ms();
    if (ttl_ms == 0)
        return 0;
    return ttl_ms > UINT64_MAX - now_ms ? UINT64_MAX : now_ms + ttl_ms;
}

/* applied = false, and what was found for each condition. */
static void reply_not_applied(vv_rpc_call *call, const varve_batch *batch) {
    size_t count = 0;
    bool held;
    uint64_t lsn;
    while (varve_batch_condition(batch, count, &held, &lsn))
        count++;
    uint8_t *response = vv_alloc(count * CONDITION_RESULT_BYTES_MAX);
    if (!response) {
        vv_kv_fail(call, (varve_status){.code = VARVE_NO_MEMORY});
        return;
    }
    uint8_t *at = response;
    for (size_t i = 0; varve_batch_condition(batch, i, &held, &lsn); i++) {
        uint8_t result[2 * VV_CODEC_VARINT_BYTES_MAX + 2];
        uint8_t *end = vv_codec_put_uint(vv_codec_put_uint(result, 1, held), 2, lsn);
        at = vv_codec_put_bytes_header(at, 3, (size_t)(end - result));
        memcpy(at, result, (size_t)(end - result));
        at += end - result;
    }
    vv_rpc_reply(call, vv_kv_body_take(response, (size_t)(at - response)));
}

/* Back on the call's thread. */
static void write_answer(vv_rpc_call *call) {
    write_state *w = state_of(call);
    w->status = vv_kv_outcome(call->service, w->status);
    if (w->status.code == VARVE_CONDITION_FAILED)
        reply_not_applied(call, w->batch);
    varve_batch_destroy(w->batch);
    if (w->status.code == VARVE_CONDITION_FAILED)
        return;
    if (varve_ok(w->status)) {
        uint8_t response[4 * VV_CODEC_VARINT_BYTES_MAX];
        uint8_t *at = vv_codec_put_uint(response, 1, w->lsn);
        at = vv_codec_put_uint(at, 2, true);
        vv_rpc_reply(call, vv_rpc_body_copy(response, (size_t)(at - response)));
        return;
    }
    vv_kv_note_write(call->service, w->status);
    vv_kv_fail(call, w->status);
}

/* Hand the call's batch to the engine. After this the call is the engine's until write_answer(). */
static void submit(vv_rpc_call *call, Varve__V1__Durability durability, uint64_t client_id,
                   uint64_t sequence) {
    vv_kv *kv = call->service;
    varve_write_options options = {.durability = VARVE_DURABILITY_SYNC,
                                   .client_id = vv_kv_client_id(call, client_id),
                                   .sequence = sequence,
                                   .trace = vv_kv_trace(call),
                                   .confirm_deadline_ns = vv_kv_confirm_deadline(kv, call->deadline_ns)};
    if (durability == VARVE__V1__DURABILITY__DURABILITY_ASYNC)
        options.durability = VARVE_DURABILITY_ASYNC;
    varve_write_async(kv->db, state_of(call)->batch, &options, write_done, call);
}

static bool check_durability(vv_rpc_call *call, Varve__V1__Durability durability) {
    if (durability == VARVE__V1__DURABILITY__DURABILITY_SYNC ||
        durability == VARVE__V1__DURABILITY__DURABILITY_ASYNC)
        return true;
    vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "BAD_DURABILITY", 0, "durability %d is unknown",
                     (int)durability);
    return false;
}

/* An empty batch in the call's state; false: the call has failed. */
static bool make_batch(vv_rpc_call *call) {
    state_of(call)->batch = varve_batch_create();
    if (state_of(call)->batch)
        return true;
    vv_kv_fail(call, (varve_status){.code = VARVE_NO_MEMORY});
    return false;
}

/* Submit what was added with status st, or fail the call. */
static void submit_if_ok(vv_rpc_call *call, varve_status st, Varve__V1__Durability durability,
                         uint64_t client_id, uint64_t sequence) {
    if (varve_ok(st)) {
        submit(call, durability, client_id, sequence);
        return;
    }
    varve_batch_destroy(state_of(call)->batch);
    vv_kv_fail(call, st);
}

static void on_put(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__PutRequest *put =
        (void *)vv_codec_request(call, &arena, &varve__v1__put_request__descriptor, request);
    if (put && vv_kv_may_write(call) && check_durability(call, put->durability) && make_batch(call)) {
        varve_status st =
            varve_batch_put_expiring(state_of(call)->batch, put->key.data, put->key.len, put->value.data,
                                     put->value.len, vv_kv_expiry(put->ttl_ms));
        submit_if_ok(call, st, put->durability, put->client_id, put->sequence);
    }
    vv_codec_arena_deinit(&arena);
}

static void on_delete(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__DeleteRequest *del =
        (void *)vv_codec_request(call, &arena, &varve__v1__delete_request__descriptor, request);
    if (del && vv_kv_may_write(call) && check_durability(call, del->durability) && make_batch(call)) {
        varve_status st = varve_batch_delete(state_of(call)->batch, del->key.data, del->key.len);
        submit_if_ok(call, st, del->durability, del->client_id, del->sequence);
    }
    vv_codec_arena_deinit(&arena);
}

/* Each operation is one that a write can have; else the call has failed. */
static bool check_ops(vv_rpc_call *call, const Varve__V1__WriteRequest *write) {
    for (size_t i = 0; i < write->n_ops; i++) {
        Varve__V1__Op__OpCase kind = write->ops[i]->op_case;
        if (kind != VARVE__V1__OP__OP_PUT && kind != VARVE__V1__OP__OP_DELETE) {
            vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "OP_EMPTY", 0,
                             "ops[%zu] is neither put nor delete", i);
            return false;
        }
    }
    return true;
}

static bool check_conditions(vv_rpc_call *call, const Varve__V1__WriteRequest *write) {
    for (size_t i = 0; i < write->n_conditions; i++) {
        const Varve__V1__Condition *c = write->conditions[i];
        bool empty = c->expected_case == VARVE__V1__CONDITION__EXPECTED__NOT_SET ||
                     (c->expected_case == VARVE__V1__CONDITION__EXPECTED_ABSENT && !c->absent);
        if (empty) {
            vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "CONDITION_EMPTY", 0,
                             "conditions[%zu] expects nothing: allowed are absent = true, lsn_equals, "
                             "value_equals",
                             i);
            return false;
        }
    }
    return true;
}

static varve_status add_ops(varve_batch *batch, const Varve__V1__WriteRequest *write) {
    varve_status st = {0};
    for (size_t i = 0; varve_ok(st) && i < write->n_ops; i++) {
        const Varve__V1__Op *op = write->ops[i];
        if (op->op_case == VARVE__V1__OP__OP_PUT)
            st = varve_batch_put_expiring(batch, op->put->key.data, op->put->key.len, op->put->value.data,
                                          op->put->value.len, vv_kv_expiry(op->put->ttl_ms));
        else
            st = varve_batch_delete(batch, op->delete_->key.data, op->delete_->key.len);
    }
    return st;
}

static varve_status add_conditions(varve_batch *batch, const Varve__V1__WriteRequest *write) {
    varve_status st = {0};
    for (size_t i = 0; varve_ok(st) && i < write->n_conditions; i++) {
        const Varve__V1__Condition *c = write->conditions[i];
        if (c->expected_case == VARVE__V1__CONDITION__EXPECTED_VALUE_EQUALS)
            st = varve_batch_require_value(batch, c->key.data, c->key.len, c->value_equals.data,
                                           c->value_equals.len);
        else if (c->expected_case == VARVE__V1__CONDITION__EXPECTED_LSN_EQUALS)
            st = varve_batch_require_lsn(batch, c->key.data, c->key.len, c->lsn_equals);
        else
            st = varve_batch_require_absent(batch, c->key.data, c->key.len);
    }
    return st;
}

/* Each operation counts, and a condition tells of what is there, which is reading. False: the call has
 * failed.
 */
static bool check_rights(vv_rpc_call *call, const Varve__V1__WriteRequest *write) {
    vv_rpc_status why;
    if ((write->n_conditions == 0 || vv_access_check(call, VV_RPC_READ, &why)) &&
        (write->n_ops < 2 || vv_rate_take(call, VV_RPC_WRITE, write->n_ops - 1, &why)))
        return true;
    vv_rpc_fail(call, &why);
    return false;
}

static void on_write(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__WriteRequest *write =
        (void *)vv_codec_request(call, &arena, &varve__v1__write_request__descriptor, request);
    if (write && vv_kv_may_write(call) && check_durability(call, write->durability) &&
        check_ops(call, write) && check_conditions(call, write) && check_rights(call, write) &&
        make_batch(call)) {
        varve_status st = add_ops(state_of(call)->batch, write);
        if (varve_ok(st))
            st = add_conditions(state_of(call)->batch, write);
        submit_if_ok(call, st, write->durability, write->client_id, write->sequence);
    }
    vv_codec_arena_deinit(&arena);
}

static const vv_rpc_method methods[] = {
    {.path = "/" VV_KV_SERVICE_NAME "/Get",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_READ,
     .on_call = on_get,
     .on_posted = get_posted,
     .on_cancelled = vv_lsn_waiters_on_cancelled},
    {.path = "/" VV_KV_SERVICE_NAME "/Put",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_WRITE,
     .on_call = on_put,
     .on_posted = write_answer},
    {.path = "/" VV_KV_SERVICE_NAME "/Delete",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_WRITE,
     .on_call = on_delete,
     .on_posted = write_answer},
    {.path = "/" VV_KV_SERVICE_NAME "/Write",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_WRITE,
     .on_call = on_write,
     .on_posted = write_answer},
    {.path = "/" VV_KV_SERVICE_NAME "/MultiGet",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_READ,
     .on_call = vv_multi_get_on_call,
     .on_posted = vv_multi_get_on_posted,
     .on_cancelled = vv_lsn_waiters_on_cancelled},
    {.path = "/" VV_KV_SERVICE_NAME "/Scan",
     .kind = VV_RPC_SERVER_STREAM,
     .access = VV_RPC_READ,
     .on_call = vv_scan_on_call,
     .on_written = vv_chunk_stream_on_written,
     .on_posted = vv_chunk_stream_on_posted,
     .on_cancelled = vv_scan_on_cancelled},
    {.path = "/" VV_KV_SERVICE_NAME "/Pipeline",
     .kind = VV_RPC_BIDI,
     .access = VV_RPC_READ, /* each write of it needs more */
     .on_call = vv_pipeline_on_call,
     .on_message = vv_pipeline_on_message,
     .on_half_close = vv_pipeline_on_half_close,
     .on_written = vv_pipeline_on_written,
     .on_cancelled = vv_pipeline_on_cancelled,
     .on_drain = vv_pipeline_on_drain},
};

vv_status vv_kv_init(vv_kv *kv, const vv_kv_options *options, varve_db *db, vv_health *health,
                     const vv_logger *log) {
    *kv = (vv_kv){.db = db, .options = *options, .health = health, .log = log};
    if (getrandom(&kv->hash_seed, sizeof kv->hash_seed, 0) != sizeof kv->hash_seed ||
        getrandom(kv->token_secret, sizeof kv->token_secret, 0) != sizeof kv->token_secret)
        return vv_status_errno(errno);
    vv_mutex_init(&kv->mu.lock);
    vv_cond_init(&kv->mu.unpinned);
    return VV_STATUS_OK;
}

void vv_kv_deinit(vv_kv *kv) {
    vv_mutex_lock(&kv->mu.lock);
    while (atomic_load(&kv->pinned) > 0)
        vv_cond_wait(&kv->mu.unpinned, &kv->mu.lock);
    vv_mutex_unlock(&kv->mu.lock);
    vv_cond_deinit(&kv->mu.unpinned);
    vv_mutex_deinit(&kv->mu.lock);
}

vv_rpc_service vv_kv_service(vv_kv *kv) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = kv};
}
