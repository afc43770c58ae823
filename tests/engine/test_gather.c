/*
 * When the writer waits for more writes, as a function of what came of it before.
 */
#include <criterion/criterion.h>

#include "engine/db/gather.h"

#define COMMIT_NS UINT64_C(80000)

static vv_gather g;

static uint32_t committed(uint32_t answered, uint32_t queued) {
    vv_gather_committed(&g, answered, queued, COMMIT_NS);
    return g.wanted;
}

Test(gather, those_who_were_answered_are_awaited_beside_those_who_queue) {
    cr_assert_eq(committed(1, 1), 2);
    cr_assert_eq(committed(7, 9), 16);
    cr_assert_eq(committed(VV_GATHER_COUNT_MAX, 0), VV_GATHER_COUNT_MAX);
}

Test(gather, nobody_is_awaited_where_it_makes_no_sense) {
    cr_assert_eq(committed(1, 0), 0, "who is alone");
    cr_assert_eq(committed(0, 9), 0, "nobody waits for an answer");
    cr_assert_eq(committed(20, VV_GATHER_COUNT_MAX), 0, "too many");
}

Test(gather, a_wait_is_no_longer_than_a_commit) {
    (void)committed(2, 2);
    cr_assert_eq(vv_gather_wait_ns(&g), COMMIT_NS);
    for (int i = 0; i < 100; i++)
        vv_gather_committed(&g, 2, 2, COMMIT_NS / 2);
    cr_assert_leq(vv_gather_wait_ns(&g), COMMIT_NS / 2 + COMMIT_NS / 10, "the average follows");
    for (int i = 0; i < 100; i++)
        vv_gather_committed(&g, 2, 2, UINT64_C(1000000000));
    cr_assert_eq(vv_gather_wait_ns(&g), VV_GATHER_NS_MAX);
}

/* Commits until the next one that waits. */
static uint32_t commits_without_wait(void) {
    uint32_t n = 0;
    while (committed(4, 4) == 0)
        n++;
    return n;
}

Test(gather, in_vain_it_is_tried_ever_less_often) {
    uint32_t expected = 1;
    cr_assert_eq(commits_without_wait(), 0);
    for (int i = 0; i < 15; i++) {
        vv_gather_done(&g, 7); /* one is missing */
        cr_assert_eq(g.wanted, 0);
        cr_assert_eq(commits_without_wait(), expected);
        expected = expected < VV_GATHER_SKIP_MAX ? 2 * expected : expected;
    }
    vv_gather_done(&g, 8);
    cr_assert_eq(commits_without_wait(), 0, "all came: that counts");
    vv_gather_done(&g, 7);
    cr_assert_eq(commits_without_wait(), 1, "and what was before is forgotten");
}
