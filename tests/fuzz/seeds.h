/*
 * seeds.h - what the seed generator's parts share. A seed is an input of one target: flags and what else
 * the target's own comment draws, then bytes that the engine itself has written.
 */
#ifndef VV_TESTS_FUZZ_SEEDS_H
#define VV_TESTS_FUZZ_SEEDS_H

#include "engine/sst/sst_impl.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mem_io.h"

/* The input being put together. */
typedef vv_sst_buffer seed;

static inline void seed_bytes(seed *s, const void *data, size_t bytes) {
    FUZZ_CHECK(vv_sst_buffer_append(s, data, bytes));
}

static inline void seed_u8(seed *s, unsigned value) {
    uint8_t byte = (uint8_t)value;
    seed_bytes(s, &byte, 1);
}

static inline void seed_be16(seed *s, unsigned value) {
    uint8_t bytes[2];
    vv_put_be16(bytes, (uint16_t)value);
    seed_bytes(s, bytes, sizeof bytes);
}

static inline void seed_be64(seed *s, uint64_t value) {
    uint8_t bytes[8];
    vv_put_be64(bytes, value);
    seed_bytes(s, bytes, sizeof bytes);
}

/* Write it as DIR/<target>/<name>, and begin the next one. */
void seed_write(seed *s, const char *target, const char *name);

/* One function a part. */
void seeds_engine(void);
void seeds_server(void);

#endif
