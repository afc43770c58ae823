/*
 * The check of a running database: that it is silent about what is good, and finds every damage where it is.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_verify, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 1200);

enum { KEYS = 3000 };

static const char *key_of(int i) {
    static char key[32];
    snprintf(key, sizeof key, "key%06d", i);
    return key;
}

static void fill(void) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char value[120];
    for (int i = 0; i < KEYS; i++) {
        snprintf(value, sizeof value, "%0100d", i * 7919);
        cr_assert(varve_ok(varve_put(fx_db, key_of(i), 9, value, strlen(value), &async, NULL)));
    }
    cr_assert(varve_ok(varve_flush(fx_db)));
}

typedef struct seen {
    int count;
    varve_damage damage[64]; /* their texts and keys below */
    char file[64][300];
    char text[64][600];
    char first[64][32], last[64][32];
} seen;

static void note(void *arg, const varve_damage *d) {
    seen *s = arg;
    int i = s->count++;
    cr_assert_lt(i, 64);
    s->damage[i] = *d;
    snprintf(s->file[i], sizeof s->file[i], "%s", d->file);
    snprintf(s->text[i], sizeof s->text[i], "%s", d->text);
    snprintf(s->first[i], sizeof s->first[i], "%.*s", (int)d->first_key_bytes,
             d->first_key ? (const char *)d->first_key : "");
    snprintf(s->last[i], sizeof s->last[i], "%.*s", (int)d->last_key_bytes,
             d->last_key ? (const char *)d->last_key : "");
}

static seen found;
static varve_verify_result result;

static void verify(void) {
    varve_verify_options o = {.damaged = note, .arg = &found};
    memset(&found, 0, sizeof found);
    cr_assert(varve_ok(varve_verify(fx_db, &o, &result, &fx_err)), "%s", fx_err.text);
    cr_assert_eq(result.damage_count, (uint64_t)found.count);
}

/* The only table. */
static const char *table_path(void) {
    static char path[600];
    DIR *d = opendir(vv_tempdir_path("db"));
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".sst"))
            snprintf(path, sizeof path, "%s/%s", vv_tempdir_path("db"), e->d_name);
    closedir(d);
    return path;
}

static uint64_t size_of(const char *path) {
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

static void flip(const char *path, uint64_t offset) {
    uint8_t byte;
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

Test(db_verify, finds_nothing_where_nothing_is_wrong) {
    static const char *const compressions[] = {"none", "lz4", "zstd"};
    static const char *const indexes[] = {"sparse", "dense"};
    for (size_t c = 0; c < VV_ARRAY_COUNT(compressions); c++)
        for (size_t i = 0; i < VV_ARRAY_COUNT(indexes); i++) {
            fx_open_with(fx_options("COMPRESSION", compressions[c], "INDEX_TYPE", indexes[i], "MEMTABLE_SIZE",
                                    "64KiB", "MAX_TABLE_SIZE", "64KiB", "BLOOM_FILTER_FALSE_POSITIVE_RATE",
                                    i ? "0" : "0.01", NULL));
            fill();
            fx_delete(key_of(5));
            char *large = calloc(1, 1500000); /* a block of its own, longer than what is read at once */
            cr_assert(varve_ok(varve_put(fx_db, "large", 5, large, 1500000, NULL, NULL)));
            free(large);
            cr_assert(varve_ok(varve_compact(fx_db))); /* and nothing is left to merge meanwhile */
            verify();
            cr_assert_eq(result.damage_count, 0, "%s", found.text[0]);
            cr_assert_eq(result.file_count, fx_stats().sstable_count + 1, "and the manifest");
            cr_assert_gt(result.block_count, 10);
            cr_assert_geq(result.bytes, result.block_count * 4096);
            fx_close();
            vv_tempdir_cleanup();
            vv_tempdir();
        }
}

Test(db_verify, tells_each_damaged_block_and_goes_on) {
    fx_open();
    fill();
    const char *path = table_path();
    verify();
    uint64_t blocks = result.block_count;
    cr_assert_gt(blocks, 40);
    /* In the middle of the third, the tenth and the last block. */
    static const int damaged[] = {2, 9};
    for (int i = 0; i < 2; i++)
        flip(path, (uint64_t)damaged[i] * 4096 + 1000);
    flip(path, (blocks - 1) * 4096 + 30);
    verify();
    cr_assert_eq(found.count, 3);
    cr_assert_eq(result.block_count, blocks, "it went on");
    for (int i = 0; i < 3; i++) {
        uint64_t at = i < 2 ? (uint64_t)damaged[i] * 4096 : (blocks - 1) * 4096;
        cr_assert_eq(found.damage[i].offset, at);
        cr_assert_eq(found.damage[i].bytes, 4096);
        cr_assert_eq(found.damage[i].status.code, VARVE_CORRUPTION);
        cr_assert_str_eq(varve_reason_name(found.damage[i].status.reason), "CHECKSUM");
        cr_assert_str_eq(found.file[i], path);
        cr_assert_not_null(strstr(found.text[i], "checksum mismatch"), "%s", found.text[i]);
    }
    cr_assert_str_eq(found.last[2], key_of(KEYS - 1));
    /* Exactly the keys in the ranges are lost; those at their ends may be in the neighbours. */
    int lost = 0;
    for (int k = 0; k < KEYS; k++) {
        varve_value v;
        bool in_range = false;
        for (int i = 0; i < 3; i++)
            in_range |= strcmp(found.first[i], key_of(k)) <= 0 && strcmp(key_of(k), found.last[i]) <= 0;
        varve_status st = varve_get(fx_db, key_of(k), 9, &v);
        varve_value_release(&v);
        cr_assert(varve_ok(st) || (in_range && st.code == VARVE_CORRUPTION), "%s", key_of(k));
        lost += !varve_ok(st);
    }
    cr_assert_gt(lost, 30);
    fx_close();
}

/* Whatever byte of a table is flipped, it is found; in data blocks, at the right place. */
Test(db_verify, no_byte_of_a_table_goes_unchecked) {
    uint64_t seed = vv_test_seed();
    fx_open();
    fill();
    const char *path = table_path();
    uint64_t bytes = size_of(path);
    verify();
    uint64_t data_bytes = result.block_count * 4096;
    for (int round = 0; round < 150; round++) {
        /* Half of them in the index, the filter and the footer. */
        uint64_t at = round % 2 ? vv_test_random(&seed) % data_bytes
                                : data_bytes + vv_test_random(&seed) % (bytes - data_bytes);
        if (round < 56)
            at = bytes - 1 - (uint64_t)round;
        flip(path, at);
        verify();
        cr_assert_eq(found.count, 1, "offset %" PRIu64 " of %" PRIu64, at, bytes);
        if (at < data_bytes) {
            cr_assert_eq(found.damage[0].offset, at / 4096 * 4096);
        } else {
            cr_assert_str_eq(found.first[0], key_of(0), "all of the table");
            cr_assert_str_eq(found.last[0], key_of(KEYS - 1));
            cr_assert_geq(found.damage[0].offset, data_bytes);
            cr_assert_leq(found.damage[0].offset, at);
        }
        flip(path, at);
    }
    verify();
    cr_assert_eq(found.count, 0);
    fx_close();
}

Test(db_verify, a_short_or_missing_table_and_the_manifest_are_told) {
    fx_open();
    fill();
    char path[600], moved[640];
    snprintf(path, sizeof path, "%s", table_path());
    snprintf(moved, sizeof moved, "%s.moved", path);
    uint64_t bytes = size_of(path);
    cr_assert_eq(rename(path, moved), 0);
    verify();
    cr_assert_eq(found.count, 1);
    cr_assert_eq(found.damage[0].status.code, VARVE_NOT_FOUND);
    cr_assert_eq(rename(moved, path), 0);

    flip(vv_tempdir_path("db/MANIFEST"), 40);
    verify();
    cr_assert_eq(found.count, 1);
    cr_assert_not_null(strstr(found.file[0], "MANIFEST"));
    cr_assert_null(found.damage[0].first_key);
    flip(vv_tempdir_path("db/MANIFEST"), 40);
    verify();
    cr_assert_eq(found.count, 0);

    cr_assert_eq(truncate(path, (off_t)bytes / 2), 0);
    verify();
    cr_assert_eq(found.count, 1);
    cr_assert_eq(found.damage[0].status.code, VARVE_CORRUPTION);
    fx_close();
}

/* ---- the log ---- */

Test(db_verify, damage_in_the_log_is_found_while_it_can_be_made_good) {
    char path[600];
    fx_open();
    uint64_t last = 0;
    for (int i = 0; i < 100; i++)
        last = fx_put(key_of(i), "value");
    verify();
    cr_assert_eq(found.count, 0);
    cr_assert_gt(result.bytes, 100 * 20, "the records, though there is no table");
    snprintf(path, sizeof path, "%s", vv_tempdir_path("db/wal-0000000000000001.log"));
    /* The fifth frame: those of one record each take a block, and the segment's header is before them. */
    uint8_t head[64];
    int fd = open(path, O_RDONLY);
    cr_assert_eq(pread(fd, head, sizeof head, 0), (ssize_t)sizeof head);
    close(fd);
    uint64_t block_bytes = vv_get_be32(head + 12);
    flip(path, 5 * block_bytes + 70);
    verify();
    cr_assert_eq(found.count, 1);
    cr_assert_str_eq(found.file[0], path);
    cr_assert_eq(found.damage[0].offset, 5 * block_bytes);
    cr_assert_eq(found.damage[0].status.code, VARVE_CORRUPTION);
    cr_assert_not_null(strstr(found.text[0], "record 5 at"), "%s", found.text[0]);

    /* All of it is still in memory: a flush makes it good. */
    cr_assert(varve_ok(varve_flush(fx_db)));
    verify();
    cr_assert_eq(found.count, 0);
    fx_close();
    fx_open();
    fx_expect(key_of(4), "value");
    cr_assert_eq(fx_stats().last_lsn, last);
    fx_close();
}

/* Another good table under the name of one: all its checksums are right. */
Test(db_verify, a_table_in_the_place_of_another_is_noticed) {
    char other[640];
    fx_open();
    fill();
    snprintf(other, sizeof other, "%s", table_path());
    fx_put("a", "1");
    cr_assert(varve_ok(varve_flush(fx_db)));
    char command[1400];
    snprintf(command, sizeof command,
             "cd %s && set -- *.sst && test $# = 2 && cp $1 x && cp $2 $1 && cp x $2 && rm x && sync",
             vv_tempdir_path("db"));
    cr_assert_eq(system(command), 0);
    verify();
    cr_assert_eq(found.count, 2);
    cr_assert_not_null(strstr(found.text[0], "not the table that the manifest names"), "%s", found.text[0]);
    fx_close();
}

/* ---- a device with bad sectors ---- */

static _Atomic int reads_until_failure; /* 0: none fails */

static vv_status fail_reads(void *arg, const char *op, const char *name) {
    (void)arg;
    if (strcmp(op, "read") != 0 || !strstr(name, ".sst") || atomic_load(&reads_until_failure) == 0)
        return VV_STATUS_OK;
    return atomic_fetch_sub(&reads_until_failure, 1) == 1 ? vv_status_errno(EIO) : VV_STATUS_OK;
}

Test(db_verify, a_piece_that_cannot_be_read_is_read_block_by_block) {
    vv_error err;
    varve_options *o = fx_options(NULL);
    cr_assert(
        vv_ok(vv_db_open_on(vv_fault_io_create(fail_reads, NULL), vv_tempdir_path("db"), o, &fx_db, &err)));
    varve_options_destroy(o);
    fill();
    /* The tail is read once, so this is the first piece; its blocks are read one by one then. */
    atomic_store(&reads_until_failure, 2);
    verify();
    cr_assert_eq(found.count, 0, "the second try went well");
    cr_assert_eq(atomic_load(&reads_until_failure), 0);
    fx_close();
}

/* ---- beside a writer ---- */

static _Atomic bool stop_writing;
static _Atomic uint64_t written;

static void write_on(void *arg) {
    static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    char value[300] = "";
    (void)arg;
    for (int i = 0; !atomic_load(&stop_writing); i++) {
        snprintf(value, sizeof value, "%0250d", i);
        const varve_write_options *o = i % 50 ? &async : NULL;
        cr_assert(varve_ok(varve_put(fx_db, key_of(i % KEYS), 9, value, strlen(value), o, NULL)));
        atomic_fetch_add(&written, 1);
    }
}

/* Tables and segments come and go, the manifest is replaced: none of that is damage. */
Test(db_verify, beside_a_writer_it_finds_nothing) {
    pthread_t writer;
    fx_open_with(
        fx_options("MEMTABLE_SIZE", "64KiB", "MAX_TABLE_SIZE", "64KiB", "COMPACTION_THRESHOLD", "2", NULL));
    cr_assert(vv_ok(vv_thread_start(&writer, "writer", write_on, NULL)));
    for (int round = 0; round < 40; round++) {
        uint64_t before = atomic_load(&written);
        verify();
        cr_assert_eq(found.count, 0, "%s", found.text[0]);
        while (atomic_load(&written) < before + 50)
            sched_yield();
    }
    atomic_store(&stop_writing, true);
    vv_thread_join(writer);
    cr_assert_gt(fx_stats().compactions, 3);
    fx_close();
}

static bool flush_the_log_away(void *arg, uint64_t done, uint64_t total) {
    bool *flushed = arg;
    (void)done;
    (void)total;
    if (*flushed)
        return true;
    *flushed = true;
    cr_assert(varve_ok(varve_flush(fx_db)));
    while (fx_stats().wal_segment_count > 1)
        sched_yield();
    return true;
}

Test(db_verify, what_leaves_the_log_meanwhile_is_in_tables) {
    static char value[100000];
    bool flushed = false;
    varve_verify_options o = {.progress = flush_the_log_away, .arg = &flushed};
    fx_open();
    for (int i = 0; i < 40; i++)
        cr_assert(varve_ok(varve_put(fx_db, key_of(i), 9, value, sizeof value, NULL, NULL)));
    cr_assert_gt(fx_stats().wal_segment_count, 3);
    cr_assert(varve_ok(varve_verify(fx_db, &o, &result, &fx_err)), "%s", fx_err.text);
    cr_assert(flushed);
    cr_assert_eq(result.damage_count, 0);
    fx_close();
}

/* ---- rate, cancelling, memory ---- */

typedef struct progress {
    uint64_t calls, last_done, total, stop_at;
} progress;

static bool on_progress(void *arg, uint64_t done, uint64_t total) {
    progress *p = arg;
    p->calls++;
    cr_assert_geq(done, p->last_done);
    cr_assert_leq(done, total);
    p->last_done = done;
    p->total = total;
    return p->stop_at == 0 || done < p->stop_at;
}

Test(db_verify, keeps_to_its_rate_and_stops_when_told) {
    fx_open();
    fill();
    uint64_t bytes = size_of(table_path());
    progress p = {0};
    varve_verify_options o = {.progress = on_progress, .arg = &p, .bytes_per_second = 5 * bytes};
    uint64_t start_ns = vv_clock_mono_ns();
    cr_assert(varve_ok(varve_verify(fx_db, &o, &result, NULL)));
    uint64_t took_ms = (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS;
    cr_assert_geq(took_ms, 150, "a fifth of a second, but for index and filter: %" PRIu64, took_ms);
    cr_assert_geq(p.total, bytes);
    cr_assert_eq(p.last_done, result.bytes);

    p = (progress){.stop_at = 1};
    varve_status st = varve_verify(fx_db, &o, &result, &fx_err);
    cr_assert_eq(st.code, VARVE_BUSY);
    cr_assert_str_eq(varve_reason_name(st.reason), "CANCELED");
    cr_assert_not_null(strstr(fx_err.text, "verify"));
    fx_close();
}

Test(db_verify, each_failed_allocation_ends_it) {
    fx_open_with(fx_options("COMPRESSION", "lz4", NULL));
    fill();
    uint64_t failures = 0;
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        varve_status st = varve_verify(fx_db, NULL, &result, NULL);
        vv_alloc_fail_at(0);
        if (varve_ok(st))
            break;
        cr_assert_eq(st.code, VARVE_NO_MEMORY);
        cr_assert_eq(result.damage_count, 0, "no damage, only no memory");
        failures++;
    }
    cr_assert_gt(failures, 5);
    fx_close();
}
