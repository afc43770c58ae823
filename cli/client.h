/*
 * client.h - what a command can ask for, whoever answers.
 *
 * Two implementations: client_grpc.c calls a varved, client_local.c opens the directory in this process.
 * Commands use the inline wrappers and don't know which. get, put, del, write and scan may be called by many
 * threads at once; what else there is, by one.
 *
 * Every call returns true when it was carried out; otherwise *err says why, in the words of who answered.
 */
#ifndef VV_CLI_CLIENT_H
#define VV_CLI_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"
#include "cli/bytes.h"
#include "engine/varve.h"

/* Of a call that failed. Longer texts are cut. */
typedef struct vv_client_error {
    char code[32];   /* the gRPC status, or in process the varve_code: "UNAVAILABLE", "LOCKED" */
    char reason[64]; /* of the ErrorInfo, or the varve_status: "KEY_EMPTY"; "" if there is none */
    char message[1024];
} vv_client_error;

typedef enum vv_client_op_kind { VV_CLIENT_PUT, VV_CLIENT_DELETE } vv_client_op_kind;

typedef struct vv_client_op {
    vv_client_op_kind kind;
    vv_slice key;
    vv_slice value; /* of a put */
} vv_client_op;

/* The caller's, zero-initialised; bytes.data is to be released with vv_bytes_deinit(). */
typedef struct vv_client_value {
    bool found;
    vv_bytes bytes;
    uint64_t lsn;
    uint64_t expires_unix_ms; /* 0: never */
} vv_client_value;

typedef enum vv_client_health {
    VV_CLIENT_HEALTH_UNKNOWN,
    VV_CLIENT_SERVING,
    VV_CLIENT_NOT_SERVING,
    VV_CLIENT_SERVICE_UNKNOWN
} vv_client_health;

/* What to scan; NULL bounds are open. */
typedef struct vv_client_range {
    const vv_bytes *prefix;
    const vv_bytes *start;
    const vv_bytes *end; /* exclusive */
    uint64_t limit;      /* 0: all */
    bool reverse;
    bool keys_only; /* values may be left out */
} vv_client_range;

/* An entry of a scan, borrowed until return. */
typedef void (*vv_client_entry_fn)(void *arg, const varve_entry *entry);

typedef enum vv_client_event_kind {
    VV_CLIENT_EVENT_PUT,
    VV_CLIENT_EVENT_DELETE,
    VV_CLIENT_EVENT_MARK /* everything up to its LSN has been told */
} vv_client_event_kind;

typedef struct vv_client_event {
    vv_client_event_kind kind;
    vv_slice key;
    vv_slice value;
    uint64_t lsn;
    uint64_t expires_unix_ms; /* 0: never */
} vv_client_event;

/* A change, borrowed until return. False: enough. */
typedef bool (*vv_client_event_fn)(void *arg, const vv_client_event *event);

/* Every number of a database and, from a server, its own. */
#define VV_CLIENT_NUMBERS_MAX 192
typedef struct vv_client_stats {
    size_t count;
    struct {
        char name[48];
        uint64_t value;
    } numbers[VV_CLIENT_NUMBERS_MAX];
    bool wal_failed;
    char io_backend[16];
} vv_client_stats;

/* A follower, as its primary knows it. */
typedef struct vv_client_replica {
    char slot[VARVE_SLOT_NAME_BYTES_MAX + 1];
    char peer[256];
    bool connected;
    bool lost;
    uint64_t confirmed_lsn, lag_lsn, held_bytes;
} vv_client_replica;

/* What a server is and how far it has come. */
typedef struct vv_client_status {
    char version[32];
    char role[16];
    char io_backend[16];
    bool serving;
    bool wal_failed;
    uint64_t last_lsn, durable_lsn, flushed_lsn, safe_compaction_lsn;
    uint64_t epoch, promised_epoch;
    uint64_t uptime_ms;
    char node[VARVE_SLOT_NAME_BYTES_MAX + 1]; /* "": it has none */
    /* unless it is a primary */
    char primary[256];
    bool connected;
    uint64_t applied_lsn, lag_lsn, lag_bytes, lag_ms;
    /* if it is one */
    uint64_t quorum, committed_lsn;
    size_t replica_count;
    vv_client_replica replicas[VARVE_SLOTS_MAX];
} vv_client_status;

typedef struct vv_client_backup {
    const char *dest;        /* a name for a server, a path in process */
    const char *incremental; /* the same of an earlier backup; NULL: none */
    bool link;
} vv_client_backup;

/* Damage that was found, borrowed until return. */
typedef void (*vv_client_damage_fn)(void *arg, const varve_damage *damage);

/* What a reload of the configuration came to: names of keys. More or longer ones are left out. */
#define VV_CLIENT_KEYS_MAX 192
typedef struct vv_client_reload_report {
    char changed[VV_CLIENT_KEYS_MAX][48];
    size_t changed_count;
    char restart_needed[VV_CLIENT_KEYS_MAX][48];
    size_t restart_count;
} vv_client_reload_report;

typedef struct vv_client vv_client;

/* An operation that one of the two cannot do is NULL in its table; the commands' table knows which. */
typedef struct vv_client_ops {
    bool (*get)(vv_client *c, vv_slice key, vv_client_value *out, vv_client_error *err);
    bool (*put)(vv_client *c, vv_slice key, vv_slice value, bool async, uint64_t *lsn_out,
                vv_client_error *err);
    bool (*del)(vv_client *c, vv_slice key, bool async, uint64_t *lsn_out, vv_client_error *err);
    bool (*write)(vv_client *c, const vv_client_op *ops, size_t count, bool async, uint64_t *lsn_out,
                  vv_client_error *err);
    bool (*scan)(vv_client *c, const vv_client_range *range, vv_client_entry_fn fn, void *arg,
                 vv_client_error *err);
    bool (*watch)(vv_client *c, const vv_client_range *range, uint64_t from_lsn, vv_client_event_fn fn,
                  void *arg, vv_client_error *err);
    bool (*health)(vv_client *c, const char *service, vv_client_health *out, vv_client_error *err);
    bool (*flush)(vv_client *c, vv_client_error *err);
    bool (*compact)(vv_client *c, vv_client_error *err);
    bool (*stats)(vv_client *c, vv_client_stats *out, vv_client_error *err);
    bool (*dashboard)(vv_client *c, vv_bytes *json_out, vv_client_error *err);
    bool (*status)(vv_client *c, vv_client_status *out, vv_client_error *err);
    bool (*backup)(vv_client *c, const vv_client_backup *backup, varve_backup_info *out,
                   vv_client_error *err);
    bool (*verify)(vv_client *c, vv_client_damage_fn fn, void *arg, varve_verify_result *out,
                   vv_client_error *err);
    bool (*promote)(vv_client *c, bool force, uint64_t *epoch_out, vv_client_error *err);
    bool (*reload)(vv_client *c, vv_client_reload_report *out, vv_client_error *err);
    bool (*close)(vv_client *c, vv_client_error *err);
} vv_client_ops;

struct vv_client {
    const vv_client_ops *ops;
};

static inline bool vv_client_get(vv_client *c, vv_slice key, vv_client_value *out, vv_client_error *err) {
    return c->ops->get(c, key, out, err);
}

static inline bool vv_client_put(vv_client *c, vv_slice key, vv_slice value, bool async, uint64_t *lsn_out,
                                 vv_client_error *err) {
    return c->ops->put(c, key, value, async, lsn_out, err);
}

static inline bool vv_client_del(vv_client *c, vv_slice key, bool async, uint64_t *lsn_out,
                                 vv_client_error *err) {
    return c->ops->del(c, key, async, lsn_out, err);
}

/* All of them or none; *lsn_out is the last one's. */
static inline bool vv_client_write(vv_client *c, const vv_client_op *ops, size_t count, bool async,
                                   uint64_t *lsn_out, vv_client_error *err) {
    return c->ops->write(c, ops, count, async, lsn_out, err);
}

/* All entries of one state, in order; on failure some may have been given already. */
static inline bool vv_client_scan(vv_client *c, const vv_client_range *range, vv_client_entry_fn fn,
                                  void *arg, vv_client_error *err) {
    return c->ops->scan(c, range, fn, arg, err);
}

/* Changes in a range, from an LSN on (0: from now on), until fn has had enough or the call fails. Of the
 * range only the bounds count. */
static inline bool vv_client_watch(vv_client *c, const vv_client_range *range, uint64_t from_lsn,
                                   vv_client_event_fn fn, void *arg, vv_client_error *err) {
    return c->ops->watch(c, range, from_lsn, fn, arg, err);
}

/* service "": the server as a whole. */
static inline bool vv_client_health_check(vv_client *c, const char *service, vv_client_health *out,
                                          vv_client_error *err) {
    return c->ops->health(c, service, out, err);
}

static inline bool vv_client_flush(vv_client *c, vv_client_error *err) {
    return c->ops->flush(c, err);
}

static inline bool vv_client_compact(vv_client *c, vv_client_error *err) {
    return c->ops->compact(c, err);
}

static inline bool vv_client_get_stats(vv_client *c, vv_client_stats *out, vv_client_error *err) {
    return c->ops->stats(c, out, err);
}

/* One object, appended. */
static inline bool vv_client_get_dashboard(vv_client *c, vv_bytes *json_out, vv_client_error *err) {
    return c->ops->dashboard(c, json_out, err);
}

static inline bool vv_client_get_status(vv_client *c, vv_client_status *out, vv_client_error *err) {
    return c->ops->status(c, out, err);
}

static inline bool vv_client_back_up(vv_client *c, const vv_client_backup *backup, varve_backup_info *out,
                                     vv_client_error *err) {
    return c->ops->backup(c, backup, out, err);
}

static inline bool vv_client_verify(vv_client *c, vv_client_damage_fn fn, void *arg, varve_verify_result *out,
                                    vv_client_error *err) {
    return c->ops->verify(c, fn, arg, out, err);
}

/* Make a follower the primary of a new epoch. */
static inline bool vv_client_promote(vv_client *c, bool force, uint64_t *epoch_out, vv_client_error *err) {
    return c->ops->promote(c, force, epoch_out, err);
}

/* Have a server read its configuration again. False also when that was refused: *err has what is wrong. */
static inline bool vv_client_reload(vv_client *c, vv_client_reload_report *out, vv_client_error *err) {
    return c->ops->reload(c, out, err);
}

/* For implementations: one number more. */
void vv_client_stats_add(vv_client_stats *stats, const char *name, uint64_t value);

/* Releases the client in any case. False: in process, not everything reached the disk. */
static inline bool vv_client_close(vv_client *c, vv_client_error *err) {
    return c->ops->close(c, err);
}

/* A server, and what it is shown; NULL: nothing of the kind. */
typedef struct vv_client_target {
    const char *address; /* HOST:PORT or unix:PATH */
    uint64_t timeout_us; /* of each call from its start, connecting included */
    const char *token;
    const char *token_file; /* its first word, instead */
    const char *tls_ca;     /* files, PEM; no TLS without this one */
    const char *tls_cert;
    const char *tls_key;
} vv_client_target;

/* The target is borrowed until return. NULL: *err says why. Connecting happens with the first call. */
vv_client *vv_client_grpc_open(const vv_client_target *target, vv_client_error *err);

/* create: make the directory and the database if there is none; otherwise that is an error. */
vv_client *vv_client_local_open(const char *path, bool create, vv_client_error *err);

/* Fill *err; returns false, so that a function can end with it. */
bool vv_client_fail(vv_client_error *err, const char *code, const char *reason, const char *message);

#endif
