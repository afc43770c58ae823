/*
 * The log as a stream of changes, as an embedder sees it.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_wal_cursor, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static varve_wal_cursor *cursor_at(uint64_t after_lsn) {
    varve_wal_cursor *c;
    uint64_t oldest_lsn;
    varve_status st = varve_wal_cursor_open(fx_db, after_lsn, &c, &oldest_lsn);
    cr_assert(varve_ok(st), "behind %" PRIu64 ": %s", after_lsn, varve_code_name(st.code));
    return c;
}

static void expect_code(varve_wal_cursor *c, varve_code code) {
    varve_wal_batch b;
    varve_status st = varve_wal_cursor_next(c, &b);
    cr_assert_eq(st.code, code, "%s, not %s", varve_code_name(st.code), varve_code_name((uint16_t)code));
}

/* One batch of one operation; value NULL: a delete. */
static void expect_one(varve_wal_cursor *c, uint64_t lsn, const char *key, const char *value) {
    varve_wal_batch b;
    varve_wal_ops ops;
    varve_wal_op op;
    varve_status st = varve_wal_cursor_next(c, &b);
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
    cr_assert(b.first_lsn == lsn && b.last_lsn == lsn && b.op_count == 1);
    varve_wal_ops_init(&ops, &b);
    cr_assert(varve_ok(varve_wal_ops_next(&ops, &op)));
    cr_assert(op.lsn == lsn && op.key_bytes == strlen(key) && memcmp(op.key, key, op.key_bytes) == 0);
    cr_assert_eq(op.is_delete, value == NULL);
    cr_assert(op.value_bytes == (value ? strlen(value) : 0));
    cr_assert(!value || memcmp(op.value, value, op.value_bytes) == 0);
    cr_assert_eq(varve_wal_ops_next(&ops, &op).code, VARVE_END);
}

Test(db_wal_cursor, puts_deletes_and_batches_come_as_they_were_written) {
    fx_open();
    varve_wal_cursor *c = cursor_at(0);
    fx_put("a", "1");
    fx_delete("a");
    varve_batch *batch = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(batch, "b", 1, "", 0)));
    cr_assert(varve_ok(varve_batch_put_expiring(batch, "c", 1, "x", 1, 4102444800000)));
    cr_assert(varve_ok(varve_batch_delete(batch, "d", 1)));
    varve_write_options o = {.client_id = 7, .sequence = 9};
    cr_assert(varve_ok(varve_write(fx_db, batch, &o, NULL)));
    varve_batch_destroy(batch);

    expect_one(c, 1, "a", "1");
    expect_one(c, 2, "a", NULL);
    varve_wal_batch b;
    varve_wal_ops ops;
    varve_wal_op op[4];
    cr_assert(varve_ok(varve_wal_cursor_next(c, &b)));
    cr_assert(b.first_lsn == 3 && b.last_lsn == 5 && b.op_count == 3);
    cr_assert(b.client_id == 7 && b.sequence == 9 && b.epoch == 1);
    varve_wal_ops_init(&ops, &b);
    for (int i = 0; i < 3; i++)
        cr_assert(varve_ok(varve_wal_ops_next(&ops, &op[i])));
    cr_assert_eq(varve_wal_ops_next(&ops, &op[3]).code, VARVE_END);
    cr_assert(op[0].lsn == 3 && op[1].lsn == 4 && op[2].lsn == 5);
    cr_assert(op[1].expires_unix_ms == 4102444800000 && op[0].expires_unix_ms == 0);
    cr_assert(!op[1].is_delete && op[2].is_delete);
    expect_code(c, VARVE_END);
    cr_assert_eq(varve_wal_cursor_lsn(c), 5);
    varve_wal_cursor_close(c);

    c = cursor_at(4); /* within a batch: it comes whole */
    cr_assert(varve_ok(varve_wal_cursor_next(c, &b)));
    cr_assert(b.first_lsn == 3 && b.last_lsn == 5);
    expect_code(c, VARVE_END);
    varve_wal_cursor_close(c);
    fx_close();
}

Test(db_wal_cursor, an_lsn_of_the_future_is_refused) {
    fx_open();
    fx_put("a", "1");
    varve_wal_cursor *c;
    cr_assert_eq(varve_wal_cursor_open(fx_db, 2, &c, NULL).code, VARVE_INVALID_ARGUMENT);
    cr_assert_null(c);
    fx_close();
}

Test(db_wal_cursor, operations_that_are_damaged_are_refused) {
    uint8_t bytes[64] = {0};
    varve_wal_batch b = {.first_lsn = 1, .last_lsn = 2, .op_count = 2, .ops = bytes, .ops_bytes = 40};
    varve_wal_ops ops;
    varve_wal_op op;
    varve_wal_ops_init(&ops, &b);
    cr_assert_eq(varve_wal_ops_next(&ops, &op).code, VARVE_CORRUPTION);
    b.op_count = 0;
    varve_wal_ops_init(&ops, &b);
    cr_assert_eq(varve_wal_ops_next(&ops, &op).code, VARVE_CORRUPTION, "bytes behind the last operation");
}

Test(db_wal_cursor, asynchronous_writes_show_once_they_are_durable) {
    fx_open_with(fx_options("WAL_SYNC_INTERVAL", "60s", NULL));
    varve_wal_cursor *c = cursor_at(0);
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    for (int i = 0; i < 3; i++)
        cr_assert(varve_ok(varve_put(fx_db, "k", 1, "v", 1, &o, NULL)));
    fx_expect("k", "v");
    expect_code(c, VARVE_END);
    fx_put("z", "1");
    for (uint64_t lsn = 1; lsn <= 3; lsn++)
        expect_one(c, lsn, "k", "v");
    expect_one(c, 4, "z", "1");
    expect_code(c, VARVE_END);
    varve_wal_cursor_close(c);
    fx_close();
}

static bool readable(int fd, int timeout_ms) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) == 1;
}

Test(db_wal_cursor, the_descriptor_tells_of_more) {
    fx_open();
    varve_wal_cursor *c = cursor_at(0);
    int fd = varve_wal_cursor_notify_fd(c);
    cr_assert(fd >= 0 && varve_wal_cursor_notify_fd(c) == fd);
    cr_assert(readable(fd, 0), "what was there before");
    expect_code(c, VARVE_END);
    cr_assert(!readable(fd, 0));
    for (uint64_t i = 1; i <= 5; i++) {
        fx_put("k", "v");
        cr_assert(readable(fd, 10000));
        expect_one(c, i, "k", "v");
        cr_assert(readable(fd, 0), "until END was said");
        expect_code(c, VARVE_END);
        cr_assert(!readable(fd, 0));
    }
    varve_write_options o = {.durability = VARVE_DURABILITY_ASYNC};
    cr_assert(varve_ok(varve_put(fx_db, "k", 1, "v", 1, &o, NULL)));
    cr_assert(readable(fd, 10000), "synced by itself");
    varve_wal_cursor_close(c);
    fx_close();
}

static _Atomic int told;

static void tell(void *arg) {
    atomic_fetch_add((_Atomic int *)arg, 1);
}

Test(db_wal_cursor, the_callback_is_called_for_those_who_wait_and_not_otherwise) {
    varve_options *o = fx_options(NULL);
    varve_options_set_durable_callback(o, tell, &told);
    fx_open_with(o);
    fx_put("k", "v");
    varve_wal_cursor *c = cursor_at(1);
    fx_put("k", "v");
    cr_assert_eq(atomic_load(&told), 0, "nobody has come to the end");
    expect_one(c, 2, "k", "v");
    expect_code(c, VARVE_END);
    fx_put("k", "v");
    cr_assert_eq(atomic_load(&told), 1);
    fx_put("k", "v");
    cr_assert_eq(atomic_load(&told), 1, "told already");
    varve_wal_cursor_close(c);
    fx_close();
}

static struct { _Atomic int sys; } fault;

static vv_status on_op(void *arg, const char *op, const char *name) {
    (void)arg;
    int sys = atomic_load(&fault.sys);
    return sys && strcmp(op, "datasync") == 0 && strncmp(name, "wal-", 4) == 0 ? vv_status_errno(sys)
                                                                               : VV_STATUS_OK;
}

Test(db_wal_cursor, a_log_that_fails_shows_nothing_that_was_not_synced_and_says_so) {
    vv_error err;
    varve_options *o = fx_options(NULL);
    varve_options_set_durable_callback(o, tell, &told);
    cr_assert(vv_ok(vv_db_open_on(vv_fault_io_create(on_op, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    varve_wal_cursor *c = cursor_at(0);
    int fd = varve_wal_cursor_notify_fd(c);
    fx_put("a", "1");
    expect_one(c, 1, "a", "1");
    expect_code(c, VARVE_END);
    cr_assert(!readable(fd, 0));
    atomic_store(&fault.sys, EIO);
    cr_assert_eq(varve_put(fx_db, "b", 1, "2", 1, NULL, NULL).code, VARVE_WAL_FAILED);
    atomic_store(&fault.sys, 0);
    cr_assert(readable(fd, 10000), "who waits is told");
    cr_assert_eq(atomic_load(&told), 1);
    expect_code(c, VARVE_WAL_FAILED);
    expect_code(c, VARVE_WAL_FAILED);
    varve_wal_cursor *late = cursor_at(0);
    expect_one(late, 1, "a", "1");
    expect_code(late, VARVE_WAL_FAILED);
    varve_wal_cursor_close(late);
    varve_wal_cursor_close(c);
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED);
    fx_open(); /* whatever the device has kept of it: durable now, and shown, or gone */
    uint64_t last_lsn = fx_stats().last_lsn;
    c = cursor_at(0);
    expect_one(c, 1, "a", "1");
    if (last_lsn == 2)
        expect_one(c, 2, "b", "2");
    expect_code(c, VARVE_END);
    varve_wal_cursor_close(c);
    fx_close();
}

Test(db_wal_cursor, batches_from_before_a_restart_come_until_the_log_forgets_them) {
    fx_open();
    for (int i = 0; i < 20; i++)
        fx_put("k", "v");
    fx_close();
    fx_open();
    varve_wal_cursor *c = cursor_at(0);
    fx_put("k", "v");
    for (uint64_t lsn = 1; lsn <= 21; lsn++)
        expect_one(c, lsn, "k", "v");
    expect_code(c, VARVE_END);
    varve_wal_cursor_close(c);
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();

    fx_open(); /* everything is in tables, so that the log is empty */
    uint64_t oldest_lsn = 0, until_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    while (oldest_lsn != 22) { /* its files go one after the other */
        varve_status st = varve_wal_cursor_open(fx_db, 0, &c, &oldest_lsn);
        if (varve_ok(st))
            varve_wal_cursor_close(c);
        else
            cr_assert(st.code == VARVE_TRIMMED && oldest_lsn > 1 && oldest_lsn <= 22, "%" PRIu64, oldest_lsn);
        cr_assert_lt(vv_clock_mono_ns(), until_ns, "the log does not forget");
        sched_yield();
    }
    c = cursor_at(21);
    fx_put("k", "v");
    expect_one(c, 22, "k", "v");
    varve_wal_cursor_close(c);
    fx_close();
}

/* ---- writers and followers together ---- */

enum { WRITERS = 3, BATCHES = 1200 };

/* A batch of `count` operations whose values all name the writer and the batch. */
static void *write_batches(void *arg) {
    uint64_t writer = *(int *)arg;
    varve_batch *b = varve_batch_create();
    for (uint64_t n = 1; n <= BATCHES; n++) {
        uint64_t count = 1 + n % 7;
        char value[64];
        int value_bytes = snprintf(value, sizeof value, "%" PRIu64 " %" PRIu64 " %" PRIu64, writer, n, count);
        varve_batch_clear(b);
        for (uint64_t i = 0; i < count; i++) {
            char key[32];
            int key_bytes = snprintf(key, sizeof key, "%" PRIu64 "-%" PRIu64, writer, (n * 31 + i) % 500);
            cr_assert(varve_ok(varve_batch_put(b, key, (size_t)key_bytes, value, (size_t)value_bytes)));
        }
        varve_write_options o = {.durability = n % 3 ? VARVE_DURABILITY_SYNC : VARVE_DURABILITY_ASYNC};
        cr_assert(varve_ok(varve_write(fx_db, b, &o, NULL)));
    }
    varve_batch_destroy(b);
    return NULL;
}

typedef struct follower {
    uint64_t batches;
    const char *failure;
    uint64_t lsn;
} follower;

static const char *check_batch(const varve_wal_batch *b, uint64_t newest[WRITERS]) {
    varve_wal_ops ops;
    varve_wal_op op;
    varve_wal_ops_init(&ops, b);
    uint64_t writer = 0, n = 0, count = 0, seen = 0;
    while (varve_ok(varve_wal_ops_next(&ops, &op))) {
        char value[64] = "", *at = value;
        memcpy(value, op.value, op.value_bytes < 63 ? op.value_bytes : 63);
        writer = strtoull(at, &at, 10);
        n = strtoull(at, &at, 10);
        count = strtoull(at, &at, 10);
        if (op.lsn != b->first_lsn + seen++)
            return "an operation's LSN is wrong";
    }
    if (seen != b->op_count || seen != count)
        return "a batch is not whole";
    if (writer >= WRITERS || n != newest[writer] + 1)
        return "a writer's batches are out of order";
    newest[writer] = n;
    return NULL;
}

static void *follow(void *arg) {
    follower *f = arg;
    uint64_t newest[WRITERS] = {0};
    varve_wal_cursor *c;
    if (!varve_ok(varve_wal_cursor_open(fx_db, 0, &c, NULL))) {
        f->failure = "open";
        return NULL;
    }
    varve_wal_cursor_visible_only(c);
    int fd = varve_wal_cursor_notify_fd(c);
    while (!f->failure && f->batches < WRITERS * BATCHES) {
        varve_wal_batch b;
        varve_status st = varve_wal_cursor_next(c, &b);
        if (st.code == VARVE_END) {
            if (!readable(fd, 20000))
                f->failure = "never told of more";
            continue;
        }
        if (!varve_ok(st)) {
            f->failure = varve_code_name(st.code);
            continue;
        }
        if (b.first_lsn != f->lsn + 1)
            f->failure = "a gap";
        f->lsn = b.last_lsn;
        f->batches++;
        if (!f->failure)
            f->failure = check_batch(&b, newest);
        varve_stats s;
        varve_stats_get(fx_db, &s);
        if (b.last_lsn > s.durable_lsn || b.last_lsn > s.last_lsn)
            f->failure = "shown before it was durable and visible";
        if (f->batches % 500 == 0)
            varve_wal_cursor_rest(c);
    }
    varve_wal_cursor_close(c);
    return NULL;
}

Test(db_wal_cursor, followers_see_whole_batches_in_order_while_many_write) {
    enum { FOLLOWERS = 4 };
    fx_open();
    pthread_t writers[WRITERS], followers[FOLLOWERS];
    int numbers[WRITERS];
    follower f[FOLLOWERS] = {0};
    for (int i = 0; i < FOLLOWERS / 2; i++)
        pthread_create(&followers[i], NULL, follow, &f[i]);
    for (int i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        pthread_create(&writers[i], NULL, write_batches, &numbers[i]);
    }
    while (fx_stats().durable_lsn < WRITERS * BATCHES)
        sched_yield();
    for (int i = FOLLOWERS / 2; i < FOLLOWERS; i++) /* these begin in files */
        pthread_create(&followers[i], NULL, follow, &f[i]);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    for (int i = 0; i < FOLLOWERS; i++) {
        pthread_join(followers[i], NULL);
        cr_assert_null(f[i].failure, "follower %d behind LSN %" PRIu64 ": %s", i, f[i].lsn, f[i].failure);
        cr_assert_eq(f[i].lsn, fx_stats().last_lsn);
    }
    fx_close();
}

Test(db_wal_cursor, how_far_behind_a_cursor_is_can_be_asked) {
    static char value[10000];
    fx_open();
    varve_wal_cursor *early = cursor_at(0), *late;
    cr_assert_eq(varve_wal_cursor_behind_bytes(early), 0);
    for (int i = 0; i < 300; i++) /* three segments */
        cr_assert(varve_ok(varve_put(fx_db, "k", 1, value, sizeof value, NULL, NULL)));
    uint64_t all = varve_wal_cursor_behind_bytes(early);
    cr_assert(all >= 300 * sizeof value && all <= fx_stats().wal_bytes, "%" PRIu64, all);
    varve_wal_batch b;
    for (uint64_t n = 300, before = all; n > 0; n--) {
        cr_assert(varve_ok(varve_wal_cursor_next(early, &b)));
        uint64_t now = varve_wal_cursor_behind_bytes(early);
        cr_assert(now >= (n - 1) * sizeof value && now < before, "%" PRIu64, now);
        before = now;
    }
    cr_assert_eq(varve_wal_cursor_behind_bytes(early), 0);
    late = cursor_at(300);
    cr_assert_eq(varve_wal_cursor_behind_bytes(late), 0);
    fx_put("k", "v");
    cr_assert_gt(varve_wal_cursor_behind_bytes(late), 0);
    cr_assert_eq(varve_wal_cursor_behind_bytes(late), varve_wal_cursor_behind_bytes(early));
    varve_wal_cursor_close(late);
    varve_wal_cursor_close(early);
    fx_close();

    fx_open();
    early = cursor_at(0);
    cr_assert_geq(varve_wal_cursor_behind_bytes(early), all);
    for (int i = 0; i < 301; i++)
        cr_assert(varve_ok(varve_wal_cursor_next(early, &b)));
    expect_code(early, VARVE_END);
    cr_assert_eq(varve_wal_cursor_behind_bytes(early), 0);
    varve_wal_cursor_close(early);
    fx_close();
}
