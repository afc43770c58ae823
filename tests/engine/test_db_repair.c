/*
 * What a repair makes of a damaged database: one that opens and verifies, in which everything is right that
 * it did not call lost, whatever the damage; what it calls lost is there as some earlier state had it, or not
 * at all. A repair that is cut short can be repeated. A database that is sound is left alone.
 */
#include "tests/engine/damage_fixture.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_repair, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 36000);

/* ---- what a repair says ---- */

typedef struct said {
    bool key_lost[KEYS];
    bool lsn_lost[HISTORY + 1];
    uint64_t damages, losses;
    char first_file[300]; /* of the first damage */
} said;

static void on_damage(void *arg, const varve_damage *d) {
    said *s = arg;
    if (s->damages++ == 0)
        snprintf(s->first_file, sizeof s->first_file, "%s", d->text);
    CHECK(d->file && d->text[0], "a damage without words");
}

static void on_loss(void *arg, const varve_damage *d) {
    said *s = arg;
    s->losses++;
    CHECK(strstr(d->text, "lost"), "words: %s", d->text);
    CHECK(d->first_lsn <= d->last_lsn, "LSNs %" PRIu64 " to %" PRIu64, d->first_lsn, d->last_lsn);
    if (d->first_lsn) {
        for (uint64_t lsn = d->first_lsn; lsn <= d->last_lsn && lsn <= HISTORY; lsn++)
            s->lsn_lost[lsn] = true;
        return;
    }
    for (int i = 0; i < KEYS; i++) {
        vv_slice key = vv_slice_str(key_of(i));
        bool behind =
            !d->first_key || vv_slice_compare(vv_slice_make(d->first_key, d->first_key_bytes), key) <= 0;
        bool before =
            !d->last_key || vv_slice_compare(key, vv_slice_make(d->last_key, d->last_key_bytes)) <= 0;
        s->key_lost[i] |= behind && before;
    }
}

static vv_status make_backend(void *arg, vv_io_backend **out, vv_error *err) {
    (void)err;
    *out = vv_sim_backend_create(arg);
    return VV_STATUS_OK;
}

static varve_status repair(vv_sim_disk *disk, bool dry_run, bool keep_later, varve_repair_result *result,
                           said *s) {
    varve_options *o = fx_options("WAL_SEGMENT_SIZE", "256KiB", "MEMTABLE_SIZE", "64KiB", "COMPRESSION",
                                  compression, "INDEX_TYPE", index_type, "COMPACTION_STYLE", style, NULL);
    varve_repair_options r = {
        .damaged = on_damage, .lost = on_loss, .arg = s, .dry_run = dry_run, .keep_later = keep_later};
    memset(s, 0, sizeof *s);
    varve_status st = vv_db_repair_on(make_backend, disk, DIR, o, &r, result, &fx_err);
    varve_options_destroy(o);
    return st;
}

/* ---- what is there afterwards ---- */

/* The newest version of a key among the writes that are not lost. */
static const write *newest_kept(int key, const said *s, uint64_t end_lsn) {
    for (uint64_t n = end_lsn; n > 0; n--)
        if (history[n - 1].key == key && !s->lsn_lost[n])
            return history[n - 1].value[0] ? &history[n - 1] : NULL;
    return NULL;
}

static void check_key(varve_db *db, int key, const said *s, uint64_t end_lsn) {
    varve_value v;
    const char *name = key_of(key);
    const write *want = newest_kept(key, s, end_lsn);
    varve_status st = varve_get(db, name, strlen(name), &v);
    CHECK(varve_ok(st) || st.code == VARVE_NOT_FOUND, "key %d: %s", key, varve_code_name(st.code));
    if (!s->key_lost[key]) {
        CHECK(varve_ok(st) == (want != NULL), "key %d is not in a lost range: %s", key,
              varve_code_name(st.code));
        if (want)
            CHECK(value_is(want, v.data, v.bytes, v.lsn), "key %d: a wrong value", key);
    } else if (varve_ok(st)) {
        CHECK(v.lsn >= 1 && v.lsn <= history_count && history[v.lsn - 1].key == key &&
                  value_is(&history[v.lsn - 1], v.data, v.bytes, v.lsn),
              "key %d: what was never written", key);
    }
    varve_value_release(&v);
}

static void count_damage(void *arg, const varve_damage *d) {
    (void)arg;
    CHECK(false, "verify: %s", d->text);
}

/* Opens, reads, verifies, and takes writes. */
static void check_database(vv_sim_disk *disk, const said *s, uint64_t last_lsn) {
    vv_status st;
    varve_db *db = open_on(disk, &st);
    CHECK(db, "open: %s", fx_err.text);
    varve_stats stats;
    varve_verify_result result;
    varve_verify_options o = {.damaged = count_damage};
    varve_stats_get(db, &stats);
    CHECK(stats.last_lsn == last_lsn, "LSN %" PRIu64 ", and the repair said %" PRIu64, stats.last_lsn,
          last_lsn);
    for (int i = 0; i < KEYS; i++)
        check_key(db, i, s, last_lsn);
    CHECK(varve_ok(varve_verify(db, &o, &result, NULL)), "verify");
    uint64_t lsn;
    CHECK(varve_ok(varve_put(db, "new", 3, "value", 5, NULL, &lsn)) && lsn == last_lsn + 1, "a write");
    CHECK(varve_ok(varve_compact(db)), "compact");
    for (int i = 0; i < KEYS; i++)
        check_key(db, i, s, last_lsn);
    CHECK(varve_ok(varve_close(db)), "close");
}

/* ---- every damage ---- */

static bool keeps_later;
static uint64_t sound_count, lossless, lossy, rebuilt;

static void try(const image *im, const harm *h, const uint8_t *bytes, size_t count) {
    static said before, s;
    varve_repair_result dry, result, again;
    now = h;
    vv_sim_disk *disk = damaged_disk(im, h->file, bytes, count);
    varve_status st = repair(disk, true, keeps_later, &dry, &before);
    CHECK(varve_ok(st), "dry run: %s", fx_err.text);
    st = repair(disk, false, keeps_later, &result, &s);
    CHECK(varve_ok(st), "repair: %s", fx_err.text);
    CHECK(memcmp(&before, &s, sizeof s) == 0, "a dry run says something else");
    CHECK(dry.sound == result.sound && dry.damage_count == result.damage_count &&
              dry.last_lsn == result.last_lsn,
          "a dry run counts otherwise: LSN %" PRIu64 " and %" PRIu64, dry.last_lsn, result.last_lsn);
    CHECK(result.sound == (s.damages == 0) && s.damages == result.damage_count &&
              s.losses == result.loss_count,
          "counts");
    bool silent = may_be_silent(im, h);
    for (uint64_t lsn = result.last_lsn + 1; lsn <= history_count; lsn++)
        CHECK(s.lsn_lost[lsn] || (silent && lsn == history_count),
              "LSN %" PRIu64 " is gone, and not called lost", lsn);
    CHECK(s.losses == 0 || result.may_resurrect, "no warning");
    sound_count += result.sound;
    lossless += !result.sound && s.losses == 0;
    lossy += s.losses > 0;
    rebuilt += result.manifest_rebuilt;
    check_database(disk, &s, result.last_lsn);
    static said none;
    st = repair(disk, false, keeps_later, &again, &none);
    CHECK(varve_ok(st) && again.sound, "a second repair finds damage: %s", none.first_file);
    vv_sim_disk_destroy(disk);
}

static void repair_everything(bool clean, size_t wanted) {
    uint64_t seed = vv_test_seed();
    image im = make_image(clean);
    damage_each_file(try, &im, wanted, &seed);
    cr_log_info("sound %" PRIu64 ", without loss %" PRIu64 ", with loss %" PRIu64
                ", manifests rebuilt %" PRIu64 "\n",
                sound_count, lossless, lossy, rebuilt);
    cr_assert(sound_count > 0 && lossless > 0 && lossy > 0 && rebuilt > 0);
    free_image(&im);
}

Test(db_repair, a_closed_database_loses_only_what_it_says) {
    compression = "none", index_type = "sparse", style = "tiered";
    repair_everything(true, 60);
}

Test(db_repair, a_database_that_was_killed_loses_only_what_it_says) {
    compression = "zstd", index_type = "dense", style = "leveled";
    keeps_later = true;
    repair_everything(false, 60);
}

/* ---- what it leaves alone ---- */

static uint64_t changes; /* of files and names */

static void count_change(void *arg, const vv_sim_event *e) {
    (void)arg;
    switch (e->op) {
    case VV_SIM_CREATE:
    case VV_SIM_WRITE:
    case VV_SIM_ALLOCATE:
    case VV_SIM_TRUNCATE:
    case VV_SIM_RENAME:
    case VV_SIM_UNLINK:
    case VV_SIM_LINK:
    case VV_SIM_MKDIR:
    case VV_SIM_RMDIR: changes++; break;
    default: break;
    }
}

static const file *find_file(const image *im, const char *part, int nth) {
    for (size_t i = 0; i < im->file_count; i++)
        if (strstr(im->files[i].name, part) && nth-- == 0)
            return &im->files[i];
    cr_assert_fail("no file %s", part);
    return NULL;
}

Test(db_repair, what_is_sound_is_not_touched_and_a_dry_run_touches_nothing) {
    compression = "none", index_type = "sparse", style = "tiered";
    image im = make_image(true);
    varve_repair_result result;
    said s;
    vv_sim_hooks hooks = {.after = count_change};
    harm h = {.file = find_file(&im, "MANIFEST", 0), .kind = "nothing"};
    now = &h;
    vv_sim_disk *disk = damaged_disk(&im, h.file, h.file->bytes, h.file->count);
    vv_sim_disk_set_hooks(disk, &hooks);
    cr_assert(varve_ok(repair(disk, false, false, &result, &s)), "%s", fx_err.text);
    cr_assert(result.sound && result.originals[0] == '\0' && s.damages == 0 && changes == 0);
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){0});
    vv_sim_disk_destroy(disk);

    disk = damaged_disk(&im, h.file, NULL, 0);
    vv_sim_disk_set_hooks(disk, &hooks);
    cr_assert(varve_ok(repair(disk, true, false, &result, &s)), "%s", fx_err.text);
    cr_assert(!result.sound && result.manifest_rebuilt && result.originals[0] == '\0' && changes == 0);
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){0});
    vv_sim_disk_destroy(disk);
    free_image(&im);
}

/* The file of the image, damaged as it was, in the directory that the repair names. */
static void check_original(vv_sim_disk *disk, const varve_repair_result *r, const file *f,
                           const uint8_t *bytes) {
    char path[300];
    vv_error err;
    vv_file *kept;
    size_t got;
    vv_io_backend *io = vv_sim_backend_create(disk);
    uint8_t *read = malloc(f->count + 1);
    snprintf(path, sizeof path, DIR "/%s/%s", r->originals, f->name);
    cr_assert(vv_ok(vv_file_open(io, path, VV_OPEN_READ, &kept, &err)), "%s", err.text);
    cr_assert(vv_ok(vv_file_read(kept, read, f->count + 1, 0, &got)) && got == f->count);
    cr_assert_arr_eq(read, bytes, f->count);
    vv_file_close(kept);
    vv_io_backend_destroy(io);
    free(read);
}

Test(db_repair, all_that_was_there_is_kept) {
    compression = "none", index_type = "sparse", style = "tiered";
    image im = make_image(true);
    varve_repair_result result;
    said s;
    const file *table = find_file(&im, ".sst", 0);
    uint8_t *bytes = malloc(table->count);
    memcpy(bytes, table->bytes, table->count);
    memset(bytes + 4096, 0xaa, 4096);
    harm h = {.file = table, .kind = "a bad block", .offset = 4096, .end = 8192};
    now = &h;
    vv_sim_disk *disk = damaged_disk(&im, table, bytes, table->count);
    cr_assert(varve_ok(repair(disk, false, false, &result, &s)), "%s", fx_err.text);
    cr_assert_eq(s.losses, 1);
    cr_assert(result.tables_kept == 2 && result.tables_rewritten == 1 && result.tables_lost == 0);
    cr_assert_eq(strncmp(result.originals, "repair-20", 9), 0, "%s", result.originals);
    for (size_t i = 0; i < im.file_count; i++)
        if (strcmp(im.files[i].name, "LOCK") != 0)
            check_original(disk, &result, &im.files[i], &im.files[i] == table ? bytes : im.files[i].bytes);
    check_database(disk, &s, history_count);
    vv_sim_disk_destroy(disk);
    free(bytes);
    free_image(&im);
}

/* ---- the log ---- */

Test(db_repair, a_damaged_log_ends_before_the_damage_or_goes_on_behind_it_as_asked) {
    compression = "none", index_type = "sparse", style = "tiered";
    image im = make_image(true);
    varve_repair_result result;
    said s;
    size_t at = 0;
    const file *segment = &im.files[im.newest_segment];
    measure_segment(&im.files[im.newest_segment], history_count - 3, &at);
    uint8_t *bytes = malloc(segment->count);
    memcpy(bytes, segment->bytes, segment->count);
    bytes[at + 100] ^= 1;
    harm h = {.file = segment, .kind = "a record", .offset = at, .end = at + 1};
    now = &h;
    for (int keep = 0; keep < 2; keep++) {
        vv_sim_disk *disk = damaged_disk(&im, segment, bytes, segment->count);
        cr_assert(varve_ok(repair(disk, false, keep, &result, &s)), "%s", fx_err.text);
        cr_assert_eq(result.last_lsn, keep ? history_count : history_count - 4);
        for (uint64_t lsn = 1; lsn <= history_count; lsn++)
            cr_assert_eq(s.lsn_lost[lsn], keep ? lsn == history_count - 3 : lsn >= history_count - 3);
        check_database(disk, &s, result.last_lsn);
        vv_sim_disk_destroy(disk);
    }
    free(bytes);
    free_image(&im);
}

/* ---- cut short ---- */

#define IMAGES_MAX 3000

static vv_sim_disk *cuts[IMAGES_MAX];
static size_t cut_count;

/* Two images of a power cut after each operation: nothing that was not synced, and some of it. */
static void take_cut(void *arg, const vv_sim_event *e) {
    vv_sim_disk *disk = arg;
    if (e->op == VV_SIM_READ || e->op == VV_SIM_OPEN || e->op == VV_SIM_DIR_LIST ||
        cut_count + 2 > IMAGES_MAX)
        return;
    cuts[cut_count++] = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
    cuts[cut_count++] = vv_sim_disk_crash(
        disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SOME, .seed = e->number, .destroys = true});
}

static void cut_short(const image *im, const harm *h, const uint8_t *bytes) {
    static said s, again;
    varve_repair_result result, second;
    now = h;
    vv_sim_disk *disk = damaged_disk(im, h->file, bytes, h->file->count);
    vv_sim_hooks hooks = {.arg = disk, .after = take_cut};
    cut_count = 0;
    vv_sim_disk_set_hooks(disk, &hooks);
    CHECK(varve_ok(repair(disk, false, false, &result, &s)), "repair: %s", fx_err.text);
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){0});
    vv_sim_disk_destroy(disk);
    CHECK(cut_count > 40 && cut_count < IMAGES_MAX, "%zu images", cut_count);
    for (size_t i = 0; i < cut_count; i++) {
        CHECK(varve_ok(repair(cuts[i], false, false, &second, &again)), "image %zu: %s", i, fx_err.text);
        CHECK(second.sound || memcmp(&s, &again, sizeof s) == 0, "image %zu: another outcome: %s", i,
              again.first_file);
        check_database(cuts[i], &s, result.last_lsn);
        vv_sim_disk_destroy(cuts[i]);
    }
}

Test(db_repair, cut_short_after_any_operation_it_can_be_repeated) {
    compression = "none", index_type = "sparse", style = "tiered";
    image im = make_image(true);
    const file *table = find_file(&im, ".sst", 0), *segment = &im.files[im.newest_segment];
    uint8_t *bytes = malloc(segment->count + table->count);
    memcpy(bytes, table->bytes, table->count);
    memset(bytes + 4096, 0xaa, 4096);
    harm bad_block = {.file = table, .kind = "a bad block", .offset = 4096, .end = 8192};
    cut_short(&im, &bad_block, bytes);
    harm gone = {.file = find_file(&im, "MANIFEST", 0), .kind = "removed"};
    cut_short(&im, &gone, NULL);
    size_t at = 0;
    measure_segment(&im.files[im.newest_segment], history_count - 3, &at);
    memcpy(bytes, segment->bytes, segment->count);
    memset(bytes + at, 0xaa, 100);
    harm bad_frame = {.file = segment, .kind = "a bad frame", .offset = at, .end = at + 100};
    cut_short(&im, &bad_frame, bytes);
    free(bytes);
    free_image(&im);
}
