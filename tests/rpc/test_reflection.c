#include <stdio.h>
#include <string.h>

#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "tests/rpc/server_fixture.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

TestSuite(reflection, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

#define CASE(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name

static const char *const versions[] = {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                       "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};

static client_call *open_stream(const char *path) {
    return client_start(fx.client, path, CLIENT_DEADLINE_MS);
}

static reflection_response *ask(client_call *call, int what, const char *argument) {
    reflection_request request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    request.message_request_case = (Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase)what;
    request.list_services = (char *)(uintptr_t)argument; /* one of the union's strings */
    client_send(call, client_pack(&request));
    vv_slice message;
    cr_assert(client_read(call, &message), "no answer");
    reflection_response *response =
        grpc__reflection__v1__server_reflection_response__unpack(NULL, message.bytes, message.data);
    cr_assert_not_null(response);
    return response;
}

static void release(reflection_response *response) {
    grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
}

/* The first file of the answer, which also has `imports` more. */
static void expect_file(client_call *call, int what, const char *argument, const char *name, size_t imports) {
    reflection_response *response = ask(call, what, argument);
    cr_assert_not_null(response->original_request);
    cr_assert_str_eq(response->original_request->list_services, argument);
    cr_assert_eq(response->message_response_case,
                 GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE,
                 "%s", argument);
    Grpc__Reflection__V1__FileDescriptorResponse *files = response->file_descriptor_response;
    cr_assert_eq(files->n_file_descriptor_proto, imports + 1);
    for (size_t i = 0; i < files->n_file_descriptor_proto; i++) {
        Google__Protobuf__FileDescriptorProto *file = google__protobuf__file_descriptor_proto__unpack(
            NULL, files->file_descriptor_proto[i].len, files->file_descriptor_proto[i].data);
        cr_assert_not_null(file);
        if (i == 0)
            cr_assert_str_eq(file->name, name);
        google__protobuf__file_descriptor_proto__free_unpacked(file, NULL);
    }
    release(response);
}

static void expect_not_found(client_call *call, int what, const char *argument) {
    reflection_response *response = ask(call, what, argument);
    cr_assert_eq(response->message_response_case,
                 GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE, "%s",
                 argument);
    cr_assert_eq(response->error_response->error_code, GRPC_STATUS_NOT_FOUND);
    release(response);
}

Test(reflection, both_versions_list_what_is_served) {
    fixture_start();
    for (int v = 0; v < 2; v++) {
        client_call *call = open_stream(versions[v]);
        reflection_response *response = ask(call, CASE(LIST_SERVICES), "*");
        Grpc__Reflection__V1__ListServiceResponse *list = response->list_services_response;
        static const char *const names[] = {"varve.v1.KV",
                                            "varve.v1.Watch",
                                            "varve.v1.Snapshots",
                                            "varve.v1.Replication",
                                            "varve.v1.Admin",
                                            "grpc.health.v1.Health",
                                            "grpc.reflection.v1.ServerReflection",
                                            "grpc.reflection.v1alpha.ServerReflection"};
        cr_assert_eq(list->n_service, sizeof names / sizeof names[0]);
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            cr_assert_str_eq(list->service[i]->name, names[i]);
        release(response);
        client_half_close(call);
        expect_end(call, GRPC_STATUS_OK, NULL);
    }
}

Test(reflection, one_stream_answers_many_questions) {
    fixture_start();
    for (int v = 0; v < 2; v++) {
        client_call *call = open_stream(versions[v]);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "varve.v1.KV", "varve/v1/kv.proto", 2);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "varve.v1.KV.Get", "varve/v1/kv.proto", 2);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "varve.v1.PutRequest", "varve/v1/kv.proto", 2);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "varve.v1.PutRequest.key", "varve/v1/kv.proto", 2);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "varve.v1.Durability", "varve/v1/kv.proto", 2);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "grpc.health.v1.HealthCheckResponse.ServingStatus",
                    "grpc/health/v1/health.proto", 0);
        expect_file(call, CASE(FILE_CONTAINING_SYMBOL), "google.rpc.ErrorInfo",
                    "google/rpc/error_details.proto", 1);
        expect_file(call, CASE(FILE_BY_FILENAME), "google/rpc/status.proto", "google/rpc/status.proto", 1);
        expect_file(call, CASE(FILE_BY_FILENAME), "google/protobuf/any.proto", "google/protobuf/any.proto",
                    0);
        static const char *const unknown[] = {"",
                                              "varve",
                                              "varve.v1",
                                              "varve.v1.",
                                              "varve.v1.K",
                                              "varve.v1.KVs",
                                              "varve.v1.KV.Gets",
                                              "varve.v1.KV.Get.x",
                                              ".varve.v1.KV"};
        for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
            expect_not_found(call, CASE(FILE_CONTAINING_SYMBOL), unknown[i]);
        expect_not_found(call, CASE(FILE_BY_FILENAME), "kv.proto");
        expect_not_found(call, CASE(ALL_EXTENSION_NUMBERS_OF_TYPE), "varve.v1.PutRequest");
        client_half_close(call);
        expect_end(call, GRPC_STATUS_OK, NULL);
    }
}

Test(reflection, malformed_questions_end_the_stream) {
    fixture_start();
    client_call *call = open_stream(versions[0]);
    client_send(call, vv_slice_make("\x3a\x7f", 2));
    expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "MALFORMED");
}

Test(reflection, an_idle_stream_does_not_hold_a_drain) {
    fx.config.drain_timeout_us = UINT64_C(3600000000);
    fixture_start();
    client_call *call = open_stream(versions[0]);
    release(ask(call, CASE(LIST_SERVICES), ""));
    fixture_drain_begin();
    vv_slice message;
    cr_assert_not(client_read(call, &message));
    client_call_destroy(call);
    fixture_drain_end();
}

Test(reflection, streams_may_be_cancelled_at_any_point) {
    fixture_start();
    for (int i = 0; i < 100; i++) {
        client_call *call = open_stream(versions[i % 2]);
        if (i % 3 == 1)
            release(ask(call, CASE(LIST_SERVICES), ""));
        client_cancel(call);
        expect_end(call, GRPC_STATUS_CANCELLED, NULL);
    }
}
