/*
 * mem_sorted.h - the records of a memtable that keeps no order, sorted once and shared by its iterators.
 *
 * Counted references; never changes after it was made. Any number of threads read it.
 */
#ifndef VV_ENGINE_MEM_MEM_SORTED_H
#define VV_ENGINE_MEM_MEM_SORTED_H

#include "engine/mem/mem_impl.h"

typedef struct vv_mem_item {
    uint64_t prefix; /* the record's: most comparisons need no look at it */
    const vv_mem_record *record;
} vv_mem_item;

/* ---- mem_sort.c ---- */

/* Into internal order, whatever it was. spare: room for as many. Versions of one key cost least when they
 * come newest first. */
void vv_mem_sort(vv_mem_item *items, vv_mem_item *spare, size_t count);

/* Two sorted arrays into a third. */
void vv_mem_merge(const vv_mem_item *a, size_t a_count, const vv_mem_item *b, size_t b_count,
                  vv_mem_item *out);

/* ---- mem_sorted.c ---- */

typedef struct vv_mem_sorted {
    _Atomic uint32_t refs;
    _Atomic uint64_t *gauge; /* counts what all such arrays of one memtable take */
    uint64_t bytes;
    uint64_t last_lsn; /* all records up to here are in it */
    size_t count;
    vv_mem_item items[];
} vv_mem_sorted;

/*
 * What is in `old` (NULL: nothing) and the `fresh_count` records of `fresh`, in internal order, with one
 * reference for the caller. fresh: in any order; its own order changes. gauge: must outlive the result.
 * NO_MEMORY.
 */
vv_status vv_mem_sorted_create(const vv_mem_sorted *old, vv_mem_item *fresh, size_t fresh_count,
                               uint64_t last_lsn, _Atomic uint64_t *gauge, vv_mem_sorted **out) VV_CHECKED;

void vv_mem_sorted_ref(vv_mem_sorted *s);
/* NULL is fine. */
void vv_mem_sorted_unref(vv_mem_sorted *s);

/* Takes over a reference to s, also on failure. NO_MEMORY. */
vv_status vv_mem_sorted_iter_create(vv_mem_sorted *s, vv_iter **out) VV_CHECKED;

#endif
