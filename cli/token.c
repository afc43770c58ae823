#include "cli/token.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>

#include "base/compiler.h"
#include "cli/bytes.h"

/* 256 bits: beyond guessing, so that the server may keep a plain hash of it. */
#define TOKEN_BYTES 32

bool vv_token_roles_ok(const char *roles) {
    static const char *const names[] = {"read", "write", "admin", "replica"};
    for (;;) {
        size_t bytes = strcspn(roles, ",");
        bool known = false;
        for (size_t i = 0; i < VV_ARRAY_COUNT(names); i++)
            known |= bytes == strlen(names[i]) && memcmp(roles, names[i], bytes) == 0;
        if (!known || roles[bytes] == '\0')
            return known;
        roles += bytes + 1;
    }
}

bool vv_token_user_ok(const char *user) {
    size_t bytes = strlen(user);
    for (const char *c = user; *c; c++)
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
            return false;
    return bytes >= 1 && bytes <= 255;
}

static void print(FILE *out, const char *token, const char *line, bool json) {
    if (!json) {
        fprintf(out, "token %s\nline  %s\n", token, line);
        return;
    }
    json_t *object = json_pack("{s:s, s:s}", "token", token, "line", line);
    json_dumpf(object, out, JSON_COMPACT | JSON_SORT_KEYS);
    fputc('\n', out);
    json_decref(object);
}

bool vv_token_print(FILE *out, const char *user, const char *roles, bool json) {
    uint8_t random[TOKEN_BYTES], digest[EVP_MAX_MD_SIZE];
    unsigned digest_bytes;
    vv_bytes token = {0}, line = {0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return false;
    vv_bytes_to_hex(&token, vv_slice_make(random, sizeof random));
    bool made = EVP_Digest(token.data, token.bytes, digest, &digest_bytes, EVP_sha256(), NULL) == 1;
    if (made) {
        const char *quote = strpbrk(user, " #") ? "\"" : "";
        vv_bytes_append(&line, quote, strlen(quote));
        vv_bytes_append(&line, user, strlen(user));
        vv_bytes_append(&line, quote, strlen(quote));
        vv_bytes_append(&line, " sha256:", 8);
        vv_bytes_to_hex(&line, vv_slice_make(digest, digest_bytes));
        vv_bytes_push(&line, ' ');
        vv_bytes_append(&line, roles, strlen(roles) + 1);
        vv_bytes_push(&token, '\0');
        print(out, (const char *)token.data, (const char *)line.data, json);
    }
    vv_bytes_deinit(&token);
    vv_bytes_deinit(&line);
    return made;
}
