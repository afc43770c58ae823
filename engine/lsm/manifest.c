#include "engine/lsm/manifest.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/codec.h"
#include "engine/kv/entry.h"

/*
 *   [magic:7 "VARVMAN"][format version:1]
 *   [file_bytes:8][db_id:16][generation:8][next_file_number:8][flushed_lsn:8]
 *   [first_segment:8][epoch:8][safe_compaction_lsn:8][created_unix_ms:8][table_count:4]
 *   table_count times:
 *       [level:4][run:8][file_number:8][file_bytes:8][item_count:8][min_lsn:8][max_lsn:8]
 *       [key_count:8][tombstone_count:8][file_checksum:8 since version 2]
 *       [first_key_bytes:2][last_key_bytes:2][first_key][last_key]
 *   [retry_bytes:4][retry]  since version 3
 *   [promised_epoch:8][commit_limit:8][flags:4]  since version 4, as all that follows
 *   [epoch_count:4] epoch_count times [epoch:8][first_lsn:8][id:8]
 *   [slot_count:4]  slot_count times [lsn:8][flags:1][name_bytes:1][name]
 *   [checksum:8]  of all before
 */
#define MANIFEST_MAGIC          "VARVMAN"
#define MAGIC_BYTES             7
#define MANIFEST_FORMAT_VERSION 4
#define HEAD_BYTES              92
#define TABLE_BYTES             80
#define TABLE_BYTES_V1          72 /* without the file's checksum */
#define RETRY_HEAD_BYTES        4
#define EPOCHS_HEAD_BYTES       24
#define EPOCH_BYTES             24
#define SLOTS_HEAD_BYTES        4
#define SLOT_HEAD_BYTES         10
#define CHECKSUM_BYTES          8
/* More than any database that fits a disk: bounds what a damaged length can make us allocate. */
#define MANIFEST_BYTES_MAX (UINT64_C(1) << 30)
#define PATH_BYTES         4096

#define FLAG_NEWEST_EPOCH_IS_OURS UINT32_C(1)
#define SLOT_FLAG_LOST            1

_Static_assert(HEAD_BYTES == MAGIC_BYTES + 1 + 8 + VV_MANIFEST_DB_ID_BYTES + 7 * 8 + 4,
               "manifest head layout");
_Static_assert(TABLE_BYTES == 4 + 9 * 8 + 2 + 2, "manifest table layout");

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static vv_status corrupt(vv_sub sub) {
    return vv_status_make(VV_CORRUPTION, sub, 0);
}

bool vv_epochs_are_sound(const vv_epoch *epochs, size_t count) {
    if (count == 0 || count > VV_EPOCHS_MAX || epochs[0].epoch == 0 || epochs[0].first_lsn == 0)
        return false;
    for (size_t i = 1; i < count; i++)
        if (epochs[i].epoch <= epochs[i - 1].epoch || epochs[i].first_lsn < epochs[i - 1].first_lsn)
            return false;
    return true;
}

bool vv_slot_name_is_sound(const char *name, size_t bytes) {
    if (bytes == 0 || bytes > VV_SLOT_NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        char c = name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && (c == '\0' || !strchr("._:-", c)))
            return false;
    }
    return true;
}

/* ---- writing ---- */

static uint64_t encoded_bytes(const vv_manifest *m, const vv_version *version) {
    uint64_t bytes = HEAD_BYTES + RETRY_HEAD_BYTES + m->retry.bytes + EPOCHS_HEAD_BYTES +
                     (uint64_t)m->epochs.count * EPOCH_BYTES + SLOTS_HEAD_BYTES + CHECKSUM_BYTES;
    for (uint32_t i = 0; i < m->slot_count; i++)
        bytes += SLOT_HEAD_BYTES + strlen(m->slots[i].name);
    for (size_t i = 0; i < version->table_count; i++) {
        const vv_sst_summary *s = &version->tables[i]->summary;
        bytes += TABLE_BYTES + s->first_key_bytes + s->last_key_bytes;
    }
    return bytes;
}

static uint8_t *encode_table(uint8_t *at, const vv_table *t) {
    const vv_sst_summary *s = &t->summary;
    vv_put_be32(at, t->level);
    vv_put_be64(at + 4, t->run);
    vv_put_be64(at + 12, t->file_number);
    vv_put_be64(at + 20, s->file_bytes);
    vv_put_be64(at + 28, s->item_count);
    vv_put_be64(at + 36, s->min_lsn);
    vv_put_be64(at + 44, s->max_lsn);
    vv_put_be64(at + 52, s->key_count);
    vv_put_be64(at + 60, s->tombstone_count);
    vv_put_be64(at + 68, s->file_checksum);
    vv_put_be16(at + 76, (uint16_t)s->first_key_bytes);
    vv_put_be16(at + 78, (uint16_t)s->last_key_bytes);
    at += TABLE_BYTES;
    memcpy(at, s->first_key, s->first_key_bytes);
    at += s->first_key_bytes;
    memcpy(at, s->last_key, s->last_key_bytes);
    return at + s->last_key_bytes;
}

static uint8_t *encode_epochs(uint8_t *at, const vv_manifest *m) {
    vv_put_be64(at, m->promised_epoch);
    vv_put_be64(at + 8, m->commit_limit);
    vv_put_be32(at + 16, m->epochs.newest_is_ours ? FLAG_NEWEST_EPOCH_IS_OURS : 0);
    vv_put_be32(at + 20, m->epochs.count);
    at += EPOCHS_HEAD_BYTES;
    for (uint32_t i = 0; i < m->epochs.count; i++) {
        const vv_epoch *e = &m->epochs.items[i];
        vv_put_be64(at, e->epoch);
        vv_put_be64(at + 8, e->first_lsn);
        vv_put_be64(at + 16, e->id);
        at += EPOCH_BYTES;
    }
    return at;
}

static uint8_t *encode_slots(uint8_t *at, const vv_manifest *m) {
    vv_put_be32(at, m->slot_count);
    at += SLOTS_HEAD_BYTES;
    for (uint32_t i = 0; i < m->slot_count; i++) {
        const vv_slot_mark *s = &m->slots[i];
        size_t name_bytes = strlen(s->name);
        vv_put_be64(at, s->lsn);
        at[8] = s->lost ? SLOT_FLAG_LOST : 0;
        at[9] = (uint8_t)name_bytes;
        memcpy(at + SLOT_HEAD_BYTES, s->name, name_bytes);
        at += SLOT_HEAD_BYTES + name_bytes;
    }
    return at;
}

static void encode(uint8_t *at, uint64_t bytes, const vv_manifest *m, const vv_version *version) {
    uint8_t *start = at;
    memcpy(at, MANIFEST_MAGIC, MAGIC_BYTES);
    at[MAGIC_BYTES] = MANIFEST_FORMAT_VERSION;
    vv_put_be64(at + 8, bytes);
    memcpy(at + 16, m->db_id, VV_MANIFEST_DB_ID_BYTES);
    vv_put_be64(at + 32, m->generation);
    vv_put_be64(at + 40, m->next_file_number);
    vv_put_be64(at + 48, m->flushed_lsn);
    vv_put_be64(at + 56, m->first_segment);
    vv_put_be64(at + 64, vv_manifest_epoch(m));
    vv_put_be64(at + 72, m->safe_compaction_lsn);
    vv_put_be64(at + 80, m->created_unix_ms);
    vv_put_be32(at + 88, (uint32_t)version->table_count);
    at += HEAD_BYTES;
    for (size_t i = 0; i < version->table_count; i++)
        at = encode_table(at, version->tables[i]);
    vv_put_be32(at, (uint32_t)m->retry.bytes);
    at += RETRY_HEAD_BYTES;
    if (m->retry.bytes)
        memcpy(at, m->retry.data, m->retry.bytes);
    at += m->retry.bytes;
    at = encode_epochs(at, m);
    at = encode_slots(at, m);
    vv_put_be64(at, vv_checksum(start, (size_t)(at - start), 0));
    VV_ASSERT(at + CHECKSUM_BYTES == start + bytes);
}

vv_status vv_manifest_encode(const vv_manifest *m, const vv_version *version, uint8_t **out,
                             size_t *bytes_out) {
    VV_ASSERT(vv_epochs_are_sound(m->epochs.items, m->epochs.count) && m->slot_count <= VV_SLOTS_MAX);
    uint64_t bytes = encoded_bytes(m, version);
    *bytes_out = 0;
    *out = vv_alloc(bytes);
    if (!*out)
        return no_memory();
    encode(*out, bytes, m, version);
    *bytes_out = bytes;
    return VV_STATUS_OK;
}

vv_status vv_manifest_write(vv_io_backend *b, const char *dir, const vv_manifest *m,
                            const vv_version *version, bool *replaced_out, vv_error *err) {
    char path[PATH_BYTES], temp[PATH_BYTES];
    if (replaced_out)
        *replaced_out = false;
    snprintf(path, sizeof path, "%s/" VV_MANIFEST_NAME, dir);
    snprintf(temp, sizeof temp, "%s/" VV_MANIFEST_TEMP_NAME, dir);
    vv_file *file = NULL;
    uint8_t *buf;
    size_t bytes;
    vv_status st = vv_manifest_encode(m, version, &buf, &bytes);
    if (!vv_ok(st))
        return vv_fail(err, st, "%s: out of memory", path);

    st = vv_file_open(b, temp, VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_TRUNCATE, &file, err);
    if (!vv_ok(st))
        goto out;
    st = vv_file_write(file, buf, bytes, 0);
    /* The content must be on disk before the name points to it: on power loss a rename may survive without
     * the data that was written before it. */
    if (vv_ok(st))
        st = vv_file_sync(file, VV_SYNC_FULL);
    if (!vv_ok(st)) {
        st = vv_fail(err, st, "%s: write failed", temp);
        goto out;
    }
    vv_file_close(file);
    file = NULL;
    if (replaced_out)
        *replaced_out = true; /* or not, if the rename fails: who knows */
    st = vv_path_rename(b, temp, path, err);
    /* And the rename itself is only an intention until the directory is synced. */
    if (vv_ok(st))
        st = vv_dir_sync(b, dir, err);
out:
    vv_file_close(file);
    vv_free(buf);
    return st;
}

/* ---- reading ---- */

static vv_status read_whole(vv_io_backend *b, const char *path, uint8_t **buf_out, size_t *bytes_out,
                            vv_error *err) {
    vv_file *file = NULL;
    uint8_t *buf = NULL;
    uint64_t size = 0;
    vv_status st = vv_file_open(b, path, VV_OPEN_READ, &file, err);
    if (!vv_ok(st))
        return st;
    st = vv_file_size(file, &size);
    if (!vv_ok(st)) {
        st = vv_fail(err, st, "%s", path);
        goto out;
    }
    if (size > MANIFEST_BYTES_MAX) {
        st = vv_fail(err, corrupt(VV_SUB_BAD_LAYOUT), "%s: %" PRIu64 " bytes is no manifest", path, size);
        goto out;
    }
    buf = vv_alloc(size + 1);
    if (!buf) {
        st = vv_fail(err, no_memory(), "%s: out of memory", path);
        goto out;
    }
    st = vv_file_read(file, buf, size, 0, bytes_out);
    if (!vv_ok(st))
        st = vv_fail(err, st, "%s: read failed", path);
out:
    vv_file_close(file);
    if (!vv_ok(st)) {
        vv_free(buf);
        buf = NULL;
    }
    *buf_out = buf;
    return st;
}

/* Magic, version, length, checksum: after this the bytes are those that were written. */
static vv_status check_envelope(const char *path, const uint8_t *buf, size_t bytes, vv_error *err) {
    if (bytes < MAGIC_BYTES + 1)
        return vv_fail(err, corrupt(VV_SUB_TRUNCATED), "%s: file is too short (%zu bytes)", path, bytes);
    if (memcmp(buf, MANIFEST_MAGIC, MAGIC_BYTES) != 0)
        return vv_fail(err, corrupt(VV_SUB_BAD_MAGIC), "%s: not a Varve manifest", path);
    if (buf[MAGIC_BYTES] > MANIFEST_FORMAT_VERSION)
        return vv_fail(err, vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0),
                       "%s: format version %u is newer than this Varve, which reads up to %d", path,
                       (unsigned)buf[MAGIC_BYTES], MANIFEST_FORMAT_VERSION);
    if (buf[MAGIC_BYTES] == 0)
        return vv_fail(err, corrupt(VV_SUB_BAD_MAGIC), "%s: format version 0", path);
    if (bytes < HEAD_BYTES + CHECKSUM_BYTES)
        return vv_fail(err, corrupt(VV_SUB_TRUNCATED), "%s: file is too short (%zu bytes)", path, bytes);
    uint64_t said = vv_get_be64(buf + 8);
    if (said != bytes)
        return vv_fail(err, corrupt(VV_SUB_TRUNCATED), "%s: has %zu bytes, says %" PRIu64, path, bytes, said);
    if (vv_get_be64(buf + bytes - CHECKSUM_BYTES) != vv_checksum(buf, bytes - CHECKSUM_BYTES, 0))
        return vv_fail(err, corrupt(VV_SUB_CHECKSUM), "%s: checksum mismatch", path);
    return VV_STATUS_OK;
}

static uint8_t *copy_key(vv_slice key) {
    uint8_t *copy = vv_alloc(key.bytes ? key.bytes : 1);
    if (copy && key.bytes)
        memcpy(copy, key.data, key.bytes);
    return copy;
}

static vv_status decode_table(vv_reader *r, uint8_t version, vv_table_drop_fn drop, void *drop_arg,
                              vv_table **out) {
    vv_sst_summary s = {0};
    uint32_t level = vv_read_be32(r);
    uint64_t run = vv_read_be64(r);
    uint64_t file_number = vv_read_be64(r);
    s.file_bytes = vv_read_be64(r);
    s.item_count = vv_read_be64(r);
    s.min_lsn = vv_read_be64(r);
    s.max_lsn = vv_read_be64(r);
    s.key_count = vv_read_be64(r);
    s.tombstone_count = vv_read_be64(r);
    if (version >= 2)
        s.file_checksum = vv_read_be64(r);
    s.first_key_bytes = vv_read_be16(r);
    s.last_key_bytes = vv_read_be16(r);
    vv_slice first = vv_read_bytes(r, s.first_key_bytes);
    vv_slice last = vv_read_bytes(r, s.last_key_bytes);
    if (r->bad || first.bytes == 0 || last.bytes == 0 || vv_slice_compare(first, last) > 0 ||
        s.tombstone_count > s.key_count || s.key_count > s.item_count)
        return corrupt(VV_SUB_BAD_LAYOUT);
    s.first_key = copy_key(first);
    s.last_key = copy_key(last);
    if (!s.first_key || !s.last_key) {
        vv_sst_summary_deinit(&s);
        return no_memory();
    }
    *out = vv_table_create(level, run, file_number, &s, drop, drop_arg);
    return *out ? VV_STATUS_OK : no_memory();
}

static vv_status decode_epochs(vv_reader *r, uint64_t epoch, vv_manifest *m) {
    m->promised_epoch = vv_read_be64(r);
    m->commit_limit = vv_read_be64(r);
    uint32_t flags = vv_read_be32(r);
    uint32_t count = vv_read_be32(r);
    if (r->bad || count > VV_EPOCHS_MAX || (flags & ~FLAG_NEWEST_EPOCH_IS_OURS))
        return corrupt(VV_SUB_BAD_LAYOUT);
    m->epochs.count = count;
    m->epochs.newest_is_ours = flags & FLAG_NEWEST_EPOCH_IS_OURS;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t number = vv_read_be64(r);
        uint64_t first_lsn = vv_read_be64(r);
        m->epochs.items[i] = (vv_epoch){.epoch = number, .first_lsn = first_lsn, .id = vv_read_be64(r)};
    }
    if (r->bad || !vv_epochs_are_sound(m->epochs.items, count) || vv_manifest_epoch(m) != epoch ||
        m->promised_epoch < epoch)
        return corrupt(VV_SUB_BAD_LAYOUT);
    return VV_STATUS_OK;
}

static bool slot_is_new(const vv_manifest *m, const char *name) {
    for (uint32_t i = 0; i < m->slot_count; i++)
        if (strcmp(m->slots[i].name, name) == 0)
            return false;
    return true;
}

static vv_status decode_slots(vv_reader *r, vv_manifest *m) {
    uint32_t count = vv_read_be32(r);
    if (r->bad || count > VV_SLOTS_MAX)
        return corrupt(VV_SUB_BAD_LAYOUT);
    for (; m->slot_count < count; m->slot_count++) {
        vv_slot_mark s = {.lsn = vv_read_be64(r)};
        uint8_t flags = vv_read_u8(r);
        vv_slice name = vv_read_bytes(r, vv_read_u8(r));
        if (r->bad || (flags & ~SLOT_FLAG_LOST) || !vv_slot_name_is_sound(name.data, name.bytes))
            return corrupt(VV_SUB_BAD_LAYOUT);
        memcpy(s.name, name.data, name.bytes);
        s.lost = flags & SLOT_FLAG_LOST;
        if (!slot_is_new(m, s.name))
            return corrupt(VV_SUB_BAD_LAYOUT);
        m->slots[m->slot_count] = s;
    }
    return VV_STATUS_OK;
}

/* What version 4 brought. Before, a log had one primary: the database itself, or the one that a backup was
 * made of. */
static vv_status decode_replication(vv_reader *r, uint8_t version, uint64_t epoch, vv_manifest *m) {
    m->slot_count = 0;
    if (version >= 4) {
        VV_TRY(decode_epochs(r, epoch, m));
        return decode_slots(r, m);
    }
    bool is_backup = m->first_segment == 0 && m->flushed_lsn > 0;
    m->promised_epoch = epoch;
    m->commit_limit = VV_COMMIT_LIMIT_NONE;
    m->epochs.count = 1;
    m->epochs.newest_is_ours = !is_backup;
    m->epochs.items[0] = (vv_epoch){.epoch = epoch, .first_lsn = 1};
    return epoch == 0 ? corrupt(VV_SUB_BAD_LAYOUT) : VV_STATUS_OK;
}

/* From behind the tables to the end. */
static vv_status decode_rest(vv_reader *r, uint8_t version, uint64_t epoch, vv_manifest *m) {
    vv_slice retry = vv_slice_make(NULL, 0);
    if (version >= 3)
        retry = vv_read_bytes(r, vv_read_be32(r));
    VV_TRY(decode_replication(r, version, epoch, m));
    if (r->bad || r->left_bytes != 0)
        return corrupt(VV_SUB_BAD_LAYOUT);
    if (retry.bytes == 0)
        return VV_STATUS_OK;
    uint8_t *copy = vv_alloc(retry.bytes);
    if (!copy)
        return no_memory();
    memcpy(copy, retry.data, retry.bytes);
    m->retry = vv_slice_make(copy, retry.bytes);
    return VV_STATUS_OK;
}

static vv_status decode(vv_slice body, vv_manifest *m, vv_table ***tables_out, size_t *count_out,
                        vv_table_drop_fn drop, void *drop_arg) {
    vv_reader r = vv_reader_make(body);
    uint8_t version = ((const uint8_t *)body.data)[MAGIC_BYTES];
    (void)vv_read_bytes(&r, 16); /* magic, version and length: checked */
    vv_slice db_id = vv_read_bytes(&r, VV_MANIFEST_DB_ID_BYTES);
    if (db_id.bytes != sizeof m->db_id)
        return corrupt(VV_SUB_TRUNCATED);
    memcpy(m->db_id, db_id.data, sizeof m->db_id);
    m->generation = vv_read_be64(&r);
    m->next_file_number = vv_read_be64(&r);
    m->flushed_lsn = vv_read_be64(&r);
    m->first_segment = vv_read_be64(&r);
    uint64_t epoch = vv_read_be64(&r);
    m->safe_compaction_lsn = vv_read_be64(&r);
    m->created_unix_ms = vv_read_be64(&r);
    uint32_t count = vv_read_be32(&r);
    if (count > r.left_bytes / (version >= 2 ? TABLE_BYTES : TABLE_BYTES_V1))
        return corrupt(VV_SUB_BAD_LAYOUT);

    vv_table **tables = vv_alloc((count + 1) * sizeof *tables);
    if (!tables)
        return no_memory();
    vv_status st = VV_STATUS_OK;
    uint32_t done = 0;
    while (done < count && vv_ok(st)) {
        st = decode_table(&r, version, drop, drop_arg, &tables[done]);
        if (vv_ok(st))
            done++;
    }
    if (vv_ok(st))
        st = decode_rest(&r, version, epoch, m);
    if (!vv_ok(st)) {
        while (done > 0)
            vv_table_unref(tables[--done]);
        vv_free(tables);
        return st;
    }
    *tables_out = tables;
    *count_out = count;
    return st;
}

vv_status vv_manifest_decode(const void *bytes, size_t byte_count, const char *path, vv_manifest *out,
                             vv_table ***tables_out, size_t *count_out, vv_table_drop_fn drop, void *drop_arg,
                             vv_error *err) {
    *tables_out = NULL;
    *count_out = 0;
    out->retry = vv_slice_make(NULL, 0);
    VV_TRY(check_envelope(path, bytes, byte_count, err));
    vv_status st =
        decode(vv_slice_make(bytes, byte_count - CHECKSUM_BYTES), out, tables_out, count_out, drop, drop_arg);
    return vv_ok(st) ? st : vv_fail(err, st, "%s: %s", path, vv_code_text(st.code));
}

vv_status vv_manifest_read(vv_io_backend *b, const char *dir, vv_manifest *out, vv_table ***tables_out,
                           size_t *count_out, vv_table_drop_fn drop, void *drop_arg, vv_error *err) {
    char path[PATH_BYTES];
    uint8_t *buf = NULL;
    size_t bytes = 0;
    *tables_out = NULL;
    *count_out = 0;
    out->retry = vv_slice_make(NULL, 0);
    snprintf(path, sizeof path, "%s/" VV_MANIFEST_NAME, dir);
    VV_TRY(read_whole(b, path, &buf, &bytes, err));
    vv_status st = vv_manifest_decode(buf, bytes, path, out, tables_out, count_out, drop, drop_arg, err);
    vv_free(buf);
    return st;
}

void vv_manifest_deinit(vv_manifest *m) {
    vv_free((void *)(uintptr_t)m->retry.data);
    m->retry = vv_slice_make(NULL, 0);
}
