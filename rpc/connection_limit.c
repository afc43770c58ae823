#include "rpc/connection_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"

static _Atomic uint64_t limit, refused;

/* Guarded by the mutex, which is not vv_mutex because there is nobody to initialise it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int exempt = -1; /* a listener whose connections are not counted */
static ino_t *inodes;           /* of what was accepted, by descriptor; 0: nothing */
static size_t inode_count;
static uint64_t connections;
static uint64_t swept_ns;
static int spare = -1; /* a descriptor to let go of when there is no other */

/* The inode of a socket; 0: it is none. */
static ino_t socket_inode(int fd) {
    struct stat file;
    return fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode) ? file.st_ino : 0;
}

static bool make_room(size_t fd) {
    if (fd < inode_count)
        return true;
    size_t count = VV_MAX(2 * inode_count, fd + 64);
    ino_t *larger = vv_realloc(inodes, count * sizeof *inodes);
    if (!larger)
        return false;
    for (size_t i = inode_count; i < count; i++)
        larger[i] = 0;
    inodes = larger;
    inode_count = count;
    return true;
}

/* Forget the connections that have been closed. */
static void sweep(void) {
    uint64_t now_ns = vv_clock_mono_ns();
    if (swept_ns != 0 && now_ns - swept_ns < VV_CONNECTION_SWEEP_MS * VV_NS_PER_MS)
        return;
    swept_ns = now_ns;
    for (size_t fd = 0; fd < inode_count; fd++)
        if (inodes[fd] != 0 && socket_inode((int)fd) != inodes[fd]) {
            inodes[fd] = 0;
            connections--;
        }
}

/* Count a connection that was just accepted; false: it is one too many. */
static bool count_in(int fd, uint64_t max) {
    pthread_mutex_lock(&lock);
    bool counted = make_room((size_t)fd);
    if (counted && inodes[fd] != 0) { /* the one that had this descriptor is closed */
        inodes[fd] = 0;
        connections--;
    }
    if (counted && connections >= max)
        sweep();
    counted = counted && connections < max;
    if (counted) {
        inodes[fd] = socket_inode(fd);
        connections++;
    }
    pthread_mutex_unlock(&lock);
    return counted;
}

static void open_spare(void) {
    if (spare < 0)
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* There is no descriptor for the next connection: close it, so that its client knows. False: not even that.
 */
static bool turn_away(int listener) {
    pthread_mutex_lock(&lock);
    bool can = spare >= 0;
    if (can) {
        close(spare);
        int fd = (int)syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        can = fd >= 0;
        atomic_fetch_add_explicit(&refused, can, memory_order_relaxed);
        if (can)
            close(fd);
        spare = -1;
    }
    open_spare();
    pthread_mutex_unlock(&lock);
    return can;
}

/* Errors of one connection that has gone again, not of the listener. */
static bool of_the_connection(int error) {
    switch (error) {
    case ECONNABORTED:
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENONET:
    case EOPNOTSUPP:
    case EPERM: return true;
    default: return false;
    }
}

__attribute__((visibility("default"))) int accept4(int listener, struct sockaddr *address, socklen_t *bytes,
                                                   int flags) {
    uint64_t max = atomic_load_explicit(&limit, memory_order_relaxed);
    socklen_t room = bytes ? *bytes : 0;
    for (;;) {
        if (bytes)
            *bytes = room;
        int fd = (int)syscall(SYS_accept4, listener, address, bytes, flags);
        if (max == 0 || listener == atomic_load_explicit(&exempt, memory_order_relaxed))
            return fd;
        if (fd >= 0 && count_in(fd, max))
            return fd;
        if (fd >= 0) {
            atomic_fetch_add_explicit(&refused, 1, memory_order_relaxed);
            close(fd);
        } else if (errno == EMFILE || errno == ENFILE) {
            if (!turn_away(listener)) {
                errno = EAGAIN; /* the caller waits for the next one to come */
                return -1;
            }
        } else if (errno == ENOBUFS || errno == ENOMEM) {
            errno = EAGAIN;
            return -1;
        } else if (!of_the_connection(errno)) {
            return -1;
        }
    }
}

uint64_t vv_connection_limit_set(uint64_t max, uint64_t reserved) {
    struct rlimit files;
    if (max > 0 && getrlimit(RLIMIT_NOFILE, &files) == 0) {
        /* Programs that use select() need the low default; here nobody does. */
        if (files.rlim_cur < files.rlim_max) {
            files.rlim_cur = files.rlim_max;
            if (setrlimit(RLIMIT_NOFILE, &files) != 0)
                getrlimit(RLIMIT_NOFILE, &files);
        }
        max = VV_MIN(max, files.rlim_cur - VV_MIN(reserved, files.rlim_cur / 2));
    }
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < inode_count; i++)
        inodes[i] = 0;
    connections = 0;
    swept_ns = 0;
    if (max > 0) {
        open_spare();
    } else {
        if (spare >= 0)
            close(spare);
        spare = -1;
        vv_free(inodes);
        inodes = NULL;
        inode_count = 0;
    }
    pthread_mutex_unlock(&lock);
    atomic_store(&limit, max);
    return max;
}

void vv_connection_limit_exempt(int listener) {
    atomic_store_explicit(&exempt, listener, memory_order_relaxed);
}

uint64_t vv_connections_refused(void) {
    return atomic_load_explicit(&refused, memory_order_relaxed);
}
