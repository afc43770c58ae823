/*
 * service_health.c - grpc.health.v1: whether this server should get calls.
 *
 * SERVING from the start until the drain, or until the log has failed. Known are the server as a whole ("")
 * and each of our services that is always there.
 *
 * A watch waits for a change that happens on another thread. `mu.lock` is held wherever a watch's call is
 * used: by its own thread in step(), and by the thread that posts it. `posted` then keeps its own thread away
 * from it until the post has arrived (T3).
 */
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "grpc/health/v1/health.pb-c.h"
#include "rpc/codec.h"
#include "rpc/service.h"
#include "rpc/status_map.h"

typedef enum serving_status {
    STATUS_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    STATUS_NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    STATUS_UNKNOWN_SERVICE = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
} serving_status;

/* Lives in the call's state. */
struct vv_health_watch {
    vv_health_watch *next, **link; /* link is NULL once the call is ended */
    vv_rpc_call *call;
    int told;     /* the serving_status sent last; 0: none */
    bool known;   /* the service that it asks for */
    bool writing; /* a message is under way */
    bool posted;
};

_Static_assert(sizeof(vv_health_watch) <= VV_RPC_CALL_STATE_BYTES, "a watch lives in its call");

static vv_health_watch *watch_of(vv_rpc_call *call) {
    return (vv_health_watch *)(void *)call->state;
}

/* The whole server, or a service that has a method here ("/name/method"). */
static bool known_service(const vv_health *h, const char *name) {
    size_t bytes = strlen(name);
    if (bytes == 0)
        return true;
    for (size_t s = 0; s < h->service_count; s++)
        for (size_t m = 0; m < h->services[s].method_count; m++) {
            const char *path = h->services[s].methods[m].path;
            if (strncmp(path + 1, name, bytes) == 0 && path[1 + bytes] == '/')
                return true;
        }
    return false;
}

static serving_status status_now(const vv_health *h) {
    return atomic_load(&h->serving) ? STATUS_SERVING : STATUS_NOT_SERVING;
}

static vv_rpc_body response(serving_status status, vv_codec_small *buf) {
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    r.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    vv_codec_pack_small(&r.base, buf);
    return vv_rpc_body_copy(buf->data, buf->bytes);
}

static void on_check(vv_rpc_call *call, vv_slice bytes) {
    vv_health *h = call->service;
    vv_codec_arena arena;
    vv_codec_small buf;
    vv_codec_arena_init(&arena);
    Grpc__Health__V1__HealthCheckRequest *request =
        (void *)vv_codec_request(call, &arena, &grpc__health__v1__health_check_request__descriptor, bytes);
    if (request && known_service(h, request->service))
        vv_rpc_reply(call, response(status_now(h), &buf));
    else if (request)
        vv_rpc_fail_with(call, VV_RPC_NOT_FOUND, "UNKNOWN_SERVICE", 0, "unknown service '%s'",
                         request->service);
    vv_codec_arena_deinit(&arena);
}

/* ---- Watch ---- */

static void unlink_watch(vv_health_watch *w) {
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    w->link = NULL;
}

/* Whatever is next for a watch. Its own thread, with the lock held. */
static void step(vv_health *h, vv_health_watch *w) {
    vv_rpc_call *call = w->call;
    if (w->posted || w->writing)
        return;
    serving_status now = w->known ? status_now(h) : STATUS_UNKNOWN_SERVICE;
    if (call->cancelled) {
        unlink_watch(w);
        vv_rpc_fail_with(call, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled by the client");
    } else if (w->told != (int)now) {
        vv_codec_small buf;
        w->told = (int)now;
        w->writing = true;
        vv_rpc_stream_write(call, response(now, &buf));
    } else if (h->mu.closing) {
        unlink_watch(w);
        vv_rpc_fail_with(call, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", 1000, "shutting down");
    }
}

static void locked_step(vv_rpc_call *call, bool was_written, bool was_posted) {
    vv_health *h = call->service;
    vv_health_watch *w = watch_of(call);
    vv_mutex_lock(&h->mu.lock);
    if (was_written || call->cancelled)
        w->writing = false;
    if (was_posted)
        w->posted = false;
    step(h, w);
    vv_mutex_unlock(&h->mu.lock);
}

static void on_watch(vv_rpc_call *call, vv_slice bytes) {
    vv_health *h = call->service;
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Grpc__Health__V1__HealthCheckRequest *request =
        (void *)vv_codec_request(call, &arena, &grpc__health__v1__health_check_request__descriptor, bytes);
    if (request) {
        vv_health_watch *w = watch_of(call);
        *w = (vv_health_watch){.call = call, .known = known_service(h, request->service)};
        vv_mutex_lock(&h->mu.lock);
        w->next = h->mu.watches;
        w->link = &h->mu.watches;
        if (w->next)
            w->next->link = &w->next;
        h->mu.watches = w;
        step(h, w);
        vv_mutex_unlock(&h->mu.lock);
    }
    vv_codec_arena_deinit(&arena);
}

static void on_written(vv_rpc_call *call) {
    locked_step(call, true, false);
}

static void on_posted(vv_rpc_call *call) {
    locked_step(call, false, true);
}

static void on_cancelled(vv_rpc_call *call) {
    locked_step(call, false, false);
}

static void post_watches(vv_health *h) {
    for (vv_health_watch *w = h->mu.watches; w; w = w->next)
        if (!w->posted && !w->writing) { /* one that is writing looks again afterwards */
            w->posted = true;
            vv_rpc_post(w->call);
        }
}

void vv_health_set(vv_health *h, bool serving) {
    vv_mutex_lock(&h->mu.lock);
    bool changed = atomic_load(&h->serving) != serving && !(serving && h->mu.closing);
    if (changed) {
        atomic_store(&h->serving, serving);
        post_watches(h);
    }
    vv_mutex_unlock(&h->mu.lock);
    if (changed)
        h->flush(h->flush_arg);
}

void vv_health_close(vv_health *h) {
    vv_mutex_lock(&h->mu.lock);
    atomic_store(&h->serving, false);
    h->mu.closing = true;
    post_watches(h);
    vv_mutex_unlock(&h->mu.lock);
    h->flush(h->flush_arg);
}

static const vv_rpc_method methods[] = {
    {.path = "/grpc.health.v1.Health/Check",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_OPEN,
     .while_draining = true,
     .on_call = on_check},
    {.path = "/grpc.health.v1.Health/Watch",
     .kind = VV_RPC_SERVER_STREAM,
     .access = VV_RPC_OPEN,
     .on_call = on_watch,
     .on_written = on_written,
     .on_posted = on_posted,
     .on_cancelled = on_cancelled},
};

void vv_health_serve(vv_health *h, const vv_rpc_service *services, size_t count) {
    h->services = services;
    h->service_count = count;
}

void vv_health_init(vv_health *h, void (*flush)(void *arg), void *flush_arg) {
    *h = (vv_health){.flush = flush, .flush_arg = flush_arg};
    vv_mutex_init(&h->mu.lock);
}

void vv_health_deinit(vv_health *h) {
    VV_ASSERT(!h->mu.watches);
    vv_mutex_deinit(&h->mu.lock);
}

vv_rpc_service vv_health_service(vv_health *h) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = h};
}
