#include <criterion/criterion.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/workers.h"

static vv_workers *make(uint32_t thread_count, uint32_t queue_max) {
    vv_workers *w;
    vv_workers_options options = {
        .name = "test-work", .thread_count = thread_count, .queue_max = queue_max, .background = true};
    cr_assert(vv_ok(vv_workers_create(&options, &w)));
    return w;
}

/* A door that jobs wait behind. */
typedef struct gate {
    vv_mutex lock;
    vv_cond moved;
    bool open;
    int waiting;
} gate;

static void gate_init(gate *g) {
    *g = (gate){0};
    vv_mutex_init(&g->lock);
    vv_cond_init(&g->moved);
}

static void gate_open(gate *g) {
    vv_mutex_lock(&g->lock);
    g->open = true;
    vv_cond_broadcast(&g->moved);
    vv_mutex_unlock(&g->lock);
}

static void gate_pass(gate *g) {
    vv_mutex_lock(&g->lock);
    g->waiting++;
    vv_cond_broadcast(&g->moved);
    while (!g->open)
        vv_cond_wait(&g->moved, &g->lock);
    vv_mutex_unlock(&g->lock);
}

static void gate_await(gate *g, int waiting) {
    vv_mutex_lock(&g->lock);
    while (g->waiting < waiting)
        vv_cond_wait(&g->moved, &g->lock);
    vv_mutex_unlock(&g->lock);
}

typedef struct item {
    vv_job job;
    gate *gate; /* to pass first, or NULL */
    int number;
    int runs;
    int at; /* its place in the order in which they ran */
} item;

static _Atomic int ran;

static void run(vv_job *job) {
    item *it = VV_CONTAINER_OF(job, item, job);
    if (it->gate)
        gate_pass(it->gate);
    it->runs++;
    it->at = atomic_fetch_add(&ran, 1);
}

Test(workers, jobs_run_once_and_in_order, .timeout = 60) {
    enum { N = 100 };
    static item items[N];
    vv_workers *w = make(1, N);
    for (int i = 0; i < N; i++) {
        items[i] = (item){.job.run = run};
        cr_assert(vv_workers_submit(w, &items[i].job));
    }
    vv_workers_destroy(w);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(items[i].runs, 1);
        cr_assert_eq(items[i].at, i);
    }
}

Test(workers, a_full_queue_refuses_and_takes_again, .timeout = 60) {
    gate g;
    item blocker = {.job.run = run, .gate = &g}, queued[2] = {{.job.run = run}, {.job.run = run}};
    item refused = {.job.run = run};
    gate_init(&g);
    vv_workers *w = make(1, 2);
    cr_assert(vv_workers_submit(w, &blocker.job));
    gate_await(&g, 1);
    cr_assert(vv_workers_submit(w, &queued[0].job));
    cr_assert(vv_workers_submit(w, &queued[1].job));
    cr_assert_not(vv_workers_submit(w, &refused.job), "two wait, which is all that may");
    gate_open(&g);
    while (!vv_workers_submit(w, &refused.job))
        ; /* until the worker has taken one */
    vv_workers_destroy(w);
    cr_assert_eq(refused.runs, 1);
    cr_assert_eq(queued[1].runs, 1);
}

Test(workers, threads_work_at_the_same_time, .timeout = 60) {
    gate g;
    item items[3];
    gate_init(&g);
    vv_workers *w = make(3, 3);
    for (int i = 0; i < 3; i++) {
        items[i] = (item){.job.run = run, .gate = &g};
        cr_assert(vv_workers_submit(w, &items[i].job));
    }
    gate_await(&g, 3); /* all three wait inside their run() */
    gate_open(&g);
    vv_workers_destroy(w);
}

typedef struct again {
    vv_job job;
    vv_workers *workers;
    _Atomic int left;
} again;

static void run_again(vv_job *job) {
    again *a = VV_CONTAINER_OF(job, again, job);
    if (atomic_fetch_sub(&a->left, 1) > 1)
        cr_assert(vv_workers_submit(a->workers, job));
    else
        atomic_fetch_add(&ran, 1);
}

Test(workers, a_job_may_submit_itself, .timeout = 60) {
    again a = {.job.run = run_again, .left = 1000};
    vv_workers *w = make(2, 1);
    a.workers = w;
    cr_assert(vv_workers_submit(w, &a.job));
    while (atomic_load(&ran) == 0)
        ;
    vv_workers_destroy(w);
    cr_assert_eq(a.left, 0);
}

typedef struct patient {
    vv_job job;
    vv_workers *workers;
    gate *gate;
    bool asked_to_stop;
} patient;

static void run_until_stopped(vv_job *job) {
    patient *p = VV_CONTAINER_OF(job, patient, job);
    gate_pass(p->gate);
    while (!vv_workers_stopping(p->workers))
        ;
    p->asked_to_stop = true;
}

Test(workers, stop_reaches_what_runs_and_runs_what_is_queued, .timeout = 60) {
    gate g;
    gate_init(&g);
    vv_workers *w = make(1, 4);
    patient p = {.job.run = run_until_stopped, .workers = w, .gate = &g};
    item queued = {.job.run = run}, late = {.job.run = run};
    cr_assert(vv_workers_submit(w, &p.job));
    cr_assert(vv_workers_submit(w, &queued.job));
    gate_open(&g);
    gate_await(&g, 1);
    cr_assert_not(vv_workers_stopping(w));
    vv_workers_stop(w);
    cr_assert_not(vv_workers_submit(w, &late.job), "nothing is accepted any more");
    vv_workers_destroy(w);
    cr_assert(p.asked_to_stop);
    cr_assert_eq(queued.runs, 1, "what was accepted is called");
    cr_assert_eq(late.runs, 0);
}

Test(workers, no_memory_leaves_nothing_behind) {
    vv_workers_options options = {.name = "test-work", .thread_count = 3, .queue_max = 1};
    for (uint64_t n = 1; n <= 4; n++) {
        vv_workers *w;
        vv_alloc_fail_at(n);
        cr_assert(vv_is(vv_workers_create(&options, &w), VV_NO_MEMORY), "allocation %d", (int)n);
        cr_assert_null(w);
    }
    vv_alloc_fail_at(0);
    vv_workers_destroy(NULL);
}
