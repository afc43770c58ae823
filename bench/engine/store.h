/*
 * store.h - what every store under comparison must be able to do, so that one workload runs on all of them.
 *
 * A store is a table of functions, embedded first in what implements it. Varve and its peers go through their
 * C APIs; the device itself is one too, as the yardstick of durable puts and cold reads: it has no keys, and
 * does for each call the least that any store must do. Peers that were not found when this was built are not
 * in store_kinds().
 *
 *   kind --open--> store --session_open--> session, one for each thread
 *
 * Errors end the program: a figure of a store that fails is none.
 */
#ifndef VV_BENCH_STORE_H
#define VV_BENCH_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"
#include "bench/workload.h"

/* The same for all; bench/README.md tells what each makes of it. */
typedef struct store_config {
    const char *dir; /* exists; empty, or what the same kind has left there */
    uint64_t memtable_bytes;
    uint64_t cache_bytes;
    uint64_t data_bytes;     /* keys and values that will be loaded; the device's file has this size */
    uint64_t data_bytes_max; /* all that may ever be written; LMDB wants to know */
    bool durable;      /* single writes return when they survive power loss; else when they are readable */
    bool direct_reads; /* beside the page cache, where the store can */
} store_config;

typedef struct store {
    const struct store_kind *kind;
} store;

typedef struct store_session {
    store *owner;
} store_session;

typedef struct store_entry {
    char key[WORKLOAD_KEY_BYTES];
    const void *value;
    size_t value_bytes;
} store_entry;

typedef enum store_ability {
    STORE_KEEPS_KEYS = 1,  /* all but the device */
    STORE_READS_COLD = 2,  /* random reads of what is in no cache read a few blocks each, not a window */
    STORE_COMMITS_RAW = 4, /* the device: a yardstick of durable puts */
    STORE_HAS_CALLBACKS = 8
} store_ability;

typedef struct store_kind {
    const char *name; /* in commands and results: "varve" */
    unsigned abilities;
    /* Its version in words, into static storage. */
    const char *(*version)(void);

    store *(*open)(const store_config *config);
    void (*close)(store *s);
    /* What was written survives the process, at least; NULL: each write does. */
    void (*sync)(store *s);
    /* Merge everything into one sorted run; NULL: it is one. */
    void (*compact)(store *s);
    /* What it may have of memory by its configuration, with what its tables need now; 0: can't be told. */
    uint64_t (*memory_bound)(store *s);

    /* For one thread. depth: how many operations of put_async() and get_async() may be under way; their
     * latencies go to latency_ns, by this thread, if that is not NULL. */
    store_session *(*session_open)(store *s, size_t depth, vv_histogram *latency_ns);
    void (*session_close)(store_session *x);

    /* Keys are of WORKLOAD_KEY_BYTES. */
    void (*put)(store_session *x, const char *key, const void *value, size_t value_bytes);
    void (*remove)(store_session *x, const char *key);
    /* All as one write, durable or not as the store is. */
    void (*write)(store_session *x, const store_entry *entries, size_t count);
    /* *number_out: of the value, see workload_value(). False: the key is not there. */
    bool (*get)(store_session *x, const char *key, uint64_t *number_out);
    /* Read up to `count` entries from `key` on, touching keys and values; returns how many there were. */
    size_t (*scan)(store_session *x, const char *key, size_t count);

    /* Return once it is on its way, after waiting for a free one of `depth`. With a key that is there. NULL
     * without STORE_HAS_CALLBACKS (put_async), or where reads block. */
    void (*put_async)(store_session *x, const char *key, const void *value, size_t value_bytes);
    void (*get_async)(store_session *x, const char *key, uint64_t number);
    /* Wait for all of them. */
    void (*drain)(store_session *x);
} store_kind;

/* All that were built in, in the order of columns; NULL behind the last. */
const store_kind *const *store_kinds(void);
/* NULL: there is none of this name here. */
const store_kind *store_find(const char *name);

/* Names of peers that a full build has; for saying which are missing. NULL behind the last. */
extern const char *const store_peer_names[];

/*
 * Wait until the process has nothing more to do: 300 ms without writing and almost without processor time, so
 * that flushes and merges are over, whoever runs them. Returns when it last did something, by
 * vv_clock_mono_ns().
 */
uint64_t store_settle(void);

/* Processor time of all threads of the process so far. */
uint64_t store_cpu_ns(void);

/* What the process has caused to be written to disks (/proc/self/io). */
uint64_t store_written_bytes(void);

/* Let go of what the page cache has of the files in dir. No store has it open. */
void store_evict(const char *dir);

#endif
