#include "rpc/log_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"

#define TAIL_BYTES 2 /* "}\n" */

/* A line that grows, or has no room for more. */
typedef struct line {
    char *buf;
    size_t used;
    size_t capacity;
    bool full;
} line;

static void put(line *l, const char *bytes, size_t count) {
    if (l->full || count > l->capacity - l->used) {
        l->full = true;
        return;
    }
    memcpy(l->buf + l->used, bytes, count);
    l->used += count;
}

static void put_text(line *l, const char *text) {
    put(l, text, strlen(text));
}

static void put_number(line *l, uint64_t number) {
    char digits[24];
    put(l, digits, (size_t)snprintf(digits, sizeof digits, "%" PRIu64, number));
}

/* ---- values ---- */

static bool is_plain(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("._:/@+-,%*~[]()", c));
}

/* The letter of a two-character escape that both formats have, or 0. */
static char short_escape(uint8_t c) {
    switch (c) {
    case '"': return '"';
    case '\\': return '\\';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return 0;
    }
}

/* prefix: "\\x", or "\\u00" in JSON. */
static void put_escaped(line *l, uint8_t c, const char *prefix) {
    static const char digits[] = "0123456789abcdef";
    char letter = short_escape(c);
    if (letter)
        put(l, (char[]){'\\', letter}, 2);
    else if (c >= ' ' && c < 0x7f)
        put(l, (char[]){(char)c}, 1);
    else {
        put_text(l, prefix);
        put(l, (char[]){digits[c >> 4], digits[c & 15]}, 2);
    }
}

static void put_text_value(line *l, vv_slice value) {
    const uint8_t *bytes = value.data;
    bool plain = value.bytes > 0;
    for (size_t i = 0; i < value.bytes && plain; i++)
        plain = is_plain(bytes[i]);
    if (plain) {
        put(l, value.data, value.bytes);
        return;
    }
    put_text(l, "\"");
    for (size_t i = 0; i < value.bytes; i++)
        put_escaped(l, bytes[i], "\\x");
    put_text(l, "\"");
}

/* Bytes of the well-formed UTF-8 character (RFC 3629) at the front, 0 if there is none. */
static size_t character_bytes(const uint8_t *at, size_t left) {
    uint8_t c = at[0];
    size_t bytes = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : 4;
    if (c > 0xf4 || (c >= 0x80 && c < 0xc2) || bytes > left)
        return 0;
    for (size_t i = 1; i < bytes; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    /* Too long a form, a surrogate, beyond U+10FFFF. */
    if ((c == 0xe0 && at[1] < 0xa0) || (c == 0xed && at[1] > 0x9f) || (c == 0xf0 && at[1] < 0x90) ||
        (c == 0xf4 && at[1] > 0x8f))
        return 0;
    return bytes;
}

static void put_json_string(line *l, vv_slice value) {
    const uint8_t *bytes = value.data;
    put_text(l, "\"");
    for (size_t i = 0; i < value.bytes;) {
        size_t count = character_bytes(bytes + i, value.bytes - i);
        if (count == 1)
            put_escaped(l, bytes[i], "\\u00");
        else if (count > 1)
            put(l, (const char *)bytes + i, count);
        else
            put_text(l, "\\ufffd");
        i += count ? count : 1;
    }
    put_text(l, "\"");
}

/* ---- lines ---- */

static void put_field(line *l, vv_log_format format, const vv_log_field *f) {
    bool json = format == VV_LOG_FORMAT_JSON;
    size_t before = l->used;
    put_text(l, json ? ",\"" : " ");
    put_text(l, f->key);
    put_text(l, json ? "\":" : "=");
    if (f->is_number)
        put_number(l, f->number);
    else if (json)
        put_json_string(l, f->text);
    else
        put_text_value(l, f->text);
    if (l->full) { /* half a field would be a lie */
        l->used = before;
        l->full = false;
    }
}

static void put_time(line *l, uint64_t unix_ms) {
    char text[40];
    struct tm utc;
    time_t seconds = (time_t)(unix_ms / 1000);
    gmtime_r(&seconds, &utc);
    size_t used = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + used, sizeof text - used, ".%03uZ", (unsigned)(unix_ms % 1000));
    put_text(l, text);
}

size_t vv_log_format_line(char buf[VV_LOG_LINE_BYTES], vv_log_format format, uint64_t unix_ms,
                          vv_log_level level, const char *event, const vv_log_field *fields, size_t count) {
    static const char *const levels[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    bool json = format == VV_LOG_FORMAT_JSON;
    line l = {.buf = buf, .capacity = VV_LOG_LINE_BYTES - TAIL_BYTES};
    put_text(&l, json ? "{\"ts\":\"" : "");
    put_time(&l, unix_ms);
    put_text(&l, json ? "\",\"level\":\"" : " ");
    put_text(&l, levels[level]);
    put_text(&l, json ? "\",\"event\":\"" : strlen(levels[level]) == 4 ? "  " : " ");
    put_text(&l, event);
    put_text(&l, json ? "\"" : "");
    VV_ASSERT(!l.full);
    for (size_t i = 0; i < count; i++)
        put_field(&l, format, &fields[i]);
    l.capacity += TAIL_BYTES;
    put_text(&l, json ? "}\n" : "\n");
    return l.used;
}
