/* UTF-8 with broken and cut characters, white space, and NFC as Hugging Face's library makes it. */
#include "data/text/unicode.h"
#include "tests/support/check.h"

#include <string.h>

static void every_character_is_read_as_it_is_written(void **state)
{
    static const struct {
        const char *bytes;
        uint32_t code;
    } cases[] = {{"a", 'a'},
                 {"\x7F", 0x7F},
                 {"\xC2\x80", 0x80},
                 {"\xDF\xBF", 0x7FF},
                 {"\xE0\xA0\x80", 0x800},
                 {"\xED\x9F\xBF", 0xD7FF},
                 {"\xEF\xBF\xBF", 0xFFFF},
                 {"\xF0\x90\x80\x80", 0x10000},
                 {"\xF4\x8F\xBF\xBF", 0x10FFFF}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t code;
        assert_int_equal(unicode_next(cases[i].bytes, strlen(cases[i].bytes), &code), strlen(cases[i].bytes));
        assert_int_equal(code, cases[i].code);
    }
}

/* From Unicode 15, table 3-8 and the tables around it, and WHATWG's decoder: one U+FFFD for each maximal part. */
static void each_maximal_broken_part_becomes_one_replacement(void **state)
{
    static const char *const cases[][2] = {{"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "????????A"},
                                           {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "????????A"},
                                           {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "?????A??B"},
                                           {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "????A"},
                                           {"a\xF0\x9F\x99", "a?"},
                                           {"\xE2\x82z", "?z"},
                                           {"", ""}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Text out = {0}, want = {0};
        for (const char *c = cases[i][1]; *c; c++) text_add(&want, *c == '?' ? "\xEF\xBF\xBD" : c, *c == '?' ? 3 : 1);
        text_add(&want, "", 0);
        text_add(&out, "", 0);
        assert_int_equal(unicode_lossy(&out, cases[i][0], strlen(cases[i][0]), true), strlen(cases[i][0]));
        assert_string_equal(out.data, want.data);
        text_free(&out);
        text_free(&want);
    }
}

static void a_cut_character_waits_unless_it_is_the_last(void **state)
{
    Text out = {0};
    (void)state;
    assert_int_equal(unicode_lossy(&out, "ab\xE2\x82", 4, false), 2);
    assert_string_equal(out.data, "ab");
    assert_int_equal(unicode_lossy(&out, "\xE2\x82", 2, true), 2);
    assert_string_equal(out.data, "ab\xEF\xBF\xBD");
    text_free(&out);
}

static void stripping_removes_the_white_space_of_python(void **state)
{
    static const char *const cases[][2] = {{" \t\n a b \x1c\x1f", "a b"},
                                           {"\u3000\u2028\xC2\x85x\u00a0", "x"},
                                           {"\u200bx\ufeff", "\u200bx\ufeff"},
                                           {" \u3000 ", ""},
                                           {"", ""}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i][0];
        size_t n = strlen(text);
        unicode_strip(&text, &n);
        assert_int_equal(n, strlen(cases[i][1]));
        assert_memory_equal(text, cases[i][1], n);
    }
}

static void nfc_composes_by_the_tables_of_unicode_9(void **state)
{
    static const char *const cases[][2] = {{"e\u0301", "\u00e9"},
                                           {"\u1100\u1161", "\uac00"},
                                           {"a\u0360\u0321", "a\u0321\u0360"},
                                           {"\U0001E134\u0321", NULL},
                                           {"abc", NULL},
                                           {"\u00e9", NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Text out = {0};
        bool same;
        assert_ok(unicode_nfc(&out, cases[i][0], strlen(cases[i][0]), &same));
        assert_int_equal(same, !cases[i][1]);
        if (cases[i][1]) assert_string_equal(out.data, cases[i][1]);
        text_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_character_is_read_as_it_is_written),
        cmocka_unit_test(each_maximal_broken_part_becomes_one_replacement),
        cmocka_unit_test(a_cut_character_waits_unless_it_is_the_last),
        cmocka_unit_test(stripping_removes_the_white_space_of_python),
        cmocka_unit_test(nfc_composes_by_the_tables_of_unicode_9),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
