#include "cli/grammar.h"

#include <string.h>

#include "base/compiler.h"

const vv_cli_option vv_cli_options[VV_OPT_COUNT] = {
    [VV_OPT_SERVER] = {"server", "ADDR", VV_ARG_ANY, NULL,
                       "HOST:PORT or unix:PATH (default: $VARVE_SERVER, else " VV_CLI_DEFAULT_SERVER ")"},
    [VV_OPT_DATA] = {"data", "DIR", VV_ARG_DIR, NULL,
                     "open the database in DIR in this process instead of asking a server"},
    [VV_OPT_TIMEOUT] = {"timeout", "TIME", VV_ARG_ANY, NULL,
                        "give up on a call to a server after TIME, such as 500ms or 5s (default " //
                        VV_CLI_DEFAULT_TIMEOUT "; commands that may take long: no limit)"},
    [VV_OPT_TOKEN_FILE] = {"token-file", "FILE", VV_ARG_FILE, NULL,
                           "the token to show the server (default: $VARVE_SERVER_TOKEN, the token itself)"},
    [VV_OPT_TLS_CA] = {"tls-ca", "FILE", VV_ARG_FILE, NULL,
                       "speak TLS with a server that this CA has signed (default: $VARVE_SERVER_TLS_CA)"},
    [VV_OPT_TLS_CERT] = {"tls-cert", "FILE", VV_ARG_FILE, NULL, "a certificate of one's own for it"},
    [VV_OPT_TLS_KEY] = {"tls-key", "FILE", VV_ARG_FILE, NULL, "the certificate's key"},
    [VV_OPT_HELP] = {"help", NULL, VV_ARG_ANY, NULL, "tell about varve, or about a command"},
    [VV_OPT_VERSION] = {"version", NULL, VV_ARG_ANY, NULL, "tell the version"},
    [VV_OPT_JSON] = {"json", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_HEX] = {"hex", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_ASYNC] = {"async", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_VALUE_FILE] = {"value-file", "FILE", VV_ARG_FILE, NULL, NULL},
    [VV_OPT_FROM_JSON] = {"from-json", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_SKIP] = {"skip", "N", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_PREFIX] = {"prefix", "P", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_START] = {"start", "K", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_END] = {"end", "K", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_LIMIT] = {"limit", "N", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_REVERSE] = {"reverse", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_KEYS_ONLY] = {"keys-only", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_FROM] = {"from", "LSN", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_WORKLOAD] = {"workload", "NAME", VV_ARG_CHOICE, "put get mixed scan", NULL},
    [VV_OPT_KEYS] = {"keys", "N", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_VALUE_SIZE] = {"value-size", "SIZE", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_CONCURRENCY] = {"concurrency", "N", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_DURATION] = {"duration", "TIME", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_RATE] = {"rate", "N", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_KEEP] = {"keep", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_INTERVAL] = {"interval", "TIME", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_ONCE] = {"once", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_FETCH] = {"fetch", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_INCREMENTAL] = {"incremental", "NAME", VV_ARG_DIR, NULL, NULL},
    [VV_OPT_LINK] = {"link", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_ARCHIVE] = {"archive", "DIR", VV_ARG_DIR, NULL, NULL},
    [VV_OPT_TO_LSN] = {"to-lsn", "N", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_TO_TIME] = {"to-time", "TIME", VV_ARG_ANY, NULL, NULL},
    [VV_OPT_ENTRIES] = {"entries", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_DRY_RUN] = {"dry-run", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_KEEP_LATER] = {"keep-later", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_DISCARD_ORIGINALS] = {"discard-originals", NULL, VV_ARG_ANY, NULL, NULL},
    [VV_OPT_FORCE] = {"force", NULL, VV_ARG_ANY, NULL, NULL},
};

#define HEX_KEYS                                                                                             \
    { VV_OPT_HEX, "keys are written as hexadecimal digits" }
#define JSON_LSN                                                                                             \
    { VV_OPT_JSON, "print {\"lsn\": N}" }
#define JSON_NONE                                                                                            \
    { VV_OPT_JSON, "print {}" }
#define ASYNC_PUT                                                                                            \
    { VV_OPT_ASYNC, "done when it can be read; durable soon after" }

const vv_cli_command vv_cli_commands[] = {
    {.name = "put",
     .verb = VV_CLI_PUT,
     .usage = "put KEY VALUE",
     .summary = "store a value under a key",
     .operands_min = 1,
     .operands_max = 2,
     .with_server = true,
     .with_data = true,
     .text = "Store VALUE under KEY, in place of what was there. A VALUE of - is read from standard "
             "input, and with --value-file from a file, as it is, any bytes. Done means: it survives "
             "the loss of power.\n",
     .uses = {{VV_OPT_VALUE_FILE, "the value is what FILE holds (then there is no VALUE)"},
              ASYNC_PUT,
              {VV_OPT_HEX,
               "KEY and VALUE are hexadecimal digits (--hex 2d is the value -); what is read from "
               "standard input or a file is still taken as it is"},
              JSON_LSN}},
    {.name = "get",
     .verb = VV_CLI_GET,
     .usage = "get KEY",
     .summary = "write the value of a key to stdout",
     .operands_min = 1,
     .operands_max = 1,
     .with_server = true,
     .with_data = true,
     .text = "Write the value of KEY to standard output as it is, with no newline behind it. If there "
             "is no such key, nothing is written and the exit code is 1.\n",
     .uses = {{VV_OPT_HEX, "KEY is hexadecimal digits, and the value is written so, with a newline"},
              {VV_OPT_JSON,
               "print {\"found\", \"key\", \"value\", \"lsn\"}; key and value are base64, with --hex "
               "hexadecimal digits; \"expires_unix_ms\" stands there if the key expires"}}},
    {.name = "delete",
     .verb = VV_CLI_DELETE,
     .usage = "delete KEY",
     .summary = "remove a key",
     .operands_min = 1,
     .operands_max = 1,
     .with_server = true,
     .with_data = true,
     .text = "Remove KEY. That there is no such key is no error.\n",
     .uses = {{VV_OPT_ASYNC, "done when it is gone for readers; durable soon after"},
              {VV_OPT_HEX, "KEY is hexadecimal digits"},
              JSON_LSN}},
    {.name = "batch",
     .verb = VV_CLI_BATCH,
     .usage = "batch",
     .summary = "puts and deletes from stdin, all or none",
     .with_server = true,
     .with_data = true,
     .text = "Read a script from standard input and carry it out as one: all of it or, on failure, "
             "nothing.\n"
             "\n"
             "    # a comment; empty lines are fine\n"
             "    put KEY VALUE\n"
             "    delete KEY\n"
             "\n"
             "Words are separated by spaces and tabs. A word may be quoted, wholly or in part: in "
             "\"...\" as in bare words, \\\\ \\\" \\' \\# \\n \\r \\t \\0, a backslash before a "
             "space, and \\xNN (any byte) are escapes; in '...' every byte stands for itself. \"\" is "
             "an empty value. If two lines name one key, the later wins.\n",
     .uses = {ASYNC_PUT,
              {VV_OPT_HEX, "each KEY and VALUE is hexadecimal digits"},
              {VV_OPT_JSON, "print {\"lsn\": N, \"operations\": N}"}}},
    {.name = "load",
     .verb = VV_CLI_LOAD,
     .usage = "load [FILE]",
     .summary = "store many entries from a file or stdin",
     .operands_max = 1,
     .operand = VV_ARG_FILE,
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Store every entry of FILE, or of standard input: a line each, key and value with a tab "
             "between, both escaped as batch reads them. So it takes what scan writes:\n"
             "\n"
             "    varve scan > entries\n"
             "    varve --server other:7700 load entries\n"
             "\n"
             "Entries are written in the order of the lines, in batches of up to a MiB; each batch is "
             "atomic and, unless --async says otherwise, survives the loss of power before the next "
             "begins. What a busy server refuses is tried again. If it fails, a message says which "
             "lines are in, so that --skip can go on behind them; loading them again does no harm "
             "either.\n"
             "\n"
             "On a terminal a line shows how far it is, how fast, and how long it will take; "
             "elsewhere such a line is written every ten seconds, to standard error.\n",
     .uses = {{VV_OPT_FROM_JSON,
               "a line is an object as scan --json writes it: {\"key\", \"value\"}, in base64 or, "
               "with --hex, hexadecimal digits"},
              {VV_OPT_SKIP, "leave the first N lines out"},
              {VV_OPT_ASYNC, "do not wait for each batch to be durable; all are, once load is done"},
              {VV_OPT_HEX, "keys and values are hexadecimal digits"},
              {VV_OPT_JSON, "print {\"entries\": N, \"bytes\": N, \"lsn\": N, \"seconds\": N}"}}},
    {.name = "scan",
     .verb = VV_CLI_SCAN,
     .usage = "scan",
     .summary = "entries in key order",
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Print the entries in key order, a line each: the key, a tab, the value; both escaped as "
             "batch reads them. All entries are of one state of the database.\n",
     .uses = {{VV_OPT_PREFIX, "only keys that begin with P"},
              {VV_OPT_START, "from K on"},
              {VV_OPT_END, "up to K, which is not shown"},
              {VV_OPT_LIMIT, "at most N entries"},
              {VV_OPT_REVERSE, "from the last to the first"},
              {VV_OPT_KEYS_ONLY, "keys without values"},
              {VV_OPT_HEX, "P and K are hexadecimal digits, and keys and values are written so"},
              {VV_OPT_JSON,
               "one object a line: {\"key\", \"value\", \"lsn\"}; key and value are base64, with --hex "
               "hexadecimal digits"}}},
    {.name = "watch",
     .verb = VV_CLI_WATCH,
     .usage = "watch",
     .summary = "changes as they happen",
     .with_server = true,
     .takes_long = true,
     .text = "Print each change as soon as it is durable, a line each: its LSN, put or delete, the "
             "key and, of a put, the value, with tabs between; both escaped as batch reads them. To "
             "go on later, ask from the LSN behind the last one.\n",
     .uses =
         {{VV_OPT_FROM,
           "the first LSN to print, as far back as the server's log goes (default: from now on)"},
          {VV_OPT_PREFIX, "only keys that begin with P"},
          {VV_OPT_START, "from K on"},
          {VV_OPT_END, "before K"},
          {VV_OPT_LIMIT, "N changes, and that is it"},
          {VV_OPT_HEX, "P and K are hexadecimal digits, and keys and values are written so"},
          {VV_OPT_JSON,
           "one object a line: {\"event\", \"lsn\", \"key\", \"value\"}; the event is put, delete, or mark, "
           "which says that everything up to its LSN was told; key and value are base64, with --hex "
           "hexadecimal "
           "digits; \"expires_unix_ms\" stands there if the key expires"}}},
    {.name = "repl",
     .verb = VV_CLI_REPL,
     .usage = "repl",
     .summary = "a prompt for commands",
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Read commands from a prompt and carry them out one by one, with the time that each "
             "took: PUT KEY VALUE, GET KEY, DELETE KEY, SCAN [PREFIX [LIMIT]], STATS [WORD], HELP, "
             "EXIT. Lines can be edited, the tab key completes commands, and those of earlier "
             "sessions are remembered in $VARVE_HISTORY, else ~/.varve_history, which only its owner "
             "can read.\n"
             "\n"
             "Words are quoted as for batch. Values are shown so, too, so that any byte can be told, "
             "and none does anything to the terminal. The timeout counts for each command.\n"
             "\n"
             "If standard input is not a terminal, there is no prompt, no time and no history; all "
             "commands are carried out, and the exit code is that of the first that failed.\n",
     .uses = {{VV_OPT_HEX, "keys and values are hexadecimal digits, and are shown so"}}},
    {.name = "top",
     .verb = VV_CLI_TOP,
     .usage = "top",
     .summary = "a live screen of what a server does",
     .with_server = true,
     .text = "Show, anew every second: calls a second and their latency percentiles, the log with the "
             "size of its batches, memory, the levels, compaction, the cache, and the lag of "
             "replicas. q ends it. If standard output is not a terminal, that is printed once, over "
             "one interval.\n",
     .uses = {{VV_OPT_INTERVAL, "time between two looks (100ms to 3600s, default 1s)"},
              {VV_OPT_ONCE, "print it once, over one interval, and end"}}},
    {.name = "bench",
     .verb = VV_CLI_BENCH,
     .usage = "bench",
     .summary = "a quick measurement, with percentiles",
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Put load on a server, or on a database in this process, from some threads, each with "
             "one call in flight; every second a line says how many calls there were and how long "
             "they took. At the end comes a line for all. Keys begin with varve-bench: and are "
             "removed afterwards; nothing else is touched.\n"
             "\n"
             "With --rate, calls begin by the clock, and a latency is counted from when its call "
             "should have begun: what waits behind a slow one is not left out. Without, it is the "
             "time of the call alone, and the figures flatter a server that stalls. For measurements "
             "that are to be quoted, ghz and the profiles of perf/ are there.\n",
     .uses = {{VV_OPT_WORKLOAD, "put (default); get; mixed: half of each; scan: of 100 entries"},
              {VV_OPT_KEYS, "so many keys (default 10000); get, mixed and scan store them first"},
              {VV_OPT_VALUE_SIZE, "of values (default 64B, up to 1MiB)"},
              {VV_OPT_CONCURRENCY, "so many threads (default 16, up to 1024)"},
              {VV_OPT_DURATION, "how long (default 10s)"},
              {VV_OPT_RATE, "so many calls a second in all (default: as fast as it goes)"},
              {VV_OPT_ASYNC, "puts do not wait to be durable"},
              {VV_OPT_KEEP, "leave the keys there"},
              {VV_OPT_JSON, "an object a second, then one for all, in place of the lines"}}},
    {.name = "health",
     .verb = VV_CLI_HEALTH,
     .usage = "health [SERVICE]",
     .summary = "ask whether the server serves",
     .operands_max = 1,
     .with_server = true,
     .text = "Print SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN, of one service (varve.v1.KV) or "
             "the whole server. The exit code is 0 only for SERVING, and 1 for the others.\n",
     .uses = {{VV_OPT_JSON, "print {\"status\": \"SERVING\"}"}}},
    {.name = "status",
     .verb = VV_CLI_STATUS,
     .usage = "status",
     .summary = "what the server is and how far it has come",
     .with_server = true,
     .text = "Print a line \"name value\" for each: version, role, whether it serves, LSNs, time "
             "since its start; of a follower its primary and how far it is behind; of a primary the "
             "quorum, and a line for each replica.\n",
     .uses = {{VV_OPT_JSON, "print one object"}}},
    {.name = "stats",
     .verb = VV_CLI_STATS,
     .usage = "stats",
     .summary = "numbers about the database",
     .with_server = true,
     .with_data = true,
     .text = "Print a line \"name value\" for each number; from a server, also its own (rpc_...).\n",
     .uses = {{VV_OPT_JSON, "print one object"}}},
    {.name = "flush",
     .verb = VV_CLI_FLUSH,
     .usage = "flush",
     .summary = "move all that is in memory to SSTables",
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Seal the memtable and wait until all that was written before is in SSTables.\n",
     .uses = {JSON_NONE}},
    {.name = "compact",
     .verb = VV_CLI_COMPACT,
     .usage = "compact",
     .summary = "merge all tables into the last level",
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Flush, merge everything into the last level, and wait for it.\n",
     .uses = {JSON_NONE}},
    {.name = "reload",
     .verb = VV_CLI_RELOAD,
     .usage = "reload",
     .summary = "take up a changed configuration",
     .with_server = true,
     .text = "Have the server read its configuration again, as SIGHUP does: file, tokens, limits, "
             "certificates. All of it is checked before any of it applies. A line \"changed KEY\" "
             "stands for each that has changed, and \"restart needed KEY\" for what the server takes "
             "up only when it is started anew.\n",
     .uses = {{VV_OPT_JSON, "print {\"changed\": [...], \"restart_needed\": [...]}"}}},
    {.name = "promote",
     .verb = VV_CLI_PROMOTE,
     .usage = "promote",
     .summary = "make a follower the primary",
     .with_server = true,
     .text = "Make the server, which follows another, a primary. It asks its PEERS first, so that the "
             "old primary can acknowledge nothing any more; it refuses if one of them has newer "
             "writes, or too few answer for a quorum. A primary that is well stops, and hands over "
             "what it has, without loss.\n",
     .uses = {{VV_OPT_FORCE, "in spite of that: writes that were acknowledged may be lost"},
              {VV_OPT_JSON, "print {\"epoch\": N}"}}},
    {.name = "backup",
     .verb = VV_CLI_BACKUP,
     .usage = "backup NAME",
     .summary = "a consistent copy of the whole database",
     .operands_min = 1,
     .operands_max = 1,
     .operand = VV_ARG_DIR,
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Make a backup: a directory with the state of one moment, which varve --data and varved "
             "open. It is synced and read back before it is done; nothing is left of one that fails. "
             "Through a server, NAME is a name below its BACKUP_DIR; with --data, a directory. It "
             "must not be there yet, or with --data be empty.\n",
     .uses = {{VV_OPT_FETCH,
               "NAME is a directory here, to which the files are fetched from the server, several at "
               "once (needs the right replica); one that was cut short is gone on with"},
              {VV_OPT_INCREMENTAL, "an earlier backup: files that are the same there are linked from it"},
              {VV_OPT_LINK,
               "link the database's own files, where the file system can: costs no space, but does not "
               "guard against the device"},
              {VV_OPT_JSON, "print {\"lsn\", \"file_count\", \"bytes\", \"copied_bytes\"}"}}},
    {.name = "restore",
     .verb = VV_CLI_RESTORE,
     .usage = "restore BACKUP DEST",
     .summary = "a database from a backup and an archive",
     .operands_min = 2,
     .operands_max = 2,
     .operand = VV_ARG_DIR,
     .takes_long = true,
     .text = "Make the directory DEST, which must not be there yet or be empty, a database with the "
             "state of the backup in the directory BACKUP or, with an archive (varved's "
             "WAL_ARCHIVE_DIR), with a later state. Every file is checked; nothing is left of DEST if "
             "it fails. Neither asks a server nor changes the backup.\n",
     .uses = {{VV_OPT_ARCHIVE, "bring it forward by this archive, as far as that goes"},
              {VV_OPT_TO_LSN,
               "with --archive: only to this LSN, the last batch of writes that ends at or before it"},
              {VV_OPT_TO_TIME, "with --archive: only to this time, 2026-11-22T20:19:31Z, "
                               "2026-11-22T21:19:31.5+01:00, or Unix milliseconds"},
              {VV_OPT_LINK, "link the backup's files, where the file system can, instead of copying them"},
              {VV_OPT_JSON,
               "print {\"backup_lsn\", \"lsn\", \"unix_ms\", \"records\"}; unix_ms is when the last "
               "write was archived, 0 if none was applied"}}},
    {.name = "verify",
     .verb = VV_CLI_VERIFY,
     .usage = "verify [DIR]",
     .summary = "read everything and check every checksum",
     .operands_max = 1,
     .operand = VV_ARG_DIR,
     .with_server = true,
     .with_data = true,
     .takes_long = true,
     .text = "Read all tables of a server, of the database in DIR, or with --data, and check them. "
             "Each damage is a line: the file, the offset, what is wrong, and the keys that may be "
             "lost. The exit code is 1 if there is any. A database in DIR that can't be opened is "
             "looked through as repair --dry-run does.\n",
     .uses = {HEX_KEYS,
              {VV_OPT_JSON, "an object for each damage, then one for all: {\"file_count\", \"block_count\", "
                            "\"bytes\", \"damage_count\"}"}}},
    {.name = "inspect",
     .verb = VV_CLI_INSPECT,
     .usage = "inspect FILE",
     .summary = "tell what is in a file of a database",
     .operands_min = 1,
     .operands_max = 1,
     .operand = VV_ARG_FILE,
     .takes_long = true,
     .text = "Tell what is in FILE: a segment of the log (wal-*.log), a table (*.sst), a manifest (of "
             "a directory it is its MANIFEST), an archive's file, the side file of a tail that was "
             "cut off the log, or a marker. Each thing in it is a line: what it is, then NAME=VALUE; "
             "a summary comes last. Keys and values are quoted as for batch. Nothing is locked or "
             "written; of a database that runs, what is being written may look torn. Each damage is a "
             "line, too, and what is whole behind it is told all the same. The exit code is 1 if "
             "there is any.\n",
     .uses = {{VV_OPT_ENTRIES, "also each operation of a log and each entry of a table, with its value"},
              {VV_OPT_KEYS_ONLY, "of these not the values"},
              {VV_OPT_HEX, "keys and values are written as hexadecimal digits"},
              {VV_OPT_JSON,
               "an object for each: {\"item\": KIND, ...}, and {\"damage\": ...}; keys and values are "
               "base64, with --hex hexadecimal digits"}}},
    {.name = "repair",
     .verb = VV_CLI_REPAIR,
     .usage = "repair DIR",
     .summary = "make a damaged database one that opens",
     .operands_min = 1,
     .operands_max = 1,
     .operand = VV_ARG_DIR,
     .takes_long = true,
     .text = "Look through the database in DIR, which no process may have open; if it is damaged, "
             "make one of what is whole of it, in its place. Each damage is a line, and so is each "
             "part that is lost: a range of keys of a table, or of LSNs of the log. The old files are "
             "kept in DIR/repair-TIME. A database that is sound is not touched. It may be killed at "
             "any time, and called again. The exit code is 1 if anything is lost, and with --dry-run "
             "if anything is damaged.\n"
             "\n"
             "What was deleted or overwritten may be back where its newer version is lost. Of a "
             "manifest with more than one flipped bit, the tables and the log tell nearly all; the "
             "database gets another id, and slots, remembered writes and the QUORUM are lost. A "
             "replica or a backup that is whole is better than a repair.\n",
     .uses = {{VV_OPT_DRY_RUN, "look, and change nothing"},
              {VV_OPT_KEEP_LATER,
               "of a damaged log take also the batches behind the first that is missing, though "
               "they may build on it; else the log ends there"},
              {VV_OPT_DISCARD_ORIGINALS, "remove the old files once all is done"},
              HEX_KEYS,
              {VV_OPT_JSON, "an object for each damage and each loss, {\"damage\": ...} and {\"lost\": ...}, "
                            "then one for all"}}},
    {.name = "token",
     .verb = VV_CLI_TOKEN,
     .usage = "token USER ROLES",
     .summary = "make a token for a user of a server",
     .operands_min = 2,
     .operands_max = 2,
     .text = "Print a fresh token, which is for USER alone, and the line for the server's "
             "TOKENS_FILE, which has only the token's hash. ROLES are of read,write,admin,replica, "
             "with commas between. The server takes the line up with varve reload.\n",
     .uses = {{VV_OPT_JSON, "print {\"line\", \"token\"}"}}},
    {
        .name = "completion",
        .verb = VV_CLI_COMPLETION,
        .usage = "completion SHELL",
        .summary = "completion for bash or zsh",
        .operands_min = 1,
        .operands_max = 1,
        .operand = VV_ARG_CHOICE,
        .choices = "bash zsh",
        .text = "Print what makes the shell complete varve and varved; SHELL is bash or zsh. The "
                "packages bring it. Elsewhere:\n"
                "\n"
                "    source <(varve completion bash)      # in ~/.bashrc\n"
                "    source <(varve completion zsh)       # in ~/.zshrc, behind compinit\n",
    },
};

const size_t vv_cli_command_count = VV_ARRAY_COUNT(vv_cli_commands);

const vv_cli_command *vv_cli_command_find(const char *name) {
    for (size_t i = 0; i < vv_cli_command_count; i++) {
        if (strcmp(vv_cli_commands[i].name, name) == 0)
            return &vv_cli_commands[i];
    }
    return NULL;
}

bool vv_cli_command_takes(const vv_cli_command *c, vv_cli_option_id id) {
    if (id < VV_OPT_GENERAL_COUNT)
        return true;
    for (size_t i = 0; i < VV_CLI_USES_MAX && c->uses[i].help; i++) {
        if (c->uses[i].id == id)
            return true;
    }
    return false;
}
