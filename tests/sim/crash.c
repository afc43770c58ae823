/*
 * crash.c - see crash.h.
 */
#include "tests/sim/crash.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/db/db_impl.h"
#include "tests/sim/sched.h"

#define FAR_FUTURE_MS UINT64_C(4000000000000)

/* What a power cut leaves, four ways: nothing that was not synced, everything, and two random parts. */
static const struct {
    vv_sim_survival survival;
    uint32_t sector_bytes;
    bool destroys;
} cuts[] = {
    {VV_SIM_SURVIVES_SYNCED, 512, false},
    {VV_SIM_SURVIVES_ALL, 512, false},
    {VV_SIM_SURVIVES_SOME, 512, false},
    {VV_SIM_SURVIVES_SOME, 4096, true},
};
#define CUTS (sizeof cuts / sizeof cuts[0])

typedef struct image {
    vv_sim_disk *disk;
    uint64_t event;
    vv_sim_op op;
    char path[64];
    uint64_t least, most; /* the LSN that is found must lie between */
    uint64_t promised_epoch, safe_lsn, backup_lsn;
    bool has_slot, may_have_slot;
} image;

typedef struct images {
    pthread_mutex_t lock;
    image *list;
    size_t count, capacity;
    uint64_t events;
    const sim_world *world; /* of a run */
    const image *parent;    /* of a recovery: what it must find */
    vv_sim_disk *disk;
    uint64_t seed;
} images;

/* ---- one run ---- */

static varve_options *options_of(const sim_workload *workload) {
    static const char *const small[] = {"MEMTABLE_SIZE",
                                        "64KiB",
                                        "MAX_TABLE_SIZE",
                                        "64KiB",
                                        "WAL_SEGMENT_SIZE",
                                        "256KiB",
                                        "WAL_BUFFER_SIZE",
                                        "2",
                                        "CACHE_CAPACITY",
                                        "256KiB",
                                        NULL};
    const char *const *lists[] = {small, workload->options};
    varve_options *o = varve_options_create();
    varve_error err = {0};
    for (size_t i = 0; i < 2; i++)
        for (const char *const *pair = lists[i]; pair && *pair; pair += 2)
            cr_assert(varve_ok(varve_options_set(o, pair[0], pair[1], &err)), "%s", err.text);
    return o;
}

static vv_status open_on(vv_sim_disk *disk, const char *path, const sim_workload *workload, varve_db **out,
                         vv_error *err) {
    varve_options *o = options_of(workload);
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), path, o, out, err);
    varve_options_destroy(o);
    return st;
}

/* Between two events: what was acknowledged is read before the images are taken, what was told after. */
static void take_images(void *arg, const vv_sim_event *e) {
    images *all = arg;
    image i = {.event = e->number, .op = e->op};
    snprintf(i.path, sizeof i.path, "%s", e->path);
    if (all->parent) {
        i.least = all->parent->least;
        i.most = all->parent->most;
        i.promised_epoch = all->parent->promised_epoch;
        i.safe_lsn = all->parent->safe_lsn;
        i.backup_lsn = all->parent->backup_lsn;
        i.has_slot = all->parent->has_slot;
        i.may_have_slot = all->parent->may_have_slot;
    } else {
        const sim_world *w = all->world;
        i.least = atomic_load(&w->model.acknowledged);
        i.promised_epoch = atomic_load(&w->promised_epoch);
        i.safe_lsn = atomic_load(&w->safe_lsn);
        i.backup_lsn = atomic_load(&w->backup_lsn);
        i.has_slot = atomic_load(&w->has_slot);
        i.may_have_slot = atomic_load(&w->told_slot);
    }
    image cut[CUTS];
    for (size_t k = 0; k < CUTS; k++) {
        cut[k] = i;
        cut[k].disk = vv_sim_disk_crash(all->disk, &(vv_sim_crash){.survival = cuts[k].survival,
                                                                   .seed = all->seed + e->number,
                                                                   .sector_bytes = cuts[k].sector_bytes,
                                                                   .destroys = cuts[k].destroys});
        if (!all->parent) {
            cut[k].most = atomic_load(&all->world->model.told);
            cut[k].may_have_slot |= atomic_load(&all->world->told_slot);
        }
    }
    pthread_mutex_lock(&all->lock);
    all->events++;
    if (all->count + CUTS > all->capacity) {
        all->capacity = all->capacity ? all->capacity * 2 : 1024;
        all->list = realloc(all->list, all->capacity * sizeof *all->list);
        if (!all->list)
            abort();
    }
    memcpy(all->list + all->count, cut, sizeof cut);
    all->count += CUTS;
    pthread_mutex_unlock(&all->lock);
}

static void images_begin(images *all, vv_sim_disk *disk, uint64_t seed) {
    pthread_mutex_init(&all->lock, NULL);
    all->disk = disk;
    all->seed = seed;
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){.arg = all, .after = take_images, .point = vv_sched_point});
}

static void images_end(images *all) {
    for (size_t i = 0; i < all->count; i++)
        vv_sim_disk_destroy(all->list[i].disk);
    free(all->list);
    pthread_mutex_destroy(&all->lock);
}

/* ---- one recovery ---- */

typedef struct crash_run {
    const sim_workload *workload;
    const sim_model *model;
    uint64_t seed;
} crash_run;

static void fail_at(const crash_run *r, const image *i, const image *parent, const char *words) {
    const image *first = parent ? parent : i;
    cr_assert_fail("%s: power cut after event %" PRIu64 " (%s %s)%s%s: %s; VARVE_TEST_SEED=%" PRIu64
                   " build/debug/bin/test_sim_crash_points --filter '*/%s'",
                   r->workload->name, first->event, vv_sim_op_name(first->op), first->path,
                   parent ? ", and of its recovery after " : "", parent ? vv_sim_op_name(i->op) : "", words,
                   r->seed, r->workload->name);
}

static const char *compare_rest(const image *i, varve_db *db) {
    static char words[256];
    varve_stats s;
    varve_slot_info slots[VARVE_SLOTS_MAX];
    varve_verify_result verified;
    varve_error err = {0};
    varve_stats_get(db, &s);
    size_t count = varve_slots_get(db, slots);
    words[0] = '\0';
    if (s.promised_epoch < i->promised_epoch)
        snprintf(words, sizeof words, "a promise of epoch %" PRIu64 " is forgotten", i->promised_epoch);
    else if (s.safe_compaction_lsn < i->safe_lsn && count == 0)
        snprintf(words, sizeof words, "the safe compaction LSN %" PRIu64 " is forgotten", i->safe_lsn);
    else if (i->has_slot && (count != 1 || slots[0].lost))
        snprintf(words, sizeof words, "the slot is lost");
    else if (!i->may_have_slot && count != 0)
        snprintf(words, sizeof words, "a slot that nobody has asked for");
    else if (!varve_ok(varve_verify(db, NULL, &verified, &err)) || verified.damage_count > 0)
        snprintf(words, sizeof words, "verify: %" PRIu64 " damages %s", verified.damage_count, err.text);
    return words[0] ? words : NULL;
}

/* Each fourth image, the database must also work: take a write, and be closed and opened with it. */
static const char *use(const crash_run *r, vv_sim_disk *disk, varve_db **db) {
    varve_error err = {0};
    uint64_t lsn, before = varve_visible_lsn(*db);
    varve_status st = varve_put(*db, "999", 3, "new", 3, NULL, &lsn);
    if (!varve_ok(st) || lsn != before + 1)
        return "the database takes no write";
    if (!varve_ok(varve_flush(*db)) || !varve_ok(varve_close(*db)))
        return "the database is not flushed and closed";
    vv_status opened = open_on(disk, SIM_DB, r->workload, db, (vv_error *)&err);
    if (!vv_ok(opened)) {
        *db = NULL;
        return "the database is not opened a second time";
    }
    varve_value v;
    st = varve_get(*db, "999", 3, &v);
    if (!varve_ok(st))
        return "what was written after the recovery is lost";
    varve_value_release(&v);
    return NULL;
}

static const char *look_into_backup(const crash_run *r, const image *i) {
    varve_db *db;
    vv_error err = {0};
    static char words[700];
    if (!i->backup_lsn)
        return NULL;
    vv_status st = open_on(i->disk, "/backup", r->workload, &db, &err);
    if (!vv_ok(st)) {
        snprintf(words, sizeof words, "backup: %s", err.text);
        return words;
    }
    const char *found = sim_model_compare(r->model, db, i->backup_lsn, i->backup_lsn);
    if (!varve_ok(varve_close(db)) && !found)
        found = "close of the backup";
    return found;
}

/* The LSN that was recovered. `hook`: images are taken after each event of the opening. */
static uint64_t recover(const crash_run *r, const image *i, const image *parent, images *hook, bool use_it) {
    varve_db *db;
    vv_error err = {0};
    vv_sim_disk *copy = NULL, *disk = i->disk;
    if (hook) { /* the image itself stays as it is: nothing is unsynced in it */
        disk = copy = vv_sim_disk_crash(i->disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
        hook->parent = i;
        images_begin(hook, disk, r->seed + i->event);
    }
    vv_status st = open_on(disk, SIM_DB, r->workload, &db, &err);
    if (!vv_ok(st))
        fail_at(r, i, parent, err.text);
    const char *found = sim_model_compare(r->model, db, i->least, i->most);
    uint64_t lsn = varve_visible_lsn(db);
    if (!found)
        found = compare_rest(i, db);
    if (!found && use_it && !hook)
        found = use(r, disk, &db);
    if (found)
        fail_at(r, i, parent, found);
    if (db && !varve_ok(varve_close(db)))
        fail_at(r, i, parent, "close");
    if (copy) {
        vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){0});
        vv_sim_disk_destroy(copy);
    } else {
        found = look_into_backup(r, i);
        if (found)
            fail_at(r, i, parent, found);
    }
    return lsn;
}

/* Crash the recovery after each of its events. What it has found the next one must find as well. */
static void recover_with_crashes(const crash_run *r, const image *i, sim_crash_totals *totals) {
    images second = {0};
    image exact = *i;
    exact.least = exact.most = recover(r, i, NULL, &second, false);
    for (size_t k = 0; k < second.count; k++) {
        second.list[k].least = second.list[k].most = exact.least;
        recover(r, &second.list[k], i, NULL, k % 4 == 0);
    }
    totals->recovery_events += second.events;
    totals->recovery_images += second.count;
    images_end(&second);
}

/* ---- the whole ---- */

typedef struct whole_run {
    const sim_workload *workload;
    uint64_t seed;
    uint32_t stride;
    sim_crash_totals totals;
} whole_run;

static void run_all(void *arg) {
    whole_run *whole = arg;
    const sim_workload *workload = whole->workload;
    uint64_t seed = whole->seed;
    uint32_t stride = whole->stride;
    sim_world w = {.rng = seed};
    images all = {.world = &w};
    sim_crash_totals totals = {0};
    vv_error err = {0};
    crash_run r = {.workload = workload, .model = &w.model, .seed = seed};
    sim_model_init(&w.model);
    w.disk = vv_sim_disk_create(&(vv_sim_options){.seed = seed});
    images_begin(&all, w.disk, seed);
    vv_status st = open_on(w.disk, SIM_DB, workload, &w.db, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    workload->run(&w);
    cr_assert(varve_ok(varve_close(w.db)));
    vv_sim_disk_set_hooks(w.disk, &(vv_sim_hooks){0});

    /* The whole run itself, for what the model makes of it. */
    image last = {
        .disk = w.disk, .event = all.events, .path = "the last", .least = w.model.told, .most = w.model.told};
    recover(&r, &last, NULL, NULL, false);
    for (size_t i = 0; i < all.count; i++) {
        if (stride && i % stride == seed % stride)
            recover_with_crashes(&r, &all.list[i], &totals);
        recover(&r, &all.list[i], NULL, NULL, i % 4 == 0);
    }
    totals.events = all.events;
    totals.images = all.count;
    images_end(&all);
    vv_sim_disk_destroy(w.disk);
    sim_model_deinit(&w.model);
    whole->totals = totals;
}

sim_crash_totals sim_crash_everywhere(const sim_workload *workload, uint64_t seed, uint32_t stride) {
    whole_run whole = {.workload = workload, .seed = seed, .stride = stride};
    vv_sched_options o = {.seed = seed,
                          .policy = seed % 2 ? VV_SCHED_RANDOM : VV_SCHED_PRIORITY,
                          .preempt_permille = 20,
                          .change_steps = 200,
                          .spurious_permille = 5,
                          .tick_ns_max = 2000};
    vv_sched_run(&o, run_all, &whole);
    whole.totals.trace_hash = vv_sched_trace_hash();
    return whole.totals;
}

/* ---- for workloads ---- */

uint64_t sim_random(sim_world *w, uint64_t n) {
    w->rng = w->rng * 6364136223846793005u + 1442695040888963407u;
    return (w->rng >> 33) % n;
}

static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};

static void write_batch(sim_world *w, const varve_batch *b, bool sync, uint64_t last_lsn) {
    uint64_t lsn;
    varve_status st = varve_write(w->db, b, sync ? NULL : &async, &lsn);
    cr_assert(varve_ok(st), "write: %s", varve_code_name(st.code));
    cr_assert_eq(lsn, last_lsn, "LSN %" PRIu64 ", wanted %" PRIu64, lsn, last_lsn);
    if (sync)
        sim_model_acknowledge(&w->model, last_lsn);
}

/* One operation, told to the model and put into the batch. */
static uint64_t add(sim_world *w, varve_batch *b, sim_write write, uint64_t expires_unix_ms) {
    static char value[SIM_VALUE_BYTES_MAX];
    char key[64];
    size_t key_bytes = sim_key(write.key, key);
    uint64_t lsn = sim_model_tell(&w->model, write);
    varve_status st;
    if (write.deleted && !expires_unix_ms) {
        st = varve_batch_delete(b, key, key_bytes);
    } else {
        sim_value(lsn, write.value_bytes, value);
        st = varve_batch_put_expiring(b, key, key_bytes, value, write.value_bytes, expires_unix_ms);
    }
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
    return lsn;
}

static void write_one(sim_world *w, sim_write write, uint64_t expires_unix_ms, bool sync) {
    varve_batch *b = varve_batch_create();
    write.ends_batch = true;
    uint64_t lsn = add(w, b, write, expires_unix_ms);
    write_batch(w, b, sync, lsn);
    varve_batch_destroy(b);
}

void sim_put(sim_world *w, uint32_t key, uint32_t value_bytes, bool sync) {
    write_one(w, (sim_write){.key = (uint16_t)key, .value_bytes = value_bytes}, 0, sync);
}

void sim_delete(sim_world *w, uint32_t key, bool sync) {
    write_one(w, (sim_write){.key = (uint16_t)key, .deleted = true}, 0, sync);
}

void sim_put_expiring(sim_world *w, uint32_t key, uint32_t value_bytes, bool over) {
    write_one(w, (sim_write){.key = (uint16_t)key, .value_bytes = value_bytes, .deleted = over},
              over ? 1 : FAR_FUTURE_MS, true);
}

void sim_batch(sim_world *w, uint32_t count, uint32_t value_bytes, bool sync) {
    varve_batch *b = varve_batch_create();
    uint64_t lsn = 0;
    for (uint32_t i = 0; i < count; i++) {
        sim_write write = {.key = (uint16_t)sim_random(w, SIM_KEYS),
                           .deleted = sim_random(w, 4) == 0,
                           .ends_batch = i + 1 == count,
                           .value_bytes = value_bytes};
        lsn = add(w, b, write, 0);
    }
    write_batch(w, b, sync, lsn);
    varve_batch_destroy(b);
}

void sim_flush(sim_world *w) {
    uint64_t told = atomic_load(&w->model.told);
    varve_status st = varve_flush(w->db);
    cr_assert(varve_ok(st), "flush: %s", varve_code_name(st.code));
    sim_model_acknowledge(&w->model, told); /* it is in tables */
}

void sim_compact(sim_world *w) {
    varve_status st = varve_compact(w->db);
    cr_assert(varve_ok(st), "compact: %s", varve_code_name(st.code));
}
