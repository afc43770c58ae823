/*
 * db_impl.h - the database object, shared by the files of engine/db only.
 *
 * Lock order, left before right: commit.lock, state.lock. No I/O happens under state.lock. The locks of the
 * log and of the caches are leaves.
 */
#ifndef VV_ENGINE_DB_DB_IMPL_H
#define VV_ENGINE_DB_DB_IMPL_H

#include "base/config.h"
#include "base/log.h"
#include "base/sync.h"
#include "engine/db/commit_queue.h"
#include "engine/lsm/manifest.h"
#include "engine/lsm/view.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/table_cache.h"
#include "engine/varve.h"
#include "engine/wal/wal.h"

#define VV_DB_PATH_BYTES 4096

/* The upper limit of MAX_IMMUTABLE_COUNT. */
#define VV_IMMUTABLE_COUNT_LIMIT 64

typedef struct vv_settings {
    uint64_t block_bytes;
    uint64_t memtable_bytes;
    uint32_t memtable_type;
    uint32_t io_choice;
    uint64_t immutable_count_max;
    uint64_t wal_segment_bytes;
    uint64_t wal_slot_count;
    uint64_t wal_bytes_max;
    uint64_t wal_sync_interval_us;
    uint64_t cache_capacity; /* bytes, or blocks with VV_OPTION_IS_COUNT */
    uint64_t table_cache_count;
    double filter_fp_rate;
    uint64_t value_bytes_max;
    uint64_t batch_bytes_max;
} vv_settings;

struct varve_options {
    vv_settings settings;
    vv_logger logger;
    varve_group_fn group_fn;
    void *group_arg;
};

/* The configuration table of the engine (options.c). */
vv_option_table vv_settings_table(void);

struct varve_batch {
    uint8_t *ops; /* encoded, engine/kv/record.h */
    size_t ops_bytes;
    size_t capacity_bytes;
    uint32_t op_count;
    uint64_t data_bytes; /* keys and values */
    uint64_t value_bytes_max;
};

struct varve_db {
    vv_settings settings;
    vv_logger logger;
    varve_group_fn group_fn;
    void *group_arg;
    char dir[VV_DB_PATH_BYTES];
    uint64_t memtable_seed;
    uint64_t epoch;

    vv_io_backend *io;
    vv_file *lock_file;
    vv_block_cache *blocks;
    vv_table_cache *tables;
    vv_wal *wal;

    /* The newest LSN that readers see. Stored with release once it is durable (or, asynchronous, in the log's
     * buffer) and in the memtable; a reader's acquire load then finds the entries. */
    _Atomic uint64_t visible_lsn;
    _Atomic bool wal_failed;
    _Atomic bool closing;

    /* Writers hand over here. The holder of `lock` is the single writer: it alone appends to the log, adds to
     * the active memtable and replaces it. */
    struct {
        vv_commit_queue queue;
        vv_mutex lock;
        pthread_t thread;
        bool thread_started;
        _Atomic uint32_t last_group_count; /* writes in the newest group: >1 means that queueing pays */
        vv_memtable *active; /* under lock, as all that follows; the view's, which keeps it alive */
        uint64_t next_lsn;
        bool unsynced;               /* asynchronous writes are in the log's buffer */
        uint64_t memtable_wal_bytes; /* log bytes written when the active memtable was new */
    } commit;

    struct {
        vv_mutex lock;
        vv_cond flush_wanted; /* something was sealed, or stopping */
        vv_cond flush_done;   /* a flush ended, well or not */
        vv_view *view;
        vv_manifest manifest;
        vv_status flush_status; /* of the newest flush */
        bool stopping;
        pthread_t flusher;
        bool flusher_started;
        uint64_t flushes;
        uint64_t write_stalls;
    } state;
};

static inline varve_status vv_public(vv_status st) {
    return (varve_status){.code = st.code, .reason = st.sub, .sys = st.sys};
}

/* The public error buffer is the internal one under its public name. */
_Static_assert(sizeof(varve_error) == sizeof(vv_error), "same storage");
static inline vv_error *vv_private_error(varve_error *err) {
    if (err)
        err->text[0] = '\0';
    return (vv_error *)err;
}

/* What a write is told when a file of ours failed. To its caller NOT_FOUND, EXISTS and the like would speak
 * of its key or its arguments. */
static inline vv_status vv_db_file_failure(vv_status st) {
    switch (st.code) {
    case VV_INVALID_ARGUMENT:
    case VV_NOT_FOUND:
    case VV_EXISTS:
    case VV_PERMISSION: return vv_status_make(VV_IO, VV_SUB_NONE, st.sys);
    default: return st;
    }
}

/* ---- open.c ---- */

/* As varve_open(), on a backend of the caller's choice instead of IO_BACKEND's. The backend is taken over,
 * also when opening fails. */
vv_status vv_db_open_on(vv_io_backend *io_take, const char *path, const varve_options *options,
                        varve_db **db_out, vv_error *err) VV_CHECKED;

/* ---- state.c ---- */

/* A reference to the current view. Load visible_lsn before, not after. */
vv_view *vv_db_view(varve_db *db);

/* Replace the active memtable by an empty one and queue it for flush. Everything in it is durable in the log.
 * Waits while MAX_IMMUTABLE_COUNT memtables are queued already, unless flushes fail: then their status, and
 * nothing changed. commit.lock held. */
vv_status vv_db_seal(varve_db *db) VV_CHECKED;

/* Write the oldest sealed memtable to a table and install it. `queue` belongs to the calling thread. One
 * caller at a time. False: nothing was sealed. *st_out: how it went. */
bool vv_db_flush_oldest(varve_db *db, vv_io_queue *queue, vv_status *st_out);

/* The flusher thread's main. */
void vv_db_flusher(void *arg);

/* The queue that flushes write through. */
vv_status vv_db_flush_queue_create(varve_db *db, vv_io_queue **out, vv_error *err) VV_CHECKED;

/* Called when an obsolete table loses its last reader: removes it from the caches and the disk. */
void vv_db_drop_table(void *arg, uint64_t file_number);

/* ---- write.c ---- */

/* The writer thread's main. */
void vv_db_writer(void *arg);

/* Add the operations of a record to `m`, which has reserved room for them. They decode: they were checked. */
void vv_db_apply(vv_memtable *m, uint64_t first_lsn, uint32_t op_count, vv_slice ops);

#endif
