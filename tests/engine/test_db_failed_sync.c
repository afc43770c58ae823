/*
 * A sync that fails makes nothing durable, and the kernel may go on showing what it was for, as if it were.
 * What a database shows after it was opened again is there after a power cut all the same.
 */
#include <pthread.h>

#include "engine/db/db_impl.h"
#include "io/sim/io_sim.h"
#include "tests/engine/db_fixture.h"

static vv_sim_disk *disk;

/* The log's own thread makes segments meanwhile, whose syncs are not meant. */
static struct {
    pthread_mutex_t lock;
    int of_frames; /* syncs to fail: so many more, behind frames */
    int of_any;    /* of log files */
    char frame_path[64];
} failing = {.lock = PTHREAD_MUTEX_INITIALIZER};

static vv_sim_fault on_event(void *arg, const vv_sim_event *e) {
    (void)arg;
    bool fails = false;
    pthread_mutex_lock(&failing.lock);
    if (strstr(e->path, "wal-") && e->op == VV_SIM_WRITE && e->offset > 0)
        snprintf(failing.frame_path, sizeof failing.frame_path, "%s", e->path);
    if (strstr(e->path, "wal-") && e->op == VV_SIM_SYNC) {
        int *left = failing.of_any > 0                         ? &failing.of_any
                    : strcmp(e->path, failing.frame_path) == 0 ? &failing.of_frames
                                                               : NULL;
        fails = left && *left > 0;
        if (fails)
            --*left;
    }
    pthread_mutex_unlock(&failing.lock);
    return fails ? VV_SIM_FAULT_EIO : VV_SIM_FAULT_NONE;
}

static int set_failing(int of_frames, int of_any) {
    pthread_mutex_lock(&failing.lock);
    int left = failing.of_frames + failing.of_any;
    failing.of_frames = of_frames;
    failing.of_any = of_any;
    pthread_mutex_unlock(&failing.lock);
    return left;
}

static void open_disk(void) {
    const vv_sim_hooks hooks = {.fault = on_event};
    vv_error err;
    varve_options *o = fx_options("MEMTABLE_SIZE", "64KiB", "WAL_SEGMENT_SIZE", "256KiB", NULL);
    vv_sim_disk_set_hooks(disk, &hooks);
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), "/db", o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
}

/* Nothing that was not synced survives. */
static void cut_power(void) {
    const vv_sim_crash how = {.survival = VV_SIM_SURVIVES_SYNCED};
    vv_sim_disk *next = vv_sim_disk_crash(disk, &how);
    vv_sim_disk_destroy(disk);
    disk = next;
}

TestSuite(db_failed_sync);

/* What of it a failed sync makes durable all the same is the disk's to draw. */
#define DISKS 16

static void on_each_disk(void (*fn)(void)) {
    uint64_t seed = vv_test_seed();
    for (uint64_t i = 0; i < DISKS; i++) {
        const vv_sim_options o = {.seed = seed + i};
        disk = vv_sim_disk_create(&o);
        open_disk();
        fn();
        vv_sim_disk_destroy(disk);
    }
}

static void show_what_is_doubtful(void) {
    fx_put("before", "1");
    set_failing(1, 0);
    const varve_write_options named = {.client_id = 7, .sequence = 1};
    cr_assert_eq(varve_put(fx_db, "doubtful", 8, "2", 1, &named, NULL).code, VARVE_WAL_FAILED);
    vv_status_ignore(vv_db_unload(fx_db), "the log has failed");
    open_disk();
    /* The disk has it, or only shows it. Once it is acknowledged it has to be there. */
    uint64_t lsn;
    cr_assert(varve_ok(varve_put(fx_db, "doubtful", 8, "2", 1, &named, &lsn)));
    cr_assert_eq(lsn, 2);
    fx_put("behind", "3");
    fx_close();
    cut_power();
    open_disk();
    fx_expect("before", "1");
    fx_expect("doubtful", "2");
    fx_expect("behind", "3");
    fx_close();
}

Test(db_failed_sync, what_is_shown_after_it_survives_the_next_power_cut) {
    on_each_disk(show_what_is_doubtful);
}

static void fail_openings(void) {
    for (int i = 0; i < 30; i++)
        fx_put("acknowledged", "x");
    set_failing(1, 0);
    cr_assert_eq(varve_put(fx_db, "doubtful", 8, "2", 1, NULL, NULL).code, VARVE_WAL_FAILED);
    vv_status_ignore(vv_db_unload(fx_db), "the log has failed");
    /* Opening fails at one sync after the other, and the power goes. */
    for (int n = 1; n < 4; n++) {
        vv_error err;
        set_failing(0, n);
        varve_options *o = fx_options("MEMTABLE_SIZE", "64KiB", "WAL_SEGMENT_SIZE", "256KiB", NULL);
        vv_status st = vv_db_open_on(vv_sim_backend_create(disk), "/db", o, &fx_db, &err);
        varve_options_destroy(o);
        cr_assert_not(vv_ok(st));
        set_failing(0, 0);
        cut_power();
        open_disk();
        fx_expect("acknowledged", "x");
        cr_assert_geq(fx_stats().last_lsn, 30);
        fx_close();
    }
}

Test(db_failed_sync, the_end_of_the_log_is_whole_while_it_is_written_anew) {
    on_each_disk(fail_openings);
}

static void lose_close_frames(void) {
    for (int round = 0; round < 2; round++) {
        fx_put("key", "1");
        set_failing(1, 0);
        fx_close();
        cr_assert_eq(set_failing(0, 0), 0);
        open_disk();
    }
    fx_put("last", "2");
    fx_close();
    cut_power();
    open_disk();
    fx_expect("key", "1");
    fx_expect("last", "2");
    fx_close();
}

/* Closing does not fail for want of its own frame. */
Test(db_failed_sync, a_close_frame_that_is_not_there_is_not_missed) {
    on_each_disk(lose_close_frames);
}
