/*
 * io_sim.c - the simulated disk as a backend of io.h.
 *
 * Each operation goes through begin(), which numbers the event and asks the hooks for its fault, and end(),
 * which tells the hooks. In between the disk's lock is held and no hook runs, so that each event is atomic
 * and a crash image is one between two events.
 *
 * A queue carries its requests out step by step inside vv_io_run(), the next step being that of any request
 * that is in flight: the two parts of a WRITE_SYNC may have others' in between.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "io/buffer_pool.h"
#include "io/sim/sim_impl.h"

#define LATENCY_NS_MAX (100 * 1000 * 1000)

typedef struct sim_backend {
    vv_io_backend head;
    vv_sim_disk *disk;
} sim_backend;

typedef struct sim_file {
    vv_file head;
    vv_sim_disk *disk;
    sim_node *node; /* with a reference */
    bool holds_lock;
    uint32_t flags;
    char path[];
} sim_file;

static const struct vv_io_ops sim_ops;

static vv_sim_disk *disk_of(vv_io_backend *b) {
    return ((sim_backend *)b)->disk;
}

static sim_file *sim(vv_file *f) {
    return (sim_file *)f;
}

/* ---- events ---- */

typedef struct event {
    vv_sim_event e;
    vv_sim_hooks hooks; /* as they were when it began */
    vv_sim_fault fault;
} event;

/* Begin an event: after it the disk is locked if and only if the status is OK. */
static vv_status begin(vv_sim_disk *d, event *ev, vv_sim_op op, const char *path, uint64_t offset,
                       uint64_t bytes) {
    pthread_mutex_lock(&d->lock);
    ev->hooks = d->hooks;
    pthread_mutex_unlock(&d->lock);
    if (ev->hooks.point)
        ev->hooks.point();
    pthread_mutex_lock(&d->lock);
    ev->e = (vv_sim_event){.number = ++d->events, .op = op, .path = path, .offset = offset, .bytes = bytes};
    bool off = d->off;
    pthread_mutex_unlock(&d->lock);
    if (off)
        return vv_status_errno(EIO);
    vv_sim_fault fault = ev->hooks.fault ? ev->hooks.fault(ev->hooks.arg, &ev->e) : VV_SIM_FAULT_NONE;
    ev->fault = vv_sim_fault_fits(fault, op) ? fault : VV_SIM_FAULT_NONE;
    if (ev->fault == VV_SIM_FAULT_LATENCY && ev->hooks.sleep_ns)
        ev->hooks.sleep_ns(vv_sim_mix(d->options.seed, ev->e.number, 0) % LATENCY_NS_MAX);
    pthread_mutex_lock(&d->lock);
    if (d->off) { /* the power went meanwhile */
        pthread_mutex_unlock(&d->lock);
        return vv_status_errno(EIO);
    }
    d->faults[ev->fault]++;
    return VV_STATUS_OK;
}

static uint64_t event_random(const vv_sim_disk *d, const event *ev, uint64_t what) {
    return vv_sim_mix(d->options.seed, ev->e.number, 1 + what);
}

static vv_status end(vv_sim_disk *d, const event *ev, vv_status st) {
    pthread_mutex_unlock(&d->lock);
    if (ev->hooks.after)
        ev->hooks.after(ev->hooks.arg, &ev->e);
    return st;
}

/* The fault that says no before anything is done. */
static vv_status refusal(const event *ev) {
    if (ev->fault == VV_SIM_FAULT_EIO)
        return vv_status_errno(EIO);
    return ev->fault == VV_SIM_FAULT_ENOSPC ? vv_status_errno(ENOSPC) : VV_STATUS_OK;
}

static bool has_space(const vv_sim_disk *d, uint64_t more_bytes) {
    return !d->options.capacity_bytes || d->used_bytes + more_bytes <= d->options.capacity_bytes;
}

/* ---- paths ---- */

typedef struct place {
    sim_node *dir;
    char name[SIM_NAME_BYTES]; /* empty: dir itself */
} place;

/* Where `path` is or would be. "." and ".." are not names here. */
static vv_status find(vv_sim_disk *d, const char *path, place *out) {
    *out = (place){.dir = d->root};
    while (*path) {
        size_t n = strcspn(path, "/");
        if (n > 0) {
            if (out->name[0]) {
                out->dir = vv_sim_names_find(&out->dir->names, out->name);
                if (!out->dir)
                    return vv_status_errno(ENOENT);
                if (!out->dir->is_dir)
                    return vv_status_errno(ENOTDIR);
            }
            if (n >= SIM_NAME_BYTES)
                return vv_status_errno(ENAMETOOLONG);
            memcpy(out->name, path, n);
            out->name[n] = '\0';
        }
        path += n;
        path += strspn(path, "/");
    }
    return VV_STATUS_OK;
}

static sim_node *node_at(const place *p) {
    return p->name[0] ? vv_sim_names_find(&p->dir->names, p->name) : p->dir;
}

static vv_status find_dir(vv_sim_disk *d, const char *path, sim_node **out) {
    place p;
    VV_TRY(find(d, path, &p));
    *out = node_at(&p);
    if (!*out)
        return vv_status_errno(ENOENT);
    return (*out)->is_dir ? VV_STATUS_OK : vv_status_errno(ENOTDIR);
}

static void set_name(vv_sim_disk *d, const place *p, sim_node *node) {
    sim_entry set = {.node = node};
    strcpy(set.name, p->name);
    vv_sim_dir_change(d, p->dir, &set, 1);
}

/* ---- files ---- */

/* Files and queues come from the heap that tests let fail, as those of other backends do. */
static vv_status make_file(vv_io_backend *b, const char *path, uint32_t flags, sim_file **out) {
    vv_sim_disk *d = disk_of(b);
    sim_file *f = vv_alloc_zeroed(sizeof *f + strlen(path) + 1);
    if (!f)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    f->head = (vv_file){.ops = &sim_ops,
                        .backend = b,
                        .align_bytes = flags & VV_OPEN_DIRECT ? d->options.align_bytes : 1,
                        .atomic_block_bytes = d->options.atomic_block_bytes};
    f->disk = d;
    f->flags = flags;
    strcpy(f->path, path);
    *out = f;
    return VV_STATUS_OK;
}

static vv_status find_or_create(vv_sim_disk *d, const char *path, uint32_t flags, const event *ev,
                                sim_node **out) {
    place p;
    VV_TRY(refusal(ev));
    VV_TRY(find(d, path, &p));
    sim_node *node = node_at(&p);
    if (node && node->is_dir)
        return vv_status_errno(EISDIR);
    if (node && (flags & VV_OPEN_EXCLUSIVE))
        return vv_status_errno(EEXIST);
    if (!node && !(flags & VV_OPEN_CREATE))
        return vv_status_errno(ENOENT);
    if (!node) {
        node = vv_sim_node_create(d, false);
        set_name(d, &p, node);
    }
    if ((flags & VV_OPEN_TRUNCATE) && node->seen.bytes > 0)
        vv_sim_node_resize(d, node, 0);
    *out = node;
    return VV_STATUS_OK;
}

static vv_status open_locked(vv_sim_disk *d, sim_file *f, const event *ev) {
    VV_TRY(find_or_create(d, f->path, f->flags, ev, &f->node));
    vv_sim_node_ref(f->node);
    d->open_count++;
    return VV_STATUS_OK;
}

static vv_status file_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err) {
    vv_sim_disk *d = disk_of(b);
    event ev;
    sim_file *f = NULL;
    vv_status st = make_file(b, path, flags, &f);
    if (vv_ok(st))
        st = begin(d, &ev, flags & VV_OPEN_CREATE ? VV_SIM_CREATE : VV_SIM_OPEN, path, 0, 0);
    if (vv_ok(st))
        st = end(d, &ev, open_locked(d, f, &ev));
    if (!vv_ok(st)) {
        vv_free(f);
        return vv_fail(err, st, "%s", path);
    }
    *out = &f->head;
    return st;
}

static void file_close(vv_file *file) {
    sim_file *f = sim(file);
    pthread_mutex_lock(&f->disk->lock);
    if (f->holds_lock)
        f->node->locked = false;
    f->disk->open_count--;
    vv_sim_node_unref(f->disk, f->node);
    pthread_mutex_unlock(&f->disk->lock);
    vv_free(f);
}

/* How much of a transfer its first part is: whole sectors where there are several. */
static uint64_t part_of(const vv_sim_disk *d, const event *ev, uint64_t bytes) {
    uint64_t unit = bytes > 512 ? 512 : 1;
    return event_random(d, ev, 0) % ((bytes + unit - 1) / unit) * unit;
}

static vv_status file_read(vv_file *file, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    sim_file *f = sim(file);
    vv_sim_disk *d = f->disk;
    size_t done = 0;
    if (!(f->flags & VV_OPEN_READ))
        return vv_status_errno(EBADF);
    for (;;) {
        event ev;
        VV_TRY(begin(d, &ev, VV_SIM_READ, f->path, offset + done, bytes - done));
        uint64_t size = f->node->seen.bytes, at = offset + done;
        uint64_t n = at >= size ? 0 : size - at < bytes - done ? size - at : bytes - done;
        vv_status st = refusal(&ev);
        if (!vv_ok(st) || n == 0) {
            *read_out = done;
            return end(d, &ev, st);
        }
        bool again = ev.fault == VV_SIM_FAULT_SHORT || ev.fault == VV_SIM_FAULT_EINTR;
        if (again)
            n = ev.fault == VV_SIM_FAULT_SHORT ? part_of(d, &ev, n) : 0;
        vv_sim_content_read(&f->node->seen, (uint8_t *)buf + done, n, at);
        if (ev.fault == VV_SIM_FAULT_BIT_FLIP) {
            uint64_t bit = event_random(d, &ev, 1) % (n * 8);
            ((uint8_t *)buf)[done + bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        done += n;
        st = end(d, &ev, st);
        if (!again) {
            *read_out = done;
            return st;
        }
    }
}

/* What a write does to the file, and what becomes of it. *done_out: how much of it needs no doing again. */
static vv_status write_locked(sim_file *f, const uint8_t *data, uint64_t bytes, uint64_t offset,
                              const event *ev, uint64_t *done_out) {
    vv_sim_disk *d = f->disk;
    uint64_t n = bytes;
    *done_out = 0;
    VV_TRY(refusal(ev));
    if (ev->fault == VV_SIM_FAULT_PARTIAL || ev->fault == VV_SIM_FAULT_SHORT)
        n = part_of(d, ev, bytes);
    if (ev->fault == VV_SIM_FAULT_EINTR)
        n = 0;
    if (n > 0 && !has_space(d, vv_sim_node_growth(f->node, offset + n)))
        return vv_status_errno(ENOSPC);
    if (ev->fault == VV_SIM_FAULT_MISDIRECTED) { /* by whole pages, as drives err, and into what is there */
        uint64_t pages = f->node->seen.bytes / SIM_PAGE_BYTES;
        uint64_t elsewhere = pages ? event_random(d, ev, 2) % pages * SIM_PAGE_BYTES : 0;
        vv_sim_node_write(d, f->node, data, n, elsewhere + offset % SIM_PAGE_BYTES);
    } else if (n > 0 && ev->fault != VV_SIM_FAULT_LOST_WRITE) {
        vv_sim_node_write(d, f->node, data, n, offset);
    }
    *done_out = n;
    return ev->fault == VV_SIM_FAULT_PARTIAL ? vv_status_errno(EIO) : VV_STATUS_OK;
}

static vv_status file_write(vv_file *file, const void *buf, size_t bytes, uint64_t offset) {
    sim_file *f = sim(file);
    uint64_t done = 0;
    if (!(f->flags & VV_OPEN_WRITE))
        return vv_status_errno(EBADF);
    while (done < bytes) {
        event ev;
        uint64_t n = 0;
        VV_TRY(begin(f->disk, &ev, VV_SIM_WRITE, f->path, offset + done, bytes - done));
        VV_TRY(end(f->disk, &ev,
                   write_locked(f, (const uint8_t *)buf + done, bytes - done, offset + done, &ev, &n)));
        done += n;
    }
    return VV_STATUS_OK;
}

static vv_status file_sync(vv_file *file, vv_sync_kind kind) {
    (void)kind; /* both make the size durable, and nothing here has other metadata */
    sim_file *f = sim(file);
    event ev;
    VV_TRY(begin(f->disk, &ev, VV_SIM_SYNC, f->path, 0, 0));
    vv_status st = refusal(&ev);
    if (vv_ok(st))
        vv_sim_node_sync(f->node);
    else
        vv_sim_node_sync_fails(f->node, event_random(f->disk, &ev, 3));
    return end(f->disk, &ev, st);
}

static vv_status file_write_sync(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    VV_TRY(file_write(f, buf, bytes, offset));
    return file_sync(f, VV_SYNC_DATA);
}

static vv_status file_allocate(vv_file *file, uint64_t bytes) {
    sim_file *f = sim(file);
    event ev;
    do {
        VV_TRY(begin(f->disk, &ev, VV_SIM_ALLOCATE, f->path, 0, bytes));
        vv_status st = refusal(&ev);
        if (vv_ok(st) && ev.fault != VV_SIM_FAULT_EINTR && bytes > f->node->seen.bytes) {
            if (has_space(f->disk, vv_sim_node_growth(f->node, bytes)))
                vv_sim_node_resize(f->disk, f->node, bytes);
            else
                st = vv_status_errno(ENOSPC);
        }
        VV_TRY(end(f->disk, &ev, st));
    } while (ev.fault == VV_SIM_FAULT_EINTR);
    return VV_STATUS_OK;
}

static vv_status file_truncate(vv_file *file, uint64_t bytes) {
    sim_file *f = sim(file);
    event ev;
    VV_TRY(begin(f->disk, &ev, VV_SIM_TRUNCATE, f->path, 0, bytes));
    vv_status st = refusal(&ev);
    if (vv_ok(st) && !has_space(f->disk, vv_sim_node_growth(f->node, bytes)))
        st = vv_status_errno(ENOSPC);
    if (vv_ok(st) && bytes != f->node->seen.bytes)
        vv_sim_node_resize(f->disk, f->node, bytes);
    return end(f->disk, &ev, st);
}

static vv_status file_size(vv_file *file, uint64_t *bytes_out) {
    sim_file *f = sim(file);
    pthread_mutex_lock(&f->disk->lock);
    *bytes_out = f->node->seen.bytes;
    pthread_mutex_unlock(&f->disk->lock);
    return VV_STATUS_OK;
}

/* ---- names and directories ---- */

static vv_status rename_locked(vv_sim_disk *d, const char *from, const char *to, const event *ev) {
    place a, b;
    VV_TRY(refusal(ev));
    VV_TRY(find(d, from, &a));
    VV_TRY(find(d, to, &b));
    sim_node *node = node_at(&a), *old = node_at(&b);
    if (!node)
        return vv_status_errno(ENOENT);
    if (!a.name[0] || !b.name[0])
        return vv_status_errno(EBUSY);
    if (node == old) /* two names of one file: POSIX has both stay */
        return VV_STATUS_OK;
    if (old && old->is_dir != node->is_dir)
        return vv_status_errno(old->is_dir ? EISDIR : ENOTDIR);
    if (old && old->is_dir && old->names.count > 0)
        return vv_status_errno(ENOTEMPTY);
    if (a.dir != b.dir) {
        set_name(d, &b, node);
        set_name(d, &a, NULL);
        return VV_STATUS_OK;
    }
    sim_entry sets[2] = {{.node = node}, {.node = NULL}};
    strcpy(sets[0].name, b.name);
    strcpy(sets[1].name, a.name);
    vv_sim_dir_change(d, a.dir, sets, 2);
    return VV_STATUS_OK;
}

static vv_status path_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    event ev;
    vv_status st = begin(disk_of(b), &ev, VV_SIM_RENAME, to, 0, 0);
    if (vv_ok(st))
        st = end(disk_of(b), &ev, rename_locked(disk_of(b), from, to, &ev));
    return vv_ok(st) ? st : vv_fail(err, st, "%s: rename to %s", from, to);
}

static vv_status unlink_locked(vv_sim_disk *d, const char *path, const event *ev) {
    place p;
    VV_TRY(refusal(ev));
    VV_TRY(find(d, path, &p));
    sim_node *node = node_at(&p);
    if (!node)
        return vv_status_errno(ENOENT);
    if (node->is_dir)
        return vv_status_errno(EISDIR);
    set_name(d, &p, NULL);
    return VV_STATUS_OK;
}

static vv_status path_unlink(vv_io_backend *b, const char *path, vv_error *err) {
    event ev;
    vv_status st = begin(disk_of(b), &ev, VV_SIM_UNLINK, path, 0, 0);
    if (vv_ok(st))
        st = end(disk_of(b), &ev, unlink_locked(disk_of(b), path, &ev));
    return vv_ok(st) ? st : vv_fail(err, st, "%s: unlink", path);
}

static vv_status path_exists(vv_io_backend *b, const char *path, bool *exists_out, vv_error *err) {
    vv_sim_disk *d = disk_of(b);
    place p;
    pthread_mutex_lock(&d->lock);
    vv_status st = d->off ? vv_status_errno(EIO) : find(d, path, &p);
    if (vv_ok(st))
        *exists_out = node_at(&p) != NULL;
    pthread_mutex_unlock(&d->lock);
    if (vv_ok(st) || vv_is(st, VV_NOT_FOUND))
        return VV_STATUS_OK;
    return vv_fail(err, st, "%s", path);
}

static vv_status link_locked(vv_sim_disk *d, const char *from, const char *to, const event *ev) {
    place a, b;
    VV_TRY(refusal(ev));
    VV_TRY(find(d, from, &a));
    VV_TRY(find(d, to, &b));
    sim_node *node = node_at(&a);
    if (!node)
        return vv_status_errno(ENOENT);
    if (node->is_dir)
        return vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, EPERM);
    if (node_at(&b))
        return vv_status_errno(EEXIST);
    set_name(d, &b, node);
    return VV_STATUS_OK;
}

static vv_status path_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    event ev;
    vv_status st = begin(disk_of(b), &ev, VV_SIM_LINK, to, 0, 0);
    if (vv_ok(st))
        st = end(disk_of(b), &ev, link_locked(disk_of(b), from, to, &ev));
    return vv_ok(st) ? st : vv_fail(err, st, "%s: link to %s", from, to);
}

static vv_status mkdir_locked(vv_sim_disk *d, const char *path, const event *ev) {
    place p;
    VV_TRY(refusal(ev));
    VV_TRY(find(d, path, &p));
    sim_node *node = node_at(&p);
    if (node)
        return vv_status_errno(node->is_dir ? EEXIST : ENOTDIR);
    set_name(d, &p, vv_sim_node_create(d, true));
    return VV_STATUS_OK;
}

static vv_status dir_create(vv_io_backend *b, const char *path, vv_error *err) {
    event ev;
    vv_status st = begin(disk_of(b), &ev, VV_SIM_MKDIR, path, 0, 0);
    if (vv_ok(st))
        st = end(disk_of(b), &ev, mkdir_locked(disk_of(b), path, &ev));
    return vv_ok(st) ? st : vv_fail(err, st, "%s: create directory", path);
}

static vv_status rmdir_locked(vv_sim_disk *d, const char *path, const event *ev) {
    place p;
    VV_TRY(refusal(ev));
    VV_TRY(find(d, path, &p));
    sim_node *node = node_at(&p);
    if (!node)
        return vv_status_errno(ENOENT);
    if (!node->is_dir)
        return vv_status_errno(ENOTDIR);
    if (!p.name[0])
        return vv_status_errno(EBUSY);
    if (node->names.count > 0)
        return vv_status_errno(ENOTEMPTY);
    set_name(d, &p, NULL);
    return VV_STATUS_OK;
}

static vv_status dir_remove(vv_io_backend *b, const char *path, vv_error *err) {
    event ev;
    vv_status st = begin(disk_of(b), &ev, VV_SIM_RMDIR, path, 0, 0);
    if (vv_ok(st))
        st = end(disk_of(b), &ev, rmdir_locked(disk_of(b), path, &ev));
    return vv_ok(st) ? st : vv_fail(err, st, "%s: remove directory", path);
}

/* One that fails leaves the names as undecided as they were. */
static vv_status dir_sync(vv_io_backend *b, const char *path, vv_error *err) {
    vv_sim_disk *d = disk_of(b);
    event ev;
    vv_status st = begin(d, &ev, VV_SIM_DIR_SYNC, path, 0, 0);
    if (vv_ok(st)) {
        sim_node *dir = NULL;
        st = refusal(&ev);
        if (vv_ok(st))
            st = find_dir(d, path, &dir);
        if (vv_ok(st))
            vv_sim_dir_sync(d, dir);
        st = end(d, &ev, st);
    }
    return vv_ok(st) ? st : vv_fail(err, st, "%s: sync directory", path);
}

/* The names are copied first: the callback may change the directory. In any order, as real ones come. */
static vv_status dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err) {
    vv_sim_disk *d = disk_of(b);
    event ev;
    sim_entry *entries = NULL;
    vv_entry_kind *kinds = NULL;
    size_t count = 0, first = 0;
    vv_status st = begin(d, &ev, VV_SIM_DIR_LIST, path, 0, 0);
    if (vv_ok(st)) {
        sim_node *dir = NULL;
        st = refusal(&ev);
        if (vv_ok(st))
            st = find_dir(d, path, &dir);
        if (vv_ok(st) && (count = dir->names.count) > 0) {
            first = event_random(d, &ev, 4) % count;
            entries = vv_sim_alloc(count * sizeof *entries);
            kinds = vv_sim_alloc(count * sizeof *kinds);
            memcpy(entries, dir->names.entries, count * sizeof *entries);
            for (size_t i = 0; i < count; i++)
                kinds[i] = entries[i].node->is_dir ? VV_ENTRY_DIRECTORY : VV_ENTRY_FILE;
        }
        st = end(d, &ev, st);
    }
    if (!vv_ok(st))
        st = vv_fail(err, st, "%s: open directory", path);
    for (size_t i = 0; i < count && vv_ok(st); i++)
        st = fn(arg, entries[(first + i) % count].name, kinds[(first + i) % count]);
    free(kinds);
    free(entries);
    return st;
}

static vv_status dir_free_bytes(vv_io_backend *b, const char *path, uint64_t *bytes_out, vv_error *err) {
    vv_sim_disk *d = disk_of(b);
    sim_node *dir = NULL;
    pthread_mutex_lock(&d->lock);
    vv_status st = d->off ? vv_status_errno(EIO) : find_dir(d, path, &dir);
    uint64_t capacity = d->options.capacity_bytes ? d->options.capacity_bytes : UINT64_C(1) << 50;
    *bytes_out = capacity > d->used_bytes ? capacity - d->used_bytes : 0;
    pthread_mutex_unlock(&d->lock);
    return vv_ok(st) ? st : vv_fail(err, st, "%s: free space", path);
}

static vv_status lock_locked(vv_sim_disk *d, sim_file *f, const event *ev) {
    VV_TRY(open_locked(d, f, ev));
    if (!f->node->locked) {
        f->node->locked = f->holds_lock = true;
        return VV_STATUS_OK;
    }
    d->open_count--;
    vv_sim_node_unref(d, f->node);
    return vv_status_make(VV_LOCKED, VV_SUB_NONE, 0);
}

static vv_status lock_acquire(vv_io_backend *b, const char *path, vv_file **lock_out, vv_error *err) {
    vv_sim_disk *d = disk_of(b);
    event ev;
    sim_file *f = NULL;
    vv_status st = make_file(b, path, VV_OPEN_READ | VV_OPEN_WRITE | VV_OPEN_CREATE, &f);
    if (vv_ok(st))
        st = begin(d, &ev, VV_SIM_LOCK, path, 0, 0);
    if (vv_ok(st))
        st = end(d, &ev, lock_locked(d, f, &ev));
    if (!vv_ok(st)) {
        vv_free(f);
        return vv_fail(err, st, "%s: lock%s", path, vv_is(st, VV_LOCKED) ? "ed by another process" : "");
    }
    *lock_out = &f->head;
    return st;
}

/* ---- queues ---- */

typedef struct sim_queue {
    vv_io_queue head;
    vv_sim_disk *disk;
    vv_buffer_pool pool;
    vv_io_req **reqs; /* in flight, in no order */
    size_t count;
    size_t capacity;
    uint64_t turns;
    bool running;
} sim_queue;

enum { STEP_FIRST, STEP_SYNC }; /* vv_io_req.state: what is to be done next */

static vv_status queue_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                              vv_error *err) {
    sim_queue *q = vv_alloc_zeroed(sizeof *q);
    vv_status st = q ? vv_buffer_pool_init(&q->pool, o->pool_buffer_count, o->pool_buffer_bytes)
                     : vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (!vv_ok(st)) {
        vv_free(q);
        return vv_fail(err, st, "I/O queue: out of memory");
    }
    q->head = (vv_io_queue){.ops = &sim_ops, .options = *o};
    q->disk = disk_of(b);
    *out = &q->head;
    return VV_STATUS_OK;
}

static void queue_destroy(vv_io_queue *head) {
    sim_queue *q = (sim_queue *)head;
    VV_ASSERT(head->in_flight == 0 && !q->running);
    vv_buffer_pool_deinit(&q->pool);
    free(q->reqs);
    vv_free(q);
}

static void queue_submit(vv_io_queue *head, vv_io_req *req) {
    sim_queue *q = (sim_queue *)head;
    q->reqs = vv_sim_grow(q->reqs, q->count, &q->capacity, sizeof *q->reqs);
    q->reqs[q->count++] = req;
    req->state = STEP_FIRST;
    head->in_flight++;
}

/* One step of a request; true: it was the last. */
static bool step(vv_io_req *req) {
    size_t got = 0;
    if (req->state == STEP_SYNC || req->op == VV_IO_SYNC) {
        req->status = file_sync(req->file, VV_SYNC_DATA);
    } else if (req->op == VV_IO_READ) {
        req->status = file_read(req->file, req->buf, req->bytes, req->offset, &got);
    } else {
        req->status = file_write(req->file, req->buf, req->bytes, req->offset);
        if (req->op == VV_IO_WRITE_SYNC && vv_ok(req->status)) {
            req->state = STEP_SYNC;
            return false;
        }
    }
    req->transferred_bytes = req->op == VV_IO_READ                         ? (uint32_t)got
                             : vv_ok(req->status) && req->op != VV_IO_SYNC ? req->bytes
                                                                           : 0;
    return true;
}

static vv_status queue_run(vv_io_queue *head, uint32_t min_done, uint32_t *done_out) {
    sim_queue *q = (sim_queue *)head;
    VV_ASSERT(!q->running); /* a callback may submit, but not run */
    q->running = true;
    uint32_t called = 0;
    uint32_t target = min_done < head->in_flight ? min_done : head->in_flight;
    while (q->count > 0) {
        uint64_t random = vv_sim_mix(q->disk->options.seed, q->turns++, 5);
        if (called >= target && random % 4 == 0) /* and what else is done is seen the next time */
            break;
        size_t i = random / 4 % (q->count < head->options.depth ? q->count : head->options.depth);
        vv_io_req *req = q->reqs[i];
        if (!step(req))
            continue;
        q->reqs[i] = q->reqs[--q->count];
        head->in_flight--;
        called++;
        req->done(req);
    }
    q->running = false;
    *done_out = called;
    return VV_STATUS_OK;
}

static void *queue_buffer_take(vv_io_queue *head) {
    return vv_buffer_pool_take(&((sim_queue *)head)->pool);
}

static void queue_buffer_give(vv_io_queue *head, void *buffer) {
    vv_buffer_pool_give(&((sim_queue *)head)->pool, buffer);
}

static void backend_destroy(vv_io_backend *b) {
    free(b);
}

static const struct vv_io_ops sim_ops = {
    .name = "sim",
    .backend_destroy = backend_destroy,
    .file_open = file_open,
    .file_close = file_close,
    .file_read = file_read,
    .file_write = file_write,
    .file_write_sync = file_write_sync,
    .file_sync = file_sync,
    .file_allocate = file_allocate,
    .file_truncate = file_truncate,
    .file_size = file_size,
    .path_rename = path_rename,
    .path_unlink = path_unlink,
    .path_exists = path_exists,
    .path_link = path_link,
    .dir_create = dir_create,
    .dir_remove = dir_remove,
    .dir_sync = dir_sync,
    .dir_list = dir_list,
    .dir_free_bytes = dir_free_bytes,
    .lock_acquire = lock_acquire,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_submit = queue_submit,
    .queue_run = queue_run,
    .queue_buffer_take = queue_buffer_take,
    .queue_buffer_give = queue_buffer_give,
};

vv_io_backend *vv_sim_backend_create(vv_sim_disk *d) {
    sim_backend *b = vv_sim_alloc(sizeof *b);
    b->head.ops = &sim_ops;
    b->disk = d;
    return &b->head;
}

/* ---- disks ---- */

vv_sim_disk *vv_sim_disk_create(const vv_sim_options *o) {
    vv_sim_disk *d = vv_sim_alloc(sizeof *d);
    d->options = *o;
    if (!d->options.align_bytes)
        d->options.align_bytes = VV_IO_ALIGN_BYTES;
    if (!d->options.atomic_block_bytes)
        d->options.atomic_block_bytes = 4096;
    if (pthread_mutex_init(&d->lock, NULL) != 0)
        abort();
    d->root = vv_sim_node_create(d, true);
    vv_sim_node_ref(d->root);
    return d;
}

void vv_sim_disk_destroy(vv_sim_disk *d) {
    if (!d)
        return;
    VV_ASSERT(d->open_count == 0);
    vv_sim_node_unref(d, d->root);
    VV_ASSERT(d->used_bytes == 0); /* each file's references were counted right */
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void vv_sim_disk_set_hooks(vv_sim_disk *d, const vv_sim_hooks *hooks) {
    pthread_mutex_lock(&d->lock);
    d->hooks = *hooks;
    pthread_mutex_unlock(&d->lock);
}

void vv_sim_disk_power_off(vv_sim_disk *d) {
    pthread_mutex_lock(&d->lock);
    d->off = true;
    pthread_mutex_unlock(&d->lock);
}

uint64_t vv_sim_disk_events(vv_sim_disk *d) {
    pthread_mutex_lock(&d->lock);
    uint64_t n = d->events;
    pthread_mutex_unlock(&d->lock);
    return n;
}

uint64_t vv_sim_disk_faults(vv_sim_disk *d, vv_sim_fault fault) {
    pthread_mutex_lock(&d->lock);
    uint64_t n = d->faults[fault];
    pthread_mutex_unlock(&d->lock);
    return n;
}
