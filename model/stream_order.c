/* Layer l begins after   rising_start(l) = l + group_passes (first[l] - l)   visits of the forward pass, since l cores
 * and the chunks of l layers came before it. The backward pass is the same in reverse, but that a layer begins with its
 * core. */
#include "model/stream_order.h"

#include <stdbool.h>
#include <stdint.h>

static size_t rising_start(const OrderPass *w, const size_t *first, size_t l)
{
    return l + w->group_passes * (first[l] - l);
}

size_t order_visits(const OrderPass *w, size_t L, const size_t *first)
{
    return 2 * rising_start(w, first, L) - rising_start(w, first, w->lowest);
}

/* The layer l with start(l) <= at < start(l + 1); pass NULL: of parts instead of visits. */
static size_t layer_with(const OrderPass *w, size_t L, const size_t *first, size_t at)
{
    size_t low = 0, high = L;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if ((w ? rising_start(w, first, middle) : first[middle]) <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

size_t order_layer(size_t L, const size_t *first, size_t part) { return layer_with(NULL, L, first, part); }

static size_t part_in_pass(const OrderPass *w, size_t L, const size_t *first, size_t v)
{
    size_t top = rising_start(w, first, L);
    bool falling = v >= top;
    size_t at = falling ? 2 * top - 1 - v : v, l = layer_with(w, L, first, at), n = first[l + 1] - first[l] - 1;
    size_t inside = falling ? rising_start(w, first, l + 1) - 1 - at : at - rising_start(w, first, l);
    if (inside == 0) return first[l];
    size_t chunk = (inside - 1) % n;
    return first[l] + 1 + (falling ? n - 1 - chunk : chunk);
}

/* The announced pass that a visit belongs to, or comes after; NULL: none has begun. */
static const OrderPass *pass_of(const Order *o, size_t visit)
{
    for (size_t k = o->n; k > 0 && k + ORDER_PASSES > o->n; k--)
        if (o->passes[(k - 1) % ORDER_PASSES].start <= visit) return &o->passes[(k - 1) % ORDER_PASSES];
    return NULL;
}

size_t order_part(const Order *o, size_t L, const size_t *first, size_t visit)
{
    const OrderPass *w = pass_of(o, visit);
    if (!w) return visit % first[L];
    size_t v = visit - w->start, visits = order_visits(w, L, first);
    return v < visits ? part_in_pass(w, L, first, v) : (v - visits) % first[L];
}

size_t order_end(const Order *o, size_t L, const size_t *first, size_t core, size_t l)
{
    const OrderPass *w = pass_of(o, core);
    bool announced = w && core - w->start < order_visits(w, L, first);
    return core + 1 + (announced ? w->group_passes : 1) * (first[l + 1] - first[l] - 1);
}

/* The first of begin, begin + step, ... (group_passes of them) that is at least `from`; SIZE_MAX: none. */
static size_t next_group_pass(size_t begin, size_t step, size_t group_passes, size_t from)
{
    size_t group_pass = from > begin ? (from - begin + step - 1) / step : 0;
    return group_pass < group_passes ? begin + group_pass * step : SIZE_MAX;
}

static size_t next_in_pass(const OrderPass *w, size_t L, const size_t *first, size_t from, size_t part)
{
    size_t l = order_layer(L, first, part), n = first[l + 1] - first[l] - 1, j = part - first[l],
           group_passes = j ? w->group_passes : 1, step = j ? n : 1;
    size_t rising = next_group_pass(rising_start(w, first, l) + j, step, group_passes, from);
    if (rising != SIZE_MAX || l < w->lowest) return rising;
    size_t falling = 2 * rising_start(w, first, L) - rising_start(w, first, l + 1);
    return next_group_pass(falling + (j ? n + 1 - j : 0), step, group_passes, from);
}

/* Where the first pass that begins after `visit` begins; SIZE_MAX: none does. */
static size_t next_start(const Order *o, size_t visit)
{
    size_t start = SIZE_MAX;
    for (size_t k = o->n; k > 0 && k + ORDER_PASSES > o->n && o->passes[(k - 1) % ORDER_PASSES].start > visit; k--)
        start = o->passes[(k - 1) % ORDER_PASSES].start;
    return start;
}

size_t order_next(const Order *o, size_t L, const size_t *first, size_t from, size_t part)
{
    for (;;) {
        const OrderPass *w = pass_of(o, from);
        size_t start = w ? w->start : 0, end = w ? start + order_visits(w, L, first) : 0, next = next_start(o, from);
        if (from < end) {
            size_t visit = next_in_pass(w, L, first, from - start, part);
            if (visit != SIZE_MAX) return start + visit;
            from = end;
        }
        size_t visit = from + (part + first[L] - (from - end) % first[L]) % first[L]; /* forward again */
        if (visit < next) return visit;
        from = next;
    }
}
