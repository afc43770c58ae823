#include "engine/lsm/run_iter.h"

#include "base/alloc.h"

typedef struct run_iter {
    vv_iter base;
    const vv_run *run;
    vv_table_cache *tables;
    vv_block_cache *blocks;
    const vv_sst_fetcher *fetcher;
    const vv_sst_scan_options *scan; /* instead of the two above; or NULL */
    vv_error *err;
    size_t index;          /* of the open table, or of the one that could not be opened */
    vv_sst_reader *reader; /* pinned; NULL: none is open */
    vv_table_pin pin;
    vv_iter *inner;
} run_iter;

static void close_table(run_iter *r) {
    vv_iter_destroy(r->inner);
    if (r->reader)
        vv_table_cache_release(r->tables, r->reader, r->pin);
    r->inner = NULL;
    r->reader = NULL;
}

/* Without a lock if the table is open already. */
static vv_status pin_reader(run_iter *r, uint64_t file_number) {
    r->reader = vv_table_cache_peek(r->tables, file_number, &r->pin);
    if (r->reader)
        return VV_STATUS_OK;
    r->pin = VV_TABLE_PIN_SHARED;
    return vv_table_cache_get(r->tables, file_number, &r->reader, r->err);
}

/* Make table `index` the open one; false: it can't be opened, which the status then says. */
static bool open_table(run_iter *r, size_t index) {
    if (r->inner && r->index == index)
        return true;
    close_table(r);
    r->index = index;
    vv_status st = pin_reader(r, r->run->tables[index]->file_number);
    if (vv_ok(st))
        st = r->scan ? vv_sst_scan_create(r->reader, r->scan, &r->inner)
                     : vv_sst_iter_create(r->reader, r->blocks, r->fetcher, &r->inner);
    if (vv_ok(st) && !r->scan)
        vv_sst_iter_show_at(r->inner, &r->base.entry);
    if (!vv_ok(st)) {
        close_table(r);
        r->base.status = st;
        if (r->scan)
            vv_table_note_failure(r->run->tables[index], st);
        return false;
    }
    return true;
}

static void show(run_iter *r) {
    r->base.valid = r->inner && r->inner->valid;
    if (r->base.valid && r->scan) /* else it is there already */
        r->base.entry = r->inner->entry;
    else if (!r->base.valid && r->inner)
        vv_status_keep(&r->base.status, r->inner->status);
    if (r->scan && r->inner && !vv_ok(r->inner->status))
        vv_table_note_failure(r->run->tables[r->index], r->inner->status);
}

/* The open table has no more: go on with the first entry of the next. */
static void settle_forward(run_iter *r) {
    while (!r->inner->valid && vv_ok(r->inner->status) && r->index + 1 < r->run->table_count) {
        if (!open_table(r, r->index + 1))
            break;
        vv_iter_seek_first(r->inner);
    }
    show(r);
}

static void settle_backward(run_iter *r) {
    while (!r->inner->valid && vv_ok(r->inner->status) && r->index > 0) {
        if (!open_table(r, r->index - 1))
            break;
        vv_iter_seek_last(r->inner);
    }
    show(r);
}

static void destroy(vv_iter *it) {
    run_iter *r = (run_iter *)it;
    close_table(r);
    vv_free(r);
}

/* Whatever failed before is over: another table, or another block, may be readable. */
static void start(vv_iter *it) {
    it->valid = false;
    it->status = VV_STATUS_OK;
}

static void seek_first(vv_iter *it) {
    run_iter *r = (run_iter *)it;
    start(it);
    if (!open_table(r, 0))
        return;
    vv_iter_seek_first(r->inner);
    settle_forward(r);
}

static void seek_last(vv_iter *it) {
    run_iter *r = (run_iter *)it;
    start(it);
    if (!open_table(r, r->run->table_count - 1))
        return;
    vv_iter_seek_last(r->inner);
    settle_backward(r);
}

/* How many tables of the run end before `key`. */
static size_t tables_before(const run_iter *r, vv_slice key) {
    size_t low = 0, high = r->run->table_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (vv_slice_compare(vv_table_last_key(r->run->tables[middle]), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void seek(vv_iter *it, vv_slice key, uint64_t lsn) {
    run_iter *r = (run_iter *)it;
    size_t index = tables_before(r, key);
    start(it);
    if (index == r->run->table_count || !open_table(r, index))
        return;
    vv_iter_seek(r->inner, key, lsn);
    settle_forward(r);
}

static void seek_back(vv_iter *it, vv_slice key, uint64_t lsn) {
    run_iter *r = (run_iter *)it;
    size_t index = tables_before(r, key);
    start(it);
    /* The table whose range holds the key, else the one before it. */
    if (index == r->run->table_count ||
        (index > 0 && vv_slice_compare(vv_table_first_key(r->run->tables[index]), key) > 0))
        index--;
    if (!open_table(r, index))
        return;
    vv_iter_seek_back(r->inner, key, lsn);
    settle_backward(r);
}

static void next(vv_iter *it) {
    run_iter *r = (run_iter *)it;
    vv_iter_next(r->inner);
    if (VV_UNLIKELY(r->scan || !r->inner->valid))
        settle_forward(r);
}

static void prev(vv_iter *it) {
    run_iter *r = (run_iter *)it;
    vv_iter_prev(r->inner);
    settle_backward(r);
}

/* Of the block, or of the whole table if that can't be opened. */
static bool damage(const vv_iter *it, vv_slice *first_out, vv_slice *last_out) {
    const run_iter *r = (const run_iter *)it;
    if (r->inner)
        return vv_iter_damage(r->inner, first_out, last_out);
    *first_out = vv_table_first_key(r->run->tables[r->index]);
    *last_out = vv_table_last_key(r->run->tables[r->index]);
    return true;
}

static const vv_iter_ops ops = {.destroy = destroy,
                                .seek_first = seek_first,
                                .seek_last = seek_last,
                                .seek = seek,
                                .seek_back = seek_back,
                                .next = next,
                                .prev = prev,
                                .damage = damage};

static vv_status create(const run_iter *parts, vv_iter **out) {
    *out = NULL;
    run_iter *r = vv_alloc(sizeof *r);
    if (!r)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    *r = *parts;
    r->base.ops = &ops;
    *out = &r->base;
    return VV_STATUS_OK;
}

vv_status vv_run_iter_create(const vv_run *run, vv_table_cache *tables, vv_block_cache *blocks,
                             const vv_sst_fetcher *fetcher, vv_iter **out) {
    run_iter parts = {.run = run, .tables = tables, .blocks = blocks, .fetcher = fetcher};
    return create(&parts, out);
}

vv_status vv_run_scan_create(const vv_run *run, vv_table_cache *tables, const vv_sst_scan_options *o,
                             vv_error *err, vv_iter **out) {
    run_iter parts = {.run = run, .tables = tables, .scan = o, .err = err};
    return create(&parts, out);
}
