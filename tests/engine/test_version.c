#include <criterion/criterion.h>

#include "base/alloc.h"
#include "engine/lsm/version.h"

static int dropped;
static uint64_t dropped_number;

static void drop(void *arg, uint64_t file_number) {
    cr_assert_eq(arg, &dropped);
    dropped++;
    dropped_number = file_number;
}

static vv_table *table(uint32_t level, uint64_t run, uint64_t number, const char *first, const char *last) {
    vv_sst_summary s = {.first_key_bytes = (uint32_t)strlen(first), .last_key_bytes = (uint32_t)strlen(last)};
    s.first_key = (uint8_t *)vv_strdup(first);
    s.last_key = (uint8_t *)vv_strdup(last);
    vv_table *t = vv_table_create(level, run, number, &s, drop, &dropped);
    cr_assert_not_null(t);
    cr_assert_null(s.first_key, "the summary was taken");
    return t;
}

static vv_version *version_of(vv_table **tables, size_t count) {
    vv_version *v = vv_version_create(tables, count);
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    return v;
}

Test(version, runs_are_ordered_from_newest_to_oldest) {
    vv_table *tables[] = {table(1, 3, 13, "m", "z"), table(0, 8, 18, "a", "z"), table(1, 3, 12, "a", "k"),
                          table(0, 9, 19, "c", "d"), table(2, 1, 10, "a", "b")};
    vv_version *v = version_of(tables, 5);
    static const uint64_t order[] = {19, 18, 12, 13, 10};
    cr_assert_eq(v->run_count, 4);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(v->tables[i]->file_number, order[i]);
    cr_assert_eq(v->runs[2].table_count, 2);
    cr_assert_eq(v->runs[2].level, 1);
    vv_version_unref(v);
}

Test(version, a_run_finds_the_one_table_whose_range_holds_the_key) {
    vv_table *tables[] = {table(1, 1, 1, "b", "d"), table(1, 1, 2, "f", "f"), table(1, 1, 3, "h", "kk")};
    vv_version *v = version_of(tables, 3);
    static const struct {
        const char *key;
        uint64_t number;
    } cases[] = {{"a", 0}, {"b", 1}, {"c", 1}, {"d", 1},  {"da", 0}, {"e", 0},
                 {"f", 2}, {"g", 0}, {"h", 3}, {"kk", 3}, {"kka", 0}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        vv_table *t = vv_run_find(&v->runs[0], vv_slice_str(cases[i].key));
        cr_assert_eq(t ? t->file_number : 0, cases[i].number, "key %s", cases[i].key);
    }
    vv_version_unref(v);
}

Test(version, an_obsolete_table_is_dropped_with_its_last_reader_and_no_other) {
    vv_table *tables[] = {table(0, 1, 1, "a", "b"), table(0, 2, 2, "a", "b")};
    vv_version *reader = version_of(tables, 2);
    vv_version *next = vv_version_create(&reader->tables[0], 1); /* run 2 stays, run 1 goes */
    atomic_store(&reader->tables[1]->obsolete, true);
    cr_assert_eq(dropped, 0);
    vv_version_unref(reader);
    cr_assert_eq(dropped, 1);
    cr_assert_eq(dropped_number, 1);
    vv_version_unref(next);
    cr_assert_eq(dropped, 1, "a live table keeps its file when the database closes");
}

/* A table of run 1 in level 1 that moves to level 2, by what is obsolete of it and of what it becomes. */
static vv_table *move(vv_table *from) {
    vv_table *to = vv_table_move(from, 2, 7);
    cr_assert_not_null(to);
    cr_assert_eq(to->level, 2);
    cr_assert_eq(to->run, 7);
    cr_assert_eq(to->file_number, from->file_number);
    cr_assert(vv_slice_equal(vv_table_first_key(to), vv_table_first_key(from)));
    cr_assert(vv_slice_equal(vv_table_last_key(to), vv_table_last_key(from)));
    return to;
}

Test(version, a_table_that_moves_keeps_its_file_until_both_places_are_left) {
    vv_table *from = table(1, 1, 5, "a", "b"), *to = move(from);
    vv_table_unref(from); /* its version goes first */
    cr_assert_eq(dropped, 0);
    atomic_store(&to->obsolete, true);
    vv_table_unref(to);
    cr_assert_eq(dropped, 1);
    cr_assert_eq(dropped_number, 5);

    from = table(1, 1, 6, "a", "b"), to = move(from);
    atomic_store(&to->obsolete, true);
    vv_table_unref(to); /* a reader of the old version is left */
    cr_assert_eq(dropped, 1);
    vv_table_unref(from);
    cr_assert_eq(dropped, 2);
    cr_assert_eq(dropped_number, 6);
}

Test(version, a_move_that_does_not_come_to_be_leaves_the_table_alone) {
    vv_table *from = table(1, 1, 5, "a", "b");
    vv_table_unref(move(from));
    vv_table_unref(from);
    cr_assert_eq(dropped, 0);
}

Test(version, a_move_without_memory_changes_nothing) {
    vv_table *from = table(1, 1, 5, "a", "b");
    for (uint64_t n = 1; n <= 3; n++) {
        vv_alloc_fail_at(n);
        cr_assert_null(vv_table_move(from, 2, 7), "allocation %d", (int)n);
        vv_alloc_fail_at(0);
    }
    cr_assert_eq(atomic_load(&from->refs), 1);
    vv_table_unref(from);
}
