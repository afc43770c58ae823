#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void vv_log(const vv_logger *lg, vv_log_level level, const char *fmt, ...) {
    if (!vv_log_wants(lg, level) || !lg->write)
        return;
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    lg->write(lg->arg, level, line);
}

void vv_log_event(const vv_logger *lg, vv_log_level level, const char *name, const vv_log_field *fields,
                  size_t count) {
    if (vv_log_wants(lg, level) && lg->event)
        lg->event(lg->arg, level, name, fields, count);
}
