/* Pictures from records: the roofline, and the timing of operations. */
#include "plot/roofline.h"

#include "plot/timing.h"
#include "tests/support/check.h"

#include <png.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MACHINE                          \
    "{\"kind\":\"machine\",\"cpu\":\"a " \
    "CPU\",\"threads\":2,\"path\":\"bf16\",\"fp32_gflops\":500,\"bf16_gflops\":1000,\"memory_gbs\":50}\n"
#define OPERATION(pass, gflops)                                                                             \
    "{\"kind\":\"operation\",\"operation\":\"experts\",\"shape\":\"frozen\",\"tokens\":512,\"way\":\"" pass \
    "\",\"flop\":1e9,\"bytes\":1e7,\"gflops\":" gflops "}\n"
#define TIMING                                                                                                        \
    "{\"kind\":\"step\",\"model\":\"S\",\"targets\":\"attn\",\"tokens\":512,\"seconds\":0.01,\"flop\":1e9,\"bytes\":" \
    "1e7,\"gflops\":100,\"profile\":["                                                                                \
    "{\"operation\":\"linear\",\"layer\":0,\"up_ms\":1,\"down_ms\":2},{\"operation\":\"loss\",\"layer\":null,\"up_"   \
    "ms\":4,\"down_ms\":0},"                                                                                          \
    "{\"operation\":\"linear\",\"layer\":1,\"up_ms\":1,\"down_ms\":1}]}\n"

static char file[PATH_BYTES], picture[PATH_BYTES];

static void write_records(void **state, const char *text)
{
    scratch_path(state, "r.jsonl", file);
    scratch_path(state, "r.png", picture);
    assert_ok(file_write(file, text, strlen(text)));
}

/* The picture's pixels, [h][w][3]. Owner: the caller. */
static unsigned char *pixels(size_t *w, size_t *h)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, picture));
    image.format = PNG_FORMAT_RGB;
    unsigned char *data = malloc(PNG_IMAGE_SIZE(image));
    assert_true(png_image_finish_read(&image, NULL, data, 0, NULL));
    *w = image.width;
    *h = image.height;
    return data;
}

/* How many pixels have this colour, and the middle of them. */
static size_t count_colour(const unsigned char colour[3], double *x, double *y)
{
    size_t w, h, n = 0;
    unsigned char *data = pixels(&w, &h);
    *x = *y = 0;
    for (size_t i = 0; i < w * h; i++) {
        if (memcmp(data + 3 * i, colour, 3) != 0) continue;
        n++;
        *x += (double)(i % w);
        *y += (double)(i / w);
    }
    *x /= n ? (double)n : 1;
    *y /= n ? (double)n : 1;
    free(data);
    return n;
}

static const unsigned char orange[3] = {213, 94, 0}, blue[3] = {0, 114, 178}; /* experts; the longest operation */

static void a_faster_operation_stands_higher(void **state)
{
    double x[2], y[2];
    for (int i = 0; i < 2; i++) {
        write_records(state, i ? MACHINE OPERATION("forward", "400") : MACHINE OPERATION("forward", "90"));
        assert_ok(plot_roofline(picture, NULL, file));
        assert_true(count_colour(orange, &x[i], &y[i]) > 50);
    }
    assert_true(y[1] < y[0] - 50);
    assert_true(x[1] > x[0] - 200 && x[1] < x[0] + 200);
}

static void records_that_have_no_place_are_refused(void **state)
{
    const struct {
        const char *text, *message;
    } cases[] = {
        {OPERATION("forward", "1"), "no record of kind machine"},
        {MACHINE, "no record of an operation"},
        {MACHINE OPERATION("forward", "0"), "record 2: flop, bytes and gflops"},
        {MACHINE "{\"kind\":\"operation\"}\n", "record 2"},
        {"{\"kind\":\"machine\"}\n", "record 1"},
        {MACHINE "{\"kind\":", "record 2"},
        {"", "no record of kind machine"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_records(state, cases[i].text);
        assert_fails(plot_roofline(picture, NULL, file), ERR_FORMAT, cases[i].message);
        assert_false(file_exists(picture));
    }
}

static void labels_without_a_free_place_are_left_out(void **state)
{
    static char text[65536];
    size_t n = (size_t)snprintf(text, sizeof text, MACHINE);
    for (int i = 0; i < 120; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "{\"kind\":\"operation\",\"operation\":\"experts\",\"shape\":\"%d\",\"tokens\":1,\"way\":"
                              "\"forward\",\"flop\":1e9,\"bytes\":1e7,\"gflops\":100}\n",
                              i);
    write_records(state, text);
    assert_ok(plot_roofline(picture, "crowded", file));
}

static void a_timing_shows_layers_and_operations(void **state)
{
    double x, y;
    write_records(state, MACHINE TIMING);
    assert_ok(plot_timing(picture, NULL, file));
    assert_true(count_colour(blue, &x, &y) > 1000);
    write_records(state, MACHINE OPERATION("forward", "1"));
    assert_fails(plot_timing(picture, NULL, file), ERR_FORMAT, "no record has the timing of operations");
    write_records(state, "{\"profile\":[{\"operation\":\"a\",\"layer\":-3,\"up_ms\":1,\"down_ms\":1}]}\n");
    assert_fails(plot_timing(picture, NULL, file), ERR_FORMAT, "layer");
    write_records(state, "{\"profile\":[{\"operation\":\"a\",\"up_ms\":0,\"down_ms\":0}]}\n"); /* no time at all */
    assert_ok(plot_timing(picture, NULL, file));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_faster_operation_stands_higher),
        scratch_test(records_that_have_no_place_are_refused),
        scratch_test(labels_without_a_free_place_are_left_out),
        scratch_test(a_timing_shows_layers_and_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
