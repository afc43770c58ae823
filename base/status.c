#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

vv_status vv_status_errno(int sys) {
    vv_code code = VV_IO;
    vv_sub sub = VV_SUB_NONE;
    switch (sys) {
    case ENOSPC:
    case EDQUOT: code = VV_NO_SPACE; break;
    case EACCES:
    case EPERM:
    case EROFS: code = VV_PERMISSION; break;
    case ENOENT: code = VV_NOT_FOUND; break;
    case EEXIST: code = VV_EXISTS; break;
    case ENOMEM:
    case EMFILE: /* nothing is wrong with the file: what is missing comes back */
    case ENFILE: code = VV_NO_MEMORY; break;
    case ENOTDIR:
        code = VV_INVALID_ARGUMENT;
        sub = VV_SUB_NOT_DIRECTORY;
        break;
    case ECANCELED: sub = VV_SUB_CANCELED; break;
    default: break;
    }
    return vv_status_make(code, sub, sys);
}

const char *vv_code_name(uint16_t code) {
    switch (code) {
#define X(name, number, text)                                                                                \
    case number: return #name;
        VV_STATUS_CODES(X)
#undef X
    default: return "UNKNOWN";
    }
}

const char *vv_code_text(uint16_t code) {
    switch (code) {
#define X(name, number, text)                                                                                \
    case number: return text;
        VV_STATUS_CODES(X)
#undef X
    default: return "unknown status";
    }
}

const char *vv_sub_name(uint16_t sub) {
    switch (sub) {
#define X(name, number, text)                                                                                \
    case number: return #name;
        VV_STATUS_SUBS(X)
#undef X
    default: return "UNKNOWN";
    }
}

const char *vv_sub_text(uint16_t sub) {
    switch (sub) {
#define X(name, number, text)                                                                                \
    case number: return text;
        VV_STATUS_SUBS(X)
#undef X
    default: return "unknown reason";
    }
}

/* Append ": <errno text>" when there is one; strerrordesc_np is thread-safe and allocates nothing. */
static void append_sys(vv_error *err, vv_status st) {
    if (st.sys == 0)
        return;
    size_t used = strlen(err->text);
    const char *text = strerrordesc_np(st.sys);
    snprintf(err->text + used, sizeof err->text - used, ": %s", text ? text : "unknown errno");
}

vv_status vv_fail(vv_error *err, vv_status st, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        append_sys(err, st);
    }
    return st;
}

vv_status vv_wrap(vv_error *err, vv_status st, const char *fmt, ...) {
    if (!err)
        return st;
    if (err->text[0] == '\0') {
        snprintf(err->text, sizeof err->text, "%s",
                 st.sub != VV_SUB_NONE ? vv_sub_text(st.sub) : vv_code_text(st.code));
        append_sys(err, st);
    }
    char inner[VV_ERROR_TEXT_BYTES];
    memcpy(inner, err->text, sizeof inner);
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof err->text)
        snprintf(err->text + used, sizeof err->text - (size_t)used, ": %s", inner);
    return st;
}
