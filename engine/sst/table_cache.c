/*
 * table_cache.c - open readers, found by file number.
 *
 *   get() --> OPENING (by one thread, without the lock; others wait) --> OPEN --evicted or erased--> closed
 *
 * Invariants
 *   T1  A file number has at most one entry in the table.
 *   T2  An entry is in the LRU list exactly when it is in the table, open, and nobody has it pinned.
 *   T3  An erased entry is no longer in the table and is closed when its last pin goes.
 *
 * Locking: mu.lock guards everything in `mu` and the entries. A leaf; no I/O is done while holding it.
 */
#include "engine/sst/table_cache.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/sst/sst_impl.h"

#define PATH_BYTES_MAX 4096

typedef struct entry {
    struct entry *hash_next;
    struct entry *older; /* LRU list */
    struct entry *newer;
    uint64_t file_number;
    vv_sst_reader *reader; /* NULL while it is being opened */
    uint32_t pins;
    bool erased;
} entry;

struct vv_table_cache {
    vv_io_backend *backend;
    char *dir;
    uint32_t capacity;
    uint64_t memory_bytes_max;
    uint32_t bucket_count; /* a power of two */
    struct {
        vv_mutex lock;
        vv_cond opened; /* an opening has ended, well or not */
        entry **buckets;
        entry lru; /* its `newer` is the oldest unpinned entry */
        uint64_t open_count;
        uint64_t memory_bytes;
    } mu;
};

/* ---- under the lock ---- */

static entry **bucket_of(vv_table_cache *c, uint64_t file_number) {
    uint64_t hash = file_number * UINT64_C(0x9E3779B97F4A7C15);
    return &c->mu.buckets[(hash >> 32) & (c->bucket_count - 1)];
}

static entry *find(vv_table_cache *c, uint64_t file_number) {
    entry *e = *bucket_of(c, file_number);
    while (e && e->file_number != file_number)
        e = e->hash_next;
    return e;
}

static void table_add(vv_table_cache *c, entry *e) {
    entry **bucket = bucket_of(c, e->file_number);
    e->hash_next = *bucket;
    *bucket = e;
}

static void table_remove(vv_table_cache *c, entry *e) {
    entry **at = bucket_of(c, e->file_number);
    while (*at != e)
        at = &(*at)->hash_next;
    *at = e->hash_next;
}

static void lru_remove(entry *e) {
    e->older->newer = e->newer;
    e->newer->older = e->older;
    e->older = e->newer = NULL;
}

static void lru_add_newest(vv_table_cache *c, entry *e) {
    entry *head = &c->mu.lru;
    e->newer = head;
    e->older = head->older;
    head->older->newer = e;
    head->older = e;
}

static void pin(entry *e) {
    if (e->pins++ == 0 && e->older)
        lru_remove(e);
}

/* An open, unpinned entry that is in no list any more: chain it for close_chain(). */
static void retire(vv_table_cache *c, entry *e, entry **closing) {
    c->mu.open_count--;
    c->mu.memory_bytes -= vv_sst_reader_memory_bytes(e->reader);
    e->hash_next = *closing;
    *closing = e;
}

static void evict_surplus(vv_table_cache *c, entry **closing) {
    while ((c->mu.open_count > c->capacity || c->mu.memory_bytes > c->memory_bytes_max) &&
           c->mu.lru.newer != &c->mu.lru) {
        entry *oldest = c->mu.lru.newer;
        lru_remove(oldest);
        table_remove(c, oldest);
        retire(c, oldest, closing);
    }
}

/* ---- without it ---- */

static void close_chain(entry *e) {
    while (e) {
        entry *next = e->hash_next;
        vv_sst_reader_close(e->reader);
        vv_free(e);
        e = next;
    }
}

vv_status vv_table_cache_create(vv_io_backend *b, const char *dir, uint32_t capacity,
                                uint64_t memory_bytes_max, vv_table_cache **out) {
    *out = NULL;
    vv_table_cache *c = vv_alloc_zeroed(sizeof *c);
    if (!c)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    c->backend = b;
    c->capacity = capacity;
    c->memory_bytes_max = memory_bytes_max;
    c->bucket_count = 16;
    while (c->bucket_count < capacity && c->bucket_count < (UINT32_C(1) << 20))
        c->bucket_count *= 2;
    c->dir = vv_strdup(dir);
    c->mu.buckets = vv_alloc_zeroed(c->bucket_count * sizeof(entry *));
    if (!c->dir || !c->mu.buckets) {
        vv_free(c->mu.buckets);
        vv_free(c->dir);
        vv_free(c);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    vv_mutex_init(&c->mu.lock);
    vv_cond_init(&c->mu.opened);
    c->mu.lru.newer = c->mu.lru.older = &c->mu.lru;
    *out = c;
    return VV_STATUS_OK;
}

void vv_table_cache_destroy(vv_table_cache *c) {
    if (!c)
        return;
    entry *closing = NULL;
    c->capacity = 0;
    evict_surplus(c, &closing);
    VV_ASSERT(c->mu.open_count == 0); /* else a reader is still pinned */
    close_chain(closing);
    vv_cond_deinit(&c->mu.opened);
    vv_mutex_deinit(&c->mu.lock);
    vv_free(c->mu.buckets);
    vv_free(c->dir);
    vv_free(c);
}

void vv_table_cache_path(const char *dir, uint64_t file_number, char *buf, size_t buf_bytes) {
    snprintf(buf, buf_bytes, "%s/%016" PRIx64 ".sst", dir, file_number);
}

vv_sst_reader *vv_table_cache_peek(vv_table_cache *c, uint64_t file_number) {
    vv_mutex_lock(&c->mu.lock);
    entry *e = find(c, file_number);
    vv_sst_reader *r = e ? e->reader : NULL;
    if (r)
        pin(e);
    vv_mutex_unlock(&c->mu.lock);
    return r;
}

/* Open the table of a new entry, which is pinned for this, and settle what became of it. */
static vv_status open_entry(vv_table_cache *c, entry *e, vv_error *err) {
    char path[PATH_BYTES_MAX];
    vv_table_cache_path(c->dir, e->file_number, path, sizeof path);
    vv_sst_reader *reader;
    vv_status st = vv_sst_reader_open(c->backend, path, e->file_number, &reader, err);

    entry *closing = NULL;
    vv_mutex_lock(&c->mu.lock);
    if (vv_ok(st)) {
        reader->cache_entry = e;
        e->reader = reader;
        c->mu.open_count++;
        c->mu.memory_bytes += vv_sst_reader_memory_bytes(reader);
        evict_surplus(c, &closing);
    } else if (!e->erased) {
        table_remove(c, e);
    }
    vv_cond_broadcast(&c->mu.opened);
    vv_mutex_unlock(&c->mu.lock);
    close_chain(closing);
    if (!vv_ok(st))
        vv_free(e);
    return st;
}

vv_status vv_table_cache_get(vv_table_cache *c, uint64_t file_number, vv_sst_reader **out, vv_error *err) {
    *out = NULL;
    vv_mutex_lock(&c->mu.lock);
    entry *e;
    while ((e = find(c, file_number)) != NULL) {
        if (e->reader) {
            pin(e);
            *out = e->reader;
            vv_mutex_unlock(&c->mu.lock);
            return VV_STATUS_OK;
        }
        /* If that opening fails, its entry is gone, and this thread tries for itself. */
        vv_cond_wait(&c->mu.opened, &c->mu.lock);
    }
    e = vv_alloc_zeroed(sizeof *e);
    if (e) {
        e->file_number = file_number;
        e->pins = 1;
        table_add(c, e);
    }
    vv_mutex_unlock(&c->mu.lock);
    if (!e)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "no memory for a table reader");
    VV_TRY(open_entry(c, e, err));
    *out = e->reader; /* pinned by this thread: nobody changes it */
    return VV_STATUS_OK;
}

void vv_table_cache_release(vv_table_cache *c, vv_sst_reader *r) {
    entry *e = r->cache_entry;
    entry *closing = NULL;
    vv_mutex_lock(&c->mu.lock);
    VV_ASSERT(e->pins > 0);
    if (--e->pins == 0) {
        if (e->erased) {
            retire(c, e, &closing);
        } else {
            lru_add_newest(c, e);
            evict_surplus(c, &closing);
        }
    }
    vv_mutex_unlock(&c->mu.lock);
    close_chain(closing);
}

void vv_table_cache_erase(vv_table_cache *c, uint64_t file_number) {
    entry *closing = NULL;
    vv_mutex_lock(&c->mu.lock);
    entry *e = find(c, file_number);
    if (e) {
        table_remove(c, e);
        e->erased = true;
        if (e->pins == 0) {
            lru_remove(e);
            retire(c, e, &closing);
        }
    }
    vv_mutex_unlock(&c->mu.lock);
    close_chain(closing);
}

uint64_t vv_table_cache_open_count(vv_table_cache *c) {
    vv_mutex_lock(&c->mu.lock);
    uint64_t count = c->mu.open_count;
    vv_mutex_unlock(&c->mu.lock);
    return count;
}

uint64_t vv_table_cache_memory_bytes(vv_table_cache *c) {
    vv_mutex_lock(&c->mu.lock);
    uint64_t bytes = c->mu.memory_bytes;
    vv_mutex_unlock(&c->mu.lock);
    return bytes;
}
