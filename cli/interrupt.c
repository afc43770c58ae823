#include "cli/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>

#include "base/clock.h"

static volatile sig_atomic_t interrupted;

static void remember(int signal) {
    (void)signal;
    interrupted = 1;
}

void vv_interrupt_catch(void) {
    struct sigaction action = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};
    interrupted = 0;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool vv_interrupted(void) {
    return interrupted != 0;
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
