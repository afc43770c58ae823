/*
 * sst.h - sorted string tables: immutable files of entries in internal order. Layout: engine/FORMAT.md
 * section 2.
 *
 * Three parts: a writer that takes entries in order; a reader that holds index and filter of one open file in
 * memory and answers which block may hold a key; and functions on the bytes of one block. Nothing in the read
 * path does I/O behind the caller's back: a lookup names the block it wants, the caller brings it from cache
 * or disk, blocking or not (engine/lsm/get.h drives this).
 */
#ifndef VV_ENGINE_SST_SST_H
#define VV_ENGINE_SST_SST_H

#include <stdatomic.h>

#include "base/log.h"
#include "engine/kv/iter.h"
#include "io/io.h"

#define VV_SST_BLOCK_BYTES_MIN 4096
#define VV_SST_BLOCK_BYTES_MAX 65536

/* COMPRESSION, of data blocks. The values are those on disk. */
typedef enum vv_compression {
    VV_COMPRESSION_NONE = 0,
    VV_COMPRESSION_LZ4 = 1,
    VV_COMPRESSION_ZSTD = 2,
} vv_compression;

/* INDEX_TYPE. The values are those on disk. */
typedef enum vv_index_type {
    VV_INDEX_SPARSE = 0, /* a key a block */
    VV_INDEX_DENSE = 1,  /* a key an entry */
} vv_index_type;

/* ---- writer ---- */

typedef struct vv_sst_writer vv_sst_writer;

typedef struct vv_sst_writer_options {
    vv_io_queue *queue; /* the calling thread's, with a pool of at least 2 buffers of 64 KiB or more */
    vv_io_backend *backend;
    const char *path;
    uint32_t block_bytes; /* BLOCK_SIZE */
    /* A block of several entries takes one block_bytes, or, while more than a sixteenth of it would be left
     * empty, up to so many of them (0 is 1): the table becomes smaller, and a get from the disk reads more.
     */
    uint32_t block_units_max;
    double filter_fp_rate; /* BLOOM_FILTER_FALSE_POSITIVE_RATE; 0: no filter */
    vv_compression compression;
    vv_index_type index_type;
    /* NULL, or where blocks go whose entries were warm, as those of file_number: what gets had in
     * memory before a merge they have there behind it. */
    struct vv_block_cache *cache;
    uint64_t file_number;
    _Atomic uint64_t
        *memory_bytes; /* NULL, or a gauge that the writer adds to what it takes, while it does */
} vv_sst_writer_options;

/* What the manifest keeps of a finished table. */
typedef struct vv_sst_summary {
    uint64_t file_bytes;
    uint64_t
        file_checksum; /* of the whole file, seed 0; 0: not known, of a table that an older version wrote */
    uint64_t item_count;
    uint64_t key_count;       /* user keys, each with any number of versions */
    uint64_t tombstone_count; /* user keys whose newest version here is a tombstone */
    uint64_t min_lsn;
    uint64_t max_lsn;
    uint8_t *first_key; /* user keys, owned by the summary */
    uint8_t *last_key;
    uint32_t first_key_bytes;
    uint32_t last_key_bytes;
} vv_sst_summary;

void vv_sst_summary_deinit(vv_sst_summary *s);

/* Creates the file; EXISTS if it is there. On failure no file of this call stays behind. BUSY: the queue's
 * pool has no two buffers left. */
vv_status vv_sst_writer_create(const vv_sst_writer_options *o, vv_sst_writer **out, vv_error *err) VV_CHECKED;

/* Entries strictly ascend in internal order. Bytes are copied. A failure is final: destroy the writer. */
vv_status vv_sst_writer_add(vv_sst_writer *w, const vv_entry *e) VV_CHECKED;

/* Write the rest and sync the file; its name is durable only after the caller syncs the directory. At least
 * one entry was added. *out is the caller's to deinit. */
vv_status vv_sst_writer_finish(vv_sst_writer *w, vv_sst_summary *out, vv_error *err) VV_CHECKED;

/* Bytes written so far, for splitting outputs. */
uint64_t vv_sst_writer_bytes(const vv_sst_writer *w);

/* After finish, or to give up: then the file stays for the caller to unlink. NULL is fine. */
void vv_sst_writer_destroy(vv_sst_writer *w);

/* ---- reader ---- */

typedef struct vv_sst_reader vv_sst_reader;

/* Where one block is. bytes is a multiple of the table's block_bytes. */
typedef struct vv_block_handle {
    uint64_t offset;
    uint32_t bytes;
    uint32_t position; /* of the entry that was looked for, if a dense index knows it; see seek_key below */
    uint32_t index;    /* of the block in its table */
} vv_block_handle;

/*
 * Open a table: footer, index and filter are read, verified against their checksums and kept.
 * CORRUPTION (CHECKSUM, BAD_MAGIC, TRUNCATED, BAD_LAYOUT) with words that name file and offset;
 * UNSUPPORTED/FORMAT_NEWER.
 */
vv_status vv_sst_reader_open(vv_io_backend *b, const char *path, uint64_t file_number, vv_sst_reader **out,
                             vv_error *err) VV_CHECKED;
/* The same; *offset_out: where in the file the part stands that was found damaged. */
vv_status vv_sst_reader_open_at(vv_io_backend *b, const char *path, uint64_t file_number, vv_sst_reader **out,
                                uint64_t *offset_out, vv_error *err) VV_CHECKED;
void vv_sst_reader_close(vv_sst_reader *r);

vv_file *vv_sst_reader_file(const vv_sst_reader *r);
uint64_t vv_sst_reader_file_number(const vv_sst_reader *r);
const char *vv_sst_reader_path(const vv_sst_reader *r);
uint64_t vv_sst_reader_item_count(const vv_sst_reader *r);
uint64_t vv_sst_reader_max_lsn(const vv_sst_reader *r);
/* Index and filter in memory. */
uint64_t vv_sst_reader_memory_bytes(const vv_sst_reader *r);

/* False: no version of the key is in the table. key_hash: vv_hash_key() of the user key. */
bool vv_sst_reader_may_contain(const vv_sst_reader *r, uint64_t key_hash);

/* The one block that would hold the first entry at or behind (key, lsn); false: there is none. */
bool vv_sst_reader_find(const vv_sst_reader *r, vv_slice key, uint64_t lsn, vv_block_handle *out);

/* As find, for a get: the block that may hold the newest version of `key` at or below lsn. False: there is
 * none in the table, which a dense index always knows. */
bool vv_sst_reader_find_key(const vv_sst_reader *r, vv_slice key, uint64_t lsn, vv_block_handle *out);

/* The keys that the block may hold which find() names for (key, lsn), both included; borrowed from the
 * reader. There is such a block. */
void vv_sst_reader_find_keys(const vv_sst_reader *r, vv_slice key, uint64_t lsn, vv_slice *first_out,
                             vv_slice *last_out);

/* What footer, index and filter say of the whole. */
typedef struct vv_sst_description {
    uint32_t format_version;
    uint64_t file_bytes;
    uint64_t table_id;
    uint64_t created_unix_ms;
    uint64_t item_count;
    uint64_t min_lsn;
    uint64_t max_lsn;
    uint64_t block_count;
    uint32_t block_bytes;
    uint64_t data_bytes;
    uint64_t index_bytes;
    vv_index_type index_type;
    uint64_t filter_bytes; /* 0: there is none */
    uint32_t filter_probes;
    vv_slice first_key; /* borrowed from the reader, as the next */
    vv_slice last_key;
} vv_sst_description;

void vv_sst_reader_describe(const vv_sst_reader *r, vv_sst_description *out);

uint64_t vv_sst_reader_block_count(const vv_sst_reader *r);
/* The index-th block, 0 to block_count - 1. */
vv_block_handle vv_sst_reader_block(const vv_sst_reader *r, uint64_t index);

/* ---- checking a whole table (verify.c) ---- */

/* Data that is lost: entries between the two keys, both included, may be missing. */
typedef struct vv_sst_damage {
    uint64_t offset; /* in the file */
    uint64_t bytes;
    vv_slice first_key; /* borrowed until the callback returns */
    vv_slice last_key;
    vv_status status;
} vv_sst_damage;

/* A block that is whole. */
typedef struct vv_sst_block_view {
    uint64_t index;        /* from 0 */
    uint64_t offset;       /* in the file */
    uint64_t bytes;        /* there, padding included */
    uint64_t stored_bytes; /* of entries and their offsets as stored */
    uint64_t raw_bytes;    /* of the same before compression */
    vv_compression compression;
    const void
        *ready; /* for vv_sst_block_count() and vv_sst_block_entry(); borrowed until the callback returns */
} vv_sst_block_view;

typedef struct vv_sst_verify_options {
    void (*damaged)(void *arg, const vv_sst_damage *d);
    void (*block)(void *arg, const vv_sst_block_view *b); /* each that is whole; may be NULL */
    /* Called behind each piece that was read, and may sleep to keep to a rate. False: stop. */
    bool (*pace)(void *arg, uint64_t bytes);
    void *arg;
} vv_sst_verify_options;

/*
 * Read every data block from the file, beside all caches, with blocking reads; check it, the order of its
 * entries, and that index and filter know them. Goes on behind each damage. *block_count_out: blocks looked
 * at. OK also if there was damage. BUSY: pace said stop. NO_MEMORY.
 */
vv_status vv_sst_verify_blocks(const vv_sst_reader *r, const vv_sst_verify_options *o,
                               uint64_t *block_count_out) VV_CHECKED;

/* ---- what is left of a damaged table (salvage.c) ---- */

typedef struct vv_sst_salvage_options {
    vv_io_backend *backend;
    const char *path;
    vv_status (*entry)(void *arg, const vv_entry *e); /* borrowed until it returns; a failure ends it */
    void (*lost)(void *arg, const vv_sst_damage *d);  /* an empty key: not known */
    bool (*pace)(void *arg, uint64_t bytes);          /* as for verifying */
    void *arg;
} vv_sst_salvage_options;

/*
 * Give out the entries of all blocks that are whole, in order, and tell which are not. Index, filter and
 * footer may be damaged, too: without them the blocks are found by their checksums. OK also if there was
 * nothing to be found. IO: the file can't be opened. BUSY: pace said stop. NO_MEMORY; and what `entry`
 * returns.
 */
vv_status vv_sst_salvage(const vv_sst_salvage_options *o, vv_error *err) VV_CHECKED;

/* ---- the bytes of one block ---- */

/*
 * A block as stored, perhaps compressed, becomes a ready one, which the functions below read: the cache and
 * the cursors do that, and hand out ready blocks only.
 */

/* Check a block as read from `h`: checksum, bound to file and offset, and layout, so that search may trust
 * it. *image_bytes_out 0: it is ready as it is; else it is compressed, and the ready block takes so many. */
vv_status vv_sst_block_verify(const vv_sst_reader *r, vv_block_handle h, const void *bytes,
                              uint32_t *image_bytes_out) VV_CHECKED;

/* The first entry at or behind (key, lsn) in a ready block; borrowed from it. False: none in this block. */
bool vv_sst_block_seek(const void *bytes, vv_slice key, uint64_t lsn, vv_entry *out);

/* The newest version of `key` at or below lsn in the ready block that find_key() named as h; a dense index
 * lets it touch that one entry only. False: there is none. */
bool vv_sst_block_seek_key(vv_block_handle h, const void *bytes, vv_slice key, uint64_t lsn, vv_entry *out);

uint32_t vv_sst_block_count(const void *bytes);
/* The index-th entry of a ready block. */
void vv_sst_block_entry(const void *bytes, uint32_t index, vv_entry *out);

#endif
