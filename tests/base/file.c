/* Files written, read, mapped and replaced, also by many threads; a map whose file was cut short; paths and directories
 * that are refused. */
#include "base/file.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The program's own getrandom, in place of libc's: the same number again and again while it is not 0. */
static uint64_t drawn;

ssize_t getrandom(void *to, size_t bytes, unsigned flags)
{
    if (!drawn) return syscall(SYS_getrandom, to, bytes, flags);
    memcpy(to, &drawn, bytes);
    return (ssize_t)bytes;
}

static int count_entries(const char *path)
{
    int n = 0;
    DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) n += entry->d_name[0] != '.';
    closedir(directory);
    return n;
}

static void a_written_file_is_read_and_mapped(void **state)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    FileMap map;
    scratch_path(state, "x", path);
    assert_ok(file_write(path, "a\0b", 3));
    assert_ok(file_write(path, "c\0d", 3));
    assert_ok(file_read(&text, &bytes, path));
    assert_int_equal(bytes, 3);
    assert_memory_equal(text, "c\0d", 4); /* the zero at the end included */
    assert_ok(file_map(&map, path));
    assert_int_equal(map.bytes, 3);
    assert_memory_equal(map.data, "c\0d", 3);
    file_unmap(&map);
    free(text);
    assert_int_equal(count_entries(*state), 1); /* no draft is left */
}

enum { MAPPERS = 4, MAPS = 1000, ROUNDS = 8000 };

/* An assertion of a child and of its threads. */
static void need(bool good)
{
    if (!good) _exit(100);
}

/* Map a file many times; each map is closed when MAPS more have been opened. */
static void *map_and_unmap(void *path)
{
    FileMap maps[MAPS] = {0};
    for (size_t i = 0; i < ROUNDS; i++) {
        FileMap *map = &maps[i % MAPS];
        file_unmap(map);
        need(!file_map(map, path));
    }
    for (size_t i = 0; i < MAPS; i++) file_unmap(&maps[i]);
    return NULL;
}

/* In a child: map a file, cut it short and read it, while other threads map and unmap. Never returns. */
static void read_what_was_cut_short(char *path, char *other, const char *messages)
{
    pthread_t thread;
    FileMap map;
    need(freopen(messages, "w", stderr));
    file_watch_maps();
    need(!file_map(&map, path));
    for (size_t i = 0; i < MAPPERS; i++) need(!pthread_create(&thread, NULL, map_and_unmap, other));
    map_and_unmap(other);
    need(!truncate(path, 0));
    _exit(*(const volatile unsigned char *)map.data); /* the read raises SIGBUS */
}

static void a_map_that_was_cut_short_is_named_while_others_map(void **state)
{
    char path[PATH_BYTES], other[PATH_BYTES], messages[PATH_BYTES], expected[PATH_BYTES + 100], *text;
    int status;
    assert_ok(file_write(scratch_path(state, "weights", path), "a", 1));
    assert_ok(file_write(scratch_path(state, "other", other), "a", 1));
    scratch_path(state, "messages", messages);
    pid_t child = fork();
    if (child == 0) read_what_was_cut_short(path, other, messages);
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ERR_IO);
    assert_ok(file_read(&text, NULL, messages));
    snprintf(expected, sizeof expected, "graft: %s: its bytes can no longer be read", path);
    assert_int_equal(strncmp(text, expected, strlen(expected)), 0);
    free(text);
}

static void an_empty_file_is_read_and_mapped(void **state)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    FileMap map;
    scratch_path(state, "empty", path);
    assert_ok(file_write(path, NULL, 0));
    assert_ok(file_read(&text, &bytes, path));
    assert_int_equal(bytes, 0);
    assert_string_equal(text, "");
    free(text);
    assert_ok(file_map(&map, path));
    assert_null(map.data);
    file_unmap(&map);
}

static void a_large_file_is_read_whole(void **state)
{
    enum { N = 200001 };
    char path[PATH_BYTES], *text, *data = malloc(N);
    size_t bytes;
    assert_non_null(data);
    for (int i = 0; i < N; i++) data[i] = (char)(i * 7);
    assert_ok(file_write(scratch_path(state, "x", path), data, N));
    assert_ok(file_read(&text, &bytes, path));
    assert_int_equal(bytes, N);
    assert_memory_equal(text, data, N);
    free(text);
    free(data);
}

static void a_path_that_is_not_a_file_is_refused(void **state)
{
    char path[PATH_BYTES], *text;
    FileMap map;
    scratch_path(state, "nowhere", path);
    assert_fails(file_map(&map, path), ERR_IO, "nowhere: No such file");
    assert_fails(file_read(&text, NULL, path), ERR_IO, "nowhere: No such file");
    assert_fails(file_map(&map, *state), ERR_IO, "is not a regular file");
    assert_fails(file_read(&text, NULL, *state), ERR_IO, "Is a directory");
    assert_fails(file_write(*state, "x", 1), ERR_IO, "Is a directory");
    assert_int_equal(count_entries(*state), 0);
}

static void a_draft_replaces_its_target_or_is_removed(void **state)
{
    char path[PATH_BYTES], draft[PATH_BYTES], *text;
    scratch_path(state, "x", path);
    assert_ok(file_write(path, "old", 3));
    assert_ok(file_draft_name(draft, path));
    assert_true(strncmp(draft, path, strlen(path)) == 0 && strlen(draft) > strlen(path));
    assert_ok(file_write(draft, "new", 3));
    assert_ok(file_replace(draft, path));
    assert_false(file_exists(draft));
    assert_ok(file_read(&text, NULL, path));
    assert_string_equal(text, "new");
    free(text);
    assert_fails(file_replace(draft, path), ERR_IO, "draft");
    assert_true(file_exists(path));
}

static void writers_of_one_target_have_drafts_of_their_own(void **state)
{
    char path[PATH_BYTES], drafts[2][PATH_BYTES], *text;
    FILE *streams[2];
    scratch_path(state, "x", path);
    for (size_t i = 0; i < 2; i++) assert_ok(file_draft_open(&streams[i], drafts[i], path));
    for (size_t i = 0; i < 2; i++) {
        fputs(i ? "second" : "first", streams[i]);
        assert_ok(file_close(&streams[i], drafts[i]));
        assert_ok(file_replace(drafts[i], path));
    }
    assert_ok(file_read(&text, NULL, path));
    assert_string_equal(text, "second");
    free(text);
    assert_int_equal(count_entries(*state), 1);
}

static void a_draft_is_never_a_file_that_was_there(void **state)
{
    char path[PATH_BYTES], draft[PATH_BYTES];
    FILE *stream, *other;
    scratch_path(state, "x", path);
    drawn = 0x1234;
    assert_ok(file_draft_open(&stream, draft, path));
    assert_true(strstr(draft, "/x.draft.0000000000001234") != NULL);
    assert_fails(file_draft_open(&other, draft, path), ERR_IO, "File exists");
    drawn = 0;
    assert_null(other);
    assert_string_equal(draft, "");
    fclose(stream);
    assert_int_equal(count_entries(*state), 1); /* the first one is untouched */
}

static void directories_are_made_with_their_parents(void **state)
{
    char path[PATH_BYTES], file[PATH_BYTES];
    scratch_path(state, "a/b//c/", path);
    assert_ok(file_make_directory(path));
    assert_ok(file_make_directory(path));
    assert_true(file_is_directory(path));
    assert_ok(file_write(scratch_path(state, "a/file", file), "x", 1));
    assert_false(file_is_directory(file));
    assert_fails(file_make_directory(file), ERR_IO, "is not a directory");
    scratch_path(state, "a/file/deeper", file);
    assert_fails(file_make_directory(file), ERR_IO, "make directory");
    assert_fails(file_make_directory(""), ERR_IO, "empty");
}

static void paths_that_do_not_fit_are_refused(void **state)
{
    static char name[PATH_BYTES + 1];
    char path[PATH_BYTES];
    (void)state;
    memset(name, 'x', PATH_BYTES);
    assert_fails(file_join(path, "directory", name), ERR_IO, "path too long");
    name[PATH_BYTES - 1] = 0;
    assert_fails(file_draft_name(path, name), ERR_IO, "path too long");
}

static void closing_reports_a_failed_write(void **state)
{
    FILE *stream = fopen("/dev/full", "w");
    (void)state;
    if (!stream) skip();
    fputs("x", stream);
    assert_fails(file_close(&stream, "full"), ERR_IO, "write full");
    assert_null(stream);
    assert_ok(file_close(&stream, "full"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_written_file_is_read_and_mapped),
        scratch_test(a_map_that_was_cut_short_is_named_while_others_map),
        scratch_test(an_empty_file_is_read_and_mapped),
        scratch_test(a_large_file_is_read_whole),
        scratch_test(a_path_that_is_not_a_file_is_refused),
        scratch_test(a_draft_replaces_its_target_or_is_removed),
        scratch_test(writers_of_one_target_have_drafts_of_their_own),
        scratch_test(a_draft_is_never_a_file_that_was_there),
        scratch_test(directories_are_made_with_their_parents),
        scratch_test(paths_that_do_not_fit_are_refused),
        scratch_test(closing_reports_a_failed_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
