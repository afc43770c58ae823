/*
 * db_impl.h - the database object, shared by the files of engine/db only.
 *
 * Lock order, left before right: commit.lock or slots.change, install_lock, state.lock, slots.lock. No I/O
 * happens under the last two. The locks of the log and of the caches are leaves.
 */
#ifndef VV_ENGINE_DB_DB_IMPL_H
#define VV_ENGINE_DB_DB_IMPL_H

#include "base/checksum.h"
#include "base/config.h"
#include "base/log.h"
#include "base/spread.h"
#include "base/stack.h"
#include "base/sync.h"
#include "engine/db/commit_queue.h"
#include "engine/db/gather.h"
#include "engine/db/marker.h"
#include "engine/db/retry.h"
#include "engine/lsm/get.h"
#include "engine/lsm/manifest.h"
#include "engine/lsm/picker.h"
#include "engine/lsm/view.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/table_cache.h"
#include "engine/varve.h"
#include "engine/wal/wal.h"

#define VV_DB_PATH_BYTES 4096

/* The upper limit of MAX_IMMUTABLE_COUNT. */
#define VV_IMMUTABLE_COUNT_LIMIT 64

/* What one merge reads ahead, and what all cursors of users together do. Enough for both to run at the rate
 * of the disk: a merge of 10 runs, and some 32 cursors over long ranges. */
#define VV_DB_MERGE_READ_BYTES_MAX  (UINT64_C(16) << 20)
#define VV_DB_CURSOR_READ_BYTES_MAX (UINT64_C(16) << 20)

/* What a block may take, in units of BLOCK_SIZE, in tables of levels 0 and 1, which are soon merged again:
 * with values of 1 KiB they are a fifth smaller, and so are flushes and merges. Most gets from the disk are
 * answered by deeper levels, whose blocks take one unit. */
#define VV_DB_UPPER_BLOCK_UNITS 4

/* Writes that wait for the commit limit: at so many, or so many bytes of them, new ones are refused. */
#define VV_DB_WAITING_COUNT_MAX (UINT64_C(1) << 20)
#define VV_DB_WAITING_BYTES_MAX (UINT64_C(256) << 20)
#define VV_DB_WAITING_TICKS     256

typedef struct vv_settings {
    uint64_t block_bytes;
    uint64_t memtable_bytes;
    uint32_t memtable_type;
    uint32_t io_choice;
    uint64_t immutable_count_max;
    uint64_t wal_segment_bytes;
    uint64_t wal_slot_count;
    uint64_t wal_bytes_max;
    uint64_t wal_retention_bytes;
    uint64_t wal_sync_interval_us;
    uint64_t cache_capacity; /* bytes, or blocks with VV_OPTION_IS_COUNT */
    uint64_t table_cache_count;
    uint64_t table_cache_bytes;
    uint32_t index_type;
    uint32_t compression;
    double filter_fp_rate;
    uint64_t value_bytes_max;
    uint64_t batch_bytes_max;
    uint64_t levels;
    uint64_t compaction_threshold;
    uint32_t compaction_style;
    uint64_t table_bytes_max;
    uint64_t compaction_rate; /* bytes a second; 0: no limit. At open; then compaction.rate */
} vv_settings;

struct varve_options {
    vv_settings settings;
    vv_logger logger;
    varve_group_fn group_fn;
    void *group_arg;
    varve_durable_fn durable_fn;
    void *durable_arg;
};

/* The configuration table of the engine (options.c). */
vv_option_table vv_settings_table(void);
/* CACHE_CAPACITY in bytes. */
uint64_t vv_settings_cache_bytes(const vv_settings *s);

/* See slots.c. */
typedef struct vv_slot {
    vv_slot_mark mark;
    vv_wal_hold *hold; /* NULL: lost */
} vv_slot;

struct varve_snapshot {
    varve_snapshot *next; /* in state.snapshots, the same LSN or a higher one */
    varve_snapshot *prev;
    uint64_t lsn;
};

typedef enum vv_condition_kind { VV_REQUIRE_ABSENT, VV_REQUIRE_LSN, VV_REQUIRE_VALUE } vv_condition_kind;

typedef struct vv_condition {
    vv_condition_kind kind;
    uint8_t *bytes; /* key, then value; owned */
    size_t key_bytes;
    size_t value_bytes;
    uint64_t lsn;
    bool held; /* the answer */
    uint64_t current_lsn;
} vv_condition;

struct varve_batch {
    vv_condition *conditions; /* the writer fills in the answers while the batch is lent to it */
    size_t condition_count;
    uint8_t *ops; /* encoded, engine/kv/record.h */
    size_t ops_bytes;
    size_t capacity_bytes;
    uint32_t op_count;
    uint32_t put_count;
    uint64_t data_bytes; /* keys and values */
    uint64_t value_bytes_max;
};

struct varve_db {
    vv_settings settings;
    vv_logger logger;
    varve_group_fn group_fn;
    void *group_arg;
    varve_durable_fn durable_fn;
    void *durable_arg;
    char dir[VV_DB_PATH_BYTES];
    uint64_t memtable_seed;
    uint64_t epoch; /* of our own writes, the newest that the log has had; under commit.lock */

    vv_mutex reconfigure_lock; /* one varve_reconfigure() at a time; taken before no other but the caches' */

    vv_io_backend *io;
    vv_file *lock_file;
    vv_block_cache *blocks;
    vv_table_cache *tables;
    vv_wal *wal;

    /* The newest LSN that readers see. Stored with release once it is durable (or, asynchronous, in the log's
     * buffer), in the memtable, and within the commit limit; a reader's acquire load then finds the entries.
     */
    _Atomic uint64_t visible_lsn;
    _Atomic bool wal_failed;
    _Atomic bool closing;
    _Atomic bool space_short; /* puts are refused, see space.c */

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
        uint64_t committed_lsn; /* visible, or hidden by the commit limit alone */
        vv_gather gather;       /* how many to wait for before the next commit */
        vv_retry_table retry;   /* of all writes below next_lsn */
        _Atomic uint64_t retried_writes;
        bool epoch_is_ours;          /* our own writes may carry db->epoch (epochs.c) */
        bool epoch_in_doubt;         /* the manifest on disk may say otherwise than the one in memory */
        bool unsynced;               /* asynchronous writes are in the log's buffer */
        uint64_t sync_due_ns;        /* while unsynced: when they have to be durable */
        uint64_t memtable_wal_bytes; /* log bytes written when the active memtable was new */
        uint64_t space_wal_bytes;    /* the same when free space was last looked at */
    } commit;

    /* How far others have confirmed (commit_limit.c). */
    struct {
        vv_mutex lock;                         /* one varve_limit_commits() at a time */
        VV_CACHE_ALIGNED _Atomic uint64_t lsn; /* VV_COMMIT_LIMIT_NONE: nobody is asked */
        _Atomic bool hides;                    /* something committed is not visible for its sake */
        _Atomic uint64_t merge_lsn;            /* a merge is wanted when this is visible; 0: none */
    } limit;

    /* Answers that wait for it (answer.c); under commit.lock. */
    struct {
        vv_write *first, *last;
        vv_write *ticks[VV_DB_WAITING_TICKS]; /* those that have a deadline, by it */
        uint64_t tick;                        /* deadlines up to here were looked at */
        uint64_t timed_count;
        uint64_t bytes;
        _Atomic uint64_t count; /* read by anyone */
    } waiting;

    /* Held by whoever replaces the manifest, over the I/O that this takes: one change of the set of tables at
     * a time. */
    vv_mutex install_lock;
    /* Under it: new tables of changes that failed so late that the manifest on disk may name them. Their
     * files stay until another manifest is known to be there. */
    vv_table **doubtful;
    size_t doubtful_count;

    _Atomic uint64_t lookups_at_flush; /* of blocks in the cache, until the last flush began */
    _Atomic uint64_t io_memory_bytes;  /* pools of queues, what merges read ahead, table writers */

    vv_view_cell current; /* state.view, for readers without a lock */

    /* Flow control (flow.h). The figures are of the current view, stored with it, and read without a lock:
     * they are advice, and any order will do. */
    struct {
        _Atomic uint32_t sealed_count;
        _Atomic uint32_t level0_runs;
        _Atomic uint64_t debt_bytes;
        _Atomic uint64_t delays;
        _Atomic uint64_t delay_us;
        _Atomic uint64_t flushed_ns; /* when the newest flush ended, and how long after the one before */
        _Atomic uint64_t flush_gap_ns;
        uint64_t next_ns; /* the next group is not taken before; under commit.lock */
    } flow;

    struct {
        vv_mutex lock;
        vv_cond flush_wanted; /* something was sealed, or stopping */
        vv_cond flush_done;   /* a flush ended, well or not */
        vv_view *view;
        vv_manifest manifest;
        vv_retry_image *flushed_retry; /* as of manifest.flushed_lsn, which borrows it */
        vv_retry_image *sealed_retry[VV_IMMUTABLE_COUNT_LIMIT + 1]; /* as of each sealed memtable's last LSN,
                                                                     * oldest first */
        vv_status flush_status;                                     /* of the newest flush */
        bool stopping;
        bool slots_stale; /* the flusher is to write the manifest for their sake */
        pthread_t flusher;
        bool flusher_started;
        uint64_t flushes;
        uint64_t flush_bytes; /* of their tables */
        vv_spread flush_us;   /* the flusher records, or who replays the log */
        uint64_t write_stalls;
        varve_snapshot *snapshots, *newest_snapshot; /* oldest first */
        bool snapshots_seen; /* by a merge, or when one was looked for, since the last hint */
    } state;

    /* Readers of the log that are remembered (slots.c). */
    struct {
        vv_mutex change; /* held over a change of the list, its I/O included */
        vv_mutex lock;
        vv_slot items[VV_SLOTS_MAX];
        uint32_t count;
        uint64_t lost;        /* since open */
        uint64_t awaited_lsn; /* the compactor wants to know when all have come so far */
    } slots;

    /* Who waits for more of the log (wal_cursor.c). */
    struct {
        VV_CACHE_ALIGNED _Atomic uint32_t waiting; /* a cursor has returned END since the last notification */
        vv_mutex lock;
        varve_wal_cursor *first; /* those among them that have a descriptor */
    } followers;

    /* Lookups that wait for blocks, and reads for cursors. */
    struct {
        vv_stack queue;
        vv_stack fetches;
        vv_sst_fetcher fetcher; /* puts them there */
        vv_budget budget;       /* of what cursors read ahead */
        VV_CACHE_ALIGNED _Atomic uint32_t sleeps;
        _Atomic bool stop;
        pthread_t thread;
        bool thread_started;
    } reader;

    struct {
        vv_mutex lock;
        vv_cond wanted; /* the shape may need a merge, someone asked, or stopping */
        vv_cond done;   /* a merge ended, well or not */
        pthread_t thread;
        bool thread_started;
        bool hint;           /* tables have changed since the thread last looked */
        uint64_t full_asked; /* calls of varve_compact(), and how many of them are served */
        uint64_t full_done;
        vv_status full_status;  /* of the newest of those */
        bool no_room;           /* the thread's own: the merge under way gave up for a flush's sake */
        _Atomic uint64_t rate;  /* COMPACTION_RATE */
        uint64_t due_ns;        /* the thread's own: when the merges so far keep to the rate (pace.c) */
        uint64_t look_again_ns; /* the thread's own: level 0 may be due then, without a hint; 0: it may not */
        /* What that merge takes at most, and waits for; 0: nobody waits. Set by the thread. Who finds it free
         * stores VV_DB_ROOM_CAME, with the lock (space.c). */
        _Atomic uint64_t wanted_bytes;
        vv_picker_cursor cursors[VV_LEVELS_MAX];
        uint64_t runs;              /* figures since open */
        vv_spread merge_us;         /* the thread records */
        varve_compaction_info now;  /* the merge under way; all but done_bytes under the lock */
        _Atomic uint64_t now_bytes; /* now.done_bytes */
        uint64_t read_bytes;
        uint64_t written_bytes;
        uint64_t dropped_versions;
        uint64_t dropped_tombstones;
        _Atomic bool stop;
    } compaction;
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

/* Make the name of the directory `dir` durable in its parent, as far as we may: if the parent is somebody
 * else's, there is a warning in the log. */
vv_status vv_db_sync_parent(vv_io_backend *io, const vv_logger *lg, const char *dir,
                            vv_error *err) VV_CHECKED;

/*
 * The same, only as far as the manifest: locked, what was begun completed, orphans removed, an empty memtable
 * over the tables. No log, no threads; nobody reads or writes.
 */
vv_status vv_db_load_on(vv_io_backend *io_take, const char *path, const varve_options *options,
                        varve_db **db_out, vv_error *err) VV_CHECKED;
/* The end of either. */
vv_status vv_db_unload(varve_db *db) VV_CHECKED;

/* The parent of a directory: "." for a plain name. */
void vv_db_parent(const char *dir, char parent[VV_DB_PATH_BYTES]);

/* The backend that the options name (NULL: the defaults do). lg is borrowed until it is destroyed. */
vv_status vv_db_io_create(const varve_options *options, const vv_logger *lg, vv_io_backend **out,
                          vv_error *err) VV_CHECKED;

/* Is `name` that of a table, exactly as we write it? */
bool vv_db_table_name_parse(const char *name, uint64_t *file_number_out);

/* Copy a directory's path without slashes at its end. INVALID_ARGUMENT: it is empty, or leaves no room for
 * the names of files. */
vv_status vv_db_dir_path(char to[VV_DB_PATH_BYTES], const char *path, vv_error *err) VV_CHECKED;

/* ---- replay.c ---- */

/* The log on its way into memtables. */
typedef struct vv_replay {
    varve_db *db;
    vv_io_queue *queue; /* for flushes; borrowed */
    uint64_t records;   /* replayed */
} vv_replay;

/* One record, in LSN order; a vv_wal_replay_fn. arg: a vv_replay. */
vv_status vv_replay_record(void *arg, const vv_record *rec) VV_CHECKED;
/* Behind the last record: only now the memtable can be read. */
vv_status vv_replay_finish(vv_replay *r) VV_CHECKED;

/* ---- read.c ---- */

/*
 * Blocking lookup of the newest version at or below lsn, live or NOT_FOUND. g is the caller's to deinit, and
 * view must outlive it.
 */
vv_status vv_db_lookup(varve_db *db, vv_view *view, uint64_t lsn, vv_slice key, vv_get *g) VV_CHECKED;

/* Run a lookup that was begun elsewhere to its end, blocking. */
vv_status vv_db_lookup_resume(varve_db *db, vv_get *g) VV_CHECKED;

/* KEY_EMPTY, KEY_TOO_LONG. */
vv_status vv_db_check_key(size_t key_bytes) VV_CHECKED;

/* The answer of a lookup that is done. What pins a value that was found is taken from the lookup: the block,
 * or the reference to the view, and then g->view is NULL. Of CORRUPTION, which keys are affected; else
 * zeroed. */
void vv_db_value_take(varve_db *db, vv_get *g, varve_value *out);

/* Open the table that a lookup wants; blocking. */
void vv_db_bring_table(varve_db *db, vv_get *g, vv_error *err);

/* ---- read_async.c ---- */

/* The reader thread's main. */
void vv_db_reader(void *arg);

/* Read f on the reader thread: a vv_sst_fetcher, with the database as arg. */
void vv_db_fetch(void *arg, vv_sst_fetch *f);

/* End the thread, once nothing is under way any more. */
void vv_db_reader_stop(varve_db *db);

/* ---- state.c ---- */

/*
 * A reference to the current view, and the newest LSN that it shows whole: taken together, so that everything
 * up to the LSN is in the view, and no compaction that the view includes has dropped what a reader at that
 * LSN needs.
 */
vv_view *vv_db_view(varve_db *db, uint64_t *lsn_out);

/* Give such a reference back, on any thread. NULL: nothing. */
void vv_db_view_release(varve_db *db, vv_view *view);

/* Replace the active memtable by an empty one and queue it for flush. Everything in it is durable in the log.
 * Waits while MAX_IMMUTABLE_COUNT memtables are queued already, unless flushes fail: then their status, and
 * nothing changed. commit.lock held. */
vv_status vv_db_seal(varve_db *db) VV_CHECKED;

/* Write the oldest sealed memtable to a table and install it. `queue` belongs to the calling thread. One
 * caller at a time. False: nothing was sealed. *st_out: how it went. */
bool vv_db_flush_oldest(varve_db *db, vv_io_queue *queue, vv_status *st_out);

/* One change of what the database consists of. */
typedef struct vv_edit {
    vv_table *const *added; /* borrowed */
    size_t added_count;
    vv_table *const *removed; /* borrowed; become obsolete */
    size_t removed_count;
    uint64_t flushed_lsn; /* not 0: the oldest sealed memtable is in `added`, and goes */
    /* The new ones, NULL: as they are. */
    const uint64_t *safe_lsn;
    const uint64_t *promised_epoch;
    const uint64_t *commit_limit;
    const vv_epoch_history *epochs;
} vv_edit;

/*
 * Make the change durable in the manifest, then visible. The added tables' files and their names are durable.
 * OK: done. Otherwise readers see no change, but the manifest on disk may be either: the files that it may
 * name stay.
 */
vv_status vv_db_install(varve_db *db, const vv_edit *edit, vv_error *err) VV_CHECKED;

/*
 * After a change whose outcome on disk is unknown, before new tables are made for another try: replace the
 * manifest by one of what there is, so that the files of the last try go, and tries that fail again and again
 * don't fill the disk. OK: nothing is in doubt.
 */
vv_status vv_db_settle(varve_db *db, vv_error *err) VV_CHECKED;

/* Drop the references to doubtful tables; their files stay for the next open to judge. */
void vv_db_forget_doubtful(varve_db *db);

/* A number that no table has had. Any thread. */
uint64_t vv_db_next_file_number(varve_db *db);

/* The flusher thread's main. */
void vv_db_flusher(void *arg);

/* The queue that flushes write through. */
vv_status vv_db_flush_queue_create(varve_db *db, vv_io_queue **out, vv_error *err) VV_CHECKED;
/* NULL is fine. */
void vv_db_flush_queue_destroy(varve_db *db, vv_io_queue *queue);

/* Called when an obsolete table loses its last reader: removes it from the caches and the disk. */
void vv_db_drop_table(void *arg, uint64_t file_number);
/* Open a table that is about to be installed, so that no get waits for its index and filter. */
void vv_db_open_ahead(varve_db *db, uint64_t file_number);

/* ---- compact.c ---- */

/* The compaction thread's main. */
void vv_db_compactor(void *arg);

/* Tables have changed: look whether a merge is due. Any thread. */
void vv_db_compaction_hint(varve_db *db);

vv_picker_options vv_db_picker_options(const varve_db *db);

/* ---- slots.c ---- */

/* The safe compaction LSN that holds; 0: there is no gate. state.lock held. */
uint64_t vv_db_safe_lsn(varve_db *db);

/* Hint the compactor once when all slots have confirmed this LSN. UINT64_MAX: never. */
void vv_db_slots_wait_for(varve_db *db, uint64_t lsn);

/* What a manifest says of them. */
void vv_db_slots_copy(varve_db *db, vv_manifest *m);
/* The other way, at open; and hold the log for them, before anything of it is released. */
void vv_db_slots_load(varve_db *db, const vv_manifest *m);
vv_status vv_db_slots_hold(varve_db *db) VV_CHECKED;

/* The log's vv_wal_options.hold_lost; arg: the database. */
void vv_db_slots_lost(void *arg);

/* Write the manifest for their sake; a failure is logged. */
void vv_db_slots_save(varve_db *db);

/* The same at the end, if they have moved. */
void vv_db_slots_close(varve_db *db);

/* ---- snapshot.c ---- */

/* What a merge has to keep: the LSNs of all snapshots, ascending, and the newest LSN that is visible, all as
 * of one moment. *out is the caller's to free. NO_MEMORY. */
vv_status vv_db_snapshot_lsns(varve_db *db, uint64_t **out, size_t *count_out,
                              uint64_t *visible_lsn_out) VV_CHECKED;

/* ---- space.c ---- */

/* Look how much room the disk has; true if puts are refused from here on. Does I/O, one system call or two.
 * Any thread, without state.lock and compaction.lock. */
bool vv_db_space_look(varve_db *db);

/* See wanted_bytes: there was room, so that the merge need not wait. */
#define VV_DB_ROOM_CAME UINT64_MAX

/* May a merge take more, or does what is left belong to the memtables that have to be flushed? As above. */
bool vv_db_space_for_merge(varve_db *db);

/* ---- export.c ---- */

/* The manifest and the tables of one moment that belong together. *version_out, and *retry_out, which the
 * manifest borrows, have a reference for the caller. */
void vv_db_state_get(varve_db *db, vv_manifest *manifest_out, vv_version **version_out,
                     vv_retry_image **retry_out);

/* What an export holds. */
vv_version *vv_db_export_version(const varve_export *e);
const vv_manifest *vv_db_export_manifest(const varve_export *e);

/* ---- restore.c ---- */

/* As varve_restore(), on backends that `make` makes: one for its files, one for the database. */
typedef vv_status (*vv_io_maker)(void *arg, vv_io_backend **out, vv_error *err);
varve_status vv_db_restore_on(vv_io_maker make, void *arg, const char *backup_dir, const char *dest,
                              const varve_restore_options *options, varve_restore_info *out,
                              varve_error *err) VARVE_CHECKED;

/* The directory below a restore's destination in which it is prepared; there until the destination is a
 * database. */
#define VV_RESTORE_NAME "RESTORE"

/* ---- repair.c ---- */

/* As varve_repair(), on backends that `make` makes: one for its files, one for the database. */
varve_status vv_db_repair_on(vv_io_maker make, void *arg, const char *dir, const varve_options *options,
                             const varve_repair_options *repair, varve_repair_result *out,
                             varve_error *err) VARVE_CHECKED;

/* The directory below a database in which a repair prepares the new one. */
#define VV_REPAIR_NAME "REPAIR"

/* ---- import.c ---- */

/* The file that tells a directory that is filled with an export's files, and may be emptied, from all others.
 * It is there from before the first of them until the directory is opened as a database, or installed. */
#define VV_IMPORT_NAME "IMPORT"

/* As varve_import_begin(), on a backend of the caller's choice, which is taken over in any case. */
vv_status vv_db_import_begin_on(vv_io_backend *io_take, const char *dir, const varve_options *options,
                                const varve_export_file *files, size_t file_count, varve_import **out,
                                vv_error *err) VV_CHECKED;

/* ---- install.c ---- */

/* Is this the name of a file of a database, its lock file excepted? */
bool vv_db_owns(const char *name);

/* The name of what is in dir, given as NAME or dir/NAME. INVALID_ARGUMENT: it is neither. */
vv_status vv_db_name_in(const char *dir, const char *path, char name[VV_MARKER_NAME_BYTES_MAX + 1],
                        vv_error *err) VV_CHECKED;

/* If an install was begun in dir, complete it. dir's lock is held, and its manifest was not read yet. */
vv_status vv_db_install_complete(vv_io_backend *io, const vv_logger *lg, const char *dir,
                                 vv_error *err) VV_CHECKED;

/* As varve_install(), for who holds dir's lock and has completed what was begun there. */
vv_status vv_db_install_locked(vv_io_backend *io, const vv_logger *lg, const char *dir, const char *from,
                               const char *aside, vv_error *err) VV_CHECKED;

/* As varve_install(), on a backend of the caller's choice, which is taken over in any case. */
vv_status vv_db_install_on(vv_io_backend *io_take, const char *dir, const char *from, const char *aside,
                           const varve_options *options, vv_error *err) VV_CHECKED;

/* ---- rewind.c ---- */

/* If the log was to be cut, complete that. db: loaded, and its log not read yet. */
vv_status vv_db_rewind_complete(varve_db *db, vv_error *err) VV_CHECKED;

/* As varve_rewind() of a database that is there, on a backend of the caller's choice, which is taken over in
 * any case. */
vv_status vv_db_rewind_on(vv_io_backend *io_take, const char *dir, const varve_options *options, uint64_t lsn,
                          const char *tail_path, uint64_t *cut_out, vv_error *err) VV_CHECKED;

/* ---- throttle.c ---- */

/* Keeps a long job to a rate, and asks its caller whether it goes on. */
typedef struct vv_throttle {
    uint64_t bytes_per_second; /* 0: no limit */
    varve_progress_fn progress;
    void *arg;
    uint64_t total_bytes;
    uint64_t done_bytes;
    uint64_t start_ns;
} vv_throttle;

void vv_throttle_init(vv_throttle *t, uint64_t bytes_per_second, varve_progress_fn progress, void *arg,
                      uint64_t total_bytes);
/* So many bytes more are done; sleeps when that is too fast. False: give up. */
bool vv_throttle_pass(vv_throttle *t, uint64_t bytes);

/* ---- stream.c ---- */

/*
 * Read the first `bytes` bytes of `from`, several pieces ahead, and write them to `to` (NULL: only read),
 * through `queue`, the calling thread's, as flushes have it. All bytes are added to *sum. Nothing is synced;
 * a direct `to` is longer than it should be, by zeros, until it is cut. CORRUPTION/TRUNCATED: from is
 * shorter. BUSY/CANCELED: t said stop.
 */
vv_status vv_db_stream(vv_io_queue *queue, vv_file *from, vv_file *to, uint64_t bytes, vv_throttle *t,
                       vv_checksum_stream *sum) VV_CHECKED;

/* ---- pace.c ---- */

/* Note the figures of the view that becomes the current one. `old` may be NULL. state.lock held, or nobody
 * else there yet. */
void vv_db_pace_observe(varve_db *db, const vv_view *old, const vv_view *next);

/* Is it time for a pause, by vv_db_pace_wait()? commit.lock held. */
bool vv_db_pace_due(varve_db *db);

/* A group was written: what it owes is waited for by the next vv_db_pace_wait(). commit.lock held. */
void vv_db_pace_charge(varve_db *db, uint64_t entry_count, uint64_t data_bytes);

/* Wait until the next group may be taken, syncing the log whenever that is due. commit.lock held. */
void vv_db_pace_wait(varve_db *db);

/* A merge has gone through so many bytes more: wait as long as COMPACTION_RATE wants it. The compaction
 * thread alone; returns early when the database is closed. */
void vv_db_pace_merge(varve_db *db, uint64_t bytes);

/* ---- wal_cursor.c ---- */

/* More is durable and visible, or the log has failed: tell those who wait for it. The single writer. */
void vv_db_followers_notify(varve_db *db);

/* ---- commit_limit.c ---- */

/* Does the answer of a write wait for others? Changes only under commit.lock. */
static inline bool vv_db_commits_limited(varve_db *db) {
    return atomic_load_explicit(&db->limit.lsn, memory_order_relaxed) != VV_COMMIT_LIMIT_NONE;
}

/* Show what is committed, as far as the limit goes. commit.lock held. */
void vv_db_publish(varve_db *db);

/* The limit may have been raised, and time has passed: show and answer what is due. Cheap if nothing waits.
 * The writer thread, commit.lock held. */
void vv_db_confirm(varve_db *db);

/* Opening: what is visible of a log that ends at last_lsn. */
void vv_db_limit_restore(varve_db *db, uint64_t last_lsn);

/* What is visible; if it is below lsn, the compaction thread is told when it is not any more. */
uint64_t vv_db_await_visible(varve_db *db, uint64_t lsn);

/* ---- answer.c: the writer thread, commit.lock held ---- */

/* Answer the writes up to `end`, which is not included, or let them wait for the commit limit. number: their
 * group's, of vv_commit_queue_take(). */
void vv_db_answer_group(varve_db *db, vv_write *group, const vv_write *end, uint32_t number);

/* Answer those of which visible_lsn says so, or whose deadline is over. */
void vv_db_answer_waiting(varve_db *db);

/* Answer all that still wait: NOT_CONFIRMED. */
void vv_db_answer_unconfirmed(varve_db *db);

/* When to call vv_db_answer_waiting() next; UINT64_MAX: no deadline. */
uint64_t vv_db_next_deadline_ns(const varve_db *db);

/* May no more wait? */
static inline bool vv_db_waiting_full(varve_db *db) {
    return db->waiting.bytes >= VV_DB_WAITING_BYTES_MAX ||
           atomic_load_explicit(&db->waiting.count, memory_order_relaxed) >= VV_DB_WAITING_COUNT_MAX;
}

/* ---- write.c ---- */

/* Make asynchronous writes durable that are only in the log's buffer. inline_only: as for vv_wal_commit().
 * commit.lock held. */
vv_status vv_db_sync_log(varve_db *db, bool inline_only) VV_CHECKED;

/* The writer thread's main. */
void vv_db_writer(void *arg);

/* What every write is asked before it goes on its way: BAD_SEQUENCE, WAL_FAILED, SHUTTING_DOWN. options may
 * be NULL. */
vv_status vv_db_check_write(varve_db *db, const varve_write_options *options) VV_CHECKED;

/* Commit a write that is on the caller's stack; blocks. w->status says how it went. */
void vv_db_submit(varve_db *db, vv_write *w);

/* Add the operations of a record to `m`, which has reserved room for them. They decode: they were checked. */
void vv_db_apply(vv_memtable_adder *to, uint64_t first_lsn, uint32_t op_count, vv_slice ops);

/* Call `call` on the single writer's thread, behind all writes that were handed over before; blocks. */
vv_status vv_db_call_writer(varve_db *db, vv_status (*call)(varve_db *db, void *arg), void *arg) VV_CHECKED;

/* ---- epochs.c ---- */

/* Records are about to be appended, and commit.epoch_is_ours is false. own: by writes of this database's own,
 * which then may carry db->epoch. commit.lock held. */
vv_status vv_db_epoch_ready(varve_db *db, bool own) VV_CHECKED;

/* ---- apply.c ---- */

/* What append() and apply() of write.c do with a replicated write. w->status: of the first record that could
 * not be appended; w->appended and w->lsn tell of those before it. commit.lock held. */
void vv_db_append_records(varve_db *db, vv_write *w);
void vv_db_apply_records(vv_memtable_adder *to, const vv_write *w);

#endif
