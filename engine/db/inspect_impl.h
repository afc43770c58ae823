/*
 * inspect_impl.h - what the files of varve_inspect() share: the file at hand, and how items are made.
 *
 *   inspect.c        which kind of file it is; manifests, markers, tables
 *   inspect_log.c    segments of a log, files of an archive
 *
 * One thread. An item lives on the stack of whoever tells it.
 */
#ifndef VV_ENGINE_DB_INSPECT_IMPL_H
#define VV_ENGINE_DB_INSPECT_IMPL_H

#include "engine/db/db_impl.h"

#define VV_ITEM_FIELDS_MAX 24

typedef struct vv_inspection {
    const varve_inspect_options *o;
    varve_inspect_result *out;
    vv_error *err;
    vv_io_backend *io;
    char path[VV_DB_PATH_BYTES];
    vv_file *file;
    uint64_t file_bytes;
    bool stopped; /* item said so */
} vv_inspection;

/* An item in the making. */
typedef struct vv_item {
    varve_item item;
    varve_field fields[VV_ITEM_FIELDS_MAX];
    uint8_t digits[VV_ITEM_FIELDS_MAX][8]; /* of numbers that are told as ids */
} vv_item;

void vv_item_begin(vv_item *i, const char *kind);
void vv_item_number(vv_item *i, const char *name, uint64_t number);
void vv_item_flag(vv_item *i, const char *name, bool flag);
/* text and bytes are borrowed until the item was told. */
void vv_item_text(vv_item *i, const char *name, const char *text);
void vv_item_bytes(vv_item *i, const char *name, vv_slice bytes);
void vv_item_id(vv_item *i, const char *name, const void *bytes, size_t count);
void vv_item_id_number(vv_item *i, const char *name, uint64_t number);
/* BUSY: stop. */
vv_status vv_item_tell(const vv_item *i, vv_inspection *j) VV_CHECKED;

/* Key, kind, sizes and expiry of an entry, behind what the item has already; its value, too. */
void vv_item_entry(vv_item *i, const vv_entry *e);

/* Something is damaged; its words are made of st and what. */
void vv_inspect_damage(vv_inspection *j, uint64_t offset, uint64_t bytes, vv_status st, const char *what);

/* ---- counting entries, for a summary ---- */

typedef struct vv_entry_counts {
    uint64_t puts, deletes, expiring;
    uint64_t key_bytes, key_bytes_min, key_bytes_max;
    uint64_t value_bytes, value_bytes_max;
} vv_entry_counts;

void vv_entry_counts_add(vv_entry_counts *c, const vv_entry *e);
void vv_item_counts(vv_item *i, const vv_entry_counts *c);

/* ---- inspect_log.c ---- */

vv_status vv_inspect_segment(vv_inspection *j) VV_CHECKED;
vv_status vv_inspect_archive(vv_inspection *j) VV_CHECKED;

#endif
