/*
 * salvage.c - what is left of a damaged table, for repair.
 *
 * With its index the table is gone through block by block, as verify.c does. Without it, the data is: a block
 * says in its head how long it is, and its checksum says whether that is one. What a checksum begins with is
 * the table's id, which stands in the head of the index block alone; that is looked for where the footer says
 * or, without a footer, at every place where an index block could begin. If the id itself is damaged in one
 * byte, the first blocks say which of its 2,040 neighbours it is. Without the id nothing can be told from
 * garbage, and the table is lost.
 *
 * Blocks that are found are in order, since their checksums belong to their places; entries are checked to
 * ascend all the same.
 */
#include "base/alloc.h"
#include "engine/sst/sst_impl.h"

/* Where an index block may begin, and every data block does. */
#define STEP VV_SST_BLOCK_BYTES_MIN

typedef struct salvage {
    const vv_sst_salvage_options *o;
    vv_error *err;
    vv_sst_reader reader; /* file, and the table's id in index.head; the index itself if it is whole */
    uint64_t file_bytes;
    uint64_t data_end; /* data is before it, as far as is known */
    bool has_index;
    vv_sst_buffer bytes; /* of the block at hand */
    vv_sst_buffer unpacked;
    vv_sst_unpacker unpacker;
    vv_sst_buffer last_key; /* of the entry given out last; empty: none yet */
    uint64_t last_lsn;
    uint64_t lost_from; /* where the damage at hand begins; UINT64_MAX: there is none */
    bool searches;      /* blocks are only looked for */
} salvage;

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static vv_status corruption(void) {
    return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);
}

/* Bytes [offset, offset + bytes) of the file into v->bytes. */
static vv_status read_at(salvage *v, uint64_t offset, uint64_t bytes) {
    size_t got;
    v->bytes.bytes = 0;
    void *to = vv_sst_buffer_extend(&v->bytes, bytes);
    if (!to)
        return no_memory();
    VV_TRY(vv_file_read(v->reader.file, to, bytes, offset, &got));
    return got == bytes ? VV_STATUS_OK : vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
}

/* ---- the index, if it is whole ---- */

/* An index block that begins at `offset`, with `bytes` bytes. */
static vv_status open_index(salvage *v, uint64_t offset, uint64_t bytes) {
    VV_TRY(read_at(v, offset, bytes));
    vv_status st = vv_sst_index_open(&v->reader.index, vv_slice_make(v->bytes.data, bytes), offset);
    v->has_index = vv_ok(st);
    if (v->has_index)
        v->data_end = offset;
    return vv_is(st, VV_NO_MEMORY) ? st : VV_STATUS_OK;
}

/* How long the index block in v->bytes is, by what it says itself; 0: it makes no sense. */
static uint64_t index_bytes_of(const salvage *v) {
    vv_reader r = vv_reader_make(vv_slice_make(v->bytes.data, v->bytes.bytes));
    uint8_t type = vv_read_u8(&r);
    (void)vv_read_bytes(&r, 23);
    uint64_t item_count = vv_read_be64(&r);
    (void)vv_read_bytes(&r, 24);
    uint64_t block_count = vv_read_be64(&r);
    (void)vv_read_bytes(&r, 24);
    uint16_t first_key_bytes = vv_read_be16(&r);
    (void)vv_read_bytes(&r, 6 + (size_t)first_key_bytes);
    for (uint64_t i = 0; i < block_count && !r.bad; i++) {
        (void)vv_read_bytes(&r, VV_SST_INDEX_SLOT_BYTES - 2);
        (void)vv_read_bytes(&r, vv_read_be16(&r));
    }
    for (uint64_t i = 0; type == VV_INDEX_DENSE && i < block_count && !r.bad; i++) {
        uint32_t count = vv_read_be32(&r);
        for (uint32_t n = 0; n < count && n < item_count && !r.bad; n++) {
            (void)vv_read_be64(&r);
            (void)vv_read_bytes(&r, vv_read_be16(&r));
        }
    }
    (void)vv_read_be64(&r);
    return r.bad ? 0 : v->bytes.bytes - r.left_bytes;
}

/* Could an index block begin with these bytes? Damage of one byte leaves one of the two signs. */
static bool looks_like_index(const uint8_t *at, uint64_t offset) {
    uint32_t block_bytes = vv_get_be32(at + 4);
    bool shape = at[0] <= VV_INDEX_DENSE && at[1] == 0 && at[2] == VV_SST_FORMAT_VERSION && at[3] == 0 &&
                 vv_is_power_of_two(block_bytes) && block_bytes >= VV_SST_BLOCK_BYTES_MIN &&
                 block_bytes <= VV_SST_BLOCK_BYTES_MAX;
    return shape || vv_get_be64(at + 48) == offset;
}

/* ---- blocks ---- */

static vv_status give_out(salvage *v, const void *block) {
    uint32_t count = vv_sst_block_count(block);
    vv_entry e;
    for (uint32_t n = 0; n < count; n++) {
        vv_sst_block_entry(block, n, &e);
        VV_TRY(v->o->entry(v->o->arg, &e));
    }
    v->last_key.bytes = 0;
    v->last_lsn = e.lsn;
    return vv_sst_buffer_append(&v->last_key, e.key.data, e.key.bytes) ? VV_STATUS_OK : no_memory();
}

static vv_slice slice_of(const vv_sst_buffer *b) {
    return vv_slice_make(b->data, b->bytes);
}

/* From v->lost_from up to `end` nothing could be read. */
static void report(salvage *v, uint64_t end, vv_slice first, vv_slice last) {
    vv_sst_damage d = {.offset = v->lost_from,
                       .bytes = end - v->lost_from,
                       .first_key = first,
                       .last_key = last,
                       .status = corruption()};
    v->lost_from = UINT64_MAX;
    v->o->lost(v->o->arg, &d);
}

/* Make a ready block of what is in v->bytes; CORRUPTION: it is none. */
static vv_status ready(salvage *v, vv_block_handle h, const void **out) {
    uint32_t image_bytes;
    *out = v->bytes.data;
    VV_TRY(vv_sst_block_verify(&v->reader, h, v->bytes.data, &image_bytes));
    if (image_bytes == 0)
        return VV_STATUS_OK;
    v->unpacked.bytes = 0;
    void *image = vv_sst_buffer_extend(&v->unpacked, image_bytes);
    *out = image;
    return image ? vv_sst_block_unpack(&v->unpacker, v->bytes.data, image) : no_memory();
}

/* The block is next in order. */
static bool follows(const salvage *v, const void *block) {
    vv_entry first;
    vv_sst_block_entry(block, 0, &first);
    return v->last_key.bytes == 0 ||
           vv_entry_compare(slice_of(&v->last_key), v->last_lsn, first.key, first.lsn) < 0;
}

static bool go_on(salvage *v, uint64_t bytes) {
    return v->o->pace(v->o->arg, bytes);
}

static vv_status canceled(void) {
    return vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0);
}

static vv_status by_index(salvage *v) {
    const vv_sst_index *x = &v->reader.index;
    for (uint64_t i = 0; i < x->head.block_count; i++) {
        vv_sst_index_slot slot = vv_sst_index_slot_at(x, i);
        const void *block = NULL;
        vv_status st = read_at(v, slot.handle.offset, slot.handle.bytes);
        if (vv_ok(st))
            st = ready(v, slot.handle, &block);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (vv_ok(st) && follows(v, block)) {
            VV_TRY(give_out(v, block));
        } else {
            v->lost_from = slot.handle.offset;
            report(v, slot.handle.offset + slot.handle.bytes,
                   i > 0 ? vv_sst_index_slot_at(x, i - 1).last_key : x->head.first_key, slot.last_key);
        }
        if (!go_on(v, slot.handle.bytes))
            return canceled();
    }
    return VV_STATUS_OK;
}

/* Is there a block at `offset`, of any of the lengths that it may have? *bytes_out: its length; 0: no. */
static vv_status block_at(salvage *v, uint64_t offset, const void **out, uint64_t *bytes_out) {
    *bytes_out = 0;
    if (v->data_end - offset < STEP)
        return VV_STATUS_OK;
    vv_status st = read_at(v, offset, STEP);
    if (!vv_ok(st))
        return vv_is(st, VV_NO_MEMORY) ? st : VV_STATUS_OK;
    uint64_t used = VV_SST_BLOCK_HEAD_BYTES + (uint64_t)vv_get_be32(v->bytes.data + 8), before = 0;
    for (uint64_t unit = STEP; unit <= VV_SST_BLOCK_BYTES_MAX; unit *= 2) {
        uint64_t bytes = vv_align_up(used, unit);
        if (bytes == before || bytes > v->data_end - offset || bytes > UINT32_MAX)
            continue;
        before = bytes;
        st = read_at(v, offset, bytes);
        if (vv_ok(st))
            st = ready(v, (vv_block_handle){.offset = offset, .bytes = (uint32_t)bytes}, out);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (vv_ok(st) && (v->searches || follows(v, *out))) {
            *bytes_out = bytes;
            return VV_STATUS_OK;
        }
    }
    return VV_STATUS_OK;
}

static vv_status by_blocks(salvage *v) {
    for (uint64_t offset = 0, bytes; offset < v->data_end; offset += bytes) {
        const void *block;
        VV_TRY(block_at(v, offset, &block, &bytes));
        if (bytes == 0) {
            v->lost_from = VV_MIN(v->lost_from, offset);
            bytes = VV_MIN(STEP, v->data_end - offset);
        } else {
            if (v->lost_from != UINT64_MAX) {
                vv_entry first;
                vv_sst_block_entry(block, 0, &first);
                report(v, offset, slice_of(&v->last_key), first.key);
            }
            VV_TRY(give_out(v, block));
        }
        if (!go_on(v, bytes))
            return canceled();
    }
    if (v->lost_from != UINT64_MAX)
        report(v, v->data_end, slice_of(&v->last_key), vv_slice_make(NULL, 0));
    return VV_STATUS_OK;
}

/* ---- the table's id ---- */

/* Is there any block with this id? */
static vv_status try_id(salvage *v, uint64_t id, uint64_t blocks_tried, bool *found_out) {
    *found_out = false;
    v->reader.index.head.table_id = id;
    v->searches = true;
    for (uint64_t n = 0; n < blocks_tried && n * STEP < v->data_end && !*found_out; n++) {
        const void *block;
        uint64_t bytes;
        VV_TRY(block_at(v, n * STEP, &block, &bytes));
        *found_out = bytes != 0;
    }
    v->searches = false;
    return VV_STATUS_OK;
}

/* The id that stands in an index block at `offset`, or one that differs from it in one byte. */
static vv_status try_index_at(salvage *v, uint64_t offset, bool *found_out) {
    VV_TRY(read_at(v, offset + 8, 8));
    uint64_t id = vv_get_be64(v->bytes.data);
    VV_TRY(try_id(v, id, UINT64_MAX, found_out));
    for (unsigned byte = 0; byte < 8 && !*found_out; byte++)
        for (uint64_t change = 1; change < 256 && !*found_out; change++)
            VV_TRY(try_id(v, id ^ change << 8 * byte, 1, found_out));
    return VV_STATUS_OK;
}

/* Without a footer: any place where an index block may begin, the last ones first. */
static vv_status search_index(salvage *v, bool *found_out) {
    *found_out = false;
    v->data_end = v->file_bytes;
    for (uint64_t n = v->file_bytes / STEP + 1; n > 0 && !*found_out; n--) {
        uint64_t offset = (n - 1) * STEP;
        if (v->file_bytes - offset < VV_SST_INDEX_HEAD_BYTES || offset == 0)
            continue;
        vv_status st = read_at(v, offset, VV_SST_INDEX_HEAD_BYTES);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (!vv_ok(st) || !looks_like_index(v->bytes.data, offset))
            continue;
        st = read_at(v, offset, v->file_bytes - offset);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        uint64_t bytes = vv_ok(st) ? index_bytes_of(v) : 0;
        if (bytes >= VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES)
            st = open_index(v, offset, bytes);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (v->has_index) {
            *found_out = true;
            return VV_STATUS_OK;
        }
        v->data_end = offset;
        st = try_index_at(v, offset, found_out);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (!*found_out)
            v->data_end = v->file_bytes;
    }
    return VV_STATUS_OK;
}

static vv_status find_blocks(salvage *v, bool *found_out) {
    vv_sst_footer f;
    *found_out = false;
    VV_TRY(vv_file_size(v->reader.file, &v->file_bytes));
    if (v->file_bytes >= VV_SST_FOOTER_BYTES) {
        vv_status st = read_at(v, v->file_bytes - VV_SST_FOOTER_BYTES, VV_SST_FOOTER_BYTES);
        if (vv_is(st, VV_NO_MEMORY))
            return st;
        if (vv_ok(st) && vv_ok(vv_sst_footer_decode(v->bytes.data, v->file_bytes, &f))) {
            st = open_index(v, f.index_offset, f.index_bytes);
            if (vv_is(st, VV_NO_MEMORY))
                return st;
            *found_out = v->has_index;
            v->data_end = f.index_offset;
            if (!v->has_index) {
                st = try_index_at(v, f.index_offset, found_out);
                if (vv_is(st, VV_NO_MEMORY))
                    return st;
            }
            if (*found_out)
                return VV_STATUS_OK;
        }
    }
    return search_index(v, found_out);
}

vv_status vv_sst_salvage(const vv_sst_salvage_options *o, vv_error *err) {
    salvage v = {.o = o, .err = err, .lost_from = UINT64_MAX};
    bool found;
    VV_TRY(vv_file_open(o->backend, o->path, VV_OPEN_READ, &v.reader.file, err));
    vv_status st = find_blocks(&v, &found);
    if (vv_ok(st) && found)
        st = v.has_index ? by_index(&v) : by_blocks(&v);
    if (vv_ok(st) && !found) {
        v.lost_from = 0;
        report(&v, v.file_bytes, vv_slice_make(NULL, 0), vv_slice_make(NULL, 0));
    }
    vv_file_close(v.reader.file);
    vv_sst_index_close(&v.reader.index);
    vv_sst_unpacker_deinit(&v.unpacker);
    vv_sst_buffer_deinit(&v.bytes);
    vv_sst_buffer_deinit(&v.unpacked);
    vv_sst_buffer_deinit(&v.last_key);
    return vv_ok(st) ? st : vv_wrap(err, st, "salvage %s", o->path);
}
