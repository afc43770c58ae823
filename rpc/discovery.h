/*
 * discovery.h - asking the other servers of a group what they are (Replication.Hello).
 *
 * All are asked at once, each on a thread of its own for the length of the call, so that one that is silent
 * keeps nobody from hearing the others. Connections are kept for the next time; one that failed is made anew.
 */
#ifndef VV_RPC_DISCOVERY_H
#define VV_RPC_DISCOVERY_H

#include "base/status.h"
#include "engine/varve.h"
#include "rpc/config.h"
#include "rpc/peer.h"
#include "rpc/replication.h"

/* Who can be asked at a time: FOLLOW, PEERS, and whom they name. */
#define VV_DISCOVERY_MAX 24

typedef char vv_address[VV_ADDRESS_BYTES_MAX + 1];

/* What one of them said. */
typedef struct vv_sighting {
    vv_address address; /* where it was asked */
    bool answered;
    char why[192]; /* if not */
    bool foreign;  /* if not: since it is of another database */
    bool denied;   /* if not: since we have no right to ask */
    uint8_t database_id[VARVE_DATABASE_ID_BYTES];
    vv_role role;
    uint64_t promised_epoch;
    uint64_t durable_lsn;
    char node[VARVE_SLOT_NAME_BYTES_MAX + 1];
    vv_address primary; /* "": it is one, or knows none */
    size_t history_count;
    varve_epoch history[VARVE_EPOCHS_MAX];
} vv_sighting;

/* The newest of its history. */
uint64_t vv_sighting_epoch(const vv_sighting *s);

typedef struct vv_discovery vv_discovery;

/* config: whose PEERS and FOLLOW_* hold; borrowed. node: our own name. database_id: ours; NULL: there is none
 * yet. */
vv_status vv_discovery_create(const vv_server_config *config, const char *node, const uint8_t *database_id,
                              vv_discovery **out) VV_CHECKED;
/* NULL is fine. */
void vv_discovery_destroy(vv_discovery *d);

/* What runs ends soon, and what comes later fails at once, until it is allowed again. Any thread. */
void vv_discovery_interrupt(vv_discovery *d);
void vv_discovery_allow(vv_discovery *d);

/* Whom there is to ask: `named` ("": nobody), FOLLOW, PEERS, each once. Returns how many. */
size_t vv_discovery_addresses(const vv_server_config *config, const char *named,
                              vv_address to[VV_DISCOVERY_MAX]);

/* How to call `address`, with the credentials of the configuration. */
vv_status vv_discovery_connect(const vv_server_config *config, const char *address, vv_peer **out,
                               vv_error *err) VV_CHECKED;

/* Ask `count` addresses, each at most for so long. One thread at a time. */
void vv_discovery_ask(vv_discovery *d, const vv_address *addresses, size_t count, uint64_t timeout_ns,
                      vv_sighting *out);

/* The newest epoch in the history of any of them, of our database, and who its primary is as far as that one
 * knows ("": not). 0: nobody answers. Epochs that were only promised don't count: they may never begin. One
 * thread at a time. */
uint64_t vv_discovery_newest_epoch(vv_discovery *d, const vv_address *addresses, size_t count,
                                   uint64_t timeout_ns, vv_address primary_out);

/* What came of a search. */
typedef enum vv_find_result {
    VV_FIND_OK,
    VV_FIND_NONE,    /* nobody answers, or nobody who does is a primary of an epoch that is high enough */
    VV_FIND_HOPELESS /* the same, and those who answer are of other databases, or don't let us in */
} vv_find_result;

/*
 * The primary of the highest epoch among `addresses` and whom those name, of our database and with an epoch
 * that is not below least_epoch. words: why there is none, of all who were asked. One thread at a time.
 */
vv_find_result vv_discovery_find(vv_discovery *d, const vv_address *addresses, size_t count,
                                 uint64_t least_epoch, uint64_t timeout_ns, vv_sighting *out,
                                 vv_error *words);

#endif
