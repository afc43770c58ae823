/*
 * reader.c - opens a table and answers which block may hold a key.
 *
 * Opening reads the end of the file once (twice if index and filter are large), and believes none of it
 * before its checksum is right: the footer says where the index block is, the index block holds its own
 * checksum and those of the footer and the filter. No length from the file is used before it was compared
 * with the size of the file.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/sst/sst_impl.h"

#define TAIL_BYTES (UINT64_C(64) << 10) /* read at first: holds the whole tail of a small table */

/* The end of a file in memory. */
typedef struct tail {
    uint8_t *data;
    uint64_t offset; /* in the file, aligned */
    uint64_t bytes;  /* to the end of the file */
} tail;

static vv_status corruption(vv_sub sub) {
    return vv_status_make(VV_CORRUPTION, sub, 0);
}

static vv_status fail_part(vv_sst_reader *r, vv_status st, const char *part, uint64_t offset, vv_error *err) {
    r->damage_offset = offset;
    return vv_fail(err, st, "%s: %s at %" PRIu64 ": %s", r->path, part, offset,
                   st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

static vv_status read_tail(vv_sst_reader *r, uint64_t offset, uint64_t file_bytes, tail *t, vv_error *err) {
    offset = offset / VV_IO_ALIGN_BYTES * VV_IO_ALIGN_BYTES;
    uint64_t want = file_bytes - offset;
    uint64_t aligned = vv_align_up(want, VV_IO_ALIGN_BYTES);
    uint8_t *data = vv_alloc_aligned(VV_IO_ALIGN_BYTES, aligned);
    if (!data)
        return fail_part(r, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "end of file", offset, err);
    vv_free(t->data);
    *t = (tail){.data = data, .offset = offset, .bytes = want};
    size_t got;
    vv_status st = vv_file_read(r->file, data, aligned, offset, &got);
    if (vv_ok(st) && got < want)
        st = corruption(VV_SUB_TRUNCATED);
    return vv_ok(st) ? st : fail_part(r, st, "end of file", offset, err);
}

static vv_slice tail_slice(const tail *t, uint64_t offset, uint64_t bytes) {
    VV_ASSERT(offset >= t->offset && bytes <= t->bytes && offset - t->offset <= t->bytes - bytes);
    return vv_slice_make(t->data + (offset - t->offset), bytes);
}

static vv_status check_sum(const tail *t, uint64_t offset, uint64_t bytes, uint64_t table_id, uint64_t want) {
    vv_slice part = tail_slice(t, offset, bytes);
    if (vv_checksum(part.data, part.bytes, vv_sst_seed(table_id, offset)) != want)
        return corruption(VV_SUB_CHECKSUM);
    return VV_STATUS_OK;
}

static vv_status load_parts(vv_sst_reader *r, const tail *t, const vv_sst_footer *f, uint64_t footer_offset,
                            vv_error *err) {
    vv_status st =
        vv_sst_index_open(&r->index, tail_slice(t, f->index_offset, f->index_bytes), f->index_offset);
    if (!vv_ok(st))
        return fail_part(r, st, "index block", f->index_offset, err);
    const vv_sst_index_head *head = &r->index.head;
    /* Each field of today's footer would be found out without it: by the seeds of what it points to, and by
     * comparison. It is there so that every byte is covered, whatever comes to stand in it. */
    st = check_sum(t, footer_offset, VV_SST_FOOTER_BYTES, head->table_id, head->footer_checksum);
    if (vv_ok(st) && (f->item_count != head->item_count || f->max_lsn != head->max_lsn))
        st = corruption(VV_SUB_BAD_LAYOUT);
    if (!vv_ok(st))
        return fail_part(r, st, "footer", footer_offset, err);
    if (f->filter_bytes == 0)
        return VV_STATUS_OK;
    st = check_sum(t, f->filter_offset, f->filter_bytes, head->table_id, head->filter_checksum);
    if (vv_ok(st))
        st = vv_sst_filter_open(&r->filter, tail_slice(t, f->filter_offset, f->filter_bytes));
    return vv_ok(st) ? st : fail_part(r, st, "filter block", f->filter_offset, err);
}

static vv_status load(vv_sst_reader *r, tail *t, vv_error *err) {
    uint64_t file_bytes;
    vv_status st = vv_file_size(r->file, &file_bytes);
    if (!vv_ok(st))
        return fail_part(r, st, "size", 0, err);
    if (file_bytes < VV_SST_FOOTER_BYTES)
        return fail_part(r, corruption(VV_SUB_TRUNCATED), "footer", 0, err);
    uint64_t footer_offset = file_bytes - VV_SST_FOOTER_BYTES;
    VV_TRY(read_tail(r, file_bytes > TAIL_BYTES ? file_bytes - TAIL_BYTES : 0, file_bytes, t, err));
    vv_sst_footer f;
    st = vv_sst_footer_decode(tail_slice(t, footer_offset, VV_SST_FOOTER_BYTES).data, file_bytes, &f);
    if (!vv_ok(st))
        return fail_part(r, st, "footer", footer_offset, err);
    if (f.index_offset < t->offset)
        VV_TRY(read_tail(r, f.index_offset, file_bytes, t, err));
    return load_parts(r, t, &f, footer_offset, err);
}

vv_status vv_sst_reader_open_at(vv_io_backend *b, const char *path, uint64_t file_number, vv_sst_reader **out,
                                uint64_t *offset_out, vv_error *err) {
    *out = NULL;
    *offset_out = 0;
    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_sst_reader *r = vv_alloc_zeroed(sizeof *r);
    tail t = {0};
    if (r)
        r->path = vv_strdup(path);
    if (!r || !r->path) {
        st = vv_fail(err, st, "%s: no memory for a table reader", path);
        goto fail;
    }
    r->file_number = file_number;
    st = vv_file_open(b, path, VV_OPEN_READ | VV_OPEN_DIRECT | VV_OPEN_RANDOM, &r->file, err);
    if (!vv_ok(st))
        goto fail;
    st = load(r, &t, err);
    if (!vv_ok(st))
        goto fail;
    r->memo = vv_alloc_zeroed(sizeof *r->memo + r->index.head.block_count * sizeof r->memo->frames[0]);
    if (!r->memo) {
        st = vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s: no memory for a table reader",
                     path);
        goto fail;
    }
    vv_free(t.data);
    *out = r;
    return VV_STATUS_OK;

fail:
    vv_free(t.data);
    if (r)
        *offset_out = r->damage_offset;
    vv_sst_reader_close(r);
    return st;
}

vv_status vv_sst_reader_open(vv_io_backend *b, const char *path, uint64_t file_number, vv_sst_reader **out,
                             vv_error *err) {
    uint64_t offset;
    return vv_sst_reader_open_at(b, path, file_number, out, &offset, err);
}

void vv_sst_reader_close(vv_sst_reader *r) {
    if (!r)
        return;
    vv_file_close(r->file);
    vv_sst_index_close(&r->index);
    vv_sst_filter_close(&r->filter);
    vv_free(r->memo);
    vv_free(r->path);
    vv_free(r);
}

vv_file *vv_sst_reader_file(const vv_sst_reader *r) {
    return r->file;
}

uint64_t vv_sst_reader_file_number(const vv_sst_reader *r) {
    return r->file_number;
}

const char *vv_sst_reader_path(const vv_sst_reader *r) {
    return r->path;
}

uint64_t vv_sst_reader_item_count(const vv_sst_reader *r) {
    return r->index.head.item_count;
}

uint64_t vv_sst_reader_max_lsn(const vv_sst_reader *r) {
    return r->index.head.max_lsn;
}

void vv_sst_reader_describe(const vv_sst_reader *r, vv_sst_description *out) {
    const vv_sst_index_head *head = &r->index.head;
    uint64_t filter_bytes =
        r->filter.lines ? VV_SST_FILTER_HEAD_BYTES + (uint64_t)r->filter.line_count * VV_SST_FILTER_LINE_BYTES
                        : 0;
    *out = (vv_sst_description){.format_version = VV_SST_FORMAT_VERSION,
                                .file_bytes = head->data_bytes + r->index.bytes_count + filter_bytes +
                                              VV_SST_FOOTER_BYTES,
                                .table_id = head->table_id,
                                .created_unix_ms = head->created_unix_ms,
                                .item_count = head->item_count,
                                .min_lsn = head->min_lsn,
                                .max_lsn = head->max_lsn,
                                .block_count = head->block_count,
                                .block_bytes = head->block_bytes,
                                .data_bytes = head->data_bytes,
                                .index_bytes = r->index.bytes_count,
                                .index_type = head->type,
                                .filter_bytes = filter_bytes,
                                .filter_probes = r->filter.probe_count,
                                .first_key = head->first_key,
                                .last_key = vv_sst_index_slot_at(&r->index, head->block_count - 1).last_key};
}

uint64_t vv_sst_reader_memory_bytes(const vv_sst_reader *r) {
    return vv_alloc_usable_bytes((void *)(uintptr_t)r) + vv_alloc_usable_bytes(r->path) +
           vv_sst_index_memory_bytes(&r->index) + vv_alloc_usable_bytes(r->filter.lines) +
           vv_alloc_usable_bytes(r->memo);
}

bool vv_sst_reader_may_contain(const vv_sst_reader *r, uint64_t key_hash) {
    return vv_sst_filter_may_contain(&r->filter, key_hash);
}

bool vv_sst_reader_find(const vv_sst_reader *r, vv_slice key, uint64_t lsn, vv_block_handle *out) {
    uint64_t i = vv_sst_index_find(&r->index, key, lsn);
    if (i == r->index.head.block_count)
        return false;
    *out = vv_sst_index_handle(&r->index, i);
    return true;
}

bool vv_sst_reader_find_key(const vv_sst_reader *r, vv_slice key, uint64_t lsn, vv_block_handle *out) {
    uint64_t i = vv_sst_index_find(&r->index, key, lsn);
    if (i == r->index.head.block_count)
        return false;
    *out = vv_sst_index_handle(&r->index, i);
    return r->index.head.type != VV_INDEX_DENSE ||
           vv_sst_index_find_position(&r->index, i, key, lsn, &out->position);
}

void vv_sst_reader_find_keys(const vv_sst_reader *r, vv_slice key, uint64_t lsn, vv_slice *first_out,
                             vv_slice *last_out) {
    vv_sst_index_key_range(&r->index, vv_sst_index_find(&r->index, key, lsn), first_out, last_out);
}

uint64_t vv_sst_reader_block_count(const vv_sst_reader *r) {
    return r->index.head.block_count;
}

vv_block_handle vv_sst_reader_block(const vv_sst_reader *r, uint64_t index) {
    return vv_sst_index_handle(&r->index, index);
}
