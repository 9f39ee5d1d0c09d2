/* An output that is also an input would be read after it is replaced, or never again. Files are compared by device and
 * inode, so links and other spellings of a path are seen through. Whether something can be written is found out by
 * trying: a draft is made and removed. */
#define _GNU_SOURCE
#include "cli/output.h"

#include "base/file.h"
#include "base/suffix.h"

#include <dirent.h>
#include <string.h>

/* Is a file of this name read when its directory is an input? */
static bool is_read(const char *name)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "chat_template.jinja",
                                        "model.safetensors.index.json",
                                        "tokenizer_config.json",
                                        "adapter_config.json",
                                        "settings.json",
                                        "metrics.jsonl"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return has_suffix(name, ".safetensors") || has_suffix(name, ".h5");
}

static Err *find_in_directory(const char *path, const char *directory, bool *found)
{
    char file[PATH_BYTES];
    Err *err = NULL;
    DIR *entries = opendir(directory);
    if (!entries) return NULL; /* whoever reads it says why */
    for (struct dirent *entry; !err && !*found && (entry = readdir(entries));) {
        if (!is_read(entry->d_name)) continue;
        err = file_join(file, directory, entry->d_name);
        *found = !err && file_is_same(path, file);
    }
    closedir(entries);
    return err;
}

Err *output_check(const char *option, const char *path, size_t n, const char *const *inputs)
{
    FileWriter trial;
    if (!path || strcmp(path, "-") == 0) return NULL;
    for (size_t i = 0; i < n; i++) {
        if (!inputs[i]) continue;
        bool found = file_is_same(path, inputs[i]);
        if (!found) TRY(find_in_directory(path, inputs[i], &found));
        if (found)
            return err_new(ERR_USAGE, "%s %s: that file is also an input (%s); give another one", option, path,
                           inputs[i]);
    }
    bool replaced = !file_exists(path) || file_is_same(path, path);
    if (!replaced && !file_is_directory(path)) return NULL; /* opening a FIFO would wait for its reader */
    TRY(err_wrap(file_writer_open(&trial, path), "%s", option));
    file_writer_discard(&trial);
    return NULL;
}
