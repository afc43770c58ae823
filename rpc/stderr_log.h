/*
 * stderr_log.h - the log of a server: one line on stderr, "2026-11-22T14:03:07.123Z INFO  text".
 */
#ifndef VV_RPC_STDERR_LOG_H
#define VV_RPC_STDERR_LOG_H

#include "base/log.h"

/* A vv_logger.write. Each line is one write(2), so that lines of several threads never mix. */
void vv_stderr_log_write(void *arg, vv_log_level level, const char *line);

#endif
