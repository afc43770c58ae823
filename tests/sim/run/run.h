/*
 * run.h - one simulated run: a plan, carried out and judged.
 */
#ifndef VV_TESTS_SIM_RUN_RUN_H
#define VV_TESTS_SIM_RUN_RUN_H

#include "tests/sim/run/plan.h"

/* What was done, to be added up. */
typedef struct sim_figures {
    uint64_t runs;
    uint64_t generations; /* databases that were opened */
    uint64_t operations;
    uint64_t looks; /* reads that were compared with the history */
    uint64_t crashes;
    uint64_t crashes_in_open; /* among them: before the recovered database was checked */
    uint64_t images;          /* of what those crashes could have left: opened and read */
    uint64_t restarts;        /* with all that the disk showed, durable or not */
    uint64_t settled;         /* writes of unknown outcome that were tried again under their name */
    uint64_t lost_async;
    uint64_t flushes, compactions;
    uint64_t events;
    uint64_t faults[VV_SIM_FAULT_COUNT];
    uint64_t steps; /* of the scheduler */
    uint64_t trace_hash;
    uint32_t generation; /* the one under way: of a run that failed, where */
} sim_figures;

/* Carry it out. Returns if all was well; ends the process with words on stderr and code 3, or by abort(), if
 * not. out is kept up to date on the way. verbose: say what is done. */
void sim_run(const sim_plan *p, sim_figures *out, bool verbose);

#endif
