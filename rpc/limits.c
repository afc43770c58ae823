#include "rpc/limits.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/lines.h"
#include "rpc/status_map.h"

typedef struct entry {
    vv_user_limits limits;
    char *name;
} entry;

struct vv_limits {
    entry *entries;
    size_t count, capacity;
    vv_user_limits defaults;
};

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0);
}

/* A decimal number of at most VV_RATE_MAX; *at moves behind it. */
static bool parse_number(const char **at, const char *end, uint64_t *out) {
    const char *from = *at;
    *out = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        *out = *out * 10 + (uint64_t)(**at - '0');
        if (*out > VV_RATE_MAX)
            return false;
    }
    return *at > from;
}

/* "NAME=RATE" or "NAME=RATE:BURST". False: it is not. */
static bool parse_rate(vv_slice word, const char *name, vv_rate *out) {
    size_t name_bytes = strlen(name);
    const char *at = word.data, *end = at + word.bytes;
    if (word.bytes <= name_bytes || memcmp(at, name, name_bytes) != 0 || at[name_bytes] != '=')
        return false;
    at += name_bytes + 1;
    vv_rate rate = {0};
    if (!parse_number(&at, end, &rate.per_second))
        return false;
    if (at < end && *at == ':') {
        at++;
        if (!parse_number(&at, end, &rate.burst))
            return false;
    }
    if (at != end)
        return false;
    *out = rate;
    return true;
}

static vv_status append(vv_limits *l, vv_slice name, vv_user_limits limits) {
    if (l->count == l->capacity) {
        size_t more = l->capacity ? 2 * l->capacity : 16;
        entry *larger = vv_realloc(l->entries, more * sizeof *larger);
        if (!larger)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        l->entries = larger;
        l->capacity = more;
    }
    char *copy = vv_alloc_zeroed(name.bytes + 1);
    if (!copy)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memcpy(copy, name.data, name.bytes);
    l->entries[l->count++] = (entry){.limits = limits, .name = copy};
    return VV_STATUS_OK;
}

/* USER [reads=RATE[:BURST]] [writes=RATE[:BURST]] */
static vv_status on_line(void *arg, const vv_slice *words, size_t count, vv_error *err) {
    vv_limits *l = arg;
    vv_user_limits limits = l->defaults;
    if (!vv_user_name_ok(words[0]))
        return vv_fail(err, invalid(), "the user's name has 1 to %d printable ASCII characters, no \\",
                       VV_USER_NAME_BYTES_MAX);
    for (size_t i = 0; i < l->count; i++)
        if (vv_slice_equal(vv_slice_str(l->entries[i].name), words[0]))
            return vv_fail(err, invalid(), "a second line for the user %s", l->entries[i].name);
    if (l->count == VV_USERS_MAX - 1)
        return vv_fail(err, invalid(), "more than %d users", VV_USERS_MAX - 1);
    for (size_t i = 1; i < count; i++)
        if (!parse_rate(words[i], "reads", &limits.reads) && !parse_rate(words[i], "writes", &limits.writes))
            return vv_fail(
                err, invalid(),
                "'%.*s': allowed are reads=RATE[:BURST] and writes=RATE[:BURST], numbers from 0 to "
                "%" PRIu64,
                (int)VV_MIN(words[i].bytes, 64), (const char *)words[i].data, VV_RATE_MAX);
    return append(l, words[0], limits);
}

vv_status vv_limits_load(const char *path, const vv_user_limits *defaults, vv_limits **out, vv_error *err) {
    *out = NULL;
    vv_limits *l = vv_alloc_zeroed(sizeof *l);
    if (!l)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s", path);
    l->defaults = *defaults;
    vv_status st = vv_lines_read(path, on_line, l, err);
    if (vv_ok(st))
        *out = l;
    else
        vv_limits_destroy(l);
    return st;
}

void vv_limits_apply(const vv_limits *l, const vv_user_limits *defaults, vv_users *users) {
    vv_users_reset_limits(users, defaults);
    for (size_t i = 0; l && i < l->count; i++)
        vv_users_limit(users, vv_users_get(users, vv_slice_str(l->entries[i].name)), &l->entries[i].limits);
}

void vv_limits_destroy(vv_limits *l) {
    if (!l)
        return;
    for (size_t i = 0; i < l->count; i++)
        vv_free(l->entries[i].name);
    vv_free(l->entries);
    vv_free(l);
}

static bool rate_ok(vv_rate rate) {
    return rate.per_second <= VV_RATE_MAX && rate.burst <= VV_RATE_MAX;
}

vv_status vv_rate_limit_set(vv_users *users, vv_slice name, const vv_user_limits *limits) {
    if (!vv_user_name_ok(name) || !rate_ok(limits->reads) || !rate_ok(limits->writes))
        return invalid();
    vv_user *user = vv_users_get(users, name);
    /* One limit for all that are too many would be a surprise. */
    if (user == users->others)
        return vv_status_make(VV_NO_SPACE, VV_SUB_NONE, 0);
    vv_users_limit(users, user, limits);
    return VV_STATUS_OK;
}

bool vv_rate_take(vv_rpc_call *call, vv_rpc_access kind, uint64_t count, vv_rpc_status *why) {
    vv_user *user = call->user;
    if (!user || (kind != VV_RPC_READ && kind != VV_RPC_WRITE))
        return true;
    bool write = kind == VV_RPC_WRITE;
    vv_rate_bucket *bucket = write ? &user->writes : &user->reads;
    if (vv_rate_bucket_get(bucket).per_second == 0)
        return true; /* without a look at the clock */
    uint64_t wait_ns = vv_rate_bucket_take(bucket, count, vv_clock_mono_ns());
    if (wait_ns == 0)
        return true;
    atomic_fetch_add_explicit(write ? &user->limited_writes : &user->limited_reads, 1, memory_order_relaxed);
    uint64_t wait_ms = (wait_ns + VV_NS_PER_MS - 1) / VV_NS_PER_MS;
    vv_rpc_status_set(why, VV_RPC_RESOURCE_EXHAUSTED, "RATE_LIMITED", (uint32_t)VV_MIN(wait_ms, UINT32_MAX),
                      "user %s may %s %" PRIu64 " times a second; nothing was done", user->name,
                      write ? "write" : "read", vv_rate_bucket_get(bucket).per_second);
    return false;
}
