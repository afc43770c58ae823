/*
 * Writes that are named by (client_id, sequence) and come again: applied once, answered with the first LSN,
 * as durable as is asked; across restarts, kills and trimmed logs.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"
#include "tests/support/kill_round.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_retry, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

#define CLIENT UINT64_C(0xc11e)

static varve_status put_named(const char *key, uint64_t client, uint64_t sequence,
                              varve_durability durability, uint64_t *lsn) {
    varve_write_options o = {.durability = durability, .client_id = client, .sequence = sequence};
    return varve_put(fx_db, key, strlen(key), "value", 5, &o, lsn);
}

/* Key and value follow from the sequence. */
static uint64_t put_once(uint64_t sequence) {
    char key[32];
    uint64_t lsn;
    snprintf(key, sizeof key, "key%" PRIu64, sequence);
    varve_status st = put_named(key, CLIENT, sequence, VARVE_DURABILITY_SYNC, &lsn);
    cr_assert(varve_ok(st), "%" PRIu64 ": %s", sequence, varve_code_name(st.code));
    return lsn;
}

/* ---- what a name means ---- */

Test(db_retry, a_write_that_comes_again_is_answered_with_the_first_lsn_and_not_applied) {
    fx_open();
    uint64_t first = put_once(1);
    cr_assert_eq(first, 1);
    fx_put("key1", "newer");
    cr_assert_eq(put_once(1), first);
    fx_expect("key1", "newer");
    cr_assert_eq(fx_stats().last_lsn, 2);
    cr_assert_eq(put_once(2), 3);
    cr_assert_eq(put_once(1), first);
    cr_assert_eq(fx_stats().retried_writes, 2);
    cr_assert_gt(fx_stats().retry_memory_bytes, 0);
    fx_close();
}

Test(db_retry, deletes_and_batches_have_names_too_and_clients_do_not_share_them) {
    fx_open();
    varve_batch *b = varve_batch_create();
    for (int i = 0; i < 3; i++)
        cr_assert(varve_ok(varve_batch_put(b, "key", 3, "value", 5)));
    varve_write_options o = {.client_id = CLIENT, .sequence = 1};
    uint64_t lsn;
    for (int i = 0; i < 2; i++) {
        cr_assert(varve_ok(varve_write(fx_db, b, &o, &lsn)));
        cr_assert_eq(lsn, 3);
    }
    o.client_id++;
    cr_assert(varve_ok(varve_write(fx_db, b, &o, &lsn)));
    cr_assert_eq(lsn, 6);
    o.sequence = 2;
    for (int i = 0; i < 2; i++) {
        cr_assert(varve_ok(varve_delete(fx_db, "key", 3, &o, &lsn)));
        cr_assert_eq(lsn, 7);
    }
    varve_batch_destroy(b);
    fx_close();
}

Test(db_retry, half_a_name_is_refused) {
    uint64_t lsn;
    fx_open();
    varve_status st = put_named("key", CLIENT, 0, VARVE_DURABILITY_SYNC, &lsn);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_str_eq(varve_reason_name(st.reason), "BAD_SEQUENCE");
    st = put_named("key", 0, 1, VARVE_DURABILITY_SYNC, &lsn);
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(fx_stats().last_lsn, 0);
    fx_close();
}

Test(db_retry, sequences_may_come_in_any_order_within_the_window_and_older_ones_are_refused) {
    fx_open();
    for (uint64_t sequence = 2; sequence <= VV_RETRY_WINDOW; sequence += 2)
        put_once(sequence);
    for (uint64_t sequence = 1; sequence < VV_RETRY_WINDOW; sequence += 2)
        put_once(sequence);
    cr_assert_eq(fx_stats().last_lsn, VV_RETRY_WINDOW);
    cr_assert_eq(put_once(1), VV_RETRY_WINDOW / 2 + 1);
    put_once(1000);
    for (int opened = 0; opened < 3; opened++) {
        uint64_t lsn = 7;
        varve_status st = put_named("key1", CLIENT, 1, VARVE_DURABILITY_SYNC, &lsn);
        cr_assert_eq(st.code, VARVE_SEQUENCE_TOO_OLD, "%s", varve_code_name(st.code));
        cr_assert_str_eq(varve_code_name(st.code), "SEQUENCE_TOO_OLD");
        cr_assert_eq(lsn, 0);
        cr_assert_eq(put_once(2), 1);
        cr_assert_eq(fx_stats().last_lsn, VV_RETRY_WINDOW + 1);
        if (opened == 1)
            cr_assert(varve_ok(varve_flush(fx_db)));
        fx_close();
        fx_open();
    }
    fx_close();
}

Test(db_retry, a_condition_that_held_is_not_asked_again_and_one_that_failed_is) {
    fx_open();
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_require_absent(b, "key", 3)));
    cr_assert(varve_ok(varve_batch_put(b, "key", 3, "value", 5)));
    varve_write_options o = {.client_id = CLIENT, .sequence = 1};
    uint64_t lsn;
    fx_put("key", "in the way");
    cr_assert_eq(varve_write(fx_db, b, &o, &lsn).code, VARVE_CONDITION_FAILED);
    cr_assert_eq(varve_write(fx_db, b, &o, &lsn).code, VARVE_CONDITION_FAILED);
    fx_delete("key");
    cr_assert(varve_ok(varve_write(fx_db, b, &o, &lsn)));
    cr_assert_eq(lsn, 3);
    cr_assert(varve_ok(varve_write(fx_db, b, &o, &lsn)), "now the key is there, and the write was done");
    cr_assert_eq(lsn, 3);
    o.sequence = 2;
    cr_assert_eq(varve_write(fx_db, b, &o, &lsn).code, VARVE_CONDITION_FAILED);
    varve_batch_destroy(b);
    fx_close();
}

Test(db_retry, a_write_for_which_there_was_no_memory_is_not_remembered) {
    fx_open();
    for (uint64_t sequence = 1; sequence < 20; sequence++)
        for (uint64_t n = 1;; n++) {
            uint64_t before = fx_stats().last_lsn, lsn;
            vv_alloc_fail_at(n);
            varve_status st = put_named("key", CLIENT, sequence, VARVE_DURABILITY_SYNC, &lsn);
            vv_alloc_fail_at(0);
            if (varve_ok(st)) {
                cr_assert_eq(lsn, before + 1);
                break;
            }
            cr_assert_eq(st.code, VARVE_NO_MEMORY);
            cr_assert_eq(fx_stats().last_lsn, before);
        }
    fx_close();
}

/* ---- durability of what is repeated ---- */

Test(db_retry, a_synchronous_repetition_of_an_asynchronous_write_is_answered_when_that_is_durable) {
    fx_open_with(fx_options("WAL_SYNC_INTERVAL", "60s", NULL));
    uint64_t first, again;
    cr_assert(varve_ok(put_named("key", CLIENT, 1, VARVE_DURABILITY_ASYNC, &first)));
    cr_assert_eq(fx_stats().durable_lsn, 0);
    cr_assert(varve_ok(put_named("key", CLIENT, 1, VARVE_DURABILITY_ASYNC, &again)));
    cr_assert_eq(fx_stats().durable_lsn, 0, "nobody has asked for more");
    cr_assert(varve_ok(put_named("key", CLIENT, 1, VARVE_DURABILITY_SYNC, &again)));
    cr_assert_eq(again, first);
    cr_assert_eq(fx_stats().durable_lsn, first);
    fx_close();
}

/* The n-th datasync of the log from now on is held until told, then fails or not. Tables are not made while
 * flushes are held. */
static struct {
    _Atomic bool hold_flushes;
    _Atomic int countdown;
    _Atomic int held;
    _Atomic bool go;
    _Atomic int sys;
} gate;

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    while (atomic_load(&gate.hold_flushes) && strcmp(op, "open") == 0 && strstr(name, ".sst"))
        sched_yield();
    if (strcmp(op, "datasync") != 0 || strncmp(name, "wal-", 4) != 0 ||
        atomic_fetch_sub(&gate.countdown, 1) != 1)
        return VV_STATUS_OK;
    atomic_fetch_add(&gate.held, 1);
    while (!atomic_load(&gate.go))
        sched_yield();
    atomic_store(&gate.go, false);
    int sys = atomic_load(&gate.sys);
    return sys ? vv_status_errno(sys) : VV_STATUS_OK;
}

static void open_gated(varve_options *o) {
    vv_error err;
    vv_status st = vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
}

static void wait_held(int count) {
    while (atomic_load(&gate.held) < count)
        sched_yield();
}

typedef struct answer {
    _Atomic bool given;
    varve_status status;
    uint64_t lsn;
} answer;

static void take_answer(void *arg, varve_status status, uint64_t lsn) {
    answer *a = arg;
    a->status = status;
    a->lsn = lsn;
    atomic_store(&a->given, true);
}

static void wait_answer(answer *a) {
    while (!atomic_load(&a->given))
        sched_yield();
}

/* One group: an asynchronous write, and the same again, synchronous. */
static void repeat_in_one_group(int sys) {
    open_gated(fx_options("WAL_SYNC_INTERVAL", "60s", NULL));
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "key", 3, "value", 5)));
    answer first = {0}, original = {0}, repeated = {0};
    varve_write_options o = {.client_id = CLIENT, .sequence = 1};
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC, .client_id = CLIENT, .sequence = 2};
    varve_write_options sync = {.client_id = CLIENT, .sequence = 2};

    atomic_store(&gate.countdown, 1);
    varve_write_async(fx_db, b, &o, take_answer, &first);
    wait_held(1);
    varve_write_async(fx_db, b, &async, take_answer, &original); /* while the writer is busy: one group */
    varve_write_async(fx_db, b, &sync, take_answer, &repeated);
    atomic_store(&gate.countdown, 1);
    atomic_store(&gate.sys, 0);
    atomic_store(&gate.go, true);
    wait_held(2);
    wait_answer(&first);
    cr_assert_not(atomic_load(&repeated.given), "acknowledged before the sync");
    cr_assert_eq(fx_stats().durable_lsn, 1);
    atomic_store(&gate.sys, sys);
    atomic_store(&gate.go, true);
    wait_answer(&original);
    wait_answer(&repeated);
    varve_code code = sys ? VARVE_WAL_FAILED : VARVE_OK;
    cr_assert_eq(original.status.code, code);
    cr_assert_eq(repeated.status.code, code);
    cr_assert_eq(repeated.lsn, sys ? 0 : 2);
    cr_assert_eq(fx_stats().last_lsn, sys ? 1 : 2);
    varve_batch_destroy(b);
}

Test(db_retry, a_repetition_in_the_group_of_its_original_waits_for_the_sync) {
    repeat_in_one_group(0);
    fx_close();
}

Test(db_retry, a_repetition_whose_sync_fails_is_not_acknowledged_and_none_is_later) {
    repeat_in_one_group(EIO);
    uint64_t lsn;
    cr_assert_eq(put_named("key", CLIENT, 2, VARVE_DURABILITY_SYNC, &lsn).code, VARVE_WAL_FAILED);
    cr_assert_eq(put_named("key", CLIENT, 1, VARVE_DURABILITY_SYNC, &lsn).code, VARVE_WAL_FAILED);
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED);
    /* The frame was written, only not synced: here it is found again, and then its name must be, too. */
    fx_open();
    uint64_t last = fx_stats().last_lsn;
    cr_assert(varve_ok(put_named("key", CLIENT, 1, VARVE_DURABILITY_SYNC, &lsn)));
    cr_assert_eq(lsn, 1);
    cr_assert(varve_ok(put_named("key", CLIENT, 2, VARVE_DURABILITY_SYNC, &lsn)));
    cr_assert_eq(lsn, 2);
    cr_assert_eq(fx_stats().last_lsn, 2, "was %" PRIu64 " at open", last);
    fx_close();
}

/* ---- many at once ---- */

enum { THREADS = 4, NAMES = 200, ROUNDS = 3 };

static answer answers[THREADS][ROUNDS][NAMES];
static varve_batch *shared_batch;

static void *write_all_names(void *arg) {
    answer(*mine)[NAMES] = arg;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < NAMES; i++) {
            varve_write_options o = {.durability = (varve_durability)((i + round) % 2),
                                     .client_id = CLIENT,
                                     .sequence = (uint64_t)i + 1};
            varve_write_async(fx_db, shared_batch, &o, take_answer, &mine[round][i]);
        }
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < NAMES; i++)
            wait_answer(&mine[round][i]);
    return NULL;
}

Test(db_retry, of_many_duplicates_at_once_one_is_applied_and_all_have_its_lsn) {
    pthread_t threads[THREADS];
    fx_open();
    shared_batch = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(shared_batch, "key", 3, "value", 5)));
    for (int t = 0; t < THREADS; t++)
        pthread_create(&threads[t], NULL, write_all_names, answers[t]);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    cr_assert_eq(fx_stats().last_lsn, NAMES);
    cr_assert_eq(fx_stats().retried_writes, (THREADS * ROUNDS - 1) * NAMES);
    bool taken[NAMES + 1] = {0};
    for (int i = 0; i < NAMES; i++) {
        uint64_t lsn = answers[0][0][i].lsn;
        cr_assert(lsn >= 1 && lsn <= NAMES && !taken[lsn]);
        taken[lsn] = true;
        for (int t = 0; t < THREADS; t++)
            for (int round = 0; round < ROUNDS; round++) {
                cr_assert(varve_ok(answers[t][round][i].status));
                cr_assert_eq(answers[t][round][i].lsn, lsn);
            }
    }
    varve_batch_destroy(shared_batch);
    fx_close();
}

/* ---- restarts ---- */

static void expect_known(uint64_t count) {
    uint64_t last = fx_stats().last_lsn;
    for (uint64_t sequence = 1; sequence <= count; sequence++)
        cr_assert_eq(put_once(sequence), sequence);
    cr_assert_eq(fx_stats().last_lsn, last);
}

Test(db_retry, names_survive_a_restart_in_the_log) {
    fx_open();
    for (uint64_t sequence = 1; sequence <= 100; sequence++)
        put_once(sequence);
    fx_close();
    fx_open();
    expect_known(100);
    fx_close();
}

Test(db_retry, names_survive_when_the_log_was_trimmed) {
    fx_open();
    for (uint64_t sequence = 1; sequence <= 100; sequence++) {
        put_once(sequence);
        if (sequence % 40 == 0) /* some in the manifest, the rest in the log */
            cr_assert(varve_ok(varve_flush(fx_db)));
    }
    fx_close();
    for (int i = 0; i < 3; i++) {
        fx_open();
        cr_assert_geq(fx_stats().flushed_lsn, 80);
        expect_known(100);
        /* The manifest is written anew by merges, too. */
        fx_put("other", "1");
        cr_assert(varve_ok(varve_flush(fx_db)));
        cr_assert(varve_ok(varve_compact(fx_db)));
        expect_known(100);
        fx_close();
    }
}

Test(db_retry, names_survive_a_replay_that_flushes_on_its_way) {
    static char value[20000];
    fx_open();
    for (uint64_t sequence = 1; sequence <= 200; sequence++) {
        varve_write_options o = {
            .durability = VARVE_DURABILITY_ASYNC, .client_id = CLIENT, .sequence = sequence};
        cr_assert(varve_ok(varve_put(fx_db, &sequence, sizeof sequence, value, sizeof value, &o, NULL)));
    }
    fx_close();
    for (int i = 0; i < 2; i++) {
        fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", NULL));
        cr_assert_gt(fx_stats().flushed_lsn, 100);
        expect_known(200);
        fx_close();
    }
}

Test(db_retry, each_of_many_sealed_memtables_takes_its_own_names_along) {
    static char value[20000];
    open_gated(fx_options("MEMTABLE_SIZE", "256KiB", "MAX_IMMUTABLE_COUNT", "4", NULL));
    atomic_store(&gate.hold_flushes, true);
    for (uint64_t sequence = 1; sequence <= 45; sequence++) {
        varve_write_options o = {.client_id = CLIENT, .sequence = sequence};
        cr_assert(varve_ok(varve_put(fx_db, &sequence, sizeof sequence, value, sizeof value, &o, NULL)));
    }
    cr_assert_geq(fx_stats().immutable_count, 3);
    atomic_store(&gate.hold_flushes, false);
    cr_assert(varve_ok(varve_flush(fx_db)));
    cr_assert(varve_ok(varve_compact(fx_db)));
    fx_close();
    fx_open();
    cr_assert_eq(fx_stats().flushed_lsn, 45);
    expect_known(45);
    fx_close();
}

/* Names 1, 2, 3, ... for ever, some twice, with a flush now and then; each that is acknowledged is told. In a
 * child, as below: what fails there is said by the exit code. */
static void write_names_for_ever(int fd, uint64_t start) {
    fx_open_with(fx_options("WAL_SEGMENT_SIZE", "256KiB", NULL));
    for (uint64_t n = start;; n++) {
        char key[32];
        uint64_t lsn;
        snprintf(key, sizeof key, "key%" PRIu64, n);
        for (int i = 0; i < (n % 7 ? 1 : 2); i++)
            if (!varve_ok(put_named(key, CLIENT, n, VARVE_DURABILITY_SYNC, &lsn)) || lsn != n)
                _exit(3);
        if (write(fd, &n, sizeof n) != sizeof n)
            _exit(4);
        if (n % 100 == 0 && !varve_ok(varve_flush(fx_db)))
            _exit(5);
    }
}

Test(db_retry, what_was_acknowledged_before_a_kill_is_not_applied_again) {
    uint64_t seed = vv_test_seed();
    uint64_t newest = 0;
    bool trimmed = false;
    for (int round = 0; round < 6; round++) {
        uint64_t acked = vv_kill_round(write_names_for_ever, newest + 1, 1 + vv_test_random(&seed) % 600);
        fx_open();
        uint64_t last = fx_stats().last_lsn;
        trimmed |= fx_stats().flushed_lsn > 0;
        cr_assert(last == acked || last == acked + 1);
        uint64_t oldest = acked >= VV_RETRY_WINDOW ? acked - VV_RETRY_WINDOW + 2 : 1;
        for (uint64_t sequence = oldest; sequence <= last; sequence++)
            cr_assert_eq(put_once(sequence), sequence);
        cr_assert_eq(fx_stats().last_lsn, last);
        /* One that was under way is there or not; after its repetition it is there once. */
        cr_assert_eq(put_once(acked + 1), acked + 1);
        newest = acked + 1;
        fx_close();
    }
    cr_assert(trimmed, "no round got as far as a flush");
}

Test(db_retry, a_backup_knows_what_was_written) {
    fx_open();
    for (uint64_t sequence = 1; sequence <= 100; sequence++)
        put_once(sequence);
    varve_backup_info info;
    cr_assert(varve_ok(varve_backup(fx_db, vv_tempdir_path("copy"), NULL, &info, &fx_err)), "%s",
              fx_err.text);
    put_once(101);
    fx_close();
    varve_options *o = fx_options(NULL);
    cr_assert(varve_ok(varve_open(vv_tempdir_path("copy"), o, &fx_db, &fx_err)), "%s", fx_err.text);
    varve_options_destroy(o);
    expect_known(100);
    cr_assert_eq(put_once(101), 101);
    cr_assert_eq(fx_stats().retried_writes, 100);
    fx_close();
}

/* ---- a crash at each step of a flush ---- */

static _Atomic int steps_left; /* of what a flush writes; the process ends at the last */

static vv_status crash_on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    if (strncmp(name, "wal-", 4) != 0 && atomic_load(&steps_left) > 0 &&
        atomic_fetch_sub(&steps_left, 1) == 1) {
        (void)op;
        _exit(9);
    }
    return VV_STATUS_OK;
}

/* True: the flush was over before that many steps. */
static bool flush_until(int steps) {
    pid_t pid = fork();
    if (pid == 0) {
        vv_error err;
        varve_options *o = fx_options(NULL);
        if (!vv_ok(
                vv_db_open_on(vv_fault_io_create(crash_on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err)))
            _exit(1);
        varve_options_destroy(o);
        uint64_t next = fx_stats().last_lsn + 1;
        for (uint64_t n = next; n < next + 2; n++) {
            char key[32];
            uint64_t lsn;
            snprintf(key, sizeof key, "key%" PRIu64, n);
            if (!varve_ok(put_named(key, CLIENT, n, VARVE_DURABILITY_SYNC, &lsn)) || lsn != n)
                _exit(2);
        }
        atomic_store(&steps_left, steps);
        _exit(varve_ok(varve_flush(fx_db)) ? 0 : 3);
    }
    int status;
    waitpid(pid, &status, 0);
    cr_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 9 || WEXITSTATUS(status) == 0), "%x", status);
    return WEXITSTATUS(status) == 0;
}

Test(db_retry, a_crash_at_any_step_of_a_flush_loses_no_name) {
    int steps = 1;
    uint64_t last = 0;
    for (bool over = false; !over; steps++) {
        over = flush_until(steps);
        last += 2;
        fx_open();
        cr_assert_eq(fx_stats().last_lsn, last);
        expect_known(last);
        fx_close();
    }
    cr_assert_gt(steps, 6, "a flush has more than %d steps", steps);
}

Test(db_retry, a_manifest_with_impossible_names_is_refused) {
    static uint8_t bytes[65536];
    fx_open();
    put_once(1);
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();
    FILE *f = fopen(vv_tempdir_path("db/MANIFEST"), "r+b");
    size_t n = fread(bytes, 1, sizeof bytes, f);
    uint8_t client[8], *at;
    vv_put_be64(client, CLIENT);
    cr_assert_not_null(at = memmem(bytes, n, client, sizeof client));
    /* The LSN of its only write, behind flushed_lsn. */
    vv_put_be64(at + 8 + 4 + 8, 1000);
    vv_put_be64(bytes + n - 8, vv_checksum(bytes, n - 8, 0));
    rewind(f);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
    varve_options *o = fx_options(NULL);
    varve_status st = varve_open(vv_tempdir_path("db"), o, &fx_db, &fx_err);
    varve_options_destroy(o);
    cr_assert_eq(st.code, VARVE_CORRUPTION, "%s", fx_err.text);
    cr_assert_not_null(strstr(fx_err.text, "remembered writes"), "%s", fx_err.text);
}

/* ---- traces ---- */

Test(db_retry, a_trace_tells_where_the_time_of_a_write_went) {
    open_gated(fx_options(NULL));
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "key", 3, "value", 5)));
    answer first = {0}, second = {0};
    varve_trace traces[2];
    varve_write_options o[2] = {{.trace = &traces[0]}, {.trace = &traces[1]}};
    atomic_store(&gate.countdown, 1);
    varve_write_async(fx_db, b, &o[0], take_answer, &first);
    wait_held(1);
    uint64_t held_ns = vv_clock_mono_ns();
    varve_write_async(fx_db, b, &o[1], take_answer, &second);
    while (vv_clock_mono_ns() - held_ns < 5 * VV_NS_PER_MS)
        sched_yield();
    atomic_store(&gate.go, true);
    wait_answer(&first);
    wait_answer(&second);
    cr_assert_geq(traces[0].wal_ns, 5 * VV_NS_PER_MS, "its sync was held");
    cr_assert_gt(traces[0].memtable_ns, 0);
    cr_assert_geq(traces[1].queue_ns, 5 * VV_NS_PER_MS, "it waited for the one before");
    cr_assert_gt(traces[1].wal_ns, 0);
    varve_batch_destroy(b);
    fx_close();
}

static void *put_traced(void *arg) {
    varve_write_options o = {.trace = arg};
    cr_assert(varve_ok(varve_put(fx_db, "key", 3, "value", 5, &o, NULL)));
    return NULL;
}

Test(db_retry, a_trace_of_a_write_on_its_callers_thread_has_the_sync_in_it) {
    open_gated(fx_options(NULL));
    varve_trace trace;
    pthread_t thread;
    atomic_store(&gate.countdown, 1);
    pthread_create(&thread, NULL, put_traced, &trace);
    wait_held(1);
    uint64_t held_ns = vv_clock_mono_ns();
    while (vv_clock_mono_ns() - held_ns < 5 * VV_NS_PER_MS)
        sched_yield();
    atomic_store(&gate.go, true);
    pthread_join(thread, NULL);
    cr_assert_geq(trace.wal_ns, 5 * VV_NS_PER_MS);
    cr_assert_lt(trace.memtable_ns, trace.wal_ns);
    fx_close();
}

Test(db_retry, a_trace_adds_up_to_less_than_the_whole_call) {
    fx_open();
    varve_trace trace;
    varve_write_options o = {.trace = &trace};
    for (int i = 0; i < 100; i++) {
        uint64_t begun_ns = vv_clock_mono_ns();
        cr_assert(varve_ok(varve_put(fx_db, "key", 3, "value", 5, &o, NULL)));
        cr_assert_leq(trace.queue_ns + trace.wal_ns + trace.memtable_ns, vv_clock_mono_ns() - begun_ns);
        cr_assert_gt(trace.wal_ns, 0);
    }
    fx_close();
}

static void take_code(void *arg, varve_status status, varve_value *value) {
    varve_value_release(value);
    atomic_store((_Atomic int *)arg, (int)status.code);
}

static varve_trace get_traced(const char *key, int expected) {
    _Atomic int code = -1;
    varve_trace trace;
    varve_get_async_traced(fx_db, NULL, key, strlen(key), &trace, take_code, &code);
    while (atomic_load(&code) < 0)
        sched_yield();
    cr_assert_eq(atomic_load(&code), expected);
    return trace;
}

Test(db_retry, a_trace_counts_the_blocks_that_a_read_fetched) {
    fx_open();
    fx_put("key", "value");
    varve_trace trace = get_traced("key", VARVE_OK);
    cr_assert_eq(trace.block_reads, 0);
    cr_assert_eq(trace.block_ns, 0);
    cr_assert_gt(trace.memtable_ns, 0);
    cr_assert(varve_ok(varve_flush(fx_db)));
    trace = get_traced("key", VARVE_OK);
    cr_assert_eq(trace.block_reads, 1);
    cr_assert_gt(trace.block_ns, 0);
    trace = get_traced("key", VARVE_OK);
    cr_assert_eq(trace.block_reads, 0, "cached by now");
    trace = get_traced("none", VARVE_NOT_FOUND);
    cr_assert_gt(trace.memtable_ns, 0);
    fx_close();
}
