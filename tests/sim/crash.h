/*
 * crash.h - run a workload once, cut the power after every single I/O of it, and look at what each cut
 * leaves.
 *
 * The run itself is never stopped: after each event of the simulated disk the power cut's images are taken, a
 * pointer for each page, together with what was acknowledged and told by then. When the run is over, each
 * image is opened and compared with the model; and each of these recoveries is a run of its own, after whose
 * events images are taken in turn, so that a crash of a recovery is recovered from, too.
 */
#ifndef VV_TESTS_SIM_CRASH_H
#define VV_TESTS_SIM_CRASH_H

#include "io/sim/io_sim.h"
#include "tests/sim/model.h"

#define SIM_DB "/db"

typedef struct sim_world sim_world;

typedef struct sim_workload {
    const char *name;
    const char *const *options; /* key, value, ..., NULL: on top of small memtables and segments */
    void (*run)(sim_world *w);  /* the database is open; it is closed and the disk compared afterwards */
} sim_workload;

struct sim_world {
    sim_model model;
    varve_db *db;
    vv_sim_disk *disk;
    uint64_t rng;
    /* What must also be there after a crash, set by the run once it was acknowledged. */
    _Atomic uint64_t promised_epoch;
    _Atomic uint64_t safe_lsn;
    _Atomic bool has_slot, told_slot; /* the slot "s": acknowledged, and asked for */
    _Atomic uint64_t backup_lsn;      /* of the database at "/backup" */
};

typedef struct sim_crash_totals {
    uint64_t events;          /* of the run: each is a crash point */
    uint64_t images;          /* recovered from */
    uint64_t recovery_events; /* crash points in recoveries */
    uint64_t recovery_images; /* recovered from */
    uint64_t trace_hash;      /* of all of it: the same seed gives the same */
} sim_crash_totals;

/*
 * Fails the test with the command that repeats it if any image is wrong. stride: every stride-th image has
 * its recovery crashed after each event; the others are recovered from once.
 */
sim_crash_totals sim_crash_everywhere(const sim_workload *workload, uint64_t seed, uint32_t stride);

/* ---- for workloads ---- */

/* A number below n, from the seed. */
uint64_t sim_random(sim_world *w, uint64_t n);
/* One write, or a batch of `count` to random keys; durable, or durable some time. Aborts the test if it
 * fails. */
void sim_put(sim_world *w, uint32_t key, uint32_t value_bytes, bool sync);
void sim_delete(sim_world *w, uint32_t key, bool sync);
void sim_batch(sim_world *w, uint32_t count, uint32_t value_bytes, bool sync);
/* A put whose time to live is over before anybody can read it, or is far from over. */
void sim_put_expiring(sim_world *w, uint32_t key, uint32_t value_bytes, bool over);
void sim_flush(sim_world *w);
void sim_compact(sim_world *w);

#endif
