/*
 * bench_export - what durable puts cost while somebody takes snapshots of the files, backs the database up or
 * verifies it: one side writes alone, the others beside each of these, in turn.
 *
 *     bench_export [--rounds N] [--seconds S] [--threads N] [--prefill-mib N] [--rate BYTES]
 *
 * The jobs run on a thread of nice 19, as the server has them; snapshots at 5 a second, the others one behind
 * the other.
 */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/sync.h"
#include "bench/report.h"
#include "bench/workload.h"
#include "engine/varve.h"

#define THREADS_MAX 64

typedef enum job { JOB_NONE, JOB_SNAPSHOT, JOB_BACKUP, JOB_VERIFY, JOB_COUNT } job;

static int rounds = 3;
static double seconds = 3.0;
static int threads = 4;
static uint64_t prefill_mib = 512;
static uint64_t rate; /* of backups and verification, bytes a second; 0: no limit */

static varve_db *db;
static char root[600];
static _Atomic bool stop;
static uint64_t job_runs[JOB_COUNT];
static uint64_t job_bytes[JOB_COUNT];

typedef struct worker {
    pthread_t thread;
    uint64_t seed;
    uint64_t end_ns;
    uint64_t count;
    vv_histogram latency_ns;
} worker;

static void put(uint64_t *seed, size_t value_bytes, varve_durability durability) {
    char key[WORKLOAD_KEY_BYTES];
    static const char value[4096];
    varve_write_options o = {.durability = durability};
    workload_key(workload_random(seed), key);
    if (!varve_ok(varve_put(db, key, WORKLOAD_KEY_BYTES, value, value_bytes, &o, NULL)))
        report_die("put failed");
}

static void *put_until(void *arg) {
    worker *w = arg;
    uint64_t now = vv_clock_mono_ns();
    while (now < w->end_ns) {
        put(&w->seed, 100, VARVE_DURABILITY_SYNC);
        uint64_t done = vv_clock_mono_ns();
        vv_histogram_record(&w->latency_ns, done - now);
        now = done;
        w->count++;
    }
    return NULL;
}

static bool go_on(void *arg, uint64_t done, uint64_t total) {
    (void)arg;
    (void)done;
    (void)total;
    return !atomic_load(&stop);
}

static void run_job(job kind) {
    static int number;
    char path[700], command[720];
    varve_export e;
    varve_backup_info info;
    varve_verify_result result;
    varve_backup_options backup = {.progress = go_on, .bytes_per_second = rate};
    varve_verify_options verify = {.progress = go_on, .bytes_per_second = rate};
    varve_status st = {0};
    varve_error err;
    switch (kind) {
    case JOB_SNAPSHOT:
        st = varve_take_snapshot(db, &e, &err);
        varve_export_release(db, &e);
        nanosleep(&(struct timespec){.tv_nsec = 200 * 1000 * 1000}, NULL);
        break;
    case JOB_BACKUP:
        snprintf(path, sizeof path, "%s/backup-%d", root, number++);
        st = varve_backup(db, path, &backup, &info, &err);
        job_bytes[kind] += info.copied_bytes;
        snprintf(command, sizeof command, "rm -rf '%s'", path);
        if (system(command) != 0)
            report_die("%s", command);
        break;
    case JOB_VERIFY:
        st = varve_verify(db, &verify, &result, &err);
        job_bytes[kind] += result.bytes;
        break;
    default: nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    }
    if (!varve_ok(st) && !atomic_load(&stop))
        report_die("%s", err.text);
    job_runs[kind] += varve_ok(st);
}

static void *run_jobs(void *arg) {
    vv_thread_be_background();
    while (!atomic_load(&stop))
        run_job(*(job *)arg);
    return NULL;
}

static void run(report_side *side, job kind, uint64_t round) {
    worker *workers = calloc((size_t)threads, sizeof *workers);
    pthread_t jobs;
    if (!workers)
        report_die("out of memory");
    atomic_store(&stop, false);
    if (pthread_create(&jobs, NULL, run_jobs, &kind) != 0)
        report_die("no thread");
    uint64_t start = vv_clock_mono_ns(), count = 0;
    for (int i = 0; i < threads; i++) {
        vv_histogram_init(&workers[i].latency_ns);
        workers[i].seed = (round * JOB_COUNT + kind + 1) << 40 | (uint64_t)i << 32;
        workers[i].end_ns = start + (uint64_t)(seconds * 1e9);
        if (pthread_create(&workers[i].thread, NULL, put_until, &workers[i]) != 0)
            report_die("no thread");
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        vv_histogram_merge(&side->latency_ns, &workers[i].latency_ns);
        count += workers[i].count;
    }
    report_add_rate(side, (double)count / ((double)(vv_clock_mono_ns() - start) / 1e9));
    atomic_store(&stop, true);
    pthread_join(jobs, NULL);
    free(workers);
}

static void prefill(void) {
    uint64_t seed = 1;
    for (uint64_t bytes = 0; bytes < prefill_mib << 20; bytes += 4096)
        put(&seed, 4096, VARVE_DURABILITY_ASYNC);
    if (!varve_ok(varve_compact(db)))
        report_die("compact failed");
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"rounds", required_argument, NULL, 'r'},  {"seconds", required_argument, NULL, 's'},
        {"threads", required_argument, NULL, 't'}, {"prefill-mib", required_argument, NULL, 'p'},
        {"rate", required_argument, NULL, 'b'},    {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 't': threads = atoi(optarg); break;
        case 'b': rate = strtoull(optarg, NULL, 10); break;
        case 'p': prefill_mib = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "bench_export: --rounds 1 to %d, --threads 1 to %d\n", REPORT_ROUNDS_MAX,
                THREADS_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static report_side sides[JOB_COUNT];
    static const char *const names[JOB_COUNT] = {"alone", "snapshots", "backup", "verify"};
    char path[700];
    varve_error err;
    parse(argc, argv);
    snprintf(root, sizeof root, "%s", report_dir_create());
    snprintf(path, sizeof path, "%s/db", root);
    if (!varve_ok(varve_open(path, NULL, &db, &err)))
        report_die("%s", err.text);
    prefill();
    for (int i = 0; i < JOB_COUNT; i++)
        report_side_init(&sides[i], names[i]);
    report_machine();
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < JOB_COUNT; i++)
            run(&sides[i], (job)i, (uint64_t)r);
    char title[160];
    snprintf(title, sizeof title, "durable puts of %d threads beside, %d rounds of %g s", threads, rounds,
             seconds);
    report_header(title);
    for (int i = 0; i < JOB_COUNT; i++)
        report_line(&sides[i]);
    double alone = (double)vv_histogram_percentile(&sides[JOB_NONE].latency_ns, 99);
    for (int i = 1; i < JOB_COUNT; i++)
        printf("  p99 beside %s: %.2f of alone (2 at most); %llu of them, %.0f MiB/s\n", names[i],
               (double)vv_histogram_percentile(&sides[i].latency_ns, 99) / alone,
               (unsigned long long)job_runs[i], (double)job_bytes[i] / (1 << 20) / (rounds * seconds));
    if (!varve_ok(varve_close(db)))
        report_die("close failed");
    report_dir_remove();
    return 0;
}
