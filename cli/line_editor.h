/*
 * line_editor.h - lines from a person: editing, history and completion (libedit).
 *
 * Ctrl-C leaves the line, Ctrl-D on an empty one is the end. ~/.editrc counts.
 */
#ifndef VV_CLI_LINE_EDITOR_H
#define VV_CLI_LINE_EDITOR_H

#include <stdbool.h>

#include "base/slice.h"
#include "cli/bytes.h"

typedef struct vv_line_editor vv_line_editor;

/*
 * What the word before the cursor, the last of `line`, may become: each candidate is told to `add` in full.
 * False: nobody knows.
 */
typedef void (*vv_candidate_fn)(void *to, vv_slice candidate);
typedef bool (*vv_complete_fn)(void *arg, vv_slice line, vv_slice word, vv_candidate_fn add, void *to);

/* history_path NULL: none is kept; a file that can't be read is an empty one. NULL: no memory, or no
 * terminal that it knows. */
vv_line_editor *vv_line_editor_open(const char *prompt, const char *history_path, vv_complete_fn complete,
                                    void *arg);

/* The next line without its end, borrowed until the next call; false: the end. */
bool vv_line_editor_next(vv_line_editor *e, vv_slice *line_out);

/* Saves the history, readable for its owner alone. */
void vv_line_editor_close(vv_line_editor *e);

#endif
