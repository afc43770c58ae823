/*
 * index.c - the index block: what a table is, and which block holds which keys.
 *
 * A sparse index has for each data block its place and its last internal key; a dense one has the internal
 * keys of all entries besides. With it a get for a key that isn't there reads nothing, and one that finds its
 * key touches no other entry; it takes the bytes of all keys, in the file and in memory. In memory the block
 * is kept as it is on disk, beside arrays: where each slot is, where each block is, and eight bytes of each
 * last key as an integer, taken behind the bytes that all keys of the table share. The search runs over those
 * integers and reads keys only where they are equal. It first finds a group of 64 of them by the last ones of
 * each, which are so few that they stay in the fastest cache; all lines of the group are then on their way at
 * once.
 */
#include "base/alloc.h"
#include "base/checksum.h"
#include "engine/sst/sst_impl.h"

#define GROUP_PREFIXES 64

_Static_assert(VV_SST_INDEX_SLOT_BYTES == 8 + 4 + 8 + 2, "index slot layout");
_Static_assert(VV_SST_INDEX_HEAD_BYTES == 8 + 11 * 8, "index head layout");
_Static_assert(VV_SST_FOOTER_BYTES == 6 * 8 + VV_SST_MAGIC_BYTES + 1, "footer layout");

static vv_status bad_layout(void) {
    return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
}

static vv_status newer(void) {
    return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
}

/* ---- footer ---- */

void vv_sst_footer_encode(const vv_sst_footer *f, uint8_t at[VV_SST_FOOTER_BYTES]) {
    vv_put_be64(at, f->index_offset);
    vv_put_be64(at + 8, f->index_bytes);
    vv_put_be64(at + 16, f->filter_offset);
    vv_put_be64(at + 24, f->filter_bytes);
    vv_put_be64(at + 32, f->item_count);
    vv_put_be64(at + 40, f->max_lsn);
    memcpy(at + 48, VV_SST_MAGIC, VV_SST_MAGIC_BYTES);
    at[55] = VV_SST_FORMAT_VERSION;
}

vv_status vv_sst_footer_decode(const uint8_t at[VV_SST_FOOTER_BYTES], uint64_t file_bytes,
                               vv_sst_footer *out) {
    if (memcmp(at + 48, VV_SST_MAGIC, VV_SST_MAGIC_BYTES) != 0 || at[55] == 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_MAGIC, 0);
    if (at[55] > VV_SST_FORMAT_VERSION)
        return newer();
    *out = (vv_sst_footer){
        .index_offset = vv_get_be64(at),
        .index_bytes = vv_get_be64(at + 8),
        .filter_offset = vv_get_be64(at + 16),
        .filter_bytes = vv_get_be64(at + 24),
        .item_count = vv_get_be64(at + 32),
        .max_lsn = vv_get_be64(at + 40),
    };
    uint64_t end = file_bytes - VV_SST_FOOTER_BYTES;
    if (out->index_offset > end || out->index_offset % VV_SST_BLOCK_BYTES_MIN != 0 ||
        out->index_bytes < VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES ||
        out->index_bytes > end - out->index_offset ||
        out->filter_offset != out->index_offset + out->index_bytes ||
        out->filter_bytes != end - out->filter_offset)
        return bad_layout();
    return VV_STATUS_OK;
}

/* ---- writing ---- */

vv_status vv_sst_index_slot_append(vv_sst_buffer *slots, const vv_sst_index_slot *slot) {
    uint8_t *at = vv_sst_buffer_extend(slots, VV_SST_INDEX_SLOT_BYTES + slot->last_key.bytes);
    if (!at)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_put_be64(at, slot->handle.offset);
    vv_put_be32(at + 8, slot->handle.bytes);
    vv_put_be64(at + 12, slot->last_lsn);
    vv_put_be16(at + 20, (uint16_t)slot->last_key.bytes);
    memcpy(at + VV_SST_INDEX_SLOT_BYTES, slot->last_key.data, slot->last_key.bytes);
    return VV_STATUS_OK;
}

vv_status vv_sst_index_keys_append(vv_sst_buffer *keys, const vv_sst_block_builder *b, uint32_t count) {
    uint8_t *at = vv_sst_buffer_extend(keys, sizeof count);
    if (!at)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_put_be32(at, count);
    for (uint32_t i = 0; i < count; i++) {
        vv_slice key;
        uint64_t lsn;
        vv_sst_block_builder_key(b, i, &key, &lsn);
        at = vv_sst_buffer_extend(keys, VV_SST_INDEX_KEY_BYTES + key.bytes);
        if (!at)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        vv_put_be64(at, lsn);
        vv_put_be16(at + 8, (uint16_t)key.bytes);
        memcpy(at + VV_SST_INDEX_KEY_BYTES, key.data, key.bytes);
    }
    return VV_STATUS_OK;
}

uint64_t vv_sst_index_block_bytes(const vv_sst_index_head *h, const vv_sst_buffer *slots,
                                  const vv_sst_buffer *keys) {
    return VV_SST_INDEX_HEAD_BYTES + (uint64_t)h->first_key.bytes + slots->bytes + keys->bytes +
           VV_SST_CHECKSUM_BYTES;
}

static uint8_t *put_buffer(uint8_t *to, const vv_sst_buffer *b) {
    if (b->bytes)
        memcpy(to, b->data, b->bytes);
    return to + b->bytes;
}

void vv_sst_index_encode(const vv_sst_index_head *h, const vv_sst_buffer *slots, const vv_sst_buffer *keys,
                         uint64_t index_offset, uint8_t *at) {
    at[0] = (uint8_t)h->type;
    at[1] = VV_COMPRESSION_NONE;
    at[2] = VV_SST_FORMAT_VERSION;
    at[3] = 0;
    vv_put_be32(at + 4, h->block_bytes);
    vv_put_be64(at + 8, h->table_id);
    vv_put_be64(at + 16, h->created_unix_ms);
    vv_put_be64(at + 24, h->item_count);
    vv_put_be64(at + 32, h->min_lsn);
    vv_put_be64(at + 40, h->max_lsn);
    vv_put_be64(at + 48, h->data_bytes);
    vv_put_be64(at + 56, h->block_count);
    vv_put_be64(at + 64, h->filter_checksum);
    vv_put_be64(at + 72, h->footer_checksum);
    vv_put_be64(at + 80, 0);
    vv_put_be16(at + 88, (uint16_t)h->first_key.bytes);
    memset(at + 90, 0, 6);
    uint8_t *to = at + VV_SST_INDEX_HEAD_BYTES;
    memcpy(to, h->first_key.data, h->first_key.bytes);
    to += h->first_key.bytes;
    to = put_buffer(to, slots);
    to = put_buffer(to, keys);
    vv_put_be64(to, vv_checksum(at, (size_t)(to - at), vv_sst_seed(h->table_id, index_offset)));
}

/* ---- reading ---- */

static vv_status decode_head(vv_reader *r, vv_sst_index_head *h) {
    uint8_t type = vv_read_u8(r);
    uint8_t compression = vv_read_u8(r);
    uint8_t version = vv_read_u8(r);
    uint8_t flags = vv_read_u8(r);
    h->block_bytes = vv_read_be32(r);
    h->table_id = vv_read_be64(r);
    h->created_unix_ms = vv_read_be64(r);
    h->item_count = vv_read_be64(r);
    h->min_lsn = vv_read_be64(r);
    h->max_lsn = vv_read_be64(r);
    h->data_bytes = vv_read_be64(r);
    h->block_count = vv_read_be64(r);
    h->filter_checksum = vv_read_be64(r);
    h->footer_checksum = vv_read_be64(r);
    uint64_t reserved = vv_read_be64(r);
    uint16_t first_key_bytes = vv_read_be16(r);
    uint16_t reserved_2 = vv_read_be16(r);
    uint32_t reserved_4 = vv_read_be32(r);
    h->first_key = vv_read_bytes(r, first_key_bytes);
    if (r->bad || first_key_bytes == 0)
        return bad_layout();
    if (type > VV_INDEX_DENSE || compression != VV_COMPRESSION_NONE || version != VV_SST_FORMAT_VERSION ||
        flags != 0 || reserved != 0 || reserved_2 != 0 || reserved_4 != 0)
        return newer();
    h->type = type;
    if (!vv_is_power_of_two(h->block_bytes) || h->block_bytes < VV_SST_BLOCK_BYTES_MIN ||
        h->block_bytes > VV_SST_BLOCK_BYTES_MAX || h->min_lsn > h->max_lsn ||
        h->block_count > r->left_bytes / VV_SST_INDEX_SLOT_BYTES || h->block_count == 0 ||
        h->item_count < h->block_count || h->data_bytes / h->block_bytes > UINT32_MAX)
        return bad_layout();
    return VV_STATUS_OK;
}

static void decode_slot(vv_reader *r, vv_sst_index_slot *s) {
    s->handle.offset = vv_read_be64(r);
    s->handle.bytes = vv_read_be32(r);
    s->handle.position = VV_SST_POSITION_UNKNOWN;
    s->last_lsn = vv_read_be64(r);
    uint16_t key_bytes = vv_read_be16(r);
    s->last_key = vv_read_bytes(r, key_bytes);
    if (key_bytes == 0)
        r->bad = true;
}

vv_sst_index_slot vv_sst_index_slot_at(const vv_sst_index *x, uint64_t i) {
    vv_reader r = vv_reader_make(
        vv_slice_make(x->bytes + x->slots_at[i], x->bytes_count - x->slots_at[i] - VV_SST_CHECKSUM_BYTES));
    vv_sst_index_slot s;
    decode_slot(&r, &s);
    return s;
}

void vv_sst_index_key_range(const vv_sst_index *x, uint64_t i, vv_slice *first_out, vv_slice *last_out) {
    /* The key that the block before ends with may go on in this one. */
    *first_out = i > 0 ? vv_sst_index_slot_at(x, i - 1).last_key : x->head.first_key;
    *last_out = vv_sst_index_slot_at(x, i).last_key;
}

/* Blocks follow each other from 0 to the end of the data, and their last keys ascend. */
static vv_status decode_slots(vv_sst_index *x, vv_reader *r) {
    const uint8_t *begin = x->bytes;
    vv_sst_index_slot before = {.last_key = x->head.first_key, .last_lsn = VV_LSN_MAX};
    uint64_t offset = 0;
    for (uint64_t i = 0; i < x->head.block_count; i++) {
        x->slots_at[i] = (uint64_t)(r->at - begin);
        x->blocks_at[i] = (uint32_t)(offset / x->head.block_bytes);
        vv_sst_index_slot s;
        decode_slot(r, &s);
        if (r->bad || s.handle.offset != offset || s.handle.bytes == 0 ||
            s.handle.bytes % x->head.block_bytes != 0 ||
            vv_entry_compare(before.last_key, before.last_lsn, s.last_key, s.last_lsn) >= 0)
            return bad_layout();
        offset += s.handle.bytes;
        before = s;
    }
    x->blocks_at[x->head.block_count] = (uint32_t)(offset / x->head.block_bytes);
    return offset == x->head.data_bytes ? VV_STATUS_OK : bad_layout();
}

typedef struct index_key {
    vv_slice key;
    uint64_t lsn;
} index_key;

static void decode_key(vv_reader *r, index_key *k) {
    k->lsn = vv_read_be64(r);
    uint16_t key_bytes = vv_read_be16(r);
    k->key = vv_read_bytes(r, key_bytes);
    if (key_bytes == 0)
        r->bad = true;
}

/* Keys ascend over all blocks, and each block's end with the one that its slot says. */
static vv_status decode_keys(vv_sst_index *x, vv_reader *r) {
    index_key before = {.key = x->head.first_key, .lsn = VV_LSN_MAX};
    uint64_t done = 0;
    for (uint64_t i = 0; i < x->head.block_count; i++) {
        uint32_t count = vv_read_be32(r);
        if (count == 0 || count > x->head.item_count - done)
            return bad_layout();
        x->keys[i] = (vv_sst_index_keys){.at = (uint64_t)(r->at - x->bytes), .first = done, .count = count};
        for (uint32_t n = 0; n < count; n++) {
            uint64_t at = (uint64_t)(r->at - x->bytes) - x->keys[i].at;
            index_key k;
            decode_key(r, &k);
            if (r->bad || at > UINT32_MAX || vv_entry_compare(before.key, before.lsn, k.key, k.lsn) >= 0)
                return bad_layout();
            x->keys_at[done++] = (uint32_t)at;
            before = k;
        }
        vv_sst_index_slot s = vv_sst_index_slot_at(x, i);
        if (s.last_lsn != before.lsn || !vv_slice_equal(s.last_key, before.key))
            return bad_layout();
    }
    return done == x->head.item_count ? VV_STATUS_OK : bad_layout();
}

static vv_status open_keys(vv_sst_index *x, vv_reader *r) {
    if (x->head.type != VV_INDEX_DENSE)
        return VV_STATUS_OK;
    if (x->head.item_count > r->left_bytes / VV_SST_INDEX_KEY_BYTES)
        return bad_layout();
    x->keys = vv_alloc(x->head.block_count * sizeof *x->keys);
    x->keys_at = x->keys ? vv_alloc(x->head.item_count * sizeof *x->keys_at) : NULL;
    if (!x->keys_at)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    return decode_keys(x, r);
}

/* The 8 bytes behind the shared ones as an integer, padded with zeros. */
static uint64_t prefix_behind(vv_slice key, size_t shared_bytes) {
    uint8_t padded[8] = {0};
    if (key.bytes > shared_bytes)
        memcpy(padded, (const uint8_t *)key.data + shared_bytes, VV_MIN(key.bytes - shared_bytes, (size_t)8));
    return vv_get_be64(padded);
}

/* All keys lie between the first and the last, so they share what those two share. */
static void find_prefixes(vv_sst_index *x) {
    vv_slice first = x->head.first_key;
    vv_slice last = vv_sst_index_slot_at(x, x->head.block_count - 1).last_key;
    const uint8_t *a = first.data, *b = last.data;
    size_t limit = VV_MIN(first.bytes, last.bytes);
    while (x->shared_bytes < limit && a[x->shared_bytes] == b[x->shared_bytes])
        x->shared_bytes++;
    for (uint64_t i = 0; i < x->head.block_count; i++) {
        x->prefixes[i] = prefix_behind(vv_sst_index_slot_at(x, i).last_key, x->shared_bytes);
        x->fences[i / GROUP_PREFIXES] = x->prefixes[i];
    }
}

static vv_status allocate_arrays(vv_sst_index *x) {
    uint64_t count = x->head.block_count;
    x->slots_at = vv_alloc(count * sizeof *x->slots_at);
    x->blocks_at = x->slots_at ? vv_alloc((count + 1) * sizeof *x->blocks_at) : NULL;
    x->prefixes = x->blocks_at ? vv_alloc_aligned(VV_CACHE_LINE_BYTES, count * sizeof *x->prefixes) : NULL;
    x->fences = x->prefixes ? vv_alloc((count / GROUP_PREFIXES + 1) * sizeof *x->fences) : NULL;
    return x->fences ? VV_STATUS_OK : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

vv_status vv_sst_index_open(vv_sst_index *x, vv_slice block, uint64_t index_offset) {
    *x = (vv_sst_index){0};
    VV_ASSERT(block.bytes >= VV_SST_INDEX_HEAD_BYTES + VV_SST_CHECKSUM_BYTES);
    const uint8_t *bytes = block.data;
    size_t covered = block.bytes - VV_SST_CHECKSUM_BYTES;
    /* The seed stands in the bytes that it helps to check: a damaged one fails as any other byte does. */
    uint64_t seed = vv_sst_seed(vv_get_be64(bytes + 8), index_offset);
    if (vv_get_be64(bytes + covered) != vv_checksum(bytes, covered, seed))
        return vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0);

    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    x->bytes = vv_alloc(block.bytes);
    if (!x->bytes)
        goto fail;
    x->bytes_count = block.bytes;
    memcpy(x->bytes, bytes, block.bytes);
    vv_reader r = vv_reader_make(vv_slice_make(x->bytes, covered));
    st = decode_head(&r, &x->head);
    if (!vv_ok(st))
        goto fail;
    st = allocate_arrays(x);
    if (vv_ok(st))
        st = decode_slots(x, &r);
    if (vv_ok(st))
        st = open_keys(x, &r);
    if (!vv_ok(st))
        goto fail;
    if (r.left_bytes != 0 || x->head.data_bytes != index_offset) {
        st = bad_layout();
        goto fail;
    }
    find_prefixes(x);
    return VV_STATUS_OK;

fail:
    vv_sst_index_close(x);
    return st;
}

void vv_sst_index_close(vv_sst_index *x) {
    vv_free(x->keys_at);
    vv_free(x->keys);
    vv_free(x->fences);
    vv_free(x->prefixes);
    vv_free(x->blocks_at);
    vv_free(x->slots_at);
    vv_free(x->bytes);
    *x = (vv_sst_index){0};
}

/* The index of the first of `count` ascending integers that is not below `wanted`. What is in the loop
 * becomes a conditional move: which half it is nobody can predict. */
static uint64_t first_not_below(const uint64_t *sorted, uint64_t count, uint64_t wanted) {
    const uint64_t *from = sorted;
    while (count > 1) {
        uint64_t half = count / 2;
        from = from[half - 1] < wanted ? from + half : from;
        count -= half;
    }
    return (uint64_t)(from - sorted) + (count == 1 && *from < wanted);
}

/* The same of all prefixes of the index. */
static uint64_t find_prefix(const vv_sst_index *x, uint64_t wanted) {
    uint64_t count = x->head.block_count;
    uint64_t from =
        first_not_below(x->fences, (count + GROUP_PREFIXES - 1) / GROUP_PREFIXES, wanted) * GROUP_PREFIXES;
    if (from >= count)
        return count;
    for (size_t i = 0; i < GROUP_PREFIXES; i += VV_CACHE_LINE_BYTES / sizeof *x->prefixes)
        __builtin_prefetch(x->prefixes + from + i);
    return from + first_not_below(x->prefixes + from, VV_MIN(count - from, GROUP_PREFIXES), wanted);
}

uint64_t vv_sst_index_find(const vv_sst_index *x, vv_slice key, uint64_t lsn) {
    /* A key that leaves the shared bytes is before or behind all keys of the table. */
    size_t common = VV_MIN(key.bytes, x->shared_bytes);
    int order = common ? memcmp(key.data, x->head.first_key.data, common) : 0;
    if (order > 0)
        return x->head.block_count;
    if (order < 0 || key.bytes < x->shared_bytes)
        return 0;
    uint64_t prefix = prefix_behind(key, x->shared_bytes);
    uint64_t low = find_prefix(x, prefix);
    if (low == x->head.block_count || x->prefixes[low] != prefix)
        return low;
    /* The keys themselves decide, as far as the integers are equal. */
    uint64_t high = x->head.block_count;
    if (prefix != UINT64_MAX)
        high = low + first_not_below(x->prefixes + low, high - low, prefix + 1);
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        vv_sst_index_slot s = vv_sst_index_slot_at(x, mid);
        if (vv_entry_compare(s.last_key, s.last_lsn, key, lsn) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool vv_sst_index_find_position(const vv_sst_index *x, uint64_t i, vv_slice key, uint64_t lsn,
                                uint32_t *position_out) {
    const vv_sst_index_keys *keys = &x->keys[i];
    const uint32_t *keys_at = x->keys_at + keys->first;
    uint32_t low = 0, high = keys->count - 1; /* the last one is at or behind what is looked for */
    index_key k;
    for (;;) {
        uint32_t mid = low + (high - low) / 2;
        uint64_t at = keys->at + keys_at[mid];
        vv_reader r = vv_reader_make(vv_slice_make(x->bytes + at, x->bytes_count - at));
        decode_key(&r, &k);
        if (low == high)
            break;
        if (vv_entry_compare(k.key, k.lsn, key, lsn) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *position_out = low;
    return vv_slice_equal(k.key, key);
}

vv_block_handle vv_sst_index_handle(const vv_sst_index *x, uint64_t i) {
    VV_ASSERT(i < x->head.block_count);
    return (vv_block_handle){.offset = (uint64_t)x->blocks_at[i] * x->head.block_bytes,
                             .bytes = (x->blocks_at[i + 1] - x->blocks_at[i]) * x->head.block_bytes,
                             .position = VV_SST_POSITION_UNKNOWN,
                             .index = (uint32_t)i};
}

uint64_t vv_sst_index_memory_bytes(const vv_sst_index *x) {
    return vv_alloc_usable_bytes(x->bytes) + vv_alloc_usable_bytes(x->slots_at) +
           vv_alloc_usable_bytes(x->blocks_at) + vv_alloc_usable_bytes(x->prefixes) +
           vv_alloc_usable_bytes(x->fences) + vv_alloc_usable_bytes(x->keys) +
           vv_alloc_usable_bytes(x->keys_at);
}
