/*
 * stderr_log.h - the log of a server: one line on stderr for each event, as text or JSON (log_format.h).
 *
 * The lines of vv_log() are events named "log" with their words as `msg`. Of each level there are at most so
 * many a second, and what is dropped is counted and said with the level's next line, or at the end. Events
 * (vv_log_event()) are not limited here: who logs what clients cause sets a limit of its own (call_log.h).
 */
#ifndef VV_RPC_STDERR_LOG_H
#define VV_RPC_STDERR_LOG_H

#include "rpc/line_limit.h"
#include "rpc/log_format.h"

typedef struct vv_stderr_log {
    _Atomic vv_log_format format;
    vv_line_limit limits[VV_LOG_ERROR + 1];
} vv_stderr_log;

void vv_stderr_log_init(vv_stderr_log *l, vv_log_format format, uint32_t lines_per_second);

/* From the next line on. Any thread. */
void vv_stderr_log_set(vv_stderr_log *l, vv_log_format format, uint32_t lines_per_second);

/* Says what was dropped last. */
void vv_stderr_log_deinit(vv_stderr_log *l);

/* A vv_logger's, with the vv_stderr_log as arg. Each line is one write(2), so that lines of several threads
 * don't mix. */
void vv_stderr_log_write(void *arg, vv_log_level level, const char *line);
void vv_stderr_log_event(void *arg, vv_log_level level, const char *name, const vv_log_field *fields,
                         size_t count);

#endif
