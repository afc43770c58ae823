/*
 * dir_posix.c - names, directories and the lock file of the real file system.
 *
 * A name is durable when its directory was synced after the change: dir_sync() is an fsync of the directory,
 * and its failure is as final as a file's. A process that has no descriptor left can't open a directory, and
 * what it would have to sync may have been renamed already: whoever depends on that holds the directory open
 * from the beginning (dir_hold()).
 */
#include "io/io_impl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"

vv_status vv_posix_path_rename(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    (void)b;
    if (rename(from, to) != 0)
        return vv_fail(err, vv_status_errno(errno), "%s: rename to %s", from, to);
    return VV_STATUS_OK;
}

vv_status vv_posix_path_unlink(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    if (unlink(path) != 0)
        return vv_fail(err, vv_status_errno(errno), "%s: unlink", path);
    return VV_STATUS_OK;
}

vv_status vv_posix_path_exists(vv_io_backend *b, const char *path, bool *exists_out, vv_error *err) {
    (void)b;
    struct stat st;
    if (stat(path, &st) == 0)
        *exists_out = true;
    else if (errno != ENOENT)
        return vv_fail(err, vv_status_errno(errno), "%s", path);
    return VV_STATUS_OK;
}

vv_status vv_posix_path_link(vv_io_backend *b, const char *from, const char *to, vv_error *err) {
    (void)b;
    if (link(from, to) == 0)
        return VV_STATUS_OK;
    vv_status st = vv_status_errno(errno);
    /* EPERM: a file system without links, or a file that the kernel protects from them. */
    if (errno == EXDEV || errno == EMLINK || errno == EPERM || errno == EOPNOTSUPP)
        st = vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, errno);
    return vv_fail(err, st, "%s: link to %s", from, to);
}

vv_status vv_posix_dir_remove(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    if (rmdir(path) != 0)
        return vv_fail(err, vv_status_errno(errno), "%s: remove directory", path);
    return VV_STATUS_OK;
}

vv_status vv_posix_dir_create(vv_io_backend *b, const char *path, vv_error *err) {
    (void)b;
    if (mkdir(path, 0750) == 0)
        return VV_STATUS_OK;
    int sys = errno;
    struct stat st;
    if (sys == EEXIST && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        sys = ENOTDIR;
    return vv_fail(err, vv_status_errno(sys), "%s: create directory", path);
}

static int open_dir(const char *path) {
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

vv_status vv_posix_dir_hold(vv_io_backend *b, const char *path, vv_error *err) {
    vv_posix_backend *p = (vv_posix_backend *)b;
    size_t bytes = strlen(path) + 1;
    struct stat st;
    vv_posix_dir *d = vv_alloc(sizeof *d + bytes);
    if (!d)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s: out of memory", path);
    d->fd = open_dir(path);
    if (d->fd < 0 || fstat(d->fd, &st) != 0) {
        vv_status failed = vv_status_errno(errno);
        if (d->fd >= 0)
            close(d->fd);
        vv_free(d);
        return vv_fail(err, failed, "%s: open directory", path);
    }
    d->device = st.st_dev;
    d->inode = st.st_ino;
    memcpy(d->path, path, bytes);
    vv_mutex_lock(&p->mu.lock);
    d->next = p->mu.held;
    p->mu.held = d;
    vv_mutex_unlock(&p->mu.lock);
    return VV_STATUS_OK;
}

void vv_posix_dirs_release(vv_posix_backend *b) {
    while (b->mu.held) {
        vv_posix_dir *d = b->mu.held;
        b->mu.held = d->next;
        close(d->fd);
        vv_free(d);
    }
}

/* The descriptor that is held for `path`, or -1. Names are changed by path: if by now another directory has
 * this one, that is the one to sync. (As long as it is open, no other gets its inode.) */
static int held_dir(vv_posix_backend *b, const char *path) {
    struct stat st;
    vv_mutex_lock(&b->mu.lock);
    const vv_posix_dir *d = b->mu.held;
    while (d && strcmp(d->path, path) != 0)
        d = d->next;
    vv_mutex_unlock(&b->mu.lock);
    bool same = d && stat(path, &st) == 0 && st.st_dev == d->device && st.st_ino == d->inode;
    return same ? d->fd : -1;
}

vv_status vv_posix_dir_sync(vv_io_backend *b, const char *path, vv_error *err) {
    int held = held_dir((vv_posix_backend *)b, path);
    int fd = held >= 0 ? held : open_dir(path);
    if (fd < 0)
        return vv_fail(err, vv_status_errno(errno), "%s: open directory", path);
    vv_status st = vv_io_sys.fsync(fd) == 0 ? VV_STATUS_OK : vv_status_errno(errno);
    if (fd != held)
        close(fd);
    return vv_ok(st) ? st : vv_fail(err, st, "%s: sync directory", path);
}

static vv_entry_kind entry_kind(DIR *dir, const struct dirent *entry) {
    unsigned char type = entry->d_type;
    if (type == DT_UNKNOWN) { /* some file systems don't say */
        struct stat st;
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            type = S_ISREG(st.st_mode) ? DT_REG : S_ISDIR(st.st_mode) ? DT_DIR : DT_UNKNOWN;
    }
    return type == DT_REG ? VV_ENTRY_FILE : type == DT_DIR ? VV_ENTRY_DIRECTORY : VV_ENTRY_OTHER;
}

vv_status vv_posix_dir_list(vv_io_backend *b, const char *path, vv_list_fn fn, void *arg, vv_error *err) {
    (void)b;
    DIR *dir = opendir(path);
    if (!dir)
        return vv_fail(err, vv_status_errno(errno), "%s: open directory", path);
    vv_status st = VV_STATUS_OK;
    while (vv_ok(st)) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            if (errno != 0)
                st = vv_fail(err, vv_status_errno(errno), "%s: list directory", path);
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            st = fn(arg, entry->d_name, entry_kind(dir, entry));
    }
    closedir(dir);
    return st;
}

vv_status vv_posix_dir_free_bytes(vv_io_backend *b, const char *path, uint64_t *bytes_out, vv_error *err) {
    (void)b;
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return vv_fail(err, vv_status_errno(errno), "%s: free space", path);
    *bytes_out = (uint64_t)fs.f_bavail * fs.f_frsize;
    return VV_STATUS_OK;
}

/* The words for a lock that somebody else has, with the pid that the holder has left in the file. */
static vv_status fail_locked(int fd, const char *path, vv_error *err) {
    vv_status st = vv_status_make(VV_LOCKED, VV_SUB_NONE, 0);
    char text[32] = "";
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;
    if (pid <= 0) /* between its lock and its write */
        return vv_fail(err, st, "%s: locked by another process", path);
    return vv_fail(err, st, "%s: locked by another process (pid %ld)", path, pid);
}

/*
 * An open file description lock: unlike fcntl's older locks it belongs to the descriptor, so that a second
 * handle of one process is refused and closing some other descriptor of the file doesn't release it.
 */
vv_status vv_posix_lock_acquire(vv_io_backend *b, const char *path, vv_file **lock_out, vv_error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return vv_fail(err, vv_status_errno(errno), "%s", path);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        vv_status st = errno == EAGAIN || errno == EACCES
                           ? fail_locked(fd, path, err)
                           : vv_fail(err, vv_status_errno(errno), "%s: lock", path);
        close(fd);
        return st;
    }
    /* The pid is for people: the lock holds without it, on a full disk for instance. */
    char text[32];
    int bytes = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)bytes, 0) != bytes)
        bytes = 0;
    vv_status st = vv_posix_file_adopt(b, fd, lock_out);
    return vv_ok(st) ? st : vv_fail(err, st, "%s: lock", path);
}
