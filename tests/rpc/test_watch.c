/*
 * varve.v1.Watch over the network, on the real engine.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "varve/v1/watch.pb-c.h"

TestSuite(watch, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

static void set(const char *key, const char *value) {
    varve_error words;
    cr_assert(varve_ok(varve_options_set(fx.engine, key, value, &words)), "%s", words.text);
}

static client_call *start_on(client *c, const char *start, const char *end, const char *prefix,
                             uint64_t from_lsn) {
    Varve__V1__WatchRequest request = VARVE__V1__WATCH_REQUEST__INIT;
    request.start = BYTES(start);
    request.end = BYTES(end);
    request.prefix = BYTES(prefix);
    request.from_lsn = from_lsn;
    client_call *call = client_start(c, "/varve.v1.Watch/Watch", 60000);
    client_send(call, client_pack(&request));
    client_half_close(call);
    return call;
}

static client_call *watch(const char *prefix, uint64_t from_lsn) {
    return start_on(fx.client, "", "", prefix, from_lsn);
}

/* The next message; the caller frees it. NULL: the end. */
static Varve__V1__WatchResponse *next(client_call *call) {
    vv_slice bytes;
    if (!client_read(call, &bytes))
        return NULL;
    Varve__V1__WatchResponse *r = varve__v1__watch_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(r);
    return r;
}

static void expect_mark(client_call *call, uint64_t lsn) {
    Varve__V1__WatchResponse *r = next(call);
    cr_assert_not_null(r);
    cr_assert_eq(r->n_events, 0);
    cr_assert_eq(r->lsn, lsn, "%" PRIu64 ", not %" PRIu64, r->lsn, lsn);
    varve__v1__watch_response__free_unpacked(r, NULL);
}

/* The words of all events until `lsn` is told, marks left out: "a=1 b- " are a put and a delete. */
static const char *told_until(client_call *call, uint64_t lsn) {
    static char text[65536];
    size_t used = 0;
    uint64_t told = 0;
    text[0] = '\0';
    while (told < lsn) {
        Varve__V1__WatchResponse *r = next(call);
        cr_assert_not_null(r, "the watch has ended behind %" PRIu64 ": %d %s", told, client_wait(call),
                           client_message(call));
        cr_assert_geq(r->lsn, told);
        for (size_t i = 0; i < r->n_events; i++) {
            const Varve__V1__Event *e = r->events[i];
            bool put = e->type == VARVE__V1__EVENT_TYPE__EVENT_TYPE_PUT;
            cr_assert(e->lsn > told && e->lsn <= r->lsn);
            used += (size_t)snprintf(text + used, sizeof text - used, put ? "%.*s=%.*s " : "%.*s- ",
                                     (int)e->key.len, e->key.data, (int)e->value.len, e->value.data);
            cr_assert_lt(used, sizeof text);
        }
        told = r->lsn;
        varve__v1__watch_response__free_unpacked(r, NULL);
    }
    return text;
}

static void del(const char *key) {
    expect_end(call_delete(key), GRPC_STATUS_OK, NULL);
}

static void end(client_call *call) {
    client_cancel(call);
    Varve__V1__WatchResponse *r;
    while ((r = next(call)) != NULL)
        varve__v1__watch_response__free_unpacked(r, NULL);
    expect_end(call, GRPC_STATUS_CANCELLED, NULL);
}

Test(watch, what_is_written_from_now_on_is_told) {
    fixture_start();
    fixture_put("before", "1");
    client_call *call = watch("", 0);
    expect_mark(call, 1);
    fixture_put("a", "1");
    del("a");
    cr_assert_str_eq(told_until(call, 3), "a=1 a- ");
    for (uint64_t i = 0; i < 50; i++) {
        fixture_put("b", "2");
        cr_assert_str_eq(told_until(call, 4 + i), "b=2 ");
    }
    end(call);
}

Test(watch, an_empty_store_is_watched_from_its_beginning) {
    fixture_start();
    client_call *now = watch("", 0), *first = watch("", 1);
    expect_mark(now, 0);
    expect_mark(first, 0);
    fixture_put("a", "1");
    cr_assert_str_eq(told_until(now, 1), "a=1 ");
    cr_assert_str_eq(told_until(first, 1), "a=1 ");
    end(now);
    end(first);
}

Test(watch, a_watch_goes_on_where_another_ended) {
    fixture_start();
    for (int i = 0; i < 10; i++)
        fixture_put("k", "v");
    client_call *call = watch("", 1);
    uint64_t told = 0;
    size_t events = 0;
    for (int round = 0; round < 6; round++) {
        Varve__V1__WatchResponse *r = next(call);
        cr_assert_not_null(r);
        for (size_t i = 0; i < r->n_events; i++) {
            events++;
            cr_assert_eq(r->events[i]->lsn, events, "no loss, and nothing twice");
        }
        cr_assert_geq(r->lsn, told);
        told = r->lsn;
        varve__v1__watch_response__free_unpacked(r, NULL);
        if (round % 2)
            fixture_put("k", "v");
        end(call);
        call = watch("", told + 1);
    }
    while (told < 13)
        told += strlen(told_until(call, told + 1)) / strlen("k=v ");
    end(call);
}

Test(watch, only_the_range_is_told_and_the_rest_moves_the_lsn_on) {
    fx.config.watch_progress_interval_us = 20000;
    fixture_start();
    client_call *prefix = watch("b", 0), *range = start_on(fx.client, "b", "c", "", 0);
    expect_mark(prefix, 0);
    expect_mark(range, 0);
    fixture_put("a", "1");
    fixture_put("b", "2");
    fixture_put("bb", "3");
    fixture_put("c", "4");
    cr_assert_str_eq(told_until(prefix, 4), "b=2 bb=3 ", "lsn 4 comes with a mark");
    cr_assert_str_eq(told_until(range, 4), "b=2 bb=3 ");
    end(prefix);
    end(range);
}

Test(watch, marks_come_while_nothing_happens) {
    fx.config.watch_progress_interval_us = 20000;
    fixture_start();
    fixture_put("a", "1");
    uint64_t start_ns = vv_clock_mono_ns(); /* before the first can come */
    client_call *call = watch("", 0);
    for (int i = 0; i < 5; i++)
        expect_mark(call, 1);
    uint64_t took_ms = (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS;
    cr_assert_geq(took_ms, 4 * 20 - 1, "the first comes at once, the others one in an interval: %" PRIu64,
                  took_ms);
    end(call);
}

Test(watch, a_batch_is_one_message_however_large) {
    fixture_start();
    client_call *call = watch("", 0);
    expect_mark(call, 0);
    static const size_t sizes[] = {10, 1000, 100000, 3000000};
    uint64_t lsn = 0;
    for (size_t i = 0; i < 4; i++) {
        fixture_write_batch("k", 5, sizes[i]);
        Varve__V1__WatchResponse *r = next(call);
        cr_assert_not_null(r);
        cr_assert_eq(r->n_events, 5);
        for (size_t e = 0; e < 5; e++) {
            cr_assert_eq(r->events[e]->lsn, ++lsn);
            cr_assert_eq(r->events[e]->value.len, sizes[i]);
        }
        cr_assert_eq(r->lsn, lsn);
        varve__v1__watch_response__free_unpacked(r, NULL);
    }
    end(call);
    call = watch("", 3); /* within the first batch */
    expect_mark(call, 2);
    Varve__V1__WatchResponse *r = next(call);
    cr_assert_eq(r->events[0]->lsn, 1, "it comes whole");
    varve__v1__watch_response__free_unpacked(r, NULL);
    end(call);
}

Test(watch, batches_are_not_cut_where_messages_end) {
    fixture_start();
    for (int i = 0; i < 60; i++)
        fixture_write_batch("k", 7, 1000);
    client_call *call = watch("", 1);
    uint64_t lsn = 0;
    int messages = 0;
    while (lsn < 60 * 7) {
        Varve__V1__WatchResponse *r = next(call);
        cr_assert_not_null(r);
        cr_assert_eq(r->n_events % 7, 0);
        cr_assert_eq(r->lsn % 7, 0);
        for (size_t e = 0; e < r->n_events; e++)
            cr_assert_eq(r->events[e]->lsn, ++lsn);
        cr_assert_eq(r->lsn, lsn);
        messages++;
        varve__v1__watch_response__free_unpacked(r, NULL);
    }
    cr_assert_gt(messages, 3);
    end(call);
}

Test(watch, what_makes_no_sense_is_refused) {
    fixture_start();
    fixture_put("a", "1");
    client_call *call = start_on(fx.client, "c", "b", "", 0);
    cr_assert_null(next(call));
    expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "BAD_RANGE");
    call = watch("", 2); /* the next one to come */
    expect_mark(call, 1);
    end(call);
    call = watch("", 3);
    cr_assert_null(next(call));
    expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "LSN_IN_FUTURE");
    call = client_start(fx.client, "/varve.v1.Watch/Watch", 20000);
    client_send(call, vv_slice_str("\x0a\xff"));
    client_half_close(call);
    cr_assert_null(next(call));
    expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "MALFORMED");
}

static void small_log(void) {
    set("MEMTABLE_SIZE", "64KiB");
    set("WAL_SEGMENT_SIZE", "256KiB");
}

static void write_megabytes(size_t megabytes) {
    for (size_t i = 0; i < megabytes * 10; i++)
        fixture_write_batch("k", 10, 10000);
}

static void expect_trimmed(client_call *call, uint64_t resume_lsn) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OUT_OF_RANGE, "%s", client_message(call));
    cr_assert_str_eq(client_reason(call), "LSN_TRIMMED");
    cr_assert_eq(strtoull(client_detail(call, "resume_lsn"), NULL, 10), resume_lsn);
    uint64_t oldest = strtoull(client_detail(call, "oldest_lsn"), NULL, 10);
    cr_assert_gt(oldest, resume_lsn);
    client_call_destroy(call);
    call = watch("", oldest);
    Varve__V1__WatchResponse *r = next(call); /* what is said to be there is there, or has just gone */
    if (!r) {
        expect_end(call, GRPC_STATUS_OUT_OF_RANGE, "LSN_TRIMMED");
        return;
    }
    cr_assert(r->n_events == 0 && r->lsn == oldest - 1);
    varve__v1__watch_response__free_unpacked(r, NULL);
    r = next(call);
    cr_assert(!r || r->n_events == 0 || r->events[0]->lsn == oldest);
    if (r)
        varve__v1__watch_response__free_unpacked(r, NULL);
    client_cancel(call);
    while ((r = next(call)) != NULL)
        varve__v1__watch_response__free_unpacked(r, NULL);
    client_call_destroy(call);
}

Test(watch, what_is_no_longer_in_the_log_is_trimmed) {
    small_log();
    fixture_start();
    uint64_t until_ns = vv_clock_mono_ns() + 90 * VV_NS_PER_S;
    client_call *call;
    for (;;) {
        write_megabytes(1);
        call = watch("", 1);
        Varve__V1__WatchResponse *r = next(call);
        if (!r)
            break;
        varve__v1__watch_response__free_unpacked(r, NULL);
        end(call);
        cr_assert_lt(vv_clock_mono_ns(), until_ns, "the log forgets nothing");
    }
    expect_trimmed(call, 1);
}

Test(watch, a_reader_that_falls_behind_is_told_what_it_missed_and_holds_back_nobody) {
    small_log();
    fixture_start();
    client *other = client_create(vv_server_address(fx.server, 0)); /* with a window of its own */
    client_call *slow = watch("", 0), *fast = start_on(other, "", "", "x", 0);
    expect_mark(fast, 0);
    write_megabytes(6);
    uint64_t newest = fixture_put("x", "1");
    cr_assert_str_eq(told_until(fast, newest), "x=1 ");
    write_megabytes(30);
    newest = fixture_put("x", "2");
    cr_assert_str_eq(told_until(fast, newest), "x=2 ");
    uint64_t lsn = 0;
    for (Varve__V1__WatchResponse *r; (r = next(slow)) != NULL;) {
        for (size_t i = 0; i < r->n_events; i++)
            cr_assert_eq(r->events[i]->lsn, ++lsn, "nothing is skipped");
        cr_assert_eq(r->lsn, lsn);
        varve__v1__watch_response__free_unpacked(r, NULL);
        if (lsn == newest)
            break;
    }
    cr_assert_lt(lsn, newest, "the network has taken 36 MB");
    expect_trimmed(slow, lsn + 1);
    end(fast);
    client_destroy(other);
}

Test(watch, what_is_written_as_a_watch_turns_idle_is_not_overlooked) {
    fx.config.watch_progress_interval_us = 60000000; /* nothing but the write can wake it */
    fixture_start();
    engine_tap_write_at_end("late"); /* between the worker's look at the log and its rest */
    client_call *call = watch("", 0);
    expect_mark(call, 0);
    cr_assert_str_eq(told_until(call, 1), "late=late ");
    engine_tap_write_at_end("later"); /* the same while a message is under way */
    fixture_put("k", "v");
    cr_assert_str_eq(told_until(call, 3), "k=v later=later ");
    end(call);
}

Test(watch, many_watches_all_see_everything) {
    enum { WATCHES = 200, PUTS = 100 };
    fixture_start();
    client_call *calls[WATCHES];
    for (int i = 0; i < WATCHES; i++)
        calls[i] = watch("", 1);
    for (int i = 0; i < WATCHES; i++)
        expect_mark(calls[i], 0);
    for (int i = 0; i < PUTS; i++)
        fixture_put("k", "v");
    for (int i = 0; i < WATCHES; i++)
        cr_assert_eq(strlen(told_until(calls[i], PUTS)), PUTS * strlen("k=v "));
    for (int i = 0; i < WATCHES; i++)
        end(calls[i]);
}

Test(watch, watches_are_cancelled_wherever_they_are) {
    fixture_start();
    for (int round = 0; round < 10; round++) {
        client_call *calls[40];
        for (int i = 0; i < 40; i++) {
            calls[i] = watch(i % 3 ? "" : "nothing", i % 2);
            if (i % 4 == 0)
                client_cancel(calls[i]);
        }
        fixture_write_batch("k", 10, 20000);
        for (int i = 0; i < 40; i++)
            end(calls[i]);
    }
}

Test(watch, a_deadline_ends_a_watch) {
    fixture_start();
    Varve__V1__WatchRequest request = VARVE__V1__WATCH_REQUEST__INIT;
    client_call *call = client_start(fx.client, "/varve.v1.Watch/Watch", 100);
    client_send(call, client_pack(&request));
    client_half_close(call);
    for (Varve__V1__WatchResponse *r; (r = next(call)) != NULL;)
        varve__v1__watch_response__free_unpacked(r, NULL);
    expect_end(call, GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
}

Test(watch, a_drain_ends_watches_that_wait_and_those_that_write) {
    fixture_start();
    client *other = client_create(vv_server_address(fx.server, 0));
    client_call *idle = watch("", 0), *busy = start_on(other, "", "", "", 0);
    expect_mark(idle, 0);
    write_megabytes(3);
    Varve__V1__WatchResponse *r;
    while ((r = next(idle)) != NULL && r->lsn < 300)
        varve__v1__watch_response__free_unpacked(r, NULL);
    varve__v1__watch_response__free_unpacked(r, NULL);
    fixture_drain_begin();
    for (; (r = next(idle)) != NULL; varve__v1__watch_response__free_unpacked(r, NULL))
        cr_assert_eq(r->n_events, 0, "a mark that was due");
    expect_end(idle, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    while ((r = next(busy)) != NULL)
        varve__v1__watch_response__free_unpacked(r, NULL);
    expect_end(busy, GRPC_STATUS_UNAVAILABLE,
               NULL); /* the connection may be gone before the reason is read */
    fixture_drain_end();
    client_destroy(other);
}

Test(watch, entries_that_expire_are_told_with_their_time_and_not_after_it) {
    fixture_start();
    client_call *call = watch("", 0);
    expect_mark(call, 0);
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    request.key = BYTES("k");
    request.value = BYTES("v");
    request.ttl_ms = 3600000;
    expect_end(client_start_unary(fx.client, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS),
               GRPC_STATUS_OK, NULL);
    Varve__V1__WatchResponse *r = next(call);
    cr_assert_eq(r->n_events, 1);
    cr_assert(r->events[0]->expires_unix_ms > vv_clock_unix_ms() + 3500000 &&
              r->events[0]->expires_unix_ms <= vv_clock_unix_ms() + 3600000);
    varve__v1__watch_response__free_unpacked(r, NULL);
    end(call);
    request.ttl_ms = 1;
    expect_end(client_start_unary(fx.client, "/varve.v1.KV/Put", client_pack(&request), CLIENT_DEADLINE_MS),
               GRPC_STATUS_OK, NULL);
    while (get("k")) /* until it has expired */
        continue;
    call = watch("", 2);
    cr_assert_str_eq(told_until(call, 2), "k- ");
    end(call);
}
