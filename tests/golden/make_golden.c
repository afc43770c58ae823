/*
 * make_golden.c - makes the golden databases of the version that it is linked with; see make.sh.
 *
 *     make_golden DIR VERSION
 *
 * VERSION is that of the manifest which the engine writes, and GOLDEN_VERSION the same for the compiler: what
 * an older engine can't do yet is left out. Each database NAME becomes DIR/NAME/tree, and
 * DIR/NAME/expected.txt says what is in it. That is told by this program's own notes of what was
 * acknowledged, not read back.
 *
 * expected.txt has a statement a line; what it means stands in README.md.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/varve.h"
#include "tests/golden/golden_value.h"
#if GOLDEN_VERSION >= 4
#include "engine/db/marker.h"
#endif

#define KEYS         220
#define PATH_BYTES   1024
#define YEAR_2100_MS UINT64_C(4102444800000)

static char root[PATH_BYTES];
static varve_error err;

/* What was acknowledged of one key. */
typedef struct note {
    uint64_t lsn; /* 0: there is none, or it is deleted or expired */
    uint64_t expires_unix_ms;
    uint32_t value_bytes;
    uint32_t version; /* how often it was put */
} note;

static note notes[KEYS];
static uint64_t last_lsn;
static FILE *expected;
static varve_db *db;

static void die(const char *what) {
    fprintf(stderr, "make_golden: %s: %s\n", what, err.text[0] ? err.text : strerror(errno));
    exit(1);
}

static void must(varve_status st, const char *what) {
    if (varve_ok(st))
        return;
    fprintf(stderr, "make_golden: %s: %s %s: %s\n", what, varve_code_name(st.code),
            varve_reason_name(st.reason), err.text);
    exit(1);
}

static const char *path_of(const char *name, const char *file) {
    static char paths[8][PATH_BYTES];
    static unsigned next;
    char *path = paths[next++ % 8];
    int bytes = snprintf(path, PATH_BYTES, "%s/v%d-%s/%s", root, GOLDEN_VERSION, name, file);
    if (bytes < 0 || bytes >= PATH_BYTES)
        die("path too long");
    return path;
}

static void make_dir(const char *path) {
    if (mkdir(path, 0750) != 0)
        die(path);
}

#if GOLDEN_VERSION >= 2
static void remove_tree(const char *path) {
    char command[PATH_BYTES + 32];
    snprintf(command, sizeof command, "rm -r '%s'", path);
    if (system(command) != 0)
        die(path);
}
#endif

static void key_of(unsigned i, char key[16]) {
    snprintf(key, 16, "key-%04u", i);
}

/* ---- one database ---- */

/* options: KEY=VALUE, NULL at the end. */
static void begin(const char *name, const char *kind, const char *const *options) {
    memset(notes, 0, sizeof notes);
    last_lsn = 0;
    make_dir(path_of(name, ""));
    make_dir(path_of(name, "tree"));
    expected = fopen(path_of(name, "expected.txt"), "w");
    if (!expected)
        die("expected.txt");
    fprintf(expected, "kind %s\n", kind);
    varve_options *o = varve_options_create();
    must(varve_options_set(o, "WAL_SEGMENT_SIZE", "256KiB", &err), "options");
    for (; *options; options++) {
        char key[64];
        const char *value = strchr(*options, '=');
        snprintf(key, sizeof key, "%.*s", (int)(value - *options), *options);
        must(varve_options_set(o, key, value + 1, &err), "options");
        fprintf(expected, "option %s %s\n", key, value + 1);
    }
    must(varve_open(path_of(name, "tree/db"), o, &db, &err), "open");
    varve_options_destroy(o);
}

static void noted(uint64_t lsn) {
    if (lsn <= last_lsn)
        die("LSNs do not ascend");
    last_lsn = lsn;
}

/* What a put of key i writes next. */
static const void *next_value(unsigned i, uint32_t bytes, char *buffer) {
    char key[16];
    key_of(i, key);
    golden_value(key, notes[i].version + 1, buffer, bytes);
    return buffer;
}

static void note_put(unsigned i, uint32_t bytes, uint64_t expires_unix_ms, uint64_t lsn) {
    uint32_t version = notes[i].version + 1;
    notes[i] = (note){.version = version};
    if (expires_unix_ms == 0 || expires_unix_ms == YEAR_2100_MS) {
        notes[i].lsn = lsn;
        notes[i].value_bytes = bytes;
        notes[i].expires_unix_ms = expires_unix_ms;
    }
}

static void put(unsigned i, uint32_t bytes, const varve_write_options *options) {
    static char buffer[GOLDEN_VALUE_BYTES_MAX];
    char key[16];
    uint64_t lsn;
    key_of(i, key);
    must(varve_put(db, key, strlen(key), next_value(i, bytes, buffer), bytes, options, &lsn), "put");
    noted(lsn);
    note_put(i, bytes, 0, lsn);
}

static void delete (unsigned i) {
    char key[16];
    uint64_t lsn;
    key_of(i, key);
    must(varve_delete(db, key, strlen(key), NULL, &lsn), "delete");
    noted(lsn);
    notes[i] = (note){.version = notes[i].version};
}

/* Keys from `first` on: every 5th is deleted, every 7th expires in 2100, every 11th has expired already. */
static void batch(unsigned first, unsigned count) {
    static char buffer[GOLDEN_VALUE_BYTES_MAX];
    varve_batch *b = varve_batch_create();
    uint64_t lsn = last_lsn, got;
    for (unsigned i = first; i < first + count; i++) {
        char key[16];
        uint32_t bytes = 10 + i % 60;
        uint64_t expires = i % 7 == 0 ? YEAR_2100_MS : i % 11 == 0 ? 1 : 0;
        key_of(i, key);
        lsn++;
        if (i % 5 == 0) {
            must(varve_batch_delete(b, key, strlen(key)), "batch");
            notes[i] = (note){.version = notes[i].version};
            continue;
        }
        must(varve_batch_put_expiring(b, key, strlen(key), next_value(i, bytes, buffer), bytes, expires),
             "batch");
        note_put(i, bytes, expires, lsn);
    }
    must(varve_write(db, b, NULL, &got), "write");
    varve_batch_destroy(b);
    if (got != lsn)
        die("the LSN of a batch is not that of its last operation");
    last_lsn = lsn;
}

static void put_range(unsigned first, unsigned count) {
    for (unsigned i = first; i < first + count; i++)
        put(i, (i * 37) % 250, NULL);
}

/* Three tables at least, one of them merged; versions and tombstones in several of them. */
static void fill_tables(void) {
    put_range(0, 120);
    put(150, 9000, NULL); /* a block of its own */
    must(varve_flush(db), "flush");
    batch(20, 80);
    for (unsigned i = 0; i < 120; i += 9)
        delete (i);
    must(varve_flush(db), "flush");
    must(varve_compact(db), "compact");
    put_range(60, 50);
    for (unsigned i = 61; i < 120; i += 7)
        delete (i);
    must(varve_flush(db), "flush");
    put_range(100, 40);
    must(varve_flush(db), "flush");
}

/* What stays in the log. The asynchronous writes are made durable by what follows them. */
static void fill_log(void) {
    varve_write_options async = {.durability = VARVE_DURABILITY_ASYNC};
    batch(90, 60);
    for (unsigned i = 160; i < 180; i++)
        put(i, 30 + i % 20, &async);
    delete (4);
    delete (165);
    put(5, 5000, NULL);
    put(6, 0, NULL);
}

#if GOLDEN_VERSION >= 3
static void put_named(unsigned i, uint64_t client_id, uint64_t sequence) {
    varve_write_options named = {.client_id = client_id, .sequence = sequence};
    put(i, 12, &named);
    fprintf(expected, "named %llu %llu %llu\n", (unsigned long long)client_id, (unsigned long long)sequence,
            (unsigned long long)last_lsn);
}
#endif

static void write_names(unsigned round) {
#if GOLDEN_VERSION >= 3
    put_named(7, 1001, 1 + round);
    put_named(8, 1001, 10 + round);
    put_named(9, 2002 + round, 5);
#else
    (void)round;
#endif
}

/* The text of what was acknowledged. */
static void write_expected(void) {
    fprintf(expected, "last_lsn %llu\n", (unsigned long long)last_lsn);
#if GOLDEN_VERSION >= 4
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    size_t epoch_count = varve_epochs_get(db, epochs);
    for (size_t i = 0; i < epoch_count; i++)
        fprintf(expected, "epoch %llu %llu %llu\n", (unsigned long long)epochs[i].epoch,
                (unsigned long long)epochs[i].first_lsn, (unsigned long long)epochs[i].id);
#endif
    for (unsigned i = 0; i < KEYS; i++) {
        char key[16];
        key_of(i, key);
        if (notes[i].lsn == 0)
            fprintf(expected, "absent %s\n", key);
        else
            fprintf(expected, "entry %s %llu %llu %u %u\n", key, (unsigned long long)notes[i].lsn,
                    (unsigned long long)notes[i].expires_unix_ms, notes[i].value_bytes, notes[i].version);
    }
    if (fclose(expected) != 0)
        die("expected.txt");
}

static void end_cleanly(void) {
    write_expected();
    must(varve_close(db), "close");
    exit(0);
}

/* As killed: nothing is flushed, closed or told to the log. */
static void end_abruptly(void) {
    write_expected();
    _exit(0);
}

/* ---- which databases there are ---- */

static void tiered(void) {
    begin("tiered", "database",
          (const char *[]){"COMPACTION_STYLE=tiered", "INDEX_TYPE=sparse", "COMPRESSION=none", NULL});
    write_names(0);
    fill_tables();
    fill_log();
    write_names(1);
    end_cleanly();
}

static void leveled(void) {
    begin("leveled", "database",
          (const char *[]){"COMPACTION_STYLE=leveled", "INDEX_TYPE=dense", "COMPRESSION=lz4", NULL});
    write_names(0);
    fill_tables();
    fill_log();
    write_names(1);
    end_abruptly();
}

static void nofilter(void) {
    begin("nofilter", "database",
          (const char *[]){"COMPACTION_STYLE=tiered", "INDEX_TYPE=sparse", "COMPRESSION=zstd",
                           "BLOOM_FILTER_FALSE_POSITIVE_RATE=0", "BLOCK_SIZE=8KiB", NULL});
    fill_tables();
    end_abruptly();
}

static void log_alone(void) {
    begin("log", "database", (const char *[]){"MEMTABLE_TYPE=btree", NULL});
    put_range(0, 60);
    batch(20, 60);
    fill_log();
    write_names(0);
    end_abruptly();
}

#if GOLDEN_VERSION >= 2
static void backup(void) {
    varve_backup_info info;
    begin("backup", "backup", (const char *[]){"COMPRESSION=lz4", NULL});
    write_names(0);
    fill_tables();
    fill_log();
    must(varve_backup(db, path_of("backup", "tree/backup"), NULL, &info, &err), "backup");
    if (info.lsn != last_lsn)
        die("the LSN of the backup");
    write_expected();
    must(varve_close(db), "close");
    remove_tree(path_of("backup", "tree/db"));
    exit(0);
}
#endif

#if GOLDEN_VERSION >= 4
static void replicated(void) {
    begin("replicated", "database", (const char *[]){"COMPACTION_STYLE=leveled", NULL});
    put_range(0, 30);
    must(varve_begin_epoch(db, 3, &err), "begin_epoch");
    fill_tables();
    must(varve_begin_epoch(db, 7, &err), "begin_epoch");
    uint64_t slot_lsn = last_lsn;
    fill_log();
    write_names(0);
    must(varve_slot_create(db, "follower:1", slot_lsn, &err), "slot_create");
    must(varve_slot_create(db, "follower:2", last_lsn, &err), "slot_create");
    fprintf(expected, "slot follower:1 %llu\nslot follower:2 %llu\n", (unsigned long long)slot_lsn,
            (unsigned long long)last_lsn);
    must(varve_set_safe_compaction_lsn(db, slot_lsn - 5, &err), "set_safe_compaction_lsn");
    fprintf(expected, "safe_compaction_lsn %llu\n", (unsigned long long)slot_lsn - 5);
    must(varve_promise_epoch(db, 9, &err), "promise_epoch");
    fprintf(expected, "promised_epoch 9\n");
    must(varve_flush(db), "flush"); /* slots are written down with it, and hold the log behind it */
    end_abruptly();
}

static void answered(void *arg, varve_status st, uint64_t lsn) {
    (void)arg;
    (void)st;
    (void)lsn;
}

/* A write that nobody has confirmed: in the log, and hidden until the limit is lifted. */
static void limited(void) {
    static char buffer[GOLDEN_VALUE_BYTES_MAX];
    varve_stats stats;
    begin("limited", "limited", (const char *[]){NULL});
    fill_tables();
    must(varve_limit_commits(db, true, &err), "limit_commits");
    fprintf(expected, "visible_lsn %llu\n", (unsigned long long)last_lsn);
    varve_batch *b = varve_batch_create();
    must(varve_batch_put(b, "key-0010", 8, next_value(10, 77, buffer), 77), "batch");
    varve_write_async(db, b, NULL, answered, NULL);
    do
        varve_stats_get(db, &stats);
    while (stats.durable_lsn == last_lsn);
    noted(stats.durable_lsn);
    note_put(10, 77, 0, last_lsn);
    end_abruptly();
}

static void archive(void) {
    varve_backup_info info;
    varve_archive *to;
    begin("archive", "archive", (const char *[]){"COMPRESSION=zstd", NULL});
    must(varve_archive_start(db, path_of("archive", "tree/archive"), NULL, &to, &err), "archive_start");
    put_range(0, 60);
    must(varve_backup(db, path_of("archive", "tree/backup"), NULL, &info, &err), "backup");
    must(varve_begin_epoch(db, 4, &err), "begin_epoch");
    fill_tables();
    fill_log();
    varve_archive_stop(to);
    end_cleanly();
}

static vv_io_backend *io_for_markers(void) {
    vv_io_backend *io;
    vv_error words;
    if (!vv_ok(vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, &words)))
        die("io");
    return io;
}

static void write_marker(const char *dir, const char *name, const vv_marker *marker) {
    vv_error words;
    vv_io_backend *io = io_for_markers();
    if (!vv_ok(vv_marker_write(io, dir, name, marker, &words)))
        die(words.text);
    vv_io_backend_destroy(io);
}

/* An install that was begun: the old database is there, with the marker that names the new one. */
static void install(void) {
    varve_backup_info info;
    begin("install", "interrupted", (const char *[]){NULL});
    fill_tables();
    fill_log();
    must(varve_backup(db, path_of("install", "tree/new"), NULL, &info, &err), "backup");
    write_expected();
    must(varve_close(db), "close");
    varve_options *o = varve_options_create();
    must(varve_options_set(o, "WAL_SEGMENT_SIZE", "256KiB", &err), "options");
    must(varve_open(path_of("install", "tree/old"), o, &db, &err), "open");
    varve_options_destroy(o);
    must(varve_put(db, "old", 3, "old", 3, NULL, NULL), "put");
    must(varve_close(db), "close");
    remove_tree(path_of("install", "tree/db"));
    if (rename(path_of("install", "tree/old"), path_of("install", "tree/db")) != 0 ||
        rename(path_of("install", "tree/new"), path_of("install", "tree/db/new")) != 0)
        die("rename");
    write_marker(path_of("install", "tree/db"), VV_INSTALL_NAME,
                 &(vv_marker){.step = 1, .names = {"new", "old"}});
    exit(0);
}

/* A rewind that was begun: the tail is kept, the marker is there, the log is still whole. */
static void cut(void) {
    char command[3 * PATH_BYTES];
    uint64_t cut_count;
    begin("cut", "interrupted", (const char *[]){NULL});
    put_range(0, 40);
    batch(20, 30);
    write_expected();
    uint64_t lsn = last_lsn;
    put_range(30, 30);
    must(varve_close(db), "close");
    const char *dir = path_of("cut", "tree/db"), *copy = path_of("cut", "tree/copy");
    snprintf(command, sizeof command, "cp -a '%s' '%s'", dir, copy);
    if (system(command) != 0)
        die("cp");
    must(varve_rewind(copy, NULL, lsn, "tail.archive", &cut_count, &err), "rewind");
    if (cut_count != 30)
        die("what the rewind has cut");
    if (rename(path_of("cut", "tree/copy/tail.archive"), path_of("cut", "tree/db/tail.archive")) != 0)
        die("rename");
    remove_tree(copy);
    write_marker(dir, VV_CUT_NAME, &(vv_marker){.step = 1, .lsn = lsn, .names = {"tail.archive"}});
    exit(0);
}
#endif

int main(int argc, char **argv) {
    if (argc != 3 || atoi(argv[2]) != GOLDEN_VERSION || strlen(argv[1]) >= PATH_BYTES) {
        fprintf(stderr, "usage: make_golden DIR %d\n", GOLDEN_VERSION);
        return 2;
    }
    strcpy(root, argv[1]);
    static void (*const all[])(void) = {
        tiered,
        leveled,
        nofilter,
        log_alone,
#if GOLDEN_VERSION >= 2
        backup,
#endif
#if GOLDEN_VERSION >= 4
        replicated,
        limited,
        archive,
        install,
        cut,
#endif
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int status;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            all[i]();
            _exit(1); /* each of them ends by itself */
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
            die("a database was not made");
    }
    return 0;
}
