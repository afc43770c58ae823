/*
 * replay.c - from the log into memtables, at open.
 *
 * Nobody reads yet, so that entries need not go in one by one as they come: for a skip list they are gathered
 * and added in key order, where each finds what the one before it has just brought into the processor's
 * cache. A memtable that fills up is flushed at once: recovery needs no more memory than running does.
 *
 * What is gathered is in the memtable before that is sealed or counted, so that a memtable never lacks an
 * entry below its last LSN: what is flushed may be forgotten by the log.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"

#define GATHER_BYTES_MAX (UINT64_C(16) << 20)
#define RESERVE_COUNT    1024 /* entries that are reserved for at a time */

/* An operation that was gathered. */
struct vv_replay_item {
    uint64_t prefix; /* of its key: decides most comparisons */
    uint64_t lsn;
    const uint8_t *op; /* encoded, in `bytes` */
    uint32_t op_bytes;
};

void vv_replay_init(vv_replay *r, varve_db *db, vv_io_queue *queue) {
    *r = (vv_replay){.db = db, .queue = queue};
    /* A part of what a memtable takes, which it may be over its size. */
    r->capacity_bytes = VV_MIN(db->settings.memtable_bytes / 4, GATHER_BYTES_MAX);
}

void vv_replay_deinit(vv_replay *r) {
    vv_free(r->bytes);
    vv_free(r->items);
}

static uint64_t prefix_of(vv_slice key) {
    uint8_t head[8] = {0};
    memcpy(head, key.data, VV_MIN(key.bytes, sizeof head));
    return vv_get_be64(head);
}

static void decode(const vv_replay_item *item, vv_entry *e) {
    vv_reader reader = vv_reader_make(vv_slice_make(item->op, item->op_bytes));
    vv_status st = vv_op_decode(&reader, e);
    VV_ASSERT(vv_ok(st)); /* the log has checked them */
    e->lsn = item->lsn;
}

static int compare_items(const void *a, const void *b) {
    const vv_replay_item *x = a, *y = b;
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix ? -1 : 1;
    vv_entry ex, ey;
    decode(x, &ex);
    decode(y, &ey);
    int order = vv_slice_compare(ex.key, ey.key);
    return order ? order : (x->lsn > y->lsn) - (x->lsn < y->lsn);
}

/* All that is gathered into the memtable. */
static vv_status apply_gathered(vv_replay *r) {
    if (r->item_count == 0)
        return VV_STATUS_OK;
    vv_memtable *m = r->db->commit.active;
    qsort(r->items, r->item_count, sizeof *r->items, compare_items);
    for (size_t i = 0; i < r->item_count; i++) {
        if (i % RESERVE_COUNT == 0) {
            size_t count = VV_MIN(r->item_count - i, (size_t)RESERVE_COUNT);
            uint64_t bytes = 0;
            for (size_t j = i; j < i + count; j++)
                bytes += r->items[j].op_bytes;
            VV_TRY(vv_memtable_reserve(m, count, bytes));
        }
        vv_entry e;
        decode(&r->items[i], &e);
        vv_memtable_add_unordered(m, &e);
    }
    r->item_count = 0;
    r->used_bytes = 0;
    return VV_STATUS_OK;
}

static vv_status apply_record(vv_replay *r, const vv_record *rec) {
    vv_memtable *m = r->db->commit.active;
    VV_TRY(
        vv_memtable_reserve(m, rec->op_count, rec->ops.bytes - (uint64_t)rec->op_count * VV_OP_HEAD_BYTES));
    vv_db_apply(m, rec->first_lsn, rec->op_count, rec->ops);
    return VV_STATUS_OK;
}

static vv_status make_room(vv_replay *r, uint32_t count) {
    if (!r->bytes)
        r->bytes = vv_alloc(r->capacity_bytes);
    if (r->item_count + count > r->item_capacity) {
        size_t capacity = VV_MAX(2 * r->item_capacity, r->item_count + count);
        vv_replay_item *items = vv_realloc(r->items, capacity * sizeof *items);
        if (!items)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        r->items = items;
        r->item_capacity = capacity;
    }
    return r->bytes ? VV_STATUS_OK : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static vv_status gather(vv_replay *r, const vv_record *rec) {
    VV_TRY(make_room(r, rec->op_count));
    memcpy(r->bytes + r->used_bytes, rec->ops.data, rec->ops.bytes);
    vv_reader reader = vv_reader_make(vv_slice_make(r->bytes + r->used_bytes, rec->ops.bytes));
    r->used_bytes += rec->ops.bytes;
    const uint8_t *op = r->bytes + r->used_bytes - rec->ops.bytes;
    for (uint32_t i = 0; i < rec->op_count; i++) {
        vv_entry e;
        VV_TRY(vv_op_decode(&reader, &e));
        const uint8_t *end = r->bytes + r->used_bytes - reader.left_bytes;
        r->items[r->item_count++] = (vv_replay_item){.prefix = prefix_of(e.key),
                                                     .lsn = rec->first_lsn + i,
                                                     .op = op,
                                                     .op_bytes = (uint32_t)(end - op)};
        op = end;
    }
    return VV_STATUS_OK;
}

static vv_status flush_if_full(vv_replay *r) {
    varve_db *db = r->db;
    if (vv_memtable_bytes(db->commit.active) < db->settings.memtable_bytes)
        return VV_STATUS_OK;
    vv_status st;
    VV_TRY(vv_db_seal(db));
    (void)vv_db_flush_oldest(db, r->queue, &st);
    return st;
}

vv_status vv_replay_record(void *arg, const vv_record *rec) {
    vv_replay *r = arg;
    varve_db *db = r->db;
    if (rec->ops.bytes > r->capacity_bytes - r->used_bytes)
        VV_TRY(apply_gathered(r));
    if (r->item_count == 0)
        VV_TRY(flush_if_full(r));
    if (db->commit.active->ops->any_order && rec->ops.bytes <= r->capacity_bytes)
        VV_TRY(gather(r, rec));
    else
        VV_TRY(apply_record(r, rec));
    db->epoch = VV_MAX(db->epoch, rec->epoch);
    r->records++;
    return VV_STATUS_OK;
}

vv_status vv_replay_finish(vv_replay *r) {
    return apply_gathered(r);
}
