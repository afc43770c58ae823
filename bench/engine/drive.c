#include "bench/engine/drive.h"

#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/sync.h"
#include "bench/report.h"

#define THREADS_MAX    128
#define TIMER_SLACK_NS 1000 /* Linux adds 50 us to each sleep otherwise */

static void sleep_until(uint64_t ns) {
    const struct timespec t = {.tv_sec = (time_t)(ns / VV_NS_PER_S), .tv_nsec = (long)(ns % VV_NS_PER_S)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void closed_loop(drive_thread *t) {
    unsigned sample = t->group->sample > 1 ? t->group->sample : 1;
    uint64_t now = vv_clock_mono_ns();
    for (bool first = true; now < t->deadline_ns && t->turn < t->ops_max; first = false) {
        /* Of a sample's operations one is timed: with each timed, the clock of one ends the next. */
        uint64_t begin = sample > 1 && !first ? vv_clock_mono_ns() : now;
        t->moves = 1;
        t->group->op(t);
        now = vv_clock_mono_ns();
        vv_histogram_record(&t->latency_ns, now - begin);
        t->turn += t->moves;
        for (unsigned i = 1; i < sample; i++) {
            t->moves = 1;
            t->group->op(t);
            t->turn += t->moves;
        }
    }
}

/* The session records the latencies. */
static void asynchronous_loop(drive_thread *t) {
    while (t->turn < t->ops_max && (t->turn % 16 != 0 || vv_clock_mono_ns() < t->deadline_ns)) {
        t->group->op(t);
        t->turn++;
    }
    t->kind->drain(t->session);
}

static void open_loop(drive_thread *t) {
    double interval_ns = (double)VV_NS_PER_S * t->group->threads / t->group->rate;
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    for (;;) {
        uint64_t due = t->start_ns + (uint64_t)((double)t->turn * interval_ns);
        if (due >= t->deadline_ns || t->turn >= t->ops_max)
            break;
        if (vv_clock_mono_ns() < due)
            sleep_until(due);
        t->group->op(t);
        vv_histogram_record(&t->latency_ns, vv_clock_mono_ns() - due);
        t->turn++;
    }
}

static void *work(void *arg) {
    drive_thread *t = arg;
    t->value = malloc(t->data->value_bytes);
    t->entries = calloc(DRIVE_ENTRIES_MAX, sizeof *t->entries);
    if (!t->value || !t->entries)
        report_die("out of memory");
    workload_fill(t->value, t->data->value_bytes, t->random);
    bool alone = t->group->depth > 0 && !t->group->burst;
    t->session = t->kind->session_open(t->data->s, t->group->depth, alone ? &t->latency_ns : NULL);
    while (atomic_load_explicit(t->go, memory_order_acquire) == 0) /* acquires the round's times */
        vv_futex_wait(t->go, 0);
    if (t->group->rate > 0)
        open_loop(t);
    else if (alone)
        asynchronous_loop(t);
    else
        closed_loop(t);
    t->end_ns = vv_clock_mono_ns();
    t->kind->session_close(t->session);
    free(t->entries);
    free(t->value);
    return NULL;
}

void drive_run(drive_data *data, const drive_group *groups, size_t group_count, double seconds, uint64_t seed,
               drive_result *results_out) {
    drive_thread *threads = calloc(THREADS_MAX, sizeof *threads);
    _Atomic uint32_t go = 0;
    size_t n = 0;
    if (!threads)
        report_die("out of memory");
    for (size_t g = 0; g < group_count; g++) {
        for (int i = 0; i < groups[g].threads; i++, n++) {
            drive_thread *t = &threads[n];
            if (n == THREADS_MAX)
                report_die("more than %d threads", THREADS_MAX);
            t->kind = data->s->kind;
            t->data = data;
            t->group = &groups[g];
            t->random = workload_mix(seed + n);
            t->pick = workload_random(&t->random) % WORKLOAD_ZIPF_PICKS;
            t->go = &go;
            t->ops_max = groups[g].ops > 0 ? groups[g].ops / (uint64_t)groups[g].threads : UINT64_MAX;
            vv_histogram_init(&t->latency_ns);
            if (pthread_create(&t->thread, NULL, work, t) != 0)
                report_die("no thread");
        }
    }
    sleep_until(vv_clock_mono_ns() + 2 * VV_NS_PER_MS); /* most are waiting by then; none begins before */
    uint64_t start = vv_clock_mono_ns(), cpu = store_cpu_ns(), all_ops = 0;
    for (size_t i = 0; i < n; i++) {
        threads[i].start_ns = start;
        threads[i].deadline_ns =
            threads[i].group->ops > 0 ? UINT64_MAX : start + (uint64_t)(seconds * (double)VV_NS_PER_S);
    }
    atomic_store_explicit(&go, 1, memory_order_release);
    vv_futex_wake(&go, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        pthread_join(threads[i].thread, NULL);
        all_ops += threads[i].turn;
    }
    cpu = store_cpu_ns() - cpu;
    for (size_t g = 0; g < group_count; g++) {
        drive_result *r = &results_out[g];
        uint64_t end = start;
        r->ops = 0;
        r->cpu_us = (double)cpu / 1e3 / (double)(all_ops > 0 ? all_ops : 1);
        vv_histogram_init(&r->latency_ns);
        for (size_t i = 0; i < n; i++) {
            if (threads[i].group != &groups[g])
                continue;
            r->ops += threads[i].turn;
            end = threads[i].end_ns > end ? threads[i].end_ns : end;
            vv_histogram_merge(&r->latency_ns, &threads[i].latency_ns);
        }
        r->rate = (double)r->ops / ((double)(end - start) / (double)VV_NS_PER_S);
    }
    free(threads);
}
