/*
 * repair_impl.h - a repair's job, shared by repair_look.c, which says what there is, and repair.c, which
 * makes a database of it.
 */
#ifndef VV_ENGINE_DB_REPAIR_IMPL_H
#define VV_ENGINE_DB_REPAIR_IMPL_H

#include "engine/db/db_impl.h"

/* A range of keys of a table that is lost. */
typedef struct vv_repair_range {
    uint64_t offset, bytes;
    uint8_t *first_key, *last_key;
    size_t first_key_bytes, last_key_bytes;
} vv_repair_range;

typedef struct vv_repair_table {
    uint64_t file_number;
    vv_table *named; /* what the manifest says of it; NULL: nothing */
    uint64_t bytes;
    bool damaged;
    bool usable;         /* there is something to be taken from it */
    vv_sst_summary read; /* what could be read of it, if that was counted */
} vv_repair_table;

typedef struct vv_repair {
    const varve_repair_options *o;
    varve_repair_result *out;
    const varve_options *options;
    vv_settings settings;
    vv_logger logger;
    vv_error *err;
    vv_io_maker make_io;
    void *make_arg;
    vv_io_backend *io;
    vv_file *lock;
    char dir[VV_DB_PATH_BYTES];
    char work[VV_DB_PATH_BYTES]; /* DIR/REPAIR */
    char path[VV_DB_PATH_BYTES]; /* of the file at hand */

    vv_manifest manifest;
    bool has_manifest;
    vv_marker cut; /* what a rewind had begun */
    bool has_cut;
    bool seen_log, seen_import;
    vv_repair_table *tables;
    size_t table_count;
    uint64_t highest_number; /* of any table in the directory */
    uint64_t flushed_lsn;    /* tables hold all up to here */
    bool log_damaged;

    vv_repair_range *losses; /* of the table at hand */
    size_t loss_count;
    vv_status loss_status; /* NO_MEMORY */

    vv_sst_summary *sum_to; /* of the table at hand */
    vv_sst_writer *writer;  /* that it is written to */
    vv_replay replay;

    vv_io_queue *queue;
    vv_throttle throttle;
    vv_table **made; /* tables in REPAIR */
    size_t made_count;
} vv_repair;

/* ---- repair_look.c ---- */

/* Lock the directory, complete an install that was begun there, and look at everything: what is damaged, what
 * is lost, and what can be used. Nothing else changes. */
vv_status vv_repair_look(vv_repair *j) VV_CHECKED;

/* The words of NO_MEMORY. */
vv_status vv_repair_no_memory(vv_repair *j);

bool vv_repair_copy_key(vv_slice key, uint8_t **out);

/* A vv_sst_salvage_options.pace, and a vv_compaction_options.pace; arg: the job. */
bool vv_repair_pace(void *arg, uint64_t bytes);

/* A vv_table_drop_fn. */
void vv_repair_keep_file(void *arg, uint64_t file_number);

vv_wal_options vv_repair_log_options(const vv_repair *j);

/* What is left of a log that is damaged. */
vv_status vv_repair_salvage_log(vv_repair *j, void (*lost)(void *arg, const vv_wal_loss *l),
                                vv_wal_replay_fn replay, uint64_t *last_lsn_out) VV_CHECKED;

void vv_repair_forget_losses(vv_repair *j);

#endif
