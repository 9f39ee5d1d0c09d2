/* UTF-8 is decoded here, by Unicode's own table; categories and NFC come from utf8proc. NFC must equal that of Hugging
 * Face's tokenizers, whose tables are those of Unicode 9, so later characters are kept apart from composition. */
#include "data/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Well-formed sequences: Unicode 15, table 3-7. The second byte's range depends on the first; the others are 80..BF. */
size_t unicode_next(const char *text, size_t n, uint32_t *code)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned char lead = s[0], low = 0x80, high = 0xBF;
    size_t length;
    if (lead < 0x80) {
        *code = lead;
        return 1;
    }
    *code = UNICODE_BROKEN;
    if (lead < 0xC2 || lead > 0xF4) return 1;
    if (lead < 0xE0) {
        length = 2;
    } else if (lead < 0xF0) {
        length = 3;
        if (lead == 0xE0) low = 0xA0;
        if (lead == 0xED) high = 0x9F;
    } else {
        length = 4;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F;
    }
    uint32_t value = lead & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (i == n) {
            *code = UNICODE_CUT;
            return i;
        }
        if (s[i] < low || s[i] > high) return i;
        value = value << 6 | (s[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    *code = value;
    return length;
}

size_t unicode_valid(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        while (i + 8 <= n && (memcpy(&eight, text + i, 8), !(eight & 0x8080808080808080u))) i += 8;
        if (i == n) break;
        uint32_t code;
        size_t length = unicode_next(text + i, n - i, &code);
        if (code >= UNICODE_BROKEN) break;
        i += length;
    }
    return i;
}

size_t unicode_lossy(Text *out, const char *bytes, size_t n, bool last)
{
    size_t i = 0;
    while (i < n) {
        size_t whole = unicode_valid(bytes + i, n - i);
        text_add(out, bytes + i, whole);
        i += whole;
        if (i == n) break;
        uint32_t code;
        size_t length = unicode_next(bytes + i, n - i, &code);
        if (code == UNICODE_CUT && !last) break;
        text_put(out, "\xEF\xBF\xBD");
        i += length;
    }
    return i;
}

bool unicode_is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
           code == 0x3000;
}

bool unicode_is_word(uint32_t code)
{
    if (code >= UNICODE_BROKEN) return false;
    if (code == 0x200C || code == 0x200D) return true;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: /* letters in circles and squares are symbols with the Alphabetic property */
        return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
               (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
    }
}

static bool strips(uint32_t code) { return unicode_is_space(code) || (code >= 0x1C && code <= 0x1F); }

void unicode_strip(const char **text, size_t *n)
{
    const char *s = *text;
    size_t left = *n, length;
    uint32_t code;
    while (left && (length = unicode_next(s, left, &code), strips(code))) {
        s += length;
        left -= length;
    }
    while (left) {
        size_t start = left - 1;
        while (start && ((unsigned char)s[start] & 0xC0) == 0x80) start--;
        unicode_next(s + start, left - start, &code);
        if (!strips(code)) break;
        left = start;
    }
    *text = s;
    *n = left;
}

/* Hugging Face's library normalizes by the tables of Unicode 9. Combining marks of later versions (up to Unicode 15),
 * and the one later letter that composes with the character before it, stay where they are, and nothing moves across
 * them. */
static bool newer_than_unicode_9(uint32_t code)
{
    static const uint32_t ranges[][2] = {{0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
                                         {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x0ECE, 0x0ECE},
                                         {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
                                         {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
                                         {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
                                         {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
                                         {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
                                         {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
                                         {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
                                         {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};
    size_t low = 0, high = sizeof ranges / sizeof *ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > ranges[middle][1])
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof ranges / sizeof *ranges && code >= ranges[low][0];
}

static Err *compose(Text *out, const char *text, size_t n)
{
    utf8proc_uint8_t *form = NULL;
    if (n == 0) return NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &form,
                                           UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0) return err_new(ERR_DATA, "NFC of %zu bytes: %s", n, utf8proc_errmsg(length));
    text_add(out, (const char *)form, (size_t)length);
    free(form);
    return NULL;
}

static Err *compose_between_newer(Text *out, const char *text, size_t n)
{
    size_t from = 0;
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t code;
        length = unicode_next(text + i, n - i, &code);
        if (!newer_than_unicode_9(code)) continue;
        TRY(compose(out, text + from, i - from));
        text_add(out, text + i, length);
        from = i + length;
    }
    return compose(out, text + from, n - from);
}

/* No character below U+0300 (lead bytes below CC) changes, moves or composes with the character before it. The last of
 * consecutive such characters may compose with what follows. So each piece to compose is one of them with all higher
 * characters after it; the rest is copied. */
Err *unicode_nfc(Text *out, const char *text, size_t n, bool *same)
{
    for (size_t at = 0; at < n;) {
        size_t high = at, end;
        while (high < n && (unsigned char)text[high] < 0xCC) high++;
        *same = high == n && at == 0;
        if (*same) return NULL;
        size_t base = high;
        if (high < n && base > at) do
                base--;
            while (base > at && ((unsigned char)text[base] & 0xC0) == 0x80);
        for (end = high; end < n && (unsigned char)text[end] >= 0xCC;) {
            uint32_t code;
            end += unicode_next(text + end, n - end, &code);
        }
        text_add(out, text + at, base - at);
        TRY(compose_between_newer(out, text + base, end - base));
        at = end;
    }
    TRY(text_error(out));
    *same = out->n == n && (n == 0 || !memcmp(out->data, text, n));
    if (*same) text_clear(out);
    return NULL;
}
