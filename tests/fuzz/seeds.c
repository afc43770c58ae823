/*
 * seeds.c - writes seed inputs for all targets: fuzz_seeds DIR. They are what the engine and the server
 * write themselves, small. `./dev fuzz --seeds` runs it and merges what is new into the committed corpora.
 */
#include "tests/fuzz/seeds.h"

#include <errno.h>
#include <sys/stat.h>

static const char *directory;

void seed_write(seed *s, const char *target, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", directory, target);
    FUZZ_CHECK(mkdir(path, 0755) == 0 || errno == EEXIST, "%s", path);
    snprintf(path, sizeof path, "%s/%s/%s", directory, target, name);
    FILE *file = fopen(path, "wb");
    FUZZ_CHECK(file && fwrite(s->data, 1, s->bytes, file) == s->bytes && fclose(file) == 0, "%s", path);
    vv_sst_buffer_deinit(s);
    *s = (seed){0};
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_seeds DIRECTORY\n");
        return 2;
    }
    directory = argv[1];
    seeds_engine();
    seeds_server();
    return 0;
}
