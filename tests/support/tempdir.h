/*
 * tempdir.h - a directory of the test's own, gone when the test is.
 */
#ifndef VV_TESTS_TEMPDIR_H
#define VV_TESTS_TEMPDIR_H

#include <stdint.h>

/* Make a fresh directory below $TMPDIR (or /tmp) and remember it; the path stays valid for the process. */
const char *vv_tempdir(void);

/* "<tempdir>/<name>" in one of 16 static buffers. */
const char *vv_tempdir_path(const char *name);

/* Remove every directory that vv_tempdir() made in this process. Use as the test's .fini. */
void vv_tempdir_cleanup(void);

/* The seed of a random test: $VARVE_TEST_SEED, else from the clock; printed so that a failure can be
 * replayed. */
uint64_t vv_test_seed(void);

/* xorshift64*: good enough for tests, the same everywhere. *state must not be 0. */
uint64_t vv_test_random(uint64_t *state);

#endif
