/*
 * config_check.c - what no key of the configuration has wrong by itself: keys that need each other, and what
 * they name.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/compiler.h"
#include "rpc/config.h"
#include "rpc/grants.h"
#include "rpc/node.h"

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0);
}

bool vv_server_address_is_local(const char *address) {
    static const char *const prefixes[] = {"unix:", "127.", "localhost:", "[::1]:"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(prefixes); i++)
        if (strncmp(address, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

/* Whoever listens on the network could take the tokens and use them. */
vv_status vv_server_config_check_plaintext(const vv_server_config *c, vv_error *err) {
    if (!c->tokens_file[0] || c->tls_cert[0] || c->plaintext_tokens)
        return VV_STATUS_OK;
    for (size_t i = 0; i < c->listen_count; i++)
        if (!vv_server_address_is_local(c->listen[i]))
            return vv_fail(
                err, invalid(),
                "LISTEN = %s: with TOKENS_FILE an address of the network needs TLS_CERT and TLS_KEY, "
                "or PLAINTEXT_TOKENS = true where something in front of it does TLS",
                c->listen[i]);
    return VV_STATUS_OK;
}

static bool listens_on(const vv_server_config *c, const char *address) {
    for (size_t i = 0; i < c->listen_count; i++)
        if (strcmp(c->listen[i], address) == 0)
            return true;
    return false;
}

/* Somebody else would hear the token. */
static vv_status check_follow_token(const vv_server_config *c, const char *key, const char *address,
                                    vv_error *err) {
    bool tls = c->follow_tls_ca[0] || c->follow_tls_cert[0];
    if (!c->follow_token_file[0] || tls || c->plaintext_tokens || vv_server_address_is_local(address))
        return VV_STATUS_OK;
    return vv_fail(err, invalid(),
                   "%s = %s: with FOLLOW_TOKEN_FILE an address of the network needs FOLLOW_TLS_CA, or "
                   "PLAINTEXT_TOKENS = true where something in between does TLS",
                   key, address);
}

/* It is read again for each connection; that it is not there at all is said at the start. */
static vv_status check_readable(const char *key, const char *path, vv_error *err) {
    if (!path[0])
        return VV_STATUS_OK;
    FILE *f = fopen(path, "rbe");
    bool readable = f && (fgetc(f) != EOF || !ferror(f)); /* a directory can be opened */
    int why = errno;
    if (f)
        (void)fclose(f);
    if (readable)
        return VV_STATUS_OK;
    return vv_fail(err, invalid(), "%s = %s: it can't be read: %s", key, path, strerror(why));
}

static vv_status check_directory(const char *key, const char *path, vv_error *err) {
    struct stat st;
    if (!path[0])
        return VV_STATUS_OK;
    int why = stat(path, &st) != 0 ? errno : S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    if (why == 0)
        return VV_STATUS_OK;
    return vv_fail(err, invalid(), "%s = %s: %s", key, path, strerror(why));
}

static vv_status check_others(const vv_server_config *c, vv_error *err) {
    if (!c->follow_tls_cert[0] != !c->follow_tls_key[0])
        return vv_fail(err, invalid(), "FOLLOW_TLS_CERT = %s, FOLLOW_TLS_KEY = %s: each needs the other",
                       c->follow_tls_cert, c->follow_tls_key);
    bool others = c->follow[0] || c->peer_count > 0;
    if (others && c->replication_timeout_us <= c->replication_heartbeat_us)
        return vv_fail(err, invalid(),
                       "REPLICATION_TIMEOUT: allowed is more than REPLICATION_HEARTBEAT, or every primary "
                       "that has nothing to say is lost");
    if (c->follow[0]) {
        if (listens_on(c, c->follow))
            return vv_fail(err, invalid(), "FOLLOW = %s: this server listens there itself", c->follow);
        VV_TRY(check_follow_token(c, "FOLLOW", c->follow, err));
    }
    for (size_t i = 0; i < c->peer_count; i++) {
        if (listens_on(c, c->peers[i]))
            return vv_fail(err, invalid(), "PEERS: this server listens on %s itself; allowed are the others",
                           c->peers[i]);
        VV_TRY(check_follow_token(c, "PEERS", c->peers[i], err));
    }
    if (!others)
        return VV_STATUS_OK;
    VV_TRY(check_readable("FOLLOW_TOKEN_FILE", c->follow_token_file, err));
    return check_readable("FOLLOW_TLS_CA", c->follow_tls_ca, err);
}

/* What a table can't say. */
vv_status vv_server_config_check(const vv_server_config *c, vv_error *err) {
    bool no_roles = strcmp(c->certificate_roles, "none") == 0;
    if (!no_roles && !vv_rights_parse(vv_slice_str(c->certificate_roles)))
        return vv_fail(
            err, invalid(),
            "CERTIFICATE_ROLES = %s: allowed is none, or read, write, admin and replica with commas between",
            c->certificate_roles);
    if (!no_roles && !c->tls_client_ca[0])
        return vv_fail(err, invalid(), "CERTIFICATE_ROLES = %s: it needs TLS_CLIENT_CA",
                       c->certificate_roles);
    if (!c->tls_cert[0] != !c->tls_key[0])
        return vv_fail(err, invalid(), "TLS_CERT = %s, TLS_KEY = %s: each needs the other", c->tls_cert,
                       c->tls_key);
    if (c->tls_client_ca[0] && !c->tls_cert[0])
        return vv_fail(err, invalid(), "TLS_CLIENT_CA = %s: it needs TLS_CERT and TLS_KEY", c->tls_client_ca);
    size_t bytes = strlen(c->metrics_listen);
    bool any_port = bytes > 2 && strcmp(c->metrics_listen + bytes - 2, ":0") == 0;
    if (bytes > 0 && !any_port && listens_on(c, c->metrics_listen))
        return vv_fail(err, invalid(), "METRICS_LISTEN = %s: calls are served there", c->metrics_listen);
    VV_TRY(check_directory("BACKUP_DIR", c->backup_dir, err));
    VV_TRY(check_others(c, err));
    if (c->node_name[0] && !vv_node_name_valid(vv_slice_str(c->node_name)))
        return vv_fail(err, invalid(), "NODE_NAME = %s: allowed are 1 to %d letters, digits and ._:-",
                       c->node_name, VARVE_SLOT_NAME_BYTES_MAX);
    return vv_server_config_check_plaintext(c, err);
}
