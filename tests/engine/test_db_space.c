/*
 * Who may take what is left of the disk, and who hears of room that has come: space.c, on a disk that says
 * what the test wants. One that is really full: test_db_no_space.c.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_space, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

#define VALUE_BYTES 10000
#define PLENTY      (UINT64_C(1) << 40)

/* Bounded, so that a failure says where. */
#define eventually(condition)                                                                                \
    do {                                                                                                     \
        uint64_t until_ = vv_clock_mono_ns() + 60 * VV_NS_PER_S;                                             \
        while (!(condition)) {                                                                               \
            cr_assert_lt(vv_clock_mono_ns(), until_, "never: " #condition);                                  \
            sched_yield();                                                                                   \
        }                                                                                                    \
    } while (0)

static _Atomic uint64_t free_bytes = PLENTY;
static _Atomic uint32_t gave_up, refused;
static _Atomic uint64_t gave_up_ns;

static void on_log(void *arg, varve_log_level level, const char *line) {
    (void)arg;
    (void)level;
    if (strstr(line, "the space that is left is needed for flushes")) {
        atomic_store(&gave_up_ns, vv_clock_mono_ns());
        atomic_fetch_add(&gave_up, 1);
    }
    if (strstr(line, "puts are refused"))
        atomic_fetch_add(&refused, 1);
}

static vv_status nothing_fails(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)op;
    (void)name;
    return VV_STATUS_OK;
}

static void open_with(vv_fault_space_fn space) {
    varve_options *o = fx_options("WAL_SEGMENT_SIZE", "256KiB", "MEMTABLE_SIZE", "1MiB", "COMPACTION_STYLE",
                                  "tiered", "COMPACTION_THRESHOLD", "4", NULL);
    varve_options_set_log(o, on_log, NULL, VARVE_LOG_DEBUG);
    vv_io_backend *io = vv_fault_io_create(nothing_fails, NULL);
    vv_fault_io_set_space(io, space, NULL);
    vv_error err;
    vv_status st = vv_db_open_on(io, vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
}

static varve_status put(void) {
    static char value[VALUE_BYTES];
    return varve_put(fx_db, "k", 1, value, sizeof value, NULL, NULL);
}

/* A table of its own for so many puts. */
static void put_and_flush(int count) {
    for (int i = 0; i < count; i++)
        cr_assert(varve_ok(put()));
    cr_assert(varve_ok(varve_flush(fx_db)));
}

/* ---- merges ---- */

static uint64_t as_told(void *arg) {
    (void)arg;
    return atomic_load(&free_bytes);
}

/*
 * One that gave up is tried again by the clock, after a second at the earliest; it has to hear of room
 * before. On a busy machine it may not get to run so soon: once in several rounds is the proof.
 */
Test(db_space, a_merge_that_gave_up_goes_on_as_soon_as_there_is_room) {
    open_with(as_told);
    bool at_once = false;
    for (int round = 0; round < 20 && !at_once; round++) {
        uint32_t before = atomic_load(&gave_up);
        atomic_store(&free_bytes, UINT64_C(6) << 20); /* puts find room, merges don't */
        for (int i = 0; i < 4; i++)
            put_and_flush(40);
        eventually(atomic_load(&gave_up) > before);
        uint64_t merges = fx_stats().compactions;
        atomic_store(&free_bytes, PLENTY);
        put_and_flush(1);
        eventually(fx_stats().compactions > merges);
        at_once = vv_clock_mono_ns() - atomic_load(&gave_up_ns) < VV_NS_PER_S;
    }
    cr_assert(at_once);
    fx_close();
}

/* Room for what is left when it has begun is not room for all of it: it would give up again and again. */
Test(db_space, a_merge_waits_for_room_for_all_that_it_takes) {
    open_with(as_told);
    atomic_store(&free_bytes, UINT64_C(6) << 20);
    for (int i = 0; i < 4; i++)
        put_and_flush(40);
    eventually(atomic_load(&gave_up) > 0);
    atomic_store(&free_bytes, UINT64_C(7) << 20); /* it takes 1.6 MB, and 6.25 MiB are kept from it */
    for (int i = 0; i < 10; i++)
        put_and_flush(1);
    uint64_t merges = fx_stats().compactions;
    if (vv_clock_mono_ns() - atomic_load(&gave_up_ns) < VV_NS_PER_S) /* else the clock may have come to it */
        cr_assert_eq(merges, 0);
    fx_close();
}

/* ---- puts ---- */

static pthread_t looker;
static _Atomic bool armed;

static void *drop(void *arg) {
    (void)arg;
    varve_error err;
    cr_assert(varve_ok(varve_slot_drop(fx_db, "away", &err)), "%s", err.text);
    return NULL;
}

/* What is free, as it was before the log that the slot held went. */
static uint64_t stale_once(void *arg) {
    (void)arg;
    if (!atomic_load(&armed) || !pthread_equal(pthread_self(), looker) || !atomic_exchange(&armed, false))
        return PLENTY;
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, drop, NULL), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    eventually(fx_stats().wal_segment_count < 5);
    return 0;
}

/*
 * Between the look at the disk and that at the log, the log's thread takes away what nobody holds any more:
 * it is found in the one place or in the other.
 */
Test(db_space, log_that_goes_while_the_disk_is_looked_at_is_not_missed) {
    open_with(stale_once);
    cr_assert(varve_ok(varve_slot_create(fx_db, "away", 0, &fx_err)), "%s", fx_err.text);
    put_and_flush(250);
    cr_assert_gt(fx_stats().wal_segment_count, 9, "%" PRIu64, fx_stats().wal_segment_count);
    looker = pthread_self();
    atomic_store(&armed, true);
    for (int i = 0; i < 100 && atomic_load(&armed); i++) /* it looks once a segment's worth of log */
        cr_assert(varve_ok(put()));
    cr_assert(!atomic_load(&armed), "nobody has looked");
    cr_assert(varve_ok(put()));
    cr_assert_eq(atomic_load(&refused), 0);
    fx_close();
}
