#include <criterion/criterion.h>
#include <errno.h>

#include "base/status.h"

Test(status, every_code_and_reason_has_a_name_and_a_text) {
#define X(name, number, text)                                                                                \
    cr_assert_eq(VV_##name, number);                                                                         \
    cr_assert_str_eq(vv_code_name(number), #name);                                                           \
    cr_assert_str_eq(vv_code_text(number), text);
    VV_STATUS_CODES(X)
#undef X
#define X(name, number, text)                                                                                \
    cr_assert_eq(VV_SUB_##name, number);                                                                     \
    cr_assert_str_eq(vv_sub_name(number), #name);                                                            \
    cr_assert_str_eq(vv_sub_text(number), text);
    VV_STATUS_SUBS(X)
#undef X
    cr_assert_str_eq(vv_code_name(999), "UNKNOWN");
    cr_assert_str_eq(vv_code_text(999), "unknown status");
    cr_assert_str_eq(vv_sub_name(999), "UNKNOWN");
    cr_assert_str_eq(vv_sub_text(999), "unknown reason");
}

Test(status, errnos_become_the_code_that_a_caller_decides_by) {
    static const struct {
        int sys;
        vv_code code;
        vv_sub sub;
    } cases[] = {
        {ENOSPC, VV_NO_SPACE, VV_SUB_NONE},
        {EDQUOT, VV_NO_SPACE, VV_SUB_NONE},
        {EACCES, VV_PERMISSION, VV_SUB_NONE},
        {EPERM, VV_PERMISSION, VV_SUB_NONE},
        {EROFS, VV_PERMISSION, VV_SUB_NONE},
        {ENOENT, VV_NOT_FOUND, VV_SUB_NONE},
        {EEXIST, VV_EXISTS, VV_SUB_NONE},
        {ENOMEM, VV_NO_MEMORY, VV_SUB_NONE},
        {ENOTDIR, VV_INVALID_ARGUMENT, VV_SUB_NOT_DIRECTORY},
        {ECANCELED, VV_IO, VV_SUB_CANCELED},
        {EIO, VV_IO, VV_SUB_NONE},
        {ENOTTY, VV_IO, VV_SUB_NONE},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        vv_status st = vv_status_errno(cases[i].sys);
        cr_assert_eq(st.code, cases[i].code, "errno %d", cases[i].sys);
        cr_assert_eq(st.sub, cases[i].sub, "errno %d", cases[i].sys);
        cr_assert_eq(st.sys, cases[i].sys);
    }
}

Test(status, the_words_of_a_failure_are_wrapped_on_the_way_up) {
    vv_error err;
    vv_status st = vv_fail(&err, vv_status_errno(ENOENT), "manifest %d", 7);
    st = vv_wrap(&err, st, "open %s", "db");
    cr_assert_eq(st.code, VV_NOT_FOUND);
    cr_assert_str_eq(err.text, "open db: manifest 7: No such file or directory");
}

Test(status, a_wrap_without_words_takes_the_text_of_the_status) {
    vv_error err = {.text = ""};
    vv_status_ignore(vv_wrap(&err, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0), "block %d", 3),
                     "words");
    cr_assert_str_eq(err.text, "block 3: checksum mismatch");
    err.text[0] = '\0';
    vv_status_ignore(vv_wrap(&err, vv_status_errno(EIO), "read"), "words");
    cr_assert_str_eq(err.text, "read: I/O error: Input/output error");
}

Test(status, words_that_are_too_long_are_cut_and_ended) {
    char long_text[2 * VV_ERROR_TEXT_BYTES];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    struct {
        vv_error err;
        char guard;
    } s = {.guard = '!'};
    vv_status_ignore(vv_fail(&s.err, vv_status_errno(EIO), "%s", long_text), "words");
    cr_assert_eq(strlen(s.err.text), VV_ERROR_TEXT_BYTES - 1);
    vv_status_ignore(vv_wrap(&s.err, vv_status_errno(EIO), "outer"), "words");
    cr_assert_eq(strlen(s.err.text), VV_ERROR_TEXT_BYTES - 1);
    cr_assert_eq(strncmp(s.err.text, "outer: xxx", 10), 0);
    vv_status_ignore(vv_wrap(&s.err, vv_status_errno(EIO), "%s", long_text), "words");
    cr_assert_eq(strlen(s.err.text), VV_ERROR_TEXT_BYTES - 1);
    cr_assert_eq(s.guard, '!');
}

Test(status, nobody_needs_to_want_the_words) {
    vv_status st = vv_status_errno(EIO);
    cr_assert_eq(vv_fail(NULL, st, "text").code, VV_IO);
    cr_assert_eq(vv_wrap(NULL, st, "text").code, VV_IO);
}

Test(status, clean_up_does_not_hide_the_first_failure) {
    vv_status first = VV_STATUS_OK;
    vv_status_keep(&first, VV_STATUS_OK);
    cr_assert(vv_ok(first));
    vv_status_keep(&first, vv_status_errno(ENOSPC));
    vv_status_keep(&first, vv_status_errno(EIO));
    vv_status_keep(&first, VV_STATUS_OK);
    cr_assert_eq(first.code, VV_NO_SPACE);
}

static vv_status try_it(vv_status st, bool *reached) {
    VV_TRY(st);
    *reached = true;
    return VV_STATUS_OK;
}

Test(status, try_returns_early_on_failure_alone) {
    bool reached = false;
    cr_assert_eq(try_it(vv_status_errno(EIO), &reached).sys, EIO);
    cr_assert_not(reached);
    cr_assert(vv_ok(try_it(VV_STATUS_OK, &reached)));
    cr_assert(reached);
}
