/*
 * manifest.h - the one file that says what the database consists of. Layout: engine/FORMAT.md section 3.
 *
 * The manifest is small and is written whole each time: into MANIFEST.tmp, synced, renamed over MANIFEST, and
 * the directory synced. A crash leaves the old one or the new one, never a mixture; MANIFEST.tmp means
 * nothing. A damaged manifest is never guessed around: opening is refused.
 */
#ifndef VV_ENGINE_LSM_MANIFEST_H
#define VV_ENGINE_LSM_MANIFEST_H

#include "engine/lsm/version.h"

#define VV_MANIFEST_NAME        "MANIFEST"
#define VV_MANIFEST_TEMP_NAME   "MANIFEST.tmp"
#define VV_MANIFEST_DB_ID_BYTES 16

/* Who wrote which part of the log: engine/db/epochs.c. */
#define VV_EPOCHS_MAX 256
typedef struct vv_epoch {
    uint64_t epoch;
    uint64_t first_lsn;
    uint64_t id;
} vv_epoch;

/* Oldest first: numbers ascend, first_lsn does not descend. Never empty in a manifest. */
typedef struct vv_epoch_history {
    uint32_t count;
    bool newest_is_ours; /* this directory's own writes carry it, and nobody else's */
    vv_epoch items[VV_EPOCHS_MAX];
} vv_epoch_history;

/* What is remembered of a slot: engine/db/slots.c. */
#define VV_SLOTS_MAX           64
#define VV_SLOT_NAME_BYTES_MAX 64
typedef struct vv_slot_mark {
    char name[VV_SLOT_NAME_BYTES_MAX + 1]; /* not empty, no two the same */
    bool lost;
    uint64_t lsn; /* confirmed, roughly: it may be higher by now */
} vv_slot_mark;

#define VV_COMMIT_LIMIT_NONE UINT64_MAX

typedef struct vv_manifest {
    uint8_t db_id[VV_MANIFEST_DB_ID_BYTES]; /* random, for life */
    uint64_t generation;                    /* one more with every write of the manifest */
    uint64_t next_file_number;
    uint64_t flushed_lsn;   /* everything up to here is in tables */
    uint64_t first_segment; /* the log's oldest segment that is needed; 0: the log was not begun yet */
    uint64_t safe_compaction_lsn;
    uint64_t created_unix_ms;
    vv_slice retry; /* engine/db/retry.h, as of flushed_lsn; borrowed, or read and owned */
    uint64_t promised_epoch;
    uint64_t commit_limit; /* VV_COMMIT_LIMIT_NONE: commits are not limited */
    vv_epoch_history epochs;
    uint32_t slot_count;
    vv_slot_mark slots[VV_SLOTS_MAX];
} vv_manifest;

/* The newest epoch. */
static inline uint64_t vv_manifest_epoch(const vv_manifest *m) {
    return m->epochs.items[m->epochs.count - 1].epoch;
}

/* Numbers from 1, ascending; first_lsn from 1, not descending; 1 to VV_EPOCHS_MAX of them. */
bool vv_epochs_are_sound(const vv_epoch *epochs, size_t count);

/* 1 to 64 letters, digits and "._:-". */
bool vv_slot_name_is_sound(const char *name, size_t bytes);

/*
 * Read the manifest of `dir`. *tables_out: *count_out tables with one reference each, array and references
 * the caller's. drop and drop_arg: as for vv_table_create(). On OK *out is the caller's to deinit. NOT_FOUND:
 * there is no manifest. CORRUPTION, UNSUPPORTED/FORMAT_NEWER, IO, NO_MEMORY.
 */
vv_status vv_manifest_read(vv_io_backend *b, const char *dir, vv_manifest *out, vv_table ***tables_out,
                           size_t *count_out, vv_table_drop_fn drop, void *drop_arg,
                           vv_error *err) VV_CHECKED;

/* The same from the bytes of a manifest. path: names them in the words of a failure. */
vv_status vv_manifest_decode(const void *bytes, size_t byte_count, const char *path, vv_manifest *out,
                             vv_table ***tables_out, size_t *count_out, vv_table_drop_fn drop, void *drop_arg,
                             vv_error *err) VV_CHECKED;

/* Of one that was read. */
void vv_manifest_deinit(vv_manifest *m);

/* The bytes of a manifest: written as the file MANIFEST beside the version's tables, they make a database.
 * *out is the caller's to free. NO_MEMORY. */
vv_status vv_manifest_encode(const vv_manifest *m, const vv_version *version, uint8_t **out,
                             size_t *bytes_out) VV_CHECKED;

/* Replace the manifest. OK: the new one survives power loss. Otherwise either may be found after a crash,
 * unless *replaced_out (which may be NULL) is false: then the old one stands for certain. One caller at a
 * time.
 */
vv_status vv_manifest_write(vv_io_backend *b, const char *dir, const vv_manifest *m,
                            const vv_version *version, bool *replaced_out, vv_error *err) VV_CHECKED;

#endif
