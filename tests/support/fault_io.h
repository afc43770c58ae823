/*
 * fault_io.h - an I/O backend that stands in front of the posix one, tells the test of every operation, and
 * lets it fail any of them. Same code above it: it is chosen where the backend is made.
 *
 * Its queues run requests one after the other in vv_io_run(); a WRITE_SYNC is told as "write" and then
 * "datasync", so that either half can fail.
 */
#ifndef VV_TESTS_FAULT_IO_H
#define VV_TESTS_FAULT_IO_H

#include "io/io.h"

/*
 * Called before each operation: "open", "write", "read", "datasync", "sync", "allocate", "truncate",
 * "rename", "unlink", "link", "dirsync", "mkdir", "rmdir"; name is the last part of the path (of a rename or
 * a link: the new one). Anything but OK is what the operation returns, undone. From any thread.
 */
typedef vv_status (*vv_fault_fn)(void *arg, const char *op, const char *name);

/* Owned by the caller; destroyed like any backend. Never fails: aborts. */
vv_io_backend *vv_fault_io_create(vv_fault_fn fn, void *arg);

/* How many bytes are free, in place of the disk's own word; from any thread. Before the backend is used. */
typedef uint64_t (*vv_fault_space_fn)(void *arg);
void vv_fault_io_set_space(vv_io_backend *b, vv_fault_space_fn fn, void *arg);

#endif
