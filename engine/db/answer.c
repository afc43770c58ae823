/*
 * answer.c - answers of writes: at once, or when others have confirmed what they tell.
 *
 *   committed here --visible--> answered
 *                 \--> waiting list, by LSN --commit limit reaches it--> answered
 *                              \--deadline, or close--> answered NOT_CONFIRMED; the write stays
 *
 * While commits are limited (commit_limit.c) an answer waits until the LSN that it tells of is visible: of a
 * write its own, of a repeated write the first one's, of a condition that failed the newest that it was
 * judged by. So no answer tells of what may yet be lost with this machine. What tells of nothing is answered
 * at once: writes that were refused, and records of a primary, which waits for just that.
 *
 * Deadlines are kept in a hashed timing wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing
 * Wheels", SOSP 1987): a slot for each TICK_NS holds the writes whose time ends there, this round or a later
 * one. To wait, and to be answered, costs the same however many wait.
 *
 * Invariants
 *   A1  The list is in the order of waits.lsn, and all of these are above visible_lsn when commit.lock is
 *       released by the writer thread, or it was nudged.
 *   A2  A write is not touched after it was answered: its frame may be gone.
 *
 * Threads: the writer thread, commit.lock held.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"

/* An answer is late by this much at most, and by what the writer is busy with. */
#define TICK_NS (8 * VV_NS_PER_MS)

/* ---- answering ---- */

/* Whom to wake when a number of writes has been answered. */
typedef struct answers {
    uint64_t groups; /* bit i: blocking writes of group i */
    bool any_async;
} answers;

_Static_assert(VV_COMMIT_GROUPS <= 64, "a bit for each group");

static void answer_async(vv_write *w) {
    varve_write_fn fn = w->fn;
    void *arg = w->arg;
    varve_status st = vv_public(w->status);
    uint64_t lsn = vv_ok(w->status) ? w->lsn : 0;
    vv_free(w);
    fn(arg, st, lsn);
}

static void answer(answers *a, vv_write *w, uint32_t group) {
    if (w->fn) {
        a->any_async = true;
        answer_async(w);
        return;
    }
    a->groups |= UINT64_C(1) << group;
    /* Pairs with the acquire in vv_commit_queue_wait(). */
    atomic_store_explicit(&w->done, 1, memory_order_release);
}

static void wake(varve_db *db, const answers *a) {
    for (uint64_t left = a->groups; left != 0; left &= left - 1)
        vv_commit_queue_wake(&db->commit.queue, (uint32_t)__builtin_ctzll(left));
    if (a->any_async && db->group_fn)
        db->group_fn(db->group_arg);
}

/* ---- waiting ---- */

static uint64_t held_bytes(const vv_write *w) {
    return sizeof *w + w->data_bytes + (uint64_t)w->op_count * VV_OP_HEAD_BYTES;
}

static void count_waiting(varve_db *db, uint64_t more) {
    uint64_t count = atomic_load_explicit(&db->waiting.count, memory_order_relaxed);
    atomic_store_explicit(&db->waiting.count, count + more, memory_order_relaxed);
}

static vv_write **slot_of(varve_db *db, uint64_t tick) {
    return &db->waiting.ticks[tick % VV_DB_WAITING_TICKS];
}

/* Into the slot of the first tick at which the time is over for certain. */
static void start_clock(varve_db *db, vv_write *w) {
    if (w->confirm_deadline_ns == 0)
        return;
    if (db->waiting.timed_count++ == 0)
        db->waiting.tick = vv_clock_mono_ns() / TICK_NS;
    w->waits.tick = VV_MAX(w->confirm_deadline_ns / TICK_NS, db->waiting.tick) + 1;
    vv_write **slot = slot_of(db, w->waits.tick);
    w->waits.tick_prev = NULL;
    w->waits.tick_next = *slot;
    if (*slot)
        (*slot)->waits.tick_prev = w;
    *slot = w;
}

static void stop_clock(varve_db *db, vv_write *w) {
    if (w->confirm_deadline_ns == 0)
        return;
    db->waiting.timed_count--;
    *(w->waits.tick_prev ? &w->waits.tick_prev->waits.tick_next : slot_of(db, w->waits.tick)) =
        w->waits.tick_next;
    if (w->waits.tick_next)
        w->waits.tick_next->waits.tick_prev = w->waits.tick_prev;
}

/* The LSN that the answer tells of; 0: it can be given at once. */
static uint64_t told_lsn(varve_db *db, const vv_write *w) {
    if (w->kind != VV_WRITE_OPS || w->replicated)
        return 0;
    if (vv_ok(w->status))
        return w->lsn;
    return vv_is(w->status, VV_CONDITION_FAILED) ? db->commit.committed_lsn : 0;
}

/* Into the list, if the answer has to wait. */
static bool wait_for_others(varve_db *db, vv_write *w, uint32_t group) {
    uint64_t lsn = told_lsn(db, w);
    if (lsn <= atomic_load_explicit(&db->visible_lsn, memory_order_relaxed))
        return false;
    if (!w->appended && vv_db_waiting_full(db)) {
        w->status = vv_status_make(VV_BUSY, VV_SUB_REPLICAS_BEHIND, 0);
        return false;
    }
    vv_write *last = db->waiting.last;
    /* A repeated write waits for those that came before it, too: they are on their way already (A1). */
    w->waits.lsn = last ? VV_MAX(lsn, last->waits.lsn) : lsn;
    w->waits.group = group;
    w->waits.prev = last;
    w->next = NULL;
    *(last ? &last->next : &db->waiting.first) = w;
    db->waiting.last = w;
    db->waiting.bytes += held_bytes(w);
    count_waiting(db, 1);
    start_clock(db, w);
    return true;
}

static void take_out(varve_db *db, vv_write *w) {
    stop_clock(db, w);
    *(w->waits.prev ? &w->waits.prev->next : &db->waiting.first) = w->next;
    *(w->next ? &w->next->waits.prev : &db->waiting.last) = w->waits.prev;
    db->waiting.bytes -= held_bytes(w);
    count_waiting(db, UINT64_MAX); /* one less */
}

static void give_up(varve_db *db, answers *a, vv_write *w) {
    take_out(db, w);
    w->status = vv_status_make(VV_NOT_CONFIRMED, VV_SUB_NONE, 0);
    answer(a, w, w->waits.group);
}

/* Those whose time is over. */
static void answer_overdue(varve_db *db, answers *a) {
    if (db->waiting.timed_count == 0)
        return;
    uint64_t now = vv_clock_mono_ns() / TICK_NS;
    uint64_t round = now > VV_DB_WAITING_TICKS ? now - VV_DB_WAITING_TICKS : 0; /* all slots at most */
    for (uint64_t tick = VV_MAX(db->waiting.tick, round) + 1; tick <= now; tick++) {
        for (vv_write *w = *slot_of(db, tick), *next; w; w = next) {
            next = w->waits.tick_next;
            if (w->waits.tick <= now)
                give_up(db, a, w);
        }
    }
    db->waiting.tick = now;
}

uint64_t vv_db_next_deadline_ns(const varve_db *db) {
    if (db->waiting.timed_count == 0)
        return UINT64_MAX;
    uint64_t tick = db->waiting.tick + 1;
    while (!db->waiting.ticks[tick % VV_DB_WAITING_TICKS])
        tick++;
    return tick * TICK_NS;
}

/* ---- the writer's calls ---- */

void vv_db_answer_group(varve_db *db, vv_write *group, const vv_write *end, uint32_t number) {
    answers a = {0};
    bool limited = vv_db_commits_limited(db);
    for (vv_write *w = group, *next; w != end; w = next) {
        next = w->next; /* A2 */
        if (!limited || !wait_for_others(db, w, number))
            answer(&a, w, number);
    }
    wake(db, &a);
}

void vv_db_answer_waiting(varve_db *db) {
    answers a = {0};
    uint64_t visible_lsn = atomic_load_explicit(&db->visible_lsn, memory_order_relaxed);
    for (vv_write *w; (w = db->waiting.first) != NULL && w->waits.lsn <= visible_lsn;) {
        take_out(db, w);
        answer(&a, w, w->waits.group);
    }
    answer_overdue(db, &a);
    wake(db, &a);
}

void vv_db_answer_unconfirmed(varve_db *db) {
    answers a = {0};
    while (db->waiting.first)
        give_up(db, &a, db->waiting.first);
    wake(db, &a);
}
