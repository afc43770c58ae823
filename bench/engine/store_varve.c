/*
 * store_varve.c - Varve through its C API, as an embedder uses it.
 *
 * Asynchronous operations have a slot each. Whoever completes one pushes the slot onto the session's stack;
 * the session's thread takes all that are there at once. It sleeps only when every slot is out: a commit
 * group wakes it once, through the group callback, and a read by itself.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/stack.h"
#include "base/sync.h"
#include "bench/engine/kinds.h"
#include "bench/report.h"
#include "engine/varve.h"

#define SESSIONS_MAX 128
/* Memory beside memtables, cache and tables: buffers of the log, of flushes, merges and cursors. */
#define BUFFER_BYTES (17u << 20)

typedef struct session session;

typedef struct slot {
    vv_stack_node node; /* first */
    session *owner;
    varve_batch *batch;
    uint64_t start_ns;
    uint64_t number; /* of a read: that the value must have */
} slot;

/* Where a session sleeps. It belongs to the store, so that a callback that is late finds it. */
typedef struct gate {
    vv_stack done;
    _Atomic uint32_t sleeping;
    atomic_bool taken;
} gate;

typedef struct varve {
    store base; /* first */
    varve_db *db;
    varve_write_options write;
    uint64_t fixed_bytes;
    _Atomic size_t gate_count; /* the first so many have been taken at some time */
    gate gates[SESSIONS_MAX];
} varve;

struct session {
    store_session base; /* first */
    varve_batch *batch; /* of write() */
    vv_histogram *latency_ns;
    slot *slots;
    size_t depth;
    vv_stack_node *free;
    size_t free_count;
    gate *gate; /* NULL without slots */
};

static void check(varve_status st, const char *what) {
    if (!varve_ok(st))
        report_die("varve: %s: %s, %s", what, varve_code_name(st.code), varve_reason_name(st.reason));
}

static const char *version(void) {
    return varve_version();
}

static void set(varve_options *o, const char *key, uint64_t value) {
    char text[32];
    varve_error err;
    snprintf(text, sizeof text, "%" PRIu64 "%s", value, strstr(key, "COUNT") ? "" : "B");
    if (!varve_ok(varve_options_set(o, key, text, &err)))
        report_die("varve: %s", err.text);
}

static void wake(gate *g) {
    if (atomic_load_explicit(&g->sleeping, memory_order_seq_cst) && !vv_stack_empty(&g->done)) {
        atomic_store_explicit(&g->sleeping, 0, memory_order_seq_cst);
        vv_futex_wake(&g->sleeping, 1);
    }
}

static void group_done(void *arg) {
    varve *v = arg;
    gate *end = v->gates + atomic_load_explicit(&v->gate_count, memory_order_acquire);
    for (gate *g = v->gates; g < end; g++)
        if (atomic_load_explicit(&g->sleeping, memory_order_relaxed))
            wake(g);
}

static store *varve_store_open(const store_config *c) {
    varve *v = calloc(1, sizeof *v);
    varve_options *o = varve_options_create();
    varve_error err;
    if (!v || !o)
        report_die("out of memory");
    v->base.kind = &store_varve;
    v->write.durability = c->durable ? VARVE_DURABILITY_SYNC : VARVE_DURABILITY_ASYNC;
    set(o, "MEMTABLE_SIZE", c->memtable_bytes);
    set(o, "CACHE_CAPACITY", c->cache_bytes);
    varve_options_set_group_callback(o, group_done, v);
    char immutable[32] = "";
    varve_options_get(o, "MAX_IMMUTABLE_COUNT", immutable, sizeof immutable);
    v->fixed_bytes = c->memtable_bytes * (strtoull(immutable, NULL, 10) + 1) + c->cache_bytes + BUFFER_BYTES;
    if (!varve_ok(varve_open(c->dir, o, &v->db, &err)))
        report_die("varve: %s", err.text);
    varve_options_destroy(o);
    return &v->base;
}

static void varve_store_close(store *s) {
    varve *v = (varve *)s;
    check(varve_close(v->db), "close");
    free(v);
}

/* A durable write makes all before it durable; this one changes nothing. */
static void sync_all(store *s) {
    check(varve_delete(((varve *)s)->db, "no such key", 11, NULL, NULL), "sync");
}

static void compact(store *s) {
    check(varve_compact(((varve *)s)->db), "compact");
}

static uint64_t memory_bound(store *s) {
    varve *v = (varve *)s;
    varve_stats stats;
    varve_stats_get(v->db, &stats);
    return v->fixed_bytes + stats.table_memory_bytes;
}

static store_session *session_open(store *s, size_t depth, vv_histogram *latency_ns) {
    varve *v = (varve *)s;
    session *x = calloc(1, sizeof *x);
    if (!x || !(x->batch = varve_batch_create()) || !(x->slots = calloc(depth + 1, sizeof *x->slots)))
        report_die("out of memory");
    x->base.owner = s;
    x->latency_ns = latency_ns;
    x->depth = x->free_count = depth;
    for (size_t i = 0; i < depth; i++) {
        x->slots[i].owner = x;
        x->slots[i].batch = varve_batch_create();
        if (!x->slots[i].batch)
            report_die("out of memory");
        x->slots[i].node.next = x->free;
        x->free = &x->slots[i].node;
    }
    for (gate *g = v->gates; depth > 0 && !x->gate; g++) {
        bool free_one = false;
        if (g == v->gates + SESSIONS_MAX)
            report_die("varve: more than %d sessions", SESSIONS_MAX);
        if (atomic_compare_exchange_strong(&g->taken, &free_one, true))
            x->gate = g;
        size_t count = (size_t)(g - v->gates) + 1, known = atomic_load(&v->gate_count);
        while (known < count && !atomic_compare_exchange_weak(&v->gate_count, &known, count))
            continue;
    }
    return &x->base;
}

/* Take what is done; without anything, and if told to, sleep until there is. */
static void reap(session *x, bool wait) {
    vv_stack_node *node;
    gate *g = x->gate;
    while (!(node = vv_stack_take_all(&g->done)) && wait) {
        atomic_store_explicit(&g->sleeping, 1, memory_order_seq_cst);
        if (vv_stack_empty(&g->done))
            vv_futex_wait_for(&g->sleeping, 1, VV_NS_PER_S);
        atomic_store_explicit(&g->sleeping, 0, memory_order_relaxed);
    }
    uint64_t now = node ? vv_clock_mono_ns() : 0;
    while (node) {
        vv_stack_node *next = node->next;
        if (x->latency_ns)
            vv_histogram_record(x->latency_ns, now - ((slot *)node)->start_ns);
        node->next = x->free;
        x->free = node;
        x->free_count++;
        node = next;
    }
}

static slot *take_slot(session *x) {
    while (!x->free)
        reap(x, true);
    slot *sl = (slot *)x->free;
    x->free = sl->node.next;
    x->free_count--;
    sl->start_ns = vv_clock_mono_ns();
    return sl;
}

static void drain(store_session *base) {
    session *x = (session *)base;
    while (x->free_count < x->depth)
        reap(x, true);
}

static void session_close(store_session *base) {
    session *x = (session *)base;
    drain(base);
    if (x->gate)
        atomic_store(&x->gate->taken, false);
    for (size_t i = 0; i < x->depth; i++)
        varve_batch_destroy(x->slots[i].batch);
    varve_batch_destroy(x->batch);
    free(x->slots);
    free(x);
}

static void put(store_session *base, const char *key, const void *value, size_t value_bytes) {
    varve *v = (varve *)base->owner;
    check(varve_put(v->db, key, WORKLOAD_KEY_BYTES, value, value_bytes, &v->write, NULL), "put");
}

static void varve_store_remove(store_session *base, const char *key) {
    varve *v = (varve *)base->owner;
    check(varve_delete(v->db, key, WORKLOAD_KEY_BYTES, &v->write, NULL), "delete");
}

static void write_entries(store_session *base, const store_entry *entries, size_t count) {
    varve *v = (varve *)base->owner;
    session *x = (session *)base;
    varve_batch_clear(x->batch);
    for (size_t i = 0; i < count; i++)
        check(varve_batch_put(x->batch, entries[i].key, WORKLOAD_KEY_BYTES, entries[i].value,
                              entries[i].value_bytes),
              "batch");
    check(varve_write(v->db, x->batch, &v->write, NULL), "write");
}

static bool get(store_session *base, const char *key, uint64_t *number_out) {
    varve_value value;
    varve_status st = varve_get(((varve *)base->owner)->db, key, WORKLOAD_KEY_BYTES, &value);
    if (st.code == VARVE_NOT_FOUND)
        return false;
    check(st, "get");
    *number_out = workload_value_number(value.data);
    varve_value_release(&value);
    return true;
}

static size_t scan(store_session *base, const char *key, size_t count) {
    varve_iter *it;
    varve_entry e;
    volatile uint64_t touched = 0;
    size_t n = 0;
    check(varve_iter_create(((varve *)base->owner)->db, NULL, &it), "iterator");
    for (varve_iter_seek(it, key, WORKLOAD_KEY_BYTES); n < count && varve_iter_valid(it);
         varve_iter_next(it)) {
        varve_iter_entry(it, &e);
        touched += workload_value_number(e.value) + *(const unsigned char *)e.key;
        n++;
    }
    check(varve_iter_status(it), "scan");
    varve_iter_destroy(it);
    return n;
}

static void put_done(void *arg, varve_status status, uint64_t lsn) {
    slot *sl = arg;
    (void)lsn;
    check(status, "write_async");
    vv_stack_push(&sl->owner->gate->done, &sl->node); /* group_done() wakes */
}

static void put_async(store_session *base, const char *key, const void *value, size_t value_bytes) {
    varve *v = (varve *)base->owner;
    slot *sl = take_slot((session *)base);
    varve_batch_clear(sl->batch);
    check(varve_batch_put(sl->batch, key, WORKLOAD_KEY_BYTES, value, value_bytes), "batch");
    varve_write_async(v->db, sl->batch, &v->write, put_done, sl);
}

static void get_done(void *arg, varve_status status, varve_value *value) {
    slot *sl = arg;
    check(status, "get_async");
    if (workload_value_number(value->data) != sl->number)
        report_die("varve: a key has another's value");
    varve_value_release(value);
    gate *g = sl->owner->gate; /* the slot may be taken again once it is pushed */
    vv_stack_push(&g->done, &sl->node);
    wake(g);
}

static void get_async(store_session *base, const char *key, uint64_t number) {
    slot *sl = take_slot((session *)base);
    sl->number = number;
    varve_get_async(((varve *)base->owner)->db, NULL, key, WORKLOAD_KEY_BYTES, get_done, sl);
}

const store_kind store_varve = {
    .name = "varve",
    .abilities = STORE_KEEPS_KEYS | STORE_READS_COLD | STORE_HAS_CALLBACKS,
    .version = version,
    .open = varve_store_open,
    .close = varve_store_close,
    .sync = sync_all,
    .compact = compact,
    .memory_bound = memory_bound,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .remove = varve_store_remove,
    .write = write_entries,
    .get = get,
    .scan = scan,
    .put_async = put_async,
    .get_async = get_async,
    .drain = drain,
};
