/*
 * sst_impl.h - the parts of a table as its writer and its reader share them. Included inside engine/sst only.
 *
 * Every offset and size below is drawn in engine/FORMAT.md section 2.
 */
#ifndef VV_ENGINE_SST_SST_IMPL_H
#define VV_ENGINE_SST_SST_IMPL_H

#include <stdatomic.h>

#include "base/checksum.h"
#include "base/codec.h"
#include "engine/sst/sst.h"

#define VV_SST_FORMAT_VERSION 1
#define VV_SST_MAGIC          "VARVSST" /* 7 bytes, then the version */
#define VV_SST_MAGIC_BYTES    7

#define VV_SST_FOOTER_BYTES      56
#define VV_SST_BLOCK_HEAD_BYTES  24
#define VV_SST_ENTRY_HEAD_BYTES  24
#define VV_SST_INDEX_HEAD_BYTES  96
#define VV_SST_INDEX_SLOT_BYTES  22
#define VV_SST_INDEX_KEY_BYTES   10
#define VV_SST_FILTER_HEAD_BYTES 16
#define VV_SST_FILTER_LINE_BYTES 64
#define VV_SST_CHECKSUM_BYTES    8

#define VV_SST_FILTER_BLOCKED 1

/* The seed of the checksum of what stands at `offset` of table `table_id`: a block that was written for
 * another place or another table does not pass. */
static inline uint64_t vv_sst_seed(uint64_t table_id, uint64_t offset) {
    return table_id + (offset + 1) * UINT64_C(0x9E3779B97F4A7C15);
}

/* ---- growing bytes (buffer.c) ---- */

typedef struct vv_sst_buffer {
    uint8_t *data;
    size_t bytes;
    size_t capacity_bytes;
} vv_sst_buffer;

/* Grow by `bytes`, not initialised, and return where they begin; NULL: no memory, nothing changed. */
void *vv_sst_buffer_extend(vv_sst_buffer *b, size_t bytes) VV_CHECKED;
/* False: no memory. */
bool vv_sst_buffer_append(vv_sst_buffer *b, const void *data, size_t bytes) VV_CHECKED;
void vv_sst_buffer_deinit(vv_sst_buffer *b);

/* ---- compression (codec.c) ---- */

/* Packs blocks for one writer. */
typedef struct vv_sst_packer {
    vv_compression compression;
    vv_sst_buffer packed;
    void *zstd; /* its context, made when first needed */
} vv_sst_packer;

/* Pack into p->packed. *packed_out: the bytes there; 0 if the data is too long to be packed, or the packer
 * packs nothing. NO_MEMORY. */
vv_status vv_sst_pack(vv_sst_packer *p, const void *data, size_t bytes, size_t *packed_out) VV_CHECKED;
void vv_sst_packer_deinit(vv_sst_packer *p);

/* Shared by any number of threads. All zeros to begin with. */
typedef struct vv_sst_unpacker {
    _Atomic(void *) zstd; /* a context that nobody uses now, or NULL */
} vv_sst_unpacker;

/* False: no honest writer makes raw_bytes out of so few. To be asked before memory is allocated for them. */
bool vv_sst_raw_bytes_plausible(uint8_t compression, uint32_t stored_bytes, uint32_t raw_bytes);
/* Never reads beyond `stored` nor writes beyond raw_bytes. CORRUPTION unless it is exactly as long. */
vv_status vv_sst_unpack(vv_sst_unpacker *u, uint8_t compression, vv_slice stored, void *raw,
                        size_t raw_bytes) VV_CHECKED;
uint64_t vv_sst_unpacker_memory_bytes(vv_sst_unpacker *u);
/* Nobody uses it any more. */
void vv_sst_unpacker_deinit(vv_sst_unpacker *u);

/* ---- one data block (block_builder.c, block.c) ---- */

typedef struct vv_sst_block_builder {
    uint32_t block_bytes;
    uint32_t units_max;
    uint32_t count;
    vv_sst_buffer entries;
    vv_sst_buffer offsets; /* of each entry, as on disk */
    vv_sst_buffer sealed;  /* the block that was sealed last */
    vv_sst_packer packer;
    uint32_t warm_count; /* of the entries */
    uint32_t hot_count;
    double ratio; /* packed to raw bytes, of the last blocks */
    uint32_t sealed_count;
} vv_sst_block_builder;

/* units_max: as block_units_max of the writer's options. */
void vv_sst_block_builder_init(vv_sst_block_builder *b, uint32_t block_bytes, uint32_t units_max,
                               vv_compression compression);
/* What a block of all entries takes uncompressed, with one more entry e (e NULL: as it is). */
uint64_t vv_sst_block_builder_bytes(const vv_sst_block_builder *b, const vv_entry *e);
/* What is collected, at least one entry, is to be sealed before e is added. */
bool vv_sst_block_builder_is_full(const vv_sst_block_builder *b, const vv_entry *e);
vv_status vv_sst_block_builder_add(vv_sst_block_builder *b, const vv_entry *e) VV_CHECKED;
/* Key and LSN of the i-th entry; borrowed until the next add or drop. */
void vv_sst_block_builder_key(const vv_sst_block_builder *b, uint32_t i, vv_slice *key, uint64_t *lsn);
/* How warm a block of the entries should be: as a third of them are at least. Where a hot block is merged
 * with as many entries that are cold, those that were hot still are. */
vv_heat vv_sst_block_builder_heat(const vv_sst_block_builder *b);
/* Make a block of the first *count_out entries, at least one, padded to a multiple of block_bytes; borrowed
 * until the next seal. The entries stay until they are dropped. NO_MEMORY. */
vv_status vv_sst_block_builder_seal(vv_sst_block_builder *b, uint64_t seed, vv_slice *out,
                                    uint32_t *count_out) VV_CHECKED;
/* Forget the first `count` entries. */
void vv_sst_block_builder_drop(vv_sst_block_builder *b, uint32_t count);
void vv_sst_block_builder_deinit(vv_sst_block_builder *b);

/* The offset table of a ready block: where each entry is, counted from the end of the block's head. */
static inline const uint8_t *vv_sst_block_places(const void *bytes) {
    const uint8_t *head = bytes;
    return head + VV_SST_BLOCK_HEAD_BYTES + vv_get_be32(head + 12) -
           vv_get_be32(head + 16) * sizeof(uint32_t);
}

/* The entry that begins at e. */
static inline void vv_sst_entry_decode(const uint8_t *e, vv_entry *out) {
    uint16_t key_bytes = vv_get_be16(e + 2);
    *out = (vv_entry){
        .kind = e[0],
        .flags = e[1],
        .lsn = vv_get_be64(e + 8),
        .expires_unix_ms = vv_get_be64(e + 16),
        .key = vv_slice_make(e + VV_SST_ENTRY_HEAD_BYTES, key_bytes),
        .value = vv_slice_make(e + VV_SST_ENTRY_HEAD_BYTES + key_bytes, vv_get_be32(e + 4)),
    };
}

/* The entry at such a place. */
static inline void vv_sst_block_entry_at(const void *bytes, uint32_t place, vv_entry *out) {
    vv_sst_entry_decode((const uint8_t *)bytes + VV_SST_BLOCK_HEAD_BYTES + place, out);
}

/* So far ahead a cursor asks for what it will decode; a block may end before. */
#define VV_SST_ENTRIES_AHEAD_BYTES 1024

/* *e, which is not the last one of its ready block, becomes the one behind it: they lie without gaps. */
static inline void vv_sst_block_entry_next(vv_entry *e) {
    const uint8_t *next = (const uint8_t *)e->value.data + e->value.bytes;
    __builtin_prefetch(next + VV_SST_ENTRIES_AHEAD_BYTES);
    __builtin_prefetch(next + VV_SST_ENTRIES_AHEAD_BYTES + VV_CACHE_LINE_BYTES);
    vv_sst_entry_decode(next, e);
}

/* What the ready block takes of one that is whole and packed; 0: it is ready as it is. */
uint32_t vv_sst_block_image_bytes(const void *stored);
/* Make a ready block of a verified one that is packed: image has the bytes that vv_sst_block_verify() said.
 * CORRUPTION, UNSUPPORTED, NO_MEMORY. */
vv_status vv_sst_block_unpack(vv_sst_unpacker *u, const void *stored, void *image) VV_CHECKED;
/* The index of the first entry at or behind (key, lsn); the count if there is none. */
uint32_t vv_sst_block_lower_bound(const void *bytes, vv_slice key, uint64_t lsn);

/* ---- hints of a cached block (hints.c) ---- */

/* What the hints of a ready block take; 0: it gets none. */
size_t vv_sst_hints_bytes(const void *block);
void vv_sst_hints_build(const void *block, uint8_t *hints);
/* Where entry `index` of `count` is. */
static inline uint32_t vv_sst_hints_place(const uint8_t *hints, uint32_t count, uint32_t index) {
    uint16_t place;
    memcpy(&place, hints + count + (size_t)index * sizeof place, sizeof place);
    return place;
}
/* The newest version of `key` at or below lsn in a block of `count` entries. False: there is none. */
bool vv_sst_hints_seek_key(const uint8_t *hints, uint32_t count, const void *block, vv_slice key,
                           uint64_t key_hash, uint64_t lsn, vv_entry *out);
/* As vv_sst_block_lower_bound(). */
uint32_t vv_sst_hints_lower_bound(const uint8_t *hints, uint32_t count, const void *block, vv_slice key,
                                  uint64_t lsn);

/* ---- index block (index.c) ---- */

/* An entry's place in its block, when the index does not know it. */
#define VV_SST_POSITION_UNKNOWN UINT32_MAX

typedef struct vv_sst_index_head {
    vv_index_type type;
    uint32_t block_bytes;
    uint64_t table_id;
    uint64_t created_unix_ms;
    uint64_t item_count;
    uint64_t min_lsn;
    uint64_t max_lsn;
    uint64_t data_bytes;
    uint64_t block_count;
    uint64_t filter_checksum; /* 0: no filter */
    uint64_t footer_checksum;
    vv_slice first_key;
} vv_sst_index_head;

/* One data block as the index knows it. */
typedef struct vv_sst_index_slot {
    vv_block_handle handle;
    vv_slice last_key;
    uint64_t last_lsn;
} vv_sst_index_slot;

vv_status vv_sst_index_slot_append(vv_sst_buffer *slots, const vv_sst_index_slot *slot) VV_CHECKED;

/* Of a dense index: the keys of the first `count` entries of b, which are a block. */
vv_status vv_sst_index_keys_append(vv_sst_buffer *keys, const vv_sst_block_builder *b,
                                   uint32_t count) VV_CHECKED;

/* Bytes of an index block with these slots and keys. */
uint64_t vv_sst_index_block_bytes(const vv_sst_index_head *h, const vv_sst_buffer *slots,
                                  const vv_sst_buffer *keys);
/* Write it to `at`, which has that many bytes; index_offset: where it will be in the file. */
void vv_sst_index_encode(const vv_sst_index_head *h, const vv_sst_buffer *slots, const vv_sst_buffer *keys,
                         uint64_t index_offset, uint8_t *at);

/* The keys of one block in a dense index. */
typedef struct vv_sst_index_keys {
    uint64_t at;    /* where they begin in the index block */
    uint64_t first; /* of the block's entries, counted over the whole table */
    uint32_t count;
} vv_sst_index_keys;

typedef struct vv_sst_index {
    vv_sst_index_head head;
    uint8_t *bytes; /* the index block, owned; slots and keys are read from it */
    size_t bytes_count;
    size_t shared_bytes;     /* every key of the table begins with this many bytes of the first key */
    uint64_t *prefixes;      /* of each block's last key: the 8 bytes behind the shared ones */
    uint64_t *fences;        /* the last prefix of each group of them */
    uint64_t *slots_at;      /* where each slot is in bytes */
    uint32_t *blocks_at;     /* where each block is, and where the last one ends; in units of block_bytes */
    vv_sst_index_keys *keys; /* of each block; NULL: sparse */
    uint32_t *keys_at;       /* of each entry: where its key is, from the first one of its block on */
} vv_sst_index;

/* Verify an index block that stands at index_offset, and take a copy. CORRUPTION, UNSUPPORTED, NO_MEMORY. */
vv_status vv_sst_index_open(vv_sst_index *x, vv_slice block, uint64_t index_offset) VV_CHECKED;
void vv_sst_index_close(vv_sst_index *x);
/* The index of the first block whose last entry is at or behind (key, lsn); block_count: none. */
uint64_t vv_sst_index_find(const vv_sst_index *x, vv_slice key, uint64_t lsn);
/* Of a dense index: the place in block i, which find() named, of the newest version of `key` at or below lsn.
 * False: there is none in the table. */
bool vv_sst_index_find_position(const vv_sst_index *x, uint64_t i, vv_slice key, uint64_t lsn,
                                uint32_t *position_out);
/* The i-th slot; its key is borrowed from the index. */
vv_sst_index_slot vv_sst_index_slot_at(const vv_sst_index *x, uint64_t i);
vv_block_handle vv_sst_index_handle(const vv_sst_index *x, uint64_t i);
/* The keys that block i may hold, both included; borrowed from x. */
void vv_sst_index_key_range(const vv_sst_index *x, uint64_t i, vv_slice *first_out, vv_slice *last_out);
uint64_t vv_sst_index_memory_bytes(const vv_sst_index *x);

/* ---- filter block (filter.c) ---- */

/* The filter block over `count` key hashes at a false positive rate, owned by *out. NO_MEMORY. */
vv_status vv_sst_filter_build(const uint64_t *hashes, size_t count, double fp_rate,
                              vv_sst_buffer *out) VV_CHECKED;

typedef struct vv_sst_filter {
    uint8_t *lines; /* NULL: no filter, everything may be there */
    uint32_t line_count;
    uint32_t probe_count;
} vv_sst_filter;

/* Take a copy of a filter block whose checksum is right. CORRUPTION, UNSUPPORTED, NO_MEMORY. */
vv_status vv_sst_filter_open(vv_sst_filter *f, vv_slice block) VV_CHECKED;
void vv_sst_filter_close(vv_sst_filter *f);
bool vv_sst_filter_may_contain(const vv_sst_filter *f, uint64_t key_hash);

/* ---- footer (footer in index.c's care: its checksum is kept there) ---- */

typedef struct vv_sst_footer {
    uint64_t index_offset;
    uint64_t index_bytes;
    uint64_t filter_offset;
    uint64_t filter_bytes;
    uint64_t item_count;
    uint64_t max_lsn;
} vv_sst_footer;

void vv_sst_footer_encode(const vv_sst_footer *f, uint8_t at[VV_SST_FOOTER_BYTES]);
/* Check magic and version, and that the parts follow each other and end the file. */
vv_status vv_sst_footer_decode(const uint8_t at[VV_SST_FOOTER_BYTES], uint64_t file_bytes,
                               vv_sst_footer *out) VV_CHECKED;

/* ---- reader ---- */

/* Where a block cache has found the reader's blocks. */
typedef struct vv_sst_memo {
    _Atomic uint64_t cache_id; /* the first one that asked; 0: none yet */
    _Atomic(void *) frames[];  /* of each block: the frame that had it, or NULL */
} vv_sst_memo;

struct vv_sst_reader {
    vv_file *file;
    uint64_t file_number;
    vv_sst_index index;
    vv_sst_filter filter;
    vv_sst_memo *memo;
    void *cache_entry;      /* the table cache's, if it opened the reader */
    uint64_t damage_offset; /* of the part that made opening fail */
    char *path;
};

#endif
