/*
 * plan.h - what happens in one simulated run, as drawn from its seed: how the database is set up, which
 * operations its clients do, when the power goes, and what fails.
 *
 * A run has generations: open, check, clients at work, then the power goes, or the database is closed. Each
 * operation is drawn by its number alone, so that leaving some out does not change the others: that is how a
 * failing run is made smaller. A crash is planned relative to an operation for the same reason.
 */
#ifndef VV_TESTS_SIM_RUN_PLAN_H
#define VV_TESTS_SIM_RUN_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "io/sim/io_sim.h"
#include "tests/sim/sched.h"

#define SIM_PARTS_MAX       8
#define SIM_OPS_MAX         1000 /* in a generation: an operation's number is generation * this + index */
#define SIM_GENERATIONS_MAX 64
#define SIM_CLIENTS_MAX     8
#define SIM_PRIVATE_KEYS    4
#define SIM_KEYS_MAX        400

typedef enum sim_kind {
    SIM_PUT,
    SIM_DELETE,
    SIM_BATCH,
    SIM_SWAP, /* a batch with a condition on what was read just before */
    SIM_GET,
    SIM_MULTI_GET,
    SIM_SCAN,
    SIM_SNAPSHOT, /* take the client's snapshot, or give it back */
    SIM_FLUSH,
    SIM_COMPACT,
    SIM_CURSOR, /* read the log */
    SIM_SLOT,
    SIM_SAFE_LSN,
    SIM_VERIFY,
    SIM_EXPORT, /* take one, and release it */
    SIM_EPOCH,  /* become the primary of the next */
    SIM_KIND_COUNT
} sim_kind;

typedef enum sim_expiry { SIM_NEVER, SIM_LONG_AGO, SIM_FAR_AWAY, SIM_SOON } sim_expiry;

/* One put or delete of a write. */
typedef struct sim_part {
    uint32_t key;
    bool deleted;
    sim_expiry expiry;
    uint32_t value_bytes;
} sim_part;

typedef struct sim_op {
    uint32_t number;
    uint32_t generation;
    uint32_t client;
    sim_kind kind;
    uint64_t random; /* for what is left to draw */
    /* Of writes. One without a name begins with a put of a key that nobody else writes, so that what became
     * of it can be seen. */
    bool sync;
    bool named;
    bool async_call;
    uint32_t part_count;
    sim_part parts[SIM_PARTS_MAX];
} sim_op;

typedef struct sim_crash {
    bool planned;
    bool in_open; /* while the generation's database is being opened; else when `op` or a later one begins */
    uint32_t op;  /* number */
    uint32_t after; /* so many events later */
    uint32_t ops;   /* a bit for each vv_sim_op that counts; 0: all do */
    vv_sim_crash how;
} sim_crash;

typedef struct sim_plan {
    uint64_t seed;
    uint32_t generations;
    uint32_t ops; /* a generation */
    uint32_t clients;
    uint32_t keys; /* that all write; each client's own come behind them */
    bool crashes;
    uint32_t faults; /* a bit for each vv_sim_fault that may come */
    bool lies; /* in the last generation writes are lost or land elsewhere, and succeed: then things may be
                * damaged or missing, but what is read is right */
    uint32_t per_million[VV_SIM_FAULT_COUNT];
    uint64_t capacity_bytes; /* of the disk; 0: no limit */
    uint32_t align_bytes;
    uint32_t atomic_block_bytes;
    uint32_t sync_percent;
    vv_sched_options sched;
    /* 0, or another set of moments at which things go wrong and threads change: a smaller run may fail at
     * other ones than the run that it was made of. */
    uint32_t salt;
    uint32_t *only; /* ascending numbers of the operations that are done; NULL: all */
    uint32_t only_count;
} sim_plan;

/* The seed's. */
void sim_plan_init(sim_plan *p, uint64_t seed);

/* The index-th setting of the database's options; false behind the last. */
bool sim_plan_setting(const sim_plan *p, uint32_t index, const char **key_out, const char **value_out);

bool sim_plan_has(const sim_plan *p, uint32_t number);
void sim_plan_op(const sim_plan *p, uint32_t number, sim_op *out);
sim_crash sim_plan_crash(const sim_plan *p, uint32_t generation);

/* After a generation that was closed: does the power go while it is down? */
bool sim_plan_cut_when_closed(const sim_plan *p, uint32_t generation, vv_sim_crash *how_out);

/* What a put writes; `to` has room for value_bytes, at least SIM_VALUE_BYTES_MIN. */
#define SIM_VALUE_BYTES_MIN 8
#define SIM_VALUE_BYTES_MAX 16384
void sim_value_fill(uint8_t *to, uint32_t bytes, uint32_t op_number, uint32_t part);

/* The text of a key; their order is that of the numbers. Returns its length, below SIM_KEY_BYTES_MAX. */
#define SIM_KEY_BYTES_MAX 32
uint32_t sim_key_text(uint32_t key, char to[SIM_KEY_BYTES_MAX]);
/* The other way. False: it is none of ours. */
bool sim_key_parse(const void *text, size_t bytes, uint32_t *key_out);

const char *sim_kind_name(sim_kind kind);

uint64_t sim_mix(uint64_t a, uint64_t b, uint64_t c);

#endif
