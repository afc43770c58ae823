/*
 * read.c - blocking reads: they drive the lookup's step machine (engine/lsm/get.h) and bring what it wants.
 */
#include <string.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"

/* What a varve_value holds on to. */
enum { PIN_NONE, PIN_VIEW, PIN_BLOCK, PIN_DAMAGE };

/* What the value of a get that met damage holds: the keys that are affected, as copies, since neither table
 * nor view is worth keeping for them. */
typedef struct damage {
    size_t first_bytes;
    size_t last_bytes;
    uint8_t keys[];
} damage;

void vv_db_bring_table(varve_db *db, vv_get *g, vv_error *err) {
    vv_sst_reader *reader = NULL;
    vv_status st = vv_table_cache_get(db->tables, g->table_number, &reader, err);
    vv_get_supply_table(g, st, reader);
}

/* The lookup has just missed it in the cache. */
static void bring_block(varve_db *db, vv_get *g, vv_error *err) {
    vv_block *block = NULL;
    vv_status st = vv_block_cache_fetch(db->blocks, g->reader, g->block_handle, &block, err);
    vv_get_supply_block(g, st, block);
}

vv_status vv_db_lookup_resume(varve_db *db, vv_get *g) {
    vv_error err;
    err.text[0] = '\0'; /* the rest is not worth its time in each get */
    for (;;) {
        switch (vv_get_step(g)) {
        case VV_GET_WANTS_TABLE: vv_db_bring_table(db, g, &err); break;
        case VV_GET_WANTS_BLOCK: bring_block(db, g, &err); break;
        case VV_GET_DONE:
            if (!vv_ok(g->status) && !vv_is(g->status, VV_NOT_FOUND))
                vv_log(&db->logger, VV_LOG_ERROR, "get: %s", err.text);
            return g->status;
        }
    }
}

vv_status vv_db_lookup(varve_db *db, vv_view *view, uint64_t lsn, vv_slice key, vv_get *g) {
    vv_get_init(g, view, db->tables, db->blocks, key, lsn);
    return vv_db_lookup_resume(db, g);
}

vv_status vv_db_check_key(size_t key_bytes) {
    if (key_bytes == 0)
        return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_KEY_EMPTY, 0);
    if (key_bytes > VV_KEY_BYTES_MAX)
        return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_KEY_TOO_LONG, 0);
    return VV_STATUS_OK;
}

/* Without memory the answer is the same, but for where the damage is. */
static void take_damage(const vv_get *g, varve_value *out) {
    vv_slice first, last;
    vv_get_damage(g, &first, &last);
    damage *d = vv_alloc(sizeof *d + first.bytes + last.bytes);
    if (!d)
        return;
    *d = (damage){.first_bytes = first.bytes, .last_bytes = last.bytes};
    memcpy(d->keys, first.data, first.bytes);
    memcpy(d->keys + first.bytes, last.data, last.bytes);
    *out = (varve_value){.pin_ = d, .pin_kind_ = PIN_DAMAGE};
}

bool varve_value_damage(const varve_value *value, varve_key_range *out) {
    *out = (varve_key_range){0};
    if (value->pin_kind_ != PIN_DAMAGE)
        return false;
    const damage *d = value->pin_;
    *out = (varve_key_range){.first_key = d->keys,
                             .first_key_bytes = d->first_bytes,
                             .last_key = d->keys + d->first_bytes,
                             .last_key_bytes = d->last_bytes};
    return true;
}

void vv_db_value_take(varve_db *db, vv_get *g, varve_value *out) {
    *out = (varve_value){0};
    if (vv_is(g->status, VV_CORRUPTION))
        take_damage(g, out);
    if (!vv_ok(g->status))
        return;
    *out = (varve_value){.data = g->entry.value.data,
                         .bytes = g->entry.value.bytes,
                         .lsn = g->entry.lsn,
                         .expires_unix_ms = g->entry.expires_unix_ms,
                         .db_ = db,
                         .pin_ = vv_get_take_block(g),
                         .pin_kind_ = PIN_BLOCK};
    if (!out->pin_) {
        out->pin_ = g->view;
        out->pin_kind_ = PIN_VIEW;
        g->view = NULL;
    }
}

/* snapshot NULL: the newest state. */
static varve_status get(varve_db *db, const void *key, size_t key_bytes, const varve_snapshot *snapshot,
                        varve_value *out) {
    *out = (varve_value){0};
    vv_status st = vv_db_check_key(key_bytes);
    if (!vv_ok(st))
        return vv_public(st);
    uint64_t lsn;
    vv_view *view = vv_db_view(db, &lsn);
    vv_get g;
    st = vv_db_lookup(db, view, snapshot ? snapshot->lsn : lsn, vv_slice_make(key, key_bytes), &g);
    vv_db_value_take(db, &g, out);
    vv_get_deinit(&g);
    vv_db_view_release(db, g.view);
    return vv_public(st);
}

varve_status varve_get(varve_db *db, const void *key, size_t key_bytes, varve_value *out) {
    return get(db, key, key_bytes, NULL, out);
}

varve_status varve_get_at(varve_db *db, const varve_snapshot *snapshot, const void *key, size_t key_bytes,
                          varve_value *out) {
    return get(db, key, key_bytes, snapshot, out);
}

void varve_value_release(varve_value *value) {
    varve_db *db = value->db_;
    if (value->pin_kind_ == PIN_BLOCK)
        vv_block_cache_release(db->blocks, value->pin_);
    else if (value->pin_kind_ == PIN_VIEW)
        vv_db_view_release(db, value->pin_);
    else if (value->pin_kind_ == PIN_DAMAGE)
        vv_free(value->pin_);
    *value = (varve_value){0};
}
