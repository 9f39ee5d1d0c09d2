/* Lines of plain, gzip and Zstandard files, also of damaged ones. */
#define _GNU_SOURCE
#include "data/text/lines.h"
#include "data/text/inflate.h"
#include "data/text/text.h"
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void lines_come_without_their_ends_and_are_counted(void **state)
{
    static const char *const lines[] = {"one", "", "three", "last"};
    char path[PATH_BYTES];
    LineReader *reader;
    const char *line;
    size_t bytes;
    assert_ok(file_write(scratch_path(state, "lines", path), "one\n\nthree\r\nlast", 16));
    assert_ok(lines_open(&reader, path));
    for (size_t i = 0; i < 4; i++) {
        assert_ok(lines_next(reader, &line, &bytes));
        assert_int_equal(bytes, strlen(lines[i]));
        assert_memory_equal(line, lines[i], bytes);
        assert_int_equal(lines_number(reader), i + 1);
    }
    for (int i = 0; i < 2; i++) {
        assert_ok(lines_next(reader, &line, &bytes));
        assert_null(line);
    }
    lines_close(reader);
}

static void a_line_may_be_longer_than_any_buffer(void **state)
{
    enum { N = 3000000 };
    char path[PATH_BYTES], *text = malloc(N + 3);
    LineReader *reader;
    const char *line;
    size_t bytes;
    assert_non_null(text);
    memset(text, 'x', N);
    memcpy(text + N, "\ny\n", 3);
    assert_ok(file_write(scratch_path(state, "long", path), text, N + 3));
    assert_ok(lines_open(&reader, path));
    assert_ok(lines_next(reader, &line, &bytes));
    assert_int_equal(bytes, N);
    assert_memory_equal(line, text, N);
    assert_ok(lines_next(reader, &line, &bytes));
    assert_int_equal(bytes, 1);
    assert_ok(lines_next(reader, &line, &bytes));
    assert_null(line);
    lines_close(reader);
    free(text);
}

static void a_damaged_gzip_file_is_an_error(void **state)
{
    char path[PATH_BYTES], *packed;
    size_t bytes;
    Text text;
    assert_ok(file_read(&packed, &bytes, "tests/fixtures/tokenizer/glm5shaped.tokenizer.json.gz"));
    assert_ok(file_write(scratch_path(state, "cut.gz", path), packed, bytes / 2));
    assert_fails(lines_read_file(&text, path), ERR_IO, "cut.gz");
    packed[bytes / 2] ^= 0x55;
    assert_ok(file_write(scratch_path(state, "bad.gz", path), packed, bytes));
    assert_fails(lines_read_file(&text, path), ERR_IO, "bad.gz");
    free(packed);
}

/* "one\ntwo\n" and "three" as two frames with a skippable one between: what `zstd` and `pzstd` write. */
static const unsigned char zstd_file[] = {0x28, 0xB5, 0x2F, 0xFD, 0x04, 0x58, 0x41, 0x00, 0x00, 'o',  'n',  'e',
                                          '\n', 't',  'w',  'o',  '\n', 0xE6, 0xA6, 0x0E, 0x40, 0x50, 0x2A, 0x4D,
                                          0x18, 0x02, 0x00, 0x00, 0x00, 'x',  'y',  0x28, 0xB5, 0x2F, 0xFD, 0x20,
                                          0x05, 0x29, 0x00, 0x00, 't',  'h',  'r',  'e',  'e'};

static void zstandard_is_decompressed_frame_by_frame(void **state)
{
    Text text;
    char path[PATH_BYTES];
    scratch_path(state, "lines", path); /* the name does not matter */
    assert_ok(file_write(path, zstd_file, sizeof zstd_file));
    assert_ok(lines_read_file(&text, path));
    assert_string_equal(text.data, "one\ntwo\nthree");
    text_free(&text);
    for (size_t n = sizeof zstd_file - 1; n > 31; n--) { /* cut short anywhere in the last frame */
        assert_ok(file_write(path, zstd_file, n));
        assert_fails(lines_read_file(&text, path), ERR_IO, "lines: unexpected end of file");
    }
    unsigned char damaged[sizeof zstd_file];
    memcpy(damaged, zstd_file, sizeof damaged);
    damaged[10] ^= 1;
    assert_ok(file_write(path, damaged, sizeof damaged));
    assert_fails(lines_read_file(&text, path), ERR_IO, "checksum");
}

static void a_missing_file_or_a_directory_is_an_error(void **state)
{
    LineReader *reader;
    assert_fails(lines_open(&reader, *state), ERR_IO, "is a directory");
    assert_fails(lines_open(&reader, "/nowhere/at/all"), ERR_IO, "/nowhere/at/all");
}

/* The shell makes the file; *state is the folder. */
static void make(void **state, const char *command)
{
    char text[2 * PATH_BYTES];
    snprintf(text, sizeof text, "cd %s && %s", (const char *)*state, command);
    assert_int_equal(system(text), 0);
}

static Err *read_through(const char *path)
{
    LineReader *reader;
    const char *line = "";
    size_t bytes;
    TRY(lines_open(&reader, path));
    Err *err = NULL;
    while (line && !err) err = lines_next(reader, &line, &bytes);
    lines_close(reader);
    return err;
}

static void gzip_members_follow_one_another(void **state)
{
    char path[PATH_BYTES];
    Text text;
    make(state, "(printf 'one\\ntwo' | gzip; printf '\\nthree' | gzip; head -c 512 /dev/zero) > members.gz");
    assert_ok(lines_read_file(&text, scratch_path(state, "members.gz", path)));
    assert_string_equal(text.data, "one\ntwo\nthree");
    text_free(&text);
}

static void a_file_that_becomes_far_too_large_is_refused(void **state)
{
    char path[PATH_BYTES];
    make(state, "yes 'the same line again' | head -c 70000000 | gzip -9 > bomb.gz");
    scratch_path(state, "bomb.gz", path);
    assert_fails(read_through(path), ERR_DATA, "set unpack_limit to 0");
    inflate_limit(0);
    assert_ok(read_through(path));
    inflate_limit(INFLATE_LIMIT);
}

static void on_signal(int number) { (void)number; }

/* A pipe's writer is slow, and a signal comes while the reader waits. */
static void a_signal_does_not_end_a_file(void **state)
{
    char path[PATH_BYTES];
    int code;
    LineReader *reader;
    const char *line;
    size_t bytes;
    struct sigaction action = {.sa_handler = on_signal}, before; /* without SA_RESTART */
    assert_int_equal(mkfifo(scratch_path(state, "pipe", path), 0600), 0);
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        int fd = open(path, O_WRONLY);
        bool wrote = write(fd, "one\n", 4) == 4;
        for (int i = 0; i < 3; i++) {
            usleep(30000);
            kill(parent, SIGUSR1);
        }
        usleep(30000);
        wrote = wrote && write(fd, "two\n", 4) == 4;
        _exit(!wrote);
    }
    assert_ok(lines_open(&reader, path));
    assert_ok(lines_next(reader, &line, &bytes));
    assert_memory_equal(line, "one", bytes);
    assert_ok(lines_next(reader, &line, &bytes));
    assert_non_null(line);
    assert_memory_equal(line, "two", bytes);
    lines_close(reader);
    while (waitpid(child, &code, 0) < 0) assert_int_equal(errno, EINTR);
    assert_int_equal(code, 0);
    sigaction(SIGUSR1, &before, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(lines_come_without_their_ends_and_are_counted),
        scratch_test(a_line_may_be_longer_than_any_buffer),
        scratch_test(a_damaged_gzip_file_is_an_error),
        scratch_test(zstandard_is_decompressed_frame_by_frame),
        scratch_test(a_missing_file_or_a_directory_is_an_error),
        scratch_test(gzip_members_follow_one_another),
        scratch_test(a_file_that_becomes_far_too_large_is_refused),
        scratch_test(a_signal_does_not_end_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
