/*
 * The window that recovery reads segments through, over each backend, and over one that completes requests
 * newest first.
 */
#include "tests/engine/wal_fault_io.h"

#include "engine/wal/wal_window.h"

static uint8_t *bytes;
static size_t byte_count;
static char path[300];
static vv_file *file;
static vv_wal_window *window;

static void setup(void) {
    fault_setup();
}

static void teardown(void) {
    vv_wal_window_destroy(window);
    vv_file_close(file);
    free(bytes);
    fx_teardown();
}

TestSuite(wal_window, .init = setup, .fini = teardown, .timeout = 60);

/* A file of `count` bytes that are all different from their neighbours', and a window to look at it. */
static void make_file(vv_io_backend *b, size_t count) {
    vv_wal_window_destroy(window);
    vv_file_close(file);
    snprintf(path, sizeof path, "%s/file", fx_dir);
    bytes = realloc(bytes, count + 8);
    byte_count = count;
    for (size_t i = 0; i < count; i += 8)
        memcpy(bytes + i, &(uint64_t){(i + 1) * UINT64_C(0x9E3779B97F4A7C15)}, 8);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes, 1, count, f) == count && fclose(f) == 0);
    must(vv_file_open(b, path, VV_OPEN_READ | VV_OPEN_DIRECT, &file, &fx_err));
    must(vv_wal_window_create(b, &window, &fx_err));
}

static void expect(uint64_t at, uint64_t wanted, bool there) {
    vv_slice s;
    must(vv_wal_window_get(window, at, wanted, &s));
    cr_assert_eq(s.bytes, there ? wanted : 0, "%" PRIu64 " bytes at %" PRIu64, wanted, at);
    cr_assert(!there || memcmp(s.data, bytes + at, wanted) == 0, "%" PRIu64 " bytes at %" PRIu64, wanted, at);
}

/* As recovery does: a head, then all of the frame, then what follows it; sometimes far ahead. */
static void walk(uint64_t end, uint64_t *seed) {
    static const uint64_t sizes[] = {64, 5000, 300000, 1 << 20, 3 << 20, 9 << 20};
    vv_wal_window_start(window, file, end);
    uint64_t there = VV_MIN(end, byte_count);
    for (uint64_t at = 512 * (vv_test_random(seed) % 100); at < there;) {
        uint64_t wanted = 64 + vv_test_random(seed) % sizes[vv_test_random(seed) % VV_ARRAY_COUNT(sizes)];
        expect(at, 64, at + 64 <= there);
        expect(at, wanted, at + wanted <= there);
        at += vv_test_random(seed) % 64 == 0 ? vv_test_random(seed) % (7 << 20) : vv_align_up(wanted, 512);
    }
    expect(there, 1, false);
}

static void walk_often(vv_io_backend *b) {
    static const size_t counts[] = {0, 100, 4096, 70001, 2 << 20, (2 << 20) + 512, (29 << 20) + 300};
    uint64_t seed = vv_test_seed();
    for (size_t i = 0; i < VV_ARRAY_COUNT(counts); i++) {
        make_file(b, counts[i]);
        for (int n = 0; n < 20; n++) {
            walk(counts[i], &seed);
            walk(counts[i] + 8192, &seed);
            walk(counts[i] + (5 << 20), &seed);
            walk(counts[i] / 2, &seed);
            walk(66000, &seed);
        }
    }
}

Test(wal_window, shows_the_bytes_of_the_file_with_posix) {
    walk_often(fault.real);
}

Test(wal_window, shows_the_bytes_of_the_file_with_the_best_backend) {
    vv_io_backend *b;
    must(vv_io_backend_create(VV_IO_CHOICE_AUTO, NULL, &b, &fx_err));
    walk_often(b);
    vv_wal_window_destroy(window);
    vv_file_close(file);
    window = NULL;
    file = NULL;
    vv_io_backend_destroy(b);
}

Test(wal_window, does_not_care_which_chunk_arrives_first) {
    walk_often(fx_io);
}

Test(wal_window, a_step_back_begins_anew) {
    make_file(fx_io, 20 << 20);
    vv_wal_window_start(window, file, byte_count);
    expect(17 << 20, 1000, true);
    expect(5, 1000, true);
    expect(3 << 20, 1000, true);
    expect((3 << 20) - 1, 1000, true);
}

Test(wal_window, reads_nothing_twice_and_nothing_behind_the_end) {
    make_file(fx_io, 20 << 20);
    int before = fault_event_count();
    vv_wal_window_start(window, file, 12 << 20);
    for (uint64_t at = 0; at < 12 << 20; at += 300 * 1024)
        expect(at, 200 * 1024, at + 200 * 1024 <= 12 << 20);
    int reads = fault_event_count() - before;
    cr_assert_eq(reads, 6, "%d reads", reads);
    for (int i = before; i < before + reads; i++)
        for (int j = before; j < i; j++)
            cr_assert(fault.events[i].offset != fault.events[j].offset);
    vv_wal_window_start(window, file, 66000);
    expect(0, 64, true);
    expect(65536, 64, true);
    expect(65536, 500, false);
    cr_assert_eq(fault_event_count(), before + reads + 1);
}

Test(wal_window, a_failed_read_is_reported_when_its_bytes_are_wanted) {
    for (int n = 1; n <= 6; n++) {
        make_file(fx_io, 12 << 20);
        vv_wal_window_start(window, file, byte_count);
        fault_arm(F_READ, n, EIO, false);
        vv_status st = VV_STATUS_OK;
        for (uint64_t at = 0; at < byte_count && vv_ok(st); at += 1 << 20) {
            vv_slice s;
            st = vv_wal_window_get(window, at, 1 << 20, &s);
            cr_assert(vv_ok(st) || vv_is(st, VV_IO));
            cr_assert(!vv_ok(st) || memcmp(s.data, bytes + at, 1 << 20) == 0);
        }
        cr_assert(vv_is(st, VV_IO), "read %d", n);
        fault_arm(F_NONE, 0, 0, false);
    }
}

Test(wal_window, every_failed_allocation_is_reported) {
    bool done = false;
    make_file(fault.real, 20 << 20);
    for (uint64_t n = 1; !done; n++) {
        cr_assert_lt(n, 50);
        vv_wal_window_destroy(window);
        window = NULL;
        vv_alloc_fail_at(n);
        uint64_t last = vv_alloc_count() + n;
        vv_slice s;
        vv_status st = vv_wal_window_create(fault.real, &window, &fx_err);
        if (vv_ok(st)) {
            vv_wal_window_start(window, file, byte_count);
            st = vv_wal_window_get(window, 5, 9 << 20, &s);
        }
        done = vv_alloc_count() < last;
        cr_assert(done ? vv_ok(st) : vv_is(st, VV_NO_MEMORY));
        vv_alloc_fail_at(0);
    }
}
