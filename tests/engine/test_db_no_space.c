/*
 * A database on a file system that is really full: a small tmpfs in a mount namespace of the test's own, so
 * it needs root.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/kv/record.h"
#include "tests/engine/db_fixture.h"

TestSuite(db_no_space, .timeout = 120);

#define VALUE_BYTES   4000
#define BALLAST_BYTES (24 << 20)
#define WAIT_NS       (30 * VV_NS_PER_S)

static const char *small_disk(void) {
    const char *dir = vv_tempdir();
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("varve-test", dir, "tmpfs", 0, "size=96m") != 0) {
        fprintf(stderr, "SKIPPED: no small file system to be had: %s\n", strerror(errno));
        vv_tempdir_cleanup();
        cr_skip_test("mount: %s", strerror(errno));
    }
    FILE *f = fopen(vv_tempdir_path("ballast"), "wb");
    char *zeros = calloc(1, BALLAST_BYTES);
    cr_assert(f && zeros && fwrite(zeros, BALLAST_BYTES, 1, f) == 1 && fclose(f) == 0);
    free(zeros);
    return dir;
}

static void open_small(const char *style) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "4MiB", "MAX_TABLE_SIZE", "4MiB", "MAX_IMMUTABLE_COUNT", "2",
                            "COMPACTION_STYLE", style, NULL));
}

static varve_status put(uint32_t i) {
    char key[16];
    static char value[VALUE_BYTES];
    snprintf(key, sizeof key, "%08u", i);
    memset(value, 'a' + (int)(i % 26), sizeof value);
    return varve_put(fx_db, key, 8, value, sizeof value, NULL, NULL);
}

static void delete (uint32_t i) {
    char key[16];
    snprintf(key, sizeof key, "%08u", i);
    varve_status st = varve_delete(fx_db, key, 8, NULL, NULL);
    cr_assert(varve_ok(st), "delete %s: %s", key, varve_code_name(st.code));
}

static void expect(uint32_t i, bool there) {
    char key[16];
    varve_value v;
    snprintf(key, sizeof key, "%08u", i);
    varve_status st = varve_get(fx_db, key, 8, &v);
    cr_assert_eq(st.code, there ? VARVE_OK : VARVE_NOT_FOUND, "%s: %s", key, varve_code_name(st.code));
    if (there)
        cr_assert(v.bytes == VALUE_BYTES && *(const char *)v.data == 'a' + (int)(i % 26), "%s", key);
    varve_value_release(&v);
}

/* From key `i` on, until one is refused: its number. A flush or a merge under way may still bring room. */
static uint32_t fill(uint32_t i) {
    for (;; i++) {
        varve_status st = put(i);
        if (varve_ok(st))
            continue;
        cr_assert_eq(st.code, VARVE_NO_SPACE, "%s", varve_code_name(st.code));
        return i;
    }
}

/* More deletes than a memtable holds. Are they flushed before a put, of key `count`, finds room again? */
static bool deletes_are_flushed(uint32_t count, uint64_t until_ns) {
    while (fx_stats().immutable_count > 0)
        cr_assert_lt(vv_clock_mono_ns(), until_ns, "puts are not flushed");
    uint64_t flushes = fx_stats().flushes;
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < count; i += 3)
            delete (i);
    while (fx_stats().flushes == flushes) {
        if (varve_ok(put(count)))
            return false;
        cr_assert_lt(vv_clock_mono_ns(), until_ns, "deletes are not flushed");
    }
    return true;
}

static void fill_and_recover(const char *style) {
    const char *disk = small_disk();
    open_small(style);
    uint32_t count = fill(0);
    cr_log_info("%u puts", count);
    cr_assert_gt(count, 3000);
    for (uint32_t i = 0; i < count; i += 7)
        expect(i, true);

    /* Deletes are flushed too, on a disk that takes no put. */
    for (uint64_t until = vv_clock_mono_ns() + WAIT_NS; !deletes_are_flushed(count, until);)
        count = fill(count + 1);
    cr_assert(!fx_stats().wal_failed);

    /* Space that is freed is used without a restart. */
    cr_assert_eq(unlink(vv_tempdir_path("ballast")), 0);
    varve_status st;
    for (uint64_t until = vv_clock_mono_ns() + WAIT_NS; !varve_ok(st = put(count));)
        cr_assert(st.code == VARVE_NO_SPACE && vv_clock_mono_ns() < until, "%s", varve_code_name(st.code));
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();

    open_small(style);
    for (uint32_t i = 0; i <= count; i++)
        expect(i, i == count || i % 3 != 0);
    fx_close();
    cr_assert_eq(umount2(disk, MNT_DETACH), 0); /* the kernel ends rings in its own time */
    vv_tempdir_cleanup();
}

Test(db_no_space, leveled_puts_fail_reads_and_deletes_go_on_and_freed_space_is_used) {
    fill_and_recover("leveled");
}

Test(db_no_space, tiered_puts_fail_reads_and_deletes_go_on_and_freed_space_is_used) {
    fill_and_recover("tiered");
}

Test(db_no_space, a_batch_with_one_put_is_refused_and_one_of_deletes_is_not) {
    const char *disk = small_disk();
    open_small("tiered");
    varve_batch *b = varve_batch_create();
    char key[16];
    uint32_t count = 0, tries = 0;
    varve_status st;
    do { /* where one finds room after all, it is whole */
        count = fill(count);
        snprintf(key, sizeof key, "%08u", tries);
        varve_batch_clear(b);
        cr_assert(varve_ok(varve_batch_delete(b, key, 8)));
        cr_assert(varve_ok(varve_batch_put(b, "x", 1, "", 0)));
        st = varve_write(fx_db, b, NULL, NULL);
        cr_assert(varve_ok(st) || st.code == VARVE_NO_SPACE, "%s", varve_code_name(st.code));
        expect(tries, !varve_ok(st));
    } while (varve_ok(st) && ++tries < count);
    cr_assert_eq(st.code, VARVE_NO_SPACE);
    varve_batch_clear(b);
    cr_assert(varve_ok(varve_batch_delete(b, key, 8)));
    cr_assert(varve_ok(varve_write(fx_db, b, NULL, NULL)));
    expect(tries, false);
    varve_batch_destroy(b);
    fx_close();
    cr_assert_eq(umount2(disk, MNT_DETACH), 0); /* the kernel ends rings in its own time */
    vv_tempdir_cleanup();
}

/* One record of one operation, as a primary sends it. */
static varve_status apply(uint64_t lsn, vv_kind kind, size_t value_bytes) {
    static uint8_t ops[VV_OP_HEAD_BYTES + 8 + VALUE_BYTES], record[VV_RECORD_HEAD_BYTES + sizeof ops];
    char key[16];
    snprintf(key, sizeof key, "%08" PRIu64, lsn);
    vv_entry e = {.kind = kind, .key = vv_slice_make(key, 8), .value = vv_slice_make(NULL, value_bytes)};
    vv_op_head_encode(ops, &e);
    memcpy(ops + VV_OP_HEAD_BYTES, key, 8);
    varve_wal_batch b = {.first_lsn = lsn,
                         .last_lsn = lsn,
                         .op_count = 1,
                         .epoch = 1,
                         .ops = ops,
                         .ops_bytes = VV_OP_HEAD_BYTES + 8 + value_bytes};
    size_t bytes = varve_wal_batch_encode(&b, record, sizeof record);
    return varve_apply(fx_db, record, bytes, NULL, NULL);
}

Test(db_no_space, a_follower_is_refused_puts_and_goes_on_when_there_is_space) {
    const char *disk = small_disk();
    open_small("tiered");
    uint64_t lsn = 1;
    varve_status st;
    while (varve_ok(st = apply(lsn, VV_KIND_PUT, VALUE_BYTES)))
        lsn++;
    cr_assert_eq(st.code, VARVE_NO_SPACE, "%s", varve_code_name(st.code));
    cr_assert_gt(lsn, 3000);
    cr_assert_eq(fx_stats().last_lsn, lsn - 1);
    st = apply(lsn, VV_KIND_DELETE, 0);
    cr_assert(varve_ok(st), "a delete may bring space: %s", varve_code_name(st.code));
    lsn++;
    cr_assert_eq(unlink(vv_tempdir_path("ballast")), 0);
    for (uint64_t until = vv_clock_mono_ns() + WAIT_NS; !varve_ok(st = apply(lsn, VV_KIND_PUT, VALUE_BYTES));)
        cr_assert(st.code == VARVE_NO_SPACE && vv_clock_mono_ns() < until, "%s", varve_code_name(st.code));
    cr_assert_eq(fx_stats().last_lsn, lsn);
    fx_close();
    cr_assert_eq(umount2(disk, MNT_DETACH), 0);
    vv_tempdir_cleanup();
}

/* A block of the log each, and hardly anything in tables: it is the log that fills the disk. */
static void put_small(uint32_t count) {
    char key[16];
    snprintf(key, sizeof key, "%08u", count % 100);
    varve_status st = varve_put(fx_db, key, 8, key, 8, NULL, NULL);
    cr_assert(varve_ok(st), "put %u: %s", count, varve_code_name(st.code));
}

/* Writes come before readers that are away. */
Test(db_no_space, slots_give_way_before_a_put_is_refused) {
    const char *disk = small_disk();
    fx_open_with(
        fx_options("MEMTABLE_SIZE", "4MiB", "MAX_WAL_SIZE", "4MiB", "MAX_IMMUTABLE_COUNT", "2", NULL));
    cr_assert(varve_ok(varve_slot_create(fx_db, "away", 0, &fx_err)), "%s", fx_err.text);
    uint32_t count = 0;
    varve_stats s = fx_stats();
    for (; s.slots_lost == 0; s = fx_stats())
        put_small(count++);
    cr_log_info("lost after %u puts, %" PRIu64 " bytes of log", count, s.wal_bytes);
    cr_assert_gt(s.wal_bytes, UINT64_C(30) << 20, "too early");
    /* What it held comes back, or there would not be room for as much log once more. */
    for (uint64_t until = 2 * s.wal_bytes; s.wal_bytes < until; s = fx_stats())
        put_small(count++);
    char key[16];
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "%08u", i);
        fx_expect(key, key);
    }
    fx_close();
    cr_assert_eq(umount2(disk, MNT_DETACH), 0);
    vv_tempdir_cleanup();
}
