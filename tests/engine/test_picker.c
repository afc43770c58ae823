/*
 * What is merged next, and to where: decisions on versions without files.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/lsm/picker.h"

static void drop(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number;
}

typedef struct shape {
    uint32_t level;
    uint64_t run;
    const char *first;
    const char *last;
    uint64_t bytes;
} shape;

/* Table i of the list has file number i + 1. */
static vv_version *version_of(const shape *shapes, size_t count) {
    vv_table *tables[64];
    for (size_t i = 0; i < count; i++) {
        vv_sst_summary s = {.file_bytes = shapes[i].bytes,
                            .first_key_bytes = (uint32_t)strlen(shapes[i].first),
                            .last_key_bytes = (uint32_t)strlen(shapes[i].last)};
        s.first_key = (uint8_t *)vv_strdup(shapes[i].first);
        s.last_key = (uint8_t *)vv_strdup(shapes[i].last);
        tables[i] = vv_table_create(shapes[i].level, shapes[i].run, i + 1, &s, drop, NULL);
        cr_assert_not_null(tables[i]);
    }
    vv_version *v = vv_version_create(tables, count);
    cr_assert_not_null(v);
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    return v;
}

static const vv_picker_options tiered = {
    .style = VV_COMPACTION_TIERED, .levels = 4, .threshold = 3, .level1_bytes = 100, .ratio = 10};
static const vv_picker_options leveled = {
    .style = VV_COMPACTION_LEVELED, .levels = 4, .threshold = 3, .level1_bytes = 100, .ratio = 10};

static vv_picker_cursor cursors[VV_LEVELS_MAX];

static void clear_cursors(void) {
    for (int i = 0; i < VV_LEVELS_MAX; i++)
        vv_free(cursors[i].key);
    memset(cursors, 0, sizeof cursors);
}

TestSuite(picker, .fini = clear_cursors);

#define ALL     true
#define NOTHING NULL
#define EXPECT(shapes, o, all, inputs, level, run, bottom)                                                   \
    expect(shapes, VV_ARRAY_COUNT(shapes), o, all, inputs, level, run, bottom)

/* inputs: file numbers as letters, 'a' is table 1; in any order. NOTHING: no merge is due. */
static void expect(const shape *shapes, size_t count, const vv_picker_options *o, bool all,
                   const char *inputs, uint32_t level, uint64_t run, bool bottom) {
    vv_version *v = version_of(shapes, count);
    vv_compaction_plan plan;
    bool found;
    vv_status st = all ? vv_pick_all(v, o, &plan, &found) : vv_pick(v, o, cursors, &plan, &found);
    cr_assert(vv_ok(st));
    cr_assert_eq(found, inputs != NOTHING);
    cr_assert_eq(vv_compaction_debt_bytes(v, o) > 0 || all, found || all, "debt and decision agree");
    vv_version_unref(v); /* the plan holds its inputs by itself */
    if (!inputs)
        return;
    uint64_t bytes = 0;
    cr_assert_eq(plan.input_count, strlen(inputs), "%zu inputs", plan.input_count);
    for (size_t i = 0; i < plan.input_count; i++) {
        cr_assert(strchr(inputs, (int)('a' + plan.inputs[i]->file_number - 1)), "table %c is merged",
                  (int)('a' + plan.inputs[i]->file_number - 1));
        bytes += plan.inputs[i]->summary.file_bytes;
    }
    cr_assert_eq(plan.input_bytes, bytes);
    cr_assert_eq(plan.output_level, level, "level %u", plan.output_level);
    cr_assert_eq(plan.output_run, run, "run %llu", (unsigned long long)plan.output_run);
    cr_assert_eq(plan.bottom, bottom, "bottom %d", plan.bottom);
    vv_compaction_plan_deinit(&plan);
}

/* ---- tiered ---- */

Test(picker, nothing_is_due_in_an_empty_or_a_small_database) {
    static const shape two[] = {{0, 1, "a", "z", 50}, {0, 2, "a", "z", 50}};
    expect(NULL, 0, &tiered, false, NOTHING, 0, 0, false);
    expect(NULL, 0, &leveled, false, NOTHING, 0, 0, false);
    expect(NULL, 0, &leveled, ALL, NOTHING, 0, 0, false);
    EXPECT(two, &tiered, false, NOTHING, 0, 0, false);
    EXPECT(two, &leveled, false, NOTHING, 0, 0, false);
}

Test(picker, tiered_merges_a_full_level_into_a_new_run_of_the_next) {
    static const shape s[] = {{0, 3, "a", "f", 50}, {0, 2, "g", "p", 50}, {0, 1, "q", "z", 50}};
    EXPECT(s, &tiered, false, "abc", 1, 0, true);
}

Test(picker, tiered_is_not_at_the_bottom_above_a_run_with_the_same_keys) {
    static const shape over[] = {
        {0, 4, "a", "f", 50}, {0, 3, "a", "f", 50}, {0, 2, "a", "f", 50}, {1, 1, "c", "d", 50}};
    static const shape beside[] = {
        {0, 4, "a", "f", 50}, {0, 3, "a", "f", 50}, {0, 2, "a", "f", 50}, {1, 1, "g", "h", 50}};
    static const shape touching[] = {
        {0, 4, "a", "f", 50}, {0, 3, "a", "f", 50}, {0, 2, "a", "f", 50}, {3, 1, "f", "h", 50}};
    EXPECT(over, &tiered, false, "abc", 1, 0, false);
    EXPECT(beside, &tiered, false, "abc", 1, 0, true);
    EXPECT(touching, &tiered, false, "abc", 1, 0, false);
}

Test(picker, tiered_newer_runs_do_not_matter_for_the_bottom) {
    static const shape s[] = {
        {0, 9, "a", "z", 50}, {1, 3, "a", "f", 50}, {1, 2, "a", "f", 50}, {1, 1, "c", "d", 50}};
    EXPECT(s, &tiered, false, "bcd", 2, 0, true);
}

Test(picker, tiered_merges_the_last_level_within_itself) {
    static const shape s[] = {{3, 3, "a", "f", 50}, {3, 2, "a", "f", 50}, {3, 1, "c", "d", 50}};
    EXPECT(s, &tiered, false, "abc", 3, 0, true);
}

Test(picker, tiered_takes_the_upper_level_first_and_counts_runs_not_tables) {
    static const shape s[] = {{0, 5, "a", "b", 50}, {0, 4, "a", "b", 50}, {0, 3, "a", "b", 50},
                              {1, 2, "a", "b", 50}, {1, 1, "a", "b", 50}, {1, 0, "a", "b", 50}};
    static const shape one_run[] = {{1, 1, "a", "b", 50}, {1, 1, "c", "d", 50}, {1, 1, "e", "f", 50}};
    EXPECT(s, &tiered, false, "abc", 1, 0, false);
    EXPECT(one_run, &tiered, false, NOTHING, 0, 0, false);
}

/* ---- leveled ---- */

Test(picker, leveled_merges_level_0_with_what_it_overlaps_into_the_one_run_of_level_1) {
    static const shape s[] = {{0, 9, "e", "f", 10}, {0, 8, "h", "k", 10}, {0, 7, "g", "g", 10},
                              {1, 5, "a", "d", 10}, {1, 5, "e", "e", 10}, {1, 5, "k", "m", 10},
                              {1, 5, "n", "z", 10}};
    static const shape first[] = {{0, 9, "e", "f", 10}, {0, 8, "h", "k", 10}, {0, 7, "g", "g", 10}};
    EXPECT(s, &leveled, false, "abcef", 1, 5, true);
    EXPECT(first, &leveled, false, "abc", 1, 1, true);
}

Test(picker, leveled_gives_one_table_of_the_fullest_level_to_the_next) {
    /* Level 1 may have 100 bytes, level 2 1000. */
    static const shape s[] = {{1, 1, "a", "c", 80},  {1, 1, "d", "f", 80},  {2, 1, "b", "b", 300},
                              {2, 1, "c", "e", 300}, {2, 1, "x", "y", 300}, {3, 1, "p", "q", 9000}};
    static const shape deeper[] = {
        {1, 1, "a", "c", 110}, {2, 1, "b", "b", 900}, {2, 1, "c", "e", 900}, {3, 1, "a", "bb", 9000}};
    EXPECT(s, &leveled, false, "acd", 2, 1, true);
    EXPECT(deeper, &leveled, false, "bd", 3, 1, true);
}

Test(picker, leveled_is_not_at_the_bottom_above_an_overlapping_level) {
    static const shape s[] = {{1, 1, "d", "f", 120}, {2, 1, "a", "e", 300}, {3, 1, "a", "b", 9000}};
    /* The input of level 2 reaches over the range of the one above it. */
    EXPECT(s, &leveled, false, "ab", 2, 1, false);
}

/* tombstones: of table 1. */
static bool is_move(const shape *shapes, size_t count, uint64_t tombstones) {
    vv_version *v = version_of(shapes, count);
    v->tables[0]->summary.tombstone_count = tombstones;
    vv_compaction_plan plan;
    bool found;
    cr_assert(vv_ok(vv_pick(v, &leveled, cursors, &plan, &found)));
    cr_assert(found);
    bool move = plan.move;
    vv_compaction_plan_deinit(&plan);
    vv_version_unref(v);
    return move;
}

Test(picker, leveled_moves_a_table_that_overlaps_nothing_in_the_next_level) {
    static const shape apart[] = {{1, 1, "a", "c", 120}, {2, 1, "d", "e", 300}, {3, 1, "a", "z", 900}};
    static const shape alone[] = {{1, 1, "a", "c", 120}, {1, 1, "d", "e", 20}};
    static const shape overlapping[] = {{1, 1, "a", "d", 120}, {2, 1, "d", "e", 300}};
    static const shape level_0[] = {{0, 1, "a", "d", 20}, {0, 2, "e", "f", 20}, {0, 3, "g", "h", 20}};
    static const shape some[] = {{1, 1, "a", "c", 120}, {1, 1, "d", "e", 120}, {2, 1, "f", "f", 10}};
    static const shape first[] = {{1, 1, "a", "c", 120}, {1, 1, "d", "f", 120}, {2, 1, "e", "f", 10}};
    cr_assert(is_move(apart, VV_ARRAY_COUNT(apart), 0));
    cr_assert(is_move(some, VV_ARRAY_COUNT(some), 0));
    cr_assert(is_move(first, VV_ARRAY_COUNT(first), 0), "alone");
    cr_assert(is_move(alone, VV_ARRAY_COUNT(alone), 0));
    cr_assert_not(is_move(overlapping, VV_ARRAY_COUNT(overlapping), 0));
    cr_assert_not(is_move(level_0, VV_ARRAY_COUNT(level_0), 0));
}

Test(picker, leveled_merges_a_table_alone_for_tombstones_that_may_go) {
    static const shape bottom[] = {{1, 1, "a", "c", 120}, {3, 1, "d", "e", 300}};
    static const shape above[] = {{1, 1, "a", "c", 120}, {3, 1, "c", "e", 300}};
    cr_assert_not(is_move(bottom, VV_ARRAY_COUNT(bottom), 1));
    cr_assert(is_move(above, VV_ARRAY_COUNT(above), 1));
}

Test(picker, leveled_never_gives_the_last_level_away) {
    static const shape s[] = {{3, 1, "a", "c", 1u << 30}, {3, 1, "d", "f", 1u << 30}};
    EXPECT(s, &leveled, false, NOTHING, 0, 0, false);
}

/* Level 1 may have 100 bytes. */
Test(picker, leveled_gives_as_many_tables_as_are_too_much) {
    static const shape s[] = {{1, 1, "a", "b", 60}, {1, 1, "c", "d", 60},  {1, 1, "e", "f", 60},
                              {1, 1, "g", "h", 60}, {2, 1, "a", "c", 100}, {2, 1, "d", "h", 100}};
    static const shape large[] = {{1, 1, "a", "b", 60}, {1, 1, "c", "d", 60},  {1, 1, "e", "f", 60},
                                  {1, 1, "g", "h", 60}, {2, 1, "a", "b", 150}, {2, 1, "d", "h", 300}};
    EXPECT(s, &leveled, false, "abcef", 2, 1, true);
    EXPECT(large, &leveled, false, "ae", 2, 1, true); /* with the next one it would read more than 400 */
}

/* Level 0 and 1 have 240 bytes, 140 too much. */
Test(picker, leveled_merges_three_levels_where_that_writes_less) {
    static const shape small[] = {{0, 9, "a", "z", 60}, {0, 8, "a", "z", 60},  {0, 7, "b", "y", 60},
                                  {1, 5, "a", "z", 60}, {2, 3, "a", "m", 160}, {2, 3, "n", "z", 160}};
    static const shape large[] = {{0, 9, "a", "z", 60}, {0, 8, "a", "z", 60},  {0, 7, "b", "y", 60},
                                  {1, 5, "a", "z", 60}, {2, 3, "a", "m", 180}, {2, 3, "n", "z", 180}};
    static const shape elsewhere[] = {{0, 9, "a", "k", 60}, {0, 8, "a", "k", 60},  {0, 7, "b", "k", 60},
                                      {1, 5, "a", "k", 60}, {2, 3, "a", "j", 320}, {2, 3, "n", "z", 900},
                                      {3, 1, "i", "i", 9}};
    static const shape huge[] = {
        {0, 9, "a", "z", 400}, {0, 8, "a", "z", 400}, {0, 7, "b", "y", 300}, {2, 3, "a", "m", 101}};
    static const shape little[] = {{0, 9, "a", "z", 30}, {0, 8, "a", "z", 30}, {0, 7, "b", "y", 30}};
    static const shape last[] = {
        {0, 9, "a", "z", 60}, {0, 8, "a", "z", 60}, {0, 7, "b", "y", 60}, {1, 5, "a", "z", 60}};
    vv_picker_options two_levels = leveled;
    two_levels.levels = 2;
    EXPECT(small, &leveled, false, "abcdef", 2, 3, true);
    EXPECT(large, &leveled, false, "abcd", 1, 5, false);
    EXPECT(elsewhere, &leveled, false, "abcde", 2, 3, false);
    EXPECT(huge, &leveled, false, "abc", 1, 1, false);  /* more than 1200 in one merge */
    EXPECT(little, &leveled, false, "abc", 1, 1, true); /* level 1 may have all of it */
    EXPECT(last, &two_levels, false, "abcd", 1, 5, true);
}

Test(picker, leveled_lets_more_gather_in_a_burst) {
    static const shape due[] = {{0, 9, "a", "z", 10}, {0, 8, "a", "z", 10}, {0, 7, "b", "y", 10}};
    static const shape half_more[] = {
        {0, 9, "a", "z", 10}, {0, 8, "a", "z", 10}, {0, 7, "b", "y", 10}, {0, 6, "b", "y", 10}};
    static const shape twice[] = {{1, 1, "a", "c", 90}, {1, 1, "d", "f", 110}, {2, 1, "a", "z", 10}};
    static const shape more[] = {{1, 1, "a", "c", 91}, {1, 1, "d", "f", 110}, {2, 1, "a", "b", 10}};
    vv_picker_options burst = leveled;
    burst.burst = true;
    vv_compaction_plan plan;
    const shape *early[] = {due, twice};
    for (size_t i = 0; i < VV_ARRAY_COUNT(early); i++) {
        bool found;
        vv_version *v = version_of(early[i], 3);
        cr_assert(vv_ok(vv_pick(v, &burst, cursors, &plan, &found)) && !found);
        cr_assert(vv_ok(vv_pick(v, &leveled, cursors, &plan, &found)) && found, "when it is over");
        vv_compaction_plan_deinit(&plan);
        vv_version_unref(v);
    }
    EXPECT(half_more, &burst, false, "abcd", 1, 1, true);
    EXPECT(more, &burst, false, "abc", 2, 1, true);
}

Test(picker, leveled_goes_round_the_key_space) {
    static const shape s[] = {{1, 1, "a", "c", 40}, {1, 1, "d", "f", 40}, {1, 1, "g", "k", 40}};
    static const char *const turns[] = {"a", "b", "c", "a"};
    vv_version *v = version_of(s, VV_ARRAY_COUNT(s));
    for (size_t i = 0; i < VV_ARRAY_COUNT(turns); i++) {
        vv_compaction_plan plan;
        bool found;
        cr_assert(vv_ok(vv_pick(v, &leveled, cursors, &plan, &found)) && found);
        cr_assert_eq(plan.input_count, 1);
        cr_assert_eq(plan.inputs[0]->file_number, (uint64_t)(turns[i][0] - 'a' + 1));
        vv_picker_advance(cursors, 1, &plan);
        vv_compaction_plan_deinit(&plan);
    }
    vv_version_unref(v);
}

/* ---- another style, or another number of levels, than before ---- */

Test(picker, leveled_first_makes_one_run_of_a_level_that_tiered_left_with_several) {
    static const shape s[] = {{0, 9, "a", "z", 10}, {1, 5, "a", "f", 10}, {1, 4, "c", "g", 10},
                              {2, 3, "a", "a", 10}, {2, 2, "a", "b", 10}, {3, 1, "x", "y", 10}};
    vv_version *v = version_of(s, VV_ARRAY_COUNT(s));
    vv_compaction_plan plan;
    bool found;
    cr_assert(vv_ok(vv_pick(v, &leveled, cursors, &plan, &found)) && found);
    cr_assert_eq(plan.input_count, 2);
    cr_assert_eq(plan.output_level, 1);
    cr_assert_eq(plan.output_run, 5, "the number of its newest run: the others are gone");
    cr_assert(!plan.bottom);
    vv_compaction_plan_deinit(&plan);
    vv_version_unref(v);
}

Test(picker, levels_deeper_than_there_should_be_count_as_the_last) {
    vv_picker_options two_t = tiered, two_l = leveled;
    two_t.levels = two_l.levels = 2;
    static const shape s[] = {
        {0, 9, "a", "z", 10}, {0, 8, "a", "z", 10}, {0, 7, "a", "z", 10}, {5, 1, "c", "d", 10}};
    EXPECT(s, &two_t, false, "abc", 1, 0, false);
    EXPECT(s, &two_l, false, "abc", 1, 1, false);
    EXPECT(s, &two_t, ALL, "abcd", 5, 0, true);
    EXPECT(s, &two_l, ALL, "abcd", 5, 0, true);
}

Test(picker, everything_goes_to_the_last_level_as_one_new_run) {
    static const shape s[] = {
        {0, 9, "a", "z", 10}, {1, 5, "a", "f", 10}, {2, 3, "a", "a", 10}, {3, 1, "x", "y", 10}};
    EXPECT(s, &tiered, ALL, "abcd", 3, 0, true);
    EXPECT(s, &leveled, ALL, "abcd", 3, 0, true);
}

Test(picker, without_memory_it_says_so_and_keeps_nothing) {
    static const shape s[] = {{0, 3, "a", "f", 50}, {0, 2, "g", "p", 50}, {0, 1, "q", "z", 50}};
    vv_version *v = version_of(s, VV_ARRAY_COUNT(s));
    for (int all = 0; all < 2; all++) {
        vv_compaction_plan plan;
        bool found = true;
        vv_alloc_fail_at(1);
        vv_status st =
            all ? vv_pick_all(v, &tiered, &plan, &found) : vv_pick(v, &tiered, cursors, &plan, &found);
        vv_alloc_fail_at(0);
        cr_assert(vv_is(st, VV_NO_MEMORY));
        cr_assert(!found);
    }
    vv_version_unref(v); /* leaks would show */
}

/* ---- around damage ---- */

static void mark(vv_version *v, uint64_t run) {
    for (size_t i = 0; i < v->table_count; i++)
        for (int n = 0; n < VV_TABLE_READ_FAILURES_MAX && v->tables[i]->run == run; n++)
            vv_table_note_failure(v->tables[i], vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0));
}

/* Neither past the table that can't be read, nor to another level: in the place of the newest of them. */
Test(picker, what_cannot_be_read_parts_the_runs_that_are_merged) {
    static const shape shapes[] = {{0, 9, "a", "z", 10}, {0, 8, "a", "z", 10}, {0, 7, "a", "z", 10},
                                   {0, 6, "a", "z", 10}, {0, 5, "a", "z", 10}, {0, 4, "a", "z", 10},
                                   {1, 3, "a", "z", 99}};
    const vv_picker_options *styles[] = {&tiered, &leveled};
    for (size_t i = 0; i < 2; i++) {
        vv_compaction_plan plan;
        bool found;
        vv_version *v = version_of(shapes, VV_ARRAY_COUNT(shapes));
        mark(v, 7);
        cr_assert(vv_ok(vv_pick(v, styles[i], cursors, &plan, &found)));
        cr_assert(found && plan.input_count == 3 && plan.output_level == 0 && plan.output_run == 6);
        cr_assert(plan.inputs[0]->run == 6 && plan.inputs[2]->run == 4 && !plan.bottom);
        vv_compaction_plan_deinit(&plan);
        cr_assert_eq(vv_compaction_debt_bytes(v, styles[i]), 0);
        mark(v, 5); /* nothing is left that has two neighbours */
        cr_assert(vv_ok(vv_pick(v, styles[i], cursors, &plan, &found)));
        cr_assert_not(found);
        vv_version_unref(v);
    }
}
