#include "cli/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#include "base/clock.h"

/* Lock-free, as a signal handler needs it; threads look at it, too. */
static _Atomic bool interrupted;
_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "for signal handlers");

static void remember(int signal) {
    (void)signal;
    atomic_store(&interrupted, true);
}

void vv_interrupt_catch(void) {
    struct sigaction action = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};
    atomic_store(&interrupted, false);
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool vv_interrupted(void) {
    return atomic_load(&interrupted);
}

void vv_sleep_until(uint64_t deadline_ns) {
    uint64_t now_ns;
    while (!vv_interrupted() && (now_ns = vv_clock_mono_ns()) < deadline_ns) {
        uint64_t left_ns = deadline_ns - now_ns;
        struct timespec left = {.tv_sec = (time_t)(left_ns / VV_NS_PER_S),
                                .tv_nsec = (long)(left_ns % VV_NS_PER_S)};
        nanosleep(&left, NULL);
    }
}
