/*
 * crash.c - see crash.h.
 */
#include "tests/sim/crash.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sched.h"

/* What a power cut leaves, four ways: nothing that was not synced, everything, and two random parts. */
static const vv_sim_crash cuts[] = {
    {.survival = VV_SIM_SURVIVES_SYNCED},
    {.survival = VV_SIM_SURVIVES_ALL},
    {.survival = VV_SIM_SURVIVES_SOME, .sector_bytes = 512},
    {.survival = VV_SIM_SURVIVES_SOME, .sector_bytes = 4096, .destroys = true},
};
#define CUTS (sizeof cuts / sizeof cuts[0])
/* And these, each with other names: which of them last matters between a rename and the next sync of the
 * directory, and mostly for no more than that one event. */
#define RENAME_CUTS 12

typedef struct image {
    vv_sim_disk *disk;
    uint64_t event;
    vv_sim_op op;
    char path[64];
    sim_claims claims;
} image;

typedef struct images {
    image *list;
    size_t count, capacity;
    uint64_t events;
    sim_world *world;         /* of a run */
    const sim_claims *claims; /* of a recovery */
    vv_sim_disk *disk;
    uint64_t seed;
} images;

/* After each event. Threads take turns at the events, so that no lock is needed. */
static void take_images(void *arg, const vv_sim_event *e) {
    images *all = arg;
    image i = {.event = e->number, .op = e->op};
    size_t first = all->count;
    snprintf(i.path, sizeof i.path, "%s", e->path);
    all->events++;
    size_t cut_count = CUTS + (all->world && e->op == VV_SIM_RENAME ? RENAME_CUTS : 0);
    if (first + cut_count > all->capacity) {
        all->capacity = all->capacity ? all->capacity * 2 : 1024;
        all->list = realloc(all->list, all->capacity * sizeof *all->list);
        if (!all->list)
            abort();
    }
    if (all->world)
        sim_claims_begin(&i.claims, all->world);
    else
        i.claims = *all->claims;
    for (size_t k = 0; k < cut_count; k++) {
        vv_sim_crash how = cuts[k < CUTS ? k : 2];
        how.seed = all->seed + e->number + (k < CUTS ? 0 : k << 32);
        i.disk = vv_sim_disk_crash(all->disk, &how);
        if (all->world)
            sim_claims_end(&i.claims, all->world);
        all->list[all->count++] = i;
    }
}

static void images_begin(images *all, vv_sim_disk *disk, uint64_t seed) {
    all->disk = disk;
    all->seed = seed;
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){.arg = all, .after = take_images, .point = vv_sched_point});
}

static void images_end(images *all) {
    for (size_t i = 0; i < all->count; i++)
        vv_sim_disk_destroy(all->list[i].disk);
    free(all->list);
}

typedef struct crash_run {
    const sim_workload *workload;
    uint64_t seed;
    uint32_t stride;
    sim_world world;
    sim_crash_totals totals;
} crash_run;

static void expect(const crash_run *r, const image *i, const image *second, const char *found) {
    if (!found)
        return;
    cr_assert_fail("%s: power cut after event %" PRIu64 " (%s %s)%s%s%s%s: %s; VARVE_TEST_SEED=%" PRIu64
                   " build/debug/bin/test_sim_crash_points --filter '*/%s'",
                   r->workload->name, i->event, vv_sim_op_name(i->op), i->path,
                   second ? ", and of its recovery after " : "", second ? vv_sim_op_name(second->op) : "",
                   second ? " " : "", second ? second->path : "", found, r->seed, r->workload->name);
}

/* Crash the recovery after each of its events. What it has found, later ones must find as well. */
static void crash_recovery(crash_run *r, const image *i) {
    sim_claims exact = i->claims;
    images second = {.claims = &exact};
    /* The image itself stays as it is: nothing in it is unsynced. */
    vv_sim_disk *copy = vv_sim_disk_crash(i->disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    images_begin(&second, copy, r->seed + i->event);
    expect(r, i, NULL, sim_recover(r->workload, copy, &i->claims, false, &exact.least));
    exact.most = exact.least;
    for (size_t k = 0; k < second.count; k++) {
        image *s = &second.list[k];
        s->claims.least = exact.least;
        s->claims.most = exact.most;
        expect(r, i, s, sim_recover(r->workload, s->disk, &s->claims, k % 4 == 0, NULL));
    }
    r->totals.recovery_events += second.events;
    r->totals.recovery_images += second.count;
    vv_sim_disk_destroy(copy);
    images_end(&second);
}

static void run_and_recover(void *arg) {
    crash_run *r = arg;
    sim_world *w = &r->world;
    images all = {.world = w};
    vv_error err = {0};
    sim_world_init(w, r->workload, r->seed);
    images_begin(&all, w->disk, r->seed);
    cr_assert(vv_ok(sim_open(r->workload, w->disk, SIM_DB, &w->db, &err)), "%s", err.text);
    r->workload->run(w);
    cr_assert(varve_ok(varve_close(w->db)));
    vv_sim_disk_set_hooks(w->disk, &(vv_sim_hooks){.point = vv_sched_point});

    /* The disk itself: what the last image should hold, had it been closed in time. */
    image last = {.event = all.events, .path = "the last"};
    sim_claims_begin(&last.claims, w);
    sim_claims_end(&last.claims, w);
    last.claims.least = last.claims.most;
    expect(r, &last, NULL, sim_recover(r->workload, w->disk, &last.claims, false, NULL));
    for (size_t k = r->seed % SIM_IMAGE_STEP; k < all.count; k += SIM_IMAGE_STEP) {
        image *i = &all.list[k];
        if (r->stride && k % r->stride == r->seed % r->stride)
            crash_recovery(r, i);
        expect(r, i, NULL, sim_recover(r->workload, i->disk, &i->claims, k % 4 == 0, NULL));
    }
    r->totals.events = all.events;
    r->totals.images = all.count;
    images_end(&all);
    sim_world_deinit(w);
}

sim_crash_totals sim_crash_everywhere(const sim_workload *workload, uint64_t seed, uint32_t stride) {
    crash_run r = {.workload = workload, .seed = seed, .stride = stride};
    vv_sched_options o;
    sim_schedule(seed, &o);
    vv_sched_run(&o, run_and_recover, &r);
    r.totals.trace_hash = vv_sched_trace_hash();
    return r.totals;
}
