/*
 * config.h - configuration as a table: what keys there are, what they mean, what is allowed.
 *
 * The engine and the server each have one table over a plain struct of settings. Every message about a bad
 * value comes from here, so that all of them name the key, the value and what is allowed.
 *
 * Sizes take KiB, MiB, GiB (and B, or nothing: bytes); durations need us, ms or s; keys match in any case,
 * with
 * '-' for '_'.
 */
#ifndef VV_BASE_CONFIG_H
#define VV_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum vv_option_type {
    VV_OPTION_BYTES,          /* uint64_t, bytes */
    VV_OPTION_BYTES_OR_COUNT, /* uint64_t: bytes with a unit; without one a count, marked VV_OPTION_IS_COUNT
                               */
    VV_OPTION_COUNT,          /* uint64_t */
    VV_OPTION_DURATION,       /* uint64_t, microseconds */
    VV_OPTION_RATE,           /* double, 0 to below 1; with max 1, to 1 */
    VV_OPTION_CHOICE,         /* uint32_t, an index into choices */
    VV_OPTION_BOOL,           /* bool: true, false, on, off, yes, no, 1, 0 */
    VV_OPTION_TEXT,           /* char[max + 1] */
} vv_option_type;

typedef struct vv_option {
    const char *key; /* upper case, '_' */
    vv_option_type type;
    size_t offset; /* of its field in the settings */
    const char *default_value;
    uint64_t min; /* of numbers, inclusive */
    uint64_t max; /* of numbers, inclusive; longest text in bytes */
    bool power_of_two;
    const char *const *choices; /* NULL-terminated */
    const char *meaning;        /* one line for help texts */
} vv_option;

#define VV_OPTION_IS_COUNT (UINT64_C(1) << 63)

typedef struct vv_option_table {
    const vv_option *options;
    size_t count;
} vv_option_table;

/* Long enough for every "allowed" text and every value of a number, choice or rate. */
#define VV_OPTION_TEXT_BYTES 160

/* NULL: no such key. */
const vv_option *vv_config_find(vv_option_table t, const char *key);

/* Set every field to its default. A default that its own table refuses is a bug: asserted. */
void vv_config_defaults(vv_option_table t, void *settings);

/*
 * INVALID_ARGUMENT/UNKNOWN_OPTION   "FOO: unknown configuration key"
 * INVALID_ARGUMENT/BAD_OPTION       "BLOCK_SIZE = 5000: allowed is a power of two from 4KiB to 64KiB"
 * On failure settings are unchanged.
 */
vv_status vv_config_set(vv_option_table t, void *settings, const char *key, const char *value,
                        vv_error *err) VV_CHECKED;

/* The value of an option in the form that vv_config_set() takes. */
void vv_config_format(const vv_option *o, const void *settings, char *buf, size_t buf_bytes);

/* "a size from 1MiB to 4GiB", "one of uring, posix, auto". */
void vv_option_allowed(const vv_option *o, char *buf, size_t buf_bytes);

#endif
