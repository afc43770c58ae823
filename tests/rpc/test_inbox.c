#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "rpc/inbox.h"

static vv_inbox inbox;

static void init(void) {
    vv_inbox_init(&inbox);
}

static void fini(void) {
    vv_inbox_deinit(&inbox);
}

TestSuite(inbox, .init = init, .fini = fini, .timeout = 60);

static vv_status put(const void *records, size_t bytes, uint64_t last_lsn, uint64_t committed_lsn) {
    vv_follow_frame *frame = calloc(1, sizeof *frame);
    frame->records = vv_slice_make(records, bytes);
    frame->first_lsn = frame->last_lsn = last_lsn;
    frame->committed_lsn = committed_lsn;
    vv_status st = vv_inbox_put(&inbox, frame);
    free(frame);
    return st;
}

Test(inbox, gives_all_that_has_come_at_once) {
    vv_inbox_news news;
    cr_assert(vv_ok(put("ab", 2, 1, 0)));
    cr_assert(vv_ok(put("cde", 3, 2, 1)));
    cr_assert(vv_ok(put(NULL, 0, 0, 2))); /* a heartbeat says nothing of LSNs */
    cr_assert(vv_inbox_take(&inbox, &news));
    cr_assert_eq(news.records.bytes, 5);
    cr_assert_eq(memcmp(news.records.data, "abcde", 5), 0);
    cr_assert_eq(news.last_lsn, 2);
    cr_assert_eq(news.committed_lsn, 2);
    cr_assert(vv_ok(put("f", 1, 3, 2)));
    cr_assert_eq(memcmp(news.records.data, "abcde", 5), 0, "what was taken stays as it is");
    cr_assert(vv_inbox_take(&inbox, &news));
    cr_assert_eq(news.records.bytes, 1);
    cr_assert(vv_ok(put(NULL, 0, 0, 9)));
    cr_assert(vv_inbox_take(&inbox, &news));
    cr_assert_eq(news.records.bytes, 0);
    cr_assert_eq(news.committed_lsn, 9);
}

Test(inbox, closed_it_still_gives_what_is_there_unless_that_is_dropped) {
    vv_inbox_news news;
    cr_assert(vv_ok(put("a", 1, 1, 0)));
    vv_inbox_close(&inbox, false);
    cr_assert(vv_is(put("b", 1, 2, 0), VV_SHUTTING_DOWN));
    cr_assert(vv_inbox_take(&inbox, &news));
    cr_assert_eq(news.last_lsn, 1);
    cr_assert_not(vv_inbox_take(&inbox, &news));
    fini();
    init();
    cr_assert(vv_ok(put("a", 1, 1, 0)));
    vv_inbox_close(&inbox, true);
    cr_assert_not(vv_inbox_take(&inbox, &news));
}

Test(inbox, takes_one_frame_of_any_size) {
    vv_inbox_news news;
    size_t bytes = 3 * VV_INBOX_BYTES_MAX;
    char *records = calloc(1, bytes);
    cr_assert(vv_ok(put(records, bytes, 1, 0)));
    cr_assert(vv_inbox_take(&inbox, &news));
    cr_assert_eq(news.records.bytes, bytes);
    cr_assert(vv_ok(put(records, 1, 2, 0)));
    cr_assert(vv_inbox_take(&inbox, &news));
    cr_assert_leq(inbox.mu.filling.room + inbox.taken.room, VV_INBOX_BYTES_MAX, "and gives the memory back");
    free(records);
}

/* ---- two threads ---- */

enum { FRAMES = 20000, FRAME_BYTES_MAX = 3000 };

static void receive(void *arg) {
    static uint8_t records[FRAME_BYTES_MAX];
    (void)arg;
    for (uint64_t i = 1; i <= FRAMES; i++) {
        size_t bytes = (size_t)(i * 7919 % FRAME_BYTES_MAX) + 1;
        memset(records, (int)(i & 0xff), bytes);
        vv_status_ignore(put(records, bytes, i, i), "seen by the other");
    }
    vv_inbox_close(&inbox, false);
}

Test(inbox, a_receiver_who_is_faster_waits_and_nothing_is_lost) {
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "receive", receive, NULL)));
    vv_inbox_news news;
    uint64_t frame = 0;
    while (vv_inbox_take(&inbox, &news)) {
        cr_assert_leq(news.records.bytes, VV_INBOX_BYTES_MAX);
        const uint8_t *at = news.records.data, *end = at + news.records.bytes;
        for (; at < end; at += (size_t)(frame * 7919 % FRAME_BYTES_MAX) + 1)
            cr_assert_eq(*at, (uint8_t)(++frame & 0xff));
        cr_assert_eq(at, end);
        cr_assert_eq(news.last_lsn, frame);
        cr_assert_eq(news.committed_lsn, frame);
    }
    cr_assert_eq(frame, FRAMES);
    vv_thread_join(thread);
}

static void fill(void *arg) {
    (void)arg;
    static uint8_t records[VV_INBOX_BYTES_MAX];
    vv_status st = VV_STATUS_OK;
    for (uint64_t i = 1; vv_ok(st); i++)
        st = put(records, sizeof records, i, i);
}

Test(inbox, closing_it_wakes_a_receiver_who_waits) {
    pthread_t thread;
    cr_assert(vv_ok(vv_thread_start(&thread, "fill", fill, NULL)));
    for (bool full = false; !full;) {
        vv_mutex_lock(&inbox.mu.lock);
        full = inbox.mu.filling.bytes == VV_INBOX_BYTES_MAX;
        vv_mutex_unlock(&inbox.mu.lock);
    }
    vv_inbox_close(&inbox, true);
    vv_thread_join(thread);
}
