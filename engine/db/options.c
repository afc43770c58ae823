/*
 * options.c - the engine's configuration table, and varve_options over it.
 */
#include "base/alloc.h"
#include "engine/db/db_impl.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

static const char *const memtable_types[] = {"hashmap", "skiplist", "btree", NULL};
static const char *const compaction_styles[] = {"tiered", "leveled", NULL};
static const char *const index_types[] = {"sparse", "dense", NULL};
static const char *const compressions[] = {"none", "lz4", "zstd", NULL};
static const char *const io_backends[] = {"auto", "uring", "posix", NULL};

_Static_assert(VV_COMPACTION_TIERED == 0 && VV_COMPACTION_LEVELED == 1,
               "compaction_styles is indexed by vv_compaction_style");
_Static_assert(VV_MEMTABLE_HASHMAP == 0 && VV_MEMTABLE_SKIPLIST == 1 && VV_MEMTABLE_BTREE == 2,
               "memtable_types is indexed by vv_memtable_type");
_Static_assert(VV_INDEX_SPARSE == 0 && VV_INDEX_DENSE == 1, "index_types is indexed by vv_index_type");
_Static_assert(VV_COMPRESSION_NONE == 0 && VV_COMPRESSION_LZ4 == 1 && VV_COMPRESSION_ZSTD == 2,
               "compressions is indexed by vv_compression");
_Static_assert(VV_IO_CHOICE_AUTO == 0 && VV_IO_CHOICE_URING == 1 && VV_IO_CHOICE_POSIX == 2,
               "io_backends is indexed by vv_io_choice");

#define FIELD(name) offsetof(vv_settings, name)

static const vv_option options[] = {
    {"BLOCK_SIZE", VV_OPTION_BYTES, FIELD(block_bytes), "4KiB", VV_SST_BLOCK_BYTES_MIN,
     VV_SST_BLOCK_BYTES_MAX, true, NULL, "disk I/O block size"},
    {"MEMTABLE_SIZE", VV_OPTION_BYTES, FIELD(memtable_bytes), "64MiB", 64 * KIB, 16 * GIB, false, NULL,
     "a memtable is sealed at this size (keys, values and overhead)"},
    {"MEMTABLE_TYPE", VV_OPTION_CHOICE, FIELD(memtable_type), "skiplist", 0, 0, false, memtable_types,
     "structure of the memtable"},
    {"MAX_IMMUTABLE_COUNT", VV_OPTION_COUNT, FIELD(immutable_count_max), "4", 1, VV_IMMUTABLE_COUNT_LIMIT,
     false, NULL, "sealed memtables that may wait for flush before writes wait"},
    {"WAL_SEGMENT_SIZE", VV_OPTION_BYTES, FIELD(wal_segment_bytes), "64MiB", 256 * KIB, 4 * GIB, false, NULL,
     "bytes per log segment, preallocated and recycled"},
    {"WAL_BUFFER_SIZE", VV_OPTION_COUNT, FIELD(wal_slot_count), "8", 2, 64, false, NULL,
     "group-commit buffers (slots) in the log writer"},
    {"MAX_WAL_SIZE", VV_OPTION_BYTES, FIELD(wal_bytes_max), "512MiB", 1 * MIB, 1024 * GIB, false, NULL,
     "a memtable is sealed when it holds this much log: bounds disk use and recovery"},
    {"WAL_RETENTION_MAX", VV_OPTION_BYTES, FIELD(wal_retention_bytes), "4GiB", 256 * KIB, 1024 * 1024 * GIB,
     false, NULL, "log that is kept for slots alone; one that needs more is lost"},
    {"WAL_SYNC_INTERVAL", VV_OPTION_DURATION, FIELD(wal_sync_interval_us), "10ms", 100, 60000000, false, NULL,
     "asynchronous writes are durable after this time at the latest"},
    {"LSM_LEVELS", VV_OPTION_COUNT, FIELD(levels), "4", 2, VV_LEVELS_MAX, false, NULL, "number of levels"},
    {"COMPACTION_THRESHOLD", VV_OPTION_COUNT, FIELD(compaction_threshold), "4", 2, 64, false, NULL,
     "sorted runs in a level before they are merged into the next"},
    {"COMPACTION_STYLE", VV_OPTION_CHOICE, FIELD(compaction_style), "leveled", 0, 0, false, compaction_styles,
     "tiered writes less, leveled reads less and takes less space"},
    {"MAX_TABLE_SIZE", VV_OPTION_BYTES, FIELD(table_bytes_max), "64MiB", 64 * KIB, 64 * GIB, false, NULL,
     "merges split their output into tables of about this size"},
    {"COMPACTION_RATE", VV_OPTION_BYTES, FIELD(compaction_rate), "0B", 0, 1024 * GIB, false, NULL,
     "bytes a second that merges read and write again, unless writes would have to wait for them; 0: as fast "
     "as it goes"},
    {"CACHE_CAPACITY", VV_OPTION_BYTES_OR_COUNT, FIELD(cache_capacity), "256MiB", 0, 1024 * GIB, false, NULL,
     "block cache; without a unit in blocks"},
    {"TABLE_CACHE_SIZE", VV_OPTION_COUNT, FIELD(table_cache_count), "1000", 1, 1000000, false, NULL,
     "open SSTable readers"},
    {"TABLE_CACHE_MEMORY", VV_OPTION_BYTES, FIELD(table_cache_bytes), "1GiB", 1 * MIB, 1024 * GIB, false,
     NULL, "index and filter memory of open SSTable readers"},
    {"BLOOM_FILTER_FALSE_POSITIVE_RATE", VV_OPTION_RATE, FIELD(filter_fp_rate), "0.01", 0, 0, false, NULL,
     "target; 0 turns the filters off"},
    {"INDEX_TYPE", VV_OPTION_CHOICE, FIELD(index_type), "sparse", 0, 0, false, index_types,
     "a key a block, or a key an entry: faster for absent keys, and takes the memory of all keys"},
    {"COMPRESSION", VV_OPTION_CHOICE, FIELD(compression), "none", 0, 0, false, compressions,
     "of data blocks, for tables written from now on"},
    {"IO_BACKEND", VV_OPTION_CHOICE, FIELD(io_choice), "auto", 0, 0, false, io_backends,
     "uring, posix, or auto: uring where the kernel allows it"},
    {"MAX_VALUE_SIZE", VV_OPTION_BYTES, FIELD(value_bytes_max), "32MiB", 1, VARVE_VALUE_BYTES_MAX - MIB,
     false, NULL, "longest value that is accepted"},
    {"MAX_BATCH_SIZE", VV_OPTION_BYTES, FIELD(batch_bytes_max), "64MiB", 64 * KIB, VV_RECORD_OPS_BYTES_MAX,
     false, NULL, "most bytes in one atomic batch, 16 for each operation included"},
};

vv_option_table vv_settings_table(void) {
    return (vv_option_table){options, VV_ARRAY_COUNT(options)};
}

/* What varve_reconfigure() applies. */
static bool is_live(const vv_option *o) {
    return o->offset == FIELD(cache_capacity) || o->offset == FIELD(compaction_rate);
}

uint64_t vv_settings_cache_bytes(const vv_settings *s) {
    if (s->cache_capacity & VV_OPTION_IS_COUNT)
        return (s->cache_capacity & ~VV_OPTION_IS_COUNT) * s->block_bytes;
    return s->cache_capacity;
}

varve_options *varve_options_create(void) {
    varve_options *o = vv_alloc_zeroed(sizeof *o);
    if (o)
        vv_config_defaults(vv_settings_table(), &o->settings);
    return o;
}

void varve_options_destroy(varve_options *o) {
    vv_free(o);
}

varve_status varve_options_set(varve_options *o, const char *key, const char *value, varve_error *err) {
    return vv_public(vv_config_set(vv_settings_table(), &o->settings, key, value, vv_private_error(err)));
}

bool varve_options_describe(size_t index, varve_option_info *out) {
    if (index >= VV_ARRAY_COUNT(options))
        return false;
    const vv_option *o = &options[index];
    *out = (varve_option_info){
        .key = o->key, .default_value = o->default_value, .meaning = o->meaning, .live = is_live(o)};
    vv_option_allowed(o, out->allowed, sizeof out->allowed);
    return true;
}

bool varve_options_get(const varve_options *o, const char *key, char *buf, size_t buf_bytes) {
    const vv_option *option = vv_config_find(vv_settings_table(), key);
    if (!option)
        return false;
    vv_config_format(option, &o->settings, buf, buf_bytes);
    return true;
}

_Static_assert((int)VARVE_LOG_DEBUG == (int)VV_LOG_DEBUG && (int)VARVE_LOG_ERROR == (int)VV_LOG_ERROR,
               "same levels");

void varve_options_set_log(varve_options *o, varve_log_fn fn, void *arg, varve_log_level least) {
    /* varve_log_fn and vv_logger.write differ only in the name of the level's enum. */
    o->logger = (vv_logger){
        .write = (void (*)(void *, vv_log_level, const char *))fn, .arg = arg, .least = (vv_log_level)least};
}

void varve_options_set_group_callback(varve_options *o, varve_group_fn fn, void *arg) {
    o->group_fn = fn;
    o->group_arg = arg;
}

void varve_options_set_durable_callback(varve_options *o, varve_durable_fn fn, void *arg) {
    o->durable_fn = fn;
    o->durable_arg = arg;
}
