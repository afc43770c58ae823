/*
 * mem_io.h - an I/O backend that keeps its files in memory, for fuzz targets: no system call for a file,
 * and nothing left behind. It never fails, but for a disk that is full; tests of faults and crashes have
 * backends of their own.
 *
 * Thread-safe; queues belong to one thread each.
 */
#ifndef VV_TESTS_FUZZ_MEM_IO_H
#define VV_TESTS_FUZZ_MEM_IO_H

#include "io/io.h"

/* All files together. Beyond that there is no space. */
#define FUZZ_DISK_BYTES (UINT64_C(32) << 20)

/* Direct files are aligned to this, as on most devices. */
#define FUZZ_DISK_BLOCK_BYTES 512

/* An empty disk with the directory "/d". The last vv_io_backend_destroy() takes all files with it; none may
 * be open. */
vv_io_backend *fuzz_disk_create(void);

/* One more reference, for who destroys a backend that it was given. Returns the disk. */
vv_io_backend *fuzz_disk_ref(vv_io_backend *disk);

/* Make a file, in place of one that is there. The bytes are copied. */
void fuzz_disk_put(vv_io_backend *disk, const char *path, vv_slice bytes);

/* A file's bytes, borrowed until it changes. NULL: there is no such file. */
const uint8_t *fuzz_disk_get(vv_io_backend *disk, const char *path, size_t *bytes_out);

#endif
