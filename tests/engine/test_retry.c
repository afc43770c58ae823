/*
 * The table of remembered writes, against a model that keeps everything.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/codec.h"
#include "engine/db/retry.h"
#include "tests/support/tempdir.h"

static vv_retry_table table;

static void setup(void) {
    vv_retry_init(&table);
}

static void teardown(void) {
    vv_retry_deinit(&table);
    VV_ASSERT(vv_retry_memory_bytes(&table) == 0);
}

TestSuite(retry, .init = setup, .fini = teardown, .timeout = 120);

static void add(vv_retry_table *t, uint64_t client, uint64_t sequence, uint64_t lsn) {
    cr_assert(vv_ok(vv_retry_reserve(t, client)));
    vv_retry_add(t, client, sequence, lsn);
}

static void expect(uint64_t client, uint64_t sequence, vv_retry_verdict verdict, uint64_t lsn) {
    uint64_t found = 0;
    vv_retry_verdict v = vv_retry_find(&table, client, sequence, &found);
    cr_assert_eq(v, verdict, "client %" PRIu64 ", sequence %" PRIu64 ": %d", client, sequence, (int)v);
    if (v == VV_RETRY_DONE)
        cr_assert_eq(found, lsn);
}

Test(retry, a_write_is_known_by_client_and_sequence) {
    expect(7, 1, VV_RETRY_NEW, 0);
    add(&table, 7, 1, 10);
    add(&table, 8, 1, 11);
    add(&table, 7, 2, 12);
    expect(7, 1, VV_RETRY_DONE, 10);
    expect(8, 1, VV_RETRY_DONE, 11);
    expect(7, 2, VV_RETRY_DONE, 12);
    expect(8, 2, VV_RETRY_NEW, 0);
}

Test(retry, the_first_lsn_stays) {
    add(&table, 7, 1, 10);
    add(&table, 7, 1, 11);
    expect(7, 1, VV_RETRY_DONE, 10);
}

Test(retry, what_is_below_a_full_window_is_too_old) {
    for (uint64_t i = 0; i < VV_RETRY_WINDOW; i++)
        add(&table, 7, 100 + i, 1 + i);
    expect(7, 100, VV_RETRY_DONE, 1);
    expect(7, 99, VV_RETRY_TOO_OLD, 0);
    add(&table, 7, 5000, 1000);
    expect(7, 100, VV_RETRY_TOO_OLD, 0);
    expect(7, 101, VV_RETRY_DONE, 2);
    expect(7, 4999, VV_RETRY_NEW, 0);
}

Test(retry, the_client_that_wrote_longest_ago_is_forgotten_first) {
    for (uint64_t id = 1; id <= VV_RETRY_CLIENTS; id++)
        add(&table, id, 1, id);
    uint64_t lsn;
    (void)vv_retry_find(&table, 2, 1, &lsn); /* looking is no use */
    add(&table, 1, 2, 5000);
    add(&table, 9999, 1, 5001);
    expect(2, 1, VV_RETRY_NEW, 0);
    expect(1, 1, VV_RETRY_DONE, 1);
    expect(3, 1, VV_RETRY_DONE, 3);
}

/* ---- images ---- */

/* A copy of the bytes, to be freed. */
static uint8_t *image_of(vv_retry_table *t, size_t *bytes_out) {
    vv_retry_image *image;
    cr_assert(vv_ok(vv_retry_image_take(t, &image)));
    vv_slice s = vv_retry_image_bytes(image);
    uint8_t *copy = malloc(s.bytes + 1);
    if (s.bytes)
        memcpy(copy, s.data, s.bytes);
    *bytes_out = s.bytes;
    vv_retry_image_unref(image);
    return copy;
}

static void check_round_trip(void) {
    vv_retry_table other;
    size_t bytes, other_bytes;
    vv_retry_init(&other);
    uint8_t *image = image_of(&table, &bytes);
    cr_assert(vv_ok(vv_retry_load(&other, vv_slice_make(image, bytes), UINT64_MAX)));
    uint8_t *again = image_of(&other, &other_bytes);
    cr_assert(bytes == other_bytes && memcmp(image, again, bytes) == 0);
    free(image);
    free(again);
    vv_retry_deinit(&other);
}

Test(retry, an_empty_table_has_an_empty_image) {
    vv_retry_image *image;
    cr_assert(vv_ok(vv_retry_image_take(&table, &image)));
    cr_assert_null(image);
    cr_assert_eq(vv_retry_image_bytes(image).bytes, 0);
    check_round_trip();
}

Test(retry, an_image_is_shared_until_the_table_changes_and_then_keeps_its_state) {
    vv_retry_image *a, *b, *c;
    add(&table, 7, 1, 10);
    cr_assert(vv_ok(vv_retry_image_take(&table, &a)));
    cr_assert(vv_ok(vv_retry_image_take(&table, &b)));
    cr_assert_eq(a, b);
    size_t bytes = vv_retry_image_bytes(a).bytes;
    add(&table, 7, 2, 11);
    cr_assert(vv_ok(vv_retry_image_take(&table, &c)));
    cr_assert_eq(vv_retry_image_bytes(a).bytes, bytes);
    cr_assert_eq(vv_retry_image_bytes(c).bytes, bytes + 16);
    vv_retry_image_unref(a);
    vv_retry_image_unref(b);
    vv_retry_image_unref(c);
}

/* ---- against the model ---- */

#define MODEL_CLIENTS 2400
#define MODEL_NAMES   600

/* LSN by client and sequence, and the last LSN of each client. */
static uint64_t done[MODEL_CLIENTS][MODEL_NAMES];
static uint64_t wrote[MODEL_CLIENTS];

static bool model_remembers(int client) {
    int newer = 0;
    for (int i = 0; i < MODEL_CLIENTS; i++)
        newer += wrote[i] > wrote[client];
    return wrote[client] != 0 && newer < VV_RETRY_CLIENTS;
}

static vv_retry_verdict model_find(int client, int sequence) {
    if (!model_remembers(client))
        return VV_RETRY_NEW;
    if (done[client][sequence])
        return VV_RETRY_DONE;
    int above = 0, below = 0;
    for (int i = 1; i < MODEL_NAMES; i++) {
        above += done[client][i] && i > sequence;
        below += done[client][i] && i < sequence;
    }
    return above >= VV_RETRY_WINDOW ? VV_RETRY_TOO_OLD : VV_RETRY_NEW;
}

/* What fell out of the window is not in the model either. */
static void model_add(int client, int sequence, uint64_t lsn) {
    if (!model_remembers(client))
        memset(done[client], 0, sizeof done[client]);
    done[client][sequence] = lsn;
    wrote[client] = lsn;
    int kept = 0;
    for (int i = MODEL_NAMES - 1; i > 0; i--)
        if (done[client][i] && ++kept > VV_RETRY_WINDOW)
            done[client][i] = 0;
}

Test(retry, random_writes_agree_with_a_model_that_keeps_everything) {
    uint64_t seed = vv_test_seed();
    uint64_t lsn = 0;
    for (int step = 0; step < 60000; step++) {
        /* Some clients often enough to fill their windows, all others to be forgotten. */
        uint64_t r = vv_test_random(&seed);
        int client = r % 3 ? (int)(r >> 8 & 3) : (int)((r >> 8) % MODEL_CLIENTS);
        int sequence = 1 + (int)((r >> 32) % (MODEL_NAMES - 1));
        vv_retry_verdict verdict = model_find(client, sequence);
        expect((uint64_t)client + 1, (uint64_t)sequence, verdict, done[client][sequence]);
        if (verdict == VV_RETRY_NEW) {
            add(&table, (uint64_t)client + 1, (uint64_t)sequence, ++lsn);
            model_add(client, sequence, lsn);
        }
        if (step % 10000 == 0)
            check_round_trip();
    }
    check_round_trip();
}

/* ---- damage and want ---- */

static vv_status load(const uint8_t *bytes, size_t count, uint64_t lsn_max) {
    vv_retry_table t;
    vv_retry_init(&t);
    vv_status st = vv_retry_load(&t, vv_slice_make(bytes, count), lsn_max);
    vv_retry_deinit(&t);
    return st;
}

Test(retry, impossible_images_are_refused) {
    size_t bytes;
    add(&table, 7, 1, 10);
    add(&table, 7, 2, 11);
    add(&table, 8, 1, 12);
    uint8_t *image = image_of(&table, &bytes);
    cr_assert_eq(bytes, 4 + 12 + 2 * 16 + 12 + 16);
    cr_assert(vv_ok(load(image, bytes, 12)));
    cr_assert_eq(load(image, bytes, 11).code, VV_CORRUPTION, "newer than it may be");
    for (size_t n = 1; n < bytes; n++)
        cr_assert_eq(load(image, n, 12).code, VV_CORRUPTION, "cut to %zu", n);
    image[bytes] = 0;
    cr_assert_eq(load(image, bytes + 1, 12).code, VV_CORRUPTION, "a byte too many");
    static const struct {
        size_t at;
        uint8_t byte;
    } changes[] = {
        {3, 0},           /* no clients */
        {3, 1},           /* fewer than there are */
        {0, 0xff},        /* more than may be */
        {4 + 7, 0},       /* client 0 */
        {4 + 7, 8},       /* a client twice */
        {4 + 11, 0},      /* no writes */
        {4 + 11, 3},      /* more than there are */
        {4 + 8, 0xff},    /* more than may be */
        {16 + 7, 0},      /* sequence 0 */
        {16 + 16 + 7, 1}, /* not ascending */
        {16 + 8 + 7, 0},  /* LSN 0 */
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(changes); i++) {
        uint8_t was = image[changes[i].at];
        image[changes[i].at] = changes[i].byte;
        cr_assert_eq(load(image, bytes, 12).code, VV_CORRUPTION, "change %zu", i);
        image[changes[i].at] = was;
    }
    cr_assert(vv_ok(load(image, bytes, 12)));
    free(image);
}

Test(retry, without_memory_nothing_changes) {
    for (uint64_t sequence = 1; sequence <= 40; sequence++)
        for (uint64_t n = 1;; n++) {
            vv_alloc_fail_at(n);
            vv_status st = vv_retry_reserve(&table, 7);
            vv_alloc_fail_at(0);
            expect(7, sequence, VV_RETRY_NEW, 0);
            if (vv_ok(st)) {
                vv_retry_add(&table, 7, sequence, sequence);
                break;
            }
            cr_assert_eq(st.code, VV_NO_MEMORY);
        }
    vv_retry_image *image;
    vv_alloc_fail_at(1);
    cr_assert_eq(vv_retry_image_take(&table, &image).code, VV_NO_MEMORY);
    cr_assert_null(image);
    for (uint64_t sequence = 1; sequence <= 40; sequence++)
        expect(7, sequence, VV_RETRY_DONE, sequence);
}
