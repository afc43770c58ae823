#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/codec.h"
#include "engine/lsm/manifest.h"
#include "tests/support/fault_io.h"
#include "tests/support/tempdir.h"

static vv_io_backend *io;
static const char *dir;

static void drop(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number;
}

static void setup(void) {
    cr_assert(vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, NULL)));
    dir = vv_tempdir();
}

static void teardown(void) {
    vv_io_backend_destroy(io);
    vv_tempdir_cleanup();
}

TestSuite(manifest, .init = setup, .fini = teardown);

static vv_table *table(uint32_t level, uint64_t run, uint64_t number, const char *first, const char *last) {
    vv_sst_summary s = {.file_bytes = number * 1000,
                        .file_checksum = number * UINT64_C(0x0123456789abcdef),
                        .item_count = number * 10,
                        .key_count = number * 9,
                        .tombstone_count = number * 3,
                        .min_lsn = number,
                        .max_lsn = number + 5};
    s.first_key_bytes = (uint32_t)strlen(first);
    s.last_key_bytes = (uint32_t)strlen(last);
    s.first_key = (uint8_t *)vv_strdup(first);
    s.last_key = (uint8_t *)vv_strdup(last);
    return vv_table_create(level, run, number, &s, drop, NULL);
}

static void write_sample(void) {
    vv_table *tables[] = {table(0, 7, 7, "a", "mm"), table(1, 3, 4, "b", "y")};
    vv_version *v = vv_version_create(tables, 2);
    vv_manifest m = {.generation = 9,
                     .next_file_number = 8,
                     .flushed_lsn = 12,
                     .first_segment = 5,
                     .safe_compaction_lsn = 6,
                     .created_unix_ms = 1700000000000,
                     .db_id = "0123456789abcde",
                     .retry = vv_slice_str("who wrote what"),
                     .promised_epoch = 6,
                     .commit_limit = 77,
                     .epochs = {.count = 3,
                                .newest_is_ours = true,
                                .items = {{1, 1, 111}, {4, 10, 0}, {5, 10, UINT64_MAX}}},
                     .slot_count = 2,
                     .slots = {{.name = "node-2", .lsn = 9}, {.name = "a:b._Z", .lsn = 3, .lost = true}}};
    cr_assert(vv_ok(vv_manifest_write(io, dir, &m, v, NULL, NULL)));
    vv_version_unref(v);
    vv_table_unref(tables[0]);
    vv_table_unref(tables[1]);
}

static vv_status read_back(vv_manifest *m, vv_table ***tables, size_t *count, vv_error *err) {
    return vv_manifest_read(io, dir, m, tables, count, drop, NULL, err);
}

static void release(vv_table **tables, size_t count) {
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
}

Test(manifest, what_is_written_is_read_back) {
    vv_manifest m;
    vv_table **tables;
    size_t count;
    write_sample();
    cr_assert(vv_ok(read_back(&m, &tables, &count, NULL)));
    cr_assert_eq(m.generation, 9);
    cr_assert_eq(m.next_file_number, 8);
    cr_assert_eq(m.flushed_lsn, 12);
    cr_assert_eq(m.first_segment, 5);
    cr_assert_eq(vv_manifest_epoch(&m), 5);
    cr_assert_eq(m.safe_compaction_lsn, 6);
    cr_assert_eq(m.created_unix_ms, 1700000000000);
    cr_assert_arr_eq(m.db_id, "0123456789abcde", 16);
    cr_assert_eq(count, 2);
    cr_assert_eq(tables[0]->file_number, 7);
    cr_assert_eq(tables[1]->level, 1);
    cr_assert_eq(tables[1]->run, 3);
    cr_assert_eq(tables[1]->summary.file_bytes, 4000);
    cr_assert_eq(tables[1]->summary.file_checksum, 4 * UINT64_C(0x0123456789abcdef));
    cr_assert_eq(tables[1]->summary.item_count, 40);
    cr_assert_eq(tables[1]->summary.key_count, 36);
    cr_assert_eq(tables[1]->summary.tombstone_count, 12);
    cr_assert_eq(tables[1]->summary.min_lsn, 4);
    cr_assert_eq(tables[1]->summary.max_lsn, 9);
    cr_assert(vv_slice_equal(vv_table_last_key(tables[0]), vv_slice_str("mm")));
    cr_assert(vv_slice_equal(m.retry, vv_slice_str("who wrote what")));
    cr_assert_eq(m.promised_epoch, 6);
    cr_assert_eq(m.commit_limit, 77);
    cr_assert_eq(m.epochs.count, 3);
    cr_assert(m.epochs.newest_is_ours);
    cr_assert(m.epochs.items[0].epoch == 1 && m.epochs.items[0].first_lsn == 1 &&
              m.epochs.items[0].id == 111);
    cr_assert(m.epochs.items[1].epoch == 4 && m.epochs.items[1].first_lsn == 10);
    cr_assert_eq(m.epochs.items[2].id, UINT64_MAX);
    cr_assert_eq(m.slot_count, 2);
    cr_assert(strcmp(m.slots[0].name, "node-2") == 0 && m.slots[0].lsn == 9 && !m.slots[0].lost);
    cr_assert(strcmp(m.slots[1].name, "a:b._Z") == 0 && m.slots[1].lsn == 3 && m.slots[1].lost);
    vv_manifest_deinit(&m);
    release(tables, count);
}

Test(manifest, a_missing_one_is_not_found) {
    vv_manifest m;
    vv_table **tables;
    size_t count;
    cr_assert_eq(read_back(&m, &tables, &count, NULL).code, VV_NOT_FOUND);
}

static size_t load(uint8_t *buf, size_t cap) {
    FILE *f = fopen(vv_tempdir_path(VV_MANIFEST_NAME), "rb");
    size_t n = fread(buf, 1, cap, f);
    fclose(f);
    return n;
}

static void store(const uint8_t *buf, size_t n) {
    FILE *f = fopen(vv_tempdir_path(VV_MANIFEST_NAME), "wb");
    cr_assert_eq(fwrite(buf, 1, n, f), n);
    fclose(f);
}

static vv_status read_damaged(const uint8_t *buf, size_t n, vv_error *err) {
    vv_manifest m;
    vv_table **tables;
    size_t count;
    store(buf, n);
    vv_status st = read_back(&m, &tables, &count, err);
    if (vv_ok(st)) {
        vv_manifest_deinit(&m);
        release(tables, count);
    } else {
        cr_assert_null(m.retry.data);
    }
    return st;
}

Test(manifest, every_flipped_byte_is_noticed) {
    uint8_t buf[4096];
    write_sample();
    size_t n = load(buf, sizeof buf);
    for (size_t i = 0; i < n; i++) {
        buf[i] ^= 0x41;
        vv_status st = read_damaged(buf, n, NULL);
        cr_assert(vv_is(st, VV_CORRUPTION) || vv_is(st, VV_UNSUPPORTED), "byte %zu: %s", i,
                  vv_code_name(st.code));
        buf[i] ^= 0x41;
    }
    cr_assert(vv_ok(read_damaged(buf, n, NULL)));
}

Test(manifest, every_truncation_and_any_tail_is_noticed) {
    uint8_t buf[4096] = {0};
    write_sample();
    size_t n = load(buf, sizeof buf);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(read_damaged(buf, i, NULL).code, VV_CORRUPTION, "length %zu", i);
    cr_assert_eq(read_damaged(buf, n + 1, NULL).code, VV_CORRUPTION);
}

/* Where in the sample the sections begin that newer versions have added; behind them the checksum. */
#define EPOCHS_BYTES (24 + 3 * 24)
#define SLOTS_BYTES  (4 + 2 * 10 + 6 + 6)
#define RETRY_BYTES  (4 + 14)
#define EPOCHS_AT(n) ((n)-8 - SLOTS_BYTES - EPOCHS_BYTES)
#define SLOTS_AT(n)  ((n)-8 - SLOTS_BYTES)

static void seal(uint8_t *buf, size_t n) {
    vv_put_be64(buf + 8, n);
    vv_put_be64(buf + n - 8, vv_checksum(buf, n - 8, 0));
}

/* The sample as an older version would have written it, from what has the same layout there. */
static size_t as_version(uint8_t version, uint8_t *buf, size_t cap) {
    size_t n = load(buf, cap) - SLOTS_BYTES - EPOCHS_BYTES;
    if (version < 3)
        n -= RETRY_BYTES;
    buf[7] = version;
    seal(buf, n);
    return n;
}

static void had_one_primary(const vv_manifest *m, bool ours) {
    cr_assert_eq(m->epochs.count, 1);
    cr_assert(m->epochs.items[0].epoch == 5 && m->epochs.items[0].first_lsn == 1 &&
              m->epochs.items[0].id == 0);
    cr_assert_eq(m->epochs.newest_is_ours, ours);
    cr_assert_eq(m->promised_epoch, 5);
    cr_assert_eq(m->commit_limit, VV_COMMIT_LIMIT_NONE);
    cr_assert_eq(m->slot_count, 0);
}

Test(manifest, version_3_knew_of_no_replicas) {
    uint8_t buf[4096];
    vv_manifest m;
    vv_table **tables;
    size_t count;
    write_sample();
    size_t n = as_version(3, buf, sizeof buf);
    store(buf, n);
    memset(&m, 0xee, sizeof m);
    cr_assert(vv_ok(read_back(&m, &tables, &count, NULL)));
    cr_assert_eq(m.flushed_lsn, 12);
    cr_assert(vv_slice_equal(m.retry, vv_slice_str("who wrote what")));
    had_one_primary(&m, true);
    vv_manifest_deinit(&m);
    release(tables, count);

    vv_put_be64(buf + 56, 0); /* first_segment */
    seal(buf, n);
    store(buf, n);
    cr_assert(vv_ok(read_back(&m, &tables, &count, NULL)));
    had_one_primary(&m, false); /* this is a backup: its original goes on under the same epoch */
    vv_manifest_deinit(&m);
    release(tables, count);
}

Test(manifest, version_2_had_no_remembered_writes) {
    uint8_t buf[4096];
    vv_manifest m;
    vv_table **tables;
    size_t count;
    write_sample();
    store(buf, as_version(2, buf, sizeof buf));
    cr_assert(vv_ok(read_back(&m, &tables, &count, NULL)));
    cr_assert_eq(m.flushed_lsn, 12);
    cr_assert_eq(m.retry.bytes, 0);
    cr_assert_null(m.retry.data);
    cr_assert_eq(count, 2);
    had_one_primary(&m, true);
    release(tables, count);
}

Test(manifest, a_newer_version_is_refused_with_both_numbers) {
    uint8_t buf[4096];
    vv_error err;
    write_sample();
    size_t n = load(buf, sizeof buf);
    buf[7] = 5;
    vv_status st = read_damaged(buf, n, &err);
    cr_assert_eq(st.code, VV_UNSUPPORTED);
    cr_assert_eq(st.sub, VV_SUB_FORMAT_NEWER);
    cr_assert_not_null(strstr(err.text, "format version 5 is newer than this Varve, which reads up to 4"),
                       "%s", err.text);
}

/* Version 1 has no checksum of each table's file. */
Test(manifest, version_1_is_read_too) {
    uint8_t buf[4096], old[4096];
    write_sample();
    size_t n = load(buf, sizeof buf), from = 92, to = 92;
    memcpy(old, buf, 92);
    for (int i = 0; i < 2; i++) {
        size_t keys = (size_t)vv_get_be16(buf + from + 76) + vv_get_be16(buf + from + 78);
        memcpy(old + to, buf + from, 68);
        memcpy(old + to + 68, buf + from + 76, 4 + keys);
        from += 80 + keys;
        to += 72 + keys;
    }
    cr_assert_eq(from + RETRY_BYTES, EPOCHS_AT(n));
    old[7] = 1;
    vv_put_be64(old + 8, to + 8);
    vv_put_be64(old + to, vv_checksum(old, to, 0));
    store(old, to + 8);
    vv_manifest m;
    vv_table **tables;
    size_t count;
    cr_assert(vv_ok(read_back(&m, &tables, &count, NULL)));
    cr_assert_eq(count, 2);
    cr_assert_eq(tables[0]->summary.file_checksum, 0, "not known");
    cr_assert_eq(tables[0]->summary.tombstone_count, 21);
    cr_assert(vv_slice_equal(vv_table_first_key(tables[1]), vv_slice_str("b")));
    cr_assert(vv_slice_equal(vv_table_last_key(tables[1]), vv_slice_str("y")));
    release(tables, count);
}

Test(manifest, hostile_counts_and_lengths_behind_a_good_checksum_are_refused) {
    uint8_t buf[4096];
    write_sample();
    size_t n = load(buf, sizeof buf);
    const struct {
        size_t at;
        size_t bytes;
        uint8_t value;
    } fields[] = {
        {88, 4, 0xff},      /* tables */
        {92 + 76, 2, 0xff}, /* the length of a key */
        {92 + 78, 2, 0xff}, /* another */
        {EPOCHS_AT(n) - RETRY_BYTES, 4, 0xff},
        {EPOCHS_AT(n), 8, 0},              /* a promise that is older than the newest epoch */
        {EPOCHS_AT(n) + 16, 4, 0xff},      /* flags that nobody knows */
        {EPOCHS_AT(n) + 20, 4, 0xff},      /* epochs */
        {EPOCHS_AT(n) + 20, 4, 0},         /* none */
        {EPOCHS_AT(n) + 24, 8, 0},         /* number 0 */
        {EPOCHS_AT(n) + 24 + 8, 8, 0},     /* from LSN 0 */
        {EPOCHS_AT(n) + 24, 8, 0x11},      /* descending numbers */
        {EPOCHS_AT(n) + 24 + 8, 8, 0x11},  /* descending LSNs */
        {EPOCHS_AT(n) + 48 + 24, 8, 0x11}, /* the newest is not the head's */
        {SLOTS_AT(n), 4, 0xff},            /* slots */
        {SLOTS_AT(n) + 3, 1, 1},           /* too few */
        {SLOTS_AT(n) + 4 + 8, 1, 0xff},    /* flags that nobody knows */
        {SLOTS_AT(n) + 4 + 9, 1, 0},       /* a name of no bytes */
        {SLOTS_AT(n) + 4 + 9, 1, 65},      /* of too many */
        {SLOTS_AT(n) + 4 + 10, 1, 0},      /* and of some that it can't have */
        {SLOTS_AT(n) + 4 + 10, 1, '/'},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(fields); i++) {
        uint8_t bad[4096];
        memcpy(bad, buf, n);
        memset(bad + fields[i].at, fields[i].value, fields[i].bytes);
        vv_put_be64(bad + n - 8, vv_checksum(bad, n - 8, 0));
        cr_assert_eq(read_damaged(bad, n, NULL).code, VV_CORRUPTION, "field %zu", i);
    }
}

Test(manifest, two_slots_of_one_name_are_refused) {
    uint8_t buf[4096];
    write_sample();
    size_t n = load(buf, sizeof buf), name = SLOTS_AT(n) + 4 + 10;
    memcpy(buf + name, "a:b._Z", 6);
    seal(buf, n);
    cr_assert_eq(read_damaged(buf, n, NULL).code, VV_CORRUPTION);
}

Test(manifest, as_many_epochs_and_slots_as_there_may_be_are_read_back) {
    static vv_manifest m, back;
    vv_version *v = vv_version_create(NULL, 0);
    vv_table **tables;
    size_t count;
    m.epochs.count = VV_EPOCHS_MAX;
    for (uint32_t i = 0; i < VV_EPOCHS_MAX; i++)
        m.epochs.items[i] = (vv_epoch){.epoch = i + 1, .first_lsn = 10 * i + 1, .id = ~(uint64_t)i};
    m.promised_epoch = VV_EPOCHS_MAX;
    m.slot_count = VV_SLOTS_MAX;
    for (uint32_t i = 0; i < VV_SLOTS_MAX; i++) {
        memset(m.slots[i].name, 'x', VV_SLOT_NAME_BYTES_MAX);
        m.slots[i].name[i] = 'y';
        m.slots[i].lsn = i;
    }
    cr_assert(vv_ok(vv_manifest_write(io, dir, &m, v, NULL, NULL)));
    cr_assert(vv_ok(read_back(&back, &tables, &count, NULL)));
    release(tables, count);
    vv_version_unref(v);
    cr_assert_eq(back.epochs.count, VV_EPOCHS_MAX);
    cr_assert_arr_eq(back.epochs.items, m.epochs.items, sizeof m.epochs.items);
    cr_assert_eq(back.slot_count, VV_SLOTS_MAX);
    for (uint32_t i = 0; i < VV_SLOTS_MAX; i++)
        cr_assert(strcmp(back.slots[i].name, m.slots[i].name) == 0 && back.slots[i].lsn == i);
}

Test(manifest, each_failed_allocation_is_reported) {
    vv_manifest m;
    vv_table **tables;
    size_t count;
    write_sample();
    for (uint64_t n = 1;; n++) {
        vv_alloc_fail_at(n);
        vv_status st = read_back(&m, &tables, &count, NULL);
        vv_alloc_fail_at(0);
        if (vv_ok(st)) {
            cr_assert_gt(n, 5);
            vv_manifest_deinit(&m);
            release(tables, count);
            break;
        }
        cr_assert_eq(st.code, VV_NO_MEMORY);
    }
}

/* ---- the order of what reaches the disk ---- */

static char steps[256];

static vv_status record_step(void *arg, const char *op, const char *name) {
    (void)arg;
    size_t used = strlen(steps);
    snprintf(steps + used, sizeof steps - used, "%s %s, ", op, strncmp(name, "MAN", 3) == 0 ? name : "dir");
    return VV_STATUS_OK;
}

Test(manifest, content_is_synced_before_the_rename_and_the_directory_after) {
    vv_io_backend *b = vv_fault_io_create(record_step, NULL);
    vv_version *v = vv_version_create(NULL, 0);
    vv_manifest m = {.generation = 1, .epochs = {.count = 1, .items[0] = {1, 1, 1}}};
    cr_assert(vv_ok(vv_manifest_write(b, dir, &m, v, NULL, NULL)));
    vv_version_unref(v);
    vv_io_backend_destroy(b);
    cr_assert_str_eq(steps, "open MANIFEST.tmp, write MANIFEST.tmp, sync MANIFEST.tmp, rename MANIFEST, "
                            "dirsync dir, ");
}

static const char *fail_op;

static vv_status fail_step(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)name;
    return strcmp(op, fail_op) == 0 ? vv_status_errno(EIO) : VV_STATUS_OK;
}

Test(manifest, a_failure_before_the_rename_leaves_the_old_one) {
    static const char *const ops[] = {"open", "write", "sync", "rename"};
    write_sample();
    vv_io_backend *b = vv_fault_io_create(fail_step, NULL);
    vv_version *v = vv_version_create(NULL, 0);
    for (size_t i = 0; i < VV_ARRAY_COUNT(ops); i++) {
        vv_manifest m = {.generation = 10, .epochs = {.count = 1, .items[0] = {1, 1, 1}}};
        vv_table **tables;
        size_t count;
        fail_op = ops[i];
        bool replaced;
        cr_assert_eq(vv_manifest_write(b, dir, &m, v, &replaced, NULL).code, VV_IO, "%s", ops[i]);
        cr_assert_eq(replaced, strcmp(ops[i], "rename") == 0, "%s", ops[i]);
        cr_assert(vv_ok(read_back(&m, &tables, &count, NULL)));
        cr_assert_eq(m.generation, 9);
        vv_manifest_deinit(&m);
        release(tables, count);
    }
    vv_version_unref(v);
    vv_io_backend_destroy(b);
}
