/*
 * seeds_engine.c - seeds of what is on disk: log segments, tables and their parts, manifests, archives,
 * markers.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "engine/db/archive_file.h"
#include "engine/db/marker.h"
#include "engine/db/retry.h"
#include "engine/lsm/manifest.h"
#include "engine/wal/wal.h"
#include "engine/wal/wal_format.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/seeds.h"

#define BOTH_FIXES 3

static void must(vv_status st) {
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
}

/* ---- the log: by hand, with blocks of 512 bytes, so that they are small ---- */

#define WAL_BLOCK 512

typedef struct segment {
    uint8_t bytes[8 * WAL_BLOCK];
    vv_wal_segment_head head;
    size_t end;
} segment;

static void segment_begin(segment *s, uint64_t number) {
    memset(s, 0, sizeof *s);
    s->head = (vv_wal_segment_head){.seq = number,
                                    .segment_bytes = sizeof s->bytes,
                                    .block_bytes = WAL_BLOCK,
                                    .log_id = {1},
                                    .salt = number};
    vv_wal_segment_head_encode(s->bytes, &s->head);
    s->end = WAL_BLOCK;
}

static size_t put_record(uint8_t *at, uint64_t lsn, uint32_t op_count) {
    uint8_t *ops = at + VV_RECORD_HEAD_BYTES, *op = ops;
    for (uint32_t i = 0; i < op_count; i++) {
        bool deleted = (lsn + i) % 3 == 0;
        vv_entry e = {.key = vv_slice_str("key"),
                      .value = vv_slice_make("value", deleted ? 0 : 5),
                      .expires_unix_ms = lsn % 5 == 0 ? lsn : 0,
                      .kind = deleted ? VV_KIND_DELETE : VV_KIND_PUT};
        vv_op_head_encode(op, &e);
        memcpy(op + VV_OP_HEAD_BYTES, "keyvalue", 3 + e.value.bytes);
        op += VV_OP_HEAD_BYTES + 3 + e.value.bytes;
    }
    vv_record rec = {.first_lsn = lsn,
                     .op_count = op_count,
                     .epoch = 1,
                     .client_id = lsn % 2,
                     .sequence = lsn % 2,
                     .ops = vv_slice_make(ops, (size_t)(op - ops))};
    vv_record_head_encode(at, &rec);
    return (size_t)(op - at);
}

static void put_frame(segment *s, uint64_t frame_seq, uint64_t lsn, uint32_t records, uint32_t op_count) {
    uint8_t *at = s->bytes + s->end, *payload = at + VV_WAL_FRAME_HEAD_BYTES;
    size_t bytes = 0;
    uint64_t next = lsn;
    for (uint32_t i = 0; i < records; i++, next += op_count)
        bytes += put_record(payload + bytes, next, op_count);
    vv_wal_frame_head head = {.payload_bytes = bytes,
                              .record_count = records,
                              .frame_seq = frame_seq,
                              .first_lsn = lsn,
                              .last_lsn = next - 1,
                              .durable_lsn = lsn - 1};
    vv_wal_frame_head_encode(at, &head, 0);
    s->end += vv_wal_frame_bytes(bytes, WAL_BLOCK);
}

static void add_segment(seed *s, segment *g, unsigned number) {
    fuzz_fix_segment(g->bytes, sizeof g->bytes, true);
    seed_u8(s, number);
    seed_be16(s, sizeof g->bytes);
    seed_bytes(s, g->bytes, sizeof g->bytes);
}

static void begin_wal(seed *s, unsigned flags, unsigned replay_after_lsn, unsigned first_segment) {
    seed_u8(s, flags);
    seed_u8(s, replay_after_lsn);
    seed_u8(s, first_segment);
}

static void wal(void) {
    seed s = {0};
    segment g, h;
    for (unsigned flags = 0; flags < 8; flags++) {
        char name[16];
        snprintf(name, sizeof name, "two-%u", flags);
        begin_wal(&s, flags, 0, 1);
        segment_begin(&g, 1);
        put_frame(&g, 1, 1, 1, 1);
        put_frame(&g, 2, 2, 2, 3);
        put_frame(&g, 3, 8, 3, 1);
        segment_begin(&h, 2);
        put_frame(&h, 4, 11, 1, 2);
        put_frame(&h, 5, 13, 0, 0); /* closed */
        add_segment(&s, &g, 1);
        add_segment(&s, &h, 2);
        seed_write(&s, "wal", name);
    }
    /* Behind a hole that tables fill; an old one; a raw file; a torn frame. */
    begin_wal(&s, 4, 20, 6);
    segment_begin(&g, 5);
    put_frame(&g, 9, 14, 1, 1);
    add_segment(&s, &g, 5);
    segment_begin(&g, 6);
    put_frame(&g, 10, 15, 1, 1);
    add_segment(&s, &g, 6);
    segment_begin(&g, 7);
    put_frame(&g, 11, 19, 3, 2);
    put_frame(&g, 12, 25, 1, 1);
    add_segment(&s, &g, 7);
    segment_begin(&g, 8);
    add_segment(&s, &g, 0x80 | 9);
    seed_write(&s, "wal", "hole");
    begin_wal(&s, 4, 0, 0);
    segment_begin(&g, 1);
    put_frame(&g, 1, 1, 2, 1);
    put_frame(&g, 2, 3, 1, 20);
    add_segment(&s, &g, 1);
    s.data[s.bytes - sizeof g.bytes + 3 * WAL_BLOCK + 7] ^= 1;
    seed_write(&s, "wal", "torn");
    begin_wal(&s, 4, 0, 0);
    seed_write(&s, "wal", "empty");
}

/* ---- tables ---- */

typedef struct table_kind {
    const char *name;
    vv_compression compression;
    vv_index_type index_type;
    double filter_fp_rate;
    uint32_t entries;
    uint32_t value_bytes;
} table_kind;

static void write_table(vv_io_backend *disk, const table_kind *k, const char *path) {
    vv_io_queue *queue;
    vv_io_queue_options q = {.depth = 4, .pool_buffer_count = 2, .pool_buffer_bytes = 64 << 10};
    must(vv_io_queue_create(disk, &q, &queue, NULL));
    vv_sst_writer_options o = {.queue = queue,
                               .backend = disk,
                               .path = path,
                               .block_bytes = VV_SST_BLOCK_BYTES_MIN,
                               .filter_fp_rate = k->filter_fp_rate,
                               .compression = k->compression,
                               .index_type = k->index_type};
    vv_sst_writer *w;
    vv_sst_summary summary;
    uint8_t *value = calloc(1, k->value_bytes + 1);
    must(vv_sst_writer_create(&o, &w, NULL));
    for (uint32_t i = 0; i < k->entries; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%02u", i / 2); /* two versions of each */
        bool deleted = i % 7 == 6;
        vv_entry e = {.key = vv_slice_str(key),
                      .value = vv_slice_make(value, deleted ? 0 : k->value_bytes),
                      .lsn = 1000 - i,
                      .expires_unix_ms = i % 5 == 0 ? i : 0,
                      .kind = deleted ? VV_KIND_DELETE : VV_KIND_PUT};
        must(vv_sst_writer_add(w, &e));
    }
    must(vv_sst_writer_finish(w, &summary, NULL));
    vv_sst_summary_deinit(&summary);
    vv_sst_writer_destroy(w);
    vv_io_queue_destroy(queue);
    free(value);
}

static void table_parts(const table_kind *k, const uint8_t *file, size_t bytes) {
    seed s = {0};
    vv_sst_footer f;
    must(vv_sst_footer_decode(file + bytes - VV_SST_FOOTER_BYTES, bytes, &f));
    seed_u8(&s, 1);
    seed_bytes(&s, file, VV_SST_BLOCK_BYTES_MIN);
    seed_write(&s, "sst_block", k->name);
    seed_u8(&s, 1);
    seed_u8(&s, (unsigned)(f.index_offset / VV_SST_BLOCK_BYTES_MIN));
    seed_bytes(&s, file + f.index_offset, f.index_bytes);
    seed_write(&s, "sst_index", k->name);
    if (f.filter_bytes) {
        seed_u8(&s, 0);
        seed_bytes(&s, file + f.filter_offset, f.filter_bytes);
        seed_write(&s, "sst_filter", k->name);
    }
    seed_be64(&s, bytes);
    seed_bytes(&s, file + bytes - VV_SST_FOOTER_BYTES, VV_SST_FOOTER_BYTES);
    seed_write(&s, "sst_footer", k->name);
    seed_u8(&s, BOTH_FIXES);
    seed_bytes(&s, file, bytes);
    seed_write(&s, "sst_file", k->name);
}

static void tables(void) {
    static const table_kind kinds[] = {
        {"sparse", VV_COMPRESSION_NONE, VV_INDEX_SPARSE, 0.01, 6, 20},
        {"dense", VV_COMPRESSION_NONE, VV_INDEX_DENSE, 0.01, 5, 1500},
        {"lz4", VV_COMPRESSION_LZ4, VV_INDEX_SPARSE, 0, 12, 1000},
        {"zstd", VV_COMPRESSION_ZSTD, VV_INDEX_DENSE, 0.3, 12, 1000},
        {"large", VV_COMPRESSION_NONE, VV_INDEX_SPARSE, 0.01, 1, 5000},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(kinds); i++) {
        vv_io_backend *disk = fuzz_disk_create();
        size_t bytes;
        write_table(disk, &kinds[i], "/d/t.sst");
        const uint8_t *file = fuzz_disk_get(disk, "/d/t.sst", &bytes);
        table_parts(&kinds[i], file, bytes);
        vv_io_backend_destroy(disk);
    }
    seed s = {0};
    seed_u8(&s, 1);
    seed_u8(&s, 3);
    for (uint64_t i = 0; i < 20; i++)
        seed_be64(&s, vv_hash_key(&i, sizeof i));
    seed_write(&s, "sst_filter", "built");
}

/* ---- manifests ---- */

static vv_table *table_make(uint32_t level, uint64_t number, const char *first, const char *last) {
    vv_sst_summary s = {.file_bytes = 8192,
                        .file_checksum = number,
                        .item_count = 9,
                        .key_count = 5,
                        .tombstone_count = 1,
                        .min_lsn = 1,
                        .max_lsn = 9,
                        .first_key = (uint8_t *)vv_strdup(first),
                        .last_key = (uint8_t *)vv_strdup(last),
                        .first_key_bytes = (uint32_t)strlen(first),
                        .last_key_bytes = (uint32_t)strlen(last)};
    vv_table *t = vv_table_create(level, number, number, &s, NULL, NULL);
    FUZZ_CHECK(t);
    return t;
}

static void put_manifest(const char *name, const uint8_t *bytes, size_t count) {
    seed s = {0};
    seed_u8(&s, 1);
    seed_bytes(&s, bytes, count);
    seed_write(&s, "manifest", name);
}

/* The older versions are the beginning of the newest, and a checksum. */
static void older_manifests(const uint8_t *newest, size_t tables_end) {
    uint8_t bytes[1024];
    for (uint8_t version = 2; version <= 3; version++) {
        char name[8];
        snprintf(name, sizeof name, "v%u", version);
        size_t end = tables_end + (version >= 3 ? 4 : 0);
        memcpy(bytes, newest, tables_end);
        memset(bytes + tables_end, 0, sizeof bytes - tables_end);
        bytes[7] = version;
        put_manifest(name, bytes, end + 8);
    }
    /* No file checksum in its tables: one table. */
    memcpy(bytes, newest, 92 + 68);
    bytes[7] = 1;
    vv_put_be32(bytes + 88, 1);
    memcpy(bytes + 92 + 68, newest + 92 + 76, 4 + 2);
    put_manifest("v1", bytes, 92 + 72 + 2 + 8);
}

static void manifests(void) {
    vv_table *t[3] = {table_make(0, 2, "a", "m"), table_make(0, 3, "b", "z"), table_make(1, 1, "k", "l")};
    vv_version *version = vv_version_create(t, 3);
    static vv_retry_table retry;
    vv_retry_image *image;
    uint8_t *bytes;
    size_t count;
    vv_retry_init(&retry);
    for (uint64_t i = 1; i <= 6; i++) {
        must(vv_retry_reserve(&retry, i % 3 + 1));
        vv_retry_add(&retry, i % 3 + 1, i, i);
    }
    must(vv_retry_image_take(&retry, &image));
    vv_manifest m = {.generation = 4,
                     .next_file_number = 7,
                     .flushed_lsn = 9,
                     .first_segment = 2,
                     .promised_epoch = 3,
                     .commit_limit = VV_COMMIT_LIMIT_NONE,
                     .epochs = {.count = 2, .newest_is_ours = true, .items = {{1, 1, 5}, {2, 8, 6}}},
                     .slot_count = 2,
                     .slots = {{"replica-1", false, 5}, {"archive", true, 1}}};
    must(vv_manifest_encode(&m, version, &bytes, &count));
    put_manifest("plain", bytes, count);
    older_manifests(bytes, 92 + 3 * (80 + 2));
    vv_free(bytes);
    m.retry = vv_retry_image_bytes(image);
    must(vv_manifest_encode(&m, version, &bytes, &count));
    put_manifest("retry", bytes, count);
    vv_free(bytes);
    vv_retry_image_unref(image);
    vv_retry_deinit(&retry);
    vv_version_unref(version);
    for (int i = 0; i < 3; i++)
        vv_table_unref(t[i]);
}

/* ---- archives, markers ---- */

static void put_file(vv_io_backend *disk, const char *path, unsigned flags, const char *name) {
    seed s = {0};
    size_t bytes;
    const uint8_t *file = fuzz_disk_get(disk, path, &bytes);
    seed_u8(&s, flags);
    seed_bytes(&s, file, bytes);
    seed_write(&s, "archive_file", name);
}

static void archives(void) {
    vv_io_backend *disk = fuzz_disk_create();
    vv_archive_head head = {.db_id = {3}, .number = 1, .first_lsn = 5, .created_unix_ms = 9};
    vv_archive_writer *w;
    uint64_t lsn = 5;
    must(vv_archive_writer_create(disk, "/d/a", &head, &w, NULL));
    for (uint64_t i = 0; i < 6; i++) {
        uint8_t bytes[256];
        size_t count = put_record(bytes, lsn, 2);
        vv_record rec;
        vv_epoch epoch = {.epoch = 1, .first_lsn = 1, .id = 4};
        vv_reader r = vv_reader_make(vv_slice_make(bytes, count));
        must(vv_record_decode(&r, &rec));
        must(vv_archive_writer_add(w, &rec, &epoch, 100 * i));
        if (i == 3) {
            must(vv_archive_writer_sync(w));
            put_file(disk, "/d/a", 0, "one-write");
        }
        lsn += 2;
    }
    must(vv_archive_writer_sync(w));
    vv_archive_writer_close(w);
    put_file(disk, "/d/a", 1, "two-writes");
    vv_marker m = {.step = 2, .lsn = 77, .names = {"new", "old"}};
    must(vv_marker_write(disk, "/d", VV_INSTALL_NAME, &m, NULL));
    put_file(disk, "/d/" VV_INSTALL_NAME, 3, "marker");
    vv_io_backend_destroy(disk);
}

/* ---- sequences of calls ---- */

static void sequences(void) {
    /* Writes of all kinds and sizes, reads of all kinds between them; then each way to end and begin again.
     */
    static const uint8_t writes[] = {16, 1, 0, 0x20, 7, 0x73, 0,  0, 3, 0x40,
                                     19, 0, 5, 0x10, 2, 0,    20, 0, 9, 0x30};
    static const uint8_t reads[] = {5, 0, 6, 7, 1, 23, 2, 8, 3, 9, 14, 0};
    static const uint8_t turns[] = {10, 11, 12, 13, 15};
    for (uint8_t i = 0; i < sizeof turns; i++) {
        seed s = {0};
        char name[16];
        seed_u8(&s, i * 37);
        for (int round = 0; round < 3; round++) {
            seed_bytes(&s, writes, sizeof writes);
            seed_bytes(&s, reads, sizeof reads);
            seed_u8(&s, turns[i]);
            seed_u8(&s, (unsigned)round);
        }
        snprintf(name, sizeof name, "turn-%u", i);
        seed_write(&s, "api", name);
    }
    seed s = {0};
    seed_u8(&s, 0x64);
    for (unsigned i = 0; i < 12; i++) { /* large values, so that memtables are sealed */
        seed_u8(&s, i % 2 ? 16 : 0);
        seed_u8(&s, 1);
        seed_u8(&s, i);
        seed_u8(&s, 0x70);
        seed_u8(&s, i + 9);
        seed_u8(&s, 0x70);
    }
    seed_u8(&s, 13);
    seed_u8(&s, 2);
    seed_write(&s, "api", "large");
}

void seeds_engine(void) {
    sequences();
    archives();
    wal();
    tables();
    manifests();
}
