/*
 * version.h - which tables make up the database at one moment: immutable once built, counted references.
 *
 * A version is a list of sorted runs from newest to oldest: level ascending, then run number descending.
 * Tables of one run don't overlap and are in key order. For one key, a run earlier in the list holds newer
 * versions than any later run, so that a lookup may stop at the first run that has the key.
 *
 * A table that no version holds any more is obsolete; its file is removed when the last reference goes, so
 * that readers of an old version never lose a file under their hands.
 */
#ifndef VV_ENGINE_LSM_VERSION_H
#define VV_ENGINE_LSM_VERSION_H

#include <stdatomic.h>

#include "base/status.h"
#include "engine/sst/sst.h"

/* Called once when an obsolete table loses its last reference; any thread. */
typedef void (*vv_table_drop_fn)(void *arg, uint64_t file_number);

typedef struct vv_table {
    _Atomic uint32_t refs;
    _Atomic bool obsolete;          /* no longer in the manifest: drop the file with the last reference */
    _Atomic uint32_t read_failures; /* of merges, see vv_table_is_unreadable() */
    vv_table_drop_fn drop;
    void *drop_arg;
    uint32_t level;
    uint64_t run;
    uint64_t file_number;
    struct vv_table *moved_from; /* NULL, or the same file at its place before; a reference */
    vv_sst_summary summary;      /* owned */
} vv_table;

/* Takes over the summary (also when it fails). One reference for the caller. NULL: no memory. */
vv_table *vv_table_create(uint32_t level, uint64_t run, uint64_t file_number, vv_sst_summary *summary_take,
                          vv_table_drop_fn drop, void *drop_arg) VV_CHECKED;
/* The same file at another place, for a version that does not hold it at the old one. It outlives whichever
 * of the two is needed longer. One reference for the caller. NULL: no memory. */
vv_table *vv_table_move(vv_table *from, uint32_t level, uint64_t run) VV_CHECKED;
void vv_table_ref(vv_table *t);
void vv_table_unref(vv_table *t);

/* Merges could not read it, damaged or not to be had from the device, and not once only: that may pass. */
#define VV_TABLE_READ_FAILURES_MAX 2
static inline bool vv_table_is_unreadable(const vv_table *t) {
    return atomic_load_explicit(&t->read_failures, memory_order_relaxed) >= VV_TABLE_READ_FAILURES_MAX;
}
/* Count a failure, if it is of that kind. */
void vv_table_note_failure(vv_table *t, vv_status st);

static inline vv_slice vv_table_first_key(const vv_table *t) {
    return vv_slice_make(t->summary.first_key, t->summary.first_key_bytes);
}

static inline vv_slice vv_table_last_key(const vv_table *t) {
    return vv_slice_make(t->summary.last_key, t->summary.last_key_bytes);
}

typedef struct vv_run {
    uint32_t level;
    uint64_t number;
    vv_table **tables; /* into the version's array */
    size_t table_count;
} vv_run;

typedef struct vv_version {
    _Atomic uint32_t refs;
    vv_table **tables; /* a reference each, in run order */
    size_t table_count;
    vv_run *runs;
    size_t run_count;
} vv_version;

/* Build a version from tables in any order; takes a reference of its own to each. NULL: no memory. */
vv_version *vv_version_create(vv_table *const *tables, size_t count) VV_CHECKED;
void vv_version_ref(vv_version *v);
void vv_version_unref(vv_version *v);

/* The table of the run whose key range holds `key`, or NULL. */
vv_table *vv_run_find(const vv_run *run, vv_slice key);

#endif
