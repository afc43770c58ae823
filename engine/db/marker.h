/*
 * marker.h - a small file in a database's directory that says what was begun there and has to be completed
 * before anybody looks at the rest. Layout: engine/FORMAT.md section 6.
 *
 * Written as the manifest is: whole, into NAME.tmp, synced, renamed, directory synced. So whatever precedes
 * it was done, if it is there; and whatever follows it is done again, until it is removed. A damaged one is
 * never guessed around: opening is refused.
 */
#ifndef VV_ENGINE_DB_MARKER_H
#define VV_ENGINE_DB_MARKER_H

#include "base/log.h"
#include "io/io.h"

#define VV_MARKER_NAME_BYTES_MAX 255
#define VV_MARKER_TEMP_SUFFIX    ".tmp"

/* The files. */
#define VV_INSTALL_NAME "INSTALL" /* install.c */
#define VV_CUT_NAME     "CUT"     /* rewind.c */

typedef struct vv_marker {
    uint32_t step;
    uint64_t lsn;
    char names[2][VV_MARKER_NAME_BYTES_MAX + 1]; /* of files or directories beside it; "": none */
} vv_marker;

/* Write it, in place of one that is there. OK: it survives power loss. Otherwise either may be found after a
 * crash, or none. */
vv_status vv_marker_write(vv_io_backend *io, const char *dir, const char *name, const vv_marker *m,
                          vv_error *err) VV_CHECKED;
/* *there_out false: there is none. CORRUPTION, UNSUPPORTED/FORMAT_NEWER, IO. */
vv_status vv_marker_read(vv_io_backend *io, const char *dir, const char *name, vv_marker *out,
                         bool *there_out, vv_error *err) VV_CHECKED;
/* OK: it is gone for good, and all changes of names in dir before it are durable. */
vv_status vv_marker_remove(vv_io_backend *io, const char *dir, const char *name, vv_error *err) VV_CHECKED;

#endif
