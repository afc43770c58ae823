/*
 * iter.c - a cursor over one table: a position in the index and one pinned block.
 *
 * All blocks come through the cache. One that isn't there is read on the spot, until the cursor has gone
 * through some blocks in order: then it comes from the read-ahead, and enters the cache like any other, to be
 * the first to leave it. While others have used up what all may read ahead, it goes on as before.
 *
 * Shortly before the end of a block it looks for the next one, if that is cached, so that its first entries
 * come from memory while the last ones of this block are read.
 */
#include "base/alloc.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/sst_impl.h"

/* So many blocks in order, and more are expected to follow. */
#define STEPS_TO_READ_AHEAD 2
/* So many entries before a block's end the next one is looked for. */
#define ENTRIES_TO_LOOK_AHEAD 12

typedef struct sst_iter {
    vv_iter base;
    vv_entry *entry; /* where the current one is shown: in `base`, or in the owner's */
    vv_sst_reader *reader;
    vv_block_cache *cache;
    const vv_sst_fetcher *fetcher; /* or NULL */
    vv_sst_readahead *readahead;   /* or NULL: not needed yet */
    uint32_t steps;                /* from a block to the next one, since it came elsewhere from */
    vv_block *block;               /* pinned, or NULL */
    uint64_t block_index;          /* of `block` */
    uint32_t entry_count;          /* in `block` */
    uint32_t entry_index;
    uint32_t entry_look; /* where to look ahead; entry_count: it is done */
    vv_block *ahead;     /* the block behind `block`, pinned, or NULL */
} sst_iter;

static void unpin(sst_iter *it) {
    if (it->block)
        vv_block_cache_release(it->cache, it->block);
    if (it->ahead)
        vv_block_cache_release(it->cache, it->ahead);
    it->block = it->ahead = NULL;
}

/* As far as the steps' own requests for what comes later don't reach. */
static void prefetch_entries(const uint8_t *at) {
    for (size_t i = 0; i <= VV_SST_ENTRIES_AHEAD_BYTES; i += VV_CACHE_LINE_BYTES)
        __builtin_prefetch(at + i);
}

static void look_ahead(sst_iter *it) {
    it->entry_look = it->entry_count;
    if (it->ahead || it->block_index + 1 >= vv_sst_reader_block_count(it->reader))
        return;
    vv_block_handle h = vv_sst_reader_block(it->reader, it->block_index + 1);
    it->ahead = vv_block_cache_find_again(it->cache, it->reader, h);
    if (it->ahead)
        prefetch_entries(it->ahead->data);
}

static vv_status read_ahead(sst_iter *it, vv_block_handle h) {
    uint64_t file_number = vv_sst_reader_file_number(it->reader);
    it->block = vv_block_cache_find(it->cache, it->reader, h);
    if (it->block)
        return VV_STATUS_OK;
    if (!it->readahead)
        it->readahead = vv_sst_readahead_create(it->reader, it->fetcher);
    if (!it->readahead)
        return vv_block_cache_fetch(it->cache, it->reader, h, &it->block, NULL);
    vv_block *b = vv_block_cache_allocate(it->cache, file_number, h);
    if (!b)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_status st = vv_sst_readahead_copy(it->readahead, h, b->data);
    if (!vv_ok(st)) {
        vv_block_cache_discard(it->cache, b);
        /* Perhaps it is another block of the piece that can't be read. */
        return vv_block_cache_fetch(it->cache, it->reader, h, &it->block, NULL);
    }
    return vv_block_cache_complete(it->cache, it->reader, b, h.bytes, &it->block, NULL);
}

/* Pin block `index`; false: there is none, or it can't be read, which `status` then says. */
static bool pin(sst_iter *it, uint64_t index) {
    if (it->block && it->block_index == index)
        return true;
    bool steps = it->block && index == it->block_index + 1;
    vv_block *ahead = steps ? it->ahead : NULL;
    if (ahead)
        it->ahead = NULL;
    it->steps = steps ? it->steps + 1 : 0;
    unpin(it);
    if (index >= vv_sst_reader_block_count(it->reader))
        return false;
    it->block = ahead;
    if (!ahead) {
        vv_block_handle h = vv_sst_reader_block(it->reader, index);
        it->base.status = it->fetcher && it->steps >= STEPS_TO_READ_AHEAD
                              ? read_ahead(it, h)
                              : vv_block_cache_read(it->cache, it->reader, h, &it->block, NULL);
    }
    it->block_index = index;
    if (!vv_ok(it->base.status))
        return false;
    if (index + 1 < vv_sst_reader_block_count(it->reader))
        vv_block_cache_expect(it->cache, it->reader, (uint32_t)index + 1);
    it->entry_count = vv_block_count(it->block);
    it->entry_look = it->entry_count > ENTRIES_TO_LOOK_AHEAD ? it->entry_count - ENTRIES_TO_LOOK_AHEAD : 0;
    return true;
}

/* Show entry `index` of the pinned block. */
static void show(sst_iter *it, uint32_t index) {
    it->entry_index = index;
    vv_block_entry(it->block, index, it->entry);
    it->base.valid = true;
}

static void iter_destroy(vv_iter *base) {
    sst_iter *it = (sst_iter *)base;
    unpin(it);
    vv_sst_readahead_destroy(it->readahead);
    vv_free(it);
}

/* Whatever failed before, here or in the readahead, is over: another place may be readable. */
static void start(vv_iter *base) {
    base->valid = false;
    base->status = VV_STATUS_OK;
}

static void iter_seek_first(vv_iter *base) {
    sst_iter *it = (sst_iter *)base;
    start(base);
    if (pin(it, 0))
        show(it, 0);
}

static void iter_seek(vv_iter *base, vv_slice key, uint64_t lsn) {
    sst_iter *it = (sst_iter *)base;
    start(base);
    if (!pin(it, vv_sst_index_find(&it->reader->index, key, lsn)))
        return;
    uint32_t index = vv_block_lower_bound(it->block, key, lsn);
    if (index == it->entry_count) {
        /* The index promised an entry at or behind this one. */
        base->status = vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
        return;
    }
    show(it, index);
    prefetch_entries((const uint8_t *)it->entry->key.data);
}

static void iter_next(vv_iter *base) {
    sst_iter *it = (sst_iter *)base;
    if (VV_UNLIKELY(it->entry_index >= it->entry_look))
        look_ahead(it);
    if (VV_LIKELY(it->entry_index + 1 < it->entry_count)) {
        it->entry_index++;
        vv_sst_block_entry_next(it->entry);
        return;
    }
    base->valid = false;
    if (pin(it, it->block_index + 1))
        show(it, 0);
}

/* Show the last entry before entry `index` of the pinned block, which may be in the block before. */
static void show_before(sst_iter *it, uint32_t index) {
    if (index > 0)
        show(it, index - 1);
    else if (it->block_index > 0 && pin(it, it->block_index - 1))
        show(it, it->entry_count - 1);
}

static void iter_seek_last(vv_iter *base) {
    sst_iter *it = (sst_iter *)base;
    start(base);
    if (pin(it, vv_sst_reader_block_count(it->reader) - 1))
        show(it, it->entry_count - 1);
}

static void iter_seek_back(vv_iter *base, vv_slice key, uint64_t lsn) {
    sst_iter *it = (sst_iter *)base;
    start(base);
    uint64_t block_index = vv_sst_index_find(&it->reader->index, key, lsn);
    if (block_index == vv_sst_reader_block_count(it->reader)) {
        iter_seek_last(base);
        return;
    }
    if (!pin(it, block_index))
        return;
    uint32_t index = vv_block_lower_bound(it->block, key, lsn);
    if (index < it->entry_count) {
        show(it, index);
        if (vv_entry_compare(it->entry->key, it->entry->lsn, key, lsn) == 0)
            return;
    }
    base->valid = false;
    show_before(it, index);
}

static void iter_prev(vv_iter *base) {
    base->valid = false;
    show_before((sst_iter *)base, ((sst_iter *)base)->entry_index);
}

static bool iter_damage(const vv_iter *base, vv_slice *first_out, vv_slice *last_out) {
    const sst_iter *it = (const sst_iter *)base;
    vv_sst_index_key_range(&it->reader->index, it->block_index, first_out, last_out);
    return true;
}

static const vv_iter_ops iter_ops = {.destroy = iter_destroy,
                                     .seek_first = iter_seek_first,
                                     .seek_last = iter_seek_last,
                                     .seek = iter_seek,
                                     .seek_back = iter_seek_back,
                                     .next = iter_next,
                                     .prev = iter_prev,
                                     .damage = iter_damage};

vv_status vv_sst_iter_create(vv_sst_reader *r, vv_block_cache *c, const vv_sst_fetcher *f, vv_iter **out) {
    *out = NULL;
    sst_iter *it = vv_alloc_zeroed(sizeof *it);
    if (!it)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    it->base.ops = &iter_ops;
    it->entry = &it->base.entry;
    it->reader = r;
    it->cache = c;
    it->fetcher = f;
    *out = &it->base;
    return VV_STATUS_OK;
}

void vv_sst_iter_show_at(vv_iter *it, vv_entry *at) {
    ((sst_iter *)it)->entry = at;
}
