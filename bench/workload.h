/*
 * workload.h - what benchmarks write and read.
 */
#ifndef VV_BENCH_WORKLOAD_H
#define VV_BENCH_WORKLOAD_H

#include <stdint.h>

#define WORKLOAD_KEY_BYTES 16

/* splitmix64 (S. Vigna): any seed will do. */
uint64_t workload_random(uint64_t *state);

/* A random key of 16 hexadecimal digits and a zero: spread over the whole space, so that every merge
 * overlaps. */
void workload_key(uint64_t *state, char key[WORKLOAD_KEY_BYTES + 1]);

#endif
