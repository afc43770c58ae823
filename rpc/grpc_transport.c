/*
 * grpc_transport.c - life cycle of the gRPC server: addresses, channel arguments, drain.
 *
 * Drain, in this order: refuse new calls; tell streams, some of which would stay open for ever; wait for what
 * is in flight; when no new calls come any more, shut the server down (it stops listening, sends GOAWAY and
 * takes no more calls); wait for connections; past the time-out cancel what is left; wait for the calls that
 * a commit still holds. Only then are queues shut down, threads joined and memory released: a queue that is
 * shut down takes no batch any more.
 *
 * Why calls come before the GOAWAY: after it the C core closes a connection with the last stream on it, as
 * soon as the kernel has the bytes. What the client sends then is answered by a reset, and it loses what it
 * has not read yet. A GOAWAY behind the last answer is followed by a ping: whoever acknowledges that has read
 * all before it.
 */
#include "rpc/grpc_transport.h"

#include <errno.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "rpc/grpc_impl.h"
#include "rpc/rate_limit.h"

/*
 * Armed for each method on each queue: how many calls may arrive before its thread has looked at one. Others
 * wait inside the C core until one is armed again, at the cost of a lock. Few, since all that is armed is
 * outstanding: the C core as distributions build it looks each completed tag up in the list of those, from
 * its beginning. With 512 for each of 17 methods that was a sixth of a Get.
 */
#define ARMED_BUSY       16 /* unary, reads and writes */
#define ARMED_RARE       2
#define CHANNEL_ARGS_MAX 24
#define QUIET_NS         (10 * VV_NS_PER_MS)
#define QUIET_ROUNDS     2
#define QUIET_NS_MAX     (2 * VV_NS_PER_S)
#define CLOSE_GRACE_NS   (200 * VV_NS_PER_MS)

vv_status vv_grpc_create(const vv_grpc_options *options, vv_grpc **out) {
    *out = NULL;
    VV_ASSERT(options->thread_count >= 1 && options->thread_count <= VV_GRPC_THREADS_MAX);
    vv_grpc *t = vv_alloc_zeroed(sizeof *t);
    vv_grpc_queue *queues =
        vv_alloc_aligned(_Alignof(vv_grpc_queue), options->thread_count * sizeof(vv_grpc_queue));
    if (!t || !queues) {
        vv_free(t);
        vv_free(queues);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    t->options = *options;
    t->queues = queues;
    t->queue_count = options->thread_count;
    for (uint32_t i = 0; i < t->queue_count; i++)
        vv_grpc_queue_init(&t->queues[i], t);
    vv_mutex_init(&t->mu.lock);
    vv_cond_init(&t->mu.idle);
    *out = t;
    return VV_STATUS_OK;
}

void vv_grpc_destroy(vv_grpc *t) {
    if (!t)
        return;
    VV_ASSERT(!t->server);
    vv_grpc_tls_release(t);
    vv_cond_deinit(&t->mu.idle);
    vv_mutex_deinit(&t->mu.lock);
    vv_free(t->queues);
    vv_free(t->methods);
    vv_free(t);
}

typedef struct channel_args {
    grpc_arg list[CHANNEL_ARGS_MAX];
    size_t count;
} channel_args;

static void add_int(channel_args *args, const char *key, uint64_t value) {
    VV_ASSERT(args->count < CHANNEL_ARGS_MAX);
    args->list[args->count++] = (grpc_arg){.type = GRPC_ARG_INTEGER,
                                           .key = (char *)(uintptr_t)key,
                                           .value.integer = (int)VV_MIN(value, (uint64_t)INT_MAX)};
}

static void add_ms(channel_args *args, const char *key, uint64_t us) {
    add_int(args, key, VV_MAX(us / 1000, 1));
}

/* How long connections may be idle and live. Left out when there is no limit: that is the C core's default.
 */
static void add_ages(channel_args *args, const vv_grpc_options *o) {
    if (o->connection_idle_us > 0)
        add_ms(args, GRPC_ARG_MAX_CONNECTION_IDLE_MS, o->connection_idle_us);
    if (o->connection_age_us > 0) {
        add_ms(args, GRPC_ARG_MAX_CONNECTION_AGE_MS, o->connection_age_us);
        if (o->connection_age_grace_us > 0)
            add_ms(args, GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, o->connection_age_grace_us);
    }
}

/* Tested as one set: idle, slow, silent and hostile connections (tests/rpc). */
static void create_server(vv_grpc *t) {
    const vv_grpc_options *o = &t->options;
    t->quota = grpc_resource_quota_create("varve");
    grpc_resource_quota_resize(t->quota, o->memory_quota_bytes);
    channel_args args = {.count = 0};
    add_int(&args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, o->message_bytes_max);
    add_int(&args, GRPC_ARG_MAX_CONCURRENT_STREAMS, o->connection_streams_max);
    add_int(&args, GRPC_ARG_MAX_METADATA_SIZE, o->metadata_bytes_max);
    add_ms(&args, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, o->handshake_timeout_us);
    add_ms(&args, GRPC_ARG_KEEPALIVE_TIME_MS, o->keepalive_time_us);
    add_ms(&args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_timeout_us);
    add_int(&args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    add_ms(&args, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, o->client_ping_us);
    add_ages(&args, o);
    add_int(&args, GRPC_ARG_ALLOW_REUSEPORT, 0); /* else a second server shares the port and nobody is told */
    /* Not used, and each costs every call something: */
    add_int(&args, GRPC_ARG_ENABLE_CENSUS, 0);
    add_int(&args, GRPC_ARG_ENABLE_CHANNELZ, 0);
    add_int(&args, GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
    add_int(&args, GRPC_ARG_HTTP2_BDP_PROBE, 0);
    args.list[args.count++] =
        (grpc_arg){.type = GRPC_ARG_POINTER,
                   .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
                   .value.pointer = {.p = t->quota, .vtable = grpc_resource_quota_arg_vtable()}};
    grpc_channel_args set = {.num_args = args.count, .args = args.list};
    t->server = grpc_server_create(&set, NULL);
    t->shutdown_queue = grpc_completion_queue_create_for_pluck(NULL);
    for (uint32_t i = 0; i < t->queue_count; i++) {
        t->queues[i].core = grpc_completion_queue_create_for_next(NULL);
        grpc_server_register_completion_queue(t->server, t->queues[i].core, NULL);
    }
}

/* The C core would take the place of any file, and of a socket that another server listens on. */
static vv_status check_unix_path(const char *path, vv_error *err) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0),
                       "the path of a unix socket has at most %zu bytes", sizeof address.sun_path - 1);
    struct stat file;
    if (stat(path, &file) != 0)
        return VV_STATUS_OK;
    if (!S_ISSOCK(file.st_mode))
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "a file that is no socket stands there");
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return vv_fail(err, vv_status_errno(errno), "socket");
    bool served = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    if (served)
        return vv_fail(err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "another server listens there");
    return VV_STATUS_OK;
}

/* The file of a socket gets its mode when it is bound: nobody slips in before. The mask is the process's, so
 * files that other threads make in this moment are closed to others too, which does no harm. */
static int bind_unix(vv_grpc *t, const char *address, grpc_server_credentials *credentials) {
    mode_t mask = umask(S_IRWXG | S_IRWXO);
    int port = grpc_server_add_http2_port(t->server, address, credentials);
    umask(mask);
    if (port != 0 && chmod(address + 5, (mode_t)t->options.unix_mode) != 0)
        vv_log(t->options.log, VV_LOG_WARN, "listen on %s: its mode cannot be set: %s", address,
               strerrordesc_np(errno));
    return port;
}

vv_status vv_grpc_listen(vv_grpc *t, const char *address, int *port_out, vv_error *err) {
    *port_out = 0;
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    if (is_unix) {
        vv_status st = check_unix_path(address + 5, err);
        if (!vv_ok(st))
            return vv_wrap(err, st, "listen on %s", address);
    }
    if (!t->server)
        create_server(t);
    grpc_server_credentials *credentials =
        t->options.tls && !is_unix ? vv_grpc_tls_credentials(t) : grpc_insecure_server_credentials_create();
    if (!credentials)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "listen on %s", address);
    int port = is_unix ? bind_unix(t, address, credentials)
                       : grpc_server_add_http2_port(t->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0)
        return vv_fail(err, vv_status_make(VV_IO, VV_SUB_NONE, 0),
                       "listen on %s: the address is in use or cannot be bound", address);
    *port_out = is_unix ? 0 : port;
    return VV_STATUS_OK;
}

static vv_status register_methods(vv_grpc *t, const vv_rpc_service *services, size_t service_count) {
    size_t count = 1;
    for (size_t s = 0; s < service_count; s++)
        count += services[s].method_count;
    t->methods = vv_alloc_zeroed(count * sizeof *t->methods);
    if (!t->methods)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    for (size_t s = 0; s < service_count; s++)
        for (size_t m = 0; m < services[s].method_count; m++) {
            const vv_rpc_method *rpc = &services[s].methods[m];
            bool bidi = rpc->kind == VV_RPC_BIDI;
            bool busy =
                rpc->kind == VV_RPC_UNARY && (rpc->access == VV_RPC_READ || rpc->access == VV_RPC_WRITE);
            t->methods[t->method_count++] = (vv_grpc_method){
                .rpc = rpc,
                .self = services[s].self,
                .armed_per_queue = busy ? ARMED_BUSY : ARMED_RARE,
                .registered = grpc_server_register_method(
                    t->server, rpc->path, NULL,
                    bidi ? GRPC_SRM_PAYLOAD_NONE : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0)};
        }
    /* Without this one a call of an unknown method would hang until its client's deadline. */
    t->methods[t->method_count++] = (vv_grpc_method){.armed_per_queue = ARMED_RARE};
    return VV_STATUS_OK;
}

vv_status vv_grpc_start(vv_grpc *t, const vv_rpc_service *services, size_t service_count, vv_error *err) {
    VV_ASSERT(t->server && !t->started);
    vv_status st = register_methods(t, services, service_count);
    if (!vv_ok(st))
        return vv_wrap(err, st, "start server");
    grpc_server_start(t->server);
    t->started = true;
    for (uint32_t i = 0; i < t->queue_count; i++) {
        st = vv_grpc_queue_start(&t->queues[i]);
        if (!vv_ok(st))
            return vv_wrap(err, st, "start server thread");
    }
    return VV_STATUS_OK;
}

void vv_grpc_flush(vv_grpc *t) {
    for (uint32_t i = 0; i < t->queue_count; i++)
        vv_grpc_queue_wake(&t->queues[i]);
}

void vv_grpc_cancel(vv_grpc *t) {
    vv_mutex_lock(&t->mu.lock);
    t->mu.cancel = true;
    vv_cond_broadcast(&t->mu.idle);
    vv_mutex_unlock(&t->mu.lock);
}

/* Streams, those that come from now on too, are told to end. */
static void end_streams(vv_grpc *t) {
    vv_mutex_lock(&t->mu.lock);
    t->mu.ending = true;
    for (vv_grpc_call *c = t->mu.streams; c; c = c->stream_next)
        vv_grpc_call_drain(c);
    vv_mutex_unlock(&t->mu.lock);
    vv_grpc_flush(t);
}

/* Wait for the tag of the shutdown: every connection is closed. */
static bool connections_closed(vv_grpc *t, uint64_t patience_ns) {
    gpr_timespec patience = gpr_time_from_nanos((int64_t)patience_ns, GPR_TIMESPAN);
    gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), patience);
    return grpc_completion_queue_pluck(t->shutdown_queue, t, until, NULL).type == GRPC_OP_COMPLETE;
}

/* Until none of these calls is left, the time is over or vv_grpc_cancel() was called; false: calls are to be
 * cancelled. */
static bool calls_over(vv_grpc *t, const _Atomic uint64_t *calls, uint64_t deadline_ns) {
    vv_mutex_lock(&t->mu.lock);
    bool in_time = true;
    while (in_time && !t->mu.cancel && atomic_load(calls) > 0)
        in_time = vv_cond_wait_until(&t->mu.idle, &t->mu.lock, deadline_ns);
    bool over = atomic_load(calls) == 0 && !t->mu.cancel;
    vv_mutex_unlock(&t->mu.lock);
    return over;
}

/*
 * Wait for calls and then for connections, in turns: a call may still come out of a queue. Where something
 * was answered in this drain, clients may take their time to read it. Else, when no call is left, connections
 * get CLOSE_GRACE_NS and no more: the C core waits 20 s for a peer that does not answer its last ping, and
 * for ever for a call that arrives in the moment of the shutdown and is handed to nobody.
 */
static bool wait_closed(vv_grpc *t, uint64_t deadline_ns) {
    for (;;) {
        bool over = calls_over(t, &t->live_calls, deadline_ns);
        uint64_t now_ns = vv_clock_mono_ns();
        uint64_t left_ns = now_ns < deadline_ns ? deadline_ns - now_ns : 0;
        if (connections_closed(t, over ? VV_MIN(left_ns, CLOSE_GRACE_NS) : 0))
            return true;
        if (!over || left_ns == 0 || (atomic_load(&t->live_calls) == 0 && !atomic_load(&t->answering)))
            return false;
    }
}

static void pong(vv_rpc_task *task) {
    vv_grpc *t = VV_CONTAINER_OF(task, vv_grpc_queue, ping_task)->transport;
    vv_mutex_lock(&t->mu.lock);
    t->mu.pongs++;
    vv_cond_broadcast(&t->mu.idle);
    vv_mutex_unlock(&t->mu.lock);
}

/* Wait until each queue's thread has had a turn: on a busy machine that may take longer than any pause.
 * False: the time is over, or vv_grpc_cancel() was called. With the lock held. */
static bool ping_queues(vv_grpc *t, uint64_t deadline_ns) {
    t->mu.pongs = 0;
    for (uint32_t i = 0; i < t->queue_count; i++) {
        t->queues[i].ping_task.fn = pong;
        vv_grpc_queue_post(&t->queues[i], &t->queues[i].ping_task);
        vv_grpc_queue_wake(&t->queues[i]);
    }
    bool in_time = true;
    while (in_time && !t->mu.cancel && t->mu.pongs < t->queue_count)
        in_time = vv_cond_wait_until(&t->mu.idle, &t->mu.lock, deadline_ns);
    return t->mu.pongs == t->queue_count;
}

/*
 * Refuse what arrives, with words, until nothing has for QUIET_ROUNDS times QUIET_NS in which every queue's
 * thread had its turn. The C core drops calls that it has read but not handed on when it shuts down, as
 * CANCELLED, which tells a client nothing; so first let them come.
 */
static void refuse_until_quiet(vv_grpc *t, uint64_t drain_deadline_ns) {
    uint64_t deadline_ns = VV_MIN(drain_deadline_ns, vv_clock_mono_ns() + QUIET_NS_MAX);
    uint64_t seen = atomic_load(&t->arrivals);
    vv_mutex_lock(&t->mu.lock);
    for (int quiet = 0; quiet < QUIET_ROUNDS && !t->mu.cancel && vv_clock_mono_ns() < deadline_ns;) {
        uint64_t until_ns = VV_MIN(vv_clock_mono_ns() + QUIET_NS, deadline_ns);
        while (!t->mu.cancel && vv_cond_wait_until(&t->mu.idle, &t->mu.lock, until_ns))
            ;
        if (!ping_queues(t, deadline_ns))
            break;
        uint64_t now = atomic_load(&t->arrivals);
        quiet = now == seen ? quiet + 1 : 0;
        seen = now;
    }
    vv_mutex_unlock(&t->mu.lock);
}

static void calls_wait(vv_grpc *t) {
    vv_mutex_lock(&t->mu.lock);
    while (atomic_load(&t->live_calls) > 0)
        vv_cond_wait(&t->mu.idle, &t->mu.lock);
    vv_mutex_unlock(&t->mu.lock);
}

void vv_grpc_drain(vv_grpc *t, uint64_t timeout_us) {
    VV_ASSERT(t->server && !t->drained);
    t->drained = true;
    atomic_store(&t->draining, true);
    uint64_t deadline_ns = vv_clock_mono_ns() + timeout_us * VV_NS_PER_US;
    end_streams(t);
    if (calls_over(t, &t->busy_calls, deadline_ns))
        refuse_until_quiet(t, deadline_ns);
    /* Its tag comes out of the shutdown queue when the last connection is closed. */
    grpc_server_shutdown_and_notify(t->server, t->shutdown_queue, t);
    if (!wait_closed(t, deadline_ns)) {
        uint64_t live = atomic_load(&t->live_calls);
        if (live > 0)
            vv_log(t->options.log, VV_LOG_WARN, "drain: %" PRIu64 " calls are still open and are cancelled",
                   live);
        grpc_server_cancel_all_calls(t->server);
        grpc_completion_queue_pluck(t->shutdown_queue, t, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    }
    calls_wait(t);
    /* A call whose client has left may lie in a queue, unseen. It finds `stopping` set, or is seen here: each
     * side writes before it reads, in sequential consistency. */
    atomic_store(&t->stopping, true);
    calls_wait(t);
}

void vv_grpc_stop(vv_grpc *t) {
    if (!t->server)
        return;
    if (!t->drained)
        vv_grpc_drain(t, 0);
    for (uint32_t i = 0; i < t->queue_count; i++)
        vv_grpc_queue_stop(&t->queues[i]);
    grpc_server_destroy(t->server);
    t->server = NULL;
    grpc_completion_queue_shutdown(t->shutdown_queue);
    grpc_completion_queue_destroy(t->shutdown_queue);
    grpc_resource_quota_unref(t->quota);
}

/* ---- what the C core says ---- */

static _Atomic(const vv_logger *) core_log;

/* Whoever can connect can make the C core say something (each failed handshake is an error to it), so it may
 * only say so much; what is left out is counted and told with the next line. */
static const vv_rate core_log_rate = {.per_second = 5, .burst = 50};
static vv_rate_bucket core_log_bucket;
static _Atomic uint64_t core_log_left_out;

static void log_line(gpr_log_func_args *args) {
    const vv_logger *log = atomic_load_explicit(&core_log, memory_order_acquire);
    vv_log_level level = args->severity == GPR_LOG_SEVERITY_ERROR  ? VV_LOG_WARN
                         : args->severity == GPR_LOG_SEVERITY_INFO ? VV_LOG_INFO
                                                                   : VV_LOG_DEBUG;
    if (!vv_log_wants(log, level))
        return;
    if (vv_rate_bucket_take(&core_log_bucket, 1, vv_clock_mono_ns()) > 0) {
        atomic_fetch_add_explicit(&core_log_left_out, 1, memory_order_relaxed);
        return;
    }
    uint64_t left_out = atomic_exchange_explicit(&core_log_left_out, 0, memory_order_relaxed);
    if (left_out > 0)
        vv_log(log, level, "grpc: %" PRIu64 " lines were left out", left_out);
    vv_log(log, level, "grpc: %s", args->message);
}

void vv_grpc_log_to(const vv_logger *log) {
    vv_rate_bucket_set(&core_log_bucket, core_log_rate);
    atomic_store_explicit(&core_log, log, memory_order_release);
    gpr_set_log_function(log_line);
}
