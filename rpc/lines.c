#include "rpc/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0);
}

/* From fd until it ends; the file may grow or shrink meanwhile. */
static vv_status read_all(int fd, size_t bytes_max, char **data_out, size_t *bytes_out, vv_error *err) {
    size_t capacity = 4096, used = 0;
    char *data = vv_alloc(capacity);
    while (data) {
        ssize_t got = read(fd, data + used, capacity - used - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            vv_status st = vv_fail(err, vv_status_errno(errno), "read");
            vv_free(data);
            return st;
        }
        used += (size_t)got;
        if (got == 0) {
            data[used] = '\0';
            *data_out = data;
            *bytes_out = used;
            return VV_STATUS_OK;
        }
        if (used > bytes_max) {
            vv_free(data);
            return vv_fail(err, invalid(), "the file has more than %zu bytes", bytes_max);
        }
        if (used + 1 == capacity) {
            char *larger = vv_realloc(data, 2 * capacity);
            if (!larger)
                vv_free(data);
            data = larger;
            capacity *= 2;
        }
    }
    return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "read");
}

vv_status vv_file_read(const char *path, size_t bytes_max, char **data_out, size_t *bytes_out,
                       vv_error *err) {
    *data_out = NULL;
    *bytes_out = 0;
    /* Not blocking: a pipe without a writer would hold up the start or a reload for ever. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return vv_fail(err, vv_status_errno(errno), "%s", path);
    struct stat file;
    vv_status st;
    if (fstat(fd, &file) == 0 && !S_ISREG(file.st_mode))
        st = vv_fail(err, invalid(), "not a file");
    else
        st = read_all(fd, bytes_max, data_out, bytes_out, err);
    close(fd);
    return vv_ok(st) ? st : vv_wrap(err, st, "%s", path);
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

/* The words of one line, which ends at `end`. */
static vv_status split(const char *at, const char *end, vv_slice *words, size_t *count_out, vv_error *err) {
    *count_out = 0;
    for (;;) {
        while (at < end && is_space(*at))
            at++;
        if (at == end || *at == '#')
            return VV_STATUS_OK;
        if (*count_out == VV_LINES_WORDS_MAX)
            return vv_fail(err, invalid(), "too many words");
        const char *word = at;
        if (*at == '"') {
            word = ++at;
            while (at < end && *at != '"')
                at++;
            if (at == end)
                return vv_fail(err, invalid(), "a quote is not closed");
            words[(*count_out)++] = vv_slice_make(word, (size_t)(at - word));
            at++;
        } else {
            while (at < end && !is_space(*at))
                at++;
            words[(*count_out)++] = vv_slice_make(word, (size_t)(at - word));
        }
    }
}

vv_status vv_lines_read(const char *path, vv_lines_fn fn, void *arg, vv_error *err) {
    char *data;
    size_t bytes;
    VV_TRY(vv_file_read(path, VV_LINES_FILE_MAX, &data, &bytes, err));
    vv_status st = VV_STATUS_OK;
    size_t line = 1;
    for (const char *at = data; vv_ok(st) && at < data + bytes; line++) {
        const char *end = memchr(at, '\n', bytes - (size_t)(at - data));
        if (!end)
            end = data + bytes;
        vv_slice words[VV_LINES_WORDS_MAX];
        size_t count;
        st = split(at, end, words, &count, err);
        if (vv_ok(st) && count > 0)
            st = fn(arg, words, count, err);
        if (!vv_ok(st))
            st = vv_wrap(err, st, "%s:%zu", path, line);
        at = end + 1;
    }
    vv_free(data);
    return st;
}
