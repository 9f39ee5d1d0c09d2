#define _GNU_SOURCE
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char name[256];

const char *scratch_file(const char *text)
{
    const char *folder = getenv("TMPDIR");
    snprintf(name, sizeof name, "%s/graft-test-XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(name);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        perror(name);
        abort();
    }
    close(fd);
    return name;
}

void scratch_remove(void) { unlink(name); }
