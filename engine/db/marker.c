#include "engine/db/marker.h"

#include <stdio.h>
#include <string.h>

#include "base/checksum.h"
#include "base/codec.h"

#define MAGIC          "VARVMRK"
#define MAGIC_BYTES    7
#define FORMAT_VERSION 1
#define HEAD_BYTES     28
#define CHECKSUM_BYTES 8
#define BYTES_MAX      (HEAD_BYTES + 2 * VV_MARKER_NAME_BYTES_MAX + CHECKSUM_BYTES)
#define PATH_BYTES     4096

_Static_assert(HEAD_BYTES == MAGIC_BYTES + 1 + 4 + 4 + 8 + 2 + 2, "marker head layout");

static size_t encode(const vv_marker *m, uint8_t bytes[BYTES_MAX]) {
    size_t first = strlen(m->names[0]), second = strlen(m->names[1]);
    size_t end = HEAD_BYTES + first + second;
    memcpy(bytes, MAGIC, MAGIC_BYTES);
    bytes[MAGIC_BYTES] = FORMAT_VERSION;
    vv_put_be32(bytes + 8, m->step);
    vv_put_be32(bytes + 12, 0);
    vv_put_be64(bytes + 16, m->lsn);
    vv_put_be16(bytes + 24, (uint16_t)first);
    vv_put_be16(bytes + 26, (uint16_t)second);
    memcpy(bytes + HEAD_BYTES, m->names[0], first);
    memcpy(bytes + HEAD_BYTES + first, m->names[1], second);
    vv_put_be64(bytes + end, vv_checksum(bytes, end, 0));
    return end + CHECKSUM_BYTES;
}

vv_status vv_marker_write(vv_io_backend *io, const char *dir, const char *name, const vv_marker *m,
                          vv_error *err) {
    char path[PATH_BYTES], temp[PATH_BYTES];
    uint8_t bytes[BYTES_MAX];
    vv_file *file;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(temp, sizeof temp, "%s/%s" VV_MARKER_TEMP_SUFFIX, dir, name);
    VV_TRY(vv_file_open(io, temp, VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_TRUNCATE, &file, err));
    vv_status st = vv_file_write(file, bytes, encode(m, bytes), 0);
    if (vv_ok(st))
        st = vv_file_sync(file, VV_SYNC_FULL);
    vv_file_close(file);
    if (!vv_ok(st))
        return vv_fail(err, st, "%s: write failed", temp);
    VV_TRY(vv_path_rename(io, temp, path, err));
    return vv_dir_sync(io, dir, err);
}

/* After this the bytes are those that were written. */
static vv_status check(const uint8_t *bytes, size_t count) {
    if (count < HEAD_BYTES + CHECKSUM_BYTES)
        return vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    if (memcmp(bytes, MAGIC, MAGIC_BYTES) != 0 || bytes[MAGIC_BYTES] == 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_MAGIC, 0);
    if (bytes[MAGIC_BYTES] > FORMAT_VERSION)
        return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
    if (vv_checksum(bytes, count - CHECKSUM_BYTES, 0) != vv_get_be64(bytes + count - CHECKSUM_BYTES))
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
    return VV_STATUS_OK;
}

static vv_status decode(const uint8_t *bytes, size_t count, vv_marker *out) {
    VV_TRY(check(bytes, count));
    size_t first = vv_get_be16(bytes + 24), second = vv_get_be16(bytes + 26);
    if (first > VV_MARKER_NAME_BYTES_MAX || second > VV_MARKER_NAME_BYTES_MAX ||
        HEAD_BYTES + first + second + CHECKSUM_BYTES != count)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    out->step = vv_get_be32(bytes + 8);
    out->lsn = vv_get_be64(bytes + 16);
    memcpy(out->names[0], bytes + HEAD_BYTES, first);
    memcpy(out->names[1], bytes + HEAD_BYTES + first, second);
    return VV_STATUS_OK;
}

vv_status vv_marker_read(vv_io_backend *io, const char *dir, const char *name, vv_marker *out,
                         bool *there_out, vv_error *err) {
    char path[PATH_BYTES];
    uint8_t bytes[BYTES_MAX + 1];
    vv_file *file;
    size_t count;
    memset(out, 0, sizeof *out);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    VV_TRY(vv_path_exists(io, path, there_out, err));
    if (!*there_out)
        return VV_STATUS_OK;
    VV_TRY(vv_file_open(io, path, VV_OPEN_READ, &file, err));
    vv_status st = vv_file_read(file, bytes, sizeof bytes, 0, &count);
    vv_file_close(file);
    if (vv_ok(st))
        st = decode(bytes, count, out);
    return vv_ok(st) ? st : vv_fail(err, st, "%s: %s", path, vv_sub_text(st.sub));
}

vv_status vv_marker_remove(vv_io_backend *io, const char *dir, const char *name, vv_error *err) {
    char path[PATH_BYTES];
    /* What it asked for lasts before it goes. */
    VV_TRY(vv_dir_sync(io, dir, err));
    snprintf(path, sizeof path, "%s/%s", dir, name);
    VV_TRY(vv_path_unlink(io, path, err));
    return vv_dir_sync(io, dir, err);
}
