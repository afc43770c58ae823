/*
 * The power is cut after every single I/O of small workloads, and again after every I/O of the recoveries.
 *
 *     VARVE_TEST_SEED      replays a run
 *     VARVE_SIM_STRIDE     every n-th recovery is crashed, too; 1: each (the long mode); the default suits CI
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/crash.h"
#include "tests/support/tempdir.h"

TestSuite(crash_points, .timeout = 3600);

static const char *const leveled[] = {"COMPACTION_STYLE", "leveled", "COMPACTION_THRESHOLD", "2", NULL};
static const char *const tiered[] = {
    "COMPACTION_STYLE", "tiered", "COMPACTION_THRESHOLD", "2", "COMPRESSION", "zstd", NULL};

static void check(const char *name, const char *const *options, void (*run)(sim_world *), uint32_t stride) {
    const char *wanted = getenv("VARVE_SIM_STRIDE");
    sim_workload workload = {.name = name, .options = options, .run = run};
    sim_crash_totals t =
        sim_crash_everywhere(&workload, vv_test_seed(), wanted ? (uint32_t)atoi(wanted) : stride);
    fprintf(stderr,
            "%s: %" PRIu64 " crash points, %" PRIu64 " images; in recoveries %" PRIu64
            " crash points, %" PRIu64 " images; trace %016" PRIx64 "\n",
            name, t.events, t.images, t.recovery_events, t.recovery_images, t.trace_hash);
    cr_assert_gt(t.events, 10u);
}

#define CRASHES(name, options, stride)                                                                       \
    static void run_##name(sim_world *w);                                                                    \
    Test(crash_points, name) {                                                                               \
        check(#name, options, run_##name, stride);                                                           \
    }                                                                                                        \
    static void run_##name(sim_world *w)

CRASHES(writes, leveled, 61) {
    for (int i = 0; i < 24; i++) {
        sim_put(w, (uint32_t)sim_random(w, SIM_KEYS), (uint32_t)sim_random(w, 200), true);
        if (i % 5 == 0)
            sim_delete(w, (uint32_t)sim_random(w, SIM_KEYS), true);
    }
}

CRASHES(batches_and_async, tiered, 41) {
    for (int i = 0; i < 12; i++) {
        sim_batch(w, 1 + (uint32_t)sim_random(w, 8), 100, i % 3 == 0);
        sim_put(w, (uint32_t)sim_random(w, SIM_KEYS), 5000, false);
    }
    sim_put(w, 0, 10, true);
}

/* Values of several frames, and memtables that fill up. */
CRASHES(flushes, leveled, 97) {
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 5; k++)
            sim_put(w, (uint32_t)sim_random(w, SIM_KEYS), 3000, k % 2 == 0);
        sim_batch(w, 6, 400, true);
        sim_flush(w);
    }
}

static void merge_often(sim_world *w) {
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 6; k++)
            sim_batch(w, 6, 1500, k == 5);
        sim_flush(w);
        sim_delete(w, (uint32_t)sim_random(w, SIM_KEYS), true);
    }
    sim_compact(w);
    sim_put(w, 1, 100, true);
}

CRASHES(leveled_merges, leveled, 131) {
    merge_often(w);
}

CRASHES(tiered_merges, tiered, 131) {
    merge_often(w);
}

/* Segments of 256 KiB are filled, freed by flushes, and used again. */
CRASHES(recycled_segments, leveled, 601) {
    for (int i = 0; i < 24; i++) {
        sim_put(w, (uint32_t)sim_random(w, 8), 30000, true);
        if (i % 8 == 7)
            sim_flush(w);
    }
}

CRASHES(expiry, tiered, 97) {
    for (int i = 0; i < 8; i++) {
        sim_put_expiring(w, (uint32_t)sim_random(w, 8), 200, i % 2 == 0);
        sim_put_expiring(w, (uint32_t)sim_random(w, 8), 200, i % 3 == 0);
        if (i == 4)
            sim_flush(w);
    }
    sim_compact(w);
}

/* What only the manifest has: promises and epochs, slots, the safe compaction LSN. */
CRASHES(manifest_changes, leveled, 61) {
    varve_error err = {0};
    sim_put(w, 3, 100, true);
    atomic_store(&w->told_slot, true);
    cr_assert(varve_ok(varve_slot_create(w->db, "s", 1, &err)), "%s", err.text);
    atomic_store(&w->has_slot, true);
    cr_assert(varve_ok(varve_promise_epoch(w->db, 3, &err)), "%s", err.text);
    atomic_store(&w->promised_epoch, 3);
    sim_delete(w, 3, true);
    cr_assert(varve_ok(varve_begin_epoch(w->db, 4, &err)), "%s", err.text);
    atomic_store(&w->promised_epoch, 4);
    sim_put(w, 4, 100, true);
    cr_assert(varve_ok(varve_slot_confirm(w->db, "s", 2)));
    sim_flush(w);
    atomic_store(&w->has_slot, false);
    cr_assert(varve_ok(varve_slot_drop(w->db, "s", &err)), "%s", err.text);
    atomic_store(&w->told_slot, false);
    cr_assert(varve_ok(varve_set_safe_compaction_lsn(w->db, 2, &err)), "%s", err.text);
    atomic_store(&w->safe_lsn, 2);
    sim_put(w, 5, 100, true);
}

/* A snapshot is held while merges would remove its tables, and a backup is made of it. */
CRASHES(snapshot_export, leveled, 151) {
    varve_export e;
    varve_error err = {0};
    varve_backup_info info;
    for (int k = 0; k < 6; k++)
        sim_batch(w, 6, 1000, true);
    cr_assert(varve_ok(varve_take_snapshot(w->db, &e, &err)), "%s", err.text);
    sim_batch(w, 6, 1000, true);
    sim_compact(w);
    varve_export_release(w->db, &e);
    cr_assert(varve_ok(varve_backup(w->db, "/backup", NULL, &info, &err)), "%s", err.text);
    atomic_store(&w->backup_lsn, info.lsn);
    sim_batch(w, 6, 1000, true);
    sim_compact(w);
}
