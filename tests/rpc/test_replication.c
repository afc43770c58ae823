/* Roles, sessions of followers and what they let in, on the real engine. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "rpc/node.h"
#include "rpc/replication.h"
#include "tests/support/tempdir.h"

static varve_db *db;
static vv_replication *r;
static int changes;

static void changed(void *arg) {
    (*(int *)arg)++;
}

static void open_database(void) {
    varve_error err = {""};
    cr_assert(varve_ok(varve_open(vv_tempdir_path("data"), NULL, &db, &err)), "%s", err.text);
}

static void create(vv_role role, uint32_t quorum) {
    vv_error err = {""};
    vv_replication_options o = {
        .db = db, .node = "n1", .role = role, .quorum = quorum, .changed = changed, .arg = &changes};
    cr_assert(vv_ok(vv_replication_create(&o, &r, &err)), "%s", err.text);
}

static void setup(void) {
    vv_tempdir();
    open_database();
}

static void teardown(void) {
    vv_replication_destroy(r);
    VV_ASSERT(varve_ok(varve_close(db)));
    vv_tempdir_cleanup();
}

TestSuite(replication, .init = setup, .fini = teardown);

static bool says(const vv_rpc_status *why, const char *text) {
    return memmem(why->details, why->details_bytes, text, strlen(text)) != NULL;
}

Test(replication, a_primary_takes_reads_and_writes) {
    vv_rpc_status why;
    create(VV_ROLE_PRIMARY, 0);
    cr_assert_eq(vv_replication_role(r), VV_ROLE_PRIMARY);
    cr_assert_str_eq(vv_replication_node(r), "n1");
    cr_assert(vv_replication_may_write(r, &why));
    cr_assert(vv_replication_may_read(r, &why));
}

Test(replication, a_follower_refuses_writes_and_names_its_primary) {
    vv_rpc_status why;
    char address[VV_ADDRESS_BYTES_MAX + 1];
    create(VV_ROLE_FOLLOWER, 0);
    cr_assert(vv_replication_may_read(r, &why));
    cr_assert_not(vv_replication_may_write(r, &why));
    cr_assert_eq(why.code, VV_RPC_FAILED_PRECONDITION);
    cr_assert(says(&why, "NOT_PRIMARY"));
    /* The longest that there can be: the details have room for it. */
    memset(address, 'a', sizeof address - 1);
    address[sizeof address - 1] = '\0';
    vv_replication_set_primary(r, address);
    cr_assert_not(vv_replication_may_write(r, &why));
    cr_assert(says(&why, "NOT_PRIMARY"));
    cr_assert(says(&why, address));
}

Test(replication, a_higher_epoch_supersedes_a_primary_once) {
    vv_rpc_status why;
    varve_stats stats;
    create(VV_ROLE_PRIMARY, 0);
    varve_stats_get(db, &stats);
    vv_replication_heard_of(r, stats.epoch, "other:1");
    cr_assert_eq(vv_replication_role(r), VV_ROLE_PRIMARY);
    cr_assert_eq(changes, 0);
    vv_replication_heard_of(r, stats.epoch + 1, "other:1");
    vv_replication_heard_of(r, stats.epoch + 2, NULL);
    cr_assert_eq(vv_replication_role(r), VV_ROLE_SUPERSEDED);
    cr_assert_eq(changes, 1);
    cr_assert_not(vv_replication_may_write(r, &why));
    cr_assert(says(&why, "other:1"));
    cr_assert_not(vv_replication_may_read(r, &why));
    cr_assert(says(&why, "NOT_PRIMARY"));
    vv_replication_set_role(r, VV_ROLE_FOLLOWER);
    cr_assert(vv_replication_may_read(r, &why));
    cr_assert_eq(changes, 3, "the role, and reads");
}

Test(replication, a_new_session_of_a_slot_ends_the_one_before) {
    create(VV_ROLE_PRIMARY, 0);
    uint64_t first = vv_replication_session_begin(r, "a", "peer");
    uint64_t other = vv_replication_session_begin(r, "b", "peer");
    uint64_t second = vv_replication_session_begin(r, "a", "peer");
    cr_assert_neq(first, 0);
    cr_assert_neq(first, second);
    cr_assert_not(vv_replication_session_is_current(r, first));
    cr_assert(vv_replication_session_is_current(r, second));
    cr_assert(vv_replication_session_is_current(r, other));
    vv_replication_session_end(r, first); /* not the newer one's */
    cr_assert(vv_replication_session_is_current(r, second));
    vv_replication_session_end(r, second);
    cr_assert_not(vv_replication_session_is_current(r, second));
    cr_assert_not(vv_replication_session_is_current(r, 0));
    cr_assert_not(vv_replication_confirm(r, second, 1));
    cr_assert_not(vv_replication_confirm(r, 0, 1));
}

Test(replication, what_an_earlier_primary_wrote_is_committed_only_as_a_whole) {
    varve_error err = {""};
    varve_write_options soon = {.confirm_deadline_ns = 1};
    cr_assert(varve_ok(varve_limit_commits(db, true, &err)), "%s", err.text);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(varve_put(db, "key", 3, "", 0, &soon, NULL).code, VARVE_NOT_CONFIRMED);
    cr_assert(varve_ok(varve_begin_epoch(db, 7, &err)), "%s", err.text);
    create(VV_ROLE_PRIMARY, 1);
    cr_assert(varve_ok(varve_slot_create(db, "a", 0, &err)), "%s", err.text);
    uint64_t session = vv_replication_session_begin(r, "a", "peer");
    varve_stats stats;
    for (uint64_t lsn = 1; lsn < 5; lsn++) {
        cr_assert(vv_replication_confirm(r, session, lsn));
        varve_stats_get(db, &stats);
        cr_assert_eq(stats.commit_limit, 0, "a log that has no more may still lose");
    }
    cr_assert(vv_replication_confirm(r, session, 5));
    varve_stats_get(db, &stats);
    cr_assert_eq(stats.commit_limit, 5);
}

Test(replication, there_are_as_many_sessions_as_slots) {
    char slot[16];
    uint64_t last = 0;
    create(VV_ROLE_PRIMARY, 0);
    for (int i = 0; i < VARVE_SLOTS_MAX; i++) {
        snprintf(slot, sizeof slot, "s%d", i);
        last = vv_replication_session_begin(r, slot, "peer");
        cr_assert_neq(last, 0);
    }
    cr_assert_eq(vv_replication_session_begin(r, "one-more", "peer"), 0);
    vv_replication_session_end(r, last);
    cr_assert_neq(vv_replication_session_begin(r, "one-more", "peer"), 0);
    cr_assert_eq(vv_replication_session_begin(r, slot, "peer"), 0, "its place has gone to another");
}

Test(replication, lag_and_primary_are_kept) {
    create(VV_ROLE_FOLLOWER, 0);
    vv_lag lag = {.connected = true, .applied_lsn = 3, .primary_lsn = 5, .behind_bytes = 7}, got;
    vv_replication_set_lag(r, &lag);
    vv_replication_get_lag(r, &got);
    cr_assert(got.connected);
    cr_assert_eq(got.primary_lsn, 5);
    char primary[VV_ADDRESS_BYTES_MAX + 1];
    vv_replication_get_primary(r, primary);
    cr_assert_str_eq(primary, "");
    vv_replication_set_primary(r, "host:1");
    vv_replication_get_primary(r, primary);
    cr_assert_str_eq(primary, "host:1");
}

/* ---- the node's name ---- */

Test(replication, a_node_keeps_the_name_that_was_drawn) {
    char first[VARVE_SLOT_NAME_BYTES_MAX + 1], second[VARVE_SLOT_NAME_BYTES_MAX + 1];
    vv_error err = {""};
    const char *dir = vv_tempdir_path("data");
    cr_assert(vv_ok(vv_node_name(dir, "", first, &err)), "%s", err.text);
    cr_assert(vv_node_name_valid(vv_slice_str(first)));
    cr_assert(vv_ok(vv_node_name(dir, "", second, &err)), "%s", err.text);
    cr_assert_str_eq(first, second);
    cr_assert(vv_ok(vv_node_name(dir, "given", second, &err)));
    cr_assert_str_eq(second, "given");
    cr_assert_not(vv_ok(vv_node_name(dir, "a/b", second, &err)));
    FILE *file = fopen(vv_tempdir_path("data/NODE"), "w");
    fputs("a b\n", file);
    fclose(file);
    cr_assert(vv_is(vv_node_name(dir, "", second, &err), VV_CORRUPTION));
}

Test(replication, names_of_nodes_are_those_of_slots) {
    char longest[VARVE_SLOT_NAME_BYTES_MAX + 2];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    cr_assert_not(vv_node_name_valid(vv_slice_str(longest)));
    cr_assert(vv_node_name_valid(vv_slice_make(longest, sizeof longest - 2)));
    cr_assert(vv_node_name_valid(vv_slice_str("Az09._:-")));
    cr_assert_not(vv_node_name_valid(vv_slice_str("")));
    cr_assert_not(vv_node_name_valid(vv_slice_str("a b")));
    cr_assert_not(vv_node_name_valid(vv_slice_str("archive")));
    cr_assert_not(vv_node_name_valid(vv_slice_make("a\0b", 3)));
}
