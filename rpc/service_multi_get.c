/*
 * service_multi_get.c - KV.MultiGet: many keys as of one state.
 *
 *     turn: varve_get_async() for up to TURN_KEYS --> [reader thread] got() ... the last one
 *           --> next turn --> ... --> answer on the call's thread
 *
 * All keys of a turn are looked up at once, so that those that miss the cache are in flight together; and no
 * thread waits for them. A turn is about as much as the device works on at a time: more of them in flight
 * would be no faster, and in the way of everybody else's reads. Few keys are looked up on the call's thread;
 * for more, which would hold up its other calls, each turn is a job of the workers.
 *
 * Bounds: KEYS_MAX keys, and the bytes of the answer (options.response_bytes_max), which are counted as they
 * come: what is beyond is given back at once, and the call fails.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "rpc/codec.h"
#include "rpc/kv_impl.h"
#include "rpc/limits.h"
#include "rpc/status_map.h"

#define KEYS_MAX          10000
#define TURN_KEYS         256
#define OVERLOAD_RETRY_MS 100
/* Of a GetResponse with what is around it: two tags with a length each, three fields of a varint. */
#define RESULT_BYTES_MAX (7 * VV_CODEC_VARINT_BYTES_MAX)

typedef struct multi_get multi_get;

typedef struct result {
    multi_get *of;
    varve_status status;
    varve_value value;
} result;

struct multi_get {
    vv_job job;
    vv_rpc_call *call;
    vv_kv *kv;
    const Varve__V1__MultiGetRequest *request; /* in the arena */
    vv_lease *lease;                           /* the client's snapshot; else: */
    varve_snapshot *own;
    const varve_snapshot *snapshot;
    size_t next;           /* the first key that is not started */
    _Atomic uint32_t left; /* lookups of this turn, and the turn itself */
    _Atomic uint64_t value_bytes;
    _Atomic bool too_large;
    bool overloaded; /* the workers took no more */
    bool late;       /* its deadline passed while it waited for a worker */
    result *results;
    vv_codec_arena arena;
};

_Static_assert(sizeof(multi_get *) <= VV_LSN_WAITERS_STATE_BYTES, "the pointer lives in the call");

static multi_get **slot_of(vv_rpc_call *call) {
    return (multi_get **)(void *)call->state;
}

static void destroy(multi_get *m) {
    for (size_t i = 0; m->results && i < m->next; i++)
        varve_value_release(&m->results[i].value);
    vv_free(m->results);
    vv_lease_unref(m->kv->options.leases, m->lease);
    varve_snapshot_release(m->kv->db, m->own);
    vv_codec_arena_deinit(&m->arena);
    vv_free(m);
}

/* ---- the answer ---- */

static size_t result_bytes(const result *r, uint8_t *head, size_t *head_bytes_out) {
    *head_bytes_out = 0;
    if (!varve_ok(r->status))
        return 0;
    uint8_t *at = vv_codec_put_uint(head, 1, true);
    at = vv_codec_put_uint(at, 3, r->value.lsn);
    at = vv_codec_put_uint(at, 4, r->value.expires_unix_ms);
    if (r->value.bytes > 0)
        at = vv_codec_put_bytes_header(at, 2, r->value.bytes);
    *head_bytes_out = (size_t)(at - head);
    return *head_bytes_out + r->value.bytes;
}

static void reply_all(multi_get *m) {
    uint64_t value_bytes = atomic_load_explicit(&m->value_bytes, memory_order_relaxed);
    uint8_t *response = vv_alloc(value_bytes + m->next * RESULT_BYTES_MAX);
    if (!response) {
        vv_kv_fail(m->call, (varve_status){.code = VARVE_NO_MEMORY});
        return;
    }
    uint8_t *at = response;
    for (size_t i = 0; i < m->next; i++) {
        result *r = &m->results[i];
        uint8_t head[RESULT_BYTES_MAX];
        size_t head_bytes;
        at = vv_codec_put_bytes_header(at, 1, result_bytes(r, head, &head_bytes));
        memcpy(at, head, head_bytes);
        at += head_bytes;
        if (r->value.bytes > 0)
            memcpy(at, r->value.data, r->value.bytes);
        at += r->value.bytes;
        varve_value_release(&r->value);
    }
    vv_rpc_reply(m->call, vv_kv_body_take(response, (size_t)(at - response)));
}

/* The first lookup that failed, NULL if none did. */
static result *first_failure(const multi_get *m) {
    for (size_t i = 0; i < m->next; i++)
        if (!varve_ok(m->results[i].status) && m->results[i].status.code != VARVE_NOT_FOUND)
            return &m->results[i];
    return NULL;
}

/* On the call's thread. */
static void answer(multi_get *m) {
    result *failure = first_failure(m);
    if (m->late)
        vv_rpc_fail_with(m->call, VV_RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 0,
                         "the deadline passed before all keys were looked at");
    else if (m->overloaded)
        vv_rpc_fail_with(m->call, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", OVERLOAD_RETRY_MS,
                         "too many calls wait for the workers");
    else if (atomic_load_explicit(&m->too_large, memory_order_relaxed))
        vv_rpc_fail_with(m->call, VV_RPC_RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE", 0,
                         "the values are more than %llu bytes together: ask for fewer keys at once",
                         (unsigned long long)m->kv->options.response_bytes_max);
    else if (failure)
        vv_kv_fail_read(m->call, failure->status, &failure->value);
    else
        reply_all(m);
    destroy(m);
}

void vv_multi_get_on_posted(vv_rpc_call *call) {
    answer(*slot_of(call));
}

/* ---- turns ---- */

/* All lookups of the turn have come back. True: there is no more to do but to answer. */
static bool turn_over(multi_get *m) {
    if (m->next == m->request->n_keys || m->late || atomic_load_explicit(&m->too_large, memory_order_relaxed))
        return true;
    if (vv_workers_submit(m->kv->options.workers, &m->job))
        return false; /* and m is the worker's, or gone already */
    return m->overloaded = true;
}

/* release and acquire: who takes the last sees the results of all others. */
static bool is_last(multi_get *m) {
    return atomic_fetch_sub_explicit(&m->left, 1, memory_order_acq_rel) == 1;
}

static void got(void *arg, varve_status st, varve_value *value) {
    result *r = arg;
    multi_get *m = r->of;
    r->status = st;
    if (!varve_ok(st)) {
        r->value = *value; /* where the damage is */
    } else {
        uint64_t before = atomic_fetch_add_explicit(&m->value_bytes, value->bytes, memory_order_relaxed);
        if (before + value->bytes > m->kv->options.response_bytes_max) {
            atomic_store_explicit(&m->too_large, true, memory_order_relaxed);
            varve_value_release(value);
        } else {
            r->value = *value;
        }
    }
    if (is_last(m) && turn_over(m))
        vv_rpc_post_and_wake(m->call);
}

/* Look up the next keys. True: all have come back already. */
static bool turn(multi_get *m) {
    size_t first = m->next, count = VV_MIN(m->request->n_keys - first, (size_t)TURN_KEYS);
    atomic_store_explicit(&m->left, (uint32_t)count + 1, memory_order_relaxed);
    m->next += count;
    for (size_t i = first; i < first + count; i++) {
        m->results[i].of = m;
        varve_get_async(m->kv->db, m->snapshot, m->request->keys[i].data, m->request->keys[i].len, got,
                        &m->results[i]);
    }
    return is_last(m);
}

static void run(vv_job *job) {
    multi_get *m = VV_CONTAINER_OF(job, multi_get, job);
    m->late = vv_clock_mono_ns() >= m->call->deadline_ns;
    if ((m->late || turn(m)) && turn_over(m))
        vv_rpc_post_and_wake(m->call);
}

/* ---- arrival ---- */

/* False: the call has failed. */
static bool prepare(multi_get *m) {
    if (m->request->n_keys > KEYS_MAX) {
        vv_rpc_fail_with(m->call, VV_RPC_INVALID_ARGUMENT, "TOO_MANY_KEYS", 0,
                         "%zu keys: allowed are %d in one call", m->request->n_keys, KEYS_MAX);
        return false;
    }
    vv_rpc_status why;
    if (!vv_rate_take(m->call, VV_RPC_READ, m->request->n_keys - 1, &why)) { /* the gate has taken one */
        vv_rpc_fail(m->call, &why);
        return false;
    }
    if (m->request->snapshot_id != 0) {
        m->lease =
            vv_leases_ref(m->kv->options.leases, m->call->user, VV_LEASE_SNAPSHOT, m->request->snapshot_id);
        if (!m->lease) {
            vv_snapshots_fail_unknown(m->call);
            return false;
        }
        m->snapshot = vv_lease_snapshot(m->lease);
    } else {
        m->snapshot = m->own = varve_snapshot_create(m->kv->db);
    }
    m->results = vv_alloc_zeroed(m->request->n_keys * sizeof *m->results);
    if (m->snapshot && m->results)
        return true;
    vv_kv_fail(m->call, (varve_status){.code = VARVE_NO_MEMORY});
    return false;
}

void vv_multi_get_on_call(vv_rpc_call *call, vv_slice request) {
    multi_get *m = vv_alloc(sizeof *m);
    if (!m) {
        vv_kv_fail(call, (varve_status){.code = VARVE_NO_MEMORY});
        return;
    }
    *m = (multi_get){.call = call, .kv = call->service, .job = {.run = run}};
    vv_codec_arena_init(&m->arena);
    m->request =
        (void *)vv_codec_request(call, &m->arena, &varve__v1__multi_get_request__descriptor, request);
    if (!m->request || !vv_lsn_waiters_let_in(m->kv->options.waiters, call, request, m->request->min_lsn,
                                              m->request->snapshot_id != 0)) {
        destroy(m);
        return;
    }
    if (m->request->n_keys == 0) {
        vv_rpc_reply(call, vv_rpc_body_copy(NULL, 0));
        destroy(m);
        return;
    }
    if (!prepare(m)) {
        destroy(m);
        return;
    }
    *slot_of(call) = m;
    if (m->request->n_keys > TURN_KEYS) {
        if (turn_over(m))
            answer(m);
    } else if (turn(m)) {
        answer(m);
    }
}
