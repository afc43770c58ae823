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
    VARVE_SEQUENCE_TOO_OLD = 19, /* nothing changed; whether an earlier try did is not known any more */
    VARVE_NOT_CONFIRMED = 20     /* durable here, but not yet confirmed by enough replicas: outcome unknown */
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
    bool live; /* varve_reconfigure() applies it */
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

/*
 * Apply those keys of options that can change while the database is open (varve_option_info.live), beside
 * whatever is under way; all others stay as it was opened with. Options that are to change one key alone are
 * those of varve_open() with that key set. Borrowed until return.
 *
 * CACHE_CAPACITY    grows at once. It shrinks before this returns, a few blocks at a time, beside readers;
 *                   blocks that are in use go when they are not. What a block took beside its bytes (192 of
 *                   them for each block that was cached) is kept for later ones. A count is in blocks of the
 *                   database's BLOCK_SIZE.
 * COMPACTION_RATE   holds within some milliseconds, for the merge that is under way too.
 *
 * NO_MEMORY         there is none for a larger cache; nothing changed.
 *
 * Thread-safe; one at a time. Does no I/O; takes about half a second for each GiB of small blocks that goes
 * out of the cache.
 */
VARVE_API varve_status varve_reconfigure(varve_db *db, const varve_options *options,
                                         varve_error *err) VARVE_CHECKED;

/* Is there a database in the directory, or one that varve_install() has begun to put there, so that
 * varve_open() would open it and not make a new one? */
VARVE_API varve_status varve_exists(const char *path, bool *exists_out, varve_error *err) VARVE_CHECKED;

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
    /* CLOCK_MONOTONIC: from then on a write that waits for nothing but varve_limit_commits() is answered
     * NOT_CONFIRMED, to within 20 ms; it stays, and becomes visible when it is confirmed. 0: waits for ever
     */
    uint64_t confirm_deadline_ns;
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
 * IO                 nothing changed: the manifest could not take the epoch that this write begins.
 * SEQUENCE_TOO_OLD   nothing changed now; see retry safety.
 * WAL_FAILED         outcome unknown; the database takes no more writes until it is opened again.
 * NOT_CONFIRMED      outcome unknown; see varve_limit_commits().
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
 * expired is absent, which is what an lsn of 0 asks for.
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
 * As varve_write() without waiting: `done` is called exactly once, on the committing thread, or on this one
 * before the call returns: where the write is refused at once (INVALID_ARGUMENT, SHUTTING_DOWN, WAL_FAILED),
 * and where it is asynchronous (VARVE_DURABILITY_ASYNC) and nobody else is writing, so that it is committed
 * at once; the group callback does not follow then. `done` must not block nor call into the database. The
 * batch is borrowed until then. lsn is 0 unless OK.
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
 * OK and on CORRUPTION the caller releases *out; otherwise it is zeroed and releasing it is harmless. All
 * values must be released before varve_close(). */
VARVE_API varve_status varve_get(varve_db *db, const void *key, size_t key_bytes,
                                 varve_value *out) VARVE_CHECKED;
VARVE_API void varve_value_release(varve_value *value);

/* All keys from the first to the last one, both included. */
typedef struct varve_key_range {
    const void *first_key;
    size_t first_key_bytes;
    const void *last_key;
    size_t last_key_bytes;
} varve_key_range;

/* Of a get that ended with CORRUPTION: the keys that the damaged block may hold, the one asked for among
 * them; the keys of the whole table, if that can't be opened. Borrowed until the value is released. False:
 * not known, as there was no memory to tell. */
VARVE_API bool varve_value_damage(const varve_value *value, varve_key_range *out);

/*
 * As varve_get() without waiting for the disk: what is in memory is answered on this thread before the call
 * returns; else the key is copied, and `done` is called on the reader thread, which keeps many reads in
 * flight. It must not block. On OK and on CORRUPTION the value is its receiver's to release; copy the struct
 * to keep it.
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
    varve_value value;   /* of OK and CORRUPTION; the caller's to release */
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
 * BUSY. A cursor never passes over what can't be read; after CORRUPTION or IO it may be placed elsewhere,
 * behind the damage for one, and goes on from there. */
VARVE_API bool varve_iter_valid(const varve_iter *it);
VARVE_API varve_status varve_iter_status(const varve_iter *it);
/* After CORRUPTION: the keys that the damaged block may hold, or the whole table, if that can't be opened: a
 * cursor that is placed behind the last one goes on. Borrowed until the next call on the cursor. False: not
 * known. */
VARVE_API bool varve_iter_damage(const varve_iter *it, varve_key_range *out);

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
 * max_bytes of log files that nothing else needs; beyond that, or when the disk gets full, the cursor loses
 * its hold, with a line in the log. The hold is not kept across a restart.
 */
VARVE_API void varve_wal_cursor_hold(varve_wal_cursor *cursor, uint64_t max_bytes);
/* False: never asked for, or lost. */
VARVE_API bool varve_wal_cursor_holds(varve_wal_cursor *cursor);

/* About how many bytes of log are durable behind what the cursor has given out. Any thread, also while
 * another uses the cursor. */
VARVE_API uint64_t varve_wal_cursor_behind_bytes(varve_wal_cursor *cursor);

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

/* ---- replicas: epochs ---- */

/*
 * The log of a database that is replicated has one primary at a time, and each primary an epoch of its own:
 * the records that it writes carry the epoch, and the history of epochs says at which LSN each began. Two
 * logs that have the same epochs (number and id) up to some LSN are the same up to there; where two histories
 * part, the logs do.
 */
typedef struct varve_epoch {
    uint64_t epoch;     /* from 1, ascending */
    uint64_t first_lsn; /* the first that this primary could write */
    uint64_t id;        /* random, so that two primaries that took the same number are told apart */
} varve_epoch;

/* The newest are kept. */
#define VARVE_EPOCHS_MAX 256

/* The history, oldest first; the last is the current epoch. Returns how many. The record at an LSN is of the
 * last one that begins at or before it: an epoch that begins behind the end of the log has no record here. */
VARVE_API size_t varve_epochs_get(varve_db *db, varve_epoch out[VARVE_EPOCHS_MAX]);

/*
 * Up to which LSN two logs are the same, from their histories and last LSNs. False: they have no epoch in
 * common, or it was forgotten.
 */
VARVE_API bool varve_epochs_common_lsn(const varve_epoch *a, size_t a_count, uint64_t a_last_lsn,
                                       const varve_epoch *b, size_t b_count, uint64_t b_last_lsn,
                                       uint64_t *common_lsn_out);

/*
 * Promise never to follow a primary of a lower epoch. OK: survives power loss, and is shown as
 * varve_stats.promised_epoch. A promise that was made already is fine. INVALID_ARGUMENT/EPOCH_TOO_OLD: a
 * higher one was. Everything that was written before is durable then, too: asynchronous writes are synced.
 * Writes that wait for varve_limit_commits() are answered NOT_CONFIRMED at once: who was to confirm them will
 * not.
 */
VARVE_API varve_status varve_promise_epoch(varve_db *db, uint64_t epoch, varve_error *err) VARVE_CHECKED;

/*
 * Become the primary of a new epoch, which begins behind everything that was written: every write from here
 * on carries it. OK: survives power loss. INVALID_ARGUMENT/EPOCH_TOO_OLD: it is not higher than all that the
 * database has had, or a higher one was promised.
 *
 * A database that is written to although its newest epoch was begun by another (a backup that was restored, a
 * replica that nobody has promoted) begins the next one by itself, before the write: two logs never pass for
 * the same.
 */
VARVE_API varve_status varve_begin_epoch(varve_db *db, uint64_t epoch, varve_error *err) VARVE_CHECKED;

/*
 * Take over a primary's history, and promise its newest epoch: before the first record of it is applied. The
 * database's log must be a part of the primary's (varve_epochs_common_lsn() gives its whole length). OK:
 * survives power loss. INVALID_ARGUMENT: EPOCH_TOO_OLD, a higher epoch was promised; else the log is no part
 * of the primary's, or this is no history. Writes nothing if nothing changes.
 */
VARVE_API varve_status varve_follow_epochs(varve_db *db, const varve_epoch *epochs, size_t count,
                                           varve_error *err) VARVE_CHECKED;

/* ---- replicas: applying the log of another ---- */

/* A batch of a log cursor as bytes for varve_apply(), appended to what is at `to`; see FORMAT.md, "record".
 * Head and operations: returns how many bytes it takes, and writes them only if there is room. */
VARVE_API size_t varve_wal_batch_encode(const varve_wal_batch *batch, void *to, size_t room);

/*
 * Write records of another database's log with their LSNs, epochs and clients' names: one or many, as
 * varve_wal_batch_encode() made them. They follow what is there: the first begins at the next LSN.
 *
 * OK                        all are durable. *applied_lsn_out (may be NULL): the last one's LSN.
 * INVALID_ARGUMENT          NOT_NEXT: they don't follow; nothing changed.
 * CORRUPTION                the bytes are no records; nothing changed.
 * NO_SPACE, BUSY, NO_MEMORY  some of the first may be applied, as *applied_lsn_out says; go on from there.
 * WAL_FAILED                as for varve_put().
 *
 * Blocks. One caller at a time, and nobody else writes meanwhile.
 */
VARVE_API varve_status varve_apply(varve_db *db, const void *records, size_t bytes, uint64_t *applied_lsn_out,
                                   varve_error *err) VARVE_CHECKED;

/* ---- replicas: writes that wait for others ---- */

/*
 * With commits limited, a write becomes visible to reads, snapshots and conditions' answers, and is answered,
 * only when it is durable here and varve_set_commit_limit() has reached its LSN; DURABILITY_ASYNC is SYNC
 * then. Limiting begins with what is visible now; lifting it shows and answers everything. Kept across
 * restarts, the limit itself roughly: after opening it may be lower than it was, never higher.
 *
 * Writes that wait hold memory, so at some length of the queue new ones are refused: BUSY/REPLICAS_BEHIND.
 */
VARVE_API varve_status varve_limit_commits(varve_db *db, bool limited, varve_error *err) VARVE_CHECKED;

/* Everything up to lsn, the last of a batch, is confirmed. A lower one than before changes nothing, nor does
 * any without a limit. May lie in the future. Any thread; does not block. */
VARVE_API void varve_set_commit_limit(varve_db *db, uint64_t lsn);

/* Call the durable callback (varve_options_set_durable_callback()) once, when more becomes durable or visible
 * than is at the time of this call. Any thread. */
VARVE_API void varve_want_notice(varve_db *db);

/* ---- replicas: slots ---- */

/*
 * A slot keeps the log for one reader, and tombstones for it (varve_set_safe_compaction_lsn()): what is above
 * its confirmed LSN stays, also across restarts, up to WAL_RETENTION_MAX bytes of log that nothing else
 * needs. A slot that would need more is lost, with a line in the log: its reader has to begin anew. So is one
 * whose log is in the way when the disk gets full. While there are slots, the safe compaction LSN that holds
 * is the lowest of theirs and the one that was set; those that are lost do not count.
 */
#define VARVE_SLOT_NAME_BYTES_MAX 64
#define VARVE_SLOTS_MAX           64

typedef struct varve_slot_info {
    char name[VARVE_SLOT_NAME_BYTES_MAX + 1];
    uint64_t confirmed_lsn;
    uint64_t held_bytes; /* of log that is there for slots as far behind as this one */
    bool lost;
} varve_slot_info;

/*
 * Make a slot, or place the one of this name anew, also one that is lost. Names: 1 to 64 letters, digits and
 * "._:-". OK: survives power loss. TRIMMED: lsn + 1 is no longer in the log. INVALID_ARGUMENT: lsn is not
 * durable, or the name. BUSY: there are VARVE_SLOTS_MAX, and none of them is lost; else a lost one is
 * forgotten.
 */
VARVE_API varve_status varve_slot_create(varve_db *db, const char *name, uint64_t lsn,
                                         varve_error *err) VARVE_CHECKED;
/* Its reader has everything up to lsn and will not ask for it again; never moves back. NOT_FOUND: there is
 * none, or it is lost. Remembered across restarts roughly: after one, the slot may be lower. Does not block.
 * Any thread. */
VARVE_API varve_status varve_slot_confirm(varve_db *db, const char *name, uint64_t lsn) VARVE_CHECKED;
/* Fine if there is none. */
VARVE_API varve_status varve_slot_drop(varve_db *db, const char *name, varve_error *err) VARVE_CHECKED;
/* Returns how many there are. */
VARVE_API size_t varve_slots_get(varve_db *db, varve_slot_info out[VARVE_SLOTS_MAX]);

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
 * nothing back that is gone already. On failure the old one holds. While there are slots, the lowest of it
 * and of what they have confirmed holds; varve_stats.safe_compaction_lsn shows that one.
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
    uint64_t
        damaged_tables; /* merges could not read them, twice since open: they stay, and are not tried again */
    uint64_t dropped_versions;
    uint64_t dropped_tombstones;
    uint64_t safe_compaction_lsn; /* that holds, slots considered; 0: no gate */
    uint64_t epoch;               /* primaries that the log has had */
    uint64_t promised_epoch;
    uint64_t commit_limit;       /* of varve_limit_commits(); UINT64_MAX: none */
    uint64_t unconfirmed_writes; /* that wait for it */
    uint64_t slots;              /* lost ones included */
    uint64_t slots_lost;         /* since open */
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

/* varve_stats.last_lsn and durable_lsn alone, which cost nothing to ask for. Any thread. */
VARVE_API uint64_t varve_visible_lsn(varve_db *db);
VARVE_API uint64_t varve_durable_lsn(varve_db *db);

/* The index-th number of *s under the name of its field; false behind the last. For whoever shows all of
 * them. wal_failed is 0 or 1; io_backend, a text, is not among them. */
VARVE_API bool varve_stats_number(const varve_stats *s, size_t index, const char **name_out,
                                  uint64_t *value_out);

/*
 * How values of one kind were spread since open: counts[i] were at most varve_spread_bound(i) and more than
 * the bound before it. Bounds grow by a quarter at most, and have all powers of two up to 2^26 among them;
 * the last is UINT64_MAX. So a percentile is known to within a quarter.
 */
#define VARVE_SPREAD_BUCKETS 101
typedef struct varve_spread {
    uint64_t sum;
    uint64_t counts[VARVE_SPREAD_BUCKETS];
} varve_spread;

typedef enum varve_spread_kind {
    VARVE_SPREAD_WAL_COMMIT_US,      /* write and sync of one frame of the log, microseconds */
    VARVE_SPREAD_WAL_COMMIT_RECORDS, /* batches in it */
    VARVE_SPREAD_FLUSH_US,           /* a memtable on its way to a table, microseconds */
    VARVE_SPREAD_COMPACTION_US,      /* one merge, microseconds */
} varve_spread_kind;

/* Any thread; counters that change meanwhile may be of different moments. */
VARVE_API void varve_spread_get(varve_db *db, varve_spread_kind kind, varve_spread *out);
VARVE_API uint64_t varve_spread_bound(size_t bucket);

/* One sorted run. */
typedef struct varve_run_info {
    uint32_t level;
    uint64_t table_count;
    uint64_t bytes;
    uint64_t entry_count;
    uint64_t tombstone_count; /* keys of which the run has a tombstone */
} varve_run_info;

/* What there is now, at most `max` of it, newest first; returns how many runs there are. Any thread. */
VARVE_API size_t varve_runs_get(varve_db *db, varve_run_info *runs, size_t max);

/* A merge. */
typedef struct varve_compaction_info {
    bool running;         /* if not, all else is 0 */
    uint32_t input_level; /* of its newest tables */
    uint32_t output_level;
    uint64_t input_tables;
    uint64_t input_bytes; /* of their files */
    uint64_t done_bytes;  /* keys and values that were read so far: more than input_bytes with compression */
    uint64_t started_ns;  /* CLOCK_MONOTONIC */
} varve_compaction_info;

/* The merge that is under way. Any thread. */
VARVE_API void varve_compaction_get(varve_db *db, varve_compaction_info *out);

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
 * is held for long costs space. Everything that was written before the call is in it, also what a commit
 * limit hides (varve_limit_commits()): its manifest has the limit, so that a replica made of it hides that
 * too. A backup has none. Writers go on all the while. No table is read. On failure *out is zeroed. Blocks.
 */
VARVE_API varve_status varve_take_snapshot(varve_db *db, varve_export *out, varve_error *err) VARVE_CHECKED;
/* Zeroes it; a zeroed one is fine. All exports must be released before varve_close(). */
VARVE_API void varve_export_release(varve_db *db, varve_export *exported);

/* One file of an export, open for reading. Thread-safe; the export must outlive it. */
typedef struct varve_export_reader varve_export_reader;
/* name: of one of its files. NOT_FOUND: it has none such. */
VARVE_API varve_status varve_export_open(varve_db *db, const varve_export *exported, const char *name,
                                         varve_export_reader **out, varve_error *err) VARVE_CHECKED;
/* Up to `bytes` bytes at `offset`; *read_out is less only at the end of the file. Blocks. Fastest where
 * offset, bytes and the buffer's address are multiples of 4096. */
VARVE_API varve_status varve_export_read(varve_export_reader *reader, uint64_t offset, void *buffer,
                                         size_t bytes, size_t *read_out, varve_error *err) VARVE_CHECKED;
VARVE_API void varve_export_close(varve_export_reader *reader); /* NULL is fine */

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
 * names are synced, the parent's included. Otherwise everything that this call has made is removed. What is
 * left if the process dies, or if removing fails too, has no MANIFEST, and is not mistaken for a backup.
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
    uint64_t
        first_lsn; /* writes from the one to the other, both included, may be lost; 0: not known, or none */
    uint64_t last_lsn; /* UINT64_MAX: all from there on, whatever there was */
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

/* Zeroed: repair, keep what was there, and report nothing but the counts. */
typedef struct varve_repair_options {
    varve_damage_fn damaged; /* each damage that is found: what can be put right without a loss, too */
    varve_damage_fn lost;    /* each part that is lost: of a table a range of keys, of the log one of LSNs */
    varve_progress_fn progress;
    void *arg;              /* of all three */
    bool dry_run;           /* look, and change nothing */
    bool keep_later;        /* of a damaged log take also the batches behind what is missing */
    bool discard_originals; /* once all is done; else they stay in a directory of their own */
} varve_repair_options;

typedef struct varve_repair_result {
    bool sound;            /* there was nothing to repair, and nothing was changed */
    bool manifest_rebuilt; /* it was not to be read: see varve_repair() for what that costs */
    bool may_resurrect;    /* keys that were deleted or overwritten may be back as they were before */
    uint64_t damage_count;
    uint64_t loss_count;
    uint64_t tables_kept; /* as they were */
    uint64_t tables_rewritten;
    uint64_t tables_lost;
    uint64_t last_lsn;  /* of the repaired database */
    char originals[64]; /* the directory in dir where all that was there is now; "": nowhere */
} varve_repair_result;

/*
 * Make a damaged database, which no process has open, one that opens and verifies, with all that is still
 * whole of it, and tell what is lost. options: as for varve_open(), of the tables that are written; may be
 * NULL.
 *
 *   Tables     Blocks that are whole stay; a damaged index, filter or footer is made anew from them. A table
 * that is whole is not written again. Log        All up to the first record that is missing; what is whole
 * behind it only with keep_later, since it may build on what is missing. It goes into tables, and the log
 * begins anew, with an epoch of its own: a replica that has more is told that it has another history.
 *   Manifest   One flipped bit is put right. Else it is rebuilt from the tables and the log; what only it
 * knew is lost: the database's id, slots, remembered writes, the commit limit, promises. Tables that were
 * merged already, and not removed yet when the machine stopped, are taken for live ones.
 *
 * Where a newer version of a key is lost, an older one may be found in its place, and a key whose tombstone
 * is lost may be back (may_resurrect). A replica or a backup that is whole is always better than a repair.
 *
 * Everything is prepared in dir/REPAIR and then put into place as by varve_install(): a repair that is cut
 * short leaves the damaged database, or the repaired one, and may be called again. Nothing of the originals
 * is changed, and all of them, orphans included, are moved to a directory repair-TIME in dir. Takes as much
 * space as what is written anew.
 *
 * OK                        as *out says; also if all is lost. NOT_FOUND: there is no database.
 * LOCKED, NO_SPACE, IO, PERMISSION, NO_MEMORY   as they say; nothing was changed.
 * UNSUPPORTED/FORMAT_NEWER  a file is of a newer Varve, which may have it in order.
 * CORRUPTION                what varve_install() or a restore had begun can't be told any more; see the
 * words. BUSY/CANCELED             progress said stop.
 */
VARVE_API varve_status varve_repair(const char *dir, const varve_options *options,
                                    const varve_repair_options *repair, varve_repair_result *out,
                                    varve_error *err) VARVE_CHECKED;

/* ---- what is in a file ---- */

typedef enum varve_field_kind {
    VARVE_FIELD_NUMBER, /* number */
    VARVE_FIELD_FLAG,   /* number: 0 or 1 */
    VARVE_FIELD_TEXT,   /* data and bytes: printable, with no zero behind it */
    VARVE_FIELD_BYTES,  /* data and bytes: a user's, any bytes */
    VARVE_FIELD_ID      /* data and bytes: random, or a checksum; for hexadecimal digits */
} varve_field_kind;

typedef struct varve_field {
    const char *name; /* snake_case */
    varve_field_kind kind;
    uint64_t number;
    const void *data;
    size_t bytes;
} varve_field;

/* Something that was found in a file: "segment", "frame", "operation", "table", "block", "entry", "manifest",
 * ... */
typedef struct varve_item {
    const char *kind; /* snake_case */
    const varve_field *fields;
    size_t field_count;
} varve_item;

typedef struct varve_inspect_options {
    /* Called for each item, in the order of the file, a summary last; the item is borrowed until it returns.
     * False: stop. */
    bool (*item)(void *arg, const varve_item *item);
    varve_damage_fn damaged; /* NULL: only counted */
    void *arg;               /* of both */
    bool entries;            /* also each operation of a log, and each entry of a table */
} varve_inspect_options;

typedef struct varve_inspect_result {
    uint64_t item_count;
    uint64_t damage_count;
} varve_inspect_result;

/*
 * Tell what is in a segment of a log, a table, a manifest, an archive's file, a tail that was cut off a log,
 * or a marker: headers, frames, blocks, entries, counts. The file says itself what it is; its name does not
 * matter, except where its first bytes are damaged. A directory stands for the manifest in it. Nothing is
 * locked and nothing is written, so that it may be of a database that runs: what is being written meanwhile
 * may look torn. Of what is damaged all is told that is still whole. Items and fields are for people and
 * tools that look into a database; later versions may add some.
 *
 * OK                        everything was told; out->damage_count says whether all is sound.
 * NOT_FOUND, PERMISSION, IO, NO_MEMORY   as they say.
 * INVALID_ARGUMENT          this is no file of Varve's.
 * UNSUPPORTED/FORMAT_NEWER  it is of a newer one.
 * BUSY/CANCELED             item said stop.
 */
VARVE_API varve_status varve_inspect(const char *path, const varve_inspect_options *options,
                                     varve_inspect_result *out, varve_error *err) VARVE_CHECKED;

/* ---- importing: the other end of an export ---- */

/*
 * A directory that is filled with the files of an export, from wherever they come, file by file and in any
 * order; several files at once, each opened, written and closed by one thread. What was written is kept when
 * the import is given up or the process dies: the next one into the same directory goes on from there, also
 * for a newer export of the same database, whose files may be the same in part.
 */
typedef struct varve_import varve_import;
typedef struct varve_import_file varve_import_file;

/*
 * Create the directory, or look at what an earlier import has left. files: all of the export; what is there
 * and not among them is removed, the manifest of an import that was finished and never opened as a database
 * among it. Names are copied. The directory's parent must be there.
 *
 * EXISTS              the directory holds anything that is no import.
 * LOCKED              another import has it.
 * BUSY                a varve_install() in the directory above was begun and has to be completed first.
 * INVALID_ARGUMENT    a name that no export gives.
 */
VARVE_API varve_status varve_import_begin(const char *dir, const varve_options *options,
                                          const varve_export_file *files, size_t file_count,
                                          varve_import **out, varve_error *err) VARVE_CHECKED;
/*
 * *offset_out: so many bytes are there already, and are read now, so that they are part of the checksum; its
 * size: the file is done (*out is NULL then). 0 for a file without checksum: nothing tells what is there.
 * BUSY: the file is open. INVALID_ARGUMENT: there is no such file.
 */
VARVE_API varve_status varve_import_open(varve_import *import, size_t file_index, varve_import_file **out,
                                         uint64_t *offset_out, varve_error *err) VARVE_CHECKED;
/* The bytes that follow; copied. INVALID_ARGUMENT: more than the file has. NO_SPACE, IO: final, for this open
 * file. */
VARVE_API varve_status varve_import_write(varve_import_file *file, const void *data, size_t bytes,
                                          varve_error *err) VARVE_CHECKED;
/*
 * All is written: it is synced and its checksum compared; without one, each block's. Frees `file` in any
 * case.
 *
 * CORRUPTION          another checksum: what came is damaged, or what was there before had not survived. The
 *                     file is removed, and may be opened again, to begin anew.
 * INVALID_ARGUMENT    some of it is missing; as abandoned.
 */
VARVE_API varve_status varve_import_close(varve_import_file *file, varve_error *err) VARVE_CHECKED;
/* Give up a file for now; what is there is synced, and kept for the next to open it. NULL is fine. */
VARVE_API void varve_import_abandon(varve_import_file *file);
/* All files are there: the manifest makes them a database that varve_open() opens, and its name, too,
 * survives power loss. Frees the import, on OK only. INVALID_ARGUMENT: a file is missing. CORRUPTION: the
 * manifest is damaged, or not that of these files. UNSUPPORTED/FORMAT_NEWER. */
VARVE_API varve_status varve_import_finish(varve_import *import, const void *manifest, size_t manifest_bytes,
                                           varve_error *err) VARVE_CHECKED;
/* Keep what is there, for the next try. No file is open. NULL is fine. */
VARVE_API void varve_import_end(varve_import *import);

/*
 * Put the database in `from` (an import that is finished, or a backup) in the place of the one in `dir`, if
 * there is one; `from` is gone afterwards. aside: a directory to be made, where the old one is kept instead
 * of removed; NULL: removed. Both are directories in dir, given as NAME or as dir/NAME. Files in dir that are
 * none of a database's are left alone.
 *
 * OK                  dir is the new database, and survives power loss.
 * NOT_FOUND           `from` is not there, or holds no database.
 * INVALID_ARGUMENT    `from` or `aside` are not in dir; or `from` holds other files too.
 * CORRUPTION          the manifest in `from` is damaged, or a table that it names is not there.
 * EXISTS              aside is there.
 * LOCKED              a process has either open.
 *
 * With these nothing was changed. Once begun it is completed, by the next varve_open() of dir if need be: a
 * crash, or a failure of other kinds, leaves the old database or the new one.
 */
VARVE_API varve_status varve_install(const char *dir, const char *from, const char *aside,
                                     const varve_options *options, varve_error *err) VARVE_CHECKED;

/*
 * Cut the log of a database that no process has open: everything behind lsn is moved to the file tail_path,
 * which is made in dir, and given as NAME or as dir/NAME. It has the format of an archive's files
 * (FORMAT.md), and is synced before anything is cut. lsn must be the end of a batch. Epochs that began behind
 * it are forgotten, but no promise. What stays goes into tables: it can't be cut any more.
 *
 * OK                  the next write gets lsn + 1. *cut_out (may be NULL): how many operations are in
 *                     tail_path. If there are none, no file is made.
 * TRIMMED             tables hold some of it already: nothing changed.
 * INVALID_ARGUMENT    lsn lies within a batch, or behind the end; or tail_path is not in dir.
 * EXISTS              tail_path is there.
 * LOCKED              a process has the database open.
 *
 * Once begun it is completed, by the next varve_open() if need be.
 */
VARVE_API varve_status varve_rewind(const char *dir, const varve_options *options, uint64_t lsn,
                                    const char *tail_path, uint64_t *cut_out, varve_error *err) VARVE_CHECKED;

/* ---- archiving the log, and restoring ---- */

/*
 * An archive is a directory to which everything that is written is copied as soon as it is durable, with the
 * time of that. Together with a backup it brings back the state of any later LSN or time.
 */
typedef struct varve_archive varve_archive;

/* Zeroed: defaults. */
typedef struct varve_archive_options {
    uint64_t file_bytes;       /* a file is ended at this size; 0: 64 MiB */
    uint64_t sync_interval_us; /* how much of the newest may be lost with the power; 0: 1 s */
} varve_archive_options;

typedef struct varve_archive_info {
    uint64_t last_lsn;   /* archived, and synced */
    uint64_t file_count; /* of this run */
    uint64_t bytes;      /* the same */
    uint64_t gaps;       /* how often records were gone before they could be archived, since the start */
    varve_status status; /* of the newest try: of a disk that is full, say; it is tried again */
} varve_archive_info;

/* Its slot, which stays when the archive is stopped: whoever is not going to start it again drops it. */
#define VARVE_ARCHIVE_SLOT "archive"

/* Go on with the archive in `dir` (made if there is none) on a thread of its own, and hold the log by a slot
 * until it is archived. INVALID_ARGUMENT: it is of another database. LOCKED: another process
 * writes to it. */
VARVE_API varve_status varve_archive_start(varve_db *db, const char *dir,
                                           const varve_archive_options *options, varve_archive **out,
                                           varve_error *err) VARVE_CHECKED;
VARVE_API void varve_archive_get(varve_archive *archive, varve_archive_info *out);
/* Archives what is durable at the time of the call, unless that fails, and ends. Before varve_close(). NULL
 * is fine. */
VARVE_API void varve_archive_stop(varve_archive *archive);

/* Zeroed: the state of the backup. */
typedef struct varve_restore_options {
    const char *archive_dir; /* NULL: none */
    uint64_t to_lsn;         /* with an archive: the last LSN; 0: as far as it goes */
    uint64_t to_unix_ms;     /* with an archive: the last moment; 0: as far as it goes */
    varve_backup_mode mode;  /* of the tables */
    varve_progress_fn progress;
    void *arg;
} varve_restore_options;

typedef struct varve_restore_info {
    uint64_t backup_lsn;
    uint64_t lsn;     /* of the state that was restored */
    uint64_t unix_ms; /* when its last write was archived; 0: none was applied */
    uint64_t records; /* applied from the archive */
} varve_restore_info;

/*
 * Make `dest` (not there yet, or empty) a database with the state of a backup or, with an archive, of a later
 * LSN or time: the last whole batch at or before it. Every file is checked. The backup is not changed.
 *
 * INVALID_ARGUMENT    to_lsn lies before the backup's, or behind what the archive has.
 * CORRUPTION/LOG_GAP  the archive has a gap before that.
 * EXISTS and others as for varve_backup(). On failure nothing is left of dest; unless removing fails too:
 * then varve_open() refuses it.
 */
VARVE_API varve_status varve_restore(const char *backup_dir, const char *dest,
                                     const varve_restore_options *options, varve_restore_info *out,
                                     varve_error *err) VARVE_CHECKED;

/* Random, drawn when the database was made; backups, exports and replicas share it. */
#define VARVE_DATABASE_ID_BYTES 16
VARVE_API void varve_database_id(varve_db *db, uint8_t out[VARVE_DATABASE_ID_BYTES]);

VARVE_API const char *varve_version(void);

#ifdef __cplusplus
}
#endif

#endif
