/*
 * A reader between any two instructions of the writer. Threads that race meet a window of one instruction too
 * rarely to rely on; so the processor's trap flag stops the writer after each of its instructions, and the
 * signal's handler reads: on x86, whose stores become visible in program order, no other thread sees the
 * memtable in a state that this one does not. (What compilers and other machines may reorder is TSan's
 * business, which takes single steps for something else.)
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "base/alloc.h"
#include "engine/mem/memtable.h"
#include "tests/support/tempdir.h"

#if defined(__x86_64__) && !defined(VV_TSAN)

#define TRAP_FLAG 0x100
#ifdef VV_ASAN
#define ENTRIES 40 /* each step takes ten times as long, and there are more of them */
#else
#define ENTRIES 96
#endif
#define ENTRIES_MAX 1100

static struct {
    vv_memtable *m;
    volatile bool stepping;
    uint64_t keys[ENTRIES_MAX];
    uint64_t published; /* entries that a reader must find, each with its LSN */
    uint64_t steps;
    uint64_t failures;
    uint64_t missed; /* the LSN of the last one */
} at;

static void read_all(void) {
    for (uint64_t lsn = 1; lsn <= at.published; lsn++) {
        vv_entry e;
        bool found = vv_memtable_get(at.m, vv_slice_make(&at.keys[lsn - 1], 8), lsn, &e);
        if (found && e.lsn == lsn && e.value.bytes == 8 && memcmp(e.value.data, &lsn, 8) == 0)
            continue;
        at.failures++;
        at.missed = lsn;
    }
}

/* Also what a signal of our own begins the stepping with: the flag takes effect when the handler returns. */
static void on_step(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    (void)info;
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    if (!at.stepping) {
        *flags &= ~(greg_t)TRAP_FLAG;
        return;
    }
    *flags |= TRAP_FLAG;
    at.steps++;
    read_all();
}

static void add(uint64_t lsn, bool in_steps) {
    vv_entry e = {.key = vv_slice_make(&at.keys[lsn - 1], 8),
                  .value = vv_slice_make(&lsn, 8),
                  .lsn = lsn,
                  .kind = VV_KIND_PUT};
    cr_assert(vv_ok(vv_memtable_reserve(at.m, 1, 16)));
    at.stepping = in_steps;
    if (in_steps)
        raise(SIGTRAP);
    vv_memtable_add(at.m, &e);
    at.stepping = false;
    at.published = lsn;
}

/* So many keys, so many entries, the last of them in steps. */
static void check(vv_memtable_type type, uint64_t key_count, uint64_t entries, uint64_t in_steps) {
    uint64_t seed = vv_test_seed();
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    cr_assert_eq(sigaction(SIGTRAP, &action, NULL), 0);
    memset(&at, 0, sizeof at);
    cr_assert(vv_ok(vv_memtable_create(type, seed, &at.m)));
    for (uint64_t i = 0; i < entries; i++)
        at.keys[i] = __builtin_bswap64(vv_test_random(&seed) % key_count);
    for (uint64_t lsn = 1; lsn <= entries; lsn++)
        add(lsn, lsn > entries - in_steps);
    cr_assert_gt(at.steps, in_steps * 50);
    cr_assert_eq(at.failures, 0, "%" PRIu64 " of %" PRIu64 " steps; LSN %" PRIu64 " was missed", at.failures,
                 at.steps, at.missed);
    vv_memtable_unref(at.m);
}

/* Many keys: nodes and buckets split. Few keys: versions are put before versions. */
Test(memtable_steps, hashmap) {
    check(VV_MEMTABLE_HASHMAP, UINT64_MAX, ENTRIES, ENTRIES);
    check(VV_MEMTABLE_HASHMAP, 5, ENTRIES, ENTRIES);
}

Test(memtable_steps, skiplist) {
    check(VV_MEMTABLE_SKIPLIST, UINT64_MAX, ENTRIES, ENTRIES);
    check(VV_MEMTABLE_SKIPLIST, 5, ENTRIES, ENTRIES);
    /* Its index has 256 buckets at first, and one more for every 4 keys from 1,024 on. */
    check(VV_MEMTABLE_SKIPLIST, UINT64_MAX, 1036, 12);
}

Test(memtable_steps, btree) {
    check(VV_MEMTABLE_BTREE, UINT64_MAX, ENTRIES, ENTRIES);
    check(VV_MEMTABLE_BTREE, 5, ENTRIES, ENTRIES);
}

#else
Test(memtable_steps, needs_x86_64_and_no_tsan) {}
#endif
