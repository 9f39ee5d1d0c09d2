/* Growing texts. After every call, data is NULL or ends with a zero byte, and n < capacity. `failed` stays set until
 * the text is cleared, so one check at the end finds any failure before it. */
#include "data/text/text.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

void text_add(Text *text, const char *bytes, size_t n)
{
    if (n == 0 && text->data) return;
    if (text->n + n + 1 > text->capacity) {
        Err *err = mem_grow(&text->data, &text->capacity, text->n + n + 1, 1);
        if (err) {
            err_free(err);
            text->failed = true;
            return;
        }
    }
    if (n) memcpy(text->data + text->n, bytes, n);
    text->n += n;
    text->data[text->n] = 0;
}

void text_put(Text *text, const char *string) { text_add(text, string, strlen(string)); }

void text_clear(Text *text)
{
    text->n = 0;
    text->failed = false;
    if (text->data) text->data[0] = 0;
}

Err *text_error(const Text *text)
{
    return text->failed ? err_new(ERR_MEMORY, "out of memory after %zu bytes of text", text->n) : NULL;
}

void text_free(Text *text)
{
    free(text->data);
    *text = (Text){0};
}
