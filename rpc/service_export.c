/*
 * service_export.c - TakeSnapshot, FetchFile, ReleaseSnapshot: the whole store as files of one LSN.
 *
 *     TakeSnapshot --> [taker] slot, varve_take_snapshot(), lease --post--> answer
 *     FetchFile    --> [reader] a piece of a file --post--> network ...      (chunk_stream.h)
 *
 * An export keeps its tables' files on the disk whatever merges do, so it belongs to a lease (leases.h), and
 * of these there are EXPORTS_MAX. The lease ends by its time, which begins anew with each file that was
 * fetched, and never amid one.
 *
 * Taking one waits for a flush, which may be long: one thread does that and nothing else, one after the
 * other. A client that leaves meanwhile leaves nothing behind. Files are read by a few threads of their own,
 * beside the page cache, into a buffer that goes to the network as it is.
 *
 * The log behind the snapshot: with a slot, the slot is made before the snapshot is taken, at what is flushed
 * by then, so that the log from there on stays, the part behind the snapshot with it; and is moved up to the
 * snapshot's LSN afterwards. In the other order a flush could recycle that part in between.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/compiler.h"
#include "rpc/chunk_stream.h"
#include "rpc/codec.h"
#include "rpc/replication_impl.h"
#include "rpc/status_map.h"

#define MANIFEST_NAME "MANIFEST"
#define READERS       4
#define TAKES_MAX     64 /* that may wait for each other */
/* A piece of a file: a message. Pieces begin at multiples of it where they can: see varve_export_read(). */
#define PIECE_BYTES   ((size_t)1 << 20)
#define ALIGN_BYTES   ((size_t)4096)
#define SLOT_TRIES    8
#define BUSY_RETRY_MS 1000
/* Of a SnapshotFile beside its name, and of the answer beside its files. */
#define FILE_BYTES_MAX     (5 * VV_CODEC_VARINT_BYTES_MAX + 9)
#define RESPONSE_BYTES_MAX (5 * VV_CODEC_VARINT_BYTES_MAX + VARVE_DATABASE_ID_BYTES)

/* What a lease of files holds. */
typedef struct files {
    vv_leased leased;
    vv_exports *service;
    vv_job release_job;
    varve_export export;
} files;

static vv_exports *exports_of(vv_rpc_call *call) {
    const vv_replicas *replicas = call->service;
    return replicas->options.exports;
}

/* ---- releasing: the last reference to a table removes its file, which is nothing for a call's thread ----
 */

static void release_run(vv_job *job) {
    files *f = VV_CONTAINER_OF(job, files, release_job);
    varve_export_release(f->service->db, &f->export);
    vv_free(f);
}

static void release_files(vv_leased *leased) {
    files *f = VV_CONTAINER_OF(leased, files, leased);
    if (!vv_workers_submit(f->service->takers, &f->release_job))
        release_run(&f->release_job);
}

static files *files_create(vv_exports *service) {
    files *f = vv_alloc_zeroed(sizeof *f);
    if (f)
        *f = (files){.leased.release = release_files, .service = service, .release_job.run = release_run};
    return f;
}

/* ---- TakeSnapshot ---- */

/* A call on its way through the taker, whose it is between submit and post; `left` is anybody's. */
typedef struct take {
    vv_job job;
    vv_rpc_call *call;
    vv_exports *service;
    uint64_t lease_ms;
    uint64_t lsn;                             /* of the snapshot */
    char slot[VARVE_SLOT_NAME_BYTES_MAX + 1]; /* "": none */
    _Atomic bool left;                        /* the client */
    bool full;                                /* there are too many leases */
    bool no_slot;                             /* there are too many slots */
    varve_status status;
    varve_error err;
    vv_lease_info info;
    uint8_t *response;
    size_t response_bytes;
} take;

static take **take_slot(vv_rpc_call *call) {
    return (take **)(void *)call->state;
}

static uint8_t *put_bytes(uint8_t *to, uint32_t field, const void *data, size_t bytes) {
    to = vv_codec_put_bytes_header(to, field, bytes);
    memcpy(to, data, bytes);
    return to + bytes;
}

static uint8_t *put_fixed64(uint8_t *to, uint32_t field, uint64_t value) {
    to = vv_codec_put_varint(to, field << 3 | 1);
    for (int i = 0; i < 8; i++)
        *to++ = (uint8_t)(value >> 8 * i);
    return to;
}

/* A SnapshotFile as an entry of TakeSnapshotResponse.files. */
static uint8_t *put_file(uint8_t *to, uint32_t level, const char *name, uint64_t size, uint64_t checksum) {
    uint8_t file[FILE_BYTES_MAX + 256];
    uint8_t *at = vv_codec_put_uint(file, 1, level);
    at = put_bytes(at, 2, name, VV_MIN(strlen(name), (size_t)255));
    at = vv_codec_put_uint(at, 3, size);
    at = put_fixed64(at, 4, checksum);
    return put_bytes(to, 2, file, (size_t)(at - file));
}

/* By hand: a store has thousands of files. */
static varve_status write_response(take *t, const files *f) {
    const varve_export *e = &f->export;
    size_t room = RESPONSE_BYTES_MAX + FILE_BYTES_MAX + VV_CODEC_VARINT_BYTES_MAX + sizeof MANIFEST_NAME;
    for (size_t i = 0; i < e->file_count; i++)
        room += FILE_BYTES_MAX + VV_CODEC_VARINT_BYTES_MAX + strlen(e->files[i].name);
    t->response = vv_alloc(room);
    if (!t->response)
        return (varve_status){.code = VARVE_NO_MEMORY};
    uint8_t id[VARVE_DATABASE_ID_BYTES], *at = vv_codec_put_uint(t->response, 1, e->lsn);
    for (size_t i = 0; i < e->file_count; i++)
        at = put_file(at, e->files[i].level, e->files[i].name, e->files[i].size, e->files[i].checksum);
    at = put_file(at, 0, MANIFEST_NAME, e->manifest_bytes, vv_checksum(e->manifest, e->manifest_bytes, 0));
    at = vv_codec_put_uint(at, 3, t->info.id);
    at = vv_codec_put_uint(at, 4, t->info.expires_unix_ms);
    varve_database_id(t->service->db, id);
    at = put_bytes(at, 5, id, sizeof id);
    t->response_bytes = (size_t)(at - t->response);
    return (varve_status){0};
}

/* Is the slot there, and not lost? */
static bool slot_stands(const take *t, varve_slot_info *out) {
    varve_slot_info all[VARVE_SLOTS_MAX];
    size_t count = varve_slots_get(t->service->db, all);
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].name, t->slot) == 0 && !all[i].lost) {
            *out = all[i];
            return true;
        }
    return false;
}

/* The slot at what is flushed now. A flush that ends meanwhile may recycle what is behind that: once more. */
static varve_status make_slot(take *t) {
    varve_status st = {0};
    for (int i = 0; i < SLOT_TRIES; i++) {
        varve_stats stats;
        varve_stats_get(t->service->db, &stats);
        st = varve_slot_create(t->service->db, t->slot, stats.flushed_lsn, &t->err);
        if (st.code != VARVE_TRIMMED)
            break;
    }
    t->no_slot = st.code == VARVE_BUSY;
    return st;
}

/* Up to the snapshot. One that was lost meanwhile, in a long flush amid many writes, is made anew; so is one
 * that was there before and stands higher, whose reader begins anew. */
static varve_status move_slot(take *t) {
    varve_db *db = t->service->db;
    varve_slot_info slot;
    if (slot_stands(t, &slot) && slot.confirmed_lsn > t->lsn)
        return varve_slot_create(db, t->slot, t->lsn, &t->err);
    varve_status st = varve_slot_confirm(db, t->slot, t->lsn);
    if (st.code == VARVE_NOT_FOUND)
        st = varve_slot_create(db, t->slot, t->lsn, &t->err);
    return st;
}

/* From here on the files are the lease's. */
static varve_status lease_files(take *t, files *f) {
    vv_status st = vv_leases_add_files(t->service->leases, t->call->user, &f->leased, t->lease_ms, &t->info);
    t->full = vv_is(st, VV_BUSY);
    if (!vv_ok(st))
        release_files(&f->leased);
    else
        return write_response(t, f);
    return (varve_status){.code = (uint16_t)st.code, .sys = st.sys};
}

static varve_status take_files(take *t) {
    varve_db *db = t->service->db;
    files *f = files_create(t->service);
    if (!f)
        return (varve_status){.code = VARVE_NO_MEMORY};
    varve_status st = varve_take_snapshot(db, &f->export, &t->err);
    f->leased.lsn = t->lsn = f->export.lsn;
    if (varve_ok(st))
        return lease_files(t, f);
    release_files(&f->leased);
    return st;
}

static void unlease(const take *t) {
    vv_leases_release(t->service->leases, t->call->user, VV_LEASE_FILES, t->info.id);
}

static bool goes_on(const take *t) {
    return !atomic_load(&t->left) && !vv_workers_stopping(t->service->takers) &&
           vv_clock_mono_ns() < t->call->deadline_ns;
}

static void take_run(vv_job *job) {
    take *t = VV_CONTAINER_OF(job, take, job);
    t->full = !vv_leases_have_room(t->service->leases, t->call->user);
    t->status = (varve_status){.code = VARVE_BUSY}; /* take_failed() knows why */
    if (goes_on(t) && !t->full) {
        varve_slot_info slot;
        /* One that stands holds at least as much log: it is its reader's, whatever comes of the snapshot. */
        bool slot_made = t->slot[0] && !slot_stands(t, &slot);
        t->status = slot_made ? make_slot(t) : (varve_status){0};
        slot_made &= varve_ok(t->status);
        if (varve_ok(t->status))
            t->status = take_files(t);
        if (varve_ok(t->status)) {
            t->status = goes_on(t) ? (varve_status){0} : (varve_status){.code = VARVE_BUSY};
            if (varve_ok(t->status) && t->slot[0])
                t->status = move_slot(t);
            if (!varve_ok(t->status))
                unlease(t);
        }
        /* Nobody will read from there, and a log that is kept for nobody costs space. */
        if (slot_made && !varve_ok(t->status)) {
            varve_status dropped = varve_slot_drop(t->service->db, t->slot, NULL);
            (void)
                dropped; /* the first failure is the one to tell; the slot is bounded by WAL_RETENTION_MAX */
        }
    }
    vv_rpc_post_and_wake(t->call);
}

static void take_destroy(take *t) {
    vv_free(t->response);
    vv_free(t);
}

static void take_failed(take *t) {
    vv_rpc_call *call = t->call;
    vv_rpc_status status;
    if (call->cancelled)
        vv_rpc_status_set(&status, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled by the client");
    else if (t->full)
        vv_rpc_status_set(&status, VV_RPC_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS", BUSY_RETRY_MS,
                          "the server holds as many snapshots of its files as EXPORTS_MAX allows: release "
                          "some, or wait for the end of their leases");
    else if (t->no_slot)
        vv_replicas_say_too_many(&status);
    else if (t->status.code == VARVE_BUSY && vv_workers_stopping(t->service->takers))
        vv_rpc_status_set(&status, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", BUSY_RETRY_MS,
                          "the server is shutting down");
    else if (t->status.code == VARVE_BUSY && vv_clock_mono_ns() >= call->deadline_ns)
        vv_rpc_status_set(&status, VV_RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 0,
                          "the deadline has passed");
    else
        vv_rpc_status_from_engine_words(&status, t->status, t->err.text);
    vv_rpc_fail(call, &status);
}

void vv_take_snapshot_on_posted(vv_rpc_call *call) {
    take *t = *take_slot(call);
    *take_slot(call) = NULL;
    bool taken = varve_ok(t->status);
    if (taken && call->cancelled)
        unlease(t);
    if (!taken || call->cancelled)
        take_failed(t);
    else
        vv_rpc_reply(call, vv_rpc_body_copy(t->response, t->response_bytes));
    take_destroy(t);
}

void vv_take_snapshot_on_cancelled(vv_rpc_call *call) {
    if (*take_slot(call))
        atomic_store(&(*take_slot(call))->left, true);
}

static void take_start(vv_rpc_call *call, const Varve__V1__TakeSnapshotRequest *request) {
    take *t = vv_alloc_zeroed(sizeof *t);
    if (!t) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", BUSY_RETRY_MS, "out of memory");
        return;
    }
    t->job.run = take_run;
    t->call = call;
    t->service = exports_of(call);
    t->lease_ms = request->lease_ms;
    if (!vv_replicas_slot_name(call, request->slot, t->slot)) {
        take_destroy(t);
        return;
    }
    *take_slot(call) = t;
    if (vv_workers_submit(t->service->takers, &t->job))
        return;
    *take_slot(call) = NULL;
    vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", BUSY_RETRY_MS,
                     "too many snapshots are being taken");
    take_destroy(t);
}

void vv_take_snapshot_on_call(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    const Varve__V1__TakeSnapshotRequest *r =
        (void *)vv_codec_request(call, &arena, &varve__v1__take_snapshot_request__descriptor, request);
    if (r)
        take_start(call, r);
    vv_codec_arena_deinit(&arena);
}

/* ---- FetchFile ---- */

typedef struct fetch {
    vv_chunk_stream stream;
    vv_exports *service;
    vv_lease *lease;
    const varve_export *export;    /* the lease's */
    const varve_export_file *file; /* NULL: the manifest */
    varve_export_reader *reader;   /* the worker's */
    uint64_t offset, end;          /* what is still to be sent; the worker's too */
    uint8_t head[2 * VV_CODEC_VARINT_BYTES_MAX];
} fetch;

static void fetch_destroy(fetch *f) {
    varve_export_close(f->reader);
    vv_lease_unref(f->service->leases, f->lease);
    vv_free(f);
}

static void destroy_stream(vv_chunk_stream *stream) {
    fetch_destroy(VV_CONTAINER_OF(stream, fetch, stream));
}

static void release_piece(void *piece) {
    VV_TAKE_OVER(piece); /* on whatever thread of the transport's sent the last byte */
    vv_free(piece);
}

/* `bytes` at the offset, which are there. room: of the piece. */
static varve_status read_piece(fetch *f, uint8_t *piece, size_t room, size_t bytes, varve_error *err) {
    if (!f->file) {
        memcpy(piece, (const uint8_t *)f->export->manifest + f->offset, bytes);
        return (varve_status){0};
    }
    varve_status st = {0};
    if (!f->reader)
        st = varve_export_open(f->service->db, f->export, f->file->name, &f->reader, err);
    size_t got = 0;
    if (varve_ok(st))
        st = varve_export_read(f->reader, f->offset, piece, room, &got, err);
    if (varve_ok(st) && got < bytes)
        st = (varve_status){.code = VARVE_CORRUPTION};
    return st;
}

/* On a worker: the next piece as a message. */
static vv_chunk_outlook make_piece(vv_chunk_stream *stream) {
    fetch *f = VV_CONTAINER_OF(stream, fetch, stream);
    if (f->offset == f->end)
        return VV_CHUNK_END;
    varve_error err = {""};
    /* The first piece is shorter where that makes the others begin on a block's boundary. */
    size_t room = PIECE_BYTES - f->offset % ALIGN_BYTES;
    size_t bytes = (size_t)VV_MIN((uint64_t)room, f->end - f->offset);
    uint8_t *piece = vv_alloc_aligned(ALIGN_BYTES, PIECE_BYTES);
    varve_status st = piece ? read_piece(f, piece, vv_align_up(bytes, ALIGN_BYTES), bytes, &err)
                            : (varve_status){.code = VARVE_NO_MEMORY};
    if (!varve_ok(st)) {
        vv_free(piece);
        vv_rpc_status_from_engine_words(&stream->failure, st, err.text);
        return VV_CHUNK_FAILED;
    }
    uint8_t *end = vv_codec_put_bytes_header(f->head, 1, bytes);
    VV_HAND_OVER(piece);
    stream->body = (vv_rpc_body){.head = vv_slice_make(f->head, (size_t)(end - f->head)),
                                 .tail = vv_slice_make(piece, bytes),
                                 .release = release_piece,
                                 .release_arg = piece};
    f->offset += bytes;
    return f->offset == f->end ? VV_CHUNK_END : VV_CHUNK_MORE;
}

/* Which file, and its size. False: there is none of that name. */
static bool find_file(fetch *f, ProtobufCBinaryData name, uint64_t *size_out) {
    vv_slice wanted = vv_slice_make(name.data, name.len);
    *size_out = f->export->manifest_bytes;
    if (vv_slice_equal(wanted, vv_slice_str(MANIFEST_NAME)))
        return true;
    for (size_t i = 0; i < f->export->file_count && !f->file; i++)
        if (vv_slice_equal(wanted, vv_slice_str(f->export->files[i].name)))
            f->file = &f->export->files[i];
    if (f->file)
        *size_out = f->file->size;
    return f->file != NULL;
}

/* False: the call has failed. */
static bool fetch_prepare(fetch *f, vv_rpc_call *call, const Varve__V1__FetchFileRequest *r) {
    f->lease = vv_leases_ref(f->service->leases, call->user, VV_LEASE_FILES, r->snapshot_id);
    if (!f->lease) {
        vv_snapshots_fail_unknown(call);
        return false;
    }
    f->export = &VV_CONTAINER_OF(vv_lease_files(f->lease), files, leased)->export;
    uint64_t size;
    if (!find_file(f, r->name, &size)) {
        vv_rpc_fail_with(call, VV_RPC_NOT_FOUND, "FILE_UNKNOWN", 0, "the snapshot has no such file");
        return false;
    }
    if (r->offset > size || r->length > size - r->offset) {
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "BAD_RANGE", 0, "the file has only %llu bytes",
                         (unsigned long long)size);
        return false;
    }
    f->offset = r->offset;
    f->end = r->length > 0 ? r->offset + r->length : size;
    return true;
}

static void fetch_start(vv_rpc_call *call, const Varve__V1__FetchFileRequest *request) {
    fetch *f = vv_alloc_zeroed(sizeof *f);
    if (!f) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", BUSY_RETRY_MS, "out of memory");
        return;
    }
    f->service = exports_of(call);
    if (!fetch_prepare(f, call, request)) {
        fetch_destroy(f);
        return;
    }
    vv_chunk_options options = {.workers = f->service->readers,
                                .timers = f->service->options.timers,
                                .idle_ns = f->service->options.fetch_idle_us * VV_NS_PER_US,
                                .make = make_piece,
                                .destroy = destroy_stream,
                                .idle_reason = "FETCH_IDLE",
                                .idle_words = "no message was taken for too long; go on with an offset"};
    vv_chunk_stream_start(&f->stream, call, &options);
}

void vv_fetch_file_on_call(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    const Varve__V1__FetchFileRequest *r =
        (void *)vv_codec_request(call, &arena, &varve__v1__fetch_file_request__descriptor, request);
    if (r)
        fetch_start(call, r);
    vv_codec_arena_deinit(&arena);
}

/* ---- ReleaseSnapshot ---- */

void vv_release_snapshot_on_call(vv_rpc_call *call, vv_slice request) {
    vv_exports *e = exports_of(call);
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    const Varve__V1__ReleaseSnapshotRequest *r =
        (void *)vv_codec_request(call, &arena, &varve__v1__release_snapshot_request__descriptor, request);
    if (r) {
        vv_leases_release(e->leases, call->user, VV_LEASE_FILES, r->snapshot_id);
        vv_rpc_reply(call, vv_rpc_body_copy(NULL, 0));
    }
    vv_codec_arena_deinit(&arena);
}

/* ---- life ---- */

vv_status vv_exports_init(vv_exports *e, const vv_exports_options *options, varve_db *db) {
    *e = (vv_exports){.options = *options, .db = db};
    vv_leases_options leases = {.db = db,
                                .timers = options->timers,
                                .count_max = options->count_max,
                                .per_user_max = options->count_max,
                                .default_us = options->lease_us,
                                .longest_us = options->lease_us_max};
    /* Takes that wait, and releases. */
    vv_workers_options takers = {
        .name = "varve-export", .thread_count = 1, .queue_max = TAKES_MAX + (uint32_t)options->count_max};
    vv_workers_options readers = {.name = "varve-fetch",
                                  .thread_count = READERS,
                                  .queue_max = (uint32_t)VV_MIN(options->streams_max, (uint64_t)UINT32_MAX)};
    VV_TRY(vv_workers_create(&takers, &e->takers));
    VV_TRY(vv_workers_create(&readers, &e->readers));
    return vv_leases_create(&leases, &e->leases);
}

void vv_exports_stop(vv_exports *e) {
    vv_workers_stop(e->takers);
}

void vv_exports_deinit(vv_exports *e) {
    vv_workers_destroy(e->readers);
    vv_leases_destroy(e->leases); /* releases what is left, by the taker or at once */
    vv_workers_destroy(e->takers);
    *e = (vv_exports){.db = NULL};
}
