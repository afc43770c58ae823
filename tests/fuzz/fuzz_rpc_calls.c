/*
 * fuzz_rpc_calls.c - calls of every method that varved serves, by the code that serves them: the server is
 * whole but for its network, in whose place this file stands, and its disk, which is in memory.
 *
 *   input   calls: [method:1][how:1][bytes:2][message], of a stream of messages [bytes:2][message]... [0:2]
 *
 *   method  its number in rpc_methods.h
 *   how     bit 0: the client leaves as soon as nothing is under way
 *
 * What holds for any bytes: each call is ended once, with an answer or with an error that has a code,
 * words and details that decode; also when its client has left. A client that leaves is the only thing
 * that ends what waits for changes. The server is started anew after RUNS_MAX inputs; nothing has leaked
 * then.
 *
 * Bound: no allocation is larger than what decoding a message may take, 16 MiB and its size.
 */
#include <dirent.h>
#include <grpc/grpc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sync.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/codec.h"
#include "rpc/grpc_transport.h"
#include "rpc/server.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/rpc_methods.h"
#include "tests/fuzz/small_db.h"

#define CALLS_MAX      8
#define RUNS_MAX       256
#define TURNS_MAX      64 /* of a stream, before its client leaves */
#define ALLOCATION_MAX (((size_t)17 << 20) + 4096)

enum { LEAVES = 1 };

#define NEVER (60 * VV_NS_PER_S)

/* ---- a network of one call at a time ---- */

struct vv_grpc {
    vv_rpc_gate *gate;
};

static vv_grpc network;

typedef struct call {
    vv_rpc_call base;
    bool ended;
    bool written; /* on_written() is due */
    bool reading; /* on_message() or on_half_close() is due */
    vv_reader *messages;
    uint8_t *message; /* given out last */
} call;

/* What other threads have posted to the call at hand. */
static struct {
    vv_mutex lock;
    vv_cond posted;
    bool call;
    vv_rpc_task *tasks[64];
    size_t task_count;
} inbox;

static call *call_of(vv_rpc_call *base) {
    return (call *)base;
}

static void end(vv_rpc_call *base, vv_rpc_code code) {
    FUZZ_CHECK(!call_of(base)->ended, "%s was ended twice", base->method->path);
    FUZZ_CHECK(!call_of(base)->written || base->cancelled);
    base->code = code;
    call_of(base)->ended = true;
}

static void consume(vv_rpc_body body) {
    /* Every byte can be read. */
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < body.head.bytes; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)body.head.data)[i]);
    for (size_t i = 0; i < body.tail.bytes; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)body.tail.data)[i]);
    if (body.release)
        body.release(body.release_arg);
}

static void reply(vv_rpc_call *c, vv_rpc_body body) {
    consume(body);
    end(c, VV_RPC_OK);
}

static void fail(vv_rpc_call *c, const vv_rpc_status *s) {
    FUZZ_CHECK(s->code != VV_RPC_OK && s->code <= VV_RPC_UNAUTHENTICATED && s->message[0]);
    FUZZ_CHECK(strnlen(s->message, sizeof s->message) < sizeof s->message);
    Google__Rpc__Status *details = google__rpc__status__unpack(NULL, s->details_bytes, s->details);
    FUZZ_CHECK(details, "%s", s->message);
    google__rpc__status__free_unpacked(details, NULL);
    end(c, s->code);
}

static void finish(vv_rpc_call *c) {
    end(c, VV_RPC_OK);
}

static void stream_write(vv_rpc_call *c, vv_rpc_body body, bool more) {
    (void)more;
    FUZZ_CHECK(!call_of(c)->ended && !call_of(c)->written);
    consume(body);
    call_of(c)->written = !c->cancelled;
}

static void read_next(vv_rpc_call *c) {
    FUZZ_CHECK(!call_of(c)->ended && !call_of(c)->reading);
    call_of(c)->reading = true;
}

static void post(vv_rpc_call *c) {
    (void)c;
    vv_mutex_lock(&inbox.lock);
    FUZZ_CHECK(!inbox.call, "posted twice");
    inbox.call = true;
    vv_cond_signal(&inbox.posted);
    vv_mutex_unlock(&inbox.lock);
}

static void post_task(vv_rpc_call *c, vv_rpc_task *task) {
    (void)c;
    vv_mutex_lock(&inbox.lock);
    while (inbox.task_count == VV_ARRAY_COUNT(inbox.tasks)) { /* until the call's thread has taken some */
        vv_mutex_unlock(&inbox.lock);
        usleep(10);
        vv_mutex_lock(&inbox.lock);
    }
    inbox.tasks[inbox.task_count++] = task;
    vv_cond_signal(&inbox.posted);
    vv_mutex_unlock(&inbox.lock);
}

static void wake(void *arg) {
    (void)arg;
}

static vv_rpc_waker waker(vv_rpc_call *c) {
    (void)c;
    return (vv_rpc_waker){.wake = wake};
}

static vv_slice metadata(vv_rpc_call *c, const char *key) {
    (void)c;
    (void)key;
    return (vv_slice){0};
}

static bool client_name(vv_rpc_call *c, char *buf, size_t buf_bytes) {
    (void)c;
    (void)buf;
    (void)buf_bytes;
    return false;
}

static void peer(vv_rpc_call *c, char *buf, size_t buf_bytes) {
    (void)c;
    snprintf(buf, buf_bytes, "fuzz");
}

static const vv_rpc_call_ops ops = {.reply = reply,
                                    .fail = fail,
                                    .finish = finish,
                                    .stream_write = stream_write,
                                    .read_next = read_next,
                                    .post = post,
                                    .post_task = post_task,
                                    .waker = waker,
                                    .metadata = metadata,
                                    .client_name = client_name,
                                    .peer = peer};

/* One thing that was posted, if it comes in time. */
static bool take_post(call *c, uint64_t wait_ns) {
    vv_rpc_task *task = NULL;
    bool posted = false, in_time = true;
    uint64_t until_ns = vv_clock_mono_ns() + wait_ns;
    vv_mutex_lock(&inbox.lock);
    while (in_time && !inbox.call && inbox.task_count == 0)
        in_time = vv_cond_wait_until(&inbox.posted, &inbox.lock, until_ns);
    if (inbox.task_count > 0) { /* in their order */
        task = inbox.tasks[0];
        memmove(inbox.tasks, inbox.tasks + 1, --inbox.task_count * sizeof *inbox.tasks);
    } else if (inbox.call) {
        inbox.call = false;
        posted = true;
    }
    vv_mutex_unlock(&inbox.lock);
    if (task)
        task->fn(task);
    else if (posted)
        c->base.method->on_posted(&c->base);
    return task || posted;
}

/* ---- one call ---- */

static vv_slice next_message(call *c) {
    free(c->message);
    vv_slice s = fuzz_take(c->messages, vv_read_be16(c->messages));
    c->message = fuzz_copy(s);
    return vv_slice_make(c->message, s.bytes);
}

static void read_one(call *c) {
    const vv_rpc_method *m = c->base.method;
    c->reading = false;
    vv_slice s = next_message(c);
    if (s.bytes > 0)
        m->on_message(&c->base, s);
    else if (m->on_half_close)
        m->on_half_close(&c->base);
}

static void cancel(call *c) {
    c->base.cancelled = true;
    c->reading = false;
    if (c->base.method->on_cancelled)
        c->base.method->on_cancelled(&c->base);
}

/*
 * How long its client waits before it leaves. What waits for changes, or for its client's next message,
 * waits for ever; a read may wait for a min_lsn that never comes. All else is answered, slow as the
 * machine may be.
 */
static uint64_t patience_ns(const call *c, uint8_t how) {
    static const char *const streams[] = {"Watch", "StreamWal", "Pipeline", "ServerReflectionInfo"};
    static const char *const reads[] = {"Get", "MultiGet", "Scan", "Open"};
    const char *name = strrchr(c->base.method->path, '/') + 1;
    if (c->base.cancelled)
        return NEVER;
    for (size_t i = 0; i < VV_ARRAY_COUNT(streams); i++)
        if (strcmp(name, streams[i]) == 0 || how & LEAVES)
            return VV_NS_PER_MS;
    for (size_t i = 0; i < VV_ARRAY_COUNT(reads); i++)
        if (strcmp(name, reads[i]) == 0)
            return 20 * VV_NS_PER_MS;
    return NEVER;
}

static void serve(call *c, uint8_t how) {
    for (int turn = 0; !c->ended; turn++) {
        uint64_t wait_ns = patience_ns(c, how);
        if (c->written) {
            c->written = false;
            if (c->base.method->on_written)
                c->base.method->on_written(&c->base);
        } else if (turn >= TURNS_MAX && wait_ns < NEVER) {
            cancel(c);
        } else if (c->reading) {
            read_one(c);
        } else if (!take_post(c, wait_ns)) {
            FUZZ_CHECK(wait_ns < NEVER, "%s was never answered", c->base.method->path);
            cancel(c);
        }
    }
}

static void run_call(const vv_rpc_service *service, const vv_rpc_method *method, uint8_t how, vv_reader *r) {
    call *c = calloc(1, sizeof *c);
    FUZZ_CHECK(c);
    c->base = (vv_rpc_call){.ops = &ops,
                            .method = method,
                            .service = service->self,
                            .arrived_ns = vv_clock_mono_ns(),
                            .deadline_ns = UINT64_MAX};
    c->messages = r;
    vv_slice request = method->kind == VV_RPC_BIDI ? (vv_slice){0} : next_message(c);
    c->base.received_bytes = request.bytes;
    if (network.gate->admit(network.gate, &c->base, request.bytes))
        method->on_call(&c->base, request);
    else
        FUZZ_CHECK(c->ended);
    serve(c, how);
    FUZZ_CHECK(!inbox.call && inbox.task_count == 0, "%s: posted behind its end", method->path);
    network.gate->ended(network.gate, &c->base);
    free(c->message);
    free(c);
}

/* ---- the server: its transport is the above, its disk is in memory ---- */

vv_status __wrap_vv_grpc_create(const vv_grpc_options *options, vv_grpc **out);
vv_status __wrap_vv_grpc_listen(vv_grpc *t, const char *address, int *port_out, vv_error *err);
vv_status __wrap_vv_grpc_start(vv_grpc *t, const vv_rpc_service *services, size_t count, vv_error *err);
void __wrap_vv_grpc_flush(vv_grpc *t);
void __wrap_vv_grpc_drain(vv_grpc *t, uint64_t timeout_us);
void __wrap_vv_grpc_stop(vv_grpc *t);
void __wrap_vv_grpc_destroy(vv_grpc *t);
vv_status __wrap_vv_io_backend_create(vv_io_choice choice, const vv_logger *lg, vv_io_backend **out,
                                      vv_error *err);

vv_status __wrap_vv_grpc_create(const vv_grpc_options *options, vv_grpc **out) {
    network.gate = options->gate;
    *out = &network;
    return VV_STATUS_OK;
}

vv_status __wrap_vv_grpc_listen(vv_grpc *t, const char *address, int *port_out, vv_error *err) {
    (void)t;
    (void)address;
    (void)err;
    *port_out = 1;
    return VV_STATUS_OK;
}

vv_status __wrap_vv_grpc_start(vv_grpc *t, const vv_rpc_service *services, size_t count, vv_error *err) {
    (void)t;
    (void)services;
    (void)count;
    (void)err;
    return VV_STATUS_OK;
}

void __wrap_vv_grpc_flush(vv_grpc *t) {
    (void)t;
}

void __wrap_vv_grpc_drain(vv_grpc *t, uint64_t timeout_us) {
    (void)t;
    (void)timeout_us;
}

void __wrap_vv_grpc_stop(vv_grpc *t) {
    (void)t;
}

void __wrap_vv_grpc_destroy(vv_grpc *t) {
    (void)t;
}

static vv_io_backend *disk;

vv_status __wrap_vv_io_backend_create(vv_io_choice choice, const vv_logger *lg, vv_io_backend **out,
                                      vv_error *err) {
    (void)choice;
    (void)lg;
    (void)err;
    *out = fuzz_disk_ref(disk);
    return VV_STATUS_OK;
}

static vv_server *server;
static char directory[64]; /* of the files that are not the engine's */

static void remove_directory(void) {
    DIR *dir = opendir(directory);
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;)
        unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(directory);
}

static void start_server(void) {
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/dev/shm/varve-fuzz-XXXXXX");
        FUZZ_CHECK(mkdtemp(directory));
        atexit(remove_directory);
        vv_mutex_init(&inbox.lock);
        vv_cond_init(&inbox.posted);
        grpc_init();
    }
    char data[96];
    snprintf(data, sizeof data, "--data=%s", directory);
    const char *flags[] = {data, "--node-name=fuzz", "--worker-threads=1", "--drain-timeout=1s", NULL};
    const char *environment[] = {NULL};
    static vv_server_config config;
    vv_server_action action;
    vv_error err = {""};
    varve_options *engine = fuzz_db_options(NULL);
    vv_status st = vv_server_config_load(flags, environment, &config, engine, &action, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
    disk = fuzz_disk_create();
    st = vv_server_start(&config, engine, NULL, &server, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
    varve_options_destroy(engine);
}

/* LeakSanitizer's, where there is one. */
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static void stop_server(void) {
    vv_server_drain(server);
    vv_status st = vv_server_stop(server);
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
    vv_io_backend_destroy(disk);
    remove_directory();
    FUZZ_CHECK(mkdir(directory, 0700) == 0);
    FUZZ_CHECK(!__lsan_do_recoverable_leak_check || __lsan_do_recoverable_leak_check() == 0);
}

/* False: this server has no such method, as a table that was not brought up to date shows. */
static bool find_method(const char *path, const vv_rpc_service **service, const vv_rpc_method **method) {
    size_t count;
    const vv_rpc_service *services = vv_server_services(server, &count);
    for (size_t s = 0; s < count; s++)
        for (size_t m = 0; m < services[s].method_count; m++)
            if (strcmp(services[s].methods[m].path, path) == 0) {
                *service = &services[s];
                *method = &services[s].methods[m];
                return true;
            }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static unsigned run_count;
    if (run_count % RUNS_MAX == 0) {
        fuzz_allocation_max(0);
        if (run_count > 0)
            stop_server();
        start_server();
    }
    run_count++;
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    fuzz_allocation_max(ALLOCATION_MAX);
    for (int i = 0; i < CALLS_MAX && r.left_bytes > 0; i++) {
        const vv_rpc_service *service;
        const vv_rpc_method *method;
        uint8_t number = vv_read_u8(&r) % VV_ARRAY_COUNT(rpc_methods);
        uint8_t how = vv_read_u8(&r);
        FUZZ_CHECK(find_method(rpc_methods[number].path, &service, &method), "%s", rpc_methods[number].path);
        run_call(service, method, how, &r);
    }
    fuzz_allocation_max(0);
    return 0;
}
