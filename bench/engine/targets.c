#include "bench/engine/targets.h"

#include <stdbool.h>
#include <string.h>

static const target targets[] = {
    {"PutThroughput", 1, NULL, "device", 0.90},
    {"PutThroughput", 1, NULL, "rocksdb", 1.5},
    {"PutThroughputParallel", 16, NULL, "leveldb", 2},
    {"PutThroughputParallel", 64, NULL, "leveldb", 2.5},
    {"PutCallbacks", 2, NULL, "leveldb", 9},
    {"PutAsyncThroughput", 1, NULL, "leveldb", 2},
    {"PutAsyncThroughput", 1, NULL, "rocksdb", 4},
    {"PutAsyncParallel", 16, NULL, "leveldb", 2},
    {"PutAsyncParallel", 16, NULL, "rocksdb", 4},
    {"GetMemtableHit", 1, NULL, "leveldb", 2.5},
    {"GetMemtableHit", 1, NULL, "lmdb", 1},
    {"GetMemtableHit", 2, NULL, "leveldb", 2.5},
    {"GetMemtableHit", 2, NULL, "lmdb", 1},
    {"GetSSTable", 1, NULL, "leveldb", 2.5},
    {"GetSSTable", 1, NULL, "lmdb", 1.2},
    {"GetSSTable", 2, NULL, "leveldb", 2.5},
    {"GetSSTable", 2, NULL, "lmdb", 1.2},
    {"GetMissing", 1, NULL, "rocksdb", 2},
    {"GetColdAsync", 1, NULL, "device", 0.90},
    {"GetCold", 16, NULL, "lmdb", 1},
    {"Scan100", 1, NULL, "leveldb", 2},
    {"Scan100", 1, NULL, "lmdb", 1.3},
    {"Mixed", 2, NULL, "leveldb", 2},
    {"Mixed", 16, NULL, "leveldb", 2},
    {"ReadWhileWriting", 2, NULL, "leveldb", 3},
    {"ReadWhileWriting", 2, "read-p99.9", "leveldb", 0.7},
    {"ReadWhileWriting", 2, "writer", "leveldb", 1.5},
    {"Fill1K", 1, NULL, "rocksdb", 2},
    {"Fill1K", 1, "write-amplification", "rocksdb", 1},
    {"Recovery", 1, NULL, "leveldb", 0.2},
    {"Keys50M", 1, "memory-of-bound", NULL, 1.1},
};

double target_of(const char *work, int threads, const char *metric, const char *peer) {
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        const target *t = &targets[i];
        bool same_metric = !metric || !t->metric ? metric == t->metric : strcmp(metric, t->metric) == 0;
        bool same_peer = !peer || !t->peer ? peer == t->peer : strcmp(peer, t->peer) == 0;
        if (strcmp(t->work, work) == 0 && t->threads == threads && same_metric && same_peer)
            return t->ratio;
    }
    return 0;
}
