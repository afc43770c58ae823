/*
 * metrics_text.c - /metrics: one function for each part of the server, top to bottom as a reader would look.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "rpc/call_log.h"
#include "rpc/connection_limit.h"
#include "rpc/metrics_source.h"

/* 16 us to 67 s for calls, 1 us to 67 s for what is a part of them. */
#define CALL_LEAST 4
#define MOST       26
#define US         1e-6
#define MS         1e-3
#define MS_PER_S   1000

/* ---- shared with the JSON ---- */

vv_method_name vv_method_name_of(const vv_rpc_method *method) {
    vv_method_name n = {"unknown", "unknown"};
    const char *slash = method ? strrchr(method->path, '/') : NULL;
    if (slash) {
        snprintf(n.service, sizeof n.service, "%.*s", (int)(slash - method->path - 1), method->path + 1);
        snprintf(n.method, sizeof n.method, "%s", slash + 1);
    }
    return n;
}

void vv_memory_kinds(const varve_stats *s, vv_memory_kind out[VV_MEMORY_KINDS]) {
    const vv_memory_kind kinds[VV_MEMORY_KINDS] = {{"memtable", s->memtable_bytes},
                                                   {"immutable", s->immutable_bytes},
                                                   {"block_cache", s->cache_memory_bytes},
                                                   {"tables", s->table_memory_bytes},
                                                   {"wal", s->wal_memory_bytes},
                                                   {"io", s->io_memory_bytes},
                                                   {"cursors", s->cursor_memory_bytes},
                                                   {"retries", s->retry_memory_bytes},
                                                   {"heap_overhead", s->heap_overhead_bytes}};
    memcpy(out, kinds, sizeof kinds);
}

varve_run_info *vv_metrics_runs(varve_db *db, size_t *count_out) {
    size_t count = varve_runs_get(db, NULL, 0);
    *count_out = 0;
    if (count == 0)
        return NULL;
    varve_run_info *runs = vv_alloc(count * sizeof *runs);
    if (runs)
        *count_out = VV_MIN(varve_runs_get(db, runs, count), count); /* they may have become more, or fewer */
    return runs;
}

/* ---- samples ---- */

static void one(vv_exposition *e, const char *name, const char *type, const char *help, uint64_t value) {
    vv_exposition_family(e, name, type, help);
    vv_exposition_number(e, NULL, 0, value);
}

static void one_real(vv_exposition *e, const char *name, const char *type, const char *help, double value) {
    vv_exposition_family(e, name, type, help);
    vv_exposition_real(e, NULL, 0, value);
}

static void labelled(vv_exposition *e, const char *name, const char *value, uint64_t number) {
    const vv_label label = {name, value};
    vv_exposition_number(e, &label, 1, number);
}

static void engine_spread(vv_exposition *e, varve_db *db, varve_spread_kind kind, const char *name,
                          const char *help, uint32_t least, uint32_t most, double unit) {
    varve_spread spread;
    vv_spread_copy copy;
    varve_spread_get(db, kind, &spread);
    memcpy(&copy, &spread, sizeof copy); /* look.c asserts that they are the same */
    vv_exposition_family(e, name, "histogram", help);
    vv_exposition_spread(e, NULL, 0, &copy, least, most, unit);
}

/* ---- calls ---- */

/* One family after the other, as the format wants it; so all is collected first. */
static void calls(vv_exposition *e, vv_metrics *metrics) {
    size_t count = vv_metrics_method_count(metrics);
    vv_method_metrics *all = vv_alloc(count * sizeof *all);
    if (!all) {
        e->failed = true;
        return;
    }
    for (size_t i = 0; i < count; i++)
        vv_metrics_collect(metrics, i, &all[i]);
#define EACH_METHOD                                                                                          \
    for (size_t i = 0; i < count; i++)                                                                       \
        for (vv_method_name n = vv_method_name_of(all[i].method), *once = &n; once; once = NULL)
#define LABELS(...) (const vv_label[]){{"service", n.service}, {"method", n.method}, __VA_ARGS__}
    vv_exposition_family(e, "varve_rpc_requests_total", "counter", "Calls that are over, by how they ended.");
    EACH_METHOD
    for (size_t c = 0; c < VV_METRICS_CODES; c++)
        if (all[i].ended[c] > 0 || (c == VV_RPC_OK && all[i].method))
            vv_exposition_number(e, LABELS({"code", vv_rpc_code_name((vv_rpc_code)c)}), 3, all[i].ended[c]);
    vv_exposition_family(e, "varve_rpc_request_duration_seconds", "histogram",
                         "Unary calls from their arrival to their end.");
    EACH_METHOD
    if (all[i].method && all[i].method->kind == VV_RPC_UNARY)
        vv_exposition_spread(e, LABELS({NULL, NULL}), 2, &all[i].us, CALL_LEAST, MOST, US);
    vv_exposition_family(e, "varve_rpc_received_bytes_total", "counter",
                         "Bytes of messages received, of calls that are over.");
    EACH_METHOD
    vv_exposition_number(e, LABELS({NULL, NULL}), 2, all[i].received_bytes);
    vv_exposition_family(e, "varve_rpc_sent_bytes_total", "counter",
                         "Bytes of messages sent, of calls that are over.");
    EACH_METHOD
    vv_exposition_number(e, LABELS({NULL, NULL}), 2, all[i].sent_bytes);
#undef EACH_METHOD
#undef LABELS
    vv_free(all);
}

static void phases(vv_exposition *e, vv_metrics *metrics) {
    static const vv_label labels[VV_PHASE_COUNT][2] = {
        [VV_PHASE_WRITE_QUEUE] = {{"operation", "write"}, {"phase", "queue"}},
        [VV_PHASE_WRITE_WAL] = {{"operation", "write"}, {"phase", "wal"}},
        [VV_PHASE_WRITE_MEMTABLE] = {{"operation", "write"}, {"phase", "memtable"}},
        [VV_PHASE_READ_MEMORY] = {{"operation", "read"}, {"phase", "memory"}},
        [VV_PHASE_READ_BLOCK] = {{"operation", "read"}, {"phase", "block"}}};
    vv_exposition_family(e, "varve_phase_duration_seconds", "histogram",
                         "Where unary reads and writes spent their time in the engine.");
    for (int i = 0; i < VV_PHASE_COUNT; i++) {
        vv_spread_copy spread;
        vv_metrics_collect_phase(metrics, (vv_phase)i, &spread);
        vv_exposition_spread(e, labels[i], 2, &spread, 0, MOST, US);
    }
}

static void admission(vv_exposition *e, const vv_metrics_source *s) {
    vv_exposition_family(e, "varve_rpc_in_flight", "gauge", "Calls under way.");
    labelled(e, "kind", "unary", atomic_load(&s->gate->calls));
    labelled(e, "kind", "stream", atomic_load(&s->gate->streams));
    labelled(e, "kind", "open_stream", atomic_load(&s->gate->open_streams));
    one(e, "varve_rpc_in_flight_bytes", "gauge", "Bytes of the requests of calls under way.",
        atomic_load(&s->gate->bytes));
    one(e, "varve_rpc_overloaded_total", "counter", "Calls refused for want of room.",
        atomic_load(&s->gate->refused));
    one(e, "varve_connections_refused_total", "counter", "Connections beyond MAX_CONNECTIONS.",
        vv_connections_refused());
    one(e, "varve_snapshot_leases", "gauge", "Snapshots and page tokens held for clients.",
        vv_leases_count(s->leases));
    one(e, "varve_export_leases", "gauge", "Snapshots of files held for replicas.",
        vv_leases_count(s->exports->leases));
}

/* ---- users ---- */

typedef struct user_list {
    const vv_user *users[VV_METRICS_USERS_MAX];
    size_t count;
} user_list;

static void keep_user(void *arg, const vv_user *user) {
    user_list *list = arg;
    bool limited = vv_rate_bucket_get(&user->reads).per_second ||
                   vv_rate_bucket_get(&user->writes).per_second ||
                   atomic_load_explicit(&user->limited_reads, memory_order_relaxed) ||
                   atomic_load_explicit(&user->limited_writes, memory_order_relaxed);
    if (limited && list->count < VV_METRICS_USERS_MAX)
        list->users[list->count++] = user;
}

static void users(vv_exposition *e, const vv_users *all) {
    static const char *const operations[] = {"read", "write"};
    user_list list = {.count = 0};
    vv_users_each(all, keep_user, &list);
    vv_exposition_family(e, "varve_user_rate_limit", "gauge",
                         "Operations a second that a user may make; 0: no limit. Users with limits alone.");
    for (size_t i = 0; i < list.count; i++)
        for (int w = 0; w < 2; w++) {
            const vv_user *u = list.users[i];
            const vv_label labels[] = {{"user", u->name}, {"operation", operations[w]}};
            vv_exposition_number(e, labels, 2, vv_rate_bucket_get(w ? &u->writes : &u->reads).per_second);
        }
    vv_exposition_family(e, "varve_user_rate_limited_total", "counter",
                         "Operations refused with RATE_LIMITED.");
    for (size_t i = 0; i < list.count; i++)
        for (int w = 0; w < 2; w++) {
            const vv_user *u = list.users[i];
            const vv_label labels[] = {{"user", u->name}, {"operation", operations[w]}};
            vv_exposition_number(
                e, labels, 2,
                atomic_load_explicit(w ? &u->limited_writes : &u->limited_reads, memory_order_relaxed));
        }
}

/* ---- the engine ---- */

static void positions(vv_exposition *e, const varve_stats *s) {
    one(e, "varve_last_lsn", "gauge", "Newest LSN that reads see.", s->last_lsn);
    one(e, "varve_durable_lsn", "gauge", "Newest LSN that survives power loss.", s->durable_lsn);
    one(e, "varve_flushed_lsn", "gauge", "Everything up to here is in tables.", s->flushed_lsn);
    one(e, "varve_safe_compaction_lsn", "gauge", "Tombstones of newer LSNs are kept; 0: no gate.",
        s->safe_compaction_lsn);
}

static void wal(vv_exposition *e, varve_db *db, const varve_stats *s) {
    one(e, "varve_wal_failed", "gauge", "1: the log has failed, writes are refused until a restart.",
        s->wal_failed);
    one(e, "varve_wal_commits_total", "counter", "Writes of the log that were synced.", s->wal_commits);
    one(e, "varve_wal_records_total", "counter", "Batches in them.", s->wal_records);
    one(e, "varve_wal_written_bytes_total", "counter", "Bytes written to the log.", s->wal_bytes);
    one(e, "varve_wal_segments", "gauge", "Segments of the log.", s->wal_segment_count);
    engine_spread(e, db, VARVE_SPREAD_WAL_COMMIT_US, "varve_wal_commit_duration_seconds",
                  "Write and sync of the log, one commit.", CALL_LEAST, MOST, US);
    engine_spread(e, db, VARVE_SPREAD_WAL_COMMIT_RECORDS, "varve_wal_commit_records",
                  "Batches that share one commit.", 0, 14, 1);
    one(e, "varve_retried_writes_total", "counter", "Writes answered as done already.", s->retried_writes);
}

static void memtables(vv_exposition *e, varve_db *db, const varve_stats *s) {
    one(e, "varve_memtable_bytes", "gauge", "The memtable that takes writes.", s->memtable_bytes);
    one(e, "varve_immutable_memtables", "gauge", "Sealed memtables that wait for flush.", s->immutable_count);
    one(e, "varve_immutable_memtable_bytes", "gauge", "Their bytes.", s->immutable_bytes);
    one(e, "varve_flushes_total", "counter", "Memtables written to tables.", s->flushes);
    one(e, "varve_flush_written_bytes_total", "counter", "Bytes of the tables that flushes wrote.",
        s->flush_bytes);
    engine_spread(e, db, VARVE_SPREAD_FLUSH_US, "varve_flush_duration_seconds", "One flush.", 10, MOST, US);
    one(e, "varve_write_stalls_total", "counter", "Writes that had to wait for a flush.", s->write_stalls);
    one(e, "varve_write_delays_total", "counter", "Pauses of the writer, so that flushes and merges keep up.",
        s->write_delays);
    one_real(e, "varve_write_delay_seconds_total", "counter", "How long they were together.",
             (double)s->write_delay_us * US);
}

static void compaction(vv_exposition *e, varve_db *db, const varve_stats *s) {
    varve_compaction_info now;
    varve_compaction_get(db, &now);
    one(e, "varve_compactions_total", "counter", "Merges.", s->compactions);
    one(e, "varve_compaction_running", "gauge", "1: a merge is under way.", now.running);
    one(e, "varve_compaction_read_bytes_total", "counter", "Bytes of the tables that merges read.",
        s->compaction_read_bytes);
    one(e, "varve_compaction_written_bytes_total", "counter", "Bytes of the tables that merges wrote.",
        s->compaction_written_bytes);
    engine_spread(e, db, VARVE_SPREAD_COMPACTION_US, "varve_compaction_duration_seconds", "One merge.", 10,
                  MOST, US);
    one(e, "varve_compaction_debt_bytes", "gauge", "Bytes that wait to be merged.", s->compaction_debt_bytes);
    double flushed = (double)s->flush_bytes;
    one_real(e, "varve_write_amplification_ratio", "gauge",
             "Bytes of tables written since the start, for each that a flush wrote; 0: none yet.",
             flushed > 0 ? (flushed + (double)s->compaction_written_bytes) / flushed : 0);
    one(e, "varve_compaction_dropped_versions_total", "counter", "Overwritten versions that merges dropped.",
        s->dropped_versions);
    one(e, "varve_compaction_dropped_tombstones_total", "counter", "Tombstones that merges dropped.",
        s->dropped_tombstones);
    one(e, "varve_damaged_tables", "gauge", "Tables that merges could not read.", s->damaged_tables);
}

static void levels(vv_exposition *e, varve_db *db, uint32_t level_count, const varve_stats *s) {
    static const struct {
        const char *name, *help;
        size_t offset;
    } families[] = {
        {"varve_level_bytes", "Bytes of the tables of a level.", offsetof(varve_run_info, bytes)},
        {"varve_level_tables", "Tables of a level.", offsetof(varve_run_info, table_count)},
        {"varve_level_entries", "Entries in a level, tombstones included.",
         offsetof(varve_run_info, entry_count)},
        {"varve_level_tombstones", "Keys deleted in a level.", offsetof(varve_run_info, tombstone_count)}};
    size_t count;
    varve_run_info *runs = vv_metrics_runs(db, &count);
    for (size_t i = 0; i < count; i++)
        level_count = VV_MAX(level_count, runs[i].level + 1);
    one(e, "varve_sstables", "gauge", "Tables on the disk.", s->sstable_count);
    one(e, "varve_sstable_bytes", "gauge", "Their bytes.", s->sstable_bytes);
    one(e, "varve_sorted_runs", "gauge", "Sorted runs that a read may look into: read amplification.",
        s->sorted_run_count);
    vv_exposition_family(e, "varve_level_runs", "gauge", "Sorted runs of a level.");
    for (uint32_t level = 0; level < level_count; level++) {
        char name[16];
        uint64_t in_level = 0;
        snprintf(name, sizeof name, "%u", level);
        for (size_t i = 0; i < count; i++)
            in_level += runs[i].level == level;
        labelled(e, "level", name, in_level);
    }
    for (size_t f = 0; f < VV_ARRAY_COUNT(families); f++) {
        vv_exposition_family(e, families[f].name, "gauge", families[f].help);
        for (uint32_t level = 0; level < level_count; level++) {
            char name[16];
            uint64_t sum = 0, value;
            snprintf(name, sizeof name, "%u", level);
            for (size_t i = 0; i < count; i++) {
                memcpy(&value, (const char *)&runs[i] + families[f].offset, sizeof value);
                sum += runs[i].level == level ? value : 0;
            }
            labelled(e, "level", name, sum);
        }
    }
    vv_free(runs);
}

static void memory(vv_exposition *e, const varve_stats *s) {
    vv_memory_kind kinds[VV_MEMORY_KINDS];
    one(e, "varve_block_cache_hits_total", "counter", "Blocks found in the cache.", s->cache_hits);
    one(e, "varve_block_cache_misses_total", "counter", "Blocks that had to be read.", s->cache_misses);
    one(e, "varve_block_cache_bytes", "gauge", "Blocks in the cache.", s->cache_bytes);
    one(e, "varve_open_tables", "gauge", "Tables that are open.", s->open_tables);
    vv_memory_kinds(s, kinds);
    vv_exposition_family(e, "varve_memory_bytes", "gauge", "Memory of the engine, by what it is for.");
    for (size_t i = 0; i < VV_MEMORY_KINDS; i++)
        labelled(e, "kind", kinds[i].name, kinds[i].bytes);
}

/* ---- replication ---- */

static void followers(vv_exposition *e, vv_replication *replication, const varve_stats *s) {
    vv_replica_info replicas[VARVE_SLOTS_MAX];
    size_t count = vv_replication_replicas(replication, replicas);
    vv_exposition_family(e, "varve_replica_connected", "gauge", "1: this follower streams from here.");
    for (size_t i = 0; i < count; i++)
        labelled(e, "replica", replicas[i].slot.name, replicas[i].connected);
    vv_exposition_family(e, "varve_replica_lost", "gauge",
                         "1: this follower was too far behind, and has to begin anew.");
    for (size_t i = 0; i < count; i++)
        labelled(e, "replica", replicas[i].slot.name, replicas[i].slot.lost);
    vv_exposition_family(e, "varve_replica_lag_lsn", "gauge",
                         "LSNs that are durable here and that it has not confirmed.");
    for (size_t i = 0; i < count; i++) {
        uint64_t lsn = replicas[i].slot.confirmed_lsn;
        labelled(e, "replica", replicas[i].slot.name, s->durable_lsn > lsn ? s->durable_lsn - lsn : 0);
    }
    vv_exposition_family(e, "varve_replica_held_bytes", "gauge", "Bytes of log that are kept for it.");
    for (size_t i = 0; i < count; i++)
        labelled(e, "replica", replicas[i].slot.name, replicas[i].slot.held_bytes);
}

static void replication(vv_exposition *e, vv_replication *r, const varve_stats *s) {
    vv_exposition_family(e, "varve_replication_role", "gauge", "1: what this server is.");
    for (int role = VV_ROLE_PRIMARY; role <= VV_ROLE_SUPERSEDED; role++)
        labelled(e, "role", vv_role_name((vv_role)role), vv_replication_role(r) == (vv_role)role);
    one(e, "varve_replication_epoch", "gauge", "Primaries that the log has had.", s->epoch);
    one(e, "varve_replication_quorum", "gauge", "Followers that must have a write before it is acknowledged.",
        vv_replication_quorum(r));
    one(e, "varve_unconfirmed_writes", "gauge", "Writes that wait for followers.", s->unconfirmed_writes);
    vv_lag_now lag = vv_replication_lag_now(r);
    one(e, "varve_replication_connected", "gauge", "1: a follower that hears of its primary.", lag.connected);
    one(e, "varve_replication_lag_lsn", "gauge", "LSNs that a follower is behind.", lag.lsn);
    one(e, "varve_replication_lag_bytes", "gauge", "Bytes of log that a follower is behind.", lag.bytes);
    one_real(e, "varve_replication_lag_seconds", "gauge", "Since when a follower has not had everything.",
             (double)lag.ms * MS);
    one(e, "varve_replication_slots_lost_total", "counter", "Followers that were given up.", s->slots_lost);
    followers(e, r, s);
}

static void archive(vv_exposition *e, varve_archive *a) {
    varve_archive_info info;
    if (!a)
        return;
    varve_archive_get(a, &info);
    one(e, "varve_archive_last_lsn", "gauge", "Everything up to here is in the archive.", info.last_lsn);
    one(e, "varve_archive_bytes", "gauge", "Bytes of the archive.", info.bytes);
    one(e, "varve_archive_gaps_total", "counter",
        "Times that records were gone before they could be archived.", info.gaps);
    one(e, "varve_archive_failing", "gauge", "1: the newest try to archive has failed.",
        !varve_ok(info.status));
}

/* ---- the whole ---- */

static void about(vv_exposition *e, const vv_metrics_source *s, const char *io_backend) {
    const vv_label build[] = {{"version", varve_version()}, {"io_backend", io_backend}};
    vv_exposition_family(e, "varve_build_info", "gauge", "Always 1; the labels say what runs.");
    vv_exposition_number(e, build, 2, 1);
    one(e, "varve_ready", "gauge", "1: /readyz says so.", s && atomic_load(&s->health->serving));
}

static void configuration(vv_exposition *e, const vv_reload *r) {
    vv_reload_state last = vv_reload_state_get(r);
    one(e, "varve_config_reload_success", "gauge",
        "1: the newest reload of the configuration, or the start, went well; 0: it was refused.", last.ok);
    one(e, "varve_config_reload_success_timestamp_seconds", "gauge",
        "When the newest one that went well did, Unix time.", last.ok_unix_ms / MS_PER_S);
}

void vv_metrics_text(const vv_metrics_source *s, vv_exposition *e) {
    varve_stats stats;
    if (!s) {
        about(e, NULL, "none");
        vv_process_text(e);
        return;
    }
    varve_stats_get(s->db, &stats);
    about(e, s, stats.io_backend);
    calls(e, s->metrics);
    phases(e, s->metrics);
    admission(e, s);
    users(e, s->users);
    positions(e, &stats);
    wal(e, s->db, &stats);
    memtables(e, s->db, &stats);
    compaction(e, s->db, &stats);
    levels(e, s->db, s->level_count, &stats);
    memory(e, &stats);
    replication(e, s->replication, &stats);
    archive(e, s->archive);
    configuration(e, s->reload);
    vv_process_text(e);
}
