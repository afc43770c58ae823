/*
 * gather.h - whether the writer waits for more writes before it commits those that it has.
 *
 * Where commits follow each other without a pause, clients that wait for their answers fall into two groups:
 * while one group is committed the other one queues up, so that each write takes two commits. Yet who was
 * just answered mostly writes again, sooner than a commit ends. So the writer waits for as many as it knows
 * to be about, those it has answered and those that queued meanwhile, and commits them all at once.
 *
 * It waits no longer than a commit takes, and whenever they don't all come in that time it waits for nobody
 * for a while, twice as long after each failure: clients that have other work to do between two writes pay
 * for one wait in VV_GATHER_SKIP_MAX commits. Beyond VV_GATHER_COUNT_MAX writers their own turns take as long
 * as a commit does, and two groups that take turns are as good or better.
 *
 * Durable puts a second by blocking threads on two cores and a disk that commits in 90 us, without and with:
 *
 *   threads       2      4      8     16     24     32     48     64
 *   without    9.6k  18.8k  34.3k    70k   100k   125k   161k   185k
 *   with      14.6k  27.8k  49.0k    88k   123k   138k   168k   165k
 *
 * The policy alone: no clock, no locks. The single writer has it.
 */
#ifndef VV_ENGINE_DB_GATHER_H
#define VV_ENGINE_DB_GATHER_H

#include <stdint.h>

#define VV_GATHER_COUNT_MAX 32u
#define VV_GATHER_SKIP_MAX  1024u
/* However long commits take. */
#define VV_GATHER_NS_MAX UINT64_C(500000)

/* All zeros to begin with. */
typedef struct vv_gather {
    uint32_t wanted;    /* writes to wait for; 0: take what there is */
    uint32_t skip;      /* so many commits without a wait are to come */
    uint32_t skip_next; /* after the next failure */
    uint64_t commit_ns; /* what one takes, on average of late */
} vv_gather;

/* A group was made durable in commit_ns: `answered` blocking writes, and `queued` ones have come meanwhile.
 */
void vv_gather_committed(vv_gather *g, uint32_t answered, uint32_t queued, uint64_t commit_ns);

/* How long to wait for `wanted`, in nanoseconds. */
uint64_t vv_gather_wait_ns(const vv_gather *g);

/* The wait is over, and so many are there. */
void vv_gather_done(vv_gather *g, uint32_t queued);

#endif
