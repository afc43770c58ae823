/*
 * Epochs: where two logs part, and that no record ever carries an epoch that is not its writer's own.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_epochs, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

/* ---- where two logs part ---- */

static const varve_epoch one = {1, 1, 11}, two = {2, 60, 22}, two_too = {2, 50, 23}, three = {3, 80, 33};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void expect_common(const varve_epoch *a, size_t a_count, uint64_t a_last, const varve_epoch *b,
                          size_t b_count, uint64_t b_last, uint64_t expected) {
    uint64_t lsn;
    cr_assert(varve_epochs_common_lsn(a, a_count, a_last, b, b_count, b_last, &lsn));
    cr_assert_eq(lsn, expected, "%" PRIu64 ", not %" PRIu64, lsn, expected);
    cr_assert(varve_epochs_common_lsn(b, b_count, b_last, a, a_count, a_last, &lsn));
    cr_assert_eq(lsn, expected, "the other way round: %" PRIu64 ", not %" PRIu64, lsn, expected);
}

Test(db_epochs, logs_are_the_same_as_far_as_their_epochs_are) {
    const varve_epoch short_one[] = {one}, long_one[] = {one, two, three}, other[] = {one, two_too},
                      behind[] = {one, two};
    expect_common(short_one, 1, 40, short_one, 1, 70, 40);
    expect_common(short_one, 1, 100, long_one, 3, 100, 59);
    expect_common(short_one, 1, 30, long_one, 3, 100, 30);
    expect_common(other, 2, 70, long_one, 3, 100, 49);
    expect_common(behind, 2, 70, long_one, 3, 100, 70);
    expect_common(behind, 2, 90, long_one, 3, 100, 79);
    expect_common(behind, 2, 40, long_one, 3, 100, 40); /* what begins behind the end does not count */
    expect_common(behind, 2, 40, other, 2, 45, 40);
    expect_common(short_one, 1, 0, &two_too, 1, 100, 0);
}

Test(db_epochs, logs_without_a_common_epoch_are_not_compared) {
    const varve_epoch a[] = {{1, 1, 1}, {2, 60, 2}}, b[] = {{1, 1, 5}, {2, 60, 6}, {4, 70, 7}},
                      forgot[] = {{4, 70, 7}};
    uint64_t lsn;
    cr_assert_not(varve_epochs_common_lsn(a, COUNT(a), 100, b, COUNT(b), 100, &lsn));
    cr_assert_not(varve_epochs_common_lsn(a, COUNT(a), 100, forgot, 1, 100, &lsn));
    cr_assert_not(varve_epochs_common_lsn(a, 0, 100, b, COUNT(b), 100, &lsn));
    expect_common(b, COUNT(b), 100, forgot, 1, 90, 90);
    expect_common(b, COUNT(b), 40, forgot, 1, 90, 40); /* it began behind the whole of the other */
}

#define NODES    4
#define LOG_MAX  2000
#define NUMBERED 64

/* A database as a list of records, each with a number of its own in the whole world. */
typedef struct node {
    uint64_t log[LOG_MAX];
    uint64_t last_lsn;
    varve_epoch epochs[NUMBERED];
    size_t count;
    bool ours;
} node;

static uint64_t same_records(const node *a, const node *b) {
    uint64_t lsn = 0;
    while (lsn < a->last_lsn && lsn < b->last_lsn && a->log[lsn] == b->log[lsn])
        lsn++;
    return lsn;
}

static void check_all(node nodes[NODES], bool forgetful) {
    for (int i = 0; i < NODES; i++)
        for (int k = 0; k < NODES; k++) {
            const node *a = &nodes[i], *b = &nodes[k];
            uint64_t lsn;
            bool known = varve_epochs_common_lsn(a->epochs, a->count, a->last_lsn, b->epochs, b->count,
                                                 b->last_lsn, &lsn);
            cr_assert(known || forgetful);
            if (known)
                cr_assert_eq(lsn, same_records(a, b), "nodes %d and %d: %" PRIu64 ", not %" PRIu64, i, k, lsn,
                             same_records(a, b));
        }
}

static void begin(node *n, uint64_t epoch, uint64_t id, size_t epochs_max) {
    while (n->count > 0 && n->epochs[n->count - 1].first_lsn > n->last_lsn + 1)
        n->count--;
    if (n->count == epochs_max)
        memmove(n->epochs, n->epochs + 1, --n->count * sizeof n->epochs[0]);
    n->epochs[n->count++] = (varve_epoch){epoch, n->last_lsn + 1, id};
    n->ours = true;
}

/* As a follower does: back to what is common, then the history, then some of the records. */
static void follow(node *n, const node *primary, uint64_t records) {
    uint64_t lsn;
    if (!varve_epochs_common_lsn(n->epochs, n->count, n->last_lsn, primary->epochs, primary->count,
                                 primary->last_lsn, &lsn))
        lsn = 0; /* begins anew */
    n->last_lsn = lsn;
    n->ours = false;
    memcpy(n->epochs, primary->epochs, sizeof n->epochs);
    n->count = primary->count;
    for (; records > 0 && n->last_lsn < primary->last_lsn; records--, n->last_lsn++)
        n->log[n->last_lsn] = primary->log[n->last_lsn];
}

static void histories_match_logs(size_t epochs_max) {
    uint64_t seed = vv_test_seed();
    static node nodes[NODES];
    for (int round = 0; round < 300; round++) {
        uint64_t number = 0, id = 1;
        memset(nodes, 0, sizeof nodes);
        for (int i = 0; i < NODES; i++)
            nodes[i] = (node){.epochs = {{1, 1, 1}}, .count = 1, .ours = i == 0};
        for (int step = 0; step < 60; step++) {
            node *n = &nodes[vv_test_random(&seed) % NODES];
            const node *other = &nodes[vv_test_random(&seed) % NODES];
            uint64_t dice = vv_test_random(&seed) % 10, many = vv_test_random(&seed) % 30;
            if (dice < 4) {
                if (!n->ours) /* nobody has told it to: two may well take the same number */
                    begin(n, n->epochs[n->count - 1].epoch + 1 + vv_test_random(&seed) % 2, ++id, epochs_max);
                for (; many > 0 && n->last_lsn < LOG_MAX; many--)
                    n->log[n->last_lsn++] = ++number;
            } else if (dice < 5) {
                begin(n, n->epochs[n->count - 1].epoch + 1, ++id, epochs_max);
            } else if (n != other) {
                follow(n, other, many);
            }
            check_all(nodes, epochs_max < NUMBERED);
        }
    }
}

Test(db_epochs, random_histories_say_of_random_logs_what_a_comparison_of_records_does) {
    histories_match_logs(NUMBERED);
}

Test(db_epochs, histories_that_have_forgotten_what_is_old_say_nothing_wrong) {
    histories_match_logs(3);
}

/* ---- a database's own ---- */

static varve_epoch history[VARVE_EPOCHS_MAX];

static size_t get(void) {
    return varve_epochs_get(fx_db, history);
}

static void expect_history(size_t count, ...) {
    va_list args;
    cr_assert_eq(get(), count, "%zu epochs", get());
    va_start(args, count);
    for (size_t i = 0; i < count; i++) {
        int epoch = va_arg(args, int), first_lsn = va_arg(args, int);
        cr_assert(history[i].epoch == (uint64_t)epoch && history[i].first_lsn == (uint64_t)first_lsn,
                  "epoch %" PRIu64 " from %" PRIu64, history[i].epoch, history[i].first_lsn);
        cr_assert_neq(history[i].id, 0);
    }
    va_end(args);
    cr_assert_eq(fx_stats().epoch, history[count - 1].epoch);
    cr_assert_geq(fx_stats().promised_epoch, history[count - 1].epoch);
}

static void begin_epoch(uint64_t epoch) {
    cr_assert(varve_ok(varve_begin_epoch(fx_db, epoch, &fx_err)), "%s", fx_err.text);
}

static void is_too_old(varve_status st) {
    cr_assert_eq(st.code, VARVE_INVALID_ARGUMENT, "%s", varve_code_name(st.code));
    cr_assert_str_eq(varve_reason_name(st.reason), "EPOCH_TOO_OLD");
}

/* Each record in the log is of the epoch that the history says. Returns how many epochs there were. */
static size_t check_log(uint64_t after_lsn) {
    varve_wal_cursor *c;
    varve_wal_batch b;
    varve_status st;
    size_t count = get(), seen = 0;
    uint64_t last_epoch = 0;
    cr_assert(varve_ok(varve_wal_cursor_open(fx_db, after_lsn, &c, NULL)));
    while (varve_ok(st = varve_wal_cursor_next(c, &b))) {
        size_t i = count - 1;
        while (history[i].first_lsn > b.first_lsn)
            i--;
        cr_assert_eq(b.epoch, history[i].epoch, "LSN %" PRIu64 ": epoch %" PRIu64 ", not %" PRIu64,
                     b.first_lsn, b.epoch, history[i].epoch);
        seen += b.epoch != last_epoch;
        last_epoch = b.epoch;
    }
    cr_assert_eq(st.code, VARVE_END);
    varve_wal_cursor_close(c);
    return seen;
}

Test(db_epochs, a_new_database_has_one_with_an_id_of_its_own) {
    uint8_t id[2][VARVE_DATABASE_ID_BYTES];
    fx_open();
    expect_history(1, 1, 1);
    varve_epoch mine = history[0];
    varve_database_id(fx_db, id[0]);
    fx_close();
    fx_open();
    expect_history(1, 1, 1);
    cr_assert_eq(history[0].id, mine.id);
    varve_database_id(fx_db, id[1]);
    cr_assert_arr_eq(id[0], id[1], sizeof id[0]);
    varve_db *other;
    cr_assert(varve_ok(varve_open(vv_tempdir_path("other"), NULL, &other, NULL)));
    varve_epochs_get(other, history);
    cr_assert_neq(history[0].id, mine.id);
    varve_database_id(other, id[1]);
    cr_assert(memcmp(id[0], id[1], sizeof id[0]) != 0);
    cr_assert(varve_ok(varve_close(other)));
    fx_close();
}

Test(db_epochs, what_is_written_behind_the_beginning_of_one_carries_it) {
    fx_open();
    for (int i = 0; i < 5; i++)
        fx_put("a", "1");
    begin_epoch(4);
    expect_history(2, 1, 1, 4, 6);
    cr_assert_eq(fx_stats().promised_epoch, 4);
    fx_put("b", "1");
    begin_epoch(5);
    begin_epoch(7); /* nothing was written under 5 */
    fx_put("c", "1");
    expect_history(4, 1, 1, 4, 6, 5, 7, 7, 7);
    cr_assert_eq(check_log(0), 3);
    fx_close();
    fx_open();
    expect_history(4, 1, 1, 4, 6, 5, 7, 7, 7);
    fx_put("d", "1");
    cr_assert_eq(check_log(0), 3);
    fx_close();
}

Test(db_epochs, one_that_is_not_the_highest_is_refused) {
    fx_open();
    begin_epoch(4);
    is_too_old(varve_begin_epoch(fx_db, 4, &fx_err));
    is_too_old(varve_begin_epoch(fx_db, 3, NULL));
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 9, &fx_err)), "%s", fx_err.text);
    cr_assert_eq(fx_stats().promised_epoch, 9);
    is_too_old(varve_begin_epoch(fx_db, 8, &fx_err));
    is_too_old(varve_promise_epoch(fx_db, 8, &fx_err));
    cr_assert_not_null(strstr(fx_err.text, "9 is known already"), "%s", fx_err.text);
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 9, NULL)));
    expect_history(2, 1, 1, 4, 1);
    begin_epoch(9);
    expect_history(3, 1, 1, 4, 1, 9, 1);
    fx_close();
}

Test(db_epochs, the_oldest_are_forgotten) {
    fx_open();
    for (uint64_t epoch = 2; epoch <= VARVE_EPOCHS_MAX + 10; epoch++) {
        if (epoch % 16 == 0)
            fx_put("a", "1");
        begin_epoch(epoch);
    }
    cr_assert_eq(get(), VARVE_EPOCHS_MAX);
    cr_assert_eq(history[0].epoch, 11);
    cr_assert_eq(history[VARVE_EPOCHS_MAX - 1].epoch, VARVE_EPOCHS_MAX + 10);
    fx_close();
    fx_open();
    cr_assert_eq(get(), VARVE_EPOCHS_MAX);
    fx_close();
}

static _Atomic bool stop_writing;

static void *write_on(void *arg) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char key[16];
    int key_bytes = snprintf(key, sizeof key, "key%d", *(int *)arg);
    for (int i = 0; !atomic_load(&stop_writing); i++)
        cr_assert(
            varve_ok(varve_put(fx_db, key, (size_t)key_bytes, "v", 1, i % 3 == 0 ? NULL : &async, NULL)));
    return NULL;
}

Test(db_epochs, writers_that_go_on_meanwhile_change_over_at_one_lsn) {
    pthread_t threads[4];
    int numbers[4];
    fx_open_with(fx_options("MEMTABLE_SIZE", "64MiB", "WAL_SEGMENT_SIZE", "16MiB", NULL));
    for (int i = 0; i < 4; i++) {
        numbers[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, write_on, &numbers[i]), 0);
    }
    for (uint64_t epoch = 2; epoch <= 20; epoch++) {
        uint64_t lsn = fx_stats().last_lsn;
        while (fx_stats().last_lsn < lsn + 20)
            sched_yield();
        begin_epoch(epoch);
    }
    atomic_store(&stop_writing, true);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    fx_put("z", "1");
    cr_assert_geq(check_log(0), 19);
    fx_close();
}

/* In a process of its own that dies without closing. Returns what it has exited with. */
static int in_a_process_that_dies(int (*what)(void)) {
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(what());
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int begin_behind_asynchronous_writes(void) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    fx_open_with(fx_options("WAL_SYNC_INTERVAL", "60s", NULL));
    for (int i = 0; i < 50; i++)
        if (!varve_ok(varve_put(fx_db, "k", 1, "v", 1, &async, NULL)))
            return 1;
    return varve_ok(varve_begin_epoch(fx_db, 2, NULL)) ? 0 : 2;
}

Test(db_epochs, what_an_epoch_begins_behind_survives_as_it_does) {
    cr_assert_eq(in_a_process_that_dies(begin_behind_asynchronous_writes), 0);
    fx_open();
    expect_history(2, 1, 1, 2, 51);
    cr_assert_eq(fx_stats().last_lsn, 50);
    cr_assert_eq(fx_put("k", "w"), 51);
    cr_assert_eq(check_log(0), 2);
    fx_close();
}

static int promise(void) {
    fx_open();
    return varve_ok(varve_promise_epoch(fx_db, 12, NULL)) ? 0 : 1;
}

Test(db_epochs, a_promise_survives) {
    cr_assert_eq(in_a_process_that_dies(promise), 0);
    fx_open();
    cr_assert_eq(fx_stats().promised_epoch, 12);
    cr_assert_eq(fx_stats().epoch, 1);
    fx_put("k", "v"); /* which is no reason to begin one: this is the primary of epoch 1 */
    expect_history(1, 1, 1);
    fx_close();
}

/* ---- another's ---- */

static uint64_t generation(void) {
    vv_mutex_lock(&fx_db->state.lock);
    uint64_t g = fx_db->state.manifest.generation;
    vv_mutex_unlock(&fx_db->state.lock);
    return g;
}

static void follow_epochs(const varve_epoch *epochs, size_t count) {
    cr_assert(varve_ok(varve_follow_epochs(fx_db, epochs, count, &fx_err)), "%s", fx_err.text);
}

Test(db_epochs, a_primarys_history_is_taken_over) {
    const varve_epoch theirs[] = {{3, 1, 7}, {8, 100, 9}};
    fx_open();
    follow_epochs(theirs, 2);
    expect_history(2, 3, 1, 8, 100);
    cr_assert_eq(fx_stats().promised_epoch, 8);
    uint64_t before = generation();
    for (int i = 0; i < 3; i++)
        follow_epochs(theirs, 2);
    cr_assert_eq(generation(), before, "nothing changed, and nothing was written");
    fx_close();
    fx_open();
    expect_history(2, 3, 1, 8, 100);
    is_too_old(varve_follow_epochs(fx_db, theirs, 1, &fx_err));
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 9, NULL)));
    is_too_old(varve_follow_epochs(fx_db, theirs, 2, &fx_err));
    fx_close();
}

Test(db_epochs, one_that_our_log_is_no_part_of_is_refused) {
    const varve_epoch strange[] = {{8, 1, 7}}, empty_number[] = {{0, 1, 7}},
                      falling[] = {{3, 9, 1}, {4, 8, 2}};
    fx_open();
    varve_epoch mine[VARVE_EPOCHS_MAX];
    varve_epochs_get(fx_db, mine);
    mine[1] = (varve_epoch){9, 3, 5};
    for (int i = 0; i < 5; i++)
        fx_put("a", "1");
    cr_assert_eq(varve_follow_epochs(fx_db, strange, 1, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(fx_err.text, "not a part"), "%s", fx_err.text);
    cr_assert_eq(varve_follow_epochs(fx_db, mine, 2, &fx_err).code, VARVE_INVALID_ARGUMENT,
                 "3 to 5 are ours");
    cr_assert_eq(varve_follow_epochs(fx_db, mine, 0, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_follow_epochs(fx_db, empty_number, 1, &fx_err).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(varve_follow_epochs(fx_db, falling, 2, &fx_err).code, VARVE_INVALID_ARGUMENT);
    expect_history(1, 1, 1);
    mine[1].first_lsn = 6;
    follow_epochs(mine, 2);
    expect_history(2, 1, 1, 9, 6);
    fx_close();
}

Test(db_epochs, a_replica_that_is_written_to_begins_one) {
    fx_open();
    varve_epoch theirs[VARVE_EPOCHS_MAX];
    varve_epochs_get(fx_db, theirs);
    for (int i = 0; i < 5; i++)
        fx_put("a", "1");
    theirs[1] = (varve_epoch){2, 6, 100};
    theirs[2] = (varve_epoch){3, 50, 101};
    follow_epochs(theirs, 3);
    fx_close();
    fx_open();
    fx_put("b", "1");
    expect_history(3, 1, 1, 2, 6, 4, 6); /* nothing had come of 2, nor of 3 */
    cr_assert_eq(check_log(0), 2);
    uint64_t before = generation();
    fx_close();
    fx_open();
    fx_put("b", "1");
    expect_history(3, 1, 1, 2, 6, 4, 6);
    cr_assert_leq(generation(), before + 1);
    fx_close();
}

Test(db_epochs, backups_that_are_written_to_part_from_their_original) {
    fx_open();
    for (int i = 0; i < 5; i++)
        fx_put("a", "1");
    begin_epoch(2);
    for (int i = 0; i < 5; i++)
        fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    begin_epoch(3);
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 7, NULL)));
    cr_assert(varve_ok(varve_backup(fx_db, vv_tempdir_path("backup1"), NULL, NULL, &fx_err)), "%s",
              fx_err.text);
    cr_assert(varve_ok(varve_backup(fx_db, vv_tempdir_path("backup2"), NULL, NULL, &fx_err)), "%s",
              fx_err.text);
    fx_put("a", "2");
    varve_epoch ours[VARVE_EPOCHS_MAX], theirs[2][VARVE_EPOCHS_MAX];
    size_t count = varve_epochs_get(fx_db, ours), counts[2];
    const char *names[] = {"backup1", "backup2"};
    for (int i = 0; i < 2; i++) {
        varve_db *copy;
        varve_stats s;
        uint64_t lsn;
        cr_assert(varve_ok(varve_open(vv_tempdir_path(names[i]), NULL, &copy, NULL)));
        counts[i] = varve_epochs_get(copy, theirs[i]);
        varve_stats_get(copy, &s);
        cr_assert(counts[i] == 2 && s.epoch == 2 && s.promised_epoch == 2, "3 began behind its tables");
        cr_assert(varve_epochs_common_lsn(ours, count, 11, theirs[i], 2, s.last_lsn, &lsn) && lsn == 10);
        for (int k = 0; k < 5; k++)
            cr_assert(varve_ok(varve_put(copy, "a", 1, "3", 1, NULL, &lsn)));
        cr_assert_eq(lsn, 15);
        counts[i] = varve_epochs_get(copy, theirs[i]);
        cr_assert(counts[i] == 3 && theirs[i][2].epoch == 3 && theirs[i][2].first_lsn == 11);
        cr_assert(varve_epochs_common_lsn(ours, count, 11, theirs[i], 3, 15, &lsn) && lsn == 10);
        cr_assert(varve_ok(varve_close(copy)));
    }
    expect_common(theirs[0], 3, 15, theirs[1], 3, 15, 10);
    fx_close();
}

/* ---- a manifest of which nobody knows whether it is there ---- */

static _Atomic int fail_manifest; /* 1: its rename, 2: the directory's sync behind it */

static vv_status on_op(void *arg, const char *op, const char *name) {
    static _Atomic bool renamed;
    (void)arg;
    int how = atomic_load(&fail_manifest);
    bool rename = strcmp(op, "rename") == 0 && strcmp(name, VV_MANIFEST_NAME) == 0;
    if (how == 1 && rename)
        return vv_status_errno(EIO);
    if (how == 2 && strcmp(op, "dirsync") == 0 && atomic_load(&renamed))
        return vv_status_errno(EIO);
    if (rename)
        atomic_store(&renamed, true);
    return VV_STATUS_OK;
}

static void nothing_is_written_before_it_is_clear(int how, vv_status (*fn)(void)) {
    vv_error err;
    varve_options *o = fx_options(NULL);
    cr_assert(vv_ok(vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    for (int i = 0; i < 5; i++)
        fx_put("a", "1");
    atomic_store(&fail_manifest, how);
    cr_assert_eq(fn().code, VV_IO);
    varve_status st = varve_put(fx_db, "a", 1, "2", 1, NULL, NULL);
    cr_assert_eq(st.code, VARVE_IO, "%s", varve_code_name(st.code));
    expect_history(1, 1, 1);
    atomic_store(&fail_manifest, 0);
    cr_assert_eq(fx_put("a", "3"), 6);
    expect_history(1, 1, 1);
    cr_assert_eq(fx_stats().promised_epoch, 1);
    fx_close();
    fx_open();
    expect_history(1, 1, 1);
    cr_assert_eq(fx_stats().promised_epoch, 1);
    cr_assert_eq(check_log(0), 1);
    fx_close();
}

static vv_status begin_two(void) {
    return vv_status_make((vv_code)varve_begin_epoch(fx_db, 2, NULL).code, VV_SUB_NONE, 0);
}

static vv_status promise_two(void) {
    return vv_status_make((vv_code)varve_promise_epoch(fx_db, 2, NULL).code, VV_SUB_NONE, 0);
}

Test(db_epochs, an_epoch_that_may_have_begun_is_undone_before_the_next_write) {
    nothing_is_written_before_it_is_clear(1, begin_two);
}

Test(db_epochs, and_so_when_only_the_name_may_not_last) {
    nothing_is_written_before_it_is_clear(2, begin_two);
}

Test(db_epochs, and_so_is_a_promise) {
    nothing_is_written_before_it_is_clear(2, promise_two);
}

/* The engine's own threads allocate too: where the call made no allocation that failed, it is made once more.
 */
Test(db_epochs, each_failed_allocation_is_reported_and_changes_nothing) {
    fx_open();
    fx_put("a", "1");
    size_t begun = 1;
    uint64_t n = 1;
    for (bool spared = false; !spared;) {
        uint64_t before = vv_alloc_count();
        vv_alloc_fail_at(n);
        varve_status st = varve_begin_epoch(fx_db, begun + 1, &fx_err);
        vv_alloc_fail_at(0);
        spared = varve_ok(st) && vv_alloc_count() - before < n;
        if (varve_ok(st)) {
            begun++;
            cr_assert_lt(begun, 32, "allocation %" PRIu64 " fails, and nothing is said", n);
        } else {
            cr_assert_eq(st.code, VARVE_NO_MEMORY, "%s", varve_code_name(st.code));
            n++;
        }
        fx_put("a", "2");
        cr_assert_eq(get(), begun);
        cr_assert_eq(history[begun - 1].epoch, begun);
    }
    cr_assert_gt(n, 1);
    cr_assert_eq(check_log(0), begun);
    fx_close();
}

Test(db_epochs, what_was_written_before_a_promise_is_durable_with_it) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    fx_open_with(fx_options("WAL_SYNC_INTERVAL", "60s", NULL));
    for (int i = 0; i < 3; i++)
        cr_assert(varve_ok(varve_put(fx_db, "key", 3, "async", 5, &async, NULL)));
    cr_assert(varve_ok(varve_promise_epoch(fx_db, 9, &fx_err)), "%s", fx_err.text);
    cr_assert_eq(fx_stats().durable_lsn, 3);
    fx_close();
}

/* What was cut was written under it, and is somewhere else, perhaps. */
Test(db_epochs, a_database_that_was_rewound_writes_under_another) {
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    uint64_t cut;
    fx_open();
    for (int i = 0; i < 5; i++)
        fx_put("key", "value");
    fx_close();
    varve_options *o = fx_options(NULL);
    varve_status st = varve_rewind(vv_tempdir_path("db"), o, 3, "tail", &cut, &fx_err);
    varve_options_destroy(o);
    cr_assert(varve_ok(st), "%s", fx_err.text);
    cr_assert_eq(cut, 2);
    fx_open();
    cr_assert_eq(fx_put("key", "another"), 4);
    size_t count = varve_epochs_get(fx_db, epochs);
    cr_assert_eq(count, 2);
    cr_assert_eq(epochs[1].first_lsn, 4);
    fx_close();
}
