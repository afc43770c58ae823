/*
 * fake_primary.h - a primary that says what a test tells it to: Hello, StreamWal and Confirm on a transport
 * of its own, in the process of the server that follows it.
 *
 * It answers each StreamWal by a sound first frame without records; what follows is pushed by the test. One
 * for a process.
 */
#ifndef VV_TESTS_FAKE_PRIMARY_H
#define VV_TESTS_FAKE_PRIMARY_H

#include "engine/varve.h"
#include "varve/v1/replication.pb-c.h"

/* What it says of itself; to be changed before it is asked. */
typedef struct fake_words {
    uint8_t database_id[VARVE_DATABASE_ID_BYTES];
    const char *role; /* NULL: a primary */
    varve_epoch history[4];
    size_t history_count;
    uint64_t durable_lsn;
    uint64_t first_epoch;   /* of the first frame; 0: the newest of the history */
    const char *refusal;    /* of StreamWal: a reason; NULL: none */
    const char *detail_key; /* with it */
    const char *detail;
} fake_words;

void fake_primary_start(void);
void fake_primary_stop(void);
const char *fake_primary_address(void);

/* Any thread. */
void fake_primary_say(const fake_words *words);

/* Wait until it was asked for the n-th stream (from 1); the LSN behind which that was to begin. */
uint64_t fake_primary_await_stream(size_t n);
size_t fake_primary_streams(void);
/* Whether one is open. */
bool fake_primary_streaming(void);
/* A frame on the stream that is open. */
void fake_primary_push(const Varve__V1__WalFrame *frame);
/* Wait until the n-th stream has ended. */
void fake_primary_await_end(size_t n);
/* Wait until lsn, or more, is confirmed; what it is. */
uint64_t fake_primary_await_confirmed(uint64_t lsn);

#endif
