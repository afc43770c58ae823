/*
 * args.c - the command line of varve, by the tables of grammar.h.
 */
#include "cli/args.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/compiler.h"
#include "base/config.h"
#include "cli/help.h"
#include "cli/token.h"
#include "engine/varve.h"

#define FIRST_LONG 256 /* what getopt_long() returns for the first option; letters are smaller */

typedef struct parse {
    vv_cli_args *args;
    const vv_cli_command *command;
    const char *given[VV_OPT_COUNT]; /* as it was given, "" if it takes no argument; NULL: not */
    const char *help_form;           /* of --help=FORM */
    FILE *err;
} parse;

static vv_cli_parsed bad(const parse *p, const char *fmt, ...) VV_PRINTF(2, 3);

static vv_cli_parsed bad(const parse *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("varve: ", p->err);
    vfprintf(p->err, fmt, ap);
    fprintf(p->err, "\nTry 'varve %s%s--help'.\n", p->command ? p->command->name : "", p->command ? " " : "");
    va_end(ap);
    return VV_CLI_BAD;
}

/* ---- checks ---- */

static bool is_address(const char *text) {
    if (strncmp(text, "unix:", 5) == 0)
        return text[5] != '\0';
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text)
        return false;
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    return colon[1] >= '0' && colon[1] <= '9' && *end == '\0' && port >= 1 && port <= 65535;
}

/* What is a number of some kind, its default and what is allowed. */
static const struct {
    vv_cli_option_id id;
    vv_option option;
} numbers[] = {
#define NUMBER(id_, field, type_, default_, min_, max_)                                                      \
    {                                                                                                        \
        id_, {                                                                                               \
            .key = "N", .type = type_, .offset = offsetof(vv_cli_args, field), .default_value = default_,    \
            .min = min_, .max = max_                                                                         \
        }                                                                                                    \
    }
    NUMBER(VV_OPT_TIMEOUT, timeout_us, VV_OPTION_DURATION, VV_CLI_DEFAULT_TIMEOUT, 1000,
           UINT64_C(24) * 3600 * 1000000),
    NUMBER(VV_OPT_LIMIT, limit, VV_OPTION_COUNT, NULL, 1, UINT64_MAX),
    NUMBER(VV_OPT_FROM, from, VV_OPTION_COUNT, NULL, 1, UINT64_MAX),
    NUMBER(VV_OPT_TO_LSN, to_lsn, VV_OPTION_COUNT, NULL, 1, UINT64_MAX),
    NUMBER(VV_OPT_SKIP, skip, VV_OPTION_COUNT, NULL, 0, UINT64_MAX),
    NUMBER(VV_OPT_KEYS, keys, VV_OPTION_COUNT, "10000", 1, 1000000000),
    NUMBER(VV_OPT_VALUE_SIZE, value_bytes, VV_OPTION_BYTES, "64", 0, 1 << 20),
    NUMBER(VV_OPT_CONCURRENCY, concurrency, VV_OPTION_COUNT, "16", 1, 1024),
    NUMBER(VV_OPT_DURATION, duration_us, VV_OPTION_DURATION, "10s", 1000, UINT64_C(24) * 3600 * 1000000),
    NUMBER(VV_OPT_RATE, rate, VV_OPTION_COUNT, NULL, 1, 100000000),
    NUMBER(VV_OPT_INTERVAL, interval_us, VV_OPTION_DURATION, "1s", 100000, UINT64_C(3600) * 1000000),
#undef NUMBER
};

static vv_cli_parsed check_numbers(const parse *p) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(numbers); i++) {
        const vv_option *o = &numbers[i].option;
        const vv_option_table table = {o, 1};
        const char *given = p->given[numbers[i].id];
        const char *value = given ? given : o->default_value;
        char allowed[VV_OPTION_TEXT_BYTES];
        if (!value || vv_ok(vv_config_set(table, p->args, o->key, value, NULL)))
            continue;
        vv_option_allowed(o, allowed, sizeof allowed);
        return bad(p, "--%s '%s': allowed is %s", vv_cli_options[numbers[i].id].name, value, allowed);
    }
    if (p->command->takes_long && !p->given[VV_OPT_TIMEOUT])
        p->args->timeout_us = 0;
    return VV_CLI_RUN;
}

/* What the server is shown. */
static vv_cli_parsed check_credentials(const parse *p, const vv_cli_environment *environment) {
    vv_cli_args *args = p->args;
    if (!args->token_file && environment->token && *environment->token)
        args->token = environment->token;
    if (!args->tls_ca && environment->tls_ca && *environment->tls_ca)
        args->tls_ca = environment->tls_ca;
    if (!args->tls_cert != !args->tls_key)
        return bad(p, "--tls-cert and --tls-key need each other");
    if (args->tls_cert && !args->tls_ca)
        return bad(p, "--tls-cert needs --tls-ca");
    return VV_CLI_RUN;
}

/* Who is asked: the server or the directory, or nobody. */
static vv_cli_parsed check_target(const parse *p, const vv_cli_environment *environment) {
    vv_cli_args *args = p->args;
    bool asks = p->command->with_server || p->command->with_data;
    if (!asks && (p->given[VV_OPT_SERVER] || args->data || p->given[VV_OPT_TIMEOUT]))
        return bad(p, "%s asks neither a server nor a directory", p->command->name);
    if (!asks)
        return VV_CLI_RUN;
    if (p->command->verb == VV_CLI_VERIFY && args->operand_count == 1) {
        if (args->data)
            return bad(p, "verify: DIR and --data are the same; give one of them");
        args->data = args->operands[0];
    }
    if (args->data) {
        if (!p->command->with_data)
            return bad(p, "%s asks a server; it does not go with --data", p->command->name);
        for (vv_cli_option_id id = VV_OPT_SERVER; id <= VV_OPT_TLS_KEY; id++) {
            if (p->given[id] && id != VV_OPT_DATA)
                return bad(p, "--data opens the directory in this process; --%s does not go with it",
                           vv_cli_options[id].name);
        }
        return VV_CLI_RUN;
    }
    if (!p->command->with_server)
        return bad(p, "%s needs --data DIR", p->command->name);
    const char *flag = p->given[VV_OPT_SERVER], *given = environment->server;
    args->server = flag ? flag : given && *given ? given : VV_CLI_DEFAULT_SERVER;
    if (!is_address(args->server))
        return bad(p, "%s '%s': allowed is HOST:PORT or unix:PATH", flag ? "--server" : "VARVE_SERVER",
                   args->server);
    return check_credentials(p, environment);
}

static bool parse_number(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && *out > 0;
}

/* So many digits at *at, which moves behind them; -1: there are fewer. */
static int take_digits(const char **at, int count) {
    int number = 0;
    for (; count > 0; count--, ++*at) {
        if (**at < '0' || **at > '9')
            return -1;
        number = 10 * number + (**at - '0');
    }
    return number;
}

static bool take_char(const char **at, const char *any_of) {
    bool found = **at != '\0' && strchr(any_of, **at) != NULL;
    *at += found;
    return found;
}

/* The offset from UTC in minutes, up to the end of the text. */
static bool take_zone(const char **at, int *minutes_out) {
    *minutes_out = 0;
    if (take_char(at, "Zz"))
        return **at == '\0';
    int sign = **at == '-' ? -1 : 1;
    if (!take_char(at, "+-"))
        return false;
    int hours = take_digits(at, 2);
    int minutes = take_char(at, ":") ? take_digits(at, 2) : -1;
    *minutes_out = sign * (60 * hours + minutes);
    return hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60 && **at == '\0';
}

bool vv_cli_parse_time(const char *text, uint64_t *unix_ms_out) {
    if (parse_number(text, unix_ms_out))
        return true;
    const char *at = text;
    int zone, ms = 0;
    struct tm t = {.tm_year = take_digits(&at, 4) - 1900};
    bool fine = take_char(&at, "-");
    t.tm_mon = fine ? take_digits(&at, 2) - 1 : -1;
    fine = fine && take_char(&at, "-");
    t.tm_mday = fine ? take_digits(&at, 2) : -1;
    fine = fine && take_char(&at, "Tt ");
    t.tm_hour = fine ? take_digits(&at, 2) : -1;
    fine = fine && take_char(&at, ":");
    t.tm_min = fine ? take_digits(&at, 2) : -1;
    fine = fine && take_char(&at, ":");
    t.tm_sec = fine ? take_digits(&at, 2) : -1;
    if (fine && take_char(&at, ".")) {
        fine = *at >= '0' && *at <= '9';
        for (int unit = 100; *at >= '0' && *at <= '9'; at++, unit /= 10)
            ms += unit * (*at - '0');
    }
    struct tm asked = t;
    time_t s = fine && take_zone(&at, &zone) && t.tm_sec <= 60 ? timegm(&t) : -1;
    /* timegm() takes the 31st of February for another day: there is none. */
    if (s < 0 || t.tm_mday != asked.tm_mday || t.tm_mon != asked.tm_mon || asked.tm_hour > 23 ||
        asked.tm_hour < 0 || asked.tm_min > 59 || asked.tm_min < 0 || asked.tm_sec < 0 ||
        s < (time_t)zone * 60)
        return false;
    *unix_ms_out = (uint64_t)(s - (time_t)zone * 60) * 1000 + (uint64_t)ms;
    return *unix_ms_out > 0;
}

/* Which options go with each other. */
static vv_cli_parsed check_together(const parse *p) {
    const vv_cli_args *args = p->args;
    const char *lsn = p->given[VV_OPT_TO_LSN], *to_time = p->given[VV_OPT_TO_TIME];
    if (args->verb == VV_CLI_PUT && (args->operand_count == 2) == (args->value_file != NULL))
        return bad(p, "put: the value is either an argument or in --value-file");
    if (args->keys_only && args->verb == VV_CLI_INSPECT && !args->entries)
        return bad(p, "--keys-only needs --entries");
    if (args->fetch && (args->incremental || args->link || args->data))
        return bad(p, "--fetch does not go with %s",
                   args->data   ? "--data"
                   : args->link ? "--link"
                                : "--incremental");
    if ((lsn || to_time) && !args->archive)
        return bad(p, "%s needs --archive", lsn ? "--to-lsn" : "--to-time");
    if (lsn && to_time)
        return bad(p, "--to-lsn and --to-time exclude each other");
    if (to_time && !vv_cli_parse_time(to_time, &p->args->to_unix_ms))
        return bad(
            p, "--to-time '%s': allowed is a time like 2026-11-22T20:19:31Z or +01:00, or Unix milliseconds",
            to_time);
    return VV_CLI_RUN;
}

static bool is_choice(const char *choices, const char *word) {
    size_t bytes = strlen(word);
    for (const char *at = choices; *at; at += strspn(at, " ")) {
        size_t length = strcspn(at, " ");
        if (length == bytes && memcmp(at, word, bytes) == 0)
            return true;
        at += length;
    }
    return false;
}

static vv_cli_parsed check_operands(const parse *p) {
    const vv_cli_args *args = p->args;
    const vv_cli_command *c = p->command;
    if (args->operand_count < c->operands_min)
        return bad(p, "%s: too few arguments; it is: varve %s", c->name, c->usage);
    if (args->operand_count > c->operands_max)
        return bad(p, "%s: too many arguments at '%s'; it is: varve %s", c->name,
                   args->operands[c->operands_max], c->usage);
    if (c->choices && !is_choice(c->choices, args->operands[0]))
        return bad(p, "%s '%s': allowed is one of %s", c->name, args->operands[0], c->choices);
    if (c->verb == VV_CLI_TOKEN && !vv_token_user_ok(args->operands[0]))
        return bad(p, "token: USER has 1 to 255 printable ASCII characters, no quotes and backslashes");
    if (c->verb == VV_CLI_TOKEN && !vv_token_roles_ok(args->operands[1]))
        return bad(p, "token: ROLES '%s': allowed are read, write, admin and replica, with commas between",
                   args->operands[1]);
    return VV_CLI_RUN;
}

static vv_cli_parsed check_options(const parse *p) {
    for (vv_cli_option_id id = 0; id < VV_OPT_COUNT; id++) {
        const vv_cli_option *o = &vv_cli_options[id];
        if (!p->given[id])
            continue;
        if (!vv_cli_command_takes(p->command, id))
            return bad(p, "%s does not take --%s", p->command->name, o->name);
        if (o->choices && !is_choice(o->choices, p->given[id]))
            return bad(p, "--%s '%s': allowed is one of %s", o->name, p->given[id], o->choices);
    }
    if (check_operands(p) != VV_CLI_RUN || check_numbers(p) != VV_CLI_RUN)
        return VV_CLI_BAD;
    return check_together(p);
}

/* ---- parsing ---- */

static void take_given(const parse *p) {
    vv_cli_args *a = p->args;
    const char *const *given = p->given;
    a->data = given[VV_OPT_DATA];
    a->token_file = given[VV_OPT_TOKEN_FILE];
    a->tls_ca = given[VV_OPT_TLS_CA];
    a->tls_cert = given[VV_OPT_TLS_CERT];
    a->tls_key = given[VV_OPT_TLS_KEY];
    a->value_file = given[VV_OPT_VALUE_FILE];
    a->prefix = given[VV_OPT_PREFIX];
    a->start = given[VV_OPT_START];
    a->end = given[VV_OPT_END];
    a->incremental = given[VV_OPT_INCREMENTAL];
    a->archive = given[VV_OPT_ARCHIVE];
    a->workload = given[VV_OPT_WORKLOAD];
    a->json = given[VV_OPT_JSON];
    a->hex = given[VV_OPT_HEX];
    a->async = given[VV_OPT_ASYNC];
    a->from_json = given[VV_OPT_FROM_JSON];
    a->reverse = given[VV_OPT_REVERSE];
    a->keys_only = given[VV_OPT_KEYS_ONLY];
    a->keep = given[VV_OPT_KEEP];
    a->once = given[VV_OPT_ONCE];
    a->fetch = given[VV_OPT_FETCH];
    a->link = given[VV_OPT_LINK];
    a->entries = given[VV_OPT_ENTRIES];
    a->dry_run = given[VV_OPT_DRY_RUN];
    a->keep_later = given[VV_OPT_KEEP_LATER];
    a->discard_originals = given[VV_OPT_DISCARD_ORIGINALS];
    a->force = given[VV_OPT_FORCE];
}

/* What getopt_long() found wrong. */
static vv_cli_parsed bad_option(const parse *p, int option, char **argv) {
    if (option == ':')
        return bad(p, "option '%s' needs a value", argv[optind - 1]);
    if (optopt != 0 && optopt < FIRST_LONG)
        return bad(p, "unknown option '-%c'; an argument that begins with '-' goes behind --", optopt);
    if (optopt != 0)
        return bad(p, "option '%s' takes no value", argv[optind - 1]);
    return bad(p, "unknown or ambiguous option '%s'; an argument that begins with '-' goes behind --",
               argv[optind - 1]);
}

/* Not thread-safe, as getopt_long(). */
static vv_cli_parsed take_options(parse *p, int argc, char **argv) {
    struct option long_options[VV_OPT_COUNT + 1] = {0};
    for (int id = 0; id < VV_OPT_COUNT; id++)
        long_options[id] = (struct option){
            .name = vv_cli_options[id].name,
            .has_arg = vv_cli_options[id].argument ? required_argument : no_argument,
            .val = FIRST_LONG + id,
        };
    long_options[VV_OPT_HELP].has_arg = optional_argument; /* the form: man */
    optind = 0;                                            /* starts afresh, whatever was parsed before */
    opterr = 0;
    int option;
    while ((option = getopt_long(argc, argv, ":hV", long_options, NULL)) != -1) {
        if (option == 'h')
            option = FIRST_LONG + VV_OPT_HELP;
        if (option == 'V')
            option = FIRST_LONG + VV_OPT_VERSION;
        if (option < FIRST_LONG)
            return bad_option(p, option, argv);
        p->given[option - FIRST_LONG] = optarg ? optarg : "";
    }
    return VV_CLI_RUN;
}

/* topic: a command, or NULL. */
static vv_cli_parsed shown(const parse *p, const char *topic, FILE *out) {
    const vv_cli_command *c = topic ? vv_cli_command_find(topic) : NULL;
    const char *form = p->given[VV_OPT_HELP];
    if (topic && !c)
        return bad(p, "there is no command '%s'", topic);
    if (form && strcmp(form, "man") == 0)
        vv_cli_manual_page(out);
    else if (form && *form)
        return bad(p, "--help=%s: allowed is --help=man, for the manual page", form);
    else if (c)
        vv_cli_help_command(out, c);
    else
        vv_cli_help(out);
    return VV_CLI_SHOWN;
}

vv_cli_parsed vv_cli_args_parse(int argc, char **argv, const vv_cli_environment *environment,
                                vv_cli_args *args, FILE *out, FILE *err) {
    parse p = {.args = args, .err = err};
    *args = (vv_cli_args){0};
    if (take_options(&p, argc, argv) != VV_CLI_RUN)
        return VV_CLI_BAD;
    if (p.given[VV_OPT_VERSION]) {
        fprintf(out, "varve %s\n", VARVE_VERSION_STRING);
        return VV_CLI_SHOWN;
    }
    if (optind == argc)
        return p.given[VV_OPT_HELP] ? shown(&p, NULL, out) : bad(&p, "which command?");
    if (strcmp(argv[optind], "help") == 0)
        return shown(&p, argv[optind + 1], out);
    if (p.given[VV_OPT_HELP])
        return shown(&p, argv[optind], out);
    p.command = vv_cli_command_find(argv[optind]);
    if (!p.command)
        return bad(&p, "there is no command '%s'", argv[optind]);
    args->verb = p.command->verb;
    args->name = p.command->name;
    args->operands = argv + optind + 1;
    args->operand_count = argc - optind - 1;
    take_given(&p);
    if (check_options(&p) != VV_CLI_RUN)
        return VV_CLI_BAD;
    return check_target(&p, environment);
}
