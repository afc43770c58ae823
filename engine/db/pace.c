/*
 * pace.c - flow control in a running database: takes the figures, and makes the writer wait, or merges.
 *
 * The single writer pays for a group after it was answered, by taking the next one later; so a write that
 * comes after a pause waits for nothing. Time that passes anyway counts as waited.
 *
 * Durability under delay: a pause never outlasts the moment at which asynchronous writes are due. It is slept
 * in slices that end there, and the log is synced in between.
 *
 * Merges keep to COMPACTION_RATE by a token bucket, which fills while none is under way, for BURST_NS at
 * most. Flushes never wait for it: they have a thread of their own, and level 0 takes any number of runs.
 * Before writers would have to be slowed for the sake of merges, merges are let go as fast as they can: who
 * limits their rate wants to spare the disk, and not to have writes wait.
 */
#include <time.h>

#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "engine/db/flow.h"

/* What an entry takes in a memtable and in the log beside key and value, about. */
#define ENTRY_BYTES 64
/* Less is not slept for, but added to what comes next. */
#define PAUSE_NS_MIN (200 * VV_NS_PER_US)
/* After this much of a pause, look whether it is still called for. */
#define SLICE_NS (2 * VV_NS_PER_MS)
/* Leveled only. In tiered merges whole levels are due by turns, and say nothing about who is behind. */
#define DEBT_LIMIT_LEVEL1_COUNT 64
/* Of merges. The rate may change while one waits for it, and the database be closed: so long it goes
 * unnoticed. */
#define BURST_NS       (100 * VV_NS_PER_MS)
#define MERGE_SLICE_NS (20 * VV_NS_PER_MS)

void vv_db_pace_observe(varve_db *db, const vv_view *old, const vv_view *next) {
    atomic_store_explicit(&db->flow.sealed_count, next->sealed_count, memory_order_relaxed);
    const vv_version *v = next->version;
    if (old && old->version == v)
        return;
    uint32_t runs = 0;
    while (runs < v->run_count && v->runs[runs].level == 0)
        runs++;
    vv_picker_options o = vv_db_picker_options(db);
    atomic_store_explicit(&db->flow.level0_runs, runs, memory_order_relaxed);
    atomic_store_explicit(&db->flow.debt_bytes, vv_compaction_debt_bytes(v, &o), memory_order_relaxed);
}

/* What merges have to do with it; no memtables. */
static vv_flow_inputs inputs(varve_db *db) {
    const vv_settings *s = &db->settings;
    vv_flow_inputs in = {.sealed_max = (uint32_t)s->immutable_count_max,
                         .memtable_bytes = s->memtable_bytes,
                         .level0_runs = atomic_load_explicit(&db->flow.level0_runs, memory_order_relaxed),
                         .run_threshold = (uint32_t)s->compaction_threshold,
                         .debt_bytes = atomic_load_explicit(&db->flow.debt_bytes, memory_order_relaxed)};
    /* On a full disk merges wait for space: to slow the deletes that may bring it would help nobody. */
    if (atomic_load_explicit(&db->space_short, memory_order_relaxed))
        in.level0_runs = 0;
    else if (s->compaction_style == VV_COMPACTION_LEVELED &&
             __builtin_mul_overflow(vv_db_picker_options(db).level1_bytes, DEBT_LIMIT_LEVEL1_COUNT,
                                    &in.debt_limit_bytes))
        in.debt_limit_bytes = UINT64_MAX;
    return in;
}

static uint32_t pressure(varve_db *db) {
    vv_flow_inputs in = inputs(db);
    in.sealed_count = atomic_load_explicit(&db->flow.sealed_count, memory_order_relaxed);
    in.active_bytes = vv_memtable_bytes(db->commit.active);
    return vv_flow_pressure(&in);
}

/* Would the next run, or an eighth more to merge, slow writers? */
static bool merges_are_urgent(varve_db *db) {
    vv_flow_inputs in = inputs(db);
    in.level0_runs++;
    in.debt_bytes += in.debt_bytes / 8;
    return vv_flow_pressure(&in) > 0;
}

bool vv_db_pace_due(varve_db *db) {
    if (db->flow.next_ns == 0)
        return false;
    uint64_t now_ns = vv_clock_mono_ns();
    if (db->flow.next_ns <= now_ns)
        db->flow.next_ns = 0;
    return db->flow.next_ns >= now_ns + PAUSE_NS_MIN && pressure(db) > 0;
}

void vv_db_pace_charge(varve_db *db, uint64_t entry_count, uint64_t data_bytes) {
    uint32_t now_pressed = pressure(db);
    if (now_pressed == 0)
        return;
    uint64_t now_ns = vv_clock_mono_ns();
    uint64_t owed_ns =
        vv_flow_delay_ns(now_pressed, data_bytes + entry_count * ENTRY_BYTES, db->settings.memtable_bytes);
    db->flow.next_ns =
        VV_MIN(VV_MAX(db->flow.next_ns, now_ns) + owed_ns, now_ns + VV_FLOW_DELAY_US_MAX * VV_NS_PER_US);
}

static void sleep_until(uint64_t ns) {
    struct timespec ts = {.tv_sec = (time_t)(ns / VV_NS_PER_S), .tv_nsec = (long)(ns % VV_NS_PER_S)};
    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL); /* a signal ends one slice */
}

void vv_db_pace_wait(varve_db *db) {
    if (db->flow.next_ns == 0)
        return;
    uint64_t start_ns = vv_clock_mono_ns();
    uint64_t now_ns = start_ns;
    if (db->flow.next_ns < start_ns + PAUSE_NS_MIN)
        return;
    while (now_ns < db->flow.next_ns && pressure(db) > 0) {
        uint64_t until_ns = VV_MIN(db->flow.next_ns, now_ns + SLICE_NS);
        if (db->commit.unsynced)
            until_ns = VV_MIN(until_ns, db->commit.sync_due_ns);
        if (until_ns > now_ns)
            sleep_until(until_ns);
        else if (!vv_ok(vv_db_sync_log(db, false)))
            break; /* latched: nothing is written any more, and nothing to wait for */
        vv_db_confirm(db);
        now_ns = vv_clock_mono_ns();
    }
    db->flow.next_ns = VV_MIN(db->flow.next_ns, now_ns);
    atomic_fetch_add_explicit(&db->flow.delays, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&db->flow.delay_us, (now_ns - start_ns) / VV_NS_PER_US, memory_order_relaxed);
}

/* Until when `bytes` more keep merges busy at this rate. */
static uint64_t due_ns(const varve_db *db, uint64_t bytes, uint64_t rate) {
    uint64_t now_ns = vv_clock_mono_ns();
    double cost_ns = (double)bytes / (double)rate * (double)VV_NS_PER_S;
    /* A day is as good as any longer time, and is no overflow. */
    double day_ns = 86400.0 * (double)VV_NS_PER_S;
    return VV_MAX(db->compaction.due_ns, now_ns - BURST_NS) + (uint64_t)VV_MIN(cost_ns, day_ns);
}

void vv_db_pace_merge(varve_db *db, uint64_t bytes) {
    uint64_t rate = atomic_load_explicit(&db->compaction.rate, memory_order_relaxed);
    if (rate == 0)
        return;
    db->compaction.due_ns = due_ns(db, bytes, rate);
    for (;;) {
        uint64_t now_ns = vv_clock_mono_ns();
        if (now_ns >= db->compaction.due_ns)
            return;
        if (atomic_load_explicit(&db->compaction.stop, memory_order_relaxed) ||
            atomic_load_explicit(&db->compaction.rate, memory_order_relaxed) != rate || merges_are_urgent(db))
            break;
        sleep_until(VV_MIN(db->compaction.due_ns, now_ns + MERGE_SLICE_NS));
    }
    db->compaction.due_ns = vv_clock_mono_ns(); /* what was owed by the old rate is not by the new one */
}
