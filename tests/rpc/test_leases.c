#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/sync.h"
#include "rpc/leases.h"
#include "tests/support/tempdir.h"

#define S_US UINT64_C(1000000)

/* Users are told apart by their addresses alone. */
static char user_bytes[3];
#define USER(i) ((const struct vv_user *)(const void *)&user_bytes[i])

static varve_db *db;
static vv_timers *timers;
static vv_leases *leases;

static void init(void) {
    vv_tempdir();
    cr_assert(varve_ok(varve_open(vv_tempdir_path("db"), NULL, &db, NULL)));
    cr_assert(vv_ok(vv_timers_create(&timers)));
}

/* varve_close() asserts nothing about snapshots, but LeakSanitizer does. */
static void fini(void) {
    vv_leases_destroy(leases);
    vv_timers_destroy(timers);
    VV_ASSERT(varve_ok(varve_close(db)));
    vv_tempdir_cleanup();
}

TestSuite(leases, .init = init, .fini = fini, .timeout = 60);

static void make(uint64_t count_max, uint64_t per_user_max, uint64_t pages_us) {
    vv_leases_options o = {.db = db,
                           .timers = timers,
                           .count_max = count_max,
                           .per_user_max = per_user_max,
                           .default_us = 60 * S_US,
                           .longest_us = 600 * S_US,
                           .pages_us = pages_us};
    cr_assert(vv_ok(vv_leases_create(&o, &leases)));
}

static uint64_t put(void) {
    uint64_t lsn;
    cr_assert(varve_ok(varve_put(db, "k", 1, "v", 1, NULL, &lsn)));
    return lsn;
}

static uint64_t opened(const struct vv_user *user, uint64_t lease_ms) {
    vv_lease_info info;
    cr_assert(vv_ok(vv_leases_open(leases, user, lease_ms, &info)));
    return info.id;
}

static bool is_there(const struct vv_user *user, vv_lease_kind kind, uint64_t id) {
    vv_lease *lease = vv_leases_ref(leases, user, kind, id);
    vv_lease_unref(leases, lease);
    return lease != NULL;
}

/* A lease of pages with its id, taken. */
static vv_lease *pages(const struct vv_user *user) {
    varve_snapshot *snapshot = varve_snapshot_create(db);
    vv_lease *lease = vv_leases_add_pages(leases, user, &snapshot);
    cr_assert_eq(lease != NULL, snapshot == NULL);
    varve_snapshot_release(db, snapshot);
    return lease;
}

static void wait_count(uint64_t count) {
    uint64_t end_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_S;
    while (vv_leases_count(leases) != count)
        cr_assert(vv_clock_mono_ns() < end_ns, "%lu leases", (unsigned long)vv_leases_count(leases));
}

Test(leases, a_lease_is_of_its_user_and_its_state) {
    make(10, 10, S_US);
    uint64_t lsn = put();
    vv_lease_info a, b;
    cr_assert(vv_ok(vv_leases_open(leases, USER(0), 0, &a)));
    put();
    cr_assert(vv_ok(vv_leases_open(leases, USER(0), 0, &b)));
    cr_assert(a.id != 0 && b.id != 0 && a.id != b.id);
    cr_assert_eq(a.lsn, lsn);
    cr_assert_eq(b.lsn, lsn + 1);
    vv_lease *lease = vv_leases_ref(leases, USER(0), VV_LEASE_SNAPSHOT, a.id);
    cr_assert_eq(varve_snapshot_lsn(vv_lease_snapshot(lease)), lsn);
    cr_assert_eq(vv_lease_id(lease), a.id);
    vv_lease_unref(leases, lease);

    cr_assert(!is_there(USER(1), VV_LEASE_SNAPSHOT, a.id), "another user's");
    cr_assert(!is_there(NULL, VV_LEASE_SNAPSHOT, a.id), "nobody's");
    cr_assert(!is_there(USER(0), VV_LEASE_PAGES, a.id), "of the other kind");
    cr_assert(!vv_leases_renew(leases, USER(1), a.id, 0, &b));
    vv_leases_release(leases, USER(1), VV_LEASE_SNAPSHOT, a.id);
    cr_assert(is_there(USER(0), VV_LEASE_SNAPSHOT, a.id));
    vv_leases_release(leases, USER(0), VV_LEASE_SNAPSHOT, a.id);
    cr_assert(!is_there(USER(0), VV_LEASE_SNAPSHOT, a.id));
    vv_leases_release(leases, USER(0), VV_LEASE_SNAPSHOT, a.id);
    cr_assert_eq(vv_leases_count(leases), 1);
}

Test(leases, times_are_defaulted_cut_and_renewed) {
    make(10, 10, S_US);
    vv_lease_info info;
    uint64_t now_ms = vv_clock_unix_ms();
    cr_assert(vv_ok(vv_leases_open(leases, NULL, 0, &info)));
    cr_assert(info.expires_unix_ms >= now_ms + 60000 && info.expires_unix_ms < now_ms + 70000);
    cr_assert(vv_leases_renew(leases, NULL, info.id, UINT64_MAX, &info));
    cr_assert(info.expires_unix_ms >= now_ms + 600000 && info.expires_unix_ms < now_ms + 610000);
    cr_assert(vv_leases_renew(leases, NULL, info.id, 1, &info));
    while (is_there(NULL, VV_LEASE_SNAPSHOT, info.id))
        ;
    cr_assert(!vv_leases_renew(leases, NULL, info.id, 1000, &info), "what is over is over");
    wait_count(0); /* swept */
    opened(NULL, 1);
    wait_count(0); /* and again, after the table was empty */
}

Test(leases, a_read_keeps_its_snapshot_when_the_lease_ends) {
    make(10, 10, S_US);
    uint64_t lsn = put(), id = opened(NULL, 1);
    vv_lease *lease = vv_leases_ref(leases, NULL, VV_LEASE_SNAPSHOT, id);
    if (!lease) { /* a very slow machine: it was over before */
        wait_count(0);
        return;
    }
    wait_count(0);
    cr_assert_eq(varve_snapshot_lsn(vv_lease_snapshot(lease)), lsn);
    varve_value value;
    cr_assert(varve_ok(varve_get_at(db, vv_lease_snapshot(lease), "k", 1, &value)));
    varve_value_release(&value);
    vv_lease_unref(leases, lease);
}

Test(leases, there_are_bounds_for_a_user_and_for_all) {
    make(5, 3, S_US);
    vv_lease_info info;
    uint64_t first = opened(USER(0), 0);
    opened(USER(0), 0);
    opened(USER(0), 0);
    cr_assert(vv_is(vv_leases_open(leases, USER(0), 0, &info), VV_BUSY));
    opened(USER(1), 0);
    opened(USER(1), 0);
    cr_assert(vv_is(vv_leases_open(leases, USER(2), 0, &info), VV_BUSY));
    vv_leases_release(leases, USER(0), VV_LEASE_SNAPSHOT, first);
    opened(USER(2), 0);
    cr_assert(vv_is(vv_leases_open(leases, USER(0), 0, &info), VV_BUSY));
}

Test(leases, pages_last_until_their_time_after_the_last_scan) {
    make(10, 10, 1000);
    vv_lease *lease = pages(NULL);
    uint64_t id = vv_lease_id(lease);
    uint64_t end_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_MS; /* many times theirs */
    while (vv_clock_mono_ns() < end_ns)
        cr_assert(is_there(NULL, VV_LEASE_PAGES, id), "a scan is on it");
    vv_lease_unref(leases, lease);
    while (is_there(NULL, VV_LEASE_PAGES, id)) /* each look begins it anew, if it comes in time */
        wait_count(vv_leases_count(leases));
    wait_count(0);
}

Test(leases, pages_that_nobody_came_back_to_end_with_their_scan) {
    make(10, 10, 60 * S_US);
    vv_lease *lease = pages(NULL);
    vv_lease_unref_done(leases, lease);
    cr_assert_eq(vv_leases_count(leases), 0);

    lease = pages(NULL);
    vv_lease *again = vv_leases_ref(leases, NULL, VV_LEASE_PAGES, vv_lease_id(lease));
    vv_lease_unref_done(leases, lease);
    vv_lease_unref_done(leases, again);
    cr_assert_eq(vv_leases_count(leases), 1);
}

Test(leases, idle_pages_make_way_oldest_first) {
    make(5, 3, 60 * S_US);
    uint64_t ids[4];
    for (int i = 3; i >= 0; i--) {
        vv_lease *lease = pages(USER(i == 3));
        ids[i] = vv_lease_id(lease);
        vv_lease_unref(leases, lease);
    }
    cr_assert(is_there(USER(0), VV_LEASE_PAGES, ids[2])); /* of this user, 1 is the oldest now */
    vv_lease *taken = pages(USER(0));
    cr_assert_not_null(taken);
    cr_assert(!is_there(USER(0), VV_LEASE_PAGES, ids[1]), "the user's oldest");
    cr_assert_eq(vv_leases_count(leases), 4, "not another user's, which is older");
    opened(USER(0), 0);
    opened(USER(0), 0);
    cr_assert(!is_there(USER(0), VV_LEASE_PAGES, ids[0]));
    cr_assert(!is_there(USER(0), VV_LEASE_PAGES, ids[2]));
    cr_assert_null(pages(USER(0)), "what is in use does not make way");
    opened(USER(2), 0); /* and one more is too many for all: another user's pages go */
    cr_assert_eq(vv_leases_count(leases), 5);
    opened(USER(2), 0);
    cr_assert(!is_there(USER(1), VV_LEASE_PAGES, ids[3]));
    vv_lease_unref(leases, taken);
}

/* Files, which are not there. */
static _Atomic int released; /* by the sweep, too */

static void note_release(vv_leased *leased) {
    free(leased);
    released++;
}

static vv_leased *files_at(uint64_t lsn) {
    vv_leased *files = malloc(sizeof *files);
    *files = (vv_leased){.lsn = lsn, .release = note_release};
    return files;
}

Test(leases, files_are_released_once_and_not_while_they_are_read) {
    make(2, 2, S_US);
    vv_lease_info a, b, c;
    cr_assert(vv_ok(vv_leases_add_files(leases, USER(0), files_at(7), 1, &a)));
    cr_assert_eq(a.lsn, 7);
    vv_lease *lease = vv_leases_ref(leases, USER(0), VV_LEASE_FILES, a.id);
    if (!lease) /* a very slow machine: it was over before */
        return;
    cr_assert_eq(vv_lease_files(lease)->lsn, 7);
    uint64_t end_ns = vv_clock_mono_ns() + 20 * VV_NS_PER_MS; /* many times theirs */
    while (vv_clock_mono_ns() < end_ns)
        cr_assert(is_there(USER(0), VV_LEASE_FILES, a.id), "a read is on it");
    cr_assert_not(is_there(USER(0), VV_LEASE_SNAPSHOT, a.id));
    cr_assert(vv_ok(vv_leases_add_files(leases, USER(1), files_at(8), 0, &b)));
    cr_assert_not(vv_leases_have_room(leases, USER(1)));
    vv_leased *third = files_at(9);
    cr_assert(vv_is(vv_leases_add_files(leases, USER(1), third, 0, &c), VV_BUSY));
    third->release(third);
    cr_assert_eq(released, 1);

    vv_leases_release(leases, USER(0), VV_LEASE_FILES, a.id);
    cr_assert_not(is_there(USER(0), VV_LEASE_FILES, a.id));
    cr_assert_eq(released, 1, "the read still has them");
    cr_assert(vv_leases_have_room(leases, USER(1)));
    vv_lease_unref(leases, lease);
    cr_assert_eq(released, 2);
    vv_leases_release(leases, USER(0), VV_LEASE_FILES, b.id); /* another user's */
    cr_assert_eq(released, 2);
    vv_leases_release(leases, USER(1), VV_LEASE_FILES, b.id);
    cr_assert_eq(released, 3);
}

Test(leases, the_time_of_files_begins_anew_with_each_read) {
    make(2, 2, S_US);
    vv_lease_info info;
    cr_assert(vv_ok(vv_leases_add_files(leases, NULL, files_at(7), 1000, &info)));
    uint64_t look_ns, last_ns = vv_clock_mono_ns(), end_ns = last_ns + 1500 * VV_NS_PER_MS;
    for (; (look_ns = vv_clock_mono_ns()) < end_ns; last_ns = look_ns)
        if (!is_there(NULL, VV_LEASE_FILES, info.id)) { /* only on a very slow machine */
            cr_assert_geq(vv_clock_mono_ns() - last_ns, VV_NS_PER_S, "the last look had begun it anew");
            break;
        }
    wait_count(0); /* and ends when nobody comes any more */
    while (released == 0)
        continue;
}

static void churn(void *arg) {
    const struct vv_user *user = arg;
    for (int i = 0; i < 2000; i++) {
        vv_lease_info info;
        if (!vv_ok(vv_leases_open(leases, user, i % 2, &info)))
            continue;
        vv_lease *lease = vv_leases_ref(leases, user, VV_LEASE_SNAPSHOT, info.id);
        (void)vv_leases_renew(leases, user, info.id, 1, &info);
        if (i % 3)
            vv_leases_release(leases, user, VV_LEASE_SNAPSHOT, info.id);
        varve_value value = {0};
        if (lease)
            cr_assert(varve_ok(varve_get_at(db, vv_lease_snapshot(lease), "k", 1, &value)));
        varve_value_release(&value);
        vv_lease_unref(leases, lease);
        lease = pages(user);
        if (lease && i % 2)
            vv_lease_unref_done(leases, lease);
        else
            vv_lease_unref(leases, lease);
    }
}

Test(leases, threads_and_the_sweep_do_not_disturb_each_other) {
    make(40, 20, 1000);
    put();
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "churn", churn, (void *)(uintptr_t)USER(i))));
    for (int i = 0; i < 3; i++)
        vv_thread_join(threads[i]);
    wait_count(0);
}
