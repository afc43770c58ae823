/*
 * tsan_arena.c - lets Criterion's sandbox live inside ThreadSanitizer's address space.
 *
 * BoxFort, the sandbox below Criterion, maps its arena at 0x200000000000 plus a random number of 16 MiB
 * steps, and draws that number with rand_r(). ThreadSanitizer refuses a fixed mapping outside its own ranges,
 * and every test program would end with "Could not initialize inheritable arena". This rand_r(), which the
 * dynamic linker finds before that of the C library, draws only steps that end up above every position
 * of a position-independent program and inside the range that ThreadSanitizer reserves for one.
 */
#include "base/compiler.h"

#ifdef VV_TSAN

#include <stdlib.h>

#define FIRST_STEP 0x366000u /* 0x566000000000 */
#define STEP_COUNT 0x2000u   /* to 0x568000000000 */

__attribute__((visibility("default"))) int rand_r(unsigned int *seed) {
    *seed = *seed * 1103515245u + 12345u;
    return (int)(FIRST_STEP + (*seed >> 16) % STEP_COUNT);
}

#else
typedef int vv_tsan_arena_not_needed;
#endif
