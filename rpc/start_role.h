/*
 * start_role.h - what a server is to begin with, and whether it may begin at all as it is.
 */
#ifndef VV_RPC_START_ROLE_H
#define VV_RPC_START_ROLE_H

#include "base/log.h"
#include "base/status.h"
#include "engine/varve.h"
#include "rpc/config.h"
#include "rpc/follower.h"
#include "rpc/replication.h"

/* By DATA/ROLE, FOLLOW, the epochs of the database and, if it would be a primary, by what the others say, who
 * have a second to answer. Before there is a vv_replication. Blocks. */
vv_status vv_start_role(const vv_server_config *config, varve_db *db, const char *node, const vv_logger *log,
                        vv_role *out, vv_error *err) VV_CHECKED;

/*
 * Of a server that is to follow: does its log have an end that the primary's has not, and that can be cut?
 * Better before anybody has read of it. A primary that can't be asked within a second or two will be asked by
 * the follower. NONE: nothing is to be done now. Blocks.
 */
vv_status vv_start_plan(const vv_server_config *config, varve_db *db, const char *node, const vv_logger *log,
                        vv_plan *out, vv_error *err) VV_CHECKED;

#endif
