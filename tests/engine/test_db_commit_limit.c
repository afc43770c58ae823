/*
 * Commits that wait for others: what is seen and answered, and when.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "io/sim/io_sim.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_commit_limit, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 240);

#define WAIT_NS (60 * VV_NS_PER_S)
#define CLIENT  UINT64_C(0xc11e)

#define wait_until(condition)                                                                                \
    for (uint64_t until = vv_clock_mono_ns() + WAIT_NS; !(condition); sched_yield())                         \
    cr_assert_lt(vv_clock_mono_ns(), until, "waited in vain: %s", #condition)

/* ---- writes that are under way ---- */

static _Atomic uint64_t answers_given;

typedef struct pending {
    varve_batch *batch;
    varve_status status;
    uint64_t lsn;
    uint64_t order; /* which answer it was, from 1; 0: none yet */
    uint64_t answered_ns;
    _Atomic bool answered;
} pending;

static void take_answer(void *arg, varve_status status, uint64_t lsn) {
    pending *p = arg;
    p->status = status;
    p->lsn = lsn;
    p->order = atomic_fetch_add(&answers_given, 1) + 1;
    p->answered_ns = vv_clock_mono_ns();
    atomic_store(&p->answered, true);
}

static pending *begin(void) {
    pending *p = calloc(1, sizeof *p);
    p->batch = varve_batch_create();
    return p;
}

static pending *send(pending *p, const varve_write_options *o) {
    varve_write_async(fx_db, p->batch, o, take_answer, p);
    return p;
}

/* value NULL: a delete. */
static pending *write_with(const char *key, const char *value, const varve_write_options *o) {
    pending *p = begin();
    if (value)
        cr_assert(varve_ok(varve_batch_put(p->batch, key, strlen(key), value, strlen(value))));
    else
        cr_assert(varve_ok(varve_batch_delete(p->batch, key, strlen(key))));
    return send(p, o);
}

static pending *write_key(const char *key, const char *value) {
    return write_with(key, value, NULL);
}

static void end(pending *p) {
    varve_batch_destroy(p->batch);
    free(p);
}

/* The answer: waited for, looked at, and forgotten. */
static void expect_answer(pending *p, varve_code code, uint64_t lsn) {
    wait_until(atomic_load(&p->answered));
    cr_assert_eq(p->status.code, code, "%s, not %s", varve_code_name(p->status.code),
                 varve_code_name((uint16_t)code));
    cr_assert_eq(p->lsn, lsn, "%" PRIu64 ", not %" PRIu64, p->lsn, lsn);
    end(p);
}

static void limit(bool limited) {
    varve_status st = varve_limit_commits(fx_db, limited, &fx_err);
    cr_assert(varve_ok(st), "%s", fx_err.text);
}

static void confirm(uint64_t lsn) {
    varve_set_commit_limit(fx_db, lsn);
}

/* All writes that were sent are in the log, and wait. */
static void wait_for_waiting(uint64_t count) {
    wait_until(fx_stats().unconfirmed_writes == count);
}

/* Whatever the writer thread had to do when this was called is done: it takes the queue in order. */
static void pass_the_writer(void) {
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_require_value(b, "no such key", 11, "", 0)));
    cr_assert(varve_ok(varve_batch_put(b, "never", 5, "", 0)));
    varve_write_options o = {.confirm_deadline_ns = 1};
    varve_status st = varve_write(fx_db, b, &o, NULL);
    cr_assert(st.code == VARVE_NOT_CONFIRMED || st.code == VARVE_CONDITION_FAILED, "%s",
              varve_code_name(st.code));
    varve_batch_destroy(b);
}

/* ---- what is seen ---- */

static uint64_t count_entries(const varve_snapshot *snapshot) {
    varve_iter *it;
    uint64_t count = 0;
    cr_assert(varve_ok(varve_iter_create(fx_db, &(varve_iter_options){.snapshot = snapshot}, &it)));
    for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it))
        count++;
    cr_assert(varve_ok(varve_iter_status(it)));
    varve_iter_destroy(it);
    return count;
}

static bool next_is(varve_wal_cursor *c, uint64_t lsn) {
    varve_wal_batch b;
    varve_status st = varve_wal_cursor_next(c, &b);
    cr_assert(varve_ok(st) || st.code == VARVE_END, "%s", varve_code_name(st.code));
    return varve_ok(st) && b.first_lsn == lsn;
}

Test(db_commit_limit, a_write_is_neither_seen_nor_answered_before_it_is_confirmed) {
    fx_open();
    fx_put("before", "1");
    limit(true);
    cr_assert_eq(fx_stats().commit_limit, 1);
    fx_expect("before", "1");
    varve_wal_cursor *log, *watch;
    cr_assert(varve_ok(varve_wal_cursor_open(fx_db, 1, &log, NULL)));
    cr_assert(varve_ok(varve_wal_cursor_open(fx_db, 1, &watch, NULL)));
    varve_wal_cursor_visible_only(watch);

    pending *put = write_key("key", "2");
    pending *del = write_key("before", NULL);
    wait_for_waiting(2);
    varve_stats s = fx_stats();
    cr_assert(s.durable_lsn == 3 && s.last_lsn == 1);
    fx_expect("key", NULL);
    fx_expect("before", "1");
    varve_snapshot *snapshot = varve_snapshot_create(fx_db);
    cr_assert_eq(varve_snapshot_lsn(snapshot), 1);
    cr_assert_eq(count_entries(NULL), 1);
    varve_lookup lookup = {.key = "key", .key_bytes = 3};
    cr_assert(varve_ok(varve_multi_get(fx_db, NULL, &lookup, 1)));
    cr_assert_eq(lookup.status.code, VARVE_NOT_FOUND);
    cr_assert(next_is(log, 2), "replicas get what is durable");
    cr_assert(!next_is(watch, 2), "watchers what is visible");
    cr_assert(!atomic_load(&put->answered));

    confirm(2);
    expect_answer(put, VARVE_OK, 2);
    cr_assert_eq(fx_stats().last_lsn, 2);
    fx_expect("key", "2");
    fx_expect("before", "1");
    cr_assert(next_is(watch, 2));
    cr_assert(!next_is(watch, 3));
    cr_assert(!atomic_load(&del->answered));
    confirm(3);
    expect_answer(del, VARVE_OK, 3);
    fx_expect("before", NULL);
    cr_assert(next_is(watch, 3));
    cr_assert_eq(count_entries(snapshot), 1, "what it saw");
    varve_value v;
    cr_assert(varve_ok(varve_get_at(fx_db, snapshot, "before", 6, &v)));
    varve_value_release(&v);
    varve_snapshot_release(fx_db, snapshot);
    varve_wal_cursor_close(log);
    varve_wal_cursor_close(watch);
    cr_assert_eq(fx_stats().unconfirmed_writes, 0);
    fx_close();
}

Test(db_commit_limit, a_limit_in_the_future_holds_up_nothing_and_a_lower_one_changes_nothing) {
    fx_open();
    confirm(7);
    cr_assert_eq(fx_stats().commit_limit, UINT64_MAX, "there is none");
    limit(true);
    cr_assert_eq(fx_stats().commit_limit, 0);
    confirm(3);
    confirm(2);
    cr_assert_eq(fx_stats().commit_limit, 3);
    for (int i = 0; i < 3; i++)
        fx_put("key", "value");
    pending *p = write_key("key", "more");
    wait_for_waiting(1);
    confirm(UINT64_MAX);
    expect_answer(p, VARVE_OK, 4);
    cr_assert_lt(fx_stats().commit_limit, UINT64_MAX, "still limited");
    fx_put("key", "value");
    fx_close();
}

Test(db_commit_limit, lifting_it_shows_and_answers_everything) {
    fx_open();
    limit(true);
    pending *p[3];
    for (int i = 0; i < 3; i++)
        p[i] = write_key("key", "value");
    wait_for_waiting(3);
    limit(false);
    cr_assert_eq(fx_stats().last_lsn, 3);
    cr_assert_eq(fx_stats().commit_limit, UINT64_MAX);
    for (uint64_t i = 0; i < 3; i++)
        expect_answer(p[i], VARVE_OK, i + 1);
    fx_put("key", "value");
    limit(true);
    limit(true);
    cr_assert_eq(fx_stats().commit_limit, 4, "it begins with what is visible");
    limit(false);
    limit(false);
    fx_put("key", "value");
    fx_close();
}

Test(db_commit_limit, asynchronous_writes_are_synchronous) {
    fx_open_with(fx_options("WAL_SYNC_INTERVAL", "60s", NULL));
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    cr_assert(varve_ok(varve_put(fx_db, "key", 3, "1", 1, &async, NULL)));
    cr_assert_eq(fx_stats().durable_lsn, 0);
    limit(true);
    fx_expect("key", "1");
    pending *p = write_with("key", "2", &async);
    wait_for_waiting(1);
    cr_assert_eq(fx_stats().durable_lsn, 2);
    fx_expect("key", "1");
    confirm(2);
    expect_answer(p, VARVE_OK, 2);
    fx_expect("key", "2");
    fx_close();
}

/* ---- the order of answers ---- */

static _Atomic uint64_t groups_called, answers_at_group;

static void count_group(void *arg) {
    (void)arg;
    atomic_store(&answers_at_group, atomic_load(&answers_given));
    atomic_fetch_add(&groups_called, 1);
}

Test(db_commit_limit, answers_come_in_the_order_of_lsns_and_then_the_groups_callback) {
    enum { COUNT = 100 };
    pending *p[COUNT];
    varve_options *o = fx_options(NULL);
    varve_options_set_group_callback(o, count_group, NULL);
    fx_open_with(o);
    limit(true);
    for (int i = 0; i < COUNT; i++)
        p[i] = write_key("key", "value");
    wait_for_waiting(COUNT);
    cr_assert_eq(atomic_load(&groups_called), 0);
    confirm(40);
    wait_until(atomic_load(&groups_called) == 1);
    cr_assert_eq(atomic_load(&answers_at_group), 40);
    confirm(COUNT);
    wait_until(atomic_load(&groups_called) == 2);
    cr_assert_eq(atomic_load(&answers_at_group), COUNT);
    for (uint64_t i = 0; i < COUNT; i++) {
        cr_assert_eq(p[i]->order, i + 1);
        expect_answer(p[i], VARVE_OK, i + 1);
    }
    fx_close();
}

/* ---- conditions, and writes that come again ---- */

static pending *put_if_absent(const char *key) {
    pending *p = begin();
    cr_assert(varve_ok(varve_batch_require_absent(p->batch, key, strlen(key))));
    cr_assert(varve_ok(varve_batch_put(p->batch, key, strlen(key), "mine", 4)));
    return send(p, NULL);
}

Test(db_commit_limit, conditions_are_judged_by_what_is_not_visible_yet_and_their_failure_waits_for_it) {
    fx_open();
    limit(true);
    pending *first = put_if_absent("key");
    pending *second = put_if_absent("key");
    pending *by_lsn = begin();
    cr_assert(varve_ok(varve_batch_require_lsn(by_lsn->batch, "key", 3, 1)));
    cr_assert(varve_ok(varve_batch_put(by_lsn->batch, "key", 3, "newer", 5)));
    send(by_lsn, NULL);
    wait_for_waiting(3);
    fx_expect("key", NULL);
    confirm(1);
    expect_answer(first, VARVE_OK, 1);
    wait_until(atomic_load(&second->answered));
    bool held;
    uint64_t current_lsn;
    cr_assert(varve_batch_condition(second->batch, 0, &held, &current_lsn));
    cr_assert(!held && current_lsn == 1);
    expect_answer(second, VARVE_CONDITION_FAILED, 0);
    cr_assert(!atomic_load(&by_lsn->answered));
    confirm(2);
    expect_answer(by_lsn, VARVE_OK, 2);
    fx_expect("key", "newer");

    /* By what is visible it is answered at once. */
    expect_answer(put_if_absent("key"), VARVE_CONDITION_FAILED, 0);
    fx_close();
}

Test(db_commit_limit, a_write_that_comes_again_waits_for_the_first_one) {
    fx_open();
    limit(true);
    varve_write_options o = {.client_id = CLIENT, .sequence = 1};
    pending *first = write_with("key", "1", &o);
    pending *between = write_key("other", "2");
    pending *again = write_with("key", "1", &o);
    wait_for_waiting(3);
    cr_assert_eq(fx_stats().retried_writes, 1);
    confirm(2);
    expect_answer(first, VARVE_OK, 1);
    expect_answer(between, VARVE_OK, 2);
    expect_answer(again, VARVE_OK, 1);
    pending *blocked = write_key("other", "3");
    wait_for_waiting(1);
    expect_answer(write_with("key", "1", &o), VARVE_OK, 1); /* it is visible: at once */
    confirm(3);
    expect_answer(blocked, VARVE_OK, 3);
    cr_assert_eq(fx_stats().last_lsn, 3);
    fx_close();
}

/* ---- deadlines ---- */

static uint64_t in_ms(uint64_t ms) {
    return vv_clock_mono_ns() + ms * VV_NS_PER_MS;
}

Test(db_commit_limit, at_its_deadline_a_write_is_answered_and_stays) {
    fx_open();
    limit(true);
    uint64_t best_ns = UINT64_MAX;
    for (uint64_t i = 1; i <= 20; i++) {
        varve_write_options o = {.confirm_deadline_ns = in_ms(5 + i)};
        pending *p = write_with("key", "value", &o);
        wait_until(atomic_load(&p->answered));
        cr_assert_geq(p->answered_ns, o.confirm_deadline_ns, "not before");
        best_ns = VV_MIN(best_ns, p->answered_ns - o.confirm_deadline_ns);
        expect_answer(p, VARVE_NOT_CONFIRMED, 0);
        cr_assert_eq(fx_stats().durable_lsn, i);
        cr_assert_eq(fx_stats().unconfirmed_writes, 0);
    }
    cr_assert_lt(best_ns, 20 * VV_NS_PER_MS, "%" PRIu64 " ns late, the best of 20", best_ns);
    fx_expect("key", NULL);
    confirm(20);
    wait_until(fx_stats().last_lsn == 20);
    fx_expect("key", "value");

    /* Over before it was sent; and a blocking one. */
    varve_write_options late = {.confirm_deadline_ns = 1};
    expect_answer(write_with("key", "late", &late), VARVE_NOT_CONFIRMED, 0);
    varve_write_options soon = {.confirm_deadline_ns = in_ms(10)};
    cr_assert_eq(varve_put(fx_db, "key", 3, "soon", 4, &soon, NULL).code, VARVE_NOT_CONFIRMED);
    confirm(22);
    wait_until(fx_stats().last_lsn == 22);
    fx_expect("key", "soon");
    fx_close();
}

Test(db_commit_limit, each_has_a_deadline_of_its_own_also_one_of_another_round_of_the_wheel) {
    enum { COUNT = 200 };
    const uint64_t round_ms = VV_DB_WAITING_TICKS * 8;
    pending *p[COUNT], *far, *never;
    varve_write_options o[COUNT];
    uint64_t seed = vv_test_seed();
    fx_open();
    limit(true);
    /* In the slot of a deadline that is one round earlier. */
    varve_write_options far_options = {.confirm_deadline_ns = in_ms(round_ms + 100)};
    far = write_with("far", "1", &far_options);
    never = write_key("never", "1");
    for (int i = 0; i < COUNT; i++) {
        o[i] = (varve_write_options){.confirm_deadline_ns = in_ms(vv_test_random(&seed) % 400)};
        p[i] = write_with("key", "value", &o[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        wait_until(atomic_load(&p[i]->answered));
        cr_assert_geq(p[i]->answered_ns, o[i].confirm_deadline_ns);
        expect_answer(p[i], VARVE_NOT_CONFIRMED, 0);
    }
    wait_until(atomic_load(&far->answered));
    cr_assert_geq(far->answered_ns, far_options.confirm_deadline_ns);
    expect_answer(far, VARVE_NOT_CONFIRMED, 0);
    cr_assert(!atomic_load(&never->answered));
    confirm(2);
    expect_answer(never, VARVE_OK, 2);
    fx_close();
}

Test(db_commit_limit, when_a_higher_epoch_is_promised_nobody_waits_any_longer) {
    fx_open();
    limit(true);
    pending *one = write_key("a", "1"), *two = write_key("b", "2");
    wait_for_waiting(2);
    varve_error err = {""};
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 9, &err)), "%s", err.text);
    expect_answer(one, VARVE_NOT_CONFIRMED, 0);
    expect_answer(two, VARVE_NOT_CONFIRMED, 0);
    cr_assert_eq(fx_stats().unconfirmed_writes, 0);
    fx_expect("a", NULL);
    confirm(2); /* it may still come to be */
    wait_until(fx_stats().last_lsn == 2);
    fx_expect("a", "1");
    fx_close();
}

Test(db_commit_limit, what_is_confirmed_in_time_hears_nothing_of_its_deadline) {
    fx_open();
    limit(true);
    varve_write_options o = {.confirm_deadline_ns = in_ms(60000)};
    pending *p[10];
    for (int i = 0; i < 10; i++)
        p[i] = write_with("key", "value", &o);
    wait_for_waiting(10);
    confirm(10);
    for (uint64_t i = 0; i < 10; i++)
        expect_answer(p[i], VARVE_OK, i + 1);
    cr_assert_eq(vv_db_next_deadline_ns(fx_db), UINT64_MAX);
    fx_close();
}

Test(db_commit_limit, conditions_that_failed_and_repetitions_have_deadlines_too) {
    fx_open();
    limit(true);
    varve_write_options named = {.client_id = CLIENT, .sequence = 1};
    pending *p = write_with("key", "1", &named);
    wait_for_waiting(1);
    named.confirm_deadline_ns = in_ms(10);
    expect_answer(write_with("key", "1", &named), VARVE_NOT_CONFIRMED, 0);
    pending *conditional = begin();
    cr_assert(varve_ok(varve_batch_require_absent(conditional->batch, "key", 3)));
    cr_assert(varve_ok(varve_batch_put(conditional->batch, "key", 3, "mine", 4)));
    varve_write_options o = {.confirm_deadline_ns = in_ms(10)};
    send(conditional, &o);
    expect_answer(conditional, VARVE_NOT_CONFIRMED, 0);
    confirm(1);
    expect_answer(p, VARVE_OK, 1);
    cr_assert_eq(fx_stats().last_lsn, 1);
    fx_close();
}

/* ---- closing, opening ---- */

Test(db_commit_limit, closing_answers_what_waits_and_what_was_written_is_there_again) {
    fx_open();
    fx_put("key", "1");
    limit(true);
    pending *a = write_key("key", "2"), *b = write_key("key", "3"), *c = write_key("key", "4");
    wait_for_waiting(3);
    confirm(2);
    fx_close();
    expect_answer(a, VARVE_OK, 2);
    expect_answer(b, VARVE_NOT_CONFIRMED, 0);
    expect_answer(c, VARVE_NOT_CONFIRMED, 0);

    fx_open();
    varve_stats s = fx_stats();
    cr_assert_leq(s.commit_limit, 2, "roughly: lower perhaps, never higher");
    cr_assert_geq(s.commit_limit, 1);
    cr_assert_eq(s.last_lsn, s.commit_limit);
    cr_assert_eq(s.durable_lsn, 4);
    fx_expect("key", s.last_lsn == 1 ? "1" : "2");
    confirm(3);
    wait_until(fx_stats().last_lsn == 3);
    fx_expect("key", "3");
    pending *p = write_key("key", "5");
    wait_for_waiting(1);
    confirm(5);
    expect_answer(p, VARVE_OK, 5);
    limit(false);
    fx_close();
    fx_open();
    cr_assert_eq(fx_stats().commit_limit, UINT64_MAX);
    cr_assert_eq(fx_stats().last_lsn, 5);
    fx_put("key", "6");
    fx_close();
}

Test(db_commit_limit, each_manifest_says_what_is_confirmed_and_opening_goes_no_further_than_the_log) {
    vv_manifest m;
    vv_table **tables;
    size_t count;
    vv_error err;
    fx_open();
    limit(true);
    confirm(1000);
    fx_put("key", "1");
    fx_put("key", "2");
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert(vv_ok(vv_manifest_read(fx_db->io, fx_db->dir, &m, &tables, &count, NULL, NULL, &err)));
    cr_assert_eq(m.commit_limit, 2);
    while (count > 0)
        vv_table_unref(tables[--count]);
    vv_free(tables);
    vv_manifest_deinit(&m);
    fx_close();
    fx_open();
    cr_assert_eq(fx_stats().commit_limit, 2, "promises for what is not there are not kept");
    pending *p = write_key("key", "3");
    wait_for_waiting(1);
    confirm(3);
    expect_answer(p, VARVE_OK, 3);
    fx_close();
}

static void open_sim(vv_sim_disk *disk) {
    varve_options *o = fx_options("WAL_SYNC_INTERVAL", "60s", "MEMTABLE_SIZE", "1MiB", NULL);
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), "/db", o, &fx_db, (vv_error *)&fx_err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", fx_err.text);
}

/* Asynchronous writes are visible before they are durable. A limit that begins behind them, and is
 * remembered, must not be above the end of the log when they are lost: what is written in their place is not
 * confirmed. */
Test(db_commit_limit, what_takes_the_place_of_lost_writes_is_not_confirmed_by_the_old_limit) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    vv_sim_disk *disk = vv_sim_disk_create(&(vv_sim_options){.seed = 1});
    open_sim(disk);
    fx_put("key", "durable");
    for (int i = 0; i < 4; i++)
        cr_assert(varve_ok(varve_put(fx_db, "key", 3, "async", 5, &async, NULL)));
    limit(true);
    vv_sim_disk *after = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
    cr_assert_eq(varve_visible_lsn(fx_db), 5);
    fx_close();
    open_sim(after);
    cr_assert_eq(fx_stats().last_lsn, 1, "the asynchronous writes are lost");
    cr_assert_eq(fx_stats().commit_limit, 1);
    pending *p = write_key("key", "another");
    wait_for_waiting(1);
    fx_expect("key", "durable");
    confirm(2);
    expect_answer(p, VARVE_OK, 2);
    fx_close();
    vv_sim_disk_destroy(after);
    vv_sim_disk_destroy(disk);
}

Test(db_commit_limit, a_log_that_is_replayed_through_many_flushes_keeps_its_limit) {
    static char value[3000];
    fx_open_with(fx_options("MEMTABLE_SIZE", "8MiB", NULL));
    limit(true);
    confirm(5);
    for (int i = 0; i < 5; i++)
        fx_put("key", "visible");
    cr_assert(varve_ok(varve_flush(fx_db)));
    varve_write_options o = {.confirm_deadline_ns = 1};
    char key[16];
    pending *p[1000];
    memset(value, 'v', sizeof value - 1);
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "%d", i);
        p[i] = write_with(key, value, &o);
    }
    for (int i = 0; i < 1000; i++)
        expect_answer(p[i], VARVE_NOT_CONFIRMED, 0);
    fx_close();
    /* A replay flushes when its memtable is full. */
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", NULL));
    cr_assert_gt(fx_stats().sstable_count, 2);
    cr_assert_eq(fx_stats().commit_limit, 5);
    cr_assert_eq(count_entries(NULL), 1);
    confirm(1005);
    wait_until(fx_stats().last_lsn == 1005);
    cr_assert_eq(count_entries(NULL), 1001);
    fx_close();
}

/* ---- tables with what is not visible yet ---- */

typedef struct model {
    int values[20][400]; /* the versions of each key, and their LSNs; -1: deleted */
    uint64_t lsns[20][400];
    int counts[20];
} model;

static void expect_model(const model *m, const varve_snapshot *snapshot, uint64_t lsn) {
    uint64_t live = 0;
    for (int k = 0; k < 20; k++) {
        char key[8], value[16];
        int at = m->counts[k] - 1;
        while (at >= 0 && m->lsns[k][at] > lsn)
            at--;
        snprintf(key, sizeof key, "k%02d", k);
        varve_value v;
        varve_status st = snapshot ? varve_get_at(fx_db, snapshot, key, 3, &v) : varve_get(fx_db, key, 3, &v);
        if (at < 0 || m->values[k][at] < 0) {
            cr_assert_eq(st.code, VARVE_NOT_FOUND, "%s at %" PRIu64, key, lsn);
            continue;
        }
        live++;
        snprintf(value, sizeof value, "%d", m->values[k][at]);
        cr_assert(varve_ok(st), "%s at %" PRIu64 ": %s", key, lsn, varve_code_name(st.code));
        cr_assert(v.lsn == m->lsns[k][at] && v.bytes == strlen(value) && memcmp(v.data, value, v.bytes) == 0,
                  "%s at %" PRIu64 " is of %" PRIu64 ", not of %" PRIu64, key, lsn, v.lsn, m->lsns[k][at]);
        varve_value_release(&v);
    }
    cr_assert_eq(count_entries(snapshot), live, "at %" PRIu64, lsn);
}

static void run_model(const char *style) {
    static model m;
    pending *p[4000];
    int pending_count = 0;
    uint64_t seed = vv_test_seed(), next_lsn = 1, confirmed = 0;
    varve_options *o = fx_options("COMPACTION_STYLE", style, "COMPACTION_THRESHOLD", "2", NULL);
    fx_open_with(o);
    limit(true);
    varve_snapshot *snapshot = NULL;
    varve_write_options late = {.confirm_deadline_ns = 1};
    for (int round = 0; round < 60; round++) {
        int writes = (int)(vv_test_random(&seed) % 60);
        for (int i = 0; i < writes; i++) {
            int k = (int)(vv_test_random(&seed) % 20);
            bool is_delete = vv_test_random(&seed) % 4 == 0;
            char key[8], value[16];
            snprintf(key, sizeof key, "k%02d", k);
            snprintf(value, sizeof value, "%d", (int)next_lsn);
            if (m.counts[k] == 400)
                continue;
            m.values[k][m.counts[k]] = is_delete ? -1 : (int)next_lsn;
            m.lsns[k][m.counts[k]++] = next_lsn++;
            p[pending_count++] = write_with(key, is_delete ? NULL : value, i % 2 ? &late : NULL);
        }
        if (vv_test_random(&seed) % 3 == 0)
            cr_assert(varve_ok(varve_flush(fx_db)));
        if (vv_test_random(&seed) % 5 == 0)
            cr_assert(varve_ok(varve_compact(fx_db)));
        if (snapshot) {
            expect_model(&m, snapshot, varve_snapshot_lsn(snapshot));
            varve_snapshot_release(fx_db, snapshot);
            snapshot = NULL;
        } else {
            snapshot = varve_snapshot_create(fx_db);
        }
        /* In small steps through what tables hold already. */
        for (int step = 0; step < 4; step++) {
            if (confirmed + 1 < next_lsn)
                confirmed += vv_test_random(&seed) % VV_MIN(next_lsn - confirmed, 16);
            confirm(confirmed);
            wait_until(fx_stats().last_lsn == confirmed);
            expect_model(&m, NULL, confirmed);
        }
        if (vv_test_random(&seed) % 10 == 0) {
            varve_snapshot_release(fx_db, snapshot);
            snapshot = NULL;
            fx_close();
            for (; pending_count > 0; pending_count--) {
                wait_until(atomic_load(&p[pending_count - 1]->answered));
                end(p[pending_count - 1]);
            }
            fx_open_with(fx_options("COMPACTION_STYLE", style, "COMPACTION_THRESHOLD", "2", NULL));
            cr_assert_leq(fx_stats().last_lsn, confirmed);
            expect_model(&m, NULL, fx_stats().last_lsn);
        }
    }
    varve_snapshot_release(fx_db, snapshot);
    confirm(next_lsn - 1);
    wait_until(fx_stats().last_lsn == next_lsn - 1);
    expect_model(&m, NULL, next_lsn - 1);
    cr_assert(varve_ok(varve_compact(fx_db)));
    expect_model(&m, NULL, next_lsn - 1);
    fx_close();
    while (pending_count > 0)
        end(p[--pending_count]);
}

Test(db_commit_limit, every_state_that_is_confirmed_is_seen_whole_whatever_was_flushed_and_merged_tiered) {
    run_model("tiered");
}

Test(db_commit_limit, every_state_that_is_confirmed_is_seen_whole_whatever_was_flushed_and_merged_leveled) {
    run_model("leveled");
}

/* The compaction thread has looked at the tables as they are, and come to an end. */
static void wait_for_merges(void) {
    vv_mutex_lock(&fx_db->compaction.lock);
    for (int round = 0; round < 2; round++) { /* one may be under way */
        fx_db->compaction.hint = true;
        vv_cond_signal(&fx_db->compaction.wanted);
        cr_assert(vv_cond_wait_until(&fx_db->compaction.done, &fx_db->compaction.lock,
                                     vv_clock_mono_ns() + WAIT_NS),
                  "merges without end");
    }
    vv_mutex_unlock(&fx_db->compaction.lock);
}

Test(db_commit_limit, tombstones_go_once_they_are_confirmed_without_anything_else_happening) {
    enum { COUNT = 12000 };
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[16];
    fx_open();
    for (int i = 0; i < COUNT; i++) {
        snprintf(key, sizeof key, "%06d", i);
        cr_assert(varve_ok(varve_put(fx_db, key, 6, "value", 5, &async, NULL)));
    }
    cr_assert(varve_ok(varve_compact(fx_db)));
    limit(true);
    pending *p[COUNT / 100];
    for (int i = 0; i < COUNT; i += 100) {
        p[i / 100] = begin();
        for (int n = i; n < i + 100; n++) {
            snprintf(key, sizeof key, "%06d", n);
            cr_assert(varve_ok(varve_batch_delete(p[i / 100]->batch, key, 6)));
        }
        send(p[i / 100], NULL);
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
    wait_until(atomic_load(&fx_db->limit.merge_lsn) == 2 * COUNT);
    wait_for_merges();
    cr_assert_eq(fx_stats().dropped_tombstones, 0);
    cr_assert_eq(count_entries(NULL), COUNT);
    confirm(2 * COUNT);
    wait_until(fx_stats().dropped_tombstones == COUNT);
    cr_assert_eq(count_entries(NULL), 0);
    for (uint64_t i = 0; i < COUNT / 100; i++)
        expect_answer(p[i], VARVE_OK, COUNT + 100 * (i + 1));
    fx_close();
}

/* ---- notices ---- */

static _Atomic uint64_t notices;

static void count_notice(void *arg) {
    (void)arg;
    atomic_fetch_add(&notices, 1);
}

Test(db_commit_limit, who_wants_notice_hears_once_of_what_is_durable_and_of_what_is_visible) {
    varve_options *o = fx_options(NULL);
    varve_options_set_durable_callback(o, count_notice, NULL);
    fx_open_with(o);
    limit(true);
    pending *a = write_key("key", "1");
    wait_for_waiting(1);
    cr_assert_eq(atomic_load(&notices), 0);
    varve_want_notice(fx_db);
    pending *b = write_key("key", "2");
    wait_for_waiting(2);
    wait_until(atomic_load(&notices) == 1);
    pass_the_writer();
    cr_assert_eq(atomic_load(&notices), 1, "once");
    varve_want_notice(fx_db);
    confirm(1);
    expect_answer(a, VARVE_OK, 1);
    cr_assert_eq(atomic_load(&notices), 2, "before the answers");
    confirm(2);
    expect_answer(b, VARVE_OK, 2);
    cr_assert_eq(atomic_load(&notices), 2);
    fx_close();
}

/* ---- followers ---- */

Test(db_commit_limit, records_of_a_primary_are_durable_at_once_and_visible_when_confirmed) {
    static uint8_t record[200];
    fx_open();
    limit(true);
    confirm(1);
    for (uint64_t lsn = 1; lsn <= 3; lsn++) {
        vv_entry e = {.kind = VV_KIND_PUT, .key = vv_slice_make("key", 3), .value = vv_slice_make("v", 1)};
        uint8_t ops[VV_OP_HEAD_BYTES + 4];
        vv_op_head_encode(ops, &e);
        memcpy(ops + VV_OP_HEAD_BYTES, "key", 3);
        ops[VV_OP_HEAD_BYTES + 3] = (uint8_t)('0' + lsn);
        varve_wal_batch b = {.first_lsn = lsn,
                             .last_lsn = lsn,
                             .op_count = 1,
                             .epoch = 1,
                             .ops = ops,
                             .ops_bytes = sizeof ops};
        size_t bytes = varve_wal_batch_encode(&b, record, sizeof record);
        cr_assert(varve_ok(varve_apply(fx_db, record, bytes, NULL, &fx_err)), "%s", fx_err.text);
        cr_assert_eq(fx_stats().durable_lsn, lsn);
    }
    cr_assert_eq(fx_stats().last_lsn, 1);
    fx_expect("key", "1");
    confirm(3);
    wait_until(fx_stats().last_lsn == 3);
    fx_expect("key", "3");
    fx_close();
}

/* ---- back-pressure and failures ---- */

Test(db_commit_limit, too_many_that_wait_make_new_ones_be_refused_until_others_catch_up) {
    enum { VALUE = 4 << 20, FIT = (VV_DB_WAITING_BYTES_MAX + VALUE) / VALUE };
    pending *p[2 * FIT];
    varve_batch *batch = varve_batch_create();
    char *value = calloc(1, VALUE);
    cr_assert(varve_ok(varve_batch_put(batch, "key", 3, value, VALUE)));
    free(value);
    fx_open_with(fx_options("MEMTABLE_SIZE", "16MiB", "WAL_SEGMENT_SIZE", "16MiB", NULL));
    limit(true);
    uint64_t accepted = 0;
    for (int i = 0; i < 2 * FIT; i++) {
        p[i] = calloc(1, sizeof *p[i]);
        varve_write_async(fx_db, batch, NULL, take_answer, p[i]);
        wait_until(fx_stats().unconfirmed_writes == (uint64_t)i + 1 || atomic_load(&p[i]->answered));
        if (!atomic_load(&p[i]->answered)) {
            accepted++;
            continue;
        }
        cr_assert_eq(p[i]->status.code, VARVE_BUSY, "%s", varve_code_name(p[i]->status.code));
        cr_assert_str_eq(varve_reason_name(p[i]->status.reason), "REPLICAS_BEHIND");
        end(p[i]);
        break;
    }
    cr_assert(accepted == FIT || accepted == FIT - 1, "%" PRIu64, accepted);
    cr_assert_eq(fx_stats().durable_lsn, accepted);
    confirm(1);
    expect_answer(p[0], VARVE_OK, 1);
    pending *again = calloc(1, sizeof *again);
    varve_write_async(fx_db, batch, NULL, take_answer, again);
    wait_until(fx_stats().unconfirmed_writes == accepted);
    confirm(accepted + 1);
    for (uint64_t i = 1; i < accepted; i++)
        expect_answer(p[i], VARVE_OK, i + 1);
    expect_answer(again, VARVE_OK, accepted + 1);
    varve_batch_destroy(batch);
    fx_close();
}

static struct {
    const char *op;
    const char *name;
    _Atomic bool fails;
    _Atomic bool holds;
    _Atomic bool held;
} fault;

static vv_status tell(void *arg, const char *op, const char *name) {
    (void)arg;
    if (!fault.op || strcmp(op, fault.op) != 0 || !strstr(name, fault.name))
        return VV_STATUS_OK;
    if (atomic_load(&fault.fails))
        return vv_status_make(VV_IO, VV_SUB_NONE, EIO);
    while (atomic_load(&fault.holds)) {
        atomic_store(&fault.held, true);
        sched_yield();
    }
    return VV_STATUS_OK;
}

static void open_faulty(varve_options *o) {
    vv_error err;
    vv_status st = vv_db_open_on(vv_fault_io_create(tell, NULL), vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
}

Test(db_commit_limit, when_the_log_fails_what_was_durable_may_still_be_confirmed) {
    open_faulty(fx_options(NULL));
    limit(true);
    pending *durable = write_key("key", "1");
    wait_for_waiting(1);
    fault.op = "datasync";
    fault.name = "wal-";
    atomic_store(&fault.fails, true);
    expect_answer(write_key("key", "2"), VARVE_WAL_FAILED, 0);
    cr_assert(!atomic_load(&durable->answered));
    confirm(2);
    expect_answer(durable, VARVE_OK, 1);
    fx_expect("key", "1");
    cr_assert_eq(fx_stats().last_lsn, 1);
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED);
}

Test(db_commit_limit, a_limit_that_can_not_be_remembered_is_none) {
    open_faulty(fx_options(NULL));
    fx_put("key", "1");
    fault.op = "rename";
    fault.name = VV_MANIFEST_NAME;
    atomic_store(&fault.fails, true);
    cr_assert_eq(varve_limit_commits(fx_db, true, &fx_err).code, VARVE_IO);
    cr_assert(strstr(fx_err.text, "commit limit"), "%s", fx_err.text);
    cr_assert_eq(fx_stats().commit_limit, UINT64_MAX);
    fx_put("key", "2");
    atomic_store(&fault.fails, false);
    limit(true);
    atomic_store(&fault.fails, true);
    cr_assert_eq(varve_limit_commits(fx_db, false, &fx_err).code, VARVE_IO);
    cr_assert_eq(fx_stats().commit_limit, 2, "nor is one lifted that might be there again after a crash");
    atomic_store(&fault.fails, false);
    limit(false);
    fx_close();
}

Test(db_commit_limit, a_writer_that_waits_for_a_flush_still_answers) {
    static char value[300 * 1024];
    open_faulty(fx_options("MEMTABLE_SIZE", "256KiB", "MAX_IMMUTABLE_COUNT", "1", NULL));
    limit(true);
    memset(value, 'v', sizeof value - 1);
    fault.op = "write";
    fault.name = ".sst";
    atomic_store(&fault.holds, true);
    pending *first = write_key("key", value);
    wait_for_waiting(1);
    varve_write_options o = {.confirm_deadline_ns = in_ms(1000)};
    pending *late = write_with("key", value, &o);
    wait_until(atomic_load(&fault.held) && fx_stats().durable_lsn == 2);
    pending *blocked = write_key("key", value); /* alone in its group */
    wait_until(fx_stats().write_stalls == 1);
    cr_assert_eq(fx_stats().durable_lsn, 2, "the third one waits for room");
    confirm(1);
    expect_answer(first, VARVE_OK, 1);
    expect_answer(late, VARVE_NOT_CONFIRMED, 0);
    atomic_store(&fault.holds, false);
    confirm(3);
    expect_answer(blocked, VARVE_OK, 3);
    fx_close();
}

/* ---- many threads ---- */

enum { WRITERS = 6, WRITES = 300 };

static struct {
    _Atomic bool stop;
    _Atomic uint64_t confirmed;
    _Atomic uint64_t late;
} crowd;

static void *write_many(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg * 77 + 1;
    char key[16];
    for (int i = 0; i < WRITES; i++) {
        varve_write_options o = {0};
        if (vv_test_random(&seed) % 3 == 0)
            o.confirm_deadline_ns = vv_clock_mono_ns() + vv_test_random(&seed) % (3 * VV_NS_PER_MS);
        snprintf(key, sizeof key, "%d", (int)(vv_test_random(&seed) % 50));
        uint64_t lsn;
        varve_status st = varve_put(fx_db, key, strlen(key), "value", 5, &o, &lsn);
        if (st.code == VARVE_NOT_CONFIRMED) {
            atomic_fetch_add(&crowd.late, 1);
            continue;
        }
        cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
        cr_assert_leq(lsn, atomic_load(&crowd.confirmed));
        varve_value v;
        cr_assert(varve_ok(varve_get(fx_db, key, strlen(key), &v)), "what was answered is seen");
        cr_assert_geq(v.lsn, lsn);
        varve_value_release(&v);
    }
    return NULL;
}

static void *confirm_all(void *arg) {
    (void)arg;
    while (!atomic_load(&crowd.stop)) {
        uint64_t lsn = fx_stats().durable_lsn;
        if (atomic_load(&crowd.confirmed) < lsn) {
            atomic_store(&crowd.confirmed, lsn);
            confirm(lsn);
        }
        sched_yield();
    }
    return NULL;
}

static void *flush_and_merge(void *arg) {
    (void)arg;
    while (!atomic_load(&crowd.stop)) {
        cr_assert(varve_ok(varve_flush(fx_db)));
        cr_assert(varve_ok(varve_compact(fx_db)));
        /* What is visible is confirmed. */
        uint64_t visible_lsn = fx_stats().last_lsn;
        cr_assert_leq(visible_lsn, atomic_load(&crowd.confirmed));
    }
    return NULL;
}

Test(db_commit_limit, many_threads_are_answered_and_see_only_what_is_confirmed) {
    pthread_t writers[WRITERS], confirmer, merger;
    fx_open();
    limit(true);
    cr_assert_eq(pthread_create(&confirmer, NULL, confirm_all, NULL), 0);
    cr_assert_eq(pthread_create(&merger, NULL, flush_and_merge, NULL), 0);
    for (uintptr_t i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_create(&writers[i], NULL, write_many, (void *)i), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    atomic_store(&crowd.stop, true);
    pthread_join(confirmer, NULL);
    pthread_join(merger, NULL);
    confirm(WRITERS * WRITES);
    wait_until(fx_stats().last_lsn == WRITERS * WRITES);
    cr_assert_eq(fx_stats().unconfirmed_writes, 0);
    cr_log_info("%" PRIu64 " of %d were late", atomic_load(&crowd.late), WRITERS * WRITES);
    fx_close();
}

static void *limit_and_lift(void *arg) {
    (void)arg;
    while (!atomic_load(&crowd.stop)) {
        limit(true);
        limit(false);
    }
    return NULL;
}

Test(db_commit_limit, it_may_begin_and_end_while_others_write) {
    pthread_t writers[WRITERS], toggler;
    fx_open();
    atomic_store(&crowd.confirmed, UINT64_MAX);
    cr_assert_eq(pthread_create(&toggler, NULL, limit_and_lift, NULL), 0);
    for (uintptr_t i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_create(&writers[i], NULL, write_many, (void *)i), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    atomic_store(&crowd.stop, true);
    pthread_join(toggler, NULL);
    cr_assert_eq(fx_stats().last_lsn, WRITERS * WRITES);
    fx_close();
}
