/*
 * The simulated disk's own claims: what a crash may leave, and what it may not. (What all backends promise is
 * test_io_conformance.c.)
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/sim/io_sim.h"
#include "tests/support/tempdir.h"

#define RW    (VV_OPEN_READ | VV_OPEN_WRITE)
#define SEEDS 200
#define PAGES 4

static vv_sim_disk *disk;
static vv_io_backend *io;

static void begin(const vv_sim_options *o) {
    disk = vv_sim_disk_create(o ? o : &(vv_sim_options){.seed = 1});
    io = vv_sim_backend_create(disk);
}

static void end(void) {
    vv_io_backend_destroy(io);
    vv_sim_disk_destroy(disk);
}

static void must(vv_status st) {
    cr_assert(vv_ok(st), "%s, errno %d", vv_code_name(st.code), st.sys);
}

static vv_file *open_on(vv_io_backend *b, const char *path, uint32_t flags) {
    vv_error err = {0};
    vv_file *f;
    vv_status st = vv_file_open(b, path, flags, &f, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    return f;
}

static void write_text(vv_file *f, const char *text, uint64_t offset) {
    must(vv_file_write(f, text, strlen(text), offset));
}

/* What is in the file of a disk, as text: "-" if there is none. Static. */
static const char *text_on(vv_sim_disk *d, const char *path) {
    static char text[256];
    vv_io_backend *b = vv_sim_backend_create(d);
    bool exists;
    must(vv_path_exists(b, path, &exists, NULL));
    strcpy(text, "-");
    if (exists) {
        size_t got;
        vv_file *f = open_on(b, path, VV_OPEN_READ);
        must(vv_file_read(f, text, sizeof text - 1, 0, &got));
        text[got] = '\0';
        vv_file_close(f);
    }
    vv_io_backend_destroy(b);
    return text;
}

/* The text after a crash of disk. */
static const char *after_crash(vv_sim_survival survival, uint64_t seed, const char *path) {
    vv_sim_disk *image = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = survival, .seed = seed});
    const char *text = text_on(image, path);
    vv_sim_disk_destroy(image);
    return text;
}

/* How many of the seeds' crashes leave this text. */
static int count_of(const char *path, const char *wanted) {
    int count = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        count += strcmp(after_crash(VV_SIM_SURVIVES_SOME, seed, path), wanted) == 0;
    return count;
}

Test(sim, what_was_synced_survives_every_crash) {
    begin(NULL);
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    write_text(f, "kept", 0);
    must(vv_file_sync(f, VV_SYNC_DATA));
    must(vv_dir_sync(io, "/", NULL));
    vv_file_close(f);
    cr_assert_eq(count_of("/f", "kept"), SEEDS);
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_SYNCED, 0, "/f"), "kept");
    end();
}

Test(sim, what_was_not_synced_survives_or_not) {
    begin(NULL);
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    write_text(f, "old", 0);
    must(vv_file_sync(f, VV_SYNC_FULL));
    must(vv_dir_sync(io, "/", NULL));
    write_text(f, "new", 0);
    vv_file_close(f); /* syncs nothing */
    int olds = count_of("/f", "old"), news = count_of("/f", "new");
    cr_assert(olds > 0 && news > 0 && olds + news == SEEDS, "%d and %d", olds, news);
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_SYNCED, 0, "/f"), "old");
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_ALL, 0, "/f"), "new");
    cr_assert_str_eq(text_on(disk, "/f"), "new", "the disk itself is as it was");
    end();
}

Test(sim, the_name_of_a_synced_file_is_lost_without_a_sync_of_its_directory) {
    begin(NULL);
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    write_text(f, "data", 0);
    must(vv_file_sync(f, VV_SYNC_FULL));
    vv_file_close(f);
    int gone = count_of("/f", "-"), there = count_of("/f", "data");
    cr_assert(gone > 0 && there > 0 && gone + there == SEEDS, "%d and %d", gone, there);
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_SYNCED, 0, "/f"), "-");
    end();
}

Test(sim, a_rename_within_a_directory_happens_whole_or_not_at_all) {
    begin(NULL);
    vv_file *f = open_on(io, "/CURRENT", RW | VV_OPEN_CREATE);
    write_text(f, "one", 0);
    must(vv_file_sync(f, VV_SYNC_FULL));
    vv_file_close(f);
    must(vv_dir_sync(io, "/", NULL));
    f = open_on(io, "/tmp", RW | VV_OPEN_CREATE);
    write_text(f, "two", 0);
    must(vv_file_sync(f, VV_SYNC_FULL));
    vv_file_close(f);
    must(vv_path_rename(io, "/tmp", "/CURRENT", NULL));
    int one = count_of("/CURRENT", "one"), two = count_of("/CURRENT", "two");
    cr_assert(one > 0 && two > 0 && one + two == SEEDS, "%d and %d", one, two);
    must(vv_dir_sync(io, "/", NULL));
    cr_assert_eq(count_of("/CURRENT", "two"), SEEDS);
    cr_assert_eq(count_of("/tmp", "-"), SEEDS);
    end();
}

Test(sim, a_file_in_a_directory_whose_name_is_lost_is_lost) {
    begin(NULL);
    must(vv_dir_create(io, "/d", NULL));
    vv_file *f = open_on(io, "/d/f", RW | VV_OPEN_CREATE);
    write_text(f, "data", 0);
    must(vv_file_sync(f, VV_SYNC_FULL));
    vv_file_close(f);
    must(vv_dir_sync(io, "/d", NULL));
    int gone = count_of("/d/f", "-");
    cr_assert(gone > 0 && gone < SEEDS, "%d", gone);
    must(vv_dir_sync(io, "/", NULL));
    cr_assert_eq(count_of("/d/f", "data"), SEEDS);
    end();
}

/* Write PAGES pages of each of the letters, without a sync in between. */
static void write_letters(const char *letters) {
    static char page[4096];
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    must(vv_file_allocate(f, PAGES * sizeof page));
    must(vv_file_sync(f, VV_SYNC_FULL));
    must(vv_dir_sync(io, "/", NULL));
    for (; *letters; letters++) {
        memset(page, *letters, sizeof page);
        for (int i = 0; i < PAGES; i++)
            must(vv_file_write(f, page, sizeof page, (uint64_t)i * sizeof page));
    }
    vv_file_close(f);
}

/* After each seed's crash, look at all sectors; how many crashes left two neighbours with different letters
 * inside a page (torn), and a later page older than an earlier one (reordered). */
static void look_at_sectors(uint32_t sector_bytes, int *torn_out, int *reordered_out) {
    static char bytes[PAGES * 4096];
    *torn_out = *reordered_out = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        vv_sim_disk *image = vv_sim_disk_crash(
            disk,
            &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SOME, .seed = seed, .sector_bytes = sector_bytes});
        vv_io_backend *b = vv_sim_backend_create(image);
        vv_file *f = open_on(b, "/f", VV_OPEN_READ);
        size_t got;
        must(vv_file_read(f, bytes, sizeof bytes, 0, &got));
        vv_file_close(f);
        vv_io_backend_destroy(b);
        vv_sim_disk_destroy(image);
        cr_assert_eq(got, sizeof bytes);
        bool torn = false, reordered = false;
        for (size_t i = 0; i < sizeof bytes; i += 512) {
            for (size_t k = 1; k < 512; k++)
                cr_assert_eq(bytes[i + k], bytes[i], "torn inside a sector");
            cr_assert(bytes[i] == 0 || bytes[i] == 'a' || bytes[i] == 'b');
            torn |= i % 4096 != 0 && bytes[i] != bytes[i - 512];
            reordered |= i > 0 && bytes[i] > bytes[i - 512];
        }
        *torn_out += torn;
        *reordered_out += reordered;
    }
}

Test(sim, unsynced_writes_tear_at_sectors_and_are_reordered) {
    begin(NULL);
    write_letters("ab");
    int torn, reordered;
    look_at_sectors(512, &torn, &reordered);
    cr_assert(torn > 0 && torn < SEEDS && reordered > 0, "%d and %d", torn, reordered);
    look_at_sectors(4096, &torn, &reordered);
    cr_assert(torn == 0 && reordered > 0, "%d and %d", torn, reordered);
    end();
}

Test(sim, a_seed_is_an_image) {
    begin(NULL);
    write_letters("ab");
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        char first[256];
        strcpy(first, after_crash(VV_SIM_SURVIVES_SOME, seed, "/f"));
        cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_SOME, seed, "/f"), first);
    }
    end();
}

/* ---- faults ---- */

static vv_sim_fault wanted_fault;
static vv_sim_op wanted_op;

static vv_sim_fault once(void *arg, const vv_sim_event *e) {
    (void)arg;
    if (e->op != wanted_op)
        return VV_SIM_FAULT_NONE;
    vv_sim_fault fault = wanted_fault;
    wanted_fault = VV_SIM_FAULT_NONE;
    return fault;
}

static void next_fails(vv_sim_op op, vv_sim_fault fault) {
    wanted_op = op;
    wanted_fault = fault;
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){.fault = once});
}

Test(sim, a_failed_sync_leaves_pages_that_are_clean_and_not_durable) {
    int lost = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        begin(&(vv_sim_options){.seed = seed});
        vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
        must(vv_dir_sync(io, "/", NULL));
        write_text(f, "data", 0);
        next_fails(VV_SIM_SYNC, VV_SIM_FAULT_EIO);
        cr_assert_eq(vv_file_sync(f, VV_SYNC_FULL).code, VV_IO);
        must(vv_file_sync(f, VV_SYNC_FULL)); /* finds nothing to do */
        cr_assert_str_eq(text_on(disk, "/f"), "data");
        const char *text = after_crash(VV_SIM_SURVIVES_ALL, 0, "/f");
        lost += strcmp(text, "data") != 0;
        vv_file_close(f);
        end();
    }
    cr_assert(lost > 0 && lost < 50, "%d", lost);
}

Test(sim, a_broken_chain_has_written_a_part_and_synced_nothing) {
    begin(NULL);
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    must(vv_dir_sync(io, "/", NULL));
    static char page[4096];
    memset(page, 'x', sizeof page);
    next_fails(VV_SIM_WRITE, VV_SIM_FAULT_PARTIAL);
    cr_assert_eq(vv_file_write_sync(f, page, sizeof page, 0).code, VV_IO);
    uint64_t bytes;
    must(vv_file_size(f, &bytes));
    cr_assert_lt(bytes, sizeof page);
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_SYNCED, 0, "/f"), "");
    vv_file_close(f);
    end();
}

Test(sim, short_and_interrupted_transfers_go_on_in_events_of_their_own) {
    static const vv_sim_fault faults[] = {VV_SIM_FAULT_SHORT, VV_SIM_FAULT_EINTR};
    for (size_t i = 0; i < 2; i++) {
        begin(NULL);
        vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
        next_fails(VV_SIM_WRITE, faults[i]);
        uint64_t before = vv_sim_disk_events(disk);
        write_text(f, "hello, world", 0);
        cr_assert_eq(vv_sim_disk_events(disk), before + 2);
        next_fails(VV_SIM_READ, faults[i]);
        char text[16] = "";
        size_t got;
        must(vv_file_read(f, text, 12, 0, &got));
        cr_assert_str_eq(text, "hello, world");
        cr_assert_eq(vv_sim_disk_events(disk), before + 4);
        cr_assert_eq(vv_sim_disk_faults(disk, faults[i]), 2u);
        vv_file_close(f);
        end();
    }
}

Test(sim, a_flipped_bit_is_wrong_once) {
    begin(NULL);
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    write_text(f, "hello", 0);
    next_fails(VV_SIM_READ, VV_SIM_FAULT_BIT_FLIP);
    char text[6] = "";
    size_t got;
    must(vv_file_read(f, text, 5, 0, &got));
    int bits = 0;
    for (int i = 0; i < 5; i++)
        bits += __builtin_popcount((unsigned)(text[i] ^ "hello"[i]));
    cr_assert_eq(bits, 1);
    must(vv_file_read(f, text, 5, 0, &got));
    cr_assert_str_eq(text, "hello");
    vv_file_close(f);
    end();
}

Test(sim, a_write_may_be_lost_or_land_elsewhere_and_succeeds) {
    begin(NULL);
    write_letters("a");
    vv_file *f = open_on(io, "/f", RW);
    next_fails(VV_SIM_WRITE, VV_SIM_FAULT_LOST_WRITE);
    write_text(f, "lost", 0);
    cr_assert_eq(strncmp(text_on(disk, "/f"), "aaaa", 4), 0);
    next_fails(VV_SIM_WRITE, VV_SIM_FAULT_MISDIRECTED);
    write_text(f, "there", 100 * 4096);
    uint64_t bytes;
    must(vv_file_size(f, &bytes));
    cr_assert_eq(bytes, PAGES * 4096u);
    vv_file_close(f);
    end();
}

Test(sim, a_full_disk_refuses_what_grows_and_has_space_again_after_an_unlink) {
    begin(&(vv_sim_options){.seed = 1, .capacity_bytes = 16 * 4096});
    static char page[4096];
    vv_file *a = open_on(io, "/a", RW | VV_OPEN_CREATE), *b = open_on(io, "/b", RW | VV_OPEN_CREATE);
    must(vv_file_allocate(a, 15 * 4096));
    must(vv_file_write(b, page, sizeof page, 0));
    cr_assert_eq(vv_file_write(b, page, sizeof page, sizeof page).code, VV_NO_SPACE);
    cr_assert_eq(vv_file_allocate(a, 16 * 4096).code, VV_NO_SPACE);
    must(vv_file_write(a, page, sizeof page, 0));
    uint64_t free_bytes;
    must(vv_dir_free_bytes(io, "/", &free_bytes, NULL));
    cr_assert_eq(free_bytes, 0u);
    vv_file_close(a);
    must(vv_path_unlink(io, "/a", NULL));
    must(
        vv_dir_sync(io, "/", NULL)); /* until then a crash may bring the name back, and its blocks are kept */
    must(vv_file_write(b, page, sizeof page, sizeof page));
    vv_file_close(b);
    end();
}

Test(sim, nothing_works_and_nothing_changes_once_the_power_is_off) {
    begin(NULL);
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    write_text(f, "data", 0);
    vv_sim_disk_power_off(disk);
    cr_assert_eq(vv_file_write(f, "x", 1, 0).code, VV_IO);
    cr_assert_eq(vv_file_sync(f, VV_SYNC_FULL).code, VV_IO);
    cr_assert_eq(vv_dir_sync(io, "/", NULL).code, VV_IO);
    cr_assert_eq(vv_path_unlink(io, "/f", NULL).code, VV_IO);
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_ALL, 0, "/f"), "data");
    cr_assert_str_eq(after_crash(VV_SIM_SURVIVES_SYNCED, 0, "/f"), "-");
    vv_file_close(f);
    end();
}

static int seen_events;

static void count_event(void *arg, const vv_sim_event *e) {
    (void)arg;
    cr_assert_eq(e->number, (uint64_t)++seen_events);
}

Test(sim, a_plan_is_a_function_of_seed_and_event_and_fits) {
    begin(NULL);
    static vv_sim_plan plan = {.seed = 7, .from_event = 3};
    for (int f = 1; f < VV_SIM_FAULT_COUNT; f++)
        plan.per_million[f] = 50000;
    int faults = 0;
    for (uint64_t n = 1; n < 1000; n++)
        for (vv_sim_op op = 0; op < VV_SIM_OP_COUNT; op++) {
            vv_sim_event e = {.number = n, .op = op, .path = "/f"};
            vv_sim_fault f = vv_sim_plan_fault(&plan, &e);
            cr_assert_eq(f, vv_sim_plan_fault(&plan, &e));
            cr_assert(f == VV_SIM_FAULT_NONE || (n >= 3 && vv_sim_fault_fits(f, op)));
            faults += f != VV_SIM_FAULT_NONE;
        }
    cr_assert(faults > 1000 && faults < 8000, "%d", faults);
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){.after = count_event});
    vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
    must(vv_file_write_sync(f, "x", 1, 0));
    vv_file_close(f);
    cr_assert_eq(seen_events, 3, "create, write and sync");
    end();
}

/* ---- queues ---- */

static void done(vv_io_req *req) {
    (*(int *)req->arg)++;
}

Test(sim, another_request_may_come_between_the_parts_of_a_synced_write) {
    int between = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        begin(&(vv_sim_options){.seed = seed});
        vv_io_queue *q;
        must(vv_io_queue_create(io, &(vv_io_queue_options){.depth = 8}, &q, NULL));
        vv_file *f = open_on(io, "/f", RW | VV_OPEN_CREATE);
        must(vv_file_allocate(f, 8));
        must(vv_file_sync(f, VV_SYNC_FULL));
        must(vv_dir_sync(io, "/", NULL));
        int count = 0;
        char a[] = "aaaa", b[] = "bbbb";
        vv_io_req one = {
            .op = VV_IO_WRITE_SYNC, .file = f, .buf = a, .bytes = 4, .done = done, .arg = &count};
        vv_io_req two = {.op = VV_IO_WRITE, .file = f, .buf = b, .bytes = 4, .offset = 4, .done = done};
        two.arg = &count;
        vv_io_submit(q, &one);
        vv_io_submit(q, &two);
        uint32_t called;
        must(vv_io_run(q, 2, &called));
        cr_assert(called == 2 && count == 2);
        must(one.status);
        must(two.status);
        vv_io_backend *back = NULL;
        vv_sim_disk *image = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
        back = vv_sim_backend_create(image);
        vv_file *g = open_on(back, "/f", VV_OPEN_READ);
        char text[9] = "";
        size_t got;
        must(vv_file_read(g, text, 8, 0, &got));
        cr_assert_eq(memcmp(text, "aaaa", 4), 0);
        between += memcmp(text + 4, "bbbb", 4) == 0; /* its bytes were there when the first one's sync came */
        vv_file_close(g);
        vv_io_backend_destroy(back);
        vv_sim_disk_destroy(image);
        vv_file_close(f);
        vv_io_queue_destroy(q);
        end();
    }
    cr_assert(between > 0 && between < 50, "%d", between);
}
