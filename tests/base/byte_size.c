/* Sizes in bytes as people read and write them. */
#include "tests/support/check.h"

#include "base/byte_size.h"

static void sizes_are_read_as_people_write_them(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
    } good[] = {{"0", 0},       {"4096", 4096},  {"8GiB", 8589934592},   {"8 GiB", 8589934592},
                {"1.5k", 1536}, {"2M", 2097152}, {"1TB", 1000000000000}, {"7B", 7}};
    static const char *const bad[] = {"", "GiB", "-1G", "8XB", "8GiBs", "1e30T", "8Gb s"};
    (void)state;
    size_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_ok(byte_size_parse(&bytes, good[i].text, "memory_limit"));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(byte_size_parse(&bytes, bad[i], "memory_limit"), ERR_USAGE, "memory_limit");
}

static void sizes_are_written_with_three_digits(void **state)
{
    (void)state;
    assert_string_equal(BYTES(12), "12 B");
    assert_string_equal(BYTES(8589934592), "8.00 GiB");
    assert_string_equal(BYTES(33045872640), "30.8 GiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes_are_read_as_people_write_them),
                                       cmocka_unit_test(sizes_are_written_with_three_digits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
