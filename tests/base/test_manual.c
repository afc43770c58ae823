#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/manual.h"

static void make(bool roff, char **text) {
    size_t bytes;
    vv_manual m = {.out = open_memstream(text, &bytes), .roff = roff};
    vv_manual_begin(&m, "x", 1, "1.2", "x - does 'it'");
    vv_manual_heading(&m, "Options");
    vv_manual_text(&m,
                   "Words that are too many for one line are wrapped between two of them, as here: done.\n"
                   "Next.\n\n    as  it is\n\n.Not a \\macro-\n");
    vv_manual_item(&m, "--long-option NAME", "what it means", 8);
    vv_manual_item(&m, "-x", "what it means", 8);
    fclose(m.out);
}

Test(manual, for_a_terminal) {
    char *text;
    make(false, &text);
    cr_expect_str_eq(text, "\nOptions:\n"
                           "Words that are too many for one line are wrapped between two of them, as here:\n"
                           "done.\nNext.\n\n    as  it is\n\n.Not a \\macro-\n"
                           "  --long-option NAME\n        what it means\n"
                           "  -x    what it means\n");
    free(text);
}

Test(manual, as_a_page) {
    char *text;
    make(true, &text);
    cr_expect_str_eq(text, ".TH X 1 \"\" \"Varve 1.2\" \"Varve\"\n.SH \"NAME\"\nx \\- does \\(aqit\\(aq\n"
                           ".SH \"OPTIONS\"\n"
                           "Words that are too many for one line are wrapped between two of them, as here: "
                           "done.\n.br\nNext.\n.PP\n.nf\n    as  it is\n.fi\n.PP\n\\&.Not a \\emacro\\-\n"
                           ".TP\n.B \\-\\-long\\-option NAME\nwhat it means\n.TP\n.B \\-x\nwhat it means\n");
    free(text);
}
