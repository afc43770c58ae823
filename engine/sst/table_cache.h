/*
 * table_cache.h - open SSTable readers, bounded in number and in the memory of their indexes and filters,
 * least recently used ones closed first.
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

/* The reader if it is open, pinned; NULL else. Never blocks on I/O. */
vv_sst_reader *vv_table_cache_peek(vv_table_cache *c, uint64_t file_number);

/* The reader, opened if need be (blocking; two threads open one table once), pinned until release. */
vv_status vv_table_cache_get(vv_table_cache *c, uint64_t file_number, vv_sst_reader **out,
                             vv_error *err) VV_CHECKED;
void vv_table_cache_release(vv_table_cache *c, vv_sst_reader *r);

/* Close a table that is gone, once nobody has it pinned. */
void vv_table_cache_erase(vv_table_cache *c, uint64_t file_number);

/* Open readers now. */
uint64_t vv_table_cache_open_count(vv_table_cache *c);
/* Their indexes and filters. */
uint64_t vv_table_cache_memory_bytes(vv_table_cache *c);

#endif
