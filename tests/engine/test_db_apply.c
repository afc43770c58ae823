/*
 * One database's log applied to another.
 */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/codec.h"
#include "engine/db/db_impl.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/fault_io.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_apply, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

#define CLIENT UINT64_C(0xc11e)

/* ---- records as bytes ---- */

typedef struct records {
    uint8_t *bytes;
    size_t count_bytes;
    size_t starts[256]; /* of the first records */
    size_t count;
} records;

/* All that `db` has behind after_lsn. */
static records encode(varve_db *db, uint64_t after_lsn) {
    records r = {0};
    varve_wal_cursor *c;
    varve_wal_batch b;
    cr_assert(varve_ok(varve_wal_cursor_open(db, after_lsn, &c, NULL)));
    varve_status st;
    size_t capacity = 0;
    while (varve_ok(st = varve_wal_cursor_next(c, &b))) {
        size_t bytes = varve_wal_batch_encode(&b, NULL, 0);
        while (r.count_bytes + bytes > capacity) {
            capacity = capacity * 2 + 4096;
            r.bytes = realloc(r.bytes, capacity);
        }
        cr_assert_eq(varve_wal_batch_encode(&b, r.bytes + r.count_bytes, bytes - 1), bytes,
                     "no room: no change");
        cr_assert_eq(varve_wal_batch_encode(&b, r.bytes + r.count_bytes, bytes), bytes);
        if (r.count < VV_ARRAY_COUNT(r.starts))
            r.starts[r.count] = r.count_bytes;
        r.count++;
        r.count_bytes += bytes;
    }
    cr_assert_eq(st.code, VARVE_END);
    varve_wal_cursor_close(c);
    return r;
}

/* What was written so far, in the database that is open; which is closed then, and an empty one opened. */
static records log_of_a_primary(void) {
    records r = encode(fx_db, 0);
    fx_close();
    return r;
}

static varve_db *open_follower(const char *key, const char *value) {
    varve_options *o = fx_options(key, value, NULL);
    varve_db *db;
    varve_status st = varve_open(vv_tempdir_path("follower"), o, &db, &fx_err);
    varve_options_destroy(o);
    cr_assert(varve_ok(st), "%s", fx_err.text);
    return db;
}

static void apply(varve_db *db, const records *r) {
    uint64_t lsn;
    varve_status st = varve_apply(db, r->bytes, r->count_bytes, &lsn, &fx_err);
    cr_assert(varve_ok(st), "%s", fx_err.text);
    varve_stats s;
    varve_stats_get(db, &s);
    cr_assert_eq(s.durable_lsn, lsn);
    cr_assert_eq(s.last_lsn, lsn);
}

static varve_status put_named(varve_db *db, const char *key, uint64_t sequence, uint64_t *lsn) {
    varve_write_options o = {.client_id = CLIENT, .sequence = sequence};
    return varve_put(db, key, strlen(key), "value", 5, &o, lsn);
}

/* Puts, deletes, a batch, names, an entry that expires. Returns the last LSN. */
static uint64_t write_some(void) {
    uint64_t lsn;
    fx_put("a", "1");
    fx_put("b", "2");
    fx_delete("a");
    cr_assert(varve_ok(put_named(fx_db, "named", 1, &lsn)));
    varve_batch *b = varve_batch_create();
    cr_assert(varve_ok(varve_batch_put(b, "c", 1, "3", 1)));
    cr_assert(varve_ok(varve_batch_put_expiring(b, "gone", 4, "4", 1, 1)));
    cr_assert(varve_ok(varve_batch_delete(b, "b", 1)));
    cr_assert(varve_ok(varve_write(fx_db, b, NULL, &lsn)));
    varve_batch_destroy(b);
    cr_assert_eq(lsn, 7);
    return lsn;
}

static void expect_some(void) {
    fx_expect("a", NULL);
    fx_expect("b", NULL);
    fx_expect("c", "3");
    fx_expect("gone", NULL);
    fx_expect("named", "value");
    cr_assert_eq(fx_stats().last_lsn, 7);
}

/* ---- what is applied ---- */

Test(db_apply, a_follower_has_the_entries_and_the_very_records_of_the_primary_also_when_opened_again) {
    fx_open();
    write_some();
    records r = log_of_a_primary();
    fx_db = open_follower(NULL, NULL);
    apply(fx_db, &r);
    for (int opened = 0; opened < 2; opened++) {
        expect_some();
        records mine = encode(fx_db, 0);
        cr_assert(mine.count == r.count && mine.count_bytes == r.count_bytes);
        cr_assert_eq(memcmp(mine.bytes, r.bytes, r.count_bytes), 0, "LSNs, epochs, names, operations");
        free(mine.bytes);
        fx_close();
        fx_db = open_follower(NULL, NULL);
    }
    cr_assert_eq(fx_put("mine", "8"), 8);
    fx_close();
    free(r.bytes);
}

Test(db_apply, records_come_one_by_one_or_in_any_portions) {
    fx_open();
    for (int i = 0; i < 50; i++)
        fx_put("key", i == 49 ? "last" : "earlier");
    records r = log_of_a_primary();
    fx_db = open_follower(NULL, NULL);
    uint64_t lsn = 7;
    cr_assert(varve_ok(varve_apply(fx_db, NULL, 0, &lsn, &fx_err)), "none at all");
    cr_assert_eq(lsn, 0);
    for (size_t i = 0, n = 1; i < r.count; i += n, n++) {
        size_t end = i + n < r.count ? r.starts[i + n] : r.count_bytes;
        cr_assert(varve_ok(varve_apply(fx_db, r.bytes + r.starts[i], end - r.starts[i], &lsn, &fx_err)));
        cr_assert_eq(lsn, VV_MIN(i + n, r.count));
    }
    fx_expect("key", "last");
    fx_close();
    free(r.bytes);
}

Test(db_apply, epochs_are_kept_as_they_come) {
    fx_open();
    fx_put("a", "1");
    fx_put("b", "2");
    records r = log_of_a_primary();
    vv_put_be64(r.bytes + r.starts[1] + 16, 5);
    fx_db = open_follower(NULL, NULL);
    apply(fx_db, &r);
    records mine = encode(fx_db, 0);
    cr_assert_eq(memcmp(mine.bytes, r.bytes, r.count_bytes), 0);
    free(mine.bytes);
    fx_close();
    free(r.bytes);
}

Test(db_apply, a_name_is_remembered_and_a_repetition_answered_when_the_follower_is_written_to) {
    uint64_t lsn;
    fx_open();
    write_some();
    records r = log_of_a_primary();
    fx_db = open_follower(NULL, NULL);
    apply(fx_db, &r);
    for (int opened = 0; opened < 2; opened++) {
        cr_assert(varve_ok(put_named(fx_db, "named", 1, &lsn)));
        cr_assert_eq(lsn, 4);
        cr_assert_eq(fx_stats().last_lsn, 7);
        cr_assert(varve_ok(varve_flush(fx_db)));
        fx_close();
        fx_db = open_follower(NULL, NULL);
    }
    fx_close();
    free(r.bytes);
}

/* Two records of one name can't come from a primary of this version; an older one may have made them. */
Test(db_apply, nobody_asks_whether_a_record_was_applied_before) {
    fx_open();
    uint64_t lsn;
    cr_assert(varve_ok(put_named(fx_db, "a", 1, &lsn)));
    cr_assert(varve_ok(put_named(fx_db, "b", 2, &lsn)));
    records r = log_of_a_primary();
    vv_put_be64(r.bytes + r.starts[1] + 32, 1);
    fx_db = open_follower(NULL, NULL);
    apply(fx_db, &r);
    cr_assert_eq(fx_stats().retried_writes, 0);
    fx_expect("a", "value");
    fx_expect("b", "value");
    cr_assert(varve_ok(put_named(fx_db, "b", 1, &lsn)));
    cr_assert_eq(lsn, 1);
    fx_close();
    free(r.bytes);
}

Test(db_apply, much_at_once_passes_through_many_memtables) {
    enum { COUNT = 4000, VALUE = 5000 };
    static char value[VALUE];
    char key[16];
    fx_open_with(fx_options("MEMTABLE_SIZE", "32MiB", NULL));
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    for (int i = 0; i < COUNT; i++) {
        snprintf(key, sizeof key, "%06d", (i * 7919) % COUNT);
        memset(value, 'a' + i % 26, sizeof value);
        cr_assert(varve_ok(varve_put(fx_db, key, 6, value, sizeof value, &async, NULL)));
    }
    cr_assert(varve_ok(varve_put(fx_db, "end", 3, "", 0, NULL, NULL)));
    records r = log_of_a_primary();
    cr_assert_gt(r.count_bytes, 2 << 23);
    fx_db = open_follower("MEMTABLE_SIZE", "2MiB");
    apply(fx_db, &r);
    free(r.bytes);
    for (int opened = 0; opened < 2; opened++) {
        for (int i = 0; i < COUNT; i++) {
            varve_value v;
            snprintf(key, sizeof key, "%06d", (i * 7919) % COUNT);
            cr_assert(varve_ok(varve_get(fx_db, key, 6, &v)), "%s", key);
            cr_assert(v.bytes == VALUE && v.lsn == (uint64_t)i + 1 && *(const char *)v.data == 'a' + i % 26);
            varve_value_release(&v);
        }
        cr_assert(varve_ok(varve_flush(fx_db)));
        cr_assert_gt(fx_stats().sstable_count, 0);
        fx_close();
        fx_db = open_follower("MEMTABLE_SIZE", "2MiB");
    }
    fx_close();
}

/* ---- what is refused ---- */

static void expect_refused(const uint8_t *bytes, size_t count, varve_code code, const char *reason) {
    uint64_t before = fx_stats().last_lsn, lsn = 99;
    varve_status st = varve_apply(fx_db, bytes, count, &lsn, &fx_err);
    cr_assert_eq(st.code, code, "%s, not %s", varve_code_name(st.code), varve_code_name((uint16_t)code));
    cr_assert(!reason || strcmp(varve_reason_name(st.reason), reason) == 0, "%s",
              varve_reason_name(st.reason));
    cr_assert_eq(lsn, before);
    cr_assert_eq(fx_stats().last_lsn, before);
    cr_assert_neq(fx_err.text[0], '\0');
}

Test(db_apply, records_that_do_not_follow_are_refused_and_change_nothing) {
    fx_open();
    write_some();
    records r = log_of_a_primary();
    fx_db = open_follower(NULL, NULL);
    expect_refused(r.bytes + r.starts[1], r.count_bytes - r.starts[1], VARVE_INVALID_ARGUMENT, "NOT_NEXT");
    apply(fx_db, &r);
    expect_refused(r.bytes, r.count_bytes, VARVE_INVALID_ARGUMENT, "NOT_NEXT");
    fx_close();

    /* A hole, and one record twice, behind good ones. */
    varve_options *o = fx_options(NULL);
    cr_assert(varve_ok(varve_open(vv_tempdir_path("other"), o, &fx_db, &fx_err)));
    varve_options_destroy(o);
    size_t third = r.starts[2], fourth = r.starts[3], bytes = r.count_bytes - fourth;
    uint8_t *hole = malloc(r.count_bytes + fourth);
    memcpy(hole, r.bytes, third);
    memcpy(hole + third, r.bytes + fourth, bytes);
    expect_refused(hole, third + bytes, VARVE_INVALID_ARGUMENT, "NOT_NEXT");
    memcpy(hole + third, r.bytes + r.starts[1], third - r.starts[1]);
    expect_refused(hole, third + third - r.starts[1], VARVE_INVALID_ARGUMENT, "NOT_NEXT");
    apply(fx_db, &r);
    expect_some();
    fx_close();
    free(hole);
    free(r.bytes);
}

Test(db_apply, bytes_that_are_no_records_are_refused_and_change_nothing) {
    fx_open();
    write_some();
    records r = log_of_a_primary();
    fx_db = open_follower(NULL, NULL);
    for (size_t cut = 1; cut < r.count_bytes; cut++) {
        bool whole = false;
        for (size_t i = 0; i < r.count; i++)
            whole |= r.starts[i] == cut;
        if (whole)
            continue;
        uint8_t *exact = malloc(cut); /* so that a sanitizer sees what is read behind it */
        memcpy(exact, r.bytes, cut);
        expect_refused(exact, cut, VARVE_CORRUPTION, NULL);
        free(exact);
    }
    size_t last = r.starts[r.count - 1];
    static const size_t damages[] = {8,
                                     11,
                                     12,
                                     15,
                                     VV_RECORD_HEAD_BYTES,
                                     VV_RECORD_HEAD_BYTES + 1,
                                     VV_RECORD_HEAD_BYTES + 3,
                                     VV_RECORD_HEAD_BYTES + 7};
    for (size_t i = 0; i < VV_ARRAY_COUNT(damages); i++) {
        r.bytes[last + damages[i]] ^= 0x40;
        expect_refused(r.bytes, r.count_bytes, VARVE_CORRUPTION, NULL);
        r.bytes[last + damages[i]] ^= 0x40;
    }
    vv_put_be32(r.bytes + last + 8, 2); /* operations beyond its count */
    expect_refused(r.bytes, r.count_bytes, VARVE_CORRUPTION, NULL);
    vv_put_be32(r.bytes + last + 8, 3);
    apply(fx_db, &r);
    expect_some();
    fx_close();
    free(r.bytes);
}

/* ---- failures ---- */

Test(db_apply, without_memory_some_may_be_applied_and_the_rest_follows) {
    fx_open();
    write_some();
    for (uint64_t sequence = 2; sequence < 20; sequence++) {
        uint64_t lsn;
        cr_assert(varve_ok(put_named(fx_db, "key", sequence, &lsn)));
    }
    records r = log_of_a_primary();
    bool part = false;
    /* As long as there is an n-th allocation at all, which may be another thread's. */
    bool reached = true;
    for (uint64_t n = 1; reached; n++) {
        char dir[32];
        snprintf(dir, sizeof dir, "follower%" PRIu64, n);
        varve_options *o = fx_options(NULL);
        cr_assert(varve_ok(varve_open(vv_tempdir_path(dir), o, &fx_db, &fx_err)));
        varve_options_destroy(o);
        uint64_t lsn, before = vv_alloc_count();
        vv_alloc_fail_at(n);
        varve_status st = varve_apply(fx_db, r.bytes, r.count_bytes, &lsn, &fx_err);
        vv_alloc_fail_at(0);
        reached = vv_alloc_count() - before >= n;
        while (!varve_ok(st)) {
            cr_assert_eq(st.code, VARVE_NO_MEMORY, "%s", varve_code_name(st.code));
            cr_assert(lsn == fx_stats().last_lsn && lsn == fx_stats().durable_lsn);
            part |= lsn > 0;
            size_t i = 0;
            while (vv_get_be64(r.bytes + r.starts[i]) != lsn + 1)
                i++;
            st = varve_apply(fx_db, r.bytes + r.starts[i], r.count_bytes - r.starts[i], &lsn, &fx_err);
        }
        cr_assert_eq(lsn, 25);
        records mine = encode(fx_db, 0);
        cr_assert(mine.count_bytes == r.count_bytes && memcmp(mine.bytes, r.bytes, r.count_bytes) == 0);
        free(mine.bytes);
        fx_close();
    }
    cr_assert(part, "a client that is new to the table needs memory");
    free(r.bytes);
}

static _Atomic bool log_fails;

static vv_status fail_log(void *arg, const char *op, const char *name) {
    (void)arg;
    if (atomic_load(&log_fails) && strcmp(op, "datasync") == 0 && strstr(name, "wal"))
        return vv_status_make(VV_IO, VV_SUB_NONE, 5);
    return VV_STATUS_OK;
}

Test(db_apply, a_log_that_fails_is_told_and_nothing_of_it_is_seen) {
    fx_open();
    write_some();
    records r = log_of_a_primary();
    varve_options *o = fx_options(NULL);
    vv_error err;
    cr_assert(vv_ok(
        vv_db_open_on(vv_fault_io_create(fail_log, NULL), vv_tempdir_path("follower"), o, &fx_db, &err)));
    varve_options_destroy(o);
    uint64_t lsn;
    cr_assert(varve_ok(varve_apply(fx_db, r.bytes, r.starts[2], &lsn, &fx_err)));
    atomic_store(&log_fails, true);
    varve_status st = varve_apply(fx_db, r.bytes + r.starts[2], r.count_bytes - r.starts[2], &lsn, &fx_err);
    cr_assert_eq(st.code, VARVE_WAL_FAILED);
    cr_assert_eq(lsn, 2);
    cr_assert_eq(fx_stats().last_lsn, 2);
    fx_expect("a", "1");
    st = varve_apply(fx_db, r.bytes + r.starts[2], r.count_bytes - r.starts[2], &lsn, &fx_err);
    cr_assert_eq(st.code, VARVE_WAL_FAILED);
    cr_assert_eq(varve_close(fx_db).code, VARVE_WAL_FAILED);
    free(r.bytes);
}
