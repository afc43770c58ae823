/*
 * sim_crash.c - what a power cut leaves of a disk.
 *
 * Each file with unsynced changes has one of four fates by the seed: none of them survives, all do, the file
 * is as it was after the first n of them, or each sector is as it was after the first n of its own choice. A
 * page cache and a drive's cache write back what they hold at any time and in any order, so each of these
 * happens. The size, which is metadata, has a choice of its own.
 */
#include <stdlib.h>

#include "io/sim/sim_impl.h"

typedef struct crash_run {
    const vv_sim_crash *how;
    uint64_t sector_bytes;
    vv_sim_disk *image;
} crash_run;

enum { CHOICE_FATE = 1, CHOICE_COUNT, CHOICE_SIZE, CHOICE_NAME, CHOICE_BLOCK = 16, CHOICE_SECTOR = 1024 };

static uint64_t choose(const crash_run *r, const sim_node *n, uint64_t what) {
    return vv_sim_mix(r->how->seed, n->id, what);
}

typedef struct file_fate {
    bool by_sector;
    uint64_t change_count; /* !by_sector: so many changes survived */
    uint64_t size;
} file_fate;

static file_fate fate_of(const crash_run *r, const sim_node *n) {
    uint64_t all = n->change_count;
    file_fate f = {.change_count = all};
    uint64_t with_size = all;
    if (r->how->survival == VV_SIM_SURVIVES_SYNCED) {
        f.change_count = with_size = 0;
    } else if (r->how->survival == VV_SIM_SURVIVES_SOME) {
        switch (choose(r, n, CHOICE_FATE) % 4) {
        case 0: f.change_count = 0; break;
        case 1: break;
        case 2: f.change_count = choose(r, n, CHOICE_COUNT) % (all + 1); break;
        default: f.by_sector = true;
        }
        with_size = f.by_sector ? choose(r, n, CHOICE_SIZE) % (all + 1) : f.change_count;
    }
    f.size = with_size == 0 ? n->durable.bytes : n->changes[with_size - 1].size_after;
    return f;
}

/* Each sector that change i touches takes it on if it is among the first n for that sector. */
static void apply_by_sector(const crash_run *r, const sim_node *n, size_t i, sim_content *to) {
    const sim_change *change = &n->changes[i];
    uint64_t at = change->offset, end = change->offset + change->bytes;
    while (at < end) {
        uint64_t sector = at / r->sector_bytes, next = (sector + 1) * r->sector_bytes;
        uint64_t bytes = (next < end ? next : end) - at;
        if (i < choose(r, n, CHOICE_SECTOR + sector) % (n->change_count + 1))
            vv_sim_content_write(to, change->data ? change->data + (at - change->offset) : NULL, bytes, at);
        at += bytes;
    }
}

static void fill_with_garbage(const crash_run *r, const sim_node *n, sim_content *to, uint64_t from,
                              uint64_t end) {
    for (; from < end; from += sizeof(uint64_t)) {
        uint64_t word = choose(r, n, ~from), bytes = end - from < sizeof word ? end - from : sizeof word;
        vv_sim_content_write(to, (const uint8_t *)&word, bytes, from);
    }
}

/* A block that was being written when the power went may hold anything. One file in four with such blocks. */
static void destroy_blocks(const crash_run *r, const sim_node *n, sim_content *to) {
    uint64_t block = r->image->options.atomic_block_bytes;
    if (choose(r, n, CHOICE_BLOCK) % 4 != 0)
        return;
    for (size_t i = 0; i < n->change_count; i++) {
        if (!n->changes[i].data)
            continue;
        uint64_t first = n->changes[i].offset / block;
        uint64_t last = (n->changes[i].offset + n->changes[i].bytes - 1) / block;
        for (uint64_t b = first; b <= last; b++)
            if (choose(r, n, CHOICE_BLOCK + 1 + b) % 4 == 0)
                fill_with_garbage(r, n, to, b * block, (b + 1) * block);
    }
}

static void crash_file(const crash_run *r, const sim_node *n, sim_node *twin) {
    sim_content *to = &twin->durable;
    vv_sim_content_share(to, &n->durable);
    if (n->change_count > 0) {
        file_fate f = fate_of(r, n);
        bool some = r->how->survival == VV_SIM_SURVIVES_SOME;
        if (some && r->how->shows_stale && f.size > n->durable.bytes && choose(r, n, CHOICE_BLOCK) % 4 == 1)
            fill_with_garbage(r, n, to, n->durable.bytes, f.size);
        for (size_t i = 0; i < n->change_count; i++) {
            if (f.by_sector)
                apply_by_sector(r, n, i, to);
            else if (i < f.change_count)
                vv_sim_content_write(to, n->changes[i].data, n->changes[i].bytes, n->changes[i].offset);
        }
        if (some && r->how->destroys)
            destroy_blocks(r, n, to);
        vv_sim_content_resize(to, f.size);
    }
    vv_sim_content_share(&twin->seen, to);
    r->image->used_bytes += (to->bytes + SIM_PAGE_BYTES - 1) / SIM_PAGE_BYTES * SIM_PAGE_BYTES;
}

static sim_node *twin_of(const crash_run *r, sim_node *n);

/* Without a sync: the image's names are durable. */
static void give_name(const crash_run *r, sim_node *dir_twin, const sim_entry *set) {
    sim_entry e = *set;
    if (e.node)
        e.node = twin_of(r, e.node);
    vv_sim_dir_change(r->image, dir_twin, &e, 1);
}

static void crash_dir(const crash_run *r, const sim_node *n, sim_node *twin) {
    for (size_t i = 0; i < n->durable_names.count; i++)
        give_name(r, twin, &n->durable_names.entries[i]);
    for (size_t i = 0; i < n->name_change_count; i++) {
        bool survives = r->how->survival == VV_SIM_SURVIVES_ALL;
        if (r->how->survival == VV_SIM_SURVIVES_SOME) {
            uint64_t fate = choose(r, n, CHOICE_FATE) % 3; /* none, all, or each for itself */
            survives = fate == 1 || (fate == 2 && vv_sim_mix(r->how->seed, n->id, CHOICE_SECTOR + i) % 2);
        }
        for (size_t k = 0; survives && k < n->name_changes[i].count; k++)
            give_name(r, twin, &n->name_changes[i].sets[k]);
    }
    vv_sim_dir_sync(r->image, twin);
}

/* A node with several names has one twin. */
static sim_node *twin_of(const crash_run *r, sim_node *n) {
    if (!n->twin) {
        n->twin = vv_sim_node_create(r->image, n->is_dir);
        vv_sim_node_ref(n->twin); /* until the image is whole */
        n->twin->id = n->id;
        if (n->is_dir)
            crash_dir(r, n, n->twin);
        else
            crash_file(r, n, n->twin);
    }
    return n->twin;
}

/* Every node that a crash may have reached, once: forget its twin, and drop the image's reference to it. */
static void forget_twins(vv_sim_disk *image, sim_node *n) {
    if (!n->twin)
        return;
    sim_node *twin = n->twin;
    n->twin = NULL;
    for (size_t i = 0; i < n->durable_names.count; i++)
        forget_twins(image, n->durable_names.entries[i].node);
    for (size_t i = 0; i < n->name_change_count; i++)
        for (size_t k = 0; k < n->name_changes[i].count; k++)
            if (n->name_changes[i].sets[k].node)
                forget_twins(image, n->name_changes[i].sets[k].node);
    vv_sim_node_unref(image, twin);
}

vv_sim_disk *vv_sim_disk_crash(vv_sim_disk *d, const vv_sim_crash *how) {
    pthread_mutex_lock(&d->lock);
    vv_sim_options o = d->options;
    o.seed = vv_sim_mix(d->options.seed, how->seed, d->events);
    vv_sim_disk *image = vv_sim_disk_create(&o);
    crash_run r = {.how = how, .sector_bytes = how->sector_bytes ? how->sector_bytes : 512, .image = image};
    vv_sim_node_unref(image, image->root);
    image->root = twin_of(&r, d->root);
    vv_sim_node_ref(image->root);
    forget_twins(image, d->root);
    image->next_node_id = d->next_node_id;
    pthread_mutex_unlock(&d->lock);
    return image;
}
