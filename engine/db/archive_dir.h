/*
 * archive_dir.h - the files of an archive together: which of their records count, and how far they go with
 * the log of a database.
 *
 *   LSN   1 ......... 100
 *   file 1 [=========|::::]               a database was rewound to 70, and went on
 *   file 2          71[==========] 180    from there its later history counts: `limit` of file 1 is 71
 *   file 3                          [==   181 and on
 *
 * Within a file LSNs follow each other. So the headers alone say what counts: of each file what lies below
 * the lowest first_lsn of all later ones.
 */
#ifndef VV_ENGINE_DB_ARCHIVE_DIR_H
#define VV_ENGINE_DB_ARCHIVE_DIR_H

#include "engine/db/archive_file.h"
#include "engine/varve.h"

#define VV_ARCHIVE_PATH_BYTES 4096

typedef struct vv_archive_entry {
    uint64_t number;
    vv_status status; /* of its header; first_lsn is known if it is OK */
    uint64_t first_lsn;
    uint64_t limit_lsn; /* records from here on don't count; UINT64_MAX: all do */
} vv_archive_entry;

/* Zeroed is empty. */
typedef struct vv_archive_dir {
    char path[VV_ARCHIVE_PATH_BYTES];
    vv_archive_entry *files; /* in the order of their numbers */
    size_t count;
    uint8_t db_id[VV_ARCHIVE_DB_ID_BYTES]; /* if there is a file whose header is fine */
} vv_archive_dir;

/*
 * Look at the directory and at all headers.
 *
 * OK                  also if headers are damaged: see the status of each file.
 * INVALID_ARGUMENT    the path is too long, or files are of different databases.
 * NOT_FOUND, IO, NO_MEMORY, UNSUPPORTED/FORMAT_NEWER   as they say.
 */
vv_status vv_archive_dir_read(vv_io_backend *io, const char *path, vv_archive_dir *out,
                              vv_error *err) VV_CHECKED;
/* A zeroed one is fine. */
void vv_archive_dir_deinit(vv_archive_dir *dir);

/* "<path>/<number>.archive", to be followed by a suffix of up to 8 bytes. */
void vv_archive_dir_file(const vv_archive_dir *dir, uint64_t number, char path[VV_ARCHIVE_PATH_BYTES + 64]);

/* How far an archive goes with a database. */
typedef struct vv_archive_position {
    uint64_t last_lsn;   /* that counts; 0: there are no records */
    uint64_t common_lsn; /* up to here both are the same; 0: they have nothing in common that is known */
    bool damaged;        /* in the last file, behind last_lsn */
} vv_archive_position;

/* Compare by the history of epochs of the database and its last LSN; without one (epoch_count 0) only the end
 * is found. Reads files from the end, as few as needed. IO, NO_MEMORY. */
vv_status vv_archive_dir_compare(vv_io_backend *io, const vv_archive_dir *dir, const varve_epoch *epochs,
                                 size_t epoch_count, uint64_t db_last_lsn, vv_archive_position *out,
                                 vv_error *err) VV_CHECKED;

#endif
