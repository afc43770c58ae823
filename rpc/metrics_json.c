/*
 * metrics_json.c - /dashboard.json: counters and the shape of the tree, for the page that draws them.
 *
 * It has what the text for Prometheus can't: every sorted run by itself, and spreads in full, [[bound,
 * count], ...] without their empty buckets. The page asks again and again and makes rates of the differences,
 * so that two people may look at once.
 */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "rpc/metrics_source.h"

/* Of those, the newest: more than fit on any screen. */
#define RUNS_MAX 500

static void spread(vv_exposition *e, const char *name, const vv_spread_copy *s) {
    const char *comma = "";
    vv_exposition_add(e, "\"%s\":[", name);
    for (uint32_t i = 0; i < VV_SPREAD_BUCKETS; i++) {
        if (s->counts[i] == 0)
            continue;
        /* JSON's numbers are doubles; the last bound is none. */
        uint64_t bound =
            i + 1 < VV_SPREAD_BUCKETS ? vv_spread_bound(i) : UINT64_C(2) * vv_spread_bound(i - 1);
        vv_exposition_add(e, "%s[%" PRIu64 ",%" PRIu64 "]", comma, bound, s->counts[i]);
        comma = ",";
    }
    vv_exposition_add(e, "]");
}

static void methods(vv_exposition *e, vv_metrics *metrics) {
    const char *comma = "";
    vv_exposition_add(e, ",\"methods\":[");
    for (size_t i = 0; i < vv_metrics_method_count(metrics); i++) {
        vv_method_metrics m;
        uint64_t count = 0;
        vv_metrics_collect(metrics, i, &m);
        for (size_t c = 0; c < VV_METRICS_CODES; c++)
            count += m.ended[c];
        if (count == 0)
            continue;
        vv_method_name n = vv_method_name_of(m.method);
        vv_exposition_add(e, "%s{\"service\":", comma);
        vv_exposition_json_text(e, n.service);
        vv_exposition_add(e, ",\"method\":");
        vv_exposition_json_text(e, n.method);
        vv_exposition_add(e, ",\"count\":%" PRIu64 ",\"failed\":%" PRIu64 ",", count,
                          count - m.ended[VV_RPC_OK]);
        spread(e, "us", &m.us);
        vv_exposition_add(e, "}");
        comma = ",";
    }
    vv_exposition_add(e, "]");
}

static void engine_spread(vv_exposition *e, varve_db *db, varve_spread_kind kind, const char *name) {
    varve_spread from;
    vv_spread_copy copy;
    varve_spread_get(db, kind, &from);
    memcpy(&copy, &from, sizeof copy);
    vv_exposition_add(e, ",");
    spread(e, name, &copy);
}

static void runs(vv_exposition *e, varve_db *db) {
    size_t count;
    varve_run_info *list = vv_metrics_runs(db, &count);
    vv_exposition_add(e, ",\"runs\":[");
    for (size_t i = 0; i < count && i < RUNS_MAX; i++)
        vv_exposition_add(e,
                          "%s{\"level\":%" PRIu32 ",\"tables\":%" PRIu64 ",\"bytes\":%" PRIu64
                          ",\"entries\":%" PRIu64 ",\"tombstones\":%" PRIu64 "}",
                          i > 0 ? "," : "", list[i].level, list[i].table_count, list[i].bytes,
                          list[i].entry_count, list[i].tombstone_count);
    vv_exposition_add(e, "]");
    vv_free(list);
}

static void compaction(vv_exposition *e, varve_db *db) {
    varve_compaction_info c;
    varve_compaction_get(db, &c);
    vv_exposition_add(e,
                      ",\"compaction\":{\"running\":%s,\"input_level\":%" PRIu32 ",\"output_level\":%" PRIu32
                      ",\"input_tables\":%" PRIu64 ",\"input_bytes\":%" PRIu64 ",\"done_bytes\":%" PRIu64
                      ",\"seconds\":%.3f}",
                      c.running ? "true" : "false", c.input_level, c.output_level, c.input_tables,
                      c.input_bytes, c.done_bytes,
                      c.running ? (double)(vv_clock_mono_ns() - c.started_ns) / 1e9 : 0);
}

static void engine(vv_exposition *e, const varve_stats *s) {
    const char *name;
    uint64_t value;
    vv_exposition_add(e, ",\"stats\":{");
    for (size_t i = 0; varve_stats_number(s, i, &name, &value); i++)
        vv_exposition_add(e, "%s\"%s\":%" PRIu64, i > 0 ? "," : "", name, value);
    vv_memory_kind kinds[VV_MEMORY_KINDS];
    vv_memory_kinds(s, kinds);
    vv_exposition_add(e, "},\"memory\":{");
    for (size_t i = 0; i < VV_MEMORY_KINDS; i++)
        vv_exposition_add(e, "%s\"%s\":%" PRIu64, i > 0 ? "," : "", kinds[i].name, kinds[i].bytes);
    vv_exposition_add(e, "}");
}

static void replication(vv_exposition *e, vv_replication *r) {
    vv_replica_info replicas[VARVE_SLOTS_MAX];
    size_t count = vv_replication_replicas(r, replicas);
    vv_lag_now lag = vv_replication_lag_now(r);
    vv_exposition_add(
        e, ",\"role\":\"%s\",\"lag_ms\":%" PRIu64 ",\"lag_lsn\":%" PRIu64 ",\"connected\":%s,\"replicas\":[",
        vv_role_name(vv_replication_role(r)), lag.ms, lag.lsn, lag.connected ? "true" : "false");
    for (size_t i = 0; i < count; i++) {
        vv_exposition_add(e, "%s{\"name\":", i > 0 ? "," : "");
        vv_exposition_json_text(e, replicas[i].slot.name);
        vv_exposition_add(e, ",\"connected\":%s,\"confirmed_lsn\":%" PRIu64 "}",
                          replicas[i].connected ? "true" : "false", replicas[i].slot.confirmed_lsn);
    }
    vv_exposition_add(e, "]");
}

void vv_metrics_json(const vv_metrics_source *s, vv_exposition *e) {
    vv_exposition_add(e, "{\"version\":\"%s\",\"now_us\":%" PRIu64 ",\"serving\":%s", varve_version(),
                      vv_clock_mono_ns() / VV_NS_PER_US,
                      s && atomic_load(&s->health->serving) ? "true" : "false");
    if (s) {
        varve_stats stats;
        varve_stats_get(s->db, &stats);
        vv_exposition_add(
            e, ",\"io_backend\":\"%s\",\"levels\":%" PRIu32 ",\"in_flight\":%" PRIu64 ",\"streams\":%" PRIu64,
            stats.io_backend, s->level_count, atomic_load(&s->gate->calls), atomic_load(&s->gate->streams));
        methods(e, s->metrics);
        engine(e, &stats);
        engine_spread(e, s->db, VARVE_SPREAD_WAL_COMMIT_US, "wal_commit_us");
        engine_spread(e, s->db, VARVE_SPREAD_WAL_COMMIT_RECORDS, "wal_commit_records");
        runs(e, s->db);
        compaction(e, s->db);
        replication(e, s->replication);
    }
    vv_exposition_add(e, "}\n");
}
