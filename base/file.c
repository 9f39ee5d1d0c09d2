/* Files on POSIX. Every writer of a regular file goes through a draft: write `name.draft.KEY`, sync it, rename it over
 * the target, sync the folder. So a reader, or a run after a crash, sees the old file or the new one. KEY is random, so
 * two writers of one target never share a draft, in whatever threads, processes and hosts they are; the last one to
 * rename wins.
 *
 * Maps are listed, because a signal handler has to name the file whose page cannot be read. Any thread opens and closes
 * maps, so the list has a lock, which the handler takes as well. */
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- maps that can no longer be read -------------------------------------------------------------------------- */

/* An open map and the path of its file, for the signal handler. */
typedef struct Watched {
    struct Watched *next;
    const unsigned char *data;
    size_t bytes;
    char path[];
} Watched;

static Watched *watched;
static pthread_mutex_t watched_lock = PTHREAD_MUTEX_INITIALIZER; /* of the list; held for a few instructions */

/* Without memory for an entry the handler cannot name this file; nothing else is lost. */
static void watch(const FileMap *map, const char *path)
{
    size_t n = strlen(path) + 1;
    Watched *entry = malloc(sizeof *entry + n);
    if (!entry) return;
    *entry = (Watched){.data = map->data, .bytes = map->bytes};
    memcpy(entry->path, path, n);
    pthread_mutex_lock(&watched_lock);
    entry->next = watched;
    watched = entry;
    pthread_mutex_unlock(&watched_lock);
}

static void unwatch(const FileMap *map)
{
    pthread_mutex_lock(&watched_lock);
    Watched **link = &watched;
    while (*link && (*link)->data != map->data) link = &(*link)->next;
    Watched *entry = *link;
    if (entry) *link = entry->next;
    pthread_mutex_unlock(&watched_lock);
    free(entry);
}

/* Safe in a signal handler. */
static void write_stderr(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(ERR_IO);
}

/* Take the lock in a signal handler, which must not wait for ever: the thread that holds it may be the one that got the
 * signal. poll is a sleep that is safe in a handler; trylock is one atomic instruction. */
static bool lock_within(int ms)
{
    while (pthread_mutex_trylock(&watched_lock)) {
        if (ms-- == 0) return false;
        poll(NULL, 0, 1);
    }
    return true;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    const unsigned char *at = info->si_addr;
    (void)number;
    (void)context;
    write_stderr("graft: ");
    for (const Watched *w = lock_within(1000) ? watched : NULL; w; w = w->next) /* never unlocked: the program ends */
        if (w->bytes && at >= w->data && at < w->data + (w->bytes + 4095) / 4096 * 4096) {
            write_stderr(w->path);
            write_stderr(": ");
        }
    write_stderr("its bytes can no longer be read: the file was cut short during the run, or its disk failed\n");
    _exit(ERR_IO);
}

void file_watch_maps(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
}

/* ---- maps ----------------------------------------------------------------------------------------------------- */

Err *file_map(FileMap *map, const char *path)
{
    *map = (FileMap){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_errno("open %s", path);
    Err *err = NULL;
    struct stat st;
    if (fstat(fd, &st)) {
        err = err_errno("stat %s", path);
    } else if (!S_ISREG(st.st_mode)) {
        err = err_new(ERR_IO, "%s is not a regular file", path);
    } else if (st.st_size > 0) {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED)
            err = err_errno("map %s (%lld bytes)", path, (long long)st.st_size);
        else
            *map = (FileMap){at, (size_t)st.st_size, at};
        if (!err) watch(map, path);
    }
    close(fd);
    return err;
}

void file_unmap(FileMap *map)
{
    if (map->mapping) {
        unwatch(map);
        munmap(map->mapping, map->bytes);
    }
    *map = (FileMap){0};
}

Err *file_read(char **text, size_t *bytes, const char *path)
{
    *text = NULL;
    FILE *stream = fopen(path, "rbe");
    if (!stream) return err_errno("open %s", path);
    Err *err = NULL;
    size_t used = 0, capacity = 0;
    char *block = NULL;
    for (;;) {
        if (used + 1 >= capacity) {
            capacity = capacity ? capacity * 2 : 65536;
            char *grown = realloc(block, capacity);
            if (!grown) {
                err = err_new(ERR_MEMORY, "read %s: out of memory after %zu bytes", path, used);
                break;
            }
            block = grown;
        }
        size_t n = fread(block + used, 1, capacity - used - 1, stream);
        used += n;
        if (n == 0) {
            if (ferror(stream) && errno == EINTR) { /* a signal, not the end */
                clearerr(stream);
                continue;
            }
            if (ferror(stream)) err = err_errno("read %s", path);
            break;
        }
    }
    fclose(stream);
    if (err) {
        free(block);
        return err;
    }
    block[used] = 0;
    *text = block;
    if (bytes) *bytes = used;
    return NULL;
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

Err *file_join(char path[PATH_BYTES], const char *directory, const char *name)
{
    int n = snprintf(path, PATH_BYTES, "%s/%s", directory, name);
    if (n < 0 || n >= PATH_BYTES) return err_new(ERR_IO, "path too long: %.60s.../%s", directory, name);
    return NULL;
}

Err *file_make_directory(const char *path)
{
    char part[PATH_BYTES];
    size_t n = strlen(path);
    if (n == 0 || n >= PATH_BYTES) return err_new(ERR_IO, "make directory: path is empty or too long");
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) && errno != EEXIST) return err_errno("make directory %s", part);
    }
    if (!file_is_directory(path)) return err_new(ERR_IO, "%s exists and is not a directory", path);
    return NULL;
}

static const char DRAFT[] = ".draft."; /* between the target's name and the key */

Err *file_draft_name(char draft[PATH_BYTES], const char *path)
{
    uint64_t key;
    *draft = 0;
    if (getrandom(&key, sizeof key, 0) != sizeof key) return err_errno("draw a name for the draft of %s", path);
    int n = snprintf(draft, PATH_BYTES, "%s%s%016" PRIx64, path, DRAFT, key);
    if (n > 0 && n < PATH_BYTES) return NULL;
    *draft = 0;
    return err_new(ERR_IO, "path too long: %.60s...", path);
}

Err *file_draft_open(FILE **stream, char draft[PATH_BYTES], const char *path)
{
    *stream = NULL;
    TRY(file_draft_name(draft, path));
    *stream = fopen(draft, "wbxe"); /* x: O_EXCL */
    if (*stream) return NULL;
    Err *err = err_errno("create %s", draft);
    *draft = 0;
    return err;
}

bool file_is_draft_of(const char *name, const char *target)
{
    size_t n = strlen(target), d = strlen(DRAFT);
    if (strncmp(name, target, n) != 0 || strncmp(name + n, DRAFT, d) != 0) return false;
    const char *key = name + n + d;
    return *key && strspn(key, "0123456789abcdef") == strlen(key);
}

static Err *sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) return err_errno("open %s to sync it", path);
    Err *err = fsync(fd) && errno != EINVAL ? err_errno("sync %s", path) : NULL;
    close(fd);
    return err;
}

static Err *sync_folder_of(const char *path)
{
    char folder[PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash) return sync_path(".", O_RDONLY | O_DIRECTORY);
    slash[slash == folder] = 0; /* keep the slash of the root folder */
    return sync_path(folder, O_RDONLY | O_DIRECTORY);
}

Err *file_replace(const char *draft, const char *path)
{
    Err *err = sync_path(draft, O_RDONLY);
    if (!err && rename(draft, path)) err = err_errno("rename %s to %s", draft, path);
    if (err) {
        unlink(draft);
        return err;
    }
    return sync_folder_of(path);
}

Err *file_sync(FILE *stream, const char *path)
{
    if (fflush(stream)) return err_errno("write %s", path);
    return fsync(fileno(stream)) && errno != EINVAL ? err_errno("sync %s", path) : NULL;
}

Err *file_close(FILE **stream, const char *path)
{
    FILE *closing = *stream;
    *stream = NULL;
    if (!closing) return NULL;
    bool failed = ferror(closing) != 0;
    if (fclose(closing)) return err_errno("write %s", path);
    return failed ? err_new(ERR_IO, "write %s failed", path) : NULL;
}

/* ---- where a path leads --------------------------------------------------------------------------------------- */

/* What the symbolic links at `path` lead to, whether it exists or not. */
static Err *follow_links(char target[PATH_BYTES], const char *path)
{
    enum { MAX_LINKS = 40 }; /* as Linux has it */
    char link[PATH_BYTES];
    size_t n = strlen(path), folder;
    if (!n || n >= PATH_BYTES) return err_new(ERR_IO, "path is empty or too long: %.60s", path);
    memcpy(target, path, n + 1);
    for (int i = 0; i < MAX_LINKS; i++) {
        ssize_t bytes = readlink(target, link, sizeof link);
        if (bytes < 0) return NULL; /* no link */
        const char *slash = *link == '/' ? NULL : strrchr(target, '/');
        folder = slash ? (size_t)(slash - target) + 1 : 0;
        if (folder + (size_t)bytes >= PATH_BYTES) return err_new(ERR_IO, "path too long: %s leads to it", path);
        memcpy(target + folder, link, (size_t)bytes);
        target[folder + (size_t)bytes] = 0;
    }
    return err_new(ERR_IO, "%s: too many symbolic links", path);
}

static bool is_one_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool file_is_same(const char *path, const char *other)
{
    struct stat a, b;
    return !stat(path, &a) && !stat(other, &b) && S_ISREG(a.st_mode) && is_one_file(&a, &b);
}

/* The descriptor of standard output or standard error when it is open for writing and `found` is where it leads; -1
 * otherwise. */
static int standard_descriptor(const struct stat *found)
{
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
        struct stat st;
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && !fstat(fd, &st) && is_one_file(&st, found)) return fd;
    }
    return -1;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static Err *open_draft(FileWriter *writer, const char *path, const struct stat *replaced)
{
    TRY(follow_links(writer->target, path));
    TRY(file_draft_open(&writer->stream, writer->draft, writer->target));
    if (!replaced || !fchmod(fileno(writer->stream), replaced->st_mode & 0777)) return NULL;
    Err *err = err_errno("set the mode of %s", writer->draft);
    file_writer_discard(writer);
    return err;
}

/* Write to what is there: a standard stream by its descriptor, anything else by its name. */
static Err *open_directly(FileWriter *writer, const char *path, int standard)
{
    fflush(stdout); /* what was printed before comes first */
    int fd = standard >= 0 ? fcntl(standard, F_DUPFD_CLOEXEC, 0) : open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) writer->stream = fdopen(fd, "w");
    if (writer->stream) return NULL;
    Err *err = err_errno("open %s", writer->name);
    if (fd >= 0) close(fd);
    return err;
}

Err *file_writer_open(FileWriter *writer, const char *path)
{
    struct stat found;
    bool dash = strcmp(path, "-") == 0, exists = !dash && stat(path, &found) == 0;
    int standard = dash ? STDOUT_FILENO : exists ? standard_descriptor(&found) : -1;
    writer->stream = NULL;
    writer->name = dash ? "standard output" : path;
    *writer->target = *writer->draft = 0;
    if (standard >= 0 || (exists && !S_ISREG(found.st_mode))) return open_directly(writer, path, standard);
    return open_draft(writer, path, exists ? &found : NULL);
}

Err *file_writer_close(FileWriter *writer)
{
    Err *err = file_close(&writer->stream, writer->name);
    if (!err && *writer->draft) {
        err = file_replace(writer->draft, writer->target);
        *writer->draft = 0;
    }
    file_writer_discard(writer);
    return err;
}

void file_writer_discard(FileWriter *writer)
{
    if (writer->stream) fclose(writer->stream);
    if (*writer->draft) unlink(writer->draft);
    writer->stream = NULL;
    *writer->draft = 0;
}

Err *file_write(const char *path, const void *data, size_t bytes)
{
    FileWriter writer;
    TRY(file_writer_open(&writer, path));
    if (!bytes || fwrite(data, 1, bytes, writer.stream) == bytes) return file_writer_close(&writer);
    Err *err = err_errno("write %s", writer.name);
    file_writer_discard(&writer);
    return err;
}
