/*
 * wal_search.h - whole segments searched for frames, beside the replay of others. For recovery; one thread.
 */
#ifndef VV_ENGINE_WAL_SEARCH_H
#define VV_ENGINE_WAL_SEARCH_H

#include "engine/wal/wal_impl.h"
#include "engine/wal/wal_window.h"

typedef struct vv_wal_search vv_wal_search;

/* What was found in a segment. */
typedef struct vv_wal_trace {
    const vv_wal_segment *segment;
    bool any;             /* a head of a frame of this segment */
    uint64_t durable_lsn; /* the newest that any of them knows to be durable */
} vv_wal_trace;

/* Search traces[].segment, from the first block behind the header on. The traces are borrowed until
 * destroy(), and filled in while the window's queue runs. NO_MEMORY. */
vv_status vv_wal_search_create(const vv_wal *w, vv_wal_window *window, vv_wal_trace *traces, size_t count,
                               vv_wal_search **out) VV_CHECKED;

/* Run it until all is searched. The words in err name the file. */
vv_status vv_wal_search_finish(vv_wal_search *t, vv_error *err) VV_CHECKED;

/* Also in the midst of it. NULL is fine. */
void vv_wal_search_destroy(vv_wal_search *t);

#endif
