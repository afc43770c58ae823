/*
 * model.h - what a database must hold after each write, in the order of its log.
 *
 * Every write is told to the model before it is made, with the LSNs that it will get (one thread writes), and
 * acknowledged when it is durable. What a recovery finds is right if it is, as a whole, the state at an LSN
 *
 *     acknowledged  <=  LSN  <=  told        and the LSN is the end of a batch
 *
 * that is: no acknowledged write is lost, the rest is a prefix of the write order, batches are whole, what
 * was deleted is deleted, and no value is anything but what was written.
 *
 * acknowledged and told may be read from any thread; all else belongs to the writing one.
 */
#ifndef VV_TESTS_SIM_MODEL_H
#define VV_TESTS_SIM_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/varve.h"

#define SIM_KEYS            48
#define SIM_VALUE_BYTES_MAX 32768

typedef struct sim_write {
    uint16_t key;
    bool deleted; /* or expired already */
    bool ends_batch;
    uint32_t value_bytes; /* the value follows from LSN and length */
} sim_write;

typedef struct sim_model {
    sim_write *writes; /* by LSN; [0] is the empty database, the end of a batch */
    size_t capacity;
    _Atomic uint64_t told;
    _Atomic uint64_t acknowledged;
} sim_model;

void sim_model_init(sim_model *m);
void sim_model_deinit(sim_model *m);

/* The next LSN is this. Returns it. */
uint64_t sim_model_tell(sim_model *m, sim_write w);
/* All up to lsn is durable. */
void sim_model_acknowledge(sim_model *m, uint64_t lsn);

/* A copy of the writes up to lsn, all of them acknowledged. */
void sim_model_copy(sim_model *to, const sim_model *from, uint64_t lsn);
/* The database is going back to what it was at lsn: it is either there, or still where it is. */
void sim_model_go_back(sim_model *m, uint64_t lsn);

/* Keys of several lengths, whose order is that of their numbers. Returns the length; room for 64 bytes. */
size_t sim_key(uint32_t key, char *out);
/* The value that the write of `lsn` gave; room for value_bytes. */
void sim_value(uint64_t lsn, uint32_t value_bytes, char *out);

/*
 * Compare all that can be read: a scan in each direction and a get of every key, which must show the state at
 * the database's last LSN; that must lie from `least` to `most` (NULL words: it does). Returns the words of
 * what is wrong, static, or NULL.
 */
const char *sim_model_compare(const sim_model *m, varve_db *db, uint64_t least, uint64_t most);

#endif
