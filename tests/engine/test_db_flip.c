/*
 * Damage of every kind to every file of a small database, one at a time: each byte flipped, each file cut at
 * each length, each block zeroed or in another's place, each file removed. Whatever is done, opening refuses,
 * or a read fails, or nothing has happened: no read ever answers anything but what was written, and nothing
 * that was acknowledged is missing without an error.
 *
 * One exception, which FORMAT.md section 1 states: in a log that was not closed, no other byte tells of the
 * frames of the newest commit group. So damage to these leaves a shorter history, whole up to its end. The
 * test knows which bytes these are, and lets no others pass.
 *
 * The disk is simulated, in memory (damage_fixture.h). VARVE_TEST_FLIPS=all takes hours.
 */
#include "tests/engine/damage_fixture.h"

static void setup(void) {
    vv_tempdir(); /* none of it is used; the fixture's clean-up wants it */
}

TestSuite(db_flip, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 36000);

static uint64_t refused, detected, harmless, shorter;

/* ---- what is read ---- */

typedef struct findings {
    size_t count;
    bool in_range[KEYS]; /* some damage says that the key may be lost */
    bool of_file;        /* some damage names the file that was damaged */
    int first_block_at;  /* the first block of a table is damaged, which begins with this key; -1: none is */
    uint64_t unreadable; /* keys that could not be read */
} findings;

static void note_damage(void *arg, const varve_damage *d) {
    findings *f = arg;
    f->count++;
    f->of_file |= strstr(d->file, now->file->name) != NULL;
    CHECK(strstr(d->text, d->file), "words without the file: %s", d->text);
    for (int i = KEYS - 1; i >= 0 && d->first_key; i--) {
        vv_slice key = vv_slice_str(key_of(i));
        if (vv_slice_equal(vv_slice_make(d->first_key, d->first_key_bytes), key) && strstr(d->file, ".sst") &&
            (d->offset == 0 || d->offset + d->bytes == now->file->count))
            f->first_block_at = i;
        f->in_range[i] |= vv_slice_compare(vv_slice_make(d->first_key, d->first_key_bytes), key) <= 0 &&
                          vv_slice_compare(key, vv_slice_make(d->last_key, d->last_key_bytes)) <= 0;
    }
}

static void check_answer(int key, uint64_t lsn, varve_status st, const varve_value *v, bool *bad) {
    const write *want = newest(key, lsn);
    if (is_refusal(st.code)) {
        *bad = true;
        return;
    }
    CHECK(st.code == (want ? VARVE_OK : VARVE_NOT_FOUND), "key %d: %s", key, varve_code_name(st.code));
    if (want)
        CHECK(value_is(want, v->data, v->bytes, v->lsn), "key %d: a wrong value", key);
}

static void read_keys(varve_db *db, uint64_t lsn, bool bad[KEYS]) {
    varve_lookup lookups[KEYS];
    for (int i = 0; i < KEYS; i++) {
        varve_value v;
        const char *name = key_of(i);
        varve_status st = varve_get(db, name, strlen(name), &v);
        bad[i] = false;
        check_answer(i, lsn, st, &v, &bad[i]);
        varve_value_release(&v);
    }
    char names[KEYS][16];
    for (int i = 0; i < KEYS; i++) {
        strcpy(names[i], key_of(i));
        lookups[i] = (varve_lookup){.key = names[i], .key_bytes = strlen(names[i])};
    }
    CHECK(varve_ok(varve_multi_get(db, NULL, lookups, KEYS)), "multi-get");
    for (int i = 0; i < KEYS; i++) {
        bool bad_too = false;
        check_answer(i, lsn, lookups[i].status, &lookups[i].value, &bad_too);
        CHECK(bad_too == bad[i], "key %d: one by one and all together differ", i);
        varve_value_release(&lookups[i].value);
    }
}

/* Scan from key `at` on, one way. Every entry is the next one that has to be there. Returns the key at which
 * it failed, or the one behind the last. */
static int scan_from(varve_iter *it, uint64_t lsn, int at, int step) {
    const char *name = key_of(at);
    if (step > 0)
        varve_iter_seek(it, name, strlen(name));
    else
        varve_iter_seek_back(it, name, strlen(name));
    for (; at >= 0 && at < KEYS; at += step) {
        const write *want = newest(at, lsn);
        varve_entry e;
        if (!want)
            continue;
        if (!varve_iter_valid(it)) {
            CHECK(is_refusal(varve_iter_status(it).code), "scan: key %d is missing, %s", at,
                  varve_code_name(varve_iter_status(it).code));
            return at;
        }
        varve_iter_entry(it, &e);
        CHECK(e.key_bytes == strlen(key_of(at)) && memcmp(e.key, key_of(at), e.key_bytes) == 0,
              "scan: '%.*s' instead of key %d", (int)e.key_bytes, (const char *)e.key, at);
        CHECK(value_is(want, e.value, e.value_bytes, e.lsn), "scan: a wrong value of key %d", at);
        if (step > 0)
            varve_iter_next(it);
        else
            varve_iter_prev(it);
    }
    CHECK(!varve_iter_valid(it), "scan: more than there is");
    return at;
}

/* Both ways, over every key that can be read: a bad block stops a cursor, and seeking gets it past. */
static bool scan_all(varve_db *db, uint64_t lsn) {
    varve_iter *it;
    bool failed = false;
    CHECK(varve_ok(varve_iter_create(db, NULL, &it)), "a cursor");
    for (int step = 1; step >= -1; step -= 2) {
        int at = step > 0 ? 0 : KEYS - 1;
        while (at >= 0 && at < KEYS) {
            at = scan_from(it, lsn, at, step);
            bool more = at >= 0 && at < KEYS;
            failed |= more || is_refusal(varve_iter_status(it).code);
            if (!more)
                break;
            at += step;
        }
    }
    varve_iter_destroy(it);
    return failed;
}

/* A cursor that has met the damage shows all that lies outside of the ranges that may be lost: but not what
 * comes before a run that begins with damage, since it needs the next entry of each run. (On the way back,
 * the same goes for every damage.) */
static void seek_around(varve_db *db, uint64_t lsn, const findings *f) {
    varve_iter *it;
    CHECK(varve_ok(varve_iter_create(db, NULL, &it)), "a cursor");
    for (int i = 0; i < KEYS; i++) {
        const write *want = newest(i, lsn);
        const char *name = key_of(i);
        varve_entry e;
        varve_iter_seek(it, name, strlen(name));
        if (f->in_range[i] || !want || i < f->first_block_at)
            continue;
        CHECK(varve_iter_valid(it), "seek: key %d is outside of the damage: %s", i,
              varve_code_name(varve_iter_status(it).code));
        varve_iter_entry(it, &e);
        CHECK(value_is(want, e.value, e.value_bytes, e.lsn), "seek: key %d", i);
    }
    varve_iter_destroy(it);
}

/* Everything that can be read of an open database. lsn: of its end. */
static bool read_all(varve_db *db, uint64_t lsn, findings *f) {
    bool bad[KEYS];
    varve_verify_result result;
    varve_error words;
    varve_verify_options o = {.damaged = note_damage, .arg = f};
    read_keys(db, lsn, bad);
    bool failed = scan_all(db, lsn);
    varve_status st = varve_verify(db, &o, &result, &words);
    CHECK(varve_ok(st), "verify: %s", words.text);
    CHECK(result.damage_count == f->count, "verify: counts");
    for (int i = 0; i < KEYS; i++)
        if (bad[i]) {
            f->unreadable++;
            CHECK(f->in_range[i], "key %d can't be read, and verify does not say so", i);
        }
    CHECK(f->count == 0 || f->of_file, "verify names another file");
    seek_around(db, lsn, f);
    CHECK(f->unreadable == 0 || failed, "a scan passed over what can't be read");
    return failed || f->count > 0;
}

static void try(const image *im, const harm *h, const uint8_t *bytes, size_t count) {
    vv_status st;
    findings f = {.first_block_at = -1};
    now = h;
    vv_sim_disk *disk = damaged_disk(im, h->file, bytes, count);
    varve_db *db = open_on(disk, &st);
    if (!db) {
        CHECK(is_refusal(st.code), "open: %s: %s", vv_code_name(st.code), fx_err.text);
        CHECK(strstr(fx_err.text, DIR), "open: words without a path: %s", fx_err.text);
        refused++;
    } else {
        varve_stats s;
        varve_stats_get(db, &s);
        uint64_t lsn = s.last_lsn;
        CHECK(lsn == history_count || (may_be_silent(im, h) && lsn == history_count - 1),
              "LSN %" PRIu64 " of %" PRIu64, lsn, history_count);
        bool found = read_all(db, lsn, &f);
        if (found)
            detected++;
        else if (lsn < history_count)
            shorter++;
        else
            harmless++;
        vv_status_ignore(vv_db_unload(db), "of a database that is damaged");
    }
    vv_sim_disk_destroy(disk);
}

static void damage_everything(bool clean, size_t wanted) {
    uint64_t seed = vv_test_seed();
    image im = make_image(clean);
    damage_each_file(try, &im, wanted, &seed);
    cr_log_info("refused %" PRIu64 ", detected %" PRIu64 ", harmless %" PRIu64 ", shorter %" PRIu64 "\n",
                refused, detected, harmless, shorter);
    cr_assert(refused > 0 && detected > 0 && harmless > 0);
    cr_assert_eq(shorter > 0, !clean);
    free_image(&im);
}

Test(db_flip, a_closed_database_never_lies) {
    compression = "none", index_type = "sparse", style = "tiered";
    damage_everything(true, 300);
}

Test(db_flip, a_database_that_was_killed_never_lies) {
    compression = "lz4", index_type = "dense", style = "leveled";
    damage_everything(false, 300);
}

/* What was begun is not guessed: a marker that is damaged stops the opening, and nothing has changed by then.
 * (That of an install: test_db_install.c.) */
Test(db_flip, a_damaged_marker_is_never_followed) {
    compression = "none", index_type = "sparse", style = "tiered";
    image im = make_image(true);
    vv_marker cut = {.step = 1, .lsn = history_count - 2};
    vv_io_backend *io = vv_sim_backend_create(im.disk);
    cr_assert(vv_ok(vv_marker_write(io, DIR, VV_CUT_NAME, &cut, NULL)));
    vv_io_backend_destroy(io);
    im.file_count = 0;
    for (size_t i = 0; i < FILES; i++)
        free(im.files[i].bytes);
    memset(im.files, 0, sizeof im.files);
    io = vv_sim_backend_create(im.disk);
    cr_assert(vv_ok(vv_dir_list(io, DIR, note_file, &im, NULL)));
    vv_io_backend_destroy(io);
    const file *f = im.files;
    while (strcmp(f->name, VV_CUT_NAME) != 0)
        f++;
    uint8_t bytes[100];
    cr_assert_leq(f->count, sizeof bytes);
    memcpy(bytes, f->bytes, f->count);
    for (size_t bit = 0; bit <= f->count * 8; bit++) {
        harm h = {.file = f, .kind = "a marker", .offset = bit / 8, .end = bit / 8 + 1};
        vv_status st;
        now = &h;
        if (bit < f->count * 8)
            bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        vv_sim_disk *disk = damaged_disk(&im, f, bytes, f->count);
        varve_db *db = open_on(disk, &st);
        if (bit < f->count * 8) {
            CHECK(!db && is_refusal(st.code) && strstr(fx_err.text, VV_CUT_NAME), "%s", fx_err.text);
        } else {
            CHECK(db, "%s", fx_err.text);
            varve_stats s;
            varve_stats_get(db, &s);
            CHECK(s.last_lsn == history_count - 2, "LSN %" PRIu64, s.last_lsn);
            CHECK(varve_ok(varve_close(db)), "close");
        }
        vv_sim_disk_destroy(disk);
        if (bit < f->count * 8)
            bytes[bit / 8] = f->bytes[bit / 8];
    }
    free_image(&im);
}
