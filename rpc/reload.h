/*
 * reload.h - the configuration of a running server, read again: by SIGHUP and by Admin.Reload.
 *
 *     read all of it  -->  check all of it  -->  apply what can be applied  -->  say what needs a restart
 *
 * It is read as at the start: the same flags and environment, and the file as it is now. When anything is
 * wrong, in any key or in any file that a key names, nothing changes at all. One reload at a time.
 *
 * Keys of which vv_server_key says so are applied, under these conditions: TLS is neither turned on nor off,
 * nor is asking clients for certificates, for the listeners are as they were opened; a reload closes the door
 * (TOKENS_FILE where there was none) unless tokens would cross the network in the clear, and never opens it
 * to everybody. What is not applied stays as it is, and needs a restart.
 */
#ifndef VV_RPC_RELOAD_H
#define VV_RPC_RELOAD_H

#include "base/log.h"
#include "base/status.h"
#include "rpc/access.h"
#include "rpc/call_log.h"
#include "rpc/config.h"
#include "rpc/service.h"
#include "rpc/tls.h"

typedef struct vv_reload vv_reload;

typedef struct vv_reload_options {
    /* What the configuration was loaded from, as for vv_server_config_load(); borrowed. argv NULL: it stays
     * as it is, and only the files that it names are read again. */
    const char *const *argv, *const *environment;
    const vv_server_config *config; /* in force; copied, as what follows */
    const varve_options *engine;
    /* Called with what is in force then, for what is not a server's. Any thread; NULL: nothing is. */
    void (*applied)(void *arg, const vv_server_config *config);
    void *arg;
} vv_reload_options;

/* The parts of a running server that it changes. */
typedef struct vv_reload_parts {
    varve_db *db;
    vv_access *access;
    vv_tls *tls; /* NULL: none */
    vv_call_log *call_log;
    vv_kv *kv;
    vv_admin *admin;
    bool traced; /* somebody else wants to know where time goes */
} vv_reload_parts;

/* Keys, of which the texts are static, in the order of --help. */
typedef struct vv_reload_report {
    const char *changed[VV_SERVER_KEYS_MAX]; /* its value, or what is in the file that it names */
    size_t changed_count;
    const char *restart_needed[VV_SERVER_KEYS_MAX]; /* they differ from what is in force */
    size_t restart_count;
} vv_reload_report;

/* For as long as the program runs, over several runs of a server. NO_MEMORY. */
vv_status vv_reload_create(const vv_reload_options *options, vv_reload **out) VV_CHECKED;
/* NULL is fine. */
void vv_reload_destroy(vv_reload *r);

/*
 * Do it. report may be NULL.
 *
 * INVALID_ARGUMENT   err says what is wrong: file and line, or flag or variable; key, value, and what is
 *                    allowed. Nothing changed, as with all others.
 * others             a file can't be read; there is no memory.
 */
vv_status vv_reload_run(vv_reload *r, const vv_reload_parts *parts, vv_reload_report *report,
                        vv_error *err) VV_CHECKED;

/* "LOG_LEVEL, TOKENS_FILE"; cut where it does not fit. */
void vv_reload_list(const char *const *keys, size_t count, char *text, size_t bytes);

/* Between two runs of a server: what reloads have changed, in what the next one is started with. */
void vv_reload_catch_up(vv_reload *r, vv_server_config *config, varve_options *engine);

/* How the last one went, and when one (the start counts) went well. Any thread. */
typedef struct vv_reload_state {
    bool ok;
    uint64_t ok_unix_ms;
} vv_reload_state;
vv_reload_state vv_reload_state_get(const vv_reload *r);

#endif
