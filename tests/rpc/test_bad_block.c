/*
 * A block that has gone bad under a server: whoever reads a key in it is told that data is lost, and which
 * keys are affected; whoever reads others is not.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/rpc/server_fixture.h"

TestSuite(bad_block, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

#define KEYS 100

/* Space and backslash, so that there is something to escape. */
static const char *key_of(int i) {
    static char key[16];
    snprintf(key, sizeof key, "k \\%03d", i);
    return key;
}

static const char *text_of(int i) {
    static char text[32];
    snprintf(text, sizeof text, "k\\x20\\x5c%03d", i);
    return text;
}

/* The number at the end of such a text. */
static int number_in(const char *text) {
    size_t bytes = strlen(text);
    cr_assert_gt(bytes, 3u);
    int i = atoi(text + bytes - 3);
    cr_assert_str_eq(text, text_of(i));
    return i;
}

static void flush(void) {
    expect_end(
        client_start_unary(fx.client, "/varve.v1.Admin/Flush", vv_slice_make("", 0), CLIENT_DEADLINE_MS),
        GRPC_STATUS_OK, NULL);
}

/* Flip a bit in the second block of the only table. */
static void damage_table(void) {
    char path[600] = "";
    uint8_t byte;
    DIR *d = opendir(fx.config.data);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".sst"))
            snprintf(path, sizeof path, "%s/%s", fx.config.data, e->d_name);
    closedir(d);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, 4096 + 100), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, 4096 + 100), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

static void start_damaged(void) {
    char value[201] = "";
    memset(value, 'v', 200);
    fixture_start();
    for (int i = 0; i < KEYS; i++)
        fixture_put(key_of(i), value);
    flush();
    damage_table();
}

static bool found(int i) {
    client_call *call = call_get(key_of(i));
    bool is = client_wait(call) == GRPC_STATUS_OK;
    client_call_destroy(call);
    return is;
}

/* Ends with DATA_LOSS; which keys are affected is in the details and in the message. */
static void expect_loss(client_call *call, int *first, int *last) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_DATA_LOSS);
    *first = number_in(client_detail(call, "first_key"));
    *last = number_in(client_detail(call, "last_key"));
    char words[100];
    snprintf(words, sizeof words, "keys from %s to ", text_of(*first));
    cr_assert_not_null(strstr(client_message(call), words), "%s", client_message(call));
    cr_assert_str_eq(strstr(client_message(call), " to ") + 4, text_of(*last));
    expect_end(call, GRPC_STATUS_DATA_LOSS, "CHECKSUM");
}

static client_call *multi_get(int a, int b) {
    Varve__V1__MultiGetRequest request = VARVE__V1__MULTI_GET_REQUEST__INIT;
    char key[16];
    strcpy(key, key_of(a));
    ProtobufCBinaryData keys[] = {BYTES(key), BYTES(key_of(b))};
    request.keys = keys;
    request.n_keys = 2;
    return client_start_unary(fx.client, "/varve.v1.KV/MultiGet", client_pack(&request), CLIENT_DEADLINE_MS);
}

static client_call *scan(bool reverse) {
    Varve__V1__ScanRequest request = VARVE__V1__SCAN_REQUEST__INIT;
    request.reverse = reverse;
    client_call *call = client_start(fx.client, "/varve.v1.KV/Scan", CLIENT_DEADLINE_MS);
    client_send(call, client_pack(&request));
    client_half_close(call);
    vv_slice message;
    while (client_read(call, &message))
        ;
    return call;
}

Test(bad_block, every_read_that_meets_it_names_the_keys_that_are_affected) {
    int first, last, first_too, last_too, bad = 0;
    start_damaged();
    int one = 0;
    for (int i = 0; i < KEYS; i++)
        if (!found(i)) {
            bad++;
            one = i;
        }
    cr_assert(bad > 5 && bad < 40, "%d keys of a block", bad);
    expect_loss(call_get(key_of(one)), &first, &last);
    cr_assert_eq(last, one);
    /* The last key of the block before may go on in this one. */
    cr_assert_eq(last - first, bad);
    cr_assert(found(first) && found(last + 1));

    expect_loss(multi_get(0, one), &first_too, &last_too);
    cr_assert(first_too == first && last_too == last);
    for (int reverse = 0; reverse < 2; reverse++) {
        expect_loss(scan(reverse), &first_too, &last_too);
        cr_assert(first_too == first && last_too == last);
    }
    cr_assert_eq(engine_tap_pinned(), 0);
}
