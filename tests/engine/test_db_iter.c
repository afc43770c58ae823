/*
 * The cursor over a database: bounds, prefixes, limits, what it sees and what it passes over.
 */
#include <stdlib.h>

#include "tests/engine/db_fixture.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_iter, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static varve_iter *make(varve_iter_options o) {
    varve_iter *it;
    cr_assert(varve_ok(varve_iter_create(fx_db, &o, &it)));
    return it;
}

/* The keys that a cursor shows, a letter or byte in hex each, forward and backward. */
static void expect_keys(varve_iter_options o, const char *words) {
    varve_iter *it = make(o);
    varve_entry e;
    char forward[512] = "", word[64];
    char all[64][24];
    size_t count = 0;
    for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it)) {
        varve_iter_entry(it, &e);
        for (size_t i = 0; i < e.key_bytes; i++)
            snprintf(word + 2 * i, 3, "%02x", ((const uint8_t *)e.key)[i]);
        snprintf(forward + strlen(forward), sizeof forward - strlen(forward), "%s%s", count ? " " : "", word);
        snprintf(all[count++], sizeof all[0], "%s", word);
    }
    cr_assert(varve_ok(varve_iter_status(it)));
    cr_assert_str_eq(forward, words);
    for (varve_iter_last(it); varve_iter_valid(it); varve_iter_prev(it)) {
        varve_iter_entry(it, &e);
        for (size_t i = 0; i < e.key_bytes; i++)
            snprintf(word + 2 * i, 3, "%02x", ((const uint8_t *)e.key)[i]);
        cr_assert_gt(count, 0);
        cr_assert_str_eq(all[--count], word);
    }
    cr_assert(varve_ok(varve_iter_status(it)));
    cr_assert_eq(count, 0, "backward shows less");
    varve_iter_destroy(it);
}

static void put_bytes(const char *key) {
    cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), "v", 1, NULL, NULL)));
}

/* The same keys from memory, from a table, and from both. */
static void with_each_placement(void (*check)(void), const char *const *keys, size_t count) {
    for (int placement = 0; placement < 3; placement++) {
        fx_open();
        for (size_t i = 0; i < count; i++)
            if (placement != 2 || i % 2)
                put_bytes(keys[i]);
        if (placement)
            cr_assert(varve_ok(varve_flush(fx_db)));
        for (size_t i = 0; placement == 2 && i < count; i += 2)
            put_bytes(keys[i]);
        check();
        fx_close();
        vv_tempdir_cleanup();
        vv_tempdir();
    }
}

static void check_prefixes(void) {
    expect_keys((varve_iter_options){.prefix = "a", .prefix_bytes = 1}, "61 6161 61ff 61ffff");
    expect_keys((varve_iter_options){.prefix = "a\xff", .prefix_bytes = 2}, "61ff 61ffff");
    expect_keys((varve_iter_options){.prefix = "\xff", .prefix_bytes = 1}, "ff ff61 ffff ffff62");
    expect_keys((varve_iter_options){.prefix = "\xff\xff", .prefix_bytes = 2}, "ffff ffff62");
    expect_keys((varve_iter_options){.prefix = "\xff\xff\xff", .prefix_bytes = 3}, "");
    expect_keys((varve_iter_options){.prefix = "c", .prefix_bytes = 1}, "");
    expect_keys((varve_iter_options){.prefix = "", .prefix_bytes = 0},
                "61 6161 61ff 61ffff 62 fe ff ff61 ffff ffff62");
    expect_keys((varve_iter_options){.prefix = "a", .prefix_bytes = 1, .start = "aa", .start_bytes = 2},
                "6161 61ff 61ffff");
    expect_keys((varve_iter_options){.prefix = "\xff",
                                     .prefix_bytes = 1,
                                     .start = "a",
                                     .start_bytes = 1,
                                     .end = "\xff\xff",
                                     .end_bytes = 2},
                "ff ff61");
    expect_keys((varve_iter_options){.prefix = "a", .prefix_bytes = 1, .start = "b", .start_bytes = 1}, "");
    expect_keys((varve_iter_options){.prefix = "b", .prefix_bytes = 1, .end = "a", .end_bytes = 1}, "");
}

Test(db_iter, prefixes_also_of_bytes_that_have_no_successor) {
    static const char *const keys[] = {"a",
                                       "aa",
                                       "a\xff",
                                       "a\xff\xff",
                                       "b",
                                       "\xfe",
                                       "\xff",
                                       "\xff"
                                       "a",
                                       "\xff\xff",
                                       "\xff\xff"
                                       "b"};
    with_each_placement(check_prefixes, keys, sizeof keys / sizeof keys[0]);
}

static void check_bounds(void) {
    expect_keys((varve_iter_options){.start = "b", .start_bytes = 1, .end = "d", .end_bytes = 1}, "62 63");
    expect_keys((varve_iter_options){.start = "bb", .start_bytes = 2, .end = "dd", .end_bytes = 2}, "63 64");
    expect_keys((varve_iter_options){.start = "b", .start_bytes = 1, .end = "b", .end_bytes = 1}, "");
    expect_keys((varve_iter_options){.start = "e", .start_bytes = 1}, "65");
    expect_keys((varve_iter_options){.start = "f", .start_bytes = 1}, "");
    expect_keys((varve_iter_options){.end = "a", .end_bytes = 1}, "");
    expect_keys((varve_iter_options){.end = "", .end_bytes = 0}, "");
    expect_keys((varve_iter_options){0}, "61 62 63 64 65");

    static const struct {
        const char *key;
        char seek, seek_back; /* 0: nothing */
    } seeks[] = {{"", 'b', 0},    {"a", 'b', 0}, {"b", 'b', 'b'}, {"bb", 'c', 'b'},
                 {"d", 'd', 'd'}, {"e", 0, 'd'}, {"z", 0, 'd'}};
    varve_iter *it = make((varve_iter_options){.start = "b", .start_bytes = 1, .end = "e", .end_bytes = 1});
    for (size_t i = 0; i < sizeof seeks / sizeof seeks[0]; i++)
        for (int back = 0; back < 2; back++) {
            char to = back ? seeks[i].seek_back : seeks[i].seek;
            varve_entry e;
            (back ? varve_iter_seek_back : varve_iter_seek)(it, seeks[i].key, strlen(seeks[i].key));
            cr_assert_eq(varve_iter_valid(it), to != 0, "'%s' %d", seeks[i].key, back);
            if (!to)
                continue;
            varve_iter_entry(it, &e);
            cr_assert_eq(*(const char *)e.key, to, "'%s' %d", seeks[i].key, back);
        }
    varve_iter_destroy(it);
}

Test(db_iter, nothing_is_shown_outside_the_bounds) {
    static const char *const keys[] = {"a", "b", "c", "d", "e"};
    with_each_placement(check_bounds, keys, sizeof keys / sizeof keys[0]);
}

Test(db_iter, a_range_that_ends_before_it_starts_is_refused) {
    varve_iter *it = (varve_iter *)&it;
    varve_iter_options o = {.start = "b", .start_bytes = 1, .end = "a", .end_bytes = 1};
    fx_open();
    varve_status st = varve_iter_create(fx_db, &o, &it);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_null(it);
    varve_iter_destroy(it);
    fx_close();
}

Test(db_iter, turns_at_every_entry) {
    enum { KEYS = 60 };
    fx_open();
    for (int i = 0; i < KEYS; i++) {
        char key[8], other[8];
        snprintf(key, sizeof key, "k%02d", i);
        snprintf(other, sizeof other, "k%02dx", i);
        fx_put(key, "old");
        fx_put(other, "dead");
        if (i % 20 == 10)
            cr_assert(varve_ok(varve_flush(fx_db)));
        fx_put(key, "new");
        fx_delete(other);
    }
    varve_iter *it = make((varve_iter_options){0});
    for (int from = 0; from < KEYS; from++)
        for (int back = 0; back < 2; back++) {
            char key[8];
            int at = from;
            varve_entry e;
            snprintf(key, sizeof key, "k%02d", from);
            (back ? varve_iter_seek_back : varve_iter_seek)(it, key, 3);
            static const int walk[] = {1, 1, -1, -1, -1, 1};
            for (size_t i = 0; i < 6 && varve_iter_valid(it); i++) {
                int step = back ? -walk[i] : walk[i];
                (step > 0 ? varve_iter_next : varve_iter_prev)(it);
                at += step;
                cr_assert_eq(varve_iter_valid(it), at >= 0 && at < KEYS);
                if (!varve_iter_valid(it))
                    break;
                varve_iter_entry(it, &e);
                snprintf(key, sizeof key, "k%02d", at);
                cr_assert(e.key_bytes == 3 && memcmp(e.key, key, 3) == 0, "not at %s", key);
                cr_assert(e.value_bytes == 3 && memcmp(e.value, "new", 3) == 0);
            }
        }
    varve_iter_destroy(it);
    fx_close();
}

Test(db_iter, shows_the_state_of_its_creation_or_of_its_snapshot) {
    fx_open();
    fx_put("a", "1");
    fx_put("b", "1");
    varve_snapshot *snapshot = varve_snapshot_create(fx_db);
    fx_put("c", "1");
    fx_delete("a");
    varve_iter *now = make((varve_iter_options){0});
    fx_put("d", "1");
    fx_delete("b");
    cr_assert(varve_ok(varve_compact(fx_db)));
    expect_keys((varve_iter_options){.snapshot = snapshot}, "61 62");
    expect_keys((varve_iter_options){0}, "63 64");
    varve_iter_first(now);
    for (const char *key = "bc"; *key; key++) {
        varve_entry e;
        cr_assert(varve_iter_valid(now));
        varve_iter_entry(now, &e);
        cr_assert_eq(*(const char *)e.key, *key);
        varve_iter_next(now);
    }
    cr_assert(!varve_iter_valid(now));
    varve_iter_destroy(now);
    varve_snapshot_release(fx_db, snapshot);
    fx_close();
}

/* "a", then `count` deleted keys, then "z". */
static void make_graveyard(uint32_t count) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    fx_put("a", "1");
    for (uint32_t i = 0; i < count; i++) {
        char key[16];
        int n = snprintf(key, sizeof key, "m%06" PRIu32, i);
        cr_assert(varve_ok(varve_put(fx_db, key, (size_t)n, "x", 1, &async, NULL)));
        cr_assert(varve_ok(varve_delete(fx_db, key, (size_t)n, &async, NULL)));
        if (i == count / 2)
            cr_assert(varve_ok(varve_flush(fx_db)));
    }
    fx_put("z", "1");
}

static char key_at(const varve_iter *it) {
    varve_entry e;
    varve_iter_entry(it, &e);
    return *(const char *)e.key;
}

Test(db_iter, a_step_over_many_hidden_entries_is_busy_and_goes_on_where_it_was) {
    enum { DEAD = 5000, LIMIT = 100 };
    fx_open();
    make_graveyard(DEAD);
    varve_iter *it = make((varve_iter_options){.skip_limit = LIMIT});
    for (int back = 0; back < 2; back++) {
        uint32_t busy = 0;
        back ? varve_iter_last(it) : varve_iter_first(it);
        cr_assert(varve_iter_valid(it));
        cr_assert_eq(key_at(it), back ? 'z' : 'a');
        do {
            (back ? varve_iter_prev : varve_iter_next)(it);
            busy += varve_iter_status(it).code == VARVE_BUSY;
            cr_assert(varve_iter_status(it).code != VARVE_BUSY || !varve_iter_valid(it));
        } while (varve_iter_status(it).code == VARVE_BUSY);
        cr_assert(varve_iter_valid(it));
        cr_assert_eq(key_at(it), back ? 'a' : 'z');
        cr_assert_geq(busy, 2 * DEAD / LIMIT - 2, "%" PRIu32 " pauses", busy);
        cr_assert_leq(busy, 2 * DEAD / LIMIT + 2, "%" PRIu32 " pauses", busy);
    }
    /* A seek that ends so goes on by steps, too. */
    varve_iter_seek(it, "b", 1);
    while (varve_iter_status(it).code == VARVE_BUSY)
        varve_iter_next(it);
    cr_assert(varve_iter_valid(it));
    cr_assert_eq(key_at(it), 'z');
    varve_iter_seek_back(it, "y", 1);
    while (varve_iter_status(it).code == VARVE_BUSY)
        varve_iter_prev(it);
    cr_assert(varve_iter_valid(it));
    cr_assert_eq(key_at(it), 'a');
    varve_iter_destroy(it);
    fx_close();
}

Test(db_iter, many_versions_of_one_key_are_passed_in_steps_too) {
    enum { VERSIONS = 5000, LIMIT = 100 };
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    fx_open();
    fx_put("a", "1");
    for (int i = 0; i < VERSIONS; i++) {
        char value[16];
        int n = snprintf(value, sizeof value, "%d", i);
        cr_assert(varve_ok(varve_put(fx_db, "m", 1, value, (size_t)n, &async, NULL)));
    }
    fx_put("z", "1");
    varve_iter *it = make((varve_iter_options){.skip_limit = LIMIT});
    varve_iter_last(it);
    cr_assert_eq(key_at(it), 'z');
    int busy = 0;
    for (varve_iter_prev(it); varve_iter_status(it).code == VARVE_BUSY; varve_iter_prev(it))
        busy++;
    cr_assert_eq(busy, VERSIONS / LIMIT - 1, "%d pauses", busy);
    varve_entry e;
    cr_assert(varve_iter_valid(it));
    varve_iter_entry(it, &e);
    cr_assert(*(const char *)e.key == 'm' && e.value_bytes == 4 && memcmp(e.value, "4999", 4) == 0);
    varve_iter_prev(it);
    cr_assert(varve_iter_valid(it) && key_at(it) == 'a');
    /* Turned round amid the key: it was not shown yet. */
    varve_iter_last(it);
    varve_iter_prev(it);
    varve_iter_prev(it);
    cr_assert_eq(varve_iter_status(it).code, VARVE_BUSY);
    varve_iter_next(it);
    cr_assert(varve_iter_valid(it) && key_at(it) == 'm');
    /* And from another place amid it: nothing of it is left. */
    varve_iter_last(it);
    varve_iter_prev(it);
    cr_assert_eq(varve_iter_status(it).code, VARVE_BUSY);
    varve_iter_first(it);
    cr_assert(varve_iter_valid(it) && key_at(it) == 'a');
    varve_iter_last(it);
    cr_assert(varve_iter_valid(it) && key_at(it) == 'z');
    varve_iter_destroy(it);
    fx_close();
}

Test(db_iter, a_hundred_thousand_tombstones_are_passed_over_both_ways) {
    enum { DEAD = 100000 };
    fx_open_with(fx_options("MEMTABLE_SIZE", "4MiB", "WAL_SEGMENT_SIZE", "16MiB", NULL));
    make_graveyard(DEAD);
    expect_keys((varve_iter_options){0}, "61 7a");
    cr_assert(varve_ok(varve_compact(fx_db)));
    expect_keys((varve_iter_options){0}, "61 7a");
    /* Nothing is left of them: a step has nothing to pass over. */
    varve_iter *it = make((varve_iter_options){.skip_limit = 1});
    varve_iter_first(it);
    varve_iter_next(it);
    cr_assert(varve_iter_valid(it));
    cr_assert_eq(key_at(it), 'z');
    varve_iter_destroy(it);
    fx_close();
}
