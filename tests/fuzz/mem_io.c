#include "tests/fuzz/mem_io.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/fuzz/fuzz.h"

#define PATH_BYTES 512

/* A file or a directory. It goes with its last name and its last handle. */
typedef struct node {
    struct node *next;
    vv_entry_kind kind;
    uint8_t *data;
    uint64_t bytes;
    uint64_t capacity;
    uint32_t handles;
    uint32_t names;
    bool locked;
} node;

typedef struct name {
    struct name *next;
    node *node;
    vv_entry_kind kind;
    char path[PATH_BYTES];
} name;

typedef struct disk {
    vv_io_backend head;
    pthread_mutex_t lock; /* guards all that follows, and the bytes of all files */
    name *names;
    uint64_t used_bytes;
    uint32_t refs;
} disk;

typedef struct mem_file {
    vv_file head;
    node *node;
    bool is_lock;
} mem_file;

typedef struct mem_queue {
    vv_io_queue head;
    vv_io_req *first;
    vv_io_req **last;
    void *buffers[64];
    uint32_t buffer_count;
} mem_queue;

static const struct vv_io_ops ops;

static disk *disk_of(vv_io_backend *b) {
    return (disk *)b;
}

static node *node_of(vv_file *f) {
    return ((mem_file *)f)->node;
}

static void *must_alloc(size_t bytes) {
    void *p = calloc(1, bytes);
    FUZZ_CHECK(p);
    return p;
}

static void lock(disk *d) {
    FUZZ_CHECK(pthread_mutex_lock(&d->lock) == 0);
}

static void unlock(disk *d) {
    FUZZ_CHECK(pthread_mutex_unlock(&d->lock) == 0);
}

/* ---- with the lock ---- */

static name **find(disk *d, const char *path) {
    name **at = &d->names;
    while (*at && strcmp((*at)->path, path) != 0)
        at = &(*at)->next;
    return at;
}

static void forget_node(disk *d, node *n) {
    if (n->names > 0 || n->handles > 0)
        return;
    d->used_bytes -= n->capacity;
    free(n->data);
    free(n);
}

static void add_name(disk *d, const char *path, node *n) {
    name *e = must_alloc(sizeof *e);
    FUZZ_CHECK(strlen(path) < PATH_BYTES);
    snprintf(e->path, sizeof e->path, "%s", path);
    e->node = n;
    e->kind = n->kind;
    n->names++;
    e->next = d->names;
    d->names = e;
}

static void drop_name(disk *d, name **at) {
    name *e = *at;
    *at = e->next;
    e->node->names--;
    forget_node(d, e->node);
    free(e);
}

static node *add_node(disk *d, const char *path, vv_entry_kind kind) {
    node *n = must_alloc(sizeof *n);
    n->kind = kind;
    add_name(d, path, n);
    return n;
}

static vv_status grow(disk *d, node *n, uint64_t bytes) {
    if (bytes > n->capacity) {
        uint64_t capacity = VV_MAX(bytes, 2 * n->capacity);
        if (bytes > FUZZ_DISK_BYTES || d->used_bytes - n->capacity + capacity > FUZZ_DISK_BYTES)
            return vv_status_make(VV_NO_SPACE, VV_SUB_NONE, 0);
        d->used_bytes += capacity - n->capacity;
        n->data = realloc(n->data, capacity);
        FUZZ_CHECK(n->data);
        n->capacity = capacity;
    }
    if (bytes > n->bytes) {
        memset(n->data + n->bytes, 0, bytes - n->bytes);
        n->bytes = bytes;
    }
    return VV_STATUS_OK;
}

static vv_status not_found(void) {
    return vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0);
}

static vv_status exists(void) {
    return vv_status_make(VV_EXISTS, VV_SUB_NONE, 0);
}

static vv_file *open_node(vv_io_backend *b, node *n, uint32_t align_bytes) {
    mem_file *f = must_alloc(sizeof *f);
    f->head = (vv_file){
        .ops = &ops, .backend = b, .align_bytes = align_bytes, .atomic_block_bytes = FUZZ_DISK_BLOCK_BYTES};
    f->node = n;
    n->handles++;
    return &f->head;
}

/* ---- files ---- */

static vv_status file_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out, vv_error *err) {
    disk *d = disk_of(b);
    vv_status st = VV_STATUS_OK;
    lock(d);
    name *e = *find(d, path);
    node *n = e ? e->node : NULL;
    if (n && (flags & VV_OPEN_CREATE) && (flags & VV_OPEN_EXCLUSIVE))
        st = exists();
    else if (n && n->kind != VV_ENTRY_FILE)
        st = vv_status_make(VV_IO, VV_SUB_NONE, 0);
    else if (!n && !(flags & VV_OPEN_CREATE))
        st = not_found();
    if (vv_ok(st)) {
        n = n ? n : add_node(d, path, VV_ENTRY_FILE);
        if (flags & VV_OPEN_TRUNCATE)
            n->bytes = 0;
        *out = open_node(b, n, flags & VV_OPEN_DIRECT ? FUZZ_DISK_BLOCK_BYTES : 1);
    }
    unlock(d);
    return vv_ok(st) ? st : vv_fail(err, st, "%s", path);
}

static void file_close(vv_file *f) {
    disk *d = disk_of(f->backend);
    mem_file *m = (mem_file *)f;
    lock(d);
    if (m->is_lock)
        m->node->locked = false;
    m->node->handles--;
    forget_node(d, m->node);
    unlock(d);
    free(m);
}

static vv_status file_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    disk *d = disk_of(f->backend);
    node *n = node_of(f);
    lock(d);
    *read_out = offset < n->bytes ? VV_MIN(bytes, n->bytes - offset) : 0;
    if (*read_out)
        memcpy(buf, n->data + offset, *read_out);
    unlock(d);
    return VV_STATUS_OK;
}

static vv_status file_write(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    disk *d = disk_of(f->backend);
    node *n = node_of(f);
    lock(d);
    vv_status st = offset > FUZZ_DISK_BYTES || bytes > FUZZ_DISK_BYTES
                       ? vv_status_make(VV_NO_SPACE, VV_SUB_NONE, 0)
                       : grow(d, n, offset + bytes);
    if (vv_ok(st) && bytes)
        memcpy(n->data + offset, buf, bytes);
    unlock(d);
    return st;
}

static vv_status file_sync(vv_file *f, vv_sync_kind kind) {
    (void)f;
    (void)kind;
    return VV_STATUS_OK;
}

static vv_status file_allocate(vv_file *f, uint64_t bytes) {
    disk *d = disk_of(f->backend);
    lock(d);
    vv_status st = grow(d, node_of(f), bytes);
    unlock(d);
    return st;
}

static vv_status file_truncate(vv_file *f, uint64_t bytes) {
    disk *d = disk_of(f->backend);
    node *n = node_of(f);
    lock(d);
    vv_status st = grow(d, n, bytes);
    if (vv_ok(st))
        n->bytes = bytes;
    unlock(d);
    return st;
}

static vv_status file_size(vv_file *f, uint64_t *bytes_out) {
    disk *d = disk_of(f->backend);
    lock(d);
    *bytes_out = node_of(f)->bytes;
    unlock(d);
    return VV_STATUS_OK;
}

/* ---- names ---- */

static vv_status path_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    disk *d = disk_of(b);
    vv_status st = VV_STATUS_OK;
    lock(d);
    name *e = *find(d, from);
    if (!e) {
        st = not_found();
    } else if (strcmp(from, to) != 0) {
        name **old = find(d, to);
        if (*old)
            drop_name(d, old);
        FUZZ_CHECK(strlen(to) < PATH_BYTES);
        size_t from_bytes = strlen(from);
        /* What is in a directory goes with it. */
        for (name *inner = d->names; inner; inner = inner->next) {
            if (strncmp(inner->path, from, from_bytes) != 0 || inner->path[from_bytes] != '/')
                continue;
            char path[2 * PATH_BYTES];
            snprintf(path, sizeof path, "%s%s", to, inner->path + from_bytes);
            FUZZ_CHECK(strlen(path) < PATH_BYTES);
            memcpy(inner->path, path, strlen(path) + 1);
        }
        memmove(e->path, to, strlen(to) + 1);
    }
    unlock(d);
    return vv_ok(st) ? st : vv_fail(err, st, "%s", from);
}

static vv_status remove_name(vv_io_backend *b, const char *path, bool directory, vv_error *err) {
    disk *d = disk_of(b);
    vv_status st = VV_STATUS_OK;
    lock(d);
    name **at = find(d, path);
    if (!*at)
        st = not_found();
    else if (((*at)->node->kind == VV_ENTRY_DIRECTORY) != directory)
        st = vv_status_make(VV_IO, VV_SUB_NONE, 0);
    size_t bytes = strlen(path);
    for (name *e = directory ? d->names : NULL; e && vv_ok(st); e = e->next)
        if (strncmp(e->path, path, bytes) == 0 && e->path[bytes] == '/')
            st = vv_status_make(VV_IO, VV_SUB_NONE, 0); /* not empty */
    if (vv_ok(st))
        drop_name(d, at);
    unlock(d);
    return vv_ok(st) ? st : vv_fail(err, st, "%s", path);
}

static vv_status path_unlink(vv_io_backend *b, const char *path, vv_error *err) {
    return remove_name(b, path, false, err);
}

static vv_status dir_remove(vv_io_backend *b, const char *path, vv_error *err) {
    return remove_name(b, path, true, err);
}

static vv_status path_exists(vv_io_backend *b, const char *path, bool *exists_out, vv_error *err) {
    (void)err;
    disk *d = disk_of(b);
    lock(d);
    *exists_out = *find(d, path) != NULL;
    unlock(d);
    return VV_STATUS_OK;
}

static vv_status path_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    disk *d = disk_of(b);
    lock(d);
    name *e = *find(d, from);
    vv_status st = !e ? not_found() : *find(d, to) ? exists() : VV_STATUS_OK;
    if (vv_ok(st))
        add_name(d, to, e->node);
    unlock(d);
    return vv_ok(st) ? st : vv_fail(err, st, "%s", to);
}

static vv_status dir_create(vv_io_backend *b, const char *path, vv_error *err) {
    disk *d = disk_of(b);
    lock(d);
    vv_status st = *find(d, path) ? exists() : VV_STATUS_OK;
    if (vv_ok(st))
        add_node(d, path, VV_ENTRY_DIRECTORY);
    unlock(d);
    return vv_ok(st) ? st : vv_fail(err, st, "%s", path);
}

static vv_status dir_sync(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    (void)path;
    (void)err;
    return VV_STATUS_OK;
}

/* The callback may do I/O, so that the names are copied first. */
static vv_status dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err) {
    disk *d = disk_of(b);
    size_t bytes = strlen(path);
    name *copies = NULL;
    lock(d);
    name *dir = *find(d, path);
    vv_status st = dir ? VV_STATUS_OK : not_found();
    for (name *e = d->names; e && vv_ok(st); e = e->next) {
        if (strncmp(e->path, path, bytes) != 0 || e->path[bytes] != '/' || strchr(e->path + bytes + 1, '/'))
            continue;
        name *copy = must_alloc(sizeof *copy);
        *copy = *e;
        copy->next = copies;
        copies = copy;
    }
    unlock(d);
    if (!vv_ok(st))
        return vv_fail(err, st, "%s", path);
    for (name *next; copies; copies = next) {
        next = copies->next;
        if (vv_ok(st))
            st = fn(arg, copies->path + bytes + 1, copies->kind);
        free(copies);
    }
    return st;
}

static vv_status dir_free_bytes(vv_io_backend *b, const char *path, uint64_t *bytes_out, vv_error *err) {
    (void)path;
    (void)err;
    disk *d = disk_of(b);
    lock(d);
    *bytes_out = FUZZ_DISK_BYTES - d->used_bytes;
    unlock(d);
    return VV_STATUS_OK;
}

static vv_status lock_acquire(vv_io_backend *b, const char *path, vv_file **lock_out, vv_error *err) {
    disk *d = disk_of(b);
    lock(d);
    name *e = *find(d, path);
    node *n = e ? e->node : add_node(d, path, VV_ENTRY_FILE);
    vv_status st = n->locked ? vv_status_make(VV_LOCKED, VV_SUB_NONE, 0) : VV_STATUS_OK;
    if (vv_ok(st)) {
        n->locked = true;
        *lock_out = open_node(b, n, 1);
        ((mem_file *)*lock_out)->is_lock = true;
    }
    unlock(d);
    return vv_ok(st) ? st : vv_fail(err, st, "%s", path);
}

/* ---- queues: a request is done when the queue runs ---- */

static vv_status queue_create(vv_io_backend *b, const vv_io_queue_options *o, vv_io_queue **out,
                              vv_error *err) {
    (void)b;
    (void)err;
    mem_queue *q = must_alloc(sizeof *q);
    q->head.ops = &ops;
    q->head.options = *o;
    q->last = &q->first;
    FUZZ_CHECK(o->pool_buffer_count <= VV_ARRAY_COUNT(q->buffers));
    for (uint32_t i = 0; i < o->pool_buffer_count; i++)
        FUZZ_CHECK(posix_memalign(&q->buffers[q->buffer_count++], VV_IO_ALIGN_BYTES, o->pool_buffer_bytes) ==
                   0);
    *out = &q->head;
    return VV_STATUS_OK;
}

static void queue_destroy(vv_io_queue *head) {
    mem_queue *q = (mem_queue *)head;
    while (q->buffer_count > 0)
        free(q->buffers[--q->buffer_count]);
    free(q);
}

static void queue_submit(vv_io_queue *head, vv_io_req *req) {
    mem_queue *q = (mem_queue *)head;
    req->next = NULL;
    *q->last = req;
    q->last = &req->next;
    q->head.in_flight++;
}

static vv_status execute(vv_io_req *req) {
    size_t done = req->bytes;
    vv_status st = VV_STATUS_OK;
    if (req->op == VV_IO_READ)
        st = file_read(req->file, req->buf, req->bytes, req->offset, &done);
    else if (req->op != VV_IO_SYNC)
        st = file_write(req->file, req->buf, req->bytes, req->offset);
    req->transferred_bytes = (uint32_t)done;
    return st;
}

static vv_status queue_run(vv_io_queue *head, uint32_t min_done, uint32_t *done_out) {
    mem_queue *q = (mem_queue *)head;
    (void)min_done;
    *done_out = 0;
    while (q->first) {
        vv_io_req *req = q->first;
        q->first = req->next;
        if (!q->first)
            q->last = &q->first;
        q->head.in_flight--;
        req->status = execute(req);
        (*done_out)++;
        req->done(req);
    }
    return VV_STATUS_OK;
}

static void *queue_buffer_take(vv_io_queue *head) {
    mem_queue *q = (mem_queue *)head;
    return q->buffer_count ? q->buffers[--q->buffer_count] : NULL;
}

static void queue_buffer_give(vv_io_queue *head, void *buffer) {
    mem_queue *q = (mem_queue *)head;
    q->buffers[q->buffer_count++] = buffer;
}

/* ---- the disk ---- */

static void backend_destroy(vv_io_backend *b) {
    disk *d = disk_of(b);
    lock(d);
    bool last = --d->refs == 0;
    unlock(d);
    if (!last)
        return;
    while (d->names) {
        FUZZ_CHECK(d->names->node->handles == 0, "%s is still open", d->names->path);
        drop_name(d, &d->names);
    }
    FUZZ_CHECK(d->used_bytes == 0, "a file without a name is still open");
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static const struct vv_io_ops ops = {
    .name = "memory",
    .backend_destroy = backend_destroy,
    .file_open = file_open,
    .file_close = file_close,
    .file_read = file_read,
    .file_write = file_write,
    .file_write_sync = file_write,
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

vv_io_backend *fuzz_disk_create(void) {
    disk *d = must_alloc(sizeof *d);
    d->head.ops = &ops;
    d->refs = 1;
    FUZZ_CHECK(pthread_mutex_init(&d->lock, NULL) == 0);
    add_node(d, "/d", VV_ENTRY_DIRECTORY);
    return &d->head;
}

vv_io_backend *fuzz_disk_ref(vv_io_backend *b) {
    disk *d = disk_of(b);
    lock(d);
    d->refs++;
    unlock(d);
    return b;
}

void fuzz_disk_put(vv_io_backend *b, const char *path, vv_slice bytes) {
    disk *d = disk_of(b);
    lock(d);
    name **at = find(d, path);
    if (*at)
        drop_name(d, at);
    node *n = add_node(d, path, VV_ENTRY_FILE);
    FUZZ_CHECK(vv_ok(grow(d, n, bytes.bytes)));
    if (bytes.bytes)
        memcpy(n->data, bytes.data, bytes.bytes);
    unlock(d);
}

const uint8_t *fuzz_disk_get(vv_io_backend *b, const char *path, size_t *bytes_out) {
    disk *d = disk_of(b);
    lock(d);
    name *e = *find(d, path);
    *bytes_out = e ? e->node->bytes : 0;
    unlock(d);
    return e ? e->node->data : NULL;
}
