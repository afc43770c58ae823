/*
 * table_copy.h - a table's file in another directory: copied or linked, and then read back from the disk and
 * compared with the checksum that was noted when the table was written.
 */
#ifndef VV_ENGINE_DB_TABLE_COPY_H
#define VV_ENGINE_DB_TABLE_COPY_H

#include "engine/db/db_impl.h"

/* The caller's; one thread. */
typedef struct vv_table_copier {
    vv_io_backend *io;
    vv_io_queue *queue; /* with a pool; see stream.c */
    const vv_logger *logger;
    vv_throttle *throttle;
    vv_error *err;         /* words of what fails */
    uint64_t copied_bytes; /* so far */
} vv_table_copier;

/* OK: the file is there, synced (its name is not), and holds what the table was written with. CORRUPTION,
 * EXISTS, NO_SPACE, IO, BUSY/CANCELED: there may be something of it. */
vv_status vv_table_copy(vv_table_copier *c, const vv_table *t, const char *from_path,
                        const char *to_path) VV_CHECKED;

/* The same with a second name for the file. False: there is no file at to_path, it has to be had otherwise;
 * unless *st_out, which is OK before, says that all is over. */
bool vv_table_link(vv_table_copier *c, const vv_table *t, const char *from_path, const char *to_path,
                   vv_status *st_out);

#endif
