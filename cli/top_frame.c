/*
 * top_frame.c - a screen of figures from two dashboards.
 *
 * A server counts; rates are differences over the time between. So a counter that has become smaller (the
 * server was started anew) is shown as nothing, for one interval.
 */
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/top.h"

#define LEVELS_MAX 16
#define BAR_WIDTH  24

typedef struct frame {
    FILE *out;
    const json_t *before, *now;
    double seconds;
} frame;

/* ---- numbers ---- */

static double number(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

static double stat_now(const frame *f, const char *name) {
    return number(json_object_get(f->now, "stats"), name);
}

static double since(double now, double before) {
    return now > before ? now - before : 0;
}

static double stat_since(const frame *f, const char *name) {
    return since(stat_now(f, name), number(json_object_get(f->before, "stats"), name));
}

static double stat_rate(const frame *f, const char *name) {
    return f->seconds > 0 ? stat_since(f, name) / f->seconds : 0;
}

/* ---- spreads: [[bound, count], ...] ---- */

/* Of the pair with this bound. */
static double count_below(const json_t *spread, double bound) {
    size_t i;
    json_t *pair;
    json_array_foreach(spread, i, pair) {
        if (json_number_value(json_array_get(pair, 0)) == bound)
            return json_number_value(json_array_get(pair, 1));
    }
    return 0;
}

static double spread_count(const json_t *now, const json_t *before) {
    double count = 0;
    size_t i;
    json_t *pair;
    json_array_foreach(now, i, pair) count +=
        since(json_number_value(json_array_get(pair, 1)),
              count_below(before, json_number_value(json_array_get(pair, 0))));
    return count;
}

/* The least bound that so many percent of what came since do not exceed. */
static double percentile(const json_t *now, const json_t *before, double percent) {
    double rank = percent / 100 * spread_count(now, before), seen = 0, bound = 0;
    size_t i;
    json_t *pair;
    json_array_foreach(now, i, pair) {
        double at = json_number_value(json_array_get(pair, 0));
        double count = since(json_number_value(json_array_get(pair, 1)), count_below(before, at));
        if (count == 0)
            continue;
        bound = at;
        seen += count;
        if (seen >= rank)
            break;
    }
    return bound;
}

static void print_us(FILE *out, double us) {
    char text[32];
    vv_output_duration(text, sizeof text, (uint64_t)(us * 1e3));
    fprintf(out, " %9s", text);
}

static const char *bytes_text(char buf[32], double bytes) {
    vv_progress_bytes(buf, 32, bytes);
    return buf;
}

/* What a server says of itself does nothing to the terminal. */
static void print_text(FILE *out, const json_t *object, const char *name, const char *none) {
    const json_t *text = json_object_get(object, name);
    if (json_is_string(text))
        vv_output_word(out, vv_slice_make(json_string_value(text), json_string_length(text)), false);
    else
        fputs(none, out);
}

/* ---- parts ---- */

static const json_t *method_before(const frame *f, const json_t *method) {
    const json_t *list = json_object_get(f->before, "methods");
    size_t i;
    json_t *m;
    json_array_foreach(list, i, m) {
        if (json_equal(json_object_get(m, "service"), json_object_get(method, "service")) &&
            json_equal(json_object_get(m, "method"), json_object_get(method, "method")))
            return m;
    }
    return NULL;
}

/* "KV.Get" */
static void method_name(const json_t *method, char name[64]) {
    const char *service = json_string_value(json_object_get(method, "service"));
    const char *method_text = json_string_value(json_object_get(method, "method"));
    const char *dot = service ? strrchr(service, '.') : NULL;
    snprintf(name, 64, "%s.%s", dot ? dot + 1 : service ? service : "", method_text ? method_text : "");
    for (char *at = name; *at; at++)
        *at = *at > ' ' && *at < 0x7f ? *at : '?';
}

static void calls(const frame *f) {
    size_t i, shown = 0;
    json_t *m;
    fprintf(f->out, "%-28s %10s %8s %9s %9s %9s %9s\n", "CALLS", "/s", "failed/s", "p50", "p90", "p99",
            "p99.9");
    json_array_foreach(json_object_get(f->now, "methods"), i, m) {
        const json_t *before = method_before(f, m), *us = json_object_get(m, "us");
        const json_t *us_before = json_object_get(before, "us");
        double count = since(number(m, "count"), number(before, "count"));
        if (count == 0 || f->seconds == 0)
            continue;
        char name[64];
        method_name(m, name);
        fprintf(f->out, "%-28s %10.0f %8.0f", name, count / f->seconds,
                since(number(m, "failed"), number(before, "failed")) / f->seconds);
        if (spread_count(us, us_before) > 0) {
            static const double percents[] = {50, 90, 99, 99.9};
            for (size_t p = 0; p < VV_ARRAY_COUNT(percents); p++)
                print_us(f->out, percentile(us, us_before, percents[p]));
        }
        fputc('\n', f->out);
        shown++;
    }
    if (shown == 0)
        fputs("none\n", f->out);
    fprintf(f->out, "in flight: %.0f calls, %.0f streams\n\n", number(f->now, "in_flight"),
            number(f->now, "streams"));
}

static void log_and_memory(const frame *f) {
    char a[32], b[32];
    const json_t *us = json_object_get(f->now, "wal_commit_us");
    const json_t *us_before = json_object_get(f->before, "wal_commit_us");
    const json_t *records = json_object_get(f->now, "wal_commit_records");
    const json_t *records_before = json_object_get(f->before, "wal_commit_records");
    double commits = stat_since(f, "wal_commits");
    fprintf(f->out, "LOG         %.0f commits/s, %s/s; %.1f records a commit, p99 %.0f\n",
            stat_rate(f, "wal_commits"), bytes_text(a, stat_rate(f, "wal_bytes")),
            commits > 0 ? stat_since(f, "wal_records") / commits : 0,
            percentile(records, records_before, 99));
    fputs("            a commit takes: p50", f->out);
    print_us(f->out, percentile(us, us_before, 50));
    fputs("  p99", f->out);
    print_us(f->out, percentile(us, us_before, 99));
    fprintf(f->out, "%s\n",
            json_is_true(json_object_get(f->now, "wal_failed")) ? "; THE LOG HAS FAILED" : "");
    fprintf(f->out, "MEMTABLES   %s active, %.0f sealed of %s; flushed %s/s\n",
            bytes_text(a, stat_now(f, "memtable_bytes")), stat_now(f, "immutable_count"),
            bytes_text(b, stat_now(f, "immutable_bytes")),
            bytes_text((char[32]){0}, stat_rate(f, "flush_bytes")));
    fprintf(f->out, "            %.0f stalls/s, %.0f delayed writes/s\n\n", stat_rate(f, "write_stalls"),
            stat_rate(f, "write_delays"));
}

typedef struct level {
    double runs, tables, bytes, entries;
} level;

static void levels(const frame *f) {
    level list[LEVELS_MAX] = {{0}};
    size_t count = (size_t)VV_MIN(number(f->now, "levels"), (double)LEVELS_MAX), i;
    double most = 1;
    json_t *run;
    char text[32];
    json_array_foreach(json_object_get(f->now, "runs"), i, run) {
        size_t at = (size_t)number(run, "level");
        if (at >= count)
            continue;
        list[at].runs++;
        list[at].tables += number(run, "tables");
        list[at].bytes += number(run, "bytes");
        list[at].entries += number(run, "entries");
        most = VV_MAX(most, list[at].bytes);
    }
    fprintf(f->out, "%-6s %-*s %6s %8s %11s %14s\n", "LEVELS", BAR_WIDTH, "", "runs", "tables", "size",
            "entries");
    for (i = 0; i < count; i++) {
        char bar[BAR_WIDTH + 1];
        int filled = (int)(list[i].bytes / most * BAR_WIDTH + (list[i].bytes > 0 ? 0.999 : 0));
        memset(bar, ' ', BAR_WIDTH);
        memset(bar, '#', (size_t)VV_MIN(filled, BAR_WIDTH));
        bar[BAR_WIDTH] = '\0';
        fprintf(f->out, "L%-5zu %s %6.0f %8.0f %11s %14.0f\n", i, bar, list[i].runs, list[i].tables,
                bytes_text(text, list[i].bytes), list[i].entries);
    }
}

static void compaction(const frame *f) {
    char a[32], b[32], c[32];
    const json_t *now = json_object_get(f->now, "compaction");
    if (json_is_true(json_object_get(now, "running")))
        fprintf(f->out, "COMPACTION  L%.0f to L%.0f: %s of %s, for %.0f s", number(now, "input_level"),
                number(now, "output_level"), bytes_text(a, number(now, "done_bytes")),
                bytes_text(b, number(now, "input_bytes")), number(now, "seconds"));
    else
        fputs("COMPACTION  none", f->out);
    fprintf(f->out, "; reads %s/s, writes %s/s", bytes_text(a, stat_rate(f, "compaction_read_bytes")),
            bytes_text(b, stat_rate(f, "compaction_written_bytes")));
    fprintf(f->out, "; %s to be merged\n\n", bytes_text(c, stat_now(f, "compaction_debt_bytes")));
}

static void cache(const frame *f) {
    char a[32], b[32];
    double hits = stat_since(f, "cache_hits"), lookups = hits + stat_since(f, "cache_misses");
    fprintf(f->out, "CACHE       %s; ", bytes_text(a, stat_now(f, "cache_bytes")));
    if (lookups > 0 && f->seconds > 0)
        fprintf(f->out, "%.1f %% of %.0f lookups/s hit\n", hits / lookups * 100, lookups / f->seconds);
    else
        fputs("no lookups\n", f->out);
    fprintf(f->out, "MEMORY      %s in all, %.0f tables open\n", bytes_text(b, stat_now(f, "memory_bytes")),
            stat_now(f, "open_tables"));
}

static void replicas(const frame *f) {
    const char *role = json_string_value(json_object_get(f->now, "role"));
    if (role && strcmp(role, "primary") != 0) {
        fprintf(f->out, "REPLICATION %s: %.0f writes, %.0f ms behind\n",
                json_is_true(json_object_get(f->now, "connected")) ? "connected to its primary"
                                                                   : "NOT CONNECTED to its primary",
                number(f->now, "lag_lsn"), number(f->now, "lag_ms"));
        return;
    }
    size_t i;
    json_t *r;
    double durable = stat_now(f, "durable_lsn");
    json_array_foreach(json_object_get(f->now, "replicas"), i, r) {
        const char *name = json_string_value(json_object_get(r, "name"));
        fputs(i == 0 ? "REPLICAS    " : "            ", f->out);
        vv_output_word(f->out, vv_slice_str(name ? name : ""), false);
        fprintf(f->out, ": %s, %.0f writes behind\n",
                json_is_true(json_object_get(r, "connected")) ? "connected" : "NOT CONNECTED",
                since(durable, number(r, "confirmed_lsn")));
    }
}

void vv_top_frame(FILE *out, const char *server, const json_t *before, const json_t *now) {
    double us = since(number(now, "now_us"), number(before, "now_us"));
    frame f = {.out = out, .before = before, .now = now, .seconds = us / 1e6};
    fprintf(out, "%s: ", server);
    print_text(out, now, "role", "starting");
    fprintf(out, ", %s, ", json_is_true(json_object_get(now, "serving")) ? "serving" : "NOT SERVING");
    print_text(out, now, "io_backend", "no database");
    fputs(", version ", out);
    print_text(out, now, "version", "unknown");
    fputs("\n\n", out);
    if (!json_is_object(json_object_get(now, "stats")))
        return;
    calls(&f);
    log_and_memory(&f);
    levels(&f);
    compaction(&f);
    cache(&f);
    replicas(&f);
}
