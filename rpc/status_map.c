#include "rpc/status_map.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

/* protobuf-c has no const in its messages, and does not write through these pointers when it packs. */
static char *unconst(const char *text) {
    return (char *)(uintptr_t)text;
}

static Google__Protobuf__Any any_of(const char *type_url, const ProtobufCMessage *message, uint8_t *buf,
                                    size_t buf_bytes) {
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
    any.type_url = unconst(type_url);
    any.value.data = buf;
    if (protobuf_c_message_get_packed_size(message) <= buf_bytes)
        any.value.len = protobuf_c_message_pack(message, buf);
    return any;
}

static void pack_details(vv_rpc_status *out, const char *reason, uint32_t retry_ms,
                         const vv_rpc_detail *pairs, size_t pair_count) {
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Rpc__ErrorInfo__MetadataEntry entries[VV_RPC_DETAILS_MAX], *entry_list[VV_RPC_DETAILS_MAX];
    uint8_t info_bytes[512];
    info.reason = unconst(reason);
    info.domain = unconst(VV_RPC_ERROR_DOMAIN);
    VV_ASSERT(pair_count <= VV_RPC_DETAILS_MAX);
    for (size_t i = 0; i < pair_count; i++) {
        google__rpc__error_info__metadata_entry__init(&entries[i]);
        entries[i].key = unconst(pairs[i].key);
        entries[i].value = unconst(pairs[i].value);
        entry_list[i] = &entries[i];
    }
    info.metadata = entry_list;
    info.n_metadata = pair_count;

    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;
    uint8_t retry_bytes[32];
    delay.seconds = retry_ms / 1000;
    delay.nanos = (int32_t)(retry_ms % 1000) * 1000000;
    retry.retry_delay = &delay;

    Google__Protobuf__Any details[2] = {
        any_of("type.googleapis.com/google.rpc.ErrorInfo", &info.base, info_bytes, sizeof info_bytes),
        any_of("type.googleapis.com/google.rpc.RetryInfo", &retry.base, retry_bytes, sizeof retry_bytes)};
    Google__Protobuf__Any *list[2] = {&details[0], &details[1]};

    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    status.code = (int32_t)out->code;
    status.message = out->message;
    status.details = list;
    status.n_details = retry_ms > 0 ? 2 : 1;
    out->details_bytes = 0;
    if (google__rpc__status__get_packed_size(&status) <= sizeof out->details)
        out->details_bytes = google__rpc__status__pack(&status, out->details);
}

static void VV_PRINTF(7, 0)
    status_set(vv_rpc_status *out, vv_rpc_code code, const char *reason, uint32_t retry_ms,
               const vv_rpc_detail *details, size_t count, const char *fmt, va_list args) {
    out->code = code;
    vsnprintf(out->message, sizeof out->message, fmt, args);
    /* The message may quote a client's bytes, and google.rpc.Status.message is UTF-8. */
    for (char *c = out->message; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    pack_details(out, reason, retry_ms, details, count);
}

void vv_rpc_status_set(vv_rpc_status *out, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                       const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    status_set(out, code, reason, retry_ms, NULL, 0, fmt, args);
    va_end(args);
}

void vv_rpc_status_set_details(vv_rpc_status *out, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                               const vv_rpc_detail *details, size_t count, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    status_set(out, code, reason, retry_ms, details, count, fmt, args);
    va_end(args);
}

void vv_rpc_status_precede(vv_rpc_status *st, const char *fmt, ...) {
    char message[sizeof st->message];
    va_list args;
    va_start(args, fmt);
    int bytes = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    size_t at = VV_MIN((size_t)bytes, sizeof message - 1);
    snprintf(message + at, sizeof message - at, "%s", st->message);
    memcpy(st->message, message, sizeof message);
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, st->details_bytes, st->details);
    if (!s)
        return;
    char *old = s->message;
    s->message = st->message;
    if (google__rpc__status__get_packed_size(s) <= sizeof st->details)
        st->details_bytes = google__rpc__status__pack(s, st->details);
    s->message = old;
    google__rpc__status__free_unpacked(s, NULL);
}

void vv_rpc_fail_with(vv_rpc_call *call, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                      const char *fmt, ...) {
    vv_rpc_status status;
    va_list args;
    va_start(args, fmt);
    status_set(&status, code, reason, retry_ms, NULL, 0, fmt, args);
    va_end(args);
    vv_rpc_fail(call, &status);
}

typedef struct mapping {
    vv_rpc_code code;
    uint32_t retry_ms;
    const char *reason; /* NULL: the engine's own reason, or the name of its code */
} mapping;

static const mapping mappings[] = {
    [VARVE_INVALID_ARGUMENT] = {VV_RPC_INVALID_ARGUMENT, 0, NULL},
    [VARVE_NOT_FOUND] = {VV_RPC_NOT_FOUND, 0, NULL},
    [VARVE_CORRUPTION] = {VV_RPC_DATA_LOSS, 0, NULL},
    [VARVE_IO] = {VV_RPC_INTERNAL, 0, NULL},
    [VARVE_NO_SPACE] = {VV_RPC_RESOURCE_EXHAUSTED, 10000, "NO_SPACE"},
    [VARVE_NO_MEMORY] = {VV_RPC_RESOURCE_EXHAUSTED, 1000, "NO_MEMORY"},
    [VARVE_BUSY] = {VV_RPC_RESOURCE_EXHAUSTED, 100, "WRITE_STALL"},
    [VARVE_TIMED_OUT] = {VV_RPC_DEADLINE_EXCEEDED, 0, NULL},
    /* Waiting does not help: the log stays latched until an operator has seen to the disk. */
    [VARVE_WAL_FAILED] = {VV_RPC_UNAVAILABLE, 0, "WAL_FAILED"},
    [VARVE_SHUTTING_DOWN] = {VV_RPC_UNAVAILABLE, 1000, "SHUTTING_DOWN"},
    [VARVE_UNSUPPORTED] = {VV_RPC_UNIMPLEMENTED, 0, NULL},
    [VARVE_LOCKED] = {VV_RPC_FAILED_PRECONDITION, 0, NULL},
    /* The server's permissions on its files, not the client's on the server. */
    [VARVE_PERMISSION] = {VV_RPC_INTERNAL, 0, NULL},
    [VARVE_EXISTS] = {VV_RPC_ALREADY_EXISTS, 0, NULL},
    [VARVE_TRIMMED] = {VV_RPC_OUT_OF_RANGE, 0, "LSN_TRIMMED"},
    [VARVE_END] = {VV_RPC_OUT_OF_RANGE, 0, NULL},
    [VARVE_CONDITION_FAILED] = {VV_RPC_FAILED_PRECONDITION, 0, NULL},
    [VARVE_INTERNAL] = {VV_RPC_INTERNAL, 0, NULL},
    /* Trying again is of no use: the server can no longer tell whether an earlier try was applied. */
    [VARVE_SEQUENCE_TOO_OLD] = {VV_RPC_FAILED_PRECONDITION, 0, NULL},
    [VARVE_NOT_CONFIRMED] = {VV_RPC_UNKNOWN, 0, NULL},
};

/* The gRPC code, the reason and when to come back. */
static mapping map(varve_status st) {
    mapping m = {VV_RPC_INTERNAL, 0, NULL};
    if (st.code != VARVE_OK && st.code < VV_ARRAY_COUNT(mappings))
        m = mappings[st.code];
    if (!m.reason)
        m.reason = st.reason != 0 ? varve_reason_name(st.reason) : varve_code_name(st.code);
    return m;
}

void vv_rpc_status_from_engine(vv_rpc_status *out, varve_status st) {
    vv_rpc_status_from_engine_words(out, st, "");
}

void vv_rpc_status_from_engine_words(vv_rpc_status *out, varve_status st, const char *words) {
    mapping m = map(st);
    if (*words) {
        vv_rpc_status_set(out, m.code, m.reason, m.retry_ms, "%s", words);
        return;
    }
    const char *text = varve_code_text(st.code);
    const char *finer = st.reason != 0 ? varve_reason_text(st.reason) : "";
    char system[64] = "";
    if (st.sys != 0)
        snprintf(system, sizeof system, " (%s)", strerrordesc_np(st.sys));
    vv_rpc_status_set(out, m.code, m.reason, m.retry_ms, "%s%s%s%s", text, *finer ? ": " : "", finer, system);
}

/* text: of at least max + 1 bytes. */
static void key_text(const void *key, size_t key_bytes, char *text, size_t max) {
    static const char cut[] = "...";
    const uint8_t *bytes = key;
    size_t at = 0, whole = 0; /* whole: where the text may be cut, with room for `cut` */
    for (size_t i = 0; i < key_bytes; i++) {
        bool plain = bytes[i] > ' ' && bytes[i] <= '~' && !strchr("\\\"'#", bytes[i]);
        if (at + (plain ? 1 : 4) > max) {
            memcpy(text + whole, cut, sizeof cut);
            return;
        }
        at += (size_t)sprintf(text + at, plain ? "%c" : "\\x%02x", bytes[i]);
        if (at + sizeof cut - 1 <= max)
            whole = at;
    }
    text[at] = '\0';
}

/* Both in a message of 256 bytes, with the words around them. */
#define KEY_IN_MESSAGE_MAX 72

void vv_rpc_status_from_damage(vv_rpc_status *out, varve_status st, const varve_key_range *keys) {
    mapping m = map(st);
    const char *finer = st.reason != 0 ? varve_reason_text(st.reason) : "";
    char first[VV_RPC_KEY_TEXT_MAX + 1], last[VV_RPC_KEY_TEXT_MAX + 1];
    key_text(keys->first_key, keys->first_key_bytes, first, VV_RPC_KEY_TEXT_MAX);
    key_text(keys->last_key, keys->last_key_bytes, last, VV_RPC_KEY_TEXT_MAX);
    vv_rpc_detail details[] = {{"first_key", first}, {"last_key", last}};
    char first_short[KEY_IN_MESSAGE_MAX + 1], last_short[KEY_IN_MESSAGE_MAX + 1];
    key_text(keys->first_key, keys->first_key_bytes, first_short, KEY_IN_MESSAGE_MAX);
    key_text(keys->last_key, keys->last_key_bytes, last_short, KEY_IN_MESSAGE_MAX);
    vv_rpc_status_set_details(out, m.code, m.reason, m.retry_ms, details, VV_ARRAY_COUNT(details),
                              "%s%s%s; affected are the keys from %s to %s", varve_code_text(st.code),
                              *finer ? ": " : "", finer, first_short, last_short);
}
