#include "rpc/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/config.h"
#include "base/log.h"
#include "rpc/rate_limit.h"

#define ENVIRONMENT_PREFIX "VARVE_"
#define DEFAULT_ADDRESS    "127.0.0.1:7700"
#define LEASE_US_MAX       UINT64_C(86400000000)

static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const log_formats[] = {"text", "json", NULL};

static const char *const unix_modes[] = {"0600", "0660", "0666", NULL};
const uint32_t vv_server_unix_modes[] = {0600, 0660, 0666};
static const char *const client_auths[] = {"require", "optional", NULL};

#define DAY_US UINT64_C(86400000000)

static const vv_option options[] = {
    {"DATA", VV_OPTION_TEXT, offsetof(vv_server_config, data), "./data", 0, VV_SERVER_DATA_BYTES_MAX, false,
     NULL, "directory of the data"},
    {"DRAIN_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, drain_timeout_us), "10s", 0,
     UINT64_C(3600000000), false, NULL, "how long calls in flight may take to end after SIGTERM"},
    {"RPC_THREADS", VV_OPTION_COUNT, offsetof(vv_server_config, rpc_threads), "0", 0, 64, false, NULL,
     "threads that answer calls; 0: one for each core"},
    {"RPC_MEMORY_QUOTA", VV_OPTION_BYTES, offsetof(vv_server_config, rpc_memory_quota_bytes), "1GiB",
     UINT64_C(16) << 20, UINT64_C(1) << 40, false, NULL, "memory for what connections send and receive"},
    {"RPC_MAX_IN_FLIGHT", VV_OPTION_COUNT, offsetof(vv_server_config, rpc_calls_max), "20000", 1,
     UINT64_C(10000000), false, NULL, "calls at once; more are refused with RESOURCE_EXHAUSTED"},
    {"RPC_MAX_IN_FLIGHT_BYTES", VV_OPTION_BYTES, offsetof(vv_server_config, rpc_bytes_max), "512MiB",
     UINT64_C(1) << 20, UINT64_C(1) << 40, false, NULL, "bytes of requests at once; more are refused"},
    {"RPC_MAX_STREAMS", VV_OPTION_COUNT, offsetof(vv_server_config, rpc_streams_max), "10000", 1,
     UINT64_C(10000000), false, NULL,
     "streams (scans, watches, pipelines) at once, apart from other calls; more are refused"},
    {"PIPELINE_MAX_IN_FLIGHT", VV_OPTION_COUNT, offsetof(vv_server_config, pipeline_ops_max), "8192", 1,
     UINT64_C(1000000), false, NULL, "operations under way in one pipeline; more wait in the network"},
    {"WORKER_THREADS", VV_OPTION_COUNT, offsetof(vv_server_config, worker_threads), "0", 0, 64, false, NULL,
     "threads for scans and for reads of many keys; 0: one for each core"},
    {"SNAPSHOTS_MAX", VV_OPTION_COUNT, offsetof(vv_server_config, snapshots_max), "10000", 1,
     UINT64_C(1000000), false, NULL, "leases of snapshots and of page tokens at once"},
    {"SNAPSHOTS_PER_USER", VV_OPTION_COUNT, offsetof(vv_server_config, snapshots_per_user_max), "2000", 1,
     UINT64_C(1000000), false, NULL, "of them, those of one user"},
    {"SNAPSHOT_LEASE_DEFAULT", VV_OPTION_DURATION, offsetof(vv_server_config, snapshot_lease_us), "60s", 1000,
     LEASE_US_MAX, false, NULL, "how long a snapshot is held for a client that names no time"},
    {"SNAPSHOT_LEASE_MAX", VV_OPTION_DURATION, offsetof(vv_server_config, snapshot_lease_us_max), "3600s",
     1000, LEASE_US_MAX, false, NULL, "the longest lease; more is cut to it"},
    {"PAGE_TOKEN_LEASE", VV_OPTION_DURATION, offsetof(vv_server_config, page_token_lease_us), "60s", 1000,
     LEASE_US_MAX, false, NULL, "how long a scan may be gone on with by its page token"},
    {"EXPORTS_MAX", VV_OPTION_COUNT, offsetof(vv_server_config, exports_max), "8", 1, 1000, false, NULL,
     "snapshots of the store's files held at once for replicas; each keeps its files on the disk"},
    {"FETCH_IDLE_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, fetch_idle_us), "60s", 1000,
     LEASE_US_MAX, false, NULL, "a replica that takes nothing of a file for so long is given up"},
    {"BACKUP_DIR", VV_OPTION_TEXT, offsetof(vv_server_config, backup_dir), "", 0, VV_SERVER_PATH_BYTES_MAX,
     false, NULL, "directory below which Admin.Backup makes backups; empty: it makes none"},
    {"BACKUP_RATE", VV_OPTION_BYTES, offsetof(vv_server_config, backup_rate), "64MiB", 0, UINT64_C(1) << 40,
     false, NULL, "bytes a second that a backup or a verification reads and writes; 0: as fast as it goes"},
    {"WAL_ARCHIVE_DIR", VV_OPTION_TEXT, offsetof(vv_server_config, wal_archive_dir), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL,
     "directory to which everything written is copied, for varve restore to any LSN or time; empty: none"},
    {"WATCH_PROGRESS_INTERVAL", VV_OPTION_DURATION, offsetof(vv_server_config, watch_progress_interval_us),
     "10s", 10000, UINT64_C(3600000000), false, NULL, "a watch with nothing to tell says how far it is"},
    {"NODE_NAME", VV_OPTION_TEXT, offsetof(vv_server_config, node_name), "", 0, VARVE_SLOT_NAME_BYTES_MAX,
     false, NULL,
     "this server among replicas; empty: a random name, kept in the file NODE of the data directory"},
    {"QUORUM", VV_OPTION_COUNT, offsetof(vv_server_config, quorum), "0", 0, VARVE_SLOTS_MAX, false, NULL,
     "followers that must have a write before it is acknowledged and seen; 0: it needs none"},
    {"QUORUM_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, quorum_timeout_us), "10s", 1000,
     UINT64_C(3600000000), false, NULL, "how long a write waits for them until it is answered UNKNOWN"},
    {"REPLICATION_HEARTBEAT", VV_OPTION_DURATION, offsetof(vv_server_config, replication_heartbeat_us),
     "500ms", 1000, UINT64_C(3600000000), false, NULL, "a follower hears of its primary at least so often"},
    {"SCAN_IDLE_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, scan_idle_us), "60s", 1000,
     LEASE_US_MAX, false, NULL, "a scan whose client takes no message for so long is ended"},
    {"LOG_LEVEL", VV_OPTION_CHOICE, offsetof(vv_server_config, log_level), "info", 0, 0, false, log_levels,
     "least level of the lines on stderr"},
    {"LOG_FORMAT", VV_OPTION_CHOICE, offsetof(vv_server_config, log_format), "text", 0, 0, false, log_formats,
     "how they look"},
    {"LOG_LINES_PER_SECOND", VV_OPTION_COUNT, offsetof(vv_server_config, log_lines_per_second), "200", 1,
     UINT64_C(1000000), false, NULL,
     "most lines about calls, and of each level beside; more are only counted"},
    {"ACCESS_LOG_SAMPLE", VV_OPTION_RATE, offsetof(vv_server_config, access_log_sample), "0", 0, 1, false,
     NULL, "share of the calls that get a line when they are over"},
    {"SLOW_CALL_THRESHOLD", VV_OPTION_DURATION, offsetof(vv_server_config, slow_call_us), "1s", 0,
     UINT64_C(3600000000), false, NULL,
     "unary calls that take so long get a line that says where the time went; 0us: none"},
    {"MAX_CONNECTIONS", VV_OPTION_COUNT, offsetof(vv_server_config, connections_max), "10000", 0,
     UINT64_C(10000000), false, NULL, "connections at once; more are closed at once; 0: no limit"},
    {"MAX_CONCURRENT_STREAMS", VV_OPTION_COUNT, offsetof(vv_server_config, connection_streams_max), "1000", 1,
     INT32_MAX, false, NULL, "calls at once over one connection; a client keeps more waiting"},
    {"MAX_METADATA_SIZE", VV_OPTION_BYTES, offsetof(vv_server_config, metadata_bytes_max), "16KiB", 1024,
     UINT64_C(1) << 20, false, NULL, "headers of one call"},
    {"MAX_CONNECTION_IDLE", VV_OPTION_DURATION, offsetof(vv_server_config, connection_idle_us), "0s", 0,
     30 * DAY_US, false, NULL, "a connection without a call for so long is closed; 0s: never"},
    {"MAX_CONNECTION_AGE", VV_OPTION_DURATION, offsetof(vv_server_config, connection_age_us), "0s", 0,
     30 * DAY_US, false, NULL,
     "a connection takes no more calls after this, so that clients spread anew; 0s: never"},
    {"MAX_CONNECTION_AGE_GRACE", VV_OPTION_DURATION, offsetof(vv_server_config, connection_age_grace_us),
     "10s", 0, 30 * DAY_US, false, NULL, "what its calls have left then, streams too; 0s: no end"},
    {"KEEPALIVE_TIME", VV_OPTION_DURATION, offsetof(vv_server_config, keepalive_time_us), "60s", 1000000,
     30 * DAY_US, false, NULL, "a silent connection is asked for a sign of life after this"},
    {"KEEPALIVE_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, keepalive_timeout_us), "20s",
     1000000, DAY_US, false, NULL, "and closed when none has come after this"},
    {"KEEPALIVE_MIN_CLIENT_TIME", VV_OPTION_DURATION, offsetof(vv_server_config, client_ping_us), "1s", 1000,
     DAY_US, false, NULL,
     "clients may ping so often while nothing is sent to them; who does more is sent away"},
    {"HANDSHAKE_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, handshake_timeout_us), "10s", 100000,
     DAY_US, false, NULL, "for a new connection to begin to speak HTTP/2, or TLS"},
    {"UNIX_SOCKET_MODE", VV_OPTION_CHOICE, offsetof(vv_server_config, unix_mode), "0600", 0, 0, false,
     unix_modes, "who may connect to a unix socket: its user, its group too, or all"},
    {"TLS_CERT", VV_OPTION_TEXT, offsetof(vv_server_config, tls_cert), "", 0, VV_SERVER_PATH_BYTES_MAX, false,
     NULL, "the server's certificate chain, PEM; with it all TCP addresses speak TLS; renewals are noticed"},
    {"TLS_KEY", VV_OPTION_TEXT, offsetof(vv_server_config, tls_key), "", 0, VV_SERVER_PATH_BYTES_MAX, false,
     NULL, "its private key, PEM, without a password"},
    {"TLS_CLIENT_CA", VV_OPTION_TEXT, offsetof(vv_server_config, tls_client_ca), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL,
     "who signs clients' certificates, PEM; clients are asked for one"},
    {"TLS_CLIENT_AUTH", VV_OPTION_CHOICE, offsetof(vv_server_config, tls_client_auth), "require", 0, 0, false,
     client_auths, "whether a client may be without a certificate, given TLS_CLIENT_CA"},
    {"PLAINTEXT_TOKENS", VV_OPTION_BOOL, offsetof(vv_server_config, plaintext_tokens), "false", 0, 0, false,
     NULL, "take tokens on an address of the network without TLS, where others can read them"},
    {"REFLECTION", VV_OPTION_BOOL, offsetof(vv_server_config, reflection), "true", 0, 0, false, NULL,
     "tell the schema to clients that have none, such as grpcurl; without a token"},
    {"TOKENS_FILE", VV_OPTION_TEXT, offsetof(vv_server_config, tokens_file), "", 0, VV_SERVER_PATH_BYTES_MAX,
     false, NULL, "who may what: USER sha256:HEX|certificate|anonymous ROLES a line"},
    {"CERTIFICATE_ROLES", VV_OPTION_TEXT, offsetof(vv_server_config, certificate_roles), "none", 0,
     VV_SERVER_ROLES_BYTES_MAX, false, NULL,
     "what clients with a certificate may that TOKENS_FILE does not name: none, or of "
     "read,write,admin,replica"},
    {"RATE_LIMIT_READS", VV_OPTION_COUNT, offsetof(vv_server_config, read_rate), "0", 0, VV_RATE_MAX, false,
     NULL, "reads a second of each user; 0: no limit"},
    {"RATE_LIMIT_READ_BURST", VV_OPTION_COUNT, offsetof(vv_server_config, read_burst), "0", 0, VV_RATE_MAX,
     false, NULL, "reads at once after a pause; 0: one second's worth"},
    {"RATE_LIMIT_WRITES", VV_OPTION_COUNT, offsetof(vv_server_config, write_rate), "0", 0, VV_RATE_MAX, false,
     NULL, "writes a second of each user; 0: no limit"},
    {"RATE_LIMIT_WRITE_BURST", VV_OPTION_COUNT, offsetof(vv_server_config, write_burst), "0", 0, VV_RATE_MAX,
     false, NULL, "writes at once after a pause; 0: one second's worth"},
    {"RATE_LIMITS_FILE", VV_OPTION_TEXT, offsetof(vv_server_config, rate_limits_file), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL,
     "limits of single users: USER reads=RATE[:BURST] writes=RATE[:BURST] a line"},
    {"FOLLOW_TOKEN_FILE", VV_OPTION_TEXT, offsetof(vv_server_config, follow_token_file), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL,
     "token of a user with the right replica, for FOLLOW and PEERS; read again for each call"},
    {"FOLLOW_TLS_CA", VV_OPTION_TEXT, offsetof(vv_server_config, follow_tls_ca), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL,
     "who signs the certificates of FOLLOW and PEERS, PEM; with it they have to speak TLS"},
    {"FOLLOW_TLS_CERT", VV_OPTION_TEXT, offsetof(vv_server_config, follow_tls_cert), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL, "certificate to show them, PEM"},
    {"FOLLOW_TLS_KEY", VV_OPTION_TEXT, offsetof(vv_server_config, follow_tls_key), "", 0,
     VV_SERVER_PATH_BYTES_MAX, false, NULL, "its private key, PEM, without a password"},
    {"REPLICATION_TIMEOUT", VV_OPTION_DURATION, offsetof(vv_server_config, replication_timeout_us), "5s",
     100000, UINT64_C(3600000000), false, NULL,
     "a primary from which nothing has come for so long is lost, and looked for anew"},
    {"FETCH_PARALLEL", VV_OPTION_COUNT, offsetof(vv_server_config, fetch_parallel), "4", 1, 64, false, NULL,
     "files at once while a follower gets a whole copy"},
};
static const vv_option_table table = {options, VV_ARRAY_COUNT(options)};

typedef struct loader {
    vv_server_config *config;
    varve_options *engine;
    vv_server_source
        listen_source; /* a higher source replaces the addresses of a lower one, an equal one adds */
    int line;          /* of the file that is being read */
} loader;

static vv_status invalid(vv_sub sub) {
    return vv_status_make(VV_INVALID_ARGUMENT, sub, 0);
}

/* "a-key" is "A_KEY". */
static bool key_is(const char *key, const char *canonical) {
    for (; *key && *canonical; key++, canonical++)
        if ((*key == '-' ? '_' : toupper((unsigned char)*key)) != *canonical)
            return false;
    return *key == *canonical;
}

/* ---- addresses ---- */

static bool valid_address(const char *address) {
    if (strncmp(address, "unix:", 5) == 0)
        return address[5] != '\0';
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || !isdigit((unsigned char)colon[1]))
        return false;
    if (address[0] != '[' && memchr(address, ':', (size_t)(colon - address)))
        return false; /* an IPv6 address without its brackets */
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    return *end == '\0' && port <= 65535;
}

static vv_status add_address(vv_server_config *config, const char *address, size_t bytes, vv_error *err) {
    if (config->listen_count == VV_SERVER_ADDRESSES_MAX)
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "LISTEN: allowed are at most %d addresses",
                       VV_SERVER_ADDRESSES_MAX);
    char *to = config->listen[config->listen_count];
    if (bytes <= VV_SERVER_ADDRESS_BYTES_MAX) {
        memcpy(to, address, bytes);
        to[bytes] = '\0';
    }
    if (bytes > VV_SERVER_ADDRESS_BYTES_MAX || !valid_address(to))
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION),
                       "LISTEN = %.*s: allowed is HOST:PORT or unix:PATH of at most %d bytes", (int)bytes,
                       address, VV_SERVER_ADDRESS_BYTES_MAX);
    config->listen_count++;
    return VV_STATUS_OK;
}

/* One address or several with commas between. */
static vv_status set_listen(loader *l, vv_server_source from, const char *value, vv_error *err) {
    if (from > l->listen_source)
        l->config->listen_count = 0;
    l->listen_source = from;
    for (;;) {
        size_t bytes = strcspn(value, ",");
        VV_TRY(add_address(l->config, value, bytes, err));
        if (value[bytes] == '\0')
            return VV_STATUS_OK;
        value += bytes + 1;
    }
}

/* Of another server: a port of 0 is none that one could connect to. */
static vv_status set_address(const char *key, const char *value, size_t bytes, char *to, vv_error *err) {
    if (bytes <= VV_SERVER_ADDRESS_BYTES_MAX) {
        memcpy(to, value, bytes);
        to[bytes] = '\0';
        if (valid_address(to) && (strncmp(to, "unix:", 5) == 0 || atoi(strrchr(to, ':') + 1) != 0))
            return VV_STATUS_OK;
    }
    return vv_fail(err, invalid(VV_SUB_BAD_OPTION),
                   "%s = %.*s: allowed is HOST:PORT or unix:PATH of at most %d bytes", key, (int)bytes, value,
                   VV_SERVER_ADDRESS_BYTES_MAX);
}

/* Empty: nobody, whatever a source of lower precedence says. */
static vv_status set_follow(vv_server_config *config, const char *value, vv_error *err) {
    config->follow[0] = '\0';
    return *value ? set_address("FOLLOW", value, strlen(value), config->follow, err) : VV_STATUS_OK;
}

/* Empty: nowhere, whatever a source of lower precedence says. */
static vv_status set_metrics_listen(vv_server_config *config, const char *value, vv_error *err) {
    config->metrics_listen[0] = '\0';
    if (!*value)
        return VV_STATUS_OK;
    if (strlen(value) > VV_SERVER_ADDRESS_BYTES_MAX || !valid_address(value))
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION),
                       "METRICS_LISTEN = %s: allowed is one HOST:PORT or unix:PATH of at most %d bytes",
                       value, VV_SERVER_ADDRESS_BYTES_MAX);
    memcpy(config->metrics_listen, value, strlen(value) + 1);
    return VV_STATUS_OK;
}

/* One address or several with commas between; empty: none. */
static vv_status set_peers(vv_server_config *config, const char *value, vv_error *err) {
    config->peer_count = 0;
    if (!*value)
        return VV_STATUS_OK;
    for (;;) {
        if (config->peer_count == VV_SERVER_PEERS_MAX)
            return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "PEERS = %s: allowed are at most %d addresses",
                           value, VV_SERVER_PEERS_MAX);
        size_t bytes = strcspn(value, ",");
        char *to = config->peers[config->peer_count];
        VV_TRY(set_address("PEERS", value, bytes, to, err));
        for (size_t i = 0; i < config->peer_count; i++)
            if (strcmp(config->peers[i], to) == 0)
                return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "PEERS: %s is there twice", to);
        config->peer_count++;
        if (value[bytes] == '\0')
            return VV_STATUS_OK;
        value += bytes + 1;
    }
}

/* ---- one setting ---- */

static vv_status set_key(loader *l, vv_server_source from, const char *key, const char *value,
                         vv_error *err) {
    if (key_is(key, "LISTEN"))
        return set_listen(l, from, value, err);
    if (key_is(key, "METRICS_LISTEN"))
        return set_metrics_listen(l->config, value, err);
    if (key_is(key, "FOLLOW"))
        return set_follow(l->config, value, err);
    if (key_is(key, "PEERS"))
        return set_peers(l->config, value, err);
    if (vv_config_find(table, key))
        return vv_config_set(table, l->config, key, value, err);
    varve_error words = {""};
    varve_status st = varve_options_set(l->engine, key, value, &words);
    if (varve_ok(st))
        return VV_STATUS_OK;
    return vv_fail(err, vv_status_make((vv_code)st.code, (vv_sub)st.reason, 0), "%s%s", words.text,
                   st.reason == VV_SUB_UNKNOWN_OPTION ? "; --help lists what there is" : "");
}

/* set_count: nobody has set it. */
static size_t find_set(const vv_server_config *config, const char *key) {
    size_t i = 0;
    while (i < config->set_count && !key_is(key, config->set[i].key))
        i++;
    return i;
}

static vv_status set(loader *l, vv_server_source from, const char *key, const char *value, vv_error *err) {
    VV_TRY(set_key(l, from, key, value, err));
    size_t at = find_set(l->config, key);
    vv_server_set_key *s = &l->config->set[at];
    if (at == l->config->set_count) {
        VV_ASSERT(at < VV_SERVER_KEYS_MAX); /* there are not so many keys */
        l->config->set_count++;
        for (size_t i = 0; key[i] && i < VV_SERVER_KEY_BYTES_MAX; i++)
            s->key[i] = key[i] == '-' ? '_' : (char)toupper((unsigned char)key[i]);
    }
    s->from = from;
    s->line = l->line;
    return VV_STATUS_OK;
}

/* ---- the file ---- */

typedef struct file_reader {
    loader *loader;
    FILE *file;
    const char *path;
    int line;
    bool too_long;
    vv_status status;
    vv_error *err;
} file_reader;

/* A line as the parser wants it. Without its indentation, which inih would take for the continuation of the
 * line before; without a comment that follows a value after white space. */
static char *read_line(char *buf, int buf_bytes, void *arg) {
    file_reader *r = arg;
    if (r->too_long || !fgets(buf, buf_bytes, r->file))
        return NULL;
    r->line++;
    if (!strchr(buf, '\n') && !feof(r->file)) {
        r->too_long = true;
        return NULL;
    }
    size_t indent = strspn(buf, " \t");
    memmove(buf, buf + indent, strlen(buf + indent) + 1);
    for (char *c = buf + 1; buf[0] && *c; c++)
        if (*c == '#' && isspace((unsigned char)c[-1])) {
            *c = '\0';
            break;
        }
    return buf;
}

static int on_setting(void *arg, const char *section, const char *key, const char *value) {
    file_reader *r = arg;
    if (!vv_ok(r->status))
        return 0;
    if (*section) {
        r->status = vv_fail(r->err, invalid(VV_SUB_BAD_OPTION), "[%s]: there are no sections", section);
    } else {
        r->loader->line = r->line;
        r->status = set(r->loader, VV_SERVER_FROM_FILE, key, value, r->err);
    }
    if (!vv_ok(r->status))
        r->status = vv_wrap(r->err, r->status, "%s:%d", r->path, r->line);
    return vv_ok(r->status);
}

static vv_status load_file(loader *l, const char *path, vv_error *err) {
    FILE *file = fopen(path, "re");
    if (!file)
        return vv_fail(err, vv_status_errno(errno), "configuration file %s", path);
    file_reader r = {.loader = l, .file = file, .path = path, .status = VV_STATUS_OK, .err = err};
    int bad_line = ini_parse_stream(read_line, &r, on_setting, &r);
    bool read_failed = ferror(file) != 0;
    fclose(file);
    if (!vv_ok(r.status))
        return r.status;
    if (read_failed)
        return vv_fail(err, vv_status_make(VV_IO, VV_SUB_NONE, 0), "configuration file %s: cannot be read",
                       path);
    if (r.too_long)
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "%s:%d: the line is too long", path, r.line);
    if (bad_line > 0)
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "%s:%d: allowed is KEY = VALUE", path, bad_line);
    return VV_STATUS_OK;
}

/* ---- the environment ---- */

/* Variables with our prefix that are not for varved: the command's, the tests', and those that Kubernetes
 * sets in every container beside a service called "varve" (VARVE_SERVICE_HOST, VARVE_PORT_7700_TCP). */
static bool foreign_variable(const char *key) {
    static const char *const prefixes[] = {"SERVER", "TEST_", "SERVICE_", "PORT"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(prefixes); i++)
        if (strncmp(key, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static vv_status load_environment(loader *l, const char *const *environment, vv_error *err) {
    for (; *environment; environment++) {
        const char *key = *environment + strlen(ENVIRONMENT_PREFIX);
        const char *equals = strchr(*environment, '=');
        if (strncmp(*environment, ENVIRONMENT_PREFIX, strlen(ENVIRONMENT_PREFIX)) != 0 || !equals)
            continue;
        char name[64];
        int name_bytes = (int)VV_MIN((size_t)(equals - key), sizeof name - 1);
        snprintf(name, sizeof name, "%.*s", name_bytes, key);
        if (foreign_variable(name) || key_is(name, "CONFIG"))
            continue;
        vv_status st = set(l, VV_SERVER_FROM_ENVIRONMENT, name, equals + 1, err);
        if (!vv_ok(st))
            return vv_wrap(err, st, "environment %s", *environment);
    }
    return VV_STATUS_OK;
}

static const char *variable(const char *const *environment, const char *name) {
    size_t bytes = strlen(name);
    for (; *environment; environment++)
        if (strncmp(*environment, name, bytes) == 0 && (*environment)[bytes] == '=')
            return *environment + bytes + 1;
    return NULL;
}

/* ---- flags ---- */

#define PRINT_CONFIG "--print-config"

typedef struct flag {
    char key[64];
    const char *value;
} flag;

/* The next flag of *argv, "--key=value" or "--key value"; *argv moves behind it. Without a value: no setting.
 */
static vv_status next_flag(const char *const **argv, flag *out, vv_error *err) {
    const char *text = *(*argv)++;
    *out = (flag){0};
    if (strcmp(text, PRINT_CONFIG) == 0)
        return VV_STATUS_OK;
    if (strncmp(text, "--", 2) != 0 || text[2] == '\0')
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "%s: allowed are flags: --KEY=VALUE; see --help",
                       text);
    size_t key_bytes = strcspn(text + 2, "=");
    snprintf(out->key, sizeof out->key, "%.*s", (int)VV_MIN(key_bytes, sizeof out->key - 1), text + 2);
    if (text[2 + key_bytes] == '=') {
        out->value = text + 2 + key_bytes + 1;
        return VV_STATUS_OK;
    }
    out->value = **argv;
    if (!out->value)
        return vv_fail(err, invalid(VV_SUB_BAD_OPTION), "flag %s: a value is missing; see --help", text);
    (*argv)++;
    return VV_STATUS_OK;
}

static vv_status load_flags(loader *l, const char *const *argv, vv_error *err) {
    while (*argv) {
        flag f;
        VV_TRY(next_flag(&argv, &f, err));
        if (!f.value || key_is(f.key, "CONFIG"))
            continue;
        vv_status st = set(l, VV_SERVER_FROM_FLAGS, f.key, f.value, err);
        if (!vv_ok(st))
            return vv_wrap(err, st, "flag --%s=%s", f.key, f.value);
    }
    return VV_STATUS_OK;
}

static vv_status find_config_file(const char *const *argv, const char *const *environment,
                                  const char **path_out, vv_error *err) {
    *path_out = variable(environment, ENVIRONMENT_PREFIX "CONFIG");
    while (*argv) {
        flag f;
        VV_TRY(next_flag(&argv, &f, err));
        if (key_is(f.key, "CONFIG"))
            *path_out = f.value;
    }
    return VV_STATUS_OK;
}

vv_status vv_server_config_load(const char *const *argv, const char *const *environment,
                                vv_server_config *config, varve_options *engine, vv_server_action *action_out,
                                vv_error *err) {
    *action_out = VV_SERVER_RUN;
    for (const char *const *arg = argv; *arg; arg++) {
        if (strcmp(*arg, "--help") == 0 || strcmp(*arg, "-h") == 0)
            *action_out = VV_SERVER_HELP;
        else if (strcmp(*arg, "--help=man") == 0)
            *action_out = VV_SERVER_MANUAL;
        else if (strcmp(*arg, "--version") == 0)
            *action_out = VV_SERVER_VERSION;
        else if (strcmp(*arg, PRINT_CONFIG) == 0)
            *action_out = VV_SERVER_PRINT_CONFIG;
        if (*action_out != VV_SERVER_RUN && *action_out != VV_SERVER_PRINT_CONFIG)
            return VV_STATUS_OK;
    }
    memset(config, 0, sizeof *config);
    loader l = {.config = config, .engine = engine};
    vv_config_defaults(table, config);
    VV_TRY(set_listen(&l, VV_SERVER_FROM_DEFAULTS, DEFAULT_ADDRESS, err));

    VV_TRY(find_config_file(argv, environment, &config->file, err));
    if (config->file)
        VV_TRY(load_file(&l, config->file, err));
    VV_TRY(load_environment(&l, environment, err));
    VV_TRY(load_flags(&l, argv, err));
    return vv_server_config_check(config, err);
}

/* ---- what there is, and what is in force ---- */

/* Keys that no table can hold. */
static const struct {
    const char *key, *default_value, *meaning, *allowed;
} addresses[] = {
    {"LISTEN", DEFAULT_ADDRESS, "addresses to serve on", "may be given several times, or with commas"},
    {"METRICS_LISTEN", "",
     "address of /metrics, /healthz, /readyz and a dashboard, over plain HTTP and for everybody",
     "one address"},
    {"FOLLOW", "", "the server whose copy this one is, and of which it gets all that is written",
     "one address"},
    {"PEERS", "", "the others of the group: where to look for the primary when it is gone, or superseded",
     "up to 16 addresses with commas between"},
};

/* What a reload applies (reload.c); some of it under conditions. */
static const char *const live_keys[] = {"BACKUP_RATE",
                                        "LOG_LEVEL",
                                        "LOG_FORMAT",
                                        "LOG_LINES_PER_SECOND",
                                        "ACCESS_LOG_SAMPLE",
                                        "SLOW_CALL_THRESHOLD",
                                        "TLS_CERT",
                                        "TLS_KEY",
                                        "TLS_CLIENT_CA",
                                        "TOKENS_FILE",
                                        "CERTIFICATE_ROLES",
                                        "RATE_LIMIT_READS",
                                        "RATE_LIMIT_READ_BURST",
                                        "RATE_LIMIT_WRITES",
                                        "RATE_LIMIT_WRITE_BURST",
                                        "RATE_LIMITS_FILE"};

static bool is_live(const char *key) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(live_keys); i++)
        if (strcmp(live_keys[i], key) == 0)
            return true;
    return false;
}

bool vv_server_config_key(size_t index, vv_server_key *out) {
    size_t own = VV_ARRAY_COUNT(addresses);
    if (index < own) {
        *out = (vv_server_key){addresses[index].key, addresses[index].default_value, addresses[index].meaning,
                               "", false};
        snprintf(out->allowed, sizeof out->allowed, "%s", addresses[index].allowed);
        return true;
    }
    index -= own;
    if (index < table.count) {
        const vv_option *o = &options[index];
        *out = (vv_server_key){o->key, o->default_value, o->meaning, "", is_live(o->key)};
        vv_option_allowed(o, out->allowed, sizeof out->allowed);
        return true;
    }
    varve_option_info info;
    if (!varve_options_describe(index - table.count, &info))
        return false;
    *out = (vv_server_key){info.key, info.default_value, info.meaning, "", info.live};
    snprintf(out->allowed, sizeof out->allowed, "%s", info.allowed);
    return true;
}

static void list_text(const char (*list)[VV_SERVER_ADDRESS_BYTES_MAX + 1], size_t count, char *text,
                      size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? "," : "", list[i]);
}

void vv_server_config_get(const vv_server_config *config, const varve_options *engine, const char *key,
                          char text[VV_SERVER_VALUE_BYTES]) {
    const vv_option *o = vv_config_find(table, key);
    if (o)
        vv_config_format(o, config, text, VV_SERVER_VALUE_BYTES);
    else if (strcmp(key, "LISTEN") == 0)
        list_text(config->listen, config->listen_count, text, VV_SERVER_VALUE_BYTES);
    else if (strcmp(key, "PEERS") == 0)
        list_text(config->peers, config->peer_count, text, VV_SERVER_VALUE_BYTES);
    else if (strcmp(key, "FOLLOW") == 0)
        snprintf(text, VV_SERVER_VALUE_BYTES, "%s", config->follow);
    else if (strcmp(key, "METRICS_LISTEN") == 0)
        snprintf(text, VV_SERVER_VALUE_BYTES, "%s", config->metrics_listen);
    else if (!varve_options_get(engine, key, text, VV_SERVER_VALUE_BYTES))
        text[0] = '\0';
}

void vv_server_config_copy_key(vv_server_config *to, varve_options *to_engine, const vv_server_config *from,
                               const varve_options *from_engine, const char *key) {
    char text[VV_SERVER_VALUE_BYTES];
    vv_server_config_get(from, from_engine, key, text);
    if (vv_config_find(table, key)) {
        vv_status st = vv_config_set(table, to, key, text, NULL);
        VV_ASSERT(vv_ok(st)); /* it was a value of this key */
    } else {
        varve_status st = varve_options_set(to_engine, key, text, NULL);
        VV_ASSERT(varve_ok(st));
    }
}

static void print_key(FILE *to, const vv_server_config *config, const varve_options *engine,
                      const vv_server_key *k) {
    char text[VV_SERVER_VALUE_BYTES];
    size_t at = find_set(config, k->key);
    const vv_server_set_key *s = at < config->set_count ? &config->set[at] : NULL;
    vv_server_config_get(config, engine, k->key, text);
    fprintf(to, "\n# %s%s%s%s\n%s%s = %s", k->meaning, *k->allowed ? "; " : "", k->allowed,
            k->live ? " (a reload applies it)" : "", s ? "" : "#", k->key, text);
    if (s && s->from == VV_SERVER_FROM_FILE)
        fprintf(to, " # %s:%d", config->file, s->line);
    else if (s)
        fprintf(to, " # %s", s->from == VV_SERVER_FROM_FLAGS ? "flag" : "environment");
    fputc('\n', to);
}

void vv_server_config_print(FILE *to, const vv_server_config *config, const varve_options *engine) {
    vv_server_key k;
    fputs("# The configuration of varved. Lines that begin with #KEY are defaults.\n", to);
    for (size_t i = 0; vv_server_config_key(i, &k); i++)
        print_key(to, config, engine, &k);
}
