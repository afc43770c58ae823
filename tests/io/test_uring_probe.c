/*
 * The choice of a backend: real refusals by a seccomp filter, and the words for all of them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "io/uring_impl.h"
#include "tests/support/tempdir.h"

static char logged[1024];
static vv_log_level logged_level;
static int logged_lines;

static void remember(void *arg, vv_log_level level, const char *line) {
    (void)arg;
    snprintf(logged, sizeof logged, "%s", line);
    logged_level = level;
    logged_lines++;
}

static const vv_logger logger = {.write = remember, .least = VV_LOG_INFO};

/* From now on `number` fails with `sys` in this process. */
static void forbid(unsigned number, unsigned sys) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (sys & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof rules / sizeof rules[0], .filter = rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        fprintf(stderr, "SKIPPED: no seccomp filter here: %s\n", strerror(errno));
        cr_skip_test("no seccomp");
    }
}

static void need_ring(void) {
    unsigned flags;
    const char *names;
    vv_error why = {0};
    if (!vv_ok(vv_uring_probe(&flags, &names, &why))) {
        fprintf(stderr, "SKIPPED: no io_uring here: %s\n", why.text);
        cr_skip_test("no io_uring: %s", why.text);
    }
}

/* AUTO takes posix with one warning, URING fails; both say `words`. */
static void expect_refusal(const char *words) {
    vv_io_backend *b;
    vv_error err = {0};
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_AUTO, &logger, &b, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    cr_assert_str_eq(vv_io_backend_name(b), "posix");
    cr_assert_eq(logged_lines, 1);
    cr_assert_eq(logged_level, VV_LOG_WARN);
    cr_assert(strstr(logged, words) && strstr(logged, "posix"), "%s", logged);
    vv_io_backend_destroy(b);

    st = vv_io_backend_create(VV_IO_CHOICE_URING, &logger, &b, &err);
    cr_assert_eq(st.code, VV_UNSUPPORTED, "%s", vv_code_name(st.code));
    cr_assert_null(b);
    cr_assert(strstr(err.text, words), "%s", err.text);
}

Test(uring_probe, auto_takes_the_ring_and_says_so) {
    need_ring();
    vv_io_backend *b;
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_AUTO, &logger, &b, NULL);
    cr_assert_eq(st.code, VV_OK);
    cr_assert_str_eq(vv_io_backend_name(b), "uring");
    cr_assert_eq(logged_lines, 1);
    cr_assert_eq(logged_level, VV_LOG_INFO);
    cr_assert(strstr(logged, "io_uring"), "%s", logged);
    vv_io_backend_destroy(b);
}

Test(uring_probe, posix_as_configured_is_no_warning) {
    vv_io_backend *b;
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_POSIX, &logger, &b, NULL);
    cr_assert_eq(st.code, VV_OK);
    cr_assert_eq(logged_lines, 1);
    cr_assert_eq(logged_level, VV_LOG_INFO);
    vv_io_backend_destroy(b);
}

Test(uring_probe, a_filter_on_setup_is_named) {
    need_ring();
    forbid(SYS_io_uring_setup, EPERM);
    expect_refusal("seccomp filter blocks it");
}

Test(uring_probe, a_filter_that_hides_setup_is_named) {
    need_ring();
    forbid(SYS_io_uring_setup, ENOSYS);
    expect_refusal("a seccomp filter hides it, or the kernel is too old");
}

Test(uring_probe, a_filter_on_enter_alone_is_found) {
    need_ring();
    forbid(SYS_io_uring_enter, EPERM);
    expect_refusal("io_uring_enter is blocked by a seccomp filter");
}

Test(uring_probe, a_filter_on_register_alone_is_found) {
    need_ring();
    forbid(SYS_io_uring_register, EPERM);
    expect_refusal("io_uring_register is blocked by a seccomp filter");
}

Test(uring_probe, running_out_of_descriptors_is_named) {
    need_ring();
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    unsigned flags;
    const char *names;
    vv_error why = {0};
    vv_status st = vv_uring_probe(&flags, &names, &why);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_eq(st.code, VV_UNSUPPORTED);
    cr_assert(strstr(why.text, strerrordesc_np(EMFILE)), "%s", why.text);
}

Test(uring_probe, each_cause_has_its_words) {
    static const struct {
        int sys;
        vv_uring_surroundings around;
        const char *words;
    } cases[] = {
        {ENOSYS, {0, false, UINT64_MAX}, "the kernel is too old, or built without it"},
        {ENOSYS, {0, true, UINT64_MAX}, "a seccomp filter hides it"},
        {EPERM, {2, true, UINT64_MAX}, "kernel.io_uring_disabled=2 forbids it to every process"},
        {EPERM, {1, false, UINT64_MAX}, "kernel.io_uring_disabled=1 forbids it to unprivileged"},
        {EPERM, {1, true, UINT64_MAX}, "(and a seccomp filter is active)"},
        {EPERM, {0, true, UINT64_MAX}, "a seccomp filter blocks it (EPERM)"},
        {EPERM, {0, false, UINT64_MAX}, "perhaps by a security module"},
        {ENOMEM, {0, false, 65536}, "the memlock limit is 64 KiB"},
        {ENOMEM, {0, false, UINT64_MAX}, "no memory for a ring"},
        {EINVAL, {0, false, UINT64_MAX}, "io_uring_setup fails: Invalid argument"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        vv_error why = {0};
        vv_status st = vv_uring_explain(cases[i].sys, &cases[i].around, &why);
        cr_expect_eq(st.code, VV_UNSUPPORTED);
        cr_expect(strstr(why.text, cases[i].words), "case %zu: %s", i, why.text);
    }
}
