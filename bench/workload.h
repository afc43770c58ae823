/*
 * workload.h - what benchmarks write and read.
 *
 * Entries have numbers. An entry's key follows from its number, and its value begins with it, so that whoever
 * reads one knows whether it is the right one.
 */
#ifndef VV_BENCH_WORKLOAD_H
#define VV_BENCH_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WORKLOAD_KEY_BYTES       16
#define WORKLOAD_VALUE_BYTES_MAX 65536

/* splitmix64 (S. Vigna): any seed will do. */
static inline uint64_t workload_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t workload_random(uint64_t *state) {
    return workload_mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

/* 0 to count - 1, all as likely. */
static inline uint64_t workload_below(uint64_t *state, uint64_t count) {
    return (uint64_t)(((unsigned __int128)workload_random(state) * count) >> 64);
}

/* Keys in the order of their numbers. */
static inline void workload_key_ascending(uint64_t number, char key[WORKLOAD_KEY_BYTES]) {
    uint64_t high = 0, low = __builtin_bswap64(number);
    memcpy(key, &high, 8);
    memcpy(key + 8, &low, 8);
}

/* Keys spread over the whole space, so that neighbouring numbers are far apart and every merge overlaps. */
static inline void workload_key(uint64_t number, char key[WORKLOAD_KEY_BYTES]) {
    uint64_t high = workload_mix(number + UINT64_C(0x9e3779b97f4a7c15)), low = __builtin_bswap64(number);
    memcpy(key, &high, 8);
    memcpy(key + 8, &low, 8);
}

/* A value is the number and bytes that don't compress. `value` holds `bytes` of them already, from
 * workload_fill(). */
static inline void workload_value(uint64_t number, char *value) {
    memcpy(value, &number, sizeof number);
}

static inline uint64_t workload_value_number(const void *value) {
    uint64_t number;
    memcpy(&number, value, sizeof number);
    return number;
}

void workload_fill(char *value, size_t bytes, uint64_t seed);

/*
 * Numbers below `count` as often as Zipf's law has it, with the exponent 0.99 of YCSB, and the popular ones
 * scattered. They are drawn beforehand, so that drawing costs a workload one load: a session goes through
 * them from a place of its own. The caller frees them with free().
 */
#define WORKLOAD_ZIPF_PICKS (UINT64_C(1) << 20)
uint32_t *workload_zipf(uint64_t count, uint64_t seed);
/* The same without scattering: 0 is the most popular one, and so on. */
uint32_t *workload_zipf_ranks(uint64_t count, uint64_t seed);

#endif
