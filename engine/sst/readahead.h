/*
 * readahead.h - the bytes ahead of a cursor that goes through a table, brought by another thread.
 *
 * For cursors of users' threads, which have no ring: somebody else's reads for them. One thread at a time.
 */
#ifndef VV_ENGINE_SST_READAHEAD_H
#define VV_ENGINE_SST_READAHEAD_H

#include "base/budget.h"
#include "base/stack.h"
#include "engine/sst/sst.h"

typedef struct vv_sst_fetch {
    vv_stack_node node; /* the fetcher's */
    vv_io_req req;
} vv_sst_fetch;

/* Whoever reads: takes f->req, a read, and calls its `done` later, on another thread. Never blocks nor fails;
 * thread-safe. */
typedef struct vv_sst_fetcher {
    void (*fetch)(void *arg, vv_sst_fetch *f);
    void *arg;
    vv_budget *budget; /* what all that is read ahead through it may take */
} vv_sst_fetcher;

typedef struct vv_sst_readahead vv_sst_readahead;

/* Borrows both. Takes VV_SST_READAHEAD_BYTES_MIN of the budget, and while it goes on, what is left there, up
 * to VV_SST_READAHEAD_BYTES_MAX. NULL: the budget is used up, or there is no memory: the cursor does without.
 */
#define VV_SST_READAHEAD_BYTES_MIN (UINT64_C(2) * (16 << 10))
#define VV_SST_READAHEAD_BYTES_MAX (UINT64_C(2) * (256 << 10))
vv_sst_readahead *vv_sst_readahead_create(const vv_sst_reader *r, const vv_sst_fetcher *f) VV_CHECKED;
/* Waits for what is on its way. NULL is fine. */
void vv_sst_readahead_destroy(vv_sst_readahead *ra);

/* Bring the bytes of a block as stored, waiting for those that aren't there, and ask for those behind them.
 * CORRUPTION/TRUNCATED, IO. */
vv_status vv_sst_readahead_copy(vv_sst_readahead *ra, vv_block_handle h, void *to) VV_CHECKED;

#endif
