/*
 * test_db_no_memory.c - memory runs out at every place that allocates; nothing is lost.
 *
 * A story is a workload in acts. It is first run with memory, which tells the places that allocate
 * (alloc_sites.h). Then it is run once more for each of them, in a process of its own, with that place
 * failing: once, or together with all that is allocated from then on until the act is over. A call may then
 * say NO_MEMORY, and has changed nothing; or has done what it says. At the end of each act memory is back:
 * every write that was acknowledged is there and no other, and the call works that did not before. What a
 * process allocates only because something has failed is found on the way, and its turn comes too.
 *
 * A crash, a wrong status, a lost or a half batch, a hang (SIGALRM), and with ASan a leak fail the test, with
 * the command that shows the place.
 *
 * VARVE_TEST_ALLOC=1: every place, both ways, when it allocates for the first time; 2: and the second time;
 * 3: and the 5th. Else as many places as fit in a second or two for each story, from a random one on.
 */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/engine/alloc_sites.h"
#include "tests/engine/db_fixture.h"

TestSuite(db_no_memory, .fini = vv_tempdir_cleanup, .timeout = 3600);

#define KEYS            40
#define VALUE_BYTES_MAX 6000
#define CHILD_LIMIT_S   120
#define SHORT_NS        (UINT64_C(1) * VV_NS_PER_S) /* of each story */
#define SHORT_RUNS      4                           /* at least, however slow the machine is */

/* ---- in the child: what is expected, and calls that may fail ---- */

#define DIE(...) die(__LINE__, __VA_ARGS__)

static _Noreturn void die(int line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static _Noreturn void die(int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: ", __FILE__, line);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    _exit(9);
}

typedef struct model {
    uint32_t version[KEYS]; /* 0: absent */
    uint32_t next_version[KEYS];
} model;

static char dir[256]; /* of this run */
static char file[4][320];
static varve_db *db;
static varve_error words;
static model expected;
static const char *const *variant; /* options of the database: KEY, VALUE, ..., NULL */

static const char *in_dir(const char *name) {
    static unsigned next;
    char *path = file[next++ % 4];
    snprintf(path, sizeof file[0], "%s/%s", dir, name);
    return path;
}

/* True: it worked. False: it failed for want of memory, as it may while that is out. */
static bool ok_at(int line, varve_status st, const char *call) {
    if (varve_ok(st))
        return true;
    if (st.code == VARVE_NO_MEMORY && vv_alloc_sites_failed())
        return false;
    die(line, "%s: %s %s errno %d: %s", call, varve_code_name(st.code), varve_reason_name(st.reason), st.sys,
        words.text);
}
#define OK(call) ok_at(__LINE__, call, #call)

static void must_at(int line, varve_status st, const char *call) {
    if (!varve_ok(st))
        die(line, "with memory again: %s: %s %s errno %d: %s", call, varve_code_name(st.code),
            varve_reason_name(st.reason), st.sys, words.text);
}
#define MUST(call) must_at(__LINE__, call, #call)

/* NULL: no memory. */
static varve_options *options(void) {
    varve_options *o = varve_options_create();
    if (!o && !vv_alloc_sites_failed())
        DIE("varve_options_create");
    if (!o)
        return NULL;
    MUST(varve_options_set(o, "WAL_SEGMENT_SIZE", "256KiB", &words));
    MUST(varve_options_set(o, "MEMTABLE_SIZE", "64KiB", &words));
    MUST(varve_options_set(o, "TABLE_CACHE_SIZE", "2", &words));
    MUST(varve_options_set(o, "COMPACTION_THRESHOLD", "2", &words));
    for (const char *const *at = variant; *at; at += 2)
        MUST(varve_options_set(o, at[0], at[1], &words));
    return o;
}

static void key_of(unsigned i, char key[8]) {
    snprintf(key, 8, "k%03u", i);
}

static size_t value_of(unsigned i, uint32_t version, char value[VALUE_BYTES_MAX]) {
    size_t bytes = (i * 131 + version * 17) % 600;
    if (i % 8 == 3)
        bytes += 4500;
    int word_bytes = snprintf(value, 32, "%u.%u,", i, version);
    for (size_t at = (size_t)word_bytes; at < bytes; at++)
        value[at] = value[at - (size_t)word_bytes];
    return bytes;
}

static void put(unsigned i, const varve_write_options *o) {
    char key[8], value[VALUE_BYTES_MAX];
    uint32_t version = ++expected.next_version[i];
    key_of(i, key);
    size_t bytes = value_of(i, version, value);
    if (OK(varve_put(db, key, strlen(key), value, bytes, o, NULL)))
        expected.version[i] = version;
}

static void delete (unsigned i) {
    char key[8];
    key_of(i, key);
    if (OK(varve_delete(db, key, strlen(key), NULL, NULL)))
        expected.version[i] = 0;
}

typedef struct answer {
    varve_status st;
    _Atomic bool there;
} answer;

static void answered(void *arg, varve_status st, uint64_t lsn) {
    answer *a = arg;
    (void)lsn;
    a->st = st;
    atomic_store(&a->there, true);
}

/* Puts of keys first to first + count - 1, and one delete of `deleted`: all or nothing. */
static void batch(unsigned first, unsigned count, unsigned deleted, bool async) {
    char key[8], value[VALUE_BYTES_MAX];
    varve_batch *b = varve_batch_create();
    bool whole = b != NULL;
    if (!b && !vv_alloc_sites_failed())
        DIE("varve_batch_create");
    for (unsigned i = first; whole && i < first + count; i++) {
        key_of(i, key);
        size_t bytes = value_of(i, ++expected.next_version[i], value);
        whole = OK(varve_batch_put(b, key, strlen(key), value, bytes));
    }
    key_of(deleted, key);
    whole =
        whole && OK(varve_batch_delete(b, key, strlen(key))) && OK(varve_batch_require_absent(b, "never", 5));
    if (whole && async) {
        answer a = {0};
        varve_write_async(db, b, NULL, answered, &a);
        while (!atomic_load(&a.there))
            sched_yield();
        whole = OK(a.st);
    } else {
        whole = whole && OK(varve_write(db, b, NULL, NULL));
    }
    if (whole) {
        for (unsigned i = first; i < first + count; i++)
            expected.version[i] = expected.next_version[i];
        expected.version[deleted] = 0;
    }
    varve_batch_destroy(b);
}

static void is_value(unsigned i, const void *data, size_t bytes) {
    char value[VALUE_BYTES_MAX];
    if (expected.version[i] == 0)
        DIE("key %u is there, %.*s", i, (int)VV_MIN(bytes, 12), (const char *)data);
    if (bytes != value_of(i, expected.version[i], value) || memcmp(data, value, bytes) != 0)
        DIE("key %u has another value than version %u: %.*s", i, expected.version[i], (int)VV_MIN(bytes, 12),
            (const char *)data);
}

static void is_answer(unsigned i, varve_status st, varve_value *v) {
    if (st.code == VARVE_NOT_FOUND) {
        if (expected.version[i] != 0)
            DIE("key %u is lost", i);
    } else if (OK(st)) {
        is_value(i, v->data, v->bytes);
    }
    varve_value_release(v);
}

/* By an iterator: what it shows is right and in order, and it is all, unless it says that memory is out. */
static void scan(bool forward, const varve_snapshot *snapshot) {
    varve_iter *it;
    unsigned i = forward ? 0 : KEYS - 1;
    if (!OK(varve_iter_create(db, &(varve_iter_options){.snapshot = snapshot, .start = "k", .start_bytes = 1},
                              &it)))
        return;
    for (forward ? varve_iter_first(it) : varve_iter_last(it); varve_iter_valid(it);
         forward ? varve_iter_next(it) : varve_iter_prev(it)) {
        varve_entry e;
        unsigned at;
        varve_iter_entry(it, &e);
        if (sscanf(e.key, "k%3u", &at) != 1 || at >= KEYS)
            DIE("a scan meets a key of %zu bytes", e.key_bytes);
        for (; i != at; i += forward ? 1 : -1u)
            if (i >= KEYS || expected.version[i] != 0)
                DIE("a scan is at key %u, and has not met %u", at, i);
        is_value(at, e.value, e.value_bytes);
        i += forward ? 1 : -1u;
    }
    if (OK(varve_iter_status(it)))
        for (; i < KEYS; i += forward ? 1 : -1u)
            if (expected.version[i] != 0)
                DIE("a scan ended before key %u", i);
    varve_iter_destroy(it);
}

typedef struct got {
    unsigned i;
    _Atomic unsigned *left;
} got;

static void on_got(void *arg, varve_status st, varve_value *value) {
    got *g = arg;
    is_answer(g->i, st, value);
    atomic_fetch_sub(g->left, 1);
}

/* Everything, by every way to read. */
static void read_all(void) {
    char keys[KEYS][8];
    varve_lookup lookups[KEYS];
    varve_value v;
    for (unsigned i = 0; i < KEYS; i++) {
        key_of(i, keys[i]);
        varve_status st = varve_get(db, keys[i], strlen(keys[i]), &v);
        is_answer(i, st, &v);
        lookups[i] = (varve_lookup){.key = keys[i], .key_bytes = strlen(keys[i])};
    }
    if (OK(varve_multi_get(db, NULL, lookups, KEYS)))
        for (unsigned i = 0; i < KEYS; i++)
            is_answer(i, lookups[i].status, &lookups[i].value);
    got gets[KEYS];
    _Atomic unsigned left = KEYS;
    for (unsigned i = 0; i < KEYS; i++) {
        gets[i] = (got){.i = i, .left = &left};
        varve_get_async(db, NULL, keys[i], strlen(keys[i]), on_got, &gets[i]);
    }
    while (atomic_load(&left) > 0)
        sched_yield();
    scan(true, NULL);
    scan(false, NULL);
    varve_snapshot *snapshot = varve_snapshot_create(db);
    if (!snapshot && !vv_alloc_sites_failed())
        DIE("varve_snapshot_create");
    if (snapshot)
        scan(true, snapshot);
    varve_snapshot_release(db, snapshot);
}

/* A story has fewer flushes than this, so that no reader meets more. */
#define TRIMS_MAX 100

/* A cursor at the log's beginning, which a flush may move on at any time. *oldest_out: its first LSN. */
static varve_status open_log(varve_wal_cursor **out, uint64_t *oldest_out) {
    uint64_t from = 0;
    varve_status st;
    for (int i = 0; (st = varve_wal_cursor_open(db, from, out, oldest_out)).code == VARVE_TRIMMED; i++) {
        if (i == TRIMS_MAX)
            DIE("the log is trimmed for ever; it begins at LSN %" PRIu64, *oldest_out);
        from = *oldest_out - 1;
    }
    *oldest_out = from + 1;
    return st;
}

/* The log gives every LSN from where it begins, in order. False: a flush took some of it away meanwhile. */
static bool try_read_log(void) {
    varve_wal_cursor *cursor;
    varve_wal_batch b;
    uint64_t oldest, durable = varve_durable_lsn(db);
    varve_status st = open_log(&cursor, &oldest);
    if (!OK(st))
        return true;
    (void)varve_wal_cursor_notify_fd(cursor);
    while (varve_ok(st = varve_wal_cursor_next(cursor, &b))) {
        if (b.first_lsn != oldest)
            DIE("the log has LSN %" PRIu64 " where %" PRIu64 " is due", b.first_lsn, oldest);
        oldest = b.last_lsn + 1;
    }
    if (st.code != VARVE_END && st.code != VARVE_TRIMMED)
        (void)OK(st);
    else if (st.code == VARVE_END && oldest <= durable)
        DIE("the log ends at LSN %" PRIu64 " of %" PRIu64, oldest - 1, durable);
    varve_wal_cursor_close(cursor);
    return st.code != VARVE_TRIMMED;
}

static void read_log(void) {
    for (int i = 0; !try_read_log(); i++)
        if (i == TRIMS_MAX)
            DIE("the log is trimmed beneath each cursor");
}

static void verify(void) {
    varve_verify_result result;
    if (OK(varve_verify(db, &(varve_verify_options){0}, &result, &words)) && result.damage_count != 0)
        DIE("verify finds damage");
}

/* What a run fails, and when: set by the parent before the fork. */
static struct plan {
    uint64_t site;
    uint64_t n;
    vv_alloc_failure how;
} plan;

/* Opens what is not open. */
static void open_db(void) {
    varve_options *o = db ? NULL : options();
    if (o && !OK(varve_open(in_dir("db"), o, &db, &words)))
        db = NULL;
    varve_options_destroy(o);
}

static void close_db(void) {
    varve_db *closed = db;
    db = NULL;
    (void)OK(varve_close(closed));
}

/* Memory is back: all is there, and all works. */
static void end_act(void) {
    vv_alloc_sites_mend();
    open_db();
    read_all();
    /* What failed in the background is tried again by it; until then the call says so. The alarm is the
     * bound. */
    varve_status st;
    do
        st = varve_flush(db);
    while (st.code == VARVE_NO_MEMORY && vv_alloc_sites_failed());
    MUST(st);
    do
        st = varve_compact(db);
    while (st.code == VARVE_NO_MEMORY && vv_alloc_sites_failed());
    MUST(st);
    read_all();
    read_log();
    verify();
}

/* ---- the stories ---- */

static void write_much(void) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    varve_write_options named = {.client_id = 77, .sequence = 1};
    varve_write_options expiring = {.ttl_ms = UINT64_C(1) << 40};
    for (unsigned i = 0; i < KEYS; i++)
        put(i, i % 5 == 0 ? &async : i % 7 == 0 ? &expiring : NULL);
    delete (6);
    batch(10, 6, 20, false);
    batch(22, 6, 9, true);
    put(1, &named);
}

static void write_and_read(void) {
    open_db();
    if (db) {
        write_much();
        read_all();
        read_log();
    }
    end_act();
}

static void memory_fails(void) {
    vv_alloc_sites_fail(plan.site, plan.n, plan.how);
}

static void story_of_writes(void) {
    memory_fails();
    write_and_read();
    MUST(varve_close(db));
    db = NULL;
    open_db();
    read_all();
}

static void flush_merge(void) {
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = round; i < KEYS; i += 2)
            put(i, NULL);
        delete (round * 3);
        (void)OK(varve_flush(db));
        read_all();
    }
    (void)OK(varve_compact(db));
    read_all();
    verify();
}

static void story_of_tables(void) {
    open_db();
    write_much();
    memory_fails();
    flush_merge();
    end_act();
}

/* Tables, and a log that is not in them, closed without memory and opened without. */
static void story_of_opening(void) {
    varve_stats stats;
    open_db();
    write_much();
    MUST(varve_flush(db));
    for (unsigned i = 0; i < KEYS; i += 3)
        put(i, NULL);
    MUST(varve_slot_create(db, "slot", varve_durable_lsn(db), &words));
    put(4, NULL);
    memory_fails();
    close_db();
    open_db();
    if (db) {
        read_all();
        varve_stats_get(db, &stats);
        put(5, NULL);
        close_db();
        open_db();
    }
    end_act();
}

/* A record that is larger than all buffers of the log's. */
static void story_of_big_records(void) {
    static char big[3 << 20];
    varve_value v;
    memset(big, 'b', sizeof big);
    open_db();
    memory_fails();
    put(1, NULL);
    bool done = OK(varve_put(db, "big", 3, big, sizeof big, NULL, NULL));
    put(2, NULL);
    read_log();
    close_db();
    open_db();
    if (db)
        read_log();
    vv_alloc_sites_mend();
    open_db();
    varve_status st = varve_get(db, "big", 3, &v);
    if (st.code != (done ? VARVE_OK : VARVE_NOT_FOUND))
        DIE("a big value that was %s: %s", done ? "written" : "not written", varve_code_name(st.code));
    if (done && (v.bytes != sizeof big || memcmp(v.data, big, sizeof big) != 0))
        DIE("a big value is another");
    varve_value_release(&v);
    end_act();
}

static void story_of_replication(void) {
    varve_slot_info slots[VARVE_SLOTS_MAX];
    open_db();
    write_much();
    memory_fails();
    uint64_t lsn = varve_durable_lsn(db);
    bool made = OK(varve_slot_create(db, "reader", lsn, &words));
    put(3, NULL);
    if (made && !varve_ok(varve_slot_confirm(db, "reader", varve_durable_lsn(db))))
        DIE("a slot that was made is not there");
    if (varve_slots_get(db, slots) != made)
        DIE("slots");
    (void)OK(varve_set_safe_compaction_lsn(db, lsn, &words));
    uint64_t epoch = OK(varve_begin_epoch(db, 5, &words)) ? 5 : 1;
    put(4, NULL);
    (void)OK(varve_promise_epoch(db, 6, &words));
    bool limited = OK(varve_limit_commits(db, true, &words));
    varve_set_commit_limit(db, UINT64_MAX - 1);
    put(5, NULL);
    batch(7, 5, 1, true);
    if (limited)
        (void)OK(varve_limit_commits(db, false, &words));
    varve_stats stats;
    varve_stats_get(db, &stats);
    if (stats.epoch < epoch)
        DIE("an epoch is gone");
    (void)OK(varve_slot_drop(db, "reader", &words));
    vv_alloc_sites_mend();
    MUST(varve_limit_commits(db, false, &words));
    MUST(varve_slot_drop(db, "reader", &words));
    end_act();
    varve_stats_get(db, &stats);
    MUST(varve_close(db));
    db = NULL;
    open_db();
    read_all();
    varve_stats_get(db, &stats);
    if (stats.epoch < epoch)
        DIE("an epoch is gone");
}

/* Reads the database in a directory as if it were the one at hand. */
static void is_copy(const char *path) {
    varve_db *own = db;
    varve_options *o = options();
    MUST(varve_open(path, o, &db, &words));
    varve_options_destroy(o);
    read_all();
    verify();
    MUST(varve_close(db));
    db = own;
}

/*
 * What failed is not there. Unless nothing at all could be allocated any more, not even to list the directory
 * that was to be removed: then no database is mistaken for it.
 */
static void is_gone(const char *path) {
    char command[400];
    varve_db *none;
    if (access(path, F_OK) != 0)
        return;
    if (plan.how != VV_ALLOC_FAILS_FROM_ON)
        DIE("%s: a call has failed, and left it", path);
    vv_alloc_sites_mend();
    varve_options *o = options();
    varve_status st = varve_open(path, o, &none, &words);
    varve_options_destroy(o);
    if (varve_ok(st) && varve_visible_lsn(none) != 0)
        DIE("%s: what is left passes for a database", path);
    if (varve_ok(st))
        MUST(varve_close(none));
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (system(command) != 0)
        DIE("%s", command);
}

static void story_of_backups(void) {
    varve_backup_info info;
    varve_restore_info restored;
    open_db();
    write_much();
    memory_fails();
    char backup[320], dest[320], next[320];
    snprintf(backup, sizeof backup, "%s/backup", dir);
    snprintf(next, sizeof next, "%s/next", dir);
    snprintf(dest, sizeof dest, "%s/dest", dir);
    bool whole = OK(varve_backup(db, backup, NULL, &info, &words));
    bool again =
        whole && OK(varve_backup(db, next, &(varve_backup_options){.base_dir = backup}, &info, &words));
    bool back = whole && OK(varve_restore(backup, dest, &(varve_restore_options){0}, &restored, &words));
    vv_alloc_sites_mend();
    if (!whole)
        is_gone(backup);
    if (!again)
        is_gone(next);
    if (!back)
        is_gone(dest);
    /* A flush that began without memory may fail only now, and a backup that waits for it is told. */
    if (!whole && varve_backup(db, backup, NULL, &info, &words).code != VARVE_OK)
        MUST(varve_backup(db, backup, NULL, &info, &words));
    if (!back)
        MUST(varve_restore(backup, dest, &(varve_restore_options){0}, &restored, &words));
    is_copy(dest);
    is_copy(backup);
    end_act();
}

static bool import_file(varve_import *import, const varve_export *from, size_t index) {
    static char buffer[64 << 10];
    varve_export_reader *reader;
    varve_import_file *to = NULL;
    uint64_t offset;
    if (!OK(varve_export_open(db, from, from->files[index].name, &reader, &words)))
        return false;
    bool ok = OK(varve_import_open(import, index, &to, &offset, &words));
    if (ok && !to) { /* it is there already */
        varve_export_close(reader);
        return true;
    }
    for (size_t bytes = 1; ok && bytes > 0; offset += bytes)
        ok = OK(varve_export_read(reader, offset, buffer, sizeof buffer, &bytes, &words)) &&
             (bytes == 0 || OK(varve_import_write(to, buffer, bytes, &words)));
    varve_export_close(reader);
    if (!ok)
        varve_import_abandon(to);
    return ok && OK(varve_import_close(to, &words));
}

static bool import_all(const varve_export *from, const char *to) {
    varve_import *import;
    varve_options *o = options();
    bool ok = o && OK(varve_import_begin(to, o, from->files, from->file_count, &import, &words));
    varve_options_destroy(o);
    if (!ok)
        return false;
    for (size_t i = 0; ok && i < from->file_count; i++)
        ok = import_file(import, from, i);
    ok = ok && OK(varve_import_finish(import, from->manifest, from->manifest_bytes, &words));
    if (!ok)
        varve_import_end(import);
    return ok;
}

/* An export is imported below another database, and put in its place. */
static void story_of_imports(void) {
    varve_export export = {0};
    open_db();
    write_much();
    char other[320], fresh[320];
    snprintf(other, sizeof other, "%s/other", dir);
    snprintf(fresh, sizeof fresh, "%s/other/fresh", dir);
    varve_options *o = options();
    varve_db *old;
    MUST(varve_open(other, o, &old, &words));
    MUST(varve_put(old, "old", 3, "old", 3, NULL, NULL));
    MUST(varve_close(old));
    memory_fails();
    bool taken = OK(varve_take_snapshot(db, &export, &words));
    bool imported = taken && import_all(&export, fresh);
    bool installed = imported && OK(varve_install(other, "fresh", NULL, o, &words));
    vv_alloc_sites_mend();
    if (!taken)
        MUST(varve_take_snapshot(db, &export, &words));
    if (!imported && !import_all(&export, fresh))
        DIE("an import can't be completed");
    if (!installed) {
        varve_status st = varve_install(other, "fresh", NULL, o, &words);
        if (st.code != VARVE_NOT_FOUND) /* it was begun: whoever opens it completes it */
            MUST(st);
    }
    varve_options_destroy(o);
    is_copy(other);
    varve_export_release(db, &export);
    end_act();
}

static void damage(const char *path, long from_end) {
    FILE *io = fopen(path, "r+b");
    int byte;
    if (!io || fseek(io, -from_end, SEEK_END) != 0 || (byte = fgetc(io)) == EOF ||
        fseek(io, -from_end, SEEK_END) != 0 || fputc(byte ^ 0x24, io) == EOF || fclose(io) != 0)
        DIE("%s can't be damaged", path);
}

/* What is damaged can be made anew of what is not: tables' footers, and a manifest of nothing but tables. */
static void story_of_repairs(void) {
    varve_repair_result result;
    open_db();
    write_much();
    MUST(varve_flush(db));
    put(3, NULL);
    delete (4);
    MUST(varve_flush(db));
    put(5, NULL);
    MUST(varve_close(db));
    db = NULL;
    DIR *d = opendir(in_dir("db"));
    for (struct dirent *e; (e = readdir(d));) {
        char path[700];
        size_t bytes = strlen(e->d_name);
        snprintf(path, sizeof path, "%s/%s", in_dir("db"), e->d_name);
        if ((bytes > 4 && strcmp(e->d_name + bytes - 4, ".sst") == 0) || strcmp(e->d_name, "MANIFEST") == 0)
            damage(path, 20);
    }
    closedir(d);
    varve_options *o = options();
    memory_fails();
    bool done = OK(varve_repair(in_dir("db"), o, &(varve_repair_options){0}, &result, &words));
    vv_alloc_sites_mend();
    if (!done)
        MUST(varve_repair(in_dir("db"), o, &(varve_repair_options){0}, &result, &words));
    varve_options_destroy(o);
    if (result.loss_count != 0)
        DIE("%" PRIu64 " losses", result.loss_count);
    end_act();
}

static void story_of_rewinds(void) {
    uint64_t cut, lsn;
    model before;
    open_db();
    write_much();
    lsn = varve_durable_lsn(db);
    before = expected;
    for (unsigned i = 0; i < KEYS; i += 4)
        put(i, NULL);
    MUST(varve_close(db));
    db = NULL;
    varve_options *o = options();
    memory_fails();
    bool done = OK(varve_rewind(in_dir("db"), o, lsn, "tail", &cut, &words));
    vv_alloc_sites_mend();
    if (!done) {
        varve_status st = varve_rewind(in_dir("db"), o, lsn, "tail", &cut, &words);
        /* Begun before, and completed by this call or the opening. */
        if (st.code != VARVE_EXISTS && st.code != VARVE_TRIMMED)
            MUST(st);
    }
    varve_options_destroy(o);
    memcpy(expected.version, before.version, sizeof expected.version);
    end_act();
}

static void story_of_archives(void) {
    varve_backup_info info;
    varve_restore_info restored;
    varve_archive_info state;
    varve_archive *archive;
    open_db();
    put(2, NULL);
    char backup[320], to[320], dest[320];
    snprintf(backup, sizeof backup, "%s/backup", dir);
    snprintf(to, sizeof to, "%s/archive", dir);
    snprintf(dest, sizeof dest, "%s/dest", dir);
    MUST(varve_backup(db, backup, NULL, &info, &words));
    memory_fails();
    varve_archive_options o = {.file_bytes = 16 << 10, .sync_interval_us = 1000};
    bool started = OK(varve_archive_start(db, to, &o, &archive, &words));
    write_much();
    if (started) {
        varve_archive_get(archive, &state);
        varve_archive_stop(archive);
    }
    vv_alloc_sites_mend();
    MUST(varve_archive_start(db, to, &o, &archive, &words));
    put(12, NULL);
    varve_archive_stop(archive);
    if (!started)
        end_act();
    memory_fails();
    bool back =
        OK(varve_restore(backup, dest, &(varve_restore_options){.archive_dir = to}, &restored, &words));
    vv_alloc_sites_mend();
    if (!back)
        is_gone(dest);
    if (started) {
        if (!back)
            MUST(varve_restore(backup, dest, &(varve_restore_options){.archive_dir = to}, &restored, &words));
        is_copy(dest);
    }
    end_act();
}

/* The log of one database is written into another. */
static void story_of_followers(void) {
    static char records[512 << 10];
    varve_wal_cursor *cursor;
    varve_wal_batch b;
    size_t bytes = 0;
    uint64_t applied = 0, lsn;
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    open_db();
    write_much();
    put(8, &(varve_write_options){.client_id = 5, .sequence = 9});
    size_t epoch_count = varve_epochs_get(db, epochs);
    MUST(varve_wal_cursor_open(db, 0, &cursor, NULL));
    while (varve_ok(varve_wal_cursor_next(cursor, &b)))
        bytes += varve_wal_batch_encode(&b, records + bytes, sizeof records - bytes);
    if (bytes > sizeof records)
        DIE("%zu bytes of records", bytes);
    varve_wal_cursor_close(cursor);
    lsn = varve_durable_lsn(db);
    varve_options *o = options();
    varve_db *follower;
    MUST(varve_open(in_dir("follower"), o, &follower, &words));
    varve_options_destroy(o);
    memory_fails();
    bool follows = OK(varve_follow_epochs(follower, epochs, epoch_count, &words));
    bool all = follows && OK(varve_apply(follower, records, bytes, &applied, &words));
    vv_alloc_sites_mend();
    if (!follows)
        MUST(varve_follow_epochs(follower, epochs, epoch_count, &words));
    /* Some of the first may be applied, which is known: here it is all, one by one, from the cursor. */
    MUST(varve_wal_cursor_open(db, varve_durable_lsn(follower), &cursor, NULL));
    while (!all && varve_ok(varve_wal_cursor_next(cursor, &b))) {
        bytes = varve_wal_batch_encode(&b, records, sizeof records);
        MUST(varve_apply(follower, records, bytes, &applied, &words));
    }
    varve_wal_cursor_close(cursor);
    if (varve_durable_lsn(follower) != lsn)
        DIE("the follower has LSN %" PRIu64 " of %" PRIu64, varve_durable_lsn(follower), lsn);
    MUST(varve_close(follower));
    is_copy(in_dir("follower"));
    end_act();
}

/* ---- in the parent ---- */

static const char *const plain[] = {"IO_BACKEND",    "posix",       "COMPACTION_STYLE",
                                    "tiered",        "COMPRESSION", "zstd",
                                    "MEMTABLE_TYPE", "skiplist",    NULL};
static const char *const rich[] = {"IO_BACKEND", "auto",  "COMPACTION_STYLE", "leveled", "COMPRESSION", "lz4",
                                   "INDEX_TYPE", "dense", "MEMTABLE_TYPE",    "btree",   NULL};
static const char *const hashed[] = {"IO_BACKEND", "posix", "MEMTABLE_TYPE", "hashmap", NULL};

static char scratch[200]; /* holds one directory for each run */
static unsigned run_count;

static void remove_scratch(void) {
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    if (system(command) != 0)
        cr_log_warn("%s is left over", scratch);
}

#ifdef VV_ASAN
int __lsan_do_recoverable_leak_check(void);
#endif

/* Says so where it can be told. (At exit() it would be told too, and Criterion's own handlers would run.) */
static bool leaks(void) {
#ifdef VV_ASAN
    return __lsan_do_recoverable_leak_check() != 0;
#else
    return false;
#endif
}

/* 0: all is well. */
static int run(void (*story)(void), const char *const *options_of_it) {
    int status = 0;
    snprintf(dir, sizeof dir, "%s/%u", scratch, run_count++);
    variant = options_of_it;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (mkdir(dir, 0750) != 0)
            _exit(8);
        alarm(CHILD_LIMIT_S);
        story();
        MUST(varve_close(db));
        db = NULL;
        open_db();
        read_all();
        MUST(varve_close(db));
        _exit(leaks() ? 7 : 0);
    }
    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    cr_assert_eq(system(command), 0);
    return status;
}

static void tell(void (*story)(void), const char *name, const char *const *options_of_it) {
#if defined(VV_TSAN) /* it knows no threads that begin in a child of a process that had some */
    cr_skip_test("a child with threads of its own is beyond ThreadSanitizer");
#endif
    static const uint64_t times[] = {1, 2, 5};
    const char *long_mode = getenv("VARVE_TEST_ALLOC");
    unsigned time_count = long_mode ? VV_MIN((unsigned)atoi(long_mode), VV_ARRAY_COUNT(times)) : 1;
    uint64_t start = vv_clock_mono_ns(), runs = 0, failed = 0, skipped = 0;
    uint64_t seed = vv_test_seed();
    struct stat info;
    bool shm = stat("/dev/shm", &info) == 0 && access("/dev/shm", W_OK) == 0;
    snprintf(scratch, sizeof scratch, "%s/varve-no-memory-%d", shm ? "/dev/shm" : vv_tempdir(),
             (int)getpid());
    cr_assert_eq(mkdir(scratch, 0700), 0);
    vv_alloc_sites_begin();
    plan = (struct plan){0};
    cr_assert_eq(run(story, options_of_it), 0, "%s: fails with memory", name);
    uint32_t known = 0;
    while (vv_alloc_sites_get(known))
        known++;
    for (uint32_t i = 0; vv_alloc_sites_get(i); i++) {
        /* From a random one on, those that failures have shown last. */
        const vv_alloc_site *site = vv_alloc_sites_get(i < known ? (uint32_t)((i + seed) % known) : i);
        if (!long_mode && runs >= SHORT_RUNS && vv_clock_mono_ns() - start > SHORT_NS) {
            skipped++;
            continue;
        }
        for (unsigned t = 0; t < time_count; t++)
            for (unsigned how = 0; how < 2; how++) {
                plan = (struct plan){.site = site->id, .n = times[t], .how = (vv_alloc_failure)how};
                int status = run(story, options_of_it);
                runs++;
                if (status == 0)
                    continue;
                failed++;
                fprintf(stderr, "%s, allocation %llu of this site %s: %s %d\n", name,
                        (unsigned long long)plan.n, how ? "and all from then on" : "once",
                        WIFSIGNALED(status) ? "signal" : "exit",
                        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
                vv_alloc_site_print(site);
            }
    }
    remove_scratch();
    uint32_t count = known;
    while (vv_alloc_sites_get(count))
        count++;
    printf("%s: %u sites (%u of them only after a failure) called from %u places; %llu runs, %llu sites left "
           "out, %llu failed\n",
           name, count, count - known, vv_alloc_sites_callers(), (unsigned long long)runs,
           (unsigned long long)skipped, (unsigned long long)failed);
    cr_assert_eq(failed, 0);
}

#define STORY(name, options)                                                                                 \
    Test(db_no_memory, name##_##options) {                                                                   \
        tell(story_of_##name, #name " " #options, options);                                                  \
    }

STORY(writes, plain)
STORY(writes, rich)
STORY(writes, hashed)
STORY(tables, plain)
STORY(tables, rich)
STORY(opening, plain)
STORY(opening, rich)
STORY(big_records, plain)
STORY(replication, plain)
STORY(backups, rich)
STORY(imports, plain)
STORY(repairs, rich)
STORY(rewinds, plain)
STORY(archives, plain)
STORY(followers, rich)
