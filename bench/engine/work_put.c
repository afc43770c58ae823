/*
 * work_put.c - operations that write.
 */
#include "bench/engine/work.h"

#include <stdlib.h>

#define BURST 64

static const char *value_for(drive_thread *t, uint64_t number) {
    workload_value(number, t->value);
    return t->value;
}

void op_put_ascending(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t number = atomic_fetch_add_explicit(&t->data->passed, 1, memory_order_relaxed);
    workload_key_ascending(number, key);
    t->kind->put(t->session, key, value_for(t, number), t->data->value_bytes);
}

void op_put_random(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t number = workload_random(&t->random);
    workload_key(number, key);
    t->kind->put(t->session, key, value_for(t, number), t->data->value_bytes);
}

void op_put_async(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t number = workload_random(&t->random);
    workload_key(number, key);
    t->kind->put_async(t->session, key, value_for(t, number), t->data->value_bytes);
}

void op_put_burst(drive_thread *t) {
    for (int i = 0; i < BURST; i++)
        op_put_async(t);
    t->kind->drain(t->session);
    t->moves = BURST;
}

/* The nearest that a store without callbacks has for one thread. */
void op_put_batch(drive_thread *t) {
    for (int i = 0; i < BURST; i++) {
        workload_key(workload_random(&t->random), t->entries[i].key);
        t->entries[i].value = t->value;
        t->entries[i].value_bytes = t->data->value_bytes;
    }
    t->kind->write(t->session, t->entries, BURST);
    t->moves = BURST;
}

void op_delete_ascending(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t number = atomic_fetch_add_explicit(&t->data->passed, 1, memory_order_relaxed);
    workload_key_ascending(number, key);
    t->kind->remove(t->session, key);
}

void work_load(drive_data *d, uint64_t first, uint64_t count) {
    static char buffer[WORKLOAD_VALUE_BYTES_MAX];
    enum { BATCH = 500 };
    store_entry entries[BATCH];
    char *values = malloc(BATCH * d->value_bytes);
    store_session *x = d->s->kind->session_open(d->s, 0, NULL);
    if (!values)
        report_die("out of memory");
    workload_fill(buffer, d->value_bytes, 1);
    for (uint64_t at = 0, n; at < count; at += n) {
        n = count - at < BATCH ? count - at : BATCH;
        for (uint64_t i = 0; i < n; i++) {
            char *value = values + i * d->value_bytes;
            memcpy(value, buffer, d->value_bytes);
            workload_value(first + at + i, value);
            (d->ascending ? workload_key_ascending : workload_key)(first + at + i, entries[i].key);
            entries[i].value = value;
            entries[i].value_bytes = d->value_bytes;
        }
        d->s->kind->write(x, entries, n);
    }
    d->s->kind->session_close(x);
    free(values);
}
