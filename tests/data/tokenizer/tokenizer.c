/* Encoding and decoding: Hugging Face's ids from fixtures, the rules of each section, and properties. */
#include "data/tokenizer/tokenizer.h"

#include "base/log.h"
#include "base/rng.h"
#include "data/text/unicode.h"
#include "tests/support/cases.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXTURES "tests/fixtures/tokenizer/"
#define TINY     "examples/tiny-glm5/tokenizer.json"

static void every_fixture_gives_hugging_faces_ids_and_texts(void **state)
{
    (void)state;
    static const char *const names[] = {"glm5shaped", "removed", "qwen3", "deepseek", "tinyglm5"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file[200], encode[200], decode[200];
        Count count = {0};
        snprintf(file, sizeof file, FIXTURES "%s.tokenizer.json.gz", names[i]);
        snprintf(encode, sizeof encode, FIXTURES "%s.encode.jsonl", names[i]);
        snprintf(decode, sizeof decode, FIXTURES "%s.decode.jsonl", names[i]);
        assert_ok(cases_tokenizer(strcmp(names[i], "tinyglm5") ? file : TINY, encode, decode, &count));
        assert_int_equal(count.failed, 0);
        assert_int_equal(count.passed, 160);
    }
}

/* ---- a small tokenizer: letters, two merges, and what each test adds ---- */

typedef struct {
    Tokenizer *tokenizer;
    Encoder *encoder;
} Codec;

static Codec open_codec(const char *path)
{
    Codec codec = {0};
    assert_ok(tokenizer_open(&codec.tokenizer, path));
    assert_ok(encoder_new(&codec.encoder, codec.tokenizer));
    return codec;
}

static void close_codec(Codec codec)
{
    encoder_free(codec.encoder);
    tokenizer_close(codec.tokenizer);
}

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define DECODER    "\"decoder\":{\"type\":\"ByteLevel\"}"
#define VOCAB      "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\u0120\":3,\"ab\":4,\"abc\":5,\"bc\":6}"
#define MODEL      "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"b c\",[\"a\",\"b\"]]}"

static const char *tokenizer_with(void **state, const char *pre_tokenizer, const char *added, const char *model)
{
    static char path[PATH_BYTES];
    char text[4000];
    int n = snprintf(text, sizeof text, "{\"pre_tokenizer\":%s,\"added_tokens\":[%s]," DECODER ",%s}", pre_tokenizer,
                     added, model);
    assert_ok(file_write(scratch_path(state, "tokenizer.json", path), text, (size_t)n));
    return path;
}

static void assert_ids(Codec codec, const char *text, size_t n, const int32_t *ids)
{
    Tokens tokens = {0};
    assert_ok(tokenizer_encode(codec.encoder, text, strlen(text), &tokens));
    assert_int_equal(tokens.n, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(tokens.items[i].id, ids[i]);
    tokens_free(&tokens);
}
#define assert_ids(codec, text, ...) \
    assert_ids(codec, text, sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t), (int32_t[]){__VA_ARGS__})

static void lower_ranks_merge_first_and_whole_words_only_when_merges_are_ignored(void **state)
{
    Codec codec = open_codec(tokenizer_with(state, BYTE_LEVEL, "", MODEL));
    assert_ids(codec, "abc", 0, 6);
    assert_ids(codec, "abab", 4, 4);
    assert_ids(codec, "axb", 4); /* a byte that is not in the vocabulary is ignored, as in Hugging Face's library */
    close_codec(codec);
    codec = open_codec(tokenizer_with(state, BYTE_LEVEL, "",
                                      "\"model\":{\"type\":\"BPE\",\"ignore_merges\":true," VOCAB
                                      ",\"merges\":[\"b c\"]}"));
    assert_ids(codec, "abc", 5);
    assert_ids(codec, "abcc", 0, 6, 2);
    close_codec(codec);
}

static void splits_see_only_their_piece_and_can_remove_it(void **state)
{
    Codec codec = open_codec(tokenizer_with(
        state,
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},"
        "\"behavior\":\"Removed\",\"invert\":false},{\"type\":\"Split\",\"pattern\":{\"Regex\":\"b(?!c)\"},"
        "\"behavior\":\"Isolated\"}," BYTE_LEVEL "]}",
        "", MODEL));
    assert_ids(codec, "ab c", 0, 1, 2);
    assert_ids(codec, "abc", 0, 6);
    close_codec(codec);
}

static void added_tokens_keep_their_flags(void **state)
{
    Codec codec = open_codec(
        tokenizer_with(state, BYTE_LEVEL,
                       "{\"id\":7,\"content\":\"<x>\",\"special\":true},{\"id\":8,\"content\":\"<x>>"
                       "\"},{\"id\":9,\"content\":\"ca\",\"single_word\":true},"
                       "{\"id\":10,\"content\":\"<l>\",\"lstrip\":true},{\"id\":11,\"content\":\"<r>"
                       "\",\"rstrip\":true},{\"id\":12,\"content\":\"<n>\",\"normalized\":true}",
                       MODEL));
    assert_ids(codec, "a<x>b<x>>c", 0, 7, 1, 8, 2); /* the longest one counts */
    assert_ids(codec, "aca ca cab", 0, 2, 0, 3, 9, 3, 2, 4);
    assert_ids(codec, "a  <l> b", 0, 10, 3, 1);
    assert_ids(codec, "a <r>\n b", 0, 3, 11, 1);
    assert_ids(codec, "<n><x>", 12, 7);
    assert_true(tokenizer_is_special(codec.tokenizer, 7));
    assert_false(tokenizer_is_special(codec.tokenizer, 8));
    assert_false(tokenizer_is_special(codec.tokenizer, -1));
    assert_int_equal(tokenizer_id_of(codec.tokenizer, "<x>"), 7);
    assert_int_equal(tokenizer_id_of(codec.tokenizer, "nobody"), -1);
    assert_string_equal(tokenizer_token(codec.tokenizer, 3), "\u0120");
    assert_null(tokenizer_token(codec.tokenizer, 99));
    close_codec(codec);
}

static void what_is_not_supported_is_refused_by_name(void **state)
{
    static const char *const cases[][4] = {
        {"{\"type\":\"Metaspace\"}", "", MODEL, "pre_tokenizer: Metaspace is not supported"},
        {"null", "", MODEL, "without ByteLevel"},
        {"{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "", MODEL, "add_prefix_space"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL ",{\"type\":\"Digits\"}]}", "", MODEL,
         "Digits after ByteLevel"},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"MergedWithNext\"}", "", MODEL,
         "MergedWithNext"},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}", "", MODEL, "pattern (a:"},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}", "", MODEL, "&& in a set"},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\h\"},\"behavior\":\"Isolated\"}", "", MODEL,
         "\\h is not supported"},
        {"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{1,2}+\"},\"behavior\":\"Isolated\"}", "", MODEL, "}+"},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"Unigram\"}", "model type \"Unigram\""},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true," VOCAB ",\"merges\":[]}",
         "byte_fallback"},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"BPE\",\"unk_token\":\"a\"," VOCAB ",\"merges\":[]}", "lacks byte 0x00"},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a z\"]}",
         "merge 0: z is not in the vocabulary"},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b c\"]}", "is not two tokens"},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", "token a: the id is -1"},
        {BYTE_LEVEL, "", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}",
         "id 1 belongs to a and to b"},
        {BYTE_LEVEL, "{\"id\":5,\"content\":\"a\"}", MODEL, "element 0: is id 5 here, 0 in the vocabulary"},
        {BYTE_LEVEL, "{\"id\":5}", MODEL, "content"},
        {BYTE_LEVEL, "", "\"normalizer\":{\"type\":\"NFKC\"}," MODEL, "normalizer NFKC"},
        {BYTE_LEVEL, "", "\"model\":3", "model is a number"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tokenizer *tokenizer;
        assert_fails(tokenizer_open(&tokenizer, tokenizer_with(state, cases[i][0], cases[i][1], cases[i][2])),
                     ERR_FORMAT, cases[i][3]);
    }
    Tokenizer *tokenizer;
    assert_fails(tokenizer_open(&tokenizer, "nowhere.json"), ERR_IO, "nowhere.json");
}

/* ---- properties ---- */

static void random_bytes_are_decoded_as_they_were(void **state)
{
    (void)state;
    Codec codec = open_codec(TINY);
    for (uint64_t round = 0; round < 2000; round++) {
        char text[64];
        size_t n = rng_below(round, 0, sizeof text);
        bool ascii = round % 2;
        for (size_t i = 0; i < n; i++) text[i] = (char)rng_below(round, i + 1, ascii ? 128 : 256);
        Tokens tokens = {0};
        Text back = {0}, want = {0};
        TokenStream stream = {.tokenizer = codec.tokenizer};
        assert_ok(tokenizer_encode(codec.encoder, text, n, &tokens));
        assert_true(n == 0 || tokens.items[tokens.n - 1].end == n);
        for (size_t i = 0; i < tokens.n; i++) {
            if (i) assert_true(tokens.items[i].end > tokens.items[i - 1].end);
            assert_ok(token_stream_put(&stream, tokens.items[i].id, &back));
        }
        assert_ok(token_stream_end(&stream, &back));
        unicode_lossy(&want, text, n, true);
        assert_int_equal(back.n, want.n);
        if (want.n) assert_memory_equal(back.data, want.data, want.n);
        tokens_free(&tokens);
        text_free(&back);
        text_free(&want);
    }
    close_codec(codec);
}

static void a_stream_never_shows_half_a_character(void **state)
{
    (void)state;
    Codec codec = open_codec(TINY);
    Tokens tokens = {0};
    Text shown = {0};
    const char *text = "caf\u00e9 \u91cf\u5b50 \U0001F642!";
    TokenStream stream = {.tokenizer = codec.tokenizer};
    assert_ok(tokenizer_encode(codec.encoder, text, strlen(text), &tokens));
    for (size_t i = 0; i < tokens.n; i++) {
        assert_ok(token_stream_put(&stream, tokens.items[i].id, &shown));
        assert_int_equal(unicode_valid(shown.data ? shown.data : "", shown.n), shown.n);
        assert_memory_equal(shown.data, text, shown.n);
    }
    assert_string_equal(shown.data, text);
    tokens_free(&tokens);
    text_free(&shown);
    close_codec(codec);
}

static void a_megabyte_without_a_space_takes_no_quadratic_time(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    static const char *const units[] = {"a", " ", "\n", "1", "!", "ab", "\u4e2d", " \n"};
    Codec codec = open_codec(TINY);
    char *text = malloc(N);
    assert_non_null(text);
    for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
        Tokens tokens = {0};
        size_t unit = strlen(units[k]), n = N / unit * unit;
        for (size_t i = 0; i < n; i++) text[i] = units[k][i % unit];
        double start = log_seconds();
        assert_ok(tokenizer_encode(codec.encoder, text, n, &tokens));
        assert_true(log_seconds() - start < 20); /* quadratic time would be hours; a sanitizer is slow */
        assert_int_equal(tokens.items[tokens.n - 1].end, n);
        tokens_free(&tokens);
    }
    free(text);
    close_codec(codec);
}

static void threads_with_encoders_of_their_own_get_the_same_ids(void **state)
{
    enum { THREADS = 4, ROUNDS = 50 };
    Tokenizer *tokenizer;
    char *text;
    size_t bytes, differing = 0;
    Tokens want = {0};
    Encoder *encoder;
    (void)state;
    assert_ok(tokenizer_open(&tokenizer, TINY));
    assert_ok(file_read(&text, &bytes, "examples/devils/README.md"));
    assert_ok(encoder_new(&encoder, tokenizer));
    assert_ok(tokenizer_encode(encoder, text, bytes, &want));
    encoder_free(encoder);
#pragma omp parallel num_threads(THREADS) reduction(+ : differing)
    {
        Encoder *mine = NULL;
        Tokens tokens = {0};
        Err *err = encoder_new(&mine, tokenizer);
        for (int round = 0; round < ROUNDS && !err; round++) {
            tokens.n = 0;
            err = tokenizer_encode(mine, text, bytes, &tokens);
            differing += tokens.n != want.n || memcmp(tokens.items, want.items, want.n * sizeof *want.items) != 0;
        }
        differing += err != NULL;
        err_free(err);
        tokens_free(&tokens);
        encoder_free(mine);
    }
    assert_int_equal(differing, 0);
    tokens_free(&want);
    tokenizer_close(tokenizer);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_gives_hugging_faces_ids_and_texts),
        scratch_test(lower_ranks_merge_first_and_whole_words_only_when_merges_are_ignored),
        scratch_test(splits_see_only_their_piece_and_can_remove_it),
        scratch_test(added_tokens_keep_their_flags),
        scratch_test(what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(random_bytes_are_decoded_as_they_were),
        cmocka_unit_test(a_stream_never_shows_half_a_character),
        cmocka_unit_test(a_megabyte_without_a_space_takes_no_quadratic_time),
        cmocka_unit_test(threads_with_encoders_of_their_own_get_the_same_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
