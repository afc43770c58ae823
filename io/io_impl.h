/*
 * io_impl.h - what the backends that work on the real file system share. For io/ and its tests only.
 *
 * posix and uring differ in their queues alone: files, names, directories and locks are the same blocking
 * system calls (file_posix.c, dir_posix.c), on the same structs.
 */
#ifndef VV_IO_IO_IMPL_H
#define VV_IO_IO_IMPL_H

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/sync.h"
#include "io/io.h"

/*
 * The system calls whose failures a healthy disk never shows. Tests replace entries, before they start any
 * thread, to see short transfers, EINTR and failing syncs; nothing else writes here.
 */
typedef struct vv_io_syscalls {
    ssize_t (*pread)(int fd, void *buf, size_t bytes, off_t offset);
    ssize_t (*pwrite)(int fd, const void *buf, size_t bytes, off_t offset);
    ssize_t (*pwritev2)(int fd, const struct iovec *iov, int count, off_t offset, int flags);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*fallocate)(int fd, int mode, off_t offset, off_t bytes);
} vv_io_syscalls;

extern vv_io_syscalls vv_io_sys;

/* EINTR and EAGAIN in a row before a transfer counts as failed: far beyond what a working kernel gives, but
 * a bound. */
#define VV_IO_RETRIES_MAX 1000

/* A directory that was opened ahead of its syncs. Does not change while it is in the list. */
typedef struct vv_posix_dir {
    struct vv_posix_dir *next;
    int fd;
    dev_t device;
    ino_t inode;
    char path[];
} vv_posix_dir;

/* The backend of both. Locking: mu.lock guards the rest of mu. */
typedef struct vv_posix_backend {
    vv_io_backend head;
    const vv_logger *logger;
    /* uring alone: the set-up flags that this kernel takes, and how much of the memlock limit pools use */
    unsigned ring_flags;
    uint64_t registered_bytes_max;
    _Atomic uint64_t registered_bytes;
    struct {
        vv_mutex lock;
        bool known; /* the device of the last open, so that a table cache doesn't read sysfs each time */
        uint32_t major, minor;
        uint32_t block_bytes;
        vv_posix_dir *held; /* until the backend goes */
    } mu;
} vv_posix_backend;

/* Call back the requests from `due` on, linked by `next`. How many they were. */
static inline uint32_t vv_io_call_back(vv_io_queue *q, vv_io_req *due) {
    uint32_t called = 0;
    while (due) {
        vv_io_req *req = due;
        due = req->next; /* the callback may submit it again */
        q->in_flight--;
        called++;
        req->done(req);
    }
    return called;
}

typedef struct vv_posix_file {
    vv_file head;
    int fd;
    _Atomic bool no_dsync; /* the kernel has refused pwritev2(RWF_DSYNC) here: pwrite and fdatasync instead */
} vv_posix_file;

static inline int vv_posix_fd(const vv_file *f) {
    return ((const vv_posix_file *)f)->fd;
}

/* A backend with `ops` and no device known. */
vv_status vv_posix_backend_make(const struct vv_io_ops *ops, const vv_logger *lg, vv_posix_backend **out,
                                vv_error *err) VV_CHECKED;
vv_status vv_posix_backend_create(const vv_logger *lg, vv_io_backend **out, vv_error *err) VV_CHECKED;
void vv_posix_backend_destroy(vv_io_backend *b);

/* UNSUPPORTED where the kernel gives no working ring: the words say why. *flags_out names the set-up flags of
 * its rings (static). */
vv_status vv_uring_backend_create(const vv_logger *lg, vv_io_backend **out, const char **flags_out,
                                  vv_error *err) VV_CHECKED;

/* file_posix.c */
vv_status vv_posix_file_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out,
                             vv_error *err) VV_CHECKED;
void vv_posix_file_close(vv_file *f);
vv_status vv_posix_file_read(vv_file *f, void *buf, size_t bytes, uint64_t offset,
                             size_t *read_out) VV_CHECKED;
vv_status vv_posix_file_write(vv_file *f, const void *buf, size_t bytes, uint64_t offset) VV_CHECKED;
vv_status vv_posix_file_write_sync(vv_file *f, const void *buf, size_t bytes, uint64_t offset) VV_CHECKED;
vv_status vv_posix_file_sync(vv_file *f, vv_sync_kind kind) VV_CHECKED;
vv_status vv_posix_file_allocate(vv_file *f, uint64_t bytes) VV_CHECKED;
vv_status vv_posix_file_truncate(vv_file *f, uint64_t bytes) VV_CHECKED;
vv_status vv_posix_file_size(vv_file *f, uint64_t *bytes_out) VV_CHECKED;

/* Wrap `fd`, which becomes the file's, in a buffered file; on failure fd is closed. */
vv_status vv_posix_file_adopt(vv_io_backend *b, int fd, vv_file **out) VV_CHECKED;

/* Whether a read that gave `got` of `wanted` bytes has met the end of the file: direct reads end inside a
 * block only there, and could not go on from inside one anyway. */
static inline bool vv_posix_read_ended(const vv_file *f, size_t got) {
    return got == 0 || (got & (f->align_bytes - 1)) != 0;
}

/* The physical block of the block device major:minor below `sysfs` ("/sys"), a partition's from its disk;
 * 4096 if unknown or absurd. */
uint32_t vv_posix_device_block_bytes(const char *sysfs, uint32_t major, uint32_t minor);

/* dir_posix.c */
vv_status vv_posix_path_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) VV_CHECKED;
vv_status vv_posix_path_unlink(vv_io_backend *b, const char *path, vv_error *err) VV_CHECKED;
vv_status vv_posix_path_exists(vv_io_backend *b, const char *path, bool *exists_out,
                               vv_error *err) VV_CHECKED;
vv_status vv_posix_path_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) VV_CHECKED;
vv_status vv_posix_dir_create(vv_io_backend *b, const char *path, vv_error *err) VV_CHECKED;
vv_status vv_posix_dir_remove(vv_io_backend *b, const char *path, vv_error *err) VV_CHECKED;
vv_status vv_posix_dir_sync(vv_io_backend *b, const char *path, vv_error *err) VV_CHECKED;
vv_status vv_posix_dir_hold(vv_io_backend *b, const char *path, vv_error *err) VV_CHECKED;
/* At the backend's end. */
void vv_posix_dirs_release(vv_posix_backend *b);
vv_status vv_posix_dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg,
                            vv_error *err) VV_CHECKED;
vv_status vv_posix_dir_free_bytes(vv_io_backend *b, const char *path, uint64_t *bytes_out,
                                  vv_error *err) VV_CHECKED;
vv_status vv_posix_lock_acquire(vv_io_backend *b, const char *path, vv_file **lock_out,
                                vv_error *err) VV_CHECKED;

/* The part of an ops table that both backends share. */
#define VV_POSIX_FILE_OPS                                                                                    \
    .backend_destroy = vv_posix_backend_destroy, .file_open = vv_posix_file_open,                            \
    .file_close = vv_posix_file_close, .file_read = vv_posix_file_read, .file_write = vv_posix_file_write,   \
    .file_write_sync = vv_posix_file_write_sync, .file_sync = vv_posix_file_sync,                            \
    .file_allocate = vv_posix_file_allocate, .file_truncate = vv_posix_file_truncate,                        \
    .file_size = vv_posix_file_size, .path_rename = vv_posix_path_rename,                                    \
    .path_unlink = vv_posix_path_unlink, .path_exists = vv_posix_path_exists,                                \
    .path_link = vv_posix_path_link, .dir_remove = vv_posix_dir_remove, .dir_create = vv_posix_dir_create,   \
    .dir_sync = vv_posix_dir_sync, .dir_hold = vv_posix_dir_hold, .dir_list = vv_posix_dir_list,             \
    .dir_free_bytes = vv_posix_dir_free_bytes, .lock_acquire = vv_posix_lock_acquire

#endif
