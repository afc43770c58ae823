#include "engine/db/table_copy.h"

#include <inttypes.h>

static vv_status compare(vv_table_copier *c, const char *path, uint64_t found, uint64_t expected) {
    if (found == expected || expected == 0)
        return VV_STATUS_OK;
    return vv_fail(c->err, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0),
                   "%s: checksum mismatch: is %016" PRIx64 ", was %016" PRIx64 " when the table was written",
                   path, found, expected);
}

/* The words of a failure that has none of its own. */
static vv_status say(vv_table_copier *c, vv_status st, const char *path) {
    return vv_fail(c->err, st, "%s: %s", path, st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

/* Open a table's file for reading, which must have its length. */
static vv_status open_table(vv_table_copier *c, const char *path, uint64_t bytes, vv_file **out) {
    uint64_t found;
    VV_TRY(vv_file_open(c->io, path, VV_OPEN_READ | VV_OPEN_DIRECT, out, c->err));
    vv_status st = vv_file_size(*out, &found);
    if (vv_ok(st) && found != bytes)
        st = vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
    if (vv_ok(st))
        return st;
    vv_file_close(*out);
    *out = NULL;
    return say(c, st, path);
}

/* OK: the bytes are synced, and were those that the table was written with. */
static vv_status copy_file(vv_table_copier *c, const vv_table *t, const char *from_path,
                           const char *to_path) {
    vv_file *from = NULL, *to = NULL;
    uint64_t bytes = t->summary.file_bytes;
    vv_checksum_stream sum;
    uint32_t flags = VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_EXCLUSIVE | VV_OPEN_DIRECT;
    VV_TRY(open_table(c, from_path, bytes, &from));
    vv_status st = vv_file_open(c->io, to_path, flags, &to, c->err);
    if (!vv_ok(st))
        goto out;
    vv_checksum_stream_init(&sum);
    st = vv_db_stream(c->queue, from, to, bytes, c->throttle, &sum);
    if (vv_ok(st))
        st = vv_file_truncate(to, bytes);
    if (vv_ok(st))
        st = vv_file_sync(to, VV_SYNC_FULL);
    if (!vv_ok(st))
        st = say(c, st, to_path);
    else
        st = compare(c, from_path, vv_checksum_stream_get(&sum), t->summary.file_checksum);
    if (vv_ok(st))
        c->copied_bytes += bytes;
out:
    vv_file_close(from);
    vv_file_close(to);
    return st;
}

typedef struct first_damage {
    vv_throttle *throttle;
    vv_status status;
} first_damage;

static bool go_on(void *arg, uint64_t bytes) {
    return vv_throttle_pass(((first_damage *)arg)->throttle, bytes);
}

static void note_damage(void *arg, const vv_sst_damage *d) {
    vv_status_keep(&((first_damage *)arg)->status, d->status);
}

/* A table whose checksum nobody noted: block by block. */
static vv_status check_blocks(vv_table_copier *c, const vv_table *t, const char *path) {
    vv_sst_reader *r;
    uint64_t blocks;
    first_damage damage = {.throttle = c->throttle};
    vv_sst_verify_options o = {.damaged = note_damage, .pace = go_on, .arg = &damage};
    VV_TRY(vv_sst_reader_open(c->io, path, t->file_number, &r, c->err));
    vv_status st = vv_sst_verify_blocks(r, &o, &blocks);
    vv_sst_reader_close(r);
    vv_status_keep(&st, damage.status);
    return vv_ok(st) ? st : say(c, st, path);
}

/* What stands there, read from the disk. */
static vv_status check_file(vv_table_copier *c, const vv_table *t, const char *path) {
    vv_file *file;
    vv_checksum_stream sum;
    if (t->summary.file_checksum == 0)
        return check_blocks(c, t, path);
    VV_TRY(open_table(c, path, t->summary.file_bytes, &file));
    vv_checksum_stream_init(&sum);
    vv_status st = vv_db_stream(c->queue, file, NULL, t->summary.file_bytes, c->throttle, &sum);
    vv_file_close(file);
    return vv_ok(st) ? compare(c, path, vv_checksum_stream_get(&sum), t->summary.file_checksum)
                     : say(c, st, path);
}

bool vv_table_link(vv_table_copier *c, const vv_table *t, const char *from_path, const char *to_path,
                   vv_status *st_out) {
    if (!vv_ok(vv_path_link(c->io, from_path, to_path, NULL)))
        return false; /* another file system, or it is not there any more */
    *st_out = check_file(c, t, to_path);
    if (vv_ok(*st_out) || !vv_is(*st_out, VV_CORRUPTION))
        return vv_ok(*st_out);
    vv_log(c->logger, VV_LOG_ERROR, "%s", c->err ? c->err->text : from_path);
    *st_out = vv_path_unlink(c->io, to_path, c->err);
    return false;
}

vv_status vv_table_copy(vv_table_copier *c, const vv_table *t, const char *from_path, const char *to_path) {
    VV_TRY(copy_file(c, t, from_path, to_path));
    return check_file(c, t, to_path);
}
