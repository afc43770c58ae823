/*
 * fuzz_manifest.c - manifests of all versions.
 *
 *   input   [flags:1][manifest]      flags   bit 0: file_bytes and checksum are made right
 *
 * What holds for any bytes: a manifest that is accepted is sound (epochs, slots, tables), its tables make
 * a version, its remembered writes load or are refused; and encoded again, decoded and encoded once more
 * it gives the same bytes.
 *
 * Bound: no allocation is larger than twice the file and 16 KiB.
 */
#include "engine/db/retry.h"
#include "engine/lsm/manifest.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/fuzz.h"

#include "base/alloc.h"

typedef struct decoded {
    vv_manifest manifest;
    vv_table **tables;
    size_t table_count;
} decoded;

static void drop(void *arg, uint64_t file_number) {
    (void)arg;
    FUZZ_CHECK(file_number != file_number, "no table is obsolete here");
}

static bool decode(vv_slice bytes, decoded *d) {
    vv_error err;
    vv_status st = vv_manifest_decode(bytes.data, bytes.bytes, "MANIFEST", &d->manifest, &d->tables,
                                      &d->table_count, drop, NULL, &err);
    return vv_ok(st);
}

static void release(decoded *d) {
    for (size_t i = 0; i < d->table_count; i++)
        vv_table_unref(d->tables[i]);
    vv_free(d->tables);
    vv_manifest_deinit(&d->manifest);
}

static void encode(const decoded *d, uint8_t **out, size_t *bytes_out) {
    vv_version *version = vv_version_create(d->tables, d->table_count);
    FUZZ_CHECK(version);
    vv_status st = vv_manifest_encode(&d->manifest, version, out, bytes_out);
    FUZZ_CHECK(vv_ok(st));
    vv_version_unref(version);
}

static void check_sound(const vv_manifest *m) {
    FUZZ_CHECK(vv_epochs_are_sound(m->epochs.items, m->epochs.count));
    FUZZ_CHECK(m->promised_epoch >= vv_manifest_epoch(m) && m->slot_count <= VV_SLOTS_MAX);
    for (uint32_t i = 0; i < m->slot_count; i++)
        FUZZ_CHECK(vv_slot_name_is_sound(m->slots[i].name, strlen(m->slots[i].name)));
}

static void load_retry(const vv_manifest *m) {
    vv_retry_table *t = calloc(1, sizeof *t);
    vv_retry_image *image;
    FUZZ_CHECK(t);
    vv_retry_init(t);
    vv_status st = vv_retry_load(t, m->retry, m->flushed_lsn);
    if (vv_ok(st)) {
        st = vv_retry_image_take(t, &image);
        FUZZ_CHECK(vv_ok(st));
        FUZZ_CHECK(vv_slice_equal(vv_retry_image_bytes(image), m->retry));
        vv_retry_image_unref(image);
    }
    vv_retry_deinit(t);
    free(t);
}

static void go_round(const decoded *first) {
    uint8_t *once, *twice;
    size_t once_bytes, twice_bytes;
    decoded *second = calloc(1, sizeof *second);
    encode(first, &once, &once_bytes);
    FUZZ_CHECK(second && decode(vv_slice_make(once, once_bytes), second));
    FUZZ_CHECK(second->table_count == first->table_count);
    encode(second, &twice, &twice_bytes);
    FUZZ_CHECK(once_bytes == twice_bytes && memcmp(once, twice, once_bytes) == 0);
    release(second);
    vv_free(once);
    vv_free(twice);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    bool fix = vv_read_u8(&r) & 1;
    vv_slice rest = fuzz_rest(&r);
    uint8_t *file = fuzz_copy(rest);
    if (fix)
        fuzz_fix_manifest(file, rest.bytes);
    decoded *d = calloc(1, sizeof *d);
    FUZZ_CHECK(d);
    fuzz_allocation_max(2 * rest.bytes + (16 << 10));
    if (decode(vv_slice_make(file, rest.bytes), d)) {
        check_sound(&d->manifest);
        load_retry(&d->manifest);
        go_round(d);
        release(d);
    }
    fuzz_allocation_max(0);
    free(d);
    free(file);
    return 0;
}
