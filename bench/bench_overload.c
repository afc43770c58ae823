/*
 * bench_overload - what a put costs when more is written than the disk side can keep up with: 16 threads of
 * asynchronous puts into small memtables, so that flushes and merges are behind all the time.
 *
 *     bench_overload [--seconds S] [--threads N] [--value-bytes N] [--memtable SIZE] [--style leveled|tiered]
 */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/report.h"
#include "bench/workload.h"
#include "engine/varve.h"

#define THREADS_MAX     64
#define VALUE_BYTES_MAX 65536
#define SECONDS_MAX     60.0

static double seconds = 15.0;
static int threads = 16;
static size_t value_bytes = 100;
static const char *memtable = "4MiB";
static const char *style = "leveled";

static varve_db *db;

typedef struct worker {
    pthread_t thread;
    uint64_t seed;
    uint64_t end_ns;
    uint64_t count;
    vv_histogram latency_ns;
} worker;

static void *put_until(void *arg) {
    worker *w = arg;
    char key[WORKLOAD_KEY_BYTES];
    static const char value[VALUE_BYTES_MAX];
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    uint64_t now = vv_clock_mono_ns();
    while (now < w->end_ns) {
        workload_key(workload_random(&w->seed), key);
        if (!varve_ok(varve_put(db, key, WORKLOAD_KEY_BYTES, value, value_bytes, &o, NULL)))
            report_die("put failed");
        uint64_t done = vv_clock_mono_ns();
        vv_histogram_record(&w->latency_ns, done - now);
        now = done;
        w->count++;
    }
    return NULL;
}

typedef struct peaks {
    uint64_t runs;
    uint64_t debt_bytes;
    uint64_t immutable_count;
} peaks;

static void sample(peaks *p) {
    varve_stats s;
    varve_stats_get(db, &s);
    p->runs = s.sorted_run_count > p->runs ? s.sorted_run_count : p->runs;
    p->debt_bytes = s.compaction_debt_bytes > p->debt_bytes ? s.compaction_debt_bytes : p->debt_bytes;
    p->immutable_count = s.immutable_count > p->immutable_count ? s.immutable_count : p->immutable_count;
}

static void run(report_side *side, peaks *p) {
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers)
        report_die("out of memory");
    uint64_t start = vv_clock_mono_ns(), end = start + (uint64_t)(seconds * 1e9), count = 0;
    for (int i = 0; i < threads; i++) {
        vv_histogram_init(&workers[i].latency_ns);
        workers[i].seed = (uint64_t)i << 32;
        workers[i].end_ns = end;
        if (pthread_create(&workers[i].thread, NULL, put_until, &workers[i]) != 0)
            report_die("no thread");
    }
    while (vv_clock_mono_ns() < end) {
        struct timespec tick = {.tv_nsec = 50 * 1000 * 1000};
        nanosleep(&tick, NULL);
        sample(p);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        vv_histogram_merge(&side->latency_ns, &workers[i].latency_ns);
        count += workers[i].count;
    }
    report_add_rate(side, (double)count / ((double)(vv_clock_mono_ns() - start) / 1e9));
    free(workers);
}

static void print_figures(const report_side *side, const peaks *p) {
    varve_stats s;
    varve_stats_get(db, &s);
    const vv_histogram *h = &side->latency_ns;
    printf("  put: p50 %.3f  p99 %.3f  p99.9 %.3f  max %.3f ms (to stay below 50 at p99.9, 100 at most)\n",
           (double)vv_histogram_percentile(h, 50) / 1e6, (double)vv_histogram_percentile(h, 99) / 1e6,
           (double)vv_histogram_percentile(h, 99.9) / 1e6, (double)vv_histogram_max(h) / 1e6);
    printf("  delays: %llu, %.0f ms together; stalls: %llu\n", (unsigned long long)s.write_delays,
           (double)s.write_delay_us / 1e3, (unsigned long long)s.write_stalls);
    printf("  at most %llu runs, %llu sealed memtables, %.1f MiB of compaction debt\n",
           (unsigned long long)p->runs, (unsigned long long)p->immutable_count,
           (double)p->debt_bytes / (1 << 20));
    printf("  %llu flushes, %llu merges that wrote %.1f MiB\n", (unsigned long long)s.flushes,
           (unsigned long long)s.compactions, (double)s.compaction_written_bytes / (1 << 20));
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"seconds", required_argument, NULL, 's'},     {"threads", required_argument, NULL, 't'},
        {"value-bytes", required_argument, NULL, 'v'}, {"memtable", required_argument, NULL, 'm'},
        {"style", required_argument, NULL, 'c'},       {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 's': seconds = atof(optarg); break;
        case 't': threads = atoi(optarg); break;
        case 'v': value_bytes = strtoull(optarg, NULL, 10); break;
        case 'm': memtable = optarg; break;
        case 'c': style = optarg; break;
        default: exit(2);
        }
    }
    if (seconds <= 0 || seconds > SECONDS_MAX || threads < 1 || threads > THREADS_MAX ||
        value_bytes > VALUE_BYTES_MAX) {
        fprintf(stderr, "bench_overload: --seconds up to %g, --threads 1 to %d, --value-bytes up to %d\n",
                SECONDS_MAX, THREADS_MAX, VALUE_BYTES_MAX);
        exit(2);
    }
}

static void set(varve_options *o, const char *key, const char *value) {
    varve_error err;
    if (!varve_ok(varve_options_set(o, key, value, &err)))
        report_die("%s", err.text);
}

int main(int argc, char **argv) {
    static report_side side;
    static peaks p;
    char path[600];
    varve_error err;
    parse(argc, argv);
    snprintf(path, sizeof path, "%s/db", report_dir_create());
    varve_options *o = varve_options_create();
    if (!o)
        report_die("out of memory");
    set(o, "MEMTABLE_SIZE", memtable);
    set(o, "COMPACTION_STYLE", style);
    if (!varve_ok(varve_open(path, o, &db, &err)))
        report_die("%s", err.text);
    varve_options_destroy(o);
    report_side_init(&side, "async put");
    report_machine();
    run(&side, &p);
    char title[160];
    snprintf(title, sizeof title,
             "overload: %d threads, %d-byte keys, %zu-byte values, memtable %s, %s, %g s", threads,
             WORKLOAD_KEY_BYTES, value_bytes, memtable, style, seconds);
    report_header(title);
    report_line(&side);
    print_figures(&side, &p);
    if (!varve_ok(varve_close(db)))
        report_die("close failed");
    report_dir_remove();
    return 0;
}
