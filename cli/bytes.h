/*
 * bytes.h - growing byte strings, and the forms in which a terminal can carry any byte.
 *
 * The command is one short-lived process: when there is no memory it says so and ends with exit code 3,
 * so that nothing here has a failure to report for that.
 */
#ifndef VV_CLI_BYTES_H
#define VV_CLI_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/slice.h"

/* Zero-initialised is empty. */
typedef struct vv_bytes {
    uint8_t *data;
    size_t bytes;
    size_t capacity_bytes;
} vv_bytes;

static inline vv_slice vv_bytes_slice(const vv_bytes *b) {
    return vv_slice_make(b->data, b->bytes);
}

/* Make room for `more` bytes behind the end; the place to write them. */
uint8_t *vv_bytes_reserve(vv_bytes *b, size_t more);
void vv_bytes_append(vv_bytes *b, const void *data, size_t bytes);
void vv_bytes_push(vv_bytes *b, uint8_t byte);

/* Release; *b is empty again. */
void vv_bytes_deinit(vv_bytes *b);

/* Append what the hexadecimal digits say, two a byte in either case. False, with nothing appended: an odd
 * number of them, or something that is not a digit. */
bool vv_bytes_from_hex(vv_bytes *b, vv_slice digits);

/* Append what base64 with padding says. False, with nothing appended: it is none. */
bool vv_bytes_from_base64(vv_bytes *b, vv_slice text);

/* Append as lower-case hexadecimal digits, or as base64 with padding (RFC 4648). */
void vv_bytes_to_hex(vv_bytes *b, vv_slice raw);
void vv_bytes_to_base64(vv_bytes *b, vv_slice raw);

/* Append as a word that the batch script takes for these bytes: "" if there are none, escapes for what is not
 * printable ASCII or means something there. */
void vv_bytes_to_word(vv_bytes *b, vv_slice raw);

/* The value of a hexadecimal digit, -1 if it is none. */
int vv_hex_digit(uint8_t c);

/* Append all that is left in a file. 0, or the errno; EFBIG: more than limit_bytes. */
int vv_bytes_read(vv_bytes *b, FILE *file, size_t limit_bytes);

#endif
