/*
 * args.c - the command line of varve, from three tables: options, commands, and which goes with which.
 */
#include "cli/args.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/compiler.h"
#include "base/config.h"
#include "cli/token.h"
#include "engine/varve.h"

#define DEFAULT_SERVER  "127.0.0.1:7700"
#define DEFAULT_TIMEOUT "30s"

/* ---- tables ---- */

enum {
    OPT_SERVER = 256,
    OPT_DATA,
    OPT_TIMEOUT,
    OPT_JSON,
    OPT_HEX,
    OPT_ASYNC,
    OPT_VALUE_FILE,
    OPT_PREFIX,
    OPT_START,
    OPT_END,
    OPT_LIMIT,
    OPT_FROM,
    OPT_REVERSE,
    OPT_KEYS_ONLY,
    OPT_ENTRIES,
    OPT_INCREMENTAL,
    OPT_LINK,
    OPT_FETCH,
    OPT_FORCE,
    OPT_DRY_RUN,
    OPT_KEEP_LATER,
    OPT_DISCARD_ORIGINALS,
    OPT_ARCHIVE,
    OPT_TO_LSN,
    OPT_TO_TIME,
    OPT_TOKEN_FILE,
    OPT_TLS_CA,
    OPT_TLS_CERT,
    OPT_TLS_KEY
};

static const struct option long_options[] = {
    {"server", required_argument, NULL, OPT_SERVER},
    {"data", required_argument, NULL, OPT_DATA},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"json", no_argument, NULL, OPT_JSON},
    {"hex", no_argument, NULL, OPT_HEX},
    {"async", no_argument, NULL, OPT_ASYNC},
    {"value-file", required_argument, NULL, OPT_VALUE_FILE},
    {"prefix", required_argument, NULL, OPT_PREFIX},
    {"start", required_argument, NULL, OPT_START},
    {"end", required_argument, NULL, OPT_END},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"from", required_argument, NULL, OPT_FROM},
    {"reverse", no_argument, NULL, OPT_REVERSE},
    {"keys-only", no_argument, NULL, OPT_KEYS_ONLY},
    {"entries", no_argument, NULL, OPT_ENTRIES},
    {"incremental", required_argument, NULL, OPT_INCREMENTAL},
    {"link", no_argument, NULL, OPT_LINK},
    {"fetch", no_argument, NULL, OPT_FETCH},
    {"force", no_argument, NULL, OPT_FORCE},
    {"dry-run", no_argument, NULL, OPT_DRY_RUN},
    {"keep-later", no_argument, NULL, OPT_KEEP_LATER},
    {"discard-originals", no_argument, NULL, OPT_DISCARD_ORIGINALS},
    {"archive", required_argument, NULL, OPT_ARCHIVE},
    {"to-lsn", required_argument, NULL, OPT_TO_LSN},
    {"to-time", required_argument, NULL, OPT_TO_TIME},
    {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
    {"tls-ca", required_argument, NULL, OPT_TLS_CA},
    {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
    {"tls-key", required_argument, NULL, OPT_TLS_KEY},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

typedef struct command {
    const char *name;
    vv_cli_verb verb;
    int operands_min;
    int operands_max;
    bool with_server;
    bool with_data;
    bool takes_hex;
    bool takes_async;
    bool takes_long; /* as long as it has to, unless --timeout says otherwise */
    const char *usage;
    const char *summary;
    const char *help;
} command;

static const command commands[] = {
    {"put", VV_CLI_PUT, 1, 2, true, true, true, true, false, "put KEY VALUE", "store a value under a key",
     "Store VALUE under KEY, in place of what was there. A VALUE of - is read from standard input, and with\n"
     "--value-file FILE from a file, as it is, any bytes. Done means: it survives the loss of power.\n"
     "\n"
     "  --value-file FILE  the value is what FILE holds (then there is no VALUE)\n"
     "  --async            done when it can be read; durable soon after\n"
     "  --hex              KEY and VALUE are hexadecimal digits (--hex 2d is the value -);\n"
     "                     what is read from standard input or a file is still taken as it is\n"
     "  --json             print {\"lsn\": N}\n"},
    {"get", VV_CLI_GET, 1, 1, true, true, true, false, false, "get KEY", "write the value of a key to stdout",
     "Write the value of KEY to standard output as it is, with no newline behind it. If there is no such "
     "key,\n"
     "nothing is written and the exit code is 1.\n"
     "\n"
     "  --hex              KEY is hexadecimal digits, and the value is written so, with a newline\n"
     "  --json             print {\"found\", \"key\", \"value\", \"lsn\"}; key and value are base64, with "
     "--hex\n"
     "                     hexadecimal digits; \"expires_unix_ms\" stands there if the key expires\n"},
    {"delete", VV_CLI_DELETE, 1, 1, true, true, true, true, false, "delete KEY", "remove a key",
     "Remove KEY. That there is no such key is no error.\n"
     "\n"
     "  --async            done when it is gone for readers; durable soon after\n"
     "  --hex              KEY is hexadecimal digits\n"
     "  --json             print {\"lsn\": N}\n"},
    {"batch", VV_CLI_BATCH, 0, 0, true, true, true, true, false, "batch",
     "puts and deletes from stdin, all or none",
     "Read a script from standard input and carry it out as one: all of it or, on failure, nothing.\n"
     "\n"
     "    # a comment; empty lines are fine\n"
     "    put KEY VALUE\n"
     "    delete KEY\n"
     "\n"
     "Words are separated by spaces and tabs. A word may be quoted, wholly or in part: in \"...\" as in "
     "bare\n"
     "words, \\\\ \\\" \\' \\# \\n \\r \\t \\0, a backslash before a space, and \\xNN (any byte) are "
     "escapes; in '...' every\n"
     "byte stands for itself. \"\" is an empty value. If two lines name one key, the later wins.\n"
     "\n"
     "  --async            done when it can be read; durable soon after\n"
     "  --hex              each KEY and VALUE is hexadecimal digits\n"
     "  --json             print {\"lsn\": N, \"operations\": N}\n"},
    {"scan", VV_CLI_SCAN, 0, 0, true, true, true, false, true, "scan", "entries in key order",
     "Print the entries in key order, a line each: the key, a tab, the value; both escaped as batch reads "
     "them.\n"
     "All entries are of one state of the database.\n"
     "\n"
     "  --prefix P         only keys that begin with P\n"
     "  --start K          from K on\n"
     "  --end K            up to K, which is not shown\n"
     "  --limit N          at most N entries\n"
     "  --reverse          from the last to the first\n"
     "  --keys-only        keys without values\n"
     "  --hex              P and K are hexadecimal digits, and keys and values are written so\n"
     "  --json             one object a line: {\"key\", \"value\", \"lsn\"}; key and value are base64, with "
     "--hex\n"
     "                     hexadecimal digits\n"},
    {"watch", VV_CLI_WATCH, 0, 0, true, false, true, false, true, "watch", "changes as they happen",
     "Print each change as soon as it is durable, a line each: its LSN, put or delete, the key and, of a "
     "put, "
     "the value,\n"
     "with tabs between; both escaped as batch reads them. To go on later, ask from the LSN behind the last "
     "one.\n"
     "\n"
     "  --from LSN         the first LSN to print, as far back as the server's log goes (default: from now "
     "on)\n"
     "  --prefix P, --start K, --end K   only keys that begin with P, from K on, before K\n"
     "  --limit N          N changes, and that is it\n"
     "  --hex              P and K are hexadecimal digits, and keys and values are written so\n"
     "  --json             one object a line: {\"event\", \"lsn\", \"key\", \"value\"}; the event is put, "
     "delete, or mark, which says\n"
     "                     that everything up to its LSN was told; key and value are base64, with --hex "
     "hexadecimal\n"
     "                     digits; \"expires_unix_ms\" stands there if the key expires\n"},
    {"health", VV_CLI_HEALTH, 0, 1, true, false, false, false, false, "health [SERVICE]",
     "ask whether the server serves",
     "Print SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN, of one service (varve.v1.KV) or the whole "
     "server.\n"
     "The exit code is 0 only for SERVING, and 1 for the others.\n"
     "\n"
     "  --json             print {\"status\": \"SERVING\"}\n"},
    {"flush", VV_CLI_FLUSH, 0, 0, true, true, false, false, true, "flush",
     "move all that is in memory to SSTables",
     "Seal the memtable and wait until all that was written before is in SSTables.\n"
     "\n"
     "  --json             print {}\n"},
    {"compact", VV_CLI_COMPACT, 0, 0, true, true, false, false, true, "compact",
     "merge all tables into the last level",
     "Flush, merge everything into the last level, and wait for it.\n"
     "\n"
     "  --json             print {}\n"},
    {"stats", VV_CLI_STATS, 0, 0, true, true, false, false, false, "stats", "numbers about the database",
     "Print a line \"name value\" for each number; from a server, also its own (rpc_...).\n"
     "\n"
     "  --json             print one object\n"},
    {"status", VV_CLI_STATUS, 0, 0, true, false, false, false, false, "status",
     "what the server is and how far it has come",
     "Print a line \"name value\" for each: version, role, whether it serves, LSNs, time since its start; of "
     "a\n"
     "follower its primary and how far it is behind; of a primary the quorum, and a line for each replica.\n"
     "\n"
     "  --json             print one object\n"},
    {"backup", VV_CLI_BACKUP, 1, 1, true, true, false, false, true, "backup NAME",
     "a consistent copy of the whole database",
     "Make a backup: a directory with the state of one moment, which varve --data and varved open. It is "
     "synced and read\n"
     "back before it is done; nothing is left of one that fails. Through a server, NAME is a name below its "
     "BACKUP_DIR;\n"
     "with --data, a directory. It must not be there yet, or with --data be empty.\n"
     "\n"
     "  --fetch            NAME is a directory here, to which the files are fetched from the server, several "
     "at once\n"
     "                     (needs the right replica); one that was cut short is gone on with\n"
     "  --incremental NAME an earlier backup: files that are the same there are linked from it\n"
     "  --link             link the database's own files, where the file system can: costs no space, but "
     "does not\n"
     "                     guard against the device\n"
     "  --json             print {\"lsn\", \"file_count\", \"bytes\", \"copied_bytes\"}\n"},
    {"verify", VV_CLI_VERIFY, 0, 1, true, true, true, false, true, "verify [DIR]",
     "read everything and check every checksum",
     "Read all tables of a server, of the database in DIR, or with --data, and check them. Each damage is a "
     "line: the file,\n"
     "the offset, what is wrong, and the keys that may be lost. The exit code is 1 if there is any. A "
     "database in DIR "
     "that can't\n"
     "be opened is looked through as repair --dry-run does.\n"
     "\n"
     "  --hex              keys are written as hexadecimal digits\n"
     "  --json             an object for each damage, then one for all: {\"file_count\", \"block_count\", "
     "\"bytes\",\n"
     "                     \"damage_count\"}\n"},
    {"inspect", VV_CLI_INSPECT, 1, 1, false, false, true, false, true, "inspect FILE",
     "tell what is in a file of a database",
     "Tell what is in FILE: a segment of the log (wal-*.log), a table (*.sst), a manifest (of a directory it "
     "is its\n"
     "MANIFEST), an archive's file, the side file of a tail that was cut off the log, or a marker. Each "
     "thing in it is a line: what\n"
     "it is, then NAME=VALUE; a summary comes last. Keys and values are quoted as for batch. Nothing is "
     "locked or\n"
     "written; of a database that runs, what is being written may look torn. Each damage is a line, too, "
     "and\n"
     "what is whole behind it is told all the same. The exit code is 1 if there is any.\n"
     "\n"
     "  --entries          also each operation of a log and each entry of a table, with its value\n"
     "  --keys-only        of these not the values\n"
     "  --hex              keys and values are written as hexadecimal digits\n"
     "  --json             an object for each: {\"item\": KIND, ...}, and {\"damage\": ...}; keys and values "
     "are base64, with\n"
     "                     --hex hexadecimal digits\n"},
    {"repair", VV_CLI_REPAIR, 1, 1, false, false, true, false, true, "repair DIR",
     "make a damaged database one that opens",
     "Look through the database in DIR, which no process may have open; if it is damaged, make one of what "
     "is whole of "
     "it, in\n"
     "its place. Each damage is a line, and so is each part that is lost: a range of keys of a table, or of "
     "LSNs of the "
     "log. The\n"
     "old files are kept in DIR/repair-TIME. A database that is sound is not touched. It may be killed at "
     "any time, and "
     "called\n"
     "again. The exit code is 1 if anything is lost, and with --dry-run if anything is damaged.\n"
     "\n"
     "What was deleted or overwritten may be back where its newer version is lost. Of a manifest with more "
     "than one "
     "flipped bit,\n"
     "the tables and the log tell nearly all; the database gets another id, and slots, remembered writes and "
     "the QUORUM "
     "are lost.\n"
     "A replica or a backup that is whole is better than a repair.\n"
     "\n"
     "  --dry-run          look, and change nothing\n"
     "  --keep-later       of a damaged log take also the batches behind the first that is missing, though "
     "they may\n"
     "                     build on it; else the log ends there\n"
     "  --discard-originals   remove the old files once all is done\n"
     "  --hex              keys are written as hexadecimal digits\n"
     "  --json             an object for each damage and each loss, {\"damage\": ...} and {\"lost\": ...}, "
     "then one for "
     "all\n"},
    {"restore", VV_CLI_RESTORE, 2, 2, false, false, false, false, true, "restore BACKUP DEST",
     "a database from a backup and an archive",
     "Make the directory DEST, which must not be there yet or be empty, a database with the state of the "
     "backup in the\n"
     "directory BACKUP or, with an archive (varved's WAL_ARCHIVE_DIR), with a later state. Every file is "
     "checked; nothing is\n"
     "left of DEST if it fails. Neither asks a server nor changes the backup.\n"
     "\n"
     "  --archive DIR      bring it forward by this archive, as far as that goes\n"
     "  --to-lsn N         with --archive: only to this LSN, the last batch of writes that ends at or before "
     "it\n"
     "  --to-time TIME     with --archive: only to this time, 2026-11-22T20:19:31Z, "
     "2026-11-22T21:19:31.5+01:00, or Unix "
     "milliseconds\n"
     "  --link             link the backup's files, where the file system can, instead of copying them\n"
     "  --json             print {\"backup_lsn\", \"lsn\", \"unix_ms\", \"records\"}; unix_ms is when the "
     "last "
     "write was\n"
     "                     archived, 0 if none was applied\n"},
    {"promote", VV_CLI_PROMOTE, 0, 0, true, false, false, false, false, "promote",
     "make a follower the primary",
     "Make the server, which follows another, a primary. It asks its PEERS first, so that the old primary "
     "can acknowledge\n"
     "nothing any more; it refuses if one of them has newer writes, or too few answer for a quorum. A "
     "primary "
     "that is well\n"
     "stops, and hands over what it has, without loss.\n"
     "\n"
     "  --force            in spite of that: writes that were acknowledged may be lost\n"
     "  --json             print {\"epoch\": N}\n"},
    {"token", VV_CLI_TOKEN, 2, 2, false, false, false, false, false, "token USER ROLES",
     "make a token for a user of a server",
     "Print a fresh token, which is for USER alone, and the line for the server's TOKENS_FILE, which has "
     "only "
     "the\n"
     "token's hash. ROLES are of read,write,admin,replica. The server takes the line up with SIGHUP.\n"
     "\n"
     "  --json             print {\"line\", \"token\"}\n"},
};

static const char general_options[] =
    "  --server ADDR      HOST:PORT or unix:PATH (default: $VARVE_SERVER, else " DEFAULT_SERVER ")\n"
    "  --data DIR         open the database in DIR in this process instead of asking a server\n"
    "  --timeout TIME     give up on a call after TIME (500ms, 5s; default " DEFAULT_TIMEOUT
    "; scan, watch, flush, compact, backup and\n"
    "                     verify: no limit), for --server\n"
    "  --token-file FILE  the token to show the server (default: $VARVE_SERVER_TOKEN, the token itself)\n"
    "  --tls-ca FILE      speak TLS with a server that this CA has signed (default: $VARVE_SERVER_TLS_CA)\n"
    "  --tls-cert FILE, --tls-key FILE   a certificate of one's own for it\n"
    "  --help, --version\n";

static const command *find_command(const char *name) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

/* ---- texts ---- */

static void show_help(FILE *out) {
    fprintf(out, "varve - store and read data in Varve, a durable key-value store\n\n"
                 "Usage: varve [OPTION]... COMMAND [ARGUMENT]...\n\nCommands:\n");
    for (size_t i = 0; i < VV_ARRAY_COUNT(commands); i++)
        fprintf(out, "  %-18s %s%s\n", commands[i].usage, commands[i].summary,
                commands[i].with_server || !commands[i].with_data ? "" : " (with --data)");
    fprintf(
        out,
        "\nOptions:\n%s"
        "  --json             answer in JSON, for scripts\n"
        "  --hex              keys and values on the command line and in the answer are hexadecimal digits\n"
        "\nvarve COMMAND --help tells more about one. Options may stand anywhere; behind -- everything is "
        "an\n"
        "argument, such as a key that begins with '-'.\n"
        "\nExit codes: 0 done, 1 key not found (or not serving, or damage found), 2 usage, 3 the call "
        "failed.\n",
        general_options);
}

static void show_command_help(FILE *out, const command *c) {
    fprintf(out, "Usage: varve [OPTION]... %s\n\n%s\nOptions of every command:\n%s", c->usage, c->help,
            general_options);
}

typedef struct parse {
    vv_cli_args *args;
    const command *command;
    const char *server; /* as given by --server */
    const char *timeout;
    const char *limit;
    const char *from;
    const char *to_lsn;
    const char *to_time;
    bool help;
    bool version;
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

static vv_cli_parsed check_timeout(const parse *p) {
    static const vv_option option = {.key = "TIMEOUT",
                                     .type = VV_OPTION_DURATION,
                                     .default_value = DEFAULT_TIMEOUT,
                                     .min = 1000,
                                     .max = UINT64_C(24) * 3600 * 1000000};
    const vv_option_table table = {&option, 1};
    vv_error err;
    uint64_t timeout_us;
    vv_config_defaults(table, &timeout_us);
    if (p->command->takes_long)
        timeout_us = 0;
    if (p->timeout && !vv_ok(vv_config_set(table, &timeout_us, option.key, p->timeout, &err)))
        return bad(p, "%s", err.text);
    p->args->timeout_us = timeout_us;
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
    return check_timeout(p);
}

/* Who is asked: the server or the directory, or nobody. */
static vv_cli_parsed check_target(const parse *p, const vv_cli_environment *environment) {
    vv_cli_args *args = p->args;
    bool asks = p->command->with_server || p->command->with_data;
    if (!asks && (p->server || args->data || p->timeout))
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
        if (p->server || p->timeout || args->token_file || args->tls_ca || args->tls_cert || args->tls_key)
            return bad(p, "--data opens the directory in this process; %s does not go with it",
                       p->server    ? "--server"
                       : p->timeout ? "--timeout"
                                    : "what is for a server");
        return VV_CLI_RUN;
    }
    if (!p->command->with_server)
        return bad(p, "%s needs --data DIR", p->command->name);
    const char *given = environment->server;
    args->server = p->server ? p->server : given && *given ? given : DEFAULT_SERVER;
    if (!is_address(args->server))
        return bad(p, "%s '%s': allowed is HOST:PORT or unix:PATH", p->server ? "--server" : "VARVE_SERVER",
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

static vv_cli_parsed check_restore(const parse *p) {
    vv_cli_args *args = p->args;
    if (p->command->verb != VV_CLI_RESTORE && (args->archive || p->to_lsn || p->to_time))
        return bad(p, "%s does not take the options of restore", p->command->name);
    if ((p->to_lsn || p->to_time) && !args->archive)
        return bad(p, "%s needs --archive", p->to_lsn ? "--to-lsn" : "--to-time");
    if (p->to_lsn && p->to_time)
        return bad(p, "--to-lsn and --to-time exclude each other");
    if (p->to_lsn && !parse_number(p->to_lsn, &args->to_lsn))
        return bad(p, "--to-lsn '%s': allowed is an LSN, from 1 on", p->to_lsn);
    if (p->to_time && !vv_cli_parse_time(p->to_time, &args->to_unix_ms))
        return bad(
            p, "--to-time '%s': allowed is a time like 2026-11-22T20:19:31Z or +01:00, or Unix milliseconds",
            p->to_time);
    return VV_CLI_RUN;
}

static vv_cli_parsed check_options(const parse *p) {
    const vv_cli_args *args = p->args;
    const command *c = p->command;
    if (args->operand_count < c->operands_min)
        return bad(p, "%s: too few arguments; it is: varve %s", c->name, c->usage);
    if (args->operand_count > c->operands_max)
        return bad(p, "%s: too many arguments at '%s'; it is: varve %s", c->name,
                   args->operands[c->operands_max], c->usage);
    if (c->verb == VV_CLI_PUT && (args->operand_count == 2) == (args->value_file != NULL))
        return bad(p, "put: the value is either an argument or in --value-file");
    if (args->value_file && c->verb != VV_CLI_PUT)
        return bad(p, "%s does not take --value-file", c->name);
    if (c->verb != VV_CLI_SCAN && c->verb != VV_CLI_WATCH &&
        (args->prefix || args->start || args->end || p->limit))
        return bad(p, "%s does not take the options of scan", c->name);
    if (c->verb != VV_CLI_SCAN && (args->reverse || (args->keys_only && c->verb != VV_CLI_INSPECT)))
        return bad(p, "%s does not take the options of scan", c->name);
    if (args->entries && c->verb != VV_CLI_INSPECT)
        return bad(p, "%s does not take --entries", c->name);
    if (args->keys_only && c->verb == VV_CLI_INSPECT && !args->entries)
        return bad(p, "--keys-only needs --entries");
    if (c->verb != VV_CLI_WATCH && p->from)
        return bad(p, "%s does not take --from", c->name);
    if (p->from && !parse_number(p->from, &p->args->from))
        return bad(p, "--from '%s': allowed is an LSN, from 1 on", p->from);
    if (c->verb != VV_CLI_BACKUP &&
        (args->incremental || args->fetch || (args->link && c->verb != VV_CLI_RESTORE)))
        return bad(p, "%s does not take the options of backup", c->name);
    if (args->fetch && (args->incremental || args->link || args->data))
        return bad(p, "--fetch does not go with %s",
                   args->data   ? "--data"
                   : args->link ? "--link"
                                : "--incremental");
    if (args->force && c->verb != VV_CLI_PROMOTE)
        return bad(p, "%s does not take --force", c->name);
    if ((args->dry_run || args->keep_later || args->discard_originals) && c->verb != VV_CLI_REPAIR)
        return bad(p, "%s does not take the options of repair", c->name);
    if (check_restore(p) != VV_CLI_RUN)
        return VV_CLI_BAD;
    if (p->limit && !parse_number(p->limit, &p->args->limit))
        return bad(p, "--limit '%s': allowed is a number from 1 on", p->limit);
    if (args->async && !c->takes_async)
        return bad(p, "%s does not take --async", c->name);
    if (args->hex && !c->takes_hex)
        return bad(p, "%s does not take --hex", c->name);
    if (c->verb == VV_CLI_TOKEN && !vv_token_user_ok(args->operands[0]))
        return bad(p, "token: USER has 1 to 255 printable ASCII characters, no quotes and backslashes");
    if (c->verb == VV_CLI_TOKEN && !vv_token_roles_ok(args->operands[1]))
        return bad(p, "token: ROLES '%s': allowed are read, write, admin and replica, with commas between",
                   args->operands[1]);
    return VV_CLI_RUN;
}

/* ---- parsing ---- */

static vv_cli_parsed take_option(parse *p, int option, char **argv) {
    switch (option) {
    case OPT_SERVER: p->server = optarg; break;
    case OPT_DATA: p->args->data = optarg; break;
    case OPT_TIMEOUT: p->timeout = optarg; break;
    case OPT_JSON: p->args->json = true; break;
    case OPT_HEX: p->args->hex = true; break;
    case OPT_ASYNC: p->args->async = true; break;
    case OPT_VALUE_FILE: p->args->value_file = optarg; break;
    case OPT_PREFIX: p->args->prefix = optarg; break;
    case OPT_START: p->args->start = optarg; break;
    case OPT_END: p->args->end = optarg; break;
    case OPT_LIMIT: p->limit = optarg; break;
    case OPT_FROM: p->from = optarg; break;
    case OPT_REVERSE: p->args->reverse = true; break;
    case OPT_KEYS_ONLY: p->args->keys_only = true; break;
    case OPT_INCREMENTAL: p->args->incremental = optarg; break;
    case OPT_LINK: p->args->link = true; break;
    case OPT_ENTRIES: p->args->entries = true; break;
    case OPT_FETCH: p->args->fetch = true; break;
    case OPT_FORCE: p->args->force = true; break;
    case OPT_DRY_RUN: p->args->dry_run = true; break;
    case OPT_KEEP_LATER: p->args->keep_later = true; break;
    case OPT_DISCARD_ORIGINALS: p->args->discard_originals = true; break;
    case OPT_ARCHIVE: p->args->archive = optarg; break;
    case OPT_TO_LSN: p->to_lsn = optarg; break;
    case OPT_TO_TIME: p->to_time = optarg; break;
    case OPT_TOKEN_FILE: p->args->token_file = optarg; break;
    case OPT_TLS_CA: p->args->tls_ca = optarg; break;
    case OPT_TLS_CERT: p->args->tls_cert = optarg; break;
    case OPT_TLS_KEY: p->args->tls_key = optarg; break;
    case 'h': p->help = true; break;
    case 'V': p->version = true; break;
    case ':': return bad(p, "option '%s' needs a value", argv[optind - 1]);
    default:
        if (optopt != 0 && optopt < 256)
            return bad(p, "unknown option '-%c'; an argument that begins with '-' goes behind --", optopt);
        if (optopt != 0)
            return bad(p, "option '%s' takes no value", argv[optind - 1]);
        return bad(p, "unknown or ambiguous option '%s'; an argument that begins with '-' goes behind --",
                   argv[optind - 1]);
    }
    return VV_CLI_RUN;
}

static vv_cli_parsed shown(const parse *p, const char *topic, FILE *out) {
    const command *c = topic ? find_command(topic) : p->command;
    if (topic && !c)
        return bad(p, "there is no command '%s'", topic);
    if (c)
        show_command_help(out, c);
    else
        show_help(out);
    return VV_CLI_SHOWN;
}

vv_cli_parsed vv_cli_args_parse(int argc, char **argv, const vv_cli_environment *environment,
                                vv_cli_args *args, FILE *out, FILE *err) {
    parse p = {.args = args, .err = err};
    *args = (vv_cli_args){0};
    optind = 0; /* starts afresh, whatever was parsed before */
    opterr = 0;
    int option;
    while ((option = getopt_long(argc, argv, ":hV", long_options, NULL)) != -1) {
        if (take_option(&p, option, argv) != VV_CLI_RUN)
            return VV_CLI_BAD;
    }
    if (p.version) {
        fprintf(out, "varve %s\n", VARVE_VERSION_STRING);
        return VV_CLI_SHOWN;
    }
    if (optind == argc)
        return p.help ? shown(&p, NULL, out) : bad(&p, "which command?");
    if (strcmp(argv[optind], "help") == 0)
        return shown(&p, argv[optind + 1], out);
    p.command = find_command(argv[optind]);
    if (!p.command)
        return bad(&p, "there is no command '%s'", argv[optind]);
    if (p.help)
        return shown(&p, NULL, out);
    args->verb = p.command->verb;
    args->name = p.command->name;
    args->operands = argv + optind + 1;
    args->operand_count = argc - optind - 1;
    if (check_options(&p) != VV_CLI_RUN)
        return VV_CLI_BAD;
    return check_target(&p, environment);
}
