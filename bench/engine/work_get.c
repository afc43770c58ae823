/*
 * work_get.c - operations that read.
 */
#include "bench/engine/work.h"

#include <inttypes.h>
#include <stdlib.h>

#define SCAN_ENTRIES 100

static void key_of(drive_thread *t, uint64_t number, char key[WORKLOAD_KEY_BYTES]) {
    (t->data->ascending ? workload_key_ascending : workload_key)(number, key);
}

static void get_number(drive_thread *t, uint64_t number) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t found = number;
    key_of(t, number, key);
    if (!t->kind->get(t->session, key, &found) || found != number)
        report_die("%s: entry %" PRIu64 " is not there", t->kind->name, number);
}

void op_get(drive_thread *t) {
    get_number(t, workload_below(&t->random, t->data->keys));
}

void op_get_missing(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t found;
    key_of(t, (UINT64_C(1) << 48) + workload_below(&t->random, t->data->keys), key);
    if (t->kind->get(t->session, key, &found))
        report_die("%s: a key is there that nobody wrote", t->kind->name);
}

void op_get_async(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t number = workload_below(&t->random, t->data->keys);
    key_of(t, number, key);
    t->kind->get_async(t->session, key, number);
}

/* Near the end of the keys a scan is short; one in 20,000 of 2 M. */
void op_scan(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    key_of(t, workload_below(&t->random, t->data->keys), key);
    if (t->kind->scan(t->session, key, SCAN_ENTRIES) == 0)
        report_die("%s: a scan from a key that is there finds nothing", t->kind->name);
}

/* ---- cold ---- */

#define COLD_READS     UINT64_C(50000)
#define BLOCK_BYTES    4096
#define WARMUP_THREADS 16

/*
 * Nothing is cached when the turn begins. As many blocks are read as the cache holds, so that it is full, and
 * then as many as make the measurement. That way the page cache of a peer that has no other holds what the
 * caches of the others do: a tenth of the data at first, and hardly more at the end.
 */
void turn_get_cold(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
                   report_side *const *sides) {
    static drive_result result;
    drive_group warmup = {
        .op = op_get, .threads = WARMUP_THREADS, .ops = w->set->cache_bytes / BLOCK_BYTES / o->shrink};
    drive_group group = w->group;
    group.ops = COLD_READS / o->shrink;
    if (kind->abilities & STORE_KEEPS_KEYS)
        drive_run(d, &warmup, 1, 0, seed + 1000, &result);
    drive_run(d, &group, 1, 0, seed, &result);
    report_add_rate(sides[0], result.rate);
    report_add_cpu(sides[0], result.cpu_us);
    vv_histogram_merge(&sides[0]->latency_ns, &result.latency_ns);
}
