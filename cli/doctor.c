/* graft doctor [FILE]: measure this machine, show its limits, and advise. The figures are saved for `graft plan` and
 * for the plan of a run (base/machine.h). */
#define _GNU_SOURCE
#include "base/byte_size.h"
#include "base/file.h"
#include "base/machine.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/proc_memory.h"
#include "cli/verbs.h"
#include "tensor/dispatch.h"
#include "tensor/rates.h"

#include <gnu/libc-version.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    bool help;
    char *directory;
} DoctorSettings;

static const Option doctor_table[] = {{"directory", OPT_TEXT, offsetof(DoctorSettings, directory), .preset = ".",
                                       .help =
                                           "directory where a file of 1 GiB is written and read when no FILE is given"},
                                      {"help", OPT_FLAG, offsetof(DoctorSettings, help), .help = "print this list"},
                                      {0}};

enum { TRIAL_BYTES = 1 << 30, ADVICE = 8, LINE = 256 };

typedef struct {
    Machine machine;
    size_t n_advice;
    char advice[ADVICE][LINE];
} Doctor;

static void advise(Doctor *d, const char *text)
{
    if (d->n_advice < ADVICE) snprintf(d->advice[d->n_advice++], LINE, "%s", text);
}

static void show_cpu(Doctor *d)
{
    char name[MACHINE_NAME_BYTES];
    machine_cpu_name(name);
    machine_measure(&d->machine);
    printf("cpu          %s, %.0f cores in use\n", name, d->machine.cores);
#if defined __x86_64__
    bool avx512 = __builtin_cpu_supports("avx512f"), bf16 = __builtin_cpu_supports("avx512bf16");
    printf("instructions %s%s%s%s; graft computes with %s\n", __builtin_cpu_supports("avx2") ? "AVX2 " : "",
           avx512 ? "AVX-512 " : "", bf16 ? "AVX512-BF16 " : "", __builtin_cpu_supports("fma") ? "FMA" : "",
           dispatch_path());
    if (!avx512) advise(d, "This CPU has no AVX-512: expect half the speed of one that has it.");
#endif
    printf("peak         %.0f GFLOP/s in fp32, all cores, just now\n", d->machine.gflops);
    printf("memory       %.1f GiB, %s free for graft; read at %.1f GB/s\n", d->machine.memory_gib,
           BYTES(proc_memory_available()), d->machine.memory_gbs);
    double load[1];
    if (getloadavg(load, 1) == 1 && load[0] > 0.5 * d->machine.cores) {
        char text[LINE];
        snprintf(
            text, sizeof text,
            "Other programs use %.1f of %.0f cores: these figures and training are slower than the machine could be.",
            load[0], d->machine.cores);
        advise(d, text);
    }
}

/* Products on both compute paths; then select the one that training uses. */
static Err *show_products(Doctor *d)
{
    static const char *const paths[] = {"fp32", "bf16"};
    double *const lists[] = {d->machine.fp32, d->machine.bf16};
    for (size_t i = 0; i < 2; i++) {
        if (!dispatch_init(paths[i])) continue;
        TRY(rates_measure(lists[i]));
        printf("%s%s", i ? "             " : "products     ", paths[i]);
        for (size_t j = 0; j < MACHINE_ROWS; j++) printf("%s %.0f", j ? "," : ":", lists[i][j]);
        printf(" GFLOP/s with");
        for (size_t j = 0; j < MACHINE_ROWS; j++) printf("%s %zu", j ? "," : "", machine_rows[j]);
        printf(" rows\n");
    }
    dispatch_init(NULL);
    return NULL;
}

static Err *write_trial(char path[PATH_BYTES], const char *directory)
{
    enum { BLOCK = 1 << 20 };
    static char block[BLOCK];
    TRY(file_join(path, directory, "graft.doctor.XXXXXX"));
    int fd = mkstemp(path);
    if (fd < 0) return err_errno("create %s", path);
    Err *err = NULL;
    for (size_t i = 0; i < sizeof block; i++) block[i] = (char)(i * 2654435761u >> 13);
    for (size_t at = 0; at < TRIAL_BYTES && !err; at += BLOCK)
        if (write(fd, block, BLOCK) != BLOCK) err = err_errno("write %s", path);
    if (!err && fsync(fd)) err = err_errno("write %s", path);
    close(fd);
    if (err) unlink(path);
    return err;
}

static Err *show_disk(Doctor *d, const char *file, const char *directory)
{
    char path[PATH_BYTES];
    bool direct;
    if (!file) TRY(write_trial(path, directory));
    Err *err = machine_disk(file ? file : path, 4, &d->machine.disk_gbs, &direct);
    if (!file) unlink(path);
    if (err) return err;
    printf("disk         %.2f GB/s from %s, %s, 4 readers of 8 MiB\n", d->machine.disk_gbs, file ? file : directory,
           direct ? "past the page cache" : "through the page cache: direct reads are refused");
    if (!direct)
        advise(d, "The file system refuses direct reads, so streaming fills the page cache; a local disk (ext4, xfs) "
                  "allows them.");
    if (d->machine.disk_gbs < 1)
        advise(d,
               "A disk below 1 GB/s limits streamed training unless steps have many tokens: raise train_batch_size or "
               "memory_limit.");
    return NULL;
}

static void show_limit(const char *name, int which, const char *unit)
{
    struct rlimit limit;
    if (getrlimit(which, &limit)) return;
    if (limit.rlim_cur == RLIM_INFINITY)
        printf("%s unlimited", name);
    else if (*unit)
        printf("%s %s", name, BYTES(limit.rlim_cur));
    else
        printf("%s %llu", name, (unsigned long long)limit.rlim_cur);
}

static void show_limits(Doctor *d)
{
    struct rlimit files;
    show_limit("limits       locked memory", RLIMIT_MEMLOCK, "B");
    show_limit(", data", RLIMIT_DATA, "B");
    show_limit(", open files", RLIMIT_NOFILE, "");
    size_t left = proc_memory_available(), host = proc_memory_bytes("/proc/meminfo", "MemAvailable:");
    printf("; cgroup %s\n", left < host ? "limits memory" : "does not limit memory");
    if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < 1024)
        advise(d, "Fewer than 1024 open files: a model of several hundred shards may not open; raise `ulimit -n`.");
}

/* The first line that a command prints. */
static void show_command(const char *label, const char *command, const char *missing, Doctor *d, const char *advice)
{
    char line[LINE] = "";
    FILE *stream = popen(command, "re");
    if (stream && fgets(line, sizeof line, stream)) line[strcspn(line, "\n")] = 0;
    if (stream) pclose(stream);
    printf("%-12s %s\n", label, *line ? line : missing);
    if (!*line && advice) advise(d, advice);
}

/* What is read to measure the disk must lie on one: from a device or a pipe the figure would be wrong, and plans would
 * use it. A directory is where the trial file is written. */
static Err *check_file(const char **file, DoctorSettings *s)
{
    struct stat st;
    if (!*file) return NULL;
    if (stat(*file, &st)) return err_errno("%s", *file);
    if (S_ISREG(st.st_mode) && st.st_size > 0) return NULL;
    if (!S_ISDIR(st.st_mode))
        return err_new(ERR_USAGE,
                       "%s is %s; expected a file of the disk that models are read from, or a directory on it", *file,
                       S_ISREG(st.st_mode) ? "empty" : "not a regular file");
    free(s->directory);
    s->directory = NULL;
    TRY(mem_copy_text(&s->directory, *file));
    *file = NULL;
    return NULL;
}

static Err *doctor(int argc, char **argv, DoctorSettings *s)
{
    Doctor d = {0};
    const char *file = NULL;
    size_t n;
    TRY(options_defaults(s, doctor_table));
    TRY(options_arguments(s, doctor_table, argc, argv, &file, 1, &n));
    if (s->help) {
        printf("graft doctor [FILE to read, such as a shard, or a directory]\n");
        options_help(stdout, doctor_table);
        return NULL;
    }
    TRY(check_file(&file, s));
    dispatch_init(NULL);
    show_cpu(&d);
    TRY(show_products(&d));
    TRY(show_disk(&d, file, s->directory));
    show_limits(&d);
    show_command("mpi", "mpirun --version 2>/dev/null", "no mpirun: one rank only", &d,
                 "Install Open MPI to train with several ranks.");
    printf("libraries    glibc %s, %s\n", gnu_get_libc_version(), dispatch_path());
    for (size_t i = 0; i < d.n_advice; i++) printf("%s%s\n", i ? "             " : "advice       ", d.advice[i]);
    if (d.n_advice == 0) printf("advice       nothing to improve\n");
    TRY(machine_save(&d.machine));
    printf("These figures are saved for `graft plan`.\n");
    return NULL;
}

int verb_doctor(int argc, char **argv)
{
    DoctorSettings settings = {0};
    Err *err = doctor(argc, argv, &settings);
    options_free(&settings, doctor_table);
    return err_report("doctor", err);
}
