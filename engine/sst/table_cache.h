/*
 * table_cache.h - open SSTable readers, bounded in number and in the memory of their indexes and filters.
 * Those that were not used for long are closed first.
 *
 * A reader is pinned while somebody uses it. To pin one that is open, and to release it, takes no lock and
 * writes to no line that another core writes to; in return the pin, which says where it is counted, is kept
 * and given back.
 */
#ifndef VV_ENGINE_SST_TABLE_CACHE_H
#define VV_ENGINE_SST_TABLE_CACHE_H

#include "engine/sst/sst.h"

typedef struct vv_table_cache vv_table_cache;

/* dir: where the tables live; copied. capacity: open readers at most, and memory_bytes_max what they take
 * of the heap; only pinned ones may exceed either. NO_MEMORY. */
vv_status vv_table_cache_create(vv_io_backend *b, const char *dir, uint32_t capacity,
                                uint64_t memory_bytes_max, vv_table_cache **out) VV_CHECKED;
/* No reader may be pinned. NULL is fine. */
void vv_table_cache_destroy(vv_table_cache *c);

/* The file name of a table: "<dir>/<number as 16 hex digits>.sst" into buf. */
void vv_table_cache_path(const char *dir, uint64_t file_number, char *buf, size_t buf_bytes);

/* Where a pin is counted: nothing that callers look into. */
typedef uint32_t vv_table_pin;
/* What vv_table_cache_get() gives. */
#define VV_TABLE_PIN_SHARED 0

/* The reader if it is open, pinned; NULL else. Never blocks on I/O. */
vv_sst_reader *vv_table_cache_peek(vv_table_cache *c, uint64_t file_number, vv_table_pin *pin_out);

/* The reader, opened if need be (blocking; two threads open one table once), pinned until release, with a pin
 * that is VV_TABLE_PIN_SHARED. */
vv_status vv_table_cache_get(vv_table_cache *c, uint64_t file_number, vv_sst_reader **out,
                             vv_error *err) VV_CHECKED;
/* On any thread. */
void vv_table_cache_release(vv_table_cache *c, vv_sst_reader *r, vv_table_pin pin);

/* Close a table that is gone, once nobody has it pinned. */
void vv_table_cache_erase(vv_table_cache *c, uint64_t file_number);

/* Open readers now. */
uint64_t vv_table_cache_open_count(vv_table_cache *c);
/* Their indexes and filters. */
uint64_t vv_table_cache_memory_bytes(vv_table_cache *c);

#endif
