/*
 * backends.h - the backends that the conformance suite runs over. A further one is a line in the list.
 */
#ifndef VV_TESTS_IO_BACKENDS_H
#define VV_TESTS_IO_BACKENDS_H

#include <criterion/criterion.h>

#include "io/io.h"
#include "io/sim/io_sim.h"
#include "tests/support/tempdir.h"

typedef struct test_backend {
    const char *name;
    vv_status (*create)(vv_io_backend **out, vv_error *err); /* UNSUPPORTED skips the test, with its words */
    const char *(*root)(void); /* a path below which the backend can make directories; called once a test */
} test_backend;

static vv_status create_posix(vv_io_backend **out, vv_error *err) {
    return vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, out, err);
}

static vv_status create_uring(vv_io_backend **out, vv_error *err) {
    return vv_io_backend_create(VV_IO_CHOICE_URING, NULL, out, err);
}

/* The disk lives as long as the test's process. */
static vv_status create_sim(vv_io_backend **out, vv_error *err) {
    static vv_sim_disk *disk;
    if (!disk)
        disk = vv_sim_disk_create(&(vv_sim_options){.seed = vv_test_seed()});
    *out = vv_sim_backend_create(disk);
    vv_status st = vv_dir_create(*out, "/disk", err);
    return vv_is(st, VV_EXISTS) ? VV_STATUS_OK : st;
}

static const char *sim_root(void) {
    return "/disk";
}

static const test_backend test_backends[] = {
    {"uring", create_uring, vv_tempdir},
    {"posix", create_posix, vv_tempdir},
    {"sim", create_sim, sim_root},
};

#define TEST_BACKEND_COUNT (sizeof test_backends / sizeof test_backends[0])

#endif
