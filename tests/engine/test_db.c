#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/engine/db_fixture.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

Test(db, what_was_put_is_got_overwritten_and_deleted) {
    fx_open();
    fx_expect("a", NULL);
    cr_assert_eq(fx_put("a", "1"), 1);
    cr_assert_eq(fx_put("b", ""), 2);
    fx_expect("a", "1");
    fx_expect("b", "");
    cr_assert_eq(fx_put("a", "2"), 3);
    fx_expect("a", "2");
    cr_assert_eq(fx_delete("a"), 4);
    fx_expect("a", NULL);
    fx_expect("b", "");
    cr_assert_eq(fx_delete("never there"), 5);
    cr_assert_eq(fx_put("a", "3"), 6);
    fx_expect("a", "3");
    fx_close();
}

Test(db, a_clean_close_and_open_keeps_everything) {
    fx_open();
    fx_put("kept", "yes");
    fx_put("gone", "x");
    fx_delete("gone");
    fx_close();
    fx_open();
    fx_expect("kept", "yes");
    fx_expect("gone", NULL);
    cr_assert_eq(fx_put("more", "1"), 4, "LSNs go on where they were");
    fx_close();
    fx_open();
    fx_expect("more", "1");
    cr_assert_eq(fx_stats().last_lsn, 4);
    fx_close();
}

Test(db, reads_find_what_was_flushed) {
    fx_open();
    fx_put("a", "old");
    fx_put("b", "kept");
    fx_put("c", "deleted later");
    cr_assert(varve_ok(varve_flush(fx_db)));
    varve_stats s = fx_stats();
    cr_assert_eq(s.sstable_count, 1);
    cr_assert_eq(s.flushed_lsn, 3);
    cr_assert_eq(s.immutable_count, 0);
    fx_put("a", "new");
    fx_delete("c");
    fx_expect("a", "new");
    fx_expect("b", "kept");
    fx_expect("c", NULL);
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert_eq(fx_stats().sstable_count, 2);
    for (int round = 0; round < 2; round++) {
        fx_expect("a", "new");
        fx_expect("b", "kept");
        fx_expect("c", NULL);
        fx_expect("bb", NULL);
        fx_close();
        fx_open();
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert_eq(fx_stats().sstable_count, 2, "an empty memtable is not flushed");
    fx_close();
}

Test(db, bad_keys_and_values_are_refused_and_change_nothing) {
    fx_open_with(fx_options("MAX_VALUE_SIZE", "1KiB", NULL));
    char *big = calloc(1, 65536);
    static const struct {
        size_t key_bytes, value_bytes;
        const char *reason;
    } cases[] = {{0, 1, "KEY_EMPTY"}, {65536, 1, "KEY_TOO_LONG"}, {1, 1025, "VALUE_TOO_LARGE"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        varve_status st = varve_put(fx_db, big, cases[i].key_bytes, big, cases[i].value_bytes, NULL, NULL);
        cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
        cr_assert_str_eq(varve_reason_name(st.reason), cases[i].reason);
    }
    varve_value v;
    cr_assert_eq(varve_get(fx_db, big, 0, &v).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_get(fx_db, big, 65536, &v).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_delete(fx_db, big, 0, NULL, NULL).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(fx_stats().last_lsn, 0);
    cr_assert(varve_ok(varve_put(fx_db, big, 65535, big, 1024, NULL, NULL)),
              "the limits themselves are fine");
    free(big);
    fx_close();
}

Test(db, a_batch_takes_an_lsn_for_each_operation_and_the_later_of_two_wins) {
    fx_open();
    varve_batch *b = varve_batch_create();
    cr_assert_eq(varve_write(fx_db, b, NULL, NULL).code, VARVE_INVALID_ARGUMENT, "an empty batch is refused");
    cr_assert(varve_ok(varve_batch_put(b, "x", 1, "1", 1)));
    cr_assert(varve_ok(varve_batch_put(b, "y", 1, "2", 1)));
    cr_assert(varve_ok(varve_batch_delete(b, "x", 1)));
    cr_assert(varve_ok(varve_batch_put(b, "y", 1, "3", 1)));
    cr_assert_eq(varve_batch_put(b, "", 0, "", 0).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_batch_count(b), 4);
    uint64_t lsn;
    cr_assert(varve_ok(varve_write(fx_db, b, NULL, &lsn)));
    cr_assert_eq(lsn, 4);
    fx_expect("x", NULL);
    fx_expect("y", "3");
    varve_batch_clear(b);
    cr_assert_eq(varve_batch_count(b), 0);
    varve_batch_destroy(b);
    fx_close();
    fx_open();
    fx_expect("x", NULL);
    fx_expect("y", "3");
    fx_close();
}

Test(db, values_of_many_megabytes_survive_flush_and_reopen) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "1MiB", NULL));
    size_t bytes = 9 << 20;
    char *value = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        value[i] = (char)(i * 2654435761u >> 13);
    for (int i = 0; i < 3; i++) {
        char key[8];
        snprintf(key, sizeof key, "big%d", i);
        value[0] = (char)i;
        cr_assert(varve_ok(varve_put(fx_db, key, 4, value, bytes, NULL, NULL)));
    }
    fx_put("small", "1");
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++) {
            char key[8];
            varve_value v;
            snprintf(key, sizeof key, "big%d", i);
            value[0] = (char)i;
            cr_assert(varve_ok(varve_get(fx_db, key, 4, &v)));
            cr_assert(v.bytes == bytes && memcmp(v.data, value, bytes) == 0);
            varve_value_release(&v);
        }
        fx_expect("small", "1");
        fx_close();
        fx_open();
    }
    fx_close();
    free(value);
}

/* ---- many memtables ---- */

#define FILL_KEYS 8000

static void fill(int generation) {
    for (int i = 0; i < FILL_KEYS; i++) {
        char key[32], value[96];
        snprintf(key, sizeof key, "key%08d", i * 7919 % FILL_KEYS);
        snprintf(value, sizeof value, "%d/%d/%060d", generation, i * 7919 % FILL_KEYS, 0);
        varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
        cr_assert(
            varve_ok(varve_put(fx_db, key, strlen(key), value, strlen(value), i % 64 ? &o : NULL, NULL)));
    }
}

static void check_fill(int generation) {
    for (int i = 0; i < FILL_KEYS; i++) {
        char key[32], value[96];
        snprintf(key, sizeof key, "key%08d", i);
        snprintf(value, sizeof value, "%d/%d/%060d", generation, i, 0);
        fx_expect(key, value);
    }
}

Test(db, the_newest_version_wins_over_memtables_and_many_tables) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", "MAX_IMMUTABLE_COUNT", "2", "CACHE_CAPACITY", "1MiB",
                            "TABLE_CACHE_SIZE", "2", NULL));
    for (int generation = 0; generation < 3; generation++) {
        fill(generation);
        check_fill(generation);
    }
    varve_stats s = fx_stats();
    cr_assert_gt(s.flushes, 8);
    cr_assert_eq(s.last_lsn, 3 * FILL_KEYS);
    cr_assert_leq(s.cache_bytes, 1 << 20);
    fx_close();
    fx_open();
    check_fill(2);
    fx_close();
}

Test(db, the_log_is_recycled_when_tables_hold_its_data) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
    for (int i = 0; i < 6; i++)
        fill(i);
    cr_assert(varve_ok(varve_flush(fx_db)));
    varve_stats s = fx_stats();
    cr_assert_eq(s.flushed_lsn, s.last_lsn);
    cr_assert_gt(s.wal_bytes, UINT64_C(5) << 20);
    /* The log's own thread recycles what the flush released. */
    uint64_t deadline = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (fx_stats().wal_segment_count > 2 && vv_clock_mono_ns() < deadline)
        sched_yield();
    cr_assert_leq(fx_stats().wal_segment_count, 2);
    fx_close();
}

Test(db, opening_often_does_not_gather_log_segments) {
    for (int i = 0; i < 20; i++) {
        fx_open();
        fx_put("key", "value");
        cr_assert_leq(fx_stats().wal_segment_count, 6);
        fx_close();
    }
    fx_open();
    cr_assert_eq(fx_stats().last_lsn, 20);
    fx_close();
}

Test(db, a_memtable_is_sealed_when_it_pins_too_much_log) {
    fx_open_with(fx_options("MAX_WAL_SIZE", "1MiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
    for (int i = 0; i < 1500; i++)
        fx_put("same", "small"); /* a block of log each */
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert_gt(fx_stats().flushes, 2);
    fx_expect("same", "small");
    fx_close();
}

Test(db, log_that_was_replayed_counts_for_the_limit_too) {
    for (int i = 0; i < 2; i++) {
        fx_open_with(fx_options("MAX_WAL_SIZE", "1MiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
        while (fx_stats().wal_bytes < 700 * 1024)
            fx_put("same", "small");
        cr_assert_eq(fx_stats().flushes + fx_stats().immutable_count > 0, i == 1);
        fx_close();
    }
}

static uint64_t sealed_count(void) {
    return fx_stats().flushes + fx_stats().immutable_count;
}

/* Each opening takes a segment, and too many of them have the memtable sealed. What that held is behind it.
 */
Test(db, log_of_a_memtable_that_was_sealed_at_open_counts_no_more) {
    for (int i = 0;; i++) {
        cr_assert_lt(i, 10);
        fx_open_with(fx_options("MAX_WAL_SIZE", "1MiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
        if (sealed_count() > 0)
            break;
        while (fx_stats().wal_bytes < 150 * 1024)
            fx_put("same", "small");
        cr_assert_eq(sealed_count(), 0);
        fx_close();
    }
    for (uint64_t bytes = 0; bytes < 800 * 1024; bytes += 4096)
        fx_put("same", "small"); /* a block of log each */
    cr_assert_eq(sealed_count(), 1);
    fx_close();
}

Test(db, the_smallest_memtable_holds_more_than_one_write) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "64KiB", NULL));
    for (int i = 0; i < 10; i++)
        fx_put("same", "small");
    cr_assert_eq(fx_stats().flushes + fx_stats().immutable_count, 0);
    fx_close();
}

/* ---- many threads ---- */

#define WRITERS 16
#define WRITES  300

static _Atomic int readers_stop;

static void *write_some(void *arg) {
    int id = (int)(intptr_t)arg;
    for (int i = 0; i < WRITES; i++) {
        char key[32], value[32];
        uint64_t lsn;
        int key_bytes = snprintf(key, sizeof key, "t%02d-%04d", id, i);
        int value_bytes = snprintf(value, sizeof value, "%d", i * id);
        varve_write_options o = {.durability = i % 5 ? VARVE_DURABILITY_SYNC : VARVE_DURABILITY_ASYNC};
        cr_assert(varve_ok(varve_put(fx_db, key, (size_t)key_bytes, value, (size_t)value_bytes, &o, &lsn)));
        varve_value v;
        cr_assert(varve_ok(varve_get(fx_db, key, (size_t)key_bytes, &v)), "own writes are seen at once");
        cr_assert_eq(v.lsn, lsn);
        varve_value_release(&v);
        /* One counter for all: what is read never goes back. */
        cr_assert(varve_ok(varve_put(fx_db, "counter", 7, value, (size_t)value_bytes, NULL, NULL)));
    }
    return NULL;
}

static void *read_counter(void *arg) {
    (void)arg;
    uint64_t last = 0;
    while (!atomic_load(&readers_stop)) {
        varve_value v;
        varve_status st = varve_get(fx_db, "counter", 7, &v);
        if (st.code == VARVE_NOT_FOUND)
            continue;
        cr_assert(varve_ok(st));
        cr_assert_geq(v.lsn, last, "a newer version was there before");
        last = v.lsn;
        varve_value_release(&v);
    }
    return NULL;
}

Test(db, many_writers_and_readers_agree) {
    pthread_t writers[WRITERS], readers[2];
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", "MAX_IMMUTABLE_COUNT", "1", NULL));
    for (int i = 0; i < 2; i++)
        pthread_create(&readers[i], NULL, read_counter, NULL);
    for (int i = 0; i < WRITERS; i++)
        pthread_create(&writers[i], NULL, write_some, (void *)(intptr_t)i);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    atomic_store(&readers_stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    varve_stats s = fx_stats();
    cr_assert_eq(s.last_lsn, 2 * WRITERS * WRITES);
    cr_assert_lt(s.wal_commits, s.wal_records, "commits are shared");
    fx_close();
    fx_open();
    for (int id = 0; id < WRITERS; id++)
        for (int i = 0; i < WRITES; i++) {
            char key[32], value[32];
            snprintf(key, sizeof key, "t%02d-%04d", id, i);
            snprintf(value, sizeof value, "%d", i * id);
            fx_expect(key, value);
        }
    fx_close();
}

/* ---- asynchronous writes ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t answered;
    uint64_t last_lsn;
    uint64_t groups;
    bool out_of_order;
} async = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void on_written(void *arg, varve_status st, uint64_t lsn) {
    (void)arg;
    pthread_mutex_lock(&async.lock);
    async.answered++;
    async.out_of_order |= !varve_ok(st) || lsn <= async.last_lsn;
    async.last_lsn = lsn;
    pthread_mutex_unlock(&async.lock);
}

static void on_group(void *arg) {
    (void)arg;
    pthread_mutex_lock(&async.lock);
    async.groups++;
    pthread_cond_signal(&async.changed);
    pthread_mutex_unlock(&async.lock);
}

Test(db, callbacks_come_in_order_and_share_commits) {
    varve_options *o = fx_options(NULL);
    varve_options_set_group_callback(o, on_group, NULL);
    fx_open_with(o);
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "k", 1, "v", 1)));
    for (int i = 0; i < 5000; i++)
        varve_write_async(fx_db, b, NULL, on_written, NULL);
    pthread_mutex_lock(&async.lock);
    while (async.answered < 5000)
        pthread_cond_wait(&async.changed, &async.lock);
    cr_assert_not(async.out_of_order);
    cr_assert_eq(async.last_lsn, 5000);
    cr_assert_leq(async.groups, fx_stats().wal_commits);
    cr_assert_lt(fx_stats().wal_commits, 5000);
    pthread_mutex_unlock(&async.lock);
    varve_batch_destroy(b);
    fx_close();
}

Test(db, closing_answers_every_asynchronous_write_first) {
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "k", 1, "v", 1)));
    fx_open();
    for (int i = 0; i < 1000; i++)
        varve_write_async(fx_db, b, NULL, on_written, NULL);
    fx_close();
    cr_assert_eq(async.answered, 1000);
    cr_assert_not(async.out_of_order);
    varve_batch_destroy(b);
    fx_open();
    cr_assert_eq(fx_stats().last_lsn, 1000);
    fx_close();
}

Test(db, an_asynchronous_write_becomes_durable_by_itself) {
    fx_open_with(fx_options("WAL_SYNC_INTERVAL", "1ms", NULL));
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    cr_assert(varve_ok(varve_put(fx_db, "a", 1, "1", 1, &o, NULL)));
    fx_expect("a", "1");
    /* The first goes through the queue, the others are committed on this thread. */
    for (uint64_t lsn = 1; lsn < 4; lsn++) {
        for (int i = 0; i < 10000 && fx_stats().durable_lsn < lsn; i++)
            usleep(1000); /* polls a condition, with a bound */
        cr_assert_eq(fx_stats().durable_lsn, lsn);
        cr_assert(varve_ok(varve_put(fx_db, "a", 1, "1", 1, &o, NULL)));
    }
    fx_close();
}

static pthread_t answering_thread;

static void on_written_where(void *arg, varve_status st, uint64_t lsn) {
    answering_thread = pthread_self();
    on_written(arg, st, lsn);
}

Test(db, an_asynchronous_write_with_a_callback_is_committed_by_its_own_thread) {
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "k", 1, "v", 1)));
    varve_options *options = fx_options("WAL_SYNC_INTERVAL", "10s", NULL);
    varve_options_set_group_callback(options, on_group, NULL);
    fx_open_with(options);
    fx_put("k", "before"); /* what comes behind it has room in the log */
    uint64_t at_once = 0;
    for (uint64_t i = 1; i <= 1000; i++) {
        answering_thread = 0;
        varve_write_async(fx_db, b, &o, on_written_where, NULL);
        pthread_mutex_lock(&async.lock);
        while (async.answered < i)
            pthread_cond_wait(&async.changed, &async.lock);
        at_once += pthread_equal(answering_thread, pthread_self()) != 0;
        pthread_mutex_unlock(&async.lock);
    }
    /* All but those that find the writer thread having a look at when to sync. */
    cr_assert_gt(at_once, 900, "%" PRIu64 " of 1000", at_once);
    cr_assert_not(async.out_of_order);
    fx_expect("k", "v");
    fx_close();
    varve_batch_destroy(b);
}

Test(db, a_write_does_not_overtake_one_that_its_thread_did_not_wait_for) {
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "k", 1, "before", 6)));
    fx_open();
    for (uint64_t i = 1; i <= 2000; i++) {
        uint64_t lsn;
        varve_write_async(fx_db, b, &o, on_written, NULL);
        cr_assert(varve_ok(varve_put(fx_db, "k", 1, "behind", 6, &o, &lsn)));
        cr_assert_eq(lsn, 2 * i);
    }
    fx_expect("k", "behind");
    fx_close();
    varve_batch_destroy(b);
}

/* ---- opening ---- */

Test(db, a_second_opening_is_refused) {
    varve_db *second;
    fx_open();
    varve_status st = varve_open(vv_tempdir_path("db"), NULL, &second, &fx_err);
    cr_assert_eq(st.code, VARVE_LOCKED);
    cr_assert_not_null(strstr(fx_err.text, "locked"), "%s", fx_err.text);
    cr_assert_null(second);
    fx_expect("still works", NULL);
    fx_close();
    fx_open();
    fx_close();
}

static varve_status try_open(void) {
    varve_options *o = fx_options(NULL);
    varve_status st = varve_open(vv_tempdir_path("db"), o, &fx_db, &fx_err);
    varve_options_destroy(o);
    return st;
}

Test(db, a_file_where_the_directory_should_be_is_refused) {
    FILE *f = fopen(vv_tempdir_path("db"), "w");
    fclose(f);
    varve_status st = try_open();
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_str_eq(varve_reason_name(st.reason), "NOT_DIRECTORY");
}

Test(db, a_missing_parent_is_named) {
    varve_status st = varve_open(vv_tempdir_path("no/such"), NULL, &fx_db, &fx_err);
    cr_assert_eq(st.code, VARVE_NOT_FOUND);
    cr_assert_not_null(strstr(fx_err.text, "no/such"), "%s", fx_err.text);
}

static void damage(const char *name, long at) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), name);
    FILE *f = fopen(path, "r+b");
    cr_assert_not_null(f, "%s", path);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 0x55, f);
    fclose(f);
}

Test(db, a_damaged_manifest_is_refused_and_nothing_is_changed) {
    fx_open();
    fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();
    damage("MANIFEST", 30);
    varve_status st = try_open();
    cr_assert_eq(st.code, VARVE_CORRUPTION);
    cr_assert_not_null(strstr(fx_err.text, "MANIFEST: checksum mismatch"), "%s", fx_err.text);
    damage("MANIFEST", 30);
    fx_open();
    fx_expect("a", "1");
    fx_close();
}

Test(db, a_missing_manifest_beside_data_is_damage_and_not_a_new_database) {
    fx_open();
    fx_put("a", "1");
    fx_close();
    char path[512], aside[512];
    snprintf(path, sizeof path, "%s/MANIFEST", vv_tempdir_path("db"));
    snprintf(aside, sizeof aside, "%s/elsewhere", vv_tempdir_path("db"));
    cr_assert_eq(rename(path, aside), 0);
    cr_assert_eq(try_open().code, VARVE_CORRUPTION);
    cr_assert_eq(rename(aside, path), 0);
    fx_open();
    fx_expect("a", "1");
    fx_close();
}

Test(db, a_missing_log_is_refused_even_if_nothing_was_flushed) {
    char path[512];
    fx_open();
    fx_put("a", "1");
    fx_close();
    for (int i = 1; i <= 3; i++) { /* the segment that holds the record, and then all of them */
        snprintf(path, sizeof path, "%s/wal-%016x.log", vv_tempdir_path("db"), i);
        if (i == 1 || access(path, F_OK) == 0)
            cr_assert_eq(unlink(path), 0);
        varve_status st = try_open();
        cr_assert_eq(st.code, VARVE_CORRUPTION, "segment %d: %s", i, varve_code_name(st.code));
        cr_assert_str_eq(varve_reason_name(st.reason), "LOG_GAP");
    }
}

Test(db, a_missing_table_is_refused) {
    char path[512];
    fx_open();
    fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();
    snprintf(path, sizeof path, "%s/0000000000000001.sst", vv_tempdir_path("db"));
    cr_assert_eq(unlink(path), 0);
    varve_status st = try_open();
    cr_assert_eq(st.code, VARVE_CORRUPTION);
    cr_assert_not_null(strstr(fx_err.text, "0000000000000001.sst: the manifest names this table"), "%s",
                       fx_err.text);
}

Test(db, a_table_that_vanishes_while_it_is_needed_is_damage_and_not_a_missing_key) {
    fx_open();
    fx_put("key", "value");
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close(); /* it has the new table open, and its block in the cache */
    fx_open();
    cr_assert_eq(unlink(vv_tempdir_path("db/0000000000000001.sst")), 0);
    varve_value v;
    varve_status st = varve_get(fx_db, "key", 3, &v);
    cr_assert_eq(st.code, VARVE_CORRUPTION, "%s", varve_code_name(st.code));
    varve_value_release(&v);
    fx_close();
}

Test(db, leftovers_of_a_crash_are_removed_and_other_files_are_not) {
    static const char *const names[] = {
        "00000000000000ff.sst", "MANIFEST.tmp", "notes.txt", "mine.sst", "cafe.sst", "1.sst",
        "00000000000000FE.sst"};
    char path[512];
    fx_open();
    fx_close();
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++) {
        snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), names[i]);
        fclose(fopen(path, "w"));
    }
    fx_open();
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++) {
        snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), names[i]);
        cr_assert_eq(access(path, F_OK) == 0, i >= 2, "%s", names[i]);
    }
    fx_close();
}

Test(db, a_damaged_block_is_corruption_for_its_keys_alone) {
    char value[4000];
    memset(value, 'v', sizeof value);
    fx_open();
    for (int i = 0; i < 10; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, 2, value, sizeof value, NULL, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();
    damage("0000000000000001.sst", 5 * 4096 + 2000);
    fx_open();
    int bad = 0;
    for (int i = 0; i < 10; i++) {
        char key[8];
        varve_value v;
        snprintf(key, sizeof key, "k%d", i);
        varve_status st = varve_get(fx_db, key, 2, &v);
        bad += st.code == VARVE_CORRUPTION;
        cr_assert(varve_ok(st) || st.code == VARVE_CORRUPTION);
        varve_value_release(&v);
    }
    cr_assert_eq(bad, 1);
    fx_put("k5", "rewritten");
    fx_expect("k5", "rewritten");
    fx_close();
}

Test(db, options_of_the_contract_have_their_names_and_defaults) {
    static const char *const expected[][2] = {{"BLOCK_SIZE", "4KiB"},        {"MEMTABLE_SIZE", "64MiB"},
                                              {"MEMTABLE_TYPE", "skiplist"}, {"MAX_IMMUTABLE_COUNT", "4"},
                                              {"WAL_SEGMENT_SIZE", "64MiB"}, {"WAL_BUFFER_SIZE", "8"},
                                              {"IO_BACKEND", "auto"},        {"MAX_VALUE_SIZE", "32MiB"}};
    varve_options *o = varve_options_create();
    char text[64];
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        cr_assert(varve_options_get(o, expected[i][0], text, sizeof text));
        cr_assert_str_eq(text, expected[i][1]);
    }
    varve_option_info info;
    size_t count = 0;
    while (varve_options_describe(count, &info)) {
        cr_assert(varve_options_get(o, info.key, text, sizeof text));
        cr_assert_str_eq(text, info.default_value, "%s", info.key);
        cr_assert(*info.meaning && *info.allowed);
        count++;
    }
    cr_assert_gt(count, 10);
    cr_assert_eq(varve_options_set(o, "BLOCK_SIZE", "5000", &fx_err).code, VARVE_INVALID_ARGUMENT);
    varve_options_destroy(o);
}
