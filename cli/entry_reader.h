/*
 * entry_reader.h - entries from a file, in the forms in which `varve scan` writes them.
 *
 *     KEY TAB VALUE                  words as of script.h; empty lines and comments are skipped
 *     KEY TAB VALUE                  hexadecimal digits (hex)
 *     {"key": "...", "value": "..."} base64, or hexadecimal digits (json, json and hex); other fields are
 *                                    left alone
 */
#ifndef VV_CLI_ENTRY_READER_H
#define VV_CLI_ENTRY_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/slice.h"
#include "cli/bytes.h"
#include "cli/script.h"

typedef enum vv_entry_read { VV_ENTRY_READ, VV_ENTRY_END, VV_ENTRY_BAD } vv_entry_read;

/* file, json and hex are the caller's to set; the rest is zero. */
typedef struct vv_entry_reader {
    FILE *file;
    bool json;
    bool hex;
    uint64_t line;  /* the last one that was read, from 1 */
    uint64_t bytes; /* that were read, in all */
    char *text;
    size_t text_capacity;
} vv_entry_reader;

/*
 * The next entry: key and value are appended to *buffer, so many bytes each.
 *
 * BAD: `message` says what is wrong in which line, or that the file can't be read.
 */
vv_entry_read vv_entry_reader_next(vv_entry_reader *r, vv_bytes *buffer, size_t *key_bytes_out,
                                   size_t *value_bytes_out, char message[VV_SCRIPT_MESSAGE_BYTES]);

/* Read past `lines` lines. False: there are fewer. */
bool vv_entry_reader_skip(vv_entry_reader *r, uint64_t lines);

/* The file stays open. */
void vv_entry_reader_deinit(vv_entry_reader *r);

#endif
