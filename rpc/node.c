#include "rpc/node.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "rpc/small_file.h"

#define FILE_NAME  "NODE"
#define PATH_BYTES 4352

bool vv_node_name_valid(vv_slice name) {
    const char *text = (const char *)name.data;
    bool valid = name.bytes > 0 && name.bytes <= VARVE_SLOT_NAME_BYTES_MAX;
    for (size_t i = 0; i < name.bytes && valid; i++)
        valid = isalnum((unsigned char)text[i]) || (text[i] != '\0' && strchr("._:-", text[i]));
    return valid && !vv_slice_equal(name, vv_slice_str(VARVE_ARCHIVE_SLOT));
}

/* The first line of the file. */
static vv_status read_name(const char *path, char out[VARVE_SLOT_NAME_BYTES_MAX + 1], vv_error *err) {
    char text[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vv_fail(err, vv_status_errno(errno), "open %s", path);
    ssize_t got = read(fd, text, sizeof text - 1);
    int sys = errno;
    close(fd);
    if (got < 0)
        return vv_fail(err, vv_status_errno(sys), "read %s", path);
    text[strcspn(text, "\n")] = '\0';
    if (!vv_node_name_valid(vv_slice_str(text)))
        return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                       "%s: holds no name of 1 to %d letters, digits and ._:-", path,
                       VARVE_SLOT_NAME_BYTES_MAX);
    snprintf(out, VARVE_SLOT_NAME_BYTES_MAX + 1, "%.*s", VARVE_SLOT_NAME_BYTES_MAX, text);
    return VV_STATUS_OK;
}

vv_status vv_node_name(const char *data, const char *configured, char out[VARVE_SLOT_NAME_BYTES_MAX + 1],
                       vv_error *err) {
    char path[PATH_BYTES];
    uint64_t random;
    out[0] = '\0';
    if (configured[0]) {
        if (!vv_node_name_valid(vv_slice_str(configured)))
            return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0),
                           "NODE_NAME = %s: allowed are 1 to %d letters, digits and ._:-", configured,
                           VARVE_SLOT_NAME_BYTES_MAX);
        snprintf(out, VARVE_SLOT_NAME_BYTES_MAX + 1, "%s", configured);
        return VV_STATUS_OK;
    }
    snprintf(path, sizeof path, "%s/" FILE_NAME, data);
    if (access(path, F_OK) == 0)
        return read_name(path, out, err);
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return vv_fail(err, vv_status_errno(errno), "draw a node's name");
    snprintf(out, VARVE_SLOT_NAME_BYTES_MAX + 1, "node-%016" PRIx64, random);
    char line[VARVE_SLOT_NAME_BYTES_MAX + 2];
    snprintf(line, sizeof line, "%s\n", out);
    return vv_small_file_write(data, FILE_NAME, vv_slice_str(line), err);
}
