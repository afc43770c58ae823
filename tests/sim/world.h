/*
 * world.h - a database on a simulated disk, a workload that writes to it, and what must be there after a
 * crash.
 */
#ifndef VV_TESTS_SIM_WORLD_H
#define VV_TESTS_SIM_WORLD_H

#include "base/status.h"
#include "io/sim/io_sim.h"
#include "tests/sim/model.h"

#define SIM_DB     "/db"
#define SIM_BACKUP "/backup"

/* Of the images that power cuts leave, one of so many is looked at: each, but with a sanitizer, which makes
 * each some five or twenty times slower, fewer. Odd, so that all kinds of cuts have their turn. */
#if defined(VV_TSAN)
#define SIM_IMAGE_STEP 29
#elif defined(VV_ASAN)
#define SIM_IMAGE_STEP 5
#else
#define SIM_IMAGE_STEP 1
#endif

typedef struct sim_world sim_world;

typedef struct sim_workload {
    const char *name;
    const char *const *options; /* key, value, ..., NULL: on top of small memtables and segments */
    void (*run)(sim_world *w);  /* the database is open, and stays so unless an opening fails */
} sim_workload;

/* What a recovery must find, as of some moment of a run. */
typedef struct sim_claims {
    const sim_model *model;
    uint64_t least, most; /* LSN: what was acknowledged, and what was told */
    uint64_t promised_epoch;
    uint64_t safe_lsn;
    uint64_t backup_lsn; /* of the database at SIM_BACKUP; 0: there need not be one */
    bool has_slot;       /* "s" */
    bool may_have_slot;
} sim_claims;

struct sim_world {
    const sim_workload *workload;
    /* The last is the present one. The others are what crash images of an earlier time are compared with. */
    sim_model models[8];
    _Atomic uint32_t model_count;
    varve_db *db;
    vv_sim_disk *disk;
    uint64_t rng;
    bool faulty;     /* the disk fails now and then: so may calls, as their comments in varve.h say */
    bool log_failed; /* and no write is taken any more */
    /* What is there beside the entries, since it was acknowledged. Any thread reads them. */
    _Atomic uint64_t promised_epoch, safe_lsn, backup_lsn;
    _Atomic bool has_slot, told_slot;
};

/* An empty disk; nothing open. */
void sim_world_init(sim_world *w, const sim_workload *workload, uint64_t seed);
void sim_world_deinit(sim_world *w);

/* Open the database at `path` of a disk. err has words. */
vv_status sim_open(const sim_workload *workload, vv_sim_disk *disk, const char *path, varve_db **out,
                   vv_error *err);

sim_model *sim_present(sim_world *w);

/* The database is about to be taken back to lsn; and it was. */
void sim_go_back(sim_world *w, uint64_t lsn);
void sim_went_back(sim_world *w, uint64_t lsn);

/* The claims as of now, for a crash image that is taken between these two calls. Any thread. */
void sim_claims_begin(sim_claims *c, sim_world *w);
void sim_claims_end(sim_claims *c, sim_world *w);

/*
 * Open what a crash has left, compare all of it with the claims, and close it. use: it must
 * take writes, and have them when it is opened again. *lsn_out (may be NULL): the LSN that was found. Returns
 * the words of what is wrong, static, or NULL. Leaves the database open if it is wrong.
 */
const char *sim_recover(const sim_workload *workload, vv_sim_disk *disk, const sim_claims *claims, bool use,
                        uint64_t *lsn_out);

/* The scheduler's options for a seed. */
struct vv_sched_options;
void sim_schedule(uint64_t seed, struct vv_sched_options *out);

/* ---- for workloads: each fails the test if its call fails on a disk that is not faulty ---- */

/* A number below n, from the seed. */
uint64_t sim_random(sim_world *w, uint64_t n);
/* Whether a call was OK. Aborts the test if it was not and had no excuse. */
bool sim_ok(sim_world *w, varve_status st, const char *what);
/* One write, or a batch of `count` to random keys; durable, or durable some time. */
void sim_put(sim_world *w, uint32_t key, uint32_t value_bytes, bool sync);
void sim_delete(sim_world *w, uint32_t key, bool sync);
void sim_batch(sim_world *w, uint32_t count, uint32_t value_bytes, bool sync);
/* A put whose time to live is over before anybody can read it, or is far from over. */
void sim_put_expiring(sim_world *w, uint32_t key, uint32_t value_bytes, bool over);
void sim_flush(sim_world *w);
void sim_compact(sim_world *w);
/* Close the database, and open it. False: the opening failed, and w->db is NULL; there is no more to do. */
void sim_close(sim_world *w);
bool sim_reopen(sim_world *w);

#endif
