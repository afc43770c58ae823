/*
 * filter.c - a Bloom filter in which all bits of a key lie in one cache line.
 *
 * B. H. Bloom, "Space/Time Trade-offs in Hash Coding with Allowable Errors", CACM 13(7), 1970; F. Putze,
 * P. Sanders, J. Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", WEA 2007. A miss costs one cache
 * line instead of one per probe. Keys spread unevenly over the lines, which costs some more bits for the same
 * rate; the size is found from the rate that is really expected, not from the formula of the flat filter.
 *
 * The upper 32 bits of the hash choose the line, the product of all of it with an odd constant the bits.
 */
#include "base/alloc.h"
#include "engine/sst/sst_impl.h"

#define LINE_BYTES       VV_SST_FILTER_LINE_BYTES
#define LINE_BITS        (LINE_BYTES * 8)
#define LINE_BITS_LOG2   9
#define PROBE_COUNT_MAX  30
#define LINE_COUNT_MAX   (UINT32_C(1) << 31)
#define BITS_PER_KEY_MAX 64

_Static_assert(1 << LINE_BITS_LOG2 == LINE_BITS, "bits of a line");
_Static_assert(LINE_BYTES == VV_CACHE_LINE_BYTES, "a probe touches one line");

static uint64_t mix(uint64_t x) {
    return x * UINT64_C(0x9E3779B97F4A7C15);
}

static uint64_t line_of(uint64_t hash, uint32_t line_count) {
    return ((hash >> 32) * line_count) >> 32;
}

/* The next bit of a line, from the state that begins as mix(hash). */
static uint32_t next_bit(uint64_t *state) {
    uint32_t bit = (uint32_t)(*state >> (64 - LINE_BITS_LOG2));
    *state = mix(*state);
    return bit;
}

/* ---- sizing ---- */

static double power(double base, uint32_t exponent) {
    double result = 1.0;
    for (; exponent; exponent >>= 1, base *= base) {
        if (exponent & 1)
            result *= base;
    }
    return result;
}

/* The expected rate of false positives with lines of `keys_per_line` keys on average: the keys of a line are
 * Poisson distributed, and a line of i keys has the share 1 - (1 - 1/512)^(i * probes) of its bits set. */
static double expected_rate(double keys_per_line, uint32_t probes) {
    double zero_per_key = power(1.0 - 1.0 / LINE_BITS, probes);
    double probability = power(1.0 - keys_per_line / (1 << 30), 1 << 30); /* exp(-keys_per_line) */
    double zero = 1.0;
    double rate = 0.0;
    uint32_t last = (uint32_t)keys_per_line * 2 + 64; /* more keys are too rare to matter */
    for (uint32_t i = 1; i <= last; i++) {
        probability *= keys_per_line / i;
        zero *= zero_per_key;
        rate += probability * power(1.0 - zero, probes);
    }
    return rate;
}

/* The fewest bits a key, in steps of an eighth, that meet the rate with the best number of probes. */
static double choose_bits(double fp_rate, uint32_t *probes_out) {
    double bits = 1.0;
    *probes_out = 1;
    for (; bits < BITS_PER_KEY_MAX; bits += 0.125) {
        /* The best number is near ln 2 times the bits a key. */
        uint32_t middle = (uint32_t)(bits * 0.6931);
        for (uint32_t k = VV_MAX(middle, 2U) - 1; k <= middle + 1 && k <= PROBE_COUNT_MAX; k++) {
            if (expected_rate(LINE_BITS / bits, k) <= fp_rate) {
                *probes_out = k;
                return bits;
            }
        }
        *probes_out = VV_MIN(VV_MAX(middle, 1U), (uint32_t)PROBE_COUNT_MAX);
    }
    return bits;
}

vv_status vv_sst_filter_build(const uint64_t *hashes, size_t count, double fp_rate, vv_sst_buffer *out) {
    uint32_t probes;
    double bits = choose_bits(fp_rate, &probes);
    double lines = bits * (double)count / LINE_BITS;
    uint32_t line_count = lines < LINE_COUNT_MAX ? (uint32_t)lines + 1 : LINE_COUNT_MAX;
    size_t bytes = VV_SST_FILTER_HEAD_BYTES + (size_t)line_count * LINE_BYTES;
    uint8_t *at = vv_sst_buffer_extend(out, bytes);
    if (!at)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memset(at, 0, bytes);
    at[0] = VV_SST_FILTER_BLOCKED;
    at[1] = (uint8_t)probes;
    vv_put_be32(at + 4, line_count);
    uint8_t *first = at + VV_SST_FILTER_HEAD_BYTES;
    for (size_t i = 0; i < count; i++) {
        uint8_t *line = first + line_of(hashes[i], line_count) * LINE_BYTES;
        uint64_t state = mix(hashes[i]);
        for (uint32_t k = 0; k < probes; k++) {
            uint32_t bit = next_bit(&state);
            line[bit >> 3] |= (uint8_t)(1U << (bit & 7));
        }
    }
    return VV_STATUS_OK;
}

/* ---- asking ---- */

vv_status vv_sst_filter_open(vv_sst_filter *f, vv_slice block) {
    *f = (vv_sst_filter){0};
    vv_reader r = vv_reader_make(block);
    uint8_t type = vv_read_u8(&r);
    uint8_t probe_count = vv_read_u8(&r);
    uint16_t reserved_2 = vv_read_be16(&r);
    uint32_t line_count = vv_read_be32(&r);
    uint64_t reserved_8 = vv_read_be64(&r);
    if (r.bad)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    if (type != VV_SST_FILTER_BLOCKED || reserved_2 != 0 || reserved_8 != 0)
        return vv_status_make(VV_UNSUPPORTED, VV_SUB_FORMAT_NEWER, 0);
    if (probe_count == 0 || line_count == 0 || (uint64_t)line_count * LINE_BYTES != r.left_bytes)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    f->lines = vv_alloc_aligned(LINE_BYTES, r.left_bytes);
    if (!f->lines)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memcpy(f->lines, r.at, r.left_bytes);
    f->line_count = line_count;
    f->probe_count = probe_count;
    return VV_STATUS_OK;
}

void vv_sst_filter_close(vv_sst_filter *f) {
    vv_free(f->lines);
    *f = (vv_sst_filter){0};
}

bool vv_sst_filter_may_contain(const vv_sst_filter *f, uint64_t key_hash) {
    if (!f->lines)
        return true;
    const uint8_t *line = f->lines + line_of(key_hash, f->line_count) * LINE_BYTES;
    uint64_t state = mix(key_hash);
    for (uint32_t k = 0; k < f->probe_count; k++) {
        uint32_t bit = next_bit(&state);
        if ((line[bit >> 3] & (1U << (bit & 7))) == 0)
            return false;
    }
    return true;
}
