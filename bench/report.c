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
    s->rounds = 0;
    vv_histogram_init(&s->latency_ns);
}

void report_add_rate(report_side *s, double rate) {
    VV_ASSERT(s->rounds < REPORT_ROUNDS_MAX);
    s->rates[s->rounds++] = rate;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sorted(const report_side *s, double *out) {
    memcpy(out, s->rates, s->rounds * sizeof *out);
    qsort(out, s->rounds, sizeof *out, compare_doubles);
}

double report_median(const report_side *s) {
    double rates[REPORT_ROUNDS_MAX];
    if (s->rounds == 0)
        return 0;
    sorted(s, rates);
    size_t middle = s->rounds / 2;
    return s->rounds % 2 ? rates[middle] : (rates[middle - 1] + rates[middle]) / 2;
}

void report_header(const char *title) {
    printf("\n%s\n%-28s %12s  %23s  %9s %9s %9s\n", title, "", "median /s", "(least - most)", "p50 us",
           "p99 us", "p99.9 us");
}

static double percentile_us(const report_side *s, double percent) {
    return (double)vv_histogram_percentile(&s->latency_ns, percent) / 1000.0;
}

void report_line(const report_side *s) {
    double rates[REPORT_ROUNDS_MAX];
    sorted(s, rates);
    printf("%-28s %12.0f  (%9.0f - %9.0f)", s->name, report_median(s), rates[0], rates[s->rounds - 1]);
    if (vv_histogram_count(&s->latency_ns) > 0)
        printf("  %9.1f %9.1f %9.1f", percentile_us(s, 50), percentile_us(s, 99), percentile_us(s, 99.9));
    printf("\n");
    fflush(stdout);
}

void report_ratio(const report_side *a, const report_side *b, double at_least) {
    double ratio = report_median(b) > 0 ? report_median(a) / report_median(b) : 0;
    printf("  %s : %s = %.2f", a->name, b->name, ratio);
    if (at_least > 0)
        printf("  (at least %.2f: %s)", at_least, ratio >= at_least ? "met" : "MISSED");
    printf("\n");
    fflush(stdout);
}

void report_machine(void) {
    struct utsname u;
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    uname(&u);
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &tm);
    printf("%s %s, %ld cores, %s\n", u.sysname, u.release, sysconf(_SC_NPROCESSORS_ONLN), when);
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

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void report_dir_remove(void) {
    if (dir[0])
        nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
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
