#include "bench/engine/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/engine/kinds.h"
#include "bench/report.h"

#define SETTLE_TICK_MS   20
#define SETTLE_QUIET_MS  1000
#define SETTLE_CPU_SHARE 10 /* one part in so many of a tick: timers of idle threads */

const char *const store_peer_names[] = {"leveldb", "lmdb", "rocksdb", NULL};

static const store_kind *const kinds[] = {
    &store_varve,
#ifdef VARVE_HAVE_LEVELDB
    &store_leveldb,
#endif
#ifdef VARVE_HAVE_LMDB
    &store_lmdb,
#endif
#ifdef VARVE_HAVE_ROCKSDB
    &store_rocksdb,
#endif
    &store_device,  NULL,
};

const store_kind *const *store_kinds(void) {
    return kinds;
}

const store_kind *store_find(const char *name) {
    for (size_t i = 0; kinds[i]; i++)
        if (strcmp(kinds[i]->name, name) == 0)
            return kinds[i];
    return NULL;
}

uint64_t store_written_bytes(void) {
    char line[128];
    uint64_t bytes = 0;
    FILE *f = fopen("/proc/self/io", "r");
    if (!f)
        report_die("/proc/self/io can't be read");
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "write_bytes: %" SCNu64, &bytes) == 1)
            break;
    fclose(f);
    return bytes;
}

uint64_t store_cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * VV_NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t store_settle(void) {
    const struct timespec tick = {.tv_nsec = SETTLE_TICK_MS * 1000 * 1000};
    uint64_t busy_until = vv_clock_mono_ns(), cpu = store_cpu_ns(), written = store_written_bytes();
    while (vv_clock_mono_ns() - busy_until < SETTLE_QUIET_MS * VV_NS_PER_MS) {
        nanosleep(&tick, NULL);
        uint64_t now_cpu = store_cpu_ns(), now_written = store_written_bytes();
        if (now_cpu - cpu > SETTLE_TICK_MS * VV_NS_PER_MS / SETTLE_CPU_SHARE || now_written != written)
            busy_until = vv_clock_mono_ns();
        cpu = now_cpu;
        written = now_written;
    }
    return busy_until;
}

void store_evict(const char *dir) {
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        int fd = openat(dirfd(d), e->d_name, O_RDONLY);
        if (fd < 0)
            continue;
        fdatasync(fd); /* dirty pages would stay */
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    closedir(d);
}
