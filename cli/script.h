/*
 * script.h - the language of `varve batch`: what to write, a line an operation.
 *
 *     # a comment; empty lines are fine
 *     put KEY VALUE
 *     delete KEY
 *
 * Words are separated by spaces and tabs. A word is a run of pieces: bare bytes, "double quoted" or 'single
 * quoted'. Bare and in double quotes a backslash starts an escape: \\ \" \' \n \r \t \0, a backslash before
 * a space is that space, and \xNN is any byte. In single quotes every byte stands for itself. All other
 * bytes, those above 127 among them, stand for themselves. "" is an empty word. A '#' begins a comment
 * where a word could begin. Lines end with a newline, or a carriage return and a newline.
 */
#ifndef VV_CLI_SCRIPT_H
#define VV_CLI_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/slice.h"
#include "cli/bytes.h"
#include "cli/client.h"

/* Zero-initialised is empty. The operations' slices point into `words`. */
typedef struct vv_script {
    vv_client_op *ops;
    size_t count;
    size_t capacity;
    vv_bytes words;
} vv_script;

#define VV_SCRIPT_MESSAGE_BYTES 160

/*
 * Parse a whole script into *script, which must be empty. hex: each word after the verb is hexadecimal
 * digits. False: `message` says what is wrong in which line, and *script needs its deinit all the same.
 */
bool vv_script_parse(vv_script *script, vv_slice text, bool hex, char message[VV_SCRIPT_MESSAGE_BYTES]);

/*
 * The words of one line, which ends without a newline; none of a comment. They are appended to *buffer and
 * point into it, which is valid until it grows. False: `message` says what is wrong.
 */
bool vv_script_words(vv_slice line, vv_slice *words, size_t words_max, size_t *count_out, vv_bytes *buffer,
                     char message[VV_SCRIPT_MESSAGE_BYTES]);

void vv_script_deinit(vv_script *script);

#endif
