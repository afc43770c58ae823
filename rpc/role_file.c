#include "rpc/role_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"

#define FILE_BYTES_MAX 1024
#define PATH_BYTES     5120
#define FIRST_LINE     "varve role 1\n"

/* ---- as text ---- */

static int format(const vv_role_file *file, char *buf, size_t buf_bytes) {
    int bytes = snprintf(buf, buf_bytes, FIRST_LINE "role = %s\nepoch = %" PRIu64 "\nfollow = %s\n",
                         file->role == VV_ROLE_PRIMARY ? "primary" : "follower", file->epoch, file->follow);
    uint64_t checksum = vv_checksum(buf, (size_t)bytes, 0);
    return bytes + snprintf(buf + bytes, buf_bytes - (size_t)bytes, "checksum = %016" PRIx64 "\n", checksum);
}

/* What was formatted, and nothing else: whatever is read is formatted again and compared. */
static bool parse(const char *text, vv_role_file *out) {
    char role[16] = "", again[FILE_BYTES_MAX];
    memset(out, 0, sizeof *out);
    int fields = sscanf(text, FIRST_LINE "role = %15s\nepoch = %" SCNu64 "\nfollow =%*1[ ]%255[^\n]", role,
                        &out->epoch, out->follow);
    if (fields < 2)
        return false;
    out->role = strcmp(role, "primary") == 0 ? VV_ROLE_PRIMARY : VV_ROLE_FOLLOWER;
    format(out, again, sizeof again);
    return strcmp(again, text) == 0;
}

/* ---- on disk ---- */

static vv_status failed(vv_error *err, const char *path) {
    return vv_fail(err, vv_status_errno(errno), "%s", path);
}

static vv_status path_of(const char *data, const char *name, char path[PATH_BYTES], vv_error *err) {
    if (snprintf(path, PATH_BYTES, "%s/%s", data, name) >= PATH_BYTES)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "%s: too long a path", data);
    return VV_STATUS_OK;
}

vv_status vv_role_file_read(const char *data, vv_role_file *out, vv_error *err) {
    char path[PATH_BYTES], text[FILE_BYTES_MAX];
    VV_TRY(path_of(data, VV_ROLE_FILE_NAME, path, err));
    FILE *file = fopen(path, "re");
    if (!file)
        return failed(err, path);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    bool read_failed = ferror(file) != 0;
    fclose(file);
    text[bytes] = '\0';
    if (read_failed)
        return vv_fail(err, vv_status_make(VV_IO, VV_SUB_NONE, 0), "%s: cannot be read", path);
    if (!parse(text, out))
        return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                       "%s: damaged. It says whether this database is a primary or follows one: make sure "
                       "which, and remove the file of a primary, or start a follower with an empty directory",
                       path);
    return VV_STATUS_OK;
}

static vv_status write_synced(const char *path, const char *text, size_t bytes, vv_error *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return failed(err, path);
    ssize_t written = write(fd, text, bytes);
    vv_status st = VV_STATUS_OK;
    if (written >= 0 && (size_t)written != bytes)
        errno = ENOSPC;
    if (written < 0 || (size_t)written != bytes || fsync(fd) != 0)
        st = failed(err, path);
    close(fd);
    return st;
}

static vv_status sync_dir(const char *path, vv_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return failed(err, path);
    vv_status st = fsync(fd) == 0 ? VV_STATUS_OK : failed(err, path);
    close(fd);
    return st;
}

vv_status vv_role_file_write(const char *data, const vv_role_file *file, vv_error *err) {
    char path[PATH_BYTES], beside[PATH_BYTES], text[FILE_BYTES_MAX];
    VV_TRY(path_of(data, VV_ROLE_FILE_NAME, path, err));
    VV_TRY(path_of(data, VV_ROLE_FILE_NAME ".tmp", beside, err));
    int bytes = format(file, text, sizeof text);
    VV_TRY(write_synced(beside, text, (size_t)bytes, err));
    if (rename(beside, path) != 0)
        return failed(err, path);
    return sync_dir(data, err);
}

/* ---- what it means ---- */

vv_role vv_role_at_start(const vv_role_file *file, const char *follow, uint64_t epoch,
                         uint64_t promised_epoch) {
    /* Of a promotion that didn't come to its epoch nothing holds. A higher one than it began is its own, too:
     * before one of another primary the file would say something else. */
    bool promoted = file && file->role == VV_ROLE_PRIMARY && file->epoch <= epoch;
    bool was_primary = !file || promoted;
    bool told_otherwise = follow[0] && !(promoted && strcmp(file->follow, follow) == 0);
    if (was_primary && !told_otherwise && promised_epoch <= epoch)
        return VV_ROLE_PRIMARY;
    return follow[0] ? VV_ROLE_FOLLOWER : VV_ROLE_SUPERSEDED;
}
