/*
 * repl.c - commands from a prompt or, one a line, from a file.
 */
#include "cli/repl.h"

#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "cli/line_editor.h"
#include "cli/output.h"
#include "cli/script.h"

#define WORDS_MAX          4
#define SCAN_LIMIT         100
#define KEY_CANDIDATES_MAX 50

typedef struct repl {
    const vv_cli_args *args;
    vv_client *client;
    bool person; /* at a terminal */
    bool over;
    vv_cli_exit result; /* of the first command that failed */
    uint64_t started_ns;
} repl;

/* A command with its words, which are raw bytes; words[0] is its name. */
typedef void (*command_fn)(repl *r, const vv_slice *words, size_t count);

typedef struct repl_command {
    const char *name;
    size_t words_min, words_max; /* behind the name */
    bool takes_key;              /* first */
    bool takes_value;            /* second */
    command_fn run;
    const char *usage;
    const char *help;
} repl_command;

/* ---- answers ---- */

static void note(repl *r, vv_cli_exit code) {
    if (r->result == VV_CLI_DONE)
        r->result = code;
}

/* Behind an answer, the time that it took; and the end of the line. */
static void end_line(const repl *r) {
    char text[32];
    if (r->person) {
        vv_output_duration(text, sizeof text, vv_clock_mono_ns() - r->started_ns);
        printf("%s(%s)", "  ", text);
    }
    putchar('\n');
}

static void say_failed(repl *r, const vv_client_error *err) {
    fflush(stdout);
    vv_output_error(stderr, err);
    fputc('\n', stderr);
    note(r, VV_CLI_FAILED);
}

static void say_bad(repl *r, const char *what) {
    fflush(stdout);
    fprintf(stderr, "%s\n", what);
    note(r, VV_CLI_USAGE);
}

/* ---- commands ---- */

static void run_put(repl *r, const vv_slice *words, size_t count) {
    (void)count;
    vv_client_error err = {0};
    uint64_t lsn;
    if (!vv_client_put(r->client, words[1], words[2], false, &lsn, &err)) {
        say_failed(r, &err);
        return;
    }
    printf("OK, LSN %" PRIu64, lsn);
    end_line(r);
}

static void run_get(repl *r, const vv_slice *words, size_t count) {
    (void)count;
    vv_client_error err = {0};
    vv_client_value value = {0};
    if (!vv_client_get(r->client, words[1], &value, &err)) {
        say_failed(r, &err);
    } else if (!value.found) {
        printf("not found");
        end_line(r);
        note(r, VV_CLI_NOT_FOUND);
    } else {
        vv_output_word(stdout, vv_bytes_slice(&value.bytes), r->args->hex);
        end_line(r);
    }
    vv_bytes_deinit(&value.bytes);
}

static void run_delete(repl *r, const vv_slice *words, size_t count) {
    (void)count;
    vv_client_error err = {0};
    uint64_t lsn;
    if (!vv_client_del(r->client, words[1], false, &lsn, &err)) {
        say_failed(r, &err);
        return;
    }
    printf("OK, LSN %" PRIu64, lsn);
    end_line(r);
}

typedef struct scanned {
    repl *r;
    uint64_t count;
} scanned;

static void show_entry(void *arg, const varve_entry *entry) {
    scanned *s = arg;
    s->count++;
    vv_output_entry(stdout, entry, false, false, s->r->args->hex);
}

static void run_scan(repl *r, const vv_slice *words, size_t count) {
    vv_client_error err = {0};
    vv_bytes prefix = {0};
    scanned s = {.r = r};
    char digits[24], *end = digits;
    uint64_t limit = SCAN_LIMIT;
    if (count > 2) {
        snprintf(digits, sizeof digits, "%.*s", (int)VV_MIN(words[2].bytes, (size_t)20),
                 (const char *)words[2].data);
        limit = strtoull(digits, &end, 10);
        if (*end || limit == 0 || !isdigit((unsigned char)digits[0])) {
            say_bad(r, "SCAN: LIMIT is a number from 1 on");
            return;
        }
    }
    if (count > 1)
        vv_bytes_append(&prefix, words[1].data, words[1].bytes);
    vv_client_range range = {.prefix = prefix.bytes ? &prefix : NULL, .limit = limit};
    if (!vv_client_scan(r->client, &range, show_entry, &s, &err)) {
        say_failed(r, &err);
    } else if (r->person) {
        printf("%" PRIu64 " %s%s", s.count, s.count == 1 ? "entry" : "entries",
               s.count == limit ? ", and there may be more: SCAN PREFIX LIMIT" : "");
        end_line(r);
    }
    vv_bytes_deinit(&prefix);
}

static void run_stats(repl *r, const vv_slice *words, size_t count) {
    static vv_client_stats stats;
    char part[sizeof stats.numbers[0].name] = "";
    vv_client_error err = {0};
    stats.count = 0;
    if (!vv_client_get_stats(r->client, &stats, &err)) {
        say_failed(r, &err);
        return;
    }
    if (count > 1)
        snprintf(part, sizeof part, "%.*s", (int)VV_MIN(words[1].bytes, sizeof part - 1),
                 (const char *)words[1].data);
    for (size_t i = 0; i < stats.count; i++)
        if (strcasestr(stats.numbers[i].name, part))
            printf("%s %" PRIu64 "\n", stats.numbers[i].name, stats.numbers[i].value);
}

static void run_help(repl *r, const vv_slice *words, size_t count);

static void run_exit(repl *r, const vv_slice *words, size_t count) {
    (void)words, (void)count;
    r->over = true;
}

static const repl_command commands[] = {
    {"PUT", 2, 2, true, true, run_put, "PUT KEY VALUE", "store VALUE under KEY; durable once it says OK"},
    {"GET", 1, 1, true, false, run_get, "GET KEY", "show the value of KEY"},
    {"DELETE", 1, 1, true, false, run_delete, "DELETE KEY", "remove KEY"},
    {"SCAN", 0, 2, true, false, run_scan, "SCAN [PREFIX [LIMIT]]",
     "show entries in key order, 100 unless LIMIT says otherwise; PREFIX \"\" is all"},
    {"STATS", 0, 1, false, false, run_stats, "STATS [WORD]", "show numbers, those with WORD in their names"},
    {"HELP", 0, 0, false, false, run_help, "HELP", "show this"},
    {"EXIT", 0, 0, false, false, run_exit, "EXIT", "leave, as Ctrl-D does"},
};

static void run_help(repl *r, const vv_slice *words, size_t count) {
    (void)r, (void)words, (void)count;
    for (size_t i = 0; i < VV_ARRAY_COUNT(commands); i++)
        printf("  %-22s %s\n", commands[i].usage, commands[i].help);
    printf(
        "\nWords with spaces in them need quotes: \"two words\". In \"...\" and outside of quotes, \\n \\t "
        "\\r \\0\n\\\\ \\\" \\' \\# and \\xNN are escapes, in '...' every byte stands for itself; \"\" is "
        "empty.\n");
}

/* ---- lines ---- */

static const repl_command *find(vv_slice name) {
    const char *text = name.data;
    for (size_t i = 0; i < VV_ARRAY_COUNT(commands); i++) {
        if (strlen(commands[i].name) == name.bytes && strncasecmp(commands[i].name, text, name.bytes) == 0)
            return &commands[i];
    }
    return NULL;
}

/* With --hex, keys and values are digits; *buffer takes the bytes. */
static bool decode(const repl *r, const repl_command *c, vv_slice *words, size_t count, vv_bytes *buffer) {
    if (!r->args->hex)
        return true;
    size_t decoded = (c->takes_key ? 1u : 0u) + (c->takes_value ? 1u : 0u);
    for (size_t i = 1; i < count && i <= decoded; i++) {
        size_t start = buffer->bytes;
        if (!vv_bytes_from_hex(buffer, words[i]))
            return false;
        words[i] = vv_slice_make(buffer->data + start, buffer->bytes - start);
    }
    return true;
}

static void run_line(repl *r, vv_slice line) {
    char message[VV_SCRIPT_MESSAGE_BYTES];
    vv_slice words[WORDS_MAX];
    vv_bytes buffer = {0};
    size_t count;
    r->started_ns = vv_clock_mono_ns();
    /* Words and what they stand for point into it: it does not grow. */
    vv_bytes_reserve(&buffer, 2 * line.bytes);
    if (!vv_script_words(line, words, WORDS_MAX, &count, &buffer, message)) {
        say_bad(r, message);
    } else if (count > 0) {
        const repl_command *c = find(words[0]);
        if (!c) {
            say_bad(r, "there is no such command; HELP lists them");
        } else if (count - 1 < c->words_min || count - 1 > c->words_max) {
            snprintf(message, sizeof message, "it is: %s", c->usage);
            say_bad(r, message);
        } else if (!decode(r, c, words, count, &buffer)) {
            say_bad(r, "not hexadecimal: with --hex keys and values are pairs of digits");
        } else {
            c->run(r, words, count);
        }
    }
    vv_bytes_deinit(&buffer);
    fflush(stdout);
}

/* ---- completion ---- */

static void complete_command(vv_slice word, vv_candidate_fn add, void *to) {
    const char *text = word.data;
    bool lower = word.bytes > 0 && islower((unsigned char)text[0]);
    for (size_t i = 0; i < VV_ARRAY_COUNT(commands); i++) {
        char name[16];
        size_t bytes = strlen(commands[i].name);
        if (bytes < word.bytes || strncasecmp(commands[i].name, text, word.bytes) != 0)
            continue;
        for (size_t j = 0; j <= bytes; j++)
            name[j] = lower ? (char)tolower((unsigned char)commands[i].name[j]) : commands[i].name[j];
        add(to, vv_slice_make(name, bytes));
    }
}

typedef struct found_keys {
    vv_candidate_fn add;
    void *to;
    bool hex;
} found_keys;

static void add_key(void *arg, const varve_entry *entry) {
    found_keys *f = arg;
    vv_bytes word = {0};
    vv_slice key = vv_slice_make(entry->key, entry->key_bytes);
    if (f->hex)
        vv_bytes_to_hex(&word, key);
    else
        vv_bytes_to_word(&word, key);
    f->add(f->to, vv_bytes_slice(&word));
    vv_bytes_deinit(&word);
}

static bool complete(void *arg, vv_slice line, vv_slice word, vv_candidate_fn add, void *to) {
    const repl *r = arg;
    char message[VV_SCRIPT_MESSAGE_BYTES];
    vv_slice words[WORDS_MAX];
    vv_bytes buffer = {0}, prefix = {0};
    vv_client_error err;
    size_t count;
    bool fine = vv_script_words(line, words, WORDS_MAX, &count, &buffer, message);
    const repl_command *c = fine && count > 0 ? find(words[0]) : NULL;
    if (fine && count == (word.bytes ? 1u : 0u)) {
        complete_command(word, add, to);
    } else if (c && c->takes_key && count == (word.bytes ? 2u : 1u)) {
        found_keys found = {.add = add, .to = to, .hex = r->args->hex};
        if (word.bytes && r->args->hex)
            fine = vv_bytes_from_hex(&prefix, words[1]);
        else if (word.bytes)
            vv_bytes_append(&prefix, words[1].data, words[1].bytes);
        vv_client_range range = {
            .prefix = prefix.bytes ? &prefix : NULL, .limit = KEY_CANDIDATES_MAX, .keys_only = true};
        fine = fine && vv_client_scan(r->client, &range, add_key, &found, &err);
    }
    vv_bytes_deinit(&prefix);
    vv_bytes_deinit(&buffer);
    return fine;
}

/* ---- from a person, and from a file ---- */

/* NULL: none is to be kept. */
static const char *history_path(char buf[PATH_MAX]) {
    const char *given = getenv("VARVE_HISTORY"), *home = getenv("HOME");
    if (given)
        return *given ? given : NULL;
    if (!home || !*home)
        return NULL;
    int bytes = snprintf(buf, PATH_MAX, "%s/.varve_history", home);
    return bytes < PATH_MAX ? buf : NULL;
}

static bool read_from_person(repl *r) {
    char path[PATH_MAX];
    vv_slice line;
    vv_line_editor *editor = vv_line_editor_open("varve> ", history_path(path), complete, r);
    if (!editor)
        return false;
    printf("%s, through %s; HELP lists the commands.\n", "varve " VARVE_VERSION_STRING,
           r->args->data ? r->args->data : r->args->server);
    while (!r->over && vv_line_editor_next(editor, &line))
        run_line(r, line);
    if (!r->over)
        putchar('\n');
    vv_line_editor_close(editor);
    return true;
}

static void read_from_file(repl *r) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t bytes;
    while (!r->over && (bytes = getline(&line, &capacity, stdin)) >= 0) {
        if (bytes > 0 && line[bytes - 1] == '\n')
            bytes--;
        run_line(r, vv_slice_make(line, (size_t)bytes));
    }
    free(line);
}

vv_cli_exit vv_cli_repl(const vv_cli_args *args, vv_client *client) {
    repl r = {.args = args, .client = client, .person = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    if (r.person && read_from_person(&r))
        return VV_CLI_DONE;
    r.person = false;
    read_from_file(&r);
    return r.result;
}
