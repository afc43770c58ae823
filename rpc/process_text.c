/*
 * process_text.c - what the kernel says of this process, under the names of Prometheus' client libraries.
 *
 * What /proc does not tell (in a container without it, say) is left out.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "rpc/metrics_source.h"

/* A small file of /proc, with a zero behind it. False: it can't be read. */
static bool slurp(const char *path, char *buf, size_t buf_bytes) {
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t bytes = fread(buf, 1, buf_bytes - 1, f);
    buf[bytes] = '\0';
    (void)fclose(f);
    return bytes > 0;
}

/* Field `number` (from 1) of /proc/self/stat, which begins anew behind the name in its parentheses. */
static uint64_t stat_field(const char *stat, int number) {
    const char *at = strrchr(stat, ')');
    for (int field = 2; at && field < number; field++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at ? strtoull(at, NULL, 10) : 0;
}

static double seconds(clockid_t clock) {
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void from_stat(vv_exposition *e) {
    char stat[1024];
    if (!slurp("/proc/self/stat", stat, sizeof stat))
        return;
    double ticks = (double)sysconf(_SC_CLK_TCK);
    vv_exposition_family(e, "process_cpu_seconds_total", "counter", "Processor time of the process.");
    vv_exposition_real(e, NULL, 0, (double)(stat_field(stat, 14) + stat_field(stat, 15)) / ticks);
    vv_exposition_family(e, "process_resident_memory_bytes", "gauge", "Resident memory of the process.");
    vv_exposition_number(e, NULL, 0, stat_field(stat, 24) * (uint64_t)sysconf(_SC_PAGESIZE));
    vv_exposition_family(e, "process_virtual_memory_bytes", "gauge", "Address space of the process.");
    vv_exposition_number(e, NULL, 0, stat_field(stat, 23));
    vv_exposition_family(e, "process_threads", "gauge", "Threads of the process.");
    vv_exposition_number(e, NULL, 0, stat_field(stat, 20));
    vv_exposition_family(e, "process_start_time_seconds", "gauge",
                         "When the process was started, since 1970.");
    vv_exposition_real(
        e, NULL, 0, seconds(CLOCK_REALTIME) - seconds(CLOCK_BOOTTIME) + (double)stat_field(stat, 22) / ticks);
}

void vv_process_text(vv_exposition *e) {
    struct rlimit files;
    DIR *dir = opendir("/proc/self/fd");
    from_stat(e);
    if (dir) {
        uint64_t count = 0;
        for (const struct dirent *d = readdir(dir); d; d = readdir(dir))
            count += d->d_name[0] != '.';
        closedir(dir);
        vv_exposition_family(e, "process_open_fds", "gauge", "Open file descriptors.");
        vv_exposition_number(e, NULL, 0, count - 1); /* without the directory's own */
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        vv_exposition_family(e, "process_max_fds", "gauge", "How many there may be.");
        vv_exposition_number(e, NULL, 0, files.rlim_cur);
    }
}
