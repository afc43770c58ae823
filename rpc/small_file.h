/*
 * small_file.h - a few bytes that are replaced as a whole, and survive.
 */
#ifndef VV_RPC_SMALL_FILE_H
#define VV_RPC_SMALL_FILE_H

#include "base/slice.h"
#include "base/status.h"

/*
 * Make the file `name` of the directory `dir` have these bytes. It is written beside ("NAME.new"), synced,
 * renamed, and the directory synced, before this returns: a crash leaves the old file or the new one. One
 * caller at a time for one file.
 */
vv_status vv_small_file_write(const char *dir, const char *name, vv_slice bytes, vv_error *err) VV_CHECKED;

#endif
