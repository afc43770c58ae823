/*
 * store_lmdb.c - LMDB, a B+ tree of copied pages in a memory map. It has no log and no cache of its own: a
 * durable write syncs its pages (the default), one that is not durable leaves them to the page cache
 * (MDB_NOSYNC), and after a power failure such a database may be damaged, not just shorter. A read
 * transaction is kept for each thread and renewed for each read, which is LMDB's fastest way to see the
 * newest state.
 */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/engine/kinds.h"
#include "bench/report.h"

#define READERS_MAX 256

typedef struct mdb {
    store base; /* first */
    MDB_env *env;
    MDB_dbi dbi;
} mdb;

typedef struct session {
    store_session base; /* first */
    MDB_txn *txn;       /* for reading; reset between reads */
    MDB_cursor *cursor;
} session;

static void check(int rc, const char *what) {
    if (rc != MDB_SUCCESS)
        report_die("lmdb: %s: %s", what, mdb_strerror(rc));
}

static const char *version(void) {
    static char text[32];
    int major, minor, patch;
    mdb_version(&major, &minor, &patch);
    snprintf(text, sizeof text, "%d.%d.%d", major, minor, patch);
    return text;
}

static store *mdb_store_open(const store_config *c) {
    mdb *m = calloc(1, sizeof *m);
    MDB_txn *txn;
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD | (c->durable ? 0 : MDB_NOSYNC);
    if (!m)
        report_die("out of memory");
    m->base.kind = &store_lmdb;
    check(mdb_env_create(&m->env), "create");
    check(mdb_env_set_mapsize(m->env, c->data_bytes_max), "map size");
    check(mdb_env_set_maxreaders(m->env, READERS_MAX), "readers");
    check(mdb_env_open(m->env, c->dir, flags, 0600), "open");
    check(mdb_txn_begin(m->env, NULL, 0, &txn), "begin");
    check(mdb_dbi_open(txn, NULL, MDB_CREATE, &m->dbi), "database");
    check(mdb_txn_commit(txn), "commit");
    return &m->base;
}

static void mdb_store_close(store *s) {
    mdb *m = (mdb *)s;
    mdb_env_close(m->env);
    free(m);
}

static void sync_all(store *s) {
    check(mdb_env_sync(((mdb *)s)->env, 1), "sync");
}

static store_session *session_open(store *s, size_t depth, vv_histogram *latency_ns) {
    mdb *m = (mdb *)s;
    session *x = calloc(1, sizeof *x);
    (void)depth;
    (void)latency_ns;
    if (!x)
        report_die("out of memory");
    x->base.owner = s;
    check(mdb_txn_begin(m->env, NULL, MDB_RDONLY, &x->txn), "begin");
    check(mdb_cursor_open(x->txn, m->dbi, &x->cursor), "cursor");
    mdb_txn_reset(x->txn);
    return &x->base;
}

static void session_close(store_session *base) {
    session *x = (session *)base;
    mdb_cursor_close(x->cursor);
    mdb_txn_abort(x->txn);
    free(x);
}

static MDB_val key_of(const char *key) {
    MDB_val k = {.mv_size = WORKLOAD_KEY_BYTES};
    memcpy(&k.mv_data, &key, sizeof key); /* not changed: LMDB's own type lacks the const */
    return k;
}

static void write_entries(store_session *base, const store_entry *entries, size_t count) {
    mdb *m = (mdb *)base->owner;
    MDB_txn *txn;
    check(mdb_txn_begin(m->env, NULL, 0, &txn), "begin");
    for (size_t i = 0; i < count; i++) {
        MDB_val k = key_of(entries[i].key), v = {.mv_size = entries[i].value_bytes};
        memcpy(&v.mv_data, &entries[i].value, sizeof v.mv_data);
        check(mdb_put(txn, m->dbi, &k, &v, 0), "put");
    }
    check(mdb_txn_commit(txn), "commit");
}

static void put(store_session *base, const char *key, const void *value, size_t value_bytes) {
    store_entry e = {.value = value, .value_bytes = value_bytes};
    memcpy(e.key, key, WORKLOAD_KEY_BYTES);
    write_entries(base, &e, 1);
}

static void mdb_remove(store_session *base, const char *key) {
    mdb *m = (mdb *)base->owner;
    MDB_txn *txn;
    MDB_val k = key_of(key);
    check(mdb_txn_begin(m->env, NULL, 0, &txn), "begin");
    int rc = mdb_del(txn, m->dbi, &k, NULL);
    if (rc != MDB_NOTFOUND)
        check(rc, "delete");
    check(mdb_txn_commit(txn), "commit");
}

static bool get(store_session *base, const char *key, uint64_t *number_out) {
    session *x = (session *)base;
    MDB_val k = key_of(key), v;
    check(mdb_txn_renew(x->txn), "renew");
    int rc = mdb_get(x->txn, ((mdb *)base->owner)->dbi, &k, &v);
    if (rc == MDB_SUCCESS)
        *number_out = workload_value_number(v.mv_data);
    else if (rc != MDB_NOTFOUND)
        check(rc, "get");
    mdb_txn_reset(x->txn);
    return rc == MDB_SUCCESS;
}

static size_t scan(store_session *base, const char *key, size_t count) {
    session *x = (session *)base;
    MDB_val k = key_of(key), v;
    volatile uint64_t touched = 0;
    size_t n = 0;
    check(mdb_txn_renew(x->txn), "renew");
    check(mdb_cursor_renew(x->txn, x->cursor), "renew");
    int rc = mdb_cursor_get(x->cursor, &k, &v, MDB_SET_RANGE);
    for (; rc == MDB_SUCCESS && n < count; rc = mdb_cursor_get(x->cursor, &k, &v, MDB_NEXT)) {
        touched += workload_value_number(v.mv_data) + *(const unsigned char *)k.mv_data;
        n++;
    }
    if (rc != MDB_SUCCESS && rc != MDB_NOTFOUND)
        check(rc, "scan");
    mdb_txn_reset(x->txn);
    return n;
}

const store_kind store_lmdb = {
    .name = "lmdb",
    .abilities = STORE_KEEPS_KEYS | STORE_READS_COLD,
    .version = version,
    .open = mdb_store_open,
    .close = mdb_store_close,
    .sync = sync_all,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .remove = mdb_remove,
    .write = write_entries,
    .get = get,
    .scan = scan,
};
