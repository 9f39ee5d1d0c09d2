/* The corpus of a fuzzer as an ordinary test, and bytes as a file: a memory file, opened by its path under /proc. */
#define _GNU_SOURCE
#include "tests/support/fuzz.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *corpus_name;
static FuzzEntry corpus_entry;

static void every_input_of_the_corpus_ends_in_an_answer(void **state)
{
    char folder[PATH_BYTES], path[PATH_BYTES], *data;
    size_t bytes, n = 0;
    (void)state;
    assert_ok(file_join(folder, "tests/fuzz/corpus", corpus_name));
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)); n++) {
        if (entry->d_name[0] == '.') continue;
        assert_ok(file_join(path, folder, entry->d_name));
        assert_ok(file_read(&data, &bytes, path));
        assert_int_equal(corpus_entry((const uint8_t *)data, bytes), 0);
        free(data);
    }
    closedir(directory);
    assert_true(n > 2); /* more than the two dots */
}

int fuzz_corpus(const char *name, FuzzEntry entry)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_input_of_the_corpus_ends_in_an_answer)};
    corpus_name = name;
    corpus_entry = entry;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

const char *fuzz_file(const uint8_t *data, size_t bytes)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 0) || pwrite(fd, data, bytes, 0) != (ssize_t)bytes) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}
