/*
 * What gets find in memory they find there behind flushes and merges, which write it anew under other names.
 */
#include "tests/engine/db_fixture.h"

#define KEYS 20000 /* some 3 MB of tables */

static const char *key_of(int i) {
    static char key[16];
    snprintf(key, sizeof key, "key%07d", i);
    return key;
}

static void write_all(int step, int round) {
    for (int i = 0; i < KEYS; i += step) {
        char value[120];
        int bytes = snprintf(value, sizeof value, "%d of %0100d", round, i);
        varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
        cr_assert(varve_ok(varve_put(fx_db, key_of(i), 10, value, (size_t)bytes, &o, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
}

static void read_keys(int begin, int end, int round) {
    for (int i = begin; i < end; i++) {
        char value[120];
        snprintf(value, sizeof value, "%d of %0100d", round, i);
        fx_expect(key_of(i), value);
    }
}

static void open_db(const char *compression, const char *cache) {
    fx_open_with(fx_options("COMPRESSION", compression, "CACHE_CAPACITY", cache, "COMPACTION_THRESHOLD", "64",
                            "MAX_TABLE_SIZE", "1MiB", NULL));
}

static void nothing_is_read_from_disk(const char *compression) {
    open_db(compression, "64MiB");
    write_all(1, 1);
    cr_assert_eq(fx_stats().cache_bytes, 0, "nobody has read yet");
    read_keys(0, KEYS, 1);
    uint64_t misses = fx_stats().cache_misses;
    write_all(1, 2);
    read_keys(0, KEYS, 2);
    cr_assert_eq(fx_stats().cache_misses, misses, "behind a flush");
    cr_assert(varve_ok(varve_compact(fx_db)));
    read_keys(0, KEYS, 2);
    cr_assert_eq(fx_stats().cache_misses, misses, "behind a merge");
    fx_close();
}

Test(db_warm, nothing_is_read_from_disk_while_all_fits_in_the_cache) {
    nothing_is_read_from_disk("none");
}

Test(db_warm, nor_of_compressed_tables) {
    nothing_is_read_from_disk("zstd");
}

Test(db_warm, a_merge_of_what_nobody_reads_leaves_it_on_disk) {
    open_db("none", "64MiB");
    write_all(1, 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    fx_close();
    open_db("none", "64MiB");
    read_keys(0, KEYS / 10, 1);
    uint64_t read = fx_stats().cache_misses;
    uint64_t bytes = fx_stats().cache_bytes;
    write_all(KEYS / 10, 2); /* a few, over all the keys */
    cr_assert(varve_ok(varve_compact(fx_db)));
    for (int i = 1; i < KEYS / 10; i++)
        read_keys(i, i + 1, 1);
    cr_assert_eq(fx_stats().cache_misses, read, "what was read is still there");
    cr_assert_lt(fx_stats().cache_bytes, bytes + bytes / 2, "%" PRIu64 " bytes for %" PRIu64,
                 fx_stats().cache_bytes, bytes);
    fx_close();
}

Test(db_warm, what_is_read_again_and_again_outlives_merges_of_more_than_the_cache_holds) {
    open_db("none", "1MiB");
    write_all(1, 1);
    for (int round = 0; round < 4; round++)
        read_keys(0, KEYS / 20, 1);
    write_all(2, 2); /* through the tenth of the cache that is for what is new */
    cr_assert(varve_ok(varve_compact(fx_db)));
    write_all(2, 3);
    uint64_t before = fx_stats().cache_misses;
    for (int i = 1; i < KEYS / 20; i += 2)
        read_keys(i, i + 1, 1);
    uint64_t missed = fx_stats().cache_misses - before;
    cr_assert_lt(missed, 10, "%" PRIu64 " of some 40 blocks were read anew", missed);
    fx_close();
}
