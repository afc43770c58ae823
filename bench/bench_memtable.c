/*
 * bench_memtable - adds and gets of the three memtables beside each other: random keys, one thread, no log.
 *
 *     bench_memtable [--rounds N] [--entries N] [--together N] [--key-bytes N] [--value-bytes N]
 *
 * together: entries of one group, as the writer adds what it commits at once; 1 by default. Latencies are of
 * groups, reservation included: the slowest one shows what growing costs.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/report.h"
#include "engine/mem/memtable.h"

#define KEY_BYTES_MAX   256
#define VALUE_BYTES_MAX 65536
#define TOGETHER_MAX    1024

static int rounds = 3;
static uint64_t entries = 1000000;
static uint64_t together = 1;
static size_t key_bytes = 16;
static size_t value_bytes = 64;

static const struct {
    vv_memtable_type type;
    const char *add, *get, *scan;
} types[] = {
    {VV_MEMTABLE_HASHMAP, "hashmap add", "hashmap get", "hashmap scan"},
    {VV_MEMTABLE_SKIPLIST, "skiplist add", "skiplist get", "skiplist scan"},
    {VV_MEMTABLE_BTREE, "btree add", "btree get", "btree scan"},
};

#define TYPES 3

static report_side adds[TYPES], gets[TYPES], scans[TYPES];

/* The n-th key: splitmix64 twice, repeated to the length. */
static vv_slice make_key(uint64_t n, uint8_t buffer[KEY_BYTES_MAX + 8]) {
    for (size_t at = 0; at < key_bytes; at += 8) {
        uint64_t x = (n * 2 + at / 8 % 2 + 1) * UINT64_C(0x9E3779B97F4A7C15);
        x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
        x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
        x ^= x >> 31;
        memcpy(buffer + at, &x, 8);
    }
    return vv_slice_make(buffer, key_bytes);
}

static double rate_since(uint64_t start_ns) {
    return (double)entries / ((double)(vv_clock_mono_ns() - start_ns) / 1e9);
}

static void add_round(vv_memtable *m, report_side *side) {
    static const uint8_t value[VALUE_BYTES_MAX];
    static uint8_t keys[TOGETHER_MAX][KEY_BYTES_MAX + 8];
    uint64_t start = vv_clock_mono_ns(), now = start;
    for (uint64_t i = 0; i < entries; i += together) {
        uint64_t count = VV_MIN(together, entries - i);
        if (!vv_ok(vv_memtable_reserve(m, count, count * (key_bytes + value_bytes))))
            report_die("out of memory");
        vv_memtable_adder adder;
        vv_memtable_adder_init(&adder, m);
        for (uint64_t k = 0; k < count; k++) {
            vv_entry e = {.key = make_key(i + k, keys[k]),
                          .value = vv_slice_make(value, value_bytes),
                          .lsn = i + k + 1,
                          .kind = VV_KIND_PUT};
            vv_memtable_adder_add(&adder, &e);
        }
        vv_memtable_adder_flush(&adder);
        uint64_t done = vv_clock_mono_ns();
        vv_histogram_record(&side->latency_ns, done - now);
        now = done;
    }
    report_add_rate(side, rate_since(start));
}

static void get_round(vv_memtable *m, report_side *side) {
    uint8_t buffer[KEY_BYTES_MAX + 8];
    uint64_t start = vv_clock_mono_ns();
    uint64_t n = 1;
    for (uint64_t i = 0; i < entries; i++) {
        n = n * UINT64_C(6364136223846793005) + 1442695040888963407u;
        vv_entry e;
        if (!vv_memtable_get(m, make_key((n >> 20) % entries, buffer), VV_LSN_MAX, &e))
            report_die("a key is missing");
    }
    report_add_rate(side, rate_since(start));
}

/* The making of the iterator included: the hash map's sort. */
static void scan_round(vv_memtable *m, report_side *side) {
    uint64_t start = vv_clock_mono_ns(), count = 0;
    vv_iter *it;
    if (!vv_ok(vv_memtable_iter_create(m, &it)))
        report_die("out of memory");
    for (vv_iter_seek_first(it); it->valid; vv_iter_next(it))
        count++;
    if (count != entries)
        report_die("an entry is missing");
    report_add_rate(side, rate_since(start));
    vv_iter_destroy(it);
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"rounds", required_argument, NULL, 'r'},      {"entries", required_argument, NULL, 'e'},
        {"together", required_argument, NULL, 't'},    {"key-bytes", required_argument, NULL, 'k'},
        {"value-bytes", required_argument, NULL, 'v'}, {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        uint64_t n = option == '?' ? 0 : strtoull(optarg, NULL, 10);
        switch (option) {
        case 'r': rounds = (int)n; break;
        case 'e': entries = n; break;
        case 't': together = n; break;
        case 'k': key_bytes = n; break;
        case 'v': value_bytes = n; break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || entries < 1 || together < 1 || together > TOGETHER_MAX ||
        key_bytes < 8 || key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX) {
        fprintf(stderr, "bench_memtable: out of range\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    parse(argc, argv);
    uint64_t bytes[TYPES];
    for (int i = 0; i < TYPES; i++) {
        report_side_init(&adds[i], types[i].add);
        report_side_init(&gets[i], types[i].get);
        report_side_init(&scans[i], types[i].scan);
    }
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < TYPES; i++) {
            vv_memtable *m;
            if (!vv_ok(vv_memtable_create(types[i].type, 1, &m)))
                report_die("out of memory");
            add_round(m, &adds[i]);
            bytes[i] = vv_memtable_bytes(m);
            get_round(m, &gets[i]);
            scan_round(m, &scans[i]);
            vv_memtable_unref(m);
        }
    }
    report_machine();
    char title[128];
    snprintf(title, sizeof title, "memtables, %llu random keys of %zu + %zu bytes, %llu together",
             (unsigned long long)entries, key_bytes, value_bytes, (unsigned long long)together);
    report_header(title);
    for (int i = 0; i < TYPES; i++)
        report_line(&adds[i]);
    for (int i = 0; i < TYPES; i++)
        report_line(&gets[i]);
    for (int i = 0; i < TYPES; i++)
        report_line(&scans[i]);
    for (int i = 0; i < TYPES; i++)
        printf("%-14s %6.1f bytes an entry, slowest add %.1f us\n", types[i].add,
               (double)bytes[i] / (double)entries, (double)vv_histogram_max(&adds[i].latency_ns) / 1e3);
    report_ratio(&adds[0], &adds[1], 1);
    report_ratio(&adds[2], &adds[1], 0.5);
    report_ratio(&gets[0], &gets[1], 1);
    report_ratio(&gets[2], &gets[1], 1);
    return 0;
}
