#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <grpc/grpc.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/sync.h"
#include "rpc/discovery.h"
#include "tests/rpc/fake_primary.h"

#define ENOUGH_NS   (3 * VV_NS_PER_S) /* for an answer on a busy machine; who is silent costs all of it */
#define PATIENCE_NS (30 * VV_NS_PER_S)

static vv_server_config config;
static vv_discovery *discovery;
static vv_sighting *found;
static fake_words words = {
    .database_id = {1, 2, 3},
    .history = {{.epoch = 1, .first_lsn = 1, .id = 11}, {.epoch = 4, .first_lsn = 9, .id = 44}},
    .history_count = 2,
    .durable_lsn = 20};
static int silent_fd;
static vv_address silent; /* takes connections and says nothing */

static void listen_silently(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    silent_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(silent_fd, (struct sockaddr *)&at, sizeof at), 0);
    cr_assert_eq(listen(silent_fd, 8), 0);
    cr_assert_eq(getsockname(silent_fd, (struct sockaddr *)&at, &bytes), 0);
    snprintf(silent, sizeof silent, "127.0.0.1:%d", ntohs(at.sin_port));
}

static void init(void) {
    grpc_init();
    fake_primary_start();
    fake_primary_say(&words);
    listen_silently();
    found = vv_alloc(sizeof *found);
    cr_assert(vv_ok(vv_discovery_create(&config, "me", words.database_id, &discovery)));
}

static void fini(void) {
    vv_discovery_destroy(discovery);
    vv_free(found);
    close(silent_fd);
    fake_primary_stop();
    grpc_shutdown_blocking();
}

TestSuite(discovery, .init = init, .fini = fini, .timeout = 60);

/* The silent one, then the fake. */
static void both(vv_address addresses[2]) {
    memcpy(addresses[0], silent, sizeof silent);
    snprintf(addresses[1], sizeof addresses[1], "%s", fake_primary_address());
}

Test(discovery, one_that_is_silent_keeps_nobody_from_hearing_the_others) {
    vv_address addresses[2], primary;
    vv_error why;
    both(addresses);
    cr_assert_eq(vv_discovery_find(discovery, addresses, 2, 4, ENOUGH_NS, found, &why), VV_FIND_OK);
    cr_assert_str_eq(found->address, fake_primary_address());
    cr_assert_eq(found->durable_lsn, 20);
    cr_assert_eq(vv_sighting_epoch(found), 4);
    cr_assert_not_null(strstr(why.text, silent), "%s", why.text);
    cr_assert_eq(vv_discovery_newest_epoch(discovery, addresses, 2, ENOUGH_NS, primary), 4);
    cr_assert_str_eq(primary, fake_primary_address());
}

Test(discovery, a_primary_of_too_low_an_epoch_or_of_another_database_is_none) {
    vv_address addresses[2];
    vv_error why;
    both(addresses);
    cr_assert_eq(vv_discovery_find(discovery, addresses + 1, 1, 5, PATIENCE_NS, found, &why), VV_FIND_NONE);
    cr_assert_not_null(strstr(why.text, "epoch 4, where 5 is promised"), "%s", why.text);
    words.database_id[0]++;
    fake_primary_say(&words);
    cr_assert_eq(vv_discovery_find(discovery, addresses + 1, 1, 0, PATIENCE_NS, found, &why),
                 VV_FIND_HOPELESS);
    cr_assert_not_null(strstr(why.text, "another database"), "%s", why.text);
}

Test(discovery, asks_each_address_once) {
    vv_address to[VV_DISCOVERY_MAX];
    strcpy(config.follow, "a:1");
    strcpy(config.peers[0], "b:1");
    strcpy(config.peers[1], "a:1");
    config.peer_count = 2;
    cr_assert_eq(vv_discovery_addresses(&config, "b:1", to), 2);
    cr_assert_str_eq(to[0], "b:1");
    cr_assert_str_eq(to[1], "a:1");
    cr_assert_eq(vv_discovery_addresses(&config, "", to), 2);
    cr_assert_str_eq(to[0], "a:1");
}

/* ---- interruption ---- */

static void ask_for_long(void *arg) {
    vv_discovery_ask(discovery, arg, 1, UINT64_C(600) * VV_NS_PER_S, found);
}

Test(discovery, interrupted_it_ends_and_asks_nobody_until_it_may) {
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "ask", ask_for_long, &silent)));
    vv_discovery_interrupt(discovery); /* before the question or while it is under way */
    vv_thread_join(thread);
    cr_assert_not(found->answered);
    vv_address addresses[2];
    vv_error why;
    both(addresses);
    cr_assert_eq(vv_discovery_find(discovery, addresses, 2, 0, PATIENCE_NS, found, &why), VV_FIND_NONE);
    vv_discovery_allow(discovery);
    cr_assert_eq(vv_discovery_find(discovery, addresses + 1, 1, 0, PATIENCE_NS, found, &why), VV_FIND_OK);
}
