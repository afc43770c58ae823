/*
 * Merges for the sake of tombstones: when they are picked, that they end, and what they do for a queue.
 */
#include <sched.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/lsm/manifest.h"
#include "engine/lsm/picker.h"
#include "tests/engine/db_fixture.h"

TestSuite(tombstones, .fini = vv_tempdir_cleanup, .timeout = 120);

static void drop(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number;
}

/* ---- what is picked ---- */

typedef struct shape {
    vv_table *tables[16];
    size_t count;
} shape;

static void add(shape *s, uint32_t level, uint64_t run, const char *first, const char *last, uint64_t keys,
                uint64_t tombstones) {
    vv_sst_summary sum = {.file_bytes = keys * 10,
                          .item_count = keys,
                          .key_count = keys,
                          .tombstone_count = tombstones,
                          .min_lsn = 1,
                          .max_lsn = 100,
                          .first_key = (uint8_t *)vv_strdup(first),
                          .first_key_bytes = (uint32_t)strlen(first),
                          .last_key = (uint8_t *)vv_strdup(last),
                          .last_key_bytes = (uint32_t)strlen(last)};
    s->tables[s->count] = vv_table_create(level, run, s->count + 1, &sum, drop, NULL);
    s->count++;
}

/* Picks and releases the tables. The numbers of the inputs, in order, as text; "" for nothing. */
static const char *pick(shape *s, vv_compaction_style style, uint64_t drop_lsn, uint32_t *level_out,
                        bool *bottom_out) {
    static char names[64];
    static const vv_picker_cursor cursors[VV_LEVELS_MAX];
    vv_picker_options o = {.style = style,
                           .levels = 4,
                           .threshold = 4,
                           .level1_bytes = UINT64_C(1) << 40,
                           .ratio = 10,
                           .drop_lsn = drop_lsn};
    vv_version *v = vv_version_create(s->tables, s->count);
    vv_compaction_plan plan;
    bool found;
    names[0] = '\0';
    cr_assert(vv_ok(vv_pick(v, &o, cursors, &plan, &found)));
    for (size_t i = 0; found && i < plan.input_count; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%" PRIu64 " ",
                 plan.inputs[i]->file_number);
    *level_out = plan.output_level;
    *bottom_out = plan.bottom;
    if (found)
        vv_compaction_plan_deinit(&plan);
    vv_version_unref(v);
    for (size_t i = 0; i < s->count; i++)
        vv_table_unref(s->tables[i]);
    s->count = 0;
    return names;
}

static uint32_t level;
static bool bottom;

Test(tombstones, a_dense_table_goes_down_with_what_it_overlaps) {
    shape s = {0};
    add(&s, 1, 1, "a", "f", 50000, 10);
    add(&s, 1, 1, "g", "m", 50000, 30000);
    add(&s, 2, 1, "a", "f", 50000, 0);
    add(&s, 2, 1, "h", "z", 50000, 0);
    cr_assert_str_eq(pick(&s, VV_COMPACTION_LEVELED, VV_LSN_MAX, &level, &bottom), "2 4 ");
    cr_assert_eq(level, 2);
    cr_assert(bottom);
}

Test(tombstones, a_dense_run_of_level_0_is_merged_before_the_level_is_full) {
    for (int style = VV_COMPACTION_TIERED; style <= VV_COMPACTION_LEVELED; style++) {
        shape s = {0};
        add(&s, 0, 1, "a", "m", 50000, 10);
        add(&s, 0, 2, "a", "m", 50000, 30000);
        cr_assert_str_eq(pick(&s, (vv_compaction_style)style, VV_LSN_MAX, &level, &bottom), "2 1 ");
        cr_assert_eq(level, 1);
    }
}

Test(tombstones, what_a_snapshot_or_the_gate_holds_is_left_alone) {
    for (int style = VV_COMPACTION_TIERED; style <= VV_COMPACTION_LEVELED; style++)
        for (uint32_t at = 0; at < 4; at++) {
            shape s = {0};
            add(&s, at, 1, "a", "m", 50000, 30000);
            cr_assert_str_eq(pick(&s, (vv_compaction_style)style, 99, &level, &bottom), "", "level %u", at);
            add(&s, at, 1, "a", "m", 50000, 30000);
            cr_assert_str_eq(pick(&s, (vv_compaction_style)style, 100, &level, &bottom), "1 ", "level %u",
                             at);
            cr_assert_eq(level, at == 3 ? 3 : at + 1);
            cr_assert(bottom, "they are dropped, so that the last level is not picked again");
        }
}

Test(tombstones, few_or_sparse_ones_are_left_alone) {
    for (int style = VV_COMPACTION_TIERED; style <= VV_COMPACTION_LEVELED; style++) {
        shape s = {0};
        add(&s, 1, 1, "a", "m", 10000, 10000);
        cr_assert_str_eq(pick(&s, (vv_compaction_style)style, VV_LSN_MAX, &level, &bottom), "");
        add(&s, 1, 1, "a", "m", 50000, 25000);
        cr_assert_str_eq(pick(&s, (vv_compaction_style)style, VV_LSN_MAX, &level, &bottom), "");
    }
}

Test(tombstones, a_merge_that_costs_too_much_for_what_it_frees_waits) {
    shape s = {0};
    add(&s, 1, 1, "a", "m", 20000, 20000);
    add(&s, 2, 1, "a", "m", 400000, 0);
    cr_assert_str_eq(pick(&s, VV_COMPACTION_LEVELED, VV_LSN_MAX, &level, &bottom), "");
    add(&s, 3, 1, "a", "m", 20000, 20000);
    add(&s, 3, 2, "a", "m", 400000, 0);
    cr_assert_str_eq(pick(&s, VV_COMPACTION_TIERED, VV_LSN_MAX, &level, &bottom), "");
}

/* ---- a queue ---- */

#define ITEMS 100000

static void open_db(const char *style) {
    fx_open_with(fx_options("COMPACTION_STYLE", style, "MEMTABLE_SIZE", "4MiB", NULL));
}

/* Put what is last, and fill and empty the queue before it. */
static void run_queue(void) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[32];
    fx_put("z", "last");
    for (int i = 0; i < ITEMS; i++) {
        snprintf(key, sizeof key, "item-%08d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), "payload", 7, &async, NULL)));
    }
    for (int i = 0; i < ITEMS; i++) {
        snprintf(key, sizeof key, "item-%08d", i);
        cr_assert(varve_ok(varve_delete(fx_db, key, strlen(key), &async, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
}

/* Does a seek to the first entry pass fewer than `limit` hidden ones? */
static bool first_is_cheap(uint64_t limit) {
    varve_iter_options o = {.skip_limit = limit};
    varve_iter *it;
    cr_assert(varve_ok(varve_iter_create(fx_db, &o, &it)));
    varve_iter_first(it);
    bool cheap = varve_iter_valid(it);
    varve_entry e;
    if (cheap) {
        varve_iter_entry(it, &e);
        cr_assert(e.key_bytes == 1 && *(const char *)e.key == 'z');
    } else {
        cr_assert_eq(varve_iter_status(it).code, VARVE_BUSY);
    }
    varve_iter_destroy(it);
    return cheap;
}

/* The merges under way get there; the test's timeout says when they don't. */
static void wait_until_first_is_cheap(uint64_t limit) {
    while (!first_is_cheap(limit))
        sched_yield();
}

static void queue_is_swept(const char *style) {
    /* All of it in one table: too few runs for a merge by the sizes of levels, which sweep by the way. */
    fx_open_with(fx_options("COMPACTION_STYLE", style, "MEMTABLE_SIZE", "64MiB", NULL));
    run_queue();
    cr_assert_eq(fx_stats().flushes, 1);
    /* A rest of less than half the keys, and of less than 10,000 keys of a run, may stay. */
    wait_until_first_is_cheap(25000);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert(first_is_cheap(1));
    fx_close();
}

Test(tombstones, a_queue_is_swept_without_being_asked_tiered) {
    queue_is_swept("tiered");
}

Test(tombstones, a_queue_is_swept_without_being_asked_leveled) {
    queue_is_swept("leveled");
}

/* varve_compact() returns when nothing is due any more: with merges that are picked for ever it never does.
 */
static void held_ones_end(const char *style) {
    open_db(style);
    varve_snapshot *snapshot = varve_snapshot_create(fx_db);
    run_queue();
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert(!first_is_cheap(ITEMS - 1), "the snapshot is older than the tombstones");
    uint64_t merges = fx_stats().compactions;
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_leq(fx_stats().compactions, merges + 1);
    varve_snapshot_release(fx_db, snapshot);
    wait_until_first_is_cheap(1);
    fx_close();
}

Test(tombstones, held_by_a_snapshot_they_wait_for_its_release_tiered) {
    held_ones_end("tiered");
}

Test(tombstones, held_by_a_snapshot_they_wait_for_its_release_leveled) {
    held_ones_end("leveled");
}

/* As a node that lags behind leaves it: nothing above this LSN may be dropped. */
static void set_safe_lsn(uint64_t lsn) {
    vv_io_backend *io;
    vv_manifest m;
    vv_table **tables;
    size_t count;
    const char *dir = vv_tempdir_path("db");
    cr_assert(vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, NULL)));
    cr_assert(vv_ok(vv_manifest_read(io, dir, &m, &tables, &count, drop, NULL, NULL)));
    m.safe_compaction_lsn = lsn;
    vv_version *v = vv_version_create(tables, count);
    cr_assert(vv_ok(vv_manifest_write(io, dir, &m, v, NULL, NULL)));
    vv_version_unref(v);
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    vv_io_backend_destroy(io);
}

static void gated_ones_end(const char *style) {
    open_db(style);
    fx_close();
    set_safe_lsn(1);
    open_db(style);
    run_queue();
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert(!first_is_cheap(ITEMS - 1), "the gate is closed");
    uint64_t merges = fx_stats().compactions;
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_leq(fx_stats().compactions, merges + 1);
    fx_close();
    set_safe_lsn(0);
    open_db(style);
    wait_until_first_is_cheap(1);
    fx_close();
}

Test(tombstones, behind_the_gate_they_wait_until_it_opens_tiered) {
    gated_ones_end("tiered");
}

Test(tombstones, behind_the_gate_they_wait_until_it_opens_leveled) {
    gated_ones_end("leveled");
}
