/*
 * server.c - start and stop of the whole.
 *
 * The transport is made first and destroyed last: the engine calls vv_grpc_flush() on it after each commit
 * group and may still be about to when the last answer has been sent. The database is closed when the network
 * has released the last value that it pinned, and the leases have released their snapshots.
 */
#include "rpc/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/config.h"
#include "rpc/access.h"
#include "rpc/connection_limit.h"
#include "rpc/gate.h"
#include "rpc/grpc_transport.h"
#include "rpc/node.h"
#include "rpc/replication.h"
#include "rpc/service.h"
#include "rpc/start_role.h"
#include "rpc/timer.h"
#include "rpc/tls.h"

#define THREADS_MAX  64
#define SERVICES_MAX 16
#define LOG_CHECK_NS VV_NS_PER_S
#define US_PER_S     UINT64_C(1000000)
#define LIST_BYTES   800 /* of names of keys, in a line of the log */
/* Not for connections: tables, logs, rings, and what a backup opens. */
#define DESCRIPTORS_RESERVED 2048

struct vv_server {
    vv_server_config config;
    const vv_logger *log;
    vv_access access;
    vv_call_log call_log;
    vv_tls *tls; /* NULL: none */
    vv_timer tls_timer, log_timer;
    vv_gate gate;
    vv_metrics *metrics;
    vv_metrics_source source;
    vv_timers *timers;
    vv_workers *workers;
    vv_leases *leases;
    vv_grpc *transport;
    varve_db *db;
    varve_archive *archive; /* NULL: none */
    vv_replication *replication;
    vv_follower *follower;
    vv_server_run *run; /* NULL: nobody stops it for a plan */
    vv_reload *reload;
    vv_reload *own_reload; /* NULL: it is the run's */
    vv_kv kv;
    vv_watches watches;
    vv_lsn_waiters waiters;
    vv_snapshots snapshots;
    vv_replicas replicas;
    vv_exports exports;
    vv_health health;
    vv_admin admin;
    bool admin_ready;
    vv_reflection *reflection;
    _Atomic bool serving; /* the health may be set by whoever knows better */
    bool services_ready;  /* kv and health are initialised */
    vv_rpc_service services[SERVICES_MAX];
    size_t service_count;
    uint64_t value_bytes_max, message_bytes_max;
    char addresses[VV_SERVER_ADDRESSES_MAX][VV_SERVER_ADDRESS_BYTES_MAX + 8];
    size_t address_count;
};

static void flush(void *arg) {
    vv_grpc_flush(arg);
}

/* More of the log is durable, or visible: for all who wait for that. */
static void more_is_durable(void *arg) {
    vv_server *s = arg;
    vv_replicas_wake(&s->replicas);
    vv_watches_wake(&s->watches);
    vv_lsn_waiters_wake(&s->waiters);
}

static void engine_log(void *arg, varve_log_level level, const char *line) {
    const vv_logger *log = arg;
    vv_log(log, (vv_log_level)level, "%s", line);
}

/* A size among the engine's options. */
static uint64_t engine_bytes(const varve_options *engine, const char *key, uint64_t if_unknown) {
    vv_option option = {key, VV_OPTION_BYTES, 0, "0", 0, UINT64_MAX, false, NULL, ""};
    char text[VV_OPTION_TEXT_BYTES];
    uint64_t bytes = if_unknown;
    if (varve_options_get(engine, key, text, sizeof text))
        vv_status_ignore(vv_config_set((vv_option_table){&option, 1}, &bytes, key, text, NULL),
                         "the engine's own text of its own value");
    return bytes;
}

/* A count among them. */
static uint64_t engine_number(const varve_options *engine, const char *key, uint64_t if_unknown) {
    char text[VV_OPTION_TEXT_BYTES];
    return varve_options_get(engine, key, text, sizeof text) ? strtoull(text, NULL, 10) : if_unknown;
}

/* The longest message: a whole batch, or a value that is too large by up to its size; so its sender hears
 * VALUE_TOO_LARGE from the engine and not just that a message was too long. */
static uint64_t message_bytes_max(const varve_options *engine, uint64_t value_bytes_max) {
    uint64_t batch_bytes = engine_bytes(engine, "MAX_BATCH_SIZE", 0);
    return VV_MAX(2 * value_bytes_max, batch_bytes) + (UINT64_C(1) << 20);
}

/* As configured; 0: one for each core. */
static uint32_t thread_count(uint64_t configured) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t threads = configured;
    if (threads == 0)
        threads = cores > 0 ? (uint64_t)cores : 1;
    return (uint32_t)VV_MIN(threads, (uint64_t)THREADS_MAX);
}

static vv_status create_transport(vv_server *s, const varve_options *engine) {
    s->value_bytes_max = engine_bytes(engine, "MAX_VALUE_SIZE", UINT64_C(32) << 20);
    vv_call_log_options logged = {.log = s->log,
                                  .sample = s->config.access_log_sample,
                                  .slow_ns = s->config.slow_call_us * VV_NS_PER_US,
                                  .lines_per_second = (uint32_t)s->config.log_lines_per_second};
    vv_call_log_init(&s->call_log, &logged);
    vv_gate_options limits = {.calls_max = s->config.rpc_calls_max,
                              .streams_max = s->config.rpc_streams_max,
                              .bytes_max = s->config.rpc_bytes_max,
                              .access = &s->access,
                              .call_log = &s->call_log};
    vv_gate_init(&s->gate, &limits);
    s->message_bytes_max = message_bytes_max(engine, s->value_bytes_max);
    const vv_server_config *c = &s->config;
    vv_grpc_options options = {.thread_count = thread_count(c->rpc_threads),
                               .message_bytes_max = s->message_bytes_max,
                               .memory_quota_bytes = c->rpc_memory_quota_bytes,
                               .metadata_bytes_max = c->metadata_bytes_max,
                               .connection_streams_max = c->connection_streams_max,
                               .connection_idle_us = c->connection_idle_us,
                               .connection_age_us = c->connection_age_us,
                               .connection_age_grace_us = c->connection_age_grace_us,
                               .keepalive_time_us = c->keepalive_time_us,
                               .keepalive_timeout_us = c->keepalive_timeout_us,
                               .handshake_timeout_us = c->handshake_timeout_us,
                               .client_ping_us = c->client_ping_us,
                               .tls = s->tls,
                               .unix_mode = vv_server_unix_modes[c->unix_mode],
                               .gate = &s->gate.base,
                               .log = s->log};
    return vv_grpc_create(&options, &s->transport);
}

static vv_status start_access(vv_server *s, vv_error *err) {
    const vv_server_config *c = &s->config;
    vv_access_options options = {
        .tokens_file = c->tokens_file,
        .limits_file = c->rate_limits_file,
        .certificates = c->tls_client_ca[0] != '\0',
        .certificate_rights = vv_rights_parse(vv_slice_str(c->certificate_roles)),
        .limits = {.reads = {.per_second = c->read_rate, .burst = c->read_burst},
                   .writes = {.per_second = c->write_rate, .burst = c->write_burst}}};
    VV_TRY(vv_access_init(&s->access, &options, err));
    vv_tls_options tls = {.certificate = c->tls_cert,
                          .key = c->tls_key,
                          .client_ca = c->tls_client_ca,
                          .client_required = c->tls_client_auth == 0,
                          .log = s->log};
    return c->tls_cert[0] ? vv_tls_create(&tls, &s->tls, err) : VV_STATUS_OK;
}

static vv_status start_reload(vv_server *s, const varve_options *engine, vv_error *err) {
    vv_reload_options options = {.config = &s->config, .engine = engine};
    s->reload = s->run ? s->run->reload : NULL;
    if (s->reload)
        return VV_STATUS_OK;
    vv_status st = vv_reload_create(&options, &s->own_reload);
    s->reload = s->own_reload;
    return vv_ok(st) ? st : vv_fail(err, st, "start server");
}

/* What an operator may not have meant. */
static void warn_of_open_doors(const vv_server *s) {
    if (!atomic_load(&s->access.everybody))
        return;
    for (size_t i = 0; i < s->config.listen_count; i++)
        if (!vv_server_address_is_local(s->config.listen[i]))
            vv_log(s->log, VV_LOG_WARN,
                   "%s: whoever reaches it may read and write everything: there is neither TOKENS_FILE nor "
                   "TLS_CLIENT_CA",
                   s->config.listen[i]);
}

static void limit_connections(const vv_server *s) {
    uint64_t wanted = s->config.connections_max;
    uint64_t got = vv_connection_limit_set(wanted, DESCRIPTORS_RESERVED);
    if (got < wanted)
        vv_log(s->log, VV_LOG_WARN,
               "MAX_CONNECTIONS = %" PRIu64 ": only %" PRIu64
               " while the limit of open files (ulimit -n) is so low",
               wanted, got);
}

/* Every so often, again: the timer was unset when it came, so there is room for it. */
static void repeat(vv_server *s, vv_timer *timer, uint64_t after_ns) {
    vv_status_ignore(vv_timers_set(s->timers, timer, vv_clock_mono_ns() + after_ns), "a place was free");
}

/* Renewed certificates are noticed without a signal. */
static void check_tls(vv_timer *timer) {
    vv_server *s = VV_CONTAINER_OF(timer, vv_server, tls_timer);
    vv_tls_reload_if_changed(s->tls);
    repeat(s, timer, VV_TLS_CHECK_S * VV_NS_PER_S);
}

/* Not with a log that failed, until a restart; and only with reads. */
static void set_health(vv_server *s) {
    varve_stats stats;
    vv_rpc_status why;
    varve_stats_get(s->db, &stats);
    vv_health_set(&s->health, !stats.wal_failed && vv_replication_may_read(s->replication, &why));
}

/* A log that failed is noticed also when nobody writes. */
static void check_log(vv_timer *timer) {
    vv_server *s = VV_CONTAINER_OF(timer, vv_server, log_timer);
    set_health(s);
    repeat(s, timer, LOG_CHECK_NS);
}

/* The role, or whether reads are let in. */
static void replication_changed(void *arg) {
    vv_server *s = arg;
    if (s->follower)
        vv_follower_look(s->follower);
    if (!atomic_load_explicit(&s->serving, memory_order_acquire))
        return;
    set_health(s);
    vv_replicas_wake(&s->replicas); /* a primary that was superseded ends its streams */
}

/* There is an address for metrics. */
static bool is_watched(const vv_server *s) {
    return s->run && s->run->http;
}

/* All services are there, and no call yet. Calls are counted from now on if there is an address for metrics,
 * else from the first look through Admin.Dashboard. */
static vv_status start_metrics(vv_server *s, const varve_options *engine) {
    VV_TRY(vv_metrics_create(s->services, s->service_count, &s->metrics));
    s->gate.options.metrics = s->metrics;
    s->source = (vv_metrics_source){.db = s->db,
                                    .metrics = s->metrics,
                                    .gate = &s->gate,
                                    .users = &s->access.users,
                                    .leases = s->leases,
                                    .exports = &s->exports,
                                    .replication = s->replication,
                                    .archive = s->archive,
                                    .health = &s->health,
                                    .reload = s->reload,
                                    .level_count = (uint32_t)engine_number(engine, "LSM_LEVELS", 1)};
    if (is_watched(s)) {
        atomic_store(&s->gate.counts, true);
        vv_http_show(s->run->http, &s->source);
    }
    return VV_STATUS_OK;
}

/* There is something to be done before this server serves. */
static bool has_plan(const vv_server *s) {
    return s->run && s->run->plan.kind != VV_PLAN_NONE;
}

static vv_status start_replication(vv_server *s, vv_error *err) {
    char node[VARVE_SLOT_NAME_BYTES_MAX + 1];
    vv_role role;
    VV_TRY(vv_node_name(s->config.data, s->config.node_name, node, err));
    VV_TRY(vv_start_role(&s->config, s->db, node, s->log, &role, err));
    if (role != VV_ROLE_PRIMARY && s->run && !s->run->serve_first && !s->run->no_rewind) {
        VV_TRY(vv_start_plan(&s->config, s->db, node, s->log, &s->run->plan, err));
        if (has_plan(s))
            return VV_STATUS_OK;
    }
    vv_replication_options options = {.db = s->db,
                                      .node = node,
                                      .role = role,
                                      .quorum = (uint32_t)s->config.quorum,
                                      .log = s->log,
                                      .changed = replication_changed,
                                      .arg = s};
    return vv_replication_create(&options, &s->replication, err);
}

static void planned(void *arg) {
    vv_server *s = arg;
    if (s->run && s->run->planned)
        s->run->planned(s->run->arg);
}

static vv_status start_follower(vv_server *s, const varve_options *engine, vv_error *err) {
    vv_follower_options options = {.config = &s->config,
                                   .db = s->db,
                                   .engine = engine,
                                   .replication = s->replication,
                                   .log = s->log,
                                   .no_rewind = s->run && s->run->no_rewind,
                                   .planned = planned,
                                   .arg = s};
    return vv_follower_start(&options, &s->follower, err);
}

/* What an archive that was turned off has not got is not kept for it. */
static vv_status forget_archive(vv_server *s, vv_error *err) {
    varve_slot_info slots[VARVE_SLOTS_MAX];
    varve_error words = {""};
    size_t count = varve_slots_get(s->db, slots);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(slots[i].name, VARVE_ARCHIVE_SLOT) != 0)
            continue;
        vv_log(s->log, VV_LOG_WARN,
               "there is no WAL_ARCHIVE_DIR any more: what was written behind LSN %" PRIu64
               " is not in the archive, and the log may forget it",
               slots[i].confirmed_lsn);
        varve_status st = varve_slot_drop(s->db, VARVE_ARCHIVE_SLOT, &words);
        if (!varve_ok(st))
            return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "%s", words.text);
    }
    return VV_STATUS_OK;
}

/* Before anything can be written: what the archive goes on from is what the database was opened with. */
static vv_status start_archive(vv_server *s, vv_error *err) {
    varve_error words = {""};
    if (!s->config.wal_archive_dir[0])
        return forget_archive(s, err);
    varve_status st = varve_archive_start(s->db, s->config.wal_archive_dir, NULL, &s->archive, &words);
    if (varve_ok(st))
        return VV_STATUS_OK;
    bool configured =
        st.code == VARVE_INVALID_ARGUMENT || st.code == VARVE_NOT_FOUND || st.code == VARVE_PERMISSION;
    return vv_fail(err,
                   configured ? vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0)
                              : vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0),
                   "WAL_ARCHIVE_DIR: %s", words.text);
}

static vv_status start_checks(vv_server *s) {
    vv_timer_init(&s->tls_timer, check_tls);
    vv_timer_init(&s->log_timer, check_log);
    if (s->tls)
        VV_TRY(vv_timers_set(s->timers, &s->tls_timer, vv_clock_mono_ns() + VV_TLS_CHECK_S * VV_NS_PER_S));
    return vv_timers_set(s->timers, &s->log_timer, vv_clock_mono_ns() + LOG_CHECK_NS);
}

static void stop_checks(vv_server *s) {
    if (s->tls_timer.fn)
        vv_timers_unset(s->timers, &s->tls_timer);
    if (s->log_timer.fn)
        vv_timers_unset(s->timers, &s->log_timer);
}

static vv_status open_database(vv_server *s, varve_options *engine, vv_error *err) {
    varve_error words = {""};
    varve_options_set_group_callback(engine, flush, s->transport);
    varve_options_set_durable_callback(engine, more_is_durable, s);
    if (s->log) /* which drops what it does not want, and may change its mind */
        varve_options_set_log(engine, engine_log, (void *)(uintptr_t)s->log, VARVE_LOG_DEBUG);
    varve_status st = varve_open(s->config.data, engine, &s->db, &words);
    if (varve_ok(st))
        return VV_STATUS_OK;
    /* The engine's words have all there is to say, the errno's text included. */
    return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "%s", words.text);
}

/* HOST:PORT with the port that was bound. */
static vv_status listen_on(vv_server *s, const char *address, vv_error *err) {
    int port;
    VV_TRY(vv_grpc_listen(s->transport, address, &port, err));
    char *text = s->addresses[s->address_count++];
    const char *colon = strrchr(address, ':');
    if (port == 0)
        snprintf(text, sizeof s->addresses[0], "%s", address);
    else
        snprintf(text, sizeof s->addresses[0], "%.*s:%d", (int)(colon - address), address, port);
    return VV_STATUS_OK;
}

/* What the services have in common. */
static vv_status start_helpers(vv_server *s, vv_error *err) {
    vv_status st = vv_timers_create(&s->timers);
    if (!vv_ok(st))
        return vv_fail(err, st, "start timers");
    /* A call or stream has at most one job in the queue. */
    vv_workers_options workers = {
        .name = "varve-work",
        .thread_count = thread_count(s->config.worker_threads),
        .queue_max =
            (uint32_t)VV_MIN(s->config.rpc_calls_max + s->config.rpc_streams_max, (uint64_t)UINT32_MAX)};
    st = vv_workers_create(&workers, &s->workers);
    if (!vv_ok(st))
        return vv_fail(err, st, "start workers");
    vv_leases_options leases = {.db = s->db,
                                .timers = s->timers,
                                .count_max = s->config.snapshots_max,
                                .per_user_max = s->config.snapshots_per_user_max,
                                .default_us = s->config.snapshot_lease_us,
                                .longest_us = s->config.snapshot_lease_us_max,
                                .pages_us = s->config.page_token_lease_us};
    st = vv_leases_create(&leases, &s->leases);
    return vv_ok(st) ? st : vv_fail(err, st, "start leases");
}

/* A write that the engine has is waited for, whatever DRAIN_TIMEOUT says: so none waits longer than that for
 * followers, or a second where a drain is to be shorter still. */
static uint64_t quorum_timeout_us(const vv_server_config *c) {
    return VV_MIN(c->quorum_timeout_us, VV_MAX(c->drain_timeout_us, US_PER_S));
}

static vv_status reload_asked(void *arg, vv_reload_report *report, vv_error *err) {
    return vv_server_reload(arg, "Admin.Reload", report, err);
}

static vv_status start_services(vv_server *s, const varve_options *engine, vv_error *err) {
    VV_TRY(start_helpers(s, err));
    vv_health_init(&s->health, flush, s->transport);
    vv_lsn_waiters_options waiters = {.db = s->db,
                                      .replication = s->replication,
                                      .count_max = s->config.rpc_calls_max / 2,
                                      .flush = flush,
                                      .flush_arg = s->transport};
    vv_lsn_waiters_start(&s->waiters, &waiters);
    s->snapshots = (vv_snapshots){.leases = s->leases, .waiters = &s->waiters};
    vv_kv_options options = {.replication = s->replication,
                             .waiters = &s->waiters,
                             .leases = s->leases,
                             .timers = s->timers,
                             .workers = s->workers,
                             .scan_idle_us = s->config.scan_idle_us,
                             .response_bytes_max = s->message_bytes_max,
                             .value_bytes_max = s->value_bytes_max,
                             .pipeline_ops_max = s->config.pipeline_ops_max,
                             .quorum_timeout_us = quorum_timeout_us(&s->config)};
    vv_status st = vv_kv_init(&s->kv, &options, s->db, &s->health, s->log);
    if (!vv_ok(st)) {
        vv_health_deinit(&s->health);
        return vv_fail(err, st, "start services");
    }
    atomic_store(&s->kv.traced, s->config.slow_call_us > 0 || is_watched(s));
    s->services_ready = true;
    vv_admin_options admin = {.backup_dir = s->config.backup_dir,
                              .bytes_per_second = s->config.backup_rate,
                              .gate = &s->gate,
                              .leases = s->leases,
                              .exports = &s->exports,
                              .replication = s->replication,
                              .archive = s->archive,
                              .config = &s->config,
                              .users = &s->access.users,
                              .source = &s->source,
                              .reload = reload_asked,
                              .reload_arg = s};
    VV_TRY(vv_admin_init(&s->admin, &admin, s->db, &s->health, s->log, err));
    s->admin_ready = true;
    st = vv_watches_start(&s->watches, s->db, s->timers, s->config.watch_progress_interval_us);
    if (!vv_ok(st))
        return vv_fail(err, st, "start watches");
    vv_exports_options exports = {.timers = s->timers,
                                  .count_max = s->config.exports_max,
                                  .lease_us = s->config.snapshot_lease_us,
                                  .lease_us_max = s->config.snapshot_lease_us_max,
                                  .fetch_idle_us = s->config.fetch_idle_us,
                                  .streams_max = s->config.rpc_streams_max};
    st = vv_exports_init(&s->exports, &exports, s->db);
    if (!vv_ok(st))
        return vv_fail(err, st, "start exports");
    vv_replicas_options replicas = {.db = s->db,
                                    .replication = s->replication,
                                    .exports = &s->exports,
                                    .timers = s->timers,
                                    .heartbeat_us = s->config.replication_heartbeat_us,
                                    .log = s->log};
    st = vv_replicas_start(&s->replicas, &replicas);
    if (!vv_ok(st))
        return vv_fail(err, st, "start replication");
    s->services[s->service_count++] = vv_kv_service(&s->kv);
    s->services[s->service_count++] = vv_watch_service(&s->watches);
    s->services[s->service_count++] = vv_snapshots_service(&s->snapshots);
    s->services[s->service_count++] = vv_replication_service(&s->replicas);
    s->services[s->service_count++] = vv_admin_service(&s->admin);
    s->services[s->service_count++] = vv_health_service(&s->health);
    if (s->config.reflection) {
        st = vv_reflection_create(s->services, s->service_count, &s->reflection);
        if (!vv_ok(st))
            return vv_wrap(err, st, "reflection");
        s->services[s->service_count++] = vv_reflection_service(s->reflection);
    }
    VV_ASSERT(s->service_count <= SERVICES_MAX);
    vv_health_serve(&s->health, s->services, s->service_count);
    for (size_t i = 0; i < s->config.listen_count; i++)
        VV_TRY(listen_on(s, s->config.listen[i], err));
    VV_TRY(start_checks(s));
    set_health(s);
    atomic_store_explicit(&s->serving, true, memory_order_release);
    limit_connections(s);
    warn_of_open_doors(s);
    VV_TRY(start_follower(s, engine, err));
    st = start_metrics(s, engine);
    if (!vv_ok(st))
        return vv_fail(err, st, "start metrics");
    return vv_grpc_start(s->transport, s->services, s->service_count, err);
}

/* Whatever has been started, in the order that the head of this file explains. */
static varve_status release(vv_server *s) {
    varve_status closed = {0};
    if (is_watched(s))
        vv_http_show(s->run->http, NULL);
    stop_checks(s); /* they use what goes now */
    vv_follower_stop(s->follower);
    if (s->transport)
        vv_grpc_stop(s->transport);
    vv_reflection_destroy(s->reflection);
    if (s->admin_ready)
        vv_admin_deinit(&s->admin);
    vv_watches_stop(&s->watches);
    vv_replicas_stop(&s->replicas);
    vv_exports_deinit(&s->exports);
    if (s->services_ready) {
        vv_kv_deinit(&s->kv);
        vv_health_deinit(&s->health);
    }
    vv_workers_destroy(s->workers);
    vv_leases_destroy(s->leases);
    vv_timers_destroy(s->timers);
    if (s->follower && s->run)
        s->run->plan = vv_follower_plan(s->follower);
    vv_follower_destroy(s->follower);
    vv_replication_destroy(s->replication);
    varve_archive_stop(s->archive); /* nobody writes any more: it gets all */
    if (s->db)
        closed = varve_close(s->db);
    vv_watches_deinit(&s->watches);
    vv_lsn_waiters_deinit(&s->waiters);
    vv_replicas_deinit(&s->replicas);
    vv_grpc_destroy(s->transport);
    vv_connection_limit_set(0, 0);
    vv_tls_destroy(s->tls);
    vv_call_log_deinit(&s->call_log);
    vv_metrics_destroy(s->metrics);
    vv_access_deinit(&s->access);
    vv_reload_destroy(s->own_reload);
    vv_free(s);
    return closed;
}

vv_status vv_server_start(const vv_server_config *config, varve_options *engine, const vv_logger *log,
                          vv_server **out, vv_error *err) {
    return vv_server_start_run(config, engine, log, NULL, out, err);
}

vv_status vv_server_start_run(const vv_server_config *config, varve_options *engine, const vv_logger *log,
                              vv_server_run *run, vv_server **out, vv_error *err) {
    *out = NULL;
    vv_server *s = vv_alloc_zeroed(sizeof *s);
    if (!s)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "start server");
    s->config = *config;
    s->log = log;
    s->run = run;
    vv_watches_init(&s->watches);
    vv_lsn_waiters_init(&s->waiters);
    vv_replicas_init(&s->replicas);
    vv_status st = start_access(s, err);
    if (!vv_ok(st)) /* whatever is wrong with a file that the configuration names, it is to be mended there */
        st = vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, st.sys);
    if (vv_ok(st))
        st = start_reload(s, engine, err);
    if (vv_ok(st)) {
        st = create_transport(s, engine);
        if (!vv_ok(st))
            st = vv_fail(err, st, "start server");
    }
    if (vv_ok(st))
        st = open_database(s, engine, err);
    if (vv_ok(st))
        st = start_archive(s, err);
    if (vv_ok(st))
        st = start_replication(s, err);
    if (vv_ok(st) && !has_plan(s))
        st = start_services(s, engine, err);
    if (!vv_ok(st) || has_plan(s)) {
        varve_status closed = release(s);
        (void)closed; /* the first failure is the one to tell */
        return st;
    }
    *out = s;
    return VV_STATUS_OK;
}

const char *vv_server_address(const vv_server *s, size_t index) {
    return index < s->address_count ? s->addresses[index] : NULL;
}

const vv_rpc_service *vv_server_services(const vv_server *s, size_t *count_out) {
    *count_out = s->service_count;
    return s->services;
}

static void log_reload(const vv_server *s, const char *who, const vv_reload_report *r) {
    char keys[LIST_BYTES];
    vv_reload_list(r->restart_needed, r->restart_count, keys, sizeof keys);
    if (r->restart_count > 0)
        vv_log(s->log, VV_LOG_WARN, "%s: a restart is needed for %s", who, keys);
    /* The last line of it, which those wait for who sent the signal. */
    vv_reload_list(r->changed, r->changed_count, keys, sizeof keys);
    vv_log(s->log, VV_LOG_INFO, "%s: configuration and files read again; changed: %s", who,
           r->changed_count > 0 ? keys : "nothing");
}

vv_status vv_server_reload(vv_server *s, const char *who, vv_reload_report *report, vv_error *err) {
    vv_reload_report own;
    vv_reload_report *r = report ? report : &own;
    vv_reload_parts parts = {.db = s->db,
                             .access = &s->access,
                             .tls = s->tls,
                             .call_log = &s->call_log,
                             .kv = &s->kv,
                             .admin = &s->admin,
                             .traced = is_watched(s)};
    vv_status st = vv_reload_run(s->reload, &parts, r, err);
    if (vv_ok(st))
        log_reload(s, who, r);
    else
        vv_log(s->log, VV_LOG_ERROR, "%s: nothing is changed: %s", who, err->text);
    return st;
}

void vv_server_drain(vv_server *s) {
    vv_health_close(&s->health);
    vv_admin_stop(&s->admin);
    vv_exports_stop(&s->exports);
    vv_follower_stop(s->follower);
    vv_lsn_waiters_drain(&s->waiters);
    vv_grpc_drain(s->transport, s->config.drain_timeout_us);
}

vv_status vv_server_stop(vv_server *s) {
    varve_status closed = release(s);
    return vv_status_make((vv_code)closed.code, (vv_sub)closed.reason, closed.sys);
}

void vv_server_cancel(vv_server *s) {
    vv_grpc_cancel(s->transport);
}
