/*
 * service_status.c - Admin.Status, Stats and Dashboard: what a server is, and what it counts.
 *
 * All are answered on the thread that they arrived on: they only read numbers, some of them under a lock
 * that nobody holds for long. The engine's numbers are of one moment; those of others are not of the same.
 */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "rpc/admin_impl.h"
#include "rpc/codec.h"
#include "rpc/connection_limit.h"
#include "rpc/metrics_source.h"
#include "rpc/status_map.h"

static char *unconst(const char *text) {
    return (char *)(uintptr_t)text;
}

static ProtobufCBinaryData bytes_of(const char *text) {
    return (ProtobufCBinaryData){.data = (uint8_t *)unconst(text), .len = strlen(text)};
}

static uint64_t behind(uint64_t lsn, uint64_t primary_lsn) {
    return primary_lsn > lsn ? primary_lsn - lsn : 0;
}

/* What a StatusResponse refers to. */
typedef struct replica_list {
    vv_replica_info infos[VARVE_SLOTS_MAX];
    Varve__V1__Replica messages[VARVE_SLOTS_MAX], *pointers[VARVE_SLOTS_MAX];
    char primary[VV_ADDRESS_BYTES_MAX + 1];
} replica_list;

static void fill_replicas(Varve__V1__StatusResponse *r, vv_replication *replication, const varve_stats *s,
                          replica_list *list) {
    r->n_replicas = vv_replication_replicas(replication, list->infos);
    r->replicas = list->pointers;
    for (size_t i = 0; i < r->n_replicas; i++) {
        const vv_replica_info *info = &list->infos[i];
        Varve__V1__Replica *m = list->pointers[i] = &list->messages[i];
        varve__v1__replica__init(m);
        m->slot = bytes_of(info->slot.name);
        m->connected = info->connected;
        m->lost = info->slot.lost;
        m->confirmed_lsn = info->slot.confirmed_lsn;
        m->lag_lsn = behind(info->slot.confirmed_lsn, s->durable_lsn);
        m->held_bytes = info->slot.held_bytes;
        m->peer = unconst(info->peer);
    }
}

static void fill_replication(Varve__V1__StatusResponse *r, vv_replication *replication, const varve_stats *s,
                             replica_list *list) {
    vv_lag_now n = vv_replication_lag_now(replication);
    r->promised_epoch = s->promised_epoch;
    r->node = bytes_of(vv_replication_node(replication));
    r->quorum = vv_replication_quorum(replication);
    r->committed_lsn = VV_MIN(s->last_lsn, s->durable_lsn);
    vv_replication_get_primary(replication, list->primary);
    r->primary = bytes_of(list->primary);
    r->connected = n.connected;
    r->applied_lsn = n.applied_lsn;
    r->lag_lsn = n.lsn;
    r->lag_bytes = n.bytes;
    r->lag_ms = n.ms;
    fill_replicas(r, replication, s, list);
}

void vv_admin_on_status(vv_rpc_call *call, vv_slice request) {
    vv_admin *admin = call->service;
    vv_codec_arena arena;
    varve_stats s;
    vv_codec_arena_init(&arena);
    if (vv_codec_request(call, &arena, &varve__v1__status_request__descriptor, request)) {
        varve_stats_get(admin->db, &s);
        Varve__V1__StatusResponse r = VARVE__V1__STATUS_RESPONSE__INIT;
        r.version = unconst(varve_version());
        r.role = unconst(vv_role_name(vv_replication_role(admin->options.replication)));
        r.serving = atomic_load(&admin->health->serving);
        r.wal_failed = s.wal_failed;
        r.last_lsn = s.last_lsn;
        r.durable_lsn = s.durable_lsn;
        r.flushed_lsn = s.flushed_lsn;
        r.safe_compaction_lsn = s.safe_compaction_lsn;
        r.epoch = s.epoch;
        r.uptime_ms = (vv_clock_mono_ns() - admin->started_ns) / VV_NS_PER_MS;
        r.io_backend = unconst(s.io_backend);
        replica_list list;
        fill_replication(&r, admin->options.replication, &s, &list);
        vv_codec_reply(call, &r.base);
    }
    vv_codec_arena_deinit(&arena);
}

#define STATS_MAX 128

typedef struct stat_list {
    Varve__V1__Stat stats[STATS_MAX];
    Varve__V1__Stat *pointers[STATS_MAX];
    size_t count;
} stat_list;

static void add_stat(stat_list *l, const char *name, uint64_t value) {
    VV_ASSERT(l->count < STATS_MAX);
    Varve__V1__Stat *s = &l->stats[l->count];
    varve__v1__stat__init(s);
    s->name = unconst(name);
    s->value = value;
    l->pointers[l->count++] = s;
}

static void add_archive(stat_list *l, varve_archive *archive) {
    varve_archive_info info;
    if (!archive)
        return;
    varve_archive_get(archive, &info);
    add_stat(l, "archive_last_lsn", info.last_lsn);
    add_stat(l, "archive_files", info.file_count);
    add_stat(l, "archive_bytes", info.bytes);
    add_stat(l, "archive_gaps", info.gaps);
    add_stat(l, "archive_failing", !varve_ok(info.status));
}

static void add_replication(stat_list *l, vv_replication *replication) {
    vv_replica_info replicas[VARVE_SLOTS_MAX];
    size_t count = vv_replication_replicas(replication, replicas);
    uint64_t connected = 0, held_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        connected += replicas[i].connected;
        held_bytes = VV_MAX(held_bytes, replicas[i].slot.held_bytes);
    }
    vv_lag_now n = vv_replication_lag_now(replication);
    add_stat(l, "replication_primary", vv_replication_role(replication) == VV_ROLE_PRIMARY);
    add_stat(l, "replication_quorum", vv_replication_quorum(replication));
    add_stat(l, "replication_followers", connected); /* that stream from here */
    add_stat(l, "replication_held_bytes", held_bytes);
    add_stat(l, "replication_connected", n.connected); /* to the primary that is followed */
    add_stat(l, "replication_lag_lsn", n.lsn);
    add_stat(l, "replication_lag_bytes", n.bytes);
    add_stat(l, "replication_lag_ms", n.ms);
}

void vv_admin_on_stats(vv_rpc_call *call, vv_slice request) {
    vv_admin *admin = call->service;
    vv_codec_arena arena;
    varve_stats s;
    stat_list list = {.count = 0};
    const char *name;
    uint64_t value;
    vv_codec_arena_init(&arena);
    if (vv_codec_request(call, &arena, &varve__v1__stats_request__descriptor, request)) {
        varve_stats_get(admin->db, &s);
        for (size_t i = 0; varve_stats_number(&s, i, &name, &value); i++)
            add_stat(&list, name, value);
        const vv_gate *gate = admin->options.gate;
        add_stat(&list, "rpc_calls", atomic_load(&gate->calls));
        add_stat(&list, "rpc_streams", atomic_load(&gate->streams));
        add_stat(&list, "rpc_leases", vv_leases_count(admin->options.leases));
        add_stat(&list, "rpc_exports", vv_leases_count(admin->options.exports->leases));
        add_stat(&list, "rpc_bytes", atomic_load(&gate->bytes));
        add_stat(&list, "rpc_refused", atomic_load(&gate->refused));
        add_stat(&list, "rpc_connections_refused", vv_connections_refused());
        add_archive(&list, admin->options.archive);
        add_replication(&list, admin->options.replication);
        Varve__V1__StatsResponse r = VARVE__V1__STATS_RESPONSE__INIT;
        r.stats = list.pointers;
        r.n_stats = list.count;
        vv_codec_reply(call, &r.base);
    }
    vv_codec_arena_deinit(&arena);
}

void vv_admin_on_dashboard(vv_rpc_call *call, vv_slice request) {
    vv_admin *admin = call->service;
    vv_codec_arena arena;
    vv_exposition e = {0};
    vv_codec_arena_init(&arena);
    if (vv_codec_request(call, &arena, &varve__v1__dashboard_request__descriptor, request)) {
        atomic_store_explicit(&admin->options.gate->counts, true, memory_order_relaxed);
        vv_metrics_json(admin->options.source, &e);
        if (e.failed) {
            vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", 0, "no memory for the answer");
        } else {
            Varve__V1__DashboardResponse r = VARVE__V1__DASHBOARD_RESPONSE__INIT;
            r.json = (ProtobufCBinaryData){.data = (uint8_t *)e.text, .len = e.bytes};
            vv_codec_reply(call, &r.base);
        }
    }
    vv_exposition_deinit(&e);
    vv_codec_arena_deinit(&arena);
}
