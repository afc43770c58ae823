/*
 * table_cache.c - open readers, found by file number.
 *
 *   get() --> OPENING (by one thread, without the lock; others wait) --> OPEN --evicted or erased--> closed
 *
 * Invariants
 *   T1  A file number has at most one entry in the table.
 *   T2  An open entry is in the list of open ones exactly when it is in the table, else among the leaving
 * ones. T3  An erased entry is no longer in the table and is closed when its last pin goes. T4  A pin is
 * counted in one stripe of its entry, and taken back from the same: no stripe ever counts less than the pins
 * that were taken there and are still held.
 *
 * A peek takes no lock. It walks a bucket's chain to the entry, counts itself in the stripe of its core, and
 * then looks whether the entry has a reader that may be pinned, and whether it is that of the file:
 *   - Entries are never freed while the cache lives: they lie idle until they are taken for another table. So
 * the walk, which is bounded, always meets entries, and at worst finds nothing; then it is repeated under the
 * lock.
 *   - seq_cst: who closes a reader takes the pointer away first and then looks at the stripes, one by one;
 * who pins counts first and then looks at the pointer. Either the pin is seen, and the reader stays; or the
 * pointer is gone, and the count is taken back. Once the pointer is gone no pin is added, and by T4 none
 * moves from one stripe to another between two looks: so if each look finds 0, nobody uses the reader.
 *   - A reader that was there after the count is there until the pin goes, whatever table the entry was taken
 *     for meanwhile: its own file number says which.
 *   - release by who unpins, acquire by who closes: all use of a reader comes before its end.
 *
 * `nudge` says that something waits to be closed until its pins go. Who releases looks at it after having
 * counted down, who sets it looks at the stripes again afterwards (seq_cst): one sees the other.
 *
 * Least recently used is told roughly: who uses an entry marks it, and a marked one that is to be closed
 * loses its mark and has another round instead (F. J. Corbato's clock). So a use writes to the entry once a
 * round.
 *
 * Locking: mu.lock guards everything in `mu` and the entries, but for their atomics. A leaf; no I/O is done
 * while holding it.
 */
#include "engine/sst/table_cache.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "engine/sst/sst_impl.h"

#define PATH_BYTES_MAX 4096
#define WALK_MAX       32 /* entries that a peek passes before it takes the lock */
#define STRIPES_MAX    16 /* of cores; a power of two */

typedef struct entry {
    /* Two cache lines: processors fetch them in pairs. */
    _Alignas(2 * VV_CACHE_LINE_BYTES) _Atomic(struct entry *) hash_next;
    _Atomic uint64_t file_number;
    _Atomic(vv_sst_reader *) reader; /* NULL: not to be pinned without the lock */
    _Atomic bool used;               /* since its last turn to be closed */
    /* The lock guards the rest. */
    vv_sst_reader *opened; /* NULL while it is being opened */
    bool erased;
    struct entry *older; /* in the list of open or of leaving ones */
    struct entry *newer; /* or the next idle one */
    struct {
        _Alignas(2 * VV_CACHE_LINE_BYTES) _Atomic uint32_t pins;
    } stripes[]; /* the first one is everybody's, under the lock */
} entry;

/* Both ends of a list: the oldest and the newest. */
typedef struct list {
    entry *oldest;
    entry *newest;
    uint64_t count;
} list;

struct vv_table_cache {
    vv_io_backend *backend;
    char *dir;
    uint32_t capacity;
    uint64_t memory_bytes_max;
    uint32_t bucket_count; /* a power of two */
    uint32_t core_stripes; /* a power of two */
    _Atomic(entry *) *buckets;
    _Atomic bool nudge;
    VV_CACHE_ALIGNED struct {
        vv_mutex lock;
        vv_cond opened; /* an opening has ended, well or not */
        list open;
        list leaving; /* erased, still pinned */
        entry *idle;
        uint64_t open_count;
        uint64_t memory_bytes;
    } mu;
};

/* ---- under the lock ---- */

static _Atomic(entry *) *bucket_of(vv_table_cache *c, uint64_t file_number) {
    uint64_t hash = file_number * UINT64_C(0x9E3779B97F4A7C15);
    return &c->buckets[(hash >> 32) & (c->bucket_count - 1)];
}

static entry *next_of(entry *e) {
    /* acquire, as for the buckets: an entry that is met is initialised. */
    return atomic_load_explicit(&e->hash_next, memory_order_acquire);
}

static uint64_t number_of(entry *e) {
    return atomic_load_explicit(&e->file_number, memory_order_relaxed);
}

static entry *find(vv_table_cache *c, uint64_t file_number) {
    entry *e = atomic_load_explicit(bucket_of(c, file_number), memory_order_relaxed);
    while (e && number_of(e) != file_number)
        e = next_of(e);
    return e;
}

static void table_add(vv_table_cache *c, entry *e) {
    _Atomic(entry *) *bucket = bucket_of(c, number_of(e));
    atomic_store_explicit(&e->hash_next, atomic_load_explicit(bucket, memory_order_relaxed),
                          memory_order_release);
    atomic_store_explicit(bucket, e, memory_order_release);
}

static void table_remove(vv_table_cache *c, entry *e) {
    _Atomic(entry *) *at = bucket_of(c, number_of(e));
    for (entry *other; (other = atomic_load_explicit(at, memory_order_relaxed)) != e;)
        at = &other->hash_next;
    atomic_store_explicit(at, next_of(e), memory_order_release);
}

static void list_add_newest(list *l, entry *e) {
    e->newer = NULL;
    e->older = l->newest;
    *(l->newest ? &l->newest->newer : &l->oldest) = e;
    l->newest = e;
    l->count++;
}

static void list_remove(list *l, entry *e) {
    *(e->older ? &e->older->newer : &l->oldest) = e->newer;
    *(e->newer ? &e->newer->older : &l->newest) = e->older;
    l->count--;
}

static void pin(entry *e, vv_table_pin pin) {
    atomic_fetch_add_explicit(&e->stripes[pin].pins, 1, memory_order_seq_cst);
}

static void unpin(entry *e, vv_table_pin pin) {
    uint32_t pins = atomic_fetch_sub_explicit(&e->stripes[pin].pins, 1, memory_order_seq_cst);
    VV_ASSERT(pins > 0);
}

static void mark_used(entry *e) {
    if (!atomic_load_explicit(&e->used, memory_order_relaxed))
        atomic_store_explicit(&e->used, true, memory_order_relaxed);
}

static bool is_pinned(const vv_table_cache *c, entry *e) {
    for (uint32_t i = 0; i <= c->core_stripes; i++)
        if (atomic_load_explicit(&e->stripes[i].pins, memory_order_seq_cst) > 0)
            return true;
    return false;
}

static void make_idle(vv_table_cache *c, entry *e) {
    e->newer = c->mu.idle;
    c->mu.idle = e;
}

/* An entry that is in no list any more, and nobody has pinned: chain its reader for close_chain(). */
static void retire(vv_table_cache *c, entry *e, vv_sst_reader **closing) {
    c->mu.open_count--;
    c->mu.memory_bytes -= vv_sst_reader_memory_bytes(e->opened);
    e->opened->cache_entry = *closing;
    *closing = e->opened;
    e->opened = NULL;
    make_idle(c, e);
}

/* Close an open entry, unless it is pinned. */
static bool close_entry(vv_table_cache *c, entry *e, vv_sst_reader **closing) {
    if (is_pinned(c, e))
        return false;
    atomic_store_explicit(&e->reader, NULL, memory_order_seq_cst);
    if (is_pinned(c, e)) {
        atomic_store_explicit(&e->reader, e->opened, memory_order_seq_cst);
        return false;
    }
    list_remove(&c->mu.open, e);
    table_remove(c, e);
    retire(c, e, closing);
    return true;
}

static bool has_surplus(const vv_table_cache *c) {
    return c->mu.open_count > c->capacity || c->mu.memory_bytes > c->memory_bytes_max;
}

/* In the first of two rounds, what was used stays. */
static void evict_surplus(vv_table_cache *c, vv_sst_reader **closing) {
    uint64_t count = c->mu.open.count;
    for (uint64_t turn = 0; has_surplus(c) && c->mu.open.oldest && turn < 2 * count; turn++) {
        entry *e = c->mu.open.oldest;
        bool stays = turn < count && atomic_load_explicit(&e->used, memory_order_relaxed);
        if (!stays && close_entry(c, e, closing))
            continue;
        if (stays)
            atomic_store_explicit(&e->used, false, memory_order_relaxed);
        list_remove(&c->mu.open, e);
        list_add_newest(&c->mu.open, e);
    }
}

static void close_leaving(vv_table_cache *c, vv_sst_reader **closing) {
    for (entry *e = c->mu.leaving.oldest, *next; e; e = next) {
        next = e->newer;
        if (is_pinned(c, e))
            continue;
        list_remove(&c->mu.leaving, e);
        retire(c, e, closing);
    }
}

static bool close_more(vv_table_cache *c, vv_sst_reader **closing) {
    close_leaving(c, closing);
    evict_surplus(c, closing);
    return has_surplus(c) || c->mu.leaving.count > 0;
}

/* Close what is too much or erased; what is pinned, whoever releases it shall. */
static void settle(vv_table_cache *c, vv_sst_reader **closing) {
    bool more = close_more(c, closing);
    bool nudge = atomic_load_explicit(&c->nudge, memory_order_relaxed);
    if (more && !nudge) {
        atomic_store_explicit(&c->nudge, true, memory_order_seq_cst);
        more = close_more(c, closing); /* what was released by those who did not see it */
        nudge = true;
    }
    if (nudge && !more)
        atomic_store_explicit(&c->nudge, false, memory_order_relaxed);
}

/* ---- without it ---- */

static void close_chain(vv_sst_reader *r) {
    while (r) {
        vv_sst_reader *next = r->cache_entry;
        vv_sst_reader_close(r);
        r = next;
    }
}

/* So many stripes as there are cores, as far as it makes sense. */
static uint32_t core_stripes(void) {
    long cores = sysconf(_SC_NPROCESSORS_CONF);
    uint32_t count = 1;
    while (count < STRIPES_MAX && (long)count < cores)
        count *= 2;
    return count;
}

vv_status vv_table_cache_create(vv_io_backend *b, const char *dir, uint32_t capacity,
                                uint64_t memory_bytes_max, vv_table_cache **out) {
    *out = NULL;
    vv_table_cache *c = vv_alloc_aligned(_Alignof(vv_table_cache), sizeof *c);
    if (!c)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memset(c, 0, sizeof *c);
    c->backend = b;
    c->capacity = capacity;
    c->memory_bytes_max = memory_bytes_max;
    c->core_stripes = core_stripes();
    c->bucket_count = 16;
    while (c->bucket_count < capacity && c->bucket_count < (UINT32_C(1) << 20))
        c->bucket_count *= 2;
    c->dir = vv_strdup(dir);
    c->buckets = vv_alloc_zeroed(c->bucket_count * sizeof *c->buckets);
    if (!c->dir || !c->buckets) {
        vv_free(c->buckets);
        vv_free(c->dir);
        vv_free(c);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    vv_mutex_init(&c->mu.lock);
    vv_cond_init(&c->mu.opened);
    *out = c;
    return VV_STATUS_OK;
}

void vv_table_cache_destroy(vv_table_cache *c) {
    if (!c)
        return;
    vv_sst_reader *closing = NULL;
    c->capacity = 0;
    settle(c, &closing);
    VV_ASSERT(c->mu.open_count == 0); /* else a reader is still pinned */
    close_chain(closing);
    for (entry *e = c->mu.idle, *next; e; e = next) {
        next = e->newer;
        vv_free(e);
    }
    vv_cond_deinit(&c->mu.opened);
    vv_mutex_deinit(&c->mu.lock);
    vv_free(c->buckets);
    vv_free(c->dir);
    vv_free(c);
}

void vv_table_cache_path(const char *dir, uint64_t file_number, char *buf, size_t buf_bytes) {
    snprintf(buf, buf_bytes, "%s/%016" PRIx64 ".sst", dir, file_number);
}

/* Afterwards the caller no longer knows whose the entry is. */
static void release(vv_table_cache *c, entry *e, vv_table_pin pin) {
    unpin(e, pin);
    if (VV_LIKELY(!atomic_load_explicit(&c->nudge, memory_order_seq_cst)))
        return;
    vv_sst_reader *closing = NULL;
    vv_mutex_lock(&c->mu.lock);
    settle(c, &closing);
    vv_mutex_unlock(&c->mu.lock);
    close_chain(closing);
}

/* NULL: not open, or it takes the lock to know. */
static vv_sst_reader *peek_unlocked(vv_table_cache *c, uint64_t file_number, vv_table_pin at) {
    entry *e = atomic_load_explicit(bucket_of(c, file_number), memory_order_acquire);
    for (int n = 0; e && number_of(e) != file_number; e = next_of(e))
        if (++n == WALK_MAX)
            return NULL;
    if (!e)
        return NULL;
    pin(e, at);
    vv_sst_reader *r = atomic_load_explicit(&e->reader, memory_order_seq_cst);
    if (VV_LIKELY(r && r->file_number == file_number)) {
        mark_used(e);
        return r;
    }
    release(c, e, at);
    return NULL;
}

vv_sst_reader *vv_table_cache_peek(vv_table_cache *c, uint64_t file_number, vv_table_pin *pin_out) {
    *pin_out = 1 + ((unsigned)sched_getcpu() & (c->core_stripes - 1));
    vv_sst_reader *r = peek_unlocked(c, file_number, *pin_out);
    if (r)
        return r;
    vv_mutex_lock(&c->mu.lock);
    entry *e = find(c, file_number);
    if (e && e->opened) {
        pin(e, *pin_out);
        mark_used(e);
        r = e->opened;
    }
    vv_mutex_unlock(&c->mu.lock);
    return r;
}

/* An entry for a table that is going to be opened, pinned. Under the lock; NULL: no memory. */
static entry *add_entry(vv_table_cache *c, uint64_t file_number) {
    entry *e = c->mu.idle;
    if (e) {
        c->mu.idle = e->newer;
    } else {
        size_t bytes = sizeof *e + (1 + c->core_stripes) * sizeof e->stripes[0];
        e = vv_alloc_aligned(_Alignof(entry), bytes);
        if (!e)
            return NULL;
        memset(e, 0, bytes);
    }
    e->erased = false;
    atomic_store_explicit(&e->used, false, memory_order_relaxed);
    atomic_store_explicit(&e->file_number, file_number, memory_order_relaxed);
    pin(e, VV_TABLE_PIN_SHARED);
    table_add(c, e);
    return e;
}

/* Settle what became of an entry whose table was opened: reader NULL, it can't be. */
static void opened(vv_table_cache *c, entry *e, vv_sst_reader *reader) {
    vv_sst_reader *closing = NULL;
    vv_mutex_lock(&c->mu.lock);
    if (reader) {
        reader->cache_entry = e;
        e->opened = reader;
        c->mu.open_count++;
        c->mu.memory_bytes += vv_sst_reader_memory_bytes(reader);
        list_add_newest(e->erased ? &c->mu.leaving : &c->mu.open, e);
        if (!e->erased) /* seq_cst: also publishes the reader to who pins it without the lock */
            atomic_store_explicit(&e->reader, reader, memory_order_seq_cst);
        settle(c, &closing);
    } else {
        if (!e->erased)
            table_remove(c, e);
        unpin(e, VV_TABLE_PIN_SHARED);
        make_idle(c, e);
    }
    vv_cond_broadcast(&c->mu.opened);
    vv_mutex_unlock(&c->mu.lock);
    close_chain(closing);
}

static vv_status open_entry(vv_table_cache *c, entry *e, vv_sst_reader **out, vv_error *err) {
    char path[PATH_BYTES_MAX];
    uint64_t file_number = number_of(e);
    vv_table_cache_path(c->dir, file_number, path, sizeof path);
    vv_status st = vv_sst_reader_open(c->backend, path, file_number, out, err);
    opened(c, e, *out);
    return st;
}

vv_status vv_table_cache_get(vv_table_cache *c, uint64_t file_number, vv_sst_reader **out, vv_error *err) {
    *out = NULL;
    vv_mutex_lock(&c->mu.lock);
    entry *e;
    while ((e = find(c, file_number)) != NULL) {
        if (e->opened) {
            pin(e, VV_TABLE_PIN_SHARED);
            mark_used(e);
            *out = e->opened;
            vv_mutex_unlock(&c->mu.lock);
            return VV_STATUS_OK;
        }
        /* If that opening fails, its entry is gone, and this thread tries for itself. */
        vv_cond_wait(&c->mu.opened, &c->mu.lock);
    }
    e = add_entry(c, file_number);
    vv_mutex_unlock(&c->mu.lock);
    if (!e)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "no memory for a table reader");
    return open_entry(c, e, out, err);
}

void vv_table_cache_release(vv_table_cache *c, vv_sst_reader *r, vv_table_pin pin) {
    release(c, r->cache_entry, pin);
}

void vv_table_cache_erase(vv_table_cache *c, uint64_t file_number) {
    vv_sst_reader *closing = NULL;
    vv_mutex_lock(&c->mu.lock);
    entry *e = find(c, file_number);
    if (e) {
        table_remove(c, e);
        e->erased = true;
        if (e->opened) {
            atomic_store_explicit(&e->reader, NULL, memory_order_seq_cst);
            list_remove(&c->mu.open, e);
            list_add_newest(&c->mu.leaving, e);
        }
        settle(c, &closing);
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
