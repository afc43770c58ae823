/*
 * script.c - the parser of `varve batch`.
 *
 * A word never stands for more bytes than it is written with, so that a buffer as long as the script takes
 * all of them without moving (half as much again with --hex), and operations can point into it while it
 * fills.
 */
#include "cli/script.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define WORDS_MAX 3 /* verb, key, value */

typedef struct parser {
    const uint8_t *at;
    const uint8_t *line_end; /* the newline, or the end of the text */
    size_t line;             /* from 1; 0: there is but one */
    bool hex;
    vv_bytes *words;
    char *message;
} parser;

static bool fail(parser *p, const char *what) {
    if (p->line == 0)
        snprintf(p->message, VV_SCRIPT_MESSAGE_BYTES, "%s", what);
    else
        snprintf(p->message, VV_SCRIPT_MESSAGE_BYTES, "line %zu: %s", p->line, what);
    return false;
}

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\t';
}

/* Behind a backslash. */
static bool parse_escape(parser *p) {
    if (p->at == p->line_end)
        return fail(p, "a backslash at the end of the line");
    uint8_t c = *p->at++;
    switch (c) {
    case '\\':
    case '"':
    case '\'':
    case '#':
    case ' ': vv_bytes_push(p->words, c); return true;
    case 'n': vv_bytes_push(p->words, '\n'); return true;
    case 'r': vv_bytes_push(p->words, '\r'); return true;
    case 't': vv_bytes_push(p->words, '\t'); return true;
    case '0': vv_bytes_push(p->words, 0); return true;
    case 'x':
        if (p->line_end - p->at >= 2 && vv_hex_digit(p->at[0]) >= 0 && vv_hex_digit(p->at[1]) >= 0) {
            vv_bytes_push(p->words, (uint8_t)(vv_hex_digit(p->at[0]) << 4 | vv_hex_digit(p->at[1])));
            p->at += 2;
            return true;
        }
        return fail(p, "\\x needs two hexadecimal digits");
    default:
        return fail(
            p, "unknown escape; known are \\\\ \\\" \\' \\# \\n \\r \\t \\0 \\xNN and \\ before a space");
    }
}

/* Behind the opening quote. */
static bool parse_quoted(parser *p, uint8_t quote) {
    while (p->at < p->line_end) {
        uint8_t c = *p->at++;
        if (c == quote)
            return true;
        if (c == '\\' && quote == '"') {
            if (!parse_escape(p))
                return false;
        } else {
            vv_bytes_push(p->words, c);
        }
    }
    return fail(p, quote == '"' ? "a \" is not closed" : "a ' is not closed");
}

/* A word begins at p->at. */
static bool parse_word(parser *p, vv_slice *out) {
    size_t start = p->words->bytes;
    while (p->at < p->line_end && !is_space(*p->at)) {
        uint8_t c = *p->at++;
        bool fine = true;
        if (c == '"' || c == '\'')
            fine = parse_quoted(p, c);
        else if (c == '\\')
            fine = parse_escape(p);
        else
            vv_bytes_push(p->words, c);
        if (!fine)
            return false;
    }
    *out = vv_slice_make(p->words->data + start, p->words->bytes - start);
    return true;
}

static bool parse_line(parser *p, vv_slice *words, size_t words_max, size_t *count_out) {
    *count_out = 0;
    while (true) {
        while (p->at < p->line_end && is_space(*p->at))
            p->at++;
        if (p->at == p->line_end || *p->at == '#')
            return true;
        if (*count_out == words_max)
            return fail(p, "too many words; a word with spaces in it needs quotes");
        if (!parse_word(p, &words[(*count_out)++]))
            return false;
    }
}

/* The bytes that a word stands for: itself, or what its hexadecimal digits say. */
static bool decode(parser *p, vv_slice *word) {
    if (!p->hex)
        return true;
    size_t start = p->words->bytes;
    if (!vv_bytes_from_hex(p->words, *word))
        return fail(p, "not hexadecimal: with --hex each key and value is pairs of digits");
    *word = vv_slice_make(p->words->data + start, p->words->bytes - start);
    return true;
}

static void push_op(vv_script *s, vv_client_op op) {
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 64;
        s->ops = vv_realloc(s->ops, s->capacity * sizeof *s->ops);
        if (!s->ops) {
            fprintf(stderr, "varve: out of memory\n");
            exit(3);
        }
    }
    s->ops[s->count++] = op;
}

static bool take_line(parser *p, vv_script *s) {
    vv_slice words[WORDS_MAX] = {0};
    size_t count;
    if (!parse_line(p, words, WORDS_MAX, &count))
        return false;
    if (count == 0)
        return true;
    bool put = vv_slice_equal(words[0], vv_slice_str("put"));
    if (!put && !vv_slice_equal(words[0], vv_slice_str("delete")))
        return fail(p, "a line begins with put or delete");
    if (count != (put ? 3u : 2u))
        return fail(p, put ? "put takes a key and a value" : "delete takes a key");
    if (!decode(p, &words[1]) || !decode(p, &words[2]))
        return false;
    push_op(s, (vv_client_op){
                   .kind = put ? VV_CLIENT_PUT : VV_CLIENT_DELETE, .key = words[1], .value = words[2]});
    return true;
}

bool vv_script_parse(vv_script *script, vv_slice text, bool hex, char message[VV_SCRIPT_MESSAGE_BYTES]) {
    parser p = {.at = text.data, .line = 1, .hex = hex, .words = &script->words, .message = message};
    const uint8_t *end = text.bytes ? p.at + text.bytes : p.at;
    message[0] = '\0';
    /* As they are written, and once more as what hexadecimal digits stand for. */
    vv_bytes_reserve(&script->words, text.bytes + (hex ? text.bytes / 2 : 0));
    while (p.at < end) {
        const uint8_t *newline = memchr(p.at, '\n', (size_t)(end - p.at));
        const uint8_t *next = newline ? newline + 1 : end;
        p.line_end = newline ? newline : end;
        if (p.line_end > p.at && p.line_end[-1] == '\r')
            p.line_end--;
        if (!take_line(&p, script))
            return false;
        p.at = next;
        p.line++;
    }
    return true;
}

bool vv_script_words(vv_slice line, vv_slice *words, size_t words_max, size_t *count_out, vv_bytes *buffer,
                     char message[VV_SCRIPT_MESSAGE_BYTES]) {
    const uint8_t *text = line.data;
    parser p = {.at = text, .line_end = text + line.bytes, .words = buffer, .message = message};
    message[0] = '\0';
    if (line.bytes > 0 && text[line.bytes - 1] == '\r')
        p.line_end--;
    vv_bytes_reserve(buffer, line.bytes);
    return parse_line(&p, words, words_max, count_out);
}

void vv_script_deinit(vv_script *script) {
    vv_free(script->ops);
    vv_bytes_deinit(&script->words);
    *script = (vv_script){0};
}
