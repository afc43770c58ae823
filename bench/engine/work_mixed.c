/*
 * work_mixed.c - operations that read and write, and reading beside a writer.
 */
#include "bench/engine/work.h"

#include <inttypes.h>

static uint64_t pick(drive_thread *t) {
    return t->data->picks[t->pick++ % WORKLOAD_ZIPF_PICKS];
}

static bool chance(drive_thread *t, unsigned percent) {
    return workload_below(&t->random, 100) < percent;
}

static void put(drive_thread *t, uint64_t number) {
    char key[WORKLOAD_KEY_BYTES];
    workload_key(number, key);
    workload_value(number, t->value);
    t->kind->put(t->session, key, t->value, t->data->value_bytes);
}

static bool found(drive_thread *t, uint64_t number) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t have;
    workload_key(number, key);
    if (!t->kind->get(t->session, key, &have))
        return false;
    if (have != number)
        report_die("%s: entry %" PRIu64 " has another's value", t->kind->name, number);
    return true;
}

static void get(drive_thread *t, uint64_t number) {
    if (!found(t, number))
        report_die("%s: entry %" PRIu64 " is not there", t->kind->name, number);
}

static void insert(drive_thread *t) {
    put(t, t->data->keys + atomic_fetch_add_explicit(&t->data->added, 1, memory_order_relaxed));
}

void op_mixed(drive_thread *t) {
    if (chance(t, 50))
        get(t, pick(t));
    else
        put(t, pick(t));
}

void op_overwrite(drive_thread *t) {
    put(t, workload_below(&t->random, t->data->keys));
}

/* ---- YCSB (B. Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010) ---- */

void op_ycsb_a(drive_thread *t) {
    op_mixed(t);
}

void op_ycsb_b(drive_thread *t) {
    if (chance(t, 95))
        get(t, pick(t));
    else
        put(t, pick(t));
}

void op_ycsb_c(drive_thread *t) {
    get(t, pick(t));
}

/* The newest are read most: their ranks are counted back from the newest. One that another thread is just
 * adding need not be there yet. */
void op_ycsb_d(drive_thread *t) {
    if (chance(t, 5)) {
        insert(t);
        return;
    }
    uint64_t end = t->data->keys + atomic_load_explicit(&t->data->added, memory_order_relaxed);
    uint64_t number = end - 1 - pick(t);
    if (!found(t, number) && number < t->data->keys)
        report_die("%s: entry %" PRIu64 " is not there", t->kind->name, number);
}

void op_ycsb_e(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    if (chance(t, 5)) {
        insert(t);
        return;
    }
    workload_key(pick(t), key);
    if (t->kind->scan(t->session, key, 1 + workload_below(&t->random, 100)) == 0)
        report_die("%s: a scan from a key that is there finds nothing", t->kind->name);
}

void op_ycsb_f(drive_thread *t) {
    uint64_t number = pick(t);
    get(t, number);
    if (chance(t, 50))
        put(t, number);
}

/* ---- reading beside a writer ---- */

/* Metrics: the reader's rate, its 99.9th percentile, the writer's rate. With a rate in the workload's group
 * the reader keeps to it, and its latencies count from when each read was due. */
void turn_read_while_writing(const work *w, const store_kind *kind, drive_data *d, const work_options *o,
                             uint64_t seed, report_side *const *sides) {
    static drive_result results[2];
    drive_group groups[2] = {w->group, {.op = op_overwrite, .threads = 1, .sample = 8}};
    (void)kind;
    drive_run(d, groups, 2, o->seconds, seed, results);
    report_add_rate(sides[0], results[0].rate);
    report_add_cpu(sides[0], results[0].cpu_us);
    report_add_rate(sides[1], (double)vv_histogram_percentile(&results[0].latency_ns, 99.9) / 1e3);
    report_add_rate(sides[2], results[1].rate);
    vv_histogram_merge(&sides[0]->latency_ns, &results[0].latency_ns);
    vv_histogram_merge(&sides[2]->latency_ns, &results[1].latency_ns);
}
