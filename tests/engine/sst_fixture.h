/*
 * sst_fixture.h - what the tests of tables share: a backend, a queue, and tables of generated entries.
 */
#ifndef VV_TESTS_SST_FIXTURE_H
#define VV_TESTS_SST_FIXTURE_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/sst/sst.h"
#include "tests/support/tempdir.h"

typedef struct fixture {
    vv_io_backend *backend;
    vv_io_queue *queue;
    vv_compression compression; /* of the tables that are written */
    vv_index_type index_type;
} fixture;

/* False: this machine has no such backend. */
static inline bool fixture_make_on(vv_io_choice choice, fixture *f) {
    *f = (fixture){0};
    vv_error err = {{0}};
    vv_status st = vv_io_backend_create(choice, NULL, &f->backend, &err);
    if (vv_is(st, VV_UNSUPPORTED))
        return false;
    cr_assert(vv_ok(st), "%s", err.text);
    vv_io_queue_options o = {.depth = 8, .pool_buffer_count = 4, .pool_buffer_bytes = 64 << 10};
    st = vv_io_queue_create(f->backend, &o, &f->queue, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    return true;
}

static inline fixture fixture_make(void) {
    fixture f;
    cr_assert(fixture_make_on(VV_IO_CHOICE_POSIX, &f));
    return f;
}

static inline void fixture_free(fixture *f) {
    vv_io_queue_destroy(f->queue);
    vv_io_backend_destroy(f->backend);
    vv_tempdir_cleanup();
}

/* Entry i of a generated table: ascending keys, every third with `versions` versions. */
typedef struct generator {
    uint64_t count; /* of entries */
    uint32_t value_bytes;
    uint32_t versions; /* of every third key; 0 as 1 */
    uint32_t block_bytes;
    double fp_rate;
} generator;

typedef struct model {
    vv_entry *entries; /* their keys and values owned by `bytes` */
    uint64_t count;
    char *bytes;
} model;

static inline model model_make(const generator *g) {
    model m = {.count = g->count};
    m.entries = calloc(g->count, sizeof *m.entries);
    m.bytes = malloc(g->count * (16 + (size_t)g->value_bytes));
    uint64_t key = 0;
    uint32_t left = 0;
    for (uint64_t i = 0; i < g->count; i++) {
        if (left == 0) {
            key++;
            left = key % 3 == 0 && g->versions ? g->versions : 1;
        }
        left--;
        char *at = m.bytes + i * (16 + (size_t)g->value_bytes);
        snprintf(at, 16, "key%011llu", (unsigned long long)key * 2);
        memset(at + 16, (int)('a' + i % 26), g->value_bytes);
        bool deleted = i % 11 == 10;
        m.entries[i] = (vv_entry){
            .key = vv_slice_make(at, 14),
            .value = vv_slice_make(at + 16, deleted ? 0 : g->value_bytes),
            .lsn = g->count - i, /* descends along the versions of a key */
            .expires_unix_ms = i % 7 == 0 ? i + 1 : 0,
            .kind = deleted ? VV_KIND_DELETE : VV_KIND_PUT,
        };
    }
    return m;
}

static inline void model_free(model *m) {
    free(m->entries);
    free(m->bytes);
}

static inline vv_sst_summary table_write(fixture *f, const char *path, const model *m, uint32_t block_bytes,
                                         double fp_rate) {
    vv_sst_writer_options o = {.queue = f->queue,
                               .backend = f->backend,
                               .path = path,
                               .block_bytes = block_bytes,
                               .filter_fp_rate = fp_rate,
                               .compression = f->compression,
                               .index_type = f->index_type};
    vv_sst_writer *w;
    vv_error err = {{0}};
    vv_status st = vv_sst_writer_create(&o, &w, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    for (uint64_t i = 0; i < m->count; i++)
        cr_assert(vv_ok(vv_sst_writer_add(w, &m->entries[i])));
    vv_sst_summary s;
    st = vv_sst_writer_finish(w, &s, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    vv_sst_writer_destroy(w);
    return s;
}

static inline vv_sst_reader *table_open(fixture *f, const char *path, uint64_t file_number) {
    vv_sst_reader *r;
    vv_error err = {{0}};
    vv_status st = vv_sst_reader_open(f->backend, path, file_number, &r, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    return r;
}

static inline bool entry_equal(const vv_entry *a, const vv_entry *b) {
    return vv_slice_equal(a->key, b->key) && vv_slice_equal(a->value, b->value) && a->lsn == b->lsn &&
           a->kind == b->kind && a->flags == b->flags && a->expires_unix_ms == b->expires_unix_ms;
}

/* The first entry of m at or behind (key, lsn), or the count. */
static inline uint64_t model_lower_bound(const model *m, vv_slice key, uint64_t lsn) {
    uint64_t low = 0, high = m->count;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        if (vv_entry_compare(m->entries[mid].key, m->entries[mid].lsn, key, lsn) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static inline uint8_t *file_read_all(const char *path, size_t *bytes_out) {
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s", path);
    fseek(file, 0, SEEK_END);
    *bytes_out = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*bytes_out + 1);
    cr_assert_eq(fread(bytes, 1, *bytes_out, file), *bytes_out);
    fclose(file);
    return bytes;
}

static inline void file_write_all(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    cr_assert(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

#endif
