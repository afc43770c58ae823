#include "rpc/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/sync.h"
#include "rpc/config.h"
#include "rpc/connection_limit.h"

#define CONNECTIONS_MAX 32
#define IDLE_S          15
#define REQUEST_BYTES   8192 /* its line and headers */
#define BACKLOG         64
#define CSP                                                                                                  \
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "        \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/* dashboard.html, by proto/embed.cmake. */
extern const unsigned char vv_dashboard[];
extern const size_t vv_dashboard_bytes;

struct vv_http {
    struct MHD_Daemon *daemon;
    int listener;
    char address[VV_SERVER_ADDRESS_BYTES_MAX + 8];
    char
        unix_path[sizeof((struct sockaddr_un *)NULL)->sun_path]; /* "": it is none; else removed at the end */
    struct {
        vv_mutex lock; /* held over an answer: a server that goes waits for it */
        bool shown;
        vv_metrics_source source;
    } mu;
};

/* ---- answers ---- */

typedef struct answer {
    unsigned status;
    const char *type;
    const void *bytes; /* of what stays for ever; else `text` */
    size_t byte_count;
    vv_exposition text;
} answer;

static void answer_metrics(const vv_metrics_source *source, answer *a) {
    a->type = "text/plain; version=0.0.4; charset=utf-8";
    vv_metrics_text(source, &a->text);
}

static void answer_json(const vv_metrics_source *source, answer *a) {
    a->type = "application/json";
    vv_metrics_json(source, &a->text);
}

static void answer_health(const vv_metrics_source *source, answer *a) {
    (void)source;
    vv_exposition_add(&a->text, "ok\n");
}

static void answer_ready(const vv_metrics_source *source, answer *a) {
    varve_stats stats = {0};
    if (source)
        varve_stats_get(source->db, &stats);
    if (source && atomic_load(&source->health->serving)) {
        vv_exposition_add(&a->text, "ok\n");
        return;
    }
    a->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    vv_exposition_add(&a->text, "%s\n",
                      !source ? "not serving: starting, or fetching a copy"
                      : stats.wal_failed
                          ? "not serving: the log has failed, writes are refused until a restart"
                          : "not serving: draining, or not caught up with the others");
}

static void answer_page(const vv_metrics_source *source, answer *a) {
    (void)source;
    a->type = "text/html; charset=utf-8";
    a->bytes = vv_dashboard;
    a->byte_count = vv_dashboard_bytes;
}

static const struct {
    const char *path;
    void (*make)(const vv_metrics_source *source, answer *a);
} pages[] = {{"/", answer_page},
             {"/dashboard.json", answer_json},
             {"/metrics", answer_metrics},
             {"/healthz", answer_health},
             {"/readyz", answer_ready}};

static answer make_answer(vv_http *h, const char *method, const char *path) {
    answer a = {.status = MHD_HTTP_OK, .type = "text/plain; charset=utf-8"};
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        a.status = MHD_HTTP_METHOD_NOT_ALLOWED;
        vv_exposition_add(&a.text, "GET and HEAD alone\n");
        return a;
    }
    for (size_t i = 0; i < VV_ARRAY_COUNT(pages); i++) {
        if (strcmp(path, pages[i].path) != 0)
            continue;
        vv_mutex_lock(&h->mu.lock);
        pages[i].make(h->mu.shown ? &h->mu.source : NULL, &a);
        vv_mutex_unlock(&h->mu.lock);
        return a;
    }
    a.status = MHD_HTTP_NOT_FOUND;
    vv_exposition_add(&a.text, "there are /, /dashboard.json, /metrics, /healthz and /readyz\n");
    return a;
}

static void free_text(void *text) {
    vv_free(text);
}

/* Takes over the answer's text. NULL: no memory. */
static struct MHD_Response *response_of(answer *a) {
    struct MHD_Response *r;
    if (a->text.failed) {
        vv_exposition_deinit(&a->text);
        return NULL;
    }
    if (a->bytes)
        return MHD_create_response_from_buffer(a->byte_count, (void *)(uintptr_t)a->bytes,
                                               MHD_RESPMEM_PERSISTENT);
    r = MHD_create_response_from_buffer_with_free_callback(a->text.bytes, a->text.text, free_text);
    if (!r)
        vv_exposition_deinit(&a->text);
    return r;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **state) {
    static char seen; /* its address marks a request whose headers were seen: the answer waits for its end */
    (void)version;
    (void)upload;
    if (!*state) {
        *state = &seen;
        return MHD_YES;
    }
    if (*upload_bytes > 0) {
        *upload_bytes = 0; /* thrown away */
        return MHD_YES;
    }
    answer a = make_answer(arg, method, url);
    struct MHD_Response *r = response_of(&a);
    if (!r)
        return MHD_NO; /* closes the connection */
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, a.type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(r, "Content-Security-Policy", CSP);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    if (a.status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result queued = MHD_queue_response(connection, a.status, r);
    MHD_destroy_response(r);
    return queued;
}

/* ---- the listener ---- */

static vv_status failed(vv_error *err, const char *address, const char *why) {
    return vv_fail(err, vv_status_make(VV_IO, VV_SUB_NONE, 0), "METRICS_LISTEN = %s: %s", address, why);
}

/* A socket that somebody has left there is replaced, one that somebody listens to is not. */
static bool clear_path(const struct sockaddr_un *to) {
    struct stat info;
    if (lstat(to->sun_path, &info) != 0)
        return true;
    int fd = S_ISSOCK(info.st_mode) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    bool dead = fd >= 0 && connect(fd, (const struct sockaddr *)to, sizeof *to) != 0 && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return dead && unlink(to->sun_path) == 0;
}

static vv_status bind_unix(vv_http *h, const vv_http_options *o, vv_error *err) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = o->address + strlen("unix:");
    if (strlen(path) >= sizeof to.sun_path)
        return failed(err, o->address, "the path is too long for a socket");
    memcpy(to.sun_path, path, strlen(path) + 1);
    if (!clear_path(&to))
        return failed(err, o->address, strerror(EADDRINUSE));
    h->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (h->listener < 0 || bind(h->listener, (struct sockaddr *)&to, sizeof to) != 0)
        return failed(err, o->address, strerror(errno));
    memcpy(h->unix_path, path, strlen(path) + 1);
    /* Nobody connects before listen(). */
    if (chmod(path, o->unix_mode) != 0 || listen(h->listener, BACKLOG) != 0)
        return failed(err, o->address, strerror(errno));
    snprintf(h->address, sizeof h->address, "%s", o->address);
    return VV_STATUS_OK;
}

/* The first of its addresses that can be bound. */
static int bind_any(const struct addrinfo *list) {
    int why = EADDRNOTAVAIL, yes = 1;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
        if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
            bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
            return fd;
        why = errno;
        if (fd >= 0)
            close(fd);
    }
    errno = why;
    return -1;
}

static vv_status bind_tcp(vv_http *h, const vv_http_options *o, vv_error *err) {
    char host[VV_SERVER_ADDRESS_BYTES_MAX + 1], port[16];
    const char *colon = strrchr(o->address, ':');
    bool brackets = o->address[0] == '[';
    snprintf(host, sizeof host, "%.*s", (int)(colon - o->address) - (brackets ? 2 : 0),
             o->address + brackets);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    int code = getaddrinfo(host, colon + 1, &hints, &list);
    if (code != 0)
        return failed(err, o->address, gai_strerror(code));
    h->listener = bind_any(list);
    int why = errno;
    freeaddrinfo(list);
    if (h->listener < 0)
        return failed(err, o->address, strerror(why));
    struct sockaddr_storage bound;
    socklen_t bytes = sizeof bound;
    if (getsockname(h->listener, (struct sockaddr *)&bound, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&bound, bytes, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0)
        return failed(err, o->address, "its port can't be found out");
    snprintf(h->address, sizeof h->address, "%.*s:%s", (int)(colon - o->address), o->address, port);
    return VV_STATUS_OK;
}

/* ---- life ---- */

vv_status vv_http_start(const vv_http_options *options, vv_http **out, vv_error *err) {
    *out = NULL;
    vv_http *h = vv_alloc_zeroed(sizeof *h);
    if (!h)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "start metrics");
    h->listener = -1;
    vv_mutex_init(&h->mu.lock);
    bool is_unix = strncmp(options->address, "unix:", 5) == 0;
    vv_status st = is_unix ? bind_unix(h, options, err) : bind_tcp(h, options, err);
    if (vv_ok(st)) {
        vv_connection_limit_exempt(h->listener);
        h->daemon =
            MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, h,
                             MHD_OPTION_LISTEN_SOCKET, h->listener, MHD_OPTION_CONNECTION_LIMIT,
                             (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
                             MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_BYTES, MHD_OPTION_END);
        if (!h->daemon)
            st = failed(err, options->address, "it could not be started");
    }
    if (!vv_ok(st)) {
        vv_http_stop(h);
        return st;
    }
    *out = h;
    vv_log(options->log, VV_LOG_INFO, "metrics and dashboard: %s%s", is_unix ? "" : "http://", h->address);
    if (!vv_server_address_is_local(options->address))
        vv_log(options->log, VV_LOG_WARN,
               "METRICS_LISTEN = %s: whoever reaches it sees the server's figures and the names of its users",
               options->address);
    return VV_STATUS_OK;
}

const char *vv_http_address(const vv_http *h) {
    return h->address;
}

void vv_http_show(vv_http *h, const vv_metrics_source *source) {
    if (!h)
        return;
    vv_mutex_lock(&h->mu.lock);
    h->mu.shown = source != NULL;
    if (source)
        h->mu.source = *source;
    vv_mutex_unlock(&h->mu.lock);
}

void vv_http_stop(vv_http *h) {
    if (!h)
        return;
    if (h->daemon)
        MHD_stop_daemon(h->daemon); /* closes the listener */
    else if (h->listener >= 0)
        close(h->listener);
    vv_connection_limit_exempt(-1);
    if (h->unix_path[0])
        unlink(h->unix_path);
    vv_mutex_deinit(&h->mu.lock);
    vv_free(h);
}
