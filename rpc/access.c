#include "rpc/access.h"

#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "rpc/status_map.h"

#define BEARER "bearer "

typedef enum known_by { BY_NOTHING, BY_TOKEN, BY_CERTIFICATE, BY_OPEN_DOOR } known_by;

/* What a right is, as a bit of vv_grant.rights. */
static uint8_t right_bit(vv_rpc_access right) {
    switch (right) {
    case VV_RPC_READ: return VV_RIGHT_READ;
    case VV_RPC_WRITE: return VV_RIGHT_WRITE;
    case VV_RPC_REPLICA: return VV_RIGHT_REPLICA;
    case VV_RPC_OPEN: return 0;
    case VV_RPC_ADMIN: break;
    }
    return VV_RIGHT_ADMIN;
}

/* ---- who calls ---- */

/* The token of an Authorization header (RFC 6750 section 2.1; the scheme in any case). Empty: there is none
 * in it. */
static vv_slice bearer_token(vv_slice header) {
    size_t scheme = sizeof BEARER - 1;
    if (header.bytes <= scheme || strncasecmp(header.data, BEARER, scheme) != 0)
        return vv_slice_make(NULL, 0);
    const char *at = (const char *)header.data + scheme, *end = (const char *)header.data + header.bytes;
    while (at < end && *at == ' ')
        at++;
    return vv_slice_make(at, (size_t)(end - at));
}

static uint64_t first_bytes(const uint8_t *digest) {
    uint64_t value;
    memcpy(&value, digest, sizeof value);
    return value;
}

/* Whose token it is; false: nobody's. */
static bool identify_token(vv_access *a, vv_rpc_call *call, vv_slice token) {
    uint8_t digest[EVP_MAX_MD_SIZE];
    if (token.bytes == 0 || EVP_Digest(token.data, token.bytes, digest, NULL, a->sha256, NULL) != 1)
        return false;
    vv_swap_place *place;
    const vv_grants *grants = vv_swap_enter(&a->grants, &place);
    const vv_grant *grant = grants ? vv_grants_token(grants, digest) : NULL;
    if (grant) {
        call->user = grant->user;
        call->rights = grant->rights;
        call->known_by = BY_TOKEN;
        call->credential = first_bytes(digest);
    }
    vv_swap_leave(place);
    return grant != NULL;
}

/* By the name in the certificate. */
static void identify_certificate(vv_access *a, vv_rpc_call *call, const char *name) {
    vv_swap_place *place;
    const vv_grants *grants = vv_swap_enter(&a->grants, &place);
    const vv_grant *grant = grants ? vv_grants_certificate(grants, name) : NULL;
    call->known_by = BY_CERTIFICATE;
    call->rights = grant ? grant->rights : atomic_load_explicit(&a->certificate_rights, memory_order_relaxed);
    call->user = grant ? grant->user : NULL;
    vv_swap_leave(place);
    /* Names that nothing is granted to get no state of their own: it would be a way to fill the table. */
    if (!call->user)
        call->user = call->rights ? vv_users_get(&a->users, vv_slice_str(name)) : a->users.others;
}

static void identify_nobody(vv_access *a, vv_rpc_call *call) {
    vv_swap_place *place;
    const vv_grants *grants = vv_swap_enter(&a->grants, &place);
    call->rights = grants ? grants->anonymous : 0;
    vv_swap_leave(place);
    call->known_by = BY_NOTHING;
    call->user = a->users.anybody;
}

static bool identify(vv_access *a, vv_rpc_call *call, vv_rpc_status *why) {
    vv_slice header = vv_rpc_metadata(call, "authorization");
    if (header.data) {
        if (identify_token(a, call, bearer_token(header)))
            return true;
        vv_rpc_status_set(why, VV_RPC_UNAUTHENTICATED, "TOKEN_INVALID", 0,
                          "the bearer token is not known here; nothing was done");
        return false;
    }
    char name[VV_USER_NAME_BYTES_MAX + 1];
    if (a->options.certificates && vv_rpc_client_name(call, name, sizeof name)) {
        if (!vv_user_name_ok(vv_slice_str(name))) {
            vv_rpc_status_set(why, VV_RPC_UNAUTHENTICATED, "CERTIFICATE_NAME_INVALID", 0,
                              "the name in the client's certificate is no name for a user");
            return false;
        }
        identify_certificate(a, call, name);
        return true;
    }
    identify_nobody(a, call);
    if (call->rights)
        return true;
    vv_rpc_status_set(why, VV_RPC_UNAUTHENTICATED, "CREDENTIALS_MISSING", 0,
                      "no bearer token%s; nothing was done",
                      a->options.certificates ? " and no client certificate" : "");
    return false;
}

/* ---- may they? ---- */

static bool decide(vv_rpc_call *call, vv_rpc_access right, vv_rpc_status *why) {
    if (right == VV_RPC_OPEN || (call->rights & right_bit(right)))
        return true;
    if (why)
        vv_rpc_status_set(why, VV_RPC_PERMISSION_DENIED, "ROLE_MISSING", 0,
                          "this needs the role %s, which user %s has not; nothing was done",
                          vv_right_name(right_bit(right)), call->user ? call->user->name : "");
    return false;
}

bool vv_access_admit(vv_access *a, vv_rpc_call *call, vv_rpc_status *why) {
    vv_rpc_access needed = call->method->access;
    if (needed == VV_RPC_OPEN)
        return true;
    /* Before the grants, or that there are none, are looked at: if they change in between, they are only
     * asked once more. */
    call->generation = atomic_load_explicit(&a->generation, memory_order_acquire);
    if (atomic_load_explicit(&a->everybody, memory_order_relaxed)) {
        call->user = a->users.anybody;
        call->rights = VV_RIGHT_ALL;
        call->known_by = BY_OPEN_DOOR;
        return true;
    }
    return identify(a, call, why) && decide(call, needed, why);
}

/* The grants were replaced since the call was decided: what does its caller have now? */
static void decide_again(vv_access *a, vv_rpc_call *call) {
    call->generation = atomic_load_explicit(&a->generation, memory_order_acquire);
    vv_swap_place *place;
    const vv_grants *grants = vv_swap_enter(&a->grants, &place);
    call->rights = 0;
    if (call->known_by == BY_CERTIFICATE) {
        bool named = grants && call->user != a->users.others;
        const vv_grant *grant = named ? vv_grants_certificate(grants, call->user->name) : NULL;
        call->rights =
            grant ? grant->rights : atomic_load_explicit(&a->certificate_rights, memory_order_relaxed);
    } else if (grants && (call->known_by == BY_NOTHING || call->known_by == BY_OPEN_DOOR)) {
        call->rights = grants->anonymous;
    }
    if (atomic_load_explicit(&a->everybody, memory_order_relaxed))
        call->rights = VV_RIGHT_ALL;
    for (size_t i = 0; grants && call->known_by == BY_TOKEN && i < grants->token_count; i++)
        if (first_bytes(grants->tokens[i].digest) == call->credential && grants->tokens[i].user == call->user)
            call->rights = grants->tokens[i].rights;
    vv_swap_leave(place);
}

bool vv_access_check(vv_rpc_call *call, vv_rpc_access right, vv_rpc_status *why) {
    if (right == VV_RPC_OPEN)
        return true;
    if (!call->user) /* its method is open to all, who have no rights by that */
        return decide(call, right, why);
    vv_access *a = call->user->access;
    if (call->generation != atomic_load_explicit(&a->generation, memory_order_acquire))
        decide_again(a, call);
    return decide(call, right, why);
}

bool vv_access_allows(vv_rpc_call *call, vv_rpc_access right) {
    return vv_access_check(call, right, NULL);
}

/* ---- life ---- */

vv_status vv_access_prepare(vv_access *a, const vv_access_options *options, vv_access_next *next,
                            vv_error *err) {
    vv_status st;
    *next = (vv_access_next){.options = *options};
    if (options->tokens_file[0]) {
        st = vv_grants_load(options->tokens_file, &a->users, &next->grants, err);
        if (!vv_ok(st))
            return vv_wrap(err, st, "TOKENS_FILE");
    }
    if (options->limits_file[0]) {
        st = vv_limits_load(options->limits_file, &options->limits, &next->limits, err);
        if (!vv_ok(st)) {
            vv_access_drop(next);
            return vv_wrap(err, st, "RATE_LIMITS_FILE");
        }
    }
    return VV_STATUS_OK;
}

void vv_access_take(vv_access *a, vv_access_next *next) {
    bool everybody = !next->grants && !a->options.certificates;
    vv_mutex_lock(&a->reloading);
    vv_grants_destroy(vv_swap_replace(&a->grants, next->grants));
    atomic_store_explicit(&a->everybody, everybody, memory_order_relaxed);
    atomic_store_explicit(&a->certificate_rights, next->options.certificate_rights, memory_order_relaxed);
    /* Release: whoever sees the new number finds the new grants, and the rest. */
    atomic_fetch_add_explicit(&a->generation, 1, memory_order_release);
    vv_limits_apply(next->limits, &next->options.limits, &a->users);
    vv_mutex_unlock(&a->reloading);
    next->grants = NULL;
    vv_access_drop(next);
}

void vv_access_drop(vv_access_next *next) {
    vv_grants_destroy(next->grants);
    vv_limits_destroy(next->limits);
    *next = (vv_access_next){0};
}

vv_status vv_access_reload(vv_access *a, vv_error *err) {
    vv_access_next next;
    VV_TRY(vv_access_prepare(a, &a->options, &next, err));
    vv_access_take(a, &next);
    return VV_STATUS_OK;
}

vv_status vv_access_init(vv_access *a, const vv_access_options *options, vv_error *err) {
    *a = (vv_access){.options = *options}; /* closed until the files are read */
    vv_status st = vv_users_init(&a->users, &options->limits, a);
    if (!vv_ok(st))
        return vv_fail(err, st, "access control");
    vv_swap_init(&a->grants, NULL);
    vv_mutex_init(&a->reloading);
    a->ready = true;
    a->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!a->sha256)
        st = vv_fail(err, vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0), "access control: no SHA-256");
    if (vv_ok(st))
        st = vv_access_reload(a, err);
    if (!vv_ok(st))
        vv_access_deinit(a);
    return st;
}

void vv_access_deinit(vv_access *a) {
    if (!a->ready)
        return;
    vv_grants_destroy(vv_swap_replace(&a->grants, NULL));
    EVP_MD_free(a->sha256);
    vv_mutex_deinit(&a->reloading);
    vv_users_deinit(&a->users);
    *a = (vv_access){0};
}
