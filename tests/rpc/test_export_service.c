#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"
#include "varve/v1/replication.pb-c.h"

TestSuite(export_service, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

#define SERVICE "/varve.v1.Replication/"
#define ADMIN   "/varve.v1.Admin/"

typedef Varve__V1__TakeSnapshotResponse snapshot;

/* ---- calls ---- */

static const char *token; /* of the caller; NULL: none is shown */

static client_call *start_call(const char *path, const void *message) {
    client_call *call =
        client_start_with(fx.client, path, CLIENT_DEADLINE_MS, token ? "authorization" : NULL, token);
    client_send(call, client_pack(message));
    client_half_close(call);
    return call;
}

/* Take what comes, and see how it ends. */
static grpc_status_code ended(client_call *call) {
    vv_slice message;
    while (client_read(call, &message))
        continue;
    return client_wait(call);
}

static void ends(client_call *call, grpc_status_code code, const char *reason) {
    ended(call);
    expect_end(call, code, reason);
}

static client_call *start_take(uint64_t lease_ms, const char *slot) {
    Varve__V1__TakeSnapshotRequest r = VARVE__V1__TAKE_SNAPSHOT_REQUEST__INIT;
    r.lease_ms = lease_ms;
    r.slot = BYTES(slot);
    return start_call(SERVICE "TakeSnapshot", &r);
}

/* Freed by the caller. */
static snapshot *taken(client_call *call) {
    vv_slice bytes;
    cr_assert(client_read(call, &bytes), "%d %s", client_wait(call), client_message(call));
    snapshot *s = varve__v1__take_snapshot_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(s);
    expect_end(call, GRPC_STATUS_OK, NULL);
    return s;
}

static snapshot *take(void) {
    return taken(start_take(0, ""));
}

static void forget(snapshot *s) {
    varve__v1__take_snapshot_response__free_unpacked(s, NULL);
}

static void release(uint64_t id) {
    Varve__V1__ReleaseSnapshotRequest r = VARVE__V1__RELEASE_SNAPSHOT_REQUEST__INIT;
    r.snapshot_id = id;
    ends(start_call(SERVICE "ReleaseSnapshot", &r), GRPC_STATUS_OK, NULL);
}

static client_call *start_fetch(uint64_t id, ProtobufCBinaryData name, uint64_t offset, uint64_t length) {
    Varve__V1__FetchFileRequest r = VARVE__V1__FETCH_FILE_REQUEST__INIT;
    r.snapshot_id = id;
    r.name = name;
    r.offset = offset;
    r.length = length;
    return start_call(SERVICE "FetchFile", &r);
}

/* All that comes, which the caller frees. */
static uint8_t *fetched(client_call *call, size_t *bytes_out) {
    uint8_t *all = malloc(1);
    vv_slice message;
    *bytes_out = 0;
    while (client_read(call, &message)) {
        Varve__V1__FetchFileResponse *r =
            varve__v1__fetch_file_response__unpack(NULL, message.bytes, message.data);
        cr_assert_not_null(r);
        cr_assert_leq(r->data.len, (size_t)1 << 20, "a message is bounded");
        all = realloc(all, *bytes_out + r->data.len + 1);
        memcpy(all + *bytes_out, r->data.data, r->data.len);
        *bytes_out += r->data.len;
        varve__v1__fetch_file_response__free_unpacked(r, NULL);
    }
    expect_end(call, GRPC_STATUS_OK, NULL);
    return all;
}

static void fetch_fails(uint64_t id, ProtobufCBinaryData name, uint64_t offset, uint64_t length,
                        grpc_status_code code, const char *reason) {
    client_call *call = start_fetch(id, name, offset, length);
    vv_slice message;
    cr_assert_not(client_read(call, &message));
    expect_end(call, code, reason);
}

static void admin(const char *path) {
    Varve__V1__FlushRequest r = VARVE__V1__FLUSH_REQUEST__INIT; /* an empty message, whatever it is called */
    ends(start_call(path, &r), GRPC_STATUS_OK, NULL);
}

static uint64_t stat_of(const char *name) {
    Varve__V1__StatsRequest request = VARVE__V1__STATS_REQUEST__INIT;
    client_call *call = start_call(ADMIN "Stats", &request);
    vv_slice bytes;
    cr_assert(client_read(call, &bytes));
    Varve__V1__StatsResponse *r = varve__v1__stats_response__unpack(NULL, bytes.bytes, bytes.data);
    uint64_t value = UINT64_MAX;
    for (size_t i = 0; i < r->n_stats; i++)
        if (strcmp(r->stats[i]->name, name) == 0)
            value = r->stats[i]->value;
    cr_assert_neq(value, UINT64_MAX, "there is no %s", name);
    varve__v1__stats_response__free_unpacked(r, NULL);
    ends(call, GRPC_STATUS_OK, NULL);
    return value;
}

/* ---- what is stored ---- */

enum { VALUE_BYTES = 60000 };

static void put_keys(int count, char fill) {
    static char value[VALUE_BYTES + 1];
    memset(value, fill, VALUE_BYTES);
    for (int i = 0; i < count; i++) {
        char key[32];
        snprintf(key, sizeof key, "key%d", i);
        expect_end(call_put(key, value), GRPC_STATUS_OK, NULL);
    }
}

static bool named(const Varve__V1__SnapshotFile *f, const char *name) {
    return f->name.len == strlen(name) && memcmp(f->name.data, name, f->name.len) == 0;
}

/* The largest file. */
static const Varve__V1__SnapshotFile *largest(const snapshot *s) {
    const Varve__V1__SnapshotFile *found = s->files[0];
    for (size_t i = 1; i < s->n_files; i++)
        if (s->files[i]->size > found->size)
            found = s->files[i];
    return found;
}

static void write_file(const char *dir, const Varve__V1__SnapshotFile *f, const uint8_t *data, size_t bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%.*s", dir, (int)f->name.len, (const char *)f->name.data);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(data, 1, bytes, file), bytes);
    cr_assert_eq(fclose(file), 0);
}

/* Fetch everything, check it, and open it as a database. */
static varve_db *copied(const snapshot *s) {
    const char *dir = vv_tempdir_path("copy");
    bool manifest = false;
    cr_assert_eq(mkdir(dir, 0700), 0);
    for (size_t i = 0; i < s->n_files; i++) {
        const Varve__V1__SnapshotFile *f = s->files[i];
        size_t bytes;
        uint8_t *data = fetched(start_fetch(s->id, f->name, 0, 0), &bytes);
        cr_assert_eq(bytes, f->size);
        cr_assert_eq(vv_checksum(data, bytes, 0), f->checksum);
        write_file(vv_tempdir_path("copy"), f, data, bytes);
        manifest |= named(f, "MANIFEST");
        free(data);
    }
    cr_assert(manifest);
    varve_db *copy;
    varve_error err = {""};
    cr_assert(varve_ok(varve_open(vv_tempdir_path("copy"), NULL, &copy, &err)), "%s", err.text);
    return copy;
}

Test(export_service, all_files_together_are_the_store_as_of_the_lsn) {
    fixture_start();
    put_keys(100, 'a');
    admin(ADMIN "Flush");
    expect_end(call_put("small", "old"), GRPC_STATUS_OK, NULL);
    snapshot *s = take();
    cr_assert_eq(s->lsn, 101);
    cr_assert(s->id != 0);
    cr_assert(s->expires_unix_ms > vv_clock_unix_ms());
    cr_assert_eq(s->database_id.len, VARVE_DATABASE_ID_BYTES);
    cr_assert_geq(s->n_files, 3, "two tables and the manifest");

    /* Whatever happens to the store meanwhile. */
    expect_end(call_put("small", "new"), GRPC_STATUS_OK, NULL);
    put_keys(100, 'b');
    admin(ADMIN "Flush");
    admin(ADMIN "Compact");

    varve_db *copy = copied(s);
    varve_value value;
    cr_assert(varve_ok(varve_get(copy, "small", 5, &value)));
    cr_assert_eq(value.bytes, 3);
    cr_assert_eq(memcmp(value.data, "old", 3), 0);
    varve_value_release(&value);
    cr_assert(varve_ok(varve_get(copy, "key99", 5, &value)));
    cr_assert_eq(*(const char *)value.data, 'a');
    varve_value_release(&value);
    uint8_t id[VARVE_DATABASE_ID_BYTES];
    varve_database_id(copy, id);
    cr_assert_eq(memcmp(id, s->database_id.data, sizeof id), 0);
    varve_stats stats;
    varve_stats_get(copy, &stats);
    cr_assert_eq(stats.last_lsn, 101);
    cr_assert(varve_ok(varve_close(copy)));
    release(s->id);
    release(s->id);
    forget(s);
}

Test(export_service, any_piece_of_a_file_may_be_asked_for) {
    fixture_start();
    put_keys(60, 'a'); /* 3.6 MB */
    snapshot *s = take();
    const Varve__V1__SnapshotFile *f = largest(s);
    cr_assert_gt(f->size, (uint64_t)3 << 20);
    size_t all_bytes, bytes;
    uint8_t *all = fetched(start_fetch(s->id, f->name, 0, 0), &all_bytes);
    const uint64_t ranges[][2] = {{0, 1},           {1, 1},
                                  {4095, 2},        {4096, 4096},
                                  {1, 2 << 20},     {(1 << 20) - 1, (1 << 20) + 2},
                                  {f->size - 1, 1}, {f->size - 5000, 0},
                                  {12345, 0},       {0, f->size}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(ranges); i++) {
        uint64_t offset = ranges[i][0], length = ranges[i][1];
        uint8_t *piece = fetched(start_fetch(s->id, f->name, offset, length), &bytes);
        cr_assert_eq(bytes, length ? length : f->size - offset, "range %zu", i);
        cr_assert_eq(memcmp(piece, all + offset, bytes), 0, "range %zu", i);
        free(piece);
    }
    free(fetched(start_fetch(s->id, f->name, f->size, 0), &bytes));
    cr_assert_eq(bytes, 0, "to the end, from the end");
    const uint64_t bad[][2] = {{f->size + 1, 0}, {f->size, 1},    {1, f->size},
                               {UINT64_MAX, 1},  {1, UINT64_MAX}, {0, f->size + 1}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++)
        fetch_fails(s->id, f->name, bad[i][0], bad[i][1], GRPC_STATUS_INVALID_ARGUMENT, "BAD_RANGE");
    fetch_fails(s->id, BYTES("MANIFEST"), 1 << 20, 0, GRPC_STATUS_INVALID_ARGUMENT, "BAD_RANGE");
    free(all);
    forget(s);
}

Test(export_service, only_files_of_the_snapshot_have_a_name) {
    fixture_start();
    put_keys(1, 'a');
    snapshot *s = take();
    put_keys(1, 'b');
    snapshot *later = take();
    const char *const names[] = {"",           "LOCK",        "MANIFEST ", "manifest", "../data/MANIFEST",
                                 "./MANIFEST", "/etc/passwd", "."};
    for (size_t i = 0; i < VV_ARRAY_COUNT(names); i++)
        fetch_fails(s->id, BYTES(names[i]), 0, 0, GRPC_STATUS_NOT_FOUND, "FILE_UNKNOWN");
    fetch_fails(s->id, (ProtobufCBinaryData){9, (uint8_t *)(uintptr_t) "MANIFEST"}, 0, 0,
                GRPC_STATUS_NOT_FOUND, "FILE_UNKNOWN");
    for (size_t i = 0; i < later->n_files; i++) {
        bool known = false;
        for (size_t j = 0; j < s->n_files; j++)
            known |= later->files[i]->name.len == s->files[j]->name.len &&
                     memcmp(later->files[i]->name.data, s->files[j]->name.data, s->files[j]->name.len) == 0;
        if (!known)
            fetch_fails(s->id, later->files[i]->name, 0, 0, GRPC_STATUS_NOT_FOUND, "FILE_UNKNOWN");
    }
    fetch_fails(s->id + 1, BYTES("MANIFEST"), 0, 0, GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    release(s->id);
    fetch_fails(s->id, BYTES("MANIFEST"), 0, 0, GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    forget(s);
    forget(later);
}

Test(export_service, a_snapshot_is_of_its_user) {
    FILE *tokens = fopen(vv_tempdir_path("tokens"), "w");
    /* sha256 of "one" and of "two" */
    fputs("a sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed replica\n"
          "b sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3 replica\n",
          tokens);
    fclose(tokens);
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fixture_start();
    token = "Bearer one";
    snapshot *s = take();
    token = "Bearer two";
    fetch_fails(s->id, BYTES("MANIFEST"), 0, 0, GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    release(s->id);
    token = "Bearer one";
    size_t bytes;
    free(fetched(start_fetch(s->id, BYTES("MANIFEST"), 0, 0), &bytes));
    cr_assert_gt(bytes, 0);
    forget(s);
}

Test(export_service, there_are_only_so_many) {
    fx.config.exports_max = 2;
    fixture_start();
    put_keys(1, 'a');
    snapshot *a = take(), *b = take();
    cr_assert_eq(a->lsn, b->lsn);
    ends(start_take(0, ""), GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS");
    release(a->id);
    forget(a);
    a = taken(start_take(1, ""));
    client_call *call; /* and its lease is over at once: there is room again */
    while (ended(call = start_take(1, "")) != GRPC_STATUS_OK)
        expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS");
    client_call_destroy(call);
    fetch_fails(a->id, BYTES("MANIFEST"), 0, 0, GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    forget(a);
    forget(b);
}

/* What was held goes on. The server may hear a moment later that its client is gone: then it releases what it
 * took. */
static void expect_that_one_is_free(void) {
    engine_tap_hold_snapshots(false);
    client_call *call;
    while (ended(call = start_take(0, "")) != GRPC_STATUS_OK)
        expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS");
    client_call_destroy(call);
    cr_assert_eq(stat_of("rpc_exports"), 1);
}

Test(export_service, a_client_that_leaves_leaves_no_snapshot) {
    fx.config.exports_max = 1;
    fixture_start();
    put_keys(1, 'a');
    engine_tap_hold_snapshots(true);
    client_call *left = start_take(0, ""), *queued = start_take(0, "");
    engine_tap_wait_held_snapshot();
    client_cancel(left);
    client_cancel(queued);
    ends(left, GRPC_STATUS_CANCELLED, NULL);
    ends(queued, GRPC_STATUS_CANCELLED, NULL);
    expect_end(call_put("other", "calls go on"), GRPC_STATUS_OK, NULL);
    expect_that_one_is_free();
}

Test(export_service, a_deadline_that_passes_while_it_is_taken_leaves_no_snapshot) {
    fx.config.exports_max = 1;
    fixture_start();
    engine_tap_hold_snapshots(true);
    /* Long enough for a busy machine to begin it: only what has begun can be too late. */
    client_call *late = client_start(fx.client, SERVICE "TakeSnapshot", 3000);
    client_send(late, vv_slice_make("", 0));
    client_half_close(late);
    engine_tap_wait_held_snapshot();
    ends(late, GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
    expect_that_one_is_free();
}

Test(export_service, a_client_that_takes_nothing_is_given_up) {
    fx.config.fetch_idle_us = 100000;
    fixture_start();
    put_keys(200, 'a'); /* far more than what flow control lets through unread */
    snapshot *s = taken(start_take(1, ""));
    client_call *call = start_fetch(s->id, largest(s)->name, 0, 0);
    vv_slice message;
    bool begun = client_read(call, &message);
    /* The server has given it up when the lease's time, which had to wait for that, is over. */
    while (begun && stat_of("rpc_exports") > 0)
        continue;
    if (begun) /* else a very slow machine: the lease was over before */
        ends(call, GRPC_STATUS_ABORTED, "FETCH_IDLE");
    else
        expect_end(call, GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    forget(s);
}

Test(export_service, many_streams_at_once_and_some_that_break_off) {
    fixture_start();
    put_keys(100, 'a');
    snapshot *s = take();
    const Varve__V1__SnapshotFile *f = largest(s);
    enum { STREAMS = 12 };
    client_call *calls[STREAMS];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < STREAMS; i++)
            calls[i] = start_fetch(s->id, f->name, (uint64_t)i * 1000, 0);
        for (int i = 0; i < STREAMS; i++) {
            vv_slice message;
            size_t bytes;
            if (i % 3 == 0) {
                if (i % 2 == 0)
                    cr_assert(client_read(calls[i], &message));
                client_cancel(calls[i]);
                ended(calls[i]);
                client_call_destroy(calls[i]);
                continue;
            }
            free(fetched(calls[i], &bytes));
            cr_assert_eq(bytes, f->size - (uint64_t)i * 1000);
        }
    }
    forget(s);
}

Test(export_service, a_release_amid_a_fetch_lets_it_end) {
    fx.config.exports_max = 1;
    fixture_start();
    put_keys(200, 'a');
    snapshot *s = take();
    client_call *call = start_fetch(s->id, largest(s)->name, 0, 0);
    vv_slice message;
    cr_assert(client_read(call, &message));
    release(s->id);
    snapshot *next = take(); /* there is room, though files of the first are still being read */
    size_t bytes;
    free(fetched(call, &bytes));
    cr_assert_gt(bytes, 0);
    forget(s);
    forget(next);
}

Test(export_service, a_drain_gives_fetches_up_and_releases_all) {
    fixture_start();
    put_keys(600, 'a'); /* far more than what flow control lets through unread */
    snapshot *s = take();
    client_call *call = start_fetch(s->id, largest(s)->name, 0, 0);
    vv_slice message;
    cr_assert(client_read(call, &message));
    fixture_drain_begin();
    client_call *other; /* once calls are refused, streams have been told */
    while (client_wait(other = call_get("key0")) == GRPC_STATUS_OK)
        client_call_destroy(other);
    client_call_destroy(other);
    ends(call, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
    forget(s);
}

Test(export_service, names_of_slots_are_checked) {
    fixture_start();
    char too_long[VARVE_SLOT_NAME_BYTES_MAX + 2];
    memset(too_long, 'n', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    const char *const bad[] = {"archive", "a b", "a/b", "\xc3\xa4", "a\n", too_long};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++)
        ends(start_take(0, bad[i]), GRPC_STATUS_INVALID_ARGUMENT, "BAD_SLOT");
}

/* ---- slots: the log behind a snapshot ---- */

static bool slot_named(const char *name, varve_slot_info *out) {
    varve_slot_info slots[VARVE_SLOTS_MAX];
    size_t count = varve_slots_get(engine_tap_db(), slots);
    for (size_t i = 0; i < count; i++)
        if (strcmp(slots[i].name, name) == 0) {
            *out = slots[i];
            return true;
        }
    return false;
}

Test(export_service, a_slot_keeps_the_log_from_before_the_snapshot_is_taken) {
    fixture_start();
    varve_slot_info slot;
    put_keys(3, 'a');
    admin(ADMIN "Flush");
    put_keys(2, 'b');
    engine_tap_hold_snapshots(true);
    client_call *call = start_take(0, "node-2");
    engine_tap_wait_held_snapshot();
    cr_assert(slot_named("node-2", &slot));
    cr_assert_eq(slot.confirmed_lsn, 3, "at what was flushed by then");
    engine_tap_hold_snapshots(false);
    snapshot *s = taken(call);
    cr_assert_eq(s->lsn, 5);
    cr_assert(slot_named("node-2", &slot));
    cr_assert_eq(slot.confirmed_lsn, 5, "and then at the snapshot");
    cr_assert_not(slot.lost);
    /* It is placed anew for who begins anew. */
    put_keys(1, 'c');
    snapshot *again = taken(start_take(0, "node-2"));
    cr_assert(slot_named("node-2", &slot));
    cr_assert_eq(slot.confirmed_lsn, 6);
    forget(s);
    forget(again);
}

Test(export_service, a_snapshot_that_fails_leaves_neither_lease_nor_slot) {
    fixture_start();
    varve_slot_info slot;
    engine_tap_fail_snapshots((varve_status){.code = VARVE_NO_SPACE});
    ends(start_take(0, "node-2"), GRPC_STATUS_RESOURCE_EXHAUSTED, "NO_SPACE");
    cr_assert_not(slot_named("node-2", &slot), "the log would be kept for nobody");
    cr_assert_eq(stat_of("rpc_exports"), 0);
    engine_tap_fail_snapshots((varve_status){0});
    forget(taken(start_take(0, "node-2")));
    cr_assert(slot_named("node-2", &slot));
}

Test(export_service, a_snapshot_that_fails_leaves_a_slot_alone_that_was_there) {
    fixture_start();
    put_keys(3, 'a');
    varve_slot_info slot;
    cr_assert(varve_ok(varve_slot_create(engine_tap_db(), "node-2", 2, NULL)));
    admin(ADMIN "Flush");
    engine_tap_fail_snapshots((varve_status){.code = VARVE_NO_SPACE});
    ends(start_take(0, "node-2"), GRPC_STATUS_RESOURCE_EXHAUSTED, "NO_SPACE");
    cr_assert(slot_named("node-2", &slot), "its reader may come back");
    cr_assert_eq(slot.confirmed_lsn, 2);
    cr_assert_not(slot.lost);
    engine_tap_fail_snapshots((varve_status){0});
    forget(taken(start_take(0, "node-2")));
    cr_assert(slot_named("node-2", &slot));
    cr_assert_eq(slot.confirmed_lsn, 3);
}

Test(export_service, there_are_only_so_many_slots) {
    fx.config.exports_max = VARVE_SLOTS_MAX + 1;
    fixture_start();
    char name[32];
    for (int i = 0; i < VARVE_SLOTS_MAX; i++) {
        snprintf(name, sizeof name, "node-%d", i);
        forget(taken(start_take(0, name)));
    }
    ends(start_take(0, "one-more"), GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_REPLICAS");
    forget(taken(start_take(0, "node-7"))); /* of one that is there */
    cr_assert_eq(stat_of("rpc_exports"), VARVE_SLOTS_MAX + 1);
}
