/* The colours of charts. Readers who do not see red or green can distinguish them, and they are dark enough on
 * white. */
#ifndef GRAFT_PLOT_PALETTE_H
#define GRAFT_PLOT_PALETTE_H

#include "plot/canvas.h"

extern const Colour palette_ground, palette_ink, palette_faint_ink, palette_axis, palette_grid, palette_missing;

/* The stroke of series i: solid lines in all colours, then dashed lines in the same colours, and so on. */
Stroke palette_stroke(size_t i, double width);

/* The same colour, mostly transparent. */
Colour palette_pale(Colour colour);

/* The colour of a number 0 .. 1, from dark to bright in even steps of brightness; outside of that range the nearer
 * end. */
Colour palette_heat(double part);

#endif
