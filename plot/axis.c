/* Ranges, ticks and their text. Ticks stand at multiples of 1, 2 or 5 times a power of ten; about as many as asked for.
 *
 * Numbers may be anything that a double holds: ranges are kept within 1e300, so that differences do not overflow; a
 * log axis shows only normal numbers above 0; comparisons of ticks with the ends of a range allow an error of 1e-9
 * of a step. */
#include "plot/axis.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MINUS      "\u2212"
#define HUGE_VALUE 1e300 /* beyond it, ranges would overflow */

bool axis_shows(const Axis *axis, double value) { return isfinite(value) && (!axis->log || value >= DBL_MIN); }

static double limit(double value) { return fmax(fmin(value, HUGE_VALUE), -HUGE_VALUE); }

/* ---- range ---------------------------------------------------------------------------------------------------- */

void axis_range(Axis *axis, double low, double high, double pad)
{
    if (!(low <= high)) {
        low = axis->log ? 1 : 0;
        high = axis->log ? 10 : 1;
    }
    low = limit(low);
    high = limit(high);
    if (axis->log) {
        low = log10(low);
        high = log10(high);
    }
    double size = fmax(fabs(low), fabs(high));
    if (high - low <= size * 1e-9 || high - low < 1e-200) { /* one number: a range around it */
        double around = axis->log ? 0.2 : size > 1e-190 ? size / 10 : 0.5;
        if (axis->whole && around < 0.5) around = 0.5;
        low -= around;
        high += around;
    }
    double padding = pad * (high - low);
    axis->low = axis->log ? pow(10, fmax(low - padding, -307)) : low - padding;
    axis->high = axis->log ? pow(10, fmin(high + padding, 307)) : high + padding;
}

double axis_place(const Axis *axis, double value)
{
    if (!axis_shows(axis, value)) return NAN;
    if (axis->log) return log(value / axis->low) / log(axis->high / axis->low);
    return (limit(value) - axis->low) / (axis->high - axis->low);
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

static int power_of(double value) { return (int)floor(log10(value) + 1e-9); }

/* Decimals that are needed to distinguish numbers `step` apart. */
static int decimals_of(double step)
{
    int power = power_of(step);
    return power >= 0 ? 0 : power < -12 ? 12 : -power;
}

void axis_text(char text[AXIS_TEXT_BYTES], double value, double step, double largest)
{
    if (value == 0 || !isfinite(value)) {
        const char *word = value == 0 ? "0" : isnan(value) ? "NaN" : value < 0 ? MINUS "inf" : "inf";
        snprintf(text, AXIS_TEXT_BYTES, "%s", word);
        return;
    }
    bool scientific = largest >= 1e7 || largest < 1e-3;
    int power = scientific ? power_of(largest) : 0;
    double scale = pow(10, power);
    char digits[AXIS_TEXT_BYTES];
    int n = snprintf(digits, sizeof digits, "%.*f", decimals_of(step / scale), fabs(value) / scale);
    if (n < 0 || n >= (int)sizeof digits) /* `largest` is smaller than the value */
        snprintf(digits, sizeof digits, "%.6g", fabs(value));
    size_t at = 0, whole = strcspn(digits, ".e");
    if (value < 0) at += (size_t)snprintf(text, AXIS_TEXT_BYTES, MINUS);
    for (size_t i = 0; digits[i] && at + 2 < AXIS_TEXT_BYTES; i++) {
        if (i && i < whole && (whole - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    if (scientific) snprintf(text + at, AXIS_TEXT_BYTES - at, "e%s%d", power < 0 ? MINUS : "", abs(power));
}

/* ---- ticks ---------------------------------------------------------------------------------------------------- */

static void add_tick(Axis *axis, double value, double step, double largest)
{
    if (axis->n_ticks == AXIS_TICKS) return;
    axis->tick[axis->n_ticks] = value;
    axis_text(axis->text[axis->n_ticks++], value, step, largest);
}

static void linear_ticks(Axis *axis, size_t about)
{
    double raw = (axis->high - axis->low) / (double)about, power = pow(10, power_of(raw)), times = raw / power;
    double step = (times <= 1.5 ? 1 : times <= 3 ? 2 : times <= 7 ? 5 : 10) * power;
    if (axis->whole && step < 1) step = 1;
    double first = ceil(axis->low / step - 1e-9), last = floor(axis->high / step + 1e-9);
    double largest = fmax(fabs(first), fabs(last)) * step;
    for (double k = first; k <= last && axis->n_ticks < AXIS_TICKS; k++)
        add_tick(axis, k == 0 ? 0 : k * step, step, largest);
}

/* 1, 10, 100 and so on, every `stride`-th of them; with `between`, also 2 and 5 times those. */
static void power_ticks(Axis *axis, int stride, bool between)
{
    int first = (int)floor(log10(axis->low)), last = (int)ceil(log10(axis->high));
    for (int power = first; power <= last; power++) {
        for (int times = 1; times <= (between ? 5 : 1); times += times == 1 ? 1 : 3) {
            double value = times * pow(10, power);
            if (power % stride == 0 && value >= axis->low * (1 - 1e-9) && value <= axis->high * (1 + 1e-9))
                add_tick(axis, value, value, value);
        }
    }
}

void axis_ticks(Axis *axis, size_t about)
{
    about = about < 1 ? 1 : about > 15 ? 15 : about;
    axis->n_ticks = 0;
    if (!axis->log) {
        linear_ticks(axis, about);
        return;
    }
    double decades = log10(axis->high / axis->low);
    if (decades >= 2)
        power_ticks(axis, (int)ceil(decades / (1.5 * (double)about)), decades * 3 <= (double)about);
    else
        power_ticks(axis, 1, true);
    if (axis->n_ticks >= 2) return;
    axis->n_ticks = 0; /* the range is too narrow for powers of ten */
    linear_ticks(axis, about);
}
