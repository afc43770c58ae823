/*
 * A block that has gone bad under a running database: an error for the keys in it, and for nothing else. No
 * merge spreads it, drops it, or is held up by it for ever.
 */
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/slice.h"
#include "tests/engine/db_fixture.h"

#define KEYS   400
#define WAIT_S 60

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_bad_block, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 240);

static const char *key_of(int i) {
    static char key[16];
    snprintf(key, sizeof key, "key%05d", i);
    return key;
}

/* The keys from `from` on, one in so many, in a table of their own. */
static void write_run(int from, int step, int round) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char value[200];
    for (int i = from; i < KEYS; i += step) {
        int bytes = snprintf(value, sizeof value, "%d of %0100d", round, i);
        cr_assert(varve_ok(varve_put(fx_db, key_of(i), 8, value, (size_t)bytes, &async, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
}

/* The newest table: its name. */
static const char *newest_table(void) {
    static char name[600];
    glob_t found;
    cr_assert_eq(glob(vv_tempdir_path("db/*.sst"), 0, NULL, &found), 0);
    snprintf(name, sizeof name, "%s", found.gl_pathv[found.gl_pathc - 1]);
    globfree(&found);
    return name;
}

static void flip(const char *path, off_t at) {
    uint8_t byte;
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

static void open_db(const char *style) {
    fx_open_with(
        fx_options("COMPACTION_STYLE", style, "COMPACTION_THRESHOLD", "3", "MAX_TABLE_SIZE", "64KiB", NULL));
}

/* Keys that can't be read; every other one has the value of its last round. rounds[i]: 0: never written. */
static int count_bad(const int rounds[KEYS]) {
    int bad = 0;
    for (int i = 0; i < KEYS; i++) {
        char want[200];
        varve_value v;
        varve_status st = varve_get(fx_db, key_of(i), 8, &v);
        if (st.code == VARVE_CORRUPTION) {
            bad++;
            varve_value_release(&v);
            continue;
        }
        snprintf(want, sizeof want, "%d of %0100d", rounds[i], i);
        cr_assert(varve_ok(st), "key %d: %s", i, varve_code_name(st.code));
        cr_assert(v.bytes == strlen(want) && memcmp(v.data, want, v.bytes) == 0, "key %d: '%.20s'", i,
                  (const char *)v.data);
        varve_value_release(&v);
    }
    return bad;
}

static void check_style(const char *style) {
    int rounds[KEYS];
    char damaged[600];
    open_db(style);
    write_run(0, 1, 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    write_run(0, 2, 2); /* every second key: its blocks hide half of the older ones */
    for (int i = 0; i < KEYS; i++)
        rounds[i] = i % 2 ? 1 : 2;
    snprintf(damaged, sizeof damaged, "%s", newest_table());
    flip(damaged, 4096 + 100);
    /* Merges are due from the third run on, and meet the bad block. The same few keys in each. */
    uint64_t deadline_ns = vv_clock_mono_ns() + WAIT_S * VV_NS_PER_S;
    int round = 3;
    for (; round < 6; round++)
        write_run(1, 40, round);
    while (fx_stats().damaged_tables == 0) {
        sched_yield();
        cr_assert_lt(vv_clock_mono_ns(), deadline_ns, "the damage was never met");
    }
    for (; round < 40; round++)
        write_run(1, 40, round);
    for (int i = 1; i < KEYS; i += 40)
        rounds[i] = round - 1;
    cr_assert_eq(fx_stats().damaged_tables, 1);
    /* They go on around it: without, every flush is a run for ever. */
    while (fx_stats().sorted_run_count > 12) {
        sched_yield();
        cr_assert_lt(vv_clock_mono_ns(), deadline_ns, "%d runs after %d flushes",
                     (int)fx_stats().sorted_run_count, round);
    }
    cr_assert_eq(access(damaged, F_OK), 0, "the table stays");
    fx_close(); /* the block itself is still in the cache, as it was written */
    open_db(style);
    int bad = count_bad(rounds);
    cr_assert(bad > 5 && bad < 40, "%d keys of a block", bad);
    cr_assert_eq(varve_compact(fx_db).code, VARVE_CORRUPTION, "all of it, in spite of that");
    cr_assert_eq(count_bad(rounds), bad, "neither spread nor dropped");
    fx_close();
    open_db(style);
    cr_assert_eq(count_bad(rounds), bad);
    fx_close();
    /* And once the block is as it was, all is. */
    flip(damaged, 4096 + 100);
    open_db(style);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(count_bad(rounds), 0);
    cr_assert_eq(fx_stats().sorted_run_count, 1);
    cr_assert_eq(fx_stats().damaged_tables, 0);
    fx_close();
}

Test(db_bad_block, tiered_merges_go_on_around_it) {
    check_style("tiered");
}

Test(db_bad_block, leveled_merges_go_on_around_it) {
    check_style("leveled");
}

/* ---- which keys are affected ---- */

static bool key_in(const varve_key_range *r, const char *key) {
    vv_slice k = vv_slice_make(key, strlen(key));
    return vv_slice_compare(vv_slice_make(r->first_key, r->first_key_bytes), k) <= 0 &&
           vv_slice_compare(k, vv_slice_make(r->last_key, r->last_key_bytes)) <= 0;
}

static bool same_range(const varve_key_range *a, const varve_key_range *b) {
    return vv_slice_equal(vv_slice_make(a->first_key, a->first_key_bytes),
                          vv_slice_make(b->first_key, b->first_key_bytes)) &&
           vv_slice_equal(vv_slice_make(a->last_key, a->last_key_bytes),
                          vv_slice_make(b->last_key, b->last_key_bytes));
}

typedef struct answered {
    varve_value value;
    _Atomic bool done;
} answered;

static void on_got(void *arg, varve_status st, varve_value *value) {
    answered *a = arg;
    (void)st;
    a->value = *value;
    atomic_store(&a->done, true);
}

/* Every way to read key i meets the damage, and names the same keys, this one among them. *out: valid until
 * the next call. */
static void expect_damage(int i, varve_key_range *out) {
    varve_value v;
    varve_key_range r;
    cr_assert_eq(varve_get(fx_db, key_of(i), 8, &v).code, VARVE_CORRUPTION);
    cr_assert(varve_value_damage(&v, out));
    cr_assert(key_in(out, key_of(i)));

    answered a = {0};
    varve_get_async(fx_db, NULL, key_of(i), 8, on_got, &a);
    while (!atomic_load(&a.done))
        sched_yield();
    cr_assert(varve_value_damage(&a.value, &r) && same_range(&r, out));
    varve_value_release(&a.value);

    varve_lookup lookup = {.key = key_of(i), .key_bytes = 8};
    cr_assert(varve_ok(varve_multi_get(fx_db, NULL, &lookup, 1)));
    cr_assert_eq(lookup.status.code, VARVE_CORRUPTION);
    cr_assert(varve_value_damage(&lookup.value, &r) && same_range(&r, out));
    varve_value_release(&lookup.value);

    varve_iter *it;
    cr_assert(varve_ok(varve_iter_create(fx_db, NULL, &it)));
    varve_iter_seek(it, key_of(i), 8);
    cr_assert_eq(varve_iter_status(it).code, VARVE_CORRUPTION);
    cr_assert(varve_iter_damage(it, &r) && same_range(&r, out));
    varve_iter_seek_back(it, key_of(i), 8);
    cr_assert(varve_iter_damage(it, &r) && same_range(&r, out));
    varve_iter_destroy(it);

    static char first[16], last[16];
    cr_assert(out->first_key_bytes <= sizeof first && out->last_key_bytes <= sizeof last);
    memcpy(first, out->first_key, out->first_key_bytes);
    memcpy(last, out->last_key, out->last_key_bytes);
    out->first_key = first;
    out->last_key = last;
    varve_value_release(&v);
}

static void check_ranges(const char *index_type) {
    varve_key_range r, none;
    int rounds[KEYS];
    fx_open_with(fx_options("INDEX_TYPE", index_type, "CACHE_CAPACITY", "0", NULL));
    write_run(0, 1, 1);
    for (int i = 0; i < KEYS; i++)
        rounds[i] = 1;
    flip(newest_table(), 4096 + 100); /* the second block */
    int first_bad = KEYS, last_bad = 0;
    for (int i = 0; i < KEYS; i++) {
        varve_value v;
        varve_status st = varve_get(fx_db, key_of(i), 8, &v);
        cr_assert_eq(varve_value_damage(&v, &none), st.code == VARVE_CORRUPTION);
        varve_value_release(&v);
        if (st.code == VARVE_CORRUPTION) {
            first_bad = i < first_bad ? i : first_bad;
            last_bad = i;
        }
    }
    cr_assert(first_bad > 0 && last_bad < KEYS - 1);
    expect_damage(first_bad, &r);
    expect_damage(last_bad, &r);
    /* No wider than the block, but for the key before it, which may go on in it. */
    cr_assert_not(key_in(&r, key_of(last_bad + 1)));
    cr_assert(first_bad < 2 || !key_in(&r, key_of(first_bad - 2)));
    cr_assert_eq(count_bad(rounds), last_bad - first_bad + 1);

    /* A cursor that comes there names it, too, from either side; and nothing behind it. */
    varve_iter *it;
    varve_key_range met;
    cr_assert(varve_ok(varve_iter_create(fx_db, NULL, &it)));
    for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it))
        cr_assert_not(varve_iter_damage(it, &none));
    cr_assert(varve_iter_damage(it, &met) && same_range(&met, &r));
    for (varve_iter_last(it); varve_iter_valid(it); varve_iter_prev(it))
        cr_assert_not(varve_iter_damage(it, &none));
    cr_assert(varve_iter_damage(it, &met) && same_range(&met, &r));
    for (varve_iter_seek(it, key_of(last_bad + 1), 8); varve_iter_valid(it); varve_iter_next(it))
        ;
    cr_assert(varve_ok(varve_iter_status(it)) && !varve_iter_damage(it, &none));
    varve_iter_destroy(it);
    fx_close();
}

Test(db_bad_block, a_read_names_the_keys_that_are_affected_sparse_index) {
    check_ranges("sparse");
}

Test(db_bad_block, a_read_names_the_keys_that_are_affected_dense_index) {
    check_ranges("dense");
}

Test(db_bad_block, a_table_that_can_not_be_opened_affects_all_its_keys) {
    varve_key_range r;
    open_db("tiered");
    write_run(0, 1, 1);
    fx_close();
    struct stat st;
    cr_assert_eq(stat(newest_table(), &st), 0);
    flip(newest_table(), st.st_size - 20); /* the footer */
    open_db("tiered");
    expect_damage(KEYS / 2, &r);
    cr_assert(key_in(&r, key_of(0)) && key_in(&r, key_of(KEYS - 1)));
    cr_assert_not(key_in(&r, "key"));
    fx_close();
}
