/* Files written, read, mapped and replaced, also by many threads; links, FIFOs and devices written through; a map whose
 * file was cut short; paths and directories that are refused. */
#define _GNU_SOURCE
#include "base/file.h"
#include "tests/support/check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
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

static void a_draft_is_known_by_its_name(void **state)
{
    char path[PATH_BYTES], draft[PATH_BYTES];
    scratch_path(state, "x", path);
    assert_ok(file_draft_name(draft, path));
    assert_true(file_is_draft_of(strrchr(draft, '/') + 1, "x"));
    assert_true(file_is_draft_of("x.draft.17", "x")); /* of an older graft */
    assert_false(file_is_draft_of("x.draft.", "x"));
    assert_false(file_is_draft_of("x.draft.mine", "x"));
    assert_false(file_is_draft_of("x", "x"));
    assert_false(file_is_draft_of("xy.draft.17", "x"));
    assert_false(file_is_draft_of("x.draft.17", "xy"));
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

/* ---- where a path leads --------------------------------------------------------------------------------------- */

static void assert_is_link(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
}

static void assert_holds(const char *path, const char *expected)
{
    char *text;
    assert_ok(file_read(&text, NULL, path));
    assert_string_equal(text, expected);
    free(text);
}

static void links_stay_and_what_they_lead_to_is_replaced(void **state)
{
    char folder[PATH_BYTES], path[PATH_BYTES], link[PATH_BYTES], far[PATH_BYTES];
    assert_ok(file_make_directory(scratch_path(state, "folder", folder)));
    scratch_path(state, "folder/x", path);
    assert_int_equal(symlink("folder/x", scratch_path(state, "link", link)), 0);
    assert_int_equal(symlink(link, scratch_path(state, "far", far)), 0);
    assert_ok(file_write(far, "new", 3)); /* nothing was there */
    assert_holds(path, "new");
    assert_true(file_is_same(far, path));
    assert_ok(file_write(link, "newer", 5));
    assert_holds(path, "newer");
    assert_is_link(link);
    assert_is_link(far);
    assert_int_equal(count_entries(folder), 1); /* no draft */
    assert_int_equal(count_entries(*state), 3);
    assert_int_equal(symlink("loop", scratch_path(state, "loop", link)), 0);
    assert_fails(file_write(link, "x", 1), ERR_IO, "too many symbolic links");
    assert_fails(file_write("", "x", 1), ERR_IO, "path is empty");
}

static void a_replaced_file_keeps_its_mode(void **state)
{
    char path[PATH_BYTES];
    struct stat st;
    assert_ok(file_write(scratch_path(state, "secret", path), "old", 3));
    assert_int_equal(chmod(path, 0600), 0);
    assert_ok(file_write(path, "new", 3));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_fifo_is_written_to(void **state)
{
    char path[PATH_BYTES], text[8] = {0};
    struct stat st;
    assert_int_equal(mkfifo(scratch_path(state, "fifo", path), 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    assert_ok(file_write(path, "words", 5));
    assert_int_equal(read(reader, text, sizeof text), 5);
    assert_string_equal(text, "words");
    close(reader);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_false(file_is_same(path, path)); /* not a file on disk */
    assert_int_equal(count_entries(*state), 1);
}

/* By way of links, so that the machine keeps its devices should this fail. */
static void a_device_is_written_to(void **state)
{
    char null[PATH_BYTES], full[PATH_BYTES];
    struct stat st;
    assert_int_equal(symlink("/dev/null", scratch_path(state, "null", null)), 0);
    assert_int_equal(symlink("/dev/full", scratch_path(state, "full", full)), 0);
    assert_ok(file_write(null, "x", 1));
    assert_is_link(null);
    assert_int_equal(stat(null, &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    if (file_exists(full)) assert_fails(file_write(full, "x", 1), ERR_IO, "full: No space left on device");
    assert_int_equal(count_entries(*state), 2);
}

static void a_writer_that_is_discarded_changes_nothing(void **state)
{
    char path[PATH_BYTES];
    FileWriter writer;
    assert_ok(file_write(scratch_path(state, "x", path), "old", 3));
    assert_ok(file_writer_open(&writer, path));
    fputs("new", writer.stream);
    file_writer_discard(&writer);
    assert_holds(path, "old");
    assert_int_equal(count_entries(*state), 1);
}

static void standard_output_is_written_after_what_was_printed(void **state)
{
    char path[PATH_BYTES], link[PATH_BYTES];
    const char *const names[] = {"-", link, path};
    assert_int_equal(symlink("/dev/stdout", scratch_path(state, "link", link)), 0);
    scratch_path(state, "printed", path);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(saved >= 0 && file >= 0 && dup2(file, STDOUT_FILENO) >= 0);
    Err *err = NULL;
    for (size_t i = 0; i < 3 && !err; i++) {
        fputs("printed, ", stdout);
        err = file_write(names[i], "written, ", 9);
    }
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(file);
    assert_ok(err);
    assert_holds(path, "printed, written, printed, written, printed, written, ");
    assert_is_link(link);
    assert_false(file_exists("-"));
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
        scratch_test(a_draft_is_known_by_its_name),
        scratch_test(directories_are_made_with_their_parents),
        scratch_test(paths_that_do_not_fit_are_refused),
        scratch_test(closing_reports_a_failed_write),
        scratch_test(links_stay_and_what_they_lead_to_is_replaced),
        scratch_test(a_replaced_file_keeps_its_mode),
        scratch_test(a_fifo_is_written_to),
        scratch_test(a_device_is_written_to),
        scratch_test(a_writer_that_is_discarded_changes_nothing),
        scratch_test(standard_output_is_written_after_what_was_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
