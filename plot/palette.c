/* Series: Okabe and Ito, "Color Universal Design", 2008, without yellow, which is hard to see on white, and in an
 * order in which neighbours differ strongly. Heat: viridis of matplotlib (van der Walt and Smith, 2015, CC0), at
 * every eighth of its range; colours between these are interpolated. */
#include "plot/palette.h"

#include <math.h>

const Colour palette_ground = {255, 255, 255, 255}, palette_ink = {34, 34, 34, 255},
             palette_faint_ink = {102, 102, 102, 255}, palette_axis = {140, 140, 140, 255},
             palette_grid = {230, 230, 230, 255}, palette_missing = {220, 220, 220, 255};

static const Colour series[] = {{0, 114, 178, 255}, {213, 94, 0, 255},   {0, 158, 115, 255}, {204, 121, 167, 255},
                                {230, 159, 0, 255}, {86, 180, 233, 255}, {80, 80, 80, 255}};

static const Colour heat[] = {{68, 1, 84, 255},    {71, 44, 122, 255},  {59, 81, 139, 255},
                              {44, 113, 142, 255}, {33, 144, 141, 255}, {39, 173, 129, 255},
                              {92, 200, 99, 255},  {170, 220, 50, 255}, {253, 231, 37, 255}};

Stroke palette_stroke(size_t i, double width)
{
    size_t n = sizeof series / sizeof *series;
    bool dashed = i / n % 2;
    return (Stroke){width, series[i % n], dashed ? 9 : 0, dashed ? 6 : 0};
}

Colour palette_pale(Colour colour) { return (Colour){colour.r, colour.g, colour.b, 90}; }

static unsigned char interpolate(unsigned char a, unsigned char b, double part)
{
    return (unsigned char)lround(a + (b - a) * part);
}

Colour palette_heat(double part)
{
    size_t steps = sizeof heat / sizeof *heat - 1;
    double along = fmax(0, fmin(part, 1)) * (double)steps; /* fmax and fmin make 0 of NaN */
    size_t i = along < (double)steps ? (size_t)along : steps - 1;
    const Colour *a = &heat[i], *b = &heat[i + 1];
    along -= (double)i;
    return (Colour){interpolate(a->r, b->r, along), interpolate(a->g, b->g, along), interpolate(a->b, b->b, along),
                    255};
}
