/*
 * What a healthy disk never shows: short transfers, interruptions, refused flags, failing syncs; and what
 * the files learn from the system around them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/io_impl.h"
#include "tests/support/tempdir.h"

#define RW (VV_OPEN_READ | VV_OPEN_WRITE)

static vv_io_backend *io;
static vv_file *file;
static vv_io_syscalls real;

static void setup(void) {
    real = vv_io_sys;
    vv_tempdir();
    cr_assert(vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, NULL)));
    cr_assert(vv_ok(vv_file_open(io, vv_tempdir_path("f"), RW | VV_OPEN_CREATE, &file, NULL)));
}

static void teardown(void) {
    vv_file_close(file);
    vv_io_backend_destroy(io);
    vv_tempdir_cleanup();
}

TestSuite(file_posix, .init = setup, .fini = teardown);

/* ---- transfers ---- */

static int turn;
static int calls;
static int failing_sys;

/* Every other call is interrupted; the others move at most 7 bytes. */
static ssize_t crippled_pread(int fd, void *buf, size_t bytes, off_t offset) {
    if (turn++ % 2 == 0) {
        errno = turn % 4 == 1 ? EINTR : EAGAIN;
        return -1;
    }
    return real.pread(fd, buf, bytes < 7 ? bytes : 7, offset);
}

static ssize_t crippled_pwrite(int fd, const void *buf, size_t bytes, off_t offset) {
    if (turn++ % 2 == 0) {
        errno = turn % 4 == 1 ? EINTR : EAGAIN;
        return -1;
    }
    return real.pwrite(fd, buf, bytes < 7 ? bytes : 7, offset);
}

static ssize_t crippled_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags) {
    cr_assert_eq(flags, RWF_DSYNC);
    cr_assert_eq(count, 1);
    if (turn++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    struct iovec part = {iov->iov_base, iov->iov_len < 7 ? iov->iov_len : 7};
    return real.pwritev2(fd, &part, 1, offset, flags);
}

static const char text[] = "a text that is longer than seven bytes, and not a multiple of them";

static void expect_text_at(uint64_t offset) {
    char got[sizeof text];
    size_t n = 0;
    vv_status st = vv_file_read(file, got, sizeof got, offset, &n);
    cr_assert(st.code == VV_OK, "errno %d", st.sys);
    cr_assert_eq(n, sizeof text);
    cr_assert_str_eq(got, text);
}

Test(file_posix, short_and_interrupted_transfers_are_finished) {
    vv_io_sys.pread = crippled_pread;
    vv_io_sys.pwrite = crippled_pwrite;
    vv_io_sys.pwritev2 = crippled_pwritev2;
    vv_status st = vv_file_write(file, text, sizeof text, 0);
    cr_assert(st.code == VV_OK, "errno %d", st.sys);
    st = vv_file_write_sync(file, text, sizeof text, 1000);
    cr_assert(st.code == VV_OK, "errno %d", st.sys);
    expect_text_at(0);
    expect_text_at(1000);

    char got[100];
    size_t n = 0;
    cr_assert(vv_ok(vv_file_read(file, got, sizeof got, 1000 + 10, &n)));
    cr_assert_eq(n, sizeof text - 10); /* the end is still the end */
}

static ssize_t always_interrupted(int fd, void *buf, size_t bytes, off_t offset) {
    (void)fd, (void)buf, (void)bytes, (void)offset;
    calls++;
    errno = EINTR;
    return -1;
}

static ssize_t takes_nothing(int fd, const void *buf, size_t bytes, off_t offset) {
    (void)fd, (void)buf, (void)bytes, (void)offset;
    calls++;
    return 0;
}

Test(file_posix, trying_again_has_a_bound) {
    char byte;
    size_t n;
    vv_io_sys.pread = always_interrupted;
    vv_status st = vv_file_read(file, &byte, 1, 0, &n);
    cr_assert_eq(st.code, VV_IO);
    cr_assert_eq(st.sys, EINTR);
    cr_assert_eq(calls, VV_IO_RETRIES_MAX + 1);

    calls = 0;
    vv_io_sys.pwrite = takes_nothing;
    st = vv_file_write(file, "x", 1, 0);
    cr_assert_eq(st.code, VV_IO);
    cr_assert_eq(st.sub, VV_SUB_SHORT_TRANSFER);
    cr_assert_eq(calls, 1);
}

static ssize_t strict_pread(int fd, void *buf, size_t bytes, off_t offset) {
    if (offset % 512 != 0) { /* as some file systems answer, also beyond the end */
        errno = EINVAL;
        return -1;
    }
    return real.pread(fd, buf, bytes, offset);
}

Test(file_posix, a_direct_read_never_goes_on_from_inside_a_block) {
    vv_file *direct;
    cr_assert(vv_ok(vv_file_write(file, text, sizeof text, 0)));
    cr_assert(vv_ok(vv_file_open(io, vv_tempdir_path("f"), VV_OPEN_READ | VV_OPEN_DIRECT, &direct, NULL)));
    if (direct->align_bytes == 1)
        cr_skip_test("no direct I/O here");
    vv_io_sys.pread = strict_pread;
    char *buf = aligned_alloc(VV_IO_ALIGN_BYTES, VV_IO_ALIGN_BYTES);
    size_t n = 0;
    vv_status st = vv_file_read(direct, buf, VV_IO_ALIGN_BYTES, 0, &n);
    cr_assert(st.code == VV_OK, "errno %d", st.sys);
    cr_assert_eq(n, sizeof text);
    cr_assert_str_eq(buf, text);
    free(buf);
    vv_file_close(direct);
}

/* ---- syncs ---- */

static int failing_fd_call(int fd) {
    (void)fd;
    calls++;
    errno = failing_sys;
    return -1;
}

static int counting_fdatasync(int fd) {
    calls++;
    return real.fdatasync(fd);
}

static ssize_t refused_pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags) {
    (void)fd, (void)iov, (void)count, (void)offset, (void)flags;
    turn++;
    errno = failing_sys;
    return -1;
}

Test(file_posix, a_failed_sync_is_never_tried_again) {
    vv_io_sys.fdatasync = failing_fd_call;
    vv_io_sys.fsync = failing_fd_call;
    const int causes[] = {EIO, EINTR, EAGAIN, ENOSPC};
    for (size_t i = 0; i < sizeof causes / sizeof causes[0]; i++) {
        failing_sys = causes[i];
        calls = 0;
        cr_assert_eq(vv_file_sync(file, VV_SYNC_DATA).sys, causes[i]);
        cr_assert_eq(calls, 1);
        cr_assert_eq(vv_file_sync(file, VV_SYNC_FULL).sys, causes[i]);
        cr_assert_eq(calls, 2);
        vv_error err = {0};
        cr_assert_eq(vv_dir_sync(io, vv_tempdir_path("."), &err).sys, causes[i]);
        cr_assert_eq(calls, 3);
    }
}

Test(file_posix, without_dsync_writes_are_synced_by_fdatasync) {
    vv_io_sys.pwritev2 = refused_pwritev2;
    vv_io_sys.fdatasync = counting_fdatasync;
    failing_sys = EOPNOTSUPP;
    cr_assert(vv_ok(vv_file_write_sync(file, text, sizeof text, 0)));
    cr_assert_eq(calls, 1);
    expect_text_at(0);
    cr_assert(vv_ok(vv_file_write_sync(file, text, sizeof text, 100)));
    cr_assert_eq(calls, 2);
    cr_assert_eq(turn, 1); /* asked once */
    expect_text_at(100);

    vv_io_sys.fdatasync = failing_fd_call;
    failing_sys = EIO;
    cr_assert_eq(vv_file_write_sync(file, text, sizeof text, 0).code, VV_IO);
}

Test(file_posix, a_failed_durable_write_is_not_taken_for_a_missing_flag) {
    vv_io_sys.pwritev2 = refused_pwritev2;
    vv_io_sys.fdatasync = counting_fdatasync;
    failing_sys = EIO;
    vv_status st = vv_file_write_sync(file, text, sizeof text, 0);
    cr_assert_eq(st.code, VV_IO);
    cr_assert_eq(st.sys, EIO);
    cr_assert_eq(turn, 1);
    cr_assert_eq(calls, 0);
}

static void noted(vv_io_req *req) {
    (void)req;
    turn++;
}

/* A queue's WRITE_SYNC covers what was written to the file before it, too: a sync of the file. */
Test(file_posix, a_queue_syncs_the_file_and_reports_its_failure) {
    vv_io_queue *q;
    cr_assert(vv_ok(vv_io_queue_create(io, &(vv_io_queue_options){.depth = 1}, &q, NULL)));
    char out[] = "x";
    vv_io_req req = {.op = VV_IO_WRITE_SYNC, .file = file, .buf = out, .bytes = 1, .done = noted};
    vv_io_sys.fdatasync = counting_fdatasync;
    vv_io_submit(q, &req);
    cr_assert(vv_ok(vv_io_run(q, 1, NULL)));
    cr_assert(vv_ok(req.status));
    cr_assert_eq(calls, 1);

    vv_io_sys.fdatasync = failing_fd_call;
    failing_sys = EIO;
    for (vv_io_op op = VV_IO_WRITE_SYNC; op <= VV_IO_SYNC; op++) {
        calls = 0;
        req.op = op;
        vv_io_submit(q, &req);
        cr_assert(vv_ok(vv_io_run(q, 1, NULL)));
        cr_assert_eq(req.status.code, VV_IO);
        cr_assert_eq(req.transferred_bytes, 0u);
        cr_assert_eq(calls, 1);
    }
    vv_io_queue_destroy(q);
}

/* ---- allocation ---- */

static int failing_fallocate(int fd, int mode, off_t offset, off_t bytes) {
    (void)fd, (void)mode, (void)offset, (void)bytes;
    calls++;
    if (calls == 1) {
        errno = EINTR;
        return -1;
    }
    errno = failing_sys;
    return -1;
}

Test(file_posix, allocate_without_reservation_still_sets_the_size) {
    vv_io_sys.fallocate = failing_fallocate;
    failing_sys = EOPNOTSUPP;
    uint64_t bytes;
    cr_assert(vv_ok(vv_file_allocate(file, 10000)));
    cr_assert_eq(calls, 2);
    cr_assert(vv_ok(vv_file_size(file, &bytes)));
    cr_assert_eq(bytes, 10000u);
    cr_assert(vv_ok(vv_file_allocate(file, 5)));
    cr_assert(vv_ok(vv_file_size(file, &bytes)));
    cr_assert_eq(bytes, 10000u);

    failing_sys = EDQUOT;
    cr_assert_eq(vv_file_allocate(file, 20000).code, VV_NO_SPACE);
    cr_assert(vv_ok(vv_file_write(file, "x", 1, 0)));
}

/* ---- what the system tells ---- */

Test(file_posix, a_file_system_without_direct_io_gives_a_buffered_file) {
    vv_file *f;
    vv_error err = {0};
    vv_status st = vv_file_open(io, "/proc/self/status", VV_OPEN_READ | VV_OPEN_DIRECT, &f, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    cr_assert_eq(f->align_bytes, 1u);
    cr_assert_eq(f->atomic_block_bytes, 4096u); /* no device behind it */
    char got[8];
    size_t n;
    cr_assert(vv_ok(vv_file_read(f, got, 5, 0, &n)));
    cr_assert_eq(memcmp(got, "Name:", 5), 0);
    vv_file_close(f);
}

static void put(const char *path, const char *content) {
    FILE *out = fopen(path, "w");
    cr_assert_not_null(out);
    fputs(content, out);
    fclose(out);
}

Test(file_posix, the_physical_block_comes_from_sysfs) {
    const char *root = vv_tempdir_path(".");
    static const char *const dirs[] = {"dev",       "dev/block", "disk",     "disk/queue",
                                       "disk/part", "odd",       "odd/queue"};
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
        cr_assert_eq(mkdir(vv_tempdir_path(dirs[i]), 0700), 0);
    put(vv_tempdir_path("disk/queue/physical_block_size"), "16384\n");
    put(vv_tempdir_path("odd/queue/physical_block_size"), "12345\n");
    cr_assert_eq(symlink("../../disk", vv_tempdir_path("dev/block/8:0")), 0);
    cr_assert_eq(symlink("../../disk/part", vv_tempdir_path("dev/block/8:1")), 0);
    cr_assert_eq(symlink("../../odd", vv_tempdir_path("dev/block/9:0")), 0);
    cr_assert_eq(vv_posix_device_block_bytes(root, 8, 0), 16384u);
    cr_assert_eq(vv_posix_device_block_bytes(root, 8, 1), 16384u); /* of the disk it is part of */
    cr_assert_eq(vv_posix_device_block_bytes(root, 9, 0), 4096u);  /* no power of two */
    cr_assert_eq(vv_posix_device_block_bytes(root, 0, 44), 4096u); /* no device */
}

Test(file_posix, a_full_device_is_no_space) {
    vv_file *full;
    if (!vv_ok(vv_file_open(io, "/dev/full", VV_OPEN_WRITE, &full, NULL)))
        cr_skip_test("no /dev/full");
    cr_assert_eq(vv_file_write(full, "x", 1, 0).code, VV_NO_SPACE);
    vv_file_close(full);
}

Test(file_posix, a_foreign_lock_is_refused_with_its_pid) {
    const char *path = vv_tempdir_path("LOCK");
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        vv_file *lock;
        char ok = vv_ok(vv_lock_acquire(io, path, &lock, NULL)) ? 'y' : 'n';
        if (write(ready[1], &ok, 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    char ok = 0;
    cr_assert_eq(read(ready[0], &ok, 1), 1);
    cr_assert_eq(ok, 'y');
    vv_file *lock;
    vv_error err = {0};
    vv_status st = vv_lock_acquire(io, path, &lock, &err);
    char wanted[600];
    snprintf(wanted, sizeof wanted, "%s: locked by another process (pid %ld)", path, (long)child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_assert_eq(st.code, VV_LOCKED);
    cr_assert_str_eq(err.text, wanted);
    st = vv_lock_acquire(io, path, &lock, &err); /* gone with its process */
    cr_assert(st.code == VV_OK, "%s", err.text);
    vv_file_close(lock);
}
