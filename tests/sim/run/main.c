/*
 * main.c - seed after seed of simulated runs, each in a process of its own; what fails is made smaller.
 *
 *   sim_run --seeds N | --seconds T | --hours H    as many runs, from --first S (1; for hours: by the clock)
 *   sim_run --seed N [--verbose]                   one of them, again
 *
 * A run is a function of its seed and of the flags that change its plan:
 *
 *   --generations N, --ops N    fewer than the seed says (or more)
 *   --faults none|NAME,...      only these of the seed's
 *   --capacity BYTES            of the disk, 0: no limit
 *   --no-crashes
 *   --salt N                    other moments at which things go wrong
 *   --only LIST                 only these operations: "1007,2010-2013"
 *
 * When a run fails, operations are left out as long as it goes on failing (A. Zeller, R. Hildebrandt,
 * "Simplifying and Isolating Failure-Inducing Input", TSE 2002), and the command that does what is left is
 * printed.
 *
 * Exit codes: 0 all good, 1 a run failed, 2 usage.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/run/run.h"

#define JOBS_MAX         64
#define RUN_SECONDS_MAX  300 /* of real time; a run that takes longer hangs */
#define PROGRESS_SECONDS 10
#define WORDS_BYTES_MAX  (256 << 10)
#define SALTS            3 /* tried for each smaller run */
#define FAILURES_MAX     5 /* then it is enough */

typedef struct settings {
    bool one;
    uint64_t first_seed;
    uint64_t seed_count; /* 0: until the time is over */
    double seconds;
    uint32_t jobs;
    bool verbose, twice, no_shrink;
    double shrink_seconds;
    /* Changes of the plan; -1: as the seed says. */
    long generations, ops;
    int64_t capacity;
    bool no_crashes;
    uint32_t salt;
    uint32_t faults; /* those that are left */
    const char *faults_text;
    uint32_t *only;
    uint32_t only_count;
} settings;

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static _Noreturn void usage(const char *what) {
    fprintf(stderr, "sim_run: %s; see tests/sim/run/main.c\n", what);
    exit(2);
}

static void *must(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- plans ---- */

static sim_plan plan_of(const settings *s, uint64_t seed) {
    sim_plan p;
    sim_plan_init(&p, seed);
    if (s->generations >= 0)
        p.generations = (uint32_t)s->generations;
    if (s->ops >= 0)
        p.ops = (uint32_t)s->ops;
    if (s->capacity >= 0)
        p.capacity_bytes = (uint64_t)s->capacity;
    if (s->no_crashes)
        p.crashes = false;
    p.faults &= s->faults;
    p.salt = s->salt;
    p.only = s->only;
    p.only_count = s->only_count;
    return p;
}

static void print_list(const uint32_t *items, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t last = i;
        while (last + 1 < count && items[last + 1] == items[last] + 1)
            last++;
        printf("%s%u", i ? "," : "", items[i]);
        if (last > i)
            printf("-%u", items[last]);
        i = last;
    }
}

static void print_command(const sim_plan *p) {
    sim_plan whole;
    sim_plan_init(&whole, p->seed);
    printf("./dev sim --seed %" PRIu64, p->seed);
    if (p->generations != whole.generations)
        printf(" --generations %u", p->generations);
    if (p->ops != whole.ops)
        printf(" --ops %u", p->ops);
    if (p->capacity_bytes != whole.capacity_bytes)
        printf(" --capacity %" PRIu64, p->capacity_bytes);
    if (!p->crashes)
        printf(" --no-crashes");
    if (p->faults != whole.faults) {
        const char *before = " --faults ";
        for (uint32_t f = 1; f < VV_SIM_FAULT_COUNT; f++)
            if (p->faults >> f & 1) {
                printf("%s%s", before, vv_sim_fault_name((vv_sim_fault)f));
                before = ",";
            }
        if (p->faults == 0)
            printf(" --faults none");
    }
    if (p->salt)
        printf(" --salt %u", p->salt);
    if (p->only) {
        printf(" --only ");
        print_list(p->only, p->only_count);
        if (p->only_count == 0)
            printf("none");
    }
    printf("\n");
}

/* ---- a run in a process ---- */

typedef struct child {
    pid_t pid; /* 0: none */
    sim_plan plan;
    sim_figures *figures; /* shared with it */
    FILE *words;          /* its stderr */
    bool second;          /* of the same seed */
    uint64_t hash;        /* of the first, then */
} child;

static void start(child *c, const sim_plan *p, bool verbose) {
    c->plan = *p;
    c->figures = mmap(NULL, sizeof *c->figures, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    c->words = must(tmpfile());
    if (c->figures == MAP_FAILED)
        abort();
    memset(c->figures, 0, sizeof *c->figures);
    fflush(NULL);
    c->pid = fork();
    if (c->pid < 0)
        abort();
    if (c->pid == 0) {
        if (!verbose)
            dup2(fileno(c->words), STDERR_FILENO);
        alarm(RUN_SECONDS_MAX);
        if (getenv("VARVE_SIM_TRACE")) {
            char path[400];
            snprintf(path, sizeof path, "%s-%d", getenv("VARVE_SIM_TRACE"), (int)getpid());
            c->plan.sched.trace = fopen(path, "w");
        }
        sim_run(&c->plan, c->figures, verbose);
        exit(0); /* by the sanitizers, if there is one */
    }
}

/* Its process has ended. Returns whether the run failed; *words_out is the caller's to free. */
static bool finish(child *c, int status, sim_figures *sum, char **words_out) {
    bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    char *words = must(malloc(WORDS_BYTES_MAX));
    rewind(c->words);
    size_t bytes = fread(words, 1, WORDS_BYTES_MAX - 100, c->words);
    words[bytes] = '\0';
    if (WIFSIGNALED(status))
        snprintf(words + bytes, 100, "ended by signal %d%s\n", WTERMSIG(status),
                 WTERMSIG(status) == SIGALRM ? ": it hung" : "");
    const uint64_t *from = (const uint64_t *)c->figures;
    uint64_t *to = (uint64_t *)sum;
    for (size_t i = 0; sum && i < offsetof(sim_figures, trace_hash) / sizeof *from; i++)
        to[i] += from[i];
    fclose(c->words);
    c->pid = 0;
    *words_out = words;
    return failed;
}

static void drop(child *c) {
    munmap(c->figures, sizeof *c->figures);
    c->figures = NULL;
}

static bool fails(const sim_plan *p, uint32_t *generation_out) {
    child c;
    int status;
    char *words;
    start(&c, p, false);
    while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR)
        ;
    bool failed = finish(&c, status, NULL, &words);
    if (generation_out)
        *generation_out = c.figures->generation;
    free(words);
    drop(&c);
    return failed;
}

/* ---- making it smaller ---- */

static uint32_t *all_ops(const sim_plan *p, uint32_t *count_out) {
    uint32_t *items = must(malloc((size_t)SIM_GENERATIONS_MAX * SIM_OPS_MAX * sizeof *items));
    *count_out = 0;
    for (uint32_t g = 0; g < p->generations; g++)
        for (uint32_t i = 0; i < p->ops; i++)
            if (sim_plan_has(p, g * SIM_OPS_MAX + i))
                items[(*count_out)++] = g * SIM_OPS_MAX + i;
    return items;
}

/* Does it fail without the n operations from `at` on, at the moments that it fails at now or at some others?
 * Then they are gone. */
static bool try_without(sim_plan *p, uint32_t *items, uint32_t *count, uint32_t at, uint32_t n) {
    uint32_t *less = must(malloc((*count + 1) * sizeof *less));
    memcpy(less, items, at * sizeof *less);
    memcpy(less + at, items + at + n, (*count - at - n) * sizeof *less);
    sim_plan candidate = *p;
    candidate.only = less;
    candidate.only_count = *count - n;
    bool failed = fails(&candidate, NULL);
    for (uint32_t salt = p->salt + 1; !failed && salt <= p->salt + SALTS; salt++) {
        candidate.salt = salt;
        failed = fails(&candidate, NULL);
    }
    if (failed) {
        *count -= n;
        memcpy(items, less, *count * sizeof *less);
        p->salt = candidate.salt;
    }
    free(less);
    return failed;
}

/* p->only becomes the caller's to free. */
static void shrink(sim_plan *p, uint32_t failed_in, double until) {
    for (uint32_t g = failed_in; g <= failed_in + 1; g++) {
        sim_plan candidate = *p;
        candidate.generations = g;
        if (g < p->generations && fails(&candidate, NULL)) {
            *p = candidate;
            break;
        }
    }
    sim_plan candidate = *p;
    candidate.faults = 0;
    if (p->faults && fails(&candidate, NULL))
        *p = candidate;
    for (uint32_t f = 1; f < VV_SIM_FAULT_COUNT && now() < until; f++) {
        candidate = *p;
        candidate.faults &= ~(1u << f);
        if (candidate.faults != p->faults && fails(&candidate, NULL))
            *p = candidate;
    }
    uint32_t count;
    uint32_t *items = all_ops(p, &count);
    for (uint32_t n = (count + 1) / 2; n >= 1 && now() < until; n = n == 1 ? 0 : (n + 1) / 2) {
        bool again = true;
        while (again && now() < until) {
            again = false;
            for (uint32_t at = 0; at < count && now() < until;) {
                uint32_t len = n < count - at ? n : count - at;
                if (try_without(p, items, &count, at, len))
                    again = n == 1;
                else
                    at += len;
            }
        }
    }
    p->only = items;
    p->only_count = count;
}

static void report_failure(const settings *s, const child *c, const char *words) {
    sim_plan p = c->plan;
    printf("---- seed %" PRIu64 " failed ----\n%s", p.seed, words);
    printf("replay: ");
    print_command(&p);
    fflush(stdout);
    if (s->no_shrink)
        return;
    shrink(&p, c->figures->generation, now() + s->shrink_seconds);
    printf("shrunk to %u operations: ", p.only_count);
    print_command(&p);
    fflush(stdout);
    free(p.only);
}

/* ---- many runs ---- */

static void print_summary(const sim_figures *f, double seconds, uint64_t failures) {
    printf("%" PRIu64 " runs in %.0f s, %" PRIu64 " failed: %" PRIu64 " generations, %" PRIu64
           " operations, %" PRIu64 " reads judged, %" PRIu64 " writes of unknown outcome settled\n",
           f->runs, seconds, failures, f->generations, f->operations, f->looks, f->settled);
    printf("%" PRIu64 " crashes (%" PRIu64 " in recovery, %" PRIu64 " images), %" PRIu64 " restarts, %" PRIu64
           " flushes, %" PRIu64 " compactions, %" PRIu64 " I/Os, %" PRIu64 " scheduler steps\n",
           f->crashes, f->crashes_in_open, f->images, f->restarts, f->flushes, f->compactions, f->events,
           f->steps);
    printf("faults:");
    for (uint32_t i = 1; i < VV_SIM_FAULT_COUNT; i++)
        if (f->faults[i] > 0)
            printf(" %s %" PRIu64, vv_sim_fault_name((vv_sim_fault)i), f->faults[i]);
    printf("\n");
    fflush(stdout);
}

typedef struct campaign {
    const settings *s;
    child children[JOBS_MAX];
    uint32_t running;
    uint64_t next_seed, started, failures;
    sim_figures sum;
    double begun, told;
} campaign;

static bool more(const campaign *m) {
    if (m->failures >= FAILURES_MAX)
        return false;
    if (m->s->seed_count != 0)
        return m->started < m->s->seed_count;
    return now() - m->begun < m->s->seconds;
}

static void start_in(campaign *m, child *c, const sim_plan *p, bool second, uint64_t hash) {
    start(c, p, m->s->one && m->s->verbose);
    c->second = second;
    c->hash = hash;
    m->running++;
}

static void one_ended(campaign *m, child *c, int status) {
    char *words;
    bool failed = finish(c, status, &m->sum, &words);
    uint64_t hash = c->figures->trace_hash;
    m->running--;
    if (failed) {
        m->failures++;
        report_failure(m->s, c, words);
    } else if (c->second && hash != c->hash) {
        m->failures++;
        printf("seed %" PRIu64 " was another run the second time\n", c->plan.seed);
    }
    free(words);
    bool again = !failed && m->s->twice && !c->second;
    sim_plan p = c->plan;
    drop(c);
    if (again)
        start_in(m, c, &p, true, hash);
    else if (m->s->one && !failed)
        printf("seed %" PRIu64 " is good; trace %016" PRIx64 "\n", p.seed, hash);
}

static void tell(campaign *m) {
    if (m->s->one || now() - m->told < PROGRESS_SECONDS)
        return;
    m->told = now();
    printf("%.0f s: %" PRIu64 " runs, up to seed %" PRIu64 ", %" PRIu64 " crashes, %" PRIu64
           " operations, %" PRIu64 " failures\n",
           now() - m->begun, m->sum.runs, m->next_seed - 1, m->sum.crashes, m->sum.operations, m->failures);
    fflush(stdout);
}

static int run_all(const settings *s) {
    campaign *m = must(calloc(1, sizeof *m));
    m->s = s;
    m->next_seed = s->first_seed;
    m->begun = m->told = now();
    for (;;) {
        for (uint32_t i = 0; i < s->jobs && more(m); i++) {
            if (m->children[i].pid != 0)
                continue;
            sim_plan p = plan_of(s, m->next_seed++);
            m->started++;
            start_in(m, &m->children[i], &p, false, 0);
        }
        if (m->running == 0)
            break;
        int status;
        pid_t pid = wait(&status);
        for (uint32_t i = 0; i < s->jobs && pid > 0; i++)
            if (m->children[i].pid == pid) {
                one_ended(m, &m->children[i], status);
                break;
            }
        tell(m);
    }
    print_summary(&m->sum, now() - m->begun, m->failures);
    int code = m->failures ? 1 : 0;
    free(m);
    return code;
}

/* ---- arguments ---- */

static uint32_t parse_faults(const char *text) {
    uint32_t mask = 0;
    char copy[256], *rest = copy;
    snprintf(copy, sizeof copy, "%s", text);
    if (strcmp(text, "none") == 0)
        return 0;
    for (char *name; (name = strsep(&rest, ",")) != NULL;) {
        uint32_t f = 1;
        while (f < VV_SIM_FAULT_COUNT && strcmp(vv_sim_fault_name((vv_sim_fault)f), name) != 0)
            f++;
        if (f == VV_SIM_FAULT_COUNT)
            usage("unknown fault");
        mask |= 1u << f;
    }
    return mask;
}

static void parse_only(settings *s, const char *text) {
    s->only = must(calloc((size_t)SIM_GENERATIONS_MAX * SIM_OPS_MAX, sizeof *s->only));
    if (strcmp(text, "none") == 0)
        return;
    while (*text) {
        char *end;
        unsigned long low = strtoul(text, &end, 10), high = low;
        if (*end == '-')
            high = strtoul(end + 1, &end, 10);
        if ((*end && *end != ',') || high >= (unsigned long)SIM_GENERATIONS_MAX * SIM_OPS_MAX || low > high)
            usage("--only takes numbers and ranges");
        for (; low <= high; low++)
            s->only[s->only_count++] = (uint32_t)low;
        text = *end ? end + 1 : end;
    }
}

static double number(const char *text) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || x < 0)
        usage("not a number");
    return x;
}

static settings parse(int argc, char **argv) {
    static const struct option options[] = {
        {"seed", 1, NULL, 's'},           {"seeds", 1, NULL, 'n'},       {"first", 1, NULL, 'f'},
        {"seconds", 1, NULL, 't'},        {"hours", 1, NULL, 'h'},       {"jobs", 1, NULL, 'j'},
        {"verbose", 0, NULL, 'v'},        {"twice", 0, NULL, '2'},       {"no-shrink", 0, NULL, 'k'},
        {"shrink-seconds", 1, NULL, 'K'}, {"generations", 1, NULL, 'g'}, {"ops", 1, NULL, 'o'},
        {"faults", 1, NULL, 'F'},         {"capacity", 1, NULL, 'c'},    {"no-crashes", 0, NULL, 'C'},
        {"salt", 1, NULL, 'S'},           {"only", 1, NULL, 'O'},        {0}};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    settings s = {.jobs = cores < 1          ? 1
                          : cores > JOBS_MAX ? JOBS_MAX
                                             : (uint32_t)cores,
                  .generations = -1,
                  .ops = -1,
                  .capacity = -1,
                  .faults = UINT32_MAX,
                  .shrink_seconds = 60};
    int c;
    while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1)
        switch (c) {
        case 's':
            s.one = true;
            s.first_seed = strtoull(optarg, NULL, 0);
            s.seed_count = 1;
            break;
        case 'n': s.seed_count = (uint64_t)number(optarg); break;
        case 'f': s.first_seed = strtoull(optarg, NULL, 0); break;
        case 't': s.seconds = number(optarg); break;
        case 'h': s.seconds = number(optarg) * 3600; break;
        case 'j': s.jobs = (uint32_t)number(optarg); break;
        case 'v': s.verbose = true; break;
        case '2': s.twice = true; break;
        case 'k': s.no_shrink = true; break;
        case 'K': s.shrink_seconds = number(optarg); break;
        case 'g': s.generations = (long)number(optarg); break;
        case 'o': s.ops = (long)number(optarg); break;
        case 'F': s.faults = parse_faults(optarg); break;
        case 'c': s.capacity = (int64_t)number(optarg); break;
        case 'C': s.no_crashes = true; break;
        case 'S': s.salt = (uint32_t)number(optarg); break;
        case 'O': parse_only(&s, optarg); break;
        default: usage("unknown argument");
        }
    if (optind != argc || s.jobs < 1 || s.jobs > JOBS_MAX || s.generations > SIM_GENERATIONS_MAX - 2 ||
        s.ops > SIM_OPS_MAX - 1 || s.ops == 0)
        usage("out of range");
    if (s.seed_count == 0 && s.seconds <= 0)
        s.seed_count = 100;
    if (s.first_seed == 0)
        s.first_seed = s.seconds >= 600 ? (uint64_t)time(NULL) << 20 : 1;
    return s;
}

int main(int argc, char **argv) {
    settings s = parse(argc, argv);
    int code = run_all(&s);
    free(s.only);
    return code;
}
