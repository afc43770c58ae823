/*
 * users.h - who calls, with what is kept of each: how often they may.
 *
 * A user is made when its name is first heard of (in a file, from a client's certificate or from an
 * administrator) and stays where it is until the server ends, so that a call may point to it for as long as
 * it likes and a lookup takes no lock. There are at most VV_USERS_MAX; later names share the user "others",
 * and with it one pair of buckets.
 *
 * Limits of a user, the last one wins: the defaults; what a limits file says; what vv_rate_limit_set() said
 * since the file was read.
 */
#ifndef VV_RPC_USERS_H
#define VV_RPC_USERS_H

#include "base/slice.h"
#include "base/status.h"
#include "base/sync.h"
#include "rpc/rate_limit.h"

#define VV_USER_NAME_BYTES_MAX 255
#define VV_USERS_MAX           16384
#define VV_USER_DEFAULT        "default"

typedef struct vv_user_limits {
    vv_rate reads, writes;
} vv_user_limits;

typedef struct vv_user {
    vv_rate_bucket reads, writes;
    struct vv_access *access;                       /* that it belongs to */
    _Atomic uint64_t limited_reads, limited_writes; /* refused since its rate was used up */
    uint32_t hash;
    char name[]; /* with a zero at its end */
} vv_user;

typedef struct vv_users {
    _Atomic(vv_user *) *slots; /* open addressing; filled under the lock, never emptied */
    vv_user *anybody;          /* "default" */
    vv_user *others;
    struct vv_access *access;
    struct {
        vv_mutex lock;
        size_t count;
        vv_user_limits defaults;
    } mu;
} vv_users;

vv_status vv_users_init(vv_users *u, const vv_user_limits *defaults, struct vv_access *access) VV_CHECKED;
/* No call is left. Also after a failed or without any vv_users_init(), when *u is zeroed. */
void vv_users_deinit(vv_users *u);

/* 1 to VV_USER_NAME_BYTES_MAX bytes of printable ASCII, without quotes and backslashes: it goes into logs. */
bool vv_user_name_ok(vv_slice name);

/* The user of that name (which is ok), made if need be; `others` when there are too many or there is no
 * memory. Thread-safe; lock-free when it is there. */
vv_user *vv_users_get(vv_users *u, vv_slice name);

/* Set the limits of one user, from now on. Thread-safe. */
void vv_users_limit(vv_users *u, vv_user *user, const vv_user_limits *limits);

/* Call `see` for each user that there is, `others` last. Thread-safe; no lock is held. */
void vv_users_each(const vv_users *u, void (*see)(void *arg, const vv_user *user), void *arg);

/* All users are back at the defaults, which are these from now on. */
void vv_users_reset_limits(vv_users *u, const vv_user_limits *defaults);

#endif
