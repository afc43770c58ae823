/*
 * get.h - a point lookup as a resumable step machine.
 *
 *   memory --> next run --> table wanted --> filter, index --> block wanted --> search --> done
 *      |          ^                              |                                |
 *      +--> done  +------------------------------+--------------------------------+
 *
 * The machine does no I/O and never blocks. vv_get_step() runs until it is done or wants something; whoever
 * drives it brings that, from a cache or the disk, blocking or not, and steps on. Blocking, batched and
 * asynchronous reads are drivers of this one machine.
 */
#ifndef VV_ENGINE_LSM_GET_H
#define VV_ENGINE_LSM_GET_H

#include "engine/lsm/view.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/table_cache.h"

typedef enum vv_get_want {
    VV_GET_DONE,        /* see status */
    VV_GET_WANTS_TABLE, /* open table_number, then vv_get_supply_table() */
    VV_GET_WANTS_BLOCK, /* bring `block_handle` of `reader`, then vv_get_supply_block() */
} vv_get_want;

typedef struct vv_get {
    /* given to vv_get_init(); borrowed until deinit */
    vv_view *view;
    vv_table_cache *tables;
    vv_block_cache *blocks;
    vv_slice key;
    uint64_t lsn;

    /* the answer, once done: OK, NOT_FOUND (a tombstone included), or what was supplied as failure */
    vv_status status;
    vv_entry entry;  /* of OK; borrowed from the view, or from `block` if that is not NULL */
    vv_block *block; /* pinned; vv_get_take_block() hands it over */

    /* what is wanted */
    uint64_t table_number;
    vv_sst_reader *reader; /* pinned while its block is wanted */
    vv_table_pin reader_pin;
    vv_block_handle block_handle;
    uint32_t block_reads; /* blocks that were supplied so far */

    /* the machine's own */
    uint64_t key_hash;
    size_t run_index;
    enum { VV_GET_AT_MEMORY, VV_GET_AT_RUN, VV_GET_AT_TABLE, VV_GET_AT_BLOCK, VV_GET_AT_END } at;
} vv_get;

/* Look up the newest version of `key` at or below `lsn`. Everything is borrowed until deinit. */
void vv_get_init(vv_get *g, vv_view *view, vv_table_cache *tables, vv_block_cache *blocks, vv_slice key,
                 uint64_t lsn);

/* Run until done or something is wanted; the same is wanted again until it is supplied. */
vv_get_want vv_get_step(vv_get *g) VV_CHECKED;

/* After WANTS_TABLE: the reader as vv_table_cache_get() has pinned it, which the machine releases, or why
 * there is none. */
void vv_get_supply_table(vv_get *g, vv_status st, vv_sst_reader *reader);

/* After WANTS_BLOCK: the verified, pinned block, which the machine releases, or why there is none. */
void vv_get_supply_block(vv_get *g, vv_status st, vv_block *block);

/* Once it is done, after a failure that was supplied: the keys that what could not be had may hold, both
 * included; borrowed until deinit. A block's, or all of a table that can't be opened. */
void vv_get_damage(const vv_get *g, vv_slice *first_out, vv_slice *last_out);

/* Hand the pin on the answer's block over to the caller; NULL if the answer is in the view. */
vv_block *vv_get_take_block(vv_get *g);

/* Release whatever is pinned. At any step. */
void vv_get_deinit(vv_get *g);

#endif
