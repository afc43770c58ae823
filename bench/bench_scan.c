/*
 * bench_scan - forward scans of everything by a user's iterator: cold (the database is opened anew, and its
 * files bypass the page cache), then again with all blocks in the cache; and short scans from random places,
 * cold.
 *
 *     bench_scan [--rounds N] [--entries N] [--value-bytes N]
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "bench/report.h"
#include "engine/varve.h"

#define KEY_BYTES       16
#define VALUE_BYTES_MAX 65536
#define BATCH           1000
#define SHORT_SCANS     2000
#define SHORT_ENTRIES   20
#define WARM_SCANS      4 /* a round */

static int rounds = 5;
static uint64_t entries = 1000000;
static size_t value_bytes = 100;

static varve_db *db;
static char path[600];
static double cpu_seconds; /* of the cold scans */

static void check(varve_status st, const char *what) {
    if (!varve_ok(st))
        report_die("%s: %s", what, varve_code_name(st.code));
}

static void open_db(void) {
    varve_error err;
    varve_options *o = varve_options_create();
    check(varve_options_set(o, "CACHE_CAPACITY", "1GiB", &err), "CACHE_CAPACITY");
    if (!varve_ok(varve_open(path, o, &db, &err)))
        report_die("%s", err.text);
    varve_options_destroy(o);
}

static void make_key(char key[KEY_BYTES + 1], uint64_t n) {
    snprintf(key, KEY_BYTES + 1, "%016llu", (unsigned long long)n);
}

/* Nothing that compresses. */
static void make_value(char *value, uint64_t seed) {
    for (size_t i = 0; i < value_bytes; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        value[i] = (char)(seed >> 56);
    }
}

static void fill(void) {
    static char value[VALUE_BYTES_MAX];
    char key[KEY_BYTES + 1];
    varve_batch *b = varve_batch_create();
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    for (uint64_t n = 0; n < entries;) {
        varve_batch_clear(b);
        for (int i = 0; i < BATCH && n < entries; i++, n++) {
            make_key(key, n);
            make_value(value, n);
            check(varve_batch_put(b, key, KEY_BYTES, value, value_bytes), "batch");
        }
        check(varve_write(db, b, &async, NULL), "write");
    }
    varve_batch_destroy(b);
    check(varve_compact(db), "compact");
}

static uint64_t step_through(varve_iter *it, uint64_t most) {
    uint64_t count = 0;
    for (; count < most && varve_iter_valid(it); varve_iter_next(it))
        count++;
    check(varve_iter_status(it), "iterator");
    return count;
}

static void scan_all(report_side *side) {
    varve_iter *it;
    uint64_t start = vv_clock_mono_ns();
    check(varve_iter_create(db, NULL, &it), "iterator");
    varve_iter_first(it);
    if (step_through(it, UINT64_MAX) != entries)
        report_die("a scan has not seen everything");
    varve_iter_destroy(it);
    report_add_rate(side, (double)entries / ((double)(vv_clock_mono_ns() - start) / 1e9));
}

static void scan_short(report_side *side) {
    char key[KEY_BYTES + 1];
    uint64_t start = vv_clock_mono_ns();
    for (int i = 0; i < SHORT_SCANS; i++) {
        varve_iter *it;
        check(varve_iter_create(db, NULL, &it), "iterator");
        make_key(key, (uint64_t)i * UINT64_C(7919) % entries);
        varve_iter_seek(it, key, KEY_BYTES);
        (void)step_through(it, SHORT_ENTRIES);
        varve_iter_destroy(it);
    }
    report_add_rate(side, SHORT_SCANS / ((double)(vv_clock_mono_ns() - start) / 1e9));
}

static void reopen(void) {
    check(varve_close(db), "close");
    open_db();
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
                                            {"entries", required_argument, NULL, 'n'},
                                            {"value-bytes", required_argument, NULL, 'v'},
                                            {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 'n': entries = strtoull(optarg, NULL, 10); break;
        case 'v': value_bytes = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX / WARM_SCANS || entries < 1 ||
        value_bytes > VALUE_BYTES_MAX) {
        fprintf(stderr, "bench_scan: --rounds 1 to %d, --entries from 1, --value-bytes up to %d\n",
                REPORT_ROUNDS_MAX / WARM_SCANS, VALUE_BYTES_MAX);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static report_side cold, warm, few;
    parse(argc, argv);
    snprintf(path, sizeof path, "%s/db", report_dir_create());
    open_db();
    fill();
    report_side_init(&cold, "cold scan, entries");
    report_side_init(&warm, "warm scan, entries");
    report_side_init(&few, "cold scans of 20 entries");
    report_machine();
    for (int i = 0; i < rounds; i++) {
        reopen();
        clock_t cpu = clock();
        scan_all(&cold);
        cpu_seconds += (double)(clock() - cpu) / CLOCKS_PER_SEC;
        for (int n = 0; n < WARM_SCANS; n++)
            scan_all(&warm);
        reopen();
        scan_short(&few);
    }
    char title[128];
    snprintf(title, sizeof title, "%llu entries, %d-byte keys, %zu-byte values, %d rounds",
             (unsigned long long)entries, KEY_BYTES, value_bytes, rounds);
    report_header(title);
    report_line(&cold);
    report_line(&warm);
    report_line(&few);
    printf("  processor time of a cold scan: %.2f s\n", cpu_seconds / rounds);
    check(varve_close(db), "close");
    report_dir_remove();
    return 0;
}
