#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"

#define PATH "/varve.v1.KV/Pipeline"

TestSuite(pipeline, .init = fixture_init, .fini = fixture_fini, .timeout = 240);

/* ---- a client of one stream ---- */

typedef enum kind { PUT, DELETE, GET } kind;

typedef struct item {
    kind kind;
    char key[16];
    char value[32];
} item;

static client_call *stream;

static void open_stream(void) {
    fixture_start();
    stream = client_start(fx.client, PATH, CLIENT_DEADLINE_MS);
}

static void close_stream(grpc_status_code code, const char *reason) {
    expect_end(stream, code, reason);
}

static void fill_op(const item *from, Varve__V1__Op *op, Varve__V1__PutOp *put, Varve__V1__DeleteOp *delete,
                    Varve__V1__GetOp *get_op) {
    varve__v1__op__init(op);
    if (from->kind == PUT) {
        varve__v1__put_op__init(put);
        put->key = BYTES(from->key);
        put->value = BYTES(from->value);
        op->op_case = VARVE__V1__OP__OP_PUT;
        op->put = put;
    } else if (from->kind == DELETE) {
        varve__v1__delete_op__init(delete);
        delete->key = BYTES(from->key);
        op->op_case = VARVE__V1__OP__OP_DELETE;
        op->delete_ = delete;
    } else {
        varve__v1__get_op__init(get_op);
        get_op->key = BYTES(from->key);
        op->op_case = VARVE__V1__OP__OP_GET;
        op->get = get_op;
    }
}

/* One operation in a message of its own. */
static void send_one(uint64_t id, kind k, const char *key, const char *value) {
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__Op op;
    Varve__V1__PutOp put;
    Varve__V1__DeleteOp delete;
    Varve__V1__GetOp get_op;
    item i = {.kind = k};
    snprintf(i.key, sizeof i.key, "%s", key);
    snprintf(i.value, sizeof i.value, "%s", value ? value : "");
    fill_op(&i, &op, &put, &delete, &get_op);
    request.id = id;
    request.op = &op;
    client_send(stream, client_pack(&request));
}

/* Many in one message, with ids from first_id on. */
static void send_many(uint64_t first_id, const item *items, size_t count) {
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__PipelineItem *list = calloc(count, sizeof *list), **more = calloc(count, sizeof(void *));
    Varve__V1__Op *ops = calloc(count, sizeof *ops);
    Varve__V1__PutOp *puts = calloc(count, sizeof *puts);
    Varve__V1__DeleteOp *deletes = calloc(count, sizeof *deletes);
    Varve__V1__GetOp *gets = calloc(count, sizeof *gets);
    for (size_t i = 0; i < count; i++) {
        varve__v1__pipeline_item__init(&list[i]);
        fill_op(&items[i], &ops[i], &puts[i], &deletes[i], &gets[i]);
        list[i].id = first_id + i;
        list[i].op = &ops[i];
        more[i] = &list[i];
    }
    request.more = more;
    request.n_more = count;
    client_send(stream, client_pack(&request));
    free(list);
    free(more);
    free(ops);
    free(puts);
    free(deletes);
    free(gets);
}

/* Called for each answer of a message. */
typedef void (*answer_fn)(uint64_t id, const Varve__V1__PipelineResult *result);

static size_t read_answers(answer_fn fn) {
    vv_slice bytes;
    cr_assert(client_read(stream, &bytes), "the stream has ended");
    Varve__V1__PipelineResponse *response =
        varve__v1__pipeline_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(response);
    size_t count = response->n_more;
    for (size_t i = 0; i < count; i++)
        fn(response->more[i]->id, response->more[i]->result);
    if (response->result) {
        fn(response->id, response->result);
        count++;
    }
    varve__v1__pipeline_response__free_unpacked(response, NULL);
    return count;
}

/* The last answer, in words: "found V", "missing", "written", "error REASON". */
static struct {
    uint64_t id, lsn;
    char words[600];
} last;

static void remember(uint64_t id, const Varve__V1__PipelineResult *r) {
    last.id = id;
    last.lsn = 0;
    if (r->result_case == VARVE__V1__PIPELINE_RESULT__RESULT_GET) {
        if (r->get->found)
            snprintf(last.words, sizeof last.words, "found %.*s", (int)r->get->value.len,
                     (char *)r->get->value.data);
        else
            strcpy(last.words, "missing");
        last.lsn = r->get->lsn;
    } else if (r->result_case == VARVE__V1__PIPELINE_RESULT__RESULT_WRITE) {
        strcpy(last.words, r->write->applied ? "written" : "not applied");
        last.lsn = r->write->lsn;
    } else {
        cr_assert_eq(r->result_case, VARVE__V1__PIPELINE_RESULT__RESULT_ERROR);
        snprintf(last.words, sizeof last.words, "error %d %s", (int)r->error->code, r->error->message);
    }
}

static void expect_answer(uint64_t id, const char *words) {
    cr_assert_eq(read_answers(remember), 1);
    cr_assert_eq(last.id, id, "id %llu, not %llu", (unsigned long long)last.id, (unsigned long long)id);
    cr_assert_eq(strncmp(last.words, words, strlen(words)), 0, "%s, not %s", last.words, words);
}

/* ---- what it does ---- */

Test(pipeline, each_operation_is_answered_by_its_id) {
    open_stream();
    send_one(7, PUT, "a", "1");
    expect_answer(7, "written");
    cr_assert_eq(last.lsn, 1);
    send_one(8, GET, "a", NULL);
    expect_answer(8, "found 1");
    cr_assert_eq(last.lsn, 1);
    send_one(UINT64_MAX, DELETE, "a", NULL);
    expect_answer(UINT64_MAX, "written");
    send_one(0, GET, "a", NULL);
    expect_answer(0, "missing");
    send_one(10, PUT, "empty", "");
    expect_answer(10, "written");
    send_one(11, GET, "empty", NULL);
    expect_answer(11, "found ");
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

Test(pipeline, an_operation_that_is_refused_leaves_the_stream_and_the_others_alone) {
    cr_assert(varve_ok(varve_options_set(fx.engine, "MAX_VALUE_SIZE", "10", NULL)));
    open_stream();
    item items[] = {{PUT, "a", "1"}, {PUT, "", "2"},  {PUT, "b", "longer than ten"},
                    {GET, "", ""},   {PUT, "c", "3"}, {GET, "c", ""}};
    send_many(100, items, VV_ARRAY_COUNT(items));
    static const char *const expected[] = {"written", "error 3", "error 3", "error 3", "written", "found 3"};
    static char seen[VV_ARRAY_COUNT(expected)];
    for (size_t answered = 0; answered < VV_ARRAY_COUNT(expected);) {
        vv_slice bytes;
        cr_assert(client_read(stream, &bytes));
        Varve__V1__PipelineResponse *r = varve__v1__pipeline_response__unpack(NULL, bytes.bytes, bytes.data);
        cr_assert_null(r->result, "packed answers are all in `more`");
        for (size_t i = 0; i < r->n_more; i++, answered++) {
            remember(r->more[i]->id, r->more[i]->result);
            size_t index = last.id - 100;
            cr_assert_lt(index, VV_ARRAY_COUNT(expected));
            cr_assert_not(seen[index]++);
            cr_assert_eq(strncmp(last.words, expected[index], strlen(expected[index])), 0, "%zu: %s", index,
                         last.words);
        }
        varve__v1__pipeline_response__free_unpacked(r, NULL);
    }

    Varve__V1__PipelineRequest odd = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__Op nothing = VARVE__V1__OP__INIT;
    odd.id = 1;
    client_send(stream, client_pack(&odd));
    expect_answer(1, "error 3 the operation is neither");
    odd.op = &nothing;
    client_send(stream, client_pack(&odd));
    expect_answer(1, "error 3 the operation is neither");
    odd.durability = (Varve__V1__Durability)7;
    client_send(stream, client_pack(&odd));
    expect_answer(1, "error 3 durability");
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

Test(pipeline, a_malformed_message_ends_the_stream) {
    open_stream();
    send_one(1, PUT, "a", "1");
    expect_answer(1, "written");
    client_send(stream, vv_slice_make("\x12\x7f", 2));
    close_stream(GRPC_STATUS_INVALID_ARGUMENT, "MALFORMED");
}

Test(pipeline, too_many_operations_in_a_message_are_refused) {
    open_stream();
    size_t bytes = 2 * 65537;
    char *message = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 2)
        memcpy(message + i, "\x32", 2); /* an empty `more` */
    client_send(stream, vv_slice_make(message, bytes));
    close_stream(GRPC_STATUS_INVALID_ARGUMENT, "TOO_MANY_OPS");
    free(message);
}

/* ---- order ---- */

#define KEYS   40
#define ROUNDS 300
#define ITEMS  (ROUNDS * 200)
#define WINDOW 3000

static item *model_items;
static char (*model_values)[32]; /* what a get must find; "" is missing */
static bool *model_answered;
static uint64_t key_lsn[KEYS];

static void check_model(uint64_t id, const Varve__V1__PipelineResult *r) {
    cr_assert_lt(id, ITEMS);
    cr_assert_not(model_answered[id], "answered twice");
    model_answered[id] = true;
    remember(id, r);
    char expected[64];
    if (model_items[id].kind != GET)
        strcpy(expected, "written");
    else if (model_values[id][0])
        snprintf(expected, sizeof expected, "found %s", model_values[id]);
    else
        strcpy(expected, "missing");
    cr_assert_str_eq(last.words, expected, "operation %llu on key %s", (unsigned long long)id,
                     model_items[id].key);
    if (model_items[id].kind != GET) { /* writes of a key are acknowledged in their order */
        int key = atoi(model_items[id].key);
        cr_assert_gt(last.lsn, key_lsn[key]);
        key_lsn[key] = last.lsn;
    }
}

/* Random operations on few keys; every get must find what the operations before it have left. */
static void run_model(bool packed) {
    uint64_t random = vv_test_seed() | 1;
    model_items = calloc(ITEMS, sizeof *model_items);
    model_values = calloc(ITEMS, sizeof *model_values);
    model_answered = calloc(ITEMS, sizeof *model_answered);
    char current[KEYS][32] = {{0}};
    size_t sent = 0, answered = 0;
    open_stream();
    for (int round = 0; round < ROUNDS && sent < ITEMS; round++) {
        size_t count = packed ? 1 + vv_test_random(&random) % 200 : 1 + vv_test_random(&random) % 10;
        for (size_t i = sent; i < sent + count; i++) {
            int key = (int)(vv_test_random(&random) % KEYS);
            item *it = &model_items[i];
            uint64_t dice = vv_test_random(&random) % 10;
            it->kind = dice < 4 ? PUT : dice < 5 ? DELETE : GET;
            snprintf(it->key, sizeof it->key, "%d", key);
            snprintf(it->value, sizeof it->value, "value %zu", i);
            if (it->kind == PUT)
                strcpy(current[key], it->value);
            else if (it->kind == DELETE)
                current[key][0] = '\0';
            else
                strcpy(model_values[i], current[key]);
        }
        if (packed)
            send_many(sent, &model_items[sent], count);
        else
            for (size_t i = sent; i < sent + count; i++)
                send_one(i, model_items[i].kind, model_items[i].key, model_items[i].value);
        sent += count;
        while (sent - answered > WINDOW)
            answered += read_answers(check_model);
    }
    client_half_close(stream);
    while (answered < sent)
        answered += read_answers(check_model);
    close_stream(GRPC_STATUS_OK, NULL);
    free(model_items);
    free(model_values);
    free(model_answered);
}

Test(pipeline, a_get_finds_what_the_operations_before_it_left) {
    run_model(true);
}

Test(pipeline, and_so_it_does_with_one_operation_a_message) {
    run_model(false);
}

Test(pipeline, others_are_answered_while_a_write_waits_for_its_commit) {
    fixture_start();
    client_call_destroy(call_put("other", "old"));
    stream = client_start(fx.client, PATH, CLIENT_DEADLINE_MS);
    engine_tap_hold(true);
    send_one(1, PUT, "key", "new");
    send_one(2, GET, "key", NULL);
    send_one(3, DELETE, "key", NULL);
    send_one(4, GET, "key", NULL);
    send_one(5, GET, "other", NULL);
    expect_answer(5, "found old");
    engine_tap_wait_queued(2);
    engine_tap_hold(false);
    bool seen[5] = {false};
    static const char *const expected[] = {"", "written", "found new", "written", "missing"};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(read_answers(remember), 1);
        cr_assert(last.id >= 1 && last.id <= 4 && !seen[last.id]);
        seen[last.id] = true;
        cr_assert_str_eq(last.words, expected[last.id], "%d", (int)last.id);
    }
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

/* ---- bounds ---- */

Test(pipeline, operations_in_flight_are_bounded) {
    fx.config.pipeline_ops_max = 4;
    fx.config.rpc_threads = 1;
    open_stream();
    engine_tap_hold(true);
    for (uint64_t i = 0; i < 12; i++)
        send_one(i, PUT, "key", "value");
    engine_tap_wait_queued(4);
    for (int i = 0; i < 20; i++) /* the same thread has had time enough to start more */
        cr_assert_null(get("key"));
    cr_assert_eq(engine_tap_queued(), 4);
    engine_tap_hold(false);
    for (uint64_t i = 0; i < 12; i++)
        expect_answer(i, "written");
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

static size_t resident_kib(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %zu", &kib) == 1)
            break;
    fclose(f);
    return kib;
}

Test(pipeline, a_client_that_does_not_read_costs_bounded_memory) {
    enum { VALUE_BYTES = 256 << 10, GETS = 2000 };
    fixture_start();
    char *value = malloc(VALUE_BYTES + 1);
    memset(value, 'v', VALUE_BYTES);
    value[VALUE_BYTES] = '\0';
    client_call_destroy(call_put("large", value));
    stream = client_start(fx.client, PATH, 10 * CLIENT_DEADLINE_MS);
    size_t before_kib = resident_kib();
    item *items = calloc(GETS, sizeof *items);
    for (size_t i = 0; i < GETS; i++)
        items[i] = (item){.kind = GET, .key = "large"};
    send_many(0, items, GETS);
    for (int i = 0; i < 200; i++) /* the server has started all that it wants to */
        client_call_destroy(call_get("small"));
    size_t grown_kib = resident_kib() - VV_MIN(before_kib, resident_kib());
    cr_assert_lt(grown_kib, (size_t)128 << 10, "%zu KiB of %d", grown_kib, GETS * (VALUE_BYTES >> 10));
    client_half_close(stream);
    size_t answered = 0;
    while (answered < GETS)
        answered += read_answers(remember);
    cr_assert_eq(strlen(last.words), sizeof last.words - 1);
    close_stream(GRPC_STATUS_OK, NULL);
    free(items);
    free(value);
}

/* ---- ends ---- */

Test(pipeline, a_write_whose_client_left_is_completed) {
    open_stream();
    engine_tap_hold(true);
    send_one(1, PUT, "key", "value");
    send_one(2, GET, "key", NULL);
    engine_tap_wait_queued(1);
    client_cancel(stream);
    close_stream(GRPC_STATUS_CANCELLED, NULL);
    engine_tap_hold(false);
    const char *value;
    do
        value = get("key");
    while (!value);
    cr_assert_str_eq(value, "value");
}

Test(pipeline, a_drain_answers_what_was_started) {
    open_stream();
    send_one(1, PUT, "a", "1");
    expect_answer(1, "written");
    engine_tap_hold(true);
    send_one(2, PUT, "key", "value");
    engine_tap_wait_queued(1);
    fixture_drain_begin();
    engine_tap_hold(false);
    expect_answer(2, "written");
    close_stream(GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
}

Test(pipeline, an_idle_stream_does_not_hold_up_a_drain) {
    open_stream();
    send_one(1, PUT, "a", "1");
    expect_answer(1, "written");
    fixture_drain_begin();
    close_stream(GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
}

Test(pipeline, a_failed_write_fails_the_gets_that_follow_it) {
    open_stream();
    send_one(1, PUT, "key", "old");
    expect_answer(1, "written");
    engine_tap_hold(true);
    engine_tap_fail_writes((varve_status){.code = VARVE_NO_SPACE, .sys = 28});
    send_one(2, PUT, "key", "new");
    send_one(3, GET, "key", NULL);
    engine_tap_wait_queued(1);
    send_one(4, GET, "other", NULL);
    expect_answer(4, "missing");
    engine_tap_hold(false);
    expect_answer(2, "error 8 no space left");
    expect_answer(3, "error 8 no space left");
    engine_tap_fail_writes((varve_status){0});
    send_one(5, GET, "key", NULL);
    expect_answer(5, "found old");
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

Test(pipeline, entries_with_a_ttl_expire) {
    open_stream();
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__PutOp put = VARVE__V1__PUT_OP__INIT;
    Varve__V1__Op op = VARVE__V1__OP__INIT;
    put.key = BYTES("key");
    put.value = BYTES("value");
    put.ttl_ms = 1;
    op.op_case = VARVE__V1__OP__OP_PUT;
    op.put = &put;
    request.id = 1;
    request.op = &op;
    client_send(stream, client_pack(&request));
    expect_answer(1, "written");
    for (uint64_t id = 2;; id++) {
        send_one(id, GET, "key", NULL);
        cr_assert_eq(read_answers(remember), 1);
        if (strcmp(last.words, "missing") == 0)
            break;
    }
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

/* A message of three writes, two of which carry a sequence. */
static void send_sequenced(uint64_t first_id) {
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__PipelineItem list[3], *more[3] = {&list[0], &list[1], &list[2]};
    Varve__V1__Op op = VARVE__V1__OP__INIT;
    Varve__V1__PutOp put = VARVE__V1__PUT_OP__INIT;
    put.key = BYTES("key");
    put.value = BYTES("value");
    op.op_case = VARVE__V1__OP__OP_PUT;
    op.put = &put;
    for (size_t i = 0; i < 3; i++) {
        varve__v1__pipeline_item__init(&list[i]);
        list[i].id = first_id + i;
        list[i].op = &op;
        list[i].sequence = i == 1 ? 0 : i + 1;
    }
    request.client_id = 99;
    request.more = more;
    request.n_more = 3;
    client_send(stream, client_pack(&request));
}

static uint64_t sequenced_lsn[6];

static void note_lsn(uint64_t id, const Varve__V1__PipelineResult *r) {
    remember(id, r);
    cr_assert_str_eq(last.words, "written");
    cr_assert_lt(id, 6);
    sequenced_lsn[id] = last.lsn;
}

Test(pipeline, a_write_that_comes_again_is_applied_once) {
    open_stream();
    for (uint64_t round = 0; round < 2; round++) {
        send_sequenced(3 * round);
        for (size_t answered = 0; answered < 3;)
            answered += read_answers(note_lsn);
    }
    static const uint64_t expected[6] = {1, 2, 3, 1, 4, 3};
    cr_assert_arr_eq(sequenced_lsn, expected, sizeof expected);
    client_half_close(stream);
    close_stream(GRPC_STATUS_OK, NULL);
}

Test(pipeline, idle_streams_cost_little) {
    enum { STREAMS = 300, ITEM_COUNT = 500 };
    static client_call *streams[STREAMS];
    fixture_start();
    client_call_destroy(call_put("key", "value"));
    item *items = calloc(ITEM_COUNT, sizeof *items);
    for (size_t i = 0; i < ITEM_COUNT; i++)
        items[i] = (item){.kind = PUT, .key = "key", .value = "a value of some bytes"};
    size_t before_kib = resident_kib();
    for (size_t i = 0; i < STREAMS; i++) {
        streams[i] = stream = client_start(fx.client, PATH, 10 * CLIENT_DEADLINE_MS);
        send_many(0, items, ITEM_COUNT);
        for (size_t answered = 0; answered < ITEM_COUNT;)
            answered += read_answers(remember);
    }
    free(items);
    size_t grown_kib = resident_kib() - VV_MIN(before_kib, resident_kib());
#if !defined(VV_ASAN) && !defined(VV_TSAN)                                /* both keep what is freed */
    cr_assert_lt(grown_kib, STREAMS * (size_t)135, "%zu KiB", grown_kib); /* the memtable has half of it */
#endif
    (void)grown_kib;
    for (size_t i = 0; i < STREAMS; i++) {
        stream = streams[i];
        client_half_close(stream);
        close_stream(GRPC_STATUS_OK, NULL);
    }
}
