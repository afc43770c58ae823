/*
 * works.c - the table of workloads, and of the data that they run on.
 */
#include "bench/engine/work.h"

#define MIB      (UINT64_C(1) << 20)
#define MEMTABLE (64 * MIB)
#define CACHE    (256 * MIB)
/* For all that the workloads of YCSB have inserted at their end, as the peers have the page cache for it. */
#define CACHE_ALL (4096 * (uint64_t)MIB)
#define CACHE_AMPLE                                                                                          \
    (1024 * MIB) /* what is read beside a writer fits, tables that are just being merged included */
#define VALUE_BYTES 64

static const work_set durable = {.what = "nothing; writes are durable",
                                 .value_bytes = VALUE_BYTES,
                                 .memtable_bytes = MEMTABLE,
                                 .cache_bytes = CACHE,
                                 .durable = true};
static const work_set deletable = {.what = "1 M keys in order; writes are durable",
                                   .keys = 1000000,
                                   .value_bytes = VALUE_BYTES,
                                   .memtable_bytes = MEMTABLE,
                                   .cache_bytes = CACHE,
                                   .durable = true,
                                   .ascending = true};
static const work_set asynchronous = {.what = "nothing; writes are readable when they return",
                                      .value_bytes = VALUE_BYTES,
                                      .memtable_bytes = MEMTABLE,
                                      .cache_bytes = CACHE};
static const work_set memtable = {.what = "200,000 keys in the memtable",
                                  .keys = 200000,
                                  .value_bytes = VALUE_BYTES,
                                  .memtable_bytes = MEMTABLE,
                                  .cache_bytes = CACHE};
static const work_set warm = {.what = "2 M keys in tables, compacted, all in the cache",
                              .keys = 2000000,
                              .value_bytes = VALUE_BYTES,
                              .memtable_bytes = MEMTABLE,
                              .cache_bytes = CACHE,
                              .compacted = true};
/* Another of the same, since its workloads change it. */
static const work_set changing = {.what =
                                      "2 M keys, compacted before the first round; writes are asynchronous",
                                  .keys = 2000000,
                                  .value_bytes = VALUE_BYTES,
                                  .memtable_bytes = MEMTABLE,
                                  .cache_bytes = CACHE_AMPLE,
                                  .compacted = true};
static const work_set ycsb = {.what = "500,000 records of 1,000 bytes; writes are asynchronous",
                              .keys = 500000,
                              .value_bytes = 1000,
                              .memtable_bytes = MEMTABLE,
                              .cache_bytes = CACHE_ALL,
                              .compacted = true};

static const work_set cold = {.what = "4 M keys of 1,000 bytes in tables, ten times the cache, direct I/O",
                              .keys = 4000000,
                              .value_bytes = 1000,
                              .memtable_bytes = MEMTABLE,
                              .cache_bytes = 400 * MIB,
                              .ascending = true,
                              .compacted = true,
                              .cold = true};

#define RATE                                                                                                 \
    {                                                                                                        \
        { .unit = "ops/s" }                                                                                  \
    }
#define SIMPLE(op_, n) .turn = work_turn_simple, .threads = (n), .group = {.op = (op_), .threads = (n)}
/* What takes less than a microsecond is timed once in 16. */
#define QUICK(op_, n)                                                                                        \
    .turn = work_turn_simple, .threads = (n), .group = {.op = (op_), .threads = (n), .sample = 16}

const work works[] = {
    {.name = "PutSequential",
     .what = "durable puts, ascending keys",
     .set = &durable,
     .metrics = RATE,
     SIMPLE(op_put_ascending, 1)},
    {.name = "PutThroughput",
     .what = "durable puts, random keys",
     .set = &durable,
     .needs = STORE_COMMITS_RAW,
     .metrics = RATE,
     SIMPLE(op_put_random, 1)},
    {.name = "PutParallel",
     .what = "durable puts, random keys, a thread for each of two cores",
     .set = &durable,
     .metrics = RATE,
     SIMPLE(op_put_random, 2)},
    {.name = "PutThroughputParallel",
     .what = "durable puts, random keys",
     .set = &durable,
     .needs = STORE_COMMITS_RAW,
     .metrics = RATE,
     SIMPLE(op_put_random, 16)},
    {.name = "PutThroughputParallel",
     .what = "durable puts, random keys",
     .set = &durable,
     .needs = STORE_COMMITS_RAW,
     .metrics = RATE,
     SIMPLE(op_put_random, 64)},
    {.name = "PutBurst",
     .what = "64 durable puts at once, then a wait for all; without callbacks: one batch of 64",
     .set = &durable,
     .turn = work_turn_simple,
     .threads = 1,
     .group = {.op = op_put_burst, .threads = 1, .depth = 64, .burst = true},
     .peer_group = {.op = op_put_batch, .threads = 1},
     .metrics = RATE},
    {.name = "PutCallbacks",
     .what = "durable puts, 1,000 outstanding for each thread; without callbacks: 64 threads that wait",
     .set = &durable,
     .turn = work_turn_simple,
     .threads = 2,
     .group = {.op = op_put_async, .threads = 2, .depth = 1000},
     .peer_group = {.op = op_put_random, .threads = 64},
     .metrics = RATE},
    {.name = "PutPaced",
     .what = "durable puts, 4,000 a second whatever happens: latency counts from when each was due",
     .set = &durable,
     .turn = work_turn_simple,
     .threads = 4,
     .group = {.op = op_put_random, .threads = 4, .rate = 4000},
     .metrics = RATE},
    {.name = "DeleteSequential",
     .what = "durable deletes, ascending keys",
     .set = &deletable,
     .metrics = RATE,
     SIMPLE(op_delete_ascending, 1)},
    {.name = "PutAsyncThroughput",
     .what = "asynchronous puts, random keys",
     .set = &asynchronous,
     .writes = true,
     .metrics = RATE,
     QUICK(op_put_random, 1)},
    {.name = "PutAsyncParallel",
     .what = "asynchronous puts, random keys",
     .set = &asynchronous,
     .writes = true,
     .metrics = RATE,
     SIMPLE(op_put_random, 16)},
    {.name = "GetMemtableHit",
     .what = "gets of random keys",
     .set = &memtable,
     .metrics = RATE,
     QUICK(op_get, 1)},
    {.name = "GetMemtableHit",
     .what = "gets of random keys",
     .set = &memtable,
     .metrics = RATE,
     QUICK(op_get, 2)},
    {.name = "GetSSTable", .what = "gets of random keys", .set = &warm, .metrics = RATE, QUICK(op_get, 1)},
    {.name = "GetSSTable", .what = "gets of random keys", .set = &warm, .metrics = RATE, QUICK(op_get, 2)},
    {.name = "GetMissing",
     .what = "gets of keys that are not there",
     .set = &warm,
     .metrics = RATE,
     QUICK(op_get_missing, 1)},
    {.name = "Scan100",
     .what = "scans of 100 entries from random keys",
     .set = &warm,
     .metrics = RATE,
     SIMPLE(op_scan, 1)},
    {.name = "Mixed",
     .what = "gets and asynchronous puts, half and half, zipfian",
     .set = &changing,
     .picks = PICKS_ZIPF,
     .writes = true,
     .metrics = RATE,
     SIMPLE(op_mixed, 2)},
    {.name = "Mixed",
     .what = "gets and asynchronous puts, half and half, zipfian",
     .set = &changing,
     .picks = PICKS_ZIPF,
     .writes = true,
     .metrics = RATE,
     SIMPLE(op_mixed, 16)},
    {.name = "ReadWhileWriting",
     .what = "random gets of one thread beside one that overwrites at full speed",
     .set = &changing,
     .writes = true,
     .turn = turn_read_while_writing,
     .threads = 2,
     .group = {.op = op_get, .threads = 1},
     .metrics = {{.unit = "ops/s"},
                 {.name = "read-p99.9", .unit = "us", .less_is_better = true},
                 {.name = "writer", .unit = "ops/s"}}},
    {.name = "ReadPacedWhileWriting",
     .what = "the same, 10,000 gets a second whatever happens: latency counts from when each was due",
     .set = &changing,
     .writes = true,
     .turn = turn_read_while_writing,
     .threads = 2,
     .group = {.op = op_get, .threads = 1, .rate = 10000},
     .metrics = {{.unit = "ops/s"},
                 {.name = "read-p99.9", .unit = "us", .less_is_better = true},
                 {.name = "writer", .unit = "ops/s"}}},
#define YCSB(name_, op_, picks_, what_)                                                                      \
    {                                                                                                        \
        .name = (name_), .what = (what_), .set = &ycsb, .picks = (picks_), .writes = true, .metrics = RATE,  \
        SIMPLE(op_, 2)                                                                                       \
    }
    YCSB("YCSB-A", op_ycsb_a, PICKS_ZIPF, "half reads, half updates, zipfian"),
    YCSB("YCSB-B", op_ycsb_b, PICKS_ZIPF, "95 % reads, 5 % updates, zipfian"),
    YCSB("YCSB-C", op_ycsb_c, PICKS_ZIPF, "reads, zipfian"),
    YCSB("YCSB-D", op_ycsb_d, PICKS_ZIPF_RANKS, "95 % reads of the newest, 5 % inserts"),
    YCSB("YCSB-E", op_ycsb_e, PICKS_ZIPF, "95 % scans of 1 to 100, 5 % inserts, zipfian"),
    YCSB("YCSB-F", op_ycsb_f, PICKS_ZIPF, "reads, every second one followed by a write of it, zipfian"),
#undef YCSB
#define COLD(n)                                                                                              \
    {                                                                                                        \
        .name = "GetCold", .what = "gets of random keys that are in no cache", .set = &cold,                 \
        .needs = STORE_READS_COLD, .turn = turn_get_cold, .threads = (n),                                    \
        .group = {.op = op_get, .threads = (n)}, .metrics = RATE                                             \
    }
    COLD(1),
    COLD(4),
    COLD(16),
#undef COLD
    {.name = "GetColdAsync",
     .what = "the same by callbacks, 32 under way",
     .set = &cold,
     .needs = STORE_READS_COLD | STORE_HAS_CALLBACKS,
     .turn = turn_get_cold,
     .threads = 1,
     .group = {.op = op_get_async, .threads = 1, .depth = 32},
     .metrics = RATE},
    {.name = "Fill1K",
     .what = "2 M asynchronous puts of 1 KiB, random keys, until flushes and merges are done",
     .turn = turn_fill,
     .threads = 1,
     .metrics = {{.unit = "ops/s"},
                 {.name = "write-amplification", .unit = "ratio", .less_is_better = true}}},
    {.name = "Recovery",
     .what = "opening after a kill, 64 MiB of entries in the log, each written by itself",
     .turn = turn_recovery,
     .threads = 1,
     .metrics = {{.unit = "ms", .less_is_better = true}}},
    {.name = "RecoveryBatches",
     .what = "the same, written 100 at a time",
     .turn = turn_recovery,
     .threads = 1,
     .metrics = {{.unit = "ms", .less_is_better = true}}},
#define KEYS(millions_)                                                                                      \
    {                                                                                                        \
        .name = "Keys" #millions_ "M",                                                                       \
        .what = #millions_ " M puts until settled, then gets by two threads, and the memory for it",         \
        .turn = turn_keys, .threads = 1, .on_request = true, .metrics = {                                    \
            {.unit = "ops/s"},                                                                               \
            {.name = "get", .unit = "ops/s"},                                                                \
            {.name = "memory", .unit = "MiB", .less_is_better = true},                                       \
            {.name = "memory-of-bound", .unit = "ratio", .less_is_better = true}                             \
        }                                                                                                    \
    }
    KEYS(10),
    KEYS(50),
#undef KEYS
    {.name = NULL},
};

store_config work_config(const work_set *set, const char *dir, uint64_t shrink) {
    uint64_t data = set->keys / shrink * (WORKLOAD_KEY_BYTES + set->value_bytes);
    return (store_config){.dir = dir,
                          .memtable_bytes = set->memtable_bytes,
                          .cache_bytes = set->cache_bytes / (set->cold ? shrink : 1),
                          .data_bytes = data,
                          .data_bytes_max = 4 * data + (UINT64_C(8) << 30),
                          .durable = set->durable,
                          .direct_reads = set->cold};
}

void work_turn_simple(const work *w, const store_kind *kind, drive_data *d, const work_options *o,
                      uint64_t seed, report_side *const *sides) {
    static drive_result result;
    bool peer = w->peer_group.op && !(kind->abilities & STORE_HAS_CALLBACKS);
    drive_run(d, peer ? &w->peer_group : &w->group, 1, o->seconds, seed, &result);
    report_add_rate(sides[0], result.rate);
    report_add_cpu(sides[0], result.cpu_us);
    vv_histogram_merge(&sides[0]->latency_ns, &result.latency_ns);
}
