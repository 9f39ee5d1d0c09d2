/* The look-ahead ends after two rounds through all parts: beyond that the order repeats itself. Once no buffer of a
 * kind can be spared, later parts of that kind find none either, because they are needed later still. */
#include "model/stream_policy.h"

bool stream_policy_buffer(const StreamView *view, bool chunk, size_t from, size_t visit, size_t *buffer)
{
    const StreamedParts *parts = view->parts;
    size_t latest = visit;
    bool found = false;
    for (size_t i = 0; i < view->n_buffers; i++) {
        BufferView b = view->buffer(view->context, i);
        if (b.chunk != chunk || b.in_use) continue;
        if (b.empty) {
            *buffer = i;
            return true;
        }
        size_t use = order_next(view->order, parts->n_layers, parts->first, from, b.part);
        if (use <= latest) continue;
        latest = use;
        *buffer = i;
        found = true;
    }
    return found;
}

bool stream_policy_next(const StreamView *view, size_t from, size_t *part, size_t *buffer)
{
    const StreamedParts *parts = view->parts;
    bool full[2] = {false, false}; /* no buffer to spare: of cores, of chunks */
    for (size_t visit = from; visit < from + 2 * parts->n; visit++) {
        if (full[0] && full[1] && !view->any_reserved) break;
        *part = order_part(view->order, parts->n_layers, parts->first, visit);
        bool chunk = parts->parts[*part].chunk;
        long place = view->place(view->context, *part);
        if (place >= 0) {
            *buffer = (size_t)place;
            return true;
        }
        if (place == PART_IN_MEMORY || full[chunk]) continue;
        if (stream_policy_buffer(view, chunk, from, visit, buffer)) return true;
        full[chunk] = true;
    }
    return false;
}
