#include "rpc/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define PATH_BYTES 5120

/* 0, or an errno. */
static int write_synced(const char *path, vv_slice bytes) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return errno;
    int sys = 0;
    ssize_t written = write(fd, bytes.data, bytes.bytes);
    if (written < 0)
        sys = errno;
    else if ((size_t)written != bytes.bytes)
        sys = ENOSPC;
    else if (fsync(fd) != 0)
        sys = errno;
    close(fd);
    return sys;
}

static int sync_directory(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int sys = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return sys;
}

vv_status vv_small_file_write(const char *dir, const char *name, vv_slice bytes, vv_error *err) {
    char path[PATH_BYTES], fresh[PATH_BYTES + 8];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "%s: too long a path", dir);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    int sys = write_synced(fresh, bytes);
    if (sys == 0 && rename(fresh, path) != 0)
        sys = errno;
    if (sys == 0)
        sys = sync_directory(dir);
    return sys == 0 ? VV_STATUS_OK : vv_fail(err, vv_status_errno(sys), "write %s", path);
}
