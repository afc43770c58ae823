/*
 * fuzz.h - what all fuzz targets share.
 *
 * A target is one file fuzz_<name>.c with LLVMFuzzerTestOneInput(). It is linked with libFuzzer (preset
 * `fuzz`), or with main.c, which gives it the files that are named on its command line: so that every
 * build, whatever its compiler and sanitizer, replays the corpora.
 *
 * Whatever the bytes are, the code under test answers with a status. A target fails by FUZZ_CHECK, by a
 * sanitizer, by an allocation beyond fuzz_allocation_max(), by libFuzzer's -timeout or by its
 * -rss_limit_mb.
 */
#ifndef VV_TESTS_FUZZ_H
#define VV_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/compiler.h"
#include "base/slice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What must hold whatever the input is. */
#define FUZZ_CHECK(condition, ...)                                                                           \
    do {                                                                                                     \
        if (VV_UNLIKELY(!(condition)))                                                                       \
            fuzz_fail(__FILE__, __LINE__, #condition, "failed; " __VA_ARGS__);                               \
    } while (0)

VV_NORETURN void fuzz_fail(const char *file, int line, const char *condition, const char *fmt, ...)
    VV_PRINTF(4, 5);

/*
 * From here on no single allocation by the code under test (base/alloc.h) may be larger than this; 0: no
 * bound. Any thread. The functions of base/alloc.h are wrapped by the linker for it.
 */
void fuzz_allocation_max(size_t bytes);

/* ---- the input as a stream of choices and bytes: at its end there are zeros and empty slices ---- */

/* Up to `bytes` of what is left. */
static inline vv_slice fuzz_take(vv_reader *r, size_t bytes) {
    return vv_read_bytes(r, VV_MIN(bytes, r->left_bytes));
}

/* All that is left. */
static inline vv_slice fuzz_rest(vv_reader *r) {
    return vv_read_bytes(r, r->left_bytes);
}

/* Bytes of one's own, exactly as long, so that a read behind the end is seen. Freed by the caller. Aligned as
 * direct I/O wants it. */
static inline uint8_t *fuzz_copy(vv_slice s) {
    void *copy = NULL;
    FUZZ_CHECK(posix_memalign(&copy, 64, s.bytes ? s.bytes : 1) == 0);
    if (s.bytes)
        memcpy(copy, s.data, s.bytes);
    return copy;
}

#endif
