#include "rpc/connection_limit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"

TestSuite(connection_limit, .init = fixture_init, .fini = fixture_fini, .timeout = 180);

/* The server speaks first in HTTP/2, once it has a connection. False: it has closed it. */
static bool is_served(int fd) {
    char byte;
    ssize_t got = fixture_receive(fd, &byte, 1);
    cr_assert(got >= 0 || errno == ECONNRESET, "neither served nor closed: %s", strerror(errno));
    return got == 1;
}

static client *fresh_client(void) {
    return client_create(vv_server_address(fx.server, 0));
}

Test(connection_limit, one_too_many_is_closed_at_once_and_room_comes_back) {
    enum { MAX = 5 };
    fx.config.connections_max = MAX;
    fixture_start();
    int fds[MAX];
    for (int i = 0; i < MAX; i++) {
        fds[i] = fixture_connect_raw();
        cr_assert(is_served(fds[i]), "connection %d", i);
    }
    uint64_t refused = vv_connections_refused();
    for (int i = 0; i < 3; i++) {
        int fd = fixture_connect_raw();
        cr_assert_not(is_served(fd));
        close(fd);
    }
    cr_assert_eq(vv_connections_refused(), refused + 3);
    client_call *call = call_put("key", "value");
    cr_assert_eq(client_wait(call), GRPC_STATUS_UNAVAILABLE);
    client_call_destroy(call);

    close(fds[0]);
    close(fds[1]);
    /* It is seen when somebody asks for the room, at most every VV_CONNECTION_SWEEP_MS. */
    uint64_t deadline_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    bool served = false;
    while (!served && vv_clock_mono_ns() < deadline_ns) {
        int fd = fixture_connect_raw();
        served = is_served(fd);
        close(fd);
    }
    cr_assert(served, "there was never room again");
    client_destroy(fx.client);
    fx.client = fresh_client();
    while (client_wait(call = call_put("key", "value")) != GRPC_STATUS_OK) {
        client_call_destroy(call);
        cr_assert_lt(vv_clock_mono_ns(), deadline_ns, "there was never room for a client");
    }
    client_call_destroy(call);
    for (int i = 2; i < MAX; i++)
        close(fds[i]);
}

Test(connection_limit, many_that_come_and_go_are_not_counted_for_ever) {
    fx.config.connections_max = 3;
    fixture_start();
    uint64_t refused = vv_connections_refused();
    for (int i = 0; i < 200; i++) {
        int fd = fixture_connect_raw();
        cr_assert(is_served(fd) || vv_connections_refused() > refused);
        close(fd);
    }
    uint64_t deadline_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    client_call *call;
    while (client_wait(call = call_put("key", "value")) != GRPC_STATUS_OK) {
        client_call_destroy(call);
        cr_assert_lt(vv_clock_mono_ns(), deadline_ns, "closed connections are still counted");
    }
    client_call_destroy(call);
}

Test(connection_limit, a_server_without_a_descriptor_left_serves_on_and_accepts_again) {
    fixture_start();
    client_call_destroy(call_put("key", "value"));
    int first = fixture_connect_raw();
    cr_assert(is_served(first));
    /* The clients' sockets first: they are of this process too. */
    enum { CLIENTS = 4 };
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct rlimit before, none;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0; /* what is open stays so */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    const char *address = vv_server_address(fx.server, 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < CLIENTS; i++)
        cr_assert_eq(connect(fds[i], (struct sockaddr *)&to, sizeof to), 0);
    expect_end(call_put("key", "value"), GRPC_STATUS_OK, NULL); /* over the connection that is there */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    close(first);
    /* The listener is alive. */
    int fd = fixture_connect_raw();
    cr_assert(is_served(fd), "the listener is closed for good");
    close(fd);
}

/* ---- all the limits of connections at once ---- */

static void all_limits(void) {
    fx.config.connections_max = 500;
    fx.config.connection_idle_us = 60000000;
    fx.config.connection_age_us = 60000000;
    fx.config.connection_age_grace_us = 5000000;
    fx.config.keepalive_time_us = 4000000;
    fx.config.keepalive_timeout_us = 1000000;
    fx.config.handshake_timeout_us = 2000000;
    fx.config.metadata_bytes_max = 16384;
    fx.config.connection_streams_max = 100;
}

/* How long the server leaves a connection alone that says nothing after `hello`. */
static uint64_t closed_after_ms(const char *hello, size_t bytes, uint64_t patience_ms) {
    uint64_t began_ns = vv_clock_mono_ns();
    int fd = fixture_connect_raw();
    struct timeval patience = {.tv_sec = (time_t)(patience_ms / 1000)};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cr_assert_eq(send(fd, hello, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
    char buf[4096];
    ssize_t got;
    while ((got = fixture_receive(fd, buf, sizeof buf)) > 0)
        continue;
    cr_assert(got == 0 || errno == ECONNRESET, "it was never closed");
    close(fd);
    return (vv_clock_mono_ns() - began_ns) / VV_NS_PER_MS;
}

Test(connection_limit, silent_peers_are_closed_in_time_and_not_before) {
    all_limits();
    fixture_start();
    uint64_t ms = closed_after_ms("", 0, 30000);
    cr_assert(ms >= 1800 && ms < 20000, "no hello: after %lu ms, not 2 s", ms);
    /* One that has said hello but answers no ping: keepalive time and its time-out. */
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    ms = closed_after_ms(preface, sizeof preface - 1, 30000);
    cr_assert(ms >= 4500 && ms < 20000, "no answer: after %lu ms, not 5 s", ms);
    client_call_destroy(call_put("key", "value"));
    cr_assert_str_eq(get("key"), "value");
}

Test(connection_limit, an_old_connection_is_left_without_a_failed_call) {
    fx.config.connection_age_us = 300000;
    fx.config.connection_age_grace_us = 5000000;
    fixture_start();
    uint64_t until_ns = vv_clock_mono_ns() + 2 * VV_NS_PER_S;
    while (vv_clock_mono_ns() < until_ns) {
        client_call *call = call_put("key", "value");
        cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
        client_call_destroy(call);
    }
}

Test(connection_limit, streams_of_one_connection_beyond_the_limit_wait) {
    fx.config.connection_streams_max = 2;
    fixture_start();
    client_call *streams[3];
    for (int i = 0; i < 2; i++)
        streams[i] = client_start(fx.client, "/varve.v1.KV/Pipeline", CLIENT_DEADLINE_MS);
    client *other = fresh_client();
    client *first = fx.client;
    fx.client = other;
    client_call_destroy(call_put("key", "value"));
    fx.client = first;
    client_call *waiting = start_put("key", "value", 700);
    expect_end(waiting, GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
    for (int i = 0; i < 2; i++) {
        client_half_close(streams[i]);
        expect_end(streams[i], GRPC_STATUS_OK, NULL);
    }
    expect_end(call_put("key", "value"), GRPC_STATUS_OK, NULL);
    client_destroy(other);
}
