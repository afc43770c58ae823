#include "cli/entry_reader.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"

static vv_entry_read bad(const vv_entry_reader *r, char *message, const char *what) {
    snprintf(message, VV_SCRIPT_MESSAGE_BYTES, "line %llu: %s", (unsigned long long)r->line, what);
    return VV_ENTRY_BAD;
}

/* The next line without its end. */
static vv_entry_read read_line(vv_entry_reader *r, vv_slice *out, char *message) {
    errno = 0;
    ssize_t bytes = getline(&r->text, &r->text_capacity, r->file);
    if (bytes < 0 && (ferror(r->file) || errno == ENOMEM)) {
        snprintf(message, VV_SCRIPT_MESSAGE_BYTES, "behind line %llu: %s", (unsigned long long)r->line,
                 strerror(errno ? errno : EIO));
        return VV_ENTRY_BAD;
    }
    if (bytes < 0)
        return VV_ENTRY_END;
    r->line++;
    r->bytes += (uint64_t)bytes;
    size_t length = (size_t)bytes;
    if (length > 0 && r->text[length - 1] == '\n')
        length--;
    if (length > 0 && r->text[length - 1] == '\r')
        length--;
    *out = vv_slice_make(r->text, length);
    return VV_ENTRY_READ;
}

static vv_entry_read take_words(const vv_entry_reader *r, vv_slice line, vv_bytes *buffer, size_t *key_bytes,
                                size_t *value_bytes, bool *none, char *message) {
    char why[VV_SCRIPT_MESSAGE_BYTES];
    vv_slice words[2];
    size_t count;
    if (!vv_script_words(line, words, VV_ARRAY_COUNT(words), &count, buffer, why))
        return bad(r, message, why);
    *none = count == 0;
    if (count == 1)
        return bad(r, message, "there is no value: a line is a key, a tab and a value");
    if (count == 2) {
        *key_bytes = words[0].bytes;
        *value_bytes = words[1].bytes;
    }
    return VV_ENTRY_READ;
}

static vv_entry_read take_hex(const vv_entry_reader *r, vv_slice line, vv_bytes *buffer, size_t *key_bytes,
                              size_t *value_bytes, bool *none, char *message) {
    const char *text = line.data, *tab = line.bytes ? memchr(text, '\t', line.bytes) : NULL;
    *none = line.bytes == 0;
    if (*none)
        return VV_ENTRY_READ;
    if (!tab)
        return bad(r, message, "there is no value: a line is a key, a tab and a value");
    size_t key_digits = (size_t)(tab - text), start = buffer->bytes;
    if (!vv_bytes_from_hex(buffer, vv_slice_make(text, key_digits)))
        return bad(r, message, "the key is not hexadecimal: with --hex it is pairs of digits");
    *key_bytes = buffer->bytes - start;
    if (!vv_bytes_from_hex(buffer, vv_slice_make(tab + 1, line.bytes - key_digits - 1)))
        return bad(r, message, "the value is not hexadecimal: with --hex it is pairs of digits");
    *value_bytes = buffer->bytes - start - *key_bytes;
    return VV_ENTRY_READ;
}

static bool take_field(const json_t *object, const char *name, bool hex, vv_bytes *buffer,
                       size_t *bytes_out) {
    const json_t *field = json_object_get(object, name);
    size_t start = buffer->bytes;
    if (!json_is_string(field))
        return false;
    vv_slice text = vv_slice_make(json_string_value(field), json_string_length(field));
    bool fine = hex ? vv_bytes_from_hex(buffer, text) : vv_bytes_from_base64(buffer, text);
    *bytes_out = buffer->bytes - start;
    return fine;
}

static vv_entry_read take_json(const vv_entry_reader *r, vv_slice line, vv_bytes *buffer, size_t *key_bytes,
                               size_t *value_bytes, bool *none, char *message) {
    *none = line.bytes == 0;
    if (*none)
        return VV_ENTRY_READ;
    json_error_t why;
    json_t *object = json_loadb(line.data, line.bytes, 0, &why);
    vv_entry_read result = VV_ENTRY_READ;
    if (!object)
        result = bad(r, message, why.text);
    else if (!take_field(object, "key", r->hex, buffer, key_bytes))
        result = bad(r, message,
                     r->hex ? "there is no \"key\" in hexadecimal digits" //
                            : "there is no \"key\" in base64");
    else if (!take_field(object, "value", r->hex, buffer, value_bytes))
        result =
            bad(r, message,
                r->hex ? "there is no \"value\" in hexadecimal digits" : "there is no \"value\" in base64");
    json_decref(object);
    return result;
}

vv_entry_read vv_entry_reader_next(vv_entry_reader *r, vv_bytes *buffer, size_t *key_bytes_out,
                                   size_t *value_bytes_out, char message[VV_SCRIPT_MESSAGE_BYTES]) {
    vv_slice line = {0};
    bool none = true;
    while (none) {
        vv_entry_read read = read_line(r, &line, message);
        if (read != VV_ENTRY_READ)
            return read;
        if (r->json)
            read = take_json(r, line, buffer, key_bytes_out, value_bytes_out, &none, message);
        else if (r->hex)
            read = take_hex(r, line, buffer, key_bytes_out, value_bytes_out, &none, message);
        else
            read = take_words(r, line, buffer, key_bytes_out, value_bytes_out, &none, message);
        if (read != VV_ENTRY_READ)
            return read;
    }
    return VV_ENTRY_READ;
}

bool vv_entry_reader_skip(vv_entry_reader *r, uint64_t lines) {
    char message[VV_SCRIPT_MESSAGE_BYTES];
    vv_slice line;
    for (; lines > 0; lines--)
        if (read_line(r, &line, message) != VV_ENTRY_READ)
            return false;
    return true;
}

void vv_entry_reader_deinit(vv_entry_reader *r) {
    free(r->text);
    r->text = NULL;
}
