/*
 * connection_limit.h - at most so many connections at once.
 *
 * The C core accepts whatever comes, and has no option for this. Worse, its listener closes for good at the
 * first accept4() that fails, which is what happens when the process has no descriptor left: two thousand
 * idle connections would put an end to a server with a limit of 1024. So accept4() is ours: the program's own
 * definition of a symbol goes before the C library's, for the C core too. It asks the system, and
 *
 *   - closes a connection at once that is one too many, which a gRPC client answers by trying again later;
 *   - never says that there is no descriptor: it closes such a connection by means of one kept in reserve;
 *   - passes over errors of the connection that was to be accepted (accept(2), "Error handling").
 *
 * Nobody tells when a connection is closed, so what was accepted is looked through for sockets that are not
 * there any more, when there is no room left and at most every VV_CONNECTION_SWEEP_MS.
 */
#ifndef VV_RPC_CONNECTION_LIMIT_H
#define VV_RPC_CONNECTION_LIMIT_H

#include <stdint.h>

#define VV_CONNECTION_SWEEP_MS 100

/*
 * From now on, for all that this process accepts; connections that are there already do not count. 0: no
 * limit, and nothing of all this.
 *
 * Returns what really holds: less than `max` when the process may not have so many descriptors, of which
 * `reserved` are for others, or half where that is all there is.
 */
uint64_t vv_connection_limit_set(uint64_t max, uint64_t reserved);

/* So far: one too many, or no descriptor left. */
uint64_t vv_connections_refused(void);

/* Connections of this listener are not counted, nor turned away; -1: of none. One at a time. Any thread. */
void vv_connection_limit_exempt(int listener);

#endif
