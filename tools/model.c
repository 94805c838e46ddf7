/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/model.h"

#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collectives/util.h"
#include "tools/library.h"

#ifndef KVFERRY_DATADIR
#define KVFERRY_DATADIR "/usr/share/kvferry"
#endif

struct fields {
    const char *path;
    const json_t *object;
    struct tool_error *error;
};

static bool get_text(const struct fields *f, const char *key, char *ret, size_t capacity)
{
    const json_t *value = json_object_get(f->object, key);
    const char *text = json_string_value(value);

    if (!value)
        return tool_fail(f->error, "%s: \"%s\" is missing", f->path, key);
    if (!text || text[0] == '\0' || json_string_length(value) >= capacity)
        return tool_fail(f->error, "%s: \"%s\" is not a text of 1 .. %zu bytes", f->path, key,
                         capacity - 1);
    memcpy(ret, text, strlen(text) + 1);
    return true;
}

static bool get_count(const struct fields *f, const char *key, uint32_t max, uint32_t *ret)
{
    const json_t *value = json_object_get(f->object, key);
    json_int_t number = json_integer_value(value);

    if (!value)
        return tool_fail(f->error, "%s: \"%s\" is missing", f->path, key);
    if (!json_is_integer(value))
        return tool_fail(f->error, "%s: \"%s\" is not a whole number", f->path, key);
    if (number < 1 || number > (json_int_t)max)
        return tool_fail(f->error,
                         "%s: \"%s\" is %" JSON_INTEGER_FORMAT ", not within 1 .. %" PRIu32,
                         f->path, key, number, max);
    *ret = (uint32_t)number;
    return true;
}

/* Keys of the other kind of attention, or mistyped, must not pass unnoticed. */
static bool check_keys(const struct fields *f, bool is_mla)
{
    static const char *const common[] = {"name",          "source",        "layers",
                                         "attention",     "format",        "element_bytes",
                                         "window_tokens", "window_pattern"};
    static const char *const gqa[] = {"kv_heads", "head_dim"};
    static const char *const mla[] = {"latent_dim", "rope_dim"};
    const char *const *own = is_mla ? mla : gqa;
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)f->object, key, value)
    {
        bool known = strcmp(key, own[0]) == 0 || strcmp(key, own[1]) == 0;

        for (size_t i = 0; i < KVFI_ARRAY_LEN(common); i++)
            known = known || strcmp(key, common[i]) == 0;
        if (!known)
            return tool_fail(f->error, "%s: \"%s\" is not a field of attention \"%s\"", f->path,
                             key, is_mla ? "mla" : "gqa");
    }
    return true;
}

static bool read_rows(const struct fields *f, struct model *m)
{
    char attention[8];
    uint32_t dim = 0;
    uint32_t rope_dim = 0;

    if (!get_text(f, "attention", attention, sizeof(attention)))
        return false;
    m->is_mla = strcmp(attention, "mla") == 0;
    if (!m->is_mla && strcmp(attention, "gqa") != 0)
        return tool_fail(f->error, "%s: \"attention\" is \"%s\", neither \"gqa\" nor \"mla\"",
                         f->path, attention);
    if (!check_keys(f, m->is_mla) || !get_count(f, "element_bytes", 16, &m->element_bytes))
        return false;
    if (m->is_mla) {
        m->n_heads = 1;
        m->n_kv = 1;
        if (!get_count(f, "latent_dim", 1u << 20, &dim) ||
            !get_count(f, "rope_dim", 1u << 20, &rope_dim))
            return false;
    } else {
        m->n_kv = 2;
        if (!get_count(f, "kv_heads", 4096, &m->n_heads) ||
            !get_count(f, "head_dim", 1u << 20, &dim))
            return false;
    }
    m->row_bytes = (uint64_t)(dim + rope_dim) * m->element_bytes;
    return true;
}

/* Which layers have the sliding window: a group of their own, or all layers one group. */
static bool read_window(const struct fields *f, struct model *m)
{
    const json_t *pattern = json_object_get(f->object, "window_pattern");
    size_t n = json_array_size(pattern);
    bool any_full = false;

    m->n_groups = 1;
    if (!json_object_get(f->object, "window_tokens")) {
        if (pattern)
            return tool_fail(f->error, "%s: \"window_pattern\" without \"window_tokens\"", f->path);
        return true;
    }
    if (!get_count(f, "window_tokens", 1u << 30, &m->window_tokens))
        return false;
    if (!json_is_array(pattern) || n < 1 || n > m->n_layers)
        return tool_fail(f->error,
                         "%s: \"window_pattern\" is not a list of 1 .. %" PRIu32 " values", f->path,
                         m->n_layers);
    for (size_t i = 0; i < n; i++) {
        if (!json_is_boolean(json_array_get(pattern, i)))
            return tool_fail(f->error, "%s: \"window_pattern\"[%zu] is neither true nor false",
                             f->path, i);
        any_full = any_full || json_is_false(json_array_get(pattern, i));
    }
    if (any_full)
        m->n_groups = 2;
    m->group_window_tokens[m->n_groups - 1] = m->window_tokens;
    for (uint32_t l = 0; any_full && l < m->n_layers; l++)
        m->group_of_layer[l] = json_is_true(json_array_get(pattern, l % n)) ? 1 : 0;
    return true;
}

static bool read_model(const struct fields *f, struct model *m)
{
    if (!json_is_object(f->object))
        return tool_fail(f->error, "%s: not a JSON object", f->path);
    return get_text(f, "name", m->name, sizeof(m->name)) &&
           get_text(f, "source", m->source, sizeof(m->source)) &&
           get_text(f, "format", m->format, sizeof(m->format)) &&
           get_count(f, "layers", MODEL_LAYERS_MAX, &m->n_layers) && read_rows(f, m) &&
           read_window(f, m);
}

static bool load_path(const char *path, struct tool_error *error, struct model *ret_model)
{
    struct model model = {0};
    json_error_t why;
    json_t *object = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    struct fields f = {.path = path, .object = object, .error = error};
    bool ok;

    if (!object && why.line < 0)
        return tool_fail(error, "%s", why.text);
    if (!object)
        return tool_fail(error, "%s:%d: not JSON: %s", path, why.line, why.text);
    ok = read_model(&f, &model);
    json_decref(object);
    if (ok)
        *ret_model = model;
    return ok;
}

/* Folder number i that models may be in; false after the last. */
static bool model_folder(unsigned i, char *path, size_t capacity)
{
    char own[PATH_MAX];

    if (i > 2)
        return false;
    library_own_folder(own, sizeof(own));
    if (i == 0)
        (void)snprintf(path, capacity, "%.3000s/models", own);
    else if (i == 1)
        (void)snprintf(path, capacity, "%.3000s/../share/kvferry/models", own);
    else
        (void)snprintf(path, capacity, "%s/models", KVFERRY_DATADIR);
    return true;
}

/* Appends " name" for every model in a folder. */
static void list_folder(const char *folder, char *names, size_t capacity)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;

    if (!dir)
        return;
    while ((entry = readdir(dir))) {
        const char *dot = strrchr(entry->d_name, '.');
        size_t used = strlen(names);

        if (dot && strcmp(dot, ".json") == 0)
            (void)snprintf(names + used, capacity - used, " %.*s", (int)(dot - entry->d_name),
                           entry->d_name);
    }
    (void)closedir(dir);
}

bool model_load(const char *name, struct tool_error *error, struct model *ret_model)
{
    const char *dot = strrchr(name, '.');
    char folder[PATH_MAX];
    char path[PATH_MAX + 128];
    char names[256] = "";

    if (strchr(name, '/') || (dot && strcmp(dot, ".json") == 0))
        return load_path(name, error, ret_model);
    for (unsigned i = 0; model_folder(i, folder, sizeof(folder)); i++) {
        (void)snprintf(path, sizeof(path), "%s/%.100s.json", folder, name);
        if (access(path, R_OK) == 0)
            return load_path(path, error, ret_model);
        if (names[0] == '\0')
            list_folder(folder, names, sizeof(names));
    }
    return tool_fail(error, "model \"%s\" is unknown; known:%s, or the path of a .json file", name,
                     names[0] ? names : " none");
}

bool model_cut(struct model *model, uint32_t n_layers, struct tool_error *error)
{
    if (n_layers < 1 || n_layers > model->n_layers)
        return tool_fail(error,
                         "%" PRIu32 " layers of model \"%s\" were asked for, it has %" PRIu32,
                         n_layers, model->name, model->n_layers);
    model->n_layers = n_layers;
    return true;
}

uint64_t model_group_token_bytes(const struct model *model, uint32_t group)
{
    uint64_t n_layers = 0;

    for (uint32_t l = 0; l < model->n_layers; l++)
        n_layers += model->group_of_layer[l] == group;
    return n_layers * model->n_kv * model->n_heads * model->row_bytes;
}
