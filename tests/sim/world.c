/*
 * world.c - see world.h.
 */
#include "tests/sim/world.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/db/db_impl.h"
#include "tests/sim/sched.h"

#define FAR_FUTURE_MS UINT64_C(4000000000000)

void sim_world_init(sim_world *w, const sim_workload *workload, uint64_t seed) {
    *w = (sim_world){.workload = workload, .rng = seed};
    sim_model_init(&w->models[0]);
    atomic_init(&w->model_count, 1);
    w->disk = vv_sim_disk_create(&(vv_sim_options){.seed = seed});
}

void sim_world_deinit(sim_world *w) {
    vv_sim_disk_destroy(w->disk);
    for (uint32_t i = 0; i < atomic_load(&w->model_count); i++)
        sim_model_deinit(&w->models[i]);
}

sim_model *sim_present(sim_world *w) {
    return &w->models[atomic_load(&w->model_count) - 1];
}

static sim_model *next_model(sim_world *w, uint64_t lsn) {
    sim_model *old = sim_present(w), *next = old + 1;
    cr_assert_lt(next - w->models, (ptrdiff_t)VV_ARRAY_COUNT(w->models));
    sim_model_copy(next, old, lsn);
    return next;
}

void sim_go_back(sim_world *w, uint64_t lsn) {
    sim_model_go_back(next_model(w, atomic_load(&sim_present(w)->told)), lsn);
    atomic_fetch_add(&w->model_count, 1);
}

void sim_went_back(sim_world *w, uint64_t lsn) {
    (void)next_model(w, lsn);
    atomic_fetch_add(&w->model_count, 1);
}

void sim_schedule(uint64_t seed, vv_sched_options *out) {
    *out = (vv_sched_options){.seed = seed,
                              .policy = seed % 2 ? VV_SCHED_RANDOM : VV_SCHED_PRIORITY,
                              .preempt_permille = 20,
                              .change_steps = 200,
                              .spurious_permille = 5,
                              .tick_ns_max = 2000,
                              .step_max = UINT64_C(1) << 32};
}

vv_status sim_open(const sim_workload *workload, vv_sim_disk *disk, const char *path, varve_db **out,
                   vv_error *err) {
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
    varve_error bad = {0};
    for (size_t i = 0; i < 2; i++)
        for (const char *const *pair = lists[i]; pair && *pair; pair += 2)
            cr_assert(varve_ok(varve_options_set(o, pair[0], pair[1], &bad)), "%s", bad.text);
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), path, o, out, err);
    varve_options_destroy(o);
    return st;
}

/* ---- claims ---- */

void sim_claims_begin(sim_claims *c, sim_world *w) {
    *c = (sim_claims){.model = sim_present(w),
                      .least = atomic_load(&sim_present(w)->acknowledged),
                      .promised_epoch = atomic_load(&w->promised_epoch),
                      .safe_lsn = atomic_load(&w->safe_lsn),
                      .backup_lsn = atomic_load(&w->backup_lsn),
                      .has_slot = atomic_load(&w->has_slot),
                      .may_have_slot = atomic_load(&w->told_slot)};
}

void sim_claims_end(sim_claims *c, sim_world *w) {
    c->most = atomic_load(&c->model->told);
    c->may_have_slot |= atomic_load(&w->told_slot);
}

static char words[800];

static const char *compare_claims(const sim_claims *c, varve_db *db) {
    varve_stats s;
    varve_slot_info slots[VARVE_SLOTS_MAX];
    varve_verify_result verified;
    varve_error err = {0};
    varve_stats_get(db, &s);
    size_t count = varve_slots_get(db, slots);
    words[0] = '\0';
    if (s.promised_epoch < c->promised_epoch)
        snprintf(words, sizeof words, "a promise of epoch %" PRIu64 " is forgotten", c->promised_epoch);
    else if (s.safe_compaction_lsn < c->safe_lsn && count == 0)
        snprintf(words, sizeof words, "the safe compaction LSN %" PRIu64 " is forgotten", c->safe_lsn);
    else if (c->has_slot && (count != 1 || slots[0].lost))
        snprintf(words, sizeof words, "the slot is lost");
    else if (!c->may_have_slot && count != 0)
        snprintf(words, sizeof words, "a slot that nobody has asked for");
    else if (!varve_ok(varve_verify(db, NULL, &verified, &err)) || verified.damage_count > 0)
        snprintf(words, sizeof words, "verify: %" PRIu64 " damages %s", verified.damage_count, err.text);
    return words[0] ? words : NULL;
}

/* It takes a write, and has it after a second opening, which leaves it open at *db. */
static const char *use_it(const sim_workload *workload, vv_sim_disk *disk, varve_db **db) {
    vv_error err = {0};
    uint64_t lsn, before = varve_visible_lsn(*db);
    varve_value v;
    varve_status st = varve_put(*db, "999", 3, "new", 3, NULL, &lsn);
    if (!varve_ok(st) || lsn != before + 1)
        return "the database takes no write";
    if (!varve_ok(varve_flush(*db)) || !varve_ok(varve_close(*db)))
        return "the database is not flushed and closed";
    if (!vv_ok(sim_open(workload, disk, SIM_DB, db, &err))) {
        snprintf(words, sizeof words, "a second opening: %s", err.text);
        return words;
    }
    if (!varve_ok(varve_get(*db, "999", 3, &v)))
        return "what was written after the recovery is lost";
    varve_value_release(&v);
    return NULL;
}

static const char *look_into_backup(const sim_workload *workload, vv_sim_disk *disk,
                                    const sim_claims *claims) {
    varve_db *db;
    vv_error err = {0};
    if (!claims->backup_lsn)
        return NULL;
    if (!vv_ok(sim_open(workload, disk, SIM_BACKUP, &db, &err))) {
        snprintf(words, sizeof words, "backup: %s", err.text);
        return words;
    }
    const char *found = sim_model_compare(claims->model, db, claims->backup_lsn, claims->backup_lsn);
    return found || varve_ok(varve_close(db)) ? found : "the backup is not closed";
}

const char *sim_recover(const sim_workload *workload, vv_sim_disk *disk, const sim_claims *claims, bool use,
                        uint64_t *lsn_out) {
    varve_db *db;
    vv_error err = {0};
    if (!vv_ok(sim_open(workload, disk, SIM_DB, &db, &err))) {
        snprintf(words, sizeof words, "%s", err.text);
        return words;
    }
    if (lsn_out)
        *lsn_out = varve_visible_lsn(db);
    const char *found = sim_model_compare(claims->model, db, claims->least, claims->most);
    if (!found)
        found = compare_claims(claims, db);
    if (!found && use)
        found = use_it(workload, disk, &db);
    if (found)
        return found;
    if (!varve_ok(varve_close(db)))
        return "the database is not closed";
    return look_into_backup(workload, disk, claims);
}

/* ---- for workloads ---- */

uint64_t sim_random(sim_world *w, uint64_t n) {
    w->rng = w->rng * 6364136223846793005u + 1442695040888963407u;
    return (w->rng >> 33) % n;
}

bool sim_ok(sim_world *w, varve_status st, const char *what) {
    cr_assert(varve_ok(st) || w->faulty, "%s: %s", what, varve_code_name(st.code));
    return varve_ok(st);
}

static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};

/* Write what was told since `before`. */
static void write_batch(sim_world *w, const varve_batch *b, bool sync, uint64_t before) {
    uint64_t lsn, told = atomic_load(&sim_present(w)->told);
    varve_status st = varve_write(w->db, b, sync ? NULL : &async, &lsn);
    if (sim_ok(w, st, "write")) {
        cr_assert_eq(lsn, told, "LSN %" PRIu64 ", wanted %" PRIu64, lsn, told);
        if (sync)
            sim_model_acknowledge(sim_present(w), told);
    } else if (st.code == VARVE_WAL_FAILED) {
        if (w->log_failed) /* known to be refused */
            atomic_store(&sim_present(w)->told, before);
        w->log_failed = true;
    } else {
        cr_assert(st.code == VARVE_NO_SPACE || st.code == VARVE_BUSY || st.code == VARVE_IO, "write: %s",
                  varve_code_name(st.code));
        atomic_store(&sim_present(w)->told, before);
    }
}

/* One operation, told to the model and put into the batch. */
static void add(sim_world *w, varve_batch *b, sim_write write, uint64_t expires_unix_ms) {
    static char value[SIM_VALUE_BYTES_MAX];
    char key[64];
    size_t key_bytes = sim_key(write.key, key);
    uint64_t lsn = sim_model_tell(sim_present(w), write);
    varve_status st;
    if (write.deleted && !expires_unix_ms) {
        st = varve_batch_delete(b, key, key_bytes);
    } else {
        sim_value(lsn, write.value_bytes, value);
        st = varve_batch_put_expiring(b, key, key_bytes, value, write.value_bytes, expires_unix_ms);
    }
    cr_assert(varve_ok(st), "%s", varve_code_name(st.code));
}

static void write_one(sim_world *w, sim_write write, uint64_t expires_unix_ms, bool sync) {
    varve_batch *b = varve_batch_create();
    uint64_t before = atomic_load(&sim_present(w)->told);
    write.ends_batch = true;
    add(w, b, write, expires_unix_ms);
    write_batch(w, b, sync, before);
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
    uint64_t before = atomic_load(&sim_present(w)->told);
    for (uint32_t i = 0; i < count; i++) {
        sim_write write = {.key = (uint16_t)sim_random(w, SIM_KEYS),
                           .deleted = sim_random(w, 4) == 0,
                           .ends_batch = i + 1 == count,
                           .value_bytes = value_bytes};
        add(w, b, write, 0);
    }
    write_batch(w, b, sync, before);
    varve_batch_destroy(b);
}

void sim_flush(sim_world *w) {
    uint64_t told = atomic_load(&sim_present(w)->told);
    if (sim_ok(w, varve_flush(w->db), "flush") && !w->log_failed)
        sim_model_acknowledge(sim_present(w), told); /* it is in tables */
}

void sim_compact(sim_world *w) {
    (void)sim_ok(w, varve_compact(w->db), "compact");
}

void sim_close(sim_world *w) {
    uint64_t told = atomic_load(&sim_present(w)->told);
    bool closed = sim_ok(w, varve_close(w->db), "close");
    w->db = NULL;
    if (closed && !w->log_failed)
        sim_model_acknowledge(sim_present(w), told);
}

bool sim_reopen(sim_world *w) {
    vv_error err = {0};
    vv_status st = sim_open(w->workload, w->disk, SIM_DB, &w->db, &err);
    cr_assert(vv_ok(st) || w->faulty, "%s", err.text);
    if (!vv_ok(st)) {
        w->db = NULL;
        return false;
    }
    /* What was told and not acknowledged is there or not, and stays so. */
    sim_model *m = sim_present(w);
    uint64_t lsn = varve_visible_lsn(w->db);
    bool right = lsn >= atomic_load(&m->acknowledged) && lsn <= atomic_load(&m->told);
    cr_assert(right && m->writes[lsn].ends_batch, "reopened at LSN %" PRIu64, lsn);
    atomic_store(&sim_present(w)->told, lsn);
    w->log_failed = false;
    return true;
}
