/*
 * main.c - runs a fuzz target over files and directories of files, for builds without libFuzzer.
 *
 *     fuzz_wal tests/fuzz/corpus/wal build/fuzz/crashes/wal-1234
 */
#include <dirent.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static unsigned long run_count;

static void run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    FUZZ_CHECK(file, "%s", path);
    struct stat st;
    FUZZ_CHECK(fstat(fileno(file), &st) == 0, "%s", path);
    /* Exactly as long as the input, so that reading behind its end is seen. */
    size_t bytes = (size_t)st.st_size;
    uint8_t *data = malloc(bytes ? bytes : 1);
    FUZZ_CHECK(data && fread(data, 1, bytes, file) == bytes, "%s", path);
    fclose(file);
    /* Before it runs: if it crashes, this is the last that is heard of. */
    printf("%s\n", path);
    fflush(stdout);
    (void)LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    run_count++;
}

static void run_path(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) {
        run_file(path);
        return;
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char name[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        run_file(name);
    }
    closedir(dir);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    printf("%lu inputs\n", run_count);
    return run_count > 0 ? 0 : 2;
}
