#include "tests/rpc/engine_double.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/config.h"
#include "base/slice.h"
#include "base/sync.h"

#define BUCKETS 4096

typedef struct entry {
    struct entry *next;
    uint64_t lsn;
    bool deleted;
    size_t key_bytes, value_bytes;
    uint8_t data[]; /* key, value */
} entry;

struct varve_batch {
    entry *first, *last;
    size_t count;
    uint64_t largest_value;
};

typedef struct settings {
    uint64_t value_bytes_max;
} settings;

struct varve_options {
    settings settings;
    varve_group_fn group;
    void *group_arg;
};

typedef struct queued_write {
    struct queued_write *next;
    const varve_batch *batch;
    varve_write_fn done;
    void *arg;
} queued_write;

struct varve_db {
    struct varve_options options;
    pthread_t thread;
    queued_write *first, *last;
    bool stop;
};

/* Values are never freed: whoever reads one may keep it. They are reachable, so no leak. */
static struct {
    vv_mutex lock;
    vv_cond changed;
    bool hold;
    size_t queued, pinned, closed;
    uint64_t lsn;
    varve_status write_status, refusal, get_status;
    entry *buckets[BUCKETS];
} d;

static const vv_option options[] = {{"MAX_VALUE_SIZE", VV_OPTION_BYTES, offsetof(settings, value_bytes_max),
                                     "32MiB", 1024, VARVE_VALUE_BYTES_MAX, false, NULL, "longest value"},
                                    {"IO_BACKEND", VV_OPTION_BYTES, offsetof(settings, value_bytes_max),
                                     "32MiB", 1024, VARVE_VALUE_BYTES_MAX, false, NULL,
                                     "stands for the rest"}};
static const vv_option_table table = {options, 1};

static void lock(void) {
    vv_mutex_lock(&d.lock);
}

static void unlock(void) {
    vv_cond_broadcast(&d.changed);
    vv_mutex_unlock(&d.lock);
}

__attribute__((constructor)) static void init(void) {
    vv_mutex_init(&d.lock);
    vv_cond_init(&d.changed);
}

/* ---- control ---- */

void engine_double_hold(bool hold) {
    lock();
    d.hold = hold;
    unlock();
}

void engine_double_wait_queued(size_t count) {
    vv_mutex_lock(&d.lock);
    while (d.queued < count)
        vv_cond_wait(&d.changed, &d.lock);
    vv_mutex_unlock(&d.lock);
}

void engine_double_fail_writes(varve_status st) {
    lock();
    d.write_status = st;
    unlock();
}

void engine_double_refuse_at_once(varve_status st) {
    lock();
    d.refusal = st;
    unlock();
}

void engine_double_fail_gets(varve_status st) {
    lock();
    d.get_status = st;
    unlock();
}

size_t engine_double_pinned(void) {
    lock();
    size_t n = d.pinned;
    unlock();
    return n;
}

size_t engine_double_closed(void) {
    lock();
    size_t n = d.closed;
    unlock();
    return n;
}

/* ---- names, options ---- */

const char *varve_code_name(uint16_t code) {
    return vv_code_name(code);
}

const char *varve_code_text(uint16_t code) {
    return vv_code_text(code);
}

const char *varve_reason_name(uint16_t reason) {
    return vv_sub_name(reason);
}

const char *varve_reason_text(uint16_t reason) {
    return vv_sub_text(reason);
}

const char *varve_version(void) {
    return VARVE_VERSION_STRING;
}

varve_options *varve_options_create(void) {
    varve_options *o = vv_alloc_zeroed(sizeof *o);
    if (o)
        vv_config_defaults(table, &o->settings);
    return o;
}

void varve_options_destroy(varve_options *o) {
    vv_free(o);
}

varve_status varve_options_set(varve_options *o, const char *key, const char *value, varve_error *err) {
    vv_error words = {""};
    vv_status st = vv_config_set(table, &o->settings, key, value, &words);
    if (err)
        memcpy(err->text, words.text, sizeof err->text);
    return (varve_status){st.code, st.sub, st.sys};
}

bool varve_options_describe(size_t index, varve_option_info *out) {
    if (index >= table.count)
        return false;
    *out = (varve_option_info){options[index].key, options[index].default_value, options[index].meaning, ""};
    vv_option_allowed(&options[index], out->allowed, sizeof out->allowed);
    return true;
}

bool varve_options_get(const varve_options *o, const char *key, char *buf, size_t buf_bytes) {
    const vv_option *option = vv_config_find(table, key);
    if (option)
        vv_config_format(option, &o->settings, buf, buf_bytes);
    return option != NULL;
}

void varve_options_set_log(varve_options *o, varve_log_fn fn, void *arg, varve_log_level least) {
    (void)o;
    (void)fn;
    (void)arg;
    (void)least;
}

void varve_options_set_group_callback(varve_options *o, varve_group_fn fn, void *arg) {
    o->group = fn;
    o->group_arg = arg;
}

/* ---- batches ---- */

varve_batch *varve_batch_create(void) {
    return vv_alloc_zeroed(sizeof(varve_batch));
}

void varve_batch_clear(varve_batch *b) {
    while (b->first) {
        entry *next = b->first->next;
        vv_free(b->first);
        b->first = next;
    }
    *b = (varve_batch){0};
}

void varve_batch_destroy(varve_batch *b) {
    if (b)
        varve_batch_clear(b);
    vv_free(b);
}

static varve_status refused(vv_sub reason) {
    return (varve_status){VARVE_INVALID_ARGUMENT, (uint16_t)reason, 0};
}

static varve_status add(varve_batch *b, vv_slice key, vv_slice value, bool deleted) {
    if (key.bytes == 0 || key.bytes > VARVE_KEY_BYTES_MAX)
        return refused(key.bytes == 0 ? VV_SUB_KEY_EMPTY : VV_SUB_KEY_TOO_LONG);
    entry *e = vv_alloc_zeroed(sizeof *e + key.bytes + value.bytes);
    if (!e)
        return (varve_status){.code = VARVE_NO_MEMORY};
    e->key_bytes = key.bytes;
    e->value_bytes = value.bytes;
    e->deleted = deleted;
    memcpy(e->data, key.data, key.bytes);
    if (value.bytes)
        memcpy(e->data + key.bytes, value.data, value.bytes);
    *(b->last ? &b->last->next : &b->first) = e;
    b->last = e;
    b->count++;
    b->largest_value = VV_MAX(b->largest_value, (uint64_t)value.bytes);
    return (varve_status){0};
}

varve_status varve_batch_put(varve_batch *b, const void *key, size_t key_bytes, const void *value,
                             size_t value_bytes) {
    return add(b, vv_slice_make(key, key_bytes), vv_slice_make(value, value_bytes), false);
}

varve_status varve_batch_delete(varve_batch *b, const void *key, size_t key_bytes) {
    return add(b, vv_slice_make(key, key_bytes), vv_slice_make(NULL, 0), true);
}

/* ---- the database ---- */

static entry **find(vv_slice key) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < key.bytes; i++)
        hash = (hash ^ ((const uint8_t *)key.data)[i]) * 16777619u;
    entry **at = &d.buckets[hash % BUCKETS];
    while (*at && !vv_slice_equal(key, vv_slice_make((*at)->data, (*at)->key_bytes)))
        at = &(*at)->next;
    return at;
}

/* Newest first in its bucket: older versions stay behind it for those who read them. */
static void apply(const varve_batch *b) {
    for (entry *e = b->first; e; e = e->next) {
        size_t bytes = sizeof *e + e->key_bytes + e->value_bytes;
        entry *copy = vv_alloc(bytes);
        VV_ASSERT(copy);
        memcpy(copy, e, bytes);
        copy->lsn = ++d.lsn;
        entry **at = find(vv_slice_make(copy->data, copy->key_bytes));
        copy->next = *at;
        *at = copy;
    }
}

static void commit_thread(void *arg) {
    varve_db *db = arg;
    vv_mutex_lock(&d.lock);
    for (;;) {
        while (d.hold || (!db->first && !db->stop))
            vv_cond_wait(&d.changed, &d.lock);
        if (!db->first)
            break;
        queued_write *group = db->first;
        varve_status st = d.write_status;
        db->first = db->last = NULL;
        d.queued = 0;
        vv_mutex_unlock(&d.lock);
        while (group) {
            queued_write *next = group->next;
            lock();
            if (varve_ok(st))
                apply(group->batch);
            uint64_t lsn = varve_ok(st) ? d.lsn : 0;
            unlock();
            group->done(group->arg, st, lsn);
            vv_free(group);
            group = next;
            /* Groups of one: the most news that there can be. */
            if (db->options.group)
                db->options.group(db->options.group_arg);
        }
        vv_mutex_lock(&d.lock);
    }
    vv_mutex_unlock(&d.lock);
}

varve_status varve_open(const char *path, const varve_options *o, varve_db **out, varve_error *err) {
    (void)path;
    (void)err;
    varve_db *db = vv_alloc_zeroed(sizeof *db);
    VV_ASSERT(db);
    db->options = *o;
    vv_status st = vv_thread_start(&db->thread, "commit", commit_thread, db);
    VV_ASSERT(vv_ok(st));
    *out = db;
    return (varve_status){0};
}

varve_status varve_close(varve_db *db) {
    lock();
    VV_ASSERT(d.pinned == 0);
    db->stop = true;
    unlock();
    vv_thread_join(db->thread);
    vv_free(db);
    d.closed++;
    return (varve_status){0};
}

void varve_write_async(varve_db *db, const varve_batch *batch, const varve_write_options *o,
                       varve_write_fn done, void *arg) {
    (void)o;
    lock();
    varve_status st = d.refusal;
    if (batch->count == 0)
        st = refused(VV_SUB_BATCH_EMPTY);
    else if (batch->largest_value > db->options.settings.value_bytes_max)
        st = refused(VV_SUB_VALUE_TOO_LARGE);
    if (varve_ok(st)) {
        queued_write *w = vv_alloc(sizeof *w);
        VV_ASSERT(w);
        *w = (queued_write){.batch = batch, .done = done, .arg = arg};
        *(db->last ? &db->last->next : &db->first) = w;
        db->last = w;
        d.queued++;
    }
    unlock();
    if (!varve_ok(st))
        done(arg, st, 0);
}

varve_status varve_get(varve_db *db, const void *key, size_t key_bytes, varve_value *out) {
    (void)db;
    *out = (varve_value){0};
    if (key_bytes == 0 || key_bytes > VARVE_KEY_BYTES_MAX)
        return refused(key_bytes == 0 ? VV_SUB_KEY_EMPTY : VV_SUB_KEY_TOO_LONG);
    lock();
    entry *e = *find(vv_slice_make(key, key_bytes));
    varve_status st = d.get_status;
    if (varve_ok(st) && (!e || e->deleted))
        st.code = VARVE_NOT_FOUND;
    if (varve_ok(st)) {
        *out = (varve_value){.data = e->data + e->key_bytes, .bytes = e->value_bytes, .lsn = e->lsn};
        out->pin_ = e;
        d.pinned++;
    }
    unlock();
    return st;
}

void varve_value_release(varve_value *value) {
    if (!value->pin_)
        return;
    lock();
    d.pinned--;
    unlock();
    *value = (varve_value){0};
}
