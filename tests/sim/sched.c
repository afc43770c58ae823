/*
 * sched.c - one token, many threads.
 *
 *   running --step()--> preempted? --no--> goes on
 *      |                    | yes
 *      | has to wait        v
 *      +--------------> choose one of the enabled --post its semaphore--> wait for one's own
 *                           | none: time goes to the next deadline; no deadline: deadlock
 *
 * Invariants
 *   T1  All that is static here is touched by the thread that has the token alone. Handing over is a
 *       semaphore, which orders it for ThreadSanitizer, too.
 *   T2  A mutex is held by the thread in whose list it is. The real one is held as well, so that threads and
 *       times outside a run, and ThreadSanitizer, see the same; locking it never blocks, since a thread
 *       that waits for a mutex is enabled only while nobody has it, and who is chosen takes it at once.
 *   T3  What is chosen depends on the seed and the steps before, never on an address: threads are looked at
 *       in the order of their start.
 *
 * A condition or futex wakes any of its waiters, not the first. So the kernel may, and what relies on more is
 * wrong.
 */
#include "tests/sim/sched.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sync.h"

#define HELD_MAX      16
#define START_NS      VV_NS_PER_S
#define START_UNIX_MS UINT64_C(1700000000000)
#define CORE_COUNT    8
#define FOREVER       UINT64_MAX

typedef enum wait_kind {
    WAIT_NOT,
    WAIT_MUTEX,
    WAIT_COND,
    WAIT_FUTEX,
    WAIT_TIME,
    WAIT_JOIN,
    WAIT_POLL,
} wait_kind;

typedef enum step_kind {
    STEP_BEGIN,
    STEP_LOCK,
    STEP_TRYLOCK,
    STEP_UNLOCK,
    STEP_COND_WAIT,
    STEP_SIGNAL,
    STEP_BROADCAST,
    STEP_START,
    STEP_JOIN,
    STEP_END,
    STEP_FUTEX_WAIT,
    STEP_FUTEX_WAKE,
    STEP_CLOCK,
    STEP_SLEEP,
    STEP_YIELD,
    STEP_CPU,
    STEP_RANDOM,
    STEP_POLL,
    STEP_POINT,
} step_kind;

static const char *const step_names[] = {
    "begin", "lock",       "trylock",    "unlock", "cond-wait", "signal", "broadcast", "start", "join", "end",
    "futex", "futex-wake", "read-clock", "sleep",  "yield",     "cpu",    "random",    "poll",  "point"};

typedef struct thread {
    struct thread *next;
    uint32_t id; /* in the order of their start, from 0 */
    char name[16];
    pthread_t os;
    sem_t token;
    void (*fn)(void *arg);
    void *arg;
    bool done;
    uint64_t priority;
    uint32_t cpu;
    const vv_mutex *held[HELD_MAX];
    uint32_t held_count;
    const void *site; /* where the last replaced call was made */
    /* What it waits for. */
    wait_kind wait;
    const void *what; /* condition, futex or thread */
    const vv_mutex *mutex;
    struct pollfd *polled;
    nfds_t polled_count;
    uint64_t deadline_ns;
    bool woken;
} thread;

/* The run, T1. */
static struct {
    vv_sched_options options;
    thread *first; /* in the order of their start */
    uint32_t started;
    uint64_t rng;
    uint64_t now_ns;
    uint64_t steps;
    uint64_t hash;
    uint64_t next_change; /* PRIORITY: the step of the next change */
    uint64_t lowest;      /* PRIORITY: below all that were given */
} run;

static _Thread_local thread *self; /* NULL: not in a run */

/* splitmix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014). */
static uint64_t draw(void) {
    uint64_t x = run.rng += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

static bool by_chance(uint32_t permille) {
    return permille != 0 && draw() % 1000 < permille;
}

/* ---- the end with words ---- */

static const thread *owner_of(const vv_mutex *m) {
    for (const thread *t = run.first; t; t = t->next)
        for (uint32_t i = 0; i < t->held_count; i++)
            if (t->held[i] == m)
                return t;
    return NULL;
}

/* Of a return address: its call in the program, for addr2line. */
static size_t offset_of(const void *site) {
    Dl_info info;
    return site && dladdr(site, &info) ? (size_t)((const char *)site - (const char *)info.dli_fbase - 1) : 0;
}

static void print_wait(const thread *t) {
    switch (t->wait) {
    case WAIT_NOT: fprintf(stderr, t->done ? "has ended and was not joined" : "can run"); break;
    case WAIT_MUTEX: {
        const thread *owner = owner_of(t->mutex);
        fprintf(stderr, "waits for mutex %p, held by %s", (const void *)t->mutex,
                owner ? owner->name : "nobody");
        break;
    }
    case WAIT_COND: fprintf(stderr, "waits for condition %p", t->what); break;
    case WAIT_FUTEX: fprintf(stderr, "waits for futex %p", t->what); break;
    case WAIT_TIME: fprintf(stderr, "sleeps"); break;
    case WAIT_JOIN: fprintf(stderr, "waits for the end of %s", ((const thread *)t->what)->name); break;
    case WAIT_POLL: fprintf(stderr, "polls"); break;
    }
    if (t->wait != WAIT_NOT && t->deadline_ns != FOREVER)
        fprintf(stderr, " until %llu ns", (unsigned long long)t->deadline_ns);
}

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "sched: ");
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (seed %llu, step %llu, %llu ns)\n", (unsigned long long)run.options.seed,
            (unsigned long long)run.steps, (unsigned long long)run.now_ns);
    for (const thread *t = run.first; t; t = t->next) {
        fprintf(stderr, "  %2u %-15s ", t->id, t->name);
        print_wait(t);
        for (uint32_t i = 0; i < t->held_count; i++)
            fprintf(stderr, "%s%p", i ? ", " : "; holds ", (const void *)t->held[i]);
        if (t->site)
            fprintf(stderr, "; addr2line -pfie %s %#zx", program_invocation_name, offset_of(t->site));
        fprintf(stderr, "\n");
    }
    fflush(NULL);
    abort();
}

/* ---- choosing ---- */

static bool polled_ready(const thread *t) {
    for (nfds_t i = 0; i < t->polled_count; i++)
        t->polled[i].revents = 0;
    return poll(t->polled, t->polled_count, 0) > 0;
}

static bool enabled(const thread *t) {
    bool due = t->woken || t->deadline_ns <= run.now_ns;
    if (t->done)
        return false;
    switch (t->wait) {
    case WAIT_NOT: return true;
    case WAIT_MUTEX: return !owner_of(t->mutex);
    case WAIT_COND: return due && !owner_of(t->mutex);
    case WAIT_FUTEX:
    case WAIT_TIME: return due;
    case WAIT_JOIN: return ((const thread *)t->what)->done;
    case WAIT_POLL: return due || polled_ready(t);
    }
    return false;
}

/* One of the enabled threads but `not`; NULL: there is none. */
static thread *pick(const thread * not ) {
    thread *chosen = NULL;
    uint32_t count = 0;
    for (thread *t = run.first; t; t = t->next) {
        if (t == not || !enabled(t))
            continue;
        count++;
        if (run.options.policy == VV_SCHED_PRIORITY ? !chosen || t->priority > chosen->priority
                                                    : draw() % count == 0)
            chosen = t;
    }
    return chosen;
}

static thread *pick_or_advance(void) {
    for (;;) {
        thread *t = pick(NULL);
        if (t)
            return t;
        uint64_t next_ns = FOREVER;
        for (t = run.first; t; t = t->next)
            if (!t->done && t->wait != WAIT_NOT && t->deadline_ns > run.now_ns && t->deadline_ns < next_ns)
                next_ns = t->deadline_ns;
        if (next_ns == FOREVER)
            die("deadlock: every thread waits, and none has a deadline");
        run.now_ns = next_ns;
    }
}

/* t goes on, and this thread when it is chosen again. */
static void switch_to(thread *t) {
    thread *me = self;
    if (t == me)
        return;
    sem_post(&t->token);
    while (sem_wait(&me->token) != 0) /* EINTR */
        ;
}

/* ---- steps ---- */

static void note(uint64_t x) {
    run.hash = (run.hash ^ x) * UINT64_C(0x100000001B3);
    run.hash ^= run.hash >> 29;
}

static void plan_change(void) {
    uint32_t mean = run.options.change_steps;
    run.next_change = mean ? run.steps + 1 + draw() % (2 * (uint64_t)mean) : FOREVER;
}

static void go_last(thread *t) {
    t->priority = --run.lowest;
}

/* The beginning of every replaced call: time goes on, and another thread may go first. */
static void step(step_kind kind, const void *site) {
    self->site = site;
    run.steps++;
    run.now_ns += draw() % (run.options.tick_ns_max + 1);
    note((uint64_t)self->id << 8 | (uint64_t)kind);
    note(run.now_ns);
    if (run.options.trace)
        fprintf(run.options.trace, "%llu %llu %u %s %s %#zx\n", (unsigned long long)run.steps,
                (unsigned long long)run.now_ns, self->id, self->name, step_names[kind], offset_of(site));
    if (run.options.step_max != 0 && run.steps > run.options.step_max)
        die("no end in sight");
    thread *next = self;
    if (run.options.policy == VV_SCHED_PRIORITY) {
        if (run.steps >= run.next_change) {
            go_last(self);
            plan_change();
        } else if (kind == STEP_YIELD) {
            go_last(self);
        }
        next = pick(NULL);
    } else if (kind == STEP_YIELD || by_chance(run.options.preempt_permille)) {
        next = pick(self);
    }
    if (next)
        switch_to(next);
}

/* What this thread waits for is in it: wait. */
static void block(wait_kind kind, uint64_t deadline_ns) {
    self->wait = kind;
    self->deadline_ns = deadline_ns;
    self->woken = false;
    switch_to(pick_or_advance());
    self->wait = WAIT_NOT;
}

static void sleep_until(uint64_t deadline_ns) {
    if (deadline_ns > run.now_ns)
        block(WAIT_TIME, deadline_ns);
}

/* ---- mutexes ---- */

void __real_vv_mutex_deinit(vv_mutex *m);
void __real_vv_mutex_lock(vv_mutex *m);
bool __real_vv_mutex_trylock(vv_mutex *m);
void __real_vv_mutex_unlock(vv_mutex *m);
void __wrap_vv_mutex_deinit(vv_mutex *m);
void __wrap_vv_mutex_lock(vv_mutex *m);
bool __wrap_vv_mutex_trylock(vv_mutex *m);
void __wrap_vv_mutex_unlock(vv_mutex *m);

static void take(vv_mutex *m) {
    if (self->held_count == HELD_MAX)
        die("%s holds more than %d mutexes", self->name, HELD_MAX);
    self->held[self->held_count++] = m;
    __real_vv_mutex_lock(m); /* T2 */
}

static void give(vv_mutex *m, const char *call) {
    uint32_t i = 0;
    while (i < self->held_count && self->held[i] != m)
        i++;
    if (i == self->held_count)
        die("%s: %s mutex %p, which it does not hold", self->name, call, (const void *)m);
    self->held_count--;
    for (; i < self->held_count; i++)
        self->held[i] = self->held[i + 1];
    __real_vv_mutex_unlock(m);
}

static void lock_now(vv_mutex *m) {
    const thread *owner = owner_of(m);
    if (owner == self)
        die("%s locks mutex %p again", self->name, (const void *)m);
    if (owner) {
        self->mutex = m;
        block(WAIT_MUTEX, FOREVER);
    }
    take(m);
}

void __wrap_vv_mutex_deinit(vv_mutex *m) {
    if (self) {
        const thread *owner = owner_of(m);
        if (owner)
            die("%s destroys mutex %p, which %s holds", self->name, (const void *)m, owner->name);
        for (const thread *t = run.first; t; t = t->next)
            if ((t->wait == WAIT_MUTEX || t->wait == WAIT_COND) && t->mutex == m)
                die("%s destroys mutex %p, which %s waits for", self->name, (const void *)m, t->name);
    }
    __real_vv_mutex_deinit(m);
}

void __wrap_vv_mutex_lock(vv_mutex *m) {
    if (!self) {
        __real_vv_mutex_lock(m);
        return;
    }
    step(STEP_LOCK, __builtin_return_address(0));
    lock_now(m);
}

bool __wrap_vv_mutex_trylock(vv_mutex *m) {
    if (!self)
        return __real_vv_mutex_trylock(m);
    step(STEP_TRYLOCK, __builtin_return_address(0));
    if (owner_of(m))
        return false;
    take(m);
    return true;
}

void __wrap_vv_mutex_unlock(vv_mutex *m) {
    if (!self) {
        __real_vv_mutex_unlock(m);
        return;
    }
    give(m, "unlocks");
    step(STEP_UNLOCK, __builtin_return_address(0)); /* behind it: whoever waits for it may be next */
}

/* ---- conditions ---- */

void __real_vv_cond_deinit(vv_cond *c);
void __real_vv_cond_wait(vv_cond *c, vv_mutex *m);
bool __real_vv_cond_wait_until(vv_cond *c, vv_mutex *m, uint64_t deadline_ns);
void __real_vv_cond_signal(vv_cond *c);
void __real_vv_cond_broadcast(vv_cond *c);
void __wrap_vv_cond_deinit(vv_cond *c);
void __wrap_vv_cond_wait(vv_cond *c, vv_mutex *m);
bool __wrap_vv_cond_wait_until(vv_cond *c, vv_mutex *m, uint64_t deadline_ns);
void __wrap_vv_cond_signal(vv_cond *c);
void __wrap_vv_cond_broadcast(vv_cond *c);

/* A thread that waits for `what` and was not woken yet, drawn; NULL: there is none. */
static thread *pick_waiter(wait_kind kind, const void *what) {
    thread *chosen = NULL;
    uint32_t count = 0;
    for (thread *t = run.first; t; t = t->next)
        if (t->wait == kind && t->what == what && !t->woken && draw() % ++count == 0)
            chosen = t;
    return chosen;
}

static void wake(wait_kind kind, const void *what, uint32_t count) {
    thread *t;
    while (count-- > 0 && (t = pick_waiter(kind, what)) != NULL)
        t->woken = true;
}

static bool cond_wait(vv_cond *c, vv_mutex *m, uint64_t deadline_ns, const void *site) {
    step(STEP_COND_WAIT, site);
    bool spurious = by_chance(run.options.spurious_permille);
    give(m, "waits with");
    if (spurious) {
        step(STEP_COND_WAIT, site);
        lock_now(m);
        return true;
    }
    self->what = c;
    self->mutex = m;
    block(WAIT_COND, deadline_ns);
    bool woken = self->woken;
    take(m);
    return woken;
}

void __wrap_vv_cond_deinit(vv_cond *c) {
    for (const thread *t = self ? run.first : NULL; t; t = t->next)
        if (t->wait == WAIT_COND && t->what == c)
            die("%s destroys condition %p, which %s waits for", self->name, (const void *)c, t->name);
    __real_vv_cond_deinit(c);
}

void __wrap_vv_cond_wait(vv_cond *c, vv_mutex *m) {
    if (self)
        (void)cond_wait(c, m, FOREVER, __builtin_return_address(0));
    else
        __real_vv_cond_wait(c, m);
}

bool __wrap_vv_cond_wait_until(vv_cond *c, vv_mutex *m, uint64_t deadline_ns) {
    return self ? cond_wait(c, m, deadline_ns, __builtin_return_address(0))
                : __real_vv_cond_wait_until(c, m, deadline_ns);
}

void __wrap_vv_cond_signal(vv_cond *c) {
    if (!self) {
        __real_vv_cond_signal(c);
        return;
    }
    wake(WAIT_COND, c, 1);
    step(STEP_SIGNAL, __builtin_return_address(0));
}

void __wrap_vv_cond_broadcast(vv_cond *c) {
    if (!self) {
        __real_vv_cond_broadcast(c);
        return;
    }
    wake(WAIT_COND, c, UINT32_MAX);
    step(STEP_BROADCAST, __builtin_return_address(0));
}

/* ---- futexes ---- */

void __real_vv_futex_wait(_Atomic uint32_t *word, uint32_t expected);
void __real_vv_futex_wait_for(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void __real_vv_futex_wake(_Atomic uint32_t *word, uint32_t count);
void __wrap_vv_futex_wait(_Atomic uint32_t *word, uint32_t expected);
void __wrap_vv_futex_wait_for(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void __wrap_vv_futex_wake(_Atomic uint32_t *word, uint32_t count);

static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns, const void *site) {
    uint64_t deadline_ns;
    step(STEP_FUTEX_WAIT, site);
    /* To compare and to fall asleep is one: nobody else has the token in between. */
    if (atomic_load(word) != expected || by_chance(run.options.spurious_permille))
        return;
    if (__builtin_add_overflow(run.now_ns, timeout_ns, &deadline_ns))
        deadline_ns = FOREVER;
    self->what = word;
    block(WAIT_FUTEX, deadline_ns);
}

void __wrap_vv_futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    if (self)
        futex_wait(word, expected, FOREVER, __builtin_return_address(0));
    else
        __real_vv_futex_wait(word, expected);
}

void __wrap_vv_futex_wait_for(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    if (self)
        futex_wait(word, expected, timeout_ns, __builtin_return_address(0));
    else
        __real_vv_futex_wait_for(word, expected, timeout_ns);
}

void __wrap_vv_futex_wake(_Atomic uint32_t *word, uint32_t count) {
    if (!self) {
        __real_vv_futex_wake(word, count);
        return;
    }
    step(STEP_FUTEX_WAKE, __builtin_return_address(0));
    wake(WAIT_FUTEX, word, count); /* the word may be gone by now: it is only compared */
}

/* ---- threads ---- */

vv_status __real_vv_thread_start(pthread_t *thread_out, const char *name, void (*fn)(void *),
                                 void *arg) VV_CHECKED;
void __real_vv_thread_join(pthread_t os);
void __real_vv_thread_be_background(void);
vv_status __wrap_vv_thread_start(pthread_t *thread_out, const char *name, void (*fn)(void *),
                                 void *arg) VV_CHECKED;
void __wrap_vv_thread_join(pthread_t os);
void __wrap_vv_thread_be_background(void);

static thread *add_thread(const char *name) {
    thread *t = calloc(1, sizeof *t);
    if (!t || sem_init(&t->token, 0, 0) != 0)
        abort();
    t->id = run.started++;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->priority = UINT64_C(1) << 63 | draw() >> 1; /* go_last() counts downwards from there */
    t->cpu = (uint32_t)(draw() % CORE_COUNT);
    t->deadline_ns = FOREVER;
    thread **at = &run.first;
    while (*at)
        at = &(*at)->next;
    *at = t;
    return t;
}

static void drop_thread(thread *t) {
    thread **at = &run.first;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    sem_destroy(&t->token);
    free(t);
}

static void thread_main(void *arg) {
    thread *t = arg;
    while (sem_wait(&t->token) != 0)
        ;
    self = t;
    t->fn(t->arg);
    step(STEP_END, NULL);
    if (t->held_count > 0)
        die("%s has ended with a mutex", t->name);
    t->done = true;
    self = NULL;
    /* Whoever joins may free t from here on. */
    sem_post(&pick_or_advance()->token);
}

vv_status __wrap_vv_thread_start(pthread_t *thread_out, const char *name, void (*fn)(void *), void *arg) {
    if (!self)
        return __real_vv_thread_start(thread_out, name, fn, arg);
    thread *t = add_thread(name);
    t->fn = fn;
    t->arg = arg;
    vv_status st = __real_vv_thread_start(thread_out, name, thread_main, t);
    if (!vv_ok(st))
        drop_thread(t);
    else
        t->os = *thread_out;
    step(STEP_START, __builtin_return_address(0));
    return st;
}

void __wrap_vv_thread_join(pthread_t os) {
    thread *t = self ? run.first : NULL;
    while (t && !(t->fn && pthread_equal(t->os, os)))
        t = t->next;
    if (t) {
        step(STEP_JOIN, __builtin_return_address(0));
        self->what = t;
        if (!t->done)
            block(WAIT_JOIN, FOREVER);
        __real_vv_thread_join(os);
        drop_thread(t);
    } else {
        __real_vv_thread_join(os);
    }
}

/* Who runs is the scheduler's to say; and the token would come along at the priority of its last holder. */
void __wrap_vv_thread_be_background(void) {
    if (!self)
        __real_vv_thread_be_background();
}

/* ---- time ---- */

uint64_t __real_vv_clock_mono_ns(void);
uint64_t __real_vv_clock_unix_ms(void);
int __real_clock_nanosleep(clockid_t clock, int flags, const struct timespec *ts, struct timespec *left);
uint64_t __wrap_vv_clock_mono_ns(void);
uint64_t __wrap_vv_clock_unix_ms(void);
int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *ts, struct timespec *left);

static uint64_t ns_of(const struct timespec *ts) {
    return (uint64_t)ts->tv_sec * VV_NS_PER_S + (uint64_t)ts->tv_nsec;
}

uint64_t __wrap_vv_clock_mono_ns(void) {
    if (!self)
        return __real_vv_clock_mono_ns();
    step(STEP_CLOCK, __builtin_return_address(0));
    return run.now_ns;
}

uint64_t __wrap_vv_clock_unix_ms(void) {
    if (!self)
        return __real_vv_clock_unix_ms();
    step(STEP_CLOCK, __builtin_return_address(0));
    return START_UNIX_MS + run.now_ns / VV_NS_PER_MS;
}

int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *ts, struct timespec *left) {
    if (!self)
        return __real_clock_nanosleep(clock, flags, ts, left);
    step(STEP_SLEEP, __builtin_return_address(0));
    if (clock != CLOCK_MONOTONIC)
        die("%s sleeps by another clock", self->name);
    sleep_until((flags & TIMER_ABSTIME) ? ns_of(ts) : run.now_ns + ns_of(ts));
    return 0;
}

/* ---- the rest of libc that is used ---- */

int __real_sched_yield(void);
int __real_sched_getcpu(void);
ssize_t __real_getrandom(void *buf, size_t bytes, unsigned flags);
int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int __wrap_sched_yield(void);
int __wrap_sched_getcpu(void);
ssize_t __wrap_getrandom(void *buf, size_t bytes, unsigned flags);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

int __wrap_sched_yield(void) {
    if (!self)
        return __real_sched_yield();
    step(STEP_YIELD, __builtin_return_address(0));
    return 0;
}

int __wrap_sched_getcpu(void) {
    if (!self)
        return __real_sched_getcpu();
    step(STEP_CPU, __builtin_return_address(0));
    if (by_chance(100)) /* moved to another core */
        self->cpu = (uint32_t)(draw() % CORE_COUNT);
    return (int)self->cpu;
}

ssize_t __wrap_getrandom(void *buf, size_t bytes, unsigned flags) {
    if (!self)
        return __real_getrandom(buf, bytes, flags);
    step(STEP_RANDOM, __builtin_return_address(0));
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(draw() >> 32);
    return (ssize_t)bytes;
}

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
    if (!self)
        return __real_ppoll(fds, count, timeout, mask);
    step(STEP_POLL, __builtin_return_address(0));
    self->polled = fds;
    self->polled_count = count;
    if (!polled_ready(self))
        block(WAIT_POLL, timeout ? run.now_ns + ns_of(timeout) : FOREVER);
    return poll(fds, count, 0);
}

/* ---- for the tests ---- */

void vv_sched_run(const vv_sched_options *o, void (*fn)(void *arg), void *arg) {
    if (self || run.first)
        abort();
    memset(&run, 0, sizeof run);
    run.options = *o;
    run.rng = o->seed;
    run.now_ns = START_NS;
    run.lowest = UINT64_C(1) << 63;
    run.hash = UINT64_C(0xCBF29CE484222325);
    self = add_thread("first");
    plan_change();
    step(STEP_BEGIN, NULL);
    fn(arg);
    step(STEP_END, NULL);
    if (run.first->next || self->held_count > 0)
        die("the run has ended, but not all of its threads, or with a mutex");
    drop_thread(self);
    self = NULL;
}

void vv_sched_point(void) {
    if (self)
        step(STEP_POINT, __builtin_return_address(0));
}

uint64_t vv_sched_now_ns(void) {
    return self ? run.now_ns : 0;
}

void vv_sched_sleep_ns(uint64_t ns) {
    if (!self)
        return;
    step(STEP_SLEEP, __builtin_return_address(0));
    sleep_until(run.now_ns + ns);
}

uint64_t vv_sched_random(void) {
    return self ? draw() : 0;
}

uint64_t vv_sched_steps(void) {
    return run.steps;
}

uint64_t vv_sched_trace_hash(void) {
    return run.hash;
}
