#include "bench/workload.h"

#include <math.h>
#include <stdlib.h>

#include "bench/report.h"

#define ZIPF_EXPONENT 0.99

void workload_fill(char *value, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes; i++)
        value[i] = (char)workload_random(&seed);
}

/* J. Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994; as YCSB does it. */
uint32_t *workload_zipf_ranks(uint64_t count, uint64_t seed) {
    uint32_t *picks = malloc(WORKLOAD_ZIPF_PICKS * sizeof *picks);
    if (!picks || count < 2 || count > UINT32_MAX)
        report_die("a zipfian distribution over 2 to 2^32 entries, and memory for it");
    double zeta = 0, theta = ZIPF_EXPONENT;
    for (uint64_t i = 1; i <= count; i++)
        zeta += 1 / pow((double)i, theta);
    double zeta2 = 1 + pow(0.5, theta), n = (double)count;
    double eta = (1 - pow(2 / n, 1 - theta)) / (1 - zeta2 / zeta);
    for (uint64_t i = 0; i < WORKLOAD_ZIPF_PICKS; i++) {
        double u = (double)(workload_random(&seed) >> 11) / 0x1p53, uz = u * zeta;
        double rank = uz < 1 ? 0 : uz < zeta2 ? 1 : n * pow(eta * u - eta + 1, 1 / (1 - theta));
        picks[i] = rank < n ? (uint32_t)rank : (uint32_t)(count - 1);
    }
    return picks;
}

uint32_t *workload_zipf(uint64_t count, uint64_t seed) {
    uint32_t *picks = workload_zipf_ranks(count, seed);
    for (uint64_t i = 0; i < WORKLOAD_ZIPF_PICKS; i++)
        picks[i] = (uint32_t)(workload_mix(picks[i] + UINT64_C(0x5bd1e995)) % count);
    return picks;
}
