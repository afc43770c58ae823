#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "cli/script.h"

#define BYTES(literal) vv_slice_make(literal, sizeof(literal) - 1)

static char message[VV_SCRIPT_MESSAGE_BYTES];

static void expect_op(const vv_script *s, size_t i, vv_client_op_kind kind, vv_slice key, vv_slice value) {
    cr_assert_lt(i, s->count);
    cr_expect_eq(s->ops[i].kind, kind, "operation %zu", i);
    cr_expect(vv_slice_equal(s->ops[i].key, key), "key %zu is '%.*s'", i, (int)s->ops[i].key.bytes,
              (const char *)s->ops[i].key.data);
    cr_expect(vv_slice_equal(s->ops[i].value, value), "value %zu is '%.*s'", i, (int)s->ops[i].value.bytes,
              (const char *)s->ops[i].value.data);
}

static void expect_refused(const char *text, bool hex, const char *words) {
    vv_script s = {0};
    cr_expect_not(vv_script_parse(&s, vv_slice_str(text), hex, message), "%s", text);
    cr_expect(strstr(message, words), "'%s' says: %s", text, message);
    vv_script_deinit(&s);
}

Test(cli_script, lines_are_operations_in_order) {
    vv_script s = {0};
    cr_assert(vv_script_parse(
        &s, BYTES("# first\n\nput a 1\n  \t\n\tdelete  b \nput c 3 # the last\r\nput d 4"), false, message));
    cr_assert_eq(s.count, 4);
    expect_op(&s, 0, VV_CLIENT_PUT, BYTES("a"), BYTES("1"));
    expect_op(&s, 1, VV_CLIENT_DELETE, BYTES("b"), BYTES(""));
    expect_op(&s, 2, VV_CLIENT_PUT, BYTES("c"), BYTES("3"));
    expect_op(&s, 3, VV_CLIENT_PUT, BYTES("d"), BYTES("4"));
    vv_script_deinit(&s);
}

Test(cli_script, quotes_and_escapes_carry_any_byte) {
    vv_script s = {0};
    cr_assert(vv_script_parse(&s,
                              BYTES("put \"a key\" 'a \\n \"value\"'\n"
                                    "put \\x00\\xfF\\\\ \"\\\"\\n\\r\\t\\0\\x7f\"\n"
                                    "put a\\ b \"\"\n"
                                    "put pre\"mid dle\"'po st' x#y\n"
                                    "put \\# \"#\"\n"
                                    "put \xc3\xa9\xff \x01\n"
                                    "put '' v"),
                              false, message),
              "%s", message);
    cr_assert_eq(s.count, 7);
    expect_op(&s, 0, VV_CLIENT_PUT, BYTES("a key"), BYTES("a \\n \"value\""));
    expect_op(&s, 1, VV_CLIENT_PUT, BYTES("\x00\xff\\"), BYTES("\"\n\r\t\0\x7f"));
    expect_op(&s, 2, VV_CLIENT_PUT, BYTES("a b"), BYTES(""));
    expect_op(&s, 3, VV_CLIENT_PUT, BYTES("premid dlepo st"), BYTES("x#y"));
    expect_op(&s, 4, VV_CLIENT_PUT, BYTES("#"), BYTES("#"));
    expect_op(&s, 5, VV_CLIENT_PUT, BYTES("\xc3\xa9\xff"), BYTES("\x01"));
    expect_op(&s, 6, VV_CLIENT_PUT, BYTES(""), BYTES("v"));
    vv_script_deinit(&s);
}

Test(cli_script, hexadecimal_words_stand_for_their_bytes) {
    vv_script s = {0};
    cr_assert(vv_script_parse(&s, BYTES("put 00ff \"\"\ndelete 61\nput 62 6364"), true, message), "%s",
              message);
    cr_assert_eq(s.count, 3);
    expect_op(&s, 0, VV_CLIENT_PUT, BYTES("\x00\xff"), BYTES(""));
    expect_op(&s, 1, VV_CLIENT_DELETE, BYTES("a"), BYTES(""));
    expect_op(&s, 2, VV_CLIENT_PUT, BYTES("b"), BYTES("cd"));
    vv_script_deinit(&s);
}

Test(cli_script, a_mistake_is_named_with_its_line) {
    expect_refused("put a 1\nput b\n", false, "line 2: put takes a key and a value");
    expect_refused("delete\n", false, "line 1: delete takes a key");
    expect_refused("delete a b\n", false, "line 1: delete takes a key");
    expect_refused("put a b c\n", false, "line 1: too many words");
    expect_refused("\n\nPUT a b\n", false, "line 3: a line begins with put or delete");
    expect_refused("put \"a b\n", false, "line 1: a \" is not closed");
    expect_refused("put 'a b\nput c' d\n", false, "line 1: a ' is not closed");
    expect_refused("put a \\", false, "line 1: a backslash at the end");
    expect_refused("put a \\x0\n", false, "line 1: \\x needs two");
    expect_refused("put a \\xg0\n", false, "line 1: \\x needs two");
    expect_refused("put a \\q\n", false, "line 1: unknown escape");
    expect_refused("put a 0\n", true, "line 1: not hexadecimal");
    expect_refused("delete zz\n", true, "line 1: not hexadecimal");
}

Test(cli_script, a_script_with_nothing_in_it_has_no_operations) {
    static const char *const empty[] = {"", "\n", "   \n\t\n", "# only words\n", "\r\n"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        vv_script s = {0};
        cr_expect(vv_script_parse(&s, vv_slice_str(empty[i]), false, message));
        cr_expect_eq(s.count, 0);
        vv_script_deinit(&s);
    }
}

Test(cli_script, operations_stay_where_they_are_when_there_are_many) {
    vv_bytes text = {0};
    char line[64];
    for (int i = 0; i < 10000; i++) {
        int bytes = snprintf(line, sizeof line, "put key%d \\x76alue%d\n", i, i);
        vv_bytes_append(&text, line, (size_t)bytes);
    }
    vv_script s = {0};
    cr_assert(vv_script_parse(&s, vv_bytes_slice(&text), false, message));
    cr_assert_eq(s.count, 10000);
    for (int i = 0; i < 10000; i++) {
        char key[32], value[32];
        snprintf(key, sizeof key, "key%d", i);
        snprintf(value, sizeof value, "value%d", i);
        expect_op(&s, (size_t)i, VV_CLIENT_PUT, vv_slice_str(key), vv_slice_str(value));
    }
    vv_script_deinit(&s);
    vv_bytes_deinit(&text);
}
