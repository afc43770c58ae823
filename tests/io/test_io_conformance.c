/*
 * One suite over every backend of tests/io/backends.h: what io.h promises, seen through io.h alone.
 */
#include <criterion/parameterized.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "tests/io/backends.h"

static vv_io_backend *io;
static const char *root;

static void begin(const test_backend *backend) {
    vv_error err = {0};
    root = backend->root();
    vv_status st = backend->create(&io, &err);
    if (vv_is(st, VV_UNSUPPORTED)) {
        fprintf(stderr, "SKIPPED for %s: %s\n", backend->name, err.text);
        cr_skip_test("%s: %s", backend->name, err.text);
    }
    cr_assert(vv_ok(st), "%s: %s", backend->name, err.text);
    cr_assert_str_eq(vv_io_backend_name(io), backend->name);
}

static void end(void) {
    vv_io_backend_destroy(io);
}

/* A test that runs once for each backend. The parameter is an index: a pointer would not survive the way into
 * the process that Criterion starts for the test. */
#define CONFORM(claim)                                                                                       \
    static void check_##claim(void);                                                                         \
    ParameterizedTestParameters(io_conformance, claim) {                                                     \
        static int indexes[TEST_BACKEND_COUNT];                                                              \
        for (int i = 0; i < (int)TEST_BACKEND_COUNT; i++)                                                    \
            indexes[i] = i;                                                                                  \
        return cr_make_param_array(int, indexes, TEST_BACKEND_COUNT, NULL);                                  \
    }                                                                                                        \
    ParameterizedTest(int *index, io_conformance, claim, .fini = vv_tempdir_cleanup) {                       \
        begin(&test_backends[*index]);                                                                       \
        check_##claim();                                                                                     \
        end();                                                                                               \
    }                                                                                                        \
    static void check_##claim(void)

#define RW (VV_OPEN_READ | VV_OPEN_WRITE)

static void must(vv_status st) {
    cr_assert(st.code == VV_OK, "%s, errno %d", vv_code_name(st.code), st.sys);
}

#define cr_assert_code(status, wanted)                                                                       \
    do {                                                                                                     \
        vv_status got_ = (status);                                                                           \
        cr_assert(got_.code == (wanted), "%s instead of %s, errno %d", vv_code_name(got_.code),              \
                  vv_code_name(wanted), got_.sys);                                                           \
    } while (0)

static const char *path_of(const char *name) {
    static char paths[8][512];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static vv_file *open_file(const char *name, uint32_t flags) {
    vv_error err = {0};
    vv_file *f;
    vv_status st = vv_file_open(io, path_of(name), flags, &f, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    return f;
}

static char *aligned(size_t bytes) {
    char *buf = aligned_alloc(VV_IO_ALIGN_BYTES, bytes);
    cr_assert(buf != NULL);
    memset(buf, 0, bytes);
    return buf;
}

static void fill(char *buf, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = vv_test_random(&seed);
        memcpy(buf + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
}

static size_t read_at(vv_file *f, void *buf, size_t bytes, uint64_t offset) {
    size_t got = 0;
    must(vv_file_read(f, buf, bytes, offset, &got));
    return got;
}

static uint64_t size_of(vv_file *f) {
    uint64_t bytes;
    must(vv_file_size(f, &bytes));
    return bytes;
}

/* ---- files ---- */

CONFORM(what_was_written_is_read_back) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    cr_assert_eq(f->align_bytes, 1u);
    must(vv_file_write(f, "hello, world", 12, 0));
    must(vv_file_write(f, "W", 1, 7));
    char got[32] = "";
    cr_assert_eq(read_at(f, got, 12, 0), 12u);
    cr_assert_str_eq(got, "hello, World");
    vv_file_close(f);

    f = open_file("f", VV_OPEN_READ);
    memset(got, 0, sizeof got);
    cr_assert_eq(read_at(f, got, 5, 7), 5u);
    cr_assert_str_eq(got, "World");
    vv_file_close(f);
}

CONFORM(a_read_is_short_only_at_the_end) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "0123456789", 10, 0));
    char got[64];
    cr_assert_eq(read_at(f, got, sizeof got, 0), 10u);
    cr_assert_eq(read_at(f, got, sizeof got, 4), 6u);
    cr_assert_eq(memcmp(got, "456789", 6), 0);
    cr_assert_eq(read_at(f, got, sizeof got, 10), 0u);
    cr_assert_eq(read_at(f, got, sizeof got, 100000), 0u);
    cr_assert_eq(read_at(f, got, 0, 0), 0u);
    vv_file_close(f);
}

CONFORM(a_hole_reads_as_zeros) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "end", 3, 100000));
    char got[16];
    memset(got, 'x', sizeof got);
    cr_assert_eq(read_at(f, got, sizeof got, 50000), sizeof got);
    for (size_t i = 0; i < sizeof got; i++)
        cr_assert_eq(got[i], 0);
    cr_assert_eq(size_of(f), 100003u);
    vv_file_close(f);
}

CONFORM(big_transfers_arrive_whole) {
    const size_t bytes = 9 * 1024 * 1024 + 123;
    char *out = aligned(bytes + 4096 - bytes % 4096), *in = aligned(bytes + 4096 - bytes % 4096);
    fill(out, bytes, vv_test_seed());
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, out, bytes, 3));
    cr_assert_eq(read_at(f, in, bytes, 3), bytes);
    cr_assert_eq(memcmp(in, out, bytes), 0);
    vv_file_close(f);
    free(out);
    free(in);
}

CONFORM(direct_files_work_in_their_alignment) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE | VV_OPEN_DIRECT);
    uint32_t align = f->align_bytes;
    cr_assert(align >= 1 && align <= VV_IO_ALIGN_BYTES && (align & (align - 1)) == 0, "%u", align);
    char *out = aligned(65536), *in = aligned(65536);
    fill(out, 65536, vv_test_seed());
    must(vv_file_write(f, out, 65536, 0));
    must(vv_file_write_sync(f, out, align, 65536));
    cr_assert_eq(size_of(f), 65536u + align);
    cr_assert_eq(read_at(f, in, 65536, 0), 65536u);
    cr_assert_eq(memcmp(in, out, 65536), 0);
    cr_assert_eq(read_at(f, in, align, 65536), align);
    cr_assert_eq(memcmp(in, out, align), 0);

    /* The end of a file need not be aligned. */
    must(vv_file_truncate(f, 1000));
    memset(in, 0, 65536);
    cr_assert_eq(read_at(f, in, 65536, 0), 1000u);
    cr_assert_eq(memcmp(in, out, 1000), 0);
    cr_assert_eq(read_at(f, in, VV_IO_ALIGN_BYTES, VV_IO_ALIGN_BYTES), 0u);
    vv_file_close(f);

    /* What went past the cache is seen through it. */
    f = open_file("f", RW);
    memset(in, 0, 65536);
    cr_assert_eq(read_at(f, in, 65536, 0), 1000u);
    cr_assert_eq(memcmp(in, out, 1000), 0);
    vv_file_close(f);
    free(out);
    free(in);
}

CONFORM(the_atomic_block_is_a_sane_power_of_two) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    uint32_t block = f->atomic_block_bytes;
    cr_assert(block >= 512 && block <= 65536 && (block & (block - 1)) == 0, "%u", block);
    vv_file_close(f);
}

CONFORM(open_flags_mean_what_they_say) {
    vv_error err = {0};
    vv_file *f = NULL;
    cr_assert_code(vv_file_open(io, path_of("no"), RW, &f, &err), VV_NOT_FOUND);
    cr_assert_null(f);
    cr_assert_eq(strncmp(err.text, path_of("no"), strlen(path_of("no"))), 0, "%s", err.text);

    f = open_file("f", RW | VV_OPEN_CREATE | VV_OPEN_EXCLUSIVE);
    must(vv_file_write(f, "abc", 3, 0));
    vv_file_close(f);
    cr_assert_code(vv_file_open(io, path_of("f"), RW | VV_OPEN_CREATE | VV_OPEN_EXCLUSIVE, &f, NULL),
                   VV_EXISTS);
    f = open_file("f", RW | VV_OPEN_CREATE | VV_OPEN_RANDOM);
    cr_assert_eq(size_of(f), 3u);
    vv_file_close(f);
    f = open_file("f", RW | VV_OPEN_TRUNCATE);
    cr_assert_eq(size_of(f), 0u);
    vv_file_close(f);

    must(vv_dir_create(io, path_of("d"), NULL));
    cr_assert_code(vv_file_open(io, path_of("d"), VV_OPEN_READ, &f, &err), VV_IO);
    cr_assert_null(f);
    cr_assert_code(vv_file_open(io, path_of("f/below"), VV_OPEN_READ, &f, &err), VV_INVALID_ARGUMENT);
}

CONFORM(syncs_and_durable_writes_succeed) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "abc", 3, 0));
    must(vv_file_sync(f, VV_SYNC_DATA));
    must(vv_file_sync(f, VV_SYNC_FULL));
    must(vv_file_write_sync(f, "def", 3, 3));
    char got[8] = "";
    cr_assert_eq(read_at(f, got, 8, 0), 6u);
    cr_assert_str_eq(got, "abcdef");
    vv_file_close(f);
}

CONFORM(allocate_grows_and_keeps_what_is_there) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "abc", 3, 0));
    must(vv_file_allocate(f, 1 << 20));
    cr_assert_eq(size_of(f), 1u << 20);
    must(vv_file_allocate(f, 10)); /* never shrinks */
    must(vv_file_allocate(f, 0));
    cr_assert_eq(size_of(f), 1u << 20);
    char got[6];
    cr_assert_eq(read_at(f, got, 6, 0), 6u);
    cr_assert_eq(memcmp(got, "abc\0\0\0", 6), 0);
    cr_assert_eq(read_at(f, got, 6, (1 << 20) - 3), 3u);
    vv_file_close(f);
}

CONFORM(truncate_cuts_and_extends) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "abcdef", 6, 0));
    must(vv_file_truncate(f, 2));
    must(vv_file_truncate(f, 5));
    char got[8];
    cr_assert_eq(read_at(f, got, 8, 0), 5u);
    cr_assert_eq(memcmp(got, "ab\0\0\0", 5), 0);
    vv_file_close(f);
}

CONFORM(writing_through_a_read_handle_fails) {
    vv_file_close(open_file("f", RW | VV_OPEN_CREATE));
    vv_file *f = open_file("f", VV_OPEN_READ);
    cr_assert_code(vv_file_write(f, "x", 1, 0), VV_IO);
    cr_assert_code(vv_file_write_sync(f, "x", 1, 0), VV_IO);
    cr_assert_eq(size_of(f), 0u);
    vv_file_close(f);
}

/* ---- directories and names ---- */

CONFORM(rename_replaces_the_target) {
    vv_file *f = open_file("a", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "new", 3, 0));
    vv_file_close(f);
    f = open_file("b", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "older", 5, 0));
    vv_file_close(f);
    must(vv_path_rename(io, path_of("a"), path_of("b"), NULL));
    must(vv_dir_sync(io, root, NULL));

    bool exists = true;
    must(vv_path_exists(io, path_of("a"), &exists, NULL));
    cr_assert_not(exists);
    must(vv_path_exists(io, path_of("b"), &exists, NULL));
    cr_assert(exists);
    f = open_file("b", VV_OPEN_READ);
    cr_assert_eq(size_of(f), 3u);
    vv_file_close(f);
    vv_error err = {0};
    cr_assert_code(vv_path_rename(io, path_of("a"), path_of("c"), &err), VV_NOT_FOUND);
    cr_assert(strstr(err.text, path_of("a")) != NULL, "%s", err.text);
}

/* By whatever directory has the path. */
CONFORM(a_directory_that_is_held_is_synced_without_a_descriptor) {
    must(vv_dir_create(io, path_of("d"), NULL));
    must(vv_dir_hold(io, path_of("d"), NULL));
    struct rlimit before, none;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0; /* what is open stays so */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    vv_status held = vv_dir_sync(io, path_of("d"), NULL);
    vv_status other = vv_dir_sync(io, root, NULL);
    vv_status moved = vv_path_rename(io, path_of("d"), path_of("e"), NULL);
    vv_status made = vv_dir_create(io, path_of("d"), NULL);
    vv_status replaced = vv_dir_sync(io, path_of("d"), NULL);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    must(held);
    must(moved);
    must(made);
    if (io->ops->dir_hold) {
        cr_assert_eq(other.code, VV_NO_MEMORY);
        cr_assert_eq(other.sys, EMFILE);
        cr_assert_eq(replaced.code, VV_NO_MEMORY, "synced under its old name");
        cr_assert_code(vv_dir_hold(io, path_of("none"), NULL), VV_NOT_FOUND);
    }
    must(vv_dir_sync(io, path_of("d"), NULL));
}

CONFORM(an_unlinked_file_lives_while_it_is_open) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "abc", 3, 0));
    must(vv_path_unlink(io, path_of("f"), NULL));
    bool exists = true;
    must(vv_path_exists(io, path_of("f"), &exists, NULL));
    cr_assert_not(exists);
    char got[3];
    cr_assert_eq(read_at(f, got, 3, 0), 3u);
    vv_file_close(f);
    cr_assert_code(vv_path_unlink(io, path_of("f"), NULL), VV_NOT_FOUND);
}

typedef struct listing {
    uint32_t files, directories, others;
    bool seen[100];
    uint32_t stop_after;
} listing;

static vv_status collect(void *arg, const char *name, vv_entry_kind kind) {
    listing *l = arg;
    l->files += kind == VV_ENTRY_FILE;
    l->directories += kind == VV_ENTRY_DIRECTORY;
    l->others += kind == VV_ENTRY_OTHER;
    if (name[0] == 'f')
        l->seen[atoi(name + 1)] = true;
    if (l->stop_after != 0 && l->files >= l->stop_after)
        return vv_status_make(VV_BUSY, VV_SUB_NONE, 0);
    return VV_STATUS_OK;
}

CONFORM(list_gives_every_entry_once) {
    must(vv_dir_create(io, path_of("d"), NULL));
    must(vv_dir_create(io, path_of("d/sub"), NULL));
    vv_file_close(open_file("d/sub/not-this-level", RW | VV_OPEN_CREATE));
    for (int i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof name, "d/f%d", i);
        vv_file_close(open_file(name, RW | VV_OPEN_CREATE));
    }
    listing l = {0};
    must(vv_dir_list(io, path_of("d"), collect, &l, NULL));
    cr_assert_eq(l.files, 100u);
    cr_assert_eq(l.directories, 1u);
    cr_assert_eq(l.others, 0u);
    for (int i = 0; i < 100; i++)
        cr_assert(l.seen[i], "f%d", i);

    listing stopped = {.stop_after = 3};
    cr_assert_code(vv_dir_list(io, path_of("d"), collect, &stopped, NULL), VV_BUSY);
    cr_assert_eq(stopped.files, 3u);
    cr_assert_code(vv_dir_list(io, path_of("no"), collect, &l, NULL), VV_NOT_FOUND);
}

CONFORM(directory_create_tells_what_is_in_the_way) {
    must(vv_dir_create(io, path_of("d"), NULL));
    cr_assert_code(vv_dir_create(io, path_of("d"), NULL), VV_EXISTS);
    vv_file_close(open_file("f", RW | VV_OPEN_CREATE));
    vv_status st = vv_dir_create(io, path_of("f"), NULL);
    cr_assert_code(st, VV_INVALID_ARGUMENT);
    cr_assert_eq(st.sub, VV_SUB_NOT_DIRECTORY);
    cr_assert_code(vv_dir_create(io, path_of("no/d"), NULL), VV_NOT_FOUND);
    must(vv_dir_sync(io, path_of("d"), NULL));
    cr_assert_code(vv_dir_sync(io, path_of("no"), NULL), VV_NOT_FOUND);
    uint64_t bytes;
    must(vv_dir_free_bytes(io, path_of("d"), &bytes, NULL));
    cr_assert_gt(bytes, 0u);
    cr_assert_code(vv_dir_free_bytes(io, path_of("no"), &bytes, NULL), VV_NOT_FOUND);
}

CONFORM(a_lock_has_one_holder) {
    vv_file *lock, *second;
    vv_error err = {0};
    must(vv_lock_acquire(io, path_of("LOCK"), &lock, NULL));
    cr_assert_code(vv_lock_acquire(io, path_of("LOCK"), &second, &err), VV_LOCKED);
    cr_assert_null(second);
    cr_assert_eq(strncmp(err.text, path_of("LOCK"), strlen(path_of("LOCK"))), 0, "%s", err.text);
    cr_assert(strstr(err.text, "locked by another process") != NULL, "%s", err.text);
    vv_file_close(lock);
    must(vv_lock_acquire(io, path_of("LOCK"), &lock, NULL));
    vv_file_close(lock);
    cr_assert_code(vv_lock_acquire(io, path_of("no/LOCK"), &lock, NULL), VV_NOT_FOUND);
}

/* ---- queues ---- */

static uint32_t calls;

static void count_call(vv_io_req *req) {
    cr_assert_null(req->arg);
    calls++;
}

static vv_io_queue *make_queue(uint32_t depth, uint32_t pool_count, uint32_t pool_bytes) {
    vv_io_queue_options o = {
        .depth = depth, .pool_buffer_count = pool_count, .pool_buffer_bytes = pool_bytes};
    vv_io_queue *q;
    vv_error err = {0};
    vv_status st = vv_io_queue_create(io, &o, &q, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    return q;
}

static void drain(vv_io_queue *q) {
    while (q->in_flight > 0)
        must(vv_io_run(q, q->in_flight, NULL));
}

static vv_io_req request(vv_io_op op, vv_file *f, void *buf, uint32_t bytes, uint64_t offset) {
    return (vv_io_req){.op = op, .file = f, .buf = buf, .bytes = bytes, .offset = offset, .done = count_call};
}

static vv_io_req run_one(vv_io_queue *q, vv_io_req req) {
    uint32_t done = 0;
    vv_io_submit(q, &req);
    cr_assert_eq(q->in_flight, 1u);
    must(vv_io_run(q, 1, &done));
    cr_assert_eq(done, 1u);
    cr_assert_eq(q->in_flight, 0u);
    return req;
}

CONFORM(each_operation_of_a_queue_works) {
    vv_io_queue *q = make_queue(4, 0, 0);
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    char out[] = "durable", in[16] = "";
    vv_io_req r = run_one(q, request(VV_IO_WRITE, f, out, 7, 0));
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 7u);
    r = run_one(q, request(VV_IO_WRITE_SYNC, f, out, 7, 7));
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 7u);
    r = run_one(q, request(VV_IO_SYNC, f, NULL, 0, 0));
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 0u);
    r = run_one(q, request(VV_IO_READ, f, in, 14, 0));
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 14u);
    cr_assert_str_eq(in, "durabledurable");

    r = run_one(q, request(VV_IO_READ, f, in, 16, 10)); /* the end of the file */
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 4u);
    r = run_one(q, request(VV_IO_READ, f, in, 16, 14));
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 0u);
    r = run_one(q, request(VV_IO_READ, f, in, 0, 0));
    must(r.status);
    r = run_one(q, request(VV_IO_WRITE_SYNC, f, out, 0, 0)); /* nothing but the sync */
    must(r.status);
    cr_assert_eq(size_of(f), 14u);
    vv_file_close(f);
    vv_io_queue_destroy(q);
}

CONFORM(a_failed_request_says_so) {
    vv_io_queue *q = make_queue(4, 0, 0);
    vv_file_close(open_file("f", RW | VV_OPEN_CREATE));
    vv_file *f = open_file("f", VV_OPEN_READ);
    char byte = 'x';
    cr_assert_code(run_one(q, request(VV_IO_WRITE, f, &byte, 1, 0)).status, VV_IO);
    cr_assert_code(run_one(q, request(VV_IO_WRITE_SYNC, f, &byte, 1, 0)).status, VV_IO);
    vv_file_close(f);
    f = open_file("f", VV_OPEN_WRITE);
    cr_assert_code(run_one(q, request(VV_IO_READ, f, &byte, 1, 0)).status, VV_IO);
    vv_file_close(f);
    vv_io_queue_destroy(q);
}

CONFORM(more_requests_than_the_depth_are_held_back) {
    enum { COUNT = 1000, BYTES = 512 };
    vv_io_queue *q = make_queue(8, 0, 0);
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    char *out = aligned(COUNT * BYTES), *in = aligned(COUNT * BYTES);
    vv_io_req *reqs = calloc(COUNT, sizeof *reqs);
    fill(out, COUNT * BYTES, vv_test_seed());
    for (uint32_t i = 0; i < COUNT; i++) {
        vv_io_op op = i % 10 == 0 ? VV_IO_WRITE_SYNC : VV_IO_WRITE;
        reqs[i] = request(op, f, out + i * BYTES, BYTES, (uint64_t)i * BYTES);
        vv_io_submit(q, &reqs[i]);
    }
    cr_assert_eq(q->in_flight, (uint32_t)COUNT);
    cr_assert_eq(calls, 0u); /* never from submit */
    uint32_t done;
    must(vv_io_run(q, 1, &done));
    cr_assert(done >= 1 && done <= 8, "%u", done); /* no more than the depth at once */
    must(vv_io_run(q, COUNT * 2, &done));          /* more than there are: all */
    cr_assert_eq(q->in_flight, 0u);
    cr_assert_eq(calls, (uint32_t)COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        must(reqs[i].status);
        cr_assert_eq(reqs[i].transferred_bytes, (uint32_t)BYTES);
        reqs[i] = request(VV_IO_READ, f, in + i * BYTES, BYTES, (uint64_t)i * BYTES);
        vv_io_submit(q, &reqs[i]);
    }
    drain(q);
    cr_assert_eq(memcmp(in, out, COUNT * BYTES), 0);
    free(reqs);
    free(out);
    free(in);
    vv_file_close(f);
    vv_io_queue_destroy(q);
}

CONFORM(run_with_nothing_in_flight_returns_at_once) {
    vv_io_queue *q = make_queue(4, 0, 0);
    uint32_t done = 7;
    must(vv_io_run(q, 5, &done));
    cr_assert_eq(done, 0u);
    must(vv_io_run(q, 0, &done));
    cr_assert_eq(done, 0u);
    vv_io_queue_destroy(q);
}

CONFORM(polling_with_run_zero_makes_progress) {
    vv_io_queue *q = make_queue(4, 0, 0);
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    char out[] = "x";
    vv_io_req req = request(VV_IO_WRITE_SYNC, f, out, 1, 0);
    vv_io_submit(q, &req);
    while (calls == 0)
        must(vv_io_run(q, 0, NULL));
    must(req.status);
    vv_file_close(f);
    vv_io_queue_destroy(q);
}

typedef struct chain {
    vv_io_req req;
    vv_io_queue *q;
    uint32_t left;
    bool inside;
    vv_io_req *other; /* submitted from the callback too */
} chain;

static void step(vv_io_req *req) {
    chain *c = req->arg;
    cr_assert_not(c->inside, "a callback inside a callback");
    c->inside = true;
    must(req->status);
    if (--c->left > 0) {
        req->offset += req->bytes;
        vv_io_submit(c->q, req);
        if (c->left % 10 == 0)
            vv_io_submit(c->q, &c->other[c->left / 10]);
    }
    c->inside = false;
}

CONFORM(callbacks_may_submit_and_never_nest) {
    vv_io_queue *q = make_queue(2, 0, 0);
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    char out[] = "0123456789";
    vv_io_req others[11];
    for (int i = 0; i < 11; i++)
        others[i] = request(VV_IO_SYNC, f, NULL, 0, 0);
    chain c = {.q = q, .left = 101, .other = others};
    c.req = request(VV_IO_WRITE, f, out, 10, 0);
    c.req.done = step;
    c.req.arg = &c;
    vv_io_submit(q, &c.req);
    drain(q);
    cr_assert_eq(c.left, 0u);
    cr_assert_eq(calls, 10u);
    cr_assert_eq(size_of(f), 1010u);
    vv_file_close(f);
    vv_io_queue_destroy(q);
}

CONFORM(pool_buffers_are_aligned_distinct_and_finite) {
    vv_io_queue *q = make_queue(4, 3, 10000);
    char *b[3];
    for (int i = 0; i < 3; i++) {
        b[i] = vv_io_buffer_take(q);
        cr_assert_not_null(b[i]);
        cr_assert_eq((uintptr_t)b[i] % VV_IO_ALIGN_BYTES, 0u);
        memset(b[i], 'a' + i, 10000);
    }
    cr_assert_null(vv_io_buffer_take(q));
    for (int i = 0; i < 3; i++)
        cr_assert(b[i][0] == 'a' + i && b[i][9999] == 'a' + i);

    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    must(run_one(q, request(VV_IO_WRITE, f, b[0], 10000, 0)).status);
    must(run_one(q, request(VV_IO_WRITE_SYNC, f, b[1] + 100, 5000, 10000)).status);
    must(run_one(q, request(VV_IO_READ, f, b[2] + 1, 9999, 5001)).status); /* the inside of a buffer */
    cr_assert(b[2][0] == 'c' && b[2][1] == 'a' && b[2][4999] == 'a' && b[2][5000] == 'b');
    vv_file_close(f);

    vv_io_buffer_give(q, b[1]);
    cr_assert_eq(vv_io_buffer_take(q), (void *)b[1]);
    for (int i = 0; i < 3; i++)
        vv_io_buffer_give(q, b[i]);
    vv_io_queue_destroy(q);

    q = make_queue(1, 0, 0);
    cr_assert_null(vv_io_buffer_take(q));
    vv_io_queue_destroy(q);
}

CONFORM(direct_requests_work_from_pool_and_other_buffers) {
    enum { BYTES = 1 << 20 };
    vv_io_queue *q = make_queue(4, 2, BYTES);
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE | VV_OPEN_DIRECT);
    char *pool = vv_io_buffer_take(q), *own = aligned(BYTES);
    fill(pool, BYTES, 1);
    fill(own, BYTES, 2);
    vv_io_req a = request(VV_IO_WRITE, f, pool, BYTES, 0);
    vv_io_req b = request(VV_IO_WRITE_SYNC, f, own, BYTES, BYTES);
    vv_io_submit(q, &a);
    vv_io_submit(q, &b);
    drain(q);
    must(a.status);
    must(b.status);
    char *in = vv_io_buffer_take(q);
    must(run_one(q, request(VV_IO_READ, f, in, BYTES, BYTES)).status);
    cr_assert_eq(memcmp(in, own, BYTES), 0);
    must(run_one(q, request(VV_IO_READ, f, own, BYTES, 0)).status);
    cr_assert_eq(memcmp(pool, own, BYTES), 0);

    must(vv_file_truncate(f, BYTES + 700)); /* an end inside a block */
    vv_io_req r = run_one(q, request(VV_IO_READ, f, in, BYTES, BYTES));
    must(r.status);
    cr_assert_eq(r.transferred_bytes, 700u);
    vv_io_buffer_give(q, pool);
    vv_io_buffer_give(q, in);
    free(own);
    vv_file_close(f);
    vv_io_queue_destroy(q);
}

/* ---- memory ---- */

static vv_status open_and_close(vv_error *err) {
    vv_file *f = NULL;
    VV_TRY(vv_file_open(io, path_of("f"), RW | VV_OPEN_CREATE, &f, err));
    vv_file_close(f);
    return VV_STATUS_OK;
}

static vv_status lock_and_close(vv_error *err) {
    vv_file *f = NULL;
    VV_TRY(vv_lock_acquire(io, path_of("LOCK"), &f, err));
    vv_file_close(f);
    return VV_STATUS_OK;
}

static vv_status queue_and_destroy(vv_error *err) {
    vv_io_queue_options o = {.depth = 4, .pool_buffer_count = 2, .pool_buffer_bytes = 4096};
    vv_io_queue *q = NULL;
    VV_TRY(vv_io_queue_create(io, &o, &q, err));
    vv_io_queue_destroy(q);
    return VV_STATUS_OK;
}

CONFORM(each_failing_allocation_is_reported) {
    vv_status (*const attempts[])(vv_error *) = {open_and_close, lock_and_close, queue_and_destroy};
    for (size_t i = 0; i < sizeof attempts / sizeof attempts[0]; i++) {
        vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        for (uint64_t n = 1; !vv_ok(st); n++) {
            vv_error err = {0};
            cr_assert_lt(n, 100u);
            vv_alloc_fail_at(n);
            st = attempts[i](&err);
            vv_alloc_fail_at(0);
            cr_assert(vv_ok(st) || vv_is(st, VV_NO_MEMORY), "%s", vv_code_name(st.code));
            cr_assert(n > 1 || err.text[0] != '\0'); /* the first one fails, with words */
        }
    }
}

/* ---- threads ---- */

enum { ROUNDS = 200, SLOTS = 16, SLOT_BYTES = 256 };

typedef struct worker {
    vv_file *shared;
    uint64_t base;
    uint64_t seed;
    char failed[128];
} worker;

static void ignore_done(vv_io_req *req) {
    (void)req;
}

/* One round over the worker's slots: write them at random, or read them back and compare. */
static bool work_round(worker *w, vv_io_queue *q, bool reading, char (*out)[SLOT_BYTES]) {
    char in[SLOTS][SLOT_BYTES];
    vv_io_req reqs[SLOTS];
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (!reading)
            fill(out[i], SLOT_BYTES, vv_test_random(&w->seed) | 1);
        reqs[i] = (vv_io_req){.op = reading ? VV_IO_READ : VV_IO_WRITE,
                              .file = w->shared,
                              .buf = reading ? in[i] : out[i],
                              .bytes = SLOT_BYTES,
                              .offset = w->base + i * SLOT_BYTES,
                              .done = ignore_done};
        vv_io_submit(q, &reqs[i]);
    }
    while (q->in_flight > 0)
        if (!vv_ok(vv_io_run(q, 1, NULL)))
            return false;
    for (uint32_t i = 0; i < SLOTS; i++)
        if (!vv_ok(reqs[i].status) || (reading && memcmp(in[i], out[i], SLOT_BYTES) != 0))
            return false;
    return true;
}

static void *work(void *arg) {
    worker *w = arg;
    vv_io_queue_options o = {.depth = 4};
    vv_io_queue *q = NULL;
    if (!vv_ok(vv_io_queue_create(io, &o, &q, NULL))) {
        snprintf(w->failed, sizeof w->failed, "no queue");
        return NULL;
    }
    char out[SLOTS][SLOT_BYTES] = {{0}};
    for (int round = 0; round < ROUNDS && !w->failed[0]; round++)
        if (!work_round(w, q, round % 2 == 1, out))
            snprintf(w->failed, sizeof w->failed, "round %d", round);
    vv_io_queue_destroy(q);
    return NULL;
}

CONFORM(threads_with_queues_of_their_own_share_a_backend) {
    vv_file *f = open_file("f", RW | VV_OPEN_CREATE);
    worker w[2] = {{.shared = f, .base = 0, .seed = vv_test_seed()},
                   {.shared = f, .base = SLOTS * SLOT_BYTES, .seed = 77}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    for (int i = 0; i < 50; i++) /* and opens beside them */
        vv_file_close(open_file("g", RW | VV_OPEN_CREATE));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++)
        cr_assert_str_eq(w[i].failed, "");
    vv_file_close(f);
}

CONFORM(a_link_is_the_same_file_under_a_second_name) {
    must(vv_dir_create(io, path_of("d"), NULL));
    vv_file *f = open_file("d/a", RW | VV_OPEN_CREATE);
    must(vv_file_write(f, "before", 6, 0));
    char from[512];
    snprintf(from, sizeof from, "%s", path_of("d/a"));
    must(vv_path_link(io, from, path_of("d/b"), NULL));
    must(vv_file_write(f, "behind", 6, 0));
    vv_file_close(f);
    must(vv_path_unlink(io, from, NULL));
    char text[8] = "";
    size_t got;
    f = open_file("d/b", RW);
    must(vv_file_read(f, text, 6, 0, &got));
    vv_file_close(f);
    cr_assert_str_eq(text, "behind");

    snprintf(from, sizeof from, "%s", path_of("d/b"));
    vv_file_close(open_file("d/c", RW | VV_OPEN_CREATE));
    cr_assert_code(vv_path_link(io, from, path_of("d/c"), NULL), VV_EXISTS);
    if (strcmp(vv_io_backend_name(io), "sim") != 0) /* it is one file system */
        cr_assert_code(vv_path_link(io, "/proc/self/status", path_of("d/e"), NULL), VV_UNSUPPORTED);
    snprintf(from, sizeof from, "%s", path_of("d/no"));
    cr_assert_code(vv_path_link(io, from, path_of("d/e"), NULL), VV_NOT_FOUND);
}

CONFORM(a_directory_is_removed_when_it_is_empty) {
    must(vv_dir_create(io, path_of("d"), NULL));
    vv_file_close(open_file("d/a", RW | VV_OPEN_CREATE));
    cr_assert_not(vv_ok(vv_dir_remove(io, path_of("d"), NULL)));
    must(vv_path_unlink(io, path_of("d/a"), NULL));
    must(vv_dir_remove(io, path_of("d"), NULL));
    cr_assert_code(vv_dir_remove(io, path_of("d"), NULL), VV_NOT_FOUND);
}
