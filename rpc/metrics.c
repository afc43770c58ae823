#include "rpc/metrics.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/compiler.h"
#include "base/sync.h"

typedef struct method_shard {
    _Atomic uint64_t ended[VV_METRICS_CODES];
    _Atomic uint64_t received_bytes, sent_bytes;
    vv_spread us;
} method_shard;

/* One thread's. Written by it alone, read by anybody. */
typedef struct shard {
    struct shard *next;
    vv_spread phases[VV_PHASE_COUNT];
    method_shard methods[];
} shard;

struct vv_metrics {
    uint64_t
        id; /* no two of a process have the same: a thread may outlive one and find another in its place */
    const vv_rpc_method **methods;
    size_t method_count; /* the unknown included */
    _Atomic(shard *) shards;
    vv_mutex lock; /* of adding one */
};

static _Atomic uint64_t last_id;

/* The shard that this thread used last, and whose. */
static _Thread_local struct {
    uint64_t id;
    shard *shard;
} mine;

vv_status vv_metrics_create(const vv_rpc_service *services, size_t count, vv_metrics **out) {
    *out = NULL;
    size_t methods = 1;
    for (size_t s = 0; s < count; s++)
        methods += services[s].method_count;
    vv_metrics *m = vv_alloc_zeroed(sizeof *m);
    if (m)
        m->methods = vv_alloc_zeroed(methods * sizeof(vv_rpc_method *));
    if (!m || !m->methods) {
        vv_free(m);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    for (size_t s = 0; s < count; s++)
        for (size_t i = 0; i < services[s].method_count; i++)
            m->methods[m->method_count++] = &services[s].methods[i];
    m->method_count++;
    m->id = atomic_fetch_add(&last_id, 1) + 1;
    vv_mutex_init(&m->lock);
    *out = m;
    return VV_STATUS_OK;
}

void vv_metrics_destroy(vv_metrics *m) {
    if (!m)
        return;
    for (shard *s = atomic_load(&m->shards); s;) {
        shard *next = s->next;
        vv_free(s);
        s = next;
    }
    vv_mutex_deinit(&m->lock);
    vv_free(m->methods);
    vv_free(m);
}

/* Rare: once for each thread. */
static shard *shard_add(vv_metrics *m) {
    shard *s = vv_alloc_aligned(VV_CACHE_LINE_BYTES, sizeof *s + m->method_count * sizeof s->methods[0]);
    if (!s)
        return NULL;
    memset(s, 0, sizeof *s + m->method_count * sizeof s->methods[0]);
    vv_mutex_lock(&m->lock);
    s->next = atomic_load_explicit(&m->shards, memory_order_relaxed);
    /* Release: who collects finds it zeroed, and its next. */
    atomic_store_explicit(&m->shards, s, memory_order_release);
    vv_mutex_unlock(&m->lock);
    mine.id = m->id;
    mine.shard = s;
    return s;
}

static void more(_Atomic uint64_t *at, uint64_t by) {
    atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + by, memory_order_relaxed);
}

static void phase(shard *s, vv_phase which, uint64_t ns) {
    vv_spread_record(&s->phases[which], vv_spread_us(ns));
}

/* A call that the engine did not come to has no phases. */
static void phases(shard *s, const vv_rpc_call *call) {
    const varve_trace *t = &call->trace;
    if (call->method->access == VV_RPC_WRITE && t->wal_ns > 0) {
        phase(s, VV_PHASE_WRITE_QUEUE, t->queue_ns);
        phase(s, VV_PHASE_WRITE_WAL, t->wal_ns);
        phase(s, VV_PHASE_WRITE_MEMTABLE, t->memtable_ns);
    } else if (call->method->access == VV_RPC_READ && t->memtable_ns > 0) {
        phase(s, VV_PHASE_READ_MEMORY, t->memtable_ns);
        if (t->block_ns > 0)
            phase(s, VV_PHASE_READ_BLOCK, t->block_ns);
    }
}

void vv_metrics_ended(vv_metrics *m, const vv_rpc_call *call, uint64_t now_ns) {
    shard *s = mine.id == m->id ? mine.shard : shard_add(m);
    if (!s)
        return;
    VV_DCHECK(call->method_index < m->method_count);
    method_shard *to = &s->methods[call->method_index];
    more(&to->ended[(size_t)call->code < VV_METRICS_CODES ? call->code : VV_RPC_UNKNOWN], 1);
    more(&to->received_bytes, call->received_bytes);
    more(&to->sent_bytes, call->sent_bytes);
    if (!call->method || call->method->kind != VV_RPC_UNARY)
        return;
    vv_spread_record(&to->us, vv_spread_us(now_ns - call->arrived_ns));
    phases(s, call);
}

size_t vv_metrics_method_count(const vv_metrics *m) {
    return m->method_count;
}

static const shard *first_shard(const vv_metrics *m) {
    return atomic_load_explicit(&m->shards, memory_order_acquire); /* pairs with the release in shard_add() */
}

void vv_metrics_collect(vv_metrics *m, size_t method, vv_method_metrics *out) {
    VV_ASSERT(method < m->method_count);
    *out = (vv_method_metrics){.method = m->methods[method]};
    for (const shard *s = first_shard(m); s; s = s->next) {
        const method_shard *from = &s->methods[method];
        for (size_t c = 0; c < VV_METRICS_CODES; c++)
            out->ended[c] += atomic_load_explicit(&from->ended[c], memory_order_relaxed);
        out->received_bytes += atomic_load_explicit(&from->received_bytes, memory_order_relaxed);
        out->sent_bytes += atomic_load_explicit(&from->sent_bytes, memory_order_relaxed);
        vv_spread_collect(&from->us, &out->us);
    }
}

void vv_metrics_collect_phase(vv_metrics *m, vv_phase which, vv_spread_copy *out) {
    *out = (vv_spread_copy){0};
    for (const shard *s = first_shard(m); s; s = s->next)
        vv_spread_collect(&s->phases[which], out);
}
