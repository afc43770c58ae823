/*
 * sim_content.c - what is in a file: pages that are shared until they are changed.
 */
#include <stdlib.h>
#include <string.h>

#include "io/sim/sim_impl.h"

uint64_t vv_sim_mix(uint64_t seed, uint64_t a, uint64_t b) {
    uint64_t x = seed + 0x9E3779B97F4A7C15u * (a + 1) + 0xC2B2AE3D27D4EB4Fu * (b + 1);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

void *vv_sim_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        abort();
    return p;
}

void *vv_sim_grow(void *array, size_t count, size_t *capacity, size_t element_bytes) {
    if (count < *capacity)
        return array;
    *capacity = *capacity ? *capacity * 2 : 4;
    void *p = realloc(array, *capacity * element_bytes);
    if (!p)
        abort();
    return p;
}

static void page_unref(sim_page *p) {
    if (p && atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) == 1)
        free(p);
}

/* The page to write to: nobody else's. */
static sim_page *own_page(sim_content *c, uint64_t index) {
    if (index >= c->page_count) {
        c->pages = realloc(c->pages, (index + 1) * sizeof(sim_page *));
        if (!c->pages)
            abort();
        memset(c->pages + c->page_count, 0, (index + 1 - c->page_count) * sizeof(sim_page *));
        c->page_count = index + 1;
    }
    sim_page *old = c->pages[index];
    if (old && atomic_load_explicit(&old->refs, memory_order_acquire) == 1)
        return old;
    sim_page *fresh = vv_sim_alloc(sizeof *fresh);
    atomic_init(&fresh->refs, 1);
    if (old)
        memcpy(fresh->bytes, old->bytes, SIM_PAGE_BYTES);
    page_unref(old);
    c->pages[index] = fresh;
    return fresh;
}

/* The part of [offset, offset + bytes) in the first page that it touches. */
static uint64_t in_page(uint64_t offset, uint64_t bytes) {
    uint64_t room = SIM_PAGE_BYTES - offset % SIM_PAGE_BYTES;
    return bytes < room ? bytes : room;
}

void vv_sim_content_read(const sim_content *c, void *buf, uint64_t bytes, uint64_t offset) {
    uint8_t *to = buf;
    while (bytes > 0) {
        uint64_t n = in_page(offset, bytes), index = offset / SIM_PAGE_BYTES;
        const sim_page *p = index < c->page_count ? c->pages[index] : NULL;
        if (p)
            memcpy(to, p->bytes + offset % SIM_PAGE_BYTES, n);
        else
            memset(to, 0, n);
        to += n;
        offset += n;
        bytes -= n;
    }
}

void vv_sim_content_write(sim_content *c, const uint8_t *data, uint64_t bytes, uint64_t offset) {
    while (bytes > 0) {
        uint64_t n = in_page(offset, bytes), index = offset / SIM_PAGE_BYTES;
        if (data) {
            memcpy(own_page(c, index)->bytes + offset % SIM_PAGE_BYTES, data, n);
            data += n;
        } else if (index < c->page_count && c->pages[index]) {
            memset(own_page(c, index)->bytes + offset % SIM_PAGE_BYTES, 0, n);
        }
        offset += n;
        bytes -= n;
    }
}

void vv_sim_content_resize(sim_content *c, uint64_t bytes) {
    uint64_t pages = (bytes + SIM_PAGE_BYTES - 1) / SIM_PAGE_BYTES;
    while (c->page_count > pages)
        page_unref(c->pages[--c->page_count]);
    if (bytes % SIM_PAGE_BYTES)
        vv_sim_content_write(c, NULL, SIM_PAGE_BYTES - bytes % SIM_PAGE_BYTES, bytes);
    c->bytes = bytes;
}

void vv_sim_content_share(sim_content *to, const sim_content *from) {
    *to = (sim_content){.page_count = from->page_count, .bytes = from->bytes};
    to->pages = vv_sim_alloc(from->page_count * sizeof(sim_page *));
    for (uint64_t i = 0; i < from->page_count; i++) {
        to->pages[i] = from->pages[i];
        if (to->pages[i])
            atomic_fetch_add_explicit(&to->pages[i]->refs, 1, memory_order_relaxed);
    }
}

void vv_sim_content_free(sim_content *c) {
    for (uint64_t i = 0; i < c->page_count; i++)
        page_unref(c->pages[i]);
    free(c->pages);
    *c = (sim_content){0};
}
