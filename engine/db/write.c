/*
 * write.c - the write path: validation, the hand-off to the single writer, group commit.
 *
 *   caller --validate--> commit queue --take all--> [log append] --> [log write + sync || memtable]
 *             |                                       ^                       |
 *             +-- asynchronous, or nobody else is     |                       +--> visible --> answer
 *                 writing: the caller is the ---------+
 *                 writer itself (no hand-off)
 *
 * While commits are limited, others have their say before a write is visible and answered: commit_limit.c and
 * answer.c. Records of another database's log: apply.c.
 *
 * Why an acknowledged byte survives: a synchronous write is answered only after vv_wal_sync() returned OK for
 * the frame that holds its record; that frame is in a segment whose header, size and name were synced before
 * its first frame (engine/wal). If the sync fails, the database is latched: this group and every later one
 * gets WAL_FAILED, nothing of them becomes visible, and no sync is tried again.
 *
 * Invariants
 *   C1  LSNs are given in queue order, without gaps, to what the log has taken; the memtable gets all of
 *       that.
 *   C2  visible_lsn never passes what is in the memtable, nor, for groups with a synchronous write, what is
 *       durable.
 *   C3  A memtable is sealed only when everything in it is durable in the log, so that tables hold only
 *       such.
 *   C4  A vv_write is not touched after its `done` was stored: its frame may be gone.
 *   C5  A write that is named like one before it in queue order is not applied but answered with that one's
 *       LSN, and not before that one is as durable as this one asks: earlier asynchronous writes are synced
 *       with its group.
 *   C6  While commits are limited every write is synchronous, and conditions are judged by all that was
 *       committed before, visible or not: else two writes could both find a key absent.
 *   C7  Of one thread's writes each comes behind those before it, also behind those that it did not wait for:
 *       nobody commits inline while a write with a callback is in the queue. Blocking ones there are of other
 *       threads.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"

/* A group of no more is put into the memtable first and then written by one blocking call: the ring would let
 * both happen at once, but hands the sync to a thread of the kernel, which takes longer (durable puts of 16
 * and 64 threads: 55k and 160k a second by the ring, 70k and 180k without). */
#define INLINE_COUNT_MAX 64
#define INLINE_BYTES_MAX (UINT64_C(64) << 10)

/* A group is cut here, so that one commit never holds more than this (plus one record) in the log's buffers
 * and the active memtable never overshoots its size by more. */
#define GROUP_BYTES_MAX (UINT64_C(8) << 20)

static vv_status invalid(vv_sub sub) {
    return vv_status_make(VV_INVALID_ARGUMENT, sub, 0);
}

/* ---- the single writer: commit.lock is held in all of these ---- */

void vv_db_apply(vv_memtable_adder *to, uint64_t first_lsn, uint32_t op_count, vv_slice ops) {
    vv_reader r = vv_reader_make(ops);
    for (uint32_t i = 0; i < op_count; i++) {
        vv_entry e;
        vv_status st = vv_op_decode(&r, &e);
        VV_ASSERT(vv_ok(st));
        e.lsn = first_lsn + i;
        vv_memtable_adder_add(to, &e);
    }
}

static void apply(vv_memtable_adder *to, vv_write *w) {
    if (w->replicated) {
        vv_db_apply_records(to, w);
    } else if (w->part_count == 1) {
        vv_db_apply(to, w->first_lsn, w->op_count, w->parts[0]);
    } else {
        w->single.lsn = w->lsn;
        vv_memtable_adder_add(to, &w->single);
    }
}

static void apply_group(varve_db *db, vv_write *group, const vv_write *end) {
    vv_memtable_adder to;
    vv_memtable_adder_init(&to, db->commit.active);
    for (vv_write *w = group; w != end; w = w->next)
        if (w->appended)
            apply(&to, w);
    vv_memtable_adder_flush(&to);
}

static uint64_t ops_bytes(const vv_write *w) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < w->part_count; i++)
        bytes += w->parts[i].bytes;
    return bytes;
}

/* The log, which knows why, has said so. */
static void latch(varve_db *db) {
    atomic_store_explicit(&db->wal_failed, true, memory_order_relaxed);
    vv_db_followers_notify(db);
}

/* Was the write done before, or is it too old to know? Then its status says so. */
static bool settled(varve_db *db, vv_write *w) {
    if (w->client_id == 0)
        return false;
    switch (vv_retry_find(&db->commit.retry, w->client_id, w->sequence, &w->lsn)) {
    case VV_RETRY_NEW: return false;
    case VV_RETRY_DONE: w->retried = true; return true;
    case VV_RETRY_TOO_OLD: w->status = vv_status_make(VV_SEQUENCE_TOO_OLD, VV_SUB_NONE, 0); return true;
    }
    return false;
}

/* Put the write in the log's open frame, under LSNs that it gets here unless it brings them. On failure none
 * is used up, but by the first records of a replicated write. */
static void append(varve_db *db, vv_write *w) {
    if (settled(db, w))
        return;
    /* Each refused put looks again: space that was freed is used at once. */
    if (!w->deletes_only && atomic_load_explicit(&db->space_short, memory_order_relaxed) &&
        vv_db_space_look(db)) {
        w->status = vv_status_make(VV_NO_SPACE, VV_SUB_NONE, ENOSPC);
        return;
    }
    if (w->replicated) {
        vv_db_append_records(db, w);
        if (vv_is(w->status, VV_WAL_FAILED))
            latch(db);
        return;
    }
    if (vv_db_waiting_full(db)) {
        w->status = vv_status_make(VV_BUSY, VV_SUB_REPLICAS_BEHIND, 0);
        return;
    }
    if (w->client_id != 0) {
        w->status = vv_retry_reserve(&db->commit.retry, w->client_id);
        if (!vv_ok(w->status))
            return;
    }
    vv_record rec = {.first_lsn = db->commit.next_lsn,
                     .op_count = w->op_count,
                     .epoch = db->epoch,
                     .client_id = w->client_id,
                     .sequence = w->sequence,
                     .ops = vv_slice_make(NULL, ops_bytes(w))};
    w->status = vv_db_file_failure(vv_wal_append(db->wal, &rec, w->parts, w->part_count));
    w->appended = vv_ok(w->status);
    if (vv_is(w->status, VV_WAL_FAILED))
        latch(db); /* by the log's own thread, while no commit was looking */
    if (!w->appended)
        return;
    w->first_lsn = rec.first_lsn;
    w->lsn = rec.first_lsn + w->op_count - 1;
    db->commit.next_lsn = w->lsn + 1;
    /* Should the log fail with it, nobody asks the table again, and no image of it is made (C3). */
    if (w->client_id != 0)
        vv_retry_add(&db->commit.retry, w->client_id, w->sequence, w->lsn);
}

vv_status vv_db_sync_log(varve_db *db, bool inline_only) {
    vv_wal_commit(db->wal, inline_only);
    vv_status st = vv_wal_sync(db->wal);
    if (!vv_ok(st)) {
        latch(db);
        return st;
    }
    db->commit.unsynced = false;
    vv_db_followers_notify(db);
    return st;
}

static bool memtable_full(varve_db *db) {
    if (vv_memtable_bytes(db->commit.active) >= db->settings.memtable_bytes)
        return true;
    vv_wal_stats stats;
    vv_wal_stats_get(db->wal, &stats);
    if (stats.written_bytes - db->commit.space_wal_bytes >= db->settings.wal_segment_bytes) {
        db->commit.space_wal_bytes = stats.written_bytes;
        (void)vv_db_space_look(db);
    }
    uint64_t limit = db->settings.wal_bytes_max;
    /* On a full disk the log has to live on segments that it gets back: a delete alone takes a block of it.
     */
    if (atomic_load_explicit(&db->space_short, memory_order_relaxed))
        limit = VV_MIN(limit, db->settings.wal_segment_bytes);
    return stats.written_bytes - db->commit.memtable_wal_bytes >= limit;
}

static vv_status seal(varve_db *db) {
    /* The group that the log failed with is in the memtable, and nowhere else for certain (C3). */
    if (atomic_load_explicit(&db->wal_failed, memory_order_relaxed))
        return vv_status_make(VV_WAL_FAILED, VV_SUB_NONE, 0);
    if (vv_memtable_count(db->commit.active) == 0)
        return VV_STATUS_OK;
    if (db->commit.unsynced)
        VV_TRY(vv_db_sync_log(db, false));
    return vv_db_seal(db);
}

/* Everything of the list up to `end`, which is not included. Returns whether the log has to be synced. */
static bool append_group(varve_db *db, vv_write *group, const vv_write *end, bool *appended_out) {
    bool sync = false;
    bool limited = vv_db_commits_limited(db); /* C6 */
    uint64_t group_lsn = db->commit.next_lsn;
    *appended_out = false;
    for (vv_write *w = group; w != end; w = w->next) {
        append(db, w);
        if (w->appended) {
            *appended_out = true;
            sync |= w->sync || limited;
        } else if (w->retried) {
            /* What it repeats may be an asynchronous write, of this group or before it (C5). */
            sync |= (w->sync || limited) && (db->commit.unsynced || w->lsn >= group_lsn);
            atomic_fetch_add_explicit(&db->commit.retried_writes, 1, memory_order_relaxed);
        }
    }
    return sync;
}

static void fail_group(vv_write *group, const vv_write *end, vv_status st) {
    for (vv_write *w = group; w != end; w = w->next) {
        w->status = st;
        w->appended = false;
    }
}

/* Writes that are committed together: a part of a list. */
typedef struct write_group {
    vv_write *first;
    vv_write *end; /* behind the last */
    uint64_t entry_count;
    uint64_t data_bytes;
    uint32_t blocking_count; /* writes whose callers wait */
    bool traced;             /* one of them at least */
} write_group;

static void add_to_group(write_group *g, vv_write *w) {
    g->entry_count += w->op_count;
    g->data_bytes += w->data_bytes;
    g->blocking_count += w->fn == NULL;
    g->traced |= w->trace != NULL;
    g->end = w->next;
}

/* The clock is read once for a group and phase, and only if someone wants to know. */
static uint64_t stamp(const write_group *g) {
    return g->traced ? vv_clock_mono_ns() : 0;
}

static void tell_traces(const write_group *g, uint64_t begun_ns, uint64_t applying_ns, uint64_t applied_ns) {
    uint64_t wal_ns = applying_ns - begun_ns + vv_clock_mono_ns() - applied_ns;
    for (vv_write *w = g->first; w != g->end; w = w->next)
        if (w->trace)
            *w->trace = (varve_trace){.queue_ns = begun_ns - w->begun_ns,
                                      .wal_ns = wal_ns,
                                      .memtable_ns = applied_ns - applying_ns};
}

/* What was committed is durable, or the log has failed. Sees to it that the next commit gathers what is worth
 * it. */
static vv_status sync_group(varve_db *db, const write_group *g) {
    uint64_t begun_ns = vv_clock_mono_ns();
    VV_TRY(vv_wal_sync(db->wal));
    /* While commits are limited callers wait for others. */
    uint32_t answered = vv_db_commits_limited(db) ? 0 : g->blocking_count;
    vv_gather_committed(&db->commit.gather, answered,
                        vv_commit_queue_count(&db->commit.queue, VV_GATHER_COUNT_MAX),
                        vv_clock_mono_ns() - begun_ns);
    return VV_STATUS_OK;
}

/* Log, memtable, durability, visibility for one group; sets the status of each write. */
static void commit_group(varve_db *db, const write_group *g, bool inline_only) {
    vv_write *group = g->first, *end = g->end;
    uint64_t begun_ns = stamp(g);
    if (atomic_load_explicit(&db->wal_failed, memory_order_relaxed)) {
        fail_group(group, end, vv_status_make(VV_WAL_FAILED, VV_SUB_NONE, 0));
        return;
    }
    vv_status st = db->commit.epoch_is_ours ? VV_STATUS_OK : vv_db_epoch_ready(db, !group->replicated);
    if (vv_ok(st))
        st = vv_memtable_reserve(db->commit.active, g->entry_count, g->data_bytes);
    if (!vv_ok(st)) {
        fail_group(group, end, st);
        return;
    }
    bool appended;
    bool sync = append_group(db, group, end, &appended);
    if (!appended && !sync) {
        if (g->traced)
            tell_traces(g, begun_ns, begun_ns, begun_ns);
        return;
    }
    if (sync)
        vv_wal_commit(db->wal, inline_only);
    uint64_t applying_ns = stamp(g);
    /* The device works on the log while this thread fills the memtable; nobody sees the entries yet (C2). */
    apply_group(db, group, end);
    uint64_t applied_ns = stamp(g);
    if (sync)
        st = sync_group(db, g);
    if (g->traced)
        tell_traces(g, begun_ns, applying_ns, applied_ns);
    if (!vv_ok(st)) {
        latch(db);
        fail_group(group, end, st);
        return;
    }
    if (!sync && !db->commit.unsynced)
        db->commit.sync_due_ns = vv_clock_mono_ns() + db->settings.wal_sync_interval_us * VV_NS_PER_US;
    db->commit.unsynced = !sync;
    db->commit.committed_lsn = db->commit.next_lsn - 1;
    vv_db_publish(db);
    if (sync)
        vv_db_followers_notify(db);
}

/* ---- conditions ---- */

static bool holds(const vv_condition *c, bool found, const vv_entry *e) {
    switch (c->kind) {
    case VV_REQUIRE_ABSENT: return !found;
    case VV_REQUIRE_LSN: return c->lsn == (found ? e->lsn : 0);
    case VV_REQUIRE_VALUE:
        return found && vv_slice_equal(e->value, vv_slice_make(c->bytes + c->key_bytes, c->value_bytes));
    }
    return false;
}

static vv_status check_condition(varve_db *db, vv_view *view, uint64_t lsn, vv_condition *c) {
    vv_get g;
    vv_status st = vv_db_lookup(db, view, lsn, vv_slice_make(c->bytes, c->key_bytes), &g);
    bool found = vv_ok(st);
    if (found || vv_is(st, VV_NOT_FOUND)) {
        c->current_lsn = found ? g.entry.lsn : 0;
        c->held = holds(c, found, &g.entry);
        st = VV_STATUS_OK;
    }
    vv_get_deinit(&g);
    return st;
}

/* Everything before this write is committed, if not visible yet, and nothing comes between here and its own
 * commit: the single writer's role is held. What was done before is not asked again: its conditions held
 * then. */
static vv_status check_conditions(varve_db *db, vv_write *w) {
    if (w->condition_count == 0 || settled(db, w))
        return VV_STATUS_OK;
    uint64_t lsn;
    bool all = true;
    vv_status st = VV_STATUS_OK;
    vv_view *view = vv_db_view(db, &lsn);
    lsn = db->commit.committed_lsn; /* merges keep the newest version of each key in any case */
    for (size_t i = 0; i < w->condition_count && vv_ok(st); i++) {
        st = check_condition(db, view, lsn, &w->conditions[i]);
        all &= w->conditions[i].held;
    }
    vv_db_view_release(db, view);
    if (vv_ok(st) && !all)
        st = vv_status_make(VV_CONDITION_FAILED, VV_SUB_NONE, 0);
    return st;
}

/* What is no write stands alone, behind all that was pushed before it. */
static void do_control(varve_db *db, vv_write *w) {
    switch (w->kind) {
    case VV_WRITE_OPS: break;
    case VV_WRITE_SEAL: w->status = seal(db); break;
    case VV_WRITE_CALL: w->status = w->call(db, w->arg); break;
    case VV_WRITE_STOP:
        w->status = db->commit.unsynced ? vv_db_sync_log(db, false) : VV_STATUS_OK;
        vv_db_confirm(db);
        vv_db_answer_unconfirmed(db);
        break;
    }
}

/* Commit the list in groups. Returns true if the list held STOP. */
static bool commit_list(varve_db *db, vv_write *list, uint32_t number) {
    bool stop = false;
    uint32_t count = 0;
    while (list) {
        if (list->kind != VV_WRITE_OPS) {
            vv_write *next = list->next;
            stop |= list->kind == VV_WRITE_STOP;
            do_control(db, list);
            vv_db_answer_group(db, list, next, number);
            list = next;
            continue;
        }
        vv_status conditions = check_conditions(db, list);
        if (!vv_ok(conditions)) {
            vv_write *next = list->next;
            fail_group(list, next, conditions);
            vv_db_answer_group(db, list, next, number);
            list = next;
            continue;
        }
        /* A write with conditions begins a group: what is before it must be visible when they are checked. */
        write_group g = {.first = list};
        for (vv_write *w = list;
             w && w->kind == VV_WRITE_OPS &&
             (w == list || (g.data_bytes + w->data_bytes <= GROUP_BYTES_MAX && !w->condition_count));
             w = w->next) {
            add_to_group(&g, w);
            count++;
        }
        vv_status st = memtable_full(db) ? seal(db) : VV_STATUS_OK;
        if (vv_ok(st)) {
            commit_group(db, &g, g.entry_count <= INLINE_COUNT_MAX && g.data_bytes <= INLINE_BYTES_MAX);
            vv_db_pace_charge(db, g.entry_count, g.data_bytes);
        } else {
            fail_group(list, g.end, st);
        }
        list = g.end;
        vv_db_answer_group(db, g.first, g.end, number);
        vv_db_confirm(db);
        if (list)
            vv_db_pace_wait(db);
    }
    atomic_store_explicit(&db->commit.last_group_count, count, memory_order_relaxed);
    return stop;
}

/* Asynchronous writes are due: start writing them. False: that is over already. */
static bool begin_due_sync(varve_db *db, uint64_t now_ns) {
    if (!vv_wal_commit_apart(db->wal)) {
        vv_status_ignore(vv_db_sync_log(db, false), "a failure is latched: every later write reports it");
        return false;
    }
    /* For those that come from here on. */
    db->commit.sync_due_ns = now_ns + db->settings.wal_sync_interval_us * VV_NS_PER_US;
    return true;
}

/* Without the lock while the device works: more of them are committed by their own threads meanwhile, into
 * the next frame. All else that writes or syncs goes through this thread, since `unsynced` stays until the
 * end. */
static void end_due_sync(varve_db *db) {
    vv_wal_await(db->wal);
    vv_mutex_lock(&db->commit.lock);
    vv_status st = vv_wal_collect(db->wal);
    if (vv_ok(st)) {
        vv_wal_stats stats;
        vv_wal_stats_get(db->wal, &stats);
        db->commit.unsynced = stats.durable_lsn < vv_wal_last_lsn(db->wal);
        vv_db_followers_notify(db);
    } else {
        latch(db); /* every later write reports it */
    }
    vv_mutex_unlock(&db->commit.lock);
}

/* Wait for those that are about to write again. Gives up the lock meanwhile. */
static void gather(varve_db *db) {
    vv_gather *g = &db->commit.gather;
    vv_commit_queue *q = &db->commit.queue;
    uint32_t wanted = g->wanted;
    if (vv_commit_queue_has_callbacks(q))
        g->wanted = wanted = 0; /* many more are there, or behind them */
    if (wanted == 0)
        return;
    uint64_t wait_ns = vv_gather_wait_ns(g);
    vv_mutex_unlock(&db->commit.lock);
    vv_commit_queue_gather(q, wanted, wait_ns);
    vv_mutex_lock(&db->commit.lock);
    vv_gather_done(g, vv_commit_queue_count(q, wanted));
}

void vv_db_writer(void *arg) {
    varve_db *db = arg;
    for (bool stop = false; !stop;) {
        uint32_t number;
        vv_mutex_lock(&db->commit.lock);
        vv_commit_queue_nudged(&db->commit.queue);
        /* Before the queue is emptied: what comes meanwhile goes with the same group. */
        if (!vv_commit_queue_empty(&db->commit.queue))
            vv_db_pace_wait(db);
        gather(db);
        vv_write *list = vv_commit_queue_take(&db->commit.queue, &number);
        if (list)
            stop = commit_list(db, list, number);
        vv_db_confirm(db);
        bool unsynced = db->commit.unsynced && !atomic_load_explicit(&db->wal_failed, memory_order_relaxed);
        uint64_t due_ns = vv_db_next_deadline_ns(db);
        uint64_t now_ns = unsynced || due_ns != UINT64_MAX ? vv_clock_mono_ns() : 0;
        bool syncing = false;
        bool gathering = db->commit.gather.wanted > 0;
        if (unsynced && now_ns >= db->commit.sync_due_ns)
            syncing = begin_due_sync(db, now_ns);
        else if (unsynced)
            due_ns = VV_MIN(due_ns, db->commit.sync_due_ns);
        vv_mutex_unlock(&db->commit.lock);
        if (syncing)
            end_due_sync(db); /* and look again when the next is due */
        else if (!stop && !gathering && vv_commit_queue_empty(&db->commit.queue))
            vv_commit_queue_sleep(&db->commit.queue,
                                  due_ns == UINT64_MAX ? due_ns : due_ns - VV_MIN(due_ns, now_ns));
    }
}

/* ---- callers ---- */

vv_status vv_db_check_write(varve_db *db, const varve_write_options *options) {
    if (options && (options->client_id == 0) != (options->sequence == 0))
        return invalid(VV_SUB_BAD_SEQUENCE);
    if (atomic_load_explicit(&db->wal_failed, memory_order_relaxed))
        return vv_status_make(VV_WAL_FAILED, VV_SUB_NONE, 0);
    if (atomic_load_explicit(&db->closing, memory_order_relaxed))
        return vv_status_make(VV_SHUTTING_DOWN, VV_SUB_NONE, 0);
    return VV_STATUS_OK;
}

static void write_init(vv_write *w, const varve_write_options *options) {
    memset(w, 0, sizeof *w);
    w->kind = VV_WRITE_OPS;
    w->sync = !options || options->durability != VARVE_DURABILITY_ASYNC;
    w->client_id = options ? options->client_id : 0;
    w->sequence = options ? options->sequence : 0;
    w->trace = options ? options->trace : NULL;
    w->confirm_deadline_ns = options ? options->confirm_deadline_ns : 0;
    if (w->trace) {
        *w->trace = (varve_trace){0};
        w->begun_ns = vv_clock_mono_ns();
    }
}

static void write_single(vv_write *w, const vv_entry *e) {
    w->single = *e;
    w->op_count = 1;
    w->deletes_only = e->kind == VV_KIND_DELETE;
    w->data_bytes = e->key.bytes + e->value.bytes;
    vv_op_head_encode(w->head, e);
    w->parts[0] = vv_slice_make(w->head, sizeof w->head);
    w->parts[1] = e->key;
    w->parts[2] = e->value;
    w->part_count = 3;
}

static void write_batch(vv_write *w, const varve_batch *batch) {
    w->op_count = batch->op_count;
    w->deletes_only = batch->put_count == 0;
    w->data_bytes = batch->data_bytes;
    w->parts[0] = vv_slice_make(batch->ops, batch->ops_bytes);
    w->part_count = 1;
    w->conditions = batch->conditions;
    w->condition_count = batch->condition_count;
}

/* May this thread, which is not the log's, commit the write? With the lock. */
static bool fits_inline(varve_db *db, const vv_write *w, bool sync) {
    if ((!w->replicated && vv_db_commits_limited(db)) || memtable_full(db) || vv_db_pace_due(db))
        return false;
    uint64_t bytes = VV_RECORD_HEAD_BYTES + ops_bytes(w);
    if (sync)
        return !db->commit.unsynced && vv_wal_inline_fits(db->wal, bytes);
    return db->commit.epoch_is_ours && vv_wal_append_fits(db->wal, bytes);
}

/* The single writer's role for the caller's own thread, if it is worth having. */
static bool lock_inline(varve_db *db, const vv_write *w) {
    vv_commit_queue *q = &db->commit.queue;
    if (w->sync)
        return atomic_load_explicit(&db->commit.last_group_count, memory_order_relaxed) <= 1 &&
               vv_commit_queue_empty(q) && vv_mutex_trylock(&db->commit.lock);
    /* C7: what was taken from the queue before is committed when its taker lets go of the lock. */
    if (vv_commit_queue_has_callbacks(q))
        return false;
    /* Who has a callback must not be kept waiting: by a sync, a pause, or a condition whose key is on disk.
     */
    if (w->fn)
        return w->condition_count == 0 && vv_mutex_lock_soon(&db->commit.lock);
    vv_mutex_lock(&db->commit.lock);
    return true;
}

/*
 * Commit on the caller's own thread, where a hand-off and two thread switches would only add to it.
 *
 *   synchronous    if nobody else is about to write (28 us against 37 for a lone client on the reference
 *                  machine); else a group that shares its sync is better.
 *   asynchronous   whenever it fits: it waits for no device, and takes less than a switch. Threads that write
 *                  at the same time wait for the lock itself: whoever runs takes it over and over before one
 *                  that sleeps is awake, so that 16 threads hardly ever switch (0.7 us of CPU a put instead
 *                  of 5 us with a queue). One with a callback waits a moment at most: its thread has others
 *                  to serve.
 *
 * False: go through the queue.
 */
static bool try_inline(varve_db *db, vv_write *w) {
    bool sync = w->sync;
    if (!lock_inline(db, w))
        return false;
    bool was_unsynced = db->commit.unsynced;
    bool fits = fits_inline(db, w, sync);
    if (fits) {
        vv_status st = check_conditions(db, w);
        write_group g = {.first = w};
        add_to_group(&g, w);
        if (vv_ok(st)) {
            commit_group(db, &g, true);
            vv_db_pace_charge(db, g.entry_count, g.data_bytes);
        } else {
            w->status = st;
        }
        if (sync)
            atomic_store_explicit(&db->commit.last_group_count, 1, memory_order_relaxed);
    }
    bool due = db->commit.unsynced && !was_unsynced;
    vv_mutex_unlock(&db->commit.lock);
    if (due) /* the writer thread does not know yet that something has to be durable in time */
        vv_commit_queue_nudge(&db->commit.queue);
    return fits;
}

void vv_db_submit(varve_db *db, vv_write *w) {
    if (!try_inline(db, w))
        vv_commit_queue_wait(&db->commit.queue, w, vv_commit_queue_push(&db->commit.queue, w));
}

/* Blocking: the write's frame is the caller's. */
static varve_status submit(varve_db *db, vv_write *w, uint64_t *lsn_out) {
    vv_db_submit(db, w);
    if (lsn_out && vv_ok(w->status))
        *lsn_out = w->lsn;
    return vv_public(w->status);
}

static varve_status write_one(varve_db *db, const vv_entry *e, const varve_write_options *options,
                              uint64_t *lsn_out) {
    if (lsn_out)
        *lsn_out = 0;
    vv_status st = vv_db_check_key(e->key.bytes);
    if (vv_ok(st) && e->value.bytes > db->settings.value_bytes_max)
        st = invalid(VV_SUB_VALUE_TOO_LARGE);
    if (vv_ok(st))
        st = vv_db_check_write(db, options);
    if (!vv_ok(st))
        return vv_public(st);
    vv_write w;
    write_init(&w, options);
    write_single(&w, e);
    return submit(db, &w, lsn_out);
}

/* A time to live as a moment; one that is too far to count never comes. */
static uint64_t expiry(uint64_t ttl_ms) {
    uint64_t moment;
    if (ttl_ms == 0 || __builtin_add_overflow(vv_clock_unix_ms(), ttl_ms, &moment))
        return 0;
    return moment;
}

varve_status varve_put(varve_db *db, const void *key, size_t key_bytes, const void *value, size_t value_bytes,
                       const varve_write_options *options, uint64_t *lsn_out) {
    vv_entry e = {.key = vv_slice_make(key, key_bytes),
                  .value = vv_slice_make(value, value_bytes),
                  .kind = VV_KIND_PUT,
                  .expires_unix_ms = options ? expiry(options->ttl_ms) : 0};
    return write_one(db, &e, options, lsn_out);
}

varve_status varve_delete(varve_db *db, const void *key, size_t key_bytes, const varve_write_options *options,
                          uint64_t *lsn_out) {
    vv_entry e = {.key = vv_slice_make(key, key_bytes), .kind = VV_KIND_DELETE};
    return write_one(db, &e, options, lsn_out);
}

static vv_status check_batch(varve_db *db, const varve_batch *batch, const varve_write_options *options) {
    if (batch->op_count == 0)
        return invalid(VV_SUB_BATCH_EMPTY);
    if (batch->value_bytes_max > db->settings.value_bytes_max)
        return invalid(VV_SUB_VALUE_TOO_LARGE);
    if (batch->ops_bytes > db->settings.batch_bytes_max)
        return invalid(VV_SUB_BATCH_TOO_LARGE);
    return vv_db_check_write(db, options);
}

varve_status varve_write(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                         uint64_t *lsn_out) {
    if (lsn_out)
        *lsn_out = 0;
    vv_status st = check_batch(db, batch, options);
    if (!vv_ok(st))
        return vv_public(st);
    vv_write w;
    write_init(&w, options);
    write_batch(&w, batch);
    return submit(db, &w, lsn_out);
}

void varve_write_async(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                       varve_write_fn done, void *arg) {
    vv_status st = check_batch(db, batch, options);
    if (!vv_ok(st)) {
        done(arg, vv_public(st), 0);
        return;
    }
    vv_write here;
    write_init(&here, options);
    write_batch(&here, batch);
    here.fn = done;
    here.arg = arg;
    if (!here.sync && try_inline(db, &here)) {
        done(arg, vv_public(here.status), vv_ok(here.status) ? here.lsn : 0);
        return;
    }
    vv_write *w = vv_alloc_aligned(_Alignof(vv_write), sizeof *w);
    if (!w) {
        done(arg, vv_public(vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0)), 0);
        return;
    }
    *w = here;
    (void)vv_commit_queue_push(&db->commit.queue, w);
}

vv_status vv_db_call_writer(varve_db *db, vv_status (*call)(varve_db *db, void *arg), void *arg) {
    vv_write w;
    write_init(&w, NULL);
    w.kind = VV_WRITE_CALL;
    w.call = call;
    w.arg = arg;
    vv_commit_queue_wait(&db->commit.queue, &w, vv_commit_queue_push(&db->commit.queue, &w));
    return w.status;
}

varve_status varve_flush(varve_db *db) {
    vv_write w;
    write_init(&w, NULL);
    w.kind = VV_WRITE_SEAL;
    vv_commit_queue_wait(&db->commit.queue, &w, vv_commit_queue_push(&db->commit.queue, &w));
    if (!vv_ok(w.status))
        return vv_public(w.status);

    /* Everything before the seal is in sealed memtables now; wait until none of those is left. */
    vv_status st = VV_STATUS_OK;
    vv_mutex_lock(&db->state.lock);
    uint64_t target = 0;
    if (db->state.view->sealed_count > 0)
        target = db->state.view->sealed[0]->last_lsn;
    while (db->state.manifest.flushed_lsn < target && vv_ok(st)) {
        uint64_t flushes = db->state.flushes;
        vv_cond_wait(&db->state.flush_done, &db->state.lock);
        if (db->state.flushes == flushes)
            st = db->state.flush_status;
    }
    vv_mutex_unlock(&db->state.lock);
    return vv_public(st);
}
