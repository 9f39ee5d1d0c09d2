/* The stages of encoding, as in tokenizers 0.23 (tokenizer/mod.rs):
 *
 *   text -> added tokens that are not normalized | the rest
 *                      the rest -> NFC -> added tokens that are normalized | the rest
 *                                           the rest -> Split -> Split -> ... -> words -> BPE
 *
 * Every stage passes its pieces directly to the next, so there are no lists of pieces. A Split sees its piece alone:
 * lookahead and lookbehind do not see the text outside it. */
#include "data/tokenizer/tokenizer.h"

#include "base/memory.h"
#include "data/text/lines.h"
#include "data/tokenizer/tokenizer_json.h"
#include "data/text/unicode.h"

#include <stdlib.h>

struct Tokenizer {
    TokenizerSpec spec;
};

Err *tokenizer_open(Tokenizer **out, const char *path)
{
    Tokenizer *tok = NULL;
    Text text = {0};
    JsonView file;
    *out = NULL;
    TRY(lines_read_file(&text, path));
    Err *err = mem_new(&tok, 1, sizeof *tok);
    if (!err) err = view_open(&file, text.data, text.n);
    if (!err) err = tokenizer_json_read(&tok->spec, file);
    text_free(&text);
    if (err)
        tokenizer_close(tok);
    else
        *out = tok;
    return err_wrap(err, "%s", path);
}

void tokenizer_close(Tokenizer *tok)
{
    if (!tok) return;
    tokenizer_json_free(&tok->spec);
    free(tok);
}

/* ---- encoding ---- */

struct Encoder {
    const TokenizerSpec *spec;
    RegexMatcher *matcher;
    Bpe *bpe;
    Text form; /* the NFC form of a piece */
};

Err *encoder_new(Encoder **out, const Tokenizer *tok)
{
    Encoder *encoder;
    *out = NULL;
    TRY(mem_new(&encoder, 1, sizeof *encoder));
    encoder->spec = &tok->spec;
    Err *err = regex_matcher_new(&encoder->matcher);
    if (!err) err = bpe_new(&encoder->bpe, &tok->spec.vocabulary, tok->spec.ignore_merges);
    if (err)
        encoder_free(encoder);
    else
        *out = encoder;
    return err;
}

void encoder_free(Encoder *encoder)
{
    if (!encoder) return;
    regex_matcher_free(encoder->matcher);
    bpe_free(encoder->bpe);
    text_free(&encoder->form);
    free(encoder);
}

/* Encode a piece that the splits before `step` have left. Its first byte is byte `begin` of the text. */
static Err *split_piece(Encoder *encoder, size_t step, const char *piece, size_t n, size_t begin, Tokens *out)
{
    if (n == 0) return NULL;
    if (step == encoder->spec->n_splits) return bpe_word(encoder->bpe, piece, n, begin, out);
    const Split *split = &encoder->spec->splits[step];
    for (size_t at = 0, from, to; at < n; at = to) {
        TRY(regex_find(split->regex, encoder->matcher, piece, n, at, &from, &to));
        if (!split->removes_gaps) TRY(split_piece(encoder, step + 1, piece + at, from - at, begin + at, out));
        if (!split->removes_matches) TRY(split_piece(encoder, step + 1, piece + from, to - from, begin + from, out));
    }
    return NULL;
}

static Err *encode_normalized(Encoder *encoder, const char *text, size_t n, size_t begin, Tokens *out)
{
    size_t at = 0, from = 0, left = 0, right = 0;
    const AddedToken *added;
    while ((added = added_tokens_next(&encoder->spec->normalized, text, n, &from, &left, &right))) {
        if (at < left) TRY(split_piece(encoder, 0, text + at, left - at, begin + at, out));
        TRY(tokens_add(out, added->id, begin + right));
        at = right;
    }
    return at < n ? split_piece(encoder, 0, text + at, n - at, begin + at, out) : NULL;
}

static Err *normalize(Encoder *encoder, const char *text, size_t n, size_t begin, Tokens *out)
{
    bool same = true;
    size_t first = out->n;
    text_clear(&encoder->form);
    if (encoder->spec->nfc) TRY(unicode_nfc(&encoder->form, text, n, &same));
    if (same) return encode_normalized(encoder, text, n, begin, out);
    TRY(encode_normalized(encoder, encoder->form.data, encoder->form.n, begin, out));
    for (size_t i = first; i < out->n; i++) /* the form may be longer or shorter than the text */
        if (i + 1 == out->n || out->items[i].end > begin + n) out->items[i].end = (uint32_t)(begin + n);
    return NULL;
}

static Err *encode_valid(Encoder *encoder, const char *text, size_t n, size_t begin, Tokens *out)
{
    size_t at = 0, from = 0, left = 0, right = 0;
    const AddedToken *added;
    while ((added = added_tokens_next(&encoder->spec->plain, text, n, &from, &left, &right))) {
        if (at < left) TRY(normalize(encoder, text + at, left - at, begin + at, out));
        TRY(tokens_add(out, added->id, begin + right));
        at = right;
    }
    return at < n ? normalize(encoder, text + at, n - at, begin + at, out) : NULL;
}

Err *tokenizer_encode(Encoder *encoder, const char *text, size_t bytes, Tokens *out)
{
    if (bytes >= UINT32_MAX) return err_new(ERR_DATA, "a text of %zu bytes is too long to encode", bytes);
    for (size_t at = 0; at < bytes;) {
        size_t n = unicode_valid(text + at, bytes - at);
        if (n) TRY(encode_valid(encoder, text + at, n, at, out));
        at += n;
        uint32_t code;
        size_t broken = at < bytes ? unicode_next(text + at, bytes - at, &code) : 0;
        if (broken) TRY(bpe_word(encoder->bpe, text + at, broken, at, out));
        at += broken;
    }
    return NULL;
}

/* ---- decoding ---- */

/* The bytes of one id; none for an unknown id or one that is left out. */
static const char *bytes_of(const Tokenizer *tok, int32_t id, bool skip_special, size_t *n)
{
    *n = 0;
    if (id < 0 || (size_t)id >= tok->spec.vocabulary.n || (skip_special && tokenizer_is_special(tok, id))) return "";
    const VocabularyEntry *e = &tok->spec.vocabulary.entries[id];
    *n = e->bytes_n;
    return e->bytes_n ? tok->spec.vocabulary.bytes.data + e->bytes_at : "";
}

Err *tokenizer_decode(const Tokenizer *tok, const int32_t *ids, size_t n, bool skip_special, Text *out)
{
    TokenStream stream = {.tokenizer = tok, .skip_special = skip_special};
    for (size_t i = 0; i < n; i++) TRY(token_stream_put(&stream, ids[i], out));
    return token_stream_end(&stream, out);
}

/* At most three bytes are pending: the longest incomplete character. */
Err *token_stream_put(TokenStream *stream, int32_t id, Text *out)
{
    size_t n, used = 0;
    const char *bytes = bytes_of(stream->tokenizer, id, stream->skip_special, &n);
    while (stream->n_pending && used < n) { /* complete the pending character, a byte at a time */
        stream->pending[stream->n_pending++] = bytes[used++];
        size_t shown = unicode_lossy(out, stream->pending, stream->n_pending, false);
        stream->n_pending -= shown;
        memmove(stream->pending, stream->pending + shown, stream->n_pending);
    }
    if (used < n) {
        used += unicode_lossy(out, bytes + used, n - used, false);
        stream->n_pending = n - used;
        memcpy(stream->pending, bytes + used, stream->n_pending);
    }
    return text_error(out);
}

Err *token_stream_end(TokenStream *stream, Text *out)
{
    text_add(out, "", 0);
    unicode_lossy(out, stream->pending, stream->n_pending, true);
    stream->n_pending = 0;
    return text_error(out);
}

/* ---- tokens by name ---- */

Err *tokenizer_check_size(const Tokenizer *tokenizer, const char *path, size_t vocab_size)
{
    size_t n = tokenizer_size(tokenizer);
    if (n <= vocab_size) return NULL;
    return err_new(ERR_FORMAT, "%s has ids up to %zu; the model's vocab_size is %zu", path, n - 1, vocab_size);
}

size_t tokenizer_size(const Tokenizer *tok) { return tok->spec.vocabulary.n; }

int32_t tokenizer_id_of(const Tokenizer *tok, const char *token)
{
    return vocabulary_id_of_text(&tok->spec.vocabulary, token, strlen(token));
}

const char *tokenizer_token(const Tokenizer *tok, int32_t id)
{
    if (id < 0 || (size_t)id >= tok->spec.vocabulary.n || !tok->spec.vocabulary.entries[id].text_n) return NULL;
    return tok->spec.vocabulary.texts.data + tok->spec.vocabulary.entries[id].text_at;
}

static int kind_of(const Tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->spec.n_added ? tok->spec.added[id] : ADDED_NOT;
}

bool tokenizer_is_added(const Tokenizer *tok, int32_t id) { return kind_of(tok, id) != ADDED_NOT; }

bool tokenizer_is_special(const Tokenizer *tok, int32_t id) { return kind_of(tok, id) == ADDED_SPECIAL; }
