#include "rpc/stderr_log.h"

#include <string.h>
#include <unistd.h>

void vv_stderr_log_init(vv_stderr_log *l, vv_log_format format, uint32_t lines_per_second) {
    atomic_init(&l->format, format);
    for (size_t i = 0; i < VV_ARRAY_COUNT(l->limits); i++)
        vv_line_limit_init(&l->limits[i], lines_per_second);
}

void vv_stderr_log_set(vv_stderr_log *l, vv_log_format format, uint32_t lines_per_second) {
    atomic_store_explicit(&l->format, format, memory_order_relaxed);
    for (size_t i = 0; i < VV_ARRAY_COUNT(l->limits); i++)
        vv_line_limit_set(&l->limits[i], lines_per_second);
}

void vv_stderr_log_event(void *arg, vv_log_level level, const char *name, const vv_log_field *fields,
                         size_t count) {
    const vv_stderr_log *l = arg;
    char line[VV_LOG_LINE_BYTES];
    vv_log_format format = atomic_load_explicit(&l->format, memory_order_relaxed);
    size_t bytes = vv_log_format_line(line, format, vv_clock_unix_ms(), level, name, fields, count);
    ssize_t written = write(STDERR_FILENO, line, bytes);
    (void)written; /* there is nobody left to tell */
}

static void say_dropped(vv_stderr_log *l, vv_log_level level) {
    uint64_t dropped = vv_line_limit_dropped(&l->limits[level]);
    if (dropped == 0)
        return;
    vv_log_field fields[] = {vv_log_text("what", vv_slice_str("log")), vv_log_number("count", dropped)};
    vv_stderr_log_event(l, level, "lines_dropped", fields, VV_ARRAY_COUNT(fields));
}

void vv_stderr_log_write(void *arg, vv_log_level level, const char *line) {
    vv_stderr_log *l = arg;
    if (!vv_line_limit_take(&l->limits[level], vv_clock_mono_ns()))
        return;
    say_dropped(l, level);
    vv_log_field field = vv_log_text("msg", vv_slice_str(line));
    vv_stderr_log_event(l, level, "log", &field, 1);
}

void vv_stderr_log_deinit(vv_stderr_log *l) {
    for (int level = VV_LOG_DEBUG; level <= VV_LOG_ERROR; level++)
        say_dropped(l, (vv_log_level)level);
}
