#include "tests/support/tempdir.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_DIRS 16

static char dirs[MAX_DIRS][256];
static int dir_count;

const char *vv_tempdir(void) {
    const char *base = getenv("TMPDIR");
    if (dir_count == MAX_DIRS)
        abort();
    char *dir = dirs[dir_count++];
    snprintf(dir, sizeof dirs[0], "%s/varve-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(dir)) {
        perror(dir);
        abort();
    }
    return dir;
}

const char *vv_tempdir_path(const char *name) {
    static char paths[16][512];
    static int turn;
    if (dir_count == 0)
        vv_tempdir();
    char *path = paths[turn++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", dirs[dir_count - 1], name);
    return path;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void vv_tempdir_cleanup(void) {
    while (dir_count > 0)
        nftw(dirs[--dir_count], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

uint64_t vv_test_seed(void) {
    const char *text = getenv("VARVE_TEST_SEED");
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    uint64_t seed =
        text && *text ? strtoull(text, NULL, 0) : ((uint64_t)ts.tv_nsec << 20 ^ (uint64_t)ts.tv_sec);
    if (seed == 0)
        seed = 1;
    fprintf(stderr, "VARVE_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

uint64_t vv_test_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}
