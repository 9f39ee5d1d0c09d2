/* TensorBoard without TensorFlow: just enough of protocol buffers to write events, summaries and images. The format and
 * its sources are in the header. An event is built in memory and written whole. */
#define _GNU_SOURCE
#include "train/tensorboard.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "plot/picture.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct TensorBoard {
    char run[PATH_BYTES], directory[PATH_BYTES], path[PATH_BYTES];
    FILE *stream;
    uint32_t crc[256];
    bool reported; /* why there are no pictures */
};

/* ---- records -------------------------------------------------------------------------------------------------- */

/* CRC-32C, bit by bit into a table. Source: RFC 3720, appendix B.4: the polynomial, reflected. */
static void make_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78U : crc >> 1;
        table[i] = crc;
    }
}

static uint32_t masked_crc(const TensorBoard *board, const unsigned char *data, size_t n)
{
    uint32_t crc = ~0U;
    for (size_t i = 0; i < n; i++) crc = board->crc[(crc ^ data[i]) & 255] ^ crc >> 8;
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

static void put_little(unsigned char *to, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(x >> 8 * i);
}

/* A protocol buffer message that is being built. */
typedef struct {
    unsigned char *data;
    size_t n, capacity;
    Err *err; /* the first one; after it nothing is added */
} Message;

static void put_bytes(Message *m, const void *data, size_t n)
{
    if (!m->err) m->err = mem_grow(&m->data, &m->capacity, m->n + n, 1);
    if (m->err) return;
    memcpy(m->data + m->n, data, n);
    m->n += n;
}

static void put_varint(Message *m, uint64_t x)
{
    unsigned char bytes[10];
    size_t n = 0;
    for (; x >= 128; x >>= 7) bytes[n++] = (unsigned char)(x | 128);
    bytes[n++] = (unsigned char)x;
    put_bytes(m, bytes, n);
}

enum { VARINT, FIXED64, LENGTH, FIXED32 = 5 };

static void put_key(Message *m, unsigned field, unsigned type) { put_varint(m, field << 3 | type); }

static void put_number(Message *m, unsigned field, uint64_t x)
{
    put_key(m, field, VARINT);
    put_varint(m, x);
}

static void put_block(Message *m, unsigned field, const void *data, size_t n)
{
    put_key(m, field, LENGTH);
    put_varint(m, n);
    put_bytes(m, data, n);
}

/* Add a finished message to another as a field, and free it. */
static void put_message(Message *m, unsigned field, Message *inner)
{
    if (!m->err)
        m->err = inner->err;
    else
        err_free(inner->err);
    put_block(m, field, inner->data, inner->n);
    free(inner->data);
    *inner = (Message){0};
}

static void begin_event(Message *event, uint64_t step)
{
    struct timespec now;
    unsigned char bytes[8];
    uint64_t bits;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    memcpy(&bits, &seconds, sizeof bits);
    put_little(bytes, bits, 8);
    put_key(event, 1, FIXED64);
    put_bytes(event, bytes, 8);
    put_number(event, 2, step);
}

/* Write an event, and free it. */
static Err *write_event(TensorBoard *board, Message *event)
{
    unsigned char head[12], tail[4];
    Err *err = event->err;
    if (!err) {
        put_little(head, event->n, 8);
        put_little(head + 8, masked_crc(board, head, 8), 4);
        put_little(tail, masked_crc(board, event->data, event->n), 4);
        bool wrote = fwrite(head, sizeof head, 1, board->stream) && fwrite(event->data, event->n, 1, board->stream) &&
                     fwrite(tail, sizeof tail, 1, board->stream) && fflush(board->stream) == 0;
        if (!wrote) err = err_errno("write %s", board->path);
    }
    free(event->data);
    return err;
}

/* ---- the file ------------------------------------------------------------------------------------------------- */

/* events.out.tfevents.SECONDS.graft.PID */
static bool is_ours(const char *name)
{
    return strncmp(name, "events.out.tfevents.", strlen("events.out.tfevents.")) == 0 && strstr(name, ".graft.");
}

static Err *remove_events(const char *directory)
{
    DIR *stream = opendir(directory);
    char path[PATH_BYTES];
    if (!stream) return errno == ENOENT || errno == ENOTDIR ? NULL : err_errno("list %s", directory);
    Err *err = NULL;
    for (struct dirent *entry; !err && (entry = readdir(stream));) {
        if (!is_ours(entry->d_name) && strcmp(entry->d_name, "expert_load.png") != 0) continue;
        err = file_join(path, directory, entry->d_name);
        if (!err && unlink(path) && errno != ENOENT) err = err_errno("remove %s", path);
    }
    closedir(stream);
    return err;
}

Err *tensorboard_remove(const char *directory)
{
    char path[PATH_BYTES];
    TRY(file_join(path, directory, "tensorboard"));
    TRY(remove_events(path));
    rmdir(path); /* unless it holds other files */
    return NULL;
}

static Err *write_header(TensorBoard *board, uint64_t done)
{
    Message event = {0}, session = {0};
    begin_event(&event, 0);
    put_block(&event, 3, "brain.Event:2", strlen("brain.Event:2"));
    TRY(write_event(board, &event));
    if (done == 0) return NULL;
    event = (Message){0};
    begin_event(&event, done + 1);
    put_number(&session, 1, 1); /* START */
    put_message(&event, 7, &session);
    return write_event(board, &event);
}

static Err *open_file(TensorBoard *board, const char *directory, uint64_t done)
{
    char name[96];
    snprintf(board->run, sizeof board->run, "%s", directory);
    make_table(board->crc);
    TRY(file_join(board->directory, directory, "tensorboard"));
    TRY(file_make_directory(board->directory));
    if (done == 0) TRY(remove_events(board->directory));
    snprintf(name, sizeof name, "events.out.tfevents.%010lld.graft.%ld", (long long)time(NULL), (long)getpid());
    TRY(file_join(board->path, board->directory, name));
    board->stream = fopen(board->path, "wbe");
    if (!board->stream) return err_errno("open %s", board->path);
    return write_header(board, done);
}

Err *tensorboard_open(TensorBoard **board, const char *directory, uint64_t done)
{
    TRY(mem_new(board, 1, sizeof **board));
    return open_file(*board, directory, done); /* the caller closes it also after a failure */
}

Err *tensorboard_close(TensorBoard *board)
{
    if (!board) return NULL;
    Err *err = file_close(&board->stream, board->path);
    free(board);
    return err;
}

/* ---- scalars and images --------------------------------------------------------------------------------------- */

static void put_scalar(Message *summary, const char *tag, double x)
{
    Message value = {0};
    unsigned char bytes[4];
    uint32_t bits;
    float single = (float)x;
    memcpy(&bits, &single, sizeof bits);
    put_little(bytes, bits, 4);
    put_block(&value, 1, tag, strlen(tag));
    put_key(&value, 2, FIXED32);
    put_bytes(&value, bytes, 4);
    put_message(summary, 1, &value);
}

static void name_tag(char tag[256], const char *key, const char *file, const char *domain)
{
    snprintf(tag, 256, "%s%s%s%s%s", key, file ? "/" : "", file ? file : "", domain ? "/" : "", domain ? domain : "");
}

Err *tensorboard_line(TensorBoard *board, const Json *line)
{
    Message event = {0}, summary = {0};
    char tag[256];
    const char *file = NULL, *domain = NULL;
    int64_t step = 0;
    TRY(json_get_int(line, "step", 0, INT64_MAX, &step));
    TRY(json_may_string(line, "eval_file", &file));
    TRY(json_may_string(line, "eval_domain", &domain));
    for (const Json *member = json_first(line); member; member = json_next(member)) {
        if (json_kind(member) != JSON_NUMBER || strcmp(json_key(member), "step") == 0) continue;
        name_tag(tag, json_key(member), file, domain);
        put_scalar(&summary, tag, json_number(member));
    }
    begin_event(&event, (uint64_t)step);
    put_message(&event, 5, &summary);
    return write_event(board, &event);
}

/* An image. Its width and height are read from the header of the PNG. */
static Err *write_image(TensorBoard *board, uint64_t step, const unsigned char *png, size_t bytes)
{
    Message event = {0}, summary = {0}, value = {0}, image = {0};
    uint64_t side[2] = {0};
    for (size_t i = 0; i < 8 && bytes >= 24; i++) side[i / 4] = side[i / 4] << 8 | png[16 + i];
    put_number(&image, 1, side[1]);
    put_number(&image, 2, side[0]);
    put_number(&image, 3, 3); /* RGB */
    put_block(&image, 4, png, bytes);
    put_block(&value, 1, "expert_load", strlen("expert_load"));
    put_message(&value, 4, &image);
    put_message(&summary, 1, &value);
    begin_event(&event, step);
    put_message(&event, 5, &summary);
    return write_event(board, &event);
}

Err *tensorboard_picture(TensorBoard *board, uint64_t step)
{
    char path[PATH_BYTES];
    bool drawn = false;
    FileMap png;
    TRY(file_join(path, board->directory, "expert_load.png"));
    Err *err = plot_load(path, board->run, &drawn);
    if (err && !board->reported) log_line("  no picture of the expert load: %s", err_message(err));
    board->reported = board->reported || err;
    err_free(err);
    if (!drawn) return NULL;
    TRY(file_map(&png, path));
    err = write_image(board, step, png.data, png.bytes);
    file_unmap(&png);
    unlink(path);
    return err;
}
