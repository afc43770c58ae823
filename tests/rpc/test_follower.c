/*
 * A server that follows a primary which says what no sound one does.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/role_file.h"
#include "tests/rpc/fake_primary.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"

/* The log of a primary, record by record: LSN i + 1 is in records[i]. */
enum { RECORDS = 20, RECORD_BYTES_MAX = 256, COMMON = 5 };
static uint8_t records[RECORDS][RECORD_BYTES_MAX];
static size_t record_bytes[RECORDS];
static fake_words words;

/* ---- a primary's log, and a follower that has the first of it ---- */

static void copy_database(const char *from, const char *to) {
    char command[600];
    snprintf(command, sizeof command, "cp -r %s %s", from, to);
    cr_assert_eq(system(command), 0);
}

static varve_db *open_database(const char *dir) {
    varve_db *db;
    varve_error err;
    cr_assert(varve_ok(varve_open(dir, fx.engine, &db, &err)), "%s", err.text);
    return db;
}

static void write_numbers(varve_db *db, int from, int to) {
    for (int i = from; i < to; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%d", i + 1);
        varve_status st = varve_put(db, key, strlen(key), "value", 5, NULL, NULL);
        cr_assert(varve_ok(st));
    }
}

static void read_log(varve_db *db) {
    varve_wal_cursor *cursor;
    varve_wal_batch batch;
    cr_assert(varve_ok(varve_wal_cursor_open(db, 0, &cursor, NULL)));
    for (int i = 0; i < RECORDS; i++) {
        cr_assert(varve_ok(varve_wal_cursor_next(cursor, &batch)));
        cr_assert_eq(batch.last_lsn, (uint64_t)i + 1);
        record_bytes[i] = varve_wal_batch_encode(&batch, records[i], RECORD_BYTES_MAX);
        cr_assert_leq(record_bytes[i], (size_t)RECORD_BYTES_MAX);
    }
    varve_wal_cursor_close(cursor);
}

static void init(void) {
    fixture_init();
    const char *source = vv_tempdir_path("source");
    varve_db *db = open_database(source);
    write_numbers(db, 0, COMMON);
    cr_assert(varve_ok(varve_close(db)));
    copy_database(source, fx.config.data);
    db = open_database(source);
    write_numbers(db, COMMON, RECORDS);
    read_log(db);
    varve_database_id(db, words.database_id);
    varve_epoch history[VARVE_EPOCHS_MAX];
    words.history_count = varve_epochs_get(db, history);
    cr_assert_leq(words.history_count, (size_t)2);
    memcpy(words.history, history, words.history_count * sizeof history[0]);
    words.durable_lsn = RECORDS;
    cr_assert(varve_ok(varve_close(db)));
    fake_primary_start();
    fake_primary_say(&words);
    snprintf(fx.config.follow, sizeof fx.config.follow, "%s", fake_primary_address());
    snprintf(fx.config.node_name, sizeof fx.config.node_name, "follower");
}

static void fini(void) {
    if (fx.server) {
        fixture_drain_begin();
        fixture_drain_end();
    }
    fake_primary_stop();
    fixture_fini();
}

TestSuite(follower, .init = init, .fini = fini, .timeout = 120);

/* A sound frame of the records from LSN first to last. Its bytes live until the next call. */
static Varve__V1__WalFrame frame_of(uint64_t first, uint64_t last) {
    static uint8_t bytes[RECORDS * RECORD_BYTES_MAX];
    Varve__V1__WalFrame m = VARVE__V1__WAL_FRAME__INIT;
    m.epoch = words.history[words.history_count - 1].epoch;
    m.first_lsn = first;
    m.last_lsn = last;
    m.records.data = bytes;
    for (uint64_t lsn = first; lsn <= last; lsn++) {
        memcpy(bytes + m.records.len, records[lsn - 1], record_bytes[lsn - 1]);
        m.records.len += record_bytes[lsn - 1];
    }
    m.checksum = vv_checksum(bytes, m.records.len, 0);
    m.committed_lsn = UINT64_MAX;
    m.durable_lsn = RECORDS;
    return m;
}

static void push(uint64_t first, uint64_t last) {
    Varve__V1__WalFrame m = frame_of(first, last);
    fake_primary_push(&m);
}

/* ---- the log's lines ---- */

static struct {
    vv_mutex lock;
    vv_cond changed;
    const char *awaited;
    size_t seen;
} lines;

static void watch_line(void *arg, vv_log_level level, const char *line) {
    (void)arg, (void)level;
    vv_mutex_lock(&lines.lock);
    lines.seen += strstr(line, lines.awaited) != NULL;
    vv_cond_signal(&lines.changed);
    vv_mutex_unlock(&lines.lock);
}

/* Before the server is started. */
static void count_lines_with(const char *text) {
    static const vv_logger log = {.write = watch_line};
    vv_mutex_init(&lines.lock);
    vv_cond_init(&lines.changed);
    lines.awaited = text;
    fx.log = &log;
}

static void await_line(void) {
    vv_mutex_lock(&lines.lock);
    while (lines.seen == 0)
        vv_cond_wait(&lines.changed, &lines.lock);
    vv_mutex_unlock(&lines.lock);
}

static size_t line_count(void) {
    vv_mutex_lock(&lines.lock);
    size_t count = lines.seen;
    vv_mutex_unlock(&lines.lock);
    return count;
}

/* ---- what is sound ---- */

Test(follower, applies_what_comes_and_confirms_it) {
    fixture_start();
    cr_assert_eq(fake_primary_await_stream(1), (uint64_t)COMMON);
    cr_assert_eq(fake_primary_await_confirmed(COMMON), (uint64_t)COMMON, "by which it counts");
    push(COMMON + 1, COMMON + 1);
    push(COMMON + 2, RECORDS);
    fake_primary_await_confirmed(RECORDS);
    cr_assert_str_eq(get("key20"), "value");
    expect_end(call_put("x", "y"), GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    vv_role_file file;
    cr_assert(vv_ok(vv_role_file_read(fx.config.data, &file, NULL)));
    cr_assert_eq(file.role, VV_ROLE_FOLLOWER);
}

Test(follower, that_can_follow_drops_a_copy_that_was_begun) {
    char dir[300], path[320];
    snprintf(dir, sizeof dir, "%s/bootstrap", fx.config.data);
    cr_assert_eq(mkdir(dir, 0755), 0);
    static const char *const names[] = {"LOCK", "0000000000000001.sst.part", "IMPORT"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        fclose(fopen(path, "w"));
    }
    fixture_start();
    fake_primary_await_confirmed(COMMON);
    cr_assert_neq(access(dir, F_OK), 0);
}

Test(follower, goes_on_where_it_was_when_the_stream_ends) {
    fixture_start();
    fake_primary_await_stream(1);
    push(COMMON + 1, COMMON + 3);
    fake_primary_await_confirmed(COMMON + 3);
    Varve__V1__WalFrame end = frame_of(1, 1);
    end.checksum++;
    fake_primary_push(&end); /* as good a reason as any */
    cr_assert_eq(fake_primary_await_stream(2), (uint64_t)COMMON + 3);
    push(COMMON + 4, RECORDS);
    fake_primary_await_confirmed(RECORDS);
}

/* ---- what is not ---- */

static void bad_checksum(Varve__V1__WalFrame *m) {
    m->checksum ^= 1;
}
static void changed_byte(Varve__V1__WalFrame *m) {
    m->records.data[m->records.len - 1] ^= 1;
}
static void gap(Varve__V1__WalFrame *m) {
    *m = frame_of(COMMON + 2, COMMON + 3);
}
static void hidden_gap(Varve__V1__WalFrame *m) {
    *m = frame_of(COMMON + 2, COMMON + 3);
    m->first_lsn--;
}
static void again(Varve__V1__WalFrame *m) {
    *m = frame_of(COMMON, COMMON + 1);
}
static void lower_epoch(Varve__V1__WalFrame *m) {
    m->epoch--;
}
static void higher_epoch(Varve__V1__WalFrame *m) {
    m->epoch++;
}
static void cut_record(Varve__V1__WalFrame *m) {
    m->records.len -= 4;
    m->checksum = vv_checksum(m->records.data, m->records.len, 0);
}
static void no_lsns(Varve__V1__WalFrame *m) {
    m->first_lsn = m->last_lsn = 0;
}

Test(follower, takes_nothing_of_a_frame_that_is_not_sound) {
    static void (*const spoil[])(Varve__V1__WalFrame *) = {
        bad_checksum, changed_byte, gap, hidden_gap, again, lower_epoch, higher_epoch, cut_record, no_lsns};
    fixture_start();
    size_t stream = 1;
    for (size_t i = 0; i < VV_ARRAY_COUNT(spoil); i++, stream++) {
        cr_assert_eq(fake_primary_await_stream(stream), (uint64_t)COMMON, "before %zu", i);
        Varve__V1__WalFrame m = frame_of(COMMON + 1, COMMON + 2);
        spoil[i](&m);
        fake_primary_push(&m);
        fake_primary_await_end(stream);
    }
    cr_assert_eq(fake_primary_await_stream(stream), (uint64_t)COMMON);
    cr_assert_eq(fake_primary_await_confirmed(COMMON), (uint64_t)COMMON);
    push(COMMON + 1, RECORDS);
    fake_primary_await_confirmed(RECORDS);
}

Test(follower, does_not_begin_with_a_first_frame_that_is_not_sound) {
    words.first_epoch = words.history[0].epoch + 7;
    fake_primary_say(&words);
    fixture_start();
    fake_primary_await_end(1);
    words.first_epoch = 0;
    fake_primary_say(&words);
    /* One or more tries may have been under way. */
    fake_primary_await_confirmed(COMMON);
    push(COMMON + 1, RECORDS);
    fake_primary_await_confirmed(RECORDS);
}

Test(follower, of_another_database_it_takes_nothing) {
    count_lines_with("of another database");
    words.database_id[0] ^= 1;
    fake_primary_say(&words);
    fixture_start();
    await_line();
    cr_assert_eq(fake_primary_streams(), 0);
    cr_assert_str_eq(get("key1"), "value", "and keeps what it has");
}

Test(follower, whose_disk_is_full_says_so_once_and_goes_on_when_it_is_not) {
    count_lines_with("can't follow");
    engine_tap_fail_applies((varve_status){.code = VARVE_NO_SPACE});
    fixture_start();
    for (size_t stream = 1; stream <= 4; stream++) {
        cr_assert_eq(fake_primary_await_stream(stream), (uint64_t)COMMON);
        push(COMMON + 1, COMMON + 2);
        engine_tap_wait_failed_applies(stream);
    }
    fake_primary_await_end(4);
    engine_tap_fail_applies((varve_status){0});
    cr_assert_eq(fake_primary_await_stream(5), (uint64_t)COMMON);
    cr_assert_eq(fake_primary_await_confirmed(COMMON), (uint64_t)COMMON);
    push(COMMON + 1, RECORDS);
    fake_primary_await_confirmed(RECORDS);
    cr_assert_eq(line_count(), 1);
}

/* ---- promises and promotions ---- */

static void promise(uint64_t epoch, grpc_status_code code, const char *reason) {
    Varve__V1__HelloRequest request = VARVE__V1__HELLO_REQUEST__INIT;
    request.promise_epoch = epoch;
    expect_end(client_start_unary(fx.client, "/varve.v1.Replication/Hello", client_pack(&request),
                                  CLIENT_DEADLINE_MS),
               code, reason);
}

Test(follower, that_has_promised_applies_nothing_of_a_lower_epoch) {
    fixture_start();
    fake_primary_await_stream(1);
    push(COMMON + 1, COMMON + 1);
    fake_primary_await_confirmed(COMMON + 1);
    promise(words.history[words.history_count - 1].epoch + 5, GRPC_STATUS_OK, NULL);
    push(COMMON + 2, RECORDS);
    fake_primary_await_end(1);
    cr_assert_eq(fake_primary_await_confirmed(COMMON + 1), (uint64_t)COMMON + 1);
    cr_assert_null(get("key20"));
    /* A primary of the epoch that was promised is followed. */
    words.history[words.history_count] = (varve_epoch){
        .epoch = words.history[words.history_count - 1].epoch + 5, .first_lsn = RECORDS + 1, .id = 42};
    words.history_count++;
    fake_primary_say(&words);
    cr_assert_eq(fake_primary_await_stream(2), (uint64_t)COMMON + 1);
    push(COMMON + 2, RECORDS);
    fake_primary_await_confirmed(RECORDS);
}

Test(follower, that_is_promoted_follows_nobody_and_remembers_it) {
    fixture_start();
    fake_primary_await_stream(1);
    push(COMMON + 1, COMMON + 2);
    fake_primary_await_confirmed(COMMON + 2);
    Varve__V1__PromoteRequest request = VARVE__V1__PROMOTE_REQUEST__INIT;
    request.force = true;
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/Promote", client_pack(&request), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
    fake_primary_await_end(1);
    expect_end(call_put("x", "y"), GRPC_STATUS_OK, NULL);
    vv_role_file file;
    cr_assert(vv_ok(vv_role_file_read(fx.config.data, &file, NULL)));
    cr_assert_eq(file.role, VV_ROLE_PRIMARY);
    cr_assert_str_eq(file.follow, fake_primary_address());
    cr_assert_gt(file.epoch, words.history[0].epoch);
    /* Started again with the same flag it is what it was. */
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fixture_start();
    expect_end(call_put("x", "z"), GRPC_STATUS_OK, NULL);
    cr_assert_eq(fake_primary_streams(), 1);
}

/* ---- plans ---- */

static struct {
    vv_mutex lock;
    vv_cond changed;
    bool made;
    vv_server_run run;
} plan;

static void planned(void *arg) {
    (void)arg;
    vv_mutex_lock(&plan.lock);
    plan.made = true;
    vv_cond_signal(&plan.changed);
    vv_mutex_unlock(&plan.lock);
}

/* Start, wait for a plan if the start hasn't made one, stop. */
static vv_plan run_for_plan(void) {
    vv_error err;
    vv_mutex_init(&plan.lock);
    vv_cond_init(&plan.changed);
    plan.run.planned = planned;
    vv_status st = vv_server_start_run(&fx.config, fx.engine, fx.log, &plan.run, &fx.server, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    if (!fx.server)
        return plan.run.plan;
    vv_mutex_lock(&plan.lock);
    while (!plan.made)
        vv_cond_wait(&plan.changed, &plan.lock);
    vv_mutex_unlock(&plan.lock);
    fixture_drain_begin();
    fixture_drain_end();
    return plan.run.plan;
}

static void expect_plan_to_cut(bool serve_first) {
    words.durable_lsn = COMMON - 2;
    fake_primary_say(&words);
    plan.run.serve_first = serve_first;
    vv_plan p = run_for_plan();
    cr_assert_eq(plan.made, serve_first);
    cr_assert_eq(p.kind, VV_PLAN_REWIND);
    cr_assert_eq(p.lsn, (uint64_t)COMMON - 2);
    cr_assert(p.keep);
    cr_assert_eq(fake_primary_streams(), 0);
}

Test(follower, that_has_more_than_its_primary_plans_to_cut_it_before_it_serves) {
    expect_plan_to_cut(false);
}

Test(follower, that_is_to_serve_first_plans_so_afterwards) {
    expect_plan_to_cut(true);
}

Test(follower, that_is_told_so_plans_to_cut_what_it_has_more) {
    char lsn[8];
    snprintf(lsn, sizeof lsn, "%d", COMMON - 1);
    words.refusal = "DIVERGED";
    words.detail_key = "common_lsn";
    words.detail = lsn;
    fake_primary_say(&words);
    vv_plan p = run_for_plan();
    cr_assert_eq(p.kind, VV_PLAN_REWIND);
    cr_assert_eq(p.lsn, (uint64_t)COMMON - 1);
}
