/*
 * io_sim.h - a simulated disk: a file system in memory behind io.h that forgets, at a crash, whatever was not
 * synced, and fails as it is told. For tests; no program of ours links it.
 *
 *        engine ---- vv_io_backend "sim" ----> vv_sim_disk ---- vv_sim_disk_crash() ----> another vv_sim_disk
 *
 * What the disk knows of each file is its content as readers see it, its durable content, and the list of
 * what was done since the last sync, in order; of each directory the same with its names. A sync moves the
 * list into the durable state. A crash image is the durable state with any subset of the list:
 *
 *   - Each sector (512 bytes or 4 KiB, as the crash says) of a file is as it was after the first n changes of
 *     the list, each sector with an n of its own: writes are torn at sectors and reordered. So the size.
 *   - A block that was being written may come back as garbage, its older bytes included.
 *   - Each name made, removed or renamed since the directory's last sync is, or is not. A rename within one
 *     directory is one change; between two, one in each, and each directory has a sync of its own.
 *   - Closing a file syncs nothing, and syncing a file does not make its name durable.
 *
 * This is what POSIX allows and more than any one file system does: an engine that survives it survives all
 * (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, name what real ones do). After a
 * failed sync the changes that it should have made durable are partly durable, and the rest never will be,
 * although readers see them: pages marked clean (Rebello et al., "Can Applications Recover from fsync
 * Failures?", USENIX ATC 2020).
 *
 * Each operation is an event with a number. Hooks decide its fault, see its end (where a test takes a crash
 * image), and let a scheduler switch threads before it. Everything random comes from the disk's seed and the
 * event's number: the same calls in the same order give the same disk.
 *
 * Thread-safe. Memory that runs out aborts the process: it is a test's.
 */
#ifndef VV_IO_SIM_IO_SIM_H
#define VV_IO_SIM_IO_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "io/io.h"

typedef struct vv_sim_disk vv_sim_disk;

/* The parts of WRITE_SYNC are two events, a WRITE and a SYNC. */
#define VV_SIM_OPS(X)                                                                                        \
    X(OPEN, "open")                                                                                          \
    X(CREATE, "create")                                                                                      \
    X(READ, "read")                                                                                          \
    X(WRITE, "write")                                                                                        \
    X(SYNC, "sync")                                                                                          \
    X(ALLOCATE, "allocate")                                                                                  \
    X(TRUNCATE, "truncate")                                                                                  \
    X(RENAME, "rename")                                                                                      \
    X(UNLINK, "unlink")                                                                                      \
    X(LINK, "link")                                                                                          \
    X(MKDIR, "mkdir")                                                                                        \
    X(RMDIR, "rmdir")                                                                                        \
    X(DIR_SYNC, "dirsync")                                                                                   \
    X(DIR_LIST, "list")                                                                                      \
    X(LOCK, "lock")

typedef enum vv_sim_op {
#define X(name, text) VV_SIM_##name,
    VV_SIM_OPS(X)
#undef X
        VV_SIM_OP_COUNT
} vv_sim_op;

/* What can be done to an event. One that makes no sense for its operation is NONE. */
#define VV_SIM_FAULTS(X)                                                                                     \
    X(NONE, "none")                                                                                          \
    X(EIO, "eio")          /* fails, nothing was done; a sync: and the pages are clean */                    \
    X(ENOSPC, "enospc")    /* fails, nothing was done; for what may need space */                            \
    X(PARTIAL, "partial")  /* a write fails after a part of it was done: with WRITE_SYNC, a broken chain */  \
    X(SHORT, "short")      /* a transfer in two parts, the second its own event: succeeds */                 \
    X(EINTR, "eintr")      /* interrupted and tried again, as a further event: succeeds */                   \
    X(BIT_FLIP, "bitflip") /* one bit of what is read is wrong, this time */                                 \
    X(MISDIRECTED, "misdirect") /* the write lands elsewhere in the file, and succeeds */                    \
    X(LOST_WRITE, "lost")       /* the write succeeds and never happened */                                  \
    X(LATENCY, "latency")       /* takes up to 100 ms of the hooks' sleep: succeeds */

typedef enum vv_sim_fault {
#define X(name, text) VV_SIM_FAULT_##name,
    VV_SIM_FAULTS(X)
#undef X
        VV_SIM_FAULT_COUNT
} vv_sim_fault;

/* Never NULL, static. */
const char *vv_sim_op_name(vv_sim_op op);
const char *vv_sim_fault_name(vv_sim_fault fault);

typedef struct vv_sim_event {
    uint64_t number; /* 1 is the first of the disk */
    vv_sim_op op;
    const char *path; /* as the file was opened; of a rename or link the new name. Valid during the call */
    uint64_t offset;
    uint64_t bytes;
} vv_sim_event;

/* All may be NULL. Called without the disk's lock, on the thread of the operation. */
typedef struct vv_sim_hooks {
    void *arg;
    vv_sim_fault (*fault)(void *arg, const vv_sim_event *e); /* before it is done */
    void (*after)(void *arg, const vv_sim_event *e);         /* once it is done, failed ones included */
    void (*point)(void);                                     /* a scheduler may switch threads here */
    void (*sleep_ns)(uint64_t ns);
} vv_sim_hooks;

typedef struct vv_sim_options {
    uint64_t seed;
    uint64_t capacity_bytes;     /* 0: no limit. What files take is their size in whole 4 KiB blocks */
    uint32_t align_bytes;        /* of direct files; 0: 4096 */
    uint32_t atomic_block_bytes; /* what files say of their device; 0: 4096 */
} vv_sim_options;

/* An empty disk with a root directory "/". Never fails. */
vv_sim_disk *vv_sim_disk_create(const vv_sim_options *o);

/* No file may be open: aborts with the names of those that are. NULL is fine. */
void vv_sim_disk_destroy(vv_sim_disk *d);

/* For events that begin from now on. */
void vv_sim_disk_set_hooks(vv_sim_disk *d, const vv_sim_hooks *hooks);

/* Every operation fails with IO from now on, and changes nothing. What was done before stays for crash
 * images. */
void vv_sim_disk_power_off(vv_sim_disk *d);

/* Events so far. */
uint64_t vv_sim_disk_events(vv_sim_disk *d);
/* Of those with this fault: how many were done to an event that it makes sense for. */
uint64_t vv_sim_disk_faults(vv_sim_disk *d, vv_sim_fault fault);

typedef enum vv_sim_survival {
    VV_SIM_SURVIVES_SYNCED, /* nothing that was not synced */
    VV_SIM_SURVIVES_ALL,    /* as after kill -9 */
    VV_SIM_SURVIVES_SOME,   /* by the seed */
} vv_sim_survival;

typedef struct vv_sim_crash {
    vv_sim_survival survival;
    uint64_t seed;
    uint32_t sector_bytes; /* where writes tear: 512 or 4096; 0: 512 */
    bool destroys;         /* SOME: a block with unsynced writes may be garbage */
    bool shows_stale;      /* SOME: what was grown and not written may be garbage, not zeros */
} vv_sim_crash;

/* What is on the disk after a power cut now: a new disk (locks free, no hooks, no faults, power on), the old
 * one untouched. Shares memory with it, and needs none of its life. */
vv_sim_disk *vv_sim_disk_crash(vv_sim_disk *d, const vv_sim_crash *how);

/* The backend through which the engine uses the disk, which is borrowed until the backend is destroyed. As
 * many as you like. */
vv_io_backend *vv_sim_backend_create(vv_sim_disk *d);

/* ---- a plan of faults by seed ---- */

/* How often in a million events each fault comes that makes sense there. [NONE] is ignored. */
typedef struct vv_sim_plan {
    uint64_t seed;
    uint32_t per_million[VV_SIM_FAULT_COUNT];
    uint64_t from_event; /* none before */
    uint64_t to_event;   /* none from here on; 0: no end */
} vv_sim_plan;

/* For vv_sim_hooks.fault, arg a vv_sim_plan. A function of the seed and the event. */
vv_sim_fault vv_sim_plan_fault(void *arg, const vv_sim_event *e);

/* Whether a fault makes sense for an operation. */
bool vv_sim_fault_fits(vv_sim_fault fault, vv_sim_op op);

#endif
