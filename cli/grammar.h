/*
 * grammar.h - what may stand on a command line: commands, their options, and what these mean, as tables.
 *
 * Parsing (args.c), help texts and manual page (help.c) and completion (completion.c) are made of them.
 */
#ifndef VV_CLI_GRAMMAR_H
#define VV_CLI_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>

#define VV_CLI_DEFAULT_SERVER  "127.0.0.1:7700"
#define VV_CLI_DEFAULT_TIMEOUT "30s"

typedef enum vv_cli_verb {
    VV_CLI_PUT,
    VV_CLI_GET,
    VV_CLI_DELETE,
    VV_CLI_BATCH,
    VV_CLI_LOAD,
    VV_CLI_SCAN,
    VV_CLI_WATCH,
    VV_CLI_REPL,
    VV_CLI_TOP,
    VV_CLI_BENCH,
    VV_CLI_HEALTH,
    VV_CLI_STATUS,
    VV_CLI_STATS,
    VV_CLI_FLUSH,
    VV_CLI_COMPACT,
    VV_CLI_RELOAD,
    VV_CLI_PROMOTE,
    VV_CLI_BACKUP,
    VV_CLI_RESTORE,
    VV_CLI_VERIFY,
    VV_CLI_INSPECT,
    VV_CLI_REPAIR,
    VV_CLI_TOKEN,
    VV_CLI_COMPLETION
} vv_cli_verb;

typedef enum vv_cli_option_id {
    VV_OPT_SERVER,
    VV_OPT_DATA,
    VV_OPT_TIMEOUT,
    VV_OPT_TOKEN_FILE,
    VV_OPT_TLS_CA,
    VV_OPT_TLS_CERT,
    VV_OPT_TLS_KEY,
    VV_OPT_HELP,
    VV_OPT_VERSION,
    VV_OPT_GENERAL_COUNT, /* those above go with every command */
    VV_OPT_JSON = VV_OPT_GENERAL_COUNT,
    VV_OPT_HEX,
    VV_OPT_ASYNC,
    VV_OPT_VALUE_FILE,
    VV_OPT_FROM_JSON,
    VV_OPT_SKIP,
    VV_OPT_PREFIX,
    VV_OPT_START,
    VV_OPT_END,
    VV_OPT_LIMIT,
    VV_OPT_REVERSE,
    VV_OPT_KEYS_ONLY,
    VV_OPT_FROM,
    VV_OPT_WORKLOAD,
    VV_OPT_KEYS,
    VV_OPT_VALUE_SIZE,
    VV_OPT_CONCURRENCY,
    VV_OPT_DURATION,
    VV_OPT_RATE,
    VV_OPT_KEEP,
    VV_OPT_INTERVAL,
    VV_OPT_ONCE,
    VV_OPT_FETCH,
    VV_OPT_INCREMENTAL,
    VV_OPT_LINK,
    VV_OPT_ARCHIVE,
    VV_OPT_TO_LSN,
    VV_OPT_TO_TIME,
    VV_OPT_ENTRIES,
    VV_OPT_DRY_RUN,
    VV_OPT_KEEP_LATER,
    VV_OPT_DISCARD_ORIGINALS,
    VV_OPT_FORCE,
    VV_OPT_COUNT
} vv_cli_option_id;

/* What completion offers for an argument. */
typedef enum vv_cli_argument { VV_ARG_ANY, VV_ARG_FILE, VV_ARG_DIR, VV_ARG_CHOICE } vv_cli_argument;

typedef struct vv_cli_option {
    const char *name;     /* without the dashes */
    const char *argument; /* as help texts call it; NULL: takes none */
    vv_cli_argument kind;
    const char *choices; /* of VV_ARG_CHOICE, with spaces between */
    const char *help;    /* of a general option */
} vv_cli_option;

extern const vv_cli_option vv_cli_options[VV_OPT_COUNT];

/* An option of a command, and what it means there. */
typedef struct vv_cli_use {
    vv_cli_option_id id;
    const char *help;
} vv_cli_use;

#define VV_CLI_USES_MAX 9

typedef struct vv_cli_command {
    const char *name;
    vv_cli_verb verb;
    int operands_min;
    int operands_max;
    bool with_server;
    bool with_data;
    bool takes_long;         /* as long as it has to, unless --timeout says otherwise */
    vv_cli_argument operand; /* the kind of its operands */
    const char *choices;     /* of VV_ARG_CHOICE */
    const char *usage;
    const char *summary;
    const char *text;                 /* for manual.h */
    vv_cli_use uses[VV_CLI_USES_MAX]; /* up to the first without help */
} vv_cli_command;

extern const vv_cli_command vv_cli_commands[];
extern const size_t vv_cli_command_count;

/* NULL: there is none. */
const vv_cli_command *vv_cli_command_find(const char *name);

bool vv_cli_command_takes(const vv_cli_command *c, vv_cli_option_id id);

#endif
