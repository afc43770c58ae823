/*
 * workloads.c - see workloads.h. Calls that may fail on a faulty disk are asked by sim_ok() whether they did.
 */
#include "tests/sim/workloads.h"

#include <stdlib.h>

#include "engine/db/db_impl.h"

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

/* The log is cut at an LSN, and goes on from there. */
WORKLOAD(rewind, leveled) {
    vv_error err = {0};
    uint64_t cut;
    sim_batch(w, 6, 1000, true);
    sim_flush(w);
    for (int i = 0; i < 3; i++)
        sim_put(w, (uint32_t)i, 100, true);
    uint64_t lsn = atomic_load(&sim_present(w)->told);
    for (int i = 0; i < 4; i++)
        sim_batch(w, 3, 500, true); /* far less than a memtable: what is in tables is not cut */
    if (w->log_failed || atomic_load(&sim_present(w)->told) <= lsn)
        return;
    sim_close(w);
    sim_go_back(w, lsn);
    vv_status st = vv_db_rewind_on(vv_sim_backend_create(w->disk), SIM_DB, NULL, lsn, "tail.log", &cut, &err);
    if (sim_ok(w, vv_public(st), err.text))
        sim_went_back(w, lsn);
    if (!sim_reopen(w))
        return;
    sim_batch(w, 3, 200, true);
}

/* A backup is put in the place of the database. */
WORKLOAD(install, tiered) {
    vv_error err = {0};
    varve_backup_info info;
    for (int i = 0; i < 4; i++)
        sim_batch(w, 6, 1000, true);
    if (!sim_ok(w, varve_backup(w->db, SIM_DB "/other", NULL, &info, NULL), "backup"))
        return;
    for (int i = 0; i < 4; i++)
        sim_batch(w, 6, 1000, i % 2 == 0);
    sim_flush(w);
    sim_close(w);
    sim_go_back(w, info.lsn);
    vv_status st = vv_db_install_on(vv_sim_backend_create(w->disk), SIM_DB, "other", NULL, NULL, &err);
    if (sim_ok(w, vv_public(st), err.text))
        sim_went_back(w, info.lsn);
    if (!sim_reopen(w))
        return;
    sim_batch(w, 3, 200, true);
}

static bool import_file(sim_world *w, varve_export *e, varve_import *import, size_t index) {
    static char buffer[8192];
    varve_import_file *file;
    varve_export_reader *reader;
    uint64_t offset;
    bool ok = sim_ok(w, varve_import_open(import, index, &file, &offset, NULL), "import a file");
    if (!ok || !file)
        return ok;
    ok = sim_ok(w, varve_export_open(w->db, e, e->files[index].name, &reader, NULL), "read a file");
    while (ok && offset < e->files[index].size) {
        size_t got;
        ok = sim_ok(w, varve_export_read(reader, offset, buffer, sizeof buffer, &got, NULL), "read a file") &&
             sim_ok(w, varve_import_write(file, buffer, got, NULL), "write a file");
        offset += got;
    }
    varve_export_close(reader);
    if (ok)
        return sim_ok(w, varve_import_close(file, NULL), "close a file");
    varve_import_abandon(file);
    return false;
}

/* A replica is made of an export; an import that breaks off is gone on with. */
WORKLOAD(import, leveled) {
    varve_export e;
    vv_error err = {0};
    varve_import *import;
    for (int i = 0; i < 3; i++)
        sim_batch(w, 6, 1500, true);
    if (!sim_ok(w, varve_take_snapshot(w->db, &e, NULL), "snapshot"))
        return;
    for (int turn = 0; turn < 2; turn++) {
        vv_status st = vv_db_import_begin_on(vv_sim_backend_create(w->disk), SIM_BACKUP, NULL, e.files,
                                             e.file_count, &import, &err);
        if (!sim_ok(w, vv_public(st), err.text))
            break;
        bool ok = true;
        for (size_t i = turn; ok && i < e.file_count; i++)
            ok = import_file(w, &e, import, i);
        if (turn == 1)
            ok = ok && import_file(w, &e, import, 0);
        if (turn == 1 && ok &&
            sim_ok(w, varve_import_finish(import, e.manifest, e.manifest_bytes, NULL), "finish"))
            atomic_store(&w->backup_lsn, e.lsn);
        else
            varve_import_end(import);
    }
    varve_export_release(w->db, &e);
    sim_put(w, 1, 100, true);
}

static vv_status make_backend(void *disk, vv_io_backend **out, vv_error *err) {
    (void)err;
    *out = vv_sim_backend_create(disk);
    return VV_STATUS_OK;
}

WORKLOAD(restore, leveled) {
    varve_restore_info info;
    for (int i = 0; i < 3; i++)
        sim_batch(w, 6, 1500, true);
    if (!sim_ok(w, varve_backup(w->db, "/first", NULL, NULL, NULL), "backup"))
        return;
    sim_put(w, 1, 100, true);
    if (sim_ok(w, vv_db_restore_on(make_backend, w->disk, "/first", SIM_BACKUP, NULL, &info, NULL),
               "restore"))
        atomic_store(&w->backup_lsn, info.lsn);
    sim_put(w, 2, 100, true);
}
