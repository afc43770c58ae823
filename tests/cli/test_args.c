#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"

#define ARGS_MAX 16

static vv_cli_args args;
static char *out_text;
static char *err_text;

/* Parse "varve" and the words of `line`, which spaces separate. */
static vv_cli_parsed parse_env(const char *line, const char *server_env) {
    static char words[512];
    static char *argv[ARGS_MAX + 1];
    static char name[] = "varve";
    int argc = 0;
    snprintf(words, sizeof words, "%s", line);
    argv[argc++] = name;
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        cr_assert_lt(argc, ARGS_MAX);
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    free(out_text);
    free(err_text);
    size_t out_bytes, err_bytes;
    FILE *out = open_memstream(&out_text, &out_bytes), *err = open_memstream(&err_text, &err_bytes);
    vv_cli_parsed parsed =
        vv_cli_args_parse(argc, argv, &(vv_cli_environment){.server = server_env}, &args, out, err);
    fclose(out);
    fclose(err);
    return parsed;
}

static vv_cli_parsed parse(const char *line) {
    return parse_env(line, NULL);
}

static void expect_bad(const char *line, const char *words) {
    cr_expect_eq(parse(line), VV_CLI_BAD, "%s", line);
    cr_expect(strstr(err_text, words), "'%s' says: %s", line, err_text);
    cr_expect_str_empty(out_text);
}

static void free_texts(void) {
    free(out_text);
    free(err_text);
}

TestSuite(cli_args, .fini = free_texts);

Test(cli_args, options_may_stand_before_and_behind_the_command) {
    cr_assert_eq(parse("--json --server h:1 put k v --async --timeout 5s"), VV_CLI_RUN, "%s", err_text);
    cr_expect_eq(args.verb, VV_CLI_PUT);
    cr_expect(args.json && args.async && !args.hex);
    cr_expect_str_eq(args.server, "h:1");
    cr_expect_eq(args.timeout_us, 5000000);
    cr_expect_eq(args.operand_count, 2);
    cr_expect_str_eq(args.operands[0], "k");
    cr_expect_str_eq(args.operands[1], "v");
}

Test(cli_args, the_server_comes_from_flag_then_environment_then_default) {
    cr_assert_eq(parse_env("get k", NULL), VV_CLI_RUN);
    cr_expect_str_eq(args.server, "127.0.0.1:7700");
    cr_expect_eq(args.timeout_us, 30000000);
    cr_assert_eq(parse_env("get k", "unix:/run/v"), VV_CLI_RUN);
    cr_expect_str_eq(args.server, "unix:/run/v");
    cr_assert_eq(parse_env("get k --server [::1]:9", "unix:/run/v"), VV_CLI_RUN);
    cr_expect_str_eq(args.server, "[::1]:9");
    cr_assert_eq(parse_env("get k", ""), VV_CLI_RUN);
    cr_expect_str_eq(args.server, "127.0.0.1:7700");
    cr_assert_eq(parse_env("get k --data d", "unix:/run/v"), VV_CLI_RUN);
    cr_expect_null(args.server);
    cr_expect_str_eq(args.data, "d");
}

Test(cli_args, an_argument_that_begins_with_a_dash_stands_behind_two) {
    cr_assert_eq(parse("put --hex -- -k -v"), VV_CLI_RUN, "%s", err_text);
    cr_expect_str_eq(args.operands[0], "-k");
    cr_expect_str_eq(args.operands[1], "-v");
    cr_assert_eq(parse("put k -"), VV_CLI_RUN);
    cr_expect_str_eq(args.operands[1], "-");
    expect_bad("get -k", "goes behind --");
    expect_bad("get --nokey", "goes behind --");
}

Test(cli_args, what_a_command_does_not_take_is_refused) {
    expect_bad("", "which command");
    expect_bad("gett k", "no command 'gett'");
    expect_bad("observe", "no command 'observe'");
    expect_bad("get", "too few arguments");
    expect_bad("get a b", "too many arguments at 'b'");
    expect_bad("put a", "argument or in --value-file");
    expect_bad("put a b --value-file f", "argument or in --value-file");
    expect_bad("get a --value-file f", "does not take --value-file");
    expect_bad("get a --async", "does not take --async");
    expect_bad("health --hex", "does not take --hex");
    expect_bad("health --data d", "asks a server");
    expect_bad("status --data d", "asks a server");
    expect_bad("backup", "too few arguments");
    expect_bad("stats --link", "does not take --");
    expect_bad("verify d --incremental x", "does not take --");
    expect_bad("verify a b", "too many arguments");
    expect_bad("verify a --data b", "give one of them");
    expect_bad("verify a --server h:1", "--server does not go with it");
    expect_bad("backup x --async", "does not take --async");
    expect_bad("get a --data d --server h:1", "--server does not go with it");
    expect_bad("get a --data d --timeout 1s", "--timeout does not go with it");
    expect_bad("get a --server", "needs a value");
    expect_bad("get a --json=yes", "takes no value");
}

Test(cli_args, a_bad_address_or_time_names_what_is_allowed) {
    static const char *const wrong[] = {"host", "host:", ":1",   "h:0",  "h:65536",
                                        "h:x",  "h:1x",  "h:-1", "unix:"};
    char line[64];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(line, sizeof line, "get k --server %s", wrong[i]);
        expect_bad(line, "allowed is HOST:PORT or unix:PATH");
    }
    cr_expect_eq(parse_env("get k", "nonsense"), VV_CLI_BAD);
    cr_expect(strstr(err_text, "VARVE_SERVER 'nonsense'"), "%s", err_text);
    expect_bad("get k --timeout 5", "--timeout '5': allowed is a duration");
    expect_bad("get k --timeout 0s", "--timeout '0s'");
    expect_bad("get k --timeout never", "--timeout 'never'");
}

Test(cli_args, what_takes_long_has_no_limit_unless_it_is_given_one) {
    cr_expect_eq(parse("flush"), VV_CLI_RUN);
    cr_expect_eq(args.timeout_us, 0);
    cr_expect_eq(parse("backup monday --incremental sunday --link"), VV_CLI_RUN);
    cr_expect_eq(args.timeout_us, 0);
    cr_expect_str_eq(args.incremental, "sunday");
    cr_expect(args.link);
    cr_expect_eq(parse("verify --timeout 2s"), VV_CLI_RUN);
    cr_expect_eq(args.timeout_us, 2000000);
    cr_expect_not_null(args.server);
    cr_expect_eq(parse("verify dir"), VV_CLI_RUN);
    cr_expect_str_eq(args.data, "dir");
    cr_expect_null(args.server);
    cr_expect_eq(parse("status"), VV_CLI_RUN);
    cr_expect_neq(args.timeout_us, 0);
}

Test(cli_args, help_and_version_go_to_stdout) {
    cr_expect_eq(parse("--help"), VV_CLI_SHOWN);
    cr_expect(strstr(out_text, "Exit codes"));
    cr_expect_eq(parse("help"), VV_CLI_SHOWN);
    cr_expect_eq(parse("--version"), VV_CLI_SHOWN);
    cr_expect(strstr(out_text, "varve 0."));
    for (size_t i = 0; i < vv_cli_command_count; i++) {
        const vv_cli_command *c = &vv_cli_commands[i];
        char line[32];
        snprintf(line, sizeof line, "%s --help", c->name);
        cr_expect_eq(parse(line), VV_CLI_SHOWN, "%s", line);
        cr_expect(strstr(out_text, c->usage));
        snprintf(line, sizeof line, "help %s", c->name);
        cr_expect_eq(parse(line), VV_CLI_SHOWN, "%s", line);
        for (size_t j = 0; j < VV_CLI_USES_MAX && c->uses[j].help; j++) {
            snprintf(line, sizeof line, "  --%s", vv_cli_options[c->uses[j].id].name);
            cr_expect(strstr(out_text, line), "help %s: %s", c->name, line);
        }
        for (const char *at = out_text; *at; at += strcspn(at, "\n") + 1)
            cr_expect_leq(strcspn(at, "\n"), 80, "help %s: %.90s", c->name, at);
    }
    cr_expect_eq(parse("--help=man"), VV_CLI_SHOWN);
    cr_expect(strstr(out_text, ".TH VARVE 1"));
    cr_expect_str_empty(err_text);
    expect_bad("help nothing", "no command 'nothing'");
    expect_bad("--help=html", "allowed is --help=man");
}

Test(cli_args, what_is_for_a_server_goes_with_one) {
    cr_assert_eq(parse("get k --tls-ca a --tls-cert c --tls-key k --token-file t"), VV_CLI_RUN, "%s",
                 err_text);
    cr_expect_str_eq(args.tls_ca, "a");
    cr_expect_str_eq(args.token_file, "t");
    expect_bad("get k --tls-ca a --tls-cert c", "need each other");
    expect_bad("get k --tls-cert c --tls-key k", "needs --tls-ca");
    expect_bad("--data d get k --token-file t", "--token-file does not go with it");
}

Test(cli_args, a_token_is_made_for_a_name_and_known_roles) {
    cr_assert_eq(parse("token alice read,admin"), VV_CLI_RUN, "%s", err_text);
    cr_expect_eq(args.verb, VV_CLI_TOKEN);
    expect_bad("token alice", "too few");
    cr_assert_eq(parse("token node-2 replica"), VV_CLI_RUN, "%s", err_text);
    expect_bad("token alice reed", "ROLES 'reed'");
    expect_bad("token alice read,", "ROLES 'read,'");
    expect_bad("token al\"ice read", "USER");
    expect_bad("token alice read --server h:1", "neither");
}

Test(cli_args, watch_takes_a_range_and_where_to_begin) {
    cr_assert_eq(parse("watch --prefix p --start a --end b --from 7 --limit 3 --json"), VV_CLI_RUN, "%s",
                 err_text);
    cr_expect_eq(args.verb, VV_CLI_WATCH);
    cr_expect(args.from == 7 && args.limit == 3 && args.timeout_us == 0);
    cr_expect_str_eq(args.prefix, "p");
    expect_bad("watch --from 0", "--from");
    expect_bad("watch --from x", "--from");
    expect_bad("watch --reverse", "does not take --reverse");
    expect_bad("scan --from 3", "--from");
    expect_bad("get k --from 3", "--from");
    expect_bad("watch k", "too many arguments");
    expect_bad("--data d watch", "server");
}

/* ---- restore, promote, fetch ---- */

Test(cli_args, restore_asks_nobody) {
    cr_assert_eq(parse("restore b d --archive a --to-lsn 77 --link --json"), VV_CLI_RUN, "%s", err_text);
    cr_expect_eq(args.verb, VV_CLI_RESTORE);
    cr_expect(args.link && args.json && args.to_lsn == 77 && args.to_unix_ms == 0);
    cr_expect_str_eq(args.archive, "a");
    cr_expect_str_eq(args.operands[1], "d");
    cr_expect_null(args.server);
    cr_assert_eq(parse("restore b d --archive a --to-time 1970-01-01T00:01:00.5Z"), VV_CLI_RUN, "%s",
                 err_text);
    cr_expect_eq(args.to_unix_ms, 60500);
    expect_bad("restore b", "too few");
    expect_bad("restore b d --to-lsn 5", "--archive");
    expect_bad("restore b d --archive a --to-lsn 0", "--to-lsn '0'");
    expect_bad("restore b d --archive a --to-lsn 5 --to-time 5", "exclude");
    expect_bad("restore b d --archive a --to-time yesterday", "--to-time 'yesterday'");
    expect_bad("restore b d --data x", "neither a server nor a directory");
    expect_bad("backup b --archive a", "does not take --archive");
}

Test(cli_args, promote_and_fetch_ask_a_server) {
    cr_assert_eq(parse("promote --force --server h:1"), VV_CLI_RUN, "%s", err_text);
    cr_expect(args.verb == VV_CLI_PROMOTE && args.force);
    cr_assert_eq(parse("backup --fetch dir"), VV_CLI_RUN, "%s", err_text);
    cr_expect(args.verb == VV_CLI_BACKUP && args.fetch && args.timeout_us == 0);
    expect_bad("promote --data d", "asks a server");
    expect_bad("promote h:1", "too many");
    expect_bad("backup b --force", "--force");
    expect_bad("status --fetch", "does not take --fetch");
    expect_bad("backup b --fetch --link", "--fetch does not go with --link");
    expect_bad("backup b --fetch --data d", "--fetch does not go with --data");
}

/* ---- load, bench, top ---- */

Test(cli_args, numbers_have_defaults_and_bounds) {
    cr_assert_eq(parse("bench"), VV_CLI_RUN, "%s", err_text);
    cr_expect_null(args.workload);
    cr_expect(args.keys == 10000 && args.value_bytes == 64 && args.concurrency == 16 && args.rate == 0);
    cr_expect(args.duration_us == 10000000 && args.timeout_us == 0);
    cr_assert_eq(parse("bench --workload mixed --keys 5 --value-size 1KiB --concurrency 2 --duration 500ms "
                       "--rate 7 --keep --async"),
                 VV_CLI_RUN, "%s", err_text);
    cr_expect_str_eq(args.workload, "mixed");
    cr_expect(args.keys == 5 && args.value_bytes == 1024 && args.concurrency == 2 && args.rate == 7);
    cr_expect(args.duration_us == 500000 && args.keep && args.async);
    expect_bad("bench --workload write", "--workload 'write': allowed is one of put get mixed scan");
    expect_bad("bench --keys 0", "--keys '0': allowed is a number from 1");
    expect_bad("bench --value-size 2MiB", "--value-size '2MiB': allowed is a size");
    expect_bad("bench --concurrency 1025", "--concurrency '1025'");
    cr_assert_eq(parse("top --interval 200ms --once"), VV_CLI_RUN, "%s", err_text);
    cr_expect(args.interval_us == 200000 && args.once && args.timeout_us == 30000000);
    expect_bad("top --interval 1ms", "--interval '1ms'");
    expect_bad("top --data d", "asks a server");
    expect_bad("reload --data d", "asks a server");
    cr_assert_eq(parse("load - --skip 12 --from-json"), VV_CLI_RUN, "%s", err_text);
    cr_expect(args.skip == 12 && args.from_json && args.timeout_us == 0);
    expect_bad("load --skip -1", "--skip '-1'");
    expect_bad("load a b", "too many arguments");
    expect_bad("load --keys 5", "load does not take --keys");
    cr_assert_eq(parse("completion zsh"), VV_CLI_RUN, "%s", err_text);
    expect_bad("completion fish", "completion 'fish': allowed is one of bash zsh");
    expect_bad("completion bash --server h:1", "neither");
}

Test(cli_args, times_are_those_of_rfc_3339) {
    static const struct {
        const char *text;
        uint64_t unix_ms; /* 0: is none */
    } times[] = {
        {"1795379207168", 1795379207168},
        {"2026-11-22T20:26:47.168Z", 1795379207168},
        {"2026-11-22 20:26:47.1689999z", 1795379207168},
        {"2026-11-22T21:26:47.168+01:00", 1795379207168},
        {"2026-11-22t14:56:47.168-05:30", 1795379207168},
        {"2024-02-29T00:00:00Z", 1709164800000},
        {"1970-01-01T00:00:00.001Z", 1},
        {"1970-01-01T01:00:00.001+01:00", 1},
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01T00:30:00+01:00", 0},
        {"2026-11-22T20:26:47", 0},
        {"2026-11-22", 0},
        {"2026-02-30T00:00:00Z", 0},
        {"2026-13-01T00:00:00Z", 0},
        {"2026-11-22T24:00:00Z", 0},
        {"2026-11-22T20:60:00Z", 0},
        {"2026-11-22T20:26:47.Z", 0},
        {"2026-11-22T20:26:47Z ", 0},
        {"2026-11-22T20:26:47+0100", 0},
        {"2026-11-22T20:26:47+24:00", 0},
        {"2026-11-2T20:26:47Z", 0},
        {"", 0},
        {"-5", 0},
        {"now", 0},
    };
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        uint64_t unix_ms = 0;
        bool is_time = vv_cli_parse_time(times[i].text, &unix_ms);
        cr_expect_eq(is_time, times[i].unix_ms != 0, "'%s'", times[i].text);
        cr_expect(!is_time || unix_ms == times[i].unix_ms, "'%s' is %llu", times[i].text,
                  (unsigned long long)unix_ms);
    }
}
