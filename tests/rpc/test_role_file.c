#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "rpc/role_file.h"
#include "tests/support/tempdir.h"

static const char *data;
static vv_error err;

static void init(void) {
    data = vv_tempdir();
}

TestSuite(role_file, .init = init, .fini = vv_tempdir_cleanup);

static void write_file(vv_role role, uint64_t epoch, const char *follow) {
    vv_role_file file = {.role = role, .epoch = epoch};
    snprintf(file.follow, sizeof file.follow, "%s", follow);
    cr_assert(vv_ok(vv_role_file_write(data, &file, &err)), "%s", err.text);
}

static vv_role_file read_file(void) {
    vv_role_file file;
    cr_assert(vv_ok(vv_role_file_read(data, &file, &err)), "%s", err.text);
    return file;
}

Test(role_file, is_read_as_it_was_written) {
    vv_role_file file;
    cr_assert(vv_is(vv_role_file_read(data, &file, &err), VV_NOT_FOUND));
    write_file(VV_ROLE_FOLLOWER, 0, "");
    file = read_file();
    cr_assert_eq(file.role, VV_ROLE_FOLLOWER);
    cr_assert_eq(file.epoch, 0);
    cr_assert_str_empty(file.follow);
    write_file(VV_ROLE_PRIMARY, UINT64_MAX, "unix:/a path with = and spaces");
    file = read_file();
    cr_assert_eq(file.role, VV_ROLE_PRIMARY);
    cr_assert_eq(file.epoch, UINT64_MAX);
    cr_assert_str_eq(file.follow, "unix:/a path with = and spaces");
    cr_assert_neq(access(vv_tempdir_path(VV_ROLE_FILE_NAME ".new"), F_OK), 0);
}

Test(role_file, any_byte_that_changes_is_noticed) {
    write_file(VV_ROLE_PRIMARY, 7, "a:1");
    FILE *f = fopen(vv_tempdir_path(VV_ROLE_FILE_NAME), "r+");
    char text[1024];
    size_t bytes = fread(text, 1, sizeof text, f);
    for (size_t i = 0; i < bytes; i++) {
        fseek(f, (long)i, SEEK_SET);
        fputc(text[i] ^ 1, f);
        fflush(f);
        vv_role_file file;
        cr_expect(vv_is(vv_role_file_read(data, &file, &err), VV_CORRUPTION), "byte %zu", i);
        fseek(f, (long)i, SEEK_SET);
        fputc(text[i], f);
        fflush(f);
    }
    fclose(f);
    cr_assert_eq(read_file().epoch, 7);
    cr_assert_eq(truncate(vv_tempdir_path(VV_ROLE_FILE_NAME), 0), 0);
    vv_role_file file;
    cr_assert(vv_is(vv_role_file_read(data, &file, &err), VV_CORRUPTION));
    cr_assert_not_null(strstr(err.text, "ROLE: damaged"), "%s", err.text);
}

static vv_role start(vv_role role, uint64_t file_epoch, const char *file_follow, const char *follow,
                     uint64_t epoch, uint64_t promised) {
    vv_role_file file = {.role = role, .epoch = file_epoch};
    snprintf(file.follow, sizeof file.follow, "%s", file_follow);
    return vv_role_at_start(&file, follow, epoch, promised);
}

Test(role_file, a_database_on_its_own_is_primary_until_it_is_told_or_promises_otherwise) {
    cr_expect_eq(vv_role_at_start(NULL, "", 1, 1), VV_ROLE_PRIMARY);
    cr_expect_eq(vv_role_at_start(NULL, "a:1", 1, 1), VV_ROLE_FOLLOWER);
    cr_expect_eq(vv_role_at_start(NULL, "", 1, 2), VV_ROLE_SUPERSEDED);
    cr_expect_eq(vv_role_at_start(NULL, "a:1", 1, 2), VV_ROLE_FOLLOWER);
}

Test(role_file, a_follower_stays_one_without_its_flag) {
    cr_expect_eq(start(VV_ROLE_FOLLOWER, 0, "", "a:1", 2, 2), VV_ROLE_FOLLOWER);
    cr_expect_eq(start(VV_ROLE_FOLLOWER, 0, "", "", 2, 2), VV_ROLE_SUPERSEDED,
                 "it has its primary's epoch, and is none");
}

Test(role_file, who_was_promoted_stays_primary_in_spite_of_the_flag_it_was_promoted_with) {
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "a:1", 2, 2), VV_ROLE_PRIMARY);
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "", 2, 2), VV_ROLE_PRIMARY);
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "", "", 2, 2), VV_ROLE_PRIMARY);
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "", "", 3, 3), VV_ROLE_PRIMARY, "it began one more since");
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "b:1", 2, 2), VV_ROLE_FOLLOWER, "it is another flag");
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "", "b:1", 2, 2), VV_ROLE_FOLLOWER);
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "a:1", 2, 3), VV_ROLE_FOLLOWER, "a higher one is known");
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "", 2, 3), VV_ROLE_SUPERSEDED);
}

Test(role_file, a_promotion_that_did_not_come_to_its_epoch_is_none) {
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "a:1", 1, 2), VV_ROLE_FOLLOWER);
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "", 1, 1), VV_ROLE_SUPERSEDED);
    cr_expect_eq(start(VV_ROLE_PRIMARY, 2, "a:1", "a:1", 1, 1), VV_ROLE_FOLLOWER);
}
