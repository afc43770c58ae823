/*
 * service_reflection.c - grpc.reflection.v1 and v1alpha: the schema for clients that have no .proto.
 *
 * The two versions differ in their package name alone, so one implementation on the messages of v1 answers
 * both. The descriptors come from proto/, embedded as one FileDescriptorSet, and are indexed once.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/descriptors.h"
#include "rpc/codec.h"
#include "rpc/service.h"
#include "rpc/status_map.h"

#define SERVICES_MAX   32
#define NAME_BYTES_MAX 256

typedef Google__Protobuf__FileDescriptorSet descriptor_set;
typedef Google__Protobuf__FileDescriptorProto file_descriptor;
typedef Google__Protobuf__DescriptorProto message_descriptor;
typedef Google__Protobuf__ServiceDescriptorProto service_descriptor;
typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

struct vv_reflection {
    descriptor_set *set;
    vv_slice *file_bytes; /* serialized, one for each file of the set; in the embedded array */
    char service_names[SERVICES_MAX][NAME_BYTES_MAX];
    size_t service_count;
};

/* ---- the index ---- */

/* If `name` is "<scope><element>": 0 bytes are left of it; if it goes on with '.': the rest. Else NULL. */
static const char *match(const char *name, const char *element) {
    size_t bytes = strlen(element);
    if (bytes == 0 || strncmp(name, element, bytes) != 0)
        return NULL;
    if (name[bytes] == '\0')
        return name + bytes;
    return name[bytes] == '.' ? name + bytes + 1 : NULL;
}

/* Is `rest` (a name below the message's scope) the message, its field, or something nested in it? The schema
 * is ours: its nesting is two or three deep. */
static bool in_message(const message_descriptor *m, const char *rest) {
    const char *below = match(rest, m->name);
    if (!below)
        return false;
    if (*below == '\0')
        return true;
    for (size_t i = 0; i < m->n_field; i++)
        if (strcmp(below, m->field[i]->name) == 0)
            return true;
    for (size_t i = 0; i < m->n_enum_type; i++)
        if (strcmp(below, m->enum_type[i]->name) == 0)
            return true;
    for (size_t i = 0; i < m->n_nested_type; i++)
        if (in_message(m->nested_type[i], below))
            return true;
    return false;
}

static bool in_service(const service_descriptor *s, const char *rest) {
    const char *below = match(rest, s->name);
    if (!below)
        return false;
    if (*below == '\0')
        return true;
    for (size_t i = 0; i < s->n_method; i++)
        if (strcmp(below, s->method[i]->name) == 0)
            return true;
    return false;
}

static bool file_defines(const file_descriptor *file, const char *symbol) {
    const char *rest = symbol;
    if (file->package && *file->package)
        rest = match(symbol, file->package);
    if (!rest || *rest == '\0')
        return false;
    for (size_t i = 0; i < file->n_message_type; i++)
        if (in_message(file->message_type[i], rest))
            return true;
    for (size_t i = 0; i < file->n_service; i++)
        if (in_service(file->service[i], rest))
            return true;
    for (size_t i = 0; i < file->n_enum_type; i++)
        if (strcmp(rest, file->enum_type[i]->name) == 0)
            return true;
    return false;
}

static size_t find_file(const vv_reflection *r, const char *name) {
    for (size_t i = 0; i < r->set->n_file; i++)
        if (strcmp(r->set->file[i]->name, name) == 0)
            return i;
    return r->set->n_file;
}

static size_t find_symbol(const vv_reflection *r, const char *symbol) {
    for (size_t i = 0; i < r->set->n_file; i++)
        if (file_defines(r->set->file[i], symbol))
            return i;
    return r->set->n_file;
}

/* ---- answers ---- */

/* The file and all that it imports, each once. */
static void add_with_imports(const vv_reflection *r, size_t file, bool *seen, ProtobufCBinaryData *list,
                             size_t *count) {
    if (file == r->set->n_file || seen[file])
        return;
    seen[file] = true;
    list[*count].data = (uint8_t *)(uintptr_t)r->file_bytes[file].data;
    list[*count].len = r->file_bytes[file].bytes;
    (*count)++;
    for (size_t i = 0; i < r->set->file[file]->n_dependency; i++)
        add_with_imports(r, find_file(r, r->set->file[file]->dependency[i]), seen, list, count);
}

/* Pack and write; the size is known only now, so it takes memory of its own. */
static void write_response(vv_rpc_call *call, reflection_response *response) {
    size_t bytes = grpc__reflection__v1__server_reflection_response__get_packed_size(response);
    uint8_t *buf = vv_alloc(bytes);
    if (!buf) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", 1000, "out of memory");
        return;
    }
    grpc__reflection__v1__server_reflection_response__pack(response, buf);
    vv_rpc_stream_write(call, vv_rpc_body_copy(buf, bytes));
    vv_free(buf);
}

static void answer_error(vv_rpc_call *call, reflection_response *response, vv_rpc_code code, char *message) {
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = (int32_t)code;
    error.error_message = message;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = &error;
    write_response(call, response);
}

static void answer_file(vv_rpc_call *call, reflection_response *response, size_t file) {
    const vv_reflection *r = call->service;
    static char not_found[] = "no such file or symbol";
    if (file == r->set->n_file) {
        answer_error(call, response, VV_RPC_NOT_FOUND, not_found);
        return;
    }
    bool *seen = vv_alloc_zeroed(r->set->n_file * sizeof *seen);
    ProtobufCBinaryData *list = vv_alloc(r->set->n_file * sizeof *list);
    if (seen && list) {
        Grpc__Reflection__V1__FileDescriptorResponse files =
            GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
        files.file_descriptor_proto = list;
        add_with_imports(r, file, seen, list, &files.n_file_descriptor_proto);
        response->message_response_case =
            GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
        response->file_descriptor_response = &files;
        write_response(call, response);
    } else {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", 1000, "out of memory");
    }
    vv_free(seen);
    vv_free(list);
}

static void answer_services(vv_rpc_call *call, reflection_response *response) {
    vv_reflection *r = call->service;
    Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX];
    Grpc__Reflection__V1__ServiceResponse *list[SERVICES_MAX];
    Grpc__Reflection__V1__ListServiceResponse all = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    for (size_t i = 0; i < r->service_count; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = r->service_names[i];
        list[i] = &services[i];
    }
    all.service = list;
    all.n_service = r->service_count;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &all;
    write_response(call, response);
}

static void on_message(vv_rpc_call *call, vv_slice bytes) {
    const vv_reflection *r = call->service;
    static char no_extensions[] = "this schema has no extensions";
    static char no_request[] = "the request asks for nothing that is known here";
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    reflection_request *request = (void *)vv_codec_request(
        call, &arena, &grpc__reflection__v1__server_reflection_request__descriptor, bytes);
    if (!request)
        goto out;
    reflection_response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    response.valid_host = request->host;
    response.original_request = request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(call, &response);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        answer_file(call, &response, find_file(r, request->file_by_filename));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_file(call, &response, find_symbol(r, request->file_containing_symbol));
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_error(call, &response, VV_RPC_NOT_FOUND, no_extensions);
        break;
    default: answer_error(call, &response, VV_RPC_INVALID_ARGUMENT, no_request); break;
    }
out:
    vv_codec_arena_deinit(&arena);
}

/* ---- the stream: a question, its answer, the next ---- */

static void on_call(vv_rpc_call *call, vv_slice nothing) {
    (void)nothing;
    vv_rpc_read_next(call);
}

static void on_cancelled(vv_rpc_call *call) {
    vv_rpc_fail_with(call, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled");
}

#define REFLECTION_METHOD(version)                                                                           \
    {                                                                                                        \
        .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo", .kind = VV_RPC_BIDI,   \
        .access = VV_RPC_OPEN, .on_call = on_call, .on_message = on_message, .on_written = vv_rpc_read_next, \
        .on_half_close = vv_rpc_finish, .on_cancelled = on_cancelled                                         \
    }

static const vv_rpc_method methods[] = {REFLECTION_METHOD("v1"), REFLECTION_METHOD("v1alpha")};

/* ---- creation ---- */

/* The serialized files inside the serialized set: each is field 1, and there is nothing else in a set. */
static bool split_files(vv_reflection *r) {
    const uint8_t *at = vv_proto_descriptors;
    const uint8_t *end = at + vv_proto_descriptors_bytes;
    for (size_t i = 0; i < r->set->n_file; i++) {
        size_t bytes = 0;
        unsigned shift = 0;
        if (at == end || *at++ != 0x0a)
            return false;
        do {
            if (at == end || shift > 28)
                return false;
            bytes |= (size_t)(*at & 0x7f) << shift;
            shift += 7;
        } while (*at++ & 0x80);
        if (bytes > (size_t)(end - at))
            return false;
        r->file_bytes[i] = vv_slice_make(at, bytes);
        at += bytes;
    }
    return at == end;
}

/* "/varve.v1.KV/Get" names the service varve.v1.KV. */
static void add_service(vv_reflection *r, const char *path) {
    size_t bytes = strcspn(path + 1, "/");
    for (size_t i = 0; i < r->service_count; i++)
        if (strlen(r->service_names[i]) == bytes && strncmp(r->service_names[i], path + 1, bytes) == 0)
            return;
    VV_ASSERT(r->service_count < SERVICES_MAX && bytes < NAME_BYTES_MAX);
    snprintf(r->service_names[r->service_count++], NAME_BYTES_MAX, "%.*s", (int)bytes, path + 1);
}

vv_status vv_reflection_create(const vv_rpc_service *served, size_t served_count, vv_reflection **out) {
    *out = NULL;
    vv_reflection *r = vv_alloc_zeroed(sizeof *r);
    if (!r)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    r->set =
        google__protobuf__file_descriptor_set__unpack(NULL, vv_proto_descriptors_bytes, vv_proto_descriptors);
    if (r->set)
        r->file_bytes = vv_alloc_zeroed(r->set->n_file * sizeof *r->file_bytes);
    if (!r->file_bytes) {
        vv_reflection_destroy(r);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    bool whole = split_files(r);
    VV_ASSERT(whole); /* the array is built into this program */
    for (size_t s = 0; s < served_count; s++)
        for (size_t m = 0; m < served[s].method_count; m++)
            add_service(r, served[s].methods[m].path);
    for (size_t m = 0; m < VV_ARRAY_COUNT(methods); m++)
        add_service(r, methods[m].path);
    *out = r;
    return VV_STATUS_OK;
}

void vv_reflection_destroy(vv_reflection *r) {
    if (!r)
        return;
    if (r->set)
        google__protobuf__file_descriptor_set__free_unpacked(r->set, NULL);
    vv_free(r->file_bytes);
    vv_free(r);
}

vv_rpc_service vv_reflection_service(vv_reflection *r) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = r};
}
