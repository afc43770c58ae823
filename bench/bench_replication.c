/*
 * bench_replication - a primary and a follower, under the highest durable write rate that one pipeline stream
 * reaches.
 *
 *     bench_replication [--rounds N] [--seconds S]
 *
 * In each round:
 *   alone      the follower's process is stopped (SIGSTOP): what the primary writes by itself
 *   streaming  no writes; the follower goes on, and gets all of that: from the log, over the network, durable
 * there together   writes while the follower follows: their rate, how far behind it says it is (ten times a
 * second), and how long it takes to have everything once they end
 *
 * Primary, follower and load share the machine.
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <grpc/grpc.h>

#include "base/clock.h"
#include "bench/load.h"
#include "bench/report.h"
#include "bench/server.h"
#include "rpc/codec.h"
#include "rpc/peer.h"
#include "varve/v1/admin.pb-c.h"

#define CALL_NS     (10 * VV_NS_PER_S)
#define CATCH_UP_NS (120 * VV_NS_PER_S)
#define SAMPLE_US   100000
#define LAGS_MAX    4096

static int rounds = 3;
static int seconds = 5;
static char body[700];
static server primary, follower;
static vv_peer *to_primary, *to_follower;

typedef struct state {
    uint64_t durable_lsn;
    uint64_t lag_ms;
    bool connected;
} state;

static state ask(vv_peer *peer) {
    uint8_t *reply;
    size_t bytes;
    vv_peer_error failure;
    if (!vv_peer_call(peer, "/varve.v1.Admin/Status", vv_slice_make("", 0), CALL_NS, &reply, &bytes,
                      &failure))
        report_die("Status: %s", failure.message);
    Varve__V1__StatusResponse *r = varve__v1__status_response__unpack(NULL, bytes, reply);
    if (!r)
        report_die("Status: no message");
    state s = {.durable_lsn = r->durable_lsn, .lag_ms = r->lag_ms, .connected = r->connected};
    varve__v1__status_response__free_unpacked(r, NULL);
    free(reply);
    return s;
}

/* Seconds until the follower has it. */
static double await(uint64_t lsn) {
    uint64_t start_ns = vv_clock_mono_ns();
    while (ask(to_follower).durable_lsn < lsn) {
        if (vv_clock_mono_ns() - start_ns > CATCH_UP_NS)
            report_die("the follower does not catch up");
        usleep(1000);
    }
    return (double)(vv_clock_mono_ns() - start_ns) / (double)VV_NS_PER_S;
}

/* ---- how far behind, while it is loaded ---- */

static _Atomic bool sampling;
static uint64_t lags_ms[LAGS_MAX];
static size_t lag_count;

static void *sample(void *arg) {
    (void)arg;
    while (atomic_load(&sampling)) {
        usleep(SAMPLE_US); /* first: what it was behind before is not what is asked here */
        state s = ask(to_follower);
        if (lag_count < LAGS_MAX)
            lags_ms[lag_count++] = s.lag_ms;
    }
    return NULL;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* ---- the rounds ---- */

static double write_for_a_while(void) {
    return LOAD_PIPELINE_OPS * load_run(primary.address, "/varve.v1.KV/Pipeline", body, 1, 1, seconds);
}

static void run_round(report_side *alone, report_side *streaming, report_side *together, double *tail_s) {
    pthread_t sampler;
    uint64_t before = ask(to_primary).durable_lsn;
    kill(follower.pid, SIGSTOP);
    report_add_rate(alone, write_for_a_while());
    uint64_t after = ask(to_primary).durable_lsn;
    kill(follower.pid, SIGCONT);
    report_add_rate(streaming, (double)(after - before) / await(after));

    atomic_store(&sampling, true);
    if (pthread_create(&sampler, NULL, sample, NULL) != 0)
        report_die("no thread");
    report_add_rate(together, write_for_a_while());
    atomic_store(&sampling, false);
    pthread_join(sampler, NULL);
    double s = await(ask(to_primary).durable_lsn);
    *tail_s = s > *tail_s ? s : *tail_s;
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"rounds", required_argument, NULL, 'r'}, {"seconds", required_argument, NULL, 's'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 's': seconds = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || seconds < 1) {
        fprintf(stderr, "bench_replication: every number is at least 1\n");
        exit(2);
    }
}

static vv_peer *connect_to(const server *s) {
    vv_peer *peer;
    vv_error err = {""};
    vv_peer_options o = {.address = s->address};
    if (!vv_ok(vv_peer_create(&o, &peer, &err)))
        report_die("%s", err.text);
    return peer;
}

static void start(server *s, const char *dir, const char *name, const char *follow) {
    char path[700], data[700], log[700], flag[200];
    snprintf(path, sizeof path, "%s/varved", report_bin_dir());
    snprintf(data, sizeof data, "--data=%s/%s", dir, name);
    snprintf(log, sizeof log, "%s/%s.log", dir, name);
    snprintf(flag, sizeof flag, "--follow=%s", follow ? follow : "");
    char listen[] = "--listen=127.0.0.1:0";
    server_start(s, (char *[]){path, data, listen, follow ? flag : NULL, NULL}, log);
}

int main(int argc, char **argv) {
    static report_side alone, streaming, together;
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    grpc_init();
    const char *dir = report_dir_create();
    load_write_pipeline(dir, "body", true, body, sizeof body);
    start(&primary, dir, "primary", NULL);
    start(&follower, dir, "follower", primary.address);
    to_primary = connect_to(&primary);
    to_follower = connect_to(&follower);
    for (uint64_t start_ns = vv_clock_mono_ns(); !ask(to_follower).connected; usleep(1000))
        if (vv_clock_mono_ns() - start_ns > CATCH_UP_NS)
            report_die("the follower does not connect");

    double tail_s = 0;
    report_side_init(&alone, "primary alone");
    report_side_init(&streaming, "streaming");
    report_side_init(&together, "with a follower");
    report_machine();
    for (int i = 0; i < rounds; i++)
        run_round(&alone, &streaming, &together, &tail_s);
    qsort(lags_ms, lag_count, sizeof lags_ms[0], compare);
    vv_peer_destroy(to_primary);
    vv_peer_destroy(to_follower);
    server_stop(&follower);
    server_stop(&primary);
    char title[160];
    snprintf(title, sizeof title,
             "durable puts by one pipeline stream, 16-byte keys, 100-byte values, %d rounds of %d s; puts a "
             "second",
             rounds, seconds);
    report_header(title);
    report_line(&alone);
    report_line(&streaming);
    report_line(&together);
    report_ratio(&streaming, &alone, 1);
    report_ratio(&together, &alone, 0);
    if (lag_count > 0)
        printf(
            "lag while writing: median %llu ms, p99 %llu ms, longest %llu ms of %zu samples (below 1000)\n",
            (unsigned long long)lags_ms[lag_count / 2], (unsigned long long)lags_ms[lag_count * 99 / 100],
            (unsigned long long)lags_ms[lag_count - 1], lag_count);
    printf("complete at most %.3f s after the last write\n", tail_s);
    report_dir_remove();
    grpc_shutdown_blocking();
    return 0;
}
