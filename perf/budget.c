/*
 * budget - does one kind of operation so many times, for budget.py, which counts the instructions.
 *
 *     budget WORK COUNT       budget --list: what WORK may be
 *
 * Only what happens within counted() is counted, and only on this thread: opening, filling and warming up are
 * outside, and so are the engine's own threads, which work when they please. The posix backend, because
 * valgrind does not know io_uring; in process, a lone durable put goes the same way with either: it writes
 * and syncs by itself. An asynchronous put is done by the engine's writer thread, many at a time as it
 * happens to find them, so there is no budget for it; what it costs beside a durable one's hand-off is the
 * part of one of the batch's puts.
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/mem/memtable.h"
#include "engine/varve.h"
#ifdef BUDGET_RPC
#include "rpc/codec.h"
#include "rpc/pipeline_codec.h"
#include "varve/v1/kv.pb-c.h"
#endif

#define KEYS          10000
#define KEY_BYTES     16
#define VALUE_BYTES   64
#define WARM_UP       200
#define SCAN_ENTRIES  100
#define MESSAGE_OPS   100
#define ITEM_BYTES    (11 + KEY_BYTES + 2 + VALUE_BYTES)
#define REQUEST_BYTES (2 + KEY_BYTES + 2 + VALUE_BYTES)

static varve_db *db;
static char dir[600];

static void check(bool ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "budget: %s failed\n", what);
    exit(1);
}

/* Spread over the key space, each key once in KEYS numbers (7919 is prime to KEYS). */
static void key_of(unsigned number, char out[KEY_BYTES + 1]) {
    snprintf(out, KEY_BYTES + 1, "key%013u", number % KEYS * 7919 % KEYS);
}

/* In vv_memtable_create()'s place, by the linker: skip lists of the same towers in every run. */
vv_status __real_vv_memtable_create(vv_memtable_type type, uint64_t seed, vv_memtable **out);
vv_status __wrap_vv_memtable_create(vv_memtable_type type, uint64_t seed, vv_memtable **out);
vv_status __wrap_vv_memtable_create(vv_memtable_type type, uint64_t seed, vv_memtable **out) {
    (void)seed;
    return __real_vv_memtable_create(type, 1, out);
}

/* ---- the engine ---- */

static char keys[KEYS][KEY_BYTES + 1], value[VALUE_BYTES];

static void put(unsigned i, varve_durability durability) {
    varve_write_options options = {.durability = durability};
    check(varve_ok(varve_put(db, keys[i % KEYS], KEY_BYTES, value, VALUE_BYTES, &options, NULL)), "put");
}

static void do_put(unsigned i) {
    put(i, VARVE_DURABILITY_SYNC);
}

static void do_write_100(unsigned i) {
    static varve_batch *batch;
    if (!batch)
        batch = varve_batch_create();
    check(batch != NULL, "batch");
    varve_batch_clear(batch);
    for (unsigned n = 0; n < MESSAGE_OPS; n++)
        check(varve_ok(
                  varve_batch_put(batch, keys[(i * MESSAGE_OPS + n) % KEYS], KEY_BYTES, value, VALUE_BYTES)),
              "batch");
    check(varve_ok(varve_write(db, batch, NULL, NULL)), "write");
}

static void do_get(unsigned i) {
    varve_value v;
    check(varve_ok(varve_get(db, keys[i % KEYS], KEY_BYTES, &v)), "get");
    varve_value_release(&v);
}

static void do_get_missing(unsigned i) {
    char key[KEY_BYTES];
    varve_value v;
    memcpy(key, keys[i % KEYS], KEY_BYTES);
    key[KEY_BYTES - 1] = 'x';
    check(varve_get(db, key, KEY_BYTES, &v).code == VARVE_NOT_FOUND, "get of a missing key");
}

static void do_scan(unsigned i) {
    static varve_iter *it;
    varve_iter_options options = {0};
    check(varve_ok(varve_iter_create(db, &options, &it)), "iterator");
    varve_iter_seek(it, keys[i % KEYS], KEY_BYTES);
    for (int n = 0; n < SCAN_ENTRIES && varve_iter_valid(it); n++) {
        varve_entry e;
        varve_iter_entry(it, &e);
        varve_iter_next(it);
    }
    check(varve_ok(varve_iter_status(it)), "scan");
    varve_iter_destroy(it);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void leave(void) {
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void open_empty(void) {
    varve_error err;
    varve_options *options = varve_options_create();
    ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 32);
    check(n > 0 && options, "start"); /* under valgrind, too, this is the path of the program */
    dir[n] = '\0';
    strcpy(strrchr(dir, '/'), "/../budget-XXXXXX"); /* beside the binary, so that O_DIRECT works */
    check(mkdtemp(dir) != NULL, dir);
    atexit(leave);
    check(varve_ok(varve_options_set(options, "IO_BACKEND", "posix", &err)), err.text);
    check(varve_ok(varve_options_set(options, "WAL_SEGMENT_SIZE", "8MiB", &err)), err.text);
    check(varve_ok(varve_open(dir, options, &db, &err)), err.text);
    varve_options_destroy(options);
    memset(value, 'v', sizeof value);
    for (unsigned i = 0; i < KEYS; i++)
        key_of(i, keys[i]);
}

static void open_memtable(void) {
    open_empty();
    for (unsigned i = 0; i < KEYS; i++)
        put(i, VARVE_DURABILITY_ASYNC);
}

/* One table, whose blocks are in the cache before anything is counted. */
static void open_table(void) {
    open_memtable();
    check(varve_ok(varve_flush(db)), "flush");
    for (unsigned i = 0; i < KEYS; i++)
        do_get(i);
}

/* ---- decoding, as the server does it ---- */

#ifdef BUDGET_RPC
static uint8_t request[REQUEST_BYTES], items[MESSAGE_OPS * ITEM_BYTES];
static size_t item_bytes;

static void make_requests(void) {
    static const uint8_t item[] = {0x32, ITEM_BYTES - 2, 0x08, 0x81,     0x01, 0x12, REQUEST_BYTES + 2,
                                   0x0a, REQUEST_BYTES,  0x0a, KEY_BYTES};
    request[0] = 0x0a;
    request[1] = KEY_BYTES;
    request[2 + KEY_BYTES] = 0x12;
    request[3 + KEY_BYTES] = VALUE_BYTES;
    _Static_assert(sizeof item + KEY_BYTES + 2 + VALUE_BYTES == ITEM_BYTES, "the bytes of one item");
    for (int i = 0; i < MESSAGE_OPS; i++) {
        memcpy(items + item_bytes, item, sizeof item);
        memcpy(items + item_bytes + sizeof item, request + 2, sizeof request - 2);
        item_bytes += ITEM_BYTES;
    }
}

static void decode(const ProtobufCMessageDescriptor *type, size_t bytes) {
    vv_codec_arena arena;
    ProtobufCMessage *message;
    vv_codec_arena_init(&arena);
    check(vv_ok(vv_codec_decode(&arena, type, vv_slice_make(request, bytes), &message)), "decode");
    vv_codec_arena_deinit(&arena);
}

static void do_decode_get(unsigned i) {
    (void)i;
    decode(&varve__v1__get_request__descriptor, 2 + KEY_BYTES);
}

static void do_decode_put(unsigned i) {
    (void)i;
    decode(&varve__v1__put_request__descriptor, sizeof request);
}

static void do_decode_pipeline(unsigned i) {
    static vv_pipeline_message m;
    (void)i;
    check(vv_ok(vv_pipeline_read(vv_slice_make(items, item_bytes), &m)) && m.count == MESSAGE_OPS, "decode");
}
#endif

/* ---- what is counted ---- */

static const struct work {
    const char *name;
    void (*before)(void);
    void (*operation)(unsigned i);
} works[] = {
    {"put", open_memtable, do_put},
    {"write_100", open_memtable, do_write_100},
    {"get_memtable", open_memtable, do_get},
    {"get_table", open_table, do_get},
    {"get_missing", open_table, do_get_missing},
    {"scan_100", open_table, do_scan},
#ifdef BUDGET_RPC
    {"decode_get", make_requests, do_decode_get},
    {"decode_put", make_requests, do_decode_put},
    {"decode_pipeline_100", make_requests, do_decode_pipeline},
#endif
};

void counted(const struct work *w, unsigned count);
__attribute__((noinline)) void counted(const struct work *w, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        w->operation(i);
}

int main(int argc, char **argv) {
    const size_t work_count = sizeof works / sizeof works[0];
    unsigned count = argc == 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    for (size_t i = 0; i < work_count; i++) {
        if (argc == 2 && strcmp(argv[1], "--list") == 0)
            puts(works[i].name);
        if (count == 0 || strcmp(argv[1], works[i].name) != 0)
            continue;
        works[i].before();
        for (unsigned n = 0; n < WARM_UP; n++)
            works[i].operation(n);
        counted(&works[i], count);
        if (db)
            check(varve_ok(varve_close(db)), "close");
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return 0;
    fprintf(stderr, "usage: budget WORK COUNT | budget --list\n");
    return 2;
}
