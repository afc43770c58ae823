/*
 * varve_inspect(): every kind of file, by what was written into it; damage is told, and what is whole beside
 * it.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/engine/archive_fixture.h"

TestSuite(db_inspect, .init = ax_setup, .fini = vv_tempdir_cleanup, .timeout = 120);

/* What was told: a line for each item, "kind name=value ...", values of users as they are. */
static char *told;
static size_t told_bytes;
static FILE *to;
static varve_inspect_result result;
static uint64_t stop_after; /* items; 0: never */
static uint64_t damage_offset;

static bool tell(void *arg, const varve_item *item) {
    (void)arg;
    fputs(item->kind, to);
    for (size_t i = 0; i < item->field_count; i++) {
        const varve_field *f = &item->fields[i];
        fprintf(to, " %s=", f->name);
        if (f->kind == VARVE_FIELD_NUMBER || f->kind == VARVE_FIELD_FLAG)
            fprintf(to, "%" PRIu64, f->number);
        else if (f->kind == VARVE_FIELD_ID)
            fprintf(to, "%zu bytes", f->bytes);
        else
            fwrite(f->data, 1, f->bytes, to);
    }
    fputc('\n', to);
    return stop_after == 0 || --stop_after > 0;
}

static void note_damage(void *arg, const varve_damage *d) {
    (void)arg;
    fprintf(to, "damage: %s\n", d->text);
    damage_offset = d->offset;
}

static varve_status look(const char *path, bool entries) {
    varve_inspect_options o = {.item = tell, .damaged = note_damage, .entries = entries};
    free(told);
    to = open_memstream(&told, &told_bytes);
    varve_status st = varve_inspect(path, &o, &result, &fx_err);
    fclose(to);
    return st;
}

static void expect_look(const char *path, bool entries) {
    varve_status st = look(path, entries);
    cr_assert(varve_ok(st), "%s: %s", path, fx_err.text);
}

static bool says(const char *what) {
    return strstr(told, what) != NULL;
}

static size_t count(const char *what) {
    size_t n = 0;
    for (const char *at = told; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

/* The one file of the database with this end of its name; borrowed until the next vv_tempdir_path(). */
static const char *db_file(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "db/%s", name);
    return vv_tempdir_path(path);
}

static void flip_at(const char *path, uint64_t at) {
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    cr_assert(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

#define FIRST_SEGMENT "wal-0000000000000001.log"
#define FIRST_TABLE   "0000000000000001.sst"

/* A put that expires, one that is overwritten, a batch of two, a delete: LSNs 1 to 5. */
static void write_some(void) {
    varve_batch *b = varve_batch_create();
    varve_write_options expires = {.ttl_ms = 3600000};
    cr_assert(varve_ok(varve_put(fx_db, "a", 1, "one", 3, &expires, NULL)));
    fx_put("b", "two");
    cr_assert(varve_ok(varve_batch_put(b, "c", 1, "three", 5)));
    cr_assert(varve_ok(varve_batch_put(b, "b", 1, "", 0)));
    cr_assert(varve_ok(varve_write(fx_db, b, NULL, NULL)));
    varve_batch_destroy(b);
    fx_delete("a");
}

Test(db_inspect, a_segment_tells_its_frames_and_operations) {
    fx_open();
    write_some();
    fx_close();
    expect_look(db_file(FIRST_SEGMENT), false);
    cr_assert(says("segment format_version=1 file_bytes=1048576 segment=1 segment_bytes=1048576"), "%s",
              told);
    cr_assert_eq(count("\nframe "), 5, "%s", told);
    cr_assert_eq(count("operation"), 0);
    cr_assert(says("records=1 payload_bytes=60 first_lsn=2 last_lsn=2 durable_lsn=1 clean_close=0 whole=1"),
              "%s", told);
    cr_assert(says("first_lsn=3 last_lsn=4"));
    cr_assert(says("summary frames=5 records=4 first_lsn=1 last_lsn=5"), "%s", told);
    cr_assert(
        says("clean_close=1 frames_behind_end=0 puts=4 deletes=1 expiring=1 key_bytes=5 key_bytes_min=1 "
             "key_bytes_max=1 value_bytes=11 value_bytes_max=5"),
        "%s", told);
    expect_look(db_file(FIRST_SEGMENT), true);
    cr_assert(says("\noperation lsn=4 kind=put key=b value_bytes=0 value= batch_lsn=3 epoch=1\n"), "%s",
              told);
    cr_assert(says("\noperation lsn=5 kind=delete key=a batch_lsn=5 epoch=1\n"), "%s", told);
    cr_assert_eq(result.item_count, 1 + 5 + 5 + 1);
    cr_assert_eq(result.damage_count, 0);
}

Test(db_inspect, behind_a_frame_that_is_torn_the_others_are_told) {
    fx_open();
    write_some();
    fx_close();
    expect_look(db_file(FIRST_SEGMENT), false);
    const char *second = strstr(told, "frame_seq=2");
    cr_assert(second);
    uint64_t at = 0;
    for (const char *line = second; line > told && at == 0; line--)
        sscanf(line, "offset=%" SCNu64, &at);
    flip_at(db_file(FIRST_SEGMENT), at + 64 + 50); /* in its payload */
    expect_look(db_file(FIRST_SEGMENT), true);
    cr_assert(
        says("frame_seq=2 records=1 payload_bytes=60 first_lsn=2 last_lsn=2 durable_lsn=1 clean_close=0 "
             "whole=0 behind_end=1"),
        "%s", told);
    cr_assert(says("first_lsn=5 last_lsn=5 durable_lsn=4 clean_close=0 whole=1 behind_end=1"), "%s", told);
    cr_assert(says("operation lsn=5"));
    cr_assert(!says("operation lsn=2"));
    cr_assert(says("summary frames=1 records=1 first_lsn=1 last_lsn=1"), "%s", told);
    cr_assert(says("frames_behind_end=4 puts=1 deletes=0"), "%s", told);
    flip_at(db_file(FIRST_SEGMENT), 20);
    expect_look(db_file(FIRST_SEGMENT), true);
    cr_assert_eq(result.damage_count, 1);
    cr_assert(says("header is damaged"), "%s", told);
}

Test(db_inspect, a_table_tells_its_blocks_and_entries) {
    for (int packed = 0; packed < 2; packed++) {
        fx_open_with(fx_options("COMPRESSION", packed ? "zstd" : "none", "INDEX_TYPE",
                                packed ? "dense" : "sparse", "BLOOM_FILTER_FALSE_POSITIVE_RATE",
                                packed ? "0" : "0.01", NULL));
        write_some();
        for (int i = 0; i < 1000; i++) {
            char key[16];
            snprintf(key, sizeof key, "key%04d", i);
            fx_put(key, "a value that is always the same");
        }
        cr_assert(varve_ok(varve_flush(fx_db)));
        fx_close();
        expect_look(db_file(FIRST_TABLE), false);
        cr_assert(says("entries=1005 min_lsn=1 max_lsn=1005 "), "%s", told);
        cr_assert(says(packed ? "index_type=dense filter_bytes=0" : "index_type=sparse filter_bytes="));
        cr_assert(says("first_key=a last_key=key0999"));
        cr_assert(count("\nblock ") > 1 && count(packed ? "compression=zstd" : "compression=none") > 1, "%s",
                  told);
        cr_assert(says("summary puts=1004 deletes=1 expiring=1 "), "%s", told);
        expect_look(db_file(FIRST_TABLE), true);
        cr_assert_eq(count("\nentry "), 1005);
        cr_assert(says(
            "\nentry lsn=5 kind=delete key=a\nentry lsn=1 kind=put key=a value_bytes=3 expires_unix_ms="));
        cr_assert(says("\nentry lsn=4 kind=put key=b value_bytes=0 value=\n"));
        /* A block: its entries are missing, the others are not. */
        flip_at(db_file(FIRST_TABLE), 1000);
        expect_look(db_file(FIRST_TABLE), true);
        cr_assert_eq(result.damage_count, 1);
        cr_assert_eq(damage_offset, 0);
        cr_assert(!says("entry lsn=5 kind=delete") && says("key=key0999"), "%s", told);
        flip_at(db_file(FIRST_TABLE), 1000);
        /* The footer: all entries are still found. */
        struct stat s;
        cr_assert_eq(stat(db_file(FIRST_TABLE), &s), 0);
        flip_at(db_file(FIRST_TABLE), (uint64_t)s.st_size - 50);
        expect_look(db_file(FIRST_TABLE), true);
        cr_assert_geq(result.damage_count, 1);
        cr_assert_eq(count("\nentry ") + (strncmp(told, "entry ", 6) == 0), 1005, "%s", told);
        cr_assert(says("summary puts=1004 deletes=1"), "%s", told);
        char command[600];
        snprintf(command, sizeof command, "rm -r '%s'", vv_tempdir_path("db"));
        cr_assert_eq(system(command), 0);
    }
}

Test(db_inspect, a_manifest_tells_tables_epochs_slots_and_clients) {
    varve_write_options named = {.client_id = 77, .sequence = 9};
    fx_open();
    cr_assert(varve_ok(varve_put(fx_db, "a", 1, "x", 1, &named, NULL)));
    cr_assert(varve_ok(varve_slot_create(fx_db, "replica-1", 0, &fx_err)), "%s", fx_err.text);
    cr_assert(varve_ok(varve_flush(fx_db)));
    fx_close();
    expect_look(vv_tempdir_path("db"), false); /* the directory stands for it */
    cr_assert(says("manifest format_version=4 "), "%s", told);
    cr_assert(says("flushed_lsn=1") && says("tables=1\n"), "%s", told);
    cr_assert(says("\ntable file=0000000000000001.sst level=0 "), "%s", told);
    cr_assert(says("first_key=a last_key=a\n"));
    cr_assert(says("\nepoch epoch=1 first_lsn=1 id=8 bytes\n"), "%s", told);
    cr_assert(says("\nslot name=replica-1 lsn="), "%s", told);
    cr_assert(says("\nclient client_id=8 bytes writes=1 newest_sequence=9 lsn=1\n"), "%s", told);
    flip_at(db_file("MANIFEST"), 40);
    expect_look(db_file("MANIFEST"), false);
    cr_assert_eq(result.damage_count, 1);
    cr_assert_eq(result.item_count, 0);
    flip_at(db_file("MANIFEST"), 0); /* not even the magic is there: the name says what it should be */
    expect_look(db_file("MANIFEST"), false);
    cr_assert_eq(result.damage_count, 1);
}

Test(db_inspect, an_archive_and_a_tail_that_was_cut_tell_their_operations) {
    char first[600];
    fx_open();
    ax_start();
    write_some();
    ax_wait(5);
    ax_stop();
    fx_close();
    snprintf(first, sizeof first, "%s/0000000000000001.archive", ax_dir);
    expect_look(first, true);
    cr_assert_eq(strncmp(told, "archive format_version=1 ", 25), 0, "%s", told);
    cr_assert(says("number=1 first_lsn=1 "), "%s", told);
    cr_assert_eq(count("\noperation "), 5, "%s", told);
    cr_assert(says(" records=4 last_lsn=5 "), "%s", told);
    flip_at(first, 10);
    expect_look(first, true);
    cr_assert_eq(result.damage_count, 1, "%s", told);

    uint64_t cut;
    varve_options *o = fx_options(NULL);
    varve_status st = varve_rewind(vv_tempdir_path("db"), o, 2, "tail", &cut, &fx_err);
    varve_options_destroy(o);
    cr_assert(varve_ok(st), "%s", fx_err.text);
    expect_look(db_file("tail"), true);
    cr_assert_eq(strncmp(told, "cut_tail format_version=1 ", 26), 0, "%s", told);
    cr_assert_eq(count("\noperation "), 3, "%s", told);
    cr_assert(says("operation lsn=5 kind=delete key=a batch_lsn=5"));
}

Test(db_inspect, what_is_no_file_of_ours_is_refused_and_stop_stops) {
    cr_assert_eq(look(vv_tempdir_path("none"), false).code, VARVE_NOT_FOUND);
    FILE *f = fopen(vv_tempdir_path("words"), "we");
    fputs("some words", f);
    fclose(f);
    cr_assert_eq(look(vv_tempdir_path("words"), false).code, VARVE_INVALID_ARGUMENT);
    cr_assert(strstr(fx_err.text, "words"), "%s", fx_err.text);
    fclose(fopen(vv_tempdir_path("empty"), "we"));
    cr_assert_eq(look(vv_tempdir_path("empty"), false).code, VARVE_INVALID_ARGUMENT);
    cr_assert_eq(look(vv_tempdir_path("."), false).code == VARVE_OK, false);
    fx_open();
    write_some();
    cr_assert(varve_ok(varve_flush(fx_db)));
    /* While it is open, too: nothing is locked. */
    for (uint64_t n = 1; n <= 3; n++) {
        stop_after = n;
        cr_assert_eq(look(db_file(FIRST_TABLE), true).code, VARVE_BUSY);
        cr_assert_eq(result.item_count, n);
    }
    stop_after = 0;
    fx_close();
}

/* Whatever a file holds: an answer. */
Test(db_inspect, any_flipped_byte_gets_an_answer) {
    uint64_t seed = vv_test_seed();
    fx_open_with(fx_options("WAL_SEGMENT_SIZE", "256KiB", NULL));
    write_some();
    cr_assert(varve_ok(varve_flush(fx_db)));
    write_some();
    fx_close();
    static const char *const names[] = {"MANIFEST", FIRST_TABLE, FIRST_SEGMENT};
    for (size_t n = 0; n < VV_ARRAY_COUNT(names); n++) {
        struct stat s;
        cr_assert_eq(stat(db_file(names[n]), &s), 0);
        bool segment = n == 2;
        for (int i = 0; i < 500; i++) {
            uint64_t at = vv_test_random(&seed) % VV_MIN((uint64_t)s.st_size, segment ? 20000 : UINT64_MAX);
            flip_at(db_file(names[n]), at);
            varve_status st = look(db_file(names[n]), true);
            cr_assert(varve_ok(st) || st.code == VARVE_UNSUPPORTED, "%s at %" PRIu64 ": %s", names[n], at,
                      fx_err.text);
            /* A log that ends early is none; a footer of another magic leaves the table's name. */
            cr_assert(segment || st.code == VARVE_UNSUPPORTED || result.damage_count > 0, "%s at %" PRIu64,
                      names[n], at);
            flip_at(db_file(names[n]), at);
        }
    }
}
