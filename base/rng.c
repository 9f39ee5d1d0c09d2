/* Sources: FNV-1a (Fowler, Noll, Vo) hashes names; Box and Muller 1958 for normal numbers; Fisher and Yates for the
 * shuffle. Every number is a function of (key, index) alone. */
#include "base/rng.h"

#include <math.h>

uint64_t rng_name(uint64_t key, const char *name)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a over the name, then mixed with the key */
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 0x100000001B3u;
    return rng_key(key, hash);
}

double rng_uniform_double(uint64_t key, uint64_t index) { return (double)(rng_bits(key, index) >> 11) * 0x1p-53; }

double rng_normal(uint64_t key, uint64_t index)
{
    double u = 1 - rng_uniform_double(key, 2 * index); /* in (0, 1]: its logarithm is finite */
    double v = rng_uniform_double(key, 2 * index + 1);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

void rng_shuffle(uint64_t key, size_t n, uint64_t *order)
{
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t i = n; i > 1; i--) {
        uint64_t j = rng_below(key, i, i), t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}
