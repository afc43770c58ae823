#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/log.h"
#include "rpc/config.h"
#include "tests/support/tempdir.h"

TestSuite(server_config, .fini = vv_tempdir_cleanup);

static vv_server_config config;
static vv_server_action action;
static vv_error err;
static char max_value[64];

#define LIST(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static bool load(const char *const *argv, const char *const *environment) {
    varve_options *engine = varve_options_create();
    err.text[0] = '\0';
    vv_status st = vv_server_config_load(argv, environment, &config, engine, &action, &err);
    varve_options_get(engine, "MAX_VALUE_SIZE", max_value, sizeof max_value);
    varve_options_destroy(engine);
    cr_assert_eq(vv_ok(st), err.text[0] == '\0', "words exactly when it fails: %s", err.text);
    return vv_ok(st);
}

/* A flag "--config=<file with this text>". */
static const char *file_flag(const char *text) {
    static char flag[600];
    const char *path = vv_tempdir_path("varved.conf");
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    snprintf(flag, sizeof flag, "--config=%s", path);
    return flag;
}

Test(server_config, defaults_serve_loopback_and_data_beside_the_caller) {
    cr_assert(load(LIST(), LIST("HOME=/root")));
    cr_assert_eq(action, VV_SERVER_RUN);
    cr_assert_str_eq(config.data, "./data");
    cr_assert_eq(config.listen_count, 1);
    cr_assert_str_eq(config.listen[0], "127.0.0.1:7700");
    cr_assert_eq(config.drain_timeout_us, 10000000);
    cr_assert_eq(config.rpc_threads, 0);
    cr_assert_eq(config.log_level, VV_LOG_INFO);
    cr_assert_eq(config.log_format, 0);
    cr_assert_eq(config.log_lines_per_second, 200);
    cr_assert_eq(config.access_log_sample, 0);
    cr_assert_eq(config.slow_call_us, 1000000);
}

Test(server_config, flags_win_over_the_environment_and_that_over_the_file) {
    const char *file =
        file_flag("DRAIN_TIMEOUT = 1s\nRPC_THREADS = 1\ndata = /file\nmax-value-size = 1MiB\n");
    cr_assert(load(LIST(file, "--rpc-threads=3", "--DATA", "/flag"),
                   LIST("VARVE_RPC_THREADS=2", "VARVE_MAX_VALUE_SIZE=2MiB", "VARVE_DATA=/env")),
              "%s", err.text);
    cr_assert_eq(config.drain_timeout_us, 1000000);
    cr_assert_eq(config.rpc_threads, 3);
    cr_assert_str_eq(config.data, "/flag");
    cr_assert_str_eq(max_value, "2MiB");
}

Test(server_config, addresses_of_a_higher_source_replace_and_of_the_same_add) {
    const char *file = file_flag("LISTEN = 127.0.0.1:1\nLISTEN = 127.0.0.1:2\n");
    cr_assert(load(LIST(file), LIST()), "%s", err.text);
    cr_assert_eq(config.listen_count, 2);
    cr_assert(load(LIST(file, "--listen", "[::1]:0", "--listen=unix:/tmp/a,localhost:7"),
                   LIST("VARVE_LISTEN=a:1")));
    cr_assert_eq(config.listen_count, 3);
    cr_assert_str_eq(config.listen[0], "[::1]:0");
    cr_assert_str_eq(config.listen[1], "unix:/tmp/a");
    cr_assert_str_eq(config.listen[2], "localhost:7");
    cr_assert(load(LIST(file), LIST("VARVE_LISTEN=a:1")));
    cr_assert_eq(config.listen_count, 1);
    cr_assert_str_eq(config.listen[0], "a:1");
}

Test(server_config, what_is_no_address_is_refused) {
    static const char *const bad[] = {
        "",         "localhost", ":7700", "localhost:", "localhost:65536", "localhost:7x", "unix:",
        "::1:7700", "a:1,",      "a:-1",  ",a:1"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(bad); i++) {
        cr_expect_not(load(LIST("--listen", bad[i]), LIST()), "accepted '%s'", bad[i]);
        cr_expect_not_null(strstr(err.text, "HOST:PORT"), "%s", err.text);
    }
    char long_address[300];
    memset(long_address, 'a', sizeof long_address);
    memcpy(long_address, "unix:", 5);
    long_address[299] = '\0';
    cr_expect_not(load(LIST("--listen", long_address), LIST()));
}

Test(server_config, a_refusal_names_where_the_key_the_value_and_what_is_allowed) {
    cr_assert_not(load(LIST("--rpc-threads=99"), LIST()));
    cr_assert_str_eq(err.text, "flag --rpc-threads=99: RPC_THREADS = 99: allowed is a number from 0 to 64");
    cr_assert_not(load(LIST(), LIST("VARVE_DRAIN_TIMEOUT=10")));
    cr_assert_str_eq(err.text,
                     "environment VARVE_DRAIN_TIMEOUT=10: DRAIN_TIMEOUT = 10: allowed is a duration from "
                     "0us to 3600s");
    const char *file = file_flag("# a comment\n\n  LOG_LEVEL = loud ; is it?\n");
    cr_assert_not(load(LIST(file), LIST()));
    cr_assert_not_null(
        strstr(err.text, "varved.conf:3: LOG_LEVEL = loud: allowed is one of debug, info, warn, error"), "%s",
        err.text);
    cr_assert_not(load(LIST("--block-size=7"), LIST()), "a key of the engine");
    cr_assert_not_null(strstr(err.text, "BLOCK_SIZE = 7: allowed is"), "%s", err.text);
}

Test(server_config, unknown_keys_stop_the_start_wherever_they_stand) {
    cr_assert_not(load(LIST("--memtable-sise=1MiB"), LIST()));
    cr_assert_not_null(
        strstr(err.text, "flag --memtable-sise=1MiB: memtable-sise: unknown configuration key"), "%s",
        err.text);
    cr_assert_not(load(LIST(), LIST("VARVE_FOO=1")));
    cr_assert_not_null(strstr(err.text, "environment VARVE_FOO=1"), "%s", err.text);
    const char *file = file_flag("FOO = 1\n");
    cr_assert_not(load(LIST(file), LIST()));
    cr_assert_not_null(strstr(err.text, "varved.conf:1: FOO"), "%s", err.text);
    cr_assert_not(load(LIST("data"), LIST()), "an argument that is no flag");
    cr_assert_not(load(LIST("--data"), LIST()), "a flag without its value");
    cr_assert_not(load(LIST("--=x"), LIST()));
}

Test(server_config, a_bad_value_counts_even_where_a_good_one_hides_it) {
    const char *file = file_flag("RPC_THREADS = many\n");
    cr_assert_not(load(LIST(file, "--rpc-threads=1"), LIST()));
}

Test(server_config, variables_of_others_are_left_alone) {
    cr_assert(load(LIST(), LIST("VARVE_SERVER=x", "VARVE_TEST_SEED=1", "VARVE_SERVICE_HOST=10.0.0.1",
                                "VARVE_PORT_7700_TCP=tcp://10.0.0.1:7700", "VARVE", "PATH=/bin")),
              "%s", err.text);
}

Test(server_config, files_are_read_as_people_write_them) {
    const char *file = file_flag("\xef\xbb\xbf# varved\r\n; and so\r\nRPC_THREADS=4\r\n\r\n"
                                 "   drain-timeout =   250ms   # not long\nDATA = /a b#c\n");
    cr_assert(load(LIST(file), LIST()), "%s", err.text);
    cr_assert_eq(config.rpc_threads, 4);
    cr_assert_eq(config.drain_timeout_us, 250000);
    cr_assert_str_eq(config.data, "/a b#c");
}

Test(server_config, broken_files_are_refused_with_their_line) {
    const char *file = file_flag("RPC_THREADS = 1\nnonsense\n");
    cr_expect_not(load(LIST(file), LIST()));
    cr_expect_not_null(strstr(err.text, "varved.conf:2: allowed is KEY = VALUE"), "%s", err.text);
    file = file_flag("[server]\nRPC_THREADS = 1\n");
    cr_expect_not(load(LIST(file), LIST()));
    cr_expect_not_null(strstr(err.text, "there are no sections"), "%s", err.text);
    char text[1000];
    memset(text, 'x', sizeof text);
    memcpy(text, "\nDATA = ", 8);
    text[999] = '\0';
    file = file_flag(text);
    cr_expect_not(load(LIST(file), LIST()));
    cr_expect_not_null(strstr(err.text, "varved.conf:2: the line is too long"), "%s", err.text);
    cr_expect_not(load(LIST("--config=/nonexistent/varved.conf"), LIST()));
    cr_expect_not_null(strstr(err.text, "/nonexistent/varved.conf: No such file"), "%s", err.text);
    cr_expect_not(load(LIST("--config", vv_tempdir()), LIST()), "a directory");
}

Test(server_config, the_file_may_be_named_in_the_environment) {
    const char *file = file_flag("RPC_THREADS = 5\n");
    char variable[700];
    snprintf(variable, sizeof variable, "VARVE_CONFIG=%s", strchr(file, '=') + 1);
    cr_assert(load(LIST(), LIST(variable)), "%s", err.text);
    cr_assert_eq(config.rpc_threads, 5);
}

Test(server_config, help_and_version_look_at_nothing_else) {
    cr_assert(load(LIST("--nonsense", "--help"), LIST("VARVE_FOO=1")));
    cr_assert_eq(action, VV_SERVER_HELP);
    cr_assert(load(LIST("--version"), LIST()));
    cr_assert_eq(action, VV_SERVER_VERSION);
}

Test(server_config, help_lists_the_keys_of_server_and_engine) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    vv_server_config_help(f);
    fclose(f);
    static const char *const words[] = {"LISTEN",           "DATA",          "DRAIN_TIMEOUT", "10s",
                                        "RPC_MEMORY_QUOTA", "MAX_VALUE_SIZE"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(words); i++)
        cr_expect_not_null(strstr(text, words[i]), "%s", words[i]);
    free(text);
}

Test(server_config, keys_that_need_each_other_are_checked_together) {
    static const struct {
        const char *flags[4];
        const char *words; /* NULL: it is fine */
    } cases[] = {
        {{"--tls-cert=c"}, "TLS_KEY"},
        {{"--tls-key=k"}, "TLS_CERT"},
        {{"--tls-client-ca=a"}, "TLS_CLIENT_CA = a: it needs"},
        {{"--tls-cert=c", "--tls-key=k", "--tls-client-ca=a"}, NULL},
        {{"--certificate-roles=read"}, "needs TLS_CLIENT_CA"},
        {{"--certificate-roles=reed"}, "CERTIFICATE_ROLES = reed"},
        {{"--certificate-roles="}, "CERTIFICATE_ROLES"},
        {{"--tls-client-auth=maybe"}, "require, optional"},
        {{"--unix-socket-mode=0777"}, "0600, 0660, 0666"},
        {{"--tokens-file=t"}, NULL},
        {{"--tokens-file=t", "--listen=unix:/s,127.1.2.3:1,[::1]:1,localhost:1"}, NULL},
        {{"--tokens-file=t", "--listen=127.0.0.1:1,0.0.0.0:1"}, "LISTEN = 0.0.0.0:1: with TOKENS_FILE"},
        {{"--tokens-file=t", "--listen=localhost.example:1"}, "TLS_CERT"},
        {{"--tokens-file=t", "--listen=0.0.0.0:1", "--plaintext-tokens=yes"}, NULL},
        {{"--tokens-file=t", "--listen=[::]:1", "--tls-cert=c", "--tls-key=k"}, NULL},
        {{"--listen=0.0.0.0:1"}, NULL},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        const char *argv[5] = {NULL};
        memcpy(argv, cases[i].flags, sizeof cases[i].flags);
        bool loaded = load(argv, LIST());
        cr_expect_eq(loaded, cases[i].words == NULL, "%s: %s", argv[0], err.text);
        if (cases[i].words)
            cr_expect_not_null(strstr(err.text, cases[i].words), "%s", err.text);
    }
}

Test(server_config, whom_to_follow_and_the_others_of_the_group) {
    cr_assert(load(LIST(), LIST()));
    cr_assert_str_empty(config.follow);
    cr_assert_eq(config.peer_count, 0);
    cr_assert_eq(config.replication_timeout_us, 5000000);
    cr_assert_eq(config.fetch_parallel, 4);
    const char *file = file_flag("FOLLOW = a:1\nPEERS = a:1,b:2\n");
    cr_assert(load(LIST(file, "--follow", "unix:/tmp/a"), LIST()), "%s", err.text);
    cr_assert_str_eq(config.follow, "unix:/tmp/a");
    cr_assert_eq(config.peer_count, 2);
    cr_assert_str_eq(config.peers[0], "a:1");
    cr_assert_str_eq(config.peers[1], "b:2");
    cr_assert(load(LIST(file, "--follow=", "--peers=c:3"), LIST()), "%s", err.text);
    cr_assert_str_empty(config.follow, "nobody, in spite of the file");
    cr_assert_eq(config.peer_count, 1);
    cr_assert_str_eq(config.peers[0], "c:3");
    cr_assert(load(LIST(file, "--peers="), LIST()), "%s", err.text);
    cr_assert_eq(config.peer_count, 0);
}

static void expect_refusal(const char *words, const char *const *argv) {
    cr_expect_not(load(argv, LIST()), "accepted: %s", words);
    cr_expect_not_null(strstr(err.text, words), "not '%s' but: %s", words, err.text);
}

Test(server_config, whom_nobody_can_follow) {
    expect_refusal("FOLLOW = a: allowed is HOST:PORT", LIST("--follow=a"));
    expect_refusal("FOLLOW = a:0: allowed is HOST:PORT", LIST("--follow=a:0"));
    expect_refusal("FOLLOW = a:1,b:2: allowed is HOST:PORT", LIST("--follow=a:1,b:2"));
    expect_refusal("FOLLOW = 127.0.0.1:7700: this server listens there", LIST("--follow=127.0.0.1:7700"));
    expect_refusal("PEERS: this server listens on unix:/a itself",
                   LIST("--listen=unix:/a", "--peers=b:1,unix:/a"));
    expect_refusal("PEERS = : allowed is HOST:PORT", LIST("--peers=b:1,"));
    expect_refusal("PEERS: b:1 is there twice", LIST("--peers=b:1,b:1"));
    expect_refusal(
        "at most 16 addresses",
        LIST("--peers=a:1,a:2,a:3,a:4,a:5,a:6,a:7,a:8,a:9,a:10,a:11,a:12,a:13,a:14,a:15,a:16,a:17"));
    expect_refusal("REPLICATION_TIMEOUT: allowed is more than REPLICATION_HEARTBEAT",
                   LIST("--follow=a:1", "--replication-timeout=500ms"));
    expect_refusal("each needs the other", LIST("--follow=a:1", "--follow-tls-cert=/c"));
    expect_refusal("FOLLOW = a:1: with FOLLOW_TOKEN_FILE", LIST("--follow=a:1", "--follow-token-file=/t"));
    expect_refusal("PEERS = a:1: with FOLLOW_TOKEN_FILE", LIST("--peers=a:1", "--follow-token-file=/t"));
    expect_refusal("BACKUP_DIR = /no/dir: No such file", LIST("--BACKUP_DIR=/no/dir"));
    expect_refusal("BACKUP_DIR = /dev/null: Not a directory", LIST("--BACKUP_DIR=/dev/null"));
    expect_refusal("FOLLOW_TOKEN_FILE = /no/t: it can't be read: No such file",
                   LIST("--follow=127.0.0.1:1", "--follow-token-file=/no/t"));
    expect_refusal("FOLLOW_TLS_CA = /: it can't be read", LIST("--peers=a:1", "--follow-tls-ca=/"));
    cr_expect(load(LIST("--follow-tls-ca=/no/t"), LIST()), "%s", err.text); /* nobody is called */
    cr_expect(load(LIST("--follow=127.0.0.1:1", "--follow-token-file=/etc/passwd"), LIST()), "%s", err.text);
    cr_expect(
        load(LIST("--follow=a:1", "--follow-token-file=/etc/passwd", "--follow-tls-ca=/etc/passwd"), LIST()),
        "%s", err.text);
}

/* ---- --print-config ---- */

/* What is printed for these; to be freed. NULL: they are refused. */
static char *printed(const char *const *argv, const char *const *environment) {
    char *text = NULL;
    size_t bytes = 0;
    varve_options *engine = varve_options_create();
    err.text[0] = '\0';
    if (vv_ok(vv_server_config_load(argv, environment, &config, engine, &action, &err))) {
        FILE *f = open_memstream(&text, &bytes);
        vv_server_config_print(f, &config, engine);
        fclose(f);
    }
    varve_options_destroy(engine);
    return text;
}

static bool has_line(const char *text, const char *line) {
    const char *at = strstr(text, line);
    return at && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n';
}

Test(server_config, what_is_printed_says_each_value_and_who_set_it) {
    const char *file = file_flag("\nrpc-threads = 3\nPEERS = a:1,b:2\nDATA = /file\n");
    char *text =
        printed(LIST(file, "--print-config", "--listen=[::1]:0,unix:/tmp/a", "--memtable-size=131072KiB"),
                LIST("VARVE_DATA=/environment", "HOME=/root"));
    cr_assert(text, "%s", err.text);
    cr_assert_eq(action, VV_SERVER_PRINT_CONFIG);
    char line[700];
    snprintf(line, sizeof line, "RPC_THREADS = 3 # %s:2", file + strlen("--config="));
    cr_assert(has_line(text, line), "%s", text);
    snprintf(line, sizeof line, "PEERS = a:1,b:2 # %s:3", file + strlen("--config="));
    cr_assert(has_line(text, line), "%s", text);
    cr_assert(has_line(text, "DATA = /environment # environment"), "%s", text);
    cr_assert(has_line(text, "LISTEN = [::1]:0,unix:/tmp/a # flag"), "%s", text);
    cr_assert(has_line(text, "MEMTABLE_SIZE = 128MiB # flag"), "%s", text);
    cr_assert(has_line(text, "#QUORUM = 0"), "%s", text);
    cr_assert(has_line(text, "#FOLLOW = "), "%s", text);
    free(text);
    cr_assert_null(printed(LIST("--print-config", "--quorum=-1"), LIST()), "all is checked");
    cr_assert_null(printed(LIST("--print-config=1"), LIST()), "it has no value");
}

/* Each value as the file takes it, the empty ones too. */
Test(server_config, what_is_printed_is_a_file_that_says_the_same) {
    char *first =
        printed(LIST("--print-config", "--quorum=2", "--compression=zstd"), LIST("VARVE_PEERS=a:1"));
    cr_assert(first, "%s", err.text);
    char *all = strdup(first);
    size_t keys = 0;
    for (char *line = all; line; line = strchr(line + 1, '\n')) {
        char *at = *line == '\n' ? line + 1 : line;
        if (at[0] == '#' && at[1] != ' ') {
            at[0] = ' ';
            keys++;
        }
    }
    cr_assert_gt(keys, 60);
    const char *path = vv_tempdir_path("all.conf");
    FILE *f = fopen(path, "w");
    fputs(all, f);
    fclose(f);
    char *second = printed(LIST("--print-config", "--config", path), LIST());
    cr_assert(second, "%s", err.text);
    for (const char *a = first, *b = second; *a && *b;) {
        size_t a_bytes = strcspn(a, "\n"), b_bytes = strcspn(b, "\n");
        const char *a_key = a + (a[0] == '#' && a[1] != ' '), *b_key = b;
        if (*a_key != '#') {
            size_t value_bytes = strcspn(a_key, "\n#");
            cr_assert_eq(strncmp(a_key, b_key, value_bytes), 0, "%.*s became %.*s", (int)a_bytes, a,
                         (int)b_bytes, b);
        }
        a += a_bytes + (a[a_bytes] == '\n');
        b += b_bytes + (b[b_bytes] == '\n');
    }
    free(first);
    free(all);
    free(second);
}
