/*
 * Reads that don't wait, and many at once.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_read_async, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

/* ---- what a callback was told ---- */

typedef struct answer {
    _Atomic int calls;
    pthread_t thread;
    varve_status status;
    uint64_t lsn;
    size_t bytes;
    char text[32];
} answer;

static void take(void *arg, varve_status status, varve_value *value) {
    answer *a = arg;
    a->thread = pthread_self();
    a->status = status;
    a->lsn = value->lsn;
    a->bytes = value->bytes;
    memcpy(a->text, value->bytes ? value->data : "", value->bytes < 31 ? value->bytes : 31);
    varve_value_release(value);
    atomic_fetch_add(&a->calls, 1);
}

static void await(answer *a) {
    while (atomic_load(&a->calls) == 0)
        sched_yield();
    cr_assert_eq(atomic_load(&a->calls), 1);
}

static size_t key_of(uint64_t i, char out[32]) {
    return (size_t)snprintf(out, 32, "key%08" PRIu64, i);
}

static size_t value_of(uint64_t i, char out[32]) {
    return (size_t)snprintf(out, 32, "value of %" PRIu64, i);
}

/* Even numbers below 2 * count, in tables; the cache is too small to keep them. */
static void fill(uint64_t count) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[32], value[32];
    for (uint64_t i = 0; i < count; i++) {
        size_t key_bytes = key_of(2 * i, key), value_bytes = value_of(2 * i, value);
        cr_assert(varve_ok(varve_put(fx_db, key, key_bytes, value, value_bytes, &async, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
}

static varve_options *cold(void) {
    return fx_options("CACHE_CAPACITY", "0", "BLOOM_FILTER_FALSE_POSITIVE_RATE", "0", NULL);
}

/* ---- varve_get_async ---- */

Test(db_read_async, what_is_in_memory_is_answered_here_and_now) {
    answer found = {0}, absent = {0}, deleted = {0}, bad = {0}, old = {0};
    fx_open();
    fx_put("key", "1");
    varve_snapshot *snapshot = varve_snapshot_create(fx_db);
    fx_put("key", "2");
    fx_put("gone", "1");
    fx_delete("gone");
    varve_get_async(fx_db, NULL, "key", 3, take, &found);
    varve_get_async(fx_db, NULL, "absent", 6, take, &absent);
    varve_get_async(fx_db, NULL, "gone", 4, take, &deleted);
    varve_get_async(fx_db, NULL, "", 0, take, &bad);
    varve_get_async(fx_db, snapshot, "key", 3, take, &old);
    answer *all[] = {&found, &absent, &deleted, &bad, &old};
    for (size_t i = 0; i < VV_ARRAY_COUNT(all); i++) {
        cr_assert_eq(atomic_load(&all[i]->calls), 1, "answer %zu was not given before the return", i);
        cr_assert(pthread_equal(all[i]->thread, pthread_self()));
    }
    cr_assert(varve_ok(found.status));
    cr_assert_str_eq(found.text, "2");
    cr_assert_eq(absent.status.code, VARVE_NOT_FOUND);
    cr_assert_eq(deleted.status.code, VARVE_NOT_FOUND);
    cr_assert_eq(bad.status.code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(bad.status.reason, VV_SUB_KEY_EMPTY);
    cr_assert_str_eq(old.text, "1");
    varve_snapshot_release(fx_db, snapshot);
    fx_close();
}

Test(db_read_async, a_cold_read_is_answered_on_the_reader_thread) {
    fx_open_with(cold());
    fill(1000);
    answer found = {0}, absent = {0};
    char key[32];
    size_t key_bytes = key_of(500, key);
    varve_get_async(fx_db, NULL, key, key_bytes, take, &found);
    memset(key, 'x', sizeof key); /* the key was copied */
    await(&found);
    cr_assert(varve_ok(found.status));
    cr_assert_str_eq(found.text, "value of 500");
    cr_assert(!pthread_equal(found.thread, pthread_self()));
    key_bytes = key_of(501, key);
    varve_get_async(fx_db, NULL, key, key_bytes, take, &absent);
    await(&absent);
    cr_assert_eq(absent.status.code, VARVE_NOT_FOUND);
    fx_close();
}

Test(db_read_async, a_hundred_thousand_at_random_are_what_blocking_reads_say) {
    enum { READS = 100000, KEYS = 20000 };
    uint64_t rng = vv_test_seed();
    fx_open_with(fx_options("CACHE_CAPACITY", "256KiB", "MEMTABLE_SIZE", "256KiB", NULL));
    fill(KEYS);
    answer *answers = calloc(READS, sizeof *answers);
    uint64_t *numbers = calloc(READS, sizeof *numbers);
    for (uint64_t i = 0; i < READS; i++) {
        char key[32];
        numbers[i] = vv_test_random(&rng) % (2 * KEYS + 2);
        size_t key_bytes = key_of(numbers[i], key);
        varve_get_async(fx_db, NULL, key, key_bytes, take, &answers[i]);
    }
    for (uint64_t i = 0; i < READS; i++)
        await(&answers[i]);
    for (uint64_t i = 0; i < READS; i++) {
        char key[32], value[32];
        bool present = numbers[i] % 2 == 0 && numbers[i] < 2 * KEYS;
        value_of(numbers[i], value);
        cr_assert_eq(answers[i].status.code, present ? VARVE_OK : VARVE_NOT_FOUND);
        if (present)
            cr_assert_str_eq(answers[i].text, value);
        if (i % 50 == 0) {
            key_of(numbers[i], key);
            fx_expect(key, present ? value : NULL);
        }
    }
    free(answers);
    free(numbers);
    fx_close();
}

Test(db_read_async, closing_waits_for_all_answers) {
    enum { READS = 2000 };
    fx_open_with(cold());
    fill(READS);
    answer *answers = calloc(READS, sizeof *answers);
    for (uint64_t i = 0; i < READS; i++) {
        char key[32];
        size_t key_bytes = key_of(2 * i, key);
        varve_get_async(fx_db, NULL, key, key_bytes, take, &answers[i]);
    }
    fx_close();
    for (uint64_t i = 0; i < READS; i++) {
        cr_assert_eq(atomic_load(&answers[i].calls), 1);
        cr_assert(varve_ok(answers[i].status));
    }
    free(answers);
}

static void damage_table(void) {
    DIR *d = opendir(vv_tempdir_path("db"));
    char path[512] = "";
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".sst"))
            snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), e->d_name);
    closedir(d);
    FILE *f = fopen(path, "r+b");
    cr_assert(f);
    fseek(f, 4096 + 1000, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, 4096 + 1000, SEEK_SET);
    fputc(byte ^ 0x40, f);
    fclose(f);
}

Test(db_read_async, a_damaged_block_reaches_the_callback) {
    enum { READS = 1000 };
    fx_open_with(cold());
    fill(READS);
    fx_close();
    damage_table();
    fx_open_with(cold());
    answer *answers = calloc(READS, sizeof *answers);
    int damaged = 0, sound = 0;
    for (uint64_t i = 0; i < READS; i++) {
        char key[32];
        size_t key_bytes = key_of(2 * i, key);
        varve_get_async(fx_db, NULL, key, key_bytes, take, &answers[i]);
    }
    for (uint64_t i = 0; i < READS; i++) {
        char key[32];
        varve_value v;
        size_t key_bytes = key_of(2 * i, key);
        await(&answers[i]);
        varve_status st = varve_get(fx_db, key, key_bytes, &v);
        varve_value_release(&v);
        cr_assert_eq(answers[i].status.code, st.code, "key %s", key);
        damaged += st.code == VARVE_CORRUPTION;
        sound += st.code == VARVE_OK;
    }
    cr_assert_gt(damaged, 0);
    cr_assert_gt(sound, damaged);
    cr_assert_eq(damaged + sound, READS);
    free(answers);
    fx_close();
}

static _Atomic bool reads_fail;

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)name;
    return atomic_load(&reads_fail) && strcmp(op, "read") == 0 ? vv_status_errno(EIO) : VV_STATUS_OK;
}

Test(db_read_async, a_read_that_fails_is_said_and_the_next_one_works) {
    varve_options *o = cold();
    vv_error err;
    cr_assert(vv_ok(vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    fill(100);
    fx_expect("key00000000", "value of 0"); /* the table is open */
    answer failed = {0}, fine = {0};
    atomic_store(&reads_fail, true);
    varve_get_async(fx_db, NULL, "key00000002", 11, take, &failed);
    await(&failed);
    cr_assert_eq(failed.status.code, VARVE_IO);
    atomic_store(&reads_fail, false);
    varve_get_async(fx_db, NULL, "key00000002", 11, take, &fine);
    await(&fine);
    cr_assert(varve_ok(fine.status));
    fx_close();
}

/* ---- varve_multi_get ---- */

Test(db_read_async, multi_get_answers_in_place_more_keys_than_the_ring_is_deep) {
    enum { KEYS = 1500 };
    uint64_t rng = vv_test_seed();
    fx_open_with(cold());
    fill(KEYS);
    varve_lookup *lookups = calloc(KEYS, sizeof *lookups);
    char(*keys)[32] = calloc(KEYS, sizeof *keys);
    uint64_t *numbers = calloc(KEYS, sizeof *numbers);
    for (int i = 0; i < KEYS; i++) {
        numbers[i] = vv_test_random(&rng) % (2 * KEYS);
        lookups[i] = (varve_lookup){.key = keys[i], .key_bytes = key_of(numbers[i], keys[i])};
    }
    lookups[7].key_bytes = 0;
    cr_assert(varve_ok(varve_multi_get(fx_db, NULL, lookups, KEYS)));
    for (int i = 0; i < KEYS; i++) {
        char value[32];
        if (i == 7) {
            cr_assert_eq(lookups[i].status.code, VARVE_INVALID_ARGUMENT);
        } else if (numbers[i] % 2) {
            cr_assert_eq(lookups[i].status.code, VARVE_NOT_FOUND);
        } else {
            size_t bytes = value_of(numbers[i], value);
            cr_assert(varve_ok(lookups[i].status));
            cr_assert(lookups[i].value.bytes == bytes && memcmp(lookups[i].value.data, value, bytes) == 0);
        }
        varve_value_release(&lookups[i].value);
    }
    cr_assert(varve_ok(varve_multi_get(fx_db, NULL, NULL, 0)), "nothing to look up");
    free(lookups);
    free(keys);
    free(numbers);
    fx_close();
}

Test(db_read_async, multi_get_at_a_snapshot_sees_its_state) {
    varve_lookup lookups[2] = {{.key = "a", .key_bytes = 1}, {.key = "b", .key_bytes = 1}};
    fx_open();
    fx_put("a", "old");
    varve_snapshot *snapshot = varve_snapshot_create(fx_db);
    fx_put("a", "new");
    fx_put("b", "new");
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert(varve_ok(varve_multi_get(fx_db, snapshot, lookups, 2)));
    cr_assert(varve_ok(lookups[0].status));
    cr_assert_eq(memcmp(lookups[0].value.data, "old", 3), 0);
    cr_assert_eq(lookups[1].status.code, VARVE_NOT_FOUND);
    varve_value_release(&lookups[0].value);
    varve_snapshot_release(fx_db, snapshot);
    fx_close();
}

static _Atomic bool writer_stops;

/* Batches that keep all eight keys equal, with flushes and merges in between. */
static void *write_equal(void *arg) {
    varve_batch *b = varve_batch_create();
    (void)arg;
    for (uint64_t n = 0; !atomic_load(&writer_stops); n++) {
        varve_batch_clear(b);
        for (char key = 'a'; key < 'i'; key++)
            cr_assert(varve_ok(varve_batch_put(b, &key, 1, &n, sizeof n)));
        cr_assert(varve_ok(varve_write(fx_db, b, NULL, NULL)));
        if (n % 16 == 0)
            cr_assert(varve_ok(varve_flush(fx_db)));
    }
    varve_batch_destroy(b);
    return NULL;
}

Test(db_read_async, multi_get_sees_one_state_while_others_write) {
    pthread_t writer;
    fx_open_with(cold());
    for (char key = 'a'; key < 'i'; key++)
        cr_assert(varve_ok(varve_put(fx_db, &key, 1, "\0\0\0\0\0\0\0", 8, NULL, NULL)));
    pthread_create(&writer, NULL, write_equal, NULL);
    for (int i = 0; i < 1500; i++) {
        varve_lookup lookups[8];
        uint64_t values[8];
        for (int k = 0; k < 8; k++)
            lookups[k] = (varve_lookup){.key = &"abcdefgh"[k], .key_bytes = 1};
        cr_assert(varve_ok(varve_multi_get(fx_db, NULL, lookups, 8)));
        for (int k = 0; k < 8; k++) {
            cr_assert(varve_ok(lookups[k].status));
            memcpy(&values[k], lookups[k].value.data, 8);
            varve_value_release(&lookups[k].value);
            cr_assert(k == 0 || values[k] == values[0], "keys of two states");
        }
    }
    atomic_store(&writer_stops, true);
    pthread_join(writer, NULL);
    fx_close();
}
