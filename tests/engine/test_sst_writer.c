/*
 * What the writer acknowledges, and when.
 */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "engine/sst/block_cache.h"
#include "tests/engine/io_spy.h"
#include "tests/engine/sst_fixture.h"

/* A queue whose calls are seen, in place of the fixture's. */
static void spy_queue(fixture *f, uint32_t fail_at, int fail_errno) {
    vv_io_queue_destroy(f->queue);
    spy_on(f->backend, fail_at, fail_errno);
    vv_io_queue_options o = {.depth = 8, .pool_buffer_count = 2, .pool_buffer_bytes = 64 << 10};
    cr_assert(vv_ok(vv_io_queue_create(f->backend, &o, &f->queue, NULL)));
}

static const generator several_pieces = {
    .count = 2000, .value_bytes = 100, .block_bytes = 4096, .fp_rate = 0.01};

static vv_sst_writer_options options_of(fixture *f, const char *path) {
    return (vv_sst_writer_options){
        .queue = f->queue, .backend = f->backend, .path = path, .block_bytes = 4096, .filter_fp_rate = 0.01};
}

Test(sst_writer, syncs_once_after_everything_was_written_and_cut) {
    fixture f = fixture_make();
    spy_queue(&f, 0, 0);
    model m = model_make(&several_pieces);
    vv_sst_summary s = table_write(&f, vv_tempdir_path("t.sst"), &m, 4096, 0.01);
    size_t writes = 0, done = 0;
    for (const char *at = spy.log; *at; at++) {
        writes += *at == 'w';
        done += *at == 'd';
        cr_assert_leq(writes - done, 2);
        if (*at == 't' || *at == 'S')
            cr_assert_eq(done, writes, "%s", spy.log);
    }
    cr_assert_geq(writes, 3);
    cr_assert_str_eq(spy.log + strlen(spy.log) - 2, "tS");
    cr_assert_eq(strchr(spy.log, 't'), spy.log + strlen(spy.log) - 2);
    vv_sst_summary_deinit(&s);
    model_free(&m);
    fixture_free(&f);
}

/* Write a table with the n-th call failing; false: there was no n-th call. */
static bool write_with_failure(fixture *f, const model *m, uint32_t n, int sys) {
    const char *path = vv_tempdir_path("t.sst");
    unlink(path);
    spy_queue(f, n, sys);
    vv_sst_writer_options o = options_of(f, path);
    vv_sst_writer *w;
    cr_assert(vv_ok(vv_sst_writer_create(&o, &w, NULL)));
    vv_status st = VV_STATUS_OK;
    for (uint64_t i = 0; i < m->count; i++) {
        vv_status before = st;
        st = vv_sst_writer_add(w, &m->entries[i]);
        cr_assert(vv_ok(before) || st.code == before.code, "a failure is final");
    }
    vv_sst_summary s;
    vv_error err = {{0}};
    st = vv_sst_writer_finish(w, &s, &err);
    bool failed = spy.calls >= n;
    if (failed) {
        cr_assert_eq(st.code, vv_status_errno(sys).code, "call %u: %s", n, vv_code_name(st.code));
        cr_assert_eq(st.sys, sys);
        cr_assert(strstr(err.text, path), "%s", err.text);
        cr_assert_null(s.first_key);
    } else {
        cr_assert(vv_ok(st));
        vv_sst_summary_deinit(&s);
    }
    vv_sst_writer_destroy(w);
    cr_assert_eq(f->queue->in_flight, 0);
    return failed;
}

Test(sst_writer, no_failed_call_ends_in_ok) {
    static const int errors[] = {ENOSPC, EIO};
    fixture f = fixture_make();
    model m = model_make(&several_pieces);
    for (size_t i = 0; i < VV_ARRAY_COUNT(errors); i++) {
        uint32_t n = 1;
        while (write_with_failure(&f, &m, n, errors[i]))
            n++;
        cr_assert_geq(n, 6); /* three pieces, the cut and the sync at least */
    }
    model_free(&m);
    fixture_free(&f);
}

Test(sst_writer, a_failed_sync_is_not_tried_again) {
    fixture f = fixture_make();
    model m = model_make(&(generator){.count = 5, .value_bytes = 5, .block_bytes = 4096, .fp_rate = 0.01});
    /* One piece, the cut, the sync. */
    cr_assert(write_with_failure(&f, &m, 3, EIO));
    cr_assert_str_eq(spy.log, "wdtS");
    model_free(&m);
    fixture_free(&f);
}

/* What a table of `count` values takes, and whether all of them are found there. */
static uint64_t bytes_of(fixture *f, uint32_t units_max, uint64_t count, uint32_t value_bytes) {
    const char *path = vv_tempdir_path("t.sst");
    unlink(path);
    vv_sst_writer_options o = options_of(f, path);
    o.block_units_max = units_max;
    vv_sst_writer *w;
    vv_sst_summary s;
    vv_sst_reader *r;
    vv_block_cache *c;
    vv_iter *it;
    model m = model_make(
        &(generator){.count = count, .value_bytes = value_bytes, .block_bytes = 4096, .fp_rate = 0.01});
    cr_assert(vv_ok(vv_sst_writer_create(&o, &w, NULL)));
    for (uint64_t i = 0; i < m.count; i++)
        cr_assert(vv_ok(vv_sst_writer_add(w, &m.entries[i])));
    cr_assert(vv_ok(vv_sst_writer_finish(w, &s, NULL)));
    vv_sst_writer_destroy(w);
    cr_assert(vv_ok(vv_sst_reader_open(f->backend, path, 1, &r, NULL)));
    cr_assert(vv_ok(vv_block_cache_create(1 << 20, &c)));
    cr_assert(vv_ok(vv_sst_iter_create(r, c, NULL, &it)));
    uint64_t i = 0;
    for (vv_iter_seek_first(it); it->valid; vv_iter_next(it), i++)
        cr_assert(vv_slice_equal(it->entry.key, m.entries[i].key) &&
                  vv_slice_equal(it->entry.value, m.entries[i].value));
    cr_assert_eq(i, m.count);
    vv_iter_destroy(it);
    vv_block_cache_destroy(c);
    uint64_t bytes = s.file_bytes;
    vv_sst_summary_deinit(&s);
    vv_sst_reader_close(r);
    model_free(&m);
    return bytes;
}

Test(sst_writer, larger_blocks_leave_less_of_them_empty) {
    fixture f = fixture_make();
    uint64_t alone = bytes_of(&f, 0, 400, 1024), wide = bytes_of(&f, 4, 400, 1024);
    cr_assert_lt(wide, alone - alone / 6, "%llu of %llu bytes", (unsigned long long)wide,
                 (unsigned long long)alone);
    cr_assert_eq(bytes_of(&f, 0, 400, 60), bytes_of(&f, 4, 400, 60), "small ones fill a block");
    cr_assert_leq(bytes_of(&f, 4, 100, 5000), bytes_of(&f, 1, 100, 5000));
    cr_assert_eq(bytes_of(&f, 4, 20, 20000), bytes_of(&f, 1, 20, 20000), "each is larger than four");
    fixture_free(&f);
}

Test(sst_writer, does_not_replace_a_file) {
    fixture f = fixture_make();
    const char *path = vv_tempdir_path("t.sst");
    file_write_all(path, "precious", 8);
    vv_sst_writer_options o = options_of(&f, path);
    vv_sst_writer *w;
    vv_error err = {{0}};
    cr_assert(vv_is(vv_sst_writer_create(&o, &w, &err), VV_EXISTS));
    cr_assert_null(w);
    size_t bytes;
    uint8_t *content = file_read_all(path, &bytes);
    cr_assert(bytes == 8 && memcmp(content, "precious", 8) == 0);
    free(content);
    fixture_free(&f);
}

Test(sst_writer, a_queue_without_free_buffers_is_reported) {
    fixture f = fixture_make();
    void *taken[3];
    for (int i = 0; i < 3; i++)
        taken[i] = vv_io_buffer_take(f.queue);
    vv_sst_writer_options o = options_of(&f, vv_tempdir_path("t.sst"));
    vv_sst_writer *w;
    cr_assert(vv_is(vv_sst_writer_create(&o, &w, NULL), VV_BUSY));
    cr_assert_neq(access(o.path, F_OK), 0, "no file stays behind");
    for (int i = 0; i < 3; i++)
        vv_io_buffer_give(f.queue, taken[i]);
    fixture_free(&f);
}

Test(sst_writer, gives_its_buffers_back_when_it_gives_up) {
    fixture f = fixture_make();
    model m = model_make(&several_pieces);
    for (int n = 0; n < 5; n++) {
        const char *path = vv_tempdir_path("t.sst");
        unlink(path);
        vv_sst_writer_options o = options_of(&f, path);
        vv_sst_writer *w;
        cr_assert(vv_ok(vv_sst_writer_create(&o, &w, NULL)));
        for (uint64_t i = 0; i < m.count; i++)
            cr_assert(vv_ok(vv_sst_writer_add(w, &m.entries[i])));
        cr_assert_geq(vv_sst_writer_bytes(w), m.count * 130);
        vv_sst_writer_destroy(w);
    }
    model_free(&m);
    fixture_free(&f);
}

Test(sst_writer, entries_out_of_order_stop_the_process, .signal = SIGABRT) {
    fixture f = fixture_make();
    vv_sst_writer_options o = options_of(&f, vv_tempdir_path("t.sst"));
    vv_sst_writer *w;
    cr_assert(vv_ok(vv_sst_writer_create(&o, &w, NULL)));
    vv_entry e = {.key = vv_slice_str("k"), .lsn = 5, .kind = VV_KIND_PUT};
    cr_assert(vv_ok(vv_sst_writer_add(w, &e)));
    vv_tempdir_cleanup();
    e.lsn = 6; /* a newer version comes first */
    vv_status_ignore(vv_sst_writer_add(w, &e), "aborts");
}
