/* Axes: ranges, ticks, places and the text of numbers. */
#include "plot/axis.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void assert_ticks(const Axis *axis, size_t n, const char *const *texts)
{
    assert_int_equal(axis->n_ticks, n);
    for (size_t i = 0; i < n; i++) assert_string_equal(axis->text[i], texts[i]);
}

static Axis axis_of(Axis axis, double low, double high, double pad, size_t about)
{
    axis_range(&axis, low, high, pad);
    axis_ticks(&axis, about);
    return axis;
}

static void ticks_are_round_numbers_inside_the_range(void **state)
{
    (void)state;
    Axis axis = axis_of((Axis){0}, 3.64, 5.6, 0, 4);
    assert_ticks(&axis, 4, (const char *[]){"4.0", "4.5", "5.0", "5.5"});
    axis = axis_of((Axis){0}, 0, 0.003, 0, 3);
    assert_ticks(&axis, 4, (const char *[]){"0", "0.001", "0.002", "0.003"});
    axis = axis_of((Axis){0}, -0.3, 0.3, 0, 3);
    assert_ticks(&axis, 3, (const char *[]){"\u22120.2", "0", "0.2"});
}

static void ticks_number_about_as_many_as_asked(void **state)
{
    (void)state;
    for (double high = 1e-6; high < 1e9; high *= 1.37) {
        for (size_t about = 1; about <= 12; about++) {
            Axis axis = axis_of((Axis){0}, -high / 7, high, 0.05, about);
            assert_in_range(axis.n_ticks, 1, about + about / 2 + 2);
            for (size_t i = 0; i < axis.n_ticks; i++) {
                assert_true(axis_place(&axis, axis.tick[i]) > -1e-6 && axis_place(&axis, axis.tick[i]) < 1 + 1e-6);
                if (i) assert_string_not_equal(axis.text[i], axis.text[i - 1]);
            }
        }
    }
}

static void counted_things_have_no_ticks_between_whole_numbers(void **state)
{
    (void)state;
    Axis axis = axis_of((Axis){.whole = true}, 0, 3, 0, 12);
    assert_ticks(&axis, 4, (const char *[]){"0", "1", "2", "3"});
    axis = axis_of((Axis){.whole = true}, 5, 5, 0.01, 10);
    assert_ticks(&axis, 1, (const char *[]){"5"});
}

static void a_range_without_width_or_data_is_still_a_range(void **state)
{
    (void)state;
    static const double odd[][2] = {{0, 0},           {3.25, 3.25},          {-1e-12, -1e-12},
                                    {1e20, 1e20},     {INFINITY, -INFINITY}, {-1e308, 1e308},
                                    {5e-324, 5e-324}, {1, 1 + 1e-15}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        for (int log = 0; log < 2; log++) {
            if (log && odd[i][0] < 1e-307) continue;
            Axis axis = axis_of((Axis){.log = log}, odd[i][0], odd[i][1], 0.06, 5);
            assert_true(isfinite(axis.low) && isfinite(axis.high) && axis.low < axis.high);
            assert_true(axis.n_ticks >= 1);
        }
    }
}

static void log_axes_have_ticks_at_powers_of_ten_or_between(void **state)
{
    (void)state;
    Axis axis = axis_of((Axis){.log = true}, 1e-4, 100, 0, 6);
    assert_ticks(&axis, 7, (const char *[]){"1e\u22124", "0.001", "0.01", "0.1", "1", "10", "100"});
    axis = axis_of((Axis){.log = true}, 0.9, 12, 0, 6);
    assert_ticks(&axis, 4, (const char *[]){"1", "2", "5", "10"});
    axis = axis_of((Axis){.log = true}, 4.05, 4.45, 0, 3);
    assert_ticks(&axis, 4, (const char *[]){"4.1", "4.2", "4.3", "4.4"});
}

static void places_run_from_zero_to_one(void **state)
{
    (void)state;
    Axis linear = {0}, log = {.log = true};
    axis_range(&linear, 10, 20, 0);
    axis_range(&log, 1, 10000, 0);
    assert_true(fabs(axis_place(&linear, 12.5) - 0.25) < 1e-12);
    assert_true(fabs(axis_place(&log, 10) - 0.25) < 1e-12);
    assert_true(isnan(axis_place(&linear, NAN)) && isnan(axis_place(&linear, INFINITY)));
    assert_true(isnan(axis_place(&log, 0)) && isnan(axis_place(&log, -1)));
}

static void assert_text(const char *expected, double value, double step, double largest)
{
    char text[AXIS_TEXT_BYTES];
    axis_text(text, value, step, largest);
    assert_string_equal(text, expected);
}

static void numbers_have_the_decimals_of_their_step(void **state)
{
    (void)state;
    assert_text("4", 4, 1, 5);
    assert_text("4.0", 4, 0.5, 5);
    assert_text("4.20", 4.2, 0.05, 5);
    assert_text("0.3", 0.1 * 3, 0.1, 0.5);
    assert_text("0", 0, 0.5, 5);
}

static void thousands_have_commas(void **state)
{
    (void)state;
    assert_text("999", 999, 1, 999);
    assert_text("1,000", 1000, 500, 1500);
    assert_text("\u2212250,000", -250000, 50000, 250000);
    assert_text("1,234,567.5", 1234567.5, 0.5, 2e6);
}

static void very_large_and_small_numbers_share_one_power(void **state)
{
    (void)state;
    assert_text("0.5e\u22124", 5e-5, 5e-5, 1.5e-4);
    assert_text("1.5e\u22124", 1.5e-4, 5e-5, 1.5e-4);
    assert_text("2e8", 2e8, 1e8, 3e8);
    assert_text("\u22121e300", -1e300, 1e300, 1e300);
}

static void no_number_overruns_its_text(void **state)
{
    (void)state;
    for (int value = -320; value <= 308; value += 4)
        for (int step = -320; step <= 308; step += 4)
            for (int largest = -320; largest <= 308; largest += 28) {
                char text[AXIS_TEXT_BYTES];
                axis_text(text, -1.25 * pow(10, value), pow(10, step), pow(10, largest));
                assert_true(strlen(text) < AXIS_TEXT_BYTES);
            }
    assert_text("inf", INFINITY, 1, 1);
    assert_text("NaN", NAN, 1, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_are_round_numbers_inside_the_range),
        cmocka_unit_test(ticks_number_about_as_many_as_asked),
        cmocka_unit_test(counted_things_have_no_ticks_between_whole_numbers),
        cmocka_unit_test(a_range_without_width_or_data_is_still_a_range),
        cmocka_unit_test(log_axes_have_ticks_at_powers_of_ten_or_between),
        cmocka_unit_test(places_run_from_zero_to_one),
        cmocka_unit_test(numbers_have_the_decimals_of_their_step),
        cmocka_unit_test(thousands_have_commas),
        cmocka_unit_test(very_large_and_small_numbers_share_one_power),
        cmocka_unit_test(no_number_overruns_its_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
