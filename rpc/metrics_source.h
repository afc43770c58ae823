/*
 * metrics_source.h - all that a server has in numbers, as Prometheus reads it and as the dashboard does.
 *
 * Everything is asked for when somebody looks: counters are read where they are kept, under locks that are
 * held for a moment. Names follow Prometheus' conventions: base units (seconds, bytes), _total for what only
 * grows.
 */
#ifndef VV_RPC_METRICS_SOURCE_H
#define VV_RPC_METRICS_SOURCE_H

#include "engine/varve.h"
#include "rpc/exposition.h"
#include "rpc/metrics.h"
#include "rpc/reload.h"
#include "rpc/service.h"

/* Users in the text: those with limits or refusals, and no more than so many. */
#define VV_METRICS_USERS_MAX 200

/* All borrowed. */
typedef struct vv_metrics_source {
    varve_db *db;
    vv_metrics *metrics;
    const vv_gate *gate;
    const vv_users *users;
    vv_leases *leases;
    const vv_exports *exports;
    vv_replication *replication;
    varve_archive *archive; /* NULL: none */
    vv_health *health;
    const vv_reload *reload;
    uint32_t level_count; /* LSM_LEVELS */
} vv_metrics_source;

/* The text format of Prometheus. source NULL: there is no server at the moment, and the process alone is told
 * of. Any thread. */
void vv_metrics_text(const vv_metrics_source *source, vv_exposition *e);

/* One JSON object for the dashboard (dashboard.html says what it wants of it); counters, of which it makes
 * rates itself. The same otherwise. */
void vv_metrics_json(const vv_metrics_source *source, vv_exposition *e);

/* The figures of the process itself, under the names that all exporters give them. */
void vv_process_text(vv_exposition *e);

/* ---- what both have in common ---- */

/* "/varve.v1.KV/Get" in two. NULL: "unknown" and "unknown". */
typedef struct vv_method_name {
    char service[64];
    char method[64];
} vv_method_name;
vv_method_name vv_method_name_of(const vv_rpc_method *method);

/* The parts of varve_stats.memory_bytes. */
typedef struct vv_memory_kind {
    const char *name;
    uint64_t bytes;
} vv_memory_kind;
#define VV_MEMORY_KINDS 9
void vv_memory_kinds(const varve_stats *s, vv_memory_kind out[VV_MEMORY_KINDS]);

/* All runs, the caller's to free with vv_free(); NULL: there are none, or no memory. */
varve_run_info *vv_metrics_runs(varve_db *db, size_t *count_out);

#endif
