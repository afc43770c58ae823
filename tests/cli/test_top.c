/*
 * A screen of `varve top` says what two dashboards differ in.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "cli/top.h"

static char *screen;

static json_t *dashboard(const char *text) {
    json_error_t why;
    json_t *object = json_loads(text, JSON_DECODE_INT_AS_REAL, &why);
    cr_assert(object, "%s", why.text);
    return object;
}

static void draw(const char *before_text, const char *now_text) {
    size_t bytes;
    json_t *before = dashboard(before_text), *now = dashboard(now_text);
    free(screen);
    FILE *out = open_memstream(&screen, &bytes);
    vv_top_frame(out, "h:1", before, now);
    fclose(out);
    json_decref(before);
    json_decref(now);
}

static void expect(const char *words) {
    cr_expect(strstr(screen, words), "'%s' is not in:\n%s", words, screen);
}

static void fini(void) {
    free(screen);
}

TestSuite(cli_top, .fini = fini);

#define HEAD                                                                                                 \
    "\"version\":\"1.2.3\",\"serving\":true,\"io_backend\":\"uring\",\"levels\":2,\"in_flight\":7,"          \
    "\"streams\":1,\"role\":\"primary\""

static const char before[] =
    "{\"now_us\":1000000," HEAD ",\"methods\":[{\"service\":\"varve.v1.KV\",\"method\":\"Get\",\"count\":100,"
    "\"failed\":0,\"us\":[[64,90],[128,10]]}],\"stats\":{\"wal_commits\":10,\"wal_records\":20,"
    "\"cache_hits\":100,\"cache_misses\":100,\"durable_lsn\":5}}";

static const char now[] =
    "{\"now_us\":3000000," HEAD ",\"methods\":[{\"service\":\"varve.v1.KV\",\"method\":\"Get\",\"count\":300,"
    "\"failed\":4,\"us\":[[64,90],[128,110],[4096,100]]},{\"service\":\"varve.v1.KV\",\"method\":\"Scan\","
    "\"count\":2,\"failed\":0,\"us\":[]}],\"stats\":{\"wal_commits\":30,\"wal_records\":120,"
    "\"wal_bytes\":2097152,\"cache_hits\":190,\"cache_misses\":110,\"durable_lsn\":105,"
    "\"commit_limit\":18446744073709551615},"
    "\"runs\":[{\"level\":0,\"tables\":1,\"bytes\":1024,\"entries\":10},{\"level\":0,\"tables\":2,"
    "\"bytes\":1024,\"entries\":5},{\"level\":1,\"tables\":4,\"bytes\":4096,\"entries\":40}],"
    "\"compaction\":{\"running\":true,\"input_level\":0,\"output_level\":1,\"input_bytes\":2048,"
    "\"done_bytes\":1024,\"seconds\":3.2},"
    "\"replicas\":[{\"name\":\"other\",\"connected\":true,\"confirmed_lsn\":100}]}";

Test(cli_top, rates_and_percentiles_are_of_the_time_between) {
    draw(before, now);
    expect("h:1: primary, serving, uring, version 1.2.3");
    expect("KV.Get                              100        2    128 us   4.10 ms   4.10 ms   4.10 ms\n");
    expect("KV.Scan                               1        0\n");
    expect("in flight: 7 calls, 1 streams");
    expect("10 commits/s, 1.0 MiB/s; 5.0 records a commit");
    expect("L0     ############                  2        3     2.0 KiB             15\n");
    expect("L1     ########################      1        4     4.0 KiB             40\n");
    expect("L0 to L1: 1.0 KiB of 2.0 KiB, for 3 s");
    expect("90.0 % of 50 lookups/s hit");
    expect("other: connected, 5 writes behind");
}

Test(cli_top, a_server_that_began_anew_shows_nothing_false) {
    draw(now, before);
    expect("CALLS");
    expect("none\n");
    expect("0 commits/s");
    draw(now, now);
    expect("no lookups");
}

Test(cli_top, a_follower_shows_its_lag_and_one_that_starts_shows_little) {
    draw("{}", "{\"role\":\"follower\",\"serving\":true,\"stats\":{},\"connected\":true,\"lag_lsn\":12,"
               "\"lag_ms\":34}");
    expect("connected to its primary: 12 writes, 34 ms behind");
    draw("{}", "{\"version\":\"1.2.3\",\"serving\":false}");
    expect("h:1: starting, NOT SERVING, no database, version 1.2.3");
    cr_expect_null(strstr(screen, "LOG"));
}

Test(cli_top, what_a_server_says_does_nothing_to_the_terminal) {
    draw("{}", "{\"now_us\":1000000,\"role\":\"\\u001b[2J\",\"version\":\"a\\nb\",\"stats\":{},\"methods\":["
               "{\"service\":\"x.\\u001b]0;y\",\"method\":\"z\\u0007\",\"count\":5,\"failed\":0,\"us\":[]}],"
               "\"replicas\":[]}");
    expect("\\x1b[2J");
    expect("a\\x0ab");
    expect("?]0;y.z?");
    cr_expect_null(strchr(screen, '\033'));
}
