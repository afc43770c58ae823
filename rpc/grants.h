/*
 * grants.h - who may do what: the contents of TOKENS_FILE.
 *
 *     # user    known by            may
 *     alice     sha256:9f86d0...    read,write
 *     backup    certificate         read,admin
 *     node-2    certificate         replica
 *     default   anonymous           read
 *
 * A token is kept as the SHA-256 of its text. That needs neither salt nor stretching, since a token is not a
 * password: it is to be 128 random bits or more (`varve token` makes 256), which nobody finds by trying. A
 * user may have several tokens, so that one can be replaced without a gap. "certificate" grants to the name
 * in a client's certificate; "anonymous" to callers that show neither, who are the user "default".
 *
 * Immutable once loaded.
 */
#ifndef VV_RPC_GRANTS_H
#define VV_RPC_GRANTS_H

#include "rpc/users.h"

#define VV_TOKEN_DIGEST_BYTES 32

enum { VV_RIGHT_READ = 1, VV_RIGHT_WRITE = 2, VV_RIGHT_ADMIN = 4, VV_RIGHT_REPLICA = 8, VV_RIGHT_ALL = 15 };

typedef struct vv_grant {
    vv_user *user;
    uint8_t rights;
    uint8_t digest[VV_TOKEN_DIGEST_BYTES]; /* of a token */
    char *name;
} vv_grant;

typedef struct vv_grants {
    vv_grant *tokens; /* by digest */
    size_t token_count;
    vv_grant *certificates; /* by name */
    size_t certificate_count;
    uint8_t anonymous; /* rights */
} vv_grants;

/* "read,write,admin,replica" or a part of it, at least one; 0: it is not. */
uint8_t vv_rights_parse(vv_slice text);

/* The word for one of them; static. */
const char *vv_right_name(uint8_t right);

/*
 * Read a file; users are made of the names in it once all of it is found right.
 *
 * INVALID_ARGUMENT   err names the line and what is wrong with it.
 */
vv_status vv_grants_load(const char *path, vv_users *users, vv_grants **out, vv_error *err) VV_CHECKED;
/* NULL is fine. */
void vv_grants_destroy(vv_grants *g);

/* NULL: there is none. The digest is compared in constant time. */
const vv_grant *vv_grants_token(const vv_grants *g, const uint8_t *digest);
const vv_grant *vv_grants_certificate(const vv_grants *g, const char *name);

#endif
