/*
 * store_rocksdb.c - RocksDB through its C API. No compression; memtables, cache, block size and filter as
 * Varve's. Debian builds it without hardware CRC: its log's checksums are computed in software.
 */
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/engine/kinds.h"
#include "bench/report.h"

#define FILTER_BITS    10 /* a key: one false positive in a hundred */
#define MEMTABLE_COUNT 5  /* the active one, and as many sealed ones as MAX_IMMUTABLE_COUNT has by default */

typedef struct rocks {
    store base; /* first */
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *tables;
    rocksdb_cache_t *cache;
    rocksdb_writeoptions_t *write;
    rocksdb_readoptions_t *read;
} rocks;

typedef struct session {
    store_session base; /* first */
    rocksdb_writebatch_t *batch;
} session;

static void check(char *err, const char *what) {
    if (err)
        report_die("rocksdb: %s: %s", what, err);
}

static const char *version(void) {
    return VARVE_ROCKSDB_VERSION; /* its header of that is C++ */
}

static store *rocks_open(const store_config *c) {
    rocks *r = calloc(1, sizeof *r);
    char *err = NULL;
    if (!r)
        report_die("out of memory");
    r->base.kind = &store_rocksdb;
    r->cache = rocksdb_cache_create_lru(c->cache_bytes);
    r->tables = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(r->tables, r->cache);
    rocksdb_block_based_options_set_block_size(r->tables, 4096);
    rocksdb_block_based_options_set_filter_policy(r->tables,
                                                  rocksdb_filterpolicy_create_bloom_full(FILTER_BITS));
    r->options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(r->options, 1);
    rocksdb_options_set_block_based_table_factory(r->options, r->tables);
    rocksdb_options_set_compression(r->options, rocksdb_no_compression);
    rocksdb_options_set_write_buffer_size(r->options, c->memtable_bytes);
    rocksdb_options_set_max_write_buffer_number(r->options, MEMTABLE_COUNT);
    rocksdb_options_set_use_direct_reads(r->options, c->direct_reads);
    r->write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(r->write, c->durable);
    r->read = rocksdb_readoptions_create();
    r->db = rocksdb_open(r->options, c->dir, &err);
    check(err, "open");
    return &r->base;
}

static void rocks_close(store *s) {
    rocks *r = (rocks *)s;
    rocksdb_close(r->db);
    rocksdb_readoptions_destroy(r->read);
    rocksdb_writeoptions_destroy(r->write);
    rocksdb_options_destroy(r->options);
    rocksdb_block_based_options_destroy(r->tables);
    rocksdb_cache_destroy(r->cache);
    free(r);
}

static void compact(store *s) {
    rocksdb_compact_range(((rocks *)s)->db, NULL, 0, NULL, 0);
}

static store_session *session_open(store *s, size_t depth, vv_histogram *latency_ns) {
    session *x = calloc(1, sizeof *x);
    (void)depth;
    (void)latency_ns;
    if (!x)
        report_die("out of memory");
    x->base.owner = s;
    x->batch = rocksdb_writebatch_create();
    return &x->base;
}

static void session_close(store_session *base) {
    rocksdb_writebatch_destroy(((session *)base)->batch);
    free(base);
}

static void put(store_session *base, const char *key, const void *value, size_t value_bytes) {
    rocks *r = (rocks *)base->owner;
    char *err = NULL;
    rocksdb_put(r->db, r->write, key, WORKLOAD_KEY_BYTES, value, value_bytes, &err);
    check(err, "put");
}

static void rocks_remove(store_session *base, const char *key) {
    rocks *r = (rocks *)base->owner;
    char *err = NULL;
    rocksdb_delete(r->db, r->write, key, WORKLOAD_KEY_BYTES, &err);
    check(err, "delete");
}

static void write_entries(store_session *base, const store_entry *entries, size_t count) {
    rocks *r = (rocks *)base->owner;
    session *x = (session *)base;
    char *err = NULL;
    rocksdb_writebatch_clear(x->batch);
    for (size_t i = 0; i < count; i++)
        rocksdb_writebatch_put(x->batch, entries[i].key, WORKLOAD_KEY_BYTES, entries[i].value,
                               entries[i].value_bytes);
    rocksdb_write(r->db, r->write, x->batch, &err);
    check(err, "write");
}

static bool get(store_session *base, const char *key, uint64_t *number_out) {
    rocks *r = (rocks *)base->owner;
    char *err = NULL;
    size_t bytes;
    rocksdb_pinnableslice_t *value = rocksdb_get_pinned(r->db, r->read, key, WORKLOAD_KEY_BYTES, &err);
    check(err, "get");
    if (!value)
        return false;
    *number_out = workload_value_number(rocksdb_pinnableslice_value(value, &bytes));
    rocksdb_pinnableslice_destroy(value);
    return true;
}

static size_t scan(store_session *base, const char *key, size_t count) {
    rocks *r = (rocks *)base->owner;
    rocksdb_iterator_t *it = rocksdb_create_iterator(r->db, r->read);
    volatile uint64_t touched = 0;
    size_t n = 0, bytes;
    char *err = NULL;
    for (rocksdb_iter_seek(it, key, WORKLOAD_KEY_BYTES); n < count && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        touched += workload_value_number(rocksdb_iter_value(it, &bytes)) +
                   (unsigned char)*rocksdb_iter_key(it, &bytes);
        n++;
    }
    rocksdb_iter_get_error(it, &err);
    check(err, "scan");
    rocksdb_iter_destroy(it);
    return n;
}

const store_kind store_rocksdb = {
    .name = "rocksdb",
    .abilities = STORE_KEEPS_KEYS | STORE_READS_COLD,
    .version = version,
    .open = rocks_open,
    .close = rocks_close,
    .compact = compact,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .remove = rocks_remove,
    .write = write_entries,
    .get = get,
    .scan = scan,
};
