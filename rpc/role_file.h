/*
 * role_file.h - DATA/ROLE: what this database was among others when it was open last.
 *
 * The log can't tell a primary from its follower: both have the same epochs. So whoever follows notes that
 * before it takes over anything of its primary, and a promotion notes that before it begins its epoch. A
 * database without the file has only ever been on its own, or a primary.
 *
 *     varve role 1
 *     role = primary
 *     epoch = 2
 *     follow = 10.0.0.1:7700
 *     checksum = 8f0e...          XXH3 of the lines above
 *
 * Durable when vv_role_file_write() returns, and replaced as a whole (small_file.h).
 */
#ifndef VV_RPC_ROLE_FILE_H
#define VV_RPC_ROLE_FILE_H

#include "base/status.h"
#include "rpc/replication.h"

#define VV_ROLE_FILE_NAME "ROLE"

typedef struct vv_role_file {
    vv_role role;                          /* PRIMARY or FOLLOWER */
    uint64_t epoch;                        /* of a PRIMARY: the one that its promotion was to begin */
    char follow[VV_ADDRESS_BYTES_MAX + 1]; /* of a PRIMARY: what FOLLOW was then; "": nothing */
} vv_role_file;

/* NOT_FOUND: there is none. CORRUPTION: it is damaged; err says what to do. */
vv_status vv_role_file_read(const char *data, vv_role_file *out, vv_error *err) VV_CHECKED;
vv_status vv_role_file_write(const char *data, const vv_role_file *file, vv_error *err) VV_CHECKED;

/*
 * What a server is to begin with, from its file (NULL: none), what FOLLOW says ("": nothing), and the epochs
 * of its database. SUPERSEDED: no primary, and knows none yet.
 */
vv_role vv_role_at_start(const vv_role_file *file, const char *follow, uint64_t epoch,
                         uint64_t promised_epoch);

#endif
