/*
 * counting_writer.h - one who writes key00000000, key00000001, ... beside what is tested, so that any state
 * of the database can be told from a made-up one: it has all keys up to some number.
 */
#ifndef VV_TESTS_ENGINE_COUNTING_WRITER_H
#define VV_TESTS_ENGINE_COUNTING_WRITER_H

#include "tests/engine/db_fixture.h"

static _Atomic uint64_t acknowledged; /* keys 0 to this one, not included */
static _Atomic bool stop_writing;

static inline void counting_key(char key[32], uint64_t i) {
    snprintf(key, 32, "key%08" PRIu64, i);
}

static inline void write_in_order(void *arg) {
    (void)arg;
    for (uint64_t i = 0; !atomic_load(&stop_writing); i++) {
        char key[32], value[256];
        counting_key(key, i);
        snprintf(value, sizeof value, "%0200" PRIu64, i);
        static const varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
        cr_assert(varve_ok(varve_put(fx_db, key, strlen(key), value, strlen(value), &async, NULL)));
        atomic_store(&acknowledged, i + 1);
    }
}

/* The database's keys are 0 to n - 1 for some n, which is returned. */
static inline uint64_t count_without_gaps(varve_db *db) {
    varve_iter *it;
    uint64_t n = 0;
    cr_assert(varve_ok(varve_iter_create(db, NULL, &it)));
    for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it)) {
        varve_entry e;
        char key[32];
        varve_iter_entry(it, &e);
        counting_key(key, n++);
        cr_assert(e.key_bytes == strlen(key) && memcmp(e.key, key, e.key_bytes) == 0, "%s is missing", key);
    }
    cr_assert(varve_ok(varve_iter_status(it)));
    varve_iter_destroy(it);
    return n;
}

#endif
