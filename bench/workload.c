#include "bench/workload.h"

#include <inttypes.h>
#include <stdio.h>

uint64_t workload_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void workload_key(uint64_t *state, char key[WORKLOAD_KEY_BYTES + 1]) {
    snprintf(key, WORKLOAD_KEY_BYTES + 1, "%016" PRIx64, workload_random(state));
}
