/*
 * access.h - the one place that decides who calls and whether they may.
 *
 * The user of a call is its bearer token's ("authorization: Bearer ..."), else the name in the client's
 * certificate, else "default". What they may is a set of rights, read, write, admin and replica, none
 * of which contains another; what a call needs is its method's vv_rpc_access.
 *
 *     no TOKENS_FILE and no client CA     everything is allowed to everybody
 *     a token is shown                    the rights of its line; an unknown one is UNAUTHENTICATED, always
 *     a certificate                       the rights of its line, else CERTIFICATE_ROLES (none)
 *     neither                             the rights of the anonymous line, else UNAUTHENTICATED
 *
 * A token that is wrong is never ignored in favour of a certificate: it is a mistake that its sender should
 * hear of.
 *
 * A reload replaces the grants as a whole. Calls that arrive afterwards are decided by the new ones; a call
 * under way keeps its user, and the next vv_access_allows() in it asks the new grants. That holds also where
 * there were none: a door that was open is closed at once.
 */
#ifndef VV_RPC_ACCESS_H
#define VV_RPC_ACCESS_H

#include "base/log.h"
#include "base/swap.h"
#include "rpc/grants.h"
#include "rpc/limits.h"
#include "rpc/transport.h"
#include "rpc/users.h"

typedef struct vv_access_options {
    const char *tokens_file; /* "": none. Borrowed, as limits_file, until deinit. */
    const char *limits_file;
    bool certificates;          /* clients may have certificates that are verified */
    uint8_t certificate_rights; /* of those that no line names */
    vv_user_limits limits;      /* of users that no line names */
} vv_access_options;

typedef struct vv_access {
    vv_access_options options;          /* those of the start */
    _Atomic bool everybody;             /* nothing is configured: all is allowed */
    _Atomic uint8_t certificate_rights; /* as in the options */
    vv_users users;
    vv_swap grants; /* vv_grants; NULL: no file */
    /* Of the grants; a call remembers which it was decided by. */
    _Atomic uint32_t generation;
    void *sha256; /* libcrypto's */
    vv_mutex reloading;
    bool ready;
} vv_access;

/* Reads the files. INVALID_ARGUMENT: err says what is wrong in them; others: they cannot be read. */
vv_status vv_access_init(vv_access *a, const vv_access_options *options, vv_error *err) VV_CHECKED;
/* No call is left. Also for a zeroed struct. */
void vv_access_deinit(vv_access *a);

/* Files that were read and found right, and what goes with them; nothing applies yet. */
typedef struct vv_access_next {
    vv_grants *grants;
    vv_limits *limits;
    vv_access_options options;
} vv_access_next;

/*
 * Read the files of other options. `certificates` is that of the start, whatever they say.
 *
 * What is prepared is taken or dropped, one at a time. Any thread.
 */
vv_status vv_access_prepare(vv_access *a, const vv_access_options *options, vv_access_next *next,
                            vv_error *err) VV_CHECKED;
void vv_access_take(vv_access *a, vv_access_next *next);
/* Also for a zeroed struct. */
void vv_access_drop(vv_access_next *next);

/* Read the files of the start again; when anything is wrong in one of them, nothing changes at all. Any
 * thread. */
vv_status vv_access_reload(vv_access *a, vv_error *err) VV_CHECKED;

/* Find out who calls and whether they may call this method; then call->user is set. False: *why says why not.
 * On the call's thread. */
bool vv_access_admit(vv_access *a, vv_rpc_call *call, vv_rpc_status *why);

/* May the caller also do this, now? For what a call's messages ask for beyond what its method needs. On the
 * call's thread. */
bool vv_access_allows(vv_rpc_call *call, vv_rpc_access right);

/* The same with the words and the code to refuse it with. */
bool vv_access_check(vv_rpc_call *call, vv_rpc_access right, vv_rpc_status *why);

#endif
