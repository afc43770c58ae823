#include "engine/lsm/compaction.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "engine/lsm/merge.h"
#include "engine/lsm/run_iter.h"

#define PATH_BYTES 4096
#define PACE_BYTES (UINT64_C(1) << 20)

/* A merge under way. */
typedef struct merge_job {
    const vv_compaction_plan *plan;
    const vv_compaction_options *o;
    vv_compaction_result *out;
    vv_error *err;
    vv_run *runs; /* of the inputs */
    uint32_t run_count;
    vv_sst_scan_options scan;
    vv_iter *merged;
    bool drop_tombstones;

    /* The output being written. */
    vv_sst_writer *writer;
    uint64_t writer_number;
    uint64_t unpaced_bytes;

    /* The key at hand. */
    uint8_t *key;
    size_t key_bytes;
    size_t key_capacity;
    bool has_key;
    uint64_t kept_stripe; /* of the newest version seen of this key that hides older ones in its stripe */
    bool has_stripe;
} merge_job;

static vv_status no_memory(vv_error *err) {
    return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "compaction: out of memory");
}

/* ---- inputs ---- */

static uint64_t batch_max_lsn(const vv_compaction_plan *plan) {
    uint64_t max = 0;
    for (size_t i = 0; i < plan->input_count; i++)
        max = VV_MAX(max, plan->inputs[i]->summary.max_lsn);
    return max;
}

static bool may_drop_tombstones(const vv_compaction_plan *plan, uint64_t safe_lsn) {
    uint64_t max = batch_max_lsn(plan);
    return plan->bottom && (safe_lsn == 0 || (max > 0 && max <= safe_lsn));
}

/* The inputs, which are in run order, as runs: as few cursors as there are runs, however many tables. */
static bool find_runs(merge_job *j) {
    const vv_compaction_plan *plan = j->plan;
    j->runs = vv_alloc(plan->input_count * sizeof *j->runs);
    if (!j->runs)
        return false;
    for (size_t i = 0; i < plan->input_count; i++) {
        const vv_table *t = plan->inputs[i];
        const vv_run *last = j->run_count > 0 ? &j->runs[j->run_count - 1] : NULL;
        if (!last || last->level != t->level || last->number != t->run)
            j->runs[j->run_count++] =
                (vv_run){.level = t->level, .number = t->run, .tables = &plan->inputs[i]};
        j->runs[j->run_count - 1].table_count++;
    }
    return true;
}

static vv_status open_inputs(merge_job *j) {
    vv_status st = VV_STATUS_OK;
    uint32_t made = 0;
    if (!find_runs(j))
        return no_memory(j->err);
    vv_iter **scans = vv_alloc(j->run_count * sizeof(vv_iter *));
    if (!scans)
        return no_memory(j->err);
    j->scan = (vv_sst_scan_options){.queue = j->o->queue,
                                    .window_bytes = j->o->read_bytes_max / j->run_count,
                                    .cache = j->o->writer.cache,
                                    .memory_bytes = j->o->memory_bytes};
    for (; made < j->run_count; made++) {
        st = vv_run_scan_create(&j->runs[made], j->o->tables, &j->scan, j->err, &scans[made]);
        if (!vv_ok(st))
            break;
    }
    if (vv_ok(st)) {
        st = vv_merge_create(scans, made, &j->merged);
    } else {
        while (made > 0)
            vv_iter_destroy(scans[--made]);
    }
    vv_free(scans);
    return st;
}

static void close_inputs(merge_job *j) {
    vv_iter_destroy(j->merged);
    vv_free(j->runs);
    vv_free(j->key);
}

/* ---- outputs ---- */

static vv_status open_output(merge_job *j) {
    char path[PATH_BYTES];
    j->writer_number = j->o->next_file_number(j->o->arg);
    vv_table_cache_path(j->o->dir, j->writer_number, path, sizeof path);
    vv_sst_writer_options wo = j->o->writer;
    wo.queue = j->o->queue;
    wo.path = path;
    wo.file_number = j->writer_number;
    return vv_sst_writer_create(&wo, &j->writer, j->err);
}

static vv_status close_output(merge_job *j) {
    if (!j->writer)
        return VV_STATUS_OK;
    size_t n = j->out->output_count;
    struct vv_compaction_output *grown = vv_realloc(j->out->outputs, (n + 1) * sizeof *grown);
    if (!grown)
        return no_memory(j->err);
    j->out->outputs = grown;
    vv_status st = vv_sst_writer_finish(j->writer, &grown[n].summary, j->err);
    if (!vv_ok(st))
        return st;
    vv_sst_writer_destroy(j->writer);
    j->writer = NULL;
    grown[n].file_number = j->writer_number;
    j->out->output_count++;
    j->out->output_bytes += grown[n].summary.file_bytes;
    return VV_STATUS_OK;
}

static void remove_output(const vv_compaction_options *o, uint64_t file_number) {
    char path[PATH_BYTES];
    vv_table_cache_path(o->dir, file_number, path, sizeof path);
    if (o->writer.cache)
        vv_block_cache_erase_file(o->writer.cache, file_number);
    vv_status_ignore(vv_path_unlink(o->writer.backend, path, NULL), "an orphan is removed by the next open");
}

static vv_status write_entry(merge_job *j, const vv_entry *e) {
    if (!j->writer)
        VV_TRY(open_output(j));
    VV_TRY(vv_sst_writer_add(j->writer, e));
    j->out->written_entries++;
    return VV_STATUS_OK;
}

/* ---- what stays ---- */

static bool is_hidden(const vv_compaction_options *o, uint64_t lsn) {
    return o->hidden_from_lsn != 0 && lsn >= o->hidden_from_lsn;
}

/* The oldest snapshot that sees an entry of this LSN, VV_LSN_MAX for the present alone. Versions of a key in
 * one stripe are seen by the same readers: only the newest of them matters. One that is hidden has a stripe
 * of its own: the present may come to be just there. */
static uint64_t stripe_of(const vv_compaction_options *o, uint64_t lsn) {
    if (is_hidden(o, lsn))
        return lsn;
    size_t low = 0, high = o->snapshot_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (o->snapshots[middle] < lsn)
            low = middle + 1;
        else
            high = middle;
    }
    return low < o->snapshot_count ? o->snapshots[low] : VV_LSN_MAX;
}

/* Nothing older of the key is kept for anyone. */
static bool in_oldest_stripe(const vv_compaction_options *o, uint64_t lsn, uint64_t stripe) {
    return !is_hidden(o, lsn) && (o->snapshot_count == 0 || stripe == o->snapshots[0]);
}

/* Remember the key at hand; true if it is another than before. */
static vv_status note_key(merge_job *j, vv_slice key, bool *new_out) {
    *new_out = !j->has_key || !vv_slice_equal(key, vv_slice_make(j->key, j->key_bytes));
    if (!*new_out)
        return VV_STATUS_OK;
    if (key.bytes > j->key_capacity) {
        uint8_t *grown = vv_realloc(j->key, key.bytes);
        if (!grown)
            return no_memory(j->err);
        j->key = grown;
        j->key_capacity = key.bytes;
    }
    memcpy(j->key, key.data, key.bytes);
    j->key_bytes = key.bytes;
    j->has_key = true;
    j->has_stripe = false;
    return VV_STATUS_OK;
}

/* Outputs are cut only between keys, so that the tables of a run never share one. */
static vv_status maybe_cut(merge_job *j) {
    if (j->writer && vv_sst_writer_bytes(j->writer) >= j->o->output_bytes)
        return close_output(j);
    return VV_STATUS_OK;
}

static vv_status merge_entry(merge_job *j, const vv_entry *in) {
    bool new_key;
    vv_entry e = *in;
    j->out->read_entries++;
    VV_TRY(note_key(j, e.key, &new_key));
    if (new_key)
        VV_TRY(maybe_cut(j));
    uint64_t stripe = stripe_of(j->o, e.lsn);
    if (j->has_stripe && stripe == j->kept_stripe) {
        j->out->dropped_versions++;
        return VV_STATUS_OK;
    }
    j->kept_stripe = stripe;
    j->has_stripe = true;
    if (vv_entry_expired(&e, j->o->now_unix_ms)) {
        e.kind = VV_KIND_DELETE;
        e.value = vv_slice_make(NULL, 0);
        e.expires_unix_ms = 0;
    }
    if (e.kind == VV_KIND_DELETE && j->drop_tombstones && in_oldest_stripe(j->o, e.lsn, stripe)) {
        j->out->dropped_tombstones++;
        return VV_STATUS_OK;
    }
    return write_entry(j, &e);
}

static vv_status pace(merge_job *j, const vv_entry *e) {
    j->unpaced_bytes += e->key.bytes + e->value.bytes;
    if (j->unpaced_bytes < PACE_BYTES)
        return VV_STATUS_OK;
    uint64_t bytes = j->unpaced_bytes;
    j->unpaced_bytes = 0;
    return j->o->pace(j->o->arg, bytes) ? VV_STATUS_OK : vv_status_make(VV_BUSY, VV_SUB_NONE, 0);
}

static vv_status merge_all(merge_job *j) {
    vv_status st = VV_STATUS_OK;
    for (vv_iter_seek_first(j->merged); j->merged->valid; vv_iter_next(j->merged)) {
        VV_TRY(pace(j, &j->merged->entry));
        st = merge_entry(j, &j->merged->entry);
        if (!vv_ok(st))
            return st;
    }
    VV_TRY(j->merged->status);
    /* Also what is left, for a merge may be small; one that is complete is not thrown away any more. */
    (void)j->o->pace(j->o->arg, j->unpaced_bytes);
    return close_output(j);
}

vv_status vv_compaction_run(const vv_compaction_plan *plan, const vv_compaction_options *o,
                            vv_compaction_result *out, vv_error *err) {
    merge_job j = {.plan = plan, .o = o, .out = out, .err = err};
    if (err)
        err->text[0] = '\0';
    *out = (vv_compaction_result){0};
    j.drop_tombstones = may_drop_tombstones(plan, o->safe_lsn);
    vv_status st = open_inputs(&j);
    if (vv_ok(st))
        st = merge_all(&j);
    if (!vv_ok(st))
        st = vv_wrap(err, st, "compaction");
    if (j.writer) {
        vv_sst_writer_destroy(j.writer);
        remove_output(o, j.writer_number);
    }
    close_inputs(&j);
    if (!vv_ok(st)) {
        vv_compaction_result_unlink(out, o);
        vv_compaction_result_deinit(out);
    }
    return st;
}

void vv_compaction_result_deinit(vv_compaction_result *r) {
    for (size_t i = 0; i < r->output_count; i++)
        vv_sst_summary_deinit(&r->outputs[i].summary);
    vv_free(r->outputs);
    *r = (vv_compaction_result){0};
}

void vv_compaction_result_unlink(const vv_compaction_result *r, const vv_compaction_options *o) {
    for (size_t i = 0; i < r->output_count; i++)
        remove_output(o, r->outputs[i].file_number);
}
