/*
 * service_pipeline.c - KV.Pipeline: many operations under way over one stream.
 *
 *   message --> ops --+--> get  --varve_get_async()-----------------> answer --+--> chunks --> stream
 *                     +--> puts, deletes --> run --varve_write_async()--> answers
 *
 * Operations start in the order in which they came, and that is what makes them ordered per key: writes of
 * one thread keep their order in the engine's queue, and a get reads the state of the moment in which it
 * starts. One case needs more: a get behind a write of the same key that is still under way. It is answered
 * from that write, once that is done, so that nothing has to wait for it.
 *
 * Neighbouring puts (or deletes) of a message go to the engine as one batch, a "run": one entry in the queue,
 * one record in the log. Puts and deletes are kept apart, since a full disk refuses the former and takes the
 * latter; a write with a sequence is a run of its own, since the engine remembers one for each batch.
 *
 * Bounds: operations in flight (PIPELINE_MAX_IN_FLIGHT), reads of them that wait for the disk, and bytes of
 * answers that the client has not taken. Whatever is reached, nothing more is started or read from the stream
 * until there is room; so a client that does not read its answers is stopped by flow control, and costs no
 * more than that.
 *
 * The stream's thread owns everything. Completions come from the committing and the reader thread as tasks.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "rpc/access.h"
#include "rpc/kv_impl.h"
#include "rpc/pipeline_codec.h"
#include "rpc/status_map.h"

#define RUN_OPS_MAX 256
#define RUN_BYTES_MAX                                                                                        \
    ((size_t)48 << 10)        /* less than any MAX_BATCH_SIZE; a larger operation is a run alone             \
                               */
#define TURN_OPS_MAX     1024 /* in one go: other calls wait for the same thread */
#define CHUNK_BYTES      ((size_t)32 << 10) /* of answers that go out together */
#define ANSWER_BYTES_MAX ((size_t)1 << 20)  /* not yet sent: nothing more is started beyond that */
#define MISSES_MAX       64                 /* gets that wait for the disk, of small values */
#define BUCKETS          2048               /* for writes in flight; a power of two */

typedef struct pipeline pipeline;
typedef struct run run;

/* A write in flight, to be found by its key. */
typedef struct pending_write {
    struct pending_write *next; /* in its bucket, newer first */
    uint64_t hash;
    run *run;
    uint32_t index; /* in the run */
} pending_write;

/* A get that is answered from a write in flight. */
typedef struct follower {
    struct follower *next;
    uint64_t id;
    uint32_t index;
} follower;

struct run {
    vv_rpc_task task; /* it is done */
    run *next_free;
    pipeline *p;
    varve_batch *batch;
    varve_status status;
    uint64_t lsn;
    bool deletes;
    uint32_t count;
    size_t bytes;
    follower *followers, **followers_end;
    uint64_t ids[RUN_OPS_MAX];
    pending_write pending[RUN_OPS_MAX];
};

/* A get under way. */
typedef struct lookup {
    vv_rpc_task task;
    struct lookup *next_free;
    pipeline *p;
    uint64_t id;
    varve_status status;
    varve_value value;
} lookup;

/* Answers as they go out. */
typedef struct chunk {
    struct chunk *next;
    size_t bytes, capacity, sent;
    bool packed; /* is one message; else each answer is one */
    uint8_t data[];
} chunk;

struct pipeline {
    vv_rpc_call *call;
    vv_kv *kv;
    pthread_t thread;
    uint64_t seed; /* of the hash of keys, so that nobody can choose keys that collide */

    vv_pipeline_message message;
    size_t next_op; /* the first of the message that is not started */
    run *building;  /* the run that takes the next write */

    uint64_t in_flight; /* operations started and not answered */
    uint64_t misses;    /* gets among them that have not come back at once */
    uint64_t jobs;      /* tasks that will come: runs and lookups */
    size_t value_bytes; /* of values lately, to bound misses */
    size_t answer_bytes;
    chunk *first, **last_link, *last;

    vv_rpc_task turn_task;
    bool turn_posted;
    bool packed; /* answers go out many to a message */
    bool reading, writing, half_closed;
    bool ending;    /* nothing more is started; ends when all is answered */
    bool cancelled; /* answers go nowhere */
    bool failed;    /* ends with this: */
    vv_rpc_status failure;

    run *free_runs;
    lookup *free_lookups;
    pending_write **buckets; /* NULL while no write is in flight */
};

static pipeline *pipeline_of(vv_rpc_call *call) {
    pipeline *p;
    memcpy(&p, call->state, sizeof p);
    return p;
}

/* ---- answers ---- */

/* Room for one answer at the end of the last chunk; NULL: no memory. */
static uint8_t *answer_room(pipeline *p, size_t bytes) {
    size_t need = bytes + 2 * VV_CODEC_VARINT_BYTES_MAX;
    if (p->last && p->last->packed == p->packed && p->last->capacity - p->last->bytes >= need)
        return p->last->data + p->last->bytes;
    size_t capacity = VV_MAX(need, CHUNK_BYTES);
    chunk *c = vv_alloc(sizeof *c + capacity);
    if (!c)
        return NULL;
    *c = (chunk){.capacity = capacity, .packed = p->packed};
    *p->last_link = c;
    p->last_link = &c->next;
    p->last = c;
    return c->data;
}

/*
 * Write an answer of at most `bytes` by `put`, behind its length: in a packed message as field `more` of
 * PipelineResponse, else just so that send() finds its end. The length comes before what is not yet written,
 * so it gets as many bytes as it needs at most, and the answer is moved up to it.
 */
#define MORE_FIELD 3

static void answer_done(pipeline *p, uint8_t *room, uint8_t *body, const uint8_t *body_end) {
    size_t bytes = (size_t)(body_end - body);
    uint8_t *at =
        p->packed ? vv_codec_put_bytes_header(room, MORE_FIELD, bytes) : vv_codec_put_varint(room, bytes);
    memmove(at, body, bytes);
    size_t grown = (size_t)(at - room) + bytes;
    p->last->bytes += grown;
    p->answer_bytes += grown;
    p->in_flight--;
}

/* The stream cannot go on: an answer would be missing. */
static void end_with(pipeline *p, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                     const char *words) {
    p->ending = true;
    if (!p->failed)
        vv_rpc_status_set(&p->failure, code, reason, retry_ms, "%s", words);
    p->failed = true;
}

static uint8_t *begin_answer(pipeline *p, size_t bytes, uint8_t **body) {
    uint8_t *room = p->cancelled ? NULL : answer_room(p, VV_PIPELINE_ANSWER_BYTES + bytes);
    *body = room ? room + VV_CODEC_VARINT_BYTES_MAX : NULL;
    if (room)
        return room;
    p->in_flight--;
    if (!p->cancelled)
        end_with(p, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", 1000, "no memory for an answer");
    return NULL;
}

static void answer_status(pipeline *p, uint64_t id, const vv_rpc_status *status) {
    uint8_t *body, *room = begin_answer(p, status->details_bytes, &body);
    if (room)
        answer_done(p, room, body,
                    vv_pipeline_put_error(body, id, vv_slice_make(status->details, status->details_bytes)));
}

static void answer_error(pipeline *p, uint64_t id, varve_status st) {
    vv_rpc_status status;
    vv_rpc_status_from_engine(&status, st);
    answer_status(p, id, &status);
}

static void answer_written(pipeline *p, uint64_t id, uint64_t lsn) {
    uint8_t *body, *room = begin_answer(p, 0, &body);
    if (room)
        answer_done(p, room, body, vv_pipeline_put_written(body, id, lsn));
}

static void answer_value(pipeline *p, uint64_t id, const varve_value *value) {
    p->value_bytes = VV_MAX(value->bytes, p->value_bytes - p->value_bytes / 8);
    uint8_t *body, *room = begin_answer(p, value->bytes, &body);
    if (room)
        answer_done(p, room, body, vv_pipeline_put_found(body, id, value));
}

static void answer_missing(pipeline *p, uint64_t id) {
    uint8_t *body, *room = begin_answer(p, 0, &body);
    if (room)
        answer_done(p, room, body, vv_pipeline_put_missing(body, id));
}

/* ---- what goes out ---- */

static void pop_chunk(pipeline *p) {
    chunk *c = p->first;
    p->first = c->next;
    if (!p->first) {
        p->last_link = &p->first;
        p->last = NULL;
    }
    vv_free(c);
}

/* The next answer of a chunk that is sent one by one. */
static vv_slice next_answer(chunk *c) {
    uint64_t bytes = 0;
    const uint8_t *at = c->data + c->sent;
    for (uint32_t shift = 0;; shift += 7) {
        bytes |= (uint64_t)(*at & 0x7f) << shift;
        if (*at++ < 0x80)
            break;
    }
    return vv_slice_make(at, bytes);
}

static void send(pipeline *p) {
    if (p->writing || !p->first || p->cancelled)
        return;
    chunk *c = p->first;
    p->writing = true;
    if (c->packed) {
        p->answer_bytes -= c->bytes;
        vv_rpc_stream_write(p->call, vv_rpc_body_copy(c->data, c->bytes));
        pop_chunk(p);
        return;
    }
    vv_slice answer = next_answer(c);
    size_t taken = (size_t)((const uint8_t *)answer.data + answer.bytes - (c->data + c->sent));
    c->sent += taken;
    p->answer_bytes -= taken;
    vv_rpc_body body = vv_rpc_body_copy(answer.data, answer.bytes);
    if (c->sent < c->bytes || c->next)
        vv_rpc_stream_write_more(p->call, body);
    else
        vv_rpc_stream_write(p->call, body);
    if (c->sent == c->bytes)
        pop_chunk(p);
}

/* ---- writes ---- */

static run *run_new(pipeline *p) {
    run *r = p->free_runs;
    if (r) {
        p->free_runs = r->next_free;
        varve_batch_clear(r->batch);
    } else {
        r = vv_alloc(sizeof *r);
        varve_batch *batch = r ? varve_batch_create() : NULL;
        if (!batch) {
            vv_free(r);
            return NULL;
        }
        r->batch = batch;
        r->p = p;
    }
    r->count = 0;
    r->bytes = 0;
    r->followers = NULL;
    r->followers_end = &r->followers;
    return r;
}

static void run_free(run *r) {
    varve_batch_destroy(r->batch);
    vv_free(r);
}

static pending_write **bucket_of(pipeline *p, uint64_t hash) {
    return &p->buckets[hash & (BUCKETS - 1)];
}

static void pending_remove(pipeline *p, pending_write *w) {
    pending_write **at = bucket_of(p, w->hash);
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
}

static bool op_at(const run *r, uint32_t index, varve_batch_op *out) {
    size_t position = 0;
    for (uint32_t i = 0; varve_batch_next(r->batch, &position, out); i++)
        if (i == index)
            return true;
    return false;
}

/* The newest write of the key that is in flight. */
static pending_write *pending_find(pipeline *p, uint64_t hash, vv_slice key) {
    for (pending_write *w = p->buckets ? *bucket_of(p, hash) : NULL; w; w = w->next) {
        varve_batch_op op;
        if (w->hash == hash && op_at(w->run, w->index, &op) &&
            vv_slice_equal(key, vv_slice_make(op.key, op.key_bytes)))
            return w;
    }
    return NULL;
}

static void answer_follower(pipeline *p, const run *r, const follower *f) {
    varve_batch_op op;
    if (!varve_ok(r->status)) {
        answer_error(p, f->id, r->status); /* whether the write before it happened is not known for sure */
        return;
    }
    bool there = op_at(r, f->index, &op) && !op.deleted;
    if (there && op.expires_unix_ms != 0 && op.expires_unix_ms <= vv_clock_unix_ms())
        there = false;
    if (!there) {
        answer_missing(p, f->id);
        return;
    }
    varve_value value = {.data = op.value,
                         .bytes = op.value_bytes,
                         .lsn = r->lsn - (r->count - 1 - f->index),
                         .expires_unix_ms = op.expires_unix_ms};
    answer_value(p, f->id, &value);
}

static void step(pipeline *p);

static void run_finished(vv_rpc_task *task) {
    run *r = VV_CONTAINER_OF(task, run, task);
    pipeline *p = r->p;
    p->jobs--;
    r->status = vv_kv_outcome(p->kv, r->status);
    vv_kv_note_write(p->kv, r->status);
    for (uint32_t i = 0; i < r->count; i++) {
        pending_remove(p, &r->pending[i]);
        if (varve_ok(r->status))
            answer_written(p, r->ids[i], r->lsn - (r->count - 1 - i));
        else
            answer_error(p, r->ids[i], r->status);
    }
    while (r->followers) {
        follower *f = r->followers;
        r->followers = f->next;
        answer_follower(p, r, f);
        vv_free(f);
    }
    r->next_free = p->free_runs;
    p->free_runs = r;
    step(p);
}

/* On the committing thread, or at once where the engine refuses, or has done it. */
static void write_done(void *arg, varve_status st, uint64_t lsn) {
    run *r = arg;
    r->status = st;
    r->lsn = lsn;
    vv_rpc_post_task(r->p->call, &r->task);
}

/* Hand over the run that is being built. */
static void submit_run(pipeline *p, uint64_t sequence) {
    run *r = p->building;
    p->building = NULL;
    if (!r)
        return;
    if (r->count == 0) { /* the one write for it was refused */
        r->next_free = p->free_runs;
        p->free_runs = r;
        return;
    }
    varve_write_options options = {.durability = VARVE_DURABILITY_SYNC,
                                   .confirm_deadline_ns =
                                       vv_kv_confirm_deadline(p->kv, p->call->deadline_ns)};
    if (p->message.durability == VARVE__V1__DURABILITY__DURABILITY_ASYNC)
        options.durability = VARVE_DURABILITY_ASYNC;
    if (sequence != 0) {
        options.client_id = vv_kv_client_id(p->call, p->message.client_id);
        options.sequence = sequence;
    }
    r->task.fn = run_finished;
    p->jobs++;
    varve_write_async(p->kv->db, r->batch, &options, write_done, r);
}

static varve_status add_to_batch(run *r, const vv_pipeline_op *op) {
    if (op->kind == VV_PIPELINE_DELETE)
        return varve_batch_delete(r->batch, op->key.data, op->key.bytes);
    return varve_batch_put_expiring(r->batch, op->key.data, op->key.bytes, op->value.data, op->value.bytes,
                                    vv_kv_expiry(op->ttl_ms));
}

static void start_write(pipeline *p, const vv_pipeline_op *op) {
    bool deletes = op->kind == VV_PIPELINE_DELETE;
    bool alone = op->sequence != 0;
    size_t bytes = op->key.bytes + op->value.bytes;
    run *r = p->building;
    /* A run that is still empty, since the write that it was made for was refused, takes whatever comes. */
    if (r && r->count > 0 &&
        (alone || r->deletes != deletes || r->count == RUN_OPS_MAX || r->bytes + bytes > RUN_BYTES_MAX))
        submit_run(p, 0);
    if (!p->building)
        p->building = run_new(p);
    if (!p->buckets)
        p->buckets = vv_alloc_zeroed(BUCKETS * sizeof *p->buckets);
    r = p->building;
    varve_status st = {.code = VARVE_NO_MEMORY};
    if (r && p->buckets)
        st = op->value.bytes > p->kv->options.value_bytes_max
                 ? (varve_status){.code = VARVE_INVALID_ARGUMENT, .reason = VV_SUB_VALUE_TOO_LARGE}
                 : add_to_batch(r, op);
    if (!varve_ok(st)) {
        answer_error(p, op->id, st);
        return;
    }
    uint64_t hash = vv_checksum(op->key.data, op->key.bytes, p->seed);
    pending_write **bucket = bucket_of(p, hash);
    pending_write *w = &r->pending[r->count];
    *w = (pending_write){.next = *bucket, .hash = hash, .run = r, .index = r->count};
    *bucket = w;
    r->deletes = deletes;
    r->bytes += bytes;
    r->ids[r->count++] = op->id;
    if (alone)
        submit_run(p, op->sequence);
}

/* ---- gets ---- */

static void answer_lookup(pipeline *p, lookup *l) {
    if (varve_ok(l->status)) {
        answer_value(p, l->id, &l->value);
        varve_value_release(&l->value);
    } else if (l->status.code == VARVE_NOT_FOUND) {
        answer_missing(p, l->id);
    } else {
        vv_rpc_status status;
        vv_kv_read_status(&status, l->status, &l->value);
        answer_status(p, l->id, &status);
    }
    l->next_free = p->free_lookups;
    p->free_lookups = l;
}

static void lookup_finished(vv_rpc_task *task) {
    lookup *l = VV_CONTAINER_OF(task, lookup, task);
    pipeline *p = l->p;
    p->jobs--;
    p->misses--;
    answer_lookup(p, l);
    step(p);
}

/* On the reader thread, or at once where the answer is in memory. */
static void get_done(void *arg, varve_status st, varve_value *value) {
    lookup *l = arg;
    pipeline *p = l->p;
    l->status = st;
    l->value = *value;
    if (pthread_equal(pthread_self(), p->thread)) {
        p->jobs--;
        p->misses--;
        answer_lookup(p, l);
        return;
    }
    vv_rpc_waker waker = vv_rpc_waker_of(p->call);
    vv_rpc_post_task(p->call, &l->task);
    vv_rpc_wake(waker);
}

static void start_get(pipeline *p, const vv_pipeline_op *op) {
    pending_write *w = pending_find(p, vv_checksum(op->key.data, op->key.bytes, p->seed), op->key);
    if (w) {
        follower *f = vv_alloc(sizeof *f);
        if (!f) {
            answer_error(p, op->id, (varve_status){.code = VARVE_NO_MEMORY});
            return;
        }
        *f = (follower){.id = op->id, .index = w->index};
        *w->run->followers_end = f;
        w->run->followers_end = &f->next;
        return;
    }
    lookup *l = p->free_lookups;
    if (l)
        p->free_lookups = l->next_free;
    else
        l = vv_alloc(sizeof *l);
    if (!l) {
        answer_error(p, op->id, (varve_status){.code = VARVE_NO_MEMORY});
        return;
    }
    *l = (lookup){.task = {.fn = lookup_finished}, .p = p, .id = op->id};
    p->jobs++;
    p->misses++;
    varve_get_async(p->kv->db, NULL, op->key.data, op->key.bytes, get_done, l);
}

/* ---- the stream ---- */

/* Give back what only operations in flight need: there may be thousands of idle streams. */
static void release_storage(pipeline *p) {
    while (p->free_runs) {
        run *r = p->free_runs;
        p->free_runs = r->next_free;
        run_free(r);
    }
    while (p->free_lookups) {
        lookup *l = p->free_lookups;
        p->free_lookups = l->next_free;
        vv_free(l);
    }
    vv_free(p->buckets);
    p->buckets = NULL;
    vv_pipeline_message_deinit(&p->message);
    p->next_op = 0;
}

static void pipeline_free(pipeline *p) {
    while (p->first)
        pop_chunk(p);
    release_storage(p);
    vv_free(p);
}

static bool room_for_op(const pipeline *p) {
    size_t misses_max = VV_MAX(ANSWER_BYTES_MAX / VV_MAX(p->value_bytes, 1), 1);
    return p->in_flight < p->kv->options.pipeline_ops_max && p->answer_bytes < ANSWER_BYTES_MAX &&
           p->misses < VV_MIN(misses_max, (size_t)MISSES_MAX);
}

static void refuse_op(pipeline *p, uint64_t id, const char *reason, const char *words) {
    vv_rpc_status status;
    vv_rpc_status_set(&status, VV_RPC_INVALID_ARGUMENT, reason, 0, "%s", words);
    answer_status(p, id, &status);
}

/* A pipeline needs the right to read, as a call; its writes need theirs, each at the time when it comes; so
 * does a server that may stop being the primary meanwhile. Every operation counts. False: it has been
 * answered. */
static bool may_start(pipeline *p, const vv_pipeline_op *op) {
    bool reads = op->kind == VV_PIPELINE_GET;
    vv_rpc_access right = reads ? VV_RPC_READ : VV_RPC_WRITE;
    vv_replication *replication = p->kv->options.replication;
    vv_rpc_status why;
    if (vv_access_check(p->call, right, &why) && vv_rate_take(p->call, right, 1, &why) &&
        (reads ? vv_replication_may_read(replication, &why) : vv_replication_may_write(replication, &why)))
        return true;
    answer_status(p, op->id, &why);
    return false;
}

static void start_op(pipeline *p, const vv_pipeline_op *op) {
    p->in_flight++;
    if (p->message.durability > VARVE__V1__DURABILITY__DURABILITY_ASYNC)
        refuse_op(p, op->id, "BAD_DURABILITY", "durability is unknown");
    else if (op->kind == VV_PIPELINE_NONE)
        refuse_op(p, op->id, "OP_EMPTY", "the operation is neither get, put nor delete");
    else if (!may_start(p, op))
        return;
    else if (op->kind == VV_PIPELINE_GET)
        start_get(p, op);
    else
        start_write(p, op);
}

/* Start what there is room for. */
static void start_ops(pipeline *p) {
    size_t budget = TURN_OPS_MAX;
    while (!p->ending && p->next_op < p->message.count && budget > 0 && room_for_op(p)) {
        start_op(p, &p->message.ops[p->next_op++]);
        budget--;
    }
    submit_run(p, 0);
    if (budget == 0 && !p->turn_posted) {
        p->turn_posted = true;
        vv_rpc_post_task(p->call, &p->turn_task);
    }
}

/* End the call if all is over. True: it has ended, and p is gone. */
static bool end_if_over(pipeline *p) {
    if (p->half_closed && p->next_op == p->message.count)
        p->ending = true;
    if (!p->ending || p->jobs > 0 || p->turn_posted || p->writing || (p->first && !p->cancelled))
        return false;
    vv_rpc_call *call = p->call;
    if (p->cancelled)
        vv_rpc_fail_with(call, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled by the client");
    else if (p->failed)
        vv_rpc_fail(call, &p->failure);
    else
        vv_rpc_finish(call);
    pipeline_free(p);
    return true;
}

/* Whatever can be done now. p may be gone afterwards. */
static void step(pipeline *p) {
    start_ops(p);
    send(p);
    if (end_if_over(p))
        return;
    if (p->in_flight == 0 && p->next_op == p->message.count)
        release_storage(p);
    if (!p->reading && !p->half_closed && !p->ending && p->next_op == p->message.count && room_for_op(p)) {
        p->reading = true;
        vv_rpc_read_next(p->call);
    }
}

static void take_turn(vv_rpc_task *task) {
    pipeline *p = VV_CONTAINER_OF(task, pipeline, turn_task);
    p->turn_posted = false;
    step(p);
}

void vv_pipeline_on_call(vv_rpc_call *call, vv_slice request) {
    (void)request; /* a stream has none */
    pipeline *p = vv_alloc_zeroed(sizeof *p);
    if (!p) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", 1000, "no memory for a pipeline");
        return;
    }
    p->call = call;
    p->kv = call->service;
    p->thread = pthread_self();
    p->seed = p->kv->hash_seed;
    p->last_link = &p->first;
    p->turn_task.fn = take_turn;
    memcpy(call->state, &p, sizeof p);
    step(p);
}

void vv_pipeline_on_message(vv_rpc_call *call, vv_slice bytes) {
    pipeline *p = pipeline_of(call);
    p->reading = false;
    p->next_op = 0;
    if (!p->ending) {
        vv_status st = vv_pipeline_read(bytes, &p->message);
        if (vv_is(st, VV_INVALID_ARGUMENT))
            end_with(p, VV_RPC_INVALID_ARGUMENT, "MALFORMED", 0, "not a valid varve.v1.PipelineRequest");
        else if (vv_is(st, VV_BUSY))
            end_with(p, VV_RPC_INVALID_ARGUMENT, "TOO_MANY_OPS", 0, "a message has too many operations");
        else if (!vv_ok(st))
            end_with(p, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", 1000, "no memory for a message");
        else
            p->packed |= p->message.packed;
    }
    if (p->ending)
        p->message.count = 0;
    step(p);
}

void vv_pipeline_on_half_close(vv_rpc_call *call) {
    pipeline *p = pipeline_of(call);
    p->reading = false;
    p->half_closed = true;
    step(p);
}

void vv_pipeline_on_written(vv_rpc_call *call) {
    pipeline *p = pipeline_of(call);
    p->writing = false;
    step(p);
}

void vv_pipeline_on_cancelled(vv_rpc_call *call) {
    pipeline *p = pipeline_of(call);
    p->cancelled = true;
    p->ending = true;
    p->reading = false;
    p->writing = false;
    step(p);
}

void vv_pipeline_on_drain(vv_rpc_call *call) {
    pipeline *p = pipeline_of(call);
    end_with(p, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", 1000,
             "the server is shutting down; what has no answer was not done");
    step(p);
}
