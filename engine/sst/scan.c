/*
 * scan.c - reading a whole table in order.
 *
 * The data of a table, from where the scan begins to the end, is cut into chunks. Chunk n is read into slot
 * n % slot_count; as soon as the cursor has left a chunk, its slot is sent for the next one. So one chunk is
 * used while the others are on their way.
 *
 *   chunks done | in use | in flight, or there ... | not asked for
 *               ^first                              ^end
 *
 * A block that lies in one chunk is used where it is; one that lies in several is put together in `joined`.
 */
#include "engine/sst/scan.h"

#include "base/alloc.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"

/* Large enough for the full rate of a disk at a depth of two. */
#define CHUNK_BYTES_MAX (UINT32_C(512) << 10)
/* A chunk ends where a block may begin: its size is a multiple of this. */
#define CHUNK_BYTES_MIN VV_SST_BLOCK_BYTES_MAX
#define SLOT_COUNT_MAX  3

_Static_assert(VV_SST_SCAN_BYTES_MAX == (uint64_t)SLOT_COUNT_MAX * CHUNK_BYTES_MAX, "what scan.h says");
_Static_assert(VV_SST_SCAN_BYTES_MIN == CHUNK_BYTES_MIN, "what scan.h says");
_Static_assert(CHUNK_BYTES_MAX % CHUNK_BYTES_MIN == 0, "a multiple");

typedef struct scan_slot {
    vv_io_req req;
    uint8_t *buffer;
    bool in_flight;
} scan_slot;

typedef struct scan {
    vv_iter base;
    vv_sst_reader *reader;
    vv_io_queue *queue;
    vv_block_cache *cache; /* or NULL */
    _Atomic uint64_t *memory_bytes;
    uint64_t counted_bytes; /* there */
    uint8_t *buffers;       /* of all slots */
    uint64_t buffers_bytes;
    uint32_t chunk_bytes;
    uint32_t slot_count;
    uint64_t begin_offset; /* of chunk 0 in the file */
    uint64_t first;        /* the first chunk that is still needed */
    uint64_t end;          /* the first that was not asked for yet */
    vv_sst_buffer joined;
    vv_sst_buffer unpacked;
    vv_sst_unpacker unpacker;
    const void *block; /* ready; in a slot, in joined or in unpacked */
    uint64_t block_index;
    uint32_t entry_index;
    vv_heat heat; /* of the block */
    scan_slot slots[SLOT_COUNT_MAX];
} scan;

static void count_memory(scan *s, uint64_t bytes) {
    if (!s->memory_bytes)
        return;
    /* relaxed: a gauge; a difference below zero wraps round, and so does the sum. */
    atomic_fetch_add_explicit(s->memory_bytes, bytes - s->counted_bytes, memory_order_relaxed);
    s->counted_bytes = bytes;
}

/* ---- chunks ---- */

static scan_slot *slot_of(scan *s, uint64_t chunk) {
    return &s->slots[chunk % s->slot_count];
}

static void chunk_done(vv_io_req *req) {
    VV_CONTAINER_OF(req, scan_slot, req)->in_flight = false;
}

/* Ask for chunks while there is a free slot for them. */
static void read_ahead(scan *s) {
    uint64_t data_bytes = s->reader->index.head.data_bytes;
    bool asked = false;
    for (; s->end < s->first + s->slot_count; s->end++) {
        uint64_t offset = s->begin_offset + s->end * s->chunk_bytes;
        if (offset >= data_bytes)
            break;
        scan_slot *slot = slot_of(s, s->end);
        slot->req = (vv_io_req){
            .op = VV_IO_READ,
            .file = s->reader->file,
            .buf = slot->buffer,
            .offset = offset,
            .bytes = (uint32_t)VV_MIN(data_bytes - offset, (uint64_t)s->chunk_bytes),
            .done = chunk_done,
        };
        slot->in_flight = true;
        vv_io_submit(s->queue, &slot->req);
        asked = true;
    }
    /* Give it to the kernel now, so that it is read while the chunk before it is used. */
    if (asked)
        vv_status_keep(&s->base.status, vv_io_run(s->queue, 0, NULL));
}

/* False: the queue is broken and gives nothing back. */
static bool wait_for(scan *s, const scan_slot *slot) {
    while (slot->in_flight) {
        uint32_t done;
        vv_status st = vv_io_run(s->queue, 1, &done);
        vv_status_keep(&s->base.status, st);
        if (!vv_ok(st) && done == 0)
            return false;
    }
    return true;
}

static bool wait_for_all(scan *s) {
    bool all = true;
    for (uint32_t i = 0; i < s->slot_count; i++)
        all = wait_for(s, &s->slots[i]) && all;
    return all;
}

/* Wait for the chunk that holds `offset`; false: status says why it isn't there. */
static bool need_chunk(scan *s, uint64_t offset, const scan_slot **out) {
    const scan_slot *slot = slot_of(s, (offset - s->begin_offset) / s->chunk_bytes);
    *out = slot;
    if (!wait_for(s, slot))
        return false;
    vv_status_keep(&s->base.status, slot->req.status);
    if (vv_ok(s->base.status) && slot->req.transferred_bytes < slot->req.bytes)
        s->base.status = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    return vv_ok(s->base.status);
}

/* Nothing before `offset` is needed any more. */
static void leave_behind(scan *s, uint64_t offset) {
    s->first = (offset - s->begin_offset) / s->chunk_bytes;
    read_ahead(s);
}

/* ---- blocks ---- */

/* Put a block together that lies in several chunks. */
static bool join(scan *s, vv_block_handle h) {
    s->joined.bytes = 0;
    uint8_t *to = vv_sst_buffer_extend(&s->joined, h.bytes);
    if (!to) {
        s->base.status = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        return false;
    }
    uint64_t offset = h.offset, end = h.offset + h.bytes;
    while (offset < end) {
        const scan_slot *slot;
        if (!need_chunk(s, offset, &slot))
            return false;
        uint64_t within = offset - slot->req.offset;
        uint64_t bytes = VV_MIN(end - offset, slot->req.bytes - within);
        memcpy(to, slot->buffer + within, bytes);
        to += bytes;
        offset += bytes;
        leave_behind(s, offset);
    }
    return true;
}

/* Verify what was read from h, and unpack it if need be. */
static vv_status make_ready(scan *s, vv_block_handle h, const void *bytes) {
    uint32_t image_bytes;
    VV_TRY(vv_sst_block_verify(s->reader, h, bytes, &image_bytes));
    s->block = bytes;
    if (image_bytes == 0)
        return VV_STATUS_OK;
    s->unpacked.bytes = 0;
    void *image = vv_sst_buffer_extend(&s->unpacked, image_bytes);
    s->block = image;
    return image ? vv_sst_block_unpack(&s->unpacker, bytes, image)
                 : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

/* Make block `index` the current one; false: there is none, or it can't be had, which status then says. */
static bool load(scan *s, uint64_t index) {
    if (index >= s->reader->index.head.block_count || !vv_ok(s->base.status))
        return false;
    vv_block_handle h = vv_sst_index_handle(&s->reader->index, index);
    leave_behind(s, h.offset);
    const scan_slot *slot;
    if (!need_chunk(s, h.offset, &slot))
        return false;
    uint64_t within = h.offset - slot->req.offset;
    const void *bytes = slot->buffer + within;
    if (h.bytes > slot->req.bytes - within) {
        if (!join(s, h))
            return false;
        bytes = s->joined.data;
    }
    s->base.status = make_ready(s, h, bytes);
    count_memory(s, s->buffers_bytes + s->joined.capacity_bytes + s->unpacked.capacity_bytes);
    s->block_index = index;
    if (s->cache)
        s->heat = vv_block_cache_heat(s->cache, s->reader->file_number, h.offset);
    return vv_ok(s->base.status);
}

/* Begin at block `index`. */
static bool begin(scan *s, uint64_t index) {
    s->base.valid = false;
    if (index >= s->reader->index.head.block_count || !vv_ok(s->base.status) || !wait_for_all(s))
        return false;
    s->begin_offset = vv_sst_index_handle(&s->reader->index, index).offset;
    s->first = s->end = 0;
    return load(s, index);
}

/* Show entry `index` of the current block. */
static void show(scan *s, uint32_t index) {
    s->entry_index = index;
    vv_sst_block_entry(s->block, index, &s->base.entry);
    s->base.entry.heat = (uint8_t)s->heat;
    s->base.valid = true;
}

/* ---- the cursor ---- */

static void scan_destroy(vv_iter *base) {
    scan *s = (scan *)base;
    if (!wait_for_all(s))
        return; /* the kernel may still write into the buffers: they are lost with the queue */
    vv_sst_buffer_deinit(&s->joined);
    vv_sst_buffer_deinit(&s->unpacked);
    vv_sst_unpacker_deinit(&s->unpacker);
    count_memory(s, 0);
    vv_free(s->buffers);
    vv_free(s);
}

static void scan_seek_first(vv_iter *base) {
    scan *s = (scan *)base;
    if (begin(s, 0))
        show(s, 0);
}

static void scan_seek(vv_iter *base, vv_slice key, uint64_t lsn) {
    scan *s = (scan *)base;
    if (!begin(s, vv_sst_index_find(&s->reader->index, key, lsn)))
        return;
    uint32_t index = vv_sst_block_lower_bound(s->block, key, lsn);
    if (index == vv_sst_block_count(s->block)) {
        /* The index promised an entry at or behind this one. */
        base->status = vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
        return;
    }
    show(s, index);
}

static void scan_next(vv_iter *base) {
    scan *s = (scan *)base;
    base->valid = false;
    if (s->entry_index + 1 < vv_sst_block_count(s->block))
        show(s, s->entry_index + 1);
    else if (load(s, s->block_index + 1))
        show(s, 0);
}

#define FORWARD_ONLY false

static void scan_seek_last(vv_iter *base) {
    (void)base;
    VV_ASSERT(FORWARD_ONLY);
}

static void scan_seek_back(vv_iter *base, vv_slice key, uint64_t lsn) {
    (void)base;
    (void)key;
    (void)lsn;
    VV_ASSERT(FORWARD_ONLY);
}

static void scan_prev(vv_iter *base) {
    (void)base;
    VV_ASSERT(FORWARD_ONLY);
}

static const vv_iter_ops scan_ops = {.destroy = scan_destroy,
                                     .seek_first = scan_seek_first,
                                     .seek_last = scan_seek_last,
                                     .seek = scan_seek,
                                     .seek_back = scan_seek_back,
                                     .next = scan_next,
                                     .prev = scan_prev};

/* Three chunks where the window has room for three, so that one is used while two are on their way. */
static void divide(scan *s, uint64_t window_bytes) {
    uint64_t window = VV_MAX(VV_MIN(window_bytes, VV_SST_SCAN_BYTES_MAX), VV_SST_SCAN_BYTES_MIN);
    uint64_t slots = VV_MIN(window / CHUNK_BYTES_MIN, (uint64_t)SLOT_COUNT_MAX);
    s->chunk_bytes = (uint32_t)(window / slots / CHUNK_BYTES_MIN * CHUNK_BYTES_MIN);
    uint64_t data_bytes = s->reader->index.head.data_bytes;
    uint64_t chunks = (data_bytes + s->chunk_bytes - 1) / s->chunk_bytes;
    s->slot_count = (uint32_t)VV_MIN(chunks, slots);
    s->buffers_bytes = VV_MIN(data_bytes, slots * s->chunk_bytes);
}

vv_status vv_sst_scan_create(vv_sst_reader *r, const vv_sst_scan_options *o, vv_iter **out) {
    *out = NULL;
    scan *s = vv_alloc_zeroed(sizeof *s);
    if (!s)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    s->base.ops = &scan_ops;
    s->reader = r;
    s->queue = o->queue;
    s->cache = o->cache;
    s->memory_bytes = o->memory_bytes;
    divide(s, o->window_bytes);
    s->buffers = vv_alloc_aligned(VV_IO_ALIGN_BYTES, s->buffers_bytes);
    if (!s->buffers) {
        vv_free(s);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    for (uint32_t i = 0; i < s->slot_count; i++)
        s->slots[i].buffer = s->buffers + (size_t)i * s->chunk_bytes;
    count_memory(s, s->buffers_bytes);
    *out = &s->base;
    return VV_STATUS_OK;
}
