/*
 * client_local.c - the client that opens the directory in this process, through the public C interface alone.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "cli/client.h"
#include "cli/progress.h"

typedef struct local_client {
    vv_client client; /* first: a vv_client * is one of these */
    varve_db *db;
} local_client;

/* words: what the call itself had to say, or NULL. */
static bool fail(vv_client_error *err, varve_status st, const char *words) {
    char text[sizeof err->message];
    if (words && *words)
        return vv_client_fail(err, varve_code_name(st.code), st.reason ? varve_reason_name(st.reason) : "",
                              words);
    snprintf(text, sizeof text, "%s%s%s", st.reason ? varve_reason_text(st.reason) : varve_code_text(st.code),
             st.sys ? ": " : "", st.sys ? strerror(st.sys) : "");
    return vv_client_fail(err, varve_code_name(st.code), st.reason ? varve_reason_name(st.reason) : "", text);
}

static varve_db *db_of(vv_client *c) {
    return ((local_client *)c)->db;
}

static varve_write_options write_options(bool async) {
    return (varve_write_options){.durability = async ? VARVE_DURABILITY_ASYNC : VARVE_DURABILITY_SYNC};
}

static bool do_get(vv_client *c, vv_slice key, vv_client_value *out, vv_client_error *err) {
    varve_value value;
    varve_status st = varve_get(db_of(c), key.data, key.bytes, &value);
    out->found = varve_ok(st);
    if (st.code == VARVE_NOT_FOUND)
        return true;
    if (!varve_ok(st)) {
        varve_value_release(&value);
        return fail(err, st, NULL);
    }
    out->lsn = value.lsn;
    out->expires_unix_ms = value.expires_unix_ms;
    vv_bytes_append(&out->bytes, value.data, value.bytes);
    varve_value_release(&value);
    return true;
}

/* Nobody here would confirm what is written: it would wait for ever. */
static bool may_write(vv_client *c, vv_client_error *err) {
    varve_stats stats;
    varve_stats_get(db_of(c), &stats);
    if (stats.commit_limit == UINT64_MAX)
        return true;
    vv_client_fail(err, "BUSY", "REPLICAS_BEHIND",
                   "writes to this directory wait for replicas (QUORUM): write through its server");
    return false;
}

static bool do_put(vv_client *c, vv_slice key, vv_slice value, bool async, uint64_t *lsn_out,
                   vv_client_error *err) {
    if (!may_write(c, err))
        return false;
    varve_write_options options = write_options(async);
    varve_status st = varve_put(db_of(c), key.data, key.bytes, value.data, value.bytes, &options, lsn_out);
    return varve_ok(st) || fail(err, st, NULL);
}

static bool do_del(vv_client *c, vv_slice key, bool async, uint64_t *lsn_out, vv_client_error *err) {
    if (!may_write(c, err))
        return false;
    varve_write_options options = write_options(async);
    varve_status st = varve_delete(db_of(c), key.data, key.bytes, &options, lsn_out);
    return varve_ok(st) || fail(err, st, NULL);
}

static varve_status add(varve_batch *batch, const vv_client_op *op) {
    if (op->kind == VV_CLIENT_PUT)
        return varve_batch_put(batch, op->key.data, op->key.bytes, op->value.data, op->value.bytes);
    return varve_batch_delete(batch, op->key.data, op->key.bytes);
}

static bool do_write(vv_client *c, const vv_client_op *ops, size_t count, bool async, uint64_t *lsn_out,
                     vv_client_error *err) {
    if (!may_write(c, err))
        return false;
    varve_write_options options = write_options(async);
    varve_batch *batch = varve_batch_create();
    if (!batch)
        return fail(err, (varve_status){.code = VARVE_NO_MEMORY}, NULL);
    varve_status st = {0};
    for (size_t i = 0; i < count && varve_ok(st); i++)
        st = add(batch, &ops[i]);
    if (varve_ok(st))
        st = varve_write(db_of(c), batch, &options, lsn_out);
    varve_batch_destroy(batch);
    return varve_ok(st) || fail(err, st, NULL);
}

static void set_bound(const vv_bytes *bound, const void **data_out, size_t *bytes_out) {
    if (!bound)
        return;
    *data_out = bound->data ? (const void *)bound->data : "";
    *bytes_out = bound->bytes;
}

static bool do_scan(vv_client *c, const vv_client_range *range, vv_client_entry_fn fn, void *arg,
                    vv_client_error *err) {
    varve_iter_options o = {0};
    varve_iter *it;
    set_bound(range->prefix, &o.prefix, &o.prefix_bytes);
    set_bound(range->start, &o.start, &o.start_bytes);
    set_bound(range->end, &o.end, &o.end_bytes);
    varve_status st = varve_iter_create(db_of(c), &o, &it);
    if (!varve_ok(st))
        return fail(err, st, NULL);
    uint64_t left = range->limit ? range->limit : UINT64_MAX;
    for (range->reverse ? varve_iter_last(it) : varve_iter_first(it); varve_iter_valid(it) && left > 0;
         left--) {
        varve_entry entry;
        varve_iter_entry(it, &entry);
        fn(arg, &entry);
        if (range->reverse)
            varve_iter_prev(it);
        else
            varve_iter_next(it);
    }
    st = varve_iter_status(it);
    varve_iter_destroy(it);
    return varve_ok(st) || fail(err, st, NULL);
}

static bool do_compact(vv_client *c, vv_client_error *err) {
    varve_status st = varve_compact(db_of(c));
    return varve_ok(st) || fail(err, st, NULL);
}

static bool do_flush(vv_client *c, vv_client_error *err) {
    varve_status st = varve_flush(db_of(c));
    return varve_ok(st) || fail(err, st, NULL);
}

static bool do_stats(vv_client *c, vv_client_stats *out, vv_client_error *err) {
    varve_stats s;
    const char *name;
    uint64_t value;
    (void)err;
    varve_stats_get(db_of(c), &s);
    for (size_t i = 0; varve_stats_number(&s, i, &name, &value); i++)
        vv_client_stats_add(out, name, value);
    out->wal_failed = s.wal_failed;
    snprintf(out->io_backend, sizeof out->io_backend, "%s", s.io_backend);
    return true;
}

static bool do_backup(vv_client *c, const vv_client_backup *backup, varve_backup_info *out,
                      vv_client_error *err) {
    varve_error words;
    varve_backup_options o = {.mode = backup->link ? VARVE_BACKUP_LINK : VARVE_BACKUP_COPY,
                              .base_dir = backup->incremental};
    varve_status st = varve_backup(db_of(c), backup->dest, &o, out, &words);
    return varve_ok(st) || fail(err, st, words.text);
}

typedef struct verifying {
    vv_client_damage_fn fn;
    void *arg;
    vv_progress progress;
} verifying;

/* The progress goes, so that what is told stands alone. */
static void tell_damage(void *arg, const varve_damage *damage) {
    verifying *v = arg;
    vv_progress_end(&v->progress);
    v->fn(v->arg, damage);
}

static bool show_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes) {
    return vv_progress_show(&((verifying *)arg)->progress, done_bytes, total_bytes);
}

static bool do_verify(vv_client *c, vv_client_damage_fn fn, void *arg, varve_verify_result *out,
                      vv_client_error *err) {
    varve_error words;
    verifying v = {.fn = fn, .arg = arg};
    varve_verify_options o = {.damaged = tell_damage, .progress = show_progress, .arg = &v};
    vv_progress_begin(&v.progress, stderr, "verify");
    varve_status st = varve_verify(db_of(c), &o, out, &words);
    vv_progress_end(&v.progress);
    return varve_ok(st) || fail(err, st, words.text);
}

static bool do_close(vv_client *c, vv_client_error *err) {
    varve_status st = varve_close(db_of(c));
    vv_free(c);
    return varve_ok(st) || fail(err, st, NULL);
}

static const vv_client_ops local_ops = {
    .get = do_get,
    .put = do_put,
    .del = do_del,
    .write = do_write,
    .scan = do_scan,
    .flush = do_flush,
    .compact = do_compact,
    .stats = do_stats,
    .backup = do_backup,
    .verify = do_verify,
    .close = do_close,
};

static void log_line(void *arg, varve_log_level level, const char *line) {
    (void)arg;
    (void)level;
    fprintf(stderr, "varve: %s\n", line);
}

vv_client *vv_client_local_open(const char *path, bool create, vv_client_error *err) {
    struct stat unused;
    if (!create && stat(path, &unused) != 0 && errno == ENOENT) {
        char text[sizeof err->message];
        snprintf(text, sizeof text, "%s: there is no such database", path);
        vv_client_fail(err, "NOT_FOUND", "", text);
        return NULL;
    }
    local_client *c = vv_alloc_zeroed(sizeof *c);
    varve_options *options = varve_options_create();
    varve_status st = {.code = VARVE_NO_MEMORY};
    varve_error words = {0};
    if (c && options) {
        varve_options_set_log(options, log_line, NULL, VARVE_LOG_WARN);
        st = varve_open(path, options, &c->db, &words);
    }
    varve_options_destroy(options);
    if (!varve_ok(st)) {
        vv_free(c);
        fail(err, st, words.text);
        return NULL;
    }
    c->client.ops = &local_ops;
    return &c->client;
}
