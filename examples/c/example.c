/*
 * Varve in the process: libvarve, no server.
 *
 *     make && ./example DIRECTORY
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <varve.h>

static void die(const char *what, varve_status st) {
    fprintf(stderr, "%s: %s (%s): %s\n", what, varve_code_name(st.code), varve_reason_name(st.reason),
            varve_code_text(st.code));
    exit(1);
}

static void must(const char *what, varve_status st) {
    if (!varve_ok(st))
        die(what, st);
}

/* Acknowledged means: on the disk. */
static uint64_t put(varve_db *db, const char *key, const char *value) {
    uint64_t lsn;
    must("put", varve_put(db, key, strlen(key), value, strlen(value), NULL, &lsn));
    return lsn;
}

/* Compare-and-set: writes only if the key still is as it was read. An LSN of 0 means that it is not there. */
static long increment(varve_db *db, const char *key) {
    for (;;) {
        char text[32] = "0";
        varve_value was;
        varve_status st = varve_get(db, key, strlen(key), &was);
        if (varve_ok(st))
            snprintf(text, sizeof text, "%.*s", (int)was.bytes, (const char *)was.data);
        else if (st.code != VARVE_NOT_FOUND)
            die("get", st);
        long value = strtol(text, NULL, 10) + 1;
        snprintf(text, sizeof text, "%ld", value);

        varve_batch *batch = varve_batch_create();
        if (batch == NULL)
            abort();
        must("batch", varve_batch_put(batch, key, strlen(key), text, strlen(text)));
        must("batch", varve_batch_require_lsn(batch, key, strlen(key), was.lsn));
        varve_value_release(&was);
        st = varve_write(db, batch, NULL, NULL);
        varve_batch_destroy(batch);
        if (varve_ok(st))
            return value;
        if (st.code != VARVE_CONDITION_FAILED)
            die("write", st);
    }
}

/* The keys of a range, some at a time. The snapshot makes them all of one state of the database. */
static void print_pages(varve_db *db, const char *prefix, int limit) {
    varve_snapshot *snapshot = varve_snapshot_create(db);
    if (snapshot == NULL)
        abort();
    char next[256];
    size_t next_bytes = 0; /* where the next page begins; 0: at the prefix */
    do {
        varve_iter_options options = {.snapshot = snapshot,
                                      .prefix = prefix,
                                      .prefix_bytes = strlen(prefix),
                                      .start = next_bytes > 0 ? next : NULL,
                                      .start_bytes = next_bytes};
        varve_iter *it;
        must("iterate", varve_iter_create(db, &options, &it));
        printf("page:");
        next_bytes = 0;
        int count = 0;
        for (varve_iter_first(it); varve_iter_valid(it); varve_iter_next(it)) {
            varve_entry entry;
            varve_iter_entry(it, &entry);
            if (count++ == limit) {
                next_bytes = entry.key_bytes;
                memcpy(next, entry.key, next_bytes);
                break;
            }
            printf(" %.*s", (int)entry.key_bytes, (const char *)entry.key);
        }
        printf("\n");
        must("iterate", varve_iter_status(it));
        varve_iter_destroy(it);
    } while (next_bytes > 0);
    varve_snapshot_release(db, snapshot);
}

/* Waits for a change of a key behind an LSN: the log is the stream of changes. */
static void print_change(varve_db *db, const char *key, uint64_t after_lsn) {
    varve_wal_cursor *cursor;
    must("watch", varve_wal_cursor_open(db, after_lsn, &cursor, NULL));
    for (bool found = false; !found;) {
        varve_wal_batch batch;
        varve_status st = varve_wal_cursor_next(cursor, &batch);
        if (st.code == VARVE_END) { /* nothing newer: wait until there is */
            struct pollfd wait = {.fd = varve_wal_cursor_notify_fd(cursor), .events = POLLIN};
            poll(&wait, 1, -1);
            continue;
        }
        must("watch", st);
        varve_wal_ops ops;
        varve_wal_op op;
        varve_wal_ops_init(&ops, &batch);
        while (!found && varve_ok(varve_wal_ops_next(&ops, &op))) {
            found = op.key_bytes == strlen(key) && memcmp(op.key, key, op.key_bytes) == 0;
            if (found)
                printf("watched: %s %s = %.*s\n", op.is_delete ? "delete" : "put", key, (int)op.value_bytes,
                       (const char *)op.value);
        }
    }
    varve_wal_cursor_close(cursor);
}

int main(int argc, char **argv) {
    varve_db *db;
    varve_error err;
    if (!varve_ok(varve_open(argc > 1 ? argv[1] : "data", NULL, &db, &err))) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }

    put(db, "greeting", "hello");
    varve_value value;
    must("get", varve_get(db, "greeting", 8, &value));
    printf("greeting = %.*s\n", (int)value.bytes, (const char *)value.data);
    varve_value_release(&value);
    if (varve_get(db, "nobody", 6, &value).code == VARVE_NOT_FOUND)
        printf("nobody is not there\n");

    printf("visits = %ld\n", increment(db, "visits"));
    printf("visits = %ld\n", increment(db, "visits"));
    varve_batch *batch = varve_batch_create();
    if (batch == NULL)
        abort();
    must("batch", varve_batch_delete(batch, "visits", 6));
    must("batch", varve_batch_require_value(batch, "visits", 6, "1", 1));
    if (varve_write(db, batch, NULL, NULL).code == VARVE_CONDITION_FAILED)
        printf("a write on an old state was refused\n");

    /* Several operations as one. */
    varve_batch_clear(batch);
    static const char *const fruit[] = {"fruit/apple", "fruit/banana", "fruit/cherry", "fruit/damson",
                                        "fruit/elder"};
    for (size_t i = 0; i < sizeof fruit / sizeof fruit[0]; i++)
        must("batch", varve_batch_put(batch, fruit[i], strlen(fruit[i]), "ripe", 4));
    must("write", varve_write(db, batch, NULL, NULL));
    varve_batch_destroy(batch);
    print_pages(db, "fruit/", 2);

    /* A watch from an LSN misses nothing, whatever is written before it has begun. */
    uint64_t lsn = put(db, "greeting", "good-bye");
    print_change(db, "greeting", lsn - 1);

    varve_status st = varve_put(db, "", 0, "value", 5, NULL, NULL);
    if (!varve_ok(st))
        printf("error: %s %s\n", varve_code_name(st.code), varve_reason_name(st.reason));

    must("close", varve_close(db));
    return 0;
}
