/*
 * verify.c - reads a whole table and checks all of it.
 *
 * Blocks that follow each other are read in pieces. A piece that can't be read is read again block by block,
 * so that one bad sector is told apart from its neighbours. The reader was opened for this, so index, filter
 * and footer have been read and checked already.
 */
#include "base/alloc.h"
#include "engine/sst/sst_impl.h"

#define PIECE_BYTES (UINT64_C(512) << 10)

typedef struct walk {
    const vv_sst_reader *reader;
    const vv_sst_verify_options *o;
    uint8_t *piece;
    uint64_t piece_bytes; /* its size */
    vv_sst_buffer unpacked;
    vv_sst_unpacker unpacker;
    uint64_t entry_count; /* in good blocks */
    bool damaged;
} walk;

static void report(walk *w, uint64_t offset, uint64_t bytes, vv_slice first, vv_slice last, vv_status st) {
    vv_sst_damage d = {.offset = offset, .bytes = bytes, .first_key = first, .last_key = last, .status = st};
    w->damaged = true;
    w->o->damaged(w->o->arg, &d);
}

static void report_block(walk *w, uint64_t i, vv_status st) {
    vv_block_handle h = vv_sst_index_handle(&w->reader->index, i);
    vv_slice first, last;
    vv_sst_index_key_range(&w->reader->index, i, &first, &last);
    report(w, h.offset, h.bytes, first, last, st);
}

/* Does a dense index lead to this entry, the n-th of block i? A sparse one has no part in it. */
static bool index_knows(const vv_sst_index *x, uint64_t i, uint32_t n, const vv_entry *e) {
    uint32_t position;
    return x->head.type != VV_INDEX_DENSE ||
           (vv_sst_index_find_position(x, i, e->key, e->lsn, &position) && position == n);
}

/* The entries of a ready block against what index and filter say of them. */
static vv_status check_promises(walk *w, uint64_t i, const void *block) {
    vv_sst_index_slot slot = vv_sst_index_slot_at(&w->reader->index, i);
    uint32_t count = vv_sst_block_count(block);
    vv_entry e = {0};
    vv_slice first, last;
    vv_sst_index_key_range(&w->reader->index, i, &first, &last);
    for (uint32_t n = 0; n < count; n++) {
        vv_sst_block_entry(block, n, &e);
        if (!vv_sst_filter_may_contain(&w->reader->filter, vv_hash_key(e.key.data, e.key.bytes)))
            return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
        bool follows = n > 0 || i == 0 || vv_slice_compare(first, e.key) <= 0;
        if (!follows || !index_knows(&w->reader->index, i, n, &e))
            return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    }
    if (!vv_slice_equal(e.key, slot.last_key) || e.lsn != slot.last_lsn)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    w->entry_count += count;
    return VV_STATUS_OK;
}

static void show_block(const walk *w, uint64_t i, const uint8_t *stored, const void *ready) {
    vv_block_handle h = vv_sst_index_handle(&w->reader->index, i);
    vv_sst_block_view view = {.index = i,
                              .offset = h.offset,
                              .bytes = h.bytes,
                              .stored_bytes = vv_get_be32(stored + 8),
                              .raw_bytes = vv_get_be32(stored + 12),
                              .compression = stored[20],
                              .ready = ready};
    w->o->block(w->o->arg, &view);
}

static vv_status check_block(walk *w, uint64_t i, const void *bytes) {
    uint32_t image_bytes;
    const void *ready = bytes;
    VV_TRY(vv_sst_block_verify(w->reader, vv_sst_index_handle(&w->reader->index, i), bytes, &image_bytes));
    if (image_bytes != 0) {
        w->unpacked.bytes = 0;
        void *image = vv_sst_buffer_extend(&w->unpacked, image_bytes);
        if (!image)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        VV_TRY(vv_sst_block_unpack(&w->unpacker, bytes, image));
        ready = image;
    }
    VV_TRY(check_promises(w, i, ready));
    if (w->o->block)
        show_block(w, i, bytes, ready);
    return VV_STATUS_OK;
}

/* Bytes of the blocks from `first` on that one read takes, and how many blocks these are: at least one. */
static uint64_t piece_of(const walk *w, uint64_t first, uint64_t count_max, uint64_t *count_out) {
    uint64_t bytes = 0;
    *count_out = 0;
    for (uint64_t i = first; *count_out < count_max; i++) {
        uint64_t more = vv_sst_index_handle(&w->reader->index, i).bytes;
        if (*count_out > 0 && bytes + more > PIECE_BYTES)
            break;
        bytes += more;
        (*count_out)++;
    }
    return bytes;
}

static vv_status read_piece(walk *w, uint64_t offset, uint64_t bytes) {
    if (bytes > w->piece_bytes) {
        vv_free(w->piece);
        w->piece_bytes = 0;
        w->piece = vv_alloc_aligned(VV_IO_ALIGN_BYTES, VV_MAX(bytes, PIECE_BYTES));
        if (!w->piece)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        w->piece_bytes = VV_MAX(bytes, PIECE_BYTES);
    }
    size_t got;
    VV_TRY(vv_file_read(w->reader->file, w->piece, bytes, offset, &got));
    return got == bytes ? VV_STATUS_OK : vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
}

/* Blocks first to first + count - 1, one of them at least. */
static vv_status check_piece(walk *w, uint64_t first, uint64_t count, uint64_t bytes) {
    uint64_t offset = vv_sst_index_handle(&w->reader->index, first).offset;
    vv_status st = read_piece(w, offset, bytes);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (!vv_ok(st) && count > 1) {
        for (uint64_t i = first; i < first + count; i++)
            VV_TRY(check_piece(w, i, 1, vv_sst_index_handle(&w->reader->index, i).bytes));
        return VV_STATUS_OK;
    }
    if (!vv_ok(st)) {
        report_block(w, first, st);
        return VV_STATUS_OK;
    }
    for (uint64_t i = first; i < first + count; i++) {
        st = check_block(w, i, w->piece + (vv_sst_index_handle(&w->reader->index, i).offset - offset));
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (!vv_ok(st))
            report_block(w, i, st);
    }
    return VV_STATUS_OK;
}

vv_status vv_sst_verify_blocks(const vv_sst_reader *r, const vv_sst_verify_options *o,
                               uint64_t *block_count_out) {
    walk w = {.reader = r, .o = o};
    vv_status st = VV_STATUS_OK;
    uint64_t i = 0, count;
    for (; i < r->index.head.block_count && vv_ok(st); i += count) {
        uint64_t bytes = piece_of(&w, i, r->index.head.block_count - i, &count);
        st = check_piece(&w, i, count, bytes);
        if (vv_ok(st) && !o->pace(o->arg, bytes))
            st = vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0);
    }
    *block_count_out = i;
    if (vv_ok(st) && !w.damaged && w.entry_count != r->index.head.item_count)
        report(&w, r->index.head.data_bytes, VV_SST_INDEX_HEAD_BYTES, r->index.head.first_key,
               vv_sst_index_slot_at(&r->index, r->index.head.block_count - 1).last_key,
               vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0));
    vv_sst_unpacker_deinit(&w.unpacker);
    vv_sst_buffer_deinit(&w.unpacked);
    vv_free(w.piece);
    return st;
}
