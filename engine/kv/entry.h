/*
 * entry.h - what the engine stores: one version of one key.
 *
 * Internal order: user key ascending (bytewise), then LSN descending, so that the newest version of a key
 * comes first and a reader at LSN s takes the first version whose lsn <= s. No two entries share an LSN.
 */
#ifndef VV_ENGINE_KV_ENTRY_H
#define VV_ENGINE_KV_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

#define VV_KEY_BYTES_MAX 65535
#define VV_LSN_MAX       UINT64_MAX

typedef enum vv_kind {
    VV_KIND_PUT = 1,
    VV_KIND_DELETE = 2, /* tombstone: its value is empty */
} vv_kind;

/* Whether what an entry was read from is in memory for gets. */
typedef enum vv_heat {
    VV_HEAT_COLD = 0,
    VV_HEAT_WARM = 1, /* it is, and was used; or it has just been written */
    VV_HEAT_HOT = 2,  /* it is, and was used again and again */
} vv_heat;

typedef struct vv_entry {
    vv_slice key;   /* 1 to VV_KEY_BYTES_MAX bytes */
    vv_slice value; /* empty for a tombstone */
    uint64_t lsn;
    uint64_t expires_unix_ms; /* 0: never */
    uint8_t kind;             /* a vv_kind */
    uint8_t flags;            /* 0 so far; readers refuse what they do not know */
    uint8_t heat;             /* a vv_heat, which a table's writer goes by; not stored */
} vv_entry;

/* <0, 0, >0 in the internal order. */
static inline int vv_entry_compare(vv_slice a_key, uint64_t a_lsn, vv_slice b_key, uint64_t b_lsn) {
    int order = vv_slice_compare(a_key, b_key);
    if (order != 0)
        return order;
    return (a_lsn < b_lsn) - (a_lsn > b_lsn);
}

static inline bool vv_entry_expired(const vv_entry *e, uint64_t now_unix_ms) {
    return e->expires_unix_ms != 0 && e->expires_unix_ms <= now_unix_ms;
}

#endif
