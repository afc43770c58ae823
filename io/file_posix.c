/*
 * file_posix.c - files of the real file system, by blocking system calls.
 *
 * Why acknowledged bytes survive
 *   - file_write_sync is pwritev2(RWF_DSYNC): the kernel answers only after these bytes, and the size needed
 *     to read them, are on the medium (a device flush, or FUA). Each part of a short transfer is synced by
 *     its own call. Without RWF_DSYNC: pwrite, then fdatasync, both of which must succeed.
 *   - file_sync is one fdatasync or fsync. Its failure is final, EINTR included: after a failure the kernel
 *     may have dropped the dirty mark of pages that never reached the disk, so that a second call would
 *     report a success that isn't one.
 *   - close() syncs nothing, and its result says nothing about data.
 *
 * Thread-safe without locks of its own: offsets are explicit, and a file's fields don't change after open.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"

#define BLOCK_BYTES_UNKNOWN 4096
#define BLOCK_BYTES_LEAST   512
#define BLOCK_BYTES_MOST    65536

vv_io_syscalls vv_io_sys = {
    .pread = pread,
    .pwrite = pwrite,
    .pwritev2 = pwritev2,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .fallocate = fallocate,
};

static bool power_of_two(uint64_t n) {
    return n != 0 && (n & (n - 1)) == 0;
}

/* A small number in a file of sysfs; 0 if there is none. */
static uint32_t read_number(const char *path) {
    FILE *in = fopen(path, "re");
    if (!in)
        return 0;
    char text[32] = "";
    char *got = fgets(text, sizeof text, in);
    fclose(in);
    return got ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

uint32_t vv_posix_device_block_bytes(const char *sysfs, uint32_t major, uint32_t minor) {
    char path[256];
    snprintf(path, sizeof path, "%s/dev/block/%u:%u/queue/physical_block_size", sysfs, major, minor);
    uint32_t bytes = read_number(path);
    if (bytes == 0) { /* a partition: the link leads below its disk's folder */
        snprintf(path, sizeof path, "%s/dev/block/%u:%u/../queue/physical_block_size", sysfs, major, minor);
        bytes = read_number(path);
    }
    if (!power_of_two(bytes) || bytes < BLOCK_BYTES_LEAST || bytes > BLOCK_BYTES_MOST)
        return BLOCK_BYTES_UNKNOWN;
    return bytes;
}

static uint32_t device_block_bytes(vv_posix_backend *b, uint32_t major, uint32_t minor) {
    vv_mutex_lock(&b->mu.lock);
    if (!b->mu.known || b->mu.major != major || b->mu.minor != minor) {
        b->mu.block_bytes = vv_posix_device_block_bytes("/sys", major, minor);
        b->mu.major = major;
        b->mu.minor = minor;
        b->mu.known = true;
    }
    uint32_t bytes = b->mu.block_bytes;
    vv_mutex_unlock(&b->mu.lock);
    return bytes;
}

static int open_flags(uint32_t flags) {
    int os = O_CLOEXEC;
    if ((flags & VV_OPEN_READ) && (flags & VV_OPEN_WRITE))
        os |= O_RDWR;
    else
        os |= (flags & VV_OPEN_WRITE) ? O_WRONLY : O_RDONLY;
    if (flags & VV_OPEN_CREATE)
        os |= O_CREAT;
    if (flags & VV_OPEN_EXCLUSIVE)
        os |= O_EXCL;
    if (flags & VV_OPEN_TRUNCATE)
        os |= O_TRUNC;
    return os;
}

static int open_retrying(const char *path, int os_flags) {
    int fd;
    do {
        fd = open(path, os_flags, 0640);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* The alignment of direct I/O on the open file that `sx` describes; 0: none that fits VV_IO_ALIGN_BYTES. */
static uint32_t direct_align_bytes(const struct statx *sx) {
    if (!(sx->stx_mask & STATX_DIOALIGN)) /* a kernel or file system that can't tell: what all accept */
        return VV_IO_ALIGN_BYTES;
    uint32_t mem = sx->stx_dio_mem_align, offset = sx->stx_dio_offset_align;
    uint32_t align = mem > offset ? mem : offset;
    return power_of_two(align) && align <= VV_IO_ALIGN_BYTES ? align : 0;
}

vv_status vv_posix_file_adopt(vv_io_backend *b, int fd, vv_file **out) {
    vv_posix_file *f = vv_alloc_zeroed(sizeof *f);
    if (!f) {
        close(fd);
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    f->head =
        (vv_file){.ops = b->ops, .backend = b, .align_bytes = 1, .atomic_block_bytes = BLOCK_BYTES_UNKNOWN};
    f->fd = fd;
    atomic_init(&f->no_dsync, false);
    *out = &f->head;
    return VV_STATUS_OK;
}

/* Fill in what depends on the file system and the device; makes a direct file buffered where it must. */
static vv_status describe(vv_posix_file *f, uint32_t flags, bool direct) {
    struct statx sx;
    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_DIOALIGN, &sx) != 0)
        return vv_status_errno(errno);
    if (S_ISDIR(sx.stx_mode))
        return vv_status_errno(EISDIR);
    if (direct) {
        uint32_t align = direct_align_bytes(&sx);
        if (align == 0) {
            int os = fcntl(f->fd, F_GETFL);
            if (os < 0 || fcntl(f->fd, F_SETFL, os & ~O_DIRECT) != 0)
                return vv_status_errno(errno);
            direct = false;
        } else {
            f->head.align_bytes = align;
        }
    }
    if (!direct && (flags & VV_OPEN_RANDOM))
        posix_fadvise(f->fd, 0, 0, POSIX_FADV_RANDOM); /* advice: its failure changes nothing but speed */
    f->head.atomic_block_bytes =
        device_block_bytes((vv_posix_backend *)f->head.backend, sx.stx_dev_major, sx.stx_dev_minor);
    return VV_STATUS_OK;
}

vv_status vv_posix_file_open(vv_io_backend *b, const char *path, uint32_t flags, vv_file **out,
                             vv_error *err) {
    VV_ASSERT(!(flags & VV_OPEN_EXCLUSIVE) || (flags & VV_OPEN_CREATE));
    int os_flags = open_flags(flags);
    bool direct = (flags & VV_OPEN_DIRECT) != 0;
    int fd = open_retrying(path, direct ? os_flags | O_DIRECT : os_flags);
    if (fd < 0 && direct && errno == EINVAL) {
        /* The file system has no direct I/O. Some create the file before they say so: that one is ours. */
        direct = false;
        fd = open_retrying(path, os_flags & ~O_EXCL);
    }
    if (fd < 0)
        return vv_fail(err, vv_status_errno(errno), "%s", path);

    vv_file *f = NULL;
    vv_status st = vv_posix_file_adopt(b, fd, &f);
    if (vv_ok(st))
        st = describe((vv_posix_file *)f, flags, direct);
    if (!vv_ok(st)) {
        vv_file_close(f);
        if (flags & VV_OPEN_EXCLUSIVE) /* made by this call, which did not happen */
            (void)unlink(path);
        return vv_fail(err, st, "%s: open", path);
    }
    *out = f;
    return VV_STATUS_OK;
}

void vv_posix_file_close(vv_file *f) {
    close(vv_posix_fd(f)); /* never repeated: Linux has given the number back whatever it answers */
    vv_free(f);
}

/* After a transfer failed with errno: true if it should be tried again, as it should only so many times. */
static bool retry(uint32_t *retries) {
    if ((errno != EINTR && errno != EAGAIN) || ++*retries > VV_IO_RETRIES_MAX)
        return false;
    if (errno == EAGAIN)
        sched_yield();
    return true;
}

vv_status vv_posix_file_read(vv_file *f, void *buf, size_t bytes, uint64_t offset, size_t *read_out) {
    size_t done = 0;
    uint32_t retries = 0;
    while (done < bytes) {
        ssize_t n = vv_io_sys.pread(vv_posix_fd(f), (char *)buf + done, bytes - done, (off_t)(offset + done));
        if (n < 0) {
            if (retry(&retries))
                continue;
            return vv_status_errno(errno);
        }
        retries = 0;
        done += (size_t)n;
        if (vv_posix_read_ended(f, (size_t)n))
            break;
    }
    *read_out = done;
    return VV_STATUS_OK;
}

/* Write all, each part by pwritev2 with `rw_flags` if that isn't 0, else by pwrite. */
static vv_status write_all(vv_file *f, const void *buf, size_t bytes, uint64_t offset, int rw_flags) {
    size_t done = 0;
    uint32_t retries = 0;
    while (done < bytes) {
        const char *from = (const char *)buf + done;
        off_t at = (off_t)(offset + done);
        ssize_t n;
        if (rw_flags != 0) {
            union { /* struct iovec has no const */
                const void *in;
                void *out;
            } base = {.in = from};
            struct iovec iov = {.iov_base = base.out, .iov_len = bytes - done};
            n = vv_io_sys.pwritev2(vv_posix_fd(f), &iov, 1, at, rw_flags);
        } else {
            n = vv_io_sys.pwrite(vv_posix_fd(f), from, bytes - done, at);
        }
        if (n < 0) {
            if (retry(&retries))
                continue;
            return vv_status_errno(errno);
        }
        if (n == 0) /* nothing taken and no reason given: going on could last forever */
            return vv_status_make(VV_IO, VV_SUB_SHORT_TRANSFER, 0);
        retries = 0;
        done += (size_t)n;
    }
    return VV_STATUS_OK;
}

vv_status vv_posix_file_write(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    return write_all(f, buf, bytes, offset, 0);
}

vv_status vv_posix_file_write_sync(vv_file *f, const void *buf, size_t bytes, uint64_t offset) {
    vv_posix_file *pf = (vv_posix_file *)f;
    if (!atomic_load_explicit(&pf->no_dsync, memory_order_relaxed)) {
        vv_status st = write_all(f, buf, bytes, offset, RWF_DSYNC);
        if (st.sys != EOPNOTSUPP && st.sys != ENOSYS)
            return st;
        /* Refused before a byte was written: a kernel or sandbox without the flag. */
        atomic_store_explicit(&pf->no_dsync, true, memory_order_relaxed);
    }
    VV_TRY(write_all(f, buf, bytes, offset, 0));
    return vv_posix_file_sync(f, VV_SYNC_DATA);
}

vv_status vv_posix_file_sync(vv_file *f, vv_sync_kind kind) {
    int fd = vv_posix_fd(f);
    int rc = kind == VV_SYNC_FULL ? vv_io_sys.fsync(fd) : vv_io_sys.fdatasync(fd);
    return rc == 0 ? VV_STATUS_OK : vv_status_errno(errno);
}

vv_status vv_posix_file_truncate(vv_file *f, uint64_t bytes) {
    int rc;
    do {
        rc = ftruncate(vv_posix_fd(f), (off_t)bytes);
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? VV_STATUS_OK : vv_status_errno(errno);
}

vv_status vv_posix_file_size(vv_file *f, uint64_t *bytes_out) {
    struct stat st;
    if (fstat(vv_posix_fd(f), &st) != 0)
        return vv_status_errno(errno);
    *bytes_out = (uint64_t)st.st_size;
    return VV_STATUS_OK;
}

vv_status vv_posix_file_allocate(vv_file *f, uint64_t bytes) {
    if (bytes == 0)
        return VV_STATUS_OK;
    uint32_t retries = 0;
    while (vv_io_sys.fallocate(vv_posix_fd(f), 0, 0, (off_t)bytes) != 0) {
        if (retry(&retries))
            continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return vv_status_errno(errno);
        uint64_t size = 0; /* no reservation to be had: at least the size, as promised */
        VV_TRY(vv_posix_file_size(f, &size));
        return size < bytes ? vv_posix_file_truncate(f, bytes) : VV_STATUS_OK;
    }
    return VV_STATUS_OK;
}
