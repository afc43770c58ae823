/*
 * golden_value.h - the values of golden databases, told by a key and a number.
 */
#ifndef VV_TESTS_GOLDEN_VALUE_H
#define VV_TESTS_GOLDEN_VALUE_H

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN_VALUE_BYTES_MAX 16384

/* "KEY.VERSION,KEY.VERSION,..." up to `bytes` bytes, without a zero behind. Never changes. */
static inline void golden_value(const char *key, unsigned version, char *to, size_t bytes) {
    char word[64];
    size_t word_bytes = (size_t)snprintf(word, sizeof word, "%s.%u,", key, version);
    for (size_t at = 0; at < bytes; at++)
        to[at] = word[at % word_bytes];
}

#endif
