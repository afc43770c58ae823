/*
 * bench_recovery - how fast a log is read back: a process fills a log of 64 MiB and kills itself, and opening
 * what it leaves is timed. Records of one entry and of 100 entries of 16 + 100 bytes, in turn.
 *
 *     bench_recovery [--rounds N] [--log-bytes N]
 *
 * Replaying is one thread's work: its rate is given against the clock, and against the time that the thread
 * had a core, which is what counts on a busy machine.
 *
 * The memtable is large enough for all of it, so that nothing is flushed, neither before nor meanwhile.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/report.h"
#include "engine/varve.h"

#define KEY_BYTES   16
#define VALUE_BYTES 100

static int rounds = 3;
static uint64_t log_bytes = UINT64_C(64) << 20;
static char db_path[600];

typedef struct filled {
    uint64_t log_bytes;
    uint64_t last_lsn;
} filled;

static varve_db *open_db(void) {
    varve_db *db;
    varve_error err;
    varve_options *o = varve_options_create();
    if (!o || !varve_ok(varve_options_set(o, "MEMTABLE_SIZE", "1GiB", &err)) ||
        !varve_ok(varve_open(db_path, o, &db, &err)))
        report_die("%s", o ? err.text : "out of memory");
    varve_options_destroy(o);
    return db;
}

/* In a process of its own, which does not come back. */
static void fill_and_die(uint64_t batch_count, int fd) {
    static char value[VALUE_BYTES];
    char key[KEY_BYTES + 1];
    varve_db *db = open_db();
    varve_batch *b = varve_batch_create();
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    varve_stats s;
    uint64_t x = 88172645463325252u, n = 0;
    do {
        varve_batch_clear(b);
        for (uint64_t i = 0; i < batch_count; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            snprintf(key, sizeof key, "%016" PRIx64, x);
            if (!varve_ok(varve_batch_put(b, key, KEY_BYTES, value, VALUE_BYTES)))
                _exit(1);
        }
        /* Now and then a durable one: the last write is, and so all before it are. */
        varve_status st = varve_write(db, b, n++ % 1000 == 0 ? NULL : &async, NULL);
        if (!varve_ok(st))
            _exit(1);
        varve_stats_get(db, &s);
    } while (s.wal_bytes < log_bytes || s.durable_lsn != s.last_lsn);
    filled f = {.log_bytes = s.wal_bytes, .last_lsn = s.last_lsn};
    if (write(fd, &f, sizeof f) != sizeof f)
        _exit(1);
    kill(getpid(), SIGKILL);
}

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void recover_round(uint64_t batch_count, report_side *mb, report_side *entries, report_side *busy) {
    int fds[2], status;
    filled f;
    snprintf(db_path, sizeof db_path, "%s/db", report_dir_create());
    fflush(stdout);
    if (pipe(fds) != 0)
        report_die("no pipe");
    pid_t pid = fork();
    if (pid < 0)
        report_die("no process");
    if (pid == 0)
        fill_and_die(batch_count, fds[1]);
    close(fds[1]);
    bool told = read(fds[0], &f, sizeof f) == sizeof f;
    close(fds[0]);
    waitpid(pid, &status, 0);
    if (!told || !WIFSIGNALED(status))
        report_die("the process that fills the log failed");
    double cpu = thread_seconds();
    uint64_t start = vv_clock_mono_ns();
    varve_db *db = open_db();
    cpu = thread_seconds() - cpu;
    double seconds = (double)(vv_clock_mono_ns() - start) / 1e9;
    varve_stats s;
    varve_stats_get(db, &s);
    if (s.last_lsn != f.last_lsn)
        report_die("recovered up to %" PRIu64 " of %" PRIu64, s.last_lsn, f.last_lsn);
    report_add_rate(mb, (double)f.log_bytes / 1e6 / seconds);
    report_add_rate(busy, (double)f.log_bytes / 1e6 / cpu);
    report_add_rate(entries, (double)f.last_lsn / seconds);
    if (!varve_ok(varve_close(db)))
        report_die("close failed");
    report_dir_remove();
}

static void parse(int argc, char **argv) {
    static const struct option longs[] = {
        {"rounds", required_argument, NULL, 'r'}, {"log-bytes", required_argument, NULL, 'l'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 'l': log_bytes = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || log_bytes > UINT64_C(512) << 20) {
        fprintf(stderr, "bench_recovery: --rounds 1 to %d, --log-bytes up to 512 MiB\n", REPORT_ROUNDS_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static report_side mb[2], entries[2], busy[2];
    static const uint64_t counts[2] = {1, 100};
    parse(argc, argv);
    report_side_init(&mb[0], "batches of 1, MB/s of log");
    report_side_init(&mb[1], "batches of 100, MB/s of log");
    report_side_init(&busy[0], "  MB per second of CPU");
    report_side_init(&busy[1], "  MB per second of CPU");
    report_side_init(&entries[0], "  entries");
    report_side_init(&entries[1], "  entries");
    report_machine();
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < 2; i++)
            recover_round(counts[i], &mb[i], &entries[i], &busy[i]);
    char title[128];
    snprintf(title, sizeof title, "opening with a log of %.0f MiB, entries of %d + %d bytes, %d rounds",
             (double)log_bytes / 1048576.0, KEY_BYTES, VALUE_BYTES, rounds);
    report_header(title);
    for (int i = 0; i < 2; i++) {
        report_line(&mb[i]);
        report_line(&busy[i]);
        report_line(&entries[i]);
    }
    bool met = report_median(&mb[1]) >= 200;
    printf("  wanted: 200 MB/s of batches: %s\n", met ? "met" : "MISSED");
    return 0;
}
