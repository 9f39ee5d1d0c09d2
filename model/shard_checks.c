/* Fingerprints sample each shard, so that opening a model costs no reading of it. Numbers are checked by their exponent
 * bits: all ones is an infinity or a NaN (docs/design.md; in FP8-E4M3 only S.1111.111 is a NaN). */
#include "model/shard_checks.h"

#include "base/digest.h"

#include <string.h>

/* ---- fingerprint ---------------------------------------------------------------------------------------------- */

static void digest_number(Digest *digest, uint64_t number)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(number >> (8 * i));
    digest_add(digest, bytes, sizeof bytes);
}

/* A shard's size, its header, and blocks spread evenly over its data, first and last bytes included. */
static void digest_shard(Digest *digest, const Safetensors *shard)
{
    enum { BLOCKS = 16, BLOCK_BYTES = 4096 };
    const unsigned char *data = shard->map.data;
    size_t header = 8, bytes = shard->map.bytes;
    for (int i = 0; i < 8; i++) header += (size_t)data[i] << (8 * i);
    digest_number(digest, bytes);
    digest_add(digest, data, header);
    size_t body = bytes - header, block = body < BLOCK_BYTES ? body : BLOCK_BYTES;
    for (size_t i = 0; i < BLOCKS; i++) digest_add(digest, data + header + (body - block) / (BLOCKS - 1) * i, block);
    digest_add(digest, data + bytes - block, block);
}

void shards_digest(size_t n_shards, const Safetensors *shards, char digest[DIGEST_BYTES])
{
    Digest all;
    unsigned char sum[DIGEST_SUM_BYTES];
    digest_init(&all);
    digest_number(&all, n_shards);
    for (size_t s = 0; s < n_shards; s++) digest_shard(&all, &shards[s]);
    digest_end(&all, sum);
    digest_hex(sum, (DIGEST_BYTES - 1) / 2, digest);
}

/* ---- finite numbers ------------------------------------------------------------------------------------------- */

static size_t first_bad_f32(const unsigned char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, data + 4 * i, sizeof x);
        if ((x & 0x7F800000) == 0x7F800000) return i;
    }
    return n;
}

static size_t first_bad_bf16(const unsigned char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, data + 2 * i, sizeof x);
        if ((x & 0x7F80) == 0x7F80) return i;
    }
    return n;
}

static size_t first_bad_f8(const unsigned char *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((data[i] & 0x7F) == 0x7F) return i;
    return n;
}

Err *tensor_check_finite(const TensorView *tensor, const char *path)
{
    size_t n = tensor->bytes / dtype_bytes(tensor->dtype), bad = n;
    if (tensor->dtype == DTYPE_F32) bad = first_bad_f32(tensor->data, n);
    if (tensor->dtype == DTYPE_BF16) bad = first_bad_bf16(tensor->data, n);
    if (tensor->dtype == DTYPE_F8_E4M3) bad = first_bad_f8(tensor->data, n);
    if (bad == n) return NULL;
    return err_new(ERR_NUMERIC, "%s: tensor %s: element %zu is not finite", path, tensor->name, bad);
}
