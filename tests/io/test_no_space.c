/*
 * A file system that is really full, for every backend that works on real ones: a small tmpfs in a mount
 * namespace of the test's own, so it needs root.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "tests/io/backends.h"

#define RW         (VV_OPEN_READ | VV_OPEN_WRITE)
#define DISK_BYTES (256 * 1024)

static const char *small_disk(void) {
    const char *dir = vv_tempdir();
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("varve-test", dir, "tmpfs", 0, "size=256k") != 0) {
        fprintf(stderr, "SKIPPED: no small file system to be had: %s\n", strerror(errno));
        vv_tempdir_cleanup();
        cr_skip_test("mount: %s", strerror(errno));
    }
    return dir;
}

static void noted(vv_io_req *req) {
    (void)req;
}

static vv_status run_one(vv_io_queue *q, vv_file *f, vv_io_op op, char *buf, uint32_t bytes) {
    vv_io_req req = {.op = op, .file = f, .buf = buf, .bytes = bytes, .done = noted};
    vv_io_submit(q, &req);
    cr_assert(vv_ok(vv_io_run(q, 1, NULL)));
    return req.status;
}

ParameterizedTestParameters(no_space, fails_cleanly_and_leaves_the_file_usable) {
    static int indexes[TEST_BACKEND_COUNT];
    size_t count = 0;
    for (int i = 0; i < (int)TEST_BACKEND_COUNT; i++)
        if (test_backends[i].root ==
            vv_tempdir) /* its files are the system's; of a simulated disk see test_sim.c */
            indexes[count++] = i;
    return cr_make_param_array(int, indexes, count, NULL);
}

ParameterizedTest(int *index, no_space, fails_cleanly_and_leaves_the_file_usable) {
    const char *disk = small_disk();
    vv_io_backend *io;
    vv_error err = {0};
    vv_status st = test_backends[*index].create(&io, &err);
    if (vv_is(st, VV_UNSUPPORTED)) {
        fprintf(stderr, "SKIPPED for %s: %s\n", test_backends[*index].name, err.text);
        umount(disk);
        vv_tempdir_cleanup();
        cr_skip_test("%s", err.text);
    }
    vv_io_queue *q;
    vv_file *f;
    cr_assert(vv_ok(vv_io_queue_create(io, &(vv_io_queue_options){.depth = 4}, &q, NULL)));
    cr_assert(vv_ok(vv_file_open(io, vv_tempdir_path("f"), RW | VV_OPEN_CREATE, &f, NULL)));
    char *big = calloc(1, 2 * DISK_BYTES);

    uint64_t bytes;
    cr_assert(vv_ok(vv_dir_free_bytes(io, disk, &bytes, NULL)));
    cr_assert_leq(bytes, DISK_BYTES);
    cr_assert_eq(vv_file_allocate(f, 2 * DISK_BYTES).code, VV_NO_SPACE);
    cr_assert(vv_ok(vv_file_write(f, "usable", 6, 0)));

    /* The first part of each fits: a short write, and then the truth. */
    cr_assert_eq(vv_file_write(f, big, 2 * DISK_BYTES, 0).code, VV_NO_SPACE);
    cr_assert(vv_ok(vv_file_truncate(f, 0)));
    cr_assert_eq(vv_file_write_sync(f, big, 2 * DISK_BYTES, 0).code, VV_NO_SPACE);
    cr_assert(vv_ok(vv_file_truncate(f, 0)));
    cr_assert_eq(run_one(q, f, VV_IO_WRITE, big, 2 * DISK_BYTES).code, VV_NO_SPACE);
    cr_assert(vv_ok(vv_file_truncate(f, 0)));
    cr_assert_eq(run_one(q, f, VV_IO_WRITE_SYNC, big, 2 * DISK_BYTES).code, VV_NO_SPACE);
    cr_assert(vv_ok(vv_file_truncate(f, 0)));
    st = run_one(q, f, VV_IO_WRITE_SYNC, big, DISK_BYTES / 2);
    cr_assert(st.code == VV_OK, "errno %d", st.sys);

    free(big);
    vv_file_close(f);
    vv_io_queue_destroy(q);
    vv_io_backend_destroy(io);
    cr_assert_eq(umount(disk), 0);
    vv_tempdir_cleanup();
}
