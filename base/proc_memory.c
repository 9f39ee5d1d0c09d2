/* Reads /proc and the memory controller of cgroups. A process may be in a nested group; every group above it limits
 * it, too, so all of them are read and the smallest amount counts. The files and their fields are described in
 * proc(5), and in the Linux kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. */
#include "base/proc_memory.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

size_t proc_memory_bytes(const char *path, const char *name)
{
    char line[256];
    double kib = 0;
    FILE *stream = fopen(path, "re");
    while (stream && fgets(line, sizeof line, stream))
        if (strncmp(line, name, strlen(name)) == 0) kib = strtod(line + strlen(name), NULL);
    if (stream) fclose(stream);
    return (size_t)(kib * 1024);
}

static double read_first_number(const char *directory, const char *name)
{
    char path[512], text[64] = "";
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *stream = fopen(path, "re");
    if (!stream) return -1;
    bool found = fgets(text, sizeof text, stream) != NULL && isdigit((unsigned char)*text);
    fclose(stream);
    return found ? strtod(text, NULL) : -1;
}

/* Bytes left in one group of the hierarchy: its limit minus its use, where page cache that can be dropped counts as
 * free. -1: the group has no limit, or there is no such group. */
static double group_available(const char *directory, const char *limit, const char *usage)
{
    char path[512], line[256];
    double max_bytes = read_first_number(directory, limit), used = read_first_number(directory, usage), cache = 0;
    if (max_bytes < 0 || used < 0 || max_bytes > 1e18) return -1;
    snprintf(path, sizeof path, "%s/memory.stat", directory);
    FILE *stream = fopen(path, "re");
    while (stream && fgets(line, sizeof line, stream))
        if (strncmp(line, "inactive_file ", 14) == 0) cache = strtod(line + 14, NULL);
    if (stream) fclose(stream);
    return fmax(0, max_bytes - used + cache);
}

static void keep_smallest(double *smallest, double bytes)
{
    if (bytes >= 0 && (*smallest < 0 || bytes < *smallest)) *smallest = bytes;
}

/* This process's memory cgroup and the groups above it. A line of /proc/self/cgroup is "N:memory:/path" (v1) or
 * "0::/path" (v2). */
static void read_cgroups(double *smallest)
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
            keep_smallest(smallest, v1 ? group_available(directory, "memory.limit_in_bytes", "memory.usage_in_bytes")
                                       : group_available(directory, "memory.max", "memory.current"));
            while (n > 0 && path[--n] != '/') {}
        }
        snprintf(directory, sizeof directory, "/sys/fs/cgroup%s", v1 ? "/memory" : "");
        if (v1 || v2)
            keep_smallest(smallest, v1 ? group_available(directory, "memory.limit_in_bytes", "memory.usage_in_bytes")
                                       : group_available(directory, "memory.max", "memory.current"));
    }
    if (stream) fclose(stream);
}

size_t proc_memory_available(void)
{
    double smallest = -1, host = (double)proc_memory_bytes("/proc/meminfo", "MemAvailable:");
    if (host > 0) keep_smallest(&smallest, host);
    read_cgroups(&smallest);
    return smallest < 0 ? SIZE_MAX : (size_t)smallest;
}

size_t proc_memory_peak(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (size_t)usage.ru_maxrss * 1024;
}
