#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/progress.h"

static void expect_text(uint64_t done, uint64_t total, double rate, const char *expected) {
    char text[200];
    vv_progress_text(text, sizeof text, "x", done, total, rate);
    cr_expect_str_eq(text, expected);
}

Test(cli_progress, is_a_bar_with_figures) {
    expect_text(0, 1000, 0, "x: [........................]   0 %, 0 B of 1000 B, 0 B/s");
    expect_text(512, 1024, 1536, "x: [############............]  50 %, 512 B of 1.0 KiB, 1.5 KiB/s");
    expect_text(512, 1024, 100, "x: [############............]  50 %, 512 B of 1.0 KiB, 100 B/s, 0:05 left");
    expect_text(0, 3661, 1, "x: [........................]   0 %, 0 B of 3.6 KiB, 1 B/s, 1:01:01 left");
    expect_text(3 << 20, 2 << 20, 1 << 20,
                "x: [########################] 100 %, 3.0 MiB of 2.0 MiB, 1.0 MiB/s");
    expect_text((uint64_t)5 << 40, 0, 0, "x: 5.0 TiB, 0 B/s");
}

Test(cli_progress, is_for_terminals_alone) {
    char *text;
    size_t bytes;
    vv_progress p;
    FILE *out = open_memstream(&text, &bytes);
    vv_progress_begin(&p, out, "x");
    cr_expect(vv_progress_show(&p, 1, 2));
    vv_progress_end(&p);
    fclose(out);
    cr_expect_eq(bytes, 0);
    free(text);
}

Test(cli_progress, is_a_line_now_and_then_where_that_was_asked_for) {
    char *text;
    size_t bytes;
    vv_progress p;
    FILE *out = open_memstream(&text, &bytes);
    vv_progress_begin(&p, out, "x");
    p.plain_ns = 1;
    vv_progress_show(&p, 0, 2); /* time begins */
    for (uint64_t start_ns = vv_clock_mono_ns(); vv_clock_mono_ns() < start_ns + 2;) {
    }
    vv_progress_show(&p, 1, 2);
    vv_progress_end(&p);
    fclose(out);
    cr_expect(strstr(text, "x: [############............]  50 %, 1 B of 2 B"), "%s", text);
    cr_expect_null(strchr(text, '\033'));
    cr_expect_eq(text[bytes - 1], '\n');
    free(text);
}
