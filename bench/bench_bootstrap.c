/*
 * bench_bootstrap - how fast a whole store is fetched from a varved over the loopback interface, against `cp`
 * of the same files and `sync` of the copies, in turn.
 *
 *     bench_bootstrap [--rounds N] [--mib N] [--parallel N]
 *
 * Values are random, so that nothing is compressed. The server reads beside the page cache, so cp is measured
 * twice: with the files in it, and after they were dropped from it. Rates are MB a second of all files.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/report.h"
#include "bench/server.h"
#include "bench/workload.h"
#include "engine/varve.h"
#include "rpc/fetch.h"

#define VALUE_BYTES 400

typedef enum side { SIDE_FETCH, SIDE_CP_WARM, SIDE_CP_COLD, SIDE_COUNT } side;

static int rounds = 3;
static uint64_t mib = 1024;
static uint32_t parallel; /* 0: as it is by default */
static char root[600], data[640], copy[640];
static uint64_t bytes; /* of all files; known after the first fetch */

static void run_command(const char *command) {
    if (system(command) != 0)
        report_die("%s", command);
}

static void fill(void) {
    varve_db *db;
    varve_error err = {""};
    uint64_t seed = 1, value[VALUE_BYTES / sizeof(uint64_t)];
    char key[WORKLOAD_KEY_BYTES];
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    if (!varve_ok(varve_open(data, NULL, &db, &err)))
        report_die("%s", err.text);
    for (uint64_t done = 0; done < mib << 20; done += VALUE_BYTES) {
        workload_key(workload_random(&seed), key);
        for (size_t i = 0; i < VALUE_BYTES / sizeof *value; i++)
            value[i] = workload_random(&seed);
        if (!varve_ok(varve_put(db, key, WORKLOAD_KEY_BYTES, value, VALUE_BYTES, &o, NULL)))
            report_die("put failed");
    }
    if (!varve_ok(varve_compact(db)) || !varve_ok(varve_close(db)))
        report_die("compact failed");
}

/* What the disk still has to do for the round before is not this one's. */
static void settle(void) {
    char command[700];
    snprintf(command, sizeof command, "rm -rf '%s' && sync", copy);
    run_command(command);
}

static double fetch(const server *s) {
    vv_peer *peer;
    vv_error err = {""};
    vv_fetch_info info;
    vv_peer_options to = {.address = s->address};
    if (!vv_ok(vv_peer_create(&to, &peer, &err)))
        report_die("%s", err.text);
    vv_fetch_options options = {.peer = peer, .dir = copy, .parallel = parallel};
    uint64_t start = vv_clock_mono_ns();
    if (!vv_ok(vv_fetch(&options, &info, &err)))
        report_die("%s", err.text);
    double seconds = (double)(vv_clock_mono_ns() - start) / 1e9;
    vv_peer_destroy(peer);
    bytes = info.bytes;
    return (double)info.bytes / seconds / 1e6;
}

static void drop_from_page_cache(void) {
    DIR *d = opendir(data);
    if (!d)
        report_die("%s: cannot be read", data);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            close(fd);
        }
    }
    closedir(d);
}

static void read_into_page_cache(void) {
    char command[700];
    snprintf(command, sizeof command, "cat '%s'/*.sst > /dev/null", data);
    run_command(command);
}

static double cp(void) {
    char command[2100];
    snprintf(command, sizeof command,
             "mkdir '%s' && cp --reflink=never '%s'/*.sst '%s' && sync '%s'/*.sst '%s'", copy, data, copy,
             copy, copy);
    uint64_t start = vv_clock_mono_ns();
    run_command(command);
    return (double)bytes / ((double)(vv_clock_mono_ns() - start) / 1e9) / 1e6;
}

static double run(side which, const server *s) {
    settle();
    switch (which) {
    case SIDE_FETCH: return fetch(s);
    case SIDE_CP_WARM: read_into_page_cache(); return cp();
    default: drop_from_page_cache(); return cp();
    }
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
                                            {"mib", required_argument, NULL, 'm'},
                                            {"parallel", required_argument, NULL, 'p'},
                                            {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 'm': mib = strtoull(optarg, NULL, 10); break;
        case 'p': parallel = (uint32_t)atoi(optarg); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || mib < 1) {
        fprintf(stderr, "bench_bootstrap: --rounds 1 to %d, --mib from 1\n", REPORT_ROUNDS_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static report_side sides[SIDE_COUNT];
    static const char *const names[SIDE_COUNT] = {"fetch", "cp, cached", "cp, from disk"};
    char program[700], log[700], data_flag[700];
    parse(argc, argv);
    snprintf(root, sizeof root, "%s", report_dir_create());
    snprintf(data, sizeof data, "%s/data", root);
    snprintf(copy, sizeof copy, "%s/copy", root);
    fill();
    snprintf(program, sizeof program, "%s/varved", report_bin_dir());
    snprintf(log, sizeof log, "%s/log", root);
    snprintf(data_flag, sizeof data_flag, "--data=%s", data);
    char *const command[] = {program, data_flag, (char[]){"--listen=127.0.0.1:0"}, NULL};
    server s;
    server_start(&s, command, log);
    report_machine();
    for (int i = 0; i < SIDE_COUNT; i++)
        report_side_init(&sides[i], names[i]);
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < SIDE_COUNT; i++)
            report_add_rate(&sides[i], run((side)i, &s));
    server_stop(&s);
    char title[160];
    snprintf(title, sizeof title, "a store of %.0f MB, %d rounds; MB", (double)bytes / 1e6, rounds);
    report_header(title);
    for (int i = 0; i < SIDE_COUNT; i++)
        report_line(&sides[i]);
    report_ratio(&sides[SIDE_FETCH], &sides[SIDE_CP_WARM], 0.5);
    report_ratio(&sides[SIDE_FETCH], &sides[SIDE_CP_COLD], 0.5);
    report_dir_remove();
    return 0;
}
