/*
 * log.h - where a library that owns no terminal says what happens: a function of its host's.
 */
#ifndef VV_BASE_LOG_H
#define VV_BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/slice.h"

typedef enum vv_log_level { VV_LOG_DEBUG, VV_LOG_INFO, VV_LOG_WARN, VV_LOG_ERROR } vv_log_level;

/* One thing that is to be said of an event. */
typedef struct vv_log_field {
    const char *key; /* lower-case letters, digits and '_' */
    vv_slice text;   /* any bytes, which whoever writes them makes harmless; or else */
    uint64_t number;
    bool is_number;
} vv_log_field;

static inline vv_log_field vv_log_text(const char *key, vv_slice text) {
    return (vv_log_field){.key = key, .text = text};
}

static inline vv_log_field vv_log_number(const char *key, uint64_t number) {
    return (vv_log_field){.key = key, .number = number, .is_number = true};
}

/* write: called with one complete line without its newline, from any thread, never re-entered by Varve on
 * the same thread. NULL drops everything. The logger is borrowed by whom it is given to. */
typedef struct vv_logger {
    void (*write)(void *arg, vv_log_level level, const char *line);
    void *arg;
    _Atomic vv_log_level least; /* lines below this level are dropped before they are formatted; may change */
    /* The same for something that has a name and fields; NULL drops it. */
    void (*event)(void *arg, vv_log_level level, const char *name, const vv_log_field *fields, size_t count);
} vv_logger;

/* Would a line of this level be written? lg may be NULL. */
static inline bool vv_log_wants(const vv_logger *lg, vv_log_level level) {
    return lg && level >= atomic_load_explicit(&lg->least, memory_order_relaxed);
}

/* Lines are cut at 1023 bytes. lg may be NULL. */
void vv_log(const vv_logger *lg, vv_log_level level, const char *fmt, ...) VV_PRINTF(3, 4);

/* name: as a field's key. lg may be NULL. */
void vv_log_event(const vv_logger *lg, vv_log_level level, const char *name, const vv_log_field *fields,
                  size_t count);

#endif
