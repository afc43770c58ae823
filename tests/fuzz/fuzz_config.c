/*
 * fuzz_config.c - what operators write: varved's configuration file, flags and environment, with the keys
 * of server and engine; the tokens file; the limits file; the file that remembers a role.
 *
 *   input   [what:1][text]
 *
 *   what    0: the configuration file    1: flags, one a line    2: environment, one a line
 *           3: TOKENS_FILE    4: RATE_LIMITS_FILE    5: DATA/ROLE
 *           6: options of the engine, KEY=VALUE a line
 *
 * What holds for any bytes: it is taken, or refused with words. The value of every option of the engine
 * that was taken can be formatted, and setting it to that changes nothing. Bound: no allocation is larger
 * than 16 times the text and 1 MiB.
 *
 * Files are in /dev/shm, in a directory of this process's.
 */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rpc/config.h"
#include "rpc/grants.h"
#include "rpc/limits.h"
#include "rpc/role_file.h"
#include "tests/fuzz/fuzz.h"

#define LINES_MAX 64

enum { FROM_FILE, FLAGS, ENVIRONMENT, TOKENS, LIMITS, ROLE, ENGINE, WHATS };

static char directory[64];

static void remove_directory(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/" VV_ROLE_FILE_NAME, directory);
    unlink(path);
    rmdir(directory);
}

/* The one file, by the name that role_file.h wants. */
static const char *put_file(vv_slice text) {
    static char path[128];
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/dev/shm/varve-fuzz-XXXXXX");
        FUZZ_CHECK(mkdtemp(directory));
        atexit(remove_directory);
    }
    snprintf(path, sizeof path, "%s/" VV_ROLE_FILE_NAME, directory);
    FILE *file = fopen(path, "wb");
    FUZZ_CHECK(file && fwrite(text.data ? text.data : "", 1, text.bytes, file) == text.bytes);
    FUZZ_CHECK(fclose(file) == 0);
    return path;
}

/* At most LINES_MAX lines as strings, which point into `text`; NULL-terminated. */
static void split(char *text, const char *lines[LINES_MAX + 1]) {
    size_t count = 0;
    for (char *rest = text, *line; count < LINES_MAX && (line = strsep(&rest, "\n")) != NULL;)
        lines[count++] = line;
    lines[count] = NULL;
}

/* Formatted and set again, every option of the engine is what it was. */
static void go_round(varve_options *o) {
    varve_option_info info;
    for (size_t i = 0; varve_options_describe(i, &info); i++) {
        char value[256], again[256];
        varve_error err;
        FUZZ_CHECK(varve_options_get(o, info.key, value, sizeof value));
        varve_status st = varve_options_set(o, info.key, value, &err);
        FUZZ_CHECK(varve_ok(st), "%s", err.text);
        FUZZ_CHECK(varve_options_get(o, info.key, again, sizeof again) && strcmp(value, again) == 0, "%s %s",
                   value, again);
    }
}

static void server(const char *const *flags, const char *const *environment) {
    vv_server_config *config = malloc(sizeof *config);
    varve_options *engine = varve_options_create();
    vv_server_action action;
    vv_error err = {""};
    FUZZ_CHECK(config && engine);
    vv_status st = vv_server_config_load(flags, environment, config, engine, &action, &err);
    FUZZ_CHECK(vv_ok(st) || err.text[0]);
    if (vv_ok(st) && action == VV_SERVER_RUN) {
        FUZZ_CHECK(config->listen_count >= 1 && config->listen_count <= VV_SERVER_ADDRESSES_MAX);
        FUZZ_CHECK(config->peer_count <= VV_SERVER_PEERS_MAX);
        go_round(engine);
    }
    varve_options_destroy(engine);
    free(config);
}

static void engine_options(const char *const *lines) {
    varve_options *o = varve_options_create();
    FUZZ_CHECK(o);
    for (; *lines; lines++) {
        char key[128];
        varve_error err = {""};
        size_t key_bytes = strcspn(*lines, "=");
        snprintf(key, sizeof key, "%.*s", (int)VV_MIN(key_bytes, sizeof key - 1), *lines);
        const char *value = *lines + key_bytes;
        varve_status st = varve_options_set(o, key, *value ? value + 1 : value, &err);
        FUZZ_CHECK(varve_ok(st) || err.text[0]);
    }
    go_round(o);
    varve_options_destroy(o);
}

/* A table of users is large to make: it is used for some runs, which leave their users in it. */
static vv_users *users(void) {
    static vv_users table;
    static unsigned run_count;
    if (run_count++ % 64 == 0) {
        vv_user_limits none = {0};
        vv_users_deinit(&table);
        memset(&table, 0, sizeof table);
        vv_status st = vv_users_init(&table, &none, NULL);
        FUZZ_CHECK(vv_ok(st));
    }
    return &table;
}

static void tokens(const char *path) {
    vv_grants *grants = NULL;
    vv_error err = {""};
    vv_status st = vv_grants_load(path, users(), &grants, &err);
    FUZZ_CHECK(vv_ok(st) || err.text[0]);
    if (!vv_ok(st))
        return;
    (void)vv_grants_certificate(grants, "alice");
    for (size_t i = 0; i < grants->token_count; i++)
        FUZZ_CHECK(vv_grants_token(grants, grants->tokens[i].digest));
    vv_grants_destroy(grants);
}

static void limits(const char *path) {
    vv_limits *l = NULL;
    vv_user_limits none = {0};
    vv_error err = {""};
    vv_status st = vv_limits_load(path, &none, &l, &err);
    FUZZ_CHECK(vv_ok(st) || err.text[0]);
    if (!vv_ok(st))
        return;
    vv_limits_apply(l, &none, users());
    vv_limits_destroy(l);
}

static void role(void) {
    vv_role_file f, again;
    vv_error err = {""};
    vv_status st = vv_role_file_read(directory, &f, &err);
    FUZZ_CHECK(vv_ok(st) || err.text[0]);
    if (!vv_ok(st))
        return;
    st = vv_role_file_write(directory, &f, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
    st = vv_role_file_read(directory, &again, &err);
    FUZZ_CHECK(vv_ok(st) && f.role == again.role && f.epoch == again.epoch &&
               strcmp(f.follow, again.follow) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    unsigned what = vv_read_u8(&r) % WHATS;
    vv_slice text = fuzz_rest(&r);
    char *copy = malloc(text.bytes + 1);
    const char *lines[LINES_MAX + 1], *none[] = {NULL};
    FUZZ_CHECK(copy);
    memcpy(copy, text.bytes ? text.data : "", text.bytes);
    copy[text.bytes] = '\0';
    const char *path = what == FROM_FILE || (what >= TOKENS && what <= ROLE) ? put_file(text) : NULL;
    split(copy, lines);
    fuzz_allocation_max(16 * bytes + ((size_t)1 << 20));
    switch (what) {
    case FROM_FILE: {
        const char *flags[] = {"--config", path, NULL};
        server(flags, none);
        break;
    }
    case FLAGS: server(lines, none); break;
    case ENVIRONMENT: server(none, lines); break;
    case TOKENS: tokens(path); break;
    case LIMITS: limits(path); break;
    case ROLE: role(); break;
    default: engine_options(lines); break;
    }
    fuzz_allocation_max(0);
    free(copy);
    return 0;
}
