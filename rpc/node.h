/*
 * node.h - the name of a server among replicas: what its slot at the primary is called.
 */
#ifndef VV_RPC_NODE_H
#define VV_RPC_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"
#include "base/status.h"
#include "engine/varve.h"

/* 1 to 64 letters, digits and "._:-", as slots are named; and not the archive's. */
bool vv_node_name_valid(vv_slice name);

/*
 * The configured name or, if that is "", the one in the file NODE of `data`, which is there and may be empty
 * of all else. Without the file a random name is drawn and the file made, so that it survives power loss:
 * with another name after a restart, the log would be kept for a slot that nobody comes back to.
 *
 * INVALID_ARGUMENT/BAD_OPTION: the configured name is none. CORRUPTION: the file holds none. Not thread-safe
 * for one directory, whose lock keeps other processes away.
 */
vv_status vv_node_name(const char *data, const char *configured, char out[VARVE_SLOT_NAME_BYTES_MAX + 1],
                       vv_error *err) VV_CHECKED;

#endif
