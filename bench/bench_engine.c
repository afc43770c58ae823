/*
 * bench_engine - the engine beside its peers: the same workloads on Varve, LevelDB, LMDB, RocksDB (those that
 * were found when this was built) and, where it is a yardstick, the device itself.
 *
 *     bench_engine [--rounds N] [--seconds S] [--stores A,B] [--json FILE] [--quick] [--list]
 * [NAME[/THREADS]...]
 *
 * In each round every store has its turn on the same workload, and the order of the stores rotates from round
 * to round. All are open at once, and idle while another has its turn. engine/store.h is what a store can do,
 * engine/works.c what there is to do, README.md the settings.
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/engine/targets.h"
#include "bench/engine/work.h"

#define STORES_MAX 8
#define SIDES_MAX  1024
#define QUICK      20 /* --quick: a part of keys and operations */

static int rounds = 5;
static work_options options = {.seconds = 1.0, .shrink = 1};
static const char *json_path;
static bool list_only;

static const store_kind *kinds[STORES_MAX];
static size_t kind_count;

static const report_side *sides[SIDES_MAX]; /* all of this run, for the JSON */
static size_t side_count;

/* ---- data ---- */

static const work_set *current; /* that all in `data` have */
static drive_data data[STORES_MAX];
static char dirs[STORES_MAX][600];

static void open_store(size_t i) {
    store_config c = work_config(current, dirs[i], options.shrink);
    data[i].s = kinds[i]->open(&c);
}

static void close_store(size_t i) {
    if (data[i].s)
        kinds[i]->close(data[i].s);
    data[i].s = NULL;
}

/* Everything into the caches. */
static void read_all(drive_data *d) {
    store_session *x = d->s->kind->session_open(d->s, 0, NULL);
    for (uint64_t n = 0; n < d->keys; n++) {
        char key[WORKLOAD_KEY_BYTES];
        uint64_t found = n;
        workload_key(n, key);
        if (!d->s->kind->get(x, key, &found))
            report_die("%s: an entry that was loaded is not there", d->s->kind->name);
    }
    d->s->kind->session_close(x);
}

static void load_store(size_t i) {
    drive_data *d = &data[i];
    memset(d, 0, sizeof *d);
    d->keys = current->keys / options.shrink;
    d->value_bytes = current->value_bytes;
    d->ascending = current->ascending;
    if (mkdir(dirs[i], 0700) != 0)
        report_die("%s: can't be created", dirs[i]);
    open_store(i);
    if (!(kinds[i]->abilities & STORE_KEEPS_KEYS))
        return;
    work_load(d, 0, d->keys);
    if (kinds[i]->sync)
        kinds[i]->sync(d->s);
    if (current->compacted) {
        store_settle();
        if (kinds[i]->compact)
            kinds[i]->compact(d->s);
        store_settle();
        close_store(i);
        open_store(i);
        if (!current->cold)
            read_all(d);
    }
    store_settle();
}

static void drop_data(void) {
    for (size_t i = 0; i < kind_count; i++) {
        close_store(i);
        if (dirs[i][0])
            report_tree_remove(dirs[i]);
        dirs[i][0] = '\0';
    }
    current = NULL;
}

static bool takes_part(const store_kind *k, const work *w) {
    return (k->abilities & STORE_KEEPS_KEYS) ? !(w->needs & ~STORE_COMMITS_RAW & ~k->abilities)
                                             : (w->needs & k->abilities) != 0;
}

/* For all stores that take part in w; what others have of the same set stays. */
static void need_data(const work *w) {
    if (current != w->set)
        drop_data();
    current = w->set;
    for (size_t i = 0; current && i < kind_count; i++) {
        if (data[i].s || !takes_part(kinds[i], w))
            continue;
        fprintf(stderr, "loading %s: %s\n", kinds[i]->name, current->what);
        snprintf(dirs[i], sizeof dirs[i], "%s/%s", report_work_dir(), kinds[i]->name);
        load_store(i);
    }
}

/* ---- running ---- */

static report_side *new_side(const work *w, const work_metric *m, const store_kind *k) {
    report_side *s = malloc(sizeof *s);
    char *name = malloc(64);
    if (!s || !name || side_count == SIDES_MAX)
        report_die("too many figures");
    report_side_init(s, k->name);
    snprintf(name, 64, "%s%s%s", w->name, m->name ? "." : "", m->name ? m->name : "");
    s->workload = name;
    s->store = k->name;
    s->unit = m->unit;
    s->threads = w->threads;
    sides[side_count++] = s;
    return s;
}

static void print_work(const work *w, const work_metric *m, report_side *const *of_stores) {
    char title[240];
    snprintf(title, sizeof title, "%s%s%s, %d thread%s, %s: %s", w->name, m->name ? "." : "",
             m->name ? m->name : "", w->threads, w->threads > 1 ? "s" : "", m->unit, w->what);
    report_header(title);
    for (size_t i = 0; i < kind_count; i++)
        if (of_stores[i]->rounds > 0)
            report_line(of_stores[i]);
    double limit = target_of(w->name, w->threads, m->name, NULL);
    if (limit > 0 && of_stores[0]->rounds > 0)
        printf("  %s: %.2f (at most %.2f: %s)\n", of_stores[0]->name, report_median(of_stores[0]), limit,
               report_median(of_stores[0]) <= limit ? "met" : "MISSED");
    for (size_t i = 1; i < kind_count; i++) {
        if (of_stores[i]->rounds == 0 || of_stores[0]->rounds == 0)
            continue;
        double wanted = target_of(w->name, w->threads, m->name, kinds[i]->name);
        (m->less_is_better ? report_ratio_at_most : report_ratio)(of_stores[0], of_stores[i], wanted);
    }
}

static void run_work(const work *w) {
    static report_side *of_work[WORK_METRICS_MAX][STORES_MAX];
    uint32_t *picks = NULL;
    need_data(w);
    if (w->picks != PICKS_NONE)
        picks =
            (w->picks == PICKS_ZIPF ? workload_zipf : workload_zipf_ranks)(w->set->keys / options.shrink, 1);
    size_t metrics = 0;
    for (; metrics < WORK_METRICS_MAX && w->metrics[metrics].unit; metrics++)
        for (size_t i = 0; i < kind_count; i++)
            of_work[metrics][i] = new_side(w, &w->metrics[metrics], kinds[i]);
    for (int r = 0; r < rounds; r++) {
        for (size_t turn = 0; turn < kind_count; turn++) {
            size_t i = (turn + (size_t)r) % kind_count;
            report_side *of_turn[WORK_METRICS_MAX];
            if (!takes_part(kinds[i], w))
                continue;
            if (w->set && w->set->cold) {
                close_store(i);
                store_evict(dirs[i]);
                open_store(i);
            }
            for (size_t m = 0; m < metrics; m++)
                of_turn[m] = of_work[m][i];
            data[i].picks = picks;
            w->turn(w, kinds[i], &data[i], &options, (uint64_t)r << 32, of_turn);
            if (w->writes)
                store_settle();
        }
    }
    for (size_t m = 0; m < metrics; m++)
        print_work(w, &w->metrics[m], of_work[m]);
    free(picks);
}

/* ---- being stopped ---- */

/* Gigabytes may lie in the directory. */
static void *wait_for_signal(void *arg) {
    const sigset_t *signals = arg;
    int which;
    sigwait(signals, &which);
    report_dir_remove();
    _exit(128 + which);
}

/* Before there are other threads, which then leave these signals to that one. */
static void clean_up_when_stopped(void) {
    static sigset_t signals;
    pthread_t thread;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (pthread_create(&thread, NULL, wait_for_signal, &signals) != 0)
        report_die("no thread");
    pthread_detach(thread);
}

/* ---- the command line ---- */

static bool named(const work *w, const char *name) {
    size_t n = strlen(w->name);
    if (strncmp(name, w->name, n) != 0)
        return false;
    return name[n] == '\0' || (name[n] == '/' && atoi(name + n + 1) == w->threads);
}

static bool wanted(const work *w, int argc, char **argv) {
    for (int i = optind; i < argc; i++)
        if (named(w, argv[i]))
            return true;
    return optind == argc && !w->on_request;
}

static void check_names(int argc, char **argv) {
    for (int i = optind; i < argc; i++) {
        bool known = false;
        for (const work *w = works; w->name; w++)
            known = known || named(w, argv[i]);
        if (!known) {
            fprintf(stderr, "bench_engine: no workload '%s'; --list lists them\n", argv[i]);
            exit(2);
        }
    }
}

static void list(void) {
    for (const work *w = works; w->name; w++)
        printf("%s/%d%*s %s%s\n", w->name, w->threads, (int)(24 - strlen(w->name)) - (w->threads > 9), "",
               w->what, w->on_request ? " (only if named)" : "");
    printf("stores:");
    for (size_t i = 0; i < kind_count; i++)
        printf(" %s (%s)", kinds[i]->name, kinds[i]->version());
    printf("\n");
}

static void choose_stores(char *names) {
    kind_count = 0;
    for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
        kinds[kind_count] = store_find(name);
        if (!kinds[kind_count] || kind_count == STORES_MAX - 1) {
            fprintf(stderr, "bench_engine: no store '%s' here\n", name);
            exit(2);
        }
        kind_count++;
    }
}

static void parse(int argc, char **argv) {
    static const struct option longs[] = {{"rounds", required_argument, NULL, 'r'},
                                          {"seconds", required_argument, NULL, 's'},
                                          {"stores", required_argument, NULL, 'p'},
                                          {"json", required_argument, NULL, 'j'},
                                          {"quick", no_argument, NULL, 'q'},
                                          {"list", no_argument, NULL, 'l'},
                                          {0}};
    for (const store_kind *const *k = store_kinds(); *k; k++)
        kinds[kind_count++] = *k;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'p': choose_stores(optarg); break;
        case 'j': json_path = optarg; break;
        case 'q': rounds = 1, options.seconds = 0.1, options.shrink = QUICK; break;
        case 'l': list_only = true; break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || options.seconds <= 0 || kind_count == 0) {
        fprintf(stderr, "bench_engine: --rounds 1 to %d, --seconds above 0, --stores at least one\n",
                REPORT_ROUNDS_MAX);
        exit(2);
    }
    check_names(argc, argv);
}

static void say_missing(void) {
    for (size_t i = 0; store_peer_names[i]; i++)
        if (!store_find(store_peer_names[i]))
            printf("without %s: it was not there when this was built (./dev bench --peers installs it)\n",
                   store_peer_names[i]);
}

static void write_json(void) {
    char settings[1024];
    int n = snprintf(settings, sizeof settings,
                     "\"rounds\": %d, \"seconds\": %g, \"shrink\": %llu, \"key_bytes\": %d, \"stores\": {",
                     rounds, options.seconds, (unsigned long long)options.shrink, WORKLOAD_KEY_BYTES);
    for (size_t i = 0; i < kind_count; i++)
        n += snprintf(settings + n, sizeof settings - (size_t)n, "%s\"%s\": \"%s\"", i ? ", " : "",
                      kinds[i]->name, kinds[i]->version());
    snprintf(settings + n, sizeof settings - (size_t)n, "}");
    report_json(json_path, settings, sides, side_count);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--child") == 0)
        return work_child(argc, argv);
    parse(argc, argv);
    if (list_only) {
        list();
        return 0;
    }
    report_machine();
    say_missing();
    report_dir_create();
    clean_up_when_stopped();
    for (const work *w = works; w->name; w++)
        if (wanted(w, argc, argv)) {
            run_work(w);
            if (json_path) /* what is there so far: a workload that fails must not cost the others' figures */
                write_json();
        }
    drop_data();
    report_dir_remove();
    return 0;
}
