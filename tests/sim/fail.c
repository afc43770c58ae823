/*
 * fail.c - see fail.h.
 */
#include "tests/sim/fail.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>

#include "tests/sim/sched.h"

/* Writes that are lost or land elsewhere and say that they were done are none of these: nobody can keep what
 * a drive threw away. */
static const vv_sim_fault kinds[] = {VV_SIM_FAULT_EIO,   VV_SIM_FAULT_ENOSPC, VV_SIM_FAULT_PARTIAL,
                                     VV_SIM_FAULT_SHORT, VV_SIM_FAULT_EINTR,  VV_SIM_FAULT_BIT_FLIP};

typedef struct fail_run {
    const sim_workload *workload;
    uint64_t seed;
    sim_fail_totals totals;
    vv_sim_op *ops; /* of the run without failures, by event */
    size_t capacity;
    uint64_t events;
    uint64_t event; /* to fail; 0: none */
    vv_sim_fault fault;
} fail_run;

static void note(void *arg, const vv_sim_event *e) {
    fail_run *r = arg;
    if (e->number >= r->capacity) {
        r->capacity = r->capacity ? r->capacity * 2 : 1024;
        r->ops = realloc(r->ops, r->capacity * sizeof *r->ops);
        if (!r->ops)
            abort();
    }
    r->ops[e->number] = e->op;
    r->events = e->number;
}

static vv_sim_fault at_event(void *arg, const vv_sim_event *e) {
    fail_run *r = arg;
    return e->number == r->event ? r->fault : VV_SIM_FAULT_NONE;
}

static void expect(const fail_run *r, const char *when, const char *found) {
    if (found)
        cr_assert_fail("%s: %s at event %" PRIu64 " (%s), %s: %s; VARVE_TEST_SEED=%" PRIu64
                       " VARVE_SIM_EVENT=%" PRIu64 " build/debug/bin/test_sim_faults --filter '*/%s'",
                       r->workload->name, vv_sim_fault_name(r->fault), r->event,
                       r->event ? vv_sim_op_name(r->ops[r->event]) : "-", when, found, r->seed, r->event,
                       r->workload->name);
}

static void run_once(void *arg) {
    fail_run *r = arg;
    sim_world w;
    sim_claims claims;
    vv_error err = {0};
    vv_sim_disk *left = NULL;
    sim_world_init(&w, r->workload, r->seed);
    w.faulty = r->event != 0;
    vv_sim_disk_set_hooks(w.disk, &(vv_sim_hooks){.arg = r,
                                                  .fault = r->event ? at_event : NULL,
                                                  .after = r->event ? NULL : note,
                                                  .point = vv_sched_point});
    vv_status st = sim_open(r->workload, w.disk, SIM_DB, &w.db, &err);
    bool transparent = r->fault == VV_SIM_FAULT_SHORT || r->fault == VV_SIM_FAULT_EINTR;
    if (!vv_ok(st) && (transparent || !w.faulty))
        expect(r, "opening", err.text);
    if (vv_ok(st)) {
        w.faulty &= !transparent;
        r->workload->run(&w);
        vv_sim_disk_set_hooks(w.disk, &(vv_sim_hooks){.point = vv_sched_point});
        sim_claims_begin(&claims, &w);
        sim_claims_end(&claims, &w);
        if (w.db)
            expect(r, "reading on", sim_model_compare(claims.model, w.db, claims.least, claims.most));
    } else {
        vv_sim_disk_set_hooks(w.disk, &(vv_sim_hooks){.point = vv_sched_point});
        sim_claims_begin(&claims, &w);
        sim_claims_end(&claims, &w);
    }
    vv_sim_survival survival = (vv_sim_survival)(r->event % 3);
    left = vv_sim_disk_crash(w.disk, &(vv_sim_crash){.survival = survival, .seed = r->seed + r->event});
    if (vv_ok(st) && w.db) {
        varve_status closed = varve_close(w.db);
        if (!varve_ok(closed) && !w.faulty)
            expect(r, "closing", varve_code_name(closed.code));
    }
    expect(r, "recovery", sim_recover(r->workload, left, &claims, true, NULL));
    vv_sim_disk_destroy(left);
    sim_world_deinit(&w);
}

/* The same for an opening after a power cut: it fails or not, and the next one finds all. */
static void recover_once(void *arg) {
    fail_run *r = arg;
    sim_world w;
    sim_claims claims;
    vv_error err = {0};
    varve_db *db;
    sim_world_init(&w, r->workload, r->seed);
    vv_sim_disk_set_hooks(w.disk, &(vv_sim_hooks){.point = vv_sched_point});
    expect(r, "opening", vv_ok(sim_open(r->workload, w.disk, SIM_DB, &w.db, &err)) ? NULL : err.text);
    r->workload->run(&w);
    sim_claims_begin(&claims, &w);
    sim_claims_end(&claims, &w);
    vv_sim_disk *left = vv_sim_disk_crash(w.disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    cr_assert(varve_ok(varve_close(w.db)));

    vv_sim_disk_set_hooks(left, &(vv_sim_hooks){.arg = r,
                                                .fault = r->event ? at_event : NULL,
                                                .after = r->event ? NULL : note,
                                                .point = vv_sched_point});
    vv_status st = sim_open(r->workload, left, SIM_DB, &db, &err);
    vv_sim_disk_set_hooks(left, &(vv_sim_hooks){.point = vv_sched_point});
    bool transparent = r->event == 0 || r->fault == VV_SIM_FAULT_SHORT || r->fault == VV_SIM_FAULT_EINTR;
    if (!vv_ok(st) && transparent)
        expect(r, "recovery", err.text);
    if (vv_ok(st)) {
        expect(r, "recovery", sim_model_compare(claims.model, db, claims.least, claims.most));
        varve_status closed = varve_close(db);
        if (!varve_ok(closed) && transparent)
            expect(r, "closing after a recovery", varve_code_name(closed.code));
    }
    expect(r, "the next opening", sim_recover(r->workload, left, &claims, true, NULL));
    vv_sim_disk_destroy(left);
    sim_world_deinit(&w);
}

/* Learn the events of `run`, then fail them. */
static void fail_each(fail_run *r, void (*run)(void *arg), uint32_t stride) {
    const char *only = getenv("VARVE_SIM_EVENT");
    uint64_t turn = 0;
    vv_sched_options o;
    sim_schedule(r->seed, &o);
    r->event = 0;
    r->events = 0;
    vv_sched_run(&o, run, r);
    r->totals.events += r->events;
    for (uint64_t event = 1; event <= r->events; event++)
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
            if (!vv_sim_fault_fits(kinds[k], r->ops[event]))
                continue;
            bool wanted = only ? strtoull(only, NULL, 10) == event : turn++ % stride == r->seed % stride;
            if (!wanted)
                continue;
            r->event = event;
            r->fault = kinds[k];
            r->totals.faults[kinds[k]]++;
            vv_sched_run(&o, run, r);
        }
}

sim_fail_totals sim_fail_everywhere(const sim_workload *workload, uint64_t seed, uint32_t stride) {
    fail_run r = {.workload = workload, .seed = seed};
    fail_each(&r, run_once, stride);
    fail_each(&r, recover_once, stride);
    free(r.ops);
    return r.totals;
}
