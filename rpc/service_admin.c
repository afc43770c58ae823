/*
 * service_admin.c - varve.v1.Admin: looking after a running server.
 *
 * What does not block (service_status.c, SetRateLimit) is answered on the thread that it arrived on. What
 * does goes to a few workers of its own, so that minutes of backup hold up neither reads nor writes:
 *
 *     on_*() --vv_workers_submit()--> [worker] run_job() --vv_rpc_post()--> on_posted()
 *
 * A job asks now and then whether it goes on: not when its client has left, its deadline has passed or the
 * server drains. What it has made by then, the engine removes. One backup, one verification, one full
 * merge and one promotion run at a time; so a worker is always left for what is short. A promotion that has
 * begun is finished.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "rpc/admin_impl.h"
#include "rpc/codec.h"
#include "rpc/limits.h"
#include "rpc/promote.h"
#include "rpc/reload.h"
#include "rpc/status_map.h"

#define THREADS       (VV_ADMIN_LONG_KINDS + 1)
#define QUEUE_MAX     64
#define BUSY_RETRY_MS 1000
/* Of a promotion, for one of PEERS to answer. */
#define PROMOTE_TIMEOUT_NS (5 * VV_NS_PER_S)
#define NAME_BYTES_MAX     200
#define PATH_BYTES         4096
#define DAMAGES_MAX        100
#define DAMAGE_KEY_BYTES   ((size_t)1 << 20) /* of all damages of one answer together */

typedef struct damage {
    uint64_t offset;
    char *file; /* owned, as the rest */
    char *text;
    uint8_t *keys; /* the first, then the last */
    size_t first_key_bytes;
    size_t last_key_bytes;
} damage;

typedef enum job_kind {
    JOB_FLUSH,
    JOB_COMPACT,
    JOB_SAFE_LSN,
    JOB_BACKUP,
    JOB_VERIFY,
    JOB_PROMOTE,
    JOB_RELOAD
} job_kind;

/* A call on its way through a worker. The worker's between submit and post; `left` anybody's. */
typedef struct admin_job {
    vv_job job;
    vv_rpc_call *call;
    vv_admin *admin;
    job_kind kind;
    uint64_t deadline_ns;
    _Atomic bool left; /* the client */
    varve_status status;
    varve_error err;
    /* what was asked, and the answer */
    uint64_t lsn;
    bool hard_links, force;
    vv_rpc_status refusal; /* of a promotion */
    char dest[PATH_BYTES];
    char base[PATH_BYTES];
    varve_backup_info backup;
    varve_verify_result verify;
    damage damages[DAMAGES_MAX];
    size_t damage_count;
    size_t key_bytes;
    vv_reload_report reload;
} admin_job;

typedef struct admin_state {
    admin_job *job;
} admin_state;

_Static_assert(sizeof(admin_state) <= VV_RPC_CALL_STATE_BYTES, "admin_state lives in the call");

static admin_state *state_of(vv_rpc_call *call) {
    return (admin_state *)(void *)call->state;
}

/* ---- jobs, on a worker ---- */

static bool goes_on(void *arg, uint64_t done, uint64_t total) {
    const admin_job *j = arg;
    (void)done;
    (void)total;
    return !atomic_load(&j->left) && !vv_workers_stopping(j->admin->workers) &&
           vv_clock_mono_ns() < j->deadline_ns;
}

/* Without it the damage is only counted. */
static void note_damage(void *arg, const varve_damage *d) {
    admin_job *j = arg;
    size_t key_bytes = d->first_key_bytes + d->last_key_bytes;
    if (j->damage_count == DAMAGES_MAX || j->key_bytes + key_bytes > DAMAGE_KEY_BYTES)
        return;
    damage *to = &j->damages[j->damage_count];
    *to = (damage){.offset = d->offset,
                   .file = vv_strdup(d->file),
                   .text = vv_strdup(d->text),
                   .keys = vv_alloc(key_bytes + 1),
                   .first_key_bytes = d->first_key_bytes,
                   .last_key_bytes = d->last_key_bytes};
    j->damage_count++; /* what is missing for want of memory is NULL */
    if (to->keys && d->first_key_bytes > 0)
        memcpy(to->keys, d->first_key, d->first_key_bytes);
    if (to->keys && d->last_key_bytes > 0)
        memcpy(to->keys + d->first_key_bytes, d->last_key, d->last_key_bytes);
    j->key_bytes += key_bytes;
}

static varve_status run_backup(admin_job *j) {
    varve_backup_options o = {.mode = j->hard_links ? VARVE_BACKUP_LINK : VARVE_BACKUP_COPY,
                              .base_dir = j->base[0] ? j->base : NULL,
                              .must_create = true,
                              .bytes_per_second = atomic_load(&j->admin->bytes_per_second),
                              .progress = goes_on,
                              .arg = j};
    return varve_backup(j->admin->db, j->dest, &o, &j->backup, &j->err);
}

static varve_status run_verify(admin_job *j) {
    varve_verify_options o = {.damaged = note_damage,
                              .progress = goes_on,
                              .arg = j,
                              .bytes_per_second = atomic_load(&j->admin->bytes_per_second)};
    return varve_verify(j->admin->db, &o, &j->verify, &j->err);
}

static varve_status run_flush(admin_job *j) {
    varve_stats s;
    varve_status st = varve_flush(j->admin->db);
    varve_stats_get(j->admin->db, &s);
    j->lsn = s.flushed_lsn;
    return st;
}

static varve_status run_promote(admin_job *j) {
    vv_promote_options o = {.db = j->admin->db,
                            .replication = j->admin->options.replication,
                            .config = j->admin->options.config,
                            .timeout_ns = PROMOTE_TIMEOUT_NS,
                            .log = j->admin->log};
    if (vv_promote(&o, j->force, &j->lsn, &j->refusal))
        return (varve_status){0};
    snprintf(j->err.text, sizeof j->err.text, "%s", j->refusal.message);
    return (varve_status){.code = VARVE_INVALID_ARGUMENT};
}

static varve_status run_reload(admin_job *j) {
    const vv_admin_options *o = &j->admin->options;
    vv_error err = {""};
    vv_status st = o->reload(o->reload_arg, &j->reload, &err);
    snprintf(j->err.text, sizeof j->err.text, "%s", err.text);
    return (varve_status){.code = st.code, .reason = st.sub, .sys = st.sys};
}

static void run_job(vv_job *job) {
    admin_job *j = VV_CONTAINER_OF(job, admin_job, job);
    varve_db *db = j->admin->db;
    if (!goes_on(j, 0, 0)) {
        j->status = (varve_status){.code = VARVE_BUSY}; /* nothing was begun; job_failed() knows why */
    } else {
        switch (j->kind) {
        case JOB_FLUSH: j->status = run_flush(j); break;
        case JOB_COMPACT: j->status = varve_compact_while(db, goes_on, j); break;
        case JOB_SAFE_LSN: j->status = varve_set_safe_compaction_lsn(db, j->lsn, &j->err); break;
        case JOB_BACKUP: j->status = run_backup(j); break;
        case JOB_VERIFY: j->status = run_verify(j); break;
        case JOB_PROMOTE: j->status = run_promote(j); break;
        case JOB_RELOAD: j->status = run_reload(j); break;
        }
    }
    vv_rpc_post_and_wake(j->call);
}

/* ---- jobs, on the call's thread ---- */

static const char *const job_names[] = {"flush",   "compact", "set safe compaction LSN", "backup", "verify",
                                        "promote", "reload"};

static _Atomic bool *running_flag(vv_admin *admin, job_kind kind) {
    switch (kind) {
    case JOB_COMPACT: return &admin->running[0];
    case JOB_BACKUP: return &admin->running[1];
    case JOB_VERIFY: return &admin->running[2];
    case JOB_PROMOTE: return &admin->running[3];
    default: return NULL;
    }
}

static void job_destroy(admin_job *j) {
    for (size_t i = 0; i < j->damage_count; i++) {
        vv_free(j->damages[i].file);
        vv_free(j->damages[i].text);
        vv_free(j->damages[i].keys);
    }
    vv_free(j);
}

/* NULL: the call has failed. */
static admin_job *job_create(vv_rpc_call *call, job_kind kind) {
    admin_job *j = vv_alloc_zeroed(sizeof *j);
    if (!j) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", BUSY_RETRY_MS, "out of memory");
        return NULL;
    }
    j->job.run = run_job;
    j->call = call;
    j->admin = call->service;
    j->kind = kind;
    j->deadline_ns = call->deadline_ns;
    return j;
}

/* From here on the call is the worker's until on_posted(). */
static void submit(admin_job *j) {
    vv_rpc_call *call = j->call;
    _Atomic bool *running = running_flag(j->admin, j->kind);
    if (running && atomic_exchange(running, true)) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "ALREADY_RUNNING", BUSY_RETRY_MS,
                         "another %s is under way", job_names[j->kind]);
        job_destroy(j);
        return;
    }
    state_of(call)->job = j;
    /* While a promotion lasts nobody takes writes: it waits for no others, nor is it behind them. */
    if (vv_workers_submit(j->kind == JOB_PROMOTE ? j->admin->promoter : j->admin->workers, &j->job))
        return;
    state_of(call)->job = NULL;
    if (running)
        atomic_store(running, false);
    vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", BUSY_RETRY_MS,
                     "too many administrative calls wait");
    job_destroy(j);
}

static void on_left(vv_rpc_call *call) {
    if (state_of(call)->job)
        atomic_store(&state_of(call)->job->left, true);
}

static void reply_backup(const admin_job *j) {
    Varve__V1__BackupResponse r = VARVE__V1__BACKUP_RESPONSE__INIT;
    r.lsn = j->backup.lsn;
    r.file_count = j->backup.file_count;
    r.bytes = j->backup.bytes;
    r.copied_bytes = j->backup.copied_bytes;
    vv_codec_reply(j->call, &r.base);
}

static void reply_verify(const admin_job *j) {
    Varve__V1__Damage messages[DAMAGES_MAX], *pointers[DAMAGES_MAX];
    Varve__V1__VerifyResponse r = VARVE__V1__VERIFY_RESPONSE__INIT;
    for (size_t i = 0; i < j->damage_count; i++) {
        const damage *d = &j->damages[i];
        varve__v1__damage__init(&messages[i]);
        messages[i].offset = d->offset;
        if (d->file)
            messages[i].file = d->file;
        if (d->text)
            messages[i].message = d->text;
        if (d->keys) {
            messages[i].first_key = (ProtobufCBinaryData){d->first_key_bytes, d->keys};
            messages[i].last_key = (ProtobufCBinaryData){d->last_key_bytes, d->keys + d->first_key_bytes};
        }
        pointers[i] = &messages[i];
    }
    r.file_count = j->verify.file_count;
    r.block_count = j->verify.block_count;
    r.bytes = j->verify.bytes;
    r.damage_count = j->verify.damage_count;
    r.damages = pointers;
    r.n_damages = j->damage_count;
    vv_codec_reply(j->call, &r.base);
}

/* protobuf-c has no const texts; what it packs it only reads. */
static char **texts(const char *const *keys) {
    return (char **)(uintptr_t)keys;
}

static void reply_reload(const admin_job *j) {
    Varve__V1__ReloadResponse r = VARVE__V1__RELOAD_RESPONSE__INIT;
    r.changed = texts(j->reload.changed);
    r.n_changed = j->reload.changed_count;
    r.restart_needed = texts(j->reload.restart_needed);
    r.n_restart_needed = j->reload.restart_count;
    vv_codec_reply(j->call, &r.base);
}

static void job_failed(const admin_job *j) {
    const char *name = job_names[j->kind];
    vv_rpc_status status;
    bool gave_up = j->status.code == VARVE_BUSY;
    if (gave_up && j->call->cancelled) {
        vv_rpc_fail_with(j->call, VV_RPC_CANCELLED, "CANCELLED", 0, "%s: cancelled by the client", name);
    } else if (gave_up && vv_workers_stopping(j->admin->workers)) {
        vv_rpc_fail_with(j->call, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", BUSY_RETRY_MS,
                         "%s: the server is shutting down", name);
    } else if (gave_up && vv_clock_mono_ns() >= j->deadline_ns) {
        vv_rpc_fail_with(j->call, VV_RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 0,
                         "%s: the deadline has passed", name);
    } else if (j->kind == JOB_PROMOTE) {
        vv_rpc_fail(j->call, &j->refusal);
    } else if (j->kind == JOB_RELOAD && j->status.code != VARVE_NO_MEMORY) {
        vv_rpc_fail_with(j->call, VV_RPC_FAILED_PRECONDITION, "BAD_CONFIGURATION", 0,
                         "%s; nothing was changed", j->err.text);
    } else {
        vv_rpc_status_from_engine_words(&status, j->status, j->err.text);
        vv_rpc_fail(j->call, &status);
    }
}

static void log_end(const admin_job *j) {
    if (j->kind == JOB_RELOAD) /* who did it has said so */
        return;
    vv_log(j->admin->log, varve_ok(j->status) ? VV_LOG_INFO : VV_LOG_WARN, "admin: %s%s%s: %s%s%s",
           job_names[j->kind], j->dest[0] ? " to " : "", j->dest,
           varve_ok(j->status)      ? "done"
           : j->kind == JOB_PROMOTE ? "refused"
                                    : varve_code_name(j->status.code),
           j->err.text[0] ? ": " : "", j->err.text);
}

static void on_posted(vv_rpc_call *call) {
    admin_job *j = state_of(call)->job;
    state_of(call)->job = NULL;
    _Atomic bool *running = running_flag(j->admin, j->kind);
    if (running)
        atomic_store(running, false);
    log_end(j);
    if (!varve_ok(j->status)) {
        job_failed(j);
    } else if (j->kind == JOB_BACKUP) {
        reply_backup(j);
    } else if (j->kind == JOB_VERIFY) {
        reply_verify(j);
    } else if (j->kind == JOB_RELOAD) {
        reply_reload(j);
    } else if (j->kind == JOB_PROMOTE) {
        Varve__V1__PromoteResponse r = VARVE__V1__PROMOTE_RESPONSE__INIT;
        r.epoch = j->lsn;
        vv_codec_reply(call, &r.base);
    } else {
        Varve__V1__FlushResponse r = VARVE__V1__FLUSH_RESPONSE__INIT;
        r.flushed_lsn = j->lsn;
        /* The answers of the others are empty messages. */
        if (j->kind == JOB_FLUSH)
            vv_codec_reply(call, &r.base);
        else
            vv_rpc_reply(call, vv_rpc_body_copy(NULL, 0));
    }
    job_destroy(j);
}

/* ---- calls that become jobs ---- */

static void start_empty(vv_rpc_call *call, vv_slice request, const ProtobufCMessageDescriptor *type,
                        job_kind kind) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    if (vv_codec_request(call, &arena, type, request)) {
        admin_job *j = job_create(call, kind);
        if (j)
            submit(j);
    }
    vv_codec_arena_deinit(&arena);
}

static void on_flush(vv_rpc_call *call, vv_slice request) {
    start_empty(call, request, &varve__v1__flush_request__descriptor, JOB_FLUSH);
}

static void on_compact(vv_rpc_call *call, vv_slice request) {
    start_empty(call, request, &varve__v1__compact_request__descriptor, JOB_COMPACT);
}

static void on_verify(vv_rpc_call *call, vv_slice request) {
    start_empty(call, request, &varve__v1__verify_request__descriptor, JOB_VERIFY);
}

static void on_reload(vv_rpc_call *call, vv_slice request) {
    const vv_admin *admin = call->service;
    if (admin->options.reload)
        start_empty(call, request, &varve__v1__reload_request__descriptor, JOB_RELOAD);
    else
        vv_rpc_fail_with(call, VV_RPC_UNIMPLEMENTED, "UNKNOWN_METHOD", 0, "nothing to reload from");
}

static void on_set_safe_lsn(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    const Varve__V1__SetSafeCompactionLsnRequest *set = (void *)vv_codec_request(
        call, &arena, &varve__v1__set_safe_compaction_lsn_request__descriptor, request);
    admin_job *j = set ? job_create(call, JOB_SAFE_LSN) : NULL;
    if (j) {
        j->lsn = set->lsn;
        submit(j);
    }
    vv_codec_arena_deinit(&arena);
}

/*
 * The path of a backup: one plain name below BACKUP_DIR, so that no name leads out of it. False: the call has
 * failed.
 */
static bool backup_path(vv_rpc_call *call, ProtobufCBinaryData name, const char *field,
                        char path[PATH_BYTES]) {
    const vv_admin *admin = call->service;
    bool plain = name.len > 0 && name.len <= NAME_BYTES_MAX && name.data[0] != '.';
    for (size_t i = 0; i < name.len && plain; i++)
        plain = isalnum(name.data[i]) || (name.data[i] != '\0' && strchr("._-+:@", name.data[i]));
    if (!plain) {
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "BAD_BACKUP_NAME", 0,
                         "%s: allowed are 1 to %d letters, digits and ._-+:@, no dot at the beginning", field,
                         NAME_BYTES_MAX);
        return false;
    }
    snprintf(path, PATH_BYTES, "%s/%.*s", admin->options.backup_dir, (int)name.len, (const char *)name.data);
    return true;
}

/* The earlier backup is a directory, and not a link to one that is somewhere else. */
static bool check_base(vv_rpc_call *call, const char *path) {
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return true;
    vv_rpc_fail_with(call, VV_RPC_NOT_FOUND, "NO_SUCH_BACKUP", 0, "incremental: there is no such backup");
    return false;
}

static void on_backup(vv_rpc_call *call, vv_slice request) {
    const vv_admin *admin = call->service;
    vv_codec_arena arena;
    admin_job *j = NULL;
    vv_codec_arena_init(&arena);
    const Varve__V1__BackupRequest *backup =
        (void *)vv_codec_request(call, &arena, &varve__v1__backup_request__descriptor, request);
    if (!backup)
        goto out;
    if (!admin->options.backup_dir[0]) {
        vv_rpc_fail_with(call, VV_RPC_FAILED_PRECONDITION, "BACKUP_DIR_NOT_SET", 0,
                         "the server's configuration has no BACKUP_DIR");
        goto out;
    }
    j = job_create(call, JOB_BACKUP);
    if (!j)
        goto out;
    j->hard_links = backup->hard_links;
    bool good = backup_path(call, backup->name, "name", j->dest);
    if (good && backup->incremental.len > 0)
        good = backup_path(call, backup->incremental, "incremental", j->base) && check_base(call, j->base);
    if (good)
        submit(j);
    else
        job_destroy(j);
out:
    vv_codec_arena_deinit(&arena);
}

static void on_set_rate_limit(vv_rpc_call *call, vv_slice request) {
    const vv_admin *admin = call->service;
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    const Varve__V1__SetRateLimitRequest *set =
        (void *)vv_codec_request(call, &arena, &varve__v1__set_rate_limit_request__descriptor, request);
    if (set) {
        vv_user_limits limits = {.reads = {set->reads_per_second, set->read_burst},
                                 .writes = {set->writes_per_second, set->write_burst}};
        vv_status st =
            vv_rate_limit_set(admin->options.users, vv_slice_make(set->user.data, set->user.len), &limits);
        if (vv_ok(st)) {
            vv_log(admin->log, VV_LOG_INFO,
                   "admin: limits of %.*s: %" PRIu64 ":%" PRIu64 " reads, %" PRIu64 ":%" PRIu64
                   " writes a second",
                   (int)set->user.len, (const char *)set->user.data, set->reads_per_second, set->read_burst,
                   set->writes_per_second, set->write_burst);
            vv_rpc_reply(call, vv_rpc_body_copy(NULL, 0));
        } else if (vv_is(st, VV_INVALID_ARGUMENT)) {
            vv_rpc_fail_with(
                call, VV_RPC_INVALID_ARGUMENT, "BAD_RATE_LIMIT", 0,
                "allowed are a user's name of printable ASCII, and rates and bursts up to %" PRIu64,
                VV_RATE_MAX);
        } else {
            vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "TOO_MANY_USERS", 0,
                             "there are %d users already", VV_USERS_MAX);
        }
    }
    vv_codec_arena_deinit(&arena);
}

static void on_promote(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    const Varve__V1__PromoteRequest *promote =
        (void *)vv_codec_request(call, &arena, &varve__v1__promote_request__descriptor, request);
    admin_job *j = promote ? job_create(call, JOB_PROMOTE) : NULL;
    if (j) {
        j->force = promote->force;
        submit(j);
    }
    vv_codec_arena_deinit(&arena);
}

/* ---- the service ---- */

#define METHOD(name)     .path = "/" VV_ADMIN_SERVICE_NAME "/" name, .kind = VV_RPC_UNARY, .access = VV_RPC_ADMIN
#define JOB_METHOD(name) METHOD(name), .on_posted = on_posted, .on_cancelled = on_left

static const vv_rpc_method methods[] = {
    {METHOD("Status"), .while_draining = true, .on_call = vv_admin_on_status},
    {METHOD("Stats"), .while_draining = true, .on_call = vv_admin_on_stats},
    {METHOD("Dashboard"), .while_draining = true, .on_call = vv_admin_on_dashboard},
    {JOB_METHOD("Flush"), .on_call = on_flush},
    {JOB_METHOD("Compact"), .on_call = on_compact},
    {JOB_METHOD("SetSafeCompactionLsn"), .on_call = on_set_safe_lsn},
    {JOB_METHOD("Backup"), .on_call = on_backup},
    {JOB_METHOD("Verify"), .on_call = on_verify},
    {METHOD("SetRateLimit"), .on_call = on_set_rate_limit},
    {JOB_METHOD("Promote"), .on_call = on_promote},
    {JOB_METHOD("Reload"), .on_call = on_reload},
};

vv_status vv_admin_init(vv_admin *admin, const vv_admin_options *options, varve_db *db, vv_health *health,
                        const vv_logger *log, vv_error *err) {
    vv_workers_options workers = {
        .name = "varve-admin", .thread_count = THREADS, .queue_max = QUEUE_MAX, .background = true};
    *admin = (vv_admin){
        .options = *options, .db = db, .health = health, .log = log, .started_ns = vv_clock_mono_ns()};
    atomic_init(&admin->bytes_per_second, options->bytes_per_second);
    vv_workers_options promoter = {.name = "varve-promote", .thread_count = 1, .queue_max = QUEUE_MAX};
    vv_status status = vv_workers_create(&workers, &admin->workers);
    if (vv_ok(status))
        status = vv_workers_create(&promoter, &admin->promoter);
    if (vv_ok(status))
        return status;
    vv_workers_destroy(admin->workers);
    return vv_fail(err, status, "start the administration's threads");
}

void vv_admin_stop(vv_admin *admin) {
    vv_workers_stop(admin->workers);
    vv_workers_stop(admin->promoter);
}

void vv_admin_deinit(vv_admin *admin) {
    vv_workers_destroy(admin->promoter);
    vv_workers_destroy(admin->workers);
}

vv_rpc_service vv_admin_service(vv_admin *admin) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = admin};
}
