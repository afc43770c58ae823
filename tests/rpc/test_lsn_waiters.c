/* Calls that wait for an LSN: without a network, on the real engine. The test's own thread is the calls'. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sync.h"
#include "rpc/grants.h"
#include "rpc/lsn_waiters.h"
#include "tests/rpc/engine_tap.h"
#include "tests/support/tempdir.h"

static varve_db *db;
static vv_lsn_waiters waiters;

/* ---- calls ---- */

typedef struct fake {
    vv_rpc_call call;
    vv_rpc_task *task; /* posted; under the lock */
    int ran;           /* on_call() went on */
    bool failed;
} fake;

static struct {
    vv_mutex lock;
    vv_cond posted;
    int flushes;
} net;

static fake *fake_of(vv_rpc_call *call) {
    return VV_CONTAINER_OF(call, fake, call);
}

static void post_task(vv_rpc_call *call, vv_rpc_task *task) {
    vv_mutex_lock(&net.lock);
    cr_assert_null(fake_of(call)->task);
    fake_of(call)->task = task;
    vv_cond_broadcast(&net.posted);
    vv_mutex_unlock(&net.lock);
}

static void flush(void *arg) {
    (void)arg;
    vv_mutex_lock(&net.lock);
    net.flushes++;
    vv_mutex_unlock(&net.lock);
}

static void fail(vv_rpc_call *call, const vv_rpc_status *status) {
    cr_assert_not(fake_of(call)->failed);
    fake_of(call)->failed = true;
    call->code = status->code;
}

/* The request is an LSN as bytes. */
static void on_call(vv_rpc_call *call, vv_slice request) {
    uint64_t lsn;
    cr_assert_eq(request.bytes, sizeof lsn);
    memcpy(&lsn, request.data, sizeof lsn);
    if (!vv_lsn_waiters_let_in(&waiters, call, request, lsn, false))
        return;
    cr_assert_geq(varve_visible_lsn(db), lsn);
    fake_of(call)->ran++;
}

static const vv_rpc_call_ops ops = {.post_task = post_task, .fail = fail};
static const vv_rpc_method method = {.access = VV_RPC_READ, .on_call = on_call};

static fake new_call(void) {
    return (fake){
        .call = {.ops = &ops, .method = &method, .rights = VV_RIGHT_ALL, .deadline_ns = UINT64_MAX}};
}

/* It arrives with a request whose bytes are gone afterwards. */
static void arrive(fake *f, uint64_t lsn) {
    uint64_t *bytes = malloc(sizeof *bytes);
    *bytes = lsn;
    on_call(&f->call, vv_slice_make(bytes, sizeof *bytes));
    free(bytes);
}

static bool is_posted(fake *f) {
    vv_mutex_lock(&net.lock);
    bool posted = f->task != NULL;
    vv_mutex_unlock(&net.lock);
    return posted;
}

/* Wait for its task, and run it. */
static void run_task(fake *f) {
    vv_mutex_lock(&net.lock);
    uint64_t end_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    while (!f->task)
        cr_assert(vv_cond_wait_until(&net.posted, &net.lock, end_ns), "it was never woken");
    vv_rpc_task *task = f->task;
    f->task = NULL;
    vv_mutex_unlock(&net.lock);
    task->fn(task);
}

/* ---- the store ---- */

static void wake(void *arg) {
    vv_lsn_waiters_wake(arg);
}

static void start(uint64_t count_max) {
    vv_lsn_waiters_options o = {.db = db, .count_max = count_max, .flush = flush};
    vv_lsn_waiters_start(&waiters, &o);
}

static void init(void) {
    vv_tempdir();
    vv_mutex_init(&net.lock);
    vv_cond_init(&net.posted);
    vv_lsn_waiters_init(&waiters);
    varve_options *options = varve_options_create();
    varve_options_set_durable_callback(options, wake, &waiters);
    varve_error err = {""};
    cr_assert(varve_ok(varve_open(vv_tempdir_path("data"), options, &db, &err)), "%s", err.text);
    varve_options_destroy(options);
    start(100);
}

static void fini(void) {
    VV_ASSERT(vv_lsn_waiters_count(&waiters) == 0);
    VV_ASSERT(varve_ok(varve_close(db)));
    vv_lsn_waiters_deinit(&waiters);
    vv_tempdir_cleanup();
}

TestSuite(lsn_waiters, .init = init, .fini = fini, .timeout = 120);

static uint64_t put(void) {
    uint64_t lsn;
    cr_assert(varve_ok(varve_put(db, "k", 1, "v", 1, NULL, &lsn)));
    return lsn;
}

Test(lsn_waiters, what_is_there_does_not_wait) {
    fake a = new_call(), b = new_call();
    arrive(&a, 0);
    uint64_t lsn = put();
    arrive(&b, lsn);
    cr_assert_eq(a.ran, 1);
    cr_assert_eq(b.ran, 1);
}

Test(lsn_waiters, each_goes_on_when_its_lsn_is_there) {
    fake calls[5];
    const uint64_t wanted[] = {3, 1, 4, 2, 3};
    for (int i = 0; i < 5; i++) {
        calls[i] = new_call();
        arrive(&calls[i], wanted[i]);
        cr_assert_eq(calls[i].ran, 0);
    }
    cr_assert_eq(vv_lsn_waiters_count(&waiters), 5);
    for (uint64_t lsn = 1; lsn <= 4; lsn++) {
        cr_assert_eq(put(), lsn);
        for (int i = 0; i < 5; i++) {
            if (wanted[i] == lsn) {
                run_task(&calls[i]);
                cr_assert_eq(calls[i].ran, 1);
            } else if (wanted[i] > lsn) {
                cr_assert_not(is_posted(&calls[i]));
            }
        }
    }
    cr_assert_gt(net.flushes, 0);
}

static _Atomic uint64_t rounds;

static void put_in_step(void *arg) {
    (void)arg;
    for (uint64_t i = 0; i < 2000; i++) {
        while (atomic_load(&rounds) == i)
            continue;
        put();
    }
}

Test(lsn_waiters, no_wake_up_is_lost) {
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "writer", put_in_step, NULL)));
    for (uint64_t i = 0; i < 2000; i++) {
        fake f = new_call();
        atomic_store(&rounds, i + 1); /* one write comes, just now, and no other after it */
        arrive(&f, i + 1);
        if (f.ran == 0)
            run_task(&f);
        cr_assert_eq(f.ran, 1);
    }
    vv_thread_join(thread);
}

Test(lsn_waiters, a_write_behind_the_last_look_is_heard_of) {
    fake f = new_call();
    engine_tap_write_behind_look("late", 1); /* the first look is for whether it has to wait at all */
    arrive(&f, 1);
    cr_assert_eq(f.ran, 0);
    run_task(&f);
    cr_assert_eq(f.ran, 1);
}

Test(lsn_waiters, a_client_that_leaves_is_no_longer_waited_for) {
    fake a = new_call(), late = new_call(), b = new_call();
    arrive(&a, 1);
    arrive(&late, 1);
    arrive(&b, 1);
    a.call.cancelled = true;
    vv_lsn_waiters_on_cancelled(&a.call);
    cr_assert(a.failed);
    cr_assert_eq(a.call.code, VV_RPC_CANCELLED);
    cr_assert_not(vv_lsn_waiters_left(&a.call), "it waits no more");

    late.call.cancelled = true;
    late.call.deadline_ns = 1;
    cr_assert(vv_lsn_waiters_left(&late.call));
    cr_assert_eq(late.call.code, VV_RPC_DEADLINE_EXCEEDED);

    /* One whose task is on its way already. */
    put();
    while (!is_posted(&b))
        continue;
    b.call.cancelled = true;
    cr_assert(vv_lsn_waiters_left(&b.call));
    cr_assert_not(b.failed, "that is the task's");
    run_task(&b);
    cr_assert_eq(b.call.code, VV_RPC_CANCELLED);
    cr_assert_eq(b.ran, 0);
}

Test(lsn_waiters, rights_are_asked_for_again) {
    fake f = new_call();
    arrive(&f, 1);
    f.call.rights = 0;
    put();
    run_task(&f);
    cr_assert_eq(f.ran, 0);
    cr_assert_eq(f.call.code, VV_RPC_PERMISSION_DENIED);
}

Test(lsn_waiters, a_drain_ends_all_waits) {
    fake a = new_call(), b = new_call(), later = new_call();
    arrive(&a, 1);
    arrive(&b, UINT64_MAX);
    vv_lsn_waiters_drain(&waiters);
    run_task(&a);
    run_task(&b);
    arrive(&later, 1);
    cr_assert_eq(a.call.code, VV_RPC_UNAVAILABLE);
    cr_assert_eq(b.call.code, VV_RPC_UNAVAILABLE);
    cr_assert_eq(later.call.code, VV_RPC_UNAVAILABLE);
}

Test(lsn_waiters, only_so_many_wait) {
    fake a = new_call(), b = new_call();
    start(1);
    arrive(&a, 1);
    arrive(&b, 1);
    cr_assert_eq(b.call.code, VV_RPC_RESOURCE_EXHAUSTED);
    cr_assert_not(vv_lsn_waiters_left(&b.call));
    put();
    run_task(&a);
    cr_assert_eq(a.ran, 1);
}

Test(lsn_waiters, a_request_names_a_state_or_an_lsn) {
    fake f = new_call();
    cr_assert(vv_lsn_waiters_let_in(&waiters, &f.call, vv_slice_make("", 0), 0, true));
    cr_assert_not(vv_lsn_waiters_let_in(&waiters, &f.call, vv_slice_make("", 0), 1, true));
    cr_assert_eq(f.call.code, VV_RPC_INVALID_ARGUMENT);
}
