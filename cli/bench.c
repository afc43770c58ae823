/*
 * bench.c - threads that call as fast as it goes, or by the clock, and one that tells how it is going.
 *
 *     worker i:  wait for the next call's time --> call --> record into its own histogram
 *     main:      every second, merge all of them; what came since the last second is a line
 *
 * Open loop (--rate): calls have times, start + n / rate, that are handed out by a counter, and a latency is
 * counted from that time. So a stall of the server is seen by all the calls that it held up, and not by those
 * alone that were in flight (G. Tene, "How NOT to measure latency": coordinated omission).
 */
#include "cli/bench.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/histogram.h"
#include "base/sync.h"
#include "cli/interrupt.h"
#include "cli/output.h"

#define PREFIX       "varve-bench:"
#define KEY_BYTES    (sizeof PREFIX - 1 + 10)
#define SCAN_ENTRIES 100
#define BATCH_KEYS   1000
#define BATCH_BYTES  ((size_t)1 << 20)
#define PERIOD_NS    VV_NS_PER_S
#define STOP_LOOK_NS (50 * VV_NS_PER_MS)

typedef enum workload { WORKLOAD_PUT, WORKLOAD_GET, WORKLOAD_MIXED, WORKLOAD_SCAN } workload;

typedef struct bench {
    const vv_cli_args *args;
    vv_client *client;
    workload workload;
    uint8_t *value;
    uint64_t start_ns, end_ns;
    _Atomic uint64_t next_call; /* of --rate */
    _Atomic bool stop;
    _Atomic uint64_t failed;
    struct {
        vv_mutex lock;
        vv_client_error first; /* of the calls that failed */
    } mu;
} bench;

typedef struct worker {
    bench *bench;
    pthread_t thread;
    uint64_t seed;
    vv_histogram ns; /* of calls that were carried out */
} worker;

/* ---- calls ---- */

/* xorshift64* (S. Vigna, 2014). */
static uint64_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static vv_slice make_key(char buf[KEY_BYTES + 1], uint64_t n) {
    snprintf(buf, KEY_BYTES + 1, PREFIX "%010" PRIu64, n);
    return vv_slice_make(buf, KEY_BYTES);
}

static void count_entry(void *arg, const varve_entry *entry) {
    (void)entry;
    ++*(uint64_t *)arg;
}

static bool call(worker *w, vv_client_error *err) {
    bench *b = w->bench;
    char buf[KEY_BYTES + 1];
    vv_slice key = make_key(buf, random_next(&w->seed) % b->args->keys);
    uint64_t lsn, entries = 0;
    bool put =
        b->workload == WORKLOAD_PUT || (b->workload == WORKLOAD_MIXED && random_next(&w->seed) % 2 == 0);
    if (put)
        return vv_client_put(b->client, key, vv_slice_make(b->value, b->args->value_bytes), b->args->async,
                             &lsn, err);
    if (b->workload == WORKLOAD_SCAN) {
        vv_bytes start = {0}, prefix = {0};
        vv_bytes_append(&start, key.data, key.bytes);
        vv_bytes_append(&prefix, PREFIX, sizeof PREFIX - 1);
        vv_client_range range = {.prefix = &prefix, .start = &start, .limit = SCAN_ENTRIES};
        bool fine = vv_client_scan(b->client, &range, count_entry, &entries, err);
        vv_bytes_deinit(&prefix);
        vv_bytes_deinit(&start);
        return fine;
    }
    vv_client_value value = {0};
    bool fine = vv_client_get(b->client, key, &value, err);
    vv_bytes_deinit(&value.bytes);
    return fine;
}

static void note_failure(bench *b, const vv_client_error *err) {
    if (atomic_fetch_add(&b->failed, 1) > 0)
        return;
    vv_mutex_lock(&b->mu.lock);
    b->mu.first = *err;
    vv_mutex_unlock(&b->mu.lock);
}

/* When the next call begins. */
static uint64_t next_start_ns(bench *b) {
    if (b->args->rate == 0)
        return vv_clock_mono_ns();
    uint64_t n = atomic_fetch_add(&b->next_call, 1);
    uint64_t at_ns = b->start_ns + (uint64_t)((double)n * 1e9 / (double)b->args->rate);
    uint64_t wake_ns = VV_MIN(at_ns, b->end_ns), now_ns;
    while (!atomic_load(&b->stop) && (now_ns = vv_clock_mono_ns()) < wake_ns)
        vv_sleep_until(VV_MIN(now_ns + STOP_LOOK_NS, wake_ns));
    return at_ns;
}

static void work(void *arg) {
    worker *w = arg;
    bench *b = w->bench;
    vv_client_error err = {0};
    while (!atomic_load(&b->stop)) {
        uint64_t begun_ns = next_start_ns(b);
        if (begun_ns >= b->end_ns || atomic_load(&b->stop))
            return;
        if (call(w, &err))
            vv_histogram_record(&w->ns, vv_clock_mono_ns() - begun_ns);
        else
            note_failure(b, &err);
    }
}

/* ---- what it tells ---- */

static void show(const bench *b, const vv_histogram *ns, double seconds, const char *what, uint64_t failed) {
    vv_bench_line line = {.what = what,
                          .seconds = seconds,
                          .calls = vv_histogram_count(ns),
                          .failed = failed,
                          .p50_ns = vv_histogram_percentile(ns, 50),
                          .p90_ns = vv_histogram_percentile(ns, 90),
                          .p99_ns = vv_histogram_percentile(ns, 99),
                          .p999_ns = vv_histogram_percentile(ns, 99.9),
                          .max_ns = vv_histogram_max(ns)};
    vv_output_bench(stdout, &line, b->args->json);
    fflush(stdout);
}

/* Every second a line, until the time is over or somebody has had enough. */
static void watch(bench *b, const worker *workers, size_t count, vv_histogram h[3]) {
    vv_histogram *before = &h[0], *now = &h[1], *since = &h[2];
    uint64_t last_ns = b->start_ns, failed = 0;
    char what[32];
    vv_histogram_init(before);
    while (last_ns < b->end_ns && !vv_interrupted()) {
        vv_sleep_until(VV_MIN(last_ns + PERIOD_NS, b->end_ns));
        uint64_t now_ns = vv_clock_mono_ns(), failed_now = atomic_load(&b->failed);
        vv_histogram_init(now);
        for (size_t i = 0; i < count; i++)
            vv_histogram_merge(now, &workers[i].ns);
        vv_histogram_since(since, now, before);
        snprintf(what, sizeof what, "%.0f s", (double)(now_ns - b->start_ns) / 1e9);
        show(b, since, (double)(now_ns - last_ns) / 1e9, what, failed_now - failed);
        vv_histogram *swap = before;
        before = now;
        now = swap;
        last_ns = now_ns;
        failed = failed_now;
    }
    atomic_store(&b->stop, true);
}

static vv_cli_exit measure(bench *b, worker *workers, vv_histogram h[3]) {
    size_t started = 0;
    b->start_ns = vv_clock_mono_ns();
    b->end_ns = b->start_ns + b->args->duration_us * VV_NS_PER_US;
    for (; started < b->args->concurrency; started++) {
        worker *w = &workers[started];
        w->bench = b;
        w->seed = (started + 1) * UINT64_C(0x9e3779b97f4a7c15);
        vv_histogram_init(&w->ns);
        if (!vv_ok(vv_thread_start(&w->thread, "varve-bench", work, w)))
            break;
    }
    bool all = started == b->args->concurrency;
    if (all)
        watch(b, workers, started, h);
    atomic_store(&b->stop, true);
    for (size_t i = 0; i < started; i++)
        vv_thread_join(workers[i].thread);
    if (!all) {
        fprintf(stderr, "varve: bench: the system has no more than %zu threads for it\n", started);
        return VV_CLI_FAILED;
    }
    vv_histogram_init(&h[0]);
    for (size_t i = 0; i < started; i++)
        vv_histogram_merge(&h[0], &workers[i].ns);
    show(b, &h[0], (double)(vv_clock_mono_ns() - b->start_ns) / 1e9, "all", atomic_load(&b->failed));
    return VV_CLI_DONE;
}

/* ---- its keys ---- */

/* Put or delete all of them, in batches. */
static bool write_all(bench *b, vv_client_op_kind kind, vv_client_error *err) {
    vv_client_op ops[BATCH_KEYS];
    char keys[BATCH_KEYS][KEY_BYTES + 1];
    size_t count = 0, batch = BATCH_KEYS;
    uint64_t lsn;
    if (kind == VV_CLIENT_PUT && b->args->value_bytes * batch > BATCH_BYTES)
        batch = VV_MAX(BATCH_BYTES / b->args->value_bytes, (size_t)1);
    for (uint64_t n = 0; n < b->args->keys; n++) {
        ops[count] = (vv_client_op){.kind = kind, .key = make_key(keys[count], n)};
        if (kind == VV_CLIENT_PUT)
            ops[count].value = vv_slice_make(b->value, b->args->value_bytes);
        if (++count < batch && n + 1 < b->args->keys)
            continue;
        if (!vv_client_write(b->client, ops, count, n + 1 < b->args->keys, &lsn, err))
            return false;
        count = 0;
        if (kind == VV_CLIENT_PUT && vv_interrupted())
            return true;
    }
    return true;
}

static vv_cli_exit failed(const char *what, const vv_client_error *err) {
    fprintf(stderr, "varve: bench: %s", what);
    vv_output_error(stderr, err);
    fputc('\n', stderr);
    return VV_CLI_FAILED;
}

static vv_cli_exit run(bench *b, worker *workers, vv_histogram h[3]) {
    vv_client_error err = {0};
    vv_cli_exit result = VV_CLI_DONE;
    bool filled = b->workload == WORKLOAD_PUT || write_all(b, VV_CLIENT_PUT, &err);
    if (!filled)
        result = failed("storing the keys: ", &err);
    else if (!vv_interrupted())
        result = measure(b, workers, h);
    uint64_t failures = atomic_load(&b->failed);
    if (failures > 0) {
        char what[64];
        snprintf(what, sizeof what, "%" PRIu64 " calls failed, the first with ", failures);
        result = failed(what, &b->mu.first);
    }
    if (filled && !b->args->keep && !write_all(b, VV_CLIENT_DELETE, &err))
        result = failed("removing the keys: ", &err);
    return result;
}

static workload workload_of(const char *name) {
    static const char *const names[] = {"put", "get", "mixed", "scan"};
    for (size_t i = 0; name && i < VV_ARRAY_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0)
            return (workload)i;
    return WORKLOAD_PUT;
}

vv_cli_exit vv_cli_bench(const vv_cli_args *args, vv_client *client) {
    bench b = {.args = args, .client = client, .workload = workload_of(args->workload)};
    uint64_t seed = 1;
    vv_cli_exit result = VV_CLI_FAILED;
    worker *workers = vv_alloc_zeroed(args->concurrency * sizeof *workers);
    vv_histogram *h = vv_alloc(3 * sizeof *h);
    b.value = vv_alloc(args->value_bytes + 1);
    if (!workers || !h || !b.value) {
        fprintf(stderr, "varve: bench: out of memory\n");
        goto out;
    }
    for (uint64_t i = 0; i < args->value_bytes; i++)
        b.value[i] = (uint8_t)random_next(&seed);
    vv_mutex_init(&b.mu.lock);
    vv_interrupt_catch();
    result = run(&b, workers, h);
    vv_mutex_deinit(&b.mu.lock);
out:
    vv_free(b.value);
    vv_free(h);
    vv_free(workers);
    return result;
}
