/*
 * read_async.c - lookups that don't wait for the disk, and many at once; reads for cursors.
 *
 *   caller:   step machine --in memory--> answer                       no other thread, no ring
 *                          --wants something--> reader's stack
 *   reader:   takes all, reads through its ring what each wants, steps on when a block arrives, answers
 *
 * One thread and one ring serve all: a ring saturates the device at a depth of 16 to 32, with a sixth of the
 * processor time of as many threads. While reads are in flight the thread waits for them, and takes what was
 * pushed meanwhile with the next completion; only when nothing is in flight does it sleep on a futex.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"

#define READ_DEPTH 128

/* Of many reads in flight so many are waited for at once: one in READS_PER_WAIT, and no more than that. */
#define READS_PER_WAIT 8
#define READS_TO_WAIT  4

typedef struct async_get {
    vv_stack_node node;
    varve_db *db;
    vv_get get;
    vv_io_req req;
    vv_block *block; /* being read */
    varve_trace *trace;
    uint64_t queued_ns; /* of traced ones */
    varve_get_fn done;
    void *arg;
    uint8_t key[];
} async_get;

/* ---- answering ---- */

static void answer(varve_db *db, vv_get *g, varve_get_fn done, void *arg) {
    varve_value value;
    varve_status st = vv_public(g->status);
    vv_db_value_take(db, g, &value);
    vv_get_deinit(g);
    vv_db_view_release(db, g->view);
    done(arg, st, &value);
}

static void finish(async_get *a) {
    varve_db *db = a->db;
    vv_get g = a->get;
    varve_get_fn done = a->done;
    void *arg = a->arg;
    if (a->trace) {
        a->trace->block_ns = vv_clock_mono_ns() - a->queued_ns;
        a->trace->block_reads = a->get.block_reads;
    }
    /* The key is in `a`, but the answer no longer needs it. */
    answer(db, &g, done, arg);
    vv_free(a);
}

/* ---- the reader thread ---- */

static void go_on(async_get *a, vv_io_queue *queue);

static void block_read(vv_io_req *req) {
    async_get *a = VV_CONTAINER_OF(req, async_get, req);
    varve_db *db = a->db;
    vv_status st = req->status;
    vv_block *block = NULL;
    if (vv_ok(st))
        st = vv_block_cache_complete(db->blocks, a->get.reader, a->block, req->transferred_bytes, &block,
                                     NULL);
    else
        vv_block_cache_discard(db->blocks, a->block);
    vv_get_supply_block(&a->get, st, block);
    go_on(a, req->arg);
}

static void read_block(async_get *a, vv_io_queue *queue) {
    varve_db *db = a->db;
    vv_get *g = &a->get;
    a->block = vv_block_cache_allocate(db->blocks, vv_sst_reader_file_number(g->reader), g->block_handle);
    if (!a->block) {
        vv_get_supply_block(g, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), NULL);
        go_on(a, queue);
        return;
    }
    a->req = (vv_io_req){.op = VV_IO_READ,
                         .file = vv_sst_reader_file(g->reader),
                         .buf = a->block->data,
                         .offset = a->block->offset,
                         .bytes = a->block->bytes,
                         .done = block_read,
                         .arg = queue};
    vv_io_submit(queue, &a->req);
}

static void go_on(async_get *a, vv_io_queue *queue) {
    for (;;) {
        switch (vv_get_step(&a->get)) {
        case VV_GET_DONE: finish(a); return;
        case VV_GET_WANTS_TABLE: vv_db_bring_table(a->db, &a->get, NULL); break;
        case VV_GET_WANTS_BLOCK: read_block(a, queue); return;
        }
    }
}

/* Without a ring of its own the thread reads like everybody else. */
static void serve_blocking(async_get *a) {
    vv_status_ignore(vv_db_lookup_resume(a->db, &a->get), "it is in the lookup");
    finish(a);
}

/* The read-ahead of a cursor: two reads at most for each table that it goes through. */
static void serve_fetches(varve_db *db, vv_io_queue *queue) {
    vv_stack_node *node = vv_stack_take_all(&db->reader.fetches);
    while (node) {
        vv_stack_node *next = node->next;
        vv_io_req *req = &VV_CONTAINER_OF(node, vv_sst_fetch, node)->req;
        if (queue) {
            vv_io_submit(queue, req);
        } else {
            size_t read_bytes = 0;
            req->status = vv_file_read(req->file, req->buf, req->bytes, req->offset, &read_bytes);
            req->transferred_bytes = (uint32_t)read_bytes;
            req->done(req);
        }
        node = next;
    }
}

static bool nothing_to_do(varve_db *db) {
    return vv_stack_empty(&db->reader.queue) && vv_stack_empty(&db->reader.fetches);
}

static void sleep_if_idle(varve_db *db) {
    /* seq_cst: either the pusher sees that this thread sleeps, or this thread sees its push. */
    atomic_store_explicit(&db->reader.sleeps, 1, memory_order_seq_cst);
    if (nothing_to_do(db) && !atomic_load_explicit(&db->reader.stop, memory_order_seq_cst))
        vv_futex_wait(&db->reader.sleeps, 1);
    atomic_store_explicit(&db->reader.sleeps, 0, memory_order_seq_cst);
}

static void rouse(varve_db *db) {
    if (atomic_exchange_explicit(&db->reader.sleeps, 0, memory_order_seq_cst))
        vv_futex_wake(&db->reader.sleeps, 1);
}

static vv_io_queue *make_queue(varve_db *db) {
    vv_io_queue *queue = NULL;
    vv_error err = {.text = ""};
    vv_io_queue_options o = {.depth = READ_DEPTH};
    vv_status st = vv_io_queue_create(db->io, &o, &queue, &err);
    if (!vv_ok(st))
        vv_log(&db->logger, VV_LOG_WARN, "no ring for reads, so that asynchronous ones come one by one: %s",
               err.text);
    return queue;
}

/*
 * How many reads to wait for. Those who have been answered mostly come with their next one while this thread
 * sleeps, and what they push is only submitted when it wakes. If it woke for each read, every one would have
 * a sleep, a submission and a notification of the device of its own. The device has enough to do meanwhile.
 */
static uint32_t reads_to_wait(const vv_io_queue *queue) {
    return VV_MIN(VV_MAX(queue->in_flight / READS_PER_WAIT, 1U), (uint32_t)READS_TO_WAIT);
}

/* Wait for reads. If the ring breaks, its requests fail, each lookup says so, and later ones get another. */
static void wait_for_read(varve_db *db, vv_io_queue **queue) {
    vv_status st = vv_io_run(*queue, reads_to_wait(*queue), NULL);
    if (vv_ok(st) || (*queue)->in_flight > 0)
        return;
    vv_io_queue_destroy(*queue);
    *queue = make_queue(db);
}

void vv_db_reader(void *arg) {
    varve_db *db = arg;
    vv_io_queue *queue = make_queue(db);
    for (;;) {
        vv_stack_node *node = vv_stack_take_all(&db->reader.queue);
        while (node) {
            vv_stack_node *next = node->next;
            async_get *a = VV_CONTAINER_OF(node, async_get, node);
            if (queue)
                go_on(a, queue);
            else
                serve_blocking(a);
            node = next;
        }
        serve_fetches(db, queue);
        if (queue && queue->in_flight > 0)
            wait_for_read(db, &queue);
        else if (nothing_to_do(db) && atomic_load_explicit(&db->reader.stop, memory_order_seq_cst))
            break;
        else
            sleep_if_idle(db);
    }
    vv_io_queue_destroy(queue);
}

void vv_db_reader_stop(varve_db *db) {
    if (!db->reader.thread_started)
        return;
    atomic_store_explicit(&db->reader.stop, true, memory_order_seq_cst);
    rouse(db);
    vv_thread_join(db->reader.thread);
    db->reader.thread_started = false;
}

/* ---- callers ---- */

void vv_db_fetch(void *arg, vv_sst_fetch *f) {
    varve_db *db = arg;
    (void)vv_stack_push(&db->reader.fetches, &f->node);
    if (atomic_load_explicit(&db->reader.sleeps, memory_order_seq_cst))
        rouse(db);
}

/* Start a lookup at `lsn` in `view`, one reference of which is taken over. */
static void start(varve_db *db, vv_view *view_take, uint64_t lsn, vv_slice key, varve_trace *trace,
                  varve_get_fn done, void *arg) {
    vv_get g;
    uint64_t begun_ns = trace ? vv_clock_mono_ns() : 0, queued_ns = 0;
    vv_get_init(&g, view_take, db->tables, db->blocks, key, lsn);
    vv_get_want want = vv_get_step(&g);
    if (trace) {
        queued_ns = vv_clock_mono_ns();
        *trace = (varve_trace){.memtable_ns = queued_ns - begun_ns};
    }
    if (want == VV_GET_DONE) {
        answer(db, &g, done, arg);
        return;
    }
    async_get *a = vv_alloc(sizeof *a + key.bytes);
    if (!a) {
        g.status = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        answer(db, &g, done, arg);
        return;
    }
    a->db = db;
    a->get = g;
    a->trace = trace;
    a->queued_ns = queued_ns;
    a->done = done;
    a->arg = arg;
    a->block = NULL;
    memcpy(a->key, key.data, key.bytes);
    a->get.key.data = a->key;
    (void)vv_stack_push(&db->reader.queue, &a->node);
    if (atomic_load_explicit(&db->reader.sleeps, memory_order_seq_cst))
        rouse(db);
}

void varve_get_async(varve_db *db, const varve_snapshot *snapshot, const void *key, size_t key_bytes,
                     varve_get_fn done, void *arg) {
    varve_get_async_traced(db, snapshot, key, key_bytes, NULL, done, arg);
}

void varve_get_async_traced(varve_db *db, const varve_snapshot *snapshot, const void *key, size_t key_bytes,
                            varve_trace *trace, varve_get_fn done, void *arg) {
    vv_status st = vv_db_check_key(key_bytes);
    if (!vv_ok(st)) {
        varve_value none = {0};
        done(arg, vv_public(st), &none);
        return;
    }
    uint64_t lsn;
    vv_view *view = vv_db_view(db, &lsn);
    start(db, view, snapshot ? snapshot->lsn : lsn, vv_slice_make(key, key_bytes), trace, done, arg);
}

/* What the answers of one varve_multi_get() share. */
typedef struct lookup_latch {
    _Atomic uint32_t left;
} lookup_latch;

typedef struct latched_lookup {
    varve_lookup *lookup;
    lookup_latch *latch;
} latched_lookup;

static void lookup_done(void *arg, varve_status st, varve_value *value) {
    latched_lookup *l = arg;
    lookup_latch *latch = l->latch;
    l->lookup->status = st;
    l->lookup->value = *value;
    /* release: the caller, who sees 0, sees all answers. It may return at once: the word is touched no more,
     * and a wake of a word that is gone wakes nobody. */
    if (atomic_fetch_sub_explicit(&latch->left, 1, memory_order_acq_rel) == 1)
        vv_futex_wake(&latch->left, 1);
}

varve_status varve_multi_get(varve_db *db, const varve_snapshot *snapshot, varve_lookup *lookups,
                             size_t count) {
    if (count == 0)
        return vv_public(VV_STATUS_OK);
    latched_lookup *latched = count <= UINT32_MAX ? vv_alloc(count * sizeof *latched) : NULL;
    if (!latched)
        return vv_public(vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0));
    lookup_latch latch;
    atomic_init(&latch.left, (uint32_t)count);
    uint64_t lsn;
    vv_view *view = vv_db_view(db, &lsn);
    for (size_t i = 0; i < count; i++) {
        latched[i] = (latched_lookup){.lookup = &lookups[i], .latch = &latch};
        vv_status st = vv_db_check_key(lookups[i].key_bytes);
        varve_value none = {0};
        if (!vv_ok(st)) {
            lookup_done(&latched[i], vv_public(st), &none);
            continue;
        }
        vv_view_ref(view);
        start(db, view, snapshot ? snapshot->lsn : lsn, vv_slice_make(lookups[i].key, lookups[i].key_bytes),
              NULL, lookup_done, &latched[i]);
    }
    for (uint32_t left; (left = atomic_load_explicit(&latch.left, memory_order_acquire)) > 0;)
        vv_futex_wait(&latch.left, left);
    vv_db_view_release(db, view);
    vv_free(latched);
    return vv_public(VV_STATUS_OK);
}
