#include "rpc/role_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checksum.h"
#include "rpc/small_file.h"

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

vv_status vv_role_file_read(const char *data, vv_role_file *out, vv_error *err) {
    char path[PATH_BYTES], text[FILE_BYTES_MAX];
    if (snprintf(path, sizeof path, "%s/" VV_ROLE_FILE_NAME, data) >= (int)sizeof path)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "%s: too long a path", data);
    FILE *file = fopen(path, "re");
    if (!file)
        return vv_fail(err, vv_status_errno(errno), "%s", path);
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

vv_status vv_role_file_write(const char *data, const vv_role_file *file, vv_error *err) {
    char text[FILE_BYTES_MAX];
    int bytes = format(file, text, sizeof text);
    return vv_small_file_write(data, VV_ROLE_FILE_NAME, vv_slice_make(text, (size_t)bytes), err);
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
