/*
 * work_whole.c - workloads that make a database of their own in each turn: filling one until it has settled,
 * opening one after a kill, and ones that are much larger than their memory.
 *
 * What is to be killed, or whose memory is to be told from that of others, is a process of its own: this
 * program again, with `--child`. It is started anew and not forked, since a fork has none of the threads that
 * peers keep for all their databases.
 */
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/engine/work.h"

#define MIB (UINT64_C(1) << 20)

static void op_put_next(drive_thread *t) {
    char key[WORKLOAD_KEY_BYTES];
    uint64_t number = atomic_fetch_add_explicit(&t->data->added, 1, memory_order_relaxed);
    workload_key(number, key);
    workload_value(number, t->value);
    t->kind->put(t->session, key, t->value, t->data->value_bytes);
}

static const drive_group filler = {.op = op_put_next, .threads = 1, .sample = 16};

static void make_dir(char *path, size_t path_bytes, const store_kind *kind) {
    snprintf(path, path_bytes, "%s/%s", report_work_dir(), kind->name);
    if (mkdir(path, 0700) != 0)
        report_die("%s: can't be created", path);
}

static double seconds_since(uint64_t ns) {
    return (double)(vv_clock_mono_ns() - ns) / (double)VV_NS_PER_S;
}

/* ---- filling until settled ---- */

static const work_set fill_set = {
    .keys = 2000000, .value_bytes = 1024, .memtable_bytes = 64 * MIB, .cache_bytes = 256 * MIB};

/* Metrics: puts a second, the time until nothing more is to be done included; written bytes for each byte of
 * keys and values. */
void turn_fill(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
               report_side *const *sides) {
    static drive_result result;
    char dir[600];
    uint64_t count = fill_set.keys / o->shrink;
    drive_group group = filler;
    (void)w;
    group.ops = count;
    make_dir(dir, sizeof dir, kind);
    store_config c = work_config(&fill_set, dir, o->shrink);
    memset(d, 0, sizeof *d);
    d->value_bytes = fill_set.value_bytes;
    d->s = kind->open(&c);
    store_settle();
    uint64_t written = store_written_bytes(), cpu = store_cpu_ns(), start = vv_clock_mono_ns();
    drive_run(d, &group, 1, 0, seed, &result);
    if (kind->sync)
        kind->sync(d->s);
    double seconds = (double)(store_settle() - start) / (double)VV_NS_PER_S;
    cpu = store_cpu_ns() - cpu;
    written = store_written_bytes() - written;
    kind->close(d->s);
    d->s = NULL;
    report_tree_remove(dir);
    report_add_rate(sides[0], (double)count / seconds);
    report_add_cpu(sides[0], (double)cpu / 1e3 / (double)count);
    report_add_rate(sides[1],
                    (double)written / (double)(count * (WORKLOAD_KEY_BYTES + fill_set.value_bytes)));
    vv_histogram_merge(&sides[0]->latency_ns, &result.latency_ns);
}

/* ---- processes of our own ---- */

typedef struct child {
    pid_t pid;
    FILE *says;
} child;

static child start_child(const char *what, const store_kind *kind, const char *dir, uint64_t count,
                         double seconds) {
    char count_text[32], seconds_text[32], self[] = "/proc/self/exe", flag[] = "--child";
    char name[32], task[32], where[600];
    int fds[2];
    child c;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    snprintf(count_text, sizeof count_text, "%" PRIu64, count);
    snprintf(seconds_text, sizeof seconds_text, "%g", seconds);
    snprintf(name, sizeof name, "%s", kind->name);
    snprintf(task, sizeof task, "%s", what);
    snprintf(where, sizeof where, "%s", dir);
    char *argv[] = {self, flag, task, name, where, count_text, seconds_text, NULL};
    if (pipe(fds) != 0)
        report_die("no pipe");
    fflush(stdout);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    /* It dies of what would stop us, and its directory is ours. */
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    if (posix_spawn(&c.pid, self, &actions, &attributes, argv, environ) != 0)
        report_die("no process");
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    c.says = fdopen(fds[0], "r");
    if (!c.says)
        report_die("no pipe");
    return c;
}

static int end_of_child(child *c) {
    int status;
    fclose(c->says);
    if (waitpid(c->pid, &status, 0) != c->pid)
        report_die("a process is gone");
    return status;
}

/* ---- opening after a kill ---- */

/* So many bytes of keys and values are in the log and nowhere else: the memtable is large enough. */
#define RECOVERY_BYTES   (64 * MIB)
#define RECOVERY_BATCH   100
#define RECOVERY_ENTRIES (RECOVERY_BYTES / (WORKLOAD_KEY_BYTES + 64))
static const work_set recovery_set = {
    .keys = RECOVERY_ENTRIES, .value_bytes = 64, .memtable_bytes = 256 * MIB, .cache_bytes = 64 * MIB};

/* Entry after entry, or RECOVERY_BATCH of them a write. */
static void fill_and_die(drive_data *d, uint64_t count, bool batches) {
    if (batches) {
        for (uint64_t n = 0; n < count; n += RECOVERY_BATCH)
            work_load(d, n, count - n < RECOVERY_BATCH ? count - n : RECOVERY_BATCH);
    } else {
        static drive_result result;
        drive_group group = filler;
        group.ops = count;
        drive_run(d, &group, 1, 0, 1, &result);
    }
    if (d->s->kind->sync)
        d->s->kind->sync(d->s);
    kill(getpid(), SIGKILL);
}

/* Metric: milliseconds until the newest entry was read. */
void turn_recovery(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
                   report_side *const *sides) {
    char dir[600], key[WORKLOAD_KEY_BYTES];
    uint64_t count = RECOVERY_ENTRIES / o->shrink, found = count - 1;
    bool batches = strcmp(w->name, "Recovery") != 0;
    (void)seed;
    make_dir(dir, sizeof dir, kind);
    child c = start_child(batches ? "batches" : "entries", kind, dir, count, 0);
    int status = end_of_child(&c);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        report_die("%s: the process that was to fill a log failed", kind->name);
    store_config config = work_config(&recovery_set, dir, 1);
    memset(d, 0, sizeof *d);
    workload_key(count - 1, key);
    uint64_t cpu = store_cpu_ns(), start = vv_clock_mono_ns();
    d->s = kind->open(&config);
    store_session *x = kind->session_open(d->s, 0, NULL);
    if (!kind->get(x, key, &found) || found != count - 1)
        report_die("%s: the newest entry is lost", kind->name);
    report_add_rate(sides[0], seconds_since(start) * 1e3);
    report_add_cpu(sides[0], (double)(store_cpu_ns() - cpu) / 1e3 / (double)count);
    kind->session_close(x);
    kind->close(d->s);
    d->s = NULL;
    report_tree_remove(dir);
}

/* ---- many keys ---- */

static const work_set keys_set = {
    .keys = 0, .value_bytes = 64, .memtable_bytes = 64 * MIB, .cache_bytes = 256 * MIB};

/* What a process has of memory that is not a file's: maps of files (LMDB, LevelDB) are the page cache's. */
static uint64_t anonymous_bytes(void) {
    char line[128];
    uint64_t kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

static atomic_bool watching;

static void *watch_memory(void *arg) {
    const struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};
    uint64_t *peak = arg;
    while (atomic_load(&watching)) {
        uint64_t now = anonymous_bytes();
        *peak = now > *peak ? now : *peak;
        nanosleep(&tick, NULL);
    }
    return NULL;
}

static void fill_and_read(drive_data *d, uint64_t count, double seconds) {
    static drive_result filled, read;
    static uint64_t peak;
    pthread_t watcher;
    drive_group fill = filler, get = {.op = op_get, .threads = 2, .sample = 16};
    const store_kind *kind = d->s->kind;
    fill.ops = count;
    atomic_store(&watching, true);
    if (pthread_create(&watcher, NULL, watch_memory, &peak) != 0)
        report_die("no thread");
    uint64_t start = vv_clock_mono_ns();
    drive_run(d, &fill, 1, 0, 1, &filled);
    if (kind->sync)
        kind->sync(d->s);
    double fill_seconds = (double)(store_settle() - start) / (double)VV_NS_PER_S;
    d->keys = count;
    drive_run(d, &get, 1, seconds, 2, &read);
    atomic_store(&watching, false);
    pthread_join(watcher, NULL);
    uint64_t bound = kind->memory_bound ? kind->memory_bound(d->s) : 0;
    printf("%.10g %.10g %" PRIu64 " %" PRIu64 "\n", (double)count / fill_seconds, read.rate, peak, bound);
}

/* Metrics: puts a second until settled, then gets a second of two threads; the most memory in all that time,
 * in MiB, and in relation to the configured bounds. */
void turn_keys(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
               report_side *const *sides) {
    char dir[600];
    double fill, get;
    uint64_t peak, bound, count = strtoull(w->name + strlen("Keys"), NULL, 10) * 1000000 / o->shrink;
    (void)d;
    (void)seed;
    make_dir(dir, sizeof dir, kind);
    child c = start_child("keys", kind, dir, count, o->seconds);
    if (fscanf(c.says, "%lf %lf %" SCNu64 " %" SCNu64, &fill, &get, &peak, &bound) != 4)
        report_die("%s: the process that was to fill it failed", kind->name);
    end_of_child(&c);
    report_tree_remove(dir);
    report_add_rate(sides[0], fill);
    report_add_rate(sides[1], get);
    report_add_rate(sides[2], (double)peak / (double)MIB);
    if (bound > 0)
        report_add_rate(sides[3], (double)peak / (double)bound);
}

/* --child WHAT STORE DIR COUNT SECONDS */
int work_child(int argc, char **argv) {
    static drive_data d;
    const store_kind *kind = argc == 7 ? store_find(argv[3]) : NULL;
    if (!kind)
        return 2;
    const char *what = argv[2];
    uint64_t count = strtoull(argv[5], NULL, 10);
    work_set set = strcmp(what, "keys") == 0 ? keys_set : recovery_set;
    set.keys = count;
    store_config c = work_config(&set, argv[4], 1);
    d.value_bytes = set.value_bytes;
    d.s = kind->open(&c);
    if (strcmp(what, "keys") == 0)
        fill_and_read(&d, count, atof(argv[6]));
    else
        fill_and_die(&d, count, strcmp(what, "batches") == 0);
    kind->close(d.s);
    return 0;
}
