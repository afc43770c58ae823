/*
 * The end of a log that nobody calls durable: what was acknowledged of it is there after a kill, a power cut
 * anywhere in the opening, and another one.
 */
#include "engine/wal/wal_impl.h"
#include "io/sim/io_sim.h"
#include "tests/engine/wal_fixture.h"

#define PROVEN   5
#define UNPROVEN 4
#define RECORDS  (PROVEN + UNPROVEN)
#define SEGMENT  (64 * 1024)

static vv_sim_disk *disk;

static void setup(void) {
    snprintf(fx_dir, sizeof fx_dir, "/log");
    fx_options.segment_bytes = SEGMENT;
    fx_options.slot_count = 8;
}

TestSuite(wal_carry, .init = setup, .timeout = 120);

static void format(uint64_t capacity_bytes) {
    const vv_sim_options o = {.seed = 1, .capacity_bytes = capacity_bytes};
    disk = vv_sim_disk_create(&o);
    fx_io = vv_sim_backend_create(disk);
    must(vv_dir_create(fx_io, fx_dir, &fx_err));
    must(vv_dir_sync(fx_io, "/", &fx_err));
}

/* From here on `image` is the disk. */
static void change_to(vv_sim_disk *image) {
    vv_io_backend_destroy(fx_io);
    vv_sim_disk_destroy(disk);
    disk = image;
    fx_io = vv_sim_backend_create(disk);
}

/* All of them durable and acknowledged, the last ones while the log could not tell the next frame so. */
static void write_frames(void) {
    fx_put(PROVEN);
    fx_wal->awaiting = true; /* what is done does not count as such before collect() */
    for (int i = 1; i <= UNPROVEN; i++) {
        must(fx_append(fx_wal, PROVEN + (uint64_t)i));
        vv_wal_commit(fx_wal, false);
    }
    must(vv_wal_collect(fx_wal));
    must(vv_wal_sync(fx_wal));
    vv_wal_stats s;
    vv_wal_stats_get(fx_wal, &s);
    cr_assert_eq(s.durable_lsn, RECORDS);
}

/* The next segment is ready then, whatever the log's thread has got to. */
static void await_ready(void) {
    char path[64];
    bool exists = false;
    snprintf(path, sizeof path, "%s/wal-%016x.log", fx_dir, 2);
    while (!exists)
        must(vv_path_exists(fx_io, path, &exists, &fx_err));
}

static void die(void) {
    vv_sim_disk *image = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    must(vv_wal_close(fx_wal));
    change_to(image);
}

static uint64_t cut_at; /* event */

static vv_sim_fault cut_power(void *arg, const vv_sim_event *e) {
    (void)arg;
    if (e->number == cut_at)
        vv_sim_disk_power_off(disk);
    return VV_SIM_FAULT_NONE;
}

static void expect_all(uint64_t count) {
    fx_open(0);
    cr_assert_eq(fx_replayed, count);
    cr_assert_eq(fx_replay_count, count);
    must(vv_wal_close(fx_wal));
}

/* The power goes before each step of an opening in turn, and takes what is not synced, or some of it. */
Test(wal_carry, is_whole_wherever_the_power_goes) {
    uint64_t seed = vv_test_seed();
    format(0);
    fx_open(0);
    write_frames();
    await_ready();
    die();
    vv_sim_disk *killed = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    const vv_sim_hooks hooks = {.fault = cut_power};
    bool opened = false;
    int failed = 0;
    for (uint64_t n = 1; !opened; n++) {
        for (int way = 0; way < 3; way++) {
            const vv_sim_crash how = {
                .survival = way == 0 ? VV_SIM_SURVIVES_SYNCED : VV_SIM_SURVIVES_SOME,
                .seed = vv_test_random(&seed),
                .destroys = way == 2,
                .shows_stale = way == 2,
            };
            change_to(vv_sim_disk_crash(killed, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL}));
            cut_at = n;
            vv_sim_disk_set_hooks(disk, &hooks);
            opened = vv_ok(fx_open_status(0));
            failed += !opened;
            vv_sim_disk *image = vv_sim_disk_crash(disk, &how);
            if (opened)
                vv_status_ignore(vv_wal_close(fx_wal), "the power may have gone");
            change_to(image);
            expect_all(RECORDS);
        }
    }
    cr_assert_gt(failed, 20);
    change_to(killed);
    expect_all(RECORDS);
    vv_io_backend_destroy(fx_io);
    vv_sim_disk_destroy(disk);
}

/* The log goes on behind it, in the same segment, and is found there by recovery and by cursors. */
Test(wal_carry, is_what_the_log_goes_on_from) {
    format(0);
    fx_open(0);
    write_frames();
    uint64_t count = RECORDS;
    for (int round = 0; round < 4; round++) {
        die();
        fx_open(0);
        cr_assert_eq(fx_replay_count, count);
        vv_wal_cursor *c;
        vv_record rec;
        uint64_t oldest_lsn, seen = 0;
        must(vv_wal_cursor_open(fx_wal, 0, &c, &oldest_lsn));
        vv_wal_cursor_from_disk(c);
        while (vv_ok(vv_wal_cursor_next(c, UINT64_MAX, &rec, &oldest_lsn)))
            cr_assert_eq(rec.first_lsn, ++seen);
        cr_assert_eq(seen, count);
        cr_assert_eq(vv_wal_cursor_behind_bytes(c), 0);
        vv_wal_cursor_close(c);
        if (round % 2 == 0) {
            fx_put(1 + (uint64_t)round);
            count += 1 + (uint64_t)round;
        }
    }
    must(vv_wal_close(fx_wal));
    expect_all(count);
    vv_io_backend_destroy(fx_io);
    vv_sim_disk_destroy(disk);
}

static void die_and_open(void) {
    die();
    fx_open(0);
    cr_assert_eq(fx_replay_count, RECORDS);
}

/* A kill costs an opening no room: the segment that was ready takes all of it. */
Test(wal_carry, needs_no_room_on_a_full_disk) {
    format(2 * SEGMENT); /* the current one and the one that is ready */
    fx_open(0);
    write_frames();
    await_ready();
    die_and_open();
    die(); /* and no other is ready this time */
    cr_assert_eq(fx_open_status(0).code, VV_NO_SPACE);
    cr_assert(strstr(fx_err.text, "a log segment of 65536 bytes"), "%s", fx_err.text);
    vv_io_backend_destroy(fx_io);
    vv_sim_disk_destroy(disk);
}

/* Neither a kill after another does: without room for a segment a small one is made, which goes again. */
Test(wal_carry, makes_do_with_little_room) {
    fx_options.segment_bytes = 4 << 20;
    format(2 * (4 << 20) + 2 * (1 << 20));
    fx_open(0);
    write_frames();
    await_ready();
    for (int round = 0; round < 4; round++)
        die_and_open();
    cr_assert(strstr(fx_log, "began one of 1048576"), "%s", fx_log);
    fx_put(3);
    must(vv_wal_close(fx_wal));
    expect_all(RECORDS + 3);
    vv_io_backend_destroy(fx_io);
    vv_sim_disk_destroy(disk);
}
