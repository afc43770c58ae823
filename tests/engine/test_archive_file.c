#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/db/archive_file.h"
#include "io/sim/io_sim.h"
#include "tests/support/fault_io.h"
#include "tests/support/tempdir.h"

static vv_io_backend *io;
static vv_error err;

static const char *fail_op;
static int fail_after;
static vv_code fail_code;

static vv_status fault(void *arg, const char *op, const char *name) {
    (void)arg, (void)name;
    if (!fail_op || strcmp(op, fail_op) != 0 || fail_after-- > 0)
        return VV_STATUS_OK;
    return vv_status_make(fail_code, VV_SUB_NONE, 0);
}

static void setup(void) {
    vv_tempdir();
    io = vv_fault_io_create(fault, NULL);
}

static void teardown(void) {
    vv_io_backend_destroy(io);
    vv_tempdir_cleanup();
}

TestSuite(archive_file, .init = setup, .fini = teardown);

static void must(vv_status st) {
    cr_assert(vv_ok(st), "%s %s: %s", vv_code_name(st.code), vv_sub_name(st.sub), err.text);
}

static const char *path(void) {
    return vv_tempdir_path("a.archive");
}

static vv_archive_writer *create(uint64_t first_lsn) {
    vv_archive_writer *w;
    vv_archive_head head = {.number = 7, .first_lsn = first_lsn, .created_unix_ms = 1000};
    memset(head.db_id, 0xd1, sizeof head.db_id);
    must(vv_archive_writer_create(io, path(), &head, &w, &err));
    return w;
}

/* A record of one put whose value is made of its LSN. */
static vv_status add(vv_archive_writer *w, uint64_t lsn, size_t value_bytes, uint64_t epoch,
                     uint64_t unix_ms) {
    uint8_t *ops = malloc(VV_OP_HEAD_BYTES + 8 + value_bytes);
    vv_entry e = {
        .kind = VV_KIND_PUT, .key = vv_slice_make(ops, 8), .value = vv_slice_make(ops, value_bytes)};
    vv_op_head_encode(ops, &e);
    vv_put_be64(ops + VV_OP_HEAD_BYTES, lsn);
    memset(ops + VV_OP_HEAD_BYTES + 8, (int)lsn, value_bytes);
    vv_record rec = {.first_lsn = lsn,
                     .op_count = 1,
                     .epoch = epoch,
                     .client_id = 5,
                     .sequence = lsn,
                     .ops = vv_slice_make(ops, VV_OP_HEAD_BYTES + 8 + value_bytes)};
    vv_status st = vv_archive_writer_add(w, &rec, &(vv_epoch){epoch, epoch * 3, epoch * 100}, unix_ms);
    free(ops);
    return st;
}

static uint64_t check_records(const vv_archive_frame *f) {
    vv_reader r = vv_reader_make(f->records);
    uint64_t lsn = f->first_lsn;
    for (uint32_t i = 0; i < f->record_count; i++) {
        vv_record rec;
        must(vv_record_decode(&r, &rec));
        must(vv_record_ops_check(&rec));
        cr_assert_eq(rec.first_lsn, lsn);
        cr_assert_eq(rec.epoch, f->epoch.epoch);
        cr_assert_eq(rec.client_id, 5);
        cr_assert_eq(rec.sequence, lsn);
        cr_assert_eq(vv_get_be64((const uint8_t *)rec.ops.data + VV_OP_HEAD_BYTES), lsn);
        lsn += rec.op_count;
    }
    cr_assert_eq(r.left_bytes, 0);
    cr_assert_eq(lsn, f->last_lsn + 1);
    return lsn - 1;
}

/* Read it all; returns the last LSN, 0 if there is none. */
static uint64_t read_all(vv_code end, uint64_t *torn_bytes_out) {
    vv_archive_reader *r;
    vv_archive_frame f;
    uint64_t last = 0;
    must(vv_archive_reader_open(io, path(), &r, &err));
    vv_status st;
    while (vv_ok(st = vv_archive_reader_next(r, &f, &err)))
        last = check_records(&f);
    cr_assert_eq(st.code, end, "ends with %s: %s", vv_code_name(st.code), err.text);
    if (torn_bytes_out)
        *torn_bytes_out = vv_archive_reader_torn_bytes(r);
    vv_archive_reader_close(r);
    return last;
}

static uint8_t *slurp(size_t *bytes_out) {
    int fd = open(path(), O_RDONLY);
    struct stat s;
    cr_assert(fd >= 0 && fstat(fd, &s) == 0);
    uint8_t *bytes = malloc((size_t)s.st_size);
    cr_assert_eq(read(fd, bytes, (size_t)s.st_size), s.st_size);
    close(fd);
    *bytes_out = (size_t)s.st_size;
    return bytes;
}

static void spill(const uint8_t *bytes, size_t count) {
    int fd = open(path(), O_WRONLY | O_TRUNC);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

Test(archive_file, gives_back_what_was_added) {
    vv_archive_reader *r;
    vv_archive_frame f;
    vv_archive_writer *w = create(41);
    must(add(w, 41, 10, 1, 5000));
    must(add(w, 42, 0, 1, 5000 + VV_ARCHIVE_FRAME_MS - 1)); /* together */
    must(add(w, 43, 5, 1, 5000 + VV_ARCHIVE_FRAME_MS));     /* too late for that */
    must(vv_archive_writer_sync(w));
    must(add(w, 44, 3, 1, 6000));
    must(add(w, 45, 3, 2, 6000)); /* another epoch */
    must(add(w, 46, 3, 2, 4000)); /* the clock was set back */
    cr_assert_eq(vv_archive_writer_last_lsn(w), 46);
    cr_assert_eq(vv_archive_writer_synced_lsn(w), 43);
    must(vv_archive_writer_sync(w));
    cr_assert_eq(vv_archive_writer_synced_lsn(w), 46);
    vv_archive_writer_close(w);

    must(vv_archive_reader_open(io, path(), &r, &err));
    const vv_archive_head *h = vv_archive_reader_head(r);
    cr_assert(h->number == 7 && h->first_lsn == 41 && h->created_unix_ms == 1000 && h->db_id[15] == 0xd1);
    static const struct {
        uint64_t first, last, epoch, unix_ms;
    } frames[] = {{41, 42, 1, 5009}, {43, 43, 1, 5010}, {44, 44, 1, 6000}, {45, 46, 2, 6000}};
    for (size_t i = 0; i < VV_ARRAY_COUNT(frames); i++) {
        must(vv_archive_reader_next(r, &f, &err));
        cr_assert(f.first_lsn == frames[i].first && f.last_lsn == frames[i].last &&
                      f.epoch.epoch == frames[i].epoch && f.epoch.id == frames[i].epoch * 100 &&
                      f.epoch.first_lsn == frames[i].epoch * 3 && f.unix_ms == frames[i].unix_ms,
                  "frame %zu: %" PRIu64 " to %" PRIu64 " at %" PRIu64, i, f.first_lsn, f.last_lsn, f.unix_ms);
        check_records(&f);
    }
    cr_assert(vv_is(vv_archive_reader_next(r, &f, &err), VV_END));
    cr_assert_eq(vv_archive_reader_torn_bytes(r), 0);
    vv_archive_reader_close(r);
}

Test(archive_file, takes_records_of_all_sizes) {
    uint64_t seed = vv_test_seed(), lsn = 0;
    vv_archive_writer *w = create(1);
    for (int i = 0; i < 300; i++) {
        uint64_t dice = vv_test_random(&seed) % 100;
        uint64_t bytes = vv_test_random(&seed) % (dice < 2 ? 9 << 20 : dice < 10 ? 700 << 10 : 3000);
        must(add(w, ++lsn, bytes, 1, i * 3));
        if (dice >= 90)
            must(vv_archive_writer_sync(w));
    }
    must(vv_archive_writer_sync(w));
    uint64_t bytes = vv_archive_writer_bytes(w);
    vv_archive_writer_close(w);
    cr_assert_eq(read_all(VV_END, NULL), lsn);
    struct stat s;
    cr_assert_eq(stat(path(), &s), 0);
    cr_assert_eq((uint64_t)s.st_size, bytes);
}

Test(archive_file, refuses_what_is_there_and_what_it_does_not_know) {
    vv_archive_head head = {.first_lsn = 1};
    vv_archive_writer *w = create(1);
    vv_archive_reader *r;
    vv_archive_writer_close(w);
    cr_assert(vv_is(vv_archive_writer_create(io, path(), &head, &w, &err), VV_EXISTS));
    size_t count;
    uint8_t *bytes = slurp(&count);
    for (size_t at = 0; at < VV_ARCHIVE_HEAD_BYTES; at++) {
        bytes[at] ^= 0x11;
        spill(bytes, count);
        vv_status st = vv_archive_reader_open(io, path(), &r, &err);
        cr_assert(!vv_ok(st) && strstr(err.text, "a.archive"), "byte %zu: %s", at, err.text);
        cr_assert(at == 7 ? st.sub == VV_SUB_FORMAT_NEWER : vv_is(st, VV_CORRUPTION), "byte %zu: %s", at,
                  vv_sub_name(st.sub));
        bytes[at] ^= 0x11;
    }
    spill(bytes, 63);
    cr_assert_eq(vv_archive_reader_open(io, path(), &r, &err).sub, VV_SUB_TRUNCATED);
    free(bytes);
}

/* Two synced writes, then one of three frames that is torn at every byte, with zeros or with garbage behind.
 */
static void tear(bool garbage) {
    uint64_t seed = vv_test_seed();
    vv_archive_writer *w = create(1);
    must(add(w, 1, 100, 1, 100));
    must(vv_archive_writer_sync(w));
    must(add(w, 2, 100, 1, 200));
    must(vv_archive_writer_sync(w));
    size_t before = vv_archive_writer_bytes(w);
    must(add(w, 3, 100, 1, 300));
    must(add(w, 4, 200, 1, 400));
    must(add(w, 5, 300, 1, 500));
    must(vv_archive_writer_sync(w));
    vv_archive_writer_close(w);
    size_t count;
    uint8_t *bytes = slurp(&count), *torn = malloc(count);
    cr_assert_eq(count, before + 4096);
    size_t used = 3 * (VV_ARCHIVE_FRAME_HEAD_BYTES + VV_RECORD_HEAD_BYTES + VV_OP_HEAD_BYTES + 8) + 600;
    for (size_t cut = 0; cut < used; cut++) {
        memcpy(torn, bytes, count);
        for (size_t i = before + cut; i < count; i++)
            torn[i] = garbage ? (uint8_t)vv_test_random(&seed) : 0;
        torn[before + cut] = (uint8_t)~bytes[before + cut];
        spill(torn, cut % 3 ? count : before + cut + 1);
        uint64_t torn_bytes, last = read_all(VV_END, &torn_bytes);
        cr_assert(last >= 2 && last <= 4 && torn_bytes > 0, "cut at %zu: up to %" PRIu64, cut, last);
        if (cut % 16 != 0)
            continue;
        /* It goes on, and what was torn does not come back. */
        must(vv_archive_writer_resume(io, path(), &w, &torn_bytes, &err));
        cr_assert(torn_bytes > 0 && vv_archive_writer_last_lsn(w) == last &&
                  vv_archive_writer_synced_lsn(w) == last);
        for (uint64_t lsn = last + 1; lsn < last + 4; lsn++)
            must(add(w, lsn, 50, 1, 1000));
        must(vv_archive_writer_sync(w));
        vv_archive_writer_close(w);
        cr_assert_eq(read_all(VV_END, &torn_bytes), last + 3);
        cr_assert_eq(torn_bytes, 0);
    }
    free(torn);
    free(bytes);
}

Test(archive_file, a_torn_end_is_cut_at_every_byte) {
    tear(false);
}

Test(archive_file, a_torn_end_full_of_garbage_is_cut_at_every_byte) {
    tear(true);
}

Test(archive_file, damage_before_what_was_synced_is_no_torn_end) {
    vv_archive_writer *w = create(1);
    for (uint64_t lsn = 1; lsn <= 4; lsn++) {
        must(add(w, lsn, 100, 1, lsn * 1000));
        must(vv_archive_writer_sync(w));
    }
    vv_archive_writer_close(w);
    size_t count;
    uint8_t *bytes = slurp(&count);
    for (size_t at = 4096; at < count; at += 7) {
        size_t block = at / 4096, within = at % 4096;
        bool used = within < VV_ARCHIVE_FRAME_HEAD_BYTES + VV_RECORD_HEAD_BYTES + VV_OP_HEAD_BYTES + 8 + 100;
        bytes[at] ^= 0x40;
        spill(bytes, count);
        /* The last write has nothing behind it to say that it was synced. */
        uint64_t last = read_all(block < 4 ? VV_CORRUPTION : VV_END, NULL);
        cr_assert_eq(last, used ? block - 1 : block, "byte %zu of block %zu: %" PRIu64, within, block, last);
        if (block < 4) {
            uint64_t torn_bytes;
            cr_assert(vv_is(vv_archive_writer_resume(io, path(), &w, &torn_bytes, &err), VV_CORRUPTION));
            size_t left;
            free(slurp(&left));
            cr_assert_eq(left, count, "a damaged file was cut");
        }
        bytes[at] ^= 0x40;
    }
    free(bytes);
}

Test(archive_file, writes_that_were_never_synced_may_be_lost_in_any_order) {
    vv_archive_writer *w = create(1);
    must(add(w, 1, 100, 1, 1));
    must(vv_archive_writer_sync(w));
    uint64_t lsn = 1;
    while (vv_archive_writer_bytes(w) < 5 << 20)
        must(add(w, ++lsn, 100 << 10, 1, 100)); /* several writes, and no sync */
    fail_op = "datasync";
    fail_code = VV_IO;
    cr_assert(!vv_ok(vv_archive_writer_sync(w)));
    fail_op = NULL;
    cr_assert(vv_archive_writer_failed(w) && vv_archive_writer_synced_lsn(w) == 1);
    cr_assert(!vv_ok(vv_archive_writer_sync(w)), "a failed sync was tried again");
    vv_archive_writer_close(w);
    size_t count;
    uint8_t *bytes = slurp(&count);
    memset(bytes + 8192, 0, 4096); /* the first page of the first of these writes */
    spill(bytes, count);
    uint64_t torn_bytes;
    cr_assert_eq(read_all(VV_END, &torn_bytes), 1);
    cr_assert_eq(torn_bytes, count - 8192);
    free(bytes);
}

Test(archive_file, what_is_gone_on_from_is_on_the_disk) {
    vv_sim_disk *disk = vv_sim_disk_create(&(vv_sim_options){.seed = 1});
    vv_io_backend *posix = io;
    io = vv_sim_backend_create(disk);
    vv_archive_head head = {.number = 7, .first_lsn = 1, .created_unix_ms = 1000};
    vv_archive_writer *w;
    vv_archive_reader *r;
    vv_archive_frame f;
    uint64_t torn, last = 0;
    must(vv_archive_writer_create(io, "/a", &head, &w, &err));
    must(vv_dir_sync(io, "/", &err));
    for (uint64_t lsn = 1; lsn <= 40; lsn++)
        must(add(w, lsn, 100000, 1, 1000));
    vv_archive_writer_close(w); /* a part was written, and nothing was synced: as after a kill */
    must(vv_archive_writer_resume(io, "/a", &w, &torn, &err));
    uint64_t synced = vv_archive_writer_synced_lsn(w);
    cr_assert_gt(synced, 10);
    vv_archive_writer_close(w);
    vv_io_backend_destroy(io);

    vv_sim_disk *after = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
    io = vv_sim_backend_create(after);
    must(vv_archive_reader_open(io, "/a", &r, &err));
    while (vv_ok(vv_archive_reader_next(r, &f, &err)))
        last = f.last_lsn;
    vv_archive_reader_close(r);
    cr_assert_geq(last, synced);
    vv_io_backend_destroy(io);
    vv_sim_disk_destroy(after);
    vv_sim_disk_destroy(disk);
    io = posix;
}

Test(archive_file, a_full_disk_loses_nothing) {
    vv_archive_writer *w = create(1);
    uint64_t lsn = 0;
    vv_status st = VV_STATUS_OK;
    fail_op = "write";
    fail_code = VV_NO_SPACE;
    while (vv_ok(st) && lsn < 1000)
        if (vv_ok(st = add(w, lsn + 1, 100 << 10, 1, lsn)))
            lsn++;
    cr_assert(vv_is(st, VV_NO_SPACE) && lsn > 5 && lsn < 20, "%s behind %" PRIu64, vv_code_name(st.code),
              lsn);
    cr_assert(vv_is(vv_archive_writer_sync(w), VV_NO_SPACE));
    cr_assert_not(vv_archive_writer_failed(w));
    fail_op = NULL;
    must(add(w, ++lsn, 10, 1, 5000));
    must(vv_archive_writer_sync(w));
    vv_archive_writer_close(w);
    cr_assert_eq(read_all(VV_END, NULL), lsn);
}

Test(archive_file, no_file_is_left_of_one_that_could_not_be_made) {
    static const char *const ops[] = {"open", "write", "sync"};
    vv_archive_head head = {.first_lsn = 1};
    vv_archive_writer *w;
    for (size_t i = 0; i < VV_ARRAY_COUNT(ops); i++) {
        fail_op = ops[i];
        fail_code = VV_NO_SPACE;
        cr_assert(vv_is(vv_archive_writer_create(io, path(), &head, &w, &err), VV_NO_SPACE), "%s", ops[i]);
        cr_assert_null(w);
        cr_assert(access(path(), F_OK) != 0, "%s left a file", ops[i]);
    }
}
