/*
 * bench_fill - a database that is much larger than its memory: filled in random order, left to settle, read,
 * closed and opened again. Prints rates, memory against its configured bound, and the three amplifications
 * against what theory says of the compaction style.
 *
 *     bench_fill [--keys N] [--passes N] [--value-bytes N] [--batch N] [--gets N] [--option KEY=VALUE]...
 *
 * The first pass writes every key once; each further one writes as many keys again, drawn at random, so that
 * there are old versions to be reclaimed. Keys are 16 bytes, the hash of a number: in no order.
 */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "bench/report.h"
#include "engine/varve.h"

#define KEY_BYTES       16
#define VALUE_BYTES_MAX 65536
#define SETTLE_NS_MAX   (UINT64_C(240) * 1000000000)
#define SETTLE_POLL_NS  20000000
#define MIB             1048576.0
#define SCAN_ENTRIES    UINT64_C(1000000)

static uint64_t keys = 2000000;
static size_t value_bytes = 100;
static uint64_t passes = 1;
static uint64_t batch_count = 100;
static uint64_t gets = 100000;
static varve_options *options;
static varve_db *db;
static char db_path[600];
static uint64_t rss_before, rss_most, memory_most;
static uint8_t value[VALUE_BYTES_MAX];

/* ---- keys ---- */

/* A bijection of 64-bit numbers (the finalizer of MurmurHash3): sorted, the keys are in no order of i. */
static void key_of(uint64_t i, char key[KEY_BYTES + 1]) {
    uint64_t h = i + 1;
    h = (h ^ (h >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ (h >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    h ^= h >> 33;
    snprintf(key, KEY_BYTES + 1, "%016" PRIx64, h);
}

/* ---- memory ---- */

static uint64_t rss_bytes(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f || fscanf(f, "%*u %lu", &pages) != 1)
        report_die("/proc/self/statm can't be read");
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static varve_stats sample(void) {
    varve_stats s;
    varve_stats_get(db, &s);
    uint64_t rss = rss_bytes() - rss_before;
    rss_most = rss > rss_most ? rss : rss_most;
    memory_most = s.memory_bytes > memory_most ? s.memory_bytes : memory_most;
    return s;
}

static double option_bytes(const char *key) {
    static const char *const units[] = {"KiB", "MiB", "GiB"};
    char text[64], *unit;
    varve_options_get(options, key, text, sizeof text);
    double n = strtod(text, &unit);
    for (int i = 0; i < 3; i++)
        if (strcmp(unit, units[i]) == 0)
            n *= pow(1024, i + 1);
    return n;
}

static void print_memory(const varve_stats *s) {
    double bound = option_bytes("MEMTABLE_SIZE") * (option_bytes("MAX_IMMUTABLE_COUNT") + 1) +
                   option_bytes("CACHE_CAPACITY") + (double)s->table_memory_bytes;
    double buffers = (double)(s->wal_memory_bytes + s->io_memory_bytes);
    printf("memory, MiB: most resident %.0f, most by stats %.0f; bound %.0f (memtables, block cache, %.0f of "
           "tables) and %.0f of buffers: %s\n",
           (double)rss_most / MIB, (double)memory_most / MIB, bound / MIB,
           (double)s->table_memory_bytes / MIB, buffers / MIB,
           (double)rss_most <= bound + buffers ? "inside" : "OUTSIDE");
    printf("  now resident %.0f, by stats %.0f: memtables %.0f, block cache %.0f, tables %.0f, log %.0f, "
           "I/O %.0f, the heap itself %.0f\n",
           (double)(rss_bytes() - rss_before) / MIB, (double)s->memory_bytes / MIB,
           (double)(s->memtable_bytes + s->immutable_bytes) / MIB, (double)s->cache_memory_bytes / MIB,
           (double)s->table_memory_bytes / MIB, (double)s->wal_memory_bytes / MIB,
           (double)s->io_memory_bytes / MIB, (double)s->heap_overhead_bytes / MIB);
}

/* ---- filling ---- */

static double seconds_since(uint64_t start_ns) {
    return (double)(vv_clock_mono_ns() - start_ns) / 1e9;
}

static void open_db(void) {
    varve_error err;
    if (!varve_ok(varve_open(db_path, options, &db, &err)))
        report_die("%s", err.text);
}

static void fill(void) {
    static vv_histogram latency;
    vv_histogram_init(&latency);
    varve_write_options wo = {.durability = VARVE_DURABILITY_ASYNC};
    varve_batch *b = varve_batch_create();
    uint64_t start = vv_clock_mono_ns(), longest = 0, entries = keys * passes;
    uint64_t x = 88172645463325252u;
    char key[KEY_BYTES + 1];
    for (uint64_t i = 0, n = 0; i < entries; n++) {
        varve_batch_clear(b);
        for (uint64_t j = 0; j < batch_count && i < entries; j++, i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            uint64_t number = i < keys ? i : x % keys;
            key_of(number, key);
            memcpy(value, &number, sizeof number);
            if (!varve_ok(varve_batch_put(b, key, KEY_BYTES, value, value_bytes)))
                report_die("out of memory");
        }
        uint64_t before = vv_clock_mono_ns();
        varve_status st = varve_write(db, b, &wo, NULL);
        uint64_t took = vv_clock_mono_ns() - before;
        if (!varve_ok(st))
            report_die("write: %s", varve_code_text(st.code));
        vv_histogram_record(&latency, took);
        longest = took > longest ? took : longest;
        if (n % 1000 == 0)
            sample();
    }
    double s = seconds_since(start);
    varve_stats stats = sample();
    printf("filled in %.1f s: %.0f entries/s, %.1f MiB/s; batch p50 %.0f us, p99.9 %.0f us, longest %.1f ms; "
           "%" PRIu64 " stalls\n",
           s, (double)entries / s, (double)(entries * (KEY_BYTES + value_bytes)) / MIB / s,
           (double)vv_histogram_percentile(&latency, 50) / 1e3,
           (double)vv_histogram_percentile(&latency, 99.9) / 1e3, (double)longest / 1e6, stats.write_stalls);
    varve_batch_destroy(b);
}

/* Until nothing is sealed and no merge is due, or the time is over. */
static varve_stats settle(void) {
    uint64_t start = vv_clock_mono_ns();
    if (!varve_ok(varve_flush(db)))
        report_die("flush failed");
    varve_stats s = sample();
    while (s.immutable_count > 0 || s.compaction_debt_bytes > 0) {
        if (vv_clock_mono_ns() - start > SETTLE_NS_MAX)
            report_die("not settled after %.0f s: debt %" PRIu64, seconds_since(start),
                       s.compaction_debt_bytes);
        nanosleep(&(struct timespec){.tv_nsec = SETTLE_POLL_NS}, NULL);
        s = sample();
    }
    printf("settled in %.1f s: %" PRIu64 " tables in %" PRIu64 " sorted runs, %" PRIu64 " flushes, %" PRIu64
           " merges\n",
           seconds_since(start), s.sstable_count, s.sorted_run_count, s.flushes, s.compactions);
    return s;
}

/* What tiered should write for each byte: the flush, and a merge for each level that it has come down to. */
static double tiered_theory(double flushes, double threshold, double levels) {
    double written = flushes, runs[16] = {0};
    for (double n = 0; n < flushes; n++) {
        double run = 1;
        int level = 0;
        for (runs[0]++; runs[level] >= threshold; level++) {
            run *= threshold;
            written += run;
            runs[level] = 0;
            if (level + 1 < (int)levels)
                runs[level + 1]++;
        }
    }
    return written / flushes;
}

/* And leveled: `threshold` flushed tables are merged with all of level 1; what is above a level's size moves
 * on, a table at a time, and takes along what it overlaps: its share of the next level. */
static double leveled_theory(double flushes, double threshold, double levels, double level1, double table) {
    double written = flushes, size[16] = {0}, limit[16] = {0};
    for (int i = 1; i < (int)levels; i++)
        limit[i] = i == 1 ? level1 : limit[i - 1] * 10;
    for (double n = threshold; n <= flushes; n += threshold) {
        written += threshold + size[1];
        size[1] += threshold;
        for (int i = 1; i + 1 < (int)levels; i++) {
            for (; size[i] > limit[i]; size[i] -= table, size[i + 1] += table)
                written += table + table / size[i] * size[i + 1];
        }
    }
    return written / flushes;
}

static void print_amplification(const varve_stats *s) {
    char style[32];
    varve_options_get(options, "COMPACTION_STYLE", style, sizeof style);
    double live = (double)(keys * (KEY_BYTES + value_bytes)), user = live * (double)passes;
    double threshold = option_bytes("COMPACTION_THRESHOLD"), levels = option_bytes("LSM_LEVELS");
    double flushes = (double)s->flushes, unit = (double)s->flush_bytes / flushes;
    double theory =
        strcmp(style, "tiered") == 0
            ? tiered_theory(flushes, threshold, levels)
            : leveled_theory(flushes, threshold, levels, option_bytes("MEMTABLE_SIZE") * threshold / unit,
                             option_bytes("MAX_TABLE_SIZE") / unit);
    double tables = (double)(s->flush_bytes + s->compaction_written_bytes);
    printf("write amplification: %.2f = log %.2f + flush %.2f + merges %.2f; of tables %.2f, theory %.2f\n",
           ((double)s->wal_bytes + tables) / user, (double)s->wal_bytes / user, (double)s->flush_bytes / user,
           (double)s->compaction_written_bytes / user, tables / user, theory * (double)s->flush_bytes / user);
    printf("space amplification: %.2f; blocks, indexes and filters alone make it %.2f; %" PRIu64
           " old versions dropped\n",
           (double)s->sstable_bytes / live, (double)s->flush_bytes / user, s->dropped_versions);
}

/* ---- reading ---- */

static void get_round(bool present) {
    static vv_histogram latency;
    char key[KEY_BYTES + 1];
    vv_histogram_init(&latency);
    varve_stats before = sample();
    uint64_t start = vv_clock_mono_ns(), x = 88172645463325252u;
    for (uint64_t i = 0; i < gets; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        key_of(present ? x % keys : keys + x % keys, key);
        varve_value v;
        uint64_t from = vv_clock_mono_ns();
        varve_status st = varve_get(db, key, KEY_BYTES, &v);
        vv_histogram_record(&latency, vv_clock_mono_ns() - from);
        if (st.code != (present ? VARVE_OK : VARVE_NOT_FOUND))
            report_die("get: %s", varve_code_text(st.code));
        if (present && (v.bytes != value_bytes || memcmp(v.data, &(uint64_t){x % keys}, 8) != 0))
            report_die("get: a wrong value");
        varve_value_release(&v);
    }
    double s = seconds_since(start);
    varve_stats after = sample();
    printf(
        "get %s: %.0f /s, p50 %.1f us, p99 %.1f us; %.3f blocks looked at and %.3f read from disk per get\n",
        present ? "present" : "missing", (double)gets / s,
        (double)vv_histogram_percentile(&latency, 50) / 1e3,
        (double)vv_histogram_percentile(&latency, 99) / 1e3,
        (double)(after.cache_hits + after.cache_misses - before.cache_hits - before.cache_misses) /
            (double)gets,
        (double)(after.cache_misses - before.cache_misses) / (double)gets);
}

static void scan(void) {
    varve_iter *it;
    if (!varve_ok(varve_iter_create(db, NULL, &it)))
        report_die("out of memory");
    uint64_t n = 0, start = vv_clock_mono_ns();
    for (varve_iter_first(it); varve_iter_valid(it) && n < SCAN_ENTRIES; varve_iter_next(it))
        n++;
    double s = seconds_since(start);
    if (!varve_ok(varve_iter_status(it)) || n != VV_MIN(keys, SCAN_ENTRIES))
        report_die("scan: %" PRIu64 " entries", n);
    varve_iter_destroy(it);
    sample();
    printf("scan: %.0f entries/s\n", (double)n / s);
}

static void reopen(void) {
    uint64_t start = vv_clock_mono_ns();
    if (!varve_ok(varve_close(db)))
        report_die("close failed");
    double closed = seconds_since(start);
    start = vv_clock_mono_ns();
    open_db();
    double opened = seconds_since(start);
    char key[KEY_BYTES + 1];
    varve_value v;
    key_of(0, key);
    if (!varve_ok(varve_get(db, key, KEY_BYTES, &v)))
        report_die("get after opening");
    varve_value_release(&v);
    printf("closed in %.0f ms, opened in %.1f ms, first get after %.1f ms\n", closed * 1e3, opened * 1e3,
           seconds_since(start) * 1e3);
}

static void set(const char *pair) {
    char key[64];
    varve_error err;
    const char *equals = strchr(pair, '=');
    if (!equals || (size_t)(equals - pair) >= sizeof key) {
        fprintf(stderr, "bench_fill: --option takes KEY=VALUE\n");
        exit(2);
    }
    snprintf(key, sizeof key, "%.*s", (int)(equals - pair), pair);
    if (!varve_ok(varve_options_set(options, key, equals + 1, &err))) {
        fprintf(stderr, "bench_fill: %s\n", err.text);
        exit(2);
    }
}

static void parse(int argc, char **argv) {
    static const struct option longs[] = {{"keys", required_argument, NULL, 'k'},
                                          {"passes", required_argument, NULL, 'p'},
                                          {"value-bytes", required_argument, NULL, 'v'},
                                          {"batch", required_argument, NULL, 'b'},
                                          {"gets", required_argument, NULL, 'g'},
                                          {"option", required_argument, NULL, 'o'},
                                          {0}};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'k': keys = strtoull(optarg, NULL, 10); break;
        case 'p': passes = strtoull(optarg, NULL, 10); break;
        case 'v': value_bytes = strtoull(optarg, NULL, 10); break;
        case 'b': batch_count = strtoull(optarg, NULL, 10); break;
        case 'g': gets = strtoull(optarg, NULL, 10); break;
        case 'o': set(optarg); break;
        default: exit(2);
        }
    }
    if (keys < 1 || passes < 1 || batch_count < 1 || value_bytes < 8 || value_bytes > VALUE_BYTES_MAX) {
        fprintf(stderr, "bench_fill: --keys, --passes and --batch from 1, --value-bytes 8 to %d\n",
                VALUE_BYTES_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    char style[32], memtable[32];
    options = varve_options_create();
    if (!options)
        return 1;
    parse(argc, argv);
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (uint8_t)(i * 131 >> 3);
    snprintf(db_path, sizeof db_path, "%s/db", report_dir_create());
    rss_before = rss_bytes();
    varve_options_get(options, "COMPACTION_STYLE", style, sizeof style);
    varve_options_get(options, "MEMTABLE_TYPE", memtable, sizeof memtable);
    report_machine();
    printf("%" PRIu64 " keys of %d + %zu bytes in random order, %" PRIu64 " passes, batches of %" PRIu64
           ", %s, %s\n",
           keys, KEY_BYTES, value_bytes, passes, batch_count, style, memtable);
    open_db();
    fill();
    varve_stats s = settle();
    print_amplification(&s);
    get_round(true);
    get_round(false);
    scan();
    s = sample();
    print_memory(&s);
    fflush(stdout);
    reopen();
    if (!varve_ok(varve_close(db)))
        report_die("close failed");
    varve_options_destroy(options);
    report_dir_remove();
    return 0;
}
