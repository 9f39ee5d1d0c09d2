/* Measures the machine, and keeps the numbers in a JSON file in the user's cache folder.
 *
 * machine_rate interpolates GFLOP/s over the logarithm of the number of rows, between the counts in machine_rows.
 * Below the first count the rate is proportional to the rows; above the last it is constant. */
#define _GNU_SOURCE
#include "base/machine.h"

#include "base/arena.h"
#include "base/direct_io.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/peak.h"
#include "base/proc_memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const size_t machine_rows[MACHINE_ROWS] = {4, 16, 64, 256, 1024, 2048};

enum { READERS = 4, DISK_PIECE_BYTES = 8 << 20, MEMORY_BYTES = 512 << 20, LINE_DOUBLES = 8 };

/* ---- measuring ------------------------------------------------------------------------------------------------ */

/* Bytes per second that all threads together read from a block too large for any cache: the best of five. It is
 * taken over wall time: threads that take turns on one core would otherwise each be counted with the full bandwidth. */
static double memory_rate(void)
{
    double *block, best = 0;
    size_t n = MEMORY_BYTES / sizeof *block;
    Err *err = mem_new(&block, n, sizeof *block);
    if (err) {
        err_free(err);
        return 0;
    }
    for (int round = 0; round < 5; round++) {
        double sum = 0, began = log_seconds();
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (size_t i = 0; i < n; i += LINE_DOUBLES) sum += block[i]; /* one number loads its cache line */
        double rate = MEMORY_BYTES / (log_seconds() - began);
        if (rate > best && sum == 0) best = rate;
    }
    free(block);
    return best;
}

void machine_cpu_name(char name[MACHINE_NAME_BYTES])
{
    char line[512];
    FILE *stream = fopen("/proc/cpuinfo", "re");
    snprintf(name, MACHINE_NAME_BYTES, "unknown");
    while (stream && fgets(line, sizeof line, stream))
        if (sscanf(line, "model name : %127[^\n]", name) == 1) break;
    if (stream) fclose(stream);
}

void machine_measure(Machine *m)
{
    double best = 0;
    m->cores = (double)sysconf(_SC_NPROCESSORS_ONLN);
    for (int round = 0; round < 3; round++) {
        double rate = peak_of_team(false, 2 * PEAK_ROUNDS);
        if (rate > best) best = rate;
    }
    m->gflops = 2e-9 * best;
    m->memory_gbs = 1e-9 * memory_rate();
    m->memory_gib = (double)proc_memory_bytes("/proc/meminfo", "MemTotal:") / 1073741824;
}

/* Several threads read pieces of the file in order, as model/stream does, and also into huge pages: with pages of 4
 * KiB a read is split into many requests, and a virtual disk reached a third of its rate. */
Err *machine_disk(const char *path, double seconds, double *gbs, bool *direct)
{
    DirectFile file;
    Arena arena = {0};
    TRY(direct_open(&file, path));
    char *block = arena_alloc(&arena, READERS * (size_t)DISK_PIECE_BYTES + DIRECT_ALIGN);
    Err *err = block ? NULL : err_new(ERR_MEMORY, "out of memory");
    size_t done = 0, next = 0;
    double began = log_seconds(), spent = 0;
    if (!err) {
        char *first = block + (DIRECT_ALIGN - (size_t)block % DIRECT_ALIGN) % DIRECT_ALIGN;
#pragma omp parallel for num_threads(READERS) schedule(static, 1)
        for (int r = 0; r < READERS; r++) {
            size_t at = 0;
            Err *failed = NULL;
            while (!failed && log_seconds() - began < seconds) {
#pragma omp atomic capture
                {
                    at = next;
                    next += DISK_PIECE_BYTES;
                }
                if (at >= file.bytes) break;
                failed = direct_read(&file, at, DISK_PIECE_BYTES, first + (size_t)r * DISK_PIECE_BYTES);
#pragma omp atomic
                done += file.bytes - at < DISK_PIECE_BYTES ? file.bytes - at : DISK_PIECE_BYTES;
            }
#pragma omp critical
            err = err_first(err, failed);
        }
        spent = log_seconds() - began;
    }
    arena_free(&arena);
    *direct = file.direct;
    *gbs = spent > 0 ? 1e-9 * (double)done / spent : 0;
    direct_close(&file);
    return err_wrap(err, "measure the disk");
}

double machine_rate(const Machine *m, bool bf16, double rows)
{
    const double *rate = bf16 ? m->bf16 : m->fp32;
    size_t i = 0;
    if (rate[0] <= 0) return m->gflops * 0.6 * rows / (rows + 8);
    if (rows < (double)machine_rows[0]) return rate[0] * rows / (double)machine_rows[0];
    while (i + 2 < MACHINE_ROWS && rows > (double)machine_rows[i + 1]) i++;
    double low = log((double)machine_rows[i]), high = log((double)machine_rows[i + 1]),
           share = (log(rows) - low) / (high - low);
    return rate[i] + (rate[i + 1] - rate[i]) * (share < 1 ? share : 1);
}

/* ---- the file ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *key;
    size_t at;
} number_keys[] = {{"cores", offsetof(Machine, cores)},
                   {"gflops", offsetof(Machine, gflops)},
                   {"memory_gbs", offsetof(Machine, memory_gbs)},
                   {"disk_gbs", offsetof(Machine, disk_gbs)},
                   {"memory_gib", offsetof(Machine, memory_gib)}};
enum { N_NUMBERS = sizeof number_keys / sizeof *number_keys };
static const struct {
    const char *key;
    size_t at;
} list_keys[] = {{"fp32", offsetof(Machine, fp32)}, {"bf16", offsetof(Machine, bf16)}}; /* MACHINE_ROWS numbers each */
enum { N_LISTS = sizeof list_keys / sizeof *list_keys };

static double *number_of(Machine *m, size_t i) { return (double *)(void *)((char *)m + number_keys[i].at); }
static double *list_of(Machine *m, size_t i) { return (double *)(void *)((char *)m + list_keys[i].at); }

/* A list that is missing leaves zeros: the file is from an older version. */
static void load_list(const Json *root, const char *key, double *to)
{
    const Json *array = json_find(root, key), *item = array ? json_first(array) : NULL;
    for (size_t i = 0; i < MACHINE_ROWS && item; i++, item = json_next(item)) to[i] = json_number(item);
}

static Err *cache_path(char path[PATH_BYTES], char directory[PATH_BYTES])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char folder[PATH_BYTES];
    if (cache && *cache)
        snprintf(folder, sizeof folder, "%s", cache);
    else
        TRY(file_join(folder, home ? home : "/tmp", ".cache"));
    TRY(file_join(directory, folder, "graft"));
    return file_join(path, directory, "machine.json");
}

Err *machine_load(Machine *machine, bool *found)
{
    char path[PATH_BYTES], directory[PATH_BYTES];
    Json *root;
    *machine = (Machine){0};
    TRY(cache_path(path, directory));
    *found = file_exists(path);
    if (!*found) return NULL;
    TRY(json_read_file(&root, path));
    Err *err = NULL;
    for (size_t i = 0; i < N_NUMBERS && !err; i++)
        err = json_get_number(root, number_keys[i].key, number_of(machine, i));
    for (size_t i = 0; i < N_LISTS && !err; i++) load_list(root, list_keys[i].key, list_of(machine, i));
    json_free(root);
    return err_wrap(err, "%s", path);
}

Err *machine_save(const Machine *machine)
{
    char path[PATH_BYTES], directory[PATH_BYTES], *text;
    Machine copy = *machine;
    Json *root = json_new_object();
    for (size_t i = 0; i < N_NUMBERS; i++) json_add_number(root, number_keys[i].key, *number_of(&copy, i));
    for (size_t i = 0; i < N_LISTS; i++) {
        Json *array = json_new_array();
        for (size_t j = 0; j < MACHINE_ROWS; j++) json_add_number(array, NULL, list_of(&copy, i)[j]);
        json_add(root, list_keys[i].key, array);
    }
    Err *err = json_print(root, true, &text);
    json_free(root);
    if (err) return err;
    err = cache_path(path, directory);
    if (!err) err = file_make_directory(directory);
    if (!err) err = file_write(path, text, strlen(text));
    free(text);
    return err;
}
