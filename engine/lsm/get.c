#include "engine/lsm/get.h"

#include "base/checksum.h"
#include "base/clock.h"

void vv_get_init(vv_get *g, vv_view *view, vv_table_cache *tables, vv_block_cache *blocks, vv_slice key,
                 uint64_t lsn) {
    *g = (vv_get){.view = view,
                  .tables = tables,
                  .blocks = blocks,
                  .key = key,
                  .lsn = lsn,
                  .status = vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0),
                  .at = VV_GET_AT_MEMORY};
}

static vv_get_want finish(vv_get *g, vv_status st) {
    g->status = st;
    g->at = VV_GET_AT_END;
    return VV_GET_DONE;
}

/* `entry` is the newest version that the reader may see: a tombstone, or an expired entry, ends the search
 * too. */
static vv_get_want finish_found(vv_get *g) {
    if (g->entry.kind == VV_KIND_DELETE ||
        (g->entry.expires_unix_ms != 0 && vv_entry_expired(&g->entry, vv_clock_unix_ms())))
        return finish(g, vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0));
    return finish(g, VV_STATUS_OK);
}

/* An empty memtable, as after a flush, is passed by its count: the entries that the reader may see were
 * counted before their LSN became visible. */
static bool find_in_memtable(vv_get *g, vv_memtable *m) {
    return vv_memtable_count(m) > 0 && vv_memtable_get(m, g->key, g->lsn, &g->entry);
}

static bool find_in_memory(vv_get *g) {
    const vv_view *v = g->view;
    if (find_in_memtable(g, v->active))
        return true;
    for (uint32_t i = 0; i < v->sealed_count; i++)
        if (find_in_memtable(g, v->sealed[i]))
            return true;
    return false;
}

static void release_reader(vv_get *g) {
    if (g->reader)
        vv_table_cache_release(g->tables, g->reader, g->reader_pin);
    g->reader = NULL;
}

static void release_block(vv_get *g) {
    if (g->block)
        vv_block_cache_release(g->blocks, g->block);
    g->block = NULL;
}

/* The table of the next run that may hold the key; false when there are no more runs. */
static bool next_table(vv_get *g) {
    const vv_version *version = g->view->version;
    for (; g->run_index < version->run_count; g->run_index++) {
        vv_table *t = vv_run_find(&version->runs[g->run_index], g->key);
        if (t && t->summary.min_lsn <= g->lsn) {
            g->table_number = t->file_number;
            return true;
        }
    }
    return false;
}

/* Filter and index say which block to want; false: the key is not in this table. */
static bool choose_block(vv_get *g) {
    return vv_sst_reader_may_contain(g->reader, g->key_hash) &&
           vv_sst_reader_find_key(g->reader, g->key, g->lsn, &g->block_handle);
}

static void next_run(vv_get *g) {
    release_reader(g);
    g->run_index++;
    g->at = VV_GET_AT_RUN;
}

vv_get_want vv_get_step(vv_get *g) {
    for (;;) {
        switch (g->at) {
        case VV_GET_AT_MEMORY:
            if (find_in_memory(g))
                return finish_found(g);
            g->at = VV_GET_AT_RUN;
            break;
        case VV_GET_AT_RUN:
            if (!next_table(g))
                return finish(g, vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0));
            g->at = VV_GET_AT_TABLE;
            g->reader = vv_table_cache_peek(g->tables, g->table_number, &g->reader_pin);
            break;
        case VV_GET_AT_TABLE:
            if (!g->reader)
                return VV_GET_WANTS_TABLE;
            /* The hash serves every table; memory hits never need it. */
            if (g->key_hash == 0)
                g->key_hash = vv_hash_key(g->key.data, g->key.bytes);
            if (!choose_block(g)) {
                next_run(g);
                break;
            }
            g->at = VV_GET_AT_BLOCK;
            g->block = vv_block_cache_find(g->blocks, g->reader, g->block_handle);
            break;
        case VV_GET_AT_BLOCK:
            if (!g->block)
                return VV_GET_WANTS_BLOCK;
            if (vv_block_seek_key(g->block, g->block_handle, g->key, g->key_hash, g->lsn, &g->entry)) {
                release_reader(g);
                return finish_found(g);
            }
            release_block(g);
            next_run(g);
            break;
        case VV_GET_AT_END: return VV_GET_DONE;
        }
    }
}

void vv_get_supply_table(vv_get *g, vv_status st, vv_sst_reader *reader) {
    VV_ASSERT(g->at == VV_GET_AT_TABLE && !g->reader);
    g->reader = reader;
    g->reader_pin = VV_TABLE_PIN_SHARED;
    /* A table of the version is there, or data is lost: its file missing must not read as the key missing. */
    if (vv_is(st, VV_NOT_FOUND))
        st = vv_status_make(VV_CORRUPTION, VV_SUB_NONE, st.sys);
    if (!vv_ok(st))
        (void)finish(g, st);
}

void vv_get_supply_block(vv_get *g, vv_status st, vv_block *block) {
    VV_ASSERT(g->at == VV_GET_AT_BLOCK && !g->block);
    g->block = block;
    g->block_reads++;
    if (!vv_ok(st))
        (void)finish(g, st);
}

void vv_get_damage(const vv_get *g, vv_slice *first_out, vv_slice *last_out) {
    VV_ASSERT(g->at == VV_GET_AT_END && !vv_ok(g->status));
    if (g->reader) {
        vv_sst_reader_find_keys(g->reader, g->key, g->lsn, first_out, last_out);
        return;
    }
    const vv_table *t = vv_run_find(&g->view->version->runs[g->run_index], g->key);
    *first_out = vv_table_first_key(t);
    *last_out = vv_table_last_key(t);
}

vv_block *vv_get_take_block(vv_get *g) {
    vv_block *block = g->block;
    g->block = NULL;
    return block;
}

void vv_get_deinit(vv_get *g) {
    release_block(g);
    release_reader(g);
}
