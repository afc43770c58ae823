/*
 * Slots: log and tombstones that are kept for readers that are away, and for how long.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "io/sim/io_sim.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_slots, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

#define VALUE_BYTES 10000

/* Bounded, so that a failure says where. */
#define eventually(condition)                                                                                \
    do {                                                                                                     \
        uint64_t until_ = vv_clock_mono_ns() + 60 * VV_NS_PER_S;                                             \
        while (!(condition)) {                                                                               \
            cr_assert_lt(vv_clock_mono_ns(), until_, "never: " #condition);                                  \
            sched_yield();                                                                                   \
        }                                                                                                    \
    } while (0)

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1 << 16];

static void keep_log(void *arg, varve_log_level level, const char *line) {
    (void)arg;
    (void)level;
    pthread_mutex_lock(&log_lock);
    size_t used = strlen(log_text);
    snprintf(log_text + used, sizeof log_text - used, "%s\n", line);
    pthread_mutex_unlock(&log_lock);
}

static bool logged(const char *text) {
    pthread_mutex_lock(&log_lock);
    bool found = strstr(log_text, text) != NULL;
    pthread_mutex_unlock(&log_lock);
    return found;
}

static varve_options *small_segments(const char *retention) {
    varve_options *o = fx_options("WAL_SEGMENT_SIZE", "256KiB", "WAL_RETENTION_MAX", retention, NULL);
    varve_options_set_log(o, keep_log, NULL, VARVE_LOG_INFO);
    return o;
}

static void open_small(const char *retention) {
    fx_open_with(small_segments(retention));
}

/* So many puts, of which some 25 go into a segment, and all of them into tables. */
static uint64_t fill(int count) {
    static char value[VALUE_BYTES];
    uint64_t lsn = 0;
    for (int i = 0; i < count; i++)
        cr_assert(varve_ok(varve_put(fx_db, "k", 1, value, sizeof value, NULL, &lsn)));
    cr_assert(varve_ok(varve_flush(fx_db)));
    return lsn;
}

static void create(const char *name, uint64_t lsn) {
    cr_assert(varve_ok(varve_slot_create(fx_db, name, lsn, &fx_err)), "%s", fx_err.text);
}

static void confirm(const char *name, uint64_t lsn) {
    cr_assert(varve_ok(varve_slot_confirm(fx_db, name, lsn)));
}

/* The slot of this name; NULL: there is none. */
static const varve_slot_info *slot(const char *name) {
    static varve_slot_info all[VARVE_SLOTS_MAX];
    size_t count = varve_slots_get(fx_db, all);
    cr_assert_eq(fx_stats().slots, count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].name, name) == 0)
            return &all[i];
    return NULL;
}

/* Everything from after_lsn + 1 to last_lsn is in the log. */
static void can_read(uint64_t after_lsn, uint64_t last_lsn) {
    varve_wal_cursor *c;
    varve_wal_batch b;
    uint64_t oldest_lsn;
    varve_status st = varve_wal_cursor_open(fx_db, after_lsn, &c, &oldest_lsn);
    cr_assert(varve_ok(st), "behind %" PRIu64 ": %s, from %" PRIu64, after_lsn, varve_code_name(st.code),
              oldest_lsn);
    for (uint64_t lsn = after_lsn + 1; lsn <= last_lsn; lsn++) {
        st = varve_wal_cursor_next(c, &b);
        cr_assert(varve_ok(st), "LSN %" PRIu64 ": %s", lsn, varve_code_name(st.code));
        cr_assert_eq(b.first_lsn, lsn);
    }
    cr_assert_eq(varve_wal_cursor_next(c, &b).code, VARVE_END);
    varve_wal_cursor_close(c);
}

/* The oldest that is in the log. */
static uint64_t oldest_lsn(void) {
    varve_wal_cursor *c;
    uint64_t lsn;
    varve_status st = varve_wal_cursor_open(fx_db, 0, &c, &lsn);
    varve_wal_cursor_close(c);
    if (varve_ok(st))
        return 1;
    cr_assert_eq(st.code, VARVE_TRIMMED);
    return lsn;
}

/* ---- making them ---- */

Test(db_slots, there_are_those_that_were_made) {
    fx_open();
    fx_put("a", "1");
    create("node-2", 0);
    create("node-3", 1);
    cr_assert_eq(slot("node-2")->confirmed_lsn, 0);
    cr_assert_eq(slot("node-3")->confirmed_lsn, 1);
    cr_assert_null(slot("node-4"));
    fx_put("a", "2");
    confirm("node-2", 2);
    confirm("node-2", 1);
    cr_assert_eq(slot("node-2")->confirmed_lsn, 2, "it never moves back");
    confirm("node-2", 1000);
    cr_assert_eq(slot("node-2")->confirmed_lsn, 2, "nor to where nobody can be");
    cr_assert_eq(varve_slot_confirm(fx_db, "node-4", 1).code, VARVE_NOT_FOUND);
    create("node-2", 1); /* but it may be placed anew */
    cr_assert_eq(slot("node-2")->confirmed_lsn, 1);
    cr_assert_eq(fx_stats().slots, 2);
    cr_assert(varve_ok(varve_slot_drop(fx_db, "node-2", &fx_err)));
    cr_assert(varve_ok(varve_slot_drop(fx_db, "node-2", &fx_err)));
    cr_assert_null(slot("node-2"));
    cr_assert_eq(varve_slot_confirm(fx_db, "node-2", 1).code, VARVE_NOT_FOUND);
    fx_close();
    fx_open();
    cr_assert_null(slot("node-2"));
    cr_assert_eq(slot("node-3")->confirmed_lsn, 1);
    fx_close();
}

Test(db_slots, what_makes_no_sense_is_refused) {
    char name[VARVE_SLOT_NAME_BYTES_MAX + 2] = {0};
    fx_open();
    cr_assert_eq(varve_slot_create(fx_db, "", 0, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_slot_create(fx_db, "a b", 0, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(fx_err.text, "slot 'a b': its name"), "%s", fx_err.text);
    memset(name, 'x', VARVE_SLOT_NAME_BYTES_MAX + 1);
    cr_assert_eq(varve_slot_create(fx_db, name, 0, NULL).code, VARVE_INVALID_ARGUMENT);
    name[VARVE_SLOT_NAME_BYTES_MAX] = '\0';
    create(name, 0);
    cr_assert_eq(varve_slot_create(fx_db, "a", 1, &fx_err).code, VARVE_INVALID_ARGUMENT, "not durable");
    for (int i = 1; i < VARVE_SLOTS_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        create(name, 0);
    }
    cr_assert_eq(varve_slot_create(fx_db, "a", 0, &fx_err).code, VARVE_BUSY);
    cr_assert_eq(fx_stats().slots, VARVE_SLOTS_MAX);
    create("n7", 0);
    fx_close();
    fx_open();
    cr_assert_eq(fx_stats().slots, VARVE_SLOTS_MAX);
    fx_close();
}

Test(db_slots, one_behind_what_the_log_has_is_refused) {
    open_small("4GiB");
    fill(100);
    eventually(oldest_lsn() > 1);
    cr_assert_eq(varve_slot_create(fx_db, "a", 0, &fx_err).code, VARVE_TRIMMED);
    cr_assert_null(slot("a"));
    create("a", oldest_lsn() - 1);
    create("b", 100);
    fx_close();
}

/* ---- the log ---- */

Test(db_slots, the_log_stays_until_it_is_confirmed) {
    open_small("4GiB");
    create("a", 0);
    create("b", 0);
    fill(200);
    can_read(0, 200);
    cr_assert_geq(slot("a")->held_bytes, 200 * VALUE_BYTES - 300 * 1024);
    confirm("a", 200);
    cr_assert_eq(slot("a")->held_bytes, 0);
    can_read(0, 200);
    confirm("b", 100);
    eventually(oldest_lsn() > 1);
    can_read(100, 200);
    cr_assert_gt(slot("b")->held_bytes, 0);
    cr_assert_leq(slot("b")->held_bytes, 100 * VALUE_BYTES + 600 * 1024);
    confirm("b", 200);
    eventually(oldest_lsn() > 175);
    fx_close();
}

Test(db_slots, the_log_goes_with_the_slot) {
    open_small("4GiB");
    create("a", 0);
    fill(200);
    can_read(0, 200);
    cr_assert(varve_ok(varve_slot_drop(fx_db, "a", NULL)));
    eventually(oldest_lsn() > 175);
    fx_close();
}

Test(db_slots, after_a_restart_all_of_it_can_be_read_and_little_is) {
    open_small("4GiB");
    create("a", 0);
    fill(200);
    fx_put("k", "in the log alone");
    fx_close();
    for (int round = 0; round < 3; round++) {
        log_text[0] = '\0';
        open_small("4GiB");
        cr_assert(logged(" 1 log records replayed"), "%s", log_text);
        can_read(0, 201);
        can_read(137, 201);
        cr_assert_eq(fx_stats().flushes, 0, "old segments are no reason to flush");
        fx_close();
    }
    open_small("4GiB");
    confirm("a", 150);
    eventually(oldest_lsn() > 1);
    fx_close();
    open_small("4GiB");
    cr_assert_eq(slot("a")->confirmed_lsn, 150);
    can_read(150, 201);
    fx_put("k", "more");
    can_read(150, 202);
    confirm("a", 202);
    cr_assert(varve_ok(varve_flush(fx_db)));
    eventually(oldest_lsn() >= 202);
    fx_close();
}

/* In a process of its own that dies without closing. */
static void in_a_process_that_dies(void (*what)(void)) {
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        what();
        _exit(0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* cr_assert() does not end a child. */
static void must(bool ok) {
    if (!ok)
        _exit(1);
}

static void child_fill(int count) {
    static char value[VALUE_BYTES];
    for (int i = 0; i < count; i++)
        must(varve_ok(varve_put(fx_db, "k", 1, value, sizeof value, NULL, NULL)));
    must(varve_ok(varve_flush(fx_db)));
}

static void create_and_fill(void) {
    open_small("4GiB");
    must(varve_ok(varve_slot_create(fx_db, "a", 0, NULL)));
    child_fill(100);
    must(varve_ok(varve_slot_create(fx_db, "b", 90, NULL)));
    must(varve_ok(varve_slot_confirm(fx_db, "a", 60)));
    child_fill(100);
    must(varve_ok(varve_slot_confirm(fx_db, "a", 70)));
}

Test(db_slots, they_and_what_they_hold_survive_a_kill) {
    in_a_process_that_dies(create_and_fill);
    open_small("4GiB");
    cr_assert_eq(slot("a")->confirmed_lsn, 60, "as of the last flush");
    cr_assert_eq(slot("b")->confirmed_lsn, 90);
    can_read(70, 200);
    fx_close();
}

static void create_and_die(void) {
    open_small("4GiB");
    must(varve_ok(varve_slot_create(fx_db, "a", 0, NULL)));
    must(varve_ok(varve_slot_create(fx_db, "b", 0, NULL)));
    must(varve_ok(varve_slot_drop(fx_db, "a", NULL)));
}

Test(db_slots, that_one_was_made_or_dropped_survives_a_kill) {
    in_a_process_that_dies(create_and_die);
    open_small("4GiB");
    cr_assert_null(slot("a"));
    cr_assert_not_null(slot("b"));
    fx_close();
}

/* ---- damage to what only slots need ---- */

/* The log's segments, by number, ascending. */
static size_t segments(uint64_t seqs[64]) {
    size_t count = 0;
    for (uint64_t seq = 1; seq < 100; seq++) {
        char name[64];
        snprintf(name, sizeof name, "db/wal-%016" PRIx64 ".log", seq);
        if (access(vv_tempdir_path(name), F_OK) == 0)
            seqs[count++] = seq;
    }
    return count;
}

static const char *segment(uint64_t seq) {
    static char name[64];
    snprintf(name, sizeof name, "db/wal-%016" PRIx64 ".log", seq);
    return vv_tempdir_path(name);
}

static void damage_header(uint64_t seq) {
    FILE *f = fopen(segment(seq), "r+b");
    cr_assert(f && fseek(f, 20, SEEK_SET) == 0 && fputc(0xee, f) == 0xee && fclose(f) == 0);
}

static void remove_segment(uint64_t seq) {
    cr_assert_eq(unlink(segment(seq)), 0);
}

static void old_damage_costs_the_reader_alone(void (*damage)(uint64_t seq)) {
    uint64_t seqs[64];
    open_small("4GiB");
    create("a", 0);
    fill(200);
    fx_put("k", "needed");
    fx_close();
    cr_assert_geq(segments(seqs), 8);
    uint64_t before = seqs[3];
    damage(before);
    log_text[0] = '\0';
    open_small("4GiB");
    cr_assert(logged("old segments are not whole"), "%s", log_text);
    fx_expect("k", "needed");
    cr_assert(oldest_lsn() > 50 && oldest_lsn() < 150, "%" PRIu64, oldest_lsn());
    can_read(oldest_lsn() - 1, 201);
    segments(seqs);
    cr_assert_eq(seqs[0], before + 1);
    cr_assert(!slot("a")->lost);
    confirm("a", 201);
    fx_close();
    open_small("4GiB");
    fx_expect("k", "needed");
    fx_close();
}

Test(db_slots, a_damaged_segment_that_only_they_need_is_passed_over) {
    old_damage_costs_the_reader_alone(damage_header);
}

Test(db_slots, and_so_is_a_missing_one) {
    old_damage_costs_the_reader_alone(remove_segment);
}

Test(db_slots, one_that_recovery_needs_is_missed_all_the_same) {
    uint64_t seqs[64];
    open_small("4GiB");
    create("a", 0);
    fill(100);
    fx_put("k", "needed");
    fx_close();
    size_t count = segments(seqs);
    for (size_t i = count; i > 0; i--) { /* the newest, which is empty, and the one with the record */
        if (i + 1 < count)
            break;
        remove_segment(seqs[i - 1]);
    }
    cr_assert_eq(varve_open(vv_tempdir_path("db"), NULL, &fx_db, &fx_err).code, VARVE_CORRUPTION);
    cr_assert_not_null(strstr(fx_err.text, "is missing"), "%s", fx_err.text);
}

Test(db_slots, openings_without_writes_leave_no_segments_behind) {
    uint64_t seqs[64];
    size_t count = 0;
    open_small("4GiB");
    create("a", 0);
    fill(100);
    fx_close();
    for (int i = 0; i < 6; i++) {
        open_small("4GiB");
        can_read(0, 100);
        fx_close();
        if (i == 1)
            count = segments(seqs);
    }
    cr_assert_eq(segments(seqs), count, "%zu, not %zu", segments(seqs), count);
    open_small("4GiB");
    fx_put("k", "v");
    can_read(0, 101);
    confirm("a", 101);
    cr_assert(varve_ok(varve_flush(fx_db)));
    eventually(oldest_lsn() > 100);
    fx_close();
    open_small("4GiB");
    fx_expect("k", "v");
    fx_close();
}

/* ---- losing one ---- */

Test(db_slots, one_that_would_need_too_much_is_lost_and_stays_so) {
    open_small("1MiB");
    create("far", 0);
    fill(60);
    create("near", 60);
    cr_assert(!slot("far")->lost);
    fill(150);
    eventually(slot("far")->lost);
    cr_assert(logged("slot far at LSN 0 is too far behind"), "%s", log_text);
    cr_assert_eq(varve_slot_confirm(fx_db, "far", 210).code, VARVE_NOT_FOUND);
    cr_assert_eq(slot("far")->held_bytes, 0);
    eventually(oldest_lsn() > 1);
    eventually(slot("near")->lost); /* 150 * 10000 bytes were behind it, too */
    cr_assert_eq(fx_stats().slots_lost, 2);
    create("near", 210);
    fill(50);
    can_read(210, 260);
    fx_close();
    open_small("1MiB");
    cr_assert(slot("far")->lost);
    cr_assert(!slot("near")->lost);
    cr_assert_eq(fx_stats().slots_lost, 0);
    cr_assert_eq(varve_slot_confirm(fx_db, "far", 210).code, VARVE_NOT_FOUND);
    create("far", 250);
    confirm("far", 255);
    fx_close();
}

static void lose_one(void) {
    open_small("256KiB");
    must(varve_ok(varve_slot_create(fx_db, "a", 0, NULL)));
    child_fill(200);
    for (;;) { /* until the flusher has written it; the test's timeout is the bound */
        vv_mutex_lock(&fx_db->state.lock);
        bool known = fx_db->state.manifest.slots[0].lost;
        vv_mutex_unlock(&fx_db->state.lock);
        if (known)
            return;
        sched_yield();
    }
}

Test(db_slots, a_loss_survives_a_kill) {
    in_a_process_that_dies(lose_one);
    open_small("256KiB");
    cr_assert(slot("a")->lost);
    fx_close();
}

Test(db_slots, a_lower_limit_counts_from_the_next_opening_on) {
    open_small("4GiB");
    create("a", 0);
    fill(200);
    fx_close();
    open_small("512KiB");
    eventually(slot("a")->lost);
    eventually(oldest_lsn() > 1);
    fx_close();
}

/* ---- tombstones ---- */

static void expect_safe_lsn(uint64_t lsn) {
    cr_assert_eq(fx_stats().safe_compaction_lsn, lsn, "%" PRIu64, fx_stats().safe_compaction_lsn);
}

Test(db_slots, the_safe_compaction_lsn_is_the_lowest_of_all) {
    open_small("256KiB");
    fill(10);
    expect_safe_lsn(0);
    create("a", 7);
    expect_safe_lsn(7);
    create("b", 5);
    expect_safe_lsn(5);
    cr_assert(varve_ok(varve_set_safe_compaction_lsn(fx_db, 6, NULL)));
    expect_safe_lsn(5);
    confirm("b", 9);
    expect_safe_lsn(6);
    cr_assert(varve_ok(varve_set_safe_compaction_lsn(fx_db, 0, NULL)));
    expect_safe_lsn(7);
    create("c", 10);
    create("a", 10);
    expect_safe_lsn(9);
    cr_assert(varve_ok(varve_slot_drop(fx_db, "b", NULL)));
    expect_safe_lsn(10);
    fill(200);
    eventually(slot("a")->lost && slot("c")->lost);
    expect_safe_lsn(0);
    fx_close();
}

Test(db_slots, a_slot_before_everything_is_a_gate_and_not_none) {
    fx_open();
    create("a", 0);
    expect_safe_lsn(1);
    fx_put("k", "v");
    fx_delete("k");
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().dropped_tombstones, 0);
    confirm("a", 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().dropped_tombstones, 0);
    confirm("a", 2);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().dropped_tombstones, 1);
    fx_close();
}

#define ITEMS 30000

Test(db_slots, tombstones_that_a_slot_held_go_when_it_has_moved) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[32];
    fx_open_with(fx_options("MEMTABLE_SIZE", "64MiB", NULL));
    create("a", 0);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < ITEMS; i++) {
            snprintf(key, sizeof key, "item-%08d", i);
            cr_assert(varve_ok(round == 0 ? varve_put(fx_db, key, strlen(key), "v", 1, &async, NULL)
                                          : varve_delete(fx_db, key, strlen(key), &async, NULL)));
        }
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().dropped_tombstones, 0);
    confirm("a", 2 * ITEMS - 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    cr_assert_eq(fx_stats().dropped_tombstones, 0);
    confirm("a", 2 * ITEMS);
    eventually(fx_stats().dropped_tombstones == ITEMS); /* nobody asked */
    fx_close();
}

/* ---- failures ---- */

static _Atomic bool fail_manifest;

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    return atomic_load(&fail_manifest) && strcmp(op, "rename") == 0 && strcmp(name, VV_MANIFEST_NAME) == 0
               ? vv_status_errno(EIO)
               : VV_STATUS_OK;
}

Test(db_slots, one_that_could_not_be_written_is_as_it_was) {
    vv_error err;
    varve_options *o = small_segments("4GiB");
    cr_assert(vv_ok(vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    fill(10);
    create("a", 3);
    create("b", 4);
    atomic_store(&fail_manifest, true);
    cr_assert_eq(varve_slot_create(fx_db, "a", 9, &fx_err).code, VARVE_IO);
    cr_assert_eq(varve_slot_create(fx_db, "c", 9, &fx_err).code, VARVE_IO);
    cr_assert_eq(varve_slot_drop(fx_db, "b", &fx_err).code, VARVE_IO);
    cr_assert_eq(slot("a")->confirmed_lsn, 3);
    cr_assert_eq(slot("b")->confirmed_lsn, 4);
    cr_assert_null(slot("c"));
    confirm("a", 5);
    confirm("b", 5);
    atomic_store(&fail_manifest, false);
    fill(200);
    can_read(5, 210);
    fx_close();
    open_small("4GiB");
    cr_assert_eq(slot("a")->confirmed_lsn, 5);
    cr_assert_eq(slot("b")->confirmed_lsn, 5);
    cr_assert_null(slot("c"));
    fx_close();
}

/* Readers that never come back, under names of their own, don't keep others away for ever. */
Test(db_slots, a_lost_one_makes_room_for_another) {
    vv_error err;
    char name[VARVE_SLOT_NAME_BYTES_MAX + 1];
    varve_options *o = small_segments("1MiB");
    cr_assert(vv_ok(vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    create("lost", 0);
    fill(210);
    eventually(slot("lost")->lost);
    for (int i = 1; i < VARVE_SLOTS_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        create(name, 210);
    }
    create("n7", 210); /* it has a place */
    cr_assert_not_null(slot("lost"));
    atomic_store(&fail_manifest, true);
    cr_assert_eq(varve_slot_create(fx_db, "new", 210, &fx_err).code, VARVE_IO);
    atomic_store(&fail_manifest, false);
    cr_assert_null(slot("new"));
    cr_assert(slot("lost")->lost);
    create("new", 210);
    cr_assert_null(slot("lost"));
    cr_assert_eq(varve_slot_create(fx_db, "more", 210, &fx_err).code, VARVE_BUSY, "none is lost");
    fx_close();
    open_small("1MiB");
    cr_assert_null(slot("lost"));
    cr_assert_eq(slot("new")->confirmed_lsn, 210);
    fx_close();
}

Test(db_slots, each_failed_allocation_leaves_them_as_they_were) {
    open_small("4GiB");
    fill(10);
    create("a", 3);
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_status st = varve_slot_create(fx_db, "a", 9, &fx_err);
        vv_alloc_fail_at(0);
        if (varve_ok(st)) {
            cr_assert_gt(n, 3);
            break;
        }
        cr_assert_eq(st.code, VARVE_NO_MEMORY, "%s", varve_code_name(st.code));
        cr_assert_eq(slot("a")->confirmed_lsn, 3);
    }
    cr_assert_eq(slot("a")->confirmed_lsn, 9);
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_status st = varve_slot_drop(fx_db, "a", &fx_err);
        vv_alloc_fail_at(0);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY, "%s", varve_code_name(st.code));
        cr_assert_eq(slot("a")->confirmed_lsn, 9);
    }
    cr_assert_null(slot("a"));
    fx_close();
}

static _Atomic bool stop;

static void *confirm_on(void *arg) {
    const char *name = arg;
    varve_slot_info infos[VARVE_SLOTS_MAX];
    while (!atomic_load(&stop)) {
        varve_status st = varve_slot_confirm(fx_db, name, fx_stats().durable_lsn);
        cr_assert(varve_ok(st) || st.code == VARVE_NOT_FOUND);
        (void)varve_slots_get(fx_db, infos);
    }
    return NULL;
}

static void *remake_on(void *arg) {
    (void)arg;
    while (!atomic_load(&stop)) {
        uint64_t lsn = fx_stats().durable_lsn;
        varve_status st = varve_slot_create(fx_db, "c", lsn, NULL);
        cr_assert(varve_ok(st) || st.code == VARVE_TRIMMED, "%s", varve_code_name(st.code));
        if (lsn % 3 == 0)
            cr_assert(varve_ok(varve_slot_drop(fx_db, "c", NULL)));
    }
    return NULL;
}

Test(db_slots, they_may_be_used_by_many_threads_at_once) {
    pthread_t threads[3];
    char names[2][2] = {"a", "b"};
    open_small("512KiB");
    create("a", 0);
    create("b", 0);
    create("idle", 0);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, confirm_on, names[i]), 0);
    cr_assert_eq(pthread_create(&threads[2], NULL, remake_on, NULL), 0);
    uint64_t lsn = 0;
    for (int i = 0; i < 20; i++)
        lsn = fill(20);
    eventually(slot("idle")->lost);
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(lsn, 400);
    fx_close();
}

Test(db_slots, exports_have_none) {
    open_small("4GiB");
    fill(10);
    create("a", 3);
    cr_assert(varve_ok(varve_backup(fx_db, vv_tempdir_path("backup"), NULL, NULL, &fx_err)));
    fx_close();
    cr_assert(varve_ok(varve_open(vv_tempdir_path("backup"), NULL, &fx_db, NULL)));
    cr_assert_eq(fx_stats().slots, 0);
    expect_safe_lsn(0);
    fx_close();
}

static void open_sim(vv_sim_disk *disk) {
    varve_options *o = fx_options("WAL_SYNC_INTERVAL", "60s", NULL);
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), "/db", o, &fx_db, (vv_error *)&fx_err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", fx_err.text);
}

/* What comes to a table was made durable in the log first: else a reader would find a gap there. */
Test(db_slots, asynchronous_writes_that_are_in_tables_are_in_the_log_after_a_power_cut) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    vv_sim_disk *disk = vv_sim_disk_create(&(vv_sim_options){.seed = 1});
    varve_wal_cursor *c;
    varve_wal_batch batch;
    open_sim(disk);
    fx_put("key", "durable");
    cr_assert(varve_ok(varve_slot_create(fx_db, "reader", 1, &fx_err)), "%s", fx_err.text);
    for (int i = 0; i < 4; i++)
        cr_assert(varve_ok(varve_put(fx_db, "key", 3, "async", 5, &async, NULL)));
    cr_assert(varve_ok(varve_flush(fx_db)));
    vv_sim_disk *after = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
    fx_close();
    open_sim(after);
    cr_assert_eq(varve_visible_lsn(fx_db), 5);
    cr_assert(varve_ok(varve_wal_cursor_open(fx_db, 1, &c, NULL)));
    for (uint64_t lsn = 2; lsn <= 5; lsn++) {
        cr_assert(varve_ok(varve_wal_cursor_next(c, &batch)), "LSN %" PRIu64, lsn);
        cr_assert_eq(batch.first_lsn, lsn);
    }
    varve_wal_cursor_close(c);
    fx_close();
    vv_sim_disk_destroy(after);
    vv_sim_disk_destroy(disk);
}
