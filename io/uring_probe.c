/*
 * uring_probe.c - does this kernel give this process an io_uring, and if not, why?
 *
 * The words are for an operator who wonders why the slower backend runs, so they name the switch to turn:
 * the sysctl, the container's seccomp profile, the kernel's age or the memlock limit.
 */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/uring_impl.h"

#define PROBE_ENTRIES 4

/* From the best to the oldest kernel's. SINGLE_ISSUER and DEFER_TASKRUN are safety: completions are posted
 * only while the owner is inside the kernel for them, and any other thread's touch fails. */
static const struct {
    unsigned flags;
    const char *names;
} flag_sets[] = {
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, "SINGLE_ISSUER|DEFER_TASKRUN"}, /* 6.1 */
    {IORING_SETUP_COOP_TASKRUN, "COOP_TASKRUN"},                                              /* 5.19 */
    {0, "no flags"},
};

static const struct {
    int op;
    const char *name;
} needed_ops[] = {
    {IORING_OP_NOP, "NOP"},
    {IORING_OP_READ, "READ"},
    {IORING_OP_WRITE, "WRITE"},
    {IORING_OP_READ_FIXED, "READ_FIXED"},
    {IORING_OP_WRITE_FIXED, "WRITE_FIXED"},
    {IORING_OP_FSYNC, "FSYNC"},
};

static const char *sys_text(int sys) {
    const char *text = strerrordesc_np(sys);
    return text ? text : "unknown errno";
}

/* kernel.io_uring_disabled; 0 where there is no such switch. */
static int sysctl_disabled(void) {
    FILE *in = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    if (!in)
        return 0;
    char text[16] = "";
    char *got = fgets(text, sizeof text, in);
    fclose(in);
    return got ? atoi(text) : 0;
}

static bool seccomp_filtered(void) {
    FILE *in = fopen("/proc/self/status", "re");
    if (!in)
        return false;
    char line[256];
    bool filtered = false;
    while (!filtered && fgets(line, sizeof line, in))
        filtered = strncmp(line, "Seccomp:", 8) == 0 && atoi(line + 8) == 2;
    fclose(in);
    return filtered;
}

static vv_status explain_eperm(const vv_uring_surroundings *in, vv_error *why) {
    vv_status st = vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0);
    if (in->sysctl_disabled >= 2)
        return vv_fail(why, st, "the sysctl kernel.io_uring_disabled=2 forbids it to every process");
    if (in->sysctl_disabled == 1)
        return vv_fail(why, st,
                       "the sysctl kernel.io_uring_disabled=1 forbids it to unprivileged processes%s",
                       in->seccomp ? " (and a seccomp filter is active)" : "");
    if (in->seccomp)
        return vv_fail(why, st, "a seccomp filter blocks it (EPERM), as container runtimes do by default");
    return vv_fail(why, st, "io_uring_setup is not permitted (EPERM), perhaps by a security module");
}

vv_status vv_uring_explain(int sys, const vv_uring_surroundings *in, vv_error *why) {
    vv_status st = vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0);
    switch (sys) {
    case ENOSYS:
        return vv_fail(why, st, "no io_uring_setup (ENOSYS): %s",
                       in->seccomp ? "a seccomp filter hides it, or the kernel is too old"
                                   : "the kernel is too old, or built without it");
    case EPERM: return explain_eperm(in, why);
    case ENOMEM:
        if (in->memlock_bytes == UINT64_MAX)
            return vv_fail(why, st, "no memory for a ring (ENOMEM)");
        return vv_fail(why, st, "no memory for a ring (ENOMEM): the memlock limit is %llu KiB",
                       (unsigned long long)(in->memlock_bytes / 1024));
    default: return vv_fail(why, st, "io_uring_setup fails: %s", sys_text(sys));
    }
}

uint64_t vv_uring_lockable_bytes(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (syscall(SYS_capget, &header, caps) == 0 && (caps[0].effective & (1u << CAP_IPC_LOCK)))
        return UINT64_MAX;
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur;
}

static vv_uring_surroundings look_around(void) {
    return (vv_uring_surroundings){.sysctl_disabled = sysctl_disabled(),
                                   .seccomp = seccomp_filtered(),
                                   .memlock_bytes = vv_uring_lockable_bytes()};
}

static vv_status check_ops(struct io_uring *ring, vv_error *why) {
    enum { OPS = 256 };
    _Alignas(struct io_uring_probe) char
        room[sizeof(struct io_uring_probe) + OPS * sizeof(struct io_uring_probe_op)];
    memset(room, 0, sizeof room);
    struct io_uring_probe *probe = (struct io_uring_probe *)room;
    vv_status st = vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0);
    int rc = io_uring_register_probe(ring, probe, OPS);
    if (rc == -EINVAL)
        return vv_fail(why, st, "the kernel's io_uring is too old: it can't be asked for its operations");
    if (rc < 0)
        return vv_fail(why, st, "io_uring_register is blocked%s: %s",
                       seccomp_filtered() ? " by a seccomp filter" : "", sys_text(-rc));
    for (size_t i = 0; i < sizeof needed_ops / sizeof needed_ops[0]; i++)
        if (!io_uring_opcode_supported(probe, needed_ops[i].op))
            return vv_fail(why, st, "the kernel's io_uring is too old: no %s", needed_ops[i].name);
    return VV_STATUS_OK;
}

static vv_status round_trip(struct io_uring *ring, vv_error *why) {
    vv_status st = vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0);
    io_uring_prep_nop(vv_uring_next_sqe(ring)); /* a fresh ring has room */
    int rc;
    do {
        rc = io_uring_submit_and_wait(ring, 1);
    } while (rc == -EINTR);
    if (rc < 0)
        return vv_fail(why, st, "io_uring_enter is blocked%s: %s",
                       seccomp_filtered() ? " by a seccomp filter" : "", sys_text(-rc));
    struct io_uring_cqe *cqe;
    rc = io_uring_wait_cqe(ring, &cqe);
    if (rc < 0 || cqe->res != 0)
        return vv_fail(why, st, "a first request through io_uring fails: %s",
                       sys_text(rc < 0 ? -rc : -cqe->res));
    io_uring_cqe_seen(ring, cqe);
    return VV_STATUS_OK;
}

vv_status vv_uring_probe(unsigned *flags_out, const char **names_out, vv_error *why) {
    struct io_uring ring;
    size_t set = 0;
    int rc;
    do {
        rc = vv_uring_ring_init(&ring, PROBE_ENTRIES, flag_sets[set].flags);
    } while (rc == -EINVAL && ++set < sizeof flag_sets / sizeof flag_sets[0]);
    if (rc < 0) {
        vv_uring_surroundings around = look_around();
        return vv_uring_explain(-rc, &around, why);
    }
    *flags_out = flag_sets[set].flags;
    *names_out = flag_sets[set].names;
    vv_status st = check_ops(&ring, why);
    if (vv_ok(st))
        st = round_trip(&ring, why);
    vv_uring_ring_exit(&ring);
    return st;
}
