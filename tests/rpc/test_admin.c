#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"

#define ADMIN "/varve.v1.Admin/"

static void setup(void) {
    fixture_init();
    snprintf(fx.config.backup_dir, sizeof fx.config.backup_dir, "%s", vv_tempdir_path("backups"));
    cr_assert_eq(mkdir(fx.config.backup_dir, 0750), 0);
}

TestSuite(admin, .init = setup, .fini = fixture_fini, .timeout = 120);

static client_call *start(const char *method, const void *request) {
    char path[64];
    snprintf(path, sizeof path, ADMIN "%s", method);
    return client_start_unary(fx.client, path, request ? client_pack(request) : vv_slice_make("", 0),
                              CLIENT_DEADLINE_MS);
}

/* The answer of a call that works, which the caller frees. */
static void *answer(client_call *call, const ProtobufCMessageDescriptor *type) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    void *message = protobuf_c_message_unpack(type, NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(message);
    client_call_destroy(call);
    return message;
}

static Varve__V1__StatusResponse status(void) {
    Varve__V1__StatusResponse *r = answer(start("Status", NULL), &varve__v1__status_response__descriptor);
    Varve__V1__StatusResponse copy = *r; /* its numbers outlive it */
    cr_assert_str_eq(r->role, "primary");
    cr_assert_str_eq(r->version, VARVE_VERSION_STRING);
    cr_assert(strcmp(r->io_backend, "uring") == 0 || strcmp(r->io_backend, "posix") == 0);
    varve__v1__status_response__free_unpacked(r, NULL);
    return copy;
}

static uint64_t stat_of(const char *name) {
    Varve__V1__StatsResponse *r = answer(start("Stats", NULL), &varve__v1__stats_response__descriptor);
    uint64_t value = UINT64_MAX;
    for (size_t i = 0; i < r->n_stats; i++)
        if (strcmp(r->stats[i]->name, name) == 0)
            value = r->stats[i]->value;
    cr_assert_neq(value, UINT64_MAX, "there is no %s", name);
    varve__v1__stats_response__free_unpacked(r, NULL);
    return value;
}

static void put(const char *key, const char *value) {
    expect_end(call_put(key, value), GRPC_STATUS_OK, NULL);
}

/* Some 20 MB: more than a slow backup copies at once. */
static void fill(void) {
    char key[16];
    char *value = malloc(1 << 20);
    for (int i = 0; i < 20; i++) {
        memset(value, 'a' + i, (1 << 20) - 1);
        value[(1 << 20) - 1] = '\0';
        snprintf(key, sizeof key, "key%02d", i);
        put(key, value);
    }
    free(value);
}

static Varve__V1__BackupRequest backup_request(const char *name, const char *incremental) {
    Varve__V1__BackupRequest r = VARVE__V1__BACKUP_REQUEST__INIT;
    r.name = BYTES(name);
    r.incremental = BYTES(incremental);
    return r;
}

static client_call *start_backup(const char *name, const char *incremental) {
    Varve__V1__BackupRequest r = backup_request(name, incremental);
    return start("Backup", &r);
}

static Varve__V1__BackupResponse backup(const char *name, const char *incremental) {
    Varve__V1__BackupResponse *r =
        answer(start_backup(name, incremental), &varve__v1__backup_response__descriptor);
    Varve__V1__BackupResponse copy = *r;
    varve__v1__backup_response__free_unpacked(r, NULL);
    return copy;
}

static const char *in_backups(const char *name) {
    static char path[5000];
    snprintf(path, sizeof path, "%s/%s", fx.config.backup_dir, name);
    return path;
}

static bool exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

/* ---- looking ---- */

Test(admin, status_and_stats_say_how_far_it_is) {
    fixture_start();
    Varve__V1__StatusResponse s = status();
    cr_assert(s.serving);
    cr_assert_not(s.wal_failed);
    cr_assert_eq(s.last_lsn, 0);
    cr_assert_eq(s.epoch, 1);
    put("a", "1");
    put("b", "1");
    s = status();
    cr_assert_eq(s.last_lsn, 2);
    cr_assert_eq(s.durable_lsn, 2);
    cr_assert_eq(s.flushed_lsn, 0);
    cr_assert_eq(stat_of("last_lsn"), 2);
    cr_assert_geq(stat_of("wal_commits"), 2);
    cr_assert_eq(stat_of("wal_failed"), 0);
    cr_assert_eq(stat_of("rpc_calls"), 1, "this one");
    cr_assert_eq(stat_of("rpc_streams"), 0);
    cr_assert_eq(stat_of("rpc_leases"), 0);
    cr_assert_eq(stat_of("rpc_refused"), 0);
}

Test(admin, every_number_of_the_engine_is_among_the_stats) {
    varve_stats s;
    const char *name;
    uint64_t value;
    size_t count = 0;
    /* Each field differs from the others, so none stands for another. */
    for (size_t i = 0; i < sizeof s / sizeof(uint64_t); i++)
        memcpy((char *)&s + i * sizeof(uint64_t), &(uint64_t){i + 1}, sizeof(uint64_t));
    s.wal_failed = true;
    uint64_t sum = 0;
    while (varve_stats_number(&s, count, &name, &value)) {
        sum += value;
        count++;
        cr_assert_gt(strlen(name), 3);
    }
    size_t fields = offsetof(varve_stats, wal_failed) / sizeof(uint64_t);
    cr_assert_eq(count, fields + 1, "a field of varve_stats is not in varve_stats_number()");
    cr_assert_eq(sum, fields * (fields + 1) / 2 + 1);
    cr_assert_not(varve_stats_number(&s, count + 1, &name, &value));
}

/* ---- doing ---- */

Test(admin, flush_and_compact_do_what_they_say) {
    fixture_start();
    put("a", "1");
    Varve__V1__FlushResponse *r = answer(start("Flush", NULL), &varve__v1__flush_response__descriptor);
    cr_assert_eq(r->flushed_lsn, 1);
    varve__v1__flush_response__free_unpacked(r, NULL);
    cr_assert_eq(stat_of("sstable_count"), 1);
    put("b", "1");
    expect_end(start("Flush", NULL), GRPC_STATUS_OK, NULL);
    cr_assert_eq(stat_of("sorted_run_count"), 2);
    put("c", "1");
    expect_end(start("Compact", NULL), GRPC_STATUS_OK, NULL);
    cr_assert_eq(stat_of("sorted_run_count"), 1);
    cr_assert_eq(status().flushed_lsn, 3);
}

Test(admin, the_safe_lsn_is_kept_and_shown) {
    Varve__V1__SetSafeCompactionLsnRequest set = VARVE__V1__SET_SAFE_COMPACTION_LSN_REQUEST__INIT;
    set.lsn = 7;
    fixture_start();
    put("a", "1");
    expect_end(start("SetSafeCompactionLsn", &set), GRPC_STATUS_OK, NULL);
    cr_assert_eq(status().safe_compaction_lsn, 7);
    cr_assert_eq(stat_of("safe_compaction_lsn"), 7);
    expect_end(call_delete("a"), GRPC_STATUS_OK, NULL);
    put("later", "1");
    set.lsn = 1;
    expect_end(start("SetSafeCompactionLsn", &set), GRPC_STATUS_OK, NULL);
    expect_end(start("Compact", NULL), GRPC_STATUS_OK, NULL);
    cr_assert_eq(stat_of("dropped_tombstones"), 0);
    client_destroy(fx.client);
    fixture_drain_begin();
    fixture_drain_end();
    fixture_start();
    cr_assert_eq(status().safe_compaction_lsn, 1);
    set.lsn = 0;
    expect_end(start("SetSafeCompactionLsn", &set), GRPC_STATUS_OK, NULL);
    expect_end(start("Compact", NULL), GRPC_STATUS_OK, NULL);
    cr_assert_eq(stat_of("dropped_tombstones"), 1);
}

Test(admin, a_primary_is_not_promoted) {
    fixture_start();
    expect_end(start("Promote", NULL), GRPC_STATUS_FAILED_PRECONDITION, "ALREADY_PRIMARY");
}

Test(admin, a_user_s_limit_holds_at_once_and_is_lifted_at_once) {
    Varve__V1__SetRateLimitRequest set = VARVE__V1__SET_RATE_LIMIT_REQUEST__INIT;
    fixture_start();
    put("a", "1");
    set.user = BYTES("default");
    set.writes_per_second = 1;
    set.write_burst = 2;
    expect_end(start("SetRateLimit", &set), GRPC_STATUS_OK, NULL);
    put("a", "2");
    put("a", "3");
    expect_end(call_put("a", "4"), GRPC_STATUS_RESOURCE_EXHAUSTED, "RATE_LIMITED");
    cr_assert_str_eq(get("a"), "3", "reads have a limit of their own");
    set.writes_per_second = 0;
    expect_end(start("SetRateLimit", &set), GRPC_STATUS_OK, NULL);
    put("a", "5");
    set.user = BYTES("");
    expect_end(start("SetRateLimit", &set), GRPC_STATUS_INVALID_ARGUMENT, "BAD_RATE_LIMIT");
    set.user = BYTES("default");
    set.writes_per_second = UINT64_MAX;
    expect_end(start("SetRateLimit", &set), GRPC_STATUS_INVALID_ARGUMENT, "BAD_RATE_LIMIT");
}

static char *dashboard(void) {
    Varve__V1__DashboardResponse *r =
        answer(start("Dashboard", NULL), &varve__v1__dashboard_response__descriptor);
    char *text = calloc(1, r->json.len + 1);
    memcpy(text, r->json.data, r->json.len);
    varve__v1__dashboard_response__free_unpacked(r, NULL);
    return text;
}

Test(admin, the_dashboard_counts_calls_from_the_first_look_on) {
    fixture_start();
    put("a", "1");
    char *text = dashboard();
    cr_expect(strstr(text, "\"last_lsn\":1,"), "%s", text);
    cr_expect(strstr(text, "\"role\":\"primary\""), "%s", text);
    cr_expect_null(strstr(text, "\"method\":\"Put\""), "nobody had looked: %s", text);
    free(text);
    put("a", "2");
    text = dashboard();
    cr_expect(strstr(text, "\"method\":\"Put\",\"count\":1,"), "%s", text);
    free(text);
}

Test(admin, what_is_no_request_is_refused) {
    static const char *const methods[] = {
        "Status", "Stats",  "Dashboard",    "Flush",   "Compact", "SetSafeCompactionLsn",
        "Backup", "Verify", "SetRateLimit", "Promote", "Reload"};
    fixture_start();
    for (size_t i = 0; i < VV_ARRAY_COUNT(methods); i++) {
        char path[64];
        snprintf(path, sizeof path, ADMIN "%s", methods[i]);
        expect_end(client_start_unary(fx.client, path, vv_slice_make("\xff\xff", 2), CLIENT_DEADLINE_MS),
                   GRPC_STATUS_INVALID_ARGUMENT, "MALFORMED");
    }
}

/* ---- backups ---- */

static void expect_in_backup(const char *name, const char *key, const char *value) {
    varve_db *db;
    varve_error err;
    varve_value v;
    cr_assert(varve_ok(varve_open(in_backups(name), NULL, &db, &err)), "%s", err.text);
    varve_status st = varve_get(db, key, strlen(key), &v);
    cr_assert_eq(varve_ok(st), value != NULL, "%s", key);
    cr_assert(!value || (v.bytes == strlen(value) && memcmp(v.data, value, v.bytes) == 0));
    varve_value_release(&v);
    cr_assert(varve_ok(varve_close(db)));
}

Test(admin, a_backup_opens_with_what_was_written_before_it) {
    fixture_start();
    put("a", "1");
    Varve__V1__BackupResponse r = backup("monday", "");
    cr_assert_eq(r.lsn, 1);
    cr_assert_eq(r.file_count, 2);
    cr_assert_gt(r.copied_bytes, 0);
    put("a", "2");
    put("b", "2");
    Varve__V1__BackupResponse next = backup("tuesday", "monday");
    cr_assert_eq(next.lsn, 3);
    cr_assert_eq(next.file_count, 3);
    cr_assert_lt(next.copied_bytes, next.bytes - r.copied_bytes + 1, "the first table is linked");
    Varve__V1__BackupRequest linked = backup_request("linked", "");
    linked.hard_links = true;
    Varve__V1__BackupResponse *l = answer(start("Backup", &linked), &varve__v1__backup_response__descriptor);
    cr_assert_eq(l->copied_bytes, 0);
    varve__v1__backup_response__free_unpacked(l, NULL);
    expect_in_backup("monday", "a", "1");
    expect_in_backup("monday", "b", NULL);
    expect_in_backup("tuesday", "a", "2");
    expect_in_backup("linked", "b", "2");
}

Test(admin, without_a_directory_there_are_no_backups) {
    fx.config.backup_dir[0] = '\0';
    fixture_start();
    expect_end(start_backup("monday", ""), GRPC_STATUS_FAILED_PRECONDITION, "BACKUP_DIR_NOT_SET");
}

Test(admin, no_name_leads_out_of_the_backup_directory) {
    static const char *const names[] = {"",          ".",       "..",      "../x",  "a/b",   "/tmp/x",
                                        "a/../../x", ".hidden", "a\nline", "a\x01", "sp ace"};
    char outside[600], long_name[300];
    fixture_start();
    for (size_t i = 0; i < VV_ARRAY_COUNT(names); i++) {
        expect_end(start_backup(names[i], ""), GRPC_STATUS_INVALID_ARGUMENT, "BAD_BACKUP_NAME");
        if (i > 0)
            expect_end(start_backup("good", names[i]), GRPC_STATUS_INVALID_ARGUMENT, "BAD_BACKUP_NAME");
    }
    Varve__V1__BackupRequest r = VARVE__V1__BACKUP_REQUEST__INIT;
    r.name = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "a\0b"};
    expect_end(start("Backup", &r), GRPC_STATUS_INVALID_ARGUMENT, "BAD_BACKUP_NAME");
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    expect_end(start_backup(long_name, ""), GRPC_STATUS_INVALID_ARGUMENT, "BAD_BACKUP_NAME");

    /* Links to empty and to foreign directories elsewhere. */
    snprintf(outside, sizeof outside, "%s", vv_tempdir_path("outside"));
    cr_assert_eq(mkdir(outside, 0750), 0);
    cr_assert_eq(symlink(outside, in_backups("link")), 0);
    expect_end(start_backup("link", ""), GRPC_STATUS_ALREADY_EXISTS, "EXISTS");
    cr_assert_eq(rmdir(outside), 0, "nothing was put there");
    expect_end(start_backup("dangling", ""), GRPC_STATUS_OK, NULL);
    expect_end(start_backup("other", "link"), GRPC_STATUS_NOT_FOUND, "NO_SUCH_BACKUP");
    expect_end(start_backup("other", "missing"), GRPC_STATUS_NOT_FOUND, "NO_SUCH_BACKUP");
    cr_assert_not(exists(in_backups("other")));
    expect_end(start_backup("dangling", ""), GRPC_STATUS_ALREADY_EXISTS, "EXISTS");
    cr_assert_eq(mkdir(in_backups("empty"), 0750), 0);
    expect_end(start_backup("empty", ""), GRPC_STATUS_ALREADY_EXISTS, "EXISTS");
    expect_end(start_backup("other", "empty"), GRPC_STATUS_INVALID_ARGUMENT, "INVALID_ARGUMENT");
}

/* ---- long calls ---- */

/* A backup that takes a minute, and has begun. */
static client_call *begin_slow_backup(const char *name, int64_t deadline_ms) {
    Varve__V1__BackupRequest r = backup_request(name, "");
    client_call *call = client_start_unary(fx.client, ADMIN "Backup", client_pack(&r), deadline_ms);
    uint64_t end_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    while (!exists(in_backups(name))) /* once is enough: its deadline may take it away again */
        cr_assert_lt(vv_clock_mono_ns(), end_ns, "it has not begun");
    return call;
}

static void start_slow(void) {
    fx.config.backup_rate = 700000;
    fixture_start();
    fill();
    expect_end(start("Flush", NULL), GRPC_STATUS_OK, NULL);
}

static void wait_gone(const char *name) {
    uint64_t end_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    while (exists(in_backups(name)))
        cr_assert_lt(vv_clock_mono_ns(), end_ns, "something is left of it");
}

Test(admin, beside_a_long_call_others_are_answered_and_its_like_refused) {
    start_slow();
    client_call *call = begin_slow_backup("slow", 60000);
    cr_assert_not_null(get("key00"));
    put("k", "v");
    cr_assert_eq(status().last_lsn, 21);
    expect_end(start("Flush", NULL), GRPC_STATUS_OK, NULL);
    client_call *second = start_backup("second", "");
    cr_assert_eq(client_wait(second), GRPC_STATUS_RESOURCE_EXHAUSTED);
    cr_assert_str_eq(client_reason(second), "ALREADY_RUNNING");
    cr_assert_gt(client_retry_ms(second), 0);
    client_call_destroy(second);
    client_cancel(call);
    expect_end(call, GRPC_STATUS_CANCELLED, NULL);
    wait_gone("slow");
    cr_assert_not_null(get("key00"));
}

Test(admin, a_long_call_ends_with_its_deadline) {
    start_slow();
    expect_end(begin_slow_backup("slow", 3000), GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
    wait_gone("slow");
    /* Its like may run again, as soon as the server has taken leave of the first. */
    Varve__V1__BackupRequest r = backup_request("slow", "");
    grpc_status_code code;
    do {
        client_call *call = client_start_unary(fx.client, ADMIN "Backup", client_pack(&r), 1000);
        code = client_wait(call);
        client_call_destroy(call);
    } while (code == GRPC_STATUS_RESOURCE_EXHAUSTED);
    cr_assert_eq(code, GRPC_STATUS_DEADLINE_EXCEEDED);
    wait_gone("slow");
}

Test(admin, a_drain_gives_long_calls_up) {
    start_slow();
    client_call *backup_call = begin_slow_backup("slow", 60000);
    client_call *verify_call = client_start_unary(fx.client, ADMIN "Verify", vv_slice_make("", 0), 60000);
    cr_assert_not_null(get("key00")); /* behind it on the same connection: it has arrived */
    uint64_t start_ns = vv_clock_mono_ns();
    fixture_drain_begin();
    expect_end(backup_call, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    expect_end(verify_call, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
    cr_assert_lt(vv_clock_mono_ns() - start_ns, 10 * VV_NS_PER_S);
    cr_assert_not(exists(in_backups("slow")), "nothing is left of it");
}

/* ---- verification ---- */

static void flip_in_first_table(uint64_t offset) {
    char path[600] = "";
    uint8_t byte;
    DIR *d = opendir(fx.config.data);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".sst"))
            snprintf(path, sizeof path, "%s/%s", fx.config.data, e->d_name);
    closedir(d);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

Test(admin, verify_tells_what_is_damaged) {
    fixture_start();
    put("alpha", "1");
    put("omega", "1");
    expect_end(start("Flush", NULL), GRPC_STATUS_OK, NULL);
    Varve__V1__VerifyResponse *r = answer(start("Verify", NULL), &varve__v1__verify_response__descriptor);
    cr_assert_eq(r->damage_count, 0);
    cr_assert_eq(r->file_count, 2);
    cr_assert_eq(r->block_count, 1);
    cr_assert_eq(r->bytes, 4096);
    varve__v1__verify_response__free_unpacked(r, NULL);

    flip_in_first_table(100);
    r = answer(start("Verify", NULL), &varve__v1__verify_response__descriptor);
    cr_assert_eq(r->damage_count, 1);
    cr_assert_eq(r->n_damages, 1);
    const Varve__V1__Damage *d = r->damages[0];
    cr_assert_not_null(strstr(d->file, ".sst"));
    cr_assert_eq(d->offset, 0);
    cr_assert(d->first_key.len == 5 && memcmp(d->first_key.data, "alpha", 5) == 0);
    cr_assert(d->last_key.len == 5 && memcmp(d->last_key.data, "omega", 5) == 0);
    cr_assert_not_null(strstr(d->message, "checksum mismatch"));
    varve__v1__verify_response__free_unpacked(r, NULL);
    expect_end(start_backup("rotten", ""), GRPC_STATUS_DATA_LOSS, "CHECKSUM");
    cr_assert_not(exists(in_backups("rotten")));
}
