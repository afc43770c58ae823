#include <criterion/criterion.h>

#include "rpc/lag_clock.h"

static const uint64_t MS = 1000000;

Test(lag_clock, who_has_everything_is_not_behind) {
    vv_lag_clock c;
    vv_lag_clock_init(&c, 10);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 0);
    vv_lag_clock_heard(&c, 10, 5 * MS);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 0);
    vv_lag_clock_heard(&c, 11, 6 * MS);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 6 * MS);
    vv_lag_clock_applied(&c, 11);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 0);
}

Test(lag_clock, is_as_old_as_the_oldest_write_that_is_missing) {
    vv_lag_clock c;
    vv_lag_clock_init(&c, 0);
    for (uint64_t i = 1; i <= 10; i++)
        vv_lag_clock_heard(&c, i * 100, i * 10 * MS);
    vv_lag_clock_applied(&c, 399);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 40 * MS);
    vv_lag_clock_applied(&c, 400);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 50 * MS);
    vv_lag_clock_heard(&c, 900, 500 * MS); /* older news */
    vv_lag_clock_applied(&c, 1000);
    cr_expect_eq(vv_lag_clock_behind_since(&c), 0);
}

/* A follower that stays behind for hours, and one that is never up to date but always close. */
Test(lag_clock, a_long_lag_is_told_to_within_a_share_of_itself) {
    vv_lag_clock c;
    vv_lag_clock_init(&c, 0);
    for (uint64_t ms = 1; ms <= 3600000; ms++)
        vv_lag_clock_heard(&c, ms, ms * MS);
    cr_expect_leq(c.count, VV_LAG_SAMPLES);
    cr_expect_eq(vv_lag_clock_behind_since(&c), MS, "the oldest is kept");
    for (uint64_t ms = 100000; ms < 3600000; ms += 100000) {
        vv_lag_clock_applied(&c, ms);
        uint64_t since = vv_lag_clock_behind_since(&c);
        cr_expect_leq(since, (ms + 1) * MS, "%lu", ms);
        cr_expect_geq(since + 3600000 * MS / 20, ms * MS, "%lu", ms);
    }
}

Test(lag_clock, a_steady_follower_is_steadily_a_little_behind) {
    vv_lag_clock c;
    vv_lag_clock_init(&c, 0);
    for (uint64_t ms = 1; ms <= 100000; ms++) {
        vv_lag_clock_heard(&c, ms, ms * MS);
        if (ms <= 20)
            continue;
        vv_lag_clock_applied(&c, ms - 20);
        uint64_t behind = ms * MS - vv_lag_clock_behind_since(&c);
        cr_assert(behind >= 14 * MS && behind <= 26 * MS, "%lu: %lu", ms, behind);
    }
}
