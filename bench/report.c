#include "bench/report.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

static char dir[512];

void report_side_init(report_side *s, const char *name) {
    s->name = name;
    s->rounds = s->cpu_rounds = 0;
    s->workload = s->store = "";
    s->unit = "ops/s";
    s->threads = 0;
    vv_histogram_init(&s->latency_ns);
}

void report_add_rate(report_side *s, double rate) {
    VV_ASSERT(s->rounds < REPORT_ROUNDS_MAX);
    s->rates[s->rounds++] = rate;
}

void report_add_cpu(report_side *s, double us) {
    VV_ASSERT(s->cpu_rounds < REPORT_ROUNDS_MAX);
    s->cpu_us[s->cpu_rounds++] = us;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sorted(const double *figures, size_t count, double *out) {
    memcpy(out, figures, count * sizeof *out);
    qsort(out, count, sizeof *out, compare_doubles);
}

static double median(const double *figures, size_t count) {
    double in_order[REPORT_ROUNDS_MAX];
    if (count == 0)
        return 0;
    sorted(figures, count, in_order);
    size_t middle = count / 2;
    return count % 2 ? in_order[middle] : (in_order[middle - 1] + in_order[middle]) / 2;
}

double report_median(const report_side *s) {
    return median(s->rates, s->rounds);
}

void report_header(const char *title) {
    printf("\n%s\n%-28s %12s  %23s  %9s %9s %9s %9s\n", title, "", "median", "(least - most)", "p50 us",
           "p99 us", "p99.9 us", "cpu us");
}

static double percentile_us(const report_side *s, double percent) {
    return (double)vv_histogram_percentile(&s->latency_ns, percent) / 1000.0;
}

/* Ratios and milliseconds have digits behind the point. */
static int digits(const report_side *s) {
    return report_median(s) < 100 ? 2 : 0;
}

void report_line(const report_side *s) {
    double rates[REPORT_ROUNDS_MAX];
    int d = digits(s);
    sorted(s->rates, s->rounds, rates);
    printf("%-28s %12.*f  (%9.*f - %9.*f)", s->name, d, report_median(s), d, rates[0], d,
           rates[s->rounds - 1]);
    if (vv_histogram_count(&s->latency_ns) > 0)
        printf("  %9.1f %9.1f %9.1f", percentile_us(s, 50), percentile_us(s, 99), percentile_us(s, 99.9));
    else if (s->cpu_rounds > 0)
        printf("  %9s %9s %9s", "", "", "");
    if (s->cpu_rounds > 0)
        printf(" %9.2f", median(s->cpu_us, s->cpu_rounds));
    printf("\n");
    fflush(stdout);
}

static double print_ratio(const report_side *a, const report_side *b) {
    double ratio = report_median(b) > 0 ? report_median(a) / report_median(b) : 0;
    printf("  %s : %s = %.2f", a->name, b->name, ratio);
    return ratio;
}

void report_ratio(const report_side *a, const report_side *b, double at_least) {
    double ratio = print_ratio(a, b);
    if (at_least > 0)
        printf("  (at least %.2f: %s)", at_least, ratio >= at_least ? "met" : "MISSED");
    printf("\n");
    fflush(stdout);
}

void report_ratio_at_most(const report_side *a, const report_side *b, double at_most) {
    double ratio = print_ratio(a, b);
    if (at_most > 0)
        printf("  (at most %.2f: %s)", at_most, ratio <= at_most ? "met" : "MISSED");
    printf("\n");
    fflush(stdout);
}

/* ---- where and when ---- */

typedef struct place {
    struct utsname system;
    char processor[128];
    char when[32];
    long cores;
    long memory_mib;
    double load; /* of the last minute */
} place;

static void look_around(place *p) {
    char line[256];
    time_t now = time(NULL);
    struct tm tm;
    uname(&p->system);
    gmtime_r(&now, &tm);
    strftime(p->when, sizeof p->when, "%Y-%m-%d %H:%M UTC", &tm);
    p->cores = sysconf(_SC_NPROCESSORS_ONLN);
    p->memory_mib = sysconf(_SC_PHYS_PAGES) / 1024 * (sysconf(_SC_PAGESIZE) / 1024);
    snprintf(p->processor, sizeof p->processor, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %127[^\n\"\\]", p->processor) == 1)
            break;
    if (f)
        fclose(f);
    if (getloadavg(&p->load, 1) != 1)
        p->load = -1;
}

static void find_place(place *p) {
    /* The load before this program began to make its own, also when it is asked at the end. */
    static place found;
    static bool is_found;
    if (!is_found)
        look_around(&found);
    is_found = true;
    *p = found;
}

void report_machine(void) {
    place p;
    find_place(&p);
    printf("%s %s, %ld cores (%s), load %.1f, %s\n", p.system.sysname, p.system.release, p.cores, p.processor,
           p.load, p.when);
}

/* Of the checkout that the program was built in, with -dirty where its sources differ; results are none. */
static void find_commit(char *out, size_t bytes) {
    char command[1200];
    const char *checkout = report_bin_dir();
    snprintf(command, sizeof command,
             "{ c=$(git -C '%s' describe --always --abbrev=12) && "
             "{ git -C '%s' diff --quiet HEAD -- :/ ':(top,exclude)perf/results' "
             "':(top,exclude)perf/README.md' || "
             "c=$c-dirty; }; echo $c; } 2>/dev/null",
             checkout, checkout);
    snprintf(out, bytes, "unknown");
    FILE *f = popen(command, "r");
    if (f && fgets(out, (int)bytes, f))
        out[strcspn(out, "\n")] = '\0';
    if (f)
        pclose(f);
}

static void json_side(FILE *f, const report_side *s) {
    const vv_histogram *h = &s->latency_ns;
    fprintf(f,
            "    {\"workload\": \"%s\", \"threads\": %d, \"store\": \"%s\", \"unit\": \"%s\", \"rounds\": [",
            s->workload, s->threads, s->store, s->unit);
    for (size_t i = 0; i < s->rounds; i++)
        fprintf(f, "%s%.10g", i ? ", " : "", s->rates[i]);
    fprintf(f, "], \"median\": %.10g", report_median(s));
    if (s->cpu_rounds > 0)
        fprintf(f, ", \"cpu_us\": %.4g", median(s->cpu_us, s->cpu_rounds));
    if (vv_histogram_count(h) > 0)
        fprintf(f,
                ",\n     \"latency_us\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p999\": %.3f, "
                "\"max\": %.3f}",
                percentile_us(s, 50), percentile_us(s, 90), percentile_us(s, 99), percentile_us(s, 99.9),
                (double)vv_histogram_max(h) / 1000.0);
    fprintf(f, "}");
}

void report_json(const char *path, const char *settings, const report_side *const *sides, size_t count) {
    char commit[64];
    place p;
    FILE *f = fopen(path, "w");
    if (!f)
        report_die("%s: can't be written", path);
    find_place(&p);
    find_commit(commit, sizeof commit);
    fprintf(f,
            "{\n  \"machine\": {\"kernel\": \"%s %s\", \"cores\": %ld, \"processor\": \"%s\", "
            "\"memory_mib\": %ld, "
            "\"load\": %.2f, \"time\": \"%s\"},\n",
            p.system.sysname, p.system.release, p.cores, p.processor, p.memory_mib, p.load, p.when);
    fprintf(f, "  \"commit\": \"%s\",\n  \"settings\": {%s},\n  \"runs\": [\n", commit, settings);
    bool first = true;
    for (size_t i = 0; i < count; i++) {
        if (sides[i]->rounds == 0)
            continue;
        fprintf(f, first ? "" : ",\n");
        json_side(f, sides[i]);
        first = false;
    }
    fprintf(f, "\n  ]\n}\n");
    if (fclose(f) != 0)
        report_die("%s: can't be written", path);
}

const char *report_bin_dir(void) {
    static char path[400];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0)
        report_die("/proc/self/exe can't be read");
    path[n] = '\0';
    *strrchr(path, '/') = '\0';
    return path;
}

const char *report_dir_create(void) {
    snprintf(dir, sizeof dir, "%s/../bench-XXXXXX", report_bin_dir());
    if (!mkdtemp(dir))
        report_die("%s: can't be created", dir);
    return dir;
}

const char *report_work_dir(void) {
    return dir;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void report_tree_remove(const char *path) {
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void report_dir_remove(void) {
    if (dir[0])
        report_tree_remove(dir);
    dir[0] = '\0';
}

void report_die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    report_dir_remove();
    exit(1);
}
