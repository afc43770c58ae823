#include "rpc/reload.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"

/* Files that are a part of the configuration: by the keys that name them. */
enum { FILE_TOKENS, FILE_LIMITS, FILE_CERTIFICATE, FILE_KEY, FILE_CLIENT_CA, FILE_COUNT };

static const struct {
    const char *key;
    size_t offset; /* of its path in vv_server_config */
} files[FILE_COUNT] = {{"TOKENS_FILE", offsetof(vv_server_config, tokens_file)},
                       {"RATE_LIMITS_FILE", offsetof(vv_server_config, rate_limits_file)},
                       {"TLS_CERT", offsetof(vv_server_config, tls_cert)},
                       {"TLS_KEY", offsetof(vv_server_config, tls_key)},
                       {"TLS_CLIENT_CA", offsetof(vv_server_config, tls_client_ca)}};

/* Tells a file from what it was; all zeros: there is none. */
typedef struct stamp {
    uint64_t device, inode, bytes;
    int64_t changed_s, changed_ns;
} stamp;

struct vv_reload {
    vv_reload_options options;
    _Atomic bool ok;
    _Atomic uint64_t ok_unix_ms;
    vv_mutex running; /* held over a whole reload; guards what follows */
    vv_server_config now;
    varve_options *engine;
    stamp stamps[FILE_COUNT];
};

/* A reload on its way: nothing in it is in force. */
typedef struct attempt {
    vv_server_config next; /* what was read */
    varve_options *next_engine;
    vv_server_config merged; /* what will be in force */
    varve_options *merged_engine;
    stamp stamps[FILE_COUNT];
    vv_access_next access;
    vv_tls_next *tls;
    vv_reload_report report;
} attempt;

static const char *path_of(const vv_server_config *c, int file) {
    return (const char *)c + files[file].offset;
}

static void take_stamps(const vv_server_config *c, stamp stamps[FILE_COUNT]) {
    for (int i = 0; i < FILE_COUNT; i++) {
        struct stat st;
        stamps[i] = (stamp){0};
        if (*path_of(c, i) && stat(path_of(c, i), &st) == 0)
            stamps[i] = (stamp){.device = st.st_dev,
                                .inode = st.st_ino,
                                .bytes = (uint64_t)st.st_size,
                                .changed_s = st.st_mtim.tv_sec,
                                .changed_ns = st.st_mtim.tv_nsec};
    }
}

static vv_status no_memory(vv_error *err) {
    return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "reload");
}

/* ---- what there is ---- */

/* The engine's options of one object in another. */
static void copy_engine(varve_options *to, const varve_options *from) {
    varve_option_info info;
    char text[VV_SERVER_VALUE_BYTES];
    for (size_t i = 0; varve_options_describe(i, &info); i++)
        if (varve_options_get(from, info.key, text, sizeof text)) {
            varve_status st = varve_options_set(to, info.key, text, NULL);
            (void)st; /* it was a value of this key */
        }
}

static void attempt_destroy(attempt *a) {
    if (!a)
        return;
    vv_access_drop(&a->access);
    vv_tls_drop(a->tls);
    varve_options_destroy(a->next_engine);
    varve_options_destroy(a->merged_engine);
    vv_free(a);
}

/* NULL: no memory. */
static attempt *attempt_create(const vv_reload *r) {
    attempt *a = vv_alloc_zeroed(sizeof *a);
    if (!a)
        return NULL;
    a->next_engine = varve_options_create();
    a->merged_engine = varve_options_create();
    if (!a->next_engine || !a->merged_engine) {
        attempt_destroy(a);
        return NULL;
    }
    a->next = a->merged = r->now;
    copy_engine(a->merged_engine, r->engine);
    if (!r->options.argv)
        copy_engine(a->next_engine, r->engine);
    return a;
}

/* ---- what can be applied ---- */

static bool both(const char *a, const char *b) {
    return *a && *b;
}

/* Doors are closed by a reload, not opened; and not where what opens them would be seen by others. */
static bool tokens_may_change(const attempt *a) {
    vv_server_config then = a->merged;
    memcpy(then.tokens_file, a->next.tokens_file, sizeof then.tokens_file);
    bool opens = !then.tokens_file[0] && !then.tls_client_ca[0];
    return !opens && vv_ok(vv_server_config_check_plaintext(&then, NULL));
}

/* Of a live key whose value is another one. */
static bool may_change(const vv_reload *r, const attempt *a, const char *key) {
    const vv_server_config *now = &r->now, *next = &a->next;
    if (strcmp(key, "TLS_CERT") == 0 || strcmp(key, "TLS_KEY") == 0)
        return both(now->tls_cert, next->tls_cert);
    if (strcmp(key, "TLS_CLIENT_CA") == 0 || strcmp(key, "CERTIFICATE_ROLES") == 0)
        return both(now->tls_client_ca, next->tls_client_ca);
    return strcmp(key, "TOKENS_FILE") == 0 ? tokens_may_change(a) : true;
}

/* What is in force then, and what of all that was read is not. */
static void merge(const vv_reload *r, attempt *a) {
    vv_server_key k;
    char now[VV_SERVER_VALUE_BYTES], next[VV_SERVER_VALUE_BYTES];
    for (size_t i = 0; vv_server_config_key(i, &k); i++) {
        vv_server_config_get(&r->now, r->engine, k.key, now);
        vv_server_config_get(&a->next, a->next_engine, k.key, next);
        if (strcmp(now, next) == 0)
            continue;
        if (k.live && may_change(r, a, k.key)) {
            vv_server_config_copy_key(&a->merged, a->merged_engine, &a->next, a->next_engine, k.key);
            a->report.changed[a->report.changed_count++] = k.key;
        } else {
            a->report.restart_needed[a->report.restart_count++] = k.key;
        }
    }
}

/* A file of the same name with something else in it is a change of its key. */
static void note_files(const vv_reload *r, attempt *a) {
    take_stamps(&a->merged, a->stamps);
    for (int i = 0; i < FILE_COUNT; i++) {
        bool same_path = strcmp(path_of(&a->merged, i), path_of(&r->now, i)) == 0;
        if (same_path && memcmp(&a->stamps[i], &r->stamps[i], sizeof(stamp)) != 0)
            a->report.changed[a->report.changed_count++] = files[i].key;
    }
}

/* ---- files ---- */

static vv_access_options access_options(const vv_server_config *c) {
    return (vv_access_options){.tokens_file = c->tokens_file,
                               .limits_file = c->rate_limits_file,
                               .certificate_rights = vv_rights_parse(vv_slice_str(c->certificate_roles)),
                               .limits = {.reads = {.per_second = c->read_rate, .burst = c->read_burst},
                                          .writes = {.per_second = c->write_rate, .burst = c->write_burst}}};
}

static vv_tls_options tls_options(const vv_server_config *c) {
    return (vv_tls_options){.certificate = c->tls_cert, .key = c->tls_key, .client_ca = c->tls_client_ca};
}

/* Files that only a restart would use have to be right all the same. */
static vv_status check_files_for_restart(attempt *a, const vv_reload_parts *p, vv_error *err) {
    vv_access_next unused = {0};
    vv_tls *tls = NULL;
    vv_access_options access = access_options(&a->next);
    if (strcmp(a->next.tokens_file, a->merged.tokens_file) != 0)
        VV_TRY(vv_access_prepare(p->access, &access, &unused, err));
    vv_access_drop(&unused);
    bool other = strcmp(a->next.tls_cert, a->merged.tls_cert) != 0 ||
                 strcmp(a->next.tls_key, a->merged.tls_key) != 0 ||
                 strcmp(a->next.tls_client_ca, a->merged.tls_client_ca) != 0;
    vv_tls_options options = tls_options(&a->next);
    if (a->next.tls_cert[0] && other)
        VV_TRY(vv_tls_create(&options, &tls, err));
    vv_tls_destroy(tls);
    return VV_STATUS_OK;
}

static vv_status prepare(vv_reload *r, attempt *a, const vv_reload_parts *p, vv_error *err) {
    vv_server_action action;
    if (r->options.argv)
        VV_TRY(vv_server_config_load(r->options.argv, r->options.environment, &a->next, a->next_engine,
                                     &action, err));
    else
        VV_TRY(vv_server_config_check(&a->next, err));
    merge(r, a);
    note_files(r, a);
    vv_access_options access = access_options(&a->merged);
    vv_tls_options tls = tls_options(&a->merged);
    VV_TRY(vv_access_prepare(p->access, &access, &a->access, err));
    if (p->tls)
        VV_TRY(vv_tls_prepare(p->tls, &tls, &a->tls, err));
    return check_files_for_restart(a, p, err);
}

/* ---- applying ---- */

/* Only the engine can fail, for want of memory; so it is first. */
static vv_status apply(vv_reload *r, attempt *a, const vv_reload_parts *p, vv_error *err) {
    varve_error words = {""};
    varve_status st = varve_reconfigure(p->db, a->merged_engine, &words);
    if (!varve_ok(st))
        return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "%s", words.text);
    vv_access_take(p->access, &a->access);
    if (a->tls)
        vv_tls_take(p->tls, a->tls);
    a->tls = NULL;
    r->now = a->merged;
    memcpy(r->stamps, a->stamps, sizeof r->stamps);
    varve_options *old = r->engine;
    r->engine = a->merged_engine;
    a->merged_engine = old;
    vv_call_log_options logged = {.sample = r->now.access_log_sample,
                                  .slow_ns = r->now.slow_call_us * VV_NS_PER_US,
                                  .lines_per_second = (uint32_t)r->now.log_lines_per_second};
    vv_call_log_set(p->call_log, &logged);
    atomic_store_explicit(&p->kv->traced, p->traced || r->now.slow_call_us > 0, memory_order_relaxed);
    atomic_store_explicit(&p->admin->bytes_per_second, r->now.backup_rate, memory_order_relaxed);
    if (r->options.applied)
        r->options.applied(r->options.arg, &r->now);
    return VV_STATUS_OK;
}

vv_status vv_reload_run(vv_reload *r, const vv_reload_parts *p, vv_reload_report *report, vv_error *err) {
    if (report)
        *report = (vv_reload_report){0};
    vv_mutex_lock(&r->running);
    attempt *a = attempt_create(r);
    vv_status st = a ? prepare(r, a, p, err) : no_memory(err);
    if (vv_ok(st))
        st = apply(r, a, p, err);
    if (vv_ok(st) && report)
        *report = a->report;
    atomic_store_explicit(&r->ok, vv_ok(st), memory_order_relaxed);
    if (vv_ok(st))
        atomic_store_explicit(&r->ok_unix_ms, vv_clock_unix_ms(), memory_order_relaxed);
    attempt_destroy(a);
    vv_mutex_unlock(&r->running);
    return st;
}

void vv_reload_list(const char *const *keys, size_t count, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", keys[i]);
}

/* ---- life ---- */

void vv_reload_catch_up(vv_reload *r, vv_server_config *config, varve_options *engine) {
    vv_server_key k;
    vv_mutex_lock(&r->running);
    for (size_t i = 0; vv_server_config_key(i, &k); i++)
        if (k.live)
            vv_server_config_copy_key(config, engine, &r->now, r->engine, k.key);
    vv_mutex_unlock(&r->running);
}

vv_reload_state vv_reload_state_get(const vv_reload *r) {
    return (vv_reload_state){.ok = atomic_load_explicit(&r->ok, memory_order_relaxed),
                             .ok_unix_ms = atomic_load_explicit(&r->ok_unix_ms, memory_order_relaxed)};
}

vv_status vv_reload_create(const vv_reload_options *options, vv_reload **out) {
    *out = NULL;
    vv_reload *r = vv_alloc_zeroed(sizeof *r);
    varve_options *engine = varve_options_create();
    if (!r || !engine) {
        vv_free(r);
        varve_options_destroy(engine);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    r->options = *options;
    r->now = *options->config;
    r->engine = engine;
    copy_engine(r->engine, options->engine);
    take_stamps(&r->now, r->stamps);
    atomic_init(&r->ok, true);
    atomic_init(&r->ok_unix_ms, vv_clock_unix_ms());
    vv_mutex_init(&r->running);
    *out = r;
    return VV_STATUS_OK;
}

void vv_reload_destroy(vv_reload *r) {
    if (!r)
        return;
    varve_options_destroy(r->engine);
    vv_mutex_deinit(&r->running);
    vv_free(r);
}
