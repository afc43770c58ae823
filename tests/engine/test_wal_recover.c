#include "tests/engine/wal_fixture.h"

TestSuite(wal_recover, .init = fx_setup, .fini = fx_teardown);

/* ---- looking at a segment as the reader does ---- */

#define FRAMES_MAX 4096

typedef struct segment_view {
    uint8_t *bytes;
    size_t count;
    vv_wal_segment_head head;
    uint64_t seed;
    int frame_count;
    uint64_t at[FRAMES_MAX];
    vv_wal_frame_head frames[FRAMES_MAX];
} segment_view;

static segment_view *look(uint64_t seq) {
    segment_view *v = calloc(1, sizeof *v);
    v->bytes = fx_file_read(fx_path(seq), &v->count);
    cr_assert(v->bytes, "%s", fx_path(seq));
    must(vv_wal_segment_head_decode(v->bytes, &v->head));
    v->seed = vv_wal_segment_seed(&v->head);
    for (uint64_t at = v->head.block_bytes; at < v->head.segment_bytes && v->frame_count < FRAMES_MAX;
         at += v->head.block_bytes) {
        vv_wal_frame_head *f = &v->frames[v->frame_count];
        if (vv_wal_frame_head_decode(v->bytes + at, v->seed, f))
            v->at[v->frame_count++] = at;
    }
    return v;
}

static void forget(segment_view *v) {
    free(v->bytes);
    free(v);
}

static uint64_t used_bytes(const segment_view *v, int frame) {
    return VV_WAL_FRAME_HEAD_BYTES + v->frames[frame].payload_bytes;
}

/* Stop the log without a clean close: what the files hold now is what a crash leaves behind. */
static void crash(void) {
    fx_image image;
    fx_image_take(&image);
    fx_close();
    fx_image_restore(&image);
    fx_image_free(&image);
}

static void refused(vv_code code, vv_sub sub) {
    fx_image before;
    fx_image_take(&before);
    vv_status st = fx_open_status(0);
    cr_assert(vv_is(st, code) && st.sub == sub, "got %s %s: %s", vv_code_name(st.code), vv_sub_name(st.sub),
              fx_err.text);
    cr_assert(strstr(fx_err.text, "wal-"), "names no file: %s", fx_err.text);
    cr_assert(fx_image_same(&before), "a refused log was changed");
    fx_image_free(&before);
}

static void flip(uint64_t seq, uint64_t at, uint8_t with) {
    int fd = open(fx_path(seq), O_RDWR);
    uint8_t byte;
    cr_assert_eq(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= with;
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* ---- torn tails ---- */

static void cut_everywhere(bool garbage) {
    uint64_t seed = vv_test_seed();
    fx_in_memory();
    fx_options.segment_bytes = 16 * 1024; /* many openings */
    fx_open(0);
    fx_put(2);
    must(fx_append(fx_wal, 3));
    must(fx_append(fx_wal, 4));
    vv_wal_commit(fx_wal, true);
    must(vv_wal_sync(fx_wal));
    crash();
    fx_image image;
    fx_image_take(&image);
    segment_view *v = look(1);
    cr_assert_eq(v->frame_count, 3);
    uint64_t at = v->at[2], used = used_bytes(v, 2);
    for (uint64_t cut = 0; cut < used; cut++) {
        uint64_t rest = vv_wal_frame_bytes(v->frames[2].payload_bytes, v->head.block_bytes) - cut;
        uint8_t *fill = calloc(1, rest);
        for (uint64_t i = 0; garbage && i < rest; i++)
            fill[i] = (uint8_t)vv_test_random(&seed);
        fill[0] = (uint8_t)~v->bytes[at + cut]; /* different for certain */
        fx_image_restore(&image);
        fx_file_patch(fx_path(1), fill, rest, at + cut);
        free(fill);
        fx_open(0);
        cr_assert_eq(fx_replay_count, 2, "cut at %" PRIu64, cut);
        cr_assert(strstr(fx_log, "behind record 2"), "says nothing: %s", fx_log);
        cr_assert_eq(vv_wal_last_lsn(fx_wal), 2);
        if (cut % 64 == 5) { /* life goes on, and the cut frame does not come back */
            fx_put(2);
            fx_close();
            fx_open(0);
            cr_assert_eq(fx_replay_count, 4);
        }
        fx_close();
    }
    forget(v);
    fx_image_free(&image);
}

Test(wal_recover, torn_tail_is_cut_at_every_byte) {
    cut_everywhere(false);
}

Test(wal_recover, torn_tail_full_of_garbage_is_cut_at_every_byte) {
    cut_everywhere(true);
}

/* Turn the last frame into one that was in flight together with the one before it. */
static void make_unaware(uint64_t seq, uint64_t durable_lsn) {
    segment_view *v = look(seq);
    int last = v->frame_count - 1;
    vv_wal_frame_head head = v->frames[last];
    head.durable_lsn = durable_lsn;
    uint8_t bytes[VV_WAL_FRAME_HEAD_BYTES];
    vv_wal_frame_head_encode(bytes, &head, v->seed);
    fx_file_patch(fx_path(seq), bytes, sizeof bytes, v->at[last]);
    forget(v);
}

Test(wal_recover, a_frame_in_flight_behind_a_torn_one_is_cut_too) {
    fx_open(0);
    fx_put(6);
    crash();
    make_unaware(1, 4);
    segment_view *v = look(1);
    flip(1, v->at[4] + 70, 1); /* record 5 */
    forget(v);
    for (int round = 0; round < 3; round++) {
        fx_open(0);
        cr_assert_eq(fx_replay_count, 4);
        cr_assert(strstr(fx_log, "torn tail cut"), "%s", fx_log);
        crash();
    }
    fx_open(0);
    fx_put(3); /* records 5 to 7 in the next segment; the old 6 stays where it is */
    crash();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 7);
    fx_close();
}

Test(wal_recover, openings_after_a_crash_do_not_pile_up_files) {
    fx_open(0);
    fx_put(3);
    for (int round = 0; round < 10; round++) {
        crash();
        fx_open(0);
        cr_assert_eq(fx_replay_count, 3);
    }
    cr_assert_leq(fx_file_count(), 4);
    fx_close();
}

/* Before, a close frame's number was not given again. */
Test(wal_recover, a_log_that_counted_its_close_frames_is_read) {
    fx_open(0);
    fx_put(2);
    fx_close();
    fx_open(0);
    fx_put(2);
    crash();
    segment_view *v = look(2);
    cr_assert_eq(v->frame_count, 2);
    for (int i = 0; i < v->frame_count; i++) {
        uint8_t bytes[VV_WAL_FRAME_HEAD_BYTES];
        cr_assert_eq(v->frames[i].frame_seq, (uint64_t)i + 3);
        v->frames[i].frame_seq++;
        vv_wal_frame_head_encode(bytes, &v->frames[i], v->seed);
        fx_file_patch(fx_path(2), bytes, sizeof bytes, v->at[i]);
    }
    forget(v);
    fx_open(0);
    cr_assert_eq(fx_replay_count, 4);
    fx_close();
}

/* ---- damage ---- */

Test(wal_recover, damage_to_any_byte_that_was_durable_is_refused) {
    fx_in_memory();
    fx_options.segment_bytes = 32 * 1024;
    fx_open(0);
    fx_put(4);
    crash();
    fx_image image;
    fx_image_take(&image);
    segment_view *v = look(1);
    for (int frame = 0; frame < 3; frame++) {
        for (uint64_t i = 0; i < used_bytes(v, frame); i++) {
            flip(1, v->at[frame] + i, (uint8_t)(1 << (i % 8)));
            vv_status st = fx_open_status(0);
            cr_assert(vv_is(st, VV_CORRUPTION) && st.sub == VV_SUB_LOG_GAP, "frame %d byte %" PRIu64 ": %s",
                      frame, i, vv_ok(st) ? "accepted" : fx_err.text);
            char offset[32];
            snprintf(offset, sizeof offset, "offset %" PRIu64, v->at[frame]);
            cr_assert(strstr(fx_err.text, offset) && strstr(fx_err.text, fx_path(1)), "%s", fx_err.text);
            flip(1, v->at[frame] + i, (uint8_t)(1 << (i % 8)));
        }
    }
    cr_assert(fx_image_same(&image));
    /* Padding is nobody's. */
    flip(1, v->at[1] + used_bytes(v, 1), 0xff);
    flip(1, v->at[2] - 1, 0xff);
    fx_open(0);
    cr_assert_eq(fx_replay_count, 4);
    fx_close();
    forget(v);
    fx_image_free(&image);
}

Test(wal_recover, a_torn_frame_still_testifies) {
    fx_open(0);
    fx_put(4);
    crash();
    segment_view *v = look(1);
    flip(1, v->at[2] + 70, 1);
    flip(1, v->at[3] + 70, 1); /* torn, but its head knows that 3 was durable */
    forget(v);
    refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
}

Test(wal_recover, damage_to_the_last_record_of_a_closed_log_is_refused) {
    fx_open(0);
    fx_put(4);
    fx_close();
    segment_view *v = look(1);
    cr_assert_eq(v->frame_count, 5, "four and the close frame");
    flip(1, v->at[3] + 70, 1);
    forget(v);
    refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
}

Test(wal_recover, damage_in_an_older_segment_is_refused) {
    fx_open(0);
    fx_put(60);
    crash();
    segment_view *v = look(2);
    int last = v->frame_count - 1;
    flip(2, v->at[last] + 3, 1);
    refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
    flip(2, v->at[last] + 3, 1);
    for (int i = 0; i < v->frame_count; i++) /* not one head left: the segment looks empty */
        flip(2, v->at[i], 1);
    forget(v);
    refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
}

/* Larger than what is read at a time, with one head left, where the second chunk begins. */
Test(wal_recover, a_frame_deep_in_a_segment_testifies) {
    static uint32_t sizes[32];
    const uint32_t frame_bytes = (2 << 20) - 4096;
    for (size_t lsn = 1; lsn < VV_ARRAY_COUNT(sizes); lsn++)
        sizes[lsn] = frame_bytes - 1000;
    fx_sizes = sizes;
    fx_options.segment_bytes = 12 << 20;
    fx_open(0);
    fx_put(10);
    crash();
    segment_view *v = look(2);
    cr_assert_geq(v->frame_count, 4);
    for (int i = 0; i < v->frame_count; i++)
        if (i != 1)
            flip(2, v->at[i], 1);
    cr_assert(v->head.block_bytes != 4096 || v->at[1] == 2 << 20);
    refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
    flip(2, v->at[1], 1); /* no head at all: the log seems to end with segment 1 */
    fx_open(0);
    cr_assert_eq(fx_replayed, v->frames[0].first_lsn - 1);
    fx_close();
    forget(v);
}

Test(wal_recover, damage_below_the_tables_does_not_matter) {
    fx_open(0);
    fx_put(60);
    crash();
    segment_view *v = look(1);
    flip(1, v->at[0], 1);
    flip(1, v->at[3], 1);
    uint64_t last = v->frames[v->frame_count - 1].last_lsn;
    forget(v);
    fx_open(last);
    cr_assert_eq(fx_replay_count, 60 - last);
    fx_close();
}

Test(wal_recover, a_missing_segment_is_refused) {
    fx_open(0);
    fx_put(60);
    crash();
    fx_image image;
    fx_image_take(&image);
    uint64_t current = 1;
    while (fx_exists(current + 1))
        current++;
    cr_assert_geq(current, 5);
    for (uint64_t seq = 1; seq <= current; seq++) {
        segment_view *v = look(seq);
        bool holds_data = v->frame_count > 0;
        forget(v);
        fx_image_restore(&image);
        unlink(fx_path(seq));
        if (holds_data)
            refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
        fx_image_restore(&image);
    }
    fx_image_free(&image);
}

Test(wal_recover, damage_to_any_byte_of_a_segment_header_is_refused) {
    fx_open(0);
    fx_put(40);
    crash();
    for (uint64_t seq = 1; seq <= 3; seq++)
        for (uint64_t i = 0; i < VV_WAL_SEGMENT_HEAD_BYTES; i++) {
            flip(seq, i, 0x10);
            vv_status st = fx_open_status(0);
            bool newer = i >= 8 && i < 12;
            cr_assert(vv_is(st, newer ? VV_UNSUPPORTED : VV_CORRUPTION), "byte %" PRIu64, i);
            flip(seq, i, 0x10);
        }
    fx_open(0);
    cr_assert_eq(fx_replay_count, 40);
    fx_close();
}

Test(wal_recover, a_newer_version_is_refused) {
    fx_open(0);
    fx_put(3);
    fx_close();
    uint8_t version[4];
    vv_put_be32(version, VV_WAL_FORMAT_VERSION + 1);
    fx_file_patch(fx_path(1), version, 4, 8);
    refused(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER);
    cr_assert(strstr(fx_err.text, "newer version"), "%s", fx_err.text);
}

Test(wal_recover, a_segment_of_another_log_is_refused) {
    fx_open(0);
    fx_put(40);
    crash();
    size_t bytes;
    uint8_t *foreign = fx_file_read(fx_path(2), &bytes);
    fx_wipe();
    fx_open(0);
    fx_put(40);
    crash();
    fx_file_patch(fx_path(2), foreign, bytes, 0);
    free(foreign);
    refused(VV_CORRUPTION, VV_SUB_BAD_LAYOUT);
    cr_assert(strstr(fx_err.text, "another log"), "%s", fx_err.text);
}

Test(wal_recover, a_renamed_segment_is_refused) {
    fx_open(0);
    fx_put(40);
    crash();
    char from[512];
    snprintf(from, sizeof from, "%s", fx_path(1));
    cr_assert_eq(rename(from, fx_path(2)), 0);
    refused(VV_CORRUPTION, VV_SUB_BAD_LAYOUT);
}

Test(wal_recover, a_short_file_is_refused) {
    fx_open(0);
    fx_put(40);
    crash();
    fx_image image;
    fx_image_take(&image);
    const off_t cuts[] = {0, 10, 512, 4096, 8192, 64 * 1024 - 1};
    for (size_t i = 0; i < VV_ARRAY_COUNT(cuts); i++) {
        cr_assert_eq(truncate(fx_path(2), cuts[i]), 0);
        refused(VV_CORRUPTION, VV_SUB_TRUNCATED);
        fx_image_restore(&image);
    }
    fx_image_free(&image);
}

/* ---- recycling ---- */

/* Release, and wait until only the segment in use is left. */
static void release_all(uint64_t lsn) {
    vv_wal_stats s;
    fx_release(lsn);
    do {
        vv_wal_stats_get(fx_wal, &s);
        usleep(200);
    } while (s.segment_count > 1);
}

Test(wal_recover, stale_frames_of_a_recycled_segment_are_not_replayed) {
    fx_open(0);
    for (int round = 0; round < 12; round++) {
        fx_put(20);
        release_all(vv_wal_last_lsn(fx_wal));
    }
    uint64_t last = vv_wal_last_lsn(fx_wal);
    fx_put(1); /* whatever segment this is in has lived before */
    release_all(last);
    crash();
    uint64_t seq = 1;
    while (!fx_exists(seq))
        seq++;
    segment_view *v = look(seq);
    int foreign = 0;
    for (uint64_t at = v->at[v->frame_count - 1] + v->head.block_bytes; at < v->head.segment_bytes;
         at += v->head.block_bytes)
        foreign += memcmp(v->bytes + at, "VWFM", 4) == 0;
    cr_assert(foreign > 0, "the segment was not recycled, or is full");
    forget(v);
    fx_open(last);
    cr_assert_eq(fx_replay_count, 1);
    cr_assert_eq(fx_replayed, last + 1);
    cr_assert_null(strstr(fx_log, "torn"), "%s", fx_log);
    fx_close();
}

/* The harshest case: the number comes back, and so do the LSN and the frame number that the stale frame
 * behind the new one has. Only the salt tells them apart. */
Test(wal_recover, a_frame_that_was_cut_does_not_return_when_its_segment_does) {
    fx_options.segment_bytes = 16 * 1024;
    fx_open(0);
    vv_wal_stats stats;
    do { /* until the second segment is in use */
        fx_put(1);
        vv_wal_stats_get(fx_wal, &stats);
    } while (stats.segment_count < 2);
    segment_view *first = look(1);
    uint64_t last_of_first = first->frames[first->frame_count - 1].last_lsn;
    forget(first);
    while (vv_wal_last_lsn(fx_wal) < last_of_first + 2)
        fx_put(1);
    crash();
    unlink(fx_path(3)); /* as if the crash had come before it was ready: the second is what gets recycled */
    segment_view *v = look(2);
    cr_assert_eq(v->frame_count, 2);
    make_unaware(2, last_of_first);
    flip(2, v->at[0] + 20, 1);
    forget(v);
    fx_open(0);
    cr_assert_eq(fx_replay_count, last_of_first);
    fx_put(1);
    crash();
    v = look(2);
    cr_assert_eq(v->head.seq, 2);
    cr_assert_eq(memcmp(v->bytes + v->at[0] + v->head.block_bytes, "VWFM", 4), 0, "the stale frame is gone");
    forget(v);
    fx_open(0);
    cr_assert_eq(fx_replay_count, last_of_first + 1);
    fx_close();
}

/* The ring of a killed process may still have had a write on its way when the next one read the log. */
Test(wal_recover, a_frame_that_arrives_after_it_was_cut_does_not_return) {
    static const uint8_t zeros[VV_WAL_BLOCK_BYTES_MAX];
    fx_open(0);
    fx_put(4);
    crash();
    segment_view *v = look(1);
    cr_assert_eq(v->frame_count, 4);
    uint64_t late_bytes = 2 * (uint64_t)v->head.block_bytes;
    cr_assert_eq(v->at[3] - v->at[2], v->head.block_bytes);
    fx_file_patch(fx_path(1), zeros, late_bytes, v->at[2]);
    fx_open(0);
    cr_assert_eq(fx_replay_count, 2);
    fx_put(1);
    crash();
    fx_file_patch(fx_path(1), v->bytes + v->at[2], late_bytes, v->at[2]);
    fx_open(0);
    cr_assert_eq(fx_replay_count, 3);
    fx_put(3);
    fx_close();
    fx_open(0);
    cr_assert_eq(fx_replay_count, 6);
    fx_close();
    forget(v);
}

Test(wal_recover, padding_is_zero) {
    fx_open(0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 30; i++) /* a long frame, and then a short one in the same buffer */
            must(fx_append(fx_wal, vv_wal_last_lsn(fx_wal) + 1));
        fx_put(5);
    }
    crash();
    segment_view *v = look(1);
    for (int i = 0; i < v->frame_count; i++) {
        uint64_t end = v->at[i] + vv_wal_frame_bytes(v->frames[i].payload_bytes, v->head.block_bytes);
        for (uint64_t at = v->at[i] + used_bytes(v, i); at < end; at++)
            cr_assert_eq(v->bytes[at], 0);
    }
    forget(v);
}

Test(wal_recover, raw_files_are_material_and_never_data) {
    fx_open(0);
    fx_put(5);
    crash();
    size_t bytes;
    uint8_t *copy = fx_file_read(fx_path(1), &bytes);
    char raw[512];
    for (int i = 0; i < 3; i++) { /* of the right size, valid frames and all; too small; empty */
        snprintf(raw, sizeof raw, "%s/wal-%016x.tmp", fx_dir, 7 + i);
        fx_file_patch(raw, copy, i == 0 ? bytes : i == 1 ? 5000 : 0, 0);
    }
    free(copy);
    snprintf(raw, sizeof raw, "%s/wal-note.txt", fx_dir);
    fx_file_patch(raw, "mine", 4, 0);
    fx_open(0);
    cr_assert_eq(fx_replay_count, 5);
    fx_put(40);
    fx_close();
    cr_assert_eq(access(raw, F_OK), 0, "a file that is not the log's was touched");
    for (int i = 0; i < 3; i++) {
        snprintf(raw, sizeof raw, "%s/wal-%016x.tmp", fx_dir, 7 + i);
        cr_assert_neq(access(raw, F_OK), 0, "%s is still there", raw);
    }
    fx_open(0);
    cr_assert_eq(fx_replay_count, 45);
    fx_close();
}

/* ---- hostile bytes ---- */

Test(wal_recover, spoilt_files_never_crash_and_never_give_wrong_data) {
    uint64_t seed = vv_test_seed();
    fx_in_memory();
    fx_options.segment_bytes = 16 * 1024;
    fx_open(0);
    fx_put(9);
    crash();
    fx_image image;
    fx_image_take(&image);
    int accepted = 0, count = 0;
    for (int round = 0; round < 400; round++) {
        fx_image_restore(&image);
        uint64_t seq = 1 + vv_test_random(&seed) % 4;
        if (!fx_exists(seq))
            continue;
        uint8_t noise[400];
        size_t bytes = round % 2 ? 1 : 1 + vv_test_random(&seed) % sizeof noise;
        for (size_t k = 0; k < bytes; k++)
            noise[k] = round % 5 ? (uint8_t)vv_test_random(&seed) : 0xff;
        fx_file_patch(fx_path(seq), noise, bytes, vv_test_random(&seed) % (16 * 1024 - bytes));
        count++;
        if (vv_ok(fx_open_status(0))) { /* fx_replay() checks every byte and the order */
            accepted++;
            /* One byte can only hurt the last frame unseen; a longer run also the one before it, together
             * with the last one's head that would have told. */
            cr_assert_geq(fx_replay_count, bytes == 1 ? 8 : 7, "round %d", round);
            fx_close();
        }
    }
    cr_assert(accepted > 0 && accepted < count, "%d of %d", accepted, count);
    fx_image_free(&image);
}

/* A frame whose checksums are right and whose contents are not. */
static void forge(const vv_wal_frame_head *like, const void *payload, size_t bytes) {
    segment_view *v = look(1);
    uint8_t *frame = calloc(1, VV_WAL_FRAME_HEAD_BYTES + bytes);
    vv_wal_frame_head head = *like;
    head.frame_seq = v->frames[v->frame_count - 1].frame_seq + 1;
    head.first_lsn = head.first_lsn ? head.first_lsn : v->frames[v->frame_count - 1].last_lsn + 1;
    head.last_lsn = head.last_lsn ? head.last_lsn : head.first_lsn;
    head.payload_bytes = head.payload_bytes ? head.payload_bytes : bytes;
    head.payload_checksum = vv_checksum(payload, bytes, v->seed);
    vv_wal_frame_head_encode(frame, &head, v->seed);
    memcpy(frame + VV_WAL_FRAME_HEAD_BYTES, payload, bytes);
    uint64_t at = v->at[v->frame_count - 1] +
                  vv_wal_frame_bytes(v->frames[v->frame_count - 1].payload_bytes, v->head.block_bytes);
    fx_file_patch(fx_path(1), frame, VV_WAL_FRAME_HEAD_BYTES + bytes, at);
    free(frame);
    forget(v);
}

Test(wal_recover, forged_frames_with_absurd_contents_are_refused_or_cut) {
    fx_open(0);
    fx_put(2);
    crash();
    fx_image image;
    fx_image_take(&image);
    uint8_t noise[300];
    memset(noise, 0xab, sizeof noise);
    forge(&(vv_wal_frame_head){.record_count = 1}, noise, sizeof noise); /* no record */
    refused(VV_CORRUPTION, VV_SUB_BAD_LAYOUT);
    fx_image_restore(&image);
    forge(&(vv_wal_frame_head){.record_count = UINT32_MAX, .last_lsn = UINT64_MAX}, noise, 8);
    refused(VV_CORRUPTION, VV_SUB_BAD_LAYOUT);
    fx_image_restore(&image);
    forge(&(vv_wal_frame_head){.record_count = 1, .payload_bytes = INT64_MAX}, noise, 8); /* past the end */
    fx_open(0);
    cr_assert_eq(fx_replay_count, 2);
    fx_close();
    fx_image_restore(&image);
    forge(&(vv_wal_frame_head){.record_count = 1, .first_lsn = 99}, noise, 8); /* whole, but not the next */
    refused(VV_CORRUPTION, VV_SUB_LOG_GAP);
    fx_image_free(&image);
}

static vv_status stop_at_two(void *arg, const vv_record *rec) {
    (void)arg;
    return rec->first_lsn == 2 ? vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0) : VV_STATUS_OK;
}

Test(wal_recover, a_failing_replay_is_the_failure_of_open) {
    fx_open(0);
    fx_put(3);
    fx_close();
    vv_wal *w;
    cr_assert(vv_is(vv_wal_open(&fx_options, stop_at_two, NULL, &w, &fx_err), VV_NO_MEMORY));
    cr_assert_null(w);
    cr_assert(vv_is(vv_wal_open(&fx_options, stop_at_two, NULL, &w, NULL), VV_NO_MEMORY));
}
