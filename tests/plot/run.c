/* Runs read from metrics.jsonl, and pictures of them. */
#include "plot/picture.h"
#include "plot/run.h"

#include "base/file.h"

#include <dirent.h>
#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], run_a[PATH_BYTES], run_b[PATH_BYTES], picture[PATH_BYTES];

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/graft-run-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_null(file_join(run_a, folder, "a"));
    assert_null(file_join(run_b, folder, "b"));
    assert_null(file_join(picture, folder, "loss.png"));
    assert_null(file_make_directory(run_a));
    assert_null(file_make_directory(run_b));
    return 0;
}

static void remove_all(const char *directory)
{
    char path[PATH_BYTES];
    DIR *stream = opendir(directory);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        assert_null(file_join(path, directory, entry->d_name));
        if (file_is_directory(path))
            remove_all(path);
        else
            unlink(path);
    }
    closedir(stream);
    rmdir(directory);
}

static int teardown(void **state)
{
    (void)state;
    remove_all(folder);
    return 0;
}

static void write_metrics(const char *run, const char *text)
{
    char path[PATH_BYTES];
    assert_null(file_join(path, run, "metrics.jsonl"));
    assert_null(file_write(path, text, strlen(text)));
}

static PlotRun read_text(const char *text)
{
    PlotRun run;
    write_metrics(run_a, text);
    assert_null(plot_run_read(&run, run_a));
    return run;
}

static void assert_refused(const char *text, const char *message)
{
    PlotRun run;
    write_metrics(run_a, text);
    Err *err = plot_run_read(&run, run_a);
    assert_non_null(err);
    assert_int_equal(err_kind(err), ERR_FORMAT);
    if (!strstr(err_message(err), message)) fail_msg("\"%s\" does not say \"%s\"", err_message(err), message);
    err_free(err);
}

static const char two_steps[] =
    "{\"settings\":{\"r\":16},\"learning_rate\":0.003}\n"
    "{\"step\":0,\"eval_loss\":5.2,\"eval_file\":\"data/eval.jsonl\"}\n"
    "{\"step\":1,\"loss\":4.31,\"learning_rate\":0.003,\"grad_norm\":0.41,\"tokens_per_second\":812.0,\"epoch\":0.1}\n"
    "\n"
    "{\"step\":2,\"loss\":null,\"learning_rate\":0.002,\"learning_rate_B\":0.02,\"grad_norm\":0.4,\"note\":[1,2]}\r\n"
    "{\"step\":2,\"eval_loss\":4.9,\"eval_file\":\"data/eval.jsonl\"}\n"
    "{\"step\":2,\"eval_loss\":5.9,\"eval_file\":\"data/other.jsonl\"}\n"
    "{\"step\":2,\"eval_loss\":6.5,\"eval_file\":\"data/other.jsonl\",\"eval_domain\":\"law\"}\n";

static void lines_become_curves(void **state)
{
    (void)state;
    PlotRun run = read_text(two_steps);
    assert_string_equal(run.name, "a");
    assert_int_equal(run.loss.n, 2);
    assert_true(run.loss.points[0].x == 1 && run.loss.points[0].y == 4.31 && isnan(run.loss.points[1].y));
    assert_int_equal(run.rates[PLOT_RATE_A].n, 2);
    assert_true(run.rates[PLOT_RATE_A].points[1].y == 0.002);
    assert_int_equal(run.rates[PLOT_RATE_B].n, 1);
    assert_true(run.epochs == 0.1);
    assert_int_equal(run.n_evals, 3);
    assert_int_equal(run.evals[0].loss.n, 2);
    assert_string_equal(run.evals[1].file, "data/other.jsonl");
    assert_string_equal(run.evals[1].domain, "");
    assert_true(run.evals[1].loss.points[0].x == 2 && run.evals[1].loss.points[0].y == 5.9);
    assert_string_equal(run.evals[2].file, "data/other.jsonl");
    assert_string_equal(run.evals[2].domain, "law");
    assert_true(run.evals[2].loss.n == 1 && run.evals[2].loss.points[0].y == 6.5);
    plot_run_free(&run);
}

static void a_last_line_that_is_cut_off_is_ignored(void **state)
{
    (void)state;
    PlotRun run = read_text("{\"step\":1,\"loss\":4.31}\n{\"step\":2,\"lo");
    assert_int_equal(run.loss.n, 1);
    plot_run_free(&run);
    run = read_text("{\"step\":1,\"loss\":4.31}\n{\"step\":2,\"loss\":4.2}");
    assert_int_equal(run.loss.n, 2);
    plot_run_free(&run);
    run = read_text("");
    assert_int_equal(run.loss.n, 0);
    plot_run_free(&run);
}

static void a_malformed_line_is_named_by_its_number(void **state)
{
    (void)state;
    assert_refused("{\"step\":1,\"loss\":4.31}\n\n{\"step\":2,\"lo\n{\"step\":3,\"loss\":1}\n",
                   "line 3 is not valid JSON");
    assert_refused("{\"step\":1,\"loss\":4.31}\n[1]\n", "line 2: holds an array");
    assert_refused("{\"step\":1,\"loss\":4.31} {}\n", "line 1 is not valid JSON");
    assert_refused("{\"step\":1,\"loss\":4.31}\n{\"loss\":4.31}\n", "line 2: key step");
    assert_refused("{\"step\":1.5,\"loss\":4.31}\n", "line 1: ");
    assert_refused("{\"step\":1,\"loss\":\"low\"}\n", "loss");
    assert_refused("{\"step\":1,\"eval_loss\":1,\"eval_file\":3}\n", "eval_file");
    assert_refused("{\"step\":1,\"loss\":4.31}\n{\"step\":2,\"lo\n", "metrics.jsonl");
}

static void a_run_is_named_after_its_directory_or_file(void **state)
{
    (void)state;
    char path[PATH_BYTES];
    PlotRun run;
    write_metrics(run_a, two_steps);
    assert_null(file_join(path, run_a, "metrics.jsonl"));
    assert_null(plot_run_read(&run, path));
    assert_string_equal(run.name, "a");
    plot_run_free(&run);
    assert_null(file_join(path, run_a, ""));
    assert_null(plot_run_read(&run, path)); /* with a slash at its end */
    assert_string_equal(run.name, "a");
    plot_run_free(&run);
    assert_null(file_join(path, folder, "curve.v2.jsonl"));
    assert_null(file_write(path, two_steps, strlen(two_steps)));
    assert_null(plot_run_read(&run, path));
    assert_string_equal(run.name, "curve.v2");
    plot_run_free(&run);
}

static void a_run_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    PlotRun run;
    Err *err = plot_run_read(&run, run_b); /* holds no metrics */
    assert_non_null(err);
    assert_int_equal(err_kind(err), ERR_IO);
    err_free(err);
    err = plot_runs(picture, NULL, 1, (const char *[]){"/nonexistent"});
    assert_non_null(err);
    err_free(err);
    err = plot_runs(picture, NULL, 0, NULL);
    assert_non_null(err);
    assert_int_equal(err_kind(err), ERR_USAGE);
    err_free(err);
    assert_false(file_exists(picture));
}

static void assert_png(size_t min_height)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, picture));
    assert_int_equal(image.width, 1200);
    assert_true(image.height >= min_height);
    png_image_free(&image);
    unlink(picture);
}

static void one_run_or_several_make_a_picture(void **state)
{
    (void)state;
    write_metrics(run_a, two_steps);
    write_metrics(run_b, "{\"step\":5,\"eval_loss\":4.31}\n");
    assert_null(plot_runs(picture, NULL, 1, (const char *[]){run_a}));
    assert_png(700);
    assert_null(plot_runs(picture, "both", 2, (const char *[]){run_a, run_b}));
    assert_png(700);
    assert_null(plot_runs(picture, NULL, 3, (const char *[]){run_a, run_a, run_b}));
    assert_png(700);
}

static void a_run_without_a_curve_is_refused(void **state)
{
    static const char *const empty[] = {"", "{\"settings\":{\"r\":16},\"learning_rate\":0.003}\n"};
    (void)state;
    write_metrics(run_a, two_steps);
    for (size_t i = 0; i < 2; i++) {
        write_metrics(run_b, empty[i]);
        Err *err = plot_runs(picture, NULL, 2, (const char *[]){run_a, run_b});
        assert_non_null(err);
        assert_int_equal(err_kind(err), ERR_FORMAT);
        assert_non_null(strstr(err_message(err), "no line has a loss"));
        err_free(err);
        assert_false(file_exists(picture));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_become_curves, setup, teardown),
        cmocka_unit_test_setup_teardown(a_last_line_that_is_cut_off_is_ignored, setup, teardown),
        cmocka_unit_test_setup_teardown(a_malformed_line_is_named_by_its_number, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_is_named_after_its_directory_or_file, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_that_is_not_there_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(one_run_or_several_make_a_picture, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_without_a_curve_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
