/*
 * Lines on stderr: their limit, and that what it drops is said.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "rpc/stderr_log.h"
#include "tests/support/tempdir.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(stderr_log, .init = setup, .fini = vv_tempdir_cleanup);

static char written[1 << 20];

/* What `lines` calls of vv_log() at each of two levels leave on stderr. */
static void log_many(vv_log_format format, uint32_t per_second, int lines) {
    vv_stderr_log l;
    vv_stderr_log_init(&l, format, per_second);
    vv_logger logger = {.write = vv_stderr_log_write, .arg = &l, .least = VV_LOG_INFO};
    int before = dup(STDERR_FILENO);
    int fd = open(vv_tempdir_path("stderr"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert(before >= 0 && fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
    for (int i = 0; i < lines; i++) {
        vv_log(&logger, VV_LOG_INFO, "line \"%d\"", i);
        vv_log(&logger, VV_LOG_WARN, "warning %d", i);
        vv_log(&logger, VV_LOG_DEBUG, "not asked for");
    }
    vv_stderr_log_deinit(&l);
    dup2(before, STDERR_FILENO);
    close(before);
    ssize_t bytes = pread(fd, written, sizeof written - 1, 0);
    close(fd);
    cr_assert_geq(bytes, 0);
    written[bytes] = '\0';
}

static uint64_t count(const char *what) {
    uint64_t n = 0;
    for (const char *at = written; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

static uint64_t dropped(const char *level) {
    char head[64];
    uint64_t sum = 0, n;
    snprintf(head, sizeof head, "Z %s lines_dropped what=log count=", level);
    for (const char *at = written; (at = strstr(at, head)) != NULL; at++)
        if (sscanf(at + strlen(head), "%" SCNu64, &n) == 1)
            sum += n;
    return sum;
}

Test(stderr_log, words_are_the_message_of_an_event) {
    log_many(VV_LOG_FORMAT_TEXT, 1000, 1);
    cr_assert_eq(count("\n"), 2, "%s", written);
    cr_assert_not_null(strstr(written, "Z INFO  log msg=\"line \\\"0\\\"\"\n"), "%s", written);
    log_many(VV_LOG_FORMAT_JSON, 1000, 1);
    cr_assert_not_null(strstr(written, "\"level\":\"WARN\",\"event\":\"log\",\"msg\":\"warning 0\"}\n"), "%s",
                       written);
}

Test(stderr_log, each_level_has_a_limit_and_what_is_beyond_is_counted) {
    enum { LINES = 3000 };
    log_many(VV_LOG_FORMAT_TEXT, 10, LINES);
    cr_assert_eq(count("Z INFO  log ") + dropped("INFO "), LINES);
    cr_assert_eq(count("Z WARN  log ") + dropped("WARN "), LINES);
    cr_assert_geq(count("Z INFO  log "), 10, "a level does not take the lines of another");
    cr_assert_geq(count("Z WARN  log "), 10);
    cr_assert_gt(dropped("INFO "), 0);
}
