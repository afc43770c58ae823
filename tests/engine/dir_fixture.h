/*
 * dir_fixture.h - for tests that cut something short again and again: the directory of a database, and a copy
 * of it as it was before.
 */
#ifndef VV_TESTS_ENGINE_DIR_FIXTURE_H
#define VV_TESTS_ENGINE_DIR_FIXTURE_H

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/engine/db_fixture.h"

static char fx_dir[512], fx_pristine[512];

static inline void fx_dirs(void) {
    vv_tempdir();
    snprintf(fx_dir, sizeof fx_dir, "%s", vv_tempdir_path("db"));
    snprintf(fx_pristine, sizeof fx_pristine, "%s", vv_tempdir_path("pristine"));
}

__attribute__((format(printf, 1, 2))) static inline void fx_shell(const char *fmt, ...) {
    char command[2000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    cr_assert_eq(system(command), 0, "%s", command);
}

/* In fx_dir. */
static inline bool fx_there(const char *name) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", fx_dir, name);
    return access(path, F_OK) == 0;
}

#endif
