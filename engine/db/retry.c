#include "engine/db/retry.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/codec.h"

#define WINDOW_MIN        8
#define IMAGE_HEAD_BYTES  4
#define CLIENT_HEAD_BYTES 12
#define ENTRY_BYTES       16

typedef struct entry {
    uint64_t sequence;
    uint64_t lsn;
} entry;

struct vv_retry_client {
    vv_retry_client *chain; /* of its bucket */
    vv_retry_client *older; /* by their last write */
    vv_retry_client *newer;
    uint64_t id;
    entry *window;     /* a ring, ascending by sequence */
    uint32_t capacity; /* a power of two, at most VV_RETRY_WINDOW */
    uint32_t head;     /* index of the lowest */
    uint32_t count;    /* never falls: once the window is full, what is below it was dropped or too late */
};

struct vv_retry_image {
    _Atomic uint32_t refs;
    _Atomic uint64_t *memory_bytes; /* the table's */
    size_t bytes;
    uint8_t data[];
};

_Static_assert((VV_RETRY_WINDOW & (VV_RETRY_WINDOW - 1)) == 0, "rings wrap by a mask");

static vv_status no_memory(void) {
    return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
}

static void count_memory(_Atomic uint64_t *memory_bytes, void *gone, void *fresh) {
    uint64_t more = fresh ? vv_alloc_usable_bytes(fresh) : 0;
    uint64_t less = gone ? vv_alloc_usable_bytes(gone) : 0;
    atomic_fetch_add_explicit(memory_bytes, more - less, memory_order_relaxed);
}

/* ---- one client's window ---- */

static entry *entry_at(const vv_retry_client *c, uint32_t index) {
    return &c->window[(c->head + index) & (c->capacity - 1)];
}

/* The index of the first entry at or above the sequence. */
static uint32_t lower_bound(const vv_retry_client *c, uint64_t sequence) {
    if (c->count == 0 || entry_at(c, c->count - 1)->sequence < sequence)
        return c->count; /* as nearly always */
    uint32_t low = 0, high = c->count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (entry_at(c, middle)->sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static vv_retry_verdict find_entry(const vv_retry_client *c, uint64_t sequence, uint32_t *at_out,
                                   uint64_t *lsn_out) {
    uint32_t at = lower_bound(c, sequence);
    *at_out = at;
    if (at < c->count && entry_at(c, at)->sequence == sequence) {
        *lsn_out = entry_at(c, at)->lsn;
        return VV_RETRY_DONE;
    }
    return at == 0 && c->count == VV_RETRY_WINDOW ? VV_RETRY_TOO_OLD : VV_RETRY_NEW;
}

static void insert(vv_retry_client *c, uint32_t at, entry e) {
    if (c->count == VV_RETRY_WINDOW) {
        VV_ASSERT(at > 0);
        c->head++; /* the lowest goes */
        c->count--;
        at--;
    }
    VV_ASSERT(c->count < c->capacity);
    for (uint32_t i = c->count; i > at; i--)
        *entry_at(c, i) = *entry_at(c, i - 1);
    *entry_at(c, at) = e;
    c->count++;
}

static vv_status grow(vv_retry_table *t, vv_retry_client *c) {
    if (c->count < c->capacity || c->capacity == VV_RETRY_WINDOW)
        return VV_STATUS_OK;
    uint32_t capacity = c->capacity ? c->capacity * 2 : WINDOW_MIN;
    entry *window = vv_alloc(capacity * sizeof *window);
    if (!window)
        return no_memory();
    for (uint32_t i = 0; i < c->count; i++)
        window[i] = *entry_at(c, i);
    count_memory(&t->memory_bytes, c->window, window);
    vv_free(c->window);
    c->window = window;
    c->capacity = capacity;
    c->head = 0;
    return VV_STATUS_OK;
}

/* ---- the clients ---- */

static size_t bucket_of(uint64_t id) {
    return id * UINT64_C(0x9E3779B97F4A7C15) >> 54;
}

_Static_assert(VV_RETRY_BUCKETS == 1 << (64 - 54), "bucket_of() fits");

static vv_retry_client *find_client(const vv_retry_table *t, uint64_t id) {
    vv_retry_client *c = t->buckets[bucket_of(id)];
    while (c && c->id != id)
        c = c->chain;
    return c;
}

static void unlink_age(vv_retry_table *t, vv_retry_client *c) {
    *(c->older ? &c->older->newer : &t->oldest) = c->newer;
    *(c->newer ? &c->newer->older : &t->newest) = c->older;
}

static void link_newest(vv_retry_table *t, vv_retry_client *c) {
    c->older = t->newest;
    c->newer = NULL;
    *(c->older ? &c->older->newer : &t->oldest) = c;
    t->newest = c;
}

static void destroy_client(vv_retry_table *t, vv_retry_client *c) {
    if (!c)
        return;
    count_memory(&t->memory_bytes, c->window, NULL);
    count_memory(&t->memory_bytes, c, NULL);
    vv_free(c->window);
    vv_free(c);
}

static void forget_oldest(vv_retry_table *t) {
    vv_retry_client *c = t->oldest;
    vv_retry_client **at = &t->buckets[bucket_of(c->id)];
    while (*at != c)
        at = &(*at)->chain;
    *at = c->chain;
    unlink_age(t, c);
    t->client_count--;
    destroy_client(t, c);
}

static vv_retry_client *add_client(vv_retry_table *t, uint64_t id) {
    vv_retry_client *c = t->spare;
    VV_ASSERT(c);
    t->spare = NULL;
    if (t->client_count == VV_RETRY_CLIENTS)
        forget_oldest(t);
    c->id = id;
    vv_retry_client **at = &t->buckets[bucket_of(id)];
    c->chain = *at;
    *at = c;
    link_newest(t, c);
    t->client_count++;
    return c;
}

/* ---- the table ---- */

void vv_retry_init(vv_retry_table *t) {
    memset(t, 0, sizeof *t);
}

void vv_retry_deinit(vv_retry_table *t) {
    while (t->oldest)
        forget_oldest(t);
    destroy_client(t, t->spare);
    t->spare = NULL;
    vv_retry_image_unref(t->image);
    t->image = NULL;
}

vv_retry_verdict vv_retry_find(const vv_retry_table *t, uint64_t client_id, uint64_t sequence,
                               uint64_t *lsn_out) {
    uint32_t at;
    const vv_retry_client *c = find_client(t, client_id);
    return c ? find_entry(c, sequence, &at, lsn_out) : VV_RETRY_NEW;
}

vv_status vv_retry_reserve(vv_retry_table *t, uint64_t client_id) {
    vv_retry_client *c = find_client(t, client_id);
    if (c)
        return grow(t, c);
    if (!t->spare) {
        t->spare = vv_alloc_zeroed(sizeof *t->spare);
        if (!t->spare)
            return no_memory();
        count_memory(&t->memory_bytes, NULL, t->spare);
    }
    return grow(t, t->spare);
}

void vv_retry_add(vv_retry_table *t, uint64_t client_id, uint64_t sequence, uint64_t lsn) {
    uint32_t at = 0;
    uint64_t first_lsn;
    vv_retry_client *c = find_client(t, client_id);
    if (!c) {
        c = add_client(t, client_id);
    } else {
        if (find_entry(c, sequence, &at, &first_lsn) != VV_RETRY_NEW)
            return;
        unlink_age(t, c);
        link_newest(t, c);
    }
    insert(c, at, (entry){.sequence = sequence, .lsn = lsn});
    vv_retry_image_unref(t->image);
    t->image = NULL;
}

/* ---- images ---- */

static uint8_t *encode_client(uint8_t *at, const vv_retry_client *c) {
    vv_put_be64(at, c->id);
    vv_put_be32(at + 8, c->count);
    at += CLIENT_HEAD_BYTES;
    for (uint32_t i = 0; i < c->count; i++, at += ENTRY_BYTES) {
        vv_put_be64(at, entry_at(c, i)->sequence);
        vv_put_be64(at + 8, entry_at(c, i)->lsn);
    }
    return at;
}

static vv_status make_image(vv_retry_table *t) {
    size_t bytes = IMAGE_HEAD_BYTES;
    for (const vv_retry_client *c = t->oldest; c; c = c->newer)
        bytes += CLIENT_HEAD_BYTES + (size_t)c->count * ENTRY_BYTES;
    vv_retry_image *image = vv_alloc(sizeof *image + bytes);
    if (!image)
        return no_memory();
    atomic_init(&image->refs, 1);
    image->memory_bytes = &t->memory_bytes;
    image->bytes = bytes;
    vv_put_be32(image->data, t->client_count);
    uint8_t *at = image->data + IMAGE_HEAD_BYTES;
    for (const vv_retry_client *c = t->oldest; c; c = c->newer)
        at = encode_client(at, c);
    VV_ASSERT(at == image->data + bytes);
    count_memory(&t->memory_bytes, NULL, image);
    t->image = image;
    return VV_STATUS_OK;
}

vv_status vv_retry_image_take(vv_retry_table *t, vv_retry_image **out) {
    *out = NULL;
    if (t->client_count == 0)
        return VV_STATUS_OK;
    if (!t->image)
        VV_TRY(make_image(t));
    vv_retry_image_ref(t->image);
    *out = t->image;
    return VV_STATUS_OK;
}

vv_slice vv_retry_image_bytes(const vv_retry_image *image) {
    return image ? vv_slice_make(image->data, image->bytes) : vv_slice_make(NULL, 0);
}

void vv_retry_image_ref(vv_retry_image *image) {
    if (image)
        atomic_fetch_add_explicit(&image->refs, 1, memory_order_relaxed);
}

void vv_retry_image_unref(vv_retry_image *image) {
    /* acq_rel: whoever frees it sees what the other holders have done with it. */
    if (!image || atomic_fetch_sub_explicit(&image->refs, 1, memory_order_acq_rel) > 1)
        return;
    count_memory(image->memory_bytes, image, NULL);
    vv_free(image);
}

static vv_status bad_layout(void) {
    return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
}

static vv_status load_client(vv_retry_table *t, vv_reader *r, uint64_t lsn_max) {
    uint64_t id = vv_read_be64(r);
    uint32_t count = vv_read_be32(r);
    if (r->bad || id == 0 || count == 0 || count > VV_RETRY_WINDOW || count > r->left_bytes / ENTRY_BYTES ||
        find_client(t, id))
        return bad_layout();
    uint64_t before = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t sequence = vv_read_be64(r);
        uint64_t lsn = vv_read_be64(r);
        if (sequence <= before || lsn == 0 || lsn > lsn_max)
            return bad_layout();
        VV_TRY(vv_retry_reserve(t, id));
        vv_retry_add(t, id, sequence, lsn);
        before = sequence;
    }
    return VV_STATUS_OK;
}

vv_status vv_retry_load(vv_retry_table *t, vv_slice bytes, uint64_t lsn_max) {
    VV_ASSERT(t->client_count == 0);
    if (bytes.bytes == 0)
        return VV_STATUS_OK;
    vv_reader r = vv_reader_make(bytes);
    uint32_t count = vv_read_be32(&r);
    if (r.bad || count == 0 || count > VV_RETRY_CLIENTS)
        return bad_layout();
    for (uint32_t i = 0; i < count; i++)
        VV_TRY(load_client(t, &r, lsn_max));
    return r.left_bytes == 0 ? VV_STATUS_OK : bad_layout();
}
