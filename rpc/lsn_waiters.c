/*
 * lsn_waiters.c - a list of calls by the LSN that they wait for, which the engine's durable callback looks
 * through from the front.
 *
 *     call's thread                          whoever commits or confirms
 *     list the call, under the lock          visible_lsn stored
 *     varve_want_notice()                    notice wanted? --> vv_lsn_waiters_wake()
 *     visible_lsn >= min_lsn? not after all
 *
 * Arming comes before the look, so that one of the two sees the other and no wake-up is lost. While anybody
 * waits the callback is armed anew, again before the look.
 *
 * A wait is in one of two hands: listed, it is of whoever takes it off the list under the lock; posted, it is
 * its task's, which runs on the call's thread. New LSNs are the highest, so that a call finds its place at
 * the end of the list or a few steps before it.
 */
#include "rpc/lsn_waiters.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/access.h"
#include "rpc/status_map.h"

#define RETRY_MS 1000

struct vv_lsn_wait {
    vv_lsn_waiters *waiters;
    vv_rpc_call *call;
    vv_rpc_task task;
    vv_lsn_wait *next, *previous; /* under the lock, as what follows */
    bool listed;
    bool draining; /* the server is */
    uint64_t lsn;
    size_t request_bytes;
    uint8_t request[];
};

static vv_lsn_wait **slot_of(vv_rpc_call *call) {
    return (vv_lsn_wait **)(void *)(call->state + VV_LSN_WAITERS_STATE_BYTES);
}

_Static_assert(VV_LSN_WAITERS_STATE_BYTES % _Alignof(vv_lsn_wait *) == 0, "the slot is aligned");

/* ---- the list; with the lock ---- */

static void insert(vv_lsn_waiters *w, vv_lsn_wait *wait) {
    vv_lsn_wait *before = w->mu.last;
    while (before && before->lsn > wait->lsn)
        before = before->previous;
    wait->previous = before;
    wait->next = before ? before->next : w->mu.first;
    *(wait->previous ? &wait->previous->next : &w->mu.first) = wait;
    *(wait->next ? &wait->next->previous : &w->mu.last) = wait;
    wait->listed = true;
    w->mu.count++;
}

static void take_off(vv_lsn_waiters *w, vv_lsn_wait *wait) {
    *(wait->previous ? &wait->previous->next : &w->mu.first) = wait->next;
    *(wait->next ? &wait->next->previous : &w->mu.last) = wait->previous;
    wait->listed = false;
    w->mu.count--;
}

/* Hand all up to lsn to their threads. True: there were any, and their threads are to be woken. */
static bool post_up_to(vv_lsn_waiters *w, uint64_t lsn) {
    vv_lsn_wait *wait = w->mu.first;
    bool any = wait && wait->lsn <= lsn;
    while ((wait = w->mu.first) && wait->lsn <= lsn) {
        take_off(w, wait);
        wait->draining = w->mu.draining;
        vv_rpc_post_task(wait->call, &wait->task); /* and it may be gone */
    }
    return any;
}

/* ---- waking ---- */

void vv_lsn_waiters_wake(vv_lsn_waiters *w) {
    bool posted = false;
    vv_mutex_lock(&w->mu.lock);
    if (w->mu.first) {
        varve_want_notice(w->options.db);
        posted = post_up_to(w, varve_visible_lsn(w->options.db));
    }
    vv_mutex_unlock(&w->mu.lock);
    if (posted)
        w->options.flush(w->options.flush_arg);
}

void vv_lsn_waiters_drain(vv_lsn_waiters *w) {
    vv_mutex_lock(&w->mu.lock);
    w->mu.draining = true;
    bool posted = post_up_to(w, UINT64_MAX);
    vv_mutex_unlock(&w->mu.lock);
    if (posted)
        w->options.flush(w->options.flush_arg);
}

/* ---- the call's thread ---- */

static void fail_left(vv_rpc_call *call) {
    if (vv_clock_mono_ns() >= call->deadline_ns)
        vv_rpc_fail_with(call, VV_RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 0,
                         "the deadline passed before min_lsn was reached");
    else
        vv_rpc_fail_with(call, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled by the client");
}

static void fail_draining(vv_rpc_call *call) {
    vv_rpc_fail_with(call, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", RETRY_MS, "the server is shutting down");
}

static void resume(vv_rpc_task *task) {
    vv_lsn_wait *wait = VV_CONTAINER_OF(task, vv_lsn_wait, task);
    vv_rpc_call *call = wait->call;
    vv_rpc_status why;
    *slot_of(call) = NULL;
    if (call->cancelled)
        fail_left(call);
    else if (wait->draining)
        fail_draining(call);
    else if (!vv_access_check(call, call->method->access, &why)) /* still: it may have waited for long */
        vv_rpc_fail(call, &why);
    else
        call->method->on_call(call, vv_slice_make(wait->request, wait->request_bytes));
    vv_free(wait);
}

bool vv_lsn_waiters_left(vv_rpc_call *call) {
    vv_lsn_wait *wait = *slot_of(call);
    if (!wait)
        return false;
    vv_lsn_waiters *w = wait->waiters;
    vv_mutex_lock(&w->mu.lock);
    bool ours = wait->listed;
    if (ours)
        take_off(w, wait);
    vv_mutex_unlock(&w->mu.lock);
    if (!ours)
        return true; /* its task is on its way, and will find that the client has left */
    *slot_of(call) = NULL;
    fail_left(call);
    vv_free(wait);
    return true;
}

void vv_lsn_waiters_on_cancelled(vv_rpc_call *call) {
    (void)vv_lsn_waiters_left(call);
}

typedef enum outcome { REACHED, WAITS, REFUSED, DRAINING } outcome;

static outcome wait_or_not(vv_lsn_waiters *w, vv_lsn_wait *wait) {
    vv_mutex_lock(&w->mu.lock);
    outcome result = w->mu.draining ? DRAINING : w->mu.count >= w->options.count_max ? REFUSED : WAITS;
    if (result == WAITS) {
        *slot_of(wait->call) = wait;
        insert(w, wait);
        varve_want_notice(w->options.db);
        if (varve_visible_lsn(w->options.db) >= wait->lsn) {
            take_off(w, wait);
            *slot_of(wait->call) = NULL;
            result = REACHED;
        }
    }
    vv_mutex_unlock(&w->mu.lock);
    return result;
}

static bool wait_for(vv_lsn_waiters *w, vv_rpc_call *call, vv_slice request, uint64_t lsn) {
    vv_lsn_wait *wait = vv_alloc(sizeof *wait + request.bytes);
    if (!wait) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", RETRY_MS, "out of memory");
        return false;
    }
    *wait = (vv_lsn_wait){
        .waiters = w, .call = call, .task = {.fn = resume}, .lsn = lsn, .request_bytes = request.bytes};
    memcpy(wait->request, request.data, request.bytes);
    outcome result = wait_or_not(w, wait);
    if (result == WAITS) /* and may have been resumed already, but for that this thread is needed */
        return false;
    vv_free(wait);
    if (result == DRAINING)
        fail_draining(call);
    else if (result == REFUSED)
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", RETRY_MS,
                         "too many calls wait for what this server does not have yet");
    return result == REACHED;
}

bool vv_lsn_waiters_let_in(vv_lsn_waiters *w, vv_rpc_call *call, vv_slice request, uint64_t min_lsn,
                           bool names_state) {
    vv_rpc_status why;
    if (min_lsn > 0 && names_state) {
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "BAD_MIN_LSN", 0,
                         "min_lsn is for reads of the newest state: snapshot_id and page_token name another");
        return false;
    }
    if (w->options.replication && !vv_replication_may_read(w->options.replication, &why)) {
        vv_rpc_fail(call, &why);
        return false;
    }
    return min_lsn == 0 || varve_visible_lsn(w->options.db) >= min_lsn || wait_for(w, call, request, min_lsn);
}

uint64_t vv_lsn_waiters_count(vv_lsn_waiters *w) {
    vv_mutex_lock(&w->mu.lock);
    uint64_t count = w->mu.count;
    vv_mutex_unlock(&w->mu.lock);
    return count;
}

/* ---- life ---- */

void vv_lsn_waiters_init(vv_lsn_waiters *w) {
    *w = (vv_lsn_waiters){.options = {.db = NULL}};
    vv_mutex_init(&w->mu.lock);
}

void vv_lsn_waiters_start(vv_lsn_waiters *w, const vv_lsn_waiters_options *options) {
    w->options = *options;
}

void vv_lsn_waiters_deinit(vv_lsn_waiters *w) {
    VV_ASSERT(!w->mu.first);
    vv_mutex_deinit(&w->mu.lock);
}
