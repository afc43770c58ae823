#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void vv_assert_failed(const char *expr, const char *file, int line) {
    fprintf(stderr, "varve: assertion failed at %s:%d: %s\n", file, line, expr);
    abort();
}
