/*
 * config.h - what varved is told: flags, environment, file, defaults, in this order of precedence.
 *
 * A key of the engine goes to varve_options_set(); the server's own are in a table here. A key or a value
 * that is not allowed stops the start wherever it stands, even where something of higher precedence would
 * hide it.
 */
#ifndef VV_RPC_CONFIG_H
#define VV_RPC_CONFIG_H

#include <stdio.h>

#include "base/config.h"
#include "base/status.h"
#include "engine/varve.h"

#define VV_SERVER_ADDRESSES_MAX     16
#define VV_SERVER_ADDRESS_BYTES_MAX 127
#define VV_SERVER_DATA_BYTES_MAX    4095
#define VV_SERVER_PATH_BYTES_MAX    1023
#define VV_SERVER_ROLES_BYTES_MAX   31
#define VV_SERVER_PEERS_MAX         16
#define VV_SERVER_KEYS_MAX          160
#define VV_SERVER_KEY_BYTES_MAX     47
#define VV_SERVER_VALUE_BYTES       4096 /* of any value as text, and a zero */

/* Where a value comes from; rising precedence. */
typedef enum vv_server_source {
    VV_SERVER_FROM_DEFAULTS,
    VV_SERVER_FROM_FILE,
    VV_SERVER_FROM_ENVIRONMENT,
    VV_SERVER_FROM_FLAGS
} vv_server_source;

/* A key that somebody has set: who did last. */
typedef struct vv_server_set_key {
    char key[VV_SERVER_KEY_BYTES_MAX + 1]; /* upper case, '_' */
    vv_server_source from;
    int line; /* of the file */
} vv_server_set_key;

typedef struct vv_server_config {
    const char *file; /* the file that was read, borrowed from arguments or environment; NULL: none */
    vv_server_set_key set[VV_SERVER_KEYS_MAX];
    size_t set_count;

    char data[VV_SERVER_DATA_BYTES_MAX + 1];
    char listen[VV_SERVER_ADDRESSES_MAX][VV_SERVER_ADDRESS_BYTES_MAX + 1];
    size_t listen_count;
    char metrics_listen[VV_SERVER_ADDRESS_BYTES_MAX + 1]; /* "": nowhere */
    uint64_t drain_timeout_us;
    uint64_t rpc_threads; /* 0: one for each core */
    uint64_t rpc_memory_quota_bytes;
    uint64_t rpc_calls_max; /* in flight */
    uint64_t rpc_bytes_max; /* of requests in flight */
    uint64_t rpc_streams_max;
    uint64_t pipeline_ops_max;
    uint64_t worker_threads; /* 0: one for each core */
    uint64_t snapshots_max, snapshots_per_user_max;
    uint64_t snapshot_lease_us, snapshot_lease_us_max, page_token_lease_us, scan_idle_us;
    uint64_t exports_max, fetch_idle_us;
    char backup_dir[VV_SERVER_PATH_BYTES_MAX + 1];      /* "": none */
    char wal_archive_dir[VV_SERVER_PATH_BYTES_MAX + 1]; /* "": none */
    uint64_t backup_rate;                               /* bytes a second; 0: no limit */
    uint64_t watch_progress_interval_us;

    /* Replication (rpc/replication.h). */
    char node_name[VARVE_SLOT_NAME_BYTES_MAX + 1]; /* "": see node.h */
    uint64_t quorum, quorum_timeout_us, replication_heartbeat_us;

    uint32_t log_level;  /* a vv_log_level */
    uint32_t log_format; /* a vv_log_format */
    uint64_t log_lines_per_second;
    double access_log_sample;
    uint64_t slow_call_us; /* 0: no call is */

    /* Limits of connections; durations of 0: never. */
    uint64_t connections_max;
    uint64_t connection_streams_max;
    uint64_t metadata_bytes_max;
    uint64_t connection_idle_us, connection_age_us, connection_age_grace_us;
    uint64_t keepalive_time_us, keepalive_timeout_us, handshake_timeout_us, client_ping_us;
    uint32_t unix_mode; /* an index into vv_server_unix_modes */

    /* TLS (rpc/tls.h); files "": none. */
    char tls_cert[VV_SERVER_PATH_BYTES_MAX + 1];
    char tls_key[VV_SERVER_PATH_BYTES_MAX + 1];
    char tls_client_ca[VV_SERVER_PATH_BYTES_MAX + 1];
    uint32_t tls_client_auth; /* 0 require, 1 optional */

    /* Who may what (rpc/access.h); files "": none. */
    bool plaintext_tokens;
    bool reflection;
    char tokens_file[VV_SERVER_PATH_BYTES_MAX + 1];
    char rate_limits_file[VV_SERVER_PATH_BYTES_MAX + 1];
    char certificate_roles[VV_SERVER_ROLES_BYTES_MAX + 1];
    uint64_t read_rate, read_burst, write_rate, write_burst;

    /* Whom it follows, and who else there is (rpc/follower.h). */
    char follow[VV_SERVER_ADDRESS_BYTES_MAX + 1]; /* "": nobody */
    char peers[VV_SERVER_PEERS_MAX][VV_SERVER_ADDRESS_BYTES_MAX + 1];
    size_t peer_count;
    char follow_token_file[VV_SERVER_PATH_BYTES_MAX + 1]; /* "": none, as of those that follow */
    char follow_tls_ca[VV_SERVER_PATH_BYTES_MAX + 1];
    char follow_tls_cert[VV_SERVER_PATH_BYTES_MAX + 1];
    char follow_tls_key[VV_SERVER_PATH_BYTES_MAX + 1];
    uint64_t replication_timeout_us; /* a primary that says nothing for so long is lost */
    uint64_t fetch_parallel;         /* files at once */
} vv_server_config;

/* Of the files of unix sockets, in the order of the choices. */
extern const uint32_t vv_server_unix_modes[];

typedef enum vv_server_action {
    VV_SERVER_RUN,
    VV_SERVER_PRINT_CONFIG,
    VV_SERVER_HELP,
    VV_SERVER_MANUAL,
    VV_SERVER_VERSION
} vv_server_action;

/*
 * Fill *config and `engine` (fresh from varve_options_create()).
 *
 * argv without the program's name, NULL-terminated; environment as environ. When *action_out is HELP, MANUAL
 * or VERSION, that was asked for and nothing else has been looked at.
 *
 * INVALID_ARGUMENT   err names where it stands, the key, the value and what is allowed.
 * others             the file cannot be read.
 */
vv_status vv_server_config_load(const char *const *argv, const char *const *environment,
                                vv_server_config *config, varve_options *engine, vv_server_action *action_out,
                                vv_error *err) VV_CHECKED;

/*
 * What vv_server_config_load() looks at last: keys that need each other, and what they name.
 *
 * INVALID_ARGUMENT   err names the keys, and what is allowed.
 */
vv_status vv_server_config_check(const vv_server_config *config, vv_error *err) VV_CHECKED;
/* A part of it: no token crosses the network in the clear. */
vv_status vv_server_config_check_plaintext(const vv_server_config *config, vv_error *err) VV_CHECKED;

/* One key, of the server's or of the engine's. Texts are static. */
typedef struct vv_server_key {
    const char *key;
    const char *default_value;
    const char *meaning;
    char allowed[VV_OPTION_TEXT_BYTES];
    bool live; /* a reload applies it (reload.h) */
} vv_server_key;

/* False behind the last. */
bool vv_server_config_key(size_t index, vv_server_key *out);

/* The value of a key, as a file has it. */
void vv_server_config_get(const vv_server_config *config, const varve_options *engine, const char *key,
                          char text[VV_SERVER_VALUE_BYTES]);

/* Copy the value of one live key. */
void vv_server_config_copy_key(vv_server_config *to, varve_options *to_engine, const vv_server_config *from,
                               const varve_options *from_engine, const char *key);

/* Whoever is not on this machine can't reach it: "unix:...", 127.0.0.0/8, [::1], localhost. */
bool vv_server_address_is_local(const char *address);

/* Usage and every key with its default, meaning and what is allowed; and the same as a manual page,
 * varved(8). */
void vv_server_config_help(FILE *to);
void vv_server_config_manual(FILE *to);

/*
 * Everything that is in force, as a configuration file that says the same: each key behind what it means;
 * where a value was set, behind it; defaults as comments. Files with secrets are named, not shown.
 */
void vv_server_config_print(FILE *to, const vv_server_config *config, const varve_options *engine);

#endif
