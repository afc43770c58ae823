#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/progress.h"

static void expect_text(uint64_t done, uint64_t total, double rate, const char *expected) {
    char text[200];
    vv_progress_text(text, sizeof text, "x", done, total, rate);
    cr_expect_str_eq(text, expected);
}

Test(cli_progress, is_a_bar_with_figures) {
    expect_text(0, 1000, 0, "x: [........................]   0 %, 0 B of 1000 B, 0 B/s");
    expect_text(512, 1024, 1536, "x: [############............]  50 %, 512 B of 1.0 KiB, 1.5 KiB/s");
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
