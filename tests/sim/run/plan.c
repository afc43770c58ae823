/*
 * plan.c - drawing a run. Every draw is a hash of the seed and of what it is for, not the next of a stream.
 */
#include "tests/sim/run/plan.h"

#include <stdlib.h>
#include <string.h>

enum {
    FOR_GENERATIONS = 1,
    FOR_OPS,
    FOR_CLIENTS,
    FOR_KEYS,
    FOR_SCHED,
    FOR_SETTING,
    FOR_PROFILE,
    FOR_DISK,
    FOR_SYNC,
    FOR_FAULT,
    FOR_CRASH,
    FOR_CUT,
    FOR_OP
};

uint64_t sim_mix(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t x = a * UINT64_C(0x9E3779B97F4A7C15) ^ (b + 1) * UINT64_C(0xC2B2AE3D27D4EB4F) ^
                 (c + 1) * UINT64_C(0x165667B19E3779F9);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

static uint64_t draw(const sim_plan *p, uint64_t what, uint64_t n) {
    return sim_mix(p->seed, what, 0) % n;
}

/* What goes wrong, beside crashes, in how many of eight runs. */
static void draw_faults(sim_plan *p) {
    uint64_t kind = draw(p, FOR_PROFILE, 8);
    /* Those that no caller sees come in most runs. */
    if (kind > 0)
        p->faults |= 1u << VV_SIM_FAULT_SHORT | 1u << VV_SIM_FAULT_EINTR | 1u << VV_SIM_FAULT_LATENCY;
    if (kind == 3 || kind == 4 || kind == 5)
        p->faults |= 1u << VV_SIM_FAULT_EIO | 1u << VV_SIM_FAULT_PARTIAL;
    if (kind == 4 || kind == 6)
        p->faults |= 1u << VV_SIM_FAULT_ENOSPC;
    if (kind == 5 || kind == 7)
        p->faults |= 1u << VV_SIM_FAULT_BIT_FLIP;
    if (kind == 6)
        p->capacity_bytes = (3 + draw(p, FOR_DISK, 6)) << 20;
    if (kind == 2) {
        p->lies = true;
        p->faults |= 1u << VV_SIM_FAULT_MISDIRECTED | 1u << VV_SIM_FAULT_LOST_WRITE;
    }
    /* From some in a generation to one in several. */
    uint32_t often = (uint32_t)(200 << 2 * draw(p, FOR_FAULT, 4));
    for (uint32_t f = 0; f < VV_SIM_FAULT_COUNT; f++)
        p->per_million[f] = often;
    p->per_million[VV_SIM_FAULT_SHORT] = p->per_million[VV_SIM_FAULT_EINTR] = 10000;
    p->per_million[VV_SIM_FAULT_LATENCY] = 5000;
    p->per_million[VV_SIM_FAULT_BIT_FLIP] = 4 * often;
    p->per_million[VV_SIM_FAULT_MISDIRECTED] = p->per_million[VV_SIM_FAULT_LOST_WRITE] = 60000;
}

void sim_plan_init(sim_plan *p, uint64_t seed) {
    memset(p, 0, sizeof *p);
    p->seed = seed;
    p->generations = 2 + (uint32_t)draw(p, FOR_GENERATIONS, 7);
    p->ops = 20 + (uint32_t)draw(p, FOR_OPS, 180);
    p->clients = 1 + (uint32_t)draw(p, FOR_CLIENTS, 4);
    p->keys = 8u << draw(p, FOR_KEYS, 5);
    p->crashes = true;
    p->sync_percent = (uint32_t)(10 + draw(p, FOR_SYNC, 91));
    p->align_bytes = draw(p, FOR_DISK + 64, 2) ? 512 : 4096;
    p->atomic_block_bytes = draw(p, FOR_DISK + 128, 2) ? 512 : 4096;
    draw_faults(p);
    uint64_t sched = draw(p, FOR_SCHED, 16);
    p->sched = (vv_sched_options){.seed = seed,
                                  .policy = sched % 4 == 0 ? VV_SCHED_PRIORITY : VV_SCHED_RANDOM,
                                  .preempt_permille = 20u << sched / 4 * 2 % 8,
                                  .change_steps = 100,
                                  .spurious_permille = 5,
                                  .tick_ns_max = 2000,
                                  .step_max = 20000000};
}

/* ---- settings ---- */

typedef struct setting {
    const char *key;
    const char *values[4];
    uint32_t count;
} setting;

/* Small, so that each generation flushes, merges and recycles. */
static const setting settings[] = {
    {"MEMTABLE_TYPE", {"skiplist", "hashmap", "btree"}, 3},
    {"COMPACTION_STYLE", {"tiered", "leveled"}, 2},
    {"INDEX_TYPE", {"sparse", "dense"}, 2},
    {"COMPRESSION", {"none", "lz4", "zstd"}, 3},
    {"MEMTABLE_SIZE", {"64KiB", "64KiB", "128KiB"}, 3},
    {"WAL_SEGMENT_SIZE", {"256KiB"}, 1},
    {"MAX_WAL_SIZE", {"1MiB"}, 1},
    {"WAL_BUFFER_SIZE", {"2", "8"}, 2},
    {"MAX_IMMUTABLE_COUNT", {"1", "2", "4"}, 3},
    {"LSM_LEVELS", {"2", "3", "4"}, 3},
    {"COMPACTION_THRESHOLD", {"2", "2", "4"}, 3},
    {"MAX_TABLE_SIZE", {"64KiB", "128KiB"}, 2},
    {"BLOCK_SIZE", {"4KiB", "4KiB", "16KiB"}, 3},
    {"CACHE_CAPACITY", {"0", "64KiB", "4MiB"}, 3},
    {"TABLE_CACHE_SIZE", {"1", "8"}, 2},
    {"BLOOM_FILTER_FALSE_POSITIVE_RATE", {"0", "0.01", "0.3"}, 3},
    {"WAL_SYNC_INTERVAL", {"100us", "10ms", "60s"}, 3},
    {"WAL_RETENTION_MAX", {"256KiB", "4MiB"}, 2},
};

bool sim_plan_setting(const sim_plan *p, uint32_t index, const char **key_out, const char **value_out) {
    if (index >= sizeof settings / sizeof settings[0])
        return false;
    const setting *s = &settings[index];
    *key_out = s->key;
    *value_out = s->values[sim_mix(p->seed, FOR_SETTING, index) % s->count];
    return true;
}

/* ---- crashes ---- */

static vv_sim_crash draw_crash(const sim_plan *p, uint64_t what, uint32_t generation) {
    uint64_t x = sim_mix(p->seed, what, generation);
    static const vv_sim_survival survivals[] = {VV_SIM_SURVIVES_SOME, VV_SIM_SURVIVES_SOME,
                                                VV_SIM_SURVIVES_SYNCED, VV_SIM_SURVIVES_ALL};
    return (vv_sim_crash){.survival = survivals[x % 4],
                          .seed = x,
                          .sector_bytes = x >> 8 & 1 ? 512 : 4096,
                          .destroys = (x >> 9 & 3) == 0,
                          .shows_stale = (x >> 11 & 1) == 0};
}

sim_crash sim_plan_crash(const sim_plan *p, uint32_t generation) {
    uint64_t x = sim_mix(p->seed, FOR_CRASH, generation), y = sim_mix(x, p->salt, 0);
    sim_crash c = {.planned = p->crashes && x % 8 != 0,
                   .in_open = (x >> 8) % 4 == 0,
                   .op = generation * SIM_OPS_MAX + (uint32_t)((x >> 16) % p->ops),
                   .how = draw_crash(p, FOR_CRASH + 64, generation)};
    /* Most I/Os are reads and writes. Three of four crashes are at those that are few, and in whose order
     * names and contents come to last. */
    static const uint32_t ops[] = {0, 1u << VV_SIM_RENAME, 1u << VV_SIM_SYNC | 1u << VV_SIM_DIR_SYNC,
                                   1u << VV_SIM_RENAME | 1u << VV_SIM_UNLINK | 1u << VV_SIM_CREATE};
    c.ops = ops[x >> 12 & 3];
    c.after = 1 + (uint32_t)((y >> 32) % (c.ops ? 8 : 8u << (y >> 60) % 10)); /* mostly soon, sometimes not */
    return c;
}

bool sim_plan_cut_when_closed(const sim_plan *p, uint32_t generation, vv_sim_crash *how_out) {
    *how_out = draw_crash(p, FOR_CUT, generation);
    return p->crashes && how_out->seed >> 20 & 1;
}

/* ---- operations ---- */

bool sim_plan_has(const sim_plan *p, uint32_t number) {
    if (!p->only)
        return true;
    for (uint32_t i = 0; i < p->only_count; i++)
        if (p->only[i] == number)
            return true;
    return false;
}

static const uint32_t weights[SIM_KIND_COUNT] = {
    [SIM_PUT] = 160,     [SIM_DELETE] = 60,    [SIM_BATCH] = 290, [SIM_SWAP] = 70,
    [SIM_GET] = 150,     [SIM_MULTI_GET] = 40, [SIM_SCAN] = 60,   [SIM_SNAPSHOT] = 40,
    [SIM_FLUSH] = 25,    [SIM_COMPACT] = 8,    [SIM_CURSOR] = 30, [SIM_SLOT] = 30,
    [SIM_SAFE_LSN] = 10, [SIM_VERIFY] = 8,     [SIM_EXPORT] = 8,  [SIM_EPOCH] = 8,
};

const char *sim_kind_name(sim_kind kind) {
    static const char *const names[] = {"put",      "delete",   "batch",  "swap",    "get",    "multi-get",
                                        "scan",     "snapshot", "flush",  "compact", "cursor", "slot",
                                        "safe-lsn", "verify",   "export", "epoch"};
    return names[kind];
}

static sim_kind draw_kind(uint64_t x) {
    uint32_t all = 0;
    for (uint32_t k = 0; k < SIM_KIND_COUNT; k++)
        all += weights[k];
    x %= all;
    uint32_t k = 0;
    while (x >= weights[k])
        x -= weights[k++];
    return (sim_kind)k;
}

static uint32_t draw_value_bytes(uint64_t x) {
    uint32_t bytes = x % 8 < 4   ? (uint32_t)(x >> 8) % 200
                     : x % 8 < 7 ? (uint32_t)(x >> 8) % 3000
                                 : (uint32_t)(x >> 8) % 12000;
    return SIM_VALUE_BYTES_MIN + bytes;
}

static sim_expiry draw_expiry(uint64_t x) {
    switch (x % 24) {
    case 0: return SIM_LONG_AGO;
    case 1: return SIM_FAR_AWAY;
    case 2:
    case 3: return SIM_SOON;
    default: return SIM_NEVER;
    }
}

static sim_part draw_part(const sim_plan *p, const sim_op *op, uint32_t i) {
    uint64_t x = sim_mix(op->random, FOR_OP, i);
    sim_part part = {.key = (uint32_t)((x >> 8) % p->keys),
                     .deleted = op->kind == SIM_DELETE || (op->kind != SIM_PUT && x % 4 == 0),
                     .expiry = draw_expiry(x >> 32),
                     .value_bytes = draw_value_bytes(sim_mix(x, 0, 0))};
    if (i == 0 && !op->named) {
        part.key = p->keys + op->client * SIM_PRIVATE_KEYS + (uint32_t)(x >> 8) % SIM_PRIVATE_KEYS;
        part.deleted = false;
        part.expiry = SIM_NEVER;
    }
    return part;
}

void sim_plan_op(const sim_plan *p, uint32_t number, sim_op *out) {
    uint64_t x = sim_mix(p->seed, FOR_OP, number);
    memset(out, 0, sizeof *out);
    out->number = number;
    out->generation = number / SIM_OPS_MAX;
    out->random = sim_mix(x, 1, 0);
    out->client = (uint32_t)(x >> 40) % p->clients;
    out->kind = draw_kind(x & 0xffffff);
    if (out->kind > SIM_SWAP)
        return;
    out->sync = (x >> 24) % 100 < p->sync_percent;
    out->named = out->kind == SIM_DELETE || (x >> 32) % 10 < 7;
    out->async_call = out->kind == SIM_BATCH && out->named && (x >> 36) % 4 == 0;
    bool single = out->kind == SIM_PUT || out->kind == SIM_DELETE;
    out->part_count = single ? 1 : 1 + (uint32_t)(x >> 48) % SIM_PARTS_MAX;
    for (uint32_t i = 0; i < out->part_count; i++)
        out->parts[i] = draw_part(p, out, i);
}

/* ---- keys and values ---- */

void sim_value_fill(uint8_t *to, uint32_t bytes, uint32_t op_number, uint32_t part) {
    uint64_t x = sim_mix(op_number, part, 7);
    uint8_t mask = x % 3 ? 0x0f : 0xff; /* some compress well */
    memcpy(to, &op_number, 4);
    memcpy(to + 4, &part, 4);
    for (uint32_t i = SIM_VALUE_BYTES_MIN; i < bytes; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        to[i] = (uint8_t)(x >> 56) & mask;
    }
}

uint32_t sim_key_text(uint32_t key, char to[SIM_KEY_BYTES_MAX]) {
    return (uint32_t)snprintf(to, SIM_KEY_BYTES_MAX, "%04u%.*s", key, (int)(key % 23),
                              "abcdefghijklmnopqrstuvwxyz");
}

bool sim_key_parse(const void *text, size_t bytes, uint32_t *key_out) {
    char digits[5] = "", whole[SIM_KEY_BYTES_MAX];
    if (bytes < 4)
        return false;
    memcpy(digits, text, 4);
    *key_out = (uint32_t)strtoul(digits, NULL, 10);
    return sim_key_text(*key_out, whole) == bytes && memcmp(whole, text, bytes) == 0;
}
