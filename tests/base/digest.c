/* Vectors of FIPS 180-4's examples (NIST, "SHA-256 examples") and of the empty message. */
#include "base/digest.h"
#include "tests/support/check.h"

#include <string.h>

static void sum_of(const void *data, size_t bytes, size_t piece, char hex[2 * DIGEST_SUM_BYTES + 1])
{
    Digest digest;
    unsigned char sum[DIGEST_SUM_BYTES];
    digest_init(&digest);
    for (size_t at = 0; at < bytes; at += piece)
        digest_add(&digest, (const char *)data + at, bytes - at < piece ? bytes - at : piece);
    digest_end(&digest, sum);
    digest_hex(sum, sizeof sum, hex);
}

static void published_vectors_have_their_published_sums(void **state)
{
    static const struct {
        const char *text, *sum;
    } vectors[] = {{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
                   {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
                   {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
                   {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmn"
                    "opqrstnopqrstu",
                    "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"}};
    char hex[65];
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        sum_of(vectors[i].text, strlen(vectors[i].text), 1000, hex);
        assert_string_equal(hex, vectors[i].sum);
    }
}

static void the_sum_does_not_depend_on_the_size_of_pieces(void **state)
{
    static char letters[1000000];
    static const size_t pieces[] = {1, 63, 64, 65, 1000, 1000000};
    char hex[65];
    (void)state;
    memset(letters, 'a', sizeof letters);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        sum_of(letters, sizeof letters, pieces[i], hex);
        assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(published_vectors_have_their_published_sums),
                                       cmocka_unit_test(the_sum_does_not_depend_on_the_size_of_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
