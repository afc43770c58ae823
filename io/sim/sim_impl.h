/*
 * sim_impl.h - the disk's own structs: content in shared pages, nodes, and what was done since the last sync.
 *
 * A page is shared by whoever has a reference and is copied before it is changed (copy on write), so that an
 * image of a disk costs a pointer for each page. NULL is a page of zeros.
 */
#ifndef VV_IO_SIM_SIM_IMPL_H
#define VV_IO_SIM_SIM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "io/sim/io_sim.h"

#define SIM_PAGE_BYTES 4096
#define SIM_NAME_BYTES 256

typedef struct sim_page {
    _Atomic uint32_t refs;
    uint8_t bytes[SIM_PAGE_BYTES];
} sim_page;

typedef struct sim_content {
    sim_page **pages;
    uint64_t page_count; /* those behind it are zeros */
    uint64_t bytes;      /* the size; beyond it the last page holds zeros */
} sim_content;

/* One thing done to a file since its last sync: bytes written (data), or cut off (no data: they are zeros
 * now), or only another size. */
typedef struct sim_change {
    uint64_t offset;
    uint64_t bytes;
    uint8_t *data;
    uint64_t size_after;
} sim_change;

typedef struct sim_node sim_node;

typedef struct sim_entry {
    char name[SIM_NAME_BYTES];
    sim_node *node; /* with a reference; NULL in a rename's or unlink's change: the name goes */
} sim_entry;

typedef struct sim_names {
    sim_entry *entries; /* in the order of their making */
    size_t count;
    size_t capacity;
} sim_names;

/* One thing done to a directory since its last sync: a name set or removed, or both at once by a rename. */
typedef struct sim_name_change {
    sim_entry sets[2];
    size_t count;
} sim_name_change;

struct sim_node {
    uint32_t refs; /* entries, changes and open files that have it */
    bool is_dir;
    bool locked;
    uint64_t id;
    sim_node *twin; /* while an image is made: the node's copy in it */
    /* of a file */
    sim_content seen;
    sim_content durable;
    sim_change *changes;
    size_t change_count, change_capacity;
    /* of a directory */
    sim_names names;
    sim_names durable_names;
    sim_name_change *name_changes;
    size_t name_change_count, name_change_capacity;
};

struct vv_sim_disk {
    pthread_mutex_t lock; /* guards all but the options; not base/sync.h's, which a scheduler replaces */
    vv_sim_options options;
    vv_sim_hooks hooks;
    bool off;
    uint64_t events;
    uint64_t faults[VV_SIM_FAULT_COUNT];
    uint64_t used_bytes;
    uint64_t next_node_id;
    uint32_t open_count;
    sim_node *root;
};

/* ---- sim_content.c ---- */

/* A number that depends on all three alone (splitmix64's finaliser). */
uint64_t vv_sim_mix(uint64_t seed, uint64_t a, uint64_t b);

void *vv_sim_alloc(size_t bytes); /* zeroed; aborts instead of NULL */
/* Room for one more element; the array may move. */
void *vv_sim_grow(void *array, size_t count, size_t *capacity, size_t element_bytes);

/* Reads zeros beyond the size. */
void vv_sim_content_read(const sim_content *c, void *buf, uint64_t bytes, uint64_t offset);
/* Grows no size. data NULL: zeros. */
void vv_sim_content_write(sim_content *c, const uint8_t *data, uint64_t bytes, uint64_t offset);
/* Cuts what is behind, or grows by zeros. */
void vv_sim_content_resize(sim_content *c, uint64_t bytes);
void vv_sim_content_share(sim_content *to, const sim_content *from);
void vv_sim_content_free(sim_content *c);

/* ---- sim_node.c ---- */

sim_node *vv_sim_node_create(vv_sim_disk *d, bool is_dir); /* no reference yet */
void vv_sim_node_ref(sim_node *n);
/* Frees it with the last; counts the space that it took. */
void vv_sim_node_unref(vv_sim_disk *d, sim_node *n);

/* Set the file's size, as a change to be synced, or write into it, growing it where needed. The change keeps
 * a copy of data. */
void vv_sim_node_resize(vv_sim_disk *d, sim_node *n, uint64_t bytes);
void vv_sim_node_write(vv_sim_disk *d, sim_node *n, const uint8_t *data, uint64_t bytes, uint64_t offset);
/* How many more bytes of the disk the file would take if it grew to this size. */
uint64_t vv_sim_node_growth(const sim_node *n, uint64_t bytes);
/* All changes are durable now, or, by the seed, a part of them and the rest never. */
void vv_sim_node_sync(sim_node *n);
void vv_sim_node_sync_fails(sim_node *n, uint64_t seed);

sim_node *vv_sim_names_find(const sim_names *names, const char *name); /* NULL: none; no new reference */
/* Change names and remember it for the next sync of the directory. */
void vv_sim_dir_change(vv_sim_disk *d, sim_node *dir, const sim_entry *sets, size_t count);
void vv_sim_dir_sync(vv_sim_disk *d, sim_node *dir);

#endif
