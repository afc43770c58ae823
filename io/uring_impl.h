/*
 * uring_impl.h - what the files of the io_uring backend share. For io/uring_*.c and their tests only.
 */
#ifndef VV_IO_URING_IMPL_H
#define VV_IO_URING_IMPL_H

#include <liburing.h>

#include "io/io_impl.h"

/*
 * The one way from a queue into the kernel. Tests replace it, before they start any thread, to cut transfers
 * short and to turn results into failures; nothing else writes here.
 */
typedef struct vv_uring_syscalls {
    /* Submit what the ring holds, wait for wait_nr completions (0: only post those that are there). The
     * number of entries taken, or -errno. */
    int (*enter)(struct io_uring *ring, unsigned wait_nr);
} vv_uring_syscalls;

extern vv_uring_syscalls vv_uring_sys;

/* The ring's next free entry; its caller knows that there is one. */
static inline struct io_uring_sqe *vv_uring_next_sqe(struct io_uring *ring) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    VV_ASSERT(sqe != NULL);
    return sqe;
}

/*
 * A ring's memory is mapped where an older ring's was, perhaps another thread's, and liburing maps by system
 * calls of its own: the kernel orders the two, but ThreadSanitizer can't see it. So every ring is made and
 * closed by these.
 */
static inline int vv_uring_ring_init(struct io_uring *ring, unsigned entries, unsigned flags) {
    int rc = io_uring_queue_init(entries, ring, flags);
    VV_TAKE_OVER(&vv_uring_sys);
    return rc;
}

static inline void vv_uring_ring_exit(struct io_uring *ring) {
    VV_HAND_OVER(&vv_uring_sys);
    io_uring_queue_exit(ring);
}

/*
 * Whether the kernel gives this process a working io_uring: set-up, the operations that Varve needs, and a
 * round trip, since a filter may block any of the three system calls alone. UNSUPPORTED: no, and the words
 * say why. OK: *flags_out are the set-up flags to use, and their names in *names_out (static).
 */
vv_status vv_uring_probe(unsigned *flags_out, const char **names_out, vv_error *why) VV_CHECKED;

/* What explains a refusal. */
typedef struct vv_uring_surroundings {
    int sysctl_disabled;    /* kernel.io_uring_disabled, 0 where there is none */
    bool seccomp;           /* a filter is active on this process */
    uint64_t memlock_bytes; /* the limit; UINT64_MAX for none */
} vv_uring_surroundings;

/* UNSUPPORTED, with the words for io_uring_setup having failed with errno `sys`. */
vv_status vv_uring_explain(int sys, const vv_uring_surroundings *in, vv_error *why) VV_CHECKED;

/* How many bytes this process may lock, as far as it can know; UINT64_MAX for no limit. */
uint64_t vv_uring_lockable_bytes(void);

#endif
