/*
 * status.h - how every call of Varve says what became of it.
 *
 * A status is returned by value in one register. It is a struct, so that it can't be mixed up with an int, a
 * length or an errno. `code` is what a caller decides by, `sub` narrows it down for people and for the
 * ErrorInfo reason of the service, `sys` is the errno behind it, or 0.
 *
 * The words that go with a failure live in an optional buffer of the caller's (vv_error) and are wrapped on
 * the way up: "open db: manifest: checksum mismatch at 4096". Nothing here allocates.
 */
#ifndef VV_BASE_STATUS_H
#define VV_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

/* code, text. The numbers are part of the C API (engine/varve.h asserts that it agrees): append only. */
#define VV_STATUS_CODES(X)                                                                                   \
    X(OK, 0, "ok")                                                                                           \
    X(INVALID_ARGUMENT, 1, "invalid argument")                                                               \
    X(NOT_FOUND, 2, "not found")                                                                             \
    X(CORRUPTION, 3, "corrupted data")                                                                       \
    X(IO, 4, "I/O error")                                                                                    \
    X(NO_SPACE, 5, "no space left on device")                                                                \
    X(NO_MEMORY, 6, "out of memory")                                                                         \
    X(BUSY, 7, "busy")                                                                                       \
    X(TIMED_OUT, 8, "timed out")                                                                             \
    X(WAL_FAILED, 9, "write-ahead log failed; outcome unknown")                                              \
    X(SHUTTING_DOWN, 10, "shutting down")                                                                    \
    X(UNSUPPORTED, 11, "not supported")                                                                      \
    X(LOCKED, 12, "locked by another process")                                                               \
    X(PERMISSION, 13, "permission denied")                                                                   \
    X(EXISTS, 14, "already exists")                                                                          \
    X(TRIMMED, 15, "no longer in the log")                                                                   \
    X(END, 16, "end")                                                                                        \
    X(CONDITION_FAILED, 17, "condition failed")                                                              \
    X(INTERNAL, 18, "internal error")                                                                        \
    X(SEQUENCE_TOO_OLD, 19, "older than the client's remembered writes; outcome unknown")                    \
    X(NOT_CONFIRMED, 20, "not confirmed by enough replicas in time; outcome unknown")

/* reason, text: finer than the code, for messages and for ErrorInfo. */
#define VV_STATUS_SUBS(X)                                                                                    \
    X(NONE, 0, "")                                                                                           \
    X(KEY_EMPTY, 1, "key is empty")                                                                          \
    X(KEY_TOO_LONG, 2, "key is too long")                                                                    \
    X(VALUE_TOO_LARGE, 3, "value is too large")                                                              \
    X(BATCH_EMPTY, 4, "batch has no operations")                                                             \
    X(BATCH_TOO_LARGE, 5, "batch is too large")                                                              \
    X(BAD_OPTION, 6, "bad configuration value")                                                              \
    X(UNKNOWN_OPTION, 7, "unknown configuration key")                                                        \
    X(CHECKSUM, 8, "checksum mismatch")                                                                      \
    X(BAD_MAGIC, 9, "not a Varve file")                                                                      \
    X(TRUNCATED, 10, "file is too short")                                                                    \
    X(BAD_LAYOUT, 11, "impossible layout")                                                                   \
    X(FORMAT_NEWER, 12, "written by a newer version of Varve")                                               \
    X(NOT_DIRECTORY, 13, "not a directory")                                                                  \
    X(SHORT_TRANSFER, 14, "short transfer")                                                                  \
    X(CANCELED, 15, "cancelled")                                                                             \
    X(LOG_GAP, 16, "durable log records are missing")                                                        \
    X(BAD_RANGE, 17, "bad range")                                                                            \
    X(MALFORMED, 18, "malformed message")                                                                    \
    X(BAD_SEQUENCE, 19, "client and sequence go together, and neither is 0")                                 \
    X(EPOCH_TOO_OLD, 20, "a higher epoch is known")                                                          \
    X(NOT_NEXT, 21, "the records do not follow the log")                                                     \
    X(REPLICAS_BEHIND, 22, "too many writes wait for replicas")

typedef enum vv_code {
#define X(name, number, text) VV_##name = (number),
    VV_STATUS_CODES(X)
#undef X
} vv_code;

typedef enum vv_sub {
#define X(name, number, text) VV_SUB_##name = (number),
    VV_STATUS_SUBS(X)
#undef X
} vv_sub;

typedef struct vv_status {
    uint16_t code; /* a vv_code */
    uint16_t sub;  /* a vv_sub */
    int32_t sys;   /* errno, or 0 */
} vv_status;

_Static_assert(sizeof(vv_status) == 8, "a status travels in one register");

/* The words of a failure: the caller's, reused at will. Functions that take a vv_error * accept NULL. */
#define VV_ERROR_TEXT_BYTES 512
typedef struct vv_error {
    char text[VV_ERROR_TEXT_BYTES];
} vv_error;

#define VV_STATUS_OK ((vv_status){0})

static inline bool vv_ok(vv_status st) {
    return st.code == VV_OK;
}

static inline bool vv_is(vv_status st, vv_code code) {
    return st.code == code;
}

static inline VV_CHECKED
vv_status vv_status_make(vv_code code, vv_sub sub, int sys) {
    return (vv_status){.code = (uint16_t)code, .sub = (uint16_t)sub, .sys = sys};
}

/* The status that stands for errno `sys`: ENOSPC and EDQUOT are NO_SPACE, EACCES, EPERM and EROFS PERMISSION,
 * ENOENT NOT_FOUND, EEXIST EXISTS, ENOMEM NO_MEMORY, ENOTDIR INVALID_ARGUMENT, all others IO. */
vv_status vv_status_errno(int sys) VV_CHECKED;

/* Names as in the enum without prefix ("NO_SPACE"), and texts for people. Never NULL, static. */
const char *vv_code_name(uint16_t code);
const char *vv_code_text(uint16_t code);
const char *vv_sub_name(uint16_t sub);
const char *vv_sub_text(uint16_t sub);

/* Start the words of a failure with a formatted text; returns `st`. If `st` carries an errno, its text
 * follows. */
vv_status vv_fail(vv_error *err, vv_status st, const char *fmt, ...) VV_PRINTF(3, 4) VV_CHECKED
VV_COLD;

/* Put "context: " before the words that are there (or before the status's own text if there are none). */
vv_status vv_wrap(vv_error *err, vv_status st, const char *fmt, ...) VV_PRINTF(3, 4) VV_CHECKED
VV_COLD;

/* Drop a status on purpose; `why` is for the reader. */
static inline void vv_status_ignore(vv_status st, const char *why) {
    (void)st;
    (void)why;
}

/* Keep the first failure: `*first` becomes `st` only if it was OK. For clean-up paths. */
static inline void vv_status_keep(vv_status *first, vv_status st) {
    if (vv_ok(*first))
        *first = st;
}

/* Return early when `expr` fails, for functions that have nothing to release. */
#define VV_TRY(expr)                                                                                         \
    do {                                                                                                     \
        vv_status vv_try_st_ = (expr);                                                                       \
        if (!vv_ok(vv_try_st_))                                                                              \
            return vv_try_st_;                                                                               \
    } while (0)

#endif
