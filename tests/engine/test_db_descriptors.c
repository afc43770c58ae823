/*
 * A process that has no descriptor left: writes are refused for as long as that lasts, and nothing fails for
 * good.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"

TestSuite(db_descriptors, .fini = vv_tempdir_cleanup, .timeout = 120);

#define VALUE_BYTES 4096
#define PUTS        300 /* several memtables and segments */

static varve_status put(uint64_t n) {
    char key[32];
    static char value[VALUE_BYTES];
    snprintf(key, sizeof key, "key%05" PRIu64, n);
    return varve_put(fx_db, key, strlen(key), value, sizeof value, NULL, NULL);
}

/* Until it is taken: a flush that failed is tried again after a while. */
static void put_at_last(uint64_t n) {
    uint64_t deadline_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    varve_status st;
    do
        st = put(n);
    while (st.code == VARVE_NO_MEMORY && vv_clock_mono_ns() < deadline_ns);
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
}

/* One more than the highest descriptor that is open, and `more`. */
static rlim_t limit_of(unsigned more) {
    int highest = 0;
    for (int fd = 0; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            highest = fd;
    return (rlim_t)highest + 1 + more;
}

/* With room for none to a few: whichever step it is that gets none, there is a number that has it fail. */
Test(db_descriptors, what_is_refused_for_want_of_one_is_taken_later) {
    struct rlimit before, few;
    uint64_t refused = 0;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (unsigned more = 0; more <= 4; more++) {
        fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
        few = before;
        few.rlim_cur = more == 4 ? 0 : limit_of(more);
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
        for (uint64_t n = 0; n < PUTS; n++) {
            varve_status st = put(n);
            cr_assert(varve_ok(st) || st.code == VARVE_NO_MEMORY, "%u more: %s", more,
                      varve_code_name(st.code));
            refused += !varve_ok(st);
        }
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
        for (uint64_t n = 0; n < PUTS; n++)
            put_at_last(n);
        fx_close();
    }
    cr_assert_gt(refused, 0);
}
