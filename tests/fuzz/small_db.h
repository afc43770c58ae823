/*
 * small_db.h - a small database on a disk in memory.
 */
#ifndef VV_TESTS_FUZZ_SMALL_DB_H
#define VV_TESTS_FUZZ_SMALL_DB_H

#include "engine/varve.h"
#include "tests/fuzz/mem_io.h"

/* Options for little memory: KEY, VALUE pairs beside them, NULL-terminated, may be NULL. */
varve_options *fuzz_db_options(const char *const *more);

/* Open "/d" of this disk, which stays the caller's. Options NULL: fuzz_db_options(NULL). It never fails. */
varve_db *fuzz_db_open_with(vv_io_backend *disk, const varve_options *options);
varve_db *fuzz_db_open(vv_io_backend *disk);

#endif
