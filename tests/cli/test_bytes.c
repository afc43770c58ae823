#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/bytes.h"

static void expect_base64(const char *raw, const char *text) {
    vv_bytes b = {0};
    vv_bytes_to_base64(&b, vv_slice_str(raw));
    cr_expect(vv_slice_equal(vv_bytes_slice(&b), vv_slice_str(text)), "%s: %.*s", raw, (int)b.bytes,
              (const char *)b.data);
    vv_bytes_deinit(&b);
}

Test(cli_bytes, base64_gives_the_vectors_of_rfc_4648) {
    expect_base64("", "");
    expect_base64("f", "Zg==");
    expect_base64("fo", "Zm8=");
    expect_base64("foo", "Zm9v");
    expect_base64("foob", "Zm9vYg==");
    expect_base64("fooba", "Zm9vYmE=");
    expect_base64("foobar", "Zm9vYmFy");
    expect_base64("\xff\xfe\xfd", "//79");
}

Test(cli_bytes, every_byte_survives_hexadecimal) {
    uint8_t all[256];
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)i;
    vv_bytes digits = {0}, back = {0};
    vv_bytes_to_hex(&digits, vv_slice_make(all, sizeof all));
    cr_assert_eq(digits.bytes, 512);
    cr_assert(vv_bytes_from_hex(&back, vv_bytes_slice(&digits)));
    cr_assert(vv_slice_equal(vv_bytes_slice(&back), vv_slice_make(all, sizeof all)));
    vv_bytes_deinit(&digits);
    vv_bytes_deinit(&back);
}

Test(cli_bytes, what_is_not_hexadecimal_is_refused_and_appends_nothing) {
    static const char *const wrong[] = {"0", "abc", "0g", "g0", " 0", "0x00", "-1", "\xff\xff"};
    vv_bytes b = {0};
    vv_bytes_append(&b, "kept", 4);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect_not(vv_bytes_from_hex(&b, vv_slice_str(wrong[i])), "%s", wrong[i]);
        cr_expect(vv_slice_equal(vv_bytes_slice(&b), vv_slice_str("kept")));
    }
    cr_expect(vv_bytes_from_hex(&b, vv_slice_str("aBCd")));
    cr_expect(vv_slice_equal(vv_bytes_slice(&b), vv_slice_str("kept\xab\xcd")));
    vv_bytes_deinit(&b);
}

Test(cli_bytes, base64_goes_there_and_back) {
    uint8_t raw[300];
    for (size_t i = 0; i < sizeof raw; i++)
        raw[i] = (uint8_t)(i * 7);
    for (size_t bytes = 0; bytes <= sizeof raw; bytes++) {
        vv_bytes text = {0}, back = {0};
        vv_bytes_to_base64(&text, vv_slice_make(raw, bytes));
        cr_assert(vv_bytes_from_base64(&back, vv_bytes_slice(&text)), "%zu", bytes);
        cr_assert(vv_slice_equal(vv_bytes_slice(&back), vv_slice_make(raw, bytes)), "%zu", bytes);
        vv_bytes_deinit(&text);
        vv_bytes_deinit(&back);
    }
}

Test(cli_bytes, what_is_not_base64_is_refused_and_appends_nothing) {
    static const char *const wrong[] = {
        "a", "ab", "abc", "abc=d", "a===", "====", "ab=c", "ab!d", " abc", "abc\n", "abcd\nabc", "=abc"};
    vv_bytes b = {0};
    vv_bytes_append(&b, "kept", 4);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect_not(vv_bytes_from_base64(&b, vv_slice_str(wrong[i])), "%s", wrong[i]);
        cr_expect(vv_slice_equal(vv_bytes_slice(&b), vv_slice_str("kept")));
    }
    vv_bytes_deinit(&b);
}

Test(cli_bytes, a_file_is_read_to_its_end_and_never_beyond_the_limit) {
    FILE *file = tmpfile();
    cr_assert(file);
    char block[1000];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(fwrite(block, 1, sizeof block, file), sizeof block);
    vv_bytes b = {0};
    rewind(file);
    cr_expect_eq(vv_bytes_read(&b, file, 300000), 0);
    cr_expect_eq(b.bytes, 300000);
    vv_bytes_deinit(&b);
    rewind(file);
    cr_expect_eq(vv_bytes_read(&b, file, 299999), EFBIG);
    vv_bytes_deinit(&b);
    fclose(file);
}
