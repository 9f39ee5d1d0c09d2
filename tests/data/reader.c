#include "data/reader.h"
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

static void lines_come_without_their_ends_and_are_counted(void **state)
{
    static const char *const lines[] = {"one", "", "three", "last"};
    char path[PATH_BYTES];
    Reader *reader;
    const char *line;
    size_t bytes;
    assert_ok(file_write(scratch_path(state, "lines", path), "one\n\nthree\r\nlast", 16));
    assert_ok(reader_open(&reader, path));
    for (size_t i = 0; i < 4; i++) {
        assert_ok(reader_line(reader, &line, &bytes));
        assert_int_equal(bytes, strlen(lines[i]));
        assert_memory_equal(line, lines[i], bytes);
        assert_int_equal(reader_line_number(reader), i + 1);
    }
    for (int i = 0; i < 2; i++) {
        assert_ok(reader_line(reader, &line, &bytes));
        assert_null(line);
    }
    reader_close(reader);
}

static void a_line_may_be_longer_than_any_buffer(void **state)
{
    enum { N = 3000000 };
    char path[PATH_BYTES], *text = malloc(N + 3);
    Reader *reader;
    const char *line;
    size_t bytes;
    assert_non_null(text);
    memset(text, 'x', N);
    memcpy(text + N, "\ny\n", 3);
    assert_ok(file_write(scratch_path(state, "long", path), text, N + 3));
    assert_ok(reader_open(&reader, path));
    assert_ok(reader_line(reader, &line, &bytes));
    assert_int_equal(bytes, N);
    assert_memory_equal(line, text, N);
    assert_ok(reader_line(reader, &line, &bytes));
    assert_int_equal(bytes, 1);
    assert_ok(reader_line(reader, &line, &bytes));
    assert_null(line);
    reader_close(reader);
    free(text);
}

static void a_damaged_gzip_file_is_an_error(void **state)
{
    char path[PATH_BYTES], *packed;
    size_t bytes;
    Text text;
    assert_ok(file_read(&packed, &bytes, "tests/fixtures/tokenizer/glm5shaped.tokenizer.json.gz"));
    assert_ok(file_write(scratch_path(state, "cut.gz", path), packed, bytes / 2));
    assert_fails(reader_whole(&text, path), ERR_IO, "cut.gz");
    packed[bytes / 2] ^= 0x55;
    assert_ok(file_write(scratch_path(state, "bad.gz", path), packed, bytes));
    assert_fails(reader_whole(&text, path), ERR_IO, "bad.gz");
    free(packed);
}

static void what_is_no_file_is_an_error(void **state)
{
    Reader *reader;
    assert_fails(reader_open(&reader, *state), ERR_IO, "is a directory");
    assert_fails(reader_open(&reader, "/nowhere/at/all"), ERR_IO, "/nowhere/at/all");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(lines_come_without_their_ends_and_are_counted),
        scratch_test(a_line_may_be_longer_than_any_buffer),
        scratch_test(a_damaged_gzip_file_is_an_error),
        scratch_test(what_is_no_file_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
