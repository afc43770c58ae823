#include "base/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"

typedef struct unit {
    const char *name;
    uint64_t factor;
} unit;

/* Largest first: formatting takes the first that divides. */
static const unit size_units[] = {
    {"GiB", UINT64_C(1) << 30}, {"MiB", UINT64_C(1) << 20}, {"KiB", UINT64_C(1) << 10}, {"B", 1}, {"", 1}};
static const unit duration_units[] = {{"s", 1000000}, {"ms", 1000}, {"us", 1}};

static bool key_equal(const char *canonical, const char *key) {
    for (; *canonical && *key; canonical++, key++) {
        char c = *key == '-' ? '_' : (char)toupper((unsigned char)*key);
        if (c != *canonical)
            return false;
    }
    return *canonical == '\0' && *key == '\0';
}

const vv_option *vv_config_find(vv_option_table t, const char *key) {
    for (size_t i = 0; i < t.count; i++)
        if (key_equal(t.options[i].key, key))
            return &t.options[i];
    return NULL;
}

/* A decimal number, digits only, then one of the units. False: anything else, an overflow included. */
static bool parse_number(const char *text, const unit *units, size_t unit_count, uint64_t *out) {
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    uint64_t number = strtoull(text, &end, 10);
    if (errno != 0)
        return false;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < unit_count; i++)
        if (strcasecmp(end, units[i].name) == 0)
            return !__builtin_mul_overflow(number, units[i].factor, out);
    return false;
}

static bool parse_bool(const char *text, bool *out) {
    static const char *const words[] = {"false", "true", "off", "on", "no", "yes", "0", "1"};
    for (size_t i = 0; i < VV_ARRAY_COUNT(words); i++)
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    return false;
}

static bool parse_rate(const vv_option *o, const char *text, double *out) {
    char *end;
    if (!isdigit((unsigned char)*text) && *text != '.')
        return false;
    *out = strtod(text, &end);
    return *end == '\0' && *out >= 0.0 && (*out < 1.0 || (o->max == 1 && *out <= 1.0));
}

static bool set_number(const vv_option *o, void *field, const char *value, const unit *units, size_t count) {
    uint64_t n;
    if (!parse_number(value, units, count, &n) || n < o->min || n > o->max)
        return false;
    if (o->power_of_two && (n & (n - 1)) != 0)
        return false;
    memcpy(field, &n, sizeof n);
    return true;
}

static bool set_bytes_or_count(const vv_option *o, void *field, const char *value) {
    if (value[0] == '\0' || value[strspn(value, "0123456789")] != '\0')
        return set_number(o, field, value, size_units, VV_ARRAY_COUNT(size_units));
    uint64_t n;
    if (!parse_number(value, size_units, VV_ARRAY_COUNT(size_units), &n) || n > o->max)
        return false;
    n |= VV_OPTION_IS_COUNT;
    memcpy(field, &n, sizeof n);
    return true;
}

static bool set_choice(const vv_option *o, void *field, const char *value) {
    for (uint32_t i = 0; o->choices[i]; i++)
        if (strcasecmp(o->choices[i], value) == 0) {
            memcpy(field, &i, sizeof i);
            return true;
        }
    return false;
}

static bool set_field(const vv_option *o, void *field, const char *value) {
    static const unit plain[] = {{"", 1}};
    switch (o->type) {
    case VV_OPTION_BYTES: return set_number(o, field, value, size_units, VV_ARRAY_COUNT(size_units));
    case VV_OPTION_BYTES_OR_COUNT: return set_bytes_or_count(o, field, value);
    case VV_OPTION_DURATION:
        return set_number(o, field, value, duration_units, VV_ARRAY_COUNT(duration_units));
    case VV_OPTION_COUNT: return set_number(o, field, value, plain, 1);
    case VV_OPTION_CHOICE: return set_choice(o, field, value);
    case VV_OPTION_RATE: {
        double rate;
        if (!parse_rate(o, value, &rate))
            return false;
        memcpy(field, &rate, sizeof rate);
        return true;
    }
    case VV_OPTION_BOOL: {
        bool b;
        if (!parse_bool(value, &b))
            return false;
        memcpy(field, &b, sizeof b);
        return true;
    }
    case VV_OPTION_TEXT:
        if (strlen(value) > o->max)
            return false;
        memcpy(field, value, strlen(value) + 1);
        return true;
    }
    return false;
}

vv_status vv_config_set(vv_option_table t, void *settings, const char *key, const char *value,
                        vv_error *err) {
    const vv_option *o = vv_config_find(t, key);
    if (!o)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_UNKNOWN_OPTION, 0),
                       "%s: unknown configuration key", key);
    if (set_field(o, (char *)settings + o->offset, value))
        return VV_STATUS_OK;
    char allowed[VV_OPTION_TEXT_BYTES];
    vv_option_allowed(o, allowed, sizeof allowed);
    return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0), "%s = %s: allowed is %s",
                   o->key, value, allowed);
}

void vv_config_defaults(vv_option_table t, void *settings) {
    for (size_t i = 0; i < t.count; i++) {
        bool accepted =
            set_field(&t.options[i], (char *)settings + t.options[i].offset, t.options[i].default_value);
        VV_ASSERT(accepted);
    }
}

static void format_number(uint64_t n, const unit *units, size_t count, char *buf, size_t buf_bytes) {
    for (size_t i = 0; i < count; i++)
        if ((n != 0 && n % units[i].factor == 0) || i + 1 == count) {
            snprintf(buf, buf_bytes, "%" PRIu64 "%s", n / units[i].factor, units[i].name);
            return;
        }
}

static void format_typed(vv_option_type type, uint64_t n, char *buf, size_t buf_bytes) {
    if (type == VV_OPTION_BYTES || (type == VV_OPTION_BYTES_OR_COUNT && !(n & VV_OPTION_IS_COUNT)))
        format_number(n, size_units, VV_ARRAY_COUNT(size_units) - 1, buf, buf_bytes);
    else if (type == VV_OPTION_DURATION)
        format_number(n, duration_units, VV_ARRAY_COUNT(duration_units), buf, buf_bytes);
    else
        snprintf(buf, buf_bytes, "%" PRIu64, n & ~VV_OPTION_IS_COUNT);
}

void vv_config_format(const vv_option *o, const void *settings, char *buf, size_t buf_bytes) {
    const char *field = (const char *)settings + o->offset;
    switch (o->type) {
    case VV_OPTION_BYTES:
    case VV_OPTION_BYTES_OR_COUNT:
    case VV_OPTION_DURATION:
    case VV_OPTION_COUNT: {
        uint64_t n;
        memcpy(&n, field, sizeof n);
        format_typed(o->type, n, buf, buf_bytes);
        break;
    }
    case VV_OPTION_RATE: {
        double rate;
        memcpy(&rate, field, sizeof rate);
        snprintf(buf, buf_bytes, "%g", rate);
        break;
    }
    case VV_OPTION_CHOICE: {
        uint32_t index;
        memcpy(&index, field, sizeof index);
        snprintf(buf, buf_bytes, "%s", o->choices[index]);
        break;
    }
    case VV_OPTION_BOOL: {
        bool b;
        memcpy(&b, field, sizeof b);
        snprintf(buf, buf_bytes, "%s", b ? "true" : "false");
        break;
    }
    case VV_OPTION_TEXT: snprintf(buf, buf_bytes, "%s", field); break;
    }
}

void vv_option_allowed(const vv_option *o, char *buf, size_t buf_bytes) {
    char low[32], high[32];
    switch (o->type) {
    case VV_OPTION_BYTES:
    case VV_OPTION_BYTES_OR_COUNT:
    case VV_OPTION_DURATION:
    case VV_OPTION_COUNT:
        format_typed(o->type, o->min, low, sizeof low);
        format_typed(o->type, o->max, high, sizeof high);
        snprintf(buf, buf_bytes, "%s from %s to %s",
                 o->power_of_two                 ? "a power of two"
                 : o->type == VV_OPTION_BYTES    ? "a size"
                 : o->type == VV_OPTION_DURATION ? "a duration"
                                                 : "a number",
                 low, high);
        break;
    case VV_OPTION_RATE:
        snprintf(buf, buf_bytes, "a fraction from 0 to %s1", o->max == 1 ? "" : "below ");
        break;
    case VV_OPTION_CHOICE: {
        size_t used = (size_t)snprintf(buf, buf_bytes, "%s", o->choices[1] ? "one of " : "");
        for (size_t i = 0; o->choices[i] && used < buf_bytes; i++)
            used += (size_t)snprintf(buf + used, buf_bytes - used, "%s%s", i ? ", " : "", o->choices[i]);
        break;
    }
    case VV_OPTION_BOOL: snprintf(buf, buf_bytes, "true or false"); break;
    case VV_OPTION_TEXT: snprintf(buf, buf_bytes, "a text of at most %" PRIu64 " bytes", o->max); break;
    }
}
