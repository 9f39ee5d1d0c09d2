/* SHA-256, to tell files and data sets apart.   Source: FIPS 180-4, section 6.2. */
#ifndef GRAFT_DATA_SHA256_H
#define GRAFT_DATA_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    unsigned char block[64];
    uint64_t bytes; /* taken in so far */
} Sha256;

enum { SHA256_HEX = 65 };

void sha256_init(Sha256 *sha);
void sha256_add(Sha256 *sha, const void *data, size_t bytes);
void sha256_hex(Sha256 *sha, char hex[SHA256_HEX]); /* ends it */

#endif
