/*
 * varve.h - the public interface of libvarve, a persistent key-value store.
 *
 *     #include <varve.h>
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         varve_db *db;
 *         varve_error err;
 *         if (!varve_ok(varve_open("data", NULL, &db, &err)))
 *             return fprintf(stderr, "%s\n", err.text), 1;
 *         varve_status st = varve_put(db, "key", 3, "value", 5, NULL, NULL);
 *         varve_close(db);
 *         return varve_ok(st) ? 0 : 1;
 *     }
 *
 * Keys are 1 to 65,535 bytes, any bytes, ordered bytewise. Values are 0 bytes to MAX_VALUE_SIZE. Every write
 * gets a log sequence number (LSN); LSNs are contiguous and start at 1. A write is durable when its call
 * returns OK, unless it asked for less.
 *
 * All functions are thread-safe except varve_close(), and the functions on one batch. Bytes given to
 * a call are borrowed until it returns, unless its comment says more.
 */
#ifndef VARVE_H
#define VARVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define VARVE_API     __attribute__((visibility("default")))
#define VARVE_CHECKED __attribute__((warn_unused_result))
#else
#define VARVE_API
#define VARVE_CHECKED
#endif

#define VARVE_VERSION_MAJOR  0
#define VARVE_VERSION_MINOR  1
#define VARVE_VERSION_PATCH  0
#define VARVE_VERSION_STRING "0.1.0"

#define VARVE_KEY_BYTES_MAX   65535
#define VARVE_VALUE_BYTES_MAX ((uint64_t)1 << 30) /* the upper limit of MAX_VALUE_SIZE */

/* ---- status ---- */

/* Values never change their meaning; new ones may be added. */
typedef enum varve_code {
    VARVE_OK = 0,
    VARVE_INVALID_ARGUMENT = 1, /* see reason; nothing changed */
    VARVE_NOT_FOUND = 2,
    VARVE_CORRUPTION = 3, /* bytes on disk fail their checksum or make no sense */
    VARVE_IO = 4,         /* the device failed; sys is the errno */
    VARVE_NO_SPACE = 5,   /* nothing changed; works again once there is space */
    VARVE_NO_MEMORY = 6,
    VARVE_BUSY = 7, /* nothing changed; try again */
    VARVE_TIMED_OUT = 8,
    VARVE_WAL_FAILED = 9, /* the log failed: outcome of this write unknown, later ones refused, reads go on */
    VARVE_SHUTTING_DOWN = 10,
    VARVE_UNSUPPORTED = 11, /* a newer format, or not available on this kernel */
    VARVE_LOCKED = 12,      /* another process has the directory open */
    VARVE_PERMISSION = 13,
    VARVE_EXISTS = 14,
    VARVE_TRIMMED = 15,
    VARVE_END = 16,
    VARVE_CONDITION_FAILED = 17,
    VARVE_INTERNAL = 18,
    VARVE_SEQUENCE_TOO_OLD = 19 /* nothing changed; whether an earlier try did is not known any more */
} varve_code;

typedef struct varve_status {
    uint16_t code;   /* a varve_code */
    uint16_t reason; /* finer; varve_reason_name() tells */
    int32_t sys;     /* errno behind it, or 0 */
} varve_status;

static inline bool varve_ok(varve_status st) {
    return st.code == VARVE_OK;
}

/* Static texts, never NULL. "NO_SPACE", "no space left on device"; "KEY_EMPTY", "key is empty". */
VARVE_API const char *varve_code_name(uint16_t code);
VARVE_API const char *varve_code_text(uint16_t code);
VARVE_API const char *varve_reason_name(uint16_t reason);
VARVE_API const char *varve_reason_text(uint16_t reason);

/* The words of a failure, in the caller's storage; parameters of this type may be NULL. */
typedef struct varve_error {
    char text[512];
} varve_error;

/* ---- options ---- */

typedef struct varve_options varve_options;

typedef enum varve_log_level {
    VARVE_LOG_DEBUG,
    VARVE_LOG_INFO,
    VARVE_LOG_WARN,
    VARVE_LOG_ERROR
} varve_log_level;

/* One line without its newline, from any thread. Must not call back into the database. */
typedef void (*varve_log_fn)(void *arg, varve_log_level level, const char *line);

/* Defaults; NULL only when there is no memory. Owned by the caller, who destroys it; varve_open() copies it.
 */
VARVE_API varve_options *varve_options_create(void);
VARVE_API void varve_options_destroy(varve_options *options);

/* Set one key of the configuration table ("MEMTABLE_SIZE", "64MiB"): any case, '-' or '_'. INVALID_ARGUMENT
 * names the key, the value and what is allowed. */
VARVE_API varve_status varve_options_set(varve_options *options, const char *key, const char *value,
                                         varve_error *err) VARVE_CHECKED;

/* The index-th key of the table with its meaning, default and what is allowed; false behind the last.
 * Texts are static. */
typedef struct varve_option_info {
    const char *key;
    const char *default_value;
    const char *meaning;
    char allowed[160];
} varve_option_info;
VARVE_API bool varve_options_describe(size_t index, varve_option_info *out);

/* The value of a key as text, in the form that varve_options_set takes, into buf; false if unknown. */
VARVE_API bool varve_options_get(const varve_options *options, const char *key, char *buf, size_t buf_bytes);

VARVE_API void varve_options_set_log(varve_options *options, varve_log_fn fn, void *arg,
                                     varve_log_level least);

/*
 * Called on the committing thread after the callbacks of one commit group have all been called: the place to
 * wake sleepers once a group instead of once a write. Must not block.
 */
typedef void (*varve_group_fn)(void *arg);
VARVE_API void varve_options_set_group_callback(varve_options *options, varve_group_fn fn, void *arg);

/*
 * Called when more of the log has become durable and visible, or when the log has failed, if a log cursor has
 * returned END since the last such call: to wake who waits for changes. On the thread that committed; must
 * not block nor call into the database.
 */
typedef void (*varve_durable_fn)(void *arg);
VARVE_API void varve_options_set_durable_callback(varve_options *options, varve_durable_fn fn, void *arg);

/* ---- the database ---- */

typedef struct varve_db varve_db;

/*
 * Open the directory, creating it (one level) and the database in it if there is none. options NULL:
 * defaults.
 *
 * LOCKED           another process has it open.
 * PERMISSION, INVALID_ARGUMENT/NOT_DIRECTORY, NO_SPACE, IO   as they say.
 * CORRUPTION       a file is damaged in a way that would lose acknowledged data; nothing was changed.
 * UNSUPPORTED/FORMAT_NEWER   written by a newer Varve; nothing was changed.
 */
VARVE_API varve_status varve_open(const char *path, const varve_options *options, varve_db **db_out,
                                  varve_error *err) VARVE_CHECKED;

/* Finish writes under way, make asynchronous ones durable, stop all threads, release everything. No call on
 * db may be under way or follow. The status says whether everything reached the disk. NULL is fine. */
VARVE_API varve_status varve_close(varve_db *db);

/* ---- writing ---- */

typedef enum varve_durability {
    VARVE_DURABILITY_SYNC = 0, /* returns when the write survives power loss */
    VARVE_DURABILITY_ASYNC = 1 /* returns when readable; durable later, in order */
} varve_durability;

/*
 * Where the time of one call went, for those who ask. The phases of a call follow each other; what they leave
 * of its whole time went by in the caller's threads.
 */
typedef struct varve_trace {
    uint64_t queue_ns; /* a write: waiting for its turn, its memtable, its conditions */
    uint64_t wal_ns; /* a write: its group's way into the log, write and sync included, beside what follows */
    uint64_t memtable_ns; /* a write: its group's way into the memtable; a read: looking through what is in
                             memory */
    uint64_t block_ns;    /* a read: waiting for the reader thread, and for tables and blocks from the disk */
    uint32_t block_reads; /* a read: blocks that were not in the cache */
} varve_trace;

typedef struct varve_write_options {
    varve_durability durability;
    uint64_t ttl_ms;    /* varve_put() only: the entry expires this long after the call; 0: never */
    uint64_t client_id; /* names this write, for retry safety: see below. 0: no name, and sequence 0 too */
    uint64_t sequence;
    varve_trace *trace; /* NULL: none. Filled in before the write is answered */
} varve_write_options;

/*
 * Retry safety. Whoever got no answer to a write, or a WAL_FAILED, can't know whether it was applied. With a
 * client_id (random, drawn once) and a sequence (counted from 1, one for each write and the same for every
 * try of it) it may be tried again: a write that was applied under this name is not applied twice, but
 * answered OK with its first LSN, as durable as is asked now. That holds across restarts and crashes. The
 * operations are not compared: the name says which write it is.
 *
 * The newest 256 sequences of a client are remembered. Sequences need not arrive in order, so that up to as
 * many writes may be under way at once; one that is older than all of them is refused with SEQUENCE_TOO_OLD.
 * When 2048 other clients have written since, a client is forgotten: a write that it then repeats is applied
 * again. A write that failed is not remembered, nor is one whose conditions did not hold: they are looked at
 * anew. A repeated write may fail for reasons of its own (NO_SPACE, BUSY, NO_MEMORY), which say nothing of
 * the earlier tries.
 */

/*
 * Write one entry. options may be NULL. lsn_out may be NULL.
 *
 * OK                 done, and as durable as asked.
 * INVALID_ARGUMENT   KEY_EMPTY, KEY_TOO_LONG, VALUE_TOO_LARGE, BAD_SEQUENCE; nothing changed.
 * NO_SPACE, BUSY     nothing changed.
 * SEQUENCE_TOO_OLD   nothing changed now; see retry safety.
 * WAL_FAILED         outcome unknown; the database takes no more writes until it is opened again.
 */
VARVE_API varve_status varve_put(varve_db *db, const void *key, size_t key_bytes, const void *value,
                                 size_t value_bytes, const varve_write_options *options,
                                 uint64_t *lsn_out) VARVE_CHECKED;

/* Deleting a key that is not there is OK and writes a tombstone all the same. */
VARVE_API varve_status varve_delete(varve_db *db, const void *key, size_t key_bytes,
                                    const varve_write_options *options, uint64_t *lsn_out) VARVE_CHECKED;

/* An ordered list of puts and deletes that becomes visible and durable as one. Copies what is added.
 * Not thread-safe. */
typedef struct varve_batch varve_batch;
VARVE_API varve_batch *varve_batch_create(void); /* NULL: no memory */
VARVE_API void varve_batch_destroy(varve_batch *batch);
VARVE_API void varve_batch_clear(varve_batch *batch);
VARVE_API varve_status varve_batch_put(varve_batch *batch, const void *key, size_t key_bytes,
                                       const void *value, size_t value_bytes) VARVE_CHECKED;
VARVE_API varve_status varve_batch_delete(varve_batch *batch, const void *key,
                                          size_t key_bytes) VARVE_CHECKED;
VARVE_API size_t varve_batch_count(const varve_batch *batch);

/* Read back what was added, in its order: *position is 0 for the first and moves on with each; false behind
 * the last. The bytes are the batch's until it is changed. */
typedef struct varve_batch_op {
    bool deleted;
    const void *key;
    size_t key_bytes;
    const void *value;
    size_t value_bytes;
    uint64_t expires_unix_ms; /* 0: never */
} varve_batch_op;
VARVE_API bool varve_batch_next(const varve_batch *batch, size_t *position, varve_batch_op *out);

/* As varve_batch_put(); the entry is gone from this moment on, milliseconds since 1970. 0: never. */
VARVE_API varve_status varve_batch_put_expiring(varve_batch *batch, const void *key, size_t key_bytes,
                                                const void *value, size_t value_bytes,
                                                uint64_t expires_unix_ms) VARVE_CHECKED;

/*
 * Conditions: the batch is applied only if all of them hold at the moment of the write; no other write comes
 * between the check and the change. Else CONDITION_FAILED, and nothing changed. A key that is deleted or
 * expired is absent.
 */
VARVE_API varve_status varve_batch_require_absent(varve_batch *batch, const void *key,
                                                  size_t key_bytes) VARVE_CHECKED;
VARVE_API varve_status varve_batch_require_lsn(varve_batch *batch, const void *key, size_t key_bytes,
                                               uint64_t lsn) VARVE_CHECKED;
VARVE_API varve_status varve_batch_require_value(varve_batch *batch, const void *key, size_t key_bytes,
                                                 const void *value, size_t value_bytes) VARVE_CHECKED;

/* After CONDITION_FAILED: did the index-th condition hold, and which version was there (0: none)? False
 * behind the last condition. */
VARVE_API bool varve_batch_condition(const varve_batch *batch, size_t index, bool *held_out,
                                     uint64_t *current_lsn_out);

/* Apply a batch atomically: one LSN for each operation, in order, one log record; *lsn_out is the last. If
 * two operations name one key, the later wins. The batch is borrowed until return and unchanged.
 * INVALID_ARGUMENT: BATCH_EMPTY, BATCH_TOO_LARGE, or a value above MAX_VALUE_SIZE. */
VARVE_API varve_status varve_write(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                                   uint64_t *lsn_out) VARVE_CHECKED;

/*
 * As varve_write() without waiting: `done` is called exactly once, on the committing thread or, where the
 * write is refused at once (INVALID_ARGUMENT, SHUTTING_DOWN, WAL_FAILED), on this one before the call
 * returns. It must not block nor call into the database. The batch is borrowed until then. lsn is 0 unless
 * OK.
 */
typedef void (*varve_write_fn)(void *arg, varve_status status, uint64_t lsn);
VARVE_API void varve_write_async(varve_db *db, const varve_batch *batch, const varve_write_options *options,
                                 varve_write_fn done, void *arg);

/* ---- reading ---- */

/* A state of the database to read as of; see below. */
typedef struct varve_snapshot varve_snapshot;

/* A value that was read, pinned until released. */
typedef struct varve_value {
    const void *data;
    size_t bytes;
    uint64_t lsn;             /* of the write that it comes from */
    uint64_t expires_unix_ms; /* 0: never */
    void *db_;                /* the engine's, as what follows */
    void *pin_;
    int pin_kind_;
} varve_value;

/* NOT_FOUND is a status, not an error of the call. CORRUPTION: a block on the way to this key is damaged. On
 * OK the caller releases *out; otherwise it is zeroed and releasing it is harmless. All values must be
 * released before varve_close(). */
VARVE_API varve_status varve_get(varve_db *db, const void *key, size_t key_bytes,
                                 varve_value *out) VARVE_CHECKED;
VARVE_API void varve_value_release(varve_value *value);

/*
 * As varve_get() without waiting for the disk: what is in memory is answered on this thread before the call
 * returns; else the key is copied, and `done` is called on the reader thread, which keeps many reads in
 * flight. It must not block. On OK the value is its receiver's to release; copy the struct to keep it.
 * snapshot may be NULL, and must outlive the call.
 */
typedef void (*varve_get_fn)(void *arg, varve_status status, varve_value *value);
VARVE_API void varve_get_async(varve_db *db, const varve_snapshot *snapshot, const void *key,
                               size_t key_bytes, varve_get_fn done, void *arg);

/* The same; *trace is filled in before `done` is called. NULL: no trace. */
VARVE_API void varve_get_async_traced(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                      size_t key_bytes, varve_trace *trace, varve_get_fn done, void *arg);

/* One key of a varve_multi_get(), and its answer. */
typedef struct varve_lookup {
    const void *key;
    size_t key_bytes;
    varve_status status; /* as varve_get() returns it */
    varve_value value;   /* of OK; the caller's to release */
} varve_lookup;

/* Look up many keys as of one state, with all their block reads in flight at once. The status says whether
 * the call itself worked (NO_MEMORY: nothing was looked up); each lookup has its own. snapshot may be NULL.
 */
VARVE_API varve_status varve_multi_get(varve_db *db, const varve_snapshot *snapshot, varve_lookup *lookups,
                                       size_t count) VARVE_CHECKED;

/* ---- snapshots ---- */

/* The state of the database at one LSN, for reads and iterators, until released. What it sees is kept on
 * disk: a snapshot that is held for long costs space. NULL: no memory. */
VARVE_API varve_snapshot *varve_snapshot_create(varve_db *db);
VARVE_API uint64_t varve_snapshot_lsn(const varve_snapshot *snapshot);
/* NULL is fine. All snapshots must be released before varve_close(). */
VARVE_API void varve_snapshot_release(varve_db *db, varve_snapshot *snapshot);

/* varve_get() as of a snapshot. */
VARVE_API varve_status varve_get_at(varve_db *db, const varve_snapshot *snapshot, const void *key,
                                    size_t key_bytes, varve_value *out) VARVE_CHECKED;

/* ---- iterators ---- */

/*
 * A cursor over the live entries in key order, both ways, as of one LSN: what is written after its creation
 * is not seen. It keeps the tables that it reads; release it when done. One thread at a time.
 */
typedef struct varve_iter varve_iter;

/* Zeroed: everything, as of now. */
typedef struct varve_iter_options {
    const varve_snapshot *snapshot; /* NULL: as of now; else it must outlive the iterator */
    const void *start;              /* first key, inclusive; NULL: from the beginning */
    size_t start_bytes;
    const void *end; /* first key that is not shown; NULL: to the end */
    size_t end_bytes;
    const void *prefix; /* only keys that begin so; with start and end, all three hold */
    size_t prefix_bytes;
    /* After this many hidden entries (deleted, expired, older versions) in one step, the step ends with the
     * status BUSY: varve_iter_next(), or varve_iter_prev() on the way back, goes on from there. 0: no limit.
     */
    uint64_t skip_limit;
} varve_iter_options;

/* options NULL: all defaults; bounds are copied. Not positioned yet. INVALID_ARGUMENT/BAD_RANGE if start is
 * behind end; NO_MEMORY. */
VARVE_API varve_status varve_iter_create(varve_db *db, const varve_iter_options *options,
                                         varve_iter **out) VARVE_CHECKED;
VARVE_API void varve_iter_destroy(varve_iter *it); /* NULL is fine */

/* To the first or last entry within the bounds; to the first at or behind `key`; to the last at or before it.
 */
VARVE_API void varve_iter_first(varve_iter *it);
VARVE_API void varve_iter_last(varve_iter *it);
VARVE_API void varve_iter_seek(varve_iter *it, const void *key, size_t key_bytes);
VARVE_API void varve_iter_seek_back(varve_iter *it, const void *key, size_t key_bytes);
/* Only while valid, or after BUSY. */
VARVE_API void varve_iter_next(varve_iter *it);
VARVE_API void varve_iter_prev(varve_iter *it);

/* False at either end and after a failure; varve_iter_status() tells which: OK, or CORRUPTION, IO, NO_MEMORY,
 * BUSY. */
VARVE_API bool varve_iter_valid(const varve_iter *it);
VARVE_API varve_status varve_iter_status(const varve_iter *it);

/* The entry at hand, while valid; borrowed until the next step. */
typedef struct varve_entry {
    const void *key;
    size_t key_bytes;
    const void *value;
    size_t value_bytes;
    uint64_t lsn;
    uint64_t expires_unix_ms; /* 0: never */
} varve_entry;
VARVE_API void varve_iter_entry(const varve_iter *it, varve_entry *out);

/* ---- the log as a stream of changes ---- */

/*
 * A cursor over what was written, in the order of LSNs and batch by batch, as far as it survives power loss.
 * The log keeps what is not in SSTables yet and, by chance, a little more: a cursor that stays behind for
 * long finds that what it needs is gone (TRIMMED), and is never led past a gap. One thread at a time. Many
 * cursors that keep up share one copy of what was written last, in memory.
 */
typedef struct varve_wal_cursor varve_wal_cursor;

/* One batch, as varve_write() or a single put or delete had it: all of it, or nothing, was applied. */
typedef struct varve_wal_batch {
    uint64_t first_lsn; /* of its first operation */
    uint64_t last_lsn;
    uint32_t op_count;
    uint64_t epoch;     /* counts the primaries that the log has had */
    uint64_t client_id; /* of varve_write_options */
    uint64_t sequence;
    const void *ops; /* encoded, for varve_wal_ops_init() */
    size_t ops_bytes;
} varve_wal_batch;

/*
 * The first batch to come is the one that holds after_lsn + 1: whole, also if after_lsn lies within it.
 *
 * TRIMMED             it is no longer in the log. *oldest_lsn_out (may be NULL): the oldest LSN that a cursor
 *                     can give, or that the next write gets if there is none. The way out is to read the
 *                     state of the database, and to go on from the LSN of that.
 * INVALID_ARGUMENT    after_lsn is not durable yet.
 * NO_MEMORY
 */
VARVE_API varve_status varve_wal_cursor_open(varve_db *db, uint64_t after_lsn, varve_wal_cursor **cursor_out,
                                             uint64_t *oldest_lsn_out) VARVE_CHECKED;
/* NULL is fine. All cursors must be closed before varve_close(). */
VARVE_API void varve_wal_cursor_close(varve_wal_cursor *cursor);

/*
 * The next batch; *out is borrowed until the next call on the cursor. Reads a file, and blocks for that, if
 * the batch is not among those written last.
 *
 * OK
 * END           there is no newer one. Whatever comes is announced: see notify_fd.
 * WAL_FAILED    there is no newer one, and until the database is opened again there will be none.
 * TRIMMED       it was recycled; out->first_lsn is the oldest LSN that is still there.
 * CORRUPTION    it is damaged on disk. The cursor stays before it.
 * IO, NO_MEMORY and others: nothing happened, the call may be repeated.
 */
VARVE_API varve_status varve_wal_cursor_next(varve_wal_cursor *cursor, varve_wal_batch *out) VARVE_CHECKED;

/* Everything up to here was given out, or lies before the start. */
VARVE_API uint64_t varve_wal_cursor_lsn(const varve_wal_cursor *cursor);

/*
 * A non-blocking eventfd of the cursor's, for poll, epoll or io_uring: readable when there may be more after
 * END, or when the log has failed. It becomes unreadable when varve_wal_cursor_next() returns END; do not
 * read it. -1: no descriptor or no memory was to be had; a later call tries again. Closed with the cursor.
 */
VARVE_API int varve_wal_cursor_notify_fd(varve_wal_cursor *cursor);

/* From here on the cursor ends (END) before what reads do not see yet, so that whoever reads on its word
 * finds what it says. */
VARVE_API void varve_wal_cursor_visible_only(varve_wal_cursor *cursor);

/* The cursor will not be used for a while: give back what it has read, if all cursors together take much
 * memory. The batch given out last is gone. */
VARVE_API void varve_wal_cursor_rest(varve_wal_cursor *cursor);

/*
 * From here on the log keeps what the cursor has not been past (the batch given out last included), up to
 * max_bytes of log files that nothing else needs; beyond that the cursor loses its hold, with a line in the
 * log. The hold is not kept across a restart.
 */
VARVE_API void varve_wal_cursor_hold(varve_wal_cursor *cursor, uint64_t max_bytes);
/* False: never asked for, or lost. */
VARVE_API bool varve_wal_cursor_holds(varve_wal_cursor *cursor);

/* One operation of a batch; valid as long as the batch. */
typedef struct varve_wal_op {
    bool is_delete;
    const void *key;
    size_t key_bytes;
    const void *value;
    size_t value_bytes;
    uint64_t lsn;
    uint64_t expires_unix_ms; /* 0: never */
} varve_wal_op;

/* Goes through the operations of a batch. The caller's storage. */
typedef struct varve_wal_ops {
    const void *at_;
    size_t left_bytes_;
    uint64_t lsn_;
    uint32_t left_count_;
} varve_wal_ops;

VARVE_API void varve_wal_ops_init(varve_wal_ops *ops, const varve_wal_batch *batch);
/* OK, or END behind the last one. CORRUPTION: the bytes are no operations. */
VARVE_API varve_status varve_wal_ops_next(varve_wal_ops *ops, varve_wal_op *out) VARVE_CHECKED;

/* ---- running it ---- */

/* Seal the memtable and wait until all that was written before the call is in SSTables. */
VARVE_API varve_status varve_flush(varve_db *db) VARVE_CHECKED;

/* How far a long call is. On the caller's thread, about once a MiB or twenty times a second; false: give up,
 * with BUSY/CANCELED. */
typedef bool (*varve_progress_fn)(void *arg, uint64_t done_bytes, uint64_t total_bytes);

/* Merge everything into the last level and wait for it. */
VARVE_API varve_status varve_compact(varve_db *db) VARVE_CHECKED;
/* The same, asking now and then whether to go on waiting (both figures are 0). Who gives up leaves the merge
 * to go on without him. */
VARVE_API varve_status varve_compact_while(varve_db *db, varve_progress_fn go_on, void *arg) VARVE_CHECKED;

/*
 * The safe compaction LSN: how far every replica has confirmed to be. A replica that is behind still has what
 * a tombstone deletes; if the tombstone were gone before the replica has it, the replica would bring the
 * deleted key back. With it set, a merge drops tombstones only if all that it reads is at or below:
 *
 *     dropTombstones = isLastLevel && (safeLSN == 0 || (batchMaxLSN > 0 && batchMaxLSN <= safeLSN))
 *
 * 0, the default: no gate. Kept across restarts: OK means that it is on disk; and every merge that begins
 * afterwards heeds it (one that is under way goes on by what it began with). It may be lowered, which brings
 * nothing back that is gone already. Shown as varve_stats.safe_compaction_lsn. On failure the old one holds.
 */
VARVE_API varve_status varve_set_safe_compaction_lsn(varve_db *db, uint64_t lsn,
                                                     varve_error *err) VARVE_CHECKED;

/* A number that is added here has its line in varve_stats_number() too. */
typedef struct varve_stats {
    uint64_t last_lsn;        /* newest LSN that reads see */
    uint64_t durable_lsn;     /* newest LSN that survives power loss */
    uint64_t flushed_lsn;     /* everything up to here is in SSTables */
    uint64_t memtable_bytes;  /* active */
    uint64_t immutable_count; /* sealed, waiting for flush */
    uint64_t immutable_bytes;
    uint64_t sstable_count;
    uint64_t sstable_bytes;
    uint64_t wal_segment_count;
    uint64_t wal_bytes;   /* bytes of log frames written since open */
    uint64_t wal_commits; /* log writes that were synced since open */
    uint64_t wal_records; /* batches in them */
    uint64_t flushes;
    uint64_t write_stalls;     /* writes that had to wait for a flush */
    uint64_t write_delays;     /* pauses of the writer, so that flushes and merges keep up */
    uint64_t write_delay_us;   /* all of them together */
    uint64_t sorted_run_count; /* that a read may have to look into, beside the memtables */
    uint64_t compactions;
    uint64_t compaction_read_bytes;
    uint64_t compaction_written_bytes;
    uint64_t compaction_debt_bytes; /* waiting to be merged */
    uint64_t dropped_versions;
    uint64_t dropped_tombstones;
    uint64_t safe_compaction_lsn; /* 0: no gate */
    uint64_t epoch;               /* primaries that the log has had */
    uint64_t cache_bytes;
    uint64_t cache_hits;
    uint64_t cache_misses;
    uint64_t open_tables;
    uint64_t memory_bytes;        /* all of: both kinds of memtables, above, and the seven that follow */
    uint64_t cache_memory_bytes;  /* block cache: blocks and its own tables */
    uint64_t table_memory_bytes;  /* indexes and filters of open tables */
    uint64_t wal_memory_bytes;    /* buffers of the log and of its cursors */
    uint64_t io_memory_bytes;     /* buffers of flushes and merges */
    uint64_t cursor_memory_bytes; /* what iterators read ahead */
    uint64_t retry_memory_bytes;  /* remembered writes of clients, and their images for the manifest */
    /* What the engine's heap takes beyond all these: its own tables, and free pages kept for later. Of all
     * databases of the process together, which share them. */
    uint64_t heap_overhead_bytes;
    uint64_t flush_bytes;    /* of tables that flushes wrote since open */
    uint64_t retried_writes; /* answered as done already, since open */
    bool wal_failed;         /* latched: no more writes until reopened */
    const char *io_backend;  /* "uring" or "posix"; static */
} varve_stats;
VARVE_API void varve_stats_get(varve_db *db, varve_stats *out);

/* The index-th number of *s under the name of its field; false behind the last. For whoever shows all of
 * them. wal_failed is 0 or 1; io_backend, a text, is not among them. */
VARVE_API bool varve_stats_number(const varve_stats *s, size_t index, const char **name_out,
                                  uint64_t *value_out);

/* ---- exporting, backing up, checking ---- */

/* One table of an export: a file of the database's directory that is never changed. */
typedef struct varve_export_file {
    const char *name; /* in that directory */
    uint32_t level;
    uint64_t size;
    uint64_t checksum; /* XXH3, 64 bits, seed 0, of the whole file, noted when it was written; 0: not known,
                          of a table that an older version wrote */
} varve_export_file;

/* The database as of one LSN, as files. */
typedef struct varve_export {
    uint64_t lsn; /* the files hold everything up to here and nothing else */
    const varve_export_file *files;
    size_t file_count;
    const void
        *manifest; /* written as the file MANIFEST beside copies of the files, it makes a directory that */
    size_t manifest_bytes; /* varve_open() opens with that state, its next LSN being lsn + 1 */
    void *state_;
} varve_export;

/*
 * Seal the memtable, wait for all flushes that are pending, and hold the tables that there are then: none of
 * their files is removed before varve_export_release(), whatever compaction does meanwhile, so an export that
 * is held for long costs space. Everything that was written before the call is in it. Writers go on all the
 * while. No table is read. On failure *out is zeroed. Blocks.
 */
VARVE_API varve_status varve_take_snapshot(varve_db *db, varve_export *out, varve_error *err) VARVE_CHECKED;
/* Zeroes it; a zeroed one is fine. All exports must be released before varve_close(). */
VARVE_API void varve_export_release(varve_db *db, varve_export *exported);

typedef enum varve_backup_mode {
    VARVE_BACKUP_COPY = 0, /* bytes of its own */
    VARVE_BACKUP_LINK = 1 /* a second name for the same bytes where the file system can, else a copy: costs no
                             space, and guards against mistakes but not against the device */
} varve_backup_mode;

/* Zeroed: a whole copy, as fast as it goes. */
typedef struct varve_backup_options {
    varve_backup_mode mode;
    const char *base_dir; /* an earlier backup of this database: what is the same there is linked from there
                             (copied, where that can't be) instead of read from the database; NULL: none */
    bool must_create;     /* EXISTS also for an empty directory, or a link to one: it is made by this call */
    uint64_t bytes_per_second; /* read and written at most; 0: no limit */
    varve_progress_fn progress;
    void *arg;
} varve_backup_options;

typedef struct varve_backup_info {
    uint64_t lsn; /* of its state: everything that was written before the call is in it */
    uint64_t file_count;
    uint64_t bytes;        /* of all files */
    uint64_t copied_bytes; /* not linked */
} varve_backup_info;

/*
 * Make `dest` a backup: a directory that varve_open() opens, with the state of one LSN. It must not be there
 * yet, or be empty; its parent must be there. Writers and readers go on. The calling thread does the work;
 * one of low priority, or bytes_per_second, keeps it from disturbing.
 *
 * OK: every file was synced and read back and has the checksum that was noted when its table was written; the
 * names are synced, the parent's included. Otherwise everything that this call has made is removed; should
 * the process die, what it leaves has no MANIFEST, and is not mistaken for a backup.
 *
 * EXISTS                     dest is not empty.
 * INVALID_ARGUMENT           a path can't be used, or base_dir is no backup of this database.
 * CORRUPTION                 a table is damaged, or what was written is read back differently.
 * NOT_FOUND                  dest has no parent.
 * NO_SPACE, IO, PERMISSION   as they say. BUSY/CANCELED: progress said stop.
 */
VARVE_API varve_status varve_backup(varve_db *db, const char *dest, const varve_backup_options *options,
                                    varve_backup_info *out, varve_error *err) VARVE_CHECKED;

/* One place that is damaged. Everything is borrowed until the callback returns. */
typedef struct varve_damage {
    const char *file; /* its path */
    uint64_t offset;
    uint64_t bytes;
    const void *first_key; /* entries between these two, both included, may be lost; NULL: not known */
    size_t first_key_bytes;
    const void *last_key;
    size_t last_key_bytes;
    varve_status status;
    const char *text; /* all of it in words */
} varve_damage;

typedef void (*varve_damage_fn)(void *arg, const varve_damage *damage);

/* Zeroed: no report but the counts, as fast as it goes. */
typedef struct varve_verify_options {
    varve_damage_fn damaged;
    varve_progress_fn progress;
    void *arg;                 /* of both */
    uint64_t bytes_per_second; /* read at most; 0: no limit */
} varve_verify_options;

typedef struct varve_verify_result {
    uint64_t file_count; /* the manifest and tables that were looked at */
    uint64_t block_count;
    uint64_t bytes;
    uint64_t damage_count;
} varve_verify_result;

/*
 * Read the manifest, every table, and what the log has beyond the tables, from the disk, beside all caches,
 * and check each block, index, filter, footer and frame, while the database serves. Damage is reported and
 * passed over; in the log it is the end, since nothing behind can be read. The calling thread does the work,
 * as for a backup.
 *
 * OK: everything was looked at; out->damage_count says what was found. NO_MEMORY. BUSY/CANCELED: progress
 * said stop. *out holds also what was done before a failure.
 */
VARVE_API varve_status varve_verify(varve_db *db, const varve_verify_options *options,
                                    varve_verify_result *out, varve_error *err) VARVE_CHECKED;

VARVE_API const char *varve_version(void);

#ifdef __cplusplus
}
#endif

#endif
