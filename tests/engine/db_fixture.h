/*
 * db_fixture.h - a database in a directory of the test's own.
 */
#ifndef VV_TESTS_ENGINE_DB_FIXTURE_H
#define VV_TESTS_ENGINE_DB_FIXTURE_H

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/varve.h"
#include "tests/support/tempdir.h"

static varve_db *fx_db;
static varve_error fx_err;

/* key, value, ..., NULL; backend posix or uring from $VARVE_TEST_IO_BACKEND, small segments. */
static inline varve_options *fx_options(const char *key, ...) {
    varve_options *o = varve_options_create();
    const char *backend = getenv("VARVE_TEST_IO_BACKEND");
    cr_assert(varve_ok(varve_options_set(o, "IO_BACKEND", backend ? backend : "auto", &fx_err)), "%s",
              fx_err.text);
    cr_assert(varve_ok(varve_options_set(o, "WAL_SEGMENT_SIZE", "1MiB", &fx_err)), "%s", fx_err.text);
    va_list args;
    va_start(args, key);
    for (; key; key = va_arg(args, const char *))
        cr_assert(varve_ok(varve_options_set(o, key, va_arg(args, const char *), &fx_err)), "%s",
                  fx_err.text);
    va_end(args);
    return o;
}

static inline void fx_open_with(varve_options *o) {
    varve_status st = varve_open(vv_tempdir_path("db"), o, &fx_db, &fx_err);
    varve_options_destroy(o);
    cr_assert(varve_ok(st), "%s", fx_err.text);
}

static inline void fx_open(void) {
    fx_open_with(fx_options(NULL));
}

static inline void fx_close(void) {
    cr_assert(varve_ok(varve_close(fx_db)));
    fx_db = NULL;
}

static inline uint64_t fx_put(const char *key, const char *value) {
    uint64_t lsn;
    varve_status st = varve_put(fx_db, key, strlen(key), value, strlen(value), NULL, &lsn);
    cr_assert(varve_ok(st), "put %s: %s", key, varve_code_name(st.code));
    return lsn;
}

static inline uint64_t fx_delete(const char *key) {
    uint64_t lsn;
    cr_assert(varve_ok(varve_delete(fx_db, key, strlen(key), NULL, &lsn)));
    return lsn;
}

/* value NULL: the key must not be found. */
static inline void fx_expect(const char *key, const char *value) {
    varve_value v;
    varve_status st = varve_get(fx_db, key, strlen(key), &v);
    if (!value) {
        cr_assert_eq(st.code, VARVE_NOT_FOUND, "get %s: %s", key, varve_code_name(st.code));
        return;
    }
    cr_assert(varve_ok(st), "get %s: %s", key, varve_code_name(st.code));
    cr_assert(v.bytes == strlen(value) && memcmp(v.data, value, v.bytes) == 0, "%s is '%.*s', not '%s'", key,
              (int)v.bytes, (const char *)v.data, value);
    varve_value_release(&v);
}

static inline varve_stats fx_stats(void) {
    varve_stats s;
    varve_stats_get(fx_db, &s);
    return s;
}

#endif
