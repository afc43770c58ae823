/*
 * fuzz_cli_script.c - the scripts of `varve batch`.
 *
 *   input   [flags:1][script]       flags   bit 0: --hex
 *
 * What holds for any bytes: operations lie within the parser's buffer; and written as a script again, as
 * `varve scan` would write them, they are parsed to the same operations. Bound: no allocation is larger
 * than 16 times the script and 4 KiB, which is what 64 operations take.
 */
#include "cli/script.h"
#include "tests/fuzz/fuzz.h"

static void write_word(vv_bytes *to, vv_slice word) {
    vv_bytes_push(to, ' ');
    vv_bytes_to_word(to, word);
}

static void write_script(const vv_script *s, vv_bytes *to) {
    for (size_t i = 0; i < s->count; i++) {
        bool put = s->ops[i].kind == VV_CLIENT_PUT;
        vv_bytes_append(to, put ? "put" : "delete", put ? 3 : 6);
        write_word(to, s->ops[i].key);
        if (put)
            write_word(to, s->ops[i].value);
        vv_bytes_push(to, '\n');
    }
}

static bool same(const vv_client_op *a, const vv_client_op *b) {
    return a->kind == b->kind && vv_slice_equal(a->key, b->key) &&
           (a->kind != VV_CLIENT_PUT || vv_slice_equal(a->value, b->value));
}

static void go_round(const vv_script *s) {
    char message[VV_SCRIPT_MESSAGE_BYTES] = "";
    vv_bytes text = {0};
    vv_script again = {0};
    write_script(s, &text);
    bool fine = vv_script_parse(&again, vv_bytes_slice(&text), false, message);
    FUZZ_CHECK(fine && again.count == s->count, "%s", message);
    for (size_t i = 0; i < s->count; i++)
        FUZZ_CHECK(same(&s->ops[i], &again.ops[i]));
    vv_script_deinit(&again);
    vv_bytes_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    bool hex = vv_read_u8(&r) & 1;
    vv_slice rest = fuzz_rest(&r);
    uint8_t *text = fuzz_copy(rest);
    char message[VV_SCRIPT_MESSAGE_BYTES] = "";
    vv_script s = {0};
    fuzz_allocation_max(16 * rest.bytes + 4096);
    bool fine = vv_script_parse(&s, vv_slice_make(text, rest.bytes), hex, message);
    fuzz_allocation_max(0);
    FUZZ_CHECK(fine || message[0]);
    if (fine)
        go_round(&s);
    vv_script_deinit(&s);
    free(text);
    return 0;
}
