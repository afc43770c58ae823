/*
 * history.h - what the database has to be: all writes with the LSNs that they were answered with, and what
 * clients saw on the way.
 *
 * The state at an LSN is what the writes up to it make, in the order of LSNs. So everything that is seen is
 * compared with states: a snapshot, a recovered database with the one of its LSN, a read without a snapshot
 * with any between what was visible before the call and after it. A read is judged at the end of its
 * generation, when all LSNs are known.
 *
 * What must survive is a floor: the highest LSN of which anything said that it was durable. It may be raised
 * at any time, also after the power went: I/O fails from then on, so that whatever still says "durable" was
 * durable before.
 */
#ifndef VV_TESTS_SIM_RUN_RUN_HISTORY_H
#define VV_TESTS_SIM_RUN_RUN_HISTORY_H

#include "engine/varve.h"
#include "tests/sim/run/plan.h"

typedef enum sim_fate {
    SIM_UNDER_WAY, /* or it failed, and nobody knows whether it was done */
    SIM_DONE,
    SIM_REFUSED, /* nothing changed */
    SIM_LOST,    /* it was asynchronous, and a crash took it */
} sim_fate;

typedef enum sim_requirement { SIM_ANYTHING, SIM_ABSENT, SIM_LSN, SIM_VALUE } sim_requirement;

typedef struct sim_write {
    sim_op op;
    sim_fate fate;
    bool tried;
    uint64_t first_lsn;
    /* Unix milliseconds; 0: never. Between the two, if a try's moment is not known. */
    uint64_t expires_low[SIM_PARTS_MAX], expires_high[SIM_PARTS_MAX];
    /* Of a SWAP. */
    sim_requirement requirement;
    uint32_t required_key;
    uint64_t required_lsn;
    uint32_t required_op, required_part, required_value_bytes;
    varve_batch *batch; /* lent to varve_write_async() */
} sim_write;

/* One key as it was seen. lsn 0: it was not there. op SIM_VALUE_UNSEEN: nothing but its LSN was. */
#define SIM_VALUE_UNSEEN UINT32_MAX
typedef struct sim_sight {
    uint32_t key;
    uint64_t lsn;
    uint32_t op, part; /* what its value says */
    uint64_t expires_unix_ms;
} sim_sight;

/* Keys that were seen as of one state. */
typedef struct sim_look {
    uint32_t op; /* who looked, for the words */
    uint64_t low_lsn, high_lsn;
    uint64_t low_ms, high_ms; /* what expires between the two may be there or not */
    sim_sight *sights;
    uint32_t count;
    uint32_t capacity;
} sim_look;

/* One batch as a log cursor gave it. */
typedef struct sim_batch_seen {
    uint64_t first_lsn, last_lsn;
    uint64_t client_id, sequence;
    uint64_t digest;
} sim_batch_seen;

typedef struct sim_history sim_history;

sim_history *sim_history_create(const sim_plan *p);
void sim_history_destroy(sim_history *m);

/* The write of an operation; made when it is first asked for. */
sim_write *sim_history_write(sim_history *m, const sim_op *op);
/* It was answered: last_lsn is its last operation's. */
void sim_history_done(sim_history *m, sim_write *w, uint64_t last_lsn, bool durable);

/* Everything up to lsn must survive; why: static. */
void sim_history_must_survive(sim_history *m, uint64_t lsn, const char *why);
/* All that was answered must. */
void sim_history_all_durable(sim_history *m, const char *why);

/* A look that is empty as yet; the history's. */
sim_look *sim_history_look(sim_history *m, uint32_t op_number);
void sim_look_add(sim_look *l, const sim_sight *s);
void sim_look_drop(sim_history *m, sim_look *l); /* it failed: the newest one */
void sim_history_batch_seen(sim_history *m, const sim_batch_seen *b);

/* What a value says of itself, if it is whole and was ever written to this key; ends the run otherwise. */
void sim_history_identify(const sim_history *m, uint32_t key, const void *value, size_t bytes,
                          sim_sight *out);

/* The generation is over: all that was seen makes sense. Forgets it. Returns how much it was. */
uint64_t sim_history_check_seen(sim_history *m);

/* A database that shows everything up to lsn has all that must survive. */
void sim_history_check_floor(const sim_history *m, uint64_t lsn);
void sim_history_forget_seen(sim_history *m);

/* The database was opened and shows everything up to lsn. What was answered behind it is lost. */
void sim_history_recovered(sim_history *m, uint64_t lsn);
/* LSNs are contiguous up to lsn. All that was under way is settled. */
void sim_history_check_contiguous(sim_history *m, uint64_t lsn);

/* For each write that is under way; stops when fn says false. */
bool sim_history_each_under_way(sim_history *m, bool (*fn)(void *arg, sim_write *w), void *arg);
/* Of all that were given a batch to lend. */
void sim_history_free_batches(sim_history *m);

uint64_t sim_ops_digest(uint64_t digest, uint32_t key, bool deleted, uint32_t op, uint32_t part);

/* ---- the end with words (run.c) ---- */

void sim_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
