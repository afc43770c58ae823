/*
 * args.h - the command line: what was asked for, or what is wrong with it, and the help texts.
 */
#ifndef VV_CLI_ARGS_H
#define VV_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/grammar.h"

/* Part of the contract with scripts. */
typedef enum vv_cli_exit {
    VV_CLI_DONE = 0,
    VV_CLI_NOT_FOUND = 1, /* or a check that failed */
    VV_CLI_USAGE = 2,
    VV_CLI_FAILED = 3 /* the call failed; stderr says why */
} vv_cli_exit;

/* All texts are borrowed from argv or the environment. */
typedef struct vv_cli_args {
    vv_cli_verb verb;
    const char *name;   /* of the verb */
    const char *server; /* NULL: in process */
    const char *data;   /* NULL: through the server */
    const char *token;  /* for the server, as the next ones; NULL: none */
    const char *token_file;
    const char *tls_ca; /* NULL: no TLS */
    const char *tls_cert;
    const char *tls_key;
    uint64_t timeout_us;    /* of each call; 0: none */
    const char *value_file; /* of put; NULL: not given */
    bool from_json;         /* of load, as the next one */
    uint64_t skip;          /* lines */
    const char *prefix;     /* of scan and watch, as the next ones; NULL: not given */
    const char *start;
    const char *end;
    uint64_t limit; /* entries or changes; 0: all */
    uint64_t from;  /* of watch: the first LSN; 0: from now on */
    bool reverse;
    bool keys_only;
    const char *workload; /* of bench, as the next ones; NULL: put */
    uint64_t keys;
    uint64_t value_bytes;
    uint64_t concurrency; /* threads */
    uint64_t duration_us;
    uint64_t rate; /* calls a second; 0: as fast as it goes */
    bool keep;
    uint64_t interval_us; /* of top, as the next one */
    bool once;
    const char *incremental; /* of backup, as the next ones; NULL: not given */
    bool link;
    bool fetch;
    const char *archive; /* of restore, as the next ones; NULL: none */
    uint64_t to_lsn;     /* 0: not given */
    uint64_t to_unix_ms; /* 0: not given */
    bool entries;        /* of inspect */
    bool dry_run;        /* of repair, as the next ones */
    bool keep_later;
    bool discard_originals;
    bool force; /* of promote */
    bool json;
    bool hex;
    bool async;
    char **operands; /* behind the verb */
    int operand_count;
} vv_cli_args;

/*
 * A time as Unix milliseconds: such a number, or as in RFC 3339 ("2026-11-22T20:19:31.927Z",
 * "2026-11-22 21:19:31+01:00"); what is finer than a millisecond is dropped. False: it is neither, or before
 * 1970.
 */
bool vv_cli_parse_time(const char *text, uint64_t *unix_ms_out);

/* What the environment says of the server; NULL: nothing. The names begin with VARVE_SERVER, which varved
 * leaves alone. */
typedef struct vv_cli_environment {
    const char *server; /* VARVE_SERVER */
    const char *token;  /* VARVE_SERVER_TOKEN: the token itself */
    const char *tls_ca; /* VARVE_SERVER_TLS_CA: a file */
} vv_cli_environment;

typedef enum vv_cli_parsed {
    VV_CLI_RUN,   /* *args is to be carried out */
    VV_CLI_SHOWN, /* help or version was asked for and is written to `out` */
    VV_CLI_BAD    /* what is wrong is written to `err` */
} vv_cli_parsed;

/*
 * Parse a command line; argv is permuted as getopt_long() does. Not thread-safe, as getopt_long().
 */
vv_cli_parsed vv_cli_args_parse(int argc, char **argv, const vv_cli_environment *environment,
                                vv_cli_args *args, FILE *out, FILE *err);

#endif
