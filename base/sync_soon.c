/*
 * sync_soon.c - a lock that is asked for again and again for a moment.
 *
 * In a file of its own: the tests' scheduler takes the place of vv_mutex_trylock() by the linker, which sees
 * calls from one file to another alone.
 */
#include "base/sync.h"

#define SOON_TRIES 64 /* of some 20 ns each */

/* Tell the processor that this thread does nothing but ask. */
static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

bool vv_mutex_lock_soon(vv_mutex *m) {
    for (int i = 0; i < SOON_TRIES; i++) {
        if (vv_mutex_trylock(m))
            return true;
        relax();
    }
    return false;
}
