/*
 * lines.h - files of lines of words, as operators write them: who may what, how often.
 *
 * Words are separated by white space; one with spaces in it stands in double quotes. '#' before a word starts
 * a comment. Empty lines are skipped.
 */
#ifndef VV_RPC_LINES_H
#define VV_RPC_LINES_H

#include "base/slice.h"
#include "base/status.h"

#define VV_LINES_WORDS_MAX 8
#define VV_LINES_FILE_MAX  ((size_t)64 << 20)

/* One line with at least one word; they live until vv_lines_read() returns. */
typedef vv_status (*vv_lines_fn)(void *arg, const vv_slice *words, size_t count, vv_error *err);

/*
 * Call fn for each line, until one fails: err says path and line.
 *
 * INVALID_ARGUMENT   a line with too many words or a quote that is not closed; a file that is too large.
 * others             fn's, or the file cannot be read.
 */
vv_status vv_lines_read(const char *path, vv_lines_fn fn, void *arg, vv_error *err) VV_CHECKED;

/* The whole file with a zero behind its end; *data_out is to be freed. bytes_max: what is longer is
 * INVALID_ARGUMENT. */
vv_status vv_file_read(const char *path, size_t bytes_max, char **data_out, size_t *bytes_out,
                       vv_error *err) VV_CHECKED;

#endif
