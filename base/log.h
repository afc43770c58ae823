/*
 * log.h - where a library that owns no terminal says what happens: a function of its host's.
 */
#ifndef VV_BASE_LOG_H
#define VV_BASE_LOG_H

#include "base/compiler.h"

typedef enum vv_log_level { VV_LOG_DEBUG, VV_LOG_INFO, VV_LOG_WARN, VV_LOG_ERROR } vv_log_level;

/* write: called with one complete line without its newline, from any thread, never re-entered by Varve on
 * the same thread. NULL drops everything. The logger is borrowed by whom it is given to. */
typedef struct vv_logger {
    void (*write)(void *arg, vv_log_level level, const char *line);
    void *arg;
    vv_log_level least; /* lines below this level are dropped before they are formatted */
} vv_logger;

/* Lines are cut at 1023 bytes. lg may be NULL. */
void vv_log(const vv_logger *lg, vv_log_level level, const char *fmt, ...) VV_PRINTF(3, 4);

#endif
