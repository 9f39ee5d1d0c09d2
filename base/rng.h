/* Random numbers without state: each is a function of a key (seed and what it is for) and an index, so that any rank
 * or thread that asks for the same one gets the same one, in any order.
 *
 *     uint64_t key = rng_key(rng_name(seed, "dropout"), step);
 *     float u = rng_uniform(key, index);
 *
 * Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied twice with the index between. */
#ifndef GRAFT_BASE_RNG_H
#define GRAFT_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t rng_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* A key made of a key and a number, or a name. */
static inline uint64_t rng_key(uint64_t key, uint64_t number)
{
    return rng_mix(key + 0x9E3779B97F4A7C15u * (number + 1));
}
uint64_t rng_name(uint64_t key, const char *name);

/* 64 random bits. */
static inline uint64_t rng_bits(uint64_t key, uint64_t index)
{
    return rng_mix(rng_mix(key ^ 0xD1B54A32D192ED03u) + 0x9E3779B97F4A7C15u * (index + 1));
}

/* Uniform on [0, 1): 24 bits, so that every value is exact in float. */
static inline float rng_uniform(uint64_t key, uint64_t index) { return (float)(rng_bits(key, index) >> 40) * 0x1p-24f; }

double rng_uniform_double(uint64_t key, uint64_t index); /* 53 bits */
double rng_normal(uint64_t key, uint64_t index);         /* mean 0, variance 1 (Box-Muller) */

/* Uniform on 0 .. n - 1. The bias is below 2^-32 for n below 2^32. */
static inline uint64_t rng_below(uint64_t key, uint64_t index, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)rng_bits(key, index) * n) >> 64);
}

/* Put 0 .. n - 1 into order[n], shuffled (Fisher-Yates). */
void rng_shuffle(uint64_t key, size_t n, uint64_t *order);

#endif
