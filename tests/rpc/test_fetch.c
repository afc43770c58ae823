/*
 * A whole store fetched from a server, over links and from servers that fail on the way.
 */
#include "rpc/fetch.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sync.h"
#include "tests/rpc/certificates.h"
#include "tests/rpc/server_fixture.h"
#include "tests/rpc/tcp_proxy.h"
#include "tests/support/tempdir.h"

/* Some twenty tables of a megabyte that no compaction touches. */
#define VALUE_BYTES ((size_t)100000)
#define VALUES      ((size_t)240)

static void set(const char *key, const char *value) {
    varve_error words;
    cr_assert(varve_ok(varve_options_set(fx.engine, key, value, &words)), "%s", words.text);
}

static void fetch_init(void) {
    fixture_init();
    set("MEMTABLE_SIZE", "1MiB");
    set("COMPACTION_THRESHOLD", "64");
    fx.config.exports_max = 1; /* one that is not released shows */
}

TestSuite(fetch, .init = fetch_init, .fini = fixture_fini, .timeout = 240);

/* ---- what there is to fetch ---- */

static char value[VALUE_BYTES + 1];

static const char *value_of(size_t i) {
    uint64_t random = i + 1;
    for (size_t b = 0; b < VALUE_BYTES; b += 8)
        snprintf(value + b, 9, "%08" PRIx32, (uint32_t)vv_test_random(&random));
    return value;
}

static const char *key_of(size_t i) {
    static char key[32];
    snprintf(key, sizeof key, "key%06zu", i);
    return key;
}

static void start_filled(void) {
    fixture_start();
    for (size_t i = 0; i < VALUES; i++)
        expect_end(call_put(key_of(i), value_of(i)), GRPC_STATUS_OK, NULL);
}

static void expect_store(const char *dir, const vv_fetch_info *info) {
    varve_db *db;
    varve_error words = {""};
    varve_stats stats;
    cr_assert(varve_ok(varve_open(dir, NULL, &db, &words)), "%s", words.text);
    varve_stats_get(db, &stats);
    cr_expect_eq(stats.last_lsn, info->lsn);
    cr_expect_geq(info->lsn, VALUES);
    for (size_t i = 0; i < VALUES; i++) {
        varve_value got;
        const char *key = key_of(i);
        cr_assert(varve_ok(varve_get(db, key, strlen(key), &got)), "%s", key);
        cr_assert(got.bytes == VALUE_BYTES && memcmp(got.data, value_of(i), VALUE_BYTES) == 0, "%s", key);
        varve_value_release(&got);
    }
    cr_assert(varve_ok(varve_close(db)));
}

/* ---- a fetch, on a thread of its own ---- */

static _Atomic size_t lines, complaints;

static void note_line(void *arg, vv_log_level level, const char *line) {
    (void)arg;
    atomic_fetch_add(&lines, 1);
    if (level == VV_LOG_WARN)
        atomic_fetch_add(&complaints, 1);
    fprintf(stderr, "%s\n", line);
}

static const vv_logger logger = {.write = note_line, .least = VV_LOG_INFO};

typedef struct job {
    vv_fetch_options options;
    pthread_t thread;
    _Atomic bool unwanted;
    _Atomic uint64_t here, total;
    _Atomic bool done;
    vv_status status;
    vv_fetch_info info;
    vv_error err;
} job;

static bool see_progress(void *arg, uint64_t here, uint64_t total) {
    job *j = arg;
    cr_assert_leq(here, total);
    atomic_store(&j->here, here);
    atomic_store(&j->total, total);
    return !atomic_load(&j->unwanted);
}

static void run(void *arg) {
    job *j = arg;
    j->status = vv_fetch(&j->options, &j->info, &j->err);
    atomic_store(&j->done, true);
}

static void begin(job *j, const char *address, const char *dir) {
    vv_error err = {""};
    vv_peer_options to = {.address = address};
    *j = (job){.options = {.dir = dir, .progress = see_progress, .arg = j, .log = &logger}};
    cr_assert(vv_ok(vv_peer_create(&to, &j->options.peer, &err)), "%s", err.text);
}

static void start(job *j) {
    cr_assert(vv_ok(vv_thread_start(&j->thread, "fetch", run, j)));
}

static void end(job *j) {
    vv_thread_join(j->thread);
    vv_peer_destroy(j->options.peer);
}

/* From begin to end. */
static job fetch_from(const char *address, const char *dir) {
    static job j;
    begin(&j, address, dir);
    start(&j);
    end(&j);
    return j;
}

static void expect_fine(const job *j) {
    cr_assert(vv_ok(j->status), "%s", j->err.text);
}

/* Wait for the link's first cut. */
static void wait_for_cut(tcp_proxy *link) {
    uint64_t until_ns = vv_clock_mono_ns() + 60 * VV_NS_PER_S;
    while (tcp_proxy_cuts(link) == 0) {
        cr_assert_lt(vv_clock_mono_ns(), until_ns);
        sched_yield();
    }
}

/* ---- when nothing fails ---- */

Test(fetch, brings_a_whole_store) {
    start_filled();
    const char *dir = vv_tempdir_path("copy");
    job j = fetch_from(vv_server_address(fx.server, 0), dir);
    expect_fine(&j);
    cr_expect_eq(j.info.fetched_bytes, j.info.bytes);
    cr_expect_gt(j.info.bytes, VALUES * VALUE_BYTES);
    cr_expect_gt(j.info.file_count, 10);
    cr_expect_geq(lines, 2);
    cr_expect_eq(complaints, 0);
    expect_store(dir, &j.info);

    j = fetch_from(vv_server_address(fx.server, 0),
                   vv_tempdir_path("another")); /* the snapshot was released */
    expect_fine(&j);
    cr_expect_eq(complaints, 0);
}

Test(fetch, an_empty_store_is_one_too) {
    fixture_start();
    const char *dir = vv_tempdir_path("copy");
    job j = fetch_from(vv_server_address(fx.server, 0), dir);
    expect_fine(&j);
    cr_expect_eq(j.info.lsn, 0);
    cr_expect_eq(j.info.file_count, 1);
    varve_db *db;
    varve_error words = {""};
    cr_assert(varve_ok(varve_open(dir, NULL, &db, &words)), "%s", words.text);
    cr_assert(varve_ok(varve_close(db)));
}

Test(fetch, what_is_there_is_not_fetched_again) {
    set("MEMTABLE_SIZE", "8MiB"); /* tables of many pieces: some are here in part */
    start_filled();
    const char *dir = vv_tempdir_path("copy");
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    tcp_proxy_freeze_after(link, 20 << 20);
    job j;
    begin(&j, tcp_proxy_address(link), dir);
    start(&j);
    wait_for_cut(link);
    atomic_store(&j.unwanted, true);
    end(&j);
    cr_assert_eq(j.status.code, VV_BUSY, "%s", j.err.text);
    cr_assert_eq(j.status.sub, VV_SUB_CANCELED);
    cr_assert_eq(j.info.bytes, 0);
    uint64_t first = j.info.fetched_bytes;
    cr_assert_gt(first, 0); /* a reset drops what the kernel holds */
    tcp_proxy_destroy(link);

    fx.config.exports_max = 1; /* the release did not get through: the lease has to be ended by a restart */
    strcpy(fx.config.listen[0], vv_server_address(fx.server, 0));
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fixture_start();
    j = fetch_from(vv_server_address(fx.server, 0), dir);
    expect_fine(&j);
    /* Of a file that was cut off, up to a block is fetched again. */
    cr_expect_leq(first + j.info.fetched_bytes, j.info.bytes + 64 * 1024);
    expect_store(dir, &j.info);
}

Test(fetch, the_lease_is_held_while_the_disk_is_slow) {
    fx.config.snapshot_lease_us_max = 6000000; /* asked for at least every 2 s */
    start_filled();
    const char *dir = vv_tempdir_path("copy");
    job j;
    begin(&j, vv_server_address(fx.server, 0), dir);
    engine_tap_delay_import(9 * VV_NS_PER_S);
    start(&j);
    end(&j);
    expect_fine(&j);
    cr_expect_eq(complaints, 0);
    cr_expect_eq(j.info.fetched_bytes, j.info.bytes);
}

/* ---- when something does ---- */

Test(fetch, goes_on_where_a_connection_was_lost) {
    set("MEMTABLE_SIZE", "8MiB");
    start_filled();
    const char *dir = vv_tempdir_path("copy");
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    tcp_proxy_cut_each(link, 4 << 20, vv_test_seed());
    job j = fetch_from(tcp_proxy_address(link), dir);
    expect_fine(&j);
    uint32_t cuts = tcp_proxy_cuts(link);
    cr_expect_gt(cuts, 0);
    cr_expect_gt(complaints, 0);
    /* Whole pieces count, and none comes twice; the manifest begins anew. */
    cr_expect_leq(j.info.fetched_bytes, j.info.bytes + cuts * UINT64_C(20000), "%" PRIu64 " of %" PRIu64,
                  j.info.fetched_bytes, j.info.bytes);
    tcp_proxy_destroy(link);
    expect_store(dir, &j.info);
}

Test(fetch, takes_another_snapshot_from_a_server_that_was_started_again) {
    start_filled();
    const char *dir = vv_tempdir_path("copy");
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    tcp_proxy_freeze_after(link, 16 << 20);
    job j;
    begin(&j, tcp_proxy_address(link), dir);
    start(&j);
    wait_for_cut(link);
    strcpy(fx.config.listen[0], vv_server_address(fx.server, 0));
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fixture_start();
    expect_end(call_put("new", "entry"), GRPC_STATUS_OK, NULL);
    tcp_proxy_freeze(link, false);
    end(&j);
    expect_fine(&j);
    cr_expect_eq(j.info.lsn, VALUES + 1);
    /* Most files are the same, and were here. */
    cr_expect_leq(j.info.fetched_bytes, j.info.bytes + (2 << 20), "%" PRIu64 " of %" PRIu64,
                  j.info.fetched_bytes, j.info.bytes);
    tcp_proxy_destroy(link);
    expect_store(dir, &j.info);
}

/* Flip a byte in the middle of a table. Its name. */
static const char *damage_a_table(const char *dir) {
    static char name[256];
    char path[1024];
    DIR *d = opendir(dir);
    name[0] = '\0';
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && strcmp(dot, ".sst") == 0)
            snprintf(name, sizeof name, "%s", e->d_name);
    }
    closedir(d);
    cr_assert_str_neq(name, "");
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat file;
    uint8_t byte;
    cr_assert_eq(fstat(fd, &file), 0);
    cr_assert_eq(pread(fd, &byte, 1, file.st_size / 2), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, file.st_size / 2), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
    return name;
}

Test(fetch, a_file_that_comes_damaged_is_named) {
    start_filled();
    job j = fetch_from(vv_server_address(fx.server, 0), vv_tempdir_path("good")); /* flushes */
    expect_fine(&j);
    const char *name = damage_a_table(fx.config.data);
    j = fetch_from(vv_server_address(fx.server, 0), vv_tempdir_path("copy"));
    cr_assert_eq(j.status.code, VV_CORRUPTION, "%s", j.err.text);
    cr_expect_not_null(strstr(j.err.text, name), "%s: %s", name, j.err.text);
    cr_expect_not_null(strstr(j.err.text, "checksum"), "%s", j.err.text);
    cr_expect_eq(complaints, 3);
}

Test(fetch, gives_up_when_nothing_comes) {
    fixture_start();
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    tcp_proxy_freeze(link, true);
    job j;
    begin(&j, tcp_proxy_address(link), vv_tempdir_path("copy"));
    j.options.give_up_ns = 300 * VV_NS_PER_MS;
    uint64_t started_ns = vv_clock_mono_ns();
    start(&j);
    end(&j);
    cr_expect_eq(j.status.code, VV_TIMED_OUT, "%s", j.err.text);
    cr_expect_lt(vv_clock_mono_ns() - started_ns, 30 * VV_NS_PER_S);
    tcp_proxy_destroy(link);
}

Test(fetch, waits_for_a_server_that_is_not_there_yet) {
    start_filled();
    strcpy(fx.config.listen[0], vv_server_address(fx.server, 0));
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    const char *dir = vv_tempdir_path("copy");
    job j;
    begin(&j, fx.config.listen[0], dir);
    start(&j);
    while (atomic_load(&complaints) == 0)
        sched_yield();
    fixture_start();
    end(&j);
    expect_fine(&j);
    expect_store(dir, &j.info);
}

Test(fetch, an_interrupted_peer_ends_it) {
    fixture_start();
    tcp_proxy *link = tcp_proxy_create(vv_server_address(fx.server, 0));
    tcp_proxy_freeze(link, true);
    job j;
    begin(&j, tcp_proxy_address(link), vv_tempdir_path("copy"));
    start(&j);
    vv_peer_interrupt(j.options.peer);
    end(&j);
    cr_expect_eq(j.status.code, VV_BUSY, "%s", j.err.text);
    cr_expect_eq(j.status.sub, VV_SUB_CANCELED);
    tcp_proxy_destroy(link);
}

Test(fetch, a_refusal_is_told_at_once) {
    test_write_file(vv_tempdir_path("tokens"), "default anonymous read,write,admin\n");
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fixture_start();
    job j = fetch_from(vv_server_address(fx.server, 0), vv_tempdir_path("copy"));
    cr_expect_eq(j.status.code, VV_PERMISSION, "%s", j.err.text);
    cr_expect_not_null(strstr(j.err.text, "PERMISSION_DENIED"), "%s", j.err.text);
    cr_expect_neq(access(vv_tempdir_path("copy"), F_OK), 0);
}

Test(fetch, a_directory_of_somebody_else_is_left_alone) {
    fixture_start();
    const char *dir = vv_tempdir_path("theirs");
    cr_assert_eq(mkdir(dir, 0700), 0);
    test_write_file(vv_tempdir_path("theirs/notes"), "mine");
    job j = fetch_from(vv_server_address(fx.server, 0), dir);
    cr_expect_eq(j.status.code, VV_EXISTS, "%s", j.err.text);
}
