/* Parses and prints sizes. One letter of `units` stands for a power of 1000 or 1024; both directions go through the
 * same list. A size above 1e18 bytes is refused; size_t holds numbers up to 1.8e19. */
#include "base/byte_size.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char units[] = "KMGT";

Err *byte_size_parse(size_t *bytes, const char *text, const char *key)
{
    char *end;
    double value = strtod(text, &end), unit = 1;
    bool fine = end != text && value >= 0;
    while (isspace((unsigned char)*end)) end++;
    const char *letter = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (letter) {
        bool thousand = (end[1] == 'B' || end[1] == 'b') && !end[2];
        fine = fine && (thousand || !end[1] || strcmp(end + 1, "iB") == 0 || strcmp(end + 1, "ib") == 0);
        for (const char *u = units; u <= letter; u++) unit *= thousand ? 1000 : 1024;
    } else {
        fine = fine && (!*end || strcmp(end, "B") == 0);
    }
    if (!fine || value * unit > 1e18)
        return err_new(ERR_USAGE, "%s is \"%s\"; expected a size such as 8GiB", key, text);
    *bytes = (size_t)(value * unit);
    return NULL;
}

const char *byte_size_text(char text[BYTE_SIZE_TEXT], double bytes)
{
    int i = -1;
    while (i < 3 && bytes >= 1000) {
        bytes /= 1024;
        i++;
    }
    if (i < 0)
        snprintf(text, BYTE_SIZE_TEXT, "%.0f B", bytes);
    else
        snprintf(text, BYTE_SIZE_TEXT, "%.*f %ciB", bytes < 10 ? 2 : bytes < 100 ? 1 : 0, bytes, units[i]);
    return text;
}
