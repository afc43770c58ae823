/*
 * workloads.c - see workloads.h. Calls that may fail on a faulty disk are asked by sim_ok() whether they did.
 */
#include "tests/sim/workloads.h"

#define WORKLOAD(title, list)                                                                                \
    static void run_##title(sim_world *w);                                                                   \
    const sim_workload sim_workload_##title = {.name = #title, .options = list, .run = run_##title};         \
    static void run_##title(sim_world *w)

static const char *const leveled[] = {"COMPACTION_STYLE", "leveled", "COMPACTION_THRESHOLD", "2", NULL};
static const char *const tiered[] = {
    "COMPACTION_STYLE", "tiered", "COMPACTION_THRESHOLD", "2", "COMPRESSION", "zstd", NULL};

WORKLOAD(writes, leveled) {
    for (int i = 0; i < 24; i++) {
        sim_put(w, (uint32_t)sim_random(w, SIM_KEYS), (uint32_t)sim_random(w, 200), true);
        if (i % 5 == 0)
            sim_delete(w, (uint32_t)sim_random(w, SIM_KEYS), true);
    }
}

WORKLOAD(batches_and_async, tiered) {
    for (int i = 0; i < 12; i++) {
        sim_batch(w, 1 + (uint32_t)sim_random(w, 8), 100, i % 3 == 0);
        sim_put(w, (uint32_t)sim_random(w, SIM_KEYS), 5000, false);
    }
    sim_put(w, 0, 10, true);
}

/* Values of several frames, and memtables that fill up. */
WORKLOAD(flushes, leveled) {
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

WORKLOAD(leveled_merges, leveled) {
    merge_often(w);
}

WORKLOAD(tiered_merges, tiered) {
    merge_often(w);
}

/* Segments of 256 KiB are filled, freed by flushes, and used again. */
WORKLOAD(recycled_segments, leveled) {
    for (int i = 0; i < 24; i++) {
        sim_put(w, (uint32_t)sim_random(w, 8), 30000, true);
        if (i % 8 == 7)
            sim_flush(w);
    }
}

WORKLOAD(expiry, tiered) {
    for (int i = 0; i < 8; i++) {
        sim_put_expiring(w, (uint32_t)sim_random(w, 8), 200, i % 2 == 0);
        sim_put_expiring(w, (uint32_t)sim_random(w, 8), 200, i % 3 == 0);
        if (i == 4)
            sim_flush(w);
    }
    sim_compact(w);
}

/* What only the manifest has: promises and epochs, slots, the safe compaction LSN. */
WORKLOAD(manifest_changes, leveled) {
    sim_put(w, 3, 100, true);
    atomic_store(&w->told_slot, true);
    if (sim_ok(w, varve_slot_create(w->db, "s", 1, NULL), "slot"))
        atomic_store(&w->has_slot, true);
    if (sim_ok(w, varve_promise_epoch(w->db, 3, NULL), "promise"))
        atomic_store(&w->promised_epoch, 3);
    sim_delete(w, 3, true);
    if (sim_ok(w, varve_begin_epoch(w->db, 4, NULL), "epoch"))
        atomic_store(&w->promised_epoch, 4);
    sim_put(w, 4, 100, true);
    if (atomic_load(&w->has_slot) && !w->log_failed)
        (void)sim_ok(w, varve_slot_confirm(w->db, "s", 2), "confirm");
    sim_flush(w);
    atomic_store(&w->has_slot, false);
    if (sim_ok(w, varve_slot_drop(w->db, "s", NULL), "drop"))
        atomic_store(&w->told_slot, false);
    if (sim_ok(w, varve_set_safe_compaction_lsn(w->db, 2, NULL), "safe LSN"))
        atomic_store(&w->safe_lsn, 2);
    sim_put(w, 5, 100, true);
}

/* A snapshot is held while merges would remove its tables, and a backup is made of it. */
WORKLOAD(snapshot_export, leveled) {
    varve_export e;
    varve_backup_info info;
    for (int k = 0; k < 6; k++)
        sim_batch(w, 6, 1000, true);
    bool taken = sim_ok(w, varve_take_snapshot(w->db, &e, NULL), "snapshot");
    sim_batch(w, 6, 1000, true);
    sim_compact(w);
    if (taken)
        varve_export_release(w->db, &e);
    if (sim_ok(w, varve_backup(w->db, SIM_BACKUP, NULL, &info, NULL), "backup"))
        atomic_store(&w->backup_lsn, info.lsn);
    sim_batch(w, 6, 1000, true);
    sim_compact(w);
}
