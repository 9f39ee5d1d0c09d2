/* A terminal obeys what begins with ESC (0x1B) and, in UTF-8, with U+0080 to U+009F, which are C2 80 to C2 9F. All
 * other bytes above 0x7F pass; they are written in one piece, because stderr is not buffered.
 * Source: ECMA-48, section 5.3. */
#include "base/safe_text.h"

/* Is there a control character at c? *byte is the one to show. */
static bool is_control(const unsigned char *c, bool lines, unsigned char *byte)
{
    bool c1 = c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0;
    *byte = c1 ? c[1] : c[0];
    return c1 || (c[0] < 0x20 && !(lines && c[0] == '\n')) || c[0] == 0x7F;
}

void safe_print(FILE *stream, const char *text, bool lines)
{
    const unsigned char *from = (const unsigned char *)text, *c = from;
    unsigned char byte;
    while (*c) {
        if (!is_control(c, lines, &byte)) {
            c++;
            continue;
        }
        fwrite(from, 1, (size_t)(c - from), stream);
        fprintf(stream, "\\x%02x", byte);
        from = c += byte == *c ? 1 : 2;
    }
    fwrite(from, 1, (size_t)(c - from), stream);
}
