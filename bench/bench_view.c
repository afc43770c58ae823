/*
 * bench_view - what taking the current view costs a reader: the cell of split reference counts that the
 * engine has (engine/lsm/view.h), and, where liburcu is installed (CMake says so), userspace RCU instead.
 *
 *     bench_view [--rounds N] [--ms N]
 *
 * Threads of readers take and give back the view for a while, and a writer replaces it a hundred times a
 * second. Of RCU two ways: reading within a read-side section, which is all that a get in memory needs, and
 * taking a reference there, as whoever keeps the view for longer has to. Figures are of processor time, so
 * that threads waiting for a core don't count. A whole varve_get() of a key in the memtable is there for
 * scale.
 */
#ifdef VARVE_HAVE_URCU
#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu/urcu-bp.h>
#include <urcu/urcu-memb.h>
#endif
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "bench/report.h"
#include "engine/lsm/view.h"
#include "engine/varve.h"

#define THREADS_MAX 16
#define KEYS        100000
#define WRITER_NS   10000000
#define BATCH       1000

static int rounds = 3;
static uint64_t round_ms = 300;

static vv_view_cell cell;
static vv_view *current; /* of RCU */
static _Atomic uint64_t visible_lsn = 1;
static _Atomic bool stop;
static varve_db *db;

/* ---- the ways ---- */

static void cell_take(void) {
    for (;;) {
        vv_view *v = vv_view_cell_acquire(&cell);
        (void)atomic_load_explicit(&visible_lsn, memory_order_acquire);
        bool same = vv_view_cell_holds(&cell, v);
        vv_view_cell_release(&cell, v);
        if (same)
            return;
    }
}

static vv_view *fresh_view(void) {
    vv_memtable *m;
    vv_version *version = vv_version_create(NULL, 0);
    if (!version || !vv_ok(vv_memtable_create(VV_MEMTABLE_SKIPLIST, 1, &m)))
        report_die("out of memory");
    vv_view *v = vv_view_create(m, NULL, 0, version);
    vv_memtable_unref(m);
    vv_version_unref(version);
    return v ? v : (report_die("out of memory"), NULL);
}

static void cell_replace(void) {
    vv_view_unref(vv_view_cell_replace(&cell, fresh_view()));
}

static void get(void) {
    static _Thread_local uint64_t x = 88172645463325252u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    char key[17];
    snprintf(key, sizeof key, "%016llu", (unsigned long long)(x % KEYS));
    varve_value v;
    if (!varve_ok(varve_get(db, key, 16, &v)))
        report_die("get");
    varve_value_release(&v);
}

/* The key alone, to be subtracted. */
static void make_key(void) {
    static _Thread_local uint64_t x = 88172645463325252u;
    static _Thread_local volatile char last;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    char key[17];
    snprintf(key, sizeof key, "%016llu", (unsigned long long)(x % KEYS));
    last = key[15];
    (void)last;
}

static void nothing(void) {}

#ifdef VARVE_HAVE_URCU
/* Looks at the view, as a reader does. */
static void look(vv_view *v) {
    (void)atomic_load_explicit(&visible_lsn, memory_order_acquire);
    if (!v->active)
        report_die("a view that is gone");
}

static void memb_section(void) {
    urcu_memb_read_lock();
    look(rcu_dereference(current));
    urcu_memb_read_unlock();
}

static void memb_reference(void) {
    urcu_memb_read_lock();
    vv_view *v = rcu_dereference(current);
    vv_view_ref(v);
    urcu_memb_read_unlock();
    look(v);
    vv_view_unref(v);
}

static void memb_replace(void) {
    vv_view *old = rcu_xchg_pointer(&current, fresh_view());
    urcu_memb_synchronize_rcu();
    vv_view_unref(old);
}

static void bp_section(void) {
    urcu_bp_read_lock();
    look(rcu_dereference(current));
    urcu_bp_read_unlock();
}

static void bp_reference(void) {
    urcu_bp_read_lock();
    vv_view *v = rcu_dereference(current);
    vv_view_ref(v);
    urcu_bp_read_unlock();
    look(v);
    vv_view_unref(v);
}

static void bp_replace(void) {
    vv_view *old = rcu_xchg_pointer(&current, fresh_view());
    urcu_bp_synchronize_rcu();
    vv_view_unref(old);
}
#endif

static const struct {
    const char *name;
    void (*take)(void);
    void (*replace)(void);
} ways[] = {
    {"cell: reference and LSN", cell_take, cell_replace},
#ifdef VARVE_HAVE_URCU
    {"urcu-memb: section", memb_section, memb_replace},
    {"urcu-memb: section, reference", memb_reference, memb_replace},
    {"urcu-bp: section", bp_section, bp_replace},
    {"urcu-bp: section, reference", bp_reference, bp_replace},
#endif
    {"(make a key)", make_key, nothing},
    {"make a key and varve_get() it", get, nothing},
};

/* ---- threads ---- */

typedef struct reader {
    pthread_t thread;
    void (*take)(void);
    uint64_t count;
    uint64_t cpu_ns;
} reader;

static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void read_on(void *arg) {
    reader *r = arg;
#ifdef VARVE_HAVE_URCU
    urcu_memb_register_thread();
#endif
    uint64_t start = cpu_ns();
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        for (int i = 0; i < BATCH; i++)
            r->take();
        r->count += BATCH;
    }
    r->cpu_ns = cpu_ns() - start;
#ifdef VARVE_HAVE_URCU
    urcu_memb_unregister_thread();
#endif
}

/* Nanoseconds of processor time for one. *cores_out: how many readers ran at once, on average. */
static double measure(size_t way, int threads, double *cores_out) {
    static reader readers[THREADS_MAX];
    atomic_store(&stop, false);
    for (int i = 0; i < threads; i++) {
        readers[i] = (reader){.take = ways[way].take};
        if (!vv_ok(vv_thread_start(&readers[i].thread, "reader", read_on, &readers[i])))
            report_die("no thread");
    }
    uint64_t start_ns = vv_clock_mono_ns();
    while (vv_clock_mono_ns() < start_ns + round_ms * 1000000) {
        nanosleep(&(struct timespec){.tv_nsec = WRITER_NS}, NULL);
        ways[way].replace();
    }
    atomic_store(&stop, true);
    uint64_t count = 0, ns = 0;
    for (int i = 0; i < threads; i++) {
        vv_thread_join(readers[i].thread);
        count += readers[i].count;
        ns += readers[i].cpu_ns;
    }
    *cores_out = (double)ns / (double)(vv_clock_mono_ns() - start_ns);
    return (double)ns / (double)count;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill(void) {
    varve_error err;
    char path[600];
    snprintf(path, sizeof path, "%s/db", report_dir_create());
    if (!varve_ok(varve_open(path, NULL, &db, &err)))
        report_die("%s", err.text);
    varve_write_options wo = {.durability = VARVE_DURABILITY_ASYNC};
    for (int i = 0; i < KEYS; i++) {
        char key[17];
        snprintf(key, sizeof key, "%016d", i);
        if (!varve_ok(varve_put(db, key, 16, "value", 5, &wo, NULL)))
            report_die("put");
    }
}

static void parse(int argc, char **argv) {
    static const struct option longs[] = {
        {"rounds", required_argument, NULL, 'r'}, {"ms", required_argument, NULL, 'm'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 'm': round_ms = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || round_ms < 10) {
        fprintf(stderr, "bench_view: --rounds from 1 to %d, --ms from 10\n", REPORT_ROUNDS_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static const int threads[] = {1, 2, 4, 16};
    static double ns[VV_ARRAY_COUNT(ways)][VV_ARRAY_COUNT(threads)][REPORT_ROUNDS_MAX];
    static double cores[VV_ARRAY_COUNT(threads)][VV_ARRAY_COUNT(ways) * REPORT_ROUNDS_MAX];
    parse(argc, argv);
    fill();
    vv_view_cell_init(&cell, fresh_view());
    current = fresh_view();
    report_machine();
    for (int round = 0; round < rounds; round++)
        for (size_t t = 0; t < VV_ARRAY_COUNT(threads); t++)
            for (size_t w = 0; w < VV_ARRAY_COUNT(ways); w++)
                ns[w][t][round] = measure(w, threads[t], &cores[t][(size_t)round * VV_ARRAY_COUNT(ways) + w]);
    printf("%-32s", "ns of processor time, threads:");
    for (size_t t = 0; t < VV_ARRAY_COUNT(threads); t++)
        printf("%10d", threads[t]);
    for (size_t w = 0; w < VV_ARRAY_COUNT(ways); w++) {
        printf("\n%-32s", ways[w].name);
        for (size_t t = 0; t < VV_ARRAY_COUNT(threads); t++) {
            qsort(ns[w][t], (size_t)rounds, sizeof(double), by_value);
            printf("%10.1f", ns[w][t][rounds / 2]);
        }
    }
    printf("\n%-32s", "cores that readers had, median");
    for (size_t t = 0; t < VV_ARRAY_COUNT(threads); t++) {
        size_t count = (size_t)rounds * VV_ARRAY_COUNT(ways);
        qsort(cores[t], count, sizeof(double), by_value);
        printf("%10.2f", cores[t][count / 2]);
    }
    printf("\n");
#ifndef VARVE_HAVE_URCU
    printf("liburcu was not there when this was built: the cell alone\n");
#endif
    vv_view_unref(current);
    vv_view_unref(vv_view_cell_replace(&cell, NULL));
    if (!varve_ok(varve_close(db)))
        report_die("close");
    report_dir_remove();
    return 0;
}
