/*
 * readahead.c - two chunks of a table: one is used while the one behind it is on its way.
 *
 *   used up | chunk at hand | chunk behind it | not asked for
 *
 * Chunks begin small and double, so that a scan that ends soon has neither asked for much nor taken much
 * memory; they stay as they are where the budget gives no more. A cursor that jumps out of both chunks, say
 * over blocks that the cache has, begins anew where it lands.
 *
 * `on_its_way` is the only word that two threads touch: set before the request is handed over, cleared with
 * release when it is done, by which time the other thread is through with the chunk.
 */
#include "engine/sst/readahead.h"

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/sst/sst_impl.h"

#define CHUNK_BYTES_FIRST (UINT32_C(16) << 10)
#define CHUNK_BYTES_MAX   (UINT32_C(256) << 10)

_Static_assert(VV_SST_READAHEAD_BYTES_MIN == 2 * CHUNK_BYTES_FIRST, "what readahead.h says");
_Static_assert(VV_SST_READAHEAD_BYTES_MAX == 2 * CHUNK_BYTES_MAX, "what readahead.h says");

typedef struct chunk {
    vv_sst_fetch fetch;
    _Atomic uint32_t on_its_way;
    uint64_t offset;
    uint64_t end_offset; /* that of `offset`: nothing is here */
    uint8_t *buffer;
    uint32_t buffer_bytes; /* taken from the budget */
} chunk;

struct vv_sst_readahead {
    const vv_sst_reader *reader;
    const vv_sst_fetcher *fetcher;
    uint32_t next_bytes;
    chunk chunks[2];
};

/* Replace the buffer of a chunk that nobody reads into by one of `bytes`, if budget and memory allow it. */
static bool grow(chunk *c, vv_budget *budget, uint32_t bytes) {
    uint32_t more = bytes - c->buffer_bytes;
    if (!vv_budget_take(budget, more))
        return false;
    uint8_t *buffer = vv_alloc_aligned(VV_IO_ALIGN_BYTES, bytes);
    if (!buffer) {
        vv_budget_give(budget, more);
        return false;
    }
    vv_free(c->buffer);
    c->buffer = buffer;
    c->buffer_bytes = bytes;
    return true;
}

vv_sst_readahead *vv_sst_readahead_create(const vv_sst_reader *r, const vv_sst_fetcher *f) {
    vv_sst_readahead *ra = vv_alloc_zeroed(sizeof *ra);
    if (!ra)
        return NULL;
    ra->reader = r;
    ra->fetcher = f;
    ra->next_bytes = CHUNK_BYTES_FIRST;
    for (int i = 0; i < 2; i++)
        if (!grow(&ra->chunks[i], f->budget, CHUNK_BYTES_FIRST)) {
            vv_sst_readahead_destroy(ra);
            return NULL;
        }
    return ra;
}

static void wait_for(chunk *c) {
    while (atomic_load_explicit(&c->on_its_way, memory_order_acquire))
        vv_futex_wait(&c->on_its_way, 1);
}

void vv_sst_readahead_destroy(vv_sst_readahead *ra) {
    if (!ra)
        return;
    for (int i = 0; i < 2; i++) {
        chunk *c = &ra->chunks[i];
        wait_for(c);
        vv_free(c->buffer);
        vv_budget_give(ra->fetcher->budget, c->buffer_bytes);
    }
    vv_free(ra);
}

static void fetched(vv_io_req *req) {
    chunk *c = VV_CONTAINER_OF(VV_CONTAINER_OF(req, vv_sst_fetch, req), chunk, fetch);
    /* From here on the chunk may be gone; a wake of a word that is gone wakes nobody. */
    atomic_store_explicit(&c->on_its_way, 0, memory_order_release);
    vv_futex_wake(&c->on_its_way, 1);
}

static void ask(vv_sst_readahead *ra, chunk *c, uint64_t offset) {
    wait_for(c);
    c->end_offset = c->offset; /* what it held is gone with its buffer */
    if (c->buffer_bytes < ra->next_bytes && !grow(c, ra->fetcher->budget, ra->next_bytes))
        ra->next_bytes = c->buffer_bytes;
    uint64_t bytes = VV_MIN(ra->reader->index.head.data_bytes - offset, (uint64_t)ra->next_bytes);
    c->offset = offset;
    c->end_offset = offset + bytes;
    c->fetch.req = (vv_io_req){.op = VV_IO_READ,
                               .file = ra->reader->file,
                               .buf = c->buffer,
                               .offset = offset,
                               .bytes = (uint32_t)bytes,
                               .done = fetched};
    atomic_store_explicit(&c->on_its_way, 1, memory_order_relaxed);
    ra->fetcher->fetch(ra->fetcher->arg, &c->fetch);
    ra->next_bytes = VV_MIN(ra->next_bytes * 2, CHUNK_BYTES_MAX);
}

static bool holds(const chunk *c, uint64_t offset) {
    return offset >= c->offset && offset < c->end_offset;
}

/* The chunk that holds `offset`, asked for if need be, as is the one behind it. */
static chunk *need(vv_sst_readahead *ra, uint64_t offset) {
    chunk *c = &ra->chunks[0], *other = &ra->chunks[1];
    if (holds(other, offset)) {
        c = other;
        other = &ra->chunks[0];
    }
    if (!holds(c, offset))
        ask(ra, c, offset);
    if (c->end_offset < ra->reader->index.head.data_bytes && !holds(other, c->end_offset))
        ask(ra, other, c->end_offset);
    wait_for(c);
    return c;
}

vv_status vv_sst_readahead_copy(vv_sst_readahead *ra, vv_block_handle h, void *to) {
    uint64_t offset = h.offset, end = h.offset + h.bytes;
    for (uint8_t *at = to; offset < end;) {
        chunk *c = need(ra, offset);
        vv_status st = c->fetch.req.status;
        if (vv_ok(st) && c->fetch.req.transferred_bytes < c->fetch.req.bytes)
            st = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
        if (!vv_ok(st)) {
            c->end_offset = c->offset; /* to be asked for again */
            return st;
        }
        size_t bytes = (size_t)(VV_MIN(end, c->end_offset) - offset);
        memcpy(at, c->buffer + (offset - c->offset), bytes);
        at += bytes;
        offset += bytes;
    }
    return VV_STATUS_OK;
}
