/* SHA-256 of bytes that are added in pieces.
 *
 *     Digest digest;
 *     digest_init(&digest);
 *     digest_add(&digest, data, bytes);       // any number of times
 *     digest_end(&digest, sum);
 *
 * Source: FIPS 180-4. */
#ifndef GRAFT_BASE_DIGEST_H
#define GRAFT_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_SUM_BYTES = 32 };

typedef struct {
    uint32_t state[8];
    uint64_t bytes;          /* added so far */
    unsigned char block[64]; /* the last `bytes % 64` bytes, which do not fill a block yet */
} Digest;

void digest_init(Digest *digest);
void digest_add(Digest *digest, const void *data, size_t bytes);
void digest_end(Digest *digest, unsigned char sum[DIGEST_SUM_BYTES]);

/* Write the first n bytes of a sum as 2 n hexadecimal digits, ended by a zero. */
void digest_hex(const unsigned char *sum, size_t n, char *hex);

#endif
