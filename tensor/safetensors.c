/* Reading checks twice: first each tensor by itself (dtype, shape, bytes), then all of them together. Sorted by place,
 * they must tile the buffer; sorted by name, each must differ from the next. Both checks are a sort and one pass, so
 * the 115,000 tensors of a large shard cost no more than parsing their header. Writing goes to a draft, which takes the
 * file's place when it is complete. */
#include "tensor/safetensors.h"

#include "base/json.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PREFIX_BYTES = 8, MAX_HEADER_BYTES = 100000000, PIECE_BYTES = 1 << 22 };

static const char metadata_key[] = "__metadata__";

/* ---- reading -------------------------------------------------------------------------------------------------- */

static Err *header_bytes(const FileMap *map, size_t *bytes)
{
    if (map->bytes < PREFIX_BYTES)
        return err_new(ERR_FORMAT, "the file has %zu bytes; a safetensors file has at least %d", map->bytes,
                       PREFIX_BYTES);
    uint64_t n = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--) n = n << 8 | map->data[i];
    if (n == 0 || n > MAX_HEADER_BYTES)
        return err_new(ERR_FORMAT, "the header is %llu bytes long; expected 1 to %d", (unsigned long long)n,
                       MAX_HEADER_BYTES);
    if (n > map->bytes - PREFIX_BYTES)
        return err_new(ERR_FORMAT, "the header is %llu bytes long, but only %zu bytes follow its length",
                       (unsigned long long)n, map->bytes - PREFIX_BYTES);
    *bytes = (size_t)n;
    return NULL;
}

static Err *read_metadata(const Json *metadata)
{
    if (json_kind(metadata) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "%s is %s; expected an object", metadata_key, json_kind_name(metadata));
    for (const Json *text = json_first(metadata); text; text = json_next(text))
        if (json_kind(text) != JSON_STRING)
            return err_new(ERR_FORMAT, "%s.%s is %s; expected a string", metadata_key, json_key(text),
                           json_kind_name(text));
    return NULL;
}

static Err *unknown_dtype(const char *found)
{
    char known[128] = "";
    for (int i = 0; i < DTYPE_COUNT; i++) {
        strcat(known, i == 0 ? "" : i + 1 < DTYPE_COUNT ? ", " : " or ");
        strcat(known, dtype_name((DType)i));
    }
    return err_new(ERR_FORMAT, "dtype is %s; expected %s", found, known);
}

/* Shape and the bytes that it takes. */
static Err *read_shape(TensorView *view, const Json *shape, size_t *bytes)
{
    size_t product = dtype_bytes(view->dtype);
    for (const Json *item = json_first(shape); item; item = json_next(item)) {
        int64_t n;
        if (view->n_dims == TENSOR_DIMS)
            return err_new(ERR_FORMAT, "shape has %zu dimensions; expected at most %d", json_count(shape), TENSOR_DIMS);
        TRY(json_to_int(item, "shape", 0, INT64_MAX, &n));
        if (__builtin_mul_overflow(product, (size_t)n, &product))
            return err_new(ERR_FORMAT, "shape has more bytes than an address can count");
        view->shape[view->n_dims++] = (size_t)n;
    }
    *bytes = product;
    return NULL;
}

static Err *read_place(TensorView *view, const Json *offsets, const unsigned char *buffer, size_t buffer_bytes)
{
    int64_t begin, end;
    if (json_count(offsets) != 2)
        return err_new(ERR_FORMAT, "data_offsets has %zu numbers; expected 2", json_count(offsets));
    TRY(json_to_int(json_first(offsets), "data_offsets", 0, INT64_MAX, &begin));
    TRY(json_to_int(json_next(json_first(offsets)), "data_offsets", 0, INT64_MAX, &end));
    if (begin > end)
        return err_new(ERR_FORMAT, "data_offsets begin at %lld and end before, at %lld", (long long)begin,
                       (long long)end);
    if ((uint64_t)end > buffer_bytes)
        return err_new(ERR_FORMAT, "data_offsets end at %lld, but the file holds %zu bytes of data (truncated?)",
                       (long long)end, buffer_bytes);
    view->data = buffer + begin;
    view->bytes = (size_t)(end - begin);
    return NULL;
}

static Err *read_tensor(TensorView *view, const Json *entry, const unsigned char *buffer, size_t buffer_bytes)
{
    const char *dtype;
    const Json *shape, *offsets;
    size_t bytes = 0;
    if (json_kind(entry) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "found %s; expected an object", json_kind_name(entry));
    TRY(json_get_string(entry, "dtype", &dtype));
    TRY(json_get_array(entry, "shape", &shape));
    TRY(json_get_array(entry, "data_offsets", &offsets));
    if (!dtype_from_name(&view->dtype, dtype)) return unknown_dtype(dtype);
    TRY(read_shape(view, shape, &bytes));
    TRY(read_place(view, offsets, buffer, buffer_bytes));
    if (bytes != view->bytes)
        return err_new(ERR_FORMAT, "data_offsets span %zu bytes; dtype and shape take %zu", view->bytes, bytes);
    return NULL;
}

static int compare_places(const void *a, const void *b) /* an empty tensor comes before the one that starts there */
{
    const TensorView *x = a, *y = b;
    const char *p = x->data, *q = y->data;
    if (p != q) return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const TensorView *)a)->name, ((const TensorView *)b)->name);
}

static Err *check_tiling(const TensorView *tensors, size_t n, const unsigned char *buffer, size_t buffer_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)((const unsigned char *)tensors[i].data - buffer);
        if (begin != at)
            return err_new(ERR_FORMAT, "tensor %s: begins at %zu, %s where %s%s ends, at %zu", tensors[i].name, begin,
                           begin < at ? "before the place" : "beyond the place", i ? "tensor " : "nothing",
                           i ? tensors[i - 1].name : "", at);
        at = begin + tensors[i].bytes;
    }
    if (at != buffer_bytes)
        return err_new(ERR_FORMAT, "the tensors end at %zu, but the file holds %zu bytes of data", at, buffer_bytes);
    return NULL;
}

static Err *check_names(const TensorView *tensors, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0)
            return err_new(ERR_FORMAT, "tensor %s: the header names it twice", tensors[i].name);
    return NULL;
}

static Err *read_header(Safetensors *file, const Json *header, const unsigned char *buffer, size_t buffer_bytes)
{
    size_t n = 0, name_bytes = 0, n_metadata = 0;
    if (json_kind(header) != JSON_OBJECT)
        return err_new(ERR_FORMAT, "the header is %s; expected an object", json_kind_name(header));
    for (const Json *entry = json_first(header); entry; entry = json_next(entry)) {
        n++;
        name_bytes += strlen(json_key(entry)) + 1;
    }
    TRY(mem_new(&file->tensors, n, sizeof *file->tensors));
    TRY(mem_new(&file->names, name_bytes, 1));
    char *name = file->names;
    for (const Json *entry = json_first(header); entry; entry = json_next(entry)) {
        if (strcmp(json_key(entry), metadata_key) == 0) {
            if (n_metadata++) return err_new(ERR_FORMAT, "the header holds %s twice", metadata_key);
            TRY(read_metadata(entry));
            continue;
        }
        TensorView *view = &file->tensors[file->n_tensors++];
        size_t bytes = strlen(json_key(entry)) + 1;
        memcpy(name, json_key(entry), bytes);
        view->name = name;
        name += bytes;
        TRY(err_wrap(read_tensor(view, entry, buffer, buffer_bytes), "tensor %s", view->name));
    }
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_places);
    TRY(check_tiling(file->tensors, file->n_tensors, buffer, buffer_bytes));
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_names);
    return check_names(file->tensors, file->n_tensors);
}

Err *safetensors_open(Safetensors *file, const char *path)
{
    Json *header = NULL;
    size_t bytes = 0;
    *file = (Safetensors){0};
    Err *err = file_map(&file->map, path); /* names the path itself */
    if (err) return err;
    if ((err = mem_copy_text(&file->path, path))) goto done;
    if ((err = header_bytes(&file->map, &bytes))) goto done;
    const unsigned char *text = file->map.data + PREFIX_BYTES;
    err = err_wrap(json_parse(&header, (const char *)text, bytes), "header");
    if (!err) err = read_header(file, header, text + bytes, file->map.bytes - PREFIX_BYTES - bytes);
done:
    json_free(header);
    if (err) safetensors_close(file);
    return err_wrap(err, "%s", path);
}

void safetensors_close(Safetensors *file)
{
    file_unmap(&file->map);
    free(file->tensors);
    free(file->names);
    free(file->path);
    *file = (Safetensors){0};
}

const TensorView *safetensors_find(const Safetensors *file, const char *name)
{
    TensorView key = {.name = name};
    return bsearch(&key, file->tensors, file->n_tensors, sizeof key, compare_names);
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static Err *check_written(const TensorView *view)
{
    size_t bytes = dtype_bytes(view->dtype);
    for (size_t d = 0; d < view->n_dims; d++)
        if (__builtin_mul_overflow(bytes, view->shape[d], &bytes)) bytes = SIZE_MAX;
    if (view->n_dims > TENSOR_DIMS || bytes != view->bytes)
        return err_new(ERR_FORMAT, "tensor %s: has %zu bytes; dtype and shape take %zu", view->name, view->bytes,
                       bytes);
    return NULL;
}

static Json *entry_of(const TensorView *view, size_t begin)
{
    Json *entry = json_new_object(), *shape = json_new_array(), *offsets = json_new_array();
    for (size_t d = 0; d < view->n_dims; d++) json_add_number(shape, NULL, (double)view->shape[d]);
    json_add_number(offsets, NULL, (double)begin);
    json_add_number(offsets, NULL, (double)(begin + view->bytes));
    json_add_string(entry, "dtype", dtype_name(view->dtype));
    json_add(entry, "shape", shape);
    json_add(entry, "data_offsets", offsets);
    return entry;
}

static Err *header_text(const TensorView *tensors, size_t n_tensors, char **text)
{
    Json *header = json_new_object(), *metadata = json_new_object();
    size_t at = 0;
    json_add_string(metadata, "format", "pt");
    json_add(header, metadata_key, metadata);
    for (size_t i = 0; i < n_tensors; i++) {
        json_add(header, tensors[i].name, entry_of(&tensors[i], at));
        at += tensors[i].bytes;
    }
    Err *err = json_print(header, false, text);
    json_free(header);
    return err;
}

static Err *put(FILE *stream, const void *data, size_t bytes, const char *path)
{
    return bytes && fwrite(data, 1, bytes, stream) != bytes ? err_errno("write %s", path) : NULL;
}

/* Where the bytes come from: the views themselves when fill is NULL. */
typedef struct {
    TensorFill fill;
    void *context;
    unsigned char *piece; /* [PIECE_BYTES] */
} Source;

static Err *put_tensor(FILE *stream, const TensorView *view, const Source *source, const char *path)
{
    if (!source->fill) return put(stream, view->data, view->bytes, path);
    for (size_t at = 0; at < view->bytes; at += PIECE_BYTES) {
        size_t n = view->bytes - at < PIECE_BYTES ? view->bytes - at : PIECE_BYTES;
        TRY(source->fill(source->context, view, at, n, source->piece));
        TRY(put(stream, source->piece, n, path));
    }
    return NULL;
}

static Err *put_all(FILE *stream, const char *text, const TensorView *tensors, size_t n_tensors, const Source *source,
                    const char *path)
{
    size_t bytes = strlen(text), padding = (8 - bytes % 8) % 8;
    unsigned char prefix[PREFIX_BYTES];
    for (int i = 0; i < PREFIX_BYTES; i++) prefix[i] = (unsigned char)((uint64_t)(bytes + padding) >> (8 * i));
    TRY(put(stream, prefix, sizeof prefix, path));
    TRY(put(stream, text, bytes, path));
    TRY(put(stream, "        ", padding, path));
    for (size_t i = 0; i < n_tensors; i++) TRY(put_tensor(stream, &tensors[i], source, path));
    return NULL;
}

static Err *write_file(const char *path, const TensorView *tensors, size_t n_tensors, const Source *source)
{
    char draft[PATH_BYTES], *text = NULL;
    for (size_t i = 0; i < n_tensors; i++) TRY(err_wrap(check_written(&tensors[i]), "write %s", path));
    TRY(header_text(tensors, n_tensors, &text));
    FILE *stream;
    Err *err = file_draft_open(&stream, draft, path);
    if (!err) err = put_all(stream, text, tensors, n_tensors, source, draft);
    err = err_first(err, file_close(&stream, draft));
    free(text);
    if (!err) return file_replace(draft, path);
    unlink(draft);
    return err;
}

Err *safetensors_write(const char *path, const TensorView *tensors, size_t n_tensors)
{
    return write_file(path, tensors, n_tensors, &(Source){0});
}

Err *safetensors_write_filled(const char *path, const TensorView *tensors, size_t n_tensors, TensorFill fill,
                              void *context)
{
    Source source = {.fill = fill, .context = context};
    TRY(mem_new(&source.piece, PIECE_BYTES, 1));
    Err *err = write_file(path, tensors, n_tensors, &source);
    free(source.piece);
    return err;
}
