#include "rpc/stderr_log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"

void vv_stderr_log_write(void *arg, vv_log_level level, const char *line) {
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    (void)arg;
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char text[1200];
    size_t used = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    int rest = snprintf(text + used, sizeof text - used, ".%03ldZ %-5s %s\n", now.tv_nsec / 1000000,
                        names[level], line);
    used = VV_MIN(used + (size_t)rest, sizeof text - 1);
    text[used - 1] = '\n';
    ssize_t written = write(STDERR_FILENO, text, used);
    (void)written; /* there is nobody left to tell */
}
