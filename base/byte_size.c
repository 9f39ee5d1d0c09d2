#include "base/byte_size.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char units[] = "KMGT";

Err *bytes_parse(size_t *bytes, const char *text, const char *key)
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

const char *bytes_text(char text[BYTES_TEXT], double bytes)
{
    int i = -1;
    while (i < 3 && bytes >= 1000) {
        bytes /= 1024;
        i++;
    }
    if (i < 0)
        snprintf(text, BYTES_TEXT, "%.0f B", bytes);
    else
        snprintf(text, BYTES_TEXT, "%.*f %ciB", bytes < 10 ? 2 : bytes < 100 ? 1 : 0, bytes, units[i]);
    return text;
}

size_t bytes_of_proc(const char *path, const char *name)
{
    char line[256];
    double kib = 0;
    FILE *stream = fopen(path, "re");
    while (stream && fgets(line, sizeof line, stream))
        if (strncmp(line, name, strlen(name)) == 0) kib = strtod(line + strlen(name), NULL);
    if (stream) fclose(stream);
    return (size_t)(kib * 1024);
}

static double number_in(const char *directory, const char *name)
{
    char path[512], text[64] = "";
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *stream = fopen(path, "re");
    if (!stream) return -1;
    bool some = fgets(text, sizeof text, stream) != NULL && isdigit((unsigned char)*text);
    fclose(stream);
    return some ? strtod(text, NULL) : -1;
}

/* What one group of a hierarchy leaves: its limit less what it holds, page cache that can go counted as free. */
static double left_in(const char *directory, const char *limit, const char *usage)
{
    char path[512], line[256];
    double most = number_in(directory, limit), used = number_in(directory, usage), cache = 0;
    if (most < 0 || used < 0 || most > 1e18) return -1;
    snprintf(path, sizeof path, "%s/memory.stat", directory);
    FILE *stream = fopen(path, "re");
    while (stream && fgets(line, sizeof line, stream))
        if (strncmp(line, "inactive_file ", 14) == 0) cache = strtod(line + 14, NULL);
    if (stream) fclose(stream);
    return most - used + cache > 0 ? most - used + cache : 0;
}

static void keep_least(double *least, double bytes)
{
    if (bytes >= 0 && (*least < 0 || bytes < *least)) *least = bytes;
}

/* This process's memory cgroup and those above it: "N:memory:/path" (v1), "0::/path" (v2). */
static void look_at_cgroups(double *least)
{
    char line[400], directory[512];
    FILE *stream = fopen("/proc/self/cgroup", "re");
    while (stream && fgets(line, sizeof line, stream)) {
        char *second = strchr(line, ':'), *path = second ? strchr(second + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        bool v2 = second[1] == 0, v1 = strcmp(second + 1, "memory") == 0;
        for (size_t n = strlen(path); (v1 || v2) && n > 0;) {
            snprintf(directory, sizeof directory, "/sys/fs/cgroup%s%.*s", v1 ? "/memory" : "", (int)n, path);
            keep_least(least, v1 ? left_in(directory, "memory.limit_in_bytes", "memory.usage_in_bytes")
                                 : left_in(directory, "memory.max", "memory.current"));
            while (n > 0 && path[--n] != '/') {}
        }
        snprintf(directory, sizeof directory, "/sys/fs/cgroup%s", v1 ? "/memory" : "");
        if (v1 || v2)
            keep_least(least, v1 ? left_in(directory, "memory.limit_in_bytes", "memory.usage_in_bytes")
                                 : left_in(directory, "memory.max", "memory.current"));
    }
    if (stream) fclose(stream);
}

size_t bytes_free(void)
{
    double least = -1, host = (double)bytes_of_proc("/proc/meminfo", "MemAvailable:");
    if (host > 0) keep_least(&least, host);
    look_at_cgroups(&least);
    return least < 0 ? SIZE_MAX : (size_t)least;
}
