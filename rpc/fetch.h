/*
 * fetch.h - a whole store, fetched from another varved: Replication.TakeSnapshot and FetchFile into a
 * varve_import.
 *
 * Files come several at once, each checked against its checksum; what is there already, from a try that was
 * cut short, is not fetched again. A lost connection, or a lease that ran out, is tried again for as long as
 * the caller goes on.
 */
#ifndef VV_RPC_FETCH_H
#define VV_RPC_FETCH_H

#include "base/log.h"
#include "base/status.h"
#include "engine/varve.h"
#include "rpc/peer.h"

typedef struct vv_fetch_options {
    vv_peer *peer;               /* without a limit to messages: a large store has a long list of files */
    const char *dir;             /* created, or gone on with; its parent is there */
    const char *slot;            /* NULL: none */
    const varve_options *engine; /* NULL: defaults */
    uint32_t parallel;           /* files at once; 0: 4 */
    uint64_t give_up_ns;         /* after so long without any progress; 0: never */
    varve_progress_fn progress;  /* may be NULL; at least ten times a second, also while nothing comes */
    void *arg;
    const vv_logger *log; /* progress, every few seconds, and what is tried again; may be NULL */
} vv_fetch_options;

typedef struct vv_fetch_info {
    uint64_t lsn;
    uint64_t file_count;
    uint64_t bytes;         /* of all files */
    uint64_t fetched_bytes; /* in this run */
} vv_fetch_info;

/*
 * Blocks; threads of its own do the work. *out has fetched_bytes also after a failure, and nothing else then.
 *
 * OK                  dir is a database of that LSN, and survives power loss.
 * BUSY/CANCELED       progress said stop, or the peer was interrupted.
 * TIMED_OUT           nothing came for give_up_ns, neither over the network nor from the disk.
 * PERMISSION, UNSUPPORTED, INVALID_ARGUMENT   the peer refuses; err has its words.
 * CORRUPTION          a file came damaged three times; err names it.
 * others              as varve_import_begin() and those after it: EXISTS, LOCKED, NO_SPACE, IO.
 *
 * What is there is kept in any case, for the next try into the same directory.
 */
vv_status vv_fetch(const vv_fetch_options *options, vv_fetch_info *out, vv_error *err) VV_CHECKED;

#endif
