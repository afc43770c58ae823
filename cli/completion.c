/*
 * completion.c - completion scripts: what differs between commands comes from the tables, the rest stands
 * here as it is.
 *
 * A place on the command line is one of three: the argument of an option, the command's name, or an option or
 * argument of that command.
 */
#include "cli/completion.h"

#include <ctype.h>
#include <string.h>

#include "cli/grammar.h"
#include "rpc/config.h"

/* ---- bash ---- */

/* "--a | --b": a pattern of the options whose argument is of this kind; of all that take one if `all`. */
static void bash_pattern(FILE *out, vv_cli_argument kind, bool all) {
    const char *between = "";
    for (vv_cli_option_id id = 0; id < VV_OPT_COUNT; id++) {
        const vv_cli_option *o = &vv_cli_options[id];
        if (o->argument && (all || o->kind == kind)) {
            fprintf(out, "%s--%s", between, o->name);
            between = " | ";
        }
    }
}

static void bash_arguments(FILE *out) {
    fputs("    case $previous in\n    ", out);
    bash_pattern(out, VV_ARG_FILE, false);
    fputs(") _varve_paths -f; return ;;\n    ", out);
    bash_pattern(out, VV_ARG_DIR, false);
    fputs(") _varve_paths -d; return ;;\n", out);
    for (vv_cli_option_id id = 0; id < VV_OPT_COUNT; id++) {
        if (vv_cli_options[id].kind == VV_ARG_CHOICE)
            fprintf(out, "    --%s) _varve_words '%s'; return ;;\n", vv_cli_options[id].name,
                    vv_cli_options[id].choices);
    }
    fputs("    ", out);
    bash_pattern(out, VV_ARG_ANY, false);
    fputs(") return ;;\n    esac\n", out);
}

static void bash_commands(FILE *out) {
    fputs("    case $command in\n    '') operands='", out);
    for (size_t i = 0; i < vv_cli_command_count; i++)
        fprintf(out, "%s%s", i ? " " : "", vv_cli_commands[i].name);
    fputs("' ;;\n", out);
    for (size_t i = 0; i < vv_cli_command_count; i++) {
        const vv_cli_command *c = &vv_cli_commands[i];
        fprintf(out, "    %s) options+='", c->name);
        for (size_t j = 0; j < VV_CLI_USES_MAX && c->uses[j].help; j++)
            fprintf(out, " --%s", vv_cli_options[c->uses[j].id].name);
        fprintf(out, "'");
        if (c->operand == VV_ARG_FILE || c->operand == VV_ARG_DIR)
            fprintf(out, " paths=-%c", c->operand == VV_ARG_FILE ? 'f' : 'd');
        else if (c->choices)
            fprintf(out, " operands='%s'", c->choices);
        fputs(" ;;\n", out);
    }
    fputs("    esac\n", out);
}

static void bash_key(FILE *out, const vv_server_key *key) {
    fputs(" --", out);
    for (const char *at = key->key; *at; at++)
        fputc(*at == '_' ? '-' : tolower((unsigned char)*at), out);
    fputc('=', out);
}

void vv_cli_completion_bash(FILE *out) {
    fputs("# bash completion for varve and varved; made by: varve completion bash\n"
          "_varve_words() {\n"
          "    mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$current\")\n"
          "}\n"
          "\n"
          "_varve_paths() {\n"
          "    compopt -o filenames 2>/dev/null\n"
          "    mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$current\")\n"
          "}\n"
          "\n"
          "# --option=argument comes in three words.\n"
          "_varve_place() {\n"
          "    current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} COMPREPLY=()\n"
          "    if [[ $current == = ]]; then\n"
          "        current=\n"
          "    elif [[ $previous == = && $COMP_CWORD -gt 1 ]]; then\n"
          "        previous=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "    fi\n"
          "}\n"
          "\n"
          "_varve() {\n"
          "    local current previous command='' options operands='' paths='' i\n"
          "    _varve_place\n",
          out);
    bash_arguments(out);
    fputs("    for ((i = 1; i < COMP_CWORD; i++)); do\n"
          "        case ${COMP_WORDS[i]} in\n"
          "        ",
          out);
    bash_pattern(out, VV_ARG_ANY, true);
    fputs(")\n"
          "            [[ ${COMP_WORDS[i + 1]} != = ]] || i=$((i + 1))\n"
          "            i=$((i + 1)) ;;\n"
          "        -*) ;;\n"
          "        *) command=${COMP_WORDS[i]}; break ;;\n"
          "        esac\n"
          "    done\n"
          "    options='",
          out);
    for (vv_cli_option_id id = 0; id < VV_OPT_GENERAL_COUNT; id++)
        fprintf(out, "%s--%s", id ? " " : "", vv_cli_options[id].name);
    fputs("'\n", out);
    bash_commands(out);
    fputs("    if [[ $current == -* ]]; then\n"
          "        _varve_words \"$options\"\n"
          "    elif [[ -n $paths ]]; then\n"
          "        _varve_paths \"$paths\"\n"
          "    else\n"
          "        _varve_words \"$operands\"\n"
          "    fi\n"
          "}\n"
          "\n"
          "_varved() {\n"
          "    local current previous\n"
          "    _varve_place\n"
          "    case $previous in\n"
          "    --config | *-file | *-cert | *-key | *-ca) _varve_paths -f; return ;;\n"
          "    --data | *-dir) _varve_paths -d; return ;;\n"
          "    esac\n"
          "    [[ ${COMP_WORDS[COMP_CWORD]} != = && ${COMP_WORDS[COMP_CWORD - 1]} != = ]] || return\n"
          "    compopt -o nospace 2>/dev/null\n"
          "    _varve_words '--config= --print-config --help --version",
          out);
    vv_server_key k;
    for (size_t i = 0; vv_server_config_key(i, &k); i++)
        bash_key(out, &k);
    fputs("'\n"
          "}\n"
          "\n"
          "complete -F _varve varve\n"
          "complete -F _varved varved\n",
          out);
}

/* ---- zsh ---- */

/* The first clause of a text, inside '...' and inside brackets or before a colon. */
static void zsh_text(FILE *out, const char *text) {
    size_t bytes = strcspn(text, ";:(\n");
    while (bytes > 0 && (text[bytes - 1] == ' ' || text[bytes - 1] == ','))
        bytes--;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '\'')
            fputs("'\\''", out);
        else if (text[i] == '[' || text[i] == ']' || text[i] == '\\')
            fprintf(out, "\\%c", text[i]);
        else
            fputc(text[i], out);
    }
}

static void zsh_action(FILE *out, vv_cli_argument kind, const char *choices) {
    switch (kind) {
    case VV_ARG_FILE: fputs("_files", out); break;
    case VV_ARG_DIR: fputs("_files -/", out); break;
    case VV_ARG_CHOICE: fprintf(out, "(%s)", choices); break;
    case VV_ARG_ANY: break;
    }
}

static void zsh_option(FILE *out, vv_cli_option_id id, const char *help) {
    const vv_cli_option *o = &vv_cli_options[id];
    fprintf(out, " \\\n            '--%s%s[", o->name, o->argument ? "=" : "");
    zsh_text(out, help);
    fputc(']', out);
    if (o->argument) {
        fprintf(out, ":%s:", o->argument);
        zsh_action(out, o->kind, o->choices);
    }
    fputc('\'', out);
}

static void zsh_command(FILE *out, const vv_cli_command *c) {
    fprintf(out, "    %s)\n        _arguments $general", c->name);
    for (size_t i = 0; i < VV_CLI_USES_MAX && c->uses[i].help; i++)
        zsh_option(out, c->uses[i].id, c->uses[i].help);
    if (c->operands_max > 0) {
        fputs(" \\\n            '*:argument:", out);
        zsh_action(out, c->operand, c->choices);
        fputc('\'', out);
    }
    fputs(" ;;\n", out);
}

static void zsh_key(FILE *out, const vv_server_key *key) {
    size_t bytes = strlen(key->key);
    bool is_dir = bytes > 4 && strcmp(key->key + bytes - 4, "_DIR") == 0;
    bool is_file =
        strstr(key->key, "_FILE") || strstr(key->key, "_TLS_") || strncmp(key->key, "TLS_", 4) == 0;
    fputs(" \\\n        '--", out);
    for (const char *at = key->key; *at; at++)
        fputc(*at == '_' ? '-' : tolower((unsigned char)*at), out);
    fputs("=[", out);
    zsh_text(out, key->meaning);
    fputs("]:value:", out);
    zsh_action(out,
               is_dir || strcmp(key->key, "DATA") == 0 ? VV_ARG_DIR
               : is_file                               ? VV_ARG_FILE
                                                       : VV_ARG_ANY,
               NULL);
    fputc('\'', out);
}

void vv_cli_completion_zsh(FILE *out) {
    fputs("#compdef varve varved\n"
          "# made by: varve completion zsh\n"
          "_varve_commands() {\n"
          "    local -a commands=(\n",
          out);
    for (size_t i = 0; i < vv_cli_command_count; i++) {
        fprintf(out, "        '%s:", vv_cli_commands[i].name);
        zsh_text(out, vv_cli_commands[i].summary);
        fputs("'\n", out);
    }
    fputs("    )\n"
          "    _describe -t commands command commands\n"
          "}\n"
          "\n"
          "_varve_varve() {\n"
          "    local curcontext=$curcontext state line\n"
          "    local -A opt_args\n"
          "    local -a general=(",
          out);
    for (vv_cli_option_id id = 0; id < VV_OPT_GENERAL_COUNT; id++)
        zsh_option(out, id, vv_cli_options[id].help);
    fputs(" \\\n    )\n"
          "    _arguments -C $general '1:command:_varve_commands' '*::argument:->arguments' && return\n"
          "    [[ $state == arguments ]] || return\n"
          "    case $words[1] in\n",
          out);
    for (size_t i = 0; i < vv_cli_command_count; i++)
        zsh_command(out, &vv_cli_commands[i]);
    fputs("    esac\n"
          "}\n"
          "\n"
          "_varve_varved() {\n"
          "    _arguments '--config=[the configuration file]:FILE:_files' \\\n"
          "        '--print-config[tell what is in force]' '--help[tell about varved]' \\\n"
          "        '--version[tell the version]'",
          out);
    vv_server_key k;
    for (size_t i = 0; vv_server_config_key(i, &k); i++)
        zsh_key(out, &k);
    fputs("\n"
          "}\n"
          "\n"
          "_varve() {\n"
          "    case $service in\n"
          "    varved) _varve_varved \"$@\" ;;\n"
          "    *) _varve_varve \"$@\" ;;\n"
          "    esac\n"
          "}\n"
          "\n"
          "if [[ $funcstack[1] == _varve ]]; then\n"
          "    _varve \"$@\"\n"
          "else\n"
          "    compdef _varve varve varved\n"
          "fi\n",
          out);
}
