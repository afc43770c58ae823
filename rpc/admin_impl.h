/*
 * admin_impl.h - what the files of varve.v1.Admin share.
 *
 *   service_admin.c   the service; what a worker does
 *   service_status.c  Status, Stats and Dashboard
 */
#ifndef VV_RPC_ADMIN_IMPL_H
#define VV_RPC_ADMIN_IMPL_H

#include "rpc/service.h"
#include "varve/v1/admin.pb-c.h"

void vv_admin_on_status(vv_rpc_call *call, vv_slice request);
void vv_admin_on_stats(vv_rpc_call *call, vv_slice request);
void vv_admin_on_dashboard(vv_rpc_call *call, vv_slice request);

#endif
