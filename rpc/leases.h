/*
 * leases.h - states of the store that clients hold by an id, for a limited time.
 *
 * A snapshot costs space for as long as it is held, and clients die. So each belongs to a lease, which ends
 * by its time, and to the user that opened it: for everybody else its id means nothing. There are three
 * kinds:
 *
 *     snapshot   of Snapshots.Open; ends at its time, whether it is read or not, unless it is renewed
 *     pages      of a scan that gave out page tokens; its time begins when the last scan on it is over. The
 *                oldest one that no scan is on makes way when there are too many: nobody asked for it by name
 *     files      of Replication.TakeSnapshot; its time begins anew when the last read of a file is over
 *
 * A read that has a lease keeps its state alive until it is done, also when the lease ends meanwhile.
 * Ids are random, so that they can't be guessed. All functions are thread-safe.
 */
#ifndef VV_RPC_LEASES_H
#define VV_RPC_LEASES_H

#include "base/status.h"
#include "engine/varve.h"
#include "rpc/timer.h"
#include "rpc/transport.h"

typedef struct vv_leases vv_leases;
typedef struct vv_lease vv_lease;

typedef struct vv_leases_options {
    varve_db *db;
    vv_timers *timers;
    uint64_t count_max;    /* of all leases */
    uint64_t per_user_max; /* of one user's */
    uint64_t default_us;   /* of a snapshot whose client names no time */
    uint64_t longest_us;
    uint64_t pages_us; /* of page tokens */
} vv_leases_options;

/* What a client is told of its snapshot. */
typedef struct vv_lease_info {
    uint64_t id;
    uint64_t lsn;
    uint64_t expires_unix_ms;
} vv_lease_info;

typedef enum vv_lease_kind { VV_LEASE_SNAPSHOT, VV_LEASE_PAGES, VV_LEASE_FILES } vv_lease_kind;

/* A state in another form than a varve_snapshot, embedded in whatever that is. */
typedef struct vv_leased {
    uint64_t lsn;
    /* Nobody has it any more. Once, on the thread that gave it back, without a lock. */
    void (*release)(struct vv_leased *leased);
} vv_leased;

vv_status vv_leases_create(const vv_leases_options *options, vv_leases **out) VV_CHECKED;
/* Ends all leases and releases their snapshots. No read has one any more. NULL is fine. */
void vv_leases_destroy(vv_leases *l);

/* Lease the newest state to a user (NULL: everybody is one). lease_ms 0: the default; what is too long is
 * cut. BUSY: the user or all have too many. NO_MEMORY, IO. */
vv_status vv_leases_open(vv_leases *l, const struct vv_user *user, uint64_t lease_ms,
                         vv_lease_info *out) VV_CHECKED;

/* From now on for lease_ms. False: the user has no such snapshot, or its lease is over. */
bool vv_leases_renew(vv_leases *l, const struct vv_user *user, uint64_t id, uint64_t lease_ms,
                     vv_lease_info *out);
/* End a lease that was asked for: of a snapshot, or of files. One that is not there is fine. */
void vv_leases_release(vv_leases *l, const struct vv_user *user, vv_lease_kind kind, uint64_t id);

/* Lease files to a user, as vv_leases_open() does a snapshot. On OK they are the lease's, else the caller's.
 */
vv_status vv_leases_add_files(vv_leases *l, const struct vv_user *user, vv_leased *files_take,
                              uint64_t lease_ms, vv_lease_info *out) VV_CHECKED;
/* Would there be room for one more of this user, now? */
bool vv_leases_have_room(vv_leases *l, const struct vv_user *user);

/* Take a lease for a read, or for a scan if it is one of pages. NULL: the user has none of that kind with
 * this id. vv_lease_unref() gives it back. */
vv_lease *vv_leases_ref(vv_leases *l, const struct vv_user *user, vv_lease_kind kind, uint64_t id);
void vv_lease_unref(vv_leases *l, vv_lease *lease); /* NULL is fine */

/*
 * A lease of pages on *snapshot, taken for the scan as by vv_leases_ref(). The lease takes the snapshot over
 * and *snapshot becomes NULL; NULL (and *snapshot stays the caller's): there is no room or no memory.
 */
vv_lease *vv_leases_add_pages(vv_leases *l, const struct vv_user *user, varve_snapshot **snapshot_take);
/* vv_lease_unref() by a scan that came to its end: if nobody ever came back to the lease, it ends. */
void vv_lease_unref_done(vv_leases *l, vv_lease *lease);

/* While it is taken; of its kind. */
const varve_snapshot *vv_lease_snapshot(const vv_lease *lease);
vv_leased *vv_lease_files(const vv_lease *lease);
uint64_t vv_lease_id(const vv_lease *lease);

/* How many there are. */
uint64_t vv_leases_count(vv_leases *l);

#endif
