/*
 * writer.c - makes a table: blocks as they fill up, then index, filter and footer.
 *
 * Entries gather in the block builder; a full block goes to the sink and leaves its last key in the index.
 * Key hashes are kept until the end, since the filter's size follows from their number. The index block comes
 * before the filter and the footer in the file but holds their checksums, so all three are made first and
 * then written.
 */
#include "base/alloc.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sink.h"
#include "engine/sst/sst_impl.h"

struct vv_sst_writer {
    vv_sst_writer_options options; /* path is not kept */
    char *path;
    vv_file *file;
    vv_sst_sink sink;
    bool sink_ready;
    bool finished;
    vv_status status; /* the first failure; final */

    vv_sst_block_builder block;
    vv_sst_buffer slots;
    vv_sst_buffer keys;     /* of a dense index */
    vv_sst_buffer hashes;   /* uint64_t, one for each user key */
    vv_sst_buffer last_key; /* of the entry added last */
    uint64_t last_lsn;
    uint64_t key_count;
    uint64_t tombstone_count;
    vv_sst_buffer first_key;
    vv_sst_index_head head;
    uint64_t counted_bytes; /* in the gauge of the options */
};

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

/* Bring the gauge up to date. tail_bytes: of what is written last, which is not in w. */
static void count_memory(vv_sst_writer *w, uint64_t tail_bytes) {
    const vv_sst_buffer *buffers[] = {
        &w->block.entries, &w->block.offsets, &w->block.sealed, &w->block.packer.packed,
        &w->slots,         &w->keys,          &w->hashes};
    uint64_t bytes = tail_bytes;
    if (!w->options.memory_bytes)
        return;
    for (size_t i = 0; i < VV_ARRAY_COUNT(buffers); i++)
        bytes += buffers[i]->capacity_bytes;
    /* relaxed: a gauge; a difference below zero wraps round, and so does the sum. */
    atomic_fetch_add_explicit(w->options.memory_bytes, bytes - w->counted_bytes, memory_order_relaxed);
    w->counted_bytes = bytes;
}

/* Differs from table to table: that is all it is for. */
static uint64_t make_table_id(const char *path) {
    return vv_checksum(path, strlen(path), vv_clock_mono_ns() ^ (vv_clock_unix_ms() << 20));
}

vv_status vv_sst_writer_create(const vv_sst_writer_options *o, vv_sst_writer **out, vv_error *err) {
    *out = NULL;
    VV_ASSERT(vv_is_power_of_two(o->block_bytes) && o->block_bytes >= VV_SST_BLOCK_BYTES_MIN &&
              o->block_bytes <= VV_SST_BLOCK_BYTES_MAX);
    VV_ASSERT(o->filter_fp_rate >= 0 && o->filter_fp_rate < 1);
    vv_status st = no_memory();
    vv_sst_writer *w = vv_alloc_aligned(_Alignof(vv_sst_writer), sizeof *w);
    if (!w)
        return vv_fail(err, st, "%s: no memory for a table writer", o->path);
    memset(w, 0, sizeof *w);
    w->options = *o;
    w->path = vv_strdup(o->path);
    if (!w->path) {
        st = vv_fail(err, st, "%s: no memory for a table writer", o->path);
        goto fail;
    }
    w->options.path = w->path;
    vv_sst_block_builder_init(&w->block, o->block_bytes, o->block_units_max, o->compression);
    w->head.type = o->index_type;
    w->head.block_bytes = o->block_bytes;
    w->head.table_id = make_table_id(o->path);
    w->head.created_unix_ms = vv_clock_unix_ms();
    w->head.min_lsn = VV_LSN_MAX;

    uint32_t flags = VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_EXCLUSIVE | VV_OPEN_DIRECT;
    st = vv_file_open(o->backend, o->path, flags, &w->file, err);
    if (!vv_ok(st))
        goto fail;
    st = vv_sst_sink_init(&w->sink, o->queue, w->file);
    if (!vv_ok(st)) {
        st = vv_fail(err, st, "%s: the queue has no buffers left for a table writer", o->path);
        goto fail;
    }
    w->sink_ready = true;
    *out = w;
    return VV_STATUS_OK;

fail:
    /* A file that is open here is one that this call has made. */
    if (w->file)
        vv_status_ignore(vv_path_unlink(o->backend, o->path, NULL), "the first failure is what counts");
    vv_sst_writer_destroy(w);
    return st;
}

void vv_sst_writer_destroy(vv_sst_writer *w) {
    if (!w)
        return;
    if (w->sink_ready)
        vv_sst_sink_deinit(&w->sink);
    vv_file_close(w->file);
    vv_sst_block_builder_deinit(&w->block);
    vv_sst_buffer_deinit(&w->slots);
    vv_sst_buffer_deinit(&w->keys);
    vv_sst_buffer_deinit(&w->hashes);
    vv_sst_buffer_deinit(&w->last_key);
    vv_sst_buffer_deinit(&w->first_key);
    if (w->options.memory_bytes)
        atomic_fetch_sub_explicit(w->options.memory_bytes, w->counted_bytes, memory_order_relaxed);
    vv_free(w->path);
    vv_free(w);
}

/* ---- entries ---- */

static vv_slice buffer_slice(const vv_sst_buffer *b) {
    return vv_slice_make(b->data, b->bytes);
}

/* Write a block of the first entries collected, all of them or what fits. */
static vv_status end_block(vv_sst_writer *w) {
    uint64_t offset = w->head.data_bytes;
    vv_slice block;
    uint32_t count;
    VV_TRY(vv_sst_block_builder_seal(&w->block, vv_sst_seed(w->head.table_id, offset), &block, &count));
    vv_sst_index_slot slot = {.handle = {.offset = offset, .bytes = (uint32_t)block.bytes}};
    vv_sst_block_builder_key(&w->block, count - 1, &slot.last_key, &slot.last_lsn);
    VV_TRY(vv_sst_index_slot_append(&w->slots, &slot));
    if (w->head.type == VV_INDEX_DENSE)
        VV_TRY(vv_sst_index_keys_append(&w->keys, &w->block, count));
    VV_TRY(vv_sst_sink_append(&w->sink, block.data, block.bytes));
    vv_heat heat = vv_sst_block_builder_heat(&w->block);
    if (w->options.cache && heat != VV_HEAT_COLD)
        vv_block_cache_add(w->options.cache, w->options.file_number, slot.handle, block.data, heat);
    w->head.data_bytes += block.bytes;
    w->head.block_count++;
    vv_sst_block_builder_drop(&w->block, count);
    count_memory(w, 0);
    return VV_STATUS_OK;
}

static vv_status add(vv_sst_writer *w, const vv_entry *e) {
    bool first = w->head.item_count == 0;
    bool same_key = !first && vv_slice_equal(buffer_slice(&w->last_key), e->key);
    while (w->block.count > 0 && vv_sst_block_builder_is_full(&w->block, e))
        VV_TRY(end_block(w));
    VV_TRY(vv_sst_block_builder_add(&w->block, e));
    if (first && !vv_sst_buffer_append(&w->first_key, e->key.data, e->key.bytes))
        return no_memory();
    if (!same_key) {
        uint64_t hash = vv_hash_key(e->key.data, e->key.bytes);
        if (w->options.filter_fp_rate > 0 && !vv_sst_buffer_append(&w->hashes, &hash, sizeof hash))
            return no_memory();
        w->key_count++;
        w->tombstone_count += e->kind == VV_KIND_DELETE; /* versions come newest first */
        w->last_key.bytes = 0;
        if (!vv_sst_buffer_append(&w->last_key, e->key.data, e->key.bytes))
            return no_memory();
    }
    w->last_lsn = e->lsn;
    w->head.min_lsn = VV_MIN(w->head.min_lsn, e->lsn);
    w->head.max_lsn = VV_MAX(w->head.max_lsn, e->lsn);
    w->head.item_count++;
    return VV_STATUS_OK;
}

vv_status vv_sst_writer_add(vv_sst_writer *w, const vv_entry *e) {
    VV_ASSERT(!w->finished);
    VV_ASSERT(e->key.bytes >= 1 && e->key.bytes <= VV_KEY_BYTES_MAX && e->value.bytes <= UINT32_MAX / 2);
    /* A table out of order would lose keys: better to stop before it is on disk. */
    VV_ASSERT(w->head.item_count == 0 ||
              vv_entry_compare(buffer_slice(&w->last_key), w->last_lsn, e->key, e->lsn) < 0);
    if (vv_ok(w->status))
        w->status = add(w, e);
    return w->status;
}

uint64_t vv_sst_writer_bytes(const vv_sst_writer *w) {
    return w->head.data_bytes + (w->block.count ? vv_sst_block_builder_bytes(&w->block, NULL) : 0);
}

/* ---- the end ---- */

/* Index block, filter block and footer, into `tail`. */
static vv_status build_tail(vv_sst_writer *w, vv_sst_buffer *tail) {
    vv_sst_buffer filter = {0};
    vv_status st = VV_STATUS_OK;
    w->head.first_key = buffer_slice(&w->first_key);
    vv_sst_footer footer = {
        .index_offset = w->head.data_bytes,
        .index_bytes = vv_sst_index_block_bytes(&w->head, &w->slots, &w->keys),
        .item_count = w->head.item_count,
        .max_lsn = w->head.max_lsn,
    };
    footer.filter_offset = footer.index_offset + footer.index_bytes;
    if (w->options.filter_fp_rate > 0) {
        st = vv_sst_filter_build((const uint64_t *)(const void *)w->hashes.data,
                                 w->hashes.bytes / sizeof(uint64_t), w->options.filter_fp_rate, &filter);
        if (!vv_ok(st))
            goto out;
        w->head.filter_checksum =
            vv_checksum(filter.data, filter.bytes, vv_sst_seed(w->head.table_id, footer.filter_offset));
    }
    footer.filter_bytes = filter.bytes;
    uint8_t footer_at[VV_SST_FOOTER_BYTES];
    vv_sst_footer_encode(&footer, footer_at);
    uint64_t footer_offset = footer.filter_offset + footer.filter_bytes;
    w->head.footer_checksum =
        vv_checksum(footer_at, sizeof footer_at, vv_sst_seed(w->head.table_id, footer_offset));

    uint8_t *index_at = vv_sst_buffer_extend(tail, footer.index_bytes);
    if (!index_at) {
        st = no_memory();
        goto out;
    }
    vv_sst_index_encode(&w->head, &w->slots, &w->keys, footer.index_offset, index_at);
    if (!vv_sst_buffer_append(tail, filter.data, filter.bytes) ||
        !vv_sst_buffer_append(tail, footer_at, sizeof footer_at))
        st = no_memory();

out:
    vv_sst_buffer_deinit(&filter);
    return st;
}

static vv_status finish(vv_sst_writer *w) {
    VV_TRY(w->status);
    while (w->block.count > 0)
        VV_TRY(end_block(w));
    vv_sst_buffer tail = {0};
    vv_status st = build_tail(w, &tail);
    count_memory(w, tail.capacity_bytes);
    if (vv_ok(st))
        st = vv_sst_sink_append(&w->sink, tail.data, tail.bytes);
    if (vv_ok(st))
        st = vv_sst_sink_finish(&w->sink);
    w->head.data_bytes += tail.bytes; /* now the length of the file */
    vv_sst_buffer_deinit(&tail);
    count_memory(w, 0);
    return st;
}

vv_status vv_sst_writer_finish(vv_sst_writer *w, vv_sst_summary *out, vv_error *err) {
    *out = (vv_sst_summary){0};
    VV_ASSERT(!w->finished);
    VV_ASSERT(w->head.item_count > 0 || !vv_ok(w->status));
    w->finished = true;
    w->status = finish(w);
    if (!vv_ok(w->status))
        return vv_fail(err, w->status, "%s: writing the table: %s", w->path, vv_code_text(w->status.code));
    *out = (vv_sst_summary){
        .file_bytes = w->head.data_bytes,
        .file_checksum = vv_sst_sink_checksum(&w->sink),
        .item_count = w->head.item_count,
        .key_count = w->key_count,
        .tombstone_count = w->tombstone_count,
        .min_lsn = w->head.min_lsn,
        .max_lsn = w->head.max_lsn,
        .first_key = w->first_key.data,
        .first_key_bytes = (uint32_t)w->first_key.bytes,
        .last_key = w->last_key.data,
        .last_key_bytes = (uint32_t)w->last_key.bytes,
    };
    w->first_key = (vv_sst_buffer){0};
    w->last_key = (vv_sst_buffer){0};
    return VV_STATUS_OK;
}

void vv_sst_summary_deinit(vv_sst_summary *s) {
    vv_free(s->first_key);
    vv_free(s->last_key);
    *s = (vv_sst_summary){0};
}
