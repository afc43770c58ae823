#include <criterion/criterion.h>
#include <stdio.h>

#include "base/log.h"

static char lines[8][1100];
static vv_log_level levels[8];
static int line_count;

static void keep(void *arg, vv_log_level level, const char *line) {
    cr_assert_eq(arg, &line_count);
    levels[line_count] = level;
    snprintf(lines[line_count++], sizeof lines[0], "%s", line);
}

Test(log, lines_from_the_least_level_on_arrive_formatted) {
    vv_logger lg = {.write = keep, .arg = &line_count, .least = VV_LOG_WARN};
    vv_log(&lg, VV_LOG_DEBUG, "a");
    vv_log(&lg, VV_LOG_INFO, "b");
    vv_log(&lg, VV_LOG_WARN, "flush took %d %s", 7, "ms");
    vv_log(&lg, VV_LOG_ERROR, "d");
    cr_assert_eq(line_count, 2);
    cr_assert_str_eq(lines[0], "flush took 7 ms");
    cr_assert_eq(levels[0], VV_LOG_WARN);
    cr_assert_str_eq(lines[1], "d");
    cr_assert_eq(levels[1], VV_LOG_ERROR);
}

Test(log, a_long_line_is_cut) {
    vv_logger lg = {.write = keep, .arg = &line_count};
    vv_log(&lg, VV_LOG_ERROR, "%01500d", 0);
    cr_assert_eq(strlen(lines[0]), 1023);
}

Test(log, nobody_has_to_listen) {
    vv_logger deaf = {.write = NULL};
    vv_log(NULL, VV_LOG_ERROR, "x");
    vv_log(&deaf, VV_LOG_ERROR, "x");
    vv_log_event(NULL, VV_LOG_ERROR, "x", NULL, 0);
    vv_log_event(&deaf, VV_LOG_ERROR, "x", NULL, 0);
}

static size_t event_fields;

static void keep_event(void *arg, vv_log_level level, const char *name, const vv_log_field *fields,
                       size_t count) {
    cr_assert_eq(arg, &line_count);
    levels[line_count] = level;
    snprintf(lines[line_count++], sizeof lines[0], "%s %s=%.*s %s=%d", name, fields[0].key,
             (int)fields[0].text.bytes, (const char *)fields[0].text.data, fields[1].key,
             (int)fields[1].number);
    event_fields = count;
}

Test(log, an_event_comes_with_its_fields_from_the_least_level_on) {
    vv_logger lg = {.event = keep_event, .arg = &line_count, .least = VV_LOG_WARN};
    vv_log_field fields[] = {vv_log_text("who", vv_slice_str("me")), vv_log_number("count", 7)};
    vv_log_event(&lg, VV_LOG_INFO, "quiet", fields, 2);
    cr_assert_eq(line_count, 0);
    vv_log_event(&lg, VV_LOG_WARN, "loud", fields, 2);
    cr_assert_str_eq(lines[0], "loud who=me count=7");
    cr_assert_eq(levels[0], VV_LOG_WARN);
    cr_assert_eq(event_fields, 2);
}
