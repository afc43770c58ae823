/*
 * How much writers are slowed, as a function of how far behind the disk side is.
 */
#include <criterion/criterion.h>
#include <inttypes.h>

#include "engine/db/flow.h"

#define MIB    (UINT64_C(1) << 20)
#define MAX_NS (UINT64_C(1000) * VV_FLOW_DELAY_US_MAX)

static vv_flow_inputs idle(void) {
    return (vv_flow_inputs){
        .sealed_max = 4, .memtable_bytes = 64 * MIB, .run_threshold = 4, .debt_limit_bytes = 1024 * MIB};
}

Test(flow, nothing_behind_is_no_pressure) {
    vv_flow_inputs in = idle();
    cr_assert_eq(vv_flow_pressure(&in), 0);
    in.active_bytes = 64 * MIB;
    cr_assert_eq(vv_flow_pressure(&in), 0, "a full memtable alone is nothing to wait for");
    in.sealed_max = 1;
    cr_assert_eq(vv_flow_pressure(&in), 0, "not even where only one may wait");
}

Test(flow, memory_presses_from_half_of_the_queue_to_all_of_it) {
    vv_flow_inputs in = idle();
    in.sealed_count = 2;
    cr_assert_eq(vv_flow_pressure(&in), 0);
    in.active_bytes = 1 * MIB;
    cr_assert_gt(vv_flow_pressure(&in), 0);
    in.sealed_count = 4;
    in.active_bytes = 0;
    cr_assert_lt(vv_flow_pressure(&in), VV_FLOW_FULL);
    in.active_bytes = 64 * MIB;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL, "the next seal has to wait");
    in.active_bytes = 640 * MIB;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL);
    in.sealed_count = 64;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL);
}

Test(flow, sealing_a_full_memtable_changes_nothing) {
    for (uint32_t max = 1; max <= 64; max++)
        for (uint32_t sealed = 0; sealed < max; sealed++) {
            vv_flow_inputs in = idle();
            in.sealed_max = max;
            in.sealed_count = sealed;
            in.active_bytes = in.memtable_bytes;
            uint32_t before = vv_flow_pressure(&in);
            in.sealed_count++;
            in.active_bytes = 0;
            cr_assert_eq(vv_flow_pressure(&in), before, "%u of %u", sealed, max);
        }
}

Test(flow, level_0_presses_from_2_to_5_times_the_threshold) {
    vv_flow_inputs in = idle();
    in.level0_runs = 8;
    cr_assert_eq(vv_flow_pressure(&in), 0);
    in.level0_runs = 9;
    cr_assert_gt(vv_flow_pressure(&in), 0);
    in.level0_runs = 14;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL / 2);
    in.level0_runs = 20;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL);
    in.level0_runs = UINT32_MAX;
    in.run_threshold = 64;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL);
}

Test(flow, debt_presses_from_a_quarter_of_its_limit) {
    vv_flow_inputs in = idle();
    in.debt_bytes = 256 * MIB;
    cr_assert_eq(vv_flow_pressure(&in), 0);
    in.debt_bytes = 640 * MIB;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL / 2);
    in.debt_bytes = UINT64_MAX;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL);
    in.debt_limit_bytes = 0;
    cr_assert_eq(vv_flow_pressure(&in), 0, "no limit");
}

Test(flow, the_highest_pressure_counts) {
    vv_flow_inputs in = idle();
    in.level0_runs = 14;
    in.debt_bytes = 300 * MIB;
    in.sealed_count = 3;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL / 2);
    in.debt_bytes = 1024 * MIB;
    cr_assert_eq(vv_flow_pressure(&in), VV_FLOW_FULL);
}

Test(flow, no_pressure_or_no_bytes_is_no_delay) {
    cr_assert_eq(vv_flow_delay_ns(0, UINT64_MAX, 1), 0);
    cr_assert_eq(vv_flow_delay_ns(VV_FLOW_FULL, 0, 64 * MIB), 0);
}

Test(flow, the_rate_is_in_memtables_and_halves_with_each_tenth) {
    for (uint32_t step = 1; step <= 10; step++) {
        uint64_t ns = vv_flow_delay_ns(step * VV_FLOW_FULL / 10, 64, 64 * MIB);
        /* 64 of 64 Mi bytes at 64 memtables a second: 1e9 / 2^26 ns */
        double expected = 1e9 / (double)(1 << 26) * (double)(1u << step);
        cr_assert(ns <= expected && (double)ns > expected - 1, "step %u: %" PRIu64 " ns", step, ns);
        cr_assert_eq(ns, vv_flow_delay_ns(step * VV_FLOW_FULL / 10, 1, MIB), "the share counts");
    }
}

Test(flow, delay_grows_with_pressure_and_bytes_and_has_no_jumps) {
    for (uint64_t bytes = 1; bytes < UINT64_C(1) << 40; bytes *= 3) {
        uint64_t last = vv_flow_delay_ns(1, bytes, 4 * MIB);
        for (uint32_t p = 2; p <= VV_FLOW_FULL + 10; p++) {
            uint64_t ns = vv_flow_delay_ns(p, bytes, 4 * MIB);
            cr_assert_geq(ns, last);
            cr_assert_leq(ns, last + last / 50 + 1, "at %u the delay jumps", p);
            cr_assert_leq(ns, MAX_NS);
            cr_assert_geq(vv_flow_delay_ns(p, bytes + 1, 4 * MIB), ns);
            last = ns;
        }
    }
    cr_assert_eq(vv_flow_delay_ns(VV_FLOW_FULL, UINT64_MAX, 1), MAX_NS);
    cr_assert_eq(vv_flow_delay_ns(UINT32_MAX, 1, UINT64_MAX), 0);
}

/* The promise of the header: whatever the size of a memtable, a writer that never rests otherwise takes
 * seconds from the first delay to the limit, though nothing is flushed. */
Test(flow, the_limit_of_memory_is_seconds_away) {
    for (uint64_t memtable = 64 << 10; memtable <= UINT64_C(16) << 30; memtable *= 8) {
        vv_flow_inputs in = idle();
        in.memtable_bytes = memtable;
        uint64_t ns = 0, group = memtable / 512;
        for (in.sealed_count = 2; in.sealed_count <= 4; in.sealed_count++)
            for (in.active_bytes = 0; in.active_bytes < memtable; in.active_bytes += group)
                ns += vv_flow_delay_ns(vv_flow_pressure(&in), group, memtable);
        cr_assert(ns > UINT64_C(6500000000) && ns < UINT64_C(7500000000), "%" PRIu64 " bytes: %" PRIu64 " ns",
                  memtable, ns);
    }
}
