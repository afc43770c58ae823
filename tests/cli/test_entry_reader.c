/*
 * Entries come out of a file as they went in by `varve scan`, and what is wrong with a line is told with its
 * number.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "cli/entry_reader.h"

static vv_entry_reader reader;
static vv_bytes buffer;
static char message[VV_SCRIPT_MESSAGE_BYTES];

static void open_text(const char *text, size_t bytes, bool json, bool hex) {
    static char copy[4096];
    cr_assert_lt(bytes, sizeof copy);
    memcpy(copy, text, bytes);
    reader = (vv_entry_reader){.file = fmemopen(copy, bytes, "r"), .json = json, .hex = hex};
    cr_assert(reader.file);
}

static void close_text(void) {
    if (reader.file)
        fclose(reader.file);
    vv_entry_reader_deinit(&reader);
    vv_bytes_deinit(&buffer);
    reader = (vv_entry_reader){0};
}

TestSuite(cli_entry_reader, .fini = close_text);

static void expect_entry(const char *key, size_t key_bytes, const char *value, size_t value_bytes) {
    size_t k = 77, v = 77, before = buffer.bytes;
    cr_assert_eq(vv_entry_reader_next(&reader, &buffer, &k, &v, message), VV_ENTRY_READ, "%s", message);
    cr_assert_eq(k, key_bytes);
    cr_assert_eq(v, value_bytes);
    cr_assert_eq(buffer.bytes, before + k + v);
    cr_expect_arr_eq(buffer.data + before, key, k);
    cr_expect_arr_eq(buffer.data + before + k, value, v);
}

static void expect(const char *key, const char *value) {
    expect_entry(key, strlen(key), value, strlen(value));
}

static void expect_end(uint64_t line) {
    size_t k, v;
    cr_assert_eq(vv_entry_reader_next(&reader, &buffer, &k, &v, message), VV_ENTRY_END);
    cr_expect_eq(reader.line, line);
}

static void expect_bad(const char *text, bool json, bool hex, const char *words) {
    size_t k, v;
    open_text(text, strlen(text), json, hex);
    cr_expect_eq(vv_entry_reader_next(&reader, &buffer, &k, &v, message), VV_ENTRY_BAD, "%s", text);
    cr_expect(strstr(message, words), "'%s' says: %s", text, message);
    close_text();
}

Test(cli_entry_reader, words_as_scan_writes_them) {
    static const char text[] = "a\t1\n\n# a comment\nb\\x00c\t\"two words\"\r\ne\t\"\"\nlast\tone";
    open_text(text, sizeof text - 1, false, false);
    expect("a", "1");
    expect_entry("b\0c", 3, "two words", 9);
    expect("e", "");
    expect("last", "one");
    expect_end(6);
    cr_expect_eq(reader.bytes, sizeof text - 1);
}

Test(cli_entry_reader, hexadecimal_digits) {
    static const char text[] = "00ff\t6162\n61\t\n";
    open_text(text, sizeof text - 1, false, true);
    expect_entry("\0\xff", 2, "ab", 2);
    expect("a", "");
    expect_end(2);
}

Test(cli_entry_reader, objects) {
    static const char text[] = "{\"key\":\"YQ==\",\"value\":\"\",\"lsn\":18446744073709551615.0}\n\n"
                               "{\"value\": \"AP8=\", \"key\": \"YWI=\"}\n";
    open_text(text, sizeof text - 1, true, false);
    expect("a", "");
    expect_entry("ab", 2, "\0\xff", 2);
    expect_end(3);
}

Test(cli_entry_reader, objects_with_hexadecimal_digits) {
    static const char text[] = "{\"key\":\"61\",\"value\":\"00\"}\n";
    open_text(text, sizeof text - 1, true, true);
    expect_entry("a", 1, "\0", 1);
    expect_end(1);
}

Test(cli_entry_reader, lines_can_be_skipped) {
    static const char text[] = "a\t1\nnot an entry\nb\t2\n";
    open_text(text, sizeof text - 1, false, false);
    cr_assert(vv_entry_reader_skip(&reader, 2));
    expect("b", "2");
    expect_end(3);
    cr_expect_not(vv_entry_reader_skip(&reader, 1));
}

Test(cli_entry_reader, what_is_wrong_is_told_with_its_line) {
    expect_bad("a\n", false, false, "line 1: there is no value");
    expect_bad("# x\na b c\n", false, false, "line 2: too many words");
    expect_bad("a \"b\n", false, false, "line 1: a \" is not closed");
    expect_bad("61\n", false, true, "line 1: there is no value");
    expect_bad("6\t61\n", false, true, "line 1: the key is not hexadecimal");
    expect_bad("61\t6x\n", false, true, "line 1: the value is not hexadecimal");
    expect_bad("a\tb\n", true, false, "line 1: ");
    expect_bad("[1]\n", true, false, "no \"key\"");
    expect_bad("{\"key\":1,\"value\":\"\"}\n", true, false, "no \"key\" in base64");
    expect_bad("{\"key\":\"YQ==\"}\n", true, false, "no \"value\" in base64");
    expect_bad("{\"key\":\"YQ==\",\"value\":\"61\"}\n", true, false, "no \"value\" in base64");
    expect_bad("{\"key\":\"61\",\"value\":\"YQ==\"}\n", true, true, "no \"value\" in hexadecimal");
}
