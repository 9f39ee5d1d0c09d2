/* metrics.jsonl: flushed line by line, cut back by a resume also where lines were lost, and errors of the disk. */
#define _GNU_SOURCE
#include "train/metrics.h"

#include "base/log.h"
#include "tests/support/check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static Json *line_of(double step)
{
    Json *line = json_new_object();
    json_add_number(line, "step", step);
    return line;
}

static void check_text(void **state, const char *expected)
{
    char path[PATH_BYTES], *text;
    size_t bytes;
    assert_ok(file_read(&text, &bytes, scratch_path(state, "metrics.jsonl", path)));
    assert_string_equal(text, expected);
    free(text);
}

static void lines_are_on_disk_as_soon_as_they_are_written(void **state)
{
    Metrics metrics;
    assert_ok(metrics_open(&metrics, *state));
    assert_ok(metrics_write(&metrics, line_of(1)));
    check_text(state, "{\"step\":1}\n");
    assert_ok(metrics_write(&metrics, line_of(2)));
    check_text(state, "{\"step\":1}\n{\"step\":2}\n");
    assert_int_equal(metrics.bytes, 22);
    assert_ok(metrics_close(&metrics));
}

static void a_resume_cuts_the_file_back(void **state)
{
    Metrics metrics;
    assert_ok(metrics_open(&metrics, *state));
    for (int i = 1; i <= 3; i++) assert_ok(metrics_write(&metrics, line_of(i)));
    assert_ok(metrics_close(&metrics));
    assert_ok(metrics_resume(&metrics, *state, 22, 2));
    check_text(state, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    assert_ok(metrics_cut(&metrics));
    check_text(state, "{\"step\":1}\n{\"step\":2}\n");
    assert_ok(metrics_write(&metrics, line_of(9)));
    assert_ok(metrics_close(&metrics));
    check_text(state, "{\"step\":1}\n{\"step\":2}\n{\"step\":9}\n");
    assert_ok(metrics_open(&metrics, *state)); /* starting over */
    assert_ok(metrics_close(&metrics));
    check_text(state, "");
}

/* As after a power failure: the checkpoint counted more than is there. */
static void a_resume_goes_on_after_the_last_whole_line(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes, step;
        const char *kept;
    } cases[] = {
        {"{\"step\":1}\n", 100, 9, "{\"step\":1}\n"},
        {"{\"step\":1}\n{\"ste", 100, 9, "{\"step\":1}\n"},
        {"{\"step\":1}\n{\"step\":2}", 22, 2, "{\"step\":1}\n"},
        {"", 100, 9, ""},
        {NULL, 100, 9, ""},
        /* it went on from step 3 without the line of step 2, and then once more */
        {"{\"step\":1}\n{\"step\":4}\n{\"step\":5}\n", 33, 3, "{\"step\":1}\n"},
    };
    char path[PATH_BYTES];
    scratch_path(state, "metrics.jsonl", path);
    log_enable(false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Metrics metrics;
        unlink(path);
        if (cases[i].text) assert_ok(file_write(path, cases[i].text, strlen(cases[i].text)));
        assert_ok(metrics_resume(&metrics, *state, cases[i].bytes, cases[i].step));
        assert_int_equal(metrics.bytes, strlen(cases[i].kept));
        assert_ok(metrics_cut(&metrics));
        assert_ok(metrics_close(&metrics));
        check_text(state, cases[i].kept);
    }
    log_enable(true);
}

static void what_cannot_be_synced_is_an_error(void **state)
{
    Metrics metrics;
    assert_ok(metrics_open(&metrics, *state));
    assert_ok(metrics_write(&metrics, line_of(1)));
    assert_ok(metrics_sync(&metrics));
    close(fileno(metrics.stream));
    assert_fails(metrics_sync(&metrics), ERR_IO, "metrics.jsonl: Bad file descriptor");
    err_free(metrics_close(&metrics));
}

static void ranks_that_do_not_write_write_nothing(void **state)
{
    (void)state;
    Metrics metrics = {0};
    assert_ok(metrics_write(&metrics, line_of(1)));
    assert_ok(metrics_sync(&metrics));
    assert_ok(metrics_close(&metrics));
}

static void a_full_disk_is_an_error(void **state)
{
    Metrics metrics;
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 30;
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(metrics_open(&metrics, *state));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    Err *err = NULL;
    for (int i = 1; i <= 3 && !err; i++) err = metrics_write(&metrics, line_of(i));
    setrlimit(RLIMIT_FSIZE, &old);
    assert_fails(err, ERR_IO, "metrics.jsonl: File too large");
    err_free(metrics_close(&metrics));
}

static void a_path_that_is_not_a_directory_is_named(void **state)
{
    (void)state;
    Metrics metrics;
    assert_fails(metrics_open(&metrics, "/dev/null"), ERR_IO, "/dev/null/metrics.jsonl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(lines_are_on_disk_as_soon_as_they_are_written), scratch_test(a_resume_cuts_the_file_back),
        scratch_test(a_resume_goes_on_after_the_last_whole_line),    scratch_test(what_cannot_be_synced_is_an_error),
        cmocka_unit_test(ranks_that_do_not_write_write_nothing),     scratch_test(a_full_disk_is_an_error),
        cmocka_unit_test(a_path_that_is_not_a_directory_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
