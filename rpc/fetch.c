/*
 * fetch.c - a whole store over the network.
 *
 *   vv_fetch()      the caller's thread: progress, log, giving up
 *     '-- driver    TakeSnapshot, the manifest, then until all files are here:
 *           '-- N workers: the largest file that nobody has yet: FetchFile --> varve_import
 *
 *   round:  TakeSnapshot --> manifest --> import of the files --> all here: finish
 *             ^                              |
 *             '---- the snapshot is gone ----'
 *
 * What fails and mends by itself is tried again, from the byte at which it failed, after a pause that
 * doubles: a connection that is lost, a server that is overloaded or starting. The snapshot is held by a
 * lease, which each read of a file renews; so that it does not end while files of an earlier try are read and
 * compared, or while the disk is slow, the driver reads a byte of the manifest now and then. When it is gone
 * all the same (a server that was started again knows none) the next round takes another: the tables that
 * both have are not fetched again, since the import finds them.
 *
 * A file that has the wrong checksum begins anew, TRIES times at most. It is the import that says what counts
 * and what survives; see engine/db/import.c.
 *
 * Locking: mu guards all that threads share. No call and no I/O is made under it.
 */
#include "rpc/fetch.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/call_log.h"
#include "rpc/codec.h"
#include "rpc/wire.h"
#include "varve/v1/replication.pb-c.h"

#define SERVICE            "/varve.v1.Replication/"
#define MANIFEST_NAME      "MANIFEST"
#define MANIFEST_BYTES_MAX (UINT64_C(1) << 30)
#define PARALLEL_DEFAULT   4
#define PARALLEL_MAX       64
#define TRIES              3 /* of a file that comes damaged */
#define LEASE_MS           60000
#define RENEW_MS_MIN       1000
#define RENEW_MS_MAX       10000
#define TAKE_NS            (600 * VV_NS_PER_S) /* it waits for a flush; a dead connection is noticed sooner */
#define SILENCE_NS         (10 * VV_NS_PER_S)  /* of a file that is on its way */
#define RELEASE_NS         (2 * VV_NS_PER_S)
#define PAUSE_NS_MIN       (100 * VV_NS_PER_MS)
#define PAUSE_NS_MAX       (2 * VV_NS_PER_S)
#define PROGRESS_NS        (50 * VV_NS_PER_MS)
#define LOG_NS             (5 * VV_NS_PER_S)

typedef struct snapshot {
    uint64_t id; /* 0: none is held */
    uint64_t lsn;
    uint64_t renew_ns;        /* so long nobody may need it */
    varve_export_file *files; /* the tables; names are the answer's */
    size_t file_count;
    size_t *order;  /* the largest first */
    uint64_t bytes; /* the manifest's too */
    uint8_t *manifest;
    uint64_t manifest_bytes, manifest_checksum;
    char *names;
} snapshot;

/* How a step ended. */
typedef enum outcome {
    DONE,
    AGAIN, /* mends by itself */
    GONE,  /* the snapshot is */
    OVER,  /* failed, and mu says why; or somebody says stop */
} outcome;

typedef struct fetch {
    const vv_fetch_options *o;
    snapshot snapshot;              /* the driver's, between rounds */
    varve_import *import;           /* the same */
    _Atomic uint64_t fetched_bytes; /* came over the network */
    _Atomic uint64_t moved_ns;      /* when something was last got on with */
    _Atomic uint32_t local;         /* threads that are at work on the disk: that is getting on, too */
    struct {
        vv_mutex lock;
        vv_cond changed;
        size_t next; /* of the order */
        size_t files_done;
        uint64_t bytes_here;  /* of this round's files */
        uint64_t bytes_total; /* 0: not known yet */
        size_t file_count;
        size_t working;   /* workers */
        bool round_over;  /* workers are to come back */
        bool stop;        /* everybody is */
        bool ended;       /* the driver has */
        bool complained;  /* of the trouble that there is now */
        vv_status status; /* why, if it failed */
        vv_error words;
        vv_error trouble; /* the last that was tried again */
        vv_peer_stream *streams[PARALLEL_MAX + 1];
    } mu;
} fetch;

/* ---- what threads say to each other ---- */

static bool stopped(fetch *f) {
    vv_mutex_lock(&f->mu.lock);
    bool stop = f->mu.stop;
    vv_mutex_unlock(&f->mu.lock);
    return stop;
}

static bool called_back(fetch *f) {
    vv_mutex_lock(&f->mu.lock);
    bool back = f->mu.round_over;
    vv_mutex_unlock(&f->mu.lock);
    return back;
}

/* Under mu. */
static void stop_locked(fetch *f, vv_status why, const char *words) {
    if (vv_ok(f->mu.status)) {
        f->mu.status = why;
        snprintf(f->mu.words.text, sizeof f->mu.words.text, "%s", words);
    }
    f->mu.stop = f->mu.round_over = true;
    for (size_t i = 0; i < VV_ARRAY_COUNT(f->mu.streams); i++)
        if (f->mu.streams[i])
            vv_peer_stream_cancel(f->mu.streams[i]);
    vv_cond_broadcast(&f->mu.changed);
}

/* The first failure counts. */
static outcome stop(fetch *f, vv_status why, const char *words) {
    vv_mutex_lock(&f->mu.lock);
    stop_locked(f, why, words);
    vv_mutex_unlock(&f->mu.lock);
    return OVER;
}

static outcome stop_engine(fetch *f, varve_status st, const varve_error *words) {
    return stop(f, vv_status_make((vv_code)st.code, (vv_sub)st.reason, st.sys),
                words->text[0] ? words->text : varve_code_text(st.code));
}

static void moved(fetch *f) {
    atomic_store_explicit(&f->moved_ns, vv_clock_mono_ns(), memory_order_relaxed);
}

/* Of a file. */
static void came(fetch *f, size_t bytes) {
    atomic_fetch_add_explicit(&f->fetched_bytes, bytes, memory_order_relaxed);
    moved(f);
}

static void local_begin(fetch *f) {
    atomic_fetch_add_explicit(&f->local, 1, memory_order_relaxed);
}

static void local_end(fetch *f) {
    moved(f);
    atomic_fetch_sub_explicit(&f->local, 1, memory_order_relaxed);
}

/* Wait so long, or until it is time to come back. *pause_ns doubles. */
static void pause_for(fetch *f, uint64_t *pause_ns) {
    uint64_t until_ns = vv_clock_mono_ns() + *pause_ns;
    *pause_ns = VV_MIN(2 * *pause_ns, PAUSE_NS_MAX);
    vv_mutex_lock(&f->mu.lock);
    while (!f->mu.round_over && vv_cond_wait_until(&f->mu.changed, &f->mu.lock, until_ns))
        continue;
    vv_mutex_unlock(&f->mu.lock);
}

/* ---- how calls fail ---- */

static vv_status status_of(vv_rpc_code code) {
    switch (code) {
    case VV_RPC_UNAUTHENTICATED:
    case VV_RPC_PERMISSION_DENIED: return vv_status_make(VV_PERMISSION, VV_SUB_NONE, 0);
    case VV_RPC_UNIMPLEMENTED: return vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0);
    case VV_RPC_DATA_LOSS: return vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0);
    default: return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0);
    }
}

/* What to do about it. `what` was called. */
static outcome judge(fetch *f, const char *what, const vv_peer_error *why) {
    char words[VV_ERROR_TEXT_BYTES];
    snprintf(words, sizeof words, "%s: %s %s: %s", what, vv_rpc_code_name(why->code), why->reason,
             why->message);
    if (vv_peer_interrupted(f->o->peer) || stopped(f))
        return stop(f, vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0), "interrupted");
    bool gone = strcmp(why->reason, "SNAPSHOT_UNKNOWN") == 0 || strcmp(why->reason, "FILE_UNKNOWN") == 0;
    switch (why->code) {
    case VV_RPC_CANCELLED: /* a server that is stopped; the core, of connections that end */
    case VV_RPC_UNKNOWN:
    case VV_RPC_DEADLINE_EXCEEDED:
    case VV_RPC_RESOURCE_EXHAUSTED:
    case VV_RPC_ABORTED:
    case VV_RPC_INTERNAL:
    case VV_RPC_UNAVAILABLE: break;
    default:
        if (!gone)
            return stop(f, status_of(why->code), words);
    }
    vv_mutex_lock(&f->mu.lock);
    bool first = !f->mu.complained;
    f->mu.complained = true;
    snprintf(f->mu.trouble.text, sizeof f->mu.trouble.text, "%s", words);
    vv_mutex_unlock(&f->mu.lock);
    if (first)
        vv_log(f->o->log, VV_LOG_WARN, "fetch: %s; %s", words,
               gone ? "taking another snapshot" : "trying again");
    return gone ? GONE : AGAIN;
}

/* ---- calls that can be stopped ---- */

static vv_slice pack(const void *message, vv_codec_small *room) {
    vv_codec_pack_small(message, room);
    return vv_slice_make(room->data, room->bytes);
}

/* lane: 0 is the driver's, then the workers'. */
static vv_peer_stream *open_stream(fetch *f, size_t lane, const char *path, vv_slice request,
                                   vv_peer_error *why) {
    vv_peer_stream *s = vv_peer_stream_open(f->o->peer, path, request, why);
    vv_mutex_lock(&f->mu.lock);
    f->mu.streams[lane] = s;
    if (s && f->mu.stop)
        vv_peer_stream_cancel(s);
    vv_mutex_unlock(&f->mu.lock);
    return s;
}

static void close_stream(fetch *f, size_t lane) {
    vv_mutex_lock(&f->mu.lock);
    vv_peer_stream *s = f->mu.streams[lane];
    f->mu.streams[lane] = NULL;
    vv_mutex_unlock(&f->mu.lock);
    vv_peer_stream_close(s);
}

/* Where the bytes of a file go. */
typedef outcome (*bytes_fn)(void *arg, vv_slice bytes);

/* FetchFileResponse.data, where it lies. */
static vv_slice data_of(vv_slice message) {
    vv_wire w = vv_wire_make(message);
    vv_wire_field field = {0};
    vv_slice data = {0};
    while (w.at < w.end && vv_wire_next(&w, &field))
        if (field.number == 1 && field.type == VV_WIRE_BYTES)
            data = field.bytes;
    return data;
}

/* DONE: the stream has ended well. */
static outcome fetch_bytes(fetch *f, size_t lane, const char *name, uint64_t offset, uint64_t length,
                           bytes_fn fn, void *arg) {
    vv_codec_small room;
    vv_peer_error why;
    Varve__V1__FetchFileRequest request = VARVE__V1__FETCH_FILE_REQUEST__INIT;
    request.snapshot_id = f->snapshot.id;
    request.name = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)name, .len = strlen(name)};
    request.offset = offset;
    request.length = length;
    vv_peer_stream *s = open_stream(f, lane, SERVICE "FetchFile", pack(&request, &room), &why);
    vv_peer_next next = VV_PEER_FAILED;
    outcome result = DONE;
    vv_slice message;
    while (s && result == DONE &&
           (next = vv_peer_stream_next(s, SILENCE_NS, &message, &why)) == VV_PEER_MESSAGE) {
        result = fn(arg, data_of(message));
    }
    close_stream(f, lane);
    if (result == DONE && next == VV_PEER_FAILED)
        result = judge(f, name, &why);
    return result;
}

/* ---- the snapshot ---- */

static void drop_snapshot(snapshot *s) {
    vv_free(s->files);
    vv_free(s->order);
    vv_free(s->names);
    vv_free(s->manifest);
    *s = (snapshot){0};
}

static void release_snapshot(fetch *f) {
    vv_codec_small room;
    vv_peer_error why;
    uint8_t *reply = NULL;
    size_t bytes;
    Varve__V1__ReleaseSnapshotRequest request = VARVE__V1__RELEASE_SNAPSHOT_REQUEST__INIT;
    request.snapshot_id = f->snapshot.id;
    if (f->snapshot.id != 0 && !vv_peer_call(f->o->peer, SERVICE "ReleaseSnapshot", pack(&request, &room),
                                             RELEASE_NS, &reply, &bytes, &why))
        vv_log(f->o->log, VV_LOG_DEBUG, "fetch: the snapshot ends with its lease: %s", why.message);
    vv_free(reply);
    f->snapshot.id = 0;
}

static int larger_first(const void *a, const void *b, void *files) {
    const varve_export_file *x = (const varve_export_file *)files + *(const size_t *)a,
                            *y = (const varve_export_file *)files + *(const size_t *)b;
    return (x->size < y->size) - (x->size > y->size);
}

/* A third of the lease that was granted, which may be shorter than the one that was asked for. The server's
 * clock may be another: within bounds that are right for every lease of 3 s and more. */
static uint64_t renewal_ns(uint64_t expires_unix_ms) {
    uint64_t now = vv_clock_unix_ms(), third = expires_unix_ms > now ? (expires_unix_ms - now) / 3 : 0;
    return VV_MAX(RENEW_MS_MIN, VV_MIN(third, RENEW_MS_MAX)) * VV_NS_PER_MS;
}

/* NO_MEMORY; CORRUPTION: no manifest. */
static vv_status read_snapshot(snapshot *s, const Varve__V1__TakeSnapshotResponse *r) {
    size_t name_bytes = 1, used = 0;
    for (size_t i = 0; i < r->n_files; i++)
        name_bytes += r->files[i]->name.len + 1;
    s->id = r->id;
    s->lsn = r->lsn;
    s->renew_ns = renewal_ns(r->expires_unix_ms);
    s->names = vv_alloc(name_bytes);
    s->files = vv_alloc_zeroed((r->n_files + 1) * sizeof *s->files);
    s->order = vv_alloc((r->n_files + 1) * sizeof *s->order);
    if (!s->names || !s->files || !s->order)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    for (size_t i = 0; i < r->n_files; i++) {
        const Varve__V1__SnapshotFile *file = r->files[i];
        char *name = s->names + used;
        if (file->name.len > 0)
            memcpy(name, file->name.data, file->name.len);
        name[file->name.len] = '\0';
        used += file->name.len + 1;
        s->bytes += file->size;
        if (strcmp(name, MANIFEST_NAME) == 0) {
            s->manifest_bytes = file->size;
            s->manifest_checksum = file->checksum;
            continue;
        }
        s->order[s->file_count] = s->file_count;
        s->files[s->file_count++] = (varve_export_file){
            .name = name, .level = file->level, .size = file->size, .checksum = file->checksum};
    }
    qsort_r(s->order, s->file_count, sizeof *s->order, larger_first, s->files);
    if (s->manifest_bytes == 0 || s->manifest_bytes > MANIFEST_BYTES_MAX)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    s->manifest = vv_alloc(s->manifest_bytes);
    return s->manifest ? VV_STATUS_OK : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static outcome take_snapshot(fetch *f) {
    vv_codec_small room;
    vv_peer_error why;
    vv_slice message;
    Varve__V1__TakeSnapshotRequest request = VARVE__V1__TAKE_SNAPSHOT_REQUEST__INIT;
    request.lease_ms = LEASE_MS;
    if (f->o->slot)
        request.slot =
            (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)f->o->slot, .len = strlen(f->o->slot)};
    vv_peer_stream *s = open_stream(f, 0, SERVICE "TakeSnapshot", pack(&request, &room), &why);
    vv_peer_next next = s ? vv_peer_stream_next(s, TAKE_NS, &message, &why) : VV_PEER_FAILED;
    Varve__V1__TakeSnapshotResponse *r = NULL;
    if (next == VV_PEER_MESSAGE)
        r = varve__v1__take_snapshot_response__unpack(NULL, message.bytes, message.data);
    close_stream(f, 0);
    if (next == VV_PEER_FAILED)
        return judge(f, "TakeSnapshot", &why);
    moved(f);
    vv_status st = r ? read_snapshot(&f->snapshot, r) : vv_status_make(VV_CORRUPTION, VV_SUB_MALFORMED, 0);
    if (r)
        varve__v1__take_snapshot_response__free_unpacked(r, NULL);
    return vv_ok(st) ? DONE : stop(f, st, "TakeSnapshot: the answer is no snapshot");
}

typedef struct manifest_part {
    fetch *f;
    uint64_t at;
} manifest_part;

static outcome add_manifest(void *arg, vv_slice bytes) {
    manifest_part *part = arg;
    snapshot *s = &part->f->snapshot;
    if (bytes.bytes > s->manifest_bytes - part->at)
        return stop(part->f, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                    MANIFEST_NAME ": more than its bytes came");
    if (bytes.bytes > 0)
        memcpy(s->manifest + part->at, bytes.data, bytes.bytes);
    part->at += bytes.bytes;
    came(part->f, bytes.bytes);
    return DONE;
}

static outcome fetch_manifest(fetch *f) {
    const snapshot *s = &f->snapshot;
    uint64_t pause_ns = PAUSE_NS_MIN;
    for (int tries = 0; tries < TRIES;) {
        manifest_part part = {.f = f};
        outcome result = fetch_bytes(f, 0, MANIFEST_NAME, 0, 0, add_manifest, &part);
        if (result == AGAIN) {
            pause_for(f, &pause_ns);
            continue;
        }
        if (result != DONE)
            return result;
        if (part.at == s->manifest_bytes &&
            (s->manifest_checksum == 0 ||
             vv_checksum(s->manifest, s->manifest_bytes, 0) == s->manifest_checksum))
            return DONE;
        tries++;
    }
    return stop(f, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0),
                MANIFEST_NAME ": checksum mismatch, three times");
}

static outcome drop_byte(void *arg, vv_slice bytes) {
    (void)arg, (void)bytes;
    return DONE;
}

/* ---- one file, by a worker ---- */

typedef struct worker {
    fetch *f;
    size_t lane;
    pthread_t thread;
    const varve_export_file *wanted;
    varve_import_file *file;
    uint64_t at;      /* so much of the file is here */
    uint64_t counted; /* of it in bytes_here */
} worker;

static void count(worker *w) {
    fetch *f = w->f;
    vv_mutex_lock(&f->mu.lock);
    f->mu.bytes_here += w->at - w->counted; /* may be less than there was */
    f->mu.complained = false;
    vv_mutex_unlock(&f->mu.lock);
    w->counted = w->at;
}

static outcome add_piece(void *arg, vv_slice bytes) {
    worker *w = arg;
    varve_error words = {""};
    if (bytes.bytes > w->wanted->size - w->at) {
        char text[VV_ERROR_TEXT_BYTES];
        snprintf(text, sizeof text, "%s: more than its %" PRIu64 " bytes came", w->wanted->name,
                 w->wanted->size);
        return stop(w->f, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0), text);
    }
    varve_status st = varve_import_write(w->file, bytes.data, bytes.bytes, &words);
    if (!varve_ok(st))
        return stop_engine(w->f, st, &words);
    w->at += bytes.bytes;
    came(w->f, bytes.bytes);
    count(w);
    return called_back(w->f) ? OVER : DONE;
}

/* The rest of an open file, however often the connection is lost. DONE: the server has no more of it. */
static outcome fetch_rest(worker *w) {
    uint64_t pause_ns = PAUSE_NS_MIN;
    for (;;) {
        uint64_t before = w->at;
        if (w->at == w->wanted->size)
            return DONE;
        outcome result = fetch_bytes(w->f, w->lane, w->wanted->name, w->at, 0, add_piece, w);
        if (result != AGAIN)
            return result;
        if (w->at > before)
            pause_ns = PAUSE_NS_MIN;
        pause_for(w->f, &pause_ns);
        if (called_back(w->f))
            return OVER;
    }
}

/* One try. AGAIN: it came damaged; words say how. */
static outcome try_file(worker *w, size_t index, varve_error *words) {
    fetch *f = w->f;
    local_begin(f);
    varve_status st = varve_import_open(f->import, index, &w->file, &w->at, words);
    local_end(f);
    if (!varve_ok(st))
        return stop_engine(f, st, words);
    count(w);
    if (!w->file)
        return DONE;
    outcome result = fetch_rest(w);
    if (result != DONE) {
        varve_import_abandon(w->file);
        return result;
    }
    if (w->at < w->wanted->size) {
        varve_import_abandon(w->file);
        snprintf(words->text, sizeof words->text, "%s: only %" PRIu64 " of its %" PRIu64 " bytes came",
                 w->wanted->name, w->at, w->wanted->size);
        return AGAIN;
    }
    local_begin(f);
    st = varve_import_close(w->file, words);
    local_end(f);
    if (varve_ok(st))
        return DONE;
    w->at = 0;
    count(w);
    return st.code == VARVE_CORRUPTION ? AGAIN : stop_engine(f, st, words);
}

static outcome fetch_file(worker *w, size_t index) {
    varve_error words = {""};
    w->wanted = &w->f->snapshot.files[index];
    w->at = w->counted = 0;
    for (int tries = 0; tries < TRIES; tries++) {
        outcome result = try_file(w, index, &words);
        if (result != AGAIN)
            return result;
        vv_log(w->f->o->log, VV_LOG_WARN, "fetch: %s", words.text);
    }
    return stop(w->f, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0), words.text);
}

static void work(void *arg) {
    worker *w = arg;
    fetch *f = w->f;
    outcome result = DONE;
    vv_mutex_lock(&f->mu.lock);
    while (!f->mu.round_over && f->mu.next < f->snapshot.file_count) {
        size_t index = f->snapshot.order[f->mu.next++];
        vv_mutex_unlock(&f->mu.lock);
        result = fetch_file(w, index);
        vv_mutex_lock(&f->mu.lock);
        if (result == DONE)
            f->mu.files_done++;
        else
            f->mu.round_over = true; /* gone, or over */
    }
    f->mu.working--;
    vv_cond_broadcast(&f->mu.changed);
    vv_mutex_unlock(&f->mu.lock);
}

/* ---- the driver ---- */

/* Until the workers are back. */
static void hold_lease(fetch *f) {
    uint64_t due_ns = vv_clock_mono_ns() + f->snapshot.renew_ns;
    vv_mutex_lock(&f->mu.lock);
    while (f->mu.working > 0) {
        if (vv_cond_wait_until(&f->mu.changed, &f->mu.lock, due_ns))
            continue;
        due_ns = vv_clock_mono_ns() + f->snapshot.renew_ns;
        if (f->mu.round_over)
            continue;
        vv_mutex_unlock(&f->mu.lock);
        outcome held = fetch_bytes(f, 0, MANIFEST_NAME, 0, 1, drop_byte, NULL);
        vv_mutex_lock(&f->mu.lock);
        if (held == GONE) /* no worker needs to find out */
            f->mu.round_over = true;
    }
    vv_mutex_unlock(&f->mu.lock);
}

static outcome fetch_files(fetch *f) {
    const snapshot *s = &f->snapshot;
    worker workers[PARALLEL_MAX];
    size_t count_max = VV_MIN(f->o->parallel ? f->o->parallel : PARALLEL_DEFAULT, PARALLEL_MAX);
    size_t started = 0;
    vv_status st = VV_STATUS_OK;
    while (started < VV_MIN(count_max, s->file_count) && vv_ok(st)) {
        worker *w = &workers[started];
        *w = (worker){.f = f, .lane = started + 1};
        vv_mutex_lock(&f->mu.lock);
        f->mu.working++;
        vv_mutex_unlock(&f->mu.lock);
        st = vv_thread_start(&w->thread, "varve-fetch", work, w);
        if (vv_ok(st)) {
            started++;
            continue;
        }
        vv_mutex_lock(&f->mu.lock);
        f->mu.working--;
        vv_mutex_unlock(&f->mu.lock);
    }
    if (!vv_ok(st) && started == 0)
        return stop(f, st, "no thread can be started");
    hold_lease(f);
    for (size_t i = 0; i < started; i++)
        vv_thread_join(workers[i].thread);
    vv_mutex_lock(&f->mu.lock);
    outcome result = f->mu.stop ? OVER : f->mu.files_done == s->file_count ? DONE : GONE;
    vv_mutex_unlock(&f->mu.lock);
    return result;
}

static outcome finish_import(fetch *f) {
    varve_error words = {""};
    local_begin(f);
    varve_status st =
        varve_import_finish(f->import, f->snapshot.manifest, f->snapshot.manifest_bytes, &words);
    local_end(f);
    if (!varve_ok(st))
        return stop_engine(f, st, &words);
    f->import = NULL;
    return DONE;
}

static void begin_round(fetch *f) {
    vv_mutex_lock(&f->mu.lock);
    f->mu.next = f->mu.files_done = 0;
    f->mu.bytes_here = f->snapshot.manifest_bytes;
    f->mu.bytes_total = f->snapshot.bytes;
    f->mu.file_count = f->snapshot.file_count;
    f->mu.round_over = f->mu.stop;
    vv_mutex_unlock(&f->mu.lock);
}

static outcome run_round(fetch *f) {
    varve_error words = {""};
    outcome result = take_snapshot(f);
    if (result == DONE)
        result = fetch_manifest(f);
    if (result != DONE)
        return result;
    begin_round(f);
    vv_log(f->o->log, VV_LOG_INFO, "fetch: a snapshot of LSN %" PRIu64 ": %zu tables, %" PRIu64 " bytes",
           f->snapshot.lsn, f->snapshot.file_count, f->snapshot.bytes);
    local_begin(f);
    varve_status st = varve_import_begin(f->o->dir, f->o->engine, f->snapshot.files, f->snapshot.file_count,
                                         &f->import, &words);
    local_end(f);
    if (!varve_ok(st))
        return stop_engine(f, st, &words);
    result = fetch_files(f);
    return result == DONE ? finish_import(f) : result;
}

static void drive(void *arg) {
    fetch *f = arg;
    uint64_t pause_ns = PAUSE_NS_MIN;
    outcome result;
    while ((result = run_round(f)) == AGAIN || result == GONE) {
        varve_import_end(f->import);
        f->import = NULL;
        release_snapshot(f);
        drop_snapshot(&f->snapshot);
        vv_mutex_lock(&f->mu.lock);
        f->mu.round_over = f->mu.stop;
        vv_mutex_unlock(&f->mu.lock);
        pause_for(f, &pause_ns);
    }
    varve_import_end(f->import);
    release_snapshot(f);
    vv_mutex_lock(&f->mu.lock);
    f->mu.ended = true;
    vv_cond_broadcast(&f->mu.changed);
    vv_mutex_unlock(&f->mu.lock);
}

/* ---- the caller's thread ---- */

typedef struct figures {
    uint64_t here, total;
    size_t files_done, file_count;
    bool stop;
} figures;

/* A line every few seconds. */
static void log_figures(fetch *f, const figures *now, uint64_t *logged_ns, uint64_t *logged_bytes) {
    uint64_t ns = vv_clock_mono_ns();
    uint64_t fetched = atomic_load_explicit(&f->fetched_bytes, memory_order_relaxed);
    if (ns - *logged_ns < LOG_NS || now->total == 0)
        return;
    double seconds = (double)(ns - *logged_ns) / (double)VV_NS_PER_S;
    double rate = (double)(fetched - *logged_bytes) / seconds;
    char left[48] = "";
    if (rate > 0)
        snprintf(left, sizeof left, ", about %.0f s left", (double)(now->total - now->here) / rate);
    vv_log(f->o->log, VV_LOG_INFO,
           "fetch: %zu of %zu tables, %" PRIu64 " of %" PRIu64 " bytes (%.0f %%), %.1f MB/s%s",
           now->files_done, now->file_count, now->here, now->total,
           100.0 * (double)now->here / (double)now->total, rate / 1e6, left);
    *logged_ns = ns;
    *logged_bytes = fetched;
}

static void give_up_if_due(fetch *f) {
    if (atomic_load_explicit(&f->local, memory_order_relaxed) > 0)
        moved(f);
    uint64_t moved_ns = atomic_load_explicit(&f->moved_ns, memory_order_relaxed), now = vv_clock_mono_ns();
    if (f->o->give_up_ns == 0 || now < moved_ns || now - moved_ns < f->o->give_up_ns)
        return;
    vv_mutex_lock(&f->mu.lock);
    char words[VV_ERROR_TEXT_BYTES];
    snprintf(words, sizeof words, "no progress for too long: %.480s", f->mu.trouble.text);
    stop_locked(f, vv_status_make(VV_TIMED_OUT, VV_SUB_NONE, 0), words);
    vv_mutex_unlock(&f->mu.lock);
}

static void watch(fetch *f) {
    uint64_t logged_ns = vv_clock_mono_ns(), logged_bytes = 0;
    vv_mutex_lock(&f->mu.lock);
    while (!f->mu.ended) {
        uint64_t due_ns = vv_clock_mono_ns() + PROGRESS_NS;
        while (!f->mu.ended && vv_cond_wait_until(&f->mu.changed, &f->mu.lock, due_ns))
            continue;
        figures now = {.here = f->mu.bytes_here,
                       .total = f->mu.bytes_total,
                       .files_done = f->mu.files_done,
                       .file_count = f->mu.file_count,
                       .stop = f->mu.stop};
        vv_mutex_unlock(&f->mu.lock);
        log_figures(f, &now, &logged_ns, &logged_bytes);
        if (!now.stop && f->o->progress && !f->o->progress(f->o->arg, now.here, now.total))
            (void)stop(f, vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0), "stopped");
        give_up_if_due(f);
        vv_mutex_lock(&f->mu.lock);
    }
    vv_mutex_unlock(&f->mu.lock);
}

vv_status vv_fetch(const vv_fetch_options *options, vv_fetch_info *out, vv_error *err) {
    *out = (vv_fetch_info){0};
    fetch *f = vv_alloc_zeroed(sizeof *f);
    if (!f)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "fetch");
    f->o = options;
    vv_mutex_init(&f->mu.lock);
    vv_cond_init(&f->mu.changed);
    moved(f);
    uint64_t began_ns = vv_clock_mono_ns();
    pthread_t driver;
    vv_status st = vv_thread_start(&driver, "varve-fetcher", drive, f);
    if (vv_ok(st)) {
        watch(f);
        vv_thread_join(driver);
        st = vv_ok(f->mu.status) ? VV_STATUS_OK : vv_fail(err, f->mu.status, "fetch: %s", f->mu.words.text);
    }
    out->fetched_bytes = atomic_load(&f->fetched_bytes);
    if (vv_ok(st)) {
        out->lsn = f->snapshot.lsn;
        out->file_count = f->snapshot.file_count + 1;
        out->bytes = f->snapshot.bytes;
        double seconds = (double)(vv_clock_mono_ns() - began_ns) / (double)VV_NS_PER_S;
        vv_log(options->log, VV_LOG_INFO,
               "fetch: done, LSN %" PRIu64 ": %" PRIu64 " files of %" PRIu64 " bytes, %" PRIu64
               " fetched in %.1f s",
               out->lsn, out->file_count, out->bytes, out->fetched_bytes, seconds);
    }
    drop_snapshot(&f->snapshot);
    vv_cond_deinit(&f->mu.changed);
    vv_mutex_deinit(&f->mu.lock);
    vv_free(f);
    return st;
}
