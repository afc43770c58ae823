#include "tests/rpc/tcp_proxy.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/sync.h"
#include "tests/support/tempdir.h"

#define LINKS_MAX   16
#define CHUNK_BYTES 65536

/* One way of a connection. */
typedef struct lane {
    int from, to;
    size_t at, bytes; /* of the chunk: sent already, received */
    bool ended;       /* nothing more comes; the other end has been told */
    uint8_t chunk[CHUNK_BYTES];
} lane;

typedef struct link {
    bool open;
    lane up, down; /* to the server, from it */
} link_pair;

struct tcp_proxy {
    char address[32];
    struct sockaddr_in to;
    int listener, wake;
    pthread_t thread;
    link_pair *links; /* the thread's */
    struct {
        vv_mutex lock;
        uint64_t cut_after; /* UINT64_MAX: never */
        uint64_t cut_each;  /* 0: once */
        uint64_t random;
        uint32_t cuts;
        bool freeze_at_cut, frozen, stopping;
    } mu;
};

static void close_link(link_pair *l, bool reset) {
    struct linger at_once = {.l_onoff = 1};
    if (reset) {
        setsockopt(l->up.from, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        setsockopt(l->up.to, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    close(l->up.from);
    close(l->up.to);
    l->open = false;
}

static void accept_link(tcp_proxy *p) {
    int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;
    for (size_t i = 0; i < LINKS_MAX; i++) {
        link_pair *l = &p->links[i];
        if (l->open)
            continue;
        int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(server, (struct sockaddr *)&p->to, sizeof p->to) != 0) {
            close(server);
            break;
        }
        l->open = true;
        l->up.from = l->down.to = client;
        l->up.to = l->down.from = server;
        l->up.at = l->up.bytes = l->down.at = l->down.bytes = 0;
        l->up.ended = l->down.ended = false;
        return;
    }
    close(client);
}

/* How many bytes may come from the server before the cut. */
static uint64_t allowance(tcp_proxy *p) {
    vv_mutex_lock(&p->mu.lock);
    uint64_t bytes = p->mu.cut_after;
    vv_mutex_unlock(&p->mu.lock);
    return bytes;
}

/* Under mu. */
static uint64_t next_cut(tcp_proxy *p) {
    return 1 + vv_test_random(&p->mu.random) % (2 * p->mu.cut_each - 1);
}

/* False: it is time for the cut. */
static bool count(tcp_proxy *p, size_t bytes) {
    vv_mutex_lock(&p->mu.lock);
    bool fine = p->mu.cut_after == UINT64_MAX || bytes < p->mu.cut_after; /* it may be nearer than it was */
    if (!fine) {
        p->mu.cut_after = p->mu.cut_each ? next_cut(p) : UINT64_MAX;
        p->mu.frozen = p->mu.frozen || p->mu.freeze_at_cut;
        p->mu.freeze_at_cut = false;
        p->mu.cuts++;
    } else if (p->mu.cut_after != UINT64_MAX) {
        p->mu.cut_after -= bytes;
    }
    vv_mutex_unlock(&p->mu.lock);
    return fine;
}

/* Move what can be moved. False: the connection is gone. */
static bool move(lane *l, uint64_t bytes_max, size_t *moved_out) {
    *moved_out = 0;
    if (l->at == l->bytes && !l->ended) {
        size_t room = bytes_max < CHUNK_BYTES ? (size_t)bytes_max : CHUNK_BYTES;
        ssize_t got = recv(l->from, l->chunk, room, MSG_DONTWAIT);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR;
        l->at = 0;
        l->bytes = (size_t)got;
        *moved_out = (size_t)got;
        if (got == 0) {
            l->ended = true;
            shutdown(l->to, SHUT_WR);
        }
    }
    if (l->at < l->bytes) {
        ssize_t sent = send(l->to, l->chunk + l->at, l->bytes - l->at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        l->at += (size_t)sent;
    }
    return true;
}

static void serve_link(tcp_proxy *p, link_pair *l) {
    size_t up, down;
    bool alive = move(&l->up, CHUNK_BYTES, &up) && move(&l->down, allowance(p), &down);
    if (!alive || (l->up.ended && l->down.ended)) {
        close_link(l, !alive);
    } else if (!count(p, down)) {
        for (size_t i = 0; i < LINKS_MAX; i++)
            if (p->links[i].open)
                close_link(&p->links[i], true);
    }
}

static short wanted_of(const lane *reads, const lane *writes) {
    return (short)((reads->at == reads->bytes && !reads->ended ? POLLIN : 0) |
                   (writes->at < writes->bytes ? POLLOUT : 0));
}

static void run(void *arg) {
    tcp_proxy *p = arg;
    for (;;) {
        struct pollfd fds[2 + 2 * LINKS_MAX];
        nfds_t n = 0;
        vv_mutex_lock(&p->mu.lock);
        bool frozen = p->mu.frozen, stopping = p->mu.stopping;
        vv_mutex_unlock(&p->mu.lock);
        if (stopping)
            return;
        fds[n++] = (struct pollfd){.fd = p->wake, .events = POLLIN};
        if (!frozen)
            fds[n++] = (struct pollfd){.fd = p->listener, .events = POLLIN};
        for (size_t i = 0; i < LINKS_MAX && !frozen; i++) {
            link_pair *l = &p->links[i];
            if (!l->open)
                continue;
            short client = wanted_of(&l->up, &l->down), server = wanted_of(&l->down, &l->up);
            if (client) /* one that is not asked would tell of its end again and again */
                fds[n++] = (struct pollfd){.fd = l->up.from, .events = client};
            if (server)
                fds[n++] = (struct pollfd){.fd = l->up.to, .events = server};
        }
        poll(fds, n, -1);
        uint64_t news;
        if (fds[0].revents)
            (void)!read(p->wake, &news, sizeof news);
        if (frozen)
            continue;
        for (size_t i = 0; i < LINKS_MAX; i++)
            if (p->links[i].open)
                serve_link(p, &p->links[i]);
        if (fds[1].revents)
            accept_link(p);
    }
}

static void wake(tcp_proxy *p) {
    uint64_t one = 1;
    (void)!write(p->wake, &one, sizeof one);
}

tcp_proxy *tcp_proxy_create(const char *to) {
    tcp_proxy *p = calloc(1, sizeof *p);
    p->links = calloc(LINKS_MAX, sizeof *p->links);
    p->to = (struct sockaddr_in){.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)atoi(strrchr(to, ':') + 1)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    p->mu.cut_after = UINT64_MAX;
    vv_mutex_init(&p->mu.lock);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t own_bytes = sizeof own;
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert_eq(bind(p->listener, (struct sockaddr *)&own, sizeof own), 0);
    cr_assert_eq(listen(p->listener, 64), 0);
    cr_assert_eq(getsockname(p->listener, (struct sockaddr *)&own, &own_bytes), 0);
    snprintf(p->address, sizeof p->address, "127.0.0.1:%u", ntohs(own.sin_port));
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert(vv_ok(vv_thread_start(&p->thread, "proxy", run, p)));
    return p;
}

void tcp_proxy_destroy(tcp_proxy *p) {
    vv_mutex_lock(&p->mu.lock);
    p->mu.stopping = true;
    vv_mutex_unlock(&p->mu.lock);
    wake(p);
    vv_thread_join(p->thread);
    for (size_t i = 0; i < LINKS_MAX; i++)
        if (p->links[i].open)
            close_link(&p->links[i], true);
    close(p->listener);
    close(p->wake);
    vv_mutex_deinit(&p->mu.lock);
    free(p->links);
    free(p);
}

const char *tcp_proxy_address(const tcp_proxy *p) {
    return p->address;
}

void tcp_proxy_cut_after(tcp_proxy *p, uint64_t bytes) {
    vv_mutex_lock(&p->mu.lock);
    p->mu.cut_after = bytes > 0 ? bytes : 1;
    vv_mutex_unlock(&p->mu.lock);
}

void tcp_proxy_freeze_after(tcp_proxy *p, uint64_t bytes) {
    vv_mutex_lock(&p->mu.lock);
    p->mu.cut_after = bytes > 0 ? bytes : 1;
    p->mu.freeze_at_cut = true;
    vv_mutex_unlock(&p->mu.lock);
}

void tcp_proxy_cut_each(tcp_proxy *p, uint64_t bytes, uint64_t seed) {
    vv_mutex_lock(&p->mu.lock);
    p->mu.cut_each = bytes;
    p->mu.random = seed | 1;
    p->mu.cut_after = bytes > 0 ? next_cut(p) : UINT64_MAX;
    vv_mutex_unlock(&p->mu.lock);
}

uint32_t tcp_proxy_cuts(tcp_proxy *p) {
    vv_mutex_lock(&p->mu.lock);
    uint32_t cuts = p->mu.cuts;
    vv_mutex_unlock(&p->mu.lock);
    return cuts;
}

void tcp_proxy_freeze(tcp_proxy *p, bool frozen) {
    vv_mutex_lock(&p->mu.lock);
    p->mu.frozen = frozen;
    vv_mutex_unlock(&p->mu.lock);
    wake(p);
}
