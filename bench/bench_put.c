/*
 * bench_put - durable puts in process with 1, 16 and 64 threads, against the rate at which the device commits
 * writes of the same size: one O_DIRECT pwritev2(RWF_DSYNC) of a block after the other into a recycled file,
 * the fastest way that was found for this.
 *
 *     bench_put [--rounds N] [--seconds S] [--key-bytes N] [--value-bytes N]
 */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/report.h"
#include "engine/varve.h"

#define RAW_FILE_BYTES  (64u << 20)
#define RAW_BLOCK_BYTES 4096 /* what a frame with one record of this size takes in the log */
#define THREADS_MAX     64
#define KEY_BYTES_MAX   256
#define VALUE_BYTES_MAX 65536

static int rounds = 5;
static double seconds = 2.0;
static size_t key_bytes = 16;
static size_t value_bytes = 64;

/* ---- the device ---- */

static int raw_fd = -1;
static void *raw_block;

/* Written twice, so that the measured writes are overwrites of written extents. */
static void raw_prepare(const char *dir) {
    char path[600];
    snprintf(path, sizeof path, "%s/raw", dir);
    raw_fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (raw_fd < 0 || posix_memalign(&raw_block, 4096, 1 << 20) != 0)
        report_die("%s: direct I/O is needed", path);
    memset(raw_block, 0x5a, 1 << 20);
    for (off_t at = 0; at < RAW_FILE_BYTES; at += 1 << 20)
        if (pwrite(raw_fd, raw_block, 1 << 20, at) != 1 << 20)
            report_die("%s: write failed", path);
    fsync(raw_fd);
}

static void raw_round(report_side *side) {
    static off_t at;
    uint64_t start = vv_clock_mono_ns(), end = start + (uint64_t)(seconds * 1e9), now = start;
    uint64_t count = 0;
    while (now < end) {
        struct iovec iov = {raw_block, RAW_BLOCK_BYTES};
        if (pwritev2(raw_fd, &iov, 1, at, RWF_DSYNC) != RAW_BLOCK_BYTES)
            report_die("raw write failed");
        at = (at + RAW_BLOCK_BYTES) % RAW_FILE_BYTES;
        uint64_t done = vv_clock_mono_ns();
        vv_histogram_record(&side->latency_ns, done - now);
        now = done;
        count++;
    }
    report_add_rate(side, (double)count / ((double)(now - start) / 1e9));
}

/* ---- the engine ---- */

static varve_db *db;
static _Atomic uint64_t next_key;

typedef struct worker {
    pthread_t thread;
    uint64_t end_ns;
    uint64_t count;
    vv_histogram latency_ns;
} worker;

static void *put_until(void *arg) {
    worker *w = arg;
    char key[KEY_BYTES_MAX];
    static char value[VALUE_BYTES_MAX];
    memset(key, 'k', sizeof key);
    uint64_t now = vv_clock_mono_ns();
    while (now < w->end_ns) {
        uint64_t n = atomic_fetch_add_explicit(&next_key, 1, memory_order_relaxed);
        memcpy(key, &n, sizeof n);
        if (!varve_ok(varve_put(db, key, key_bytes, value, value_bytes, NULL, NULL)))
            report_die("put failed");
        uint64_t done = vv_clock_mono_ns();
        vv_histogram_record(&w->latency_ns, done - now);
        now = done;
        w->count++;
    }
    return NULL;
}

static void put_round(report_side *side, int threads) {
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers)
        report_die("out of memory");
    uint64_t start = vv_clock_mono_ns(), count = 0;
    for (int i = 0; i < threads; i++) {
        vv_histogram_init(&workers[i].latency_ns);
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
    free(workers);
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"key-bytes", required_argument, NULL, 'k'},
                                            {"value-bytes", required_argument, NULL, 'v'},
                                            {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'k': key_bytes = strtoull(optarg, NULL, 10); break;
        case 'v': value_bytes = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || seconds <= 0 || key_bytes < 8 ||
        key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX) {
        fprintf(stderr, "bench_put: --rounds 1 to %d, --key-bytes 8 to %d, --value-bytes up to %d\n",
                REPORT_ROUNDS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static report_side raw, put1, put16, put64;
    char path[600];
    varve_error err;
    parse(argc, argv);
    const char *dir = report_dir_create();
    raw_prepare(dir);
    snprintf(path, sizeof path, "%s/db", dir);
    if (!varve_ok(varve_open(path, NULL, &db, &err)))
        report_die("%s", err.text);
    report_side_init(&raw, "raw 4 KiB device commits");
    report_side_init(&put1, "put, 1 thread");
    report_side_init(&put16, "put, 16 threads");
    report_side_init(&put64, "put, 64 threads");
    report_machine();
    for (int i = 0; i < rounds; i++) {
        raw_round(&raw);
        put_round(&put1, 1);
        put_round(&put16, 16);
        put_round(&put64, THREADS_MAX);
    }
    varve_stats stats;
    varve_stats_get(db, &stats);
    char title[128];
    snprintf(title, sizeof title, "durable puts, %zu-byte keys, %zu-byte values, %d rounds of %g s, %s",
             key_bytes, value_bytes, rounds, seconds, stats.io_backend);
    report_header(title);
    report_line(&raw);
    report_line(&put1);
    report_line(&put16);
    report_line(&put64);
    report_ratio(&put1, &raw, 0.70);
    report_ratio(&put16, &put1, 5);
    report_ratio(&put64, &put1, 0);
    printf("  records per log commit: %.1f\n", (double)stats.wal_records / (double)stats.wal_commits);
    if (!varve_ok(varve_close(db)))
        report_die("close failed");
    close(raw_fd);
    free(raw_block);
    report_dir_remove();
    return 0;
}
