/* The colours of charts: told apart by readers who see no red or no green, and dark enough for a white ground. */
#ifndef GRAFT_PLOT_PALETTE_H
#define GRAFT_PLOT_PALETTE_H

#include "plot/canvas.h"

extern const Colour palette_ground, palette_ink, palette_faint_ink, palette_axis, palette_grid, palette_missing;

/* How to draw series i: colours first, then the same colours dashed, and so round. */
Stroke palette_stroke(size_t i, double width);

/* The same colour, mostly see-through. */
Colour palette_pale(Colour colour);

/* A part 0 .. 1 of the way from dark to bright, in even steps of brightness; outside it the nearer end. */
Colour palette_heat(double part);

#endif
