#include "cli/help.h"

#include "base/manual.h"
#include "engine/varve.h"

#define COLUMN 22

static void option_term(vv_cli_option_id id, char *buf, size_t buf_bytes) {
    const vv_cli_option *o = &vv_cli_options[id];
    snprintf(buf, buf_bytes, "--%s%s%s", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
}

static void general_options(const vv_manual *m) {
    char term[64];
    for (vv_cli_option_id id = 0; id < VV_OPT_GENERAL_COUNT; id++) {
        option_term(id, term, sizeof term);
        vv_manual_item(m, term, vv_cli_options[id].help, COLUMN);
    }
}

static void uses(const vv_manual *m, const vv_cli_command *c) {
    char term[64];
    for (size_t i = 0; i < VV_CLI_USES_MAX && c->uses[i].help; i++) {
        option_term(c->uses[i].id, term, sizeof term);
        vv_manual_item(m, term, c->uses[i].help, COLUMN);
    }
}

#define EXIT_CODES                                                                                           \
    "0 done, 1 key not found (or not serving, or damage found, or something lost by a repair), 2 usage, 3 "  \
    "the call failed.\n"
#define RULES                                                                                                \
    "Options may stand anywhere, and their names may be shortened; behind -- everything is an argument, "    \
    "such as a key that begins with '-'.\n"

void vv_cli_help(FILE *out) {
    vv_manual m = {.out = out};
    fprintf(out, "varve - store and read data in Varve, a durable key-value store\n\n"
                 "Usage: varve [OPTION]... COMMAND [ARGUMENT]...\n");
    vv_manual_heading(&m, "Commands");
    for (size_t i = 0; i < vv_cli_command_count; i++)
        vv_manual_item(&m, vv_cli_commands[i].usage, vv_cli_commands[i].summary, COLUMN);
    vv_manual_heading(&m, "Options");
    general_options(&m);
    vv_manual_text(&m, "\nvarve COMMAND --help tells more about one. " RULES "\nExit codes: " EXIT_CODES);
}

void vv_cli_help_command(FILE *out, const vv_cli_command *c) {
    vv_manual m = {.out = out};
    fprintf(out, "Usage: varve [OPTION]... %s\n\n", c->usage);
    vv_manual_text(&m, c->text);
    if (c->uses[0].help) {
        vv_manual_heading(&m, "Options");
        uses(&m, c);
    }
    if (c->with_server || c->with_data) {
        vv_manual_heading(&m, "Options of every command");
        general_options(&m);
    }
}

void vv_cli_manual_page(FILE *out) {
    vv_manual m = {.out = out, .roff = true};
    vv_manual_begin(&m, "varve", 1, VARVE_VERSION_STRING, "varve - store and read data in Varve");
    vv_manual_heading(&m, "Synopsis");
    vv_manual_text(&m, "varve [OPTION]... COMMAND [ARGUMENT]...\n");
    vv_manual_heading(&m, "Description");
    vv_manual_text(&m,
                   "Varve is a durable key-value store. varve puts, gets and looks after what is in it: "
                   "through a server, varved(8), or with --data in a directory that no process has open.\n"
                   "\n"
                   "A key has 1 to 65,535 bytes, any bytes, and keys are ordered bytewise. A value may be "
                   "empty. Values go to standard output as they are, and a failure is one line on standard "
                   "error.\n");
    vv_manual_heading(&m, "Options");
    vv_manual_text(&m, RULES);
    general_options(&m);
    vv_manual_heading(&m, "Commands");
    for (size_t i = 0; i < vv_cli_command_count; i++) {
        vv_manual_subheading(&m, vv_cli_commands[i].usage);
        vv_manual_text(&m, vv_cli_commands[i].text);
        uses(&m, &vv_cli_commands[i]);
    }
    vv_manual_heading(&m, "Exit status");
    vv_manual_text(&m, EXIT_CODES);
    vv_manual_heading(&m, "Environment");
    vv_manual_item(&m, "VARVE_SERVER", "the server to ask, where --server does not say", COLUMN);
    vv_manual_item(&m, "VARVE_SERVER_TOKEN", "the token to show it", COLUMN);
    vv_manual_item(&m, "VARVE_SERVER_TLS_CA", "the file with its CA", COLUMN);
    vv_manual_item(&m, "VARVE_HISTORY", "the file with the history of repl; empty: none is kept", COLUMN);
    vv_manual_heading(&m, "Examples");
    vv_manual_text(&m, "    varve put greeting hello\n"
                       "    varve get greeting\n"
                       "    varve scan --prefix user: --keys-only --limit 10\n"
                       "    printf 'put a 1\\ndelete b\\n' | varve batch\n"
                       "    varve --data /var/lib/varve verify\n");
    vv_manual_heading(&m, "See also");
    vv_manual_text(&m, "varved(8)\n");
}
