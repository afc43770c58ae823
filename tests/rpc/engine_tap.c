#include "tests/rpc/engine_tap.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/sync.h"

/* The linker's names. */
#define REAL(name) __real_##name
#define WRAP(name) __wrap_##name

void REAL(varve_write_async)(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                             varve_write_fn done, void *arg);
void WRAP(varve_write_async)(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                             varve_write_fn done, void *arg);
void REAL(varve_get_async_traced)(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                  size_t key_bytes, varve_trace *trace, varve_get_fn done, void *arg);
void WRAP(varve_get_async_traced)(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                  size_t key_bytes, varve_trace *trace, varve_get_fn done, void *arg);
void WRAP(varve_get_async)(varve_db *db, const varve_snapshot *snapshot, const void *key, size_t key_bytes,
                           varve_get_fn done, void *arg);
varve_status REAL(varve_get)(varve_db *db, const void *key, size_t key_bytes, varve_value *out);
varve_status WRAP(varve_get)(varve_db *db, const void *key, size_t key_bytes, varve_value *out);
varve_status REAL(varve_get_at)(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                size_t key_bytes, varve_value *out);
varve_status WRAP(varve_get_at)(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                size_t key_bytes, varve_value *out);
void REAL(varve_value_release)(varve_value *value);
void WRAP(varve_value_release)(varve_value *value);
void REAL(varve_options_set_group_callback)(varve_options *options, varve_group_fn fn, void *arg);
void WRAP(varve_options_set_group_callback)(varve_options *options, varve_group_fn fn, void *arg);
varve_status REAL(varve_wal_cursor_open)(varve_db *db, uint64_t after_lsn, varve_wal_cursor **cursor_out,
                                         uint64_t *oldest_lsn_out);
varve_status WRAP(varve_wal_cursor_open)(varve_db *db, uint64_t after_lsn, varve_wal_cursor **cursor_out,
                                         uint64_t *oldest_lsn_out);
varve_status REAL(varve_wal_cursor_next)(varve_wal_cursor *cursor, varve_wal_batch *out);
varve_status WRAP(varve_wal_cursor_next)(varve_wal_cursor *cursor, varve_wal_batch *out);
varve_status REAL(varve_take_snapshot)(varve_db *db, varve_export *out, varve_error *err);
varve_status WRAP(varve_take_snapshot)(varve_db *db, varve_export *out, varve_error *err);
varve_status REAL(varve_apply)(varve_db *db, const void *records, size_t bytes, uint64_t *applied_lsn_out,
                               varve_error *err);
varve_status WRAP(varve_apply)(varve_db *db, const void *records, size_t bytes, uint64_t *applied_lsn_out,
                               varve_error *err);
varve_status REAL(varve_open)(const char *path, const varve_options *options, varve_db **db_out,
                              varve_error *err);
varve_status WRAP(varve_open)(const char *path, const varve_options *options, varve_db **db_out,
                              varve_error *err);
uint64_t REAL(varve_visible_lsn)(varve_db *db);
uint64_t WRAP(varve_visible_lsn)(varve_db *db);
varve_status REAL(varve_close)(varve_db *db);
varve_status WRAP(varve_close)(varve_db *db);

typedef struct queued_write {
    struct queued_write *next;
    varve_db *db;
    const varve_batch *batch;
    varve_write_options options;
    varve_write_fn done;
    void *arg;
} queued_write;

typedef struct queued_get {
    struct queued_get *next;
    varve_db *db;
    const varve_snapshot *snapshot;
    varve_trace *trace;
    varve_get_fn done;
    void *arg;
    size_t key_bytes;
    uint8_t key[];
} queued_get;

static struct {
    vv_mutex lock;
    vv_cond changed;
    bool hold, hold_gets, stop, running, reading;
    bool handing_on; /* what was held: new writes go behind it */
    size_t queued, queued_gets, pinned, closed;
    varve_status write_status, refusal, get_status, snapshot_status;
    varve_status apply_status;
    size_t applies_failed;
    queued_write *first, **last;
    queued_get *first_get, **last_get;
    bool hold_snapshots, snapshot_held;
    varve_db *db;         /* opened last */
    const char *look_key; /* of engine_tap_write_behind_look() */
    size_t looks_skipped;
    bool looking, look_written;
    pthread_t look_thread;
    varve_db *followed;   /* by log cursors */
    const char *late_key; /* of engine_tap_write_at_end() */
    varve_group_fn group;
    void *group_arg;
    pthread_t thread, reader;
} t = {.last = &t.first, .last_get = &t.first_get};

static _Atomic bool log_failed; /* for the statistics */

static void lock(void) {
    vv_mutex_lock(&t.lock);
}

static void unlock(void) {
    vv_cond_broadcast(&t.changed);
    vv_mutex_unlock(&t.lock);
}

__attribute__((constructor)) static void init(void) {
    vv_mutex_init(&t.lock);
    vv_cond_init(&t.changed);
}

/* ---- control ---- */

void engine_tap_hold(bool hold) {
    lock();
    t.hold = hold;
    unlock();
}

void engine_tap_wait_queued(size_t count) {
    lock();
    while (t.queued < count)
        vv_cond_wait(&t.changed, &t.lock);
    unlock();
}

size_t engine_tap_queued(void) {
    lock();
    size_t n = t.queued;
    unlock();
    return n;
}

void engine_tap_hold_gets(bool hold) {
    lock();
    t.hold_gets = hold;
    unlock();
}

void engine_tap_wait_queued_gets(size_t count) {
    lock();
    while (t.queued_gets < count)
        vv_cond_wait(&t.changed, &t.lock);
    unlock();
}

void engine_tap_fail_writes(varve_status st) {
    lock();
    t.write_status = st;
    unlock();
}

void engine_tap_refuse_at_once(varve_status st) {
    lock();
    t.refusal = st;
    unlock();
}

void engine_tap_fail_gets(varve_status st) {
    lock();
    t.get_status = st;
    unlock();
}

size_t engine_tap_pinned(void) {
    lock();
    size_t n = t.pinned;
    unlock();
    return n;
}

size_t engine_tap_closed(void) {
    lock();
    size_t n = t.closed;
    unlock();
    return n;
}

/* ---- opening, and snapshots of files ---- */

varve_db *engine_tap_db(void) {
    lock();
    varve_db *db = t.db;
    unlock();
    return db;
}

varve_status WRAP(varve_open)(const char *path, const varve_options *options, varve_db **db_out,
                              varve_error *err) {
    varve_status st = REAL(varve_open)(path, options, db_out, err);
    lock();
    t.db = *db_out;
    unlock();
    return st;
}

void engine_tap_hold_snapshots(bool hold) {
    lock();
    t.hold_snapshots = hold;
    unlock();
}

void engine_tap_wait_held_snapshot(void) {
    lock();
    while (!t.snapshot_held)
        vv_cond_wait(&t.changed, &t.lock);
    unlock();
}

void engine_tap_fail_snapshots(varve_status st) {
    lock();
    t.snapshot_status = st;
    unlock();
}

varve_status WRAP(varve_take_snapshot)(varve_db *db, varve_export *out, varve_error *err) {
    lock();
    t.snapshot_held = t.hold_snapshots;
    vv_cond_broadcast(&t.changed);
    while (t.hold_snapshots)
        vv_cond_wait(&t.changed, &t.lock);
    t.snapshot_held = false;
    varve_status st = t.snapshot_status;
    unlock();
    *out = (varve_export){0};
    return varve_ok(st) ? REAL(varve_take_snapshot)(db, out, err) : st;
}

/* ---- another's log ---- */

void engine_tap_fail_applies(varve_status st) {
    lock();
    t.apply_status = st;
    t.applies_failed = 0;
    unlock();
}

void engine_tap_wait_failed_applies(size_t count) {
    lock();
    while (t.applies_failed < count)
        vv_cond_wait(&t.changed, &t.lock);
    unlock();
}

varve_status WRAP(varve_apply)(varve_db *db, const void *records, size_t bytes, uint64_t *applied_lsn_out,
                               varve_error *err) {
    lock();
    varve_status st = t.apply_status;
    t.applies_failed += !varve_ok(st);
    vv_cond_broadcast(&t.changed);
    unlock();
    return varve_ok(st) ? REAL(varve_apply)(db, records, bytes, applied_lsn_out, err) : st;
}

/* ---- log cursors ---- */

void engine_tap_write_at_end(const char *key) {
    lock();
    t.late_key = key;
    unlock();
}

varve_status WRAP(varve_wal_cursor_open)(varve_db *db, uint64_t after_lsn, varve_wal_cursor **cursor_out,
                                         uint64_t *oldest_lsn_out) {
    lock();
    t.followed = db;
    unlock();
    return REAL(varve_wal_cursor_open)(db, after_lsn, cursor_out, oldest_lsn_out);
}

varve_status WRAP(varve_wal_cursor_next)(varve_wal_cursor *cursor, varve_wal_batch *out) {
    varve_status st = REAL(varve_wal_cursor_next)(cursor, out);
    if (st.code != VARVE_END)
        return st;
    lock();
    const char *key = t.late_key;
    varve_db *db = t.followed;
    t.late_key = NULL;
    unlock();
    if (key)
        VV_ASSERT(varve_ok(varve_put(db, key, strlen(key), key, strlen(key), NULL, NULL)));
    return st;
}

/* ---- looks at what is visible ---- */

#define LOOK_NS (100 * VV_NS_PER_MS)

void engine_tap_write_behind_look(const char *key, size_t skip) {
    lock();
    t.look_key = key;
    t.looks_skipped = skip;
    unlock();
}

static void write_look_key(void *arg) {
    const char *key = arg;
    VV_ASSERT(varve_ok(varve_put(engine_tap_db(), key, strlen(key), key, strlen(key), NULL, NULL)));
    lock();
    t.look_written = true;
    unlock();
}

uint64_t WRAP(varve_visible_lsn)(varve_db *db) {
    uint64_t lsn = REAL(varve_visible_lsn)(db), end_ns = vv_clock_mono_ns() + LOOK_NS;
    lock();
    if (t.look_key && t.looks_skipped-- == 0) {
        vv_status st =
            vv_thread_start(&t.look_thread, "tap-look", write_look_key, (void *)(uintptr_t)t.look_key);
        VV_ASSERT(vv_ok(st));
        t.look_key = NULL;
        t.looking = true;
        while (!t.look_written && vv_cond_wait_until(&t.changed, &t.lock, end_ns))
            continue;
    }
    unlock();
    return lsn;
}

/* ---- writes ---- */

/* Hands on what was held, in its order, or fails it as the committing thread of an engine would. */
static void hand_on(void *arg) {
    (void)arg;
    lock();
    for (;;) {
        while (!t.stop && (t.hold || !t.first))
            vv_cond_wait(&t.changed, &t.lock);
        if (t.stop && !t.first)
            break;
        queued_write *w = t.first;
        t.first = NULL;
        t.last = &t.first;
        t.handing_on = true;
        t.queued = 0;
        varve_status st = t.write_status;
        varve_group_fn group = t.group;
        void *group_arg = t.group_arg;
        unlock();
        while (w) {
            queued_write *next = w->next;
            if (varve_ok(st)) {
                REAL(varve_write_async)(w->db, w->batch, &w->options, w->done, w->arg);
            } else {
                if (st.code == VARVE_WAL_FAILED) /* for good, as a log fails */
                    atomic_store(&log_failed, true);
                w->done(w->arg, st, 0);
            }
            vv_free(w);
            w = next;
            /* What the engine refuses at once is told here, and failures in groups of one. */
            if (group)
                group(group_arg);
        }
        lock();
        t.handing_on = false;
    }
    unlock();
}

void WRAP(varve_write_async)(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                             varve_write_fn done, void *arg) {
    lock();
    varve_status refusal = t.refusal;
    bool tapped = t.hold || !varve_ok(t.write_status) || t.first || t.handing_on;
    if (varve_ok(refusal) && tapped) {
        queued_write *w = vv_alloc_zeroed(sizeof *w);
        VV_ASSERT(w);
        *w = (queued_write){.db = db, .batch = batch, .done = done, .arg = arg};
        if (options)
            w->options = *options;
        *t.last = w;
        t.last = &w->next;
        t.queued++;
        if (!t.running) {
            vv_status st = vv_thread_start(&t.thread, "tap", hand_on, NULL);
            VV_ASSERT(vv_ok(st));
            t.running = true;
        }
    }
    unlock();
    if (!varve_ok(refusal))
        done(arg, refusal, 0);
    else if (!tapped)
        REAL(varve_write_async)(db, batch, options, done, arg);
}

void WRAP(varve_options_set_group_callback)(varve_options *options, varve_group_fn fn, void *arg) {
    lock();
    t.group = fn;
    t.group_arg = arg;
    unlock();
    REAL(varve_options_set_group_callback)(options, fn, arg);
}

varve_status WRAP(varve_close)(varve_db *db) {
    lock();
    VV_ASSERT(t.pinned == 0);
    VV_ASSERT(!t.first && !t.first_get);
    t.stop = true;
    bool running = t.running, reading = t.reading, looking = t.looking;
    unlock();
    if (looking)
        vv_thread_join(t.look_thread);
    if (running)
        vv_thread_join(t.thread);
    if (reading)
        vv_thread_join(t.reader);
    varve_status st = REAL(varve_close)(db);
    lock();
    t.stop = t.running = t.reading = t.looking = false;
    t.closed++;
    unlock();
    return st;
}

/* ---- reads ---- */

static varve_status tapped_status(void) {
    lock();
    varve_status st = t.get_status;
    unlock();
    return st;
}

static void count_pinned(const varve_value *value) {
    lock();
    t.pinned += value->pin_ != NULL;
    unlock();
}

varve_status WRAP(varve_get_at)(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                size_t key_bytes, varve_value *out) {
    varve_status st = tapped_status();
    *out = (varve_value){0};
    if (varve_ok(st))
        st = REAL(varve_get_at)(db, snapshot, key, key_bytes, out);
    count_pinned(out);
    return st;
}

varve_status WRAP(varve_get)(varve_db *db, const void *key, size_t key_bytes, varve_value *out) {
    return WRAP(varve_get_at)(db, NULL, key, key_bytes, out);
}

typedef struct tapped_get {
    varve_get_fn done;
    void *arg;
} tapped_get;

static void get_done(void *arg, varve_status st, varve_value *value) {
    tapped_get g = *(tapped_get *)arg;
    vv_free(arg);
    count_pinned(value);
    g.done(g.arg, st, value);
}

static void get_now(varve_db *db, const varve_snapshot *snapshot, const void *key, size_t key_bytes,
                    varve_trace *trace, varve_get_fn done, void *arg) {
    varve_status st = tapped_status();
    varve_value none = {0};
    tapped_get *g = vv_alloc(sizeof *g);
    VV_ASSERT(g);
    *g = (tapped_get){done, arg};
    if (varve_ok(st))
        REAL(varve_get_async_traced)(db, snapshot, key, key_bytes, trace, get_done, g);
    else
        get_done(g, st, &none);
}

static void answer_gets(void *arg) {
    (void)arg;
    lock();
    for (;;) {
        while (!t.stop && (t.hold_gets || !t.first_get))
            vv_cond_wait(&t.changed, &t.lock);
        queued_get *g = t.first_get;
        if (!g)
            break;
        t.first_get = g->next;
        if (!t.first_get)
            t.last_get = &t.first_get;
        t.queued_gets--;
        unlock();
        get_now(g->db, g->snapshot, g->key, g->key_bytes, g->trace, g->done, g->arg);
        vv_free(g);
        lock();
    }
    unlock();
}

void WRAP(varve_get_async_traced)(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                  size_t key_bytes, varve_trace *trace, varve_get_fn done, void *arg) {
    lock();
    bool hold = t.hold_gets;
    if (hold) {
        queued_get *g = vv_alloc(sizeof *g + key_bytes);
        VV_ASSERT(g);
        *g = (queued_get){NULL, db, snapshot, trace, done, arg, key_bytes};
        memcpy(g->key, key, key_bytes);
        *t.last_get = g;
        t.last_get = &g->next;
        t.queued_gets++;
        if (!t.reading) {
            vv_status st = vv_thread_start(&t.reader, "tap-reader", answer_gets, NULL);
            VV_ASSERT(vv_ok(st));
            t.reading = true;
        }
    }
    unlock();
    if (!hold)
        get_now(db, snapshot, key, key_bytes, trace, done, arg);
}

void WRAP(varve_get_async)(varve_db *db, const varve_snapshot *snapshot, const void *key, size_t key_bytes,
                           varve_get_fn done, void *arg) {
    WRAP(varve_get_async_traced)(db, snapshot, key, key_bytes, NULL, done, arg);
}

void WRAP(varve_value_release)(varve_value *value) {
    lock();
    t.pinned -= value->pin_ != NULL;
    unlock();
    REAL(varve_value_release)(value);
}

/* ---- statistics ---- */

void __real_varve_stats_get(varve_db *db, varve_stats *out);
void __wrap_varve_stats_get(varve_db *db, varve_stats *out);

void __wrap_varve_stats_get(varve_db *db, varve_stats *out) {
    __real_varve_stats_get(db, out);
    out->wal_failed |= atomic_load(&log_failed);
}

void engine_tap_say_log_failed(void) {
    atomic_store(&log_failed, true);
}

/* ---- imports ---- */

static _Atomic uint64_t import_delay_ns;

void engine_tap_delay_import(uint64_t ns) {
    atomic_store(&import_delay_ns, ns);
}

varve_status REAL(varve_import_open)(varve_import *import, size_t file_index, varve_import_file **out,
                                     uint64_t *offset_out, varve_error *err);
varve_status WRAP(varve_import_open)(varve_import *import, size_t file_index, varve_import_file **out,
                                     uint64_t *offset_out, varve_error *err);

varve_status WRAP(varve_import_open)(varve_import *import, size_t file_index, varve_import_file **out,
                                     uint64_t *offset_out, varve_error *err) {
    uint64_t ns = atomic_exchange(&import_delay_ns, 0), until_ns = vv_clock_mono_ns() + ns;
    lock();
    while (ns > 0 && vv_cond_wait_until(&t.changed, &t.lock, until_ns))
        continue;
    unlock();
    return REAL(varve_import_open)(import, file_index, out, offset_out, err);
}
