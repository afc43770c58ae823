/*
 * wal_window.h - a segment's bytes from front to back, read ahead. For recovery; one thread.
 */
#ifndef VV_ENGINE_WAL_WINDOW_H
#define VV_ENGINE_WAL_WINDOW_H

#include "io/io.h"

typedef struct vv_wal_window vv_wal_window;

/* It has a queue of its own. */
vv_status vv_wal_window_create(vv_io_backend *b, vv_wal_window **out, vv_error *err) VV_CHECKED;

/* Stops. NULL is fine. */
void vv_wal_window_destroy(vv_wal_window *w);

/* For other requests of the same thread, beside the window's. */
vv_io_queue *vv_wal_window_queue(vv_wal_window *w);

/* Wait until one or more of all requests are done, and call them back. */
void vv_wal_window_run(vv_wal_window *w);

/* The queue broke: requests have failed, and yet the kernel may go on with them. Their buffers have to stay
 * for ever. */
bool vv_wal_window_broken(const vv_wal_window *w);

/* The window goes onto `file` (opened with VV_OPEN_DIRECT or not), which is borrowed until it stops. What is
 * before `end` is read ahead, from where vv_wal_window_get() is first called; what is behind is not read at
 * all. */
void vv_wal_window_start(vv_wal_window *w, vv_file *file, uint64_t end);

/* Waits for what it has asked for: afterwards it does not use the file any more. */
void vv_wal_window_stop(vv_wal_window *w);

/* Bytes [at, at + bytes), borrowed until the next call; an empty slice if the file, or `end`, comes before.
 * Made for an `at` that never decreases. */
vv_status vv_wal_window_get(vv_wal_window *w, uint64_t at, uint64_t bytes, vv_slice *out) VV_CHECKED;

#endif
