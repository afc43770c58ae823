/*
 * batch.c - lists of operations, encoded as they are added, so that a commit copies bytes and no more.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "engine/db/db_impl.h"

varve_batch *varve_batch_create(void) {
    return vv_alloc_zeroed(sizeof(varve_batch));
}

void varve_batch_destroy(varve_batch *batch) {
    if (!batch)
        return;
    varve_batch_clear(batch);
    vv_free(batch->conditions);
    vv_free(batch->ops);
    vv_free(batch);
}

void varve_batch_clear(varve_batch *batch) {
    for (size_t i = 0; i < batch->condition_count; i++)
        vv_free(batch->conditions[i].bytes);
    *batch = (varve_batch){
        .ops = batch->ops, .capacity_bytes = batch->capacity_bytes, .conditions = batch->conditions};
}

static vv_status grow(varve_batch *batch, size_t more_bytes) {
    size_t need = batch->ops_bytes + more_bytes;
    if (need > VV_RECORD_OPS_BYTES_MAX)
        return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BATCH_TOO_LARGE, 0);
    if (need <= batch->capacity_bytes)
        return VV_STATUS_OK;
    size_t capacity = VV_MAX(need, batch->capacity_bytes * 2);
    uint8_t *ops = vv_realloc(batch->ops, capacity);
    if (!ops)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    batch->ops = ops;
    batch->capacity_bytes = capacity;
    return VV_STATUS_OK;
}

static void append_bytes(varve_batch *batch, const void *data, size_t bytes) {
    if (bytes)
        memcpy(batch->ops + batch->ops_bytes, data, bytes);
    batch->ops_bytes += bytes;
}

static varve_status add(varve_batch *batch, const vv_entry *e) {
    if (e->key.bytes == 0)
        return vv_public(vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_KEY_EMPTY, 0));
    if (e->key.bytes > VV_KEY_BYTES_MAX)
        return vv_public(vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_KEY_TOO_LONG, 0));
    if (e->value.bytes > VARVE_VALUE_BYTES_MAX)
        return vv_public(vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_VALUE_TOO_LARGE, 0));
    vv_status st = grow(batch, VV_OP_HEAD_BYTES + e->key.bytes + e->value.bytes);
    if (!vv_ok(st))
        return vv_public(st);
    uint8_t head[VV_OP_HEAD_BYTES];
    vv_op_head_encode(head, e);
    append_bytes(batch, head, sizeof head);
    append_bytes(batch, e->key.data, e->key.bytes);
    append_bytes(batch, e->value.data, e->value.bytes);
    batch->op_count++;
    batch->put_count += e->kind == VV_KIND_PUT;
    batch->data_bytes += e->key.bytes + e->value.bytes;
    batch->value_bytes_max = VV_MAX(batch->value_bytes_max, e->value.bytes);
    return vv_public(VV_STATUS_OK);
}

varve_status varve_batch_put(varve_batch *batch, const void *key, size_t key_bytes, const void *value,
                             size_t value_bytes) {
    vv_entry e = {.key = vv_slice_make(key, key_bytes),
                  .value = vv_slice_make(value, value_bytes),
                  .kind = VV_KIND_PUT};
    return add(batch, &e);
}

varve_status varve_batch_put_expiring(varve_batch *batch, const void *key, size_t key_bytes,
                                      const void *value, size_t value_bytes, uint64_t expires_unix_ms) {
    vv_entry e = {.key = vv_slice_make(key, key_bytes),
                  .value = vv_slice_make(value, value_bytes),
                  .kind = VV_KIND_PUT,
                  .expires_unix_ms = expires_unix_ms};
    return add(batch, &e);
}

varve_status varve_batch_delete(varve_batch *batch, const void *key, size_t key_bytes) {
    vv_entry e = {.key = vv_slice_make(key, key_bytes), .kind = VV_KIND_DELETE};
    return add(batch, &e);
}

size_t varve_batch_count(const varve_batch *batch) {
    return batch->op_count;
}

bool varve_batch_next(const varve_batch *batch, size_t *position, varve_batch_op *out) {
    *out = (varve_batch_op){0};
    if (*position >= batch->ops_bytes)
        return false;
    vv_reader r = vv_reader_make(vv_slice_make(batch->ops + *position, batch->ops_bytes - *position));
    vv_entry e;
    vv_status st = vv_op_decode(&r, &e);
    VV_ASSERT(vv_ok(st)); /* encoded here */
    *out = (varve_batch_op){.deleted = e.kind == VV_KIND_DELETE,
                            .key = e.key.data,
                            .key_bytes = e.key.bytes,
                            .value = e.value.data,
                            .value_bytes = e.value.bytes,
                            .expires_unix_ms = e.expires_unix_ms};
    *position += VV_OP_HEAD_BYTES + e.key.bytes + e.value.bytes;
    return true;
}

/* ---- conditions ---- */

static varve_status require(varve_batch *batch, vv_condition_kind kind, vv_slice key, vv_slice value,
                            uint64_t lsn) {
    if (key.bytes == 0)
        return vv_public(vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_KEY_EMPTY, 0));
    if (key.bytes > VV_KEY_BYTES_MAX)
        return vv_public(vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_KEY_TOO_LONG, 0));
    vv_status no_memory = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_condition *conditions =
        vv_realloc(batch->conditions, (batch->condition_count + 1) * sizeof *batch->conditions);
    if (!conditions)
        return vv_public(no_memory);
    batch->conditions = conditions;
    vv_condition *c = &conditions[batch->condition_count];
    *c = (vv_condition){.kind = kind, .key_bytes = key.bytes, .value_bytes = value.bytes, .lsn = lsn};
    c->bytes = vv_alloc(key.bytes + value.bytes);
    if (!c->bytes)
        return vv_public(no_memory);
    memcpy(c->bytes, key.data, key.bytes);
    if (value.bytes)
        memcpy(c->bytes + key.bytes, value.data, value.bytes);
    batch->condition_count++;
    return vv_public(VV_STATUS_OK);
}

varve_status varve_batch_require_absent(varve_batch *batch, const void *key, size_t key_bytes) {
    return require(batch, VV_REQUIRE_ABSENT, vv_slice_make(key, key_bytes), vv_slice_make(NULL, 0), 0);
}

varve_status varve_batch_require_lsn(varve_batch *batch, const void *key, size_t key_bytes, uint64_t lsn) {
    return require(batch, VV_REQUIRE_LSN, vv_slice_make(key, key_bytes), vv_slice_make(NULL, 0), lsn);
}

varve_status varve_batch_require_value(varve_batch *batch, const void *key, size_t key_bytes,
                                       const void *value, size_t value_bytes) {
    return require(batch, VV_REQUIRE_VALUE, vv_slice_make(key, key_bytes), vv_slice_make(value, value_bytes),
                   0);
}

bool varve_batch_condition(const varve_batch *batch, size_t index, bool *held_out,
                           uint64_t *current_lsn_out) {
    if (index >= batch->condition_count)
        return false;
    *held_out = batch->conditions[index].held;
    *current_lsn_out = batch->conditions[index].current_lsn;
    return true;
}
