#include <criterion/criterion.h>
#include <time.h>

#include "base/clock.h"

Test(clock, monotonic_time_never_goes_back_and_moves) {
    uint64_t start = vv_clock_mono_ns(), last = start;
    do {
        uint64_t now = vv_clock_mono_ns();
        cr_assert_geq(now, last);
        last = now;
    } while (last - start < VV_NS_PER_MS);
}

Test(clock, both_clocks_are_the_kernels_in_their_units) {
    struct timespec ts;
    uint64_t mono = vv_clock_mono_ns();
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t kernel = (uint64_t)ts.tv_sec * VV_NS_PER_S + (uint64_t)ts.tv_nsec;
    cr_assert_leq(mono, kernel);
    cr_assert_lt(kernel - mono, 10 * VV_NS_PER_S);

    uint64_t unix_ms = vv_clock_unix_ms();
    uint64_t seconds = (uint64_t)time(NULL);
    cr_assert_leq(unix_ms / 1000, seconds);
    cr_assert_lt(seconds - unix_ms / 1000, 10);
}
