/*
 * retry.h - which writes were done already: retry safety for clients that name their writes.
 *
 * A client that got no answer sends its write again, under the same (client_id, sequence). The table
 * remembers the LSN of each client's last VV_RETRY_WINDOW writes, so that the second one is answered with the
 * first one's LSN instead of being applied twice.
 *
 * The table is a function of the log: each record that names a write adds to it, in LSN order, and nothing
 * else changes it, no lookup and no clock. So it needs no log of its own. What it was at some LSN, and the
 * records behind that LSN, give what it is now; and an image of it at flushed_lsn stands in the manifest
 * (engine/FORMAT.md section 3), written in one piece with the flushed_lsn that lets the log forget the
 * records. There are no two files that a crash could leave at different LSNs.
 *
 * Limits   a client is forgotten when VV_RETRY_CLIENTS others have written since it last did; a write of it
 *          that is then repeated is applied again. A sequence below the window of a client that is remembered
 *          is refused: whether it was applied is not known any more.
 * Memory   16 bytes for each remembered write, 8 MiB with all clients and windows full.
 * Threads  whoever holds the single writer's role; images belong to anybody who has a reference.
 */
#ifndef VV_ENGINE_DB_RETRY_H
#define VV_ENGINE_DB_RETRY_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/slice.h"
#include "base/status.h"

/* Of the function that makes the table from the log: with other numbers an image means something else. */
#define VV_RETRY_WINDOW  256
#define VV_RETRY_CLIENTS 2048

#define VV_RETRY_BUCKETS 1024

typedef struct vv_retry_client vv_retry_client;
typedef struct vv_retry_image vv_retry_image;

typedef struct vv_retry_table {
    vv_retry_client *buckets[VV_RETRY_BUCKETS];
    vv_retry_client *oldest; /* by their last write */
    vv_retry_client *newest;
    vv_retry_client *spare; /* for the next client that is new */
    uint32_t client_count;
    vv_retry_image *image; /* of the table as it is, or NULL */
    _Atomic uint64_t memory_bytes;
} vv_retry_table;

void vv_retry_init(vv_retry_table *t);
void vv_retry_deinit(vv_retry_table *t);

typedef enum vv_retry_verdict {
    VV_RETRY_NEW,
    VV_RETRY_DONE,    /* *lsn_out is the first one's */
    VV_RETRY_TOO_OLD, /* below the client's window */
} vv_retry_verdict;

/* Was the write done already? client_id and sequence are not 0. */
vv_retry_verdict vv_retry_find(const vv_retry_table *t, uint64_t client_id, uint64_t sequence,
                               uint64_t *lsn_out);

/* Make sure that adding one write of this client can't fail. NO_MEMORY: nothing changed. */
vv_status vv_retry_reserve(vv_retry_table *t, uint64_t client_id) VV_CHECKED;

/* Remember a write; its room was reserved. In LSN order. One that is known, or too old, changes nothing: logs
 * of versions without this table may hold such. */
void vv_retry_add(vv_retry_table *t, uint64_t client_id, uint64_t sequence, uint64_t lsn);

/*
 * The table as bytes, one reference for the caller; NULL while it is empty. The same image is handed out
 * until the table changes.
 *
 *   image   [client_count:4] then, from the client that wrote longest ago to the newest,
 *   client  [client_id:8][entry_count:4] then, ascending by sequence, [sequence:8][lsn:8]
 */
vv_status vv_retry_image_take(vv_retry_table *t, vv_retry_image **out) VV_CHECKED;
vv_slice vv_retry_image_bytes(const vv_retry_image *image); /* empty for NULL */
void vv_retry_image_ref(vv_retry_image *image);             /* NULL is fine, as below */
void vv_retry_image_unref(vv_retry_image *image);           /* before the table's deinit; any thread */

/* Fill an empty table from an image's bytes; none leave it empty. CORRUPTION, NO_MEMORY: it holds some of
 * them. lsn_max: none of its writes can be newer. */
vv_status vv_retry_load(vv_retry_table *t, vv_slice bytes, uint64_t lsn_max) VV_CHECKED;

/* Of the table and all its images. Any thread. */
static inline uint64_t vv_retry_memory_bytes(const vv_retry_table *t) {
    return atomic_load_explicit(&t->memory_bytes, memory_order_relaxed);
}

#endif
