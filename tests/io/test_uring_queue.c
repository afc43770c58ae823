/*
 * What only a ring can get wrong: broken and split chains, results out of the ordinary, a ring that dies.
 *
 * The tests stand between queue and kernel (vv_uring_sys.enter): they shorten entries before the kernel sees
 * them and change completions before the queue does. Where the kernel itself can be made to fail
 * (RLIMIT_FSIZE cuts a write short), it is.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/uring_impl.h"
#include "tests/support/tempdir.h"

#define RW         (VV_OPEN_READ | VV_OPEN_WRITE)
#define CHAIN_SYNC UINT64_C(1) /* the bit of user_data that marks a chain's fsync */

static vv_io_backend *io;
static vv_file *file;
static vv_io_queue *queue;
static vv_uring_syscalls real;
static int done_calls;
static char logged[512];

/* What the stand-in saw. */
static int enters, writes_seen, reads_seen, fsyncs_seen, links_seen, nops_seen;

static void remember(void *arg, vv_log_level level, const char *line) {
    (void)arg;
    if (level != VV_LOG_INFO)
        snprintf(logged, sizeof logged, "%s", line);
}

static const vv_logger logger = {.write = remember, .least = VV_LOG_DEBUG};

static void begin(uint32_t depth) {
    vv_error err = {0};
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_URING, &logger, &io, &err);
    if (vv_is(st, VV_UNSUPPORTED)) {
        fprintf(stderr, "SKIPPED: %s\n", err.text);
        cr_skip_test("%s", err.text);
    }
    cr_assert(st.code == VV_OK, "%s", err.text);
    st = vv_file_open(io, vv_tempdir_path("f"), RW | VV_OPEN_CREATE, &file, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    st = vv_io_queue_create(io, &(vv_io_queue_options){.depth = depth}, &queue, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    real = vv_uring_sys;
}

static void end(void) {
    vv_io_queue_destroy(queue);
    vv_file_close(file);
    vv_io_backend_destroy(io);
}

TestSuite(uring_queue, .fini = vv_tempdir_cleanup); /* also after a failure */

static void noted(vv_io_req *req) {
    (void)req;
    done_calls++;
}

static vv_io_req run_one(vv_io_op op, void *buf, uint32_t bytes, uint64_t offset) {
    vv_io_req req = {.op = op, .file = file, .buf = buf, .bytes = bytes, .offset = offset, .done = noted};
    vv_io_submit(queue, &req);
    vv_status st = vv_io_run(queue, 1, NULL);
    cr_assert(st.code == VV_OK, "errno %d", st.sys);
    cr_assert_eq(queue->in_flight, 0u);
    return req;
}

/* Call fn on each entry that waits in the ring. */
static void each_sqe(struct io_uring *ring, void (*fn)(struct io_uring_sqe *sqe)) {
    for (unsigned i = *ring->sq.khead; i != ring->sq.sqe_tail; i++)
        fn(&ring->sq.sqes[i & ring->sq.ring_mask]);
}

static void each_cqe(struct io_uring *ring, void (*fn)(struct io_uring_cqe *cqe)) {
    unsigned head;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(ring, head, cqe) {
        fn(cqe);
    }
}

static bool is_write(const struct io_uring_sqe *sqe) {
    return sqe->opcode == IORING_OP_WRITE || sqe->opcode == IORING_OP_WRITE_FIXED;
}

static void count_sqe(struct io_uring_sqe *sqe) {
    writes_seen += is_write(sqe);
    reads_seen += sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_READ_FIXED;
    fsyncs_seen += sqe->opcode == IORING_OP_FSYNC;
    nops_seen += sqe->opcode == IORING_OP_NOP;
    links_seen += (sqe->flags & IOSQE_IO_LINK) != 0;
    cr_assert_not(sqe->flags & IOSQE_IO_HARDLINK);
    if (sqe->opcode == IORING_OP_FSYNC)
        cr_assert_eq(sqe->fsync_flags, (unsigned)IORING_FSYNC_DATASYNC);
}

static int counting_enter(struct io_uring *ring, unsigned wait_nr) {
    enters++;
    each_sqe(ring, count_sqe);
    return real.enter(ring, wait_nr);
}

/* ---- chains as the kernel breaks them ---- */

static struct rlimit wide, narrow;

/* The first entry into the kernel finds a narrow limit on file sizes, all later ones the wide one. */
static int narrow_first_enter(struct io_uring *ring, unsigned wait_nr) {
    if (writes_seen > 0)
        cr_assert_eq(setrlimit(RLIMIT_FSIZE, &wide), 0);
    return counting_enter(ring, wait_nr);
}

static void narrow_file_size(uint64_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &wide), 0);
    narrow = (struct rlimit){.rlim_cur = bytes, .rlim_max = wide.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &narrow), 0);
}

static void fill(char *buf, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        buf[i] = (char)('a' + i * 7 % 26);
}

static void expect_content(const char *want, size_t bytes) {
    char got[32768];
    size_t n = 0;
    cr_assert(vv_ok(vv_file_read(file, got, sizeof got, 0, &n)));
    cr_assert_eq(n, bytes);
    cr_assert_eq(memcmp(got, want, bytes), 0);
}

Test(uring_queue, a_durable_write_is_one_chain) {
    begin(1);
    vv_uring_sys.enter = counting_enter;
    char buf[] = "chain";
    vv_io_req req = run_one(VV_IO_WRITE_SYNC, buf, 5, 0);
    cr_assert(vv_ok(req.status));
    cr_assert_eq(req.transferred_bytes, 5u);
    cr_assert_eq(enters, 1); /* submitted and waited for at once */
    cr_assert_eq(links_seen, 1);
    cr_assert_eq(writes_seen, 1);
    cr_assert_eq(fsyncs_seen, 1);
    end();
}

Test(uring_queue, the_rest_of_a_short_write_is_a_chain_of_its_own) {
    begin(4);
    char buf[8192];
    fill(buf, sizeof buf);
    narrow_file_size(5000);
    vv_uring_sys.enter = narrow_first_enter;
    vv_io_req req = run_one(VV_IO_WRITE_SYNC, buf, sizeof buf, 0);
    cr_assert(vv_ok(req.status), "%s, errno %d", vv_code_name(req.status.code), req.status.sys);
    cr_assert_eq(req.transferred_bytes, sizeof buf);
    cr_assert_eq(writes_seen, 2);
    cr_assert_eq(fsyncs_seen, 2); /* the first was cancelled by the kernel */
    cr_assert_eq(links_seen, 2);
    expect_content(buf, sizeof buf);
    end();
}

Test(uring_queue, a_write_that_stays_short_fails) {
    begin(4);
    char buf[8192];
    fill(buf, sizeof buf);
    narrow_file_size(5000);
    vv_io_req req = run_one(VV_IO_WRITE_SYNC, buf, sizeof buf, 0);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &wide), 0);
    cr_assert_eq(req.status.code, VV_IO);
    cr_assert_eq(req.status.sys, EFBIG);
    cr_assert_eq(req.transferred_bytes, 0u);
    end();
}

Test(uring_queue, a_full_device_is_no_space) {
    begin(4);
    vv_file_close(file);
    cr_assert(vv_ok(vv_file_open(io, "/dev/full", VV_OPEN_WRITE, &file, NULL)));
    char byte = 'x';
    cr_assert_eq(run_one(VV_IO_WRITE, &byte, 1, 0).status.code, VV_NO_SPACE);
    cr_assert_eq(run_one(VV_IO_WRITE_SYNC, &byte, 1, 0).status.code, VV_NO_SPACE);
    end();
}

/* The first time, the kernel takes one entry and no more: the write, without its fsync. */
static int splitting_enter(struct io_uring *ring, unsigned wait_nr) {
    if (enters > 0)
        return counting_enter(ring, wait_nr);
    enters++;
    cr_assert_eq(io_uring_sq_ready(ring), 2u);
    __atomic_store_n(ring->sq.ktail, ring->sq.sqe_tail, __ATOMIC_RELEASE);
    ring->sq.sqe_head = ring->sq.sqe_tail;
    return io_uring_enter((unsigned)ring->ring_fd, 1, 0, 0, NULL);
}

Test(uring_queue, a_split_chain_is_synced_after_its_write) {
    begin(4);
    vv_uring_sys.enter = splitting_enter;
    char buf[] = "split";
    vv_io_req req = run_one(VV_IO_WRITE_SYNC, buf, 5, 0);
    cr_assert(vv_ok(req.status), "errno %d", req.status.sys);
    cr_assert_eq(req.transferred_bytes, 5u);
    /* What the kernel took after the write: a no-op instead of the chain's fsync, which nothing would have
     * kept behind the write, and an fsync by itself once the write was done. */
    cr_assert_eq(nops_seen, 1);
    cr_assert_eq(fsyncs_seen, 1);
    cr_assert_eq(writes_seen, 0);
    expect_content(buf, 5);
    end();
}

/* ---- results changed on their way ---- */

#define AS_IT_IS 1000000
static int write_result, sync_result;
static int changes_left;

static void change_cqe(struct io_uring_cqe *cqe) {
    int *result = cqe->user_data & CHAIN_SYNC ? &sync_result : &write_result;
    if (*result != AS_IT_IS && changes_left > 0) {
        cqe->res = *result;
        changes_left--;
    }
}

static int changing_enter(struct io_uring *ring, unsigned wait_nr) {
    int rc = counting_enter(ring, wait_nr);
    each_cqe(ring, change_cqe);
    return rc;
}

static vv_io_req run_changed(vv_io_op op, int write_res, int sync_res, int changes) {
    static char buf[] = "0123456789";
    write_result = write_res;
    sync_result = sync_res;
    changes_left = changes;
    writes_seen = fsyncs_seen = links_seen = reads_seen = 0;
    vv_uring_sys.enter = changing_enter;
    return run_one(op, buf, 10, 0);
}

Test(uring_queue, interruptions_are_tried_again) {
    begin(4);
    vv_io_req req = run_changed(VV_IO_WRITE, -EINTR, AS_IT_IS, 3);
    cr_assert(vv_ok(req.status));
    cr_assert_eq(writes_seen, 4);
    req = run_changed(VV_IO_READ, -EAGAIN, AS_IT_IS, 3);
    cr_assert(vv_ok(req.status));
    cr_assert_eq(reads_seen, 4);
    cr_assert_eq(req.transferred_bytes, 10u);
    req = run_changed(VV_IO_WRITE_SYNC, -EINTR, -ECANCELED, 4);
    cr_assert(vv_ok(req.status));
    cr_assert_eq(writes_seen, 3);
    cr_assert_eq(fsyncs_seen, 3);
    req = run_changed(VV_IO_WRITE, -EINTR, AS_IT_IS, 1000000);
    cr_assert_eq(req.status.sys, EINTR);
    cr_assert_eq(writes_seen, VV_IO_RETRIES_MAX + 1);
    end();
}

Test(uring_queue, a_failed_sync_is_final) {
    begin(4);
    const int causes[] = {EIO, EINTR, EAGAIN, ENOSPC, ECANCELED};
    for (size_t i = 0; i < sizeof causes / sizeof causes[0]; i++) {
        vv_io_req req = run_changed(VV_IO_WRITE_SYNC, AS_IT_IS, -causes[i], 1);
        cr_assert_neq(req.status.code, VV_OK, "%d", causes[i]);
        cr_assert_eq(req.status.sys, causes[i]);
        cr_assert_eq(req.transferred_bytes, 0u);
        cr_assert_eq(fsyncs_seen, 1);
        cr_assert_eq(writes_seen, 1);
        req = run_changed(VV_IO_SYNC, -causes[i], AS_IT_IS, 1);
        cr_assert_eq(req.status.sys, causes[i]);
        cr_assert_eq(fsyncs_seen, 1);
    }
    end();
}

Test(uring_queue, a_sync_that_failed_after_a_short_write_is_final) {
    begin(4);
    vv_io_req req = run_changed(VV_IO_WRITE_SYNC, 4, -EIO, 2);
    cr_assert_eq(req.status.code, VV_IO);
    cr_assert_eq(req.status.sys, EIO);
    cr_assert_eq(fsyncs_seen, 1);
    end();
}

Test(uring_queue, a_good_sync_after_a_short_write_is_not_enough) {
    begin(4);
    vv_io_req req = run_changed(VV_IO_WRITE_SYNC, 4, AS_IT_IS, 1); /* as if the link had not held */
    cr_assert(vv_ok(req.status));
    cr_assert_eq(writes_seen, 2);
    cr_assert_eq(fsyncs_seen, 2);
    end();
}

Test(uring_queue, a_cancelled_write_fails) {
    begin(4);
    vv_io_req req = run_changed(VV_IO_WRITE, -ECANCELED, AS_IT_IS, 1);
    cr_assert_eq(req.status.code, VV_IO);
    cr_assert_eq(req.status.sub, VV_SUB_CANCELED);
    end();
}

Test(uring_queue, a_write_that_takes_nothing_fails) {
    begin(4);
    vv_io_req req = run_changed(VV_IO_WRITE_SYNC, 0, -ECANCELED, 2);
    cr_assert_eq(req.status.code, VV_IO);
    cr_assert_eq(req.status.sub, VV_SUB_SHORT_TRANSFER);
    cr_assert_eq(writes_seen, 1);
    end();
}

/* ---- many faults, many requests ---- */

static uint64_t seed;

static void shorten_sqe(struct io_uring_sqe *sqe) {
    if ((is_write(sqe) || sqe->opcode == IORING_OP_READ) && sqe->len > 1 && vv_test_random(&seed) % 2 == 0)
        sqe->len = 1 + (uint32_t)(vv_test_random(&seed) % (sqe->len - 1));
}

static struct { uint64_t user_data; } interrupted[64];
static int interrupted_count;

/* A write that the kernel never saw: a no-op in its place, whose result becomes -EINTR. Its link holds, so
 * that the fsync runs for nothing, as after a write that failed late. */
static void interrupt_sqe(struct io_uring_sqe *sqe) {
    if (sqe->opcode == IORING_OP_FSYNC || sqe->opcode == IORING_OP_NOP || interrupted_count == 64 ||
        vv_test_random(&seed) % 4 != 0)
        return;
    uint64_t data = sqe->user_data;
    uint8_t flags = sqe->flags;
    io_uring_prep_nop(sqe);
    sqe->user_data = data;
    sqe->flags = flags;
    interrupted[interrupted_count++].user_data = data;
}

static void report_interrupted(struct io_uring_cqe *cqe) {
    for (int i = 0; i < interrupted_count; i++) {
        if (interrupted[i].user_data == cqe->user_data) {
            cqe->res = vv_test_random(&seed) % 2 ? -EINTR : -EAGAIN;
            interrupted[i] = interrupted[--interrupted_count];
            return;
        }
    }
}

static int hostile_enter(struct io_uring *ring, unsigned wait_nr) {
    each_sqe(ring, interrupt_sqe);
    each_sqe(ring, shorten_sqe);
    unsigned ready = io_uring_cq_ready(ring);
    cr_assert_eq(ready, 0u); /* the queue reaps all it sees, so that no completion is changed twice */
    uint64_t dice = vv_test_random(&seed) % 8;
    if (dice == 0)
        return -EINTR;
    if (dice == 1)
        return -EBUSY;
    int rc = real.enter(ring, wait_nr);
    each_cqe(ring, report_interrupted);
    return rc;
}

Test(uring_queue, every_byte_arrives_through_a_hostile_kernel) {
    begin(8);
    enum { COUNT = 400, BYTES = 96 };
    seed = vv_test_seed();
    static char out[COUNT][BYTES], in[COUNT][BYTES];
    static vv_io_req reqs[COUNT];
    vv_uring_sys.enter = hostile_enter;
    for (int reading = 0; reading <= 1; reading++) {
        for (uint32_t i = 0; i < COUNT; i++) {
            if (!reading)
                for (int b = 0; b < BYTES; b++)
                    out[i][b] = (char)vv_test_random(&seed);
            reqs[i] = (vv_io_req){.op = reading      ? VV_IO_READ
                                        : i % 3 == 0 ? VV_IO_WRITE_SYNC
                                                     : VV_IO_WRITE,
                                  .file = file,
                                  .buf = reading ? in[i] : out[i],
                                  .bytes = BYTES,
                                  .offset = i * BYTES,
                                  .done = noted};
            vv_io_submit(queue, &reqs[i]);
        }
        while (queue->in_flight > 0) {
            vv_status st = vv_io_run(queue, 1 + (uint32_t)(vv_test_random(&seed) % 20), NULL);
            cr_assert(st.code == VV_OK, "errno %d", st.sys);
        }
        for (int i = 0; i < COUNT; i++) {
            cr_assert(vv_ok(reqs[i].status), "request %d: errno %d", i, reqs[i].status.sys);
            cr_assert_eq(reqs[i].transferred_bytes, (uint32_t)BYTES);
        }
    }
    cr_assert_eq(done_calls, 2 * COUNT);
    cr_assert_eq(memcmp(in, out, sizeof in), 0);
    end();
}

/* ---- the ring itself ---- */

static int dead_enter(struct io_uring *ring, unsigned wait_nr) {
    (void)ring, (void)wait_nr;
    enters++;
    return -EBADF;
}

Test(uring_queue, a_dead_ring_fails_all_its_requests) {
    begin(2);
    char buf[] = "x";
    vv_io_req reqs[5];
    for (uint32_t i = 0; i < 5; i++) {
        reqs[i] = (vv_io_req){
            .op = VV_IO_WRITE_SYNC, .file = file, .buf = buf, .bytes = 1, .offset = i, .done = noted};
        vv_io_submit(queue, &reqs[i]);
    }
    vv_uring_sys.enter = dead_enter;
    uint32_t done = 0;
    vv_status st = vv_io_run(queue, 1, &done);
    cr_assert_eq(st.code, VV_IO);
    cr_assert_eq(st.sys, EBADF);
    cr_assert_eq(done, 5u);
    cr_assert_eq(queue->in_flight, 0u);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(reqs[i].status.sys, EBADF);

    vv_io_submit(queue, &reqs[0]); /* and those that come later */
    st = vv_io_run(queue, 0, &done);
    cr_assert_eq(st.sys, EBADF);
    cr_assert_eq(done, 1u);
    cr_assert_eq(done_calls, 6);
    cr_assert_eq(enters, 1);
    end();
}

static int starving_enter(struct io_uring *ring, unsigned wait_nr) {
    return ++enters % 3 != 0 ? -EAGAIN : real.enter(ring, wait_nr);
}

Test(uring_queue, a_kernel_short_of_memory_is_waited_out) {
    begin(2);
    vv_uring_sys.enter = starving_enter;
    char buf[] = "x";
    cr_assert(vv_ok(run_one(VV_IO_WRITE_SYNC, buf, 1, 0).status));
    cr_assert_geq(enters, 3);
    end();
}

/* From here on as somebody whom the memlock limit binds, and with a backend that knows. */
static void limit_memlock(uint64_t bytes) {
    vv_io_queue_destroy(queue);
    vv_file_close(file);
    vv_io_backend_destroy(io);
    /* The kernel counts by real user: be one of our own, so that rings of other tests don't count against us.
     */
    if (geteuid() == 0)
        cr_assert_eq(syscall(SYS_setresuid, 100000 + getpid(), -1, -1), 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    cr_assert_eq(syscall(SYS_capget, &header, caps), 0);
    caps[0].effective &= ~(1u << CAP_IPC_LOCK);
    cr_assert_eq(syscall(SYS_capset, &header, caps), 0);
    vv_error err = {0};
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_URING, &logger, &io, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    st = vv_file_open(io, vv_tempdir_path("f"), RW | VV_OPEN_CREATE, &file, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
}

/* A queue with a pool, which works whether its buffers are registered or not. */
static void expect_working_pool(uint32_t depth, uint32_t count, uint32_t bytes) {
    vv_io_queue_options o = {.depth = depth, .pool_buffer_count = count, .pool_buffer_bytes = bytes};
    vv_error err = {0};
    vv_status st = vv_io_queue_create(io, &o, &queue, &err);
    cr_assert(st.code == VV_OK, "%s", err.text);
    char *buf = vv_io_buffer_take(queue);
    memset(buf, 'p', bytes);
    vv_io_req req = run_one(VV_IO_WRITE_SYNC, buf, bytes, 0);
    cr_assert(vv_ok(req.status), "errno %d", req.status.sys);
    vv_io_buffer_give(queue, buf);
}

Test(uring_queue, a_pool_beyond_the_memlock_limit_works_unregistered) {
    begin(2);
    limit_memlock(1 << 20);
    expect_working_pool(2, 1, 65536);
    cr_assert_str_eq(logged, "");
    vv_io_queue *first = queue;
    expect_working_pool(2, 4, 1 << 20);
    cr_assert(strstr(logged, "not registered: more than the memlock limit has to spare"), "%s", logged);
    vv_io_queue_destroy(first);
    end();
}

Test(uring_queue, a_ring_beyond_the_memlock_limit_is_a_smaller_one) {
    begin(2);
    limit_memlock(256 * 1024); /* enough for small rings on kernels that count them */
    expect_working_pool(4096, 1, 4096);
    char buf[200];
    vv_io_req reqs[200];
    fill(buf, sizeof buf);
    for (uint32_t i = 0; i < 200; i++) {
        reqs[i] = (vv_io_req){
            .op = VV_IO_WRITE, .file = file, .buf = buf + i, .bytes = 1, .offset = i, .done = noted};
        vv_io_submit(queue, &reqs[i]);
    }
    cr_assert(vv_ok(vv_io_run(queue, 200, NULL)));
    for (int i = 0; i < 200; i++)
        cr_assert(vv_ok(reqs[i].status));
    end();
}

static int fixed_seen;

static void count_fixed(struct io_uring_sqe *sqe) {
    fixed_seen += sqe->opcode == IORING_OP_WRITE_FIXED || sqe->opcode == IORING_OP_READ_FIXED;
}

static int fixed_counting_enter(struct io_uring *ring, unsigned wait_nr) {
    each_sqe(ring, count_fixed);
    return counting_enter(ring, wait_nr);
}

Test(uring_queue, pool_buffers_go_as_registered_ones) {
    begin(2);
    vv_io_queue_destroy(queue);
    vv_io_queue_options o = {.depth = 2, .pool_buffer_count = 2, .pool_buffer_bytes = 4096};
    cr_assert(vv_ok(vv_io_queue_create(io, &o, &queue, NULL)));
    if (logged[0])
        cr_skip_test("%s", logged);
    vv_uring_sys.enter = fixed_counting_enter;
    char *pooled = vv_io_buffer_take(queue), own[16] = "own";
    memset(pooled, 'p', 4096);
    cr_assert(vv_ok(run_one(VV_IO_WRITE, pooled + 10, 100, 0).status));
    cr_assert_eq(fixed_seen, 1);
    cr_assert(vv_ok(run_one(VV_IO_WRITE_SYNC, pooled, 100, 100).status));
    cr_assert_eq(fixed_seen, 2);
    cr_assert(vv_ok(run_one(VV_IO_READ, pooled, 200, 0).status));
    cr_assert_eq(fixed_seen, 3);
    cr_assert(vv_ok(run_one(VV_IO_READ, own, 16, 0).status));
    cr_assert_eq(fixed_seen, 3);
    vv_io_buffer_give(queue, pooled);
    end();
}
