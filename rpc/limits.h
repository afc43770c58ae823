/*
 * limits.h - how often users may: the contents of RATE_LIMITS_FILE, and taking from a caller's buckets.
 *
 *     # user    a second[:burst]
 *     alice     reads=1000:5000 writes=200
 *     batch     writes=50000
 *
 * What a line leaves out stays at the default; 0 is no limit.
 */
#ifndef VV_RPC_LIMITS_H
#define VV_RPC_LIMITS_H

#include "rpc/transport.h"
#include "rpc/users.h"

typedef struct vv_limits vv_limits;

/*
 * Read a file; nothing applies yet.
 *
 * INVALID_ARGUMENT   err names the line and what is wrong with it.
 */
vv_status vv_limits_load(const char *path, const vv_user_limits *defaults, vv_limits **out,
                         vv_error *err) VV_CHECKED;
/* Set every user back to the defaults and then those of the file to what it says. limits NULL: no file. */
void vv_limits_apply(const vv_limits *limits, const vv_user_limits *defaults, vv_users *users);
/* NULL is fine. */
void vv_limits_destroy(vv_limits *limits);

/*
 * Limits of one user from now on, until the next reload or restart.
 *
 * INVALID_ARGUMENT   no name for a user, or a rate or burst above VV_RATE_MAX.
 * NO_SPACE           there are VV_USERS_MAX others already.
 */
vv_status vv_rate_limit_set(vv_users *users, vv_slice name, const vv_user_limits *limits) VV_CHECKED;

/*
 * Take `count` operations (VV_RPC_READ or VV_RPC_WRITE) out of the caller's bucket, beyond the one that the
 * gate has taken for the call itself: for batches and pipelines. On the call's thread.
 *
 * False: they would be too many, nothing is taken, and *why has RESOURCE_EXHAUSTED, RATE_LIMITED and the time
 * to wait; it is the service's to fail the call with it or to answer one operation.
 */
bool vv_rate_take(vv_rpc_call *call, vv_rpc_access kind, uint64_t count, vv_rpc_status *why);

#endif
