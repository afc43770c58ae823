/*
 * seeds_server.c - seeds of what comes over the network or from files that people write.
 */
#include "engine/kv/record.h"
#include "rpc/wal_frame.h"
#include "tests/fuzz/rpc_methods.h"
#include "tests/fuzz/seeds.h"

static void put_text(const char *target, const char *name, unsigned first, const char *text) {
    seed s = {0};
    seed_u8(&s, first);
    seed_bytes(&s, text, strlen(text));
    seed_write(&s, target, name);
}

/* ---- messages: one of each type, with all its fields ---- */

#define DEPTH_MAX 4

static void put_varint(seed *s, uint64_t value) {
    for (; value >= 0x80; value >>= 7)
        seed_u8(s, (unsigned)(value & 0x7f) | 0x80);
    seed_u8(s, (unsigned)value);
}

static void put_message(seed *s, const ProtobufCMessageDescriptor *type, int depth);

static void put_bytes_field(seed *s, const ProtobufCFieldDescriptor *f, const void *data, size_t bytes) {
    put_varint(s, (uint64_t)f->id << 3 | 2);
    put_varint(s, bytes);
    seed_bytes(s, data, bytes);
}

static void put_field(seed *s, const ProtobufCFieldDescriptor *f, int depth) {
    seed inner = {0};
    switch (f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        if (depth < DEPTH_MAX)
            put_message(&inner, f->descriptor, depth + 1);
        put_bytes_field(s, f, inner.data, inner.bytes);
        vv_sst_buffer_deinit(&inner);
        break;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES: put_bytes_field(s, f, "key", 3); break;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        put_varint(s, (uint64_t)f->id << 3 | 1);
        seed_be64(s, 1);
        break;
    default:
        put_varint(s, (uint64_t)f->id << 3);
        put_varint(s, f->type == PROTOBUF_C_TYPE_ENUM || f->type == PROTOBUF_C_TYPE_BOOL ? 1 : 300);
    }
}

static void put_message(seed *s, const ProtobufCMessageDescriptor *type, int depth) {
    for (unsigned i = 0; i < type->n_fields; i++) {
        put_field(s, &type->fields[i], depth);
        if (type->fields[i].label == PROTOBUF_C_LABEL_REPEATED)
            put_field(s, &type->fields[i], depth);
    }
}

static void messages(void) {
    for (unsigned i = 0; i < VV_ARRAY_COUNT(message_types); i++) {
        seed s = {0};
        seed_u8(&s, i);
        put_message(&s, message_types[i], 0);
        seed_write(&s, "rpc_messages", message_types[i]->short_name);
    }
}

/* Each method once, with all fields; and once with nothing. */
static void calls(void) {
    for (unsigned i = 0; i < VV_ARRAY_COUNT(rpc_methods); i++) {
        seed s = {0}, message = {0};
        char name[16];
        put_message(&message, rpc_methods[i].request, 0);
        for (int k = 0; k < 2; k++) {
            seed_u8(&s, i);
            seed_u8(&s, 0);
            seed_be16(&s, k ? 0 : (unsigned)message.bytes);
            seed_bytes(&s, message.data, k ? 0 : message.bytes);
            seed_be16(&s, 0);
        }
        vv_sst_buffer_deinit(&message);
        snprintf(name, sizeof name, "%u", i);
        seed_write(&s, "rpc_calls", name);
    }
}

/* Behind the types: entries, a batch, answers. */
static void written_by_hand(const seed *ops) {
    seed s = {0};
    unsigned what = VV_ARRAY_COUNT(message_types);
    seed_u8(&s, what);
    for (int i = 0; i < 3; i++) {
        seed_u8(&s, 1);
        seed_be64(&s, 7);
        seed_u8(&s, 3);
        seed_bytes(&s, "key", 3);
        seed_be16(&s, 5);
        seed_bytes(&s, "value", 5);
    }
    seed_write(&s, "rpc_messages", "scan");
    seed_u8(&s, what + 1);
    seed_u8(&s, 7);
    seed_u8(&s, 3);
    seed_bytes(&s, ops->data, ops->bytes);
    seed_write(&s, "rpc_messages", "watch");
    for (unsigned kind = 0; kind < 3; kind++) {
        char name[16];
        seed_u8(&s, what + 2);
        seed_be64(&s, 300);
        seed_be64(&s, 7);
        seed_u8(&s, kind);
        seed_bytes(&s, "value", 5);
        snprintf(name, sizeof name, "answer-%u", kind);
        seed_write(&s, "rpc_messages", name);
    }
}

/* ---- replication ---- */

static void put_op(seed *s, const char *key, const char *value) {
    uint8_t head[VV_OP_HEAD_BYTES];
    vv_entry e = {.key = vv_slice_str(key),
                  .value = vv_slice_str(value),
                  .expires_unix_ms = *value == 'x' ? 5 : 0,
                  .kind = *value ? VV_KIND_PUT : VV_KIND_DELETE};
    vv_op_head_encode(head, &e);
    seed_bytes(s, head, sizeof head);
    seed_bytes(s, key, strlen(key));
    seed_bytes(s, value, strlen(value));
}

static void put_record(seed *s, uint64_t lsn, uint32_t op_count, const seed *ops, uint64_t client) {
    uint8_t head[VV_RECORD_HEAD_BYTES];
    vv_record rec = {.first_lsn = lsn,
                     .op_count = op_count,
                     .epoch = 1,
                     .client_id = client,
                     .sequence = client ? lsn : 0,
                     .ops = vv_slice_make(ops->data, ops->bytes)};
    vv_record_head_encode(head, &rec);
    seed_bytes(s, head, sizeof head);
    seed_bytes(s, ops->data, ops->bytes);
}

static void frames(const seed *ops) {
    seed records = {0}, s = {0};
    put_record(&records, 1, 3, ops, 0);
    put_record(&records, 4, 3, ops, 9);
    for (unsigned flags = 2; flags < 16; flags += 4) {
        char name[16];
        seed_u8(&s, flags);
        seed_bytes(&s, records.data, records.bytes);
        snprintf(name, sizeof name, "records-%u", flags);
        seed_write(&s, "follow_frame", name);
    }
    varve_epoch history = {.epoch = 1, .first_lsn = 1, .id = 3};
    vv_wal_frame_info info = {.epoch = 1,
                              .committed_lsn = 6,
                              .durable_lsn = 6,
                              .session = 2,
                              .history = &history,
                              .history_count = 1};
    vv_wal_frame w = {.records = records.data, .bytes = records.bytes, .first_lsn = 1, .last_lsn = 6};
    uint8_t head[VV_WAL_FRAME_HEAD_BYTES_MAX];
    size_t head_bytes = vv_wal_frame_head(&w, &info, head);
    for (unsigned flags = 0; flags < 16; flags += 5) {
        char name[16];
        seed_u8(&s, flags);
        seed_bytes(&s, head, head_bytes);
        seed_bytes(&s, records.data, records.bytes);
        snprintf(name, sizeof name, "frame-%u", flags);
        seed_write(&s, "follow_frame", name);
    }
    vv_sst_buffer_deinit(&records);
}

/* ---- the rest ---- */

static void tokens(void) {
    seed s = {0};
    for (unsigned flags = 0; flags < 4; flags++) {
        char name[8];
        seed_u8(&s, flags);
        seed_u8(&s, 1);
        seed_u8(&s, 0);
        seed_be64(&s, 77);
        seed_bytes(&s, "key", 3);
        seed_be64(&s, 0);
        seed_be64(&s, 0);
        snprintf(name, sizeof name, "%u", flags);
        seed_write(&s, "page_token", name);
    }
}

static void configuration(void) {
    static const char *const texts[] = {
        "# a comment\nLISTEN = 127.0.0.1:7700,unix:/tmp/x\nMEMTABLE_SIZE = 1MiB # so\n drain-timeout=5s\n"
        "PEERS = a:1,b:2\nCOMPRESSION = zstd\nACCESS_LOG_SAMPLE = 0.5\n",
        "--listen=127.0.0.1:0\n--listen\n[::1]:1\n--CACHE_CAPACITY=100\n--bloom-filter-false-positive-rate=0."
        "1\n"
        "--follow=unix:/tmp/y\n--certificate-roles=read,write\n--tls-client-ca=ca\n--tls-cert=c\n--tls-key=k",
        "VARVE_MEMTABLE_SIZE=64KiB\nVARVE_NODE_NAME=node-1\nVARVE_SERVICE_HOST=x\nPATH=/bin\nVARVE_QUORUM=2",
        "# user known by may\nalice sha256:"
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 read,write\n"
        "\"node 2\" certificate replica\ndefault anonymous read\n",
        "alice reads=1000:5000 writes=200\nbatch writes=50000 # much\n",
        "varve role 1\nrole = primary\nepoch = 2\nfollow = 10.0.0.1:7700\nchecksum = 0000000000000000\n",
        "block-size=8KiB\nINDEX_TYPE=dense\nCACHE_CAPACITY=100\nWAL_SYNC_INTERVAL=1s\nMEMTABLE_TYPE=btree\n"
        "BLOOM_FILTER_FALSE_POSITIVE_RATE=0.3\nIO_BACKEND=posix",
    };
    for (unsigned i = 0; i < VV_ARRAY_COUNT(texts); i++) {
        char name[8];
        snprintf(name, sizeof name, "%u", i);
        put_text("config", name, i, texts[i]);
    }
    put_text(
        "cli_script", "plain", 0,
        "# comment\nput key value\nput \"a b\\n\\x00\" 'c \\'\r\n\ndelete key\\ 2 # gone\nput '' \"\"\n");
    put_text("cli_script", "hex", 1, "put 6b6579 76616c\ndelete 00ff\n");
    put_text("cli_script", "wrong", 0, "put \"key\nget key\nput a b c\n");
}

void seeds_server(void) {
    seed ops = {0};
    put_op(&ops, "key", "value");
    put_op(&ops, "kc", "x");
    put_op(&ops, "key", "");
    messages();
    calls();
    written_by_hand(&ops);
    frames(&ops);
    tokens();
    configuration();
    vv_sst_buffer_deinit(&ops);
}
