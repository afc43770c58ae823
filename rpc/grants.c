#include "rpc/grants.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "rpc/lines.h"

#define DIGEST_PREFIX "sha256:"

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0);
}

static bool is_text(vv_slice s, const char *text) {
    return vv_slice_equal(s, vv_slice_str(text));
}

static const struct {
    uint8_t right;
    const char *name;
} right_names[] = {
    {VV_RIGHT_READ, "read"},
    {VV_RIGHT_WRITE, "write"},
    {VV_RIGHT_ADMIN, "admin"},
    {VV_RIGHT_REPLICA, "replica"},
};

static uint8_t right_of(vv_slice word) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(right_names); i++)
        if (is_text(word, right_names[i].name))
            return right_names[i].right;
    return 0;
}

uint8_t vv_rights_parse(vv_slice text) {
    uint8_t all = 0;
    const char *at = text.data, *end = at + text.bytes;
    while (at <= end) {
        const char *comma = at < end ? memchr(at, ',', (size_t)(end - at)) : NULL;
        uint8_t right = right_of(vv_slice_make(at, (size_t)((comma ? comma : end) - at)));
        if (right == 0)
            return 0;
        all |= right;
        if (!comma)
            break;
        at = comma + 1;
    }
    return all;
}

const char *vv_right_name(uint8_t right) {
    for (size_t i = 0; i < VV_ARRAY_COUNT(right_names); i++)
        if (right_names[i].right == right)
            return right_names[i].name;
    return "";
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "sha256:" and 64 hexadecimal digits. */
static bool parse_digest(vv_slice word, uint8_t *digest) {
    size_t prefix = sizeof DIGEST_PREFIX - 1;
    if (word.bytes != prefix + 2 * VV_TOKEN_DIGEST_BYTES || memcmp(word.data, DIGEST_PREFIX, prefix) != 0)
        return false;
    const char *at = (const char *)word.data + prefix;
    for (size_t i = 0; i < VV_TOKEN_DIGEST_BYTES; i++) {
        int high = hex_digit(at[2 * i]), low = hex_digit(at[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        digest[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* ---- loading ---- */

typedef struct loader {
    vv_grants *grants;
    size_t token_capacity, certificate_capacity;
} loader;

/* Put a grant with a copy of the name at the end of a list. */
static vv_status append(vv_grant **list, size_t *count, size_t *capacity, vv_grant grant, vv_slice name) {
    if (*count == *capacity) {
        size_t more = *capacity ? 2 * *capacity : 16;
        vv_grant *larger = vv_realloc(*list, more * sizeof **list);
        if (!larger)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        *list = larger;
        *capacity = more;
    }
    grant.name = vv_alloc_zeroed(name.bytes + 1);
    if (!grant.name)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    memcpy(grant.name, name.data, name.bytes);
    (*list)[(*count)++] = grant;
    return VV_STATUS_OK;
}

static vv_status add_anonymous(vv_grants *g, vv_slice name, uint8_t rights, vv_error *err) {
    if (!is_text(name, VV_USER_DEFAULT))
        return vv_fail(err, invalid(), "only the user %s can be anonymous", VV_USER_DEFAULT);
    if (g->anonymous)
        return vv_fail(err, invalid(), "a second anonymous line");
    g->anonymous = rights;
    return VV_STATUS_OK;
}

/* USER sha256:HEX|certificate|anonymous ROLES */
static vv_status on_line(void *arg, const vv_slice *words, size_t count, vv_error *err) {
    loader *l = arg;
    vv_grants *g = l->grants;
    if (count != 3)
        return vv_fail(
            err, invalid(),
            "allowed is USER sha256:HEX|certificate|anonymous ROLES, which are of read,write,admin,replica");
    if (!vv_user_name_ok(words[0]))
        return vv_fail(err, invalid(), "the user's name has 1 to %d printable ASCII characters, no \\",
                       VV_USER_NAME_BYTES_MAX);
    vv_grant grant = {.rights = vv_rights_parse(words[2])};
    if (!grant.rights)
        return vv_fail(err, invalid(), "roles: allowed are read, write and admin, with commas between");
    if (is_text(words[1], "anonymous"))
        return add_anonymous(g, words[0], grant.rights, err);
    vv_status st;
    if (is_text(words[1], "certificate"))
        st = append(&g->certificates, &g->certificate_count, &l->certificate_capacity, grant, words[0]);
    else if (parse_digest(words[1], grant.digest))
        st = append(&g->tokens, &g->token_count, &l->token_capacity, grant, words[0]);
    else /* the word is not repeated: it may be a token that somebody took for its hash */
        st = vv_fail(err, invalid(),
                     "a user is known by sha256: and 64 hexadecimal digits, by certificate or by anonymous");
    return st;
}

static int compare_digests(const void *a, const void *b) {
    return memcmp(((const vv_grant *)a)->digest, ((const vv_grant *)b)->digest, VV_TOKEN_DIGEST_BYTES);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const vv_grant *)a)->name, ((const vv_grant *)b)->name);
}

/* Sort, and refuse what is there twice: it would say two different things, or one of them is a mistake. */
static vv_status sort(vv_grants *g, vv_error *err) {
    if (g->token_count > 0)
        qsort(g->tokens, g->token_count, sizeof *g->tokens, compare_digests);
    if (g->certificate_count > 0)
        qsort(g->certificates, g->certificate_count, sizeof *g->certificates, compare_names);
    for (size_t i = 1; i < g->token_count; i++)
        if (compare_digests(&g->tokens[i - 1], &g->tokens[i]) == 0)
            return vv_fail(err, invalid(), "users %s and %s have the same token", g->tokens[i - 1].name,
                           g->tokens[i].name);
    for (size_t i = 1; i < g->certificate_count; i++)
        if (compare_names(&g->certificates[i - 1], &g->certificates[i]) == 0)
            return vv_fail(err, invalid(), "two certificate lines for the user %s", g->certificates[i].name);
    return VV_STATUS_OK;
}

vv_status vv_grants_load(const char *path, vv_users *users, vv_grants **out, vv_error *err) {
    *out = NULL;
    vv_grants *g = vv_alloc_zeroed(sizeof *g);
    if (!g)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s", path);
    loader l = {.grants = g};
    vv_status st = vv_lines_read(path, on_line, &l, err);
    if (vv_ok(st)) {
        st = sort(g, err);
        if (!vv_ok(st))
            st = vv_wrap(err, st, "%s", path);
    }
    if (!vv_ok(st)) {
        vv_grants_destroy(g);
        return st;
    }
    for (size_t i = 0; i < g->token_count; i++)
        g->tokens[i].user = vv_users_get(users, vv_slice_str(g->tokens[i].name));
    for (size_t i = 0; i < g->certificate_count; i++)
        g->certificates[i].user = vv_users_get(users, vv_slice_str(g->certificates[i].name));
    *out = g;
    return VV_STATUS_OK;
}

void vv_grants_destroy(vv_grants *g) {
    if (!g)
        return;
    for (size_t i = 0; i < g->token_count; i++)
        vv_free(g->tokens[i].name);
    for (size_t i = 0; i < g->certificate_count; i++)
        vv_free(g->certificates[i].name);
    vv_free(g->tokens);
    vv_free(g->certificates);
    vv_free(g);
}

/* ---- lookup ---- */

/* The order is by the first bytes of a digest: how long it takes to find a place tells of digests, not of
 * tokens, and nobody can choose a token by its digest. */
static uint64_t prefix_of(const uint8_t *digest) {
    uint64_t prefix = 0;
    for (int i = 0; i < 8; i++)
        prefix = prefix << 8 | digest[i];
    return prefix;
}

const vv_grant *vv_grants_token(const vv_grants *g, const uint8_t *digest) {
    uint64_t wanted = prefix_of(digest);
    size_t low = 0, high = g->token_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (prefix_of(g->tokens[middle].digest) < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < g->token_count && prefix_of(g->tokens[low].digest) == wanted; low++)
        if (CRYPTO_memcmp(g->tokens[low].digest, digest, VV_TOKEN_DIGEST_BYTES) == 0)
            return &g->tokens[low];
    return NULL;
}

const vv_grant *vv_grants_certificate(const vv_grants *g, const char *name) {
    size_t low = 0, high = g->certificate_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(g->certificates[middle].name, name);
        if (order == 0)
            return &g->certificates[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
