/*
 * stats.c - figures of a running database, and the names of its statuses.
 */
#include "base/alloc.h"
#include "base/arena.h"
#include <stddef.h>
#include <string.h>

#include "engine/db/db_impl.h"

/* The public codes are the internal ones. */
#define X(name, number, text)                                                                                \
    _Static_assert(VARVE_##name == (number), "varve.h agrees with base/status.h on " #name);
VV_STATUS_CODES(X)
#undef X

const char *varve_code_name(uint16_t code) {
    return vv_code_name(code);
}

const char *varve_code_text(uint16_t code) {
    return vv_code_text(code);
}

const char *varve_reason_name(uint16_t reason) {
    return vv_sub_name(reason);
}

const char *varve_reason_text(uint16_t reason) {
    return vv_sub_text(reason);
}

const char *varve_version(void) {
    return VARVE_VERSION_STRING;
}

void varve_stats_get(varve_db *db, varve_stats *out) {
    *out = (varve_stats){.io_backend = vv_io_backend_name(db->io)};
    out->last_lsn = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
    out->wal_failed = atomic_load_explicit(&db->wal_failed, memory_order_relaxed);

    vv_mutex_lock(&db->state.lock);
    const vv_view *view = db->state.view;
    out->memtable_bytes = vv_memtable_bytes(view->active);
    out->immutable_count = view->sealed_count;
    for (uint32_t i = 0; i < view->sealed_count; i++)
        out->immutable_bytes += vv_memtable_bytes(view->sealed[i]);
    out->sstable_count = view->version->table_count;
    for (size_t i = 0; i < view->version->table_count; i++)
        out->sstable_bytes += view->version->tables[i]->summary.file_bytes;
    out->sorted_run_count = view->version->run_count;
    vv_picker_options picker = vv_db_picker_options(db);
    out->compaction_debt_bytes = vv_compaction_debt_bytes(view->version, &picker);
    for (size_t i = 0; i < view->version->table_count; i++)
        out->damaged_tables += vv_table_is_unreadable(view->version->tables[i]);
    out->flushed_lsn = db->state.manifest.flushed_lsn;
    out->epoch = vv_manifest_epoch(&db->state.manifest);
    out->promised_epoch = db->state.manifest.promised_epoch;
    out->safe_compaction_lsn = vv_db_safe_lsn(db);
    out->commit_limit = atomic_load_explicit(&db->limit.lsn, memory_order_relaxed);
    out->unconfirmed_writes = atomic_load_explicit(&db->waiting.count, memory_order_relaxed);
    out->flushes = db->state.flushes;
    out->flush_bytes = db->state.flush_bytes;
    out->write_stalls = db->state.write_stalls;
    vv_mutex_unlock(&db->state.lock);

    vv_mutex_lock(&db->slots.lock);
    out->slots = db->slots.count;
    out->slots_lost = db->slots.lost;
    vv_mutex_unlock(&db->slots.lock);

    out->write_delays = atomic_load_explicit(&db->flow.delays, memory_order_relaxed);
    out->write_delay_us = atomic_load_explicit(&db->flow.delay_us, memory_order_relaxed);

    vv_mutex_lock(&db->compaction.lock);
    out->compactions = db->compaction.runs;
    out->compaction_read_bytes = db->compaction.read_bytes;
    out->compaction_written_bytes = db->compaction.written_bytes;
    out->dropped_versions = db->compaction.dropped_versions;
    out->dropped_tombstones = db->compaction.dropped_tombstones;
    vv_mutex_unlock(&db->compaction.lock);

    vv_wal_stats wal;
    vv_wal_stats_get(db->wal, &wal);
    out->durable_lsn = wal.durable_lsn;
    out->wal_segment_count = wal.segment_count;
    out->wal_bytes = wal.written_bytes;
    out->wal_commits = wal.commits;
    out->wal_records = wal.records;

    vv_block_cache_stats cache;
    vv_block_cache_stats_get(db->blocks, &cache);
    out->cache_bytes = cache.bytes;
    out->cache_hits = cache.hits;
    out->cache_misses = cache.misses;
    out->open_tables = vv_table_cache_open_count(db->tables);

    out->cache_memory_bytes = cache.memory_bytes;
    out->table_memory_bytes = vv_table_cache_memory_bytes(db->tables);
    out->wal_memory_bytes = wal.memory_bytes;
    out->io_memory_bytes = atomic_load_explicit(&db->io_memory_bytes, memory_order_relaxed);
    out->cursor_memory_bytes = vv_budget_used(&db->reader.budget);
    out->retry_memory_bytes = vv_retry_memory_bytes(&db->commit.retry);
    out->retried_writes = atomic_load_explicit(&db->commit.retried_writes, memory_order_relaxed);
    vv_alloc_overhead_refresh();
    out->heap_overhead_bytes = vv_alloc_overhead_bytes() + vv_arena_overhead_bytes();
    out->memory_bytes = out->memtable_bytes + out->immutable_bytes + out->cache_memory_bytes +
                        out->table_memory_bytes + out->wal_memory_bytes + out->io_memory_bytes +
                        out->cursor_memory_bytes + out->retry_memory_bytes + out->heap_overhead_bytes;
}

uint64_t varve_visible_lsn(varve_db *db) {
    return atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
}

uint64_t varve_durable_lsn(varve_db *db) {
    vv_wal_stats wal;
    vv_wal_stats_get(db->wal, &wal);
    return wal.durable_lsn;
}

bool varve_stats_number(const varve_stats *s, size_t index, const char **name_out, uint64_t *value_out) {
    static const struct {
        const char *name;
        size_t offset;
    } fields[] = {
#define FIELD(name) {#name, offsetof(varve_stats, name)}
        FIELD(last_lsn),
        FIELD(durable_lsn),
        FIELD(flushed_lsn),
        FIELD(memtable_bytes),
        FIELD(immutable_count),
        FIELD(immutable_bytes),
        FIELD(sstable_count),
        FIELD(sstable_bytes),
        FIELD(wal_segment_count),
        FIELD(wal_bytes),
        FIELD(wal_commits),
        FIELD(wal_records),
        FIELD(flushes),
        FIELD(write_stalls),
        FIELD(write_delays),
        FIELD(write_delay_us),
        FIELD(sorted_run_count),
        FIELD(compactions),
        FIELD(compaction_read_bytes),
        FIELD(compaction_written_bytes),
        FIELD(compaction_debt_bytes),
        FIELD(damaged_tables),
        FIELD(dropped_versions),
        FIELD(dropped_tombstones),
        FIELD(safe_compaction_lsn),
        FIELD(epoch),
        FIELD(promised_epoch),
        FIELD(commit_limit),
        FIELD(unconfirmed_writes),
        FIELD(slots),
        FIELD(slots_lost),
        FIELD(cache_bytes),
        FIELD(cache_hits),
        FIELD(cache_misses),
        FIELD(open_tables),
        FIELD(memory_bytes),
        FIELD(cache_memory_bytes),
        FIELD(table_memory_bytes),
        FIELD(wal_memory_bytes),
        FIELD(io_memory_bytes),
        FIELD(cursor_memory_bytes),
        FIELD(retry_memory_bytes),
        FIELD(heap_overhead_bytes),
        FIELD(flush_bytes),
        FIELD(retried_writes),
#undef FIELD
    };
    *name_out = "";
    *value_out = 0;
    if (index > VV_ARRAY_COUNT(fields))
        return false;
    if (index == VV_ARRAY_COUNT(fields)) {
        *name_out = "wal_failed";
        *value_out = s->wal_failed;
        return true;
    }
    *name_out = fields[index].name;
    memcpy(value_out, (const char *)s + fields[index].offset, sizeof *value_out);
    return true;
}
