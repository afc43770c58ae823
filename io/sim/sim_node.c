/*
 * sim_node.c - files and directories: what is seen, what is durable, and the changes between the two.
 */
#include <stdlib.h>
#include <string.h>

#include "io/sim/sim_impl.h"

sim_node *vv_sim_node_create(vv_sim_disk *d, bool is_dir) {
    sim_node *n = vv_sim_alloc(sizeof *n);
    n->is_dir = is_dir;
    n->id = d->next_node_id++;
    return n;
}

void vv_sim_node_ref(sim_node *n) {
    n->refs++;
}

static uint64_t blocks_bytes(uint64_t bytes) {
    return (bytes + SIM_PAGE_BYTES - 1) / SIM_PAGE_BYTES * SIM_PAGE_BYTES;
}

static void changes_clear(sim_node *n) {
    while (n->change_count > 0)
        free(n->changes[--n->change_count].data);
}

static void entry_release(vv_sim_disk *d, const sim_entry *e) {
    if (e->node)
        vv_sim_node_unref(d, e->node);
}

static void names_free(vv_sim_disk *d, sim_names *names) {
    while (names->count > 0)
        entry_release(d, &names->entries[--names->count]);
    free(names->entries);
}

static void name_changes_clear(vv_sim_disk *d, sim_node *dir) {
    while (dir->name_change_count > 0) {
        sim_name_change *change = &dir->name_changes[--dir->name_change_count];
        while (change->count > 0)
            entry_release(d, &change->sets[--change->count]);
    }
}

void vv_sim_node_unref(vv_sim_disk *d, sim_node *n) {
    if (--n->refs > 0)
        return;
    changes_clear(n);
    free(n->changes);
    d->used_bytes -= blocks_bytes(n->seen.bytes);
    vv_sim_content_free(&n->seen);
    vv_sim_content_free(&n->durable);
    name_changes_clear(d, n);
    free(n->name_changes);
    names_free(d, &n->names);
    names_free(d, &n->durable_names);
    free(n);
}

/* ---- files ---- */

static sim_change *add_change(sim_node *n) {
    n->changes = vv_sim_grow(n->changes, n->change_count, &n->change_capacity, sizeof *n->changes);
    sim_change *change = &n->changes[n->change_count++];
    *change = (sim_change){0};
    return change;
}

uint64_t vv_sim_node_growth(const sim_node *n, uint64_t bytes) {
    uint64_t now = blocks_bytes(n->seen.bytes), then = blocks_bytes(bytes);
    return then > now ? then - now : 0;
}

void vv_sim_node_resize(vv_sim_disk *d, sim_node *n, uint64_t bytes) {
    sim_change *change = add_change(n);
    change->size_after = bytes;
    change->offset = bytes;
    change->bytes = n->seen.bytes > bytes ? n->seen.bytes - bytes : 0;
    d->used_bytes += blocks_bytes(bytes) - blocks_bytes(n->seen.bytes);
    vv_sim_content_resize(&n->seen, bytes);
}

void vv_sim_node_write(vv_sim_disk *d, sim_node *n, const uint8_t *data, uint64_t bytes, uint64_t offset) {
    uint64_t end = offset + bytes;
    sim_change *change = add_change(n);
    change->size_after = end > n->seen.bytes ? end : n->seen.bytes;
    change->offset = offset;
    change->bytes = bytes;
    change->data = vv_sim_alloc(bytes);
    memcpy(change->data, data, bytes);
    d->used_bytes += vv_sim_node_growth(n, end);
    vv_sim_content_write(&n->seen, data, bytes, offset);
    n->seen.bytes = change->size_after;
}

static void apply(sim_content *c, const sim_change *change) {
    vv_sim_content_write(c, change->data, change->bytes, change->offset);
    if (change->size_after < c->bytes)
        vv_sim_content_resize(c, change->size_after);
    c->bytes = change->size_after;
}

void vv_sim_node_sync(sim_node *n) {
    for (size_t i = 0; i < n->change_count; i++)
        apply(&n->durable, &n->changes[i]);
    changes_clear(n);
}

void vv_sim_node_sync_fails(sim_node *n, uint64_t seed) {
    uint64_t size = n->durable.bytes;
    for (size_t i = 0; i < n->change_count; i++) {
        if (vv_sim_mix(seed, n->id, i) % 2)
            apply(&n->durable, &n->changes[i]);
        size = n->changes[i].size_after; /* metadata is the journal's, which has another fate than pages */
    }
    vv_sim_content_resize(&n->durable, size);
    changes_clear(n);
}

/* ---- directories ---- */

static size_t index_of(const sim_names *names, const char *name) {
    size_t i = 0;
    while (i < names->count && strcmp(names->entries[i].name, name) != 0)
        i++;
    return i;
}

sim_node *vv_sim_names_find(const sim_names *names, const char *name) {
    size_t i = index_of(names, name);
    return i < names->count ? names->entries[i].node : NULL;
}

static void names_set(vv_sim_disk *d, sim_names *names, const sim_entry *set) {
    size_t i = index_of(names, set->name);
    sim_node *old = i < names->count ? names->entries[i].node : NULL;
    if (set->node) {
        vv_sim_node_ref(set->node);
        if (i == names->count) {
            names->entries =
                vv_sim_grow(names->entries, names->count, &names->capacity, sizeof *names->entries);
            names->count++;
        }
        names->entries[i] = *set;
    } else if (old) {
        names->count--;
        memmove(names->entries + i, names->entries + i + 1, (names->count - i) * sizeof *names->entries);
    }
    if (old)
        vv_sim_node_unref(d, old);
}

void vv_sim_dir_change(vv_sim_disk *d, sim_node *dir, const sim_entry *sets, size_t count) {
    dir->name_changes = vv_sim_grow(dir->name_changes, dir->name_change_count, &dir->name_change_capacity,
                                    sizeof *dir->name_changes);
    sim_name_change *change = &dir->name_changes[dir->name_change_count++];
    change->count = count;
    for (size_t i = 0; i < count; i++) {
        change->sets[i] = sets[i];
        if (sets[i].node)
            vv_sim_node_ref(sets[i].node);
    }
    for (size_t i = 0; i < count; i++)
        names_set(d, &dir->names, &change->sets[i]);
}

void vv_sim_dir_sync(vv_sim_disk *d, sim_node *dir) {
    for (size_t i = 0; i < dir->name_change_count; i++)
        for (size_t k = 0; k < dir->name_changes[i].count; k++)
            names_set(d, &dir->durable_names, &dir->name_changes[i].sets[k]);
    name_changes_clear(d, dir);
}
