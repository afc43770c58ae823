/*
 * store_leveldb.c - LevelDB through its C API. No compression; memtable, cache, block size and filter as
 * Varve's. It has no direct I/O: tables are mapped into memory, and the kernel reads ahead of each access.
 */
#include <leveldb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/engine/kinds.h"
#include "bench/report.h"

#define FILTER_BITS 10 /* a key: one false positive in a hundred */

typedef struct level {
    store base; /* first */
    leveldb_t *db;
    leveldb_options_t *options;
    leveldb_cache_t *cache;
    leveldb_filterpolicy_t *filter;
    leveldb_writeoptions_t *write;
    leveldb_readoptions_t *read;
} level;

typedef struct session {
    store_session base; /* first */
    leveldb_writebatch_t *batch;
} session;

static void check(char *err, const char *what) {
    if (err)
        report_die("leveldb: %s: %s", what, err);
}

static const char *version(void) {
    static char text[32];
    snprintf(text, sizeof text, "%d.%d", leveldb_major_version(), leveldb_minor_version());
    return text;
}

static store *level_open(const store_config *c) {
    level *l = calloc(1, sizeof *l);
    char *err = NULL;
    if (!l)
        report_die("out of memory");
    l->base.kind = &store_leveldb;
    l->options = leveldb_options_create();
    l->cache = leveldb_cache_create_lru(c->cache_bytes);
    l->filter = leveldb_filterpolicy_create_bloom(FILTER_BITS);
    leveldb_options_set_create_if_missing(l->options, 1);
    leveldb_options_set_write_buffer_size(l->options, c->memtable_bytes);
    leveldb_options_set_cache(l->options, l->cache);
    leveldb_options_set_filter_policy(l->options, l->filter);
    leveldb_options_set_block_size(l->options, 4096);
    leveldb_options_set_compression(l->options, leveldb_no_compression);
    l->write = leveldb_writeoptions_create();
    leveldb_writeoptions_set_sync(l->write, c->durable);
    l->read = leveldb_readoptions_create();
    l->db = leveldb_open(l->options, c->dir, &err);
    check(err, "open");
    return &l->base;
}

static void level_close(store *s) {
    level *l = (level *)s;
    leveldb_close(l->db);
    leveldb_readoptions_destroy(l->read);
    leveldb_writeoptions_destroy(l->write);
    leveldb_options_destroy(l->options);
    leveldb_filterpolicy_destroy(l->filter);
    leveldb_cache_destroy(l->cache);
    free(l);
}

static void compact(store *s) {
    leveldb_compact_range(((level *)s)->db, NULL, 0, NULL, 0);
}

static store_session *session_open(store *s, size_t depth, vv_histogram *latency_ns) {
    session *x = calloc(1, sizeof *x);
    (void)depth;
    (void)latency_ns;
    if (!x)
        report_die("out of memory");
    x->base.owner = s;
    x->batch = leveldb_writebatch_create();
    return &x->base;
}

static void session_close(store_session *base) {
    leveldb_writebatch_destroy(((session *)base)->batch);
    free(base);
}

static void put(store_session *base, const char *key, const void *value, size_t value_bytes) {
    level *l = (level *)base->owner;
    char *err = NULL;
    leveldb_put(l->db, l->write, key, WORKLOAD_KEY_BYTES, value, value_bytes, &err);
    check(err, "put");
}

static void level_remove(store_session *base, const char *key) {
    level *l = (level *)base->owner;
    char *err = NULL;
    leveldb_delete(l->db, l->write, key, WORKLOAD_KEY_BYTES, &err);
    check(err, "delete");
}

static void write_entries(store_session *base, const store_entry *entries, size_t count) {
    level *l = (level *)base->owner;
    session *x = (session *)base;
    char *err = NULL;
    leveldb_writebatch_clear(x->batch);
    for (size_t i = 0; i < count; i++)
        leveldb_writebatch_put(x->batch, entries[i].key, WORKLOAD_KEY_BYTES, entries[i].value,
                               entries[i].value_bytes);
    leveldb_write(l->db, l->write, x->batch, &err);
    check(err, "write");
}

static bool get(store_session *base, const char *key, uint64_t *number_out) {
    level *l = (level *)base->owner;
    char *err = NULL;
    size_t bytes;
    char *value = leveldb_get(l->db, l->read, key, WORKLOAD_KEY_BYTES, &bytes, &err);
    check(err, "get");
    if (!value)
        return false;
    *number_out = workload_value_number(value);
    leveldb_free(value);
    return true;
}

static size_t scan(store_session *base, const char *key, size_t count) {
    level *l = (level *)base->owner;
    leveldb_iterator_t *it = leveldb_create_iterator(l->db, l->read);
    volatile uint64_t touched = 0;
    size_t n = 0, bytes;
    char *err = NULL;
    for (leveldb_iter_seek(it, key, WORKLOAD_KEY_BYTES); n < count && leveldb_iter_valid(it);
         leveldb_iter_next(it)) {
        touched += workload_value_number(leveldb_iter_value(it, &bytes)) +
                   (unsigned char)*leveldb_iter_key(it, &bytes);
        n++;
    }
    leveldb_iter_get_error(it, &err);
    check(err, "scan");
    leveldb_iter_destroy(it);
    return n;
}

const store_kind store_leveldb = {
    .name = "leveldb",
    .abilities = STORE_KEEPS_KEYS,
    .version = version,
    .open = level_open,
    .close = level_close,
    .compact = compact,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .remove = level_remove,
    .write = write_entries,
    .get = get,
    .scan = scan,
};
