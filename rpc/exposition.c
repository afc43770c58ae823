#include "rpc/exposition.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

#define FIRST_BYTES 16384

void vv_exposition_deinit(vv_exposition *e) {
    vv_free(e->text);
    *e = (vv_exposition){0};
}

/* Room for so many more bytes, and the zero. */
static bool make_room(vv_exposition *e, size_t bytes) {
    if (e->failed)
        return false;
    if (e->bytes + bytes < e->capacity)
        return true;
    size_t capacity = VV_MAX(e->capacity, (size_t)FIRST_BYTES);
    while (capacity <= e->bytes + bytes)
        capacity *= 2;
    char *text = vv_realloc(e->text, capacity);
    e->failed = !text;
    if (text) {
        e->text = text;
        e->capacity = capacity;
    }
    return text != NULL;
}

static void add_char(vv_exposition *e, char c) {
    if (!make_room(e, 1))
        return;
    e->text[e->bytes++] = c;
    e->text[e->bytes] = '\0';
}

void vv_exposition_add(vv_exposition *e, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int bytes = vsnprintf(NULL, 0, fmt, args);
    if (bytes < 0)
        e->failed = true;
    else if (make_room(e, (size_t)bytes)) {
        vsnprintf(e->text + e->bytes, e->capacity - e->bytes, fmt, again);
        e->bytes += (size_t)bytes;
    }
    va_end(again);
    va_end(args);
}

void vv_exposition_family(vv_exposition *e, const char *name, const char *type, const char *help) {
    e->family = name;
    vv_exposition_add(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_label_value(vv_exposition *e, const char *value) {
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            add_char(e, '\\');
        if (*value == '\n')
            add_char(e, '\\');
        add_char(e, *value == '\n' ? 'n' : *value);
    }
}

/* le: of a bucket, or NULL. */
static void add_name(vv_exposition *e, const char *suffix, const vv_label *labels, size_t count,
                     const char *le) {
    vv_exposition_add(e, "%s%s", e->family, suffix);
    if (count == 0 && !le)
        return;
    add_char(e, '{');
    for (size_t i = 0; i < count; i++) {
        vv_exposition_add(e, "%s%s=\"", i > 0 ? "," : "", labels[i].name);
        add_label_value(e, labels[i].value);
        add_char(e, '"');
    }
    if (le)
        vv_exposition_add(e, "%sle=\"%s\"", count > 0 ? "," : "", le);
    add_char(e, '}');
}

void vv_exposition_number(vv_exposition *e, const vv_label *labels, size_t count, uint64_t value) {
    add_name(e, "", labels, count, NULL);
    vv_exposition_add(e, " %" PRIu64 "\n", value);
}

void vv_exposition_real(vv_exposition *e, const vv_label *labels, size_t count, double value) {
    add_name(e, "", labels, count, NULL);
    vv_exposition_add(e, " %.9g\n", value);
}

void vv_exposition_spread(vv_exposition *e, const vv_label *labels, size_t count,
                          const vv_spread_copy *spread, uint32_t least, uint32_t most, double unit) {
    char le[32];
    for (uint32_t x = least; x <= most; x++) {
        snprintf(le, sizeof le, "%.9g", (double)(UINT64_C(1) << x) * unit);
        add_name(e, "_bucket", labels, count, le);
        vv_exposition_add(e, " %" PRIu64 "\n", vv_spread_count_to(spread, x));
    }
    uint64_t all = vv_spread_count(spread);
    add_name(e, "_bucket", labels, count, "+Inf");
    vv_exposition_add(e, " %" PRIu64 "\n", all);
    add_name(e, "_sum", labels, count, NULL);
    vv_exposition_add(e, " %.9g\n", (double)spread->sum * unit);
    add_name(e, "_count", labels, count, NULL);
    vv_exposition_add(e, " %" PRIu64 "\n", all);
}

void vv_exposition_json_text(vv_exposition *e, const char *text) {
    add_char(e, '"');
    for (; *text; text++) {
        if ((unsigned char)*text < ' ') {
            vv_exposition_add(e, "\\u%04x", (unsigned)(unsigned char)*text);
            continue;
        }
        if (*text == '\\' || *text == '"')
            add_char(e, '\\');
        add_char(e, *text);
    }
    add_char(e, '"');
}
