/*
 * sched.h - a scheduler that makes a whole run of many threads a function of a seed.
 *
 * The engine reaches threads, locks, futexes and time through base/sync.h, base/clock.h and a handful of libc
 * calls. A program that links vv_sim_sched has those replaced by the linker (--wrap; the list is in
 * CMakeLists.txt), so that there is no branch in the engine. Within vv_sched_run() each thread is a real one,
 * but exactly one runs at a time, and at every replaced call the scheduler decides who goes on. Outside
 * vv_sched_run(), and on threads that were not started in it, the real functions are called.
 *
 *     time       stands still but for a little with each call; when all threads wait it jumps to the next
 *                deadline: an hour of sleep costs nothing
 *     locks      to unlock what is not held, or destroy what is, ends the program with words
 *     deadlock   all wait, and none has a deadline: ends it with each thread and what it waits for
 *     hang       more steps than step_max: likewise
 *     chance     getrandom() and sched_getcpu() answer from the seed
 *
 * A thread that blocks in the kernel by other means blocks all others with it: no io_uring in here.
 *
 * ThreadSanitizer runs, but finds few races in here: handing over from thread to thread orders everything
 * that they do. What it does see are inversions of the lock order. Races are for the tests without this.
 */
#ifndef VV_TESTS_SIM_SCHED_H
#define VV_TESTS_SIM_SCHED_H

#include <stdint.h>
#include <stdio.h>

typedef enum vv_sched_policy {
    /* At each step the running thread is preempted with a fixed probability; who is next is drawn. */
    VV_SCHED_RANDOM,
    /* Threads have random priorities, and the highest that can run does; now and then the running one gets
     * the lowest. S. Burckhardt, P. Kothari, M. Musuvathi, S. Nagarakatte, "A Randomized Scheduler with
     * Probabilistic Guarantees of Finding Bugs", ASPLOS 2010. There, d - 1 such changes are spread over a
     * run; here they come at random distances, since nobody knows how long a run will be: what holds for a
     * bug of depth d holds for each stretch that has d - 1 of them. A thread that yields goes last, too: else
     * it would wait for ever for one of less priority. */
    VV_SCHED_PRIORITY,
} vv_sched_policy;

typedef struct vv_sched_options {
    uint64_t seed;
    vv_sched_policy policy;
    uint32_t preempt_permille;  /* RANDOM: of a step; 0: threads run until they wait */
    uint32_t change_steps;      /* PRIORITY: mean distance of the changes, in steps; 0: none */
    uint32_t spurious_permille; /* of a wait for a condition or futex: it returns at once, as it may */
    uint64_t tick_ns_max;       /* by which time goes on with a step, at most */
    uint64_t step_max;          /* 0: no limit */
    FILE *trace;                /* each step as a line, to be compared with another run's; NULL: none */
} vv_sched_options;

/* Call fn(arg) on this thread, as the first of the run. Returns when it has; all threads that were started in
 * the run must have been joined by then, else the program ends. One run at a time in a process. */
void vv_sched_run(const vv_sched_options *o, void (*fn)(void *arg), void *arg);

/* The rest may be called anywhere, and does nothing, or answers 0, on a thread that is not in a run. */

/* A place where another thread may go on: each operation of a simulated disk, for one. */
void vv_sched_point(void);

uint64_t vv_sched_now_ns(void);
void vv_sched_sleep_ns(uint64_t ns);

/* A number drawn from the run's seed. */
uint64_t vv_sched_random(void);

/* Of the run under way, or of the last one. */
uint64_t vv_sched_steps(void);
/* A hash of who did which kind of call, step by step, and when: equal if two runs were the same. */
uint64_t vv_sched_trace_hash(void);

#endif
