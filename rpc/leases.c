/*
 * leases.c - a hash table of leases, and a timer that sweeps it.
 *
 *     listed --time is over, released, pushed out--> unlisted --last reader--> snapshot released, freed
 *
 * Whether a lease is over is decided by its time, whenever somebody asks for it; the sweep, which comes twice
 * a second while there are leases, gives back the snapshots of those that nobody asks for.
 *
 * Locking: l->mu.lock guards everything. The database is called without it.
 */
#include "rpc/leases.h"

#include <errno.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"

#define BUCKETS   4096 /* a power of two */
#define SWEEP_NS  (VV_NS_PER_S / 2)
#define US_PER_MS 1000

/* A user that has leases. */
typedef struct owner {
    struct owner *next;
    const struct vv_user *user;
    uint64_t count;
} owner;

struct vv_lease {
    vv_lease *next; /* in its bucket; or among those to be freed */
    uint64_t id;
    varve_snapshot *snapshot; /* or: */
    vv_leased *files;
    owner *owner; /* while listed */
    vv_lease_kind kind;
    bool listed;
    bool returned_to;        /* pages: a token was used */
    uint64_t readers;        /* but for snapshots, a listed lease does not end while there are any */
    uint64_t expires_ns;     /* vv_clock_mono_ns() */
    uint64_t us;             /* how long, from each beginning */
    vv_lease *older, *newer; /* pages without readers, in the order in which they will end */
};

struct vv_leases {
    vv_leases_options options;
    vv_timer timer;
    struct {
        vv_mutex lock;
        uint64_t count;
        bool sweeping; /* the timer is set, or running */
        bool closing;
        owner *owners;
        vv_lease *oldest, *newest; /* of the pages without readers */
        vv_lease *buckets[BUCKETS];
    } mu;
};

/* ---- one lease, the lock held ---- */

static vv_lease **bucket_of(vv_leases *l, uint64_t id) {
    return &l->mu.buckets[id & (BUCKETS - 1)];
}

static void queue_idle(vv_leases *l, vv_lease *lease) {
    lease->newer = NULL;
    lease->older = l->mu.newest;
    *(lease->older ? &lease->older->newer : &l->mu.oldest) = lease;
    l->mu.newest = lease;
}

static void unqueue_idle(vv_leases *l, vv_lease *lease) {
    *(lease->older ? &lease->older->newer : &l->mu.oldest) = lease->newer;
    *(lease->newer ? &lease->newer->older : &l->mu.newest) = lease->older;
}

static bool is_idle(const vv_lease *lease) {
    return lease->kind == VV_LEASE_PAGES && lease->readers == 0;
}

static bool is_over(const vv_lease *lease, uint64_t now_ns) {
    return now_ns >= lease->expires_ns && (lease->kind == VV_LEASE_SNAPSHOT || lease->readers == 0);
}

static owner *owner_of(vv_leases *l, const struct vv_user *user) {
    owner *o = l->mu.owners;
    while (o && o->user != user)
        o = o->next;
    return o;
}

static void disown(vv_leases *l, owner *o) {
    if (--o->count > 0)
        return;
    owner **at = &l->mu.owners;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    vv_free(o);
}

/* Nobody finds it any more. It goes to *garbage if nobody reads it. */
static void unlist(vv_leases *l, vv_lease *lease, vv_lease **garbage) {
    vv_lease **at = bucket_of(l, lease->id);
    while (*at != lease)
        at = &(*at)->next;
    *at = lease->next;
    if (is_idle(lease))
        unqueue_idle(l, lease);
    disown(l, lease->owner);
    lease->owner = NULL;
    lease->listed = false;
    l->mu.count--;
    if (lease->readers == 0) {
        lease->next = *garbage;
        *garbage = lease;
    }
}

static vv_lease *find(vv_leases *l, const struct vv_user *user, vv_lease_kind kind, uint64_t id) {
    vv_lease *lease = *bucket_of(l, id);
    while (lease && lease->id != id)
        lease = lease->next;
    bool theirs = lease && lease->kind == kind && lease->owner->user == user;
    return theirs && !is_over(lease, vv_clock_mono_ns()) ? lease : NULL;
}

/* Without the lock. */
static void release_all(vv_leases *l, vv_lease *garbage) {
    while (garbage) {
        vv_lease *next = garbage->next;
        varve_snapshot_release(l->options.db, garbage->snapshot);
        if (garbage->files)
            garbage->files->release(garbage->files);
        vv_free(garbage);
        garbage = next;
    }
}

/* ---- the sweep ---- */

static void sweep_later(vv_leases *l) {
    if (l->mu.sweeping || l->mu.closing || l->mu.count == 0)
        return;
    /* Without memory the next lease tries again; what is over is over all the same. */
    l->mu.sweeping = vv_ok(vv_timers_set(l->options.timers, &l->timer, vv_clock_mono_ns() + SWEEP_NS));
}

static void sweep(vv_timer *timer) {
    vv_leases *l = VV_CONTAINER_OF(timer, vv_leases, timer);
    vv_lease *garbage = NULL;
    uint64_t now_ns = vv_clock_mono_ns();
    vv_mutex_lock(&l->mu.lock);
    for (size_t b = 0; b < BUCKETS; b++)
        for (vv_lease *lease = l->mu.buckets[b], *next; lease; lease = next) {
            next = lease->next;
            if (is_over(lease, now_ns))
                unlist(l, lease, &garbage);
        }
    l->mu.sweeping = false;
    sweep_later(l);
    vv_mutex_unlock(&l->mu.lock);
    release_all(l, garbage);
}

/* ---- new ones ---- */

static bool is_full(const vv_leases *l, const owner *o) {
    return l->mu.count >= l->options.count_max || (o && o->count >= l->options.per_user_max);
}

/* Push out what is over or idle, oldest first, until there is room. Idle leases of others make way only for
 * want of room for all. */
static bool make_room(vv_leases *l, const struct vv_user *user, vv_lease **garbage) {
    for (vv_lease *lease = l->mu.oldest, *next; lease && is_full(l, owner_of(l, user)); lease = next) {
        next = lease->newer;
        if (l->mu.count >= l->options.count_max || lease->owner->user == user)
            unlist(l, lease, garbage);
    }
    return !is_full(l, owner_of(l, user));
}

static bool new_id(vv_leases *l, uint64_t *out) {
    for (;;) {
        if (getrandom(out, sizeof *out, 0) != sizeof *out)
            return false;
        vv_lease *lease = *bucket_of(l, *out);
        while (lease && lease->id != *out)
            lease = lease->next;
        if (*out != 0 && !lease) /* 0 is none, for clients */
            return true;
    }
}

/* List `lease`. BUSY, NO_MEMORY, IO: it is the caller's. */
static vv_status list(vv_leases *l, const struct vv_user *user, vv_lease *lease, vv_lease **garbage) {
    if (!make_room(l, user, garbage))
        return vv_status_make(VV_BUSY, VV_SUB_NONE, 0);
    if (!new_id(l, &lease->id))
        return vv_status_errno(errno);
    owner *o = owner_of(l, user);
    if (!o) {
        o = vv_alloc(sizeof *o);
        if (!o)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        *o = (owner){.next = l->mu.owners, .user = user};
        l->mu.owners = o;
    }
    o->count++;
    lease->owner = o;
    lease->listed = true;
    lease->next = *bucket_of(l, lease->id);
    *bucket_of(l, lease->id) = lease;
    l->mu.count++;
    sweep_later(l);
    return VV_STATUS_OK;
}

/* For so long from now on; *out in full. */
static void set_end(vv_leases *l, vv_lease *lease, uint64_t lease_ms, vv_lease_info *out) {
    uint64_t us = l->options.default_us;
    if (lease_ms > 0)
        us = lease_ms > l->options.longest_us / US_PER_MS ? l->options.longest_us : lease_ms * US_PER_MS;
    lease->us = us;
    lease->expires_ns = vv_clock_mono_ns() + us * VV_NS_PER_US;
    *out = (vv_lease_info){.id = lease->id,
                           .lsn = lease->files ? lease->files->lsn : varve_snapshot_lsn(lease->snapshot),
                           .expires_unix_ms = vv_clock_unix_ms() + us / US_PER_MS};
}

vv_status vv_leases_open(vv_leases *l, const struct vv_user *user, uint64_t lease_ms, vv_lease_info *out) {
    vv_lease *lease = vv_alloc_zeroed(sizeof *lease);
    if (!lease)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    lease->snapshot = varve_snapshot_create(l->options.db);
    vv_lease *garbage = NULL;
    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (lease->snapshot) {
        vv_mutex_lock(&l->mu.lock);
        st = list(l, user, lease, &garbage);
        if (vv_ok(st))
            set_end(l, lease, lease_ms, out);
        vv_mutex_unlock(&l->mu.lock);
    }
    if (!vv_ok(st)) {
        lease->next = garbage;
        garbage = lease;
    }
    release_all(l, garbage);
    return st;
}

vv_status vv_leases_add_files(vv_leases *l, const struct vv_user *user, vv_leased *files_take,
                              uint64_t lease_ms, vv_lease_info *out) {
    vv_lease *lease = vv_alloc_zeroed(sizeof *lease), *garbage = NULL;
    if (!lease)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    *lease = (vv_lease){.files = files_take, .kind = VV_LEASE_FILES};
    vv_mutex_lock(&l->mu.lock);
    vv_status st = list(l, user, lease, &garbage);
    if (vv_ok(st))
        set_end(l, lease, lease_ms, out);
    vv_mutex_unlock(&l->mu.lock);
    release_all(l, garbage);
    if (!vv_ok(st))
        vv_free(lease);
    return st;
}

bool vv_leases_have_room(vv_leases *l, const struct vv_user *user) {
    vv_lease *garbage = NULL;
    vv_mutex_lock(&l->mu.lock);
    bool room = make_room(l, user, &garbage);
    vv_mutex_unlock(&l->mu.lock);
    release_all(l, garbage);
    return room;
}

vv_lease *vv_leases_add_pages(vv_leases *l, const struct vv_user *user, varve_snapshot **snapshot_take) {
    vv_lease *lease = vv_alloc_zeroed(sizeof *lease), *garbage = NULL;
    if (!lease)
        return NULL;
    *lease = (vv_lease){.snapshot = *snapshot_take, .kind = VV_LEASE_PAGES, .readers = 1};
    vv_mutex_lock(&l->mu.lock);
    vv_status st = list(l, user, lease, &garbage);
    vv_mutex_unlock(&l->mu.lock);
    release_all(l, garbage);
    if (!vv_ok(st)) {
        vv_free(lease);
        return NULL;
    }
    *snapshot_take = NULL;
    return lease;
}

/* ---- those that are there ---- */

bool vv_leases_renew(vv_leases *l, const struct vv_user *user, uint64_t id, uint64_t lease_ms,
                     vv_lease_info *out) {
    vv_mutex_lock(&l->mu.lock);
    vv_lease *lease = find(l, user, VV_LEASE_SNAPSHOT, id);
    if (lease)
        set_end(l, lease, lease_ms, out);
    vv_mutex_unlock(&l->mu.lock);
    return lease != NULL;
}

void vv_leases_release(vv_leases *l, const struct vv_user *user, vv_lease_kind kind, uint64_t id) {
    vv_lease *garbage = NULL;
    vv_mutex_lock(&l->mu.lock);
    vv_lease *lease = find(l, user, kind, id);
    if (lease)
        unlist(l, lease, &garbage);
    vv_mutex_unlock(&l->mu.lock);
    release_all(l, garbage);
}

vv_lease *vv_leases_ref(vv_leases *l, const struct vv_user *user, vv_lease_kind kind, uint64_t id) {
    vv_mutex_lock(&l->mu.lock);
    vv_lease *lease = find(l, user, kind, id);
    if (lease) {
        if (is_idle(lease))
            unqueue_idle(l, lease);
        lease->returned_to = true;
        lease->readers++;
    }
    vv_mutex_unlock(&l->mu.lock);
    return lease;
}

static void unref(vv_leases *l, vv_lease *lease, bool done) {
    vv_lease *garbage = NULL;
    vv_mutex_lock(&l->mu.lock);
    VV_ASSERT(lease->readers > 0);
    if (--lease->readers == 0) {
        if (!lease->listed) {
            lease->next = NULL;
            garbage = lease;
        } else if (lease->kind == VV_LEASE_FILES) {
            lease->expires_ns = VV_MAX(lease->expires_ns, vv_clock_mono_ns() + lease->us * VV_NS_PER_US);
        } else if (lease->kind == VV_LEASE_PAGES) {
            lease->expires_ns = vv_clock_mono_ns() + l->options.pages_us * VV_NS_PER_US;
            queue_idle(l, lease);
            if (done && !lease->returned_to)
                unlist(l, lease, &garbage);
        }
    }
    vv_mutex_unlock(&l->mu.lock);
    release_all(l, garbage);
}

void vv_lease_unref(vv_leases *l, vv_lease *lease) {
    if (lease)
        unref(l, lease, false);
}

void vv_lease_unref_done(vv_leases *l, vv_lease *lease) {
    unref(l, lease, true);
}

const varve_snapshot *vv_lease_snapshot(const vv_lease *lease) {
    return lease->snapshot;
}

vv_leased *vv_lease_files(const vv_lease *lease) {
    return lease->files;
}

uint64_t vv_lease_id(const vv_lease *lease) {
    return lease->id;
}

uint64_t vv_leases_count(vv_leases *l) {
    vv_mutex_lock(&l->mu.lock);
    uint64_t count = l->mu.count;
    vv_mutex_unlock(&l->mu.lock);
    return count;
}

/* ---- life cycle ---- */

vv_status vv_leases_create(const vv_leases_options *options, vv_leases **out) {
    *out = NULL;
    vv_leases *l = vv_alloc_zeroed(sizeof *l);
    if (!l)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    l->options = *options;
    vv_timer_init(&l->timer, sweep);
    vv_mutex_init(&l->mu.lock);
    *out = l;
    return VV_STATUS_OK;
}

void vv_leases_destroy(vv_leases *l) {
    if (!l)
        return;
    vv_lease *garbage = NULL;
    vv_mutex_lock(&l->mu.lock);
    l->mu.closing = true;
    for (size_t b = 0; b < BUCKETS; b++)
        while (l->mu.buckets[b]) {
            VV_ASSERT(l->mu.buckets[b]->readers == 0);
            unlist(l, l->mu.buckets[b], &garbage);
        }
    vv_mutex_unlock(&l->mu.lock);
    vv_timers_unset(l->options.timers, &l->timer);
    release_all(l, garbage);
    vv_mutex_deinit(&l->mu.lock);
    vv_free(l);
}
