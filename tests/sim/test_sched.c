/*
 * The scheduler itself: a run is a function of its seed, and its words about what went wrong are right.
 */
#include "tests/sim/sched.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sync.h"
#include "engine/db/db_impl.h"
#include "tests/support/fault_io.h"
#include "tests/support/tempdir.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(sched, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

static vv_sched_options options_of(uint64_t seed) {
    return (vv_sched_options){.seed = seed,
                              .policy = seed % 2 ? VV_SCHED_RANDOM : VV_SCHED_PRIORITY,
                              .preempt_permille = 100,
                              .change_steps = 50,
                              .spurious_permille = 20,
                              .tick_ns_max = 2000,
                              .step_max = 10000000};
}

static void run(uint64_t seed, void (*fn)(void *arg), void *arg) {
    vv_sched_options o = options_of(seed);
    vv_sched_run(&o, fn, arg);
}

static void start(pthread_t *t, const char *name, void (*fn)(void *arg), void *arg) {
    vv_status st = vv_thread_start(t, name, fn, arg);
    cr_assert(vv_ok(st));
}

/* ---- a lost update ---- */

typedef struct counter {
    vv_mutex lock;
    bool locked;
    int value;
} counter;

static void count_up(void *arg) {
    counter *c = arg;
    for (int i = 0; i < 5; i++) {
        if (c->locked)
            vv_mutex_lock(&c->lock);
        int seen = c->value;
        vv_sched_point();
        c->value = seen + 1;
        if (c->locked)
            vv_mutex_unlock(&c->lock);
    }
}

static void three_count(void *arg) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        start(&threads[i], "count", count_up, arg);
    for (int i = 0; i < 3; i++)
        vv_thread_join(threads[i]);
}

static int counted(uint64_t seed, bool locked) {
    counter c = {.locked = locked};
    vv_mutex_init(&c.lock);
    run(seed, three_count, &c);
    vv_mutex_deinit(&c.lock);
    return c.value;
}

Test(sched, finds_a_lost_update_by_some_seed_and_none_behind_a_lock) {
    int lost[2] = {0};
    for (uint64_t seed = 1; seed <= 100; seed++) {
        lost[seed % 2] += counted(seed, false) != 15;
        cr_assert_eq(counted(seed, true), 15, "seed %" PRIu64, seed);
    }
    cr_assert_gt(lost[0], 0);
    cr_assert_gt(lost[1], 0);
}

Test(sched, the_same_seed_is_the_same_run_and_others_differ) {
    uint64_t hashes[50];
    for (uint64_t seed = 0; seed < 50; seed++) {
        int value = counted(seed, false);
        hashes[seed] = vv_sched_trace_hash();
        uint64_t steps = vv_sched_steps();
        cr_assert_eq(counted(seed, false), value, "seed %" PRIu64, seed);
        cr_assert_eq(vv_sched_trace_hash(), hashes[seed], "seed %" PRIu64, seed);
        cr_assert_eq(vv_sched_steps(), steps, "seed %" PRIu64, seed);
        for (uint64_t i = 0; i < seed; i++)
            cr_assert_neq(hashes[i], hashes[seed]);
    }
}

/* ---- conditions, futexes, time ---- */

typedef struct exchange {
    vv_mutex lock;
    vv_cond changed;
    int items, taken;
    bool over;
} exchange;

static void take_items(void *arg) {
    exchange *x = arg;
    vv_mutex_lock(&x->lock);
    for (;;) {
        while (x->items == 0 && !x->over)
            vv_cond_wait(&x->changed, &x->lock);
        if (x->items == 0)
            break;
        x->items--;
        x->taken++;
    }
    vv_mutex_unlock(&x->lock);
}

static void give_items(void *arg) {
    exchange *x = arg;
    pthread_t takers[2];
    start(&takers[0], "taker", take_items, x);
    start(&takers[1], "taker", take_items, x);
    for (int i = 0; i < 20; i++) {
        vv_mutex_lock(&x->lock);
        x->items++;
        vv_cond_signal(&x->changed);
        vv_mutex_unlock(&x->lock);
    }
    vv_mutex_lock(&x->lock);
    x->over = true;
    vv_cond_broadcast(&x->changed);
    vv_mutex_unlock(&x->lock);
    vv_thread_join(takers[0]);
    vv_thread_join(takers[1]);
}

Test(sched, conditions_wake_who_waits) {
    for (uint64_t seed = 1; seed <= 100; seed++) {
        exchange x = {0};
        vv_mutex_init(&x.lock);
        vv_cond_init(&x.changed);
        run(seed, give_items, &x);
        cr_assert_eq(x.taken, 20, "seed %" PRIu64, seed);
        vv_cond_deinit(&x.changed);
        vv_mutex_deinit(&x.lock);
    }
}

static void wait_an_hour(void *arg) {
    exchange *x = arg;
    uint64_t start_ns = vv_clock_mono_ns(), start_ms = vv_clock_unix_ms();
    vv_mutex_lock(&x->lock);
    while (vv_cond_wait_until(&x->changed, &x->lock, start_ns + 3600 * VV_NS_PER_S))
        ; /* spurious */
    vv_mutex_unlock(&x->lock);
    uint64_t hour_ns = vv_clock_mono_ns() - start_ns, hour_ms = vv_clock_unix_ms() - start_ms;
    cr_assert(hour_ns >= 3600 * VV_NS_PER_S && hour_ns < 3601 * VV_NS_PER_S, "%" PRIu64, hour_ns);
    cr_assert(hour_ms >= 3600000 && hour_ms < 3601000);
    _Atomic uint32_t word = 1;
    start_ns = vv_sched_now_ns();
    vv_futex_wait_for(&word, 1, VV_NS_PER_S);
    vv_futex_wait(&word, 2);
    vv_sched_sleep_ns(VV_NS_PER_S);
    cr_assert_geq(vv_sched_now_ns() - start_ns, 2 * VV_NS_PER_S);
}

Test(sched, time_goes_to_the_next_deadline_when_all_wait) {
    exchange x = {0};
    vv_mutex_init(&x.lock);
    vv_cond_init(&x.changed);
    uint64_t start_ns = vv_clock_mono_ns();
    vv_sched_options o = options_of(1);
    o.spurious_permille = 0;
    vv_sched_run(&o, wait_an_hour, &x);
    cr_assert_lt(vv_clock_mono_ns() - start_ns, 60 * VV_NS_PER_S, "it was the real clock");
    vv_cond_deinit(&x.changed);
    vv_mutex_deinit(&x.lock);
}

typedef struct bell {
    _Atomic uint32_t rung;
    _Atomic uint32_t answers;
} bell;

static void answer_bell(void *arg) {
    bell *b = arg;
    while (atomic_load(&b->rung) == 0)
        vv_futex_wait(&b->rung, 0);
    atomic_fetch_add(&b->answers, 1);
}

static void ring_bell(void *arg) {
    bell *b = arg;
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        start(&threads[i], "answer", answer_bell, b);
    vv_sched_sleep_ns(VV_NS_PER_MS);
    atomic_store(&b->rung, 1);
    for (int i = 0; i < 3; i++)
        vv_futex_wake(&b->rung, 1);
    for (int i = 0; i < 3; i++)
        vv_thread_join(threads[i]);
}

Test(sched, futexes_wake_who_sleeps) {
    for (uint64_t seed = 1; seed <= 100; seed++) {
        bell b = {0};
        run(seed, ring_bell, &b);
        cr_assert_eq(atomic_load(&b.answers), 3);
    }
}

static void draw_bytes(void *arg) {
    cr_assert_eq(getrandom(arg, 16, 0), 16);
}

Test(sched, random_bytes_come_from_the_seed) {
    uint8_t first[16] = {0}, again[16] = {0}, other[16] = {0};
    run(1, draw_bytes, first);
    run(1, draw_bytes, again);
    run(2, draw_bytes, other);
    cr_assert_eq(memcmp(first, again, 16), 0);
    cr_assert_neq(memcmp(first, other, 16), 0);
}

/* ---- ends with words ---- */

/* What fn says before it aborts in a child, by this seed; NULL if it ends well. Static. */
static const char *last_words(uint64_t seed, void (*fn)(void *arg)) {
    static char text[8192];
    int fds[2], status;
    cr_assert_eq(pipe(fds), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        run(seed, fn, NULL);
        _exit(0);
    }
    close(fds[1]);
    size_t bytes = 0;
    ssize_t n;
    while (bytes < sizeof text - 1 && (n = read(fds[0], text + bytes, sizeof text - 1 - bytes)) > 0)
        bytes += (size_t)n;
    text[bytes] = '\0';
    close(fds[0]);
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return NULL;
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s", text);
    return text;
}

static vv_mutex a, b;

static void a_then_b(void *arg) {
    (void)arg;
    vv_mutex_lock(&a);
    vv_mutex_lock(&b);
    vv_mutex_unlock(&b);
    vv_mutex_unlock(&a);
}

static void b_then_a(void *arg) {
    (void)arg;
    vv_mutex_lock(&b);
    vv_mutex_lock(&a);
    vv_mutex_unlock(&a);
    vv_mutex_unlock(&b);
}

static void cross(void *arg) {
    pthread_t threads[2];
    vv_mutex_init(&a);
    vv_mutex_init(&b);
    start(&threads[0], "ab", a_then_b, arg);
    start(&threads[1], "ba", b_then_a, arg);
    vv_thread_join(threads[0]);
    vv_thread_join(threads[1]);
}

/* ThreadSanitizer would end the child before, with words of its own. */
#ifdef VV_TSAN
#define DEADLOCKS_ELSEWHERE true
#else
#define DEADLOCKS_ELSEWHERE false
#endif

Test(sched, a_deadlock_is_reported_with_who_waits_for_whom, .disabled = DEADLOCKS_ELSEWHERE) {
    int found = 0, passed = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        const char *words = last_words(seed, cross);
        if (!words) {
            passed++;
            continue;
        }
        found++;
        cr_assert(strstr(words, "deadlock") && strstr(words, "held by ab") && strstr(words, "held by ba") &&
                      strstr(words, "waits for the end of ab"),
                  "%s", words);
    }
    cr_assert(found > 0 && passed > 0, "%d of 40", found);
}

static void unlock_only(void *arg) {
    (void)arg;
    vv_mutex_init(&a);
    vv_mutex_unlock(&a);
}

static void destroy_held(void *arg) {
    (void)arg;
    vv_mutex_init(&a);
    vv_mutex_lock(&a);
    vv_mutex_deinit(&a);
}

static void lock_twice(void *arg) {
    (void)arg;
    vv_mutex_init(&a);
    vv_mutex_lock(&a);
    vv_mutex_lock(&a);
}

static void yield_for_ever(void *arg) {
    (void)arg;
    for (;;)
        vv_sched_point();
}

static void leave_thread(void *arg) {
    pthread_t t;
    start(&t, "left", ring_bell, arg);
}

Test(sched, misuse_ends_with_words) {
    cr_assert(strstr(last_words(1, unlock_only), "which it does not hold"));
    cr_assert(strstr(last_words(1, destroy_held), "destroys mutex"));
    cr_assert(strstr(last_words(1, lock_twice), "again"));
    cr_assert(strstr(last_words(1, yield_for_ever), "no end in sight"));
    cr_assert(strstr(last_words(1, leave_thread), "not all of its threads"));
}

/* ---- a database ---- */

typedef struct client {
    varve_db *db;
    int number;
} client;

static void put_some(void *arg) {
    client *c = arg;
    for (int i = 0; i < 40; i++) {
        char key[32], value[400];
        int bytes = snprintf(key, sizeof key, "%d-%d", c->number, i);
        memset(value, c->number, sizeof value);
        varve_write_options o = {.durability = i % 3 ? VARVE_DURABILITY_SYNC : VARVE_DURABILITY_ASYNC};
        cr_assert(varve_ok(varve_put(c->db, key, (size_t)bytes, value, sizeof value, &o, NULL)));
        if (i % 20 == 19)
            cr_assert(varve_ok(varve_flush(c->db)));
    }
}

static vv_status point(void *arg, const char *op, const char *name) {
    (void)arg;
    (void)op;
    (void)name;
    vv_sched_point();
    return VV_STATUS_OK;
}

static void use_database(void *arg) {
    varve_db *db;
    vv_error err;
    pthread_t threads[3];
    client clients[3];
    varve_options *o = varve_options_create();
    cr_assert(varve_ok(varve_options_set(o, "MEMTABLE_SIZE", "64KiB", NULL)));
    cr_assert(varve_ok(varve_options_set(o, "WAL_SEGMENT_SIZE", "256KiB", NULL)));
    cr_assert(varve_ok(varve_options_set(o, "COMPACTION_THRESHOLD", "2", NULL)));
    vv_status st = vv_db_open_on(vv_fault_io_create(point, NULL), arg, o, &db, &err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", err.text);
    for (int i = 0; i < 3; i++) {
        clients[i] = (client){.db = db, .number = i};
        start(&threads[i], "client", put_some, &clients[i]);
    }
    for (int i = 0; i < 3; i++)
        vv_thread_join(threads[i]);
    for (int i = 0; i < 3; i++) {
        varve_value v;
        char key[32];
        int bytes = snprintf(key, sizeof key, "%d-39", i);
        cr_assert(varve_ok(varve_get(db, key, (size_t)bytes, &v)));
        varve_value_release(&v);
    }
    cr_assert(varve_ok(varve_compact(db)));
    cr_assert(varve_ok(varve_close(db)));
}

/* VARVE_TEST_TRACE=DIR: each run's steps in a file there. */
static void run_database(uint64_t seed, int turn) {
    char dir[256], path[300];
    const char *trace_dir = getenv("VARVE_TEST_TRACE");
    snprintf(dir, sizeof dir, "%s", vv_tempdir_path(turn ? "again" : "first"));
    snprintf(path, sizeof path, "%s/%" PRIu64 "-%d", trace_dir, seed, turn);
    vv_sched_options o = options_of(seed);
    o.trace = trace_dir ? fopen(path, "w") : NULL;
    vv_sched_run(&o, use_database, dir);
    if (o.trace)
        fclose(o.trace);
}

Test(sched, a_whole_database_is_a_function_of_the_seed) {
    uint64_t hashes[4];
    for (uint64_t seed = 0; seed < 4; seed++) {
        vv_tempdir();
        run_database(seed, 0);
        hashes[seed] = vv_sched_trace_hash();
        run_database(seed, 1);
        cr_assert_eq(vv_sched_trace_hash(), hashes[seed], "seed %" PRIu64, seed);
    }
    cr_assert_neq(hashes[0], hashes[1]);
}
