/*
 * call_log.h - what is logged of calls that are over.
 *
 *     call        a sample of all calls (ACCESS_LOG_SAMPLE)
 *     slow_call   every unary call that took SLOW_CALL_THRESHOLD or longer, with where its time went
 *
 * Both have: method, code, user, us (from arrival to the end), bytes_in, bytes_out, request_id and peer; a
 * slow one also queue_us, wal_us, memtable_us, block_us and block_reads (varve_trace). Streams last as long
 * as their client wants and are never slow.
 *
 * request_id is the client's "x-request-id": 1 to 64 bytes of letters, digits and "._:/+=@-". Any other is
 * left out, and none is made up where there is none: the client could not know of it.
 *
 * There are at most so many lines a second; what is beyond is counted, and said (lines_dropped) with the next
 * line or at the end.
 */
#ifndef VV_RPC_CALL_LOG_H
#define VV_RPC_CALL_LOG_H

#include "base/log.h"
#include "rpc/line_limit.h"
#include "rpc/transport.h"

#define VV_REQUEST_ID_BYTES_MAX 64

typedef struct vv_call_log_options {
    const vv_logger *log; /* borrowed; NULL: nothing is logged */
    double sample;        /* share of calls that are logged, 0 to 1 */
    uint64_t slow_ns;     /* 0: no call is slow */
    uint32_t lines_per_second;
} vv_call_log_options;

typedef struct vv_call_log {
    const vv_logger *log;
    _Atomic uint64_t sample_below; /* of 2^63 */
    _Atomic uint64_t slow_ns;
    vv_line_limit limit;
} vv_call_log;

void vv_call_log_init(vv_call_log *l, const vv_call_log_options *options);

/* From now on, all but the logger. Any thread. */
void vv_call_log_set(vv_call_log *l, const vv_call_log_options *options);

/* Says what was dropped last. No call is left. Also for a zeroed struct. */
void vv_call_log_deinit(vv_call_log *l);

/* A call is over; its metadata and its peer can still be asked for. On the call's thread. */
void vv_call_log_ended(vv_call_log *l, vv_rpc_call *call);

/* "OK", "NOT_FOUND": the names of gRPC. */
const char *vv_rpc_code_name(vv_rpc_code code);

#endif
